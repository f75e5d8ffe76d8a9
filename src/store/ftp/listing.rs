//! Lines of listings, from servers that may send anything: those for machines (RFC 3659, section 7.2), and those of
//! LIST, which no standard describes (read by suppaftp: as `ls -l` and as Windows write them).

use crate::world::Timestamp;
use std::time::UNIX_EPOCH;
use suppaftp::list::ListParser;

/// What is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name, without the directories above it.
    pub name: String,
    /// What it is.
    pub kind: ListedKind,
    /// When it was last changed.
    pub modified: Option<Timestamp>,
    /// Whether that is so to the second: LIST often tells the minute only.
    pub is_exact: bool,
}

/// What is at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedKind {
    /// A file and its bytes.
    File(u64),
    /// A directory.
    Directory,
}

/// A line of MLSD: facts that each end in `;`, a blank, the name. Nothing for what is neither a file nor a directory,
/// and for the directory itself and the one above.
pub fn machine_line(line: &str) -> Option<Listed> {
    let (kind, found) = facts(line)?;
    let is_itself = matches!(kind.as_str(), "cdir" | "pdir");
    if is_itself || found.name.contains('/') { None } else { Some(found) }
}

/// The line of MLST, of which the caller knows the name.
pub(super) fn machine_fact(line: &str) -> Option<Listed> {
    facts(line).map(|(_, found)| found)
}

fn facts(line: &str) -> Option<(String, Listed)> {
    let (facts, name) = line.split_once(' ')?;
    let (mut kind, mut size, mut modified) = (None, None, None);
    for fact in facts.split_terminator(';') {
        let (fact, value) = fact.split_once('=')?;
        match fact.to_ascii_lowercase().as_str() {
            "type" => kind = Some(value.to_ascii_lowercase()),
            "size" => size = Some(value.parse::<u64>().ok()?),
            "modify" => modified = time(value),
            _ => {}
        }
    }
    let told = kind?;
    let kind = match told.as_str() {
        "file" => ListedKind::File(size.unwrap_or(0)),
        "dir" | "cdir" | "pdir" => ListedKind::Directory,
        _ => return None,
    };
    Some((told, Listed { name: checked(name)?, kind, modified, is_exact: true }))
}

/// A line of LIST. Links are left out: what they lead to is not told.
pub fn list_line(line: &str) -> Option<Listed> {
    let found = ListParser::parse_posix(line).or_else(|_| ListParser::parse_dos(line)).ok()?;
    let kind = match (found.is_directory(), found.is_file()) {
        (true, _) => ListedKind::Directory,
        (_, true) => ListedKind::File(found.size() as u64),
        _ => return None,
    };
    let modified = found.modified().duration_since(UNIX_EPOCH).ok();
    let modified = modified.and_then(|time| i64::try_from(time.as_nanos()).ok()).map(Timestamp);
    Some(Listed {
        name: checked(found.name()).filter(|name| !name.contains('/'))?,
        kind,
        modified,
        is_exact: false,
    })
}

/// A name: nothing that leads out of its directory.
fn checked(name: &str) -> Option<String> {
    let is_name = !name.is_empty() && !matches!(name, "." | "..") && !name.contains('\0');
    is_name.then(|| name.to_owned())
}

/// A time as RFC 3659, section 2.3, has it: `YYYYMMDDHHMMSS` and perhaps a fraction, in UTC.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 14 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let number = |from: usize, to: usize| whole.get(from..to)?.parse::<i8>().ok();
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let date = jiff::civil::DateTime::new(
        whole.get(..4)?.parse().ok()?,
        number(4, 6)?,
        number(6, 8)?,
        number(8, 10)?,
        number(10, 12)?,
        number(12, 14)?,
        nanos,
    );
    let time = date.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    i64::try_from(time.as_nanosecond()).ok().map(Timestamp)
}

/// A time for MFMT, to the second.
pub(super) fn spelled(Timestamp(nanos): Timestamp) -> String {
    let time = jiff::Timestamp::from_nanosecond(nanos.into()).unwrap_or_default();
    time.strftime("%Y%m%d%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_machines_are_read_whatever_the_name() {
        let read = |line| machine_line(line).map(|found| (found.name, found.kind));
        let file = |name: &str, size| Some((name.to_owned(), ListedKind::File(size)));
        assert_eq!(read("type=file;size=12;modify=20240715162245; a b;c=d"), file("a b;c=d", 12));
        assert_eq!(read("Type=File;Size=0;UNIX.mode=0644;  blank"), file(" blank", 0));
        let directory = Some(("d".to_owned(), ListedKind::Directory));
        assert_eq!(read("modify=20240715162245.123;type=dir; d"), directory);
        for other in [
            "type=cdir; .",
            "type=pdir; ..",
            "type=OS.unix=slink:/x; l",
            "type=file;size=x; f",
            "type=file;size=99999999999999999999; f",
            "size=1; f",
            "type=file;size=1;",
            "type=file; ",
            "",
        ] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }

    #[test]
    fn times_are_utc_and_nonsense_is_none() {
        let at = Timestamp(1_721_060_565_000_000_000);
        assert_eq!(time("20240715162245"), Some(at));
        assert_eq!(time("20240715162245.5"), Some(Timestamp(at.0 + 500_000_000)));
        assert_eq!(spelled(at), "20240715162245");
        for nonsense in
            ["", "2024071516224", "20241315162245", "2024071516224x", "20240715162245.x"]
        {
            assert_eq!(time(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn lines_of_ls_and_of_windows_are_read() {
        let read = |line| list_line(line).map(|found| (found.name, found.kind));
        let posix = "-rw-r--r--    1 0        0              12 Nov 05  2020 a file";
        assert_eq!(read(posix), Some(("a file".to_owned(), ListedKind::File(12))));
        let directory = "drwxr-xr-x    2 0        0            4096 Nov 05 13:46 dir";
        assert_eq!(read(directory), Some(("dir".to_owned(), ListedKind::Directory)));
        let windows = "04-08-14  03:09PM                  403 readme.txt";
        assert_eq!(read(windows), Some(("readme.txt".to_owned(), ListedKind::File(403))));
        for other in ["total 12", "lrwxrwxrwx 1 0 0 1 Nov 05 2020 l -> x", ""] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
