//! Repositories that are mounted, where some cannot mount: the tool finds the same files.

use crate::scenarios::says;
use crate::world::{World, secret};
use strongroom_csi::operator::crd::{AccessMethod, ConditionStatus};

#[test]
fn where_no_driver_is_whoever_asks_for_a_mount_gets_the_tool_and_hears_of_it() {
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    world.observed.repo.spec.path_prefix = Some("team".to_owned());
    let known = world.observed.provider.as_mut().expect("a provider").status.take();
    world.ask("mysql");
    world.become_ready();
    says(&world, "MountAvailable", "FallenBackToTool", "csi.strongroom.io is not installed");
    assert!(world.observed.storage_class.is_none() && world.observed.claims.is_empty());
    let base = |world: &World, namespace: &str| {
        let data = world.config_in(namespace).and_then(|secret| secret.data.clone());
        data.map(|data| String::from_utf8(data["base-path"].0.clone()).expect("text"))
    };
    assert_eq!(base(&world, "mysql").as_deref(), Some("/team/mysql"));
    // The driver comes: a pre-check of its own, then claims at the same place; what was given out stays.
    world.observed.provider.as_mut().expect("a provider").status = known;
    world.become_ready();
    assert!(world.status().conditions.iter().all(|it| it.kind != "MountAvailable"));
    let class = world.observed.storage_class.as_ref().expect("a class").parameters.clone();
    let class = class.expect("parameters");
    assert_eq!((&*class["prefix"], &*class["subDir"]), ("team", "${pvc.metadata.namespace}"));
    assert_eq!(class["layout"], "objects");
    let has_claim = |world: &World, namespace: &str| {
        let mut claims = world.observed.claims.iter();
        claims.any(|claim| claim.metadata.namespace.as_deref() == Some(namespace))
    };
    assert!(has_claim(&world, "mysql"));
    assert_eq!(base(&world, "mysql").as_deref(), Some("/team/mysql"));
    assert_eq!(world.settle(), 0);
    // One that cannot mount says so by its label.
    world.ask("web");
    world.observed.namespaces.last_mut().expect("it asks").by_tool = true;
    world.settle();
    assert!(!has_claim(&world, "web"));
    assert_eq!(base(&world, "web").as_deref(), Some("/team/web"));
    assert_eq!(world.condition("NamespacesPrepared").status, ConditionStatus::True);
    // Keys that change reach both.
    world.observed.credential = Some(secret(
        "kb-system",
        world
            .observed
            .repo
            .spec
            .credential
            .clone()
            .and_then(|it| it.name)
            .expect("a name")
            .as_str(),
        &[("accessKeyId", "other"), ("secretAccessKey", "s3cr3t")],
    ));
    world.become_ready();
    for namespace in ["mysql", "web"] {
        let data = world.config_in(namespace).and_then(|secret| secret.data.clone());
        let data = data.expect("a configuration");
        assert!(String::from_utf8_lossy(&data["datasafed.conf"].0).contains("= other"));
    }
    world.observed.namespaces.clear();
    world.settle();
    assert!(world.config_in("mysql").is_none() && world.config_in("web").is_none());
}

#[test]
fn a_namespace_that_wants_the_tool_of_sealed_volumes_hears_that_it_cannot_have_it() {
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = AccessMethod::Mount;
    world.observed.repo.spec.config.insert("layout".to_owned(), "native".into());
    world.ask("web");
    world.observed.namespaces.last_mut().expect("it asks").by_tool = true;
    world.become_ready();
    says(&world, "NamespacesPrepared", "PrepareNamespaceFailed", "layout objects");
    assert!(world.observed.secrets.is_empty());
}
