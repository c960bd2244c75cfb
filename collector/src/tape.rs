//! The tapes of the hosts, read through their streams.
//!
//! In: a host, series, two instants on the collector's timeline, from the API. Out: readings on that timeline, as the
//! host's agent has them in memory, or why there are none. The streams of [`crate::ingest`] carry the requests. Bounded: so
//! many requests at a time, so many readings each, so long a wait. [`kept`] keeps a piece of each incident. Never: an order claimed
//! between readings of different hosts that their clocks cannot show: the clock's uncertainty goes with every answer.

pub mod kept;
pub mod selector;

use crate::clock::{Estimate, Timeline};
use crate::live::Live;
use crate::overload::Overload;
use railwatch_engine::Timestamp;
use railwatch_wire::limits::{TAPE_READINGS_MAX, TAPE_SERIES_MAX};
use railwatch_wire::tape::{Reading, unpack};
use railwatch_wire::v1;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Requests under way at one time, over all hosts.
const ASKED_AT_ONCE_MAX: usize = 8;
/// Requests that wait for one host's stream.
const ASKS_QUEUED_MAX: usize = 8;
/// Pieces that an answer may have before it is more than was asked for.
const PIECES_MAX: usize = 1024;
/// The agent's whole answer comes within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A request on its way to a host, and where its pieces go.
#[derive(Debug)]
pub struct Ask {
    /// As sent.
    pub request: v1::TapeRequest,
    /// In the order of their coming.
    pub pieces: mpsc::Sender<v1::TapePiece>,
}

/// Ways to the tapes of the hosts that are connected. Clone it freely.
#[derive(Clone, Debug)]
pub struct Tapes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: Mutex<HashMap<Arc<str>, Line>>,
    next_id: AtomicU64,
    under_way: Semaphore,
    overload: Overload,
}

/// The way to one host's stream.
#[derive(Debug)]
struct Line {
    generation: u64,
    asks: mpsc::Sender<Ask>,
}

impl Default for Tapes {
    fn default() -> Self {
        Self::below(Overload::default())
    }
}

impl Tapes {
    /// Tapes that are refused while the collector has too much to do.
    pub fn below(overload: Overload) -> Self {
        Self(Arc::new(Inner {
            lines: Mutex::default(),
            next_id: AtomicU64::new(1),
            under_way: Semaphore::new(ASKED_AT_ONCE_MAX),
            overload,
        }))
    }
}

/// What is wanted of one host's tape.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Identifiers of series.
    pub series: Vec<u64>,
    /// Inclusive, collector's timeline.
    pub from: Timestamp,
    /// Inclusive.
    pub to: Timestamp,
}

/// What a tape had.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// Readings by series, in the order asked; series that the tape does not know are absent. Instants are the host's.
    pub series: Vec<(u64, bool, Vec<Reading>)>,
    /// The host's clock: maps instants, and says how wrong that can be.
    pub clock: Estimate,
    /// The latest readings between the instants are missing: there were more than one answer holds.
    pub cut: bool,
    /// Every reading from then on is still on the tape; absent while the tape is empty.
    pub complete_since: Option<Timestamp>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// No stream of the host is open.
    #[error(
        "host {0} is not connected: its tape is in its agent's memory and can be read once it is back, if it was not restarted"
    )]
    Away(String),
    /// It went away while it answered.
    #[error("host {0} went away while it read its tape: ask again once it is back")]
    Gone(String),
    /// Nothing is known of its clock yet.
    #[error("the clock of host {0} is not measured yet: ask again in a second")]
    NoClock(String),
    /// It did not answer in time.
    #[error(
        "host {0} gave no whole answer within 10 s: its agent is busy, or of a version that keeps no tape (`railwatch hosts -o json` shows versions)"
    )]
    TimedOut(String),
    /// Too many requests are under way.
    #[error("{ASKED_AT_ONCE_MAX} requests for tapes are under way: ask again in a moment")]
    Busy,
    /// The collector itself has too much to do.
    #[error("the collector is busy with signals and windows: pieces of tape wait; ask again in some seconds")]
    Overloaded,
    /// The agent refuses.
    #[error("the agent of host {0} refuses: {1}")]
    Refused(String, String),
    /// The agent answers what was not asked.
    #[error("the agent of host {0} gave an answer that cannot be used: {1}")]
    Malformed(String, &'static str),
}

impl Tapes {
    /// The stream of this generation can be asked from now on; it takes the asks from the receiver.
    pub fn open(&self, host: &Arc<str>, generation: u64) -> mpsc::Receiver<Ask> {
        let (asks, taken) = mpsc::channel(ASKS_QUEUED_MAX);
        self.lines().insert(Arc::clone(host), Line { generation, asks });
        taken
    }

    /// The stream of this generation ended.
    pub fn close(&self, host: &Arc<str>, generation: u64) {
        let mut lines = self.lines();
        if lines.get(host).is_some_and(|line| line.generation == generation) {
            lines.remove(host);
        }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Arc<str>, Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a host's tape.
    pub async fn fetch(&self, live: &Live, host: &str, wanted: &Wanted) -> Result<Fetched, Unanswered> {
        let away = || Unanswered::Away(host.to_owned());
        if self.0.overload.refuses_tape() {
            return Err(Unanswered::Overloaded);
        }
        let asks = self.lines().get(host).map(|line| line.asks.clone()).ok_or_else(away)?;
        let clock = live.find(host).and_then(|cell| cell.lock().clock.estimate(Timeline::now()));
        let clock = clock.ok_or_else(|| Unanswered::NoClock(host.to_owned()))?;
        let _place = self.0.under_way.try_acquire().map_err(|_| Unanswered::Busy)?;
        let id = self.0.next_id.fetch_add(1, Relaxed);
        let request = v1::TapeRequest {
            id,
            series: wanted.series.iter().copied().take(TAPE_SERIES_MAX).collect(),
            from_mono_ns: clock.unmap(wanted.from),
            to_mono_ns: clock.unmap(wanted.to),
            readings_max: u32::try_from(TAPE_READINGS_MAX).unwrap_or(u32::MAX),
        };
        let (pieces, coming) = mpsc::channel(PIECES_MAX);
        if asks.try_send(Ask { request: request.clone(), pieces }).is_err() {
            return Err(if asks.is_closed() { away() } else { Unanswered::Busy });
        }
        match tokio::time::timeout(ANSWER_WITHIN, gather(host, &request, clock, coming)).await {
            Ok(gathered) => gathered,
            Err(_) => Err(Unanswered::TimedOut(host.to_owned())),
        }
    }
}

/// Puts the pieces together.
async fn gather(
    host: &str,
    request: &v1::TapeRequest,
    clock: Estimate,
    mut coming: mpsc::Receiver<v1::TapePiece>,
) -> Result<Fetched, Unanswered> {
    let malformed = |why| Unanswered::Malformed(host.to_owned(), why);
    let mut by_series: HashMap<u64, (bool, Vec<Reading>)> = HashMap::new();
    let mut count = 0usize;
    while let Some(piece) = coming.recv().await {
        if !piece.refused.is_empty() {
            let why: String = piece.refused.chars().take(200).collect();
            return Err(Unanswered::Refused(host.to_owned(), why));
        }
        for column in &piece.columns {
            if !request.series.contains(&column.series) {
                return Err(malformed("a series that was not asked for"));
            }
            let readings = unpack(column).map_err(|_| malformed("a column whose parts are not equally long"))?;
            count += readings.len();
            if count > request.readings_max as usize {
                return Err(malformed("more readings than were asked for"));
            }
            let (gauge, all) = by_series.entry(column.series).or_insert_with(|| (column.gauge, Vec::new()));
            if *gauge != column.gauge {
                return Err(malformed("a series that is a counter and a gauge"));
            }
            all.extend(readings);
        }
        if piece.last {
            let series = request.series.iter().filter_map(|id| {
                let (gauge, readings) = by_series.remove(id)?;
                Some((*id, gauge, readings))
            });
            return Ok(Fetched {
                series: series.collect(),
                clock,
                cut: piece.cut,
                complete_since: piece.complete_since_mono_ns.map(|since| clock.map(since)),
            });
        }
    }
    Err(Unanswered::Gone(host.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use railwatch_wire::tape::pack;

    const CLOCK: Estimate = Estimate { offset_ns: 1_000, uncertainty_ns: 7 };

    fn request() -> v1::TapeRequest {
        v1::TapeRequest { id: 1, series: vec![10, 20], readings_max: 4, ..v1::TapeRequest::default() }
    }

    fn column(series: u64, gauge: bool, count: u64) -> v1::TapeColumn {
        let readings = (0..count).map(|i| Reading { at_mono_ns: i, half_width_ns: 1, bits: i });
        pack(series, gauge, readings)
    }

    async fn gathered(pieces: Vec<v1::TapePiece>) -> Result<Fetched, Unanswered> {
        let (say, coming) = mpsc::channel(16);
        for piece in pieces {
            say.send(piece).await.unwrap();
        }
        drop(say);
        gather("h", &request(), CLOCK, coming).await
    }

    fn piece(columns: Vec<v1::TapeColumn>, last: bool) -> v1::TapePiece {
        v1::TapePiece { id: 1, columns, last, complete_since_mono_ns: last.then_some(5), ..v1::TapePiece::default() }
    }

    #[tokio::test]
    async fn pieces_make_a_whole_in_the_order_asked() {
        let pieces =
            vec![piece(vec![column(20, true, 1)], false), piece(vec![column(10, false, 2), column(20, true, 1)], true)];
        let whole = gathered(pieces).await.unwrap();
        let found: Vec<_> = whole.series.iter().map(|(id, gauge, readings)| (*id, *gauge, readings.len())).collect();
        assert_eq!(found, [(10, false, 2), (20, true, 2)]);
        assert_eq!((whole.cut, whole.complete_since), (false, Some(Timestamp(1_005))));
    }

    #[tokio::test]
    async fn what_was_not_asked_for_is_no_answer() {
        let refused = v1::TapePiece { refused: "no tape".into(), ..v1::TapePiece::default() };
        let uneven = v1::TapeColumn { half_width_ns: vec![], ..column(10, false, 2) };
        for (pieces, expected) in [
            (vec![], "went away"),
            (vec![piece(vec![column(10, false, 1)], false)], "went away"),
            (vec![refused], "no tape"),
            (vec![piece(vec![column(11, false, 1)], true)], "not asked for"),
            (vec![piece(vec![column(10, false, 5)], true)], "more readings"),
            (vec![piece(vec![column(10, false, 1), column(10, true, 1)], true)], "a counter and a gauge"),
            (vec![piece(vec![uneven], true)], "equally long"),
        ] {
            let error = gathered(pieces).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_host_without_a_stream_is_away_and_a_newer_stream_keeps_its_line() {
        let (tapes, live) = (Tapes::default(), Live::new(Duration::from_secs(1)));
        let wanted = Wanted { series: vec![10], from: Timestamp(0), to: Timestamp(1) };
        assert_eq!(tapes.fetch(&live, "h", &wanted).await, Err(Unanswered::Away("h".into())));
        let host: Arc<str> = "h".into();
        let _old = tapes.open(&host, 1);
        let new = tapes.open(&host, 2);
        tapes.close(&host, 1);
        assert_eq!(tapes.fetch(&live, "h", &wanted).await, Err(Unanswered::NoClock("h".into())));
        drop(new);
        tapes.close(&host, 2);
        assert_eq!(tapes.fetch(&live, "h", &wanted).await, Err(Unanswered::Away("h".into())));
    }
}
