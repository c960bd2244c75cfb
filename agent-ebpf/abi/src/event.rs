//! Ring-buffer events: only what must be told at once. Everything that is counted lies in [`crate::maps`].
//!
//! In: reserved and filled by the kernel half. Out: one fixed-size record each.

use crate::maps::ProcessKey;

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum EventKind {
    /// An allocation failed: `code`, `value` bytes asked for.
    AllocationFailed = 1,
    /// The process is gone: `code` 0 by exit, 1 by exec.
    ProcessGone = 2,
    /// A process was seen for the first time.
    ProcessSeen = 3,
    /// A communicator was created: `address` its handle, `value` its identity.
    CommunicatorCreated = 4,
    /// A communicator ended in order.
    CommunicatorDestroyed = 5,
    /// A communicator was aborted.
    CommunicatorAborted = 6,
}

impl EventKind {
    /// The kind with this code.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::AllocationFailed),
            2 => Some(Self::ProcessGone),
            3 => Some(Self::ProcessSeen),
            4 => Some(Self::CommunicatorCreated),
            5 => Some(Self::CommunicatorDestroyed),
            6 => Some(Self::CommunicatorAborted),
            _ => None,
        }
    }
}

/// One record of the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEvent {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub at_ns: u64,
    /// Whose.
    pub process: ProcessKey,
    /// Bytes asked for, or a communicator's identity.
    pub value: u64,
    /// Communicator handle.
    pub address: u64,
    /// Code of the [`EventKind`].
    pub kind: u32,
    /// Index into the table of symbols.
    pub symbol: u32,
    /// What the call returned.
    pub code: i32,
    /// Device current on the thread.
    pub device: i32,
    /// Thread id.
    pub thread: u32,
    /// Rank of a communicator.
    pub rank: i32,
}
