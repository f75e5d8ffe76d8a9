//! `strongroom backuprepo`: carried out by `strongroom-csi`, which has what is needed to speak to a cluster. The tool
//! stays the small program that lies in any database image.

use super::output::Failure;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

const PROGRAM: &str = "strongroom-csi";

/// Becomes that program. Returns only if it cannot.
pub(super) fn run(arguments: &[OsString]) -> Failure {
    let beside = std::env::current_exe().ok().map(|this| this.with_file_name(PROGRAM));
    // Else it is sought where the shell seeks programs.
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(PROGRAM));
    let error = Command::new(&program).arg("backuprepo").args(arguments).exec();
    Failure::new(format!(
        "{PROGRAM}: {error}: `strongroom backuprepo` needs it, beside this program or in PATH; it is part of the \
         same release"
    ))
}
