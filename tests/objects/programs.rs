//! s3fs, geesefs, rclone and datasafed themselves: what they have written is read, and they read what is written here.

use crate::support::minio::cache::{cache_directory, cached};
use crate::support::{is_mounted, random_bytes, set_mode, wait_for};
use crate::{Files, Form, look, look_at, run};
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, File};
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

/// A tree that shows whatever is lost. Its files were changed so long after whole seconds.
fn tree(root: &Path, fraction: Duration) {
    fs::create_dir_all(root.join("dir with blank/ü")).expect("made");
    fs::write(root.join("dir with blank/ü/short"), "short").expect("written");
    fs::write(root.join("empty"), "").expect("written");
    fs::write(root.join("long"), random_bytes(1, 25_000_000)).expect("written");
    symlink("dir with blank/ü/short", root.join("link")).expect("made");
    for (index, name) in ["empty", "long", "dir with blank/ü/short"].into_iter().enumerate() {
        let path = root.join(name);
        set_mode(&path, 0o600 + index as u32 * 0o21);
        chown(&path, Some(1000 + index as u32), Some(100)).expect("given");
        let seconds = Duration::from_secs(1_500_000_000 + index as u64);
        let time = SystemTime::UNIX_EPOCH + seconds + fraction;
        File::options().write(true).open(&path).expect("opened").set_modified(time).expect("set");
    }
    let time = TimeSpec::from_duration(Duration::from_secs(1_500_000_100) + fraction);
    utimensat(AT_FDCWD, &root.join("link"), &time, &time, UtimensatFlags::NoFollowSymlink)
        .expect("set");
    set_mode(&root.join("dir with blank"), 0o750);
}

/// What s3fs and rclone keep of a time.
const FRACTION: Duration = Duration::from_millis(250);

/// The tree without the times of directories, which s3fs tells of the mount.
fn shown(root: &Path) -> Vec<(String, String)> {
    let rows = look(root).into_iter();
    rows.filter(|(path, _)| !root.join(path).is_dir()).collect()
}

/// A bucket's prefix, mounted by another program.
struct Theirs {
    server: Child,
    path: PathBuf,
}

impl Theirs {
    fn s3fs(files: &Files, name: &str) -> Self {
        let server = files.volume.minio.as_ref().expect("a server");
        let (password, path) = (files.volume.local("password"), files.volume.local(name));
        let keys = format!("{}:{}", server.access_key, server.secret_key);
        fs::write(&password, keys).expect("written");
        set_mode(&password, 0o600);
        fs::create_dir(&path).expect("made");
        let program = fs::read_dir(cache_directory())
            .expect("the cache")
            .map(|entry| entry.expect("an entry").path().join("usr/bin/s3fs"))
            .find(|program| program.exists())
            .expect("s3fs is missing: run `make tools`");
        let mut command = Command::new(program);
        command
            .args([format!("{}:/files", files.bucket()), path.display().to_string()])
            .args(["-f", "-o", &format!("url={}", server.endpoint), "-o", "use_path_request_style"])
            .args(["-o", &format!("passwd_file={}", password.display())]);
        Self::serve(command, path)
    }

    fn geesefs(files: &Files, name: &str) -> Self {
        let server = files.volume.minio.as_ref().expect("a server");
        let path = files.volume.local(name);
        fs::create_dir(&path).expect("made");
        let mut command = Command::new(cached("bin/geesefs-v0.43.8"));
        command
            .args(["-f", "--endpoint", &server.endpoint, "--no-detect", "--fsync-on-close"])
            .args(["--enable-perms", "--enable-mtime", "--enable-specials"])
            // Listings tell it of owners, modes and links with one vendor only: with this it asks for each name.
            .args(["--no-preload-dir"])
            .args([format!("{}:files", files.bucket()), path.display().to_string()])
            .env_remove("AWS_CA_BUNDLE")
            .envs(server.environment());
        Self::serve(command, path)
    }

    fn serve(mut command: Command, path: PathBuf) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().expect("it starts");
        wait_for("the mount of another program", || is_mounted(&path));
        Self { server, path }
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        wait_for("umount", || umount2(&self.path, MntFlags::empty()).is_ok());
        let _ = self.server.wait();
    }
}

fn copy(from: &Path, to: &Path) {
    run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
}

#[test]
fn s3fs_reads_what_is_written_here_and_the_other_way_round() {
    both_ways(FRACTION, Theirs::s3fs, Keeps::Everything);
}

/// Which keeps whole seconds.
#[test]
fn geesefs_reads_what_is_written_here_and_the_other_way_round() {
    both_ways(Duration::ZERO, Theirs::geesefs, Keeps::Content);
}

/// What the other program keeps of what is copied into its own mount.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Everything,
    /// geesefs 0.43 forgets a mode that is set before the file is closed.
    Content,
}

fn both_ways(fraction: Duration, mounted: fn(&Files, &str) -> Theirs, keeps: Keeps) {
    let files = Files::new(Form::Plain);
    let local = files.volume.local("tree");
    tree(&local, fraction);
    let wanted = shown(&local);
    assert_eq!(wanted.len(), 4);
    let mount = files.mount();
    copy(&local, &mount.join("ours"));
    mount.unmount();
    let theirs = mounted(&files, "mounted");
    for (path, wanted) in &wanted {
        let shown = look_at(&theirs.path.join("ours").join(path));
        assert_eq!(&shown, wanted, "ours is read: {path}");
    }
    copy(&local, &theirs.path.join("theirs"));
    drop(theirs);
    // As the next of their mounts sees it.
    let theirs = mounted(&files, "mounted-again");
    let at = |path: &String| (path.clone(), look_at(&theirs.path.join("theirs").join(path)));
    let kept: Vec<_> = wanted.iter().map(|(path, _)| at(path)).collect();
    drop(theirs);
    for ((path, wanted), (_, kept)) in wanted.iter().zip(&kept) {
        if keeps == Keeps::Everything {
            assert_eq!(kept, wanted, "theirs keeps {path}");
        }
        let content = |row: &str| row.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
        assert!(path == "link" || content(wanted) == content(kept), "{path}: {wanted}, {kept}");
    }
    let mount = files.mount();
    assert_eq!(shown(&mount.join("theirs")), kept, "theirs is read");
    assert_eq!(shown(&mount.join("ours")), wanted);
    mount.unmount();
}

#[test]
fn rclone_reads_what_is_written_here_and_the_other_way_round() {
    let files = Files::new(Form::Plain);
    let local = files.volume.local("tree");
    tree(&local, FRACTION);
    // A link is no file to rclone.
    fs::remove_file(local.join("link")).expect("removed");
    let server = files.volume.minio.as_ref().expect("a server");
    let remote = |path: &str| {
        let bucket = files.bucket();
        let endpoint = &server.endpoint;
        format!(":s3,provider=Minio,env_auth,endpoint=\"{endpoint}\":{bucket}/files/{path}")
    };
    let rclone = |from: &str, to: &str| {
        let mut command = Command::new("rclone");
        command.args(["copy", "--config", "", from, to]);
        // Its SDK refuses to start where a bundle of authorities is named.
        command.env_remove("AWS_CA_BUNDLE").envs(server.environment());
        let output = command.output().expect("rclone starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    rclone(local.to_str().expect("text"), &remote("theirs"));
    let mount = files.mount();
    let what = |root: &Path| {
        // Without --metadata rclone keeps bytes and times, and knows of no empty directories.
        let names = ["empty", "long", "dir with blank/ü/short"];
        names.map(|name| {
            let data = fs::metadata(root.join(name)).expect("there");
            (fs::read(root.join(name)).expect("read"), data.modified().expect("told"))
        })
    };
    assert!(what(&mount.join("theirs")) == what(&local), "ours reads rclone's");
    copy(&local, &mount.join("ours"));
    mount.unmount();
    let back = files.volume.local("back");
    rclone(&remote("ours"), back.to_str().expect("text"));
    assert!(what(&back) == what(&local), "rclone reads ours");
}

#[test]
fn the_original_datasafed_reads_what_is_written_here_with_every_length_of_key() {
    let content = random_bytes(2, 30_000_000);
    for algorithm in ["AES-128-CFB", "AES-192-CFB", "AES-256-CFB"] {
        let files = Files::new(Form::Enciphered);
        let server = files.volume.minio.as_ref().expect("a server");
        let (conf, local) = (files.volume.local("datasafed.conf"), files.volume.local("file"));
        let text = format!(
            "[storage]\ntype = s3\nprovider = Minio\nenv_auth = false\naccess_key_id = {}\n\
             secret_access_key = {}\nregion = us-east-1\nendpoint = {}\nroot = {}/files\n\
             no_check_bucket = true\n",
            server.access_key,
            server.secret_key,
            server.endpoint,
            files.bucket()
        );
        fs::write(&conf, text).expect("written");
        fs::write(&local, &content).expect("written");
        let datasafed = |arguments: &[&str]| {
            let mut command = Command::new(cached("bin/datasafed-v0.2.0-go-lz4"));
            command.arg("-c").arg(&conf).args(arguments).env_remove("AWS_CA_BUNDLE");
            command.env("DATASAFED_ENCRYPTION_ALGORITHM", algorithm);
            command.env("DATASAFED_ENCRYPTION_PASS_PHRASE", &files.volume.passphrase);
            let output = command.output().expect("it starts");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{algorithm} {arguments:?}: {said}");
            output.stdout
        };
        let path = local.to_str().expect("text");
        datasafed(&["push", path, "theirs/file"]);
        datasafed(&["push", "-z", "zstd", path, "theirs/file.zst"]);
        let flags = ["--layout", "objects", "--encryption", algorithm];
        let mount = files.volume.mount_with(&flags);
        assert!(fs::read(mount.join("theirs/file")).expect("read") == content, "{algorithm}");
        // What it has compressed is what any program takes for zstd's.
        let plain = Command::new("zstd").arg("-dcq").arg(mount.join("theirs/file.zst")).output();
        assert!(plain.expect("zstd starts").stdout == content, "{algorithm}");
        fs::create_dir(mount.join("ours")).expect("made");
        copy(&local, &mount.join("ours/file"));
        run("zstd", ["-q", path, "-o", mount.join("ours/file.zst").to_str().expect("text")]);
        mount.unmount();
        assert!(datasafed(&["pull", "ours/file", "-"]) == content, "{algorithm}");
        assert!(datasafed(&["pull", "-d", "zstd", "ours/file.zst", "-"]) == content, "{algorithm}");
    }
}
