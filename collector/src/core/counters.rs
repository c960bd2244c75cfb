//! What the core counts, for metrics. Written by its thread, read by anyone.

use crate::clock::nanoseconds;
use railwatch_engine::Counters;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency's buckets, milliseconds; what is longer goes into one more.
pub const LATENCY_BOUNDS_MS: [u64; 9] = [1, 2, 5, 10, 25, 50, 100, 250, 1_000];

/// Plain atomics.
#[derive(Debug, Default)]
pub struct CoreCounters {
    pub(super) frames_accepted: AtomicU64,
    pub(super) frames_duplicate: AtomicU64,
    pub(super) frames_missing: AtomicU64,
    pub(super) signals: AtomicU64,
    pub(super) windows: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) commit_ns: AtomicU64,
    pub(super) commits_failed: AtomicU64,
    pub(super) orders: AtomicU64,
    pub(super) hosts_connected: AtomicU64,
    pub(super) hosts_watched: AtomicU64,
    pub(super) incidents_open: AtomicU64,
    pub(super) stalls: AtomicU64,
    signal_latency_ns: AtomicU64,
    signal_latency_buckets: [AtomicU64; LATENCY_BOUNDS_MS.len() + 1],
    engine: Mutex<Counters>,
    store_error: Mutex<Option<String>>,
}

/// The counters at one instant. All but the last four only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreFigures {
    /// Frames stored and acknowledged.
    pub frames_accepted: u64,
    /// Frames that had been stored before.
    pub frames_duplicate: u64,
    /// Frames that never came and that no agent's account explains.
    pub frames_missing: u64,
    /// Signals stored.
    pub signals: u64,
    /// Windows acknowledged.
    pub windows: u64,
    /// Transactions.
    pub commits: u64,
    /// Time they took, nanoseconds.
    pub commit_ns: u64,
    /// Transactions that failed and were tried again.
    pub commits_failed: u64,
    /// Orders given to the executor.
    pub orders: u64,
    /// Times the core itself stood still for too long to judge silence.
    pub stalls: u64,
    /// Signals by the time from their arrival until they were stored and judged: buckets of [`LATENCY_BOUNDS_MS`], not cumulative, and one for longer.
    pub signal_latency_buckets: Vec<u64>,
    /// Sum of those times, nanoseconds.
    pub signal_latency_ns: u64,
    /// What the engine's bounds did.
    pub engine: Counters,
    /// Frames waiting for the core.
    pub frames_waiting: u64,
    /// Hosts with a stream.
    pub hosts_connected: u64,
    /// Hosts that should be heard.
    pub hosts_watched: u64,
    /// Incidents open.
    pub incidents_open: u64,
}

impl CoreCounters {
    pub(super) fn signal_took(&self, took: Duration) {
        let ms = took.as_millis();
        let bucket =
            LATENCY_BOUNDS_MS.iter().position(|bound| ms < u128::from(*bound)).unwrap_or(LATENCY_BOUNDS_MS.len());
        self.signal_latency_buckets[bucket].fetch_add(1, Relaxed);
        self.signal_latency_ns.fetch_add(nanoseconds(took), Relaxed);
    }

    pub(super) fn set_engine(&self, counters: Counters) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    pub(super) fn set_store_error(&self, error: Option<String>) {
        *self.store_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(super) fn store_error(&self) -> Option<String> {
        self.store_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn figures(&self, frames_waiting: usize) -> CoreFigures {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        CoreFigures {
            frames_accepted: read(&self.frames_accepted),
            frames_duplicate: read(&self.frames_duplicate),
            frames_missing: read(&self.frames_missing),
            signals: read(&self.signals),
            windows: read(&self.windows),
            commits: read(&self.commits),
            commit_ns: read(&self.commit_ns),
            commits_failed: read(&self.commits_failed),
            orders: read(&self.orders),
            stalls: read(&self.stalls),
            signal_latency_buckets: self.signal_latency_buckets.iter().map(read).collect(),
            signal_latency_ns: read(&self.signal_latency_ns),
            engine: *self.engine.lock().unwrap_or_else(PoisonError::into_inner),
            frames_waiting: frames_waiting as u64,
            hosts_connected: read(&self.hosts_connected),
            hosts_watched: read(&self.hosts_watched),
            incidents_open: read(&self.incidents_open),
        }
    }
}
