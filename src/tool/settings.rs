//! Flags that every command has, and how a flag, the environment and the configuration file become one
//! value.

use super::connect::{Clients, MeterSlot, RateSlot, Volumes};
use super::output::{Failure, LogFormat};
use crate::config::{self, ConfigFile, PassphraseSource, PlaceSettings, VolumeUrl};
use crate::store::{ClientIdentity, Profile, S3Config, S3Credentials, Tls};
use clap::builder::BoolishValueParser;
use clap::{Args, Command};
use std::path::PathBuf;
use std::time::Duration;

/// How long an operation waits for the store unless the settings say otherwise.
const IO_TIMEOUT: Duration = Duration::from_secs(300);
/// Requests under way at once unless the settings say otherwise.
const REQUESTS: usize = 64;

/// Flags that every command has.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub(super) struct Common {
    /// Configuration file (else ~/.config/strongroom/config.toml, else /etc/strongroom/config.toml)
    #[arg(long, global = true, env = "STRONGROOM_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// File with the passphrase (one line end at its end is not part of it); else
    /// STRONGROOM_PASSPHRASE or STRONGROOM_PASSPHRASE_FILE
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, or a filter as tracing has it (warn)
    #[arg(long, global = true, env = "STRONGROOM_LOG", value_name = "LEVEL")]
    pub(super) log: Option<String>,
    /// The log's form (text)
    #[arg(long, global = true, env = "STRONGROOM_LOG_FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    /// S3 endpoint; without a scheme it is https (else AWS_ENDPOINT_URL, else Amazon's)
    #[arg(long, global = true, env = "STRONGROOM_ENDPOINT", value_name = "URL")]
    pub(super) endpoint: Option<String>,
    /// S3 region (else AWS_REGION and the AWS files, else us-east-1)
    #[arg(long, global = true, env = "STRONGROOM_REGION")]
    pub(super) region: Option<String>,
    // On, off, or not said: a flag without a value is on; `--flag=false` and variables can say off.
    /// Bucket in the path; by itself for IP addresses and localhost
    #[arg(long, global = true, env = "STRONGROOM_PATH_STYLE", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", hide_possible_values = true,
        value_parser = BoolishValueParser::new())]
    pub(super) path_style: Option<bool>,
    /// Certificate authorities for the endpoint, PEM (else AWS_CA_BUNDLE or CA_CERT_PATH, else the system's)
    #[arg(
        long,
        global = true,
        visible_alias = "ca-cert",
        env = "STRONGROOM_CA_BUNDLE",
        value_name = "FILE"
    )]
    pub(super) ca_bundle: Option<PathBuf>,
    /// Client certificate for an endpoint that asks for one, PEM (else CLIENT_CERT_PATH)
    #[arg(long, global = true, env = "STRONGROOM_CLIENT_CERT", value_name = "FILE")]
    pub(super) client_cert: Option<PathBuf>,
    /// Its private key, PEM (else CLIENT_KEY_PATH, else in the certificate's file)
    #[arg(long, global = true, env = "STRONGROOM_CLIENT_KEY", value_name = "FILE")]
    pub(super) client_key: Option<PathBuf>,
    /// Profile of the AWS files; its credentials win over those in the environment (else AWS_PROFILE)
    #[arg(long, global = true, env = "STRONGROOM_PROFILE")]
    pub(super) profile: Option<String>,
    /// How long an operation waits for a store that does not answer (5m)
    #[arg(long, global = true, env = "STRONGROOM_IO_TIMEOUT", value_name = "DURATION", value_parser = config::parse_duration)]
    pub(super) io_timeout: Option<Duration>,
    /// Requests to a bucket under way at once (64)
    #[arg(long, global = true, env = "STRONGROOM_CONCURRENCY", value_name = "NUMBER",
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) concurrency: Option<u32>,
    /// Megabits a second to and from all stores of this run, both ways together (no limit)
    #[arg(long, global = true, env = "STRONGROOM_RATE_LIMIT", value_name = "MBPS", value_parser = config::parse_megabits)]
    pub(super) rate_limit: Option<u64>,
    #[arg(skip)]
    pub(super) meter: MeterSlot,
    #[arg(skip)]
    pub(super) rate: RateSlot,
    /// A key is derived from a passphrase once, however many paths a command names.
    #[arg(skip)]
    pub(super) volumes: Volumes,
    /// One client for a bucket, however often a place in it is looked at.
    #[arg(skip)]
    pub(super) clients: Clients,
    /// Settings from the program that started this one, instead of environment and files.
    #[arg(skip)]
    pub(super) given: Option<Given>,
    /// The place of the configuration file whose settings these are.
    #[arg(skip)]
    pub(super) place: Option<String>,
}

/// Settings that another program has handed over.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) file: ConfigFile,
    pub(super) credentials: S3Credentials,
    pub(super) passphrase: config::Handed,
}

impl Common {
    /// What was handed over, and nothing else but the log of `self`.
    pub(super) fn instead(&self, given: Given) -> Self {
        Self {
            config: None,
            passphrase_file: None,
            log: self.log.clone(),
            log_format: self.log_format,
            endpoint: None,
            region: None,
            path_style: None,
            ca_bundle: None,
            client_cert: None,
            client_key: None,
            profile: None,
            io_timeout: None,
            concurrency: None,
            rate_limit: None,
            meter: MeterSlot::default(),
            rate: RateSlot::default(),
            volumes: Volumes::default(),
            clients: Clients::default(),
            given: Some(given),
            place: None,
        }
    }

    /// The settings for a URL: what the configuration file says of its place comes before everything else.
    pub(super) fn at(&self, url: &VolumeUrl) -> Result<Self, Failure> {
        let mut own = self.clone();
        if self.place.is_some() || self.given.is_some() {
            return Ok(own);
        }
        let file = self.file()?;
        let Some((place, said)) = file.place(url) else { return Ok(own) };
        let PlaceSettings {
            endpoint,
            region,
            path_style,
            profile,
            ca_bundle,
            client_cert,
            client_key,
            passphrase_file,
        } = said.clone();
        own.place = Some(place.to_string());
        own.endpoint = endpoint.or(own.endpoint);
        own.region = region.or(own.region);
        own.path_style = path_style.or(own.path_style);
        own.profile = profile.or(own.profile);
        own.ca_bundle = ca_bundle.or(own.ca_bundle);
        // A certificate's key is no other one's.
        let key = client_key.or_else(|| client_cert.clone());
        own.client_key = key.or(own.client_key);
        own.client_cert = client_cert.or(own.client_cert);
        own.passphrase_file = passphrase_file.or(own.passphrase_file);
        Ok(own)
    }

    pub(super) fn file(&self) -> Result<ConfigFile, Failure> {
        if let Some(given) = &self.given {
            return Ok(given.file.clone());
        }
        Ok(ConfigFile::find(self.config.as_deref())?)
    }

    pub(super) fn passphrase(&self, file: &ConfigFile) -> PassphraseSource {
        PassphraseSource {
            flag: self.passphrase_file.clone(),
            config: file.passphrase_file.clone(),
            handed: self.given.as_ref().map(|given| given.passphrase.clone()),
        }
    }

    /// How the S3 family is reached: flag, then environment, ours before Amazon's, then file.
    pub(super) fn s3(&self, bucket: &str) -> Result<S3Config, Failure> {
        let file = self.file()?;
        let either = |flag: &Option<String>, names: &[&str], file: Option<String>| {
            let variable = |name: &&str| self.given.is_none().then(|| config::variable(name))?;
            flag.clone().or_else(|| names.iter().find_map(variable)).or(file)
        };
        let path = |flag: &Option<PathBuf>, names: &[&str], file: Option<PathBuf>| {
            flag.clone().or_else(|| either(&None, names, None).map(PathBuf::from)).or(file)
        };
        let profile = match &self.profile {
            Some(name) => Some(Profile { name: name.clone(), over_environment: true }),
            None => either(&None, &["AWS_PROFILE"], file.profile)
                .map(|name| Profile { name, over_environment: false }),
        };
        let endpoints = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
        Ok(S3Config {
            bucket: bucket.to_owned(),
            region: either(&self.region, &["AWS_REGION", "AWS_DEFAULT_REGION"], file.region),
            // The SDK reads its variables too, but whether the bucket goes into the path is ours to say.
            endpoint: either(&self.endpoint, &endpoints, file.endpoint)
                .map(|endpoint| with_scheme(&endpoint))
                .transpose()?,
            path_style: self.path_style.or(file.path_style),
            tls: Tls {
                authorities: path(
                    &self.ca_bundle,
                    &["AWS_CA_BUNDLE", "CA_CERT_PATH"],
                    file.ca_bundle,
                ),
                more_authorities: config::more_authorities(),
                identity: ClientIdentity::of_files(
                    path(&self.client_cert, &["CLIENT_CERT_PATH"], file.client_cert),
                    path(&self.client_key, &["CLIENT_KEY_PATH"], file.client_key),
                )
                .map_err(Failure::new)?,
                unverified: false,
            },
            profile,
            credentials: self
                .given
                .as_ref()
                .map_or(S3Credentials::Found, |given| given.credentials.clone()),
            web_identity: config::web_identity().filter(|_| self.given.is_none()),
            ..S3Config::default()
        })
    }

    /// Requests under way at once.
    pub(super) fn concurrency(&self) -> Result<usize, Failure> {
        Ok(self.concurrency.or(self.file()?.concurrency).map_or(REQUESTS, |n| n as usize))
    }

    /// Bits a second, if there is a limit.
    pub(super) fn rate_limit(&self) -> Result<Option<u64>, Failure> {
        Ok(self.rate_limit.or(self.file()?.rate_limit))
    }

    /// How long a request may wait.
    pub(super) fn patience(&self) -> Result<Duration, Failure> {
        Ok(self.io_timeout.or(self.file()?.io_timeout).unwrap_or(IO_TIMEOUT))
    }
}

/// Endpoints without a scheme are https, as rclone takes them.
fn with_scheme(endpoint: &str) -> Result<String, Failure> {
    let whole = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("https://{endpoint}"),
    };
    let usable = ::url::Url::parse(&whole)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if usable {
        Ok(whole)
    } else {
        // Not repeated: it may hold a password.
        Err(Failure::new(
            "the endpoint is no http or https URL; examples: https://minio.example:9000, \
             http://127.0.0.1:9000",
        ))
    }
}

/// A variable that is set to nothing counts as not set, as it does for the AWS variables: manifests
/// often set them from values that may be absent.
pub(super) fn without_empty_variables(command: Command) -> Command {
    command
        .mut_args(|argument| {
            let empty =
                argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
            if empty { argument.env(None::<&'static str>) } else { argument }
        })
        .mut_subcommands(without_empty_variables)
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use crate::config::ConfigFile;
    use clap::CommandFactory;
    use std::path::Path;

    /// What asks for one action rather than setting how things are done.
    const ACTIONS: [&str; 5] = ["config", "background", "steal", "attach", "help"];

    #[test]
    fn every_setting_has_a_flag_a_variable_and_a_key_of_one_name() {
        let command = Cli::command();
        let mount = command.find_subcommand("mount").expect("the command");
        let mut settings = 0;
        for argument in command.get_arguments().chain(mount.get_arguments()) {
            let Some(flag) = argument.get_long().filter(|flag| !ACTIONS.contains(flag)) else {
                continue;
            };
            let key = flag.replace('-', "_");
            let variable = format!("STRONGROOM_{}", key.to_uppercase());
            match argument.get_env() {
                Some(name) => assert_eq!(name.to_str(), Some(&*variable)),
                // It is read where STRONGROOM_PASSPHRASE is.
                None => assert!(["passphrase-file", "version"].contains(&flag), "--{flag}"),
            }
            if flag == "version" {
                continue;
            }
            let known = ["\"1\"", "1", "true", "\"1s\""].iter().any(|value| {
                ConfigFile::parse(&format!("{key} = {value}"), Path::new("f")).is_ok()
            });
            assert!(known, "{key} is not a key of the configuration file");
            settings += 1;
        }
        assert!(settings >= 20, "{settings}");
    }
}
