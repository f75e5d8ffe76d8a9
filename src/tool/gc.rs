//! `strongroom gc`.

use super::output::{self, Failure};
use super::settings::Common;
use crate::config::{self, VolumeUrl};
use crate::volume::native::gc::{Amount, Done, Found, GcSettings};
use crate::volume::native::namespace::GRACE;
use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

/// Delete what nothing refers to any more.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom gc s3://backups/prod --dry-run    what would be deleted
  strongroom gc s3://backups/prod              from cron, every few hours

A run deletes what an earlier one, at least the grace period ago, has found to be garbage too.
Mounts collect garbage by themselves unless they are told not to (--no-gc).")]
pub(super) struct Gc {
    /// The volume
    url: VolumeUrl,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// What must lie between two looks at a thing before it is deleted (1h)
    #[arg(long, value_name = "DURATION", value_parser = config::parse_duration)]
    grace: Option<Duration>,
    /// Nothing else uses the volume until this is over, on any machine: allows a grace period under an hour
    #[arg(long)]
    alone: bool,
    /// Start anew without what earlier runs have noted, after objects were removed by other means
    #[arg(long)]
    forget: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let grace = self.grace.unwrap_or(GRACE);
        if grace < GRACE && !self.alone {
            return Err(Failure::new(format!(
                "--grace {}: under an hour it endangers what other mounts write: add --alone if the volume \
                 is used by nobody else, on any machine, until this is over",
                humantime::format_duration(grace)
            )));
        }
        let opened = if self.dry_run {
            common.open_to_read(&self.url).await?
        } else {
            common.open_to_collect(&self.url).await?
        };
        let (volume, inside) = opened;
        if !inside.is_empty() {
            return Err(Failure::new(format!("{}: name the volume itself", self.url)));
        }
        let settings = GcSettings {
            grace,
            alone: self.alone,
            dry_run: self.dry_run,
            forget: self.forget,
            host: config::host_name(),
            ..GcSettings::default()
        };
        let bar = output::count("objects looked at");
        let plan = volume.plan_collection(&settings, &|objects| bar.inc(objects)).await;
        bar.finish_and_clear();
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                let _ = volume.session().end(&volume).await;
                return Err(error.into());
            }
        };
        let found = plan.found.clone();
        if !self.json {
            show_found(&found, self.dry_run)?;
        }
        let bar = output::count("objects deleted");
        let done = plan.execute(&volume, &settings, &|objects| bar.inc(objects)).await;
        bar.finish_and_clear();
        if !self.dry_run {
            volume.session().end(&volume).await?;
        }
        let done = done?;
        match (self.json, self.dry_run) {
            (true, _) => output::json(&as_json(&found, &done, self.dry_run))?,
            (false, true) => {}
            (false, false) => show_done(&done)?,
        }
        if done.failed > 0 {
            return Err(Failure::new(format!(
                "{}: {} deletions failed; the next run tries again",
                self.url, done.failed
            )));
        }
        Ok(())
    }
}

fn show_found(found: &Found, dry_run: bool) -> Result<(), Failure> {
    output::line(format!(
        "{} names ({} removed), {} directories, {} in {} segments, {} sessions",
        found.names,
        found.buried,
        found.directories,
        size(found.segments),
        found.segments.count,
        found.sessions,
    ))?;
    let would = if dry_run { "would delete" } else { "to delete" };
    output::line(format!(
        "{would}: {} in {} segments, {} names removed long ago",
        size(found.garbage),
        found.garbage.count,
        found.old_names,
    ))?;
    let rows = [
        (found.waiting.count, format!("segments ({}) wait for a second look", size(found.waiting))),
        (found.silent, "sessions have been silent for long and are declared dead".to_owned()),
        (found.repairs, "records to mend".to_owned()),
        (found.lost, "things without a way to the root, for lost+found".to_owned()),
        (found.unlisted, "records are there although the store does not list them".to_owned()),
    ];
    for (count, what) in rows {
        if count > 0 {
            output::line(format!("{count} {what}"))?;
        }
    }
    Ok(())
}

fn show_done(done: &Done) -> Result<(), Failure> {
    output::line(format!(
        "deleted {} in {} segments and {} names; mended {}",
        size(done.segments),
        done.segments.count,
        done.names,
        done.mended
    ))
}

fn as_json(found: &Found, done: &Done, dry_run: bool) -> Value {
    let amount = |amount: Amount| json!({"count": amount.count, "bytes": amount.bytes});
    let plan = json!({
        "names": found.names, "removed_names": found.buried, "directories": found.directories,
        "segments": amount(found.segments), "sessions": found.sessions,
        "silent_sessions": found.silent, "records_read": found.reread, "unlisted": found.unlisted,
        "garbage": amount(found.garbage), "waiting": amount(found.waiting),
        "old_names": found.old_names, "repairs": found.repairs, "lost": found.lost,
    });
    if dry_run {
        return json!({"dry_run": true, "found": plan});
    }
    json!({
        "dry_run": false,
        "found": plan,
        "done": {
            "segments": amount(done.segments), "names": done.names, "mended": done.mended,
            "lost_and_found": done.found, "debris": done.debris, "failed": done.failed,
        },
    })
}

fn size(amount: Amount) -> String {
    ByteSize::b(amount.bytes).to_string()
}
