//! Secrets leave no trace: not in any output of any command, at the highest level of the log, nor in
//! arguments; and no process of ours leaves a core.

mod support;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Backend, STRONGROOM, Volume, on_every_backend, wait_for};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

on_every_backend!(no_command_shows_a_secret_even_in_its_log);

/// `run` and the mount's drop search every output for the passphrase and the store's secret key.
fn no_command_shows_a_secret_even_in_its_log(backend: Backend) {
    let volume = Volume::new(backend);
    let (url, file, dir) = (volume.url.clone(), volume.at("file"), volume.at("dir"));
    let (copied, tree) = (volume.at("copied"), volume.local("tree"));
    let (local, manifest) = (volume.local("copy"), volume.local("manifest"));
    let new = volume.local("new");
    fs::write(&new, format!("{}+", volume.passphrase)).expect("written");
    support::set_mode(&new, 0o600);
    let second = volume.at("second");
    let commands: Vec<Vec<&str>> = vec![
        vec!["push", "-", &file],
        vec!["pull", &file, text(&local)],
        vec!["cat", &file],
        vec!["cp", &file, &copied],
        vec!["sync", &url, text(&tree)],
        vec!["du", &url],
        vec!["tree", &url],
        vec!["ls", "-lR", &url],
        vec!["ls", "--json", &url],
        vec!["stat", "--json", &file],
        vec!["mkdir", &dir],
        vec!["mv", &file, &second],
        vec!["rm", &second],
        vec!["undelete", &second],
        vec!["rmdir", &dir],
        vec!["key", "list", &url, "--json"],
        vec!["key", "rotate", &url],
        vec!["key", "rewrap", &url, "--data", "--json"],
        vec!["key", "add", &url, "--kdf", "raw", "--new-passphrase-file", text(&new)],
        vec!["key", "remove", &url, "2"],
        vec!["verify", &url, "--json", "--manifest", text(&manifest)],
        vec!["gc", &url, "--json"],
        vec!["doctor", &url],
        vec!["version", "--json"],
        vec!["completions", "bash"],
        vec!["man"],
    ];
    let mut seen = BTreeSet::from(["init".to_owned(), "mount".to_owned(), "help".to_owned()]);
    for format in ["text", "json"] {
        for arguments in &commands {
            seen.insert(arguments[0].to_owned());
            let logged = ["--log", "trace", "--log-format", format];
            let mut command = volume.command(arguments.iter().copied().chain(logged));
            // The passphrase itself in the environment, as some will have it.
            command.env("STRONGROOM_PASSPHRASE", &volume.passphrase);
            volume.run(&mut command, Some(b"bytes")).succeeded_with_bytes();
        }
        volume.tool(["rm", &volume.at("second")]);
    }
    datasafed_shows_none(&volume);
    seen.insert("datasafed".to_owned());
    // Another program's, which knows no volume; its tests look for keys in what it shows.
    seen.insert("backuprepo".to_owned());
    let help = volume.tool(["--help"]).succeeded();
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    for name in listed.take_while(|line| !line.is_empty()) {
        let name = name.split_whitespace().next().expect("a command");
        assert!(seen.contains(name), "{name} is not tried here");
    }
    let mount = volume.mount_with(&["--log", "trace"]);
    fs::write(mount.join("file"), "bytes").expect("written");
    let line = fs::read(format!("/proc/{}/cmdline", mount.pid())).expect("readable");
    volume.assert_no_secret("the mount's arguments", &line);
    let long = backend == Backend::Dir || mount.log().len() > 1000;
    assert!(long, "the log is not at its highest level");
    mount.unmount();
}

/// The command line of datasafed has settings, flags and a log of its own. (`getconf` prints what it is
/// asked for.)
fn datasafed_shows_none(volume: &Volume) {
    let conf = volume.local("datasafed.conf");
    let storage = match &volume.minio {
        Some(minio) => format!(
            "type = s3\nprovider = Minio\nendpoint = {}\naccess_key_id = {}\nsecret_access_key = {}\nroot = {}\n",
            minio.endpoint,
            minio.access_key,
            minio.secret_key,
            minio.new_bucket()
        ),
        None => {
            let root = volume.local("datasafed");
            fs::create_dir(&root).expect("made");
            format!("type = local\nroot = {}\n", root.display())
        }
    };
    fs::write(&conf, format!("[storage]\n{storage}")).expect("written");
    support::set_mode(&conf, 0o600);
    let commands: [&[&str]; 7] = [
        &["push", "-z", "zstd", "-", "dir/file"],
        &["pull", "-d", "zstd", "dir/file", "-"],
        &["list", "-r", "/", "-o", "json"],
        &["stat", "/"],
        &["mkdir", "other"],
        &["rm", "-r", "dir"],
        &["version", "-v"],
    ];
    for arguments in commands {
        let log = ["--console-log", "--log-level", "debug"];
        let before = ["--log", "trace", "datasafed", "-c", text(&conf)];
        let mut command = volume.command(before.iter().chain(arguments).chain(&log));
        command
            .env("DATASAFED_ENCRYPTION_ALGORITHM", "AES-256-CFB")
            .env("DATASAFED_ENCRYPTION_PASS_PHRASE", &volume.passphrase);
        volume.run(&mut command, Some(b"bytes")).succeeded_with_bytes();
    }
}

/// A process that would leave a core if it were let.
fn with_cores(command: &mut Command) -> &mut Command {
    let set = || {
        // The hard limit as it is, if it cannot be raised.
        let _ = setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY);
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(set) }
}

#[test]
fn a_crash_leaves_no_core() {
    let volume = Volume::new(Backend::Dir);
    let mountpoint = volume.local("mnt");
    fs::create_dir(&mountpoint).expect("made");
    let url = volume.at("file");
    for arguments in [vec!["push", "-", &url], vec!["mount", &volume.url, text(&mountpoint)]] {
        let mut command = volume.command(&arguments);
        command.stdin(Stdio::piped()).current_dir(volume.temporary.path());
        let mut child = with_cores(&mut command).spawn().expect("started");
        let limits = format!("/proc/{}/limits", child.id());
        wait_for("cores to be forbidden", || {
            let limits = fs::read_to_string(&limits).expect("readable");
            let line = limits.lines().find(|line| line.starts_with("Max core file size"));
            let fields: Vec<&str> =
                line.expect("the limit").split_whitespace().skip(4).take(2).collect();
            fields == ["0", "0"]
        });
        let pid = Pid::from_raw(child.id().try_into().expect("process ids fit"));
        kill(pid, Signal::SIGABRT).expect("sent");
        let status = child.wait().expect("ended");
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{arguments:?}");
        assert!(!status.core_dumped(), "{arguments:?} left a core");
        let _ = nix::mount::umount2(&mountpoint, nix::mount::MntFlags::MNT_DETACH);
    }
    assert!(Path::new(STRONGROOM).exists());
}
