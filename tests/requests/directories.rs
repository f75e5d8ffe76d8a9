//! Large directories: listed in parts, with attributes from the index, which is never believed when it
//! is wrong and never costs data.

use crate::ground::{CALLER, Ground, Node, run, wait_for};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;
use strongroom::crypto::Suite;
use strongroom::fs::core::Durability;
use strongroom::fs::types::{Ino, OpenMode, RenameMode, SetAttr, XattrMode};
use strongroom::store::fault::{Action, Rule, Verb, When};
use strongroom::store::{Fetched, Key, PutWhen, Store};
use strongroom::units::DirId;
use strongroom::volume::native::keys;
use strongroom::volume::native::record::{Attributes, Content, Record};

/// How the name with a number is spelled.
type Shape = fn(usize) -> String;

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("file {index:05}.dat")).collect()
}

/// A volume with a directory `dir` and its index.
async fn with_index(suite: Suite, names: &[String]) -> Ground {
    let ground = Ground::new(suite).await;
    let node = ground.node().await;
    node.populate("dir", names).await;
    let dir = node.lookup(Ino::ROOT, "dir").await.expect("there").ino;
    assert_eq!(node.list(dir).await.len(), names.len());
    let shards = (names.len() / 1000).max(1).next_power_of_two();
    wait_for("the index", || ground.keys("x/").len() == shards).await;
    ground
}

async fn dir(node: &Node) -> Ino {
    let ino = node.lookup(Ino::ROOT, "dir").await.expect("there").ino;
    node.requests();
    ino
}

#[test]
fn ls_of_10000_files_just_mounted_takes_at_most_40_requests() {
    for suite in [Suite::Aes256Gcm, Suite::None] {
        run(async {
            let names = numbered(10_000);
            let ground = with_index(suite, &names).await;
            let node = ground.node().await;
            let dir = dir(&node).await;
            let puts = node.verb("put");
            let listed = node.list(dir).await;
            let requests = node.requests();
            assert!(requests <= 40, "{suite:?}: {requests} requests");
            assert!(listed.keys().eq(&names));
            assert!(listed.iter().all(|(name, attr)| attr.size == name.len() as u64));
            // Nothing was out of date: nothing is written.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            assert_eq!(node.verb("put"), puts);
            // The second time everything is known.
            node.list(dir).await;
            let requests = node.requests();
            assert!(requests <= 20, "{suite:?}: {requests} requests");
        });
    }
}

#[test]
fn who_makes_many_files_leaves_an_index_for_who_lists_them() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let made = node.mkdir(Ino::ROOT, "dir").await;
        for name in numbered(150) {
            node.write(made, &name, name.as_bytes()).await.expect("written");
        }
        assert!(node.fs.drain().await.is_empty());
        assert_eq!(ground.keys("x/").len(), 1);
        // One that makes more, and knows only these.
        let node = ground.node().await;
        let dir = self::dir(&node).await;
        for index in 0..100 {
            node.write(dir, &format!("more {index}"), b"x").await.expect("written");
        }
        assert!(node.fs.drain().await.is_empty());
        let node = ground.node().await;
        let dir = self::dir(&node).await;
        assert_eq!(node.list(dir).await.len(), 250);
        assert_eq!(node.requests(), 3, "list, list of the index, one shard");
    });
}

#[test]
fn names_that_are_made_while_an_index_is_written_are_in_it_in_the_end() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        node.populate("dir", &numbered(150)).await;
        let slow = Action::Delay(Duration::from_secs(2));
        node.fault.add(Rule::new(Verb::Put, When::Always, slow).under("x/"));
        let dir = self::dir(&node).await;
        // Begins to write the index, for whoever lists the directory next.
        assert_eq!(node.list(dir).await.len(), 150);
        for index in 0..100 {
            node.write(dir, &format!("more {index}"), b"x").await.expect("written");
        }
        assert!(ground.keys("x/").is_empty(), "it is on its way");
        assert!(node.fs.drain().await.is_empty());
        let node = ground.node().await;
        let dir = self::dir(&node).await;
        assert_eq!(node.list(dir).await.len(), 250);
        assert_eq!(node.requests(), 3, "list, list of the index, one shard");
    });
}

#[test]
fn every_name_of_a_large_directory_is_listed_once_whatever_the_names() {
    let shapes: [(&str, Shape); 6] = [
        ("numbers", |index| index.to_string()),
        ("one beginning", |index| format!("backup-2026-{index:06}")),
        ("few first letters", |index| format!("{}{index}", ["a", "b", "Z", "_"][index % 4])),
        ("dots and blanks", |index| format!(".{index} .")),
        ("high bytes", |index| format!("ü{index}ü")),
        ("one is the beginning of the next", |index| "f".repeat(index % 200) + &index.to_string()),
    ];
    for suite in [Suite::Aes256Gcm, Suite::None] {
        run(async {
            let ground = Ground::new(suite).await;
            let node = ground.node().await;
            let volume = node.fs.volume();
            for (shape, name) in shapes {
                let dir = DirId(volume.world().entropy.bytes());
                let expected: BTreeSet<Vec<u8>> =
                    (0..3500).map(|index| name(index).into_bytes()).collect();
                // Their content does not matter here: the listing looks at keys and sizes.
                for name in &expected {
                    let key = keys::entry(volume.keyring(), dir, name);
                    let put = ground.store.put(&key, Bytes::from_static(&[0; 32]), PutWhen::Always);
                    put.await.expect("stored");
                }
                let listed = volume.list_directory(dir).await.expect("listed");
                assert_eq!(listed.len(), expected.len(), "{suite:?}: {shape}");
                let found: BTreeSet<Vec<u8>> = listed.into_iter().map(|entry| entry.name).collect();
                assert!(found == expected, "{suite:?}: {shape}");
            }
        });
    }
}

#[test]
fn a_row_of_the_index_is_believed_only_for_the_record_it_was_made_of() {
    run(async {
        let names = numbered(300);
        let ground = with_index(Suite::Aes256Gcm, &names).await;
        let other = ground.node().await;
        let there = dir(&other).await;
        for name in &names[..10] {
            other
                .write(there, name, b"another, longer content of this file")
                .await
                .expect("written");
        }
        other.fs.unlink(there, names[10].as_bytes()).await.expect("removed");
        other.fs.fsyncdir(there).await.expect("removed");
        other.write(there, "new", b"new").await.expect("written");
        let before = ground.keys("x/");
        let shard = Key::new(before[0].clone()).expect("a key");
        let etag = ground.store.head(&shard).await.expect("there").etag;
        let node = ground.node().await;
        let dir = dir(&node).await;
        let listed = node.list(dir).await;
        assert_eq!(listed.len(), 300);
        assert_eq!(listed["new"].size, 3);
        for (index, name) in names.iter().enumerate() {
            let size = listed.get(name).map(|attr| attr.size);
            let expected = match index {
                0..10 => Some(36),
                10 => None,
                _ => Some(name.len() as u64),
            };
            assert_eq!(size, expected, "{name}");
        }
        // Session, list, list of the index, one shard, eleven records, which are too few to write anything.
        let requests = node.requests();
        assert!(requests <= 14, "{requests} requests");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(ground.store.head(&shard).await.expect("there").etag, etag);
        for name in &names[20..50] {
            other
                .write(there, name, b"another, longer content of this file")
                .await
                .expect("written");
        }
        let node = ground.node().await;
        let dir = self::dir(&node).await;
        assert_eq!(node.list(dir).await[&names[20]].size, 36);
        for _ in 0..1000 {
            if ground.store.head(&shard).await.expect("there").etag != etag {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let node = ground.node().await;
        let dir = self::dir(&node).await;
        assert_eq!(node.list(dir).await[&names[20]].size, 36);
        let requests = node.requests();
        assert_eq!(requests, 3, "list, list of the index, one shard");
    });
}

#[test]
fn a_damaged_index_costs_requests_and_nothing_else() {
    run(async {
        let names = numbered(200);
        let ground = with_index(Suite::Aes256Gcm, &names).await;
        let shard = Key::new(ground.keys("x/")[0].clone()).expect("a key");
        let good = match ground.store.get(&shard, None, None).await.expect("there") {
            Fetched::Object(object) => object.body.bytes(),
            Fetched::Unchanged => unreachable!("no condition was given"),
        };
        let flipped = |at: usize| {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1;
            Bytes::from(bytes)
        };
        let bad = [
            Bytes::new(),
            Bytes::from_static(b"x"),
            good.slice(..good.len() / 2),
            flipped(17),
            flipped(60),
            flipped(good.len() / 2),
            Bytes::from(vec![0xff; 2 << 20]),
        ];
        for bytes in bad {
            let put = ground.store.put(&shard, bytes.clone(), PutWhen::Always).await;
            let etag = put.expect("stored");
            let node = ground.node().await;
            let dir = dir(&node).await;
            let listed = node.list(dir).await;
            assert!(listed.keys().eq(&names));
            assert!(listed.iter().all(|(name, attr)| attr.size == name.len() as u64));
            if bytes.len() > 1 << 20 {
                // What is too big is not even read.
                continue;
            }
            for _ in 0..1000 {
                if ground.store.head(&shard).await.expect("there").etag != etag {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let node = ground.node().await;
            let dir = self::dir(&node).await;
            assert_eq!(node.list(dir).await.len(), 200);
            assert_eq!(node.requests(), 3, "the index was not repaired");
        }
        // Another directory's index, under this one's key and with its own rows.
        let node = ground.node().await;
        node.populate("other", &names).await;
        let other = node.lookup(Ino::ROOT, "other").await.expect("there").ino;
        node.list(other).await;
        wait_for("the other index", || ground.keys("x/").len() == 2).await;
        let other = ground.keys("x/").into_iter().find(|key| key != shard.as_str());
        let other = Key::new(other.expect("another")).expect("a key");
        ground.store.put(&other, good, PutWhen::Always).await.expect("stored");
        let node = ground.node().await;
        let other = node.lookup(Ino::ROOT, "other").await.expect("there").ino;
        assert_eq!(node.list(other).await.len(), 200);
        let requests = node.requests();
        assert!(requests > 200, "{requests} requests: rows of another directory were believed");
    });
}

#[test]
fn what_is_learnt_from_the_index_keeps_its_data_through_every_change() {
    run(async {
        let names = numbered(100);
        let ground = with_index(Suite::Aes256Cfb, &names).await;
        let node = ground.node().await;
        let dir = dir(&node).await;
        let listed = node.list(dir).await;
        let requests = node.requests();
        assert_eq!(requests, 3, "list, list of the index, one shard");
        let ino = |index: usize| listed[&names[index]].ino;
        let name = |index: usize| names[index].as_bytes();
        let fs = &node.fs;
        assert_eq!(node.read(ino(0)).await.expect("read"), name(0));
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        fs.setattr(&CALLER, ino(1), mode).await.expect("changed");
        node.rename((dir, &names[2]), (dir, "renamed")).await.expect("renamed");
        fs.link(ino(3), dir, b"linked").await.expect("linked");
        fs.rename(dir, name(4), dir, name(5), RenameMode::Exchange).await.expect("exchanged");
        fs.setxattr(ino(6), b"user.x", b"y", XattrMode::Set).await.expect("set");
        let size = SetAttr { size: Some(4), ..SetAttr::default() };
        fs.setattr(&CALLER, ino(7), size).await.expect("changed");
        let size = SetAttr { size: Some(100), ..SetAttr::default() };
        fs.setattr(&CALLER, ino(8), size).await.expect("changed");
        let append = OpenMode { write: true, append: true, ..OpenMode::default() };
        let handle = fs.open(&CALLER, ino(9), append).await.expect("opened").handle;
        fs.write(handle, 14, b" and more".to_vec()).await.expect("written");
        fs.flush(ino(9), handle).await.expect("stored");
        fs.release(ino(9), handle).await.expect("closed");
        fs.unlink(dir, name(10)).await.expect("removed");
        fs.fsyncdir(dir).await.expect("removed");
        // Another node changes what is only known by its head here.
        let other = ground.node().await;
        let there = self::dir(&other).await;
        other.write(there, &names[11], b"changed by another node").await.expect("written");
        fs.setattr(&CALLER, ino(11), mode).await.expect("changed");
        other.rename((there, &names[12]), (there, "renamed elsewhere")).await.expect("renamed");
        assert!(node.read(ino(12)).await.is_err(), "it is not there any more");

        let root = fs.volume();
        let found = root.lookup(root.root_directory(), b"dir").await.expect("read").expect("there");
        let id = found.home().record.directory().expect("a directory");
        root.undelete(id, name(10)).await.expect("given back");

        let fresh = ground.node().await;
        let dir = self::dir(&fresh).await;
        let expected = |index: usize| {
            Some(match index {
                2 | 12 => return None,
                4 => names[5].clone().into_bytes(),
                5 => names[4].clone().into_bytes(),
                7 => names[7].as_bytes()[..4].to_vec(),
                8 => {
                    let mut bytes = names[8].clone().into_bytes();
                    bytes.resize(100, 0);
                    bytes
                }
                9 => format!("{} and more", names[9]).into_bytes(),
                11 => b"changed by another node".to_vec(),
                _ => names[index].clone().into_bytes(),
            })
        };
        for (index, name) in names.iter().enumerate() {
            let found = match fresh.lookup(dir, name).await {
                Ok(attr) => Some(fresh.read(attr.ino).await.expect("read")),
                Err(_) => None,
            };
            assert_eq!(found, expected(index), "{name}");
        }
        for (name, content) in [("renamed", 2), ("linked", 3), ("renamed elsewhere", 12)] {
            let attr = fresh.lookup(dir, name).await.expect("there");
            assert_eq!(fresh.read(attr.ino).await.expect("read"), names[content].as_bytes());
        }
        for (index, links) in [(1, 1), (3, 2), (11, 1)] {
            let attr = fresh.lookup(dir, &names[index]).await.expect("there");
            assert_eq!(attr.nlink, links);
            assert_eq!(attr.mode, if links == 1 { 0o600 } else { 0o755 });
        }
        let attr = fresh.lookup(dir, &names[6]).await.expect("there");
        assert_eq!(fresh.fs.getxattr(attr.ino, b"user.x").await.expect("read"), b"y");
    });
}

#[test]
fn an_open_file_is_not_emptied_by_a_listing_that_reads_only_heads() {
    run(async {
        let names = numbered(100);
        let ground = with_index(Suite::Aes256Gcm, &names).await;
        let node = ground.node().await;
        let dir = dir(&node).await;
        let ino = node.lookup(dir, &names[0]).await.expect("there").ino;
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let handle = node.fs.open(&CALLER, ino, mode).await.expect("opened").handle;
        // Another node changes it and writes the index with the new row.
        let other = ground.node().await;
        let there = self::dir(&other).await;
        let rest: Vec<&String> = names.iter().take(40).collect();
        for name in rest {
            other.write(there, name, &[b'n'; 60_000]).await.expect("written");
        }
        let third = ground.node().await;
        let shard = Key::new(ground.keys("x/")[0].clone()).expect("a key");
        let etag = ground.store.head(&shard).await.expect("there").etag;
        let from_third = self::dir(&third).await;
        third.list(from_third).await;
        for _ in 0..1000 {
            if ground.store.head(&shard).await.expect("there").etag != etag {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        ground.pass_time();
        node.list(dir).await;
        let bytes = node.fs.read(ino, handle, 0, 1 << 20).await.expect("an open file is read");
        assert!(bytes == names[0].as_bytes() || bytes == [b'n'; 60_000].as_slice());
        node.fs.release(ino, handle).await.expect("closed");
        ground.pass_time();
        let ino = node.lookup(dir, &names[0]).await.expect("there").ino;
        assert_eq!(node.read(ino).await.expect("read"), [b'n'; 60_000]);
        let ino = node.lookup(dir, &names[1]).await.expect("there").ino;
        assert_eq!(node.read(ino).await.expect("read"), [b'n'; 60_000]);
    });
}

#[test]
fn of_bigger_records_only_the_heads_are_read_by_a_listing() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let made = node.mkdir(Ino::ROOT, "dir").await;
        for index in 0..30 {
            let data = vec![index; 60_000];
            node.write(made, &format!("big {index}"), &data).await.expect("written");
            node.write(made, &format!("small {index}"), &data[..500]).await.expect("written");
        }
        let node = ground.node().await;
        let dir = dir(&node).await;
        let before = node.verb("get").1;
        let listed = node.list(dir).await;
        let read = node.verb("get").1 - before;
        assert!(read < 30 * 20_000, "{read} bytes were read");
        node.requests();
        let before = node.verb("get").1;
        for index in 0..30 {
            let small = node.read(listed[&format!("small {index}")].ino).await.expect("read");
            assert_eq!(small, vec![index; 500]);
        }
        // Each open asks whether the record is still the same; that it is has no bytes.
        let read = node.verb("get").1 - before;
        assert_eq!((node.requests(), read), (30, 0), "small records were read whole");
        for index in 0..30 {
            let big = node.read(listed[&format!("big {index}")].ino).await.expect("read");
            assert!(big == vec![index; 60_000]);
        }
        assert_eq!(node.requests(), 30);
    });
}

#[test]
fn a_read_only_mount_writes_no_index() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let names = numbered(100);
        node.populate("dir", &names).await;
        let node = ground.node_with(Durability::Close, true).await;
        let dir = dir(&node).await;
        assert_eq!(node.list(dir).await.len(), 100);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(node.verb("put").0, 0);
        assert!(ground.keys("x/").is_empty());
    });
}

#[test]
fn a_record_of_which_only_the_head_was_read_is_never_stored() {
    run(async {
        let ground = Ground::new(Suite::Aes256Gcm).await;
        let node = ground.node().await;
        let volume = node.fs.volume();
        let attributes = Attributes::default();
        let mut source = &[7; 50_000][..];
        let root = volume.root_directory();
        let written = volume.write_file(root, b"file", attributes, &mut source, |_| ()).await;
        written.expect("written");
        let listed = volume.list_directory(root).await.expect("listed");
        let heads = volume.load_listed(root, listed).await.expect("read");
        assert!(!heads[0].record.is_whole());
        let record: Record = (*heads[0].record).clone();
        assert!(matches!(&record.content, Content::File(file) if file.size == 50_000));
        assert!(volume.replace(&heads[0], record).await.is_err());
        // What copies records fetches what is missing.
        volume
            .rename(&heads[0], root, b"moved", strongroom::volume::native::entries::Expect::Free)
            .await
            .expect("moved");
        let moved = volume.lookup(root, b"moved").await.expect("read").expect("there");
        assert!(moved.entry.record.is_whole());
    });
}
