//! Whether the collector has more to do than it does, and what is left out then.
//!
//! In: frames that wait for the core, and how long the store takes for them. Out: a [`Level`] that others ask for. Signals
//! are never left out, whatever the level: their agents wait and keep them. In order, first to last:
//!
//! 1. [`Level::Busy`]: pieces of tape are refused; asking again costs nothing but time.
//! 2. [`Level::Overloaded`]: windows are refused, counted and acknowledged, so that no agent sends them again; hosts that
//!    are not connected are turned away with a time to come back at.
//!
//! State is taken always: an agent sends it on change, and would not send again what was left out. A level is left when
//! both figures are below half of what begins it, so that it does not flicker. Never: silence about it; each change is a
//! line of the log, each thing left out is counted by its reason.

use crate::clock::Timeline;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Frames waiting, of [`crate::core`]'s most, and lag of the store: what begins each level.
const BUSY: (u64, u64) = (2_048, 500);
const OVERLOADED: (u64, u64) = (6_144, 2_000);

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All of it gets done.
    Normal,
    /// Later than it should be.
    Busy,
    /// More than can be done.
    Overloaded,
}

impl Level {
    /// As said in logs and by the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Busy => "busy",
            Self::Overloaded => "overloaded",
        }
    }

    fn of(frames: u64, lag_ms: u64) -> Self {
        let beyond = |(frames_max, lag_ms_max): (u64, u64)| frames >= frames_max || lag_ms >= lag_ms_max;
        match () {
            () if beyond(OVERLOADED) => Self::Overloaded,
            () if beyond(BUSY) => Self::Busy,
            () => Self::Normal,
        }
    }
}

/// The collector's load. Clone it freely.
#[derive(Clone, Debug, Default)]
pub struct Overload(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    level: AtomicU8,
    frames: AtomicU64,
    /// Of the last transaction: from the arrival of its oldest frame until it was stored.
    lag_ms: AtomicU64,
    /// Arrival of the oldest frame of the transaction that is being written, collector's timeline; 0 between two.
    writing_since_ns: AtomicU64,
    changes: AtomicU64,
    tapes_refused: AtomicU64,
    windows_shed: AtomicU64,
    hosts_turned_away: AtomicU64,
}

/// The load at one instant, and what was left out so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Now.
    pub level: Level,
    /// Frames waiting for the core.
    pub frames: u64,
    /// How far the store is behind, milliseconds.
    pub lag_ms: u64,
    /// Changes of level.
    pub changes: u64,
    /// Requests for pieces of tape.
    pub tapes_refused: u64,
    /// Windows frames, acknowledged and not taken.
    pub windows_shed: u64,
    /// Streams of hosts that were not connected.
    pub hosts_turned_away: u64,
}

impl Overload {
    /// So many frames wait now.
    pub fn frames_wait(&self, frames: usize) {
        self.0.frames.store(frames as u64, Relaxed);
        self.judge();
    }

    /// A transaction begins whose oldest frame arrived then.
    pub fn writing(&self, oldest_ns: u64) {
        self.0.writing_since_ns.store(oldest_ns, Relaxed);
    }

    /// It is stored, so long after the arrival of its oldest frame.
    pub fn stored(&self, lag_ms: u64) {
        self.0.writing_since_ns.store(0, Relaxed);
        self.0.lag_ms.store(lag_ms, Relaxed);
        self.judge();
    }

    /// The level now.
    pub fn level(&self) -> Level {
        self.judge()
    }

    /// Whether a piece of tape is left out now; counted if so.
    pub fn refuses_tape(&self) -> bool {
        counted(self.level() >= Level::Busy, &self.0.tapes_refused)
    }

    /// Whether windows are left out now; counted if so.
    pub fn sheds_windows(&self) -> bool {
        counted(self.level() >= Level::Overloaded, &self.0.windows_shed)
    }

    /// Whether a host that is not connected is turned away now; counted if so.
    pub fn turns_away(&self) -> bool {
        counted(self.level() >= Level::Overloaded, &self.0.hosts_turned_away)
    }

    /// All figures.
    pub fn figures(&self) -> Figures {
        let Inner { frames, changes, tapes_refused, windows_shed, hosts_turned_away, .. } = &*self.0;
        Figures {
            level: self.level(),
            frames: frames.load(Relaxed),
            lag_ms: self.lag_ms(),
            changes: changes.load(Relaxed),
            tapes_refused: tapes_refused.load(Relaxed),
            windows_shed: windows_shed.load(Relaxed),
            hosts_turned_away: hosts_turned_away.load(Relaxed),
        }
    }

    /// Of the last transaction, or of the one being written where that is longer.
    fn lag_ms(&self) -> u64 {
        let writing_ms = match self.0.writing_since_ns.load(Relaxed) {
            0 => 0,
            since_ns => Timeline::now().0.saturating_sub(since_ns) / 1_000_000,
        };
        // With nothing waiting, what the last one took is history.
        let last_ms = if self.0.frames.load(Relaxed) > 0 { self.0.lag_ms.load(Relaxed) } else { 0 };
        writing_ms.max(last_ms)
    }

    fn judge(&self) -> Level {
        let (frames, lag_ms) = (self.0.frames.load(Relaxed), self.lag_ms());
        let begins = Level::of(frames, lag_ms) as u8;
        // A level is left at half of what begins it.
        let stays = Level::of(frames.saturating_mul(2), lag_ms.saturating_mul(2)) as u8;
        let before = self.0.level.load(Relaxed);
        let now = begins.max(before.min(stays));
        if now != before && self.0.level.compare_exchange(before, now, Relaxed, Relaxed).is_ok() {
            self.0.changes.fetch_add(1, Relaxed);
            let (level, before) = (named(now), named(before).name());
            let says = match level {
                Level::Normal => "everything is taken again",
                Level::Busy => "pieces of tape are refused, and counted",
                Level::Overloaded => {
                    "windows are refused and counted, new hosts are turned away; signals wait with their agents"
                }
            };
            tracing::warn!(level = level.name(), before, frames, lag_ms, "load of the collector: {says}");
        }
        named(now)
    }
}

fn counted(left_out: bool, count: &AtomicU64) -> bool {
    if left_out {
        count.fetch_add(1, Relaxed);
    }
    left_out
}

fn named(level: u8) -> Level {
    [Level::Normal, Level::Busy, Level::Overloaded][usize::from(level.min(2))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_begins_at_its_figures_and_is_left_at_half_of_them() {
        let overload = Overload::default();
        // Frames waiting, lag of the last transaction, and the level then.
        for (place, (frames, lag_ms, level)) in [
            (0, 0, Level::Normal),
            (2_047, 499, Level::Normal),
            (2_048, 0, Level::Busy),
            (1_100, 0, Level::Busy),
            (1_000, 0, Level::Normal),
            (10, 600, Level::Busy),
            (10, 2_500, Level::Overloaded),
            (10, 1_200, Level::Overloaded),
            (10, 900, Level::Busy),
            (6_144, 0, Level::Overloaded),
            (3_100, 0, Level::Overloaded),
            (0, 9_000, Level::Normal),
        ]
        .into_iter()
        .enumerate()
        {
            overload.0.frames.store(frames, Relaxed);
            overload.stored(lag_ms);
            assert_eq!(overload.level(), level, "case {place}: {frames} frames, {lag_ms} ms");
        }
        assert_eq!(overload.figures().changes, 7);
    }

    #[test]
    fn a_transaction_that_does_not_end_is_lag_and_what_is_left_out_is_counted() {
        let overload = Overload::default();
        assert!(!overload.refuses_tape() && !overload.sheds_windows() && !overload.turns_away());
        overload.writing(Timeline::now().0 - 3_000_000_000);
        assert!(overload.refuses_tape() && overload.sheds_windows() && overload.turns_away());
        let figures = overload.figures();
        assert_eq!((figures.tapes_refused, figures.windows_shed, figures.hosts_turned_away), (1, 1, 1));
        assert!(figures.lag_ms >= 3_000 && figures.level == Level::Overloaded, "{figures:?}");
        overload.stored(0);
        assert_eq!(overload.level(), Level::Normal);
    }
}
