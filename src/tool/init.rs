//! `strongroom init`.

use super::connect::{holds_volume, own_attributes};
use super::output::{self, Failure};
use super::settings::Common;
use crate::config::{self, StoreBase, VolumeUrl};
use crate::crypto::{Kdf, NewSlot, Suite};
use crate::volume::native::{InitSettings, Volume, keys};
use clap::{Args, ValueEnum};

/// How a passphrase becomes a key.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KdfChoice {
    /// Argon2id, 64 MiB, 3 passes: slow to guess
    Argon2id,
    /// PBKDF2-HMAC-SHA256, 600,000 iterations: where a policy names it
    Pbkdf2,
    /// None: only for secrets of at least 32 random bytes
    Raw,
}

impl KdfChoice {
    pub(super) fn kdf(self) -> Kdf {
        match self {
            Self::Argon2id => Kdf::default(),
            Self::Pbkdf2 => Kdf::Pbkdf2HmacSha256 { iterations: 600_000 },
            Self::Raw => Kdf::Raw,
        }
    }
}

/// Make a volume of an empty bucket prefix or directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom init s3://backups/prod --passphrase-file key
  strongroom init file:///srv/backups --encryption AES-256-CFB
  strongroom init file:///srv/plain --encryption none")]
pub(super) struct Init {
    /// Where: s3://bucket/prefix or file:///directory
    url: VolumeUrl,
    /// AES-256-GCM, AES-256-CFB, AES-192-CFB, AES-128-CFB or none
    #[arg(long, value_name = "SUITE", default_value = "AES-256-GCM")]
    encryption: Suite,
    /// How the passphrase becomes a key
    #[arg(long, default_value = "argon2id")]
    kdf: KdfChoice,
    /// Name of the first passphrase, for `strongroom key list`
    #[arg(long, default_value = "first")]
    label: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let Self { url, encryption, kdf, label, json } = self;
        if url.path.len() > keys::PREFIX_LIMIT && matches!(url.base, StoreBase::S3(_)) {
            return Err(Failure::new(format!(
                "{url}: the prefix is longer than {} bytes, so that keys could exceed the limit of S3",
                keys::PREFIX_LIMIT
            )));
        }
        if let Ok(outer) = common.locate(url).await
            && !outer.inside.is_empty()
        {
            return Err(Failure::new(format!(
                "{url}: lies inside the volume at {}; choose a place outside",
                outer.store.describe()
            )));
        }
        let store = common.store_for_init(url).await?;
        if holds_volume(&store).await? {
            return Err(Failure::new(format!("{url}: holds a volume already")));
        }
        let passphrase = match encryption {
            Suite::None => None,
            _ => {
                let own = common.at(url)?;
                Some(own.passphrase(&own.file()?).read_new()?)
            }
        };
        let slot =
            passphrase.as_ref().map(|passphrase| NewSlot { label, passphrase, kdf: kdf.kdf() });
        let world = config::system_world();
        let now = world.clock.now();
        let root = own_attributes(0o755, now);
        Volume::init(&store, &world, InitSettings { suite: *encryption, slot, root }).await?;
        if *json {
            return output::json(&serde_json::json!({
                "url": url.to_string(), "encryption": encryption.to_string(),
            }));
        }
        output::line(format!("{url}: volume initialised, encryption {encryption}"))
    }
}
