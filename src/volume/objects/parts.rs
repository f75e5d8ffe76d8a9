//! How a stream is cut, and how much of it may be in memory.
//!
//! A store takes 10,000 parts of an object, and nobody knows how long a pipe will be. So parts grow: 8 MiB
//! at first, so that small streams go side by side, and larger ones later. All buffers together stay
//! within one budget. Parts that are larger than all of it, as a stream needs them beyond some 680 GiB, are kept
//! enciphered in a file without a name until they are stored.

use crate::crypto::datasafed::Encryptor;
use crate::store::{KeptPart, PartBody};
use crate::volume::scratch::Scratch;
use crate::world::Entropy;
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const MIB: usize = 1 << 20;
/// What all parts of one stream may take in memory, in MiB.
const BUDGET: usize = 96;
/// Sizes in MiB, and up to which part they hold.
const STEPS: [(u32, usize); 5] = [(256, 8), (512, 16), (1024, 32), (4000, 48), (9500, 96)];
/// The size of the last parts that a store takes, in MiB.
const LAST: usize = 1024;
/// What one read moves, and one write of a local file.
const PIECE: usize = 256 << 10;

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// In pieces of one size: nobody counts them.
    Even,
    /// For a store that takes so many parts.
    Parts {
        /// How many.
        limit: u32,
        /// Parts are at least so long, in MiB, since the stream is known to be.
        least: usize,
        /// Whoever takes them keeps one back until the next one comes.
        keeps_one: bool,
    },
}

impl Plan {
    /// For a store of so many parts and a stream of this length, if it is known.
    pub fn parts(limit: u32, size: Option<u64>) -> Self {
        let each = size.unwrap_or(0).div_ceil(u64::from(limit.max(2) - 1));
        let least = each.div_ceil(MIB as u64);
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        Self::Parts { limit, least, keeps_one: false }
    }

    /// The same for somebody who keeps one part back until the next one comes.
    pub fn keeping_one(self) -> Self {
        match self {
            Self::Parts { limit, least, .. } => Self::Parts { limit, least, keeps_one: true },
            Self::Even => Self::Even,
        }
    }

    /// Whether a part of so many bytes is kept outside memory.
    fn keeps(self, size: usize) -> bool {
        matches!(self, Self::Parts { keeps_one: false, .. }) && size > BUDGET * MIB
    }

    /// What a part of so many bytes takes of the budget, in MiB: never so much that the next one cannot be filled.
    fn share(self, size: usize) -> usize {
        let most = match self {
            Self::Parts { keeps_one: true, .. } => BUDGET / 2,
            // One is filled while another one is stored.
            _ if self.keeps(size) => BUDGET / 2,
            _ => BUDGET,
        };
        size.div_ceil(MIB).min(most)
    }

    /// Bytes of part `number` (from 1).
    pub fn size(self, number: u32) -> usize {
        let Self::Parts { limit, least, .. } = self else { return MIB };
        // A store that takes fewer parts gets to the large ones sooner.
        let at = u64::from(number) * u64::from(crate::store::PART_LIMIT) / u64::from(limit.max(1));
        let step = STEPS.iter().find(|(last, _)| at <= u64::from(*last));
        step.map_or(LAST, |(_, size)| *size).max(least).saturating_mul(MIB)
    }
}

/// What a writer hands over.
#[derive(Debug)]
pub enum Piece {
    /// The next bytes, and their share of the budget, to be kept until they are stored.
    Part(PartBody, OwnedSemaphorePermit),
    /// That was all.
    End,
    /// There will be no more, for this reason: nothing is to be stored.
    Failed(io::Error),
}

/// Cuts what is written into parts, enciphered if there is a key, and hands them over. For a thread that
/// may wait: it waits for its share of the budget.
pub struct PartWriter<'k> {
    plan: Plan,
    budget: Arc<Semaphore>,
    out: Sender<Piece>,
    runtime: Handle,
    encryptor: Option<Encryptor<'k>>,
    /// The part that is being filled, and its share.
    current: Option<(Filling, OwnedSemaphorePermit)>,
    number: u32,
    scratch: &'k Path,
    entropy: &'k dyn Entropy,
}

/// A part that is being filled: what is in memory of it, and what is not.
struct Filling {
    buffer: Vec<u8>,
    kept: Option<Scratch>,
}

impl Filling {
    /// Bytes that are kept elsewhere.
    fn kept(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| usize::try_from(kept.end()).unwrap_or(usize::MAX))
    }

    /// Bytes so far.
    fn length(&self) -> usize {
        self.kept() + self.buffer.len()
    }

    /// Keeps what is in memory elsewhere, if that is where this part is.
    fn keep(&mut self) -> io::Result<()> {
        if let Some(kept) = &mut self.kept {
            kept.append(std::mem::take(&mut self.buffer))?;
        }
        Ok(())
    }
}

/// A part in a file.
struct Kept(Scratch);

impl KeptPart for Kept {
    fn length(&self) -> u64 {
        self.0.end()
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Bytes> {
        self.0.read(at, length).map(Bytes::from)
    }
}

impl<'k> PartWriter<'k> {
    /// For one stream. With a key the IV is written first. Parts that are too large for memory go to files in
    /// `scratch`.
    pub(super) fn new(
        plan: Plan,
        out: Sender<Piece>,
        runtime: Handle,
        encryptor: Option<Encryptor<'k>>,
        (scratch, entropy): (&'k Path, &'k dyn Entropy),
    ) -> Self {
        let budget = Arc::new(Semaphore::new(BUDGET));
        let (current, number) = (None, 0);
        Self { plan, budget, out, runtime, encryptor, current, number, scratch, entropy }
    }

    /// Writes everything that a source gives, read straight into the parts. Returns how many bytes.
    pub fn fill(&mut self, source: &mut dyn Read) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let (buffer, size) = self.room()?;
            let start = buffer.len();
            let piece = (size - start).min(PIECE);
            // Small streams are not to take a large buffer: it grows, but not many times.
            let reserved = if start < 4 * PIECE { piece } else { size - start };
            buffer.reserve_exact(reserved);
            let read = (&mut *source).take(piece as u64).read_to_end(buffer)?;
            if read == 0 {
                return Ok(total);
            }
            total += read as u64;
            self.written(start)?;
        }
    }

    /// Hands over what is left, and that it was all.
    pub(super) fn finish(mut self) {
        let last = match self.iv() {
            Ok(()) => self.hand_over().map(|()| Piece::End),
            Err(error) => Err(error),
        };
        let last = last.unwrap_or_else(Piece::Failed);
        // A receiver that is gone has its own reason.
        let _ = self.out.blocking_send(last);
    }

    /// Says that there will be no more.
    pub(super) fn fail(self, why: io::Error) {
        let _ = self.out.blocking_send(Piece::Failed(why));
    }

    /// The buffer being filled and the size it may have, with room for at least one byte.
    fn room(&mut self) -> io::Result<(&mut Vec<u8>, usize)> {
        self.iv()?;
        self.take_room()
    }

    fn take_room(&mut self) -> io::Result<(&mut Vec<u8>, usize)> {
        let size = self.plan.size(self.number.max(1));
        if self.current.as_ref().is_some_and(|(part, _)| part.length() >= size) {
            self.hand_over()?;
        }
        if self.current.is_none() {
            self.number += 1;
            let size = self.plan.size(self.number);
            let share = u32::try_from(self.plan.share(size)).unwrap_or(u32::MAX);
            let budget = self.budget.clone();
            let permit = self.runtime.block_on(budget.acquire_many_owned(share));
            let permit = permit.map_err(io::Error::other)?;
            let kept = match self.plan.keeps(size) {
                true => Some(Scratch::create(self.scratch, self.entropy).map_err(self.kept())?),
                false => None,
            };
            self.current = Some((Filling { buffer: Vec::new(), kept }, permit));
        }
        let mut size = self.plan.size(self.number);
        let (part, _) = self.current.as_mut().expect("it was made above");
        if part.kept.is_some() {
            size = (size - part.kept()).min(MIB);
        }
        Ok((&mut part.buffer, size))
    }

    /// What to say of a file that cannot be had or written.
    fn kept(&self) -> impl Fn(io::Error) -> io::Error + use<> {
        let text = format!(
            "a part of {} MiB is kept in {} until it is stored",
            self.plan.size(self.number) / MIB,
            self.scratch.display()
        );
        move |error| {
            io::Error::other(format!(
                "{text}: {error}: make room there, or set TMPDIR to another place"
            ))
        }
    }

    /// The IV goes before the first byte, also of an empty file.
    fn iv(&mut self) -> io::Result<()> {
        if self.number == 0
            && let Some(iv) = self.encryptor.as_ref().map(Encryptor::iv)
        {
            self.take_room()?.0.extend_from_slice(&iv);
        }
        Ok(())
    }

    /// Enciphers what was put into the buffer from `start` on, and hands it over if it is full.
    fn written(&mut self, start: usize) -> io::Result<()> {
        let size = self.plan.size(self.number);
        let failed = self.kept();
        let Some((part, _)) = &mut self.current else { return Ok(()) };
        if let Some(encryptor) = &mut self.encryptor {
            encryptor.update(&mut part.buffer[start..]);
        }
        if part.length() >= size {
            return self.hand_over();
        }
        if part.buffer.len() >= MIB { part.keep().map_err(failed) } else { Ok(()) }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let Some((mut part, permit)) = self.current.take() else { return Ok(()) };
        part.keep().map_err(self.kept())?;
        let body = match part.kept {
            Some(kept) => PartBody::Kept(Arc::new(Kept(kept))),
            None => PartBody::Memory(Bytes::from(part.buffer)),
        };
        let sent = self.out.blocking_send(Piece::Part(body, permit));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PartWriter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let (buffer, size) = self.room()?;
        let start = buffer.len();
        let count = data.len().min(size - start);
        buffer.extend_from_slice(&data[..count]);
        self.written(start)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1 << 40;

    fn reach(plan: Plan, limit: u32) -> u64 {
        (1..=limit).map(|number| plan.size(number) as u64).sum()
    }

    #[test]
    fn streams_of_unknown_length_reach_beyond_a_tebibyte_and_half_of_it_within_the_budget() {
        let plan = Plan::parts(10_000, None);
        assert!(reach(plan, 10_000) > TIB);
        let within: u64 = (1..=10_000)
            .map(|number| plan.size(number))
            .filter(|size| *size <= BUDGET * MIB)
            .map(|size| size as u64)
            .sum();
        assert!(within > 600 << 30, "{within}");
        assert_eq!(plan.size(1), 8 * MIB);
    }

    #[test]
    fn a_known_length_always_fits_into_the_parts() {
        for size in [0, 1, 8 << 20, 1 << 30, TIB, 5 * TIB] {
            for limit in [1000, 10_000] {
                let plan = Plan::parts(limit, Some(size));
                assert!(reach(plan, limit) >= size, "{size} in {limit}");
                assert!((1..limit).all(|number| plan.size(number) >= 5 * MIB));
            }
        }
    }
}
