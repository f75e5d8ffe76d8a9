//! Files whose bytes go and come within a rate, whatever the place.

use super::error::ObjectsError;
use super::parts::{Piece, Plan};
use super::{Beside, Emit, Entry, Files, ListFiles};
use crate::crypto::datasafed::StreamKey;
use crate::store::Rate;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The decorator. A part is paid for before it is sent, what was read before it is handed over.
pub struct LimitedFiles {
    inner: Arc<dyn Files>,
    rate: Arc<Rate>,
}

impl LimitedFiles {
    /// Within a rate, together with whoever else has it.
    pub fn new(inner: Arc<dyn Files>, rate: Arc<Rate>) -> Self {
        Self { inner, rate }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Files for LimitedFiles {
    async fn find(&self, path: &str) -> Result<Entry, ObjectsError> {
        self.inner.find(path).await
    }

    async fn list(
        &self,
        directory: &str,
        request: ListFiles,
        emit: Emit<'_>,
    ) -> Result<(), ObjectsError> {
        self.inner.list(directory, request, emit).await
    }

    async fn read(
        &self,
        path: &str,
        key: Option<Arc<StreamKey>>,
        out: Sender<Vec<Bytes>>,
    ) -> Result<(), ObjectsError> {
        let (sender, mut came) = channel::<Vec<Bytes>>(1);
        let hand_over = async move {
            while let Some(buffers) = came.recv().await {
                self.rate.pay(buffers.iter().map(|buffer| buffer.len() as u64).sum()).await;
                if out.send(buffers).await.is_err() {
                    return;
                }
            }
        };
        let (read, ()) = tokio::join!(self.inner.read(path, key, sender), hand_over);
        read
    }

    async fn write(
        &self,
        path: &str,
        beside: Beside,
        mut pieces: Receiver<Piece>,
    ) -> Result<(), ObjectsError> {
        let (sender, paid) = channel(1);
        let pay = async move {
            while let Some(piece) = pieces.recv().await {
                if let Piece::Part(body, _) = &piece {
                    self.rate.pay(body.length()).await;
                }
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        };
        let write = self.inner.write(path, beside, paid);
        tokio::pin!(pay, write);
        // A write that failed waits for no further pieces.
        tokio::select! {
            written = &mut write => written,
            () = &mut pay => write.await,
        }
    }

    async fn copy(&self, from: &str, to: &str) -> Result<bool, ObjectsError> {
        self.inner.copy(from, to).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<bool, ObjectsError> {
        self.inner.rename(from, to).await
    }

    async fn remove(&self, path: &str) -> Result<(), ObjectsError> {
        self.inner.remove(path).await
    }

    async fn remove_tree(&self, path: &str) -> Result<(), ObjectsError> {
        self.inner.remove_tree(path).await
    }

    async fn make_directory(&self, path: &str) -> Result<(), ObjectsError> {
        self.inner.make_directory(path).await
    }

    async fn remove_directory(&self, path: &str) -> Result<(), ObjectsError> {
        self.inner.remove_directory(path).await
    }

    fn has_directories(&self) -> bool {
        self.inner.has_directories()
    }

    fn plan(&self, size: Option<u64>) -> Plan {
        self.inner.plan(size)
    }
}
