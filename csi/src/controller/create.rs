//! CreateVolume. The crash story is [`crate::record`]'s.
//!
//! A volume at a fixed place (`subDir`) is not its claim's alone: another claim, now or later, gets the same content, and
//! so does whoever reaches the bucket otherwise. So what is there already is taken as it is, if it is of this layout and
//! opens with this passphrase, and DeleteVolume leaves it.

use super::ControllerService;
use crate::api::csi::{CreateVolumeRequest, CreateVolumeResponse, Volume as Told};
use crate::place;
use crate::record::{Found, Record, State};
use crate::request;
use crate::status;
use crate::volume::{
    Encryption, Handle, ID_LIMIT, Layout, Parameters, SUB_DIR, Secrets, record_key,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use strongroom::config::{host_name, system_world};
use strongroom::crypto::datasafed::StreamKey;
use strongroom::crypto::{Kdf, NewSlot, Suite};
use strongroom::store::{Headers, Key, ListRequest, Store, StoreError, StoreErrorKind, list_all};
use strongroom::volume::native::record::Attributes;
use strongroom::volume::native::{InitSettings, OpenSettings, Volume, keys};
use strongroom::volume::objects::ObjectsError;
use strongroom::volume::objects::bucket::KEY_CHECK;
use tonic::Status;

/// What a call asks for, parsed.
struct Wish {
    name: String,
    least: i64,
    most: Option<i64>,
    parameters: HashMap<String, String>,
    mutable: HashMap<String, String>,
    layout: Layout,
    encryption: Encryption,
    handle: Handle,
    /// Others have this place too.
    is_shared: bool,
    secrets: Secrets,
}

impl ControllerService {
    pub(super) async fn create(
        &self,
        request: CreateVolumeRequest,
    ) -> Result<CreateVolumeResponse, Status> {
        let wish = self.wish(request)?;
        let _turn = self.busy.begin(&wish.handle.to_string())?;
        let store = self.bucket(&wish.handle, &wish.secrets).await?;
        let key = wish.handle.record_key().ok_or_else(|| Status::internal("no place"))?;
        let found = match Record::load(&*store, &key).await? {
            Some(found) => {
                wish.check_same(&found.record)?;
                match found.record.state {
                    State::Ready => return Ok(told(&wish, &found)),
                    State::Creating => found,
                    State::Deleting => {
                        return Err(Status::aborted(format!(
                            "volume {}: its former content is still being deleted: try again",
                            wish.handle
                        )));
                    }
                }
            }
            None => {
                let volume = place::volume(&store, &wish.handle);
                check_outside(&*store, &wish.handle).await?;
                match (wish.is_shared, wish.layout) {
                    (true, Layout::Objects) => check_files(&*volume).await?,
                    (true, Layout::Native) if has_volume(&*volume).await? => {}
                    _ => check_empty(&*volume).await?,
                }
                wish.record().create(&*store, &key).await?
            }
        };
        match wish.layout {
            Layout::Native => wish.initialise(&place::volume(&store, &wish.handle)).await?,
            Layout::Objects => wish.mark(&self.settings.defaults).await?,
        }
        let found = found.change(&*store, &key, |record| record.state = State::Ready).await?;
        Ok(told(&wish, &found))
    }

    fn wish(&self, request: CreateVolumeRequest) -> Result<Wish, Status> {
        let CreateVolumeRequest {
            name,
            capacity_range,
            volume_capabilities,
            parameters: given,
            secrets,
            volume_content_source,
            // Object storage is reached from everywhere alike.
            accessibility_requirements: _,
            mutable_parameters: mutable,
        } = request;
        if name.is_empty() {
            return Err(Status::invalid_argument("name: is missing"));
        }
        if name.len() > ID_LIMIT {
            return Err(Status::invalid_argument(format!("name: is longer than {ID_LIMIT} bytes")));
        }
        if volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_capabilities: none are given"));
        }
        let invalid = |why: String| Status::invalid_argument(why);
        let mut parameters = Parameters::parse(&given, self.settings.dialect).map_err(invalid)?;
        for capability in &volume_capabilities {
            let wanted = request::capability(Some(capability))?;
            parameters.options.add_flags(&wanted.flags).map_err(invalid)?;
        }
        parameters.options.add_mutable(&mutable).map_err(invalid)?;
        parameters.check_options().map_err(invalid)?;
        if volume_content_source.is_some() {
            return Err(Status::invalid_argument(
                "volume_content_source: volumes begin empty: clones and snapshots are not offered",
            ));
        }
        let (least, most) = request::capacity(capacity_range.as_ref())?;
        let bucket = parameters.bucket.as_deref().ok_or_else(|| {
            invalid(
                "parameter `bucket`: is missing: name an existing bucket in the StorageClass"
                    .to_owned(),
            )
        })?;
        let place = parameters.fixed_place(&given).map_err(invalid)?;
        let (prefix, reach) = (&parameters.prefix, parameters.reach.clone());
        let handle = match &place {
            Some(place) => Handle::at_place(bucket, prefix, place, reach),
            None => Handle::of_new(bucket, prefix, &name, reach),
        };
        let handle =
            handle.map_err(|why| invalid(format!("parameters `bucket`, `prefix`: {why}")))?;
        let is_shared = place.is_some();
        let secrets = self.secrets(secrets)?;
        if parameters.encryption != Encryption::None {
            // Said before anything is written.
            drop(secrets.passphrase()?);
        }
        let Parameters { layout, encryption, .. } = parameters;
        let parameters = given;
        Ok(Wish {
            name,
            least,
            most,
            parameters,
            mutable,
            layout,
            encryption,
            handle,
            is_shared,
            secrets,
        })
    }
}

impl Wish {
    fn record(&self) -> Record {
        let mutable = self.mutable.iter().map(|(key, value)| (key.clone(), value.clone()));
        Record::new(
            self.handle.to_string(),
            self.name.clone(),
            // Without a wish a volume has no size; with a limit alone, that is one.
            if self.least > 0 { self.least } else { self.most.unwrap_or(0) },
            self.kept_parameters(),
            mutable.collect(),
        )
    }

    /// The parameters as they are kept and compared: without what Kubernetes adds to tell whose volume it is.
    fn kept_parameters(&self) -> BTreeMap<String, String> {
        let own = |key: &str| !key.contains('/');
        self.parameters
            .iter()
            .filter(|(key, value)| own(key) && !value.is_empty())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// The same name must mean the same volume.
    fn check_same(&self, known: &Record) -> Result<(), Status> {
        let other = |what: String| {
            Status::already_exists(format!("volume {}: exists already, {what}", self.handle))
        };
        if self.is_shared {
            // What it is must be the same; how it is mounted, and for how much, is each claim's own.
            let mine = self.kept_parameters();
            let differs = |key: &&str| known.parameters.get(*key) != mine.get(*key);
            return match ["layout", "encryption"].into_iter().find(differs) {
                None => Ok(()),
                Some(key) => Err(other(format!("with another `{key}`"))),
            };
        }
        if known.parameters.contains_key(SUB_DIR) {
            return Err(other("at a fixed place that others have".to_owned()));
        }
        if known.name != self.name {
            return Err(other(format!("under the name {:?}", known.name)));
        }
        if known.parameters != self.kept_parameters() {
            return Err(other("with other parameters".to_owned()));
        }
        let fits =
            known.capacity >= self.least && self.most.is_none_or(|most| known.capacity <= most);
        match fits {
            true => Ok(()),
            false => Err(other(format!("with {} bytes", known.capacity))),
        }
    }

    /// Makes a volume of files: an empty directory. With encryption it says by which passphrase, as far as that can be
    /// told without one: files themselves tell nobody that another one was used.
    async fn mark(&self, defaults: &place::Defaults) -> Result<(), Status> {
        let world = system_world();
        let key = match self.encryption {
            Encryption::None => None,
            encryption => {
                let key = StreamKey::derive(&self.secrets.passphrase()?, encryption.suite());
                Some(Arc::new(key.map_err(|error| Status::unauthenticated(error.to_string()))?))
            }
        };
        let tree = place::files(&self.handle, &self.secrets, defaults, key.clone()).await;
        let tree = tree.map_err(|error| status::of_store(&error))?;
        let failed = |error| match error {
            ObjectsError::Store(error) => status::of_store(&error),
            other => Status::internal(format!("volume {}: {other}", self.handle)),
        };
        match tree.mark("").await.map_err(failed)? {
            Some(mark) if tree.is_of_another_key(&mark) => {
                return Err(Status::unauthenticated(format!(
                    "volume {}: the passphrase, or the algorithm, is not the one by which its files are encrypted",
                    self.handle
                )));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let check = key.map(|key| (KEY_CHECK.to_owned(), key.check(&world.entropy.bytes())));
        let headers = Headers { metadata: check.into_iter().collect(), ..Headers::default() };
        let marked = tree.put_mark("", &headers).await;
        marked.map(drop).map_err(failed)
    }

    /// Makes the volume, or proves that it is there and opens with this passphrase.
    async fn initialise(&self, store: &Arc<dyn Store>) -> Result<(), Status> {
        let suite = self.encryption.suite();
        let passphrase = match suite {
            Suite::None => None,
            _ => Some(self.secrets.passphrase()?),
        };
        let world = system_world();
        match store.head(&keys::descriptor()).await {
            Ok(_) => {
                let settings = OpenSettings {
                    read_only: true,
                    cache_bytes: 0,
                    host: host_name(),
                    program: "strongroom-csi".to_owned(),
                    collects: false,
                };
                let volume = Volume::open(store.clone(), world, passphrase.as_ref(), settings)
                    .await
                    .map_err(|error| status::of_volume(&error))?;
                return match volume.suite() == suite {
                    true => Ok(()),
                    false => Err(Status::already_exists(format!(
                        "volume {}: exists already, with encryption {}",
                        self.handle,
                        volume.suite()
                    ))),
                };
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) => return Err(status::of_store(&error)),
        }
        remove_probes(&**store).await.map_err(|error| status::of_store(&error))?;
        let slot = passphrase.as_ref().map(|passphrase| NewSlot {
            label: "csi",
            passphrase,
            kdf: Kdf::default(),
        });
        let now = world.clock.now();
        let root = Attributes {
            mode: 0o755,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            ..Attributes::default()
        };
        Volume::init(store, &world, InitSettings { suite, slot, root })
            .await
            .map_err(|error| status::of_volume(&error))
    }
}

/// A volume is never made inside another one: it would be deleted with that. Where these keys may not look, DeleteVolume
/// of the outer one still finds it.
async fn check_outside(bucket: &dyn Store, handle: &Handle) -> Result<(), Status> {
    let prefix = handle.prefix();
    let above = prefix.trim_end_matches('/').match_indices('/').map(|(at, _)| &prefix[..=at]);
    // The bucket itself may be one, unless the whole of it is asked for.
    for outer in Some("").filter(|_| !prefix.is_empty()).into_iter().chain(above) {
        // A volume of files has no descriptor: its record tells of it.
        let record = match outer.trim_end_matches('/').rsplit_once('/') {
            Some((parent, name)) => Some(record_key(parent, name)),
            None if outer.is_empty() => None,
            None => Some(record_key("", outer.trim_end_matches('/'))),
        };
        for key in [Some(format!("{outer}{}", keys::DESCRIPTOR)), record].into_iter().flatten() {
            let key = Key::new(key).ok_or_else(|| {
                Status::invalid_argument(format!("volume {handle}: its prefix is too long"))
            })?;
            match bucket.head(&key).await {
                Ok(_) => {
                    return Err(Status::failed_precondition(format!(
                        "volume {handle}: lies inside the volume at {}/{outer}: choose a prefix outside of it",
                        handle.bucket()
                    )));
                }
                Err(error) if error.kind == StoreErrorKind::NotFound => {}
                // Keys may reach no further than the prefix that volumes are made in.
                Err(error) if error.kind == StoreErrorKind::Denied => {
                    tracing::debug!(volume = %handle, "not known whether {key} is there: {error}");
                }
                Err(error) => return Err(status::of_store(&error)),
            }
        }
    }
    Ok(())
}

/// Whether a volume of the native layout is there.
async fn has_volume(store: &dyn Store) -> Result<bool, Status> {
    match store.head(&keys::descriptor()).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
        Err(error) => Err(status::of_store(&error)),
    }
}

/// Files of others are no hindrance to files, but a volume is none.
async fn check_files(store: &dyn Store) -> Result<(), Status> {
    match has_volume(store).await? {
        false => Ok(()),
        true => Err(Status::failed_precondition(format!(
            "{}: here is a volume of the native layout, whose objects are no files: choose another place, or leave \
             `layout: objects` away",
            store.describe()
        ))),
    }
}

/// A volume is never made where somebody else's objects are: it would be deleted with them.
async fn check_empty(store: &dyn Store) -> Result<(), Status> {
    let request = ListRequest { limit: 1, ..ListRequest::default() };
    let page = store.list(&request).await.map_err(|error| status::of_store(&error))?;
    match page.objects.first() {
        None => Ok(()),
        Some(object) => Err(Status::failed_precondition(format!(
            "{}: is not empty ({} is there), and no volume of this driver: choose another prefix",
            store.describe(),
            object.key
        ))),
    }
}

/// What an init that was cut short may have left, which the next one would take for somebody else's.
async fn remove_probes(store: &dyn Store) -> Result<(), StoreError> {
    let request = ListRequest { prefix: "p/".to_owned(), ..ListRequest::default() };
    let (objects, _) = list_all(store, request).await?;
    let keys: Vec<Key> = objects.into_iter().map(|object| object.key).collect();
    for chunk in keys.chunks(1000) {
        if let Some((_, error)) = store.delete_many(chunk).await?.into_iter().next() {
            return Err(error);
        }
    }
    Ok(())
}

fn told(wish: &Wish, found: &Found) -> CreateVolumeResponse {
    let (capacity_bytes, volume_context) = match wish.is_shared {
        false => (found.record.capacity, context(&found.record)),
        true => {
            let own = wish.record();
            (own.capacity, context(&own))
        }
    };
    CreateVolumeResponse {
        volume: Some(Told {
            capacity_bytes,
            volume_id: wish.handle.to_string(),
            volume_context,
            content_source: None,
            accessible_topology: Vec::new(),
        }),
    }
}

/// What the node is told of a volume besides its id.
pub(super) fn context(record: &Record) -> HashMap<String, String> {
    let given: HashMap<String, String> =
        record.parameters.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    Parameters::attributes(&given)
}
