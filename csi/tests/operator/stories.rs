//! Whole stories on a real API server, with the operator as a real process and a real store.

use crate::authority::Authority;
use crate::minio::Minio;
use crate::server::{HOME, Server};
use crate::world::root;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;
use strongroom_csi::operator::crd::{BackupRepo, Phase, StorageProvider};

const LABEL: &str = "dataprotection.kubeblocks.io/backup-repo-name";

fn seed(name: &str) -> String {
    let path = root().join(format!("csi/tests/operator/seeds/{name}.yaml"));
    std::fs::read_to_string(path).expect("readable")
}

fn manifest(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

/// The users' manifest for MinIO, with the address that they have to put in, under a name and with a bucket.
fn minio_repo(server: &Server, name: &str, bucket: &str) -> Value {
    let mut repo = manifest(&seed("minio").replace("<ip:port>", &server.minio.endpoint));
    repo["metadata"]["name"] = json!(name);
    repo["metadata"]["annotations"] = json!({});
    repo["spec"]["config"]["bucket"] = json!(bucket);
    repo
}

fn credential(server: &Server, secret_key: &str) {
    let name = "minio-credential-for-backuprepo";
    let keys = [("accessKeyId", server.minio.access_key.as_str()), ("secretAccessKey", secret_key)];
    server.secret(HOME, name, &keys);
}

fn is(phase: Phase) -> impl Fn(&BackupRepo) -> bool {
    move |repo| repo.status.as_ref().and_then(|status| status.phase) == Some(phase)
}

fn message(repo: &BackupRepo, kind: &str) -> String {
    let conditions = repo.status.as_ref().map(|status| &status.conditions);
    let found = conditions.into_iter().flatten().find(|condition| condition.kind == kind);
    found.map(|condition| condition.message.clone()).unwrap_or_default()
}

/// The configurations in namespaces.
async fn configs(client: Client, repo: &str) -> Result<Vec<Secret>, String> {
    let label = format!("{LABEL}={repo},dataprotection.kubeblocks.io/is-tool-config=true");
    let api = Api::<Secret>::all(client);
    let list = api.list(&ListParams::default().labels(&label)).await;
    list.map(|list| list.items).map_err(|error| error.to_string())
}

/// Waits until a repository's configuration is in that many namespaces.
fn wait_for_configs(server: &Server, repo: &str, count: usize) -> Vec<Secret> {
    server.wait(&format!("{count} configurations"), |client| async move {
        let mut found = configs(client, repo).await?;
        // The pre-check's own has the same labels, and goes a moment after it has passed.
        found.retain(|secret| secret.namespace().as_deref() != Some(HOME));
        match found.len() == count {
            true => Ok(Some(found)),
            false => Err(format!("{} are there", found.len())),
        }
    })
}

/// Everything that the operator writes, with its versions.
fn versions(server: &Server) -> Vec<String> {
    async fn of<K>(api: Api<K>, what: &ListParams) -> Vec<String>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let list = api.list_metadata(what).await.expect("a list");
        let told = |kind: &str, object: &kube::core::PartialObjectMeta<K>| {
            format!(
                "{kind} {}/{}@{:?}",
                object.namespace().unwrap_or_default(),
                object.name_any(),
                object.resource_version()
            )
        };
        list.items.iter().map(|object| told(&K::kind(&()), object)).collect()
    }
    let all = ListParams::default();
    let labelled = ListParams::default().labels(LABEL);
    let client = server.client.clone();
    server.runtime.block_on(async {
        let mut found = of(Api::<BackupRepo>::all(client.clone()), &all).await;
        found.extend(of(Api::<StorageProvider>::all(client.clone()), &all).await);
        found.extend(of(Api::<Secret>::all(client.clone()), &labelled).await);
        found.extend(of(Api::<StorageClass>::all(client.clone()), &labelled).await);
        found.extend(of(Api::<k8s_openapi::api::batch::v1::Job>::all(client), &labelled).await);
        found
    })
}

/// The same, when the operator has written what it had to write.
fn settled(server: &Server) -> Vec<String> {
    let mut before = versions(server);
    for _ in 0..60 {
        std::thread::sleep(Duration::from_secs(2));
        let now = versions(server);
        if now == before {
            return now;
        }
        before = now;
    }
    panic!("the operator goes on writing: {}", server.log());
}

#[test]
fn the_users_manifest_becomes_ready_on_a_real_store_serves_namespaces_and_goes() {
    let mut server = Server::start();
    server.operate();
    let bucket = server.minio.new_bucket();
    server.namespace("mysql", Some("my-repo"));
    server.create_raw(minio_repo(&server, "my-repo", &bucket)).expect("it is taken");
    // First the repository, then its Secret: users do both.
    let repo = server.wait_for("my-repo", is(Phase::Failed));
    assert!(
        message(&repo, "ParametersChecked").contains("kb-system/minio-credential-for-backuprepo")
    );

    credential(&server, "wrong-wrong-wrong");
    assert!(!server.run_pre_check("my-repo"));
    let repo = server
        .wait_for("my-repo", |repo| message(repo, "PreCheckPassed").starts_with("credentials: "));
    assert_eq!(repo.status.and_then(|status| status.phase), Some(Phase::Failed));

    credential(&server, &server.minio.secret_key);
    // The failed one may be tried once more before the new Secret is seen.
    while !server.run_pre_check("my-repo") {}
    let repo = server.wait_for("my-repo", is(Phase::Ready));
    assert!(repo.status.as_ref().is_some_and(|status| status.last_successful_check_time.is_some()));
    let config = wait_for_configs(&server, "my-repo", 1).remove(0);
    assert_eq!(config.namespace().as_deref(), Some("mysql"));
    assert_eq!(config.data.as_ref().expect("data")["base-path"].0, b"/mysql");
    uses(&config);
    let labels = "backuprepo=\"my-repo\",provider=\"minio\",access_method=\"Tool\"";
    let (status, text) = server.page("/metrics").expect("it listens");
    assert_eq!(status, 200);
    let ready = format!("strongroom_backuprepo_ready{{{labels}}} 1\n");
    assert!(text.contains(&ready), "{text}\n{}", server.log());
    let checked =
        "strongroom_backuprepo_condition{backuprepo=\"my-repo\",condition=\"PreCheckPassed\"";
    assert!(text.contains(checked) && text.contains("_last_success_timestamp_seconds{"), "{text}");
    for page in ["/healthz", "/readyz"] {
        assert_eq!(server.page(page), Some((200, "ok\n".to_owned())), "{page}");
    }

    // A killed operator finds everything as it should be, and writes nothing.
    let before = settled(&server);
    server.kill_operator();
    server.operate();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(versions(&server), before, "{}", server.log());

    // Whoever changes or removes a configuration finds it as it was.
    let api = Api::<Secret>::namespaced(server.client.clone(), "mysql");
    let name = config.name_any();
    let patch = Patch::Merge(json!({"stringData": {"datasafed.conf": "[storage]\n"}}));
    server.runtime.block_on(api.patch(&name, &PatchParams::default(), &patch)).expect("changed");
    let same = |found: &Secret| found.data == config.data;
    server.wait("the configuration as it was", |client| async move {
        Ok(configs(client, "my-repo").await?.into_iter().find(same))
    });
    server.runtime.block_on(api.delete(&name, &DeleteParams::default())).expect("deleted");
    wait_for_configs(&server, "my-repo", 1);

    let api = Api::<BackupRepo>::all(server.client.clone());
    server.runtime.block_on(api.delete("my-repo", &DeleteParams::default())).expect("deleted");
    server.wait("the repository's end", |client| async move {
        let repos = Api::<BackupRepo>::all(client.clone());
        let gone = repos.get_opt("my-repo").await.map_err(|error| error.to_string())?.is_none();
        Ok((gone && configs(client, "my-repo").await?.is_empty()).then_some(()))
    });
}

/// A workload's datasafed reaches the store with what its namespace got.
fn uses(config: &Secret) {
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("datasafed.conf");
    let data = config.data.as_ref().expect("data");
    std::fs::write(&file, &data["datasafed.conf"].0).expect("written");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let conf = strongroom::config::datasafed::Conf::load(&file).expect("it is read");
    let place = strongroom::config::datasafed::place(&conf).expect("a place");
    let strongroom::config::datasafed::Place::Bucket { config, .. } = place else {
        panic!("a bucket")
    };
    runtime.block_on(async {
        use strongroom::store::{Key, PutWhen, S3Store, Store};
        let store = S3Store::connect(*config).await.expect("a store");
        let key = Key::new("backup").expect("a key");
        let mut bytes = Vec::new();
        bytes.write_all(b"rows").expect("in memory");
        store.put(&key, bytes.into(), PutWhen::Always).await.expect("stored");
    });
}

#[test]
fn the_api_server_takes_every_manifest_as_it_stands_and_no_other_provider_afterwards() {
    let server = Server::start();
    for name in ["s3", "oss", "obs", "cos", "gcs-s3comp", "minio", "s3-compatible"] {
        let mut repo = manifest(&seed(name));
        repo["metadata"]["name"] = json!(format!("my-{name}"));
        server.create_raw(repo).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let api = Api::<BackupRepo>::all(server.client.clone());
    let change = |patch: Value| {
        server.runtime.block_on(api.patch("my-s3", &PatchParams::default(), &Patch::Merge(patch)))
    };
    let error = change(json!({"spec": {"storageProviderRef": "oss"}})).expect_err("immutable");
    assert!(error.to_string().contains("StorageProviderRef is immutable"), "{error}");
    for wrong in [
        json!({"accessMethod": "Both"}),
        json!({"pvReclaimPolicy": "Recycle"}),
        json!({"pathPrefix": "../x"}),
        json!({"volumeCapacity": "much"}),
    ] {
        let error = change(json!({"spec": wrong.clone()})).expect_err("refused");
        assert!(matches!(error, kube::Error::Api(status) if status.code == 422), "{wrong}");
    }
}

#[test]
fn a_bucket_that_is_not_there_and_a_mount_without_driver_are_told() {
    let mut server = Server::start();
    server.operate();
    credential(&server, &server.minio.secret_key);
    server.create_raw(minio_repo(&server, "nowhere", "no-such-bucket-here")).expect("taken");
    assert!(!server.run_pre_check("nowhere"));
    server.wait_for("nowhere", |repo| message(repo, "PreCheckPassed").starts_with("bucket: "));

    let mut repo = minio_repo(&server, "mounted", &server.minio.new_bucket());
    repo["spec"]["accessMethod"] = json!("Mount");
    // What a tool could not read.
    repo["spec"]["config"]["layout"] = json!("native");
    server.create_raw(repo).expect("taken");
    server.wait_for("mounted", |repo| {
        message(repo, "StorageProviderReady").contains("csi.strongroom.io")
    });
    // Where a tool finds the same files, that is what namespaces get meanwhile.
    let mut repo = minio_repo(&server, "fallen", &server.minio.new_bucket());
    repo["spec"]["accessMethod"] = json!("Mount");
    server.create_raw(repo).expect("taken");
    server.namespace("tenant", Some("fallen"));
    assert!(server.run_pre_check("fallen"));
    let repo = server.wait_for("fallen", is(Phase::Ready));
    assert!(message(&repo, "MountAvailable").contains("csi.strongroom.io is not installed"));
    wait_for_configs(&server, "fallen", 1);
    // As soon as the driver comes, it goes on.
    server
        .create_raw(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
                           "metadata": {"name": "csi.strongroom.io"}, "spec": {"attachRequired": false}}))
        .expect("taken");
    let class_of = |repo: &BackupRepo| repo.status.as_ref()?.generated_storage_class_name.clone();
    for name in ["mounted", "fallen"] {
        let repo = server.wait_for(name, |repo| class_of(repo).is_some());
        assert!(message(&repo, "MountAvailable").is_empty());
        let class = class_of(&repo).expect("a class");
        let claims = Api::<PersistentVolumeClaim>::namespaced(server.client.clone(), HOME);
        server.wait("the pre-check's claim", |_| {
            let (claims, class) = (claims.clone(), class.clone());
            async move {
                let list =
                    claims.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
                let named = |claim: &PersistentVolumeClaim| {
                    claim.spec.as_ref()?.storage_class_name.as_ref().map(|name| *name == class)
                };
                Ok(list.items.into_iter().find(|claim| named(claim) == Some(true)))
            }
        });
    }
    // What was given out meanwhile stays.
    wait_for_configs(&server, "fallen", 1);
}

#[test]
fn a_store_with_a_certificate_of_an_authority_of_its_own_is_trusted_where_that_is_named() {
    let authority = Authority::new();
    let folder = authority.certificate("minio", "IP:127.0.0.1", "2");
    let minio = Minio::start_with(Some(&folder));
    let bucket = minio.new_bucket();
    let mut server = Server::start();
    let keys = [("accessKeyId", &*minio.access_key), ("secretAccessKey", &*minio.secret_key)];
    server.secret(HOME, "minio-credential-for-backuprepo", &keys);
    let mut repo = minio_repo(&server, "private", &bucket);
    repo["spec"]["config"]["endpoint"] = json!(minio.endpoint);
    server.operate();
    server.create_raw(repo).expect("taken");
    assert!(!server.run_pre_check("private"));
    server.wait_for("private", |repo| message(repo, "PreCheckPassed").starts_with("TLS: "));
    let text = std::fs::read_to_string(authority.file()).expect("read");
    server
        .create_raw(json!({"apiVersion": "v1", "kind": "ConfigMap",
                           "metadata": {"name": "authorities", "namespace": HOME}, "data": {"ca.crt": text}}))
        .expect("taken");
    server.kill_operator();
    server.operate_with(&["--store-ca-config-map", "authorities"]);
    // One that the former operator has started still trusts nobody.
    assert!((0..4).any(|_| server.run_pre_check("private")));
    server.wait_for("private", is(Phase::Ready));
}

#[test]
fn two_hundred_namespaces_are_served_in_little_memory() {
    const NAMESPACES: usize = 200;
    const MEMORY: u64 = 50 << 20;
    let mut server = Server::start();
    server.operate();
    credential(&server, &server.minio.secret_key);
    let bucket = server.minio.new_bucket();
    for number in 0..NAMESPACES {
        server.namespace(&format!("tenant-{number}"), Some("shared"));
    }
    server.create_raw(minio_repo(&server, "shared", &bucket)).expect("taken");
    assert!(server.run_pre_check("shared"));
    server.wait_for("shared", is(Phase::Ready));
    wait_for_configs(&server, "shared", NAMESPACES);
    server.wait_for("shared", |repo| {
        message(repo, "NamespacesPrepared").starts_with("200 namespaces of 200")
    });
    let memory = server.operators_memory();
    assert!(memory <= MEMORY, "{memory} bytes");
    let before = settled(&server);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(versions(&server), before);
}

#[test]
fn where_kubeblocks_controller_runs_the_operator_waits() {
    let mut server = Server::start();
    server
        .create_raw(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "kubeblocks-dataprotection", "namespace": HOME, "labels": {
                "app.kubernetes.io/name": "kubeblocks", "app.kubernetes.io/component": "dataprotection"}},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "manager", "image": "x"}]}}},
        }))
        .expect("taken");
    server.operate();
    credential(&server, &server.minio.secret_key);
    server.create_raw(minio_repo(&server, "theirs", "x-bucket")).expect("taken");
    let begun = std::time::Instant::now();
    while !server.log().contains("KubeBlocks' own controller") {
        assert!(begun.elapsed() < crate::server::PATIENCE, "{}", server.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(3));
    let repo = server.repo("theirs");
    assert!(repo.status.is_none() && repo.finalizers().is_empty());
    // It lives, and says why it does nothing.
    assert_eq!(server.page("/healthz").map(|page| page.0), Some(200));
    let (status, why) = server.page("/readyz").expect("it listens");
    assert!(status == 503 && why.contains("KubeBlocks"), "{status} {why}");
    let (_, text) = server.page("/metrics").expect("it listens");
    assert!(text.contains("\nstrongroom_operator_waiting 1\n"), "{text}");
}

#[test]
fn an_api_server_that_is_away_for_a_minute_is_waited_for() {
    let mut server = Server::start();
    server.operate();
    credential(&server, &server.minio.secret_key);
    let bucket = server.minio.new_bucket();
    server.namespace("mysql", Some("shared"));
    server.create_raw(minio_repo(&server, "shared", &bucket)).expect("taken");
    assert!(server.run_pre_check("shared"));
    server.wait_for("shared", is(Phase::Ready));
    wait_for_configs(&server, "shared", 1);
    let before = settled(&server);
    server.stop_api();
    std::thread::sleep(Duration::from_secs(60));
    // It lives on: being restarted would help nobody.
    assert_eq!(server.page("/healthz").map(|page| page.0), Some(200), "{}", server.log());
    server.start_api();
    server.namespace("redis", Some("shared"));
    let configs = wait_for_configs(&server, "shared", 2);
    let after = settled(&server);
    assert!(
        before.iter().filter(|version| !after.contains(version)).count() <= 1,
        "the status alone"
    );
    assert_eq!(configs.len(), 2);
}

#[test]
fn backups_and_restores_ask_for_their_namespaces_but_not_for_those_that_are_going() {
    let mut server = Server::start();
    for (kind, plural) in [("Backup", "backups"), ("Restore", "restores")] {
        let group = "dataprotection.kubeblocks.io";
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = json!({"name": "v1alpha1", "served": true, "storage": true,
                             "schema": {"openAPIV3Schema": schema}});
        let names = json!({"kind": kind, "plural": plural, "singular": kind.to_lowercase()});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
        });
        server.create_raw(definition).expect("taken");
    }
    server.operate();
    credential(&server, &server.minio.secret_key);
    for name in ["mysql", "redis", "going"] {
        server.namespace(name, None);
    }
    let asking = |kind: &str, namespace: &str| {
        let labels =
            json!({LABEL: "shared", "dataprotection.kubeblocks.io/wait-repo-preparation": "true"});
        json!({"apiVersion": "dataprotection.kubeblocks.io/v1alpha1", "kind": kind,
               "metadata": {"name": "nightly", "namespace": namespace, "labels": labels}})
    };
    let made = |manifest: Value| {
        server.wait("the kind", |_| {
            let made = server.create_raw(manifest.clone());
            async move { made.map(Some).map_err(|error| error.to_string()) }
        })
    };
    let backups = [made(asking("Backup", "mysql")), made(asking("Restore", "redis"))];
    made(asking("Backup", "going"));
    // No controller-manager is there to empty it: it stays as it is, on its way.
    let spaces = Api::<Namespace>::all(server.client.clone());
    server.runtime.block_on(spaces.delete("going", &DeleteParams::default())).expect("deleted");

    server.create_raw(minio_repo(&server, "shared", &server.minio.new_bucket())).expect("taken");
    assert!(server.run_pre_check("shared"));
    server.wait_for("shared", is(Phase::Ready));
    let configs = wait_for_configs(&server, "shared", 2);
    let mut places: Vec<_> = configs.iter().filter_map(ResourceExt::namespace).collect();
    places.sort();
    assert_eq!(places, ["mysql", "redis"]);
    server.wait_for("shared", |repo| {
        message(repo, "NamespacesPrepared") == "2 namespaces of 2 prepared"
    });
    assert!(!server.log().contains("being terminated"), "{}", server.log());
    // Whoever waited goes on, and what a namespace got goes with the last that asked.
    for backup in &backups {
        let (api, object) = server.raw(serde_json::to_value(backup).expect("an object"));
        let name = object.name_any();
        // The status comes before the word.
        server.wait("the word that all is prepared", |_| {
            let (api, name) = (api.clone(), name.clone());
            async move {
                let object = api.get(&name).await.map_err(|error| error.to_string())?;
                let waits = "dataprotection.kubeblocks.io/wait-repo-preparation";
                Ok((!object.labels().contains_key(waits)).then_some(()))
            }
        });
        server.runtime.block_on(api.delete(&name, &DeleteParams::default())).expect("deleted");
    }
    wait_for_configs(&server, "shared", 0);
}
