//! The maps, the read-only configuration, and reads of kernel memory at the offsets in it.
//!
//! Flows have two tables: programs write to the one that `ACTIVE` names, and the agent empties the other once every
//! program that saw the old name has ended. So a flow's count is never read and removed under a writer.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap};
use railwatch_abi::drops::{
    DropBooks, DropKey, Dropped, DropsConfig, FLOWS_MAX, Flow, FlowKey, QUIET_REASONS, TOTALS_MAX,
};

/// Totals: exact. Not preallocated: a host has some tens of these, and each has a copy per CPU.
#[map]
pub static TOTALS: PerCpuHashMap<DropKey, Dropped> = PerCpuHashMap::with_max_entries(TOTALS_MAX, BPF_F_NO_PREALLOC);
/// Flows, where `ACTIVE` is 0.
#[map]
pub static FLOWS_EVEN: HashMap<FlowKey, Flow> = HashMap::with_max_entries(FLOWS_MAX, 0);
/// Flows, where `ACTIVE` is 1.
#[map]
pub static FLOWS_ODD: HashMap<FlowKey, Flow> = HashMap::with_max_entries(FLOWS_MAX, 0);
/// Which table of flows is written to.
#[map]
pub static ACTIVE: Array<u32> = Array::with_max_entries(1, 0);
/// What was seen, and what is in no total.
#[map]
pub static BOOKS: PerCpuArray<DropBooks> = PerCpuArray::with_max_entries(1, 0);

/// Filled in by the loader. Being read-only, the verifier drops what it switches off.
#[unsafe(no_mangle)]
static CONFIG: DropsConfig = DropsConfig {
    scope_namespace: 0,
    home_namespace: 0,
    has_receiver: 0,
    has_retransmit_error: 0,
    has_length: 0,
    skb_len: 0,
    has_interface: 0,
    skb_dev: 0,
    skb_iif: 0,
    skb_sk: 0,
    skb_dst: 0,
    dst_dev: 0,
    device_ifindex: 0,
    device_net: 0,
    net_inum: 0,
    net_loopback: 0,
    sock_net: 0,
    has_flow: 0,
    skb_head: 0,
    skb_tail: 0,
    skb_network_header: 0,
    skb_protocol: 0,
    has_socket: 0,
    sock_family: 0,
    sock_port: 0,
    sock_peer_port: 0,
    sock_address: 0,
    sock_peer: 0,
    sock_address6: 0,
    sock_peer6: 0,
    sock_dst: 0,
    quiet: [0; QUIET_REASONS as usize / 32],
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
pub fn config_ptr() -> *const DropsConfig {
    &raw const CONFIG
}

/// Whether a reason below [`QUIET_REASONS`] is no drop.
#[inline(always)]
pub fn quiet(reason: u32) -> bool {
    let word = (reason / 32) as usize & (QUIET_REASONS as usize / 32 - 1);
    // SAFETY: as in `config!`; the index is within the array.
    let bits = unsafe { (&raw const (*config_ptr()).quiet).cast::<u32>().add(word).read_volatile() };
    bits >> (reason % 32) & 1 == 1
}

/// Reads a word of a kernel struct at an offset that the agent found in the kernel's BTF.
#[inline(always)]
pub fn field<T>(base: u64, offset: u32) -> Option<T> {
    read(base + u64::from(offset))
}

/// Reads kernel memory.
#[inline(always)]
pub fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails rather than faults.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
