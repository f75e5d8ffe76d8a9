//! `strongroom push`, `pull` and `cat`.

use super::connect::own_attributes;
use super::output::{self, Failure, Tally};
use super::settings::Common;
use crate::config::{self, VolumeUrl};
use crate::volume::VolumeError;
use crate::volume::native::Volume;
use crate::volume::native::files::{Walked, WriteError};
use crate::volume::native::record::{Attributes, FileContent};
use crate::world::Timestamp;
use clap::Args;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWriteExt};

/// Store a local file, or what a pipe gives.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom push base.tar s3://backups/prod/db/base.tar
  pg_dump mydb | strongroom push - s3://backups/prod/db/mydb.sql")]
pub(super) struct Push {
    /// The file, or - for standard input
    local: PathBuf,
    /// The volume and a path in it, whose directories are made; with a trailing / the file keeps its name
    url: String,
}

/// Fetch a file, or write it to a pipe.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom pull s3://backups/prod/db/base.tar /restore/base.tar
  strongroom pull s3://backups/prod/db/mydb.sql - | psql mydb")]
pub(super) struct Pull {
    /// The volume and a path in it
    url: VolumeUrl,
    /// The file to write, a directory to put it in, or - for standard output
    local: PathBuf,
}

/// Write files to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strongroom cat s3://backups/prod/db/backup.info")]
pub(super) struct Cat {
    /// The volume and a path in it
    #[arg(required = true)]
    urls: Vec<VolumeUrl>,
}

impl Push {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let mut url: VolumeUrl = self.url.parse()?;
        let from_pipe = self.local.as_os_str() == "-";
        if self.url.ends_with('/') && !from_pipe {
            let name = self.local.file_name().unwrap_or_default();
            url = format!("{}{}", self.url, name.to_string_lossy()).parse()?;
        }
        let now = config::system_world().clock.now();
        let mut attributes = own_attributes(0o644, now);
        let local = |error| Failure::new(format!("{}: {error}", self.local.display()));
        let (mut source, size): (Box<dyn AsyncRead + Unpin + Send>, _) = if from_pipe {
            (Box::new(tokio::io::stdin()), None)
        } else {
            let file = tokio::fs::File::open(&self.local).await.map_err(local)?;
            let metadata = file.metadata().await.map_err(local)?;
            if metadata.is_dir() {
                return Err(Failure::new(format!(
                    "{}: is a directory; mount the volume and use cp -a for trees",
                    self.local.display()
                )));
            }
            attributes.mode = metadata.permissions().mode() & 0o7777;
            attributes.uid = metadata.uid();
            attributes.gid = metadata.gid();
            attributes.mtime =
                metadata.modified().map_or(attributes.mtime, Timestamp::from_system_time);
            (Box::new(file), Some(metadata.len()))
        };
        let (volume, inside) = common.open_to_write(&url).await?;
        let (parent, name) = split(&inside, &url)?;
        let directory = Attributes { mode: 0o755, mtime: now, ..attributes.clone() };
        let dir = volume.make_directories(parent, &directory).await?;
        let bar = output::progress(size, &self.local.to_string_lossy());
        let stored =
            volume.write_file(dir, name, attributes, &mut source, |bytes| bar.inc(bytes)).await;
        bar.finish_and_clear();
        stored.map_err(|error| Failure::new(format!("{url}: {error}")))?;
        Ok(volume.session().end(&volume).await?)
    }
}

impl Pull {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let local = self.local.to_string_lossy();
        if local.starts_with("s3://") || local.starts_with("file://") {
            return Err(Failure::new(format!(
                "{local}: is a URL, where a local file is needed (- writes to a pipe: \
                 strongroom pull URL - | strongroom push - URL)"
            )));
        }
        let (volume, content, attributes) = find_file(common, &self.url).await?;
        if self.local.as_os_str() == "-" {
            return to_stdout(&volume, &content, &self.url).await;
        }
        let mut target = self.local.clone();
        if target.is_dir() {
            target.push(self.url.path.rsplit('/').next().unwrap_or_default());
        }
        // Whoever names a symbolic link means the file behind it.
        if let Ok(real) = target.canonicalize() {
            target = real;
        }
        if target.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return into_device(&volume, &content, &target, &self.url).await;
        }
        // Beside the target and renamed over it at the end: a file that is there stays whole until the
        // new one is.
        let temporary = Temporary(beside(&target));
        let local = |error| Failure::new(format!("{}: {error}", target.display()));
        let file = tokio::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary.0)
            .await
            .map_err(local)?;
        fetch(&volume, &content, &attributes, file, &target, &self.url).await?;
        std::fs::rename(&temporary.0, &target).map_err(local)
    }
}

impl Cat {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let mut tally = Tally::default();
        for url in &self.urls {
            let written = match find_file(common, url).await {
                Ok((volume, content, _)) => {
                    let written =
                        volume.read_file(&content, &mut tokio::io::stdout(), |_| {}).await;
                    if written.as_ref().is_err_and(is_broken_pipe) {
                        // As with a listing: who read it has seen enough.
                        return Ok(());
                    }
                    written.map_err(|error| Failure::new(format!("{url}: {error}")))
                }
                Err(failure) => Err(failure),
            };
            tally.count(written);
        }
        tally.finish()
    }
}

fn is_broken_pipe(error: &WriteError) -> bool {
    matches!(error, WriteError::Target(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn find_file(
    common: &Common,
    url: &VolumeUrl,
) -> Result<(Arc<Volume>, FileContent, Attributes), Failure> {
    let (volume, inside) = common.open_to_read(url).await?;
    let record = match volume.walk(inside.as_bytes()).await? {
        Walked::Name { found: Some(found), .. } => found.home().record.clone(),
        Walked::Name { found: None, .. } => {
            return Err(VolumeError::NotFound(url.to_string()).into());
        }
        Walked::Root => return Err(VolumeError::IsDirectory(url.to_string()).into()),
    };
    match record.file() {
        Some(content) => Ok((volume, content.clone(), record.attributes.clone())),
        None if record.directory().is_some() => Err(Failure::new(format!(
            "{url}: is a directory; mount the volume and use cp -a for trees"
        ))),
        None => Err(Failure::new(format!("{url}: is not a regular file"))),
    }
}

async fn to_stdout(
    volume: &Arc<Volume>,
    content: &FileContent,
    url: &VolumeUrl,
) -> Result<(), Failure> {
    let mut stdout = tokio::io::stdout();
    volume
        .read_file(content, &mut stdout, |_| {})
        .await
        .map_err(|error| Failure::new(format!("{url}: {error}")))
}

/// A file being written, removed with this value: also when a signal ends the program. Once it is renamed
/// there is nothing left of that name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A device, a pipe or a socket is written into: replacing it would take it away from everybody.
async fn into_device(
    volume: &Arc<Volume>,
    content: &FileContent,
    target: &Path,
    url: &VolumeUrl,
) -> Result<(), Failure> {
    let local = |error: std::io::Error| Failure::new(format!("{}: {error}", target.display()));
    let mut file = tokio::fs::OpenOptions::new().write(true).open(target).await.map_err(local)?;
    volume
        .read_file(content, &mut file, |_| {})
        .await
        .map_err(|error| Failure::new(format!("{url}: {error}")))?;
    file.shutdown().await.map_err(local)
}

async fn fetch(
    volume: &Arc<Volume>,
    content: &FileContent,
    attributes: &Attributes,
    mut file: tokio::fs::File,
    target: &Path,
    url: &VolumeUrl,
) -> Result<(), Failure> {
    let local = |error: std::io::Error| Failure::new(format!("{}: {error}", target.display()));
    let bar = output::progress(Some(content.size), &url.path);
    let result = volume.read_file(content, &mut file, |bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    result.map_err(|error| Failure::new(format!("{url}: {error}")))?;
    file.shutdown().await.map_err(local)?;
    let file = file.into_std().await;
    // Set-id bits do not come out of a bucket by themselves.
    let mode = std::fs::Permissions::from_mode(attributes.mode & 0o777);
    file.set_permissions(mode).map_err(local)?;
    file.set_modified(attributes.mtime.to_system_time()).map_err(local)?;
    file.sync_all().map_err(local)
}

fn beside(target: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".strongroom-{}", std::process::id()));
    // A name of nearly 255 bytes leaves no room for more.
    if name.as_bytes().len() > 255 {
        name = format!(".strongroom-{}", std::process::id()).into();
    }
    target.with_file_name(name)
}

/// Directory and name of a path inside a volume.
pub(super) fn split<'a>(inside: &'a str, url: &VolumeUrl) -> Result<(&'a [u8], &'a [u8]), Failure> {
    let (parent, name) = inside.rsplit_once('/').unwrap_or(("", inside));
    if name.is_empty() {
        return Err(Failure::new(format!("{url}: names the volume itself, not a path in it")));
    }
    Ok((parent.as_bytes(), name.as_bytes()))
}
