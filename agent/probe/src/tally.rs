//! What became of a flow's probes between two reports. Pure.
//!
//! In: counts, and the times of answered probes. Out: a [`FlowResult`] for each report. Never: a time by clocks of two hosts as
//! if they were one.

use crate::session::{Answered, Parts};
use crate::times::{Least, Times, TimesResult};

/// What became of the probes that were judged since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowResult {
    /// The planner's number of the flow.
    pub id: u64,
    /// That left this host and were judged.
    pub sent: u32,
    /// Answered.
    pub answered: u32,
    /// Not answered.
    pub lost: u32,
    /// The kernel did not take them, or this host lost the answer itself.
    pub unsent: u32,
    /// Of those lost, on the way there and on the way back, where that is known of any.
    pub lost_there_back: Option<(u32, u32)>,
    /// From NIC to NIC.
    pub fabric: TimesResult,
    /// Inside this host: before the probe left, and how late its answer was read.
    pub prober: TimesResult,
    /// Inside the other.
    pub answerer: TimesResult,
    /// From user to user, without what an answer waited for the tick.
    pub round_trip: TimesResult,
    /// By how much the way there was longer than at its shortest lately.
    pub there_above_least: TimesResult,
    /// Likewise the way back.
    pub back_above_least: TimesResult,
}

/// What is noted between two reports.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Counts; its times are those below.
    pub(crate) result: FlowResult,
    /// Lost on the way there, and back, where that is known.
    pub(crate) there: u32,
    pub(crate) back: u32,
    fabric: Times,
    prober: Times,
    answerer: Times,
    round_trip: Times,
    there_above: Times,
    back_above: Times,
    least_there: Least,
    least_back: Least,
}

impl Tally {
    /// The times of an answered probe.
    pub(crate) fn take(&mut self, answered: &Answered, now_ns: u64) {
        self.round_trip(answered.round_trip_ns);
        if let Some(parts) = &answered.parts {
            self.parts(parts, now_ns);
        }
    }

    /// How long a probe and its answer took, from user to user.
    pub(crate) fn round_trip(&mut self, ns: u64) {
        self.round_trip.note(ns);
    }

    /// Where the time of one went.
    pub(crate) fn parts(&mut self, parts: &Parts, now_ns: u64) {
        self.fabric.note(parts.fabric_ns);
        self.prober.note(parts.prober_ns);
        self.answerer.note(parts.answerer_ns);
        self.there_above.note(self.least_there.above(parts.there_ns, now_ns));
        self.back_above.note(self.least_back.above(parts.back_ns, now_ns));
    }

    /// All since the last report; `None` where there was nothing.
    pub(crate) fn report(&mut self, id: u64) -> Option<FlowResult> {
        if self.result.sent == 0 && self.result.unsent == 0 && self.fabric.is_empty() {
            return None;
        }
        let (there, back) = (std::mem::take(&mut self.there), std::mem::take(&mut self.back));
        Some(FlowResult {
            id,
            lost_there_back: (there + back > 0).then_some((there, back)),
            fabric: self.fabric.take(),
            prober: self.prober.take(),
            answerer: self.answerer.take(),
            round_trip: self.round_trip.take(),
            there_above_least: self.there_above.take(),
            back_above_least: self.back_above.take(),
            ..std::mem::take(&mut self.result)
        })
    }
}
