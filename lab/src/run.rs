//! Runs a scenario on a lab of its own, from nothing to its report.
//!
//! In: a scenario, a seed, sizes. Out: a [`Report`], which other programs read. Never: a figure for what nobody measured: it is
//! null.

use crate::{
    cgroup,
    claim::{self, Coverage},
    daemons::{self, Daemon, Daemons},
    enter::{Session, enter},
    fault::{self, Loss},
    hardware::{self, Anomalies, Anomaly},
    interrupt,
    lab::{Held, Lab, Programs},
    observe,
    optic::{CLEAN_MW, LANES},
    plan::{Link, Plan, Sizes},
    progress::Step,
    routing,
    scenario::{Act, Injection, Scenario},
    verify,
};
use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};
use serde::Serialize;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How often a running fault is looked after.
const TICK: Duration = Duration::from_millis(10);
/// What the report waits for after the last second: signals on their way, rows on their way to the store.
const SETTLE: Duration = Duration::from_millis(500);

/// Nice value of a rank whose processor others take: each of them weighs as nine of it.
const ROBBED_NICE: i32 = 10;
/// How the line of a run's progress begins from which on its fault is there.
pub const FAULT_BEGINS: &str = "fault: ";
/// The longest observation that is asked for, s: a day.
const OBSERVE_S_MAX: f64 = 86_400.0;
/// Flows whose ways are captured at the end of a run without a fault.
const FLOWS: u32 = 100;

/// How a run is to go.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
#[group(id = "run")]
pub struct Options {
    /// How long the fault stays, or a run without one is watched, s; as the scenario says where absent
    #[arg(long)]
    pub observe_s: Option<f64>,
    /// Random 5-tuples whose ways are captured at the end, beside a comparison of the map with the plan; 0 for neither. 100 in a run
    /// without a fault where absent, else none
    #[arg(long)]
    pub flows: Option<u32>,
}

/// What a run found. Instants are ms after the injection.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// What was done; null in a healthy run.
    pub fault: Option<Done>,
    /// The first signal or incident at the collector that was not there before, of a host that the fault touches.
    pub sensed_ms: Option<f64>,
    /// That signal or incident, and what it is about.
    pub sensed_by: Option<String>,
    /// The first incident that blames the element at fault more than any other.
    pub located_ms: Option<f64>,
    /// Something was done about it.
    pub acted_ms: Option<f64>,
    /// The job goes as before.
    pub healed_ms: Option<f64>,
    /// What incidents blame.
    pub reported: Vec<Blame>,
    /// Whether just the element at fault is blamed; null where nothing is blamed although there was a fault.
    pub correct: Option<bool>,
    /// Blamed, and not at fault.
    pub wrong: Vec<String>,
    /// Packets that the fault took, where it counts them.
    pub packets_lost: Option<u64>,
    /// Mean time of an iteration of the job; null where none ended.
    pub iteration_ms_before: Option<f64>,
    /// While the fault was there.
    pub iteration_ms_during: Option<f64>,
    /// After it.
    pub iteration_ms_after: Option<f64>,
    /// Processor time of an agent, percent of one core, mean over all.
    pub agent_cpu_percent: Option<f64>,
    /// Probes sent, mean over all NICs; null while agents send none.
    pub probe_packets_per_s_per_nic: Option<f64>,
    /// What was claimed to be seen of the fault before it was there, and whether that is true; null without a fault, or a claim.
    pub coverage: Option<Coverage>,
    /// The map beside the plan, at the end; null where that was not compared.
    pub map: Option<verify::MapFound>,
    /// Predicted ways beside those that packets took, at the end; null likewise.
    pub paths: Option<verify::PathsFound>,
}

/// The fault.
#[derive(Debug, Serialize)]
pub struct Done {
    /// As in the scenario's file.
    pub kind: &'static str,
    /// What is at fault.
    pub element: String,
    /// After the begin of the observation.
    pub at_ms: u64,
}

/// What an incident says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blame {
    /// A link, a host, a rank: in the words of the plan.
    pub element: String,
    /// Its most likely cause.
    pub fault_mode: String,
    /// How likely.
    pub posterior: f64,
}

/// Brings a fabric and all daemons up.
///
/// # Errors
/// What does not come up, with its last words.
pub fn bring_up(name: &str, plan: Plan, programs: Programs, kernel_nexthops: bool) -> Result<(Held, Daemons)> {
    let sizes = plan.sizes;
    let held = Held::claim(name, plan, programs, kernel_nexthops)?;
    let lab = &held.lab;
    let step = Step::begin(format!(
        "lab {name}: {} switches, {} hosts with {} NICs, {} links",
        lab.plan.switches.len(),
        lab.plan.hosts.len(),
        sizes.rails,
        lab.plan.links.len()
    ));
    cgroup::make(name, lab.plan.nodes())?;
    routing::write_files(lab)?;
    crate::fabric::make(lab)?;
    step.done();
    let step = Step::begin("FRR on every switch, lldpd on every switch and host");
    routing::start(lab)?;
    step.done();
    let step = Step::begin("a collector, an agent and a rank per host");
    let daemons = Daemons::start(lab)?;
    step.done();
    let step = Step::begin("routing converges");
    routing::converge(lab)?;
    step.done();
    Ok((held, daemons))
}

/// Runs a scenario.
///
/// # Errors
/// The run itself did not work; what it found is no error.
pub fn run(scenario: &str, seed: u64, options: &Options, sizes: Sizes, programs: Programs) -> Result<Report> {
    let plan = Plan::new(sizes)?;
    let (name, mut scenario) = Scenario::find(scenario)?;
    if let Some(observe_s) = options.observe_s {
        ensure!((0.0..=OBSERVE_S_MAX).contains(&observe_s), "--observe-s is from 0 to {OBSERVE_S_MAX}");
        scenario.fault_s = observe_s;
    }
    let injection = scenario.draw(&name, &plan, seed)?;
    let lab_name = format!("run{}", std::process::id());
    let (held, mut daemons) = bring_up(&lab_name, plan, programs, scenario.kernel_nexthops)?;
    let lab = &held.lab;

    let step = Step::begin("the job iterates");
    observe::wait_for_iterations(lab, 2)?;
    step.done();
    let begin_ns = observe::now_ns()?;
    let cpu_before = daemons.agents.iter().map(|agent| observe::cpu_seconds(agent.pid())).collect::<Vec<_>>();
    let begin = Instant::now();
    let seconds = Duration::from_secs_f64;
    let at = injection.as_ref().map_or(seconds(scenario.warm_up_s), |injection| Duration::from_millis(injection.at_ms));
    let step = Step::begin(format!("{name}, seed {seed}: undisturbed for {:.1} s", at.as_secs_f64()));
    interrupt::pause(at.saturating_sub(begin.elapsed()))?;
    step.done();

    let what =
        injection.as_ref().map_or_else(|| "nothing is done".to_owned(), |at| format!("{} at {}", at.kind, at.element));
    let claim = injection.as_ref().map(|injection| claim::claim(lab, injection)).transpose()?.flatten();
    let step = Step::begin(format!("{FAULT_BEGINS}{what} for {} s", scenario.fault_s));
    let injected_ns = observe::now_ns()?;
    let injected = Instant::now();
    let mut active =
        injection.as_ref().map(|at| Active::begin(lab, &mut daemons, at, seconds(scenario.fault_s))).transpose()?;
    while injected.elapsed() < seconds(scenario.fault_s) {
        if let Some(active) = &mut active {
            active.tick(lab, injected.elapsed())?;
        }
        interrupt::pause(TICK)?;
    }
    if scenario.kernel_nexthops {
        say_lost_paths(lab)?;
    }
    let packets_lost = active.map(|active| active.end(lab, &mut daemons)).transpose()?.flatten();
    let removed_ns = observe::now_ns()?;
    step.done();

    let step = Step::begin(format!("afterwards, {} s", scenario.recovery_s));
    interrupt::pause(seconds(scenario.recovery_s) + SETTLE)?;
    let observed_s = begin.elapsed().as_secs_f64();
    daemons.connected(lab)?;
    let end_ns = observe::now_ns()?;
    let probe_packets_per_s_per_nic = observe::probes_per_s_per_nic(lab)?;
    step.done();

    let spent: Vec<f64> = daemons
        .agents
        .iter()
        .zip(cpu_before)
        .filter_map(|(agent, before)| {
            // An agent that was started again has begun anew.
            let (before, now) = (before.ok()?, observe::cpu_seconds(agent.pid()).ok()?);
            (now >= before).then(|| (now - before) * 100.0 / observed_s)
        })
        .collect();
    let flows = options.flows.unwrap_or(if injection.is_some() { 0 } else { FLOWS });
    let verdict = match flows {
        0 => None,
        flows => Some(verify::verify(lab, verify::Options { flows, seed, inventory: false })?),
    };
    let found = observe::found(lab, injection.as_ref(), begin_ns, injected_ns)?;
    let iterations = observe::Iterations::read(lab)?;
    let span = |from: u64, to: u64| iterations.mean_ms(from / 1_000_000, to / 1_000_000);
    let coverage = injection.as_ref().zip(claim).map(|(injection, claim)| claim.judge(injection, &found));
    Ok(Report {
        scenario: name,
        seed,
        sensed_ms: found.sensed_ms,
        sensed_by: found.sensed_by,
        located_ms: found.located_ms,
        acted_ms: None,
        healed_ms: None,
        correct: found.correct,
        wrong: found.wrong,
        reported: found.reported,
        packets_lost,
        iteration_ms_before: span(begin_ns, injected_ns),
        iteration_ms_during: span(injected_ns, removed_ns),
        iteration_ms_after: span(removed_ns, end_ns),
        agent_cpu_percent: (!spent.is_empty()).then(|| spent.iter().sum::<f64>() / spent.len() as f64),
        probe_packets_per_s_per_nic,
        coverage,
        map: verdict.as_ref().map(verify::Verdict::map),
        paths: verdict.as_ref().map(verify::Verdict::paths),
        fault: injection.map(|Injection { kind, element, at_ms, .. }| Done { kind, element, at_ms }),
    })
}

/// Says where the kernel has fewer paths than BGP: the fault depends on FRR's version, and must be seen to be there.
fn say_lost_paths(lab: &Lab) -> Result<()> {
    for switch in &lab.plan.switches {
        let paths = routing::paths(lab, &switch.name)?;
        let expected = routing::expected(lab, switch);
        let fewer = expected.iter().filter(|(network, count)| paths.get(*network) < Some(count)).count();
        if fewer > 0 {
            eprintln!("lab: {} has lost a nexthop to {fewer} of {} networks", switch.name, expected.len());
        }
    }
    Ok(())
}

/// A fault that is there.
struct Active<'a> {
    act: &'a Act,
    lasts: Duration,
    losses: Vec<Loss>,
    hogs: Vec<Child>,
    /// Of a flapping port: changes not made yet, the next one last.
    changes: Vec<(u64, bool)>,
    anomalies: Anomalies,
    stage: usize,
}

/// A dirty module: from which part of the fault's time on, how much light, and whether symbols are wrong and packets lost.
const DIRT: [(f64, f64, bool, bool); 6] = [
    (0.0, 0.3, false, false),
    (0.1, 0.1, false, false),
    (0.2, 0.03, false, false),
    (0.3, 0.015, false, false),
    (0.45, 0.009, true, false),
    (0.6, 0.006, true, true),
];

impl<'a> Active<'a> {
    fn begin(lab: &Lab, daemons: &mut Daemons, injection: &'a Injection, lasts: Duration) -> Result<Self> {
        let act = &injection.act;
        let mut active = Self {
            act,
            lasts,
            losses: Vec::new(),
            hogs: Vec::new(),
            changes: Vec::new(),
            anomalies: Anomalies::new(),
            stage: 0,
        };
        match act {
            Act::Loss { link, from, config } => {
                let link = link_of(lab, link)?;
                for from in from {
                    active.losses.push(Loss::attach(lab, link, from, config)?);
                }
            }
            Act::Rate { link, from, mbit_per_s } => {
                fault::limit_rate(lab, link_of(lab, link)?.end(from), Some(*mbit_per_s))?;
            }
            Act::Flap { downs, .. } => {
                for (down, up) in downs.iter().rev() {
                    active.changes.extend(up.map(|up| (up, true)));
                    active.changes.push((*down, false));
                }
            }
            Act::DirtyOptic { .. } => {}
            Act::PauseStorm { link, host, mbit_per_s } => {
                let link = link_of(lab, link)?;
                fault::limit_rate(lab, &link.b, Some(*mbit_per_s))?;
                active.anomalies = pressure(lab, link, host);
                hardware::set_anomalies(lab, &active.anomalies)?;
            }
            Act::RankHang { rank } => daemons.ranks[*rank].signal(Signal::SIGSTOP)?,
            Act::SlowRank { rank, hogs } => active.hogs = hog(lab, &daemons.ranks[*rank], *hogs)?,
            Act::GpuMemory { rank } => daemons.ranks[*rank].signal(Signal::SIGUSR1)?,
            Act::AgentDeath { rank } => {
                daemons.agents[*rank].signal(Signal::SIGKILL)?;
                daemons.agents[*rank].wait()?;
            }
            Act::CollectorRestart => {
                daemons.collector.signal(Signal::SIGTERM)?;
                daemons.collector.wait()?;
                daemons.collector = daemons::start_collector(lab)?;
            }
        }
        Ok(active)
    }

    /// What happens while it lasts.
    fn tick(&mut self, lab: &Lab, elapsed: Duration) -> Result<()> {
        match self.act {
            Act::Flap { link, at, .. } => {
                let end = link_of(lab, link)?.end(at);
                while let Some((_, up)) = self.changes.pop_if(|(at, _)| u128::from(*at) <= elapsed.as_millis()) {
                    fault::set_port(lab, end, up)?;
                }
            }
            Act::DirtyOptic { link, host, port, lane, config } => {
                let part = elapsed.as_secs_f64() / self.lasts.as_secs_f64();
                let stages = DIRT.iter().take_while(|(from, ..)| *from <= part).count();
                if stages == self.stage {
                    return Ok(());
                }
                self.stage = stages;
                let (_, light_mw, symbols, loses) = DIRT[stages - 1];
                let mut received_mw = [CLEAN_MW; LANES];
                received_mw[*lane] = light_mw;
                let mut rising = std::collections::BTreeMap::new();
                if symbols {
                    rising.insert("counters/symbol_error".to_owned(), 200.0);
                }
                let anomaly = Anomaly { received_mw: Some(received_mw), rising };
                self.anomalies = [(host.clone(), [(port.clone(), anomaly)].into())].into();
                hardware::set_anomalies(lab, &self.anomalies)?;
                if loses && self.losses.is_empty() {
                    let link = link_of(lab, link)?;
                    // What the module receives comes from the leaf.
                    self.losses.push(Loss::attach(lab, link, &link.b.node, config)?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes it away; packets that it took, where it counts them.
    fn end(mut self, lab: &Lab, daemons: &mut Daemons) -> Result<Option<u64>> {
        for hog in &mut self.hogs {
            hog.kill()?;
            hog.wait()?;
        }
        if !self.anomalies.is_empty() {
            hardware::set_anomalies(lab, &Anomalies::new())?;
        }
        match self.act {
            Act::Loss { .. } | Act::DirtyOptic { .. } => {
                let lost = self.losses.into_iter().map(|loss| loss.remove().map(|counts| counts.lost));
                return lost.sum::<Result<u64>>().map(Some);
            }
            Act::Rate { link, from, .. } => return end_limit(lab, link, from).map(Some),
            Act::PauseStorm { link, .. } => {
                let leaf = link_of(lab, link)?.b.node.clone();
                return end_limit(lab, link, &leaf).map(Some);
            }
            Act::Flap { link, at, .. } => fault::set_port(lab, link_of(lab, link)?.end(at), true)?,
            Act::RankHang { rank } => daemons.ranks[*rank].signal(Signal::SIGCONT)?,
            Act::GpuMemory { rank } => daemons.ranks[*rank].signal(Signal::SIGUSR2)?,
            Act::AgentDeath { rank } => daemons.agents[*rank] = daemons::start_agent(lab, &lab.plan.hosts[*rank])?,
            Act::SlowRank { rank, .. } => {
                let mut all = CpuSet::new();
                for cpu in 0..CpuSet::count() {
                    all.set(cpu)?;
                }
                sched_setaffinity(daemons.ranks[*rank].pid(), &all)?;
                set_nice(daemons.ranks[*rank].pid(), 0)?;
            }
            Act::CollectorRestart => {}
        }
        Ok(None)
    }
}

fn end_limit(lab: &Lab, link: &str, from: &str) -> Result<u64> {
    let end = link_of(lab, link)?.end(from);
    let dropped = fault::dropped_by_limit(lab, end)?;
    fault::limit_rate(lab, end, None)?;
    Ok(dropped)
}

fn link_of<'a>(lab: &'a Lab, name: &str) -> Result<&'a Link> {
    Ok(lab.plan.link(name).with_context(|| format!("the plan has no link {name}"))?.0)
}

/// What the NICs count while one of them makes its leaf wait: it tells the senders to slow down, and they wait.
fn pressure(lab: &Lab, link: &Link, victim: &str) -> Anomalies {
    let of = |host: &str| {
        let rising: &[(&str, f64)] = if host == victim {
            &[("hw_counters/np_cnp_sent", 20_000.0), ("hw_counters/np_ecn_marked_roce_packets", 20_000.0)]
        } else {
            &[("hw_counters/rp_cnp_handled", 15_000.0), ("counters/port_xmit_wait", 2e6)]
        };
        Anomaly { received_mw: None, rising: rising.iter().map(|(path, rate)| ((*path).to_owned(), *rate)).collect() }
    };
    let port_of = |rail: u32| move |nic: &&crate::plan::Nic| nic.rail == rail;
    lab.plan
        .hosts
        .iter()
        .filter_map(|host| {
            let nic = host.nics.iter().find(port_of(link.rail))?;
            Some((host.name.clone(), [(nic.port.clone(), of(&host.name))].into()))
        })
        .collect()
}

/// Sets the nice value of a process, and of its session where the kernel schedules by sessions (sched(7), autogroup), which is every
/// daemon's own here.
fn set_nice(pid: Pid, nice: i32) -> Result<()> {
    let status =
        Command::new("renice").args(["-n", &nice.to_string(), "-p", &pid.to_string()]).stdout(Stdio::null()).status();
    ensure!(status.context("start `renice`")?.success(), "renice does not set {pid} to {nice}");
    let autogroup = format!("/proc/{pid}/autogroup");
    if Path::new(&autogroup).exists() {
        fs::write(&autogroup, nice.to_string()).with_context(|| format!("write {autogroup}"))?;
    }
    Ok(())
}

/// Starts processes that do nothing but work, on the one processor that the rank may use from now on. They go before it: of the same
/// weight they change little, as the scheduler lets a process that mostly sleeps go first.
fn hog(lab: &Lab, rank: &Daemon, count: u32) -> Result<Vec<Child>> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(rank.pid(), &cpus).context("bind the rank to one processor")?;
    set_nice(rank.pid(), ROBBED_NICE)?;
    (0..count)
        .map(|_| {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            enter(lab, &rank.node, Session::Own, &mut command)?;
            let hog = command.spawn().context("start a process that works")?;
            sched_setaffinity(Pid::from_raw(hog.id().cast_signed()), &cpus)?;
            Ok(hog)
        })
        .collect()
}
