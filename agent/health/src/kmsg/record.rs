//! What the helper sends: one JSON object a datagram.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest datagram, bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// A line that was recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Kind of a row of [`PATTERNS`](super::PATTERNS).
    pub kind: String,
    /// Number of the record in the kernel's log.
    pub seq: u64,
    /// When it was written, microseconds of the kernel's own clock.
    pub at_us: u64,
    /// When the helper read it, CLOCK_MONOTONIC nanoseconds.
    pub read_ns: u64,
    /// What it captured.
    pub fields: BTreeMap<String, String>,
}

/// What the helper says: that it lives, and perhaps a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Records of the log read since the helper's start.
    pub lines: u64,
    /// Records that the kernel overwrote before they were read, since the helper's start.
    pub lost: u64,
    /// A line that was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}
