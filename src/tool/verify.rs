//! `strongroom verify`.

use super::output::{self, Failure, shown};
use super::settings::Common;
use crate::config::VolumeUrl;
use crate::volume::VolumeError;
use crate::volume::native::Volume;
use crate::volume::native::comparison::{Change, Comparison, Difference};
use crate::volume::native::manifest::{Line, Manifest, ManifestError, ManifestWriter};
use crate::volume::native::verify::{Depth, Report};
use clap::Args;
use serde_json::json;
use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Check that everything the volume names is there, whole and authentic.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom verify s3://backups/prod            every byte is read and authenticated
  strongroom verify s3://backups/prod --quick    records, and that all segments are there

A store that answers with older objects, or hides some, is found out by a list kept elsewhere:
  strongroom verify s3://backups/prod --manifest /safe/monday
  strongroom verify s3://backups/prod --quick --against /safe/monday --manifest /safe/tuesday
Only who can open the volume can make such a list. The names in it are readable. Exit code 1: something is
damaged, missing or older than the list has it. What was removed more than two hours ago counts as missing.")]
pub(super) struct Verify {
    /// The volume
    url: VolumeUrl,
    /// Do not read the segments, only that they are there with the right size
    #[arg(long)]
    quick: bool,
    /// Write an authenticated list of what is there
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Compare with such a list: what is missing, older, changed, added
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
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
        let mut comparison = match &self.against {
            Some(path) => Some(read(path, &volume)?),
            None => None,
        };
        let mut draft = match &self.manifest {
            Some(path) => Some(Draft::new(path, &volume)?),
            None => None,
        };
        let depth = if self.quick { Depth::Presence } else { Depth::Content };
        let bar = output::progress(None, "verified");
        let mut visit = |line: &Line| {
            if let Some(comparison) = &mut comparison {
                comparison.see(line);
            }
            match &mut draft {
                Some(draft) => draft.write(line),
                None => Ok(()),
            }
        };
        let report = volume.verify(depth, &|bytes| bar.inc(bytes), &mut visit).await;
        bar.finish_and_clear();
        let report = report?;
        let differences = match comparison {
            Some(comparison) => Some(comparison.finish(&volume).await?),
            None => None,
        };
        let lost = differences.iter().flatten().filter(|found| found.change.is_loss()).count();
        let sound = report.damage.is_empty() && lost == 0;
        if let Some(draft) = draft.filter(|_| sound) {
            draft.finish(&volume)?;
        }
        self.print(&report, differences.as_deref())?;
        if sound {
            return Ok(());
        }
        let mut wrong = Vec::new();
        if !report.damage.is_empty() {
            wrong.push(format!("{} damaged", report.damage.len()));
        }
        if lost > 0 {
            wrong.push(format!("{lost} missing or older than {}", self.against_shown()));
        }
        if let Some(path) = &self.manifest {
            wrong.push(format!("{} was not written", path.display()));
        }
        let wrong = wrong.join(", ");
        Err(Failure::new(format!("{}: {wrong}: restore them from another copy", self.url)))
    }

    fn print(&self, report: &Report, differences: Option<&[Difference]>) -> Result<(), Failure> {
        let Report { directories, files, others, bytes, damage } = report;
        if self.json {
            let damage: Vec<_> = damage
                .iter()
                .map(|(path, why)| json!({"path": String::from_utf8_lossy(path), "error": why}))
                .collect();
            let mut report = json!({
                "directories": directories, "files": files, "others": others, "bytes": bytes,
                "damage": damage,
            });
            if let Some(differences) = differences {
                report["differences"] = serde_json::to_value(differences)?;
            }
            return output::json(&report);
        }
        for (path, why) in damage {
            output::line(format!("{}: {why}", shown(path)))?;
        }
        for Difference { change, path, detail } in differences.into_iter().flatten() {
            let word = match change {
                Change::Missing => "missing",
                Change::RolledBack => "older",
                Change::Removed => "removed",
                Change::Changed => "changed",
                Change::Added => "added",
            };
            let colon = if detail.is_empty() { "" } else { ": " };
            output::line(format!("{word:<8} {path}{colon}{detail}"))?;
        }
        output::line(format!(
            "{files} files, {directories} directories, {others} others, {bytes} bytes: {}",
            match damage.len() {
                0 => "all whole".to_owned(),
                count => format!("{count} damaged"),
            }
        ))?;
        let Some(differences) = differences else { return Ok(()) };
        let lost = differences.iter().filter(|found| found.change.is_loss()).count();
        let against = self.against_shown();
        output::line(match lost {
            0 => format!("against {against}: nothing is missing or older"),
            _ => format!("against {against}: {lost} missing or older"),
        })
    }

    fn against_shown(&self) -> String {
        self.against.as_deref().map_or_else(String::new, |path| path.display().to_string())
    }
}

fn read(path: &Path, volume: &Volume) -> Result<Comparison, Failure> {
    let fail = |error: ManifestError| Failure::new(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| fail(error.into()))?;
    Ok(Manifest::read(file, volume).map_err(fail)?.compare())
}

/// A manifest beside its place, put there when it is whole.
struct Draft {
    writer: ManifestWriter<BufWriter<File>>,
    path: PathBuf,
    temporary: Temporary,
}

/// Removed again unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Draft {
    fn new(path: &Path, volume: &Volume) -> Result<Self, Failure> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(name);
        let fail = |error| Failure::new(format!("cannot write {}: {error}", path.display()));
        // The names in it are nobody else's business.
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(fail)?;
        let temporary = Temporary(temporary);
        let writer = ManifestWriter::new(BufWriter::new(file), volume).map_err(fail)?;
        Ok(Self { writer, path: path.to_owned(), temporary })
    }

    fn write(&mut self, line: &Line) -> Result<(), VolumeError> {
        let path = self.path.display();
        self.writer
            .write(line)
            .map_err(|error| VolumeError::Invalid(format!("cannot write {path}: {error}")))
    }

    fn finish(self, volume: &Arc<Volume>) -> Result<(), Failure> {
        let Self { writer, path, temporary } = self;
        let fail = |error| Failure::new(format!("cannot write {}: {error}", path.display()));
        let file = writer.finish(volume).map_err(fail)?;
        let file = file.into_inner().map_err(|error| fail(error.into_error()))?;
        file.sync_all().map_err(fail)?;
        std::fs::rename(&temporary.0, &path).map_err(fail)
    }
}
