//! SMART of an ATA disk: its attributes and its own judgement.
//!
//! In: the 512 bytes of SMART READ DATA (ATA8-ACS, section 7.52.6; the attributes are vendors' custom, as smartmontools'
//! drivedb.h and all large vendors have it) and the sense data of SMART RETURN STATUS. Out: the attributes that foretell a
//! failure (5, 187, 197, 198, 199) and the temperature. Never: an attribute of a page with a wrong checksum, a panic on any
//! bytes.

use serde::{Deserialize, Serialize};

/// Bytes of the page.
pub const PAGE_BYTES: usize = 512;
/// Attributes in it.
const ATTRIBUTES: usize = 30;
const ATTRIBUTE_BYTES: usize = 12;

/// What a disk says of itself; an attribute that it does not have is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtaHealth {
    /// Its own judgement: `Some(true)` where it expects to fail.
    pub is_failing: Option<bool>,
    /// 5: sectors replaced by spare ones.
    pub reallocated: Option<u64>,
    /// 187: errors that its own correction could not mend, as told to the host.
    pub reported_uncorrectable: Option<u64>,
    /// 197: sectors that could not be read and wait to be written.
    pub pending: Option<u64>,
    /// 198: sectors that its own scan could not read.
    pub offline_uncorrectable: Option<u64>,
    /// 199: transfers over the cable with a wrong checksum.
    pub link_crc_errors: Option<u64>,
    /// 194, or 190: degrees Celsius.
    pub temperature_c: Option<u8>,
}

impl AtaHealth {
    /// Reads the attributes; `None` where the page is too short, empty, or its checksum is wrong.
    #[must_use]
    pub fn decode(page: &[u8]) -> Option<Self> {
        let page = page.get(..PAGE_BYTES)?;
        let sum = page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if sum != 0 || page.iter().all(|byte| *byte == 0) {
            return None;
        }
        let mut health = Self::default();
        for attribute in page[2..].chunks_exact(ATTRIBUTE_BYTES).take(ATTRIBUTES) {
            // Identifier, flags (2), value, worst, raw (6), reserved.
            let mut raw = [0; 8];
            raw[..6].copy_from_slice(&attribute[5..11]);
            let raw = u64::from_le_bytes(raw);
            match attribute[0] {
                5 => health.reallocated = Some(raw & 0xffff_ffff),
                187 => health.reported_uncorrectable = Some(raw & 0xffff_ffff),
                197 => health.pending = Some(raw & 0xffff_ffff),
                198 => health.offline_uncorrectable = Some(raw & 0xffff_ffff),
                199 => health.link_crc_errors = Some(raw & 0xffff_ffff),
                194 => health.temperature_c = celsius(attribute[5]).or(health.temperature_c),
                190 => health.temperature_c = health.temperature_c.or(celsius(attribute[5])),
                _ => {}
            }
        }
        Some(health)
    }
}

/// The lowest byte is the temperature; the others hold extremes, in each vendor's own order.
fn celsius(byte: u8) -> Option<u8> {
    (1..=125).contains(&byte).then_some(byte)
}

/// The disk's own judgement, out of the sense data of SMART RETURN STATUS (ATA8-ACS, 7.52.9; SAT-3, 12.2.2.7 for the descriptor,
/// 12.2.2.6 for fixed format): LBA mid and high are 4Fh and C2h where it is well, F4h and 2Ch where a threshold was crossed.
#[must_use]
pub fn judgement(sense: &[u8]) -> Option<bool> {
    let (mid, high) = match sense.first()? & 0x7f {
        0x72 | 0x73 if *sense.get(8)? == 0x09 => (*sense.get(17)?, *sense.get(19)?),
        0x70 | 0x71 => (*sense.get(10)?, *sense.get(11)?),
        _ => return None,
    };
    match (mid, high) {
        (0x4f, 0xc2) => Some(false),
        (0xf4, 0x2c) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A page with these attributes (identifier, raw bytes), its checksum right.
    fn page(attributes: &[(u8, [u8; 6])]) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        page[0] = 16;
        for (place, (id, raw)) in attributes.iter().enumerate() {
            let at = 2 + place * ATTRIBUTE_BYTES;
            page[at] = *id;
            page[at + 3] = 100;
            page[at + 4] = 100;
            page[at + 5..at + 11].copy_from_slice(raw);
        }
        page[511] = page.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        page
    }

    #[test]
    fn attributes_are_found_by_their_numbers() {
        let none = AtaHealth::default();
        for (what, attributes, expected) in [
            ("none known", &[(9, [1, 2, 0, 0, 0, 0])][..], none),
            (
                "all",
                &[
                    (5, [8, 0, 0, 0, 0, 0]),
                    (187, [1, 1, 0, 0, 0, 0]),
                    (194, [41, 0, 20, 0, 60, 0]),
                    (197, [3, 0, 0, 0, 0, 0]),
                    (198, [2, 0, 0, 0, 0, 0]),
                    (199, [0, 0, 1, 0, 0, 0]),
                ],
                AtaHealth {
                    is_failing: None,
                    reallocated: Some(8),
                    reported_uncorrectable: Some(257),
                    pending: Some(3),
                    offline_uncorrectable: Some(2),
                    link_crc_errors: Some(65_536),
                    temperature_c: Some(41),
                },
            ),
            (
                "a count with other things in its upper bytes",
                &[(5, [4, 0, 0, 0, 9, 9])],
                AtaHealth { reallocated: Some(4), ..none },
            ),
            ("190 alone", &[(190, [30, 0, 0, 0, 0, 0])], AtaHealth { temperature_c: Some(30), ..none }),
            (
                "194 before 190",
                &[(194, [50, 0, 0, 0, 0, 0]), (190, [30, 0, 0, 0, 0, 0])],
                AtaHealth { temperature_c: Some(50), ..none },
            ),
            ("no temperature", &[(194, [0, 0, 0, 0, 0, 0])], none),
        ] {
            assert_eq!(AtaHealth::decode(&page(attributes)), Some(expected), "{what}");
        }
    }

    #[test]
    fn a_page_with_a_wrong_checksum_or_of_nothing_is_none() {
        let mut wrong = page(&[(5, [8, 0, 0, 0, 0, 0])]);
        wrong[7] ^= 1;
        for bytes in [wrong, vec![0; 512], page(&[])[..511].to_vec(), vec![]] {
            assert_eq!(AtaHealth::decode(&bytes), None);
        }
    }

    #[test]
    fn the_disks_own_judgement_is_found_in_both_forms_of_sense_data() {
        let descriptor = |mid, high| {
            let mut sense = vec![0x72, 1, 0, 0x1d, 0, 0, 0, 14, 0x09, 12];
            sense.resize(32, 0);
            (sense[17], sense[19]) = (mid, high);
            sense
        };
        let fixed = |mid, high| {
            let mut sense = vec![0x70];
            sense.resize(18, 0);
            (sense[10], sense[11]) = (mid, high);
            sense
        };
        for (sense, expected) in [
            (descriptor(0x4f, 0xc2), Some(false)),
            (descriptor(0xf4, 0x2c), Some(true)),
            (fixed(0x4f, 0xc2), Some(false)),
            (fixed(0xf4, 0x2c), Some(true)),
            (descriptor(0, 0), None),
            (vec![0x72, 1, 0, 0x1d], None),
            (vec![0; 32], None),
            (vec![], None),
        ] {
            assert_eq!(judgement(&sense), expected, "{sense:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = (AtaHealth::decode(&bytes), judgement(&bytes));
            let mut page = bytes;
            page.resize(PAGE_BYTES, 0);
            page[511] = page[..511].iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
            prop_assert!(AtaHealth::decode(&page).is_some() || page.iter().all(|byte| *byte == 0));
        }
    }
}
