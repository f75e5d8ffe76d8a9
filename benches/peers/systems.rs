//! The systems: ours in three ways, and the peers, each with a bucket of its own.

use super::support::minio::Minio;
use super::support::minio::cache::{cache_directory, cached};
use super::support::{self, Mount, Volume};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nix::mount::{MntFlags, umount2};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom::store::{Key, ListRequest, PutWhen, S3Config, S3Store, Store, list_all};
use tempfile::TempDir;

/// What serves the mount.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Close,
    Exclusive,
    Fsync,
    Objects,
    S3fs,
    Geesefs,
    Rclone,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Close,
        Self::Exclusive,
        Self::Fsync,
        Self::Objects,
        Self::S3fs,
        Self::Geesefs,
        Self::Rclone,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Exclusive => "exclusive",
            Self::Fsync => "fsync",
            Self::Objects => "objects",
            Self::S3fs => "s3fs",
            Self::Geesefs => "geesefs",
            Self::Rclone => "rclone",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Exclusive => &["--exclusive"],
            Self::Fsync => &["--exclusive", "--durability", "fsync"],
            Self::Objects => &["--layout", "objects"],
            Self::Close | Self::S3fs | Self::Geesefs | Self::Rclone => &[],
        }
    }
}

/// A bucket, and the mount of it that there is now.
pub(crate) struct Ground {
    pub(crate) kind: Kind,
    minio: Arc<Minio>,
    bucket: String,
    /// Ours has a volume in the bucket; never dropped before the mount, which borrows it.
    volume: Option<&'static Volume>,
    served: Option<Served>,
    directory: TempDir,
    mounts: usize,
    peak: u64,
}

enum Served {
    Ours(Mount<'static>),
    Peer { server: Child, path: PathBuf },
}

impl Ground {
    pub(crate) fn new(kind: Kind, minio: Arc<Minio>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bucket = minio.new_bucket();
        let volume = matches!(kind, Kind::Close | Kind::Exclusive | Kind::Fsync).then(|| {
            let volume = Volume::in_bucket(minio.clone(), &bucket);
            &*Box::leak(Box::new(volume))
        });
        // As the peers': plain, and at the bucket's root.
        let files = (kind == Kind::Objects).then(|| {
            let files = Volume::place_in(minio.clone(), &format!("s3://{bucket}"));
            &*Box::leak(Box::new(files))
        });
        let volume = volume.or(files);
        let mut ground =
            Self { kind, minio, bucket, volume, served: None, directory, mounts: 0, peak: 0 };
        ground.mount();
        ground
    }

    /// A path on the mount.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        match self.served.as_ref().expect("mounted") {
            Served::Ours(mount) => mount.join(path),
            Served::Peer { path: root, .. } => root.join(path),
        }
    }

    /// Mounts anew, with nothing in any cache.
    pub(crate) fn make_cold(&mut self) {
        self.unmount();
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        self.mount();
    }

    /// Waits until what was acknowledged is in the store; how long that took.
    pub(crate) fn settle(&mut self, objects: usize) -> Duration {
        let start = Instant::now();
        match self.kind {
            Kind::Close | Kind::Exclusive | Kind::Objects | Kind::S3fs => return Duration::ZERO,
            Kind::Fsync => self.unmount(),
            // They have no barrier: see what has arrived.
            Kind::Rclone | Kind::Geesefs => {
                while self.stored() < objects {
                    assert!(start.elapsed() < Duration::from_secs(300), "it is never stored");
                    std::thread::sleep(Duration::from_millis(100));
                }
                return start.elapsed();
            }
        }
        let took = start.elapsed();
        self.mount();
        took
    }

    /// Objects in the bucket, whoever put them there.
    pub(crate) fn stored(&self) -> usize {
        let (runtime, store) = self.client();
        let listing = list_all(&store, ListRequest::default());
        runtime.block_on(listing).expect("listed").0.len()
    }

    /// Many small files, by the quickest way that each system has for what its listing shows.
    pub(crate) fn populate(&mut self, directories: usize, files: usize) {
        if let Some(volume) = self.volume.filter(|_| self.kind != Kind::Objects) {
            self.unmount();
            let mount = volume.mount_with(Kind::Fsync.flags());
            for directory in 0..directories {
                let path = mount.join(format!("entries/d{directory}"));
                fs::create_dir_all(&path).expect("made");
                let make = |file| fs::write(path.join(format!("f{file}")), b"x").expect("written");
                (0..files).for_each(make);
            }
            mount.unmount();
            self.mount();
            return;
        }
        let (runtime, store) = self.client();
        let keys: Vec<Key> = (0..directories)
            .flat_map(|directory| {
                (0..files).map(move |file| format!("entries/d{directory}/f{file}"))
            })
            .chain((0..directories).map(|directory| format!("entries/d{directory}/")))
            .chain(["entries/".to_owned()])
            .map(|key| Key::new(key).expect("a key"))
            .collect();
        let put = |key| store.put(key, Bytes::from_static(b"x"), PutWhen::Always);
        let puts = futures::stream::iter(&keys).map(put).buffer_unordered(16);
        runtime.block_on(puts.try_for_each(|_| async { Ok(()) })).expect("stored");
    }

    /// Ends it; the server's peak memory in MiB.
    pub(crate) fn finish(mut self) -> u64 {
        self.unmount();
        self.peak
    }

    fn client(&self) -> (tokio::runtime::Runtime, S3Store) {
        for (name, value) in self.minio.environment() {
            // SAFETY: no other thread of this process reads the environment meanwhile.
            unsafe { std::env::set_var(name, value) };
        }
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let config = S3Config {
            bucket: self.bucket.clone(),
            endpoint: Some(self.minio.endpoint.clone()),
            ..S3Config::default()
        };
        let store = runtime.block_on(S3Store::connect(config)).expect("connected");
        (runtime, store)
    }

    fn mount(&mut self) {
        if let Some(volume) = self.volume {
            self.served = Some(Served::Ours(volume.mount_with(self.kind.flags())));
            return;
        }
        self.mounts += 1;
        let path = self.directory.path().join(format!("mnt{}", self.mounts));
        fs::create_dir(&path).expect("made");
        let mut command = match self.kind {
            Kind::S3fs => self.s3fs(&path),
            Kind::Geesefs => self.geesefs(&path),
            _ => self.rclone(&path),
        };
        let log = fs::File::create(self.directory.path().join("log")).expect("a log");
        command.stdout(log.try_clone().expect("a handle")).stderr(log).stdin(Stdio::null());
        let server = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}: run `make bench`"));
        support::wait_for("the peer's mount", || support::is_mounted(&path));
        self.served = Some(Served::Peer { server, path });
    }

    fn s3fs(&self, path: &Path) -> Command {
        let password = self.directory.path().join("password");
        fs::write(&password, format!("{}:{}", self.minio.access_key, self.minio.secret_key))
            .expect("written");
        support::set_mode(&password, 0o600);
        let mut command = Command::new(unpacked().join("s3fs"));
        command
            .arg(&self.bucket)
            .arg(path)
            .arg("-f")
            .args(["-o", &format!("url={}", self.minio.endpoint)]);
        command.args([
            "-o",
            "use_path_request_style",
            "-o",
            &format!("passwd_file={}", password.display()),
        ]);
        command
    }

    /// As csi-s3 starts it without options: files are stored some time after they are closed.
    fn geesefs(&self, path: &Path) -> Command {
        let mut command = Command::new(cached("bin/geesefs-v0.43.8"));
        command
            .args(["-f", "--no-detect", "--endpoint", &self.minio.endpoint, &self.bucket])
            .arg(path)
            .env_remove("AWS_CA_BUNDLE")
            .envs(self.minio.environment());
        command
    }

    fn rclone(&self, path: &Path) -> Command {
        let cache = self.directory.path().join("cache");
        let _ = fs::remove_dir_all(&cache);
        let mut command = Command::new("rclone");
        let remote = format!(
            ":s3,provider=Minio,env_auth,endpoint=\"{}\":{}",
            self.minio.endpoint, self.bucket
        );
        command.arg("mount").arg(remote).arg(path).args([
            "--vfs-cache-mode",
            "full",
            "--config",
            "",
        ]);
        // Its SDK refuses to start where a bundle of authorities is named.
        command
            .arg("--cache-dir")
            .arg(cache)
            .env_remove("AWS_CA_BUNDLE")
            .envs(self.minio.environment());
        // For its fusermount3.
        let path = std::env::var("PATH").expect("PATH is set");
        command.env("PATH", format!("{}:{path}", unpacked().display()));
        command
    }

    fn unmount(&mut self) {
        match self.served.take().expect("mounted") {
            Served::Ours(mount) => {
                self.peak = self.peak.max(peak_memory(mount.pid().as_raw()));
                mount.unmount();
            }
            Served::Peer { mut server, path } => {
                self.peak = self.peak.max(peak_memory(server.id() as i32));
                support::wait_for("umount", || umount2(&path, MntFlags::empty()).is_ok());
                let _ = server.wait();
            }
        }
    }
}

impl Drop for Ground {
    /// A row that failed leaves no server behind.
    fn drop(&mut self) {
        if let Some(Served::Peer { mut server, path }) = self.served.take() {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// A process's peak resident memory in MiB.
fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) / 1024
}

/// Where `make bench` keeps the programs of packages that it unpacks and does not install.
fn unpacked() -> PathBuf {
    fs::read_dir(cache_directory())
        .expect("the cache")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("usr/bin/s3fs").exists())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("peers-")))
        .expect("s3fs is missing: run `make bench`")
        .join("usr/bin")
}
