//! CreateVolume. The crash story is [`crate::record`]'s.

use super::ControllerService;
use crate::api::csi::{CreateVolumeRequest, CreateVolumeResponse, Volume as Told};
use crate::place;
use crate::record::{Found, Record, State};
use crate::request;
use crate::status;
use crate::volume::{Encryption, Handle, ID_LIMIT, Parameters, Secrets};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use strongroom::config::{host_name, system_world};
use strongroom::crypto::{Kdf, NewSlot, Suite};
use strongroom::store::{Key, ListRequest, Store, StoreError, StoreErrorKind, list_all};
use strongroom::volume::native::record::Attributes;
use strongroom::volume::native::{InitSettings, OpenSettings, Volume, keys};
use tonic::Status;

/// What a call asks for, parsed.
struct Wish {
    name: String,
    least: i64,
    most: Option<i64>,
    parameters: HashMap<String, String>,
    mutable: HashMap<String, String>,
    encryption: Encryption,
    handle: Handle,
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
                check_empty(&*volume).await?;
                wish.record().create(&*store, &key).await?
            }
        };
        wish.initialise(&place::volume(&store, &wish.handle)).await?;
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
        let handle = Handle::of_new(bucket, &parameters.prefix, &name, parameters.reach.clone())
            .map_err(|why| invalid(format!("parameters `bucket`, `prefix`: {why}")))?;
        let secrets = self.secrets(secrets)?;
        if parameters.encryption != Encryption::None {
            // Said before anything is written.
            drop(secrets.passphrase()?);
        }
        let encryption = parameters.encryption;
        Ok(Wish { name, least, most, parameters: given, mutable, encryption, handle, secrets })
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
        let key = Key::new(format!("{outer}{}", keys::DESCRIPTOR)).ok_or_else(|| {
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
    Ok(())
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
    CreateVolumeResponse {
        volume: Some(Told {
            capacity_bytes: found.record.capacity,
            volume_id: wish.handle.to_string(),
            volume_context: context(&found.record),
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
