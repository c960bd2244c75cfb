//! The maps, and the read-only configuration. Sizes are bounds: what happens at each is counted (see `Reason`).
//!
//! The loader creates them; it may re-adopt pinned ones of the same ABI and object.

use aya_ebpf::bindings::{
    BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_def, bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE,
    task_struct,
};
use aya_ebpf::helpers::generated::{bpf_task_storage_delete, bpf_task_storage_get};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf, StackTrace};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use railwatch_abi::maps::{
    Allocation, AllocationKey, Calls, CallsKey, Communicator, CommunicatorKey, Config, Context, ContextKey, FailureKey,
    Late, Loss, Process, ProcessKey, Thread, Totals, TotalsKey,
};

/// Live allocations. Not preallocated: a training process holds some thousands, and 131,072 would be 18 MiB at once,
/// for 75 ns less of 4,300 per malloc and free.
#[map]
pub static ALLOCATIONS: HashMap<AllocationKey, Allocation> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);
/// Balances.
#[map]
pub static TOTALS: HashMap<TotalsKey, Totals> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);
/// Driver contexts.
#[map]
pub static CONTEXTS: HashMap<ContextKey, Context> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);
/// Failed calls by code.
#[map]
pub static FAILURES: HashMap<FailureKey, u64> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);
/// Counted and timed calls.
#[map]
pub static CALLS: HashMap<CallsKey, Calls> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
/// Communicators.
#[map]
pub static COMMUNICATORS: HashMap<CommunicatorKey, Communicator> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);
/// The process that each tgid is now.
#[map]
pub static TGIDS: HashMap<u32, ProcessKey> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);
/// Every process seen and not yet swept by the agent.
#[map]
pub static PROCESSES: HashMap<ProcessKey, Process> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
/// Processes that ran before the probes were there; written by the agent.
#[map]
pub static LATE: HashMap<ProcessKey, Late> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);
/// What was lost, and the reconciliation of events.
#[map]
pub static LOSS: PerCpuArray<Loss> = PerCpuArray::with_max_entries(1, 0);
/// Call stacks of allocations; the loader makes it one entry long unless they are asked for.
#[map]
pub static STACKS: StackTrace = StackTrace::with_max_entries(4_096, 0);
/// Events.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
/// State of threads; gone with the thread.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "THREADS")]
pub static THREADS: TaskStorage = TaskStorage::new(size_of::<Thread>());

/// Filled in by the loader. Being read-only, the verifier drops what it switches off.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    scope_cgroup: 0,
    scope_cgroup_level: 0,
    scope_netns: 0,
    task_nsproxy: 0,
    nsproxy_net: 0,
    net_inum: 0,
    task_signal: 0,
    signal_live: 0,
    task_start_boottime: 0,
    event_cap: 0,
    stacks: 0,
    task_exit_code: 0,
    task_group_leader: 0,
    signal_flags: 0,
    signal_group_exit_code: 0,
    signal_oom_mm: 0,
    pad: 0,
};

/// Reads a field of the configuration. Volatile: the compiler must not take the zeros above for the truth.
macro_rules! config {
    ($field:ident) => {
        // SAFETY: a live static; the loader changes it before the program runs and never after.
        unsafe { core::ptr::read_volatile(&raw const (*$crate::maps::config_ptr()).$field) }
    };
}
pub(crate) use config;

#[inline(always)]
pub fn config_ptr() -> *const Config {
    &raw const CONFIG
}

/// A task-local storage map (`BPF_MAP_TYPE_TASK_STORAGE`, kernel 5.11; for tracing programs 5.13).
#[repr(transparent)]
pub struct TaskStorage(UnsafeCell<bpf_map_def>);

// SAFETY: a definition that the loader reads; all access goes through kernel helpers.
unsafe impl Sync for TaskStorage {}

impl TaskStorage {
    const fn new(value_size: usize) -> Self {
        Self(UnsafeCell::new(bpf_map_def {
            type_: BPF_MAP_TYPE_TASK_STORAGE,
            key_size: 4,
            value_size: value_size as u32,
            max_entries: 0,
            map_flags: BPF_F_NO_PREALLOC,
            id: 0,
            pinning: 0,
        }))
    }

    /// The task's state, if it has any.
    #[inline(always)]
    pub fn get(&self, task: *mut task_struct) -> *mut Thread {
        // SAFETY: `task` is the current task, trusted by the verifier.
        unsafe { bpf_task_storage_get(self.0.get().cast(), task, null_mut(), 0).cast() }
    }

    /// The task's state, made (all zeros) where it has none; null where there is no memory.
    #[inline(always)]
    pub fn get_or_create(&self, task: *mut task_struct) -> *mut Thread {
        // SAFETY: as above; no initial value means zeros.
        unsafe {
            bpf_task_storage_get(self.0.get().cast(), task, null_mut(), BPF_LOCAL_STORAGE_GET_F_CREATE.into()).cast()
        }
    }

    /// Drops the task's state.
    #[inline(always)]
    pub fn delete(&self, task: *mut task_struct) {
        // SAFETY: as above. Failing means there was none.
        let _ = unsafe { bpf_task_storage_delete(self.0.get().cast(), task) };
    }
}
