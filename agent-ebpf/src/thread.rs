//! State of the current thread, in task-local storage: found by pointer, gone with the thread.

use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use railwatch_abi::DEVICE_UNKNOWN;
use railwatch_abi::cookie::Layer;
use railwatch_abi::maps::{LAYERS, Reason, Thread};

use crate::maps::{LATE, THREADS};
use crate::{process, report};

const RUNTIME: usize = Layer::CudaRuntime as usize;
const HIP: usize = Layer::Hip as usize;

/// The current thread's state, made at its first call; nothing for a thread out of scope.
#[inline(always)]
pub fn current() -> Option<&'static mut Thread> {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task_btf() };
    let thread = THREADS.get(task);
    // SAFETY: null or this task's live storage, which no other task's program touches.
    match unsafe { thread.as_mut() } {
        Some(thread) if thread.process != 0 => Some(thread),
        Some(_) => None,
        None => first_call(task),
    }
}

/// The current thread's state, if it is followed.
#[inline(always)]
pub fn known() -> Option<&'static mut Thread> {
    // SAFETY: as in `current`.
    let thread = unsafe { THREADS.get(bpf_get_current_task_btf()).as_mut() }?;
    (thread.process != 0).then_some(thread)
}

/// Drops the current thread's state: it has become another program.
#[inline(always)]
pub fn forget() {
    // SAFETY: a helper without arguments.
    THREADS.delete(unsafe { bpf_get_current_task_btf() });
}

#[inline(always)]
fn first_call(task: *mut task_struct) -> Option<&'static mut Thread> {
    let key = process::current(task);
    // SAFETY: as in `current`.
    let Some(thread) = (unsafe { THREADS.get_or_create(task).as_mut() }) else {
        report::lost(key, Reason::ThreadsFull);
        return None;
    };
    // Out of scope, or nowhere to keep the process: `process` stays 0.
    thread.process = key;
    if key == 0 {
        return None;
    }
    for layer in 0..LAYERS {
        thread.device[layer] = DEVICE_UNKNOWN;
    }
    // A thread that never chose a device uses device 0 (CUDA and HIP programming guides).
    thread.device[RUNTIME] = 0;
    thread.device[HIP] = 0;
    if let Some(late) = LATE.get_ptr(key) {
        // One older than the probes may have chosen its device unseen.
        let began = process::began(task);
        // SAFETY: live fields of a map value.
        unsafe {
            if began <= (*late).since_ns[RUNTIME] {
                thread.device[RUNTIME] = DEVICE_UNKNOWN;
            }
            if began <= (*late).since_ns[HIP] {
                thread.device[HIP] = DEVICE_UNKNOWN;
            }
        }
    }
    Some(thread)
}
