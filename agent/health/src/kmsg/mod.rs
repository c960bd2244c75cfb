//! What the kernel writes into its log, as typed records.
//!
//! Two halves, so that the agent needs no CAP_SYSLOG. The [`helper`], a process of its own that is off by default, reads
//! `/dev/kmsg`, recognises lines by [`PATTERNS`] and sends a [`Record`] for each over a unix datagram socket. The source
//! [`KmsgSource`] in the agent receives them and turns each into a signal at once.
//! Never: a line sent as it is, a line that a program wrote into the log taken for the kernel's, or a lost one uncounted.

mod address;
mod follow;
pub mod helper;
mod line;
mod pattern;
mod record;
mod source;
mod tell;

pub use follow::Follower;
pub use line::Line;
pub use pattern::{PATTERNS, Pattern, recognise};
pub use record::{Message, Record};
pub use source::{KmsgSource, TOGETHER};
