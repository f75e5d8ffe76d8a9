//! What becomes of a repository, step by step, and what its conditions say.

use crate::world::{World, at, secret};
use strongroom_csi::operator::crd::{AccessMethod, ConditionStatus, Phase, ReclaimPolicy};
use strongroom_csi::operator::names;
use strongroom_csi::operator::observed::{Action, Kind, Object, Reference};

const SEEDS: [&str; 7] = ["s3", "oss", "obs", "cos", "gcs-s3comp", "minio", "s3-compatible"];

fn words(what: &str, message: &str) -> String {
    format!("{{\"what\":\"{what}\",\"message\":\"{message}\"}}")
}

/// The condition of a failed repository.
pub(crate) fn says(world: &World, kind: &str, reason: &str, part: &str) {
    let condition = world.condition(kind);
    assert_eq!(
        (condition.status, condition.reason.as_str()),
        (ConditionStatus::False, reason),
        "{condition:?}"
    );
    assert!(condition.message.contains(part), "{}", condition.message);
}

#[test]
fn every_manifest_of_the_users_becomes_ready_with_both_access_methods() {
    for name in SEEDS {
        for method in [AccessMethod::Tool, AccessMethod::Mount] {
            let mut world = World::of_seed(name);
            world.observed.repo.spec.access_method = method;
            world.ask("mysql");
            world.become_ready();
            assert_eq!(world.status().is_default, Some(true), "{name}");
            let kept = match method {
                AccessMethod::Tool => world.config_in("mysql").is_some(),
                AccessMethod::Mount => {
                    let class = world.observed.storage_class.as_ref().expect("a class");
                    assert_eq!(class.provisioner, "csi.strongroom.io");
                    let called = world.status().backup_pvc_name.as_deref();
                    world.observed.claims.iter().any(|claim| {
                        claim.metadata.namespace.as_deref() == Some("mysql")
                            && claim.metadata.name.as_deref() == called
                    })
                }
            };
            assert!(kept, "{name} {method:?}");
            assert_eq!(world.settle(), 0, "{name} {method:?}: nothing is left to do");
        }
    }
}

#[test]
fn the_conditions_stand_in_the_order_of_the_contract() {
    let mut world = World::of_seed("s3");
    world.become_ready();
    let kinds: Vec<&str> = world.status().conditions.iter().map(|it| it.kind.as_str()).collect();
    let contract = [
        "StorageProviderReady",
        "ParametersChecked",
        "StorageClassCreated",
        "PVCTemplateChecked",
        "PreCheckPassed",
    ];
    let of_contract: Vec<&str> =
        kinds.iter().copied().filter(|kind| contract.contains(kind)).collect();
    assert_eq!(of_contract, contract);
}

#[test]
fn nothing_reaches_a_namespace_before_the_pre_check_has_passed() {
    let mut world = World::of_seed("s3");
    world.ask("mysql");
    world.settle();
    assert_eq!(world.phase(), Phase::PreChecking);
    assert!(world.config_in("mysql").is_none());
    world.end_job(Err(&words("credentials", "access denied")));
    world.settle();
    assert_eq!(world.phase(), Phase::Failed);
    assert!(world.config_in("mysql").is_none());
}

#[test]
fn a_failed_pre_check_says_which_thing_is_wrong_and_is_tried_again_ever_later() {
    let mut world = World::of_seed("s3");
    world.settle();
    for (attempt, pause) in [(1, 30), (2, 60), (3, 120)] {
        world.end_job(Err(&words("bucket", "list test-kb-backup: no such bucket")));
        world.settle();
        says(
            &world,
            "PreCheckPassed",
            "PreCheckFailed",
            "bucket: list test-kb-backup: no such bucket",
        );
        assert_eq!(world.again.map(|again| again.as_secs()), Some(pause), "{attempt}");
        world.pass(pause - 1);
        assert_eq!(world.settle(), 0);
        world.pass(1);
        world.settle();
        let job = world.observed.job.as_ref().expect("the next one");
        let annotations = job.metadata.annotations.as_ref().expect("annotations");
        assert_eq!(
            annotations.get(names::ATTEMPT).map(String::as_str),
            Some(attempt.to_string().as_str())
        );
    }
    world.end_job(Ok(()));
    world.settle();
    assert_eq!(world.phase(), Phase::Ready);
    let annotations = world.observed.repo.metadata.annotations.as_ref().expect("annotations");
    assert!(!annotations.contains_key(names::ATTEMPT));
}

#[test]
fn no_pause_is_longer_than_the_longest() {
    let mut world = World::of_seed("s3");
    world.annotate(names::ATTEMPT, "4294967295");
    world.settle();
    for _ in 0..7 {
        world.end_job(Err("gone"));
        world.settle();
        let pause = world.again.expect("a pause").as_secs();
        assert!(pause <= 900, "{pause}");
        world.pass(pause);
        world.settle();
    }
}

#[test]
fn a_changed_secret_is_checked_at_once_and_then_given_to_everybody() {
    let mut world = World::of_seed("s3");
    world.ask("mysql");
    world.ask("redis");
    world.become_ready();
    let old = world.config_in("mysql").expect("given").data.clone();
    world.observed.credential = Some(secret(
        "kb-system",
        "s3-credential-for-backuprepo",
        &[("accessKeyId", "AKIA"), ("secretAccessKey", "rotated")],
    ));
    world.settle();
    assert_eq!(world.phase(), Phase::PreChecking);
    assert_eq!(world.condition("PreCheckPassed").reason, "UnknownError");
    let annotations = world.observed.repo.metadata.annotations.as_ref().expect("annotations");
    assert_eq!(annotations.get(names::NEED_UPDATE).map(String::as_str), Some("true"));
    // What was right yesterday is not replaced by what may be wrong today.
    assert_eq!(world.config_in("mysql").expect("kept").data, old);
    world.end_job(Ok(()));
    world.settle();
    for namespace in ["mysql", "redis"] {
        let data = world.config_in(namespace).expect("given").data.clone().expect("data");
        let text = String::from_utf8_lossy(&data["datasafed.conf"].0).into_owned();
        assert!(text.contains("secret_access_key = rotated\n"), "{text}");
        assert_eq!(data["base-path"].0, format!("/{namespace}").into_bytes());
    }
    let annotations = world.observed.repo.metadata.annotations.as_ref().expect("annotations");
    assert!(!annotations.contains_key(names::NEED_UPDATE));
    let csi = world.observed.csi_secret.as_ref().and_then(|secret| secret.data.as_ref());
    assert_eq!(csi.expect("data")["secretAccessKey"].0, b"rotated");
    assert_eq!(world.settle(), 0);
}

#[test]
fn a_pre_check_of_older_parameters_is_ended_and_counts_for_nothing() {
    let mut world = World::of_seed("s3");
    world.settle();
    let first = world.observed.job.clone().expect("a Job");
    world.observed.repo.spec.path_prefix = Some("team-a".to_owned());
    world.observed.repo.metadata.generation = Some(2);
    world.end_job(Ok(()));
    world.settle();
    let second = world.observed.job.clone().expect("another Job");
    assert_ne!(first, second);
    assert_eq!(world.phase(), Phase::PreChecking);
    let command = second
        .spec
        .and_then(|spec| spec.template.spec)
        .map(|pod| pod.containers[0].command.clone());
    let command = command.flatten().expect("a command");
    assert_eq!(command.last().map(String::as_str), Some("team-a/precheck.txt"));
}

#[test]
fn a_usable_repository_is_looked_at_again_and_stays_ready_meanwhile() {
    let mut world = World::of_seed("minio");
    world.become_ready();
    let first = world.status().last_successful_check_time.clone();
    assert_eq!(first.as_deref(), Some("2027-01-15T08:00:00Z"));
    assert_eq!(world.again.map(|again| again.as_secs()), Some(3600));
    world.pass(3600);
    world.settle();
    assert!(world.observed.job.is_some());
    assert_eq!(world.phase(), Phase::Ready);
    world.end_job(Ok(()));
    world.settle();
    assert_eq!(world.status().last_successful_check_time.as_deref(), Some("2027-01-15T09:00:00Z"));
    world.pass(3600);
    world.settle();
    world.end_job(Err(&words("endpoint", "endpoint cannot be reached")));
    world.settle();
    assert_eq!(world.phase(), Phase::Failed);
    assert_eq!(world.status().last_successful_check_time.as_deref(), Some("2027-01-15T09:00:00Z"));
}

#[test]
fn credentials_of_a_pre_check_go_with_it() {
    let mut world = World::of_seed("s3");
    world.settle();
    assert_eq!(world.observed.secrets.len(), 1);
    world.end_job(Ok(()));
    world.settle();
    assert!(world.observed.secrets.is_empty() && world.observed.job.is_none());
}

#[test]
fn what_a_namespace_got_by_its_label_goes_with_the_label() {
    let mut world = World::of_seed("s3");
    world.ask("mysql");
    world.become_ready();
    world.observed.namespaces.clear();
    world.settle();
    assert!(world.config_in("mysql").is_none());
    assert_eq!(world.settle(), 0);
}

#[test]
fn a_claim_whose_deletion_would_delete_backups_stays_without_the_label() {
    for (policy, stays) in [(ReclaimPolicy::Delete, true), (ReclaimPolicy::Retain, false)] {
        let mut world = World::of_seed("s3");
        world.observed.repo.spec.access_method = AccessMethod::Mount;
        world.observed.repo.spec.pv_reclaim_policy = policy;
        world.ask("mysql");
        world.become_ready();
        world.observed.namespaces.clear();
        world.settle();
        let claims = &world.observed.claims;
        let is = |claim: &&_| -> bool {
            let claim: &k8s_openapi::api::core::v1::PersistentVolumeClaim = claim;
            claim.metadata.namespace.as_deref() == Some("mysql")
        };
        assert_eq!(claims.iter().filter(is).count() == 1, stays, "{policy:?}");
    }
}

fn backup(phase_failed: bool) -> Object {
    Object {
        kind: "Backup".to_owned(),
        namespace: "mysql".to_owned(),
        name: "nightly".to_owned(),
        waits: true,
        holds: !phase_failed,
    }
}

#[test]
fn a_backup_that_waits_is_released_when_its_namespace_is_prepared_and_not_before() {
    let mut world = World::of_seed("s3");
    world.observed.objects.push(backup(false));
    world.settle();
    assert!(world.observed.objects[0].waits);
    world.end_job(Ok(()));
    world.settle();
    assert!(!world.observed.objects[0].waits);
    assert!(world.config_in("mysql").is_some());
    // It stays as long as there is one, whatever else of its marks somebody changes.
    world.settle();
    assert!(world.config_in("mysql").is_some());
    world.observed.objects.clear();
    world.settle();
    assert!(world.config_in("mysql").is_none());
    let made = world.done.iter().position(|action| {
        matches!(action, Action::Secret(secret)
        if secret.metadata.namespace.as_deref() == Some("mysql"))
    });
    let released = world.done.iter().position(|action| matches!(action, Action::Release(_)));
    assert!(made < released);
}

#[test]
fn a_repository_bound_to_namespaces_gives_to_no_other_and_takes_back() {
    let mut world = World::of_seed("s3");
    world.ask("mysql");
    world.ask("redis");
    world.become_ready();
    world.annotate(names::NAMESPACES, "mysql, postgres");
    world.settle();
    assert!(world.config_in("mysql").is_some() && world.config_in("redis").is_none());
    says(&world, "NamespacesPrepared", "NamespaceNotAllowed", "redis may not");
    assert_eq!(world.phase(), Phase::Ready);
}

#[test]
fn two_defaults_are_told_on_both() {
    let mut world = World::of_seed("s3");
    world.observed.defaults = vec!["other".to_owned()];
    world.become_ready();
    says(&world, "OneDefaultRepo", "MultipleDefaults", "other");
    world.observed.defaults.clear();
    world.settle();
    assert_eq!(world.condition("OneDefaultRepo").status, ConditionStatus::True);
    world.annotate(names::IS_DEFAULT, "false");
    world.settle();
    assert_eq!(world.status().is_default, Some(false));
}

#[test]
fn what_is_missing_is_named() {
    let mut world = World::of_seed("s3");
    world.observed.credential = None;
    world.settle();
    says(
        &world,
        "ParametersChecked",
        "CredentialSecretNotFound",
        "kb-system/s3-credential-for-backuprepo",
    );
    assert_eq!(world.phase(), Phase::Failed);

    let mut world = World::of_seed("s3");
    world.observed.provider = None;
    world.settle();
    says(&world, "StorageProviderReady", "StorageProviderNotFound", "StorageProvider s3");

    let mut world = World::of_seed("s3");
    world.observed.repo.spec.config.remove("bucket");
    world.settle();
    says(&world, "ParametersChecked", "ParametersMissing", "bucket");

    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    world.observed.provider.as_mut().expect("a provider").status = None;
    world.observed.repo.spec.pv_reclaim_policy = ReclaimPolicy::Delete;
    world.settle();
    says(&world, "StorageProviderReady", "StorageProviderNotReady", "csi.strongroom.io");
}

#[test]
fn an_access_method_that_the_provider_has_not_is_refused() {
    for (provider, method) in [
        ("ftp", AccessMethod::Mount),
        ("azureblob", AccessMethod::Mount),
        ("nfs", AccessMethod::Tool),
        ("pvc", AccessMethod::Tool),
    ] {
        let mut world = World::of_seed("s3");
        world.observed.provider = Some(crate::world::provider(provider));
        world.observed.repo.spec.access_method = method;
        world.settle();
        says(&world, "StorageProviderReady", "InvalidStorageProvider", "has no");
    }
}

#[test]
fn a_template_that_needs_more_than_there_is_says_so() {
    let mut world = World::of_seed("s3");
    let provider = world.observed.provider.as_mut().expect("a provider");
    provider.spec.datasafed_config_template = Some("{{ genPrivateKey \"rsa\" }}".to_owned());
    world.settle();
    says(&world, "StorageProviderReady", "InvalidStorageProvider", "genPrivateKey");

    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    let provider = world.observed.provider.as_mut().expect("a provider");
    provider.spec.storage_class_template =
        Some("secret: {{ .Parameters.secretAccessKey }}: : [".to_owned());
    world.settle();
    says(&world, "StorageClassCreated", "PrepareStorageClassFailed", "storageClassTemplate");
    let message = &world.condition("StorageClassCreated").message;
    assert!(!message.contains("s3cr3t"), "{message}");
}

#[test]
fn what_the_cluster_refuses_is_told() {
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    // As long as it is refused, the class is not there.
    let first = strongroom_csi::operator::reconcile::plan(&world.observed, &world.settings);
    assert!(matches!(first.actions[..], [Action::Metadata { .. }]));
    world.settle();
    let class =
        world.observed.storage_class.take().and_then(|class| class.metadata.name).expect("a name");
    let place = Reference { kind: Kind::StorageClass, namespace: None, name: class };
    world.observed.refusals.insert(place, "storageclasses is forbidden".to_owned());
    let plan = strongroom_csi::operator::reconcile::plan(&world.observed, &world.settings);
    world.observed.repo.status = plan.status;
    says(&world, "StorageClassCreated", "PrepareStorageClassFailed", "forbidden");
    assert_eq!(world.phase(), Phase::Failed);
}

#[test]
fn a_repository_goes_when_nothing_uses_it_any_more() {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    let mut world = World::of_seed("s3");
    world.ask("mysql");
    world.become_ready();
    world.observed.repo.metadata.deletion_timestamp = Some(Time(at(10)));
    world.observed.objects.push(Object { waits: false, ..backup(false) });
    world.settle();
    assert_eq!(world.phase(), Phase::Deleting);
    says(&world, "DerivedObjectsDeleted", "HaveAssociatedBackups", "Backup mysql/nightly");
    assert!(world.config_in("mysql").is_some());

    world.observed.objects[0].holds = false;
    world.observed.users = vec!["Pod mysql/backup-0".to_owned()];
    world.settle();
    says(&world, "DerivedObjectsDeleted", "InUse", "Pod mysql/backup-0");
    assert!(world.config_in("mysql").is_some());

    world.observed.users.clear();
    world.settle();
    assert!(world.observed.secrets.is_empty() && world.observed.csi_secret.is_none());
    assert_eq!(world.observed.repo.metadata.finalizers.as_deref(), Some(&[][..]));
    assert_eq!(world.settle(), 0);
}

#[test]
fn the_drivers_secret_outlives_the_volumes_that_it_deletes() {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    world.ask("mysql");
    world.become_ready();
    world.observed.repo.metadata.deletion_timestamp = Some(Time(at(10)));
    world.observed.volumes = vec!["PersistentVolume pvc-1".to_owned()];
    world.settle();
    says(&world, "DerivedObjectsDeleted", "HaveResidualPVCs", "PersistentVolume pvc-1");
    assert!(world.observed.claims.is_empty() && world.observed.csi_secret.is_some());
    world.observed.volumes.clear();
    world.settle();
    assert!(world.observed.csi_secret.is_none() && world.observed.storage_class.is_none());
    assert_eq!(world.observed.repo.metadata.finalizers.as_deref(), Some(&[][..]));
}

#[test]
fn an_interrupted_step_is_taken_up_again() {
    // A process that ends after any number of writes leaves a state from which the next one comes to the same end.
    let mut whole = World::of_seed("s3");
    whole.ask("mysql");
    whole.become_ready();
    for limit in 0..whole.done.len() + whole.statuses {
        let mut world = World::of_seed("s3");
        world.ask("mysql");
        for _ in 0..limit {
            let plan = strongroom_csi::operator::reconcile::plan(&world.observed, &world.settings);
            // Only the first write of each plan takes place.
            match (plan.status, plan.actions.into_iter().next()) {
                (Some(status), _) => world.observed.repo.status = Some(status),
                (None, Some(action)) => world.done_only(action),
                (None, None) => break,
            }
        }
        if world.observed.job.is_none() {
            world.settle();
        }
        if world.observed.job.is_some() {
            world.end_job(Ok(()));
        }
        world.settle();
        assert_eq!(world.phase(), Phase::Ready, "after {limit}");
        assert_eq!(
            world.config_in("mysql").map(|it| &it.data),
            whole.config_in("mysql").map(|it| &it.data)
        );
    }
}
