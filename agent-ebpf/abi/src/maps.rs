//! Keys and values of the kernel half's maps.
//!
//! In: written by the kernel half (atomically where several CPUs may write). Out: read, and swept after a process is
//! gone, by the agent. Never: implicit padding (every byte is named, so that keys hash alike on both sides).

use crate::args::SLOTS;

/// A process in time: `tgid << 32 | low bits of the boot clock (65 µs units) at first sight`, so that a reused pid
/// or an `exec` is another process.
pub type ProcessKey = u64;

/// The tgid in a [`ProcessKey`].
pub const fn tgid_of(process: ProcessKey) -> u32 {
    (process >> 32) as u32
}

/// Number of layer slots; [`crate::cookie::Layer`] codes are below it.
pub const LAYERS: usize = 8;

/// What a free took out, and what an allocation put in. Value of `ALLOCATIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Bytes.
    pub size: u64,
    /// Context (driver layer), else 0.
    pub context: u64,
    /// Device ordinal, or [`crate::DEVICE_UNKNOWN`].
    pub device: i32,
    /// Generation of the device or context at allocation.
    pub generation: u32,
    /// Call stack, or -1.
    pub stack: i32,
    /// Code of the [`crate::cookie::Kind`].
    pub kind: u8,
    /// Code of the [`crate::cookie::Layer`].
    pub layer: u8,
    /// Always 0.
    pub pad: u16,
    /// References to a physical handle.
    pub references: u32,
    /// Mappings of a physical handle.
    pub mappings: u32,
    /// Handle that a mapped range belongs to; 0 otherwise.
    pub handle: u64,
}

/// Key of `ALLOCATIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AllocationKey {
    /// Whose.
    pub process: ProcessKey,
    /// Address, array or handle.
    pub address: u64,
    /// Code of the [`crate::cookie::Layer`].
    pub layer: u32,
    /// Code of the [`crate::cookie::Space`].
    pub space: u32,
}

/// Key of `TOTALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TotalsKey {
    /// Whose.
    pub process: ProcessKey,
    /// Device ordinal, or [`crate::DEVICE_UNKNOWN`].
    pub device: i32,
    /// Code of the [`crate::cookie::Layer`].
    pub layer: u16,
    /// Code of the [`crate::cookie::Kind`].
    pub kind: u16,
}

/// Value of `TOTALS`. `allocated` = bytes of successful allocations − frees − implicit frees.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes held now.
    pub allocated: i64,
    /// Most bytes ever held.
    pub peak: i64,
    /// Successful allocations.
    pub allocs: u64,
    /// Successful frees of known allocations.
    pub frees: u64,
    /// Bytes freed by a device reset, or by an address handed out again without a free seen.
    pub implicit_freed: u64,
    /// Frees of allocations that a device reset or context destroy had freed already.
    pub stale_frees: u64,
    /// Times that `peak` may be too low because too many CPUs raised it at once.
    pub peak_misses: u64,
    /// Raised by a device reset: older allocations are gone.
    pub generation: u32,
    /// Always 0.
    pub pad: u32,
}

/// Key of `CONTEXTS`: a driver context.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ContextKey {
    /// Whose.
    pub process: ProcessKey,
    /// The context's address; `device + 1` for a device's primary context.
    pub context: u64,
}

/// Value of `CONTEXTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Device ordinal, or [`crate::DEVICE_UNKNOWN`].
    pub device: i32,
    /// Raised when the context is destroyed or reset.
    pub generation: u32,
    /// What the driver layer holds in it, per [`crate::cookie::Kind`], in bytes.
    pub allocated: [i64; 3],
    /// For the address of a primary context: its `device + 1` key. 0 otherwise.
    pub alias: u64,
    /// Retains less releases, of a primary context.
    pub references: i64,
}

/// Key of `FAILURES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FailureKey {
    /// Whose.
    pub process: ProcessKey,
    /// What the call returned.
    pub code: i32,
    /// Device current at the call.
    pub device: i32,
    /// Index into the table of symbols.
    pub symbol: u32,
    /// Always 0.
    pub pad: u32,
}

/// Key of `CALLS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallsKey {
    /// Whose.
    pub process: ProcessKey,
    /// Index into the table of symbols.
    pub symbol: u64,
}

/// Value of `CALLS`: counted and timed calls that returned.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls, failed ones included.
    pub count: u64,
    /// Time inside them, in nanoseconds.
    pub inside_ns: u64,
    /// The longest of them, in nanoseconds (exact but for races, which can only lose a tie).
    pub longest_ns: u64,
}

/// Key of `COMMUNICATORS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommunicatorKey {
    /// Whose.
    pub process: ProcessKey,
    /// The handle (`ncclComm_t`, `HcclComm`).
    pub handle: u64,
}

/// Value of `COMMUNICATORS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Communicator {
    /// FNV-1a over the 16 words of the unique id, alike on all ranks; 0 where its creation was not seen.
    pub identity: u64,
    /// Rank of this handle, -1 where unknown.
    pub rank: i32,
    /// Ranks, -1 where unknown.
    pub ranks: i32,
    /// Collectives enqueued: the sequence number of the last one, from 1.
    pub sequence: u64,
    /// Point-to-point transfers enqueued.
    pub point_to_point: u64,
    /// Bytes this rank handed to collectives and transfers.
    pub bytes: u64,
    /// CLOCK_MONOTONIC of the last enqueue, in nanoseconds.
    pub last_enqueue_ns: u64,
    /// Symbol of the last enqueue.
    pub last_symbol: u32,
    /// Splits so far: part of the identity of a child.
    pub splits: u32,
    /// Device current at creation.
    pub device: i32,
    /// Code of the [`crate::cookie::Layer`].
    pub layer: u32,
}

/// Value of `PROCESSES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// CLOCK_BOOTTIME at first sight, in nanoseconds.
    pub first_seen_ns: u64,
    /// CLOCK_BOOTTIME since which the figures may be incomplete, 0 where they are complete.
    pub incomplete_since_ns: u64,
    /// `FLAG_*`.
    pub flags: u64,
    /// Events this process caused.
    pub events_seen: u64,
    /// Of those: kept from the ring by the cap.
    pub events_capped: u64,
    /// `epoch << 32 | events in it`: the state of the cap.
    pub budget: u64,
    /// Frees of addresses never seen allocated, per layer.
    pub unmatched_frees: [u64; LAYERS],
    /// What could not be recorded, per [`Reason`].
    pub lost: [u64; REASONS],
    /// Task's command name at first sight.
    pub comm: [u8; 16],
}

/// A map was full: some figure is too low.
pub const FLAG_MAP_FULL: u64 = 1;

/// Value of `LATE`, written by the agent alone: a process that ran before a layer's probes were there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// CLOCK_BOOTTIME at which the probes came, per layer, in nanoseconds; 0 where they were there from the start.
    pub since_ns: [u64; LAYERS],
}

/// Number of [`Reason`] slots.
pub const REASONS: usize = 16;

/// Why something seen was not recorded or not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// Event: over the process's cap.
    EventCapped = 0,
    /// Event: the ring was full.
    RingFull = 1,
    /// An allocation: `ALLOCATIONS` was full.
    AllocationsFull = 2,
    /// Totals: `TOTALS` was full.
    TotalsFull = 3,
    /// A failure's code: `FAILURES` was full.
    FailuresFull = 4,
    /// A call: `CALLS` was full.
    CallsFull = 5,
    /// A communicator: `COMMUNICATORS` was full.
    CommunicatorsFull = 6,
    /// A context: `CONTEXTS` was full.
    ContextsFull = 7,
    /// A process: `PROCESSES` or `TGIDS` was full.
    ProcessesFull = 8,
    /// A thread: no memory for its state.
    ThreadsFull = 9,
    /// The caller's memory could not be read.
    Unreadable = 10,
    /// A call whose return was never seen (an exception or `longjmp` past it).
    Abandoned = 11,
    /// More mappings in one unmap than are followed.
    UnmapTooWide = 12,
}

impl Reason {
    /// Every reason, by rising code.
    pub const ALL: &'static [Self] = &[
        Self::EventCapped,
        Self::RingFull,
        Self::AllocationsFull,
        Self::TotalsFull,
        Self::FailuresFull,
        Self::CallsFull,
        Self::CommunicatorsFull,
        Self::ContextsFull,
        Self::ProcessesFull,
        Self::ThreadsFull,
        Self::Unreadable,
        Self::Abandoned,
        Self::UnmapTooWide,
    ];

    /// Name for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EventCapped => "event_capped",
            Self::RingFull => "ring_full",
            Self::AllocationsFull => "allocations_full",
            Self::TotalsFull => "totals_full",
            Self::FailuresFull => "failures_full",
            Self::CallsFull => "calls_full",
            Self::CommunicatorsFull => "communicators_full",
            Self::ContextsFull => "contexts_full",
            Self::ProcessesFull => "processes_full",
            Self::ThreadsFull => "threads_full",
            Self::Unreadable => "unreadable",
            Self::Abandoned => "abandoned",
            Self::UnmapTooWide => "unmap_too_wide",
        }
    }
}

/// Value of `LOSS` (one entry, one copy per CPU). `events_seen` = `events_submitted` + `reasons[EventCapped]` +
/// `reasons[RingFull]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Events that were to be sent.
    pub events_seen: u64,
    /// Events put into the ring.
    pub events_submitted: u64,
    /// What was not, and what was not recorded, per [`Reason`].
    pub reasons: [u64; REASONS],
}

/// A call that has begun. One per thread and layer: the outermost.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Stack pointer at entry; 0 where no call is pending.
    pub stack_pointer: u64,
    /// Meaning of the outermost symbol.
    pub cookie: u64,
    /// Clock at entry of a timed call, in nanoseconds; or the address a free took out (0 where it took none).
    pub begun: u64,
    /// Argument registers, then stack words.
    pub args: [u64; SLOTS],
    /// What a free took out.
    pub taken: Allocation,
}

/// Depth of the context stack that is followed per thread.
pub const CONTEXT_DEPTH: usize = 8;

/// State of a thread (task-local storage).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// The thread's process; 0 where the thread is out of scope.
    pub process: ProcessKey,
    /// Depth of `contexts`, which may exceed [`CONTEXT_DEPTH`].
    pub depth: u64,
    /// Device current per layer, or [`crate::DEVICE_UNKNOWN`].
    pub device: [i32; LAYERS],
    /// Current driver context: key in `CONTEXTS`, 0 where none is known.
    pub context: u64,
    /// Contexts below the current one.
    pub contexts: [u64; CONTEXT_DEPTH],
    /// Devices of `contexts`.
    pub context_devices: [i32; CONTEXT_DEPTH],
    /// Pending calls per layer.
    pub pending: [Pending; LAYERS],
}

/// Marks a `repr(C)` type without padding or pointers, every bit pattern of which is a value: it may be read from and
/// written to a map as bytes.
pub trait Plain: Copy + 'static {}

impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for Allocation {}
impl Plain for AllocationKey {}
impl Plain for TotalsKey {}
impl Plain for Totals {}
impl Plain for ContextKey {}
impl Plain for Context {}
impl Plain for FailureKey {}
impl Plain for CallsKey {}
impl Plain for Calls {}
impl Plain for CommunicatorKey {}
impl Plain for Communicator {}
impl Plain for Process {}
impl Plain for Late {}
impl Plain for Loss {}
impl Plain for Config {}
impl Plain for crate::event::RawEvent {}

/// What user space tells the kernel half once, before it runs (a read-only global).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Only processes in this cgroup (v2 id); 0 for all.
    pub scope_cgroup: u64,
    /// Depth of that cgroup below the root.
    pub scope_cgroup_level: u32,
    /// Only processes in this network namespace (inode number); 0 for all.
    pub scope_netns: u32,
    /// Byte offset of `nsproxy` in `task_struct`.
    pub task_nsproxy: u32,
    /// Byte offset of `net_ns` in `nsproxy`.
    pub nsproxy_net: u32,
    /// Byte offset of `ns.inum` in `net`.
    pub net_inum: u32,
    /// Byte offset of `signal` in `task_struct`; 0 where unknown (then the leader's exit counts).
    pub task_signal: u32,
    /// Byte offset of `live` in `signal_struct`.
    pub signal_live: u32,
    /// Byte offset of `start_boottime` in `task_struct`; 0 where unknown.
    pub task_start_boottime: u32,
    /// Events per process and second (2^30 ns) at most.
    pub event_cap: u32,
    /// 1 to keep the call stack of allocations.
    pub stacks: u32,
    /// Byte offset of `exit_code` in `task_struct`; 0 where unknown, as of the four below.
    pub task_exit_code: u32,
    /// Byte offset of `group_leader` in `task_struct`.
    pub task_group_leader: u32,
    /// Byte offset of `flags` in `signal_struct`.
    pub signal_flags: u32,
    /// Byte offset of `group_exit_code` in `signal_struct`.
    pub signal_group_exit_code: u32,
    /// Byte offset of `oom_mm` in `signal_struct`.
    pub signal_oom_mm: u32,
    /// Always 0.
    pub pad: u32,
}
