//! NodeStageVolume and NodeUnstageVolume.
//!
//! # Crash story
//! Staging: the keeper mounts, then remembers what the worker needs, then the worker starts and proves bucket,
//! keys and passphrase. Cut short anywhere, the volume is in the keeper's list: the next call, or the node
//! plugin's next start, goes on from there; a call that fails takes the mount away again if it was new.
//! Unstaging: everything that programs have written is stored, then the mount goes, then the worker.

use super::NodeService;
use super::state::Remembered;
use super::token::Lent;
use crate::api::csi::{
    NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnstageVolumeRequest,
    NodeUnstageVolumeResponse,
};
use crate::keeper::{Held, MountOptions};
use crate::place::{self, Defaults};
use crate::record::{Record, State};
use crate::request::{self, Use};
use crate::status;
use crate::volume::{Encryption, Handle, Keys, Layout, Options, Parameters, Reach, Secrets};
use data_encoding::HEXLOWER;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strongroom::store::Tls;
use strongroom::tool::attach::protocol::Settings as WorkerSettings;
use tonic::Status;

/// kubelet waits two minutes for an answer.
const DRAINING: Duration = Duration::from_secs(100);

/// What a call asks for, parsed.
pub(super) struct Wish {
    pub(super) id: String,
    handle: Handle,
    path: PathBuf,
    usage: Use,
    pub(super) parameters: Parameters,
    context: BTreeMap<String, String>,
    pub(super) secrets: Secrets,
}

impl NodeService {
    pub(super) async fn stage(
        &self,
        request: NodeStageVolumeRequest,
    ) -> Result<NodeStageVolumeResponse, Status> {
        let wish = self.wish(request)?;
        let _turn = self.busy.begin(&wish.id)?;
        let held = self.held(&wish.id).await?;
        if let Some(held) = held.as_ref().filter(|held| held.mounted) {
            wish.check_same_path(held)?;
            let known = self.recall(&wish.id).await?;
            if let Some(known) = &known {
                wish.check_same(known)?;
            }
            if wish.parameters.role.is_some() {
                return Ok(NodeStageVolumeResponse {});
            }
            if let (Some(known), Some(worker)) = (known, self.workers.get(&wish.id)) {
                self.renew(&wish.id, known, &worker, &wish.secrets).await?;
                return Ok(NodeStageVolumeResponse {});
            }
        } else if let Some(worker) = self.workers.remove(&wish.id) {
            // The keeper was restarted: the mount that this worker serves is nobody's any more.
            drop(worker);
        }
        if wish.parameters.role.is_none() {
            self.mount(&wish, held, None).await?;
        }
        // Otherwise its keys come with its pods, and the first of them has it mounted: kubelet looks at what is staged,
        // and would wait for ever for a mount that no worker has served yet.
        Ok(NodeStageVolumeResponse {})
    }

    /// Has a volume mounted where it is staged, and served. What fails leaves no new mount behind.
    pub(super) async fn mount(
        &self,
        wish: &Wish,
        held: Option<Held>,
        lent: Option<Lent>,
    ) -> Result<(), Status> {
        let mut remembered = self.prepare(wish).await?;
        remembered.lent = lent;
        let options = MountOptions {
            read_only: remembered.settings.options.contains_key("read_only"),
            selinux_context: wish.parameters.options.selinux_context.clone(),
        };
        let staged = self.keeper.stage(&wish.id, &wish.path, &options).await;
        let device = staged.map_err(|error| status::of_keeper(&error))?;
        let started = async {
            self.remember(&wish.id, &remembered).await?;
            self.start_worker(&wish.id, device, &mut remembered).await
        };
        match started.await {
            Ok(_) => Ok(()),
            Err(error) => {
                // What was there before, pods may use; what is new, nobody does.
                if held.is_none_or(|held| !held.mounted) {
                    self.workers.remove(&wish.id);
                    if let Err(error) = self.keeper.unstage(&wish.id).await {
                        tracing::warn!(volume = wish.id, "not unmounted after a failure: {error}");
                    }
                }
                Err(error)
            }
        }
    }

    /// What is to be staged, of a call that does or of one that stands for it.
    pub(super) fn wish(&self, request: NodeStageVolumeRequest) -> Result<Wish, Status> {
        let NodeStageVolumeRequest {
            volume_id,
            publish_context: _,
            staging_target_path,
            volume_capability,
            secrets,
            volume_context,
        } = request;
        request::volume_id(&volume_id)?;
        let path = request::path("staging_target_path", &staging_target_path)?;
        let usage = request::capability(volume_capability.as_ref())?;
        let handle = Handle::parse(&volume_id)
            .map_err(|why| Status::not_found(format!("volume {volume_id}: {why}")))?;
        let mut parameters = Parameters::parse(&volume_context, self.settings.dialect)
            .map_err(|why| Status::invalid_argument(format!("volume_context: {why}")))?;
        parameters
            .check_place(&handle)
            .map_err(|why| Status::invalid_argument(format!("volume_context: {why}")))?;
        parameters
            .options
            .add_flags(&usage.flags)
            .and_then(|()| parameters.check_options())
            .map_err(|why| Status::invalid_argument(format!("mount_flags: {why}")))?;
        let context = volume_context
            .into_iter()
            // Whose pod it is changes from call to call.
            .filter(|(key, _)| !key.contains('/'))
            .collect();
        let keys = if parameters.role.is_some() { Keys::Lent } else { Keys::Needed };
        let secrets = self.secrets(secrets, keys)?;
        Ok(Wish { id: volume_id, handle, path, usage, parameters, context, secrets })
    }

    /// Asks the bucket what is known of the volume, and settles how it is to be served. A volume that was
    /// made by hand has no record.
    async fn prepare(&self, wish: &Wish) -> Result<Remembered, Status> {
        let Wish { id, handle, usage, parameters, context, secrets, .. } = wish;
        let defaults = &self.settings.defaults;
        let asked = parameters.reach.or(handle.reach());
        let store = place::bucket(handle.bucket(), &asked, secrets, defaults)
            .await
            .map_err(|error| status::of_store(&error))?;
        let mut options = parameters.options.clone();
        let mut capacity = 0;
        if let Some(key) = handle.record_key()
            && let Some(found) = Record::load(&*store, &key).await?
        {
            let Record { state, mutable, .. } = &found.record;
            if *state != State::Ready {
                return Err(Status::failed_precondition(format!(
                    "volume {id}: it is still being made or deleted"
                )));
            }
            capacity = found.record.capacity;
            options
                .add_mutable(&mutable.clone().into_iter().collect())
                .map_err(Status::failed_precondition)?;
        }
        let reach = wish.reach(defaults);
        Ok(Remembered {
            settings: WorkerSettings {
                url: handle.url(),
                name: id.clone(),
                options: self.worker_options(wish, options, reach),
                steal: false,
            },
            secrets: secrets.for_worker(wish.needs_passphrase())?,
            mode: usage.mode.into(),
            context: context.clone(),
            capacity,
            lent: None,
            served: false,
        })
    }

    fn worker_options(
        &self,
        Wish { id, usage, parameters, .. }: &Wish,
        mut options: Options,
        reach: Reach,
    ) -> Map<String, Value> {
        options.read_only |= usage.is_read_only();
        let is_of_files = parameters.layout == Layout::Objects;
        let exclusive = usage.is_single_node()
            && !is_of_files
            && !options.read_only
            && !options.has("exclusive");
        let cached = options.has("cache-size");
        let mut options = options.into_settings();
        if exclusive {
            options.insert("exclusive".to_owned(), true.into());
        }
        if is_of_files {
            options.insert("layout".to_owned(), "objects".into());
            if let Encryption::With(suite) = parameters.encryption {
                options.insert("encryption".to_owned(), suite.name().into());
            }
            let scratch = self.settings.scratch.as_deref().map(shown);
            options.extend(scratch.map(|directory| ("scratch_dir".to_owned(), directory.into())));
        }
        if let Some(cache) = self.settings.cache.as_ref().filter(|_| cached) {
            let directory = cache.join(HEXLOWER.encode(&Sha256::digest(id)[..16]));
            options.insert("cache_dir".to_owned(), shown(&directory).into());
        }
        let Tls { authorities, identity, more_authorities: _, unverified: _ } =
            &self.settings.defaults.tls;
        let identity = identity.as_ref();
        let files = [
            ("ca_bundle", authorities.as_ref()),
            ("client_cert", identity.map(|identity| &identity.certificate)),
            ("client_key", identity.map(|identity| &identity.key)),
        ];
        let named = files.into_iter().filter_map(|(name, file)| Some((name, file?)));
        options.extend(named.map(|(name, file)| (name.to_owned(), shown(file).into())));
        let Reach { endpoint, region, path_style } = reach;
        options.extend(endpoint.map(|endpoint| ("endpoint".to_owned(), endpoint.into())));
        options.extend(region.map(|region| ("region".to_owned(), region.into())));
        options.extend(path_style.map(|on| ("path_style".to_owned(), on.into())));
        options
    }

    /// Hands keys that a call brought to a worker that serves, if they are others.
    pub(super) async fn renew(
        &self,
        id: &str,
        mut known: Remembered,
        worker: &crate::worker::Worker,
        secrets: &Secrets,
    ) -> Result<(), Status> {
        let mut new = secrets.for_worker(false)?;
        if !known.secrets.has_other_keys(&new) {
            return match known.lent {
                // The same once more, for longer.
                Some(_) => self.remember(id, &known).await,
                None => Ok(()),
            };
        }
        worker.credentials(new.copied()).await.map_err(|error| status::of_worker(&error))?;
        known.secrets.take_keys(&mut new);
        self.remember(id, &known).await?;
        tracing::info!(volume = id, "its keys were replaced");
        Ok(())
    }

    /// Starts the worker of a volume that has none, with keys that a call brought. They are remembered once they have
    /// opened the volume: until then the former ones, which may be the better ones, are tried again as well.
    pub(super) async fn revive_with(
        &self,
        id: &str,
        mut known: Remembered,
        secrets: &Secrets,
    ) -> Result<(), Status> {
        let mut new = secrets.for_worker(false)?;
        if !known.secrets.has_other_keys(&new) {
            return self.worker_of(id).await.map(drop);
        }
        known.secrets.take_keys(&mut new);
        let device = self.keeper.device(id).await.map_err(|error| status::of_keeper(&error))?;
        self.start_worker(id, device, &mut known).await?;
        self.remember(id, &known).await?;
        tracing::info!(volume = id, "its worker was started with other keys");
        Ok(())
    }

    pub(super) async fn unstage(
        &self,
        request: NodeUnstageVolumeRequest,
    ) -> Result<NodeUnstageVolumeResponse, Status> {
        let NodeUnstageVolumeRequest { volume_id: id, staging_target_path } = request;
        request::volume_id(&id)?;
        let path = request::path("staging_target_path", &staging_target_path)?;
        let _turn = self.busy.begin(&id)?;
        let Some(held) = self.held(&id).await? else {
            // Nothing is staged, here or elsewhere; a worker without a mount has nothing to do.
            drop(self.workers.remove(&id));
            return Ok(NodeUnstageVolumeResponse {});
        };
        if held.path != path {
            return Ok(NodeUnstageVolumeResponse {});
        }
        if let Some((target, _)) = held.targets.first() {
            return Err(Status::failed_precondition(format!(
                "volume {id}: it is still published at {}: unpublish it first",
                target.display()
            )));
        }
        self.unmount(&held).await?;
        Ok(NodeUnstageVolumeResponse {})
    }

    /// Stores what was written, then takes the mount away, then the worker.
    pub(super) async fn unmount(&self, held: &Held) -> Result<(), Status> {
        let id = held.volume.as_str();
        if held.mounted {
            self.drain(id, held.remembered).await?;
        }
        self.keeper.unstage(id).await.map_err(|error| status::of_keeper(&error))?;
        if let Some(worker) = self.workers.remove(id).and_then(Arc::into_inner) {
            worker.stop().await;
        }
        Ok(())
    }

    /// Everything that programs have written reaches the store, or the volume stays as it is.
    async fn drain(&self, id: &str, remembered: bool) -> Result<(), Status> {
        if !remembered && self.workers.get(id).is_none() {
            // No worker was ever started: nobody can have written anything.
            return Ok(());
        }
        let known = self.recall(id).await.ok().flatten();
        if known.as_ref().is_some_and(|known| !known.served) && self.workers.get(id).is_none() {
            // No worker has ever opened it.
            return Ok(());
        }
        let lent = known.and_then(|known| known.lent);
        let pending = |why: String| {
            let remedy = lent.as_ref().map_or_else(String::new, Lent::remedy);
            Status::aborted(format!(
                "volume {id}: not everything that was written is in the store yet, and it stays mounted \
                 until it is: {why}{remedy}"
            ))
        };
        let worker =
            self.worker_of(id).await.map_err(|status| pending(status.message().to_owned()))?;
        let drained = worker
            .drain(DRAINING)
            .await
            .map_err(|error| pending(status::of_worker(&error).message().to_owned()))?;
        if drained.bytes_left > 0 {
            let first = drained.failures.first().map(String::as_str).unwrap_or("it takes longer");
            return Err(pending(format!("{} bytes are left: {first}", drained.bytes_left)));
        }
        for failure in &drained.failures {
            tracing::error!(volume = id, "could not be stored: {failure}");
        }
        Ok(())
    }
}

impl Wish {
    /// How the store is reached.
    pub(super) fn reach(&self, defaults: &Defaults) -> Reach {
        place::reach(&self.parameters.reach.or(self.handle.reach()), &self.secrets, defaults)
    }

    pub(super) fn needs_passphrase(&self) -> bool {
        self.parameters.encryption != Encryption::None
    }

    pub(super) fn check_same_path(&self, held: &Held) -> Result<(), Status> {
        match held.path == self.path {
            true => Ok(()),
            false => Err(Status::failed_precondition(format!(
                "volume {}: it is staged at {} already: unstage it there first",
                self.id,
                held.path.display()
            ))),
        }
    }

    /// The same call again is fine; the same volume used otherwise is not.
    pub(super) fn check_same(&self, known: &Remembered) -> Result<(), Status> {
        let read_only = self.parameters.options.read_only || self.usage.is_read_only();
        let same = known.mode == i32::from(self.usage.mode)
            && known.context == self.context
            && known.settings.options.contains_key("read_only") == read_only;
        match same {
            true => Ok(()),
            false => Err(Status::already_exists(format!(
                "volume {}: it is staged here already, with another access mode, mount flags or attributes",
                self.id
            ))),
        }
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
