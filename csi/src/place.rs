//! From a handle and secrets to a connection to the bucket. A connection belongs to one call: the secrets of
//! another call may be others.

use crate::volume::{Handle, Reach, Secrets};
use std::sync::Arc;
use std::time::Duration;
use strongroom::config::system_world;
use strongroom::crypto::datasafed::StreamKey;
use strongroom::store::{
    Limit, Prefixed, Retry, RetryFiles, RetryPolicy, S3Config, S3Store, Store, StoreError,
    StoreErrorKind, Tls,
};

use strongroom::volume::objects::{BucketTree, Requests};
use tokio_util::task::TaskTracker;

/// Requests of one call under way at once.
const REQUESTS: usize = 16;

/// What the driver itself was told of stores, for all volumes.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// Where neither the volume nor its secret says it.
    pub reach: Reach,
    /// Whom to trust, and who we are, where an endpoint speaks TLS.
    pub tls: Tls,
    /// How long a call may wait for the store.
    pub patience: Duration,
}

/// How the store of a volume is reached: what the volume says, then its secret, then the driver.
pub fn reach(volume: &Reach, secrets: &Secrets, defaults: &Defaults) -> Reach {
    volume.or(secrets.reach()).or(&defaults.reach)
}

/// The volume's bucket, whole.
///
/// # Errors
/// Those of making a client; the bucket is not asked yet.
pub async fn bucket(
    bucket: &str,
    volume: &Reach,
    secrets: &Secrets,
    defaults: &Defaults,
) -> Result<Arc<dyn Store>, StoreError> {
    let store = connect(bucket, volume, secrets, defaults).await?;
    Ok(around(Arc::new(store), defaults))
}

/// The files of a volume whose objects are files, as its mount sees them.
///
/// # Errors
/// As [`bucket`].
pub async fn files(
    handle: &Handle,
    secrets: &Secrets,
    defaults: &Defaults,
    key: Option<Arc<StreamKey>>,
) -> Result<BucketTree, StoreError> {
    let s3 = Arc::new(connect(handle.bucket(), handle.reach(), secrets, defaults).await?);
    let store = around(s3.clone(), defaults);
    let policy = RetryPolicy::within(defaults.patience);
    let entropy = system_world().entropy;
    let files = Arc::new(RetryFiles::new(s3, policy, policy, entropy.clone()));
    let requests =
        Requests { patient: store.clone(), store, files, afterwards: TaskTracker::new() };
    Ok(BucketTree::new(requests, handle.prefix().trim_end_matches('/'), key, entropy))
}

fn around(store: Arc<dyn Store>, defaults: &Defaults) -> Arc<dyn Store> {
    let policy = RetryPolicy::within(defaults.patience);
    let store = Arc::new(Retry::new(store, policy, system_world().entropy));
    Arc::new(Limit::new(store, REQUESTS))
}

async fn connect(
    bucket: &str,
    volume: &Reach,
    secrets: &Secrets,
    defaults: &Defaults,
) -> Result<S3Store, StoreError> {
    let Reach { endpoint, region, path_style } = reach(volume, secrets, defaults);
    let config = S3Config {
        bucket: bucket.to_owned(),
        region,
        endpoint,
        path_style,
        tls: defaults.tls.clone(),
        // Nothing is ever sent without a signature.
        credentials: secrets.credentials().ok_or_else(|| {
            let why = "its keys come with the first pod that uses it";
            StoreError::new(StoreErrorKind::Denied, "connect", bucket).with_source(why)
        })?,
        ..S3Config::default()
    };
    S3Store::connect(config).await
}

/// The volume's own part of its bucket: nothing outside of it can be reached by this one.
pub fn volume(bucket: &Arc<dyn Store>, handle: &Handle) -> Arc<dyn Store> {
    match handle.prefix() {
        prefix if prefix.is_empty() => bucket.clone(),
        prefix => Arc::new(Prefixed::new(bucket.clone(), prefix)),
    }
}
