//! The storage that the settings name, with the paths of the command line.

use super::paths;
use crate::config::datasafed::{Conf, Place};
use crate::config::{self, datasafed as settings};
use crate::store::{
    BoundedFiles, Ftp, Limit, Rate, Remote, Retry, RetryFiles, RetryPolicy, S3Store, StoreError,
    StoreErrorKind,
};
use crate::tool::output::Failure;
use crate::volume::objects::{
    BucketFiles, DirectoryFiles, Entry, Files, FtpFiles, Layout, LimitedFiles, ListFiles, Modified,
    ObjectsError, RemoteFiles, Requests,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

pub(super) use crate::volume::objects::error::reason;

/// How long a request is tried again before the first one was answered, and where nothing is lost.
const SOON: Duration = Duration::from_secs(30);
/// Requests under way at once unless told otherwise: more than any command has.
const MANY: usize = 1024;
/// How long in the middle of a transfer.
const PATIENT: Duration = Duration::from_secs(15 * 60);

/// A storage, opened.
pub(super) struct Storage {
    pub(super) conf: Conf,
    pub(super) layout: Layout,
    /// What is still to be done after a command was broken off.
    pub(super) afterwards: TaskTracker,
    base: String,
    /// Requests under way at once, where that is bounded.
    pub(super) at_once: Option<usize>,
    /// Where it is, if it is a local directory.
    pub(super) local: Option<PathBuf>,
}

/// Whether an entry is what was named, or in the directory that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Itself,
    Around,
}

/// A path of the command line: below the base, and whether it ended in `/`.
pub(super) struct Target {
    pub(super) path: String,
    pub(super) is_directory: bool,
}

impl Storage {
    /// By the configuration file and the environment. Sends no request.
    pub(super) async fn open(file: &Path) -> Result<Self, Failure> {
        let conf = Conf::load(file)?;
        settings::refuse_kopia()?;
        let afterwards = TaskTracker::new();
        let world = config::system_world();
        let (rate, at_once) = (settings::rate_limit()?, settings::concurrency()?);
        let place = settings::place(&conf)?;
        let local = match &place {
            Place::Directory { root, .. } => Some(root.clone()),
            _ => None,
        };
        let files = files(place, at_once, &afterwards).await;
        let mut files = files.map_err(|error| failure(error.into()))?;
        if let Some(rate) = rate {
            files = Arc::new(LimitedFiles::new(files, Arc::new(Rate::new(rate))));
        }
        let base = paths::base(&settings::base_path())?;
        let key = settings::encryption(&conf)?.map(Arc::new);
        let layout = Layout::new(files, key, world.entropy);
        let layout = layout.with_scratch(config::temporary_directory());
        Ok(Self { conf, layout, afterwards, base, at_once, local })
    }

    /// Where a path of the command line is.
    pub(super) fn target(&self, path: &str) -> Result<Target, Failure> {
        Ok(Target { path: paths::relocate(&self.base, path)?, is_directory: path.ends_with('/') })
    }

    /// The path of a file: not one that ends in `/`.
    pub(super) fn file(&self, path: &str) -> Result<String, Failure> {
        if path.ends_with('/') {
            let shown = super::go::quoted(path);
            return Err(Failure::new(format!("rpath {shown} ends with '/'")));
        }
        let target = self.target(path)?.path;
        if target == self.base && self.layout.is_encrypted() {
            let shown = super::go::quoted(path);
            return Err(Failure::new(format!("invalid rpath {shown}: it names no file")));
        }
        Ok(target)
    }

    /// Tells the file at a path, or else what is in the directory there, with paths as the caller sees
    /// them.
    pub(super) async fn tell(
        &self,
        target: &Target,
        request: ListFiles,
        emit: &mut (dyn FnMut(Entry, Named) + Send),
    ) -> Result<(), ObjectsError> {
        let mut told = |mut entry: Entry, named| {
            entry.path = paths::shown(&self.base, &entry.path).to_owned();
            emit(entry, named);
        };
        if !target.is_directory && !target.path.is_empty() {
            match self.layout.find(&target.path).await {
                Ok(entry) => {
                    told(entry, Named::Itself);
                    return Ok(());
                }
                // The listing tells what is wrong, or what is there after all.
                Err(
                    ObjectsError::NotFound
                    | ObjectsError::IsDirectory
                    | ObjectsError::Local { .. }
                    | ObjectsError::Invalid(_),
                ) => {}
                Err(error @ ObjectsError::Store(_)) if is_of_place(&error) => return Err(error),
                Err(ObjectsError::Store(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut emit = |entry| {
            told(entry, Named::Around);
            Ok(())
        };
        self.layout.list(&target.path, request, &mut emit).await
    }
}

/// The files of a place; `at_once` bounds the requests that are under way, of FTP the sessions; it says nothing of
/// directories. Sends no request. What is still
/// to be done after a transfer was broken off is tracked by `afterwards`.
pub async fn files(
    place: Place,
    at_once: Option<usize>,
    afterwards: &TaskTracker,
) -> Result<Arc<dyn Files>, StoreError> {
    let world = config::system_world();
    let (entropy, afterwards) = (&world.entropy, afterwards.clone());
    Ok(match place {
        Place::Directory { root, follow_links } => {
            Arc::new(DirectoryFiles::new(root, follow_links, entropy.clone()))
        }
        Place::Azure { config, prefix } => {
            let remote = Remote::azure(*config, entropy.clone())?.limited(at_once);
            let files = RemoteFiles::new(remote, &prefix, afterwards);
            // As the original tells them: of no size, and as old as those of which it knows no time.
            Arc::new(files.with_directories_of(Modified::Stored(super::list::NO_TIME)))
        }
        Place::Google { config, prefix } => {
            let remote = Remote::google(*config, entropy.clone())?.limited(at_once);
            Arc::new(RemoteFiles::new(remote, &prefix, afterwards))
        }
        Place::Ftp { mut config, root } => {
            let at_once = at_once.and_then(|number| u32::try_from(number).ok());
            // Where neither says anything there is a limit of its own.
            let sessions = [at_once, Some(config.sessions).filter(|number| *number > 0)];
            config.sessions = sessions.into_iter().flatten().min().unwrap_or(0);
            let server = Ftp::new(*config, entropy.clone())?;
            Arc::new(FtpFiles::new(server, &root, entropy.clone(), afterwards))
        }
        Place::Bucket { config, prefix } => {
            let s3 = Arc::new(S3Store::connect(*config).await?);
            let soon = RetryPolicy::within(SOON);
            let patient = RetryPolicy::within(PATIENT);
            let files = Arc::new(RetryFiles::new(s3.clone(), soon, patient, entropy.clone()));
            // As many turns as there may be requests, for all of these together.
            let limit = Arc::new(Limit::new(s3, at_once.unwrap_or(MANY)));
            let requests = Requests {
                store: Arc::new(Retry::new(limit.clone(), soon, entropy.clone())),
                patient: Arc::new(Retry::new(limit.clone(), patient, entropy.clone())),
                files: Arc::new(BoundedFiles::new(files, limit, None)),
                afterwards,
            };
            Arc::new(BucketFiles::new(requests, &prefix))
        }
    })
}

/// Whether another request would fail of the same.
fn is_of_place(error: &ObjectsError) -> bool {
    use StoreErrorKind as Kind;
    let ObjectsError::Store(error) = error else { return false };
    matches!(error.kind, Kind::Unreachable | Kind::Unavailable | Kind::Tls | Kind::ClockSkew)
}

/// An error in the words of this command line: what the store's errors call by the names of other settings
/// is set in the configuration file here.
pub(super) fn failure(error: ObjectsError) -> Failure {
    const WORDS: [(&str, &str); 6] = [
        ("AWS_ACCESS_KEY_ID or the profile", "storage.access_key_id"),
        ("AWS_SECRET_ACCESS_KEY or the profile", "storage.secret_access_key"),
        ("give it with --region", "set storage.region"),
        ("--ca-cert FILE or AWS_CA_BUNDLE", "AWS_CA_BUNDLE"),
        ("--client-cert FILE and --client-key FILE, or ", ""),
        (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a --profile",
            "set storage.access_key_id and storage.secret_access_key",
        ),
    ];
    let mut text = error.to_string();
    for (usual, here) in WORDS {
        text = text.replace(usual, here);
    }
    Failure::new(text)
}
