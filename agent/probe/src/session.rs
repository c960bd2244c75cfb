//! One prober's probes over one flow, from the first send to what each turned out to be. Pure; times come in, but for
//! [`Instant::now`].
//!
//! In: that a probe was sent, that its stamp came, that an answer came, that time has passed. Out: an [`Outcome`] for each
//! probe, once. With the four kernel stamps, of sending and receiving on both hosts, what the fabric took parts from what the
//! hosts took (as in R-Pingmesh, SIGCOMM 2024):
//!
//! ```text
//!  prober   user ─t1─► kernel ─t2─►  fabric  ─t3─► kernel ─► user ─► kernel ─t4─►  fabric  ─t5─► kernel ─t6─► user
//!  fabric = (t5 - t2) - (t4 - t3)     prober's host = (t2 - t1) + (t6 - t5)     answerer's host = t4 - t3
//! ```
//! `t4 - t3` comes with a later answer. Who reads answers at instants takes what one waits for the next instant off `t6`: it is no delay of the
//! host, while an instant that comes late is one ([`Instant::without_wait`]). Never: a time from clocks of two hosts as if they were one; a time where a clock was
//! stepped under it; more than [`IN_FLIGHT_MAX`] probes remembered.

use crate::packet::Answer;
use railwatch_sampling::clock::{monotonic_ns, realtime_ns};
use std::collections::VecDeque;

/// Probes without an outcome at most; the oldest is judged before its time beyond that.
pub const IN_FLIGHT_MAX: usize = 4096;
/// Two clocks of one host that tell lengths so far apart: one of them was stepped.
const STEP_NS: u64 = 200_000;

/// An instant of this host by both of its clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// CLOCK_REALTIME, which stamps use.
    pub unix_ns: u64,
    /// CLOCK_MONOTONIC.
    pub mono_ns: u64,
}

impl Instant {
    /// By both clocks, one right after the other.
    pub(crate) fn now() -> Self {
        Self { unix_ns: realtime_ns(), mono_ns: monotonic_ns() }
    }

    /// When an answer that is read now counts as read, by one who reads at instants: this one was due at `due_mono_ns`, the one before it up to
    /// `tick_ns` earlier. What the answer waited for the instant is taken off: that is meant so, and no delay of the host. By how much the instant
    /// came late stays.
    pub(crate) fn without_wait(self, received_unix_ns: Option<u64>, due_mono_ns: u64, tick_ns: u64) -> Self {
        let late_ns = self.mono_ns.saturating_sub(due_mono_ns);
        let due_unix_ns = self.unix_ns.saturating_sub(late_ns);
        // A stepped clock makes it any length; there are no parts then, and the round trip is a tick off at most.
        let waited_ns = received_unix_ns.map_or(0, |received| due_unix_ns.saturating_sub(received).min(tick_ns));
        Self { unix_ns: self.unix_ns.saturating_sub(waited_ns), mono_ns: self.mono_ns.saturating_sub(waited_ns) }
    }
}

/// What a probe turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Of the probe.
    pub sequence: u64,
    /// When it was sent, Unix nanoseconds.
    pub sent_unix_ns: u64,
    /// The answer, if one came in time.
    pub answer: Option<Answered>,
}

/// Times of an answered probe, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// From user to user by the monotonic clock: hosts and fabric. Of a planned probe without what its answer waited for the tick.
    pub round_trip_ns: u64,
    /// Where every stamp came, and no clock was stepped.
    pub parts: Option<Parts>,
}

/// Where the time of a round trip went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// From NIC to NIC, both ways together.
    pub fabric_ns: u64,
    /// Inside the prober's host.
    pub prober_ns: u64,
    /// Inside the answerer's host.
    pub answerer_ns: u64,
    /// From the prober's stamp to the answerer's, by two clocks: it means something only beside others of this flow.
    pub there_ns: i64,
    /// From the answerer's stamp to the prober's, likewise.
    pub back_ns: i64,
}

/// A probe on its way, or back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) sequence: u64,
    pub(crate) sent: Instant,
    /// The driver's stamp.
    pub(crate) left_unix_ns: Option<u64>,
    pub(crate) answer: Option<Came>,
}

/// An answer that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    pub(crate) reached_unix_ns: u64,
    pub(crate) received_unix_ns: Option<u64>,
    pub(crate) read: Instant,
    pub(crate) held_ns: Option<u64>,
}

/// The probes of one flow.
#[derive(Debug)]
pub struct Session {
    id: u64,
    next: u64,
    timeout_ns: u64,
    probes: VecDeque<Probe>,
}

impl Session {
    /// With a number that nobody else drew. A probe without an answer for `timeout_ns` is lost.
    #[must_use]
    pub fn new(id: u64, timeout_ns: u64) -> Self {
        Self { id, next: 0, timeout_ns, probes: VecDeque::new() }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The sequence of the next probe.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The next probe was handed to the kernel at `sent`.
    pub fn sent(&mut self, sent: Instant) {
        self.probes.push_back(Probe { sequence: self.next, sent, left_unix_ns: None, answer: None });
        self.next += 1;
    }

    /// The driver took the probe.
    pub fn left(&mut self, sequence: u64, stamp_unix_ns: u64) {
        if let Some(probe) = self.find(sequence) {
            // A number of before the socket counted anew is another probe's.
            probe.left_unix_ns = Some(stamp_unix_ns).filter(|stamp| *stamp >= probe.sent.unix_ns);
        }
    }

    /// An answer came; returns whether it was awaited. A second answer to a probe, or one of another session, is not.
    pub fn answered(&mut self, answer: &Answer, received_unix_ns: Option<u64>, read: Instant) -> bool {
        if answer.session != self.id {
            return false;
        }
        for held in answer.held.into_iter().flatten() {
            // Of the probes that are remembered none share the low half.
            let of = self.probes.iter_mut().find(|probe| probe.sequence as u32 == held.sequence_low);
            if let Some(came) = of.and_then(|probe| probe.answer.as_mut()) {
                came.held_ns = Some(held.held_ns.into());
            }
        }
        let Some(probe) = self.find(answer.sequence).filter(|probe| probe.answer.is_none()) else { return false };
        let reached_unix_ns = answer.received_unix_ns;
        probe.answer = Some(Came { reached_unix_ns, received_unix_ns, read, held_ns: None });
        true
    }

    /// Probes of which nothing more is to be learned at `mono_ns`, in the order in which they were sent.
    pub fn done(&mut self, mono_ns: u64) -> Vec<Outcome> {
        let mut done = Vec::new();
        while let Some(probe) = self.probes.front() {
            let is_whole = probe.left_unix_ns.is_some() && probe.answer.is_some_and(|came| came.held_ns.is_some());
            let is_due = mono_ns.saturating_sub(probe.sent.mono_ns) >= self.timeout_ns;
            if !is_whole && !is_due && self.probes.len() <= IN_FLIGHT_MAX {
                break;
            }
            done.extend(self.probes.pop_front().map(outcome));
        }
        done
    }

    /// Probes without an outcome.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.probes.len()
    }

    fn find(&mut self, sequence: u64) -> Option<&mut Probe> {
        let first = self.probes.front()?.sequence;
        self.probes.get_mut(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }
}

fn outcome(probe: Probe) -> Outcome {
    let answer = probe.answer.map(|came| Answered {
        round_trip_ns: came.read.mono_ns.saturating_sub(probe.sent.mono_ns),
        parts: parts(&probe, &came),
    });
    Outcome { sequence: probe.sequence, sent_unix_ns: probe.sent.unix_ns, answer }
}

/// Where the time of an answered probe went, where every stamp of it came.
pub(crate) fn parts(probe: &Probe, came: &Came) -> Option<Parts> {
    let (t1, t2) = (probe.sent.unix_ns, probe.left_unix_ns?);
    let (t3, held) = (Some(came.reached_unix_ns).filter(|stamp| *stamp > 0)?, came.held_ns?);
    let (t5, t6) = (came.received_unix_ns?, came.read.unix_ns);
    let by_mono = came.read.mono_ns.checked_sub(probe.sent.mono_ns)?;
    if t6.checked_sub(t1)?.abs_diff(by_mono) > STEP_NS {
        return None;
    }
    let difference = |later: u64, earlier: u64| i64::try_from(i128::from(later) - i128::from(earlier)).ok();
    Some(Parts {
        fabric_ns: t5.checked_sub(t2)?.checked_sub(held)?,
        prober_ns: t2.checked_sub(t1)? + t6.checked_sub(t5)?,
        answerer_ns: held,
        there_ns: difference(t3, t2)?,
        back_ns: difference(t5, t3.checked_add(held)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Held;

    const TIMEOUT: u64 = 1_000_000_000;
    /// The answerer's clock is an hour ahead.
    const AHEAD: u64 = 3_600_000_000_000;

    fn at(ns: u64) -> Instant {
        Instant { unix_ns: 1_000_000_000_000 + ns, mono_ns: ns }
    }

    fn answer(session: u64, sequence: u64, t3: u64, held: Option<(u32, u32)>) -> Answer {
        let held = held.map(|(sequence_low, held_ns)| Held { sequence_low, held_ns });
        Answer {
            session,
            sequence,
            received_unix_ns: at(t3).unix_ns + AHEAD,
            held: [held, None],
            requests: None,
            resent: None,
        }
    }

    /// t1 0, t2 +5 µs, fabric 100 µs there, held 40 µs, fabric 60 µs back, t6 +20 µs.
    fn probe(session: &mut Session, start: u64, held: Option<(u32, u32)>) {
        let sequence = session.next();
        session.sent(at(start));
        session.left(sequence, at(start + 5_000).unix_ns);
        let answer = answer(session.id(), sequence, start + 105_000, held);
        assert!(session.answered(&answer, Some(at(start + 205_000).unix_ns), at(start + 225_000)));
    }

    #[test]
    fn each_host_and_the_fabric_get_their_own_time() {
        let mut session = Session::new(9, TIMEOUT);
        probe(&mut session, 0, None);
        assert_eq!(session.done(300_000), [], "how long the answerer held it is not known yet");
        probe(&mut session, 10_000_000, Some((0, 40_000)));
        let done = session.done(10_300_000);
        let parts = Parts {
            fabric_ns: 160_000,
            prober_ns: 25_000,
            answerer_ns: 40_000,
            there_ns: 100_000 + AHEAD.cast_signed(),
            back_ns: 60_000 - AHEAD.cast_signed(),
        };
        let answered = Answered { round_trip_ns: 225_000, parts: Some(parts) };
        assert_eq!(done, [Outcome { sequence: 0, sent_unix_ns: at(0).unix_ns, answer: Some(answered) }]);
        let last = session.done(10_000_000 + TIMEOUT);
        assert_eq!(last.len(), 1);
        assert!(last[0].answer.is_some_and(|a| a.round_trip_ns == 225_000 && a.parts.is_none()));
    }

    #[test]
    fn an_answer_that_waited_for_its_turn_was_read_as_late_as_the_turn_was() {
        let (due, tick) = (20_000_000, 10_000_000);
        for (what, received, read, expected) in [
            ("read in time, it came before", 12_000_000, 20_000_000, 12_000_000),
            ("read 3 ms late", 12_000_000, 23_000_000, 15_000_000),
            ("read 3 ms late, it came meanwhile", 22_000_000, 23_000_000, 23_000_000),
            ("it waited for two turns, as none may", 5_000_000, 20_000_000, 10_000_000),
        ] {
            assert_eq!(at(read).without_wait(Some(at(received).unix_ns), due, tick), at(expected), "{what}");
        }
        assert_eq!(at(23_000_000).without_wait(None, due, tick), at(23_000_000), "not known");
    }

    #[test]
    fn what_is_not_answered_in_time_is_lost_once_and_a_late_answer_is_nobodys() {
        let mut session = Session::new(9, TIMEOUT);
        for ns in 0..3 {
            session.sent(at(ns));
        }
        assert!(session.answered(&answer(9, 1, 50, None), None, at(100)));
        assert!(!session.answered(&answer(9, 1, 50, None), None, at(101)), "a second answer");
        assert!(!session.answered(&answer(8, 0, 50, None), None, at(101)), "another's session");
        assert!(!session.answered(&answer(9, 7, 50, None), None, at(101)), "never asked");
        let done = session.done(TIMEOUT + 2);
        assert_eq!(done.iter().map(|o| o.answer.is_some()).collect::<Vec<_>>(), [false, true, false]);
        assert!(!session.answered(&answer(9, 0, 50, None), None, at(TIMEOUT + 9)));
        assert_eq!((session.done(u64::MAX).len(), session.in_flight()), (0, 0));
    }

    #[test]
    fn a_stepped_clock_and_a_stamp_of_another_probe_give_no_parts() {
        type Then = fn(&mut Session);
        let cases: [(&str, Then); 3] = [
            ("the clock was stepped by a second", |session| {
                session.left(0, at(5_000).unix_ns);
                let read = Instant { unix_ns: at(225_000).unix_ns + 1_000_000_000, mono_ns: 225_000 };
                session.answered(&answer(9, 0, 105_000, None), Some(at(205_000).unix_ns + 1_000_000_000), read);
            }),
            ("a stamp from before it was sent", |session| {
                session.left(0, at(0).unix_ns - 1);
                session.answered(&answer(9, 0, 105_000, None), Some(at(205_000).unix_ns), at(225_000));
            }),
            ("the kernel of the answerer gave no stamp", |session| {
                session.left(0, at(5_000).unix_ns);
                let without = Answer { received_unix_ns: 0, ..answer(9, 0, 0, None) };
                session.answered(&without, Some(at(205_000).unix_ns), at(225_000));
            }),
        ];
        for (what, then) in cases {
            let mut session = Session::new(9, TIMEOUT);
            session.sent(at(0));
            then(&mut session);
            probe(&mut session, 10_000_000, Some((0, 40_000)));
            let done = session.done(TIMEOUT);
            assert!(done[0].answer.is_some_and(|a| a.parts.is_none() && a.round_trip_ns == 225_000), "{what}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut session = Session::new(9, TIMEOUT);
        let mut judged = 0;
        for ns in 0..3 * IN_FLIGHT_MAX as u64 {
            session.sent(at(ns));
            judged += session.done(ns).len();
        }
        assert_eq!((session.in_flight(), judged), (IN_FLIGHT_MAX, 2 * IN_FLIGHT_MAX));
    }
}
