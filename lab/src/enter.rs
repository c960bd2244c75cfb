//! Starts a program as one of a node: in its network namespace and cgroup, under its host name, with its own `/run`.
//!
//! In: a lab, a node, a command. Out: the command, prepared. Never: a mount or a host name that anybody outside sees.
//!
//! Each program gets a mount namespace of its own, in which the node's folders stand for `/run`, `/etc/hosts`, `/etc/passwd`
//! and `/etc/group`: FRR and lldpd find their sockets, users and host names where they look for them, on a machine that has
//! neither installed.

use crate::cgroup;
use crate::lab::Lab;
use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd,
};
use std::{
    ffi::CString,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::Command,
    thread,
};

/// Files and folders of a node that stand for the machine's.
const OVERLAID: [(&str, &str); 4] =
    [("run", "/run"), ("hosts", "/etc/hosts"), ("passwd", "/etc/passwd"), ("group", "/etc/group")];

/// Whose session the program is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Its own: it outlives the terminal.
    Own,
    /// The caller's: it may use the terminal.
    Callers,
}

/// Makes `command` one of `node`'s when it is started.
///
/// # Errors
/// The node does not exist.
pub fn enter(lab: &Lab, node: &str, session: Session, command: &mut Command) -> Result<()> {
    let namespace = open(&lab.namespace_path(node))?;
    let procs = procs(lab, node)?;
    let folder = lab.node_folder(node);
    let mut overlaid = Vec::new();
    for (from, to) in OVERLAID {
        overlaid.push((text(&folder.join(from))?, text(Path::new(to))?));
    }
    let name = node.to_owned();
    // SAFETY: between fork and exec only system calls are made, on arguments that were prepared before.
    unsafe {
        command.pre_exec(move || {
            unistd::write(&procs, b"0\n")?;
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
            unistd::sethostname(&name)?;
            // A terminal's hang-up is not for what goes on after its command has ended.
            if session == Session::Own {
                unistd::setsid()?;
            }
            let none = None::<&std::ffi::CStr>;
            mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
            for (from, to) in &overlaid {
                mount(Some(from.as_c_str()), to.as_c_str(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            }
            Ok(())
        });
    }
    Ok(())
}

/// Makes `command` one of `node`'s cgroup alone, in a session of its own.
///
/// # Errors
/// The node does not exist.
pub fn join(lab: &Lab, node: &str, command: &mut Command) -> Result<()> {
    let procs = procs(lab, node)?;
    // SAFETY: as below.
    unsafe {
        command.pre_exec(move || {
            unistd::write(&procs, b"0\n")?;
            Ok(unistd::setsid().map(drop)?)
        });
    }
    Ok(())
}

fn procs(lab: &Lab, node: &str) -> Result<File> {
    let path = cgroup::root()?.join(cgroup::folder_name(&lab.name)).join(node).join("cgroup.procs");
    File::options().write(true).open(&path).with_context(|| format!("open {}", path.display()))
}

/// Runs `work` on a thread of its own inside a node's network namespace; sockets that it opens stay there.
///
/// # Errors
/// The node does not exist, or what `work` says.
pub fn inside<T: Send>(lab: &Lab, node: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = open(&lab.namespace_path(node))?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter the namespace of {node}"))?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Mounts a file system of a kind at a folder, where nobody but the calling thread sees it.
///
/// # Errors
/// What the kernel refused.
pub fn mount_privately(kind: &str, at: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("leave the machine's mounts")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("leave the machine's mounts")?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), none)
        .with_context(|| format!("mount {kind} at {}", at.display()))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("open {}: is the lab up?", path.display()))
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
