//! Every process that uses a GPU, with its job and rank, from its first call until some minutes after its end.
//!
//! In: who was seen ([`Tasks::notice`], [`Tasks::look`]) and who ended ([`Tasks::ended`]). Out: rows, and the signal
//! `process.exit`. What is to be known of a process is read while it lives, without the lock; its end is told from what is known.
//! Bounds: [`LIVE_MAX`] live and [`ENDED_MAX`] ended ones; what goes beyond is counted.

use super::SIGNALS;
use crate::gpu::Who;
use railwatch_abi::event::ExitStatus;
use railwatch_placement::end::{self, Badness};
use railwatch_placement::task::Task;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_wire::limits::TASKS_PER_HOST_MAX;
use railwatch_wire::v1;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const ENDED_MAX: usize = 256;
const LIVE_MAX: usize = TASKS_PER_HOST_MAX - ENDED_MAX;
/// How long an ended process is shown.
const KEEP_ENDED_NS: u64 = 300 * 1_000_000_000;
/// Processes that wait to be read; more are found by the next look.
const NOTICED_MAX: usize = 1024;
/// Times that a process without any allowed variable is read, a second apart: it may not have become its program yet.
const READS_MAX: u32 = 5;
/// Looks at which a process may be missing before it counts as ended: it may have been seen a moment ago.
const MISSES_MAX: u32 = 3;

/// A process as it is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    pub task: Task,
    pub started_unix_ns: u64,
    pub ended: Option<Ended>,
    reads: u32,
    misses: u32,
    /// Start of its row in the process table: another one is another process.
    row_started_unix_ns: u64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub unix_ns: u64,
    /// Nothing is known in it where its end was only found.
    pub status: ExitStatus,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Tasks {
    inner: Mutex<Inner>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<u32, Kept>,
    ended: VecDeque<Kept>,
    noticed: HashSet<u32>,
    left_out: u64,
    is_woken: bool,
}

impl Tasks {
    /// A process made its first call: what is to be known of it is read soon.
    pub fn notice(&self, pid: u32) {
        let mut inner = self.locked();
        if inner.noticed.len() < NOTICED_MAX {
            inner.noticed.insert(pid);
        }
        drop(inner);
        self.wake();
    }

    /// Ends a [`Self::wait`].
    pub fn wake(&self) {
        self.locked().is_woken = true;
        self.news.notify_all();
    }

    /// Waits for a wake, or so long.
    pub fn wait(&self, timeout: Duration) {
        let inner = self.locked();
        let waited = self.news.wait_timeout_while(inner, timeout, |inner| !inner.is_woken);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_woken = false;
    }

    /// Reads below `proc` what is not known yet of processes that were noticed or are in the table.
    pub fn look(&self, proc: &Path, table: &v1::GpuState) {
        let live = table.processes.iter().filter(|process| process.exited_unix_ns.is_none());
        let rows: HashMap<u32, u64> = live.map(|process| (process.pid, process.started_unix_ns)).collect();
        let wanted: Vec<(u32, u64)> = {
            let mut inner = self.locked();
            let noticed: Vec<u32> = inner.noticed.drain().filter(|pid| !rows.contains_key(pid)).collect();
            let all = rows.iter().map(|(pid, started)| (*pid, *started)).chain(noticed.into_iter().map(|pid| (pid, 0)));
            all.filter(|(pid, started)| inner.live.get(pid).is_none_or(|kept| kept.wants_reading(*started))).collect()
        };
        for (pid, started) in wanted {
            let task = Task::read(proc, pid);
            self.locked().take(pid, started, task);
        }
        self.locked().sweep(&rows, unix_ns());
    }

    /// A process ended, at this instant of CLOCK_MONOTONIC. The signal of it; `who` is used where it was not read in time.
    pub fn ended(&self, pid: u32, at_ns: u64, status: ExitStatus, who: Who) -> v1::Signal {
        let (kept, is_known) = {
            let mut inner = self.locked();
            inner.noticed.remove(&pid);
            let unix_ns = unix_ns().saturating_sub(monotonic_ns().saturating_sub(at_ns));
            match inner.live.remove(&pid) {
                Some(kept) => {
                    let kept = Kept { ended: Some(Ended { unix_ns, status }), ..kept };
                    inner.keep_ended(kept.clone());
                    (Some(kept), true)
                }
                None => (None, false),
            }
        };
        if is_known {
            self.wake();
        }
        signal(pid, at_ns, status, kept.map(|kept| kept.task).as_ref(), who)
    }

    /// A live process, where it was read.
    pub fn live(&self, pid: u32) -> Option<Task> {
        self.locked().live.get(&pid).map(|kept| kept.task.clone())
    }

    /// Live ones by pid, then ended ones by their end; and how many there was no room for.
    pub fn rows(&self) -> (Vec<Kept>, u64) {
        let inner = self.locked();
        let mut rows: Vec<_> = inner.live.values().cloned().collect();
        rows.sort_by_key(|kept| kept.task.identity.pid);
        rows.extend(inner.ended.iter().cloned());
        (rows, inner.left_out)
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        // Entries are replaced whole: a panic leaves nothing half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn wants_reading(&self, row_started_unix_ns: u64) -> bool {
        let is_another = row_started_unix_ns != 0 && self.row_started_unix_ns != row_started_unix_ns;
        is_another || (self.task.is_blank() && self.reads < READS_MAX)
    }
}

impl Inner {
    fn take(&mut self, pid: u32, row_started_unix_ns: u64, task: Option<Task>) {
        let Some(task) = task else { return };
        match self.live.get_mut(&pid) {
            Some(kept) if kept.task.identity == task.identity => {
                kept.reads += 1;
                kept.row_started_unix_ns = row_started_unix_ns.max(kept.row_started_unix_ns);
                // What was known once stays: an environment that is gone with its memory says nothing.
                if !task.is_blank() || kept.task.is_blank() {
                    kept.task = task;
                }
                return;
            }
            // Its end was lost, and its number is another's by now.
            Some(_) => self.end(pid, unix_ns()),
            None => {}
        }
        if self.live.len() >= LIVE_MAX {
            self.left_out += 1;
            return;
        }
        let started_unix_ns = started_unix_ns(task.identity.start_ticks);
        self.live.insert(pid, Kept { task, started_unix_ns, ended: None, reads: 1, misses: 0, row_started_unix_ns });
    }

    /// Lets go who is no longer in the table, and who ended long ago.
    fn sweep(&mut self, rows: &HashMap<u32, u64>, now_unix_ns: u64) {
        let mut gone = Vec::new();
        for (pid, kept) in &mut self.live {
            kept.misses = if rows.contains_key(pid) { 0 } else { kept.misses + 1 };
            if kept.misses > MISSES_MAX {
                gone.push(*pid);
            }
        }
        for pid in gone {
            self.end(pid, now_unix_ns);
        }
        let is_old = |kept: &Kept| kept.ended.is_none_or(|end| now_unix_ns.saturating_sub(end.unix_ns) > KEEP_ENDED_NS);
        self.ended.retain(|kept| !is_old(kept));
        self.left_out = if self.live.len() < LIVE_MAX { 0 } else { self.left_out };
    }

    fn end(&mut self, pid: u32, unix_ns: u64) {
        if let Some(kept) = self.live.remove(&pid) {
            self.keep_ended(Kept { ended: Some(Ended { unix_ns, status: ExitStatus::default() }), ..kept });
        }
    }

    fn keep_ended(&mut self, kept: Kept) {
        while self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(kept);
    }
}

/// Attributes, all there are: `comm`, `container`, `pod`, `scheduler`, `job`, `step`, `rank`, `world_size`, `local_rank`,
/// `exit_code`, `signal`, `signal_name`, `core_dumped`, `oom_killed`.
fn signal(pid: u32, at_ns: u64, status: ExitStatus, task: Option<&Task>, who: Who) -> v1::Signal {
    let attributes = [
        ("exit_code", status.exit_code().map(|code| code.to_string())),
        ("signal", status.signal().map(|signal| signal.to_string())),
        ("signal_name", status.signal().map(end::signal_name)),
        ("core_dumped", status.signal().map(|_| status.core_dumped().to_string())),
        ("oom_killed", status.oom_killed().map(|killed| killed.to_string())),
    ];
    let severity = match end::badness(status) {
        Badness::Fine => v1::Severity::Info,
        Badness::Asked => v1::Severity::Warning,
        Badness::Failed => v1::Severity::Error,
    };
    v1::Signal {
        name: SIGNALS[0].into(),
        entity: Some(v1::Entity { kind: "process".into(), name: pid.to_string() }),
        severity: severity.into(),
        observed_mono_ns: at_ns,
        half_width_ns: 0,
        // As a shell says it.
        value: f64::from(
            status.signal().map_or(u32::from(status.exit_code().unwrap_or(0)), |signal| 128 + u32::from(signal)),
        ),
        previous: None,
        unit: "1".into(),
        summary: format!("{} {}", subject(pid, task, &who), end::words(status)),
        attributes: attributes
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .chain(belongs(task, &who))
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        incomplete_since_mono_ns: None,
        suppressed: 0,
    }
}

/// A process in a sentence: "python (pid 7, rank 3 of job 42)".
pub fn subject(pid: u32, task: Option<&Task>, who: &Who) -> String {
    let comm = task.map_or(who.comm.as_str(), |task| &task.comm);
    let comm = if comm.is_empty() { "a process" } else { comm };
    let rank = task.and_then(|task| task.ranks.rank).map(|rank| format!(", rank {rank}")).unwrap_or_default();
    let job = task.map(|task| &task.job).filter(|job| !job.is_empty());
    let job = job.map(|job| format!(" of job {job}")).unwrap_or_default();
    format!("{comm} (pid {pid}{rank}{job})")
}

/// Where a process belongs, as attributes; `who` is used where it was not read.
pub fn belongs(task: Option<&Task>, who: &Who) -> impl Iterator<Item = (&'static str, String)> {
    let comm = task.map_or(&who.comm, |task| &task.comm).clone();
    let container = task.map(|task| task.container.clone().unwrap_or_default());
    let (container, pod) =
        container.map_or((who.container.clone(), None), |container| (container.id, container.pod_uid));
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let ranks = task.map(|task| task.ranks).unwrap_or_default();
    let of_task = |text: fn(&Task) -> &str| task.map(text).filter(|text| !text.is_empty()).map(str::to_owned);
    let attributes = [
        ("comm", Some(comm).filter(|comm| !comm.is_empty())),
        ("container", Some(container).filter(|container| !container.is_empty())),
        ("pod", pod),
        ("scheduler", of_task(|task| task.scheduler)),
        ("job", of_task(|task| &task.job)),
        ("step", of_task(|task| &task.step)),
        ("rank", number(ranks.rank)),
        ("world_size", number(ranks.world_size)),
        ("local_rank", number(ranks.local_rank)),
    ];
    attributes.into_iter().filter_map(|(key, value)| Some((key, value?)))
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// When a process started, by the clocks of now.
fn started_unix_ns(start_ticks: u64) -> u64 {
    let ticks_per_s = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    let ticks_per_s = ticks_per_s.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100);
    let started_boot_ns = start_ticks.saturating_mul(1_000_000_000 / ticks_per_s);
    let boot_ns = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |now| u64::try_from(Duration::from(now).as_nanos()).unwrap_or(0));
    unix_ns().saturating_sub(boot_ns.saturating_sub(started_boot_ns))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn status(code: u64) -> ExitStatus {
        ExitStatus(ExitStatus::CODE | ExitStatus::OOM_KNOWN | code)
    }

    /// A /proc with one process in it.
    fn proc(pid: u32, start_ticks: u64, environ: &str) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        write(proc.path(), pid, start_ticks, environ);
        proc
    }

    fn write(proc: &Path, pid: u32, start_ticks: u64, environ: &str) {
        let folder = proc.join(pid.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let fields = vec!["0"; 18].join(" ");
        std::fs::write(folder.join("stat"), format!("{pid} (python) S {fields} {start_ticks} 0")).unwrap();
        std::fs::write(folder.join("cgroup"), "0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_0\n").unwrap();
        std::fs::write(folder.join("environ"), environ).unwrap();
    }

    fn table(rows: &[(u32, u64)]) -> v1::GpuState {
        let row = |(pid, started): &(u32, u64)| v1::GpuProcess {
            pid: *pid,
            started_unix_ns: *started,
            ..v1::GpuProcess::default()
        };
        v1::GpuState { processes: rows.iter().map(row).collect(), coverage: vec![] }
    }

    #[test]
    fn an_end_is_told_with_rank_and_job_and_stays_in_the_rows() {
        let (tasks, proc) = (Tasks::default(), proc(7, 500, "RANK=3\0WORLD_SIZE=8\0SECRET=x\0"));
        tasks.notice(7);
        tasks.look(proc.path(), &table(&[]));
        let told = tasks.ended(7, monotonic_ns(), status(3 << 8), Who::default());
        assert_eq!(told.summary, "python (pid 7, rank 3 of job 42) exited with code 3");
        assert_eq!((told.severity(), told.value), (v1::Severity::Error, 3.0));
        let mut keys: Vec<_> = told.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        keys.sort();
        assert_eq!(
            keys,
            [
                "comm=python",
                "exit_code=3",
                "job=42",
                "oom_killed=false",
                "rank=3",
                "scheduler=slurm",
                "step=0",
                "world_size=8"
            ]
        );
        let (rows, left_out) = tasks.rows();
        assert_eq!((rows.len(), left_out, rows[0].ended.map(|end| end.status)), (1, 0, Some(status(3 << 8))));
    }

    #[test]
    fn an_end_before_anything_was_read_is_told_by_what_else_is_known() {
        let who = Who { comm: "caller".into(), container: "c0ffee".into() };
        let told = Tasks::default().ended(9, 5, status(11 | 0x80), who);
        assert_eq!(told.summary, "caller (pid 9) was ended by SIGSEGV and dumped core");
        assert_eq!(
            (told.value, told.attributes["signal_name"].as_str(), told.attributes["container"].as_str()),
            (139.0, "SIGSEGV", "c0ffee")
        );
    }

    #[test]
    fn an_environment_that_comes_late_is_read_and_one_that_is_gone_is_kept() {
        let (tasks, proc) = (Tasks::default(), proc(7, 500, ""));
        tasks.look(proc.path(), &table(&[(7, 1)]));
        assert_eq!(tasks.rows().0[0].task.ranks.rank, None);
        write(proc.path(), 7, 500, "RANK=3\0WORLD_SIZE=8\0");
        tasks.look(proc.path(), &table(&[(7, 1)]));
        assert_eq!(tasks.rows().0[0].task.ranks.rank, Some(3));
        write(proc.path(), 7, 500, "");
        tasks.look(proc.path(), &table(&[(7, 2)]));
        assert_eq!(tasks.rows().0[0].task.ranks.rank, Some(3));
    }

    #[test]
    fn a_number_that_another_process_took_and_one_that_is_missed_end_without_a_status() {
        let (tasks, proc) = (Tasks::default(), proc(7, 500, "RANK=3\0"));
        tasks.look(proc.path(), &table(&[(7, 1)]));
        write(proc.path(), 7, 900, "RANK=4\0");
        tasks.look(proc.path(), &table(&[(7, 2)]));
        let ranks = |tasks: &Tasks| {
            tasks.rows().0.iter().map(|kept| (kept.task.ranks.rank, kept.ended.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(ranks(&tasks), [(Some(4), false), (Some(3), true)]);
        for _ in 0..=MISSES_MAX {
            tasks.look(proc.path(), &table(&[]));
        }
        assert_eq!(ranks(&tasks), [(Some(3), true), (Some(4), true)]);
        assert!(tasks.rows().0.iter().all(|kept| kept.ended.is_some_and(|end| end.status == ExitStatus::default())));
    }

    #[test]
    fn a_host_of_endless_processes_meets_a_bound() {
        let (tasks, proc) = (Tasks::default(), tempfile::tempdir().unwrap());
        let count = LIVE_MAX as u32 + 10;
        let rows: Vec<_> = (1..=count).map(|pid| (pid, 1)).collect();
        rows.iter().for_each(|(pid, _)| write(proc.path(), *pid, 1, ""));
        tasks.look(proc.path(), &table(&rows));
        let (kept, left_out) = tasks.rows();
        assert_eq!((kept.len(), left_out), (LIVE_MAX, 10));
        for pid in 1..=count {
            tasks.ended(pid, monotonic_ns(), status(0), Who::default());
        }
        assert_eq!(tasks.rows().0.len(), ENDED_MAX);
    }
}
