//! Whether a disk takes longer for its requests than it usually does.
//!
//! In: for each stretch of some seconds the number of requests that ended and the time that nine tenths of them did not
//! exceed. Out: a [`Change`] when that becomes high, and when it is normal again.
//!
//! What is usual is learned: the time that 95 % of the busy stretches stay below (stochastic approximation of a quantile,
//! Robbins and Monro 1951, on the logarithm, so that a step is a ratio). A quantile and not a mean, because the large writes of
//! a checkpoint every half hour are usual too. While it stays high, learning goes on at a small part of its pace: a disk that
//! is different for good becomes usual after an hour or so, and does not while it fails.
//!
//! Never: a judgement of an idle disk, of fewer than [`REQUESTS_MIN`] requests, or below the floor, where nobody would notice.

/// A stretch with fewer requests says nothing.
pub const REQUESTS_MIN: u64 = 16;
/// Busy stretches before a judgement by what is usual.
const LEARNED_MIN: u32 = 12;
/// Times the usual that is high.
const HIGH: f64 = 4.0;
/// Times the usual that is normal again.
const NORMAL: f64 = 2.0;
/// Stretches in a row that decide.
const IN_A_ROW: u32 = 2;
/// High whatever is usual, microseconds.
pub const ALWAYS_HIGH_US: f64 = 2e6;
/// Stretches without requests after which a high is over.
const IDLE: u32 = 12;
/// Step of the logarithm at one busy stretch, up; and down by a nineteenth of it: 95 %.
const STEP_UP: f64 = 0.095;
const STEP_DOWN: f64 = 0.005;
/// Part of a step from the third stretch in a row on that is above: a checkpoint teaches, a failing disk hardly.
const WHILE_HIGH: f64 = 0.03;

/// What a stretch showed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Requests that ended.
    pub requests: u64,
    /// Time that nine tenths of them did not exceed, microseconds; of none that ended, the age of the oldest in flight.
    pub time_us: f64,
    /// Requests are in flight, and none ended.
    pub is_stuck: bool,
}

/// News.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// It takes longer than usual (microseconds; `None`: not known yet).
    High {
        /// What is usual.
        usual_us: Option<f64>,
    },
    /// As usual again, or idle.
    Normal {
        /// What is usual.
        usual_us: Option<f64>,
    },
}

/// What is usual for one disk and operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    usual_ln: f64,
    learned: u32,
    above: u32,
    below: u32,
    idle: u32,
    is_high: bool,
}

impl Baseline {
    /// What is usual, microseconds, once it is known.
    #[must_use]
    pub fn usual_us(&self) -> Option<f64> {
        (self.learned >= LEARNED_MIN).then(|| self.usual_ln.exp())
    }

    /// Whether it is high now.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.is_high
    }

    /// Takes a stretch. Below `floor_us` nothing is high.
    pub fn take(&mut self, window: &Window, floor_us: f64) -> Option<Change> {
        let usual_us = self.usual_us();
        if !window.is_stuck && window.requests < REQUESTS_MIN {
            self.above = 0;
            self.idle = if window.requests == 0 { self.idle + 1 } else { 0 };
            return self.ends(self.idle >= IDLE, usual_us);
        }
        self.idle = 0;
        let time_us = window.time_us.max(1.0);
        let times = |usual: Option<f64>, factor: f64| usual.is_some_and(|usual| time_us > usual * factor);
        let is_above = time_us > floor_us && (times(usual_us, HIGH) || time_us > ALWAYS_HIGH_US);
        let is_below = time_us < floor_us || (time_us < ALWAYS_HIGH_US && !times(usual_us, NORMAL));
        self.above = if is_above { self.above + 1 } else { 0 };
        self.below = if is_below { self.below + 1 } else { 0 };
        if !window.is_stuck {
            self.learn(time_us.ln());
        }
        if !self.is_high && self.above >= IN_A_ROW {
            self.is_high = true;
            return Some(Change::High { usual_us });
        }
        self.ends(self.below >= IN_A_ROW, usual_us)
    }

    fn ends(&mut self, is_over: bool, usual_us: Option<f64>) -> Option<Change> {
        let ends = self.is_high && is_over;
        self.is_high &= !ends;
        ends.then_some(Change::Normal { usual_us })
    }

    fn learn(&mut self, time_ln: f64) {
        self.learned = self.learned.saturating_add(1);
        if self.learned <= LEARNED_MIN {
            // The largest of the first: a beginning from which the quantile comes down.
            self.usual_ln = if self.learned == 1 { time_ln } else { self.usual_ln.max(time_ln) };
            return;
        }
        let part = if self.above > IN_A_ROW { WHILE_HIGH } else { 1.0 };
        self.usual_ln += part * if time_ln > self.usual_ln { STEP_UP } else { -STEP_DOWN };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR_US: f64 = 10_000.0;

    /// Feeds stretches of (how many, requests, time); the numbers of those at which it became high and normal.
    fn news(stretches: &[(u32, u64, f64)]) -> Vec<(u32, bool)> {
        let (mut baseline, mut at, mut told) = (Baseline::default(), 0, Vec::new());
        for &(count, requests, time_us) in stretches {
            for _ in 0..count {
                let is_stuck = requests == u64::MAX;
                let window = Window { requests: if is_stuck { 0 } else { requests }, time_us, is_stuck };
                match baseline.take(&window, FLOOR_US) {
                    Some(Change::High { .. }) => told.push((at, true)),
                    Some(Change::Normal { .. }) => told.push((at, false)),
                    None => {}
                }
                at += 1;
            }
        }
        told
    }

    #[test]
    fn a_disk_is_judged_against_itself() {
        const STUCK: u64 = u64::MAX;
        for (what, stretches, expected) in [
            ("steady", &[(1000, 100, 5_000.0)][..], vec![]),
            (
                "ten times slower, then well",
                &[(50, 100, 5e3), (20, 100, 5e4), (5, 100, 5e3)],
                vec![(51, true), (71, false)],
            ),
            ("one slow stretch", &[(50, 100, 5e3), (1, 100, 5e4), (50, 100, 5e3)], vec![]),
            ("ten times slower below the floor", &[(50, 100, 500.0), (50, 100, 5e3)], vec![]),
            ("slow on the few requests of an idle disk", &[(50, 100, 5e3), (50, 3, 9e5)], vec![]),
            ("slow from the start", &[(10, 100, 3e6)], vec![(1, true)]),
            ("slow and not known yet", &[(5, 100, 5e3), (3, 100, 5e4)], vec![]),
            ("nothing ends any more", &[(50, 100, 5e3), (3, STUCK, 6e6)], vec![(51, true)]),
            (
                "stuck on a disk that was idle",
                &[(3, 0, 0.0), (2, STUCK, 6e6), (13, 0, 0.0)],
                vec![(4, true), (16, false)],
            ),
            ("over when it is idle", &[(50, 100, 5e3), (3, 100, 5e4), (20, 0, 0.0)], vec![(51, true), (64, false)]),
            (
                "around the limit, once",
                &[(50, 100, 1e4), (2, 100, 4.5e4), (40, 100, 3e4)],
                vec![(51, true), (56, false)],
            ),
        ] {
            assert_eq!(news(stretches), expected, "{what}");
        }
    }

    #[test]
    fn checkpoints_are_usual_after_some_of_them() {
        // Of busy stretches one in eight is of a checkpoint, twelve times as slow as the reads between.
        let day: Vec<_> = (0..200).flat_map(|_| [(14, 200, 2_000.0), (2, 500, 24_000.0)]).collect();
        let told = news(&day);
        assert!(told.iter().all(|(at, _)| *at < 16 * 20), "known after twenty: {:?}", told.last());
        let mut slow = day.clone();
        slow.push((4, 500, 240_000.0));
        assert!(news(&slow).last().is_some_and(|(at, is_high)| *at > 3_200 && *is_high), "ten times that is told");
    }

    #[test]
    fn what_stays_becomes_usual() {
        let told = news(&[(100, 100, 5e3), (2_000, 100, 6e4)]);
        assert_eq!(told.first(), Some(&(101, true)));
        assert!(told.len() == 2 && (300..1_500).contains(&told[1].0), "{told:?}");
    }
}
