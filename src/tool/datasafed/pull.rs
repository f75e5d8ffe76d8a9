//! `pull`: a file of the storage into a local one, or to standard output.

use super::compression::Codec;
use super::flags::Parsed;
use super::push::widen;
use super::storage::{Storage, failure, reason};
use super::{go, more};
use crate::config;
use crate::tool::output::Failure;
use crate::volume::objects::Replacement;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::{Receiver, channel};

/// Batches of some MiB that wait for the writer.
const AHEAD: usize = 1;

pub(super) async fn run(parsed: &Parsed, storage: &Storage) -> Result<(), Failure> {
    let remote = parsed.path(0);
    more::refuse_of_trees(parsed)?;
    // Without one it is `cat`.
    let local = parsed.positionals.get(1).map_or_else(|| PathBuf::from("-"), PathBuf::from);
    let codec = parsed.text("decompress").and_then(Codec::named);
    let mut out = Output::open(&local)?;
    let from = |why: Failure| Failure::new(format!("pull {}: {why}", go::quoted(&remote)));
    let path = storage.file(&remote).map_err(&from)?;
    let _guard = match &out {
        Output::Stream(_) => None,
        Output::File(file) => Some(file.guard()),
    };
    let (sender, pieces) = channel(AHEAD);
    let written = tokio::task::spawn_blocking(move || {
        let result = match codec {
            None => copy(pieces, &mut out),
            Some(codec) => {
                let mut pieces = Pieces { pieces, current: VecDeque::new() };
                let result = codec.decompress(&mut pieces, &mut out);
                // What follows the end of a compressed stream is not looked at, but let come.
                result.and_then(|()| io::copy(&mut pieces, &mut io::sink()).map(drop))
            }
        };
        (out, result)
    });
    let read = storage.layout.read(&path, sender).await;
    let Ok((out, written)) = written.await else {
        return Err(from(Failure::new("the writer ended too early")));
    };
    // A file that is there is replaced only by a whole one.
    read.map_err(|error| from(failure(error)))?;
    let shown = if local.as_os_str() == "-" { Path::new("/dev/stdout") } else { &local };
    let told = |error: io::Error| {
        let why = reason(&error);
        let why = match error.raw_os_error() {
            Some(_) => format!("write {}: {why}", shown.display()),
            None if codec.is_some() => format!("decompression error: {why}"),
            None => why,
        };
        from(Failure::new(why))
    };
    written.map_err(&told)?;
    out.finish().map_err(told)
}

/// Where it goes.
enum Output {
    /// Standard output, a pipe or a device: written as it comes.
    Stream(File),
    /// A file, which appears at the end.
    File(Replacement),
}

impl Output {
    fn open(local: &Path) -> Result<Self, Failure> {
        let shown = local.display();
        if local.as_os_str() == "-" {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            let stdout =
                stdout.map_err(|error| Failure::new(format!("standard output: {error}")))?;
            widen(&stdout);
            return Ok(Self::Stream(File::from(stdout)));
        }
        if local.as_os_str().is_empty() || local.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(Failure::new(format!("invalid local path \"{shown}\"")));
        }
        let failed = |operation: &str, path: &Path, error: io::Error| {
            Failure::new(format!("{operation} {}: {}", path.display(), reason(&error)))
        };
        let target = std::path::absolute(local).map_err(|error| failed("open", local, error))?;
        if let Some(parent) = target.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
            made.map_err(|error| failed("mkdir", parent, error))?;
        }
        match fs::metadata(&target) {
            Ok(found) if found.is_dir() => {
                Err(Failure::new(format!("open {}: is a directory", target.display())))
            }
            Ok(found) if !found.is_file() => {
                let file = OpenOptions::new().write(true).open(&target);
                Ok(Self::Stream(file.map_err(|error| failed("open", &target, error))?))
            }
            _ => {
                let entropy = config::system_world().entropy;
                let file = Replacement::begin(&target, 0o644, &*entropy);
                Ok(Self::File(file.map_err(|error| failed("open", &target, error))?))
            }
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Stream(_) => Ok(()),
            Self::File(file) => file.finish(None),
        }
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(file) => file.write(data),
            Self::File(file) => file.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn copy(mut pieces: Receiver<Vec<Bytes>>, out: &mut Output) -> io::Result<()> {
    while let Some(batch) = pieces.blocking_recv() {
        batch.iter().try_for_each(|piece| out.write_all(piece))?;
    }
    Ok(())
}

/// Pieces as a reader.
struct Pieces {
    pieces: Receiver<Vec<Bytes>>,
    current: VecDeque<Bytes>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.current.front_mut() {
                Some(piece) if piece.is_empty() => drop(self.current.pop_front()),
                Some(piece) => {
                    let count = buffer.len().min(piece.len());
                    piece.copy_to_slice(&mut buffer[..count]);
                    return Ok(count);
                }
                None => match self.pieces.blocking_recv() {
                    Some(batch) => self.current = batch.into(),
                    None => return Ok(0),
                },
            }
        }
    }
}
