//! What there is of a lab on the machine: nothing, once it has ended, however it ended.
//!
//! In: a lab's name. Out: its folder, namespaces, cgroup, mounts and processes by name, and the BPF programs of faults. Never: something of
//! another lab, or a change of what is found.

use crate::{cgroup, interrupt, lab};
use anyhow::{Context, Result};
use railwatch_gpu::kernel::sys;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Name of the program that loses packets (`agent-ebpf/lab`).
const FAULT_PROGRAM: &str = "fault";

/// What there is of this lab.
///
/// # Errors
/// `/proc` cannot be read.
pub fn traces(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let folder = Path::new(lab::HOME).join(name);
    found.extend(folder.exists().then(|| format!("folder {}", folder.display())));
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let namespaces = namespaces.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_its = |file: &String| file.starts_with(&lab::namespace_prefix(name));
    found.extend(namespaces.filter(is_its).map(|file| format!("namespace {file}")));
    let cgroup = cgroup::root()?.join(cgroup::folder_name(name));
    found.extend(cgroup.exists().then(|| format!("cgroup {}", cgroup.display())));
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the machine's mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    found.extend(points.filter(|point| Path::new(point).starts_with(&folder)).map(|point| format!("mount {point}")));
    found.extend(processes(name)?);
    Ok(found)
}

/// Processes in the lab's cgroup, and its keeper.
fn processes(name: &str) -> Result<Vec<String>> {
    let cgroup = format!("/{}", cgroup::folder_name(name));
    let keeper = format!("keep\0{name}\0");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("read /proc")?.flatten() {
        let process = entry.path();
        let is_in = |line: &str| line.contains(&format!("{cgroup}/")) || line.ends_with(&cgroup);
        let is_its = fs::read_to_string(process.join("cgroup")).is_ok_and(|text| text.lines().any(is_in));
        let keeps = fs::read(process.join("cmdline")).is_ok_and(|words| words.ends_with(keeper.as_bytes()));
        if is_its || keeps {
            let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
            found.push(format!("process {} {}", entry.file_name().to_string_lossy(), command.trim()));
        }
    }
    Ok(found)
}

/// Waits until nothing is there of a lab, since whoever was killed must still be buried. What there is after `patience`.
///
/// # Errors
/// See [`traces`]; somebody asked to stop.
pub fn after(name: &str, patience: Duration) -> Result<Vec<String>> {
    let end = Instant::now() + patience;
    loop {
        let found = traces(name)?;
        if found.is_empty() || Instant::now() > end {
            return Ok(found);
        }
        interrupt::pause(LOOK_AGAIN)?;
    }
}

/// Faults' programs in the kernel, by number; nothing where another lab is up, to which they may belong.
///
/// # Errors
/// The kernel does not tell.
pub fn fault_programs() -> Result<Option<Vec<u32>>> {
    if !lab::all()?.is_empty() {
        return Ok(None);
    }
    let programs = sys::programs_named(FAULT_PROGRAM).context("list BPF programs")?;
    // One that came up meanwhile may have loaded one.
    Ok(lab::all()?.is_empty().then_some(programs))
}
