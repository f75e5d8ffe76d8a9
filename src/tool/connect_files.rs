//! From settings to a bucket's files as they are.

use super::attach::protocol::FailureKind;
use super::connect::{holds_volume, under};
use super::output::Failure;
use super::settings::Common;
use crate::config::{self, StoreBase, VolumeUrl};
use crate::crypto::Suite;
use crate::crypto::datasafed::StreamKey;
use crate::store::{BoundedFiles, Limit, MeterFiles, Retry, RetryFiles, RetryPolicy, S3Store};
use crate::volume::objects::{BucketTree, Requests};
use std::sync::Arc;
use tokio_util::task::TaskTracker;

impl Common {
    /// The files of a bucket as they are, or in datasafed's form.
    pub(super) async fn files(
        &self,
        url: &VolumeUrl,
        suite: Option<Suite>,
    ) -> Result<BucketTree, Failure> {
        let StoreBase::S3(bucket) = &url.base else {
            return Err(Failure::new(format!(
                "{url}: --layout objects mounts a bucket (s3://...): a directory's files are there already"
            )));
        };
        let own = self.at(url)?;
        let s3 = Arc::new(S3Store::connect(own.s3(bucket)?).await?);
        let meter = self.meter.around(s3.clone());
        let policy = RetryPolicy::within(self.patience()?);
        let world = config::system_world();
        let retried = Retry::new(meter.clone(), policy, world.entropy.clone());
        let limit = Arc::new(Limit::new(Arc::new(retried), self.concurrency()?));
        let store = self.throttled(limit.clone())?;
        let files = Arc::new(MeterFiles::new(s3, meter));
        let files = Arc::new(RetryFiles::new(files, policy, policy, world.entropy.clone()));
        let files = Arc::new(BoundedFiles::new(files, limit, self.rate()?));
        for root in url.candidates() {
            if holds_volume(&under(store.clone(), root)).await? {
                return Err(Failure::new(format!(
                    "{url}: here is a volume of strongroom, whose objects are no files: mount it without \
                     --layout objects"
                ))
                .of(FailureKind::Invalid));
            }
        }
        let source = own.passphrase(&own.file()?);
        let key = match suite {
            Some(suite) => {
                let passphrase = source.read()?;
                let key = StreamKey::derive(&passphrase, suite);
                let failed =
                    |error| Failure::new(format!("passphrase of {}: {error}", source.shown()));
                Some(Arc::new(key.map_err(failed)?))
            }
            None if source.is_given() => {
                return Err(Failure::new(
                    "a passphrase is given, and no --encryption: files would be stored as they are; add \
                     --encryption AES-256-CFB, or leave the passphrase away",
                )
                .of(FailureKind::Passphrase));
            }
            None => None,
        };
        let requests =
            Requests { patient: store.clone(), store, files, afterwards: TaskTracker::new() };
        let tree = BucketTree::new(requests, url.path.trim_matches('/'), key, world.entropy);
        // Where a directory says by which passphrase its files are encrypted, another one is told before anything is
        // read or written.
        if let Some(root) = tree.mark("").await?
            && tree.is_of_another_key(&root)
        {
            return Err(Failure::new(format!(
                "{url}: the passphrase of {}, or the algorithm, is not the one by which its files are encrypted",
                source.shown()
            ))
            .of(FailureKind::Passphrase));
        }
        Ok(tree)
    }
}
