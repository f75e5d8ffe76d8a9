//! A file that is moved while it is written: by another node, or by a rename whose reply was lost. What is
//! written follows it to its new name, and only what really contradicts another node is kept beside.

use crate::ground::{CALLER, Ground, Node, WRITE, run};
use strongroom::crypto::Suite;
use strongroom::fs::errno::FsError;
use strongroom::fs::types::{HandleId, Ino, SetAttr};
use strongroom::store::fault::{Action, Rule, Verb, When};

/// Opens a file and writes to it without storing that.
async fn begin_to_write(node: &Node, name: &str, data: &[u8]) -> (Ino, HandleId) {
    let ino = node.lookup(Ino::ROOT, name).await.expect("there").ino;
    let handle = node.fs.open(&CALLER, ino, WRITE).await.expect("opened").handle;
    node.fs.write(handle, 0, data.to_vec()).await.expect("written");
    (ino, handle)
}

async fn names(node: &Node) -> Vec<String> {
    node.list(Ino::ROOT).await.into_keys().collect()
}

async fn read(node: &Node, name: &str) -> Vec<u8> {
    let ino = node.lookup(Ino::ROOT, name).await.expect("there").ino;
    node.read(ino).await.expect("read")
}

#[test]
fn a_file_that_another_node_renames_while_it_is_written_is_stored_under_its_new_name() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let (writer, mover) = (ground.node().await, ground.node().await);
        writer.write(Ino::ROOT, "old", b"before").await.expect("stored");
        let (ino, handle) = begin_to_write(&writer, "old", b"behind").await;
        mover.rename((Ino::ROOT, "old"), (Ino::ROOT, "new")).await.expect("moved");
        writer.fs.flush(ino, handle).await.expect("stored");
        writer.fs.write(handle, 6, b" it".to_vec()).await.expect("written");
        writer.fs.flush(ino, handle).await.expect("stored again");
        let fresh = ground.node().await;
        assert_eq!(names(&fresh).await, ["new"]);
        assert_eq!(read(&fresh, "new").await, b"behind it");
        ground.pass_time();
        assert_eq!(names(&writer).await, ["new"]);
        assert!(matches!(writer.lookup(Ino::ROOT, "old").await, Err(FsError::NotFound)));
    });
}

#[test]
fn a_file_that_two_nodes_rename_is_written_under_the_name_that_each_gave_it() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let (one, two) = (ground.node().await, ground.node().await);
        one.write(Ino::ROOT, "old", b"before").await.expect("stored");
        one.write(Ino::ROOT, "slow", b"replaced").await.expect("stored");
        // What was stored under the old name, and what was written since; both still know that name.
        let (ino, handle) = begin_to_write(&one, "old", b"behind").await;
        two.rename((Ino::ROOT, "old"), (Ino::ROOT, "fast")).await.expect("moved");
        one.rename((Ino::ROOT, "old"), (Ino::ROOT, "slow")).await.expect("moved");
        one.fs.flush(ino, handle).await.expect("stored");
        one.fs.write(handle, 6, b" it".to_vec()).await.expect("written");
        one.fs.flush(ino, handle).await.expect("stored again");
        let fresh = ground.node().await;
        assert_eq!(names(&fresh).await, ["fast", "slow"]);
        assert_eq!(read(&fresh, "slow").await, b"behind it");
        assert_eq!(read(&fresh, "fast").await, b"before");
        let listed = fresh.list(Ino::ROOT).await;
        assert_ne!(listed["fast"].ino, listed["slow"].ino);
        ground.pass_time();
        assert_eq!(read(&one, "slow").await, b"behind it");
        assert_eq!(read(&one, "fast").await, b"before");
        assert_eq!(names(&one).await, ["fast", "slow"]);
    });
}

#[test]
fn a_file_that_two_nodes_rename_has_the_first_ones_name() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let (one, two) = (ground.node().await, ground.node().await);
        one.write(Ino::ROOT, "old", b"before").await.expect("stored");
        let (ino, handle) = begin_to_write(&one, "old", b"behind").await;
        two.rename((Ino::ROOT, "old"), (Ino::ROOT, "fast")).await.expect("moved");
        let late = one.rename((Ino::ROOT, "old"), (Ino::ROOT, "slow")).await;
        assert!(matches!(late, Err(FsError::NotFound)), "{late:?}");
        one.fs.flush(ino, handle).await.expect("stored");
        let fresh = ground.node().await;
        assert_eq!(names(&fresh).await, ["fast"]);
        assert_eq!(read(&fresh, "fast").await, b"behind");
    });
}

#[test]
fn a_file_that_another_node_renamed_and_wrote_meanwhile_is_kept_in_both_versions() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let (writer, mover) = (ground.node().await, ground.node().await);
        writer.write(Ino::ROOT, "old", b"before").await.expect("stored");
        let (ino, handle) = begin_to_write(&writer, "old", b"ours").await;
        mover.rename((Ino::ROOT, "old"), (Ino::ROOT, "new")).await.expect("moved");
        mover.write(Ino::ROOT, "new", b"theirs").await.expect("stored");
        let error = writer.fs.flush(ino, handle).await.expect_err("a conflict");
        assert!(matches!(error, FsError::Stale { .. }), "{error}");
        let fresh = ground.node().await;
        let found = names(&fresh).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(read(&fresh, "new").await, b"theirs");
        let kept = found.iter().find(|name| name.contains(".conflict-")).expect("kept beside");
        assert_eq!(read(&fresh, kept).await, b"oursre");
    });
}

#[test]
fn a_change_in_doubt_and_then_a_rename_in_doubt_are_no_conflict_with_ourselves() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        node.write(Ino::ROOT, "old", b"before").await.expect("stored");
        let (ino, handle) = begin_to_write(&node, "old", b"behind").await;
        node.lookup(Ino::ROOT, "new").await.expect_err("not there");
        // It is stored, but nobody says so.
        node.fault.add(Rule::new(Verb::Put, When::Nth(1), Action::FailAfter).under("t/"));
        node.fault.add(Rule::new(Verb::Get, When::From(1), Action::FailBefore).under("t/"));
        node.fault.set_enabled(true);
        node.fs.flush(ino, handle).await.expect_err("in doubt");
        node.rename((Ino::ROOT, "old"), (Ino::ROOT, "new")).await.expect_err("in doubt");
        node.fault.clear();
        ground.pass_time();
        // Whoever meets both names finishes the move.
        for name in ["old", "new", "old"] {
            let _ = node.lookup(Ino::ROOT, name).await;
        }
        node.fs.write(handle, 6, b" it".to_vec()).await.expect("written");
        let _ = node.fs.flush(ino, handle).await;
        node.fs.fsync(ino, handle, false).await.expect("stored");
        let fresh = ground.node().await;
        assert_eq!(names(&fresh).await, ["new"]);
        assert_eq!(read(&fresh, "new").await, b"behind it");
    });
}

#[test]
fn a_file_with_several_names_gets_one_more_where_none_of_them_is_known() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let other = ground.node().await;
        let ino = other.write(Ino::ROOT, "one", b"data").await.expect("stored");
        other.fs.link(ino, Ino::ROOT, b"two").await.expect("linked");
        let node = ground.node().await;
        let ino = node.lookup(Ino::ROOT, "one").await.expect("there").ino;
        node.fs.unlink(Ino::ROOT, b"one").await.expect("removed");
        let linked = node.fs.link(ino, Ino::ROOT, b"three").await.expect("linked");
        assert_eq!(linked.attr.nlink, 2);
        assert_eq!(read(&ground.node().await, "three").await, b"data");
        // What shows attributes of a name alone is no file of its own.
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        node.fs.setattr(&CALLER, ino, set).await.expect("changed");
        let found = ground.node().await.list(Ino::ROOT).await;
        let shown: Vec<_> = found.iter().map(|(name, attr)| (&name[..], attr.mode)).collect();
        assert_eq!(shown, [("three", 0o600), ("two", 0o600)]);
    });
}
