//! `strongroom push`, `pull` and `cat`.

use super::connect::own_attributes;
use super::copy::TreeFlags;
use super::output::{self, Failure, Tally};
use super::settings::Common;
use super::source::{self, Checked};
use crate::config::{self, VolumeUrl};
use crate::units::DirId;
use crate::volume::VolumeError;
use crate::volume::native::Volume;
use crate::volume::native::files::{Walked, WriteError};
use crate::volume::native::record::{Attributes, FileContent};
use crate::world::Timestamp;
use clap::Args;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWriteExt};

/// Store a local file, or what a pipe gives.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom push base.tar s3://backups/prod/db/base.tar
  pg_dump mydb | strongroom push --fail-on-empty - s3://backups/prod/db/mydb.sql
  strongroom push base.tar s3://backups/base.tar --also file:///srv/second/base.tar
  strongroom push -r /var/backups/db s3://backups/prod/db")]
pub(super) struct Push {
    /// The file, or - for standard input; with -r a directory
    local: PathBuf,
    /// The volume and a path in it, whose directories are made; with a trailing / the file keeps its name
    url: String,
    /// A second place for the same, and a third: a file or pipe is read once and stored in all (a tree is read
    /// for each). One that fails keeps the others from nothing, but the command fails
    #[arg(long, value_name = "URL")]
    also: Vec<String>,
    /// A directory with all that is in it; what is there with the same size and time is not sent again
    #[arg(short, long)]
    recursive: bool,
    /// Store nothing unless the input has so many bytes
    #[arg(long, value_name = "BYTES", conflicts_with = "recursive")]
    expect_size: Option<u64>,
    /// Store nothing if the input is empty, as that of a producer that failed is
    #[arg(long, conflicts_with = "recursive")]
    fail_on_empty: bool,
    #[command(flatten)]
    tree: TreeFlags,
}

/// Fetch a file, or write it to a pipe.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom pull s3://backups/prod/db/base.tar /restore/base.tar
  strongroom pull s3://backups/prod/db/mydb.sql - | psql mydb
  strongroom pull -r s3://backups/prod/db /restore")]
pub(super) struct Pull {
    /// The volume and a path in it
    url: VolumeUrl,
    /// The file to write, a directory to put it in, or - for standard output; with -r the directory to make like it
    /// (with a trailing /: one of its name in that)
    local: PathBuf,
    /// A directory with all that is in it; what is there with the same size and time is not fetched again
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    tree: TreeFlags,
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
        let urls: Vec<&String> = [&self.url].into_iter().chain(&self.also).collect();
        if self.recursive {
            if !self.local.is_dir() {
                return Err(Failure::new(format!("{}: no such directory", self.local.display())));
            }
            let mut tally = Tally::default();
            for url in urls {
                tally.count(super::copy::push(common, &self.local, url, self.tree).await);
            }
            return tally.finish();
        }
        self.tree.refuse()?;
        let from_pipe = self.local.as_os_str() == "-";
        let now = config::system_world().clock.now();
        let mut attributes = own_attributes(0o644, now);
        let local = |error| Failure::new(format!("{}: {error}", self.local.display()));
        let (source, size): (Box<dyn AsyncRead + Unpin + Send>, _) = if from_pipe {
            (Box::new(tokio::io::stdin()), self.expect_size)
        } else {
            let file = tokio::fs::File::open(&self.local).await.map_err(local)?;
            let metadata = file.metadata().await.map_err(local)?;
            if metadata.is_dir() {
                return Err(Failure::new(format!(
                    "{}: is a directory: use -r for trees",
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
        let mut source = Checked::new(source).not_empty(self.fail_on_empty);
        if let Some(size) = self.expect_size {
            source = source.of_size(size);
        }
        // All places are known before the first byte is read: a pipe gives it once.
        let (mut tally, mut places) = (Tally::default(), Vec::new());
        for url in urls {
            match self.place(common, url, &attributes).await {
                Ok(place) => places.push(place),
                Err(failure) => tally.count(Err(failure)),
            }
        }
        let bar = output::progress(size, &self.local.to_string_lossy());
        let (pump, readers) = source::split(source, places.len());
        let stores = places.iter().zip(readers).enumerate().map(|(index, (place, mut reader))| {
            let (attributes, bar) = (attributes.clone(), &bar);
            async move {
                // What the first has stored is shown.
                let progress = |bytes| {
                    if index == 0 {
                        bar.inc(bytes)
                    }
                };
                let Place { volume, dir, name, url } = place;
                let stored = volume.write_file(*dir, name, attributes, &mut reader, progress).await;
                // Or the others would wait for it.
                drop(reader);
                stored.map(drop).map_err(|error| Failure::new(format!("{url}: {error}")))
            }
        });
        // A store that failed is told at once, also while the producer of a pipe is at rest.
        let stores = futures::future::join_all(stores);
        tokio::pin!(pump, stores);
        let stored = tokio::select! {
            stored = &mut stores => stored,
            () = &mut pump => stores.await,
        };
        bar.finish_and_clear();
        stored.into_iter().for_each(|result| tally.count(result));
        common.end_sessions().await?;
        tally.finish()
    }

    async fn place(
        &self,
        common: &Common,
        text: &str,
        attributes: &Attributes,
    ) -> Result<Place, Failure> {
        let mut url: VolumeUrl = text.parse()?;
        if text.ends_with('/') && self.local.as_os_str() != "-" {
            let name = self.local.file_name().unwrap_or_default();
            url = format!("{text}{}", name.to_string_lossy()).parse()?;
        }
        let (volume, inside) = common.open_to_write(&url).await?;
        let (parent, name) = split(&inside, &url)?;
        let directory = Attributes { mode: 0o755, mtime: attributes.ctime, ..attributes.clone() };
        let dir = volume.make_directories(parent, &directory).await?;
        Ok(Place { volume, dir, name: name.to_vec(), url })
    }
}

/// Where a file is to be stored.
struct Place {
    volume: Arc<Volume>,
    dir: DirId,
    name: Vec<u8>,
    url: VolumeUrl,
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
        if self.recursive {
            return super::copy::pull(common, &self.url, &self.local, self.tree).await;
        }
        self.tree.refuse()?;
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
        let file = begin(&temporary).map_err(local)?;
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
        None if record.directory().is_some() => {
            Err(Failure::new(format!("{url}: is a directory: use `pull -r` for trees")))
        }
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
pub(super) struct Temporary(pub(super) PathBuf);

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

/// A name beside `target` that nobody else has, nor can know before: whatever its own length.
pub(super) fn beside(target: &Path) -> PathBuf {
    let random = config::system_world().entropy.bytes::<8>();
    target.with_file_name(format!(".strongroom-{}", data_encoding::HEXLOWER.encode(&random)))
}

/// Begins a file that only this process has. At once, not in a task of its own: a run that is broken off must not
/// leave it behind.
pub(super) fn begin(temporary: &Temporary) -> std::io::Result<tokio::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(&temporary.0).map(tokio::fs::File::from_std)
}

/// Directory and name of a path inside a volume.
pub(super) fn split<'a>(inside: &'a str, url: &VolumeUrl) -> Result<(&'a [u8], &'a [u8]), Failure> {
    let (parent, name) = inside.rsplit_once('/').unwrap_or(("", inside));
    if name.is_empty() {
        return Err(Failure::new(format!("{url}: names the volume itself, not a path in it")));
    }
    Ok((parent.as_bytes(), name.as_bytes()))
}
