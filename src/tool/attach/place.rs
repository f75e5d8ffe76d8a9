//! How a worker comes to its place and to the connection: it waits for whoever has them, in steps of
//! milliseconds, and asks a former worker to let go.

use super::locks::Part;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

/// How long a former worker may take to let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at.
const STEP: Duration = Duration::from_millis(5);

/// Asks a worker to end at once: its successor takes over what is not stored.
pub(super) const LET_GO: Signal = Signal::SIGUSR2;

/// The worker's place, until the process ends.
pub(super) struct Place {
    /// Never closed: the kernel would take that for the end of all locks.
    state: ManuallyDrop<File>,
}

impl Place {
    /// Takes the place, asking who has it to let go.
    ///
    /// # Errors
    /// `TimedOut` if the former worker does not.
    pub(super) fn take(state: &File) -> io::Result<Self> {
        let place = Self { state: ManuallyDrop::new(state.try_clone()?) };
        let mut asked = None;
        place.wait(
            Part::Place,
            "another worker serves this mount and does not let go",
            |holder| {
                if asked != Some(holder) && is_worker(holder) {
                    tracing::info!("a former worker ({holder}) is asked to let go");
                    // It may have ended just now: then there is only to wait.
                    let _ = kill(Pid::from_raw(holder), LET_GO);
                }
                asked = Some(holder);
            },
        )?;
        Ok(place)
    }

    /// From now on the connection is this process's: who answers with errors in its stead has ended.
    ///
    /// # Errors
    /// `TimedOut` if that does not come to an end.
    pub(super) fn read_requests(&self) -> io::Result<()> {
        self.wait(
            Part::Reader,
            "somebody else reads this mount's requests and does not end",
            |_| {},
        )
    }

    /// Tells everybody that programs are served.
    ///
    /// # Errors
    /// As for [`Part::take`].
    pub(super) fn served(&self) -> io::Result<()> {
        self.wait(Part::Served, "another worker says that it serves this mount", |_| {})
    }

    fn wait(&self, part: Part, late: &str, mut held_by: impl FnMut(i32)) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !part.take(&*self.state)? {
            if let Some(holder) = part.holder(&*self.state)? {
                held_by(holder);
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, late));
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }
}

/// Whether a process is one of this program, of whatever version: nobody else knows what the signal means,
/// and would die of it.
fn is_worker(pid: i32) -> bool {
    let name = |process: &str| std::fs::read(format!("/proc/{process}/comm")).ok();
    pid > 0 && name(&pid.to_string()).is_some_and(|other| Some(other) == name("self"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn only_a_worker_is_sent_the_signal() {
        let this = i32::try_from(std::process::id()).expect("a process id");
        assert!(is_worker(this));
        let mut other =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
        assert!(!is_worker(i32::try_from(other.id()).expect("a process id")));
        drop(other.stdin.take());
        other.wait().expect("it ends");
        assert!(!is_worker(0) && !is_worker(i32::MAX));
    }
}
