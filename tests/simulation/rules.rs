//! Each rule that keeps data is needed: a race that it was made for loses data without it, and none with it.

use crate::lab::{Lab, Trapped, content, read, run, write};
use futures::FutureExt;
use std::sync::Arc;
use std::time::Duration;
use strongroom::store::fault::{Action, Fault, Rule, Verb, When};
use strongroom::volume::native::Volume;
use strongroom::volume::native::entries::{Expect, Loaded, Place};
use strongroom::volume::native::gc::{GcSettings, Rules};
use strongroom::volume::native::keys;
use strongroom::volume::native::namespace::GRACE;
use strongroom::volume::native::record::{Attributes, Content, FileContent, Record};

fn without(change: impl FnOnce(&mut Rules)) -> GcSettings {
    let mut settings = GcSettings::default();
    change(&mut settings.rules);
    settings
}

/// Runs a race with a rule and without it: it must lose data exactly without.
fn check<F: Future<Output = bool>>(
    race: impl Fn(GcSettings) -> F,
    with: GcSettings,
    without: GcSettings,
) {
    assert!(run(race(with)), "data was lost although the rule was there");
    assert!(!run(race(without)), "the rule is not needed: nothing was lost without it");
}

async fn exchange_and_publish(volume: Arc<Volume>, a: &'static [u8], b: &'static [u8]) {
    let root = volume.root_directory();
    let (a, b) = (volume.lookup(root, a).await.unwrap(), volume.lookup(root, b).await.unwrap());
    let (a, _) = volume.exchange(&a.unwrap().entry, &b.unwrap().entry).await.expect("exchanged");
    // The next publish no longer says what stood here before.
    let mut record = (*a.record).clone();
    (record.exchanged, record.moved_from) = (None, None);
    volume.replace(&a, record).await.expect("published");
}

#[test]
fn one_mark_is_not_enough_since_an_exchange_can_slip_through_a_listing() {
    check(
        |settings| async move {
            let lab = Lab::new(false).await;
            let first = lab.push(b"z", 1).await;
            lab.push(b"b", 2).await;
            lab.pass_grace();
            let store = Trapped::new(lab.store.clone());
            let node = lab.open().await;
            let listed = keys::entry(node.keyring(), node.root_directory(), b"b");
            // `b` has been listed and `z` has not.
            store.before(Verb::List, listed.as_str(), move || {
                exchange_and_publish(node, b"z", b"b").boxed()
            });
            lab.collect_on(store.clone(), &settings).await;
            assert!(store.is_sprung());
            lab.pass_grace();
            lab.collect_on(lab.store.clone(), &settings).await;
            lab.read(b"b").await.is_ok_and(|read| read == first)
        },
        GcSettings::default(),
        without(|rules| rules.two_marks = false),
    );
}

#[test]
fn a_run_of_the_tool_that_fits_into_one_mark_is_saved_by_the_age_of_its_segment() {
    // Two marks would save it too, so that rule is out on both sides.
    check(
        |settings| async move {
            let lab = Lab::new(false).await;
            lab.push(b"z", 1).await;
            let store = Trapped::new(lab.store.clone());
            let (node, root) = {
                let node = lab.open().await;
                let root = node.root_directory();
                (node, root)
            };
            let (uploader, publisher) = (node.clone(), node.clone());
            let record = Arc::new(parking_lot::Mutex::new(None));
            let (upload, publish) = (record.clone(), record);
            // After the sessions were read, before the segments are listed.
            store.before(Verb::List, "d/", move || {
                async move {
                    let id = strongroom::units::FileId([9; 16]);
                    let number = uploader.session().take_segments(1);
                    let bytes = bytes::Bytes::from(content(3));
                    let (_, stored) = uploader.upload(id, number, vec![bytes]).await;
                    *upload.lock() = Some((id, stored.expect("uploaded")));
                }
                .boxed()
            });
            // Its name comes where the listing has passed, and the session ends.
            store.before(Verb::List, "i/", move || {
                async move {
                    let (id, segment) = publish.lock().take().expect("uploaded");
                    let mut map = strongroom::volume::native::extents::ExtentMap::default();
                    let range = strongroom::units::ByteRange::new(0, 70_000);
                    map.insert(
                        range,
                        strongroom::volume::native::extents::Piece::Segments(segment),
                    );
                    let layout = map.layout();
                    let file = FileContent {
                        id,
                        size: 70_000,
                        extents: layout.extents,
                        pages: layout.pages,
                        inline: layout.inline,
                    };
                    let record = Record::new(Attributes::default(), Content::File(file));
                    publisher.create(root, b"a", record).await.expect("created");
                    publisher.session().end(&publisher).await.expect("ended");
                }
                .boxed()
            });
            lab.collect_on(store.clone(), &settings).await;
            assert!(store.is_sprung());
            lab.read(b"a").await.is_ok_and(|read| read == content(3))
        },
        without(|rules| rules.two_marks = false),
        without(|rules| (rules.two_marks, rules.age) = (false, false)),
    );
}

#[test]
fn an_upload_of_many_hours_is_saved_by_its_living_session() {
    check(
        |settings| async move {
            let lab = Lab::new(false).await;
            let node = lab.open().await;
            let id = strongroom::units::FileId([9; 16]);
            let number = node.session().take_segments(1);
            let bytes = bytes::Bytes::from(content(3));
            let (_, stored) = node.upload(id, number, vec![bytes]).await;
            for _ in 0..4 {
                // The mount renews itself every minute; here once in a while is enough.
                for _ in 0..7 {
                    lab.pass(Duration::from_secs(600));
                    node.session().begin_change(&node).await.expect("renewed");
                }
                lab.collect_on(lab.store.clone(), &settings).await;
            }
            assert_eq!(node.session().epoch(), 0, "it was never declared dead");
            let mut map = strongroom::volume::native::extents::ExtentMap::default();
            let range = strongroom::units::ByteRange::new(0, 70_000);
            let piece =
                strongroom::volume::native::extents::Piece::Segments(stored.expect("stored"));
            map.insert(range, piece);
            let extents = map.layout().extents;
            let (size, pages, inline) = (70_000, Vec::new(), bytes::Bytes::new());
            let file = FileContent { id, size, extents, pages, inline };
            let record = Record::new(Attributes::default(), Content::File(file));
            node.create(node.root_directory(), b"big", record).await.expect("published");
            lab.read(b"big").await.is_ok()
        },
        GcSettings::default(),
        without(|rules| rules.dead_sessions = false),
    );
}

#[test]
fn a_file_that_is_open_and_was_removed_by_another_node_is_saved_by_its_pin() {
    check(
        |settings| async move {
            let lab = Lab::new(false).await;
            let bytes = lab.push(b"open", 1).await;
            let holder = lab.open().await;
            let root = holder.root_directory();
            let found = holder.lookup(root, b"open").await.unwrap().unwrap();
            let file = found.home().record.file().unwrap().clone();
            holder.session().pin(file.id);
            holder.session().begin_change(&holder).await.expect("begun");
            let other = lab.open().await;
            let entry = other.lookup(root, b"open").await.unwrap().unwrap();
            other.unlink(&entry).await.expect("removed");
            other.session().end(&other).await.expect("ended");
            for _ in 0..6 {
                for _ in 0..7 {
                    lab.pass(Duration::from_secs(600));
                    holder.session().begin_change(&holder).await.expect("renewed");
                }
                lab.collect_on(lab.store.clone(), &settings).await;
            }
            let mut read = Vec::new();
            let result = holder.read_file(&file, &mut read, |_| {}).await;
            result.is_ok() && read == bytes
        },
        GcSettings::default(),
        without(|rules| rules.pins = false),
    );
}

async fn rename(volume: &Volume, from: &[u8], to: &[u8]) {
    let root = volume.root_directory();
    let found = volume.lookup(root, from).await.unwrap().expect("there");
    volume.rename(&found.entry, root, to, Expect::Free).await.expect("renamed");
}

#[test]
fn a_file_that_is_renamed_behind_the_back_of_two_listings_is_saved_by_its_tombstone() {
    check(
        |settings| async move {
            let lab = Lab::new(false).await;
            let bytes = lab.push(b"z", 1).await;
            lab.push(b"m", 2).await;
            let node = lab.open().await;
            let listed = keys::entry(node.keyring(), node.root_directory(), b"m");
            for mark in 0..3 {
                lab.pass_grace();
                if mark > 0 {
                    rename(&node, b"a", b"z").await;
                }
                let store = Trapped::new(lab.store.clone());
                let mover = node.clone();
                // From a key not yet listed to one that was passed.
                store.before(Verb::List, listed.as_str(), move || {
                    async move { rename(&mover, b"z", b"a").await }.boxed()
                });
                lab.collect_on(store.clone(), &settings).await;
                assert!(store.is_sprung());
            }
            lab.read(b"a").await.is_ok_and(|read| read == bytes)
        },
        GcSettings::default(),
        without(|rules| rules.tombstones = false),
    );
}

#[test]
fn names_that_the_store_forgets_to_list_are_saved_by_the_former_mark() {
    check(
        |settings| async move {
            let lab = Lab::new(false).await;
            let bytes = lab.push(b"hidden", 1).await;
            lab.collect().await;
            let node = lab.open().await;
            let store = Trapped::new(lab.store.clone());
            store.hide(keys::directory_prefix(node.root_directory()));
            for _ in 0..3 {
                lab.pass_grace();
                lab.collect_on(store.clone(), &settings).await;
            }
            lab.read(b"hidden").await.is_ok_and(|read| read == bytes)
        },
        GcSettings::default(),
        without(|rules| rules.former_keys = false),
    );
}

/// gc has looked at a name that was removed long ago and sends its DELETE; before that arrives, a client
/// creates the name again.
async fn a_name_comes_back(settings: GcSettings, conditional: bool, careful: bool) -> bool {
    let lab = Lab::new(conditional).await;
    lab.push(b"name", 1).await;
    let node = lab.open().await;
    let root = node.root_directory();
    let found = node.lookup(root, b"name").await.unwrap().unwrap();
    node.unlink(&found).await.expect("removed");
    lab.pass(3 * GRACE);
    let node = lab.open().await;
    let key = keys::entry(node.keyring(), root, b"name");
    let store = Trapped::new(lab.store.clone());
    let (client, (done, finished)) = (node.clone(), tokio::sync::oneshot::channel());
    store.before(Verb::Delete, key.as_str(), move || {
        async move {
            let work = tokio::spawn(async move {
                if careful {
                    write(&client, root, b"name", 2).await;
                } else {
                    let place = Place::Entry(root, b"name".to_vec());
                    let Ok(Loaded::Tombstone(buried)) = client.load(&place, None).await else {
                        panic!("a tombstone is there")
                    };
                    let mut record = (*buried.record).clone();
                    record.buried_at = None;
                    client.replace(&buried, record).await.expect("replaced");
                }
                let _ = done.send(());
            });
            // A client that waits for this very DELETE is not waited for.
            let _ = tokio::time::timeout(Duration::from_millis(500), work).await;
        }
        .boxed()
    });
    let (_, deleted) = lab.collect_on(store.clone(), &settings).await;
    assert!(store.is_sprung());
    assert!(deleted.names <= 1);
    finished.await.expect("the client has created the name");
    read(&lab.open().await, root, b"name").await.is_ok()
}

#[test]
fn a_name_removed_long_ago_that_comes_back_while_gc_deletes_it_is_saved_by_the_lease() {
    check(
        |settings| a_name_comes_back(settings, false, true),
        GcSettings::default(),
        without(|rules| rules.lease = false),
    );
}

#[test]
fn a_client_that_does_not_date_an_old_tombstone_anew_loses_its_name() {
    assert!(run(a_name_comes_back(GcSettings::default(), false, true)));
    assert!(!run(a_name_comes_back(GcSettings::default(), false, false)));
    // Where DELETE is conditional the store decides.
    assert!(run(a_name_comes_back(GcSettings::default(), true, true)));
    assert!(run(a_name_comes_back(GcSettings::default(), true, false)));
}

#[test]
fn a_name_that_came_back_since_the_mark_is_saved_by_a_look() {
    check(
        |settings| async move {
            let lab = Lab::new(false).await;
            lab.push(b"name", 1).await;
            let node = lab.open().await;
            let root = node.root_directory();
            let found = node.lookup(root, b"name").await.unwrap().unwrap();
            node.unlink(&found).await.expect("removed");
            lab.pass(3 * GRACE);
            let (gc, node) = (lab.open().await, lab.open().await);
            let plan = gc.plan_collection(&settings, &|_| {}).await.expect("planned");
            assert_eq!(plan.found.old_names, 1);
            let bytes = write(&node, root, b"name", 2).await;
            plan.execute(&gc, &settings, &|_| {}).await.expect("executed");
            lab.read(b"name").await.is_ok_and(|read| read == bytes)
        },
        GcSettings::default(),
        without(|rules| rules.look = false),
    );
}

/// What this process has put and not heard of yet is no change of its own that was lost: whoever takes it for
/// one writes over it.
#[test]
fn names_of_one_file_that_are_removed_at_once_are_all_counted() {
    run(async {
        let lab = Lab::new(false).await;
        let store = Arc::new(Fault::new(lab.store.clone(), 1));
        let volume = lab.open_on(store.clone()).await;
        let root = volume.root_directory();
        write(&volume, root, b"kept", 1).await;
        let names: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
        for name in names {
            let first = volume.lookup(root, b"kept").await.unwrap().expect("there");
            volume.link(&first, root, name).await.expect("linked");
        }
        let slowly = Action::DelayReply(Duration::from_millis(20));
        store.add(Rule::new(Verb::Put, When::Nth(1), slowly).under("i/"));
        let lookups = names.map(|name| volume.lookup(root, name));
        let found = futures::future::join_all(lookups).await;
        let removals =
            found.into_iter().map(|found| {
                let (volume, found) = (volume.clone(), found.unwrap().expect("there"));
                async move {
                    volume.unlink(&found).await.expect("removed").expect("counted").record.links
                }
            });
        let mut counts = futures::future::join_all(removals).await;
        counts.sort_unstable();
        assert_eq!(counts, [1, 2, 3, 4]);
        let kept = volume.lookup(root, b"kept").await.unwrap().expect("there");
        assert_eq!(kept.home().record.links, 1);
    });
}

/// A change whose caller did not wait for it may have happened: it is no conflict for the next one.
#[test]
fn a_change_that_nobody_waited_for_is_written_over() {
    run(async {
        let lab = Lab::new(false).await;
        let store = Arc::new(Fault::new(lab.store.clone(), 1));
        let volume = lab.open_on(store.clone()).await;
        let root = volume.root_directory();
        write(&volume, root, b"file", 1).await;
        let found = volume.lookup(root, b"file").await.unwrap().expect("there");
        let change = |mode| {
            let mut record = (*found.entry.record).clone();
            record.attributes.mode = mode;
            volume.replace(&found.entry, record)
        };
        store
            .add(Rule::new(Verb::Put, When::Nth(1), Action::DelayReply(Duration::MAX)).under("t/"));
        let given_up = tokio::time::timeout(Duration::from_millis(20), change(0o600)).await;
        assert!(given_up.is_err(), "the reply does not come");
        assert_eq!(change(0o640).await.expect("changed").record.attributes.mode, 0o640);
    });
}
