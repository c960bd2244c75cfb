//! IPv6: packets of a flow with a hop limit, and what ICMPv6 (RFC 4443) says of them. Pure but for the socket.
//!
//! IPv6 has no identification to know a packet again by. The number is the checksum of a UDP packet, whose two bytes of payload make it so, and the
//! sequence of a TCP one: both are within the eight bytes that even the shortest quotation has. The flow label is that of probes ([`flow_label`]):
//! a probe and its trace are alike in all that any switch looks at. Of a flow of somebody else's the label is not known: the kernel draws that of
//! UDP by a secret, and that of TCP at random. Our packets have no extension headers; a quotation with some is of another's packet.

use super::{Protocol, Said, TraceSpec, checksum, number};
use crate::label::flow_label;
use nix::errno::Errno;
use nix::libc;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

/// Destination unreachable, and of it: port unreachable (RFC 4443, 3.1).
const UNREACHABLE: u8 = 1;
const NO_PORT: u8 = 4;
/// Time exceeded, and of it: hop limit exceeded in transit (3.3).
const TIME_EXCEEDED: u8 = 3;
const IN_TRANSIT: u8 = 0;
const HEADER_BYTES: usize = 40;

/// ICMP6_FILTER (linux/icmpv6.h, RFC 3542, 3.2): of all ICMPv6 of this host, errors about packets alone. A bit that is set blocks its type.
pub(super) fn only_errors(fd: &OwnedFd) -> io::Result<()> {
    const ICMP6_FILTER: libc::c_int = 1;
    let mut blocked = [u32::MAX; 8];
    blocked[0] &= !(1 << UNREACHABLE | 1 << TIME_EXCEEDED);
    // SAFETY: the pointer and length are those of a live array of eight u32, which is what `struct icmp6_filter` is.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMP6_FILTER,
            blocked.as_ptr().cast(),
            size_of_val(&blocked) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// A packet of a flow, from the header of IP on. `id` is not 0, which no checksum of UDP over IPv6 is (RFC 8200, 8.1), and not 0xffff.
pub(super) fn datagram(flow: &TraceSpec, source: SocketAddrV6, destination: SocketAddrV6, hop: u8, id: u16) -> Vec<u8> {
    const ACK: u8 = 0x10;
    let TraceSpec { protocol, dscp, .. } = flow;
    let mut body = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    match protocol {
        // Length, checksum, and what makes that the number.
        Protocol::Udp => body.extend([0, 10, 0, 0, 0, 0]),
        // Sequence, acknowledgement, header length and flags, window, checksum, urgent.
        Protocol::Tcp => {
            body.extend(u32::from(id).to_be_bytes());
            body.extend([0, 0, 0, 0, 0x50, ACK, 0, 0, 0, 0, 0, 0]);
        }
    }
    let length = u16::try_from(body.len()).unwrap_or(0);
    let addresses = [source.ip().octets(), destination.ip().octets()].concat();
    let mut pseudo = addresses.clone();
    pseudo.extend([0, 0]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, number(*protocol)]);
    pseudo.extend(&body);
    let sum = checksum(&pseudo);
    match protocol {
        Protocol::Udp => {
            // In ones' complement: what is summed so far and the payload are the number's complement together.
            let payload = u32::from(!id) + u32::from(sum);
            let payload = ((payload & 0xffff) + (payload >> 16)) as u16;
            body[6..8].copy_from_slice(&id.to_be_bytes());
            body[8..].copy_from_slice(&payload.to_be_bytes());
        }
        Protocol::Tcp => body[16..18].copy_from_slice(&sum.to_be_bytes()),
    }
    let first = 6u32 << 28 | u32::from(dscp << 2) << 20 | flow_label(source, destination);
    let mut packet = first.to_be_bytes().to_vec();
    packet.extend(length.to_be_bytes());
    packet.extend([number(*protocol), hop]);
    packet.extend(addresses);
    packet.extend(body);
    packet
}

/// Reads a message of ICMPv6, from its type on, as raw sockets have it: an error about a packet of TCP or UDP.
pub(super) fn said(from: Ipv6Addr, icmp: &[u8]) -> Option<Said> {
    let is_closed = match icmp.get(..2)? {
        [TIME_EXCEEDED, IN_TRANSIT] => false,
        [UNREACHABLE, NO_PORT] => true,
        _ => return None,
    };
    let about = icmp.get(8..)?;
    let (header, body) = (about.get(..HEADER_BYTES)?, about.get(HEADER_BYTES..HEADER_BYTES + 8)?);
    let half = |at: usize| Some(u16::from_be_bytes(<[u8; 2]>::try_from(body.get(at..at + 2)?).ok()?));
    let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(header.get(at..at + 16)?).ok()?));
    if header[0] >> 4 != 6 {
        return None;
    }
    let protocol = header[6];
    let id = match protocol {
        17 => half(6)?,
        // What is sent has a sequence below 2^16.
        6 if half(4)? == 0 => half(6)?,
        _ => return None,
    };
    Some(Said {
        from: from.into(),
        is_closed,
        id,
        protocol,
        source: SocketAddr::new(address(8)?, half(0)?),
        destination: SocketAddr::new(address(24)?, half(2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

    fn ends() -> (SocketAddrV6, SocketAddrV6) {
        let end = |host, port| SocketAddrV6::new(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, host), port, 0, 0);
        (end(1, 40_000), end(2, 7704))
    }

    fn flow(protocol: Protocol) -> TraceSpec {
        let (source, destination) = ends();
        let (source, destination) = (source.into(), destination.into());
        TraceSpec { interface: String::new(), source, destination, protocol, dscp: 26 }
    }

    fn error(kind: [u8; 2], about: &[u8]) -> Vec<u8> {
        [&kind, &[0; 6][..], about].concat()
    }

    #[test]
    fn packets_are_of_the_flow_with_its_label_and_are_known_again_by_eight_bytes() {
        let (source, destination) = ends();
        for (protocol, length) in [(Protocol::Udp, 50), (Protocol::Tcp, 60)] {
            for id in [1, 2, 0x1234, 0x7fff, 0x8000, 49_153, 0xfffe] {
                let flow = flow(protocol);
                let packet = datagram(&flow, source, destination, 3, id);
                assert_eq!((packet.len(), packet[6], packet[7]), (length, number(protocol), 3));
                assert_eq!(packet[..4], (0x6680_0000 | flow_label(source, destination)).to_be_bytes());
                assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), length - 40);
                let pseudo = [&packet[8..40], &[0, 0], &packet[4..6], &[0, 0, 0, number(protocol)], &packet[40..]];
                assert_eq!(checksum(&pseudo.concat()), 0, "the checksum holds: {protocol:?} {id}");
                for (kind, is_closed) in [([3, 0], false), ([1, 4], true)] {
                    let expected = Said {
                        from: ROUTER.into(),
                        is_closed,
                        id,
                        protocol: number(protocol),
                        source: flow.source,
                        destination: flow.destination,
                    };
                    assert_eq!(said(ROUTER, &error(kind, &packet)), Some(expected));
                    assert_eq!(said(ROUTER, &error(kind, &packet[..48])), Some(expected));
                }
            }
        }
    }

    #[test]
    fn what_is_cut_or_about_something_else_is_not_taken_for_an_answer() {
        let (source, destination) = ends();
        let udp = datagram(&flow(Protocol::Udp), source, destination, 3, 7);
        let tcp = datagram(&flow(Protocol::Tcp), source, destination, 3, 7);
        let changed = |packet: &[u8], changes: &[(usize, u8)]| {
            let mut packet = packet.to_vec();
            changes.iter().for_each(|(at, byte)| packet[*at] = *byte);
            packet
        };
        // A header between the two, by its number, with what it would be followed by.
        let with_header = |next: u8| {
            let mut packet = changed(&udp, &[(6, next)]);
            packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
            packet
        };
        let too_long_ago = changed(&tcp, &[(44, 1)]);
        for (what, message) in [
            ("reassembly took too long", error([3, 1], &udp)),
            ("no route", error([1, 0], &udp)),
            ("forbidden", error([1, 1], &udp)),
            ("too big", error([2, 0], &udp)),
            ("an echo", error([128, 0], &udp)),
            ("a quotation of IPv4", error([3, 0], &changed(&udp, &[(0, 0x45)]))),
            ("of version 0", error([3, 0], &[0; 60])),
            ("hop-by-hop options", error([3, 0], &with_header(0))),
            ("a routing header", error([3, 0], &with_header(43))),
            ("a fragment", error([3, 0], &with_header(44))),
            ("destination options", error([3, 0], &with_header(60))),
            ("authentication", error([3, 0], &with_header(51))),
            ("nothing next", error([3, 0], &with_header(59))),
            ("ICMPv6 about ICMPv6", error([3, 0], &changed(&udp, &[(6, 58)]))),
            ("a connection's own segment", error([3, 0], &too_long_ago)),
            ("seven bytes of the body", error([3, 0], &udp[..47])),
            ("the header alone", error([3, 0], &udp[..40])),
            ("nothing", vec![]),
        ] {
            assert_eq!(said(ROUTER, &message), None, "{what}");
        }
        // Bytes of no sense: whatever they are, they are no panic, and none is read beyond their end.
        let whole = error([3, 0], &udp);
        for cut in 0..whole.len() {
            let _ = said(ROUTER, &whole[..cut]);
        }
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut message = whole.clone();
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % message.len();
                message[at] = (state >> 24) as u8;
            }
            let _ = said(ROUTER, &message);
        }
    }
}
