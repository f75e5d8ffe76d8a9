//! A volume compared with a manifest that was made of it before: what is missing, older, removed, changed,
//! added.
//!
//! What is newer is decided by descent, not by clocks: a record keeps the publish ids of its last eight
//! writers. Only where two records of one name have nothing in common their times of change decide.

use super::Volume;
use super::entries::{Loaded, Place};
use super::manifest::{At, Header, Line};
use crate::volume::VolumeError;
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// How a place differs from the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Nothing stands there, and nothing says who removed it.
    Missing,
    /// An older state than the manifest's stands there.
    RolledBack,
    /// It was removed or moved since, by somebody with the keys.
    Removed,
    /// It was changed since.
    Changed,
    /// The manifest does not know it.
    Added,
}

impl Change {
    /// Whether it is one that no user of the volume makes.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Missing | Self::RolledBack)
    }
}

/// A place that is not as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// How.
    pub change: Change,
    /// The path, bytes that are not text as `%XX`.
    pub path: String,
    /// More about it.
    pub detail: String,
}

/// A comparison under way: it is shown each place of the volume, then asked for what is left.
pub struct Comparison {
    header: Header,
    /// Lines whose places were not seen yet.
    lines: HashMap<At, Line>,
    /// The last writer of every record of the manifest: whatever descends from one of them is newer.
    lasts: HashSet<u64>,
    /// Where now stands what descends from a record of the manifest, by that record's last writer.
    heirs: HashMap<u64, String>,
    differences: Vec<Difference>,
}

impl Comparison {
    pub(super) fn new(header: Header, lines: HashMap<At, Line>) -> Self {
        let last = |line: &Line| line.publishes.last().copied();
        let lasts = lines.values().filter_map(last).collect();
        Self { header, lines, lasts, heirs: HashMap::new(), differences: Vec::new() }
    }

    /// A living place of the volume.
    pub fn see(&mut self, line: &Line) {
        for publish in line.publishes.iter().filter(|publish| self.lasts.contains(publish)) {
            self.heirs.insert(*publish, line.path.clone());
        }
        match self.lines.remove(&line.at) {
            None => self.note(Change::Added, &line.path, ""),
            Some(known) => self.judge(&known, line),
        }
    }

    /// Looks for what was not seen, and returns all differences, losses first.
    pub async fn finish(mut self, volume: &Volume) -> Result<Vec<Difference>, VolumeError> {
        let generation = volume.descriptor().generation;
        if generation < self.header.generation {
            let detail = format!(
                "generation {generation} of the descriptor, the manifest knows {}: removed passphrases \
                 open again",
                self.header.generation
            );
            self.note(Change::RolledBack, super::keys::DESCRIPTOR, &detail);
        }
        let mut unseen: Vec<Line> = std::mem::take(&mut self.lines).into_values().collect();
        unseen.sort_by(|a, b| a.path.cmp(&b.path));
        for known in unseen {
            let Some(place) = known.at.place() else { continue };
            match volume.load(&place, None).await {
                Ok(Loaded::Tombstone(found)) => {
                    let now = Line::of(known.path.as_bytes(), &found);
                    if self.is_older(&now, &known) {
                        let detail = "an older removal of it was put back";
                        self.note(Change::RolledBack, &known.path, detail);
                    } else {
                        let moved = found.record.moved_away;
                        self.note(Change::Removed, &known.path, if moved { "moved" } else { "" });
                    }
                }
                // The last name of a shared record went with its entry, which is told.
                Ok(Loaded::Live(_)) if matches!(place, Place::Inode(_)) => {}
                Ok(Loaded::Live(_)) => {
                    let detail = "its record is there, but no directory leads to it";
                    self.note(Change::Missing, &known.path, detail);
                }
                Ok(Loaded::Absent | Loaded::Unchanged) => {
                    // A name that was moved away leaves no trace on some stores but where it went.
                    let last = known.publishes.last();
                    match last.and_then(|last| self.heirs.get(last)).cloned() {
                        Some(heir) => {
                            let detail = format!("moved to {heir}");
                            self.note(Change::Removed, &known.path, &detail);
                        }
                        None => self.note(Change::Missing, &known.path, ""),
                    }
                }
                Err(error @ (VolumeError::Corrupt { .. } | VolumeError::NewerFormat { .. })) => {
                    self.note(Change::Missing, &known.path, &error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        self.differences.sort();
        Ok(self.differences)
    }

    fn judge(&mut self, known: &Line, now: &Line) {
        if known.salt == now.salt {
            return;
        }
        if self.is_older(now, known) {
            let detail = format!(
                "{} bytes of {}, the manifest knows {} bytes of {}",
                now.size,
                shown_time(now.changed),
                known.size,
                shown_time(known.changed)
            );
            return self.note(Change::RolledBack, &now.path, &detail);
        }
        let same = (known.kind, &known.id, known.size, &known.content)
            == (now.kind, &now.id, now.size, &now.content);
        self.note(Change::Changed, &now.path, if same { "attributes or sealing" } else { "" });
    }

    /// Whether a record is an older one than the manifest's.
    fn is_older(&self, now: &Line, known: &Line) -> bool {
        let (Some(last_now), Some(last_known)) = (now.publishes.last(), known.publishes.last())
        else {
            return now.changed < known.changed;
        };
        if known.publishes.contains(last_now) && last_now != last_known {
            return true;
        }
        // It, or what was moved here, descends from something that the manifest has.
        if now.publishes.iter().any(|publish| self.lasts.contains(publish)) {
            return false;
        }
        now.changed <= known.changed
    }

    fn note(&mut self, change: Change, path: &str, detail: &str) {
        let (path, detail) = (path.to_owned(), detail.to_owned());
        self.differences.push(Difference { change, path, detail });
    }
}

fn shown_time(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanos.into())
        .map_or_else(|_| "an unknown time".to_owned(), |at| format!("{at:.0}"))
}
