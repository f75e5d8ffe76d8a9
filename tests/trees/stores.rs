//! Several stores in one command, and how much is asked of one.

use crate::support::front::most_at_once;
use crate::support::minio::Minio;
use crate::support::{Backend, Volume, random_bytes, set_mode};
use crate::text;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[test]
fn no_more_requests_are_under_way_than_were_allowed() {
    let volume = Volume::new(Backend::Minio);
    let upstream = volume.minio.as_ref().expect("a server").endpoint.clone();
    let upstream = upstream.trim_start_matches("http://").parse().expect("an address");
    let source = volume.local("source");
    fs::create_dir(&source).expect("made");
    for index in 0..60 {
        fs::write(source.join(index.to_string()), random_bytes(index, 5000)).expect("written");
    }
    for (flag, allowed) in [("2", 1..=2), ("64", 3..=64)] {
        let (endpoint, most) = most_at_once(upstream);
        let to = volume.at(flag);
        let push = ["push", "-r", text(&source), &to, "--concurrency", flag];
        volume.tool(push.iter().chain(&["--endpoint", &endpoint])).succeeded();
        let most = most.load(Ordering::SeqCst);
        assert!(allowed.contains(&most), "--concurrency {flag}: {most} at once");
    }
}

#[test]
fn a_rate_is_in_megabits_a_second() {
    let volume = Volume::new(Backend::Minio);
    let bytes = random_bytes(1, 4_000_000);
    let start = Instant::now();
    volume.tool_with_input(["push", "-", &volume.at("x"), "--rate-limit", "8"], &bytes).succeeded();
    // 32 megabits: some four seconds. Had it been megabytes, half of one.
    let took = start.elapsed();
    assert!(took > Duration::from_secs(2), "{took:?}");
}

/// Two repositories that have nothing in common: servers, keys and passphrases of their own.
#[test]
fn one_input_goes_to_volumes_of_several_stores() {
    let volume = Volume::new(Backend::Minio);
    let elsewhere = Minio::start();
    let bucket = elsewhere.new_bucket();
    let other = format!("s3://{bucket}/second");
    let (config, passphrase) = (volume.local("config.toml"), volume.local("second"));
    fs::write(&passphrase, "of the second one, which is another").expect("written");
    set_mode(&passphrase, 0o600);
    let credentials = volume.local("credentials");
    fs::write(
        &credentials,
        format!(
            "[offsite]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            elsewhere.access_key, elsewhere.secret_key
        ),
    )
    .expect("written");
    let text = format!(
        "[at.\"s3://{bucket}\"]\nendpoint = \"{}\"\nprofile = \"offsite\"\npassphrase_file = \"{}\"\n",
        elsewhere.endpoint,
        passphrase.display()
    );
    fs::write(&config, text).expect("written");
    let tool = |arguments: &[&str], input: Option<&[u8]>| {
        let mut command = volume.command(arguments);
        command.env("STRONGROOM_CONFIG", &config);
        command.env("AWS_SHARED_CREDENTIALS_FILE", &credentials);
        volume.run(&mut command, input)
    };
    tool(&["init", &other, "--kdf", "raw"], None).succeeded();
    let bytes = random_bytes(5, 9_000_000);
    let (first, also) = (volume.at("piped"), format!("{other}/piped"));
    tool(&["push", "-", &first, "--also", &also], Some(&bytes)).succeeded();
    for url in [&also, &first, &also] {
        assert!(tool(&["cat", url], None).succeeded_with_bytes() == bytes, "{url}");
    }
    let listed = tool(&["key", "list", &other], None).succeeded();
    assert!(listed.contains("raw"), "{listed}");
    tool(&["doctor", &other], None).succeeded();
    // Without that section it is looked for where everything else is.
    volume.tool(["ls", &other]).failed_saying(&[&bucket]);
    // Nor does the other's passphrase open it.
    fs::write(&passphrase, &volume.passphrase).expect("written");
    tool(&["ls", &other], None).failed_saying(&["wrong passphrase"]);
}
