//! How far a file that leaves in parts has come, so that another process can go on with it where this one is killed.
//!
//! A [`Witness`] writes down what it hears of, in memory that outlives the process. It hears of a part when that part
//! and all before it are stored, and when what they hold was acknowledged to whoever wrote it: a part with bytes of a
//! write that nobody was answered is sent once more. So the parts that it knows are a beginning of the file, and
//! what was written after them has to be known from elsewhere.
//!
//! Crash story: a part that is stored and not witnessed yet is sent again, under its number, which replaces it by the
//! same bytes. Between the witness of the end and the end itself nobody knows whether the file is there: who goes on
//! has to look.

use crate::store::{Headers, Part, Upload};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::OwnedSemaphorePermit;

/// Who writes down how far an upload has come. Called under a lock: it may not wait.
pub trait Witness: Send + Sync + 'static {
    /// It has begun; nothing of it is stored.
    fn begun(&self, path: &str, upload: &Upload, headers: &Headers);

    /// All parts up to this one are stored, and what they hold was acknowledged.
    fn stored(&self, number: u32, milestone: &Milestone);

    /// All parts are stored; the file is about to appear.
    fn ending(&self);

    /// Nobody is to go on with it, and the store does not know that yet.
    fn abandoned(&self);

    /// It is over.
    fn ended(&self);
}

/// A part up to which a file is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Milestone {
    /// The part.
    pub part: Part,
    /// Bytes of the file up to its end.
    pub end: u64,
    /// Of an enciphered file how it goes on.
    pub chain: Option<Chain>,
}

/// How the cipher of a file in datasafed's form goes on behind a whole block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The file's IV.
    pub iv: [u8; 16],
    /// The last block of ciphertext.
    pub block: [u8; 16],
    /// What tells the key from others ([`StreamKey::check`](crate::crypto::datasafed::StreamKey::check)): nobody is to
    /// go on with another one.
    pub check: String,
}

/// An upload that another process has begun and this one goes on with.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Where the file is to appear.
    pub path: String,
    /// The upload.
    pub upload: Upload,
    /// What it was begun with.
    pub headers: Headers,
    /// Its parts from the first one on, one at least.
    pub stored: Vec<Milestone>,
    /// It was about to appear, and may have.
    pub ending: bool,
}

/// Tells a witness in order what happens in any.
pub struct Progress {
    witness: Box<dyn Witness>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Parts on their way, or stored before one that is on its way.
    left: BTreeMap<u32, Left>,
    /// Stored, with all before them, and not acknowledged.
    stored: VecDeque<(u32, Milestone)>,
    /// Bytes of the file that were.
    acknowledged: u64,
    /// Whoever wrote the file has done with it.
    ended: bool,
    /// The store knows nothing of the upload any more.
    is_over: bool,
}

struct Left {
    /// None: the file goes on from before it.
    milestone: Option<(u64, Option<Chain>)>,
    /// The part, and the memory that whoever sent it held for it.
    stored: Option<(Part, OwnedSemaphorePermit)>,
}

impl Progress {
    /// For one upload.
    pub fn new(witness: Box<dyn Witness>) -> Self {
        Self { witness, state: Mutex::default() }
    }

    /// An upload has begun.
    pub(super) fn begin(&self, path: &str, upload: &Upload, headers: &Headers) {
        if !self.state.lock().ended {
            self.witness.begun(path, upload, headers);
        }
    }

    /// A part leaves, after all before it. `milestone`: where it ends, and how the file goes on; none if nothing
    /// could go on behind it.
    pub(super) fn left(&self, number: u32, milestone: Option<(u64, Option<Chain>)>) {
        self.state.lock().left.insert(number, Left { milestone, stored: None });
    }

    /// A part is stored. Its memory is held until all before it are: what is kept of the file for somebody who goes on
    /// reaches back to the first that is not.
    pub(super) fn stored(&self, number: u32, part: Part, share: OwnedSemaphorePermit) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(left) = state.left.get_mut(&number) {
            left.stored = Some((part, share));
        }
        while let Some(first) = state.left.first_entry()
            && first.get().stored.is_some()
        {
            let (number, Left { milestone, stored }) = first.remove_entry();
            if let (Some((end, chain)), Some((part, _share))) = (milestone, stored) {
                state.stored.push_back((number, Milestone { part, end, chain }));
            }
        }
        self.tell(state);
    }

    /// So many bytes of the file were acknowledged.
    pub(super) fn acknowledge(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.acknowledged = state.acknowledged.max(bytes);
        self.tell(&mut state);
    }

    /// The file is about to appear.
    pub(super) fn ending(&self) {
        if !self.state.lock().ended {
            self.witness.ending();
        }
    }

    /// Whoever wrote the file has done with it, well or not. No part is told after that.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.left.clear();
        match (std::mem::replace(&mut state.ended, true), state.is_over) {
            (true, _) => {}
            (false, true) => self.witness.ended(),
            (false, false) => self.witness.abandoned(),
        }
    }

    /// The upload was completed or given up.
    pub(super) fn over(&self) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.is_over, true) && state.ended {
            self.witness.ended();
        }
    }

    /// It has failed: nobody waits for parts any more.
    pub(super) fn fail(&self) {
        self.state.lock().left.clear();
    }

    fn tell(&self, state: &mut State) {
        let acknowledged = state.acknowledged;
        while !state.ended
            && let Some((number, milestone)) =
                state.stored.pop_front_if(|(_, milestone)| milestone.end <= acknowledged)
        {
            self.witness.stored(number, &milestone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ETag, PartCheck};
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    /// What was heard, in order.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl Witness for Heard {
        fn begun(&self, path: &str, upload: &Upload, _headers: &Headers) {
            self.0.lock().push(format!("{path} begun as {}", upload.id));
        }

        fn stored(&self, number: u32, milestone: &Milestone) {
            self.0.lock().push(format!("{number} up to {}", milestone.end));
        }

        fn ending(&self) {
            self.0.lock().push("ending".to_owned());
        }

        fn abandoned(&self) {
            self.0.lock().push("abandoned".to_owned());
        }

        fn ended(&self) {
            self.0.lock().push("ended".to_owned());
        }
    }

    fn part(number: u32) -> Part {
        Part { etag: ETag(format!("etag {number}")), crc32c: None }
    }

    #[test]
    fn parts_are_told_in_order_and_not_before_what_they_hold_was_acknowledged() {
        let heard = Heard::default();
        let progress = Progress::new(Box::new(heard.clone()));
        let told = || std::mem::take(&mut *heard.0.lock());
        let memory = Arc::new(Semaphore::new(4));
        let share = || memory.clone().try_acquire_owned().expect("there is enough");
        let upload = Upload { id: "one".to_owned(), check: PartCheck::Md5 };
        progress.begin("file", &upload, &Headers::default());
        assert_eq!(told(), ["file begun as one"]);
        for number in 1..=3 {
            progress.left(number, Some((u64::from(number) * 10, None)));
        }
        progress.acknowledge(25);
        progress.stored(2, part(2), share());
        assert!(told().is_empty());
        assert_eq!(memory.available_permits(), 3);
        progress.stored(1, part(1), share());
        assert_eq!(told(), ["1 up to 10", "2 up to 20"]);
        assert_eq!(memory.available_permits(), 4);
        // Its memory is free, or who has to acknowledge it might wait for that.
        progress.stored(3, part(3), share());
        assert!(told().is_empty());
        assert_eq!(memory.available_permits(), 4);
        progress.acknowledge(30);
        assert_eq!(told(), ["3 up to 30"]);
        // The last part, behind which nothing can go on.
        progress.left(4, None);
        progress.stored(4, part(4), share());
        progress.acknowledge(31);
        assert!(told().is_empty());
        progress.ending();
        progress.over();
        assert_eq!(told(), ["ending"]);
        progress.end();
        progress.end();
        assert_eq!(told(), ["ended"]);
        progress.begin("file", &upload, &Headers::default());
        progress.ending();
        progress.left(5, Some((50, None)));
        progress.stored(5, part(5), share());
        progress.acknowledge(60);
        assert!(told().is_empty());
        // One that is given up.
        let progress = Progress::new(Box::new(heard.clone()));
        progress.left(1, Some((10, None)));
        progress.left(2, Some((20, None)));
        progress.stored(2, part(2), share());
        progress.fail();
        assert_eq!(memory.available_permits(), 4);
        progress.end();
        assert_eq!(told(), ["abandoned"]);
        progress.over();
        progress.over();
        assert_eq!(told(), ["ended"]);
    }
}
