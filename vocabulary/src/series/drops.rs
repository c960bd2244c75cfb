//! Packets that the kernel dropped, by what the reason means, and TCP retransmissions.

use super::INTERFACE;
use crate::{Board, Proof, Section, counter, label};

const KERNEL: Proof = Proof::Test("agent/drops/tests/kernel_drops.rs");

/// The tracepoints kfree_skb and tcp_retransmit_skb.
pub(super) const DROPS: Section = Section {
    title: "Packets that the kernel dropped",
    sources: &["drops"],
    entities: &["port", "host"],
    entity_is: "the interface; the host where none is known",
    labels: &[INTERFACE, label("reason")],
    board: Board::Nic,
    proof: KERNEL,
    series: &[
        counter("hw.network.drops.fault", "{packet}", "Dropped for a reason that is a fault: bad checksum, no memory")
            .on("Kernel drops"),
        counter("hw.network.drops.loss", "{packet}", "Dropped for want of room: full queue, full socket buffer")
            .on("Kernel drops"),
        counter("hw.network.drops.deliberate", "{packet}", "Dropped on purpose: a filter, a policy")
            .proven(Proof::Needs("a filter that drops; that its reasons are of this class is tested"))
            .on("Kernel drops"),
        counter(
            "hw.network.drops.harmless",
            "{packet}",
            "Dropped as happens on every healthy host: nobody listened, a duplicate",
        )
        .on("Kernel drops"),
        counter("hw.network.drops.unspecified", "{packet}", "Dropped where the kernel gives no reason")
            .proven(Proof::Needs("a drop for which the kernel gives no reason"))
            .on("Kernel drops"),
        counter("hw.network.tcp.retransmits", "{packet}", "Segments that TCP sent again").on("TCP retransmissions"),
    ],
};
