//! `strongroom rm`, `mkdir`, `rmdir` and `mv`.

use super::connect::own_attributes;
use super::list::below;
use super::output::{Failure, Tally};
use super::settings::Common;
use super::transfer::split;
use crate::config::VolumeUrl;
use crate::units::DirId;
use crate::volume::VolumeError;
use crate::volume::native::Volume;
use crate::volume::native::entries::Expect;
use crate::volume::native::files::Walked;
use crate::volume::native::namespace::Found;
use crate::volume::native::record::{Content, Record};
use clap::Args;

/// Remove files, or trees with -r.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom rm s3://backups/prod/db/old.tar
  strongroom rm -r s3://backups/prod/db/2025")]
pub(super) struct Rm {
    /// The volume and a path in it
    #[arg(required = true)]
    urls: Vec<VolumeUrl>,
    /// Directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Say nothing of paths that are not there
    #[arg(short, long)]
    force: bool,
}

/// Give removed names back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom ls --deleted s3://backups/prod/db
  strongroom undelete s3://backups/prod/db/base.tar")]
pub(super) struct Undelete {
    /// The volume and the path that was removed
    #[arg(required = true)]
    urls: Vec<VolumeUrl>,
}

impl Undelete {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let mut tally = Tally::default();
        for url in &self.urls {
            tally.count(give_back(common, url).await);
        }
        tally.finish()
    }
}

async fn give_back(common: &Common, url: &VolumeUrl) -> Result<(), Failure> {
    let (volume, inside) = common.open_to_write(url).await?;
    match volume.walk(inside.as_bytes()).await? {
        Walked::Name { dir, name, .. } => {
            volume
                .undelete(dir, &name)
                .await
                .map_err(|error| Failure::new(format!("{url}: {error}")))?;
        }
        Walked::Root => return Err(VolumeError::Exists(url.to_string()).into()),
    }
    Ok(volume.session().end(&volume).await?)
}

/// Make directories.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strongroom mkdir -p s3://backups/prod/db/2026")]
pub(super) struct Mkdir {
    /// The volume and a path in it
    #[arg(required = true)]
    urls: Vec<VolumeUrl>,
    /// With the directories above; one that is there is no error
    #[arg(short, long)]
    parents: bool,
}

/// Remove empty directories.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strongroom rmdir s3://backups/prod/db/2025")]
pub(super) struct Rmdir {
    /// The volume and a path in it
    #[arg(required = true)]
    urls: Vec<VolumeUrl>,
}

/// Rename or move.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  strongroom mv s3://backups/prod/a.tar s3://backups/prod/old/a.tar"
)]
pub(super) struct Mv {
    /// The volume and a path in it
    from: VolumeUrl,
    /// A path in the same volume; an existing directory takes it in
    to: VolumeUrl,
    /// Never replace what is there
    #[arg(short, long)]
    no_clobber: bool,
}

impl Rm {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let mut tally = Tally::default();
        for url in &self.urls {
            tally.count(self.remove(common, url).await);
        }
        tally.finish()
    }

    async fn remove(&self, common: &Common, url: &VolumeUrl) -> Result<(), Failure> {
        let (volume, inside) = common.open_to_write(url).await?;
        let found = match volume.walk(inside.as_bytes()).await {
            Ok(Walked::Name { found: Some(found), .. }) => found,
            Ok(Walked::Root) => {
                return Err(Failure::new(format!("{url}: a volume's root is not removed")));
            }
            Ok(Walked::Name { found: None, .. }) | Err(VolumeError::NotFound(_)) => {
                if self.force {
                    return Ok(());
                }
                return Err(VolumeError::NotFound(url.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        };
        match found.home().record.directory() {
            None => drop(volume.unlink(&found).await?),
            Some(dir) if self.recursive => remove_tree(&volume, dir, &found).await?,
            Some(_) => {
                return Err(Failure::new(format!("{url}: is a directory: use -r for trees")));
            }
        }
        Ok(volume.session().end(&volume).await?)
    }
}

/// Removes from the leaves up, so that a failure leaves a smaller tree and nothing out of reach.
pub(super) async fn remove_tree(
    volume: &Volume,
    dir: DirId,
    root: &Found,
) -> Result<(), VolumeError> {
    use futures::{StreamExt, TryStreamExt};
    let mut paths: Vec<Vec<u8>> =
        below(volume, dir, b"", true).await?.into_iter().map(|row| row.path).collect();
    paths.sort_by_key(|path| std::cmp::Reverse(path.iter().filter(|byte| **byte == b'/').count()));
    let mut rest = paths.as_slice();
    while let Some(first) = rest.first() {
        let depth = |path: &Vec<u8>| path.iter().filter(|byte| **byte == b'/').count();
        let level = depth(first);
        let count = rest.iter().take_while(|path| depth(path) == level).count();
        let (now, later) = rest.split_at(count);
        futures::stream::iter(now)
            .map(|path| async move {
                let mut at = dir;
                let mut names = path.split(|byte| *byte == b'/').peekable();
                while let Some(name) = names.next() {
                    let Some(found) = volume.lookup(at, name).await? else { return Ok(()) };
                    match (names.peek(), found.home().record.directory()) {
                        (None, _) => return volume.unlink(&found).await.map(drop),
                        (Some(_), Some(dir)) => at = dir,
                        (Some(_), None) => return Ok(()),
                    }
                }
                Ok::<(), VolumeError>(())
            })
            .buffer_unordered(32)
            .try_collect::<()>()
            .await?;
        rest = later;
    }
    volume.unlink(root).await.map(drop)
}

impl Mkdir {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let mut tally = Tally::default();
        for url in &self.urls {
            tally.count(self.make(common, url).await);
        }
        tally.finish()
    }

    async fn make(&self, common: &Common, url: &VolumeUrl) -> Result<(), Failure> {
        let (volume, inside) = common.open_to_write(url).await?;
        let now = volume.world().clock.now();
        let attributes = own_attributes(0o755, now);
        if self.parents {
            volume.make_directories(inside.as_bytes(), &attributes).await?;
        } else {
            match volume.walk(inside.as_bytes()).await? {
                Walked::Name { dir, name, found: None } => {
                    let id = DirId(volume.world().entropy.bytes());
                    let record = Record::new(attributes, Content::Directory(id));
                    volume.create(dir, &name, record).await?;
                }
                _ => return Err(VolumeError::Exists(url.to_string()).into()),
            }
        }
        Ok(volume.session().end(&volume).await?)
    }
}

impl Rmdir {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let mut tally = Tally::default();
        for url in &self.urls {
            tally.count(remove_directory(common, url).await);
        }
        tally.finish()
    }
}

async fn remove_directory(common: &Common, url: &VolumeUrl) -> Result<(), Failure> {
    let (volume, inside) = common.open_to_write(url).await?;
    let found = match volume.walk(inside.as_bytes()).await? {
        Walked::Name { found: Some(found), .. } => found,
        Walked::Name { found: None, .. } => {
            return Err(VolumeError::NotFound(url.to_string()).into());
        }
        Walked::Root => {
            return Err(Failure::new(format!("{url}: a volume's root is not removed")));
        }
    };
    let dir = found
        .home()
        .record
        .directory()
        .ok_or_else(|| VolumeError::NotDirectory(url.to_string()))?;
    if !volume.is_empty_directory(dir).await? {
        return Err(VolumeError::NotEmpty(url.to_string()).into());
    }
    volume.unlink(&found).await?;
    Ok(volume.session().end(&volume).await?)
}

impl Mv {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let Self { from, to, no_clobber } = self;
        let (volume, inside) = common.open_to_write(from).await?;
        let target = common.locate(to).await?;
        if target.store.describe() != volume.store().describe() {
            return Err(Failure::new(format!("{to}: is another volume than {from}: copy instead")));
        }
        let source = match volume.walk(inside.as_bytes()).await? {
            Walked::Name { found: Some(found), .. } => found,
            Walked::Name { found: None, .. } => {
                return Err(VolumeError::NotFound(from.to_string()).into());
            }
            Walked::Root => return Err(Failure::new(format!("{from}: a volume's root stays"))),
        };
        let moving = source.home().record.directory();
        if moving.is_some()
            && format!("{}/", target.inside).starts_with(&format!("{inside}/"))
            && target.inside != inside
        {
            return Err(Failure::new(format!("{to}: lies inside {from}")));
        }
        let (_, name) = split(&inside, from)?;
        let (dir, name, existing) = match volume.walk(target.inside.as_bytes()).await? {
            Walked::Root => {
                let dir = volume.root_directory();
                (dir, name.to_vec(), volume.lookup(dir, name).await?)
            }
            Walked::Name { found: Some(found), dir, name: taken } => {
                match found.home().record.directory() {
                    // Into the directory, as mv(1) does.
                    Some(inner) => (inner, name.to_vec(), volume.lookup(inner, name).await?),
                    None => (dir, taken, Some(*found)),
                }
            }
            Walked::Name { found: None, dir, name } => (dir, name, None),
        };
        let expect = match &existing {
            None => Expect::Free,
            Some(_) if *no_clobber => return Err(VolumeError::Exists(to.to_string()).into()),
            Some(found) if found.entry.place == source.entry.place => return Ok(()),
            Some(found) => {
                match (moving, found.home().record.directory()) {
                    (None, None) => {}
                    (Some(_), Some(dir)) if volume.is_empty_directory(dir).await? => {}
                    (Some(_), Some(_)) => return Err(VolumeError::NotEmpty(to.to_string()).into()),
                    (Some(_), None) => return Err(VolumeError::NotDirectory(to.to_string()).into()),
                    (None, Some(_)) => return Err(VolumeError::IsDirectory(to.to_string()).into()),
                }
                Expect::Exactly(found.entry.etag.clone())
            }
        };
        volume.rename(&source.entry, dir, &name, expect).await?;
        if let Some(inode) = existing.and_then(|found| found.inode) {
            volume.count_links(&inode, -1).await?;
        }
        Ok(volume.session().end(&volume).await?)
    }
}
