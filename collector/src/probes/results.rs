//! What became of probes, by flow, for the last two minutes; and by pair of NICs, as people read it.
//!
//! In: the flows of the plan; `ProbeResults`. Out: rows. Of each flow [`WINDOWS`] windows of [`WINDOW`] are kept: counts are exact sums; a
//! window's median is the mean of its intervals' medians, weighted by probes, and its 99th percentile the greatest of theirs, so it is never
//! too low. Over windows and flows a row takes the weighted median of medians, and the greatest 99th percentile. Bounded by the
//! plan: results of flows that are in none are counted and not kept. Never: a loss of probes that did not leave their host.

use super::Planned;
use super::jobs::Ranks;
use crate::clock::nanoseconds;
use railwatch_engine::Timestamp;
use railwatch_engine::cover::Scope;
use railwatch_engine::map::Transport;
use railwatch_wire::v1;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Windows of a flow.
pub const WINDOWS: usize = 12;
/// Flows kept that the plan has no more: as long as their windows last.
const GONE_MAX: usize = 65_536;

/// A line of `railwatch probes`: probes from one NIC to another, all its flows together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// Who probes.
    pub source_host: String,
    /// By which NIC.
    pub source_interface: String,
    /// Who answers.
    pub target_host: String,
    /// By which NIC.
    pub target_interface: String,
    /// What became of its probes, whatever carried them.
    #[serde(flatten)]
    pub figures: Figures,
    /// The same of what each transport carried.
    pub transports: Vec<TransportFigures>,
    /// For whom the flows are there: `rail`, `job`, `fleet`.
    pub scopes: Vec<Scope>,
    /// Jobs whose pair it is.
    pub jobs: Vec<String>,
    /// Lowest rank on the host that probes, of the job that was asked for.
    pub source_rank: Option<u32>,
    /// And on the one that answers.
    pub target_rank: Option<u32>,
}

/// What became of the probes of some flows of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Probes that left the host and were judged.
    pub sent: u64,
    /// Of them, without an answer in time.
    pub lost: u64,
    /// Lost of sent; null where none was sent.
    pub loss: Option<f64>,
    /// From NIC to NIC and back, by the kernels' stamps: half of the probes took longer. Null where none was timed.
    pub fabric_us_p50: Option<f64>,
    /// One of a hundred took longer, at most.
    pub fabric_us_p99: Option<f64>,
    /// From user to user.
    pub round_trip_us_p50: Option<f64>,
    /// Likewise.
    pub round_trip_us_p99: Option<f64>,
    /// Inside the host that probes.
    pub prober_us_p99: Option<f64>,
    /// Inside the host that answers.
    pub answerer_us_p99: Option<f64>,
    /// Of those lost, on the way there; null where the answerer's counts do not tell.
    pub lost_there: Option<u64>,
    /// And on the way back.
    pub lost_back: Option<u64>,
    /// Source ports.
    pub flows: u64,
    /// Probes that the host's kernel did not take: they say nothing of the fabric.
    pub unsent: u64,
    /// Probes a second, as they were judged.
    pub probes_per_s: f64,
}

/// Of one transport.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransportFigures {
    /// Which.
    pub transport: Transport,
    /// Of its flows.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Which pairs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Only<'a> {
    /// Those that this host has a part in.
    pub host: Option<&'a str>,
    /// Those between hosts of this job, whatever they are probed for.
    pub job: Option<&'a Ranks>,
    /// Flows that this carries alone.
    pub transport: Option<Transport>,
}

impl Only<'_> {
    /// Pairs of these hosts.
    #[must_use]
    pub fn has(self, source: &str, target: &str) -> bool {
        self.host.is_none_or(|host| host == source || host == target)
            && self.job.is_none_or(|ranks| ranks.contains_key(source) && ranks.contains_key(target))
    }

    fn rank(self, host: &str) -> Option<u32> {
        self.job.and_then(|ranks| ranks.get(host).copied().flatten())
    }
}

/// Of one flow and some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tally {
    spent_ms: u32,
    sent: u32,
    lost: u32,
    unsent: u32,
    /// None told.
    there: Option<u32>,
    back: Option<u32>,
    fabric: Times,
    round_trip: Times,
    prober: Times,
    answerer: Times,
}

/// A distribution, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Times {
    count: u32,
    /// Microseconds.
    p50: f32,
    p99: f32,
}

impl Times {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "microseconds to seven digits")]
    fn add(&mut self, times: Option<&v1::ProbeTimes>) {
        let Some(v1::ProbeTimes { count, p50_ns, p99_ns, .. }) = times.filter(|times| times.count > 0) else { return };
        let us = |ns: u64| (ns as f64 / 1e3) as f32;
        let all = self.count.saturating_add(*count);
        let part = (f64::from(*count) / f64::from(all)) as f32;
        self.p50 += (us(*p50_ns) - self.p50) * part;
        self.p99 = self.p99.max(us(*p99_ns));
        self.count = all;
    }
}

impl Tally {
    fn add(&mut self, result: &v1::ProbeFlowResult, spent_ms: u32) {
        let sum = |mine: &mut u32, more: u32| *mine = mine.saturating_add(more);
        sum(&mut self.spent_ms, spent_ms);
        sum(&mut self.sent, result.sent);
        sum(&mut self.lost, result.lost);
        sum(&mut self.unsent, result.unsent);
        for (mine, more) in [(&mut self.there, result.lost_there), (&mut self.back, result.lost_back)] {
            if let Some(more) = more {
                *mine = Some(mine.unwrap_or(0).saturating_add(more));
            }
        }
        self.fabric.add(result.fabric.as_ref());
        self.round_trip.add(result.round_trip.as_ref());
        self.prober.add(result.prober.as_ref());
        self.answerer.add(result.answerer.as_ref());
    }
}

/// Ends of a flow: NICs by host and interface.
type Ends = (Arc<str>, Arc<str>, Arc<str>, Arc<str>);

struct FlowKept {
    ends: Ends,
    in_plan: bool,
    transport: Transport,
    scope: Scope,
    job: Option<Arc<str>>,
    /// With the number of their window since 1970, the newest last.
    windows: VecDeque<(u64, Tally)>,
}

/// All flows.
#[derive(Default)]
pub struct Kept {
    flows: HashMap<u64, FlowKept>,
}

fn window(at: Timestamp) -> u64 {
    at.0 / nanoseconds(WINDOW)
}

impl Kept {
    /// These flows are probed from now on; of others what is known stays for its time.
    pub fn plan(&mut self, planned: &Planned) {
        self.flows.values_mut().for_each(|flow| flow.in_plan = false);
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut share = |text: &str| {
            if let Some(name) = names.get(text) {
                return Arc::clone(name);
            }
            let name: Arc<str> = text.into();
            names.insert(Arc::clone(&name));
            name
        };
        for flow in &planned.plan.flows {
            let (from, to) = (&planned.endpoints[flow.from].port, &planned.endpoints[flow.to].port);
            let ends = (share(&from.node), share(&from.port), share(&to.node), share(&to.port));
            let kept = self.flows.entry(flow.id).or_insert_with(|| FlowKept {
                ends: ends.clone(),
                in_plan: true,
                transport: flow.flow.transport,
                scope: Scope::Rail,
                job: None,
                windows: VecDeque::new(),
            });
            (kept.ends, kept.in_plan) = (ends, true);
            (kept.scope, kept.job) = (flow.scope(&planned.endpoints), flow.job.clone());
        }
    }

    /// What is older than is kept goes.
    pub fn forget(&mut self, now: Timestamp) {
        let oldest = (window(now) + 1).saturating_sub(WINDOWS as u64);
        let mut gone = 0;
        self.flows.retain(|_, flow| {
            while flow.windows.pop_front_if(|(number, _)| *number < oldest).is_some() {}
            gone += usize::from(!flow.in_plan);
            flow.in_plan || (!flow.windows.is_empty() && gone <= GONE_MAX)
        });
    }

    /// A host's results. Returns how many were of flows that it has not, and which flows lost probes.
    pub fn take(&mut self, host: &str, results: &v1::ProbeResults, now: Timestamp) -> (u64, BTreeSet<u64>) {
        let (mut unknown, mut lossy) = (0, BTreeSet::new());
        let spent_ms = u32::try_from((results.to_mono_ns - results.from_mono_ns) / 1_000_000).unwrap_or(u32::MAX);
        let number = window(now);
        for result in &results.flows {
            let Some(flow) = self.flows.get_mut(&result.id).filter(|flow| &*flow.ends.0 == host) else {
                unknown += 1;
                continue;
            };
            if flow.windows.back().is_none_or(|(newest, _)| *newest < number) {
                flow.windows.push_back((number, Tally::default()));
                if flow.windows.len() > WINDOWS {
                    flow.windows.pop_front();
                }
            }
            if let Some((_, tally)) = flow.windows.back_mut() {
                tally.add(result, spent_ms);
            }
            if result.lost > 0 {
                lossy.insert(result.id);
            }
        }
        (unknown, lossy)
    }

    /// Pairs, by their NICs, over whole windows back to `last` ago.
    pub fn rows(&self, last: Duration, only: Only<'_>, now: Timestamp) -> Vec<ProbeRow> {
        let last_ns = nanoseconds(last);
        // The window that the instant lies in counts whole.
        let first = window(Timestamp(now.0.saturating_sub(last_ns)));
        let mut pairs: BTreeMap<&Ends, Pair<'_>> = BTreeMap::new();
        let is_wanted = |flow: &&FlowKept| {
            only.has(&flow.ends.0, &flow.ends.2) && only.transport.is_none_or(|transport| transport == flow.transport)
        };
        for flow in self.flows.values().filter(is_wanted) {
            let tallies: Vec<_> =
                flow.windows.iter().filter(|(number, _)| *number >= first).map(|(_, tally)| tally).collect();
            if flow.in_plan || !tallies.is_empty() {
                let pair = pairs.entry(&flow.ends).or_default();
                pair.flows.entry(flow.transport).or_default().push(tallies);
                pair.scopes.insert(flow.scope);
                pair.jobs.extend(flow.job.as_deref());
            }
        }
        pairs.into_iter().map(|(ends, pair)| row(ends, &pair, only)).collect()
    }
}

/// Flows of one pair.
#[derive(Default)]
struct Pair<'k> {
    flows: BTreeMap<Transport, Vec<Vec<&'k Tally>>>,
    scopes: BTreeSet<Scope>,
    jobs: BTreeSet<&'k str>,
}

fn row(ends: &Ends, pair: &Pair<'_>, only: Only<'_>) -> ProbeRow {
    let of_transport = |(transport, flows): (&Transport, &Vec<Vec<&Tally>>)| TransportFigures {
        transport: *transport,
        figures: figures(flows.iter().map(Vec::as_slice)),
    };
    let (source_host, source_interface, target_host, target_interface) = ends;
    ProbeRow {
        source_host: source_host.to_string(),
        source_interface: source_interface.to_string(),
        target_host: target_host.to_string(),
        target_interface: target_interface.to_string(),
        figures: figures(pair.flows.values().flatten().map(Vec::as_slice)),
        transports: pair.flows.iter().map(of_transport).collect(),
        scopes: pair.scopes.iter().copied().collect(),
        jobs: pair.jobs.iter().map(|job| (*job).to_owned()).collect(),
        source_rank: only.rank(source_host),
        target_rank: only.rank(target_host),
    }
}

/// Of these flows, each by its windows.
fn figures<'k>(flows: impl Iterator<Item = &'k [&'k Tally]> + Clone) -> Figures {
    let all = || flows.clone().flatten().copied();
    let sum = |field: fn(&Tally) -> u32| all().map(|tally| u64::from(field(tally))).sum::<u64>();
    let told = |field: fn(&Tally) -> Option<u32>| all().filter_map(field).map(u64::from).reduce(|a, b| a + b);
    let p99 = |field: fn(&Tally) -> Times| {
        all().map(field).filter(|times| times.count > 0).map(|times| f64::from(times.p99)).reduce(f64::max)
    };
    let (sent, lost) = (sum(|tally| tally.sent), sum(|tally| tally.lost));
    let per_s = |tallies: &[&Tally]| {
        let spent_ms: u64 = tallies.iter().map(|tally| u64::from(tally.spent_ms)).sum();
        let sent: u64 = tallies.iter().map(|tally| u64::from(tally.sent)).sum();
        if spent_ms == 0 { 0.0 } else { ratio(sent, spent_ms) * 1e3 }
    };
    Figures {
        sent,
        lost,
        loss: (sent > 0).then(|| ratio(lost, sent)),
        fabric_us_p50: median(all().map(|tally| tally.fabric)),
        fabric_us_p99: p99(|tally| tally.fabric),
        round_trip_us_p50: median(all().map(|tally| tally.round_trip)),
        round_trip_us_p99: p99(|tally| tally.round_trip),
        prober_us_p99: p99(|tally| tally.prober),
        answerer_us_p99: p99(|tally| tally.answerer),
        lost_there: told(|tally| tally.there),
        lost_back: told(|tally| tally.back),
        flows: flows.clone().count() as u64,
        unsent: sum(|tally| tally.unsent),
        probes_per_s: flows.clone().map(per_s).sum(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of probes, far below 2^52")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of as f64
}

/// The median that half of the probes lie at or below.
fn median(times: impl Iterator<Item = Times>) -> Option<f64> {
    let mut times: Vec<Times> = times.filter(|times| times.count > 0).collect();
    times.sort_by(|a, b| a.p50.total_cmp(&b.p50));
    let half = times.iter().map(|times| u64::from(times.count)).sum::<u64>().div_ceil(2);
    let mut below = 0;
    let reached = times.iter().find(|times| {
        below += u64::from(times.count);
        below >= half
    });
    reached.map(|times| f64::from(times.p50))
}

#[cfg(test)]
mod tests {
    use super::*;
    use railwatch_engine::cover::{Endpoint, PlannedFlow, Streams};
    use railwatch_engine::map::{Flow, PortName};

    const SECOND: u64 = 1_000_000_000;

    fn planned(ids: &[u64]) -> Planned {
        let endpoint = |host: &str| Endpoint {
            port: PortName { node: host.into(), port: "eth0".into() },
            address: [10, 0, 0, 1].into(),
            address_v6: None,
            rail: String::new(),
            nic: None,
            answers: Some(7704),
            streams: Streams::default(),
        };
        let flow = |id: &u64| PlannedFlow {
            id: *id,
            from: 0,
            to: 1,
            flow: Flow {
                source: [10, 0, 0, 1].into(),
                destination: [10, 0, 0, 2].into(),
                // The second is the first one's over TCP, with its ports.
                transport: if *id == 2 { Transport::Tcp } else { Transport::Udp },
                source_port: 1,
                destination_port: 2,
            },
            size_bytes: 64,
            interval_us: 1,
            offset_us: 0,
            dense: false,
            job: (*id == 2).then(|| "42".into()),
        };
        let mut planned = Planned { endpoints: vec![endpoint("a"), endpoint("b")], ..Planned::default() };
        planned.plan.flows = ids.iter().map(flow).collect();
        planned
    }

    fn results(flows: Vec<v1::ProbeFlowResult>) -> v1::ProbeResults {
        v1::ProbeResults { plan_revision: 1, from_mono_ns: 0, to_mono_ns: SECOND, flows }
    }

    fn result(id: u64, sent: u32, lost: u32, p50_us: u64) -> v1::ProbeFlowResult {
        let times = v1::ProbeTimes {
            count: sent - lost,
            min_ns: 1,
            p50_ns: p50_us * 1000,
            p99_ns: p50_us * 2000,
            max_ns: p50_us * 3000,
            sum_ns: 1,
        };
        v1::ProbeFlowResult {
            id,
            sent,
            answered: sent - lost,
            lost,
            fabric: Some(times),
            ..v1::ProbeFlowResult::default()
        }
    }

    #[test]
    fn flows_of_a_pair_make_a_row_of_exact_counts_and_of_times_that_are_not_too_low() {
        let mut kept = Kept::default();
        kept.plan(&planned(&[1, 2]));
        let now = Timestamp(100 * SECOND);
        let mut second = result(2, 30, 3, 50);
        (second.lost_there, second.lost_back, second.unsent) = (Some(1), Some(2), 4);
        let (unknown, lossy) = kept.take("a", &results(vec![result(1, 10, 0, 20), second, result(3, 9, 9, 9)]), now);
        assert_eq!((unknown, lossy), (1, [2].into()));
        assert_eq!(kept.take("b", &results(vec![result(1, 10, 0, 20)]), now).0, 1, "the flow of another host");
        let rows = kept.rows(Duration::from_secs(60), Only::default(), now);
        let [row] = &rows[..] else { panic!("one pair: {rows:?}") };
        let all = &row.figures;
        assert_eq!((row.source_host.as_str(), row.target_host.as_str(), all.flows), ("a", "b", 2));
        assert_eq!((all.sent, all.lost, all.loss, all.unsent), (40, 3, Some(0.075), 4));
        assert_eq!((all.lost_there, all.lost_back), (Some(1), Some(2)));
        assert_eq!((all.fabric_us_p50, all.fabric_us_p99, all.round_trip_us_p50), (Some(50.0), Some(100.0), None));
        assert!((all.probes_per_s - 40.0).abs() < 1e-9);
        let by_transport = |row: &ProbeRow| -> Vec<_> {
            let of = |it: &TransportFigures| (it.transport, it.figures.sent, it.figures.lost, it.figures.fabric_us_p50);
            row.transports.iter().map(of).collect()
        };
        let (udp, tcp) = ((Transport::Udp, 10, 0, Some(20.0)), (Transport::Tcp, 30, 3, Some(50.0)));
        assert_eq!(by_transport(row), [udp, tcp]);
        let only = Only { transport: Some(Transport::Tcp), ..Only::default() };
        let of_tcp = &kept.rows(Duration::from_secs(60), only, now)[0];
        assert_eq!((of_tcp.figures.sent, by_transport(of_tcp)), (30, vec![tcp]));
        assert_eq!((&row.scopes[..], row.jobs.concat()), (&[Scope::Rail, Scope::Job][..], "42".to_owned()));
        let (whole, half): (Ranks, Ranks) =
            ([("a".into(), Some(8)), ("b".into(), Some(0))].into(), [("a".into(), Some(8))].into());
        for (only, expected) in [
            (Only { host: Some("b"), ..Only::default() }, Some((None, None))),
            (Only { host: Some("c"), ..Only::default() }, None),
            (Only { job: Some(&whole), ..Only::default() }, Some((Some(8), Some(0)))),
            (Only { job: Some(&half), ..Only::default() }, None),
            (Only { host: Some("c"), job: Some(&whole), ..Only::default() }, None),
        ] {
            let rows = kept.rows(Duration::from_secs(60), only, now);
            assert_eq!(rows.first().map(|row| (row.source_rank, row.target_rank)), expected, "{only:?}");
        }
    }

    #[test]
    fn what_is_old_goes_and_flows_of_no_plan_with_it() {
        let mut kept = Kept::default();
        kept.plan(&planned(&[1]));
        for second in 0..300 {
            let at = Timestamp(second * SECOND);
            kept.take("a", &results(vec![result(1, 10, 0, 20)]), at);
            kept.forget(at);
        }
        let end = Timestamp(299 * SECOND);
        let sent = |kept: &Kept, seconds| kept.rows(Duration::from_secs(seconds), Only::default(), end)[0].figures.sent;
        assert_eq!((sent(&kept, 5), sent(&kept, 60), sent(&kept, 100_000)), (100, 700, 1200));
        kept.plan(&planned(&[2]));
        kept.forget(end);
        assert_eq!(kept.flows.len(), 2, "what is known of it is still shown");
        kept.forget(Timestamp(500 * SECOND));
        assert_eq!(kept.flows.len(), 1);
        let row = &kept.rows(Duration::from_secs(60), Only::default(), Timestamp(500 * SECOND))[0].figures;
        assert_eq!(
            (row.sent, row.loss, row.fabric_us_p50),
            (0, None, None),
            "planned, and nothing known: not zero loss"
        );
    }
}
