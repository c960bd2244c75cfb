//! The wire between agent and collector: the generated protocol, the identifiers both sides derive
//! alike, and the limits both sides hold to. No IO, no policy.
#![forbid(unsafe_code)]

pub mod flags;
pub mod inventory;
pub mod limits;
pub mod series;
pub mod tape;

/// Version 1 of the uplink protocol, generated from `proto/railwatch/v1/uplink.proto`.
#[allow(missing_docs, reason = "generated; the .proto file carries the documentation")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, unused_qualifications, reason = "generated")]
pub mod v1 {
    include!("generated/railwatch.v1.rs");
}

/// The versions of the protocol that this build speaks, inclusive.
pub const PROTOCOL_VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

/// The highest version both sides speak, or `None`.
pub fn negotiate(theirs_min: u32, theirs_max: u32) -> Option<u32> {
    let common = theirs_max.min(*PROTOCOL_VERSIONS.end());
    (common >= theirs_min && common >= *PROTOCOL_VERSIONS.start() && theirs_min <= theirs_max).then_some(common)
}

#[cfg(test)]
mod tests {
    use super::negotiate;

    #[test]
    fn the_highest_common_version_is_taken_and_none_where_there_is_none() {
        for (theirs, expected) in [((1, 1), Some(1)), ((1, 9), Some(1)), ((2, 9), None), ((0, 0), None), ((5, 1), None)]
        {
            assert_eq!(negotiate(theirs.0, theirs.1), expected, "{theirs:?}");
        }
    }
}
