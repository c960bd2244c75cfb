//! Probes over TCP: the same packets as in datagrams, in frames of a long-lived connection.
//!
//! ```text
//!  link (a flow's connection, made again) ── judge (pure: what each probe turned out to be)
//!    └ connection (kernel stamps, what was sent again) ── frame (pure) ~~ fabric ~~ connection ── responder ── seats (pure)
//! ```
//! [`run`] probes by hand; the mesh carries planned flows. Never: a loss that the kernel mends taken for no loss.

mod by_hand;
mod connection;
mod frame;
mod judge;
mod link;
mod responder;
mod seats;

pub(crate) use by_hand::run;
pub(crate) use judge::{Fate, Verdict, Way};
pub use link::ConnectCounts;
pub(crate) use link::{Link, Route, Turn};
pub use responder::{ConnectionCounts, PER_SOURCE_MAX, StreamResponder};
pub use seats::{IDLE, PROOF, SEATS_MAX, UNPROVED_MAX};
