//! What the sampling threads promise: absolute deadlines, no bursts, probes, honest states, a clean stop.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use nix::sys::eventfd::{EfdFlags, EventFd};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Catalog, Counter, Declare, Entity, ErrorReason, Flags, Kind, Moment, RESTORED, ReadError,
    Rule, SERIES_BYTES, SLOWED, Sampler, SamplerConfig, SeriesDef, SeriesHandle, Severity, Signal, Sink, SinkFull,
    Source, SourceReport, SourceState, Unavailable, When, WindowFrame,
};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

#[derive(Default)]
struct Seen {
    windows: Mutex<Vec<WindowFrame>>,
    signals: Mutex<Vec<Signal>>,
    is_full: AtomicBool,
}

impl Seen {
    fn names(&self) -> Vec<&'static str> {
        self.signals.lock().unwrap().iter().map(|signal| signal.name).collect()
    }
}

impl Sink for Seen {
    fn window(&self, frame: WindowFrame) -> Result<(), SinkFull> {
        if self.is_full.load(SeqCst) {
            return Err(SinkFull);
        }
        self.windows.lock().unwrap().push(frame);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), SinkFull> {
        self.signals.lock().unwrap().push(signal);
        Ok(())
    }
}

/// What the test does to the source while it runs.
struct Knobs {
    present: AtomicBool,
    panics: AtomicBool,
    fails: AtomicBool,
    /// It reads by a dear path.
    is_dear: AtomicBool,
    holds_rtnl: AtomicBool,
    probe_burns_us: AtomicU64,
    read_takes_ms: AtomicU64,
    read_burns_us: AtomicU64,
    value: AtomicU64,
    read_at_ns: Mutex<Vec<u64>>,
    event: EventFd,
}

impl Knobs {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            present: AtomicBool::new(true),
            panics: AtomicBool::new(false),
            fails: AtomicBool::new(false),
            is_dear: AtomicBool::new(false),
            holds_rtnl: AtomicBool::new(false),
            probe_burns_us: AtomicU64::new(0),
            read_takes_ms: AtomicU64::new(0),
            read_burns_us: AtomicU64::new(0),
            value: AtomicU64::new(1),
            read_at_ns: Mutex::default(),
            event: EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap(),
        })
    }

    fn reads(&self) -> Vec<u64> {
        self.read_at_ns.lock().unwrap().clone()
    }
}

fn burn(us: u64) {
    let until_ns = monotonic_ns() + us * 1000;
    while monotonic_ns() < until_ns {}
}

struct Fake {
    knobs: Arc<Knobs>,
    up: Option<SeriesHandle>,
    ticks: Option<SeriesHandle>,
}

impl Fake {
    fn boxed(knobs: &Arc<Knobs>) -> Box<dyn Source> {
        Box::new(Self { knobs: Arc::clone(knobs), up: None, ticks: None })
    }

    fn take(&mut self, batch: &mut Batch) {
        let now_ns = monotonic_ns();
        if let Some(up) = self.up {
            #[expect(clippy::cast_precision_loss, reason = "0 or 1")]
            batch.gauge(up, self.knobs.value.load(SeqCst) as f64, Moment::between(now_ns, monotonic_ns()));
        }
    }
}

impl Source for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn kernel_path(&self) -> &str {
        "/nowhere"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange {
            min: Duration::from_millis(5),
            default: Duration::from_millis(if self.knobs.is_dear.load(SeqCst) { 200 } else { 20 }),
            max: Duration::from_millis(500),
        }
    }

    fn holds_rtnl(&self) -> bool {
        self.knobs.holds_rtnl.load(SeqCst)
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        if !self.knobs.present.load(SeqCst) {
            return Err(Unavailable::new(ErrorReason::Missing, "no fake device; plug one in"));
        }
        burn(self.knobs.probe_burns_us.load(SeqCst));
        let entity = || Entity { kind: "port", name: "p".into() };
        self.up = declare.series(SeriesDef::new("up", "1", Kind::Gauge, entity(), []));
        self.ticks = declare.series(SeriesDef::new("ticks", "1", Kind::Counter(Counter::wrapping(64)), entity(), []));
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let now_ns = monotonic_ns();
        assert!(!self.knobs.panics.load(SeqCst), "a defect of the source");
        if self.knobs.fails.load(SeqCst) {
            return Err(ReadError { reason: ErrorReason::Io, doing: "reading", source_text: "broken".into() });
        }
        let mut reads = self.knobs.read_at_ns.lock().unwrap();
        reads.push(now_ns);
        if let Some(ticks) = self.ticks {
            batch.counter(ticks, reads.len() as u64, Moment::between(now_ns, now_ns));
        }
        drop(reads);
        burn(self.knobs.read_burns_us.load(SeqCst));
        sleep(Duration::from_millis(self.knobs.read_takes_ms.load(SeqCst)));
        self.take(batch);
        Ok(())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.knobs.event.as_fd())
    }

    fn on_event(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let _ = self.knobs.event.read();
        self.take(batch);
        Ok(())
    }
}

const RULES: &[Rule] = &[Rule {
    series: "up",
    what: "the link",
    severity: Severity::Critical,
    when: When::StateFalls { raised: "nic.link.down", cleared: "nic.link.up" },
}];

fn start(knobs: &Arc<Knobs>, cadence: Option<Duration>) -> (Sampler, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let reprobe = Duration::from_millis(50);
    let config = SamplerConfig { reprobe, rules: RULES, cpu_budget_share: 0.05, ..SamplerConfig::default() };
    let mut sampler = Sampler::new(config, Arc::new(Catalog::default()), Arc::clone(&seen) as Arc<dyn Sink>);
    sampler.start(Fake::boxed(knobs), cadence).unwrap();
    (sampler, seen)
}

/// Waits for a condition; panics, saying what was waited for, after a minute.
fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(5));
    }
    panic!("waited a minute for {what}");
}

fn report(sampler: &Sampler) -> SourceReport {
    sampler.reports().remove(0)
}

#[test]
fn deadlines_are_multiples_of_the_cadence_and_a_slow_read_misses_them_without_a_burst() {
    let knobs = Knobs::new();
    let cadence_ns = 20_000_000;
    let (sampler, _) = start(&knobs, None);
    until("ten reads", || knobs.reads().len() >= 10);
    knobs.read_takes_ms.store(70, SeqCst);
    let before = knobs.reads().len();
    until("three slow reads", || knobs.reads().len() >= before + 3);
    knobs.read_takes_ms.store(0, SeqCst);
    until("ten more", || knobs.reads().len() >= before + 13);
    let report = sampler.stop().remove(0);
    assert!(report.missed_deadlines >= 6, "{report:?}");
    assert_eq!(report.reads, knobs.reads().len() as u64);
    assert!(report.cost_ns >= 3 * 70_000_000 && report.cost_ns_max >= 70_000_000, "{report:?}");
    // Every read but the first belongs to another deadline: at most one in each interval of the cadence, however late.
    let reads = knobs.reads();
    let mut intervals: Vec<_> = reads[1..].iter().map(|at_ns| at_ns / cadence_ns).collect();
    intervals.dedup();
    assert_eq!(intervals.len(), reads.len() - 1, "two reads for one deadline: {reads:?}");
}

#[test]
fn the_cadence_changes_while_running_within_its_range() {
    let knobs = Knobs::new();
    let (sampler, _) = start(&knobs, Some(Duration::from_secs(3600)));
    assert_eq!(report(&sampler).cadence, Duration::from_millis(500), "clamped at start");
    assert_eq!(sampler.set_cadence("fake", Duration::from_nanos(1)), Ok(Duration::from_millis(5)));
    until("reads at the new pace", || knobs.reads().len() >= 20);
    let error = sampler.set_cadence("fke", Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.to_string(), "no source is called fke; there are: fake");
}

#[test]
fn a_source_that_finds_a_dearer_path_is_read_at_the_default_of_that_path_unless_told_otherwise() {
    let (knobs, told) = (Knobs::new(), Knobs::new());
    let (mut sampler, _) = start(&knobs, None);
    sampler.start(Fake::boxed(&told), Some(Duration::from_millis(50))).unwrap();
    let cadences = || sampler.reports().iter().map(|report| report.cadence.as_millis()).collect::<Vec<_>>();
    until("a read of both", || !knobs.reads().is_empty() && !told.reads().is_empty());
    assert_eq!(cadences(), [20, 50]);
    for knobs in [&knobs, &told] {
        knobs.is_dear.store(true, SeqCst);
    }
    until("the dearer path's pace", || cadences() == [200, 50]);
}

#[test]
fn a_source_goes_off_with_a_reason_and_comes_back_by_itself() {
    let knobs = Knobs::new();
    knobs.present.store(false, SeqCst);
    let (sampler, seen) = start(&knobs, None);
    let off = SourceState::Off { reason: ErrorReason::Missing, text: "no fake device; plug one in".into() };
    until("the source to be off", || report(&sampler).state == off);
    assert_eq!(report(&sampler).reads, 0, "a source that is off is not read");
    knobs.present.store(true, SeqCst);
    until("reads", || report(&sampler).state == SourceState::On && knobs.reads().len() >= 2);
    assert!(seen.signals.lock().unwrap().is_empty());
    knobs.present.store(false, SeqCst);
    until("the source to be off again", || report(&sampler).state == off);
    let names = |seen: &Seen| seen.signals.lock().unwrap().iter().map(|s| s.name).collect::<Vec<_>>();
    assert_eq!(names(&seen), ["nic.link.down"], "what is gone is not up");
    knobs.present.store(true, SeqCst);
    until("the link to be back", || names(&seen).len() == 2);
    assert_eq!(names(&seen), ["nic.link.down", "nic.link.up"]);
    drop(sampler);
}

#[test]
fn failing_reads_are_counted_by_reason_and_followed_by_a_probe() {
    let knobs = Knobs::new();
    knobs.fails.store(true, SeqCst);
    let (sampler, _) = start(&knobs, None);
    until("failures", || report(&sampler).errors[ErrorReason::Io as usize] >= 6);
    assert!(report(&sampler).probes >= 2);
    knobs.fails.store(false, SeqCst);
    until("reads", || knobs.reads().len() >= 2);
}

#[test]
fn a_panic_in_a_source_ends_that_source_only_and_says_so() {
    let knobs = Knobs::new();
    let (mut sampler, seen) = start(&knobs, None);
    let other = Knobs::new();
    until("a read", || !knobs.reads().is_empty());
    knobs.panics.store(true, SeqCst);
    until("the source to be off", || {
        matches!(report(&sampler).state, SourceState::Off { reason: ErrorReason::Internal, .. })
    });
    sampler.start(Fake::boxed(&other), None).unwrap();
    until("another source's reads", || other.reads().len() >= 3);
    let reports = sampler.stop();
    assert_eq!(reports[0].errors[ErrorReason::Internal as usize], 1);
    assert!(!seen.windows.lock().unwrap().is_empty(), "its last window is not lost");
}

#[test]
fn a_kernel_event_becomes_a_signal_without_waiting_for_the_next_deadline() {
    let knobs = Knobs::new();
    let (sampler, seen) = start(&knobs, Some(Duration::from_millis(500)));
    until("a first read", || !knobs.reads().is_empty());
    sleep(Duration::from_millis(20));
    let reads = knobs.reads().len();
    knobs.value.store(0, SeqCst);
    knobs.event.write(1).unwrap();
    until("a signal", || !seen.signals.lock().unwrap().is_empty());
    let report = report(&sampler);
    assert_eq!((seen.signals.lock().unwrap()[0].name, report.events), ("nic.link.down", 1));
    assert!(report.reads <= reads as u64 + 1, "the event itself brought it: {report:?}");
}

#[test]
fn a_signal_of_one_source_has_all_of_them_read_at_their_shortest_cadence() {
    let (knobs, other) = (Knobs::new(), Knobs::new());
    let slow = Some(Duration::from_millis(500));
    let (mut sampler, seen) = start(&knobs, slow);
    sampler.start(Fake::boxed(&other), slow).unwrap();
    until("a first read of both", || sampler.reports().iter().all(|report| report.reads > 0));
    assert_eq!(sampler.bursts(), 0);
    // Both have the same series, and it belongs to the one that was first.
    let set = |value| {
        for knobs in [&knobs, &other] {
            knobs.value.store(value, SeqCst);
            knobs.event.write(1).unwrap();
        }
    };
    set(0);
    until("a signal", || !seen.signals.lock().unwrap().is_empty());
    // More reads than half-second deadlines within the time of a burst.
    let begun = (knobs.reads().len(), other.reads().len());
    until("reads of both", || knobs.reads().len() >= begun.0 + 100 && other.reads().len() >= begun.1 + 100);
    let reads = other.reads();
    assert!(reads[begun.1 + 99] - reads[begun.1] < 20_000_000_000, "a hundred half-second deadlines take 50 s");
    assert_eq!(sampler.bursts(), 1);
    // Good news begins none.
    set(1);
    until("another signal", || seen.signals.lock().unwrap().len() >= 2);
    assert_eq!(sampler.bursts(), 1);
    sampler.on_request().request(Duration::from_secs(1)).unwrap();
    assert_eq!(sampler.bursts(), 1, "one is on");
}

#[test]
fn a_burst_has_a_budget_of_its_own_and_leaves_the_cadence_as_it_was() {
    let knobs = Knobs::new();
    // 2 ms of every 5: 40 % of a core, four times the budget of a burst.
    knobs.read_burns_us.store(2000, SeqCst);
    let slow = Duration::from_millis(500);
    let (sampler, _) = start(&knobs, Some(slow));
    until("a first read", || report(&sampler).reads > 0);
    assert_eq!(report(&sampler).cadence, slow);
    sampler.on_request().request(Duration::from_secs(6)).unwrap();
    let shortest = Duration::from_millis(5);
    until("the burst", || report(&sampler).cadence == shortest);
    until("the burst to be slowed", || (shortest * 2..slow).contains(&report(&sampler).cadence));
    assert_eq!(report(&sampler).backed_off, 0, "its own cadence is what it was");
    until("the end of the burst", || report(&sampler).cadence == slow);
}

#[test]
fn stopping_hands_over_the_open_window_marked_partial() {
    let knobs = Knobs::new();
    let (sampler, seen) = start(&knobs, None);
    until("three reads", || knobs.reads().len() >= 3);
    let report = sampler.stop().remove(0);
    let windows = seen.windows.lock().unwrap();
    let last = windows.last().unwrap();
    assert!(last.flags.iter().all(|flags| flags.has(Flags::PARTIAL)), "{last:?}");
    // Two series a read, every reading in some window: the counter's first reading has no rate.
    let counted: u64 = windows.iter().flat_map(|w| &w.count).map(|count| u64::from(*count)).sum();
    assert_eq!(counted + 1, report.readings);
}

#[test]
fn a_sink_without_room_for_windows_still_gets_every_signal_and_what_it_refuses_is_counted() {
    let knobs = Knobs::new();
    knobs.value.store(1, SeqCst);
    let (sampler, seen) = start(&knobs, None);
    seen.is_full.store(true, SeqCst);
    until("three reads", || knobs.reads().len() >= 3);
    knobs.value.store(0, SeqCst);
    until("the link's fall", || seen.names().contains(&"nic.link.down"));
    let report = sampler.stop().remove(0);
    assert!(report.windows_dropped >= 1);
    assert_eq!(report.signals_dropped, 0);
    assert_eq!(seen.windows.lock().unwrap().len(), 0);
}

#[test]
fn a_source_beyond_the_cpu_budget_is_read_less_often_never_stopped_and_comes_back() {
    let knobs = Knobs::new();
    // 2 ms of every 10: 20 % of a core, four times the budget of these tests.
    knobs.read_burns_us.store(2000, SeqCst);
    let (sampler, seen) = start(&knobs, Some(Duration::from_millis(10)));
    until("the source to back off twice", || report(&sampler).backed_off >= 2);
    let backed_off = report(&sampler);
    assert_eq!(backed_off.cadence, Duration::from_millis(10) * 2u32.pow(backed_off.backed_off));
    let before = knobs.reads().len();
    until("reads, though fewer", || knobs.reads().len() >= before + 3);
    knobs.read_burns_us.store(0, SeqCst);
    until("the source to come back", || report(&sampler).backed_off == 0);
    until("both to be told", || seen.names() == [SLOWED, RESTORED]);
    let slowed = seen.signals.lock().unwrap()[0].clone();
    assert_eq!(slowed.attributes, [("source", "fake".to_owned()), ("cause", "cpu".to_owned())]);
}

#[test]
fn a_source_that_holds_rtnl_long_is_let_rest_says_so_and_hears_the_kernel_meanwhile() {
    let knobs = Knobs::new();
    knobs.value.store(0, SeqCst);
    knobs.holds_rtnl.store(true, SeqCst);
    knobs.read_takes_ms.store(10, SeqCst);
    let (sampler, seen) = start(&knobs, None);
    until("the source to rest", || seen.names() == [SLOWED]);
    // 10 ms would need a second; the longest cadence of the source is half of it.
    let resting = report(&sampler);
    assert_eq!(resting.cadence, Duration::from_millis(500));
    assert!(resting.rtnl_ns >= 20_000_000, "two reads at least: {resting:?}");
    let slowed = seen.signals.lock().unwrap()[0].clone();
    assert_eq!((slowed.value, slowed.previous), (0.5, Some(0.02)));
    assert!(slowed.attributes.contains(&("cause", "rtnl".to_owned())));
    knobs.value.store(1, SeqCst);
    knobs.event.write(1).unwrap();
    until("the link's return", || seen.names().contains(&"nic.link.up"));
    assert!(report(&sampler).events >= 1, "what the kernel tells waits for no read");
    knobs.read_takes_ms.store(0, SeqCst);
    until("the source to come back", || seen.names().contains(&RESTORED));
    until("its cadence as asked", || report(&sampler).cadence == Duration::from_millis(20));
}

#[test]
fn a_source_with_more_series_than_its_memory_allows_keeps_the_first_and_counts_the_others() {
    let knobs = Knobs::new();
    knobs.value.store(1, SeqCst);
    let seen = Arc::new(Seen::default());
    // Room for one of its two series.
    let config = SamplerConfig { rules: RULES, source_bytes_max: SERIES_BYTES, ..SamplerConfig::default() };
    let mut sampler = Sampler::new(config, Arc::new(Catalog::default()), Arc::clone(&seen) as Arc<dyn Sink>);
    sampler.start(Fake::boxed(&knobs), None).unwrap();
    until("three reads", || knobs.reads().len() >= 3);
    let report = report(&sampler);
    assert_eq!((report.series_bytes, report.series_left_out), (SERIES_BYTES as u64, 1));
    knobs.value.store(0, SeqCst);
    until("the signal of the series that is kept", || seen.names() == ["nic.link.down"]);
}

#[test]
fn what_a_probe_costs_does_not_make_a_source_read_less_often() {
    let knobs = Knobs::new();
    // 10 ms in every 50 or so: three times the budget of these tests, all of it in probes.
    knobs.probe_burns_us.store(10_000, SeqCst);
    let (sampler, _) = start(&knobs, None);
    until("the budget to be judged twice", || report(&sampler).probes >= 160 && report(&sampler).cpu_share > 0.0);
    assert_eq!(report(&sampler).backed_off, 0, "{:?}", report(&sampler));
}
