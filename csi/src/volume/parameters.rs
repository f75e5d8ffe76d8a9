//! The parameters of a StorageClass, which are also the attributes of its volumes.

use super::geesefs;
use super::handle::{check_bucket, check_endpoint, check_path, check_region};
use super::{Dialect, Handle, Options, Reach};
use std::collections::{BTreeMap, HashMap};
use strongroom::crypto::Suite;

/// Our own parameters.
const OWN: &[&str] = &[
    "bucket",
    "prefix",
    SUB_DIR,
    "layout",
    "encryption",
    "endpoint",
    "region",
    "forcePathStyle",
    "options",
    Role::ARN,
    Role::ENDPOINT,
];
/// The parameter that gives a volume a fixed place below the prefix, as other drivers of shared storage call it.
pub(crate) const SUB_DIR: &str = "subDir";
/// What may stand for whose volume it is in that place, and which key of the provisioner's tells it.
const WHOSE: &[(&str, &str)] = &[
    ("${pvc.metadata.name}", "csi.storage.k8s.io/pvc/name"),
    ("${pvc.metadata.namespace}", "csi.storage.k8s.io/pvc/namespace"),
    ("${pv.metadata.name}", "csi.storage.k8s.io/pv/name"),
];
/// What csi-s3 has besides.
const CSI_S3: &[&str] = &["mounter", "capacity"];
/// Mounters of csi-s3.
const MOUNTERS: &[&str] = &["geesefs", "s3fs", "rclone"];
/// Keys that Kubernetes adds on its own.
const KUBERNETES: &[&str] = &["csi.storage.k8s.io/", "storage.kubernetes.io/"];

/// Whether and how a volume is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not: said explicitly.
    None,
    /// With this suite.
    With(Suite),
    /// The volume's own suite, whatever it is; a new one gets AES-256-GCM. Never none.
    Some,
}

impl Encryption {
    /// The suite of a new volume.
    pub fn suite(self) -> Suite {
        match self {
            Self::None => Suite::None,
            Self::With(suite) => suite,
            Self::Some => Suite::Aes256Gcm,
        }
    }
}

/// What the objects of a volume are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Those of a volume of strongroom's.
    Native,
    /// Files as they are, one object each, which other programs read and write too.
    Objects,
}

/// A role whose keys are lent for the tokens of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Which.
    pub arn: String,
    /// Who lends them, unless it is the store or Amazon.
    pub endpoint: Option<String>,
}

impl Role {
    /// The parameter that names it.
    pub const ARN: &str = "roleArn";
    /// The parameter that names who lends.
    pub const ENDPOINT: &str = "stsEndpoint";
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// The bucket; a new volume needs one.
    pub bucket: Option<String>,
    /// Where in the bucket, without slashes at its ends.
    pub prefix: String,
    /// A fixed place below that, which is not the volume's alone; see [`Self::fixed_place`].
    pub sub_dir: Option<String>,
    /// What its objects are.
    pub layout: Layout,
    /// Whether it is encrypted.
    pub encryption: Encryption,
    /// How the store is reached, as far as it is said here.
    pub reach: Reach,
    /// How it is mounted.
    pub options: Options,
    /// The role that its pods have; `None`: the keys are in a secret.
    pub role: Option<Role>,
}

impl Parameters {
    /// Reads parameters or attributes.
    ///
    /// # Errors
    /// Which one is unknown or malformed, and what is known.
    pub fn parse(given: &HashMap<String, String>, dialect: Dialect) -> Result<Self, String> {
        let given: BTreeMap<&str, &str> = given
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .filter(|(key, _)| !KUBERNETES.iter().any(|start| key.starts_with(start)))
            .collect();
        let theirs = if dialect == Dialect::CsiS3 { CSI_S3 } else { &[] };
        for key in given.keys() {
            if !OWN.contains(key) && !theirs.contains(key) {
                let known = [OWN, theirs].concat().join(", ");
                return Err(format!("parameter `{key}` is unknown; known are {known}"));
            }
        }
        let said = |key: &str| given.get(key).copied().filter(|value| !value.is_empty());
        let named = |key: &'static str| move |why: String| format!("parameter `{key}`: {why}");
        let layout = layout_of(said("layout"), said("mounter"))?;
        let bucket = said("bucket");
        bucket.map(check_bucket).transpose().map_err(named("bucket"))?;
        let prefix = said("prefix").unwrap_or_default().trim_matches('/').to_owned();
        check_path(&prefix).map_err(named("prefix"))?;
        let suite = said("encryption").map(|text| {
            text.parse::<Suite>().map_err(|error| named("encryption")(format!("{text:?}: {error}")))
        });
        let encryption = match (suite.transpose()?, layout) {
            (Some(Suite::None), _) => Encryption::None,
            (Some(Suite::Aes256Gcm), Layout::Objects) => {
                return Err(named("encryption")(
                    "files in a bucket (layout objects) are encrypted in datasafed's form: AES-128-CFB, AES-192-CFB \
                     or AES-256-CFB; AES-256-GCM is for the layout native"
                        .to_owned(),
                ));
            }
            (Some(suite), _) => Encryption::With(suite),
            (None, Layout::Native) => Encryption::Some,
            // csi-s3's own volumes, which have no such parameter.
            (None, Layout::Objects) if said("mounter").is_some() => Encryption::None,
            (None, Layout::Objects) => {
                return Err(named("encryption")(
                    "is missing: layout objects stores files as they are (`none`), or in datasafed's form \
                     (AES-256-CFB): say which"
                        .to_owned(),
                ));
            }
        };
        let mut reach = Reach {
            endpoint: said("endpoint")
                .map(check_endpoint)
                .transpose()
                .map_err(named("endpoint"))?,
            region: said("region").map(check_region).transpose().map_err(named("region"))?,
            path_style: said("forcePathStyle")
                .map(switch)
                .transpose()
                .map_err(named("forcePathStyle"))?,
        };
        let lender = said(Role::ENDPOINT).map(check_endpoint).transpose();
        let lender = lender.map_err(named(Role::ENDPOINT))?;
        let role = match said(Role::ARN) {
            Some(arn) if is_role(arn) => Some(Role { arn: arn.to_owned(), endpoint: lender }),
            Some(arn) => {
                return Err(named(Role::ARN)(format!(
                    "{arn:?} is no role: arn:aws:iam::ACCOUNT:role/NAME"
                )));
            }
            None if lender.is_some() => {
                return Err(named(Role::ENDPOINT)("has no meaning without roleArn".to_owned()));
            }
            None => None,
        };
        let options = match dialect {
            Dialect::Own => Options::parse(said("options").unwrap_or_default()),
            Dialect::CsiS3 => geesefs::parse(said("options").unwrap_or_default()).map(|parsed| {
                reach = reach.or(&parsed.reach);
                parsed.options
            }),
        };
        Ok(Self {
            bucket: bucket.map(str::to_owned),
            prefix,
            sub_dir: said(SUB_DIR).map(str::to_owned),
            layout,
            encryption,
            reach,
            options: options.map_err(named("options"))?,
            role,
        })
    }

    /// The fixed place of a new volume below the prefix, with the names of who asks for it in their places. Whatever has
    /// this place, or had it, is the same content: a claim that is made again finds what is there.
    ///
    /// # Errors
    /// What is not known, or that it is no path.
    pub fn fixed_place(&self, given: &HashMap<String, String>) -> Result<Option<String>, String> {
        let Some(pattern) = &self.sub_dir else { return Ok(None) };
        let named = |why: String| format!("parameter `{SUB_DIR}`: {why}");
        let mut place = pattern.clone();
        for (word, key) in WHOSE {
            if !place.contains(word) {
                continue;
            }
            let name = given.get(*key).filter(|name| !name.is_empty()).ok_or_else(|| {
                named(format!(
                    "{word} is not known: csi-provisioner tells it with --extra-create-metadata"
                ))
            })?;
            place = place.replace(word, name);
        }
        let place = place.trim_matches('/').to_owned();
        if place.contains("${") {
            let known: Vec<&str> = WHOSE.iter().map(|(word, _)| *word).collect();
            return Err(named(format!("{pattern:?}: known are {}", known.join(", "))));
        }
        check_path(&place).map_err(named)?;
        if place.is_empty() {
            return Err(named("is no place below the prefix".to_owned()));
        }
        Ok(Some(place))
    }

    /// What may not be asked of files in a bucket, once all options are known.
    ///
    /// # Errors
    /// Which option.
    pub fn check_options(&self) -> Result<(), String> {
        match self.layout {
            Layout::Native => Ok(()),
            Layout::Objects => self.options.check_for_files(),
        }
    }

    /// Attributes may repeat where a volume is, but not contradict its id.
    ///
    /// # Errors
    /// Which one does.
    pub fn check_place(&self, handle: &Handle) -> Result<(), String> {
        if let Some(bucket) = &self.bucket
            && bucket != handle.bucket()
        {
            return Err(format!(
                "parameter `bucket`: is {bucket}, but the volume's id says {}",
                handle.bucket()
            ));
        }
        let whole = handle.prefix();
        match self.prefix.is_empty() || whole.starts_with(&format!("{}/", self.prefix)) {
            true => Ok(()),
            false => Err(format!(
                "parameter `prefix`: is {}, but the volume's id says {whole}",
                self.prefix
            )),
        }
    }

    /// The attributes of a new volume: what its id does not say already.
    pub fn attributes(given: &HashMap<String, String>) -> HashMap<String, String> {
        let told = |key: &str| {
            matches!(key, "bucket" | "prefix" | SUB_DIR | "endpoint" | "region" | "forcePathStyle")
        };
        given
            .iter()
            .filter(|(key, value)| {
                !told(key)
                    && !value.is_empty()
                    && !KUBERNETES.iter().any(|start| key.starts_with(start))
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// The layout that is asked for, or that csi-s3's volumes have.
fn layout_of(layout: Option<&str>, mounter: Option<&str>) -> Result<Layout, String> {
    if let Some(mounter) = mounter
        && !MOUNTERS.contains(&mounter)
    {
        return Err(format!(
            "parameter `mounter`: {mounter:?} is unknown; known are {}",
            MOUNTERS.join(", ")
        ));
    }
    match (layout, mounter) {
        (Some("native"), _) | (None, None) => Ok(Layout::Native),
        (Some("objects"), _) | (None, Some(_)) => Ok(Layout::Objects),
        (Some(other), _) => {
            Err(format!("parameter `layout`: {other:?} is unknown; known are native, objects"))
        }
    }
}

fn is_role(text: &str) -> bool {
    let is_word = text.bytes().all(|byte| byte.is_ascii_graphic());
    text.starts_with("arn:") && (20..=2048).contains(&text.len()) && is_word
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)], dialect: Dialect) -> Result<Parameters, String> {
        let given: HashMap<String, String> =
            given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Parameters::parse(&given, dialect)
    }

    #[test]
    fn what_is_said_is_read_and_the_rest_is_usual() {
        let parameters = parse(
            &[
                ("bucket", "backups"),
                ("prefix", "/a/b/"),
                ("encryption", "AES-256-CFB"),
                ("endpoint", "minio:9000"),
                ("forcePathStyle", "true"),
                ("csi.storage.k8s.io/pvc/name", "x"),
                ("storage.kubernetes.io/csiProvisionerIdentity", "y"),
            ],
            Dialect::Own,
        )
        .expect("fine");
        assert_eq!(parameters.prefix, "a/b");
        assert_eq!(parameters.encryption, Encryption::With(Suite::Aes256Cfb));
        assert_eq!(parameters.reach.endpoint.as_deref(), Some("https://minio:9000"));
        assert_eq!(parameters.reach.path_style, Some(true));
        let bare = parse(&[], Dialect::Own).expect("fine");
        assert_eq!(
            (bare.encryption, bare.encryption.suite()),
            (Encryption::Some, Suite::Aes256Gcm)
        );
    }

    #[test]
    fn what_is_wrong_names_the_parameter() {
        for (given, why) in [
            (("bukcet", "x"), "`bukcet` is unknown; known are bucket, prefix"),
            (("mounter", "geesefs"), "`mounter` is unknown"),
            (("bucket", "a/b"), "`bucket`"),
            (("prefix", "a/../b"), "`prefix`"),
            (("layout", "objects"), "`encryption`: is missing"),
            (("layout", "other"), "known are native, objects"),
            (("encryption", "ROT13"), "`encryption`"),
            (("endpoint", "ftp://x"), "`endpoint`"),
            (("forcePathStyle", "yes"), "`forcePathStyle`"),
            (("roleArn", "backup"), "`roleArn`"),
            (("stsEndpoint", "https://sts.example"), "without roleArn"),
            (("options", "bogus=1"), "`bogus` is unknown"),
        ] {
            let error = parse(&[given], Dialect::Own).expect_err(given.0);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn files_in_a_bucket_are_encrypted_or_not_but_never_unsaid() {
        let of = |more: &[(&str, &str)]| {
            parse(&[&[("layout", "objects")][..], more].concat(), Dialect::Own)
        };
        let plain = of(&[("encryption", "none")]).expect("fine");
        assert_eq!((plain.layout, plain.encryption), (Layout::Objects, Encryption::None));
        let sealed = of(&[("encryption", "AES-256-CFB")]).expect("fine");
        assert_eq!(sealed.encryption, Encryption::With(Suite::Aes256Cfb));
        let error = of(&[("encryption", "AES-256-GCM")]).expect_err("not in this form");
        assert!(error.contains("layout native"), "{error}");
        for option in ["exclusive", "durability=fsync", "cache-size=1GiB"] {
            let asked = of(&[("encryption", "none"), ("options", option)]).expect("an option");
            let error = asked.check_options().expect_err(option);
            assert!(error.contains("layout objects"), "{error}");
        }
        assert_eq!(plain.check_options(), Ok(()));
    }

    #[test]
    fn a_fixed_place_has_the_names_of_who_asks() {
        let place = |pattern: &str, given: &[(&str, &str)]| {
            let parameters = parse(&[("subDir", pattern)], Dialect::Own).expect("fine");
            let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            parameters.fixed_place(&given.collect())
        };
        let whose =
            [("csi.storage.k8s.io/pvc/namespace", "db"), ("csi.storage.k8s.io/pvc/name", "x")];
        let whole = place("a/${pvc.metadata.namespace}/${pvc.metadata.name}/", &whose);
        assert_eq!(whole, Ok(Some("a/db/x".to_owned())));
        assert_eq!(place("", &whose), Ok(None));
        for (pattern, given, why) in [
            ("${pvc.metadata.namespace}", &[][..], "--extra-create-metadata"),
            ("${pvc.metadata.uid}", &whose, "known are"),
            ("../${pvc.metadata.name}", &whose, "`subDir`"),
            ("a//b", &whose, "`subDir`"),
            ("/", &whose, "no place below"),
        ] {
            let error = place(pattern, given).expect_err(pattern);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_volume_of_csi_s3_has_files_as_they_are_unless_it_says_otherwise() {
        let theirs = parse(&[("mounter", "geesefs")], Dialect::CsiS3).expect("fine");
        assert_eq!((theirs.layout, theirs.encryption), (Layout::Objects, Encryption::None));
        let given = [
            ("mounter", "geesefs"),
            ("layout", "native"),
            ("options", "--memory-limit 1000 --dir-mode 0777 --region eu"),
        ];
        let parameters = parse(&given, Dialect::CsiS3).expect("fine");
        assert_eq!(parameters.reach.region.as_deref(), Some("eu"));
        assert!(parse(&[("mounter", "fuse")], Dialect::CsiS3).is_err());
    }
}
