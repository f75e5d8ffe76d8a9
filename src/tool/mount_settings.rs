//! What a mount may be told: by a flag, by a variable of the environment, by the configuration file.

use super::output::Failure;
use crate::config::{self, ConfigFile};
use crate::crypto::Suite;
use crate::fs::core::Durability;
use crate::fs::ownership::Ownership;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

const MEMORY_LIMIT: u64 = 256 << 20;
const LEAST_MEMORY: u64 = 64 << 20;
const CACHE_SIZE: u64 = 10 << 30;
const ATTRIBUTE_TTL: Duration = Duration::from_secs(1);

/// When a close is answered.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum DurabilityChoice {
    /// When the file is in the store
    Close,
    /// At once; fsync and the end of this server are the barriers
    Fsync,
}

/// What is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LayoutChoice {
    /// A volume that `strongroom init` made
    Native,
    /// A bucket's files as they are, one object each, which other programs read and write too
    Objects,
}

/// The flags.
#[derive(Debug, Default, Args)]
pub(super) struct MountFlags {
    /// Refuse every change
    #[arg(long, env = "STRONGROOM_READ_ONLY", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", hide_possible_values = true,
        value_parser = BoolishValueParser::new())]
    read_only: Option<bool>,
    /// Other users may use the mount (always so when root mounts)
    #[arg(long, env = "STRONGROOM_ALLOW_OTHER", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", hide_possible_values = true,
        value_parser = BoolishValueParser::new())]
    allow_other: Option<bool>,
    /// All memory for data, dirty and cached (256MiB)
    #[arg(long, env = "STRONGROOM_MEMORY_LIMIT", value_name = "SIZE", value_parser = config::parse_size)]
    memory_limit: Option<u64>,
    /// Keep what was read, sealed as it came, in this directory of this machine's disk too
    #[arg(long, env = "STRONGROOM_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// How much of it (10GiB)
    #[arg(long, env = "STRONGROOM_CACHE_SIZE", value_name = "SIZE", value_parser = config::parse_size)]
    cache_size: Option<u64>,
    /// What is mounted (native)
    #[arg(long, env = "STRONGROOM_LAYOUT")]
    layout: Option<LayoutChoice>,
    /// With --layout objects: files are in datasafed's form, NAME.enc (AES-128-CFB, AES-192-CFB, AES-256-CFB);
    /// without it they are stored as they are
    #[arg(long, env = "STRONGROOM_ENCRYPTION", value_name = "SUITE")]
    encryption: Option<Suite>,
    /// With --layout objects: where files lie that are changed in their middle, enciphered, until they are
    /// stored (the system's directory for temporary files)
    #[arg(long, env = "STRONGROOM_SCRATCH_DIR", value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// When a close is answered (close)
    #[arg(long, env = "STRONGROOM_DURABILITY")]
    durability: Option<DurabilityChoice>,
    /// How long names and attributes are taken for true without asking the store (1s)
    #[arg(long, env = "STRONGROOM_ATTRIBUTE_TTL", value_name = "DURATION",
        value_parser = config::parse_duration)]
    attribute_ttl: Option<Duration>,
    /// Show everything as owned by this user
    #[arg(long, env = "STRONGROOM_UID", value_name = "NUMBER")]
    uid: Option<u32>,
    /// Show everything as owned by this group
    #[arg(long, env = "STRONGROOM_GID", value_name = "NUMBER")]
    gid: Option<u32>,
    /// Mode of new directories, instead of what programs ask for; the root has at least these bits
    #[arg(long, env = "STRONGROOM_DIR_MODE", value_name = "MODE", value_parser = config::parse_mode)]
    dir_mode: Option<u32>,
    /// Mode of new files, instead of what programs ask for
    #[arg(long, env = "STRONGROOM_FILE_MODE", value_name = "MODE", value_parser = config::parse_mode)]
    file_mode: Option<u32>,
    /// Bits that new files and directories do not get
    #[arg(long, env = "STRONGROOM_UMASK", value_name = "MODE", value_parser = config::parse_mode)]
    umask: Option<u32>,
    /// Have the volume for this mount alone: names and attributes are decided here instead of asked for
    #[arg(long, env = "STRONGROOM_EXCLUSIVE", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", hide_possible_values = true,
        value_parser = BoolishValueParser::new())]
    exclusive: Option<bool>,
    /// Do not collect garbage in the background: `strongroom gc` is run elsewhere
    #[arg(long, env = "STRONGROOM_NO_GC", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL", hide_possible_values = true,
        value_parser = BoolishValueParser::new())]
    no_gc: Option<bool>,
}

/// Where what was read is kept on disk, and how many bytes of it.
#[derive(Debug)]
pub(super) struct DiskCacheChoice {
    pub(super) directory: PathBuf,
    pub(super) limit: u64,
}

/// How a bucket's files are mounted.
#[derive(Debug)]
pub(super) struct ObjectsChoice {
    pub(super) suite: Option<Suite>,
    pub(super) scratch: PathBuf,
}

/// What they come to.
#[derive(Debug)]
pub(super) struct MountChoices {
    /// None: a volume.
    pub(super) objects: Option<ObjectsChoice>,
    pub(super) read_only: bool,
    pub(super) allow_other: bool,
    pub(super) memory: u64,
    pub(super) cache: Option<DiskCacheChoice>,
    pub(super) durability: Durability,
    pub(super) attribute_ttl: Duration,
    pub(super) ownership: Ownership,
    pub(super) exclusive: bool,
    pub(super) collects: bool,
}

impl MountFlags {
    /// Flag and environment, then the file, then what is usual.
    pub(super) fn resolve(&self, file: &ConfigFile) -> Result<MountChoices, Failure> {
        let on = |flag: Option<bool>, file: Option<bool>| flag.or(file).unwrap_or(false);
        let read_only = on(self.read_only, file.read_only);
        let exclusive = on(self.exclusive, file.exclusive);
        if read_only && exclusive {
            return Err(Failure::new(
                "a mount that is read-only has nothing to be exclusive for: choose --read-only or \
                 --exclusive (as flag, STRONGROOM_READ_ONLY, STRONGROOM_EXCLUSIVE or in the configuration \
                 file)",
            ));
        }
        let memory = self.memory_limit.or(file.memory_limit).unwrap_or(MEMORY_LIMIT);
        if memory < LEAST_MEMORY {
            return Err(Failure::new("the memory limit must be at least 64MiB"));
        }
        let durability = match (self.durability, file.durability.as_deref()) {
            (Some(choice), _) => choice,
            (None, None) => DurabilityChoice::Close,
            (None, Some(text)) => DurabilityChoice::from_str(text, false).map_err(|_| {
                Failure::new(format!(
                    "configuration file: durability {text:?}: choose close or fsync"
                ))
            })?,
        };
        let objects = self.objects(file)?;
        if objects.is_some() {
            let cache = self.cache_dir.is_some() || file.cache_dir.is_some();
            let refused = [
                (exclusive, "--exclusive: nobody can be kept from a bucket's files"),
                (cache, "--cache-dir: it keeps the segments of volumes"),
                (matches!(durability, DurabilityChoice::Fsync), "--durability fsync"),
            ];
            if let Some((_, what)) = refused.into_iter().find(|(is_asked, _)| *is_asked) {
                return Err(Failure::new(format!("--layout objects has no {what}")));
            }
        }
        let root = nix::unistd::geteuid().is_root();
        Ok(MountChoices {
            objects,
            read_only,
            allow_other: on(self.allow_other, file.allow_other) || root,
            memory,
            cache: self.cache_dir.clone().or(file.cache_dir.clone()).map(|directory| {
                let limit = self.cache_size.or(file.cache_size).unwrap_or(CACHE_SIZE);
                DiskCacheChoice { directory, limit }
            }),
            durability: match durability {
                DurabilityChoice::Close => Durability::Close,
                DurabilityChoice::Fsync => Durability::Fsync,
            },
            attribute_ttl: self.attribute_ttl.or(file.attribute_ttl).unwrap_or(ATTRIBUTE_TTL),
            ownership: Ownership {
                uid: self.uid.or(file.uid),
                gid: self.gid.or(file.gid),
                dir_mode: self.dir_mode.or(file.dir_mode),
                file_mode: self.file_mode.or(file.file_mode),
                umask: self.umask.or(file.umask).unwrap_or(0),
            },
            exclusive,
            collects: !read_only && !on(self.no_gc, file.no_gc),
        })
    }

    /// How a bucket's files are mounted, if that is what is mounted.
    fn objects(&self, file: &ConfigFile) -> Result<Option<ObjectsChoice>, Failure> {
        let layout = match (self.layout, file.layout.as_deref()) {
            (Some(choice), _) => choice,
            (None, None) => LayoutChoice::Native,
            (None, Some(text)) => LayoutChoice::from_str(text, false).map_err(|_| {
                Failure::new(format!(
                    "configuration file: layout {text:?}: choose native or objects"
                ))
            })?,
        };
        let suite = match (self.encryption, file.encryption.as_deref()) {
            (Some(suite), _) => Some(suite),
            (None, None) => None,
            (None, Some(text)) => Some(text.parse().map_err(|error| {
                Failure::new(format!("configuration file: encryption {text:?}: {error}"))
            })?),
        };
        let scratch = self.scratch_dir.clone().or(file.scratch_dir.clone());
        if layout == LayoutChoice::Native {
            let given = [(suite.is_some(), "--encryption"), (scratch.is_some(), "--scratch-dir")];
            return match given.into_iter().find(|(is_given, _)| *is_given) {
                Some((_, name)) => Err(Failure::new(format!(
                    "{name} is for --layout objects: how a volume is encrypted was said at its `strongroom init`"
                ))),
                None => Ok(None),
            };
        }
        let suite = suite.filter(|suite| *suite != Suite::None);
        if suite == Some(Suite::Aes256Gcm) {
            return Err(Failure::new(
                "--layout objects has no AES-256-GCM: datasafed's form is AES-128-CFB, AES-192-CFB or AES-256-CFB \
                 (a volume made by `strongroom init` has it, and notices what was changed)",
            ));
        }
        let scratch = scratch.unwrap_or_else(config::temporary_directory);
        Ok(Some(ObjectsChoice { suite, scratch }))
    }
}
