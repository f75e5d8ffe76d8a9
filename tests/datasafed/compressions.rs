//! Every compression in every form of encryption: what one program stored the other one reads.

use crate::programs::{BOTH, Program};
use crate::worlds::{Place, World};

const NAMES: [&str; 18] = [
    "deflate-best-compression",
    "deflate-best-speed",
    "deflate-default",
    "gzip",
    "gzip-best-compression",
    "gzip-best-speed",
    "lz4",
    "pgzip",
    "pgzip-best-compression",
    "pgzip-best-speed",
    "s2-better",
    "s2-default",
    "s2-parallel-4",
    "s2-parallel-8",
    "zstd",
    "zstd-best-compression",
    "zstd-better-compression",
    "zstd-fastest",
];

/// Such as compresses, such as does not, and next to nothing.
fn contents() -> [Vec<u8>; 3] {
    let text: Vec<u8> =
        (0..150_000_u32).flat_map(|n| format!("{}\n", n % 977).into_bytes()).collect();
    [text, crate::support::random_bytes(7, 1_300_000), b"x".to_vec()]
}

fn exchange(world: &World) {
    for name in NAMES {
        for (number, content) in contents().iter().enumerate() {
            for writer in BOTH {
                let path = format!("{name}/{number}");
                let push = world.call(writer, writer, ["push", "-z", name, "-", &path]);
                push.run_with(Some(content)).good();
                for reader in BOTH {
                    let pull = world.call(reader, writer, ["pull", "-d", name, &path, "-"]);
                    let back = pull.run().good();
                    assert!(back == *content, "{name} {number}: {writer:?} to {reader:?}");
                }
            }
        }
    }
}

#[test]
fn every_compression_is_read_by_the_other_program_from_a_bucket() {
    let world = World::new(Place::Bucket).encrypted("AES-256-CFB");
    let [content, ..] = contents();
    for name in NAMES {
        for writer in BOTH {
            let push = world.call(writer, writer, ["push", "-z", name, "-", name]);
            push.run_with(Some(&content)).good();
            for reader in BOTH {
                let back = world.call(reader, writer, ["pull", "-d", name, name, "-"]).run().good();
                assert!(back == content, "{name}: {writer:?} to {reader:?}");
            }
        }
    }
}

#[test]
fn what_left_in_parts_is_read_by_the_other_program() {
    let content = crate::support::random_bytes(11, 60_000_000);
    for world in [World::new(Place::Bucket), World::new(Place::Prefix).encrypted("AES-256-CFB")] {
        for writer in BOTH {
            world.call(writer, writer, ["push", "-", "dir/long"]).run_with(Some(&content)).good();
            let sizes = BOTH.map(|reader| {
                let back = world.call(reader, writer, ["pull", "dir/long", "-"]).run().good();
                assert!(back == content, "{writer:?} to {reader:?}");
                let sizes = world.call(reader, writer, ["stat", "dir/long"]).run().good();
                String::from_utf8(sizes).expect("text")
            });
            assert_eq!(sizes[0], sizes[1]);
        }
    }
}

#[test]
fn every_compression_is_read_by_the_other_program() {
    exchange(&World::new(Place::Directory));
}

#[test]
fn every_compression_is_read_by_the_other_program_encrypted() {
    exchange(&World::new(Place::Mounted).encrypted("AES-256-CFB"));
}

#[test]
fn every_length_of_key_is_read_by_the_other_program_and_by_openssl() {
    for (algorithm, cipher) in [
        ("AES-128-CFB", "aes-128-cfb"),
        ("AES-192-CFB", "aes-192-cfb"),
        ("AES-256-CFB", "aes-256-cfb"),
    ] {
        let world = World::new(Place::Directory).encrypted(algorithm);
        for length in [0, 1, 15, 16, 17, 131_071, 9_000_000] {
            let content = crate::support::random_bytes(length as u64, length);
            for writer in BOTH {
                let path = length.to_string();
                world.call(writer, writer, ["push", "-", &path]).run_with(Some(&content)).good();
                for reader in BOTH {
                    let back = world.call(reader, writer, ["pull", &path, "-"]).run().good();
                    assert!(back == content, "{algorithm} {length}: {writer:?} to {reader:?}");
                }
            }
            let stored = world.directory(Program::Ours).join(format!("{length}.enc"));
            assert_eq!(opened_by_openssl(&world, cipher, &stored), content, "{algorithm} {length}");
        }
    }
}

/// The content of an object, by another implementation of cipher and derivation altogether.
fn opened_by_openssl(world: &World, cipher: &str, stored: &std::path::Path) -> Vec<u8> {
    let (_, passphrase) = world.encryption.expect("it is encrypted");
    let length = match cipher {
        "aes-128-cfb" => 16,
        "aes-192-cfb" => 24,
        _ => 32,
    };
    let key = openssl(
        &[
            "kdf",
            "-keylen",
            "32",
            "-kdfopt",
            "digest:SHA256",
            "-kdfopt",
            &format!("hexkey:{}", hex(passphrase.as_bytes())),
            "-kdfopt",
            &format!("hexsalt:{}", hex(b"encryption")),
            "-binary",
            "HKDF",
        ],
        &[],
    );
    let object = std::fs::read(stored).expect("stored");
    let (iv, text) = object.split_at(16);
    openssl(
        &["enc", "-d", &format!("-{cipher}"), "-K", &hex(&key[..length]), "-iv", &hex(iv)],
        text,
    )
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(input));
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "openssl {arguments:?}");
        output.stdout
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
