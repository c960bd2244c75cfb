//! Counters: find or make the entry, then add atomically. Exact on any number of CPUs.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::HashMap;
use railwatch_abi::cookie::Cookie;
use railwatch_abi::maps::{Calls, CallsKey, FailureKey, Reason, Totals, TotalsKey};

use crate::atomic::{add, add_signed, exchange};
use crate::maps::{CALLS, FAILURES, TOTALS};
use crate::report;

/// The entry for `key`, made from `new` where there is none. Two CPUs may make it at once: one wins, both find it.
#[inline(always)]
pub fn entry<K, V>(map: &HashMap<K, V>, key: &K, new: &V) -> Option<*mut V> {
    if let Some(found) = map.get_ptr_mut(key) {
        return Some(found);
    }
    let _ = map.insert(key, new, BPF_NOEXIST.into());
    map.get_ptr_mut(key)
}

const NO_TOTALS: Totals = Totals {
    allocated: 0,
    peak: 0,
    allocs: 0,
    frees: 0,
    implicit_freed: 0,
    stale_frees: 0,
    peak_misses: 0,
    generation: 0,
    pad: 0,
};

/// The totals of `key`.
#[inline(always)]
pub fn totals(key: &TotalsKey) -> Option<*mut Totals> {
    let found = entry(&TOTALS, key, &NO_TOTALS);
    if found.is_none() {
        report::lost(key.process, Reason::TotalsFull);
    }
    found
}

/// Adds bytes and raises the peak.
#[inline(always)]
pub fn grow(totals: *mut Totals, bytes: i64) {
    // SAFETY: live fields of a map value.
    let (allocated, peak, misses) = unsafe {
        (&raw mut (*totals).allocated, &raw mut (*totals).peak, &raw mut (*totals).peak_misses)
    };
    let now = add_signed(allocated, bytes);
    // SAFETY: as above.
    let mut seen = unsafe { peak.read_volatile() };
    // Each failed exchange means that another CPU raised the peak in between.
    for _ in 0..8 {
        if now <= seen {
            return;
        }
        match exchange(peak.cast(), seen as u64, now as u64) {
            Ok(()) => return,
            Err(raised) => seen = raised as i64,
        }
    }
    if now > seen {
        add(misses, 1);
    }
}

/// Counts a call that began at `begun`, and gives the time now.
#[inline(always)]
pub fn call(process: u64, cookie: Cookie, begun: u64) -> u64 {
    let key = CallsKey { process, symbol: cookie.symbol() as u64 };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let inside = now.wrapping_sub(begun);
    match entry(&CALLS, &key, &Calls { count: 0, inside_ns: 0, longest_ns: 0 }) {
        Some(calls) => {
            // SAFETY: live fields of a map value.
            unsafe {
                add(&raw mut (*calls).count, 1);
                add(&raw mut (*calls).inside_ns, inside);
                if inside > (*calls).longest_ns {
                    (*calls).longest_ns = inside;
                }
            }
        }
        None => {
            report::lost(process, Reason::CallsFull);
        }
    }
    now
}

/// Counts a failed call by its code.
#[inline(always)]
pub fn failure(process: u64, cookie: Cookie, code: i32, device: i32) {
    let key = FailureKey { process, code, device, symbol: cookie.symbol() as u32, pad: 0 };
    match entry(&FAILURES, &key, &0) {
        Some(count) => add(count, 1),
        None => {
            report::lost(process, Reason::FailuresFull);
        }
    }
}
