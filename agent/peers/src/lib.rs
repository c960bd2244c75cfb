//! Whom this host talks to: cables, RDMA connections, and TCP connections of the processes that use a GPU.
//!
//! In: LLDP frames, by a raw socket of our own; RDMA netlink's tracking of resources; sock_diag, in the network namespaces of
//! those processes; rtnetlink's routes. Out: four sources for the sampler ([`LldpSource`], [`QueuePairSource`], [`FlowSource`], [`RouteSource`]), the signals of
//! [`SIGNALS`], and the lists as they are now ([`Peers`]). These are facts, read slowly, and not counters.
//!
//! Never: a frame sent, a socket of a job touched, a list without a bound. What is beyond a bound is counted.
#![deny(unsafe_code)]

pub mod flows;
pub mod lldp;
mod queue_pairs;
mod routes;
mod view;

pub use flows::{Figures, Flow, FlowSource};
pub use lldp::{LldpSource, Neighbour};
pub use queue_pairs::{QUEUE_PAIRS_MAX, QueuePairRow, QueuePairSource};
pub use routes::{ROUTES_MAX, Route, RouteSource};
pub use view::{Off, Peers, View};

/// Names of the signals that these sources raise by themselves.
pub const SIGNALS: [&str; 2] = [lldp::CHANGED, lldp::LOST];
