//! Keys, values and configuration of the packet drops' maps.
//!
//! In: written by the kernel half `railwatch-drops`, with atomic additions. Out: read, and emptied where a flow table
//! is not the active one, by the agent. Never: payload, implicit padding, an offset that is not the running kernel's.

use crate::maps::Plain;

/// Stands in a key where a drop has its reason: a TCP segment that was sent again.
pub const RETRANSMIT: u32 = u32::MAX;

/// Stands in a [`DropKey`] for every namespace but the one whose interfaces are told apart.
pub const ELSEWHERE: u32 = u32::MAX;

/// Values of [`FlowKey::family`].
pub const IPV4: u8 = 4;
/// See [`IPV4`].
pub const IPV6: u8 = 6;

/// Flows that one of the two tables holds. Preallocated: no allocation happens where packets are dropped.
pub const FLOWS_MAX: u32 = 8_192;
/// Pairs of reason and interface that the totals hold.
pub const TOTALS_MAX: u32 = 4_096;
/// Reasons below this can be kept out by [`DropsConfig::quiet`].
pub const QUIET_REASONS: u32 = 256;

/// What a total is of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DropKey {
    /// `enum skb_drop_reason` of the running kernel, or [`RETRANSMIT`].
    pub reason: u32,
    /// Interface index within the namespace; 0 where the packet had none, and elsewhere.
    pub interface: u32,
    /// Inode number of the network namespace if it is [`DropsConfig::home_namespace`], 0 where unknown, else
    /// [`ELSEWHERE`].
    pub namespace: u32,
    /// Always 0.
    pub pad: u32,
}

/// Value of `TOTALS`, one copy per CPU. `packets` = those in flows + `flows_full` + `no_flow`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Packets (socket buffers: a large segment counts once).
    pub packets: u64,
    /// Their bytes as far as they were not yet, or not any more, stripped of headers.
    pub bytes: u64,
    /// Of the packets: their flow is not in the table, which was full.
    pub flows_full: u64,
    /// Of the packets: without a flow (not IP, or its header could not be read).
    pub no_flow: u64,
}

/// A flow that lost packets for one reason on one interface. Addresses lie as in the packet, an IPv4 one in the first
/// word.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// As in [`DropKey`].
    pub reason: u32,
    /// Interface index within the namespace; 0 where the packet had none.
    pub interface: u32,
    /// Inode number of the network namespace; 0 where unknown.
    pub namespace: u32,
    /// [`IPV4`] or [`IPV6`].
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// 0 where the protocol has none, and for all fragments but the first.
    pub source_port: u16,
    /// As `source_port`.
    pub destination_port: u16,
    /// Always 0.
    pub pad: u16,
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
}

/// Value of the flow tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// As in [`Dropped`].
    pub packets: u64,
    /// As in [`Dropped`].
    pub bytes: u64,
    /// CLOCK_MONOTONIC at the first of them, in nanoseconds.
    pub first_ns: u64,
    /// The same at the last.
    pub last_ns: u64,
}

/// Value of `BOOKS` (one entry, one copy per CPU). `seen` = the packets of `TOTALS` + `totals_full`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropBooks {
    /// Drops and retransmissions within the scope.
    pub seen: u64,
    /// Of those: in no total, because `TOTALS` was full.
    pub totals_full: u64,
    /// Not counted: a scope was asked for, and the packet's namespace could not be told.
    pub scope_unknown: u64,
}

/// What user space tells the kernel half once, before it runs (a read-only global). Offsets are in bytes and mean
/// something only where the flag before them is 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropsConfig {
    /// Only this network namespace (inode number); 0 for all.
    pub scope_namespace: u32,
    /// The network namespace (inode number) whose interfaces have totals of their own; 0 for none.
    pub home_namespace: u32,
    /// 1 where the tracepoint's fourth argument is the receiving socket (kernel 6.11).
    pub has_receiver: u32,
    /// 1 where the tracepoint's third argument is an error that makes the retransmission fail (kernel 6.15).
    pub has_retransmit_error: u32,
    /// 1 where the length of a packet is known: `skb_len`.
    pub has_length: u32,
    /// `sk_buff.len`.
    pub skb_len: u32,
    /// 1 where interface and namespace are known: `skb_dev` to `sock_net`.
    pub has_interface: u32,
    /// `sk_buff.dev`.
    pub skb_dev: u32,
    /// `sk_buff.skb_iif`.
    pub skb_iif: u32,
    /// `sk_buff.sk`.
    pub skb_sk: u32,
    /// `sk_buff._skb_refdst`.
    pub skb_dst: u32,
    /// `dst_entry.dev`.
    pub dst_dev: u32,
    /// `net_device.ifindex`.
    pub device_ifindex: u32,
    /// `net_device.nd_net.net`.
    pub device_net: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `net.loopback_dev`.
    pub net_loopback: u32,
    /// `sock_common.skc_net.net`.
    pub sock_net: u32,
    /// 1 where the headers can be read: `skb_head` to `skb_protocol`.
    pub has_flow: u32,
    /// `sk_buff.head`.
    pub skb_head: u32,
    /// `sk_buff.tail`, an offset from the head.
    pub skb_tail: u32,
    /// `sk_buff.network_header`, an offset from the head.
    pub skb_network_header: u32,
    /// `sk_buff.protocol`.
    pub skb_protocol: u32,
    /// 1 where a TCP socket's flow can be read: `sock_family` to `sock_dst`.
    pub has_socket: u32,
    /// `sock_common.skc_family`.
    pub sock_family: u32,
    /// `sock_common.skc_num`.
    pub sock_port: u32,
    /// `sock_common.skc_dport`.
    pub sock_peer_port: u32,
    /// `sock_common.skc_rcv_saddr`.
    pub sock_address: u32,
    /// `sock_common.skc_daddr`.
    pub sock_peer: u32,
    /// `sock_common.skc_v6_rcv_saddr`.
    pub sock_address6: u32,
    /// `sock_common.skc_v6_daddr`.
    pub sock_peer6: u32,
    /// `sock.sk_dst_cache`.
    pub sock_dst: u32,
    /// One bit per reason that is no drop at all and is passed over.
    pub quiet: [u32; QUIET_REASONS as usize / 32],
}

impl DropsConfig {
    /// Passes a reason over.
    pub fn keep_out(&mut self, reason: u32) {
        if reason < QUIET_REASONS {
            self.quiet[reason as usize / 32] |= 1 << (reason % 32);
        }
    }
}

impl Plain for DropKey {}
impl Plain for Dropped {}
impl Plain for FlowKey {}
impl Plain for Flow {}
impl Plain for DropBooks {}
impl Plain for DropsConfig {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_no_padding() {
        assert_eq!(size_of::<DropKey>(), 4 * 4);
        assert_eq!(size_of::<FlowKey>(), 3 * 4 + 2 + 3 * 2 + 2 * 16);
        assert_eq!(size_of::<DropsConfig>(), 31 * 4 + QUIET_REASONS as usize / 8);
    }

    #[test]
    fn a_reason_is_kept_out_alone() {
        let mut config = DropsConfig::default();
        config.keep_out(33);
        config.keep_out(QUIET_REASONS + 1);
        assert_eq!(config.quiet, [0, 2, 0, 0, 0, 0, 0, 0]);
    }
}
