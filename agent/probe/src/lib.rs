//! Black-box probes from NIC to NIC: UDP datagrams, or frames of a TCP connection, with the kernel's own times, so that what the fabric took, what each
//! host took, and loss are separate numbers.
//!
//! ```text
//!  prober ── session (pure: what each probe turned out to be) ── socket (kernel stamps) ~~ fabric ~~ socket ── responder
//!                                                                                                     └ limit (pure)
//! ```
//! Over TCP it is `stream`: there the kernel mends losses, and they are told from what it sent again.
//! A [`Mesh`] carries out what the collector plans, all flows on one thread; see `mesh`. [`run`] probes by hand, [`trace`] finds the way of a flow.
//! With the feature `verbs`, on by default, probes go by RDMA, too: see [`verbs`]. It links nothing: libibverbs is looked up while running.
//! Both ends know the cluster's [`Key`]; the responder says nothing to anybody else.
//!
//! Never: a probe beyond the plan's rate, a fragment, an answer longer than its probe.

mod alarm;
mod flow;
mod key;
mod label;
mod limit;
mod mesh;
mod packet;
mod plan;
mod prober;
mod responder;
mod schedule;
mod session;
mod socket;
mod stamps;
mod stream;
mod tally;
mod times;
mod trace;
#[cfg(feature = "verbs")]
pub mod verbs;

pub use alarm::{IN_A_ROW, ProbeSignal, QUIET, SIGNALS};
pub use flow::PATIENCE;
pub use key::KeyError;
pub use mesh::{Mesh, MeshCounts, MeshState, Outlet};
pub use packet::{HEAD_BYTES, KEY_BYTES_MIN, Key, SIZE_MAX};
pub use plan::{FLOWS_MAX, FlowSpec, MeshPlan, QUIET_MAX, Quiet, Transport};
pub use prober::{Failure, FlowReport, Plan, Quantiles, RATE_MAX, Report, run};
pub use responder::{Counts, Limits, Responder};
pub use session::{Answered, Outcome, Parts};
pub use socket::StampedSocket;
pub use stamps::Sent;
pub use stream::{
    ConnectCounts, ConnectionCounts, IDLE, PER_SOURCE_MAX, PROOF, SEATS_MAX, StreamResponder, UNPROVED_MAX,
    seats_max as stream_seats_max,
};
pub use tally::FlowResult;
pub use times::TimesResult;
pub use trace::{Hop, Protocol, TRACE_FLOWS_MAX, TRACE_HOPS_MAX, TraceOptions, TraceSpec, Way, trace};
