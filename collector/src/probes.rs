//! Probes: which host sends which, what became of them, and what that makes suspect.
//!
//! In: the fabric ([`view::FabricView`]), what hosts say that they can do, the jobs that run ([`jobs`]), `ProbeResults` and signals of their agents. Out: a `ProbePlan` per
//! connected host, made by [`railwatch_engine::cover`], sent on connection and on change and renewed before it lapses; the pairs' figures
//! ([`results`]); coverage. A plan is made again within [`LOOK_EVERY`] of a change; where loss shows, what shares a way with it is sent
//! more often at once, and for [`SUSPECT_FOR`] after its last sign. Bounded: flows, suspects, and the minutes kept. Never: a
//! probe of a host that does not answer, or a plan for one that does not probe.

pub mod blame;
pub mod jobs;
pub mod options;
pub mod recent;
pub mod results;
pub mod view;
pub mod ways;

use crate::clock::{Timeline, nanoseconds};
use crate::live::Live;
use options::ProbeOptions;
use railwatch_engine::Timestamp;
use railwatch_engine::cover::{self, Endpoint, Job, OutlookRow, Plan, PlannedFlow, Senses, Suspects, World};
use railwatch_engine::map::{Direction, Fabric, Flow, Path, PortName, Transport};
use railwatch_wire::v1;
use recent::Recent;
use results::{Kept, Only, ProbeRow};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use view::FabricView;

/// The fabric and the hosts are looked at this often, and at once where loss shows.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two plans, however much happens.
const REST: Duration = Duration::from_millis(200);
/// A plan is renewed so often within its lease.
const RENEWALS_PER_LEASE: u64 = 3;
/// Jobs are looked for again after so long though no host told anything new of its processes: one may have been forgotten, or a communicator made.
const JOBS_AGAIN: Duration = Duration::from_secs(5);
/// How long something stays suspect after its last loss.
pub const SUSPECT_FOR: Duration = Duration::from_secs(60);
/// Suspects of each kind; more are not followed, and counted.
const SUSPECTS_MAX: usize = 4096;
/// A direction that a lossy flow crosses less likely than this is no suspect for it.
const LIKELY_MIN: f64 = 0.2;

/// The room. Clone it freely.
#[derive(Clone)]
pub struct Probes(Arc<Inner>);

struct Inner {
    epoch: u64,
    live: Live,
    view: Arc<dyn FabricView>,
    options: Mutex<ProbeOptions>,
    /// Of the engine: when a host counts as silent, and when an agent as stalled, ms.
    silence_ms: Mutex<(u64, u64)>,
    lines: Mutex<HashMap<Arc<str>, Line>>,
    planned: Mutex<Arc<Planned>>,
    kept: Mutex<Kept>,
    recent: Mutex<Recent>,
    suspected: Mutex<Suspected>,
    running: Mutex<Running>,
    /// A host told something of its processes since jobs were looked for.
    placed: AtomicBool,
    wake: Notify,
    revision: AtomicU64,
    counts: Counts,
}

/// The way to one host's stream: the latest plan wins.
struct Line {
    generation: u64,
    /// Where its stream comes from: the NIC with that address is not the job's.
    peer: IpAddr,
    plan: watch::Sender<Arc<v1::ProbePlan>>,
    /// When it was sent last; none: never.
    sent: Option<Timestamp>,
}

/// What was planned last, and for what.
#[derive(Default)]
pub struct Planned {
    /// As far as it is known.
    pub fabric: Arc<Fabric>,
    /// Of traced flows.
    pub placements: Arc<BTreeMap<Flow, Path>>,
    /// NICs that probe.
    pub endpoints: Vec<Endpoint>,
    /// How rails were told apart.
    pub rails: cover::Rails,
    /// Hosts whose agents take plans.
    pub able: BTreeSet<String>,
    /// Hosts that take no part, and why.
    pub left_out: BTreeMap<String, String>,
    /// What was suspect.
    pub suspects: Suspects,
    /// NICs of each job are probed with each other.
    pub has_jobs: bool,
    /// Those jobs.
    pub jobs: Arc<Vec<Job>>,
    /// Jobs beyond those.
    pub jobs_beyond: u64,
    /// As was asked for.
    pub options: cover::Options,
    /// The flows.
    pub plan: Plan,
    /// How long it took, ms.
    pub took_ms: f64,
    /// Since when the fabric is as it is.
    pub steady_since: Timestamp,
}

/// Jobs, as they were found last.
#[derive(Clone, Default)]
struct Running {
    jobs: Arc<Vec<Job>>,
    beyond: u64,
    at: Timestamp,
}

#[derive(Default)]
struct Suspected {
    directions: BTreeMap<Direction, Timestamp>,
    nics: BTreeMap<PortName, Timestamp>,
}

#[derive(Debug, Default)]
struct Counts {
    plans: AtomicU64,
    results: AtomicU64,
    unknown_flows: AtomicU64,
    suspects_refused: AtomicU64,
}

/// What the room did so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Plans made because something changed.
    pub plans: u64,
    /// Intervals that agents told of.
    pub results: u64,
    /// Results of flows that are in no plan.
    pub unknown_flows: u64,
    /// Suspects not followed because there are too many.
    pub suspects_refused: u64,
    /// Flows now.
    pub flows: u64,
    /// Suspects now.
    pub suspects: u64,
    /// Directions of links that are up.
    pub directions: u64,
    /// Of them: those with the rate they should have.
    pub covered: u64,
    /// Planned, of the NIC that sends most.
    pub packets_per_s_per_nic_most: f64,
    /// Pairs of NICs of jobs that run.
    pub job_pairs: u64,
    /// Of them, those for which there is no room.
    pub job_pairs_left_out: u64,
    /// Jobs that are not looked at because there are too many.
    pub jobs_left_out: u64,
}

impl Probes {
    /// Nothing is planned yet.
    pub fn new(epoch: u64, live: Live, view: Arc<dyn FabricView>) -> Self {
        Self(Arc::new(Inner {
            epoch,
            live,
            view,
            options: Mutex::default(),
            silence_ms: Mutex::default(),
            lines: Mutex::default(),
            planned: Mutex::default(),
            kept: Mutex::default(),
            recent: Mutex::default(),
            suspected: Mutex::default(),
            running: Mutex::default(),
            placed: AtomicBool::new(true),
            wake: Notify::new(),
            revision: AtomicU64::new(0),
            counts: Counts::default(),
        }))
    }

    /// These settings hold from the next look on; so do the times after which a host counts as silent.
    pub fn configure(&self, options: ProbeOptions, engine: &railwatch_engine::Options) {
        *lock(&self.0.options) = options;
        *lock(&self.0.silence_ms) = (engine.silent_after_ms, engine.stalled_after_ms);
        self.0.wake.notify_one();
    }

    /// The stream of this generation takes plans from now on.
    pub fn open(&self, host: &Arc<str>, generation: u64, peer: IpAddr) -> watch::Receiver<Arc<v1::ProbePlan>> {
        let (plan, plans) = watch::channel(Arc::new(v1::ProbePlan::default()));
        lock(&self.0.lines).insert(Arc::clone(host), Line { generation, peer, plan, sent: None });
        self.0.wake.notify_one();
        plans
    }

    /// The stream of this generation ended.
    pub fn close(&self, host: &Arc<str>, generation: u64) {
        let mut lines = lock(&self.0.lines);
        if lines.get(host).is_some_and(|line| line.generation == generation) {
            lines.remove(host);
            drop(lines);
            self.0.wake.notify_one();
        }
    }

    /// A host told something new of its processes: a job may have started or ended.
    pub fn placed(&self) {
        self.0.placed.store(true, Relaxed);
        if lock(&self.0.options).has_jobs() {
            self.0.wake.notify_one();
        }
    }

    /// What a host says became of its probes. The message is within bounds.
    pub fn results(&self, host: &str, results: &v1::ProbeResults, now: Timestamp) {
        self.0.counts.results.fetch_add(1, Relaxed);
        let planned = self.planned();
        let (unknown, lossy) = lock(&self.0.kept).take(host, results, now);
        lock(&self.0.recent).take(results, now);
        self.0.counts.unknown_flows.fetch_add(unknown, Relaxed);
        if lossy.is_empty() {
            return;
        }
        let lossy: Vec<_> = planned.plan.flows.iter().filter(|flow| lossy.contains(&flow.id)).collect();
        let crossed = cover::crossed(&planned.fabric, &planned.endpoints, &planned.placements, &lossy, LIKELY_MIN);
        for (flow, directions) in lossy.into_iter().zip(crossed) {
            self.suspect(directions.into_iter().collect(), &ends(&planned, flow), now);
        }
    }

    /// A signal of a host that may be about its probes: `entity` is its NIC.
    pub fn signal(&self, host: &str, signal: &v1::Signal, now: Timestamp) {
        if !matches!(signal.name.as_str(), "probe.loss" | "probe.unreachable") {
            return;
        }
        let own = signal.entity.as_ref().map(|nic| port(host, &nic.name));
        let text = |key| signal.attributes.get(key).filter(|text| !text.is_empty());
        let target = text("target_host").zip(text("target_interface")).map(|(host, interface)| port(host, interface));
        let Some((own, target)) = own.zip(target) else { return };
        let planned = self.planned();
        let sent = text("source_port").and_then(|port| port.parse::<u16>().ok());
        let carried = text("transport").and_then(|name| Transport::ALL.into_iter().find(|it| it.name() == name));
        let of_it = |flow: &&PlannedFlow| {
            [&planned.endpoints[flow.from].port, &planned.endpoints[flow.to].port] == [&own, &target]
                && sent.is_none_or(|port| flow.flow.source_port == port)
                && carried.is_none_or(|transport| flow.flow.transport == transport)
        };
        let lossy: Vec<_> = planned.plan.flows.iter().filter(of_it).collect();
        let crossed = cover::crossed(&planned.fabric, &planned.endpoints, &planned.placements, &lossy, LIKELY_MIN);
        self.suspect(crossed.into_iter().flatten().collect(), &[own, target], now);
    }

    fn suspect(&self, directions: Vec<Direction>, nics: &[PortName], now: Timestamp) {
        let mut suspected = lock(&self.0.suspected);
        let mut is_new = false;
        let mut refused = 0;
        let room = |held: usize, has: bool| has || held < SUSPECTS_MAX;
        for direction in directions {
            if room(suspected.directions.len(), suspected.directions.contains_key(&direction)) {
                is_new |= suspected.directions.insert(direction, now).is_none();
            } else {
                refused += 1;
            }
        }
        for nic in nics {
            if room(suspected.nics.len(), suspected.nics.contains_key(nic)) {
                is_new |= suspected.nics.insert(nic.clone(), now).is_none();
            } else {
                refused += 1;
            }
        }
        drop(suspected);
        self.0.counts.suspects_refused.fetch_add(refused, Relaxed);
        if is_new {
            self.0.wake.notify_one();
        }
    }

    /// What was planned last.
    pub fn planned(&self) -> Arc<Planned> {
        Arc::clone(&lock(&self.0.planned))
    }

    /// Figures of pairs over the last time.
    pub fn rows(&self, last: Duration, only: Only<'_>) -> Vec<ProbeRow> {
        lock(&self.0.kept).rows(last, only, Timeline::now())
    }

    /// Hosts of the job that is called so, with their lowest ranks.
    ///
    /// # Errors
    /// No job is called so, or several are.
    pub fn ranks(&self, job: &str) -> Result<jobs::Ranks, String> {
        jobs::ranks(&self.0.live.jobs(), job)
    }

    /// Jobs that run, where their NICs are to be probed with each other.
    fn running(&self, options: &ProbeOptions, now: Timestamp) -> Running {
        if !options.enabled || !options.has_jobs() {
            return Running::default();
        }
        let mut running = lock(&self.0.running);
        let again_ns = nanoseconds(JOBS_AGAIN);
        if self.0.placed.swap(false, Relaxed) || now.0.saturating_sub(running.at.0) >= again_ns {
            let (jobs, beyond) = jobs::running(&self.0.live.jobs());
            // The same as before stays the same one: whoever compares need not look inside.
            if *running.jobs != jobs {
                running.jobs = Arc::new(jobs);
            }
            (running.beyond, running.at) = (beyond, now);
        }
        running.clone()
    }

    /// What would be sensed, of elements with this in their name; where a loss is asked for, of so much of 1.
    pub fn outlook(&self, containing: &str, loss: Option<f64>, rows_max: usize) -> Vec<OutlookRow> {
        let planned = self.planned();
        let options = lock(&self.0.options).clone();
        let (silent_after_ms, stalled_after_ms) = *lock(&self.0.silence_ms);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a configuration")]
        let senses = Senses {
            sources: view::sources(&self.0.live),
            series: view::telling(&self.0.live),
            switches: view::said_by_switches(&self.0.live),
            loss: loss.unwrap_or(cover::SILENT_LOSS),
            large_loss: loss.unwrap_or(cover::LARGE_LOSS),
            timeout_ms: f64::from(options.timeout_ms),
            silent_after_ms: silent_after_ms as f64,
            stalled_after_ms: stalled_after_ms as f64,
        };
        let Planned { fabric, endpoints, placements, plan, .. } = &*planned;
        cover::outlook(fabric, endpoints, placements, plan, &senses, containing, rows_max)
    }

    /// Since when the fabric is as it is.
    fn steady_since(&self) -> Timestamp {
        self.planned().steady_since
    }

    /// Flows of which probes are lost.
    fn lossy_flows(&self, now: Timestamp) -> HashSet<u64> {
        let mut recent = lock(&self.0.recent);
        if recent.lossy_since(now).is_none() {
            return HashSet::new();
        }
        recent.sums(now).into_iter().filter(|(_, sum)| sum.lost > 0).map(|(id, _)| id).collect()
    }

    /// Since when probes are lost, where one was of late.
    fn lossy_since(&self, now: Timestamp) -> Option<Timestamp> {
        lock(&self.0.recent).lossy_since(now)
    }

    /// What is suspect now.
    pub fn suspects(&self) -> Suspects {
        let suspected = lock(&self.0.suspected);
        Suspects {
            directions: suspected.directions.keys().copied().collect(),
            nics: suspected.nics.keys().cloned().collect(),
        }
    }

    /// So far, and now.
    pub fn figures(&self) -> Figures {
        let Counts { plans, results, unknown_flows, suspects_refused } = &self.0.counts;
        let planned = self.planned();
        let up = planned.plan.covered.iter().filter(|covered| covered.uncovered != Some(cover::Uncovered::Down));
        let suspects = self.suspects();
        let of_jobs = |count: fn(&cover::JobPlan) -> usize| planned.plan.jobs.iter().map(count).sum::<usize>() as u64;
        Figures {
            plans: plans.load(Relaxed),
            results: results.load(Relaxed),
            unknown_flows: unknown_flows.load(Relaxed),
            suspects_refused: suspects_refused.load(Relaxed),
            flows: planned.plan.flows.len() as u64,
            suspects: (suspects.directions.len() + suspects.nics.len()) as u64,
            directions: up.clone().count() as u64,
            covered: up.filter(|covered| covered.uncovered.is_none()).count() as u64,
            packets_per_s_per_nic_most: planned.plan.packets_per_s.iter().copied().fold(0.0, f64::max),
            job_pairs: of_jobs(|job| job.pairs),
            job_pairs_left_out: of_jobs(|job| job.pairs - job.pairs_probed),
            jobs_left_out: planned.jobs_beyond,
        }
    }

    /// Plans, sends and renews until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        loop {
            let begun = tokio::time::Instant::now();
            let this = self.clone();
            // A large fabric takes a second: not on a thread that serves streams.
            if tokio::task::spawn_blocking(move || this.look(Timeline::now())).await.is_err() {
                tracing::error!("planning probes failed: hosts stop probing when their leases end");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = async { self.0.wake.notified().await; tokio::time::sleep_until(begun + REST).await } => {}
                () = tokio::time::sleep_until(begun + LOOK_EVERY) => {}
            }
        }
    }

    /// Plans where something changed, sends what is new, renews what is due.
    fn look(&self, now: Timestamp) {
        let options = lock(&self.0.options).clone();
        let suspects = {
            let mut suspected = lock(&self.0.suspected);
            let until = nanoseconds(SUSPECT_FOR);
            suspected.directions.retain(|_, at| now.0.saturating_sub(at.0) < until);
            suspected.nics.retain(|_, at| now.0.saturating_sub(at.0) < until);
            drop(suspected);
            self.suspects()
        };
        let before = self.planned();
        let planned = self.plan(&options, &suspects, &before, now);
        let is_new = !Arc::ptr_eq(&planned, &before);
        if is_new {
            *lock(&self.0.planned) = Arc::clone(&planned);
            lock(&self.0.kept).plan(&planned);
            lock(&self.0.recent).plan(planned.plan.flows.iter().map(|flow| flow.id));
            self.0.counts.plans.fetch_add(1, Relaxed);
        }
        lock(&self.0.kept).forget(now);
        self.send(&options, &planned, now);
    }

    /// The plan that fits the world as it is; the one before where nothing would change.
    fn plan(&self, options: &ProbeOptions, suspects: &Suspects, before: &Arc<Planned>, now: Timestamp) -> Arc<Planned> {
        let begun = std::time::Instant::now();
        let peers: HashMap<String, IpAddr> =
            lock(&self.0.lines).iter().map(|(host, line)| (host.to_string(), line.peer)).collect();
        let (fabric, placements) = (self.0.view.fabric(), self.0.view.placements());
        let wanted = options.planner();
        let Running { jobs, beyond: jobs_beyond, .. } = self.running(options, now);
        let mut found = view::endpoints(&self.0.live, &peers, &fabric, &wanted.transports);
        if !options.enabled {
            (found.endpoints, found.left_out) = (Vec::new(), BTreeMap::new());
        }
        let same = found.endpoints == before.endpoints
            && found.able == before.able
            && found.left_out == before.left_out
            && *suspects == before.suspects
            && wanted == before.options
            && options.has_jobs() == before.has_jobs
            && (Arc::ptr_eq(&jobs, &before.jobs) || *jobs == *before.jobs)
            && jobs_beyond == before.jobs_beyond
            && (Arc::ptr_eq(&fabric, &before.fabric) || *fabric == *before.fabric)
            && (Arc::ptr_eq(&placements, &before.placements) || *placements == *before.placements);
        if same {
            return Arc::clone(before);
        }
        let world = World {
            fabric: &fabric,
            endpoints: &found.endpoints,
            placements: &placements,
            suspects,
            // Pairs across rails that were chosen to cover links would stay as long as they do.
            before: if wanted.fleet == before.options.fleet { &before.plan.flows } else { &[] },
            jobs: &jobs,
        };
        let plan = cover::plan(world, &wanted);
        let is_as_before = *fabric == *before.fabric;
        Arc::new(Planned {
            fabric,
            placements,
            endpoints: found.endpoints,
            rails: found.rails,
            able: found.able,
            left_out: found.left_out,
            suspects: suspects.clone(),
            has_jobs: options.has_jobs(),
            jobs,
            jobs_beyond,
            options: wanted,
            plan,
            took_ms: begun.elapsed().as_secs_f64() * 1e3,
            steady_since: if is_as_before { before.steady_since } else { Timeline::now() },
        })
    }

    /// To each host its flows, where they are others than before, or where its lease needs renewal.
    fn send(&self, options: &ProbeOptions, planned: &Planned, now: Timestamp) {
        let mut by_host: HashMap<&str, Vec<v1::ProbeFlow>> = HashMap::new();
        for flow in &planned.plan.flows {
            let host = planned.endpoints[flow.from].port.node.as_str();
            by_host.entry(host).or_default().push(message(options, planned, flow));
        }
        let quiet = options.quiet_windows(now);
        for (host, line) in lock(&self.0.lines).iter_mut().filter(|(host, _)| planned.able.contains(host.as_ref())) {
            let current = Arc::clone(&line.plan.borrow());
            let plan = v1::ProbePlan {
                collector_epoch: self.0.epoch,
                revision: current.revision,
                lease_ms: options.lease_ms,
                report_every_ms: options.report_every_ms,
                packets_per_s_per_nic_max: options.probes_per_s_per_nic_max(),
                flows: by_host.remove(host.as_ref()).unwrap_or_default(),
                quiet: quiet.clone(),
            };
            let lease_ns = u64::from(options.lease_ms) * 1_000_000;
            let is_due = line.sent.is_none_or(|at| now.0.saturating_sub(at.0) >= lease_ns / RENEWALS_PER_LEASE);
            if line.sent.is_none() || *current != plan {
                let revision = self.0.revision.fetch_add(1, Relaxed) + 1;
                line.plan.send_replace(Arc::new(v1::ProbePlan { revision, ..plan }));
                line.sent = Some(now);
            } else if is_due && !plan.flows.is_empty() {
                line.plan.send_replace(current);
                line.sent = Some(now);
            }
        }
    }
}

/// A flow as its host is told of it.
fn message(options: &ProbeOptions, planned: &Planned, flow: &PlannedFlow) -> v1::ProbeFlow {
    let (from, to) = (&planned.endpoints[flow.from].port, &planned.endpoints[flow.to].port);
    v1::ProbeFlow {
        id: flow.id,
        interface: from.port.clone(),
        source: flow.flow.source.to_string(),
        source_port: flow.flow.source_port.into(),
        target_host: to.node.clone(),
        target_interface: to.port.clone(),
        destination: flow.flow.destination.to_string(),
        destination_port: flow.flow.destination_port.into(),
        transport: match flow.flow.transport {
            Transport::Udp => v1::ProbeTransport::Udp,
            Transport::Tcp => v1::ProbeTransport::Tcp,
        }
        .into(),
        size_bytes: flow.size_bytes,
        dscp: options.dscp.into(),
        interval_us: flow.interval_us,
        offset_us: flow.offset_us,
        timeout_ms: options.timeout_ms,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn port(host: &str, interface: &str) -> PortName {
    PortName { node: host.to_owned(), port: interface.to_owned() }
}

fn ends(planned: &Planned, flow: &PlannedFlow) -> [PortName; 2] {
    [flow.from, flow.to].map(|end| planned.endpoints[end].port.clone())
}

#[cfg(test)]
mod tests;
