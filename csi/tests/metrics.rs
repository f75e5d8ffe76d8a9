//! What Prometheus finds on the node plugin's port, after real calls, writes, outages and kills: every series of the
//! table in docs/operations.md.

mod support;

use nix::sys::signal::{Signal, kill};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use support::minio::{Minio, free_address};
use support::{Driver, Process, wait_for};

const MIB: usize = 1 << 20;

/// A scrape: values by name and labels, as they are written.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    fn of(address: SocketAddr) -> Self {
        let mut connection = TcpStream::connect(address).expect("it listens");
        let request = b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
        connection.write_all(request).expect("asked");
        let mut text = String::new();
        connection.read_to_string(&mut text).expect("answered");
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("version=0.0.4"), "{text}");
        let (_, body) = text.split_once("\r\n\r\n").expect("a body");
        let lines = body.lines().filter(|line| line.starts_with("strongroom_"));
        let values = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self(values.collect())
    }

    /// A series of the volume; 0 where it is not there.
    fn get(&self, name: &str, labels: &str) -> f64 {
        let is_it = |key: &String| {
            let (known, rest) = key.split_once('{').unwrap_or((key, ""));
            known == format!("strongroom_{name}") && rest.contains(labels)
        };
        let found: Vec<_> = self.0.iter().filter(|(key, _)| is_it(key)).collect();
        assert!(found.len() <= 1, "{name}: {found:?}");
        found.first().map_or(0.0, |(_, value)| **value)
    }
}

#[test]
fn every_series_says_what_happened() {
    let mut driver = Driver::start_with(Arc::new(Minio::start()), &[]);
    let address = free_address();
    driver.node_flags = vec![format!("--metrics={address}")];
    driver.restart(Process::Node);
    let scrape = || Scrape::of(address);
    let next_store = driver.minio.understudy();
    let made = driver.make("pvc-1");
    driver.attach(&made);
    let known = scrape();
    let of_volume = format!("volume=\"{}\"", made.id);
    for (name, labels, value) in [
        ("csi_calls_total", "call=\"NodeStageVolume\",code=\"Ok\"", 1.0),
        ("csi_calls_total", "call=\"NodePublishVolume\",code=\"Ok\"", 1.0),
        ("volume_served", &*of_volume, 1.0),
        ("volume_unserved_seconds", &of_volume, 0.0),
        ("volume_pods", &of_volume, 1.0),
        ("volume_dirty_bytes", &of_volume, 0.0),
        ("volume_open_files", &of_volume, 0.0),
        ("volume_lost_files", &of_volume, 0.0),
        ("volume_takeovers_total", &of_volume, 0.0),
        ("volume_store_reachable", &of_volume, 1.0),
    ] {
        assert_eq!(known.get(name, labels), value, "{name}");
    }
    assert!(known.get("volume_dirty_limit_bytes", &of_volume) >= MIB as f64);
    assert!(known.get("csi_call_seconds_total", "call=\"NodeStageVolume\",code=\"Ok\"") > 0.0);

    // Written and read.
    let path = made.target.join("file");
    let mut file = File::create(&path).expect("created");
    file.write_all(&vec![7; 3 * MIB]).and_then(|()| file.sync_all()).expect("stored");
    let written = scrape();
    let grown = |now: &Scrape, before: &Scrape, name: &str, labels: &str| {
        now.get(name, labels) - before.get(name, labels)
    };
    let (put, answered) = ("verb=\"put\"", "verb=\"put\",result=\"answered\"");
    assert!(grown(&written, &known, "volume_store_bytes_total", put) >= 3.0 * MIB as f64);
    assert!(grown(&written, &known, "volume_store_requests_total", answered) >= 2.0);
    assert!(grown(&written, &known, "volume_store_seconds_total", put) > 0.0);
    let writes = "operation=\"write\"";
    let count = grown(&written, &known, "volume_operation_seconds_count", writes);
    assert!((3.0..=800.0).contains(&count), "{count}");
    assert!(grown(&written, &known, "volume_operation_seconds_sum", writes) > 0.0);
    let all = format!("{writes},le=\"+Inf\"");
    assert_eq!(
        written.get("volume_operation_seconds_bucket", &all),
        written.get("volume_operation_seconds_count", writes)
    );
    assert_eq!(written.get("volume_open_files", &of_volume), 1.0);
    assert_eq!(written.get("volume_dirty_bytes", &of_volume), 0.0);
    drop(file);
    let reader = File::open(&path).expect("opened");
    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    nix::fcntl::posix_fadvise(&reader, 0, 0, advice).expect("not in the kernel's memory");
    reader.read_exact_at(&mut vec![0; 3 * MIB], 0).expect("read");
    drop(reader);
    let read = scrape();
    let reads = |now: &Scrape| {
        let of = |result| {
            now.get("volume_cache_reads_total", &format!("cache=\"memory\",result=\"{result}\""))
        };
        of("hit") + of("miss")
    };
    assert!(reads(&read) > reads(&written));
    assert!(grown(&read, &written, "volume_operation_seconds_count", "operation=\"read\"") >= 1.0);

    // An error that the file system answers.
    fs::create_dir(made.target.join("full")).expect("made");
    fs::write(made.target.join("full/entry"), "x").expect("written");
    fs::remove_dir(made.target.join("full")).expect_err("it is not empty");
    let refused = scrape();
    assert!(grown(&refused, &read, "volume_errors_total", "errno=\"ENOTEMPTY\"") >= 1.0);

    // The store away: bytes wait, which is told, and what failed is counted.
    let file = OpenOptions::new().write(true).open(&path).expect("opened");
    driver.minio.kill();
    file.write_all_at(&vec![8; 2 * MIB], 0).expect("taken");
    wait_for("an outage that is told", || {
        // As kubelet asks every minute.
        driver.condition(&made).abnormal
            && scrape().get("volume_store_reachable", &of_volume) == 0.0
    });
    let away = scrape();
    assert!(away.get("volume_dirty_bytes", &of_volume) >= 2.0 * MIB as f64);
    assert_eq!(away.get("volume_open_files", &of_volume), 1.0);
    let failed = |now: &Scrape| {
        let failed = now.0.iter().filter(|(key, _)| key.contains("result=\"failed\""));
        failed.map(|(_, value)| value).sum::<f64>()
    };
    wait_for("requests that fail", || failed(&scrape()) > failed(&refused));
    driver.minio.start_again(next_store);
    file.sync_all().expect("stored");
    wait_for("the end of the outage", || {
        let is_abnormal = driver.condition(&made).abnormal;
        let now = scrape();
        !is_abnormal
            && now.get("volume_store_reachable", &of_volume) == 1.0
            && now.get("volume_dirty_bytes", &of_volume) == 0.0
    });
    drop(file);

    // A worker that is killed: another one serves, and says that it is the second.
    kill(driver.workers()[0], Signal::SIGKILL).expect("killed");
    fs::write(made.target.join("after"), "x").expect("written");
    let after = scrape();
    assert_eq!(after.get("volume_takeovers_total", &of_volume), 1.0);
    assert_eq!(after.get("volume_served", &of_volume), 1.0);
    driver.detach(&made);
    let gone = scrape();
    assert!(!gone.0.keys().any(|key| key.contains(&of_volume)), "{:?}", gone.0);
    assert_eq!(gone.get("csi_calls_total", "call=\"NodeUnstageVolume\",code=\"Ok\""), 1.0);
}
