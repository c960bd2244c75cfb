//! Atomic arithmetic on map values.
//!
//! rustc's BPF target declares no compare-and-swap (its oldest CPU has none), so `core::sync::atomic` lacks these
//! here; the instructions exist from kernel 5.12 (`-C target-cpu=v3`), and the compiler's intrinsics emit them.
//!
//! Where the old value is used, the ordering must be stronger than relaxed: LLVM's BPF backend lowers a relaxed
//! read-modify-write to the form without a result, and what it then takes for the result is the operand (seen with
//! LLVM 22; `tests` of the agent's peaks fail then).

use core::intrinsics::{AtomicOrdering::{Relaxed, SeqCst}, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg};

/// Adds.
#[inline(always)]
pub fn add(counter: *mut u64, by: u64) {
    // SAFETY: callers pass a live, aligned field of a map value.
    unsafe { atomic_xadd::<u64, u64, { Relaxed }>(counter, by) };
}

/// Adds, and gives the old value.
#[inline(always)]
pub fn fetch_add(counter: *mut u64, by: u64) -> u64 {
    // SAFETY: as above.
    unsafe { atomic_xadd::<u64, u64, { SeqCst }>(counter, by) }
}

/// Adds, and gives the new value.
#[inline(always)]
pub fn add_signed(counter: *mut i64, by: i64) -> i64 {
    // SAFETY: as above.
    unsafe { atomic_xadd::<i64, i64, { SeqCst }>(counter, by) }.wrapping_add(by)
}

/// Adds, wrapping, and gives the new value.
#[inline(always)]
pub fn add_u32(counter: *mut u32, by: u32) -> u32 {
    // SAFETY: as above.
    unsafe { atomic_xadd::<u32, u32, { SeqCst }>(counter, by) }.wrapping_add(by)
}

/// Sets to zero, and gives the old value.
#[inline(always)]
pub fn drain(counter: *mut i64) -> i64 {
    // SAFETY: as above.
    unsafe { atomic_xchg::<i64, { SeqCst }>(counter, 0) }
}

/// Sets bits.
#[inline(always)]
pub fn set_bits(word: *mut u64, bits: u64) {
    // SAFETY: as above.
    unsafe { atomic_or::<u64, u64, { Relaxed }>(word, bits) };
}

/// Replaces `old` by `new`, or gives what was there instead.
#[inline(always)]
pub fn exchange(word: *mut u64, old: u64, new: u64) -> Result<(), u64> {
    // SAFETY: as above.
    let (was, done) = unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, old, new) };
    if done { Ok(()) } else { Err(was) }
}
