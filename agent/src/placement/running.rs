//! Whether GPU processes run: source `process.sched`.
//!
//! In: the process table as it is published, `/proc/PID/task/TID/{schedstat,stat}` of these processes, their quotas. Out: how long they
//! waited for a processor, as a series; `process.stopped` and `process.starved`, and the ends of both.
//!
//! Not every thread is read. Of each process the first one is at each look, by `schedstat` alone: where its numbers moved, it runs, and
//! where they did not, its state is read, too. Beside it, once a second, up to [`BUSY_MAX`] threads that use most processor time, and
//! [`HELD_MAX`] that were found waiting in the kernel. Which those are is found by a roll call of all threads, of one process at a look
//! and each [`ROLL_EVERY_NS`]. Bounds: [`PROCESSES_MAX`], [`THREADS_MAX`]. Never: a thread of a process that uses no GPU, but where
//! somebody takes its processor and is to be named.

mod tell;

use super::tasks::Tasks;
use crate::gpu::Who;
use crate::shared::Shared;
use railwatch_placement::sched::{self, SCHEDSTAT_BYTES_MAX, STAT_BYTES_MAX, Schedstat, Stat};
use railwatch_placement::stopped::{Held, Seen};
use railwatch_placement::{starved, stopped};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::KeptFile;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Signal, Source, Unavailable,
};
use railwatch_wire::v1;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tell::Teller;

const SECOND_NS: u64 = 1_000_000_000;
/// Between two roll calls of a process.
const ROLL_EVERY_NS: u64 = 30 * SECOND_NS;
/// Processes that are followed; further ones are left out and counted as faults of the source.
const PROCESSES_MAX: usize = 64;
/// Threads of a process that a roll call looks at.
const THREADS_MAX: usize = 1024;
/// Threads beside the first that are followed because they use most time.
const BUSY_MAX: usize = 3;
/// Threads beside the first that are followed because they were found waiting in the kernel.
const HELD_MAX: usize = 2;
/// A process that uses so much of all processors that it may use keeps its threads waiting by itself.
const OWN_SHARE: f64 = 0.75;
/// Of the time waited, so much must be explained by a quota to be called its doing.
const QUOTA_SHARE: f64 = 0.5;
/// All processes of the host are looked at for who competes once in so long.
const SCAN_EVERY_NS: u64 = 60 * SECOND_NS;
/// So many are named.
const COMPETITORS_MAX: usize = 4;

/// The source.
pub struct RunningSource {
    shared: Arc<Shared>,
    watch: Watch,
    series: BTreeMap<u32, SeriesHandle>,
}

impl RunningSource {
    /// Of the processes that `shared` knows; control groups are below `sysfs`.
    pub fn new(shared: Arc<Shared>, sysfs: &Path) -> Self {
        Self { shared, watch: Watch::new("/proc".into(), sysfs.to_owned()), series: BTreeMap::new() }
    }
}

impl Source for RunningSource {
    fn name(&self) -> &'static str {
        "process.sched"
    }

    fn kernel_path(&self) -> &str {
        "/proc/PID/task/TID/{schedstat,stat}"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange {
            min: Duration::from_millis(100),
            default: Duration::from_millis(250),
            max: Duration::from_secs(2),
        }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        if !self.shared.facts.initial_pid_namespace {
            let why = "the agent runs in a pid namespace of its own and cannot tell whose /proc it reads: give it the host's (hostPID)";
            return Err(Unavailable::new(ErrorReason::Denied, why));
        }
        let own = std::fs::read("/proc/thread-self/schedstat").unwrap_or_default();
        if Schedstat::parse(&own).is_none() {
            let why = "/proc/PID/schedstat tells nothing: the kernel needs CONFIG_SCHED_INFO (CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT)";
            return Err(Unavailable::new(ErrorReason::Missing, why));
        }
        self.watch.follow(monotonic_ns(), &self.shared.gpu().state);
        self.series = self.watch.pids().filter_map(|pid| Some((pid, declare.series(definition(pid))?))).collect();
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let state = self.shared.gpu().state;
        let now_ns = monotonic_ns();
        if self.watch.follow(now_ns, &state) {
            batch.ask_for_probe();
        }
        (0..self.watch.left_out).for_each(|_| batch.fault(ErrorReason::Overrun));
        for signal in self.watch.look(now_ns, &self.shared.tasks) {
            batch.signal(signal);
        }
        let moment = Moment::between(now_ns, monotonic_ns());
        for (pid, waited_ns) in self.watch.waited() {
            if let Some(series) = self.series.get(&pid) {
                batch.counter(*series, waited_ns / 1000, moment);
            }
        }
        Ok(())
    }
}

fn definition(pid: u32) -> SeriesDef {
    // Some threads together, and a late reading.
    let counter = Counter { max_per_s: 2e7, ..Counter::wrapping(64) };
    let entity = Entity { kind: "process", name: pid.to_string() };
    SeriesDef::new("process.cpu.wait", "us", Kind::Counter(counter), entity, [])
}

/// All processes that are followed.
struct Watch {
    proc: PathBuf,
    sysfs: PathBuf,
    processes: BTreeMap<u32, Process>,
    left_out: usize,
    scanned_ns: Option<u64>,
}

/// One of them.
struct Process {
    /// Of its row in the process table: another one is another process.
    started_unix_ns: u64,
    who: Who,
    /// The first thread first, where it is still there.
    threads: Vec<Thread>,
    called_ns: Option<u64>,
    /// Processor time of each thread at the last roll call, ticks.
    ticks: BTreeMap<u32, u64>,
    second_ns: u64,
    waited_ns: u64,
    stopped: stopped::Detector,
    starved: starved::Detector,
    suspicion: Option<Suspicion>,
}

/// A thread that is followed.
struct Thread {
    tid: u32,
    schedstat: KeptFile,
    /// Kept open for the first thread alone, which is asked for it more often.
    stat: Option<KeptFile>,
    last: Schedstat,
    /// At the begin of the second.
    begun: Schedstat,
    held: Option<Held>,
    /// It was found waiting in the kernel, and is let go once it runs.
    is_suspect: bool,
}

/// When a process began to wait more than it used to.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    at_ns: u64,
    ticks: Option<u64>,
    throttled_ns: Option<u64>,
    waited_ns: u64,
}

impl Watch {
    fn new(proc: PathBuf, sysfs: PathBuf) -> Self {
        Self { proc, sysfs, processes: BTreeMap::new(), left_out: 0, scanned_ns: None }
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.keys().copied()
    }

    fn waited(&self) -> impl Iterator<Item = (u32, u64)> {
        self.processes.iter().map(|(pid, process)| (*pid, process.waited_ns))
    }

    /// Follows who is in the table now. Whether that is somebody else than before.
    fn follow(&mut self, now_ns: u64, table: &v1::GpuState) -> bool {
        let live: BTreeMap<u32, &v1::GpuProcess> = table
            .processes
            .iter()
            .filter(|process| process.exited_unix_ns.is_none())
            .map(|process| (process.pid, process))
            .collect();
        let before = self.processes.len();
        self.processes
            .retain(|pid, process| live.get(pid).is_some_and(|row| row.started_unix_ns == process.started_unix_ns));
        let mut is_news = self.processes.len() != before;
        self.left_out = 0;
        for (pid, row) in live {
            if self.processes.contains_key(&pid) {
                continue;
            }
            if self.processes.len() >= PROCESSES_MAX {
                self.left_out += 1;
                continue;
            }
            let who = Who { comm: row.comm.clone(), container: row.container.clone() };
            self.processes.insert(pid, Process::new(&self.proc, pid, row.started_unix_ns, who, now_ns));
            is_news = true;
        }
        is_news
    }

    /// Looks at all of them.
    fn look(&mut self, now_ns: u64, tasks: &Tasks) -> Vec<Signal> {
        let Self { proc, sysfs, processes, scanned_ns, left_out: _ } = self;
        let due = processes.iter_mut().min_by_key(|(_, process)| process.called_ns);
        if let Some((pid, process)) = due
            && process.called_ns.is_none_or(|called_ns| now_ns >= called_ns + ROLL_EVERY_NS)
        {
            process.roll_call(proc, *pid, now_ns);
        }
        let mut signals = Vec::new();
        for (pid, process) in processes.iter_mut() {
            let is_second = now_ns >= process.second_ns + SECOND_NS;
            let seen = process.read(proc, *pid, is_second);
            let stopped = process.stopped.look(now_ns, &seen);
            let starved = is_second.then(|| process.second(proc, sysfs, *pid, now_ns)).flatten();
            if stopped.is_none() && starved.is_none() {
                continue;
            }
            let teller = Teller { pid: *pid, who: &process.who, task: tasks.live(*pid), now_ns };
            signals.extend(stopped.map(|change| teller.stopped(proc, change)));
            signals.extend(starved.map(|(change, Waiting { tid, quota })| {
                let stat = Stat::parse(&std::fs::read(sched::thread_file(proc, *pid, tid, "stat")).unwrap_or_default());
                let may_scan = scanned_ns.is_none_or(|scanned_ns| now_ns >= scanned_ns + SCAN_EVERY_NS);
                let wants_scan = matches!(change, starved::Change::Starved { .. }) && !quota && may_scan;
                let others = stat.as_ref().filter(|_| wants_scan).map(|stat| {
                    *scanned_ns = Some(now_ns);
                    sched::competitors(proc, *pid, stat.processor, COMPETITORS_MAX)
                });
                teller.starved(change, quota, tid, stat.as_ref(), others.as_deref())
            }));
        }
        signals
    }
}

/// The thread that waited most in the last second.
struct Waiting {
    tid: u32,
    /// A quota of its control groups is why.
    quota: bool,
}

impl Process {
    fn new(proc: &Path, pid: u32, started_unix_ns: u64, who: Who, now_ns: u64) -> Self {
        Self {
            started_unix_ns,
            who,
            threads: Thread::open(proc, pid, pid, false).into_iter().collect(),
            called_ns: None,
            ticks: BTreeMap::new(),
            second_ns: now_ns,
            waited_ns: 0,
            stopped: stopped::Detector::default(),
            starved: starved::Detector::default(),
            suspicion: None,
        }
    }

    /// Looks at all threads once, and chooses whom to follow.
    fn roll_call(&mut self, proc: &Path, pid: u32, now_ns: u64) {
        self.called_ns = Some(now_ns);
        let found: Vec<(u32, u8, u64)> = sched::threads(proc, pid, THREADS_MAX)
            .into_iter()
            .filter(|tid| *tid != pid)
            .filter_map(|tid| {
                let stat = Stat::parse(&std::fs::read(sched::thread_file(proc, pid, tid, "stat")).ok()?)?;
                Some((tid, stat.state, stat.ticks))
            })
            .collect();
        let mut busy: Vec<(u64, u32)> = found
            .iter()
            .map(|(tid, _, ticks)| (ticks.saturating_sub(self.ticks.get(tid).copied().unwrap_or(0)), *tid))
            .filter(|(used, _)| *used > 0)
            .collect();
        busy.sort_unstable_by_key(|(used, tid)| (std::cmp::Reverse(*used), *tid));
        busy.truncate(BUSY_MAX);
        self.ticks = found.iter().map(|(tid, _, ticks)| (*tid, *ticks)).collect();
        let held = found.iter().filter(|(_, state, _)| *state == b'D').map(|(tid, ..)| *tid);
        let held: Vec<_> = held.filter(|tid| busy.iter().all(|(_, other)| other != tid)).collect();
        // Who is followed and may be about to be told stays.
        self.threads
            .retain(|thread| thread.tid == pid || thread.is_suspect || busy.iter().any(|(_, tid)| *tid == thread.tid));
        let suspects = self.threads.iter().filter(|thread| thread.is_suspect).count();
        let new = busy.iter().map(|(_, tid)| (*tid, false));
        let new = new.chain(held.into_iter().map(|tid| (tid, true)).take(HELD_MAX.saturating_sub(suspects)));
        for (tid, is_suspect) in new {
            if self.threads.iter().all(|thread| thread.tid != tid) {
                self.threads.extend(Thread::open(proc, pid, tid, is_suspect));
            }
        }
    }

    /// Reads the first thread, and each second the others.
    fn read(&mut self, proc: &Path, pid: u32, is_second: bool) -> Vec<Seen> {
        let mut seen = Vec::with_capacity(self.threads.len());
        self.threads.retain_mut(|thread| {
            let mut has_run = false;
            if is_second || thread.tid == pid {
                // It has ended.
                let Some(now) = thread.schedstat() else { return false };
                has_run = now != thread.last;
                thread.last = now;
                thread.held = if has_run { None } else { thread.held(proc, pid) };
            }
            seen.push(Seen { tid: thread.tid, has_run, held: thread.held });
            !(thread.is_suspect && has_run)
        });
        seen
    }

    /// Ends a second: what was waited in it.
    fn second(&mut self, proc: &Path, sysfs: &Path, pid: u32, now_ns: u64) -> Option<(starved::Change, Waiting)> {
        let over_ns = now_ns.saturating_sub(self.second_ns).max(1);
        self.second_ns = now_ns;
        let mut most = (0, pid);
        for thread in &mut self.threads {
            let waited_ns = thread.last.waited_ns.saturating_sub(thread.begun.waited_ns);
            thread.begun = thread.last;
            self.waited_ns = self.waited_ns.saturating_add(waited_ns);
            most = most.max((waited_ns, thread.tid));
        }
        let (waited_ns, tid) = most;
        #[expect(clippy::cast_precision_loss, reason = "a share of a second")]
        let share = waited_ns as f64 / over_ns as f64;
        let explained = self.suspicion.map(|since| Explained::by(since, proc, sysfs, pid, self.waited_ns, now_ns));
        let is_own = explained.as_ref().is_some_and(|explained| explained.is_own);
        let change = self.starved.second(share, !is_own);
        if !self.starved.is_suspect() {
            self.suspicion = None;
        } else if self.suspicion.is_none() {
            self.suspicion = Some(Suspicion {
                at_ns: now_ns,
                ticks: ticks(proc, pid),
                throttled_ns: sched::throttled_ns(proc, sysfs, pid),
                waited_ns: self.waited_ns,
            });
        }
        let quota = explained.is_some_and(|explained| explained.is_quota);
        change.map(|change| (change, Waiting { tid, quota }))
    }
}

/// What the time since a suspicion says of its cause.
struct Explained {
    /// The process itself uses what it may use: its threads wait for each other.
    is_own: bool,
    is_quota: bool,
}

impl Explained {
    fn by(since: Suspicion, proc: &Path, sysfs: &Path, pid: u32, waited_ns: u64, now_ns: u64) -> Self {
        let grown = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        #[expect(clippy::cast_precision_loss, reason = "for shares")]
        let share = |part_ns: u64, of_ns: u64| part_ns as f64 / of_ns.max(1) as f64;
        let over_ns = now_ns.saturating_sub(since.at_ns);
        let ran_ns = grown(ticks(proc, pid), since.ticks).map(|ticks| ticks.saturating_mul(tick_ns()));
        let may_ns = sched::allowed_processors(proc, pid).map(|count| over_ns.saturating_mul(count.into()));
        let throttled_ns = grown(sched::throttled_ns(proc, sysfs, pid), since.throttled_ns).unwrap_or(0);
        let waited_ns = waited_ns.saturating_sub(since.waited_ns);
        Self {
            is_own: ran_ns.zip(may_ns).is_some_and(|(ran_ns, may_ns)| share(ran_ns, may_ns) >= OWN_SHARE),
            is_quota: throttled_ns > 0 && share(throttled_ns, waited_ns) >= QUOTA_SHARE,
        }
    }
}

/// Processor time of a whole process, ticks.
fn ticks(proc: &Path, pid: u32) -> Option<u64> {
    Stat::parse(&std::fs::read(proc.join(format!("{pid}/stat"))).ok()?).map(|stat| stat.ticks)
}

fn tick_ns() -> u64 {
    let ticks_per_s = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    SECOND_NS / ticks_per_s.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100)
}

impl Thread {
    fn open(proc: &Path, pid: u32, tid: u32, is_suspect: bool) -> Option<Self> {
        let file = |name| KeptFile::open(&sched::thread_file(proc, pid, tid, name)).ok();
        let schedstat = file("schedstat")?;
        let stat = (tid == pid).then(|| file("stat")).flatten();
        let new = Schedstat::default();
        let mut thread = Self { tid, schedstat, stat, last: new, begun: new, held: None, is_suspect };
        thread.last = thread.schedstat()?;
        thread.begun = thread.last;
        Some(thread)
    }

    fn schedstat(&self) -> Option<Schedstat> {
        Schedstat::parse(self.schedstat.attribute(&mut [0; SCHEDSTAT_BYTES_MAX]).ok()?)
    }

    fn held(&self, proc: &Path, pid: u32) -> Option<Held> {
        let state = |text: &[u8]| Stat::parse(text).and_then(|stat| Held::of(stat.state));
        match &self.stat {
            Some(kept) => state(kept.attribute(&mut [0; STAT_BYTES_MAX]).ok()?),
            None => state(&std::fs::read(sched::thread_file(proc, pid, self.tid, "stat")).ok()?),
        }
    }
}

#[cfg(test)]
mod tests;
