//! Probes by RDMA itself: through the NIC's own path, which UDP of the kernel does not take.
//!
//! ```text
//!  prober ── exchange (who is a member) ~ UDP ~ responder ── lender ══ helper (a process of its own) ── loans (pure)
//!     └ library ── NIC ~~~~~~~~~~~~~~~~~~ RoCEv2 ~~~~~~~~~~~~~~~~~~ NIC ── library ┘
//! ```
//! libibverbs is looked up while running (`library`, `sys`): nothing is linked to it, and a host without it lacks these probes alone.
//! The agent itself never maps it. Never: a queue pair for who is no member of the cluster, or for a member's request said again by another (`fresh`).

mod datagram;
pub(crate) mod exchange;
mod fresh;
mod helper;
pub(crate) mod lender;
mod library;
mod loans;
mod message;
mod port;
mod prober;
mod sys;

pub(crate) use exchange::Service;
pub use exchange::{LEASE_MS, SIZE_MAX, SIZE_MIN};
pub use helper::{HelperOptions, run as lend};
pub use lender::{Lender, LenderState};
pub use library::VerbsError;
pub use loans::{LOANS_MAX, LOANS_OF_ONE_MAX, PINNED_BYTES_MAX};
pub use port::has_devices;
pub use prober::FLOWS_MAX;
pub(crate) use prober::run;
pub use sys::layouts;
