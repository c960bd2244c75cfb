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
    /// The process is gone: `code` 0 by exit, 1 by exec; `value` its [`ExitStatus`].
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
    /// Bytes asked for, a communicator's identity, or an [`ExitStatus`].
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

/// How a process ended, in the word `value` of [`EventKind::ProcessGone`]: the kernel's own code in the low half, what is
/// known in the high one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitStatus(pub u64);

impl ExitStatus {
    /// The low half is the kernel's code.
    pub const CODE: u64 = 1 << 32;
    /// Whether the out-of-memory killer chose it is known.
    pub const OOM_KNOWN: u64 = 1 << 33;
    /// It did.
    pub const OOM_KILLED: u64 = 1 << 34;

    /// As wait(2) encodes it, which is how the kernel keeps it: signal in bits 0 to 6, core dumped in bit 7, exit code
    /// in bits 8 to 15.
    const fn code(self) -> Option<u32> {
        if self.0 & Self::CODE == 0 { None } else { Some(self.0 as u32) }
    }

    /// What it returned from main or gave to exit(3); `None` where a signal ended it, or where this is not known.
    pub const fn exit_code(self) -> Option<u8> {
        match self.code() {
            Some(code) if code & 0x7f == 0 => Some((code >> 8 & 0xff) as u8),
            _ => None,
        }
    }

    /// The signal that ended it.
    pub const fn signal(self) -> Option<u8> {
        match self.code() {
            Some(code) if code & 0x7f != 0 => Some((code & 0x7f) as u8),
            _ => None,
        }
    }

    /// Whether a core was dumped, where a signal ended it.
    pub const fn core_dumped(self) -> bool {
        self.signal().is_some() && self.0 & 0x80 != 0
    }

    /// Whether the kernel's out-of-memory killer chose it, where this kernel tells.
    pub const fn oom_killed(self) -> Option<bool> {
        if self.0 & Self::OOM_KNOWN == 0 { None } else { Some(self.0 & Self::OOM_KILLED != 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::ExitStatus;

    #[test]
    fn a_status_is_read_as_wait_reads_it() {
        let known = |code: u64| ExitStatus(ExitStatus::CODE | code);
        // (word, exit code, signal, core dumped)
        for (status, exit_code, signal, core) in [
            (known(0), Some(0), None, false),
            (known(3 << 8), Some(3), None, false),
            (known(255 << 8), Some(255), None, false),
            (known(9), None, Some(9), false),
            (known(11 | 0x80), None, Some(11), true),
            (ExitStatus(3 << 8), None, None, false),
            (ExitStatus(9), None, None, false),
        ] {
            assert_eq!(
                (status.exit_code(), status.signal(), status.core_dumped()),
                (exit_code, signal, core),
                "{status:?}"
            );
        }
        assert_eq!(known(9).oom_killed(), None);
        assert_eq!(ExitStatus(ExitStatus::OOM_KNOWN | 9).oom_killed(), Some(false));
        assert_eq!(ExitStatus(ExitStatus::OOM_KNOWN | ExitStatus::OOM_KILLED).oom_killed(), Some(true));
    }
}
