//! Stores that are there again after a while: a server that was killed or silent, a disk that was full. What was
//! acknowledged is there, what was not is either stored in the end or reported.

use crate::support::{Backend, Volume, minio::Minio, random_bytes, wait_for};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_server_gone_for_a_minute_costs_a_minute_and_nothing_else() {
    let volume = Volume::on(Minio::start());
    let minio = volume.minio.clone().expect("a server");
    let understudy = minio.understudy();
    let mount = volume.mount();
    fs::write(mount.join("before"), "stored before").expect("written");
    let content = random_bytes(7, 40_000_000);
    let mut file = File::create(mount.join("during")).expect("created");
    file.write_all(&content[..10_000_000]).expect("written");
    minio.kill();
    let gone_at = Instant::now();
    let again = {
        let minio = minio.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(60));
            minio.start_again(understudy);
        })
    };
    // Writes go on into memory, and fsync waits for the server.
    file.write_all(&content[10_000_000..]).expect("written");
    file.sync_all().expect("stored when the server is back");
    assert!(gone_at.elapsed() >= Duration::from_secs(60), "acknowledged without a server");
    again.join().expect("the server is back");
    drop(file);
    assert_eq!(fs::read(mount.join("before")).expect("read"), b"stored before");
    let killed = mount.kill9();
    let mount = volume.mount_at(killed, &[]);
    assert!(fs::read(mount.join("during")).expect("read") == content);
    mount.unmount();
}

#[test]
fn a_server_gone_for_longer_than_the_limit_is_an_error_and_what_was_written_is_kept() {
    let volume = Volume::on(Minio::start());
    let minio = volume.minio.clone().expect("a server");
    let mount = volume.mount_with(&["--io-timeout", "3s"]);
    let mut file = File::create(mount.join("file")).expect("created");
    file.write_all(b"kept in memory").expect("written");
    minio.pause();
    let error = file.sync_all().expect_err("nothing was stored");
    let expected = [libc::EIO, libc::ETIMEDOUT];
    assert!(expected.contains(&error.raw_os_error().unwrap_or(0)), "{error}");
    let started = Instant::now();
    fs::metadata(mount.join("never seen")).expect_err("the store cannot be asked");
    assert!(started.elapsed() < Duration::from_secs(20), "it hangs");
    // What needs no store does not wait for it.
    let started = Instant::now();
    assert_eq!(file.metadata().expect("from memory").len(), 14);
    assert!(nix::sys::statvfs::statvfs(&mount.path).expect("from memory").blocks_available() > 0);
    assert!(started.elapsed() < Duration::from_secs(1), "it asks the store");
    let url = volume.at("file");
    volume.tool(["cat", &url, "--io-timeout", "3s"]).failed_saying(&["does not answer"]);
    minio.resume();
    // Nobody asks for it again: the mount stores it by itself.
    wait_for("the file to be stored", || {
        volume.tool(["cat", &url]).output.stdout == b"kept in memory"
    });
    drop(file);
    mount.unmount();
}

#[test]
fn a_full_store_is_enospc_and_takes_what_was_written_once_there_is_room() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let volume = Volume::place(Backend::Dir);
    let store = volume.store();
    fs::create_dir(&store).expect("made");
    mount(Some("tmpfs"), &store, Some("tmpfs"), MsFlags::empty(), Some("size=24m")).expect("tmpfs");
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = umount2(self.0, MntFlags::MNT_DETACH);
        }
    }
    let _unmount = Unmount(&store);
    volume.tool(["init", &volume.url, "--kdf", "raw"]).succeeded();
    let mount = volume.mount();
    let small = random_bytes(1, 3_000_000);
    fs::write(mount.join("stored"), &small).expect("there is room");
    let ballast = store.join("ballast");
    fs::write(&ballast, vec![1; 17_000_000]).expect("there is room");

    let content = random_bytes(2, 9_000_000);
    let mut file = File::create(mount.join("file")).expect("created");
    file.write_all(&content).expect("memory takes it");
    let error = file.sync_all().expect_err("there is no room");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(mount.log().contains("full") || mount.log().contains("No space"), "{}", mount.log());
    let local = volume.local("local");
    fs::write(&local, &content).expect("written");
    let path = local.to_str().expect("temporary paths are text");
    volume.tool(["push", path, &volume.at("pushed")]).failed_saying(&["full"]);
    assert!(fs::read(mount.join("stored")).expect("read") == small);

    fs::remove_file(&ballast).expect("removed");
    file.sync_all().expect("there is room again");
    drop(file);
    mount.unmount();
    let mount = volume.mount();
    assert!(fs::read(mount.join("file")).expect("read") == content);
    assert!(fs::read(mount.join("stored")).expect("read") == small);
    mount.unmount();
}
