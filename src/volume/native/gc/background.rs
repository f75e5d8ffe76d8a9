//! A mount's own garbage collection: when it has left enough behind, and again as long as something waits
//! for a second look; at most once in a grace period.

use super::lease;
use super::{GcError, GcSettings};
use crate::volume::native::Volume;
use futures::FutureExt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_secs(60);
/// Records replaced or buried by this session that make a run worth its listings.
const ENOUGH: u64 = 1000;
/// After this long fewer do.
const AT_LAST: Duration = Duration::from_secs(24 * 3600);

/// How long an unmount waits for the lease to be given back; else it runs out.
const PATIENCE: Duration = Duration::from_secs(10);

/// The task; ends when it is told to, or with its volume.
pub struct Background {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Background {
    /// Starts it on the runtime of the caller.
    pub fn start(volume: &Arc<Volume>, host: String) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(Arc::downgrade(volume), host, stopped));
        Self { stop, task }
    }

    /// Ends it; a run under way is cut short and gives its lease back.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!("garbage collection: {error}");
        }
    }
}

async fn run(volume: Weak<Volume>, host: String, mut stopped: oneshot::Receiver<()>) {
    let mut schedule = Schedule::default();
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(volume) = volume.upgrade() else { return };
        let settings = GcSettings { host: host.clone(), ..GcSettings::default() };
        let now = volume.age();
        if !schedule.is_due(now, volume.replaced(), settings.grace) {
            continue;
        }
        schedule.begin(now, volume.replaced());
        let work = collect(&volume, &settings).boxed();
        tokio::select! {
            _ = &mut stopped => {
                match tokio::time::timeout(PATIENCE, lease::abandon(&volume)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!("lease of gc not given back: {error}"),
                    Err(_) => tracing::warn!("lease of gc not given back: no answer"),
                }
                return;
            }
            waiting = work => schedule.waiting = waiting,
        }
    }
}

/// One run; says whether another one will find something to delete.
async fn collect(volume: &Arc<Volume>, settings: &GcSettings) -> bool {
    let result = async {
        let plan = volume.plan_collection(settings, &|_| {}).boxed().await?;
        let waiting = plan.is_waiting();
        let done = plan.execute(volume, settings, &|_| {}).boxed().await?;
        Ok::<_, GcError>((waiting, done))
    };
    match result.await {
        Ok((waiting, done)) => {
            tracing::info!(
                segments = done.segments.count,
                bytes = done.segments.bytes,
                names = done.names,
                mended = done.mended,
                "garbage collected"
            );
            waiting
        }
        // Somebody else does it.
        Err(error @ (GcError::Held { .. } | GcError::LeaseLost)) => {
            tracing::debug!("{error}");
            false
        }
        Err(error) => {
            tracing::warn!("garbage not collected: {error}");
            true
        }
    }
}

/// When the next run is due. Times are since the volume was opened.
#[derive(Default)]
struct Schedule {
    last: Duration,
    replaced: u64,
    waiting: bool,
}

impl Schedule {
    fn is_due(&self, now: Duration, replaced: u64, grace: Duration) -> bool {
        let since = now.saturating_sub(self.last);
        let left = replaced.saturating_sub(self.replaced);
        // A little later than the grace period, so that the marks are one apart.
        since > grace + grace / 10
            && (left >= ENOUGH || self.waiting || (left > 0 && since >= AT_LAST))
    }

    fn begin(&mut self, now: Duration, replaced: u64) {
        *self = Self { last: now, replaced, waiting: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3600);

    #[test]
    fn a_run_is_due_when_enough_was_left_behind_and_not_too_often() {
        let mut schedule = Schedule::default();
        assert!(!schedule.is_due(2 * GRACE, 999, GRACE));
        assert!(schedule.is_due(2 * GRACE, 1000, GRACE));
        assert!(!schedule.is_due(GRACE, 1000, GRACE));
        assert!(schedule.is_due(AT_LAST, 1, GRACE));
        assert!(!schedule.is_due(10 * AT_LAST, 0, GRACE));
        schedule.begin(2 * GRACE, 1000);
        assert!(!schedule.is_due(4 * GRACE, 1500, GRACE));
        schedule.waiting = true;
        assert!(!schedule.is_due(3 * GRACE, 1000, GRACE));
        assert!(schedule.is_due(4 * GRACE, 1000, GRACE));
    }
}
