//! What the scheduler says of a process's threads, as /proc has it.
//!
//! In: `/proc/PID/task/TID/{stat,schedstat}`, `/proc/PID/{stat,status,cgroup}`, the `cpu.stat` of its control groups. Out: numbers. How
//! long a thread ran, how long it waited for a processor, and how often it was given one is `schedstat`
//! (Documentation/scheduler/sched-stats.rst); all three stand still exactly while a thread does not run. Never: a command line, a
//! number made up where a field is missing.

use std::fs;
use std::path::{Path, PathBuf};

/// Text of a `stat` fits; the longest has 52 fields of up to 20 digits.
pub const STAT_BYTES_MAX: usize = 1536;
/// Text of a `schedstat` fits: three numbers.
pub const SCHEDSTAT_BYTES_MAX: usize = 96;
/// Control groups from a process's own upwards whose quota is looked at.
const CGROUPS_MAX: usize = 8;
/// Processes that are looked at for who competes.
const COMPETITORS_LOOKED_AT_MAX: usize = 32_768;

/// A part of proc_pid_stat(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Name of the thread, at most 15 bytes.
    pub comm: String,
    /// Field 3: `R`, `S`, `D`, `T`, `t`, ...
    pub state: u8,
    /// Fields 14 and 15, added: processor time, clock ticks.
    pub ticks: u64,
    /// Field 22: start, clock ticks since boot.
    pub start_ticks: u64,
    /// Field 39: the processor that it last ran on.
    pub processor: u32,
}

impl Stat {
    /// From the text of the file.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        // The name may itself hold spaces and brackets: it ends at the last bracket.
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let mut number = |skip: usize| fields.nth(skip)?.parse::<u64>().ok();
        let (user, system) = (number(10)?, number(0)?);
        let (start_ticks, processor) = (number(6)?, number(16)?);
        Some(Self {
            comm: String::from_utf8_lossy(text.get(open + 1..close)?).into_owned(),
            state,
            ticks: user.saturating_add(system),
            start_ticks,
            processor: u32::try_from(processor).ok()?,
        })
    }
}

/// `schedstat` of a thread. Each only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedstat {
    /// Time on a processor, ns.
    pub ran_ns: u64,
    /// Time in which it could have run and waited for a processor, ns; that of a quota of its control group included.
    pub waited_ns: u64,
    /// Times that it was given a processor.
    pub slices: u64,
}

impl Schedstat {
    /// From the text of the file. A kernel without CONFIG_SCHED_INFO writes zeros: no thread that lives has never run.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = str::from_utf8(text).ok()?.split_ascii_whitespace().map(str::parse::<u64>);
        let mut next = || fields.next()?.ok();
        let found = Self { ran_ns: next()?, waited_ns: next()?, slices: next()? };
        (found != Self::default()).then_some(found)
    }
}

/// Below `proc`, a thread's file.
#[must_use]
pub fn thread_file(proc: &Path, pid: u32, tid: u32, name: &str) -> PathBuf {
    proc.join(format!("{pid}/task/{tid}/{name}"))
}

/// Numbers of a process's threads, at most `max`; none where it is gone.
#[must_use]
pub fn threads(proc: &Path, pid: u32, max: usize) -> Vec<u32> {
    let entries = fs::read_dir(proc.join(format!("{pid}/task"))).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).take(max).collect()
}

/// Who traces a process: number and name.
#[must_use]
pub fn tracer(proc: &Path, pid: u32) -> Option<(u32, String)> {
    let text = fs::read_to_string(proc.join(format!("{pid}/status"))).ok()?;
    let tracer: u32 = line(&text, "TracerPid:")?.parse().ok().filter(|tracer| *tracer != 0)?;
    let comm = fs::read_to_string(proc.join(format!("{tracer}/comm"))).unwrap_or_default();
    Some((tracer, comm.trim_end().to_owned()))
}

/// How many processors a process's first thread may run on.
#[must_use]
pub fn allowed_processors(proc: &Path, pid: u32) -> Option<u32> {
    let text = fs::read_to_string(proc.join(format!("{pid}/status"))).ok()?;
    let mask = line(&text, "Cpus_allowed:")?;
    mask.chars().filter(|digit| *digit != ',').map(|digit| Some(digit.to_digit(16)?.count_ones())).sum()
}

fn line<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// Where in the kernel a thread waits: a function's name. Told to who may trace it.
#[must_use]
pub fn wait_channel(proc: &Path, pid: u32, tid: u32) -> Option<String> {
    let text = fs::read_to_string(thread_file(proc, pid, tid, "wchan")).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty() && name != "0")
}

/// Time for which quotas of the control groups that a process is in have kept it, or others of them, from running, ns: the largest
/// of its own group and those above. `None` where none has a quota.
#[must_use]
pub fn throttled_ns(proc: &Path, sysfs: &Path, pid: u32) -> Option<u64> {
    let text = fs::read_to_string(proc.join(format!("{pid}/cgroup"))).ok()?;
    let root = sysfs.join("fs/cgroup");
    let mut most = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let mount = match controllers {
            "" => root.clone(),
            v1 if v1.split(',').any(|name| name == "cpu") => root.join("cpu"),
            _ => continue,
        };
        let own = Path::new(path.trim_start_matches('/'));
        for folder in own.ancestors().take(CGROUPS_MAX) {
            let stat = fs::read_to_string(mount.join(folder).join("cpu.stat")).unwrap_or_default();
            most = most.max(throttled_of(&stat));
        }
    }
    most
}

/// `throttled_usec` of cgroup v2, `throttled_time` (ns) of v1; only where a period of a quota has passed.
fn throttled_of(cpu_stat: &str) -> Option<u64> {
    let number = |key: &str| {
        let value = cpu_stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        value.trim().parse::<u64>().ok()
    };
    number("nr_periods").filter(|periods| *periods > 0)?;
    number("throttled_usec").map(|us| us.saturating_mul(1000)).or_else(|| number("throttled_time"))
}

/// Someone who could run, or runs, on a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Competitor {
    /// Its process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}

/// Other processes whose first thread runs or waits to run on this processor now: at most `max`. One look at all of /proc: some
/// microseconds for each process of the host.
#[must_use]
pub fn competitors(proc: &Path, own: u32, processor: u32, max: usize) -> Vec<Competitor> {
    let entries = fs::read_dir(proc).into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<_> = pids
        .take(COMPETITORS_LOOKED_AT_MAX)
        .filter(|pid| *pid != own && *pid != std::process::id())
        .filter_map(|pid| {
            let stat = Stat::parse(&fs::read(proc.join(format!("{pid}/stat"))).ok()?)?;
            (stat.state == b'R' && stat.processor == processor).then_some((stat.ticks, pid, stat.comm))
        })
        .collect();
    // Who has used most is most likely to be it.
    found.sort_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
    found.into_iter().take(max).map(|(_, pid, comm)| Competitor { pid, comm }).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn a_stat_is_read_by_its_fields_whatever_the_name() {
        let mut fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        fields[0] = "D".to_owned();
        let text = format!("17 (a) (b c) {}", fields.join(" "));
        let expected = Stat { comm: "a) (b c".to_owned(), state: b'D', ticks: 14 + 15, start_ticks: 22, processor: 39 };
        assert_eq!(Stat::parse(text.as_bytes()), Some(expected));
        for cut in ["17 (x", "17 (x) S 1 2", ""] {
            assert_eq!(Stat::parse(cut.as_bytes()), None, "{cut}");
        }
    }

    #[test]
    fn a_schedstat_of_zeros_is_none() {
        for (text, expected) in [
            ("5 6 7\n", Some(Schedstat { ran_ns: 5, waited_ns: 6, slices: 7 })),
            ("0 0 0\n", None),
            ("5 6\n", None),
            ("", None),
        ] {
            assert_eq!(Schedstat::parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn this_process_is_read_and_its_threads_found() {
        let (proc, own) = (Path::new("/proc"), std::process::id());
        let stat = Stat::parse(&fs::read(thread_file(proc, own, own, "stat")).unwrap()).unwrap();
        assert!(stat.start_ticks > 0 && b"RSD".contains(&stat.state), "{stat:?}");
        assert!(Schedstat::parse(&fs::read(thread_file(proc, own, own, "schedstat")).unwrap()).is_some());
        assert!(threads(proc, own, 4096).contains(&own));
        assert!(allowed_processors(proc, own).is_some_and(|count| count >= 1));
        assert_eq!(tracer(proc, own), None);
        assert_eq!(threads(proc, u32::MAX, 4096), []);
    }

    #[test]
    fn a_quota_counts_at_any_group_above_and_only_where_there_is_one() {
        let (proc, sysfs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let group = |path: &str| sysfs.path().join("fs/cgroup").join(path).join("cpu.stat");
        write(proc.path().join("7/cgroup"), "0::/pods/pod1/box\n");
        write(proc.path().join("8/cgroup"), "12:cpuset:/other\n4:cpu,cpuacct:/jobs/42\n0::/\n");
        assert_eq!(throttled_ns(proc.path(), sysfs.path(), 7), None);
        write(group("pods/pod1/box"), "usage_usec 1\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n");
        assert_eq!(throttled_ns(proc.path(), sysfs.path(), 7), None, "no quota has had a period");
        write(group("pods/pod1"), "usage_usec 1\nnr_periods 9\nnr_throttled 3\nthrottled_usec 250\n");
        assert_eq!(throttled_ns(proc.path(), sysfs.path(), 7), Some(250_000));
        write(group("cpu/jobs/42"), "nr_periods 9\nnr_throttled 3\nthrottled_time 77\n");
        assert_eq!(throttled_ns(proc.path(), sysfs.path(), 8), Some(77));
        assert_eq!(throttled_ns(proc.path(), sysfs.path(), 9), None);
    }

    #[test]
    fn who_competes_is_who_could_run_on_that_processor() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, state, ticks, processor) in
            [(1, "S", 900, 3), (2, "R", 10, 3), (3, "R", 500, 3), (4, "R", 800, 2), (5, "R", 700, 3)]
        {
            let mut fields = vec!["0".to_owned(); 50];
            (fields[0], fields[11], fields[36]) = (state.to_owned(), ticks.to_string(), processor.to_string());
            fs::create_dir(proc.path().join(pid.to_string())).unwrap();
            fs::write(proc.path().join(format!("{pid}/stat")), format!("{pid} (p{pid}) {}", fields.join(" "))).unwrap();
        }
        fs::create_dir(proc.path().join("irq")).unwrap();
        let found = competitors(proc.path(), 5, 3, 8);
        assert_eq!(found.iter().map(|one| one.comm.as_str()).collect::<Vec<_>>(), ["p3", "p2"]);
        assert_eq!(competitors(proc.path(), 5, 3, 1).len(), 1);
    }
}
