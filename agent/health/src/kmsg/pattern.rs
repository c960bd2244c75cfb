//! Which lines of the kernel's log say something about a training host: one table.
//!
//! A template is text with `{captures}`. It matches from the beginning of a line; a capture takes what lies before the text
//! that follows it, the last one all that is left. Sources of the wording: kernel/hung_task.c, kernel/watchdog.c,
//! kernel/rcu/tree_stall.h, mm/oom_kill.c, drivers/edac/edac_mc.c, arch/x86/kernel/cpu/mce/core.c,
//! drivers/nvme/host/{pci,core}.c, block/blk-core.c, drivers/pci/pcie/aer.c, drivers/pci/hotplug/pciehp_ctrl.c,
//! drivers/net/ethernet/mellanox/mlx5/core/{events,health}.c, arch/x86/mm/fault.c; NVIDIA's open-gpu-kernel-modules for
//! `NVRM:`; drivers/gpu/drm/amd/amdgpu.

use railwatch_sampling::Severity;

/// One row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pattern {
    /// What the record is, the same for all wordings of one event.
    pub kind: &'static str,
    /// The line.
    pub template: &'static str,
    /// The signal it raises.
    pub signal: &'static str,
    /// How bad it is; of an XID, the table of XIDs decides.
    pub severity: Severity,
    /// Kind of the entity it tells of, and the capture that names it; or, of the host, the part of it.
    pub entity: (&'static str, Named),
    /// The sentence's beginning.
    pub what: &'static str,
}

/// Where an entity's name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// This capture.
    Capture(&'static str),
    /// Always this.
    Always(&'static str),
}

const fn row(
    kind: &'static str,
    template: &'static str,
    signal: &'static str,
    severity: Severity,
    entity: (&'static str, Named),
    what: &'static str,
) -> Pattern {
    Pattern { kind, template, signal, severity, entity, what }
}

use Named::{Always, Capture};
use Severity::{Critical, Error, Info, Warning};

const GPU: (&str, Named) = ("gpu", Capture("device"));
const NIC: (&str, Named) = ("nic", Capture("device"));
const NVME: (&str, Named) = ("nvme", Capture("device"));
const DISK: (&str, Named) = ("disk", Capture("device"));
const PORT: (&str, Named) = ("pcie", Capture("device"));
const PROCESS: (&str, Named) = ("process", Capture("pid"));
const CPU: (&str, Named) = ("host", Always("cpu"));
const MEMORY: (&str, Named) = ("host", Always("memory"));
const TASKS: (&str, Named) = ("host", Always("tasks"));

/// All rows; the first that matches counts.
#[rustfmt::skip]
pub const PATTERNS: &[Pattern] = &[
    row("gpu.xid", "NVRM: Xid (PCI:{device}): {code}, {detail}", "gpu.xid", Error, GPU, "XID"),
    row("gpu.lost", "NVRM: GPU {device}: GPU has fallen off the bus{detail}", "gpu.lost", Critical, GPU, "the GPU has fallen off the bus"),
    row("gpu.reset", "amdgpu {device}: amdgpu: GPU reset begin!{detail}", "gpu.reset", Error, GPU, "the driver resets the GPU"),
    row("gpu.ecc", "amdgpu {device}: amdgpu: {count} uncorrectable hardware errors detected in {block} block", "gpu.ecc.uncorrected", Critical, GPU, "uncorrected errors"),
    row("nic.module.error", "mlx5_core {device}: Port module event[error]: module {module}, {event}", "nic.module", Error, NIC, "optical module"),
    row("nic.module", "mlx5_core {device}: Port module event: module {module}, {event}", "nic.module", Warning, NIC, "optical module"),
    row("nic.firmware", "mlx5_core {device}: {function}: device's health compromised{detail}", "nic.firmware", Critical, NIC, "the firmware no longer answers"),
    row("host.hung_task", "INFO: task {task} blocked for more than {seconds} seconds.{detail}", "host.hung_task", Error, TASKS, "a task does not get on"),
    row("host.hung_task", "INFO: task {task} blocked in I/O wait for more than {seconds} seconds.{detail}", "host.hung_task", Error, TASKS, "a task does not get on"),
    row("host.lockup", "watchdog: BUG: soft lockup - CPU#{cpu} stuck for {seconds}s! [{task}]", "host.lockup", Critical, CPU, "a processor is stuck in the kernel"),
    row("host.lockup", "NMI watchdog: BUG: soft lockup - CPU#{cpu} stuck for {seconds}s! [{task}]", "host.lockup", Critical, CPU, "a processor is stuck in the kernel"),
    row("host.lockup", "watchdog: Watchdog detected hard LOCKUP on cpu {cpu}", "host.lockup", Critical, CPU, "a processor is stuck with interrupts off"),
    row("host.lockup", "NMI watchdog: Watchdog detected hard LOCKUP on cpu {cpu}", "host.lockup", Critical, CPU, "a processor is stuck with interrupts off"),
    row("host.lockup", "watchdog: CPU{cpu}: Watchdog detected hard LOCKUP on cpu {cpu}", "host.lockup", Critical, CPU, "a processor is stuck with interrupts off"),
    row("host.lockup", "rcu: INFO: {flavour} detected stalls on CPUs/tasks:{detail}", "host.lockup", Critical, CPU, "processors do not get on"),
    row("host.lockup", "rcu: INFO: {flavour} self-detected stall on CPU{detail}", "host.lockup", Critical, CPU, "a processor does not get on"),
    row("host.oom_kill", "Out of memory: Killed process {pid} ({comm}) {detail}", "host.oom_kill", Error, PROCESS, "killed because the host ran out of memory"),
    row("host.oom_kill", "Memory cgroup out of memory: Killed process {pid} ({comm}) {detail}", "host.oom_kill", Error, PROCESS, "killed because its cgroup ran out of memory"),
    row("host.memory.uncorrected", "EDAC MC{controller}: {count} UE {detail}", "host.memory.uncorrected", Critical, MEMORY, "uncorrected memory errors"),
    row("host.memory.corrected", "EDAC MC{controller}: {count} CE {detail}", "host.memory.corrected", Info, MEMORY, "corrected memory errors"),
    row("host.machine_check", "mce: [Hardware Error]: CPU {cpu}: Machine Check{exception}: {status} Bank {bank}: {code}", "host.machine_check", Error, CPU, "machine check"),
    row("nvme.timeout", "nvme {device}: I/O {tag} timeout, {action}", "nvme.timeout", Error, NVME, "a command was not answered in time"),
    row("nvme.timeout", "nvme {device}: controller is down; will reset: {detail}", "nvme.timeout", Error, NVME, "the controller is down and is reset"),
    row("nvme.failed", "nvme {device}: Device not ready; aborting {detail}", "nvme.down", Critical, NVME, "the controller does not become ready"),
    row("nvme.failed", "nvme {device}: Removing after probe failure{detail}", "nvme.down", Critical, NVME, "the controller was given up"),
    row("disk.errors", "blk_update_request: {error} error, dev {device}, sector {sector} {detail}", "disk.errors", Error, DISK, "error of a read or write"),
    row("disk.errors", "I/O error, dev {device}, sector {sector} {detail}", "disk.errors", Error, DISK, "error of a read or write"),
    row("disk.errors", "critical {error} error, dev {device}, sector {sector} {detail}", "disk.errors", Error, DISK, "error of a read or write"),
    row("disk.errors", "EXT4-fs error (device {device}): {detail}", "disk.errors", Error, DISK, "the file system found an error"),
    row("disk.errors", "ata{device}: exception Emask {detail}", "disk.errors", Error, DISK, "error of the SATA link"),
    row("pcie.slot", "pcieport {device}: pciehp: Slot({slot}): Link Down", "pcie.slot.lost", Critical, PORT, "the link below this port went down"),
    row("pcie.slot", "pcieport {device}: pciehp: Slot({slot}): Card not present", "pcie.slot.lost", Critical, PORT, "nothing answers below this port"),
    row("pcie.fatal", "pcieport {port}: AER: Uncorrected (Fatal) error received: {device}", "pcie.errors", Critical, PORT, "fatal bus error"),
    row("pcie.fatal", "pcieport {port}: AER: Uncorrectable (Fatal) error message received from {device}", "pcie.errors", Critical, PORT, "fatal bus error"),
    row("process.crashed", "traps: {comm}[{pid}] {trap} ip:{detail}", "process.crashed", Warning, PROCESS, "ended by a fault of its own"),
    row("process.crashed", "{comm}[{pid}]: segfault at {detail}", "process.crashed", Warning, PROCESS, "ended by a fault of its own"),
];

/// Longest capture kept, bytes.
const CAPTURE_BYTES_MAX: usize = 600;

/// A piece of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Text(&'static str),
    Capture(&'static str),
}

/// The pieces of a template, in order.
fn pieces(template: &'static str) -> impl Iterator<Item = Piece> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if let Some(inside) = rest.strip_prefix('{') {
            let (name, after) = inside.split_once('}')?;
            rest = after;
            return Some(Piece::Capture(name));
        }
        let end = rest.find('{').unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        rest = after;
        (!text.is_empty()).then_some(Piece::Text(text))
    })
}

/// The names of all captures of the table that are spelt like this one: compiled in, hence bounded.
pub(super) fn capture_name(name: &str) -> Option<&'static str> {
    PATTERNS.iter().flat_map(|pattern| pieces(pattern.template)).find_map(|piece| match piece {
        Piece::Capture(known) if known == name => Some(known),
        _ => None,
    })
}

/// The first row that a line matches, with what it captured.
#[must_use]
pub fn recognise(text: &str) -> Option<(&'static Pattern, Vec<(&'static str, String)>)> {
    PATTERNS.iter().find_map(|pattern| Some((pattern, captures(pattern.template, text)?)))
}

fn captures(template: &'static str, text: &str) -> Option<Vec<(&'static str, String)>> {
    let mut rest = text;
    let mut open: Option<&'static str> = None;
    let mut found = Vec::new();
    for piece in pieces(template) {
        match (piece, open) {
            (Piece::Text(literal), None) => rest = rest.strip_prefix(literal)?,
            (Piece::Text(literal), Some(name)) => {
                let (captured, after) = rest.split_once(literal)?;
                found.push((name, kept(captured)));
                (rest, open) = (after, None);
            }
            (Piece::Capture(name), None) => open = Some(name),
            // Two captures with nothing between them: no such row.
            (Piece::Capture(_), Some(_)) => return None,
        }
    }
    match open {
        Some(name) => found.push((name, kept(rest))),
        None if !rest.is_empty() => return None,
        None => {}
    }
    found.retain(|(_, captured)| !captured.is_empty());
    Some(found)
}

fn kept(captured: &str) -> String {
    captured[..captured.floor_char_boundary(CAPTURE_BYTES_MAX)].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Captures, by name.
    type Captures = &'static [(&'static str, &'static str)];

    /// Lines as drivers and kernels write them, and what must be found in them.
    #[rustfmt::skip]
    const LINES: &[(&str, &str, Captures)] = &[
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", "gpu.xid", &[("device", "0000:3b:00"), ("code", "79")]),
        ("NVRM: Xid (PCI:0000:01:00): 31, pid=1234, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS", "gpu.xid", &[("code", "31")]),
        ("NVRM: Xid (PCI:0000:db:00): 74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 14(0x10000, 0x0)", "gpu.xid", &[("device", "0000:db:00"), ("code", "74")]),
        ("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", "gpu.lost", &[("device", "0000:3b:00.0")]),
        ("amdgpu 0000:83:00.0: amdgpu: GPU reset begin!", "gpu.reset", &[("device", "0000:83:00.0")]),
        ("amdgpu 0000:83:00.0: amdgpu: 3 uncorrectable hardware errors detected in umc block", "gpu.ecc", &[("count", "3"), ("block", "umc")]),
        ("mlx5_core 0000:5e:00.0: Port module event: module 0, Cable unplugged", "nic.module", &[("device", "0000:5e:00.0"), ("event", "Cable unplugged")]),
        ("mlx5_core 0000:5e:00.0 eth2: Port module event: module 1, Cable plugged", "nic.module", &[("device", "0000:5e:00.0 eth2"), ("module", "1")]),
        ("mlx5_core 0000:5e:00.0: Port module event[error]: module 0, Cable error, High Temperature", "nic.module.error", &[("event", "Cable error, High Temperature")]),
        ("mlx5_core 0000:5e:00.0: poll_health:739:(pid 0): device's health compromised - reached miss count", "nic.firmware", &[("device", "0000:5e:00.0")]),
        ("INFO: task python:4242 blocked for more than 120 seconds.", "host.hung_task", &[("task", "python:4242"), ("seconds", "120")]),
        ("INFO: task kworker/0:1:77 blocked in I/O wait for more than 122 seconds.", "host.hung_task", &[("task", "kworker/0:1:77")]),
        ("watchdog: BUG: soft lockup - CPU#17 stuck for 26s! [python:4242]", "host.lockup", &[("cpu", "17"), ("task", "python:4242")]),
        ("watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3", "host.lockup", &[("cpu", "3")]),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "host.lockup", &[("flavour", "rcu_preempt")]),
        ("Out of memory: Killed process 1234 (python (old)) total-vm:1kB, anon-rss:1kB", "host.oom_kill", &[("pid", "1234")]),
        ("Memory cgroup out of memory: Killed process 77 (dataloader) total-vm:1kB", "host.oom_kill", &[("comm", "dataloader")]),
        ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x1 offset:0x0)", "host.memory.corrected", &[("controller", "0"), ("count", "1")]),
        ("EDAC MC1: 2 UE memory scrubbing error on unknown label (page:0x0)", "host.memory.uncorrected", &[("count", "2")]),
        ("mce: [Hardware Error]: CPU 8: Machine Check: 0 Bank 7: 8c00004000010090", "host.machine_check", &[("cpu", "8"), ("bank", "7")]),
        ("mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 4: be00000000800400", "host.machine_check", &[("exception", "Exception")]),
        ("nvme nvme0: I/O 322 QID 3 timeout, aborting", "nvme.timeout", &[("device", "nvme0"), ("action", "aborting")]),
        ("nvme nvme1: I/O tag 322 (0142) opcode 0x2 (I/O Cmd) QID 3 timeout, aborting req_op:READ(0) size:131072", "nvme.timeout", &[("device", "nvme1")]),
        ("nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0xffff", "nvme.timeout", &[]),
        ("nvme nvme0: Device not ready; aborting reset, CSTS=0x1", "nvme.failed", &[]),
        ("I/O error, dev nvme0n1, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2", "disk.errors", &[("device", "nvme0n1"), ("sector", "2048")]),
        ("blk_update_request: I/O error, dev sda, sector 66 op 0x0:(READ) flags 0x80700", "disk.errors", &[("device", "sda")]),
        ("critical medium error, dev sdb, sector 5 op 0x0:(READ)", "disk.errors", &[("error", "medium")]),
        ("ata1.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x0", "disk.errors", &[("device", "1.00")]),
        ("pcieport 0000:16:01.0: pciehp: Slot(5): Link Down", "pcie.slot", &[("slot", "5")]),
        ("pcieport 0000:00:1c.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0", "pcie.fatal", &[("device", "0000:01:00.0")]),
        ("python3[4242]: segfault at 0 ip 00007f sp 00007f error 4 in libcuda.so.1[7f+1]", "process.crashed", &[("comm", "python3"), ("pid", "4242")]),
        ("traps: python3[5] general protection fault ip:7f sp:7f error:0 in libc.so.6[7f+1]", "process.crashed", &[("pid", "5")]),
    ];

    #[test]
    fn lines_of_real_drivers_are_recognised() {
        for (line, kind, expected) in LINES {
            let Some((pattern, found)) = recognise(line) else { panic!("{line:?} was not recognised") };
            assert_eq!(pattern.kind, *kind, "{line}");
            for (name, value) in *expected {
                assert!(found.contains(&(*name, (*value).to_owned())), "{line}: {name}={value} is not in {found:?}");
            }
        }
    }

    #[test]
    fn every_row_has_a_line_that_shows_it() {
        let shown: Vec<&str> = LINES.iter().filter_map(|(line, ..)| Some(recognise(line)?.0.kind)).collect();
        for pattern in PATTERNS {
            assert!(shown.contains(&pattern.kind), "{} has no line in the test", pattern.kind);
            if let (_, Capture(name)) = pattern.entity {
                assert!(pattern.template.contains(&format!("{{{name}}}")), "{}: no capture {name}", pattern.template);
            }
        }
    }

    #[test]
    fn lines_that_only_resemble_one_are_left_alone() {
        for line in [
            "",
            "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15",
            "nvme nvme0: 16/0/0 default/read/poll queues",
            "systemd[1]: something: segfault", // not at the place where the kernel says it
            "user said: NVRM: Xid (PCI:0000:3b:00): 79, forged",
            "mlx5_core 0000:5e:00.0: firmware version: 28.39.1002",
            "EDAC MC0: Giving out device to module skx_edac controller Skylake Socket#0 IMC#0",
            "watchdog: BUG: soft lockup - CPU#17 stuck for 26s! [python:4242] and more",
        ] {
            assert_eq!(recognise(line).map(|(pattern, _)| pattern.kind), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_recognised_or_not_without_a_panic(line in ".{0,300}") {
            let _ = recognise(&line);
        }

        #[test]
        fn a_known_line_cut_or_damaged_anywhere_does_no_harm(row in 0..LINES.len(), at in 0..200usize, with in ".{0,3}") {
            let line = LINES[row].0;
            let at = line.floor_char_boundary(at);
            let _ = recognise(&line[..at]);
            let _ = recognise(&format!("{}{with}{}", &line[..at], &line[at..]));
        }

        #[test]
        fn captures_stay_within_their_bound(long in "[a-zé]{0,2000}") {
            let line = format!("INFO: task {long} blocked for more than 1 seconds.");
            for (_, captured) in recognise(&line).map(|(_, found)| found).unwrap_or_default() {
                prop_assert!(captured.len() <= CAPTURE_BYTES_MAX);
            }
        }
    }
}
