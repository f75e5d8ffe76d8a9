//! `strongroom doctor`: what is wrong between here and a volume, in a line each, with what to do.

use super::connect::holds_volume;
use super::output::{self, Failure};
use super::settings::Common;
use crate::config::{self, StoreBase, VolumeUrl};
use crate::crypto::Suite;
use crate::store::{ListRequest, NO_CREDENTIALS, Store, StoreError, StoreErrorKind, probe};
use crate::volume::native::{OpenSettings, Volume};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// The clocks may differ by this much before it is worth a word; S3 refuses 15 minutes.
const SKEW_SECONDS: i64 = 60;
/// How long each question waits for an answer, unless the settings say otherwise.
const PATIENCE: Duration = Duration::from_secs(3);

/// Check endpoint, TLS, credentials, bucket, conditional writes, clock and passphrase.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  strongroom doctor s3://backups/prod --passphrase-file key
Exit code: 0 if all is well, 1 if something is wrong. It changes nothing but a scratch object, which it
removes again.")]
pub(super) struct Doctor {
    /// The volume, or where one shall be
    url: VolumeUrl,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Works, with a restriction that is worth knowing.
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    status: Status,
    finding: String,
}

/// The lines of a report; printed at once, unless JSON is asked for.
struct Checks {
    rows: Vec<Check>,
    json: bool,
}

impl Checks {
    fn note(
        &mut self,
        status: Status,
        check: &'static str,
        finding: impl Display,
    ) -> Result<(), Failure> {
        // One line: causes of causes may have brought more.
        let finding = finding.to_string().split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        if !self.json {
            let word = match status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            output::line(format!("{word}  {check}: {finding}"))?;
        }
        self.rows.push(Check { check, status, finding });
        Ok(())
    }

    fn ok(&mut self, check: &'static str, finding: impl Display) -> Result<(), Failure> {
        self.note(Status::Ok, check, finding)
    }

    fn fail(&mut self, check: &'static str, finding: impl Display) -> Result<(), Failure> {
        self.note(Status::Fail, check, finding)
    }
}

impl Doctor {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let mut checks = Checks { rows: Vec::new(), json: self.json };
        let mut common = common.clone();
        let patience = common.io_timeout.or(common.file()?.io_timeout);
        common.io_timeout = Some(patience.unwrap_or(PATIENCE));
        self.examine(&common, &mut checks).await?;
        let failed: Vec<&str> = checks
            .rows
            .iter()
            .filter(|row| row.status == Status::Fail)
            .map(|row| row.check)
            .collect();
        if self.json {
            output::json(&json!({
                "url": self.url.to_string(), "healthy": failed.is_empty(), "checks": checks.rows,
            }))?;
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{}: see above what is wrong with: {}",
            self.url,
            failed.join(", ")
        )))
    }

    /// Each check needs what those before it found; the first one that makes the rest pointless is the
    /// last.
    async fn examine(&self, common: &Common, checks: &mut Checks) -> Result<(), Failure> {
        let store = match &self.url.base {
            StoreBase::S3(bucket) => common.at(&self.url)?.bucket(bucket).await,
            StoreBase::File => common.store_at(&self.url).await,
        };
        let store = match store {
            Ok(store) => store,
            Err(error) => return checks.fail("settings", error),
        };
        // One request tells of all that lies between; its error says how far it came. It names the prefix:
        // a policy may allow no more.
        let place = store.describe();
        let prefix = match self.url.base {
            StoreBase::S3(_) => self.url.path.clone(),
            StoreBase::File => String::new(),
        };
        let request = ListRequest { prefix, limit: 1, ..ListRequest::default() };
        let page = match store.list(&request).await {
            Ok(page) => page,
            Err(error) => return self.how_far(checks, &place, &error),
        };
        self.reached(checks, &place, 4)?;
        let skew = (config::system_world().clock.now().0 - page.date.0) / 1_000_000_000;
        match page.date.0 {
            0 => checks.ok("clock", "the store does not tell its time")?,
            _ if skew.abs() <= SKEW_SECONDS => {
                checks.ok("clock", format!("differs from the store's by {skew} s"))?;
            }
            _ => checks.fail(
                "clock",
                format!(
                    "differs from the store's by {skew} s: set this machine's clock (or the server's)"
                ),
            )?,
        }
        let store = match common.store_at(&self.url).await {
            Ok(store) => store,
            Err(error) => return checks.fail("volume", error),
        };
        self.check_writes(checks, &*store).await?;
        match holds_volume(&store).await {
            Ok(true) => self.check_volume(common, checks).await,
            Ok(false) => checks.note(
                Status::Warn,
                "volume",
                "none here yet: `strongroom init` makes one, or correct the path in the URL",
            ),
            Err(error) => checks.fail("volume", error),
        }
    }

    /// The first `steps` of endpoint, TLS, credentials and bucket are fine.
    fn reached(&self, checks: &mut Checks, place: &str, steps: usize) -> Result<(), Failure> {
        let StoreBase::S3(bucket) = &self.url.base else {
            return checks.ok("directory", place);
        };
        let endpoint = place.split_once(" at ").map_or("Amazon's", |(_, endpoint)| endpoint);
        let plain = endpoint.starts_with("http://");
        if steps > 0 {
            checks.ok("endpoint", format!("{endpoint} answers"))?;
        }
        match (steps > 1, plain) {
            (false, _) => {}
            (true, false) => checks.ok("TLS", "the server's certificate is trusted")?,
            (true, true) => checks.note(
                Status::Warn,
                "TLS",
                "none: contents and names are sealed all the same, but the network sees and can stop \
                 requests; write https:// if the server has it",
            )?,
        }
        if steps > 2 {
            checks.ok("credentials", "accepted")?;
        }
        if steps > 3 {
            checks.ok("bucket", format!("{bucket} is there and can be listed"))?;
        }
        Ok(())
    }

    /// Says what an error of the first request means: how far it came, and what stopped it.
    fn how_far(&self, checks: &mut Checks, place: &str, error: &StoreError) -> Result<(), Failure> {
        use StoreErrorKind as Kind;
        if self.url.base == StoreBase::File {
            return checks.fail("directory", error);
        }
        let (steps, check) = match error.kind {
            Kind::Unreachable | Kind::Unavailable => (0, "endpoint"),
            Kind::Tls => (1, "TLS"),
            Kind::ClockSkew => (2, "clock"),
            // Without any, nothing was sent: of endpoint and TLS nothing is known.
            Kind::Denied if error.to_string().contains(NO_CREDENTIALS) => (0, "credentials"),
            Kind::Denied => (2, "credentials"),
            Kind::NoBucket | Kind::NotFound => (3, "bucket"),
            _ => (1, "store"),
        };
        self.reached(checks, place, steps)?;
        checks.fail(check, error)
    }

    async fn check_writes(&self, checks: &mut Checks, store: &dyn Store) -> Result<(), Failure> {
        let nonce = data_encoding::HEXLOWER.encode(&config::system_world().entropy.bytes::<8>());
        let found = match probe(store, &format!("p/{nonce}")).await {
            Ok(found) => found,
            Err(error) => {
                let hint = match error.kind {
                    StoreErrorKind::ReadOnly => ": such a volume can be read, by mount --read-only",
                    _ => "",
                };
                return checks.fail("write and delete", format!("{error}{hint}"));
            }
        };
        checks.ok("write and delete", "allowed")?;
        if found.if_absent && found.if_match {
            checks.ok("conditional writes", "honoured: any number of nodes may write")?;
        } else {
            checks.note(
                Status::Warn,
                "conditional writes",
                "ignored by this store: let one node at a time write, or use a store that honours them",
            )?;
        }
        let deletes =
            if found.delete_if_match { "honoured" } else { "ignored: names are buried instead" };
        checks.ok("conditional deletes", deletes)
    }

    async fn check_volume(&self, common: &Common, checks: &mut Checks) -> Result<(), Failure> {
        let settings = OpenSettings {
            read_only: true,
            cache_bytes: 0,
            host: config::host_name(),
            program: "strongroom doctor".to_owned(),
            collects: false,
        };
        let volume: Arc<Volume> = match common.open(&self.url, settings).await {
            Ok((volume, _)) => volume,
            Err(error) => {
                let text = error.to_string();
                let hint = if text.contains("wrong passphrase") {
                    ": check which file or variable it comes from; its bytes count as they are, but for \
                     one line end"
                } else {
                    ""
                };
                return checks.fail("passphrase", format!("{text}{hint}"));
            }
        };
        match volume.suite() {
            Suite::None => checks.note(
                Status::Warn,
                "passphrase",
                "none: this volume is not encrypted; only a new one can be",
            )?,
            suite => checks.ok("passphrase", format!("opens the volume, which is {suite}"))?,
        }
        match volume.list_directory(volume.root_directory()).await {
            Ok(names) => checks.ok("root directory", format!("{} names", names.len())),
            Err(error) => checks.fail("root directory", error),
        }
    }
}
