//! What a side has in its place: every file, read without either program.

use crate::programs::Program;
use crate::worlds::{Place, World, bucket};
use std::collections::BTreeMap;
use strongroom::store::{Fetched, FileStore, ListRequest, Store, list_all};

/// The files of a side: path, and the bytes; for encrypted ones nothing but how many.
pub(crate) fn files(world: &World, side: Program) -> BTreeMap<String, Vec<u8>> {
    let mut files = match world.place {
        Place::Directory | Place::Mounted | Place::Ftp | Place::OldFtp => in_directory(world, side),
        Place::Azure | Place::Google => by_the_original(world, side),
        Place::Bucket | Place::Prefix => in_bucket(world, side),
    };
    if world.encryption.is_some() {
        for (path, bytes) in &mut files {
            if path.ends_with(".enc") {
                *bytes = bytes.len().to_string().into_bytes();
            }
        }
    }
    files
}

fn in_directory(world: &World, side: Program) -> BTreeMap<String, Vec<u8>> {
    let root = world.directory(side);
    let mut files = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&root).min_depth(1) {
        let entry = entry.expect("readable");
        let path = entry.path().strip_prefix(&root).expect("below").to_string_lossy().into_owned();
        if entry.file_type().is_dir() {
            files.insert(format!("{path}/"), Vec::new());
        } else {
            files.insert(path, std::fs::read(entry.path()).expect("read"));
        }
    }
    files
}

/// Where nothing but the two programs can read: by the original, as the files lie there.
fn by_the_original(world: &World, side: Program) -> BTreeMap<String, Vec<u8>> {
    let list = world.bare(Program::Real, side, &["list", "-r", "-f", "/"]).run();
    let read = |path: &str| world.bare(Program::Real, side, &["pull", path, "-"]).run().good();
    let list = String::from_utf8(list.good()).expect("names are text");
    list.lines().map(|path| (path.to_owned(), read(path))).collect()
}

fn in_bucket(world: &World, side: Program) -> BTreeMap<String, Vec<u8>> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = bucket(world, side).await;
        let (objects, _) = list_all(&store, ListRequest::default()).await.expect("listed");
        let mut files = BTreeMap::new();
        for object in objects {
            let Ok(Fetched::Object(whole)) = store.get(&object.key, None, None).await else {
                panic!("{} cannot be read", object.key);
            };
            let (_, headers) = store.head_file(&object.key).await.expect("there");
            let told = headers.metadata.get("mtime").expect("a file has its time");
            let seconds = told.split('.').next().map(str::parse::<u64>);
            assert!(matches!(seconds, Some(Ok(1_700_000_000..))), "{told}");
            files.insert(object.key.as_str().to_owned(), whole.body.bytes().to_vec());
        }
        files
    })
}
