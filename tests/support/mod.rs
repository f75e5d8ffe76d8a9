//! Volumes, mounts and runs of the tool for the integration tests. Every volume has a temporary
//! directory and a secret of its own; every output of every run is searched for that secret. What a
//! test leaves behind, also a failing one, is unmounted, ended by its process id and removed on drop.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a failing test has to say")]

pub(crate) mod authority;
pub(crate) mod front;
pub(crate) mod gate;
pub(crate) mod issuer;
pub(crate) mod minio;
pub(crate) mod programs;

use minio::Minio;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program under test.
pub(crate) const STRONGROOM: &str = env!("CARGO_BIN_EXE_strongroom");
/// How long anything may take that is not a transfer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where a volume's objects lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A directory, by `file://`.
    Dir,
    /// A bucket of a MinIO server, by `s3://`.
    Minio,
}

/// Defines each function of one [`Backend`] argument as a test on every backend.
#[allow(unused_macros, reason = "each test binary uses its own part")]
macro_rules! on_every_backend {
    ($($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        mod directory {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(crate::support::Backend::Dir) })+
        }
        mod minio {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(crate::support::Backend::Minio) })+
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use on_every_backend;

/// A volume in a place of its own.
pub(crate) struct Volume {
    /// Holds everything: store, secret, mount points, logs.
    pub(crate) temporary: TempDir,
    /// The volume's URL, without a path.
    pub(crate) url: String,
    /// Whether the passphrase file is in the environment of what is run.
    pub(crate) encrypted: bool,
    /// The passphrase, which must be in no output.
    pub(crate) passphrase: String,
    /// The server, as long as the volume is there.
    pub(crate) minio: Option<Arc<Minio>>,
}

impl Volume {
    /// An encrypted volume on a store.
    pub(crate) fn new(backend: Backend) -> Self {
        Self::with_suite(backend, "AES-256-GCM")
    }

    /// A volume with an encryption suite by name.
    pub(crate) fn with_suite(backend: Backend, suite: &str) -> Self {
        let mut volume = Self::place(backend);
        volume.encrypted = suite != "none";
        // The raw derivation takes no time; the secret has the 32 random bytes it asks for.
        volume.tool(["init", &volume.url, "--encryption", suite, "--kdf", "raw"]).succeeded();
        volume
    }

    /// The place for a volume, before `init`.
    pub(crate) fn place(backend: Backend) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let passphrase = fresh_hex::<32>();
        let path = temporary.path().join("passphrase");
        std::fs::write(&path, format!("{passphrase}\n")).expect("passphrase written");
        set_mode(&path, 0o600);
        let (url, minio) = match backend {
            Backend::Dir => (format!("file://{}/store", temporary.path().display()), None),
            Backend::Minio => {
                let minio = Minio::shared();
                let bucket = minio.new_bucket();
                (format!("s3://{bucket}/volume"), Some(minio))
            }
        };
        Self { temporary, url, encrypted: true, passphrase, minio }
    }

    /// A volume on a server of its own, which may be stopped.
    pub(crate) fn on(minio: Minio) -> Self {
        let mut volume = Self::place(Backend::Dir);
        volume.url = format!("s3://{}/volume", minio.new_bucket());
        volume.minio = Some(Arc::new(minio));
        volume.tool(["init", &volume.url, "--kdf", "raw"]).succeeded();
        volume
    }

    /// A volume in a bucket of a server that others use too.
    pub(crate) fn in_bucket(minio: Arc<Minio>, bucket: &str) -> Self {
        let mut volume = Self::place(Backend::Dir);
        volume.url = format!("s3://{bucket}/volume");
        volume.minio = Some(minio);
        volume.tool(["init", &volume.url, "--kdf", "raw"]).succeeded();
        volume
    }

    /// A place for files that are not encrypted, on a server that others use too.
    pub(crate) fn place_in(minio: Arc<Minio>, url: &str) -> Self {
        let mut volume = Self::place(Backend::Dir);
        volume.url = url.to_owned();
        volume.encrypted = false;
        volume.minio = Some(minio);
        volume
    }

    /// The URL of a path in the volume.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}//{path}", self.url)
    }

    /// A path in the volume's temporary directory, outside its store.
    pub(crate) fn local(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// The store's directory of a volume on [`Backend::Dir`].
    pub(crate) fn store(&self) -> PathBuf {
        self.temporary.path().join("store")
    }

    /// The passphrase file.
    pub(crate) fn passphrase_file(&self) -> PathBuf {
        self.temporary.path().join("passphrase")
    }

    /// The program with the volume's environment and nothing of this machine's settings.
    pub(crate) fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        arguments: I,
    ) -> Command {
        let mut command = Command::new(STRONGROOM);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy().into_owned();
            if ["AWS_", "STRONGROOM_", "XDG_"].iter().any(|start| name_text.starts_with(start)) {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.temporary.path());
        if self.encrypted {
            command.env("STRONGROOM_PASSPHRASE_FILE", self.passphrase_file());
        }
        if let Some(minio) = &self.minio {
            command.envs(minio.environment());
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs the tool to its end.
    pub(crate) fn tool<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Run {
        self.run(&mut self.command(arguments), None)
    }

    /// Runs the tool with bytes on its standard input.
    pub(crate) fn tool_with_input<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        arguments: I,
        input: &[u8],
    ) -> Run {
        self.run(&mut self.command(arguments), Some(input))
    }

    /// Runs a command that [`Self::command`] made and searches its output for secrets.
    pub(crate) fn run(&self, command: &mut Command, input: Option<&[u8]>) -> Run {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().expect("strongroom starts");
        let writer = input.map(|input| {
            let (mut stdin, input) = (child.stdin.take().expect("a pipe"), input.to_vec());
            // A program that fails early does not read it all.
            std::thread::spawn(move || drop(stdin.write_all(&input)))
        });
        let output = child.wait_with_output().expect("strongroom ends");
        if let Some(writer) = writer {
            writer.join().expect("the input's writer ends");
        }
        let run = Run { shown: format!("{command:?}"), output };
        self.assert_no_secret(&run.shown, &run.output.stdout);
        self.assert_no_secret(&run.shown, &run.output.stderr);
        run
    }

    /// Panics if the passphrase or the store's secret key is in `bytes`.
    pub(crate) fn assert_no_secret(&self, whose: &str, bytes: &[u8]) {
        let mut secrets = vec![self.passphrase.as_str()];
        secrets.extend(self.minio.as_ref().map(|minio| minio.secret_key.as_str()));
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret is in the output of {whose}");
        }
    }

    /// Mounts the volume on a new directory.
    pub(crate) fn mount(&self) -> Mount<'_> {
        self.mount_with(&[])
    }

    /// Mounts the volume on a new directory with more flags.
    pub(crate) fn mount_with(&self, flags: &[&str]) -> Mount<'_> {
        let path = tempfile::Builder::new()
            .prefix("mnt")
            .tempdir_in(self.temporary.path())
            .expect("a mount point")
            .keep();
        self.mount_at(path, flags)
    }

    /// Mounts the volume on a directory.
    pub(crate) fn mount_at(&self, path: PathBuf, flags: &[&str]) -> Mount<'_> {
        let log = path.with_extension("log");
        let log_file =
            std::fs::OpenOptions::new().append(true).create(true).open(&log).expect("a log");
        let mut command = self.command(["mount", &self.url]);
        command.arg(&path).args(flags).stdout(Stdio::null()).stderr(log_file);
        // At SIGTERM it unmounts by itself.
        let child = ends_with_this_thread(&mut command, Signal::SIGTERM)
            .spawn()
            .expect("strongroom starts");
        let mut mount = Mount { volume: self, path, log, child: Some(child) };
        mount.wait_until_served();
        mount
    }
}

/// A mounted volume and its server's process.
pub(crate) struct Mount<'a> {
    volume: &'a Volume,
    /// The mount point.
    pub(crate) path: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Mount<'_> {
    /// A path under the mount point.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("the server was not ended");
        Pid::from_raw(child.id().try_into().expect("process ids fit"))
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Takes the mount away as umount(8) does, waits for the server and returns its exit code.
    pub(crate) fn unmount_with_code(mut self) -> i32 {
        // Another process (the test's own closing of files is answered before) may hold it for a moment.
        wait_for("umount", || umount2(&self.path, MntFlags::empty()).is_ok());
        self.ended().expect("the server was not killed")
    }

    /// The same; the server must have stored everything.
    pub(crate) fn unmount(self) {
        let log = self.log.clone();
        let code = self.unmount_with_code();
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()));
    }

    /// Ends the server as a power failure would, and removes the dead mount. Returns the mount point.
    pub(crate) fn kill9(mut self) -> PathBuf {
        kill(self.pid(), Signal::SIGKILL).expect("the server is there");
        self.ended();
        umount2(&self.path, MntFlags::MNT_DETACH).expect("the dead mount is removed");
        self.path.clone()
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the server is there");
    }

    /// Waits for the server's end after [`Self::signal`]; its exit code, unless a signal killed it.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the server was not waited for");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child of ours") {
                return status.code();
            }
            if start.elapsed() > 4 * PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server did not end; its log: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_until_served(&mut self) {
        let start = Instant::now();
        while !is_mounted(&self.path) {
            let child = self.child.as_mut().expect("just started");
            if let Some(status) = child.try_wait().expect("a child of ours") {
                self.child = None;
                panic!("mount failed ({status}): {}", self.log());
            }
            assert!(start.elapsed() < PATIENCE, "mount does not serve: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        // The root's attributes are answered by the server, so that it is past the handshake.
        std::fs::metadata(&self.path).expect("the mount's root");
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        if let Some(mut child) = self.child.take() {
            // It was detached or will be: a failing test does not wait for what it wrote.
            let _ = child.kill();
            let _ = child.wait();
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        }
        let log = std::fs::read(&self.log).unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.path.display(), String::from_utf8_lossy(&log));
        } else {
            self.volume.assert_no_secret("mount", &log);
        }
    }
}

/// A finished run of the tool.
pub(crate) struct Run {
    /// The command line, for messages.
    pub(crate) shown: String,
    /// Its result.
    pub(crate) output: Output,
}

impl Run {
    /// Panics unless it succeeded; its standard output.
    pub(crate) fn succeeded(self) -> String {
        String::from_utf8(self.succeeded_with_bytes()).expect("text")
    }

    /// Panics unless it succeeded; its standard output as it is.
    pub(crate) fn succeeded_with_bytes(self) -> Vec<u8> {
        let code = self.output.status.code();
        assert_eq!(
            code,
            Some(0),
            "{}: {}",
            self.shown,
            String::from_utf8_lossy(&self.output.stderr)
        );
        self.output.stdout
    }

    /// Panics unless it failed with exit code 1 and one line of error; that line.
    pub(crate) fn failed(self) -> String {
        let text = String::from_utf8(self.output.stderr).expect("text");
        assert_eq!(self.output.status.code(), Some(1), "{}: {text}", self.shown);
        let errors: Vec<&str> = text.lines().collect();
        assert_eq!(errors.len(), 1, "{}: not one line: {text}", self.shown);
        assert!(errors[0].starts_with("strongroom: "), "{}: {text}", self.shown);
        errors[0].to_owned()
    }

    /// The same, and the line holds each of `parts`.
    pub(crate) fn failed_saying(self, parts: &[&str]) {
        let shown = self.shown.clone();
        let error = self.failed();
        for part in parts {
            assert!(error.contains(part), "{shown}: {part:?} is not in: {error}");
        }
    }
}

/// Waits until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether something is mounted at exactly this directory.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let path = path.to_str().expect("temporary paths are text");
    table.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

/// Sets a file's permission bits.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode set");
}

/// Bytes that a seed decides.
pub(crate) fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Bytes of the system's random source.
pub(crate) fn fresh<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// The same as hexadecimal digits.
pub(crate) fn fresh_hex<const BYTES: usize>() -> String {
    fresh::<BYTES>().map(|byte| format!("{byte:02x}")).concat()
}

/// A seed for this run: printed, and set by STRONGROOM_SEED to run the same again.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("STRONGROOM_SEED")
        .map_or_else(|_| u64::from_le_bytes(fresh()), |text| text.parse().expect("a number"));
    println!("STRONGROOM_SEED={seed}");
    seed
}

/// The files of a directory store that hold the objects of a kind: `t` for records, `d` for segments.
pub(crate) fn objects(volume: &Volume, kind: &str) -> Vec<PathBuf> {
    files_below(&volume.store().join(format!("{kind}@")))
}

/// Sends a signal to a child when the thread that starts it ends: a test process that is killed has no
/// drops, and would leave its servers behind.
pub(crate) fn ends_with_this_thread(command: &mut Command, signal: Signal) -> &mut Command {
    let set = move || nix::sys::prctl::set_pdeathsig(signal).map_err(std::io::Error::from);
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(set) }
}

/// All files below a directory.
pub(crate) fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| entry.expect("a readable tree"))
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect();
    files.sort();
    files
}
