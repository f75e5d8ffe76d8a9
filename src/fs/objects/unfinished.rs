//! Long files that are on their way in parts, as whoever takes over finds them: which upload it is, which of its parts
//! the store has, and how it goes on behind them. The bytes after those are in the arena (`spare.rs`).
//!
//! Crash story: an upload is here before its first part, and a part before its bytes go from the arena. Without its
//! parts an upload is nothing that could be gone on with: it is given up, and the file is sent from its beginning on,
//! which the arena has then. What is about to appear says so before: whoever finds that looks whether it is there. An
//! upload goes from here after the node has been written down as stored; killed between the two, it is given up,
//! which the store does not mind. One that is given up stays here, as nobody's, until the store has heard of it.

use super::ObjectFs;
use super::content::LARGEST;
use super::remembered::Keep;
use super::spare::Spare;
use super::table::Node;
use crate::fs::remembered::key;
use crate::fs::types::Ino;
use crate::store::{ETag, Headers, PART_LIMIT, Part, PartCheck, Upload};
use crate::volume::objects::progress::{Begun, Chain, Milestone, Progress, Witness};
use crate::volume::objects::writer::Taken;
use crate::volume::objects::{ObjectsError, Writer};
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whose an upload is with which nobody goes on: no file has this number.
const NOBODYS: u64 = 0;

/// An upload.
#[derive(Clone, PartialEq, Message)]
pub(super) struct UploadForm {
    #[prost(uint64, tag = "1")]
    ino: u64,
    /// Where the file is to appear.
    #[prost(string, tag = "2")]
    path: String,
    /// As the store names it.
    #[prost(string, tag = "3")]
    id: String,
    /// Its parts are checked by CRC-32C, and not by MD5.
    #[prost(bool, tag = "4")]
    crc32c: bool,
    #[prost(string, optional, tag = "5")]
    content_type: Option<String>,
    #[prost(btree_map = "string, string", tag = "6")]
    metadata: BTreeMap<String, String>,
    /// It is about to appear.
    #[prost(bool, tag = "7")]
    ending: bool,
}

/// A part up to which a file is stored.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartForm {
    #[prost(string, tag = "1")]
    etag: String,
    #[prost(string, optional, tag = "2")]
    crc32c: Option<String>,
    #[prost(uint64, tag = "3")]
    end: u64,
    #[prost(message, optional, tag = "4")]
    chain: Option<ChainForm>,
}

/// How the cipher of an enciphered file goes on.
#[derive(Clone, PartialEq, Message)]
struct ChainForm {
    #[prost(bytes = "vec", tag = "1")]
    iv: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    block: Vec<u8>,
    #[prost(string, tag = "3")]
    check: String,
}

impl PartForm {
    fn of(milestone: &Milestone) -> Self {
        let Milestone { part: Part { etag, crc32c }, end, chain } = milestone;
        let chain = chain.clone().map(|Chain { iv, block, check }| ChainForm {
            iv: iv.to_vec(),
            block: block.to_vec(),
            check,
        });
        Self { etag: etag.0.clone(), crc32c: crc32c.clone(), end: *end, chain }
    }

    /// `None` if it makes no sense.
    pub(super) fn read(value: &[u8]) -> Option<Milestone> {
        let Self { etag, crc32c, end, chain } = Self::decode(value).ok()?;
        let chain = match chain {
            Some(ChainForm { iv, block, check }) => {
                Some(Chain { iv: iv.try_into().ok()?, block: block.try_into().ok()?, check })
            }
            None => None,
        };
        let part = Part { etag: ETag(etag), crc32c };
        (end <= LARGEST).then_some(Milestone { part, end, chain })
    }
}

/// What a former process wrote of one upload.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    form: Option<UploadForm>,
    parts: BTreeMap<u32, Milestone>,
}

impl Unfinished {
    /// `None` if it makes no sense.
    pub(super) fn enter_upload(&mut self, value: &[u8]) -> Option<()> {
        self.form = Some(UploadForm::decode(value).ok()?);
        Some(())
    }

    /// `None` if it makes no sense.
    pub(super) fn enter_part(&mut self, number: &[u8], value: &[u8]) -> Option<()> {
        let number = u32::from_be_bytes(number.try_into().ok()?);
        let number = Some(number).filter(|number| (1..=PART_LIMIT).contains(number))?;
        self.parts.insert(number, PartForm::read(value)?);
        Some(())
    }

    /// Whose file it is.
    pub(super) fn ino(&self) -> Option<Ino> {
        self.form.as_ref().map(|form| Ino(form.ino))
    }

    /// With the parts that follow each other from the first one on.
    fn begun(&self) -> Option<Begun> {
        let UploadForm { path, id, crc32c, content_type, metadata, ending, .. } =
            self.form.clone()?;
        let check = if crc32c { PartCheck::Crc32c } else { PartCheck::Md5 };
        let mut end = 0;
        let mut stored = Vec::new();
        for (wanted, (number, milestone)) in (1..).zip(&self.parts) {
            if *number != wanted || milestone.end <= end {
                break;
            }
            end = milestone.end;
            stored.push(milestone.clone());
        }
        let headers = Headers { content_type, metadata };
        Some(Begun { path, upload: Upload { id, check }, headers, stored, ending })
    }

    /// The keys of all this.
    fn keys(&self, upload: u64) -> Vec<Vec<u8>> {
        let parts = self.parts.keys().map(|number| part_key(upload, *number));
        parts.chain([key(b'U', upload)]).collect()
    }
}

fn part_key(upload: u64, number: u32) -> Vec<u8> {
    let mut key = key(b'P', upload);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Writes down how far an upload has come.
struct Written {
    keep: Arc<Keep>,
    ino: Ino,
    /// Which upload it is.
    upload: u64,
    /// The bytes that it need not have any more.
    spare: Arc<Mutex<Spare>>,
    writer: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    form: Option<UploadForm>,
    parts: u32,
}

impl Witness for Written {
    fn begun(&self, path: &str, upload: &Upload, headers: &Headers) {
        let Headers { content_type, metadata } = headers.clone();
        let form = UploadForm {
            ino: self.ino.0,
            path: path.to_owned(),
            id: upload.id.clone(),
            crc32c: upload.check == PartCheck::Crc32c,
            content_type,
            metadata,
            ending: false,
        };
        self.keep.ledger.put(&key(b'U', self.upload), &form.encode_to_vec());
        self.state.lock().form = Some(form);
    }

    fn stored(&self, number: u32, milestone: &Milestone) {
        let form = PartForm::of(milestone).encode_to_vec();
        self.keep.ledger.put(&part_key(self.upload, number), &form);
        let mut state = self.state.lock();
        state.parts = state.parts.max(number);
        drop(state);
        self.spare.lock().stored(self.writer, milestone.end);
    }

    fn ending(&self) {
        if let Some(form) = &mut self.state.lock().form {
            form.ending = true;
            self.keep.ledger.put(&key(b'U', self.upload), &form.encode_to_vec());
        }
    }

    fn abandoned(&self) {
        if let Some(form) = &mut self.state.lock().form {
            form.ino = NOBODYS;
            self.keep.ledger.put(&key(b'U', self.upload), &form.encode_to_vec());
        }
    }

    fn ended(&self) {
        let State { form, parts } = std::mem::take(&mut *self.state.lock());
        for number in 1..=parts {
            self.keep.ledger.remove(&part_key(self.upload, number));
        }
        if form.is_some() {
            self.keep.ledger.remove(&key(b'U', self.upload));
        }
    }
}

impl ObjectFs {
    /// Has it written down how far a node's file has come; `known`: an upload that it goes on with.
    pub(super) fn watch(
        &self,
        node: &Node,
        known: Option<(u64, &Unfinished)>,
    ) -> Option<impl FnOnce(u64) -> Progress + use<>> {
        let keep = self.keep.clone()?;
        let (ino, spare) = (node.ino, node.spare.clone());
        let (upload, state) = match known {
            Some((upload, Unfinished { form, parts })) => {
                let parts = parts.keys().max().copied().unwrap_or(0);
                (upload, State { form: form.clone(), parts })
            }
            None => (keep.arena.next_sequence(), State::default()),
        };
        let state = Mutex::new(state);
        Some(move |writer| {
            Progress::new(Box::new(Written { keep, ino, upload, spare, writer, state }))
        })
    }

    /// Whether a former process has come to the end of an upload, though it did not write that down. Then it is stored.
    pub(super) async fn has_ended(&self, node: &Node, upload: &Unfinished, size: u64) -> bool {
        let Some(Begun { path, headers, .. }) = upload.begun().filter(|begun| begun.ending) else {
            return false;
        };
        let Some(found) = self.arrived(node, &path, size, &headers, false).await else {
            return false;
        };
        let wanted = self.headers_anew(&node.state.lock(), &path, true);
        let (found, mended) = self.with_headers(node, &path, found, wanted).await;
        if let Err(error) = mended {
            // Whoever closes it is told.
            tracing::warn!("{path}: stored, with attributes of before: {error}");
            return false;
        }
        node.state.lock_silently().dirty = false;
        self.stored(node, found);
        true
    }

    /// Goes on with a file of a former process, of which these bytes were kept: in its upload, if they follow what
    /// that has (`true`), or from its beginning on. `None` if neither can be.
    pub(super) async fn resumed(
        &self,
        node: &Node,
        spare: Spare,
        upload: Option<(u64, &Unfinished)>,
    ) -> Option<(Writer, bool)> {
        let kept = spare.start()..=spare.end();
        let follows =
            |begun: &Begun| begun.stored.last().is_some_and(|last| kept.contains(&last.end));
        let begun = upload.and_then(|(_, upload)| upload.begun()).filter(follows);
        let goes_on = begun.is_some();
        let (tree, budget) = (self.tree.clone(), self.budget.clone());
        let mut writer = match begun {
            Some(begun) => {
                let resumed = Writer::resume(tree, begun, budget, self.watch(node, upload)?);
                resumed.map_err(|error| self.does_not_go_on(node, &error)).ok()?
            }
            None if spare.start() == 0 => {
                let mut writer = Writer::new(tree, self.path(node).ok()?, None, budget);
                writer.watch(self.watch(node, None)?);
                writer
            }
            None => return None,
        };
        let headers = self.headers_begun(node);
        for bytes in spare.from(writer.length()) {
            let written = match writer.write(bytes, &headers).await {
                Ok(Taken::All) => Ok(()),
                Ok(Taken::NoRoom) => self.wait_for_room(&mut writer, bytes, &headers).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                self.does_not_go_on(node, &error);
                return None;
            }
        }
        self.adopt_spare(node, &writer, spare);
        writer.acknowledge();
        Some((writer, goes_on))
    }

    fn does_not_go_on(&self, node: &Node, error: &ObjectsError) {
        tracing::error!("{}: its upload does not go on: {error}", self.shown(node));
    }

    /// An upload of a former process with which nobody goes on.
    pub(super) fn give_up(&self, upload: u64, unfinished: &Unfinished) {
        let Some(keep) = self.keep.clone() else { return };
        let keys = unfinished.keys(upload);
        let forget = move |keep: &Keep| keys.iter().for_each(|key| keep.ledger.remove(key));
        let (Some(begun), Some(form)) = (unfinished.begun(), unfinished.form.clone()) else {
            return forget(&keep);
        };
        // Not gone on with by the next process either, if this one is killed before the store knows.
        let form = UploadForm { ino: NOBODYS, ..form };
        keep.ledger.put(&key(b'U', upload), &form.encode_to_vec());
        let tree = self.tree.clone();
        tokio::spawn(async move {
            if tree.give_up(&begun.path, &begun.upload).await {
                forget(&keep);
            }
        });
    }
}
