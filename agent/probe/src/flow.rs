//! One flow of a plan: its probes from the first send to what each turned out to be, and what became of them since the last
//! report. Pure; times come in.
//!
//! In: that a probe was sent, that its stamp came, that an answer came, that time has passed. Out: what is known newly
//! ([`Judged`]), and a [`FlowResult`] for each report. What is said of the fabric is said with care:
//!
//! - a probe that the driver did not stamp, on a socket whose probes are stamped, did not leave: nothing is said of it;
//! - one without an answer in time is lost for certain once a later one to the same answerer was answered. Until then the
//!   answerer may be held up, which is no loss: [`PATIENCE`] more is given;
//! - the answerer counts the requests that came. Between two answers the counts tell how many of the lost ones it had: those
//!   were lost on the way back, the others on the way there.
//!
//! Never: a time by clocks of two hosts as if they were one; more than [`IN_FLIGHT_MAX`] probes remembered; an allocation for
//! a probe once the flow has run for a while.

use crate::packet::Answer;
use crate::session::{Came, Instant, Probe, parts};
use crate::tally::{FlowResult, Tally};
use railwatch_sampling::clock::nanoseconds;
use std::collections::VecDeque;
use std::time::Duration;

/// Probes remembered of one flow; the oldest is forgotten, as one without times, beyond that.
pub const IN_FLIGHT_MAX: usize = 4096;
/// How much longer than its time-out a probe is waited for while nothing tells that its answerer lives, at least.
pub const PATIENCE: Duration = Duration::from_millis(300);

/// What a call learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) answered: u32,
    pub(crate) lost: u32,
    /// Of those lost now or before: known for certain now, and not before.
    pub(crate) certain: u32,
    /// Of those, on the way there, and on the way back.
    pub(crate) there: u32,
    pub(crate) back: u32,
    pub(crate) unsent: u32,
}

/// Losses since the last answer.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    /// In this report, and in earlier ones.
    lost: u32,
    lost_before: u32,
    /// Of both, those that were certain when they were judged.
    certain: u32,
    unsent: u32,
}

#[derive(Clone, Copy, Debug)]
struct Tracked {
    probe: Probe,
    requests: Option<u16>,
    is_lost: bool,
}

/// The flow.
#[derive(Debug)]
pub(crate) struct Flow {
    session: u64,
    next: u64,
    timeout_ns: u64,
    /// An answered probe waits so long for how long its answerer held it.
    keep_ns: u64,
    probes: VecDeque<Tracked>,
    /// How many of them, from the first, are judged.
    judged: usize,
    is_stamped: bool,
    /// Sequence and count of the last answer in order.
    last: Option<(u64, Option<u16>)>,
    gap: Gap,
    tally: Tally,
}

impl Flow {
    /// With a session's number that nobody else drew.
    pub(crate) fn new(session: u64, timeout: Duration, interval: Duration) -> Self {
        let mut flow = Self {
            session,
            next: 0,
            timeout_ns: nanoseconds(timeout),
            keep_ns: 0,
            probes: VecDeque::new(),
            judged: 0,
            is_stamped: false,
            last: None,
            gap: Gap::default(),
            tally: Tally::default(),
        };
        flow.set_interval(interval);
        flow
    }

    /// Another pace.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        // What an answer was held rides with the next one, which may be lost too.
        self.keep_ns = self.grace_ns() + 3 * nanoseconds(interval);
    }

    /// Its session's number.
    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// The sequence of the next probe.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The next probe was handed to the kernel at `sent`.
    pub(crate) fn sent(&mut self, sent: Instant) {
        let probe = Probe { sequence: self.next, sent, left_unix_ns: None, answer: None };
        self.probes.push_back(Tracked { probe, requests: None, is_lost: false });
        self.next += 1;
    }

    /// The kernel did not take a probe, which has no sequence then.
    pub(crate) fn refused(&mut self) {
        self.tally.result.unsent += 1;
    }

    /// The driver took the probe.
    pub(crate) fn left(&mut self, sequence: u64, stamp_unix_ns: u64) {
        if let Some(tracked) = self.find(sequence) {
            // A number of before the socket counted anew is another probe's.
            tracked.probe.left_unix_ns = Some(stamp_unix_ns).filter(|stamp| *stamp >= tracked.probe.sent.unix_ns);
            self.is_stamped = true;
        }
    }

    /// An answer came. Returns when its probe was sent (CLOCK_MONOTONIC), where that was awaited.
    pub(crate) fn answered(&mut self, answer: &Answer, received_unix_ns: Option<u64>, read: Instant) -> Option<u64> {
        for held in answer.held.into_iter().flatten() {
            let first = self.probes.front()?.probe.sequence as u32;
            let of = self.probes.get_mut(held.sequence_low.wrapping_sub(first) as usize);
            if let Some(came) = of.and_then(|tracked| tracked.probe.answer.as_mut()) {
                came.held_ns = Some(held.held_ns.into());
            }
        }
        let tracked = self.find(answer.sequence).filter(|tracked| tracked.probe.answer.is_none())?;
        let reached_unix_ns = answer.received_unix_ns;
        tracked.probe.answer = Some(Came { reached_unix_ns, received_unix_ns, read, held_ns: None });
        tracked.requests = answer.requests;
        let (is_late, sent_ns) = (tracked.is_lost, tracked.probe.sent.mono_ns);
        if is_late {
            // Answerers answer in order: what was lost before it can no longer be told by counts.
            self.last = Some((answer.sequence, answer.requests));
            self.gap = Gap::default();
        }
        Some(sent_ns)
    }

    /// Whether probes without an answer are awaited.
    pub(crate) fn awaits(&self) -> bool {
        self.probes.range(self.judged..).any(|tracked| tracked.probe.answer.is_none())
    }

    /// Whether a probe will be judged lost at `now_ns`.
    pub(crate) fn has_lost(&self, now_ns: u64, alive_through_ns: u64) -> bool {
        let mut rest = self.probes.range(self.judged..);
        rest.any(|tracked| tracked.probe.answer.is_none() && self.is_due(tracked, now_ns, alive_through_ns))
    }

    /// Judges what can be judged. A probe that was sent before `alive_through_ns`, when one that was answered since was sent,
    /// is given no more than its time-out. Of the losses, `own` are this host's own, and taken from it.
    pub(crate) fn judge(&mut self, now_ns: u64, alive_through_ns: u64, own: &mut u32) -> Judged {
        let mut judged = Judged::default();
        while let Some(tracked) = self.probes.get(self.judged).copied() {
            if tracked.probe.answer.is_some() {
                self.judge_answer(&tracked, &mut judged);
            } else if !self.is_due(&tracked, now_ns, alive_through_ns) && self.probes.len() <= IN_FLIGHT_MAX {
                break;
            } else if *own > 0 || (self.is_stamped && tracked.probe.left_unix_ns.is_none()) {
                *own = own.saturating_sub(1);
                self.gap.unsent += 1;
                self.tally.result.unsent += 1;
                judged.unsent += 1;
            } else {
                let is_certain = tracked.probe.sent.mono_ns < alive_through_ns;
                self.gap.lost += 1;
                self.gap.certain += u32::from(is_certain);
                self.tally.result.sent += 1;
                self.tally.result.lost += 1;
                judged.lost += 1;
                judged.certain += u32::from(is_certain);
                self.probes[self.judged].is_lost = true;
            }
            self.judged += 1;
        }
        self.forget(now_ns);
        judged
    }

    /// What became of the probes judged since the last report; `None` where there were none.
    pub(crate) fn report(&mut self, id: u64) -> Option<FlowResult> {
        let told = self.tally.report(id)?;
        self.gap.lost_before += std::mem::take(&mut self.gap.lost);
        Some(told)
    }

    /// How long a probe without an answer is waited for where nothing tells that its answerer lives.
    fn grace_ns(&self) -> u64 {
        self.timeout_ns + self.timeout_ns.max(nanoseconds(PATIENCE))
    }

    fn is_due(&self, tracked: &Tracked, now_ns: u64, alive_through_ns: u64) -> bool {
        let since = now_ns.saturating_sub(tracked.probe.sent.mono_ns);
        since >= if tracked.probe.sent.mono_ns < alive_through_ns { self.timeout_ns } else { self.grace_ns() }
    }

    fn judge_answer(&mut self, tracked: &Tracked, judged: &mut Judged) {
        let Probe { sequence, sent, answer, .. } = tracked.probe;
        judged.answered += 1;
        self.tally.result.sent += 1;
        self.tally.result.answered += 1;
        if let Some(came) = answer {
            self.tally.round_trip(came.read.mono_ns.saturating_sub(sent.mono_ns));
        }
        let Gap { lost, lost_before, certain, unsent } = std::mem::take(&mut self.gap);
        if let Some((before, Some(count_before))) = self.last
            && let Some(count) = tracked.requests
            && lost + lost_before > 0
        {
            let left = sequence.saturating_sub(before).saturating_sub(unsent.into());
            let came = u64::from(count.wrapping_sub(count_before));
            // Anything else is an answerer that began anew, or an order that was not kept.
            if left == u64::from(lost + lost_before) + 1 && (1..=left).contains(&came) {
                let [there, back] = [left - came, came - 1].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
                // Of losses that were reported already nothing more is told.
                let now = match (there, back) {
                    _ if lost_before == 0 => (there, back),
                    (_, 0) => (lost, 0),
                    (0, _) => (0, lost),
                    _ => (0, 0),
                };
                self.tally.there += now.0;
                self.tally.back += now.1;
                judged.there += there;
                judged.back += back;
                judged.certain += (lost + lost_before).saturating_sub(certain);
            }
        }
        self.last = Some((sequence, tracked.requests));
    }

    /// Lets go of what is judged and has told its times, or will not.
    fn forget(&mut self, now_ns: u64) {
        while self.judged > 0
            && let Some(Tracked { probe, is_lost, .. }) = self.probes.front()
        {
            let is_whole = match probe.answer {
                Some(came) => came.held_ns.is_some() && probe.left_unix_ns.is_some(),
                None => !is_lost,
            };
            let is_old = now_ns.saturating_sub(probe.sent.mono_ns) >= self.keep_ns;
            if !is_whole && !is_old && self.probes.len() <= IN_FLIGHT_MAX {
                return;
            }
            if let Some(came) = probe.answer
                && let Some(parts) = parts(probe, &came)
                && !is_lost
            {
                self.tally.parts(&parts, now_ns);
            }
            self.probes.pop_front();
            self.judged -= 1;
        }
    }

    fn find(&mut self, sequence: u64) -> Option<&mut Tracked> {
        let first = self.probes.front()?.probe.sequence;
        self.probes.get_mut(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Held;

    const MS: u64 = 1_000_000;
    const TIMEOUT_NS: u64 = 200 * MS;

    fn at(ns: u64) -> Instant {
        Instant { unix_ns: 1_000_000_000_000 + ns, mono_ns: ns }
    }

    fn flow() -> Flow {
        Flow::new(7, Duration::from_millis(200), Duration::from_millis(100))
    }

    /// What becomes of a probe on its way.
    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Answered,
        There,
        Back,
        NoStamp,
    }
    use Fate::{Answered, Back, NoStamp, There};

    /// Plays probes, 100 ms apart; all that was judged, and the report.
    fn play(flow: &mut Flow, fates: &[Fate], counts: bool) -> (Judged, FlowResult) {
        let (mut all, mut alive, mut requests) = (Judged::default(), 0, 0u16);
        for (place, fate) in fates.iter().enumerate() {
            let (sequence, now) = (flow.next(), place as u64 * 100 * MS);
            flow.sent(at(now));
            if *fate != NoStamp {
                flow.left(sequence, at(now + 1000).unix_ns);
            }
            requests += u16::from(matches!(fate, Answered | Back));
            if *fate == Answered {
                let held = [place.checked_sub(1).map(|p| Held { sequence_low: p as u32, held_ns: 40_000 }), None];
                let received_unix_ns = at(now + 50_000).unix_ns;
                let requests = counts.then_some(requests);
                let answer = Answer { session: 7, sequence, received_unix_ns, held, requests, resent: None };
                alive = flow.answered(&answer, Some(at(now + 150_000).unix_ns), at(now + 160_000)).unwrap_or(alive);
            }
            for later in [now + 200_000, now + 99 * MS] {
                let judged = flow.judge(later, alive, &mut 0);
                all.answered += judged.answered;
                all.lost += judged.lost;
                all.certain += judged.certain;
                all.there += judged.there;
                all.back += judged.back;
                all.unsent += judged.unsent;
            }
        }
        (all, flow.report(1).unwrap_or_default())
    }

    #[test]
    fn the_answerers_count_tells_which_way_probes_were_lost() {
        for (what, fates, lost, there_back) in [
            ("one there", &[Answered, There, Answered, Answered, Answered][..], 1, Some((1, 0))),
            ("one back", &[Answered, Back, Answered, Answered, Answered], 1, Some((0, 1))),
            ("both", &[Answered, Back, There, There, Answered, Answered, Answered, Answered], 3, Some((2, 1))),
            ("none", &[Answered, Answered], 0, None),
            ("the first, of which nothing came before", &[There, Answered, Answered, Answered], 1, None),
            ("not sent", &[Answered, NoStamp, Answered, Answered, Answered], 0, None),
            ("not sent, beside one lost", &[Answered, NoStamp, There, Answered, Answered, Answered], 1, Some((1, 0))),
        ] {
            let (judged, result) = play(&mut flow(), fates, true);
            assert_eq!((judged.lost, result.lost, result.lost_there_back), (lost, lost, there_back), "{what}");
            assert_eq!((judged.certain, result.sent), (lost, result.answered + lost), "{what}");
            let unsent = fates.iter().filter(|fate| **fate == NoStamp).count() as u32;
            assert_eq!((result.unsent, judged.unsent), (unsent, unsent), "{what}");
            let (_, result) = play(&mut flow(), fates, false);
            assert_eq!((result.lost, result.lost_there_back), (lost, None), "{what}: by one who does not count");
        }
    }

    #[test]
    fn each_host_and_the_fabric_get_their_own_time() {
        let (_, result) = play(&mut flow(), &[Answered; 4], true);
        let FlowResult { fabric, prober, answerer, round_trip, there_above_least, .. } = result;
        assert_eq!((fabric.count, fabric.min_ns, fabric.p99_ns, fabric.sum_ns), (3, 109_000, 109_000, 327_000));
        assert_eq!((prober.count, prober.max_ns, answerer.p50_ns), (3, 11_000, 40_000));
        assert_eq!((round_trip.count, round_trip.p50_ns, there_above_least.max_ns), (4, 160_000, 0));
    }

    #[test]
    fn an_answerer_that_is_held_up_loses_nothing() {
        let mut flow = flow();
        for sequence in 0..3 {
            flow.sent(at(sequence * 100 * MS));
            flow.left(sequence, at(sequence * 100 * MS + 1000).unix_ns);
        }
        assert_eq!(
            flow.judge(450 * MS, 0, &mut 0),
            Judged::default(),
            "beyond the time-out, and nothing says it lives"
        );
        for sequence in 0..3 {
            let requests = Some(sequence as u16 + 1);
            let answer = Answer { session: 7, sequence, received_unix_ns: 1, held: [None; 2], requests, resent: None };
            assert_eq!(flow.answered(&answer, None, at(460 * MS)), Some(sequence * 100 * MS));
        }
        assert_eq!(flow.judge(461 * MS, 200 * MS, &mut 0), Judged { answered: 3, ..Judged::default() });
        // One that stays away is lost in the end, without a word of a direction.
        flow.sent(at(500 * MS));
        flow.left(3, at(501 * MS).unix_ns);
        assert_eq!(flow.judge(999 * MS, 200 * MS, &mut 0).lost, 0);
        assert_eq!(flow.judge(1000 * MS, 200 * MS, &mut 0), Judged { lost: 1, ..Judged::default() });
        // Certain once a later one is answered, and then the way is known.
        flow.sent(at(1100 * MS));
        let answer =
            Answer { session: 7, sequence: 4, received_unix_ns: 1, held: [None; 2], requests: Some(4), resent: None };
        flow.answered(&answer, None, at(1101 * MS));
        let expected = Judged { answered: 1, certain: 1, there: 1, ..Judged::default() };
        assert_eq!(flow.judge(1102 * MS, 1100 * MS, &mut 0), expected);
    }

    #[test]
    fn what_this_host_lost_itself_is_not_the_fabrics() {
        let mut flow = flow();
        (0..3).for_each(|n| flow.sent(at(n)));
        assert!(flow.has_lost(TIMEOUT_NS + 10, 100) && !flow.has_lost(TIMEOUT_NS - 1, 100));
        let mut own = 2;
        let judged = flow.judge(TIMEOUT_NS + 10, 100, &mut own);
        assert_eq!((judged.lost, judged.unsent, own), (1, 2, 0));
    }

    #[test]
    fn losses_of_an_earlier_report_are_not_told_again() {
        let mut flow = flow();
        let (_, first) = play(&mut flow, &[Answered, There, There, There, There, There, There, There, There], true);
        assert!(first.lost >= 3 && first.lost_there_back.is_none(), "{first:?}");
        let lost_before = first.lost;
        flow.sent(at(900 * MS));
        let answer =
            Answer { session: 7, sequence: 9, received_unix_ns: 1, held: [None; 2], requests: Some(2), resent: None };
        flow.answered(&answer, None, at(901 * MS));
        flow.judge(2000 * MS, 900 * MS, &mut 0);
        let second = flow.report(1).unwrap_or_default();
        assert_eq!(second.lost_there_back, Some((8 - lost_before, 0)));
        assert_eq!((second.lost, second.answered), (8 - lost_before, 1));
    }

    #[test]
    fn memory_is_bounded() {
        let mut flow = flow();
        for ns in 0..3 * IN_FLIGHT_MAX as u64 {
            flow.sent(at(ns));
            flow.judge(ns, 0, &mut 0);
        }
        assert!(flow.probes.len() <= IN_FLIGHT_MAX + 1);
    }
}
