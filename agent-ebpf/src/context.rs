//! Which device a thread works on, and which driver context; what a device reset or a context's end frees.
//!
//! In: successful calls of the device and context family. Out: `thread.device`, `thread.context`, `CONTEXTS`.
//! An end costs the same however much it frees: a generation is raised and the balance moved, entry by entry nothing.

use aya_ebpf::bindings::BPF_NOEXIST;
use railwatch_abi::DEVICE_UNKNOWN;
use railwatch_abi::cookie::{Cookie, Kind, Layer, Op};
use railwatch_abi::maps::{CONTEXT_DEPTH, Context, ContextKey, LAYERS, Reason, Thread, TotalsKey};

use crate::atomic::{add, add_signed, add_u32, drain};
use crate::maps::{CONTEXTS, TOTALS};
use crate::report;
use crate::user::{self, arg};

const DRIVER: usize = Layer::CudaDriver as usize;
const RUNTIME: usize = Layer::CudaRuntime as usize;

/// Key of a device's primary context; no address of a context is that small.
#[inline(always)]
pub const fn primary(device: i32) -> u64 {
    device as u32 as u64 + 1
}

/// The entry of a context, made where there is none.
#[inline(always)]
pub fn entry(process: u64, context: u64, device: i32) -> Option<*mut Context> {
    let key = ContextKey { process, context };
    if let Some(found) = CONTEXTS.get_ptr_mut(key) {
        return Some(found);
    }
    let new = Context { device, generation: 0, allocated: [0; 3], alias: 0, references: 0 };
    let _ = CONTEXTS.insert(key, new, BPF_NOEXIST.into());
    let found = CONTEXTS.get_ptr_mut(key);
    if found.is_none() {
        report::lost(process, Reason::ContextsFull);
    }
    found
}

/// A successful call of the device and context family.
#[inline(always)]
pub fn changed(thread: &mut Thread, layer: usize, cookie: Cookie, op: u8) {
    const SET_DEVICE: u8 = Op::SetDevice as u8;
    const DEVICE_RESET: u8 = Op::DeviceReset as u8;
    const CREATE: u8 = Op::ContextCreate as u8;
    const DESTROY: u8 = Op::ContextDestroy as u8;
    const SET: u8 = Op::ContextSet as u8;
    const PUSH: u8 = Op::ContextPush as u8;
    const POP: u8 = Op::ContextPop as u8;
    const RETAIN: u8 = Op::PrimaryRetain as u8;
    const RELEASE: u8 = Op::PrimaryRelease as u8;
    const RESET: u8 = Op::PrimaryReset as u8;
    let layer = layer & (LAYERS - 1);
    let process = thread.process;
    let args = &thread.pending[layer].args;
    let first = arg(args, cookie.arg(0));
    let second = arg(args, cookie.arg(1));
    match op {
        SET_DEVICE => {
            let device = first as i32;
            thread.device[layer] = device;
            if layer == RUNTIME {
                // "cudaSetDevice makes the device's primary context current" (CUDA runtime API, Device Management).
                thread.device[DRIVER] = device;
                thread.context = primary(device);
            }
        }
        DEVICE_RESET => {
            let device = if cookie.arg(0) == 15 { thread.device[layer] } else { first as i32 };
            device_gone(process, layer, device);
            if layer == RUNTIME && device >= 0 {
                context_gone(process, primary(device));
            }
        }
        CREATE => {
            let Some(context) = user::read::<u64>(first) else {
                report::lost(process, Reason::Unreadable);
                return;
            };
            let device = second as i32;
            if let Some(found) = entry(process, context, device) {
                // SAFETY: live fields of a map value. The address may have been another context's.
                unsafe {
                    (*found).device = device;
                    (*found).alias = 0;
                }
            }
            if layer == DRIVER {
                push(thread);
            }
            enter(thread, layer, context, device);
        }
        DESTROY => {
            context_gone(process, first);
            if layer == DRIVER && thread.context == first {
                pop(thread);
            }
        }
        SET | PUSH => {
            if op == PUSH {
                push(thread);
            }
            let (context, device) = resolve(process, first);
            enter(thread, layer, context, device);
        }
        POP => pop(thread),
        RETAIN => {
            let device = first as i32;
            let Some(address) = user::read::<u64>(second) else {
                report::lost(process, Reason::Unreadable);
                return;
            };
            if let Some(alias) = entry(process, address, device) {
                // SAFETY: live fields of a map value.
                unsafe {
                    (*alias).device = device;
                    (*alias).alias = primary(device);
                }
            }
            if let Some(found) = entry(process, primary(device), device) {
                // SAFETY: a live field of a map value.
                add_signed(unsafe { &raw mut (*found).references }, 1);
            }
        }
        RELEASE => released(process, first as i32),
        RESET => {
            context_gone(process, primary(first as i32));
        }
        _ => {}
    }
}

/// The last release ends a primary context, unless the runtime holds it too (it keeps it until the process ends).
#[inline(always)]
fn released(process: u64, device: i32) {
    let Some(found) = CONTEXTS.get_ptr_mut(ContextKey { process, context: primary(device) }) else { return };
    // SAFETY: a live field of a map value.
    let references = add_signed(unsafe { &raw mut (*found).references }, -1);
    let runtime = TotalsKey { process, device, layer: RUNTIME as u16, kind: Kind::Device as u16 };
    if references == 0 && TOTALS.get_ptr(runtime).is_none() {
        context_gone(process, primary(device));
    }
}

/// The context at this address, and its device.
#[inline(always)]
fn resolve(process: u64, address: u64) -> (u64, i32) {
    if address == 0 {
        return (0, DEVICE_UNKNOWN);
    }
    match CONTEXTS.get_ptr(ContextKey { process, context: address }) {
        // SAFETY: live fields of a map value.
        Some(found) => unsafe {
            let alias = (*found).alias;
            (if alias != 0 { alias } else { address }, (*found).device)
        },
        None => (address, DEVICE_UNKNOWN),
    }
}

/// The thread works in this context now. The runtime follows the driver's current context.
#[inline(always)]
fn enter(thread: &mut Thread, layer: usize, context: u64, device: i32) {
    thread.device[layer & (LAYERS - 1)] = device;
    if layer == DRIVER {
        thread.context = context;
        if device >= 0 {
            thread.device[RUNTIME] = device;
        }
    }
}

#[inline(always)]
fn push(thread: &mut Thread) {
    let depth = thread.depth as usize;
    if depth < CONTEXT_DEPTH {
        thread.contexts[depth] = thread.context;
        thread.context_devices[depth] = thread.device[DRIVER];
    }
    thread.depth += 1;
}

#[inline(always)]
fn pop(thread: &mut Thread) {
    let (mut context, mut device) = (0, DEVICE_UNKNOWN);
    if thread.depth > 0 {
        thread.depth -= 1;
        // Read anew, so that the register which is tested is the one that indexes: LLVM would test the value from before
        // the subtraction, which bounds nothing for the verifier.
        // SAFETY: a field of a valid reference.
        let depth = unsafe { core::ptr::read_volatile(&thread.depth) } as usize;
        if depth < CONTEXT_DEPTH {
            context = thread.contexts[depth];
            device = thread.context_devices[depth];
        }
    }
    enter(thread, DRIVER, context, device);
}

/// All that the process has on a device in this layer is freed.
#[inline(never)]
fn device_gone(process: u64, layer: usize, device: i32) -> u32 {
    for &kind in Kind::ALL {
        let key = TotalsKey { process, device, layer: layer as u16, kind: kind as u16 };
        if let Some(totals) = TOTALS.get_ptr_mut(key) {
            // SAFETY: live fields of a map value.
            unsafe {
                add_u32(&raw mut (*totals).generation, 1);
                let moved = drain(&raw mut (*totals).allocated);
                add(&raw mut (*totals).implicit_freed, moved as u64);
            }
        }
    }
    0
}

/// All that the process has in a driver context is freed.
#[inline(never)]
fn context_gone(process: u64, context: u64) -> u32 {
    let Some(found) = CONTEXTS.get_ptr_mut(ContextKey { process, context }) else { return 0 };
    // SAFETY: live fields of map values.
    unsafe {
        add_u32(&raw mut (*found).generation, 1);
        for &kind in Kind::ALL {
            let moved = drain(&raw mut (*found).allocated[kind as usize]);
            let key = TotalsKey {
                process,
                device: (*found).device,
                layer: DRIVER as u16,
                kind: kind as u16,
            };
            if moved != 0
                && let Some(totals) = TOTALS.get_ptr_mut(key)
            {
                add_signed(&raw mut (*totals).allocated, -moved);
                add(&raw mut (*totals).implicit_freed, moved as u64);
            }
        }
    }
    0
}
