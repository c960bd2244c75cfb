//! Reading as often as the kernel justifies, for a short time, on suspicion.
//!
//! In: signals of the host's own detectors, and requests. Out: whether a burst is on, and a nudge of every sampling thread
//! when one begins. A burst that a signal began lasts [`BURST_TIME`], and no signal begins another within [`BURST_REST`]:
//! a flapping link must not make the agent dear. A request is bounded by [`BURST_TIME_MAX`], and all requests together by
//! an allowance: [`BURST_TIME_MAX`] at once, of which a second comes back every [`BURST_SHARE`] seconds (a leaky bucket, as
//! in ITU-T I.371). So at most a sixth of the time is spent for signals and a fifth for requests, however many ask.
//! Whatever is asked, [`crate::governor`] stays above it.

use crate::clock::monotonic_ns;
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
/// One second in so many may be spent in bursts on request.
pub const BURST_SHARE: u32 = 5;
/// A request that could be granted less than this, and asked for more, is refused.
const BURST_TIME_MIN: Duration = Duration::from_secs(1);

/// A request finds the allowance spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time for bursts on request is spent: one second in {BURST_SHARE} may be; ask again in {again_in:?}")]
pub struct BurstRefused {
    /// After this a burst of a second can be had.
    pub again_in: Duration,
}

/// The way to ask a sampler for bursts. Clone it freely.
#[derive(Clone)]
pub struct Bursts(pub(crate) Arc<Burst>);

impl Bursts {
    /// Reads every source at its shortest cadence for a time from now on; returns the time it comes to, which is shorter
    /// where the allowance is. A burst that is on is made longer, never shorter. Returns at once.
    ///
    /// # Errors
    /// [`BurstRefused`] when the allowance is spent.
    pub fn request(&self, time: Duration) -> Result<Duration, BurstRefused> {
        self.0.request(monotonic_ns(), time)
    }
}

/// What requests have spent of their allowance.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    ns: u64,
    at_ns: u64,
}

impl Spent {
    /// What has not come back by now.
    fn now(self, now_ns: u64) -> u64 {
        self.ns.saturating_sub(now_ns.saturating_sub(self.at_ns) / u64::from(BURST_SHARE))
    }
}

/// Whether all sources are read at their shortest cadence now.
#[derive(Default)]
pub(crate) struct Burst {
    spent: Mutex<Spent>,
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

    /// Somebody wants to see closely. What a burst that is on covers anyway costs nothing.
    pub(crate) fn request(&self, now_ns: u64, time: Duration) -> Result<Duration, BurstRefused> {
        let until_ns = self.until_ns.load(Relaxed).max(now_ns);
        let wanted_ns = (now_ns + as_ns(time.min(BURST_TIME_MAX))).saturating_sub(until_ns);
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let spent_ns = spent.now(now_ns);
        let granted_ns = wanted_ns.min(as_ns(BURST_TIME_MAX) - spent_ns);
        let least_ns = wanted_ns.min(as_ns(BURST_TIME_MIN));
        if granted_ns < least_ns {
            let again_in = Duration::from_nanos((least_ns - granted_ns) * u64::from(BURST_SHARE));
            return Err(BurstRefused { again_in });
        }
        *spent = Spent { ns: spent_ns + granted_ns, at_ns: now_ns };
        drop(spent);
        let time = Duration::from_nanos(until_ns - now_ns + granted_ns);
        self.begin(now_ns, time);
        Ok(time)
    }

    fn begin(&self, now_ns: u64, time: Duration) {
        let until_ns = now_ns + as_ns(time);
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
        assert_eq!(burst.request(later, Duration::from_secs(3600)), Ok(BURST_TIME_MAX));
        assert!(burst.is_on(later + as_ns(BURST_TIME_MAX) - 1) && !burst.is_on(later + as_ns(BURST_TIME_MAX)));
        assert_eq!(burst.begun(), 3);
    }

    #[test]
    fn requests_share_an_allowance_that_comes_back_and_what_is_covered_already_is_free() {
        let burst = Burst::default();
        let second = 1_000_000_000;
        let secs = Duration::from_secs;
        // At, asked for, and what comes of it.
        for (place, (at_s, asked_s, expected)) in [
            (1000, 40, Ok(secs(40))),
            // 5 s of the burst are left, and 10 s are added: 40 - 7 + 10 = 43 s are spent.
            (1035, 15, Ok(secs(15))),
            // 43 - 2 = 41 s are spent: 19 s can be added to the 5 s that are left.
            (1045, 60, Ok(secs(24))),
            // What came back in 24 s: 4.8 s.
            (1069, 30, Ok(secs(5))),
            // 0.8 s came back, which is less than a second.
            (1073, 10, Err(secs(1))),
            (1078, 10, Ok(secs(2))),
            // All is back.
            (2000, 60, Ok(secs(60))),
        ]
        .into_iter()
        .enumerate()
        {
            let got = burst.request(at_s * second, secs(asked_s)).map_err(|refused| refused.again_in);
            let rounded = |time: Duration| Duration::from_secs(time.as_secs_f64().round() as u64);
            assert_eq!(got.map(rounded).map_err(rounded), expected, "case {place}: {asked_s} s at {at_s}");
        }
    }
}
