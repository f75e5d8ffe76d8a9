//! Texts: keys of objects, names in a directory store, URLs, the configuration and the passphrase file.

use super::sealed::{DIR, keyring};
use std::path::Path;
use strongroom::config::{ConfigFile, PassphraseSource, VolumeUrl, parse_duration, parse_size};
use strongroom::crypto::Suite;
use strongroom::store::{DirStore, Headers, list_line, machine_line};
use strongroom::units::{FileId, SegmentId, SessionId};
use strongroom::volume::native::keys;
use strongroom::volume::native::manifest::Manifest;
use strongroom::volume::objects::attributes::Told;

/// Keys as a listing gives them. Every key that is read is the one that would be written.
pub(super) fn object_keys(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for key in [text.to_string(), format!("{}{text}", keys::directory_prefix(DIR))] {
        for suite in [Suite::Aes256Gcm, Suite::None] {
            let keyring = keyring(suite);
            if let Some(name) = keys::entry_name(&keyring, DIR, &key) {
                assert_eq!(keys::entry(&keyring, DIR, &name).as_str(), key);
                assert_eq!(keys::entry_directory(&key), Some(DIR));
            }
        }
        if let Some(dir) = keys::entry_directory(&key) {
            assert!(key.starts_with(&keys::directory_prefix(dir)));
        }
        if let Some(inode) = keys::inode_id(&key) {
            assert_eq!(keys::inode(inode).as_str(), key);
        }
        if let Some((file, segment)) = keys::segment_id(&key) {
            assert_eq!(keys::segment(file, segment).as_str(), key);
        }
        if let Some(session) = keys::session_id(&key) {
            assert_eq!(keys::session(session).as_str(), key);
        }
    }
    // And the other way: every name has a key, which gives the name.
    if keys::is_name(input) {
        for suite in [Suite::Aes256Gcm, Suite::None] {
            let keyring = keyring(suite);
            let key = keys::entry(&keyring, DIR, input);
            assert!(key.as_str().split('/').all(|piece| !piece.is_empty() && piece.len() <= 240));
            let name = keys::entry_name(&keyring, DIR, key.as_str());
            assert_eq!(name.as_deref(), Some(input));
        }
    }
}

pub(super) fn key_seeds() -> Vec<Vec<u8>> {
    let segment = SegmentId { session: SessionId([4; 16]), counter: 7 };
    let mut texts = vec![
        keys::segment(FileId([2; 16]), segment).as_str().to_owned(),
        keys::session(SessionId([4; 16])).as_str().to_owned(),
        keys::inode(strongroom::units::InodeId([5; 16])).as_str().to_owned(),
        keys::DESCRIPTOR.to_owned(),
    ];
    for suite in [Suite::Aes256Gcm, Suite::None] {
        for name in [&b"name"[..], b"a b%.\xff", &[b'.'; 255], &[0xc3; 255]] {
            texts.push(keys::entry(&keyring(suite), DIR, name).as_str().to_owned());
        }
    }
    let names = [b"name".to_vec(), vec![0xfe; 255], b"..a".to_vec()];
    texts.into_iter().map(String::into_bytes).chain(names).collect()
}

/// A manifest whose MAC is taken for right: what it says must still make sense.
pub(super) fn manifest(input: &[u8]) {
    let read = Manifest::read_with(std::io::Cursor::new(input), |_, _| true);
    if let Ok(manifest) = read {
        let compared = manifest.compare();
        drop(compared);
    }
}

pub(super) fn manifest_seeds() -> Vec<Vec<u8>> {
    let id = "07".repeat(16);
    let header = format!(
        "{{\"strongroom_manifest\":1,\"volume\":\"{id}\",\"generation\":3,\"made_at\":-5}}\n"
    );
    let line = |at: &str| {
        format!(
            "{{\"path\":\"/a%0A\",\"at\":{at},\"kind\":\"file\",\"id\":\"{id}\",\"size\":5,\"content\":\"00\",\
             \"salt\":\"{id}\",\"publishes\":[1,18446744073709551615],\"changed\":9}}\n"
        )
    };
    let entry = line(&format!("{{\"entry\":{{\"dir\":\"{id}\",\"name\":\"a%0A\"}}}}"));
    let inode = line(&format!("{{\"inode\":\"{id}\"}}"));
    let end = |lines| format!("{{\"lines\":{lines},\"mac\":\"00\"}}\n");
    [format!("{header}{entry}{inode}{}", end(2)), format!("{header}{}", end(0)), header]
        .map(String::into_bytes)
        .into()
}

/// A key as the path of a file below a directory store, and a file's name as part of a key.
pub(super) fn store_names(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = DirStore::name_read(&text);
    let Some(key) = strongroom::store::Key::new(text) else { return };
    let path = DirStore::path_spelled(key.as_str());
    let mut read = String::new();
    for name in &path {
        let name = name.to_str().expect("names are ASCII");
        assert!(name.len() <= 255 && !matches!(name, "." | "..") && !name.contains('/'));
        let part = DirStore::name_read(name).expect("what is written is read");
        assert!(!name.starts_with('.'), "{name:?} could be the store's own folder");
        read.push_str(&part);
    }
    assert_eq!(read, key.as_str(), "read back from {}", path.display());
}

pub(super) fn store_name_seeds() -> Vec<Vec<u8>> {
    let long = format!("t/{}/{}", ".é%~@".repeat(60), "x".repeat(300));
    ["a/b", "a//b/", "..", ".strongroom-store", "t@/x~@", "%", "%2E@", &long]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

/// A volume's URL: parts fit each other, and what is shown of it is a URL of the same place.
pub(super) fn url(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(url) = text.parse::<VolumeUrl>() else { return };
    assert!(!url.path.starts_with('/') && !url.path.ends_with('/'), "{:?}", url.path);
    assert!(!url.path.split('/').any(|part| part == ".."));
    for root in url.candidates() {
        assert!(url.path.starts_with(root));
        let inside = url.inside(root);
        assert!(url.path.ends_with(inside) && !inside.starts_with('/'));
        let _ = VolumeUrl::directory(root);
    }
    let again: VolumeUrl = url.to_string().parse().expect("what is shown is a URL");
    assert_eq!((again.base, again.path), (url.base, url.path));
}

pub(super) fn url_seeds() -> Vec<Vec<u8>> {
    [
        "s3://bucket",
        "s3://bucket/prefix/path",
        "s3://bucket/prefix//dir/file",
        "s3://bucket///x",
        "file:///srv/volume",
        "file:///srv//a/./b/",
        "s3://b/../x",
        "gopher://x",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// The configuration file, and sizes and durations as they are written in it.
pub(super) fn config_file(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match ConfigFile::parse(&text, Path::new("config.toml")) {
        Ok(_) => {}
        Err(error) => assert!(error.to_string().contains("config.toml")),
    }
    let _ = parse_size(&text);
    let _ = parse_duration(&text);
}

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    [
        "endpoint = \"http://127.0.0.1:9000\"\nregion = \"eu\"\npath_style = true\n",
        "passphrase_file = \"/etc/key\"\nmemory_limit = \"256MiB\"\nio_timeout = '5m'\n",
        "durability = \"close\"\nallow_other = false\nprofile = \"é\"\n[x]\ny = 1979-05-27T07:32:00Z\n",
        "256MiB",
        "1.5e300 GB",
        "1h 30m 12s",
        "99999999999999999999y",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// The passphrase file: one line end goes, nothing else does.
pub(super) fn passphrase(input: &[u8]) {
    let Ok(passphrase) = PassphraseSource::parse_file(Path::new("key"), input) else {
        assert!(matches!(input, b"" | b"\n" | b"\r\n") || input.len() > 64 << 10);
        return;
    };
    let line_end = match input {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    };
    assert_eq!(passphrase.length(), input.len() - line_end);
}

pub(super) fn passphrase_seeds() -> Vec<Vec<u8>> {
    [&b"secret\n"[..], b"secret\r\n", b"\xff\0 \n\n", b"\n", b""].map(<[u8]>::to_vec).into()
}

/// Lines of `name=value`, as an object's headers have them. What they tell is told again by the headers that
/// it is put into.
pub(super) fn object_headers(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let metadata = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let told = Told::by(&Headers { content_type: None, metadata });
    let mut headers = Headers::default();
    told.put_into(&mut headers);
    let again = Told::by(&headers);
    let is_text = told.link.as_deref().is_none_or(|link| std::str::from_utf8(link).is_ok());
    // A target that is no text is the object's content, and no header.
    let link = told.link.clone().filter(|_| is_text);
    let rdev = told.rdev.filter(|rdev| *rdev != 0);
    assert_eq!(again, Told { link, rdev, ..told });
    assert!(headers.metadata.values().all(|value| value.is_ascii()));
}

pub(super) fn header_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "mode=33188\nuid=1000\ngid=100\nmtime=1500000000.25",
        "--symlink-target=..%2Fa%20b",
        "mode=0120777\nmtime=-1.5\nrdev=259",
        "mode=100664\nmtime=1e9",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// A line of a listing on a server of FTP, in either form: what is read of it is a name in a directory.
pub(super) fn ftp_line(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for line in text.lines() {
        if let Some(found) = list_line(line) {
            assert!(!found.name.is_empty() && !found.name.contains('/') && found.name != "..");
        }
        if let Some(found) = machine_line(line) {
            assert!(line.ends_with(&found.name) && !found.name.is_empty());
            assert!(!matches!(found.name.as_str(), "." | ".."));
        }
    }
}

pub(super) fn ftp_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "type=file;size=12;modify=20240715162245.5;UNIX.mode=0644; a b;c=d",
        "modify=20240715162245;type=dir; d",
        "type=cdir; .",
        "-rw-r--r--    1 0        0              12 Nov 05  2020 a file",
        "drwxr-xr-x    2 0        0            4096 Nov 05 13:46 dir",
        "lrwxrwxrwx    1 user     group            1 Feb 29 13:46 l -> x",
        "04-08-14  03:09PM                  403 readme.txt",
        "10-19-20  03:19PM       <DIR>          pub",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
