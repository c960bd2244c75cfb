//! What the API counts, for OpenMetrics: every way a call or a watcher can end badly has a counter.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// So many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The API's counters.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests answered with a status below 400.
    pub answered: Counter,
    /// Requests answered with 401 or 429: no caller.
    pub denied: Counter,
    /// Requests answered with 403: the role does not suffice, or the Host header is not ours.
    pub forbidden: Counter,
    /// Requests answered with another status from 400 to 499.
    pub refused: Counter,
    /// Requests answered with a status from 500 on.
    pub failed: Counter,
    /// Watchers that began.
    pub watchers: Counter,
    /// Watchers cut off because they did not read.
    pub watchers_stuck: Counter,
    /// Changes that a slow watcher was told it missed.
    pub changes_missed: Counter,
    /// Connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// Connections that ended in an error: bad TLS, bad HTTP, too slow.
    pub connections_broken: Counter,
}
