//! A store behind nginx that asks for client certificates, and certificates that are replaced while a volume is mounted.

mod support;

use nix::sys::signal::{Signal, kill};
use std::fs;
use support::authority::Authority;
use support::calls::{refused, text};
use support::gate::{Gate, Identity};
use support::minio::Minio;
use support::{Driver, wait_for};
use tonic::Code;

#[test]
fn certificates_that_are_replaced_are_used_by_a_volume_that_stays_mounted() {
    let (first, second) = (Authority::new(), Authority::new());
    let minio = Minio::shared();
    let gate = Gate::start(&first, &first, &minio.endpoint);
    let (identity, folder) = (Identity::new(&first), tempfile::tempdir().expect("a folder"));
    let trusted = folder.path().join("ca.crt");
    let trust = |authority: &Authority| {
        let next = trusted.with_extension("next");
        fs::copy(authority.file(), &next).expect("copied");
        fs::rename(&next, &trusted).expect("renamed");
    };
    trust(&first);
    let (ca, certificate, key) =
        (text(&trusted), text(&identity.certificate()), text(&identity.key()));
    let flags = ["--ca-bundle", &ca, "--client-cert", &certificate, "--client-key", &key];
    let mut driver = Driver::start_with(minio, &flags);
    driver.endpoint = Some(gate.endpoint());
    let made = driver.make("pvc-1");
    driver.attach(&made);
    fs::write(made.target.join("before"), "before").expect("stored");

    // All of them at once: what the server shows, whom it trusts, whom we trust, who we are.
    identity.replace(&second);
    trust(&second);
    gate.replace(&second, &second);
    fs::write(made.target.join("after"), "after").expect("stored with the new certificates");
    assert_eq!(fs::read_to_string(made.target.join("before")).expect("read"), "before");
    assert!(!driver.condition(&made).abnormal);
    let [worker] = driver.workers()[..] else { panic!("one volume, one worker") };
    kill(worker, Signal::SIGKILL).expect("it runs");
    fs::write(made.target.join("later"), "later").expect("stored by the next worker");
    wait_for("the next worker", || driver.workers().first().is_some_and(|next| *next != worker));
    // The controller as well.
    let other = driver.make("pvc-2");
    driver.delete(&other.id).expect("deleted");

    // A certificate that nobody has signed for this server is told for what it is.
    trust(&first);
    let said = ["certificate", "--ca-bundle"];
    refused(driver.create(driver.wish("pvc-3")), Code::FailedPrecondition, &said);
    trust(&second);
    // Nor is a client without one.
    let nobody = Driver::start_with(Minio::shared(), &flags[..2]);
    let mut wish = nobody.wish("pvc-4");
    wish.secrets.insert("endpoint".to_owned(), gate.endpoint());
    refused(nobody.create(wish), Code::InvalidArgument, &["client certificate", "--client-key"]);
    driver.detach(&made);
    driver.attach(&made);
    for name in ["before", "after", "later"] {
        assert_eq!(fs::read_to_string(made.target.join(name)).expect("read"), name);
    }
    driver.detach(&made);
}
