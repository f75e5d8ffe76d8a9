//! Conditions: a list in which each has one place, and whose times change when what they say changes.

use super::crd::{Condition, ConditionStatus};
use super::names::floor;
use jiff::Timestamp;

/// A condition's message is not longer.
const LONGEST: usize = 32_768;

/// The types, in the order in which they are looked at.
#[allow(missing_docs)]
pub mod kinds {
    pub const PROVIDER: &str = "StorageProviderReady";
    pub const PARAMETERS: &str = "ParametersChecked";
    pub const ENCRYPTION: &str = "EncryptionChecked";
    pub const STORAGE_CLASS: &str = "StorageClassCreated";
    pub const CLAIM: &str = "PVCTemplateChecked";
    pub const PRE_CHECK: &str = "PreCheckPassed";
    pub const MOUNT: &str = "MountAvailable";
    pub const NAMESPACES: &str = "NamespacesPrepared";
    pub const DEFAULT: &str = "OneDefaultRepo";
    pub const DELETED: &str = "DerivedObjectsDeleted";
    pub const DRIVER: &str = "CSIDriverInstalled";
}

/// A list that grows from the one that was stored.
#[derive(Clone, Debug)]
pub struct Conditions {
    list: Vec<Condition>,
    /// As it was: a condition that is said twice on the way to one status changes its time only if the last word is
    /// another than what was stored.
    stored: Vec<Condition>,
    now: Timestamp,
    generation: Option<i64>,
}

impl Conditions {
    /// From what was stored.
    pub fn new(stored: Vec<Condition>, now: Timestamp, generation: Option<i64>) -> Self {
        Self { list: stored.clone(), stored, now, generation }
    }

    /// One of them.
    pub fn get(&self, kind: &str) -> Option<&Condition> {
        self.list.iter().find(|condition| condition.kind == kind)
    }

    /// Whether one holds.
    pub fn holds(&self, kind: &str) -> bool {
        self.get(kind).is_some_and(|condition| condition.status == ConditionStatus::True)
    }

    /// Says one. Its time is now if its status changes.
    pub fn say(&mut self, kind: &str, status: ConditionStatus, reason: &str, message: String) {
        let stored = self.stored.iter().find(|condition| condition.kind == kind);
        let since = match stored {
            Some(stored) if stored.status == status => stored.last_transition_time.clone(),
            _ => written(self.now),
        };
        let mut message = message;
        message.truncate(floor(&message, LONGEST));
        let said = Condition {
            kind: kind.to_owned(),
            status,
            reason: reason.to_owned(),
            message,
            last_transition_time: since,
            observed_generation: self.generation,
        };
        match self.list.iter_mut().find(|condition| condition.kind == kind) {
            Some(before) => *before = said,
            None => self.list.push(said),
        }
    }

    /// Says that one holds.
    pub fn yes(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        self.say(kind, ConditionStatus::True, reason, message.into());
    }

    /// Says that one does not hold.
    pub fn no(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        self.say(kind, ConditionStatus::False, reason, message.into());
    }

    /// Says that it is not known whether one holds.
    pub fn unknown(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        self.say(kind, ConditionStatus::Unknown, reason, message.into());
    }

    /// Takes one away that does not apply.
    pub fn drop(&mut self, kind: &str) {
        self.list.retain(|condition| condition.kind != kind);
    }

    /// The list.
    pub fn into_list(self) -> Vec<Condition> {
        self.list
    }
}

/// A time as Kubernetes writes it, in whole seconds.
pub fn written(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time that Kubernetes wrote.
pub fn read(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut conditions = Conditions::new(Vec::new(), at(0), Some(1));
        conditions.no("A", "Wrong", "one");
        let mut later = Conditions::new(conditions.into_list(), at(60), Some(2));
        later.no("A", "Wrong", "two");
        let stored = later.get("A").expect("said").clone();
        assert_eq!(
            (stored.last_transition_time.as_str(), stored.message.as_str()),
            ("1970-01-01T00:00:00Z", "two")
        );
        assert_eq!(stored.observed_generation, Some(2));
        later.yes("A", "Right", "");
        later.no("A", "Wrong", "three");
        assert_eq!(later.get("A").expect("said").last_transition_time, "1970-01-01T00:00:00Z");
        later.yes("A", "Right", "");
        assert_eq!(later.get("A").expect("said").last_transition_time, "1970-01-01T00:01:00Z");
        assert!(later.holds("A") && !later.holds("B"));
    }

    #[test]
    fn a_message_has_a_bound() {
        let mut conditions = Conditions::new(Vec::new(), at(0), None);
        conditions.no("A", "Long", "ü".repeat(LONGEST));
        assert_eq!(conditions.get("A").expect("said").message.len(), LONGEST);
    }
}
