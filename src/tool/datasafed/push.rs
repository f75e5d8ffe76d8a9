//! `push`: a file or standard input into the storage.

use super::compression::Codec;
use super::flags::Parsed;
use super::storage::{Storage, failure, reason};
use super::{go, more};
use crate::config;
use crate::tool::output::Failure;
use crate::volume::objects::PartWriter;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

/// What a pipe may hold, if the system lets us: fewer calls for each of its bytes.
const PIPE: i32 = 1 << 20;

pub(super) async fn run(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    more::refuse_of_trees(parsed)?;
    let local = &parsed.positionals[0];
    let remote = parsed.path(1);
    let codec = parsed.text("compress").and_then(Codec::named);
    let from_pipe = local == "-";
    let source = match from_pipe {
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => File::open(local),
    };
    let shown = if from_pipe { "standard input".into() } else { local.to_string_lossy() };
    let source =
        source.map_err(|error| Failure::new(format!("open {shown}: {}", reason(&error))))?;
    let to = |why: Failure| Failure::new(format!("push to {}: {why}", go::quoted(&remote)));
    let found = source.metadata().ok();
    if found.as_ref().is_some_and(std::fs::Metadata::is_dir) {
        return Err(to(Failure::new(format!("read {shown}: is a directory"))));
    }
    widen(&source);
    let path = storage.file(&remote).map_err(&to)?;
    let expected = parsed.text("expect-size").map(|_| parsed.integer("expect-size"));
    let expected = match expected.map(u64::try_from) {
        None => None,
        Some(Ok(size)) => Some(size),
        Some(Err(_)) => {
            return Err(to(Failure::new("--expect-size is negative: give a number of bytes")));
        }
    };
    let known = found.filter(|found| found.is_file()).map(|found| found.len()).or(expected);
    let wanted = Wanted { bytes: expected, some: parsed.switch("fail-on-empty") };
    let shown = shown.into_owned();
    // Compressed it is smaller, or next to nothing larger.
    let size = known.map(|size| if codec.is_some() { size + size / 64 + 4096 } else { size });
    let now = config::system_world().clock.now();
    let produce = move |out: &mut PartWriter<'_>| send(source, codec, wanted, &shown, out);
    storage.layout.write(&path, now, size, produce).await.map_err(|error| to(failure(error)))
}

/// What the input has to have to be stored.
#[derive(Clone, Copy)]
struct Wanted {
    bytes: Option<u64>,
    some: bool,
}

fn send(
    source: File,
    codec: Option<Codec>,
    wanted: Wanted,
    shown: &str,
    out: &mut PartWriter<'_>,
) -> io::Result<()> {
    let mut source = Counted { source, bytes: 0, shown };
    match codec {
        None => out.fill(&mut source).map(drop)?,
        Some(codec) => codec.compress(&mut source, out)?,
    }
    match (source.bytes, wanted) {
        (0, Wanted { some: true, .. }) => Err(io::Error::other(
            "the input is empty (--fail-on-empty): nothing was stored; see why its producer ended",
        )),
        (got, Wanted { bytes: Some(expected), .. }) if got != expected => {
            Err(io::Error::other(format!(
                "the input has {got} bytes instead of {expected} (--expect-size): nothing was stored; \
                 see why its producer ended"
            )))
        }
        _ => Ok(()),
    }
}

/// Counts what is read, and says what could not be.
struct Counted<'a> {
    source: File,
    bytes: u64,
    shown: &'a str,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer) {
            Ok(count) => {
                self.bytes += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let why = format!("read {}: {}", self.shown, reason(&error));
                Err(io::Error::new(error.kind(), why))
            }
        }
    }

    /// Into memory that was not set before: nothing is paid for that.
    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let read = self.source.read_to_end(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Best effort: pipes of other owners have their limits.
pub(super) fn widen(file: &impl AsFd) {
    if fcntl(file, FcntlArg::F_GETPIPE_SZ).is_ok_and(|size| size < PIPE) {
        let _ = fcntl(file, FcntlArg::F_SETPIPE_SZ(PIPE));
    }
}
