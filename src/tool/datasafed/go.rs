//! Texts as Go writes and reads them: quotes, JSON, times, numbers. Scripts compare the output.

use crate::volume::objects::Modified;
use crate::world::Timestamp;
use jiff::tz::TimeZone;

/// A text in quotes, as `%q` prints it.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => {
                quoted.push_str(&format!("\\x{:02x}", control as u32));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A text as a JSON string, as the standard encoder writes it: safe in HTML too.
pub(super) fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                json.push_str(&format!("\\u{:04x}", character as u32));
            }
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

/// Seconds since 1970, as `Unix()` gives them.
pub(super) fn unix(Timestamp(nanos): Timestamp) -> i64 {
    nanos.div_euclid(1_000_000_000)
}

/// A time by RFC 3339 to the second: what a writer told in the local zone, what a store's clock told in UTC.
pub(super) fn rfc3339(modified: Modified, time: Timestamp) -> String {
    let zone = match modified {
        Modified::Told(_) => TimeZone::system(),
        Modified::Stored(_) | Modified::Unknown => TimeZone::UTC,
    };
    in_zone(time, zone)
}

/// The same in the local zone.
pub(super) fn rfc3339_local(time: Timestamp) -> String {
    in_zone(time, TimeZone::system())
}

fn in_zone(time: Timestamp, zone: TimeZone) -> String {
    // In range: 64 bits of nanoseconds are the years 1677 to 2262.
    let time = jiff::Timestamp::from_second(unix(time)).unwrap_or_default().to_zoned(zone);
    let offset = time.offset().seconds();
    let zone = match offset {
        0 => "Z".to_owned(),
        _ => {
            let minutes = offset.abs() / 60;
            let sign = if offset < 0 { '-' } else { '+' };
            format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
        }
    };
    format!("{}{zone}", time.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// A truth value as `ParseBool` takes it.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// What `strconv` says of a text that is no such value.
pub(super) fn not_parsed(kind: &str, text: &str) -> String {
    format!("strconv.Parse{kind}: parsing {}: invalid syntax", quoted(text))
}

/// An integer of 64 bits as `ParseInt` takes it with base 0: decimal, `0x`, `0o`, `0b`, a leading 0 for
/// octal, `_` between digits.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    let wrong = || not_parsed("Int", text);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let misplaced =
        digits.ends_with('_') || digits.contains("__") || (digits.starts_with('_') && base == 10);
    let digits = digits.replace('_', "");
    if digits.is_empty() || misplaced || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(wrong());
    }
    let sign = if negative { "-" } else { "" };
    i64::from_str_radix(&format!("{sign}{digits}"), base)
        .map_err(|_| format!("strconv.ParseInt: parsing {}: value out of range", quoted(text)))
}

/// The seconds of a duration: numbers with fractions and units, `1h30m`.
pub(super) fn duration(text: &str) -> Result<f64, String> {
    let wrong = || format!("time: invalid duration {}", quoted(text));
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut seconds = 0.0;
    if rest == "0" {
        return Ok(seconds);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        if !digits.contains(|c: char| c.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return Err(wrong());
        }
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let unit = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quoted(text))),
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            unit => {
                let (unit, text) = (quoted(unit), quoted(text));
                return Err(format!("time: unknown unit {unit} in duration {text}"));
            }
        };
        seconds += digits.parse::<f64>().map_err(|_| wrong())? * unit;
        rest = after;
    }
    Ok(if text.starts_with('-') { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_go() {
        assert_eq!(quoted("a\"b\\c\n\u{1}ü"), "\"a\\\"b\\\\c\\n\\x01ü\"");
        assert_eq!(
            json_string("<&>\u{2028}\u{1}\t\"ü"),
            "\"\\u003c\\u0026\\u003e\\u2028\\u0001\\t\\\"ü\""
        );
        assert_eq!(
            in_zone(Timestamp(1_700_000_000_999_999_999), TimeZone::UTC),
            "2023-11-14T22:13:20Z"
        );
        let east = TimeZone::fixed(jiff::tz::offset(8));
        assert_eq!(in_zone(Timestamp(0), east), "1970-01-01T08:00:00+08:00");
        assert_eq!(unix(Timestamp(-1)), -1);
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, number) in [
            ("0", 0),
            ("-5", -5),
            ("+7", 7),
            ("0x1F", 31),
            ("017", 15),
            ("0b11", 3),
            ("1_000", 1000),
        ] {
            assert_eq!(integer(text), Ok(number), "{text}");
        }
        for text in ["", "x", "1.5", "08", "1__0", "0x", "--1"] {
            assert!(integer(text).is_err(), "{text}");
        }
        let range = integer("9223372036854775808").expect_err("too large");
        assert!(range.ends_with("value out of range"), "{range}");
        assert!(duration("1h30m").is_ok() && duration("-1.5s").is_ok() && duration("0").is_ok());
        assert!(duration("1").is_err() && duration("h").is_err() && duration("1x").is_err());
    }
}
