//! The S3 family, one row each: what its servers do in their own way. A provider more is a row more.
//!
//! Names are those of rclone, since configuration files of datasafed use them. Not in the table, because
//! nothing here depends on it: how a server computes the ETag of an upload in parts (every part is
//! checked by its own digest), and what it says to a bucket that exists (none is ever created).

use super::{ListVersion, Listing, PART_LIMIT};

/// Where the bucket's name goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathStyle {
    /// Before the host's name, whatever the settings say; in the path only where the host is an address.
    Host,
    /// In the path, unless the settings say otherwise.
    Settings,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    /// How configuration files name it.
    pub name: &'static str,
    /// Where the bucket's name goes.
    pub path_style: PathStyle,
    /// How it lists.
    pub listing: Listing,
    /// Parts that it lets an upload have.
    pub part_limit: u32,
    /// Whether it takes many deletions in one request as the SDK sends it: with a CRC-32, which servers
    /// that ask for an MD5 refuse.
    pub batch_deletes: bool,
    /// Whether it may know CRC-32C: it is asked, and MD5 taken if it does not.
    pub crc32c: bool,
}

/// The provider that stands for any other server of the family.
const OTHER: &str = "Other";

const V1: Listing = Listing { version: ListVersion::V1, encoded: true };
const V1_BARE: Listing = Listing { version: ListVersion::V1, encoded: false };
const V2: Listing = Listing { version: ListVersion::V2, encoded: true };
const V2_BARE: Listing = Listing { version: ListVersion::V2, encoded: false };

/// The table.
pub static PROVIDERS: &[Provider] = &[
    Provider { batch_deletes: true, crc32c: true, ..row("AWS", PathStyle::Host, V2) },
    row("Alibaba", PathStyle::Host, V2),
    row("ArvanCloud", PathStyle::Settings, V1_BARE),
    row("Ceph", PathStyle::Settings, V1_BARE),
    row("ChinaMobile", PathStyle::Settings, V1_BARE),
    row("Cloudflare", PathStyle::Settings, V2),
    row("DigitalOcean", PathStyle::Host, V2_BARE),
    row("Dreamhost", PathStyle::Host, V2_BARE),
    row("GCS", PathStyle::Host, V2),
    // Its parallel file system lists the same page for ever when markers are encoded.
    row("HuaweiOBS", PathStyle::Host, V1_BARE),
    row("IBMCOS", PathStyle::Settings, V1_BARE),
    row("IDrive", PathStyle::Settings, V2),
    row("IONOS", PathStyle::Settings, V2_BARE),
    row("Liara", PathStyle::Settings, V2_BARE),
    row("LyveCloud", PathStyle::Host, V2),
    Provider { batch_deletes: true, crc32c: true, ..row("Minio", PathStyle::Settings, V2) },
    row("Netease", PathStyle::Host, V1_BARE),
    row("Petabox", PathStyle::Host, V2),
    row("Qiniu", PathStyle::Settings, V2_BARE),
    row("RackCorp", PathStyle::Host, V2),
    Provider { part_limit: 1000, ..row("Scaleway", PathStyle::Host, V2_BARE) },
    row("SeaweedFS", PathStyle::Settings, V1_BARE),
    row("StackPath", PathStyle::Host, V1),
    row("Storj", PathStyle::Host, V2),
    row("TencentCOS", PathStyle::Host, V1),
    row("Wasabi", PathStyle::Host, V2),
    Provider { crc32c: true, ..row(OTHER, PathStyle::Settings, V1_BARE) },
];

const fn row(name: &'static str, path_style: PathStyle, listing: Listing) -> Provider {
    Provider {
        name,
        path_style,
        listing,
        part_limit: PART_LIMIT,
        batch_deletes: false,
        crc32c: false,
    }
}

impl Provider {
    /// The row of a name, in any case, or of any other server if the name is empty.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = if name.is_empty() { OTHER } else { name };
        PROVIDERS.iter().find(|provider| provider.name.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_each_is_there_once() {
        for (index, provider) in PROVIDERS.iter().enumerate() {
            let found = Provider::named(&provider.name.to_uppercase()).expect("it is a name");
            assert!(std::ptr::eq(found, &PROVIDERS[index]), "{}", provider.name);
        }
        assert_eq!(Provider::named("").map(|provider| provider.name), Some(OTHER));
        assert!(Provider::named("Amazon").is_none());
    }
}
