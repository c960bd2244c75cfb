//! The loss account: what happened to everything this host noticed.
//!
//! One unit is one **occurrence**: an event of the kernel half, a signal of a source, or a window. Each is *noticed* once
//! and *settled* once. An account holds what is settled:
//!
//! ```text
//! delivered  taken by the spool (or, for a kernel event that raises no signal, by the accounts), and not cut since
//! dropped    by reason: event_capped, ring_full, … (in the kernel); coalesced, queue_full (here); spool_quota (uplink)
//! seen       delivered + Σ dropped
//! pending    noticed and not settled: in the ring or between two threads; 0 when the host is quiet
//! ```
//!
//! A map that was full in the kernel is an occurrence of its own, dropped. Never: an occurrence settled twice, or one
//! without a fate (it would stay in `pending`, which the metrics page shows).

use railwatch_wire::v1::LossAccount;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What becomes of an occurrence in the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The next room has it.
    Delivered,
    /// Gone, for this reason.
    Dropped(&'static str),
}

/// One of several alike within the hold-off: told as a number in a later signal.
pub const COALESCED: Fate = Fate::Dropped("coalesced");
/// The uplink's queue had no room.
pub const QUEUE_FULL: Fate = Fate::Dropped("queue_full");
/// Names an occurrence that this build does not know.
pub const MALFORMED: Fate = Fate::Dropped("malformed");

/// What other rooms count themselves, read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Dropped in the kernel, by reason, since this agent started.
    pub kernel_dropped: Vec<(&'static str, u64)>,
    /// Frames that the spool's quota cut after it had taken them.
    pub spool_cut: u64,
}

/// The agent's own part of the account.
#[derive(Debug, Default)]
pub struct LossBook(Mutex<Counts>);

#[derive(Clone, Debug, Default)]
struct Counts {
    noticed: u64,
    delivered: u64,
    dropped: BTreeMap<&'static str, u64>,
}

impl LossBook {
    /// Takes notice of occurrences whose fate is open.
    pub fn notice(&self, occurrences: u64) {
        self.locked().noticed += occurrences;
    }

    /// Settles occurrences noticed before.
    pub fn settle(&self, occurrences: u64, fate: Fate) {
        if occurrences == 0 {
            return;
        }
        let mut counts = self.locked();
        match fate {
            Fate::Delivered => counts.delivered += occurrences,
            Fate::Dropped(reason) => *counts.dropped.entry(reason).or_default() += occurrences,
        }
    }

    /// Noticed and settled in one: the caller knows the fate already.
    pub fn pass(&self, fate: Fate) {
        self.notice(1);
        self.settle(1, fate);
    }

    /// The account now, with what other rooms count.
    ///
    /// `elsewhere` must have been read before this call: what the spool cut was delivered to it earlier.
    pub fn account(&self, elsewhere: &Elsewhere) -> LossAccount {
        let counts = self.locked().clone();
        let mut dropped: BTreeMap<String, u64> = BTreeMap::new();
        let own = counts.dropped.iter().map(|(reason, count)| (*reason, *count));
        let cut = elsewhere.spool_cut.min(counts.delivered);
        for (reason, count) in own.chain(elsewhere.kernel_dropped.iter().copied()).chain([("spool_quota", cut)]) {
            if count > 0 {
                *dropped.entry(reason.to_owned()).or_default() += count;
            }
        }
        let delivered = counts.delivered - cut;
        LossAccount { seen: delivered + dropped.values().sum::<u64>(), delivered, dropped }
    }

    /// Occurrences noticed and not settled.
    pub fn pending(&self) -> u64 {
        let counts = self.locked();
        counts.noticed.saturating_sub(counts.delivered + counts.dropped.values().sum::<u64>())
    }

    fn locked(&self) -> MutexGuard<'_, Counts> {
        // Plain additions: nothing under this lock can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn every_occurrence_is_in_exactly_one_place_while_rooms_count_at_once() {
        const EACH: u64 = 20_000;
        let book = Arc::new(LossBook::default());
        let fates = [Fate::Delivered, COALESCED, QUEUE_FULL, MALFORMED];
        let threads: Vec<_> = fates
            .into_iter()
            .map(|fate| {
                let book = Arc::clone(&book);
                std::thread::spawn(move || {
                    for _ in 0..EACH {
                        book.notice(1);
                        book.settle(1, fate);
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            let account = book.account(&Elsewhere::default());
            assert_eq!(account.seen, account.delivered + account.dropped.values().sum::<u64>());
        }
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(book.pending(), 0);
        let elsewhere = Elsewhere { kernel_dropped: vec![("event_capped", 7), ("ring_full", 0)], spool_cut: 5 };
        let account = book.account(&elsewhere);
        assert_eq!(account.seen, 4 * EACH + 7, "what was noticed here, and what the kernel dropped");
        assert_eq!(account.delivered, EACH - 5);
        let mut reasons: Vec<_> = account.dropped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        reasons.sort_unstable();
        assert_eq!(
            reasons,
            [("coalesced", EACH), ("event_capped", 7), ("malformed", EACH), ("queue_full", EACH), ("spool_quota", 5)]
        );
    }

    #[test]
    fn an_occurrence_without_a_fate_shows_as_pending_and_is_not_in_the_account() {
        let book = LossBook::default();
        book.notice(3);
        book.settle(2, Fate::Delivered);
        assert_eq!((book.pending(), book.account(&Elsewhere::default()).seen), (1, 2));
    }
}
