//! What each direction has of each kind of probe, and whether it is enough.
//!
//! In: flows as they are chosen. Out: whether a direction still lacks probes, and how sure it is that it does not. Where a flow's path is not
//! known, whether it crosses a direction is a throw of the switches' hash: the number of crossing flows is then a sum of independent
//! throws, whose lower tail is at most that of as many throws of equal mean likelihood (Hoeffding, Annals of Mathematical Statistics 27,
//! 1956), which is what is computed. Pure.

/// A path is known where its likelihood is this near to one.
const SURE: f64 = 1.0 - 1e-9;
/// Rates are compared with this slack.
const SLACK: f64 = 1e-9;
/// Steps of likelihood for which the throws needed are remembered.
const STEPS: usize = 64;

/// Of one kind and direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Packets a second whose path is known.
    pub sure_per_s: f64,
    /// Expected, of those whose path is not.
    pub likely_per_s: f64,
    /// Flows whose path is not known and that may cross.
    pub throws: u32,
    /// Of those, expected to cross.
    pub hits: f64,
    /// Below so many hits it is not enough, as it was found when it was looked at last.
    look_at_hits: f64,
}

impl Tally {
    /// A flow that crosses with this likelihood.
    pub fn add(&mut self, likely: f64, per_s: f64) {
        if likely >= SURE {
            self.sure_per_s += per_s;
        } else {
            self.likely_per_s += likely * per_s;
            self.throws += 1;
            self.hits += likely;
        }
    }

    /// The likelihood that at least `need_per_s` cross, each flow of unknown path counted with `each_per_s`.
    pub fn certainty(&self, need_per_s: f64, each_per_s: f64) -> f64 {
        let rest = need_per_s - self.sure_per_s;
        if rest <= SLACK {
            return 1.0;
        }
        let needed = needed(rest, each_per_s);
        if self.throws == 0 || f64::from(needed) > f64::from(self.throws) {
            return 0.0;
        }
        1.0 - tail_below(needed, self.throws, self.hits / f64::from(self.throws))
    }
}

/// Flows that must cross.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count, not negative")]
fn needed(rest_per_s: f64, each_per_s: f64) -> u32 {
    (rest_per_s / each_per_s - SLACK).ceil().clamp(1.0, 4096.0) as u32
}

/// The likelihood of fewer than `needed` hits in so many throws of this likelihood each.
fn tail_below(needed: u32, throws: u32, likely: f64) -> f64 {
    let odds = likely / (1.0 - likely);
    // In logarithms: the first term underflows where throws are many.
    let mut term = f64::from(throws) * (1.0 - likely).ln();
    let mut sum = 0.0;
    for hits in 0..needed {
        sum += term.exp();
        term += (f64::from(throws - hits) / f64::from(hits + 1) * odds).ln();
    }
    sum.min(1.0)
}

/// All directions.
pub struct Ledger {
    directions: usize,
    kinds: usize,
    tallies: Vec<Tally>,
    enough: Vec<bool>,
    lacking: usize,
    need_per_s: f64,
    each_per_s: f64,
    certainty: f64,
    /// By flows needed and step of likelihood: expected hits that are enough; 0 where not computed yet.
    hits_needed: Vec<[f64; STEPS]>,
}

impl Ledger {
    /// Nothing crosses anything yet; each kind needs so much in each direction, and flows have so much each at least.
    pub fn new(directions: usize, kinds: usize, need_per_s: f64, each_per_s: f64, certainty: f64) -> Self {
        Self {
            directions,
            kinds,
            tallies: vec![Tally::default(); directions * kinds],
            enough: vec![false; directions * kinds],
            lacking: directions * kinds,
            need_per_s,
            each_per_s,
            certainty,
            hits_needed: Vec::new(),
        }
    }

    fn at(&self, direction: usize, kind: usize) -> usize {
        kind * self.directions + direction
    }

    /// What a direction has of a kind.
    pub fn tally(&self, direction: usize, kind: usize) -> &Tally {
        &self.tallies[self.at(direction, kind)]
    }

    /// It does not have enough of this kind.
    pub fn lacks(&self, direction: usize, kind: usize) -> bool {
        !self.enough[self.at(direction, kind)]
    }

    /// Directions that lack a kind, times kinds.
    pub fn lacking(&self) -> usize {
        self.lacking
    }

    /// Nothing is wanted of it.
    pub fn excuse(&mut self, direction: usize) {
        for kind in 0..self.kinds {
            let at = self.at(direction, kind);
            self.lacking -= usize::from(!std::mem::replace(&mut self.enough[at], true));
        }
    }

    /// A flow of this kind crosses it, with this likelihood.
    pub fn add(&mut self, direction: usize, kind: usize, likely: f64, per_s: f64) {
        let at = self.at(direction, kind);
        let tally = &mut self.tallies[at];
        tally.add(likely, per_s);
        // Flows are many, and each crosses many directions: mostly nothing more is to be done than this.
        let may_be_enough = likely >= SURE || tally.hits >= tally.look_at_hits;
        if may_be_enough && !self.enough[at] && self.is_enough(at) {
            self.enough[at] = true;
            self.lacking -= 1;
        }
    }

    /// A flow that is counted already is sent so much more often.
    pub fn more(&mut self, direction: usize, kind: usize, likely: f64, per_s: f64) {
        let at = self.at(direction, kind);
        let tally = &mut self.tallies[at];
        if likely >= SURE { tally.sure_per_s += per_s } else { tally.likely_per_s += likely * per_s }
    }

    fn is_enough(&mut self, at: usize) -> bool {
        let tally = self.tallies[at];
        let rest = self.need_per_s - tally.sure_per_s;
        if rest <= SLACK {
            return true;
        }
        let needed = needed(rest, self.each_per_s);
        // The mean must lie above what is needed.
        if tally.hits <= f64::from(needed) && tally.throws > needed || tally.throws < needed {
            self.tallies[at].look_at_hits = if tally.throws < needed { 0.0 } else { f64::from(needed) };
            return false;
        }
        // Rounded down: rarer hits scatter more, so more of them are needed.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below STEPS")]
        let step = ((tally.hits / f64::from(tally.throws) * STEPS as f64) as usize).min(STEPS - 1);
        let hits_needed = self.hits_needed(needed, step);
        self.tallies[at].look_at_hits = hits_needed;
        tally.hits >= hits_needed
    }

    /// Expected hits with which fewer than `needed` come as rarely as allowed.
    fn hits_needed(&mut self, needed: u32, step: usize) -> f64 {
        let row = needed as usize;
        if self.hits_needed.len() <= row {
            self.hits_needed.resize(row + 1, [0.0; STEPS]);
        }
        if self.hits_needed[row][step] == 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "below STEPS")]
            let likely = (step as f64 / STEPS as f64).max(1e-3);
            let miss = 1.0 - self.certainty;
            let (mut low, mut high) = (needed, needed);
            while tail_below(needed, high, likely) > miss && high < 1 << 24 {
                (low, high) = (high, high * 2);
            }
            while high - low > 1 {
                let middle = u32::midpoint(low, high);
                if tail_below(needed, middle, likely) > miss { low = middle } else { high = middle }
            }
            self.hits_needed[row][step] = f64::from(high) * likely;
        }
        self.hits_needed[row][step]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_the_binomial_distributions() {
        // Exact: P(X < 2) of 4 throws of 1/2 is 5/16; of 10 throws of 1/10, 0.9^10 + 0.9^9.
        assert!((tail_below(2, 4, 0.5) - 0.3125).abs() < 1e-12);
        assert!((tail_below(2, 10, 0.1) - (0.9f64.powi(10) + 0.9f64.powi(9))).abs() < 1e-12);
        assert_eq!(tail_below(0, 4, 0.5), 0.0);
    }

    #[test]
    fn enough_is_what_the_tail_says_and_no_more_than_is_needed() {
        for likely in [0.5, 0.25, 1.0 / 64.0] {
            let mut ledger = Ledger::new(1, 1, 5.0, 1.0, 0.999);
            let mut flows = 0;
            while ledger.lacks(0, 0) {
                ledger.add(0, 0, likely, 1.0);
                flows += 1;
            }
            let tally = ledger.tally(0, 0);
            assert!(tally.certainty(5.0, 1.0) >= 0.999, "{likely}");
            assert!(tail_below(5, flows - 2, likely) > 0.0008, "{likely}: {flows} flows are too many");
        }
    }

    #[test]
    fn what_is_known_counts_in_full_and_the_rest_is_thrown_for() {
        let mut ledger = Ledger::new(2, 1, 5.0, 1.0, 0.999);
        (0..5).for_each(|_| ledger.add(0, 0, 1.0, 1.0));
        assert_eq!((ledger.lacks(0, 0), ledger.lacking()), (false, 1));
        (0..4).for_each(|_| ledger.add(1, 0, 1.0, 1.0));
        (0..9).for_each(|_| ledger.add(1, 0, 0.5, 1.0));
        assert!(ledger.lacks(1, 0), "one of nine throws of a half misses more often than once in a thousand");
        ledger.add(1, 0, 0.5, 1.0);
        assert!(!ledger.lacks(1, 0));
        assert_eq!(ledger.lacking(), 0);
    }
}
