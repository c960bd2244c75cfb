//! What became of each flow's probes in the last seconds, to the interval in which their host told it.
//!
//! In: `ProbeResults`. Out: sums over [`SPAN`]. Bounded: flows of the plan, and so many intervals of each. Never: a flow that is in no plan.

use crate::clock::nanoseconds;
use railwatch_engine::Timestamp;
use railwatch_wire::v1;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// How far back a sum reaches.
pub const SPAN: Duration = Duration::from_secs(4);
/// Hosts tell an interval within so long.
const MARGIN_NS: u64 = 1_000_000_000;
/// Intervals of a flow: more than an agent tells within the span.
const INTERVALS_MAX: usize = 64;

/// Probes of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// That left the host and were judged.
    pub sent: u32,
    /// Of them, without an answer.
    pub lost: u32,
    /// Of those lost, on the way there and on the way back, where that is known of all.
    pub ways: Option<(u32, u32)>,
}

/// The last seconds.
#[derive(Debug, Default)]
pub struct Recent {
    flows: HashMap<u64, VecDeque<(Timestamp, Sum)>>,
    /// When a probe was lost first since none was, and last.
    lossy: Option<(Timestamp, Timestamp)>,
}

impl Recent {
    /// Flows that are planned now: what else was kept goes.
    pub fn plan(&mut self, flows: impl Iterator<Item = u64>) {
        let planned: HashSet<u64> = flows.collect();
        self.flows.retain(|id, _| planned.contains(id));
        for id in planned {
            self.flows.entry(id).or_default();
        }
    }

    /// Takes a host's results.
    pub fn take(&mut self, results: &v1::ProbeResults, now: Timestamp) {
        for result in &results.flows {
            let Some(kept) = self.flows.get_mut(&result.id) else { continue };
            let v1::ProbeFlowResult { sent, lost, lost_there, lost_back, .. } = *result;
            let ways = match (lost_there, lost_back) {
                (Some(there), Some(back)) if there.checked_add(back) == Some(lost) => Some((there, back)),
                _ => (lost == 0).then_some((0, 0)),
            };
            if kept.len() == INTERVALS_MAX {
                kept.pop_front();
            }
            kept.push_back((now, Sum { sent, lost: lost.min(sent), ways }));
            if lost > 0 {
                let first = self.lossy.map_or(now, |(first, _)| first);
                self.lossy = Some((first, now));
            }
        }
    }

    /// The sums of all flows that judged any probe, from the first loss on and up to the last, since what was before and after says
    /// nothing of how much is lost; forgets what is older than the span.
    pub fn sums(&mut self, now: Timestamp) -> HashMap<u64, Sum> {
        let oldest = before(now);
        let (mut first, mut last) = self.lossy.unwrap_or_default();
        // Intervals in which a fault began or ended are partly of another time.
        if last.0.saturating_sub(first.0) > 3 * MARGIN_NS {
            (first.0, last.0) = (first.0 + MARGIN_NS, last.0 - MARGIN_NS);
        }
        let mut sums = HashMap::new();
        for (id, kept) in &mut self.flows {
            while kept.pop_front_if(|(at, _)| *at < oldest).is_some() {}
            let counts = kept.iter().filter(|(at, _)| (first..=last).contains(at));
            let sum = counts.fold(Sum { ways: Some((0, 0)), ..Sum::default() }, |sum, (_, more)| Sum {
                sent: sum.sent.saturating_add(more.sent),
                lost: sum.lost.saturating_add(more.lost),
                ways: sum.ways.zip(more.ways).map(|((there, back), more)| (there + more.0, back + more.1)),
            });
            if sum.sent > 0 {
                sums.insert(*id, sum);
            }
        }
        sums
    }

    /// Since when probes are lost, where one was within the span.
    pub fn lossy_since(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.lossy = self.lossy.filter(|(_, last)| *last >= before(now));
        self.lossy.map(|(first, _)| first)
    }
}

fn before(now: Timestamp) -> Timestamp {
    Timestamp(now.0.saturating_sub(nanoseconds(SPAN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn result(id: u64, sent: u32, lost: u32, ways: Option<(u32, u32)>) -> v1::ProbeFlowResult {
        let (lost_there, lost_back) = ways.unzip();
        v1::ProbeFlowResult { id, sent, lost, lost_there, lost_back, ..v1::ProbeFlowResult::default() }
    }

    #[test]
    fn sums_reach_back_a_few_seconds_and_know_the_ways_only_where_all_are_known() {
        let mut recent = Recent::default();
        recent.plan([1, 2].into_iter());
        for (second, flows) in [
            (10, vec![result(1, 10, 5, None), result(3, 9, 9, None)]),
            (14, vec![result(1, 10, 2, Some((2, 0))), result(2, 10, 0, None)]),
            (15, vec![result(1, 10, 1, Some((0, 1))), result(2, 10, 3, Some((1, 0)))]),
            (17, vec![result(1, 10, 9, None), result(2, 10, 0, None)]),
        ] {
            recent.take(&v1::ProbeResults { flows, ..v1::ProbeResults::default() }, Timestamp(second * S));
        }
        let sums = recent.sums(Timestamp(17 * S));
        let one = Sum { sent: 20, lost: 3, ways: Some((2, 1)) };
        // Of the second flow's three lost ones, two are of no way.
        let two = Sum { sent: 20, lost: 3, ways: None };
        assert_eq!(sums, HashMap::from([(1, one), (2, two)]));
        assert_eq!(recent.lossy_since(Timestamp(17 * S)), Some(Timestamp(10 * S)));
        recent.plan([2].into_iter());
        assert_eq!(recent.sums(Timestamp(17 * S)).len(), 1);
        assert_eq!(recent.lossy_since(Timestamp(30 * S)), None);
    }
}
