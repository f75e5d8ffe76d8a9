//! Milliseconds on each round trip to a server: toxiproxy, since not every kernel has netem.

use super::support::minio::cache::cache_directory;
use super::support::minio::free_address;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = "toxiproxy-v2.5.0";

/// A running proxy, ended on drop.
pub(crate) struct Proxy {
    /// Where it listens, with scheme.
    pub(crate) endpoint: String,
    server: Child,
}

impl Proxy {
    /// A proxy before `upstream` (`http://host:port`) that answers `milliseconds` later.
    pub(crate) fn start(upstream: &str, milliseconds: u64) -> Self {
        let program = cache_directory().join("bin").join(PROGRAM);
        let (control, listen) = (free_address(), free_address());
        let server = Command::new(&program)
            .args(["-host", "127.0.0.1", "-port", &control.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: run `make bench`", program.display()));
        super::support::wait_for("toxiproxy", || TcpStream::connect(control).is_ok());
        let upstream = upstream.trim_start_matches("http://");
        let proxy = serde_json::json!({
            "name": "store", "listen": listen.to_string(), "upstream": upstream, "enabled": true,
        });
        post(control, "/proxies", &proxy);
        let toxic = serde_json::json!({
            "name": "latency", "type": "latency", "stream": "downstream",
            "attributes": { "latency": milliseconds, "jitter": 0 },
        });
        post(control, "/proxies/store/toxics", &toxic);
        Self { endpoint: format!("http://{listen}"), server }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn post(control: SocketAddr, path: &str, body: &serde_json::Value) {
    let body = body.to_string();
    let mut connection = TcpStream::connect(control).expect("toxiproxy answers");
    write!(
        connection,
        "POST {path} HTTP/1.1\r\nHost: {control}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 20"), "toxiproxy: {answer}");
}
