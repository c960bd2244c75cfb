//! What switches say of themselves: a client of gNMI, and a reader of sFlow version 5.
//!
//! In: notifications of a gNMI target ([`client`]), datagrams of an sFlow agent ([`sflow`]). Out: a [`SwitchState`] per switch,
//! statements for the map ([`SwitchState::statements`]), counters under the names of the vocabulary ([`series`]) and signals
//! ([`rules`]). Whatever a switch sends is bounded, and what cannot be read is counted: it never ends the reader.
//! Never: a change of a switch's configuration, a file, a decision.
#![forbid(unsafe_code)]

pub mod client;
pub mod leaf;
pub mod optics;
pub mod paths;
pub mod rules;
pub mod series;
pub mod sflow;
pub mod state;

pub use state::SwitchState;

/// The protocol, generated from `proto/gnmi/gnmi.proto`.
#[allow(missing_docs, reason = "generated; the .proto file carries the documentation")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, unused_qualifications, reason = "generated")]
pub mod gnmi {
    include!("generated/gnmi.rs");
}
