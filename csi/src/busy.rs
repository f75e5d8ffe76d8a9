//! One call at a time for each volume. The standard lets a second one be told to come back later (ABORTED),
//! which is what happens here: nothing queues behind a store that does not answer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Status;

/// The volumes that calls are at work on.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<Mutex<HashSet<String>>>);

impl Busy {
    /// Begins work on a volume, until the turn is dropped.
    ///
    /// # Errors
    /// ABORTED while another call is at work on it.
    pub fn begin(&self, volume: &str) -> Result<Turn, Status> {
        let mut volumes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !volumes.insert(volume.to_owned()) {
            return Err(Status::aborted(format!(
                "volume {volume}: another call is at work on it: try again"
            )));
        }
        Ok(Turn { busy: self.clone(), volume: volume.to_owned() })
    }
}

/// The right to work on a volume.
#[derive(Debug)]
pub struct Turn {
    busy: Busy,
    volume: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.volume);
    }
}

/// Runs a call to its end although its caller may go away: what it has begun it finishes or undoes, and its
/// turn ends when it does.
pub async fn to_its_end<T: Send + 'static>(
    call: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(call).await.unwrap_or_else(|error| {
        Err(Status::internal(format!("the call ended early: {error}: please report this")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_on_a_volume_is_told_to_come_back() {
        let busy = Busy::default();
        let turn = busy.begin("a").expect("free");
        assert_eq!(busy.begin("a").expect_err("busy").code(), tonic::Code::Aborted);
        assert!(busy.begin("b").is_ok());
        drop(turn);
        assert!(busy.begin("a").is_ok());
    }
}
