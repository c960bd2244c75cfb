//! A piece of the tape on the host's own disk, when a critical signal comes and no collector is there to ask for it.
//!
//! In: critical signals, handed over without a wait. Out: a file `tape/signal-UNIX_MS.json` in the state directory, with the
//! readings from 30 s before the signal to 5 s after it, of its entity's series and those of the host's other ports. Bounded by
//! count and bytes, the oldest goes first; what became of each signal is counted. Never: a wait of whoever raises a signal.

use railwatch_sampling::clock::{monotonic_ns, realtime_ns};
use railwatch_sampling::{Catalog, SeriesDef, Value};
use railwatch_tape::{Query, Tape};
use railwatch_wire::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

const BEFORE_NS: u64 = 30_000_000_000;
const AFTER_NS: u64 = 5_000_000_000;
/// Signals that wait; of a storm the first are enough.
const WAITING_MAX: usize = 16;
/// Series in one file.
const SERIES_MAX: usize = 192;
/// Readings in one file.
const READINGS_MAX: usize = 400_000;
/// Files kept.
const FILES_MAX: usize = 16;
/// Their bytes together.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What became of the critical signals without a collector.
#[derive(Debug, Default)]
pub struct Fates {
    /// Written.
    pub written: AtomicU64,
    /// Within the time that the file before holds.
    pub joined: AtomicU64,
    /// Too many at a time.
    pub skipped: AtomicU64,
    /// The disk refused.
    pub failed: AtomicU64,
    /// Files removed to stay within the bounds.
    pub evicted: AtomicU64,
}

/// The way to the thread that writes.
#[derive(Clone)]
pub struct Dump {
    signals: SyncSender<v1::Signal>,
    /// What became of them.
    pub fates: Arc<Fates>,
}

impl Dump {
    /// Starts the thread. It ends with the last handle.
    pub fn start(tape: Tape, catalog: Arc<Catalog>, state_dir: &Path) -> io::Result<Self> {
        let (signals, taken) = sync_channel(WAITING_MAX);
        let fates = Arc::<Fates>::default();
        let writer = Writer { tape, catalog, directory: state_dir.join("tape"), fates: Arc::clone(&fates) };
        std::thread::Builder::new().name("rw-tape-dump".into()).spawn(move || writer.run(&taken))?;
        Ok(Self { signals, fates })
    }

    /// A critical signal came, and no collector is there. Returns at once.
    pub fn signal(&self, signal: &v1::Signal) {
        if self.signals.try_send(signal.clone()).is_err() {
            self.fates.skipped.fetch_add(1, Relaxed);
        }
    }
}

/// The file.
#[derive(Serialize)]
struct File<'a> {
    signal: &'a str,
    summary: &'a str,
    entity_kind: &'a str,
    entity: &'a str,
    observed_mono_ns: u64,
    /// Add to an instant to get CLOCK_REALTIME as it was when the file was written.
    unix_less_mono_ns: i64,
    series: Vec<Columns<'a>>,
}

/// Readings of one series by columns.
#[derive(Serialize)]
struct Columns<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
    entity_kind: &'a str,
    entity: &'a str,
    unit: &'a str,
    /// The first in CLOCK_MONOTONIC nanoseconds, then each less the one before.
    at_differences: Vec<i64>,
    half_width_ns: Vec<u64>,
    /// A counter's raw steps, or a gauge's value; null where that is not finite.
    value: Vec<serde_json::Value>,
}

struct Writer {
    tape: Tape,
    catalog: Arc<Catalog>,
    directory: PathBuf,
    fates: Arc<Fates>,
}

impl Writer {
    fn run(self, signals: &Receiver<v1::Signal>) {
        let mut held_until_ns = 0;
        while let Ok(signal) = signals.recv() {
            if signal.observed_mono_ns <= held_until_ns {
                self.fates.joined.fetch_add(1, Relaxed);
                continue;
            }
            held_until_ns = signal.observed_mono_ns.saturating_add(AFTER_NS);
            std::thread::sleep(Duration::from_nanos(held_until_ns.saturating_sub(monotonic_ns()).min(AFTER_NS)));
            match self.write(&signal) {
                Ok(path) => {
                    self.fates.written.fetch_add(1, Relaxed);
                    tracing::info!(path = %path.display(), "no collector: the readings around {} are on disk", signal.name);
                }
                Err(error) => {
                    self.fates.failed.fetch_add(1, Relaxed);
                    tracing::warn!(directory = %self.directory.display(), %error, "the readings around {} are not on disk", signal.name);
                }
            }
            let evicted = prune(&self.directory, FILES_MAX, BYTES_MAX);
            self.fates.evicted.fetch_add(evicted, Relaxed);
        }
    }

    fn write(&self, signal: &v1::Signal) -> io::Result<PathBuf> {
        let entity = signal.entity.clone().unwrap_or_default();
        let defs = choose(self.catalog.all(), &entity);
        let ids: Vec<_> = defs.iter().map(|def| def.id()).collect();
        let answer = self.tape.read(&Query {
            series: &ids,
            from_ns: signal.observed_mono_ns.saturating_sub(BEFORE_NS),
            to_ns: signal.observed_mono_ns.saturating_add(AFTER_NS),
            samples_max: READINGS_MAX,
        });
        let series = answer.pieces.iter().filter_map(|piece| {
            let def = defs.iter().find(|def| def.id() == piece.series)?;
            let mut before = 0u64;
            let difference = |at: u64| at.wrapping_sub(std::mem::replace(&mut before, at)).cast_signed();
            Some(Columns {
                name: def.name(),
                labels: def.labels().iter().map(|(key, value)| (*key, value.as_str())).collect(),
                entity_kind: def.entity().kind,
                entity: &def.entity().name,
                unit: def.unit(),
                at_differences: piece.samples.iter().map(|sample| sample.at_ns).map(difference).collect(),
                half_width_ns: piece.samples.iter().map(|sample| sample.half_width_ns).collect(),
                value: piece
                    .samples
                    .iter()
                    .map(|sample| match sample.value {
                        Value::Counter(value) => value.into(),
                        Value::Gauge(value) => value.into(),
                    })
                    .collect(),
            })
        });
        let file = File {
            signal: &signal.name,
            summary: &signal.summary,
            entity_kind: &entity.kind,
            entity: &entity.name,
            observed_mono_ns: signal.observed_mono_ns,
            unix_less_mono_ns: realtime_ns().wrapping_sub(monotonic_ns()).cast_signed(),
            series: series.collect(),
        };
        std::fs::create_dir_all(&self.directory)?;
        let path = self.directory.join(format!("signal-{}.json", realtime_ns() / 1_000_000));
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(&file)?)?;
        std::fs::rename(&beside, &path)?;
        Ok(path)
    }
}

/// The entity's own series first, then those of ports.
fn choose(mut defs: Vec<Arc<SeriesDef>>, entity: &v1::Entity) -> Vec<Arc<SeriesDef>> {
    let rank = |def: &SeriesDef| match def.entity() {
        own if own.name == entity.name => 0,
        port if port.kind == "port" => 1,
        _ => 2,
    };
    defs.sort_by_cached_key(|def| (rank(def), def.entity().name.clone(), def.name()));
    defs.truncate(SERIES_MAX);
    defs
}

/// Removes the oldest files until the rest is within both bounds; strangers stay. Returns how many went.
fn prune(directory: &Path, files_max: usize, bytes_max: u64) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let mut files: Vec<(u64, PathBuf, u64)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let unix_ms = name.strip_prefix("signal-")?.strip_suffix(".json")?.parse().ok()?;
            Some((unix_ms, entry.path(), entry.metadata().ok()?.len()))
        })
        .collect();
    files.sort_unstable();
    let (mut count, mut bytes) = (files.len(), files.iter().map(|(.., bytes)| bytes).sum::<u64>());
    let mut gone = 0;
    for (_, path, size) in files {
        if count <= files_max && bytes <= bytes_max {
            break;
        }
        if std::fs::remove_file(path).is_ok() {
            (count, bytes, gone) = (count - 1, bytes - size, gone + 1);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::super::tests::tape;
    use super::*;
    use std::time::Instant;

    fn signal(observed_mono_ns: u64) -> v1::Signal {
        v1::Signal {
            name: "nic.link.down".into(),
            entity: Some(v1::Entity { kind: "port".into(), name: "p1".into() }),
            observed_mono_ns,
            ..v1::Signal::default()
        }
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < end, "this never came to be: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_readings_around_a_signal_are_written_once_its_entity_first() {
        let (tape, catalog, _) = tape();
        let directory = tempfile::tempdir().unwrap();
        let dump = Dump::start(tape, catalog, directory.path()).unwrap();
        // Long ago: nothing to wait for. The second is within what the first file holds.
        dump.signal(&signal(1_000_000_000));
        dump.signal(&signal(1_500_000_000));
        let count = |fate: &AtomicU64| fate.load(Relaxed);
        eventually("both have their fate", || count(&dump.fates.written) == 1 && count(&dump.fates.joined) == 1);
        let path = std::fs::read_dir(directory.path().join("tape")).unwrap().next().unwrap().unwrap().path();
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!((&file["signal"], &file["series"][0]["entity"]), (&"nic.link.down".into(), &"p1".into()));
        assert_eq!(file["series"].as_array().unwrap().len(), 2);
        let values: Vec<_> =
            file["series"][0]["value"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
        assert_eq!(values, (1..=3000).collect::<Vec<_>>());
    }

    #[test]
    fn a_disk_that_refuses_is_counted() {
        let (tape, catalog, _) = tape();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tape"), "no directory").unwrap();
        let dump = Dump::start(tape, catalog, directory.path()).unwrap();
        dump.signal(&signal(1_000_000_000));
        eventually("the failure", || dump.fates.failed.load(Relaxed) == 1);
    }

    #[test]
    fn the_oldest_files_go_first_and_strangers_stay() {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in [("signal-9.json", 10), ("signal-10.json", 10), ("signal-11.json", 30), ("x.json", 500)] {
            std::fs::write(directory.path().join(name), vec![0; bytes]).unwrap();
        }
        assert_eq!(prune(directory.path(), 3, 100), 0);
        assert_eq!(prune(directory.path(), 2, 100), 1);
        assert_eq!(prune(directory.path(), 2, 35), 1);
        let mut left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["signal-11.json", "x.json"]);
    }
}
