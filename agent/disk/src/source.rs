//! Request times as a source of readings, and the signals of disks that become slow.
//!
//! In: the kernel half's counts; each second. Out: quantiles of what ended since the last reading, counts of errors, what is in
//! flight; every five seconds a judgement of each disk against itself ([`crate::baseline`]). A second without requests has no
//! quantile: nothing is shown, and not zero. Where timing all would cost too much ([`crate::budget`]), quantiles, counts and
//! errors are those of the timed requests, and the disk's own counts say how many were not timed; what is in flight and
//! whether anything ends is then taken from the disk's own counts ([`crate::own`]). Never: more disks than the bound, or one judged by another's past.

use crate::baseline::{Baseline, Change, REQUESTS_MIN, Window};
use crate::budget::{Controller, Step, cost_ns};
use crate::histogram::Histogram;
use crate::kernel::{Books, DiskKernel, disk_name};
use crate::own::{self, Own};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use railwatch_abi::disk::{DISCARD, DiskKey, FLUSH, GPU, KERNEL, OTHER, READ, Requests, Started, WRITE};
use railwatch_gpu::kernel::LoadError;
use railwatch_gpu::kernel::offsets::Types;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, Rule, SeriesDef, SeriesHandle,
    SeriesId, Severity, Signal, Source, Unavailable, When,
};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

/// Says which processes hold a GPU now.
pub type GpuProcesses = Box<dyn Fn() -> BTreeSet<u32> + Send>;

/// Signals that this source raises by itself.
pub const SIGNALS: [&str; 2] = ["disk.latency.high", "disk.latency.normal"];

/// Rules on its series.
pub const RULES: &[Rule] = &[Rule {
    series: "disk.errors",
    what: "failed requests",
    severity: Severity::Error,
    when: When::Moves { raised: "disk.errors", saturated: "disk.errors" },
}];

/// Pairs of disk and operation; more are passed over, counted.
const LINES_MAX: usize = 128;
/// Time over which a disk is judged.
const STRETCH_NS: u64 = 5_000_000_000;
/// Below it nobody notices, microseconds: a disk without moving parts, and one with them.
const FLOOR_US: f64 = 10_000.0;
const FLOOR_ROTATING_US: f64 = 100_000.0;
/// Nothing ended for as long, with requests in flight: it is stuck.
const STUCK_NS: u64 = STRETCH_NS;
/// What is timed.
const ALL: &str = "tracepoints block:block_rq_issue and block:block_rq_complete";
const SLICES: &str = "tracepoints block:block_rq_issue and block:block_rq_complete, attached in slices of up to 1.5 s: \
                      to time every request would cost more than 0.2 % of a core";
const QUANTILES: [(u64, &str); 2] = [(500, "0.5"), (990, "0.99")];

/// One operation of one disk.
struct Line {
    disk: String,
    operation: u32,
    /// By issuer.
    last: [Requests; 3],
    /// Begun in a slice whose end was not waited for.
    left: u64,
    /// By the disk's own counts: ended since the programs were loaded, and up to the last judgement.
    all: u64,
    judged_all: u64,
    not_timed: u64,
    /// By the disk's own word, once not every request was timed.
    own_in_flight: Option<u64>,
    stretch: Histogram,
    /// Requests that had ended when last one did, and when that was; with none in flight, now.
    progress: (u64, u64),
    floor_us: f64,
    /// By the disk's own counts, at the last reading in which some ended.
    was_slow: bool,
    baseline: Baseline,
    handles: Option<Handles>,
}

struct Handles {
    /// Of all, and of GPU processes: the quantiles and the longest.
    times: [[Option<SeriesHandle>; 3]; 2],
    judged: SeriesId,
    errors: Option<SeriesHandle>,
    in_flight: Option<SeriesHandle>,
    completed: [Option<SeriesHandle>; 3],
    not_timed: Option<SeriesHandle>,
    /// Counters were given their beginning, 0.
    is_based: bool,
}

impl Line {
    fn sum(&self, of: impl Fn(&Requests) -> u64) -> u64 {
        self.last.iter().map(of).sum()
    }

    fn completed(&self) -> u64 {
        self.sum(|requests| requests.completed)
    }

    fn in_flight(&self) -> u64 {
        let own = || self.sum(|requests| requests.issued).saturating_sub(self.completed() + self.left);
        self.own_in_flight.unwrap_or_else(own)
    }

    /// Of all that ended, those that were not timed. All are read before the timed, so that none counts as both.
    fn count_not_timed(&mut self) {
        self.not_timed = self.not_timed.max(self.all.saturating_sub(self.completed()));
    }

    /// Notes whether requests end.
    fn note_progress(&mut self, now_ns: u64) {
        let completed = if self.own_in_flight.is_some() { self.all } else { self.completed() };
        if completed != self.progress.0 || self.in_flight() == 0 {
            self.progress = (completed, now_ns);
        }
    }

    fn is_stuck(&self, now_ns: u64) -> bool {
        self.in_flight() > 0 && now_ns.saturating_sub(self.progress.1) >= STUCK_NS
    }

    /// What is judged, and of how many requests. Where not all were timed, too few timed are no idle disk and no judgement: what
    /// there is waits for more.
    fn take_stretch(&mut self, was_off: bool, is_stuck: bool) -> Option<(Histogram, u64)> {
        let (timed, all) = (self.stretch.count(), self.all.saturating_sub(self.judged_all));
        let is_too_few = was_off && timed < REQUESTS_MIN;
        if is_too_few && all >= REQUESTS_MIN && !is_stuck {
            return None;
        }
        self.judged_all = self.all;
        Some((std::mem::take(&mut self.stretch), if is_too_few { timed.max(all) } else { timed }))
    }

    fn declare(&self, declare: &mut Declare<'_>) -> Handles {
        let direction = operation_name(self.operation);
        let entity = Entity { kind: "disk", name: self.disk.clone() };
        let mut series = |name, unit, kind, labels: &[(&'static str, &str)]| {
            let labels = labels.iter().map(|(key, value)| (*key, (*value).to_owned()));
            let labels = labels.chain([("disk.io.direction", direction.to_owned())]);
            let def = SeriesDef::new(name, unit, kind, entity.clone(), labels);
            (def.id(), declare.series(def))
        };
        let mut times = |issuer| {
            QUANTILES
                .iter()
                .map(|(_, name)| *name)
                .chain(["1"])
                .map(|quantile| {
                    series("disk.operation.latency", "us", Kind::Gauge, &[("quantile", quantile), ("issuer", issuer)])
                })
                .collect::<Vec<_>>()
        };
        let (all, gpu) = (times("any"), times("gpu"));
        let handles = |of: &[(SeriesId, Option<SeriesHandle>)]| [of[0].1, of[1].1, of[2].1];
        let counter = Kind::Counter(Counter::wrapping(64));
        Handles {
            times: [handles(&all), handles(&gpu)],
            judged: all[1].0,
            errors: series("disk.errors", "{error}", counter, &[]).1,
            in_flight: series("disk.operation.in_flight", "{operation}", Kind::Gauge, &[]).1,
            completed: [GPU, OTHER, KERNEL].map(|issuer| {
                series("disk.operation.completed", "{operation}", counter, &[("issuer", issuer_name(issuer))]).1
            }),
            not_timed: series("disk.operation.not_timed", "{operation}", counter, &[]).1,
            is_based: false,
        }
    }
}

fn operation_name(operation: u32) -> &'static str {
    match operation {
        READ => "read",
        WRITE => "write",
        FLUSH => "flush",
        DISCARD => "discard",
        _ => "unknown",
    }
}

fn issuer_name(issuer: u32) -> &'static str {
    match issuer {
        GPU => "gpu",
        KERNEL => "kernel",
        _ => "other",
    }
}

/// The source `disk.latency`.
pub struct DiskLatencySource {
    sysfs: PathBuf,
    types: Types,
    gpu_processes: GpuProcesses,
    kernel: Option<DiskKernel>,
    duty: Option<Duty>,
    own: HashMap<String, Own>,
    lines: Vec<Line>,
    by_key: HashMap<(String, u32), usize>,
    /// What the books said when the maps were read last, and whether a timed request was in flight then.
    read: Option<(Books, bool)>,
    stretch_began_ns: u64,
}

/// What keeps the loaded programs within their budget.
struct Duty {
    controller: Controller,
    timer: TimerFd,
    detached_ns: u64,
    /// Not every request was timed: ever, and since the last judgement.
    was_off: bool,
    was_off_in_stretch: bool,
}

impl Duty {
    fn new() -> Result<Self, Errno> {
        Ok(Self {
            controller: Controller::new(monotonic_ns()),
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?,
            detached_ns: 0,
            was_off: false,
            was_off_in_stretch: false,
        })
    }
}

impl DiskLatencySource {
    /// A source that learns from `gpu_processes` whose requests to tell apart. Nothing is loaded before the first probe.
    #[must_use]
    pub fn new(sysfs: PathBuf, gpu_processes: GpuProcesses) -> Self {
        Self {
            sysfs,
            types: Types::default(),
            gpu_processes,
            kernel: None,
            duty: None,
            own: HashMap::new(),
            lines: Vec::new(),
            by_key: HashMap::new(),
            read: None,
            stretch_began_ns: 0,
        }
    }

    /// The same, by types of the running kernel that others read too.
    #[must_use]
    pub fn with_types(self, types: Types) -> Self {
        Self { types, ..self }
    }

    fn load(&mut self) -> Result<DiskKernel, Unavailable> {
        // Let go of in any case: they are some megabytes.
        let types = std::mem::take(&mut self.types);
        DiskKernel::load_by(&types).map_err(|error| {
            let reason = match &error {
                LoadError::Capability { .. } | LoadError::Lockdown => ErrorReason::Denied,
                LoadError::Tracepoint { .. } => ErrorReason::Missing,
                LoadError::Map { source, .. } | LoadError::Program { source, .. } => source.into(),
                LoadError::Object { .. } | LoadError::Ring(_) => ErrorReason::NotAvailable,
            };
            Unavailable::new(reason, error)
        })
    }

    /// What disks have counted before anything is timed.
    fn own_from_now(&self) -> HashMap<String, Own> {
        let Ok(entries) = std::fs::read_dir(self.sysfs.join("block")) else { return HashMap::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().replace('!', "/"));
        names.map(|disk| (disk.clone(), Own::from_now(&self.folder(&disk)))).collect()
    }

    /// Attaches or takes off what the budget asks for, and sets the timer for the next look.
    fn keep_budget(&mut self, kernel: &mut DiskKernel, batch: &mut Batch) -> io::Result<()> {
        let Some(mut duty) = self.duty.take() else { return Ok(()) };
        let was_always = duty.controller.is_always();
        let done = self.keep_budget_by(&mut duty, kernel);
        if duty.controller.is_always() != was_always {
            // The reason is told with the probe.
            batch.ask_for_probe();
        }
        if !duty.controller.is_always() || !was_always {
            (duty.was_off, duty.was_off_in_stretch) = (true, true);
        }
        let wake_ns = duty.controller.wake_ns().max(1);
        let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(wake_ns)));
        let armed = duty.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        self.duty = Some(duty);
        done.and(armed.map_err(Into::into))
    }

    fn keep_budget_by(&mut self, duty: &mut Duty, kernel: &mut DiskKernel) -> io::Result<()> {
        loop {
            let books = kernel.books_without_missed()?;
            let mut in_flight = 0;
            if duty.controller.is_draining() {
                kernel.in_flight(|_| in_flight += 1)?;
            }
            match duty.controller.next(monotonic_ns(), cost_ns(books.seen, books.unmatched), in_flight) {
                Step::Stay => return Ok(()),
                Step::Attach => kernel.attach().map_err(io::Error::other)?,
                Step::StopIssues => kernel.stop_issues(),
                Step::Detach => {
                    kernel.detach();
                    duty.detached_ns = monotonic_ns();
                }
                Step::Clear => {
                    for started in kernel.clear()? {
                        self.leave(&started, duty.detached_ns);
                    }
                }
            }
        }
    }

    /// A timed request whose end will not be seen: it took at least so long, for the judgement of its disk.
    fn leave(&mut self, started: &Started, detached_ns: u64) {
        if let Some(index) = self.line(&started.key, detached_ns) {
            let line = &mut self.lines[index];
            line.left += 1;
            line.stretch.note(detached_ns.saturating_sub(started.at_ns));
        }
    }

    /// Between slices, a disk whose own counts say that its requests begin to take long has the next slice come sooner.
    fn note_suspicion(&mut self, now_ns: u64) {
        let Some(duty) = self.duty.as_mut().filter(|duty| !duty.controller.is_always()) else { return };
        let mut is_new = false;
        for line in self.lines.iter_mut().filter(|line| line.operation != DISCARD) {
            let mean_us = self.own.get(&line.disk).and_then(|own| own.mean_us(line.operation));
            let is_slow = mean_us.is_some_and(|us| us >= line.floor_us);
            is_new |= is_slow && !std::mem::replace(&mut line.was_slow, is_slow);
            line.was_slow = is_slow;
        }
        if is_new {
            duty.controller.suspect(now_ns);
        }
    }

    /// Reads the disks' own counts, those of each disk once.
    fn read_own(&mut self) {
        let was_off = self.duty.as_ref().is_some_and(|duty| duty.was_off);
        let disks: BTreeSet<String> = self.lines.iter().map(|line| line.disk.clone()).collect();
        for disk in disks {
            let folder = self.folder(&disk);
            let own = self.own.entry(disk.clone()).or_default();
            own.update(&folder);
            let in_flight = if was_off { own::in_flight(&folder) } else { None };
            for line in self.lines.iter_mut().filter(|line| line.disk == disk) {
                line.all = own.ended(line.operation);
                line.own_in_flight = match (line.operation, in_flight) {
                    (READ, Some([reads, _])) => Some(reads),
                    (WRITE, Some([_, writes])) => Some(writes),
                    _ => None,
                };
            }
        }
    }

    /// The folder of a disk: the kernel writes `/` in names as `!` there.
    fn folder(&self, disk: &str) -> PathBuf {
        self.sysfs.join("block").join(disk.replace('/', "!"))
    }

    /// Lets go of disks that are gone.
    fn forget_gone(&mut self) -> io::Result<()> {
        let gone: BTreeSet<String> =
            self.lines.iter().map(|line| &line.disk).filter(|disk| !self.folder(disk).exists()).cloned().collect();
        let Some(kernel) = self.kernel.as_ref().filter(|_| !gone.is_empty()) else { return Ok(()) };
        let mut keys = Vec::new();
        kernel.requests(|key, _| keys.push(key))?;
        for key in keys.iter().filter(|key| gone.contains(&disk_name(key))) {
            kernel.forget(key)?;
        }
        self.own.retain(|disk, _| !gone.contains(disk));
        self.lines.retain(|line| !gone.contains(&line.disk));
        let names = self.lines.iter().map(|line| (line.disk.clone(), line.operation));
        self.by_key = names.zip(0..).collect();
        Ok(())
    }

    /// The line of a kind of request, made at first sight; none beyond the bound.
    fn line(&mut self, key: &DiskKey, now_ns: u64) -> Option<usize> {
        let name = (disk_name(key), key.operation);
        if let Some(line) = self.by_key.get(&name) {
            return Some(*line);
        }
        if self.lines.len() >= LINES_MAX {
            return None;
        }
        let rotates = std::fs::read_to_string(self.folder(&name.0).join("queue/rotational"));
        self.lines.push(Line {
            disk: name.0.clone(),
            operation: name.1,
            last: [Requests::default(); 3],
            left: 0,
            all: 0,
            judged_all: 0,
            not_timed: 0,
            own_in_flight: None,
            stretch: Histogram::default(),
            progress: (0, now_ns),
            floor_us: if rotates.is_ok_and(|text| text.trim() == "1") { FLOOR_ROTATING_US } else { FLOOR_US },
            was_slow: false,
            baseline: Baseline::default(),
            handles: None,
        });
        self.by_key.insert(name, self.lines.len() - 1);
        Some(self.lines.len() - 1)
    }

    /// The age of the oldest request in flight of each stuck line, by the kernel half and by the kernel's own word.
    fn stuck(&self, kernel: &DiskKernel, now_ns: u64) -> io::Result<HashMap<usize, u64>> {
        let mut oldest = HashMap::new();
        if !self.lines.iter().any(|line| line.is_stuck(now_ns)) {
            return Ok(oldest);
        }
        for (index, line) in self.lines.iter().enumerate().filter(|(_, line)| line.own_in_flight.is_some()) {
            if line.is_stuck(now_ns) {
                // At least: since the last one ended.
                oldest.insert(index, now_ns.saturating_sub(line.progress.1));
            }
        }
        kernel.in_flight(|started| {
            let name = (disk_name(&started.key), started.key.operation);
            if let Some(&index) = self.by_key.get(&name).filter(|index| self.lines[**index].is_stuck(now_ns)) {
                let age_ns = now_ns.saturating_sub(started.at_ns);
                oldest.entry(index).and_modify(|oldest: &mut u64| *oldest = age_ns.max(*oldest)).or_insert(age_ns);
            }
        })?;
        // A request whose end the kernel half missed is not in flight by the kernel's own word.
        oldest.retain(|index, _| {
            let text = std::fs::read_to_string(self.folder(&self.lines[*index].disk).join("inflight"));
            text.is_ok_and(|text| text.split_whitespace().any(|count| count != "0"))
        });
        Ok(oldest)
    }

    fn judge(&mut self, batch: &mut Batch, moment: Moment, stuck: &HashMap<usize, u64>) {
        self.stretch_began_ns = moment.at_ns;
        let was_off = self
            .duty
            .as_mut()
            .is_some_and(|duty| std::mem::replace(&mut duty.was_off_in_stretch, !duty.controller.is_always()));
        for (index, line) in self.lines.iter_mut().enumerate() {
            let age_ns = stuck.get(&index).copied();
            let Some((stretch, requests)) = line.take_stretch(was_off, age_ns.is_some()) else { continue };
            if line.operation == DISCARD {
                continue;
            }
            let time_us = micros(age_ns.or_else(|| stretch.quantile_ns(900)).unwrap_or(0));
            let window = Window { requests, time_us, is_stuck: age_ns.is_some() };
            let Some(change) = line.baseline.take(&window, line.floor_us) else { continue };
            if let Some(handles) = &line.handles {
                batch.signal(signal(line, handles.judged, &window, change, moment));
            }
        }
    }
}

impl Source for DiskLatencySource {
    fn name(&self) -> &'static str {
        "disk.latency"
    }

    fn kernel_path(&self) -> &str {
        if self.duty.as_ref().is_none_or(|duty| duty.controller.is_always()) { ALL } else { SLICES }
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(10) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        if self.kernel.is_none() {
            let duty = Duty::new().map_err(|error| Unavailable::new((&io::Error::from(error)).into(), error))?;
            self.own = self.own_from_now();
            self.kernel = Some(self.load()?);
            self.duty = Some(duty);
        }
        let done = self.forget_gone();
        if let (Some(kernel), Some(duty)) = (&mut self.kernel, &mut self.duty) {
            // While the source is off nobody looks at the cost.
            if done.is_err() {
                kernel.detach();
                (duty.was_off, duty.was_off_in_stretch) = (true, true);
            } else if duty.controller.is_always() {
                kernel.attach().map_err(|error| Unavailable::new(ErrorReason::NotAvailable, error))?;
            }
        }
        done.map_err(|error| Unavailable::new((&error).into(), error))?;
        for line in &mut self.lines {
            let is_based = line.handles.as_ref().is_some_and(|handles| handles.is_based);
            line.handles = Some(Handles { is_based, ..line.declare(declare) });
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let failed = |error: &io::Error| ReadError::io("reading the maps of disk requests", error);
        let Some(mut kernel) = self.kernel.take() else { return Ok(()) };
        let kept = self.keep_budget(&mut kernel, batch);
        let done = kernel.set_gpu_processes((self.gpu_processes)()).and_then(|()| self.read_from(&kernel, batch));
        self.kernel = Some(kernel);
        kept.and(done).map_err(|error| failed(&error))
    }

    /// A timer's, for the ends of slices.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.duty.as_ref().map(|duty| duty.timer.as_fd())
    }

    fn on_event(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Some(mut kernel) = self.kernel.take() else { return Ok(()) };
        // Setting the timer again takes its expiration back: it need not be read.
        let done = self.keep_budget(&mut kernel, batch);
        self.kernel = Some(kernel);
        done.map_err(|error| ReadError::io("keeping the budget of disk requests", &error))
    }
}

impl DiskLatencySource {
    fn read_from(&mut self, kernel: &DiskKernel, batch: &mut Batch) -> io::Result<()> {
        let before_ns = monotonic_ns();
        // What the books do not show did not happen: where nothing began to be timed and nothing timed was in flight, there is
        // nothing to read, neither here nor, while every request is timed, of the disks.
        let books = kernel.books_without_missed()?;
        let has_news = self.read.is_none_or(|(before, in_flight)| in_flight || before != books);
        if has_news || self.duty.as_ref().is_some_and(|duty| duty.was_off) {
            self.read_own();
        }
        let mut now = Vec::new();
        if has_news {
            kernel.requests(|key, requests| now.push((key, requests)))?;
        }
        let moment = Moment::between(before_ns, monotonic_ns());
        // Of each line, what ended since the last reading: of all, and of GPU processes.
        let mut ended: HashMap<usize, [Histogram; 2]> = HashMap::new();
        for (key, requests) in now {
            let Some(index) = self.line(&key, moment.at_ns) else {
                batch.fault(ErrorReason::Overrun);
                continue;
            };
            let line = &mut self.lines[index];
            let Some(last) = line.last.get_mut(key.issuer as usize) else { continue };
            let new = Histogram::between(&last.buckets, &requests.buckets);
            *last = requests;
            let both = ended.entry(index).or_default();
            both[0].add(&new);
            if key.issuer == GPU {
                both[1].add(&new);
            }
        }
        for (index, line) in self.lines.iter_mut().enumerate() {
            let ended = ended.remove(&index).unwrap_or_default();
            line.stretch.add(&ended[0]);
            line.count_not_timed();
            line.note_progress(moment.at_ns);
            push(line, &ended, batch, moment);
        }
        if has_news {
            let timed = |line: &Line| line.sum(|requests| requests.issued) > line.completed() + line.left;
            self.read = Some((books, self.lines.iter().any(timed)));
        }
        self.note_suspicion(moment.at_ns);
        if self.lines.iter().any(|line| line.handles.is_none()) {
            batch.ask_for_probe();
        }
        if moment.at_ns.saturating_sub(self.stretch_began_ns) >= STRETCH_NS {
            let stuck = self.stuck(kernel, moment.at_ns)?;
            self.judge(batch, moment, &stuck);
        }
        Ok(())
    }
}

fn push(line: &mut Line, ended: &[Histogram; 2], batch: &mut Batch, moment: Moment) {
    let (errors, in_flight) = (line.sum(|requests| requests.errors), line.in_flight());
    let completed = line.last.map(|requests| requests.completed);
    let Some(handles) = &mut line.handles else { return };
    for (histogram, handles) in ended.iter().zip(&handles.times) {
        let quantiles = QUANTILES.map(|(per_thousand, _)| histogram.quantile_ns(per_thousand));
        let [half, most] = quantiles;
        for (time_ns, handle) in [half, most, histogram.max_ns()].into_iter().zip(handles) {
            if let (Some(time_ns), Some(handle)) = (time_ns, handle) {
                batch.gauge(*handle, micros(time_ns), moment);
            }
        }
    }
    if let Some(handle) = handles.in_flight {
        #[expect(clippy::cast_precision_loss, reason = "requests in flight, few")]
        batch.gauge(handle, in_flight as f64, moment);
    }
    // The kernel half counts from 0, so that the first error is a movement too.
    let is_based = std::mem::replace(&mut handles.is_based, true);
    let own = [(handles.errors, errors), (handles.not_timed, line.not_timed)];
    for (handle, count) in own.into_iter().chain(handles.completed.into_iter().zip(completed)) {
        if let Some(handle) = handle {
            batch.counter(handle, if is_based { count } else { 0 }, moment);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 100 days")]
fn micros(time_ns: u64) -> f64 {
    time_ns as f64 / 1e3
}

fn signal(line: &Line, series: SeriesId, window: &Window, change: Change, moment: Moment) -> Signal {
    let what = operation_name(line.operation);
    let disk = &line.disk;
    let (Change::High { usual_us } | Change::Normal { usual_us }) = change;
    let usual = usual_us
        .map_or_else(|| "what is usual is not known yet".to_owned(), |us| format!("{} is usual", for_people(us)));
    let time = for_people(window.time_us);
    let (name, severity, cause, summary) = match change {
        Change::High { .. } if window.is_stuck => (
            SIGNALS[0],
            Severity::Error,
            "stuck",
            format!("disk {disk}: no {what} request ends, the oldest waits for {time}; {usual}"),
        ),
        Change::High { .. } => (
            SIGNALS[0],
            Severity::Warning,
            "slow",
            format!(
                "disk {disk}: a {what} request takes {time} (nine tenths of {} take less); {usual}",
                window.requests
            ),
        ),
        Change::Normal { .. } if window.requests == 0 => {
            (SIGNALS[1], Severity::Info, "idle", format!("disk {disk}: no {what} requests any more"))
        }
        Change::Normal { .. } => {
            (SIGNALS[1], Severity::Info, "usual", format!("disk {disk}: a {what} request takes {time} again; {usual}"))
        }
    };
    Signal {
        name,
        series,
        entity: Entity { kind: "disk", name: disk.clone() },
        severity,
        moment,
        value: window.time_us,
        previous: usual_us,
        unit: "us",
        summary,
        attributes: vec![("cause", cause.to_owned()), ("disk.io.direction", what.to_owned())],
        incomplete_since_mono_ns: None,
        suppressed: 0,
    }
}

fn for_people(time_us: f64) -> String {
    match time_us {
        us if us >= 1e6 => format!("{:.1} s", us / 1e6),
        us if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        us => format!("{us:.0} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading each second: of GPU processes and of the kernel, how many were issued and have ended.
    fn stuck_at(readings: &[[(u64, u64); 2]]) -> Vec<usize> {
        let (mut source, second_ns) =
            (DiskLatencySource::new("/nowhere".into(), Box::new(BTreeSet::new)), 1_000_000_000);
        let key = DiskKey { operation: WRITE, ..DiskKey::default() };
        let index = source.line(&key, 0).expect("the first");
        let line = &mut source.lines[index];
        let mut stuck = Vec::new();
        for (second, reading) in readings.iter().enumerate() {
            for (issuer, (issued, completed)) in [GPU, KERNEL].into_iter().zip(reading) {
                line.last[issuer as usize] = Requests { issued: *issued, completed: *completed, ..Requests::default() };
            }
            line.note_progress(second as u64 * second_ns);
            if line.is_stuck(second as u64 * second_ns) {
                stuck.push(second);
            }
        }
        stuck
    }

    #[test]
    fn a_disk_is_stuck_where_requests_are_in_flight_and_none_ends_whoever_made_them() {
        let idle = [(10, 10), (20, 20)];
        let waits = [(10, 10), (21, 20)];
        for (what, readings, expected) in [
            ("idle", vec![idle; 9], vec![]),
            ("one waits for seven seconds, others are idle", vec![waits; 8], vec![5, 6, 7]),
            ("idle before", [vec![idle; 9], vec![waits; 6]].concat(), vec![13, 14]),
            ("others go on", (0..9).map(|n| [(10 + n, 10 + n), (21, 20)]).collect(), vec![]),
            ("it ends", [vec![waits; 6], vec![[(10, 10), (21, 21)]; 3]].concat(), vec![5]),
        ] {
            assert_eq!(stuck_at(&readings), expected, "{what}");
        }
    }

    #[test]
    fn a_disk_of_which_too_few_were_timed_is_neither_idle_nor_judged_until_more_are() {
        // Of each stretch: timed, all that ended; what is judged of it, where anything is.
        for (what, was_off, stretches, expected) in [
            ("all are timed", false, &[(20, 20), (3, 3), (0, 0)][..], vec![Some(20), Some(3), Some(0)]),
            ("a flush the kernel counts twice is no request", false, &[(0, 40)], vec![Some(0)]),
            ("a stretch between two slices waits", true, &[(0, 500), (0, 500), (30, 500)], vec![None, None, Some(30)]),
            ("few at a time add up", true, &[(7, 500), (7, 500), (7, 500), (0, 500)], vec![None, None, Some(21), None]),
            ("a disk that is nearly idle is not idle", true, &[(0, 3), (0, 0)], vec![Some(3), Some(0)]),
        ] {
            let mut source = DiskLatencySource::new("/nowhere".into(), Box::new(BTreeSet::new));
            let index = source.line(&DiskKey::default(), 0).expect("the first");
            let line = &mut source.lines[index];
            let mut judged = Vec::new();
            for (timed, all) in stretches {
                (0..*timed).for_each(|_| line.stretch.note(1_000));
                line.all += all;
                judged.push(line.take_stretch(was_off, false).map(|(_, requests)| requests));
            }
            assert_eq!(judged, expected, "{what}");
        }
    }

    #[test]
    fn in_slices_a_disk_is_stuck_by_its_own_counts_and_what_is_not_timed_never_counts_down() {
        let mut source = DiskLatencySource::new("/nowhere".into(), Box::new(BTreeSet::new));
        let index = source.line(&DiskKey::default(), 0).expect("the first");
        let line = &mut source.lines[index];
        // Begun in a slice, and their ends not waited for.
        line.last[0] = Requests { issued: 100, completed: 90, ..Requests::default() };
        line.left = 10;
        assert_eq!(line.in_flight(), 0);
        let mut found = Vec::new();
        for (second, (all, in_flight, timed)) in
            [(900, 4, 90), (950, 4, 145), (950, 4, 145), (950, 4, 145), (950, 0, 145)].into_iter().enumerate()
        {
            (line.all, line.own_in_flight, line.last[0].completed) = (all, Some(in_flight), timed);
            let now_ns = second as u64 * STUCK_NS / 2;
            line.count_not_timed();
            line.note_progress(now_ns);
            found.push((line.not_timed, line.is_stuck(now_ns)));
        }
        assert_eq!(found, [(810, false), (810, false), (810, false), (810, true), (810, false)]);
    }

    #[test]
    fn kinds_beyond_the_bound_have_no_line() {
        let mut source = DiskLatencySource::new("/nowhere".into(), Box::new(BTreeSet::new));
        for number in 0..=LINES_MAX {
            let mut key = DiskKey::default();
            key.name[..2].copy_from_slice(&[b'a', number as u8]);
            assert_eq!(source.line(&key, 0).is_some(), number < LINES_MAX);
        }
    }
}
