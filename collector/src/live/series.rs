//! The series of one host and the newest window of each: an index from identifier to slot, and plain slots.
//!
//! A window costs one look-up and one store of 64 bytes per sample; nothing is allocated once a series is defined.

use super::Definition;
use railwatch_engine::Timestamp;
use railwatch_wire::{limits, v1};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

/// A series without a window for this long may give its place to a new one when a host is at its limit.
const STALE_AFTER_NS: u64 = 600_000_000_000;

/// The newest window of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// End of the window; zero before the first.
    pub end: Timestamp,
    /// Readings inside; of a counter: rates.
    pub count: u32,
    /// Decreases of a counter that no wrap explains.
    pub resets: u32,
    /// Of values; of a counter: of rates per second.
    pub sum: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// Last.
    pub last: f64,
    /// Of a counter: its exact increase.
    pub delta: u64,
    /// What else happened, as [`railwatch_wire::flags`].
    pub flags: u32,
    /// Inputs were lossy since then; zero: complete.
    pub incomplete_since: Timestamp,
}

/// A series of one host.
#[derive(Debug)]
pub struct Series {
    /// What it means.
    pub definition: Arc<Definition>,
    /// Its newest window.
    pub reading: Reading,
    /// Of a counter: everything it moved by since `since`.
    pub total: u64,
    /// When it was first defined here.
    pub since: Timestamp,
}

/// Why a definition was not taken: the host is at [`limits::SERIES_PER_HOST_MAX`] and nothing is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undefined;

/// What became of the samples of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Taken.
    pub taken: u64,
    /// Refused: no definition on this host.
    pub undefined: u64,
    /// Refused: not a number, or infinite.
    pub not_finite: u64,
}

/// All series of one host.
#[derive(Debug, Default)]
pub struct SeriesTable {
    slots: Vec<Series>,
    index: HashMap<u64, u32, BuildHasherDefault<AlreadyHashed>>,
    evicted_at: Timestamp,
}

impl SeriesTable {
    /// How many series are defined.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// No series is defined.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every series, in the order of its first definition.
    pub fn iter(&self) -> impl Iterator<Item = &Series> {
        self.slots.iter()
    }

    /// Takes a definition: asks whether there is a place before `definition` makes anything of it.
    /// Defining a series again changes nothing unless its meaning differs.
    pub fn define(
        &mut self,
        id: u64,
        now: Timestamp,
        definition: impl FnOnce() -> Arc<Definition>,
    ) -> Result<(), Undefined> {
        if let Some(slot) = self.index.get(&id) {
            self.slots[*slot as usize].definition = definition();
            return Ok(());
        }
        if self.slots.len() >= limits::SERIES_PER_HOST_MAX {
            self.evict(now);
        }
        let slot = u32::try_from(self.slots.len()).map_err(|_| Undefined)?;
        if self.slots.len() >= limits::SERIES_PER_HOST_MAX {
            return Err(Undefined);
        }
        self.index.insert(id, slot);
        self.slots.push(Series { definition: definition(), reading: Reading::default(), total: 0, since: now });
        Ok(())
    }

    /// Looks at every slot, so at most once a second.
    fn evict(&mut self, now: Timestamp) {
        if now.0.saturating_sub(self.evicted_at.0) < 1_000_000_000 {
            return;
        }
        self.evicted_at = now;
        self.slots.retain(|series| now.0.saturating_sub(series.reading.end.max(series.since).0) < STALE_AFTER_NS);
        self.index = (0..).zip(&self.slots).map(|(slot, series)| (series.definition.id, slot)).collect();
    }

    /// Takes a window whose columns are equally long. A sample older than its series' newest changes only the total.
    pub fn apply(&mut self, windows: &v1::Windows, end: Timestamp, incomplete_since: Timestamp) -> Applied {
        let mut applied = Applied::default();
        for (at, id) in windows.series.iter().enumerate() {
            let Some(slot) = self.index.get(id) else {
                applied.undefined += 1;
                continue;
            };
            let reading = Reading {
                end,
                count: windows.count[at],
                resets: windows.resets[at],
                sum: windows.sum[at],
                min: windows.min[at],
                max: windows.max[at],
                last: windows.last[at],
                delta: windows.delta[at],
                flags: windows.flags.get(at).copied().unwrap_or(0),
                incomplete_since,
            };
            // A window without a reading says nothing in its value columns.
            let finite = [reading.sum, reading.min, reading.max, reading.last].iter().all(|value| value.is_finite());
            if reading.count > 0 && !finite {
                applied.not_finite += 1;
                continue;
            }
            let series = &mut self.slots[*slot as usize];
            series.total = series.total.wrapping_add(reading.delta);
            if reading.end >= series.reading.end {
                series.reading = reading;
            }
            applied.taken += 1;
        }
        applied
    }
}

/// Series identifiers are hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        // A host chooses its identifiers within what their check allows: spread them again, so that it cannot aim.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Applied, SeriesTable, Undefined};
    use crate::live::Definitions;
    use railwatch_engine::Timestamp;
    use railwatch_wire::{limits, v1};

    fn defined(table: &mut SeriesTable, id: u64, now: Timestamp) -> Result<(), Undefined> {
        let wire =
            v1::SeriesDefinition { id, name: format!("s{id}"), monotonic: true, ..v1::SeriesDefinition::default() };
        table.define(id, now, || Definitions::default().share(wire))
    }

    fn windows(rows: &[(u64, f64, u64)]) -> v1::Windows {
        let column = |pick: fn(&(u64, f64, u64)) -> f64| rows.iter().map(pick).collect::<Vec<_>>();
        v1::Windows {
            series: rows.iter().map(|row| row.0).collect(),
            count: vec![1; rows.len()],
            sum: column(|row| row.1),
            min: column(|row| row.1),
            max: column(|row| row.1),
            last: column(|row| row.1),
            delta: rows.iter().map(|row| row.2).collect(),
            resets: vec![0; rows.len()],
            ..v1::Windows::default()
        }
    }

    #[test]
    fn a_bad_sample_is_counted_and_its_neighbours_are_taken() {
        let mut table = SeriesTable::default();
        defined(&mut table, 1, Timestamp(1)).unwrap();
        defined(&mut table, 2, Timestamp(1)).unwrap();
        let frame = windows(&[(1, f64::NAN, 5), (9, 1.0, 5), (2, 7.0, 5), (1, f64::INFINITY, 5)]);
        let applied = table.apply(&frame, Timestamp(10), Timestamp(0));
        assert_eq!(applied, Applied { taken: 1, undefined: 1, not_finite: 2 });
        let totals: Vec<_> = table.iter().map(|series| (series.reading.last, series.total)).collect();
        assert_eq!(totals, [(0.0, 0), (7.0, 5)]);
    }

    #[test]
    fn a_late_window_adds_to_the_total_and_does_not_replace_the_newer_one() {
        let mut table = SeriesTable::default();
        defined(&mut table, 1, Timestamp(1)).unwrap();
        table.apply(&windows(&[(1, 2.0, 5)]), Timestamp(20), Timestamp(0));
        table.apply(&windows(&[(1, 1.0, 3)]), Timestamp(10), Timestamp(0));
        let series = table.iter().next().unwrap();
        assert_eq!((series.reading.last, series.total), (2.0, 8));
    }

    #[test]
    fn a_host_at_its_limit_gets_no_more_series_until_old_ones_are_stale() {
        let mut table = SeriesTable::default();
        let start = Timestamp(2_000_000_000);
        for id in 0..limits::SERIES_PER_HOST_MAX as u64 {
            defined(&mut table, id, start).unwrap();
        }
        assert_eq!(defined(&mut table, u64::MAX, start), Err(Undefined));
        let later = Timestamp(start.0 + super::STALE_AFTER_NS);
        table.apply(&windows(&[(3, 1.0, 1)]), later, Timestamp(0));
        defined(&mut table, u64::MAX, later).unwrap();
        assert_eq!(table.len(), 2, "the living series and the new one");
        assert_eq!(table.apply(&windows(&[(3, 2.0, 1), (u64::MAX, 2.0, 1)]), later, Timestamp(0)).taken, 2);
    }
}
