//! What a source costs and how it fares, counted by its own thread and read by anyone.

use crate::recorder::Rejects;
use crate::source::ErrorReason;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Buckets of the cost histogram: bucket `i` counts reads that took less than 2^(i+10) ns (1 µs, 2 µs, … 2 s), the last
/// one all longer ones.
pub const COST_BUCKETS: usize = 23;

/// Whether a source is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Not probed yet.
    Starting,
    /// Being read.
    On,
    /// Switched off until a later probe succeeds.
    Off {
        /// For counting.
        reason: ErrorReason,
        /// For a person: what was looked for, what was found, what would switch it on.
        text: String,
    },
}

/// How one source fares. Counters count from the start of the agent.
#[derive(Clone, Debug)]
pub struct SourceReport {
    /// Its name.
    pub source: &'static str,
    /// The kernel interface it reads.
    pub kernel_path: String,
    /// Being read, or why not.
    pub state: SourceState,
    /// Time between reads now.
    pub cadence: Duration,
    /// How often that time was doubled to stay within the CPU budget; 0: it runs as asked.
    pub backed_off: u32,
    /// CPU time of its thread, nanoseconds.
    pub cpu_ns: u64,
    /// Reads done.
    pub reads: u64,
    /// Events taken between reads.
    pub events: u64,
    /// Values read.
    pub readings: u64,
    /// Nanoseconds spent reading, all reads and events together.
    pub cost_ns: u64,
    /// Nanoseconds of the dearest read.
    pub cost_ns_max: u64,
    /// Reads by cost; see [`COST_BUCKETS`].
    pub cost_histogram: [u64; COST_BUCKETS],
    /// Deadlines passed without a read.
    pub missed_deadlines: u64,
    /// Probes done.
    pub probes: u64,
    /// What could not be read, by reason, in the order of [`ErrorReason::ALL`].
    pub errors: [u64; ErrorReason::ALL.len()],
    /// Readings beyond the bound of one batch.
    pub over_capacity: u64,
    /// Readings that did not reach a window.
    pub rejects: Rejects,
    /// Signals that the sink had no room for.
    pub signals_dropped: u64,
    /// Windows that the sink had no room for.
    pub windows_dropped: u64,
}

#[derive(Debug)]
pub(crate) struct SourceStats {
    pub(crate) source: &'static str,
    kernel_path: Mutex<String>,
    state: Mutex<SourceState>,
    /// As asked; the time between reads is this, doubled `backed_off` times.
    pub(crate) cadence_ns: AtomicU64,
    pub(crate) backed_off: AtomicU32,
    pub(crate) cpu_ns: AtomicU64,
    reads: AtomicU64,
    events: AtomicU64,
    readings: AtomicU64,
    cost_ns: AtomicU64,
    cost_ns_max: AtomicU64,
    cost_histogram: [AtomicU64; COST_BUCKETS],
    pub(crate) missed_deadlines: AtomicU64,
    pub(crate) probes: AtomicU64,
    errors: [AtomicU64; ErrorReason::ALL.len()],
    pub(crate) over_capacity: AtomicU64,
    rejects: Mutex<Rejects>,
    pub(crate) signals_dropped: AtomicU64,
    pub(crate) windows_dropped: AtomicU64,
}

impl SourceStats {
    pub(crate) fn new(source: &'static str, kernel_path: &str, cadence_ns: u64) -> Self {
        Self {
            source,
            kernel_path: Mutex::new(kernel_path.to_owned()),
            state: Mutex::new(SourceState::Starting),
            cadence_ns: AtomicU64::new(cadence_ns),
            backed_off: AtomicU32::new(0),
            cpu_ns: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            events: AtomicU64::new(0),
            readings: AtomicU64::new(0),
            cost_ns: AtomicU64::new(0),
            cost_ns_max: AtomicU64::new(0),
            cost_histogram: Default::default(),
            missed_deadlines: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            errors: Default::default(),
            over_capacity: AtomicU64::new(0),
            rejects: Mutex::default(),
            signals_dropped: AtomicU64::new(0),
            windows_dropped: AtomicU64::new(0),
        }
    }

    /// As asked; the thread doubles it while it must.
    pub(crate) fn set_cadence_ns(&self, cadence_ns: u64) {
        self.cadence_ns.store(cadence_ns, Relaxed);
    }

    pub(crate) fn count_read(&self, cost_ns: u64, readings: usize, is_event: bool) {
        (if is_event { &self.events } else { &self.reads }).fetch_add(1, Relaxed);
        self.readings.fetch_add(readings as u64, Relaxed);
        self.cost_ns.fetch_add(cost_ns, Relaxed);
        self.cost_ns_max.fetch_max(cost_ns, Relaxed);
        self.cost_histogram[bucket(cost_ns)].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_error(&self, reason: ErrorReason, times: u32) {
        self.errors[reason as usize].fetch_add(u64::from(times), Relaxed);
    }

    pub(crate) fn set_rejects(&self, rejects: Rejects) {
        *self.rejects.lock().unwrap_or_else(PoisonError::into_inner) = rejects;
    }

    /// A probe may find another way to read the same.
    pub(crate) fn set_kernel_path(&self, path: &str) {
        path.clone_into(&mut self.kernel_path.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sets the state; true where it changed.
    pub(crate) fn set_state(&self, state: SourceState) -> bool {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *current != state;
        *current = state;
        changed
    }

    pub(crate) fn report(&self) -> SourceReport {
        let Self {
            source,
            kernel_path,
            state,
            cadence_ns,
            backed_off,
            cpu_ns,
            reads,
            events,
            readings,
            cost_ns,
            cost_ns_max,
            cost_histogram,
            missed_deadlines,
            probes,
            errors,
            over_capacity,
            rejects,
            signals_dropped,
            windows_dropped,
        } = self;
        SourceReport {
            source,
            kernel_path: kernel_path.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            state: state.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            cadence: Duration::from_nanos(cadence_ns.load(Relaxed) << backed_off.load(Relaxed)),
            backed_off: backed_off.load(Relaxed),
            cpu_ns: cpu_ns.load(Relaxed),
            reads: reads.load(Relaxed),
            events: events.load(Relaxed),
            readings: readings.load(Relaxed),
            cost_ns: cost_ns.load(Relaxed),
            cost_ns_max: cost_ns_max.load(Relaxed),
            cost_histogram: std::array::from_fn(|i| cost_histogram[i].load(Relaxed)),
            missed_deadlines: missed_deadlines.load(Relaxed),
            probes: probes.load(Relaxed),
            errors: std::array::from_fn(|i| errors[i].load(Relaxed)),
            over_capacity: over_capacity.load(Relaxed),
            rejects: *rejects.lock().unwrap_or_else(PoisonError::into_inner),
            signals_dropped: signals_dropped.load(Relaxed),
            windows_dropped: windows_dropped.load(Relaxed),
        }
    }
}

fn bucket(cost_ns: u64) -> usize {
    let bits = 64 - cost_ns.leading_zeros() as usize;
    bits.saturating_sub(10).min(COST_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::{COST_BUCKETS, bucket};

    #[test]
    fn a_cost_falls_into_the_bucket_that_bounds_it() {
        for (cost_ns, expected) in [(0, 0), (1023, 0), (1024, 1), (2047, 1), (2048, 2), (u64::MAX, COST_BUCKETS - 1)] {
            assert_eq!(bucket(cost_ns), expected, "{cost_ns} ns");
        }
    }
}
