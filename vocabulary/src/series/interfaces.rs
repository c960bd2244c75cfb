//! Network interfaces: statistics, link, flow control, and drivers' own counters.

use super::{DIRECTION, INTERFACE};
use crate::convention::{errors, network, system};
use crate::{Board, Label, Proof, Section, amount, counter, gauge, label, one_of, state};

const BY_DIRECTION: &[Label] = &[DIRECTION];
const CLASS: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "7"];
const FAKE_NIC: Proof = Proof::Test("agent/nic/tests/kernel_fakenic.rs");
const PORT: &[&str] = &["port"];
const IS: &str = "the interface: `eth0`";

/// rtnetlink's statistics.
pub(super) const STATISTICS: Section = Section {
    title: "Interfaces: statistics",
    sources: &["netdev"],
    entities: PORT,
    entity_is: IS,
    labels: &[INTERFACE, DIRECTION],
    board: Board::Nic,
    proof: Proof::Whole,
    series: &[
        counter("hw.network.io", "By", "Bytes").on("Interfaces: traffic").otel(network("hw.network.io", "By")),
        counter("hw.network.packets", "{packet}", "Packets")
            .on("Interfaces: packets")
            .otel(network("hw.network.packets", "{packet}")),
        counter(
            "hw.network.errors",
            "{error}",
            "Bad packets received, or packets that could not be sent; the kinds below are parts of it",
        )
        .on("Interfaces: errors")
        .otel(system("system.network.errors", "{error}")),
        counter(
            "hw.network.dropped",
            "{packet}",
            "Packets dropped without an error: no room in the host, or none in the queue",
        )
        .on("Interfaces: errors")
        .otel(system("system.network.packet.dropped", "{packet}")),
        counter("hw.network.errors.length", "{error}", "Frames too short or too long")
            .on("Interfaces: errors by kind")
            .otel(errors(&[("hw.type", "network"), ("error.type", "length")])),
        counter("hw.network.errors.crc", "{error}", "Frames with a wrong checksum")
            .on("Interfaces: errors by kind")
            .otel(errors(&[("hw.type", "network"), ("error.type", "crc")])),
        counter("hw.network.errors.frame", "{error}", "Frames with a bad alignment")
            .on("Interfaces: errors by kind")
            .otel(errors(&[("hw.type", "network"), ("error.type", "frame")])),
        counter("hw.network.errors.fifo", "{error}", "Overruns of the receive queue")
            .on("Interfaces: errors by kind")
            .otel(errors(&[("hw.type", "network"), ("error.type", "fifo")])),
        counter("hw.network.errors.missed", "{error}", "Frames that the host did not fetch in time")
            .on("Interfaces: errors by kind")
            .otel(errors(&[("hw.type", "network"), ("error.type", "missed")])),
        counter("hw.network.errors.carrier", "{error}", "Frames lost because the carrier was gone")
            .on("Interfaces: errors by kind")
            .otel(errors(&[("hw.type", "network"), ("error.type", "carrier")])),
    ],
};

/// Rates over single milliseconds.
pub(super) const MICROBURSTS: Section = Section {
    title: "Interfaces: rates over milliseconds",
    sources: &["netdev"],
    entities: PORT,
    entity_is: IS,
    labels: &[INTERFACE, DIRECTION, one_of("statistic", &["p50", "p99", "max"])],
    board: Board::Nic,
    proof: Proof::Test("agent/nic/src/microburst.rs"),
    series: &[gauge(
        "hw.network.io.rate",
        "By/s",
        "Rates over single milliseconds of the last second; only while the port is read every few milliseconds",
    )
    .on("Interfaces: rates over milliseconds")],
};

/// Link state.
pub(super) const LINK: Section = Section {
    title: "Interfaces: link",
    sources: &["netdev.link"],
    entities: PORT,
    entity_is: IS,
    labels: &[INTERFACE],
    board: Board::Nic,
    proof: Proof::Whole,
    series: &[
        state("hw.network.up", "The link carries traffic").on("Links up").otel(network("hw.network.up", "1")),
        counter("hw.network.carrier_downs", "{event}", "Times the carrier went, as the kernel's network core counts")
            .proven(FAKE_NIC)
            .on("Links: falls"),
        amount("hw.network.speed", "bit/s", "Speed of the link")
            .proven(FAKE_NIC)
            .on("Links: speed")
            .otel(network("hw.network.bandwidth.limit", "By/s").scaled(0.125)),
    ],
};

/// ethtool netlink.
pub(super) const QUEUES: Section = Section {
    title: "Interfaces: 802.3x pause, FEC, physical link",
    sources: &["netdev.queues"],
    entities: PORT,
    entity_is: IS,
    labels: &[INTERFACE],
    board: Board::Nic,
    proof: FAKE_NIC,
    series: &[
        counter("hw.network.pause_frames", "{frame}", "802.3x pause frames, which stop the whole link")
            .by(BY_DIRECTION)
            .on("Pause frames of the whole link (802.3x)"),
        counter("hw.network.fec.corrected_blocks", "{block}", "Blocks that forward error correction repaired")
            .by(BY_DIRECTION)
            .on("Forward error correction: corrected"),
        counter("hw.network.fec.corrected_bits", "{bit}", "Bits that forward error correction repaired")
            .by(BY_DIRECTION)
            .on("Forward error correction: corrected"),
        counter("hw.network.fec.uncorrectable_blocks", "{block}", "Blocks that it could not repair: lost frames")
            .by(BY_DIRECTION)
            .on("Forward error correction: uncorrectable")
            .otel(errors(&[("hw.type", "network"), ("error.type", "fec_uncorrectable")])),
        counter(
            "hw.network.physical_link_downs",
            "{event}",
            "Falls of the physical link, as the driver counts (Linux 6.3 and later)",
        )
        .on("Links: falls"),
    ],
};

/// Drivers' own statistics of the whole port.
pub(super) const DRIVER: Section = Section {
    title: "Interfaces: drivers' own counts",
    sources: &["netdev.driver"],
    entities: PORT,
    entity_is: IS,
    labels: &[INTERFACE],
    board: Board::Nic,
    proof: FAKE_NIC,
    series: &[
        counter("hw.network.pause_time", "ns", "Time that 802.3x pause stopped the link")
            .by(BY_DIRECTION)
            .on("Pause: share of time"),
        counter("hw.network.pause_transitions", "{event}", "Times that 802.3x pause began")
            .by(BY_DIRECTION)
            .on("Pause: transitions"),
        counter("hw.network.xoff_ticks", "{tick}", "Time paused by 802.3x, in ticks whose length hns3 does not state")
            .by(BY_DIRECTION)
            .on("Pause: ticks of unstated length (hns3)"),
        counter("hw.network.pfc.storm_warnings", "{event}", "Pause storms that the card noticed")
            .by(BY_DIRECTION)
            .on("PFC storms"),
        counter("hw.network.pfc.storm_errors", "{event}", "Pause storms that the card stopped by itself")
            .by(BY_DIRECTION)
            .on("PFC storms"),
        counter(
            "hw.network.pfc.unexpected_pause_frames",
            "{frame}",
            "Pause frames on priorities that have no flow control here",
        )
        .by(BY_DIRECTION)
        .on("PFC: pause frames"),
        counter("hw.network.discards", "{packet}", "Packets that the card discarded for want of buffer")
            .by(BY_DIRECTION)
            .on("Cards: discards"),
        counter("hw.network.dropped.link_down", "{packet}", "Packets dropped because the link was down")
            .by(BY_DIRECTION)
            .on("Cards: discards"),
        counter("hw.network.out_of_buffer", "{packet}", "Packets dropped because the host had posted no buffer")
            .by(BY_DIRECTION)
            .on("Cards: discards"),
        counter("hw.network.errors.symbol", "{error}", "Symbol errors on the wire")
            .by(BY_DIRECTION)
            .on("Interfaces: errors by kind")
            .otel(errors(&[("hw.type", "network"), ("error.type", "symbol")])),
        counter("hw.network.phy.link_downs", "{event}", "Falls of the physical link, as the card counts")
            .on("Links: falls"),
        counter("hw.network.faults.local", "{event}", "Local faults: this end does not receive")
            .by(BY_DIRECTION)
            .on("Links: falls"),
        counter("hw.network.faults.remote", "{event}", "Remote faults: the far end does not receive")
            .by(BY_DIRECTION)
            .on("Links: falls"),
    ],
};

/// Drivers' own statistics by priority.
pub(super) const PRIORITIES: Section = Section {
    title: "Interfaces: priorities (PFC)",
    sources: &["netdev.driver"],
    entities: PORT,
    entity_is: IS,
    // ionic counts frames over all priorities together.
    labels: &[INTERFACE, DIRECTION, one_of("network.priority", CLASS).or_none()],
    board: Board::Nic,
    proof: FAKE_NIC,
    series: &[
        counter("hw.network.pfc.pause_frames", "{frame}", "Pause frames of a priority").on("PFC: pause frames"),
        counter("hw.network.pfc.resume_frames", "{frame}", "Frames that end the pause of a priority")
            .on("PFC: pause frames"),
        counter("hw.network.pfc.pause_time", "ns", "Time that a priority was paused").on("Pause: share of time"),
        counter(
            "hw.network.pfc.xoff_ticks",
            "{tick}",
            "Time that a priority was paused, in ticks whose length hns3 does not state",
        )
        .on("Pause: ticks of unstated length (hns3)"),
        counter("hw.network.pfc.transitions", "{event}", "Times that the pause of a priority began")
            .on("Pause: transitions"),
        counter("hw.network.priority.io", "By", "Bytes of a priority").on("Priorities: traffic"),
        counter("hw.network.priority.discards", "{packet}", "Packets of a priority that the card discarded")
            .on("Priorities: discards"),
        counter("hw.network.priority.discards.buffer", "{packet}", "Of these: for want of buffer")
            .on("Priorities: discards"),
        counter("hw.network.priority.discards.congestion", "{packet}", "Of these: by congestion")
            .on("Priorities: discards"),
        counter("hw.network.priority.ecn_marked", "{packet}", "Packets of a priority that came marked by ECN")
            .on("ECN marks"),
    ],
};

/// Drivers' own classes of service.
pub(super) const CLASSES: Section = Section {
    title: "Interfaces: classes of service",
    sources: &["netdev.driver"],
    entities: PORT,
    entity_is: IS,
    labels: &[INTERFACE, DIRECTION, one_of("network.cos", CLASS)],
    board: Board::Nic,
    proof: FAKE_NIC,
    series: &[counter("hw.network.cos.discards", "{packet}", "Packets of a class of service that the card discarded")
        .on("Priorities: discards")],
};

/// DCB netlink.
pub(super) const DCB: Section = Section {
    title: "Interfaces: PFC as configured",
    sources: &["netdev.dcb"],
    entities: PORT,
    entity_is: IS,
    labels: &[INTERFACE, one_of("network.priority", CLASS)],
    board: Board::Nic,
    proof: FAKE_NIC,
    series: &[
        state("hw.network.pfc.enabled", "Priority flow control is on for the priority").on("PFC switched on"),
        counter("hw.network.pfc.requests", "{frame}", "Pause frames sent, by the count of DCB (hns3 alone)")
            .by(BY_DIRECTION)
            .on("PFC: pause frames"),
        counter("hw.network.pfc.indications", "{frame}", "Pause frames received, by the count of DCB (hns3 alone)")
            .by(BY_DIRECTION)
            .on("PFC: pause frames"),
    ],
};

/// What switches say of their queues (gNMI).
pub(super) const SWITCH_QUEUES: Section = Section {
    title: "Switches: queues",
    sources: &["gnmi"],
    entities: PORT,
    entity_is: "the switch's port: `Ethernet1/1`",
    labels: &[INTERFACE, label("network.queue")],
    board: Board::Nic,
    proof: Proof::Test("collector/switches/src/series.rs"),
    series: &[
        counter("hw.network.queue.io", "By", "Bytes sent from a switch's queue").on("Switches: queues, traffic"),
        counter("hw.network.queue.packets", "{packet}", "Packets sent from a switch's queue").on("Switches: queues"),
        counter("hw.network.queue.dropped", "{packet}", "Packets that a switch's queue had no room for")
            .on("Switches: queues"),
        amount("hw.network.queue.depth", "By", "Mean length of a switch's queue, as the switch says")
            .on("Switches: queues, length"),
    ],
};
