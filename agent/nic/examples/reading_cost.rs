//! Prints what a reading costs on this host: `cargo run --release -p railwatch-nic --example reading_cost [SYSFS_ROOT]`.
//!
//! Each source is probed and read 2000 times in a row; times are medians of one read, the recorder's share apart.
//! Interfaces of kind veth are read too, so that it can be run in a network namespace of its own with any number of them.

use railwatch_nic::{NicConfig, NicSources, RULES};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, Output, Recorder};
use std::sync::Arc;
use std::time::Duration;

const READS: usize = 2000;

fn main() {
    let sysfs_root = std::env::args().nth(1).unwrap_or_else(|| "/sys".to_owned()).into();
    let nic = NicSources::new(&NicConfig { sysfs_root, software_interfaces: vec!["veth".to_owned()] });
    println!("{:<12} {:>8} {:>12} {:>14} {:>16}  path", "source", "readings", "read ns", "ns/reading", "recorder ns/r");
    for mut source in nic.sources {
        let catalog = Arc::new(Catalog::default());
        let mut recorder = Recorder::new(source.name(), Duration::from_secs(1), RULES, catalog);
        let mut out = Output::default();
        let mut batch = Batch::with_capacity(10_000);
        if let Err(off) = recorder.probe(monotonic_ns(), &mut out, |declare| source.probe(declare)) {
            println!("{:<12} off: {off}", source.name());
            continue;
        }
        let (mut read_ns, mut record_ns) = (Vec::with_capacity(READS), Vec::with_capacity(READS));
        for _ in 0..READS {
            batch.clear();
            let start_ns = monotonic_ns();
            if let Err(error) = source.read(&mut batch) {
                println!("{:<12} {error}", source.name());
            }
            let read_at_ns = monotonic_ns();
            recorder.record(&batch, &mut out);
            record_ns.push(monotonic_ns() - read_at_ns);
            read_ns.push(read_at_ns - start_ns);
        }
        let readings = batch.readings().len().max(1) as u64;
        let (read, record) = (median(read_ns), median(record_ns));
        println!(
            "{:<12} {readings:>8} {read:>12} {:>14} {:>16}  {}",
            source.name(),
            read / readings,
            record / readings,
            source.kernel_path()
        );
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}
