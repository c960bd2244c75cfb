//! The flow of a packet from the first bytes of it.
//!
//! In: the kind of header, and the bytes that the agent sent of it. Out: addresses, ports, DSCP. What is cut, encrypted or of another protocol is
//! none. Never: payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A packet by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Of IP: 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Of TCP and UDP.
    pub source_port: Option<u16>,
    /// Of TCP and UDP.
    pub destination_port: Option<u16>,
    /// Class of service (RFC 2474).
    pub dscp: u8,
    /// Length of the frame, as the agent says.
    pub bytes: u32,
}

/// Kinds of headers that are read (sFlow version 5, `header_protocol`).
const ETHERNET: u32 = 1;
const IPV4: u32 = 11;
const IPV6: u32 = 12;
/// Tags of IEEE 802.1Q and 802.1ad that may precede the packet.
const TAGS_MAX: usize = 4;

/// Reads a header.
pub(super) fn read(kind: u32, bytes: &[u8], length: u32) -> Option<Packet> {
    match kind {
        ETHERNET => {
            let mut at = 12;
            for _ in 0..=TAGS_MAX {
                match number(bytes, at)? {
                    0x8100 | 0x88a8 => at += 4,
                    0x0800 => return ipv4(bytes.get(at + 2..)?, length),
                    0x86dd => return ipv6(bytes.get(at + 2..)?, length),
                    _ => return None,
                }
            }
            None
        }
        IPV4 => ipv4(bytes, length),
        IPV6 => ipv6(bytes, length),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// RFC 791.
fn ipv4(bytes: &[u8], length: u32) -> Option<Packet> {
    let (head, _) = bytes.split_first_chunk::<20>()?;
    if head[0] >> 4 != 4 {
        return None;
    }
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]));
    // Of a fragment only the first has ports.
    let is_first = u16::from_be_bytes([head[6], head[7]]) & 0x1fff == 0;
    let below = is_first.then(|| bytes.get(usize::from(head[0] & 0xf) * 4..)).flatten();
    Some(packet(address(12), address(16), head[9], head[1] >> 2, below, length))
}

/// RFC 8200; headers of extension are not followed.
fn ipv6(bytes: &[u8], length: u32) -> Option<Packet> {
    let (head, below) = bytes.split_first_chunk::<40>()?;
    if head[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&head[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let class = u16::from_be_bytes([head[0], head[1]]) >> 4;
    let dscp = u8::try_from(class >> 2 & 0x3f).unwrap_or(0);
    Some(packet(address(8), address(24), head[6], dscp, Some(below), length))
}

fn packet(source: IpAddr, destination: IpAddr, protocol: u8, dscp: u8, below: Option<&[u8]>, bytes: u32) -> Packet {
    let port = |at: usize| matches!(protocol, 6 | 17).then(|| number(below?, at)).flatten();
    let (source_port, destination_port) = (port(0), port(2));
    Packet { source, destination, protocol, source_port, destination_port, dscp, bytes }
}
