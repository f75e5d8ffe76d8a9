//! Volumes whose keys are lent for the token of a pod's service account (web identity). Tokens come with NodePublish, so
//! NodeStage does nothing: the first NodePublish has the volume mounted and served. Its pod's account is the volume's as
//! long as pods use it; what other pods could read and write would otherwise depend on who came first. kubelet is
//! believed about whose a token is: whoever can call in its place has the node.
//!
//! Keys are good for a while. kubelet publishes again and again (`requiresRepublish`) with a token that is good, and
//! once half of the time is over, others are fetched for it and handed to the worker that serves.
//!
//! # Crash story
//! The account and its keys are remembered before the worker starts, and the pod's directory is bound after that: cut
//! short in between, the next start of the node plugin serves the volume, and the next call finds whose it is.

use super::NodeService;
use super::stage::Wish;
use crate::status;
use crate::worker::{State, Worker};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use strongroom::store::{GivenToken, TokenKeys};
use tonic::Status;
use zeroize::Zeroizing;

/// What kubelet tells of a pod, with `podInfoOnMount` and `tokenRequests`.
const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// For whom a token is taken if there are several.
const USUAL_AUDIENCE: &str = "sts.amazonaws.com";
/// How long whoever lends is waited for while a volume's keys are still good: others of its pods come and go meanwhile.
const RENEWING: Duration = Duration::from_secs(5);
/// The longest name of a session.
const SESSION_LIMIT: usize = 64;

/// What is known of a volume's lent keys. Times in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lent {
    /// Whose they are: NAMESPACE/NAME.
    account: String,
    /// When they were lent.
    since: u64,
    /// Until when they are good.
    until: u64,
}

impl Lent {
    /// Whether it is time for others; also where the clock was put back.
    fn is_due(&self, now: u64) -> bool {
        now >= self.since.midpoint(self.until) || now < self.since
    }

    /// What to do where a store refuses these keys and no pod is there any more.
    pub(super) fn remedy(&self) -> String {
        let now = seconds(SystemTime::now());
        match now >= self.until {
            true => format!(
                "; its keys were lent for the token of service account {}, and their time is over: a pod of that \
                 account that uses the volume on this node brings others",
                self.account
            ),
            false => String::new(),
        }
    }
}

/// A token as kubelet hands it over.
#[derive(Deserialize)]
struct Token {
    token: String,
}

/// A pod's service account and its token.
struct Pod {
    namespace: String,
    account: String,
    token: Zeroizing<String>,
}

impl Pod {
    /// From what a NodePublish says; `secrets` may hold the tokens in place of the context.
    fn of(
        context: &HashMap<String, String>,
        secrets: &HashMap<String, String>,
    ) -> Result<Self, String> {
        let told = |key: &str| context.get(key).filter(|value| !value.is_empty());
        let tokens = secrets.get(TOKENS).or_else(|| told(TOKENS));
        let (Some(namespace), Some(account), Some(tokens)) =
            (told(NAMESPACE), told(ACCOUNT), tokens)
        else {
            return Err(format!(
                "it has a roleArn, and this call brings no token of a pod ({TOKENS}): install the chart with \
                 tokenAudiences, so that kubelet hands them over"
            ));
        };
        // Not repeated: it holds the token.
        let mut tokens: BTreeMap<String, Token> = serde_json::from_str(tokens)
            .map_err(|_| format!("{TOKENS} is not what kubelet writes there"))?;
        let audience = match tokens.len() {
            0 => return Err(format!("{TOKENS} is empty: set the chart's tokenAudiences")),
            1 => tokens.keys().next().cloned(),
            _ => Some(USUAL_AUDIENCE.to_owned()),
        };
        let token = audience.and_then(|audience| tokens.remove(&audience)).ok_or_else(|| {
            let audiences: Vec<&str> = tokens.keys().map(String::as_str).collect();
            format!(
                "its pod has tokens for {}, and none for {USUAL_AUDIENCE}: leave one of the chart's tokenAudiences",
                audiences.join(", ")
            )
        })?;
        let (namespace, account) = (namespace.clone(), account.clone());
        Ok(Self { namespace, account, token: Zeroizing::new(token.token) })
    }

    fn whole(&self) -> String {
        format!("{}/{}", self.namespace, self.account)
    }
}

impl NodeService {
    /// Sees to a volume being mounted and served with keys for the token of a call.
    pub(super) async fn serve_by_token(
        &self,
        mut wish: Wish,
        context: &HashMap<String, String>,
        secrets: &HashMap<String, String>,
    ) -> Result<(), Status> {
        let id = wish.id.clone();
        let refused = |why: String| Status::failed_precondition(format!("volume {id}: {why}"));
        let pod = Pod::of(context, secrets).map_err(refused)?;
        if secrets.is_empty() && self.settings.credentials.is_none() && wish.needs_passphrase() {
            return Err(Status::unauthenticated(format!(
                "volume {id}: it has a roleArn, and this call brings no passphrase: name a secret that has it as \
                 csi.storage.k8s.io/node-publish-secret-name in the StorageClass, or as the volume's \
                 nodePublishSecretRef"
            )));
        }
        let mut held = self.held(&id).await?;
        let is_gone = held.as_ref().is_none_or(|held| !held.mounted);
        let is_used = held.as_ref().is_some_and(|held| !held.targets.is_empty());
        if is_gone && (is_used || held.is_none() && self.workers.get(&id).is_some()) {
            // Pods that have the volume go on with that worker; a new mount would not be theirs.
            if let Some(worker) = self.workers.get(&id) {
                let keys = self.keys_for(&wish, &pod, RENEWING).await?;
                wish.secrets.lend(&keys);
                let new = wish.secrets.for_worker(false)?;
                worker.credentials(new).await.map_err(|error| status::of_worker(&error))?;
            }
            return Err(refused(
                "the keeper does not know its mount any more (it was restarted, or the mount was taken away), and pods \
                 may still use it: delete them, so that it is mounted anew"
                    .to_owned(),
            ));
        }
        let mut known = None;
        if let Some(there) = held.as_ref().filter(|held| held.mounted) {
            wish.check_same_path(there)?;
            known = self.recall(&id).await?;
            let account = known.as_ref().and_then(|known| known.lent.as_ref());
            let account = account.map(|lent| lent.account.as_str());
            match (account, there.targets.first()) {
                (Some(account), _) if account == pod.whole() => {}
                (account, Some((target, _))) => {
                    return Err(refused(format!(
                        "its keys are those of {}, whose pod has it at {}, and this pod's is {}: give both the \
                         same, or each a volume of its own",
                        account.map_or("another account".to_owned(), |name| format!(
                            "service account {name}"
                        )),
                        target.display(),
                        pod.whole()
                    )));
                }
                // The former account's pods are gone.
                (_, None) => {
                    self.unmount(there).await?;
                    (held, known) = (None, None);
                }
            }
        }
        let now = seconds(SystemTime::now());
        let Some(mut known) = known else {
            let keys = self.keys_for(&wish, &pod, self.settings.defaults.patience).await?;
            wish.secrets.lend(&keys);
            let lent = Lent { account: pod.whole(), since: now, until: seconds(keys.expires) };
            // One that is left serves a mount that is nobody's any more.
            drop(self.workers.remove(&id));
            return self.mount(&wish, held, Some(lent)).await;
        };
        wish.check_same(&known)?;
        let worker = self.workers.get(&id);
        let until = known.lent.as_ref().map_or(0, |lent| lent.until);
        let is_due = known.lent.as_ref().is_none_or(|lent| lent.is_due(now));
        if !is_due && !self.is_troubled(&id, worker.as_deref()).await {
            return match worker {
                Some(_) => Ok(()),
                None => self.worker_of(&id).await.map(drop),
            };
        }
        let is_good = worker.is_some() && now < until;
        let patience = if is_good { RENEWING } else { self.settings.defaults.patience };
        let keys = match self.keys_for(&wish, &pod, patience).await {
            Ok(keys) => keys,
            // Those that it has are good: whoever lends has the other half of their time to come back.
            Err(status) if is_good => {
                tracing::warn!(volume = id, "its keys are not renewed: {}", status.message());
                return Ok(());
            }
            Err(status) => return Err(status),
        };
        wish.secrets.lend(&keys);
        known.lent = Some(Lent { account: pod.whole(), since: now, until: seconds(keys.expires) });
        match worker {
            Some(worker) => self.renew(&id, known, &worker, &wish.secrets).await,
            None => {
                // All that this call brings: what is remembered may never have opened the volume.
                let mut fresh = wish.secrets.for_worker(wish.needs_passphrase())?;
                if fresh.passphrase == known.secrets.passphrase {
                    fresh.derived = std::mem::take(&mut known.secrets.derived);
                }
                known.secrets = fresh;
                let device =
                    self.keeper.device(&id).await.map_err(|error| status::of_keeper(&error))?;
                self.start_worker(&id, device, &mut known).await?;
                self.remember(&id, &known).await
            }
        }
    }

    /// Whether keys may be what a volume lacks: none serves it, or its store is away from where it is served.
    async fn is_troubled(&self, id: &str, worker: Option<&Worker>) -> bool {
        let Some(worker) = worker else { return self.workers.trouble(id).is_some() };
        let is_restarting =
            matches!(*worker.state().borrow(), State::Restarting { failures: 1.., .. });
        is_restarting || self.stats_of(id).await.is_some_and(|stats| !stats.store_reachable)
    }

    async fn keys_for(
        &self,
        wish: &Wish,
        pod: &Pod,
        patience: Duration,
    ) -> Result<TokenKeys, Status> {
        let Some(role) = &wish.parameters.role else {
            return Err(Status::internal(format!("volume {}: it has no role", wish.id)));
        };
        let reach = wish.reach(&self.settings.defaults);
        let session = format!("strongroom-{}-{}", pod.namespace, pod.account);
        let session = session.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
        let given = GivenToken {
            token: pod.token.clone(),
            whose: format!("the token of service account {}", pod.whole()),
            role: role.arn.clone(),
            session: session.take(SESSION_LIMIT).collect(),
            endpoint: role.endpoint.clone(),
            store: reach.endpoint,
            region: reach.region,
            tls: self.settings.defaults.tls.clone(),
        };
        match tokio::time::timeout(patience, given.keys()).await {
            Ok(keys) => keys.map_err(|error| status::of_store(&error)),
            Err(_) => Err(Status::unavailable(format!(
                "whoever lends keys for role {} did not answer within {patience:?}",
                role.arn
            ))),
        }
    }
}

/// Since 1970; nothing before.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(context: &[(&str, &str)]) -> Result<Pod, String> {
        let context = context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Pod::of(&context.collect(), &HashMap::new())
    }

    #[test]
    fn keys_are_renewed_at_half_of_their_time() {
        let lent = Lent { account: "ns/name".to_owned(), since: 1000, until: 4600 };
        assert!(!lent.is_due(2799) && lent.is_due(2800) && lent.is_due(9000));
        assert!(lent.is_due(999), "the clock was put back");
    }

    #[test]
    fn what_kubelet_says_is_read_and_never_repeated() {
        let of = |tokens: &'static str| [(NAMESPACE, "ns"), (ACCOUNT, "backup"), (TOKENS, tokens)];
        let one =
            pod(&of(r#"{"x":{"token":"secret","expirationTimestamp":"2026-01-01T00:00:00Z"}}"#));
        let one = one.expect("fine");
        assert_eq!((one.whole().as_str(), one.token.as_str()), ("ns/backup", "secret"));
        let two = r#"{"x":{"token":"a"},"sts.amazonaws.com":{"token":"b"}}"#;
        assert_eq!(pod(&of(two)).expect("fine").token.as_str(), "b");
        for (tokens, why) in [
            ("{}", "is empty"),
            (r#"{"x":"hunter2"}"#, "not what kubelet writes"),
            ("hunter2", "not what kubelet writes"),
            (r#"{"x":{"token":"hunter2"},"y":{"token":"hunter2"}}"#, "none for sts.amazonaws.com"),
        ] {
            let error = pod(&of(tokens)).err().expect(tokens);
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
        assert!(pod(&of(two)[..2]).err().expect("no token").contains("tokenAudiences"));
    }
}
