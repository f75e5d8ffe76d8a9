//! Flags as the original's library reads them: `--name value`, `--name=value`, `-n value`, `-nvalue`,
//! `-n=value`, bundles of switches, before and after other arguments, with its messages. (clap's rules and
//! messages are others, and scripts see both.)

use super::go;
use crate::tool::output::Failure;
use std::ffi::OsString;

/// What a flag takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Nothing, or `=true`, `=false`.
    Switch,
    /// Any text.
    Text,
    /// A number of 64 bits.
    Integer,
    /// A number with a fraction.
    Float,
    /// A duration: `1h30m`.
    Duration,
    /// One of these.
    Choice(&'static [&'static str]),
}

/// A row of a command's flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    /// What is said of it in the help if it is not given; empty: nothing.
    pub(super) default: &'static str,
}

/// A flag's row.
pub(super) const fn flag(
    name: &'static str,
    short: Option<char>,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, short, kind, help, default }
}

const LEVELS: Kind = Kind::Choice(&["debug", "info", "warning", "error"]);

/// Flags of every command.
pub(super) const GLOBAL: &[Flag] = &[
    flag("conf", Some('c'), Kind::Text, "\"/etc/datasafed/datasafed.conf\"", "configuration file"),
    flag("console-log", None, Kind::Switch, "", "log to standard error"),
    flag("console-timestamps", None, Kind::Switch, "true", "with the time"),
    flag("disable-color", None, Kind::Switch, "", "no colours"),
    flag("file-log-level", None, LEVELS, "\"debug\"", "least level of the log file"),
    flag("file-log-local-tz", None, Kind::Switch, "", "local time in the log file"),
    flag("force-color", None, Kind::Switch, "", "colours also where they are not usual"),
    flag("json-log-console", None, Kind::Switch, "", "log to standard error as JSON"),
    flag("json-log-file", None, Kind::Switch, "", "log file as JSON"),
    flag("log-dir", None, Kind::Text, "", "directory of log files"),
    flag("log-dir-max-age", None, Kind::Duration, "720h0m0s", "oldest log file to keep"),
    flag("log-dir-max-files", None, Kind::Integer, "100", "most log files to keep"),
    flag("log-dir-max-total-size-mb", None, Kind::Float, "1000", "most megabytes of logs to keep"),
    flag("log-file", None, Kind::Text, "", "name of the log file, with --log-dir"),
    flag("log-level", None, LEVELS, "\"info\"", "least level on standard error"),
    flag("max-log-file-segment-size", None, Kind::Integer, "50000000", "most bytes of a log file"),
];

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    values: Vec<(&'static str, String)>,
    pub(super) positionals: Vec<OsString>,
}

impl Parsed {
    /// The value of a flag, the last one given.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.values.iter().rev().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }

    /// Whether a switch is on.
    pub(super) fn switch(&self, name: &str) -> bool {
        self.text(name).and_then(go::boolean).unwrap_or(false)
    }

    /// The number of a flag, 0 if it was not given.
    pub(super) fn integer(&self, name: &str) -> i64 {
        self.text(name).and_then(|text| go::integer(text).ok()).unwrap_or(0)
    }

    /// A path in the storage, which is text.
    pub(super) fn path(&self, index: usize) -> String {
        self.positionals[index].to_string_lossy().into_owned()
    }

    /// That at most one flag of a group was given.
    pub(super) fn exclusive(&self, group: &[&str]) -> Result<(), Failure> {
        let mut given: Vec<&str> =
            group.iter().filter(|name| self.text(name).is_some()).copied().collect();
        if given.len() < 2 {
            return Ok(());
        }
        given.sort_unstable();
        Err(Failure::new(format!(
            "if any flags in the group [{}] are set none of the others can be; [{}] were all set",
            group.join(" "),
            given.join(" ")
        )))
    }
}

/// Reads arguments by tables of flags; `None`: help was asked for.
pub(super) fn parse(arguments: &[OsString], tables: &[&[Flag]]) -> Result<Option<Parsed>, Failure> {
    let known = || tables.iter().flat_map(|table| table.iter());
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            parsed.positionals.extend(rest.cloned());
            break;
        }
        if let Some(long) = text.strip_prefix("--") {
            if long.starts_with(['-', '=']) {
                return Err(Failure::new(format!("bad flag syntax: {text}")));
            }
            let (name, given) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let Some(flag) = known().find(|flag| flag.name == name) else {
                if name == "help" {
                    return Ok(None);
                }
                return Err(Failure::new(format!("unknown flag: --{name}")));
            };
            let value = match given {
                Some(value) => value,
                None if matches!(flag.kind, Kind::Switch) => "true".to_owned(),
                None => match rest.next() {
                    Some(value) => value.to_string_lossy().into_owned(),
                    None => return Err(Failure::new(format!("flag needs an argument: {text}"))),
                },
            };
            parsed.values.push((flag.name, checked(flag, value)?));
        } else if let Some(bundle) = text.strip_prefix('-').filter(|bundle| !bundle.is_empty()) {
            let mut left = bundle;
            while let Some(letter) = left.chars().next() {
                let Some(flag) = known().find(|flag| flag.short == Some(letter)) else {
                    if letter == 'h' {
                        return Ok(None);
                    }
                    let text = format!("unknown shorthand flag: '{letter}' in -{left}");
                    return Err(Failure::new(text));
                };
                let after = &left[letter.len_utf8()..];
                let (value, next) = if let Some(value) = after.strip_prefix('=')
                    && !value.is_empty()
                {
                    (value.to_owned(), "")
                } else if matches!(flag.kind, Kind::Switch) {
                    ("true".to_owned(), after)
                } else if !after.is_empty() {
                    (after.to_owned(), "")
                } else if let Some(value) = rest.next() {
                    (value.to_string_lossy().into_owned(), "")
                } else {
                    return Err(Failure::new(format!(
                        "flag needs an argument: '{letter}' in -{left}"
                    )));
                };
                parsed.values.push((flag.name, checked(flag, value)?));
                left = next;
            }
        } else {
            parsed.positionals.push(argument.clone());
        }
    }
    Ok(Some(parsed))
}

/// Where the command's name stands: the first argument that is neither a flag nor the value of one.
pub(super) fn command_at(arguments: &[OsString]) -> Option<usize> {
    let is_switch = |flag: &Flag| matches!(flag.kind, Kind::Switch);
    let mut skip = false;
    for (index, argument) in arguments.iter().enumerate() {
        let text = argument.to_string_lossy();
        if std::mem::take(&mut skip) {
            continue;
        }
        if text == "--" {
            return None;
        }
        if let Some(name) = text.strip_prefix("--") {
            let known = GLOBAL.iter().find(|flag| flag.name == name);
            skip = !name.contains('=') && name != "help" && !known.is_some_and(is_switch);
        } else if text.starts_with('-') {
            let letter = text.chars().nth(1);
            let known = GLOBAL.iter().find(|flag| flag.short.is_some() && flag.short == letter);
            skip =
                text.chars().count() == 2 && letter != Some('h') && !known.is_some_and(is_switch);
        } else if !text.is_empty() {
            return Some(index);
        }
    }
    None
}

fn checked(flag: &Flag, value: String) -> Result<String, Failure> {
    let why = match flag.kind {
        Kind::Text => None,
        Kind::Switch => go::boolean(&value).is_none().then(|| go::not_parsed("Bool", &value)),
        Kind::Integer => go::integer(&value).err(),
        Kind::Float => value.parse::<f64>().is_err().then(|| go::not_parsed("Float", &value)),
        Kind::Duration => go::duration(&value).err(),
        Kind::Choice(choices) => (!choices.contains(&value.as_str()))
            .then(|| format!("{value} is not included in {}", choices.join(","))),
    };
    let Some(why) = why else { return Ok(value) };
    let shown = match flag.short {
        Some(short) => format!("-{short}, --{}", flag.name),
        None => format!("--{}", flag.name),
    };
    Err(Failure::new(format!(
        "invalid argument {} for \"{shown}\" flag: {why}",
        go::quoted(&value)
    )))
}
