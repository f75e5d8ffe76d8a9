//! What another mount stores where this one's server is killed in the middle of a change: it stays.

use crate::ground::{Ground, wait_for};
use crate::halt::Halt;
use crate::steps::stoppable;
use crate::{alone, pulled, pushed};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs;
use std::io;
use std::time::Duration;

const FORMER: &[u8] = b"the former one";
const CONTENT: &[u8] = b"the content";
const THEIRS: &[u8] = b"another one's";

/// Stops at the last change that something makes, when it is made; has somebody else store a file, and kills the server,
/// which has not heard of the change.
fn with_another_ones(
    (ground, halt): &(Ground, Halt),
    changes: usize,
    act: impl FnOnce() -> io::Result<()> + Send,
    theirs: &[(&str, &[u8])],
) -> io::Result<()> {
    with_another_ones_when((ground, halt), (changes, true), act, theirs)
}

/// The same when the last change is made, or before.
fn with_another_ones_when(
    (ground, halt): (&Ground, &Halt),
    (changes, is_made): (usize, bool),
    act: impl FnOnce() -> io::Result<()> + Send,
    theirs: &[(&str, &[u8])],
) -> io::Result<()> {
    halt.stop_after(changes - 1, is_made);
    std::thread::scope(|scope| {
        let acting = scope.spawn(act);
        wait_for("the last change", || halt.has_stopped());
        for (name, content) in theirs {
            pushed(ground, name, content);
        }
        ground.kill_worker_then(|| halt.go_on());
        let done = acting.join().expect("no panic");
        // What this mount believes for a second.
        std::thread::sleep(Duration::from_millis(1100));
        done
    })
}

#[test]
fn what_others_make_of_a_name_that_was_removed_or_moved_away_stays() {
    let _alone = alone();
    let mut world = stoppable(None);
    let (removed, old, new) = (world.0.at("removed"), world.0.at("old"), world.0.at("new"));
    fs::write(&removed, FORMER).expect("written");
    with_another_ones(&world, 1, || fs::remove_file(&removed), &[("removed", THEIRS)])
        .expect("removed");
    assert_eq!(fs::read(&removed).expect("read"), THEIRS);
    // The very same bytes.
    fs::write(&old, CONTENT).expect("written");
    with_another_ones(&world, 2, || fs::rename(&old, &new), &[("old", CONTENT)]).expect("moved");
    assert_eq!(fs::read(&new).expect("read"), CONTENT);
    assert_eq!(fs::read(&old).expect("read"), CONTENT);
    world.0.unstage();
    for name in ["removed", "old", "new"] {
        assert!(pulled(&world.0, name).is_some(), "{name}");
    }
}

/// What another mount stores under the new name of something that is moving, or the former one.
#[test]
fn what_others_put_where_something_moves_to_or_from_stays() {
    let _alone = alone();
    let mut world = stoppable(None);
    let (old, new) = (world.0.at("old"), world.0.at("new"));
    // Nothing was copied yet when another one took the name.
    for (mode, expected) in
        [(RenameFlags::RENAME_NOREPLACE, THEIRS), (RenameFlags::empty(), CONTENT)]
    {
        fs::write(&old, CONTENT).expect("written");
        let _ = fs::remove_file(&new);
        let moved = with_another_ones_when(
            (&world.0, &world.1),
            (1, false),
            || Ok(renameat2(AT_FDCWD, &old, AT_FDCWD, &new, mode)?),
            &[("new", THEIRS)],
        );
        let is_kept = mode == RenameFlags::RENAME_NOREPLACE;
        assert_eq!(
            moved.err().and_then(|error| error.raw_os_error()),
            is_kept.then_some(nix::libc::EEXIST)
        );
        assert_eq!(fs::read(&new).expect("read"), expected);
        assert_eq!(old.exists(), is_kept);
    }
    // A directory: when all is copied, and when all is deleted as well.
    let (from, to) = (world.0.at("from"), world.0.at("to"));
    for changes in [3, 4] {
        fs::create_dir(&from).expect("made");
        for name in ["a", "b"] {
            fs::write(from.join(name), CONTENT).expect("written");
        }
        let theirs = [("to/a", THEIRS), ("from/c", THEIRS)];
        with_another_ones(&world, changes, || fs::rename(&from, &to), &theirs).expect("moved");
        assert_eq!(fs::read(to.join("a")).expect("read"), THEIRS, "{changes}");
        assert_eq!(fs::read(to.join("b")).expect("read"), CONTENT, "{changes}");
        // Until all is copied it goes along.
        let place = if changes == 3 { &to } else { &from };
        assert_eq!(fs::read(place.join("c")).expect("read"), THEIRS, "{changes}");
        assert!(!from.join("b").exists(), "{changes}");
        // Nobody can say any more whether what was copied is what is there.
        let is_left = fs::read(from.join("a")).ok();
        assert!(is_left == (changes == 3).then(|| CONTENT.to_vec()), "{changes}");
        for left in [&to, &from].into_iter().filter(|left| left.exists()) {
            fs::remove_dir_all(left).expect("removed");
        }
    }
    world.0.unstage();
}

/// What another mount makes under the new name before anything was copied to it is found by the rename, as without a kill.
#[test]
fn what_others_made_where_a_directory_or_the_like_of_a_file_moves_to_is_not_taken_for_its_copy() {
    let _alone = alone();
    let mut world = stoppable(None);
    let (from, to) = (world.0.at("from"), world.0.at("to"));
    for theirs in
        [&[("to/a", THEIRS), ("to/b", THEIRS)][..], &[("to/a", THEIRS)], &[("to/z", THEIRS)]]
    {
        fs::create_dir(&from).expect("made");
        for name in ["a", "b"] {
            fs::write(from.join(name), CONTENT).expect("written");
        }
        let moved = with_another_ones_when(
            (&world.0, &world.1),
            (1, false),
            || fs::rename(&from, &to),
            theirs,
        );
        let error = moved.err().and_then(|error| error.raw_os_error());
        assert_eq!(error, Some(nix::libc::ENOTEMPTY), "{theirs:?}");
        for name in ["a", "b"] {
            assert_eq!(fs::read(from.join(name)).expect("read"), CONTENT, "{theirs:?} {name}");
        }
        for (name, content) in theirs {
            assert_eq!(fs::read(world.0.at(name)).expect("read"), *content, "{name}");
        }
        fs::remove_dir_all(&from).expect("removed");
        fs::remove_dir_all(&to).expect("removed");
    }
    // As rsync --checksum leaves it: of the same size and time as what it is to replace.
    let (old, new) = (world.0.at(".new"), world.0.at("new"));
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    for (path, content) in [(&new, b"former"), (&old, b"latter")] {
        fs::write(path, content).expect("written");
        fs::File::options().write(true).open(path).expect("there").set_modified(time).expect("set");
    }
    let moved =
        with_another_ones_when((&world.0, &world.1), (1, false), || fs::rename(&old, &new), &[]);
    moved.expect("moved");
    assert_eq!(fs::read(&new).expect("read"), b"latter");
    assert!(!old.exists());
    world.0.unstage();
    assert_eq!(pulled(&world.0, "new").as_deref(), Some(&b"latter"[..]));
}
