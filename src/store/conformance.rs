//! What every store must pass: the contract of [`crate::store`], tried on a store that is given. It
//! works under `conformance/` and removes what it made. Not a test by itself, so that a program may
//! run it against a bucket, too.

use super::{
    Capabilities, ETag, Fetched, KEY_LIMIT, Key, ListRequest, Object, PutWhen, Store, StoreError,
    StoreErrorKind, list_all, probe,
};
use crate::units::ByteRange;
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// All keys of a run begin with this.
const ROOT: &str = "conformance/";
/// Requests that race each other.
const RACERS: usize = 8;

/// What a store is not asked for. By default everything is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Components of a key over 255 bytes (MinIO refuses them).
    pub long_components: bool,
    /// `.`, `..` and empty components, and a slash at the end (MinIO refuses them).
    pub odd_components: bool,
    /// ASCII's control characters (not expressible in XML 1.0, in which S3 lists).
    pub control_characters: bool,
    /// Keys `a` and `a/b` at the same time.
    pub nested_keys: bool,
    /// The longest key in bytes.
    pub key_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            long_components: true,
            odd_components: true,
            control_characters: true,
            nested_keys: true,
            key_limit: KEY_LIMIT,
        }
    }
}

/// Where a store breaks the contract: one line for each case that failed.
#[derive(Debug, thiserror::Error)]
#[error("store breaks the contract: {}", .0.join("; "))]
pub struct Violations(pub Vec<String>);

/// Tries everything; `expect` is what [`probe`] must find.
pub async fn run(
    store: Arc<dyn Store>,
    expect: Capabilities,
    options: &Options,
) -> Result<(), Violations> {
    let mut violations = Vec::new();
    let mut note = |case: &str, result: Result<(), Violation>| {
        violations.extend(result.err().map(|Violation(what)| format!("{case}: {what}")));
    };
    // What an earlier run left behind would be in the way.
    note("clean up before", remove_all(&*store).await);
    note("keys", keys(&*store, options).await);
    note("listing", listing(&*store, options).await);
    note("bodies and ranges", bodies(&*store).await);
    note("overwriting", overwriting(&*store).await);
    note("whole objects", whole_objects(&store).await);
    note("conditions", conditions(&*store, expect).await);
    note("races", races(&store, expect).await);
    note("deletion", deletion(&*store).await);
    note("probe", probed(&*store, expect).await);
    note("clean up", remove_all(&*store).await);
    if violations.is_empty() { Ok(()) } else { Err(Violations(violations)) }
}

struct Violation(String);

impl From<StoreError> for Violation {
    fn from(error: StoreError) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(what())) }
}

fn equal<T: PartialEq + fmt::Debug>(found: &T, wanted: &T, what: &str) -> Result<(), Violation> {
    ensure(found == wanted, || format!("{what}: found {found:?}, wanted {wanted:?}"))
}

fn key(text: impl fmt::Display) -> Result<Key, Violation> {
    let text = format!("{ROOT}{text}");
    Key::new(text.as_str()).ok_or_else(|| Violation(format!("no key: {text}")))
}

async fn get(store: &dyn Store, key: &Key) -> Result<Object, Violation> {
    match store.get(key, None, None).await? {
        Fetched::Object(object) => Ok(object),
        Fetched::Unchanged => Err(Violation(format!("{key}: unchanged without a condition"))),
    }
}

fn refused<T: fmt::Debug>(
    result: Result<T, StoreError>,
    kinds: &[StoreErrorKind],
    what: &str,
) -> Result<(), Violation> {
    match result {
        Err(error) if kinds.contains(&error.kind) && !error.effect_unknown => Ok(()),
        other => Err(Violation(format!("{what}: wanted {kinds:?}, found {other:?}"))),
    }
}

async fn remove_all(store: &dyn Store) -> Result<(), Violation> {
    let request = ListRequest { prefix: ROOT.to_owned(), ..ListRequest::default() };
    let (objects, _) = list_all(store, request.clone()).await?;
    let keys: Vec<Key> = objects.into_iter().map(|meta| meta.key).collect();
    for some in keys.chunks(1000) {
        let failed = store.delete_many(some).await?;
        ensure(failed.is_empty(), || format!("not deleted: {failed:?}"))?;
    }
    let (left, _) = list_all(store, request).await?;
    equal(&left.len(), &0, "objects left after all were deleted")
}

/// Keys of every kind hold what was put there, apart from each other, and are listed as they are.
async fn keys(store: &dyn Store, options: &Options) -> Result<(), Violation> {
    let mut texts: Vec<String> = Vec::new();
    let characters = (0..128_u8).map(char::from).filter(|character| {
        *character != '/' && (options.control_characters || !character.is_control())
    });
    for character in characters {
        texts.push(format!("characters/a{character}b"));
        if options.odd_components || character != '.' {
            texts.push(format!("alone/{character}"));
        }
    }
    for text in ["é", "ﬀ", "e\u{301}", "日本語", "🦀", "\u{10FFFF}", "ÿ", "\u{80}", "ß/ẞ", "A", "a"]
    {
        texts.push(format!("characters/{text}"));
    }
    // Names that stores which keep files could take for their own.
    for text in ["%", "%2F", "%41", "a%", "a~", "a@", "~@", ".strongroom-store", "con", "tmp/1"] {
        texts.push(format!("reserved/{text}"));
    }
    if options.odd_components {
        for text in [".", "..", "a/./b", "a/../b", "a//b", "a///b", "/a", "a/", "/", "//", "..."] {
            texts.push(format!("odd/{text}"));
        }
    }
    if options.long_components {
        for length in [239, 240, 241, 242, 255, 256, 480, 481, 720, 900] {
            texts.push(format!("long/{}", "x".repeat(length)));
            texts.push(format!("long/{}/y", "z".repeat(length)));
        }
        // A store that cuts long names must not take a piece for something else.
        for tail in [".", "..", "...", ".strongroom-store", "./x", "%", "@", "~", "~/x"] {
            for length in [239, 240, 241] {
                texts.push(format!("tails/{}{tail}", "x".repeat(length)));
            }
        }
        texts.push(format!("long/{}", "é".repeat(400)));
        texts.push(format!("long/{}é{}", "x".repeat(237), "ÿ".repeat(200)));
        texts.push(format!("long/a{}", "日".repeat(250)));
    }
    if options.nested_keys {
        texts.extend(["nested/a", "nested/a/b", "nested/a/b/c", "nested/a.b"].map(str::to_owned));
    }
    let room = options.key_limit.saturating_sub(ROOT.len());
    let deep = "component-of-some-bytes/".repeat(KEY_LIMIT / 20);
    texts.push(deep[..room - 1].trim_end_matches('/').to_owned() + "!");
    texts.push("d/".repeat(KEY_LIMIT)[..room - 1].trim_end_matches('/').to_owned() + "!");
    // Odd lengths first make room for a character of two bytes at the very end.
    texts.push(format!("{}{}", "w/".repeat(room / 2 - 2), "é"));

    let keys: BTreeSet<Key> = texts.iter().map(key).collect::<Result<_, _>>()?;
    let body = |key: &Key| Bytes::from(format!("body of {}", key.as_str()));
    for some in keys.iter().collect::<Vec<_>>().chunks(32) {
        try_join_all(some.iter().map(|key| store.put(key, body(key), PutWhen::Always))).await?;
    }
    for key in &keys {
        let object = get(store, key).await?;
        equal(&object.body.bytes(), &body(key), &format!("body of {key:?}"))?;
        equal(&object.meta.key, key, "key of an object")?;
        equal(&store.head(key).await?.etag, &object.meta.etag, &format!("ETag of {key:?}"))?;
    }
    let request = ListRequest { prefix: ROOT.to_owned(), ..ListRequest::default() };
    let (listed, _) = list_all(store, request).await?;
    let listed: Vec<Key> = listed.into_iter().map(|meta| meta.key).collect();
    let wanted: Vec<Key> = keys.iter().cloned().collect();
    let odd = listed.iter().zip(&wanted).find(|(found, wanted)| found != wanted);
    ensure(listed == wanted, || {
        format!("{} keys listed, {} wanted; {odd:?} differ", listed.len(), wanted.len())
    })?;
    remove_all(store).await
}

/// Every combination of prefix, roll-up, start and limit gives what the contract says.
async fn listing(store: &dyn Store, options: &Options) -> Result<(), Violation> {
    let mut names = vec![
        "l/a",
        "l/a-b",
        "l/a0",
        "l/b/1",
        "l/b/2",
        "l/b/3/x",
        "l/b/3/y",
        "l/b!",
        "l/b0",
        "l/c/d/e/f",
        "l/d/1",
        "l/e",
        "l/zz/1",
        "l/é/1",
        "l/ÿ",
        "l2",
        "m/1",
        "m/2",
    ];
    if options.nested_keys {
        names.extend(["l/b", "l/d", "l/c/d"]);
    }
    if options.odd_components {
        names.extend(["l/b//x", "l/f/", "l/"]);
    }
    let mut all = BTreeMap::new();
    for (index, name) in names.into_iter().enumerate() {
        let key = key(name)?;
        let body = Bytes::from(vec![7; index]);
        let etag = store.put(&key, body, PutWhen::Always).await?;
        all.insert(key.as_str().to_owned(), (index as u64, etag));
    }
    for prefix in ["", "l", "l/", "l/b", "l/b/", "l/b/3", "l/c/d/", "l/d", "n", "l/é", "l/b/3/x"] {
        let prefix = format!("{ROOT}{prefix}");
        for roll_up in [false, true] {
            let rows: Vec<String> = rows(all.keys(), &prefix, roll_up);
            let mut starts: Vec<Option<String>> = rows.iter().cloned().map(Some).collect();
            starts.extend([None, Some(prefix.clone())]);
            for start_after in starts {
                let after = |row: &&String| start_after.as_ref().is_none_or(|start| *row > start);
                let wanted: Vec<String> = rows.iter().filter(after).cloned().collect();
                // Every page size where the listing begins; elsewhere one is enough.
                let limits: &[u32] = if start_after.is_none() { &[0, 1, 2, 3, 7] } else { &[0] };
                for &limit in limits {
                    let start_after = start_after.clone();
                    let request =
                        ListRequest { prefix: prefix.clone(), roll_up, start_after, limit };
                    pages(store, request, &wanted, &all).await?;
                }
            }
        }
    }
    remove_all(store).await
}

fn rows<'a>(keys: impl Iterator<Item = &'a String>, prefix: &str, roll_up: bool) -> Vec<String> {
    let mut rows: Vec<String> = keys
        .filter_map(|key| {
            let rest = key.strip_prefix(prefix)?;
            Some(match rest.find('/') {
                Some(slash) if roll_up => key[..=prefix.len() + slash].to_owned(),
                _ => key.clone(),
            })
        })
        .collect();
    rows.dedup();
    rows
}

async fn pages(
    store: &dyn Store,
    mut request: ListRequest,
    wanted: &[String],
    all: &BTreeMap<String, (u64, ETag)>,
) -> Result<(), Violation> {
    let first = format!("{request:?}");
    let mut found = Vec::new();
    loop {
        let page = store.list(&request).await?;
        let count = page.objects.len() + page.prefixes.len();
        ensure(request.limit == 0 || count <= request.limit as usize, || {
            format!("{first}: {count} rows in a page")
        })?;
        for meta in &page.objects {
            let known = all.get(meta.key.as_str());
            ensure(known == Some(&(meta.size, meta.etag.clone())), || {
                format!("{first}: size or ETag of {meta:?}, wanted {known:?}")
            })?;
        }
        let keys: Vec<&str> = page.objects.iter().map(|meta| meta.key.as_str()).collect();
        ensure(keys.is_sorted() && page.prefixes.is_sorted(), || format!("{first}: not in order"))?;
        let mut rows: Vec<String> = keys.into_iter().map(str::to_owned).collect();
        rows.extend(page.prefixes);
        rows.sort();
        found.extend(rows);
        match page.next {
            Some(next) if count == 0 => {
                return Err(Violation(format!("{first}: an empty page and more after {next}")));
            }
            Some(next) => request.start_after = Some(next),
            None => break,
        }
    }
    ensure(found == wanted, || format!("{first}: found {found:?}, wanted {wanted:?}"))
}

/// Bodies come back as they were; ranges end where the object ends.
async fn bodies(store: &dyn Store) -> Result<(), Violation> {
    let empty = key("bodies/empty")?;
    store.put(&empty, Bytes::new(), PutWhen::Always).await?;
    let object = get(store, &empty).await?;
    equal(&(object.meta.size, object.body.len()), &(0, 0), "an empty object")?;
    let whole = key("bodies/whole")?;
    let body: Bytes = (0..100_000_u32).map(|index| (index / 7) as u8).collect();
    let etag = store.put(&whole, body.clone(), PutWhen::Always).await?;
    let size = body.len() as u64;
    let ranges = [
        (0, size),
        (0, 1),
        (0, 0),
        (5, 0),
        (size - 1, 1),
        (size - 1, 100),
        (size, 0),
        (size, 1),
        (size + 1, 5),
        (size + 1_000_000, 7),
        (17, 70_000),
        (0, u64::MAX),
        (1, u64::MAX - 1),
    ];
    for (offset, length) in ranges {
        for (key, body) in [(&whole, &body), (&empty, &Bytes::new())] {
            let what = format!("{length} bytes from {offset} of {}", body.len());
            let range = Some(ByteRange::new(offset, length));
            let from = (offset as usize).min(body.len());
            let to = offset.saturating_add(length).min(body.len() as u64) as usize;
            match store.get(key, range, None).await? {
                Fetched::Object(object) => {
                    ensure(object.body.bytes() == body[from..to.max(from)], || {
                        format!("{what}: {} bytes came", object.body.len())
                    })?;
                    equal(&object.meta.size, &(body.len() as u64), &what)?;
                }
                Fetched::Unchanged => return Err(Violation(format!("{what}: unchanged"))),
            }
        }
    }
    let meta = store.head(&whole).await?;
    equal(&(meta.size, &meta.etag), &(size, &etag), "size and ETag by head")?;
    let missing = key("bodies/missing")?;
    let not_found = &[StoreErrorKind::NotFound];
    refused(store.get(&missing, None, None).await, not_found, "get of a missing key")?;
    let range = Some(ByteRange::new(1, 1));
    refused(store.get(&missing, range, None).await, not_found, "range of a missing key")?;
    refused(store.get(&missing, None, Some(&etag)).await, not_found, "conditional get of it")?;
    refused(store.head(&missing).await, not_found, "head of a missing key")
}

/// A later put replaces; the ETag tells.
async fn overwriting(store: &dyn Store) -> Result<(), Violation> {
    let key = key("overwriting/a")?;
    let mut etags = BTreeSet::new();
    let mut last = None;
    for round in 0..20_u8 {
        // The same length each time, so that the length cannot be what tells.
        let body = Bytes::from(vec![round; 10 + usize::from(round == 10)]);
        let etag = store.put(&key, body.clone(), PutWhen::Always).await?;
        let object = get(store, &key).await?;
        equal(&object.body.bytes(), &body, "body after an overwrite")?;
        equal(&object.meta.etag, &etag, "ETag that put returned")?;
        ensure(etags.insert(etag.0.clone()), || format!("{etag:?} stands for two contents"))?;
        match store.get(&key, None, Some(&etag)).await? {
            Fetched::Unchanged => {}
            Fetched::Object(_) => return Err(Violation("sent again though unchanged".to_owned())),
        }
        if let Some(last) = last
            && let Fetched::Unchanged = store.get(&key, None, Some(&last)).await?
        {
            return Err(Violation("said unchanged though changed".to_owned()));
        }
        last = Some(etag);
    }
    Ok(())
}

/// A reader sees one object or the other, never parts of both.
async fn whole_objects(store: &Arc<dyn Store>) -> Result<(), Violation> {
    const SIZE: usize = 200_000;
    let key = key("whole/a")?;
    let body = |round: usize| Bytes::from(vec![round as u8; SIZE + round]);
    store.put(&key, body(0), PutWhen::Always).await?;
    let (writer, written) = (store.clone(), key.clone());
    let writing = tokio::spawn(async move {
        for round in 1..40 {
            writer.put(&written, body(round), PutWhen::Always).await?;
        }
        Ok::<(), StoreError>(())
    });
    let mut last = 0;
    while last < 39 {
        let done = writing.is_finished();
        let object = get(&**store, &key).await?;
        let round = usize::from(object.body.bytes().first().copied().unwrap_or(u8::MAX));
        ensure(
            object.body.bytes() == body(round) && object.meta.size as usize == SIZE + round,
            || format!("{} bytes of round {round}: not one object", object.body.len()),
        )?;
        ensure(round >= last, || format!("round {round} after round {last}"))?;
        ensure(!done || round == 39, || format!("round {round} after the last put"))?;
        last = round;
    }
    writing.await.map_err(|error| Violation(error.to_string()))??;
    Ok(())
}

/// Conditions are honoured by the store where it says so.
async fn conditions(store: &dyn Store, expect: Capabilities) -> Result<(), Violation> {
    let Capabilities { if_absent, if_match, delete_if_match } = expect;
    let failed = &[StoreErrorKind::PreconditionFailed];
    let body = Bytes::from_static;
    let key = key("conditions/a")?;
    if if_absent {
        store.put(&key, body(b"1"), PutWhen::IfAbsent).await?;
        refused(store.put(&key, body(b"2"), PutWhen::IfAbsent).await, failed, "a second creation")?;
        equal(&get(store, &key).await?.body.bytes(), &body(b"1"), "body after a refused creation")?;
        store.delete(&key, None).await?;
        store.put(&key, body(b"3"), PutWhen::IfAbsent).await?;
        store.delete(&key, None).await?;
    }
    let first = store.put(&key, body(b"4"), PutWhen::Always).await?;
    if if_match {
        let second = store.put(&key, body(b"5"), PutWhen::IfMatch(first.clone())).await?;
        ensure(first != second, || "one ETag for two contents".to_owned())?;
        let stale = store.put(&key, body(b"6"), PutWhen::IfMatch(first.clone())).await;
        refused(stale, failed, "a put based on a former object")?;
        equal(&get(store, &key).await?.body.bytes(), &body(b"5"), "body after a refused put")?;
        store.delete(&key, None).await?;
        let gone = store.put(&key, body(b"7"), PutWhen::IfMatch(second)).await;
        let kinds = &[StoreErrorKind::PreconditionFailed, StoreErrorKind::NotFound];
        refused(gone, kinds, "a put based on a deleted object")?;
        refused(store.head(&key).await, &[StoreErrorKind::NotFound], "the deleted object")?;
        // The same bytes again: the former mark may come back only if the content is the same.
        store.put(&key, body(b"8"), PutWhen::Always).await?;
        let stale = store.put(&key, body(b"9"), PutWhen::IfMatch(first.clone())).await;
        refused(stale, failed, "a put based on an object of another life")?;
    }
    let current = store.put(&key, body(b"10"), PutWhen::Always).await?;
    if delete_if_match {
        refused(store.delete(&key, Some(&first)).await, failed, "a delete of a former object")?;
        equal(&get(store, &key).await?.body.bytes(), &body(b"10"), "body after a refused delete")?;
    }
    store.delete(&key, Some(&current)).await?;
    refused(store.head(&key).await, &[StoreErrorKind::NotFound], "the deleted object")
}

/// Of many that want the same, the store lets one win.
async fn races(store: &Arc<dyn Store>, expect: Capabilities) -> Result<(), Violation> {
    if expect.if_absent {
        for round in 0..10 {
            let key = key(format!("races/create/{round}/x"))?;
            let attempts = (0..RACERS).map(|racer| {
                let (store, key) = (store.clone(), key.clone());
                tokio::spawn(async move {
                    store.put(&key, Bytes::from(vec![racer as u8; 1000]), PutWhen::IfAbsent).await
                })
            });
            let mut winner = None;
            for (racer, attempt) in join_all(attempts).await.into_iter().enumerate() {
                match attempt.map_err(|error| Violation(error.to_string()))? {
                    Ok(_) => {
                        ensure(winner.is_none(), || format!("round {round}: two creations won"))?;
                        winner = Some(racer);
                    }
                    other => {
                        refused(other, &[StoreErrorKind::PreconditionFailed], "a lost creation")?;
                    }
                }
            }
            let body = get(&**store, &key).await?.body.bytes();
            equal(&winner.map(|racer| racer as u8), &body.first().copied(), "winner and body")?;
            // Takes the directory away under the next round's creations where there is one.
            store.delete(&key, None).await?;
        }
    }
    if expect.if_match {
        const STEPS: u64 = 5;
        let key = key("races/counter")?;
        store.put(&key, Bytes::from_static(b"0"), PutWhen::Always).await?;
        let counting = (0..RACERS).map(|_| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                for _ in 0..STEPS {
                    increment(&*store, &key).await?;
                }
                Ok::<(), Violation>(())
            })
        });
        for counted in join_all(counting).await {
            counted.map_err(|error| Violation(error.to_string()))??;
        }
        let wanted = Bytes::from((RACERS as u64 * STEPS).to_string());
        equal(&get(&**store, &key).await?.body.bytes(), &wanted, "a counter counted by many")?;
    }
    Ok(())
}

async fn increment(store: &dyn Store, key: &Key) -> Result<(), Violation> {
    loop {
        let object = get(store, key).await?;
        let text = String::from_utf8_lossy(&object.body.bytes()).into_owned();
        let count: u64 = text.parse().map_err(|_| Violation(format!("counter holds {text:?}")))?;
        let body = Bytes::from((count + 1).to_string());
        match store.put(key, body, PutWhen::IfMatch(object.meta.etag)).await {
            Err(error) if error.kind == StoreErrorKind::PreconditionFailed => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
}

/// What is deleted is gone; what is not there may be deleted.
async fn deletion(store: &dyn Store) -> Result<(), Violation> {
    let names = ["a", "b", "c/d", "c/e"];
    let keys: Vec<Key> =
        names.iter().map(|name| key(format!("deletion/{name}"))).collect::<Result<_, _>>()?;
    for key in &keys {
        store.put(key, Bytes::from_static(b"x"), PutWhen::Always).await?;
    }
    store.delete(&key("deletion/missing")?, None).await?;
    store.delete(&key("deletion/no/such/place")?, None).await?;
    store.delete(&keys[0], None).await?;
    store.delete(&keys[0], None).await?;
    refused(store.get(&keys[0], None, None).await, &[StoreErrorKind::NotFound], "a deleted key")?;
    equal(&get(store, &keys[1]).await?.body.len(), &1, "a neighbour of a deleted key")?;
    let mut doomed = keys[1..3].to_vec();
    doomed.push(key("deletion/missing")?);
    let failed = store.delete_many(&doomed).await?;
    ensure(failed.is_empty(), || format!("not deleted: {failed:?}"))?;
    let failed = store.delete_many(&[]).await?;
    ensure(failed.is_empty(), || format!("failed to delete nothing: {failed:?}"))?;
    let request = ListRequest { prefix: format!("{ROOT}deletion/"), ..ListRequest::default() };
    let (left, _) = list_all(store, request).await?;
    let left: Vec<Key> = left.into_iter().map(|meta| meta.key).collect();
    equal(&left, &keys[3..].to_vec(), "what is left")
}

async fn probed(store: &dyn Store, expect: Capabilities) -> Result<(), Violation> {
    let place = format!("{ROOT}probe/1");
    equal(&probe(store, &place).await?, &expect, "what the probe finds")?;
    let request = ListRequest { prefix: place, ..ListRequest::default() };
    let (left, _) = list_all(store, request).await?;
    equal(&left.len(), &0, "objects that the probe left")
}
