//! A server that asks for client certificates, and clients that have them; all of them can be replaced meanwhile.

use super::authority::Authority;
use super::minio::{cache::cache_directory, free_address};
use super::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// nginx in front of a server: it speaks TLS, and lets nobody through without a client certificate.
pub(crate) struct Gate {
    folder: TempDir,
    address: SocketAddr,
    nginx: Child,
}

impl Gate {
    /// With the files `server.crt`, `server.key` and `clients.crt`, which may be replaced.
    pub(crate) fn start(server: &Authority, clients: &Authority, upstream: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_address();
        let at = folder.path().display();
        let configuration = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/log;\n\
             user root;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
               access_log off; client_max_body_size 0; proxy_request_buffering off; proxy_buffering off;\n\
               client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/f;\n\
               uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
               server {{\n\
                 listen {address} ssl; ssl_certificate {at}/server.crt; ssl_certificate_key {at}/server.key;\n\
                 ssl_client_certificate {at}/clients.crt; ssl_verify_client on;\n\
                 location / {{ proxy_pass {upstream}; proxy_set_header Host $http_host;\n\
                   proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n\
               }}\n\
             }}\n"
        );
        fs::write(folder.path().join("nginx.conf"), configuration).expect("written");
        let files = Self::files(folder.path(), server, clients);
        assert_eq!(files, 3);
        let program = fs::read_dir(cache_directory())
            .expect("the cache")
            .map(|entry| entry.expect("an entry").path().join("usr/sbin/nginx"))
            .find(|program| program.exists())
            .expect("nginx is missing: run `make tools`");
        let nginx = Command::new(program)
            .args(["-e", text(&folder.path().join("log")), "-c"])
            .arg(folder.path().join("nginx.conf"))
            .stdout(Stdio::null())
            .spawn()
            .expect("nginx starts");
        wait_for("nginx", || TcpStream::connect(address).is_ok());
        Self { folder, address, nginx }
    }

    fn files(folder: &Path, server: &Authority, clients: &Authority) -> usize {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let name = format!("{name}-{}", super::fresh_hex::<4>());
        let signed = server.certificate(&name, "IP:127.0.0.1", "2");
        let sources = [
            (signed.join("public.crt"), "server.crt"),
            (signed.join("private.key"), "server.key"),
            (clients.file(), "clients.crt"),
        ];
        sources.iter().filter(|(from, to)| fs::copy(from, folder.join(to)).is_ok()).count()
    }

    /// Other certificates from now on; connections that there are end.
    pub(crate) fn replace(&self, server: &Authority, clients: &Authority) {
        assert_eq!(Self::files(self.folder.path(), server, clients), 3);
        let worker = || {
            let pid = self.nginx.id();
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children")
        };
        let before = worker();
        kill(Pid::from_raw(self.nginx.id() as i32), Signal::SIGHUP).expect("told");
        wait_for("nginx's new worker", || {
            let now = worker();
            !now.trim().is_empty() && now.split_whitespace().all(|pid| !before.contains(pid))
        });
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.nginx.id() as i32), Signal::SIGTERM);
        let _ = self.nginx.wait();
    }
}

/// A client's certificate and key, which a test replaces.
pub(crate) struct Identity {
    folder: TempDir,
}

impl Identity {
    pub(crate) fn new(authority: &Authority) -> Self {
        let identity = Self { folder: tempfile::tempdir().expect("a folder") };
        identity.replace(authority);
        identity
    }

    /// As cert-manager and kubelet do: new files that take the others' names.
    pub(crate) fn replace(&self, authority: &Authority) {
        let signed = authority.certificate(&super::fresh_hex::<4>(), "DNS:client", "2");
        for (from, to) in [("public.crt", self.certificate()), ("private.key", self.key())] {
            let next = to.with_extension("next");
            fs::copy(signed.join(from), &next).expect("copied");
            fs::rename(&next, &to).expect("renamed");
        }
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("client.crt")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("client.key")
    }
}
