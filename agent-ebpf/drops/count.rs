//! Counting a drop: into its total, always; into its flow, where there is one and room for it.
//!
//! All additions are atomic: a softirq may interrupt a program that runs in a process's context on the same CPU.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::HashMap;
use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};
use railwatch_abi::drops::{DropKey, Dropped, ELSEWHERE, Flow, FlowKey};

use crate::maps::{ACTIVE, BOOKS, FLOWS_EVEN, FLOWS_ODD, TOTALS, config};
use crate::place::Place;

const NOTHING: Dropped = Dropped { packets: 0, bytes: 0, flows_full: 0, no_flow: 0 };

/// Adds. Relaxed is right here: the old value is not used (see `atomic.rs` of the GPU half).
#[inline(always)]
fn add(counter: *mut u64, by: u64) {
    // SAFETY: callers pass a live, aligned field of a map value.
    unsafe { atomic_xadd::<u64, u64, { Relaxed }>(counter, by) };
}

/// Counts one packet of `bytes`; `has_flow` says that `key` names one.
#[inline(always)]
pub fn one(place: &Place, key: &FlowKey, bytes: u64, has_flow: bool) {
    let Some(books) = BOOKS.get_ptr_mut(0) else { return };
    let scope = config!(scope_namespace);
    if scope != 0 && place.namespace != scope {
        if place.namespace == 0 {
            // SAFETY: a live field of a map value.
            add(unsafe { &raw mut (*books).scope_unknown }, 1);
        }
        return;
    }
    // SAFETY: live fields of map values, here and below.
    add(unsafe { &raw mut (*books).seen }, 1);
    let mut total = DropKey { reason: key.reason, interface: place.interface, namespace: place.namespace, pad: 0 };
    if place.namespace != 0 && place.namespace != config!(home_namespace) {
        total.interface = 0;
        total.namespace = ELSEWHERE;
    }
    let mut found = TOTALS.get_ptr_mut(&total);
    if found.is_none() {
        let _ = TOTALS.insert(&total, &NOTHING, BPF_NOEXIST.into());
        found = TOTALS.get_ptr_mut(&total);
    }
    let Some(entry) = found else {
        add(unsafe { &raw mut (*books).totals_full }, 1);
        return;
    };
    unsafe {
        add(&raw mut (*entry).packets, 1);
        add(&raw mut (*entry).bytes, bytes);
    }
    if !has_flow {
        add(unsafe { &raw mut (*entry).no_flow }, 1);
        return;
    }
    let even = ACTIVE.get(0).is_none_or(|&active| active == 0);
    let kept = if even { into(&FLOWS_EVEN, key, bytes) } else { into(&FLOWS_ODD, key, bytes) };
    if !kept {
        add(unsafe { &raw mut (*entry).flows_full }, 1);
    }
}

/// `false` where the table is full.
#[inline(always)]
fn into(flows: &HashMap<FlowKey, Flow>, key: &FlowKey, bytes: u64) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut found = flows.get_ptr_mut(key);
    if found.is_none() {
        let first = Flow { packets: 1, bytes, first_ns: now, last_ns: now };
        if flows.insert(key, &first, BPF_NOEXIST.into()).is_ok() {
            return true;
        }
        // Another CPU made it in between, or there is no room.
        found = flows.get_ptr_mut(key);
    }
    let Some(flow) = found else { return false };
    // SAFETY: live fields of a map value.
    unsafe {
        add(&raw mut (*flow).packets, 1);
        add(&raw mut (*flow).bytes, bytes);
        (&raw mut (*flow).last_ns).write_volatile(now);
    }
    true
}
