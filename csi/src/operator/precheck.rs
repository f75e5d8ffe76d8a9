//! The pre-check: whether the store can be used, found out by a Job that has what a workload has. Decides when one is
//! started, what its end means, and when it is tried again.
//!
//! A check belongs to a digest of the parameters and a generation of the repository. A check of other ones is ended at
//! once and counts for nothing. While a usable repository is looked at again, it stays Ready.

use super::conditions::{self, Conditions, kinds};
use super::names;
use super::observed::{Observed, Settings};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A Job that is being removed is looked at again after this long, should nobody tell that it is gone.
const GOING: Duration = Duration::from_secs(2);

/// What to do about the Job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Start one, the number of failed ones before it given.
    Start(u32),
    /// Remove it: it counts for nothing, or has been counted.
    Remove,
    /// Remove it, since its time is up, and count it as failed.
    Retry(u32),
}

/// What a pre-check's Job writes as its last words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWords {
    /// Which of the things between here and the bucket is wrong.
    pub what: What,
    /// How, and what to do.
    pub message: String,
}

/// What can be wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum What {
    Settings,
    Endpoint,
    Tls,
    Clock,
    Credentials,
    Bucket,
    Region,
    Permissions,
    Space,
    Store,
    Volume,
}

impl What {
    /// As conditions begin.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Endpoint => "endpoint",
            Self::Tls => "TLS",
            Self::Clock => "clock",
            Self::Credentials => "credentials",
            Self::Bucket => "bucket",
            Self::Region => "region",
            Self::Permissions => "permissions",
            Self::Space => "space",
            Self::Store => "store",
            Self::Volume => "volume",
        }
    }
}

/// Where the Job stands.
enum State {
    Absent,
    Going,
    Other,
    Running,
    Succeeded(Timestamp),
    Failed(Timestamp, String),
}

/// Looks at the Job, says the condition and what to do, and when to look again. The time of the last success is
/// written into `last_success`.
pub fn look(
    observed: &Observed,
    settings: &Settings,
    digest: &str,
    conditions: &mut Conditions,
    last_success: &mut Option<String>,
) -> (Step, Option<Duration>) {
    let annotations = observed.repo.metadata.annotations.as_ref();
    let annotation = |name: &str| annotations.and_then(|all| all.get(name)).map(String::as_str);
    let generation = observed.repo.metadata.generation;
    let said = conditions.get(kinds::PRE_CHECK);
    let is_same = annotation(names::DIGEST) == Some(digest)
        && said.is_some_and(|said| said.observed_generation == generation);
    if !is_same {
        conditions.unknown(
            kinds::PRE_CHECK,
            "DigestChanged",
            "the repository is new or its parameters have changed: a pre-check follows",
        );
    }
    let passed = is_same && conditions.holds(kinds::PRE_CHECK);
    let failed = if is_same { annotation(names::ATTEMPT) } else { None };
    let failed: u32 = failed.and_then(|text| text.parse().ok()).unwrap_or(0);
    match state(observed, digest) {
        State::Going => (Step::Nothing, Some(GOING)),
        State::Other => (Step::Remove, None),
        State::Absent => {
            let due = match (passed, last_success.as_deref().and_then(conditions::read)) {
                (true, Some(success)) => after(success, settings.check_every, observed.now),
                _ => None,
            };
            match due {
                Some(wait) => (Step::Nothing, Some(wait)),
                None => (Step::Start(failed), None),
            }
        }
        State::Running => {
            if !passed {
                let name = super::objects::Names::of(&observed.repo, settings).pre_check;
                let waiting = waiting(observed);
                let waiting = waiting.map_or(String::new(), |why| format!(": {why}"));
                conditions.unknown(
                    kinds::PRE_CHECK,
                    "UnknownError",
                    format!("Job {}/{name} has not ended yet{waiting}", settings.namespace),
                );
            }
            (Step::Nothing, None)
        }
        State::Succeeded(at) => {
            // The status is written before the Job goes: if this process ends between the two, the Job is
            // counted again, to the same effect.
            *last_success = Some(conditions::written(at));
            conditions.yes(
                kinds::PRE_CHECK,
                "PreCheckPassed",
                "the store was written, read and deleted from",
            );
            (Step::Remove, None)
        }
        State::Failed(at, why) => {
            conditions.no(kinds::PRE_CHECK, "PreCheckFailed", why);
            let exponent = failed.min(16);
            let pause = settings.retry_first.saturating_mul(1 << exponent).min(settings.retry_last);
            match after(at, pause, observed.now) {
                Some(wait) => (Step::Nothing, Some(wait)),
                None => (Step::Retry(failed.saturating_add(1)), None),
            }
        }
    }
}

/// How long until `pause` after `from`; none if it is over, or if the clock was set back by more than the pause.
fn after(from: Timestamp, pause: Duration, now: Timestamp) -> Option<Duration> {
    let passed = now.duration_since(from);
    if passed.is_negative() && passed.unsigned_abs() > pause {
        return None;
    }
    let passed = Duration::try_from(passed).unwrap_or(Duration::ZERO);
    let left = pause.checked_sub(passed)?;
    (!left.is_zero()).then_some(left)
}

fn state(observed: &Observed, digest: &str) -> State {
    let Some(job) = &observed.job else { return State::Absent };
    if job.metadata.deletion_timestamp.is_some() {
        return State::Going;
    }
    let annotations = job.metadata.annotations.as_ref();
    let is = |name: &str, value: &str| {
        annotations.and_then(|all| all.get(name)).is_some_and(|have| have == value)
    };
    let generation = observed.repo.metadata.generation.unwrap_or_default().to_string();
    if !is(names::DIGEST, digest) || !is(names::GENERATION, &generation) {
        return State::Other;
    }
    let ended = |kind: &str| {
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut found = conditions.into_iter().flatten();
        found.rfind(|condition| condition.type_ == kind && condition.status == "True")
    };
    let time = |condition: &k8s_openapi::api::batch::v1::JobCondition| {
        condition.last_transition_time.as_ref().map_or(observed.now, |time| time.0)
    };
    if let Some(complete) = ended("Complete") {
        return State::Succeeded(time(complete));
    }
    match ended("Failed") {
        Some(failed) => State::Failed(time(failed), why(observed, job, failed.message.as_deref())),
        None => State::Running,
    }
}

/// Why a Job failed: the last words of its container, else what is known of its pods, else what the Job says.
fn why(observed: &Observed, job: &Job, message: Option<&str>) -> String {
    if let Some(words) = observed.pods.iter().rev().find_map(last_words) {
        return words;
    }
    if let Some(waiting) = waiting(observed) {
        return format!("the pre-check could not start: {waiting}");
    }
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    format!(
        "Job {namespace}/{name} failed: {}; see the logs and events of its pods",
        message.unwrap_or("no reason was given")
    )
}

fn last_words(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ended = statuses.iter().find_map(|status| {
        let state = status.state.as_ref()?.terminated.as_ref();
        state.or_else(|| status.last_state.as_ref()?.terminated.as_ref())
    })?;
    if let Some(text) = ended.message.as_deref().filter(|text| !text.trim().is_empty()) {
        // Whoever can make pods there can write them: they are only shown.
        return Some(match serde_json::from_str::<LastWords>(text) {
            Ok(words) => format!("{}: {}", words.what.as_str(), words.message),
            Err(_) => text.trim().to_owned(),
        });
    }
    match ended.reason.as_deref() {
        Some("OOMKilled") => {
            Some("the pre-check was killed since it took too much memory".to_owned())
        }
        _ => None,
    }
}

/// Why a pod does not start.
fn waiting(observed: &Observed) -> Option<String> {
    let statuses = || observed.pods.iter().rev().filter_map(|pod| pod.status.as_ref());
    let container = statuses().find_map(|status| {
        status.container_statuses.iter().flatten().find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason =
                waiting.reason.as_deref().filter(|reason| *reason != "ContainerCreating")?;
            Some(format!("{reason}: {}", waiting.message.as_deref().unwrap_or("no more is known")))
        })
    });
    let unscheduled = || {
        statuses().find_map(|status| {
            let mut conditions = status.conditions.iter().flatten();
            let unscheduled = conditions
                .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
            unscheduled.and_then(|condition| condition.message.clone())
        })
    };
    // The driver's own words about a volume say more than a pod that waits for it.
    container.or_else(|| observed.warnings.last().cloned()).or_else(unscheduled)
}
