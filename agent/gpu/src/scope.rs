//! Which processes an agent is for: all of the host's, those of a cgroup, or those of a network namespace.
//!
//! In: a path given by the operator. Out: what the kernel half compares at a process's first call, and the same
//! question answered from /proc for processes that ran before. Several agents of different scopes can stand side by
//! side on one kernel.

use std::io::{Error, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A part of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    #[default]
    Host,
    /// Processes in a cgroup (version 2) and its descendants.
    Cgroup {
        /// Inode number of its folder, which is its id.
        id: u64,
        /// Depth below the root.
        level: u32,
        /// Path below the root, as in /proc/PID/cgroup.
        path: PathBuf,
    },
    /// Processes in a network namespace.
    NetworkNamespace {
        /// Its inode number.
        inode: u32,
    },
}

impl Scope {
    /// The cgroup whose folder is `folder`, which lies in a mounted cgroup2 file system.
    pub fn cgroup(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts
            .lines()
            .filter_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                let mut fields = left.split(' ');
                let (root, at) = (fields.nth(3)?, fields.next()?);
                (right.split(' ').next() == Some("cgroup2")).then_some((Path::new(root), Path::new(at)))
            })
            .filter(|(_, at)| folder.starts_with(at))
            .max_by_key(|(_, at)| at.as_os_str().len());
        let Some((root, at)) = mount else {
            return Err(Error::other(format!("{} is not in a mounted cgroup2 file system", folder.display())));
        };
        let below = folder.strip_prefix(at).map_err(Error::other)?;
        let path = root.join(below);
        let level = path.components().count().saturating_sub(1);
        Ok(Self::Cgroup { id: std::fs::metadata(&folder)?.ino(), level: level as u32, path })
    }

    /// The network namespace that `file` names (`/run/netns/NAME` or `/proc/PID/ns/net`).
    pub fn network_namespace(file: &Path) -> Result<Self> {
        let inode = u32::try_from(std::fs::metadata(file)?.ino()).map_err(Error::other)?;
        Ok(Self::NetworkNamespace { inode })
    }

    /// Whether a running process is in it. A process that is gone is not.
    pub fn contains(&self, pid: u32) -> bool {
        match self {
            Self::Host => true,
            Self::Cgroup { path, .. } => {
                std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| in_cgroup(&text, path))
            }
            Self::NetworkNamespace { inode } => std::fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|namespace| namespace.ino() == u64::from(*inode)),
        }
    }
}

/// Whether the version 2 line of /proc/PID/cgroup lies at or below `path`.
fn in_cgroup(text: &str, path: &Path) -> bool {
    text.lines().filter_map(|line| line.strip_prefix("0::")).any(|own| Path::new(own).starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_holds_itself_and_its_descendants_and_no_namesake() {
        let scope = Path::new("/jobs/a");
        for (text, inside) in [
            ("0::/jobs/a\n", true),
            ("1:cpu:/jobs/a\n0::/jobs/a/step0\n", true),
            ("0::/jobs/ab\n", false),
            ("1:cpu:/jobs/a\n0::/\n", false),
        ] {
            assert_eq!(in_cgroup(text, scope), inside, "{text:?}");
        }
    }

    #[test]
    fn this_process_is_in_its_own_network_namespace_and_on_its_host() {
        let own = Scope::network_namespace(Path::new("/proc/self/ns/net")).expect("/proc is there");
        assert!(own.contains(std::process::id()));
        assert!(!Scope::NetworkNamespace { inode: 1 }.contains(std::process::id()));
        assert!(Scope::Host.contains(std::process::id()));
    }
}
