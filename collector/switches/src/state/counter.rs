//! A counter of a switch: what it moved by, over wraps and resets, and at which rate.
//!
//! In: values with the switch's own time and ours. Out: [`Counter`]. Never: a rate of one instant, or of a clock that jumps.

/// A counter, as it was read last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counter {
    /// As the switch said.
    pub value: u64,
    /// What it moved by since it was first read here, over resets.
    pub total: u64,
    /// Decreases that no wrap explains.
    pub resets: u64,
    /// Between the last two readings; none before the second.
    pub growth: Option<Growth>,
    /// When it was first read, by our clock, Unix nanoseconds.
    pub since_ns: u64,
    /// When it was read last, by our clock.
    pub received_ns: u64,
    /// When it was read last, by the switch's clock.
    read_ns: u64,
}

/// What a counter did between two readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// It grew by so much.
    pub by: u64,
    /// In so long.
    pub over_ns: u64,
}

impl Growth {
    /// As a rate.
    #[must_use]
    pub fn per_s(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people and thresholds")]
        let rate = self.by as f64 / (self.over_ns as f64 / 1e9);
        rate
    }
}

impl Counter {
    /// Takes a reading. Gives the growth since the one before, none where there is none or the counter began anew.
    pub(super) fn take(&mut self, value: u64, read_ns: u64, received_ns: u64, is_first: bool) -> Option<Growth> {
        let by_theirs = read_ns.saturating_sub(self.read_ns);
        let by_ours = received_ns.saturating_sub(self.received_ns);
        // Their clock knows best when they read it, unless it stands still, jumps, or lies.
        let over_ns = if (by_ours / 4..=by_ours.saturating_mul(4)).contains(&by_theirs) { by_theirs } else { by_ours };
        if over_ns == 0 && !is_first {
            // A second reading of one instant has no rate: it counts with the next interval.
            return None;
        }
        let before = std::mem::replace(&mut self.value, value);
        (self.read_ns, self.received_ns) = (read_ns, received_ns);
        if is_first {
            self.since_ns = received_ns;
            return None;
        }
        let Some(by) = grown(before, value) else {
            self.resets += 1;
            self.growth = None;
            return None;
        };
        self.total = self.total.wrapping_add(by);
        self.growth = Some(Growth { by, over_ns });
        self.growth
    }
}

/// How much a counter grew, a wrap of 32 or 64 bits included: it was in the upper half, and is in the lower. Nothing where it was set back.
fn grown(before: u64, now: u64) -> Option<u64> {
    const HALF: [(u64, u64); 2] = [(1 << 31, u32::MAX as u64), (1 << 63, u64::MAX)];
    if now >= before {
        return Some(now - before);
    }
    let wrap = HALF.iter().find(|(half, max)| before <= *max && before >= *half && now < *half);
    wrap.map(|(_, max)| (max - before) + now + 1)
}
