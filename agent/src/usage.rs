//! What the agent itself costs: processor time, resident memory, memory of its BPF maps.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::fs;

/// What the agent has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor seconds in user and kernel mode since the start.
    pub cpu_s: f64,
    /// Resident bytes now.
    pub resident_bytes: u64,
    /// Bytes that the kernel holds for this process's BPF maps.
    pub bpf_map_bytes: u64,
}

impl Usage {
    /// Reads it now; what cannot be read is 0.
    pub fn read() -> Self {
        let cpu_s = getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
            let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            #[expect(clippy::cast_precision_loss, reason = "exact for 285 years")]
            let seconds = micros as f64 / 1e6;
            seconds
        });
        let resident_bytes =
            fs::read_to_string("/proc/self/status").ok().and_then(|status| resident(&status)).unwrap_or(0);
        Self { cpu_s, resident_bytes, bpf_map_bytes: bpf_map_bytes() }
    }
}

/// `VmRSS:     1234 kB` of proc_pid_status(5).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The sum of `memlock:` over all descriptors that are maps; a map opened twice counts once.
fn bpf_map_bytes() -> u64 {
    let Ok(descriptors) = fs::read_dir("/proc/self/fdinfo") else { return 0 };
    let mut maps = std::collections::BTreeMap::new();
    for descriptor in descriptors.filter_map(Result::ok) {
        // Links first: a socket's or file's fdinfo needs no reading.
        let link = fs::read_link(format!("/proc/self/fd/{}", descriptor.file_name().to_string_lossy()));
        if !link.is_ok_and(|link| link.as_os_str() == "anon_inode:bpf-map") {
            continue;
        }
        if let Some((id, bytes)) = fs::read_to_string(descriptor.path()).ok().and_then(|text| map(&text)) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum()
}

fn map(fdinfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("map_id:")?, field("memlock:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_read() {
        assert_eq!(resident("Name:\ta\nVmRSS:\t   12345 kB\nVmData:\t1 kB\n"), Some(12_345 * 1024));
        assert_eq!(map("pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t17\n"), Some((17, 4096)));
        assert_eq!(map("pos:\t0\n"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::read();
        assert!(usage.resident_bytes > 1024 * 1024, "{usage:?}");
    }
}
