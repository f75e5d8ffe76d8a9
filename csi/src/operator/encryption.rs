//! The encryption that a repository asks for: the annotation `strongroom.io/encryption`, with the shape of a
//! BackupPolicy's `encryptionConfig`. Whoever asks for encryption gets it or an error, never plain backups.

use super::crd::BackupRepo;
use super::names;
use serde::Deserialize;

/// The algorithms of KubeBlocks.
const ALGORITHMS: &[&str] = &["AES-128-CFB", "AES-192-CFB", "AES-256-CFB"];

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// One of [`ALGORITHMS`].
    #[serde(default = "usual")]
    pub algorithm: String,
    /// Where the passphrase is.
    pub pass_phrase_secret_key_ref: KeyReference,
}

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyReference {
    /// The Secret's name.
    pub name: String,
    /// The key in it.
    pub key: String,
    /// Its namespace; the credential's unless said otherwise.
    #[serde(default)]
    pub namespace: Option<String>,
}

fn usual() -> String {
    "AES-256-CFB".to_owned()
}

impl Encryption {
    /// What a repository asks for, if anything.
    ///
    /// # Errors
    /// What is wrong with the annotation.
    pub fn of(repo: &BackupRepo) -> Result<Option<Self>, String> {
        let annotations = repo.metadata.annotations.as_ref();
        let Some(text) = annotations.and_then(|all| all.get(names::ENCRYPTION)) else {
            return Ok(None);
        };
        let form = format!(
            "write {}: '{{\"algorithm\":\"AES-256-CFB\",\"passPhraseSecretKeyRef\":{{\"name\":\"SECRET\",\"key\":\
             \"KEY\"}}}}'",
            names::ENCRYPTION
        );
        let wish: Self = serde_json::from_str(text).map_err(|error| {
            format!("annotation {} is not understood ({error}): {form}", names::ENCRYPTION)
        })?;
        if !ALGORITHMS.contains(&wish.algorithm.as_str()) {
            return Err(format!(
                "annotation {}: algorithm {:?} is unknown; known are {}",
                names::ENCRYPTION,
                wish.algorithm,
                ALGORITHMS.join(", ")
            ));
        }
        let KeyReference { name, key, .. } = &wish.pass_phrase_secret_key_ref;
        if name.is_empty() || key.is_empty() {
            return Err(format!(
                "annotation {}: the passphrase has no place: {form}",
                names::ENCRYPTION
            ));
        }
        Ok(Some(wish))
    }

    /// The namespace and name of the Secret with the passphrase.
    pub fn secret<'a>(&'a self, repo: &'a BackupRepo, otherwise: &'a str) -> (&'a str, &'a str) {
        let reference = &self.pass_phrase_secret_key_ref;
        let credential = repo.spec.credential.as_ref();
        let namespace = reference
            .namespace
            .as_deref()
            .or_else(|| credential.and_then(|credential| credential.namespace.as_deref()));
        (namespace.unwrap_or(otherwise), &reference.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::crd::{AccessMethod, BackupRepoSpec, ReclaimPolicy};
    use super::*;

    fn asked(text: &str) -> Result<Option<Encryption>, String> {
        let mut repo = BackupRepo::new(
            "r",
            BackupRepoSpec {
                storage_provider_ref: "s3".to_owned(),
                access_method: AccessMethod::Tool,
                volume_capacity: None,
                pv_reclaim_policy: ReclaimPolicy::Retain,
                config: Default::default(),
                credential: None,
                path_prefix: None,
            },
        );
        repo.metadata.annotations = Some([(names::ENCRYPTION.to_owned(), text.to_owned())].into());
        Encryption::of(&repo)
    }

    #[test]
    fn the_shape_is_that_of_a_backup_policy() {
        let wish = asked(
            r#"{"algorithm":"AES-128-CFB","passPhraseSecretKeyRef":{"name":"backup-encryption","key":"secretKey"}}"#,
        );
        let wish = wish.expect("fine").expect("asked for");
        assert_eq!(wish.algorithm, "AES-128-CFB");
        assert_eq!(wish.pass_phrase_secret_key_ref.key, "secretKey");
        let usual = asked(r#"{"passPhraseSecretKeyRef":{"name":"a","key":"b"}}"#);
        assert_eq!(usual.expect("fine").expect("asked for").algorithm, "AES-256-CFB");
    }

    #[test]
    fn a_wish_that_is_not_understood_is_an_error() {
        for text in [
            "",
            "null",
            "{}",
            "AES-256-CFB",
            r#"{"algorithm":"none","passPhraseSecretKeyRef":{"name":"a","key":"b"}}"#,
            r#"{"algorithm":"AES-256-CFB"}"#,
            r#"{"passPhraseSecretKeyRef":{"name":"","key":"b"}}"#,
            r#"{"passPhraseSecretKeyRef":{"name":"a","key":"b"},"algoritm":"AES-256-CFB"}"#,
        ] {
            assert!(asked(text).is_err(), "{text}");
        }
    }
}
