//! Prints what a sample costs: `cargo run -p railwatch-phases --example cost` (the crate is optimised in every profile).

use railwatch_phases::{Config, Detector, Sample};
use std::time::Instant;

const SAMPLES: u64 = 360_000;

fn main() {
    let mut detector = Detector::new(Config::default());
    let begun = Instant::now();
    let mut events = 0;
    for sample in 0..SAMPLES {
        let nic_bytes_per_s = if sample % 137 < 90 { 1e5 } else { 40e9 };
        let sample =
            Sample { at_ns: sample * 10_000_000, nic_bytes_per_s, read_bytes_per_s: 0.0, write_bytes_per_s: 0.0 };
        events += u32::from(detector.push(sample).is_some());
    }
    let took = begun.elapsed();
    println!(
        "an hour of samples every 10 ms: {:.2} us each, {:.4} % of a core; period {:?}, {events} events",
        took.as_secs_f64() * 1e6 / SAMPLES as f64,
        took.as_secs_f64() / 3600.0 * 100.0,
        detector.period()
    );
}
