//! The only writer: what it need not ask, and that whoever takes the volume from it overwrites nothing.

use crate::ground::{CALLER, Ground, Node, run, wait_for};
use std::time::Duration;
use strongroom::crypto::Suite;
use strongroom::fs::errno::FsError;
use strongroom::fs::types::{Ino, OpenMode};
use strongroom::volume::VolumeError;

const EXCLUSIVE: OpenMode = OpenMode {
    read: false,
    write: true,
    append: false,
    truncate: false,
    excl: true,
    sync: false,
    direct: false,
};

/// What cp and tar do: look, create with O_EXCL, write, close.
async fn copy(node: &Node, dir: Ino, name: &str, data: &[u8]) -> Result<Ino, FsError> {
    assert_eq!(node.lookup(dir, name).await.err(), Some(FsError::NotFound));
    let created = node.fs.create(&CALLER, dir, name.as_bytes(), 0o644, 0, EXCLUSIVE).await?;
    let (ino, handle) = (created.0.attr.ino, created.1.handle);
    node.fs.write(handle, 0, data.to_vec()).await?;
    let flushed = node.fs.flush(ino, handle).await;
    node.fs.release(ino, handle).await?;
    flushed.map(|()| ino)
}

#[test]
fn the_only_writer_creates_with_o_excl_by_one_put_and_asks_nothing_twice() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let names: Vec<String> = (0..50).map(|index| index.to_string()).collect();
        let before = ground.node().await;
        before.populate("dir", &names).await;
        before.fs.volume().session().end(before.fs.volume()).await.expect("ended");
        let node = ground.only_writer(false).await.expect("nobody writes");
        let dir = node.lookup(Ino::ROOT, "dir").await.expect("there").ino;
        node.requests();
        for index in 0..100 {
            copy(&node, dir, &format!("new {index}"), b"content").await.expect("copied");
        }
        assert_eq!(node.requests(), 102, "one look-up, one listing, one PUT a file");
        // However long ago it was asked.
        ground.pass_time();
        ground.clock.advance(Duration::from_secs(30));
        for name in ["new 7", "0", "49"] {
            let first = node.lookup(dir, name).await.expect("there");
            node.requests();
            ground.pass_time();
            assert_eq!(node.lookup(dir, name).await.expect("there").ino, first.ino);
            assert_eq!(node.requests(), 0, "{name}");
        }
        assert_eq!(node.lookup(dir, "never").await.err(), Some(FsError::NotFound));
        assert_eq!(node.requests(), 0, "an absent name");
        // Beside another writer each takes two: whether the name is free only the store knows.
        node.fs.volume().session().end(node.fs.volume()).await.expect("ended");
        let shared = ground.node().await;
        shared.warm().await;
        let dir = shared.mkdir(Ino::ROOT, "other").await;
        shared.requests();
        for index in 0..10 {
            copy(&shared, dir, &index.to_string(), b"content").await.expect("copied");
        }
        assert_eq!(shared.requests(), 20);
    });
}

#[test]
fn of_two_writers_one_is_refused_whoever_was_first() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let idle = ground.node().await;
        let first = ground.only_writer(false).await.expect("nobody writes");
        let refused = ground.only_writer(false).await.err();
        assert!(matches!(refused, Some(VolumeError::Exclusive(_))), "{refused:?}");
        // Who was there before but never wrote is refused at its first change, and leaves no session.
        assert_eq!(idle.write(Ino::ROOT, "refused", b"x").await.err(), Some(FsError::Busy));
        assert_eq!(ground.keys("s/").len(), 1);
        first.write(Ino::ROOT, "file", b"first").await.expect("written");
        ground.pass_time();
        let seen = idle.lookup(Ino::ROOT, "file").await.expect("reading goes on").ino;
        assert_eq!(idle.read(seen).await.expect("read"), b"first");
        // It ends, and the other may write; then nobody gets it alone.
        first.fs.volume().session().end(first.fs.volume()).await.expect("ended");
        ground.pass_time();
        idle.write(Ino::ROOT, "file", b"second").await.expect("written");
        let refused = ground.only_writer(false).await.err();
        assert!(matches!(refused, Some(VolumeError::Exclusive(_))), "{refused:?}");
        // Unless it was silent for long.
        ground.clock.advance(Duration::from_secs(601));
        let alone = ground.only_writer(false).await.expect("the other is silent");
        assert_eq!(idle.write(Ino::ROOT, "file", b"third").await.err(), Some(FsError::Busy));
        let ino = alone.lookup(Ino::ROOT, "file").await.expect("there").ino;
        assert_eq!(alone.read(ino).await.expect("read"), b"second");
    });
}

#[test]
fn who_is_robbed_of_the_volume_gets_estale_and_overwrites_nothing() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let robbed = ground.only_writer(false).await.expect("nobody writes");
        robbed.write(Ino::ROOT, "kept", b"acknowledged").await.expect("written");
        assert!(robbed.lookup(Ino::ROOT, "contested").await.is_err());
        let thief = ground.only_writer(true).await.expect("stolen");
        let ino = thief.lookup(Ino::ROOT, "kept").await.expect("there").ino;
        assert_eq!(thief.read(ino).await.expect("read"), b"acknowledged");
        thief.write(Ino::ROOT, "contested", b"thief").await.expect("written");
        // The robbed one still believes that the name is free, and learns otherwise from the store.
        let error = robbed.write(Ino::ROOT, "contested", b"robbed").await.err();
        assert!(matches!(error, Some(FsError::Stale { .. })), "{error:?}");
        // From its next sign of life on it changes nothing at all.
        ground.clock.advance(Duration::from_secs(301));
        for name in ["kept", "new"] {
            let error = robbed.write(Ino::ROOT, name, b"robbed").await.err();
            assert!(matches!(error, Some(FsError::Stale { .. })), "{name}: {error:?}");
        }
        let error = robbed.fs.unlink(Ino::ROOT, b"kept").await.err();
        let _ = robbed.fs.drain().await;
        ground.clock.advance(Duration::from_secs(301));
        let reader = ground.node_with(Default::default(), true).await;
        for (name, content) in [("kept", &b"acknowledged"[..]), ("contested", b"thief")] {
            let ino = reader.lookup(Ino::ROOT, name).await.expect("there").ino;
            assert_eq!(reader.read(ino).await.expect("read"), content, "{name}, {error:?}");
        }
        assert!(reader.lookup(Ino::ROOT, "new").await.is_err());
    });
}

#[test]
fn of_claimants_and_writers_at_the_same_moment_no_two_go_on() {
    run(async {
        for round in 0..40 {
            let ground = Ground::new(Suite::None).await;
            let shared = ground.node().await;
            let (one, other, write) = tokio::join!(
                ground.only_writer(false),
                ground.only_writer(false),
                shared.write(Ino::ROOT, "file", b"x"),
            );
            let alone = [one.is_ok(), other.is_ok()].iter().filter(|won| **won).count();
            assert!(alone + usize::from(write.is_ok()) <= 1, "round {round}: {alone}, {write:?}");
        }
    });
}

/// A program lists a directory by names alone, as cat's shell does.
async fn names(node: &Node, dir: Ino) {
    let handle = node.fs.opendir(dir).await.expect("opened");
    node.fs.readdir(dir, handle, 0, false).await.expect("read");
    node.fs.releasedir(handle).await.expect("closed");
    node.requests();
}

#[test]
fn files_taken_in_order_are_asked_for_ahead_and_once() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let files: Vec<String> = (100..200).map(|index| index.to_string()).collect();
        let before = ground.node().await;
        before.populate("dir", &files).await;
        before.fs.volume().session().end(before.fs.volume()).await.expect("ended");
        let node = ground.only_writer(false).await.expect("nobody writes");
        let dir = node.lookup(Ino::ROOT, "dir").await.expect("there").ino;
        let take = async |name: &String| {
            let ino = node.lookup(dir, name).await.expect("there").ino;
            assert_eq!(node.read(ino).await.expect("read"), name.as_bytes());
            node.fs.forget(ino, 1);
        };

        names(&node, dir).await;
        // The first listing writes the directory's index in the background.
        wait_for("the index", || !ground.keys("x/").is_empty()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.requests();
        let asked = node.verb("get").0;
        for name in &files[..3] {
            take(name).await;
        }
        wait_for("the next ones to be asked for", || node.verb("get").0 == asked + 3 + 4).await;
        for name in &files[3..] {
            take(name).await;
        }
        assert_eq!(node.requests(), 100, "each file once");

        // Who jumps is asked nothing for.
        let asked = node.verb("get").0;
        for index in 0..50 {
            take(&files[index * 37 % 100]).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(node.verb("get").0, asked + 50);

        // What was asked for and never taken does not stay: a change of the directory is seen.
        names(&node, dir).await;
        for name in &files[..10] {
            take(name).await;
        }
        node.fs.unlink(dir, files[12].as_bytes()).await.expect("removed");
        assert_eq!(node.lookup(dir, &files[12]).await.err(), Some(FsError::NotFound));
        take(&files[13]).await;
    });
}

#[test]
fn beside_other_writers_nothing_is_asked_for_ahead() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let files: Vec<String> = (100..150).map(|index| index.to_string()).collect();
        let node = ground.node().await;
        node.populate("dir", &files).await;
        let dir = node.lookup(Ino::ROOT, "dir").await.expect("there").ino;
        names(&node, dir).await;
        for name in &files[..20] {
            let ino = node.lookup(dir, name).await.expect("there").ino;
            node.read(ino).await.expect("read");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(node.requests(), 20);
    });
}
