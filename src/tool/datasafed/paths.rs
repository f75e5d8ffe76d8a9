//! Paths in the storage as the original takes them, and patterns of names.

use super::go;
use crate::tool::output::Failure;

/// A path as Go's `filepath.Clean` leaves it: shortest, without `.`, doubled `/` and inner `..`.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// What all paths are below: without `/` at either end; empty for the root.
pub(super) fn base(path: &str) -> Result<String, Failure> {
    let clean = clean(path);
    if clean.starts_with("..") {
        let shown = go::quoted(&clean);
        return Err(Failure::new(format!(
            "base path {shown} prefixed with '..': correct DATASAFED_BACKEND_BASE_PATH"
        )));
    }
    Ok(below_root(&clean).to_owned())
}

/// A path below the base, without `/` at either end; empty is the base, or the root.
pub(super) fn relocate(base: &str, path: &str) -> Result<String, Failure> {
    let clean = clean(path);
    let path = below_root(&clean);
    if path.starts_with("..") {
        // The original has lost the path by then.
        return Err(Failure::new("invalid rpath \"\": prefixed with '..'"));
    }
    Ok(match (base, path) {
        ("", path) => path.to_owned(),
        (base, "") => base.to_owned(),
        (base, path) => format!("{base}/{path}"),
    })
}

fn below_root(clean: &str) -> &str {
    match clean {
        "." | "/" => "",
        path => path.strip_prefix('/').unwrap_or(path),
    }
}

/// A path below the base as the caller sees it.
pub(super) fn shown<'a>(base: &str, path: &'a str) -> &'a str {
    match path.strip_prefix(base) {
        _ if base.is_empty() => path,
        Some("") => ".",
        Some(below) => below.strip_prefix('/').unwrap_or(path),
        None => path,
    }
}

/// The last part of a path.
pub(super) fn name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Whether a name matches a pattern of `*`, `?`, `[a-z]`, `[^a-z]` and `\`. A malformed one matches nothing.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    pieces(pattern).is_some_and(|pieces| fits(&pieces, &name))
}

enum Piece {
    Star,
    Any,
    Exactly(char),
    OneOf { negated: bool, ranges: Vec<(char, char)> },
}

fn pieces(pattern: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(character) = rest.next() {
        pieces.push(match character {
            // Two stars are one: and no more work than one.
            '*' if matches!(pieces.last(), Some(Piece::Star)) => continue,
            '*' => Piece::Star,
            '?' => Piece::Any,
            '\\' => Piece::Exactly(rest.next()?),
            '[' => {
                let negated = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || rest.peek()? != &']' {
                    let low = end_of_range(&mut rest)?;
                    let high = match rest.next_if_eq(&'-') {
                        Some(_) => end_of_range(&mut rest)?,
                        None => low,
                    };
                    ranges.push((low, high));
                }
                rest.next();
                Piece::OneOf { negated, ranges }
            }
            other => Piece::Exactly(other),
        });
    }
    Some(pieces)
}

fn end_of_range(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        other => Some(other),
    }
}

/// Goes back to the last star alone: that is enough, and never takes longer than their product.
fn fits(pieces: &[Piece], name: &[char]) -> bool {
    let (mut piece, mut at) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while at < name.len() || piece < pieces.len() {
        let next = name.get(at);
        let step = match (pieces.get(piece), next) {
            (Some(Piece::Star), _) => {
                last_star = Some((piece, at));
                piece += 1;
                continue;
            }
            (Some(Piece::Any), Some(&c)) => c != '/',
            (Some(Piece::Exactly(wanted)), Some(c)) => wanted == c,
            (Some(Piece::OneOf { negated, ranges }), Some(c)) => {
                ranges.iter().any(|(low, high)| low <= c && c <= high) != *negated
            }
            (_, None) | (None, _) => false,
        };
        if step {
            (piece, at) = (piece + 1, at + 1);
            continue;
        }
        match last_star {
            Some((star, from)) if from < name.len() && name[from] != '/' => {
                last_star = Some((star, from + 1));
                (piece, at) = (star + 1, from + 1);
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_stay_below_the_base() {
        for (path, expected) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("a//b/./c/", "a/b/c"),
            ("/a/../b", "/b"),
            ("/..", "/"),
            ("a/../..", ".."),
            ("../a", "../a"),
        ] {
            assert_eq!(clean(path), expected, "{path:?}");
        }
        let at = |base: &str, path: &str| relocate(base, path).ok();
        assert_eq!(at("", "/x/"), Some("x".to_owned()));
        assert_eq!(at("b/c", "/x"), Some("b/c/x".to_owned()));
        assert_eq!(at("b", "/"), Some("b".to_owned()));
        assert_eq!(at("b", "/.."), Some("b".to_owned()));
        assert_eq!(at("b", ".."), None);
        assert_eq!(at("", "..x"), None);
        assert_eq!(base(" ").ok(), Some(" ".to_owned()));
        assert_eq!(base("/b//c/").ok(), Some("b/c".to_owned()));
        assert!(base("../b").is_err());
        assert_eq!(shown("b", "b/x"), "x");
        assert_eq!(shown("b", "b"), ".");
        assert_eq!(shown("", "b/x"), "b/x");
    }

    #[test]
    fn patterns_match_as_those_of_go() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "a1b2b3c", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]", "]", false),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\", "\\", false),
            ("[\\]]", "]", true),
            ("[-a]", "a", false),
            ("ü*", "übung", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern:?} {name:?}");
        }
        assert!(!matches(&"*a".repeat(50), &"a".repeat(49)));
    }
}
