//! Changes of names and attributes whose server is killed at every change of the store that they are made of, before
//! it gets there and after it was made.

use crate::ground::minio::Minio;
use crate::ground::{Ground, wait_for};
use crate::halt::Halt;
use crate::{alone, of_files_before, pulled};
use nix::fcntl::{RenameFlags, renameat2};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

const FORMER: &[u8] = b"the former one";
const CONTENT: &[u8] = b"the content";

/// A place whose store can be stopped.
pub(crate) fn stoppable(suite: Option<&str>) -> (Ground, Halt) {
    let minio = Minio::shared();
    let address = minio.endpoint.trim_start_matches("http://").parse().expect("an address");
    let halt = Halt::before(address);
    let mut ground = of_files_before(suite, &halt.endpoint);
    ground.serve();
    (ground, halt)
}

/// Does something without a kill, and with one at every step, each time in a directory of its own; returns of how many
/// changes of the store it is made. What `prepare` returns lives until it is checked what has come of it.
pub(crate) fn at_every_step<H>(
    (ground, halt): &mut (Ground, Halt),
    prepare: impl Fn(&Path) -> H,
    act: impl Fn(&Path) -> io::Result<()> + Sync,
    check: impl Fn(&Ground, &str, H, io::Result<()>),
) -> usize {
    let mut steps = 0;
    for arrives in [false, true] {
        for step in 0.. {
            let name = format!("{arrives}-{step}");
            let place = ground.at(&name);
            fs::create_dir(&place).expect("made");
            let held = prepare(&place);
            halt.stop_after(step, arrives);
            let (done, was_killed) = std::thread::scope(|scope| {
                let acting = scope.spawn(|| act(&place));
                while !acting.is_finished() && !halt.has_stopped() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                let stops = halt.has_stopped();
                match stops {
                    true => ground.kill_worker_then(|| halt.go_on()),
                    false => halt.go_on(),
                }
                (acting.join().expect("no panic"), stops)
            });
            println!("{name}: killed: {was_killed}: {done:?}");
            check(ground, &name, held, done);
            if !was_killed {
                steps = step;
                break;
            }
        }
    }
    steps
}

fn open_with(path: &Path, content: &[u8]) -> File {
    let mut file = File::create(path).expect("created");
    file.write_all(content).expect("written");
    file
}

/// The names and contents below a directory.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(root).expect("below").display().to_string();
            found.insert(name, fs::read(&path).expect("read"));
        }
    }
    found
}

fn expected(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect()
}

#[test]
fn a_file_that_is_being_written_replaces_another_one_whatever_step_its_server_is_killed_at() {
    let _alone = alone();
    for suite in [None, Some("AES-256-CFB")] {
        let mut world = stoppable(suite);
        let steps = at_every_step(
            &mut world,
            |place| {
                fs::write(place.join("target"), FORMER).expect("written");
                open_with(&place.join("new"), CONTENT)
            },
            |place| fs::rename(place.join("new"), place.join("target")),
            |ground, name, mut file, done| {
                done.expect("renamed");
                let place = ground.at(name);
                assert!(!place.join("new").exists());
                assert_eq!(fs::read(place.join("target")).expect("read"), CONTENT);
                // What is written to it goes where it is.
                file.write_all(b", and more").expect("written");
                file.sync_all().expect("stored");
                drop(file);
                let whole = b"the content, and more";
                assert_eq!(tree(&place), expected(&[("target", whole)]));
                assert_eq!(pulled(ground, &format!("{name}/target")).as_deref(), Some(&whole[..]));
                assert_eq!(pulled(ground, &format!("{name}/new")), None);
            },
        );
        // Stored, copied, deleted.
        assert!(steps >= 3, "{steps}");
        world.0.unstage();
    }
}

#[test]
fn a_rename_that_must_not_replace_does_not_find_its_own_copy_in_its_way() {
    let _alone = alone();
    let mut world = stoppable(None);
    let rename = |place: &Path, to: &str| {
        let (from, to) = (place.join("new"), place.join(to));
        let flags = RenameFlags::RENAME_NOREPLACE;
        let here = nix::fcntl::AT_FDCWD;
        renameat2(here, &from, here, &to, flags).map_err(io::Error::from)
    };
    let steps = at_every_step(
        &mut world,
        |place| {
            fs::write(place.join("new"), CONTENT).expect("written");
            fs::write(place.join("other"), FORMER).expect("written");
        },
        |place| rename(place, "target"),
        |ground, name, (), done| {
            done.expect("renamed");
            let place = ground.at(name);
            let there = expected(&[("target", CONTENT), ("other", FORMER)]);
            assert_eq!(tree(&place), there);
            fs::rename(place.join("target"), place.join("new")).expect("back");
            let refused = rename(&place, "other").expect_err("replaced");
            assert_eq!(refused.raw_os_error(), Some(nix::libc::EEXIST));
        },
    );
    assert!(steps >= 2, "{steps}");
    world.0.unstage();
}

#[test]
fn a_directory_moves_with_all_that_is_written_in_it_whatever_step_its_server_is_killed_at() {
    let _alone = alone();
    let mut world = stoppable(Some("AES-256-CFB"));
    let steps = at_every_step(
        &mut world,
        |place| {
            fs::create_dir_all(place.join("from/deep")).expect("made");
            fs::create_dir(place.join("to")).expect("made");
            fs::write(place.join("from/one"), FORMER).expect("written");
            fs::write(place.join("from/deep/two"), FORMER).expect("written");
            open_with(&place.join("from/deep/three"), CONTENT)
        },
        |place| fs::rename(place.join("from"), place.join("to")),
        |ground, name, file, done| {
            done.expect("renamed");
            drop(file);
            let place = ground.at(name);
            let there = expected(&[
                ("to/one", FORMER),
                ("to/deep/two", FORMER),
                ("to/deep/three", CONTENT),
            ]);
            assert_eq!(tree(&place), there);
            assert!(!place.join("from").exists());
            assert_eq!(pulled(ground, &format!("{name}/to/deep/three")).as_deref(), Some(CONTENT));
            assert_eq!(pulled(ground, &format!("{name}/from/deep/three")), None);
        },
    );
    assert!(steps >= 5, "{steps}");
    world.0.unstage();
}

#[test]
fn a_directory_never_takes_the_place_of_one_that_is_not_empty() {
    let _alone = alone();
    let mut world = stoppable(None);
    let steps = at_every_step(
        &mut world,
        |place| {
            fs::create_dir_all(place.join("from")).expect("made");
            fs::create_dir_all(place.join("to")).expect("made");
            fs::write(place.join("to/one"), FORMER).expect("written");
            open_with(&place.join("from/two"), CONTENT)
        },
        |place| fs::rename(place.join("from"), place.join("to")),
        |ground, name, file, done| {
            let error = done.expect_err("not empty");
            assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTEMPTY), "{error}");
            drop(file);
            let there = expected(&[("from/two", CONTENT), ("to/one", FORMER)]);
            assert_eq!(tree(&ground.at(name)), there);
        },
    );
    assert!(steps >= 1, "{steps}");
    world.0.unstage();
}

#[test]
fn a_file_that_is_removed_while_it_is_stored_does_not_come_back() {
    let _alone = alone();
    let mut world = stoppable(None);
    let steps = at_every_step(
        &mut world,
        |place| open_with(&place.join("file"), CONTENT),
        |place| {
            let file = fs::OpenOptions::new().write(true).open(place.join("file"))?;
            std::thread::scope(|scope| {
                // Whether it is stored before it is removed is all the same.
                scope.spawn(|| drop(file.sync_all()));
                std::thread::sleep(Duration::from_millis(50));
                fs::remove_file(place.join("file"))
            })
        },
        |ground, name, file, done| {
            done.expect("removed");
            assert!(!ground.at(name).join("file").exists());
            drop(file);
            assert_eq!(tree(&ground.at(name)), BTreeMap::new());
            assert_eq!(pulled(ground, &format!("{name}/file")), None);
        },
    );
    assert!(steps >= 2, "{steps}");
    world.0.unstage();
}

#[test]
fn whoever_reads_a_file_does_not_take_its_new_mode_for_another_file() {
    let _alone = alone();
    let mut world = stoppable(Some("AES-256-CFB"));
    let steps = at_every_step(
        &mut world,
        |place| {
            fs::write(place.join("file"), CONTENT).expect("written");
            File::open(place.join("file")).expect("opened")
        },
        |place| fs::set_permissions(place.join("file"), fs::Permissions::from_mode(0o640)),
        |ground, name, file, done| {
            done.expect("changed");
            let place = ground.at(name);
            assert_eq!(fs::metadata(place.join("file")).expect("there").mode() & 0o7777, 0o640);
            let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            nix::fcntl::posix_fadvise(&file, 0, 0, advice).expect("not in the kernel's memory");
            let mut read = [0; CONTENT.len()];
            file.read_exact_at(&mut read, 0).expect("read");
            assert_eq!(read, CONTENT);
        },
    );
    assert!(steps >= 1, "{steps}");
    world.0.unstage();
}

/// A server that is killed before it serves leaves to the next one what it was left.
#[test]
fn a_server_that_is_killed_while_it_takes_over_spoils_nothing() {
    let _alone = alone();
    let (mut ground, halt) = stoppable(None);
    let long: Vec<u8> = crate::ground::bytes_of(8, 3 << 20);
    let mut open = open_with(&ground.at("open"), &long);
    fs::write(ground.at("from"), CONTENT).expect("written");
    std::thread::scope(|scope| {
        halt.stop_after(1, false);
        let renamed = scope.spawn(|| fs::rename(ground.at("from"), ground.at("to")));
        wait_for("the deletion", || halt.has_stopped());
        let before = ground.stats().takeovers;
        let end = || {
            let workers = ground.workers();
            assert_eq!(workers.len(), 1, "{workers:?}");
            crate::ground::kill_and_wait(workers[0]);
        };
        for _ in 0..3 {
            end();
            // The next one ends what its predecessor had begun before it serves.
            halt.stop_after(0, false);
            wait_for("the next one", || halt.has_stopped());
        }
        let stats = ground.stats_of_next(before, || {
            end();
            halt.go_on();
        });
        renamed.join().expect("no panic").expect("renamed");
        assert_eq!(stats.lost_files, 0);
    });
    open.write_all(CONTENT).expect("written");
    open.sync_all().expect("stored");
    drop(open);
    let whole = [&long[..], CONTENT].concat();
    assert_eq!(tree(&ground.staging()), expected(&[("open", &whole), ("to", CONTENT)]));
    ground.unstage();
}

#[test]
fn what_could_not_be_sent_is_never_zeros() {
    let _alone = alone();
    for is_killed in [false, true] {
        let (mut ground, halt) = stoppable(None);
        let (begun, late) = (open_with(&ground.at("begun"), &[b'A'; 1 << 20]), ground.at("late"));
        let late = File::create(late).expect("created");
        halt.refuse();
        for file in [&begun, &late] {
            // Zeros leave before it.
            let written =
                file.write_all_at(b"far behind", 200 << 20).and_then(|()| file.sync_all());
            written.expect_err("stored");
        }
        halt.go_on();
        if is_killed {
            ground.kill_worker();
        }
        for file in [&begun, &late] {
            // What the store said, as long as somebody knows that.
            let error = file.sync_all().expect_err("stored").raw_os_error();
            assert_eq!(error, Some(if is_killed { nix::libc::EIO } else { nix::libc::EACCES }));
            file.write_all_at(b"B", 5).and_then(|()| file.sync_all()).expect_err("stored");
        }
        fs::read(ground.at("begun")).expect_err("read");
        drop((begun, late));
        wait_for("the end of what is lost", || ground.stats().lost_files == 0);
        assert_eq!((pulled(&ground, "begun"), pulled(&ground, "late")), (None, None));
        ground.unstage();
    }
}

/// What a successor would not find keeps its server in its place until it is closed.
#[test]
fn short_files_for_which_the_memory_is_too_small_are_written_to_their_ends_all_the_same() {
    let _alone = alone();
    let mut ground = crate::of_files_with(&[("memory_limit", "64MiB".into())]);
    ground.serve();
    let content = |number: u64| crate::ground::bytes_of(number, 1 << 20);
    let files: Vec<File> = (0..50)
        .map(|number| open_with(&ground.at(&format!("{number}")), &content(number)))
        .collect();
    let next = ground.another_node();
    ground.node = None;
    let order = ground.take_over_with(ground.secrets());
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| next.ask(&order));
        std::thread::sleep(Duration::from_secs(2));
        for mut file in files {
            file.write_all(b"the end").expect("written");
            file.sync_all().expect("stored");
        }
        let report = asked.join().expect("no panic");
        assert!(matches!(report, crate::node::Report::Done), "{report:?}");
    });
    ground.node = Some(next);
    for number in 0..50 {
        let whole = [&content(number)[..], b"the end"].concat();
        assert!(fs::read(ground.at(&format!("{number}"))).expect("read") == whole, "{number}");
    }
    ground.unstage();
}

/// Writes that are asked for once more were done already, or not: the file is the same.
#[test]
fn a_file_that_is_written_in_small_pieces_is_whole_through_kills() {
    let _alone = alone();
    let mut ground = crate::of_files_with(&[]);
    ground.serve();
    let bytes = crate::ground::bytes_of(4, 2 << 20);
    let mut file = File::create(ground.at("file")).expect("created");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for round in 0.. {
                for piece in bytes.chunks(1000) {
                    file.write_all(piece)?;
                }
                file.sync_all()?;
                if round == 20 {
                    break;
                }
                file.set_len(0)?;
                io::Seek::rewind(&mut file)?;
            }
            io::Result::Ok(())
        });
        let mut kills = 0;
        while !writing.is_finished() {
            std::thread::sleep(Duration::from_millis(150));
            ground.kill_worker();
            kills += 1;
        }
        println!("{kills} kills");
        writing.join().expect("no panic").expect("written");
    });
    drop(file);
    assert!(fs::read(ground.at("file")).expect("read") == bytes);
    ground.unstage();
}
