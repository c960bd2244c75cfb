//! sFlow version 5: datagrams of a switch's agent.
//!
//! In: the bytes of a datagram. Out: a [`Datagram`]: interface counters, sampled packets as flows, and notifications of discarded
//! packets with the reason. Samples of other kinds are passed over and counted. Never: a panic or an unbounded list, whatever the bytes; payload.
//!
//! Sources: sFlow.org, "sFlow Version 5" (July 2004), section 5 (datagram format), and "sFlow Dropped Packet Notification
//! Structures" (sflow_drops.txt) with the list of reasons. Numbers are XDR (RFC 4506): big-endian, in steps of four bytes.

mod header;
mod reason;

pub use header::Packet;
pub use reason::reason;

use crate::gnmi::{Notification, Path, PathElem, TypedValue, Update, typed_value};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Port that the receiver listens on unless it is told otherwise (IANA).
pub const PORT: u16 = 6343;
/// Largest datagram, bytes: all of UDP.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Samples of one datagram, and records of one sample; agents send a few.
const ITEMS_MAX: u32 = 1024;

/// A datagram.
#[derive(Clone, Debug, PartialEq)]
pub struct Datagram {
    /// The agent's own address.
    pub agent: IpAddr,
    /// One of several senders in the switch.
    pub sub_agent: u32,
    /// Grows by one per datagram of a sub-agent.
    pub sequence: u32,
    /// Since the agent's start, ms.
    pub uptime_ms: u32,
    /// What can be read of it.
    pub samples: Vec<Sample>,
    /// Samples and records of kinds that are not read.
    pub unread: u64,
    /// Samples that contradict themselves: passed over.
    pub malformed: u64,
}

/// A sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// Counters of an interface (RFC 2863).
    Counters(InterfaceCounters),
    /// One packet of `rate`.
    Flow {
        /// Number of the interface; none where it is not known or several.
        input: Option<u32>,
        /// As above.
        output: Option<u32>,
        /// One of so many is sampled.
        rate: u32,
        /// The packet, as far as its header was sent and can be read.
        packet: Option<Packet>,
    },
    /// A packet that was dropped.
    Discarded {
        /// Grows by one per notification of its source.
        sequence: u32,
        /// Notifications that the agent could not send, since it started.
        left_out: u32,
        /// Number of the interface.
        input: Option<u32>,
        /// As above.
        output: Option<u32>,
        /// Why, by number: see [`reason`].
        reason: u32,
        /// The packet, as far as its header was sent and can be read.
        packet: Option<Packet>,
    },
}

/// Counters of an interface; those of 32 bits wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Number of the interface.
    pub index: u32,
    /// Speed, bit/s.
    pub speed_bits_per_s: u64,
    /// It is up.
    pub up: bool,
    /// Its administrator wants it to be.
    pub admin_up: bool,
    /// Bytes received.
    pub in_octets: u64,
    /// Packets received: unicast, multicast, broadcast.
    pub in_packets: [u32; 3],
    /// Packets received and dropped.
    pub in_discards: u32,
    /// Bad packets received.
    pub in_errors: u32,
    /// Bytes sent.
    pub out_octets: u64,
    /// Packets sent: unicast, multicast, broadcast.
    pub out_packets: [u32; 3],
    /// Packets not sent for want of room.
    pub out_discards: u32,
    /// Packets not sent because of an error.
    pub out_errors: u32,
}

impl InterfaceCounters {
    /// What a gNMI target would say of the same, of a port of this name.
    #[must_use]
    pub fn notification(&self, port: &str) -> Notification {
        let sum = |packets: [u32; 3]| packets.iter().map(|packets| u64::from(*packets)).sum::<u64>();
        let text = |text: &str| typed_value::Value::StringVal(text.to_owned());
        let status = |up: bool| text(if up { "UP" } else { "DOWN" });
        let count = typed_value::Value::UintVal;
        let said = [
            ("state/ifindex", count(self.index.into())),
            ("state/admin-status", status(self.admin_up)),
            ("state/oper-status", status(self.up)),
            ("ethernet/state/port-speed", text(&format!("SPEED_{}MB", self.speed_bits_per_s / 1_000_000))),
            ("state/counters/in-octets", count(self.in_octets)),
            ("state/counters/in-pkts", count(sum(self.in_packets))),
            ("state/counters/in-discards", count(self.in_discards.into())),
            ("state/counters/in-errors", count(self.in_errors.into())),
            ("state/counters/out-octets", count(self.out_octets)),
            ("state/counters/out-pkts", count(sum(self.out_packets))),
            ("state/counters/out-discards", count(self.out_discards.into())),
            ("state/counters/out-errors", count(self.out_errors.into())),
        ];
        let step = |name: &str| PathElem { name: name.to_owned(), ..PathElem::default() };
        let interface = PathElem { name: "interface".to_owned(), key: [("name".to_owned(), port.to_owned())].into() };
        let update = |(path, value): (&str, typed_value::Value)| Update {
            path: Some(Path { elem: path.split('/').map(step).collect(), ..Path::default() }),
            val: Some(TypedValue { value: Some(value) }),
            ..Update::default()
        };
        Notification {
            prefix: Some(Path { elem: vec![step("interfaces"), interface], ..Path::default() }),
            update: said.map(update).into(),
            ..Notification::default()
        }
    }
}

/// A datagram that is not read at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// It ends too early.
    #[error("the datagram is cut")]
    Cut,
    /// It is of another version.
    #[error("version {0} of sFlow is not read, only 5")]
    Version(u32),
    /// It has a kind of address that there is not.
    #[error("{0} is no kind of address")]
    AddressKind(u32),
}

/// Reads XDR.
#[derive(Clone, Copy)]
struct Xdr<'a>(&'a [u8]);

impl<'a> Xdr<'a> {
    fn number(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*first))
    }

    fn long(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*first))
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.0.get(..count)?;
        self.0 = self.0.get(count..)?;
        Some(bytes)
    }

    /// As long as it says, and what fills it up to four bytes.
    fn opaque(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number()?).ok()?;
        let bytes = self.bytes(count)?;
        self.bytes(count.wrapping_neg() % 4)?;
        Some(bytes)
    }
}

/// Reads a datagram.
///
/// # Errors
/// It is no datagram of version 5.
pub fn read(bytes: &[u8]) -> Result<Datagram, DatagramError> {
    let mut xdr = Xdr(bytes);
    let cut = DatagramError::Cut;
    let version = xdr.number().ok_or(cut)?;
    if version != 5 {
        return Err(DatagramError::Version(version));
    }
    let agent = match xdr.number().ok_or(cut)? {
        1 => IpAddr::V4(Ipv4Addr::from(xdr.number().ok_or(cut)?)),
        2 => {
            let (high, low) = (xdr.long().ok_or(cut)?, xdr.long().ok_or(cut)?);
            IpAddr::V6(Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)))
        }
        kind => return Err(DatagramError::AddressKind(kind)),
    };
    let mut next = || xdr.number().ok_or(cut);
    let (sub_agent, sequence, uptime_ms, count) = (next()?, next()?, next()?, next()?);
    let mut datagram = Datagram { agent, sub_agent, sequence, uptime_ms, samples: Vec::new(), unread: 0, malformed: 0 };
    for _ in 0..count.min(ITEMS_MAX) {
        let Some((format, body)) = xdr.number().zip(xdr.opaque()) else {
            datagram.malformed += 1;
            break;
        };
        if sample(format, Xdr(body), &mut datagram).is_none() {
            datagram.malformed += 1;
        }
    }
    datagram.malformed += u64::from(count.saturating_sub(ITEMS_MAX));
    Ok(datagram)
}

/// The source of a sample, in short or in long.
fn skip_source(xdr: &mut Xdr<'_>, is_long: bool) -> Option<()> {
    xdr.number()?;
    if is_long {
        xdr.number()?;
    }
    Some(())
}

/// An interface of a flow sample. In short the two highest bits say what the number is, in long a number of its own does: 0 an interface,
/// 1 the packet was discarded, 2 several interfaces.
fn interface(xdr: &mut Xdr<'_>, is_long: bool) -> Option<Option<u32>> {
    let (format, value) = if is_long {
        (xdr.number()?, xdr.number()?)
    } else {
        let number = xdr.number()?;
        (number >> 30, number & 0x3fff_ffff)
    };
    Some((format == 0 && value != 0 && value != 0x3fff_ffff && value != u32::MAX).then_some(value))
}

fn sample(format: u32, mut xdr: Xdr<'_>, datagram: &mut Datagram) -> Option<()> {
    match format {
        1 | 3 => {
            let is_long = format == 3;
            xdr.number()?;
            skip_source(&mut xdr, is_long)?;
            let rate = xdr.number()?;
            // Pool of packets, and those that the agent could not sample.
            xdr.bytes(8)?;
            let (input, output) = (interface(&mut xdr, is_long)?, interface(&mut xdr, is_long)?);
            let packet = packet(&mut xdr, datagram)?;
            datagram.samples.push(Sample::Flow { input, output, rate, packet });
        }
        2 | 4 => {
            xdr.number()?;
            skip_source(&mut xdr, format == 4)?;
            let count = xdr.number()?;
            for _ in 0..count.min(ITEMS_MAX) {
                let (format, body) = (xdr.number()?, xdr.opaque()?);
                match format {
                    1 => datagram.samples.push(Sample::Counters(counters(Xdr(body))?)),
                    _ => datagram.unread += 1,
                }
            }
        }
        5 => {
            let sequence = xdr.number()?;
            skip_source(&mut xdr, true)?;
            let left_out = xdr.number()?;
            let known = |number: u32| (number != 0).then_some(number);
            let (input, output) = (known(xdr.number()?), known(xdr.number()?));
            let reason = xdr.number()?;
            let packet = packet(&mut xdr, datagram)?;
            datagram.samples.push(Sample::Discarded { sequence, left_out, input, output, reason, packet });
        }
        _ => datagram.unread += 1,
    }
    Some(())
}

/// The first packet's header among the records of a flow or a discarded packet.
fn packet(xdr: &mut Xdr<'_>, datagram: &mut Datagram) -> Option<Option<Packet>> {
    let count = xdr.number()?;
    let mut found = None;
    for _ in 0..count.min(ITEMS_MAX) {
        let (format, body) = (xdr.number()?, xdr.opaque()?);
        if format != 1 {
            datagram.unread += 1;
            continue;
        }
        let mut record = Xdr(body);
        let (protocol, length) = (record.number()?, record.number()?);
        // Bytes that were removed from the end.
        record.number()?;
        let header = record.opaque()?;
        found = found.or(header::read(protocol, header, length));
    }
    Some(found)
}

fn counters(mut xdr: Xdr<'_>) -> Option<InterfaceCounters> {
    let index = xdr.number()?;
    xdr.number()?;
    let speed_bits_per_s = xdr.long()?;
    xdr.number()?;
    let status = xdr.number()?;
    let in_octets = xdr.long()?;
    let mut next = || xdr.number();
    let in_packets = [next()?, next()?, next()?];
    let (in_discards, in_errors, _unknown) = (next()?, next()?, next()?);
    let out_octets = xdr.long()?;
    let mut next = || xdr.number();
    let out_packets = [next()?, next()?, next()?];
    let (out_discards, out_errors, _promiscuous) = (next()?, next()?, next()?);
    Some(InterfaceCounters {
        index,
        speed_bits_per_s,
        admin_up: status & 1 != 0,
        up: status & 2 != 0,
        in_octets,
        in_packets,
        in_discards,
        in_errors,
        out_octets,
        out_packets,
        out_discards,
        out_errors,
    })
}

/// What is lost of a sub-agent's datagrams, by their sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    last: Option<u32>,
}

impl Sequence {
    /// A step back by less than this is a datagram that was overtaken; by more, an agent that began anew.
    const OVERTAKEN_MAX: u32 = 64;

    /// Takes a datagram's number. Gives how many before it are missing; one that was overtaken gives back one: -1.
    pub fn take(&mut self, sequence: u32) -> i64 {
        let Some(last) = self.last else {
            self.last = Some(sequence);
            return 0;
        };
        let ahead = sequence.wrapping_sub(last);
        if ahead == 0 {
            return 0;
        }
        if ahead < u32::MAX / 2 {
            self.last = Some(sequence);
            return i64::from(ahead) - 1;
        }
        if last.wrapping_sub(sequence) <= Self::OVERTAKEN_MAX && sequence > 1 {
            return -1;
        }
        self.last = Some(sequence);
        0
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use proptest::prelude::*;

    /// Writes XDR.
    #[derive(Default)]
    struct Writer(Vec<u8>);

    impl Writer {
        fn numbers(mut self, numbers: &[u32]) -> Self {
            numbers.iter().for_each(|number| self.0.extend(number.to_be_bytes()));
            self
        }

        fn long(mut self, number: u64) -> Self {
            self.0.extend(number.to_be_bytes());
            self
        }

        fn opaque(self, bytes: &[u8]) -> Self {
            let mut writer = self.numbers(&[u32::try_from(bytes.len()).unwrap()]);
            writer.0.extend(bytes);
            writer.0.resize(writer.0.len().next_multiple_of(4), 0);
            writer
        }
    }

    /// Ethernet, a VLAN tag, IPv4, UDP to port 4791.
    fn frame() -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x81, 0x00, 0x00, 0x05, 0x08, 0x00]);
        frame.extend([0x45, 26 << 2, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 3]);
        frame.extend([0xc0, 0x00, 0x12, 0xb7, 0, 40, 0, 0, 1]);
        frame
    }

    fn record() -> Vec<u8> {
        Writer::default().numbers(&[1, 1500, 4]).opaque(&frame()).0
    }

    fn datagram(samples: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let head = [5, 1, u32::from(Ipv4Addr::new(10, 9, 8, 7)), 0, 41, 1000, u32::try_from(samples.len()).unwrap()];
        let writer = Writer::default().numbers(&head);
        samples.iter().fold(writer, |writer, (format, body)| writer.numbers(&[*format]).opaque(body)).0
    }

    fn discarded() -> Vec<u8> {
        Writer::default().numbers(&[7, 0, 3, 2, 3, 0, 259, 2, 1]).opaque(&record()).numbers(&[1042]).opaque(&[0; 5]).0
    }

    fn interface_counters() -> Vec<u8> {
        let counters = Writer::default()
            .numbers(&[3, 6])
            .long(100_000_000_000)
            .numbers(&[1, 3])
            .long(11)
            .numbers(&[1, 2, 3, 4, 5, 6])
            .long(12)
            .numbers(&[7, 8, 9, 10, 11, 12]);
        Writer::default().numbers(&[1, 3, 2, 1]).opaque(&counters.0).numbers(&[2]).opaque(&[0; 52]).0
    }

    #[test]
    fn a_dropped_packet_has_its_reason_its_ports_and_its_flow() {
        let read = read(&datagram(&[(5, discarded())])).unwrap();
        assert_eq!((read.agent, read.sequence, read.unread, read.malformed), ([10, 9, 8, 7].into(), 41, 1, 0));
        let packet = Packet {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 3].into(),
            protocol: 17,
            source_port: Some(49_152),
            destination_port: Some(4791),
            dscp: 26,
            bytes: 1500,
        };
        assert_eq!(
            read.samples,
            [Sample::Discarded {
                sequence: 7,
                left_out: 2,
                input: Some(3),
                output: None,
                reason: 259,
                packet: Some(packet)
            }]
        );
        assert_eq!(reason(259), "no_buffer_space");
    }

    #[test]
    fn counters_and_flows_are_read_in_short_and_in_long() {
        let short = Writer::default().numbers(&[1, 3, 1000, 9, 0, 3, 0x8000_0002, 1, 1]).opaque(&record()).0;
        let long = Writer::default().numbers(&[1, 0, 3, 1000, 9, 0, 0, 3, 0, 4, 0]).0;
        let read = read(&datagram(&[(1, short), (3, long), (2, interface_counters()), (9, vec![1, 2, 3, 4])])).unwrap();
        assert_eq!((read.samples.len(), read.unread, read.malformed), (3, 2, 0));
        let Sample::Flow { input, output, rate, packet } = &read.samples[0] else { panic!("a flow") };
        assert_eq!((input, output, rate, packet.is_some()), (&Some(3), &None, &1000, true));
        let Sample::Flow { input, output, packet, .. } = &read.samples[1] else { panic!("a flow") };
        assert_eq!((input, output, packet.is_some()), (&Some(3), &Some(4), false));
        let Sample::Counters(counters) = &read.samples[2] else { panic!("counters") };
        assert_eq!((counters.index, counters.up, counters.admin_up), (3, true, true));
        assert_eq!((counters.in_octets, counters.in_packets, counters.in_discards), (11, [1, 2, 3], 4));
        assert_eq!(
            (counters.out_octets, counters.out_packets, counters.out_discards, counters.out_errors),
            (12, [7, 8, 9], 10, 11)
        );
    }

    #[test]
    fn counters_are_taken_like_those_of_gnmi() {
        let mut counters =
            InterfaceCounters { index: 3, up: true, in_discards: u32::MAX - 4, ..InterfaceCounters::default() };
        let mut state = crate::SwitchState::new("s");
        state.apply(&counters.notification("if3"), 1_000_000_000);
        (counters.in_discards, counters.speed_bits_per_s) = (5, 100_000_000_000);
        let applied = state.apply(&counters.notification("if3"), 2_000_000_000);
        assert_eq!((applied.malformed, applied.unread), (0, 0));
        let port = &state.ports["if3"];
        assert_eq!(
            (port.up, port.speed_bits_per_s, state.port_of_index(3)),
            (Some(true), Some(100_000_000_000), Some("if3"))
        );
        let wrapped = port.counters.iter().find(|((counted, _), _)| counted.series == "hw.network.dropped").unwrap().1;
        assert_eq!(wrapped.growth.unwrap().by, 10);
    }

    #[test]
    fn what_is_missing_is_counted_and_neither_a_restart_nor_the_wrap_is_a_loss() {
        let mut sequence = Sequence::default();
        let missing: Vec<_> =
            [5, 6, 9, 8, 8, 10, 1, 2, u32::MAX - 1, u32::MAX, 0, 1].map(|number| sequence.take(number)).into();
        assert_eq!(missing[..8], [0, 0, 2, -1, -1, 0, 0, 0]);
        let mut near_the_wrap = Sequence::default();
        let missing: Vec<_> = [u32::MAX - 1, u32::MAX, 0, 1, 3].map(|number| near_the_wrap.take(number)).into();
        assert_eq!(missing, [0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_sample_that_lies_about_its_length_spoils_no_other() {
        let mut cut = discarded();
        cut.truncate(30);
        let read = read(&datagram(&[(5, cut), (5, discarded())])).unwrap();
        assert_eq!((read.samples.len(), read.malformed), (1, 1));
        for (bytes, error) in [
            (vec![], DatagramError::Cut),
            (Writer::default().numbers(&[4]).0, DatagramError::Version(4)),
            (Writer::default().numbers(&[5, 3]).0, DatagramError::AddressKind(3)),
        ] {
            assert_eq!(super::read(&bytes), Err(error));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_end_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..400, flip in any::<u8>()) {
            let _ = read(&bytes);
            let mut whole = datagram(&[(5, discarded()), (2, interface_counters())]);
            let at = at % whole.len();
            whole[at] ^= flip;
            let _ = read(&whole);
            let _ = read(&whole[..at]);
            let _ = header::read(1, &bytes, 0);
            let _ = header::read(11, &bytes, 0);
        }
    }
}
