//! The core: from the state around a repository to what is to be done. Pure; every step is a function of what was
//! observed, so that whatever was interrupted is taken up by looking again.
//!
//! Flow: provider -> parameters -> encryption -> Secret and StorageClass -> claim's template -> pre-check ->
//! namespaces -> phase. A step that fails says so in its condition, and the steps after it keep what they said.
//! Guarantees: no namespace gets anything before the pre-check has passed; a repository that asks for encryption makes
//! nothing that would store plain data; where all is well, the plan is idle.

use super::conditions::{Conditions, kinds};
use super::crd::{
    AccessMethod, BackupRepoStatus, ConditionStatus, Phase, ReclaimPolicy, SecretReference,
};
use super::names;
use super::namespaces::{self, Parcel, list};
use super::objects::{self, Maker, Names, reference};
use super::observed::{Action, Kind, Observed, Plan, Settings};
use super::precheck::{self, Step};
use super::render::{OWN_PLACE, SUB_DIR, Templates};
use super::tenants::{self, Tenants};
use std::collections::BTreeMap;

/// What is to be done for a repository.
pub fn plan(observed: &Observed, settings: &Settings) -> Plan {
    let metadata = &observed.repo.metadata;
    if metadata.deletion_timestamp.is_some() {
        return super::deletion::plan(observed, settings);
    }
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|name| name == names::FINALIZER) {
        // Before anything is made that would have to be removed.
        finalizers.push(names::FINALIZER.to_owned());
        let action =
            Action::Metadata { finalizers: Some(finalizers), annotations: BTreeMap::new() };
        return Plan { actions: vec![action], ..Plan::default() };
    }
    let stored = observed.repo.status.clone().unwrap_or_default();
    let conditions = Conditions::new(stored.conditions.clone(), observed.now, metadata.generation);
    let called = Names::of(&observed.repo, settings);
    let mut work = Work {
        observed,
        settings,
        status: BackupRepoStatus {
            generated_csi_driver_secret: Some(SecretReference {
                namespace: Some(called.csi_secret.0.clone()),
                name: Some(called.csi_secret.1.clone()),
            }),
            ..stored.clone()
        },
        called,
        conditions,
        plan: Plan::default(),
        begun: false,
    };
    let all = work.steps();
    if all.is_none() {
        let back = namespaces::withdraw(observed, &work.called);
        work.plan.actions.extend(back);
    }
    let Work { mut status, conditions, mut plan, begun, .. } = work;
    let check = conditions.get(kinds::PRE_CHECK).map(|condition| condition.status);
    status.phase = Some(match (all, check) {
        (None, _) if begun => Phase::PreChecking,
        (None, _) => Phase::Failed,
        (Some(()), Some(ConditionStatus::True)) => Phase::Ready,
        (Some(()), Some(ConditionStatus::False)) => Phase::Failed,
        (Some(()), _) => Phase::PreChecking,
    });
    status.observed_generation = metadata.generation;
    status.conditions = conditions.into_list();
    plan.status = (status != stored).then_some(status);
    plan
}

/// One look: what was found so far, and what is to be done.
pub(super) struct Work<'o> {
    pub(super) observed: &'o Observed,
    pub(super) settings: &'o Settings,
    pub(super) called: Names,
    pub(super) conditions: Conditions,
    pub(super) status: BackupRepoStatus,
    pub(super) plan: Plan,
    /// A step waits for what was begun in this round.
    pub(super) begun: bool,
}

impl<'o> Work<'o> {
    /// The steps; `None` as soon as one of the first four does not hold.
    fn steps(&mut self) -> Option<()> {
        let observed = self.observed;
        self.defaults();
        let (provider, is_installed) = self.provider()?;
        let provider = &provider.spec;
        let parameters = self.parameters(provider)?;
        let wish = self.encryption(&parameters)?;
        let mut digest = parameters.digest(provider);
        if let Some((wish, _)) = &wish {
            // What KubeBlocks cannot express has another digest than any of its own.
            digest.push('-');
            digest.push_str(&wish.algorithm.to_lowercase());
        }
        // Three more than KubeBlocks gives to templates, for providers that pass them on to their driver.
        let mut parameters = parameters;
        let prefix = observed.repo.spec.path_prefix.as_deref().unwrap_or_default();
        parameters.set("pathPrefix", prefix.trim_matches('/').to_owned());
        if let Some((wish, _)) = &wish {
            parameters.set("encryption", wish.algorithm.clone());
        }
        // What is to go with its claim cannot lie where others have theirs.
        if observed.repo.spec.pv_reclaim_policy == ReclaimPolicy::Retain {
            parameters.set(SUB_DIR, OWN_PLACE.to_owned());
        }
        let (secret_namespace, secret_name) = self.called.csi_secret.clone();
        let has_tenants = match tenants::are_wanted(&observed.repo) {
            Ok(has_tenants) => has_tenants,
            Err(error) => return self.refuse(kinds::PARAMETERS, "ParametersInvalid", error),
        };
        let secret_name = if has_tenants { tenants::of_any(&self.called) } else { secret_name };
        let templates = Templates::new(
            provider,
            &parameters,
            (&secret_namespace, &secret_name),
            &self.called.storage_class,
        );
        let method = self.method(&templates, is_installed)?;
        if method != observed.repo.spec.access_method {
            // Another pre-check, here and when the driver is there.
            let at = digest.find('-').unwrap_or(digest.len());
            digest.insert_str(at, ".tool");
        }
        let passphrase = wish.as_ref().map(|(_, passphrase)| passphrase.as_slice());
        let wish = wish.as_ref().map(|(wish, _)| wish);
        let has_class = self.storage(&templates, &digest, wish, passphrase, method, has_tenants)?;
        let claim = self.claim_template(&templates, wish, method)?;
        let config = match method {
            AccessMethod::Mount if !templates.meet() => None,
            _ => Some(self.tool_config(&templates, wish, passphrase)?),
        };
        match method {
            AccessMethod::Mount => {
                self.status.backup_pvc_name = Some(self.called.claim.clone());
                if config.is_some() && namespaces::uses_tool(observed, &self.called) {
                    self.status.tool_config_secret_name = Some(self.called.tool_config.clone());
                }
            }
            AccessMethod::Tool => {
                self.status.tool_config_secret_name = Some(self.called.tool_config.clone());
            }
        }
        let class = self.called.storage_class.clone();
        let maker = Maker { repo: &observed.repo, settings: self.settings, digest: &digest };
        let called = Names::of(&observed.repo, self.settings);
        let tenants = Tenants {
            observed,
            settings: self.settings,
            called: &called,
            maker: &maker,
            provider,
            parameters: &parameters,
            wish,
            config: config.as_ref(),
        };
        let parcel = Parcel {
            method,
            config: config.as_ref(),
            claim: claim.as_ref(),
            storage_class: has_class.then_some(class.as_str()),
            tenants: has_tenants.then_some(&tenants),
        };
        self.pre_check(&digest, &parcel);
        let is_ready = self.conditions.holds(kinds::PRE_CHECK);
        namespaces::look(
            observed,
            &maker,
            &self.called,
            &parcel,
            is_ready,
            &mut self.conditions,
            &mut self.plan.actions,
        );
        self.annotations(&digest);
        Some(())
    }

    fn defaults(&mut self) {
        let annotations = self.observed.repo.metadata.annotations.as_ref();
        let is = annotations.is_some_and(names::is_default);
        self.status.is_default = Some(is);
        match (is, self.observed.defaults.is_empty()) {
            (false, _) => self.conditions.drop(kinds::DEFAULT),
            (true, true) => self.conditions.yes(kinds::DEFAULT, "OnlyDefault", ""),
            (true, false) => {
                let others: Vec<&str> = self.observed.defaults.iter().map(String::as_str).collect();
                self.conditions.no(
                    kinds::DEFAULT,
                    "MultipleDefaults",
                    format!(
                        "{} say that they are the default, too: backups that name no repository fail until only \
                         one has the annotation {}: \"true\"",
                        list(&others),
                        names::IS_DEFAULT
                    ),
                );
            }
        }
    }

    /// A step does not hold.
    pub(super) fn refuse<T>(
        &mut self,
        kind: &str,
        reason: &str,
        message: impl Into<String>,
    ) -> Option<T> {
        self.conditions.no(kind, reason, message);
        None
    }

    fn pre_check(&mut self, digest: &str, parcel: &Parcel<'_>) {
        let observed = self.observed;
        let maker = Maker { repo: &observed.repo, settings: self.settings, digest };
        let called = &self.called.pre_check;
        let namespace = &self.settings.namespace;
        let mut success = self.status.last_successful_check_time.take();
        let (step, again) =
            precheck::look(observed, self.settings, digest, &mut self.conditions, &mut success);
        self.status.last_successful_check_time = success;
        self.plan.again = again;
        let remove =
            || observed.job.as_ref().map(|job| Action::Delete(reference(Kind::Job, &job.metadata)));
        let own_secret = observed.secrets.iter().find(|secret| {
            secret.metadata.name.as_deref() == Some(called)
                && secret.metadata.namespace.as_deref() == Some(namespace)
        });
        match step {
            Step::Nothing => {}
            Step::Remove | Step::Retry(_) => {
                if let Step::Retry(failed) = step {
                    self.annotate(names::ATTEMPT, Some(failed.to_string()));
                }
                self.plan.actions.extend(remove());
                // Credentials lie about no longer than they are needed.
                let secret = own_secret.map(|secret| reference(Kind::Secret, &secret.metadata));
                self.plan.actions.extend(secret.map(Action::Delete));
            }
            Step::Start(failed) => {
                match parcel.method {
                    AccessMethod::Tool => {
                        let config = parcel.config.cloned().unwrap_or_default();
                        let secret = maker.tool_config(namespace, called, config, false);
                        if own_secret.is_none_or(|own| !objects::is_current(own, &secret)) {
                            self.plan.actions.push(Action::Secret(secret));
                        }
                    }
                    AccessMethod::Mount => {
                        let claim = maker.claim(
                            namespace,
                            called,
                            parcel.storage_class,
                            parcel.claim,
                            false,
                        );
                        let exists = observed.claims.iter().any(|claim| {
                            claim.metadata.name.as_deref() == Some(called)
                                && claim.metadata.namespace.as_deref() == Some(namespace)
                        });
                        if !exists {
                            self.plan.actions.push(Action::Claim(claim));
                        }
                    }
                }
                self.plan.actions.push(Action::Job(maker.job(called, failed, parcel.method)));
                if let Some((place, why)) =
                    observed.refusals.iter().find(|(place, _)| place.name == *called)
                {
                    self.conditions.no(
                        kinds::PRE_CHECK,
                        "PreCheckFailed",
                        format!("the pre-check could not start: {place} was refused: {why}"),
                    );
                }
            }
        }
    }

    /// The repository's own annotations: the digest, and whether configurations are older.
    fn annotations(&mut self, digest: &str) {
        let annotations = self.observed.repo.metadata.annotations.clone().unwrap_or_default();
        let is_new = annotations.get(names::DIGEST).is_none_or(|stored| stored != digest);
        if is_new {
            self.annotate(names::DIGEST, Some(digest.to_owned()));
            if annotations.contains_key(names::ATTEMPT) {
                self.annotate(names::ATTEMPT, None);
            }
        }
        let passed = self.conditions.holds(kinds::PRE_CHECK);
        let check = self.conditions.get(kinds::PRE_CHECK);
        let is_first = check.is_some_and(|check| check.reason == "DigestChanged");
        if (passed || is_first) && !is_new && annotations.contains_key(names::ATTEMPT) {
            self.annotate(names::ATTEMPT, None);
        }
        let older = self.observed.secrets.iter().any(|secret| {
            let digests = secret.metadata.annotations.as_ref();
            secret.metadata.name.as_deref() == Some(&self.called.tool_config)
                && digests
                    .and_then(|all| all.get(names::DIGEST))
                    .is_none_or(|stored| stored != digest)
        });
        let told = annotations.get(names::NEED_UPDATE).is_some_and(|value| value == "true");
        if older != told {
            self.annotate(names::NEED_UPDATE, older.then(|| "true".to_owned()));
        }
    }

    fn annotate(&mut self, name: &str, value: Option<String>) {
        for action in &mut self.plan.actions {
            if let Action::Metadata { annotations, .. } = action {
                annotations.insert(name.to_owned(), value);
                return;
            }
        }
        let annotations = [(name.to_owned(), value)].into();
        self.plan.actions.insert(0, Action::Metadata { finalizers: None, annotations });
    }
}
