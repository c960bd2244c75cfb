//! A process that does not run although nothing that it does itself explains it: stopped, traced, or in the kernel without an end.
//!
//! In: at each look, of each thread that is followed, whether it has run since the look before, and where it has not, its state. Out: a
//! [`Change`] where one has not run for too long in such a state, and where it runs again. A checkpoint waits in the kernel a thousand
//! times for milliseconds and runs in between; what is told has not run at all. Pure.

use std::collections::BTreeMap;

const SECOND_NS: u64 = 1_000_000_000;
/// Stopped or traced for so long: samplers such as py-spy stop a process for some milliseconds.
const STOPPED_NS: u64 = SECOND_NS;
/// In the kernel for so long without having run once. A single request of a disk or file server, or a lock, that takes longer is a
/// fault or near to one: disks are reset by their drivers after 30 s.
const UNINTERRUPTIBLE_NS: u64 = 10 * SECOND_NS;
/// Least time between two tellings of one process: who is stopped and continued in turn is not told each time.
const HOLD_OFF_NS: u64 = 10 * SECOND_NS;

/// Why a thread does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// By a signal (`T`).
    Stopped,
    /// By a debugger (`t`).
    Traced,
    /// It waits in the kernel and hears no signal (`D`).
    Uninterruptible,
}

impl Held {
    /// Of a state in proc_pid_stat(5).
    #[must_use]
    pub fn of(state: u8) -> Option<Self> {
        match state {
            b'T' => Some(Self::Stopped),
            b't' => Some(Self::Traced),
            b'D' => Some(Self::Uninterruptible),
            _ => None,
        }
    }

    /// As the attribute `state` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Traced => "traced",
            Self::Uninterruptible => "uninterruptible",
        }
    }

    fn after_ns(self) -> u64 {
        match self {
            Self::Stopped | Self::Traced => STOPPED_NS,
            Self::Uninterruptible => UNINTERRUPTIBLE_NS,
        }
    }
}

/// A thread at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number; that of the process for the first one.
    pub tid: u32,
    /// It has run since the look before.
    pub has_run: bool,
    /// Its state, where it has not and the state says so.
    pub held: Option<Held>,
}

/// What changed of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A thread of it does not run.
    Stopped {
        /// Which thread.
        tid: u32,
        /// Why.
        held: Held,
        /// Since so long, at least.
        still_ns: u64,
    },
    /// It runs again.
    Resumed {
        /// It had been held so.
        held: Held,
        /// For so long.
        still_ns: u64,
    },
}

/// Follows one process.
#[derive(Debug, Default)]
pub struct Detector {
    /// Of each thread, when it was last seen to have run, or first seen.
    ran_ns: BTreeMap<u32, u64>,
    told: Option<(u32, Held)>,
    told_ns: Option<u64>,
}

impl Detector {
    /// Takes the threads that are followed as they are at `now_ns` (any steady clock); one that is not among them has ended or is no
    /// longer followed.
    pub fn look(&mut self, now_ns: u64, threads: &[Seen]) -> Option<Change> {
        let mut resumed = None;
        if let Some((tid, held)) = self.told {
            let seen = threads.iter().find(|seen| seen.tid == tid);
            if seen.is_none_or(|seen| seen.has_run || seen.held.is_none()) {
                self.told = None;
                let still_ns = now_ns.saturating_sub(self.ran_ns.get(&tid).copied().unwrap_or(now_ns));
                resumed = Some(Change::Resumed { held, still_ns });
            }
        }
        self.ran_ns.retain(|tid, _| threads.iter().any(|seen| seen.tid == *tid));
        for seen in threads {
            let ran_ns = self.ran_ns.entry(seen.tid).or_insert(now_ns);
            if seen.has_run {
                *ran_ns = now_ns;
            }
        }
        if resumed.is_some() || self.told.is_some() || self.told_ns.is_some_and(|at| now_ns < at + HOLD_OFF_NS) {
            return resumed;
        }
        let (tid, held, still_ns) = threads
            .iter()
            .filter_map(|seen| {
                let still_ns = now_ns.saturating_sub(*self.ran_ns.get(&seen.tid)?);
                Some((seen.tid, seen.held?, still_ns))
            })
            .filter(|(_, held, still_ns)| *still_ns >= held.after_ns())
            .max_by_key(|(tid, _, still_ns)| (*still_ns, std::cmp::Reverse(*tid)))?;
        (self.told, self.told_ns) = (Some((tid, held)), Some(now_ns));
        Some(Change::Stopped { tid, held, still_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look each 250 ms; what the threads show at it. What is told, with its ms.
    fn run(looks: u64, shown: impl Fn(u64) -> Vec<Seen>) -> Vec<(u64, Change)> {
        let mut detector = Detector::default();
        (0..looks)
            .filter_map(|look| Some((look * 250, detector.look(look * 250_000_000, &shown(look * 250))?)))
            .collect()
    }

    const RUNS: Seen = Seen { tid: 7, has_run: true, held: None };
    /// Sleeps, or computes without a pause: neither is held.
    const SLEEPS: Seen = Seen { tid: 7, has_run: false, held: None };

    fn held(tid: u32, held: Held) -> Seen {
        Seen { tid, has_run: false, held: Some(held) }
    }

    #[test]
    fn a_healthy_process_is_left_alone() {
        type Shown = fn(u64) -> Vec<Seen>;
        let cases: [(&str, Shown); 8] = [
            ("runs", |_| vec![RUNS]),
            ("its first thread waits for others for an hour", |_| vec![SLEEPS]),
            ("a checkpoint: each request waits in the kernel, and it runs in between", |_| {
                vec![Seen { held: Some(Held::Uninterruptible), ..RUNS }]
            }),
            ("a slow file server: 9 s for a request", |ms| {
                vec![if ms % 10_000 == 0 { RUNS } else { held(7, Held::Uninterruptible) }]
            }),
            ("py-spy looks every second", |ms| vec![if ms % 1000 == 0 { held(7, Held::Traced) } else { RUNS }]),
            ("cpulimit stops it twice a second", |ms| vec![if ms % 500 == 0 { held(7, Held::Stopped) } else { RUNS }]),
            ("a debugger is attached and lets it run", |ms| {
                vec![if (2000..2750).contains(&ms) { held(7, Held::Traced) } else { RUNS }]
            }),
            ("a thread that ends while it waits", |ms| match ms {
                ..1000 => vec![RUNS, Seen { tid: 8, ..RUNS }],
                1000..9000 => vec![RUNS, held(8, Held::Uninterruptible)],
                _ => vec![RUNS],
            }),
        ];
        for (what, shown) in cases {
            assert_eq!(run(14_400, shown), [], "{what}");
        }
    }

    #[test]
    fn what_does_not_run_is_told_once_with_its_state_and_so_is_its_end() {
        let between = |from: u64, to: u64, state: Held| {
            move |ms: u64| vec![if (from..to).contains(&ms) { held(7, state) } else { RUNS }]
        };
        let stopped = |held, still_ms: u64| Change::Stopped { tid: 7, held, still_ns: still_ms * 1_000_000 };
        let resumed = |held, still_ms: u64| Change::Resumed { held, still_ns: still_ms * 1_000_000 };
        for (what, shown, expected) in [
            (
                "SIGSTOP",
                between(5000, 60_000, Held::Stopped),
                vec![(5750, stopped(Held::Stopped, 1000)), (60_000, resumed(Held::Stopped, 55_250))],
            ),
            (
                "a breakpoint",
                between(5000, 20_000, Held::Traced),
                vec![(5750, stopped(Held::Traced, 1000)), (20_000, resumed(Held::Traced, 15_250))],
            ),
            (
                "a file server that is gone",
                between(5000, 60_000, Held::Uninterruptible),
                vec![
                    (14_750, stopped(Held::Uninterruptible, 10_000)),
                    (60_000, resumed(Held::Uninterruptible, 55_250)),
                ],
            ),
        ] {
            assert_eq!(run(400, shown), expected, "{what}");
        }
    }

    #[test]
    fn one_that_was_stopped_before_the_first_look_is_told_and_a_thread_beside_a_sleeping_one() {
        let told = run(40, |_| vec![held(7, Held::Stopped)]);
        assert_eq!(told, [(1000, Change::Stopped { tid: 7, held: Held::Stopped, still_ns: SECOND_NS })]);
        let told = run(80, |_| vec![SLEEPS, held(9, Held::Uninterruptible)]);
        let expected = Change::Stopped { tid: 9, held: Held::Uninterruptible, still_ns: 10 * SECOND_NS };
        assert_eq!(told, [(10_000, expected)]);
    }

    #[test]
    fn one_that_is_stopped_and_continued_in_turn_is_not_told_each_time() {
        let told = run(240, |ms| vec![if ms % 4000 < 3000 { held(7, Held::Stopped) } else { RUNS }]);
        let stops = told.iter().filter(|(_, change)| matches!(change, Change::Stopped { .. })).count();
        let ends = told.len() - stops;
        assert!((4..=6).contains(&stops) && stops - ends <= 1, "{told:?}");
    }
}
