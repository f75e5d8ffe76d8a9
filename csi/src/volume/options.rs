//! How a volume is mounted: the options of `strongroom mount` that a StorageClass, a PersistentVolume or a
//! pod may set, as words `name=value` or `name`. Those that are the node's own business (paths, trust) are
//! not among them.

use serde_json::{Map, Value};
use std::collections::HashMap;
use strongroom::config;

/// What a value has to be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Size,
    Duration,
    Mode,
    Number,
    Switch,
    OneOf(&'static [&'static str]),
}

/// The options: their names as in `strongroom mount --help`.
const KNOWN: &[(&str, Kind)] = &[
    ("attribute-ttl", Kind::Duration),
    ("cache-size", Kind::Size),
    ("dir-mode", Kind::Mode),
    ("durability", Kind::OneOf(&["close", "fsync"])),
    ("exclusive", Kind::Switch),
    ("file-mode", Kind::Mode),
    ("gid", Kind::Number),
    ("io-timeout", Kind::Duration),
    ("memory-limit", Kind::Size),
    ("no-gc", Kind::Switch),
    ("uid", Kind::Number),
    ("umask", Kind::Mode),
];

/// What may change during the life of a volume (ModifyVolume), and the option that it is.
pub const MUTABLE: &[(&str, &str)] =
    &[("memoryLimit", "memory-limit"), ("cacheSize", "cache-size")];

/// What every mount of ours is anyway, or what has no meaning for one: taken and left.
const USUAL: &[&str] = &[
    "rw",
    "defaults",
    "async",
    "nosuid",
    "nodev",
    "noatime",
    "nodiratime",
    "relatime",
    "lazytime",
    "_netdev",
];

/// The least memory that a mount works with, as the tool has it.
const LEAST_MEMORY: u64 = 64 << 20;

/// Options by the names of the configuration file, with checked values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    values: Map<String, Value>,
    /// Refuse every change.
    pub read_only: bool,
    /// SELinux context of the mount.
    pub selinux_context: Option<String>,
}

impl Options {
    /// Reads the words of an `options` parameter: separated by commas or white space, dashes before a name
    /// allowed.
    ///
    /// # Errors
    /// The word and what is known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let words = text.split(|c: char| c == ',' || c.is_whitespace());
        for word in words.filter(|word| !word.is_empty()) {
            options.add_word(word)?;
        }
        Ok(options)
    }

    /// Adds mount flags of a call, each of which may hold several words.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn add_flags(&mut self, flags: &[String]) -> Result<(), String> {
        for flag in flags {
            // kubelet gives it as a flag of its own; its categories are separated by commas.
            match flag.strip_prefix("context=") {
                Some(context) => self.selinux_context = Some(context.trim_matches('"').to_owned()),
                None => self.add(Self::parse(flag)?),
            }
        }
        Ok(())
    }

    /// Adds others, which win.
    pub fn add(&mut self, others: Self) {
        self.values.extend(others.values);
        self.read_only |= others.read_only;
        self.selinux_context = others.selinux_context.or(self.selinux_context.take());
    }

    /// Adds mutable parameters.
    ///
    /// # Errors
    /// The parameter and what is known.
    pub fn add_mutable(&mut self, given: &HashMap<String, String>) -> Result<(), String> {
        let mut given: Vec<_> = given.iter().collect();
        given.sort();
        for (name, value) in given {
            let known = MUTABLE.iter().find(|(known, _)| known == name);
            let (_, option) = known.ok_or_else(|| {
                let names: Vec<&str> = MUTABLE.iter().map(|(known, _)| *known).collect();
                format!("mutable parameter `{name}` is unknown; known are {}", names.join(", "))
            })?;
            self.set(option, value).map_err(|why| format!("mutable parameter `{name}`: {why}"))?;
        }
        Ok(())
    }

    /// Sets one option, as text.
    ///
    /// # Errors
    /// What is wrong with name or value.
    pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let (_, kind) = KNOWN
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| format!("option `{name}` is unknown; known are {}", known()))?;
        let value =
            checked(*kind, text).map_err(|why| format!("option `{name}`: {text:?} {why}"))?;
        if name == "memory-limit" && config::parse_size(text).is_ok_and(|size| size < LEAST_MEMORY)
        {
            return Err(format!("option `{name}`: {text:?} is less than 64MiB"));
        }
        self.values.insert(name.replace('-', "_"), value);
        Ok(())
    }

    /// Whether an option is set.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(&name.replace('-', "_"))
    }

    /// Refuses what has no meaning for files in a bucket.
    ///
    /// # Errors
    /// Which option that is.
    pub fn check_for_files(&self) -> Result<(), String> {
        let said = |name: &str| self.values.get(name);
        let refused = [
            ("exclusive", said("exclusive") == Some(&true.into())),
            ("durability=fsync", said("durability").is_some_and(|value| value == "fsync")),
            ("cache-size", said("cache_size").is_some()),
        ];
        match refused.into_iter().find(|(_, is_asked)| *is_asked) {
            Some((name, _)) => Err(format!("option `{name}`: is not for layout objects")),
            None => Ok(()),
        }
    }

    /// The options as a worker takes them.
    pub fn into_settings(self) -> Map<String, Value> {
        let mut values = self.values;
        if self.read_only {
            values.insert("read_only".to_owned(), true.into());
        }
        values
    }

    fn add_word(&mut self, word: &str) -> Result<(), String> {
        let bare = word.trim_start_matches('-');
        match bare.split_once('=') {
            None if matches!(bare, "ro" | "read-only") => self.read_only = true,
            None if USUAL.contains(&bare) => {}
            None => return self.set(bare, ""),
            Some((name, value)) => return self.set(name, value),
        }
        Ok(())
    }
}

fn known() -> String {
    let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
    format!("ro, {}", names.join(", "))
}

fn checked(kind: Kind, text: &str) -> Result<Value, String> {
    if text.is_empty() && !matches!(kind, Kind::Switch) {
        return Err("needs a value, as in name=value".to_owned());
    }
    match kind {
        Kind::Size => config::parse_size(text).map(|_| text.into()),
        Kind::Duration => config::parse_duration(text).map(|_| text.into()),
        Kind::Mode => config::parse_mode(text).map(|_| text.into()),
        Kind::Number => {
            let number: u32 = text.parse().map_err(|_| "is no user or group number".to_owned())?;
            Ok(number.into())
        }
        Kind::Switch => match text {
            "" | "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            _ => Err("is neither true nor false".to_owned()),
        },
        Kind::OneOf(choices) if choices.contains(&text) => Ok(text.into()),
        Kind::OneOf(choices) => Err(format!("is none of {}", choices.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Value {
        Options::parse(text).expect("fine").into_settings().into()
    }

    #[test]
    fn words_become_settings_and_the_last_one_wins() {
        assert_eq!(
            settings(
                "memory-limit=100MiB, --memory-limit=512MiB uid=5,exclusive,no-gc=false,noatime"
            ),
            serde_json::json!({
                "memory_limit": "512MiB", "uid": 5, "exclusive": true, "no_gc": false
            })
        );
        assert_eq!(settings("ro"), serde_json::json!({"read_only": true}));
        assert_eq!(settings(""), serde_json::json!({}));
    }

    #[test]
    fn every_option_is_one_of_the_configuration_file() {
        for (name, kind) in KNOWN {
            let value = match kind {
                Kind::Size => "512MiB",
                Kind::Duration => "5s",
                Kind::Mode => "0750",
                Kind::Number => "7",
                Kind::Switch => "true",
                Kind::OneOf(choices) => choices[0],
            };
            let options = Options::parse(&format!("{name}={value}")).expect(name);
            let settings = strongroom::tool::attach::protocol::Settings {
                url: "s3://bucket/x".to_owned(),
                options: options.into_settings(),
                ..Default::default()
            };
            assert_eq!(settings.check(), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_is_unknown_or_malformed_is_named() {
        for (text, why) in [
            ("memory-limits=1GiB", "`memory-limits` is unknown; known are ro, attribute-ttl"),
            ("cache-dir=/etc", "`cache-dir` is unknown"),
            ("memory-limit=much", "\"much\" is no size"),
            ("memory-limit=1MiB", "less than 64MiB"),
            ("memory-limit", "needs a value"),
            ("durability=never", "none of close, fsync"),
            ("exclusive=1", "neither true nor false"),
            ("uid=-1", "no user"),
            ("noexec", "`noexec` is unknown"),
        ] {
            let error = Options::parse(text).expect_err(text);
            assert!(error.contains(why), "{error}");
        }
        let given = HashMap::from([("bogus".to_owned(), "1".to_owned())]);
        let error = Options::default().add_mutable(&given).expect_err("unknown");
        assert!(error.contains("known are memoryLimit, cacheSize"), "{error}");
    }
}
