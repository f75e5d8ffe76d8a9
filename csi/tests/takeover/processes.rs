//! The processes around the worker: the keeper that dies, the node plugin that is started again, nobody who
//! serves.

use crate::ground::{Ground, ID, limited, wait_for};
use crate::node::{Order, Report};
use nix::sys::signal::{Signal, kill};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use strongroom_csi::keeper::{FailureKind, MountOptions};

#[test]
fn a_volume_is_published_and_taken_away_however_often_it_is_asked() {
    let mut ground = Ground::on_directory();
    ground.serve();
    let keeper = ground.keeper();
    fs::write(ground.at("file"), "x").expect("written");
    let (first, second) = (ground.local("pods/1/mount"), ground.local("pods/2/mount"));
    ground.runtime.block_on(async {
        let kind = |result: Result<(), strongroom_csi::keeper::KeeperError>| {
            result.expect_err("refused").kind()
        };
        let staging = ground.staging();
        for _ in 0..3 {
            keeper.stage(ID, &staging, &MountOptions::default()).await.expect("staged");
            keeper.publish(ID, &first, false).await.expect("published");
            keeper.publish(ID, &second, true).await.expect("published");
        }
        let elsewhere = ground.local("elsewhere");
        let options = MountOptions { read_only: true, ..MountOptions::default() };
        for (path, options) in [(&elsewhere, MountOptions::default()), (&staging, options)] {
            let staged = keeper.stage(ID, path, &options).await.map(drop);
            assert_eq!(kind(staged), Some(FailureKind::Conflict));
        }
        assert_eq!(kind(keeper.publish(ID, &first, true).await), Some(FailureKind::Conflict));
        assert_eq!(kind(keeper.publish("other", &first, false).await), Some(FailureKind::NotFound));
        let outside = std::path::Path::new("/tmp/strongroom-nobody-allowed-this");
        assert_eq!(kind(keeper.publish(ID, outside, false).await), Some(FailureKind::Denied));
        // A link below what is allowed, to be followed on the way to a directory that is to be made.
        let link = ground.local("link");
        std::os::unix::fs::symlink("/tmp", &link).expect("linked");
        let beyond = link.join("strongroom-nobody-allowed-this/mount");
        assert_eq!(kind(keeper.publish(ID, &beyond, false).await), Some(FailureKind::Denied));
        assert!(!outside.exists());
        let taken = keeper.stage("other", &staging, &MountOptions::default()).await.map(drop);
        assert_eq!(kind(taken), Some(FailureKind::Conflict), "another volume's place");
        assert_eq!(kind(keeper.unpublish(&staging).await), Some(FailureKind::Invalid));
        let held = keeper.list().await.expect("listed");
        assert_eq!((held.len(), held[0].targets.len()), (1, 2));
        assert!(held[0].mounted && held[0].served && !held[0].remembered);
        keeper.remember(ID, b"blob").await.expect("remembered");
        assert_eq!(keeper.recall(ID).await.expect("recalled").as_deref(), Some(&b"blob"[..]));
        keeper.forget(ID).await.expect("forgotten");
        assert_eq!(keeper.recall(ID).await.expect("recalled"), None);
    });
    assert_eq!(fs::read(first.join("file")).expect("read"), b"x");
    fs::write(first.join("file"), "y").expect("written");
    let error = fs::write(second.join("file"), "z").expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS));
    ground.runtime.block_on(async {
        let busy = keeper.unstage(ID).await.expect_err("bound");
        assert_eq!(busy.kind(), Some(FailureKind::Busy));
        for _ in 0..3 {
            keeper.unpublish(&first).await.expect("unpublished");
            keeper.unpublish(&second).await.expect("unpublished");
        }
    });
    assert!(!first.exists() && !second.exists());
    ground.unstage();
    ground.runtime.block_on(async {
        keeper.unstage(ID).await.expect("is gone already");
        assert!(keeper.list().await.expect("listed").is_empty());
    });
    assert_eq!(ground.pulled("file"), b"y");
}

#[test]
fn where_nobody_serves_there_are_errors_until_somebody_comes() {
    let mut ground = Ground::new(None, "1s", &[]);
    ground.serve();
    let mut file = File::create(ground.at("file")).expect("created");
    file.write_all(b"accepted").expect("written");
    let pid = ground.pid();
    // No supervisor that starts the next one.
    let next = ground.another_node();
    ground.node = None;
    let _ = kill(pid, Signal::SIGKILL);
    let start = Instant::now();
    let error = file.sync_all().expect_err("nobody serves");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let held = ground.runtime.block_on(ground.keeper().list()).expect("listed");
    assert!(held[0].answered_with_errors && !held[0].served && held[0].mounted);
    ground.take_over(next);
    file.write_all(b" and more").expect("it serves again");
    file.sync_all().expect("stored");
    drop(file);
    ground.unstage();
    assert_eq!(ground.pulled("file"), b"accepted and more");
}

#[test]
fn a_node_plugin_that_starts_again_takes_its_volumes_over_at_once() {
    let mut ground = Ground::on_directory();
    ground.serve();
    let mut file = File::create(ground.at("file")).expect("created");
    file.write_all(b"before, ").expect("written");
    let former = ground.pid();
    let next = ground.another_node();
    // The supervisor is gone; its worker sees the end of its socket.
    ground.node = None;
    let start = Instant::now();
    ground.take_over(next);
    println!("taken over from a living worker in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(ground.pid() != former);
    file.write_all(b"after").expect("written");
    drop(file);
    ground.unstage();
    assert_eq!(ground.pulled("file"), b"before, after");
}

#[test]
fn a_worker_that_nobody_watches_stores_everything_and_ends() {
    let mut ground = Ground::on_directory();
    ground.serve();
    let mut file = File::create(ground.at("file")).expect("created");
    file.write_all(b"of an open file").expect("written");
    let (pid, next) = (ground.pid(), ground.another_node());
    ground.node = None;
    wait_for("the worker's end", || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
    let order = Order::Run {
        program: crate::ground::strongroom(),
        arguments: vec!["cat".to_owned(), format!("{}//file", ground.url)],
        environment: vec![("STRONGROOM_PASSPHRASE_FILE".to_owned(), ground.local("passphrase"))],
    };
    let Report::Said(stored) = next.ask(&order) else { panic!("no output") };
    assert_eq!(stored, b"of an open file");
    ground.take_over(next);
    file.write_all(b", and more").expect("written");
    drop(file);
    ground.unstage();
    assert_eq!(ground.pulled("file"), b"of an open file, and more");
}

#[test]
fn without_its_keeper_a_volume_is_served_on_and_can_be_staged_again() {
    let mut ground = Ground::on_directory();
    ground.serve();
    fs::write(ground.at("stored"), "stored").expect("written");
    ground.kill_keeper();
    // The worker has the connection still.
    assert_eq!(fs::read(ground.at("stored")).expect("read"), b"stored");
    let pid = ground.pid();
    ground.node = None;
    let _ = kill(pid, Signal::SIGKILL);
    let output = limited("cat", 20).arg(ground.at("stored")).output().expect("cat ends");
    assert_eq!(output.status.code(), Some(1), "an error and no hang");
    ground.start_keeper();
    ground.serve();
    let mut text = String::new();
    let mut file = File::open(ground.at("stored")).expect("opened");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "stored");
    drop(file);
    ground.unstage();
}

#[test]
fn a_worker_that_cannot_serve_says_why() {
    use strongroom::tool::attach::protocol::{FailureKind as Kind, Secrets, Settings};
    type Change = fn(&mut Settings, &mut Secrets);
    let cases: [(Kind, Change); 5] = [
        (Kind::Passphrase, |_, secrets| {
            secrets.passphrase = Some("another secret of 32 bytes or so".into());
        }),
        (Kind::Passphrase, |_, secrets| secrets.passphrase = None),
        (Kind::NotFound, |settings, _| settings.url.push_str("-not-here")),
        (Kind::Invalid, |settings, _| {
            settings.options.insert("memroy_limit".into(), 1.into());
        }),
        (Kind::Unreachable, |settings, _| {
            settings.url = "s3://bucket/volume".to_owned();
            settings.options.insert("endpoint".into(), "http://127.0.0.1:9".into());
            settings.options.insert("io_timeout".into(), "2s".into());
        }),
    ];
    let mut ground = Ground::on_directory();
    for (expected, change) in cases {
        let (mut settings, mut secrets) = (ground.settings(), ground.secrets());
        change(&mut settings, &mut secrets);
        let report = ground.try_serve(settings, secrets);
        let Report::Failed { kind, message } = report else { panic!("{report:?}") };
        assert_eq!(kind, Some(expected), "{message}");
        assert!(!message.contains(&ground.passphrase));
    }
    // What failed left nothing behind that would keep the right one from serving.
    ground.serve();
    fs::write(ground.at("file"), "x").expect("written");
    ground.unstage();
}

#[test]
fn keys_are_replaced_while_the_volume_is_used() {
    let mut ground = Ground::on_minio();
    ground.serve();
    fs::write(ground.at("file"), "x").expect("written");
    let mut wrong = ground.secrets();
    wrong.secret_key = Some("wrong".to_owned());
    assert!(matches!(ground.node().ask(&Order::Credentials { secrets: wrong }), Report::Done));
    let Report::Health(health) = ground.node().ask(&Order::Health) else { panic!("no health") };
    assert!(!health.reachable && !health.message.is_empty());
    let secrets = ground.secrets();
    assert!(matches!(ground.node().ask(&Order::Credentials { secrets }), Report::Done));
    let Report::Health(health) = ground.node().ask(&Order::Health) else { panic!("no health") };
    assert!(health.reachable, "{}", health.message);
    fs::write(ground.at("file"), "y").expect("written");
    ground.unstage();
    assert_eq!(ground.pulled("file"), b"y");
}
