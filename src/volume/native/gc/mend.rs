//! What crashes and races between nodes left half done. Every step is a conditional change of one record,
//! the same that any node makes, so that it can be cut short anywhere and does nothing to what was changed
//! since the mark.

use super::GcError;
use super::agree::Repairs;
use super::sweep::Sweep;
use super::ways::Lost;
use crate::units::{DirId, InodeId};
use crate::volume::VolumeError;
use crate::volume::native::entries::{Expect, Loaded, Place, Stored};
use crate::volume::native::record::{Attributes, Content, Record};

/// Where things go that have no way to the root.
pub const LOST_AND_FOUND: &[u8] = b"lost+found";
/// Other names of that directory, if the name is taken by something else.
const NAMES: usize = 8;

impl Sweep<'_> {
    pub(super) async fn mend(
        &mut self,
        repairs: &Repairs,
        moves: &[(Place, Place)],
        exchanges: &[Place],
    ) -> Result<(), GcError> {
        for place in exchanges {
            self.check(false).await?;
            if let Loaded::Live(a) = self.volume.load(place, None).await? {
                self.count(self.volume.finish_exchange(a).await.map(drop))?;
            }
        }
        for (from, to) in moves {
            self.check(false).await?;
            self.finish(from, to).await?;
        }
        for inode in &repairs.revived {
            self.check(false).await?;
            if let Loaded::Tombstone(buried) = self.load(*inode).await? {
                let mut record = (*buried.record).clone();
                record.buried_at = None;
                self.count(self.volume.replace(&buried, record).await.map(drop))?;
            }
        }
        for inode in &repairs.unused {
            self.check(false).await?;
            if let Loaded::Live(unused) = self.load(*inode).await? {
                self.count(self.volume.bury(&unused, false).await)?;
            }
        }
        for (inode, links) in &repairs.counts {
            self.check(false).await?;
            if let Loaded::Live(counted) = self.load(*inode).await? {
                let age = super::lease::age(counted.modified, counted.seen);
                // Changed since the mark: whoever did that counts.
                if age.is_some_and(|age| age >= self.settings.grace) {
                    let mut record = (*counted.record).clone();
                    record.links = *links;
                    self.count(self.volume.replace(&counted, record).await.map(drop))?;
                }
            }
        }
        for place in &repairs.leftovers {
            self.check(false).await?;
            if let Loaded::Live(hidden) = self.volume.load(place, None).await? {
                self.count(self.volume.bury(&hidden, true).await)?;
            }
        }
        for twice in &repairs.twice {
            self.keep_one_name(twice).await?;
        }
        self.bring_back(repairs).await
    }

    async fn bring_back(&mut self, repairs: &Repairs) -> Result<(), GcError> {
        if repairs.stranded.is_empty() && repairs.lost.is_empty() {
            return Ok(());
        }
        let shelter = self.shelter().await?;
        for (place, id) in &repairs.stranded {
            self.check(false).await?;
            if let Loaded::Live(hidden) = self.volume.load(place, None).await? {
                let name = name(id);
                self.count(
                    self.volume.rename(&hidden, shelter, &name, Expect::Free).await.map(drop),
                )?;
                self.done.found += 1;
            }
        }
        for lost in &repairs.lost {
            self.check(false).await?;
            match *lost {
                Lost::Unnamed(dir) => {
                    let attributes = self.attributes();
                    let record = Record::new(attributes, Content::Directory(dir));
                    let made = self.volume.create(shelter, &name(&dir.0), record).await;
                    self.count(made.map(drop))?;
                    self.done.found += 1;
                }
                Lost::Cycle { parent, child } => {
                    if let Some(entry) = self.entry_of(parent, child).await? {
                        let name = name(&child.0);
                        let moved = self.volume.rename(&entry, shelter, &name, Expect::Free).await;
                        self.count(moved.map(drop))?;
                        self.done.found += 1;
                    }
                }
            }
        }
        Ok(())
    }

    async fn finish(&mut self, from: &Place, to: &Place) -> Result<(), GcError> {
        let (from, to) = (self.volume.load(from, None).await?, self.volume.load(to, None).await?);
        let (Loaded::Live(from), Loaded::Live(to)) = (from, to) else { return Ok(()) };
        let salt = to.record.moved_from.as_ref().map(|moved| moved.salt);
        if salt == Some(from.salt) {
            self.count(self.volume.finish_move(&from, &to).await.map(drop))?;
        }
        Ok(())
    }

    async fn load(&self, inode: InodeId) -> Result<Loaded, GcError> {
        Ok(self.volume.load(&Place::Inode(inode), None).await?)
    }

    /// The directory in the root that takes in what was lost.
    async fn shelter(&self) -> Result<DirId, GcError> {
        let root = self.volume.root_directory();
        for number in 0..NAMES {
            let mut wanted = LOST_AND_FOUND.to_vec();
            if number > 0 {
                wanted.extend(format!(".{number}").into_bytes());
            }
            if let Some(found) = self.volume.lookup(root, &wanted).await? {
                match found.home().record.directory() {
                    Some(dir) => return Ok(dir),
                    None => continue,
                }
            }
            let id = DirId(self.volume.world().entropy.bytes());
            let record = Record::new(self.attributes(), Content::Directory(id));
            match self.volume.create(root, &wanted, record).await {
                Ok(_) => return Ok(id),
                // Another node made something of this name just now: the next run looks again.
                Err(error) => return Err(error.into()),
            }
        }
        Err(VolumeError::Exists("lost+found".to_owned()).into())
    }

    /// Whoever owned it is not known: for root alone.
    fn attributes(&self) -> Attributes {
        let now = self.volume.world().clock.now();
        let times =
            Attributes { atime: now, mtime: now, ctime: now, btime: now, ..Attributes::default() };
        Attributes { mode: 0o700, ..times }
    }

    /// The entry in `parent` that leads to `child`.
    async fn entry_of(&self, parent: DirId, child: DirId) -> Result<Option<Stored>, GcError> {
        let listed = self.volume.list_directory(parent).await?;
        let places = listed.into_iter().map(|listed| Place::Entry(parent, listed.name));
        let found = self.volume.load_many(places.collect()).await?;
        Ok(found.into_iter().find(|entry| entry.record.directory() == Some(child)))
    }

    /// What somebody changed meanwhile is left as it is.
    pub(super) fn count(&mut self, result: Result<(), VolumeError>) -> Result<(), GcError> {
        match result {
            Ok(()) => self.done.mended += 1,
            Err(VolumeError::Conflict(_) | VolumeError::Exists(_) | VolumeError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// The name of something that has lost its own: its id, which no two things share.
pub(super) fn name(id: &[u8; 16]) -> Vec<u8> {
    data_encoding::HEXLOWER.encode(id).into_bytes()
}
