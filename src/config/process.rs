//! Which process this is, so that another one can tell whether it still runs.

use std::fs;

/// This process: its number, the machine's boot, the namespace of its number, and when it started.
/// Empty where the system does not tell.
pub fn this_process() -> String {
    identity(std::process::id()).unwrap_or_default()
}

/// Whether the process that [`this_process`] described certainly is no more: the same boot of the same
/// machine and the same namespace, and nothing of that number that started then.
pub fn is_gone(process: &str) -> bool {
    let (Some((number, place)), Some(own)) = (parts(process), identity(std::process::id())) else {
        return false;
    };
    let Some((_, own_place)) = parts(&own) else { return false };
    let same_place = place.rsplit_once(' ').map(|(place, _)| place)
        == own_place.rsplit_once(' ').map(|(place, _)| place);
    same_place && identity(number).is_none_or(|now| now != process)
}

fn parts(process: &str) -> Option<(u32, &str)> {
    let (number, place) = process.split_once(' ')?;
    Some((number.parse().ok()?, place))
}

fn identity(number: u32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold anything; proc(5) counts the start from 1
    // as field 22, the first one after the name being field 3. A dead one that nobody waited for is gone.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let started = fields.nth(18)?;
    Some(format!("{number} {} {} {started}", boot.trim(), namespace.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_when_it_is_and_not_before() {
        assert!(!is_gone(&this_process()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let process = identity(child.id()).expect("it runs");
        assert!(!is_gone(&process));
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(is_gone(&process));
        // Of another boot, another namespace, or no process at all nothing is known.
        for unknown in ["", "1", "1 another-boot pid:[1] 1", "x y z"] {
            assert!(!is_gone(unknown), "{unknown:?}");
        }
    }
}
