//! The providers' manifests, and the users' manifests through them: what workloads and drivers are told.

use crate::server::Server;
use crate::world::{World, at, provider, read, root, secret, seed};
use serde_json::Value;
use std::collections::BTreeMap;
use strongroom_csi::operator::crd::{AccessMethod, StorageProvider};
use strongroom_csi::operator::names;
use strongroom_csi::operator::parameters::Parameters;
use strongroom_csi::operator::provider::{self as providers, Driver};
use strongroom_csi::operator::render::Templates;
use strongroom_csi::volume::{Keys, Secrets};

const ALL: [&str; 11] = [
    "azureblob",
    "cos",
    "ftp",
    "gcs-s3comp",
    "minio",
    "nfs",
    "obs",
    "oss",
    "pvc",
    "s3",
    "s3-compatible",
];

/// datasafed's file for a users' manifest.
fn conf(name: &str) -> String {
    let mut world = World::of_seed(name);
    world.ask("mysql");
    world.become_ready();
    let data = world.config_in("mysql").and_then(|secret| secret.data.clone()).expect("given");
    String::from_utf8(data["datasafed.conf"].0.clone()).expect("text")
}

/// The StorageClass's parameters and the driver's Secret.
fn mounted(name: &str) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let mut world = World::of_seed(name);
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    world.observed.repo.spec.path_prefix = Some("team-a/".to_owned());
    world.become_ready();
    let class =
        world.observed.storage_class.and_then(|class| class.parameters).expect("parameters");
    let data = world.observed.csi_secret.and_then(|secret| secret.data).expect("data");
    let text = |(key, value): (String, k8s_openapi::ByteString)| {
        (key, String::from_utf8(value.0).expect("text"))
    };
    (class, data.into_iter().map(text).collect())
}

#[test]
fn all_eleven_providers_are_there_and_called_by_their_file() {
    let mut found: Vec<String> = std::fs::read_dir(root().join("deploy/storage-providers"))
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut expected: Vec<String> = ALL.iter().map(|name| format!("{name}.yaml")).collect();
    expected.sort();
    assert_eq!(found, expected);
    for name in ALL {
        assert_eq!(provider(name).metadata.name.as_deref(), Some(name));
    }
}

#[test]
fn datasafed_is_told_what_the_contract_says() {
    let line = |text: &str, key: &str| -> String {
        let start = format!("{key} = ");
        let found = text.lines().find(|line| line.starts_with(&start));
        found.unwrap_or_else(|| panic!("{key} in {text}"))[start.len()..].to_owned()
    };
    for (name, provider, endpoint) in [
        ("s3", "AWS", ""),
        ("cos", "TencentCOS", "cos.ap-guangzhou.myqcloud.com"),
        ("oss", "Alibaba", "oss-cn-zhangjiakou.aliyuncs.com"),
        ("obs", "HuaweiOBS", "obs.cn-north-4.myhuaweicloud.com"),
        ("gcs-s3comp", "GCS", "https://storage.googleapis.com"),
        ("minio", "Minio", "<ip:port>"),
        ("s3-compatible", "Other", "<endpoint>"),
    ] {
        let text = conf(name);
        assert!(text.starts_with("[storage]\n") || text.starts_with("\n[storage]\n"), "{text}");
        for (key, value) in [
            ("type", "s3"),
            ("provider", provider),
            ("env_auth", "false"),
            ("access_key_id", "AKIA"),
            ("secret_access_key", "s3cr3t"),
            ("endpoint", endpoint),
            ("root", "test-kb-backup"),
            ("no_check_certificate", "false"),
            ("chunk_size", "50Mi"),
            ("no_check_bucket", if name == "gcs-s3comp" { "true" } else { "false" }),
        ] {
            assert_eq!(line(&text, key), value, "{name}: {key}");
        }
        let has_region = !matches!(name, "cos" | "oss");
        assert_eq!(text.contains("\nregion = "), has_region, "{name}");
        assert_eq!(text.contains("use_already_exists = false"), name == "oss");
        assert_eq!(text.contains("force_path_style = true"), name == "s3-compatible");
        // The engine reads it, but for what it has not: addresses that stand for others.
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &text).expect("written");
        let parsed = strongroom::config::datasafed::Conf::load(file.path()).expect("it is read");
        assert_eq!(parsed.get("storage", "root"), Some("test-kb-backup"));
        if !endpoint.starts_with('<')
            && let Err(error) = strongroom::config::datasafed::place(&parsed)
        {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn a_secret_key_with_a_comments_sign_in_it_arrives_whole() {
    let mut world = World::of_seed("minio");
    world.observed.credential = Some(secret(
        "kb-system",
        "minio-credential-for-backuprepo",
        &[("accessKeyId", "a"), ("secretAccessKey", "x#y;z")],
    ));
    world.ask("mysql");
    world.become_ready();
    let data = world.config_in("mysql").and_then(|secret| secret.data.clone()).expect("given");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &data["datasafed.conf"].0).expect("written");
    let parsed = strongroom::config::datasafed::Conf::load(file.path()).expect("it is read");
    assert_eq!(parsed.get("storage", "secret_access_key"), Some("x#y;z"));
}

#[test]
fn the_driver_is_told_where_the_bucket_is() {
    for (name, endpoint) in [
        ("s3", "https://s3.cn-northwest-1.amazonaws.com.cn"),
        ("cos", "https://cos.ap-guangzhou.myqcloud.com"),
        ("oss", "https://oss-cn-zhangjiakou.aliyuncs.com"),
        ("obs", "https://obs.cn-north-4.myhuaweicloud.com"),
        ("gcs-s3comp", "https://storage.googleapis.com"),
        ("minio", "<ip:port>"),
        ("s3-compatible", "<endpoint>"),
    ] {
        let (class, data) = mounted(name);
        assert_eq!(
            (class["bucket"].as_str(), class["prefix"].as_str()),
            ("test-kb-backup", "team-a")
        );
        assert_eq!((class["layout"].as_str(), class["encryption"].as_str()), ("objects", "none"));
        assert_eq!(class["subDir"], "${pvc.metadata.namespace}");
        assert_eq!(data["endpoint"], endpoint);
        assert_eq!(data["accessKeyID"], "AKIA");
        assert_eq!(data["secretAccessKey"], "s3cr3t");
        let secrets = class.iter().filter(|(key, _)| key.ends_with("-secret-name"));
        assert!(secrets.clone().count() >= 4);
        for (_, value) in secrets {
            assert!(value.starts_with("secret-my-repo-"), "{value}");
        }
        // The driver itself takes these parameters.
        let given = class.into_iter().collect();
        let dialect = strongroom_csi::volume::Dialect::Own;
        let parsed = strongroom_csi::volume::Parameters::parse(&given, dialect);
        assert!(parsed.is_ok(), "{name}: {parsed:?}");
        if !endpoint.starts_with('<') {
            let parsed = Secrets::parse(data.into_iter().collect(), Keys::Needed);
            assert!(parsed.is_ok(), "{name}: {parsed:?}");
        }
    }
}

#[test]
fn a_region_that_is_left_empty_is_left_out() {
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    world.observed.repo.spec.config.insert("region".to_owned(), Value::from(""));
    world
        .observed
        .repo
        .spec
        .config
        .insert("endpoint".to_owned(), Value::from("https://minio:9000"));
    world.become_ready();
    let data = world.observed.csi_secret.and_then(|secret| secret.data).expect("data");
    assert!(!data.contains_key("region"));
}

#[test]
fn providers_of_mounts_alone_and_of_the_tool_alone_render() {
    let given = |provider: &StorageProvider, pairs: &[(&str, &str)]| {
        let config = pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
        let merged = Parameters::merge(&provider.spec, &config.collect(), &BTreeMap::new());
        merged.expect("parameters")
    };
    let nfs = provider("nfs");
    let parameters =
        given(&nfs, &[("nfsServer", "10.0.0.1"), ("nfsMountOptions", "nfsvers=4.1 hard")]);
    let class = Templates::new(&nfs.spec, &parameters, ("n", "s"), "sc").storage_class();
    let class = class.expect("renders").expect("a class");
    assert_eq!(class.provisioner, "nfs.csi.k8s.io");
    assert_eq!(class.mount_options, Some(vec!["nfsvers=4.1".to_owned(), "hard".to_owned()]));
    assert_eq!(class.parameters.expect("parameters")["share"], "/");

    let pvc = provider("pvc");
    let parameters = given(&pvc, &[("storageClassName", "fast"), ("accessMode", "ReadWriteMany")]);
    let claim = Templates::new(&pvc.spec, &parameters, ("n", "s"), "").claim();
    let spec = claim.expect("renders").expect("a claim").spec.expect("a specification");
    assert_eq!(spec.storage_class_name.as_deref(), Some("fast"));
    assert_eq!(spec.access_modes, Some(vec!["ReadWriteMany".to_owned()]));

    let ftp = provider("ftp");
    let parameters = given(&ftp, &[("ftpHost", "h"), ("ftpUser", "u"), ("ftpPassword", "p")]);
    let text = Templates::new(&ftp.spec, &parameters, ("n", "s"), "").tool_config();
    let text = text.expect("renders").expect("a file");
    assert!(text.contains("port = 21\n") && text.contains("pass.need_obscure = p\n"), "{text}");
    assert!(text.contains("tls = false\n"), "{text}");

    let azure = provider("azureblob");
    let parameters =
        given(&azure, &[("container", "c"), ("accountName", "a"), ("accountKey", "k==")]);
    let text = Templates::new(&azure.spec, &parameters, ("n", "s"), "").tool_config();
    let text = text.expect("renders").expect("a file");
    assert!(
        text.contains("key = k==\n    root = c\n") || text.contains("key = k==\nroot = c\n"),
        "{text}"
    );
}

#[test]
fn a_provider_is_ready_when_its_driver_is_there() {
    use strongroom_csi::operator::crd::{ConditionStatus, ProviderPhase};
    let fresh = |name: &str| StorageProvider { status: None, ..provider(name) };
    let looked = |name: &str, driver: Driver| {
        let status = providers::status(&fresh(name), &driver, at(0)).expect("a status");
        let condition = status.conditions[0].clone();
        (status.phase, condition.status, condition.reason)
    };
    let found = "CSIDriverObjectFound".to_owned();
    let failed = "CheckCSIDriverFailed".to_owned();
    let ready = Some(ProviderPhase::Ready);
    assert_eq!(looked("s3", Driver::Found), (ready, ConditionStatus::True, found.clone()));
    assert_eq!(looked("ftp", Driver::Absent), (ready, ConditionStatus::True, found));
    let not = Some(ProviderPhase::NotReady);
    assert_eq!(looked("s3", Driver::Absent), (not, ConditionStatus::Unknown, failed.clone()));
    let doubtful = Driver::Doubtful("forbidden".to_owned());
    assert_eq!(looked("s3", doubtful), (not, ConditionStatus::Unknown, failed));
    assert_eq!(providers::status(&provider("s3"), &Driver::Found, at(60)), None);
}

fn encrypted(method: AccessMethod) -> World {
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = method;
    world.annotate(
        names::ENCRYPTION,
        r#"{"algorithm":"AES-256-CFB","passPhraseSecretKeyRef":{"name":"backup-encryption","key":"secretKey"}}"#,
    );
    world.observed.passphrase =
        Some(secret("kb-system", "backup-encryption", &[("secretKey", "S!B\\*d$zDsb=")]));
    world.ask("mysql");
    world
}

fn reason(world: &World) -> &str {
    world.condition("EncryptionChecked").reason.as_str()
}

#[test]
fn a_repository_that_asks_for_encryption_gets_it_with_both_access_methods() {
    let mut world = encrypted(AccessMethod::Mount);
    world.become_ready();
    let class = world.observed.storage_class.as_ref().and_then(|class| class.parameters.as_ref());
    assert_eq!(class.expect("parameters")["encryption"], "AES-256-CFB");
    let data = world.observed.csi_secret.as_ref().and_then(|secret| secret.data.as_ref());
    assert_eq!(data.expect("data")["passphrase"].0, b"S!B\\*d$zDsb=");

    let mut world = encrypted(AccessMethod::Tool);
    world.become_ready();
    let data = world.config_in("mysql").and_then(|secret| secret.data.clone()).expect("given");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in &data {
        std::fs::write(folder.path().join(name), &content.0).expect("written");
    }
    let conf = folder.path().join("datasafed.conf");
    let conf = strongroom::config::datasafed::Conf::load(&conf).expect("it is read");
    assert!(strongroom::config::datasafed::encryption(&conf).expect("a key").is_some());
    std::fs::remove_file(folder.path().join("passphrase")).expect("removed");
    assert!(strongroom::config::datasafed::encryption(&conf).is_err());
}

#[test]
fn a_passphrase_that_is_missing_changed_or_given_up_is_a_condition_and_no_plain_backup() {
    for method in [AccessMethod::Tool, AccessMethod::Mount] {
        let mut world = encrypted(method);
        world.observed.passphrase = None;
        world.settle();
        assert_eq!(reason(&world), "PassphraseNotFound");
        assert!(world.observed.job.is_none() && world.observed.storage_class.is_none());

        let mut world = encrypted(method);
        world.observed.passphrase =
            Some(secret("kb-system", "backup-encryption", &[("other", "x")]));
        world.settle();
        assert_eq!(reason(&world), "PassphraseNotFound");

        let mut world = encrypted(method);
        world.become_ready();
        let before = (world.observed.secrets.clone(), world.observed.csi_secret.clone());
        let changed = secret("kb-system", "backup-encryption", &[("secretKey", "another")]);
        world.observed.passphrase = Some(changed);
        world.settle();
        assert_eq!(reason(&world), "PassphraseChanged");
        assert_eq!((world.observed.secrets.clone(), world.observed.csi_secret.clone()), before);

        let mut world = encrypted(method);
        world.become_ready();
        world.observed.repo.metadata.annotations.as_mut().expect("some").remove(names::ENCRYPTION);
        world.settle();
        assert_eq!(reason(&world), "EncryptionRemoved");
        assert_eq!((world.observed.secrets.clone(), world.observed.csi_secret.clone()), before);
    }
}

#[test]
fn a_mounted_repository_whose_driver_would_not_encrypt_is_refused() {
    let mut world = encrypted(AccessMethod::Mount);
    world.observed.provider = Some(crate::world::provider("nfs"));
    world.observed.repo.spec.config.insert("nfsServer".to_owned(), Value::from("h"));
    world.settle();
    assert_eq!(reason(&world), "EncryptionNotSupported");
    assert!(world.observed.storage_class.is_none());

    // A class that was made before the wish.
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    world.become_ready();
    let asks = encrypted(AccessMethod::Mount);
    world.observed.repo.metadata.annotations.as_mut().expect("some").extend(
        asks.observed
            .repo
            .metadata
            .annotations
            .expect("some")
            .into_iter()
            .filter(|(key, _)| key == names::ENCRYPTION),
    );
    world.observed.passphrase = asks.observed.passphrase;
    world.settle();
    assert_eq!(reason(&world), "EncryptionNotSupported");
}

#[test]
fn the_seeds_say_what_they_say() {
    let repo = seed("s3-compatible");
    assert_eq!(repo.spec.config["forcePathStyle"], Value::Bool(true));
    let manifest: Value = read(&root().join("csi/tests/operator/seeds/s3.yaml"));
    assert_eq!(manifest["spec"]["config"]["region"], "cn-northwest-1");
}

/// Kinds of others, which this server does not know.
const FOREIGN: [&str; 3] = ["ServiceMonitor", "PrometheusRule", "PostgresCluster"];
/// Kinds without a namespace.
const OF_CLUSTER: [&str; 7] = [
    "StorageClass",
    "VolumeAttributesClass",
    "CSIDriver",
    "ClusterRole",
    "ClusterRoleBinding",
    "PersistentVolume",
    "CustomResourceDefinition",
];
const VALUES: &str = "
requiresRepublish: true
tokenAudiences: [sts.amazonaws.com]
metricsPort: 9809
monitoring: {serviceMonitor: true, prometheusRule: true, dashboard: true}
networkPolicy: {enabled: true}
podDisruptionBudget: {enabled: true}
operator: {enabled: true}
tolerations: [{key: a, operator: Exists}]
daemonsetTolerations: [{key: b, operator: Exists}]
storageClasses:
- {name: backups, default: true, secret: {name: keys, namespace: vault}, parameters: {bucket: b}}
volumeAttributesClasses:
- {name: large, parameters: {memoryLimit: 1GiB, cacheSize: 10GiB}}
";

/// With every field: what a server does not know it would drop, and say nothing.
#[test]
fn the_api_server_takes_the_whole_chart_and_every_example() {
    let server = Server::start();
    let temporary = tempfile::tempdir().expect("a directory");
    let values = temporary.path().join("values.yaml");
    std::fs::write(&values, VALUES).expect("written");
    let helm = crate::minio::cache::cached("bin/helm-v3.22.0");
    let mut helm = std::process::Command::new(helm);
    helm.args(["template", "release", "--kube-version", "1.34.0", "--namespace", "default"]);
    helm.arg("--values").arg(&values).arg(root().join("deploy/chart"));
    let output = helm.env("HOME", temporary.path()).output().expect("helm starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut texts = vec![String::from_utf8(output.stdout).expect("text")];
    let mut examples = 0;
    for file in std::fs::read_dir(root().join("deploy/examples")).expect("a directory") {
        let path = file.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            texts.push(std::fs::read_to_string(path).expect("read"));
            examples += 1;
        }
    }
    assert_eq!(examples, 5);
    server.namespace("vault", None);
    let mut taken = BTreeMap::new();
    let documents = texts.iter().flat_map(|text| text.split("\n---"));
    for document in documents {
        let Ok(Some(mut object)) = serde_saphyr::from_str::<Option<Value>>(document) else {
            // Nothing but remarks.
            assert!(!document.contains("\nkind:"), "{document}");
            continue;
        };
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        if FOREIGN.contains(&kind.as_str()) {
            continue;
        }
        if !OF_CLUSTER.contains(&kind.as_str()) && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = Value::from("default");
        }
        server.would_take(object).unwrap_or_else(|error| panic!("{error}: {document}"));
        *taken.entry(kind).or_insert(0) += 1;
    }
    let kinds = [
        ("CSIDriver", 1),
        ("ConfigMap", 1),
        ("CronJob", 1),
        ("CustomResourceDefinition", 2),
        ("NetworkPolicy", 3),
        ("PersistentVolume", 1),
        ("Pod", 1),
        ("StorageClass", 1),
        ("VolumeAttributesClass", 1),
    ];
    for (kind, count) in kinds {
        assert_eq!(taken.get(kind), Some(&count), "{kind}: {taken:?}");
    }
    for kind in ["DaemonSet", "Deployment", "ServiceAccount", "PodDisruptionBudget", "Service"] {
        assert!(taken.contains_key(kind), "{kind}: {taken:?}");
    }
}
