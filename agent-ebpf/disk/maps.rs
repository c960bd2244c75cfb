//! The maps, the read-only configuration, and reads of kernel memory at the offsets in it.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, PerCpuHashMap};
use railwatch_abi::disk::{
    DiskBooks, DiskConfig, DiskKey, GPU_PROCESSES_MAX, KINDS_MAX, Requests, STARTED_MAX, Started,
};

/// Counts and times. Not preallocated: a host has some tens of these, and each has a copy per CPU.
#[map]
pub static REQUESTS: PerCpuHashMap<DiskKey, Requests> = PerCpuHashMap::with_max_entries(KINDS_MAX, BPF_F_NO_PREALLOC);
/// Requests in flight, by address.
#[map]
pub static STARTED: HashMap<u64, Started> = HashMap::with_max_entries(STARTED_MAX, 0);
/// Processes that hold a GPU, by process number; the agent fills it in.
#[map]
pub static GPU_PROCESSES: HashMap<u32, u32> = HashMap::with_max_entries(GPU_PROCESSES_MAX, BPF_F_NO_PREALLOC);
/// What was seen, and what is not counted.
#[map]
pub static BOOKS: PerCpuArray<DiskBooks> = PerCpuArray::with_max_entries(1, 0);

/// Filled in by the loader.
#[unsafe(no_mangle)]
static CONFIG: DiskConfig = DiskConfig {
    request_queue: 0,
    request_flags: 0,
    request_length: 0,
    queue_disk: 0,
    disk_name: 0,
    has_issuer: 0,
    task_flags: 0,
    task_parent: 0,
    task_tgid: 0,
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
pub fn config_ptr() -> *const DiskConfig {
    &raw const CONFIG
}

/// Reads a word of a kernel struct at an offset that the agent found in the kernel's BTF.
#[inline(always)]
pub fn field<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address and fails rather than faults.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}
