//! What the program tells of itself.

use super::commands::{COMMANDS, Command, MORE, named};
use super::flags::{Flag, GLOBAL, Kind, command_at};
use std::ffi::OsString;

/// The help of the whole program; `own`: with the flag that asked for it.
pub(super) fn all(own: bool) -> String {
    let mut text = "Push files to a storage, pull, list and remove them, as datasafed does it.\n\n\
                    Usage:\n  datasafed [command]\n\nAvailable Commands:\n"
        .to_owned();
    for command in COMMANDS {
        text.push_str(&format!("  {:<11} {}\n", command.name, command.about));
    }
    text.push_str(&format!("  {:<11} {}\n", "help", "Help about any command"));
    text.push_str("\nMore Commands (not in the original):\n");
    for command in MORE {
        text.push_str(&format!("  {:<11} {}\n", command.name, command.about));
    }
    text.push_str("\nFlags:\n");
    text.push_str(&table(GLOBAL, own.then_some("datasafed")));
    text.push_str("\nUse \"datasafed [command] --help\" for more information about a command.\n");
    text
}

/// The help of a command.
pub(super) fn of(command: &Command) -> String {
    let Command { name, usage, about, flags, .. } = command;
    let mut text = format!("{about}\n\nUsage:\n  datasafed {name} {usage} [flags]\n\nFlags:\n");
    text.push_str(&table(flags, Some(name)));
    text.push_str("\nGlobal Flags:\n");
    text.push_str(&table(GLOBAL, None));
    text
}

/// What `help` with these arguments tells.
pub(super) fn topic(arguments: &[OsString]) -> String {
    let Some(at) = command_at(arguments) else { return all(true) };
    let name = arguments[at].to_string_lossy();
    match named(&name) {
        Some(command) => of(command),
        None => format!("Unknown help topic [`{name}`]\n{}", all(false)),
    }
}

/// Commands whose names are near one that is none.
pub(super) fn suggestions(name: &str) -> Vec<&'static str> {
    let name = name.to_lowercase();
    let near = |command: &&Command| {
        strsim::levenshtein(&name, command.name) <= 2 || command.name.starts_with(&name)
    };
    COMMANDS.iter().filter(near).map(|command| command.name).collect()
}

fn table(flags: &[Flag], help_for: Option<&str>) -> String {
    let mut rows: Vec<(String, String)> = flags.iter().map(row).collect();
    if let Some(name) = help_for {
        rows.push(("  -h, --help".to_owned(), format!("help for {name}")));
    }
    rows.sort_by(|a, b| a.0[6..].cmp(&b.0[6..]));
    let width = rows.iter().map(|(flag, _)| flag.len()).max().unwrap_or_default();
    rows.iter().map(|(flag, help)| format!("{flag:<width$}   {help}\n")).collect()
}

fn row(flag: &Flag) -> (String, String) {
    let short = flag.short.map_or("   ".to_owned(), |short| format!("-{short},"));
    let value = match flag.kind {
        Kind::Switch => "",
        Kind::Text | Kind::Choice(_) => " string",
        Kind::Integer => " int",
        Kind::Float => " float",
        Kind::Duration => " duration",
    };
    let default = match flag.default {
        "" => String::new(),
        default => format!(" (default {default})"),
    };
    (format!("  {short} --{}{value}", flag.name), format!("{}{default}", flag.help))
}
