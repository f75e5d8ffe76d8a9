//! `strongroom du` and `tree`.

use super::list::{Row, below};
use super::output::{self, Failure, shown};
use super::settings::Common;
use crate::config::VolumeUrl;
use crate::units::FileId;
use crate::volume::VolumeError;
use crate::volume::native::files::Walked;
use crate::volume::native::record::Content;
use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

/// Tell how many bytes the files below have.
#[derive(Debug, Args)]
#[command(
    after_help = "Sizes are those of the files: what the store keeps of them is more by the seals, and less where a
file has holes or shares its data with another one. A file of several names counts once.

Examples:
  strongroom du s3://backups/prod
  strongroom du -h --depth 1 s3://backups/prod",
    disable_help_flag = true
)]
pub(super) struct Du {
    /// The volume, and maybe a path in it
    url: VolumeUrl,
    /// Only the sum
    #[arg(short, long, conflicts_with = "depth")]
    summarize: bool,
    /// Directories so far below, no deeper
    #[arg(short, long, value_name = "NUMBER")]
    depth: Option<usize>,
    /// Sizes as people read them
    #[arg(short = 'h', long)]
    human: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Draw a directory with all that is below.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strongroom tree -L 2 s3://backups/prod")]
pub(super) struct Tree {
    /// The volume, and maybe a path in it
    url: VolumeUrl,
    /// So many levels, no deeper
    #[arg(short = 'L', long, value_name = "NUMBER")]
    levels: Option<usize>,
    /// Directories only
    #[arg(short, long)]
    directories: bool,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    bytes: u64,
    files: u64,
}

impl Du {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let rows = rows(common, &self.url).await?;
        let mut sums: BTreeMap<Vec<u8>, Sum> = BTreeMap::from([(Vec::new(), Sum::default())]);
        let mut counted: HashSet<FileId> = HashSet::new();
        for Row { path, record } in &rows {
            if record.directory().is_some() {
                sums.entry(path.clone()).or_default();
            }
            let size = match &record.content {
                // A file of several names counts where it is met first.
                Content::File(file) if record.links < 2 || counted.insert(file.id) => file.size,
                _ => continue,
            };
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            for end in ends.map(|(at, _)| at).chain([0]) {
                let sum = sums.entry(path[..end].to_vec()).or_default();
                sum.bytes = sum.bytes.saturating_add(size);
                sum.files += 1;
            }
        }
        let deepest = if self.summarize { Some(0) } else { self.depth };
        let depth = |path: &[u8]| match path {
            b"" => 0,
            path => 1 + path.iter().filter(|byte| **byte == b'/').count(),
        };
        let shown_sums = sums.iter().filter(|(path, _)| deepest.is_none_or(|n| depth(path) <= n));
        if self.json {
            let rows = shown_sums.map(|(path, sum)| {
                json!({
                    "path": String::from_utf8_lossy(path), "bytes": sum.bytes, "files": sum.files,
                })
            });
            return output::json(&Value::Array(rows.collect()));
        }
        // What is inside first, as du(1) has it.
        for (path, sum) in shown_sums.rev() {
            let size = match self.human {
                true => ByteSize(sum.bytes).to_string(),
                false => sum.bytes.to_string(),
            };
            let path = if path.is_empty() { ".".to_owned() } else { shown(path) };
            output::line(format!("{size}\t{path}"))?;
        }
        Ok(())
    }
}

impl Tree {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let rows = rows(common, &self.url).await?;
        let mut children: BTreeMap<&[u8], Vec<&Row>> = BTreeMap::new();
        for row in &rows {
            if self.directories && row.record.directory().is_none() {
                continue;
            }
            let parent = row.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            children.entry(&row.path[..parent]).or_default().push(row);
        }
        output::line(&self.url)?;
        let (mut directories, mut files) = (0_u64, 0_u64);
        // A path and what is drawn before its children; the last one is the next.
        let mut open: Vec<(std::vec::IntoIter<&Row>, String)> = Vec::new();
        let mut of = |path: &[u8]| children.remove(path).unwrap_or_default().into_iter();
        open.push((of(b""), String::new()));
        while let Some((rest, indent)) = open.last_mut() {
            let Some(row) = rest.next() else {
                open.pop();
                continue;
            };
            let last = rest.len() == 0;
            let name = row.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let (branch, below) =
                if last { ("└── ", "    ") } else { ("├── ", "│   ") };
            let line = match &row.record.content {
                Content::Directory(_) => format!("{indent}{branch}{}/", shown(name)),
                Content::Symlink(_, target) => {
                    format!("{indent}{branch}{} -> {}", shown(name), shown(target))
                }
                _ => format!("{indent}{branch}{}", shown(name)),
            };
            output::line(line)?;
            match row.record.directory() {
                Some(_) => directories += 1,
                None => files += 1,
            }
            let indent = format!("{indent}{below}");
            if self.levels.is_none_or(|levels| open.len() < levels) {
                open.push((of(&row.path), indent));
            }
        }
        let files = if self.directories { String::new() } else { format!(", {files} files") };
        output::line(format!("\n{directories} directories{files}"))
    }
}

async fn rows(common: &Common, url: &VolumeUrl) -> Result<Vec<Row>, Failure> {
    let (volume, inside) = common.open_to_read(url).await?;
    let dir = match volume.walk(inside.as_bytes()).await? {
        Walked::Root => volume.root_directory(),
        Walked::Name { found: None, .. } => {
            return Err(VolumeError::NotFound(url.to_string()).into());
        }
        Walked::Name { found: Some(found), name, .. } => {
            let record = found.home().record.clone();
            match record.directory() {
                Some(dir) => dir,
                None => return Ok(vec![Row { path: name, record }]),
            }
        }
    };
    Ok(below(&volume, dir, b"", true).await?)
}
