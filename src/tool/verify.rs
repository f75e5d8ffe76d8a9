//! `strongroom verify`.

use super::connect::Common;
use super::output::{self, Failure, shown};
use crate::config::VolumeUrl;
use crate::volume::native::verify::{Depth, Report};
use clap::Args;
use serde_json::json;

/// Check that everything the volume names is there, whole and authentic.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom verify s3://backups/prod            every byte is read and authenticated
  strongroom verify s3://backups/prod --quick    records, and that all segments are there")]
pub(super) struct Verify {
    /// The volume
    url: VolumeUrl,
    /// Do not read the segments, only that they are there with the right size
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let (volume, inside) = common.open_to_read(&self.url).await?;
        if !inside.is_empty() {
            return Err(Failure::new(format!("{}: name the volume itself", self.url)));
        }
        let depth = if self.quick { Depth::Presence } else { Depth::Content };
        let bar = output::progress(None, "verified");
        let report = volume.verify(depth, &|bytes| bar.inc(bytes)).await;
        bar.finish_and_clear();
        let Report { directories, files, others, bytes, damage } = report?;
        if self.json {
            let damage: Vec<_> = damage
                .iter()
                .map(|(path, why)| json!({"path": String::from_utf8_lossy(path), "error": why}))
                .collect();
            output::json(&json!({
                "directories": directories, "files": files, "others": others, "bytes": bytes,
                "damage": damage,
            }))?;
        } else {
            for (path, why) in &damage {
                output::line(format!("{}: {why}", shown(path)))?;
            }
            output::line(format!(
                "{files} files, {directories} directories, {others} others, {bytes} bytes: {}",
                if damage.is_empty() {
                    "all whole".to_owned()
                } else {
                    format!("{} damaged", damage.len())
                }
            ))?;
        }
        if damage.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{}: {} damaged: restore them from another copy",
            self.url,
            damage.len()
        )))
    }
}
