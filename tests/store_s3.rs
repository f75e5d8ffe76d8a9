//! The S3 store keeps the contract on a real MinIO, also through every decorator, and says what is wrong.
#![allow(dead_code)]

mod support;

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use strongroom::store::conformance::{Options, run};
use strongroom::store::{
    BoundedFiles, Capabilities, CopySource, ETag, FileStore, Headers, Key, Limit, ListRequest,
    ListVersion, Listing, Meter, MeterFiles, ObjectMeta, Part, PartBody, PartCheck, PartsFrom,
    Prefixed, PutWhen, Rate, Retry, RetryFiles, RetryPolicy, S3Config, S3Store, Store, StoreError,
    StoreErrorKind, Upload, Version, conformance_files,
};
use strongroom::units::ByteRange;
use strongroom::world::Entropy;
use support::minio::Minio;

/// What MinIO honours: it ignores If-Match on DELETE, which the probe has to find out.
const MINIO: Capabilities =
    Capabilities { if_absent: true, if_match: true, delete_if_match: false };

struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(128);
    }
}

/// The SDK takes credentials from the environment, as users give them; set once for the process.
fn server() -> Arc<Minio> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _lock = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    static SERVER: std::sync::OnceLock<Arc<Minio>> = std::sync::OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let server = Minio::shared();
        for (name, value) in server.environment() {
            // SAFETY: under a lock, before any client of this process reads the environment.
            unsafe { std::env::set_var(name, value) };
        }
        server
    });
    server.clone()
}

async fn store(server: &Minio) -> Arc<dyn Store> {
    let config = S3Config {
        bucket: server.new_bucket(),
        endpoint: Some(server.endpoint.clone()),
        ..S3Config::default()
    };
    Arc::new(S3Store::connect(config).await.expect("connected"))
}

#[test]
fn s3_keeps_the_contract_bare_and_through_every_decorator() {
    let server = server();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        // MinIO keeps objects as files: it refuses `.`, `..`, empty components, components over 255
        // bytes, and a key that is a directory of another one.
        let options = Options {
            long_components: false,
            odd_components: false,
            nested_keys: false,
            control_characters: false,
            ..Options::default()
        };
        let bare = store(&server).await;
        run(bare, MINIO, &options).await.unwrap_or_else(|violations| panic!("{violations}"));

        let meter = Arc::new(Meter::new(store(&server).await));
        let limited: Arc<dyn Store> = Arc::new(Limit::new(meter.clone(), 4));
        let policy = RetryPolicy::within(Duration::from_secs(10));
        let retried: Arc<dyn Store> = Arc::new(Retry::new(limited, policy, Arc::new(Fixed)));
        let prefixed: Arc<dyn Store> = Arc::new(Prefixed::new(retried, "deep/prefix/"));
        let options = Options { key_limit: options.key_limit - 12, ..options };
        run(prefixed, MINIO, &options).await.unwrap_or_else(|violations| panic!("{violations}"));
        assert!(meter.snapshot().iter().all(|(_, count)| count.failed == 0));
        assert!(meter.snapshot()[0].1.answered > 10);
    });
}

#[test]
fn every_way_to_list_and_delete_keeps_the_contract() {
    let server = server();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let options = Options {
            long_components: false,
            odd_components: false,
            nested_keys: false,
            control_characters: false,
            ..Options::default()
        };
        for version in [ListVersion::V1, ListVersion::V2] {
            for encoded in [false, true] {
                let config = S3Config {
                    bucket: server.new_bucket(),
                    endpoint: Some(server.endpoint.clone()),
                    listing: Listing { version, encoded },
                    batch_deletes: encoded,
                    ..S3Config::default()
                };
                let store = Arc::new(S3Store::connect(config).await.expect("connected"));
                let kept = run(store, MINIO, &options).await;
                kept.unwrap_or_else(|broken| panic!("{version:?} {encoded}: {broken}"));
            }
        }
    });
}

#[test]
fn files_keep_their_contract_bare_retried_and_with_versions() {
    let server = server();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let bucket = server.new_bucket();
        let config = S3Config {
            bucket: bucket.clone(),
            endpoint: Some(server.endpoint.clone()),
            ..S3Config::default()
        };
        let store = Arc::new(S3Store::connect(config).await.expect("connected"));
        let unasked = S3Config {
            bucket: bucket.clone(),
            endpoint: Some(server.endpoint.clone()),
            crc32c: false,
            ..S3Config::default()
        };
        let unasked = S3Store::connect(unasked).await.expect("connected");
        conformance_files::run(&unasked, &unasked).await.expect("checked by MD5");
        parts_are_checked_by(&store, PartCheck::Crc32c).await;
        parts_are_checked_by(&unasked, PartCheck::Md5).await;
        for with_versions in [false, true] {
            if with_versions {
                keep_versions(&server, &bucket).await;
            }
            conformance_files::run(&*store, &*store).await.expect("bare");
            let policy = RetryPolicy::within(Duration::from_secs(10));
            let retried = RetryFiles::new(store.clone(), policy, policy, Arc::new(Fixed));
            conformance_files::run(&*store, &retried).await.expect("retried");
            let meter = Arc::new(Meter::new(store.clone()));
            let limit = Arc::new(Limit::new(meter.clone(), 2));
            let files = Arc::new(MeterFiles::new(store.clone(), meter.clone()));
            let rate = Some(Arc::new(Rate::new(8 << 30)));
            let bounded = BoundedFiles::new(files, limit.clone(), rate);
            conformance_files::run(&*limit, &bounded).await.expect("counted and bounded");
            let put = meter.snapshot()[0].1;
            assert!(put.answered > 20 && put.bytes > 20 << 20, "{put:?}");
        }
    });
}

/// The check is what was agreed on, and the server does check.
async fn parts_are_checked_by(store: &S3Store, check: PartCheck) {
    let key = Key::new("checked").expect("a key");
    let begun = store.begin_upload(&key, &Headers::default(), PartsFrom::Here).await;
    let upload = begun.expect("begun");
    assert_eq!(upload.check, check);
    let body = Bytes::from_static(b"123456789");
    let part = store.upload_part(&key, &upload, 1, body.into()).await.expect("sent");
    // CRC-32C of these digits is 0xe3069283 (RFC 3720's parameters; the CRC catalogue's check value).
    let sum = (check == PartCheck::Crc32c).then_some("4waSgw==".to_owned());
    assert_eq!(part.crc32c, sum);
    let other = Part { crc32c: sum.map(|_| "AAAAAA==".to_owned()), etag: ETag("\"0\"".to_owned()) };
    store.complete_upload(&key, &upload, &[other]).await.expect_err("another part than was sent");
    store.complete_upload(&key, &upload, &[part]).await.expect("completed");
}

async fn keep_versions(server: &Minio, bucket: &str) {
    use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
    let Minio { access_key, secret_key, .. } = server;
    let keys = aws_credential_types::Credentials::new(access_key, secret_key, None, None, "test");
    let config = aws_sdk_s3::config::Builder::new()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(&server.endpoint)
        .region(aws_sdk_s3::config::Region::new("us-east-1"))
        .credentials_provider(keys)
        .force_path_style(true);
    let client = aws_sdk_s3::Client::from_conf(config.build());
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
    let request = client.put_bucket_versioning().bucket(bucket);
    request.versioning_configuration(enabled.build()).send().await.expect("switched on");
}

#[test]
fn an_upload_whose_completion_lost_its_answer_is_found_completed() {
    let lost = Arc::new(Lost { completed: std::sync::atomic::AtomicUsize::new(0) });
    let policy = RetryPolicy::within(Duration::from_secs(10));
    let retried = RetryFiles::new(lost.clone(), policy, policy, Arc::new(Fixed));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let key = Key::new("key").expect("a key");
    let upload = Upload { id: "upload".to_owned(), check: PartCheck::Md5 };
    let etag = runtime.block_on(retried.complete_upload(&key, &upload, &[]));
    assert_eq!(etag.expect("it was completed"), ETag("\"done-0\"".to_owned()));
    // Without a doubt before, an upload that is no more is an error.
    let error = runtime.block_on(retried.complete_upload(&key, &upload, &[])).expect_err("gone");
    assert_eq!(error.kind, StoreErrorKind::NotFound);
}

/// Completes an upload at the first request and does not answer it; afterwards there is no such upload.
struct Lost {
    completed: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl FileStore for Lost {
    async fn put_file(&self, _: &Key, _: Bytes, _: &Headers) -> Result<ETag, StoreError> {
        unreachable!("not asked here")
    }

    async fn head_file(&self, key: &Key) -> Result<(ObjectMeta, Headers), StoreError> {
        let etag = ETag("\"done-0\"".to_owned());
        let meta = ObjectMeta { key: key.clone(), size: 1, etag, modified: Default::default() };
        Ok((meta, Headers::default()))
    }

    async fn begin_upload(&self, _: &Key, _: &Headers, _: PartsFrom) -> Result<Upload, StoreError> {
        unreachable!("not asked here")
    }

    async fn upload_part(
        &self,
        _: &Key,
        _: &Upload,
        _: u32,
        _: PartBody,
    ) -> Result<Part, StoreError> {
        unreachable!("not asked here")
    }

    async fn complete_upload(&self, key: &Key, _: &Upload, _: &[Part]) -> Result<ETag, StoreError> {
        match self.completed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => {
                Err(StoreError::new(StoreErrorKind::Unavailable, "put", key).with_effect_unknown())
            }
            _ => Err(StoreError::new(StoreErrorKind::NotFound, "put", key)),
        }
    }

    async fn copy_file(
        &self,
        _: CopySource<'_>,
        _: &Key,
        _: Option<&Headers>,
    ) -> Result<ETag, StoreError> {
        unreachable!("not asked here")
    }

    async fn copy_part(
        &self,
        _: CopySource<'_>,
        _: ByteRange,
        _: (&Key, &Upload),
        _: u32,
    ) -> Result<Part, StoreError> {
        unreachable!("not asked here")
    }

    async fn abort_upload(&self, _: &Key, _: &Upload) -> Result<(), StoreError> {
        unreachable!("not asked here")
    }

    async fn keeps_versions(&self) -> Result<bool, StoreError> {
        unreachable!("not asked here")
    }

    async fn versions(&self, _: &str) -> Result<Vec<Version>, StoreError> {
        unreachable!("not asked here")
    }

    async fn delete_versions(&self, _: &[Version]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        unreachable!("not asked here")
    }

    fn part_limit(&self) -> u32 {
        unreachable!("not asked here")
    }
}

#[test]
fn failures_are_told_apart_with_a_remedy() {
    let server = server();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let list = |config: S3Config| async move {
            let store = S3Store::connect(config).await.expect("connected");
            store.list(&ListRequest::default()).await.expect_err("it fails")
        };
        let there = S3Config {
            bucket: "no-such-bucket".to_owned(),
            endpoint: Some(server.endpoint.clone()),
            ..S3Config::default()
        };
        let error = list(there.clone()).await;
        assert_eq!(error.kind, StoreErrorKind::NoBucket, "{error}");
        assert!(error.to_string().contains("create the bucket"), "{error}");

        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = closed.local_addr().expect("bound");
        drop(closed);
        let endpoint = Some(format!("http://{address}"));
        let error = list(S3Config { endpoint, ..there.clone() }).await;
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");

        let endpoint = Some(server.endpoint.replace("http://", "https://"));
        let error = list(S3Config { endpoint, ..there.clone() }).await;
        assert_eq!(error.kind, StoreErrorKind::Tls, "{error}");
        assert!(!error.to_string().contains(&server.secret_key), "{error}");
    });
}

#[test]
fn a_connection_that_ends_early_is_an_error_not_a_short_object() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let liar = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("a client");
        let mut request = [0; 4096];
        let _ = connection.read(&mut request).expect("a request");
        connection
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\nshort")
            .expect("an answer");
    });
    let _server = server();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = S3Config {
            bucket: "bucket".to_owned(),
            endpoint: Some(format!("http://{address}")),
            ..S3Config::default()
        };
        let store = S3Store::connect(config).await.expect("connected");
        let key = Key::new("key").expect("a key");
        let error = store.get(&key, None, None).await.expect_err("it is short");
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
    });
    liar.join().expect("joined");
}

#[test]
fn a_conditional_put_that_lost_its_reply_is_not_sent_again() {
    use std::io::Read;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let requests = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = requests.clone();
    std::thread::spawn(move || {
        // Takes requests and closes without an answer.
        while let Ok((mut connection, _)) = listener.accept() {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut request = [0; 4096];
            let _ = connection.read(&mut request);
        }
    });
    let _server = server();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = S3Config {
            bucket: "bucket".to_owned(),
            endpoint: Some(format!("http://{address}")),
            ..S3Config::default()
        };
        let store: Arc<dyn Store> = Arc::new(S3Store::connect(config).await.expect("connected"));
        let policy = RetryPolicy::within(Duration::from_secs(1));
        let store = Retry::new(store, policy, Arc::new(Fixed));
        let key = Key::new("key").expect("a key");
        let error = store
            .put(&key, Bytes::from_static(b"x"), PutWhen::IfAbsent)
            .await
            .expect_err("no answer");
        assert!(error.effect_unknown, "{error}");
        let conditional = requests.load(std::sync::atomic::Ordering::SeqCst);
        // The HTTP client itself may try a connection that was never used a second time.
        assert!(conditional <= 2, "{conditional} requests");
        let error = store.put(&key, Bytes::from_static(b"x"), PutWhen::Always).await;
        error.expect_err("no answer");
        let all = requests.load(std::sync::atomic::Ordering::SeqCst);
        assert!(all - conditional >= 3, "an unconditional put is sent again: {all}");
    });
}
