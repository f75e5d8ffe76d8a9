//! A store that fails on purpose, before or after the effect, by rules and from a seed: what a network
//! does to a real one. For tests; a run with the same seed and the same requests fails the same way.

use super::{
    ETag, Fetched, Key, ListPage, ListRequest, ObjectMeta, PutWhen, Store, StoreError,
    StoreErrorKind,
};
use crate::units::ByteRange;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// [`Store::put`].
    Put,
    /// [`Store::get`].
    Get,
    /// [`Store::head`].
    Head,
    /// [`Store::delete`].
    Delete,
    /// [`Store::delete_many`]; its first key decides which rules concern it.
    DeleteMany,
    /// [`Store::list`]; its prefix stands for the key.
    List,
}

/// Which of the requests that a rule concerns are hit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// All.
    Always,
    /// Only this one, from 1, counted since the rule was added.
    Nth(u64),
    /// This one and all after it.
    From(u64),
    /// Each with this probability, 0 to 1.
    Chance(f64),
}

/// What happens to a request that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It has no effect, and that is certain: `Unavailable`.
    FailBefore,
    /// It has its effect, or is refused as it may be, and the reply is lost: `Unavailable` with
    /// [`StoreError::effect_unknown`].
    FailAfter,
    /// It has no effect, but the caller cannot know: `Unavailable` with [`StoreError::effect_unknown`].
    LoseRequest,
    /// A `get` delivers only the first half of its body. Other verbs are not concerned.
    Truncate,
    /// It takes this much longer; zero lets other tasks run first.
    Delay(Duration),
    /// It takes effect, and the reply takes this much longer.
    DelayReply(Duration),
}

/// A rule. Of several that hit a request, the first that fails it wins; delays add up.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The verbs concerned; none means all.
    pub verbs: Vec<Verb>,
    /// Only keys that begin with this.
    pub prefix: String,
    /// Which of them are hit.
    pub when: When,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// A rule for a verb, whatever the key.
    pub fn new(verb: Verb, when: When, action: Action) -> Self {
        Self { verbs: vec![verb], prefix: String::new(), when, action }
    }

    /// A rule for every request.
    pub fn any(when: When, action: Action) -> Self {
        Self { verbs: Vec::new(), prefix: String::new(), when, action }
    }

    /// The same, only for keys that begin with `prefix`.
    pub fn under(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    fn concerns(&self, verb: Verb, key: &str) -> bool {
        (self.verbs.is_empty() || self.verbs.contains(&verb))
            && key.starts_with(&self.prefix)
            && (self.action != Action::Truncate || verb == Verb::Get)
    }
}

/// A store around another one.
pub struct Fault {
    inner: Arc<dyn Store>,
    enabled: AtomicBool,
    state: Mutex<State>,
}

struct State {
    rules: Vec<(Rule, u64)>,
    random: StdRng,
    hits: u64,
}

/// What the rules make of one request.
#[derive(Default)]
struct Fate {
    delay: Option<Duration>,
    end: Option<Action>,
}

impl Fault {
    /// A store without rules, enabled. Chances are drawn from `seed`.
    pub fn new(inner: Arc<dyn Store>, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let state = State { rules: Vec::new(), random, hits: 0 };
        Self { inner, enabled: AtomicBool::new(true), state: Mutex::new(state) }
    }

    /// Adds a rule; it counts the requests that concern it from now on.
    pub fn add(&self, rule: Rule) {
        self.state.lock().rules.push((rule, 0));
    }

    /// Drops all rules.
    pub fn clear(&self) {
        self.state.lock().rules.clear();
    }

    /// Switches all rules on or off. What passes while they are off is not counted.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::SeqCst);
    }

    /// Requests that were hit by a rule that fails or truncates, so far.
    pub fn hits(&self) -> u64 {
        self.state.lock().hits
    }

    /// Requests counted by each rule, in the order in which the rules were added.
    pub fn counts(&self) -> Vec<u64> {
        self.state.lock().rules.iter().map(|(_, seen)| *seen).collect()
    }

    fn decide(&self, verb: Verb, key: &str) -> Fate {
        let mut fate = Fate::default();
        if !self.enabled.load(Ordering::SeqCst) {
            return fate;
        }
        let mut state = self.state.lock();
        let State { rules, random, hits } = &mut *state;
        for (rule, seen) in rules.iter_mut().filter(|(rule, _)| rule.concerns(verb, key)) {
            *seen += 1;
            let hit = match rule.when {
                When::Always => true,
                When::Nth(nth) => *seen == nth,
                When::From(first) => *seen >= first,
                When::Chance(chance) => random.random_bool(chance.clamp(0.0, 1.0)),
            };
            if !hit {
                continue;
            }
            match rule.action {
                Action::Delay(more) => fate.delay = Some(fate.delay.unwrap_or_default() + more),
                action => fate.end = fate.end.or(Some(action)),
            }
        }
        *hits += u64::from(fate.end.is_some_and(|end| !matches!(end, Action::DelayReply(_))));
        fate
    }

    /// Runs a request as the rules have it.
    async fn run<T>(
        &self,
        verb: Verb,
        key: &str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<(T, bool), StoreError> {
        let operation = match verb {
            Verb::Put => "put",
            Verb::Get => "get",
            Verb::Head => "head",
            Verb::Delete | Verb::DeleteMany => "delete",
            Verb::List => "list",
        };
        let unavailable = |why: &str| {
            StoreError::new(StoreErrorKind::Unavailable, operation, key.escape_debug())
                .with_source(why)
        };
        let Fate { delay, end } = self.decide(verb, key);
        match delay {
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            Some(delay) => tokio::time::sleep(delay).await,
            None => {}
        }
        match end {
            Some(Action::FailBefore) => Err(unavailable("injected: failed before the effect")),
            Some(Action::LoseRequest) => {
                Err(unavailable("injected: request lost").with_effect_unknown())
            }
            Some(Action::FailAfter) => {
                // Whether it took effect or was refused: the caller does not hear of it.
                let _ = request.await;
                Err(unavailable("injected: reply lost").with_effect_unknown())
            }
            Some(Action::Truncate) => request.await.map(|reply| (reply, true)),
            Some(Action::DelayReply(delay)) => {
                let reply = request.await;
                tokio::time::sleep(delay).await;
                reply.map(|reply| (reply, false))
            }
            Some(Action::Delay(_)) | None => request.await.map(|reply| (reply, false)),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Fault {
    async fn put(&self, key: &Key, body: Bytes, when: PutWhen) -> Result<ETag, StoreError> {
        let request = self.inner.put(key, body, when);
        self.run(Verb::Put, key.as_str(), request).await.map(|(etag, _)| etag)
    }

    async fn get(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let request = self.inner.get(key, range, unless);
        let (mut fetched, cut) = self.run(Verb::Get, key.as_str(), request).await?;
        if let Fetched::Object(object) = &mut fetched
            && cut
        {
            let half = object.body.len() / 2;
            object.body = object.body.bytes().slice(..half).into();
        }
        Ok(fetched)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta, StoreError> {
        self.run(Verb::Head, key.as_str(), self.inner.head(key)).await.map(|(meta, _)| meta)
    }

    async fn delete(&self, key: &Key, if_match: Option<&ETag>) -> Result<(), StoreError> {
        let request = self.inner.delete(key, if_match);
        self.run(Verb::Delete, key.as_str(), request).await.map(|((), _)| ())
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, StoreError)>, StoreError> {
        let first = keys.first().map_or("", |key| key.as_str());
        let request = self.inner.delete_many(keys);
        self.run(Verb::DeleteMany, first, request).await.map(|(failed, _)| failed)
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, StoreError> {
        let listing = self.inner.list(request);
        self.run(Verb::List, &request.prefix, listing).await.map(|(page, _)| page)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
