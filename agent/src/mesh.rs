//! Planned probes: the agent's end of the collector's plans and traces.
//!
//! In: plans and requests for traces from the uplink. Out: flows for the mesh's thread; its results and signals, as the wire
//! says them; and [`Shared::probe`], what this host can do for probes. Never: an end of the agent because it cannot probe, or a
//! message beyond the wire's limits.

use crate::config::Probe as Config;
use crate::convert::{self, cut};
use crate::outbox::Outbox;
use crate::page::{Page, labels};
use crate::privileges::Limitation;
use crate::probe::{Answers, ResponderRoom};
use crate::shared::Shared;
use railwatch_probe::{
    FlowResult, FlowSpec, Key, Mesh, MeshPlan, MeshState, Outlet, ProbeSignal, Protocol, Quiet, TRACE_HOPS_MAX,
    TimesResult, TraceOptions, TraceSpec, Transport, Way,
};
use railwatch_sampling::Severity;
use railwatch_uplink::Probes;
use railwatch_wire::{limits, v1};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const _: () = assert!(railwatch_probe::FLOWS_MAX <= limits::PROBE_FLOWS_MAX);
const _: () = assert!(railwatch_probe::QUIET_MAX <= limits::QUIET_WINDOWS_MAX);
const _: () = assert!(railwatch_probe::TRACE_FLOWS_MAX <= limits::TRACE_FLOWS_MAX);
const _: () = assert!(TRACE_HOPS_MAX as usize <= limits::TRACE_HOPS_MAX);

/// Results of flows in one message: some tens of kilobytes, so that a signal never waits behind much.
const RESULTS_AT_ONCE: usize = 256;
/// A trace takes so long at most, whatever is asked.
const TRACE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The mesh, where this host probes.
pub struct MeshRoom {
    desk: Option<Arc<Desk>>,
    /// Why not otherwise, and what else is off from the start.
    off: Vec<Limitation>,
}

impl MeshRoom {
    /// Starts it where probes are on, and takes plans from the uplink.
    pub fn start(config: &Config, shared: &Arc<Shared>, outbox: &Arc<Outbox>) -> Self {
        if !config.enabled {
            let why = "off in this agent's configuration: [probe] enabled = true turns it on".to_owned();
            return Self { desk: None, off: vec![Limitation::new("probes", why)] };
        }
        let started = Key::read(&config.key_file).map_err(|error| error.to_string()).and_then(|key| {
            let max = u32::try_from(config.packets_per_s_per_nic_max).unwrap_or(u32::MAX);
            let mesh = Mesh::start(key.clone(), max, Box::new(Out(Arc::clone(outbox))));
            let mesh = mesh.map_err(|error| format!("start the thread that probes: {error}"))?;
            Ok(Arc::new(Desk { mesh, key, responder_port: config.listen.port() }))
        });
        match started {
            Ok(desk) => {
                outbox.uplink().set_probes(desk.clone());
                Self { desk: Some(desk), off: vec![] }
            }
            Err(why) => {
                let off = vec![Limitation::new("planned probes", why)];
                shared.set_limitations("probe.mesh", off.clone());
                Self { desk: None, off }
            }
        }
    }

    /// Writes what this host can do for probes, as it is now.
    pub fn write(&self, responder: Option<&ResponderRoom>, shared: &Shared) {
        let state = self.desk.as_ref().map(|desk| desk.mesh.state()).unwrap_or_default();
        let lapsed = self.desk.as_ref().map_or(0, |desk| desk.mesh.counts().plans_lapsed.load(Relaxed));
        let answers = responder.map(ResponderRoom::answers).unwrap_or_default();
        shared.probe.set(probe_state(&state, lapsed, answers, &self.off));
    }

    /// For the page.
    pub fn mesh(&self) -> Option<Arc<Desk>> {
        self.desk.clone()
    }

    /// Ends it.
    pub fn stop(&self) {
        if let Some(desk) = &self.desk {
            desk.mesh.stop();
        }
    }
}

fn probe_state(state: &MeshState, lapsed: u64, answers: Answers, off: &[Limitation]) -> v1::ProbeState {
    let MeshState { revision, flows: _, off: flows_off, off_count, failed } = state;
    let limitation = |what: &str, why: String| convert::limitation(what.to_owned(), why);
    let named = flows_off.iter().map(|(id, why)| limitation(&format!("probe flow {id}"), why.clone()));
    let more = off_count.saturating_sub(flows_off.len());
    let more = (more > 0).then(|| limitation("probe flows", format!("{more} more flows of the plan cannot be probed")));
    let failed = failed.iter().map(|why| limitation("planned probes", why.clone()));
    v1::ProbeState {
        answers: answers.over_v4,
        port: answers.port.into(),
        tcp_port: answers.tcp_port.into(),
        off: off.iter().map(Into::into).chain(failed).chain(named).chain(more).collect(),
        plan_revision: *revision,
        lapsed_plans: lapsed,
        answers_v6: answers.over_v6,
    }
}

/// Takes what the collector asks.
pub struct Desk {
    mesh: Mesh,
    key: Key,
    responder_port: u16,
}

impl Probes for Desk {
    fn plan(&self, plan: v1::ProbePlan) {
        let (epoch, revision, flows) = (plan.collector_epoch, plan.revision, plan.flows.len());
        if !self.mesh.plan(read_plan(&plan)) {
            tracing::warn!(epoch, revision, "a plan of probes is refused: a later one was taken before");
        } else {
            tracing::debug!(epoch, revision, flows, "a plan of probes");
        }
    }

    fn trace(&self, request: &v1::TraceRequest) -> v1::TraceResult {
        let options = TraceOptions {
            key: Some(&self.key),
            responder_port: self.responder_port,
            hops_max: u8::try_from(request.hops_max).unwrap_or(TRACE_HOPS_MAX),
            timeout: Duration::from_millis(request.timeout_ms.into()).min(TRACE_TIMEOUT_MAX),
        };
        // Those that cannot be read have their place in the answer.
        let specs: Vec<_> = request.flows.iter().map(read_trace).collect();
        let good: Vec<_> = specs.iter().filter_map(|spec| spec.as_ref().ok().cloned()).collect();
        match railwatch_probe::trace(&good, &options) {
            Ok(ways) => {
                let mut ways = ways.into_iter();
                let of = |spec: Result<TraceSpec, String>| match spec {
                    Ok(_) => traced(ways.next().unwrap_or_default()),
                    Err(why) => v1::Traced { failed: cut(why, limits::TEXT_BYTES_MAX), ..v1::Traced::default() },
                };
                v1::TraceResult { id: request.id, flows: specs.into_iter().map(of).collect(), refused: String::new() }
            }
            Err(why) => {
                let refused = cut(why, limits::TEXT_BYTES_MAX);
                v1::TraceResult { id: request.id, flows: vec![], refused }
            }
        }
    }

    fn forget(&self) {
        self.mesh.forget();
    }
}

/// What became of planned probes, for the page.
pub fn show(page: &mut Page, desk: &Desk) {
    let counts = desk.mesh.counts();
    let one = |label: &'static str, name, count: &AtomicU64| (labels([(label, name)]), count.load(Relaxed));
    page.counter(
        "agent_probes",
        "Probes as planned, by what became of them: sent, then answered or lost or, without a word on the fabric, unsent; or left out",
        None,
        [
            one("result", "sent", &counts.sent),
            one("result", "answered", &counts.answered),
            one("result", "lost", &counts.lost),
            one("result", "unsent", &counts.unsent),
            one("result", "over_budget", &counts.over_budget),
            one("result", "quiet", &counts.quiet),
        ],
    );
    page.counter(
        "agent_probe_plans",
        "Plans of probes that came, by what became of them; lapsed ones ended because nobody renewed them",
        None,
        [
            one("result", "taken", &counts.plans_taken),
            one("result", "renewed", &counts.plans_renewed),
            one("result", "refused", &counts.plans_refused),
            one("result", "lapsed", &counts.plans_lapsed),
        ],
    );
    let MeshState { flows, off_count, .. } = desk.mesh.state();
    page.gauge(
        "agent_probe_flows",
        "Flows of the plan, probed and those that cannot be",
        None,
        [(labels([("state", "probed")]), flows as u64), (labels([("state", "off")]), off_count as u64)],
    );
}

/// From the mesh's thread to the uplink.
struct Out(Arc<Outbox>);

impl Outlet for Out {
    fn results(&mut self, revision: u64, from_ns: u64, to_ns: u64, flows: Vec<FlowResult>) {
        for flows in flows.chunks(RESULTS_AT_ONCE) {
            let results = v1::ProbeResults {
                plan_revision: revision,
                from_mono_ns: from_ns,
                to_mono_ns: to_ns,
                flows: flows.iter().map(result).collect(),
            };
            // Counted by the uplink; results are state, and the next ones say how it stands then.
            let _ = self.0.uplink().probe_results(results);
        }
    }

    fn signal(&mut self, signal: ProbeSignal) {
        // Counted in the loss book where it finds no place.
        let _ = self.0.signal_new(wire_signal(signal));
    }
}

fn wire_signal(signal: ProbeSignal) -> v1::Signal {
    let ProbeSignal { name, interface, severity, at_ns, lost, summary, attributes, suppressed } = signal;
    let severity = match severity {
        Severity::Info => v1::Severity::Info,
        Severity::Warning => v1::Severity::Warning,
        Severity::Error => v1::Severity::Error,
        Severity::Critical => v1::Severity::Critical,
    };
    let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), cut(value, limits::TEXT_BYTES_MAX)));
    v1::Signal {
        name: name.to_owned(),
        entity: Some(v1::Entity { kind: "port".to_owned(), name: interface.to_string() }),
        severity: severity.into(),
        observed_mono_ns: at_ns,
        half_width_ns: 0,
        #[expect(clippy::cast_precision_loss, reason = "a count for people")]
        value: lost as f64,
        previous: None,
        unit: "{packet}".to_owned(),
        summary: cut(summary, limits::TEXT_BYTES_MAX),
        attributes: attributes.collect(),
        incomplete_since_mono_ns: None,
        suppressed,
    }
}

fn result(flow: &FlowResult) -> v1::ProbeFlowResult {
    let times = |times: &TimesResult| {
        let TimesResult { count, min_ns, p50_ns, p99_ns, max_ns, sum_ns } = *times;
        (count > 0).then_some(v1::ProbeTimes { count, min_ns, p50_ns, p99_ns, max_ns, sum_ns })
    };
    v1::ProbeFlowResult {
        id: flow.id,
        sent: flow.sent,
        answered: flow.answered,
        lost: flow.lost,
        unsent: flow.unsent,
        lost_there: flow.lost_there_back.map(|(there, _)| there),
        lost_back: flow.lost_there_back.map(|(_, back)| back),
        fabric: times(&flow.fabric),
        prober: times(&flow.prober),
        answerer: times(&flow.answerer),
        round_trip: times(&flow.round_trip),
        there_above_least: times(&flow.there_above_least),
        back_above_least: times(&flow.back_above_least),
    }
}

fn read_plan(plan: &v1::ProbePlan) -> MeshPlan {
    let (mut flows, mut malformed) = (Vec::with_capacity(plan.flows.len()), Vec::new());
    // Hosts and interfaces are few, flows many: each name is kept once.
    let mut names: HashMap<&str, Arc<str>> = HashMap::new();
    for flow in &plan.flows {
        let mut name = |text| Arc::clone(names.entry(text).or_insert_with(|| Arc::from(text)));
        match read_flow(flow, &mut name) {
            Ok(spec) => flows.push(spec),
            Err(why) => malformed.push((flow.id, why)),
        }
    }
    MeshPlan {
        epoch: plan.collector_epoch,
        revision: plan.revision,
        lease: Duration::from_millis(plan.lease_ms.into()),
        report_every: Duration::from_millis(plan.report_every_ms.into()),
        packets_per_s_per_nic_max: plan.packets_per_s_per_nic_max,
        flows,
        quiet: plan
            .quiet
            .iter()
            .map(|quiet| Quiet { from_unix_ns: quiet.from_unix_ns, to_unix_ns: quiet.to_unix_ns })
            .collect(),
        malformed,
    }
}

fn read_flow<'a>(flow: &'a v1::ProbeFlow, name: &mut impl FnMut(&'a str) -> Arc<str>) -> Result<FlowSpec, String> {
    let transport = match flow.transport() {
        v1::ProbeTransport::Udp => Transport::Udp,
        v1::ProbeTransport::Tcp => Transport::Tcp,
        v1::ProbeTransport::Unspecified => return Err("its transport is not known to this version".into()),
    };
    for text in [&flow.interface, &flow.target_host, &flow.target_interface] {
        if text.is_empty() || text.len() > limits::NAME_BYTES_MAX {
            return Err(format!("a name of it has not 1 to {} bytes", limits::NAME_BYTES_MAX));
        }
    }
    let microseconds = |us: u32| Duration::from_micros(us.into());
    Ok(FlowSpec {
        id: flow.id,
        interface: name(&flow.interface),
        source: address(&flow.source)?,
        source_port: port(flow.source_port)?,
        target_host: name(&flow.target_host),
        target_interface: name(&flow.target_interface),
        destination: SocketAddr::new(address(&flow.destination)?, port(flow.destination_port)?),
        transport,
        size_bytes: flow.size_bytes as usize,
        dscp: u8::try_from(flow.dscp).unwrap_or(u8::MAX),
        interval: microseconds(flow.interval_us),
        offset: microseconds(flow.offset_us),
        timeout: Duration::from_millis(flow.timeout_ms.into()),
    })
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{:?} is no address", cut(text.to_owned(), 64)))
}

fn port(number: u32) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("{number} is no port"))
}

fn read_trace(flow: &v1::TraceFlow) -> Result<TraceSpec, String> {
    let end = |text: &str, number| Ok::<_, String>(SocketAddr::new(address(text)?, port(number)?));
    let (source, destination) = (end(&flow.source, flow.source_port)?, end(&flow.destination, flow.destination_port)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err("its source and destination are of two families".into());
    }
    Ok(TraceSpec {
        interface: flow.interface.clone(),
        source,
        destination,
        protocol: match flow.transport() {
            v1::ProbeTransport::Udp => Protocol::Udp,
            v1::ProbeTransport::Tcp => Protocol::Tcp,
            v1::ProbeTransport::Unspecified => return Err("its transport is not known to this version".into()),
        },
        dscp: u8::try_from(flow.dscp).ok().filter(|dscp| *dscp < 64).ok_or("its DSCP is not 0 to 63")?,
    })
}

fn traced(way: Way) -> v1::Traced {
    let Way { hops, reached, failed } = way;
    let hop = |hop: railwatch_probe::Hop| v1::TraceHop {
        address: hop.address.map(|address| address.to_string()).unwrap_or_default(),
        round_trip_ns: hop.round_trip_ns,
    };
    v1::Traced {
        hops: hops.into_iter().map(hop).collect(),
        reached,
        failed: cut(failed.unwrap_or_default(), limits::TEXT_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(id: u64) -> v1::ProbeFlow {
        v1::ProbeFlow {
            id,
            interface: "eth0".into(),
            source: "10.0.0.1".into(),
            source_port: 40_000,
            target_host: "b".into(),
            target_interface: "eth1".into(),
            destination: "10.0.0.2".into(),
            destination_port: 7704,
            transport: v1::ProbeTransport::Udp.into(),
            size_bytes: 1024,
            dscp: 26,
            interval_us: 100_000,
            offset_us: 1_500,
            timeout_ms: 200,
        }
    }

    #[test]
    fn a_plan_is_read_flow_by_flow_and_a_bad_one_is_named() {
        let bad = [
            v1::ProbeFlow { source: "eth0".into(), ..flow(2) },
            v1::ProbeFlow { destination_port: 70_000, ..flow(3) },
            v1::ProbeFlow { transport: 0, ..flow(4) },
            v1::ProbeFlow { target_host: String::new(), ..flow(5) },
        ];
        let plan = v1::ProbePlan {
            collector_epoch: 3,
            revision: 9,
            lease_ms: 5000,
            flows: [flow(1)]
                .into_iter()
                .chain(bad)
                .chain([v1::ProbeFlow { transport: v1::ProbeTransport::Tcp.into(), ..flow(6) }])
                .collect(),
            ..v1::ProbePlan::default()
        };
        let read = read_plan(&plan);
        assert_eq!((read.epoch, read.revision, read.lease), (3, 9, Duration::from_secs(5)));
        assert_eq!(read.flows.iter().map(|flow| flow.id).collect::<Vec<_>>(), [1, 6]);
        assert_eq!(read.flows[0].destination, SocketAddr::from(([10, 0, 0, 2], 7704)));
        assert_eq!(read.flows[0].offset, Duration::from_micros(1500));
        assert_eq!(read.flows[0].fault(), None);
        assert_eq!(read.flows.iter().map(|f| f.transport).collect::<Vec<_>>(), [Transport::Udp, Transport::Tcp]);
        assert_eq!(read.malformed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3, 4, 5]);
        let said: Vec<_> = read.malformed.iter().map(|(_, why)| why.as_str()).collect();
        for (why, expected) in said.iter().zip(["is no address", "is no port", "transport", "a name of it"]) {
            assert!(why.contains(expected), "{said:?}");
        }
    }

    #[test]
    fn what_cannot_be_probed_is_said_in_the_state_and_bounded() {
        let state = MeshState {
            revision: 7,
            flows: 3,
            off: vec![(2, "bad".into()), (3, "worse".into())],
            off_count: 9,
            failed: None,
        };
        let answers = Answers { port: 7704, over_v4: true, over_v6: false, tcp_port: 7704 };
        let told = probe_state(&state, 2, answers, &[]);
        let off: Vec<_> = told.off.iter().map(|off| (off.what.as_str(), off.why.as_str())).collect();
        assert_eq!(off[..2], [("probe flow 2", "bad"), ("probe flow 3", "worse")]);
        assert!(off.len() == 3 && off[2].1.starts_with("7 more flows"), "{off:?}");
        assert_eq!((told.answers, told.port, told.plan_revision, told.lapsed_plans), (true, 7704, 7, 2));
        assert_eq!((told.tcp_port, told.answers_v6), (7704, false));
        let off = [Limitation::new("probes", "off")];
        let told = probe_state(&MeshState::default(), 0, Answers::default(), &off);
        assert_eq!((told.answers, told.port, told.off.len()), (false, 0, 1));
    }

    #[test]
    fn a_flow_that_cannot_be_traced_says_why() {
        let flow = v1::TraceFlow {
            source: "10.0.0.1".into(),
            destination: "10.0.0.2".into(),
            transport: v1::ProbeTransport::Udp.into(),
            ..v1::TraceFlow::default()
        };
        assert!(read_trace(&flow).is_ok());
        let over_v6 = v1::TraceFlow {
            source: "fd00::1".into(),
            destination: "fd00::2".into(),
            destination_port: 1,
            ..flow.clone()
        };
        assert!(read_trace(&over_v6).is_ok_and(|spec| spec.destination.to_string() == "[fd00::2]:1"));
        for (flow, expected) in [
            (v1::TraceFlow { destination: "fd00::1".into(), ..flow.clone() }, "two families"),
            (v1::TraceFlow { transport: 0, ..flow.clone() }, "transport"),
            (v1::TraceFlow { dscp: 64, ..flow }, "DSCP"),
        ] {
            assert!(read_trace(&flow).is_err_and(|why| why.contains(expected)), "{expected}");
        }
    }
}
