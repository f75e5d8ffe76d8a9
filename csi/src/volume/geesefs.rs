//! The `options` of csi-s3's volumes: a command line for geesefs 0.43, read as csi-s3 and geesefs read it.
//! Flags that have a counterpart here take effect; the others are known, mean nothing for this file system,
//! and are named once in the log; a flag that geesefs would not know is an error.

use super::handle::{check_endpoint, check_region};
use super::{Options, Reach};

/// What a flag is to us.
#[derive(Clone, Copy)]
enum Flag {
    /// Megabytes, an option of ours.
    Megabytes(&'static str),
    /// An octal mode, an option of ours.
    Mode(&'static str),
    /// A number of a user or group, an option of ours.
    Id(&'static str),
    /// A duration as Go writes it, an option of ours.
    Duration(&'static str),
    /// The endpoint.
    Endpoint,
    /// The region.
    Region,
    /// Bucket in the host's name.
    Subdomain,
    /// `-o`: mount options.
    Mount,
    /// Known, with a value, without effect.
    Value,
    /// Known, a switch, without effect.
    Switch,
}

use Flag::{Switch as S, Value as V};

const FLAGS: &[(&str, Flag)] = &[
    // The file system.
    ("o", Flag::Mount),
    ("cache", V),
    ("dir-mode", Flag::Mode("dir-mode")),
    ("file-mode", Flag::Mode("file-mode")),
    ("cache-file-mode", V),
    ("uid", Flag::Id("uid")),
    ("gid", Flag::Id("gid")),
    ("setuid", V),
    ("setgid", V),
    ("refresh-dirs", S),
    ("ignore-setting-attrs-for-root-dir-erros", S),
    // The store.
    ("endpoint", Flag::Endpoint),
    ("project-id", V),
    ("iam", S),
    ("iam-header", V),
    ("iam-flavor", V),
    ("iam-url", V),
    ("region", Flag::Region),
    ("requester-pays", S),
    ("storage-class", V),
    ("cold-min-size", V),
    ("profile", V),
    ("shared-config", V),
    ("use-content-type", S),
    ("sse", S),
    ("sse-kms", V),
    ("sse-c", V),
    ("no-checksum", S),
    ("list-type", V),
    ("no-detect", S),
    ("no-expire-multipart", S),
    ("multipart-age", V),
    ("multipart-copy-threshold", V),
    ("acl", V),
    ("subdomain", Flag::Subdomain),
    ("sdk-max-retries", V),
    ("sdk-min-retry-delay", V),
    ("sdk-max-retry-delay", V),
    ("sdk-min-throttle-delay", V),
    ("sdk-max-throttle-delay", V),
    ("no-verify-ssl", S),
    // Tuning.
    ("memory-limit", Flag::Megabytes("memory-limit")),
    ("use-enomem", S),
    ("entry-limit", V),
    ("gc-interval", V),
    ("cheap", S),
    ("no-preload-dir", S),
    ("no-implicit-dir", S),
    ("no-dir-object", S),
    ("max-flushers", V),
    ("max-parallel-parts", V),
    ("max-parallel-copy", V),
    ("read-ahead", V),
    ("small-read-count", V),
    ("small-read-cutoff", V),
    ("read-ahead-small", V),
    ("large-read-cutoff", V),
    ("read-ahead-large", V),
    ("read-ahead-parallel", V),
    ("read-merge", V),
    ("single-part", V),
    ("part-sizes", V),
    ("enable-patch", S),
    ("drop-patch-conflicts", S),
    ("prefer-patch-uploads", S),
    ("max-merge-copy", V),
    ("ignore-fsync", S),
    ("fsync-on-close", S),
    ("enable-perms", S),
    ("enable-specials", S),
    ("no-specials", S),
    ("enable-mtime", S),
    ("emulate-hardlinks-as-symlinks", S),
    ("disable-xattr", S),
    ("uid-attr", V),
    ("gid-attr", V),
    ("mode-attr", V),
    ("rdev-attr", V),
    ("mtime-attr", V),
    ("symlink-attr", V),
    ("refresh-attr", V),
    ("stat-cache-ttl", Flag::Duration("attribute-ttl")),
    ("http-timeout", V),
    ("retry-interval", V),
    ("read-retry-interval", V),
    ("read-retry-mul", V),
    ("read-retry-max-interval", V),
    ("read-retry-attempts", V),
    ("max-disk-cache-fd", V),
    // Its own logs and clusters, and csi-s3's one flag.
    ("debug", S),
    ("debug_fuse", S),
    ("debug_s3", S),
    ("debug_grpc", S),
    ("pprof", V),
    ("f", S),
    ("log-file", V),
    ("print-stats", V),
    ("cluster", S),
    ("grpc-reflection", S),
    ("cluster-me", V),
    ("cluster-peer", V),
    ("no-systemd", S),
];

/// What Go's templates write for a value that is not there; KubeBlocks' providers leave it in.
const NOTHING: &str = "%!s(<nil>)";

/// What a command line comes to.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) options: Options,
    pub(super) reach: Reach,
}

/// Reads an `options` parameter.
///
/// # Errors
/// The flag that is unknown or has an unusable value.
pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut ignored = Vec::new();
    let mut tokens = tokens(text).into_iter();
    while let Some(token) = tokens.next() {
        let Some(flag) = token.strip_prefix("--").or_else(|| token.strip_prefix('-')) else {
            if token == NOTHING {
                continue;
            }
            // geesefs takes the first bare word for the bucket, which csi-s3 gives it anyway.
            return Err(format!("{token:?} is no flag: values follow their flag"));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let known = FLAGS.iter().find(|(known, _)| *known == name);
        let (name, kind) = *known.ok_or_else(|| format!("flag `--{name}` is none of geesefs'"))?;
        let value = match (kind, value) {
            (Flag::Switch | Flag::Subdomain, value) => value,
            (_, Some(value)) => Some(value),
            (_, None) => {
                Some(tokens.next().ok_or_else(|| format!("flag `--{name}` needs a value"))?)
            }
        };
        if value.as_deref() == Some(NOTHING) {
            continue;
        }
        let unusable = |why: String| format!("flag `--{name}`: {why}");
        if !parsed.take(kind, value.as_deref()).map_err(unusable)? {
            ignored.push(name);
        }
    }
    if !ignored.is_empty() {
        tracing::debug!(flags = ignored.join(", "), "flags of geesefs without a counterpart here");
    }
    Ok(parsed)
}

impl Parsed {
    /// Takes a flag; whether it has an effect.
    fn take(&mut self, kind: Flag, value: Option<&str>) -> Result<bool, String> {
        let text = value.unwrap_or_default();
        let number = || go_number(text).ok_or_else(|| format!("{text:?} is no number"));
        match kind {
            Flag::Megabytes(option) => {
                // geesefs takes any; ours has a least.
                self.options.set(option, &format!("{}MiB", number()?.max(64)))?;
            }
            Flag::Mode(option) => self.options.set(option, &format!("{:o}", number()?))?,
            Flag::Id(option) => self.options.set(option, &number()?.to_string())?,
            Flag::Duration(option) => {
                // Go writes 1m0s, which is read here as two durations.
                let spaced: String = text.chars().fold(String::new(), |mut spaced, c| {
                    let begins = c.is_ascii_digit()
                        && spaced.chars().last().is_some_and(|last| last.is_ascii_alphabetic());
                    if begins {
                        spaced.push(' ');
                    }
                    spaced.push(c);
                    spaced
                });
                self.options.set(option, &spaced)?;
            }
            Flag::Endpoint => self.reach.endpoint = Some(check_endpoint(text)?),
            Flag::Region => self.reach.region = Some(check_region(text)?),
            Flag::Subdomain => self.reach.path_style = Some(text == "false"),
            Flag::Mount => self.options.read_only |= text.split(',').any(|word| word == "ro"),
            Flag::Value | Flag::Switch => return Ok(false),
        }
        Ok(true)
    }
}

/// A number as Go's flags read it: `0777` and `0o777` are octal, `0x1f` is hexadecimal.
fn go_number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    digits
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then(|| u32::from_str_radix(digits, radix).ok())?
}

/// csi-s3's words: separated by white space, with double quotes that may stand inside a word, in which a
/// backslash takes the next character as it is.
fn tokens(text: &str) -> Vec<String> {
    let (mut tokens, mut token, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                any = true;
            }
            '\\' if quoted => token.extend(characters.next()),
            character if character.is_whitespace() && !quoted => {
                if any {
                    tokens.push(std::mem::take(&mut token));
                }
                any = false;
            }
            character => {
                token.push(character);
                any = true;
            }
        }
    }
    if any {
        tokens.push(token);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> serde_json::Value {
        parse(text).expect("fine").options.into_settings().into()
    }

    #[test]
    fn what_kubeblocks_writes_takes_effect_and_the_last_one_wins() {
        let text = "--memory-limit 1000 --read-ahead-large 102400 --dir-mode 0777 --file-mode 0666 \
                    --region %!s(<nil>) --memory-limit=2000 --subdomain --stat-cache-ttl 1m0s -o allow_other,ro";
        let parsed = parse(text).expect("fine");
        assert_eq!((parsed.reach.region, parsed.reach.path_style), (None, Some(false)));
        assert_eq!(
            settings(text),
            serde_json::json!({
                "memory_limit": "2000MiB", "dir_mode": "777", "file_mode": "666",
                "attribute_ttl": "1m 0s", "read_only": true
            })
        );
        // A number without a leading 0 is decimal there.
        assert_eq!(settings("--dir-mode 511"), serde_json::json!({"dir_mode": "777"}));
    }

    #[test]
    fn every_flag_of_geesefs_is_taken() {
        for (name, kind) in FLAGS {
            let value = match kind {
                Flag::Switch | Flag::Subdomain => "",
                Flag::Megabytes(_) | Flag::Id(_) => "100",
                Flag::Mode(_) => "0700",
                Flag::Duration(_) => "30s",
                Flag::Endpoint => "http://minio:9000",
                Flag::Region => "eu",
                Flag::Mount | Flag::Value => "x",
            };
            for text in [format!("--{name} {value}"), format!("-{name}={value}")] {
                if !(value.is_empty() && text.contains('=')) {
                    assert!(parse(&text).is_ok(), "{text}");
                }
            }
        }
        // As many as section 5.5 of the contract lists.
        assert!(FLAGS.len() > 100, "{}", FLAGS.len());
    }

    #[test]
    fn unknown_flags_and_values_are_named() {
        for (text, why) in [
            ("--memory-limits 5", "`--memory-limits`"),
            ("--memory-limit", "needs a value"),
            ("--memory-limit much", "no number"),
            ("--uid 09", "no number"),
            ("bucket", "no flag"),
            ("--endpoint \"a b\"", "endpoint"),
        ] {
            let error = parse(text).map(|_| ()).expect_err(text);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn quotes_are_read_as_csi_s3_reads_them() {
        assert_eq!(tokens(r#"--a="b c" "d\"e"f  g"#), ["--a=b c", "d\"ef", "g"]);
        assert!(tokens("  ").is_empty());
    }
}
