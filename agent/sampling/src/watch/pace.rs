//! How often one series may speak, and what it kept to itself meanwhile.
//!
//! Generic cell rate algorithm (ITU-T I.371): so many signals at once, and as many in each hold-off.

use crate::signal::HOLD_OFF;

const HOLD_OFF_NS: u64 = HOLD_OFF.as_secs() * 1_000_000_000;

/// The pace of one series.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When the series will have its full burst again.
    full_burst_at_ns: u64,
    /// Edges seen and not told.
    untold: u64,
}

impl Pace {
    /// An edge was seen.
    pub(super) fn note(&mut self, is_edge: bool) {
        self.untold += u64::from(is_edge);
    }

    /// Edges wait to be told.
    pub(super) fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// Those edges, told or counted now.
    pub(super) fn take_untold(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }

    /// Whether it may speak now, `burst` times in a hold-off; where it may, that is taken as spoken.
    pub(super) fn may_speak(&mut self, now_ns: u64, burst: u64) -> bool {
        let interval_ns = HOLD_OFF_NS / burst;
        let full_at_ns = self.full_burst_at_ns.max(now_ns);
        if full_at_ns + interval_ns > now_ns + HOLD_OFF_NS {
            return false;
        }
        self.full_burst_at_ns = full_at_ns + interval_ns;
        true
    }
}
