//! What the original does not have: trees, and names and sizes within the storage, on every kind of storage.
//! What comes of it the original reads.

use crate::programs::{Outcome, Program};
use crate::support::random_bytes;
use crate::worlds::{Place, World, bucket};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};
use strongroom::store::{Key, Store};

const PLACES: [Place; 7] = [
    Place::Bucket,
    Place::Directory,
    Place::Mounted,
    Place::Ftp,
    Place::OldFtp,
    Place::Azure,
    Place::Google,
];

fn worlds() -> Vec<World> {
    let mut worlds: Vec<World> = PLACES.into_iter().map(World::new).collect();
    for place in [Place::Prefix, Place::Directory, Place::Ftp, Place::Azure] {
        worlds.push(World::new(place).encrypted("AES-256-CFB").below("/base/of this"));
    }
    worlds
}

fn ours(world: &World, arguments: &[&str]) -> Outcome {
    world.call(Program::Ours, Program::Ours, arguments).run()
}

/// What a copy of a tree came to.
fn told(outcome: Outcome) -> [u64; 4] {
    let told: Value = serde_json::from_slice(&outcome.good()).expect("JSON");
    ["copied", "same", "removed", "failed"].map(|name| told[name].as_u64().expect("a number"))
}

fn put(path: &Path, content: &[u8], age: Duration) {
    fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
    fs::write(path, content).expect("written");
    let time = SystemTime::now() - age;
    fs::File::options().write(true).open(path).expect("there").set_modified(time).expect("set");
}

const DAY: Duration = Duration::from_secs(86_400);

/// A tree of four files.
fn source(world: &World) -> BTreeMap<String, Vec<u8>> {
    let files: BTreeMap<String, Vec<u8>> = [
        ("a".to_owned(), b"one".to_vec()),
        ("d/ü b.tar".to_owned(), random_bytes(3, 70_000)),
        ("d/e/empty".to_owned(), Vec::new()),
        ("d/e/long".to_owned(), random_bytes(4, (17 << 20) + 5)),
    ]
    .into();
    for (name, content) in &files {
        put(&world.local("src").join(name), content, DAY);
    }
    files
}

fn files_below(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.expect("readable");
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(root).expect("below").to_string_lossy();
            found.insert(name.into_owned(), fs::read(entry.path()).expect("read"));
        }
    }
    found
}

#[test]
fn trees_go_into_every_storage_and_out_of_it_and_what_is_the_same_does_not_move() {
    for world in worlds() {
        let shown = format!("{:?} {:?}", world.place, world.encryption);
        let files = source(&world);
        let push = || ours(&world, &["push", "-r", "--json", "src", "/t/x"]);
        assert_eq!(told(push()), [4, 0, 0, 0], "{shown}");
        for (name, content) in &files {
            let name = format!("t/x/{name}");
            let call = world.call(Program::Real, Program::Ours, ["pull", &name, "-"]);
            assert!(call.run().good() == *content, "{shown} {name}");
        }
        // This server has no command that sets a time: what is there was changed later, as far as it tells.
        let keeps_times = world.place != Place::OldFtp;
        if keeps_times {
            assert_eq!(told(push()), [0, 4, 0, 0], "{shown}");
            put(&world.local("src/a"), b"two", DAY / 2);
            assert_eq!(told(push()), [1, 3, 0, 0], "{shown}");
            assert_eq!(ours(&world, &["cat", "/t/x/a"]).good(), b"two", "{shown}");
        }
        let pull = || ours(&world, &["pull", "--recursive", "--json", "t/x", "out"]);
        assert_eq!(told(pull()), [4, 0, 0, 0], "{shown}");
        assert!(files_below(&world.local("out")) == files_below(&world.local("src")), "{shown}");
        let time = |name: &str| {
            let found = fs::metadata(world.local(name)).expect("there");
            let time = found.modified().expect("a time").duration_since(SystemTime::UNIX_EPOCH);
            time.expect("after 1970").as_secs()
        };
        assert!(time("src/d/e/long") == time("out/d/e/long") || !keeps_times, "{shown}");
        let program = world.local("out/a");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o750)).expect("set");
        assert_eq!(told(pull()), [0, 4, 0, 0], "{shown}");
        // What replaces a file has its mode; a file that was changed here is not what is stored.
        put(&program, b"mine", DAY);
        assert_eq!(told(pull()), [1, 3, 0, 0], "{shown}");
        assert_eq!(fs::metadata(&program).expect("there").permissions().mode() & 0o777, 0o750);
        // Into a directory, by its own name.
        let into = ["pull", "-r", "--json", "t/x", "more/"];
        assert_eq!(told(ours(&world, &into)), [4, 0, 0, 0], "{shown}");
        assert!(world.local("more/x/d/e/empty").exists(), "{shown}");
        assert_eq!(
            told(ours(&world, &["push", "-r", "--json", "src", "t/"])),
            [4, 0, 0, 0],
            "{shown}"
        );
        assert_eq!(ours(&world, &["cat", "t/src/d/e/empty"]).good(), b"", "{shown}");
    }
}

#[test]
fn a_mirror_removes_what_the_source_does_not_have_and_nothing_of_others() {
    for world in worlds() {
        let shown = format!("{:?} {:?}", world.place, world.encryption);
        source(&world);
        put(&world.local("src/gone/one"), b"1", DAY);
        put(&world.local("src/gone/two"), b"2", DAY);
        ours(&world, &["push", "-r", "src", "t"]).good();
        ours(&world, &["push", "src/a", "beside"]).good();
        if world.encryption.is_some() {
            // What is not in datasafed's form is not seen, nor removed.
            let plain = world.bare(
                Program::Ours,
                Program::Ours,
                &["push", "src/a", "/base/of this/t/gone/plain"],
            );
            plain.run().good();
        }
        fs::remove_dir_all(world.local("src/gone")).expect("removed");
        let sync = |more: &[&str]| {
            ours(&world, &[&["sync", "--push", "--delete"], more, &["src", "t"]].concat())
        };
        let dry = sync(&["--dry-run"]).text();
        let is_told = match world.place {
            Place::OldFtp => dry.ends_with("\nremove gone/\n"),
            _ => dry == "remove gone/\n",
        };
        assert!(is_told, "{shown}: {dry}");
        let [_, _, removed, failed] = told(sync(&["--json"]));
        assert_eq!((removed, failed), (1, 0), "{shown}");
        let list = ours(&world, &["list", "-r", "-f", "/"]).good();
        let mut names: Vec<&str> = std::str::from_utf8(&list).expect("text").lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["beside", "t/a", "t/d/e/empty", "t/d/e/long", "t/d/ü b.tar"], "{shown}");
        if world.encryption.is_some() {
            let plain =
                world.bare(Program::Ours, Program::Ours, &["cat", "/base/of this/t/gone/plain"]);
            assert_eq!(plain.run().good(), b"one", "{shown}");
        }
        put(&world.local("back/d/other"), b"goes", DAY);
        let back = ["sync", "--pull", "--delete", "--json", "t", "back"];
        assert_eq!(told(ours(&world, &back)), [4, 0, 1, 0], "{shown}");
        assert!(files_below(&world.local("back")) == files_below(&world.local("src")), "{shown}");
        // However the target is written.
        let again = ["sync", "--pull", "--delete", "--json", "t", "back/"];
        assert_eq!(told(ours(&world, &again)), [0, 4, 0, 0], "{shown}");
        if world.place != Place::OldFtp {
            let again = ["sync", "--push", "--delete", "--json", "src", "/t/"];
            let [copied, same, _, failed] = told(ours(&world, &again));
            assert_eq!([copied, same, failed], [0, 4, 0], "{shown}");
        }
        // An empty source is a mistake.
        fs::create_dir(world.local("nothing")).expect("made");
        let empty = ours(&world, &["sync", "--push", "--delete", "nothing", "t"]);
        empty.bad(&["source is empty"]);
        assert_eq!(ours(&world, &["cat", "t/a"]).good(), b"one", "{shown}");
        ours(&world, &["sync", "src", "t"]).bad(&["--push", "--pull"]);
    }
}

#[test]
fn files_and_directories_are_copied_renamed_and_counted_within_every_storage() {
    for world in worlds() {
        let shown = format!("{:?} {:?}", world.place, world.encryption);
        let files = source(&world);
        ours(&world, &["push", "-r", "src", "t"]).good();
        let cat = |name: &str| ours(&world, &["cat", name]);
        ours(&world, &["cp", "t/d/e/long", "copies/of/long"]).good();
        assert!(cat("copies/of/long").good() == files["d/e/long"], "{shown}");
        // Over what is there; into a directory that is there, or is to be.
        ours(&world, &["cp", "t/a", "copies/of/long"]).good();
        assert_eq!(cat("/copies/of/long").good(), b"one", "{shown}");
        ours(&world, &["cp", "t/a", "copies/of"]).good();
        ours(&world, &["cp", "t/a", "copies/new/"]).good();
        assert_eq!(cat("copies/of/a").good(), b"one", "{shown}");
        assert_eq!(cat("copies/new/a").good(), b"one", "{shown}");
        ours(&world, &["mv", "copies/new/a", "copies/of/b"]).good();
        cat("copies/new/a").bad(&["object not found"]);
        assert_eq!(cat("copies/of/b").good(), b"one", "{shown}");
        let tree = ["cp", "-r", "--json", "t", "second/t"];
        assert_eq!(told(ours(&world, &tree)), [4, 0, 0, 0], "{shown}");
        if !world.place.is_ftp() {
            assert_eq!(told(ours(&world, &tree)), [0, 4, 0, 0], "{shown}");
        }
        ours(&world, &["mv", "second/t", "third"]).good();
        for (name, content) in &files {
            let name = format!("third/{name}");
            let call = world.call(Program::Real, Program::Ours, ["pull", &name, "-"]);
            assert!(call.run().good() == *content, "{shown} {name}");
        }
        let gone = ours(&world, &["tree", "second/t"]);
        gone.bad(&["second/t"]);
        let drawn = ours(&world, &["tree", "third"]).text();
        let expected = "third\n├── a\n└── d/\n    ├── e/\n    │   ├── empty\n    │   └── long\n    └── ü b.tar\n\n2 directories, 4 files\n";
        assert_eq!(drawn, expected, "{shown}");
        let sizes = ours(&world, &["du", "third"]).text();
        let long = (17 << 20) + 5;
        let expected = format!("{long}\td/e\n{}\td\n{}\t.\n", long + 70_000, long + 70_003);
        assert_eq!(sizes, expected, "{shown}");
        let sum = ours(&world, &["du", "-s", "--json", "third"]).good();
        let sum: Value = serde_json::from_slice(&sum).expect("JSON");
        assert_eq!((&sum[0]["bytes"], &sum[0]["files"]), (&(long + 70_003).into(), &4.into()));
        ours(&world, &["cp", "t/nothing", "x"]).bad(&["t/nothing", "no such file"]);
        ours(&world, &["cp", "t", "x"]).bad(&["-r"]);
        ours(&world, &["mv", "t", "t/d/t"]).bad(&["lies inside"]);
        ours(&world, &["cp", "t/a", "t/a"]).bad(&["the same"]);
        ours(&world, &["mv", "t", "third/a"]).bad(&["is a file"]);
        // Of what is there another thing is not lost; what was moved already is no other thing.
        ours(&world, &["cp", "t/d/ü b.tar", "fourth/a"]).good();
        ours(&world, &["mv", "t", "fourth"]).bad(&["fourth", "another \"a\""]);
        ours(&world, &["mv", "fourth/a", "fourth/b"]).good();
        ours(&world, &["mv", "t/d/e", "fourth/d/e"]).good();
        ours(&world, &["mv", "t", "fourth"]).good();
        let sizes = ours(&world, &["du", "-s", "fourth"]).text();
        assert_eq!(sizes, format!("{}\t.\n", long + 140_003), "{shown}");
        ours(&world, &["du", "no/where"]).bad(&["no/where"]);
        ours(&world, &["push", "--dry-run", "src/a", "x"]).bad(&["--dry-run", "-r"]);
    }
}

#[test]
fn a_bucket_copies_by_itself_with_all_that_is_beside_a_file() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let world = World::new(Place::Bucket).encrypted("AES-256-CFB");
    fs::write(world.local("src"), random_bytes(1, 100_000)).expect("written");
    ours(&world, &["push", "src", "x"]).good();
    ours(&world, &["cp", "x", "y"]).good();
    let (x, y) = runtime.block_on(async {
        let store = bucket(&world, Program::Ours).await;
        let read = async |name: &str| {
            let key = Key::new(name.to_owned()).expect("a key");
            match store.get(&key, None, None).await.expect("there") {
                strongroom::store::Fetched::Object(object) => object.body.bytes(),
                strongroom::store::Fetched::Unchanged => panic!("nothing to compare with"),
            }
        };
        (read("x.enc").await, read("y.enc").await)
    });
    // Enciphered anew it would be another stream.
    assert!(x == y);
    let call = world.call(Program::Ours, Program::Ours, ["cat", "y"]);
    let outcome = call.envs([("DATASAFED_ENCRYPTION_PASS_PHRASE", "another")]).run();
    outcome.bad(&["passphrase"]);
}

#[test]
fn what_a_storage_has_no_place_for_is_told_and_the_rest_is_stored() {
    let world = World::new(Place::Bucket);
    source(&world);
    symlink("a", world.local("src/link")).expect("made");
    let outcome = ours(&world, &["push", "-r", "src", "t"]);
    assert_eq!(outcome.code, Some(1));
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("Error: t/link: is a symbolic link"), "{lines:?}");
    assert!(lines[1].starts_with("Error: not everything was copied"), "{lines:?}");
    assert_eq!(ours(&world, &["list", "-r", "-f", "t"]).text().lines().count(), 4);
}

#[test]
fn links_in_a_local_tree_are_not_followed_out_of_it() {
    let world = World::new(Place::Directory);
    source(&world);
    ours(&world, &["push", "-r", "src", "t"]).good();
    fs::create_dir_all(world.local("elsewhere")).expect("made");
    fs::create_dir_all(world.local("out")).expect("made");
    symlink(world.local("elsewhere"), world.local("out/d")).expect("made");
    put(&world.local("victim"), b"mine", DAY);
    symlink(world.local("victim"), world.local("out/a")).expect("made");
    let outcome = ours(&world, &["pull", "-r", "t", "out"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("Error: d: is no directory at"), "{}", outcome.stderr);
    assert!(fs::read_dir(world.local("elsewhere")).expect("there").next().is_none());
    // A link is replaced, not written through.
    assert_eq!(fs::read(world.local("victim")).expect("there"), b"mine");
    assert_eq!(fs::read(world.local("out/a")).expect("there"), b"one");
    // The storage and a tree do not lie in each other.
    let root = world.directory(Program::Ours);
    let root = root.to_str().expect("text");
    ours(&world, &["push", "-r", root, "again"]).bad(&["storage itself"]);
    ours(&world, &["pull", "-r", "t", &format!("{root}/t/d/out")]).bad(&["storage itself"]);
}
