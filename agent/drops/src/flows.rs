//! The flows that lost packets, as far as there is room; and what is not in the table, counted.
//!
//! In: what the kernel half counted per flow since the last time. Out: the rows that lost most. Never: more rows than the
//! bound, or a packet that is neither in a row nor in the account.

use railwatch_abi::drops::{Flow, FlowKey, IPV4, IPV6};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Flows kept.
const ROWS_MAX: usize = 8_192;
/// Of those, kept when there are too many: the ones that lost most.
const ROWS_KEPT: usize = 6_144;
/// A flow that lost nothing for this long leaves.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A flow that lost packets for one reason on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// Which.
    pub key: FlowKey,
    /// What it lost since `first_ns`, exactly.
    pub flow: Flow,
}

impl FlowRow {
    /// Source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        address(self.key.family, self.key.source)
    }

    /// Destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        address(self.key.family, self.key.destination)
    }

    /// `tcp`, `udp`, …, or the protocol's number.
    #[must_use]
    pub fn protocol(&self) -> String {
        let name = match self.key.protocol {
            1 => "icmp",
            2 => "igmp",
            6 => "tcp",
            17 => "udp",
            47 => "gre",
            50 => "esp",
            58 => "icmpv6",
            132 => "sctp",
            number => return number.to_string(),
        };
        name.to_owned()
    }
}

/// Words as they lie in the packet; an IPv4 address in an IPv6 socket is shown as what it is.
fn address(family: u8, words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    match family {
        IPV4 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
        IPV6 => IpAddr::from(Ipv6Addr::from(bytes)).to_canonical(),
        _ => IpAddr::from(Ipv6Addr::from(bytes)),
    }
}

/// Packets with a flow: `taken` = those in rows + `evicted` + `expired`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Handed over by the kernel half.
    pub taken: u64,
    /// Of flows that had to leave for such as lost more.
    pub evicted: u64,
    /// Of flows that lost nothing for long.
    pub expired: u64,
}

/// The table.
#[derive(Debug, Default)]
pub struct FlowTable {
    rows: HashMap<FlowKey, Flow>,
    account: Account,
}

impl FlowTable {
    /// Adds what a flow lost.
    pub fn add(&mut self, key: FlowKey, more: Flow) {
        self.account.taken += more.packets;
        let row = self.rows.entry(key).or_insert(Flow { first_ns: more.first_ns, ..Flow::default() });
        row.packets += more.packets;
        row.bytes += more.bytes;
        row.first_ns = row.first_ns.min(more.first_ns);
        row.last_ns = row.last_ns.max(more.last_ns);
        // Twice the bound for a moment: the kernel half's table is no larger than that.
        if self.rows.len() >= 2 * ROWS_MAX {
            self.evict();
        }
    }

    /// Lets go of what is old, and of what is too much.
    pub fn tidy(&mut self, now_ns: u64) {
        let oldest_ns = now_ns.saturating_sub(FORGET_AFTER.as_nanos() as u64);
        let account = &mut self.account;
        self.rows.retain(|_, flow| {
            let stays = flow.last_ns >= oldest_ns;
            account.expired += if stays { 0 } else { flow.packets };
            stays
        });
        if self.rows.len() > ROWS_MAX {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let order = |flow: &Flow| (flow.packets, flow.last_ns);
        let mut ranks: Vec<_> = self.rows.iter().map(|(key, flow)| (order(flow), *key)).collect();
        let leave = ranks.len().saturating_sub(ROWS_KEPT);
        ranks.select_nth_unstable(leave);
        for (_, key) in &ranks[..leave] {
            self.account.evicted += self.rows.remove(key).map_or(0, |flow| flow.packets);
        }
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no flow lost anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Where the packets are.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account
    }

    /// The rows that lost most, at most `count`, the worst first.
    #[must_use]
    pub fn top(&self, count: usize) -> Vec<FlowRow> {
        let mut rows: Vec<_> = self.rows.iter().map(|(&key, &flow)| FlowRow { key, flow }).collect();
        let worst_first = |row: &FlowRow| (std::cmp::Reverse((row.flow.packets, row.flow.last_ns)), row.key);
        if rows.len() > count && count > 0 {
            rows.select_nth_unstable_by_key(count - 1, worst_first);
        }
        rows.truncate(count);
        rows.sort_unstable_by_key(worst_first);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source_port: u16, interface: u32) -> FlowKey {
        FlowKey { reason: 3, interface, family: IPV4, protocol: 17, source_port, ..FlowKey::default() }
    }

    fn lost(packets: u64, at_ns: u64) -> Flow {
        Flow { packets, bytes: packets * 100, first_ns: at_ns, last_ns: at_ns }
    }

    #[test]
    fn addresses_and_protocols_read_as_people_write_them() {
        let word = |bytes| u32::from_ne_bytes(bytes);
        let row = |family, source: [u32; 4], protocol| FlowRow {
            key: FlowKey { family, source, protocol, ..FlowKey::default() },
            flow: Flow::default(),
        };
        let mapped = [0, 0, word([0, 0, 255, 255]), word([10, 0, 0, 1])];
        let link_local = [word([0xfe, 0x80, 0, 0]), 0, 0, word([0, 0, 0, 1])];
        for (family, words, protocol, source, name) in [
            (IPV4, [word([192, 168, 7, 9]), 0, 0, 0], 17, "192.168.7.9", "udp"),
            (IPV6, link_local, 58, "fe80::1", "icmpv6"),
            (IPV6, mapped, 6, "10.0.0.1", "tcp"),
            (IPV4, [0; 4], 253, "0.0.0.0", "253"),
        ] {
            let row = row(family, words, protocol);
            assert_eq!((row.source().to_string().as_str(), row.protocol().as_str()), (source, name));
        }
    }

    #[test]
    fn a_flow_adds_up_and_the_worst_comes_first() {
        let mut table = FlowTable::default();
        table.add(key(1, 1), lost(2, 50));
        table.add(key(2, 1), lost(5, 60));
        table.add(key(1, 1), lost(4, 70));
        let top = table.top(1);
        assert_eq!(top, [FlowRow { key: key(1, 1), flow: Flow { packets: 6, bytes: 600, first_ns: 50, last_ns: 70 } }]);
        assert_eq!(table.top(10).len(), 2);
        assert_eq!(table.account(), Account { taken: 11, evicted: 0, expired: 0 });
    }

    #[test]
    fn beyond_the_bound_the_small_leave_and_every_packet_is_accounted_for() {
        let mut table = FlowTable::default();
        table.add(key(0, 0), lost(1_000_000, 1));
        for interface in 1..=3 {
            for port in 0..=u16::MAX / 4 {
                table.add(key(port, interface), lost(1, 1));
            }
            table.tidy(1);
            assert!(table.len() <= ROWS_MAX);
        }
        let Account { taken, evicted, expired } = table.account();
        let rows: u64 = table.top(usize::MAX).iter().map(|row| row.flow.packets).sum();
        assert_eq!(taken, rows + evicted + expired);
        assert!(evicted > 0);
        assert_eq!(table.top(1)[0].flow.packets, 1_000_000, "who lost most stays");
    }

    #[test]
    fn a_flow_that_lost_nothing_for_long_leaves() {
        let mut table = FlowTable::default();
        table.add(key(1, 1), lost(3, 0));
        table.add(key(2, 1), lost(4, 700_000_000_000));
        table.tidy(700_000_000_000);
        assert_eq!((table.len(), table.account().expired), (1, 3));
    }
}
