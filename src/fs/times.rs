//! The times of directories, which change with their entries: kept in memory while those come and go, and
//! stored when they have not for a while, or before an unmount. A killed server loses those it had not stored.

use super::core::FileSystem;
use super::inode::{Inode, State};
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;

/// How long a directory's entries do not change before its times are stored: not in the middle of a
/// backup that makes thousands.
const QUIET: Duration = Duration::from_secs(20);
/// Directories whose times are stored side by side at the end.
const AT_ONCE: usize = 32;

impl FileSystem {
    /// The same for all, before an unmount.
    pub(super) async fn store_all_times(self: &Arc<Self>) {
        let inodes = self.table.lock().all();
        futures::stream::iter(inodes)
            .for_each_concurrent(AT_ONCE, |inode| async move {
                self.store_times(&inode, true).await;
            })
            .await;
    }

    /// Stores the times of a directory whose entries have not changed for [`QUIET`], or at all events.
    /// Nobody waits for these times, and whoever else changed the directory gave it later ones, so that a
    /// failure is no more than a line in the log.
    pub(super) async fn store_times(self: &Arc<Self>, inode: &Arc<Inode>, at_all_events: bool) {
        let now = self.now();
        let is_due = |state: &State| {
            // A clock that went back is no reason to wait.
            let since = now.0.saturating_sub(state.attributes.ctime.0).unsigned_abs();
            let is_quiet = at_all_events || u128::from(since) >= QUIET.as_nanos();
            state.times_pending && !state.unlinked && !state.is_changed() && is_quiet
        };
        if !is_due(&inode.state.lock()) {
            return;
        }
        let turn = inode.turn.lock().await;
        let (home, record, modified) = {
            let mut state = inode.state.lock();
            if !is_due(&state) {
                return;
            }
            state.times_pending = false;
            let Some(home) = state.home.clone() else { return };
            let Ok(record) = self.record(inode, &state) else { return };
            (home, record, state.modified)
        };
        match self.volume.replace(&home, record).await {
            Ok(stored) => self.published(&mut inode.state.lock(), stored, modified),
            Err(error) => {
                let place = &home.place;
                tracing::debug!(%place, "times of a directory not stored: {error}");
                inode.state.lock().checked_at = None;
            }
        }
        drop(turn);
        self.table.lock().drop_if_unused(inode.ino);
    }
}
