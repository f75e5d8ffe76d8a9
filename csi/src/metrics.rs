//! What Prometheus can ask: every number is a row of one of the tables here. No secret and no file's name is
//! in any of them; a volume's label is its id.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use strongroom::tool::attach::protocol::{OperationStats, RequestStats, Stats};
use tokio::sync::watch;

/// What the text is, as Prometheus reads it.
const FORMAT: &str = "text/plain; version=0.0.4";

/// A number of calls: its name, what it is, and how it is taken from the counts.
type OfCalls = (&'static str, &'static str, fn(&Calls) -> f64);
/// A number of a volume: its name, its type, what it is, and how it is taken.
type OfVolume = (&'static str, &'static str, &'static str, fn(&Volume) -> Option<f64>);

const OF_CALLS: &[OfCalls] = &[
    ("strongroom_csi_calls_total", "Calls that were answered.", |calls| calls.count as f64),
    ("strongroom_csi_call_seconds_total", "Time that they took.", |calls| calls.time.as_secs_f64()),
];

const OF_VOLUMES: &[OfVolume] = &[
    ("strongroom_volume_served", "gauge", "1 while a worker serves the volume.", |volume| {
        Some(f64::from(u8::from(volume.served)))
    }),
    ("strongroom_volume_unserved_seconds", "gauge", "For how long none has.", |volume| {
        Some(volume.unserved_seconds as f64)
    }),
    ("strongroom_volume_pods", "gauge", "Directories that it is published at.", |volume| {
        Some(volume.targets as f64)
    }),
    ("strongroom_volume_dirty_bytes", "gauge", "Bytes written and not stored yet.", |volume| {
        volume.stats.as_ref().map(|stats| stats.dirty_bytes as f64)
    }),
    ("strongroom_volume_dirty_limit_bytes", "gauge", "Room for such bytes.", |volume| {
        volume.stats.as_ref().map(|stats| stats.dirty_limit as f64)
    }),
    ("strongroom_volume_open_files", "gauge", "Open files.", |volume| {
        volume.stats.as_ref().map(|stats| stats.open_files as f64)
    }),
    (
        "strongroom_volume_lost_files",
        "gauge",
        "Open files that lost data at a takeover.",
        |volume| volume.stats.as_ref().map(|stats| stats.lost_files as f64),
    ),
    ("strongroom_volume_takeovers_total", "counter", "Workers that served it before.", |volume| {
        volume.stats.as_ref().map(|stats| stats.takeovers as f64)
    }),
    (
        "strongroom_volume_store_reachable",
        "gauge",
        "1 if the store answered when asked.",
        |volume| volume.stats.as_ref().map(|stats| f64::from(u8::from(stats.store_reachable))),
    ),
];

/// Numbers of a volume that have more labels: their name, type, what they are, and how they are taken.
type OfParts = (&'static str, &'static str, &'static str, fn(&Stats) -> Vec<Part>);

/// One of them: what follows the name, its labels, its value.
struct Part {
    suffix: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

const OF_PARTS: &[OfParts] = &[
    (
        "strongroom_volume_operation_seconds",
        "histogram",
        "Times of the kernel's requests to the file system, by kind.",
        operation_times,
    ),
    (
        "strongroom_volume_errors_total",
        "counter",
        "Requests of the kernel that were answered with an error; ENOENT is an answer like others.",
        |stats| {
            let part =
                |(name, count): (&String, &u64)| Part::new("", &[("errno", name)], *count as f64);
            stats.errors.iter().map(part).collect()
        },
    ),
    (
        "strongroom_volume_store_requests_total",
        "counter",
        "Requests to the store, by verb and result; an attempt that is repeated counts each time.",
        |stats| {
            let parts = |(verb, requests): (&String, &RequestStats)| {
                let RequestStats { answered, failed, .. } = *requests;
                [("answered", answered), ("failed", failed)].map(|(result, count)| {
                    Part::new("", &[("verb", verb), ("result", result)], count as f64)
                })
            };
            stats.requests.iter().flat_map(parts).collect()
        },
    ),
    (
        "strongroom_volume_store_seconds_total",
        "counter",
        "Time of the requests to the store.",
        |stats| of_verbs(stats, |requests| requests.microseconds as f64 / 1e6),
    ),
    (
        "strongroom_volume_store_bytes_total",
        "counter",
        "Bytes sent to the store and received from it.",
        |stats| of_verbs(stats, |requests| requests.bytes as f64),
    ),
    (
        "strongroom_volume_cache_reads_total",
        "counter",
        "Parts of stored data that reads needed, by cache and whether they were in it.",
        |stats| {
            let parts = |(cache, (hits, misses)): (&String, &(u64, u64))| {
                [("hit", *hits), ("miss", *misses)].map(|(result, count)| {
                    Part::new("", &[("cache", cache), ("result", result)], count as f64)
                })
            };
            stats.caches.iter().flat_map(parts).collect()
        },
    ),
];

fn operation_times(stats: &Stats) -> Vec<Part> {
    let mut parts = Vec::new();
    for (kind, operation) in &stats.operations {
        let OperationStats { answered, microseconds, within } = operation;
        for (bound, count) in within {
            let bound = (*bound as f64 / 1e6).to_string();
            parts.push(Part::new("_bucket", &[("operation", kind), ("le", &bound)], *count as f64));
        }
        let all = [("operation", &**kind), ("le", "+Inf")];
        parts.push(Part::new("_bucket", &all, *answered as f64));
        parts.push(Part::new("_sum", &all[..1], *microseconds as f64 / 1e6));
        parts.push(Part::new("_count", &all[..1], *answered as f64));
    }
    parts
}

fn of_verbs(stats: &Stats, value: fn(&RequestStats) -> f64) -> Vec<Part> {
    let part = |(verb, requests): (&String, &RequestStats)| {
        Part::new("", &[("verb", verb)], value(requests))
    };
    stats.requests.iter().map(part).collect()
}

impl Part {
    fn new(suffix: &'static str, labels: &[(&'static str, &str)], value: f64) -> Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { suffix, labels, value }
    }
}

/// What is known of the calls of one name and one code.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    count: u64,
    time: Duration,
}

/// Calls by name and code. One table for a process, like its log.
static CALLS: Mutex<BTreeMap<(&str, String), Calls>> = Mutex::new(BTreeMap::new());

/// Counts a call.
pub(crate) fn count(name: &'static str, code: tonic::Code, time: Duration) {
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let calls = calls.entry((name, format!("{code:?}"))).or_default();
    calls.count += 1;
    calls.time += time;
}

/// A volume of this node, as it is now.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// Its id.
    pub id: String,
    /// Whether a worker serves it.
    pub served: bool,
    /// For how many seconds none has.
    pub unserved_seconds: u64,
    /// Where it is published.
    pub targets: usize,
    /// What its worker says, if it says anything.
    pub stats: Option<Stats>,
}

/// Asks for the volumes at each scrape.
pub type Source = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Volume>> + Send>> + Send + Sync>;

/// Serves `/metrics` until the process ends.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    source: Source,
    ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let page = page(Arc::new(move || {
        let source = source.clone();
        Box::pin(async move { text(&source().await) })
    }));
    serve_router(address, page, ended).await
}

/// What is asked for the text at each scrape.
pub(crate) type Page = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// A text as `/metrics`.
pub(crate) fn page(text: Page) -> Router {
    let answer = move || {
        let text = text.clone();
        async move { ([(CONTENT_TYPE, FORMAT)], text().await) }
    };
    Router::new().route("/metrics", get(answer))
}

/// Serves pages until the process ends.
///
/// # Errors
/// If the address cannot be listened on.
pub(crate) async fn serve_router(
    address: SocketAddr,
    router: Router,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("metrics at {address}: {error}")))?;
    let stop = async move {
        // An error: nobody can ask any more, so nobody will.
        let _ = ended.wait_for(|ended| *ended).await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

/// Everything as Prometheus reads it.
fn text(volumes: &[Volume]) -> String {
    let mut text = String::new();
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (name, help, value) in OF_CALLS {
        let mut metric = Metric::new(&mut text, name, "counter", help);
        for ((call, code), calls) in &calls {
            metric.add("", &[("call", call), ("code", code)], value(calls));
        }
    }
    for (name, kind, help, value) in OF_VOLUMES {
        let mut metric = Metric::new(&mut text, name, kind, help);
        for volume in volumes {
            if let Some(value) = value(volume) {
                metric.add("", &[("volume", &volume.id)], value);
            }
        }
    }
    for (name, kind, help, parts) in OF_PARTS {
        let mut metric = Metric::new(&mut text, name, kind, help);
        for volume in volumes {
            for Part { suffix, labels, value } in volume.stats.iter().flat_map(parts) {
                let mut all = vec![("volume", &*volume.id)];
                all.extend(labels.iter().map(|(name, value)| (*name, &**value)));
                metric.add(suffix, &all, value);
            }
        }
    }
    text
}

/// One number with all its labels.
pub(crate) struct Metric<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl<'a> Metric<'a> {
    pub(crate) fn new(text: &'a mut String, name: &'a str, kind: &str, help: &str) -> Self {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Self { text, name }
    }

    pub(crate) fn add(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        if labels.is_empty() {
            let _ = writeln!(self.text, "{}{suffix} {value}", self.name);
            return;
        }
        let quoted = labels.iter().map(|(label, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{label}=\"{value}\"")
        });
        let labels = quoted.collect::<Vec<_>>().join(",");
        let _ = writeln!(self.text, "{}{suffix}{{{labels}}} {value}", self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashboard_and_alerts_ask_for_numbers_that_there_are() {
        let of_calls = OF_CALLS.iter().map(|(name, ..)| *name);
        let of_volumes = OF_VOLUMES.iter().map(|(name, ..)| *name);
        let of_parts = OF_PARTS.iter().map(|(name, ..)| *name);
        let of_operator = crate::operator::health::names();
        let known: Vec<&str> =
            of_calls.chain(of_volumes).chain(of_parts).chain(of_operator).collect();
        let asked = [
            include_str!("../../deploy/chart/dashboards/strongroom.json"),
            include_str!("../../deploy/chart/alerts.yaml"),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for text in asked {
            for name in text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            {
                let named = [
                    "strongroom_volume_",
                    "strongroom_csi_",
                    "strongroom_backuprepo_",
                    "strongroom_operator_",
                ];
                if named.iter().any(|start| name.starts_with(start)) {
                    let plain = ["_bucket", "_count", "_sum"]
                        .iter()
                        .find_map(|suffix| name.strip_suffix(suffix))
                        .unwrap_or(name);
                    assert!(known.contains(&plain), "{name}");
                    seen.insert(plain);
                }
            }
        }
        // What nobody looks at need not be told.
        let unseen: Vec<_> = known.iter().filter(|name| !seen.contains(*name)).collect();
        assert!(unseen.is_empty(), "{unseen:?}");
    }

    #[test]
    fn numbers_are_told_as_prometheus_reads_them() {
        count("TestCall", tonic::Code::Aborted, Duration::from_millis(1500));
        let write = OperationStats {
            answered: 3,
            microseconds: 1_500_000,
            within: [(100, 1), (1_000_000, 3)].into(),
        };
        let put = RequestStats { answered: 4, failed: 1, bytes: 9, microseconds: 250_000 };
        let stats = Stats {
            dirty_bytes: 7,
            operations: [("write".to_owned(), write)].into(),
            requests: [("put".to_owned(), put)].into(),
            errors: [("EIO".to_owned(), 2)].into(),
            caches: [("memory".to_owned(), (5, 6))].into(),
            ..Stats::default()
        };
        let served = Volume {
            id: "b/\"x\"".to_owned(),
            served: true,
            stats: Some(stats),
            ..Volume::default()
        };
        let silent = Volume { id: "c".to_owned(), unserved_seconds: 9, ..Volume::default() };
        let text = text(&[served, silent]);
        for line in [
            "# TYPE strongroom_csi_calls_total counter",
            "strongroom_csi_calls_total{call=\"TestCall\",code=\"Aborted\"} 1",
            "strongroom_csi_call_seconds_total{call=\"TestCall\",code=\"Aborted\"} 1.5",
            "strongroom_volume_served{volume=\"b/\\\"x\\\"\"} 1",
            "strongroom_volume_dirty_bytes{volume=\"b/\\\"x\\\"\"} 7",
            "strongroom_volume_operation_seconds_bucket{volume=\"b/\\\"x\\\"\",operation=\"write\",le=\"0.0001\"} 1",
            "strongroom_volume_operation_seconds_bucket{volume=\"b/\\\"x\\\"\",operation=\"write\",le=\"1\"} 3",
            "strongroom_volume_operation_seconds_bucket{volume=\"b/\\\"x\\\"\",operation=\"write\",le=\"+Inf\"} 3",
            "strongroom_volume_operation_seconds_sum{volume=\"b/\\\"x\\\"\",operation=\"write\"} 1.5",
            "strongroom_volume_operation_seconds_count{volume=\"b/\\\"x\\\"\",operation=\"write\"} 3",
            "strongroom_volume_errors_total{volume=\"b/\\\"x\\\"\",errno=\"EIO\"} 2",
            "strongroom_volume_store_requests_total{volume=\"b/\\\"x\\\"\",verb=\"put\",result=\"failed\"} 1",
            "strongroom_volume_store_seconds_total{volume=\"b/\\\"x\\\"\",verb=\"put\"} 0.25",
            "strongroom_volume_store_bytes_total{volume=\"b/\\\"x\\\"\",verb=\"put\"} 9",
            "strongroom_volume_cache_reads_total{volume=\"b/\\\"x\\\"\",cache=\"memory\",result=\"miss\"} 6",
            "strongroom_volume_served{volume=\"c\"} 0",
            "strongroom_volume_unserved_seconds{volume=\"c\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        // What nobody has said is not told.
        assert!(!text.contains("dirty_bytes{volume=\"c\"}"), "{text}");
    }
}
