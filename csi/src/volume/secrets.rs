//! The keys of a volume's secret. They are neither shown nor logged nor copied by accident; error messages
//! name the key, never its value.

use super::Reach;
use super::handle::{check_endpoint, check_region};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use strongroom::crypto::Passphrase;
use strongroom::store::{S3Credentials, TokenKeys};
use strongroom::tool::attach::protocol::Derived;
use tonic::Status;
use zeroize::Zeroizing;

const ACCESS_KEY: &str = "accessKeyID";
const SECRET_KEY: &str = "secretAccessKey";
const SESSION_TOKEN: &str = "sessionToken";
const PASSPHRASE: &str = "passphrase";
const ENDPOINT: &str = "endpoint";
const REGION: &str = "region";
const INSECURE: &str = "insecure";
/// Every key that counts; others belong to other programs that share the secret.
const KNOWN: &[&str] =
    &[ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, PASSPHRASE, ENDPOINT, REGION, INSECURE];

/// Whether a secret has to have keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It has.
    Needed,
    /// They are lent for the tokens of pods; those of the secret, which may be the provisioner's, are not looked at.
    Lent,
}

/// What a secret holds.
pub struct Secrets {
    keys: Option<(String, Zeroizing<String>)>,
    session_token: Option<Zeroizing<String>>,
    passphrase: Option<Zeroizing<String>>,
    reach: Reach,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Reads the secrets of a call.
    ///
    /// # Errors
    /// UNAUTHENTICATED and which key is missing, empty or malformed.
    pub fn parse(given: HashMap<String, String>, keys: Keys) -> Result<Self, Status> {
        let mut given: HashMap<String, Zeroizing<String>> =
            given.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect();
        for key in given.keys() {
            let meant = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(key) && *known != key);
            if let Some(meant) = meant {
                return Err(refused(&format!("key `{key}` is spelled `{meant}`")));
            }
        }
        let mut text = |key: &str| given.remove(key).map(|value| line(key, value)).transpose();
        let mut needed = |key: &str| {
            let value = text(key)?.ok_or_else(|| {
                refused(&format!(
                    "it has no `{key}`: name a secret in the StorageClass \
                     (csi.storage.k8s.io/provisioner-secret-name, node-stage-secret-name) or the volume \
                     (nodeStageSecretRef) that has accessKeyID, secretAccessKey and passphrase"
                ))
            })?;
            word(key, value)
        };
        let (keys, session_token) = match keys {
            Keys::Lent => (None, None),
            Keys::Needed => {
                let keys = (needed(ACCESS_KEY)?.to_string(), needed(SECRET_KEY)?);
                let token = text(SESSION_TOKEN)?.map(|value| word(SESSION_TOKEN, value));
                (Some(keys), token.transpose()?)
            }
        };
        let passphrase = text(PASSPHRASE)?;
        let insecure = match text(INSECURE)? {
            None => false,
            Some(value) => {
                flag(&value).ok_or_else(|| refused("`insecure` is neither true nor false"))?
            }
        };
        let endpoint = text(ENDPOINT)?
            .map(|endpoint| match endpoint.contains("://") || !insecure {
                true => check_endpoint(&endpoint),
                false => check_endpoint(&format!("http://{}", &*endpoint)),
            })
            .transpose()
            .map_err(|why| refused(&why))?;
        let region = text(REGION)?
            .map(|region| check_region(&region))
            .transpose()
            .map_err(|why| refused(&why))?;
        let reach = Reach { endpoint, region, path_style: None };
        Ok(Self { keys, session_token, passphrase, reach })
    }

    /// With keys that were lent.
    pub fn lend(&mut self, keys: &TokenKeys) {
        self.keys = Some((keys.access_key.clone(), keys.secret_key.clone()));
        self.session_token = Some(keys.session_token.clone());
    }

    /// Reads a directory with a file for each key, as Kubernetes mounts a secret. It is read at each call, so
    /// that keys can be exchanged.
    ///
    /// # Errors
    /// As [`Self::parse`], or FAILED_PRECONDITION if a file cannot be read.
    pub fn read(directory: &Path, keys: Keys) -> Result<Self, Status> {
        let mut given = HashMap::new();
        for key in KNOWN {
            let path = directory.join(key);
            match std::fs::read_to_string(&path) {
                Ok(value) => {
                    given.insert((*key).to_owned(), value);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Status::failed_precondition(format!(
                        "{}: {error}",
                        path.display()
                    )));
                }
            }
        }
        Self::parse(given, keys)
    }

    /// How the store is reached, as far as the secret says it.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// For a connection of this process; `None` while they are not lent yet.
    pub fn credentials(&self) -> Option<S3Credentials> {
        let (access_key, secret_key) = self.keys.clone()?;
        let session_token = self.session_token.clone();
        Some(S3Credentials::Given { access_key, secret_key, session_token })
    }

    /// The volume's passphrase.
    ///
    /// # Errors
    /// UNAUTHENTICATED if there is none.
    pub fn passphrase(&self) -> Result<Passphrase, Status> {
        let text = self.needed_passphrase()?;
        Ok(Passphrase::new(text.as_bytes().to_vec()))
    }

    /// For a worker; the passphrase only where the volume is encrypted.
    ///
    /// # Errors
    /// UNAUTHENTICATED if the passphrase is needed and missing.
    pub fn for_worker(&self, encrypted: bool) -> Result<WorkerSecrets, Status> {
        let passphrase = match encrypted {
            true => Some(self.needed_passphrase()?.to_string()),
            false => None,
        };
        let keys = self.keys.as_ref();
        Ok(WorkerSecrets {
            access_key: keys.map(|(name, _)| name.clone()),
            secret_key: keys.map(|(_, secret)| secret.to_string()),
            session_token: self.session_token.as_ref().map(|token| token.to_string()),
            passphrase,
            derived: Derived::default(),
        })
    }

    fn needed_passphrase(&self) -> Result<&Zeroizing<String>, Status> {
        self.passphrase.as_ref().ok_or_else(|| {
            refused(
                "it has no `passphrase`, and the volume is to be encrypted: add it, or say `encryption: \
                 none` in the StorageClass or the volume's attributes if the bucket's owner may read \
                 everything",
            )
        })
    }
}

/// What a worker is given.
pub type WorkerSecrets = strongroom::tool::attach::protocol::Secrets;

/// One line end at the end is not part of a value: that is how `echo` and editors make files. It counts as it
/// does for the tool's passphrase file, so that both open the same volume.
fn line(key: &str, value: Zeroizing<String>) -> Result<Zeroizing<String>, Status> {
    let text = value
        .strip_suffix('\n')
        .map_or(value.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(refused(&format!("`{key}` is empty")));
    }
    if text.len() > 64 << 10 {
        return Err(refused(&format!("`{key}` is longer than 64 KiB")));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Keys have neither spaces nor line ends; one that has is refused here, with its name, rather than by a
/// server that finds the signature wrong.
fn word(key: &str, value: Zeroizing<String>) -> Result<Zeroizing<String>, Status> {
    match value.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(value),
        false => Err(refused(&format!(
            "`{key}` holds a space, a line end or a character that no key has: was it encoded twice, or \
             copied with its surroundings?"
        ))),
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn refused(why: &str) -> Status {
    Status::unauthenticated(format!("secret: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[(&str, &str)]) -> Result<Secrets, Status> {
        let mut all: HashMap<String, String> =
            [("accessKeyID", "id"), ("secretAccessKey", "hunter2"), ("passphrase", "p w")]
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
        all.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Secrets::parse(all, Keys::Needed)
    }

    #[test]
    fn one_line_end_is_not_part_of_a_value() {
        let secrets =
            parse(&[("passphrase", " p\n\n"), ("secretAccessKey", "key\r\n")]).expect("fine");
        let worker = secrets.for_worker(true).expect("all there");
        assert_eq!(worker.passphrase.as_deref(), Some(" p\n"));
        assert_eq!(worker.secret_key.as_deref(), Some("key"));
        assert_eq!(secrets.for_worker(false).expect("fine").passphrase, None);
    }

    #[test]
    fn what_is_wrong_names_the_key_and_not_its_value() {
        for (key, value, why) in [
            ("secretAccessKey", "", "empty"),
            ("secretAccessKey", "hunter3\nx", "line end"),
            ("accessKeyID", "\n", "empty"),
            ("passphrase", "\n", "empty"),
            ("accesskeyid", "id", "spelled `accessKeyID`"),
            ("insecure", "maybe", "neither true nor false"),
            ("endpoint", "http://hunter3:x@host", "endpoint"),
            ("region", "hunter3 x", "region"),
        ] {
            let status = parse(&[(key, value)]).expect_err(key);
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            assert!(status.message().contains(why), "{status}");
            assert!(!status.message().contains("hunter"), "{status}");
        }
        let missing = Secrets::parse(HashMap::new(), Keys::Needed).expect_err("nothing there");
        assert!(missing.message().contains("no `accessKeyID`"), "{missing}");
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_https_unless_it_is_insecure() {
        let endpoint = |more: &[(&str, &str)]| parse(more).expect("fine").reach.endpoint;
        assert_eq!(endpoint(&[("endpoint", "h:1")]).as_deref(), Some("https://h:1"));
        let insecure = [("endpoint", "h:1"), ("insecure", "true")];
        assert_eq!(endpoint(&insecure).as_deref(), Some("http://h:1"));
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(format!("{:?}", parse(&[]).expect("fine")), "Secrets");
    }
}
