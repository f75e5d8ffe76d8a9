//! Tenants with Secrets of their own: nobody is given what opens another one's.

use crate::scenarios::says;
use crate::world::{World, secret};
use k8s_openapi::api::core::v1::Secret;
use strongroom_csi::operator::crd::{AccessMethod, ConditionStatus, Phase};
use strongroom_csi::operator::names;

const WISH: &str = r#"{"algorithm":"AES-256-CFB","passPhraseSecretKeyRef":{"name":"backup-encryption","key":"secretKey"}}"#;

/// An encrypted repository whose tenants have Secrets of their own.
fn world(method: AccessMethod) -> World {
    let mut world = World::of_seed("s3");
    world.observed.repo.spec.access_method = method;
    world.annotate(names::ENCRYPTION, WISH);
    world.annotate(names::TENANT_SECRETS, "true");
    let passphrase = secret("kb-system", "backup-encryption", &[("secretKey", "everybody's")]);
    world.observed.passphrase = Some(passphrase);
    world
}

/// An administrator's Secret for a namespace.
fn enrol(world: &mut World, tenant: &str, values: &[(&str, &str)]) {
    let name = format!("for-{tenant}");
    world.observed.tenants.retain(|other| other.metadata.name.as_deref() != Some(&name));
    let mut made = secret("kb-system", &name, values);
    made.metadata.labels = Some(
        [(names::LABEL_ASK, "my-repo"), (names::LABEL_TENANT, tenant)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    );
    world.observed.tenants.push(made);
}

fn own(tenant: &str) -> [(&'static str, String); 3] {
    [
        ("accessKeyId", format!("key-of-{tenant}")),
        ("secretAccessKey", format!("secret-of-{tenant}")),
        ("secretKey", format!("passphrase-of-{tenant}")),
    ]
}

fn enrol_whole(world: &mut World, tenant: &str) {
    let values = own(tenant);
    let values: Vec<(&str, &str)> =
        values.iter().map(|(key, value)| (*key, value.as_str())).collect();
    enrol(world, tenant, &values);
}

fn text(secret: &Secret) -> String {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| format!("{key}: {}\n", String::from_utf8_lossy(&value.0))).collect()
}

fn drivers<'w>(world: &'w World, tenant: &str) -> Option<&'w Secret> {
    world.observed.tenant_csi_secrets.iter().find(|secret| {
        secret.metadata.namespace.as_deref() == Some("kb-system")
            && secret.metadata.name.as_ref().is_some_and(|name| name.ends_with(tenant))
    })
}

#[test]
fn each_namespace_gets_its_own_keys_and_passphrase_and_nobody_elses() {
    for method in [AccessMethod::Tool, AccessMethod::Mount] {
        let mut world = world(method);
        for tenant in ["mysql", "web"] {
            enrol_whole(&mut world, tenant);
            world.ask(tenant);
        }
        world.become_ready();
        assert_eq!(world.condition("NamespacesPrepared").status, ConditionStatus::True);
        for (tenant, other) in [("mysql", "web"), ("web", "mysql")] {
            let mut given = vec![drivers(&world, tenant).expect("the driver's")];
            match method {
                AccessMethod::Tool => given.push(world.config_in(tenant).expect("given")),
                AccessMethod::Mount => assert!(world.config_in(tenant).is_none()),
            }
            for given in given.into_iter().map(text) {
                for (_, value) in own(tenant) {
                    assert!(given.contains(&value), "{value} in {given}");
                }
                for foreign in [other, "AKIA", "s3cr3t", "everybody's"] {
                    assert!(!given.contains(foreign), "{foreign} in {given}");
                }
            }
        }
        // The pre-check has the repository's own.
        assert!(text(world.observed.csi_secret.as_ref().expect("made")).contains("everybody's"));
        if method == AccessMethod::Mount {
            assert!(text(drivers(&world, "kb-system").expect("made")).contains("everybody's"));
            let class = world.observed.storage_class.as_ref().expect("a class");
            let mut secrets = 0;
            for (key, value) in class.parameters.iter().flatten() {
                if key.ends_with("secret-name") {
                    assert!(value.ends_with("-${pvc.namespace}"), "{key}: {value}");
                    secrets += 1;
                }
            }
            assert_eq!(secrets, 4);
        }
        assert_eq!(world.settle(), 0);
        // Another key of one tenant is that one's alone.
        let mut values = own("web");
        values[1].1 = "rotated".to_owned();
        let values: Vec<_> = values.iter().map(|(key, value)| (*key, value.as_str())).collect();
        enrol(&mut world, "web", &values);
        let before = world.done.len();
        world.settle();
        assert!(text(drivers(&world, "web").expect("there")).contains("rotated"));
        assert!(!text(drivers(&world, "mysql").expect("there")).contains("rotated"));
        assert_eq!(world.done.len() - before, if method == AccessMethod::Tool { 2 } else { 1 });
        // Everything goes with the repository.
        world.observed.namespaces.clear();
        world.settle();
        let now = world.observed.now;
        world.observed.repo.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        world.settle();
        assert!(world.observed.tenant_csi_secrets.is_empty() && world.observed.secrets.is_empty());
        assert_eq!(world.observed.repo.metadata.finalizers, Some(Vec::new()));
    }
}

#[test]
fn who_has_no_secret_or_half_of_one_is_given_nothing_and_told_what_is_missing() {
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("accessKeyId", "k"), ("secretKey", "p")], "has no secretAccessKey"),
        (&[("secretKey", "p")], "has no accessKeyId"),
        (&[("accessKeyId", "k"), ("secretAccessKey", ""), ("secretKey", "p")], "is empty"),
        (
            &[("accessKeyId", "k"), ("secretAccessKey", "s")],
            "no passphrase under the key secretKey",
        ),
        (
            &[("accessKeyId", "k"), ("secretAccessKey", "s"), ("secretKey", "p"), ("bucket", "b")],
            "sets bucket, which is the repository's",
        ),
        (&[], "has no accessKeyId"),
    ];
    for method in [AccessMethod::Tool, AccessMethod::Mount] {
        let mut world = world(method);
        enrol_whole(&mut world, "mysql");
        world.ask("mysql");
        world.ask("web");
        world.become_ready();
        let is_given = |world: &World, tenant: &str| {
            let claims = &world.observed.claims;
            drivers(world, tenant).is_some()
                || world.config_in(tenant).is_some()
                || claims.iter().any(|claim| claim.metadata.namespace.as_deref() == Some(tenant))
        };
        says(&world, "NamespacesPrepared", "PrepareNamespaceFailed", "strongroom.io/tenant=web");
        assert!(is_given(&world, "mysql") && !is_given(&world, "web"));
        for (values, expected) in cases {
            enrol(&mut world, "web", values);
            world.settle();
            says(&world, "NamespacesPrepared", "PrepareNamespaceFailed", expected);
            assert!(!is_given(&world, "web"), "{expected}");
        }
        enrol_whole(&mut world, "web");
        let mut twin = world.observed.tenants.last().expect("enrolled").clone();
        twin.metadata.name = Some("another".to_owned());
        world.observed.tenants.push(twin);
        world.settle();
        says(&world, "NamespacesPrepared", "PrepareNamespaceFailed", "leave one");
        world.observed.tenants.pop();
        world.settle();
        assert!(is_given(&world, "web"));
        assert_eq!(world.condition("NamespacesPrepared").status, ConditionStatus::True);
    }
}

#[test]
fn a_tenants_passphrase_does_not_change_under_its_backups() {
    for method in [AccessMethod::Tool, AccessMethod::Mount] {
        for is_forgotten in [false, true] {
            let mut world = world(method);
            enrol_whole(&mut world, "web");
            world.ask("web");
            world.become_ready();
            if is_forgotten {
                world.observed.tenant_csi_secrets.clear();
            }
            enrol(
                &mut world,
                "web",
                &[("accessKeyId", "k"), ("secretAccessKey", "s"), ("secretKey", "another")],
            );
            world.settle();
            if is_forgotten && method == AccessMethod::Mount {
                // Nothing remembers it: what was deleted by hand cannot be asked.
                continue;
            }
            says(&world, "NamespacesPrepared", "PrepareNamespaceFailed", "put that one back");
            let all = world.observed.secrets.iter().chain(&world.observed.tenant_csi_secrets);
            assert!(all.map(text).all(|text| !text.contains("another")));
            // The namespace leaves and comes again: it is remembered.
            if !is_forgotten {
                world.observed.namespaces.clear();
                world.settle();
                world.ask("web");
                world.settle();
                says(&world, "NamespacesPrepared", "PrepareNamespaceFailed", "put that one back");
            }
        }
    }
}

#[test]
fn a_repository_that_comes_to_have_tenants_says_what_has_to_be_made_anew() {
    let mut world = world(AccessMethod::Mount);
    world.annotate(names::TENANT_SECRETS, "false");
    world.become_ready();
    for (value, expected) in [("true", "before there were Secrets"), ("false", "for Secrets")] {
        world.annotate(names::TENANT_SECRETS, value);
        world.settle();
        says(&world, "StorageClassCreated", "PrepareStorageClassFailed", expected);
        assert_eq!(world.phase(), Phase::Failed);
        world.observed.storage_class = None;
        world.settle();
        assert_eq!(world.phase(), Phase::Ready, "{:?}", world.status().conditions);
    }
    world.annotate(names::TENANT_SECRETS, "yes");
    world.settle();
    says(&world, "ParametersChecked", "ParametersInvalid", "neither \"true\" nor \"false\"");
}

#[test]
fn a_lost_secret_of_the_repository_is_not_taken_for_another_passphrase() {
    let mut world = world(AccessMethod::Tool);
    enrol_whole(&mut world, "web");
    world.ask("web");
    world.become_ready();
    world.observed.csi_secret = None;
    world.settle();
    assert_eq!(world.phase(), Phase::Ready, "{:?}", world.status().conditions);
}

#[test]
fn who_takes_the_annotation_away_gives_nobody_what_is_everybodys() {
    for method in [AccessMethod::Tool, AccessMethod::Mount] {
        let mut world = world(method);
        enrol_whole(&mut world, "web");
        world.ask("web");
        world.become_ready();
        let annotations = world.observed.repo.metadata.annotations.as_mut().expect("some");
        annotations.remove(names::TENANT_SECRETS);
        world.settle();
        says(&world, "StorageClassCreated", "TenantSecretsRemoved", "put it back");
        let given = world.observed.secrets.iter().chain(drivers(&world, "web"));
        assert!(given.map(text).all(|text| !text.contains("everybody's")), "{method:?}");
        world.annotate(names::TENANT_SECRETS, "true");
        world.settle();
        assert_eq!(world.phase(), Phase::Ready, "{:?}", world.status().conditions);
        assert_eq!(world.settle(), 0);
    }
}

#[test]
fn what_was_everybodys_goes_from_tenants_when_they_are_to_have_their_own() {
    let mut world = world(AccessMethod::Tool);
    world.annotate(names::TENANT_SECRETS, "false");
    for tenant in ["mysql", "web"] {
        world.ask(tenant);
    }
    world.become_ready();
    for tenant in ["mysql", "web"] {
        assert!(text(world.config_in(tenant).expect("given")).contains("everybody's"));
    }
    enrol_whole(&mut world, "mysql");
    world.annotate(names::TENANT_SECRETS, "true");
    world.settle();
    assert!(world.config_in("web").is_none());
    says(&world, "NamespacesPrepared", "PrepareNamespaceFailed", "strongroom.io/tenant=web");
    let own = text(world.config_in("mysql").expect("given"));
    assert!(own.contains("passphrase-of-mysql") && !own.contains("everybody's"), "{own}");
    // Its own stays when its Secret is taken away.
    world.observed.tenants.clear();
    world.settle();
    assert!(world.config_in("mysql").is_some());
}

#[test]
fn a_provider_that_does_not_say_which_fields_are_secret_gives_away_none() {
    let mut world = world(AccessMethod::Tool);
    let provider = world.observed.provider.as_mut().expect("a provider");
    let schema = provider.spec.parameters_schema.as_mut().expect("a schema");
    schema.credential_fields.clear();
    enrol(&mut world, "web", &[("secretKey", "passphrase-of-web")]);
    world.ask("web");
    world.become_ready();
    says(&world, "NamespacesPrepared", "PrepareNamespaceFailed", "has no accessKeyId");
    assert!(world.config_in("web").is_none() && drivers(&world, "web").is_none());
    enrol_whole(&mut world, "web");
    world.settle();
    let given = text(world.config_in("web").expect("given"));
    assert!(given.contains("key-of-web") && !given.contains("AKIA"), "{given}");
}
