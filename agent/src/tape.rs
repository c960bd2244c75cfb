//! The tape's place in the agent: answers the collector's requests, and shows on the page how the tape stands.
//!
//! In: requests that the uplink took. Out: pieces of readings, small enough that a signal never waits behind much. Never: an
//! answer beyond the wire's limits.

mod dump;

pub use dump::Dump;

use crate::page::{Page, labels};
use crate::privileges::{Limitation, MemoryLimit};
use prometheus_client::registry::Unit;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{SeriesId, Value};
use railwatch_tape::{BYTES_MIN, Kind, Query, Tape};
use railwatch_uplink::Tapes;
use railwatch_wire::limits::{TAPE_PIECE_READINGS_MAX, TAPE_READINGS_MAX, TAPE_SERIES_MAX};
use railwatch_wire::tape::{Reading, pack};
use railwatch_wire::v1::{TapeColumn, TapePiece, TapeRequest};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Of the memory that the agent's cgroup allows, the tape takes at most this part: what it grows into must not be what the
/// kernel kills the agent for.
const PART_OF_LIMIT: u64 = 4;

/// A tape of at most `bytes_max` bytes, or of what the cgroup's limit leaves for one; with it, or instead of it, what is to
/// be said of that.
pub fn within(bytes_max: u64, limit: Option<&MemoryLimit>) -> (Option<Tape>, Option<Limitation>) {
    let Some(limit) = limit.filter(|limit| limit.bytes / PART_OF_LIMIT < bytes_max) else {
        return (Some(Tape::new(bytes_max)), None);
    };
    let bytes = limit.bytes / PART_OF_LIMIT;
    let (tape, what) = if bytes < BYTES_MIN {
        (None, format!("off: a {PART_OF_LIMIT}th of that would be less than the {} MiB it needs", BYTES_MIN >> 20))
    } else {
        (
            Some(Tape::new(bytes)),
            format!("held to a {PART_OF_LIMIT}th of that and not to the {} MiB asked for", bytes_max >> 20),
        )
    };
    let why = format!(
        "the cgroup allows {} MiB ({}), so the tape is {what}; raise memory.max (MemoryMax=, resources.limits.memory)",
        limit.bytes >> 20,
        limit.source.display(),
    );
    (tape, Some(Limitation::new("tape", why)))
}

/// Answers requests from this tape.
pub struct TapeDesk(pub Tape);

impl Tapes for TapeDesk {
    fn answer(&self, request: &TapeRequest, give: &mut dyn FnMut(TapePiece) -> bool) {
        if request.series.len() > TAPE_SERIES_MAX {
            let refused = format!("{} series; at most {TAPE_SERIES_MAX} are read at a time", request.series.len());
            give(TapePiece { id: request.id, last: true, refused, ..TapePiece::default() });
            return;
        }
        let series: Vec<_> = request.series.iter().map(|id| SeriesId(*id)).collect();
        let answer = self.0.read(&Query {
            series: &series,
            from_ns: request.from_mono_ns,
            to_ns: request.to_mono_ns,
            samples_max: (request.readings_max as usize).min(TAPE_READINGS_MAX),
        });
        let mut piece = TapePiece { id: request.id, ..TapePiece::default() };
        let mut room = TAPE_PIECE_READINGS_MAX;
        for of_series in &answer.pieces {
            let mut rest = &of_series.samples[..];
            // A series without readings has a column, too: it is known, and nothing was read.
            loop {
                let (now, later) = rest.split_at(rest.len().min(room));
                piece.columns.push(column(of_series.series, of_series.kind, now));
                room -= now.len();
                rest = later;
                if room == 0 {
                    let full = std::mem::replace(&mut piece, TapePiece { id: request.id, ..TapePiece::default() });
                    if !give(full) {
                        return;
                    }
                    room = TAPE_PIECE_READINGS_MAX;
                }
                if rest.is_empty() {
                    break;
                }
            }
        }
        piece.last = true;
        piece.cut = answer.is_cut;
        let is_known = |id: &SeriesId| answer.pieces.iter().any(|piece| piece.series == *id);
        piece.unknown_series = series.iter().filter(|id| !is_known(id)).map(|id| id.0).collect();
        piece.complete_since_mono_ns = self.0.status().complete_since_ns;
        give(piece);
    }
}

fn column(series: SeriesId, kind: Kind, samples: &[railwatch_tape::Sample]) -> TapeColumn {
    let readings = samples.iter().map(|sample| Reading {
        at_mono_ns: sample.at_ns,
        half_width_ns: sample.half_width_ns,
        bits: match sample.value {
            Value::Counter(value) => value,
            Value::Gauge(value) => value.to_bits(),
        },
    });
    pack(series.0, kind == Kind::Gauge, readings)
}

/// What the page says of the tape.
pub fn show(page: &mut Page, tape: &Tape, dump: Option<&Dump>) {
    let status = tape.status();
    page.gauge(
        "agent_tape_memory",
        "Memory of the tape, in use and at most",
        Some(Unit::Bytes),
        [(labels([("of", "used")]), status.bytes), (labels([("of", "max")]), status.bytes_max)],
    );
    page.counter(
        "agent_tape_compressed",
        "Memory that compressed readings took, in all",
        Some(Unit::Bytes),
        [(labels([]), status.compressed_bytes)],
    );
    page.counter(
        "agent_tape_samples",
        "Readings of all sources, by what became of them: written, and of those compressed, evicted for newer ones or lost; refused ones were never written",
        None,
        [
            (labels([("fate", "written")]), status.written),
            (labels([("fate", "compressed")]), status.compressed),
            (labels([("fate", "evicted")]), status.evicted),
            (labels([("fate", "lost")]), status.lost),
            (labels([("fate", "refused")]), status.refused),
        ],
    );
    if let Some(fates) = dump.map(|dump| &dump.fates) {
        let of = |fate: &'static str, count: &AtomicU64| (labels([("fate", fate)]), count.load(Relaxed));
        page.counter(
            "agent_tape_dumps",
            "Critical signals without a collector, by what became of the readings around them on this host's disk; evicted counts files",
            None,
            [
                of("written", &fates.written),
                of("joined", &fates.joined),
                of("skipped", &fates.skipped),
                of("failed", &fates.failed),
                of("evicted", &fates.evicted),
            ],
        );
    }
    if let Some(since_ns) = status.complete_since_ns {
        #[expect(clippy::cast_precision_loss, reason = "a duration for a graph")]
        let reach_s = monotonic_ns().saturating_sub(since_ns) as f64 / 1e9;
        let help = "How far back the tape holds every reading";
        page.gauge("agent_tape_reach", help, Some(Unit::Seconds), [(Vec::new(), reach_s)]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use railwatch_sampling::{
        Batch, Catalog, Counter, Entity, Kind as Behaviour, Moment, Output, Recorder, SeriesDef, Tape as _,
    };
    use railwatch_wire::tape::unpack;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    /// A tape on which series "x" of ports p0 and p1 were read 3000 times, a millisecond apart.
    pub fn tape() -> (Tape, Arc<Catalog>, [u64; 2]) {
        let tape = Tape::new(BYTES_MIN);
        let mut writer = tape.writer("test");
        let catalog = Arc::new(Catalog::default());
        let mut recorder = Recorder::new("test", Duration::from_secs(1), &[], Arc::clone(&catalog));
        let (mut handles, mut ids) = (Vec::new(), [0; 2]);
        let declared = recorder.probe(0, &mut Output::default(), |declare| {
            for (port, id) in ids.iter_mut().enumerate() {
                let entity = Entity { kind: "port", name: format!("p{port}") };
                let def = SeriesDef::new("x", "1", Behaviour::Counter(Counter::wrapping(64)), entity, []);
                *id = def.id().0;
                handles.push(declare.series(def).unwrap());
            }
            Ok::<(), Infallible>(())
        });
        declared.unwrap();
        writer.series(&mut recorder.living());
        let mut batch = Batch::with_capacity(2);
        for tick in 1..=3000u64 {
            batch.clear();
            for handle in &handles {
                batch.counter(*handle, tick, Moment { at_ns: tick * 1_000_000, half_width_ns: 100 });
            }
            writer.take(&batch);
        }
        (tape, catalog, ids)
    }

    fn ask(request: &TapeRequest) -> Vec<TapePiece> {
        let mut pieces = Vec::new();
        TapeDesk(tape().0).answer(request, &mut |piece| {
            pieces.push(piece);
            true
        });
        pieces
    }

    #[test]
    fn an_answer_comes_in_small_pieces_that_make_the_whole() {
        let ids = tape().2;
        let series = vec![ids[0], 404, ids[1]];
        let pieces = ask(&TapeRequest { id: 7, series, from_mono_ns: 0, to_mono_ns: u64::MAX, readings_max: 1 << 20 });
        let (last, others) = pieces.split_last().unwrap();
        assert!(last.last && others.iter().all(|piece| !piece.last) && pieces.iter().all(|piece| piece.id == 7));
        assert_eq!((last.cut, &last.unknown_series[..], &*last.refused), (false, &[404][..], ""));
        assert!(last.complete_since_mono_ns.is_some_and(|since| since <= 1_000_000));
        for id in ids {
            let of_series = pieces.iter().flat_map(|piece| &piece.columns).filter(|column| column.series == id);
            let values: Vec<_> = of_series.flat_map(|column| unpack(column).unwrap()).map(|r| r.bits).collect();
            assert_eq!(values, (1..=3000).collect::<Vec<_>>());
        }
        let largest = pieces.iter().map(|p| p.columns.iter().map(|c| c.at_mono_ns.len()).sum::<usize>()).max();
        assert_eq!(largest, Some(TAPE_PIECE_READINGS_MAX));
    }

    #[test]
    fn a_known_series_without_readings_has_an_empty_column_and_too_much_is_refused() {
        let (.., ids) = tape();
        let none = ask(&TapeRequest { id: 1, series: ids.to_vec(), from_mono_ns: 1, to_mono_ns: 2, readings_max: 10 });
        assert_eq!(none.len(), 1);
        assert_eq!(none[0].columns.iter().map(|column| column.at_mono_ns.len()).collect::<Vec<_>>(), [0, 0]);
        let cut =
            ask(&TapeRequest { id: 1, series: ids.to_vec(), from_mono_ns: 0, to_mono_ns: u64::MAX, readings_max: 10 });
        assert!(cut[0].cut);
        let much = ask(&TapeRequest { id: 1, series: vec![1; TAPE_SERIES_MAX + 1], ..TapeRequest::default() });
        assert!(much[0].last && much[0].refused.contains("at most 512"), "{much:?}");
    }

    #[test]
    fn a_tape_never_grows_into_what_the_cgroup_kills_for() {
        for (limit_mib, bytes_mib, said) in [
            (None, Some(32), None),
            (Some(512), Some(32), None),
            (Some(128), Some(32), None),
            (Some(64), Some(16), Some("held to a 4th of that")),
            (Some(30), None, Some("off: a 4th of that")),
        ] {
            let limit = limit_mib.map(|mib: u64| MemoryLimit { bytes: mib << 20, source: "memory.max".into() });
            let (tape, limitation) = within(32 << 20, limit.as_ref());
            assert_eq!(tape.map(|tape| tape.status().bytes_max >> 20), bytes_mib, "{limit_mib:?} MiB");
            assert_eq!(limitation.is_some(), said.is_some(), "{limit_mib:?} MiB: {limitation:?}");
            assert!(said.is_none_or(|said| limitation.unwrap().why.contains(said)), "{limit_mib:?} MiB");
        }
    }
}
