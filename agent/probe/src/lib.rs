//! Black-box probes from NIC to NIC: UDP datagrams with the kernel's own times, so that what the fabric took, what each
//! host took, and loss are separate numbers.
//!
//! ```text
//!  prober ── session (pure: what each probe turned out to be) ── socket (kernel stamps) ~~ fabric ~~ socket ── responder
//!                                                                                                     └ limit (pure)
//! ```
//! Both ends know the cluster's [`Key`]; the responder says nothing to anybody else.
//!
//! Never: a datagram beyond the plan's rate, a fragment, an answer longer than its probe.

mod key;
mod limit;
mod packet;
mod prober;
mod responder;
mod session;
mod socket;

pub use key::KeyError;
pub use packet::{HEAD_BYTES, KEY_BYTES_MIN, Key, SIZE_MAX};
pub use prober::{Failure, FlowReport, Plan, Quantiles, RATE_MAX, Report, run};
pub use responder::{Counts, Limits, Responder};
pub use session::{Answered, Outcome, Parts};
pub use socket::StampedSocket;
