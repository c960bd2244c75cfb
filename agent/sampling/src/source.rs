//! What every source of readings looks like to the sampler.
//!
//! A source finds what there is to read (`probe`), declares a series for each value, and reads all of them at once
//! (`read`) or one at a time as the kernel tells of them (`on_event`). It brackets each system call that brings values
//! with [`monotonic_ns`](crate::clock::monotonic_ns) and hands over raw values: rates, windows, cadence, cost and
//! signals are the sampler's, except that an event which a kernel or library words itself (an XID) comes as a signal. A source never sleeps, never spawns a thread, and never logs in `read`.

use crate::batch::Batch;
use crate::recorder::Declare;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How often a source may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CadenceRange {
    /// Shortest time between reads that the kernel's freshness justifies.
    pub min: Duration,
    /// What it runs at unless told otherwise.
    pub default: Duration,
    /// Longest at which its readings still mean something.
    pub max: Duration,
}

impl CadenceRange {
    /// The nearest cadence within the range.
    #[must_use]
    pub fn clamp(&self, wanted: Duration) -> Duration {
        wanted.clamp(self.min, self.max)
    }
}

/// Why something could not be read. Closed, so that errors can be counted per reason without growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorReason {
    /// It is not there (any more).
    Missing,
    /// The kernel refused: a capability or permission is lacking.
    Denied,
    /// There, and saying that it has no value ("N/A (no PMA)").
    NotAvailable,
    /// An answer that this build does not understand.
    Malformed,
    /// No answer in time.
    TimedOut,
    /// The kernel dropped messages meant for us (ENOBUFS), or the answer did not fit.
    Overrun,
    /// Any other failure of input or output.
    Io,
    /// The source itself failed (a defect of ours).
    Internal,
}

impl ErrorReason {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 8] = [
        Self::Missing,
        Self::Denied,
        Self::NotAvailable,
        Self::Malformed,
        Self::TimedOut,
        Self::Overrun,
        Self::Io,
        Self::Internal,
    ];

    /// Name as exported in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Denied => "denied",
            Self::NotAvailable => "not_available",
            Self::Malformed => "malformed",
            Self::TimedOut => "timed_out",
            Self::Overrun => "overrun",
            Self::Io => "io",
            Self::Internal => "internal",
        }
    }
}

impl From<&std::io::Error> for ErrorReason {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::NotFound => Self::Missing,
            K::PermissionDenied => Self::Denied,
            K::InvalidData | K::UnexpectedEof => Self::Malformed,
            K::TimedOut | K::WouldBlock => Self::TimedOut,
            // A device that went away while its file was open answers ENODEV; its read gives EINVAL on some drivers.
            _ if matches!(error.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::ENXIO)) => Self::Missing,
            _ if matches!(error.raw_os_error(), Some(nix::libc::ENOBUFS | nix::libc::EMSGSIZE)) => Self::Overrun,
            _ => Self::Io,
        }
    }
}

/// A source that cannot be read now: it is off until a later probe succeeds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unavailable {
    /// For counting.
    pub reason: ErrorReason,
    /// For the operator: what was looked for, what was found, what would switch it on.
    pub text: String,
}

impl Unavailable {
    /// Off, with the reason in both forms.
    #[must_use]
    pub fn new(reason: ErrorReason, text: impl fmt::Display) -> Self {
        Self { reason, text: text.to_string() }
    }
}

/// A read that failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {source_text}")]
pub struct ReadError {
    /// For counting.
    pub reason: ErrorReason,
    /// What was being read.
    pub doing: &'static str,
    /// What the kernel said.
    pub source_text: String,
}

impl ReadError {
    /// A failed system call.
    #[must_use]
    pub fn io(doing: &'static str, error: &std::io::Error) -> Self {
        Self { reason: error.into(), doing, source_text: error.to_string() }
    }
}

/// Something the kernel knows and that can be read again and again.
pub trait Source: Send {
    /// Short name, unique in the agent: `netdev`, `rdma.hw`.
    fn name(&self) -> &'static str;

    /// The kernel interface it reads, as a person would look for it.
    fn kernel_path(&self) -> &str;

    /// How often it may be read. A probe that finds another kernel path may change it.
    fn cadence(&self) -> CadenceRange;

    /// Its reads hold RTNL, the kernel's one lock for all changes of network interfaces. They have a budget of time
    /// ([`SamplerConfig`](crate::SamplerConfig)), and the source is read less often where they would take more.
    fn holds_rtnl(&self) -> bool {
        false
    }

    /// Looks for what there is to read and declares a series for each value. Runs before the first read, when the
    /// source asked for it, after errors, and at a slow pace for ever, because ports come and go. Series declared
    /// before and not declared this time are retired.
    ///
    /// # Errors
    /// [`Unavailable`] when there is nothing to read: the source is switched off with that reason until a later probe.
    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable>;

    /// Reads every declared series once.
    ///
    /// # Errors
    /// [`ReadError`] when nothing could be read. Where only a part failed, count it with [`Batch::fault`] instead.
    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError>;

    /// A descriptor that becomes readable when the kernel has something to tell between reads.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Takes what the descriptor holds, without blocking.
    ///
    /// # Errors
    /// As for [`Source::read`].
    fn on_event(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let _ = batch;
        Ok(())
    }
}
