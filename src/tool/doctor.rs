//! `strongroom doctor`: what is wrong between here and a volume, in a line each.

use super::connect::{Common, holds_volume};
use super::output::{self, Failure};
use crate::config::{self, VolumeUrl};
use crate::store::{ListRequest, probe};
use crate::volume::native::{OpenSettings, Volume, keys};
use clap::Args;
use std::fmt::Display;

/// The clocks may differ by this much before it is worth a word; S3 refuses 15 minutes.
const SKEW_SECONDS: i64 = 60;

/// Check endpoint, TLS, credentials, bucket, conditional writes, clock and passphrase.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strongroom doctor s3://backups/prod --passphrase-file key")]
pub(super) struct Doctor {
    /// The volume, or where one shall be
    url: VolumeUrl,
}

/// One line of the report.
fn report(ok: bool, what: &str, finding: impl Display) -> Result<bool, Failure> {
    output::line(format!("{} {what}: {finding}", if ok { "ok  " } else { "FAIL" }))?;
    Ok(ok)
}

impl Doctor {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let mut healthy = true;
        let store = match common.store_at(&self.url).await {
            Ok(store) => store,
            Err(error) => {
                report(false, "settings", &error)?;
                return Err(self.unhealthy());
            }
        };
        // One request tells of endpoint, TLS, credentials and bucket; the error says which.
        let request = ListRequest { limit: 1, ..ListRequest::default() };
        let page = match store.list(&request).await {
            Ok(page) => page,
            Err(error) => {
                report(false, "reach and read the store", error)?;
                return Err(self.unhealthy());
            }
        };
        report(true, "reach and read the store", store.describe())?;
        let skew = (config::system_world().clock.now().0 - page.date.0) / 1_000_000_000;
        let fine = page.date.0 == 0 || skew.abs() <= SKEW_SECONDS;
        healthy &= report(
            fine,
            "clock",
            match (page.date.0, fine) {
                (0, _) => "the store does not tell its time".to_owned(),
                (_, true) => format!("differs from the store's by {skew} s"),
                (_, false) => {
                    format!("differs from the store's by {skew} s: set this machine's clock")
                }
            },
        )?;
        let nonce = data_encoding::HEXLOWER.encode(&config::system_world().entropy.bytes::<8>());
        match probe(&*store, &format!("p/{nonce}")).await {
            Ok(found) => {
                report(true, "write and delete", "allowed")?;
                let both = found.if_absent && found.if_match;
                healthy &= report(
                    both,
                    "conditional writes",
                    if both {
                        "honoured: any number of nodes may write".to_owned()
                    } else {
                        "ignored by this store: use one writer per file".to_owned()
                    },
                )?;
                let deletes = if found.delete_if_match {
                    "honoured"
                } else {
                    "ignored: names are buried instead"
                };
                report(true, "conditional deletes", deletes)?;
            }
            Err(error) => healthy &= report(false, "write and delete", error)?,
        }
        if !holds_volume(&store).await? {
            report(true, "volume", "none here yet: `strongroom init` makes one")?;
        } else {
            healthy &= self.check_volume(common).await?;
        }
        if healthy { Ok(()) } else { Err(self.unhealthy()) }
    }

    async fn check_volume(&self, common: &Common) -> Result<bool, Failure> {
        let settings = OpenSettings {
            read_only: true,
            cache_bytes: 0,
            host: config::host_name(),
            program: "strongroom doctor".to_owned(),
        };
        let volume: std::sync::Arc<Volume> = match common.open(&self.url, settings).await {
            Ok((volume, _)) => volume,
            Err(error) => return report(false, "passphrase and descriptor", &error),
        };
        report(true, "passphrase and descriptor", format!("encryption {}", volume.suite()))?;
        match volume.list_directory(volume.root_directory()).await {
            Ok(names) => report(true, "root directory", format!("{} names", names.len())),
            Err(error) => report(false, keys::DESCRIPTOR, error),
        }
    }

    fn unhealthy(&self) -> Failure {
        Failure::new(format!("{}: something is wrong, see above", self.url))
    }
}
