//! Who uses an open file: a child process that was born with it closes it when it begins its own program, which
//! is no reason to store what its parent is still writing.

use std::collections::HashSet;

/// The processes that have opened a file or written to it by one handle.
#[derive(Default)]
pub(super) struct Users {
    threads: HashSet<u32>,
    processes: HashSet<u32>,
    /// Nobody can be told from another one: numbers of processes are those of somewhere else.
    anybody: bool,
}

impl Users {
    /// Of a file whose users cannot be told apart: any close may be that of whoever writes it.
    pub(super) fn anybody() -> Self {
        Self { anybody: true, ..Self::default() }
    }

    /// Notes a thread that opened it or wrote.
    pub(super) fn note(&mut self, thread: u32) {
        if !self.anybody
            && self.threads.insert(thread)
            && let Some(process) = process_of(thread)
        {
            self.processes.insert(process);
        }
    }

    /// Whether a close by this thread is one of a process that only has the file from its parent.
    pub(super) fn is_bystander(&self, thread: u32) -> bool {
        !self.anybody
            && !self.threads.contains(&thread)
            && process_of(thread).is_some_and(|process| !self.processes.contains(&process))
    }
}

/// The process of a thread, as far as this one sees it (proc(5)).
fn process_of(thread: u32) -> Option<u32> {
    if thread == 0 {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_process_are_one_and_a_child_is_another() {
        let mut users = Users::default();
        let thread = || nix::unistd::gettid().as_raw() as u32;
        users.note(thread());
        assert!(!users.is_bystander(thread()));
        std::thread::scope(|scope| {
            let is_bystander = scope.spawn(|| users.is_bystander(thread())).join();
            assert!(!is_bystander.expect("ended"));
        });
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it starts");
        assert!(users.is_bystander(child.id()));
        users.note(child.id());
        assert!(!users.is_bystander(child.id()));
        child.kill().expect("killed");
        child.wait().expect("ended");
        // Whoever cannot be told is taken for one who closes it.
        assert!(!users.is_bystander(0));
        assert!(!users.is_bystander(u32::MAX));
    }
}
