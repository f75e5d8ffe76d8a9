//! Servers that do not speak S3: of FTP (one that lists for machines, one that does not), of Azure's blobs, of
//! Google's own protocol. Each ends with the value that stands for it.

use crate::google_parts;
use crate::support::minio::cache::cached;
use crate::support::minio::free_address;
use crate::support::{ends_with_this_thread, fresh_hex, wait_for};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use tempfile::TempDir;

/// The account that Azurite knows, and its key: both are in its documentation.
pub(crate) const ACCOUNT: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// A server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) user: String,
    pub(crate) password: String,
    /// What it stores, or keeps for itself.
    pub(crate) data: TempDir,
    /// The server, and the thread that the kernel ends it with.
    running: (Child, Sender<()>),
    command: Box<dyn Fn() -> Command + Send + Sync>,
    what: &'static str,
}

/// What TLS is spoken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secured<'a> {
    No,
    /// With this certificate and its key, once it is asked for.
    Explicit(&'a Path),
    /// From the first byte on.
    Implicit(&'a Path),
}

impl Server {
    fn start(
        what: &'static str,
        command: impl Fn(SocketAddr, &Path, &str, &str) -> Command + Send + Sync + 'static,
    ) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let (user, password) = (format!("u{}", fresh_hex::<4>()), fresh_hex::<16>());
        let (path, name, secret) = (data.path().to_owned(), user.clone(), password.clone());
        let command = Box::new(move || command(address, &path, &name, &secret));
        let running = spawn(what, command());
        let server = Self { address, user, password, data, running, command, what };
        server.wait();
        server
    }

    fn wait(&self) {
        wait_for(self.what, || TcpStream::connect(self.address).is_ok());
    }

    /// Ends it as if it had crashed, and starts it anew with the same files.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.running = spawn(self.what, (self.command)());
        self.wait();
    }

    /// A server of FTP that lists for machines (pyftpdlib). Its files are below `files` of its data.
    pub(crate) fn ftp(secured: Secured<'_>) -> Self {
        Self::ftp_allowing(secured, "elradfmwMT")
    }

    /// The same for somebody who may do only this: a letter each, as pyftpdlib has them.
    pub(crate) fn ftp_allowing(secured: Secured<'_>, permissions: &'static str) -> Self {
        let (certificate, way) = match secured {
            Secured::No => (None, ""),
            Secured::Explicit(certificate) => (Some(certificate.to_owned()), "explicit"),
            Secured::Implicit(certificate) => (Some(certificate.to_owned()), "implicit"),
        };
        Self::start("pyftpdlib", move |address, data, user, password| {
            let files = data.join("files");
            fs::create_dir_all(&files).expect("made");
            let script =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/datasafed/ftp_server.py");
            let mut command = Command::new("/usr/bin/python3");
            command.arg(script).arg(files);
            command.args([&address.port().to_string(), user, password, permissions]);
            if let Some(certificate) = &certificate {
                command.arg(certificate).arg(way);
            }
            command
        })
    }

    /// One that knows only LIST (vsftpd), for everybody.
    pub(crate) fn old_ftp() -> Self {
        let mut server = Self::start("vsftpd", |address, data, _, _| {
            let files = data.join("files");
            fs::create_dir_all(&files).expect("made");
            let unpacked = unpacked("usr/sbin/vsftpd");
            // Its configuration file has to be there, and root's alone.
            let none = data.join("vsftpd.conf");
            fs::write(&none, "").expect("written");
            let mut command = Command::new(unpacked.join("usr/sbin/vsftpd"));
            command.env("LD_LIBRARY_PATH", unpacked.join("usr/lib/x86_64-linux-gnu")).arg(none);
            let settings = [
                "listen=YES".to_owned(),
                "background=NO".to_owned(),
                "listen_address=127.0.0.1".to_owned(),
                format!("listen_port={}", address.port()),
                format!("anon_root={}", files.display()),
                "run_as_launching_user=YES".to_owned(),
                "ftp_username=nobody".to_owned(),
                "anonymous_enable=YES".to_owned(),
                "no_anon_password=YES".to_owned(),
                "write_enable=YES".to_owned(),
                "anon_upload_enable=YES".to_owned(),
                "anon_mkdir_write_enable=YES".to_owned(),
                "anon_other_write_enable=YES".to_owned(),
                "anon_world_readable_only=NO".to_owned(),
                "anon_umask=022".to_owned(),
                "mdtm_write=YES".to_owned(),
                "use_localtime=NO".to_owned(),
                "ls_recurse_enable=NO".to_owned(),
                "force_dot_files=YES".to_owned(),
                "xferlog_enable=NO".to_owned(),
                "seccomp_sandbox=NO".to_owned(),
            ];
            command.args(settings.map(|setting| format!("-o{setting}")));
            command
        });
        "anonymous".clone_into(&mut server.user);
        server
    }

    /// A server of Azure's blobs (Azurite).
    pub(crate) fn azure() -> Self {
        Self::start("Azurite", |address, data, _, _| {
            let program = "azurite-3.37.0/node_modules/azurite/dist/src/blob/main.js";
            let mut command = Command::new("node");
            command.arg(cached(program)).arg("--silent").arg("--disableTelemetry");
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &address.port().to_string()]);
            command.arg("--location").arg(data).arg("--skipApiVersionCheck");
            command
        })
    }

    /// A server of Google's own protocol, with the buckets that are directories of its data.
    pub(crate) fn google(buckets: &[String]) -> Self {
        let buckets = buckets.to_vec();
        let front = free_address();
        let mut server = Self::start("fake-gcs-server", move |address, data, _, _| {
            for bucket in &buckets {
                fs::create_dir_all(data.join(bucket)).expect("made");
            }
            let mut command = Command::new(cached("bin/fake-gcs-server-v1.56.1"));
            let port = address.port().to_string();
            let url = format!("http://{front}");
            command.args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port]);
            command.args(["-backend", "filesystem", "-external-url", &url, "-public-host"]);
            command.arg(front.to_string()).arg("-filesystem-root").arg(data);
            command
        });
        google_parts::serve(front, server.address);
        server.address = front;
        server
    }

    /// The endpoint of a server of HTTP.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The files of a server of FTP.
    pub(crate) fn files(&self) -> PathBuf {
        self.data.path().join("files")
    }

    /// Ends it.
    pub(crate) fn kill(&mut self) {
        let _ = self.running.0.kill();
        let _ = self.running.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server that the kernel ends when the sender is gone.
fn spawn(what: &str, mut command: Command) -> (Child, Sender<()>) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (lasts, lasted) = channel::<()>();
    let (started, child) = channel();
    std::thread::spawn(move || {
        ends_with_this_thread(&mut command, Signal::SIGKILL);
        let _ = started.send(command.spawn());
        let _ = lasted.recv();
    });
    let child = child.recv().expect("the thread answers");
    (child.unwrap_or_else(|error| panic!("{what}: {error}: run `make tools`")), lasts)
}

/// The directory of a Debian package that is unpacked in the cache, by one of its files.
fn unpacked(file: &str) -> PathBuf {
    fs::read_dir(crate::support::minio::cache::cache_directory())
        .expect("the cache")
        .map(|entry| entry.expect("an entry").path())
        .find(|place| place.join(file).exists())
        .unwrap_or_else(|| panic!("{file} is missing: run `make tools`"))
}
