//! Linux namespaces for mounts, network, and processes: the test's process starts itself again inside them.
//! There the cluster has addresses and ports for itself, mounts propagate as Kubernetes wants it without
//! the machine seeing any of them, and when the first process in there ends, by itself or killed, the
//! kernel ends every other one and takes every mount and network device away. What is left to remove are
//! a temporary directory and the containers' control groups, which the process outside does.

use crate::support::ends_with_this_thread;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What tells a process that it is inside: the directory for everything.
const DIRECTORY: &str = "STRONGROOM_CLUSTER_DIRECTORY";
/// Directories of the machine that the cluster's programs write to whatever they are told.
const HIDDEN: &[&str] = &["/run", "/var/log", "/var/lib"];
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// Where containerd keeps what it knows of containers, below the directory.
const CONTAINERS: &str = "containerd/io.containerd.grpc.v1.cri";

/// Returns inside; outside, with the exit code of what ran inside.
pub(crate) fn enter() -> Result<(), ExitCode> {
    // Cargo and editors ask what there is; that needs no cluster.
    let asked = std::env::args().any(|word| ["--list", "--help", "-h"].contains(&word.as_str()));
    if asked {
        return Ok(());
    }
    match (std::env::var_os(DIRECTORY), std::process::id()) {
        (None, _) => Err(outside()),
        (Some(directory), 1) => Err(first(Path::new(&directory))),
        (Some(_), _) => Ok(()),
    }
}

/// Where everything is that the cluster keeps in files.
pub(crate) fn directory() -> PathBuf {
    std::env::var_os(DIRECTORY).expect("inside").into()
}

fn outside() -> ExitCode {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().expect("this program"))
        .args(std::env::args_os().skip(1))
        .env(DIRECTORY, directory.path());
    let ended = ends_with_this_thread(&mut command, Signal::SIGKILL).status().expect("unshare");
    remove_groups(directory.path());
    code(ended.code())
}

/// The first process of the namespaces: it prepares them and takes the ends of those whose parents are gone.
fn first(directory: &Path) -> ExitCode {
    for hidden in HIDDEN {
        let nothing = None::<&str>;
        mount(Some("tmpfs"), *hidden, Some("tmpfs"), MsFlags::empty(), nothing).expect(hidden);
    }
    let_go_of_others();
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).expect("mounts propagate");
    let temporary = directory.join("tmp");
    std::fs::create_dir(&temporary).expect("a directory");
    #[expect(clippy::zombie_processes, reason = "its end is waited for with everybody else's")]
    let runner = Command::new(std::env::current_exe().expect("this program"))
        .args(std::env::args_os().skip(1))
        .env("TMPDIR", temporary)
        .spawn()
        .expect("it starts again");
    let runner = Pid::from_raw(runner.id().try_into().expect("process ids fit"));
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == runner => return code(Some(status)),
            Ok(WaitStatus::Signaled(pid, ..)) if pid == runner => return code(None),
            _ => {}
        }
    }
}

/// Copies of other programs' FUSE mounts: as long as one is here, the server of a mount that is unmounted outside
/// does not end.
fn let_go_of_others() {
    let table = std::fs::read_to_string("/proc/self/mounts").expect("the table of mounts");
    let of_fuse = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    for fields in
        of_fuse.filter(|fields| fields.get(2).is_some_and(|kind| kind.starts_with("fuse")))
    {
        // It may be gone already, or its name may hold what the table writes in another way.
        let _ = umount2(fields[1], MntFlags::MNT_DETACH);
    }
}

fn code(code: Option<i32>) -> ExitCode {
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(101))
}

/// Removes the control groups of containers that ended with the namespaces rather than by themselves. Their
/// directories at containerd tell which those are.
fn remove_groups(directory: &Path) {
    let below = |path: PathBuf| {
        let entries = std::fs::read_dir(path).into_iter().flatten();
        entries.filter_map(Result::ok).map(|entry| entry.path())
    };
    let of_kind = |kind| below(directory.join(CONTAINERS).join(kind));
    let containers: Vec<PathBuf> = of_kind("containers").chain(of_kind("sandboxes")).collect();
    // One hierarchy for each controller, or one for all.
    for hierarchy in below(CONTROL_GROUPS.into()).chain([CONTROL_GROUPS.into()]) {
        let all = hierarchy.join("k8s.io");
        let names = containers.iter().filter_map(|container| container.file_name());
        for group in names.map(|name| all.join(name)).filter(|group| group.exists()) {
            // Their processes may take a moment to be gone. A group goes by rmdir alone, with its files.
            let gone = (0..100).any(|_| {
                let gone = std::fs::remove_dir(&group).is_ok();
                if !gone {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                gone
            });
            if !gone {
                eprintln!("left behind: {}", group.display());
            }
        }
        // Somebody else's containers may be there.
        let _ = std::fs::remove_dir(all);
    }
}
