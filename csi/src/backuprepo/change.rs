//! `backuprepo update` and `delete`.

use super::Place;
use super::cluster::{Cluster, failed};
use super::flags::{Flags, parsed, place_flags, switch};
use super::show::{phase, what_uses};
use crate::operator::crd::{AccessMethod, BackupRepo, ReclaimPolicy};
use crate::operator::names;
use clap::{Arg, Args, Command};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use strongroom::config::parse_duration;

fn command() -> Command {
    Command::new("strongroom backuprepo update")
        .about("Change a repository's parameters or keys, or make it the default")
        .max_term_width(100)
        .arg(Arg::new("name").value_name("NAME").required(true).help("Which"))
        .arg(switch("default", "Whether backups that name no repository go there"))
        .args(place_flags())
        .after_help(
            "With a repository's name before it, --help shows the flags of its provider.\n\nExamples:\n  \
             strongroom backuprepo update old --default=false\n  \
             strongroom backuprepo update my-repo --access-key-id KEY --secret-access-key-file secret",
        )
}

pub(super) async fn update(place: Place, arguments: Vec<OsString>) -> io::Result<ExitCode> {
    let place = place.or_in(&arguments);
    // The provider's flags are known when the repository is: its name comes first.
    let first = arguments.first().map(|name| name.to_string_lossy().into_owned());
    let Some(name) = first.filter(|name| !name.starts_with('-')) else {
        return Ok(match parsed(command(), arguments) {
            Ok(_) => {
                let text = "strongroom backuprepo update: the repository's name comes first";
                return Err(io::Error::other(text));
            }
            Err(code) => code,
        });
    };
    let cluster = Cluster::connect(&place).await?;
    let repo = cluster.repo(&name).await?;
    let provider = cluster.provider(&repo.spec.storage_provider_ref).await?;
    // A parameter of the same name as a flag of `create` is called here as it is there.
    let flags = Flags::of(&provider.spec, &super::create::command());
    let matches = match parsed(flags.add_to(command(), false), arguments) {
        Ok(matches) => matches,
        Err(code) => return Ok(code),
    };
    let values = flags.given(&matches)?;
    let default = matches.get_one::<bool>("default").copied();
    if default.is_none() && values.config.is_empty() && values.credential.is_empty() {
        return Err(io::Error::other(format!(
            "BackupRepo {name}: nothing to change: strongroom backuprepo update {name} --help shows the flags"
        )));
    }
    if default == Some(true) {
        cluster.check_default(Some(&name)).await?;
    }
    if !values.credential.is_empty() {
        let reference = repo.spec.credential.clone().unwrap_or_default();
        let (Some(secret), Some(namespace)) = (reference.name, reference.namespace) else {
            return Err(io::Error::other(format!(
                "BackupRepo {name}: it names no Secret whose keys could be changed: set spec.credential"
            )));
        };
        let api = Api::<Secret>::namespaced(cluster.client.clone(), &namespace);
        let patch = Patch::Merge(json!({"stringData": values.credential}));
        let done = api.patch(&secret, &PatchParams::default(), &patch).await;
        done.map_err(|error| failed(&format!("Secret {namespace}/{secret}"), &error))?;
    }
    let mut patch = json!({});
    if !values.config.is_empty() {
        patch["spec"] = json!({"config": values.config});
    }
    if let Some(default) = default {
        patch["metadata"] = json!({"annotations": {names::IS_DEFAULT: default.to_string()}});
    }
    if patch != json!({}) {
        let done =
            cluster.repos().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        done.map_err(|error| failed(&format!("BackupRepo {name}"), &error))?;
    }
    writeln!(io::stdout(), "BackupRepo {name} is changed")?;
    Ok(ExitCode::SUCCESS)
}

/// Which repository goes.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Which
    name: String,
    /// Do not ask
    #[arg(long, visible_alias = "yes", short = 'y')]
    auto_approve: bool,
    /// Do not wait until it is gone
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for what still uses it
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = parse_duration)]
    timeout: Duration,
}

impl Delete {
    pub(super) async fn run(self, place: &Place) -> io::Result<ExitCode> {
        let Self { name, auto_approve, no_wait, timeout } = self;
        let cluster = Cluster::connect(place).await?;
        let repo = cluster.repo(&name).await?;
        if !auto_approve && !asked(&name, &repo)? {
            return Ok(ExitCode::FAILURE);
        }
        let deleted = cluster.repos().delete(&name, &DeleteParams::default()).await;
        deleted.map_err(|error| failed(&format!("BackupRepo {name}"), &error))?;
        if no_wait {
            writeln!(io::stdout(), "BackupRepo {name} is being deleted")?;
            return Ok(ExitCode::SUCCESS);
        }
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let now = cluster.repos().get_opt(&name).await;
            let now = now.map_err(|error| failed(&format!("BackupRepo {name}"), &error))?;
            // Another one of the same name is not the one that was meant.
            let Some(now) = now.filter(|now| now.metadata.uid == repo.metadata.uid) else {
                writeln!(io::stdout(), "BackupRepo {name} is deleted")?;
                return Ok(ExitCode::SUCCESS);
            };
            let why = match phase(&now) {
                "Deleting" => what_uses(&now),
                _ => "it is not looked at: does the operator run?".to_owned(),
            };
            if begun.elapsed() > timeout {
                return Err(io::Error::other(format!(
                    "BackupRepo {name}: not gone within {timeout:?}, and goes when it can: {why}"
                )));
            }
            if !why.is_empty() && why != told && phase(&now) == "Deleting" {
                writeln!(io::stderr(), "BackupRepo {name} waits: {why}")?;
                told = why;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Whether somebody at the terminal agrees.
fn asked(name: &str, repo: &BackupRepo) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(io::Error::other(format!(
            "BackupRepo {name}: nobody is there to be asked: use --auto-approve"
        )));
    }
    let of_data = match (repo.spec.access_method, repo.spec.pv_reclaim_policy) {
        (AccessMethod::Mount, ReclaimPolicy::Delete) => {
            "Its volumes are deleted WITH THE BACKUPS IN THEM: its policy is Delete."
        }
        _ => "What is in its bucket stays.",
    };
    write!(io::stderr(), "Delete BackupRepo {name}? {of_data} [y/N] ")?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
