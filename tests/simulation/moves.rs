//! Two nodes move one file at the same time: one name, or two files that have nothing in common but their bytes.

use crate::lab::{Lab, Trapped, read, run};
use futures::FutureExt;
use std::sync::Arc;
use strongroom::store::fault::Verb;
use strongroom::units::FileId;
use strongroom::volume::VolumeError;
use strongroom::volume::native::Volume;
use strongroom::volume::native::entries::{Expect, Place};
use strongroom::volume::native::namespace::Found;
use strongroom::volume::native::record::Attributes;

async fn found(volume: &Volume, name: &[u8]) -> Option<Found> {
    volume.lookup(volume.root_directory(), name).await.expect("looked up")
}

async fn id_of(volume: &Volume, name: &[u8]) -> FileId {
    let found = found(volume, name).await.expect("there");
    found.home().record.file().expect("a file").id
}

async fn move_to(volume: &Volume, from: &[u8], to: &[u8]) -> Result<(), VolumeError> {
    let source = found(volume, from).await.expect("there");
    let target = match found(volume, to).await {
        Some(target) => Expect::Exactly(target.entry.etag),
        None => Expect::Free,
    };
    volume.rename(&source.entry, volume.root_directory(), to, target).await.map(drop)
}

/// Two nodes, of which the second moves `old` to `fast` when the first one has put it under `slow` and
/// is about to take the old name away. What became of the first one's.
async fn race(lab: &Lab, conditional_delete: bool) -> Result<(), VolumeError> {
    let store = Trapped::new(lab.store.clone());
    let (slow, fast) = (lab.open_on(store.clone()).await, lab.open().await);
    let old = Place::Entry(slow.root_directory(), b"old".to_vec()).key(&slow);
    let verb = if conditional_delete { Verb::Delete } else { Verb::Put };
    store.before(verb, old.as_str(), move || {
        async move { move_to(&fast, b"old", b"fast").await.expect("moved") }.boxed()
    });
    let moved = move_to(&slow, b"old", b"slow").await;
    assert!(store.is_sprung());
    slow.session().end(&slow).await.expect("ended");
    moved
}

/// Neither name takes the other's bytes with it.
async fn are_two_files(lab: &Lab, bytes: &[u8]) {
    let volume: Arc<Volume> = lab.open().await;
    assert_ne!(id_of(&volume, b"slow").await, id_of(&volume, b"fast").await);
    assert!(found(&volume, b"old").await.is_none());
    for name in [&b"slow"[..], b"fast"] {
        assert!(read(&volume, volume.root_directory(), name).await.expect("read") == bytes);
    }
    let fast = found(&volume, b"fast").await.expect("there");
    volume.unlink(&fast).await.expect("removed");
    volume.session().end(&volume).await.expect("ended");
    lab.collect_all().await;
    assert!(lab.read(b"slow").await.expect("read") == bytes);
    lab.assert_whole().await;
}

#[test]
fn of_two_nodes_that_move_one_file_at_the_same_time_the_second_finds_it_gone() {
    run(async {
        let lab = Lab::new(false).await;
        let bytes = lab.push(b"old", 1).await;
        let error = race(&lab, false).await.expect_err("moved by another node");
        assert!(matches!(error, VolumeError::Conflict(_)), "{error}");
        assert!(lab.read(b"fast").await.expect("read") == bytes);
        let volume = lab.open().await;
        assert!(found(&volume, b"slow").await.is_none());
        assert!(found(&volume, b"old").await.is_none());
        lab.assert_whole().await;
    });
}

#[test]
fn a_file_that_two_nodes_move_over_two_others_at_the_same_time_is_two_files() {
    run(async {
        let lab = Lab::new(false).await;
        let bytes = lab.push(b"old", 1).await;
        lab.push(b"slow", 2).await;
        lab.push(b"fast", 3).await;
        race(&lab, false).await.expect("moved");
        are_two_files(&lab, &bytes).await;
    });
}

#[test]
fn a_file_whose_old_name_was_anothers_meanwhile_is_one_of_its_own() {
    run(async {
        let lab = Lab::new(false).await;
        let bytes = lab.push(b"old", 1).await;
        let store = Trapped::new(lab.store.clone());
        let (slow, fast) = (lab.open_on(store.clone()).await, lab.open().await);
        let old = Place::Entry(slow.root_directory(), b"old".to_vec()).key(&slow);
        store.before(Verb::Put, old.as_str(), move || {
            async move {
                move_to(&fast, b"old", b"fast").await.expect("moved");
                let (root, attributes) = (fast.root_directory(), Attributes::default());
                let written =
                    fast.write_file(root, b"old", attributes, &mut &b"new"[..], |_| {}).await;
                written.expect("written");
                let found = found(&fast, b"old").await.expect("there");
                fast.unlink(&found).await.expect("removed");
            }
            .boxed()
        });
        move_to(&slow, b"old", b"slow").await.expect("moved");
        assert!(store.is_sprung());
        slow.session().end(&slow).await.expect("ended");
        are_two_files(&lab, &bytes).await;
    });
}

#[test]
fn a_file_whose_old_name_went_without_a_trace_while_it_was_moved_is_one_of_its_own() {
    run(async {
        let lab = Lab::new(true).await;
        // So short that no segment has to be kept for it: its old name is deleted, not buried.
        let bytes = b"short";
        let volume = lab.open().await;
        let (root, attributes) = (volume.root_directory(), Attributes::default());
        let written = volume.write_file(root, b"old", attributes, &mut &bytes[..], |_| {}).await;
        written.expect("written");
        volume.session().end(&volume).await.expect("ended");
        race(&lab, true).await.expect("moved");
        are_two_files(&lab, bytes).await;
    });
}
