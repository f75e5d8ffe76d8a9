//! The driver's name.

use std::fmt;
use std::str::FromStr;

/// The name that StorageClasses and CSIDriver objects know the driver by: a domain name of at most 63
/// bytes that begins and ends with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverName(String);

impl DriverName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DriverName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let label = |label: &str| {
            let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
            let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            ends(label.bytes().next()) && ends(label.bytes().last()) && label.bytes().all(usual)
        };
        match text.len() <= 63 && text.split('.').all(label) {
            true => Ok(Self(text.to_owned())),
            false => {
                Err("is no driver name: at most 63 letters, digits, hyphens and dots, with a \
                          letter or digit at the ends of each part; example: csi.strongroom.io"
                    .to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_name_is_a_domain_name() {
        let long = "x".repeat(64);
        for name in ["csi.strongroom.io", "ru.yandex.s3.csi", "a"] {
            assert!(name.parse::<DriverName>().is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", ".a", "a.", "a..b", "a_b", "a/b", long.as_str()] {
            assert!(name.parse::<DriverName>().is_err(), "{name}");
        }
    }
}
