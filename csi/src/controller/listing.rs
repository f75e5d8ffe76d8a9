//! ListVolumes and GetCapacity. These calls bring no secrets, so they are offered only where the driver was
//! given credentials and places of its own.

use super::ControllerService;
use super::create::context;
use crate::api::csi::list_volumes_response::Entry;
use crate::api::csi::{
    GetCapacityRequest, GetCapacityResponse, ListVolumesRequest, ListVolumesResponse, Volume,
};
use crate::place;
use crate::record::{Record, State};
use crate::status;
use crate::volume::{Reach, Secrets};
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use strongroom::store::{ListRequest, Store};
use tonic::Status;

/// Entries of one answer, at most.
const PAGE: usize = 500;
/// What a bucket can hold, as far as anybody knows: an exbibyte.
const ENDLESS: i64 = 1 << 60;

/// A place whose volumes are listed: `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    bucket: String,
    prefix: String,
}

impl FromStr for Listed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unusable = || "is no place; example: s3://bucket/prefix".to_owned();
        let place = text.strip_prefix("s3://").ok_or_else(unusable)?;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_matches('/');
        crate::volume::check_place(bucket, prefix)?;
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// Where a listing goes on: the place by its number, and the last key that was told.
struct Token {
    place: usize,
    after: Option<String>,
}

impl Token {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self { place: 0, after: None });
        }
        let (place, after) = text.split_once(':')?;
        let after = (!after.is_empty()).then(|| after.to_owned());
        Some(Self { place: place.parse().ok()?, after })
    }
}

impl ControllerService {
    pub(super) async fn list(
        &self,
        request: ListVolumesRequest,
    ) -> Result<ListVolumesResponse, Status> {
        let ListVolumesRequest { max_entries, starting_token } = request;
        let secrets = self.own_secrets()?;
        let most = match usize::try_from(max_entries) {
            Ok(0) => PAGE,
            Ok(most) => most.min(PAGE),
            Err(_) => return Err(Status::invalid_argument("max_entries: is negative")),
        };
        let unknown =
            || Status::aborted("starting_token: is none of this driver's: begin anew without one");
        let mut token = Token::parse(&starting_token).ok_or_else(unknown)?;
        if token.place >= self.settings.listed.len() {
            return Err(unknown());
        }
        let mut entries = Vec::new();
        for (number, listed) in self.settings.listed.iter().enumerate().skip(token.place) {
            let store = self.listed_bucket(listed, &secrets).await?;
            let prefix = crate::volume::records_prefix(&listed.prefix);
            let mut after = token.after.take();
            if after.as_ref().is_some_and(|after| !after.starts_with(&prefix)) {
                return Err(unknown());
            }
            loop {
                let request = ListRequest {
                    prefix: prefix.clone(),
                    start_after: after.clone(),
                    ..ListRequest::default()
                };
                let page = store.list(&request).await.map_err(|error| status::of_store(&error))?;
                for object in &page.objects {
                    if entries.len() == most {
                        let after = after.unwrap_or_default();
                        let next_token = format!("{number}:{after}");
                        return Ok(ListVolumesResponse { entries, next_token });
                    }
                    after = Some(object.key.as_str().to_owned());
                    // A record may be gone between the listing and this.
                    let found = Record::load(&*store, object.key.as_str()).await?;
                    entries.extend(found.and_then(|found| entry(found.record)));
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(ListVolumesResponse { entries, next_token: String::new() })
    }

    pub(super) async fn capacity(
        &self,
        _: GetCapacityRequest,
    ) -> Result<GetCapacityResponse, Status> {
        let secrets = self.own_secrets()?;
        // What cannot be reached has no room.
        for listed in &self.settings.listed {
            let store = self.listed_bucket(listed, &secrets).await?;
            let request = ListRequest { limit: 1, ..ListRequest::default() };
            store.list(&request).await.map_err(|error| status::of_store(&error))?;
        }
        Ok(GetCapacityResponse {
            available_capacity: ENDLESS,
            maximum_volume_size: None,
            minimum_volume_size: None,
        })
    }

    fn own_secrets(&self) -> Result<Secrets, Status> {
        if self.settings.listed.is_empty() {
            return Err(super::not_offered(
                "it was given no place to list (--list, --credentials)",
            ));
        }
        self.secrets(HashMap::new())
    }

    async fn listed_bucket(
        &self,
        listed: &Listed,
        secrets: &Secrets,
    ) -> Result<Arc<dyn Store>, Status> {
        place::bucket(&listed.bucket, &Reach::default(), secrets, &self.settings.defaults)
            .await
            .map_err(|error| status::of_store(&error))
    }
}

fn entry(record: Record) -> Option<Entry> {
    (record.state == State::Ready).then(|| Entry {
        volume: Some(Volume {
            capacity_bytes: record.capacity,
            volume_context: context(&record),
            volume_id: record.id,
            content_source: None,
            accessible_topology: Vec::new(),
        }),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_a_prefix() {
        let listed: Listed = "s3://bucket/a/b/".parse().expect("a place");
        assert_eq!((listed.bucket.as_str(), listed.prefix.as_str()), ("bucket", "a/b"));
        // A place of which nothing was told yet.
        let token = Token::parse("1:").expect("a token");
        assert_eq!((token.place, token.after), (1, None));
        for text in ["bucket", "s3://", "s3://bucket/../x", "file:///x"] {
            assert!(text.parse::<Listed>().is_err(), "{text}");
        }
    }
}
