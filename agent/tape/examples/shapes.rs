//! What a reading costs on the tape, in bytes and nanoseconds, on shapes modelled on the counters of a NIC; beside them the
//! same columns through `pco`, the other candidate. Prints JSON; `cargo xtask bench tape` runs it.
//!
//! The shapes: 8 NICs of 80 counters and 4 gauges at 10 ms. Reads come late by a few microseconds, so that a steady flow
//! moves a counter by its rate over the time that really passed.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says so")]

use railwatch_sampling::{
    Batch, Catalog, Counter, Entity, Kind, Moment, Output, Recorder, SeriesDef, SeriesHandle, SeriesId, Tape as _,
};
use railwatch_tape::{BYTES_DEFAULT, Query, Tape};
use serde::Serialize;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const CADENCE_NS: u64 = 10_000_000;
const NICS: usize = 8;
/// Values of a column at a time, as in the tape.
const ROWS: usize = 256;

/// How the values of a series move.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    /// Never moves: most error counters.
    Still,
    /// Moves by a few, about once a second: congestion marks, retries on a good fabric.
    Rare,
    /// Bytes of a steady flow in packets of one size.
    SteadyBytes,
    /// Packets of a steady flow.
    SteadyPackets,
    /// Packets of a flow whose rate is a random walk.
    NoisyPackets,
    /// Bytes of packets of mixed sizes in bursts: 40 ms on, 60 ms off.
    BurstBytes,
    /// A temperature in 1/256 degrees.
    Temperature,
    /// Watts of a GPU with a hundredth's precision.
    Power,
}

impl Shape {
    const ALL: [Self; 8] = [
        Self::Still,
        Self::Rare,
        Self::SteadyBytes,
        Self::SteadyPackets,
        Self::NoisyPackets,
        Self::BurstBytes,
        Self::Temperature,
        Self::Power,
    ];

    /// How many of a NIC's series are like this.
    fn of_each_nic(self) -> usize {
        match self {
            Self::Still => 60,
            Self::Rare => 8,
            Self::SteadyBytes | Self::SteadyPackets => 2,
            Self::NoisyPackets => 4,
            Self::BurstBytes => 4,
            Self::Temperature => 3,
            Self::Power => 1,
        }
    }

    fn is_gauge(self) -> bool {
        matches!(self, Self::Temperature | Self::Power)
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// About normal, of variance 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.below(1 << 20) as f64 / 1_048_576.0).sum::<f64>() - 6.0
    }
}

/// One series as it moves.
struct Moving {
    shape: Shape,
    total: f64,
    rate_per_s: f64,
    value: u64,
}

impl Moving {
    fn new(shape: Shape, random: &mut Random) -> Self {
        let rate_per_s: f64 = match shape {
            // A third of 400 Gbit/s in packets of 4 KiB.
            Shape::SteadyBytes | Shape::SteadyPackets | Shape::NoisyPackets | Shape::BurstBytes => 4e6,
            Shape::Temperature => 47.0,
            Shape::Power => 640.0,
            Shape::Still | Shape::Rare => 0.0,
        };
        let value = if shape.is_gauge() { rate_per_s.to_bits() } else { random.below(1 << 40) };
        Self { shape, total: 0.0, rate_per_s, value }
    }

    fn step(&mut self, tick: u64, elapsed_ns: u64, random: &mut Random) -> u64 {
        let elapsed_s = elapsed_ns as f64 / 1e9;
        let before = self.total;
        match self.shape {
            Shape::Still => {}
            Shape::Rare => self.value += if random.below(100) == 0 { 1 + random.below(5) } else { 0 },
            Shape::SteadyBytes | Shape::SteadyPackets => {
                self.total += self.rate_per_s * elapsed_s;
                let packets = (self.total as u64) - (before as u64);
                self.value += packets * if self.shape == Shape::SteadyBytes { 4_158 } else { 1 };
            }
            Shape::NoisyPackets => {
                self.rate_per_s = (self.rate_per_s + random.normal() * 2e4).clamp(1e5, 1e7);
                self.total += self.rate_per_s * elapsed_s;
                self.value += (self.total as u64) - (before as u64);
            }
            Shape::BurstBytes => {
                if tick % 10 < 4 {
                    self.value += ((self.rate_per_s * elapsed_s) * (1.0 + random.normal() * 0.02) * 3_000.0) as u64;
                }
            }
            Shape::Temperature => {
                // Refreshed about once a second.
                if random.below(100) == 0 {
                    let steps = (f64::from_bits(self.value) * 256.0).round() + random.below(9) as f64 - 4.0;
                    self.value = (steps / 256.0).to_bits();
                }
            }
            Shape::Power => {
                if tick.is_multiple_of(10) {
                    self.value = (((self.rate_per_s + random.normal() * 15.0) * 100.0).round() / 100.0).to_bits();
                }
            }
        }
        self.value
    }
}

#[derive(Serialize)]
struct OfShape {
    shape: Shape,
    tape_bytes_per_sample: f64,
    tape_write_ns_per_sample: f64,
    pco_bytes_per_sample: f64,
    pco_write_ns_per_sample: f64,
    pco_2048_bytes_per_sample: f64,
}

#[derive(Serialize)]
struct Figures {
    kernel: String,
    series: usize,
    cadence_ms: u64,
    tape_bytes_per_sample: f64,
    tape_write_ns_per_sample: f64,
    tape_read_ns_per_sample: f64,
    tape_slowest_read_us: f64,
    tape_reaches_back_s: f64,
    bytes_max: u64,
    half_width_us_p99: f64,
    shapes: Vec<OfShape>,
}

/// What writing these series gave.
struct Written {
    bytes_per_sample: f64,
    write_ns_per_sample: f64,
    slowest: Duration,
    tape: Tape,
    ids: Vec<SeriesId>,
    columns: Vec<Vec<u64>>,
    last_ns: u64,
}

/// Writes `ticks` reads of `nics` NICs with these shapes, each NIC one system call.
fn write(nics: usize, shapes: &[Shape], ticks: u64, keep_columns: bool) -> Written {
    let tape = Tape::new(BYTES_DEFAULT);
    let mut writer = tape.writer("bench");
    let mut recorder = Recorder::new("bench", Duration::from_secs(1), &[], Arc::new(Catalog::new(100_000)));
    let mut random = Random(42);
    let (mut handles, mut ids, mut moving): (Vec<SeriesHandle>, Vec<SeriesId>, Vec<Moving>) = Default::default();
    recorder
        .probe(0, &mut Output::default(), |declare| {
            for nic in 0..nics {
                for (index, shape) in shapes.iter().enumerate() {
                    let kind = if shape.is_gauge() { Kind::Gauge } else { Kind::Counter(Counter::wrapping(64)) };
                    let entity = Entity { kind: "port", name: format!("nic{nic}") };
                    let def = SeriesDef::new("bench", "1", kind, entity, [("index", index.to_string())]);
                    ids.push(def.id());
                    handles.push(declare.series(def).unwrap());
                    moving.push(Moving::new(*shape, &mut random));
                }
            }
            Ok::<(), Infallible>(())
        })
        .unwrap();
    writer.series(&mut recorder.living());
    let mut columns = vec![Vec::new(); moving.len()];
    let mut batch = Batch::with_capacity(moving.len());
    let (mut spent, mut slowest, mut before_ns, mut last_ns) = (Duration::ZERO, Duration::ZERO, 0, 0);
    for tick in 1..=ticks {
        batch.clear();
        let mut at_ns = tick * CADENCE_NS + 3_000 + (random.normal().abs() * 20_000.0) as u64;
        let elapsed_ns = at_ns - before_ns;
        before_ns = at_ns;
        for (index, series) in moving.iter_mut().enumerate() {
            if index.is_multiple_of(shapes.len()) {
                at_ns += 5_000 + random.below(500);
            }
            let moment = Moment { at_ns, half_width_ns: 2_300 + random.below(300) };
            let value = series.step(tick, elapsed_ns, &mut random);
            if series.shape.is_gauge() {
                batch.gauge(handles[index], f64::from_bits(value), moment);
            } else {
                batch.counter(handles[index], value, moment);
            }
            if keep_columns {
                columns[index].push(value);
            }
        }
        last_ns = at_ns;
        let begun = cpu();
        writer.take(&batch);
        let took = cpu() - begun;
        spent += took;
        slowest = slowest.max(took);
    }
    let status = tape.status();
    drop(writer);
    Written {
        bytes_per_sample: status.compressed_bytes as f64 / status.compressed as f64,
        write_ns_per_sample: spent.as_nanos() as f64 / status.written as f64,
        slowest,
        tape,
        ids,
        columns,
        last_ns,
    }
}

/// Processor time of this thread: what runs beside it does not count.
fn cpu() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::from_nanos(now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs())
}

/// Bytes and nanoseconds a value, through pco, `rows` values of a column at a time.
fn pco(columns: &[Vec<u64>], is_gauge: bool, rows: usize) -> (f64, f64) {
    let config = pco::ChunkConfig::default();
    let (mut bytes, mut count) = (0, 0);
    let begun = cpu();
    for chunk in columns.iter().flat_map(|column| column.chunks(rows)) {
        count += chunk.len();
        bytes += if is_gauge {
            let reals: Vec<f64> = chunk.iter().map(|bits| f64::from_bits(*bits)).collect();
            black_box(pco::standalone::simple_compress(&reals, &config).unwrap()).len()
        } else {
            black_box(pco::standalone::simple_compress(chunk, &config).unwrap()).len()
        };
    }
    (bytes as f64 / count as f64, (cpu() - begun).as_nanos() as f64 / count as f64)
}

fn of_shape(shape: Shape) -> OfShape {
    let written = write(1, &[shape; 64], 40 * ROWS as u64, true);
    let (pco_bytes_per_sample, pco_write_ns_per_sample) = pco(&written.columns, shape.is_gauge(), ROWS);
    let (pco_2048_bytes_per_sample, _) = pco(&written.columns, shape.is_gauge(), 2048);
    OfShape {
        shape,
        tape_bytes_per_sample: written.bytes_per_sample,
        tape_write_ns_per_sample: written.write_ns_per_sample,
        pco_bytes_per_sample,
        pco_write_ns_per_sample,
        pco_2048_bytes_per_sample,
    }
}

fn main() {
    let shapes: Vec<_> =
        Shape::ALL.into_iter().flat_map(|shape| std::iter::repeat_n(shape, shape.of_each_nic())).collect();
    // Long enough that the oldest is let go, so that the reach is measured and not computed.
    let all = write(NICS, &shapes, 260_000, false);
    let status = all.tape.status();
    let begun = cpu();
    let query =
        Query { series: &all.ids, from_ns: all.last_ns - 60_000_000_000, to_ns: u64::MAX, samples_max: 1 << 30 };
    let answer = all.tape.read(&query);
    let read = cpu() - begun;
    let mut half_widths: Vec<_> =
        answer.pieces.iter().flat_map(|piece| piece.samples.iter().map(|sample| sample.half_width_ns)).collect();
    half_widths.sort_unstable();
    let figures = Figures {
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        series: all.ids.len(),
        cadence_ms: CADENCE_NS / 1_000_000,
        tape_bytes_per_sample: all.bytes_per_sample,
        tape_write_ns_per_sample: all.write_ns_per_sample,
        tape_read_ns_per_sample: read.as_nanos() as f64 / half_widths.len() as f64,
        tape_slowest_read_us: all.slowest.as_nanos() as f64 / 1e3,
        tape_reaches_back_s: (all.last_ns - status.complete_since_ns.unwrap_or(all.last_ns)) as f64 / 1e9,
        bytes_max: status.bytes_max,
        half_width_us_p99: half_widths[half_widths.len() * 99 / 100] as f64 / 1e3,
        shapes: Shape::ALL.into_iter().map(of_shape).collect(),
    };
    println!("{}", serde_json::to_string_pretty(&figures).unwrap());
}
