//! The kernel half of disk requests: one program where the block layer hands a request to a driver, one where it ends.
//!
//! In: the raw tracepoints `block_rq_issue` and `block_rq_complete`. Out: counts and a histogram of times per disk,
//! operation and issuer ([`maps`]). Never: an event per request, a sector, a byte of data, a sleep.
//!
//! An object of its own: where it does not load, nothing else notices.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "atomic addition exists only as an intrinsic on this target")]
#![feature(core_intrinsics)]

mod issuer;
mod maps;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};
use railwatch_abi::disk::{BUCKETS, DISCARD, DiskKey, FLUSH, NAME_BYTES, READ, Requests, Started, WRITE, bucket};

use crate::maps::{BOOKS, REQUESTS, STARTED, config, field};

/// GPL-only helpers are called; the sources may be used under either licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// `enum req_op` (include/linux/blk_types.h). The loader checks these three against the running kernel.
const OP_MASK: u32 = 0xff;
const OP_FLUSH: u32 = 2;
const OP_DISCARD: u32 = 3;
const OP_DRIVER: u32 = 34;

/// `blk_status_t`: BLK_STS_NOTSUPP and BLK_STS_AGAIN say nothing about the disk's health.
const NOT_SUPPORTED: u32 = 1;
const AGAIN: u32 = 12;

const NOTHING: Requests = Requests { issued: 0, completed: 0, errors: 0, time_ns: 0, buckets: [0; BUCKETS] };

/// An argument of the tracepoint.
///
/// # Safety
/// The tracepoint has more than `index` arguments; the loader refuses others.
#[inline(always)]
unsafe fn argument(ctx: *mut c_void, index: usize) -> u64 {
    // SAFETY: the caller's promise; arguments are 8 bytes each.
    unsafe { ctx.cast::<u64>().add(index).read_volatile() }
}

/// Adds. Relaxed is right here: the old value is not used. Atomic, because an interrupt may end a request while a program
/// of a process counts on the same CPU.
#[inline(always)]
fn add(counter: *mut u64, by: u64) {
    // SAFETY: callers pass a live, aligned field of a map value.
    unsafe { atomic_xadd::<u64, u64, { Relaxed }>(counter, by) };
}

/// The operation of a request, as the kernel's own statistics group it; none of a driver's own commands.
#[inline(always)]
fn operation(request: u64) -> Option<u32> {
    match field::<u32>(request, config!(request_flags))? & OP_MASK {
        OP_FLUSH => Some(FLUSH),
        OP_DISCARD => Some(DISCARD),
        other if other >= OP_DRIVER => None,
        other if other & 1 == 1 => Some(WRITE),
        _ => Some(READ),
    }
}

/// The name of a request's disk.
#[inline(always)]
fn disk(request: u64) -> Option<[u8; NAME_BYTES]> {
    let queue: u64 = field(request, config!(request_queue))?;
    let disk: u64 = field(queue, config!(queue_disk))?;
    if disk == 0 {
        return None;
    }
    field(disk, config!(disk_name))
}

/// A request is handed to its driver: `block_rq_issue(request)`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/block_rq_issue")]
pub fn issued(ctx: *mut c_void) -> u32 {
    // SAFETY: the loader attaches where there is this argument.
    let request = unsafe { argument(ctx, 0) };
    let Some(operation) = operation(request) else { return 0 };
    let Some(name) = disk(request) else { return 0 };
    let Some(books) = BOOKS.get_ptr_mut(0) else { return 0 };
    // SAFETY: live fields of map values, here and below.
    add(unsafe { &raw mut (*books).seen }, 1);
    let key = DiskKey { name, operation, issuer: issuer::of_current() };
    let mut found = REQUESTS.get_ptr_mut(&key);
    if found.is_none() {
        let _ = REQUESTS.insert(&key, &NOTHING, BPF_NOEXIST.into());
        found = REQUESTS.get_ptr_mut(&key);
    }
    let Some(entry) = found else {
        add(unsafe { &raw mut (*books).kinds_full }, 1);
        return 0;
    };
    // SAFETY: a helper without arguments.
    let started = Started { key, at_ns: unsafe { bpf_ktime_get_ns() } };
    if STARTED.insert(&request, &started, BPF_NOEXIST.into()).is_ok() {
        add(unsafe { &raw mut (*entry).issued }, 1);
    } else if STARTED.get_ptr(&request).is_some() {
        let _ = STARTED.insert(&request, &started, BPF_ANY.into());
        add(unsafe { &raw mut (*books).reissued }, 1);
    } else {
        add(unsafe { &raw mut (*books).started_full }, 1);
    }
    0
}

/// A request ends, or a part of it: `block_rq_complete(request, status, bytes)`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/block_rq_complete")]
pub fn completed(ctx: *mut c_void) -> u32 {
    // SAFETY: the loader attaches where there are these arguments.
    let (request, status, bytes) =
        unsafe { (argument(ctx, 0), argument(ctx, 1) as u32 & 0xff, argument(ctx, 2) as u32) };
    let Some(operation) = operation(request) else { return 0 };
    let Some(started) = STARTED.get_ptr(&request) else {
        if let Some(books) = BOOKS.get_ptr_mut(0) {
            // SAFETY: a live field of a map value.
            add(unsafe { &raw mut (*books).unmatched }, 1);
        }
        return 0;
    };
    // A part of it: the rest is still in flight.
    if operation != FLUSH && field::<u32>(request, config!(request_length)).is_some_and(|length| bytes < length) {
        return 0;
    }
    // SAFETY: a live element of a map; a copy, because it is removed below.
    let Started { key, at_ns } = unsafe { *started };
    let _ = STARTED.remove(&request);
    let Some(entry) = REQUESTS.get_ptr_mut(&key) else {
        // Counted on another CPU alone so far: maps per CPU hold a copy for each, so that this cannot be.
        return 0;
    };
    // SAFETY: a helper without arguments.
    let time_ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(at_ns);
    let is_error = status != 0 && status != NOT_SUPPORTED && status != AGAIN;
    let index = bucket(time_ns);
    // SAFETY: live fields of a map value; the index is below `BUCKETS`.
    unsafe {
        add(&raw mut (*entry).completed, 1);
        add(&raw mut (*entry).time_ns, time_ns);
        if is_error {
            add(&raw mut (*entry).errors, 1);
        }
        let buckets = (&raw mut (*entry).buckets).cast::<u32>();
        atomic_xadd::<u32, u32, { Relaxed }>(buckets.add(index), 1);
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
