//! What a worker finds in the memory that a former one left, and what comes over its socket.

use strongroom::fs::ledger;
use strongroom::fs::objects::remembered::parse_entry;
use strongroom::fs::remembered::check_entry;
use strongroom::tool::attach::protocol::{
    Answer, Hello, Request, Secrets, Settings, VERSION, encode, parse,
};

/// The whole memory: what is read of it can be written and read again.
pub(super) fn ledger(input: &[u8]) {
    let Ok(found) = ledger::read(input) else { return };
    for (key, value) in &found.entries {
        let _ = check_entry(key, value);
    }
    if found.entries.len() < 100 {
        let again =
            ledger::read(&ledger::written(&found.entries)).expect("what was written is read");
        let sorted = |found: ledger::Found| {
            let mut entries = found.entries;
            entries.sort();
            entries
        };
        assert!(!again.damaged);
        assert_eq!(sorted(again), sorted(found));
    }
}

pub(super) fn ledger_seeds() -> Vec<Vec<u8>> {
    let entries: Vec<(Vec<u8>, Vec<u8>)> = entry_seeds()
        .into_iter()
        .map(|seed| {
            (seed[1..][..usize::from(seed[0])].to_vec(), seed[1 + usize::from(seed[0])..].to_vec())
        })
        .collect();
    vec![ledger::written(&[]), ledger::written(&entries)]
}

/// A byte of the key's length, the key, the value.
pub(super) fn state_entry(input: &[u8]) {
    let Some((length, rest)) = input.split_first() else { return };
    let (key, value) = rest.split_at(usize::from(*length).min(rest.len()));
    let _ = check_entry(key, value);
}

/// The same of a mount of files.
pub(super) fn files_entry(input: &[u8]) {
    let Some((length, rest)) = input.split_first() else { return };
    let (key, value) = rest.split_at(usize::from(*length).min(rest.len()));
    let _ = parse_entry(key, value);
}

pub(super) fn files_entry_seeds() -> Vec<Vec<u8>> {
    let entry = |letter: u8, value: &[u8]| {
        let mut seed = vec![9, letter, 0, 0, 0, 0, 0, 0, 0, 7];
        seed.extend_from_slice(value);
        seed
    };
    // In protobuf: a file with a name and an object with metadata, an open file, a change of names.
    let found = [0x7a, 16, 0x08, 5, 0x1a, 2, b'e', b't', 0x32, 6, 0x0a, 1, b'a', 0x12, 1, b'b'];
    let node = [&[0x08, 1, 0x12, 2, b'n', b'm', 0x18, 0xa4, 0x83, 2, 0x38, 5][..], &found].concat();
    let open = [0x0a, 6, 0x08, 7, 0x10, 3, 0x28, 9, 0x10, 1];
    vec![
        entry(b'N', &node),
        entry(b'L', &[3, 0, 0, 0, 0, 0, 0, 0]),
        entry(b'H', &open),
        entry(b'D', &[1, 0, 0, 0, 0, 0, 0, 0]),
        entry(b'R', &[0x10, 7, 0x18, 1]),
        b"\x01F1".to_vec(),
    ]
}

pub(super) fn entry_seeds() -> Vec<Vec<u8>> {
    let entry = |letter: u8, value: &[u8]| {
        let mut seed = vec![9, letter, 0, 0, 0, 0, 0, 0, 0, 7];
        seed.extend_from_slice(value);
        seed
    };
    // In protobuf: the ids, places and ranges that each kind of entry begins with.
    let id = [&[0x12, 16][..], &[5; 16]].concat();
    let place = [&[0x22, 22, 0x0a, 16][..], &[6; 16], &[0x12, 2, b'n', b'm']].concat();
    let run = [
        &[0x08, 0, 0x10, 100, 0x1a, 28, 0x0a, 16][..],
        &[7; 16],
        &[0x10, 1, 0x18, 1, 0x20, 100, 0x28, 100, 0x38, 1],
    ]
    .concat();
    vec![
        entry(b'N', &[id, place].concat()),
        entry(b'C', &run),
        entry(b'C', &[0x08, 5, 0x10, 3, 0x22, 3, 1, 2, 3]),
        entry(b'H', &[0x08, 7, 0x10, 3, 0x28, 9]),
        entry(b'R', &[0x08, 1]),
        entry(b'A', &[0x0a, 2, 0x08, 1]),
        vec![1, b'I', 0x0a, 1, 0],
        vec![1, b'S', 0x18, 9],
    ]
}

/// Any message of either side.
pub(super) fn attach_message(input: &[u8]) {
    if let Ok(hello) = parse::<Hello>(input) {
        let _ = hello.settings.check();
        let again: Hello = parse(&encode(&hello)).expect("what was encoded is read");
        assert_eq!((again.version, again.settings), (hello.version, hello.settings));
    }
    if let Ok(request) = parse::<Request>(input) {
        let again: Request = parse(&encode(&request)).expect("what was encoded is read");
        assert_eq!(format!("{again:?}"), format!("{request:?}"));
    }
    if let Ok(answer) = parse::<Answer>(input) {
        assert_eq!(parse::<Answer>(&encode(&answer)), Ok(answer));
    }
}

pub(super) fn message_seeds() -> Vec<Vec<u8>> {
    let mut secrets = Secrets::default();
    secrets.passphrase = Some("p\"\n".to_owned());
    let mut settings = Settings { url: "s3://b/p//".to_owned(), ..Settings::default() };
    settings.options.insert("memory_limit".to_owned(), "64MiB".into());
    let credentials = Request::Credentials { secrets: secrets.copied() };
    vec![
        encode(&Hello { version: VERSION, settings, secrets }).to_vec(),
        encode(&credentials).to_vec(),
        encode(&Request::Drain { within: 1000 }).to_vec(),
        encode(&Answer::Stats(Default::default())).to_vec(),
        encode(&Answer::Drained { bytes_left: 1, failures: vec!["f".to_owned()] }).to_vec(),
    ]
}
