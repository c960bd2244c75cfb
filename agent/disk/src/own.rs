//! A disk's own counts, kept by the kernel whether or not a request is timed.
//!
//! In: `block/DISK/stat` and `block/DISK/inflight` in sysfs (Documentation/block/stat.rst). Out: requests that ended since the
//! first sight of the disk, by operation, and how long those of the last reading took; what is in flight. Never: a count that
//! goes down.

use railwatch_abi::disk::{DISCARD, FLUSH, READ, WRITE};
use std::path::Path;

/// Places in `stat` of the ended requests, by operation ([`READ`] to [`DISCARD`]).
const PLACES: [usize; 4] = {
    let mut places = [0; 4];
    places[READ as usize] = 0;
    places[WRITE as usize] = 4;
    places[DISCARD as usize] = 11;
    places[FLUSH as usize] = 15;
    places
};

/// Of each operation: requests that ended, and the milliseconds they took, waiting in the scheduler included.
type Counts = [(u64, u64); 4];

/// Ended requests by operation, since the first sight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    last: Counts,
    ended: [u64; 4],
    /// Between the last two readings.
    news: Counts,
}

impl Own {
    /// What ended before now does not count.
    pub(crate) fn from_now(folder: &Path) -> Self {
        Self { last: stat(folder).unwrap_or_default(), ..Self::default() }
    }

    /// Reads what ended.
    pub(crate) fn update(&mut self, folder: &Path) {
        if let Some(now) = stat(folder) {
            self.take(now);
        }
    }

    fn take(&mut self, now: Counts) {
        for (((ended, news), last), now) in self.ended.iter_mut().zip(&mut self.news).zip(self.last).zip(now) {
            // A smaller count is of another disk of that name.
            *news = (now.0.checked_sub(last.0).unwrap_or(now.0), now.1.saturating_sub(last.1));
            *ended += news.0;
        }
        self.last = now;
    }

    /// How long a request of those took that ended between the last two readings; `None` where none did.
    #[expect(clippy::cast_precision_loss, reason = "a mean of what a second brings")]
    pub(crate) fn mean_us(&self, operation: u32) -> Option<f64> {
        let (ended, took_ms) = *self.news.get(operation as usize)?;
        (ended > 0).then(|| took_ms as f64 * 1e3 / ended as f64)
    }

    /// Requests of an operation that ended.
    pub(crate) fn ended(&self, operation: u32) -> u64 {
        self.ended.get(operation as usize).copied().unwrap_or(0)
    }
}

fn stat(folder: &Path) -> Option<Counts> {
    counts(&std::fs::read_to_string(folder.join("stat")).ok()?)
}

/// Kernels before 5.5 tell no flushes.
fn counts(text: &str) -> Option<Counts> {
    let words: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    let words = words.filter(|words| words.len() > PLACES[WRITE as usize])?;
    let of = |place: usize| words.get(place).copied().unwrap_or(0);
    // Between both, except for flushes: requests that were merged into others, and sectors.
    let time = |place: usize| if place == PLACES[FLUSH as usize] { place + 1 } else { place + 3 };
    Some(PLACES.map(|place| (of(place), of(time(place)))))
}

/// Requests in flight: reads, and writes with discards.
pub(crate) fn in_flight(folder: &Path) -> Option<[u64; 2]> {
    let text = std::fs::read_to_string(folder.join("inflight")).ok()?;
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    Some([words.next()??, words.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_and_another_disk_of_the_name_begins_at_nothing() {
        let text = "  11 1 2 3 22 5 6 7 0 8 9 33 10 11 12 44 13\n";
        let of = |operation: u32| counts(text).unwrap_or_default()[operation as usize];
        assert_eq!([READ, WRITE, DISCARD, FLUSH].map(of), [(11, 3), (22, 7), (33, 12), (44, 13)]);
        let old = counts("1 2 3 4 5 6 7 8 9 10 11").unwrap_or_default();
        assert_eq!([READ, WRITE, DISCARD, FLUSH].map(|of| old[of as usize]), [(1, 4), (5, 8), (0, 0), (0, 0)]);
        assert_eq!((counts(""), counts("1 2 x 4 5 6")), (None, None));
        let mut own = Own { last: [(100, 50), (0, 0), (0, 0), (0, 0)], ended: [7, 0, 0, 0], ..Own::default() };
        own.take([(110, 250), (1, 0), (0, 0), (0, 0)]);
        assert_eq!([READ, WRITE, FLUSH].map(|of| own.mean_us(of)), [Some(20_000.0), Some(0.0), None]);
        own.take([(5, 1), (1, 0), (0, 0), (0, 0)]);
        assert_eq!([READ, WRITE, FLUSH].map(|operation| own.ended(operation)), [7 + 10 + 5, 1, 0]);
    }
}
