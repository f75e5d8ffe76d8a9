//! One volume's worker: started, watched, asked, and started again when it dies.
//!
//! The worker process is a child of this one, but not bound to its life. When this process ends, the worker
//! sees the end of its socket, goes on serving until everything that programs have written is stored, and
//! then ends by itself; the kernel's requests wait. The next start on the same [`Device`] asks a worker that
//! is still there to let go at once: what is not stored lies in the memory that the keeper holds. So data
//! survive either way, and at no time do two workers serve one mount (they hold a lock on the state).
//! Rejected: ending workers with their parent (PDEATHSIG), which would make every restart of the node plugin
//! an outage; and a listening socket for each worker, by which a restarted node plugin could find it again,
//! which leaves workers of an old version running for ever.

mod meeting;

use crate::keeper::Device;
use meeting::{CONNECTING, Place, accept};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use strongroom::tool::attach::protocol::{
    Answer, Derived, FailureKind, Health, Hello, Request, Secrets, Settings, Stats, VERSION,
    arguments, encode, parse,
};
use strongroom::tool::attach::socket;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// How long a worker may take until it serves, or says that its start goes on: the store may have to be waited
/// for.
const STARTING: Duration = Duration::from_secs(120);
/// How long an answer from memory may take.
const ANSWERING: Duration = Duration::from_secs(10);
/// How long a store is waited for when it is asked whether it is there.
const HEALTH: Duration = Duration::from_secs(5);
/// How long a drain waits for the next worker where none serves.
const RETURN: Duration = Duration::from_secs(20);
/// How long the last drain of a worker may take before it is ended all the same.
const STOPPING: Duration = Duration::from_secs(30);
/// The waits between starts that failed.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Workers that served are replaced at once: requests of programs wait. Where more than so many die within a
/// minute the next ones are waited for, longer each time, since each asks the store for what it needs.
const DEATHS: usize = 30;
const MINUTE: Duration = Duration::from_secs(60);

/// Why a worker could not be started or asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct WorkerError {
    /// What the caller can do about it.
    pub kind: FailureKind,
    /// For people.
    pub message: String,
}

/// What a drain came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Bytes that are not in the store yet; 0 when all is well.
    pub bytes_left: u64,
    /// What could not be stored, and why; the first few.
    pub failures: Vec<String>,
}

/// What a worker is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves.
    Serving {
        /// How many workers served this mount before.
        takeovers: u64,
    },
    /// It died, or could not be started again yet: requests wait.
    Restarting {
        /// Starts that failed, one after the other.
        failures: u32,
        /// Why the last one did.
        message: String,
    },
    /// It was told to stop.
    Stopped,
}

/// One volume's worker and its supervisor. Dropping it ends the supervisor; see the module for the process.
pub struct Worker {
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
}

struct Shared {
    binary: PathBuf,
    device: Device,
    settings: Settings,
    secrets: Mutex<Secrets>,
    /// The connection to the worker that serves now. Taken for one question and its answer.
    stream: tokio::sync::Mutex<Option<Arc<UnixStream>>>,
    state: watch::Sender<State>,
    /// No more starts.
    ending: watch::Sender<bool>,
}

impl Worker {
    /// Starts the worker of a staged volume, and returns when it serves. `binary` is the `strongroom`
    /// program. A worker of a former process that still serves the volume is asked to let go.
    ///
    /// # Errors
    /// The worker's own message and kind; nothing is left running then.
    pub async fn start(
        binary: &Path,
        device: Device,
        settings: &Settings,
        secrets: Secrets,
    ) -> Result<Self, WorkerError> {
        let shared = Arc::new(Shared {
            binary: binary.to_owned(),
            device,
            settings: settings.clone(),
            secrets: Mutex::new(secrets),
            stream: tokio::sync::Mutex::default(),
            state: watch::Sender::new(State::Restarting { failures: 0, message: String::new() }),
            ending: watch::Sender::new(false),
        });
        let child = shared.start_one().await?;
        let supervisor = tokio::spawn(supervise(shared.clone(), child));
        Ok(Self { shared, supervisor })
    }

    /// What it does; from memory, so it answers also when the store does not.
    pub async fn stats(&self) -> Result<Stats, WorkerError> {
        match self.shared.ask(&Request::Stats, ANSWERING).await? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(unexpected(&self.shared.settings, other)),
        }
    }

    /// Whether the store answers, within a few seconds.
    pub async fn health(&self) -> Result<Health, WorkerError> {
        let request = Request::Health { within: millis(HEALTH) };
        match self.shared.ask(&request, HEALTH + ANSWERING).await? {
            Answer::Health(health) => Ok(health),
            other => Err(unexpected(&self.shared.settings, other)),
        }
    }

    /// Other keys from now on, also for later workers. The passphrase stays as it is.
    pub async fn credentials(&self, secrets: Secrets) -> Result<(), WorkerError> {
        {
            let mut kept = self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            let mut new = secrets.copied();
            new.passphrase = kept.passphrase.clone();
            new.derived = kept.derived.clone();
            *kept = new;
        }
        match self.shared.ask(&Request::Credentials { secrets }, ANSWERING).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&self.shared.settings, other)),
        }
    }

    /// What was derived from the passphrase, for a [`Worker::start`] by another process.
    pub fn derived(&self) -> Derived {
        let secrets = self.shared.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.derived.clone()
    }

    /// Stores what programs have written, for so long at most; what is left then can be drained by another
    /// call. Where no worker serves just now, the next one is waited for.
    pub async fn drain(&self, deadline: Duration) -> Result<Drained, WorkerError> {
        let mut state = self.state();
        let settled = state.wait_for(|state| !matches!(state, State::Restarting { .. }));
        // Where it takes too long, the answer below says why there is none.
        let _ = tokio::time::timeout(RETURN, settled).await;
        let request = Request::Drain { within: millis(deadline) };
        match self.shared.ask(&request, deadline + ANSWERING).await? {
            Answer::Drained { bytes_left, failures } => Ok(Drained { bytes_left, failures }),
            other => Err(unexpected(&self.shared.settings, other)),
        }
    }

    /// Ends the supervisor and the worker, which stores first what it can. What it cannot stays in the
    /// keeper's memory for the next one, unless the volume is unstaged.
    pub async fn stop(mut self) {
        self.shared.ending.send_replace(true);
        // Gone already, or it answers when it is about to end.
        let _ = self.shared.ask(&Request::Stop, STOPPING).await;
        if tokio::time::timeout(STOPPING, &mut self.supervisor).await.is_err() {
            self.supervisor.abort();
        }
        self.shared.state.send_replace(State::Stopped);
    }

    /// What it is doing, and every change of that.
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// The settings that it was started with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.ending.send_replace(true);
        // The worker sees the end of its connection, if no question is under way.
        if let Ok(mut stream) = self.shared.stream.try_lock() {
            *stream = None;
        }
    }
}

/// Waits for the worker's end and starts the next one, again and again.
async fn supervise(shared: Arc<Shared>, mut child: Child) {
    let mut ending = shared.ending.subscribe();
    let mut deaths: VecDeque<Instant> = VecDeque::new();
    loop {
        let ended = tokio::select! {
            ended = child.wait() => ended,
            // The worker ends by itself, see above; its end is waited for by whoever told it to.
            () = told(&mut ending) => {
                let _ = tokio::time::timeout(STOPPING, child.wait()).await;
                return;
            }
        };
        *shared.stream.lock().await = None;
        deaths.push_back(Instant::now());
        deaths.retain(|death| death.elapsed() < MINUTE);
        let mut failures = 0;
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        let name = &shared.settings.name;
        let mut message = format!("volume {name}: its worker ended: {how}");
        loop {
            if *ending.borrow() {
                return;
            }
            tracing::warn!(failures, "{message}; the next one is started");
            shared.state.send_replace(State::Restarting { failures, message });
            tokio::select! {
                () = tokio::time::sleep(wait(failures, deaths.len())) => {}
                () = told(&mut ending) => return,
            }
            failures += 1;
            match shared.start_one().await {
                Ok(next) => {
                    child = next;
                    break;
                }
                Err(error) => message = format!("volume {name}: {error}"),
            }
        }
    }
}

/// The wait before the next start, after so many in a row that failed and so many deaths within a minute.
fn wait(failures: u32, deaths: usize) -> Duration {
    let frequent = u32::try_from(deaths.saturating_sub(DEATHS)).unwrap_or(u32::MAX);
    match failures.max(frequent) {
        0 => Duration::ZERO,
        more => (FIRST_WAIT * 2_u32.saturating_pow(more.min(10) - 1)).min(LONGEST_WAIT),
    }
}

/// Returns when no more workers are to be started.
async fn told(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

impl Shared {
    /// Starts one process, hands everything over, and waits until it serves.
    async fn start_one(&self) -> Result<Child, WorkerError> {
        let name = &self.settings.name;
        let failed =
            |what: &str, error: io::Error| other(format!("volume {name}: worker: {what}: {error}"));
        let place = Place::make().map_err(|error| failed("socket", error))?;
        let listener =
            UnixListener::bind(&place.socket).map_err(|error| failed("socket", error))?;
        let mut command = Command::new(&self.binary);
        command.args(arguments(&place.socket)).stdin(Stdio::null()).stdout(Stdio::null());
        // Nothing of this process's environment but what a program needs to run, and the log's level.
        command.env_clear();
        for variable in [
            "PATH",
            "HOME",
            "STRONGROOM_LOG",
            "STRONGROOM_LOG_FORMAT",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ] {
            if let Some(value) = std::env::var_os(variable) {
                command.env(variable, value);
            }
        }
        // Signals from a terminal are this process's to handle.
        command.process_group(0);
        let binary = self.binary.display();
        let mut child =
            command.spawn().map_err(|error| failed(&format!("start {binary}"), error))?;
        let greeted = match self.greet(&listener, &mut child).await {
            Ok(greeted) => greeted,
            Err(error) => {
                let _ = child.kill().await;
                return Err(error);
            }
        };
        let (stream, takeovers) = greeted;
        *self.stream.lock().await = Some(Arc::new(stream));
        self.state.send_replace(State::Serving { takeovers });
        Ok(child)
    }

    /// Hands settings, secrets and descriptors over to a new process.
    async fn greet(
        &self,
        listener: &UnixListener,
        child: &mut Child,
    ) -> Result<(UnixStream, u64), WorkerError> {
        let name = self.settings.name.clone();
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            other(format!("volume {name}: worker: {what}: {error}"))
        };
        let stream =
            accept(listener, child).await.map_err(|error| failed("no connection", &error))?;
        let hello = {
            let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner).copied();
            encode(&Hello { version: VERSION, settings: self.settings.clone(), secrets })
        };
        let copies = self.device.try_clone().map_err(|error| failed("descriptors", &error))?;
        let exchange = move || -> io::Result<(UnixStream, Option<Zeroizing<Vec<u8>>>)> {
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(CONNECTING))?;
            stream.set_read_timeout(Some(STARTING))?;
            let descriptors = [copies.fuse.as_fd(), copies.arena.as_fd(), copies.state.as_fd()];
            socket::send(&stream, &hello, &descriptors)?;
            loop {
                let answer = socket::receive(&stream)?.map(|(answer, _)| Zeroizing::new(answer));
                // Each of these begins a new wait.
                if answer.as_ref().map(|answer| parse(answer)) != Some(Ok(Answer::Starting)) {
                    return Ok((stream, answer));
                }
            }
        };
        let (stream, answer) = tokio::task::spawn_blocking(exchange)
            .await
            .map_err(|error| failed("start", &error))?
            .map_err(|error| failed("it does not serve", &error))?;
        let answer = answer.ok_or_else(|| failed("it ended before it served", &"see its log"))?;
        match parse(&answer).map_err(|why| failed("its answer", &why))? {
            Answer::Serving { takeovers, derived } => {
                let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
                secrets.derived = derived;
                Ok((stream, takeovers))
            }
            answer => Err(unexpected(&self.settings, answer)),
        }
    }

    /// Asks the worker that serves now. A caller may give up waiting: the question is asked to its end all
    /// the same, so that its answer is not taken for that of the next one.
    async fn ask(
        self: &Arc<Self>,
        request: &Request,
        within: Duration,
    ) -> Result<Answer, WorkerError> {
        let (shared, message) = (self.clone(), encode(request));
        let asked = tokio::spawn(async move { shared.ask_to_the_end(message, within).await });
        asked.await.unwrap_or_else(|error| Err(other(error.to_string())))
    }

    async fn ask_to_the_end(
        &self,
        message: Zeroizing<Vec<u8>>,
        within: Duration,
    ) -> Result<Answer, WorkerError> {
        let name = &self.settings.name;
        let mut slot = self.stream.lock().await;
        let stream = slot.clone().ok_or_else(|| {
            let state = self.state.borrow().clone();
            let why = match state {
                State::Restarting { message, .. } => message,
                _ => "it was stopped".to_owned(),
            };
            let message = format!("volume {name}: no worker now: {why}");
            WorkerError { kind: FailureKind::Busy, message }
        })?;
        let exchange = move || -> io::Result<Option<Vec<u8>>> {
            stream.set_read_timeout(Some(within))?;
            socket::send(&stream, &message, &[])?;
            Ok(socket::receive(&stream)?.map(|(answer, _)| answer))
        };
        let answered =
            tokio::task::spawn_blocking(exchange).await.map_err(io::Error::other).flatten();
        let why = match answered {
            Ok(Some(answer)) => match parse(&answer) {
                Ok(Answer::Failed { kind, message }) => return Err(WorkerError { kind, message }),
                Ok(answer) => return Ok(answer),
                Err(why) => why,
            },
            Ok(None) => "it ended".to_owned(),
            Err(error) => error.to_string(),
        };
        // An answer that comes late must not be taken for that of the next question. The worker sees the
        // end of this connection, stores everything and ends; the supervisor starts the next one.
        *slot = None;
        let message = format!("volume {name}: its worker does not answer: {why}");
        self.state.send_if_modified(|state| {
            let serves = matches!(state, State::Serving { .. });
            if serves {
                *state = State::Restarting { failures: 0, message: message.clone() };
            }
            serves
        });
        Err(other(message))
    }
}

fn unexpected(settings: &Settings, answer: Answer) -> WorkerError {
    match answer {
        Answer::Failed { kind, message } => WorkerError { kind, message },
        _ => other(format!("volume {}: worker: another answer than expected", settings.name)),
    }
}

fn other(message: String) -> WorkerError {
    WorkerError { kind: FailureKind::Other, message }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_served_is_replaced_at_once_and_one_that_fails_ever_later() {
        for deaths in 1..=DEATHS {
            assert_eq!(wait(0, deaths), Duration::ZERO);
        }
        assert_eq!(wait(0, DEATHS + 1), FIRST_WAIT);
        assert_eq!(wait(1, 1), FIRST_WAIT);
        assert_eq!(wait(4, 1), FIRST_WAIT * 8);
        assert_eq!(wait(u32::MAX, 1), LONGEST_WAIT);
        assert_eq!(wait(0, usize::MAX), LONGEST_WAIT);
    }
}
