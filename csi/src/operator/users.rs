//! Which pods use a repository: while it is being deleted, they are waited for.

use super::objects::Names;
use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

/// Whether a pod has the claim or the configuration: as a volume, by itself or among others, or in its environment.
pub(super) fn uses(pod: &PodSpec, called: &Names) -> bool {
    let is_config = |name: Option<&str>| name == Some(&called.tool_config);
    let of_volume = |volume: &Volume| {
        let claim = volume.persistent_volume_claim.as_ref();
        let secret = volume.secret.as_ref();
        let projected = volume.projected.iter().flat_map(|all| all.sources.iter().flatten());
        let mut projected = projected.filter_map(|source| source.secret.as_ref());
        claim.is_some_and(|claim| claim.claim_name == called.claim)
            || secret.is_some_and(|secret| is_config(secret.secret_name.as_deref()))
            || projected.any(|secret| is_config(Some(&secret.name)))
    };
    let of_container = |container: &Container| {
        let whole = container.env_from.iter().flatten().filter_map(|from| from.secret_ref.as_ref());
        let single = container.env.iter().flatten();
        let mut single = single.filter_map(|env| env.value_from.as_ref()?.secret_key_ref.as_ref());
        whole.map(|secret| &secret.name).any(|name| is_config(Some(name)))
            || single.any(|secret| is_config(Some(&secret.name)))
    };
    let mut containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    pod.volumes.iter().flatten().any(of_volume) || containers.any(of_container)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_uses_a_repository_by_volumes_and_by_its_environment() {
        let called = Names {
            csi_secret: Default::default(),
            storage_class: "sc".to_owned(),
            claim: "pvc-x".to_owned(),
            tool_config: "tool-config-x".to_owned(),
            pre_check: "check".to_owned(),
        };
        let pod = |volume: Value, init: Value, container: Value| -> PodSpec {
            let pod = json!({
                "volumes": [{"name": "other", "emptyDir": {}}, volume],
                "initContainers": [init],
                "containers": [container],
            });
            serde_json::from_value(pod).expect("a pod")
        };
        let (none, plain) = (json!({"name": "none"}), json!({"name": "plain"}));
        let volumes = [
            json!({"name": "v", "secret": {"secretName": "tool-config-x"}}),
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "pvc-x"}}),
            json!({"name": "v", "projected": {"sources": [{"secret": {"name": "tool-config-x"}}]}}),
        ];
        for volume in volumes {
            assert!(uses(&pod(volume.clone(), plain.clone(), plain.clone()), &called), "{volume}");
        }
        let containers = [
            json!({"name": "c", "envFrom": [{"secretRef": {"name": "tool-config-x"}}]}),
            json!({"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef":
                {"name": "tool-config-x", "key": "base-path"}}}]}),
        ];
        for container in containers {
            for (init, container) in [(&plain, &container), (&container, &plain)] {
                assert!(uses(&pod(none.clone(), init.clone(), container.clone()), &called));
            }
        }
        let others = json!({"name": "c", "envFrom": [{"secretRef": {"name": "other"}}, {}],
            "env": [{"name": "E", "value": "tool-config-x"}]});
        let other =
            json!({"name": "v", "projected": {"sources": [{"secret": {"name": "pvc-x"}}, {}]}});
        assert!(!uses(&pod(other, others, plain), &called));
    }
}
