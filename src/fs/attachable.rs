//! What a worker serves: a file system that another process can take over, whatever its layout.

use super::burden::Burden;
use super::core::FileSystem;
use super::errno::FsError;
use super::front::Front;
use super::ledger::Ledger;
use crate::store::StoreError;
use crate::volume::native::keys;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::OwnedRwLockWriteGuard;

/// Nothing is written.
pub(crate) struct Still(
    #[expect(dead_code, reason = "held")] pub(super) Option<OwnedRwLockWriteGuard<()>>,
);

/// A file system that can go on in another process.
pub(crate) trait Attachable: Front {
    /// Where what the next process needs is written down; `None` if nobody can take over.
    fn kept(&self) -> Option<&Ledger>;

    /// This process serves: what a former one left is taken for decided.
    fn decide(&self) {}

    /// What there is to do, from memory.
    fn burden(&self) -> Burden;

    /// Stores what is not stored; returns what could not be, and why.
    fn store_everything(self: &Arc<Self>) -> impl Future<Output = Vec<(String, FsError)>> + Send;

    /// Sees to it that nothing changes as long as what is returned lives; `None` if a successor would not find
    /// everything that programs have written.
    fn hold_still(&self) -> impl Future<Output = Option<Still>> + Send;

    /// Asks the store for something small.
    fn look(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// How the store is called in messages.
    fn place(&self) -> String;

    /// Reads that memory answered and those that it did not, if there is such a cache.
    fn cache_hits(&self) -> Option<(u64, u64)>;
}

impl Attachable for FileSystem {
    fn kept(&self) -> Option<&Ledger> {
        self.recorder.as_ref().map(|recorder| &recorder.ledger)
    }

    fn decide(&self) {
        self.arena.decide();
    }

    fn burden(&self) -> Burden {
        FileSystem::burden(self)
    }

    async fn store_everything(self: &Arc<Self>) -> Vec<(String, FsError)> {
        FileSystem::store_everything(self).await
    }

    async fn hold_still(&self) -> Option<Still> {
        // Whatever is written is written down before it is answered.
        Some(Still(None))
    }

    async fn look(&self) -> Result<(), StoreError> {
        self.volume.store().head(&keys::descriptor()).await.map(drop)
    }

    fn place(&self) -> String {
        self.volume.store().describe()
    }

    fn cache_hits(&self) -> Option<(u64, u64)> {
        Some(self.volume.cache_hits())
    }
}
