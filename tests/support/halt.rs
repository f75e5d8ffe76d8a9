//! Who stands before a store and stops at one of the changes that it is asked for, so that whoever asks can be killed
//! there: before the change gets to the store, or after it was made and before that is answered. Lasts as long as the
//! process.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stands before a store.
pub(crate) struct Halt {
    /// Its address, with scheme.
    pub(crate) endpoint: String,
    turn: Arc<Mutex<Turn>>,
}

#[derive(Default)]
struct Turn {
    /// Changes that pass before it stops; none: all do.
    left: Option<usize>,
    /// Whether the store gets the one that it stops at.
    arrives: bool,
    /// Nothing passes any more.
    stopped: bool,
    /// Changes are answered with 403.
    refuses: bool,
}

impl Halt {
    pub(crate) fn before(store: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let turn = Arc::<Mutex<Turn>>::default();
        let told = turn.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let turn = told.clone();
                std::thread::spawn(move || pass(&client, store, &turn));
            }
        });
        Self { endpoint, turn }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops after so many changes, at the next one; whether that is made.
    pub(crate) fn stop_after(&self, changes: usize, arrives: bool) {
        *self.turn() = Turn { left: Some(changes), arrives, ..Turn::default() };
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.turn().stopped
    }

    /// Everything passes but what is kept from passing already.
    pub(crate) fn go_on(&self) {
        *self.turn() = Turn::default();
    }

    /// From now on nothing can be changed.
    pub(crate) fn refuse(&self) {
        *self.turn() = Turn { refuses: true, ..Turn::default() };
    }
}

/// What becomes of some bytes of a client's.
enum Fate {
    Passes,
    Refused,
    Stays,
}

fn fate(turn: &Mutex<Turn>, sent: &[u8], is_last: &AtomicBool) -> Fate {
    let is_change =
        [&b"PUT /"[..], b"POST /", b"DELETE /"].iter().any(|verb| sent.starts_with(verb));
    let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    if turn.stopped {
        return Fate::Stays;
    }
    if !is_change {
        return Fate::Passes;
    }
    if turn.refuses {
        return Fate::Refused;
    }
    match turn.left {
        Some(0) if turn.arrives => {
            turn.left = None;
            is_last.store(true, Ordering::SeqCst);
            Fate::Passes
        }
        Some(0) => {
            (turn.left, turn.stopped) = (None, true);
            Fate::Stays
        }
        Some(left) => {
            turn.left = Some(left - 1);
            Fate::Passes
        }
        None => Fate::Passes,
    }
}

/// One connection.
fn pass(client: &TcpStream, store: SocketAddr, turn: &Arc<Mutex<Turn>>) -> Option<()> {
    let server = TcpStream::connect(store).ok()?;
    let (mut down, mut back) = (server.try_clone().ok()?, client.try_clone().ok()?);
    let is_last = Arc::new(AtomicBool::new(false));
    let (told, shared) = (is_last.clone(), turn.clone());
    let answers = std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(count @ 1..) = down.read(&mut buffer) {
            let is_final = !buffer.starts_with(b"HTTP/1.1 100");
            let mut turn = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if told.load(Ordering::SeqCst) && is_final {
                turn.stopped = true;
                return;
            }
            if turn.stopped || back.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        let _ = back.shutdown(Shutdown::Both);
    });
    let (mut buffer, mut stays) = (vec![0; 65536], false);
    let mut from = client;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let fate = if stays { Fate::Stays } else { fate(turn, &buffer[..count], &is_last) };
        match fate {
            // Until the client is gone.
            Fate::Stays => stays = true,
            Fate::Passes => (&server).write_all(&buffer[..count]).ok()?,
            Fate::Refused => {
                let body = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
                let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n", body.len());
                from.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).ok()?;
                // What is still on its way would reset the connection before the answer was read.
                let _ = client.shutdown(Shutdown::Write);
                while from.read(&mut buffer).is_ok_and(|count| count > 0) {}
                break;
            }
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    answers.join().ok()
}
