//! Trees copied as a whole, in any direction: `push -r`, `pull -r`, `cp`, `sync`.

mod files;
mod item;
mod local;
mod places;
mod run;
mod stored;
mod volumes;

pub(super) use places::{Ends, Place, Standing, Wishes, copied, standing};

use super::connect::own_attributes;
use super::output::{self, Failure};
use super::settings::Common;
use super::transfer::split;
use crate::config::{StoreBase, VolumeUrl};
use crate::store::DirStore;
use crate::units::DirId;
use crate::volume::VolumeError;
use crate::volume::native::Volume;
use crate::volume::native::files::{Target, Walked};
use crate::volume::native::keys::DESCRIPTOR;
use crate::volume::native::record::Attributes;
use clap::Args;
use item::Rules;
use local::LocalTree;
use run::{Outcome, Settings, Tree};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use stored::StoredTree;
use volumes::Broken;

/// Things under way at once; their data are bounded by themselves.
const AT_ONCE: usize = 32;

/// What holds for every copy of a tree.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct TreeFlags {
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON what was done
    #[arg(long)]
    json: bool,
    /// Copy files of the same size and time too
    #[arg(long)]
    ignore_times: bool,
}

impl TreeFlags {
    /// Refuses what says nothing of one file.
    pub(super) fn refuse(self) -> Result<(), Failure> {
        match self {
            Self { dry_run: false, json: false, ignore_times: false } => Ok(()),
            _ => Err(Failure::new(
                "--dry-run, --json and --ignore-times are of trees: add --recursive",
            )),
        }
    }
}

/// Copy files or trees from volume to volume, or within one without moving their data.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strongroom cp s3://backups/prod/db/base.tar s3://backups/prod/kept/base.tar
  strongroom cp -r s3://backups/prod/db file:///srv/second/db")]
pub(super) struct Cp {
    /// The volume and a path in it
    from: VolumeUrl,
    /// A path in a volume; an existing directory takes a file in, and with a trailing / a tree keeps its name in it
    to: String,
    /// Directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    flags: TreeFlags,
}

/// Make a directory like another one: local, or in a volume.
#[derive(Debug, Args)]
#[command(
    after_help = "What has the same size and time is not copied again, so that a run that was cut short is \
                  carried on by the next.

Examples:
  strongroom sync /var/backups s3://backups/prod/host1
  strongroom sync --delete --dry-run s3://backups/prod/host1 /restore
  strongroom sync s3://backups/prod file:///srv/second"
)]
pub(super) struct Sync {
    /// The directory: a local one, or a URL
    from: String,
    /// The directory to make like it: a local one, or a URL
    to: String,
    /// Remove from the target what the source does not have, when all else went well
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    flags: TreeFlags,
}

impl Sync {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let (from, to) = (Side::of(&self.from)?, Side::of(&self.to)?);
        let settings = settings(common, self.flags, self.delete)?;
        apart(common, &from, &to).await?;
        // The target first: a volume that can be written can be read, and is not opened twice.
        let (target, is_new) = match &to {
            Side::Local(path) => local_target(Path::new(path), settings.dry_run)?,
            Side::Volume(url) if from.is_volume() || is_directory(&self.from) => {
                stored_target(common, url, settings.dry_run).await?
            }
            Side::Volume(_) => return Err(no_directory(&self.from)),
        };
        let source = match &from {
            Side::Local(path) if to.is_volume() => Tree::Local(LocalTree::new(Path::new(path))),
            Side::Local(_) => {
                return Err(Failure::new(
                    "neither side is a URL (s3://... or file:///...): use cp or rsync between local directories",
                ));
            }
            Side::Volume(url) => stored_source(common, url).await?,
        };
        go(common, &source, &target, is_new, settings, self.flags).await
    }
}

impl Cp {
    pub(super) async fn run(&self, common: &Common) -> Result<(), Failure> {
        let Self { from, to, recursive, flags } = self;
        let keeps_name = to.ends_with('/');
        let to: &VolumeUrl = &to.parse()?;
        let (to_volume, to_inside) = common.open_to_write(to).await?;
        let (from_volume, from_inside) = common.open_to_read(from).await?;
        let read_at = from_volume.world().clock.boot_time();
        let name = from_inside.rsplit('/').next().unwrap_or_default().to_owned();
        let found = match from_volume.walk(from_inside.as_bytes()).await? {
            Walked::Name { found: None, .. } => {
                return Err(VolumeError::NotFound(from.to_string()).into());
            }
            Walked::Name { found, .. } => found,
            Walked::Root => None,
        };
        let directory = found
            .as_ref()
            .map_or(Some(from_volume.root_directory()), |found| found.home().record.directory());
        // An existing directory takes a file in, as with cp(1); a tree becomes what is named, so that the same
        // command again carries on.
        let existing = match to_volume.walk(to_inside.as_bytes()).await {
            Ok(Walked::Root) => Some(to_volume.root_directory()),
            Ok(Walked::Name { found, .. }) => {
                found.and_then(|found| found.home().record.directory())
            }
            Err(VolumeError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let taken_in = existing.is_some() && directory.is_none() || keeps_name;
        let inside = match name.as_str() {
            "" => to_inside,
            name if taken_in => format!("{to_inside}/{name}"),
            _ => to_inside,
        };
        let inside = inside.trim_start_matches('/').to_owned();
        let same_volume = volumes::is_one_volume(&from_volume, &to_volume);
        if same_volume && inside == from_inside {
            return Err(Failure::new(format!("{from} and {to} are the same")));
        }
        let Some(directory) = directory else {
            flags.refuse()?;
            let Some(found) = found else { return Ok(()) };
            let Some(content) = found.home().record.file() else {
                return Err(Failure::new(format!("{from}: is not a regular file")));
            };
            let (parent, name) = split(&inside, to)?;
            let now = to_volume.world().clock.now();
            let kept = found.home().record.attributes.clone();
            let attributes = Attributes { ctime: now, btime: now, ..kept };
            let parents = own_attributes(0o755, now);
            let dir = to_volume.make_directories(parent, &parents).await?;
            let target = Target { dir, name, seen: true, alone: true };
            let bar = output::progress(Some(content.size), &from.path);
            let source = (&from_volume, content, read_at);
            let copied =
                volumes::between(source, (&to_volume, target), attributes, |n| bar.inc(n)).await;
            bar.finish_and_clear();
            copied.map_err(|error| match error {
                Broken::Source(error) => Failure::new(format!("{from}: {error}")),
                Broken::Target(error) => Failure::new(format!("{to}: {error}")),
            })?;
            return common.end_sessions().await;
        };
        if !recursive {
            return Err(Failure::new(format!("{from}: is a directory: use -r for trees")));
        }
        let lies_in = format!("{inside}/").starts_with(&format!("{from_inside}/"));
        if same_volume && (lies_in || from_inside.is_empty()) {
            return Err(Failure::new(format!("{to}: lies inside {from}")));
        }
        let source = StoredTree::new(from_volume, directory, &from_inside, from.to_string());
        let source = Tree::Stored(source);
        let settings = settings(common, *flags, false)?;
        let (target, is_new) =
            tree_at(to_volume, &inside, to.to_string(), settings.dry_run).await?;
        go(common, &source, &target, is_new, settings, *flags).await
    }
}

/// `push -r`: a local directory becomes what is at `url`.
pub(super) async fn push(
    common: &Common,
    local: &Path,
    url: &str,
    flags: TreeFlags,
) -> Result<(), Failure> {
    let mut target: VolumeUrl = url.parse()?;
    if url.ends_with('/')
        && let Some(name) = local::own_name(local)
    {
        target = format!("{url}{}", String::from_utf8_lossy(&name)).parse()?;
    }
    let settings = settings(common, flags, false)?;
    refuse_overlap(local, &target)?;
    let (target, is_new) = stored_target(common, &target, settings.dry_run).await?;
    let source = Tree::Local(LocalTree::new(local));
    go(common, &source, &target, is_new, settings, flags).await
}

/// `pull -r`: what is at `url` becomes a local directory, or, with a trailing `/`, one of its name in it.
pub(super) async fn pull(
    common: &Common,
    url: &VolumeUrl,
    local: &Path,
    flags: TreeFlags,
) -> Result<(), Failure> {
    if local.as_os_str() == "-" {
        return Err(Failure::new("a tree cannot be written to a pipe: name a directory"));
    }
    let settings = settings(common, flags, false)?;
    let name = url.path.rsplit('/').next().unwrap_or_default();
    let keeps_name = local.as_os_str().as_encoded_bytes().ends_with(b"/");
    let place = if keeps_name { local.join(name) } else { local.to_owned() };
    refuse_overlap(&place, url)?;
    let source = stored_source(common, url).await?;
    let (target, is_new) = local_target(&place, settings.dry_run)?;
    go(common, &source, &target, is_new, settings, flags).await
}

enum Side<'a> {
    Local(&'a str),
    Volume(VolumeUrl),
}

impl<'a> Side<'a> {
    fn of(text: &'a str) -> Result<Self, Failure> {
        match text.contains("://") {
            true => Ok(Self::Volume(text.parse()?)),
            false => Ok(Self::Local(text)),
        }
    }

    fn is_volume(&self) -> bool {
        matches!(self, Self::Volume(_))
    }
}

fn is_directory(path: &str) -> bool {
    Path::new(path).is_dir()
}

fn no_directory(path: &str) -> Failure {
    Failure::new(format!("{path}: no such directory"))
}

fn settings(common: &Common, flags: TreeFlags, delete: bool) -> Result<Settings, Failure> {
    let TreeFlags { dry_run, json: _, ignore_times } = flags;
    let rules = Rules { delete, everything: ignore_times };
    Ok(Settings { rules, dry_run, at_once: common.concurrency()?.min(AT_ONCE) })
}

async fn go(
    common: &Common,
    source: &Tree,
    target: &Tree,
    is_new: bool,
    settings: Settings,
    flags: TreeFlags,
) -> Result<(), Failure> {
    let outcome: Result<Outcome, Failure> = run::run(source, target, is_new, settings).await;
    let ended = common.end_sessions().await;
    let outcome = outcome?;
    ended?;
    if flags.json && !flags.dry_run {
        output::line_if_read(serde_json::to_string_pretty(&outcome.json())?)?;
    }
    outcome.finish()
}

/// Refuses trees of which one lies in the other.
async fn apart(common: &Common, from: &Side<'_>, to: &Side<'_>) -> Result<(), Failure> {
    match (from, to) {
        (Side::Local(_), Side::Local(_)) => Ok(()),
        (Side::Local(path), Side::Volume(url)) | (Side::Volume(url), Side::Local(path)) => {
            refuse_overlap(Path::new(path), url)
        }
        (Side::Volume(from), Side::Volume(to)) => {
            let (to_volume, to_inside) = common.open_to_write(to).await?;
            let (from_volume, from_inside) = common.open_to_read(from).await?;
            let lies_in =
                |a: &str, b: &str| b.is_empty() || format!("{a}/").starts_with(&format!("{b}/"));
            let nested = lies_in(&from_inside, &to_inside) || lies_in(&to_inside, &from_inside);
            match nested && volumes::is_one_volume(&from_volume, &to_volume) {
                true => Err(Failure::new(format!("{from} and {to}: one lies in the other"))),
                false => Ok(()),
            }
        }
    }
}

/// Refuses a local directory that a volume in a local directory lies in, or that lies in it: objects are no files of
/// a tree, nor the other way round.
fn refuse_overlap(local: &Path, url: &VolumeUrl) -> Result<(), Failure> {
    if url.base != StoreBase::File {
        return Ok(());
    }
    let candidates = url.candidates();
    let mut roots = candidates.iter().map(|root| VolumeUrl::directory(root));
    // A store that was copied by hand may have lost what marks it as one, and opens all the same.
    let is_store = |root: &PathBuf| DirStore::is_one(root) || root.join(DESCRIPTOR).exists();
    let Some(store) = roots.find(is_store) else { return Ok(()) };
    let (local, store) = (real(local), real(&store));
    match local.starts_with(&store) || store.starts_with(&local) {
        true => Err(Failure::new(format!(
            "{}: the volume's own objects are in {}: one must not lie in the other",
            local.display(),
            store.display()
        ))),
        false => Ok(()),
    }
}

/// A path without links and dots, of which the end may not be there yet.
fn real(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // As it will be made: `..` after what is not there yet goes back to what is written before.
    let mut clean = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::ParentDir if !clean.exists() => drop(clean.pop()),
            Component::ParentDir => {
                clean = clean.canonicalize().unwrap_or(clean);
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    let whole = clean;
    for known in whole.ancestors() {
        if let (Ok(real), Ok(rest)) = (known.canonicalize(), whole.strip_prefix(known)) {
            return real.join(rest);
        }
    }
    whole
}

fn local_target(path: &Path, dry_run: bool) -> Result<(Tree, bool), Failure> {
    let tree = LocalTree::new(&real(path));
    let is_new = match path.metadata() {
        Ok(data) if data.is_dir() => false,
        Ok(_) => return Err(Failure::new(format!("{}: is no directory", path.display()))),
        Err(_) => true,
    };
    if !dry_run {
        tree.make_root()?;
    }
    Ok((Tree::Local(tree), is_new))
}

async fn stored_target(
    common: &Common,
    url: &VolumeUrl,
    dry_run: bool,
) -> Result<(Tree, bool), Failure> {
    let (volume, inside) = common.open_to_write(url).await?;
    tree_at(volume, &inside, url.to_string(), dry_run).await
}

async fn tree_at(
    volume: Arc<Volume>,
    inside: &str,
    url: String,
    dry_run: bool,
) -> Result<(Tree, bool), Failure> {
    let tree = |volume, dir| Tree::Stored(StoredTree::new(volume, dir, inside, url.clone()));
    match volume.walk(inside.as_bytes()).await {
        Ok(Walked::Root) => {
            let root = volume.root_directory();
            return Ok((tree(volume, root), false));
        }
        Ok(Walked::Name { found: Some(found), .. }) => {
            let dir = found.home().record.directory();
            let dir = dir.ok_or_else(|| VolumeError::NotDirectory(url.clone()))?;
            return Ok((tree(volume, dir), false));
        }
        Ok(Walked::Name { found: None, .. }) | Err(VolumeError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let dir = match dry_run {
        // Nothing is made in it, nor asked of it.
        true => DirId(volume.world().entropy.bytes()),
        false => {
            let attributes = own_attributes(0o755, volume.world().clock.now());
            volume.make_directories(inside.as_bytes(), &attributes).await?
        }
    };
    Ok((tree(volume, dir), true))
}

async fn stored_source(common: &Common, url: &VolumeUrl) -> Result<Tree, Failure> {
    let (volume, inside) = common.open_to_read(url).await?;
    let dir = match volume.walk(inside.as_bytes()).await? {
        Walked::Root => volume.root_directory(),
        Walked::Name { found: Some(found), .. } => {
            let dir = found.home().record.directory();
            dir.ok_or_else(|| VolumeError::NotDirectory(url.to_string()))?
        }
        Walked::Name { found: None, .. } => {
            return Err(VolumeError::NotFound(url.to_string()).into());
        }
    };
    Ok(Tree::Stored(StoredTree::new(volume, dir, &inside, url.to_string())))
}
