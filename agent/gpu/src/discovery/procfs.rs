//! Reads what /proc says of processes: names, start times, mappings, open accelerator devices, scope.
//!
//! In: process ids. Out: small values; a process that ended meanwhile is `None` or an empty answer, never an error.
//! It never reads a command line or an environment.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::records::{FileId, without_deleted};

/// Executable mappings looked at per process; a large Python job has about 1,500 mappings in all.
const MAPPINGS_MAX: usize = 65_536;
/// Open files looked at per process.
const OPEN_FILES_MAX: usize = 65_536;

/// An executable mapping of a file, as in /proc/PID/maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Which file.
    pub file: FileId,
    /// Its path as the kernel names it, without ` (deleted)`.
    pub path: Vec<u8>,
}

/// Name and start of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name of the program, at most 15 bytes.
    pub comm: String,
    /// Start in ticks of `sysconf(_SC_CLK_TCK)` since boot; together with the pid it names one process.
    pub start_ticks: u64,
}

/// Ids of all processes.
pub fn processes() -> io::Result<Vec<u32>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Name and start time; `None` once it is gone.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name may itself hold spaces and brackets: it ends at the last bracket.
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let fields = str::from_utf8(text.get(close + 1..)?).ok()?;
    Some(Stat {
        comm: String::from_utf8_lossy(text.get(open + 1..close)?).into_owned(),
        // Field 22 of proc_pid_stat(5); the first after the name is field 3.
        start_ticks: fields.split_ascii_whitespace().nth(19)?.parse().ok()?,
    })
}

/// Whether any thread of the process still runs (a leader may be a zombie while its threads train on).
pub fn is_alive(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        let Ok(text) = fs::read(thread.path().join("stat")) else { return false };
        let state = text.iter().rposition(|byte| *byte == b')').and_then(|close| text.get(close + 2));
        !matches!(state, Some(b'Z' | b'X') | None)
    })
}

/// Text of /proc/PID/cgroup; empty once it is gone.
pub fn cgroup(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// Inode of a namespace (`net`, `pid`, ...) of a process.
pub fn namespace(pid: &str, kind: &str) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// Executable file mappings of a process, one per file; empty for kernel threads and once it is gone.
pub fn executable_mappings(pid: u32) -> io::Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{pid}/maps"))?;
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut last = None;
    for mapping in text.split(|byte| *byte == b'\n').filter_map(parse_mapping).take(MAPPINGS_MAX) {
        // Mappings of one file lie side by side, nearly always.
        if last != Some(mapping.file) {
            last = Some(mapping.file);
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

fn parse_mapping(line: &[u8]) -> Option<Mapping> {
    // 7f12-7f34 r-xp 00000000 fe:00 1234    /path with spaces
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let (range, mode) = (str::from_utf8(fields.next()?).ok()?, fields.next()?);
    if *mode.get(2)? != b'x' {
        return None;
    }
    let (_, device) = (fields.next()?, str::from_utf8(fields.next()?).ok()?);
    let inode = str::from_utf8(fields.next()?).ok()?.parse().ok().filter(|inode| *inode != 0)?;
    let path = without_deleted(fields.next()?.trim_ascii_start());
    let ((start, end), (major, minor)) = (range.split_once('-')?, device.split_once(':')?);
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        file: FileId {
            major: u32::from_str_radix(major, 16).ok()?,
            minor: u32::from_str_radix(minor, 16).ok()?,
            inode,
        },
        path: path.to_vec(),
    })
}

/// An open device file through which memory of an accelerator can be held.
pub fn open_accelerator(pid: u32) -> Option<PathBuf> {
    open_device(pid, is_accelerator)
}

/// An open device file that only a program which computes on an accelerator opens. Monitoring tools and desktops open
/// others (/dev/nvidiactl, /dev/dri).
pub fn open_compute_device(pid: u32) -> Option<PathBuf> {
    open_device(pid, |path| is_accelerator(path) && is_compute(path))
}

fn open_device(pid: u32, wanted: fn(&Path) -> bool) -> Option<PathBuf> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .take(OPEN_FILES_MAX)
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .find(|path| wanted(path))
}

fn is_accelerator(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    [&b"/dev/nvidia"[..], b"/dev/kfd", b"/dev/dri/renderD", b"/dev/davinci", b"/dev/dxg"]
        .iter()
        .any(|prefix| path.starts_with(prefix))
}

fn is_compute(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    path == b"/dev/nvidia-uvm" || path == b"/dev/kfd" || path.starts_with(b"/dev/davinci")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_file_mappings_count() {
        let file = FileId { major: 0xfe, minor: 0, inode: 12 };
        let mapping = |path: &[u8]| Some(Mapping { start: 0x7f00, end: 0x8f00, file, path: path.to_vec() });
        let cases: [(&[u8], Option<Mapping>); 7] = [
            (b"7f00-8f00 r-xp 00001000 fe:00 12      /opt/a b/libx.so", mapping(b"/opt/a b/libx.so")),
            (b"7f00-8f00 r-xp 00001000 fe:00 12      /opt/libx.so (deleted)", mapping(b"/opt/libx.so")),
            (b"7f00-8f00 r--p 00001000 fe:00 12      /opt/libx.so", None),
            (b"7f00-8f00 r-xp 00000000 00:00 0       [vdso]", None),
            (b"7f00-8f00 rwxp 00000000 00:00 0 ", None),
            (b"7f00-8f00 r-xp", None),
            (b"", None),
        ];
        for (line, expected) in cases {
            assert_eq!(parse_mapping(line), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_name_with_brackets_and_spaces_is_read_whole() {
        let text = b"42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 98765 1000 200";
        assert_eq!(parse_stat(text), Some(Stat { comm: "a) b (c)".to_owned(), start_ticks: 98765 }));
        assert_eq!(parse_stat(b"42 (gone"), None);
    }

    #[test]
    fn devices_that_hold_memory_are_told_from_those_that_monitor() {
        for (path, accelerator, compute) in [
            ("/dev/nvidia0", true, false),
            ("/dev/nvidiactl", true, false),
            ("/dev/nvidia-uvm", true, true),
            ("/dev/kfd", true, true),
            ("/dev/dri/renderD128", true, false),
            ("/dev/dri/card0", false, false),
            ("/dev/davinci3", true, true),
            ("/dev/davinci_manager", true, true),
            ("/dev/null", false, false),
        ] {
            assert_eq!(is_accelerator(Path::new(path)), accelerator, "{path}");
            assert_eq!(is_accelerator(Path::new(path)) && is_compute(Path::new(path)), compute, "{path}");
        }
    }

    #[test]
    fn this_process_is_found_alive_with_its_program_mapped() {
        let pid = std::process::id();
        assert!(processes().expect("proc").contains(&pid));
        assert!(is_alive(pid) && !is_alive(u32::MAX));
        let program = fs::read_link("/proc/self/exe").expect("exe");
        let mappings = executable_mappings(pid).expect("maps");
        assert!(mappings.iter().any(|mapping| mapping.path == program.as_os_str().as_bytes()));
    }
}
