//! When the programs are attached, so that timing requests stays within a budget of CPU time, whoever's CPU it is.
//!
//! In: the time, what timing has cost so far ([`cost_ns`]), how many timed requests have not ended. Out: the next
//! [`Step`], and when to ask again. What is not spent is saved for fifteen seconds; what was spent beyond it is paid back before
//! anything is attached again. Over the budget, requests are timed in slices: for 1.5 s in fifteen where that is affordable,
//! else for less, down to 5 ms, else more rarely; a suspicion has one begin after five. Attaching a program and taking it off
//! changes the kernel's code, which interrupts every core: so slices are few and long, and not many and short. A slice has
//! two ends: first no request begins to be timed, then, when those that began have ended, no end is looked at either; so a
//! slice times slow requests as fully as quick ones. Never: debt forgiven, a slice begun in debt, a wait without an end.

/// What a request costs, both programs, nanoseconds: 1,300 measured (docs/SPECIFICATION.md), rounded up. The kernel's own
/// statistics are no help: switched on, they cost two clock readings per run of every program of the host.
const REQUEST_NS: u64 = 1_500;
/// What the end of a request costs whose beginning was not seen: 470 measured for the whole of that program.
const END_NS: u64 = 500;
/// CPU time per second: 0.2 % of a core, 1,333 requests a second.
pub(crate) const BUDGET_NS: u64 = 2_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Time between two looks at the cost while requests are timed: the most by which a burst overdraws. The longer one where what
/// is saved would last for eight times the load; each look wakes a thread.
const LOOK_NS: u64 = 50_000_000;
const LOOK_IDLE_NS: u64 = 250_000_000;
const LOOK_AHEAD: u64 = 8;
/// From the beginning of a slice to that of the next, and where something points at a slow disk; the latter once in
/// [`SUSPECT_EVERY_NS`].
const EVERY_NS: u64 = 15 * SECOND_NS;
const SUSPECT_NS: u64 = 5 * SECOND_NS;
const SUSPECT_EVERY_NS: u64 = 60 * SECOND_NS;
/// What can be saved.
const SAVED_MAX_NS: u64 = BUDGET_NS * (EVERY_NS / SECOND_NS);
const SLICE_NS: u64 = 1_500_000_000;
const SLICE_MIN_NS: u64 = 5_000_000;
/// Waiting for the end of what began in a slice: at least, at most, and at most at such a cost.
const DRAIN_MIN_NS: u64 = 2_000_000;
const DRAIN_MAX_NS: u64 = SECOND_NS;
const DRAIN_COST_NS: u64 = 5 * BUDGET_NS;
/// From taking the last program off until none of its runs is under way.
const SETTLE_NS: u64 = 20_000_000;
/// After a whole slice of no more than this a second, every request is timed again.
const FITTING_NS: u64 = BUDGET_NS / 10 * 8;

/// What timing has cost since the programs were loaded, by the kernel half's books.
pub(crate) fn cost_ns(seen: u64, unmatched: u64) -> u64 {
    seen * REQUEST_NS + unmatched * END_NS
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Nothing before [`Controller::wake_ns`].
    Stay,
    /// Attach both programs.
    Attach,
    /// Take off the program at the beginning of requests.
    StopIssues,
    /// Take off the one at their end.
    Detach,
    /// Forget the requests whose end will not be seen.
    Clear,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Always,
    Slice { until_ns: u64 },
    Drain,
    Settle,
    Off,
}

/// The duty cycle.
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    phase: Phase,
    /// The phase's beginning, and what timing had cost by then.
    began: (u64, u64),
    /// The last question's.
    asked: (u64, u64),
    /// The last slice's; with `always`, the last look's.
    slice: (u64, u64),
    slice_length_ns: u64,
    /// CPU time of a slice of a second, by the last slice.
    second_costs_ns: u64,
    suspected_ns: Option<u64>,
    is_suspicious: bool,
    credit_ns: i64,
    wake_ns: u64,
}

impl Controller {
    /// Both programs have just been attached, and have cost nothing.
    pub(crate) fn new(now_ns: u64) -> Self {
        Self {
            phase: Phase::Always,
            began: (now_ns, 0),
            asked: (now_ns, 0),
            slice: (now_ns, 0),
            slice_length_ns: 0,
            second_costs_ns: 0,
            suspected_ns: None,
            is_suspicious: false,
            // So that the first seconds are seen, whatever the load.
            credit_ns: signed(SAVED_MAX_NS),
            wake_ns: now_ns + LOOK_NS,
        }
    }

    /// Every request is timed.
    pub(crate) fn is_always(&self) -> bool {
        self.phase == Phase::Always
    }

    /// Whether the answer depends on the requests in flight.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase == Phase::Drain
    }

    /// When to ask again.
    pub(crate) fn wake_ns(&self) -> u64 {
        self.wake_ns
    }

    /// Something points at a slow disk: the next slice begins sooner, where that does not happen all the time.
    pub(crate) fn suspect(&mut self, now_ns: u64) {
        let is_rare = self.suspected_ns.is_none_or(|last_ns| now_ns.saturating_sub(last_ns) >= SUSPECT_EVERY_NS);
        if !self.is_always() && is_rare {
            (self.suspected_ns, self.is_suspicious) = (Some(now_ns), true);
            self.wake_ns = if self.phase == Phase::Off { now_ns } else { self.wake_ns };
        }
    }

    /// The next step; to be asked again at once after any but [`Step::Stay`].
    pub(crate) fn next(&mut self, now_ns: u64, cost_ns: u64, in_flight: usize) -> Step {
        let now = (now_ns, cost_ns);
        let earned_ns = signed(share_of(now_ns.saturating_sub(self.asked.0), BUDGET_NS));
        let spent_ns = signed(cost_ns.saturating_sub(self.asked.1));
        self.credit_ns = (self.credit_ns + earned_ns).min(signed(SAVED_MAX_NS)) - spent_ns;
        self.asked = now;
        match self.phase {
            Phase::Always if self.credit_ns < 0 => self.end_slice(now),
            Phase::Always => {
                let (looked_ns, spent_ns) = since(self.slice, now);
                if looked_ns < LOOK_NS {
                    return Step::Stay;
                }
                self.slice = now;
                self.stay_until(now_ns + self.look_ns(per_second(spent_ns, looked_ns)))
            }
            Phase::Slice { until_ns } if now_ns < until_ns && self.credit_ns >= 0 => {
                self.stay_until(until_ns.min(now_ns + LOOK_NS))
            }
            Phase::Slice { .. } => {
                let (length_ns, spent_ns) = since(self.slice, now);
                let fits = length_ns >= SLICE_NS && per_second(spent_ns, length_ns) <= FITTING_NS;
                if fits && self.credit_ns >= 0 {
                    (self.phase, self.slice) = (Phase::Always, now);
                    return self.stay_until(now_ns + LOOK_NS);
                }
                self.end_slice(now)
            }
            Phase::Drain => {
                let (waited_ns, spent_ns) = since(self.began, now);
                let is_over = in_flight == 0 || waited_ns >= DRAIN_MAX_NS || spent_ns >= DRAIN_COST_NS;
                // Not at once: a run of the first program may be under way.
                if waited_ns < DRAIN_MIN_NS || !is_over {
                    let longer_ns = (2 * waited_ns).clamp(DRAIN_MIN_NS, DRAIN_MAX_NS);
                    return self.stay_until((self.began.0 + longer_ns).max(now_ns + DRAIN_MIN_NS / 2));
                }
                self.second_costs_ns = per_second(since(self.slice, now).1, self.slice_length_ns);
                self.enter(Phase::Settle, now);
                Step::Detach
            }
            Phase::Settle if now_ns < self.began.0 + SETTLE_NS => self.stay_until(self.began.0 + SETTLE_NS),
            Phase::Settle => {
                self.enter(Phase::Off, now);
                Step::Clear
            }
            Phase::Off => self.begin_slice(now),
        }
    }

    /// What a slice of the shortest kind costs is saved up for first.
    fn begin_slice(&mut self, now: (u64, u64)) -> Step {
        let due_ns = self.slice.0 + if self.is_suspicious { SUSPECT_NS } else { EVERY_NS };
        if now.0 < due_ns {
            return self.stay_until(due_ns);
        }
        // No more can be saved than that: a dearer slice is overdrawn, and paid back before the next.
        let needed_ns = share_of(SLICE_MIN_NS, self.second_costs_ns).min(SAVED_MAX_NS);
        let lacking_ns = signed(needed_ns) - self.credit_ns;
        if lacking_ns > 0 {
            return self.stay_until(now.0 + lacking_ns.unsigned_abs().saturating_mul(SECOND_NS / BUDGET_NS) + 1);
        }
        let affordable_ns = (u128::from(self.credit_ns.unsigned_abs()) * u128::from(SECOND_NS))
            .checked_div(self.second_costs_ns.into())
            .map_or(SLICE_NS, |length| u64::try_from(length).unwrap_or(SLICE_NS));
        let until_ns = now.0 + affordable_ns.clamp(SLICE_MIN_NS, SLICE_NS);
        (self.slice, self.is_suspicious) = (now, false);
        self.enter(Phase::Slice { until_ns }, now);
        Step::Attach
    }

    fn end_slice(&mut self, now: (u64, u64)) -> Step {
        self.slice_length_ns = since(self.slice, now).0.max(1);
        self.enter(Phase::Drain, now);
        Step::StopIssues
    }

    /// When to look again at such a cost a second: what is saved is to last for several times that.
    fn look_ns(&self, second_costs_ns: u64) -> u64 {
        let lasts_ns = u128::from(self.credit_ns.max(0).unsigned_abs()) * u128::from(SECOND_NS)
            / u128::from((second_costs_ns * LOOK_AHEAD).max(1));
        u64::try_from(lasts_ns).unwrap_or(LOOK_IDLE_NS).clamp(LOOK_NS, LOOK_IDLE_NS)
    }

    fn enter(&mut self, phase: Phase, now: (u64, u64)) {
        (self.phase, self.began) = (phase, now);
    }

    fn stay_until(&mut self, wake_ns: u64) -> Step {
        self.wake_ns = wake_ns;
        Step::Stay
    }
}

fn since(before: (u64, u64), now: (u64, u64)) -> (u64, u64) {
    (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1))
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Of what comes in a second, what comes in this time.
fn share_of(time_ns: u64, each_second: u64) -> u64 {
    u64::try_from(u128::from(time_ns) * u128::from(each_second) / u128::from(SECOND_NS)).unwrap_or(u64::MAX)
}

fn per_second(amount: u64, time_ns: u64) -> u64 {
    let found = u128::from(amount) * u128::from(SECOND_NS) / u128::from(time_ns.max(1));
    u64::try_from(found).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// What a simulated host did.
    #[derive(Default)]
    struct Run {
        steps: Vec<Step>,
        spent_ns: u64,
        timed_ns: u64,
        longest_gap_ns: u64,
        is_always: bool,
    }

    /// Loads: for so many seconds, so many requests a second, each taking so long. Asked just when it wants to be.
    fn run(loads: &[(u64, u64, u64)]) -> Run {
        run_suspecting(loads, u64::MAX)
    }

    /// The same, with a suspicion each `suspect_every_ns`.
    fn run_suspecting(loads: &[(u64, u64, u64)], suspect_every_ns: u64) -> Run {
        let mut suspect_at_ns = suspect_every_ns;
        let (mut controller, mut run) = (Controller::new(0), Run::default());
        let (mut now_ns, mut end_ns, mut last_issue_ns) = (0, 0, 0);
        let (mut issues, mut ends) = (true, true);
        for &(seconds, rate, takes_ns) in loads {
            end_ns += seconds * SECOND_NS;
            while now_ns < end_ns {
                let in_flight = usize::from(rate > 0 && now_ns < last_issue_ns + takes_ns);
                let step = controller.next(now_ns, run.spent_ns, in_flight);
                match step {
                    Step::Stay => {
                        if now_ns >= suspect_at_ns {
                            controller.suspect(now_ns);
                            suspect_at_ns = now_ns + suspect_every_ns;
                            continue;
                        }
                        let next_ns = controller.wake_ns().min(end_ns).min(suspect_at_ns);
                        assert!(next_ns > now_ns, "{controller:?}");
                        let requests = share_of(next_ns - now_ns, rate);
                        run.spent_ns += requests * if issues { REQUEST_NS } else { END_NS * u64::from(ends) };
                        if issues {
                            run.timed_ns += next_ns - now_ns;
                            run.longest_gap_ns = run.longest_gap_ns.max(now_ns - last_issue_ns);
                            last_issue_ns = next_ns;
                        }
                        now_ns = next_ns;
                        continue;
                    }
                    Step::Attach => (issues, ends) = (true, true),
                    Step::StopIssues => issues = false,
                    Step::Detach => ends = false,
                    Step::Clear => {}
                }
                run.steps.push(step);
            }
        }
        run.is_always = controller.is_always();
        run
    }

    #[test]
    fn the_budget_is_kept_on_average_and_every_load_is_sampled() {
        // Seconds, requests a second, time of each; slices begun at least and at most; the longest gap between two, s; whether
        // every request is timed in the end.
        for (what, loads, slices, gap_s, is_always) in [
            ("idle", &[(60, 0, MS)][..], 0..=0, 0, true),
            ("below the budget", &[(600, 1_300, MS)], 0..=0, 0, true),
            ("a little above it", &[(600, 2_000, MS)], 30..=40, 15, false),
            ("1.5 s in 15 fit", &[(600, 10_000, MS)], 36..=40, 15, false),
            ("only less than that fit", &[(600, 100_000, MS)], 25..=40, 24, false),
            ("only some milliseconds fit, and not in every 15 s", &[(3_600, 1_000_000, MS)], 40..=240, 190, false),
            ("requests take longer than a slice", &[(600, 10_000, 3_000 * MS)], 20..=40, 25, false),
            ("requests do not end", &[(600, 100_000, 1_000 * SECOND_NS)], 20..=40, 30, false),
            ("a burst", &[(30, 500, MS), (1, 100_000, MS), (90, 500, MS)], 1..=2, 30, true),
            ("bursts again and again", &[(10, 500, MS), (1, 100_000, MS)].repeat(60), 10..=44, 60, false),
        ] {
            let run = run(loads);
            let seconds: u64 = loads.iter().map(|load| load.0).sum();
            let begun = run.steps.iter().filter(|step| **step == Step::Attach).count();
            // Beyond the average: what is saved at first, and what a look or a slice overdraws.
            let rate = loads.iter().map(|load| load.1).max().unwrap_or(0);
            let allowed_ns =
                seconds * BUDGET_NS + SAVED_MAX_NS + (share_of(LOOK_IDLE_NS, rate) * REQUEST_NS).max(DRAIN_COST_NS);
            assert!(run.spent_ns <= allowed_ns, "{what}: {} of {allowed_ns}", run.spent_ns);
            assert!(slices.contains(&begun), "{what}: {begun} slices, {} ms", run.timed_ns / MS);
            assert!(run.longest_gap_ns <= gap_s * SECOND_NS, "{what}: {} ms", run.longest_gap_ns / MS);
            assert_eq!(run.is_always, is_always, "{what}");
        }
    }

    #[test]
    fn a_slice_lasts_as_long_as_is_affordable() {
        // Requests a second, and how much of 600 s is timed, ms.
        for (rate, timed_ms) in [(10_000, 54_000..=65_000), (100_000, 5_000..=8_500)] {
            let timed = run(&[(600, rate, MS)]).timed_ns / MS;
            assert!(timed_ms.contains(&timed), "{rate} a second: {timed} ms of 600 s");
        }
    }

    #[test]
    fn a_suspicion_brings_the_next_slice_forward_once_a_minute() {
        let begun = |run: &Run| run.steps.iter().filter(|step| **step == Step::Attach).count();
        let load = [(600, 10_000, MS)];
        let (without, with) = (run(&load), run_suspecting(&load, SECOND_NS));
        let more = begun(&with) - begun(&without);
        // Ten times in ten minutes a slice is up to ten seconds sooner, and those after it too.
        assert!((1..=10).contains(&more), "{} and {}", begun(&without), begun(&with));
        assert!(begun(&with) <= 10 * 5, "a few a minute: {}", begun(&with));
        assert!(with.spent_ns <= 600 * BUDGET_NS + SAVED_MAX_NS, "{}", with.spent_ns);
    }

    #[test]
    fn programs_are_taken_off_in_their_order() {
        for loads in
            [[(90, 10_000, MS)], [(90, 10_000, 300 * MS)], [(900, 1_000_000, MS)], [(90, 50_000, 60 * SECOND_NS)]]
        {
            let steps = run(&loads).steps;
            let order = [Step::StopIssues, Step::Detach, Step::Clear, Step::Attach];
            assert!(steps.len() > 3 && steps.iter().zip(order.iter().cycle()).all(|(is, due)| is == due), "{steps:?}");
        }
    }
}
