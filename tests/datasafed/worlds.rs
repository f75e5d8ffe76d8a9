//! Two equal places, one for each program, and what both are told of them.

use crate::programs::{BOTH, Call, Program};
use crate::servers::{ACCOUNT, Secured, Server};
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
    /// On a server of FTP.
    Ftp,
    /// On a server of FTP that does not list for machines.
    OldFtp,
    /// In a container of Azure's.
    Azure,
    /// In a bucket of Google's, by its own protocol.
    Google,
}

impl Place {
    /// Whether it is a directory.
    pub(crate) fn is_local(self) -> bool {
        matches!(self, Self::Directory | Self::Mounted) || self.is_ftp()
    }

    /// Whether it is on a server of FTP.
    pub(crate) fn is_ftp(self) -> bool {
        matches!(self, Self::Ftp | Self::OldFtp)
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
    pub(crate) server: Option<Server>,
    buckets: [String; 2],
}

/// A passphrase as KubeBlocks' users write them.
pub(crate) const PASSPHRASE: &str = "S!B\\*d$zDsb=";

impl World {
    pub(crate) fn new(place: Place) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let minio = match place {
            Place::Bucket | Place::Prefix => Some(Minio::shared()),
            _ => None,
        };
        let bucket = |side: Program| match (&minio, place) {
            (Some(minio), _) => minio.new_bucket(),
            (None, Place::Directory | Place::Mounted) => String::new(),
            (None, _) => format!("place-{side:?}").to_lowercase(),
        };
        let buckets = BOTH.map(bucket);
        let server = match place {
            Place::Ftp => Some(Server::ftp(Secured::No)),
            Place::OldFtp => Some(Server::old_ftp()),
            Place::Azure => Some(Server::azure()),
            Place::Google => Some(Server::google(&buckets)),
            _ => None,
        };
        let world = Self { place, encryption: None, base: None, temporary, minio, server, buckets };
        for side in BOTH {
            fs::create_dir_all(world.directory(side)).expect("made");
            fs::write(world.conf(side), world.configuration(side)).expect("written");
            if place == Place::Azure {
                // The original makes the container.
                world.call(Program::Real, side, ["mkdir", "x"]).run().good();
            }
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
        match &self.server {
            Some(server) if self.place.is_ftp() => server.files().join(self.bucket(side)),
            _ => self.local(&format!("{side:?}")),
        }
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
        if let Some(server) = &self.server {
            return self.remote(server, side);
        }
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

    /// The same on a server that does not speak S3.
    fn remote(&self, server: &Server, side: Program) -> String {
        let Server { address, user, password, .. } = server;
        let endpoint = server.endpoint();
        let bucket = self.bucket(side);
        let (account, key) = ACCOUNT;
        match self.place {
            Place::Azure => format!(
                "[storage]\ntype = azureblob\naccount = {account}\nkey = {key}\n\
                 endpoint = {endpoint}/{account}\nroot = {bucket}\nno_check_container = false\n\
                 chunk_size = 50Mi\n"
            ),
            Place::Google => format!(
                "[storage]\ntype = google cloud storage\nanonymous = true\nbucket_policy_only = true\n\
                 endpoint = {endpoint}/storage/v1/\nroot = {bucket}\nno_check_bucket = true\n"
            ),
            _ => format!(
                "[storage]\ntype = ftp\nhost = 127.0.0.1\nport = {}\nuser = {user}\n\
                 pass.need_obscure = {password}\ntls = false\nroot = {bucket}\n",
                address.port()
            ),
        }
    }

    /// A command line of a program on the place of a side, without encryption or base.
    pub(crate) fn bare(&self, program: Program, side: Program, arguments: &[&str]) -> Call {
        let conf = self.conf(side);
        let conf = ["-c", conf.to_str().expect("temporary paths are text")];
        program.call(conf.iter().chain(arguments)).within(self.temporary.path())
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
        for side in BOTH {
            let pulled = self.local(&format!("{side:?}-pulled")).display().to_string();
            text = text.replace(&pulled, "PULLED");
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
