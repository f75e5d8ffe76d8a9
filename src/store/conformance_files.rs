//! What every store of files must pass: the contract of [`FileStore`], tried on a store that is given.
//! It works under `conformance-files/` and removes what it made.

use super::files::CopySource;
use super::{
    Fetched, FileStore, Headers, Key, ListRequest, Part, PartCheck, PartsFrom, Store, StoreError,
    StoreErrorKind, Upload, Version, list_all,
};
use crate::units::ByteRange;
use bytes::Bytes;
use futures::future::join_all;

/// All keys of a run begin with this.
const ROOT: &str = "conformance-files/";
/// The least size of a part that is not the last.
const PART: usize = 5 << 20;

/// Tries everything; where the store keeps versions, those too. Says where the store breaks the contract.
pub async fn run(store: &dyn Store, files: &dyn FileStore) -> Result<(), String> {
    let made = [
        headers(store, files).await,
        parts(store, files).await,
        given_up(store, files).await,
        copies(store, files).await,
        versions(store, files).await,
    ];
    clean_up(store, files).await.map_err(|error| error.to_string())?;
    made.into_iter().collect::<Result<Vec<()>, String>>().map(drop)
}

/// Headers come back as they went, of objects in one piece and in parts, and none are invented.
async fn headers(store: &dyn Store, files: &dyn FileStore) -> Result<(), String> {
    let key = key("headers")?;
    let metadata = [("mtime", "1700000000.123456789"), ("mode", "33188"), ("x-y", "a b")];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let given = Headers { content_type: Some("text/plain".to_owned()), metadata };
    let etag = ok(files.put_file(&key, Bytes::from_static(b"content"), &given).await)?;
    let (meta, found) = ok(files.head_file(&key).await)?;
    ensure(found == given, || format!("headers: found {found:?}"))?;
    ensure(meta.etag == etag && meta.size == 7, || format!("meta data: found {meta:?}"))?;
    ensure(content(store, &key).await? == b"content"[..], || "another content".to_owned())?;
    ok(files.put_file(&key, Bytes::new(), &Headers::default()).await)?;
    let (meta, found) = ok(files.head_file(&key).await)?;
    ensure(meta.size == 0 && found.metadata.is_empty(), || format!("kept {found:?}"))?;
    let missing = files.head_file(&self::key("missing")?).await;
    ensure(is_missing(&missing), || format!("a missing file: {missing:?}"))
}

/// Parts in any order and at once, one of them twice, make the object at the end and not before.
async fn parts(store: &dyn Store, files: &dyn FileStore) -> Result<(), String> {
    let key = key("parts")?;
    ok(files.put_file(&key, Bytes::from_static(b"the former one"), &Headers::default()).await)?;
    let given = Headers {
        content_type: Some("application/gzip".to_owned()),
        metadata: [("mtime".to_owned(), "1.5".to_owned())].into(),
    };
    let upload = ok(files.begin_upload(&key, &given, PartsFrom::Here).await)?;
    let body = |number: u8, size| Bytes::from(vec![number; size]);
    ok(files.upload_part(&key, &upload, 2, body(9, PART).into()).await)?;
    let sizes = [(3, 17), (1, PART), (2, PART)];
    let sent = sizes.map(|(number, size)| {
        let body = body(u8::try_from(number).unwrap_or_default(), size);
        files.upload_part(&key, &upload, number, body.into())
    });
    let sent: Vec<Part> = ok(join_all(sent).await.into_iter().collect())?;
    ensure(content(store, &key).await? == b"the former one"[..], || {
        "an upload is seen before it is completed".to_owned()
    })?;
    let order = [&sent[1], &sent[2], &sent[0]].map(Clone::clone);
    let completed = ok(files.complete_upload(&key, &upload, &order).await)?;
    let expected = [body(1, PART), body(2, PART), body(3, 17)].concat();
    ensure(content(store, &key).await? == expected, || "other parts".to_owned())?;
    let (meta, found) = ok(files.head_file(&key).await)?;
    ensure(meta.etag == completed, || format!("two marks: {:?}, {completed:?}", meta.etag))?;
    ensure(found == given && meta.size == expected.len() as u64, || {
        format!("headers of parts: found {found:?}")
    })
}

/// An upload that was given up is no more, and changed nothing; giving it up twice is no error.
async fn given_up(store: &dyn Store, files: &dyn FileStore) -> Result<(), String> {
    let key = key("given up")?;
    let upload = ok(files.begin_upload(&key, &Headers::default(), PartsFrom::Here).await)?;
    let part = ok(files.upload_part(&key, &upload, 1, Bytes::from_static(b"x").into()).await)?;
    ok(files.abort_upload(&key, &upload).await)?;
    ok(files.abort_upload(&key, &upload).await)?;
    for gone in [upload, Upload { id: "never-begun".to_owned(), check: PartCheck::Md5 }] {
        let completed = files.complete_upload(&key, &gone, std::slice::from_ref(&part)).await;
        ensure(is_missing(&completed), || format!("an upload that is no more: {completed:?}"))?;
    }
    let found = store.head(&key).await;
    ensure(is_missing(&found), || format!("an upload that was given up: {found:?}"))
}

/// A copy has the other's bytes, and its headers unless it is given some; also an object's copy of itself, and
/// one that is made of ranges. What was replaced meanwhile is not copied.
async fn copies(store: &dyn Store, files: &dyn FileStore) -> Result<(), String> {
    let (from, to) = (key("copied % +é?&/from")?, key("copied/to")?);
    let headers = |mode: &str| Headers {
        content_type: Some("application/pdf".to_owned()),
        metadata: [("mode".to_owned(), mode.to_owned())].into(),
    };
    let body = Bytes::from((0..PART + 1000).map(|index| index as u8).collect::<Vec<_>>());
    let etag = ok(files.put_file(&from, body.clone(), &headers("1")).await)?;
    let source = CopySource { key: &from, etag: &etag, size: body.len() as u64 };
    ok(files.copy_file(source, &to, None).await)?;
    ensure(content(store, &to).await? == body, || "another content".to_owned())?;
    let (_, found) = ok(files.head_file(&to).await)?;
    ensure(found == headers("1"), || format!("a copy's headers: {found:?}"))?;
    let copied = ok(files.copy_file(source, &to, Some(&headers("2"))).await)?;
    let (meta, found) = ok(files.head_file(&to).await)?;
    ensure(found == headers("2") && meta.etag == copied, || format!("given headers: {found:?}"))?;
    let itself = CopySource { key: &to, etag: &copied, size: body.len() as u64 };
    let changed = ok(files.copy_file(itself, &to, Some(&headers("3"))).await)?;
    let (meta, found) = ok(files.head_file(&to).await)?;
    ensure(found == headers("3") && meta.etag == changed, || format!("of itself: {found:?}"))?;
    let upload = ok(files.begin_upload(&to, &headers("4"), PartsFrom::Store).await)?;
    let split = PART as u64;
    let ranges = [ByteRange::new(0, split), ByteRange::new(split, 1000)];
    let parts = [(1, ranges[0]), (2, ranges[1])]
        .map(|(number, range)| files.copy_part(source, range, (&to, &upload), number));
    let parts: Vec<Part> = ok(join_all(parts).await.into_iter().collect())?;
    ok(files.complete_upload(&to, &upload, &parts).await)?;
    ensure(content(store, &to).await? == body, || "of ranges: another content".to_owned())?;
    ok(files.put_file(&from, Bytes::from_static(b"another"), &Headers::default()).await)?;
    let stale = files.copy_file(source, &to, None).await;
    let is_refused = |error: &StoreError| error.kind == StoreErrorKind::PreconditionFailed;
    ensure(stale.as_ref().is_err_and(is_refused), || format!("copied though replaced: {stale:?}"))?;
    ok(store.delete(&from, None).await)?;
    let gone = files.copy_file(source, &to, None).await;
    ensure(is_missing(&gone), || format!("copied though removed: {gone:?}"))
}

/// Where versions are kept, all of them are told, and gone when they are deleted.
async fn versions(store: &dyn Store, files: &dyn FileStore) -> Result<(), String> {
    let prefix = format!("{ROOT}versions/");
    let keeps = ok(files.keeps_versions().await)?;
    let key = key("versions/x")?;
    for content in [&b"1"[..], b"2"] {
        ok(files.put_file(&key, Bytes::copy_from_slice(content), &Headers::default()).await)?;
    }
    ok(store.delete(&key, None).await)?;
    let found = ok(files.versions(&prefix).await)?;
    if !keeps {
        return ensure(found.is_empty(), || format!("versions that are not kept: {found:?}"));
    }
    let of_key = |version: &Version| version.key == key;
    ensure(found.len() == 3 && found.iter().all(of_key), || format!("versions: {found:?}"))?;
    let failed = ok(files.delete_versions(&found).await)?;
    ensure(failed.is_empty(), || format!("not deleted: {failed:?}"))?;
    let left = ok(files.versions(&prefix).await)?;
    ensure(left.is_empty(), || format!("versions left: {left:?}"))
}

async fn clean_up(store: &dyn Store, files: &dyn FileStore) -> Result<(), StoreError> {
    let request = ListRequest { prefix: ROOT.to_owned(), ..ListRequest::default() };
    let (objects, _) = list_all(store, request).await?;
    let keys: Vec<Key> = objects.into_iter().map(|meta| meta.key).collect();
    store.delete_many(&keys).await?;
    let versions = files.versions(ROOT).await?;
    files.delete_versions(&versions).await.map(drop)
}

async fn content(store: &dyn Store, key: &Key) -> Result<Bytes, String> {
    match ok(store.get(key, None, None).await)? {
        Fetched::Object(object) => Ok(object.body.bytes()),
        Fetched::Unchanged => Err(format!("{key}: unchanged without a condition")),
    }
}

fn is_missing<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(error) if error.kind == StoreErrorKind::NotFound)
}

fn key(name: &str) -> Result<Key, String> {
    Key::new(format!("{ROOT}{name}")).ok_or_else(|| format!("no key: {name}"))
}

fn ok<T>(result: Result<T, StoreError>) -> Result<T, String> {
    result.map_err(|error| format!("unexpected error: {error}"))
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
