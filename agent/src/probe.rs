//! Probes: the responder beside the agent's other rooms, and the command that probes a host by hand.
//!
//! In: the configuration, or what a person typed. Out: answers, and their counts; or a report. Never: an end of the agent
//! because its key or port is missing.

use crate::cli::Output;
use crate::config::Probe as Config;
use crate::page::{Page, labels};
use crate::privileges::Limitation;
use crate::shared::Shared;
use anyhow::{Context, Result, bail};
use clap::Args;
#[cfg(feature = "verbs")]
use railwatch_probe::verbs::{Lender, LenderState, has_devices};
use railwatch_probe::{
    ConnectionCounts, Counts, Key, Limits, PER_SOURCE_MAX, Plan, Protocol, Quantiles, Report, Responder, StampedSocket,
    StreamResponder, TRACE_HOPS_MAX, TraceOptions, TraceSpec, Transport,
};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
#[cfg(feature = "verbs")]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// What own datagrams carry: an answer takes the class of its probe.
const TOS: u8 = 0;
/// Port of responders where the target names none.
const PORT: u16 = 7704;

/// The responder, on a thread of its own for each family of addresses.
pub struct ResponderRoom {
    threads: Vec<(JoinHandle<()>, SocketAddr)>,
    stop: Arc<AtomicBool>,
    counts: AnswerCounts,
    /// Those over TCP, at the same port and addresses.
    streams: Vec<(JoinHandle<()>, SocketAddr)>,
    #[cfg(feature = "verbs")]
    lender: Option<Arc<LenderState>>,
}

/// Where probes are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// UDP port; 0: nowhere.
    pub port: u16,
    /// Over IPv4.
    pub over_v4: bool,
    /// Over IPv6.
    pub over_v6: bool,
    /// TCP port, of each family that has one; 0: nowhere.
    pub tcp_port: u16,
    /// Over TCP and IPv4.
    pub tcp_v4: bool,
    /// Over TCP and IPv6.
    pub tcp_v6: bool,
}

/// What became of the probes that came in.
#[derive(Clone, Debug, Default)]
pub struct AnswerCounts {
    datagrams: Arc<Counts>,
    /// Of the responder of each family.
    streams: Vec<StreamCounts>,
}

/// Of one that answers over TCP: frames, and connections.
type StreamCounts = (Arc<Counts>, Arc<ConnectionCounts>);

/// What limits the lending of queue pairs, in the list of limitations.
#[cfg(feature = "verbs")]
const LENDING: &str = "answers to probes over RDMA";

impl ResponderRoom {
    /// Starts it, where it is wanted and can be; why not otherwise is among the limitations.
    pub fn start(config: &Config, shared: &Arc<Shared>) -> Option<Self> {
        if !config.enabled {
            return None;
        }
        match Self::try_start(config, shared) {
            Ok(room) => Some(room),
            Err(error) => {
                let why = format!("{error:#}");
                shared.set_limitations("probe", vec![Limitation::new("answers to probes", why)]);
                None
            }
        }
    }

    fn try_start(config: &Config, shared: &Arc<Shared>) -> Result<Self> {
        let key = Key::read(&config.key_file)?;
        let mut room = Self {
            threads: Vec::new(),
            stop: Arc::default(),
            counts: AnswerCounts::default(),
            streams: Vec::new(),
            #[cfg(feature = "verbs")]
            lender: None,
        };
        let listen = room.answer_at(config.listen, &key, config, shared)?;
        // All addresses of the host are those of both families, which have a socket each.
        let other: Option<IpAddr> = match listen.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some(Ipv6Addr::UNSPECIFIED.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some(Ipv4Addr::UNSPECIFIED.into()),
            _ => None,
        };
        if let Some(other) = other
            && let Err(error) = room.answer_at(SocketAddr::new(other, listen.port()), &key, config, shared)
        {
            let family = if other.is_ipv6() { "IPv6" } else { "IPv4" };
            let what = format!("answers to probes over {family}");
            shared.set_limitations("probe.family", vec![Limitation::new(what, format!("{error:#}"))]);
        }
        Ok(room)
    }

    fn answer_at(
        &mut self,
        listen: SocketAddr,
        key: &Key,
        config: &Config,
        shared: &Arc<Shared>,
    ) -> Result<SocketAddr> {
        let socket = StampedSocket::bind(listen, TOS).with_context(|| format!("listen for probes on {listen}"))?;
        let listen = socket.local()?;
        let per_source_per_s = u32::try_from(config.answers_per_source_per_s).unwrap_or(u32::MAX);
        let limits = Limits { per_source_per_s, ..Limits::default() };
        #[cfg_attr(not(feature = "verbs"), expect(unused_mut, reason = "it is told by what to lend"))]
        let mut responder =
            Responder::new(socket, key.clone(), limits).counted_with(Arc::clone(&self.counts.datagrams));
        #[cfg(feature = "verbs")]
        if self.threads.is_empty() {
            self.lender = lend(config, &mut responder, shared);
        }
        match start_streams(listen, key.clone(), limits, shared, &self.stop) {
            Ok((thread, counts)) => {
                self.streams.push((thread, listen));
                self.counts.streams.push(counts);
            }
            Err(error) => tcp_is_off(listen, format!("{error:#}"), shared),
        }
        let (stop, shared) = (Arc::clone(&self.stop), Arc::clone(shared));
        let run = move || {
            if let Err(error) = responder.run(&stop) {
                let why = format!("its socket at {listen} can be used no more: {error}");
                shared.set_limitations("probe", vec![Limitation::new("answers to probes", why)]);
            }
        };
        let thread = std::thread::Builder::new().name("probe-answers".into()).spawn(run).context("start a thread")?;
        self.threads.push((thread, listen));
        tracing::info!("probes are answered at {listen}");
        Ok(listen)
    }

    /// Writes whether queue pairs are lent, where that changed.
    #[cfg(feature = "verbs")]
    pub fn tell(&self, shared: &Shared) {
        let Some(lender) = &self.lender else { return };
        let limitations: Vec<_> = lender.off().map(|why| Limitation::new(LENDING, why)).into_iter().collect();
        if shared.limitations_of("probe.verbs") != limitations {
            shared.set_limitations("probe.verbs", limitations);
        }
    }

    /// For the page.
    pub fn counts(&self) -> AnswerCounts {
        self.counts.clone()
    }

    /// Where it answers now.
    pub fn answers(&self) -> Answers {
        let tcp_port = alive(&self.streams).next().map_or(0, |listen| listen.port());
        let (over_v4, over_v6) =
            (alive(&self.threads).any(|at| at.is_ipv4()), alive(&self.threads).any(|at| at.is_ipv6()));
        let port = alive(&self.threads).next().map_or(0, |listen| listen.port());
        let (tcp_v4, tcp_v6) =
            (alive(&self.streams).any(|at| at.is_ipv4()), alive(&self.streams).any(|at| at.is_ipv6()));
        Answers { port, over_v4, over_v6, tcp_port, tcp_v4, tcp_v6 }
    }

    /// Ends it.
    pub fn stop(self) {
        self.stop.store(true, Relaxed);
        for (thread, _) in self.threads.into_iter().chain(self.streams) {
            if thread.join().is_err() {
                tracing::error!("a thread that answers probes had ended by a defect of its own");
            }
        }
    }
}

/// Lets members borrow queue pairs, where the host has RDMA devices and a helper is asked for; why not otherwise is among the
/// limitations. A host without such devices lacks nothing.
#[cfg(feature = "verbs")]
fn lend(config: &Config, responder: &mut Responder, shared: &Shared) -> Option<Arc<LenderState>> {
    if !has_devices(Path::new("/sys")) {
        return None;
    }
    let limited = |why| shared.set_limitations("probe.verbs", vec![Limitation::new(LENDING, why)]);
    let path = &config.verbs_socket;
    if path.as_os_str().is_empty() {
        limited("probe.verbs_socket is empty: set it, and start its helper, railwatch-verbs.service".to_owned());
        return None;
    }
    match Lender::bind(path) {
        Ok(lender) => {
            let state = lender.state();
            responder.lend_by(lender);
            Some(state)
        }
        Err(error) => {
            let path = path.display();
            limited(format!(
                "listen on {path}: {error}; set probe.verbs_socket to a path in a folder of the agent's own"
            ));
            None
        }
    }
}

/// Where those answer that still run.
fn alive(threads: &[(JoinHandle<()>, SocketAddr)]) -> impl Iterator<Item = SocketAddr> {
    threads.iter().filter(|(thread, _)| !thread.is_finished()).map(|(_, listen)| *listen)
}

/// Says why connections are not answered at an address, by its family.
fn tcp_is_off(listen: SocketAddr, why: String, shared: &Shared) {
    let (room, what) = match listen {
        SocketAddr::V4(_) => ("probe.tcp", "answers to probes over TCP"),
        SocketAddr::V6(_) => ("probe.tcp.v6", "answers to probes over TCP and IPv6"),
    };
    shared.set_limitations(room, vec![Limitation::new(what, why)]);
}

/// The responder over TCP, on a thread of its own.
fn start_streams(
    listen: SocketAddr,
    key: Key,
    limits: Limits,
    shared: &Arc<Shared>,
    stop: &Arc<AtomicBool>,
) -> Result<(JoinHandle<()>, StreamCounts)> {
    let responder = StreamResponder::listen(listen, key, limits, PER_SOURCE_MAX)
        .with_context(|| format!("listen for probes over TCP on {listen}"))?;
    let counts = (responder.counts(), responder.connections());
    let (stop, shared) = (Arc::clone(stop), Arc::clone(shared));
    let run = move || {
        if let Err(error) = responder.run(&stop) {
            tcp_is_off(listen, format!("its connections can be used no more: {error}"), &shared);
        }
    };
    let thread = std::thread::Builder::new().name("probe-streams".into()).spawn(run).context("start a thread")?;
    Ok((thread, counts))
}

/// What may become of a probe that came in: its name, and where it is counted.
type Became = (&'static str, fn(&Counts) -> &AtomicU64);

/// All of that, over whatever probes came.
const BECAME: [Became; 7] = [
    ("answered", |counts| &counts.answered),
    ("not_a_probe", |counts| &counts.not_probes),
    ("wrong_code", |counts| &counts.wrong_code),
    ("answer", |counts| &counts.answers),
    ("over_rate", |counts| &counts.over_rate),
    ("over_checks", |counts| &counts.over_checks),
    ("unsent", |counts| &counts.unsent),
];

/// What became of the probes that came in, for the page.
pub fn show(page: &mut Page, counts: &AnswerCounts) {
    let AnswerCounts { datagrams: counts, streams } = counts;
    let result = |name, count: &AtomicU64| (labels([("result", name)]), count.load(Relaxed));
    page.counter(
        "agent_probe_datagrams",
        "Datagrams that came in for the responder, by what became of them",
        None,
        BECAME
            .map(|(name, count)| result(name, count(counts)))
            .into_iter()
            .chain([result("queue_pair", &counts.queue_pairs), result("replayed", &counts.replayed)]),
    );
    let of_frames = |name, count: fn(&Counts) -> &AtomicU64| {
        let sum = streams.iter().map(|(frames, _)| count(frames).load(Relaxed)).sum::<u64>();
        (labels([("result", name)]), sum)
    };
    page.counter(
        "agent_probe_frames",
        "Probes over TCP that came in for the responder, by what became of them",
        None,
        BECAME.map(|(name, count)| of_frames(name, count)),
    );
    let of_connections = |name, count: fn(&ConnectionCounts) -> &AtomicU64| {
        let sum = streams.iter().map(|(_, connections)| count(connections).load(Relaxed)).sum::<u64>();
        (labels([("result", name)]), sum)
    };
    page.counter(
        "agent_probe_connections",
        "Connections that came in for the responder, by what became of them: accepted are all; of those some proved the cluster's key, and the others were closed",
        None,
        [
            of_connections("accepted", |counts| &counts.accepted),
            of_connections("proved", |counts| &counts.proved),
            of_connections("stranger", |counts| &counts.strangers),
            of_connections("full", |counts| &counts.full),
            of_connections("over_source", |counts| &counts.over_source),
            of_connections("idle", |counts| &counts.idle),
        ],
    );
    let open = streams.iter().map(|(_, connections)| connections.open.load(Relaxed)).sum::<u64>();
    page.gauge("agent_probe_connections_open", "Connections that the responder holds", None, [(labels([]), open)]);
}

/// What carries probes, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Carrier {
    /// A datagram each
    Udp,
    /// Frames of a connection; what the kernel has to send again is lost
    Tcp,
    /// A datagram of the RDMA NIC each (RoCEv2, unreliable datagram), which the other host's helper answers
    #[cfg(feature = "verbs")]
    RdmaUd,
    /// A write by the RDMA NIC each (RoCEv2, reliable connection), which the other NIC acknowledges
    #[cfg(feature = "verbs")]
    RdmaRc,
}

/// Probe a host by hand.
#[derive(Debug, Args)]
pub struct ProbeOptions {
    /// Whose responder: HOST or HOST:PORT
    #[arg(value_name = "HOST[:PORT]")]
    target: String,
    /// What the members of the cluster share
    #[arg(long, value_name = "FILE", default_value = "/etc/railwatch/probe.key")]
    key_file: PathBuf,
    /// How many probes
    #[arg(long, value_name = "N", default_value_t = 100)]
    count: u64,
    /// Milliseconds between two probes
    #[arg(long, value_name = "MS", default_value_t = 10.0)]
    interval_ms: f64,
    /// What carries the probes
    #[arg(long, value_enum, default_value_t = Carrier::Udp)]
    transport: Carrier,
    /// Payload of a probe, bytes
    #[arg(long, value_name = "BYTES", default_value_t = railwatch_probe::HEAD_BYTES)]
    size: usize,
    /// Flows by source port (over RDMA: by queue pair and flow label), by turns: equal-cost paths are chosen by it
    #[arg(long, value_name = "N", default_value_t = 1)]
    flows: u16,
    /// Own address
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Source port of the first flow, those of others follow [default: free ones]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    source_port: u16,
    /// Differentiated services code point, as the job's traffic has
    #[arg(long, value_name = "0..63", default_value_t = 0)]
    dscp: u8,
    /// Milliseconds after which a probe without an answer is lost
    #[arg(long, value_name = "MS", default_value_t = 1000.0)]
    timeout_ms: f64,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Probes, and prints what it took; whether every probe was sent and answered.
pub fn by_hand(options: &ProbeOptions, out: &mut dyn Write) -> Result<bool> {
    let milliseconds = |what: &str, value: f64| {
        Duration::try_from_secs_f64(value / 1e3).with_context(|| format!("{what} cannot be {value} ms"))
    };
    let key = Key::read(&options.key_file)?;
    let plan = Plan {
        transport: match options.transport {
            Carrier::Udp => Transport::Udp,
            Carrier::Tcp => Transport::Tcp,
            #[cfg(feature = "verbs")]
            Carrier::RdmaUd => Transport::RdmaUd,
            #[cfg(feature = "verbs")]
            Carrier::RdmaRc => Transport::RdmaRc,
        },
        target: target(&options.target, options.source)?,
        source: options.source,
        source_port: options.source_port,
        flows: options.flows,
        count: options.count,
        interval: milliseconds("the interval", options.interval_ms)?,
        size_bytes: options.size,
        dscp: options.dscp,
        timeout: milliseconds("the time-out", options.timeout_ms)?,
    };
    let report = railwatch_probe::run(&plan, &key, |_, _| {})?;
    match options.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        Output::Table => table(&plan, &report, out)?,
    }
    Ok(report.answered == plan.count && report.lost == 0)
}

/// The first address of the target that is of the source's family.
fn target(text: &str, source: Option<IpAddr>) -> Result<SocketAddr> {
    let found: Vec<SocketAddr> = match text.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(_) => {
            let host = text.trim_start_matches('[').trim_end_matches(']');
            (host, PORT).to_socket_addrs().with_context(|| format!("look up {text:?}"))?.collect()
        }
    };
    let fits = |address: &&SocketAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    match found.iter().find(fits) {
        Some(address) => Ok(*address),
        None => bail!("{text} has no address of the family of --source"),
    }
}

/// Trace a flow by hand.
#[derive(Debug, Args)]
pub struct TraceHandOptions {
    /// To whom, and its responder's port: HOST or HOST:PORT
    #[arg(value_name = "HOST[:PORT]")]
    target: String,
    /// The flow's source port
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    sport: u16,
    /// The flow's destination port [default: the responder's]
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// It is a flow of TCP
    #[arg(long)]
    tcp: bool,
    /// Own address
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Own NIC [default: what the routes say]
    #[arg(long, value_name = "NIC", default_value = "", hide_default_value = true)]
    interface: String,
    /// Differentiated services code point, as the job's traffic has
    #[arg(long, value_name = "0..63", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=63))]
    dscp: u8,
    /// Hops at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=i64::from(TRACE_HOPS_MAX)))]
    hops: u8,
    /// Milliseconds for all of it
    #[arg(long, value_name = "MS", default_value_t = 3000)]
    timeout_ms: u64,
    /// What the members of the cluster share; where it cannot be read, a port on which nobody listens tells how far the host is
    #[arg(long, value_name = "FILE", default_value = "/etc/railwatch/probe.key")]
    key_file: PathBuf,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Traces, and prints the way; whether it is known whole.
pub fn trace_by_hand(options: &TraceHandOptions, out: &mut dyn Write) -> Result<bool> {
    let to = target(&options.target, options.source)?;
    let source = match options.source {
        Some(source) => source,
        None => {
            let any: IpAddr = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let asked = UdpSocket::bind((any, 0)).context("open a socket")?;
            asked.connect(to).with_context(|| format!("find a way to {to}"))?;
            asked.local_addr().context("find the own address")?.ip()
        }
    };
    let flow = TraceSpec {
        interface: options.interface.clone(),
        source: SocketAddr::new(source, options.sport),
        destination: SocketAddr::new(to.ip(), options.dport.unwrap_or(to.port())),
        protocol: if options.tcp { Protocol::Tcp } else { Protocol::Udp },
        dscp: options.dscp,
    };
    let key = Key::read(&options.key_file).ok();
    let tracing = TraceOptions {
        key: key.as_ref(),
        responder_port: to.port(),
        hops_max: options.hops,
        timeout: Duration::from_millis(options.timeout_ms),
    };
    let ways = railwatch_probe::trace(std::slice::from_ref(&flow), &tracing).map_err(anyhow::Error::msg)?;
    let Some(way) = ways.into_iter().next() else { bail!("nothing was traced") };
    if let Some(failed) = way.failed {
        bail!(failed);
    }
    let is_whole = way.hops.iter().all(|hop| hop.address.is_some());
    match options.output {
        Output::Json => {
            let hop = |hop: &railwatch_probe::Hop| serde_json::json!({"address": hop.address.map(|a| a.to_string()), "round_trip_ns": hop.round_trip_ns});
            let hops: Vec<_> = way.hops.iter().map(hop).collect();
            let told = serde_json::json!({
                "source": flow.source.to_string(),
                "destination": flow.destination.to_string(),
                "hops": hops,
                "reached": way.reached,
            });
            writeln!(out, "{}", serde_json::to_string_pretty(&told)?)?;
        }
        Output::Table => {
            let protocol = if options.tcp { "TCP" } else { "UDP" };
            writeln!(out, "{protocol} {} to {}, {} hops before it", flow.source, flow.destination, way.hops.len())?;
            for (place, hop) in way.hops.iter().enumerate() {
                #[expect(clippy::cast_precision_loss, reason = "a delay, far below 2^53 ns")]
                let us = hop.round_trip_ns as f64 / 1e3;
                match hop.address {
                    Some(address) => writeln!(out, "{:>3}  {address:<15}  {us:>9.1} \u{b5}s", place + 1)?,
                    None => writeln!(out, "{:>3}  (nobody answered)", place + 1)?,
                }
            }
        }
    }
    Ok(is_whole)
}

fn table(plan: &Plan, report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let Report { sent, answered, lost, unsent, unsent_reason, timed, .. } = report;
    let size = plan.size_bytes;
    writeln!(out, "{}: {sent} probes of {size} bytes, {answered} answered, {lost} lost", plan.target)?;
    if let (Some(there), Some(back)) = (report.lost_there, report.lost_back)
        && *lost > 0
    {
        writeln!(out, "of those lost, {there} on the way there, {back} on the way back")?;
    }
    if let Some(reason) = unsent_reason {
        writeln!(out, "{unsent} were not sent: {reason}")?;
    }
    let rows = [
        ("round trip", report.round_trip_us),
        ("fabric", report.fabric_us),
        ("this host", report.prober_us),
        ("other host", report.answerer_us),
    ];
    if rows.iter().any(|(_, quantiles)| quantiles.is_some()) {
        writeln!(out, "{:<12}{:>12}{:>12}{:>12}{:>12}", "\u{b5}s", "min", "p50", "p99", "max")?;
    }
    for (what, quantiles) in rows {
        if let Some(Quantiles { min, p50, p99, max }) = quantiles {
            writeln!(out, "{what:<12}{min:>12.1}{p50:>12.1}{p99:>12.1}{max:>12.1}")?;
        }
    }
    if let Some(retried) = report.retried.filter(|retried| *retried > 0) {
        writeln!(out, "{retried} were sent more than once by the NIC, by their time")?;
    }
    // Over RDMA no kernel stamps anything.
    let is_stamped = report.flows.iter().all(|flow| flow.source_port.is_some());
    if is_stamped && timed < answered {
        writeln!(
            out,
            "{} answers came without every stamp of the kernels: they are in the round trip alone",
            answered - timed
        )?;
    }
    for flow in report.flows.iter().filter(|_| plan.flows > 1) {
        let fabric = flow.fabric_us_p50.map_or("-".into(), |p50| format!("{p50:.1}"));
        let of = match (flow.source_port, flow.flow_label) {
            (Some(port), _) => format!("source port {port:<6}"),
            (None, label) => format!("flow label {:<7}", label.unwrap_or_default()),
        };
        writeln!(out, "{of} sent {:>8} lost {:>8} fabric p50 {fabric:>10}", flow.sent, flow.lost)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn a_target_has_the_port_of_responders_unless_it_names_one() {
        for (text, expected) in [
            ("10.0.0.7", "10.0.0.7:7704"),
            ("10.0.0.7:9", "10.0.0.7:9"),
            ("::1", "[::1]:7704"),
            ("[::1]", "[::1]:7704"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(target(text, None).unwrap().to_string(), expected);
        }
        let error = target("10.0.0.7", Some("::1".parse().unwrap())).unwrap_err().to_string();
        assert!(error.contains("no address of the family"), "{error}");
    }

    #[cfg(feature = "verbs")]
    #[test]
    fn without_an_rdma_port_of_the_address_probes_over_rdma_end_with_the_reason() {
        use crate::cli::{Cli, Command};
        use clap::Parser;
        use std::os::unix::fs::PermissionsExt;
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), "0123456789abcdef").unwrap();
        std::fs::set_permissions(key.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        for transport in ["rdma-rc", "rdma-ud"] {
            let arguments = ["railwatch-agent", "probe", "127.0.0.1", "--transport", transport, "--key-file"];
            let arguments = arguments.iter().map(Into::into).chain([key.path().as_os_str().to_owned()]);
            let Command::Probe(options) = Cli::parse_from(arguments).command else { panic!("not probe") };
            let error = by_hand(&options, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains("no RDMA port of this host has this address"), "{error}");
        }
    }
}
