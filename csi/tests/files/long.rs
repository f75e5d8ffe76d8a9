//! Long files that are written from front to back: parts of them are in the store when their server is killed.

use crate::ground::{Ground, bytes_of, wait_for};
use crate::steps::{at_every_step, stoppable};
use crate::{alone, both, of_files, pulled};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

const MIB: usize = 1 << 20;

/// Uploads of which the store has parts, and that nobody has ended. One without a part may be left by a server that was
/// killed before it heard that it has begun.
fn uploads(ground: &Ground) -> usize {
    let minio = ground.minio.as_ref().expect("files are in buckets");
    let all =
        walkdir::WalkDir::new(minio.data_of(".minio.sys/multipart")).min_depth(2).max_depth(2);
    let has_parts = |upload: &walkdir::DirEntry| {
        let inside = walkdir::WalkDir::new(upload.path()).into_iter().filter_map(Result::ok);
        inside.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("part."))
    };
    all.into_iter().filter_map(Result::ok).filter(has_parts).count()
}

fn ended(ground: &Ground) {
    wait_for("the end of all uploads", || uploads(ground) == 0);
}

#[test]
fn a_long_file_that_is_being_written_outlives_its_server() {
    let _alone = alone();
    for mut ground in both() {
        ground.serve();
        fs::write(ground.at("file"), "the former one").expect("written");
        let bytes = bytes_of(6, 97 * MIB + 12_345);
        let mut file = File::create(ground.at("file")).expect("opened");
        let (mut rest, mut length) = (&bytes[..], 0);
        for (round, wanted) in [3, 6, 9, 1, 30, 8, 2, 20].into_iter().enumerate() {
            let (now, later) = rest.split_at(wanted * MIB - round * 1000);
            file.write_all(now).expect("written");
            (rest, length) = (later, length + now.len());
            if round % 2 == 1 {
                // Its parts get there.
                std::thread::sleep(Duration::from_millis(400));
            }
            ground.kill_worker();
            let known = fs::metadata(ground.at("file")).expect("there").len();
            assert_eq!(known, length as u64, "{round}");
        }
        assert_eq!((uploads(&ground), ground.stats().lost_files), (1, 0));
        file.write_all(rest).expect("written");
        ground.kill_worker();
        file.sync_all().expect("stored");
        ground.kill_worker();
        assert!(fs::read(ground.at("file")).expect("read") == bytes);
        drop(file);
        ground.unstage();
        assert!(pulled(&ground, "file").as_deref() == Some(&bytes));
        ended(&ground);
    }
}

/// It has the attributes that it was given.
fn as_told(path: &Path) {
    let there = fs::metadata(path).expect("there");
    assert_eq!((there.mtime(), there.mode() & 0o7777), (1_000_000_007, 0o640), "{path:?}");
}

#[test]
fn a_long_file_is_whole_whatever_step_its_server_is_killed_at() {
    let _alone = alone();
    for suite in [None, Some("AES-256-CFB")] {
        let mut world = stoppable(suite);
        let bytes = bytes_of(7, 20 * MIB + 777);
        let steps = at_every_step(
            &mut world,
            // A new one, and one that has the same bytes already, so that the store calls it the same.
            |place| match suite {
                Some(_) => {}
                None => fs::write(place.join("file"), &bytes).expect("written"),
            },
            |place| {
                let mut file = File::create(place.join("file"))?;
                bytes.chunks(100_000).try_for_each(|piece| file.write_all(piece))?;
                // As tar and cp -p do it.
                file.set_permissions(fs::Permissions::from_mode(0o640))?;
                file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_007))?;
                nix::unistd::close(file).map_err(io::Error::from)
            },
            |ground, name, (), done| {
                done.expect("written and closed");
                let path = format!("{name}/file");
                assert!(fs::read(ground.at(&path)).expect("read") == bytes);
                assert!(pulled(ground, &path).as_deref() == Some(&bytes));
                as_told(&ground.at(&path));
            },
        );
        // What this mount believed, and what the store has.
        std::thread::sleep(Duration::from_millis(1100));
        for place in fs::read_dir(world.0.staging()).expect("listed") {
            as_told(&place.expect("an entry").path().join("file"));
        }
        // Begun, three parts, completed, its attributes.
        assert!(steps >= 6, "{steps}");
        // An upload whose beginning was not heard of any more is the bucket's to end.
        assert!(uploads(&world.0) <= 1, "{}", uploads(&world.0));
        world.0.unstage();
    }
}

/// A gap leaves as zeros, which takes a while.
#[test]
fn a_gap_that_is_being_filled_outlives_its_server() {
    let _alone = alone();
    for mut ground in both() {
        ground.serve();
        let (begin, end) = (bytes_of(5, 16 * MIB), 150 * MIB);
        let mut file = File::create(ground.at("file")).expect("created");
        begin.chunks(MIB).try_for_each(|piece| file.write_all(piece)).expect("written");
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| file.write_all_at(b"the end", end as u64));
            let mut kills = 0;
            while !writing.is_finished() {
                std::thread::sleep(Duration::from_millis(150 + 50 * kills));
                ground.kill_worker();
                kills += 1;
            }
            println!("{kills} kills");
            writing.join().expect("no panic").expect("written");
        });
        assert_eq!(ground.stats().lost_files, 0);
        drop(file);
        let whole = [&begin[..], &vec![0; end - begin.len()], b"the end"].concat();
        assert!(fs::read(ground.at("file")).expect("read") == whole);
        ground.unstage();
        assert!(pulled(&ground, "file").as_deref() == Some(&whole));
        ended(&ground);
    }
}

#[test]
fn what_many_write_at_once_is_whole_through_kills_at_any_moment() {
    let _alone = alone();
    for mut ground in both() {
        ground.serve();
        let all: Vec<Vec<u8>> = (0..3).map(|index| bytes_of(10 + index, 120 * MIB)).collect();
        let running = AtomicUsize::new(all.len());
        std::thread::scope(|scope| {
            for (index, bytes) in all.iter().enumerate() {
                let (ground, running) = (&ground, &running);
                scope.spawn(move || {
                    let written = (|| {
                        let mut file = File::create(ground.at(&format!("{index}")))?;
                        for piece in bytes.chunks(70_000 << index) {
                            file.write_all(piece)?;
                        }
                        file.sync_all()
                    })();
                    running.fetch_sub(1, Ordering::SeqCst);
                    written.expect("written");
                });
            }
            let mut kills = 0;
            while running.load(Ordering::SeqCst) > 0 {
                std::thread::sleep(Duration::from_millis(250));
                ground.kill_worker();
                kills += 1;
            }
            println!("{kills} kills");
            assert!(kills > 3, "{kills}");
        });
        assert_eq!(ground.stats().lost_files, 0);
        ground.unstage();
        for (index, bytes) in all.iter().enumerate() {
            assert!(pulled(&ground, &format!("{index}")).as_deref() == Some(bytes), "{index}");
        }
        ended(&ground);
    }
}

/// What a node plugin of another version does: the program that writes does not notice.
#[test]
fn a_long_file_that_is_being_written_keeps_no_server_in_its_place() {
    let _alone = alone();
    let mut ground = of_files(Some("AES-256-CFB"));
    ground.serve();
    let bytes = bytes_of(8, 60 * MIB);
    let mut file = File::create(ground.at("file")).expect("created");
    for piece in bytes.chunks(25 * MIB) {
        file.write_all(piece).expect("written");
        let next = ground.another_node();
        ground.node = None;
        ground.take_over(next);
    }
    drop(file);
    assert!(fs::read(ground.at("file")).expect("read") == bytes);
    ground.unstage();
    ended(&ground);
}

#[test]
fn what_nobody_can_go_on_with_leaves_nothing_on_its_way() {
    let _alone = alone();
    let mut ground = of_files(None);
    ground.serve();
    let mut file = File::create(ground.at("removed")).expect("created");
    file.write_all(&bytes_of(9, 40 * MIB)).expect("written");
    wait_for("parts", || uploads(&ground) == 1);
    fs::remove_file(ground.at("removed")).expect("removed");
    ground.kill_worker();
    ended(&ground);
    file.write_all(b"more").expect_err("written");
    drop(file);
    // Its beginning is read before it is closed: it appears as it is, and goes on as a changed file.
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let mut file = options.open(ground.at("read")).expect("created");
    let bytes = bytes_of(3, 40 * MIB);
    file.write_all(&bytes[..30 * MIB]).expect("written");
    ground.kill_worker();
    let mut start = [0; 100];
    file.read_exact_at(&mut start, 10).expect("read");
    assert_eq!(start, bytes[10..110]);
    file.write_all(&bytes[30 * MIB..]).expect("written");
    file.sync_all().expect("stored");
    ground.kill_worker();
    let mut whole = Vec::new();
    File::open(ground.at("read")).and_then(|mut file| file.read_to_end(&mut whole)).expect("read");
    assert!(whole == bytes);
    drop(file);
    ground.unstage();
    ended(&ground);
}

/// Half of it would be readable with neither.
#[test]
fn nobody_goes_on_with_a_long_file_under_another_passphrase() {
    let _alone = alone();
    let mut ground = of_files(Some("AES-256-CFB"));
    ground.serve();
    fs::write(ground.at("file"), "the former one").expect("written");
    let next = ground.another_node();
    let mut file = File::create(ground.at("file")).expect("opened");
    file.write_all(&bytes_of(4, 30 * MIB)).expect("written");
    wait_for("parts", || uploads(&ground) == 1);
    std::thread::sleep(Duration::from_millis(400));
    ground.node = None;
    let mut secrets = ground.secrets();
    secrets.passphrase = Some("another one".to_owned());
    let report = next.ask(&ground.take_over_with(secrets));
    assert!(matches!(report, crate::node::Report::Done), "{report:?}");
    ground.node = Some(next);
    let error = file.write_all(b"more").expect_err("written");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    drop(file);
    ended(&ground);
    wait_for("the end of what is lost", || ground.stats().lost_files == 0);
    ground.unstage();
    assert_eq!(pulled(&ground, "file").as_deref(), Some(&b"the former one"[..]));
}
