//! Prints what reading costs on this host: `cargo run --release -p railwatch-nic --example reading_cost [SYSFS_ROOT]`.
//!
//! First each source is probed and read 2000 times in a row; times are medians of one read, the recorder's share apart.
//! Then the sampler runs all of them for 10 s at their default cadences; the share of one core is the process's own CPU
//! time. Interfaces of kind veth are read too, so that it can be run in a network namespace with any number of them.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use railwatch_nic::{NicConfig, NicSources, RULES};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, Catalog, Output, Recorder, Sampler, SamplerConfig, Signal, Sink, SinkFull, WindowFrame,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const READS: usize = 2000;

const RUN: Duration = Duration::from_secs(10);

fn main() {
    let sysfs_root = std::env::args().nth(1).unwrap_or_else(|| "/sys".to_owned());
    each_source(Path::new(&sysfs_root));
    all_at_their_cadence(Path::new(&sysfs_root));
}

fn sources(sysfs_root: &Path) -> NicSources {
    let software_interfaces = vec!["veth".to_owned()];
    NicSources::new(&NicConfig { sysfs_root: sysfs_root.to_owned(), software_interfaces })
}

#[derive(Default)]
struct Counting {
    rows: AtomicU64,
    signals: AtomicU64,
}

impl Sink for Counting {
    fn window(&self, frame: WindowFrame) -> Result<(), SinkFull> {
        self.rows.fetch_add(frame.len() as u64, Relaxed);
        Ok(())
    }

    fn signal(&self, _: Signal) -> Result<(), SinkFull> {
        self.signals.fetch_add(1, Relaxed);
        Ok(())
    }
}

fn all_at_their_cadence(sysfs_root: &Path) {
    let seen = Arc::new(Counting::default());
    let catalog = Arc::new(Catalog::default());
    let config = SamplerConfig { rules: RULES, ..SamplerConfig::default() };
    let mut sampler = Sampler::new(config, Arc::clone(&catalog), Arc::clone(&seen) as Arc<dyn Sink>);
    for source in sources(sysfs_root).sources {
        if let Err(error) = sampler.start(source, None) {
            println!("{error}");
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let before_us = cpu_us();
    std::thread::sleep(RUN);
    let spent_us = cpu_us() - before_us;
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    let percent = spent_us as f64 / RUN.as_micros() as f64 * 100.0;
    let reports = sampler.stop();
    let readings: u64 = reports.iter().map(|report| report.readings).sum();
    let missed: u64 = reports.iter().map(|report| report.missed_deadlines).sum();
    println!(
        "\n{RUN:?} at default cadences: {percent:.2} % of one core, {} series, {readings} readings, {} rows of windows, {missed} \
         deadlines missed, {} signals",
        catalog.all().len(),
        seen.rows.load(Relaxed),
        seen.signals.load(Relaxed)
    );
}

fn cpu_us() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
}

fn each_source(sysfs_root: &Path) {
    let nic = sources(sysfs_root);
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
