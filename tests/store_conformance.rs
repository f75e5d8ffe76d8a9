//! Every store keeps the contract of `strongroom::store`.

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use strongroom::store::conformance::{Options, run};
use strongroom::store::{
    Capabilities, DirStore, ETag, Fault, Fetched, KEY_LIMIT, Key, ListPage, ListRequest,
    MemoryStore, ObjectMeta, Prefixed, PutWhen, Rate, Store, StoreError, Throttle,
};
use strongroom::units::ByteRange;
use strongroom::world::{Clock, Timestamp};

const ALL: Capabilities = Capabilities { if_absent: true, if_match: true, delete_if_match: true };

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_system_time(SystemTime::now())
    }

    fn boot_time(&self) -> Duration {
        Duration::ZERO
    }
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(Arc::new(SystemClock)))
}

async fn check(store: Arc<dyn Store>, expect: Capabilities) {
    if let Err(violations) = run(store.clone(), expect, &Options::default()).await {
        panic!("{}: {violations}", store.describe());
    }
}

/// Checks a store under a prefix, and that the prefix is where it says.
async fn check_prefixed(inner: Arc<dyn Store>, prefix: &str) {
    let outside = Key::new("outside").expect("a key");
    inner.put(&outside, Bytes::from_static(b"x"), PutWhen::Always).await.expect("put");
    let options = Options { key_limit: KEY_LIMIT - prefix.len(), ..Options::default() };
    let store: Arc<dyn Store> = Arc::new(Prefixed::new(inner.clone(), prefix));
    run(store.clone(), ALL, &options).await.unwrap_or_else(|violations| panic!("{violations}"));
    let key = Key::new("a").expect("a key");
    store.put(&key, Bytes::new(), PutWhen::Always).await.expect("put");
    let listed = inner.list(&ListRequest::default()).await.expect("list");
    let mut keys: Vec<String> =
        listed.objects.iter().map(|meta| meta.key.as_str().to_owned()).collect();
    keys.sort();
    let mut wanted = vec![format!("{prefix}a"), "outside".to_owned()];
    wanted.sort();
    assert_eq!(keys, wanted);
}

/// Sends each request to the next of several instances of one store, as several nodes do.
struct Alternating {
    stores: Vec<Arc<dyn Store>>,
    next: AtomicUsize,
}

impl Alternating {
    fn store(&self) -> &dyn Store {
        &*self.stores[self.next.fetch_add(1, Ordering::Relaxed) % self.stores.len()]
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Alternating {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        self.store().put(key, body, when).await
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        self.store().get(key, range, unless).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.store().head(key).await
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        self.store().delete(key, if_match).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        self.store().delete_many(keys).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        self.store().list(request).await
    }

    fn describe(&self) -> String {
        self.store().describe()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    check(memory(), ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_without_conditions_is_found_out() {
    let clock = Arc::new(SystemClock);
    let store = MemoryStore::without_conditional_delete(clock.clone());
    check(Arc::new(store), Capabilities { delete_if_match: false, ..ALL }).await;
    let none = Capabilities::default();
    check(Arc::new(MemoryStore::with_capabilities(clock, none)), none).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_contract() {
    let place = tempfile::tempdir().expect("directory");
    check(Arc::new(DirStore::open(place.path()).expect("open")), ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_on_one_directory_keep_the_contract() {
    let place = tempfile::tempdir().expect("directory");
    let open = || Arc::new(DirStore::open(place.path()).expect("open")) as Arc<dyn Store>;
    let store = Alternating { stores: vec![open(), open()], next: AtomicUsize::new(0) };
    check(Arc::new(store), ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_keeps_the_contract() {
    for prefix in ["p/", "a/b/c/", "p", "Größe/"] {
        check_prefixed(memory(), prefix).await;
    }
    for prefix in ["a/b/", "p"] {
        let place = tempfile::tempdir().expect("directory");
        check_prefixed(Arc::new(DirStore::open(place.path()).expect("open")), prefix).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_store_without_rules_keeps_the_contract() {
    check(Arc::new(Fault::new(memory(), 1)), ALL).await;
}

#[tokio::test]
async fn foreign_files_in_a_directory_are_no_objects() {
    let place = tempfile::tempdir().expect("directory");
    let store = DirStore::open(place.path()).expect("open");
    let key = Key::new("a/b").expect("a key");
    store.put(&key, Bytes::new(), PutWhen::Always).await.expect("put");
    let write = |name: &str| std::fs::write(place.path().join(name), b"x").expect("write");
    for name in [".hidden", "%61", "%6", "sp ace", "a@/%62", "lost~", "caf\u{e9}"] {
        write(name);
    }
    std::fs::create_dir(place.path().join("foreign@")).expect("directory");
    write("foreign@/.nfs0001");
    for roll_up in [false, true] {
        let page = store.list(&ListRequest { roll_up, ..ListRequest::default() }).await;
        let page = page.expect("list");
        let keys: Vec<&str> = page.objects.iter().map(|meta| meta.key.as_str()).collect();
        let wanted = if roll_up { (vec![], vec!["a/"]) } else { (vec!["a/b"], vec![]) };
        assert_eq!((keys, page.prefixes.iter().map(String::as_str).collect()), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_store_keeps_the_contract() {
    check(Arc::new(Throttle::new(memory(), Arc::new(Rate::new(1_000_000_000)))), ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_bytes_take_their_time_both_ways() {
    // 8 Mbit/s are 1,000,000 bytes a second, of which one second's worth goes at once.
    let store = Throttle::new(memory(), Arc::new(Rate::new(8_000_000)));
    let key = Key::new("object").expect("a key");
    let began = std::time::Instant::now();
    store.put(&key, Bytes::from(vec![7; 900_000]), PutWhen::Always).await.expect("put");
    store.put(&key, Bytes::from(vec![7; 600_000]), PutWhen::Always).await.expect("put");
    let put = began.elapsed();
    assert!(put >= Duration::from_millis(450), "{put:?}");
    store.get(&key, None, None).await.expect("got");
    let got = began.elapsed();
    assert!(got >= put + Duration::from_millis(500), "{put:?} {got:?}");
    // More than a second's worth at once.
    store.put(&key, Bytes::from(vec![7; 2_500_000]), PutWhen::Always).await.expect("put");
    let took = began.elapsed() - got;
    assert!(took >= Duration::from_millis(2300), "{took:?}");
}
