//! Names: created, renamed and looked for with as few requests as can be, and no file is lost when two
//! nodes do so at the same time.

use crate::ground::{CALLER, Ground, run, wait_for};
use std::time::Duration;
use strongroom::crypto::Suite;
use strongroom::fs::errno::FsError;
use strongroom::fs::types::{Ino, OpenMode};
use strongroom::store::fault::{Action, Rule, Verb, When};

#[test]
fn a_small_file_in_a_new_or_listed_directory_is_created_and_stored_by_one_put() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        node.warm().await;
        let made = node.mkdir(Ino::ROOT, "dir").await;
        assert_eq!(node.requests(), 1);
        for index in 0..100 {
            node.write(made, &format!("file {index}"), &[1; 60_000]).await.expect("written");
        }
        assert_eq!(node.requests(), 100, "in a directory just made");
        let node = ground.node().await;
        node.warm().await;
        let dir = node.lookup(Ino::ROOT, "dir").await.expect("there").ino;
        node.list(dir).await;
        node.requests();
        for index in 0..10 {
            node.write(dir, &format!("more {index}"), b"x").await.expect("written");
        }
        assert_eq!(node.requests(), 10, "in a directory just listed");
        // What was made here is not taken for absent, also after it was forgotten.
        let attr = node.lookup(dir, "more 3").await.expect("there");
        node.fs.forget(attr.ino, 100);
        assert_eq!(node.lookup(dir, "more 3").await.expect("there").ino, attr.ino);
    });
}

#[test]
fn a_file_stored_after_its_directory_was_listed_is_not_taken_for_absent() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let dir = node.mkdir(Ino::ROOT, "dir").await;
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let created = node.fs.create(&CALLER, dir, b"file", 0o644, 0, mode).await;
        let (entry, opened) = created.expect("created");
        node.list(dir).await;
        node.fs.flush(entry.attr.ino, opened.handle).await.expect("stored");
        node.fs.release(entry.attr.ino, opened.handle).await.expect("closed");
        node.fs.forget(entry.attr.ino, 100);
        assert_eq!(node.lookup(dir, "file").await.expect("there").ino, entry.attr.ino);
    });
}

#[test]
fn one_listing_answers_for_many_absent_names() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let names: Vec<String> = (0..500).map(|index| index.to_string()).collect();
        node.populate("dir", &names).await;
        let node = ground.node().await;
        let dir = node.lookup(Ino::ROOT, "dir").await.expect("there").ino;
        node.requests();
        for index in 0..200 {
            let absent = node.lookup(dir, &format!("absent {index}")).await;
            assert_eq!(absent.err(), Some(FsError::NotFound));
        }
        assert_eq!(node.requests(), 2, "one by name, then the listing");
        assert!(node.lookup(dir, "77").await.is_ok());
        assert_eq!(node.requests(), 1, "what is there is fetched");
        ground.pass_time();
        for index in 0..200 {
            let absent = node.lookup(dir, &format!("absent {index}")).await;
            assert_eq!(absent.err(), Some(FsError::NotFound));
        }
        assert_eq!(node.requests(), 1, "it was worth it, so it is listed at once");
        // The listing also showed that what was known is as it was.
        assert!(node.lookup(dir, "77").await.is_ok());
        assert_eq!(node.requests(), 0);
        // What another node makes is seen when what is known is too old.
        let other = ground.node().await;
        let there = other.lookup(Ino::ROOT, "dir").await.expect("there").ino;
        other.write(there, "absent 7", b"not any more").await.expect("written");
        ground.pass_time();
        let attr = node.lookup(dir, "absent 7").await.expect("there");
        assert_eq!(node.read(attr.ino).await.expect("read"), b"not any more");
    });
}

#[test]
fn a_directory_of_many_pages_is_listed_only_when_as_many_names_were_asked_for() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let names: Vec<String> = (0..4000).map(|index| index.to_string()).collect();
        node.populate("dir", &names).await;
        let node = ground.node().await;
        let dir = node.lookup(Ino::ROOT, "dir").await.expect("there").ino;
        node.requests();
        for index in 0..1000 {
            let absent = node.lookup(dir, &format!("absent {index}")).await;
            assert_eq!(absent.err(), Some(FsError::NotFound));
        }
        let requests = node.requests();
        assert!(requests <= 20, "{requests} requests");
    });
}

#[test]
fn a_rename_takes_three_requests_in_a_directory_that_is_known() {
    run(async {
        for (target_there, directory) in [(false, false), (true, false), (false, true)] {
            let ground = Ground::new(Suite::Aes256Gcm).await;
            let node = ground.node().await;
            let from = node.mkdir(Ino::ROOT, "from").await;
            let to = node.mkdir(Ino::ROOT, "to").await;
            if directory {
                let moved = node.mkdir(from, "a").await;
                node.write(moved, "inner", b"inner").await.expect("written");
            } else {
                node.write(from, "a", &[7; 100_000]).await.expect("written");
            }
            if target_there {
                node.write(to, "b", b"replaced").await.expect("written");
            }
            let node = ground.node().await;
            node.warm().await;
            let from = node.lookup(Ino::ROOT, "from").await.expect("there").ino;
            let to = node.lookup(Ino::ROOT, "to").await.expect("there").ino;
            node.list(to).await;
            node.requests();
            // As the kernel does it for rename(2).
            node.lookup(from, "a").await.expect("there");
            assert_eq!(node.lookup(to, "b").await.is_ok(), target_there);
            node.rename((from, "a"), (to, "b")).await.expect("renamed");
            assert_eq!(node.requests(), 3);
            let attr = ground.node().await.lookup(Ino::ROOT, "to").await.expect("there");
            assert_eq!(attr.ino, to);
        }
    });
}

#[test]
fn many_renames_in_one_directory_take_two_requests_each() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        node.warm().await;
        let dir = node.mkdir(Ino::ROOT, "dir").await;
        for index in 0..50 {
            node.write(dir, &format!("{index}.tmp"), b"x").await.expect("written");
        }
        ground.pass_time();
        node.requests();
        for index in 0..50 {
            let (from, to) = (format!("{index}.tmp"), index.to_string());
            node.lookup(dir, &from).await.expect("there");
            assert!(node.lookup(dir, &to).await.is_err());
            node.rename((dir, &from), (dir, &to)).await.expect("renamed");
        }
        let requests = node.requests();
        assert!(requests <= 105, "{requests} requests");
        // The temporary name comes back, over its own tombstone.
        for _ in 0..10 {
            node.write(dir, "0.tmp", b"y").await.expect("written");
            node.rename((dir, "0.tmp"), (dir, "0")).await.expect("renamed");
        }
        assert_eq!(node.requests(), 30);
    });
}

#[test]
fn two_nodes_that_create_one_name_lose_nothing() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let (one, two) = (ground.node().await, ground.node().await);
        let dir = one.mkdir(Ino::ROOT, "dir").await;
        assert_eq!(two.lookup(Ino::ROOT, "dir").await.expect("there").ino, dir);
        two.list(dir).await;
        // Two believes for a moment that there is nothing.
        one.write(dir, "file", b"of the first").await.expect("written");
        let late = two.write(dir, "file", b"of the second").await;
        assert!(matches!(late, Err(FsError::Stale { .. })), "{late:?}");
        let fresh = ground.node().await;
        let listed = fresh.list(dir_of(&fresh).await).await;
        assert_eq!(listed.len(), 2);
        let mut contents = Vec::new();
        for (name, attr) in &listed {
            assert!(name.starts_with("file"));
            contents.push(fresh.read(attr.ino).await.expect("read"));
        }
        contents.sort();
        assert_eq!(contents, [b"of the first".to_vec(), b"of the second".to_vec()]);
        let kept = fresh.lookup(dir, "file").await.expect("there");
        assert_eq!(fresh.read(kept.ino).await.expect("read"), b"of the first");
    });
}

#[test]
fn an_empty_file_gives_way_to_what_another_node_has_created() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let (one, two) = (ground.node().await, ground.node().await);
        let dir = one.mkdir(Ino::ROOT, "dir").await;
        two.lookup(Ino::ROOT, "dir").await.expect("there");
        two.list(dir).await;
        one.write(dir, "file", b"of the first").await.expect("written");
        // touch(1)
        two.write(dir, "file", b"").await.expect("nothing is lost by that");
        let attr = two.lookup(dir, "file").await.expect("there");
        assert_eq!(two.read(attr.ino).await.expect("read"), b"of the first");
        let fresh = ground.node().await;
        assert_eq!(fresh.list(dir_of(&fresh).await).await.len(), 1);
    });
}

async fn dir_of(node: &crate::ground::Node) -> Ino {
    node.lookup(Ino::ROOT, "dir").await.expect("there").ino
}

#[test]
fn an_open_right_after_its_look_up_asks_nothing_however_slow_the_store_is() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let (one, two) = (ground.node().await, ground.node().await);
        one.write(Ino::ROOT, "file", b"content").await.expect("written");
        two.requests();
        // As long as many opens take.
        two.fault.add(Rule::new(
            Verb::Get,
            When::Nth(1),
            Action::Delay(Duration::from_millis(100)),
        ));
        let looking = async { two.lookup(Ino::ROOT, "file").await.expect("there").ino };
        let passing = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            ground.clock.advance(Duration::from_millis(100));
        };
        let (ino, ()) = tokio::join!(looking, passing);
        two.read(ino).await.expect("read");
        assert_eq!(two.requests(), 1);
        // The next open is another one: it asks.
        two.read(ino).await.expect("read");
        assert_eq!(two.requests(), 1);
    });
}

#[test]
fn who_opens_the_files_of_a_directory_one_after_the_other_waits_for_each_once() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let names: Vec<String> = (0..100).map(|index| format!("file {index:03}")).collect();
        node.populate("dir", &names).await;
        node.list(dir_of(&node).await).await;
        wait_for("the index", || !ground.keys("x/").is_empty()).await;
        // Its listing takes the heads from the index; the data are in the records.
        let node = ground.node().await;
        let dir = dir_of(&node).await;
        assert_eq!(node.list(dir).await.len(), names.len());
        for listed_long_ago in [false, true] {
            node.requests();
            for name in &names[if listed_long_ago { 50..100 } else { 0..50 }] {
                if listed_long_ago {
                    // The kernel looks a name up again that it has known for longer than a second.
                    ground.pass_time();
                }
                let ino = node.lookup(dir, name).await.expect("there").ino;
                assert_eq!(node.read(ino).await.expect("read"), name.as_bytes());
            }
            assert_eq!(node.requests(), 50);
        }
    });
}
