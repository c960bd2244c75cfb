//! What an LLDP frame says (IEEE 802.1AB-2016, clauses 8 and 9.2.7.7). Pure.
//!
//! In: the bytes of an LLDPDU, which anybody on the cable may have made up. Out: an [`Announcement`], or why the standard
//! discards it. Texts are cut to what a wire field holds, lists to a bound, and what is left out is counted.
//! Never: a panic, an allocation beyond the frame's own size, a TLV believed beyond its length.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest text that is kept, bytes: the longest that a TLV can hold, and what a name on the wire may have.
pub const TEXT_BYTES_MAX: usize = 255;
/// Management addresses that are kept.
pub const ADDRESSES_MAX: usize = 8;

const END: u8 = 0;
const CHASSIS_ID: u8 = 1;
const PORT_ID: u8 = 2;
const TIME_TO_LIVE: u8 = 3;
const PORT_DESCRIPTION: u8 = 4;
const SYSTEM_NAME: u8 = 5;
const SYSTEM_DESCRIPTION: u8 = 6;
const SYSTEM_CAPABILITIES: u8 = 7;
const MANAGEMENT_ADDRESS: u8 = 8;
const ORGANISATION: u8 = 127;

/// IANA address family numbers.
const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;

/// A chassis or a port, as it names itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// What kind of name: `mac`, `interface_name`, `local`, …; `reserved` for one that the standard does not know.
    pub subtype: &'static str,
    /// The name, printed as its subtype asks.
    pub text: String,
}

/// What one frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Which chassis speaks.
    pub chassis: Id,
    /// Which of its ports.
    pub port: Id,
    /// How long this holds, seconds; 0: the speaker goes away.
    pub ttl_s: u16,
    /// Empty where not said.
    pub port_description: String,
    /// Empty where not said.
    pub system_name: String,
    /// Empty where not said.
    pub system_description: String,
    /// IPv4 and IPv6 as they are written, others as hexadecimal bytes.
    pub management_addresses: Vec<String>,
    /// What was in the frame and is not above.
    pub skipped: Skipped,
}

/// TLVs that were passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Of organisations: IEEE 802.1 and 802.3, LLDP-MED, DCBX and others.
    pub organisation: u16,
    /// Of types that the standard reserves.
    pub unknown: u16,
    /// Repeated where only one may be: the first counts.
    pub duplicate: u16,
    /// Too short for what they should hold.
    pub malformed: u16,
    /// Management addresses beyond the bound.
    pub beyond: u16,
}

/// Why a frame is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discarded {
    /// It ends within a TLV.
    #[error("it ends within a TLV")]
    Truncated,
    /// It does not begin with chassis, port and time to live, in this order.
    #[error("it does not begin with chassis, port and time to live")]
    Order,
    /// One of the first three comes again.
    #[error("chassis, port or time to live comes twice")]
    Repeated,
    /// One of the first three has a length that it may not have.
    #[error("chassis, port or time to live has a length that it may not have")]
    Length,
}

/// The TLVs of an LLDPDU: type and information string. Seven bits of type, nine of length (clause 8.4).
struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// The next; `None` at the end of the PDU, where the End TLV may be left out.
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Discarded> {
        let Some((header, rest)) = self.0.split_first_chunk::<2>() else {
            return if self.0.is_empty() { Ok(None) } else { Err(Discarded::Truncated) };
        };
        let header = u16::from_be_bytes(*header);
        let (kind, length) = ((header >> 9) as u8, usize::from(header & 0x1ff));
        let (information, rest) = rest.split_at_checked(length).ok_or(Discarded::Truncated)?;
        self.0 = rest;
        Ok((kind != END).then_some((kind, information)))
    }
}

/// Reads an LLDPDU: what follows the EtherType, padding included.
///
/// # Errors
/// [`Discarded`], as clause 9.2.7.7.2 asks.
pub fn decode(bytes: &[u8]) -> Result<Announcement, Discarded> {
    let mut tlvs = Tlvs(bytes);
    let chassis = mandatory(&mut tlvs, CHASSIS_ID).and_then(|information| id(information, chassis_subtype))?;
    let port = mandatory(&mut tlvs, PORT_ID).and_then(|information| id(information, port_subtype))?;
    let ttl = mandatory(&mut tlvs, TIME_TO_LIVE)?.first_chunk::<2>().ok_or(Discarded::Length)?;
    let mut said = Announcement {
        chassis,
        port,
        ttl_s: u16::from_be_bytes(*ttl),
        port_description: String::new(),
        system_name: String::new(),
        system_description: String::new(),
        management_addresses: Vec::new(),
        skipped: Skipped::default(),
    };
    let mut seen = 0u16;
    while let Some((kind, information)) = tlvs.next()? {
        let skipped = &mut said.skipped;
        let is_first = |seen: &mut u16| std::mem::replace(seen, *seen | 1 << kind) & 1 << kind == 0;
        let text = match kind {
            CHASSIS_ID | PORT_ID | TIME_TO_LIVE => return Err(Discarded::Repeated),
            PORT_DESCRIPTION => &mut said.port_description,
            SYSTEM_NAME => &mut said.system_name,
            SYSTEM_DESCRIPTION => &mut said.system_description,
            SYSTEM_CAPABILITIES => {
                skipped.duplicate += u16::from(!is_first(&mut seen));
                continue;
            }
            MANAGEMENT_ADDRESS => {
                match management_address(information) {
                    None => skipped.malformed += 1,
                    Some(_) if said.management_addresses.len() >= ADDRESSES_MAX => skipped.beyond += 1,
                    Some(address) => said.management_addresses.push(address),
                }
                continue;
            }
            // An organisation's TLV begins with its identifier and a subtype, 4 bytes.
            ORGANISATION if information.len() < 4 => {
                skipped.malformed += 1;
                continue;
            }
            ORGANISATION => {
                skipped.organisation += 1;
                continue;
            }
            _ => {
                skipped.unknown += 1;
                continue;
            }
        };
        if is_first(&mut seen) {
            *text = printed(information);
        } else {
            skipped.duplicate += 1;
        }
    }
    Ok(said)
}

fn mandatory<'a>(tlvs: &mut Tlvs<'a>, wanted: u8) -> Result<&'a [u8], Discarded> {
    match tlvs.next()? {
        Some((kind, information)) if kind == wanted => Ok(information),
        _ => Err(Discarded::Order),
    }
}

/// How the octets after a subtype are to be read.
enum Form {
    Text,
    Mac,
    NetworkAddress,
    Hexadecimal,
}

/// Clause 8.5.2.2.
fn chassis_subtype(subtype: u8) -> (&'static str, Form) {
    match subtype {
        1 => ("chassis_component", Form::Text),
        2 => ("interface_alias", Form::Text),
        3 => ("port_component", Form::Text),
        4 => ("mac", Form::Mac),
        5 => ("address", Form::NetworkAddress),
        6 => ("interface_name", Form::Text),
        7 => ("local", Form::Text),
        _ => ("reserved", Form::Hexadecimal),
    }
}

/// Clause 8.5.3.2.
fn port_subtype(subtype: u8) -> (&'static str, Form) {
    match subtype {
        1 => ("interface_alias", Form::Text),
        2 => ("port_component", Form::Text),
        3 => ("mac", Form::Mac),
        4 => ("address", Form::NetworkAddress),
        5 => ("interface_name", Form::Text),
        6 => ("agent_circuit_id", Form::Hexadecimal),
        7 => ("local", Form::Text),
        _ => ("reserved", Form::Hexadecimal),
    }
}

/// A subtype and 1 to 255 octets.
fn id(information: &[u8], subtype: impl Fn(u8) -> (&'static str, Form)) -> Result<Id, Discarded> {
    let (first, octets) = information.split_first().ok_or(Discarded::Length)?;
    if octets.is_empty() || octets.len() > 255 {
        return Err(Discarded::Length);
    }
    let (subtype, form) = subtype(*first);
    let text = match form {
        Form::Text => printed(octets),
        Form::Mac if octets.len() == 6 => hexadecimal(octets),
        Form::NetworkAddress => network_address(octets),
        Form::Mac | Form::Hexadecimal => hexadecimal(octets),
    };
    // Nothing but zeros and blanks: still an identifier, that must not look like an absent one.
    let text = if text.is_empty() { hexadecimal(octets) } else { text };
    Ok(Id { subtype, text })
}

/// An IANA family and an address of it.
fn network_address(octets: &[u8]) -> String {
    match octets {
        [FAMILY_IPV4, address @ ..] => match <[u8; 4]>::try_from(address) {
            Ok(address) => Ipv4Addr::from(address).to_string(),
            Err(_) => hexadecimal(octets),
        },
        [FAMILY_IPV6, address @ ..] => match <[u8; 16]>::try_from(address) {
            Ok(address) => Ipv6Addr::from(address).to_string(),
            Err(_) => hexadecimal(octets),
        },
        _ => hexadecimal(octets),
    }
}

/// Clause 8.5.9: length of family and address (2 to 32), these, then a numbering subtype, a number of 4 octets and an object
/// identifier, of which only the presence is looked at.
fn management_address(information: &[u8]) -> Option<String> {
    let (length, rest) = information.split_first()?;
    let (address, interface) = rest.split_at_checked(usize::from(*length))?;
    ((2..=32).contains(length) && interface.len() >= 6).then(|| network_address(address))
}

/// Text for people, at most [`TEXT_BYTES_MAX`] bytes: what is no UTF-8 is replaced, the zero and blanks at its ends go.
fn printed(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    let mut text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned();
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

/// `52:54:00:12:34:56`, at most [`TEXT_BYTES_MAX`] bytes of text.
fn hexadecimal(octets: &[u8]) -> String {
    let mut text = String::new();
    for (at, octet) in octets.iter().take((TEXT_BYTES_MAX + 1) / 3).enumerate() {
        let colon = if at == 0 { "" } else { ":" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{colon}{octet:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tlv(kind: u8, information: &[u8]) -> Vec<u8> {
        let header = u16::from(kind) << 9 | u16::try_from(information.len()).expect("a test's TLV is short");
        [&header.to_be_bytes()[..], information].concat()
    }

    fn head(chassis: &[u8], port: &[u8], ttl: u16) -> Vec<u8> {
        [tlv(1, chassis), tlv(2, port), tlv(3, &ttl.to_be_bytes())].concat()
    }

    fn plain() -> Vec<u8> {
        head(b"\x04\x52\x54\x00\x12\x34\x56", b"\x05Ethernet1/12", 120)
    }

    fn with(more: &[Vec<u8>]) -> Vec<u8> {
        [plain(), more.concat(), tlv(0, b"")].concat()
    }

    #[test]
    fn a_whole_frame_says_who_and_where() {
        let frame = with(&[
            tlv(4, b"rail 3 of gpu-17"),
            tlv(5, b"leaf1\0"),
            tlv(6, b"Network OS 4.2"),
            tlv(7, &[0, 0x14, 0, 0x14]),
            tlv(8, &[5, 1, 10, 0, 0, 1, 2, 0, 0, 0, 7, 0]),
            tlv(8, &[17, 2, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7, 0]),
            tlv(8, &[7, 6, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 7, 0]),
            tlv(127, &[0x00, 0x80, 0xc2, 1, 0, 1]),
            tlv(127, &[0x00, 0x12, 0x0f, 1, 3, 0, 0, 0, 0]),
            tlv(127, &[0x00, 0x12, 0xbb, 1, 0, 1, 0]),
        ]);
        let padded = [frame.clone(), vec![0; 20]].concat();
        let expected = Announcement {
            chassis: Id { subtype: "mac", text: "52:54:00:12:34:56".into() },
            port: Id { subtype: "interface_name", text: "Ethernet1/12".into() },
            ttl_s: 120,
            port_description: "rail 3 of gpu-17".into(),
            system_name: "leaf1".into(),
            system_description: "Network OS 4.2".into(),
            management_addresses: vec!["10.0.0.1".into(), "2001:db8::1".into(), "06:52:54:00:12:34:56".into()],
            skipped: Skipped { organisation: 3, ..Skipped::default() },
        };
        for frame in [frame, padded] {
            assert_eq!(decode(&frame).as_ref(), Ok(&expected));
        }
    }

    #[test]
    fn identifiers_are_printed_as_their_subtype_asks() {
        for (chassis, subtype, text) in [
            (&b"\x01shelf 2"[..], "chassis_component", "shelf 2"),
            (b"\x02uplink", "interface_alias", "uplink"),
            (b"\x03slot 4", "port_component", "slot 4"),
            (b"\x04\x02\x00\x00\x00\x00\x0a", "mac", "02:00:00:00:00:0a"),
            (b"\x04\x02\x00", "mac", "02:00"),
            (b"\x05\x01\x0a\x00\x00\x01", "address", "10.0.0.1"),
            (b"\x05\x01\x0a\x00\x00", "address", "01:0a:00:00"),
            (b"\x05\x02\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", "address", "fe80::1"),
            (b"\x05\x10\xff", "address", "10:ff"),
            (b"\x06eth0", "interface_name", "eth0"),
            (b"\x07leaf1", "local", "leaf1"),
            (b"\x07\0\0", "local", "00:00"),
            (b"\x07\xff\xfeabc", "local", "\u{fffd}\u{fffd}abc"),
            (b"\x00a", "reserved", "61"),
            (b"\xffab", "reserved", "61:62"),
        ] {
            let said = decode(&head(chassis, b"\x07p", 1)).expect("a whole frame");
            assert_eq!((said.chassis.subtype, said.chassis.text.as_str()), (subtype, text));
        }
        for (port, subtype, text) in [
            (&b"\x01to spine 1"[..], "interface_alias", "to spine 1"),
            (b"\x02p4", "port_component", "p4"),
            (b"\x03\x02\x00\x00\x00\x00\x0b", "mac", "02:00:00:00:00:0b"),
            (b"\x04\x01\x0a\x00\x00\x02", "address", "10.0.0.2"),
            (b"\x05swp12", "interface_name", "swp12"),
            (b"\x06\x01\x02", "agent_circuit_id", "01:02"),
            (b"\x07508", "local", "508"),
            (b"\x08x", "reserved", "78"),
        ] {
            let said = decode(&head(b"\x07c", port, 1)).expect("a whole frame");
            assert_eq!((said.port.subtype, said.port.text.as_str()), (subtype, text));
        }
    }

    #[test]
    fn what_the_standard_discards_is_discarded_and_says_why() {
        use Discarded::{Length, Order, Repeated, Truncated};
        let (chassis, port, ttl) = (tlv(1, b"\x07c"), tlv(2, b"\x07p"), tlv(3, &[0, 9]));
        for (what, frame, expected) in [
            ("nothing", vec![], Order),
            ("an end at once", tlv(0, b""), Order),
            ("half a header", vec![2], Truncated),
            ("no port", [chassis.clone(), ttl.clone()].concat(), Order),
            ("port before chassis", [port.clone(), chassis.clone(), ttl.clone()].concat(), Order),
            ("no time to live", [chassis.clone(), port.clone()].concat(), Order),
            ("no time to live but a name", [chassis.clone(), port.clone(), tlv(5, b"x")].concat(), Order),
            ("a chassis without an identifier", [tlv(1, b"\x07"), port.clone(), ttl.clone()].concat(), Length),
            ("an empty chassis", [tlv(1, b""), port.clone(), ttl.clone()].concat(), Length),
            ("a chassis of 256", [tlv(1, &[7; 257]), port.clone(), ttl.clone()].concat(), Length),
            ("a time to live of one byte", [chassis.clone(), port.clone(), tlv(3, &[9])].concat(), Length),
            ("a second chassis", with(std::slice::from_ref(&chassis)), Repeated),
            ("a second port", with(std::slice::from_ref(&port)), Repeated),
            ("a second time to live", with(std::slice::from_ref(&ttl)), Repeated),
            ("a name longer than the frame", [plain(), vec![0x0a, 200, b'x']].concat(), Truncated),
            ("a byte more", [plain(), vec![0x0a]].concat(), Truncated),
        ] {
            assert_eq!(decode(&frame), Err(expected), "{what}");
        }
    }

    #[test]
    fn what_may_be_passed_over_is_counted() {
        let count = |more: &[Vec<u8>]| decode(&with(more)).expect("a whole frame").skipped;
        let none = Skipped::default();
        for (what, more, expected) in [
            ("a reserved type", vec![tlv(9, b"x"), tlv(126, b"")], Skipped { unknown: 2, ..none }),
            ("a name twice", vec![tlv(5, b"first"), tlv(5, b"second")], Skipped { duplicate: 1, ..none }),
            ("capabilities twice", vec![tlv(7, &[0; 4]), tlv(7, &[0; 4])], Skipped { duplicate: 1, ..none }),
            ("an organisation without a subtype", vec![tlv(127, &[0, 0x80, 0xc2])], Skipped { malformed: 1, ..none }),
            ("an empty address", vec![tlv(8, b"")], Skipped { malformed: 1, ..none }),
            ("an address beyond its TLV", vec![tlv(8, &[9, 1, 10, 0, 0, 1])], Skipped { malformed: 1, ..none }),
            ("an address without interface", vec![tlv(8, &[5, 1, 10, 0, 0, 1])], Skipped { malformed: 1, ..none }),
            ("a family alone", vec![tlv(8, &[1, 1, 2, 0, 0, 0, 7, 0])], Skipped { malformed: 1, ..none }),
            ("10 addresses", vec![tlv(8, &[5, 1, 10, 0, 0, 1, 2, 0, 0, 0, 7, 0]); 10], Skipped { beyond: 2, ..none }),
        ] {
            assert_eq!(count(&more), expected, "{what}");
        }
        let twice = decode(&with(&[tlv(5, b"first"), tlv(5, b"second")])).expect("a whole frame");
        assert_eq!(twice.system_name, "first");
    }

    #[test]
    fn a_speaker_that_goes_away_says_so_and_a_frame_may_lack_its_end() {
        let said = decode(&head(b"\x07c", b"\x07p", 0)).expect("a whole frame");
        assert_eq!((said.ttl_s, said.system_name.as_str()), (0, ""));
        let long = decode(&[plain(), tlv(3 + 3, &[b'x'; 511])].concat()).expect("a whole frame");
        assert_eq!(long.system_description.len(), TEXT_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_it(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn nor_do_bytes_behind_a_good_head_and_all_stays_within_its_bounds(
            more in prop::collection::vec((0u8..128, prop::collection::vec(any::<u8>(), 0..512)), 0..12),
            cut in 0usize..7000,
        ) {
            let more: Vec<_> = more.iter().map(|(kind, information)| tlv(*kind, &information[..information.len().min(511)])).collect();
            let mut frame = [plain(), more.concat()].concat();
            frame.truncate(cut);
            if let Ok(said) = decode(&frame) {
                let Announcement { chassis, port, ttl_s: _, port_description, system_name, system_description, management_addresses, skipped: _ } = said;
                prop_assert!(management_addresses.len() <= ADDRESSES_MAX);
                let texts = [chassis.text, port.text, port_description, system_name, system_description];
                prop_assert!(texts.iter().chain(&management_addresses).all(|text| text.len() <= TEXT_BYTES_MAX));
            }
        }
    }
}
