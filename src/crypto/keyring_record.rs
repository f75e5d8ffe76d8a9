//! The stored form of a keyring, as JSON inside the volume's descriptor. It comes from the bucket:
//! sizes and counts are checked while parsing, and nothing in it is believed before the slot's
//! commitment, the wrapped keys' tags and the descriptor's MAC agree with the passphrase.

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::error::CryptoError;
use super::kdf::{self, Kdf};

/// The most key slots a volume has.
pub const MAX_SLOTS: usize = 16;
/// The most master keys a volume has.
pub const MAX_MASTERS: usize = 256;
/// The longest label of a slot in bytes.
pub const MAX_LABEL: usize = 64;
/// A wrapped 32-byte key: nonce, ciphertext, tag.
pub(super) const WRAPPED: usize = 12 + 32 + 16;

/// Key slots and wrapped master keys; empty for a volume that is not encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct KeyringRecord {
    pub(super) slots: Vec<Slot>,
    pub(super) masters: Vec<Master>,
}

/// What may be told about a slot without its passphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSummary {
    /// Its number, never used twice in a row of changes.
    pub id: u32,
    /// What its owner called it.
    pub label: String,
    /// How its key is derived.
    pub kdf: Kdf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub(super) id: u32,
    pub(super) label: String,
    pub(super) kdf: Kdf,
    pub(super) salt: Binary<{ kdf::SALT }>,
    pub(super) commitment: Binary<32>,
    pub(super) key: Binary<WRAPPED>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Master {
    pub(super) number: u32,
    pub(super) key: Binary<WRAPPED>,
}

impl KeyringRecord {
    /// The slots, in the order they were added.
    pub fn slots(&self) -> impl Iterator<Item = SlotSummary> + '_ {
        self.slots.iter().map(|slot| SlotSummary {
            id: slot.id,
            label: slot.label.clone(),
            kdf: slot.kdf,
        })
    }

    fn check(&self) -> Result<(), CryptoError> {
        let invalid = |why| Err(CryptoError::Invalid { why });
        if self.slots.len() > MAX_SLOTS {
            return Err(CryptoError::Limit { what: "key slots", limit: MAX_SLOTS as u64 });
        }
        if self.masters.len() > MAX_MASTERS {
            return Err(CryptoError::Limit { what: "master keys", limit: MAX_MASTERS as u64 });
        }
        if self.slots.is_empty() != self.masters.is_empty() {
            return invalid("keyring: key slots and master keys belong together");
        }
        for (index, slot) in self.slots.iter().enumerate() {
            check_label(&slot.label)?;
            slot.kdf.check()?;
            if self.slots[..index].iter().any(|earlier| earlier.id == slot.id) {
                return invalid("keyring: two key slots have the same id");
            }
        }
        if !self.masters.windows(2).all(|pair| pair[0].number < pair[1].number) {
            return invalid("keyring: master keys are numbered in rising order");
        }
        Ok(())
    }
}

/// Labels are shown on terminals: short, and without control characters.
pub(super) fn check_label(label: &str) -> Result<(), CryptoError> {
    if label.len() > MAX_LABEL {
        return Err(CryptoError::Limit {
            what: "bytes in a slot's label",
            limit: MAX_LABEL as u64,
        });
    }
    if label.chars().any(char::is_control) {
        return Err(CryptoError::Invalid { why: "keyring: a label has no control characters" });
    }
    Ok(())
}

/// The same fields before they were checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    slots: Vec<Slot>,
    masters: Vec<Master>,
}

impl TryFrom<Unchecked> for KeyringRecord {
    type Error = CryptoError;
    fn try_from(Unchecked { slots, masters }: Unchecked) -> Result<Self, CryptoError> {
        let record = Self { slots, masters };
        record.check().map(|()| record)
    }
}

/// Exactly `N` bytes, as base64 with padding (RFC 4648) in JSON. Holds nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binary<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> Serialize for Binary<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Binary<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| de::Error::custom(format_args!("expected {N} bytes as base64")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(slots: usize, masters: usize) -> KeyringRecord {
        KeyringRecord {
            slots: (0..slots)
                .map(|id| Slot {
                    id: id as u32,
                    label: "x".into(),
                    kdf: Kdf::Raw,
                    salt: Binary([1; 16]),
                    commitment: Binary([2; 32]),
                    key: Binary([3; WRAPPED]),
                })
                .collect(),
            masters: (1..=masters)
                .map(|number| Master { number: number as u32, key: Binary([4; WRAPPED]) })
                .collect(),
        }
    }

    fn check(record: &KeyringRecord, accepted: bool) {
        let json = serde_json::to_string(record).unwrap();
        assert_eq!(serde_json::from_str::<KeyringRecord>(&json).is_ok(), accepted, "{json}");
    }

    #[test]
    fn counts_ids_labels_and_parameters_are_checked_while_parsing() {
        check(&record(0, 0), true);
        check(&record(1, 1), true);
        check(&record(MAX_SLOTS, MAX_MASTERS), true);
        check(&record(MAX_SLOTS + 1, 1), false);
        check(&record(1, MAX_MASTERS + 1), false);
        check(&record(1, 0), false);
        check(&record(0, 1), false);
        let with = |change: fn(&mut KeyringRecord)| {
            let mut record = record(2, 2);
            change(&mut record);
            record
        };
        check(&with(|record| record.slots[1].id = 0), false);
        check(&with(|record| record.masters[1].number = 1), false);
        check(&with(|record| record.slots[0].label = "\u{1b}[2J".into()), false);
        check(&with(|record| record.slots[0].label = "l".repeat(MAX_LABEL + 1)), false);
        let weak = Kdf::Pbkdf2HmacSha256 { iterations: 1 };
        let mut record = record(1, 1);
        record.slots[0].kdf = weak;
        check(&record, false);
    }

    #[test]
    fn unknown_fields_and_wrong_sizes_are_refused() {
        let json = serde_json::to_string(&record(1, 1)).unwrap();
        for (from, to) in [
            ("\"slots\"", "\"more\":1,\"slots\""),
            ("\"label\"", "\"more\":1,\"label\""),
            ("\"number\"", "\"more\":1,\"number\""),
            ("AQEBAQEBAQEBAQEBAQEBAQ==", "AQEBAQEBAQEBAQEBAQEB"),
            ("AQEBAQEBAQEBAQEBAQEBAQ==", "AQEBAQEBAQEBAQEBAQEBAR=="),
        ] {
            let changed = json.replacen(from, to, 1);
            assert_ne!(changed, json);
            assert!(serde_json::from_str::<KeyringRecord>(&changed).is_err(), "{changed}");
        }
    }
}
