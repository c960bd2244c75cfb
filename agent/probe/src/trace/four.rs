//! IPv4: packets of a flow with a time to live, and what ICMP (RFC 792) says of them. Pure but for the socket.
//!
//! A packet is known again by the identification of its header, which every quotation has.

use super::{Protocol, Said, TraceSpec, checksum, number};
use nix::errno::Errno;
use nix::libc;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

/// ICMP_FILTER (linux/icmp.h): of all ICMP of this host, errors about packets alone.
pub(super) fn only_errors(fd: &OwnedFd) -> io::Result<()> {
    const SOL_RAW: libc::c_int = 255;
    const ICMP_FILTER: libc::c_int = 1;
    const UNREACHABLE_AND_TIME_EXCEEDED: u32 = 1 << 3 | 1 << 11;
    let blocked = !UNREACHABLE_AND_TIME_EXCEEDED;
    // SAFETY: the pointer and length are those of a live u32, which is what `struct icmp_filter` is.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            SOL_RAW,
            ICMP_FILTER,
            std::ptr::from_ref(&blocked).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// A packet of a flow, from the header of IP on; the kernel fills in that one's checksum (raw(7)).
pub(super) fn datagram(flow: &TraceSpec, source: SocketAddrV4, destination: SocketAddrV4, hop: u8, id: u16) -> Vec<u8> {
    const ACK: u8 = 0x10;
    let TraceSpec { protocol, dscp, .. } = flow;
    let mut body = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    match protocol {
        // Length, checksum, and nothing in it.
        Protocol::Udp => body.extend([0, 8, 0, 0]),
        // Sequence, acknowledgement, header length and flags, window, checksum, urgent.
        Protocol::Tcp => body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, ACK, 0, 0, 0, 0, 0, 0]),
    }
    let length = u16::try_from(body.len()).unwrap_or(0);
    let pseudo =
        [&source.ip().octets()[..], &destination.ip().octets(), &[0, number(*protocol)], &length.to_be_bytes(), &body]
            .concat();
    // RFC 768: a sum of zero is sent as all ones.
    let sum = Some(checksum(&pseudo)).filter(|sum| *sum != 0).unwrap_or(u16::MAX);
    let at = if *protocol == Protocol::Udp { 6 } else { 16 };
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, dscp << 2];
    packet.extend((20 + length).to_be_bytes());
    packet.extend(id.to_be_bytes());
    // Don't fragment; time to live, protocol, checksum.
    packet.extend([0x40, 0, hop, number(*protocol), 0, 0]);
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    packet.extend(body);
    packet
}

/// Reads a packet of ICMP, from the header of IP on: an error about a packet of TCP or UDP.
pub(super) fn said(packet: &[u8]) -> Option<Said> {
    let header = |packet: &[u8]| usize::from(packet.first().copied().unwrap_or(0) & 15) * 4;
    let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
    let port = |bytes: &[u8]| <[u8; 2]>::try_from(bytes).ok().map(u16::from_be_bytes);
    let from = address(packet.get(12..16)?)?;
    let icmp = packet.get(header(packet)..)?;
    let is_closed = match icmp.get(..2)? {
        [11, 0] => false,
        [3, 3] => true,
        _ => return None,
    };
    let about = icmp.get(8..)?;
    let ports = about.get(header(about)..)?;
    Some(Said {
        from: from.into(),
        is_closed,
        id: port(about.get(4..6)?)?,
        protocol: *about.get(9)?,
        source: SocketAddr::new(address(about.get(12..16)?)?.into(), port(ports.get(..2)?)?),
        destination: SocketAddr::new(address(about.get(16..20)?)?.into(), port(ports.get(2..4)?)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_of_the_flow_and_what_is_said_of_them_is_understood() {
        let (source, destination) =
            (SocketAddrV4::new([10, 0, 0, 1].into(), 40_000), SocketAddrV4::new([10, 0, 0, 2].into(), 443));
        for (protocol, length) in [(Protocol::Udp, 28), (Protocol::Tcp, 40)] {
            let flow = TraceSpec {
                interface: String::new(),
                source: source.into(),
                destination: destination.into(),
                protocol,
                dscp: 26,
            };
            let packet = datagram(&flow, source, destination, 3, 0x1234);
            assert_eq!((packet.len(), packet[1], packet[8], packet[9]), (length, 26 << 2, 3, number(protocol)));
            let pseudo = [&packet[12..20], &[0, number(protocol)], &(length as u16 - 20).to_be_bytes(), &packet[20..]];
            assert_eq!(checksum(&pseudo.concat()), 0, "the checksum holds");
            for (kind, is_closed) in [([11, 0], false), ([3, 3], true)] {
                let head = [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 7, 10, 0, 0, 1][..], &kind, &[0; 6]];
                // A router gives the header and eight bytes at least.
                let icmp = [&head.concat()[..], &packet[..28]].concat();
                let expected = Said {
                    from: [192, 0, 2, 7].into(),
                    is_closed,
                    id: 0x1234,
                    protocol: number(protocol),
                    source: flow.source,
                    destination: flow.destination,
                };
                assert_eq!(said(&icmp), Some(expected));
                for cut in 0..icmp.len() {
                    let _ = said(&icmp[..cut]);
                }
                assert_eq!(said(&icmp[..icmp.len() - 5]), None);
            }
        }
        assert_eq!(said(&[0x4f; 40]), None);
    }
}
