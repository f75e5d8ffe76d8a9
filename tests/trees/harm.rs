//! What must not happen: to other files, outside of the target, to the store itself.

use crate::support::{self, Backend, Volume, on_every_backend, random_bytes};
use crate::{json, look, push, text};
use std::fs;

on_every_backend![
    a_damaged_file_keeps_no_other_from_coming_back,
    what_other_names_a_file_has_keep_what_they_have,
    long_names_in_one_directory_do_not_meet,
    names_that_lead_elsewhere_are_not_followed,
    a_volumes_own_objects_are_no_tree,
    a_file_of_very_many_extents_is_copied_like_others,
];

fn a_damaged_file_keeps_no_other_from_coming_back(backend: Backend) {
    // Its objects can be reached only there.
    if backend == Backend::Minio {
        return;
    }
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    fs::create_dir(&source).expect("made");
    for index in 0..20 {
        fs::write(source.join(format!("{index:02}")), random_bytes(index, 200_000))
            .expect("written");
    }
    volume.tool(["push", "-r", text(&source), &volume.at("copy")]).succeeded();
    let segment = support::objects(&volume, "d").pop().expect("a segment");
    let mut bytes = fs::read(&segment).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).expect("written");
    volume.tool(["sync", &volume.at("copy"), text(&back)]).failed_saying(&["damaged", "copy/"]);
    let (whole, came) = (look(&source), look(&back));
    assert_eq!(came.len(), 20, "with the directory itself, and no half file");
    assert!(came.iter().all(|(path, what)| whole[path] == *what));
    // What is only here stays, since not everything could be copied.
    fs::write(back.join("only here"), "kept").expect("written");
    let output = volume.tool(["sync", "--delete", &volume.at("copy"), text(&back)]).output;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("damaged") && said.contains("nothing else is removed"), "{said}");
    assert_eq!(fs::read(back.join("only here")).expect("read"), b"kept");
}

fn what_other_names_a_file_has_keep_what_they_have(backend: Backend) {
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    fs::create_dir(&source).expect("made");
    let files = [("a", random_bytes(1, 200_000)), ("b", random_bytes(2, 200_000))];
    for (name, bytes) in &files {
        fs::write(source.join(name), bytes).expect("written");
    }
    let mount = volume.mount();
    fs::create_dir(mount.join("copy")).expect("made");
    fs::write(mount.join("copy/a"), "one file").expect("written");
    for name in ["copy/b", "snapshot"] {
        fs::hard_link(mount.join("copy/a"), mount.join(name)).expect("linked");
    }
    mount.unmount();
    volume.tool(["sync", text(&source), &volume.at("copy")]).succeeded();
    volume.tool(["sync", &volume.at("copy"), text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
    assert_eq!(volume.tool(["cat", &volume.at("snapshot")]).succeeded(), "one file");
    assert_eq!(
        json(&volume.tool(["stat", &volume.at("snapshot"), "--json"]).succeeded())["links"],
        1
    );
    volume.tool(["verify", &volume.url]).succeeded();
}

fn long_names_in_one_directory_do_not_meet(backend: Backend) {
    let volume = Volume::new(backend);
    let (source, back) = (volume.local("source"), volume.local("back"));
    fs::create_dir(&source).expect("made");
    for index in 0..8 {
        let name = format!("{}{index}", "x".repeat(254));
        fs::write(source.join(name), random_bytes(index, 3_000_000)).expect("written");
    }
    volume.tool(["push", "-r", text(&source), &volume.at("copy")]).succeeded();
    volume.tool(["pull", "-r", &volume.at("copy"), text(&back)]).succeeded();
    assert_eq!(look(&back), look(&source));
}

/// Where the store can be written to by others, they must not be able to write outside of the target.
fn names_that_lead_elsewhere_are_not_followed(backend: Backend) {
    if backend == Backend::Minio {
        return;
    }
    let volume = Volume::with_suite(backend, "none");
    push(&volume, "tree/file", b"harmless");
    let entry = support::objects(&volume, "t")
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name == "file"))
        .expect("its entry");
    for name in ["%2E%2E%2F%2E%2E%2Fescaped", "%2E%2E", "a%2Fb"] {
        fs::copy(&entry, entry.with_file_name(name)).expect("copied");
    }
    let target = volume.local("outer/inner/target");
    fs::create_dir_all(target.parent().expect("a directory")).expect("made");
    // Whether the names are told as failures or left out, they do nothing.
    let _ = volume.tool(["pull", "-r", &volume.at("tree"), text(&target)]);
    let found: Vec<String> = support::files_below(&volume.local("outer"))
        .iter()
        .map(|path| text(path.strip_prefix(volume.local("outer")).expect("below")).to_owned())
        .collect();
    assert_eq!(found, ["inner/target/file"]);
}

/// A directory that holds a volume is no tree of files to copy.
fn a_volumes_own_objects_are_no_tree(backend: Backend) {
    if backend == Backend::Minio {
        return;
    }
    let volume = Volume::new(backend);
    push(&volume, "dir/file", b"kept");
    let store = volume.store();
    let around = store.parent().expect("a directory");
    for (from, to) in [
        (volume.at("dir"), text(&store).to_owned()),
        (volume.at("dir"), text(&store.join("deep/er")).to_owned()),
        (volume.url.clone(), text(around).to_owned()),
        (text(&store).to_owned(), volume.at("dir")),
        (text(around).to_owned(), volume.at("new")),
    ] {
        let run = volume.tool(["sync", "--delete", &from, &to]);
        run.failed_saying(&["objects", "must not lie in the other"]);
    }
    let run = volume.tool(["pull", "-r", &volume.at("dir"), text(&store)]);
    run.failed_saying(&["must not lie in the other"]);
    assert_eq!(volume.tool(["cat", &volume.at("dir/file")]).succeeded(), "kept");
}

/// More than its record holds, so that they are in pages of their own.
fn a_file_of_very_many_extents_is_copied_like_others(backend: Backend) {
    use std::os::unix::fs::FileExt;
    const EXTENTS: u64 = 2500;
    let volume = Volume::new(backend);
    let mount = volume.mount();
    let file = fs::File::create(mount.join("scattered")).expect("made");
    for number in 0..EXTENTS {
        file.write_all_at(&random_bytes(number, 4096), number * 8192).expect("written");
    }
    drop(file);
    let bytes = fs::read(mount.join("scattered")).expect("read");
    mount.unmount();
    volume.tool(["cp", &volume.at("scattered"), &volume.at("copy")]).succeeded();
    volume.tool(["cp", &volume.at("copy"), &volume.at("copy of the copy")]).succeeded();
    volume.tool(["rm", &volume.at("scattered")]).succeeded();
    for name in ["copy", "copy of the copy"] {
        let found = volume.tool(["cat", &volume.at(name)]).succeeded_with_bytes();
        assert!(found == bytes, "{name}");
    }
    volume.tool(["ls", "-l", &volume.url]).succeeded();
    volume.tool(["verify", &volume.url]).succeeded();
    volume.tool(["gc", &volume.url]).succeeded();
    // The copies change without the data that they share.
    let mount = volume.mount();
    let copy = fs::OpenOptions::new().write(true).open(mount.join("copy")).expect("opened");
    copy.write_all_at(b"changed", 12_345).expect("written");
    drop(copy);
    mount.unmount();
    let other = volume.tool(["cat", &volume.at("copy of the copy")]).succeeded_with_bytes();
    assert!(other == bytes);
    let changed = volume.tool(["cat", &volume.at("copy")]).succeeded_with_bytes();
    assert_eq!(&changed[12_345..12_352], b"changed");
}
