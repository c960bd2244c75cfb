//! Reads of the traced process's memory. In: an address. Out: the word there, or nothing. Never: a write.

use aya_ebpf::helpers::bpf_probe_read_user;
use railwatch_abi::args::SLOTS;

/// The value at `address`.
#[inline(always)]
pub fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails rather than faults.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}

/// The saved argument in `slot`; 0 where there is no such argument.
#[inline(always)]
pub fn arg(args: &[u64; SLOTS], slot: u8) -> u64 {
    let slot = slot as usize;
    if slot < SLOTS { args[slot] } else { 0 }
}
