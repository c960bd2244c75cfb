//! Processes: first sight, scope, end.
//!
//! In: calls of threads not seen before, exits, execs. Out: `TGIDS` (which process a tgid is now), `PROCESSES`, and an
//! event when one is gone, with how it ended. The agent sweeps what a gone process leaves in the maps; being told twice or never does no
//! harm, because it also compares with `TGIDS`.

use aya_ebpf::bindings::{BPF_NOEXIST, task_struct};
use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_comm, bpf_get_current_task};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns, bpf_probe_read_kernel};
use railwatch_abi::cookie::Cookie;
use railwatch_abi::event::{EventKind, ExitStatus};
use railwatch_abi::maps::{LAYERS, Process, ProcessKey, REASONS, Reason};

use crate::maps::{PROCESSES, TGIDS, config};
use crate::report;

/// A process before its first call is booked. Too large for the stack.
static NEW: Process = Process {
    first_seen_ns: 0,
    incomplete_since_ns: 0,
    flags: 0,
    events_seen: 0,
    events_capped: 0,
    budget: 0,
    unmatched_frees: [0; LAYERS],
    lost: [0; REASONS],
    comm: [0; 16],
};

/// Reads a word of a kernel struct at an offset that the agent found in the kernel's BTF.
#[inline(always)]
fn field<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address and fails rather than faults.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// The current process, made at its first call; 0 where it is out of scope or there is no room.
#[inline(never)]
pub fn current(task: *mut task_struct) -> ProcessKey {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied out at once.
    if let Some(&key) = unsafe { TGIDS.get(tgid) } {
        return key;
    }
    if !in_scope(task as u64) {
        return 0;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let key = u64::from(tgid) << 32 | (now >> 16 & 0xffff_ffff);
    let _ = PROCESSES.insert(key, &NEW, BPF_NOEXIST.into());
    if let Some(entry) = PROCESSES.get_ptr_mut(key) {
        // SAFETY: live fields of a map value; `comm` is 16 bytes long, and a failure leaves it empty.
        unsafe {
            (*entry).first_seen_ns = now;
            bpf_get_current_comm((&raw mut (*entry).comm).cast(), 16);
        }
    }
    if TGIDS.insert(tgid, key, BPF_NOEXIST.into()).is_ok() {
        report::event(key, Cookie(0), EventKind::ProcessSeen, 0, -1, 0, 0, -1);
        return key;
    }
    // Another thread of the process was first, or there is no room.
    // SAFETY: the value is copied out at once.
    let winner = unsafe { TGIDS.get(tgid) }.copied().unwrap_or(0);
    if winner != key {
        let _ = PROCESSES.remove(key);
    }
    if winner == 0 {
        report::lost(0, Reason::ProcessesFull);
    }
    winner
}

#[inline(always)]
fn in_scope(task: u64) -> bool {
    let (cgroup, level) = (config!(scope_cgroup), config!(scope_cgroup_level));
    // SAFETY: a helper on the current task.
    if cgroup != 0 && unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) } != cgroup {
        return false;
    }
    let netns = config!(scope_netns);
    netns == 0 || network_namespace(task) == Some(netns)
}

#[inline(always)]
fn network_namespace(task: u64) -> Option<u32> {
    let nsproxy: u64 = field(task, config!(task_nsproxy))?;
    let net: u64 = field(nsproxy, config!(nsproxy_net))?;
    field(net, config!(net_inum))
}

/// CLOCK_BOOTTIME at which the task began, in nanoseconds; 0 where this kernel does not tell.
#[inline(always)]
pub fn began(task: *mut task_struct) -> u64 {
    match config!(task_start_boottime) {
        0 => 0,
        offset => field(task as u64, offset).unwrap_or(0),
    }
}

/// A thread of some process ends; with the last one, the process does.
#[inline(always)]
pub fn exited() {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    // SAFETY: the value is copied out at once.
    let Some(&key) = (unsafe { TGIDS.get(tgid) }) else { return };
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let signal: u64 = match config!(task_signal) {
        0 => 0,
        offset => field(task, offset).unwrap_or(0),
    };
    let last = match config!(task_signal) {
        0 => pid_tgid as u32 == tgid,
        // `do_exit` has taken this thread off `live` already.
        _ => signal != 0 && field::<i32>(signal, config!(signal_live)) == Some(0),
    };
    if last {
        gone(tgid, key, 0, status(task, signal));
    }
}

/// The current process has become another program.
#[inline(always)]
pub fn executed() {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied out at once.
    if let Some(&key) = unsafe { TGIDS.get(tgid) } {
        gone(tgid, key, 1, 0);
    }
}

/// Set while all threads end together, be it by exit_group(2), by a signal, or as the last one ends (include/linux/sched/signal.h).
const SIGNAL_GROUP_EXIT: u32 = 4;

/// How the process of `task`, its last thread, ends: an [`ExitStatus`] as its parent will read it from wait(2)
/// (`wait_task_zombie` in kernel/exit.c).
#[inline(always)]
fn status(task: u64, signal: u64) -> u64 {
    let (flags, group_code) = (config!(signal_flags), config!(signal_group_exit_code));
    let (leader, code) = (config!(task_group_leader), config!(task_exit_code));
    let mut status = 0;
    if signal != 0 && config!(signal_oom_mm) != 0 {
        status |= match field::<u64>(signal, config!(signal_oom_mm)) {
            Some(0) => ExitStatus::OOM_KNOWN,
            Some(_) => ExitStatus::OOM_KNOWN | ExitStatus::OOM_KILLED,
            None => 0,
        };
    }
    if signal == 0 || flags == 0 || group_code == 0 || leader == 0 || code == 0 {
        return status;
    }
    let of_group = field::<u32>(signal, flags).unwrap_or(0) & SIGNAL_GROUP_EXIT != 0;
    let code = if of_group {
        field::<u32>(signal, group_code)
    } else {
        field::<u64>(task, leader).and_then(|leader| field::<u32>(leader, code))
    };
    match code {
        Some(code) => status | ExitStatus::CODE | u64::from(code & 0xffff),
        None => status,
    }
}

#[inline(always)]
fn gone(tgid: u32, key: ProcessKey, how: i32, status: u64) {
    if TGIDS.remove(tgid).is_ok() {
        report::event(key, Cookie(0), EventKind::ProcessGone, how, -1, status, 0, -1);
    }
}
