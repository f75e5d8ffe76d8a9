//! `strongroom key`.

use super::init::KdfChoice;
use super::output::{self, Failure};
use super::settings::Common;
use crate::config::{PassphraseSource, VolumeUrl};
use crate::crypto::{Kdf, NewSlot};
use crate::volume::native::Volume;
use crate::volume::native::rewrap::{RewrapReport, RewrapSettings};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Add, remove and list passphrases; change the keys under them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom key add s3://backups/prod --passphrase-file old --new-passphrase-file new
  strongroom key list s3://backups/prod
  strongroom key remove s3://backups/prod 1
  strongroom key rotate s3://backups/prod     then, when the old key may be known:
  strongroom key rewrap s3://backups/prod --data")]
pub(super) struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Add a passphrase; all of them open the same volume
    #[command(after_help = "Example:
  strongroom key add s3://backups/prod --passphrase-file old --new-passphrase-file new --label 2026")]
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
    #[command(
        after_help = "Example:\n  strongroom key remove s3://backups/prod 1 --passphrase-file new"
    )]
    Remove {
        /// The volume
        url: VolumeUrl,
        /// The number that `key list` shows
        slot: u32,
    },
    /// List the passphrases' slots
    #[command(
        after_help = "Example:\n  strongroom key list s3://backups/prod --json | jq -r '.[].label'"
    )]
    List {
        /// The volume
        url: VolumeUrl,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a master key: what is written from now on is sealed under it
    #[command(
        after_help = "Example:\n  strongroom key rotate s3://backups/prod --passphrase-file key"
    )]
    Rotate {
        /// The volume
        url: VolumeUrl,
    },
    /// Seal what is there anew, under the newest master key. Cut short, it is just repeated
    #[command(after_help = "Examples:
  strongroom key rewrap s3://backups/prod           names and attributes
  strongroom key rewrap s3://backups/prod --data    and everything else")]
    Rewrap {
        /// The volume
        url: VolumeUrl,
        /// The data of files too: everything is read and stored once more. Files that are open
        /// elsewhere are left
        #[arg(long)]
        data: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Key {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let (KeyCommand::Add { url, .. }
        | KeyCommand::Remove { url, .. }
        | KeyCommand::List { url, .. }
        | KeyCommand::Rotate { url }
        | KeyCommand::Rewrap { url, .. }) = &self.command;
        let own = common.at(url)?;
        let source = own.passphrase(&own.file()?);
        match &self.command {
            KeyCommand::Add { url, new_passphrase_file, label, kdf } => {
                let (volume, _) = common.open_to_write(url).await?;
                let old = source.read()?;
                let new = match new_passphrase_file {
                    Some(path) => {
                        PassphraseSource { flag: Some(path.clone()), ..PassphraseSource::default() }
                            .read()?
                    }
                    None => PassphraseSource::prompt_for_new()?,
                };
                let slot = NewSlot { label, passphrase: &new, kdf: kdf.kdf() };
                let id = volume.add_passphrase(&old, &slot).await?;
                output::line(format!("{url}: passphrase added as slot {id}"))
            }
            KeyCommand::Remove { url, slot } => {
                let (volume, _) = common.open_to_write(url).await?;
                volume.remove_passphrase(&*source.read()?, *slot).await?;
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
                let number = volume.rotate_master(&*source.read()?).await?;
                output::line(format!(
                    "{url}: master key {number} added; running mounts take it within a minute"
                ))
            }
            KeyCommand::Rewrap { url, data, json } => {
                let (volume, _) = common.open_to_write(url).await?;
                rewrap(&volume, url, *data, *json).await
            }
        }
    }
}

async fn rewrap(
    volume: &Arc<Volume>,
    url: &VolumeUrl,
    data: bool,
    json: bool,
) -> Result<(), Failure> {
    let records = AtomicU64::new(0);
    let bar = output::progress(None, "sealed anew");
    let progress = |more: u64, bytes: u64| {
        let count = records.fetch_add(more, Ordering::Relaxed) + more;
        bar.set_message(format!("{count} records"));
        bar.inc(bytes);
    };
    let report = volume.rewrap(RewrapSettings { data }, &progress).await;
    bar.finish_and_clear();
    let ended = volume.session().end(volume).await;
    let RewrapReport { records, resealed, files, bytes, left } = report?;
    ended?;
    let number = volume.keyring().current_master();
    if json {
        let left: Vec<_> =
            left.iter().map(|(key, why)| json!({"object": key, "why": why})).collect();
        output::json(&json!({
            "master": number.0, "records": records, "resealed": resealed, "files": files,
            "bytes": bytes, "left": left,
        }))?;
    } else {
        for (key, why) in &left {
            output::line(format!("left: {key}: {why}"))?;
        }
        output::line(format!(
            "{url}: {resealed} of {records} records sealed anew under master key {number}, {bytes} bytes \
             of data in {files} files"
        ))?;
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{url}: {} left as they are: repeat the command later", left.len())))
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
