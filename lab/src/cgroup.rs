//! The cgroup that holds every process of a lab: what is in it ends with it, however often it forked.
//!
//! In: a lab's name. Out: folders of the unified hierarchy, `railwatch-lab-NAME/NODE`. Never: a controller switched on, a
//! process of anybody else.

use anyhow::{Context, Result, ensure};
use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long processes that were killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the unified hierarchy is mounted.
///
/// # Errors
/// It is mounted nowhere, or the kernel is older than 5.14, which cannot kill a cgroup.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, folder, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(folder))
    });
    mount.context("no cgroup2 file system is mounted: mount one at /sys/fs/cgroup/unified")
}

/// Name of the folder of a lab.
#[must_use]
pub fn folder_name(lab: &str) -> String {
    format!("railwatch-lab-{lab}")
}

/// Makes the folders of a lab's nodes.
///
/// # Errors
/// What the kernel refused.
pub fn make<'a>(lab: &str, nodes: impl Iterator<Item = &'a str>) -> Result<()> {
    let folder = root()?.join(folder_name(lab));
    fs::create_dir(&folder).with_context(|| format!("make the cgroup {}", folder.display()))?;
    ensure!(
        folder.join("cgroup.kill").exists(),
        "this kernel cannot kill a cgroup (Linux 5.14 can), and a lab is cleaned up that way"
    );
    for node in nodes {
        fs::create_dir(folder.join(node)).with_context(|| format!("make the cgroup of {node}"))?;
    }
    Ok(())
}

/// Makes the folder of a node that a lab has grown by.
///
/// # Errors
/// What the kernel refused.
pub fn add(lab: &str, node: &str) -> Result<()> {
    fs::create_dir(root()?.join(folder_name(lab)).join(node)).with_context(|| format!("make the cgroup of {node}"))
}

/// Kills everything in a lab's cgroup and removes it. Nothing to do where there is none.
///
/// # Errors
/// A process that does not go, such as one stuck in the kernel.
pub fn remove(lab: &str) -> Result<()> {
    end(&root()?.join(folder_name(lab)))
}

/// As [`remove`], of one node.
///
/// # Errors
/// Likewise.
pub fn remove_node(lab: &str, node: &str) -> Result<()> {
    end(&root()?.join(folder_name(lab)).join(node))
}

fn end(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    // One that is frozen or stopped dies of it too.
    fs::write(folder.join("cgroup.kill"), "1").with_context(|| format!("kill {}", folder.display()))?;
    let end = Instant::now() + PATIENCE;
    loop {
        match remove_tree(folder) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("remove the cgroup {}", folder.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Processes of a node.
///
/// # Errors
/// The node has no cgroup.
pub fn processes(lab: &str, node: &str) -> Result<Vec<i32>> {
    let file = root()?.join(folder_name(lab)).join(node).join("cgroup.procs");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
