//! What discovery lacks the rights for, in words.
//!
//! In: this thread's effective capabilities and pid namespace. Out: sentences that name what is off, and the remedy.
//! Whether the kernel's reports can be had is tried, not asked (see `ring`).

use std::fs;

use super::procfs;

/// Inode of the first pid namespace (`PROC_PID_INIT_INO`, linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

/// Everything that is off here.
pub fn limitations() -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let host_pids = procfs::namespace("self", "pid").is_none_or(|inode| inode == INITIAL_PID_NAMESPACE);
    explain(effective(&status), host_pids)
}

fn explain(capabilities: u64, host_pids: bool) -> Vec<String> {
    let has = |capability: u32| capabilities & (1 << capability) != 0;
    let mut limitations = Vec::new();
    if !host_pids {
        limitations.push(
            "the agent runs in a pid namespace of its own: it does not see processes outside it, and the kernel half \
             names processes by the host's pids; run it in the host's pid namespace (hostPID: true)",
        );
    }
    if !has(CAP_SYS_PTRACE) {
        limitations.push(
            "CAP_SYS_PTRACE is missing: what processes of other users map cannot be read, so they are not found; give it \
             to the agent's unit",
        );
    }
    if !has(CAP_CHECKPOINT_RESTORE) && !has(CAP_SYS_ADMIN) {
        limitations.push(
            "CAP_CHECKPOINT_RESTORE is missing: a library that was deleted or replaced on disk after it was loaded cannot \
             be traced; give it to the agent's unit",
        );
    }
    limitations.into_iter().map(str::to_owned).collect()
}

/// The effective set in /proc/PID/status; all of them where it cannot be read, so that nothing is claimed.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_right_is_named_with_its_remedy() {
        for (capabilities, host_pids, named) in [
            (u64::MAX, true, &[][..]),
            (u64::MAX, false, &["hostPID: true"]),
            (!(1 << CAP_SYS_PTRACE), true, &["CAP_SYS_PTRACE"]),
            (!(1 << CAP_CHECKPOINT_RESTORE), true, &[]),
            (1 << CAP_SYS_PTRACE, true, &["CAP_CHECKPOINT_RESTORE"]),
            (0, false, &["hostPID: true", "CAP_SYS_PTRACE", "CAP_CHECKPOINT_RESTORE"]),
        ] {
            let limitations = explain(capabilities, host_pids);
            assert_eq!(limitations.len(), named.len(), "{limitations:?}");
            assert!(limitations.iter().zip(named).all(|(text, name)| text.contains(name)), "{limitations:?}");
        }
    }

    #[test]
    fn the_effective_set_is_read_from_the_status() {
        assert_eq!(effective("CapPrm:\t0000000000000001\nCapEff:\t000001fffeffffff\n"), 0x1ff_feff_ffff);
        assert_eq!(effective(""), u64::MAX);
    }
}
