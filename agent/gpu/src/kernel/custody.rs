//! What was taken out of the event ring and has not found its place yet.
//!
//! In: records as the ring's reader takes them, in order; word that some are settled, in any order and from any thread.
//! Out: the consumer position, which the kernel and the next agent read. Never: a position past a record that is not
//! settled. So who reads a pinned ring after a kill finds every such record again, and behind them perhaps settled ones,
//! which he knows by their place: a place is used once in the life of a ring.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ring::Mapping;

/// The consumer's end of the ring.
pub struct Custody {
    /// The one page of the ring that is written here; its first word is the consumer position.
    consumer: Mapping,
    taken: Mutex<Taken>,
}

struct Taken {
    /// Places of records that are not settled.
    open: BTreeSet<u64>,
    /// The end of the last record taken.
    to: u64,
}

impl Custody {
    /// Nothing is taken yet beyond what the agents before released.
    pub(super) fn new(consumer: Mapping) -> Self {
        let custody = Self { consumer, taken: Mutex::new(Taken { open: BTreeSet::new(), to: 0 }) };
        custody.locked().to = custody.released();
        custody
    }

    /// A record is handed over: it lies at `place` and ends before `end`.
    pub(super) fn take(&self, place: u64, end: u64) {
        let mut taken = self.locked();
        taken.open.insert(place);
        taken.to = end;
    }

    /// What ends before `end` is of no interest.
    pub(super) fn pass(&self, end: u64) {
        let mut taken = self.locked();
        taken.to = end;
        self.release(&taken);
    }

    /// These records have found their place. Returns the first place that the ring would still give again.
    pub fn settle(&self, places: &[u64]) -> u64 {
        let mut taken = self.locked();
        for place in places {
            taken.open.remove(place);
        }
        self.release(&taken)
    }

    /// Records taken and not settled: the ring has that much less room.
    pub fn open(&self) -> usize {
        self.locked().open.len()
    }

    /// The first place that the ring would still give again.
    pub fn released(&self) -> u64 {
        self.position().load(Ordering::Acquire)
    }

    fn release(&self, taken: &Taken) -> u64 {
        let to = taken.open.first().copied().unwrap_or(taken.to);
        self.position().store(to, Ordering::Release);
        to
    }

    fn position(&self) -> &AtomicU64 {
        // SAFETY: the first word of a live page-aligned mapping.
        unsafe { self.consumer.at(0).cast::<AtomicU64>().as_ref() }
    }

    fn locked(&self) -> MutexGuard<'_, Taken> {
        // Sets and numbers: nothing under this lock can panic half way.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn the_ring_is_released_up_to_the_first_record_that_is_not_settled() {
        let custody = Custody::new(Mapping::anonymous().unwrap());
        let ends = [64, 128, 192, 256];
        ends.into_iter().for_each(|end| custody.take(end - 64, end));
        for (settled, released, open) in [
            (&[64, 128][..], 0, 2),
            (&[0], 192, 1),
            // Not known, or settled already: nothing changes.
            (&[0, 7], 192, 1),
            (&[192], 256, 0),
        ] {
            assert_eq!((custody.settle(settled), custody.open()), (released, open));
            assert_eq!(custody.released(), released);
        }
        custody.pass(320);
        assert_eq!(custody.released(), 320, "what is discarded is let go of when nothing before it is open");
        custody.take(320, 384);
        custody.pass(448);
        assert_eq!(custody.released(), 320);
        assert_eq!(custody.settle(&[320]), 448);
    }
}
