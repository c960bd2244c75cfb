//! Communicators and what is enqueued on them.
//!
//! In: calls of NCCL, RCCL and HCCL. Out: `COMMUNICATORS`: identity (alike on all ranks), rank, and the sequence number
//! of the last enqueued collective, by which the calls of different hosts are joined later.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use railwatch_abi::args::STACK_FIRST;
use railwatch_abi::cookie::{Cookie, Layer, Op};
use railwatch_abi::event::EventKind;
use railwatch_abi::maps::{Communicator, CommunicatorKey, LAYERS, Pending, Reason, Thread};
use railwatch_abi::sizes::{hccl_datatype, nccl_datatype};

use crate::account::{call, entry};
use crate::atomic::{add, add_u32};
use crate::maps::COMMUNICATORS;
use crate::regs::Regs;
use crate::report;
use crate::user::{self, arg};

const INIT: u8 = Op::CommInit as u8;
const INIT_ALL: u8 = Op::CommInitAll as u8;
const SPLIT: u8 = Op::CommSplit as u8;
const DESTROY: u8 = Op::CommDestroy as u8;
const ABORT: u8 = Op::CommAbort as u8;
const COLLECTIVE: u8 = Op::Collective as u8;

/// `ncclInProgress`: a non-blocking call that went well so far.
const IN_PROGRESS: i32 = 7;
/// Words of a unique id.
const ID_WORDS: usize = 16;
/// Communicators that one `*CommInitAll` may create and be followed.
const INIT_ALL_MAX: u64 = 16;
/// Slot for the identity: the first stack word, which no role of these calls needs after entry.
const IDENTITY: usize = STACK_FIRST as usize;

/// FNV-1a, 64 bits, a word at a time.
#[inline(always)]
const fn fold(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0100_0000_01b3)
}

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// A call that is not on the hot path begins.
#[inline(never)]
pub fn entered(process: u64, cookie: Cookie, op: u8, pending: &mut Pending) -> u32 {
    match op {
        INIT => {
            let slot = cookie.arg(2);
            let address = if slot >= STACK_FIRST {
                Regs::by_value(pending.stack_pointer, &pending.args, slot)
            } else {
                arg(&pending.args, slot)
            };
            pending.args[IDENTITY] = identity(address);
        }
        DESTROY | ABORT => {
            let key = CommunicatorKey { process, handle: arg(&pending.args, cookie.arg(0)) };
            // SAFETY: a live field of a map value.
            pending.begun = COMMUNICATORS.get_ptr(key).map_or(0, |found| unsafe { (*found).identity });
        }
        op if op >= COLLECTIVE => {
            // SAFETY: a helper without arguments.
            pending.begun = unsafe { bpf_ktime_get_ns() };
        }
        _ => {}
    }
    0
}

/// Hash of the unique id at `address`; 0 where there is none to read.
#[inline(always)]
fn identity(address: u64) -> u64 {
    let Some(words) = user::read::<[u64; ID_WORDS]>(address) else { return 0 };
    let mut hash = BASIS;
    for word in words {
        hash = fold(hash, word);
    }
    hash
}

/// Such a call returned.
#[inline(never)]
pub fn returned(thread: &mut Thread, layer: usize, cookie: Cookie, op: u8, code: i32) {
    let layer = layer & (LAYERS - 1);
    let process = thread.process;
    let begun = thread.pending[layer].begun;
    let now = if op >= COLLECTIVE { call(process, cookie, begun) } else { 0 };
    if code != 0 && !(code == IN_PROGRESS && layer == Layer::Nccl as usize) {
        report::failed(thread, layer, cookie, code);
        return;
    }
    if op >= COLLECTIVE {
        enqueued(thread, layer, cookie, op, now);
        return;
    }
    let args = &thread.pending[layer].args;
    match op {
        INIT => {
            let Some(handle) = user::read::<u64>(arg(args, cookie.arg(0))) else {
                report::lost(process, Reason::Unreadable);
                return;
            };
            let ranks = if cookie.arg(1) == 15 { -1 } else { arg(args, cookie.arg(1)) as i32 };
            let new = (args[IDENTITY], arg(args, cookie.arg(3)) as i32, ranks);
            create(thread, layer, cookie, handle, new);
        }
        INIT_ALL => {
            init_all(thread, layer, cookie);
        }
        SPLIT => {
            split(thread, layer, cookie);
        }
        _ => {
            let handle = arg(args, cookie.arg(0));
            end(thread, layer, cookie, op, handle);
        }
    }
}

#[inline(never)]
fn create(thread: &mut Thread, layer: usize, cookie: Cookie, handle: u64, who: (u64, i32, i32)) -> u32 {
    // Inside a group the handle may be given only at its end: the first collective then makes the entry.
    if handle == 0 {
        return 0;
    }
    let process = thread.process;
    let (identity, rank, ranks) = who;
    let device = if layer == Layer::Hccl as usize {
        thread.device[Layer::Acl as usize]
    } else {
        thread.device[Layer::CudaRuntime as usize]
    };
    let new = Communicator {
        identity,
        rank,
        ranks,
        sequence: 0,
        point_to_point: 0,
        bytes: 0,
        last_enqueue_ns: 0,
        last_symbol: 0,
        splits: 0,
        device,
        layer: layer as u32,
    };
    if COMMUNICATORS.insert(CommunicatorKey { process, handle }, new, BPF_ANY.into()).is_err() {
        report::lost(process, Reason::CommunicatorsFull);
    }
    report::event(process, cookie, EventKind::CommunicatorCreated, ranks, device, identity, handle, rank);
    0
}

/// One process makes the communicators of several devices: no other process has a rank in them.
#[inline(always)]
fn init_all(thread: &mut Thread, layer: usize, cookie: Cookie) -> u32 {
    let layer = layer & (LAYERS - 1);
    let args = &thread.pending[layer].args;
    let (array, count) = (arg(args, cookie.arg(0)), arg(args, cookie.arg(1)) & 0xffff_ffff);
    let identity = fold(fold(BASIS, thread.process), user::read::<u64>(array).unwrap_or(0));
    for rank in 0..INIT_ALL_MAX {
        if rank >= count {
            return 0;
        }
        match user::read::<u64>(array + 8 * rank) {
            Some(handle) => {
                create(thread, layer, cookie, handle, (identity, rank as i32, count as i32));
            }
            None => {
                report::lost(thread.process, Reason::Unreadable);
            }
        }
    }
    0
}

/// All ranks of the parent split it the same number of times, so parent, count and colour name the child on all of
/// them. Its ranks follow from keys that only all ranks together know.
#[inline(always)]
fn split(thread: &mut Thread, layer: usize, cookie: Cookie) -> u32 {
    let layer = layer & (LAYERS - 1);
    let process = thread.process;
    let args = &thread.pending[layer].args;
    let (parent, colour) = (arg(args, cookie.arg(0)), arg(args, cookie.arg(1)) & 0xffff_ffff);
    let handle = user::read::<u64>(arg(args, cookie.arg(2))).unwrap_or(0);
    let mut identity = 0;
    if let Some(found) = COMMUNICATORS.get_ptr_mut(CommunicatorKey { process, handle: parent }) {
        // SAFETY: live fields of a map value.
        unsafe {
            let splits = add_u32(&raw mut (*found).splits, 1);
            if (*found).identity != 0 {
                identity = fold(fold(fold(BASIS, (*found).identity), u64::from(splits)), colour);
            }
        }
    }
    create(thread, layer, cookie, handle, (identity, -1, -1))
}

#[inline(never)]
fn end(thread: &mut Thread, layer: usize, cookie: Cookie, op: u8, handle: u64) -> u32 {
    let layer = layer & (LAYERS - 1);
    let process = thread.process;
    let key = CommunicatorKey { process, handle };
    let Some(found) = COMMUNICATORS.get_ptr(key) else { return 0 };
    // SAFETY: live fields of a map value.
    let (identity, rank, device) = unsafe { ((*found).identity, (*found).rank, (*found).device) };
    // Another identity is a newer communicator at the same address.
    if identity != thread.pending[layer].begun {
        return 0;
    }
    let _ = COMMUNICATORS.remove(key);
    let kind =
        if op == ABORT { EventKind::CommunicatorAborted } else { EventKind::CommunicatorDestroyed };
    report::event(process, cookie, kind, 0, device, identity, handle, rank);
    0
}

#[inline(never)]
fn enqueued(thread: &mut Thread, layer: usize, cookie: Cookie, op: u8, now: u64) {
    let process = thread.process;
    let args = &thread.pending[layer].args;
    let datatype = arg(args, cookie.arg(2)) & 0xffff_ffff;
    let element = if layer == Layer::Hccl as usize { hccl_datatype(datatype) } else { nccl_datatype(datatype) };
    let bytes = arg(args, cookie.arg(1)).wrapping_mul(element);
    let key = CommunicatorKey { process, handle: arg(args, cookie.arg(0)) };
    let unknown = Communicator {
        identity: 0,
        rank: -1,
        ranks: -1,
        sequence: 0,
        point_to_point: 0,
        bytes: 0,
        last_enqueue_ns: 0,
        last_symbol: 0,
        splits: 0,
        device: -1,
        layer: layer as u32,
    };
    let Some(found) = entry(&COMMUNICATORS, &key, &unknown) else {
        report::lost(process, Reason::CommunicatorsFull);
        return;
    };
    // SAFETY: live fields of a map value. The last two are for display; of two enqueues at once, either may stay.
    unsafe {
        if op == COLLECTIVE {
            add(&raw mut (*found).sequence, 1);
        } else {
            add(&raw mut (*found).point_to_point, 1);
        }
        add(&raw mut (*found).bytes, bytes);
        (*found).last_enqueue_ns = now;
        (*found).last_symbol = cookie.symbol() as u32;
    }
}
