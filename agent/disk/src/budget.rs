//! When the programs are attached, so that timing requests stays within a budget of CPU time, whoever's CPU it is.
//!
//! In: the time, what timing has cost so far ([`cost_ns`]), how many timed requests have not ended. Out: the next
//! [`Step`], and when to ask again. What is not spent is saved for a second; what was spent beyond it is paid back before
//! anything is attached again. Over the budget, requests are timed in slices: for 100 ms a second where that is affordable,
//! else for less, down to 5 ms, else more rarely. A slice has two ends: first no request begins to be timed, then, when
//! those that began have ended, no end is looked at either; so a slice times slow requests as fully as quick ones. Never:
//! debt forgiven, a slice begun in debt, a wait without an end.

/// What a request costs, both programs, nanoseconds: 1,300 measured (docs/SPECIFICATION.md), rounded up. The kernel's own
/// statistics are no help: switched on, they cost two clock readings per run of every program of the host.
const REQUEST_NS: u64 = 1_500;
/// What the end of a request costs whose beginning was not seen: 470 measured for the whole of that program.
const END_NS: u64 = 500;
/// CPU time per second: 0.2 % of a core, 1,333 requests a second.
pub(crate) const BUDGET_NS: u64 = 2_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Time between two looks at the cost while every request is timed: the most by which a burst overdraws.
const LOOK_NS: u64 = 100_000_000;
const SLICE_NS: u64 = 100_000_000;
const SLICE_MIN_NS: u64 = 5_000_000;
/// Waiting for the end of what began in a slice: at least, at most, and at most at such a cost.
const DRAIN_MIN_NS: u64 = 2_000_000;
const DRAIN_MAX_NS: u64 = SECOND_NS;
const DRAIN_COST_NS: u64 = 5 * BUDGET_NS;
/// From taking the last program off until none of its runs is under way.
const SETTLE_NS: u64 = 20_000_000;
/// Slices in a row that would fit as whole seconds, before every request is timed again; and the part of the budget.
const FITTING: u32 = 5;
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
    fitting: u32,
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
            fitting: 0,
            credit_ns: signed(BUDGET_NS),
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

    /// The next step; to be asked again at once after any but [`Step::Stay`].
    pub(crate) fn next(&mut self, now_ns: u64, cost_ns: u64, in_flight: usize) -> Step {
        let now = (now_ns, cost_ns);
        let earned_ns = signed(share_of(now_ns.saturating_sub(self.asked.0), BUDGET_NS));
        let spent_ns = signed(cost_ns.saturating_sub(self.asked.1));
        self.credit_ns = (self.credit_ns + earned_ns).min(signed(BUDGET_NS)) - spent_ns;
        self.asked = now;
        match self.phase {
            Phase::Always if self.credit_ns < 0 => self.end_slice(now),
            Phase::Always => {
                if now_ns >= self.wake_ns {
                    self.slice = now;
                    self.wake_ns = now_ns + LOOK_NS;
                }
                Step::Stay
            }
            Phase::Slice { until_ns } if now_ns < until_ns => self.stay_until(until_ns),
            Phase::Slice { .. } => {
                let (length_ns, spent_ns) = since(self.slice, now);
                let fits = length_ns >= SLICE_NS && per_second(spent_ns, length_ns) <= FITTING_NS;
                self.fitting = if fits { self.fitting + 1 } else { 0 };
                if self.fitting >= FITTING && self.credit_ns >= 0 {
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
        let due_ns = self.slice.0 + SECOND_NS;
        if now.0 < due_ns {
            return self.stay_until(due_ns);
        }
        // No more can be saved than a second's budget: a dearer slice is overdrawn, and paid back before the next.
        let needed_ns = share_of(SLICE_MIN_NS, self.second_costs_ns).min(BUDGET_NS);
        let lacking_ns = signed(needed_ns) - self.credit_ns;
        if lacking_ns > 0 {
            return self.stay_until(now.0 + lacking_ns.unsigned_abs().saturating_mul(SECOND_NS / BUDGET_NS) + 1);
        }
        let affordable_ns = (u128::from(self.credit_ns.unsigned_abs()) * u128::from(SECOND_NS))
            .checked_div(self.second_costs_ns.into())
            .map_or(SLICE_NS, |length| u64::try_from(length).unwrap_or(SLICE_NS));
        let until_ns = now.0 + affordable_ns.clamp(SLICE_MIN_NS, SLICE_NS);
        self.slice = now;
        self.enter(Phase::Slice { until_ns }, now);
        Step::Attach
    }

    fn end_slice(&mut self, now: (u64, u64)) -> Step {
        self.slice_length_ns = since(self.slice, now).0.max(1);
        self.fitting = if self.is_always() { 0 } else { self.fitting };
        self.enter(Phase::Drain, now);
        Step::StopIssues
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
                        let next_ns = controller.wake_ns().min(end_ns);
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
        // Seconds, requests a second, time of each; slices begun at least and at most; the longest gap between two, ms; whether
        // every request is timed in the end.
        for (what, loads, slices, gap_ms, is_always) in [
            ("idle", &[(60, 0, MS)][..], 0..=0, 0, true),
            ("below the budget", &[(600, 1_300, MS)], 0..=0, 0, true),
            ("a little above it", &[(60, 2_000, MS)], 56..=60, 1_000, false),
            ("100 ms a second fit", &[(60, 10_000, MS)], 54..=60, 1_000, false),
            ("only less than 100 ms fit", &[(60, 100_000, MS)], 35..=60, 8_000, false),
            ("only 5 ms and not each second fit", &[(600, 1_000_000, MS)], 50..=300, 80_000, false),
            ("requests take longer than a slice", &[(60, 10_000, 300 * MS)], 30..=60, 3_000, false),
            ("requests do not end", &[(120, 100_000, 1_000 * SECOND_NS)], 10..=60, 20_000, false),
            ("a burst", &[(30, 500, MS), (1, 100_000, MS), (30, 500, MS)], 5..=15, 8_000, true),
            ("bursts again and again", &[(10, 500, MS), (1, 100_000, MS)].repeat(20), 10..=250, 12_000, false),
        ] {
            let run = run(loads);
            let seconds: u64 = loads.iter().map(|load| load.0).sum();
            let begun = run.steps.iter().filter(|step| **step == Step::Attach).count();
            // Beyond the average: what a second saves, and what a look or a slice overdraws.
            let rate = loads.iter().map(|load| load.1).max().unwrap_or(0);
            let allowed_ns = (seconds + 1) * BUDGET_NS + (share_of(LOOK_NS, rate) * REQUEST_NS).max(DRAIN_COST_NS);
            assert!(run.spent_ns <= allowed_ns, "{what}: {} of {allowed_ns}", run.spent_ns);
            assert!(slices.contains(&begun), "{what}: {begun} slices, {} ms", run.timed_ns / MS);
            assert!(run.longest_gap_ns <= gap_ms * MS, "{what}: {} ms", run.longest_gap_ns / MS);
            assert_eq!(run.is_always, is_always, "{what}");
        }
    }

    #[test]
    fn a_slice_lasts_100_ms_where_that_is_affordable() {
        let run = run(&[(100, 10_000, MS)]);
        assert!((9_000 * MS..=10_500 * MS).contains(&run.timed_ns), "{} ms of 100 s", run.timed_ns / MS);
    }

    #[test]
    fn programs_are_taken_off_in_their_order() {
        for loads in
            [[(20, 10_000, MS)], [(20, 10_000, 300 * MS)], [(200, 1_000_000, MS)], [(60, 50_000, 60 * SECOND_NS)]]
        {
            let steps = run(&loads).steps;
            let order = [Step::StopIssues, Step::Detach, Step::Clear, Step::Attach];
            assert!(steps.len() > 3 && steps.iter().zip(order.iter().cycle()).all(|(is, due)| is == due), "{steps:?}");
        }
    }
}
