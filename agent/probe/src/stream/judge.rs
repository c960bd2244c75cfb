//! What each probe of a stream turned out to be. Pure; times come in.
//!
//! In: that a probe was sent, that its stamp came, what the own kernel says it sent again, answers with what the other kernel sent
//! again, that time has passed. Out: a [`Verdict`] for each probe, once. TCP hides loss: what is lost is sent again, and arrives late. So:
//!
//! - a probe is **lost** where a segment of it, or of its answer, was sent again and had not come all the same, whenever the answer comes.
//!   What the prober's kernel sent again was lost on the way there, what the answerer's kernel did, on the way back. Which of several
//!   probes on their way it was the kernels do not say: the oldest is taken;
//! - one without an answer for its time-out, and [`PATIENCE`] or as long again, is lost too, on a way that is not known;
//! - what waited behind a lost segment has no times: it was neither the fabric nor a host that held it up;
//! - a segment sent again because the first took long, not because it was lost, is told by the receiver (D-SACK, RFC 2883), before
//!   anything that is sent later is answered. So an answered probe is judged once one is answered that was sent after its
//!   answer had been read. That answer tells, too, what of the one before had to be sent again on the way back. This host's word
//!   that it had come all the same may not have reached the answerer by then: such a loss is told once one is answered that was
//!   sent after it was heard of, and still says so. What nothing tells any more, as of the last of a connection, is not lost;
//! - a probe of which both kernels sent their part again was lost on the way back: its request was repeated for want of the acknowledgement
//!   that was lost with the answer. Where the way back is gone for longer, such repeats may outnumber the answers, and some are
//!   told as lost on the way there;
//! - where the connection ends by the other's word, nothing is said of what was on its way: it was the host, not the fabric.
//!
//! Never: more than [`IN_FLIGHT_MAX`] probes remembered; a time by clocks of two hosts as if they were one.

use super::connection::Info;
use crate::flow::PATIENCE;
use crate::packet::{Answer, Resent};
use crate::session::{Came, Instant, Parts, Probe, parts};
use railwatch_sampling::clock::nanoseconds;
use std::collections::VecDeque;
use std::time::Duration;

/// Probes without a verdict; beyond it none is to be sent.
pub(crate) const IN_FLIGHT_MAX: usize = 4096;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    There,
    Back,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered {
        round_trip_ns: u64,
        /// None, too, where it waited behind a lost one.
        parts: Option<Parts>,
        /// Its times are its own: nothing was lost before it.
        is_clean: bool,
    },
    Lost {
        way: Option<Way>,
        /// Not only late.
        is_certain: bool,
    },
    /// It did not leave this host, or the other host ended the connection.
    Unsent,
}

/// Of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// None: it is the first packet of a connection.
    pub(crate) sequence: Option<u64>,
    pub(crate) sent: Instant,
    pub(crate) fate: Fate,
}

/// Sent again.
#[derive(Clone, Copy, Debug)]
struct Again {
    /// When that was seen, or heard.
    at_ns: u64,
    /// So many of its segments.
    segments: u32,
}

#[derive(Clone, Copy, Debug)]
struct Tracked {
    probe: Probe,
    /// The own kernel sent it again, as far as is known not for nothing.
    again: Option<Again>,
    /// The other kernel sent its answer again, likewise.
    back_again: Option<Again>,
    /// It waited behind what was lost.
    is_behind: bool,
    /// Once one from this on is answered, nothing more will be learned of it.
    settles: u64,
}

/// The probes of one flow, over all its connections.
#[derive(Debug)]
pub(crate) struct Judge {
    next: u64,
    timeout_ns: u64,
    keep_ns: u64,
    /// Segments of one probe.
    segments: u32,
    probes: VecDeque<Tracked>,
    is_stamped: bool,
    own: Info,
    theirs: Option<Resent>,
    /// The latest that was answered.
    through: Option<u64>,
}

impl Judge {
    /// A probe without an answer for `timeout` is late; probes follow each other by `interval`.
    pub(crate) fn new(timeout: Duration, interval: Duration) -> Self {
        let mut judge = Self {
            next: 0,
            timeout_ns: nanoseconds(timeout),
            keep_ns: 0,
            segments: 1,
            probes: VecDeque::new(),
            is_stamped: false,
            own: Info::default(),
            theirs: None,
            through: None,
        };
        judge.set_interval(interval);
        judge
    }

    /// Another pace.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        // What is still to be learned of an answered probe comes with the next answer, which may be lost too.
        self.keep_ns = self.grace_ns() + 3 * nanoseconds(interval);
    }

    /// A connection begins, of which the own kernel says this; of a probe there are so many segments.
    pub(crate) fn connected(&mut self, own: Info, segments: u32) {
        (self.own, self.theirs, self.segments) = (own, None, segments.max(1));
    }

    /// The sequence of the next probe.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether one more may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.probes.len() < IN_FLIGHT_MAX
    }

    /// The oldest without a verdict.
    pub(crate) fn first(&self) -> Option<u64> {
        self.probes.front().map(|tracked| tracked.probe.sequence)
    }

    /// When the oldest without an answer was sent, CLOCK_MONOTONIC.
    pub(crate) fn waits_since_ns(&self) -> Option<u64> {
        self.unanswered().next().map(|tracked| tracked.probe.sent.mono_ns)
    }

    /// The next probe was handed to the kernel at `sent`.
    pub(crate) fn sent(&mut self, sent: Instant) {
        let probe = Probe { sequence: self.next, sent, left_unix_ns: None, answer: None };
        let tracked = Tracked { probe, again: None, back_again: None, is_behind: false, settles: u64::MAX };
        self.probes.push_back(tracked);
        self.next += 1;
    }

    /// The driver took the last segment of a probe, for the first time.
    pub(crate) fn left(&mut self, sequence: u64, stamp_unix_ns: u64) {
        if let Some(tracked) = self.find(sequence) {
            tracked.probe.left_unix_ns = Some(stamp_unix_ns).filter(|stamp| *stamp >= tracked.probe.sent.unix_ns);
            self.is_stamped = true;
        }
    }

    /// What the own kernel says of the connection at `now_ns`, no earlier than the answers that came since were read, and before they are
    /// handed in: what it sent again meanwhile was of probes without an answer.
    pub(crate) fn observed(&mut self, own: Info, now_ns: u64) {
        let before = std::mem::replace(&mut self.own, own);
        let mut left = own.resent.saturating_sub(before.resent);
        if left > 0 {
            // A time-out sends the oldest again, whether it was before or not: once more is no second loss.
            let mut once_more = if own.backoff > before.backoff { self.segments } else { 0 };
            for tracked in self.probes.iter_mut().filter(|tracked| tracked.probe.answer.is_none()) {
                tracked.is_behind = true;
                if tracked.again.is_some() {
                    left = left.saturating_sub(std::mem::take(&mut once_more));
                } else if left > 0 {
                    let segments = left.min(self.segments);
                    tracked.again = Some(Again { at_ns: now_ns, segments });
                    (left, once_more) = (left - segments, 0);
                }
            }
        }
        let undone = own.undone.saturating_sub(before.undone);
        if undo(self.probes.iter_mut().map(|tracked| &mut tracked.again), undone) {
            self.nothing_was_lost_after_all();
        }
    }

    /// An answer came. Returns when its probe was sent (CLOCK_MONOTONIC), where that was awaited.
    pub(crate) fn answered(&mut self, answer: &Answer, received_unix_ns: Option<u64>, read: Instant) -> Option<u64> {
        if let Some(now) = answer.resent {
            let before = self.theirs.replace(now).unwrap_or(now);
            self.theirs_again(now.again.wrapping_sub(before.again), answer.sequence, read.mono_ns);
            self.theirs_undone(now.undone.wrapping_sub(before.undone));
        }
        for held in answer.held.into_iter().flatten() {
            let first = self.probes.front()?.probe.sequence as u32;
            let of = self.probes.get_mut(held.sequence_low.wrapping_sub(first) as usize);
            if let Some(came) = of.and_then(|tracked| tracked.probe.answer.as_mut()) {
                came.held_ns = Some(held.held_ns.into());
            }
        }
        let settles = self.next;
        let tracked = self.find(answer.sequence).filter(|tracked| tracked.probe.answer.is_none())?;
        let reached_unix_ns = answer.received_unix_ns;
        tracked.probe.answer = Some(Came { reached_unix_ns, received_unix_ns, read, held_ns: None });
        tracked.settles = settles;
        let sent_ns = tracked.probe.sent.mono_ns;
        self.through = self.through.max(Some(answer.sequence));
        Some(sent_ns)
    }

    /// The other kernel sent so many segments again, of answers before this one.
    fn theirs_again(&mut self, segments: u8, sequence: u64, heard_ns: u64) {
        let mut left = u32::from(segments);
        if left == 0 {
            return;
        }
        let (through, next) = (self.through, self.next);
        // The answers before the latest told of those that it was to settle, whatever they wait for now.
        let is_open = |tracked: &&mut Tracked| {
            let is_settled = through.is_some_and(|through| through >= tracked.settles);
            tracked.probe.answer.is_some() && tracked.probe.sequence < sequence && !is_settled
        };
        for tracked in self.probes.iter_mut().filter(is_open).filter(|tracked| tracked.back_again.is_none()) {
            tracked.is_behind = true;
            let segments = left.min(self.segments);
            if segments > 0 {
                // With the answer the acknowledgement of its request was lost: for want of it that was sent again, too.
                (tracked.back_again, tracked.again) = (Some(Again { at_ns: heard_ns, segments }), None);
                // What came twice was acknowledged as such before this answer was read: a probe sent from now on follows that.
                tracked.settles = next;
                left -= segments;
            }
        }
    }

    /// Of what the other kernel sent again, so many segments had come all the same.
    fn theirs_undone(&mut self, segments: u8) {
        if undo(self.probes.iter_mut().map(|tracked| &mut tracked.back_again), segments.into()) {
            self.nothing_was_lost_after_all();
        }
    }

    /// Where no probe is marked as lost any more, none waited for one.
    fn nothing_was_lost_after_all(&mut self) {
        if !self.probes.iter().any(|tracked| tracked.again.is_some() || tracked.back_again.is_some()) {
            self.probes.iter_mut().for_each(|tracked| tracked.is_behind = false);
        }
    }

    /// Judges what can be judged. A loss is certain where a probe sent later to the same host was answered: such a one was sent at
    /// `alive_through_ns`.
    pub(crate) fn judge(&mut self, now_ns: u64, alive_through_ns: u64, mut each: impl FnMut(Verdict)) {
        // Answers keep the order of the stream: behind one that is awaited all are.
        while let Some(tracked) = self.probes.front() {
            let fate = match tracked.probe.answer {
                Some(came) => {
                    let since_ns = tracked.back_again.map_or(came.read.mono_ns, |again| again.at_ns);
                    let is_settled = self.is_settled(tracked);
                    if !is_settled && now_ns.saturating_sub(since_ns) < self.keep_ns {
                        return;
                    }
                    fate_of_answered(tracked, &came, is_settled)
                }
                None => {
                    let waited_ns = now_ns.saturating_sub(tracked.probe.sent.mono_ns);
                    let is_again =
                        tracked.again.is_some_and(|again| now_ns.saturating_sub(again.at_ns) >= self.timeout_ns);
                    if !is_again && waited_ns < self.grace_ns() {
                        return;
                    }
                    self.fate_of_unanswered(tracked, alive_through_ns)
                }
            };
            self.tell(fate, &mut each);
        }
    }

    /// The connection has ended: what is left is judged as it is. `by_other`: the other host ended it, or refused it.
    pub(crate) fn ended(&mut self, by_other: bool, alive_through_ns: u64, mut each: impl FnMut(Verdict)) {
        while let Some(tracked) = self.probes.front() {
            let fate = match tracked.probe.answer {
                Some(came) => fate_of_answered(tracked, &came, self.is_settled(tracked)),
                None if by_other => Fate::Unsent,
                None => self.fate_of_unanswered(tracked, alive_through_ns),
            };
            self.tell(fate, &mut each);
        }
    }

    /// Of the oldest.
    fn tell(&mut self, fate: Fate, each: &mut impl FnMut(Verdict)) {
        if let Some(tracked) = self.probes.pop_front() {
            let Probe { sequence, sent, .. } = tracked.probe;
            each(Verdict { sequence: Some(sequence), sent, fate });
        }
    }

    /// Whether all is known of it that the kernels will tell.
    fn is_settled(&self, tracked: &Tracked) -> bool {
        self.through.is_some_and(|through| through >= tracked.settles)
    }

    fn fate_of_unanswered(&self, tracked: &Tracked, alive_through_ns: u64) -> Fate {
        // Sent again or not: while nothing comes back, nothing tells on which way it was lost.
        if self.is_stamped && tracked.probe.left_unix_ns.is_none() {
            Fate::Unsent
        } else {
            Fate::Lost { way: None, is_certain: tracked.probe.sent.mono_ns < alive_through_ns }
        }
    }

    /// How long a probe is waited for whose segments all arrived, as far as the own kernel knows.
    fn grace_ns(&self) -> u64 {
        self.timeout_ns + self.timeout_ns.max(nanoseconds(PATIENCE))
    }

    fn unanswered(&self) -> impl Iterator<Item = &Tracked> {
        self.probes.iter().filter(|tracked| tracked.probe.answer.is_none())
    }

    fn find(&mut self, sequence: u64) -> Option<&mut Tracked> {
        let first = self.probes.front()?.probe.sequence;
        self.probes.get_mut(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }
}

/// A loss is told where it is settled alone: one that is in doubt was answered, without times.
fn fate_of_answered(tracked: &Tracked, came: &Came, is_settled: bool) -> Fate {
    let Tracked { probe, again, back_again, is_behind, .. } = tracked;
    match (again, back_again) {
        (Some(_), _) if is_settled => Fate::Lost { way: Some(Way::There), is_certain: true },
        (None, Some(_)) if is_settled => Fate::Lost { way: Some(Way::Back), is_certain: true },
        _ => Fate::Answered {
            round_trip_ns: came.read.mono_ns.saturating_sub(probe.sent.mono_ns),
            parts: parts(probe, came).filter(|_| !is_behind),
            is_clean: !is_behind,
        },
    }
}

/// So many segments of what was sent again had come all the same: of the oldest first. Whether there were any.
fn undo<'a>(marks: impl Iterator<Item = &'a mut Option<Again>>, mut segments: u32) -> bool {
    let were_any = segments > 0;
    for mark in marks {
        if let Some(again) = mark {
            let undone = again.segments.min(segments);
            segments -= undone;
            again.segments -= undone;
            if again.segments == 0 {
                *mark = None;
            }
        }
    }
    were_any
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

    fn judge() -> Judge {
        Judge::new(Duration::from_nanos(TIMEOUT_NS), Duration::from_millis(100))
    }

    fn send(judge: &mut Judge, ms: u64) {
        let sequence = judge.next();
        judge.sent(at(ms * MS));
        judge.left(sequence, at(ms * MS).unix_ns + 5_000);
    }

    /// The fabric takes 60 µs each way, the answerer 40 µs; what it held of the one before rides with it.
    fn answer(judge: &mut Judge, sequence: u64, ms: u64, again: u8) {
        answer_that_tells(judge, sequence, ms, Resent { again, undone: 0 });
    }

    fn answer_that_tells(judge: &mut Judge, sequence: u64, ms: u64, resent: Resent) {
        let before = sequence.checked_sub(1);
        let held = before.map(|before| Held { sequence_low: before as u32, held_ns: 40_000 });
        let received_unix_ns = at(ms * MS).unix_ns - 120_000;
        let answer =
            Answer { session: 1, sequence, received_unix_ns, held: [held, None], requests: None, resent: Some(resent) };
        judge.answered(&answer, Some(at(ms * MS).unix_ns - 20_000), at(ms * MS));
    }

    fn resent(resent: u32) -> Info {
        Info { resent, ..Info::default() }
    }

    fn fates(judge: &mut Judge, ms: u64) -> Vec<(u64, &'static str)> {
        let mut told = Vec::new();
        judge.judge(ms * MS, 0, |verdict| told.push((verdict.sequence.unwrap_or(u64::MAX), name(&verdict.fate))));
        told
    }

    fn name(fate: &Fate) -> &'static str {
        match fate {
            Fate::Answered { is_clean: true, .. } => "answered",
            Fate::Answered { is_clean: false, .. } => "behind",
            Fate::Lost { way: Some(Way::There), .. } => "there",
            Fate::Lost { way: Some(Way::Back), .. } => "back",
            Fate::Lost { way: None, is_certain: true } => "lost",
            Fate::Lost { way: None, is_certain: false } => "late",
            Fate::Unsent => "unsent",
        }
    }

    #[test]
    fn an_answered_probe_is_judged_once_one_sent_later_is_answered_and_has_its_parts() {
        let mut judge = judge();
        send(&mut judge, 0);
        answer(&mut judge, 0, 1, 0);
        assert_eq!(fates(&mut judge, 2), []);
        send(&mut judge, 100);
        answer(&mut judge, 1, 101, 0);
        let mut told = Vec::new();
        judge.judge(101 * MS, 0, |verdict| told.push(verdict));
        let [
            Verdict {
                sequence: Some(0),
                fate: Fate::Answered { round_trip_ns, parts: Some(parts), is_clean: true },
                ..
            },
        ] = told[..]
        else {
            unreachable!("{told:?}")
        };
        assert_eq!((round_trip_ns, parts.answerer_ns, parts.prober_ns), (MS, 40_000, 25_000));
        // Where nothing follows, it is judged all the same.
        assert_eq!(fates(&mut judge, 101 + 799), []);
        assert_eq!(fates(&mut judge, 101 + 801), [(1, "answered")]);
    }

    /// What happens, in order.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send,
        /// The own kernel sent so many again so far, so many of them for nothing, after so many time-outs.
        Kernel(u32, u32, u8),
        /// An answer to it, with what the other kernel sent again, none of it for nothing.
        Answer(u64, u8),
        /// Likewise, so many of them for nothing.
        Undone(u64, u8, u8),
        /// Milliseconds.
        Wait(u64),
        /// The connection ends: by the other's word?
        End(bool),
    }

    fn play(steps: &[Step]) -> Vec<(u64, &'static str)> {
        let mut judge = judge();
        let (mut ms, mut told) = (10, Vec::new());
        for step in steps {
            match *step {
                Step::Send => send(&mut judge, ms),
                Step::Kernel(resent, undone, backoff) => {
                    judge.observed(Info { resent, undone, backoff, ..Info::default() }, ms * MS);
                }
                Step::Answer(sequence, again) => answer(&mut judge, sequence, ms, again),
                Step::Undone(sequence, again, undone) => {
                    answer_that_tells(&mut judge, sequence, ms, Resent { again, undone });
                }
                Step::Wait(more) => ms += more,
                Step::End(by_other) => {
                    judge.ended(by_other, 0, |verdict| {
                        told.push((verdict.sequence.unwrap_or(u64::MAX), name(&verdict.fate)))
                    });
                }
            }
            ms += 1;
            told.extend(fates(&mut judge, ms));
        }
        told
    }

    #[test]
    fn what_was_sent_again_was_lost_and_what_waited_behind_it_has_no_times() {
        use Step::{Answer, End, Kernel, Send, Undone, Wait};
        type Case = (&'static str, &'static [Step], &'static [(u64, &'static str)]);
        let cases: [Case; 19] = [
            ("none", &[Send, Answer(0, 0), Send, Answer(1, 0)], &[(0, "answered")]),
            (
                "there, and sent again by a time-out",
                &[Send, Wait(200), Kernel(1, 0, 1), Answer(0, 0), Send, Answer(1, 0), Send, Answer(2, 0)],
                &[(0, "there"), (1, "answered")],
            ),
            (
                "there, with one behind it",
                &[Send, Send, Kernel(1, 0, 0), Answer(0, 0), Answer(1, 0), Send, Answer(2, 0)],
                &[(0, "there"), (1, "behind")],
            ),
            (
                "back, with one behind it",
                &[Send, Send, Answer(0, 0), Answer(1, 0), Send, Answer(2, 1), Send, Answer(3, 1)],
                &[(0, "back"), (1, "behind"), (2, "answered")],
            ),
            (
                "back, and its request was sent again for want of the acknowledgement",
                &[Send, Wait(200), Kernel(1, 0, 1), Answer(0, 0), Send, Answer(1, 1), Send, Answer(2, 1)],
                &[(0, "back"), (1, "answered")],
            ),
            (
                "there for nothing: it only took long",
                &[Send, Wait(250), Kernel(1, 0, 1), Answer(0, 0), Send, Kernel(1, 1, 0), Answer(1, 0)],
                &[(0, "answered")],
            ),
            (
                "back for nothing: the next but one tells",
                &[Send, Send, Answer(0, 0), Answer(1, 1), Send, Undone(2, 1, 1)],
                &[(0, "answered"), (1, "answered")],
            ),
            (
                "back for nothing, and that is heard after answers that could not tell it yet: they were on their way before",
                &[
                    Send,
                    Answer(0, 0),
                    Send,
                    Send,
                    Send,
                    Answer(1, 1),
                    Answer(2, 1),
                    Answer(3, 1),
                    Send,
                    Undone(4, 1, 1),
                    Send,
                    Undone(5, 1, 1),
                ],
                &[(0, "answered"), (1, "answered"), (2, "answered"), (3, "answered"), (4, "answered")],
            ),
            (
                "two back for nothing, the second sent again as the first is known to be: what is told is as many as before",
                &[
                    Send,
                    Answer(0, 0),
                    Send,
                    Send,
                    Answer(1, 1),
                    Answer(2, 1),
                    Send,
                    Undone(3, 2, 1),
                    Send,
                    Undone(4, 2, 2),
                ],
                &[(0, "behind"), (1, "answered"), (2, "answered"), (3, "answered")],
            ),
            (
                "back indeed, and told once an answer could tell otherwise and does not",
                &[Send, Answer(0, 0), Send, Send, Answer(1, 1), Answer(2, 1), Send, Answer(3, 1)],
                &[(0, "back"), (1, "answered"), (2, "answered")],
            ),
            (
                "two back, the second while the first is open: what was settled between them is not taken for it",
                &[
                    Send,
                    Send,
                    Answer(0, 0),
                    Answer(1, 0),
                    Send,
                    Send,
                    Send,
                    Answer(2, 1),
                    Answer(3, 2),
                    Send,
                    Answer(4, 2),
                    Answer(5, 2),
                ],
                &[(0, "back"), (1, "behind"), (2, "back"), (3, "answered")],
            ),
            (
                "back, and nothing more comes that could tell whether it was for nothing",
                &[Send, Answer(0, 0), Send, Send, Answer(1, 1), Answer(2, 1), End(true)],
                &[(0, "behind"), (1, "answered"), (2, "answered")],
            ),
            (
                "the same one again and again is one",
                &[
                    Send,
                    Send,
                    Wait(200),
                    Kernel(1, 0, 1),
                    Wait(50),
                    Kernel(2, 0, 2),
                    Answer(0, 0),
                    Answer(1, 0),
                    Send,
                    Answer(2, 0),
                ],
                &[(0, "there"), (1, "behind")],
            ),
            (
                "two lost one after the other",
                &[Send, Send, Kernel(1, 0, 0), Kernel(2, 0, 0), Answer(0, 0), Answer(1, 0), Send, Answer(2, 0)],
                &[(0, "there"), (1, "there")],
            ),
            (
                "nothing comes: what was sent again is told first, without a way",
                &[Send, Wait(100), Send, Wait(100), Kernel(1, 0, 1), Wait(200), Wait(100), Wait(200)],
                &[(0, "late"), (1, "late")],
            ),
            ("nothing comes, and nothing is sent again", &[Send, Wait(498), Wait(1)], &[(0, "late")]),
            ("the other ends it", &[Send, Answer(0, 0), Send, End(true)], &[(0, "answered"), (1, "unsent")]),
            (
                "the other ends it before it could say whether what was sent again had come",
                &[Send, Kernel(1, 0, 0), Answer(0, 0), Send, Kernel(2, 0, 1), End(true)],
                &[(0, "behind"), (1, "unsent")],
            ),
            ("this host gives it up", &[Send, Kernel(1, 0, 1), Send, End(false)], &[(0, "late"), (1, "late")]),
        ];
        for (what, steps, expected) in cases {
            assert_eq!(play(steps), expected, "{what}");
        }
    }

    #[test]
    fn a_probe_of_many_segments_is_lost_once() {
        let mut judge = judge();
        judge.connected(Info::default(), 45);
        (0..3).for_each(|n| send(&mut judge, n));
        judge.observed(resent(7), 9 * MS);
        (0..3).for_each(|n| answer(&mut judge, n, 10, 0));
        send(&mut judge, 20);
        answer(&mut judge, 3, 21, 0);
        assert_eq!(fates(&mut judge, 21), [(0, "there"), (1, "behind"), (2, "behind")]);
    }

    #[test]
    fn of_probes_of_many_segments_each_that_was_sent_again_for_nothing_is_none_lost() {
        let told = |undone: u32| {
            let mut judge = judge();
            judge.connected(Info::default(), 14);
            send(&mut judge, 0);
            send(&mut judge, 1);
            // One segment of each is sent again, at different times, and what is known of both comes at once.
            judge.observed(resent(1), 5 * MS);
            judge.observed(resent(2), 6 * MS);
            (0..2).for_each(|n| answer(&mut judge, n, 10, 0));
            send(&mut judge, 20);
            judge.observed(Info { undone, ..resent(2) }, 21 * MS);
            answer(&mut judge, 2, 21, 0);
            fates(&mut judge, 21)
        };
        assert_eq!(told(2), [(0, "answered"), (1, "answered")]);
        assert_eq!(told(1), [(0, "behind"), (1, "there")]);
        assert_eq!(told(0), [(0, "there"), (1, "there")]);
    }

    #[test]
    fn what_did_not_leave_and_what_a_later_answer_proves_lost() {
        let mut judge = judge();
        send(&mut judge, 0);
        judge.sent(at(MS));
        let mut told = Vec::new();
        // Another flow's probe, sent later to the same host, was answered.
        judge
            .judge(600 * MS, 10 * MS, |verdict| told.push((verdict.sequence.unwrap_or(u64::MAX), name(&verdict.fate))));
        assert_eq!(told, [(0, "lost"), (1, "unsent")]);
    }

    #[test]
    fn counts_of_one_connection_are_not_those_of_the_next() {
        let mut judge = judge();
        send(&mut judge, 0);
        judge.observed(resent(5), MS);
        answer(&mut judge, 0, 2, 9);
        judge.ended(true, 0, |_| {});
        judge.connected(Info::default(), 1);
        send(&mut judge, 100);
        answer(&mut judge, 1, 101, 0);
        send(&mut judge, 200);
        answer(&mut judge, 2, 201, 0);
        assert_eq!(fates(&mut judge, 201), [(1, "answered")]);
    }
}
