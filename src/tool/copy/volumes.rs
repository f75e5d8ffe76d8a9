//! A file copied from volume to volume.

use crate::tool::source::Checked;
use crate::volume::native::Volume;
use crate::volume::native::files::{Target, WriteError};
use crate::volume::native::record::{Attributes, FileContent};
use std::sync::Arc;
use std::time::Duration;

/// Bytes between a reader and a writer.
const PIPE: usize = 1 << 20;

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum Broken {
    Source(WriteError),
    Target(WriteError),
}

/// Copies a file from volume to volume; within one nothing but the record is written.
pub(super) async fn between(
    (from, content, read_at): (&Arc<Volume>, &FileContent, Duration),
    (to, target): (&Arc<Volume>, Target<'_>),
    attributes: Attributes,
    progress: impl FnMut(u64),
) -> Result<(), Broken> {
    if is_one_volume(from, to) {
        let cloned = to.clone_file(target, attributes, content.clone(), read_at).await;
        return cloned.map_err(|error| Broken::Target(error.into()));
    }
    let (reader, mut writer) = tokio::io::duplex(PIPE);
    // The end of the pipe alone does not say that all of it came.
    let mut reader = Checked::new(reader).of_size(content.size);
    let read = async {
        let read = from.read_file(content, &mut writer, |_| {}).await;
        drop(writer);
        read
    };
    let write = async {
        let written = to.write_file_to(target, attributes, &mut reader, progress).await;
        // Whoever still writes into the pipe is not to wait for a reader that is gone.
        drop(reader);
        written
    };
    match tokio::join!(read, write) {
        // That the pipe was closed is the other side's failure.
        (Ok(()) | Err(WriteError::Target(_)), written) => written.map(drop).map_err(Broken::Target),
        (Err(error), _) => Err(Broken::Source(error)),
    }
}

/// Whether two values are of one volume.
pub(super) fn is_one_volume(a: &Arc<Volume>, b: &Arc<Volume>) -> bool {
    Arc::ptr_eq(a, b) || a.store().describe() == b.store().describe()
}
