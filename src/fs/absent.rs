//! Names that are known to be absent without a request, since their directory was listed whole a moment
//! ago, or made here and so is empty. One listing answers for all names of a directory where a GET
//! answers for one; it is made when about as many names were asked for in vain as it costs requests.
//!
//! Nothing can be lost by a name that another node made meanwhile: creation is conditional in the store.

use super::core::FileSystem;
use super::errno::FsError;
use super::inode::Inode;
use super::table::Dentry;
use super::types::Ino;
use crate::volume::native::listing::{Listed, Small};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A directory that takes more requests than this is not listed to answer lookups.
const MOST_PAGES: u64 = 100;
/// Names remembered of all listings together, and directories; beyond it they are forgotten.
const MOST_NAMES: usize = 500_000;
const MOST_DIRECTORIES: usize = 10_000;
/// For how long it is remembered what listing a directory costs.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What is known of the names of directories as a whole.
#[derive(Default)]
pub(super) struct Listings {
    directories: HashMap<Ino, Listing>,
    names: usize,
}

struct Listing {
    /// When it was listed (boot time), and all names that were there, or came by this mount since.
    listed: Option<(Duration, HashSet<Vec<u8>>)>,
    /// Listings under way, and names that this mount has made since the first of them began.
    running: u32,
    made: HashSet<Vec<u8>>,
    /// Names asked for since, that are absent.
    misses: u64,
    /// Requests that a listing takes, as far as is known.
    pages: u64,
    used_at: Duration,
}

/// What can be said about a name without asking the store for it.
pub(super) enum Answer {
    /// It was absent at this time.
    Absent(Duration),
    /// Nothing.
    Ask,
    /// A listing would say it, and say so for other names too.
    List,
}

impl Listings {
    /// What is known of a name; `known` if it was seen before and only may have changed.
    pub(super) fn answer(
        &mut self,
        parent: Ino,
        name: &[u8],
        known: bool,
        now: Duration,
        ttl: Duration,
    ) -> Answer {
        let Some(listing) = self.directories.get_mut(&parent) else { return Answer::Ask };
        listing.used_at = now;
        if let Some((at, names)) = &listing.listed
            && now.saturating_sub(*at) < ttl
        {
            if known || names.contains(name) {
                return Answer::Ask;
            }
            listing.misses += 1;
            return Answer::Absent(*at);
        }
        // The only writer asks once for all.
        let asked = listing.misses >= listing.pages || ttl == Duration::MAX;
        let worth_it = asked && listing.pages <= MOST_PAGES;
        if worth_it && listing.running == 0 && !ttl.is_zero() { Answer::List } else { Answer::Ask }
    }

    /// A name was asked for in vain.
    pub(super) fn missed(&mut self, parent: Ino, now: Duration) {
        self.listing(parent, now).misses += 1;
    }

    /// This mount has a name that leads somewhere.
    pub(super) fn came(&mut self, parent: Ino, name: &[u8]) {
        let Some(listing) = self.directories.get_mut(&parent) else { return };
        if listing.running > 0 {
            listing.made.insert(name.to_vec());
        }
        if let Some((_, names)) = &mut listing.listed
            && names.insert(name.to_vec())
        {
            self.names += 1;
        }
    }

    /// A directory was listed at `at`, or is known to have been empty then.
    pub(super) fn learnt(&mut self, parent: Ino, at: Duration, names: HashSet<Vec<u8>>) {
        self.forget_names(parent);
        let listing = self.listing(parent, at);
        let mut names = names;
        names.extend(listing.made.iter().cloned());
        listing.misses = 0;
        let count = names.len();
        listing.listed = Some((at, names));
        self.names += count;
        if self.names > MOST_NAMES || self.directories.len() > MOST_DIRECTORIES {
            self.directories.retain(|_, listing| listing.running > 0);
            for listing in self.directories.values_mut() {
                listing.listed = None;
            }
            self.names = 0;
        }
    }

    /// What a listing of a directory costs.
    pub(super) fn costs(&mut self, parent: Ino, pages: u64, now: Duration) {
        let listing = self.listing(parent, now);
        listing.pages = pages.max(1);
        listing.misses = 0;
    }

    /// A directory is not known any more.
    pub(super) fn forget(&mut self, parent: Ino) {
        self.forget_names(parent);
        self.directories.remove(&parent);
    }

    /// Drops what is too old to be of use.
    pub(super) fn expire(&mut self, now: Duration) {
        let old: Vec<Ino> = self
            .directories
            .iter()
            .filter(|(_, listing)| {
                listing.running == 0 && now.saturating_sub(listing.used_at) > REMEMBERED
            })
            .map(|(ino, _)| *ino)
            .collect();
        for ino in old {
            self.forget(ino);
        }
    }

    fn forget_names(&mut self, parent: Ino) {
        if let Some(listing) = self.directories.get_mut(&parent)
            && let Some((_, names)) = listing.listed.take()
        {
            self.names -= names.len();
        }
    }

    fn listing(&mut self, parent: Ino, now: Duration) -> &mut Listing {
        let listing = self.directories.entry(parent).or_insert_with(|| Listing {
            listed: None,
            running: 0,
            made: HashSet::new(),
            misses: 0,
            pages: 1,
            used_at: now,
        });
        listing.used_at = now;
        listing
    }
}

/// A listing under way: names made meanwhile are not missing in what it finds.
pub(super) struct Running<'a> {
    fs: &'a FileSystem,
    parent: Ino,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut table = self.fs.table.lock();
        if let Some(listing) = table.listings.directories.get_mut(&self.parent) {
            listing.running = listing.running.saturating_sub(1);
            if listing.running == 0 {
                listing.made.clear();
            }
        }
    }
}

impl FileSystem {
    /// To be called before a directory is listed, and kept until what was found is entered.
    pub(super) fn begin_listing(&self, parent: Ino) -> Running<'_> {
        let now = self.boot_time();
        self.table.lock().listings.listing(parent, now).running += 1;
        Running { fs: self, parent }
    }

    /// What is known of a name without asking the store for it alone: `None` if that is to be done.
    pub(super) async fn known_by_listing(
        &self,
        directory: &Inode,
        name: &[u8],
    ) -> Result<Option<Dentry>, FsError> {
        let parent = directory.ino;
        for may_list in [true, false] {
            {
                let (now, ttl) = (self.boot_time(), self.trust());
                let mut table = self.table.lock();
                let current = table.name(parent, name);
                if let Some(current) = &current
                    && self.is_fresh(Some(current.checked_at))
                {
                    return Ok(Some(current.clone()));
                }
                let known = current.is_some_and(|current| current.child.is_some());
                match table.listings.answer(parent, name, known, now, ttl) {
                    Answer::Absent(at) => {
                        let dentry = Dentry { child: None, link: None, checked_at: at };
                        table.set_name(parent, name, dentry.clone());
                        return Ok(Some(dentry));
                    }
                    Answer::List if may_list => {}
                    Answer::List | Answer::Ask => return Ok(None),
                }
            }
            self.list_names(directory).await?;
        }
        Ok(None)
    }

    /// Lists a directory to know what is not in it, and which of the names known are as they were.
    async fn list_names(&self, directory: &Inode) -> Result<(), FsError> {
        let (parent, dir) = (directory.ino, directory.directory()?);
        let _running = self.begin_listing(parent);
        let asked_at = self.boot_time();
        let pages = self.table.lock().listings.listing(parent, asked_at).pages;
        let listed = if pages > 1 {
            self.volume.list_directory(dir).await?
        } else {
            match self.volume.list_small_directory(dir).await? {
                Small::Names(listed) => listed,
                Small::Pages(pages) => {
                    self.table.lock().listings.costs(parent, pages, asked_at);
                    return Ok(());
                }
            }
        };
        let known = self.table.lock().children(parent);
        let by_name: HashMap<&[u8], &Listed> =
            listed.iter().map(|entry| (entry.name.as_slice(), entry)).collect();
        for (name, inode) in known {
            if let Some(entry) = by_name.get(name.as_slice()) {
                self.is_as_listed(parent, &inode, entry, asked_at);
            }
        }
        self.listed_whole(parent, asked_at, &listed);
        Ok(())
    }

    /// Enters a listing that began at `asked_at`.
    pub(super) fn listed_whole(&self, parent: Ino, asked_at: Duration, listed: &[Listed]) {
        let mut names: HashSet<Vec<u8>> = listed.iter().map(|entry| entry.name.clone()).collect();
        let mut table = self.table.lock();
        // What was made here and not stored yet is not in the store's listing.
        names.extend(table.children(parent).into_iter().map(|(name, _)| name));
        table.listings.learnt(parent, asked_at, names);
    }
}
