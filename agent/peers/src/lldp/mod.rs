//! LLDP: what the other end of each cable says of itself, heard by a receiver of our own.

mod pdu;
#[expect(unsafe_code, reason = "raw sockets: addresses, filters and memberships that no safe interface has")]
mod socket;
mod source;
mod table;

pub use pdu::{ADDRESSES_MAX, Announcement, Discarded, Id, Skipped, TEXT_BYTES_MAX, decode};
pub use source::LldpSource;
pub use table::{NEIGHBOURS_MAX, Neighbour, PORT_NEIGHBOURS_MAX};

/// A neighbour came, another one is there, or it says something else of itself.
pub const CHANGED: &str = "lldp.neighbour.changed";
/// A neighbour is no longer there.
pub const LOST: &str = "lldp.neighbour.lost";
