//! The keys of the storage section, one row each: those of rclone's backends `s3` and `local`.

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It says where and how.
    Used,
    /// It changes how rclone works, not what is stored: taken, and of no effect.
    Taken,
    /// It changes what is stored or who may read it: to ignore it would be wrong. Refused unless it has
    /// the value that means nothing.
    Refused(&'static str),
}

use Use::{Refused, Taken, Used};

/// Keys of every backend.
pub(super) const COMMON: &[(&str, Use)] =
    &[("type", Used), ("root", Used), ("no_check_certificate", Used)];

/// Keys of the backend `s3`.
pub(super) const S3: &[(&str, Use)] = &[
    ("provider", Used),
    ("env_auth", Used),
    ("access_key_id", Used),
    ("secret_access_key", Used),
    ("session_token", Used),
    ("region", Used),
    ("endpoint", Used),
    ("force_path_style", Used),
    ("list_version", Used),
    ("list_url_encode", Used),
    ("max_upload_parts", Used),
    ("profile", Used),
    ("acl", Refused("")),
    ("bucket_acl", Taken),
    ("chunk_size", Taken),
    ("copy_cutoff", Taken),
    ("decompress", Refused("false")),
    ("directory_bucket", Refused("false")),
    ("directory_markers", Refused("false")),
    ("disable_checksum", Taken),
    ("disable_http2", Taken),
    ("download_url", Refused("")),
    ("encoding", Taken),
    ("leave_parts_on_error", Taken),
    ("list_chunk", Taken),
    ("location_constraint", Taken),
    ("memory_pool_flush_time", Taken),
    ("memory_pool_use_mmap", Taken),
    ("might_gzip", Taken),
    ("no_check_bucket", Taken),
    ("no_head", Taken),
    ("no_head_object", Taken),
    ("no_system_metadata", Taken),
    ("requester_pays", Refused("false")),
    ("role_arn", Refused("")),
    ("sdk_log_mode", Taken),
    ("server_side_encryption", Refused("")),
    ("shared_credentials_file", Refused("")),
    ("sse_customer_algorithm", Refused("")),
    ("sse_customer_key", Refused("")),
    ("sse_customer_key_base64", Refused("")),
    ("sse_customer_key_md5", Refused("")),
    ("sse_kms_key_id", Refused("")),
    ("storage_class", Refused("")),
    ("sts_endpoint", Taken),
    ("upload_concurrency", Taken),
    ("upload_cutoff", Taken),
    ("use_accelerate_endpoint", Refused("false")),
    ("use_accept_encoding_gzip", Taken),
    ("use_already_exists", Taken),
    ("use_data_integrity_protections", Taken),
    ("use_dual_stack", Refused("false")),
    ("use_multipart_etag", Taken),
    ("use_multipart_uploads", Taken),
    ("use_presigned_request", Taken),
    ("use_unsigned_payload", Taken),
    ("v2_auth", Refused("false")),
    ("version_at", Refused("")),
    ("version_deleted", Refused("false")),
    ("versions", Refused("false")),
];

/// Keys of the backend `local`.
pub(super) const LOCAL: &[(&str, Use)] = &[
    ("copy_links", Used),
    ("links", Refused("false")),
    ("skip_links", Taken),
    ("case_insensitive", Taken),
    ("case_sensitive", Taken),
    ("encoding", Taken),
    ("no_check_updated", Taken),
    ("no_clone", Taken),
    ("no_preallocate", Taken),
    ("no_set_modtime", Taken),
    ("no_sparse", Taken),
    ("nounc", Taken),
    ("one_file_system", Refused("false")),
    ("time_type", Taken),
    ("unicode_normalization", Refused("false")),
    ("zero_size_links", Taken),
];
