//! Ports of RDMA devices: link, the port's own counters, the transport's, and objects in use.

use super::DIRECTION;
use crate::convention::errors;
use crate::{Board, Label, NoPanel, Proof, Section, amount, counter, label, state};

const BY_DIRECTION: &[Label] = &[DIRECTION];
const LABELS: &[Label] = &[label("rdma.device.name"), label("rdma.port.number")];
const PORTS: &[&str] = &["port"];
const IS: &str = "device and port: `mlx5_0/1`";

/// sysfs `state`.
pub(super) const LINK: Section = Section {
    title: "RDMA ports: link",
    sources: &["rdma.link"],
    entities: PORTS,
    entity_is: IS,
    labels: LABELS,
    board: Board::Nic,
    proof: Proof::Whole,
    series: &[state("rdma.port.up", "The port is ACTIVE").on("Links up")],
};

/// The port's PMA, and what drivers count of the same.
pub(super) const PORT: Section = Section {
    title: "RDMA ports: the port",
    sources: &["rdma.pma", "rdma.hw"],
    entities: PORTS,
    entity_is: IS,
    labels: LABELS,
    board: Board::Nic,
    proof: Proof::Whole,
    series: &[
        counter("rdma.port.io", "By", "Bytes, as the port's PMA counts").by(BY_DIRECTION).on("RDMA: traffic"),
        counter("rdma.port.packets", "{packet}", "Packets, as the port's PMA counts")
            .by(BY_DIRECTION)
            .on("RDMA: packets"),
        counter("rdma.port.packets.unicast", "{packet}", "Of these: to one port").by(BY_DIRECTION).on("RDMA: packets"),
        counter("rdma.port.packets.multicast", "{packet}", "Of these: to many").by(BY_DIRECTION).on("RDMA: packets"),
        counter("rdma.port.hw.io", "By", "Bytes of RDMA, as the driver counts").by(BY_DIRECTION).on("RDMA: traffic"),
        counter("rdma.port.hw.packets", "{packet}", "Packets of RDMA, as the driver counts")
            .by(BY_DIRECTION)
            .on("RDMA: packets"),
        counter(
            "rdma.port.transmit_wait",
            "{tick}",
            "Time with something to send and no credit, in ticks of the port's clock",
        )
        .by(BY_DIRECTION)
        .on("RDMA: waiting for credit"),
        counter("rdma.port.discards", "{packet}", "Packets discarded because the port was down or congested")
            .by(BY_DIRECTION)
            .on("RDMA: discards"),
        counter("rdma.port.discards.roce", "{packet}", "RoCE packets that the card discarded")
            .by(BY_DIRECTION)
            .on("RDMA: discards"),
        counter("rdma.port.discards.mtu", "{packet}", "Packets larger than the MTU")
            .by(BY_DIRECTION)
            .on("RDMA: discards"),
        counter("rdma.port.dropped", "{packet}", "Packets that the device dropped (EFA)")
            .by(BY_DIRECTION)
            .on("RDMA: discards"),
        counter("rdma.port.dropped.vl15", "{packet}", "Management packets dropped for want of buffer")
            .by(BY_DIRECTION)
            .on("RDMA: discards"),
        counter("rdma.port.out_of_buffer", "{packet}", "Packets dropped because no receive was posted")
            .by(BY_DIRECTION)
            .on("RDMA: discards"),
        counter("rdma.port.errors", "{error}", "Packets received with an error")
            .by(BY_DIRECTION)
            .on("RDMA: errors of the port"),
        counter("rdma.port.errors.symbol", "{error}", "Symbol errors on the wire")
            .by(BY_DIRECTION)
            .on("RDMA: errors of the port")
            .otel(errors(&[("hw.type", "network"), ("error.type", "symbol")])),
        counter("rdma.port.errors.remote_physical", "{error}", "Packets that the far end had marked bad")
            .by(BY_DIRECTION)
            .on("RDMA: errors of the port")
            .otel(errors(&[("hw.type", "network"), ("error.type", "remote_physical")])),
        counter("rdma.port.errors.switch_relay", "{error}", "Packets that could not be forwarded")
            .by(BY_DIRECTION)
            .on("RDMA: errors of the port")
            .otel(errors(&[("hw.type", "network"), ("error.type", "switch_relay")])),
        counter("rdma.port.errors.constraint", "{error}", "Packets against the partition's rules")
            .by(BY_DIRECTION)
            .on("RDMA: errors of the port")
            .otel(errors(&[("hw.type", "network"), ("error.type", "constraint")])),
        counter(
            "rdma.port.errors.local_link_integrity",
            "{error}",
            "Times that errors of the local link passed their threshold",
        )
        .by(BY_DIRECTION)
        .on("RDMA: errors of the port")
        .otel(errors(&[("hw.type", "network"), ("error.type", "local_link_integrity")])),
        counter(
            "rdma.port.errors.buffer_overrun",
            "{error}",
            "Times that overruns of the buffer passed their threshold",
        )
        .by(BY_DIRECTION)
        .on("RDMA: errors of the port")
        .otel(errors(&[("hw.type", "network"), ("error.type", "buffer_overrun")])),
        counter("rdma.port.errors.icrc", "{packet}", "RoCE packets with a wrong invariant checksum")
            .by(BY_DIRECTION)
            .on("RDMA: errors of the port")
            .otel(errors(&[("hw.type", "network"), ("error.type", "icrc")])),
        counter("rdma.port.errors.roce", "{error}", "RoCE packets with an error, as the driver counts")
            .by(BY_DIRECTION)
            .on("RDMA: errors of the port"),
        counter("rdma.port.link_error_recoveries", "{event}", "Times that the link recovered from errors by itself")
            .on("RDMA: falls of the link"),
        counter("rdma.port.link_downs", "{event}", "Times that recovery failed and the link went down")
            .on("RDMA: falls of the link"),
        counter("rdma.port.hw.link_downs", "{event}", "Falls of the link, as software RoCE counts")
            .on("RDMA: falls of the link"),
        counter(
            "rdma.port.cnp",
            "{packet}",
            "Congestion notifications (transmit: sent to slow others down; receive: taken)",
        )
        .by(BY_DIRECTION)
        .on("Congestion notifications (CNP)"),
        counter("rdma.port.cnp.ignored", "{packet}", "Congestion notifications that were not obeyed")
            .by(BY_DIRECTION)
            .on("Congestion notifications (CNP)"),
        counter("rdma.port.ecn_marked", "{packet}", "RoCE packets that came marked by ECN")
            .by(BY_DIRECTION)
            .on("ECN marks"),
        counter(
            "rdma.port.vendor",
            "1",
            "A counter that no row of the drivers' vocabulary knows, by the driver's own name",
        )
        .by(&[label("counter")])
        .unshown(NoPanel::Unbounded),
    ],
};

/// What the transport lost, retried and refused.
pub(super) const TRANSPORT: Section = Section {
    title: "RDMA ports: the transport",
    sources: &["rdma.hw"],
    entities: PORTS,
    entity_is: IS,
    labels: &[LABELS[0], LABELS[1], DIRECTION],
    board: Board::Nic,
    proof: Proof::Whole,
    series: &[
        counter("rdma.port.out_of_sequence", "{packet}", "Packets out of sequence: one before them was lost")
            .on("RDMA: loss and retries"),
        counter("rdma.port.nak_sequence_errors", "{packet}", "Sequence errors that the far end reported")
            .on("RDMA: loss and retries"),
        counter("rdma.port.implied_nak_sequence_errors", "{packet}", "Answers missing between others")
            .on("RDMA: loss and retries"),
        counter("rdma.port.ack_timeouts", "{event}", "Acknowledgements that did not come in time")
            .on("RDMA: loss and retries"),
        counter("rdma.port.duplicate_requests", "{request}", "Requests that came twice").on("RDMA: loss and retries"),
        counter("rdma.port.completer_retries", "{event}", "Requests sent again (software RoCE)")
            .on("RDMA: loss and retries"),
        counter("rdma.port.retransmitted", "By", "Bytes sent again").on("RDMA: bytes sent again"),
        counter("rdma.port.retransmitted_packets", "{packet}", "Packets sent again").on("RDMA: loss and retries"),
        counter("rdma.port.adaptive_retransmissions", "{packet}", "Packets sent again by adaptive retransmission")
            .on("RDMA: loss and retries"),
        counter("rdma.port.adaptive_retransmission_timeouts", "{event}", "Time-outs of adaptive retransmission")
            .on("RDMA: loss and retries"),
        counter("rdma.port.retries_exceeded", "{event}", "Requests given up after all retries").on("RDMA: given up"),
        counter("rdma.port.rnr_retries_exceeded", "{event}", "Requests given up because the receiver was never ready")
            .on("RDMA: given up"),
        counter("rdma.port.rnr_naks", "{packet}", "Receiver not ready, and tried again: no severed connection")
            .on("RDMA: receiver not ready"),
        counter("rdma.port.slow_restarts", "{event}", "Slow restarts after congestion").on("RDMA: slow restarts"),
        counter("rdma.port.slow_restart_cnps", "{packet}", "Congestion notifications that slow restart made")
            .on("RDMA: slow restarts"),
        counter("rdma.port.slow_restart_transitions", "{event}", "Changes of state of slow restart")
            .on("RDMA: slow restarts"),
        counter("rdma.port.send_errors", "{error}", "Packets that could not be sent (software RoCE)")
            .on("RDMA: failed completions"),
        counter("rdma.port.responder.local_length_errors", "{error}", "Requests longer than what was posted")
            .on("RDMA: failed completions"),
        counter("rdma.port.responder.completion_errors", "{error}", "Completions with an error at the responder")
            .on("RDMA: failed completions"),
        counter(
            "rdma.port.responder.completion_flush_errors",
            "{error}",
            "Of these: flushed when a queue pair ended; every job's end makes some",
        )
        .on("RDMA: flushed completions"),
        counter("rdma.port.responder.remote_access_errors", "{error}", "Requests to memory that they may not touch")
            .on("RDMA: failed completions"),
        counter("rdma.port.requester.completion_errors", "{error}", "Completions with an error at the requester")
            .on("RDMA: failed completions"),
        counter(
            "rdma.port.requester.completion_flush_errors",
            "{error}",
            "Of these: flushed when a queue pair ended; every job's end makes some",
        )
        .on("RDMA: flushed completions"),
        counter("rdma.port.requester.remote_invalid_requests", "{error}", "Requests that the far end called invalid")
            .on("RDMA: failed completions"),
        counter(
            "rdma.port.requester.remote_access_errors",
            "{error}",
            "Requests that the far end refused to its memory",
        )
        .on("RDMA: failed completions"),
        counter("rdma.port.requests.write", "{request}", "Write requests").on("RDMA: requests"),
        counter("rdma.port.requests.read", "{request}", "Read requests").on("RDMA: requests"),
        counter("rdma.port.requests.atomic", "{request}", "Atomic requests").on("RDMA: requests"),
        counter("rdma.port.requests.dct_connect", "{request}", "Connections of dynamically connected transport")
            .on("RDMA: requests"),
    ],
};

/// Objects of the verbs that are in use.
pub(super) const OBJECTS: Section = Section {
    title: "RDMA ports: objects in use",
    sources: &["rdma.hw"],
    entities: PORTS,
    entity_is: IS,
    labels: LABELS,
    board: Board::Nic,
    proof: Proof::Whole,
    series: &[
        amount("rdma.port.queue_pairs", "{queue_pair}", "Queue pairs"),
        amount("rdma.port.completion_queues", "{queue}", "Completion queues"),
        amount("rdma.port.shared_receive_queues", "{queue}", "Shared receive queues"),
        amount("rdma.port.memory_regions", "{region}", "Memory regions"),
        amount("rdma.port.memory_windows", "{window}", "Memory windows"),
        amount("rdma.port.protection_domains", "{protection_domain}", "Protection domains"),
        amount("rdma.port.address_handles", "{address_handle}", "Address handles"),
    ],
};

/// Queue pairs as the kernel lists them.
pub(super) const QUEUE_PAIRS: Section = Section {
    title: "RDMA devices: queue pairs",
    sources: &["rdma.qp"],
    entities: &["rdma_device"],
    entity_is: "the device: `mlx5_0`",
    labels: &[label("rdma.device")],
    board: Board::Nic,
    proof: Proof::Test("agent/peers/tests/kernel_queue_pairs.rs"),
    series: &[
        amount("rdma.queue_pairs", "{queue_pair}", "Queue pairs that the kernel lists").on("RDMA devices: queue pairs")
    ],
};
