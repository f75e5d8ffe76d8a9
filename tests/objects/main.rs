//! Files in a bucket, mounted: one object each, plain or in datasafed's form.

#[path = "../support/mod.rs"]
mod support;

mod beside;
mod care;
mod changes;
mod interchange;
mod programs;
mod trouble;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use strongroom::store::{
    Fetched, FileStore, Key, ListRequest, S3Config, S3Credentials, S3Keys, S3Store, Store, list_all,
};
use support::{Backend, Mount, Volume, random_bytes, set_mode};

/// Whether files are enciphered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Enciphered,
}

/// A prefix of a bucket with files in it.
pub(crate) struct Files {
    pub(crate) volume: Volume,
    form: Form,
}

impl Files {
    pub(crate) fn new(form: Form) -> Self {
        let mut volume = Volume::place(Backend::Minio);
        volume.url = volume.url.replace("/volume", "/files");
        volume.encrypted = form == Form::Enciphered;
        Self { volume, form }
    }

    pub(crate) fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec!["--layout", "objects"];
        if self.form == Form::Enciphered {
            flags.extend(["--encryption", "AES-256-CFB"]);
        }
        flags
    }

    pub(crate) fn mount(&self) -> Mount<'_> {
        self.mount_with(&[])
    }

    pub(crate) fn mount_with(&self, more: &[&str]) -> Mount<'_> {
        self.volume.mount_with(&[&self.flags()[..], more].concat())
    }

    pub(crate) fn mount_at(&self, path: std::path::PathBuf) -> Mount<'_> {
        self.volume.mount_at(path, &self.flags())
    }

    pub(crate) fn bucket(&self) -> &str {
        self.volume.url.trim_start_matches("s3://").split('/').next().expect("a bucket")
    }

    /// The store, with and around the prefix.
    pub(crate) async fn store(&self) -> Arc<S3Store> {
        let server = self.volume.minio.as_ref().expect("a server");
        let keys = S3Keys::new(&server.access_key, &server.secret_key, None);
        let config = S3Config {
            bucket: self.bucket().to_owned(),
            endpoint: Some(server.endpoint.clone()),
            credentials: S3Credentials::Slot(keys),
            ..S3Config::default()
        };
        Arc::new(S3Store::connect(config).await.expect("connected"))
    }

    /// Does something with the store.
    pub(crate) fn with_store<T, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Arc<S3Store>) -> F,
    ) -> T {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async { work(self.store().await).await })
    }

    /// The keys below the prefix, without it.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.with_store(|store| async move {
            let request = ListRequest { prefix: "files/".to_owned(), ..ListRequest::default() };
            let (objects, _) = list_all(&*store, request).await.expect("listed");
            let keys = objects.iter().map(|object| object.key.as_str());
            keys.map(|key| key.strip_prefix("files/").expect("below").to_owned()).collect()
        })
    }

    /// An object's headers.
    pub(crate) fn headers(&self, path: &str) -> BTreeMap<String, String> {
        let key = Key::new(format!("files/{path}")).expect("a key");
        self.with_store(
            |store| async move { store.head_file(&key).await.expect("there").1.metadata },
        )
    }

    /// An object's bytes.
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        let key = Key::new(format!("files/{path}")).expect("a key");
        self.with_store(|store| async move {
            match store.get(&key, None, None).await.expect("there") {
                Fetched::Object(object) => object.body.bytes().to_vec(),
                Fetched::Unchanged => panic!("asked without a condition"),
            }
        })
    }
}

/// Runs a program to its end.
pub(crate) fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(program: &str, arguments: I) {
    let output = Command::new(program).args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// All that a tree shows of itself: kinds, sizes, contents, modes, owners, times, targets.
pub(crate) fn look(root: &Path) -> BTreeMap<String, String> {
    let rows = walkdir::WalkDir::new(root).min_depth(1).into_iter().map(|entry| {
        let entry = entry.expect("read");
        let path = entry.path().strip_prefix(root).expect("below").display().to_string();
        // `find -type` goes by what the listing told.
        let form = entry.path().symlink_metadata().expect("there").file_type();
        assert_eq!(form, entry.file_type(), "{path}");
        (path, look_at(entry.path()))
    });
    rows.collect()
}

/// All that one name shows of itself, without its directory.
pub(crate) fn look_at(path: &Path) -> String {
    let data = path.symlink_metadata().expect("there");
    let (form, time) = (data.file_type(), (data.mtime(), data.mtime_nsec()));
    let what = if form.is_dir() {
        "directory".to_owned()
    } else if form.is_symlink() {
        // Its own mode means nothing.
        let target = fs::read_link(path).expect("read");
        return format!("-> {} {time:?}", target.display());
    } else if form.is_fifo() {
        "fifo".to_owned()
    } else {
        let bytes = fs::read(path).expect("read");
        format!("{} {}", bytes.len(), blake3::hash(&bytes))
    };
    let mode = data.permissions().mode() & 0o7777;
    format!("{what} {mode:o} {}:{} {time:?}", data.uid(), data.gid())
}

/// A tree of all kinds.
pub(crate) fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er/and empty")).expect("made");
    for (index, size) in
        [0, 1, 15, 16, 17, 4096, 100_000, 5_000_000, 20_000_000].into_iter().enumerate()
    {
        let path = root.join(format!("deep/{index}"));
        fs::write(&path, random_bytes(index as u64, size)).expect("written");
        set_mode(&path, [0o644, 0o600, 0o750, 0o4755][index % 4]);
    }
    for name in ["a b", "ä ö", "x%20y", "plus+and&", "quote'\"", "-dash", "no.enc"] {
        fs::write(root.join("deep/er").join(name), name).expect("written");
    }
    symlink("../deep/1", root.join("deep/link")).expect("linked");
    symlink("/nowhere at all", root.join("deep/er/dangling")).expect("linked");
    run("mkfifo", [root.join("deep/fifo")]);
    set_mode(&root.join("deep/er"), 0o2711);
    run("chown", [OsStr::new("1234:2345"), root.join("deep/2").as_os_str()]);
    let all = walkdir::WalkDir::new(root).contents_first(true);
    for (index, entry) in all.into_iter().enumerate() {
        let path = entry.expect("read").into_path();
        let time = format!("@{}.{:09}", 1_500_000_000 + index * 1000, index * 1_111_111);
        run("touch", [OsStr::new("-h"), OsStr::new("-d"), OsStr::new(&time), path.as_os_str()]);
    }
}

/// Both forms of a test.
macro_rules! in_both_forms {
    ($($name:ident),+ $(,)?) => {
        mod plain { $(#[test] fn $name() { super::$name(super::Form::Plain) })+ }
        mod enciphered { $(#[test] fn $name() { super::$name(super::Form::Enciphered) })+ }
    };
}
pub(crate) use in_both_forms;

in_both_forms![a_tree_comes_back_whole, a_large_file_needs_little_memory];

fn a_tree_comes_back_whole(form: Form) {
    let files = Files::new(form);
    let source = files.volume.local("source");
    make_tree(&source);
    let mount = files.mount();
    run("cp", [OsStr::new("-a"), source.join("deep").as_os_str(), mount.path.as_os_str()]);
    assert_eq!(look(&mount.path), look(&source), "on the mount that wrote it");
    mount.unmount();
    let mount = files.mount_with(&["--read-only"]);
    assert_eq!(look(&mount.path), look(&source), "on another one");
    assert!(
        fs::write(mount.join("deep/1"), "x")
            .is_err_and(|error| error.raw_os_error() == Some(libc::EROFS))
    );
    mount.unmount();
    let keys = files.keys();
    let ending = if form == Form::Enciphered { ".enc" } else { "" };
    assert!(keys.contains(&format!("deep/er/a b{ending}")), "{keys:?}");
    assert!(keys.contains(&"deep/er/and empty/".to_owned()), "{keys:?}");
    if form == Form::Enciphered {
        assert!(keys.iter().all(|key| key.ends_with(".enc") || key.ends_with('/')), "{keys:?}");
        for (key, secret) in [("deep/er/a b.enc", &b"a b"[..]), ("deep/link.enc", b"../deep/1")] {
            let bytes = files.bytes(key);
            assert_eq!(bytes.len(), secret.len() + 16);
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{key}");
            let headers = files.headers(key);
            assert!(headers.values().all(|value| !value.contains("deep")), "{headers:?}");
        }
    } else {
        let headers = files.headers("deep/4");
        // What s3fs and geesefs would have written.
        assert_eq!(headers["mode"], (0o100_644).to_string());
        assert!(headers["mtime"].starts_with("15000"), "{headers:?}");
        assert_eq!(files.headers("deep/2")["uid"], "1234");
        assert_eq!(files.headers("deep/2")["gid"], "2345");
        assert_eq!(files.headers("deep/er/")["mode"], (0o042_711).to_string());
        let link = files.headers("deep/link");
        assert_eq!(link["mode"], (0o120_777).to_string());
        assert_eq!(files.bytes("deep/link"), b"../deep/1");
    }
}

fn a_large_file_needs_little_memory(form: Form) {
    let files = Files::new(form);
    let mount = files.mount_with(&["--memory-limit", "64MiB"]);
    let large = mount.join("large");
    // Bytes that differ everywhere, made as they are needed.
    let pattern = random_bytes(5, 1 << 20);
    let mut hasher = blake3::Hasher::new();
    let mut out = fs::File::create(&large).expect("created");
    for index in 0..400_u32 {
        let mut block = pattern.clone();
        block[..4].copy_from_slice(&index.to_le_bytes());
        hasher.update(&block);
        std::io::Write::write_all(&mut out, &block).expect("written");
    }
    assert!(!files.keys().iter().any(|key| key.starts_with("large")), "half a file is no file");
    drop(out);
    let expected = hasher.finalize();
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).expect("there");
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).expect("told");
    let peak: u64 = peak.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    assert!(peak < 250 << 10, "{peak} KiB");
    mount.unmount();
    let mount = files.mount_with(&["--memory-limit", "64MiB"]);
    let large = mount.join("large");
    let mut read = blake3::Hasher::new();
    read.update_reader(fs::File::open(&large).expect("opened")).expect("read");
    assert_eq!(read.finalize(), expected);
    mount.unmount();
}
