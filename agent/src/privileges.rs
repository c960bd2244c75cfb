//! What this process can do on this host, and what is off because of what it cannot.
//!
//! In: the process's capabilities and a few files of /proc and /sys, read once ([`Facts::read`]). Out: [`limitations`],
//! each with its cause and its cure, for the collector, the metrics page and `railwatch-agent capabilities`.
//! Never: a change of privileges, or a probe that leaves something behind.

mod facts;
mod report;

pub use facts::{Facts, MemoryLimit};
pub use report::print;

use caps::Capability;
use serde::Serialize;

/// Something that this agent cannot do here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limitation {
    /// What is off or less than it could be: `gpu probes`.
    pub what: String,
    /// Because of what, and how to get it.
    pub why: String,
}

impl Limitation {
    /// In one line each.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

impl From<&Limitation> for railwatch_wire::v1::Limitation {
    fn from(limitation: &Limitation) -> Self {
        Self { what: limitation.what.clone(), why: limitation.why.clone() }
    }
}

/// The kernel half needs the ring buffer and `bpf_get_attach_cookie`; older kernels are not tried.
const KERNEL_MIN: (u32, u32) = (5, 15);
/// What the agent promises to stay under, and room for the page cache that its spool is charged with.
pub const MEMORY_WANTED_BYTES: u64 = 96 * 1024 * 1024;

/// Everything that the facts say is missing. What only an attempt can tell (a load that the kernel refuses) is added by
/// whoever makes the attempt.
pub fn limitations(facts: &Facts) -> Vec<Limitation> {
    let mut found = Vec::new();
    let mut lacks = |what: &str, why: String| found.push(Limitation::new(what, why));
    let admin = facts.has(Capability::CAP_SYS_ADMIN);
    let has = |capability| admin || facts.has(capability);
    let grant = "add it to AmbientCapabilities= of the unit, or to securityContext.capabilities.add of the container";

    if facts.kernel < KERNEL_MIN {
        lacks(
            "gpu probes",
            format!("kernel {} is older than {}.{}: run a newer one", facts.kernel_release, KERNEL_MIN.0, KERNEL_MIN.1),
        );
    }
    for (capability, what, off) in [
        (Capability::CAP_BPF, "gpu probes", "the kernel half cannot be loaded"),
        (Capability::CAP_PERFMON, "gpu probes", "uprobes cannot be attached and new mappings are not heard of"),
    ] {
        if !has(capability) {
            lacks(what, format!("{capability} is missing: {off}; {grant}"));
        }
    }
    if !facts.has(Capability::CAP_SYS_PTRACE) {
        lacks(
            "gpu processes of other users",
            format!(
                "CAP_SYS_PTRACE is missing: /proc/PID of other users' processes cannot be read, so that they are not found; {grant}"
            ),
        );
    }
    if !facts.has(Capability::CAP_DAC_READ_SEARCH) && !facts.has(Capability::CAP_DAC_OVERRIDE) {
        lacks(
            "gpu libraries that only their owner can read",
            format!("CAP_DAC_READ_SEARCH is missing: a library in a private directory cannot be opened; {grant}"),
        );
    }
    if !has(Capability::CAP_CHECKPOINT_RESTORE) {
        lacks(
            "gpu libraries deleted or replaced while in use",
            format!("CAP_CHECKPOINT_RESTORE is missing: /proc/PID/map_files cannot be opened; {grant}"),
        );
    }
    if facts.lockdown.as_deref() == Some("confidentiality") {
        lacks(
            "gpu call stacks and kernel fields",
            "the kernel is locked down to confidentiality: reading kernel memory from BPF is refused; boot with lockdown=integrity to allow it".into(),
        );
    }
    if !facts.btf {
        lacks("kernel types", "/sys/kernel/btf/vmlinux is absent: the kernel was built without CONFIG_DEBUG_INFO_BTF; fields of kernel structures are not read".into());
    }
    if !facts.bpffs && !admin {
        lacks(
            "balances over a restart",
            "no bpffs at /sys/fs/bpf, and without CAP_SYS_ADMIN none can be mounted: maps cannot be pinned, and balances are marked incomplete after each start; mount -t bpf bpf /sys/fs/bpf".into(),
        );
    }
    if !facts.initial_pid_namespace {
        lacks(
            "pids of the host",
            "the agent runs in a pid namespace of its own: only processes inside it are found; run it in the host's (hostPID: true)".into(),
        );
    }
    if let Some(limit) = facts.memory_limit.as_ref().filter(|limit| limit.bytes < MEMORY_WANTED_BYTES) {
        lacks(
            "memory",
            format!(
                "the cgroup allows {} MiB ({}) where {} MiB are wanted: BPF maps are charged to it and made smaller; raise memory.max (MemoryMax=, resources.limits.memory)",
                limit.bytes >> 20,
                limit.source.display(),
                MEMORY_WANTED_BYTES >> 20
            ),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::facts::MemoryLimit;
    use super::*;

    fn all_granted() -> Facts {
        Facts {
            kernel_release: "6.12.1".into(),
            kernel: (6, 12),
            architecture: "x86_64".into(),
            capabilities: caps::all(),
            btf: true,
            lockdown: Some("none".into()),
            perf_event_paranoid: Some(2),
            bpffs: true,
            cgroup: "v2",
            initial_pid_namespace: true,
            memory_limit: None,
        }
    }

    fn what(facts: &Facts) -> Vec<String> {
        limitations(facts).into_iter().map(|limitation| limitation.what).collect()
    }

    #[test]
    fn nothing_is_missing_where_everything_is_granted() {
        assert_eq!(what(&all_granted()), Vec::<String>::new());
    }

    #[test]
    fn each_missing_thing_names_itself_and_its_cure() {
        type Take = fn(&mut Facts);
        let cases: [(&str, &str, Take); 11] = [
            ("gpu probes", "CAP_BPF", |f| drop_all(f, &[Capability::CAP_BPF, Capability::CAP_SYS_ADMIN])),
            ("gpu probes", "CAP_PERFMON", |f| drop_all(f, &[Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN])),
            ("gpu processes of other users", "CAP_SYS_PTRACE", |f| drop_all(f, &[Capability::CAP_SYS_PTRACE])),
            ("gpu libraries that only their owner can read", "CAP_DAC_READ_SEARCH", |f| {
                drop_all(f, &[Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE]);
            }),
            ("gpu libraries deleted or replaced while in use", "CAP_CHECKPOINT_RESTORE", |f| {
                drop_all(f, &[Capability::CAP_CHECKPOINT_RESTORE, Capability::CAP_SYS_ADMIN]);
            }),
            ("gpu probes", "newer one", |f| f.kernel = (4, 19)),
            ("gpu call stacks and kernel fields", "lockdown=integrity", |f| {
                f.lockdown = Some("confidentiality".into())
            }),
            ("kernel types", "CONFIG_DEBUG_INFO_BTF", |f| f.btf = false),
            ("balances over a restart", "mount -t bpf", |f| {
                drop_all(f, &[Capability::CAP_SYS_ADMIN]);
                f.bpffs = false;
            }),
            ("pids of the host", "hostPID: true", |f| f.initial_pid_namespace = false),
            ("memory", "64 MiB (/sys/fs/cgroup/x/memory.max)", |f| {
                f.memory_limit = Some(MemoryLimit { bytes: 64 << 20, source: "/sys/fs/cgroup/x/memory.max".into() });
            }),
        ];
        for (what, why, take) in cases {
            let mut facts = all_granted();
            take(&mut facts);
            let found = limitations(&facts);
            assert!(found.iter().any(|l| l.what == what && l.why.contains(why)), "{what}, {why}: {found:?}");
        }
    }

    #[test]
    fn sys_admin_stands_in_for_bpf_and_perfmon_as_in_the_kernel() {
        let mut facts = all_granted();
        drop_all(&mut facts, &[Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_CHECKPOINT_RESTORE]);
        assert_eq!(what(&facts), Vec::<String>::new());
    }

    fn drop_all(facts: &mut Facts, capabilities: &[Capability]) {
        for capability in capabilities {
            facts.capabilities.remove(capability);
        }
    }
}
