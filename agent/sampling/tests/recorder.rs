//! What the recorder promises about windows, rates and signals.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use proptest::prelude::*;
use railwatch_sampling::{
    Batch, Catalog, Counter, Entity, Flags, Kind, Moment, Output, Recorder, Rule, SeriesDef, SeriesHandle, Severity,
    When, WindowFrame,
};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const START: u64 = 5_000 * SECOND;

const RULES: &[Rule] = &[
    Rule {
        series: "up",
        what: "the link",
        severity: Severity::Critical,
        when: When::StateFalls { raised: "nic.link.down", cleared: "nic.link.up" },
    },
    Rule {
        series: "errors",
        what: "errors",
        severity: Severity::Error,
        when: When::Moves { raised: "nic.errors", saturated: "nic.counter.saturated" },
    },
];

fn def(name: &'static str, kind: Kind) -> SeriesDef {
    SeriesDef::new(name, "1", kind, Entity { kind: "port", name: "p".into() }, [])
}

struct Bench {
    recorder: Recorder,
    catalog: Arc<Catalog>,
    out: Output,
}

impl Bench {
    fn new(series_max: usize) -> Self {
        let catalog = Arc::new(Catalog::new(series_max));
        let recorder = Recorder::new("test", Duration::from_secs(1), RULES, Arc::clone(&catalog));
        Self { recorder, catalog, out: Output::default() }
    }

    fn declare(&mut self, at_ns: u64, defs: &[SeriesDef]) -> Vec<Option<SeriesHandle>> {
        let mut handles = Vec::new();
        self.recorder
            .probe(at_ns, &mut self.out, |declare| {
                handles.extend(defs.iter().map(|def| declare.series(def.clone())));
                Ok::<(), Infallible>(())
            })
            .unwrap();
        handles
    }

    fn one(def: SeriesDef) -> (Self, SeriesHandle) {
        let mut bench = Self::new(10);
        let handle = bench.declare(START, &[def])[0].unwrap();
        (bench, handle)
    }

    fn counter(&mut self, series: SeriesHandle, at_ns: u64, raw: u64) {
        let mut batch = Batch::with_capacity(1);
        batch.counter(series, raw, Moment { at_ns, half_width_ns: 3 });
        self.recorder.record(&batch, &mut self.out);
    }

    fn gauge(&mut self, series: SeriesHandle, at_ns: u64, value: f64) {
        let mut batch = Batch::with_capacity(1);
        batch.gauge(series, value, Moment { at_ns, half_width_ns: 3 });
        self.recorder.record(&batch, &mut self.out);
    }

    fn frames(mut self, end_ns: u64) -> Vec<WindowFrame> {
        self.recorder.finish(end_ns, &mut self.out);
        self.out.frames
    }

    fn signals(&mut self) -> Vec<(&'static str, Option<String>)> {
        let cause = |attributes: &[(&'static str, String)]| {
            attributes.iter().find(|(k, _)| *k == "cause").map(|(_, v)| v.clone())
        };
        self.out.signals.drain(..).map(|s| (s.name, cause(&s.attributes))).collect()
    }
}

/// Counters as (width, readings at millisecond and raw value), and what the windows must say in total:
/// (delta, resets, flags that must be there, values rated).
#[test]
fn a_counter_moves_exactly_by_what_it_counted_and_never_by_what_it_cannot_have() {
    let (w32, s8, w64) = (Counter::wrapping(32), Counter::saturating(8), Counter::wrapping(64));
    type Case<'a> = (&'a str, Counter, &'a [(u64, u64)], u64, u32, Flags, u32);
    let cases: [Case<'_>; 10] = [
        ("steady", w64, &[(0, 10), (100, 20), (200, 20)], 10, 0, Flags::BASELINE, 2),
        ("wrap of 32 bits", w32, &[(0, 4_294_967_290), (100, 4)], 10, 0, Flags::WRAPPED, 1),
        ("reset of 32 bits", w32, &[(0, 3_000_000_000), (100, 5), (200, 8)], 3, 1, Flags::RESTARTED, 1),
        ("reset of 64 bits", w64, &[(0, 1_000), (100, 900), (200, 950)], 50, 1, Flags::RESTARTED, 1),
        ("a glitch upwards", w64, &[(0, 10), (100, u64::MAX - 5), (200, 12)], 0, 2, Flags::RESTARTED, 0),
        ("reaching the limit", s8, &[(0, 250), (100, 255)], 5, 0, Flags::SATURATED, 1),
        ("sitting at the limit", s8, &[(0, 255), (100, 255), (200, 255)], 0, 0, Flags::SATURATED, 0),
        ("cleared at the limit", s8, &[(0, 255), (100, 0), (200, 2)], 2, 1, Flags::RESTARTED, 1),
        ("too long a time to exclude a wrap", w32, &[(0, 5), (40_000, 6)], 0, 0, Flags::GAP, 0),
        ("words of four bytes", w64.scaled(4), &[(0, 1), (100, 11)], 40, 0, Flags::BASELINE, 1),
    ];
    for (name, counter, readings, delta, resets, flags, rated) in cases {
        let (mut bench, series) = Bench::one(def("c", Kind::Counter(counter)));
        for (ms, raw) in readings {
            bench.counter(series, START + ms * MS, *raw);
        }
        let frames = bench.frames(START + 60 * SECOND);
        assert_eq!(frames.iter().map(|f| f.delta[0]).sum::<u64>(), delta, "{name}: delta");
        assert_eq!(frames.iter().map(|f| f.resets[0]).sum::<u32>(), resets, "{name}: resets");
        assert_eq!(frames.iter().map(|f| f.count[0]).sum::<u32>(), rated, "{name}: rates");
        assert!(frames.iter().any(|f| f.flags[0].has(flags)), "{name}: {frames:?}");
        assert!(frames.iter().all(|f| f.min[0] >= 0.0 && f.max[0] <= 1e13 * 3.0), "{name}: {frames:?}");
    }
}

#[test]
fn a_rate_comes_from_the_times_of_its_readings() {
    let (mut bench, series) = Bench::one(def("c", Kind::Counter(Counter::wrapping(64))));
    for (ms, raw) in [(0, 0), (90, 900), (310, 3100), (330, 3300)] {
        bench.counter(series, START + ms * MS, raw);
    }
    let frame = &bench.frames(START + 400 * MS)[0];
    assert_eq!((frame.min[0], frame.max[0], frame.count[0]), (10_000.0, 10_000.0, 3));
    assert_eq!((frame.delta[0], frame.covered_ns[0], frame.total[0]), (3300, 330 * MS, 3300));
    assert_eq!((frame.first_at_ns[0], frame.last_at_ns[0]), (START, START + 330 * MS));
    assert_eq!(frame.half_width_ns[0], 3);
}

#[test]
fn a_value_refreshed_once_a_second_gives_no_rate_of_a_hundred_times_the_truth() {
    let counter = Counter::wrapping(64).refreshed_every(Duration::from_secs(1));
    let (mut bench, series) = Bench::one(def("c", Kind::Counter(counter)));
    // 1000 a second, shown in lumps at odd times, read every 10 ms for 10 s.
    for i in 0..1000u64 {
        bench.counter(series, START + i * 10 * MS, (i * 10 + 370) / 1000 * 1000);
    }
    let frames = bench.frames(START + 10 * SECOND);
    assert!(frames.iter().all(|f| f.max[0] <= 2000.0), "{frames:?}");
    assert_eq!(frames.iter().map(|f| f.delta[0]).sum::<u64>(), 10_000);
}

#[test]
fn windows_are_aligned_hold_their_own_readings_and_say_when_they_are_partial() {
    let (mut bench, series) = Bench::one(def("g", Kind::Gauge));
    for (ms, value) in [(500, 1.0), (999, 3.0), (1000, 7.0), (1999, 9.0), (5200, 4.0)] {
        bench.gauge(series, START + ms * MS, value);
    }
    let frames = bench.frames(START + 5_300 * MS);
    let shape: Vec<_> = frames
        .iter()
        .map(|f| {
            (
                (f.start_mono_ns - START) / MS,
                (f.end_mono_ns - START) / MS,
                f.count[0],
                f.sum[0],
                f.flags[0].has(Flags::PARTIAL),
            )
        })
        .collect();
    assert_eq!(shape, [(0, 1000, 2, 4.0, true), (1000, 2000, 2, 16.0, false), (5000, 5300, 1, 4.0, true)]);
    assert_eq!((frames[0].first[0], frames[0].last[0], frames[0].min[0], frames[0].max[0]), (1.0, 3.0, 1.0, 3.0));
}

#[test]
fn a_series_that_does_not_move_gets_a_row_when_it_stops_and_every_ten_seconds_after() {
    let mut bench = Bench::new(10);
    let defs = [def("c", Kind::Counter(Counter::wrapping(64))), def("g", Kind::Gauge)];
    let handles: Vec<_> = bench.declare(START, &defs).into_iter().flatten().collect();
    for second in 0..30u64 {
        for half in 0..2u64 {
            let at_ns = START + second * SECOND + half * 500 * MS;
            bench.counter(handles[0], at_ns, second.min(4));
            bench.gauge(handles[1], at_ns, if second < 25 { 1.0 } else { 2.0 });
        }
    }
    let frames = bench.frames(START + 30 * SECOND);
    let windows_of = |def: &SeriesDef| -> Vec<u64> {
        let rows = frames.iter().filter(|f| f.series.contains(&def.id()));
        rows.map(|f| (f.start_mono_ns - START) / SECOND).collect()
    };
    // Moves in 1 to 4, stands in 5, then every ten seconds; the last window is partial and always told.
    assert_eq!(windows_of(&defs[0]), [0, 1, 2, 3, 4, 5, 15, 25, 29]);
    assert_eq!(windows_of(&defs[1]), [0, 1, 11, 21, 25, 26, 29]);
}

#[test]
fn series_beyond_the_bound_are_refused_and_counted_and_the_others_go_on() {
    let mut bench = Bench::new(2);
    let handles = bench.declare(START, &[def("a", Kind::Gauge), def("b", Kind::Gauge), def("c", Kind::Gauge)]);
    assert_eq!(handles.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(bench.catalog.refused(), 1);
    bench.gauge(handles[0].unwrap(), START, 1.0);
    assert_eq!(bench.frames(START + SECOND)[0].len(), 1);
}

#[test]
fn two_values_under_one_name_do_not_corrupt_each_other() {
    let mut bench = Bench::new(10);
    let handles = bench.declare(START, &[def("a", Kind::Gauge), def("a", Kind::Gauge)]);
    assert!(handles[0].is_some() && handles[1].is_none());
    assert_eq!(bench.catalog.refused(), 1);
}

#[test]
fn a_retired_series_frees_its_place_and_its_readings_are_rejected() {
    let mut bench = Bench::new(1);
    let old = bench.declare(START, &[def("a", Kind::Gauge)])[0].unwrap();
    bench.gauge(old, START, 1.0);
    bench.declare(START + 10, &[]);
    bench.gauge(old, START + 20, 2.0);
    assert_eq!(bench.recorder.rejects().unknown_series, 1);
    bench.recorder.close_due(START + SECOND, &mut bench.out);
    assert!(bench.catalog.all().is_empty());
    assert!(bench.declare(START + SECOND + 1, &[def("b", Kind::Gauge)])[0].is_some());
}

#[test]
fn what_is_declared_by_its_handle_goes_on_and_only_where_the_probe_before_declared_it() {
    let (mut bench, handle) = Bench::one(def("bytes", Kind::Counter(Counter::wrapping(64))));
    bench.counter(handle, START, 5);
    let mut again = Vec::new();
    let mut probe = |bench: &mut Bench, by_handle: bool| {
        let probed = bench.recorder.probe(START, &mut bench.out, |declare| {
            again.push(by_handle && declare.again(handle));
            Ok::<(), Infallible>(())
        });
        assert_eq!(probed, Ok(()));
    };
    // The third does not declare it, and the fourth is too late.
    for by_handle in [true, true, false, true] {
        probe(&mut bench, by_handle);
    }
    assert_eq!(again, [true, true, false, false]);
    bench.counter(handle, START + MS, 7);
    assert_eq!(bench.recorder.rejects().unknown_series, 1, "it is retired");
}

#[test]
fn readings_that_make_no_sense_are_rejected_and_counted() {
    let mut bench = Bench::new(10);
    let handles = bench.declare(START, &[def("g", Kind::Gauge), def("c", Kind::Counter(Counter::wrapping(64)))]);
    let (gauge, counter) = (handles[0].unwrap(), handles[1].unwrap());
    bench.gauge(gauge, START, f64::NAN);
    bench.gauge(counter, START, 1.0);
    bench.counter(gauge, START, 1);
    bench.counter(counter, START + 10, 5);
    bench.counter(counter, START + 10, 6);
    bench.counter(counter, START + 9, 7);
    let rejects = bench.recorder.rejects();
    assert_eq!((rejects.wrong_kind, rejects.out_of_order, rejects.unknown_series), (3, 2, 0));
    let frames = bench.frames(START + SECOND);
    assert_eq!((frames[0].len(), frames[0].total[0]), (1, 5));
}

#[test]
fn a_port_that_vanishes_is_down_and_one_that_appears_is_up() {
    let mut bench = Bench::new(10);
    let up = def("up", Kind::Gauge);
    let handle = bench.declare(START, std::slice::from_ref(&up))[0].unwrap();
    bench.gauge(handle, START + 10, 1.0);
    assert_eq!(bench.signals(), [], "up at first sight is no news");
    bench.declare(START + 20, &[]);
    assert_eq!(bench.signals(), [("nic.link.down", Some("vanished".into()))]);
    bench.recorder.close_due(START + SECOND, &mut bench.out);
    let handle = bench.declare(START + 2 * SECOND, &[up])[0].unwrap();
    bench.gauge(handle, START + 2 * SECOND + 10, 1.0);
    assert_eq!(bench.signals(), [("nic.link.up", None)]);
}

#[test]
fn an_error_counter_that_moves_raises_a_signal_with_the_very_reading() {
    let mut bench = Bench::new(10);
    let errors = bench.declare(START, &[def("errors", Kind::Counter(Counter::wrapping(32)))])[0].unwrap();
    bench.counter(errors, START, 900);
    assert_eq!(bench.signals(), [], "history is no news");
    bench.counter(errors, START + 10 * MS, 903);
    let signal = bench.out.signals.remove(0);
    assert_eq!((signal.name, signal.value, signal.previous), ("nic.errors", 903.0, Some(900.0)));
    assert_eq!(signal.moment, Moment { at_ns: START + 10 * MS, half_width_ns: 3 });
    bench.counter(errors, START + 20 * MS, 1);
    assert_eq!(bench.signals(), [], "a reset is not an error");
}

#[test]
fn nothing_but_the_clock_pair_knows_the_wall_clock() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut paths = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        if !path.ends_with("clock.rs") {
            for word in ["realtime", "SystemTime", "CLOCK_REALTIME"] {
                assert!(!text.contains(word), "{} uses {word}: a step of it would bend rates", path.display());
            }
        }
    }
}

proptest! {
    #[test]
    fn the_deltas_of_all_windows_sum_to_last_minus_first_whatever_wraps(
        start in 0u64..=u64::from(u32::MAX),
        steps in prop::collection::vec((1u64..3_000, 1u64..200_000_000), 1..200),
    ) {
        let (mut bench, series) = Bench::one(def("c", Kind::Counter(Counter::wrapping(32))));
        let (mut at_ns, mut truth) = (START, start);
        bench.counter(series, at_ns, truth % (1 << 32));
        for (ms, growth) in &steps {
            at_ns += ms * MS;
            truth += growth;
            bench.counter(series, at_ns, truth % (1 << 32));
        }
        let frames = bench.frames(at_ns);
        prop_assert_eq!(frames.iter().map(|f| f.delta[0]).sum::<u64>(), truth - start);
        prop_assert_eq!(frames.iter().map(|f| f.covered_ns[0]).sum::<u64>(), at_ns - START);
        prop_assert_eq!(frames.iter().map(|f| f.resets[0]).sum::<u32>(), 0);
    }

    #[test]
    fn no_counter_whatever_it_shows_yields_a_negative_or_impossible_rate(
        bits in prop::sample::select(vec![4u8, 8, 16, 32, 64]),
        saturates in any::<bool>(),
        readings in prop::collection::vec((1u64..5_000, any::<u64>()), 1..100),
    ) {
        let counter = if saturates { Counter::saturating(bits) } else { Counter::wrapping(bits) };
        let (mut bench, series) = Bench::one(def("errors", Kind::Counter(counter)));
        let mut at_ns = START;
        for (ms, raw) in &readings {
            at_ns += ms * MS;
            // Even beyond its width: drivers have shown such values.
            bench.counter(series, at_ns, if raw % 3 == 0 { *raw } else { raw & counter.max_raw() });
        }
        for frame in bench.frames(at_ns) {
            prop_assert!(frame.start_mono_ns < frame.end_mono_ns || frame.flags[0].has(Flags::PARTIAL));
            // Over the shortest interval of the test (1 ms) a lump of 2 s may arrive.
            let most = counter.max_per_s * 2_001.0;
            for rate in [frame.min[0], frame.max[0], frame.first[0], frame.last[0]] {
                prop_assert!((0.0..=most).contains(&rate), "{rate} of {counter:?}");
            }
        }
    }
}
