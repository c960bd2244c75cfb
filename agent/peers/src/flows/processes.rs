//! Which sockets a process holds, by its file descriptors.
//!
//! In: /proc/PID/fd. Out: inodes of sockets. Never: a descriptor opened or duplicated, more looked at than the bound.

use std::fs;
use std::os::unix::ffi::OsStrExt;

/// Descriptors of one process that are looked at.
pub(super) const FDS_MAX: usize = 16_384;

/// Hands the inode of every socket of a process to `take`; whether there were more descriptors than are looked at. A process
/// that is gone, or that may not be looked at, has none.
pub(super) fn sockets(pid: u32, mut take: impl FnMut(u64)) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    for (looked_at, entry) in entries.flatten().enumerate() {
        if looked_at == FDS_MAX {
            return true;
        }
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        inode(target.as_os_str().as_bytes()).into_iter().for_each(&mut take);
    }
    false
}

/// Of `socket:[4711]`.
fn inode(target: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn sockets_of_a_process_are_told_from_its_files() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = fs::metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino();
        let mut found = Vec::new();
        assert!(!sockets(std::process::id(), |inode| found.push(inode)));
        assert!(found.contains(&wanted), "{wanted} among {found:?}");
        assert!(!sockets(u32::MAX, |inode| panic!("a process that is not there has {inode}")));
        for (target, expected) in [
            ("socket:[4711]", Some(4711)),
            ("socket:[]", None),
            ("socket:[47", None),
            ("pipe:[4711]", None),
            ("/dev/null", None),
        ] {
            assert_eq!(inode(target.as_bytes()), expected, "{target}");
        }
    }
}
