//! Two equal places, one for each program, and what both are told of them.

use crate::programs::{Call, Program};
use crate::support::minio::Minio;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strongroom::store::{S3Config, S3Credentials, S3Store};
use tempfile::TempDir;

/// Where files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a bucket of a MinIO server, by a configuration file.
    Bucket,
    /// The same, below a prefix.
    Prefix,
    /// In a directory, by a configuration file.
    Directory,
    /// In a directory, by the environment.
    Mounted,
}

impl Place {
    /// Whether it is a directory.
    pub(crate) fn is_local(self) -> bool {
        matches!(self, Self::Directory | Self::Mounted)
    }
}

/// Both places. They last as long as this value.
pub(crate) struct World {
    pub(crate) place: Place,
    /// Name of the algorithm and the passphrase.
    pub(crate) encryption: Option<(&'static str, &'static str)>,
    pub(crate) base: Option<&'static str>,
    pub(crate) temporary: TempDir,
    pub(crate) minio: Option<Arc<Minio>>,
    buckets: [String; 2],
}

/// A passphrase as KubeBlocks' users write them.
pub(crate) const PASSPHRASE: &str = "S!B\\*d$zDsb=";

impl World {
    pub(crate) fn new(place: Place) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let minio = match place {
            Place::Bucket | Place::Prefix => Some(Minio::shared()),
            Place::Directory | Place::Mounted => None,
        };
        let bucket = || minio.as_ref().map_or(String::new(), |minio| minio.new_bucket());
        let buckets = [bucket(), bucket()];
        let world = Self { place, encryption: None, base: None, temporary, minio, buckets };
        for side in crate::programs::BOTH {
            fs::create_dir_all(world.directory(side)).expect("made");
            fs::write(world.conf(side), world.configuration(side)).expect("written");
        }
        world
    }

    pub(crate) fn encrypted(mut self, algorithm: &'static str) -> Self {
        self.encryption = Some((algorithm, PASSPHRASE));
        self
    }

    pub(crate) fn below(mut self, base: &'static str) -> Self {
        self.base = Some(base);
        self
    }

    /// A path of the test's own.
    pub(crate) fn local(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// The directory of a side's files, if they are in one.
    pub(crate) fn directory(&self, side: Program) -> PathBuf {
        self.local(&format!("{side:?}"))
    }

    /// The bucket of a side's files, if they are in one.
    pub(crate) fn bucket(&self, side: Program) -> &str {
        &self.buckets[usize::from(side == Program::Ours)]
    }

    fn conf(&self, side: Program) -> PathBuf {
        self.local(&format!("{side:?}.conf"))
    }

    /// What the configuration file of a side says.
    pub(crate) fn configuration(&self, side: Program) -> String {
        let Some(minio) = &self.minio else {
            let root = self.directory(side);
            return format!("[storage]\ntype = local\nroot = {}\n", root.display());
        };
        let prefix = if self.place == Place::Prefix { "/in/here" } else { "" };
        format!(
            "[storage]\ntype = s3\nprovider = Minio\nenv_auth = false\naccess_key_id = {}\n\
             secret_access_key = {}\nregion = us-east-1\nendpoint = {}\nroot = {}{prefix}\n\
             no_check_certificate = false\nno_check_bucket = true\nchunk_size = 50Mi\n",
            minio.access_key,
            minio.secret_key,
            minio.endpoint,
            self.bucket(side)
        )
    }

    /// A command line of a program on the place of a side.
    pub(crate) fn call<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        program: Program,
        side: Program,
        arguments: I,
    ) -> Call {
        let conf = self.conf(side);
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let call = match self.place {
            Place::Mounted => program.call(arguments),
            _ => program.call(
                [OsStr::new("-c"), conf.as_os_str()]
                    .map(OsStr::to_owned)
                    .into_iter()
                    .chain(arguments),
            ),
        };
        call.envs(self.environment(side)).within(self.temporary.path())
    }

    fn environment(&self, side: Program) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        if self.place == Place::Mounted {
            let root = self.directory(side).display().to_string();
            variables.push(("DATASAFED_LOCAL_BACKEND_PATH", root));
        }
        if let Some(base) = self.base {
            variables.push(("DATASAFED_BACKEND_BASE_PATH", base.to_owned()));
        }
        if let Some((algorithm, passphrase)) = self.encryption {
            variables.push(("DATASAFED_ENCRYPTION_ALGORITHM", algorithm.to_owned()));
            variables.push(("DATASAFED_ENCRYPTION_PASS_PHRASE", passphrase.to_owned()));
        }
        variables
    }

    /// Whether a text names the place of one side: messages hold its path.
    pub(crate) fn anonymous(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for side in crate::programs::BOTH {
            let directory = self.directory(side).display().to_string();
            text = text.replace(&directory, "ROOT");
            if !self.bucket(side).is_empty() {
                text = text.replace(self.bucket(side), "BUCKET");
            }
        }
        text
    }
}

/// A client of a side's bucket.
pub(crate) async fn bucket(world: &World, side: Program) -> S3Store {
    let minio = world.minio.as_ref().expect("a world in a bucket");
    let config = S3Config {
        bucket: world.bucket(side).to_owned(),
        region: Some("us-east-1".to_owned()),
        endpoint: Some(minio.endpoint.clone()),
        credentials: S3Credentials::Given {
            access_key: minio.access_key.clone(),
            secret_key: minio.secret_key.clone().into(),
            session_token: None,
        },
        ..S3Config::default()
    };
    S3Store::connect(config).await.expect("connected")
}

/// A file of a world's temporary directory.
pub(crate) fn written(path: &Path, bytes: &[u8]) -> PathBuf {
    fs::write(path, bytes).expect("written");
    path.to_owned()
}
