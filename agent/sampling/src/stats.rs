//! What a source costs and how it fares, counted by its own thread and read by anyone.

use crate::recorder::Rejects;
use crate::sampler::nanos;
use crate::source::{CadenceRange, ErrorReason};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Buckets of the cost histogram: eight to an octave, so that a quantile is at most an eighth too high.
const COST_BUCKETS: usize = (65 - OCTAVE_BITS) << OCTAVE_BITS;
const OCTAVE_BITS: usize = 3;

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
    /// Of one core, what its thread used over the last second.
    pub cpu_share: f64,
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
    /// What half of all reads and events cost at most, nanoseconds; an eighth too high at most.
    pub cost_ns_p50: u64,
    /// What 99 of 100 cost at most, likewise.
    pub cost_ns_p99: u64,
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
    /// Memory of its series, bytes, their place on the tape included.
    pub series_bytes: u64,
    /// Series that its last probe found beyond the memory it may take.
    pub series_left_out: u64,
    /// Time for which its reads held RTNL or waited for it, nanoseconds; 0 for a source that does not take it.
    pub rtnl_ns: u64,
    /// How long it lets RTNL alone after a read, from begin to begin; 0: it need not.
    pub rtnl_rest: Duration,
}

#[derive(Debug)]
pub(crate) struct SourceStats {
    pub(crate) source: &'static str,
    kernel_path: Mutex<String>,
    state: Mutex<SourceState>,
    range: Mutex<CadenceRange>,
    /// What was asked for; 0: the source's default.
    asked_ns: AtomicU64,
    /// What that comes to within the source's range; the time between reads is this, doubled `backed_off` times.
    pub(crate) cadence_ns: AtomicU64,
    pub(crate) backed_off: AtomicU32,
    /// What a burst makes of it; 0 while none is on.
    pub(crate) burst_ns: AtomicU64,
    cpu_ns: AtomicU64,
    /// Of one core, in parts per million.
    cpu_share_ppm: AtomicU64,
    reads: AtomicU64,
    events: AtomicU64,
    readings: AtomicU64,
    cost_ns: AtomicU64,
    cost_ns_max: AtomicU64,
    cost_histogram: Box<[AtomicU64]>,
    pub(crate) missed_deadlines: AtomicU64,
    pub(crate) probes: AtomicU64,
    errors: [AtomicU64; ErrorReason::ALL.len()],
    pub(crate) over_capacity: AtomicU64,
    rejects: Mutex<Rejects>,
    pub(crate) signals_dropped: AtomicU64,
    pub(crate) windows_dropped: AtomicU64,
    pub(crate) series_bytes: AtomicU64,
    pub(crate) series_left_out: AtomicU64,
    pub(crate) rtnl_ns: AtomicU64,
    pub(crate) rtnl_rest_ns: AtomicU64,
}

impl SourceStats {
    pub(crate) fn new(source: &'static str, kernel_path: &str, range: CadenceRange, asked: Option<Duration>) -> Self {
        let stats = Self {
            range: Mutex::new(range),
            asked_ns: AtomicU64::new(asked.map_or(0, nanos)),
            source,
            kernel_path: Mutex::new(kernel_path.to_owned()),
            state: Mutex::new(SourceState::Starting),
            cadence_ns: AtomicU64::new(0),
            backed_off: AtomicU32::new(0),
            burst_ns: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            cpu_share_ppm: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            events: AtomicU64::new(0),
            readings: AtomicU64::new(0),
            cost_ns: AtomicU64::new(0),
            cost_ns_max: AtomicU64::new(0),
            cost_histogram: (0..COST_BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            missed_deadlines: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            errors: Default::default(),
            over_capacity: AtomicU64::new(0),
            rejects: Mutex::default(),
            signals_dropped: AtomicU64::new(0),
            windows_dropped: AtomicU64::new(0),
            series_bytes: AtomicU64::new(0),
            series_left_out: AtomicU64::new(0),
            rtnl_ns: AtomicU64::new(0),
            rtnl_rest_ns: AtomicU64::new(0),
        };
        stats.set_range(range);
        stats
    }

    /// Asks for a cadence; gives what that comes to within the source's range.
    pub(crate) fn ask(&self, cadence: Duration) -> Duration {
        self.asked_ns.store(nanos(cadence), Relaxed);
        let range = *self.range.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_range(range)
    }

    /// Somebody asked for a cadence.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked_ns.load(Relaxed) != 0
    }

    /// What the source can do now.
    pub(crate) fn set_range(&self, range: CadenceRange) -> Duration {
        *self.range.lock().unwrap_or_else(PoisonError::into_inner) = range;
        let asked = match self.asked_ns.load(Relaxed) {
            0 => range.default,
            asked_ns => Duration::from_nanos(asked_ns),
        };
        let cadence = range.clamp(asked);
        self.cadence_ns.store(nanos(cadence), Relaxed);
        cadence
    }

    /// What the thread used so far, and over the last second as a share of one core.
    pub(crate) fn set_cpu(&self, cpu_ns: u64, share: f64) {
        self.cpu_ns.store(cpu_ns, Relaxed);
        self.cpu_share_ppm.store((share * 1e6) as u64, Relaxed);
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
            range: _,
            asked_ns: _,
            cadence_ns,
            backed_off,
            burst_ns,
            cpu_ns,
            cpu_share_ppm,
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
            series_bytes,
            series_left_out,
            rtnl_ns,
            rtnl_rest_ns,
        } = self;
        let asked_ns = cadence_ns.load(Relaxed) << backed_off.load(Relaxed);
        let in_force_ns = match burst_ns.load(Relaxed) {
            0 => asked_ns,
            burst_ns => asked_ns.min(burst_ns),
        };
        let costs: Vec<u64> = cost_histogram.iter().map(|count| count.load(Relaxed)).collect();
        SourceReport {
            source,
            kernel_path: kernel_path.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            state: state.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            cadence: Duration::from_nanos(in_force_ns.max(rtnl_rest_ns.load(Relaxed))),
            backed_off: backed_off.load(Relaxed),
            cpu_ns: cpu_ns.load(Relaxed),
            cpu_share: cpu_share_ppm.load(Relaxed) as f64 / 1e6,
            reads: reads.load(Relaxed),
            events: events.load(Relaxed),
            readings: readings.load(Relaxed),
            cost_ns: cost_ns.load(Relaxed),
            cost_ns_max: cost_ns_max.load(Relaxed),
            cost_ns_p50: quantile(&costs, 0.5),
            cost_ns_p99: quantile(&costs, 0.99),
            missed_deadlines: missed_deadlines.load(Relaxed),
            probes: probes.load(Relaxed),
            errors: std::array::from_fn(|i| errors[i].load(Relaxed)),
            over_capacity: over_capacity.load(Relaxed),
            rejects: *rejects.lock().unwrap_or_else(PoisonError::into_inner),
            signals_dropped: signals_dropped.load(Relaxed),
            windows_dropped: windows_dropped.load(Relaxed),
            series_bytes: series_bytes.load(Relaxed),
            series_left_out: series_left_out.load(Relaxed),
            rtnl_ns: rtnl_ns.load(Relaxed),
            rtnl_rest: Duration::from_nanos(rtnl_rest_ns.load(Relaxed)),
        }
    }
}

/// The octave and its eighth in which a cost lies; below 16 ns each nanosecond has its own.
fn bucket(cost_ns: u64) -> usize {
    let octave = (cost_ns.max(1).ilog2() as usize).saturating_sub(OCTAVE_BITS);
    (octave << OCTAVE_BITS) + (cost_ns >> octave) as usize
}

/// The greatest cost that falls into a bucket.
fn bucket_max_ns(bucket: usize) -> u64 {
    let first = 1 << OCTAVE_BITS;
    let octave = (bucket / first).saturating_sub(1);
    let mantissa = (bucket - octave * first) as u64;
    ((mantissa + 1) << octave).wrapping_sub(1)
}

/// The cost that so many of the reads stay within; 0 where there were none.
fn quantile(costs: &[u64], share: f64) -> u64 {
    let all: u64 = costs.iter().sum();
    let mut left = (all as f64 * share).ceil() as u64;
    for (place, count) in costs.iter().enumerate().filter(|(_, count)| **count > 0) {
        if *count >= left {
            return bucket_max_ns(place);
        }
        left -= count;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::{COST_BUCKETS, bucket, bucket_max_ns, quantile};

    #[test]
    fn every_cost_has_a_bucket_that_ends_at_most_an_eighth_above_it() {
        let octaves = (0..64).flat_map(|bits| [(1u64 << bits) - 1, 1 << bits, (1 << bits) + 1, 3 << (bits / 2)]);
        for cost_ns in octaves.chain([0, 1_000, 45_000, 160_000_000, u64::MAX]) {
            let bucket = bucket(cost_ns);
            assert!(bucket < COST_BUCKETS, "{cost_ns} ns: bucket {bucket}");
            let end_ns = bucket_max_ns(bucket);
            assert!(cost_ns <= end_ns && end_ns - cost_ns <= cost_ns / 8, "{cost_ns} ns: bucket ends at {end_ns}");
            assert!(bucket == 0 || bucket_max_ns(bucket - 1) < cost_ns, "{cost_ns} ns belongs into a bucket before");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_reads() {
        let mut costs = vec![0; COST_BUCKETS];
        assert_eq!(quantile(&costs, 0.99), 0, "no read yet");
        costs[bucket(1_000)] = 98;
        costs[bucket(1_000_000)] = 2;
        assert_eq!((quantile(&costs, 0.5), quantile(&costs, 0.98)), (1_023, 1_023));
        assert_eq!(quantile(&costs, 0.99), bucket_max_ns(bucket(1_000_000)));
    }
}
