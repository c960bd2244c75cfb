//! One sampling thread: reads its source at absolute deadlines.
//!
//! In: a source, and nudges. Out: windows and signals to the sink, counts to the source's report. Deadlines are absolute
//! (timerfd on CLOCK_MONOTONIC, at multiples of the cadence): lateness does not add up, and a deadline that has passed is
//! counted as missed and never caught up in a burst. Events of the kernel are taken as they come, whatever was spent. A budget
//! of CPU time for all threads together is kept by reading the dearest source less often, a share of RTNL by letting it rest,
//! a bound on memory by leaving series out; each is told. Never: a read of a source that is off, or a
//! panic that leaves the thread.

use crate::batch::Batch;
use crate::burst::Burst;
use crate::catalog::Catalog;
use crate::clock::{monotonic_ns, thread_cpu_ns};
use crate::governor::{Governor, STEPS_MAX, Verdict};
use crate::recorder::{Output, Recorder, SERIES_BYTES};
use crate::rtnl::{IN_BURST, Rtnl};
use crate::sampler::{SamplerConfig, Sink, nanos};
use crate::signal::Severity;
use crate::slowed::{Budget, Slowed};
use crate::source::{ErrorReason, ReadError, Source};
use crate::stats::{SourceState, SourceStats};
use crate::tape::{Tape, TapeWriter};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// How the sampler reaches the thread.
pub(crate) struct Control {
    wake: EventFd,
    stop: AtomicBool,
}

impl Control {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { wake, stop: AtomicBool::new(false) })
    }

    /// Ends the thread after the read it is in.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.nudge();
    }

    /// Makes the thread look at what it was told.
    pub(crate) fn nudge(&self) {
        // Fails only when 2^64 - 2 nudges are pending, and then the thread wakes anyway.
        let _ = self.wake.write(1);
    }
}

/// What all threads share.
pub(crate) struct Common<'a> {
    pub(crate) config: &'a SamplerConfig,
    pub(crate) catalog: &'a Arc<Catalog>,
    pub(crate) sink: &'a Arc<dyn Sink>,
    pub(crate) governor: &'a Arc<Governor>,
    pub(crate) burst_governor: &'a Arc<Governor>,
    pub(crate) burst: &'a Arc<Burst>,
}

/// The thread's own things.
pub(crate) struct Reader {
    source: Box<dyn Source>,
    stats: Arc<SourceStats>,
    control: Arc<Control>,
    timer: TimerFd,
    recorder: Recorder,
    sink: Arc<dyn Sink>,
    tape: Option<Box<dyn TapeWriter>>,
    governor: Arc<Governor>,
    burst_governor: Arc<Governor>,
    burst: Arc<Burst>,
    settled_at_ns: u64,
    /// A burst was on when the budget was looked at last.
    in_burst: bool,
    judged_at_ns: u64,
    judged_cpu_ns: u64,
    /// Spent on probes since then.
    probes_cpu_ns: u64,
    batch: Batch,
    out: Output,
    reprobe_ns: u64,
    next_probe_ns: u64,
    failures_in_a_row: u32,
    events_muted: bool,
    on: bool,
    source_bytes_max: usize,
    series_bytes: usize,
    rtnl: Rtnl,
    rtnl_share: f64,
    slowed: Slowed,
}

/// A source is not slowed down for what its first seconds cost.
const SETTLE_NS: u64 = 5_000_000_000;
/// Time between two looks at the CPU budget.
const JUDGE_EVERY_NS: u64 = 1_000_000_000;
/// A source that fails this often in a row is probed again at once.
const FAILURES_BEFORE_PROBE: u32 = 3;
/// The shortest time between two probes, however often a source asks.
const PROBE_SPACING_NS: u64 = 200_000_000;

impl Reader {
    /// Everything the thread needs, before it starts.
    pub(crate) fn new(
        source: Box<dyn Source>,
        stats: &Arc<SourceStats>,
        control: &Arc<Control>,
        common: &Common<'_>,
    ) -> io::Result<Self> {
        let Common { config, catalog, sink, governor, burst_governor, burst } = common;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let recorder = Recorder::new(source.name(), config.window, config.rules, Arc::clone(catalog));
        Ok(Self {
            source,
            stats: Arc::clone(stats),
            control: Arc::clone(control),
            timer,
            recorder,
            sink: Arc::clone(sink),
            tape: None,
            governor: Arc::clone(governor),
            burst_governor: Arc::clone(burst_governor),
            burst: Arc::clone(burst),
            settled_at_ns: 0,
            in_burst: false,
            judged_at_ns: 0,
            judged_cpu_ns: 0,
            probes_cpu_ns: 0,
            batch: Batch::with_capacity(config.batch_max),
            out: Output::default(),
            reprobe_ns: nanos(config.reprobe).max(1),
            next_probe_ns: 0,
            failures_in_a_row: 0,
            events_muted: false,
            on: false,
            source_bytes_max: config.source_bytes_max,
            series_bytes: SERIES_BYTES,
            rtnl: Rtnl::default(),
            rtnl_share: config.rtnl_budget_share,
            slowed: Slowed::default(),
        }
        .with_tape(None))
    }

    /// The same, keeping every reading.
    pub(crate) fn with_tape(self, tape: Option<&dyn Tape>) -> Self {
        let series_bytes = SERIES_BYTES + tape.map_or(0, Tape::bytes_per_series);
        let recorder = self.recorder.with_series_max(self.source_bytes_max / series_bytes);
        let tape = tape.map(|tape| tape.writer(self.stats.source));
        Self { tape, recorder, series_bytes, ..self }
    }

    /// Reads until told to stop.
    pub(crate) fn run(mut self) {
        let name = self.stats.source;
        if catch_unwind(AssertUnwindSafe(|| self.run_until_stopped())).is_err() {
            let text = format!("source {name} failed by a defect of its own and stays off until the agent restarts");
            tracing::error!(source = name, "{text}");
            self.stats.count_error(ErrorReason::Internal, 1);
            self.stats.set_state(SourceState::Off { reason: ErrorReason::Internal, text });
            let now_ns = monotonic_ns();
            self.recorder.retire_all(now_ns, &mut self.out);
            self.recorder.finish(now_ns, &mut self.out);
            self.hand_over();
        }
    }

    fn run_until_stopped(&mut self) {
        let mut cadence_ns = self.cadence_ns();
        let mut deadline_ns = monotonic_ns();
        (self.judged_at_ns, self.judged_cpu_ns) = (deadline_ns, thread_cpu_ns());
        self.settled_at_ns = deadline_ns + SETTLE_NS;
        self.probe(deadline_ns);
        loop {
            let wake_ns = if self.on { deadline_ns } else { self.next_probe_ns };
            let has_event = self.wait_until(wake_ns);
            if self.control.stop.load(Relaxed) {
                break;
            }
            self.stay_within_budget();
            let wanted_ns = self.cadence_ns();
            if wanted_ns != cadence_ns {
                cadence_ns = wanted_ns;
                deadline_ns = deadline_ns.min(next_multiple(monotonic_ns(), cadence_ns));
            }
            if has_event {
                self.read(true);
            }
            let now_ns = monotonic_ns();
            if now_ns >= self.next_probe_ns {
                let was_on = self.on;
                self.probe(now_ns);
                if self.on && !was_on {
                    deadline_ns = now_ns;
                }
            }
            if self.on && now_ns >= deadline_ns {
                self.read(false);
                deadline_ns = self.next_deadline(deadline_ns, cadence_ns);
                let rest_ns = self.stats.rtnl_rest_ns.load(Relaxed);
                if rest_ns > cadence_ns {
                    deadline_ns = deadline_ns.max(next_multiple(now_ns + rest_ns - 1, cadence_ns));
                }
                self.tell_slowed(now_ns);
            }
            self.recorder.close_due(monotonic_ns(), &mut self.out);
            self.hand_over();
        }
        self.recorder.finish(monotonic_ns(), &mut self.out);
        self.hand_over();
    }

    /// The cadence in force.
    fn cadence_ns(&self) -> u64 {
        let asked_ns = self.stats.cadence_ns.load(Relaxed) << self.stats.backed_off.load(Relaxed);
        let burst_ns = self.stats.burst_ns.load(Relaxed);
        if burst_ns > 0 { asked_ns.min(burst_ns) } else { asked_ns }
    }

    /// Whether a burst is on. Where that is news, the budget is looked at afresh: what a burst costs is no reason to read
    /// less often before or after it.
    fn look_for_burst(&mut self, now_ns: u64) -> bool {
        let in_burst = self.burst.is_on(now_ns);
        if in_burst != self.in_burst {
            self.in_burst = in_burst;
            (self.judged_at_ns, self.judged_cpu_ns, self.probes_cpu_ns) = (now_ns, thread_cpu_ns(), 0);
            let shortest_ns = if in_burst { nanos(self.source.cadence().min) } else { 0 };
            self.stats.burst_ns.store(shortest_ns, Relaxed);
        }
        in_burst
    }

    /// Once a second, compares the CPU time of this thread and the others with the budget.
    fn stay_within_budget(&mut self) {
        let now_ns = monotonic_ns();
        let in_burst = self.look_for_burst(now_ns);
        let elapsed_ns = now_ns - self.judged_at_ns;
        if elapsed_ns < JUDGE_EVERY_NS {
            return;
        }
        let cpu_ns = thread_cpu_ns();
        #[expect(clippy::cast_precision_loss, reason = "a share of a core")]
        let share_of = |spent_ns: u64| spent_ns as f64 / elapsed_ns as f64;
        let spent_ns = cpu_ns - self.judged_cpu_ns;
        // What a probe costs no cadence changes: loading programs, looking for ports.
        let share = share_of(spent_ns.saturating_sub(std::mem::take(&mut self.probes_cpu_ns)));
        (self.judged_at_ns, self.judged_cpu_ns) = (now_ns, cpu_ns);
        self.stats.set_cpu(cpu_ns, share_of(spent_ns));
        // Its first seconds are no measure: caches are cold, and what lies still is not known yet.
        if now_ns < self.settled_at_ns {
            return;
        }
        if in_burst {
            self.stay_within_burst_budget(share);
            return;
        }
        let steps = self.stats.backed_off.load(Relaxed);
        let can_back_off = self.on && steps < STEPS_MAX && self.cadence_ns() <= nanos(self.source.cadence().max) / 2;
        let steps = match self.governor.judge(self.stats.source, share, can_back_off) {
            Verdict::BackOff => steps + 1,
            Verdict::ComeBack if steps > 0 => steps - 1,
            Verdict::ComeBack | Verdict::Stay => return,
        };
        self.stats.backed_off.store(steps, Relaxed);
        let (source, percent) = (self.stats.source, share * 100.0);
        tracing::info!(
            source,
            steps,
            "the source used {percent:.2} % of a core: its cadence changes for the CPU budget"
        );
    }

    /// Says so where a budget keeps the source from being read as often as it was asked to be.
    fn tell_slowed(&mut self, now_ns: u64) {
        let Self { stats, slowed, out, burst, .. } = self;
        let (asked_ns, steps) = (stats.cadence_ns.load(Relaxed), stats.backed_off.load(Relaxed));
        let rest_ns = stats.rtnl_rest_ns.load(Relaxed);
        let (by, is_ns) = match steps {
            // What a burst asks for is more than the source was asked for.
            _ if burst.is_on(now_ns) => return,
            _ if rest_ns > asked_ns << steps => (Some(Budget::Rtnl), rest_ns),
            0 => (None, asked_ns),
            steps => (Some(Budget::Cpu), asked_ns << steps),
        };
        let (asked, is) = (Duration::from_nanos(asked_ns), Duration::from_nanos(is_ns));
        out.signals.extend(slowed.judge(stats.source, by, asked, is, now_ns));
    }

    /// A burst has a budget of its own: beyond it the dearest source goes back towards the cadence that it has without one.
    fn stay_within_burst_budget(&self, share: f64) {
        let Self { stats, source, .. } = self;
        let burst_ns = stats.burst_ns.load(Relaxed);
        let asked_ns = stats.cadence_ns.load(Relaxed) << stats.backed_off.load(Relaxed);
        let (shortest_ns, can_back_off) = (nanos(source.cadence().min), self.on && burst_ns <= asked_ns / 2);
        let wanted_ns = match self.burst_governor.judge(stats.source, share, can_back_off) {
            Verdict::BackOff => burst_ns * 2,
            Verdict::ComeBack => (burst_ns / 2).max(shortest_ns),
            Verdict::Stay => burst_ns,
        };
        if wanted_ns != burst_ns {
            stats.burst_ns.store(wanted_ns, Relaxed);
            let (name, cadence_ms) = (stats.source, wanted_ns / 1_000_000);
            tracing::info!(source = name, cadence_ms, "a burst's cadence changes for its CPU budget");
        }
    }

    /// The first deadline after now; those between it and the last one are missed.
    fn next_deadline(&self, last_ns: u64, cadence_ns: u64) -> u64 {
        let now_ns = monotonic_ns();
        let due_ns = next_multiple(last_ns, cadence_ns);
        if due_ns > now_ns {
            return due_ns;
        }
        let next_ns = next_multiple(now_ns, cadence_ns);
        self.stats.missed_deadlines.fetch_add((next_ns - due_ns) / cadence_ns, Relaxed);
        next_ns
    }

    /// Waits for the deadline, a nudge or an event of the kernel; true for an event.
    fn wait_until(&mut self, deadline_ns: u64) -> bool {
        // A timer of 0 would be disarmed; 1 ns after boot is as much in the past.
        let at = TimeSpec::from_duration(Duration::from_nanos(deadline_ns.max(1)));
        if let Err(error) = self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME) {
            // Cannot happen with a valid descriptor and time; without a timer the loop must still not spin.
            tracing::error!(source = self.stats.source, %error, "arming the timer of a sampling thread");
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut fds = [
            PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.wake.as_fd(), PollFlags::empty()),
        ];
        let event_fd = if self.on && !self.events_muted { self.source.event_fd() } else { None };
        if let Some(fd) = event_fd {
            fds[2] = PollFd::new(fd, PollFlags::POLLIN);
        }
        let listened = if event_fd.is_some() { 3 } else { 2 };
        match poll(&mut fds[..listened], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(source = self.stats.source, %error, "waiting for the next deadline");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let (nudged, event) = (ready(&fds[1]), event_fd.is_some() && ready(&fds[2]));
        if nudged {
            // Empty already where another nudge was taken with it.
            let _ = self.control.wake.read();
        }
        event
    }

    fn probe(&mut self, now_ns: u64) {
        let Self { source, stats, recorder, out, tape, .. } = self;
        self.next_probe_ns = now_ns + self.reprobe_ns;
        self.failures_in_a_row = 0;
        self.events_muted = false;
        stats.probes.fetch_add(1, Relaxed);
        let before_ns = thread_cpu_ns();
        let state = match recorder.probe(now_ns, out, |declare| source.probe(declare)) {
            Ok(()) => SourceState::On,
            Err(unavailable) => {
                recorder.retire_all(now_ns, out);
                SourceState::Off { reason: unavailable.reason, text: unavailable.text }
            }
        };
        if let Some(tape) = tape {
            tape.series(&mut recorder.living());
        }
        let (held, left_out) = recorder.held();
        stats.series_bytes.store((held * self.series_bytes) as u64, Relaxed);
        stats.series_left_out.store(left_out, Relaxed);
        self.probes_cpu_ns += thread_cpu_ns() - before_ns;
        stats.set_kernel_path(source.kernel_path());
        stats.set_range(source.cadence());
        self.on = state == SourceState::On;
        if self.stats.set_state(state.clone()) {
            match state {
                SourceState::Off { reason, text } => {
                    tracing::info!(source = self.stats.source, reason = reason.name(), "off: {text}");
                }
                _ => tracing::info!(source = self.stats.source, path = self.source.kernel_path(), "on"),
            }
        }
        self.hand_over();
    }

    fn read(&mut self, is_event: bool) {
        let Self { source, batch, stats, recorder, out, tape, burst, rtnl, rtnl_share, .. } = self;
        batch.clear();
        let before_ns = monotonic_ns();
        batch.set_in_full(burst.is_on(before_ns) || stats.is_asked());
        let outcome = if is_event { source.on_event(batch) } else { source.read(batch) };
        let after_ns = monotonic_ns();
        stats.count_read(after_ns - before_ns, batch.readings().len(), is_event);
        if source.holds_rtnl() && !is_event {
            stats.rtnl_ns.fetch_add(after_ns - before_ns, Relaxed);
            let share = if burst.is_on(before_ns) { *rtnl_share * IN_BURST } else { *rtnl_share };
            let rest_ns = rtnl.held(after_ns - before_ns, share.min(1.0), nanos(source.cadence().max));
            stats.rtnl_rest_ns.store(rest_ns, Relaxed);
        }
        if let Some(tape) = tape {
            tape.take(batch);
        }
        recorder.record(batch, out);
        for (reason, times) in batch.faults().filter(|(_, times)| *times > 0) {
            stats.count_error(reason, times);
        }
        if batch.over_capacity() > 0 {
            stats.over_capacity.fetch_add(u64::from(batch.over_capacity()), Relaxed);
        }
        stats.set_rejects(recorder.rejects());
        match outcome {
            Ok(()) => self.failures_in_a_row = 0,
            Err(ReadError { reason, doing, source_text }) => {
                stats.count_error(reason, 1);
                self.failures_in_a_row += 1;
                // A descriptor that stays readable and cannot be read would spin: unheard until the probe made it anew.
                self.events_muted |= is_event;
                tracing::debug!(source = stats.source, reason = reason.name(), "{doing}: {source_text}");
            }
        }
        if batch.probe_asked() || self.events_muted || self.failures_in_a_row >= FAILURES_BEFORE_PROBE {
            let last_probe_ns = self.next_probe_ns.saturating_sub(self.reprobe_ns);
            self.next_probe_ns = self.next_probe_ns.min((last_probe_ns + PROBE_SPACING_NS).max(after_ns));
        }
        self.hand_over();
    }

    fn hand_over(&mut self) {
        for signal in self.out.signals.drain(..) {
            if signal.severity >= Severity::Error {
                self.burst.suspect(monotonic_ns());
            }
            if self.sink.signal(signal).is_err() {
                self.stats.signals_dropped.fetch_add(1, Relaxed);
            }
        }
        for frame in self.out.frames.drain(..) {
            if self.sink.window(frame).is_err() {
                self.stats.windows_dropped.fetch_add(1, Relaxed);
            }
        }
    }
}

fn next_multiple(after_ns: u64, cadence_ns: u64) -> u64 {
    (after_ns / cadence_ns + 1) * cadence_ns
}
