//! Trees between this machine and a storage of files, and within one: what the command line of datasafed has
//! beyond the original.

use super::files::FilesTree;
use super::item::Rules;
use super::local::{self, LocalTree};
use super::run::{self, Settings, Tree};
use super::{AT_ONCE, local_target, real};
use crate::config;
use crate::tool::output::Failure;
use crate::volume::objects::{Layout, ObjectsError};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A directory of a storage.
pub(in crate::tool) struct Place {
    pub(in crate::tool) layout: Layout,
    /// Where it is in the storage, and how whoever asks calls it.
    pub(in crate::tool) path: String,
    pub(in crate::tool) called: String,
    /// Where the storage is, if it is a local directory.
    pub(in crate::tool) local: Option<PathBuf>,
}

/// From where to where. A `/` at the end of the target's name: a directory of the source's name in it.
pub(in crate::tool) enum Ends<'a> {
    Push(&'a Path, Place),
    Pull(Place, &'a Path),
    /// Of one storage.
    Within(Place, Place),
}

/// How.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::tool) struct Wishes {
    /// What the source does not have goes from the target.
    pub(in crate::tool) delete: bool,
    /// Files of the same size and time are copied all the same.
    pub(in crate::tool) ignore_times: bool,
    /// Only say what would be done.
    pub(in crate::tool) dry_run: bool,
    /// Requests at once, if that is bounded.
    pub(in crate::tool) at_once: Option<usize>,
}

/// Copies a tree; what that came to, and whether everything went well. Failures of single files were printed.
pub(in crate::tool) async fn copied(
    ends: Ends<'_>,
    wishes: Wishes,
) -> Result<(Value, bool), Failure> {
    let Wishes { delete, ignore_times, dry_run, at_once } = wishes;
    let rules = Rules { delete, everything: ignore_times };
    let settings = Settings { rules, dry_run, at_once: at_once.unwrap_or(AT_ONCE).min(AT_ONCE) };
    let (source, target, is_new) = match ends {
        Ends::Push(from, to) => {
            if !from.is_dir() {
                return Err(super::no_directory(&from.to_string_lossy()));
            }
            let to = match local::own_name(from) {
                Some(name) => to.taking_in(&String::from_utf8_lossy(&name)),
                None => to,
            };
            to.refuse_overlap(from)?;
            (Tree::Local(LocalTree::new(from)), to.tree(false).await?, false)
        }
        Ends::Pull(from, to) => {
            if to.as_os_str() == "-" {
                return Err(Failure::new("a tree cannot be written to a pipe: name a directory"));
            }
            let keeps_name = to.as_os_str().as_encoded_bytes().ends_with(b"/");
            let to = if keeps_name { to.join(from.name()) } else { to.to_owned() };
            from.refuse_overlap(&to)?;
            let source = from.tree(true).await?;
            let (target, is_new) = local_target(&to, dry_run)?;
            (source, target, is_new)
        }
        Ends::Within(from, to) => {
            let to = to.taking_in(from.name());
            let lies_in =
                |a: &str, b: &str| b.is_empty() || format!("{a}/").starts_with(&format!("{b}/"));
            if lies_in(&from.path, &to.path) || lies_in(&to.path, &from.path) {
                return Err(Failure::new(format!(
                    "{} and {}: one lies in the other",
                    from.called, to.called
                )));
            }
            (from.tree(true).await?, to.tree(false).await?, false)
        }
    };
    let outcome = run::run(&source, &target, is_new, settings).await?;
    Ok((outcome.json(), outcome.finish().is_ok()))
}

impl Place {
    /// The last part of its path.
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Where something of this name goes.
    fn taking_in(mut self, name: &str) -> Self {
        if self.called.ends_with('/') && !name.is_empty() {
            self.called.push_str(name);
            let slash = if self.path.is_empty() { "" } else { "/" };
            self.path = format!("{}{slash}{name}", self.path);
        }
        self
    }

    async fn tree(self, to_read: bool) -> Result<Tree, Failure> {
        if !self.path.is_empty() && self.layout.find(&self.path).await.is_ok() {
            let remedy = if to_read { "take it without --recursive" } else { "name a directory" };
            return Err(Failure::new(format!("{}: is a file: {remedy}", self.called)));
        }
        let clock = config::system_world().clock;
        Ok(Tree::Files(FilesTree::new(self.layout, &self.path, &self.called, clock)))
    }

    /// Refuses a local directory that the storage lies in, or that lies in it.
    fn refuse_overlap(&self, tree: &Path) -> Result<(), Failure> {
        let Some(storage) = &self.local else { return Ok(()) };
        let (tree, storage) = (real(tree), real(storage));
        match tree.starts_with(&storage) || storage.starts_with(&tree) {
            true => Err(Failure::new(format!(
                "{}: the storage itself is in {}: one must not lie in the other",
                tree.display(),
                storage.display()
            ))),
            false => Ok(()),
        }
    }
}

/// What is at a path of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tool) enum Standing {
    File,
    Directory,
    Nothing,
}

/// Finds out what is at a path; a directory of a bucket is where something is in it.
pub(in crate::tool) async fn standing(
    layout: &Layout,
    path: &str,
) -> Result<Standing, ObjectsError> {
    use crate::volume::objects::ListFiles;
    if path.is_empty() {
        return Ok(Standing::Directory);
    }
    match layout.find(path).await {
        Ok(_) => return Ok(Standing::File),
        Err(ObjectsError::IsDirectory) => return Ok(Standing::Directory),
        Err(ObjectsError::NotFound | ObjectsError::Local { .. } | ObjectsError::Invalid(_)) => {}
        Err(error) => return Err(error),
    }
    let mut any = false;
    // The first one is enough.
    let mut emit = |_| {
        any = true;
        Err(ObjectsError::Ended)
    };
    let request = ListFiles { depth: Some(1), told_times: false };
    let listed = layout.list(path, request, &mut emit).await;
    match listed {
        _ if any => Ok(Standing::Directory),
        Ok(()) if layout.has_directories() => Ok(Standing::Directory),
        Ok(()) | Err(ObjectsError::NoDirectory | ObjectsError::NotFound) => Ok(Standing::Nothing),
        Err(error) => Err(error),
    }
}
