//! The health that disks report of themselves: SMART of NVMe and SATA disks.
//!
//! Two halves, so that the agent needs neither CAP_SYS_ADMIN nor CAP_SYS_RAWIO nor a disk's device node. The [`helper`], a
//! process of its own that is off by default, asks each disk once a minute and sends a [`Report`] of it over a unix datagram
//! socket. The source [`SmartSource`] in the agent turns reports into readings; rules make the signals.
//! Never: a command that writes, starts a test or changes a setting; a byte of the disk's data.

pub mod ata;
#[expect(unsafe_code, reason = "ioctls with structures of the kernel: all of them are in this one module")]
mod device;
pub mod helper;
pub mod nvme;
mod report;
mod source;

pub use report::{Health, Message, Report};
pub use source::SmartSource;
