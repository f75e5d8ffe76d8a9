//! `strongroom key`.

use super::connect::Common;
use super::init::KdfChoice;
use super::output::{self, Failure};
use crate::config::{PassphraseSource, VolumeUrl};
use crate::crypto::{Kdf, NewSlot};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;

/// Add, remove and list passphrases.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom key add s3://backups/prod --passphrase-file old --new-passphrase-file new
  strongroom key list s3://backups/prod
  strongroom key remove s3://backups/prod 1
  strongroom key rotate s3://backups/prod")]
pub(super) struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Add a passphrase; all of them open the same volume
    Add {
        /// The volume
        url: VolumeUrl,
        /// File with the new passphrase (else it is asked for)
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// Its name, for `key list`
        #[arg(long, default_value = "added")]
        label: String,
        /// How the passphrase becomes a key
        #[arg(long, default_value = "argon2id")]
        kdf: KdfChoice,
    },
    /// Remove a passphrase. It does not take the keys away from who has read them with it
    Remove {
        /// The volume
        url: VolumeUrl,
        /// The number that `key list` shows
        slot: u32,
    },
    /// List the passphrases' slots
    List {
        /// The volume
        url: VolumeUrl,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a master key: what is written from now on is sealed under it
    Rotate {
        /// The volume
        url: VolumeUrl,
    },
}

impl Key {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let source = common.passphrase(&common.file()?);
        match &self.command {
            KeyCommand::Add { url, new_passphrase_file, label, kdf } => {
                let (volume, _) = common.open_to_write(url).await?;
                let old = source.read()?;
                let new = match new_passphrase_file {
                    Some(path) => {
                        PassphraseSource { flag: Some(path.clone()), config: None }.read()?
                    }
                    None => PassphraseSource::prompt_for_new()?,
                };
                let slot = NewSlot { label, passphrase: &new, kdf: kdf.kdf() };
                let id = volume.add_passphrase(&old, &slot).await?;
                output::line(format!("{url}: passphrase added as slot {id}"))
            }
            KeyCommand::Remove { url, slot } => {
                let (volume, _) = common.open_to_write(url).await?;
                volume.remove_passphrase(&source.read()?, *slot).await?;
                output::line(format!(
                    "{url}: slot {slot} removed; who has opened the volume with it may still know its \
                     keys: rotate them for what is written from now on"
                ))
            }
            KeyCommand::List { url, json } => {
                let (volume, _) = common.open_to_read(url).await?;
                let slots = volume.descriptor().keyring.slots();
                if *json {
                    let rows = slots.map(|slot| {
                        json!({"slot": slot.id, "label": slot.label, "kdf": kdf_name(slot.kdf)})
                    });
                    return output::json(&rows.collect());
                }
                for slot in slots {
                    output::line(format!(
                        "{:>4}  {}  {}",
                        slot.id,
                        kdf_name(slot.kdf),
                        slot.label
                    ))?;
                }
                Ok(())
            }
            KeyCommand::Rotate { url } => {
                let (volume, _) = common.open_to_write(url).await?;
                let number = volume.rotate_master(&source.read()?).await?;
                output::line(format!(
                    "{url}: master key {number} added; mounts take it at their next start"
                ))
            }
        }
    }
}

fn kdf_name(kdf: Kdf) -> String {
    match kdf {
        Kdf::Argon2id { memory_kib, passes, lanes } => {
            format!("argon2id ({} MiB, {passes} passes, {lanes} lanes)", memory_kib / 1024)
        }
        Kdf::Pbkdf2HmacSha256 { iterations } => format!("pbkdf2 ({iterations} iterations)"),
        Kdf::Raw => "raw".to_owned(),
    }
}
