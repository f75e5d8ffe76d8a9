//! Nothing is stored plain where encryption is asked for, and nothing is deleted that should be retained: in every order
//! in which somebody may come to ask for it.

use crate::world::{World, at, secret};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use strongroom_csi::operator::crd::{AccessMethod, Phase, ReclaimPolicy};
use strongroom_csi::operator::names;

const WISH: &str = r#"{"algorithm":"AES-256-CFB","passPhraseSecretKeyRef":{"name":"backup-encryption","key":"secretKey"}}"#;

fn world(method: AccessMethod) -> World {
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = method;
    world
}

fn with_passphrase(world: &mut World) {
    let passphrase = secret("kb-system", "backup-encryption", &[("secretKey", "passphrase")]);
    world.observed.passphrase = Some(passphrase);
}

fn encrypted(method: AccessMethod) -> World {
    let mut world = world(method);
    world.annotate(names::ENCRYPTION, WISH);
    with_passphrase(&mut world);
    world
}

fn reason(world: &World) -> &str {
    &world.condition("EncryptionChecked").reason
}

#[test]
fn plain_configurations_are_taken_back_as_soon_as_encryption_is_asked_for() {
    let wishes: [(&str, bool, &str); 3] = [
        (WISH, false, "PassphraseNotFound"),
        ("{not JSON", true, "EncryptionInvalid"),
        // All is well with it, but the pre-check has not passed.
        (WISH, true, "EncryptionChecked"),
    ];
    for (wish, has_passphrase, expected) in wishes {
        let mut world = world(AccessMethod::Tool);
        world.ask("mysql");
        world.become_ready();
        assert!(world.config_in("mysql").is_some());
        world.annotate(names::ENCRYPTION, wish);
        if has_passphrase {
            with_passphrase(&mut world);
        }
        world.settle();
        assert_eq!(reason(&world), expected);
        assert!(
            world.config_in("mysql").is_none(),
            "{expected}: it would go on storing plain data"
        );
        if expected == "EncryptionChecked" {
            world.end_job(Ok(()));
            world.settle();
            let data = world.config_in("mysql").and_then(|config| config.data.as_ref());
            assert!(data.expect("data").contains_key("passphrase"));
        }
    }
}

#[test]
fn a_parameter_alone_encrypts_nothing_and_says_so() {
    for method in [AccessMethod::Tool, AccessMethod::Mount] {
        let mut world = world(method);
        world.observed.repo.spec.config.insert("encryption".to_owned(), Value::from("AES-256-CFB"));
        world.settle();
        assert_eq!((reason(&world), world.phase()), ("EncryptionInvalid", Phase::Failed));
        assert!(world.condition("EncryptionChecked").message.contains(names::ENCRYPTION));
        world.observed.repo.spec.config.insert("encryption".to_owned(), Value::from("none"));
        world.become_ready();
    }
}

#[test]
fn another_algorithm_is_refused_and_encryption_is_remembered_without_the_drivers_secret() {
    for method in [AccessMethod::Tool, AccessMethod::Mount] {
        let mut world = encrypted(method);
        world.become_ready();
        world.annotate(names::ENCRYPTION, &WISH.replace("256", "128"));
        world.settle();
        assert!(["AlgorithmChanged", "EncryptionNotSupported"].contains(&reason(&world)));

        let mut world = encrypted(method);
        world.ask("mysql");
        world.become_ready();
        world.observed.csi_secret = None;
        world.observed.repo.metadata.annotations.as_mut().expect("some").remove(names::ENCRYPTION);
        world.settle();
        assert_eq!(reason(&world), "EncryptionRemoved");
    }
    let mut world = encrypted(AccessMethod::Tool);
    world.ask("mysql");
    world.become_ready();
    world.observed.csi_secret = None;
    let other = secret("kb-system", "backup-encryption", &[("secretKey", "another")]);
    world.observed.passphrase = Some(other);
    world.settle();
    assert_eq!(reason(&world), "PassphraseChanged");
}

#[test]
fn what_a_tenant_writes_changes_nothing_for_the_others() {
    let forge = |world: &mut World, namespace: &str, passphrase: &str| {
        let mut forged = world.config_in("mysql").expect("given").clone();
        forged.metadata.namespace = Some(namespace.to_owned());
        let data = forged.data.get_or_insert_default();
        let value = k8s_openapi::ByteString(passphrase.as_bytes().to_vec());
        data.insert("passphrase".to_owned(), value);
        let is_other = |secret: &k8s_openapi::api::core::v1::Secret| {
            secret.metadata.namespace != forged.metadata.namespace
        };
        world.observed.secrets.retain(is_other);
        world.observed.secrets.push(forged);
    };
    // A plain repository is none that was encrypted.
    let mut plain = world(AccessMethod::Tool);
    plain.ask("mysql");
    plain.become_ready();
    for namespace in ["theirs", "mysql"] {
        forge(&mut plain, namespace, "forged");
        plain.settle();
        assert_eq!(plain.phase(), Phase::Ready, "{namespace}");
    }
    // An encrypted one has the passphrase that it had, also without the driver's Secret.
    let mut world = encrypted(AccessMethod::Tool);
    world.ask("mysql");
    world.ask("redis");
    world.become_ready();
    for namespace in ["theirs", "redis"] {
        world.observed.csi_secret = None;
        forge(&mut world, namespace, "forged");
        world.settle();
        assert_eq!(world.phase(), Phase::Ready, "{namespace}");
        assert_eq!(reason(&world), "EncryptionChecked");
    }
    let data = world.config_in("redis").and_then(|config| config.data.as_ref()).expect("data");
    assert_eq!(data["passphrase"].0, b"passphrase", "it is put right");
}

fn claim(world: &World, namespace: &str) -> Option<PersistentVolumeClaim> {
    let mut all = world.observed.claims.iter();
    all.find(|claim| claim.metadata.namespace.as_deref() == Some(namespace)).cloned()
}

#[test]
fn claims_of_a_former_class_are_not_taken_for_encrypted_ones() {
    let mut world = world(AccessMethod::Mount);
    world.ask("mysql");
    world.become_ready();
    for claim in &mut world.observed.claims {
        claim.metadata.creation_timestamp = Some(Time(at(0)));
    }
    // Somebody deletes the class so that it is made anew, encrypting.
    world.observed.storage_class = None;
    world.annotate(names::ENCRYPTION, WISH);
    with_passphrase(&mut world);
    world.settle();
    let class = world.observed.storage_class.as_mut().expect("made anew");
    class.metadata.creation_timestamp = Some(Time(at(60)));
    world.settle();
    assert_eq!(reason(&world), "EncryptionNotSupported");
    assert!(world.condition("EncryptionChecked").message.contains("mysql"));
    assert_eq!(world.phase(), Phase::Failed);
}

#[test]
fn a_claim_template_with_storage_of_its_own_is_not_encrypted() {
    for spec in [
        json!({"storageClassName": "fast"}),
        json!({"volumeName": "pv-1"}),
        json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}),
    ] {
        let mut world = encrypted(AccessMethod::Mount);
        let provider = world.observed.provider.as_mut().expect("a provider");
        let template = json!({"spec": spec}).to_string();
        provider.spec.persistent_volume_claim_template = Some(template);
        world.settle();
        // The class is made first.
        assert_eq!(reason(&world), "EncryptionNotSupported", "{spec}");
        assert!(world.observed.job.is_none() && world.observed.claims.is_empty());
    }
}

#[test]
fn a_policy_that_was_changed_to_retain_deletes_nothing() {
    let mut world = world(AccessMethod::Mount);
    world.observed.repo.spec.pv_reclaim_policy = ReclaimPolicy::Delete;
    world.ask("mysql");
    world.become_ready();
    world.observed.repo.spec.pv_reclaim_policy = ReclaimPolicy::Retain;
    world.settle();
    let message = &world.condition("StorageClassCreated").message;
    assert!(message.contains("reclaim policy"), "{message}");
    // Neither without the label nor with the repository: its volumes have the class's policy still.
    world.observed.namespaces.clear();
    world.settle();
    assert!(claim(&world, "mysql").is_some());
    world.observed.repo.metadata.deletion_timestamp = Some(Time(at(100)));
    world.settle();
    assert_eq!(world.condition("DerivedObjectsDeleted").reason, "DataWouldBeDeleted");
    assert!(claim(&world, "mysql").is_some());
    world.observed.repo.spec.pv_reclaim_policy = ReclaimPolicy::Delete;
    world.settle();
    assert!(claim(&world, "mysql").is_none());
}

#[test]
fn what_others_add_to_a_secret_stays_and_is_no_work() {
    let mut world = world(AccessMethod::Tool);
    world.ask("mysql");
    world.become_ready();
    for secret in world.observed.secrets.iter_mut().chain(&mut world.observed.csi_secret) {
        let data = secret.data.as_mut().expect("data");
        data.insert("theirs".to_owned(), k8s_openapi::ByteString(b"x".to_vec()));
    }
    assert_eq!(world.settle(), 0);
    // A passphrase of random bytes beside the keys is nobody's parameter.
    let credential = world.observed.credential.as_mut().expect("a Secret");
    let data = credential.data.as_mut().expect("data");
    data.insert("passphrase".to_owned(), k8s_openapi::ByteString(vec![0xff, 0xfe]));
    world.settle();
    assert_eq!(world.phase(), Phase::Ready);
}

#[test]
fn a_capacity_of_bytes_is_taken_whole() {
    let mut world = world(AccessMethod::Mount);
    world.observed.repo.spec.volume_capacity = Some(json!(107_374_182_400_u64));
    world.become_ready();
    let claim = &world.observed.claims[0];
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    assert_eq!(requests.expect("requests")["storage"].0, "107374182400");
}
