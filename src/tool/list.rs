//! `strongroom ls` and `stat`.

use super::output::{self, Failure, shown};
use super::settings::Common;
use crate::config::VolumeUrl;
use crate::units::DirId;
use crate::volume::VolumeError;
use crate::volume::native::files::Walked;
use crate::volume::native::record::{Content, Record, SpecialKind};
use crate::volume::native::{Place, Volume};
use crate::world::Timestamp;
use clap::Args;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

/// List a directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom ls s3://backups/prod
  strongroom ls -lR file:///srv/backups/db
  strongroom ls --json s3://backups/prod | jq -r '.[].path'")]
pub(super) struct Ls {
    /// The volume, and maybe a path in it
    url: VolumeUrl,
    /// With everything below
    #[arg(short = 'R', long)]
    recursive: bool,
    /// With mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Names that were removed and can be given back by `strongroom undelete`
    #[arg(long, conflicts_with = "recursive")]
    deleted: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "long")]
    json: bool,
}

/// Show what is known of a file.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strongroom stat s3://backups/prod/db/base.tar --json")]
pub(super) struct Stat {
    /// The volume and a path in it
    url: VolumeUrl,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One thing with its path inside the volume.
pub(super) struct Row {
    pub(super) path: Vec<u8>,
    pub(super) record: Arc<Record>,
}

impl Ls {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let (volume, inside) = common.open_to_read(&self.url).await?;
        let rows = match volume.walk(inside.as_bytes()).await? {
            Walked::Root if self.deleted => buried(&volume, volume.root_directory()).await?,
            Walked::Name { found: Some(found), .. } if self.deleted => {
                let dir = found.home().record.directory();
                let dir = dir.ok_or_else(|| VolumeError::NotDirectory(self.url.to_string()))?;
                buried(&volume, dir).await?
            }
            Walked::Root => below(&volume, volume.root_directory(), b"", self.recursive).await?,
            Walked::Name { found: None, .. } => {
                return Err(VolumeError::NotFound(self.url.to_string()).into());
            }
            Walked::Name { found: Some(found), name, .. } => {
                let record = found.home().record.clone();
                match record.directory() {
                    Some(dir) => below(&volume, dir, b"", self.recursive).await?,
                    None => vec![Row { path: name, record }],
                }
            }
        };
        if self.json {
            return output::json(&Value::Array(rows.iter().map(as_json).collect()));
        }
        for Row { path, record } in &rows {
            let slash = if record.directory().is_some() { "/" } else { "" };
            if self.long {
                let attributes = &record.attributes;
                output::line(format!(
                    "{}{} {:>5} {:>5} {:>12} {} {}{slash}{}",
                    letter(&record.content),
                    permissions(attributes.mode),
                    attributes.uid,
                    attributes.gid,
                    size(record),
                    time(attributes.mtime),
                    shown(path),
                    target(&record.content),
                ))?;
            } else {
                output::line(format!("{}{slash}", shown(path)))?;
            }
        }
        Ok(())
    }
}

impl Stat {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let (volume, inside) = common.open_to_read(&self.url).await?;
        let record = match volume.walk(inside.as_bytes()).await? {
            Walked::Root => volume.root().await?.map(|stored| stored.record),
            Walked::Name { found, .. } => found.map(|found| found.home().record.clone()),
        };
        let record = record.ok_or_else(|| VolumeError::NotFound(self.url.to_string()))?;
        let row = Row { path: inside.into_bytes(), record };
        let value = as_json(&row);
        if self.json {
            return output::json(&value);
        }
        let Value::Object(fields) = value else { return Ok(()) };
        for (name, value) in fields {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            output::line(format!("{name:>8}: {value}"))?;
        }
        Ok(())
    }
}

/// The names of a directory that can be given back.
async fn buried(volume: &Volume, dir: DirId) -> Result<Vec<Row>, VolumeError> {
    let stored = volume.list_buried(dir).await?;
    let mut rows: Vec<Row> = stored
        .into_iter()
        .filter_map(|stored| match stored.place {
            Place::Entry(_, name) => Some(Row { path: name, record: stored.record }),
            Place::Inode(_) => None,
        })
        .collect();
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(rows)
}

/// Everything in a directory, sorted by path; with `recursive` also what is below.
pub(super) async fn below(
    volume: &Volume,
    dir: DirId,
    prefix: &[u8],
    recursive: bool,
) -> Result<Vec<Row>, VolumeError> {
    let mut rows = Vec::new();
    let mut pending = vec![(dir, prefix.to_vec())];
    // A store may hand out a directory within itself.
    let mut met = HashSet::from([dir]);
    while let Some((dir, prefix)) = pending.pop() {
        let listed = volume.list_directory(dir).await?;
        let stored = volume.load_listed(dir, listed).await?;
        let (links, plain): (Vec<_>, Vec<_>) = stored
            .into_iter()
            .partition(|stored| matches!(stored.record.content, Content::Link(_)));
        let links = volume.resolve_many(links).await?;
        let named = plain.into_iter().map(|stored| (stored.place.clone(), stored.record)).chain(
            links.into_iter().map(|found| (found.entry.place.clone(), found.home().record.clone())),
        );
        for (place, record) in named {
            let Place::Entry(_, name) = place else { continue };
            let mut path = prefix.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if let Some(dir) = record.directory()
                && recursive
                && met.insert(dir)
            {
                pending.push((dir, path.clone()));
            }
            rows.push(Row { path, record });
        }
    }
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(rows)
}

fn as_json(row: &Row) -> Value {
    let Row { path, record } = row;
    let attributes = &record.attributes;
    let mut value = json!({
        "path": String::from_utf8_lossy(path),
        "kind": kind(&record.content),
        "mode": format!("{:04o}", attributes.mode),
        "uid": attributes.uid,
        "gid": attributes.gid,
        "size": size(record),
        "mtime": time(attributes.mtime),
        "links": record.links,
    });
    if let (Content::Symlink(_, target), Value::Object(fields)) = (&record.content, &mut value) {
        fields.insert("target".to_owned(), String::from_utf8_lossy(target).into());
    }
    // A name that is not text would not survive JSON: it is given in hexadecimal digits too.
    if let (Err(_), Value::Object(fields)) = (std::str::from_utf8(path), &mut value) {
        fields.insert("path_hex".to_owned(), data_encoding::HEXLOWER.encode(path).into());
    }
    value
}

fn size(record: &Record) -> u64 {
    match &record.content {
        Content::File(file) => file.size,
        Content::Symlink(_, target) => target.len() as u64,
        _ => 0,
    }
}

fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(at.0.into())
        .map_or_else(|_| at.0.to_string(), |time| time.to_string())
}

/// Where a symbolic link points, as ls(1) shows it.
fn target(content: &Content) -> String {
    match content {
        Content::Symlink(_, target) => format!(" -> {}", shown(target)),
        _ => String::new(),
    }
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::File(_) => "file",
        Content::Directory(_) => "directory",
        Content::Symlink(..) => "symlink",
        Content::Special(_, SpecialKind::Fifo, _) => "fifo",
        Content::Special(_, SpecialKind::Socket, _) => "socket",
        Content::Special(_, SpecialKind::CharacterDevice, _) => "character device",
        Content::Special(_, SpecialKind::BlockDevice, _) => "block device",
        Content::Link(_) => "link",
    }
}

fn letter(content: &Content) -> char {
    match content {
        Content::File(_) | Content::Link(_) => '-',
        Content::Directory(_) => 'd',
        Content::Symlink(..) => 'l',
        Content::Special(_, SpecialKind::Fifo, _) => 'p',
        Content::Special(_, SpecialKind::Socket, _) => 's',
        Content::Special(_, SpecialKind::CharacterDevice, _) => 'c',
        Content::Special(_, SpecialKind::BlockDevice, _) => 'b',
    }
}

fn permissions(mode: u32) -> String {
    let triple = |shift: u32, special: bool, letters: (char, char)| {
        let bits = mode >> shift;
        let execute = match (bits & 1 != 0, special) {
            (true, true) => letters.0,
            (false, true) => letters.1,
            (true, false) => 'x',
            (false, false) => '-',
        };
        let read = if bits & 4 != 0 { 'r' } else { '-' };
        let write = if bits & 2 != 0 { 'w' } else { '-' };
        format!("{read}{write}{execute}")
    };
    [
        triple(6, mode & 0o4000 != 0, ('s', 'S')),
        triple(3, mode & 0o2000 != 0, ('s', 'S')),
        triple(0, mode & 0o1000 != 0, ('t', 'T')),
    ]
    .concat()
}
