//! Whose thread hands a request over: a GPU process or a child of one, another process, or the kernel's own.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task};
use railwatch_abi::disk::{GPU, KERNEL, OTHER};

use crate::maps::{GPU_PROCESSES, config, field};

/// `PF_KTHREAD` (include/linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Of the current thread. Data loaders are children of the process that holds the GPU, so that the parent is asked too.
#[inline(always)]
pub fn of_current() -> u32 {
    if config!(has_issuer) == 0 {
        return OTHER;
    }
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    if field::<u32>(task, config!(task_flags)).is_some_and(|flags| flags & KERNEL_THREAD != 0) {
        return KERNEL;
    }
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    if is_gpu(process) {
        return GPU;
    }
    let parent = field(task, config!(task_parent)).and_then(|parent| field(parent, config!(task_tgid)));
    if parent.is_some_and(is_gpu) { GPU } else { OTHER }
}

#[inline(always)]
fn is_gpu(process: u32) -> bool {
    GPU_PROCESSES.get_ptr(&process).is_some()
}
