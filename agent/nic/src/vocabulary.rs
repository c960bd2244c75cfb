//! What drivers call their counters, and what we call them: one table, no branches per vendor.
//!
//! Canonical names are `hw.network.*` for interfaces and `rdma.port.*` for RDMA ports. A counter no row knows is kept as
//! `rdma.port.vendor` with the driver's name as label `counter`, so that nothing the hardware says is hidden.
//! Widths: InfiniBand Architecture Specification 1.4, section 16.1.3.5 (PortCounters), and drivers/infiniband/core/sysfs.c
//! for the PMA; drivers/infiniband/hw/*/ for hw_counters (mlx5: queue counters of 32 bits that wrap).

use railwatch_sampling::{Counter, Kind, Rule, Severity, When};

/// Direction of traffic, as OpenTelemetry's attribute `network.io.direction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Receive,
    Transmit,
}

impl Direction {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Transmit => "transmit",
        }
    }
}

/// How the kernel's number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A counter that wraps at so many bits.
    Wraps(u8),
    /// A counter that stops at the end of so many bits.
    Saturates(u8),
    /// A 64-bit counter of 4-byte words that stops at its end.
    Words,
    /// Not a counter.
    Gauge,
}

impl Shape {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Wraps(bits) => Kind::Counter(Counter::wrapping(bits)),
            Self::Saturates(bits) => Kind::Counter(Counter::saturating(bits)),
            Self::Words => Kind::Counter(Counter::saturating(64).scaled(4)),
            Self::Gauge => Kind::Gauge,
        }
    }
}

/// One row: the kernel's name, ours, and how the number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) kernel: &'static str,
    pub(crate) name: &'static str,
    pub(crate) direction: Option<Direction>,
    pub(crate) unit: &'static str,
    pub(crate) shape: Shape,
}

const fn word(
    kernel: &'static str,
    name: &'static str,
    direction: Option<Direction>,
    unit: &'static str,
    shape: Shape,
) -> Word {
    Word { kernel, name, direction, unit, shape }
}

const RX: Option<Direction> = Some(Direction::Receive);
const TX: Option<Direction> = Some(Direction::Transmit);
const W32: Shape = Shape::Wraps(32);
const W64: Shape = Shape::Wraps(64);

/// Fields of `struct rtnl_link_stats64` by their place in it; `None`: not read.
pub(crate) const NETDEV: &[(usize, Word)] = &[
    (0, word("rx_packets", "hw.network.packets", RX, "{packet}", W64)),
    (1, word("tx_packets", "hw.network.packets", TX, "{packet}", W64)),
    (2, word("rx_bytes", "hw.network.io", RX, "By", W64)),
    (3, word("tx_bytes", "hw.network.io", TX, "By", W64)),
    (4, word("rx_errors", "hw.network.errors", RX, "{error}", W64)),
    (5, word("tx_errors", "hw.network.errors", TX, "{error}", W64)),
    (6, word("rx_dropped", "hw.network.dropped", RX, "{packet}", W64)),
    (7, word("tx_dropped", "hw.network.dropped", TX, "{packet}", W64)),
    (10, word("rx_length_errors", "hw.network.errors.length", RX, "{error}", W64)),
    (12, word("rx_crc_errors", "hw.network.errors.crc", RX, "{error}", W64)),
    (13, word("rx_frame_errors", "hw.network.errors.frame", RX, "{error}", W64)),
    (14, word("rx_fifo_errors", "hw.network.errors.fifo", RX, "{error}", W64)),
    (15, word("rx_missed_errors", "hw.network.errors.missed", RX, "{error}", W64)),
    (17, word("tx_carrier_errors", "hw.network.errors.carrier", TX, "{error}", W64)),
];

/// `ports/N/counters/`: the port's PMA.
pub(crate) const PMA: &[Word] = &[
    word("port_rcv_data", "rdma.port.io", RX, "By", Shape::Words),
    word("port_xmit_data", "rdma.port.io", TX, "By", Shape::Words),
    word("port_rcv_packets", "rdma.port.packets", RX, "{packet}", Shape::Saturates(64)),
    word("port_xmit_packets", "rdma.port.packets", TX, "{packet}", Shape::Saturates(64)),
    word("unicast_rcv_packets", "rdma.port.packets.unicast", RX, "{packet}", Shape::Saturates(64)),
    word("unicast_xmit_packets", "rdma.port.packets.unicast", TX, "{packet}", Shape::Saturates(64)),
    word("multicast_rcv_packets", "rdma.port.packets.multicast", RX, "{packet}", Shape::Saturates(64)),
    word("multicast_xmit_packets", "rdma.port.packets.multicast", TX, "{packet}", Shape::Saturates(64)),
    word("port_xmit_wait", "rdma.port.transmit_wait", TX, "{tick}", Shape::Saturates(32)),
    word("port_xmit_discards", "rdma.port.discards", TX, "{packet}", Shape::Saturates(16)),
    word("symbol_error", "rdma.port.errors.symbol", RX, "{error}", Shape::Saturates(16)),
    word("link_error_recovery", "rdma.port.link_error_recoveries", None, "{event}", Shape::Saturates(8)),
    word("link_downed", "rdma.port.link_downs", None, "{event}", Shape::Saturates(8)),
    word("port_rcv_errors", "rdma.port.errors", RX, "{error}", Shape::Saturates(16)),
    word("port_rcv_remote_physical_errors", "rdma.port.errors.remote_physical", RX, "{error}", Shape::Saturates(16)),
    word("port_rcv_switch_relay_errors", "rdma.port.errors.switch_relay", RX, "{error}", Shape::Saturates(16)),
    word("port_xmit_constraint_errors", "rdma.port.errors.constraint", TX, "{error}", Shape::Saturates(8)),
    word("port_rcv_constraint_errors", "rdma.port.errors.constraint", RX, "{error}", Shape::Saturates(8)),
    word("local_link_integrity_errors", "rdma.port.errors.local_link_integrity", RX, "{error}", Shape::Saturates(4)),
    word("excessive_buffer_overrun_errors", "rdma.port.errors.buffer_overrun", RX, "{error}", Shape::Saturates(4)),
    word("VL15_dropped", "rdma.port.dropped.vl15", RX, "{packet}", Shape::Saturates(16)),
];

/// `ports/N/hw_counters/` and RDMA netlink STAT_GET: what the driver keeps.
pub(crate) const HW: &[Word] = &[
    // mlx5 and mlx4: queue counters.
    word("out_of_buffer", "rdma.port.out_of_buffer", RX, "{packet}", W32),
    word("out_of_sequence", "rdma.port.out_of_sequence", RX, "{packet}", W32),
    word("duplicate_request", "rdma.port.duplicate_requests", RX, "{request}", W32),
    word("rnr_nak_retry_err", "rdma.port.rnr_naks", RX, "{packet}", W32),
    word("packet_seq_err", "rdma.port.nak_sequence_errors", RX, "{packet}", W32),
    word("implied_nak_seq_err", "rdma.port.implied_nak_sequence_errors", RX, "{packet}", W32),
    word("local_ack_timeout_err", "rdma.port.ack_timeouts", TX, "{event}", W32),
    word("resp_local_length_error", "rdma.port.responder.local_length_errors", RX, "{error}", W32),
    word("resp_cqe_error", "rdma.port.responder.completion_errors", RX, "{error}", W32),
    word("resp_cqe_flush_error", "rdma.port.responder.completion_flush_errors", RX, "{error}", W32),
    word("resp_remote_access_errors", "rdma.port.responder.remote_access_errors", RX, "{error}", W32),
    word("req_cqe_error", "rdma.port.requester.completion_errors", TX, "{error}", W32),
    word("req_cqe_flush_error", "rdma.port.requester.completion_flush_errors", TX, "{error}", W32),
    word("req_remote_invalid_request", "rdma.port.requester.remote_invalid_requests", TX, "{error}", W32),
    word("req_remote_access_errors", "rdma.port.requester.remote_access_errors", TX, "{error}", W32),
    word("rx_write_requests", "rdma.port.requests.write", RX, "{request}", W32),
    word("rx_read_requests", "rdma.port.requests.read", RX, "{request}", W32),
    word("rx_atomic_requests", "rdma.port.requests.atomic", RX, "{request}", W32),
    word("rx_dct_connect", "rdma.port.requests.dct_connect", RX, "{request}", W32),
    word("roce_adp_retrans", "rdma.port.adaptive_retransmissions", TX, "{packet}", W32),
    word("roce_adp_retrans_to", "rdma.port.adaptive_retransmission_timeouts", TX, "{event}", W32),
    word("roce_slow_restart", "rdma.port.slow_restarts", TX, "{event}", W32),
    word("roce_slow_restart_cnps", "rdma.port.slow_restart_cnps", TX, "{packet}", W32),
    word("roce_slow_restart_trans", "rdma.port.slow_restart_transitions", TX, "{event}", W32),
    word("rx_icrc_encapsulated", "rdma.port.errors.icrc", RX, "{packet}", W64),
    word("np_cnp_sent", "rdma.port.cnp", TX, "{packet}", W64),
    word("rp_cnp_handled", "rdma.port.cnp", RX, "{packet}", W64),
    word("rp_cnp_ignored", "rdma.port.cnp.ignored", RX, "{packet}", W64),
    word("np_ecn_marked_roce_packets", "rdma.port.ecn_marked", RX, "{packet}", W64),
    // bnxt_re.
    word("active_qps", "rdma.port.queue_pairs", None, "{queue_pair}", Shape::Gauge),
    word("rx_bytes", "rdma.port.hw.io", RX, "By", W64),
    word("tx_bytes", "rdma.port.hw.io", TX, "By", W64),
    word("rx_pkts", "rdma.port.hw.packets", RX, "{packet}", W64),
    word("tx_pkts", "rdma.port.hw.packets", TX, "{packet}", W64),
    word("to_retransmits", "rdma.port.ack_timeouts", TX, "{event}", W64),
    word("seq_err_naks_rcvd", "rdma.port.nak_sequence_errors", RX, "{packet}", W64),
    word("rnr_naks_rcvd", "rdma.port.rnr_naks", RX, "{packet}", W64),
    word("max_retry_exceeded", "rdma.port.retries_exceeded", TX, "{event}", W64),
    word("rx_roce_discards", "rdma.port.discards.roce", RX, "{packet}", W64),
    word("tx_roce_discards", "rdma.port.discards.roce", TX, "{packet}", W64),
    word("rx_cnp_pkts", "rdma.port.cnp", RX, "{packet}", W64),
    word("tx_cnp_pkts", "rdma.port.cnp", TX, "{packet}", W64),
    word("rx_ecn_marked_pkts", "rdma.port.ecn_marked", RX, "{packet}", W64),
    // rxe (software RoCE).
    word("rcvd_pkts", "rdma.port.hw.packets", RX, "{packet}", W64),
    word("sent_pkts", "rdma.port.hw.packets", TX, "{packet}", W64),
    word("out_of_seq_request", "rdma.port.out_of_sequence", RX, "{packet}", W64),
    word("rcvd_rnr_err", "rdma.port.rnr_naks", RX, "{packet}", W64),
    word("send_rnr_err", "rdma.port.rnr_naks", TX, "{packet}", W64),
    word("rcvd_seq_err", "rdma.port.nak_sequence_errors", RX, "{packet}", W64),
    word("retry_exceeded_err", "rdma.port.retries_exceeded", TX, "{event}", W64),
    word("retry_rnr_exceeded_err", "rdma.port.rnr_retries_exceeded", TX, "{event}", W64),
    word("completer_retry_err", "rdma.port.completer_retries", TX, "{event}", W64),
    word("send_err", "rdma.port.send_errors", TX, "{error}", W64),
    word("link_downed", "rdma.port.hw.link_downs", None, "{event}", W64),
    // efa.
    word("rx_drops", "rdma.port.dropped", RX, "{packet}", W64),
    word("retrans_bytes", "rdma.port.retransmitted", TX, "By", W64),
    word("retrans_pkts", "rdma.port.retransmitted_packets", TX, "{packet}", W64),
    word("retrans_timeout_events", "rdma.port.ack_timeouts", TX, "{event}", W64),
    // irdma.
    word("cnpSent", "rdma.port.cnp", TX, "{packet}", W64),
    word("cnpHandled", "rdma.port.cnp", RX, "{packet}", W64),
    word("cnpIgnored", "rdma.port.cnp.ignored", RX, "{packet}", W64),
    word("RxECNMrkd", "rdma.port.ecn_marked", RX, "{packet}", W64),
    word("RetransSegs", "rdma.port.retransmitted_packets", TX, "{packet}", W64),
];

/// Name of a counter that no row knows.
pub(crate) const VENDOR: Word = word("", "rdma.port.vendor", None, "1", W64);

/// The row of a driver's counter.
pub(crate) fn hw_word(kernel: &str) -> Word {
    HW.iter().find(|word| word.kernel == kernel).copied().unwrap_or(VENDOR)
}

/// Interfaces whose statistics the driver refreshes only in the background (measured by others, see the page on
/// sources): driver and time between refreshes.
pub(crate) const STALE_STATISTICS: &[(&str, std::time::Duration)] =
    &[("mlx5_core", std::time::Duration::from_secs(1)), ("bnxt_en", std::time::Duration::from_secs(1))];

const fn state(series: &'static str) -> Rule {
    Rule {
        series,
        what: "the link",
        severity: Severity::Critical,
        when: When::StateFalls { raised: "nic.link.down", cleared: "nic.link.up" },
    }
}

const fn still(series: &'static str, what: &'static str, severity: Severity) -> Rule {
    Rule { series, what, severity, when: When::Moves { raised: "nic.errors", saturated: "nic.counter.saturated" } }
}

/// What raises a signal at once: links, and counters that should never move on a healthy port.
///
/// Not here, on purpose: discards, pauses, drops, retransmissions and out-of-sequence packets (they move under
/// congestion on healthy hosts), flush errors (every job's end makes some), and errors that a port only relays for
/// somebody else (`remote_physical`, `switch_relay`): they would blame the wrong element.
pub const RULES: &[Rule] = &[
    state("hw.network.up"),
    state("rdma.port.up"),
    still("hw.network.errors.crc", "frames with a wrong checksum", Severity::Error),
    still("hw.network.errors.frame", "misaligned frames", Severity::Error),
    still("hw.network.errors.carrier", "frames lost to a missing carrier", Severity::Error),
    still("rdma.port.errors", "receive errors", Severity::Error),
    still("rdma.port.errors.symbol", "symbol errors", Severity::Warning),
    still("rdma.port.errors.local_link_integrity", "local link integrity errors", Severity::Error),
    still("rdma.port.errors.buffer_overrun", "buffer overrun errors", Severity::Error),
    still("rdma.port.errors.icrc", "packets with a wrong invariant checksum", Severity::Error),
    still("rdma.port.link_error_recoveries", "link error recoveries", Severity::Error),
    still("rdma.port.link_downs", "link downs", Severity::Error),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_rule_watches_a_series_that_some_row_produces() {
        let states = ["hw.network.up", "rdma.port.up"];
        let names: HashSet<_> = NETDEV
            .iter()
            .map(|(_, word)| word.name)
            .chain(PMA.iter().chain(HW).map(|word| word.name))
            .chain(states)
            .collect();
        for rule in RULES {
            assert!(names.contains(rule.series), "{} is watched and never read", rule.series);
        }
    }

    #[test]
    fn the_readme_names_every_series_and_every_signal() {
        let readme = include_str!("../README.md");
        let words = NETDEV.iter().map(|(_, word)| word).chain(PMA).chain(HW).map(|word| word.name);
        let signals = RULES.iter().flat_map(|rule| match rule.when {
            When::StateFalls { raised, cleared } => [raised, cleared],
            When::Moves { raised, saturated } => [raised, saturated],
            When::RateAbove { raised, cleared, .. } | When::LevelAbove { raised, cleared, .. } => [raised, cleared],
        });
        let others = ["hw.network.up", "hw.network.carrier_downs", "rdma.port.up", VENDOR.name];
        for name in words.chain(signals).chain(others) {
            assert!(readme.contains(&format!("`{name}`")), "{name} is not in README.md");
        }
    }

    #[test]
    fn no_kernel_name_has_two_meanings() {
        for table in [PMA, HW] {
            let kernel: HashSet<_> = table.iter().map(|word| word.kernel).collect();
            assert_eq!(kernel.len(), table.len());
        }
    }

    #[test]
    fn names_are_in_opentelemetry_style() {
        for word in NETDEV.iter().map(|(_, word)| word).chain(PMA).chain(HW) {
            assert!(
                word.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_' || b.is_ascii_digit()),
                "{}",
                word.name
            );
            assert!(
                !word.name.ends_with("_total") && !word.name.ends_with("_bytes"),
                "{}: the unit is a field",
                word.name
            );
        }
    }
}
