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

/// A name below what was asked for.
pub(super) struct Name {
    /// Its path, no `/` at either end.
    pub(super) path: Vec<u8>,
    pub(super) kind: NameKind,
}

pub(super) enum NameKind {
    Directory,
    /// A file and its bytes.
    File(u64),
    /// A further name of a file that counts elsewhere, or what has no bytes; and what is told of it.
    Other(String),
}

impl Name {
    fn is_directory(&self) -> bool {
        matches!(self.kind, NameKind::Directory)
    }
}

/// How sums are told.
#[derive(Clone, Copy, Default)]
pub(super) struct SumForm {
    /// So many levels, no deeper.
    pub(super) deepest: Option<usize>,
    /// Sizes as people read them.
    pub(super) human: bool,
    pub(super) json: bool,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    bytes: u64,
    files: u64,
}

/// Tells how many bytes the files of each directory have.
pub(super) fn tell_sums(names: &[Name], form: SumForm) -> Result<(), Failure> {
    let mut sums: BTreeMap<&[u8], Sum> = BTreeMap::from([(&b""[..], Sum::default())]);
    for Name { path, kind } in names {
        let size = match kind {
            NameKind::Directory => {
                sums.entry(path).or_default();
                continue;
            }
            NameKind::File(size) => *size,
            NameKind::Other(_) => continue,
        };
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in ends.map(|(at, _)| at).chain([0]) {
            let sum = sums.entry(&path[..end]).or_default();
            sum.bytes = sum.bytes.saturating_add(size);
            sum.files += 1;
        }
    }
    let depth = |path: &[u8]| match path {
        b"" => 0,
        path => 1 + path.iter().filter(|byte| **byte == b'/').count(),
    };
    let shown_sums = sums.iter().filter(|(path, _)| form.deepest.is_none_or(|n| depth(path) <= n));
    if form.json {
        let rows = shown_sums.map(|(path, sum)| {
            json!({
                "path": String::from_utf8_lossy(path), "bytes": sum.bytes, "files": sum.files,
            })
        });
        return output::json(&Value::Array(rows.collect()));
    }
    // What is inside first, as du(1) has it.
    for (path, sum) in shown_sums.rev() {
        let size = match form.human {
            true => ByteSize(sum.bytes).to_string(),
            false => sum.bytes.to_string(),
        };
        let path = if path.is_empty() { ".".to_owned() } else { shown(path) };
        output::line(format!("{size}\t{path}"))?;
    }
    Ok(())
}

/// Draws names as a tree, those of one directory in the order in which they come.
pub(super) fn draw(
    title: &str,
    names: &[Name],
    levels: Option<usize>,
    directories_only: bool,
) -> Result<(), Failure> {
    let mut children: BTreeMap<&[u8], Vec<&Name>> = BTreeMap::new();
    for name in names {
        if directories_only && !name.is_directory() {
            continue;
        }
        let parent = name.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        children.entry(&name.path[..parent]).or_default().push(name);
    }
    output::line(title)?;
    let (mut directories, mut files) = (0_u64, 0_u64);
    // A path and what is drawn before its children; the last one is the next.
    let mut open: Vec<(std::vec::IntoIter<&Name>, String)> = Vec::new();
    let mut of = |path: &[u8]| children.remove(path).unwrap_or_default().into_iter();
    open.push((of(b""), String::new()));
    while let Some((rest, indent)) = open.last_mut() {
        let Some(Name { path, kind }) = rest.next() else {
            open.pop();
            continue;
        };
        let last = rest.len() == 0;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let (branch, below) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let after = match kind {
            NameKind::Directory => "/",
            NameKind::File(_) => "",
            NameKind::Other(more) => more,
        };
        output::line(format!("{indent}{branch}{}{after}", shown(name)))?;
        match kind {
            NameKind::Directory => directories += 1,
            _ => files += 1,
        }
        let indent = format!("{indent}{below}");
        if levels.is_none_or(|levels| open.len() < levels) {
            open.push((of(path), indent));
        }
    }
    let files = if directories_only { String::new() } else { format!(", {files} files") };
    output::line(format!("\n{directories} directories{files}"))
}

impl Du {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let names = names(common, &self.url).await?;
        let deepest = if self.summarize { Some(0) } else { self.depth };
        tell_sums(&names, SumForm { deepest, human: self.human, json: self.json })
    }
}

impl Tree {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let names = names(common, &self.url).await?;
        draw(&self.url.to_string(), &names, self.levels, self.directories)
    }
}

async fn names(common: &Common, url: &VolumeUrl) -> Result<Vec<Name>, Failure> {
    let mut counted: HashSet<FileId> = HashSet::new();
    let rows = rows(common, url).await?;
    let name = |Row { path, record }: Row| {
        let kind = match &record.content {
            Content::Directory(_) => NameKind::Directory,
            // A file of several names counts where it is met first.
            Content::File(file) if record.links < 2 || counted.insert(file.id) => {
                NameKind::File(file.size)
            }
            Content::Symlink(_, target) => NameKind::Other(format!(" -> {}", shown(target))),
            _ => NameKind::Other(String::new()),
        };
        Name { path, kind }
    };
    Ok(rows.into_iter().map(name).collect())
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
