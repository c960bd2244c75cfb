//! Faults: what makes them and what ends them.
//!
//! In: a [`Lab`], where, how much. Out: a fault that is there until its value is dropped or [`Loss::remove`]d; what it did.
//! Never: a fault outside the lab's namespaces, or one that outlives them.
//!
//! Packets are lost by a BPF program of our own (`agent-ebpf/lab`) in a tc filter, always at a switch's end of the link: a
//! host's kernel must not count as its own drop what a cable or a switch did. A filter belongs to its interface, and an
//! interface to its namespace, so nothing is left behind when the namespace goes.

use crate::{
    enter,
    lab::Lab,
    plan::{End, Link, LinkKind},
};
use anyhow::{Context, Result, ensure};
use railwatch_abi::lab::{FaultConfig, FaultCounts};
use railwatch_gpu::kernel::{
    object::{Aligned, Parsed, named},
    sys,
};
use std::{
    collections::HashMap,
    ffi::CString,
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    process::Command,
};

#[cfg(target_arch = "x86_64")]
static OBJECT: &Aligned<[u8]> = &Aligned { align: [], bytes: *include_bytes!("../objects/railwatch-lab-x86_64.bpf.o") };
#[cfg(target_arch = "aarch64")]
static OBJECT: &Aligned<[u8]> =
    &Aligned { align: [], bytes: *include_bytes!("../objects/railwatch-lab-aarch64.bpf.o") };

/// Where a fault's filter stands among others of the interface.
const PREFERENCE: &str = "7";

/// A program that loses packets of one direction of one link.
pub struct Loss {
    namespace: String,
    port: String,
    hook: &'static str,
    counts: OwnedFd,
    // Held so that the counts can be read after the filter has gone.
    _program: OwnedFd,
}

/// Which end of a link its filter stands at, for the direction that starts at `from`, and on which side of that port.
fn place<'a>(link: &'a Link, from: &str) -> (&'a End, &'static str) {
    match link.kind {
        // A switch's word alone: leaving it towards the host, or coming from the host.
        LinkKind::Host if link.b.node == from => (&link.b, "egress"),
        LinkKind::Host => (&link.b, "ingress"),
        LinkKind::Fabric => (link.opposite(from), "ingress"),
    }
}

impl Loss {
    /// Loads the program and puts it where the direction of `link` that starts at `from` passes.
    ///
    /// # Errors
    /// The kernel refuses the program, or `tc` the filter.
    pub fn attach(lab: &Lab, link: &Link, from: &str, config: &FaultConfig) -> Result<Self> {
        let (end, hook) = place(link, from);
        let mut parsed = Parsed::of(&OBJECT.bytes, "RAILWATCH_LAB_OBJECT", config)?;
        let mut maps = parsed.create_maps(HashMap::new(), false)?;
        parsed.relocate(&maps)?;
        named(&maps, "COUNTS")?;
        let program = parsed.load("fault", 0)?;
        let bpffs = lab.node_folder(&end.node).join("bpf");
        fs::create_dir_all(&bpffs)?;
        enter::inside(lab, &end.node, || {
            // tc takes the program from there, and it is gone with this thread.
            enter::mount_privately("bpf", &bpffs)?;
            let pin = bpffs.join("fault");
            let name = CString::new(pin.as_os_str().as_bytes())?;
            sys::pin(program.as_fd(), &name).context("pin the program")?;
            // It may have been made for another fault already; the filter tells.
            let _ = run(Command::new("tc").args(["qdisc", "add", "dev", &end.port, "clsact"]));
            run(Command::new("tc")
                .args(["filter", "add", "dev", &end.port, hook, "pref", PREFERENCE, "bpf", "da", "object-pinned"])
                .arg(&pin))
        })?;
        Ok(Self {
            namespace: lab.namespace(&end.node),
            port: end.port.clone(),
            hook,
            counts: maps.remove("COUNTS").context("the program has its counts")?,
            _program: program,
        })
    }

    /// What it did so far.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn counts(&self) -> Result<FaultCounts> {
        let mut counts = [FaultCounts::default()];
        ensure!(sys::map_lookup(self.counts.as_fd(), &0_u32, &mut counts)?, "the fault has no counts");
        Ok(counts[0])
    }

    /// Takes it away; what it did.
    ///
    /// # Errors
    /// `tc` does not take the filter away.
    pub fn remove(self) -> Result<FaultCounts> {
        run(Command::new("tc").args([
            "-n",
            &self.namespace,
            "filter",
            "del",
            "dev",
            &self.port,
            self.hook,
            "pref",
            PREFERENCE,
        ]))?;
        self.counts()
    }
}

/// Limits the rate at which a port sends, in Mbit/s; `None` takes the limit away.
///
/// # Errors
/// What `tc` refused.
pub fn limit_rate(lab: &Lab, end: &End, rate_mbit_per_s: Option<f64>) -> Result<()> {
    let namespace = lab.namespace(&end.node);
    let mut command = Command::new("tc");
    match rate_mbit_per_s {
        Some(rate) => command
            .args(["-n", &namespace, "qdisc", "add", "dev", &end.port, "root", "handle", "7:", "tbf"])
            .args(["rate", &format!("{}kbit", (rate * 1000.0) as u64), "burst", "16kb", "latency", "50ms"]),
        None => command.args(["-n", &namespace, "qdisc", "del", "dev", &end.port, "root"]),
    };
    run(&mut command)
}

/// Packets that the limit of a port dropped.
///
/// # Errors
/// `tc` does not answer.
pub fn dropped_by_limit(lab: &Lab, end: &End) -> Result<u64> {
    let output = Command::new("tc")
        .args(["-n", &lab.namespace(&end.node), "-s", "-j", "qdisc", "show", "dev", &end.port, "root"])
        .output()
        .context("start `tc`")?;
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).context("the answer of `tc`")?;
    let limit = rows.as_array().into_iter().flatten().find(|row| row["kind"] == "tbf");
    limit.and_then(|row| row["drops"].as_u64()).context("the port has a limit")
}

/// Sets a port of a switch up or down. Its other end loses its carrier, as with a cable.
///
/// # Errors
/// What `ip` refused.
pub fn set_port(lab: &Lab, end: &End, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    run(Command::new("ip").args(["-n", &lab.namespace(&end.node), "link", "set", &end.port, state]))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, Sizes};

    #[test]
    fn packets_are_never_lost_in_a_hosts_own_namespace() {
        let plan = Plan::new(Sizes::default()).expect("the default sizes");
        for link in &plan.links {
            for from in [&link.a.node, &link.b.node] {
                let (end, hook) = place(link, from);
                assert!(plan.switch(&end.node).is_some(), "{}", link.name);
                assert_eq!(hook == "egress", end.node == *from, "{}: {from}", link.name);
            }
        }
    }
}
