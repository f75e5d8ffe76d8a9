//! What a worker says while its start takes long: that it goes on, as long as it does.
//!
//! Whoever has started it waits for so long and kills it then, so that one that hangs is replaced. One that
//! has maps of many files to load does not hang, and would begin anew each time. The measure is the number
//! of requests that the store has answered; a clock would say the same of one that hangs.

use super::control::send;
use super::protocol::Answer;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the starter hears of it, at most; a small part of its patience.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// Tells until it is dropped; nothing is sent after that.
pub(super) struct Progress {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Looks at a count now and then, and tells if it has grown.
    ///
    /// # Errors
    /// If there is no thread or no descriptor left.
    pub(super) fn tell(
        stream: &UnixStream,
        step: Duration,
        count: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<Self> {
        let (stream, (end, ended)) = (stream.try_clone()?, channel::<()>());
        let tell = move || {
            let mut known = count();
            while ended.recv_timeout(step) == Err(RecvTimeoutError::Timeout) {
                let now = count();
                // Nobody there: the start finds that out at its end.
                if now > known && send(&stream, &Answer::Starting).is_err() {
                    return;
                }
                known = now;
            }
        };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(tell)?;
        Ok(Self { thread: Some((end, thread)) })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.thread.take() {
            drop(end);
            // A panic there is in the log; the start goes on without it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::parse;
    use super::super::socket::receive;
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn a_start_that_goes_on_says_so_and_one_that_hangs_does_not() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let answered = Arc::new(AtomicU64::new(0));
        let count = answered.clone();
        let progress =
            Progress::tell(&ours, Duration::from_millis(10), move || count.load(Ordering::Relaxed))
                .expect("a thread");
        theirs.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
        assert!(receive(&theirs).is_err(), "nothing has happened");
        for _ in 0..2 {
            answered.fetch_add(1, Ordering::Relaxed);
            theirs.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
            let (message, _) = receive(&theirs).expect("in time").expect("a message");
            assert_eq!(parse::<Answer>(&message), Ok(Answer::Starting));
        }
        drop(progress);
        drop(ours);
        assert!(receive(&theirs).expect("read").is_none(), "nothing more");
    }
}
