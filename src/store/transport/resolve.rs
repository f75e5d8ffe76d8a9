//! Addresses of names, by DNS and /etc/hosts, without the C library: a static program cannot load what the
//! library's own resolver consists of. /etc/resolv.conf and /etc/hosts are read again when they change: a mount
//! outlives a pod's or a laptop's network.

use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{self, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use hyper_util::client::legacy::connect::dns::Name;
use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;
use tower_service::Service;

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// A resolver; its clones share what it knows.
#[derive(Clone)]
pub(in crate::store) struct Resolver(Arc<Mutex<Option<Current>>>);

#[derive(Clone)]
struct Current {
    changed: [Option<SystemTime>; FILES.len()],
    /// None can be made without /etc/resolv.conf, and why.
    resolver: Result<TokioResolver, String>,
    hosts: Arc<Hosts>,
}

impl Current {
    /// The addresses that /etc/hosts has of a name. If it has any, no name server is asked for others: the
    /// resolver would ask for those of the other family, and wait for whoever does not answer.
    fn in_hosts(&self, name: &str) -> Vec<IpAddr> {
        let Ok(name) = rr::Name::from_str(name) else { return Vec::new() };
        let found = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [RecordType::A, RecordType::AAAA].into_iter().filter_map(found);
        let addresses = found.flat_map(|lookup| {
            lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
        });
        addresses.collect()
    }
}

impl Resolver {
    /// One that has read nothing yet.
    pub(in crate::store) fn new() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// By the files as they are now.
    fn current(&self) -> Current {
        let changed =
            FILES.map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok());
        let mut current = self.0.lock();
        if let Some(current) = current.as_ref().filter(|current| current.changed == changed) {
            return current.clone();
        }
        let resolver = TokioResolver::builder_tokio()
            .and_then(|builder| builder.build())
            .map_err(|error| format!("no name service: {}: {error}", FILES[0]));
        let hosts = Arc::new(Hosts::from_system().unwrap_or_default());
        let fresh = Current { changed, resolver, hosts };
        // What could not be read for a moment is read again; what is not there comes with another time.
        *current = Some(fresh.clone()).filter(|_| fresh.resolver.is_ok() || changed[0].is_none());
        fresh
    }

    /// The addresses of a name, or the one that it is.
    pub(in crate::store) async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let current = self.current();
        let known = current.in_hosts(name);
        if !known.is_empty() {
            return Ok(known);
        }
        let resolver = current.resolver.map_err(io::Error::other)?;
        let answer = resolver.lookup_ip(name).await.map_err(|error| {
            io::Error::other(format!("failed to lookup address of {name}: {error}"))
        })?;
        Ok(answer.iter().collect())
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            let found = own.addresses(name.as_str()).await?;
            // The port is the caller's.
            let found = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(found.collect::<Vec<_>>().into_iter())
        })
    }
}
