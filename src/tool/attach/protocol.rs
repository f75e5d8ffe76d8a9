//! What `strongroom mount --attach SOCKET` is told and what it answers: messages as JSON, each behind its
//! length (see [`super::socket`]).
//!
//! | who | sends | when |
//! |---|---|---|
//! | starter | [`Hello`] with three descriptors: fuse, arena, state | once, first |
//! | worker | [`Answer::Starting`] | any number of times, while the start goes on |
//! | worker | [`Answer::Serving`] or [`Answer::Failed`] | once, when it is known which |
//! | starter | [`Request`] | any time later, one after the other |
//! | worker | [`Answer`] | one to each request, in order |
//!
//! Both sides refuse a [`VERSION`] that is not theirs. Unknown fields are ignored, so that a newer side can
//! say more to an older one; unknown requests are answered with [`Answer::Failed`].
//!
//! Secrets travel in [`Secrets`] only, which is neither shown nor kept longer than it is needed.

use crate::config::ConfigFile;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

/// Of the messages. Changes when a side could misunderstand the other.
pub const VERSION: u32 = 2;

/// The first message.
#[derive(Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// What to serve and how.
    pub settings: Settings,
    /// What nobody else may know.
    #[serde(default)]
    pub secrets: Secrets,
}

/// What to serve and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The volume's URL.
    pub url: String,
    /// For messages and the log.
    #[serde(default)]
    pub name: String,
    /// What the configuration file may say, by the same keys (`endpoint`, `memory_limit`, ...): texts,
    /// numbers and booleans. Nothing else is read: neither a file nor the environment.
    #[serde(default)]
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Take the volume from the mount that has it for itself (with the option `exclusive`).
    #[serde(default)]
    pub steal: bool,
}

/// Keys and passphrase of one volume.
#[derive(Default, Serialize, Deserialize)]
pub struct Secrets {
    /// Name of the access key; without one, requests are not signed.
    #[serde(default)]
    pub access_key: Option<String>,
    /// Its secret.
    #[serde(default)]
    pub secret_key: Option<String>,
    /// The session token of temporary keys.
    #[serde(default)]
    pub session_token: Option<String>,
    /// The volume's passphrase.
    #[serde(default)]
    pub passphrase: Option<String>,
    /// What a former worker derived from it.
    #[serde(default)]
    pub derived: Derived,
}

/// Keys that a worker has derived from its passphrase, so that the next one need not: with Argon2id that takes
/// 64 MiB and a good part of a second. As secret as the passphrase, never shown, wiped when it is dropped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Derived(String);

impl Derived {
    /// For messages.
    pub fn encode(keys: &[u8]) -> Self {
        Self(BASE64.encode(keys))
    }

    /// The keys; none where it is not what [`Derived::encode`] made.
    pub fn decode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(BASE64.decode(self.0.as_bytes()).unwrap_or_default())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Never the keys.
impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "None" } else { "Derived" })
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Secrets {
    /// Whether others are keys of another name or secret than these; passphrases are not looked at.
    pub fn has_other_keys(&self, others: &Self) -> bool {
        self.access_key != others.access_key
            || self.secret_key != others.secret_key
            || self.session_token != others.session_token
    }

    /// Takes the keys of others, and keeps the passphrase and what was derived from it.
    pub fn take_keys(&mut self, others: &mut Self) {
        self.access_key = others.access_key.take();
        self.secret_key = others.secret_key.take();
        self.session_token = others.session_token.take();
    }

    /// A copy for another owner: not `Clone`, so that nothing copies them by accident.
    pub fn copied(&self) -> Self {
        let Self { access_key, secret_key, session_token, passphrase, derived } = self;
        Self {
            access_key: access_key.clone(),
            secret_key: secret_key.clone(),
            session_token: session_token.clone(),
            passphrase: passphrase.clone(),
            derived: derived.clone(),
        }
    }
}

/// Which are there, never what they are.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("keys", &self.secret_key.is_some())
            .field("passphrase", &self.passphrase.is_some())
            .finish()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.secret_key.zeroize();
        self.session_token.zeroize();
        self.passphrase.zeroize();
    }
}

/// What a worker is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Whether the store answers, right now.
    Health {
        /// How long it may take, in milliseconds.
        within: u64,
    },
    /// What it does.
    Stats,
    /// Use other keys from now on. The passphrase is not changed by this.
    Credentials {
        /// The new ones.
        secrets: Secrets,
    },
    /// Store and publish everything that programs have written.
    Drain {
        /// How long to try before the answer says what is left, in milliseconds.
        within: u64,
    },
    /// Drain, then end. The kernel's requests wait for the next worker.
    Stop,
    /// End at once: the next worker takes over what is not stored, from the memory that the starter holds.
    HandOver,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It does not serve yet, and the store has answered it something since it said so the last time.
    Starting,
    /// It serves.
    Serving {
        /// How many workers served this mount before.
        takeovers: u64,
        /// For the next one's [`Secrets`].
        #[serde(default)]
        derived: Derived,
    },
    /// It could not; nothing was changed by this.
    Failed {
        /// What the caller can do about it.
        kind: FailureKind,
        /// For people.
        message: String,
    },
    /// To [`Request::Health`].
    Health(Health),
    /// To [`Request::Stats`].
    Stats(Stats),
    /// To [`Request::Drain`].
    Drained {
        /// Bytes that are not in the store yet, 0 when all is well.
        bytes_left: u64,
        /// What could not be stored, and why; the first few.
        failures: Vec<String>,
    },
    /// Done, nothing to say.
    Done,
}

/// Whether the store answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// It does.
    pub reachable: bool,
    /// Why not, else empty.
    pub message: String,
}

/// What a worker does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Bytes that programs have written and the store does not have.
    pub dirty_bytes: u64,
    /// Room for such bytes.
    pub dirty_limit: u64,
    /// Files whose last change is not in the store.
    pub changed_files: u64,
    /// Open files.
    pub open_files: u64,
    /// How many workers served this mount before.
    pub takeovers: u64,
    /// Open files of which something was lost at a takeover; each reports EIO.
    pub lost_files: u64,
    /// The last time the store was asked (for anything) it answered.
    pub store_reachable: bool,
    /// Requests to the store so far, by verb.
    pub requests: BTreeMap<String, RequestStats>,
    /// What the kernel asked so far, by kind.
    pub operations: BTreeMap<String, OperationStats>,
    /// Errors that it was answered with, by name.
    pub errors: BTreeMap<String, u64>,
    /// How often data was in a cache, and how often it was not, by cache: `memory`, `disk`.
    pub caches: BTreeMap<String, (u64, u64)>,
    /// The worker's process id.
    pub pid: u32,
}

/// Requests to the store with one verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestStats {
    /// Those that were answered as asked.
    pub answered: u64,
    /// Those that failed.
    pub failed: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The sum of their times.
    pub microseconds: u64,
}

/// Requests of the kernel of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationStats {
    /// Those that were answered.
    pub answered: u64,
    /// The sum of their times.
    pub microseconds: u64,
    /// How many took at most that long: bounds in microseconds, and counts. Not a map: where messages have a tag,
    /// numbers that are keys of JSON do not come back.
    pub within: Vec<(u64, u64)>,
}

/// What the caller can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The settings make no sense: change them.
    Invalid,
    /// There is no such bucket, or no volume there.
    NotFound,
    /// The store does not know the keys, or they may not do this.
    Denied,
    /// The passphrase is missing or wrong.
    Passphrase,
    /// Another mount has the volume for itself.
    InUse,
    /// The endpoint cannot be reached, or does not answer.
    Unreachable,
    /// The connection's TLS failed.
    Tls,
    /// The volume or what the former worker left is damaged.
    Damaged,
    /// Another worker serves this mount and does not let go.
    Busy,
    /// Anything else.
    Other,
}

impl Settings {
    /// The options as the configuration file's.
    ///
    /// # Errors
    /// What is wrong with which key.
    pub fn config(&self) -> Result<ConfigFile, String> {
        ConfigFile::from_json(&self.options)
    }

    /// Whether a URL or option is usable at all, without connecting.
    pub fn check(&self) -> Result<(), String> {
        self.url.parse::<crate::config::VolumeUrl>().map_err(|error| error.to_string())?;
        self.config().map(drop)
    }
}

/// Reads a message. For tests with any bytes.
///
/// # Errors
/// What is wrong with it, without repeating it: it may hold secrets.
pub fn parse<T: for<'a> Deserialize<'a>>(message: &[u8]) -> Result<T, String> {
    serde_json::from_slice(message).map_err(|error| {
        format!("not a message of this protocol (line {}, column {})", error.line(), error.column())
    })
}

/// A message as it is sent.
pub fn encode<T: Serialize>(message: &T) -> zeroize::Zeroizing<Vec<u8>> {
    // The types above have no maps with keys that are not texts, the only thing that could fail.
    zeroize::Zeroizing::new(serde_json::to_vec(message).unwrap_or_default())
}

/// The environment variable or flag that names the socket is `--attach`; nothing but its path is in the
/// process's arguments.
pub fn arguments(socket: &Path) -> [std::ffi::OsString; 3] {
    ["mount".into(), "--attach".into(), socket.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way_there() {
        let settings = Settings {
            url: "file:///srv/x".to_owned(),
            options: [
                ("read_only".to_owned(), true.into()),
                ("memory_limit".to_owned(), "64MiB".into()),
            ]
            .into_iter()
            .collect(),
            ..Settings::default()
        };
        let mut secrets = Secrets::default();
        secrets.passphrase = Some("p\n\"".to_owned());
        let sent = encode(&Hello { version: VERSION, settings: settings.clone(), secrets });
        let hello: Hello = parse(&sent).expect("a hello");
        assert_eq!((hello.version, &hello.settings), (VERSION, &settings));
        assert_eq!(hello.secrets.passphrase.as_deref(), Some("p\n\""));
        let config = settings.config().expect("options");
        assert_eq!((config.read_only, config.memory_limit), (Some(true), Some(64 << 20)));
        let answer = Answer::Failed { kind: FailureKind::Denied, message: "no".to_owned() };
        assert_eq!(parse::<Answer>(&encode(&answer)), Ok(answer));
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_secret() {
        let mut secrets = Secrets::default();
        secrets.secret_key = Some("hunter2".to_owned());
        let request = Request::Credentials { secrets };
        assert!(!format!("{request:?}").contains("hunter2"));
        let error = parse::<Request>(br#"{"ask":"hunter2"}"#).expect_err("unknown");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_unknown_option_is_an_error_that_names_it() {
        let mut settings = Settings { url: "file:///x".to_owned(), ..Settings::default() };
        settings.options.insert("memroy_limit".to_owned(), "1GiB".into());
        let error = settings.check().expect_err("no such key");
        assert!(error.contains("memroy_limit"), "{error}");
    }
}
