//! Pieces of tape that outlive their host's memory: one for each incident, in the collector's state directory.
//!
//! In: incidents as the core makes them known. Out: a file `tape/incident-N-HOST.json` with the readings around the instant
//! at which the fault was first true, and the file's text for the API. The files are bounded by count and bytes, the
//! oldest incident's goes first. Everything that was not kept is counted. Never: a wait of the core, or an act.

use super::{Fetched, Tapes, Wanted};
use crate::clock::Timeline;
use crate::core::CoreHandle;
use crate::core::incidents::{News, is_history};
use crate::live::{Definition, Live};
use railwatch_engine::{Element, Incident, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Time kept before the instant.
const BEFORE_NS: u64 = 30_000_000_000;
/// And after it.
const AFTER_NS: u64 = 5_000_000_000;
/// Readings of the last of these seconds reach the tape within this.
const MARGIN: Duration = Duration::from_secs(1);
/// An incident whose fault is older is history: its instant is not looked for.
const OLD_NS: u64 = 300_000_000_000;
/// Series of an incident: the element's own first, then those of the host's other ports.
const SERIES_MAX: usize = 192;
/// Series asked for at a time: at 10 ms their readings fit into one answer.
const SERIES_AT_ONCE: usize = 48;
/// Pieces waited for or fetched at one time; of a storm of incidents the others are not kept.
const AT_ONCE_MAX: usize = 32;
/// Of these: fetched at one time, so that people are answered meanwhile.
const FETCHED_AT_ONCE_MAX: usize = 4;
/// Files kept.
const FILES_MAX: usize = 64;
/// Their bytes together.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The kept pieces. Clone it freely.
#[derive(Clone, Debug)]
pub struct Kept(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    writing: Mutex<()>,
    fetching: Semaphore,
    kept: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    evicted: AtomicU64,
}

/// What became of the pieces so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Written.
    pub kept: u64,
    /// Not to be had or not to be written.
    pub failed: u64,
    /// Not tried: too many at one time, or news of incidents missed.
    pub skipped: u64,
    /// Removed again, to stay within the bounds.
    pub evicted: u64,
}

/// The file.
#[derive(Serialize)]
struct Piece<'a> {
    incident: u64,
    host: &'a str,
    from: Timestamp,
    to: Timestamp,
    clock_uncertainty_us: u64,
    complete_since: Option<Timestamp>,
    cut: bool,
    series: Vec<Columns<'a>>,
}

/// The readings of one series by columns.
#[derive(Serialize)]
struct Columns<'a> {
    selector: String,
    name: &'a str,
    labels: &'a BTreeMap<String, String>,
    entity_kind: &'a str,
    entity: &'a str,
    unit: &'a str,
    monotonic: bool,
    /// The first in Unix nanoseconds, then each less the one before.
    at_differences: Vec<i64>,
    half_width_ns: Vec<u64>,
    value: Vec<serde_json::Number>,
}

impl Kept {
    /// In this state directory.
    pub fn in_state_dir(state_dir: &Path) -> Self {
        Self(Arc::new(Inner {
            directory: state_dir.join("tape"),
            writing: Mutex::default(),
            fetching: Semaphore::new(FETCHED_AT_ONCE_MAX),
            kept: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }))
    }

    /// What became of the pieces so far.
    pub fn figures(&self) -> Figures {
        let Inner { kept, failed, skipped, evicted, .. } = &*self.0;
        Figures {
            kept: kept.load(Relaxed),
            failed: failed.load(Relaxed),
            skipped: skipped.load(Relaxed),
            evicted: evicted.load(Relaxed),
        }
    }

    /// The file of an incident, where one is kept.
    pub fn find(&self, incident: u64) -> Option<PathBuf> {
        files(&self.0.directory).into_iter().find(|file| file.incident == incident).map(|file| file.path)
    }

    /// Keeps a piece for every new incident of a connected host, until `stop`.
    pub async fn follow(self, core: CoreHandle, live: Live, tapes: Tapes, stop: CancellationToken) {
        let mut incidents = core.new_incidents();
        let places = Arc::new(Semaphore::new(AT_ONCE_MAX));
        loop {
            let news = tokio::select! {
                () = stop.cancelled() => return,
                news = incidents.next() => news,
            };
            let incident = match news {
                Some(News::Incident(incident)) => incident,
                Some(News::Missed(missed)) => {
                    self.0.skipped.fetch_add(missed, Relaxed);
                    continue;
                }
                None => return,
            };
            let now = Timeline::now();
            if is_history(&incident, now, OLD_NS) {
                continue;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.0.skipped.fetch_add(1, Relaxed);
                continue;
            };
            let (this, live, tapes, stop) = (self.clone(), live.clone(), tapes.clone(), stop.clone());
            tokio::spawn(async move {
                let _place = place;
                let due = incident.started.0.saturating_add(AFTER_NS).saturating_sub(now.0);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(Duration::from_nanos(due) + MARGIN) => this.keep(&live, &tapes, &incident).await,
                }
            });
        }
    }

    async fn keep(&self, live: &Live, tapes: &Tapes, incident: &Incident) {
        let (id, host) = (incident.id, incident.element.host.as_str());
        match self.try_keep(live, tapes, incident).await {
            Ok(Some(path)) => {
                self.0.kept.fetch_add(1, Relaxed);
                tracing::info!(incident = id, host, path = %path.display(), "readings around the incident are kept");
            }
            Ok(None) => {}
            Err(why) => {
                self.0.failed.fetch_add(1, Relaxed);
                tracing::info!(incident = id, host, "readings around the incident are not kept: {why}");
            }
        }
    }

    /// `None` where the host has no series: there is nothing to keep.
    async fn try_keep(&self, live: &Live, tapes: &Tapes, incident: &Incident) -> Result<Option<PathBuf>, String> {
        let host = &incident.element.host;
        let known: Vec<_> = live
            .find(host)
            .map(|cell| cell.lock().series.iter().map(|series| Arc::clone(&series.definition)).collect())
            .unwrap_or_default();
        let chosen = choose(known, &incident.element);
        if chosen.is_empty() {
            return Ok(None);
        }
        let from = Timestamp(incident.started.0.saturating_sub(BEFORE_NS));
        let to = Timestamp(incident.started.0.saturating_add(AFTER_NS));
        let _turn = self.0.fetching.acquire().await.map_err(|error| error.to_string())?;
        let mut answers = Vec::new();
        for part in chosen.chunks(SERIES_AT_ONCE) {
            let series = part.iter().map(|definition| definition.id).collect();
            let wanted = Wanted { series, from, to };
            answers.push(tapes.fetch(live, host, &wanted).await.map_err(|why| why.to_string())?);
        }
        let (this, host) = (self.clone(), host.clone());
        let id = incident.id;
        let written = tokio::task::spawn_blocking(move || this.write(id, &host, (from, to), &chosen, &answers)).await;
        match written {
            Ok(Ok(path)) => Ok(Some(path)),
            Ok(Err(error)) => Err(format!("writing below {}: {error}", self.0.directory.display())),
            Err(_) => Err("the collector is stopping".into()),
        }
    }

    fn write(
        &self,
        incident: u64,
        host: &str,
        (from, to): (Timestamp, Timestamp),
        chosen: &[Arc<Definition>],
        answers: &[Fetched],
    ) -> io::Result<PathBuf> {
        let series = answers.iter().flat_map(|answer| answer.series.iter().map(move |series| (answer, series)));
        let piece = Piece {
            incident,
            host,
            from,
            to,
            clock_uncertainty_us: answers.iter().map(|a| a.clock.uncertainty_ns).max().unwrap_or(0).div_ceil(1000),
            complete_since: answers.iter().filter_map(|answer| answer.complete_since).max(),
            cut: answers.iter().any(|answer| answer.cut),
            series: series
                .filter_map(|(answer, (id, gauge, readings))| {
                    let definition = chosen.iter().find(|definition| definition.id == *id)?;
                    let mut before = 0u64;
                    let difference =
                        |at: Timestamp| at.0.wrapping_sub(std::mem::replace(&mut before, at.0)).cast_signed();
                    let number = |bits: u64| match *gauge {
                        // Not finite: JSON has no word for it, and 0 would be one.
                        true => serde_json::Number::from_f64(f64::from_bits(bits)),
                        false => Some(bits.into()),
                    };
                    let finite: Vec<_> = readings.iter().filter_map(|r| Some((r, number(r.bits)?))).collect();
                    Some(Columns {
                        selector: super::selector::text(definition),
                        name: &definition.name,
                        labels: &definition.labels,
                        entity_kind: &definition.entity_kind,
                        entity: &definition.entity_name,
                        unit: &definition.unit,
                        monotonic: definition.monotonic,
                        at_differences: finite
                            .iter()
                            .map(|(r, _)| answer.clock.map(r.at_mono_ns))
                            .map(difference)
                            .collect(),
                        half_width_ns: finite.iter().map(|(reading, _)| reading.half_width_ns).collect(),
                        value: finite.into_iter().map(|(_, value)| value).collect(),
                    })
                })
                .collect(),
        };
        let _alone = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        std::fs::create_dir_all(&self.0.directory)?;
        let path = self.0.directory.join(format!("incident-{incident}-{host}.json"));
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(&piece)?)?;
        std::fs::rename(&beside, &path)?;
        self.0.evicted.fetch_add(prune(&self.0.directory, FILES_MAX, BYTES_MAX), Relaxed);
        Ok(path)
    }
}

/// The element's own series first, then those of the host's ports.
fn choose(mut known: Vec<Arc<Definition>>, element: &Element) -> Vec<Arc<Definition>> {
    let rank = |definition: &Definition| match definition {
        own if own.entity_name == element.name && own.entity_kind == element.kind => 0,
        same if same.entity_name == element.name => 1,
        port if matches!(port.entity_kind.as_str(), "port" | "nic") => 2,
        _ => 3,
    };
    known.sort_by_cached_key(|definition| (rank(definition), definition.entity_name.clone(), definition.name.clone()));
    known.truncate(SERIES_MAX);
    known
}

/// A kept file.
struct File {
    incident: u64,
    path: PathBuf,
    bytes: u64,
}

/// The kept files, the oldest incident first. A file that is none of ours is left alone.
fn files(directory: &Path) -> Vec<File> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix("incident-")?.strip_suffix(".json")?;
            let incident = rest.split_once('-')?.0.parse().ok()?;
            Some(File { incident, path: entry.path(), bytes: entry.metadata().ok()?.len() })
        })
        .collect();
    found.sort_by_key(|file| file.incident);
    found
}

/// Removes the oldest until the rest is within both bounds. Returns how many went.
fn prune(directory: &Path, files_max: usize, bytes_max: u64) -> u64 {
    let files = files(directory);
    let (mut count, mut bytes) = (files.len(), files.iter().map(|file| file.bytes).sum::<u64>());
    let mut gone = 0;
    for file in files {
        if count <= files_max && bytes <= bytes_max {
            break;
        }
        if let Err(error) = std::fs::remove_file(&file.path) {
            tracing::warn!(path = %file.path.display(), %error, "an old piece of tape is not removed");
            continue;
        }
        (count, bytes, gone) = (count - 1, bytes - file.bytes, gone + 1);
    }
    gone
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::clock::Estimate;
    use railwatch_wire::tape::Reading;

    fn definition(id: u64, kind: &str, entity: &str) -> Arc<Definition> {
        Arc::new(Definition {
            id,
            name: format!("s{id}"),
            unit: "1".into(),
            monotonic: id != 2,
            entity_kind: kind.into(),
            entity_name: entity.into(),
            labels: BTreeMap::new(),
        })
    }

    #[test]
    fn the_elements_own_series_come_first_and_the_number_is_bounded() {
        let element = Element { host: "h".into(), kind: "port".into(), name: "eth1".into() };
        let known = vec![definition(1, "host", "h"), definition(2, "port", "eth0"), definition(3, "port", "eth1")];
        let ids = |known| choose(known, &element).iter().map(|definition| definition.id).collect::<Vec<_>>();
        assert_eq!(ids(known), [3, 2, 1]);
        let many = (0..1000).map(|id| definition(id, "port", "eth0")).collect();
        assert_eq!(ids(many).len(), SERIES_MAX);
    }

    #[test]
    fn a_piece_is_written_by_columns_and_found_by_its_incident() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::in_state_dir(directory.path());
        let chosen = [definition(1, "port", "eth0"), definition(2, "port", "eth0")];
        let reading = |at_mono_ns, bits| Reading { at_mono_ns, half_width_ns: 5, bits };
        let fetched = Fetched {
            series: vec![
                (1, false, vec![reading(10, u64::MAX), reading(30, 3)]),
                (2, true, vec![reading(10, f64::NAN.to_bits()), reading(20, 1.5f64.to_bits())]),
            ],
            clock: Estimate { offset_ns: 1000, uncertainty_ns: 1500 },
            cut: false,
            complete_since: Some(Timestamp(7)),
        };
        let path = kept.write(17, "gpu-1", (Timestamp(0), Timestamp(9)), &chosen, &[fetched]).unwrap();
        assert_eq!(kept.find(17), Some(path.clone()));
        assert_eq!(kept.find(1), None);
        let text: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!((&text["host"], &text["clock_uncertainty_us"]), (&"gpu-1".into(), &2.into()));
        assert_eq!(text["series"][0]["at_differences"], serde_json::json!([1010, 20]));
        assert_eq!(text["series"][0]["value"], serde_json::json!([u64::MAX, 3]));
        assert_eq!(text["series"][1]["value"], serde_json::json!([1.5]), "what is not finite has no number");
    }

    #[test]
    fn the_oldest_incident_goes_first_and_strangers_stay() {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("incident-9-a.json", 10), ("incident-10-b.json", 10), ("incident-11-c-d.json", 30), ("notes.txt", 1000)]
        {
            std::fs::write(directory.path().join(name), vec![0; bytes]).unwrap();
        }
        let left = || files(directory.path()).iter().map(|file| file.incident).collect::<Vec<_>>();
        assert_eq!((prune(directory.path(), 3, 100), left()), (0, vec![9, 10, 11]));
        assert_eq!((prune(directory.path(), 2, 100), left()), (1, vec![10, 11]));
        assert_eq!((prune(directory.path(), 2, 35), left()), (1, vec![11]));
        assert!(directory.path().join("notes.txt").exists());
    }
}
