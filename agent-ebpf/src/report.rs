//! Events, their cap, and the counting of everything that is lost.
//!
//! In: what must be told. Out: `EVENTS`, and in `LOSS` and `PROCESSES` the books of it:
//! seen = submitted + capped + ring full, exactly.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use railwatch_abi::cookie::{Cookie, Op};
use railwatch_abi::event::{EventKind, RawEvent};
use railwatch_abi::maps::{FLAG_MAP_FULL, LAYERS, Process, REASONS, Reason, Thread};

use crate::account::failure;
use crate::atomic::{add, exchange, fetch_add, set_bits};
use crate::maps::{EVENTS, LOSS, PROCESSES, config};
use crate::memory;

/// Counts something lost, for the host and for its process, whose figures are incomplete from now on.
#[inline(never)]
pub fn lost(process: u64, reason: Reason) -> u32 {
    let at = reason as usize & (REASONS - 1);
    if let Some(loss) = LOSS.get_ptr_mut(0) {
        // SAFETY: a live field of a map value.
        add(unsafe { &raw mut (*loss).reasons[at] }, 1);
    }
    if let Some(entry) = PROCESSES.get_ptr_mut(process) {
        // SAFETY: live fields of a map value.
        unsafe {
            add(&raw mut (*entry).lost[at], 1);
            if at >= Reason::AllocationsFull as usize {
                if (*entry).incomplete_since_ns == 0 {
                    (*entry).incomplete_since_ns = aya_ebpf::helpers::bpf_ktime_get_boot_ns();
                }
                if at <= Reason::ThreadsFull as usize {
                    set_bits(&raw mut (*entry).flags, FLAG_MAP_FULL);
                }
            }
        }
    }
    0
}

/// Counts a failed call by code; a failed allocation is told at once, within the process's cap.
#[inline(never)]
pub fn failed(thread: &mut Thread, layer: usize, cookie: Cookie, code: i32) -> u32 {
    let process = thread.process;
    let layer = layer & (LAYERS - 1);
    let device = memory::device(thread, layer).0;
    failure(process, cookie, code, device);
    if cookie.op() != Op::Alloc as u8 {
        return 0;
    }
    let value = memory::asked(&thread.pending[layer].args, cookie);
    event(process, cookie, EventKind::AllocationFailed, code, device, value, 0, -1);
    0
}

/// Sends an event if the process's cap allows it; a process's beginning and end are two and need no cap.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a field of the event")]
pub fn event(
    process: u64,
    cookie: Cookie,
    kind: EventKind,
    code: i32,
    device: i32,
    value: u64,
    address: u64,
    rank: i32,
) {
    let Some(loss) = LOSS.get_ptr_mut(0) else { return };
    // SAFETY: live fields of a map value.
    unsafe {
        add(&raw mut (*loss).events_seen, 1);
        if let Some(entry) = PROCESSES.get_ptr_mut(process) {
            add(&raw mut (*entry).events_seen, 1);
            let bounded = !matches!(kind, EventKind::ProcessSeen | EventKind::ProcessGone);
            if bounded && !within_cap(entry) {
                add(&raw mut (*entry).events_capped, 1);
                add(&raw mut (*loss).reasons[Reason::EventCapped as usize], 1);
                return;
            }
        }
        let Some(mut slot) = EVENTS.reserve::<RawEvent>(0) else {
            add(&raw mut (*loss).reasons[Reason::RingFull as usize], 1);
            if let Some(entry) = PROCESSES.get_ptr_mut(process) {
                add(&raw mut (*entry).lost[Reason::RingFull as usize], 1);
            }
            return;
        };
        slot.write(RawEvent {
            at_ns: bpf_ktime_get_ns(),
            process,
            value,
            address,
            kind: kind as u32,
            symbol: cookie.symbol() as u32,
            code,
            device,
            thread: bpf_get_current_pid_tgid() as u32,
            rank,
        });
        let urgent = matches!(
            kind,
            EventKind::AllocationFailed
                | EventKind::ProcessGone
                // Once a process: what is to be known of it must be asked while it lives.
                | EventKind::ProcessSeen
                | EventKind::CommunicatorAborted
        );
        slot.submit(if urgent { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }.into());
        add(&raw mut (*loss).events_submitted, 1);
    }
}

/// Takes one of the process's events of this second (2^30 ns). Exact: the state is one word.
///
/// # Safety
/// `entry` is a live map value.
#[inline(always)]
unsafe fn within_cap(entry: *mut Process) -> bool {
    let cap = u64::from(config!(event_cap));
    // SAFETY: a helper without arguments; a live field of a map value.
    let (epoch, budget) = unsafe { ((bpf_ktime_get_ns() >> 30) << 32, &raw mut (*entry).budget) };
    // SAFETY: as above.
    let state = unsafe { budget.read_volatile() };
    if state & !0xffff_ffff == epoch {
        return state & 0xffff_ffff < cap && (fetch_add(budget, 1) & 0xffff_ffff) < cap;
    }
    // A new second: whoever sets it has the first event; who loses the race takes from what was set.
    match exchange(budget, state, epoch | 1) {
        Ok(()) => cap > 0,
        Err(_) => (fetch_add(budget, 1) & 0xffff_ffff) < cap,
    }
}
