//! The dialect of INI in which datasafed's configuration is written: that of go-ini with its defaults.
//!
//! `=` or `:` ends a key; `#` or `;` anywhere in a value begins a comment, unless the value stands in
//! backquotes or `"""`, which may run over lines; one pair of quotes around a value is taken off; `\` at a
//! line's end continues it; the last of several equal keys counts; nothing is replaced in values. Errors
//! name the line and never show it: it may hold a secret.

use std::fmt;

/// The section of what stands before the first one.
pub const FIRST: &str = "DEFAULT";

/// Sections in the order of the file.
#[derive(Clone, Default)]
pub struct Ini {
    sections: Vec<(String, Section)>,
}

/// Keys and values in the order of the file.
#[derive(Clone, Default)]
pub struct Section(Vec<(String, String)>);

/// Why a text is no such file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IniError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for IniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for IniError {}

impl Section {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Sets a key, in its place if it is there.
    pub fn set(&mut self, key: &str, value: String) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, former)) => *former = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(at).1)
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl Ini {
    /// The section of a name, if there is one.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|(own, _)| own == name).map(|(_, section)| section)
    }

    /// The section of a name, made if there is none.
    pub fn section_mut(&mut self, name: &str) -> &mut Section {
        let at = self.sections.iter().position(|(own, _)| own == name).unwrap_or_else(|| {
            self.sections.push((name.to_owned(), Section::default()));
            self.sections.len() - 1
        });
        &mut self.sections[at].1
    }

    /// Every section.
    pub fn sections_mut(&mut self) -> impl Iterator<Item = &mut Section> {
        self.sections.iter_mut().map(|(_, section)| section)
    }

    /// Reads a file's bytes; what is not UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// A line that is no section, key or comment, or a quotation that does not end.
    pub fn parse(bytes: &[u8]) -> Result<Self, IniError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes);
        let mut lines = Lines { rest: &text, number: 0 };
        let mut ini = Self::default();
        let mut section = FIRST.to_owned();
        // How many keys of this section had `-` for a name: they are numbered.
        let mut nameless = 0;
        while let Some(line) = lines.next() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let number = lines.number;
            let wrong = |why| IniError { line: number, why };
            if let Some(name) = line.strip_prefix('[') {
                let end = name.rfind(']').ok_or(wrong("the section's ] is missing"))?;
                if end == 0 {
                    return Err(wrong("the section has no name"));
                }
                section = name[..end].to_owned();
                nameless = 0;
                ini.section_mut(&section);
                continue;
            }
            let (mut key, value) = split_key(line).map_err(wrong)?;
            if key == "-" {
                nameless += 1;
                key = format!("#{nameless}");
            }
            let value = read_value(value, &mut lines)?;
            ini.section_mut(&section).set(&key, value);
        }
        Ok(ini)
    }
}

struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    /// The next line with its end.
    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let end = self.rest.find('\n').map_or(self.rest.len(), |end| end + 1);
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(line)
    }
}

/// A key, without its quotes, and what follows the delimiter.
fn split_key(line: &str) -> Result<(String, &str), &'static str> {
    const NO_DELIMITER: &str = "key-value delimiter not found: write key = value";
    let quote = match line {
        _ if line.starts_with("\"\"\"") && line.len() > 6 => "\"\"\"",
        _ if line.starts_with('"') => "\"",
        _ if line.starts_with('`') => "`",
        _ => "",
    };
    let (key, rest) = match quote {
        "" => (line, line),
        _ => {
            let inside = &line[quote.len()..];
            let end = inside.find(quote).ok_or("missing closing key quote")?;
            (&inside[..end], &inside[end + quote.len()..])
        }
    };
    let delimiter = rest.find(['=', ':']).ok_or(NO_DELIMITER)?;
    if quote.is_empty() && delimiter == 0 {
        return Err("empty key name");
    }
    let key = if quote.is_empty() { &line[..delimiter] } else { key };
    Ok((key.trim().to_owned(), &rest[delimiter + 1..]))
}

fn read_value(text: &str, lines: &mut Lines<'_>) -> Result<String, IniError> {
    let line = text.trim_start();
    if line.is_empty() {
        return Ok(String::new());
    }
    let quote = match line {
        _ if line.starts_with("\"\"\"") && line.len() > 3 => "\"\"\"",
        _ if line.starts_with('`') => "`",
        _ => "",
    };
    if !quote.is_empty() {
        let inside = &line[quote.len()..];
        return match inside.rfind(quote) {
            Some(end) => Ok(inside[..end].to_owned()),
            None => read_quoted_lines(inside, quote, lines),
        };
    }
    let line = line.trim_end();
    if let Some(begun) = line.strip_suffix('\\') {
        return Ok(read_continued_lines(begun, lines));
    }
    let line = line.find(['#', ';']).map_or(line, |comment| line[..comment].trim());
    Ok(without_quotes(line).to_owned())
}

fn read_quoted_lines(begun: &str, quote: &str, lines: &mut Lines<'_>) -> Result<String, IniError> {
    let first = lines.number;
    let mut value = begun.to_owned();
    while let Some(line) = lines.next() {
        if let Some(end) = line.rfind(quote) {
            value.push_str(&line[..end]);
            return Ok(value);
        }
        value.push_str(line);
    }
    Err(IniError { line: first, why: "the value's closing quote is missing" })
}

/// Neither comments nor quotes are looked for in continued lines.
fn read_continued_lines(begun: &str, lines: &mut Lines<'_>) -> String {
    let mut value = begun.to_owned();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        value.push_str(line);
        match value.strip_suffix('\\') {
            Some(continued) => value.truncate(continued.len()),
            None => break,
        }
    }
    value
}

/// One pair of quotes around the value, if there is no third one in it.
fn without_quotes(value: &str) -> &str {
    for quote in ['\'', '"'] {
        let inside = value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
        if let Some(inside) = inside
            && !inside.contains(quote)
        {
            return inside;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> String {
        let ini = Ini::parse(format!("[s]\nkey = {text}\nnext = 1\n").as_bytes());
        let ini = ini.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        ini.section("s").and_then(|s| s.get("key")).unwrap_or("(none)").to_owned()
    }

    #[test]
    fn values_are_read_as_go_ini_reads_them() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("  two words  ", "two words"),
            ("cut#here", "cut"),
            ("cut ; here", "cut"),
            ("`keeps # and ;`", "keeps # and ;"),
            ("\"\"\"keeps # too\"\"\"", "keeps # too"),
            ("'single'", "single"),
            ("\"double\"", "double"),
            ("'it's'", "'it's'"),
            ("\"a\" and \"b\"", "\"a\" and \"b\""),
            ("a=b:c", "a=b:c"),
            ("%(key)s", "%(key)s"),
            ("one \\\n  two", "one two"),
            ("`several\nlines`", "several\nlines"),
            ("\"", "\""),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn keys_sections_and_comments_are_found() {
        let text =
            "\u{feff}early: 1\n# comment\n; too\n[a]\n k = 1\n\"quoted\" = 2\nk=3\n[b] # c\nK = 4";
        let ini = Ini::parse(text.as_bytes()).expect("it is one");
        let get = |section: &str, key: &str| ini.section(section).and_then(|s| s.get(key));
        assert_eq!(get("DEFAULT", "early"), Some("1"));
        assert_eq!(get("a", "k"), Some("3"));
        assert_eq!(get("a", "quoted"), Some("2"));
        assert_eq!(get("b", "K"), Some("4"));
        assert_eq!(get("b", "k"), None);
    }

    #[test]
    fn what_is_no_such_file_is_told_by_its_line_alone() {
        for (text, line) in [
            ("[s]\nsecret", 2),
            ("[s", 1),
            ("[]", 1),
            ("\n= secret", 2),
            ("k = `secret", 1),
            ("`secret", 1),
        ] {
            let error = Ini::parse(text.as_bytes()).err().unwrap_or_else(|| panic!("{text:?}"));
            assert_eq!(error.line, line, "{text:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
