//! What can go wrong with an object store, by what the caller can do about it.

use std::fmt;

/// The kinds of failure, each with one remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No such object.
    NotFound,
    /// No such bucket, container or root directory.
    NoBucket,
    /// The condition of the request did not hold.
    PreconditionFailed,
    /// The credentials are missing, wrong or not allowed to do this.
    Denied,
    /// The clocks of this machine and of the store differ too much for its signatures.
    ClockSkew,
    /// The connection's TLS failed: certificate, name or protocol.
    Tls,
    /// The endpoint's name or address cannot be reached at all.
    Unreachable,
    /// No answer in time, a broken connection, or the store asks to come back later. Worth a retry.
    Unavailable,
    /// The store has no more room, or a quota is reached.
    Full,
    /// The store cannot be written to.
    ReadOnly,
    /// The request is one that this store cannot take (a key it refuses, an unsupported condition).
    Invalid,
    /// The store's answer contradicts itself (short body, bad XML).
    Corrupt,
    /// Anything else.
    Other,
}

/// A failed request.
#[derive(Debug)]
pub struct StoreError {
    /// What the caller can do about it.
    pub kind: StoreErrorKind,
    /// The verb: `put`, `get`, `head`, `delete`, `list`.
    pub operation: &'static str,
    /// The object, prefix or bucket concerned.
    pub object: String,
    /// Whether the request's effect may have happened although it failed.
    pub effect_unknown: bool,
    /// What the store or the network said.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// An error without a cause of its own, whose effect certainly did not happen.
    pub fn new(kind: StoreErrorKind, operation: &'static str, object: impl fmt::Display) -> Self {
        Self { kind, operation, object: object.to_string(), effect_unknown: false, source: None }
    }

    /// The same with its cause.
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same, marked as one whose effect may have happened.
    pub fn with_effect_unknown(mut self) -> Self {
        self.effect_unknown = true;
        self
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unavailable | StoreErrorKind::Unreachable)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            StoreErrorKind::NotFound => "no such object",
            StoreErrorKind::NoBucket => "no such bucket",
            StoreErrorKind::PreconditionFailed => "changed by someone else meanwhile",
            StoreErrorKind::Denied => "access denied",
            StoreErrorKind::ClockSkew => "clocks differ too much",
            StoreErrorKind::Tls => "TLS failed",
            StoreErrorKind::Unreachable => "endpoint cannot be reached",
            StoreErrorKind::Unavailable => "store does not answer",
            StoreErrorKind::Full => "store is full",
            StoreErrorKind::ReadOnly => "store is read-only",
            StoreErrorKind::Invalid => "store cannot take this request",
            StoreErrorKind::Corrupt => "store gave a damaged answer",
            StoreErrorKind::Other => "store failed",
        };
        write!(f, "{} {}: {what}", self.operation, self.object)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
