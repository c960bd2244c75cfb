//! A process that is short of processors: its threads could run, and wait for their turn.
//!
//! In: of each second, the share of it in which the thread that waited most has waited. Out: a [`Change`] where that is much for
//! seconds on end, more than anything that this process lately showed, and where it is over. Who always waits so is no news: each
//! process is measured by itself. Pure.

use std::collections::VecDeque;

/// Seconds that are judged together.
const SPAN: usize = 5;
/// Of them, so many are above the limit each by itself: one long wait is none of many.
const ABOVE_MIN: usize = 4;
/// A process that waits less is not told, however new that is to it: a quarter of its time is a quarter of its pace.
const SHARE_MIN: f64 = 0.25;
/// More than the most that it lately showed.
const MARGIN: f64 = 0.2;
/// Seconds until a process is known; it starts with everything that its host does at once.
const KNOWN_AFTER: u32 = 10;
/// What it shows is believed to be usual after so long: what begins now must not be its own measure.
const DELAY: usize = 2 * SPAN;
/// The most of so many last stretches of time counts as usual...
const STRETCHES: usize = 4;
/// ... of so many seconds each: some 17 minutes in all, in which a job has shown its checkpoints and evaluations.
const STRETCH: u32 = 256;
/// Seconds for which it is below the limit until it is over.
const OVER_AFTER: u32 = 5;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// It waits.
    Starved {
        /// Mean share of time over the last seconds.
        share: f64,
        /// The most that it showed before.
        usual: f64,
    },
    /// It waits no more than it used to, or than anybody minds.
    Over {
        /// Mean share of time over the last seconds.
        share: f64,
    },
}

/// Follows one process.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    recent: VecDeque<f64>,
    /// Means that are not believed to be usual yet.
    fresh: VecDeque<f64>,
    usual: [f64; STRETCHES],
    seconds: u32,
    /// The limit that it was told by.
    told: Option<f64>,
    below: u32,
}

impl Detector {
    /// Whether the last second was above the limit: a reason to look closer.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.told.is_none() && self.recent.back().is_some_and(|share| *share >= self.limit())
    }

    /// Takes the share of the next second, 0 to 1. With `may_tell` unset it learns and tells no beginning.
    pub fn second(&mut self, share: f64, may_tell: bool) -> Option<Change> {
        let share = share.clamp(0.0, 1.0);
        self.recent.push_back(share);
        if self.recent.len() > SPAN {
            self.recent.pop_front();
        }
        self.seconds = self.seconds.saturating_add(1);
        #[expect(clippy::cast_precision_loss, reason = "at most five")]
        let mean = self.recent.iter().sum::<f64>() / self.recent.len() as f64;
        if let Some(limit) = self.told {
            self.below = if share < limit { self.below + 1 } else { 0 };
            return (self.below >= OVER_AFTER).then(|| {
                (self.told, self.below) = (None, 0);
                Change::Over { share: mean }
            });
        }
        let limit = self.limit();
        let above = self.recent.iter().filter(|share| **share >= limit).count();
        if may_tell && self.seconds > KNOWN_AFTER && mean >= limit && above >= ABOVE_MIN {
            // What was on its way to being usual is a part of this.
            self.fresh.clear();
            self.told = Some(limit);
            return Some(Change::Starved { share: mean, usual: self.most_usual() });
        }
        self.learn(mean);
        None
    }

    fn learn(&mut self, mean: f64) {
        self.fresh.push_back(mean);
        // Until it is known, all of it is taken at once.
        let delay = if self.seconds <= KNOWN_AFTER { 0 } else { DELAY };
        while self.fresh.len() > delay {
            let mean = self.fresh.pop_front().unwrap_or_default();
            self.usual[0] = self.usual[0].max(mean);
        }
        if self.seconds.is_multiple_of(STRETCH) {
            self.usual.rotate_right(1);
            self.usual[0] = 0.0;
        }
    }

    fn most_usual(&self) -> f64 {
        self.usual.into_iter().fold(0.0, f64::max)
    }

    fn limit(&self) -> f64 {
        SHARE_MIN.max(self.most_usual() + MARGIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise of a second, -1 to 1, the same each time.
    fn noise(second: u32) -> f64 {
        let mixed = (u64::from(second) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        f64::from(u32::try_from((mixed ^ (mixed >> 29)) & 0xffff).unwrap_or(0)) / 32_768.0 - 1.0
    }

    fn run(seconds: u32, share: impl Fn(u32) -> f64) -> Vec<(u32, Change)> {
        let mut detector = Detector::default();
        (0..seconds).filter_map(|second| Some((second, detector.second(share(second), true)?))).collect()
    }

    #[test]
    fn a_process_that_goes_on_as_it_used_to_is_left_alone() {
        type Share = fn(u32) -> f64;
        let cases: [(&str, Share); 9] = [
            ("alone on its processors", |t| 0.01 + 0.005 * noise(t)),
            ("a start in which everything is loaded at once", |t| if t < 9 { 0.7 } else { 0.02 }),
            ("a busy machine where it always waits", |t| 0.45 + 0.15 * noise(t)),
            ("spins against another that spins, for ever", |_| 0.5),
            ("a checkpoint that is compressed, 3 s each minute", |t| if t % 60 < 3 { 0.8 } else { 0.03 }),
            ("data are loaded by its own workers, 8 s each 30 s", |t| if t % 30 < 8 { 0.4 } else { 0.1 }),
            ("one second of another's start now and then", |t| if t % 97 == 50 { 0.95 } else { 0.02 }),
            ("three seconds of a cron job", |t| if t % 600 > 596 { 0.9 } else { 0.02 }),
            ("more of it, and too little to mind", |t| if t < 600 { 0.01 } else { 0.2 }),
        ];
        for (what, share) in cases {
            assert_eq!(run(7200, share), [], "{what}");
        }
    }

    #[test]
    fn a_process_that_begins_to_wait_is_told_within_seconds_and_so_is_the_end() {
        type Share = fn(u32) -> f64;
        let cases: [(&str, u32, Share); 4] =
            [
                ("from nothing", 5, |t| if (300..400).contains(&t) { 0.7 } else { 0.01 }),
                ("soon after its start", 5, |t| if (14..114).contains(&t) { 0.6 } else { 0.05 }),
                ("on a machine that is busy anyway", 6, |t| {
                    if (300..400).contains(&t) { 0.85 } else { 0.35 + 0.1 * noise(t) }
                }),
                ("slowly", 25, |t| if (300..400).contains(&t) { f64::from(t - 300) / 30.0 } else { 0.02 }),
            ];
        for (what, within, share) in cases {
            let told = run(500, share);
            let [(begun, Change::Starved { share, usual }), (over, Change::Over { .. })] = told[..] else {
                panic!("{what}: {told:?}")
            };
            let (from, to) = if what.starts_with("soon") { (14, 114) } else { (300, 400) };
            assert!((from + 3..from + within).contains(&begun), "{what}: {told:?}");
            assert!((to + 4..to + 6).contains(&over), "{what}: {told:?}");
            assert!(share >= SHARE_MIN && share >= usual + MARGIN, "{what}: {told:?}");
        }
    }

    #[test]
    fn what_is_its_own_doing_is_learnt_and_not_told() {
        let mut detector = Detector::default();
        for second in 0..40 {
            detector.second(0.02, true);
            assert!(!detector.is_suspect(), "{second}");
        }
        for _ in 0..20 {
            assert_eq!(detector.second(0.6, false), None);
        }
        assert_eq!((0..60).find_map(|_| detector.second(0.6, true)), None, "usual by now");
    }
}
