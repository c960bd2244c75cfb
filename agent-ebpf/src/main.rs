//! The kernel half of the GPU accounting: one program for every function's entry, one for every return, and two that
//! see processes end.
//!
//! In: traps on the GPU libraries' functions, with a [`railwatch_abi::cookie::Cookie`] that says what the function
//! means. Out: totals in maps ([`maps`]), and few events ([`report`]).
//! Never: an event per call, an estimate, a sleep, a write to the traced process.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "atomics with a result exist only as intrinsics on this target")]
#![feature(core_intrinsics)]

mod account;
mod atomic;
mod collective;
mod context;
mod maps;
mod memory;
mod process;
mod regs;
mod report;
mod thread;
mod user;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use core::ffi::c_void;
use railwatch_abi::cookie::{Cookie, Op};
use railwatch_abi::maps::{LAYERS, Pending, Thread};

use crate::regs::Regs;

/// GPL-only helpers are called; the sources may be used under either licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

const COUNT: u8 = Op::Count as u8;
const ALLOC: u8 = Op::Alloc as u8;
const FREE: u8 = Op::Free as u8;

/// A traced function begins.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub fn entered(ctx: *mut c_void) -> u32 {
    let regs = Regs(ctx.cast());
    let cookie = regs.cookie();
    let Some(thread) = thread::current() else { return 0 };
    let layer = cookie.layer() as usize & (LAYERS - 1);
    let stack_pointer = regs.stack_pointer();
    let pending = &mut thread.pending[layer];
    if pending.stack_pointer != 0 && !outermost(&regs, stack_pointer, thread.process, pending) {
        return 0;
    }
    pending.stack_pointer = stack_pointer;
    pending.cookie = cookie.0;
    regs.save(&mut pending.args);
    if cookie.0 & Cookie::STACK != 0 {
        regs.save_stack(&mut pending.args);
    }
    match cookie.op() {
        ALLOC => {}
        FREE => memory::take(thread.process, cookie, pending),
        COUNT => {
            // SAFETY: a helper without arguments.
            pending.begun = unsafe { bpf_ktime_get_ns() };
        }
        op => {
            collective::entered(thread.process, cookie, op, pending);
        }
    }
    0
}

/// Whether a call that begins while one of its layer is pending is an outermost call all the same, because the
/// pending one is gone without its return having been seen (an exception, a `longjmp`, a detach).
///
/// The stack grows down. A call deeper than the pending one is nested in it, if the pending frame is still alive. A
/// call at the same stack pointer is a tail jump out of the pending function if its return address has been replaced
/// by the trampoline already; otherwise the frame was popped and the slot used again.
#[inline(never)]
fn outermost(regs: &Regs, stack_pointer: u64, process: u64, pending: &mut Pending) -> bool {
    if stack_pointer <= pending.stack_pointer && regs.frame_alive(pending.stack_pointer, stack_pointer) {
        return false;
    }
    memory::abandon(process, pending);
    true
}

/// A traced function returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uretprobe")]
pub fn returned(ctx: *mut c_void) -> u32 {
    let regs = Regs(ctx.cast());
    let Some(thread) = thread::known() else { return 0 };
    let layer = regs.cookie().layer() as usize & (LAYERS - 1);
    let stack_pointer = regs.stack_pointer_at_entry();
    let pending = &mut thread.pending[layer];
    // A nested call returns deeper; a tail-jump's second return finds nothing pending.
    if pending.stack_pointer == 0 || stack_pointer < pending.stack_pointer {
        return 0;
    }
    if stack_pointer > pending.stack_pointer {
        memory::abandon(thread.process, pending);
        return 0;
    }
    pending.stack_pointer = 0;
    let cookie = Cookie(pending.cookie);
    let code = regs.result();
    match cookie.op() {
        ALLOC => memory::allocated(&regs, thread, layer, cookie, code),
        FREE => memory::freed(thread, layer, cookie, code),
        COUNT => {
            let process = thread.process;
            account::call(process, cookie, pending.begun);
            if code != 0 {
                report::failed(thread, layer, cookie, code);
            }
        }
        // Not by way of `rare`: frames of nested functions share 512 bytes.
        op if op >= Op::CommInit as u8 => {
            collective::returned(thread, layer, cookie, op, code);
        }
        op => rare(thread, layer, cookie, op, code),
    }
    0
}

/// Everything that is not on the hot path.
#[inline(never)]
fn rare(thread: &mut Thread, layer: usize, cookie: Cookie, op: u8, code: i32) {
    if code != 0 {
        report::failed(thread, layer, cookie, code);
    } else if op >= Op::Map as u8 {
        memory::mapped(thread, layer, cookie, op);
    } else {
        context::changed(thread, layer, cookie, op);
    }
}

/// A thread of some process ends.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sched_process_exit")]
pub fn exited(_ctx: *mut c_void) -> u32 {
    process::exited();
    0
}

/// Some process has become another program.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sched_process_exec")]
pub fn executed(_ctx: *mut c_void) -> u32 {
    thread::forget();
    process::executed();
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
