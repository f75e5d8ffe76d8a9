//! Names removed: gone here at once, buried in the store many at a time, and shown again if that fails.

use crate::ground::{Ground, Node, run};
use std::time::{Duration, Instant};
use strongroom::crypto::Suite;
use strongroom::fs::errno::FsError;
use strongroom::fs::types::Ino;
use strongroom::store::fault::{Action, Rule, Verb, When};

/// The time of a round trip.
const AWAY: Duration = Duration::from_millis(20);

async fn dir(node: &Node) -> Ino {
    node.lookup(Ino::ROOT, "dir").await.expect("there").ino
}

fn slow(node: &Node) {
    node.fault.add(Rule::any(When::From(1), Action::Delay(AWAY)));
    node.fault.set_enabled(true);
}

fn refuse_puts(node: &Node) {
    node.fault.add(Rule::new(Verb::Put, When::From(1), Action::FailBefore).under("t/"));
    node.fault.set_enabled(true);
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("file {index}")).collect()
}

#[test]
fn rm_r_of_1000_files_does_not_wait_for_each() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let names = names(1000);
        node.populate("dir", &names).await;
        let dir = dir(&node).await;
        node.list(dir).await;
        node.requests();
        slow(&node);
        let start = Instant::now();
        for name in &names {
            node.fs.unlink(dir, name.as_bytes()).await.expect("removed");
        }
        assert!(node.list(dir).await.is_empty(), "they are gone at once");
        node.fs.rmdir(Ino::ROOT, b"dir").await.expect("removed");
        node.fs.fsyncdir(Ino::ROOT).await.expect("stored");
        // One after the other it would take 20 s.
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(4), "{elapsed:?}");
        let fresh = ground.node().await;
        assert!(fresh.list(Ino::ROOT).await.is_empty());
    });
}

#[test]
fn what_is_removed_is_gone_at_once_and_its_name_can_be_used_again() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        node.populate("dir", &names(8)).await;
        let dir = dir(&node).await;
        node.list(dir).await;
        slow(&node);
        for index in 0..7 {
            node.fs.unlink(dir, format!("file {index}").as_bytes()).await.expect("removed");
            assert_eq!(
                node.lookup(dir, &format!("file {index}")).await.err(),
                Some(FsError::NotFound)
            );
        }
        assert_eq!(node.list(dir).await.len(), 1);
        node.write(dir, "file 0", b"another").await.expect("written");
        node.mkdir(dir, "file 1").await;
        node.rename((dir, "file 7"), (dir, "file 2")).await.expect("renamed");
        let linked = node.lookup(dir, "file 0").await.expect("there").ino;
        node.fs.link(linked, dir, b"file 3").await.expect("linked");
        let again = node.fs.unlink(dir, b"file 4").await;
        assert_eq!(again, Err(FsError::NotFound));
        // Also when what is known is old.
        ground.pass_time();
        assert_eq!(node.lookup(dir, "file 5").await.err(), Some(FsError::NotFound));
        assert!(node.fs.drain().await.is_empty());
        let fresh = ground.node().await;
        let listed = fresh.list(self::dir(&fresh).await).await;
        let found: Vec<&str> = listed.keys().map(String::as_str).collect();
        assert_eq!(found, ["file 0", "file 1", "file 2", "file 3"]);
        assert_eq!(fresh.read(listed["file 0"].ino).await.expect("read"), b"another");
        assert_eq!(fresh.read(listed["file 2"].ino).await.expect("read"), b"file 7");
        assert_eq!(fresh.read(listed["file 3"].ino).await.expect("read"), b"another");
    });
}

#[test]
fn a_removal_that_fails_is_told_and_the_name_shows_again() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        node.warm().await;
        node.populate("dir", &names(3)).await;
        let dir = dir(&node).await;
        let empty = node.mkdir(dir, "empty").await;
        node.list(dir).await;
        refuse_puts(&node);
        node.fs.unlink(dir, b"file 0").await.expect("answered at once");
        node.fs.rmdir(dir, b"empty").await.expect("answered at once");
        let told = node.fs.fsyncdir(dir).await;
        assert!(matches!(told, Err(FsError::TimedOut { .. })), "{told:?}");
        node.fs.fsyncdir(dir).await.expect("told once");
        node.fault.clear();
        let attr = node.lookup(dir, "file 0").await.expect("it is there again");
        assert_eq!(attr.nlink, 1);
        assert_eq!(node.read(attr.ino).await.expect("read"), b"file 0");
        assert_eq!(node.lookup(dir, "empty").await.expect("it is there again").ino, empty);
        assert_eq!(node.list(dir).await.len(), 4);
        node.write(dir, "file 0", b"changed").await.expect("written");
        node.fs.unlink(dir, b"file 1").await.expect("removed");
        node.fs.fsyncdir(dir).await.expect("stored");
        refuse_puts(&node);
        node.fs.unlink(dir, b"file 2").await.expect("answered at once");
        let failed = node.fs.drain().await;
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].0, "file 2");
        let fresh = ground.node().await;
        let listed = fresh.list(self::dir(&fresh).await).await;
        let found: Vec<&str> = listed.keys().map(String::as_str).collect();
        assert_eq!(found, ["empty", "file 0", "file 2"]);
        assert_eq!(fresh.read(listed["file 0"].ino).await.expect("read"), b"changed");
    });
}

#[test]
fn a_name_that_could_not_be_removed_is_not_created_over() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        node.warm().await;
        node.populate("dir", &names(2)).await;
        let dir = dir(&node).await;
        node.list(dir).await;
        refuse_puts(&node);
        node.fs.unlink(dir, b"file 0").await.expect("answered at once");
        node.fs.fsyncdir(dir).await.expect_err("not removed");
        node.fault.clear();
        // O_CREAT opens what is there.
        let ino = node.write(dir, "file 0", b"12").await.expect("written");
        assert_eq!(node.read(ino).await.expect("read"), b"12le 0");
        assert_eq!(node.list(dir).await.len(), 2, "no copy was kept beside it");
    });
}

#[test]
fn what_another_node_puts_in_the_place_of_a_removed_file_stays() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let (node, other) = (ground.node().await, ground.node().await);
        node.populate("dir", &names(3)).await;
        let (dir, there) = (dir(&node).await, dir(&other).await);
        node.list(dir).await;
        // Known here as they were; the first is replaced, the second only changed.
        other.write(there, "new", b"another file").await.expect("written");
        other.rename((there, "new"), (there, "file 0")).await.expect("replaced");
        other.write(there, "file 1", b"changed").await.expect("written");
        node.fs.unlink(dir, b"file 0").await.expect("removed");
        node.fs.unlink(dir, b"file 1").await.expect("removed");
        node.fs.fsyncdir(dir).await.expect("stored");
        let fresh = ground.node().await;
        let listed = fresh.list(self::dir(&fresh).await).await;
        let found: Vec<&str> = listed.keys().map(String::as_str).collect();
        assert_eq!(found, ["file 0", "file 2"]);
        assert_eq!(fresh.read(listed["file 0"].ino).await.expect("read"), b"another file");
    });
}
