//! What Prometheus can ask: every number is a row of one of the two tables here. No secret and no file's name is
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
use strongroom::tool::attach::protocol::Stats;
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
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("metrics at {address}: {error}")))?;
    let answer = move || {
        let source = source.clone();
        async move { ([(CONTENT_TYPE, FORMAT)], text(&source().await)) }
    };
    let router = Router::new().route("/metrics", get(answer));
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
            metric.add(&[("call", call), ("code", code)], value(calls));
        }
    }
    for (name, kind, help, value) in OF_VOLUMES {
        let mut metric = Metric::new(&mut text, name, kind, help);
        for volume in volumes {
            if let Some(value) = value(volume) {
                metric.add(&[("volume", &volume.id)], value);
            }
        }
    }
    text
}

struct Metric<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl<'a> Metric<'a> {
    fn new(text: &'a mut String, name: &'a str, kind: &str, help: &str) -> Self {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Self { text, name }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let quoted = labels.iter().map(|(label, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{label}=\"{value}\"")
        });
        let labels = quoted.collect::<Vec<_>>().join(",");
        let _ = writeln!(self.text, "{}{{{labels}}} {value}", self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_prometheus_reads_them() {
        count("TestCall", tonic::Code::Aborted, Duration::from_millis(1500));
        let stats = Stats { dirty_bytes: 7, ..Stats::default() };
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
            "strongroom_volume_served{volume=\"c\"} 0",
            "strongroom_volume_unserved_seconds{volume=\"c\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        // What nobody has said is not told.
        assert!(!text.contains("dirty_bytes{volume=\"c\"}"), "{text}");
    }
}
