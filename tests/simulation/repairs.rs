//! What crashes and races leave, and gc mends; and that in the end nothing is left that nobody needs.

use crate::lab::{Lab, Trapped, read, run, write};
use futures::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use strongroom::store::Store;
use strongroom::store::fault::{Action, Fault, Rule, Verb, When};
use strongroom::units::DirId;
use strongroom::volume::native::Volume;
use strongroom::volume::native::entries::{Expect, Loaded, Place};
use strongroom::volume::native::gc::{GcError, GcSettings, LOST_AND_FOUND};
use strongroom::volume::native::namespace::GRACE;
use strongroom::volume::native::record::{Attributes, Content, Record};

pub(crate) async fn mkdir(volume: &Volume, parent: DirId, name: &[u8]) -> DirId {
    let id = DirId(volume.world().entropy.bytes());
    let record = Record::new(Attributes::default(), Content::Directory(id));
    volume.create(parent, name, record).await.expect("made");
    id
}

#[test]
fn everything_that_was_removed_goes_in_the_end() {
    for conditional in [true, false] {
        run(async {
            let lab = Lab::new(conditional).await;
            let bytes = lab.push(b"kept", 1).await;
            for round in 0..3 {
                lab.push(b"replaced", round).await;
                lab.push(b"removed", round).await;
            }
            let node = lab.open().await;
            let root = node.root_directory();
            let sub = mkdir(&node, root, b"directory").await;
            write(&node, sub, b"inside", 9).await;
            for (dir, name) in [(sub, &b"inside"[..]), (root, b"directory"), (root, b"removed")] {
                let found = node.lookup(dir, name).await.unwrap().unwrap();
                node.unlink(&found).await.expect("removed");
            }
            // A file with two names, both removed.
            write(&node, root, b"one", 5).await;
            let found = node.lookup(root, b"one").await.unwrap().unwrap();
            node.link(&found, root, b"two").await.expect("linked");
            for name in [b"one", b"two"] {
                let found = node.lookup(root, name).await.unwrap().unwrap();
                node.unlink(&found).await.expect("removed");
            }
            node.session().end(&node).await.expect("ended");
            lab.collect_all().await;
            assert_eq!(lab.keys("d/").len(), 2, "one segment for each of two files");
            // The root's own record and two names.
            assert_eq!(lab.keys("t/").len(), 3);
            assert_eq!(lab.keys("i/"), [""; 0]);
            assert_eq!(lab.keys("s/"), [""; 0]);
            assert_eq!(lab.read(b"kept").await.expect("read"), bytes);
            lab.assert_whole().await;
        });
    }
}

#[test]
fn what_was_removed_can_be_given_back_for_two_grace_periods() {
    run(async {
        let lab = Lab::new(false).await;
        let bytes = lab.push(b"name", 1).await;
        let node = lab.open().await;
        let root = node.root_directory();
        let found = node.lookup(root, b"name").await.unwrap().unwrap();
        node.unlink(&found).await.expect("removed");
        for _ in 0..11 {
            lab.pass(Duration::from_secs(600));
            lab.collect().await;
        }
        node.undelete(root, b"name").await.expect("given back");
        lab.collect_all().await;
        assert_eq!(lab.read(b"name").await.expect("read"), bytes);
    });
}

#[test]
fn a_killed_sessions_segments_go_after_it_was_declared_dead_and_a_grace_period() {
    run(async {
        let lab = Lab::new(false).await;
        let killed = lab.open().await;
        let id = strongroom::units::FileId([9; 16]);
        let number = killed.session().take_segments(1);
        let (_, stored) = killed.upload(id, number, vec![bytes::Bytes::from(vec![1; 100])]).await;
        stored.expect("stored");
        lab.pass(Duration::from_secs(1800));
        assert_eq!(lab.collect().await.0.silent, 0, "half an hour is not long");
        lab.pass_grace();
        assert_eq!(lab.collect().await.0.silent, 1);
        lab.pass(Duration::from_secs(1800));
        assert_eq!(
            lab.collect().await.0.waiting.count,
            0,
            "it was declared dead a short while ago"
        );
        lab.pass_grace();
        assert_eq!(lab.collect().await.0.waiting.count, 1);
        assert_eq!(lab.keys("d/").len(), 1);
        lab.pass_grace();
        assert_eq!(lab.collect().await.1.segments.count, 1);
        assert_eq!(lab.keys("d/"), [""; 0]);
        lab.collect_all().await;
        assert_eq!(lab.keys("s/"), [""; 0]);
        // It was only asleep: it goes on under another id.
        killed.session().begin_change(&killed).await.expect("begun anew");
        assert_eq!(killed.session().epoch(), 1);
    });
}

#[test]
fn a_rename_that_was_cut_short_is_finished() {
    run(async {
        let lab = Lab::new(false).await;
        let bytes = lab.push(b"from", 1).await;
        let fault = Arc::new(Fault::new(lab.store.clone(), 1));
        let node = lab.open_on(fault.clone()).await;
        let root = node.root_directory();
        let found = node.lookup(root, b"from").await.unwrap().unwrap();
        node.session().begin_change(&node).await.expect("begun");
        fault.add(Rule::new(Verb::Put, When::From(2), Action::FailBefore));
        node.rename(&found.entry, root, b"to", Expect::Free).await.expect_err("cut short");
        assert!(lab.read(b"from").await.is_ok() && lab.read(b"to").await.is_ok());
        lab.collect().await;
        assert!(lab.read(b"from").await.is_ok(), "whoever moves it may still be at it");
        lab.pass_grace();
        assert_eq!(lab.collect().await.1.mended, 1);
        assert!(lab.read(b"from").await.is_err());
        assert_eq!(lab.read(b"to").await.expect("read"), bytes);
        lab.collect_all().await;
        assert_eq!(lab.read(b"to").await.expect("read"), bytes);
    });
}

#[test]
fn an_exchange_that_was_cut_short_anywhere_is_finished_or_undone() {
    for step in 1..=4 {
        run(async {
            let lab = Lab::new(false).await;
            let (one, two) = (lab.push(b"one", 1).await, lab.push(b"two", 2).await);
            let fault = Arc::new(Fault::new(lab.store.clone(), 1));
            let node = lab.open_on(fault.clone()).await;
            let root = node.root_directory();
            let a = node.lookup(root, b"one").await.unwrap().unwrap();
            let b = node.lookup(root, b"two").await.unwrap().unwrap();
            node.session().begin_change(&node).await.expect("begun");
            fault.add(Rule::new(Verb::Put, When::From(step), Action::FailBefore));
            node.exchange(&a.entry, &b.entry).await.expect_err("cut short");
            // Nobody looks at the names: gc alone comes by.
            lab.collect_all().await;
            let found =
                (lab.read(b"one").await.expect("read"), lab.read(b"two").await.expect("read"));
            let exchanged = found == (two.clone(), one.clone());
            assert!(exchanged || found == (one, two), "step {step}");
            assert_eq!(exchanged, step > 2, "step {step}");
            assert_eq!(lab.keys("d/").len(), 2);
            assert_eq!(lab.keys("t/").len(), 3, "step {step}: {:?}", lab.keys("t/"));
        });
    }
}

#[test]
fn a_child_of_a_directory_that_was_removed_at_the_same_time_comes_to_lost_and_found() {
    run(async {
        let lab = Lab::new(false).await;
        let (a, b) = (lab.open().await, lab.open().await);
        let root = a.root_directory();
        let dir = mkdir(&a, root, b"directory").await;
        let found = a.lookup(root, b"directory").await.unwrap().unwrap();
        assert!(a.is_empty_directory(dir).await.expect("listed"));
        let bytes = write(&b, dir, b"child", 1).await;
        a.unlink(&found).await.expect("removed");
        b.session().end(&b).await.expect("ended");
        lab.collect_all().await;
        let node = lab.open().await;
        let shelter = node.lookup(root, LOST_AND_FOUND).await.unwrap().expect("made");
        let shelter = shelter.home().record.directory().expect("a directory");
        let names = node.list_directory(shelter).await.expect("listed");
        assert_eq!(names.len(), 1);
        let back = node.lookup(shelter, &names[0].name).await.unwrap().unwrap();
        let back = back.home().record.directory().expect("the directory itself");
        assert_eq!(read(&node, back, b"child").await.expect("read"), bytes);
    });
}

#[test]
fn directories_moved_into_each_other_come_to_lost_and_found() {
    run(async {
        let lab = Lab::new(false).await;
        let node = lab.open().await;
        let root = node.root_directory();
        let (a, b) = (mkdir(&node, root, b"a").await, mkdir(&node, root, b"b").await);
        let bytes = write(&node, b, b"file", 1).await;
        let entry_a = node.lookup(root, b"a").await.unwrap().unwrap();
        let entry_b = node.lookup(root, b"b").await.unwrap().unwrap();
        // Each node sees the other directory still in the root.
        node.rename(&entry_a.entry, b, b"a", Expect::Free).await.expect("moved");
        node.rename(&entry_b.entry, a, b"b", Expect::Free).await.expect("moved");
        node.session().end(&node).await.expect("ended");
        lab.collect_all().await;
        let node = lab.open().await;
        let shelter = node.lookup(root, LOST_AND_FOUND).await.unwrap().expect("made");
        let shelter = shelter.home().record.directory().expect("a directory");
        let names = node.list_directory(shelter).await.expect("listed");
        assert_eq!(names.len(), 1, "one of the two brings the other along");
        let report = node
            .verify(strongroom::volume::native::verify::Depth::Content, &|_| {}, &mut |_| Ok(()))
            .await
            .expect("verified");
        assert_eq!((report.directories, report.files, report.bytes), (4, 1, bytes.len() as u64));
    });
}

#[test]
fn counts_of_names_are_put_right() {
    run(async {
        let lab = Lab::new(false).await;
        let node = lab.open().await;
        let root = node.root_directory();
        write(&node, root, b"one", 1).await;
        let found = node.lookup(root, b"one").await.unwrap().unwrap();
        let (one, _) = node.link(&found, root, b"two").await.expect("linked");
        let inode = one.inode.expect("shared");
        node.count_links(&inode, 5).await.expect("counted wrongly");
        lab.collect_all().await;
        let found = node.lookup(root, b"two").await.unwrap().unwrap();
        assert_eq!(found.home().record.links, 2);
    });
}

#[test]
fn a_shared_record_that_was_buried_although_a_name_refers_to_it_lives_again() {
    run(async {
        let lab = Lab::new(false).await;
        let node = lab.open().await;
        let root = node.root_directory();
        let bytes = write(&node, root, b"one", 1).await;
        let found = node.lookup(root, b"one").await.unwrap().unwrap();
        let (one, _) = node.link(&found, root, b"two").await.expect("linked");
        node.bury(&one.inode.expect("shared"), false).await.expect("buried");
        assert!(lab.read(b"one").await.is_err());
        lab.collect().await;
        assert_eq!(lab.read(b"one").await.expect("read"), bytes);
    });
}

#[test]
fn a_mark_that_takes_longer_than_the_grace_period_is_void() {
    run(async {
        let lab = Lab::new(false).await;
        lab.push(b"name", 1).await;
        let store = Trapped::new(lab.store.clone());
        let clock = lab.clock.clone();
        store.before(Verb::List, "i/", move || async move { clock.advance(2 * GRACE) }.boxed());
        let gc = lab.open_on(store).await;
        let error = gc.collect(&GcSettings::default()).await.expect_err("void");
        assert!(matches!(error, GcError::Void(_)), "{error}");
        assert_eq!(lab.keys("g/mark"), [""; 0]);
        lab.collect().await;
    });
}

#[test]
fn a_record_that_does_not_open_makes_a_mark_void() {
    run(async {
        let lab = Lab::new(false).await;
        lab.push(b"name", 1).await;
        let node = lab.open().await;
        let key = strongroom::volume::native::keys::entry(
            node.keyring(),
            node.root_directory(),
            b"damaged",
        );
        let body = bytes::Bytes::from_static(&[0; 64]);
        lab.store.put(&key, body, strongroom::store::PutWhen::Always).await.expect("put");
        let error = lab.open().await.collect(&GcSettings::default()).await.expect_err("void");
        assert!(error.to_string().contains("does not open"), "{error}");
    });
}

#[test]
fn names_that_went_by_other_means_make_a_mark_void_until_that_is_said_to_be_meant() {
    run(async {
        let lab = Lab::new(false).await;
        let node = lab.open().await;
        let root = node.root_directory();
        for index in 0..300 {
            let record =
                Record::new(Attributes::default(), Content::Directory(DirId([index as u8; 16])));
            node.create(root, format!("name{index}").as_bytes(), record).await.expect("made");
        }
        lab.collect().await;
        for index in 0..200 {
            let name = format!("name{index}");
            let key = Place::Entry(root, name.into_bytes()).key(&node);
            lab.store.delete(&key, None).await.expect("deleted");
        }
        let gc = lab.open().await;
        let error = gc.collect(&GcSettings::default()).await.expect_err("void");
        assert!(error.to_string().contains("200 of 301 names are gone"), "{error}");
        let settings = GcSettings { forget: true, ..GcSettings::default() };
        gc.collect(&settings).await.expect("begun anew");
        gc.collect(&GcSettings::default()).await.expect("goes on");
    });
}

#[test]
fn a_collection_that_died_can_be_taken_over_after_a_while() {
    run(async {
        let lab = Lab::new(false).await;
        lab.push(b"name", 1).await;
        let settings = GcSettings { host: "first".to_owned(), ..GcSettings::default() };
        let first = lab.open().await;
        let plan = first.plan_collection(&settings, &|_| {}).await.expect("planned");
        let second = lab.open().await;
        let error = second.collect(&GcSettings::default()).await.expect_err("held");
        assert!(error.to_string().contains("\"first\""), "{error}");
        lab.pass(Duration::from_secs(1300));
        second.collect(&GcSettings::default()).await.expect("taken over");
        let error = plan.execute(&first, &settings, &|_| {}).await.expect_err("lost");
        assert!(matches!(error, GcError::LeaseLost), "{error}");
    });
}

#[test]
fn facts_that_do_not_fit_into_memory_give_the_same_result() {
    run(async {
        let lab = Lab::new(false).await;
        let settings = GcSettings { memory: 100, ..GcSettings::default() };
        for index in 0..20 {
            lab.push(format!("name{}", index % 10).as_bytes(), index).await;
        }
        for _ in 0..3 {
            lab.pass_grace();
            lab.collect_on(lab.store.clone(), &settings).await;
        }
        assert_eq!(lab.keys("d/").len(), 10);
        assert!(lab.keys("g/").iter().any(|key| key.contains("/f")), "something was put away");
        lab.assert_whole().await;
        lab.collect().await;
        assert!(!lab.keys("g/").iter().any(|key| key.contains("/f")), "and is gone");
    });
}

#[test]
fn a_file_with_pages_of_extents_and_its_clone_keep_their_segments() {
    run(async {
        let lab = Lab::new(false).await;
        let node = lab.open().await;
        let root = node.root_directory();
        let id = strongroom::units::FileId([9; 16]);
        let mut map = strongroom::volume::native::extents::ExtentMap::default();
        let segments = 1100_u64;
        for index in 0..segments {
            let number = node.session().take_segments(2);
            let (_, run) =
                node.upload(id, number, vec![bytes::Bytes::from(vec![index as u8; 8])]).await;
            let range = strongroom::units::ByteRange::new(index * 8, 8);
            map.insert(
                range,
                strongroom::volume::native::extents::Piece::Segments(run.expect("stored")),
            );
        }
        for page in node.write_pages(id, map.pages_to_write()).await.expect("pages stored") {
            map.page_written(page);
        }
        let layout = map.layout();
        assert!(!layout.pages.is_empty());
        let file = strongroom::volume::native::record::FileContent {
            id,
            size: segments * 8,
            extents: layout.extents,
            pages: layout.pages,
            inline: layout.inline,
        };
        let record = Record::new(Attributes::default(), Content::File(file.clone()));
        node.create(root, b"paged", record).await.expect("created");
        // A clone of what no page holds: its segments belong to the other file.
        let piece = file.extents.first().cloned();
        let bytes = write(&node, root, b"source", 3).await;
        let source = node.lookup(root, b"source").await.unwrap().unwrap();
        let shared = source.home().record.file().unwrap().clone();
        let shared = shared.shared_with(strongroom::units::FileId([8; 16]));
        let clone = Record::new(Attributes::default(), Content::File(shared));
        node.create(root, b"clone", clone).await.expect("cloned");
        node.unlink(&source).await.expect("removed");
        node.session().end(&node).await.expect("ended");
        let before = lab.keys("d/").len();
        lab.collect_all().await;
        assert_eq!(lab.keys("d/").len(), before, "{piece:?}");
        assert_eq!(lab.read(b"clone").await.expect("read"), bytes);
        lab.assert_whole().await;
        let node = lab.open().await;
        for name in [&b"clone"[..], b"paged"] {
            let found = node.lookup(root, name).await.unwrap().unwrap();
            node.unlink(&found).await.expect("removed");
        }
        node.session().end(&node).await.expect("ended");
        lab.collect_all().await;
        assert_eq!(lab.keys("d/"), [""; 0]);
    });
}

#[test]
fn a_dry_run_says_what_a_run_would_do_and_stores_nothing() {
    run(async {
        let lab = Lab::new(false).await;
        lab.push(b"name", 1).await;
        lab.push(b"name", 2).await;
        lab.pass_grace();
        lab.collect().await;
        lab.pass_grace();
        let before = lab.store.keys();
        let settings = GcSettings { dry_run: true, ..GcSettings::default() };
        let reader = lab.open().await;
        let plan = reader.plan_collection(&settings, &|_| {}).await.expect("planned");
        let found = plan.found.clone();
        plan.execute(&reader, &settings, &|_| {}).await.expect("does nothing");
        assert_eq!(lab.store.keys(), before);
        let (real, done) = lab.collect().await;
        assert_eq!(found.garbage, real.garbage);
        assert_eq!(done.segments.count, 1);
    });
}

#[test]
fn a_tombstone_with_its_reference_keeps_what_it_buries() {
    run(async {
        let lab = Lab::new(false).await;
        let node = lab.open().await;
        let root = node.root_directory();
        write(&node, root, b"one", 1).await;
        let found = node.lookup(root, b"one").await.unwrap().unwrap();
        node.link(&found, root, b"two").await.expect("linked");
        for name in [b"one", b"two"] {
            let found = node.lookup(root, name).await.unwrap().unwrap();
            node.unlink(&found).await.expect("removed");
        }
        lab.pass(Duration::from_secs(5400));
        lab.collect().await;
        let restored = node.undelete(root, b"one").await.expect("given back");
        assert!(matches!(restored.record.content, Content::Link(_)));
        lab.collect_all().await;
        assert!(matches!(node.load(&restored.place, None).await, Ok(Loaded::Live(_))));
        lab.assert_whole().await;
    });
}
