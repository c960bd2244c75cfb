//! Packets that the kernel drops, with reason, interface and flow; and segments that TCP sends again.
//!
//! In: the tracepoints `skb:kfree_skb` and `tcp:tcp_retransmit_skb`, counted in the kernel (`agent-ebpf/drops`). Out: a
//! [`DropsSource`] for the sampler, [`RULES`], and the table of the flows that lost most ([`Drops`]).
//! Never: an event per drop, a byte of payload, a reason's number taken from another kernel.
//!
//! RDMA that bypasses the kernel, and what switches and NICs drop, are not seen here.

mod flows;
mod kernel;
mod names;
mod reasons;
mod source;

pub use flows::{Account, FlowRow, FlowTable};
pub use kernel::{Books, DropKernel, Total};
pub use names::Interfaces;
pub use reasons::{Class, RULES, Reasons};
pub use source::{DropView, Drops, DropsSource, ShownFlow, TotalRow};
