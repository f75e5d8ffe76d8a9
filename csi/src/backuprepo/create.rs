//! `backuprepo create`.
//!
//! # Crash story
//! The Secret with the keys is made first, then the repository that names it, then the Secret is made a part of the
//! repository. A Secret whose repository could not be made is removed again; one that a crash left behind is in
//! nobody's way (its name is random) and has the label `strongroom.io/credential-of`.

use super::Place;
use super::cluster::{Cluster, failed};
use super::flags::{Flags, parsed, place_flags, switch, text, value_of};
use super::show::{condition_that_fails, phase};
use crate::operator::crd::{AccessMethod, BackupRepo, StorageProviderSpec};
use crate::operator::names;
use clap::{Arg, ArgAction, ArgMatches, Command};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use strongroom::config::parse_duration;

/// On a Secret of ours: the repository whose keys it has.
const CREDENTIAL_OF: &str = "strongroom.io/credential-of";
/// How often a repository that is waited for is looked at.
const LOOKING: Duration = Duration::from_millis(500);

/// What each provider has.
pub(super) fn command() -> Command {
    Command::new("strongroom backuprepo create")
        .about("Make a repository, with a Secret for its keys")
        .max_term_width(100)
        .arg(Arg::new("name").value_name("NAME").help("Its name (else backuprepo- and five random characters)"))
        .arg(text("provider", "NAME", "The StorageProvider; --help with it shows its flags").required(true))
        .arg(
            text("access-method", "METHOD", "How workloads reach it: datasafed, or a mounted volume")
                .value_parser(["Tool", "Mount"])
                .default_value("Tool"),
        )
        .arg(switch("default", "Backups that name no repository go there"))
        .arg(
            text("pv-reclaim-policy", "POLICY", "What becomes of volumes whose claim is deleted")
                .value_parser(["Retain", "Delete"])
                .default_value("Retain"),
        )
        .arg(text("volume-capacity", "QUANTITY", "The capacity of claims").default_value("100Gi"))
        .arg(text("path-prefix", "PATH", "What the path of each backup begins with"))
        .arg(
            text("encryption", "ALGORITHM", "Encrypt with it what is stored")
                .value_parser(["AES-128-CFB", "AES-192-CFB", "AES-256-CFB"])
                .requires("passphrase-secret"),
        )
        .arg(
            text("passphrase-secret", "NAME:KEY", "The Secret with the passphrase, beside the one with the keys")
                .requires("encryption"),
        )
        .arg(text("credential", "NAME", "A Secret that has the keys already, instead of keys given here"))
        .arg(text("namespace", "NAME", "Where that Secret is (else the operator's, else kb-system)").short('n'))
        .arg(
            Arg::new("wait")
                .long("wait")
                .value_name("DURATION")
                .help("Wait until it can be used, for so long at most (2m)")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("2m")
                .value_parser(parse_duration),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Print the repository's manifest, and make nothing"),
        )
        .args(place_flags())
        .after_help(
            "Example:\n  strongroom backuprepo create my-repo --provider minio --endpoint http://minio:9000 \\\n      \
             --bucket backups --access-key-id KEY --secret-access-key-file secret --default --wait",
        )
}

pub(super) async fn run(place: Place, arguments: Vec<OsString>) -> io::Result<ExitCode> {
    let wants_help = arguments.iter().any(|argument| argument == "--help" || argument == "-h");
    let Some(provider) = value_of(&arguments, "--provider") else {
        // Which says that it is missing, or shows what there is without it.
        return Ok(match parsed(command(), arguments) {
            Ok(_) => ExitCode::from(2),
            Err(code) => code,
        });
    };
    let place = place.or_in(&arguments);
    let cluster = Cluster::connect(&place).await?;
    let spec = match cluster.provider(&provider).await {
        Ok(found) => found.spec,
        // Help is given as far as it can be.
        Err(_) if wants_help => StorageProviderSpec::default(),
        Err(error) => return Err(error),
    };
    let flags = Flags::of(&spec, &command());
    let matches = match parsed(flags.add_to(command(), true), arguments) {
        Ok(matches) => matches,
        Err(code) => return Ok(code),
    };
    Wish { cluster, provider, spec, flags, matches }.fulfil().await
}

struct Wish {
    cluster: Cluster,
    provider: String,
    spec: StorageProviderSpec,
    flags: Flags,
    matches: ArgMatches,
}

impl Wish {
    fn text(&self, flag: &str) -> Option<&String> {
        self.matches.get_one::<String>(flag)
    }

    async fn fulfil(self) -> io::Result<ExitCode> {
        self.check_method()?;
        let name = self.text("name").cloned();
        let is_default = self.matches.get_one::<bool>("default").copied().unwrap_or_default();
        if is_default {
            self.cluster.check_default(None).await?;
        }
        if let Some(name) = &name
            && let Ok(Some(_)) = self.cluster.repos().get_opt(name).await
        {
            return Err(io::Error::other(format!(
                "BackupRepo {name}: is there already: strongroom backuprepo update {name} changes it"
            )));
        }
        let namespace = match self.text("namespace") {
            Some(namespace) => namespace.clone(),
            None => self.cluster.namespace().await,
        };
        let values = self.flags.given(&self.matches)?;
        let is_dry = self.matches.get_flag("dry-run");
        let secrets = Api::<Secret>::namespaced(self.cluster.client.clone(), &namespace);
        let mut made = None;
        // What cannot be understood is told before anything is made.
        let encryption = self.encryption(&namespace)?;
        let credential = match self.text("credential") {
            Some(_) if !values.credential.is_empty() => {
                return Err(io::Error::other(
                    "--credential names a Secret that has the keys: they cannot be given here, too",
                ));
            }
            Some(credential) => Some(credential.clone()),
            None if values.credential.is_empty() => None,
            None if is_dry => Some("(a new Secret)".to_owned()),
            None => {
                let of = name.as_deref().unwrap_or("backuprepo");
                let secret = serde_json::from_value::<Secret>(json!({
                    "metadata": {
                        "generateName": format!("{of}-credential-"),
                        "labels": {CREDENTIAL_OF: label_of(of), "app.kubernetes.io/managed-by": "strongroom"},
                    },
                    "stringData": values.credential,
                }));
                let secret = secret.map_err(io::Error::other)?;
                let what = format!("Secret in namespace {namespace}");
                let secret = secrets.create(&PostParams::default(), &secret).await;
                let secret = secret.map_err(|error| failed(&what, &error))?.name_any();
                made = Some(secret.clone());
                Some(secret)
            }
        };
        let mut annotations = BTreeMap::new();
        annotations.extend(is_default.then(|| (names::IS_DEFAULT, "true".to_owned())));
        annotations.extend(encryption.map(|wish| (names::ENCRYPTION, wish)));
        let credential = credential.map(|name| json!({"name": name, "namespace": namespace}));
        let repo = self.manifest(name.as_deref(), &annotations, &values.config, &credential)?;
        if is_dry {
            let text = serde_saphyr::to_string(&repo).map_err(io::Error::other)?;
            write!(io::stdout(), "{text}")?;
            return Ok(ExitCode::SUCCESS);
        }
        let repo = match self.cluster.repos().create(&PostParams::default(), &repo).await {
            Ok(repo) => repo,
            Err(error) => {
                // Where nobody answered, the repository may be there all the same, and needs it.
                if let (Some(made), kube::Error::Api(_)) = (&made, &error) {
                    // What is left behind is named by its label.
                    let _ = secrets.delete(made, &DeleteParams::default()).await;
                }
                return Err(failed("BackupRepo", &error));
            }
        };
        if let Some(made) = &made {
            let owner = json!({"metadata": {"ownerReferences": [{
                "apiVersion": "dataprotection.kubeblocks.io/v1alpha1", "kind": "BackupRepo",
                "name": repo.name_any(), "uid": repo.metadata.uid,
            }]}});
            let owned = secrets.patch(made, &PatchParams::default(), &Patch::Merge(owner)).await;
            owned.map_err(|error| failed(&format!("Secret {namespace}/{made}"), &error))?;
        }
        let name = repo.name_any();
        match self.matches.get_one::<Duration>("wait") {
            Some(most) => wait(&self.cluster, &name, *most).await,
            None => {
                writeln!(
                    io::stdout(),
                    "BackupRepo {name} is made and being checked: strongroom backuprepo describe {name}"
                )?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    /// What the operator would say later is said now.
    fn check_method(&self) -> io::Result<()> {
        let is_mount = self.text("access-method").is_some_and(|method| method == "Mount");
        let method = if is_mount { AccessMethod::Mount } else { AccessMethod::Tool };
        match self.spec.serves(method) {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "StorageProvider {} has no template for --access-method {}: use the other one",
                self.provider,
                method.as_str()
            ))),
        }
    }

    /// The annotation that asks for encryption.
    fn encryption(&self, namespace: &str) -> io::Result<Option<String>> {
        let (Some(algorithm), Some(secret)) =
            (self.text("encryption"), self.text("passphrase-secret"))
        else {
            return Ok(None);
        };
        let (secret, key) = secret.split_once(':').ok_or_else(|| {
            io::Error::other(
                "--passphrase-secret: it is NAME:KEY, a Secret's name and the key in it",
            )
        })?;
        let reference = json!({"name": secret, "key": key, "namespace": namespace});
        let wish = json!({"algorithm": algorithm, "passPhraseSecretKeyRef": reference});
        Ok(Some(wish.to_string()))
    }

    fn manifest(
        &self,
        name: Option<&str>,
        annotations: &BTreeMap<&str, String>,
        config: &BTreeMap<String, Value>,
        credential: &Option<Value>,
    ) -> io::Result<BackupRepo> {
        let mut metadata = match name {
            Some(name) => json!({"name": name}),
            None => json!({"generateName": "backuprepo-"}),
        };
        if !annotations.is_empty() {
            metadata["annotations"] = json!(annotations);
        }
        serde_json::from_value(json!({
            "apiVersion": "dataprotection.kubeblocks.io/v1alpha1", "kind": "BackupRepo",
            "metadata": metadata,
            "spec": {
                "storageProviderRef": self.provider, "accessMethod": self.text("access-method"),
                "pvReclaimPolicy": self.text("pv-reclaim-policy"),
                "volumeCapacity": self.text("volume-capacity"), "config": config,
                "credential": credential, "pathPrefix": self.text("path-prefix"),
            },
        }))
        .map_err(io::Error::other)
    }
}

/// A label's value has at most 63 characters.
fn label_of(name: &str) -> &str {
    name.get(..63).unwrap_or(name)
}

/// Waits until a repository can be used or has failed, and says which.
async fn wait(cluster: &Cluster, name: &str, most: Duration) -> io::Result<ExitCode> {
    let begun = Instant::now();
    loop {
        let repo = cluster.repo(name).await?;
        let wrong = condition_that_fails(&repo);
        match (phase(&repo), begun.elapsed() > most) {
            ("Ready", _) => {
                writeln!(io::stdout(), "BackupRepo {name} is ready")?;
                return Ok(ExitCode::SUCCESS);
            }
            ("Failed", _) => {
                return Err(io::Error::other(format!("BackupRepo {name}: {wrong}")));
            }
            (_, true) => {
                let why = if wrong.is_empty() {
                    "it is not looked at: does the operator run?"
                } else {
                    &wrong
                };
                return Err(io::Error::other(format!(
                    "BackupRepo {name}: not ready within {most:?}: {why}"
                )));
            }
            _ => tokio::time::sleep(LOOKING).await,
        }
    }
}
