//! What is written is what is read: any values, any order of series, while writing and after.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use proptest::prelude::*;
use railwatch_sampling::{
    Batch, Catalog, Counter, Entity, Kind, Moment, Output, Recorder, SeriesDef, SeriesHandle, SeriesId, Tape as _,
    TapeWriter, Value,
};
use railwatch_tape::{BYTES_DEFAULT, BYTES_MIN, Query, Tape};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MS: u64 = 1_000_000;

/// A source as the tape sees one: a recorder that gives handles, and the writer.
struct Source {
    recorder: Recorder,
    writer: Box<dyn TapeWriter>,
    out: Output,
    now_ns: u64,
}

impl Source {
    fn new(tape: &Tape) -> Self {
        let catalog = Arc::new(Catalog::new(100_000));
        let recorder = Recorder::new("test", Duration::from_secs(1), &[], catalog);
        Self { recorder, writer: tape.writer("test"), out: Output::default(), now_ns: 0 }
    }

    /// A probe that finds these series; even names are gauges.
    fn declare(&mut self, names: &[usize]) -> Vec<(SeriesHandle, SeriesId)> {
        let mut found = Vec::new();
        // Windows end first, so that retired series give their handles back.
        self.recorder.finish(self.now_ns, &mut self.out);
        let declared = self.recorder.probe(self.now_ns, &mut self.out, |declare| {
            found.extend(names.iter().filter_map(|name| {
                let def = def(*name);
                let id = def.id();
                Some((declare.series(def)?, id))
            }));
            Ok::<(), Infallible>(())
        });
        declared.unwrap();
        self.writer.series(&mut self.recorder.living());
        found
    }

    fn take(&mut self, batch: &Batch) {
        self.writer.take(batch);
        self.recorder.record(batch, &mut self.out);
        self.now_ns = batch.readings().iter().map(|reading| reading.moment.at_ns).max().unwrap_or(self.now_ns);
    }
}

fn def(name: usize) -> SeriesDef {
    let kind = if name.is_multiple_of(2) { Kind::Gauge } else { Kind::Counter(Counter::wrapping(64)) };
    SeriesDef::new("x", "1", kind, Entity { kind: "port", name: format!("p{name}") }, [])
}

fn value(name: usize, bits: u64) -> Value {
    if name.is_multiple_of(2) { Value::Gauge(f64::from_bits(bits)) } else { Value::Counter(bits) }
}

fn bits(value: Value) -> u64 {
    match value {
        Value::Counter(value) => value,
        Value::Gauge(value) => value.to_bits(),
    }
}

/// A number that no code makes smaller (splitmix64).
fn noise(tick: u64) -> u64 {
    let mixed = tick.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
}

fn all(series: &[SeriesId]) -> Query<'_> {
    Query { series, from_ns: 0, to_ns: u64::MAX, samples_max: usize::MAX }
}

#[derive(Clone, Debug)]
enum Act {
    /// Which of 12 series there are.
    Declare(u16),
    /// Reads the series of these bits, `gap` after the last read.
    Read { which: u16, gap_ns: u64, half_width_ns: u64, spread_ns: u64, bits: Vec<u64> },
}

fn act() -> impl Strategy<Value = Act> {
    let bits = prop_oneof![any::<u64>(), 0u64..50, Just(f64::NAN.to_bits()), Just(1.5f64.to_bits())];
    prop_oneof![
        1 => any::<u16>().prop_map(Act::Declare),
        12 => (any::<u16>(), 1u64..3_000_000_000, 0u64..200_000, 0u64..90_000, prop::collection::vec(bits, 12))
            .prop_map(|(which, gap_ns, half_width_ns, spread_ns, bits)| Act::Read { which, gap_ns, half_width_ns, spread_ns, bits }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_readings_of_series_that_come_and_go_are_there_exactly(acts in prop::collection::vec(act(), 1..400)) {
        let tape = Tape::new(BYTES_MIN);
        let mut source = Source::new(&tape);
        let mut handles = source.declare(&(0..12).collect::<Vec<_>>()).into_iter().enumerate().collect::<Vec<_>>();
        let (mut written, mut now_ns) = (vec![Vec::new(); 12], 1_000_000_000u64);
        let mut batch = Batch::with_capacity(12);
        for act in acts {
            match act {
                Act::Declare(which) => {
                    let names: Vec<_> = (0..12).filter(|name| which >> name & 1 == 1).collect();
                    handles = names.iter().copied().zip(source.declare(&names)).collect();
                }
                Act::Read { which, gap_ns, half_width_ns, spread_ns, bits } => {
                    now_ns += gap_ns;
                    batch.clear();
                    for (name, (handle, _)) in handles.iter().filter(|(name, _)| which >> name & 1 == 1) {
                        let moment = Moment { at_ns: now_ns + spread_ns * *name as u64, half_width_ns };
                        batch.push(railwatch_sampling::Reading { series: *handle, value: value(*name, bits[*name]), moment, cause: None });
                        written[*name].push((moment, bits[*name]));
                    }
                    now_ns += 12 * spread_ns;
                    source.take(&batch);
                }
            }
        }
        let ids: Vec<_> = (0..12).map(|name| def(name).id()).collect();
        let answer = tape.read(&all(&ids));
        for (name, id) in ids.iter().enumerate() {
            let read = answer.pieces.iter().find(|piece| piece.series == *id).map_or(&[][..], |piece| &piece.samples);
            prop_assert_eq!(read.len(), written[name].len());
            for (sample, (moment, value)) in read.iter().zip(&written[name]) {
                prop_assert_eq!(bits(sample.value), *value);
                let (from, to) = (moment.at_ns - moment.half_width_ns, moment.at_ns + moment.half_width_ns);
                prop_assert!(sample.at_ns.saturating_sub(sample.half_width_ns) <= from);
                prop_assert!(sample.at_ns + sample.half_width_ns >= to, "the bracket holds what was read");
                prop_assert!(sample.half_width_ns <= moment.half_width_ns.max(50_000) + 512, "{sample:?} {moment:?}");
            }
        }
        let status = tape.status();
        let total: usize = written.iter().map(Vec::len).sum();
        prop_assert_eq!((status.written, status.evicted, status.lost, status.refused), (total as u64, 0, 0, 0));
    }
}

#[test]
fn a_range_and_a_bound_are_kept_to() {
    let tape = Tape::new(BYTES_DEFAULT);
    let mut source = Source::new(&tape);
    let series = source.declare(&[1, 3]);
    let mut batch = Batch::with_capacity(2);
    for tick in 1..=1000u64 {
        batch.clear();
        for (handle, _) in &series {
            batch.counter(*handle, tick, Moment { at_ns: tick * 10 * MS, half_width_ns: 2_000 });
        }
        source.take(&batch);
    }
    let ids = [series[0].1, SeriesId(404), series[1].1];
    let query = Query { series: &ids, from_ns: 2_000 * MS - 1000, to_ns: 2_050 * MS + 1000, samples_max: 100 };
    let answer = tape.read(&query);
    let values: Vec<_> =
        answer.pieces.iter().map(|p| p.samples.iter().map(|s| bits(s.value)).collect::<Vec<_>>()).collect();
    assert_eq!(values, vec![(200..=205).collect::<Vec<u64>>(); 2], "the unknown series has no piece");
    assert!(!answer.is_cut);
    let cut = tape.read(&Query { samples_max: 5, ..query });
    assert!(cut.is_cut);
    assert_eq!(cut.pieces.iter().map(|piece| piece.samples.len()).sum::<usize>(), 5);
}

#[test]
fn two_readings_of_one_series_in_one_batch_are_two() {
    let tape = Tape::new(BYTES_MIN);
    let mut source = Source::new(&tape);
    let series = source.declare(&[0, 2]);
    let mut batch = Batch::with_capacity(4);
    for (at, value) in [(1, 0.0), (2, 1.0), (3, 0.0)] {
        batch.gauge(series[0].0, value, Moment { at_ns: at * MS, half_width_ns: 100 });
    }
    source.take(&batch);
    let answer = tape.read(&all(&[series[0].1]));
    assert_eq!(answer.pieces[0].samples.iter().map(|s| s.value).collect::<Vec<_>>(), [0.0, 1.0, 0.0].map(Value::Gauge));
}

#[test]
fn the_oldest_goes_first_counted_and_how_far_back_is_told() {
    let tape = Tape::new(BYTES_MIN);
    let mut source = Source::new(&tape);
    let series = source.declare(&(0..90).map(|i| i * 2 + 1).collect::<Vec<_>>());
    let mut batch = Batch::with_capacity(90);
    let mut tick = 0u64;
    while tape.status().evicted == 0 || !tick.is_multiple_of(1000) {
        tick += 1;
        batch.clear();
        for (index, (handle, _)) in (0u64..).zip(&series) {
            batch.counter(*handle, noise(tick * 90 + index), Moment { at_ns: tick * MS, half_width_ns: 1 });
        }
        source.take(&batch);
        assert!(tick < 100_000, "memory is bounded");
    }
    let status = tape.status();
    assert!(status.bytes <= BYTES_MIN, "{status:?}");
    let ids: Vec<_> = series.iter().map(|(_, id)| *id).collect();
    let answer = tape.read(&all(&ids));
    let kept: usize = answer.pieces.iter().map(|piece| piece.samples.len()).sum();
    assert_eq!(status.written, kept as u64 + status.evicted + status.lost, "nothing goes uncounted");
    let since = status.complete_since_ns.unwrap();
    for piece in answer.pieces {
        let from: Vec<_> = piece.samples.iter().filter(|sample| sample.at_ns >= since).collect();
        assert_eq!(from.len() as u64, tick - since / MS, "complete since then");
    }
}

#[test]
fn series_beyond_the_memory_for_sheets_are_refused_and_counted() {
    let tape = Tape::new(BYTES_MIN);
    let mut source = Source::new(&tape);
    let series = source.declare(&(0..30_000).collect::<Vec<_>>());
    let mut batch = Batch::with_capacity(30_000);
    for (name, (handle, _)) in series.iter().enumerate() {
        let reading = railwatch_sampling::Reading {
            series: *handle,
            value: value(name, 1),
            moment: Moment { at_ns: MS, half_width_ns: 1 },
            cause: None,
        };
        batch.push(reading);
    }
    source.take(&batch);
    let status = tape.status();
    assert!(status.refused > 0 && status.written > 4_000, "{status:?}");
    assert_eq!(status.written + status.refused, 30_000);
    assert!(status.bytes <= BYTES_MIN / 4 + 512 * 1024, "{status:?}");
}

#[test]
fn readers_see_whole_reads_in_order_while_two_writers_write_and_evict() {
    let tape = Tape::new(BYTES_MIN);
    let done = AtomicBool::new(false);
    let looked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = [0usize, 1000]
            .map(|first| {
                let tape = &tape;
                scope.spawn(move || {
                    let mut source = Source::new(tape);
                    let series = source.declare(&(0..40).map(|i| first + i * 2 + 1).collect::<Vec<_>>());
                    let mut batch = Batch::with_capacity(40);
                    for tick in 1..=60_000u64 {
                        batch.clear();
                        let noise = noise(tick);
                        for (handle, _) in &series {
                            batch.counter(*handle, noise, Moment { at_ns: tick * MS, half_width_ns: 1 });
                        }
                        source.take(&batch);
                    }
                })
            })
            .into_iter()
            .collect();
        let reader = scope.spawn(|| {
            let ids = [def(1).id(), def(79).id(), def(1041).id()];
            while !done.load(Ordering::Relaxed) {
                let answer = tape.read(&all(&ids));
                for piece in &answer.pieces {
                    let mut before = 0;
                    for sample in &piece.samples {
                        let tick = sample.at_ns.div_ceil(MS);
                        assert!(tick > before, "in order, none twice: {tick} after {before}");
                        assert_eq!(sample.value, Value::Counter(noise(tick)), "of its own read");
                        before = tick;
                    }
                    looked.fetch_add(piece.samples.len() as u64, Ordering::Relaxed);
                }
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert!(looked.load(Ordering::Relaxed) > 0, "the reader did read");
    assert!(tape.status().evicted > 0, "and was overtaken");
}
