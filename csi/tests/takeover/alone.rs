//! What the keeper does while nobody serves, and what nobody has to wait for.

use crate::ground::{Ground, ID};
use crate::node::{Order, Report};
use nix::sys::signal::{Signal, kill};
use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strongroom_csi::keeper::{FailureKind, MountOptions};

#[test]
fn workers_that_keep_failing_keep_no_program_waiting() {
    let mut ground = Ground::new(None, "1s", &[]);
    ground.serve();
    let mut file = File::create(ground.at("file")).expect("created");
    file.write_all(b"accepted").expect("written");
    let (pid, next) = (ground.pid(), ground.another_node());
    let attempt = || {
        let mut wrong = ground.secrets();
        wrong.passphrase = Some("another secret of 32 bytes or so".into());
        ground.take_over_with(wrong)
    };
    let attempts: Vec<Order> = (0..1_000).map(|_| attempt()).collect();
    ground.node = None;
    let _ = kill(pid, Signal::SIGKILL);
    let answered = AtomicBool::new(false);
    let tried = std::thread::scope(|scope| {
        let trying = scope.spawn(|| {
            let start = Instant::now();
            let wanted = |_: &&Order| {
                !answered.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(20)
            };
            let failed =
                |order: &Order| assert!(matches!(next.ask(order), Report::Failed { .. }), "served");
            attempts.iter().take_while(wanted).map(failed).count()
        });
        let start = Instant::now();
        let error = file.sync_all().expect_err("nobody serves");
        answered.store(true, Ordering::Relaxed);
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        trying.join().expect("no panic")
    });
    assert!(tried > 0);
    // What a worker asks a former one with does not end the keeper.
    kill(ground.keeper_pid(), Signal::SIGUSR2).expect("it is there");
    let held = ground.runtime.block_on(ground.keeper().list()).expect("listed");
    assert!(held[0].answered_with_errors && !held[0].served && held[0].mounted);
    ground.take_over(next);
    let held = ground.runtime.block_on(ground.keeper().list()).expect("listed");
    assert!(!held[0].answered_with_errors && held[0].served);
    file.write_all(b" and more").expect("it serves again");
    drop(file);
    ground.unstage();
    assert_eq!(ground.pulled("file"), b"accepted and more");
}

#[test]
fn a_volume_whose_first_worker_comes_late_is_served_all_the_same() {
    let mut ground = Ground::new(None, "1s", &[]);
    let keeper = ground.keeper();
    let (staging, options) = (ground.staging(), MountOptions::default());
    drop(ground.runtime.block_on(keeper.stage(ID, &staging, &options)).expect("staged"));
    // The keeper answers with errors by now, and has met the kernel's first request.
    crate::ground::wait_for("errors", || {
        let held = ground.runtime.block_on(keeper.list()).expect("listed");
        held[0].answered_with_errors
    });
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    ground.serve();
    println!("served after {:?}", start.elapsed());
    fs::write(ground.at("file"), "x").expect("written");
    ground.unstage();
    assert_eq!(ground.pulled("file"), b"x");
}

#[test]
fn an_unmount_that_the_kernel_is_not_through_with_keeps_nobody_waiting() {
    let mut ground = Ground::on_directory();
    ground.serve();
    // Another mount namespace, where the mount stays.
    let mut elsewhere = Command::new("unshare")
        .args(["--mount", "sleep", "60"])
        .stdin(Stdio::null())
        .spawn()
        .expect("unshare");
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let pid = elsewhere.id().to_string();
    crate::ground::wait_for("the other namespace", || namespace(&pid) != namespace("self"));
    let keeper = ground.keeper();
    let (unstaging, id) = (keeper.clone(), ID);
    let unstaged = ground.runtime.spawn(async move { unstaging.unstage(id).await });
    crate::ground::wait_for("the unmount", || {
        !ground.runtime.block_on(keeper.list()).expect("listed")[0].mounted
    });
    let start = Instant::now();
    ground.runtime.block_on(async {
        keeper.device(ID).await.expect("a worker may have to be started for it");
        let staged = keeper.stage(ID, &ground.staging(), &MountOptions::default()).await;
        assert_eq!(staged.expect_err("ending").kind(), Some(FailureKind::Busy));
        keeper.unpublish(&ground.local("other")).await.expect("is not there");
    });
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!unstaged.is_finished(), "it waits for the kernel");
    elsewhere.kill().expect("killed");
    elsewhere.wait().expect("waited for");
    ground.runtime.block_on(unstaged).expect("no panic").expect("unmounted everywhere");
    assert!(ground.runtime.block_on(keeper.list()).expect("listed").is_empty());
    ground.node().ask(&Order::Stop);
    ground.node = None;
}
