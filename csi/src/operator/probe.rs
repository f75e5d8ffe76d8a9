//! `strongroom-csi pre-check`: what the pre-check's Job runs. It uses the store as a workload would, and says in the
//! container's last words which of endpoint, TLS, clock, credentials, bucket, region and permissions is wrong.

use super::objects::HOPELESS;
use super::precheck::{LastWords, What};
use bytes::Bytes;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom::config::datasafed::{self, Conf, Place};
use strongroom::config::system_world;
use strongroom::store::{
    Fetched, Key, ListRequest, PutWhen, S3Store, Store, StoreError, StoreErrorKind,
};
use strongroom::tool::datasafed::files;
use strongroom::volume::objects::{Files, Layout, ListFiles, ObjectsError};
use tokio_util::task::TaskTracker;

/// What is written and read.
const CONTENT: &[u8] = b"pre-check\n";
/// A store that does not answer is asked again for this long; the Job does it twice more.
const PATIENCE: Duration = Duration::from_secs(15);
/// When what was read is something else.
const OTHER: &str = "what was read is not what was written: the store damages contents, or somebody else writes to \
                     the same path";
/// Kubernetes takes 4,096 bytes of last words.
const LONGEST: usize = 3_000;

/// What is checked.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false, id = "what")]
pub struct Subject {
    /// datasafed's configuration file
    #[arg(long, value_name = "FILE", group = "what")]
    config: Option<PathBuf>,
    /// A directory of the mounted volume
    #[arg(long, value_name = "DIR", group = "what")]
    directory: Option<PathBuf>,
}

/// The flags.
#[derive(Debug, clap::Args)]
pub struct PreCheck {
    #[command(flatten)]
    subject: Subject,
    /// The name of the object or file that is written, read and removed
    #[arg(long, default_value = "precheck.txt")]
    path: String,
    /// Where the reason of a failure is written
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    termination_log: PathBuf,
}

/// What is wrong, and whether it may pass by itself.
struct Trouble {
    words: LastWords,
    may_pass: bool,
}

impl Trouble {
    fn new(what: What, message: impl Into<String>) -> Self {
        Self { words: LastWords { what, message: message.into() }, may_pass: false }
    }

    fn of_store(error: &StoreError) -> Self {
        let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let what = what(error.kind, &text);
        let message = WORDS.iter().fold(text, |text, (usual, here)| text.replace(usual, here));
        Self { words: LastWords { what, message }, may_pass: error.is_transient() }
    }
}

/// What the store's errors call by the names of other settings is the repository's Secret and configuration here.
const WORDS: [(&str, &str); 7] = [
    (
        "storage.account and storage.key (or storage.sas_url)",
        "accountName and accountKey in the repository's Secret",
    ),
    ("storage.user and storage.pass", "ftpUser and ftpPassword in the repository's Secret"),
    ("AWS_ACCESS_KEY_ID or the profile", "accessKeyId in the repository's Secret"),
    ("AWS_SECRET_ACCESS_KEY or the profile", "secretAccessKey in the repository's Secret"),
    ("give it with --region", "set config.region"),
    (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a --profile",
        "set accessKeyId and secretAccessKey in the repository's Secret",
    ),
    ("give the authority's certificate with --ca-cert FILE or AWS_CA_BUNDLE", "use one that is"),
];

/// Which thing an error of the store speaks of. The store's codes tell what its kinds do not.
fn what(kind: StoreErrorKind, text: &str) -> What {
    use StoreErrorKind as Kind;
    let says = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
    let region = [
        "AuthorizationHeaderMalformed",
        "the region is another",
        "LocationConstraint",
        "PermanentRedirect",
    ];
    match kind {
        Kind::Tls => What::Tls,
        Kind::ClockSkew => What::Clock,
        Kind::Unreachable | Kind::Unavailable => What::Endpoint,
        Kind::NoBucket => What::Bucket,
        Kind::Denied | Kind::Invalid | Kind::Other if says(&region) => What::Region,
        Kind::Denied if says(&["AccessDenied", "allow it in"]) => What::Permissions,
        Kind::Denied => What::Credentials,
        Kind::ReadOnly => What::Permissions,
        Kind::Full => What::Space,
        Kind::NotFound | Kind::PreconditionFailed | Kind::Invalid | Kind::Corrupt | Kind::Other => {
            What::Store
        }
    }
}

impl PreCheck {
    /// Checks, and says in the exit code whether another attempt makes sense.
    pub async fn run(self) -> ExitCode {
        let result = match (&self.subject.config, &self.subject.directory) {
            (Some(file), _) => tool(file, &self.path).await,
            (None, Some(directory)) => mounted(directory, &self.path),
            // One of them is given: clap saw to it.
            (None, None) => Ok(()),
        };
        let Err(Trouble { mut words, may_pass }) = result else {
            tracing::info!("the store was written, read and deleted from");
            return ExitCode::SUCCESS;
        };
        words.message.truncate(super::names::floor(&words.message, LONGEST));
        tracing::error!("{}: {}", words.what.as_str(), words.message);
        let text = serde_json::to_vec(&words).unwrap_or_default();
        if let Err(error) = fs::write(&self.termination_log, text) {
            tracing::warn!("write {}: {error}", self.termination_log.display());
        }
        match may_pass {
            true => ExitCode::FAILURE,
            false => ExitCode::from(u8::try_from(HOPELESS).unwrap_or(1)),
        }
    }
}

async fn tool(file: &Path, path: &str) -> Result<(), Trouble> {
    let settings = |error: &dyn std::fmt::Display| Trouble::new(What::Settings, error.to_string());
    let conf = Conf::load(file).map_err(|error| settings(&error))?;
    datasafed::encryption(&conf).map_err(|error| settings(&error))?;
    match datasafed::place(&conf).map_err(|error| settings(&error))? {
        Place::Directory { root, .. } => mounted(&root, path),
        place @ (Place::Azure { .. } | Place::Google { .. } | Place::Ftp { .. }) => {
            let root = root(&place);
            let afterwards = TaskTracker::new();
            let opened = files(place, None, &afterwards).await;
            let opened = opened.map_err(|error| Trouble::of_store(&error))?;
            match others(opened, path).await {
                Ok(content) if content == CONTENT => Ok(()),
                Ok(_) => Err(Trouble::new(What::Store, OTHER)),
                Err(ObjectsError::Store(error)) => Err(Trouble::of_store(&error)),
                Err(ObjectsError::NoDirectory) => {
                    Err(Trouble::new(What::Bucket, format!("{root} is not there: make it")))
                }
                Err(error) => Err(Trouble::new(What::Store, error.to_string())),
            }
        }
        Place::Bucket { config, prefix } => {
            let store = S3Store::connect(*config).await;
            let store = store.map_err(|error| Trouble::of_store(&error))?;
            let begun = Instant::now();
            loop {
                match bucket(&store, &prefix, path).await {
                    Err(error) if error.is_transient() && begun.elapsed() < PATIENCE => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    Err(error) => return Err(Trouble::of_store(&error)),
                    Ok(content) if content == CONTENT => return Ok(()),
                    Ok(_) => return Err(Trouble::new(What::Store, OTHER)),
                }
            }
        }
    }
}

/// What a place that is missing is called.
fn root(place: &Place) -> String {
    match place {
        Place::Azure { config, .. } => format!("container {}", config.container),
        Place::Google { config, .. } => format!("bucket {}", config.bucket),
        Place::Ftp { root, .. } => format!("directory {root:?}"),
        Place::Bucket { .. } | Place::Directory { .. } => String::new(),
    }
}

/// Lists, writes, reads and removes, by way of datasafed's own code: it tries again by itself.
async fn others(files: Arc<dyn Files>, path: &str) -> Result<Vec<u8>, ObjectsError> {
    let is_server = files.has_directories();
    let layout = Layout::new(files, None, system_world().entropy);
    let path = path.trim_start_matches('/');
    // Its errors tell more than those of a write. A directory of a server is made by the first write.
    let above = path.rsplit_once('/').map_or("", |(above, _)| above);
    let listing = ListFiles { depth: Some(1), told_times: false };
    match layout.list(above, listing, &mut |_| Ok(())).await {
        Err(ObjectsError::NoDirectory) if is_server => {}
        listed => listed?,
    }
    let now = system_world().clock.now();
    let length = Some(CONTENT.len() as u64);
    layout.write(path, now, length, |out| out.write_all(CONTENT)).await?;
    let (out, mut pieces) = tokio::sync::mpsc::channel(1);
    let read = layout.read(path, out);
    let collect = async {
        let mut content = Vec::new();
        while let Some(pieces) = pieces.recv().await {
            pieces.iter().for_each(|piece| content.extend_from_slice(piece));
        }
        content
    };
    let (read, content) = futures::join!(read, collect);
    let removed = layout.remove(path).await;
    read?;
    removed?;
    Ok(content)
}

/// Lists, writes, reads and removes.
async fn bucket(store: &S3Store, prefix: &str, path: &str) -> Result<Bytes, StoreError> {
    let whole = match prefix {
        "" => path.to_owned(),
        prefix => format!("{prefix}/{path}"),
    };
    let above = whole.rsplit_once('/').map_or(String::new(), |(above, _)| format!("{above}/"));
    let request = ListRequest { prefix: above, limit: 1, ..ListRequest::default() };
    // Its errors tell more than those of a write.
    store.list(&request).await?;
    let key =
        Key::new(whole).ok_or_else(|| StoreError::new(StoreErrorKind::Invalid, "put", path))?;
    store.put(&key, Bytes::from_static(CONTENT), PutWhen::Always).await?;
    let object = store.get(&key, None, None).await;
    let deleted = store.delete(&key, None).await;
    let content = match object? {
        Fetched::Object(object) => object.body.bytes(),
        // Nothing was said of what is known already.
        Fetched::Unchanged => Bytes::new(),
    };
    deleted?;
    Ok(content)
}

fn mounted(directory: &Path, path: &str) -> Result<(), Trouble> {
    let file = directory.join(path.trim_start_matches('/'));
    let failed = |verb: &str, error: std::io::Error| {
        let what = match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => What::Permissions,
            Some(libc::ENOSPC | libc::EDQUOT) => What::Space,
            _ => What::Volume,
        };
        let mut trouble = Trouble::new(what, format!("{verb} {}: {error}", file.display()));
        trouble.may_pass = true;
        trouble
    };
    if let Some(above) = file.parent() {
        fs::create_dir_all(above).map_err(|error| failed("make the directory of", error))?;
    }
    let written = fs::File::create(&file).and_then(|mut file| {
        file.write_all(CONTENT)?;
        file.sync_all()
    });
    written.map_err(|error| failed("write", error))?;
    let content = fs::read(&file).map_err(|error| failed("read", error))?;
    fs::remove_file(&file).map_err(|error| failed("remove", error))?;
    match content == CONTENT {
        true => Ok(()),
        false => Err(Trouble::new(What::Volume, "what was read is not what was written")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_store_names_the_thing_that_is_wrong() {
        use StoreErrorKind as Kind;
        for (kind, text, expected) in [
            (Kind::Unreachable, "endpoint cannot be reached", What::Endpoint),
            (Kind::Unavailable, "store does not answer", What::Endpoint),
            (Kind::Tls, "certificate of another name", What::Tls),
            (Kind::ClockSkew, "RequestTimeTooSkewed", What::Clock),
            (Kind::Denied, "InvalidAccessKeyId", What::Credentials),
            (
                Kind::Denied,
                "SignatureDoesNotMatch: (and the region, if the store checks it)",
                What::Credentials,
            ),
            (Kind::Denied, "put b/x: access denied: AccessDenied", What::Permissions),
            (Kind::NoBucket, "NoSuchBucket", What::Bucket),
            (Kind::Denied, "AuthorizationHeaderMalformed: the region is another one", What::Region),
            (Kind::Full, "quota", What::Space),
            (Kind::Corrupt, "short body", What::Store),
        ] {
            assert_eq!(what(kind, text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn other_stores_are_written_read_and_left_as_they_were() {
        let folder = tempfile::tempdir().expect("a folder");
        let entropy = system_world().entropy;
        let files = |root: PathBuf| {
            let files =
                strongroom::volume::objects::DirectoryFiles::new(root, true, entropy.clone());
            Arc::new(files) as Arc<dyn Files>
        };
        let content = others(files(folder.path().to_owned()), "/above/precheck.txt").await;
        assert_eq!(content.expect("read"), CONTENT);
        assert_eq!(fs::read_dir(folder.path().join("above")).expect("readable").count(), 0);
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(others(files(file), "precheck.txt").await.is_err());
    }

    #[test]
    fn a_directory_is_written_read_and_left_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(mounted(folder.path(), "precheck.txt").is_ok());
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0);
        let missing = folder.path().join("file");
        fs::write(&missing, "").expect("written");
        let trouble = mounted(&missing, "precheck.txt").expect_err("no directory");
        assert_eq!(trouble.words.what, What::Volume);
    }
}
