//! DeleteVolume: empties exactly the volume's own prefix. What has no record of ours is not touched: it was
//! there before us, and whoever made it may still want it.

use super::ControllerService;
use crate::api::csi::{DeleteVolumeRequest, DeleteVolumeResponse};
use crate::place;
use crate::record::{self, Record, State};
use crate::request;
use crate::status;
use crate::volume::{Handle, Layout, Parameters, SUB_DIR};
use strongroom::store::{Key, ListRequest, Store};
use strongroom::volume::native::keys;
use tonic::Status;

/// So often a prefix is listed anew because somebody still writes there.
const PASSES: u32 = 20;

impl ControllerService {
    pub(super) async fn delete(
        &self,
        request: DeleteVolumeRequest,
    ) -> Result<DeleteVolumeResponse, Status> {
        let DeleteVolumeRequest { volume_id, secrets } = request;
        request::volume_id(&volume_id)?;
        // An id that is none of ours names nothing that we could have.
        let Ok(handle) = Handle::parse(&volume_id) else { return Ok(DeleteVolumeResponse {}) };
        let Some(key) = handle.record_key() else { return Ok(DeleteVolumeResponse {}) };
        let _turn = self.busy.begin(&handle.to_string())?;
        let secrets = self.secrets(secrets)?;
        let bucket = self.bucket(&handle, &secrets).await?;
        let Some(found) = Record::load(&*bucket, &key).await? else {
            return Ok(DeleteVolumeResponse {});
        };
        // The record lies where its volume's name says; one that was put there for another volume is not
        // a licence to delete this one.
        if found.record.id != handle.to_string()
            && Handle::parse(&found.record.id) != Ok(handle.clone())
        {
            return Err(Status::failed_precondition(format!(
                "volume {handle}: its record {key} is that of volume {}",
                found.record.id
            )));
        }
        let volume = place::volume(&bucket, &handle);
        let given = found.record.parameters.clone().into_iter().collect();
        if found.record.parameters.contains_key(SUB_DIR) {
            // A place that others have too, who may still need what is there.
            tracing::info!(volume = %handle, "its place is not its own alone: nothing is deleted");
            return Ok(DeleteVolumeResponse {});
        }
        let layout = Parameters::parse(&given, self.settings.dialect)
            .map(|parameters| parameters.layout)
            .map_err(|why| Status::failed_precondition(format!("volume {handle}: {why}")))?;
        match layout {
            Layout::Native => check_own(&*volume).await?,
            Layout::Objects => check_files(&*volume).await?,
        }
        found.change(&*bucket, &key, |record| record.state = State::Deleting).await?;
        empty(&*volume).await?;
        if layout == Layout::Objects
            && let Some(mark) = Key::new(handle.prefix())
        {
            // That of the volume's own directory, which has no name below it.
            bucket.delete(&mark, None).await.map_err(|error| status::of_store(&error))?;
        }
        record::remove(&*bucket, &key).await?;
        Ok(DeleteVolumeResponse {})
    }
}

/// Whatever else lies below the volume's prefix, another volume or files that somebody put there, is not deleted with it.
async fn check_own(store: &dyn Store) -> Result<(), Status> {
    let mut request = ListRequest { roll_up: true, ..ListRequest::default() };
    loop {
        let page = store.list(&request).await.map_err(|error| status::of_store(&error))?;
        let objects = page.objects.iter().map(|object| object.key.as_str());
        let mut names = objects.chain(page.prefixes.iter().map(String::as_str));
        if let Some(other) = names.find(|name| !keys::TOP.contains(name)) {
            return Err(Status::failed_precondition(format!(
                "{}: {other} lies there, which is not the volume's: nothing is deleted until it is moved elsewhere \
                 or removed by hand",
                store.describe()
            )));
        }
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return Ok(()),
        }
    }
}

/// The same of a volume whose objects are files: everything is its own, but other volumes.
async fn check_files(store: &dyn Store) -> Result<(), Status> {
    let mut request = ListRequest::default();
    loop {
        let page = store.list(&request).await.map_err(|error| status::of_store(&error))?;
        let is_volume = |key: &str| {
            key.split('/').any(|part| part == ".volumes")
                || key.rsplit('/').next() == Some(keys::DESCRIPTOR)
        };
        if let Some(other) = page.objects.iter().find(|object| is_volume(object.key.as_str())) {
            return Err(Status::failed_precondition(format!(
                "{}: {} lies there, which tells of another volume: nothing is deleted until that is moved elsewhere \
                 or removed by hand",
                store.describe(),
                other.key
            )));
        }
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Removes every object of a store, which is a prefix with its slash.
async fn empty(store: &dyn Store) -> Result<(), Status> {
    for _ in 0..PASSES {
        let page =
            store.list(&ListRequest::default()).await.map_err(|error| status::of_store(&error))?;
        if page.objects.is_empty() {
            return Ok(());
        }
        let keys: Vec<Key> = page.objects.into_iter().map(|object| object.key).collect();
        remove_page(store, keys, page.next).await?;
    }
    Err(Status::aborted(format!(
        "{}: new objects appear while it is deleted: is it still mounted somewhere?",
        store.describe()
    )))
}

/// Removes a page of a listing and all that follow it.
async fn remove_page(
    store: &dyn Store,
    mut keys: Vec<Key>,
    mut next: Option<String>,
) -> Result<(), Status> {
    loop {
        for chunk in keys.chunks(1000) {
            let failed =
                store.delete_many(chunk).await.map_err(|error| status::of_store(&error))?;
            if let Some((key, error)) = failed.first() {
                let status = status::of_store(error);
                return Err(Status::new(
                    status.code(),
                    format!(
                        "{}: {} of {} objects could not be deleted; the first: {key}: {}",
                        store.describe(),
                        failed.len(),
                        chunk.len(),
                        status.message()
                    ),
                ));
            }
        }
        let Some(start_after) = next else { return Ok(()) };
        let request = ListRequest { start_after: Some(start_after), ..ListRequest::default() };
        let page = store.list(&request).await.map_err(|error| status::of_store(&error))?;
        keys = page.objects.into_iter().map(|object| object.key).collect();
        next = page.next;
    }
}
