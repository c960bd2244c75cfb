//! The privilege report as a person or a program reads it.

use super::{Facts, Limitation, limitations};
use crate::cli::Output;
use caps::Capability;
use serde::Serialize;
use std::io::{self, Write};

/// The capabilities that bear on the agent, and for what.
const CAPABILITIES: [(Capability, &str); 8] = [
    (Capability::CAP_BPF, "load the kernel half"),
    (Capability::CAP_PERFMON, "attach uprobes, hear of new mappings"),
    (Capability::CAP_SYS_ADMIN, "not needed; stands in for the two above"),
    (Capability::CAP_SYS_PTRACE, "read /proc/PID of other users' processes"),
    (Capability::CAP_DAC_READ_SEARCH, "open their libraries"),
    (Capability::CAP_CHECKPOINT_RESTORE, "open mapped libraries that were deleted"),
    (Capability::CAP_NET_ADMIN, "read optical modules, as the kernel asks; nothing is changed on any interface"),
    (Capability::CAP_NET_RAW, "hear LLDP; no frame is sent"),
];

#[derive(Serialize)]
struct Report<'a> {
    kernel: &'a str,
    architecture: &'a str,
    btf: bool,
    lockdown: Option<&'a str>,
    perf_event_paranoid: Option<i64>,
    bpffs: bool,
    cgroup: &'a str,
    initial_pid_namespace: bool,
    memory_limit_bytes: Option<u64>,
    capabilities: Vec<Row>,
    limitations: Vec<Limitation>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    effective: bool,
    purpose: &'static str,
}

/// Writes the report; `more` are limitations found by trying.
pub fn print(to: &mut dyn Write, facts: &Facts, more: &[Limitation], output: Output) -> io::Result<()> {
    let mut found = limitations(facts);
    found.extend_from_slice(more);
    let report = Report {
        kernel: &facts.kernel_release,
        architecture: &facts.architecture,
        btf: facts.btf,
        lockdown: facts.lockdown.as_deref(),
        perf_event_paranoid: facts.perf_event_paranoid,
        bpffs: facts.bpffs,
        cgroup: facts.cgroup,
        initial_pid_namespace: facts.initial_pid_namespace,
        memory_limit_bytes: facts.memory_limit.as_ref().map(|limit| limit.bytes),
        capabilities: CAPABILITIES
            .iter()
            .map(|(capability, purpose)| Row {
                name: capability.to_string(),
                effective: facts.has(*capability),
                purpose,
            })
            .collect(),
        limitations: found,
    };
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *to, &report)?;
            writeln!(to)
        }
        Output::Table => table(to, &report),
    }
}

fn table(to: &mut dyn Write, report: &Report<'_>) -> io::Result<()> {
    let yes = |is: bool| if is { "yes" } else { "no" };
    let limit = report.memory_limit_bytes.map_or("none".into(), |bytes| format!("{} MiB", bytes >> 20));
    let paranoid = report.perf_event_paranoid.map_or("unknown".into(), |level| level.to_string());
    for (name, value) in [
        ("kernel", format!("{} ({})", report.kernel, report.architecture)),
        ("kernel types (BTF)", yes(report.btf).into()),
        ("lockdown", report.lockdown.unwrap_or("not in this kernel").into()),
        ("perf_event_paranoid", paranoid),
        ("bpffs at /sys/fs/bpf", yes(report.bpffs).into()),
        ("cgroups", report.cgroup.into()),
        ("host's pid namespace", yes(report.initial_pid_namespace).into()),
        ("memory limit", limit),
    ] {
        writeln!(to, "{name:<24} {value}")?;
    }
    writeln!(to, "\n{:<24} {:<10} FOR", "CAPABILITY", "EFFECTIVE")?;
    for row in &report.capabilities {
        writeln!(to, "{:<24} {:<10} {}", row.name, yes(row.effective), row.purpose)?;
    }
    if report.limitations.is_empty() {
        return writeln!(to, "\nnothing is off");
    }
    writeln!(to, "\nOFF OR LIMITED")?;
    for limitation in &report.limitations {
        writeln!(to, "{}\n    {}", limitation.what, limitation.why)?;
    }
    Ok(())
}
