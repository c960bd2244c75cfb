//! A disk's own counts, kept by the kernel whether or not a request is timed.
//!
//! In: `block/DISK/stat` and `block/DISK/inflight` in sysfs (Documentation/block/stat.rst). Out: requests that ended since the
//! first sight of the disk, by operation; what is in flight. Never: a count that goes down.

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

/// Ended requests by operation, since the first sight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    last: [u64; 4],
    ended: [u64; 4],
}

impl Own {
    /// What ended before now does not count.
    pub(crate) fn from_now(folder: &Path) -> Self {
        Self { last: stat(folder).unwrap_or_default(), ended: [0; 4] }
    }

    /// Reads what ended.
    pub(crate) fn update(&mut self, folder: &Path) {
        if let Some(now) = stat(folder) {
            self.take(now);
        }
    }

    fn take(&mut self, now: [u64; 4]) {
        for ((ended, last), now) in self.ended.iter_mut().zip(self.last).zip(now) {
            // A smaller count is of another disk of that name.
            *ended += now.checked_sub(last).unwrap_or(now);
        }
        self.last = now;
    }

    /// Requests of an operation that ended.
    pub(crate) fn ended(&self, operation: u32) -> u64 {
        self.ended.get(operation as usize).copied().unwrap_or(0)
    }
}

fn stat(folder: &Path) -> Option<[u64; 4]> {
    counts(&std::fs::read_to_string(folder.join("stat")).ok()?)
}

/// Kernels before 5.5 tell no flushes.
fn counts(text: &str) -> Option<[u64; 4]> {
    let words: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    let words = words.filter(|words| words.len() > PLACES[WRITE as usize])?;
    Some(PLACES.map(|place| words.get(place).copied().unwrap_or(0)))
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
        assert_eq!(counts(text), Some([11, 22, 44, 33]));
        assert_eq!(counts("1 2 3 4 5 6 7 8 9 10 11"), Some([1, 5, 0, 0]));
        assert_eq!((counts(""), counts("1 2 x 4 5 6")), (None, None));
        let mut own = Own { last: [100, 0, 0, 0], ended: [7, 0, 0, 0] };
        own.take([110, 1, 0, 0]);
        own.take([5, 1, 0, 0]);
        assert_eq!([READ, WRITE, FLUSH].map(|operation| own.ended(operation)), [7 + 10 + 5, 1, 0]);
    }
}
