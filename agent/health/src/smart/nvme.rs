//! The SMART / Health Information log page of an NVMe controller (log identifier 02h; NVM Express Base Specification 1.4,
//! section 5.14.1.2, figure 194).
//!
//! In: 512 bytes. Out: what an operator would act on. Never: a value of a page that no device wrote, a panic on any bytes.

use serde::{Deserialize, Serialize};

/// Bytes of the page.
pub const PAGE_BYTES: usize = 512;

/// Bits of the critical warning, and what each says.
const WARNINGS: [&str; 6] = [
    "spare below its threshold",
    "temperature beyond its threshold",
    "reliability degraded by media errors",
    "media read-only",
    "volatile memory backup failed",
    "persistent memory region read-only or unreliable",
];

/// What a controller says of itself. Counts of 16 bytes stop at the largest 64-bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmeHealth {
    /// The critical warning byte; 0 is well.
    pub critical_warning: u8,
    /// Composite temperature, kelvin; `None` where the controller reports none.
    pub temperature_k: Option<u16>,
    /// Spare capacity left, percent.
    pub spare_percent: u8,
    /// Below it the controller warns, percent.
    pub spare_threshold_percent: u8,
    /// Of the rated endurance used, percent; may exceed 100, and stops at 255.
    pub used_percent: u8,
    /// Power losses without a shutdown.
    pub unsafe_shutdowns: u64,
    /// Unrecovered data integrity errors.
    pub media_errors: u64,
    /// Entries ever made in the error log.
    pub error_log_entries: u64,
}

impl NvmeHealth {
    /// Reads the page; `None` where it is shorter than a page or no device wrote it (all bits equal, as from a bus that nobody
    /// answers on).
    #[must_use]
    pub fn decode(page: &[u8]) -> Option<Self> {
        let page: &[u8; PAGE_BYTES] = page.get(..PAGE_BYTES)?.try_into().ok()?;
        if page.iter().all(|byte| *byte == page[0]) && matches!(page[0], 0 | 0xff) {
            return None;
        }
        let temperature_k = u16::from_le_bytes([page[1], page[2]]);
        Some(Self {
            critical_warning: page[0],
            temperature_k: (temperature_k != 0).then_some(temperature_k),
            spare_percent: page[3],
            spare_threshold_percent: page[4],
            used_percent: page[5],
            unsafe_shutdowns: count(page, 144),
            media_errors: count(page, 160),
            error_log_entries: count(page, 176),
        })
    }

    /// The worst of what it warns of; `None` where it is well.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        // Read-only and unreliable media stop work; then what will; heat last.
        let by_weight = [3, 2, 0, 4, 5, 1];
        let found = by_weight.into_iter().find(|bit| self.critical_warning >> bit & 1 == 1);
        match found {
            Some(bit) => Some(WARNINGS[bit]),
            None => (self.critical_warning != 0).then_some("a warning that this build does not know"),
        }
    }

    /// The spare left is at or below what the controller warns at, or below a tenth where it names no threshold.
    #[must_use]
    pub fn is_spare_low(&self) -> bool {
        self.critical_warning & 1 == 1
            || match self.spare_threshold_percent {
                0 => self.spare_percent < 10,
                threshold => self.spare_percent <= threshold,
            }
    }
}

/// A count of 16 bytes, little-endian.
fn count(page: &[u8; PAGE_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&page[at..at + 16]);
    u64::try_from(u128::from_le_bytes(bytes)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use proptest::prelude::*;

    /// A page of a well disk, with bytes changed.
    fn page(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        for (at, byte) in [(1, 0x37), (2, 0x01), (3, 100), (4, 10), (5, 3), (144, 7), (176, 2)] {
            page[at] = byte;
        }
        for (at, byte) in changes {
            page[*at] = *byte;
        }
        page
    }

    #[test]
    fn a_page_is_read_as_the_specification_says() {
        let well = NvmeHealth {
            critical_warning: 0,
            temperature_k: Some(0x137),
            spare_percent: 100,
            spare_threshold_percent: 10,
            used_percent: 3,
            unsafe_shutdowns: 7,
            media_errors: 0,
            error_log_entries: 2,
        };
        for (what, changes, expected) in [
            ("well", &[][..], well),
            ("media errors", &[(160, 0x10), (161, 0x27)], NvmeHealth { media_errors: 10_000, ..well }),
            ("a count beyond 64 bits", &[(168, 1)], NvmeHealth { media_errors: u64::MAX, ..well }),
            ("no temperature", &[(1, 0), (2, 0)], NvmeHealth { temperature_k: None, ..well }),
            ("worn out", &[(5, 255)], NvmeHealth { used_percent: 255, ..well }),
        ] {
            assert_eq!(NvmeHealth::decode(&page(changes)), Some(expected), "{what}");
        }
    }

    #[test]
    fn the_worst_warning_is_named() {
        for (byte, expected) in [
            (0, None),
            (0x01, Some("spare below its threshold")),
            (0x02, Some("temperature beyond its threshold")),
            (0x0f, Some("media read-only")),
            (0x07, Some("reliability degraded by media errors")),
            (0x40, Some("a warning that this build does not know")),
        ] {
            assert_eq!(NvmeHealth::decode(&page(&[(0, byte)])).unwrap().warning(), expected, "{byte:#x}");
        }
    }

    #[test]
    fn spare_is_low_at_its_threshold() {
        for (spare, threshold, warning, expected) in [
            (100, 10, 0, false),
            (11, 10, 0, false),
            (10, 10, 0, true),
            (9, 0, 0, true),
            (50, 0, 0, false),
            (50, 10, 1, true),
        ] {
            let health = NvmeHealth::decode(&page(&[(0, warning), (3, spare), (4, threshold)])).unwrap();
            assert_eq!(health.is_spare_low(), expected, "{spare} {threshold} {warning}");
        }
    }

    #[test]
    fn what_no_device_wrote_is_no_page() {
        for bytes in [vec![0; 512], vec![0xff; 512], vec![1; 511], vec![]] {
            assert_eq!(NvmeHealth::decode(&bytes), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(health) = NvmeHealth::decode(&bytes) {
                let _ = (health.warning(), health.is_spare_low());
            }
        }
    }
}
