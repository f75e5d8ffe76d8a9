//! Names, labels and annotations: those of KubeBlocks, which others look for, and ours.

use data_encoding::BASE32HEX_NOPAD;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Whoever changes objects says by which name.
pub const FIELD_MANAGER: &str = "strongroom-operator";
/// Keeps a repository until what it made is gone.
pub const FINALIZER: &str = "dataprotection.kubeblocks.io/finalizer";
/// On whatever belongs to a repository: its name.
pub const LABEL_REPO: &str = "dataprotection.kubeblocks.io/backup-repo-name";
/// On Secrets with datasafed's configuration.
pub const LABEL_TOOL_CONFIG: &str = "dataprotection.kubeblocks.io/is-tool-config";
/// On Backups and Restores that wait for their namespace to be prepared.
pub const LABEL_WAIT: &str = "dataprotection.kubeblocks.io/wait-repo-preparation";
/// On a namespace: the repository that it asks for.
pub const LABEL_ASK: &str = "strongroom.io/backup-repo";
/// On a namespace: how it reaches a repository that is mounted, if not so: `Tool`.
pub const LABEL_METHOD: &str = "strongroom.io/access-method";
/// On a repository: it is the one of backups that name none.
pub const IS_DEFAULT: &str = "dataprotection.kubeblocks.io/is-default-repo";
/// On a repository and what was rendered for it: of which parameters.
pub const DIGEST: &str = "dataprotection.kubeblocks.io/backup-repo-digest";
/// On a repository whose tool configurations are older than its parameters.
pub const NEED_UPDATE: &str = "dataprotection.kubeblocks.io/need-update-tool-config";
/// On a repository: the encryption that it asks for, as in a BackupPolicy.
pub const ENCRYPTION: &str = "strongroom.io/encryption";
/// On a repository: the namespaces that may ask for it, separated by commas; without it, all may.
pub const NAMESPACES: &str = "strongroom.io/namespaces";
/// On a repository: each namespace has a Secret of its own instead of the repository's; `true` or `false`.
pub const TENANT_SECRETS: &str = "strongroom.io/tenant-secrets";
/// On the Secret that is made for one namespace, by an administrator, and on what the driver has of it: which namespace.
pub const LABEL_TENANT: &str = "strongroom.io/tenant";
/// On what was made because the namespace's label asked for it: it goes with the label.
pub const ASKED_BY: &str = "strongroom.io/asked-by";
/// On a pre-check's Job: how many have failed before it with the same parameters.
pub const ATTEMPT: &str = "strongroom.io/attempt";
/// On a pre-check's Job: the generation of the repository that it checks.
pub const GENERATION: &str = "strongroom.io/generation";

/// Whether a repository with these annotations says that it is the default one.
pub fn is_default(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(IS_DEFAULT).is_some_and(|value| value == "true")
}

/// The name of something made for a repository: `PREFIX-REPO`, cut to 56 characters, and six more. KubeBlocks draws
/// those at random; here they come from the repository's uid, so that a crash between the making and the writing down
/// leaves nothing behind that is never found again.
pub fn derived(prefix: &str, repo: &str, uid: &str) -> String {
    let mut base = format!("{prefix}-{repo}");
    base.truncate(floor(&base, 56));
    let hash = Sha256::digest(format!("{prefix}/{uid}"));
    let suffix = BASE32HEX_NOPAD.encode(&hash).to_lowercase();
    // A name may not have a dot or a hyphen before the hyphen of the suffix everywhere.
    format!("{}-{}", base.trim_end_matches(['.', '-']), &suffix[..6])
}

/// The name of a repository's pre-check: its Job, Secret and claim.
pub fn pre_check(repo: &str, uid: &str) -> String {
    let uid = &uid[..floor(uid, 8)];
    let mut name = format!("pre-check-{uid}-{repo}");
    name.truncate(floor(&name, 63));
    // The name of a Job becomes a label of its pods, and part of theirs.
    name.trim_end_matches(['.', '-']).to_owned()
}

/// The greatest length up to `limit` that cuts no character.
pub(super) fn floor(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_names_are_labels_and_the_same_each_time() {
        let long = "r".repeat(253);
        for repo in ["my-repo", "a.b", long.as_str()] {
            for prefix in ["secret", "sc", "pvc", "tool-config"] {
                let name = derived(prefix, repo, "5e1f2c1e-0000-4000-8000-000000000000");
                assert!(name.len() <= 63 && name.starts_with(prefix), "{name}");
                assert_eq!(name, derived(prefix, repo, "5e1f2c1e-0000-4000-8000-000000000000"));
                assert_ne!(name, derived(prefix, repo, "6e1f2c1e-0000-4000-8000-000000000000"));
            }
        }
        let dotted = derived("secret", &format!("{}.x", "r".repeat(48)), "u");
        assert!(!dotted.contains(".-"), "{dotted}");
    }

    #[test]
    fn a_pre_check_is_called_by_uid_and_name() {
        let name = pre_check("my-repo", "5e1f2c1e-aaaa-4000-8000-000000000000");
        assert_eq!(name, "pre-check-5e1f2c1e-my-repo");
        assert_eq!(pre_check(&"r".repeat(100), "5e1f2c1e-aaaa").len(), 63);
    }
}
