//! Reading as often as the kernel justifies, for a short time, on suspicion.
//!
//! In: signals of the host's own detectors, and requests. Out: whether a burst is on, and a nudge of every sampling thread
//! when one begins. A burst that a signal began lasts [`BURST_TIME`], and no signal begins another within [`BURST_REST`]:
//! a flapping link must not make the agent dear. A request is bounded by [`BURST_TIME_MAX`] and waits for no rest.

use crate::reader::Control;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a burst lasts that a signal began.
pub const BURST_TIME: Duration = Duration::from_secs(10);
/// From the begin of such a burst to the earliest begin of the next.
pub const BURST_REST: Duration = Duration::from_secs(60);
/// Longest burst that can be requested.
pub const BURST_TIME_MAX: Duration = Duration::from_secs(60);

/// Whether all sources are read at their shortest cadence now.
#[derive(Default)]
pub(crate) struct Burst {
    until_ns: AtomicU64,
    rested_at_ns: AtomicU64,
    begun: AtomicU64,
    threads: Mutex<Vec<Arc<Control>>>,
}

impl Burst {
    /// A thread to nudge.
    pub(crate) fn join(&self, thread: &Arc<Control>) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(thread));
    }

    /// Something is wrong on this host.
    pub(crate) fn suspect(&self, now_ns: u64) {
        let rested = self
            .rested_at_ns
            .try_update(Relaxed, Relaxed, |at_ns| (now_ns >= at_ns).then_some(now_ns + as_ns(BURST_REST)))
            .is_ok();
        if rested {
            self.begin(now_ns, BURST_TIME);
        }
    }

    /// Somebody wants to see closely.
    pub(crate) fn begin(&self, now_ns: u64, time: Duration) {
        let until_ns = now_ns + as_ns(time.min(BURST_TIME_MAX));
        if self.until_ns.fetch_max(until_ns, Relaxed) <= now_ns {
            self.begun.fetch_add(1, Relaxed);
            tracing::info!(seconds = time.as_secs(), "burst: every source is read at its shortest cadence");
            for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                thread.nudge();
            }
        }
    }

    pub(crate) fn is_on(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns.load(Relaxed)
    }

    /// Bursts so far.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }
}

fn as_ns(time: Duration) -> u64 {
    time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::{BURST_REST, BURST_TIME, BURST_TIME_MAX, Burst, as_ns};
    use std::time::Duration;

    #[test]
    fn signals_begin_a_burst_and_after_a_rest_another_and_requests_need_no_rest() {
        let burst = Burst::default();
        let (begin, end, rested) =
            (5_000_000_000, 5_000_000_000 + as_ns(BURST_TIME), 5_000_000_000 + as_ns(BURST_REST));
        assert!(!burst.is_on(begin));
        burst.suspect(begin);
        burst.suspect(begin + 1);
        assert!(burst.is_on(end - 1) && !burst.is_on(end), "one signal more makes it no longer");
        burst.suspect(rested - 1);
        assert!(!burst.is_on(rested - 1));
        burst.suspect(rested);
        assert!(burst.is_on(rested));
        let later = rested + as_ns(BURST_TIME);
        burst.begin(later, Duration::from_secs(3600));
        assert!(burst.is_on(later + as_ns(BURST_TIME_MAX) - 1) && !burst.is_on(later + as_ns(BURST_TIME_MAX)));
        assert_eq!(burst.begun(), 3);
    }
}
