//! Who stands before a server and looks on. Each lasts as long as the process.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A server's requests under way at once, counted by who stands before it.
pub(crate) fn most_at_once(upstream: SocketAddr) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let most = Arc::new(AtomicUsize::new(0));
    let (told, under_way) = (most.clone(), Arc::new(AtomicUsize::new(0)));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (most, under_way) = (told.clone(), under_way.clone());
            std::thread::spawn(move || {
                let server = TcpStream::connect(upstream).expect("it is there");
                let mut up = server.try_clone().expect("a second handle");
                let mut from = client.try_clone().expect("a second handle");
                let is_asked = Arc::new(AtomicBool::new(false));
                let asked = is_asked.clone();
                let counted = under_way.clone();
                // What a client sends begins a request; what the server sends ends it.
                std::thread::spawn(move || {
                    let mut buffer = [0; 65536];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        if !asked.swap(true, Ordering::SeqCst) {
                            let now = counted.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(now, Ordering::SeqCst);
                        }
                        if up.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                    let _ = up.shutdown(Shutdown::Both);
                });
                let (mut server, mut client) = (server, client);
                let mut buffer = [0; 65536];
                while let Ok(count @ 1..) = server.read(&mut buffer) {
                    if is_asked.swap(false, Ordering::SeqCst) {
                        under_way.fetch_sub(1, Ordering::SeqCst);
                    }
                    if client.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (endpoint, most)
}

/// What becomes of a connection to a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// It lasts.
    Whole,
    /// It breaks when so many bytes have been sent.
    Breaks(u64),
    /// What it is asked first is answered with 503.
    Busy,
}

/// Looks on at what is sent to a server, and sees to the fates of connections, in turn.
pub(crate) struct Front {
    /// Its address, with scheme.
    pub(crate) endpoint: String,
    sent: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicUsize>,
}

impl Front {
    /// Before a server.
    pub(crate) fn before(upstream: SocketAddr, fates: &'static [Fate]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let (sent, ended) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicUsize>::default());
        let (heads, count) = (sent.clone(), ended.clone());
        std::thread::spawn(move || {
            for (client, fate) in listener.incoming().flatten().zip(fates.iter().cycle()) {
                let (heads, count) = (heads.clone(), count.clone());
                std::thread::spawn(move || {
                    if pass(client, upstream, *fate, &heads).is_some() {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { endpoint, sent, ended }
    }

    /// How many connections came to no good.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// How many requests began so, of those that a read began with.
    pub(crate) fn asked(&self, method: &str) -> usize {
        let sent = self.sent.lock().expect("no thread failed");
        sent.split(|byte| *byte == b'\n').filter(|line| line.starts_with(method.as_bytes())).count()
    }
}

/// One connection; `Some` when it was ended from here.
fn pass(client: TcpStream, upstream: SocketAddr, fate: Fate, heads: &Mutex<Vec<u8>>) -> Option<()> {
    let server = TcpStream::connect(upstream).ok()?;
    let (mut down, mut back) = (server.try_clone().ok()?, client.try_clone().ok()?);
    let answers = std::thread::spawn(move || {
        let _ = std::io::copy(&mut down, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let (mut buffer, mut passed) = (vec![0; 65536], 0);
    let ended = loop {
        let Ok(count @ 1..) = (&client).read(&mut buffer) else { break None };
        if matches!(fate, Fate::Busy) {
            let body = "<Error><Code>SlowDown</Code><Message>later</Message></Error>";
            let head = format!("HTTP/1.1 503 Slow Down\r\nContent-Length: {}\r\n", body.len());
            let _ =
                (&client).write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes());
            // What is still on its way would reset the connection before the answer was read.
            let _ = client.shutdown(Shutdown::Write);
            while (&client).read(&mut buffer).is_ok_and(|count| count > 0) {}
            break Some(());
        }
        let line = buffer[..count].split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut heads = heads.lock().expect("no thread failed");
        heads.extend_from_slice(&line[..line.len().min(200)]);
        heads.push(b'\n');
        drop(heads);
        passed += count as u64;
        if matches!(fate, Fate::Breaks(bytes) if passed >= bytes) {
            break Some(());
        }
        if (&server).write_all(&buffer[..count]).is_err() {
            break None;
        }
    };
    let _ = server.shutdown(Shutdown::Both);
    if ended.is_some() {
        let _ = client.shutdown(Shutdown::Both);
    }
    let _ = answers.join();
    ended
}
