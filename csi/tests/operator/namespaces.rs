//! Which namespaces have what, and what is said of them.

use crate::world::World;
use strongroom_csi::operator::crd::ConditionStatus;
use strongroom_csi::operator::observed::Action;

/// Whoever may write Secrets in a namespace does not give the store's keys to himself.
#[test]
fn what_looks_like_a_configuration_asks_for_none() {
    let mut world = World::of_seed("s3");
    world.ask("mysql");
    world.become_ready();
    let mut forged = world.config_in("mysql").expect("given").clone();
    forged.metadata.namespace = Some("theirs".to_owned());
    forged.metadata.annotations = None;
    forged.data = None;
    world.observed.secrets.push(forged);
    world.settle();
    assert!(
        world.config_in("theirs").is_none(),
        "it is taken back, and nothing is written into it"
    );
    let written = world.done.iter().any(|action| {
        matches!(action, Action::Secret(secret)
        if secret.metadata.namespace.as_deref() == Some("theirs"))
    });
    assert!(!written);
    // Nor does a tenant keep what he had by changing its marks.
    for secret in &mut world.observed.secrets {
        secret.metadata.annotations = None;
    }
    world.observed.namespaces.clear();
    world.settle();
    assert!(world.config_in("mysql").is_none());
}

#[test]
fn namespaces_are_prepared_when_all_of_them_are() {
    let mut world = World::of_seed("s3");
    world.ask("mysql");
    world.ask("redis");
    world.settle();
    let told = |world: &World| {
        let condition = world.condition("NamespacesPrepared");
        (condition.status, condition.message.clone())
    };
    let none = "0 namespaces of 2 prepared".to_owned();
    assert_eq!(told(&world), (ConditionStatus::Unknown, none));
    world.become_ready();
    let all = "2 namespaces of 2 prepared".to_owned();
    assert_eq!(told(&world), (ConditionStatus::True, all));
}
