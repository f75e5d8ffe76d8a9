//! A directory has one name: two nodes that move it at the same time, moves that were cut short and went
//! on from there, and cycles. gc unites what is left over, and loses nothing to a move at the same moment.

use crate::lab::{Lab, Trapped, read, run, write};
use crate::repairs::mkdir;
use futures::FutureExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use strongroom::store::fault::{Action, Fault, Rule, Verb, When};
use strongroom::units::DirId;
use strongroom::volume::VolumeError;
use strongroom::volume::native::Volume;
use strongroom::volume::native::entries::{Expect, Place};
use strongroom::volume::native::gc::GcSettings;
use strongroom::volume::native::record::{Attributes, Content, Record};

/// Where a directory has living names: pairs of a parent and a name there.
async fn names_of(lab: &Lab, dir: DirId) -> Vec<String> {
    let volume = lab.open().await;
    let (mut names, mut pending) = (Vec::new(), vec![volume.root_directory()]);
    let mut seen = BTreeSet::new();
    while let Some(parent) = pending.pop() {
        for listed in volume.list_directory(parent).await.expect("listed") {
            let found = volume.lookup(parent, &listed.name).await.unwrap().expect("there");
            let Some(child) = found.home().record.directory() else { continue };
            if child == dir {
                names.push(listed.name.escape_ascii().to_string());
            }
            if seen.insert(child) {
                pending.push(child);
            }
        }
    }
    volume.session().end(&volume).await.expect("ended");
    names.sort();
    names
}

async fn move_to(volume: &Volume, from: &[u8], to: &[u8]) {
    let root = volume.root_directory();
    let found = volume.lookup(root, from).await.unwrap().expect("there");
    volume.rename(&found.entry, root, to, Expect::Free).await.expect("moved");
}

#[test]
fn of_two_nodes_that_move_one_directory_at_the_same_time_the_second_finds_it_gone() {
    run(async {
        let lab = Lab::new(false).await;
        let store = Trapped::new(lab.store.clone());
        let (slow, fast) = (lab.open_on(store.clone()).await, lab.open().await);
        let root = slow.root_directory();
        let dir = mkdir(&slow, root, b"directory").await;
        let bytes = write(&slow, dir, b"file", 1).await;
        let old = Place::Entry(root, b"directory".to_vec()).key(&slow);
        // Both new names stand before the old one is buried.
        let other = fast.clone();
        store.before(Verb::Put, old.as_str(), move || {
            async move { move_to(&other, b"directory", b"fast").await }.boxed()
        });
        let found = slow.lookup(root, b"directory").await.unwrap().unwrap();
        let late = slow.rename(&found.entry, root, b"slow", Expect::Free).await;
        assert!(store.is_sprung());
        let error = late.expect_err("moved by another node");
        assert!(matches!(error, VolumeError::Conflict(_)), "{error}");
        assert_eq!(names_of(&lab, dir).await, ["fast"]);
        assert_eq!(read(&fast, dir, b"file").await.expect("read"), bytes);
    });
}

#[test]
fn a_move_that_another_node_finished_is_not_taken_back() {
    run(async {
        let lab = Lab::new(false).await;
        let store = Trapped::new(lab.store.clone());
        let (slow, helper) = (lab.open_on(store.clone()).await, lab.open().await);
        let root = slow.root_directory();
        let dir = mkdir(&slow, root, b"old").await;
        let old = Place::Entry(root, b"old".to_vec()).key(&slow);
        store.before(Verb::Put, old.as_str(), move || {
            async move {
                let from = helper.lookup(root, b"old").await.unwrap().unwrap();
                let to = helper.lookup(root, b"new").await.unwrap().unwrap();
                helper.finish_move(&from.entry, &to.entry).await.expect("finished");
            }
            .boxed()
        });
        let found = slow.lookup(root, b"old").await.unwrap().unwrap();
        slow.rename(&found.entry, root, b"new", Expect::Free).await.expect("moved");
        assert!(store.is_sprung());
        assert_eq!(names_of(&lab, dir).await, ["new"]);
    });
}

#[test]
fn what_came_to_the_old_name_since_is_not_moved_over_what_was_there() {
    run(async {
        let lab = Lab::new(false).await;
        let (first, second) = (lab.push(b"old", 1).await, lab.push(b"other", 2).await);
        let store = Trapped::new(lab.store.clone());
        let (slow, fast) = (lab.open_on(store.clone()).await, lab.open().await);
        let root = slow.root_directory();
        let old = Place::Entry(root, b"old".to_vec()).key(&slow);
        store.before(Verb::Put, old.as_str(), move || {
            async move {
                let found = fast.lookup(root, b"old").await.unwrap().unwrap();
                fast.unlink(&found).await.expect("removed");
                move_to(&fast, b"other", b"old").await;
            }
            .boxed()
        });
        let found = slow.lookup(root, b"old").await.unwrap().unwrap();
        slow.rename(&found.entry, root, b"new", Expect::Free).await.expect("moved");
        assert!(store.is_sprung());
        assert_eq!(lab.read(b"new").await.expect("read"), first);
        assert_eq!(lab.read(b"old").await.expect("read"), second);
    });
}

#[test]
fn a_directory_that_was_moved_on_from_a_move_cut_short_has_one_name_in_the_end() {
    // With and without somebody who moves one of the names while gc unites them.
    for disturbed in [None, Some(&b"old"[..]), Some(b"last")] {
        run(async {
            let lab = Lab::new(false).await;
            let fault = Arc::new(Fault::new(lab.store.clone(), 1));
            let node = lab.open_on(fault.clone()).await;
            let root = node.root_directory();
            let dir = mkdir(&node, root, b"old").await;
            let bytes = write(&node, dir, b"file", 1).await;
            let found = node.lookup(root, b"old").await.unwrap().unwrap();
            node.session().begin_change(&node).await.expect("begun");
            fault.add(Rule::new(Verb::Put, When::From(2), Action::FailBefore));
            node.rename(&found.entry, root, b"new", Expect::Free).await.expect_err("cut short");
            let other = lab.open().await;
            move_to(&other, b"new", b"last").await;
            assert_eq!(names_of(&lab, dir).await, ["last", "old"]);
            let rival = lab.open().await;
            let store = Trapped::new(lab.store.clone());
            if let Some(name) = disturbed {
                let kept = Place::Entry(root, b"last".to_vec()).key(&rival);
                store.before(Verb::Put, kept.as_str(), move || {
                    async move { move_to(&rival, name, b"rival").await }.boxed()
                });
            }
            let mut marks = 0;
            while names_of(&lab, dir).await.len() == 2 {
                assert!(marks < 10, "two names: {:?}", names_of(&lab, dir).await);
                lab.pass_grace();
                lab.collect_on(store.clone(), &GcSettings::default()).await;
                marks += 1;
            }
            assert!(marks >= 3 && store.is_sprung(), "{marks} marks");
            // A move of the other name came too late to be seen; it was united with the rest afterwards.
            let expected = if disturbed == Some(&b"last"[..]) { "rival" } else { "last" };
            assert_eq!(names_of(&lab, dir).await, [expected]);
            lab.collect_all().await;
            assert_eq!(names_of(&lab, dir).await, [expected]);
            assert_eq!(read(&lab.open().await, dir, b"file").await.expect("read"), bytes);
        });
    }
}

#[test]
fn a_directory_with_a_name_below_itself_keeps_the_one_that_the_root_reaches() {
    run(async {
        let lab = Lab::new(false).await;
        let node = lab.open().await;
        let root = node.root_directory();
        let dir = mkdir(&node, root, b"directory").await;
        let inner = mkdir(&node, dir, b"inner").await;
        let bytes = write(&node, inner, b"file", 1).await;
        lab.pass(Duration::from_secs(60));
        // The younger of two names, but nothing would lead to it alone.
        let record = Record::new(Attributes::default(), Content::Directory(dir));
        node.create(inner, b"itself", record).await.expect("made");
        node.session().end(&node).await.expect("ended");
        lab.collect_all().await;
        assert_eq!(names_of(&lab, dir).await, ["directory"]);
        assert_eq!(read(&lab.open().await, inner, b"file").await.expect("read"), bytes);
    });
}

#[test]
fn a_directory_is_not_moved_into_itself() {
    run(async {
        let lab = Lab::new(false).await;
        let node = lab.open().await;
        let root = node.root_directory();
        let dir = mkdir(&node, root, b"directory").await;
        mkdir(&node, dir, b"inner").await;
        let entry = node.lookup(root, b"directory").await.unwrap().unwrap().entry;
        let inner = node.lookup(dir, b"inner").await.unwrap().unwrap().entry;
        let refused = |error| assert!(matches!(error, VolumeError::Invalid(_)), "{error}");
        refused(node.rename(&entry, dir, b"itself", Expect::Free).await.expect_err("refused"));
        refused(node.exchange(&entry, &inner).await.expect_err("refused"));
        refused(node.exchange(&inner, &entry).await.expect_err("refused"));
        assert_eq!(names_of(&lab, dir).await, ["directory"]);
    });
}
