//! A provider's parameters as flags: `accessKeyId` of its schema is `--access-key-id`. Those that are secrets have a
//! second one, `--secret-access-key-file`, since arguments can be read by everybody on the machine.

use crate::operator::crd::StorageProviderSpec;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Id};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;

/// Every command has it.
const HELP: &str = "help";

/// One parameter of a provider.
struct Parameter {
    name: String,
    flag: String,
    help: String,
    is_secret: bool,
    is_switch: bool,
    is_required: bool,
}

/// What was given, by the provider's names.
#[derive(Default)]
pub(super) struct Values {
    pub(super) config: BTreeMap<String, Value>,
    /// Secrets: not shown.
    pub(super) credential: BTreeMap<String, String>,
}

/// The parameters of a provider.
pub(super) struct Flags(Vec<Parameter>);

impl Flags {
    /// Those that a command can have beside its own flags: one of the same name gets `provider-` before it.
    pub(super) fn of(provider: &StorageProviderSpec, command: &Command) -> Self {
        let own = command.get_arguments().map(|arg| arg.get_id().to_string());
        let mut taken: BTreeSet<String> = own.chain([HELP.to_owned()]).collect();
        let Some(declared) = &provider.parameters_schema else { return Self(Vec::new()) };
        let schema = declared.open_api_v3_schema.clone().unwrap_or_default();
        let list = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
        let required = list("required");
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let mut parameter = |(name, property): (String, Value)| {
            let mut flag = kebab(&name);
            while taken.contains(&flag) || taken.contains(&in_file(&flag)) {
                flag.insert_str(0, "provider-");
            }
            taken.extend([flag.clone(), in_file(&flag)]);
            let text = property["description"].as_str().unwrap_or_default();
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let default = &property["default"];
            let default = match default {
                Value::Null => String::new(),
                Value::String(text) => format!(" [default: {text}]"),
                other => format!(" [default: {other}]"),
            };
            Parameter {
                flag,
                help: format!("{text}{default}"),
                is_secret: declared.credential_fields.contains(&name),
                is_switch: property["type"] == "boolean",
                is_required: required.iter().any(|one| one == name.as_str()),
                name,
            }
        };
        Self(properties.into_iter().map(&mut parameter).collect())
    }

    /// Adds them to a command. `needed`: those that a provider requires have to be there.
    pub(super) fn add_to(&self, mut command: Command, needed: bool) -> Command {
        for parameter in &self.0 {
            let Parameter { name: _, flag, help, is_secret, is_switch, is_required } = parameter;
            let mut arg = Arg::new(flag.clone()).long(flag.clone()).help(help.clone());
            arg = arg.help_heading("Provider").value_name("VALUE").allow_hyphen_values(true);
            if *is_switch {
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
                arg = arg.value_parser(["true", "false"]);
            }
            let needed = needed && *is_required;
            if !*is_secret {
                command = command.arg(arg.required(needed));
                continue;
            }
            let file = in_file(flag);
            let from =
                format!("The same from a file (one line end at its end is not part of it): {flag}");
            if needed {
                let instead = [Id::from(file.clone()), Id::from("credential")];
                arg = arg.required_unless_present_any(instead);
            }
            let read = Arg::new(file.clone()).long(file).value_name("FILE").help(from);
            let read = read.help_heading("Provider").conflicts_with(flag.clone());
            command = command.arg(arg).arg(read.value_parser(clap::value_parser!(OsString)));
        }
        command
    }

    /// What was given of them.
    pub(super) fn given(&self, matches: &ArgMatches) -> io::Result<Values> {
        let mut values = Values::default();
        for Parameter { name, flag, is_secret, .. } in &self.0 {
            let text = matches.get_one::<String>(flag).cloned();
            if !*is_secret {
                values.config.extend(text.map(|text| (name.clone(), Value::String(text))));
                continue;
            }
            let text = match matches.get_one::<OsString>(&in_file(flag)) {
                Some(path) => Some(read(path)?),
                None => text,
            };
            values.credential.extend(text.map(|text| (name.clone(), text)));
        }
        Ok(values)
    }
}

fn in_file(flag: &str) -> String {
    format!("{flag}-file")
}

fn read(path: &OsString) -> io::Result<String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// `accessKeyId` to `access-key-id`.
fn kebab(name: &str) -> String {
    let mut flag = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !flag.is_empty() {
            flag.push('-');
        }
        flag.push(letter.to_ascii_lowercase());
    }
    flag
}

/// A flag with a value.
pub(super) fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// The flags of [`super::Place`], for a command that is parsed when its arguments are known.
pub(super) fn place_flags() -> Vec<Arg> {
    super::Place::augment_args(Command::new("")).get_arguments().cloned().collect()
}

/// A flag that says whether, `--default` or `--default=false`.
pub(super) fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(clap::value_parser!(bool))
}

/// The value of a flag in arguments that cannot be understood before it is known.
pub(super) fn value_of(arguments: &[OsString], flag: &str) -> Option<String> {
    let mut texts = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(text) = texts.next() {
        if text == flag {
            return texts.next().map(Into::into);
        }
        if let Some(value) = text.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value.to_owned());
        }
    }
    None
}

/// Parses arguments; help is printed, and what is not understood is told with the exit code of usage.
pub(super) fn parsed(
    command: Command,
    arguments: Vec<OsString>,
) -> Result<ArgMatches, std::process::ExitCode> {
    let name = command.get_name().to_owned();
    command.try_get_matches_from(std::iter::once(name.into()).chain(arguments)).map_err(|error| {
        let _ = error.print();
        std::process::ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_kbclis_flags() {
        for (name, flag) in [
            ("accessKeyId", "access-key-id"),
            ("forcePathStyle", "force-path-style"),
            ("bucket", "bucket"),
            ("geesefsReadAheadLarge", "geesefs-read-ahead-large"),
        ] {
            assert_eq!(kebab(name), flag);
        }
    }

    #[test]
    fn parameters_of_the_same_name_as_a_flag_are_told_apart() {
        let schema = serde_json::json!({"properties": {
            "bucket": {}, "bucketFile": {}, "encryption": {}, "help": {}, "Help": {},
        }});
        let provider = StorageProviderSpec {
            parameters_schema: Some(crate::operator::crd::ParametersSchema {
                open_api_v3_schema: Some(schema),
                credential_fields: vec!["bucket".to_owned()],
            }),
            ..StorageProviderSpec::default()
        };
        let command = Command::new("test").arg(Arg::new("encryption").long("encryption"));
        let flags = Flags::of(&provider, &command);
        let words = ["--provider-encryption=a", "--bucket=b", "--provider-help=c"];
        let words = words.map(OsString::from).to_vec();
        let Ok(matches) = parsed(flags.add_to(command, false), words) else { panic!("understood") };
        let values = flags.given(&matches).expect("read");
        assert_eq!(values.config.len(), 2);
        assert_eq!(values.config["encryption"], "a");
        assert_eq!(values.credential["bucket"], "b");
    }

    #[test]
    fn the_provider_is_found_among_flags_that_are_not_known_yet() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for text in ["x --bucket b --provider s3 --default", "--provider=s3 x"] {
            assert_eq!(value_of(&words(text), "--provider").as_deref(), Some("s3"), "{text}");
        }
        assert_eq!(value_of(&words("--providers s3"), "--provider"), None);
    }
}
