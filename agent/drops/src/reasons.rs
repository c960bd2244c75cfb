//! What the kernel's drop reasons are called, and which of them are a loss.
//!
//! In: `enum skb_drop_reason` of the running kernel (include/net/dropreason-core.h; the numbers shift between kernels).
//! Out: a name and a [`Class`] for each number. Never: a number with a meaning of its own.

use railwatch_abi::drops::RETRANSMIT;
use railwatch_gpu::kernel::offsets::KernelTypes;
use railwatch_sampling::{Rule, Severity, When};
use std::collections::BTreeMap;

/// What a reason means for those who wait for the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Damage or want of memory: should never happen.
    Fault,
    /// The packet was wanted and did not arrive.
    Loss,
    /// Somebody's rule wants it dropped.
    Deliberate,
    /// Nobody misses it: for another host, seen before, or its socket is closed.
    Harmless,
    /// The kernel does not say, or says what this build does not know.
    Unspecified,
    /// Not a drop here: TCP sent a segment again, because it was lost somewhere or is late.
    Retransmit,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Fault, Self::Loss, Self::Deliberate, Self::Harmless, Self::Unspecified, Self::Retransmit];

    /// As shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Loss => "loss",
            Self::Deliberate => "deliberate",
            Self::Harmless => "harmless",
            Self::Unspecified => "unspecified",
            Self::Retransmit => "retransmit",
        }
    }

    /// Name of the series that counts it.
    #[must_use]
    pub fn series(self) -> &'static str {
        match self {
            Self::Fault => "hw.network.drops.fault",
            Self::Loss => "hw.network.drops.loss",
            Self::Deliberate => "hw.network.drops.deliberate",
            Self::Harmless => "hw.network.drops.harmless",
            Self::Unspecified => "hw.network.drops.unspecified",
            Self::Retransmit => "hw.network.tcp.retransmits",
        }
    }
}

/// What raises signals.
pub const RULES: &[Rule] = &[
    Rule {
        series: "hw.network.drops.loss",
        what: "packets dropped",
        severity: Severity::Warning,
        when: When::Floods { raised: "net.drop.burst", per_s: 100, burst: 1_000 },
    },
    Rule {
        series: "hw.network.drops.fault",
        what: "packets dropped by damage or want of memory",
        severity: Severity::Error,
        when: When::Floods { raised: "net.drop.fault", per_s: 0, burst: 0 },
    },
    Rule {
        series: "hw.network.tcp.retransmits",
        what: "TCP segments sent again",
        severity: Severity::Warning,
        when: When::Floods { raised: "net.tcp.retransmit.burst", per_s: 100, burst: 1_000 },
    },
];

/// Reasons that are not a [`Class::Loss`], without their prefix. A name that is not here is a loss.
const CLASSES: &[(Class, &[&str])] = &[
    (
        Class::Fault,
        &[
            "TCP_CSUM",
            "UDP_CSUM",
            "IP_CSUM",
            "ICMP_CSUM",
            "SKB_CSUM",
            "SKB_GSO_SEG",
            "SKB_UCOPY_FAULT",
            "NOMEM",
            "PFMEMALLOC",
            "PROTO_MEM",
            "CPU_BACKLOG",
        ],
    ),
    (
        Class::Deliberate,
        &["NETFILTER_DROP", "BPF_CGROUP_EGRESS", "SECURITY_HOOK", "SOCKET_FILTER", "TC_EGRESS", "TC_INGRESS", "XDP"],
    ),
    (
        Class::Harmless,
        &[
            "ARP_PVLAN_DISABLE",
            "BRIDGE_INGRESS_STP_STATE",
            "DUP_FRAG",
            "IPV6DISABLED",
            "IPV6_NDISC_NS_OTHERHOST",
            "LOCAL_MAC",
            "MAC_IEEE_MAC_CONTROL",
            "OTHERHOST",
            "QUEUE_PURGE",
            "SOCKET_CLOSE",
            "TAP_FILTER",
            "TAP_TXFILTER",
            "TCP_CLOSE",
            "TCP_FASTOPEN",
            "TCP_OFOMERGE",
            "TCP_OLD_ACK",
            "TCP_OLD_DATA",
            "TCP_OLD_SEQUENCE",
            "TCP_RESET",
            "TCP_TOO_OLD_ACK",
            "UNHANDLED_PROTO",
            "UNICAST_IN_L2_MULTICAST",
            "UNIX_DISCONNECT",
            "UNIX_SKIP_OOB",
        ],
    ),
    (Class::Unspecified, &["NOT_SPECIFIED"]),
];

/// Enumerators that are no drop: the packet arrived (SKB_CONSUMED), or was not dropped at all.
const QUIET: &[&str] = &["SKB_CONSUMED", "SKB_NOT_DROPPED_YET"];
const PREFIX: &str = "SKB_DROP_REASON_";

/// The running kernel's reasons.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    names: BTreeMap<u32, String>,
    quiet: Vec<u32>,
}

impl Reasons {
    /// From the kernel's types; without names where it has none.
    #[must_use]
    pub fn of(types: &KernelTypes) -> Self {
        Self::from_enumerators(types.enumerators("skb_drop_reason").unwrap_or_default())
    }

    fn from_enumerators(enumerators: Vec<(String, u32)>) -> Self {
        let mut reasons = Self::default();
        for (name, number) in enumerators {
            if QUIET.contains(&name.as_str()) {
                reasons.quiet.push(number);
            } else if let Some(short) = name.strip_prefix(PREFIX)
                && !matches!(short, "MAX" | "SUBSYS_MASK")
            {
                reasons.names.insert(number, short.to_owned());
            }
        }
        reasons
    }

    /// Whether any name is known.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.names.is_empty()
    }

    /// Numbers that are no drop.
    #[must_use]
    pub fn quiet(&self) -> &[u32] {
        &self.quiet
    }

    /// The kernel's name without its prefix, `TCP_RETRANSMIT`, or the number where there is no name. Numbers above
    /// 65,535 are a subsystem's own (`openvswitch`, `mac80211`): its number and theirs.
    #[must_use]
    pub fn name(&self, reason: u32) -> String {
        if reason == RETRANSMIT {
            return "TCP_RETRANSMIT".to_owned();
        }
        match self.names.get(&reason) {
            Some(name) => name.clone(),
            None if reason > 0xffff => format!("SUBSYSTEM_{}_{}", reason >> 16, reason & 0xffff),
            None => format!("REASON_{reason}"),
        }
    }

    /// What the reason means.
    #[must_use]
    pub fn class(&self, reason: u32) -> Class {
        if reason == RETRANSMIT {
            return Class::Retransmit;
        }
        let Some(name) = self.names.get(&reason) else { return Class::Unspecified };
        let listed = CLASSES.iter().find(|(_, names)| names.contains(&name.as_str()));
        listed.map_or(Class::Loss, |(class, _)| *class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons() -> Reasons {
        let names = [
            ("SKB_NOT_DROPPED_YET", 0),
            ("SKB_CONSUMED", 1),
            ("SKB_DROP_REASON_NOT_SPECIFIED", 2),
            ("SKB_DROP_REASON_NO_SOCKET", 3),
            ("SKB_DROP_REASON_UDP_CSUM", 4),
            ("SKB_DROP_REASON_OTHERHOST", 5),
            ("SKB_DROP_REASON_NETFILTER_DROP", 6),
            ("SKB_DROP_REASON_MAX", 7),
            ("SKB_DROP_REASON_SUBSYS_MASK", 0xffff_0000),
        ];
        Reasons::from_enumerators(names.map(|(name, number)| (name.to_owned(), number)).to_vec())
    }

    #[test]
    fn a_reason_has_the_running_kernels_name_and_a_class() {
        let reasons = reasons();
        for (number, name, class) in [
            (2, "NOT_SPECIFIED", Class::Unspecified),
            (3, "NO_SOCKET", Class::Loss),
            (4, "UDP_CSUM", Class::Fault),
            (5, "OTHERHOST", Class::Harmless),
            (6, "NETFILTER_DROP", Class::Deliberate),
            (7, "REASON_7", Class::Unspecified),
            (3 << 16 | 2, "SUBSYSTEM_3_2", Class::Unspecified),
            (RETRANSMIT, "TCP_RETRANSMIT", Class::Retransmit),
        ] {
            assert_eq!((reasons.name(number).as_str(), reasons.class(number)), (name, class));
        }
    }

    #[test]
    fn what_was_consumed_is_kept_out() {
        assert_eq!(reasons().quiet(), [0, 1]);
        assert!(!Reasons::default().is_named());
    }

    #[test]
    fn no_reason_is_in_two_classes() {
        let mut names: Vec<_> = CLASSES.iter().flat_map(|(_, names)| names.iter()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
