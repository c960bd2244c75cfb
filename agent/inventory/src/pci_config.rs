//! Settings in a PCI device's configuration space.
//!
//! In: words of the file `config`, asked for one at a time: each is a read of the device, and all 4 KiB are a thousand of them. Without
//! CAP_SYS_ADMIN the kernel gives the first 64 bytes, no capability is in those, and nothing is known. Out: the device control register,
//! ATS and ACS. Layout: PCI Express Base Specification 5.0, sections 7.5.3.4, 7.7.8 and 10.5.1;
//! include/uapi/linux/pci_regs.h.

const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 0x10;
const CAPABILITIES: usize = 0x34;
const EXPRESS: u8 = 0x10;
const EXTENDED: usize = 0x100;
const EXTENDED_ACS: u16 = 0x000d;
const EXTENDED_ATS: u16 = 0x000f;
/// Request redirect, completion redirect, upstream forwarding, egress control: what turns peer-to-peer traffic.
const ACS_REDIRECTS: u16 = 0x04 | 0x08 | 0x20;
/// Capabilities that a chain may have before it is taken for a loop: 4 KiB hold no more.
const CHAIN_MAX: usize = 480;

/// What is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PciSettings {
    /// Bytes.
    pub(crate) max_payload: Option<u32>,
    /// Bytes.
    pub(crate) max_read_request: Option<u32>,
    pub(crate) relaxed_ordering: Option<bool>,
    /// `None` where the device has no such capability, or not all of its space could be read.
    pub(crate) ats: Option<bool>,
    /// A bridge turns requests of one device to another up to the root.
    pub(crate) acs_redirects: Option<bool>,
}

impl PciSettings {
    /// `word`: the 16 bits at an offset, where they can be read.
    pub(crate) fn read(word: impl Fn(usize) -> Option<u16>) -> Self {
        let mut settings = Self::default();
        // A device that is gone answers with ones.
        if word(0).is_none_or(|vendor| vendor == 0xffff) {
            return settings;
        }
        if word(STATUS).is_some_and(|status| status & STATUS_CAPABILITIES != 0) {
            let mut at = word(CAPABILITIES).map_or(0, |first| usize::from(first & 0xfc));
            for _ in 0..CHAIN_MAX {
                let Some([id, next]) = word(at).filter(|_| at != 0).map(u16::to_le_bytes) else { break };
                if id == EXPRESS {
                    if let Some(control) = word(at + 8) {
                        settings.max_payload = Some(128 << (control >> 5 & 7));
                        settings.max_read_request = Some(128 << (control >> 12 & 7));
                        settings.relaxed_ordering = Some(control & 0x10 != 0);
                    }
                    break;
                }
                at = usize::from(next & 0xfc);
            }
        }
        let mut at = EXTENDED;
        for _ in 0..CHAIN_MAX {
            let (Some(id), Some(next)) = (word(at), word(at + 2).map(|word| usize::from(word >> 4))) else { break };
            match id {
                EXTENDED_ACS => settings.acs_redirects = word(at + 6).map(|control| control & ACS_REDIRECTS != 0),
                EXTENDED_ATS => settings.ats = word(at + 6).map(|control| control & 0x8000 != 0),
                _ => {}
            }
            if next < EXTENDED {
                break;
            }
            at = next;
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space() -> Vec<u8> {
        let mut config = vec![0; 4096];
        config[..2].copy_from_slice(&0x15b3u16.to_le_bytes());
        config[STATUS] = 0x10;
        config[CAPABILITIES] = 0x40;
        // Power management first, then PCI Express.
        config[0x40..0x42].copy_from_slice(&[0x01, 0x60]);
        config[0x60..0x62].copy_from_slice(&[EXPRESS, 0x00]);
        config[0x68..0x6a].copy_from_slice(&0x2950u16.to_le_bytes());
        config[0x100..0x104].copy_from_slice(&[0x01, 0x00, 0x01, 0x15]);
        config[0x150..0x154].copy_from_slice(&[0x0d, 0x00, 0x01, 0x16]);
        config[0x156] = 0x1d;
        config[0x160..0x164].copy_from_slice(&[0x0f, 0x00, 0x01, 0x00]);
        config[0x167] = 0x80;
        config
    }

    fn decode(config: &[u8]) -> PciSettings {
        PciSettings::read(|at| Some(u16::from_le_bytes(config.get(at..at + 2)?.try_into().ok()?)))
    }

    #[test]
    fn registers_are_where_the_specification_has_them() {
        let expected = PciSettings {
            max_payload: Some(512),
            max_read_request: Some(512),
            relaxed_ordering: Some(true),
            ats: Some(true),
            acs_redirects: Some(true),
        };
        assert_eq!(decode(&space()), expected);
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        assert_eq!(decode(&space()[..64]), PciSettings::default(), "without CAP_SYS_ADMIN");
        assert_eq!(decode(&[0xff; 4096]), PciSettings::default(), "gone from the bus");
        let first = decode(&space()[..256]);
        assert_eq!((first.max_payload, first.ats), (Some(512), None), "no extended space");
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_hold_it_up(config in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = decode(&config);
        }
    }
}
