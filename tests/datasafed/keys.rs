//! Another passphrase or algorithm than a file was encrypted with: the original gives nonsense and says that all is well.

use crate::programs::{Outcome, Program};
use crate::support::random_bytes;
use crate::worlds::{PASSPHRASE, Place, World, bucket};
use strongroom::crypto::{Passphrase, Suite, datasafed::StreamKey};
use strongroom::store::{FileStore, Key};

const OTHER: [&[(&str, &str)]; 2] = [
    &[("DATASAFED_ENCRYPTION_PASS_PHRASE", "another one")],
    &[("DATASAFED_ENCRYPTION_ALGORITHM", "AES-128-CFB")],
];
const TOLD: &str = "another passphrase";

fn call(world: &World, program: Program, arguments: &[&str], with: &[(&str, &str)]) -> Outcome {
    let call = world.call(program, Program::Ours, arguments);
    call.envs(with.iter().copied()).run_with(Some(b"theirs"))
}

#[test]
fn what_another_key_has_encrypted_is_told_and_nothing_of_it_is_given() {
    for place in [Place::Bucket, Place::Prefix, Place::Azure, Place::Google] {
        let world = World::new(place).encrypted("AES-256-CFB");
        let ours = |arguments: &[&str], with: &[(&str, &str)]| {
            call(&world, Program::Ours, arguments, with)
        };
        for (name, length) in [("empty", 0), ("short", 1000), ("long", 20 << 20)] {
            let content = random_bytes(length as u64, length);
            let push = world.call(Program::Ours, Program::Ours, ["push", "-", name]);
            push.run_with(Some(&content)).good();
            for program in crate::programs::BOTH {
                let pulled = call(&world, program, &["pull", name, "-"], &[]).good();
                assert!(pulled == content, "{place:?}: {name} by {program:?}");
            }
            let target = world.local("there");
            std::fs::write(&target, "the former one").expect("written");
            for other in OTHER {
                let pulled = ours(&["pull", name, "-"], other);
                pulled.bad(&[TOLD, name]);
                assert!(pulled.stdout.is_empty(), "{place:?}: {name}");
                ours(&["pull", name, "there"], other).bad(&[TOLD]);
                let there = std::fs::read(&target).expect("read");
                assert_eq!(there, b"the former one", "{place:?}: {name}");
            }
        }
        // Compressed as well: the reason is told, not what the decompression makes of it.
        ours(&["push", "-z", "zstd", "-", "packed"], &[]).good();
        ours(&["pull", "-d", "zstd", "packed", "there"], OTHER[0]).bad(&[TOLD, "packed"]);
        // What the original has put in its place has nothing beside it.
        call(&world, Program::Real, &["push", "-", "long"], OTHER[0]).good();
        assert_eq!(ours(&["pull", "long", "-"], OTHER[0]).good(), b"theirs", "{place:?}");
        ours(&["push", "-", "long"], OTHER[1]).good();
        ours(&["pull", "long", "-"], &[]).bad(&[TOLD]);
        assert_eq!(ours(&["pull", "long", "-"], OTHER[1]).good(), b"theirs", "{place:?}");
    }
}

/// As a program does that writes over an object and keeps what is beside it.
#[test]
fn what_is_beside_a_file_that_was_replaced_refuses_nothing() {
    let world = World::new(Place::Bucket).encrypted("AES-256-CFB");
    call(&world, Program::Ours, &["push", "-", "x"], &[]).good();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let key = Key::new("x.enc").expect("a key");
    let put = |bytes: Vec<u8>, check: Option<String>| {
        runtime.block_on(async {
            let store = bucket(&world, Program::Ours).await;
            let (_, mut headers) = store.head_file(&key).await.expect("there");
            assert!(headers.metadata.contains_key("keycheck"));
            headers.metadata.extend(check.map(|check| ("keycheck".to_owned(), check)));
            store.put_file(&key, bytes.into(), &headers).await.expect("stored");
        });
    };
    let sealed = |passphrase: &str| {
        let passphrase = Passphrase::new(passphrase.as_bytes().to_vec());
        let sealing = StreamKey::derive(&passphrase, Suite::Aes256Cfb).expect("a key");
        let mut bytes = b"replaced".to_vec();
        sealing.encryptor_with_iv([7; 16]).update(&mut bytes);
        ([&[7; 16][..], &bytes].concat(), sealing.check(&[7; 16]))
    };
    let (bytes, check) = sealed("another one");
    put(bytes.clone(), None);
    assert_eq!(call(&world, Program::Ours, &["pull", "x", "-"], OTHER[0]).good(), b"replaced");
    for nonsense in ["", "-", "07", &check[..40], &format!("{check}0"), &check.replace("1-", "2-")]
    {
        put(bytes.clone(), Some(nonsense.to_owned()));
        let pulled = call(&world, Program::Ours, &["pull", "x", "-"], OTHER[0]).good();
        assert_eq!(pulled, b"replaced", "{nonsense:?}");
    }
    put(bytes, Some(check));
    assert_eq!(call(&world, Program::Ours, &["pull", "x", "-"], OTHER[0]).good(), b"replaced");
    call(&world, Program::Ours, &["pull", "x", "-"], &[]).bad(&[TOLD, "x.enc"]);
    let (bytes, check) = sealed(PASSPHRASE);
    put(bytes, Some(check));
    assert_eq!(call(&world, Program::Ours, &["pull", "x", "-"], &[]).good(), b"replaced");
}
