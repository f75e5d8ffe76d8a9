//! `backuprepo list` and `describe`.

use super::cluster::Cluster;
use super::{Format, Place};
use crate::operator::conditions::kinds;
use crate::operator::crd::{BackupRepo, Condition, ConditionStatus};
use crate::operator::names;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;

/// Where a repository stands, as a word.
pub(super) fn phase(repo: &BackupRepo) -> &'static str {
    use crate::operator::crd::Phase;
    match repo.status.as_ref().and_then(|status| status.phase) {
        Some(Phase::PreChecking) => "PreChecking",
        Some(Phase::Failed) => "Failed",
        Some(Phase::Ready) => "Ready",
        Some(Phase::Deleting) => "Deleting",
        None => "-",
    }
}

fn conditions(repo: &BackupRepo) -> &[Condition] {
    repo.status.as_ref().map(|status| &status.conditions[..]).unwrap_or_default()
}

/// What is wrong with a repository; empty if nothing is known of it.
pub(super) fn condition_that_fails(repo: &BackupRepo) -> String {
    // These say nothing of whether the repository itself can be used.
    let aside = |kind: &str| [kinds::DEFAULT, kinds::NAMESPACES, kinds::DELETED].contains(&kind);
    let mut failing = conditions(repo).iter().filter(|one| one.status != ConditionStatus::True);
    let failing = failing.find(|one| !aside(&one.kind));
    failing.map(|one| format!("{}: {}", one.reason, one.message)).unwrap_or_default()
}

/// What keeps a repository that is being deleted.
pub(super) fn what_uses(repo: &BackupRepo) -> String {
    let all = conditions(repo).iter();
    let mut found = all.filter(|one| one.kind == kinds::DELETED && !one.message.is_empty());
    found.next().map(|one| one.message.clone()).unwrap_or_default()
}

fn is_default(repo: &BackupRepo) -> bool {
    names::is_default(repo.annotations())
}

pub(super) async fn list(place: &Place, format: Format) -> io::Result<ExitCode> {
    let repos = Cluster::connect(place).await?.list().await?;
    let mut out = io::stdout().lock();
    match format {
        Format::Name => repos.iter().try_for_each(|repo| writeln!(out, "{}", repo.name_any()))?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &as_list(&repos))?;
            writeln!(out)?;
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(&as_list(&repos)).map_err(io::Error::other)?;
            write!(out, "{text}")?;
        }
        Format::Table if repos.is_empty() => {
            writeln!(out, "There are no repositories: strongroom backuprepo create --help")?;
        }
        Format::Table => {
            let heads = ["NAME", "STATUS", "PROVIDER", "ACCESS-METHOD", "DEFAULT", "LAST-CHECK"];
            let row = |repo: &BackupRepo| {
                let status = repo.status.as_ref();
                let checked = status.and_then(|status| status.last_successful_check_time.clone());
                [
                    repo.name_any(),
                    phase(repo).to_owned(),
                    repo.spec.storage_provider_ref.clone(),
                    repo.spec.access_method.as_str().to_owned(),
                    is_default(repo).to_string(),
                    checked.unwrap_or_else(|| "-".to_owned()),
                ]
            };
            let rows = std::iter::once(heads.map(str::to_owned)).chain(repos.iter().map(row));
            table(&mut out, &rows.collect::<Vec<_>>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// As kubectl writes several objects.
fn as_list(repos: &[BackupRepo]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": repos})
}

/// Columns as wide as what is in them.
fn table<const COLUMNS: usize>(out: &mut impl Write, rows: &[[String; COLUMNS]]) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{text:<width$}   "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

pub(super) async fn describe(place: &Place, name: &str) -> io::Result<ExitCode> {
    let repo = Cluster::connect(place).await?.repo(name).await?;
    let mut out = io::stdout().lock();
    let status = repo.status.clone().unwrap_or_default();
    let spec = &repo.spec;
    let reference = spec.credential.as_ref().map(|secret| {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("Secret {}/{}", part(&secret.namespace), part(&secret.name))
    });
    let mut lines = vec![
        ("Name", name.to_owned()),
        ("Status", phase(&repo).to_owned()),
        ("Provider", spec.storage_provider_ref.clone()),
        ("Access method", spec.access_method.as_str().to_owned()),
        ("Default", is_default(&repo).to_string()),
        ("Reclaim policy", spec.pv_reclaim_policy.as_str().to_owned()),
    ];
    let optional = [
        ("Path prefix", spec.path_prefix.clone()),
        ("Keys", reference),
        ("Tool configuration", status.tool_config_secret_name.map(|name| format!("Secret {name}"))),
        ("Claim", status.backup_pvc_name),
        ("StorageClass", status.generated_storage_class_name),
        ("Last good check", status.last_successful_check_time),
    ];
    lines.extend(optional.into_iter().filter_map(|(what, value)| Some((what, value?))));
    for (what, value) in lines {
        writeln!(out, "{:<20}{value}", format!("{what}:"))?;
    }
    writeln!(out, "Config:")?;
    for (key, value) in &spec.config {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(out, "  {:<18}{value}", format!("{key}:"))?;
    }
    writeln!(out, "Conditions:")?;
    for Condition { kind, status, reason, message, last_transition_time, .. } in &status.conditions
    {
        writeln!(out, "  {kind:<22}{status:?} since {last_transition_time}: {reason}")?;
        if !message.is_empty() {
            writeln!(out, "    {message}")?;
        }
    }
    if status.conditions.is_empty() {
        writeln!(out, "  none: nobody has looked at it: does the operator run?")?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [["NAME", "X"], ["a-long-name", "ü"]].map(|row| row.map(str::to_owned));
        let mut out = Vec::new();
        table(&mut out, &rows).expect("written");
        assert_eq!(String::from_utf8(out).expect("text"), "NAME          X\na-long-name   ü\n");
    }
}
