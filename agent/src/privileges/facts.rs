//! Reads the facts: capabilities of this process, and what the kernel says of itself.

use caps::{CapSet, Capability, CapsHashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Inode of the first pid namespace (PROC_PID_INIT_INO in include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Below this the maps are not asked for: the kernel would kill the agent rather than refuse them.
const MAPS_MIN_BYTES: u64 = 48 * 1024 * 1024;
/// A v1 limit at or above this is none: the kernel rounds "no limit" down to a page.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// What bears on the agent's abilities.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As `uname -r` says.
    pub kernel_release: String,
    /// Major and minor of it.
    pub kernel: (u32, u32),
    /// As `uname -m` says.
    pub architecture: String,
    /// In the effective set.
    pub capabilities: CapsHashSet,
    /// The kernel describes its types.
    pub btf: bool,
    /// `none`, `integrity` or `confidentiality`; absent where the kernel has no lockdown.
    pub lockdown: Option<String>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i64>,
    /// A bpffs is mounted at its usual place.
    pub bpffs: bool,
    /// `v1`, `v2` or `v1 and v2`.
    pub cgroup: &'static str,
    /// The agent sees the pids that the host's operator sees.
    pub initial_pid_namespace: bool,
    /// The smallest limit on memory above this process.
    pub memory_limit: Option<MemoryLimit>,
}

/// A limit on memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// The file that says so.
    pub source: PathBuf,
}

impl Facts {
    /// Why the limit on memory leaves no room for BPF maps; `None` where there is room.
    pub fn no_room_for_maps(&self) -> Option<String> {
        let limit = self.memory_limit.as_ref().filter(|limit| limit.bytes < MAPS_MIN_BYTES)?;
        Some(format!(
            "the cgroup allows {} MiB ({}), and BPF maps are charged to it: they are not asked for below {} MiB",
            limit.bytes >> 20,
            limit.source.display(),
            MAPS_MIN_BYTES >> 20
        ))
    }

    /// Reads them now. What cannot be read counts as absent.
    pub fn read() -> Self {
        let names = nix::sys::utsname::uname().ok();
        let name = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            names.as_ref().map(|names| of(names).to_string_lossy().into_owned()).unwrap_or_default()
        };
        let kernel_release = name(|names| names.release());
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            kernel: version(&kernel_release),
            kernel_release,
            architecture: name(|names| names.machine()),
            capabilities: caps::read(None, CapSet::Effective).unwrap_or_default(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown").ok().and_then(|text| chosen(&text)),
            perf_event_paranoid: fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
                .ok()
                .and_then(|t| t.trim().parse().ok()),
            bpffs: mounts.lines().any(|line| is_mount(line, "/sys/fs/bpf", "bpf")),
            cgroup: layout(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
            initial_pid_namespace: namespace == Path::new(INITIAL_PID_NAMESPACE),
            memory_limit: memory_limit(&mounts, &fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
        }
    }

    /// Whether the capability is effective.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `none [integrity] confidentiality`: the one in brackets.
fn chosen(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned()))
}

/// A line of mountinfo (proc_pid_mountinfo(5)): field 5 is the mount point, the type follows ` - `.
fn is_mount(line: &str, point: &str, kind: &str) -> bool {
    line.split(' ').nth(4) == Some(point)
        && line.split_once(" - ").is_some_and(|(_, rest)| rest.split(' ').next() == Some(kind))
}

fn layout(own: &str) -> &'static str {
    let unified = own.lines().any(|line| line.starts_with("0::"));
    let legacy = own.lines().any(|line| !line.starts_with("0::"));
    match (unified, legacy) {
        (true, false) => "v2",
        (false, true) => "v1",
        (true, true) => "v1 and v2",
        (false, false) => "none",
    }
}

/// The smallest limit from this process's group up to the root, in whichever hierarchy accounts memory.
fn memory_limit(mounts: &str, own: &str) -> Option<MemoryLimit> {
    let path_of = |wanted: fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            wanted(fields.next()?).then(|| fields.next()).flatten()
        })
    };
    let mount_of = |wanted: &dyn Fn(&str) -> bool| {
        mounts.lines().filter(|line| wanted(line)).find_map(|line| {
            let mut fields = line.split(' ').skip(3);
            Some((fields.next()?, fields.next()?))
        })
    };
    let is_v1 = |line: &str| {
        line.split_once(" - cgroup ").is_some_and(|(_, rest)| rest.split([' ', ',']).any(|option| option == "memory"))
    };
    let (group, mount, file) = match path_of(|controllers| controllers.split(',').any(|name| name == "memory")) {
        Some(group) => (group, mount_of(&is_v1)?, "memory.limit_in_bytes"),
        None => (path_of(str::is_empty)?, mount_of(&|line| line.contains(" - cgroup2 "))?, "memory.max"),
    };
    let (root, point) = mount;
    // Inside a container the mount shows the container's own group as its root.
    let below = group.strip_prefix(root).unwrap_or(group).trim_start_matches('/');
    let mut directory = Path::new(point).join(below);
    let mut smallest: Option<MemoryLimit> = None;
    loop {
        let source = directory.join(file);
        let bytes = fs::read_to_string(&source).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(bytes) = bytes.filter(|bytes| *bytes < NO_LIMIT_BYTES)
            && smallest.as_ref().is_none_or(|found| bytes < found.bytes)
        {
            smallest = Some(MemoryLimit { bytes, source });
        }
        if directory == Path::new(point) || !directory.pop() {
            return smallest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read_as_it_writes_it() {
        for (release, expected) in
            [("6.18.44-fc-v669", (6, 18)), ("6.1.0-32-amd64", (6, 1)), ("5.10", (5, 10)), ("", (0, 0))]
        {
            assert_eq!(version(release), expected, "{release}");
        }
        assert_eq!(chosen("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(layout("0::/x"), "v2");
        assert_eq!(layout("4:memory:/x\n0::/"), "v1 and v2");
        assert!(is_mount("33 27 0:29 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700", "/sys/fs/bpf", "bpf"));
        assert!(!is_mount("33 27 0:29 / /sys/fs/bpf rw - tmpfs tmpfs rw", "/sys/fs/bpf", "bpf"));
    }

    #[test]
    fn the_smallest_memory_limit_up_the_tree_counts_in_both_layouts() {
        let home = tempfile::tempdir().expect("temporary directory");
        let point = home.path().display();
        let inner = home.path().join("system/agent");
        fs::create_dir_all(&inner).expect("directories");
        for (mounts, own, file, root_value) in [
            (
                format!("1 0 0:1 / {point} rw - cgroup cgroup rw,memory"),
                "4:memory:/system/agent\n0::/",
                "memory.limit_in_bytes",
                "9223372036854771712",
            ),
            (format!("1 0 0:1 / {point} rw - cgroup2 cgroup2 rw"), "0::/system/agent", "memory.max", "max"),
        ] {
            fs::write(home.path().join(file), root_value).expect("write");
            fs::write(home.path().join("system").join(file), "100000000\n").expect("write");
            fs::write(inner.join(file), "200000000\n").expect("write");
            let limit = memory_limit(&mounts, own).expect("a limit");
            assert_eq!(limit, MemoryLimit { bytes: 100_000_000, source: home.path().join("system").join(file) });
        }
        assert_eq!(memory_limit("", ""), None);
    }
}
