//! The 5-tuple of a packet or of a TCP socket.
//!
//! In: the first bytes of the network header (RFC 791, RFC 8200), or the socket's own words. Out: addresses, protocol
//! and ports of a [`FlowKey`]. Never: anything beyond the ports.

use railwatch_abi::drops::{FlowKey, IPV4, IPV6};

use crate::maps::{config, field, read};

/// Ethernet types (IEEE 802); 0 before the packet has one.
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Extension headers that are walked through.
const EXTENSIONS: u32 = 4;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Fills in the packet's flow; `false` where it is not IP, or its header is not there.
#[inline(always)]
pub fn of_packet(skb: u64, key: &mut FlowKey) -> bool {
    fill(skb, key).is_some()
}

#[inline(always)]
fn fill(skb: u64, key: &mut FlowKey) -> Option<()> {
    let head: u64 = field(skb, config!(skb_head))?;
    let begins: u16 = field(skb, config!(skb_network_header))?;
    let tail: u32 = field(skb, config!(skb_tail))?;
    let room = tail.checked_sub(u32::from(begins))?;
    let ethertype = u16::from_be(field(skb, config!(skb_protocol))?);
    // A buffer has headroom: a header at its very start was never set.
    if begins == 0 || room < 20 {
        return None;
    }
    let at = head + u64::from(begins);
    let version = read::<u8>(at)? >> 4;
    if version == IPV4 && (ethertype == ETHERTYPE_IPV4 || ethertype == 0) {
        ipv4(at, room, key)
    } else if version == IPV6 && (ethertype == ETHERTYPE_IPV6 || ethertype == 0) {
        ipv6(at, room, key)
    } else {
        None
    }
}

#[inline(always)]
fn ipv4(at: u64, room: u32, key: &mut FlowKey) -> Option<()> {
    let words: [u32; 5] = read(at)?;
    key.family = IPV4;
    key.protocol = u32::from_be(words[2]).to_be_bytes()[1];
    key.source[0] = words[3];
    key.destination[0] = words[4];
    let length = (u32::from_be(words[0]) >> 24 & 15) * 4;
    let fragment = u32::from_be(words[1]) & 0x1fff;
    if fragment == 0 {
        ports(at, length, room, key);
    }
    Some(())
}

#[inline(always)]
fn ipv6(at: u64, room: u32, key: &mut FlowKey) -> Option<()> {
    if room < 40 {
        return None;
    }
    key.family = IPV6;
    key.source = read(at + 8)?;
    key.destination = read(at + 24)?;
    let mut next: u8 = read(at + 6)?;
    let mut length = 40u32;
    let mut first = true;
    for _ in 0..EXTENSIONS {
        if room < length + 8 || !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            break;
        }
        let Some(word) = read::<u32>(at + u64::from(length)) else { break };
        let [after, eighths, offset_high, offset_low] = word.to_ne_bytes();
        if next == FRAGMENT {
            first = u16::from_be_bytes([offset_high, offset_low]) >> 3 == 0;
            length += 8;
        } else {
            length += (u32::from(eighths) + 1) * 8;
        }
        next = after;
        if !first {
            break;
        }
    }
    key.protocol = next;
    if first {
        ports(at, length, room, key);
    }
    Some(())
}

#[inline(always)]
fn ports(at: u64, length: u32, room: u32, key: &mut FlowKey) {
    if !matches!(key.protocol, TCP | UDP | DCCP | SCTP | UDP_LITE) || room < length + 4 {
        return;
    }
    if let Some(word) = read::<u32>(at + u64::from(length)) {
        let word = u32::from_be(word);
        key.source_port = (word >> 16) as u16;
        key.destination_port = word as u16;
    }
}

/// Fills in the flow of a TCP socket.
#[inline(always)]
pub fn of_socket(socket: u64, key: &mut FlowKey) -> bool {
    tuple(socket, key).is_some()
}

#[inline(always)]
fn tuple(socket: u64, key: &mut FlowKey) -> Option<()> {
    match field(socket, config!(sock_family))? {
        AF_INET => {
            key.family = IPV4;
            key.source[0] = field(socket, config!(sock_address))?;
            key.destination[0] = field(socket, config!(sock_peer))?;
        }
        AF_INET6 => {
            key.family = IPV6;
            key.source = field(socket, config!(sock_address6))?;
            key.destination = field(socket, config!(sock_peer6))?;
        }
        _ => return None,
    }
    key.protocol = TCP;
    // The own port lies in the host's order, the peer's in the network's (include/net/sock.h).
    key.source_port = field(socket, config!(sock_port))?;
    key.destination_port = u16::from_be(field(socket, config!(sock_peer_port))?);
    Some(())
}
