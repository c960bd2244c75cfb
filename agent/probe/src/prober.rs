//! Probes one target over several flows for a while, and says what it took.
//!
//! In: a [`Plan`]. Out: each outcome as it is known, and a [`Report`]. A flow is a source port: equal-cost paths are chosen
//! by it. Probes go out evenly, the flows by turns. Never more than [`RATE_MAX`] a second: it shares the NIC with a job.

use crate::packet::{self, Key, Packet, Request};
use crate::plan::Transport;
use crate::session::{Answered, Instant, Outcome, Session};
use crate::socket::StampedSocket;
use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use railwatch_sampling::clock::{monotonic_ns, nanoseconds};
use serde::Serialize;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::time::Duration;

/// Probes a second at most.
pub const RATE_MAX: u32 = 10_000;
/// Flows at most.
pub const FLOWS_MAX: u16 = 256;
/// Delays beyond it count as this long, nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;
/// Stamps that are awaited, of one flow.
const AWAITED_MAX: usize = 1024;

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As datagrams, or in a stream.
    pub transport: Transport,
    /// Where the responder listens.
    pub target: SocketAddr,
    /// Own address, where the routes are not to choose.
    pub source: Option<IpAddr>,
    /// The first flow's source port, the next ones' follow; 0 takes free ones.
    pub source_port: u16,
    /// How many flows, 1 to [`FLOWS_MAX`].
    pub flows: u16,
    /// Probes in all.
    pub count: u64,
    /// Between two probes; at least 1 / [`RATE_MAX`] s.
    pub interval: Duration,
    /// Payload of a probe, bytes; [`packet::HEAD_BYTES`] to [`packet::SIZE_MAX`].
    pub size_bytes: usize,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// A probe without an answer for so long is lost.
    pub timeout: Duration,
}

/// What it took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// As datagrams, or in a stream.
    pub transport: Transport,
    /// Probes handed to the kernel.
    pub sent: u64,
    /// Of those, answered in time, and in a stream not sent again.
    pub answered: u64,
    /// Of those, not.
    pub lost: u64,
    /// Of those lost in a stream, on the way there, where that is known; of datagrams it is not.
    pub lost_there: Option<u64>,
    /// Likewise on the way back.
    pub lost_back: Option<u64>,
    /// Probes that the kernel did not take.
    pub unsent: u64,
    /// Why, the last time.
    pub unsent_reason: Option<String>,
    /// Answered probes of which every stamp came.
    pub timed: u64,
    /// From user to user.
    pub round_trip_us: Option<Quantiles>,
    /// From NIC to NIC, both ways.
    pub fabric_us: Option<Quantiles>,
    /// Inside this host.
    pub prober_us: Option<Quantiles>,
    /// Inside the answerer's.
    pub answerer_us: Option<Quantiles>,
    /// Of those answered, the ones that the NIC must have sent more than once; over reliable connections alone.
    pub retried: Option<u64>,
    /// Each flow's share.
    pub flows: Vec<FlowReport>,
}

/// One flow's share.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FlowReport {
    /// Source port; `None` where a NIC's driver chooses it.
    pub source_port: Option<u16>,
    /// What it is chosen by there.
    pub flow_label: Option<u32>,
    /// Probes handed to the kernel.
    pub sent: u64,
    /// Of those, not answered in time.
    pub lost: u64,
    /// Median of what the fabric took.
    pub fabric_us_p50: Option<f64>,
}

impl FlowReport {
    /// Of a flow of the kernel's.
    pub(crate) fn of_port(port: u16, sent: u64, lost: u64, fabric: &Times) -> Self {
        Self { source_port: Some(port), flow_label: None, sent, lost, fabric_us_p50: fabric.at(0.5) }
    }
}

/// Of a distribution, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// Least.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Greatest.
    pub max: f64,
}

/// A plan that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A value is out of its range.
    #[error("{what} must be {allowed}")]
    Range {
        /// Which.
        what: &'static str,
        /// What may stand there.
        allowed: String,
    },
    /// The kernel refused.
    #[error("{doing}: {error}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// No queue pair to probe with.
    #[cfg(feature = "verbs")]
    #[error("{doing}: {why}")]
    Verbs {
        /// What was tried.
        doing: String,
        /// Why it did not work.
        why: String,
    },
}

struct Flow {
    socket: StampedSocket,
    port: u16,
    tos: u8,
    session: Session,
    /// Number of the socket, and sequence, of probes whose stamp is awaited.
    awaited: VecDeque<(u32, u64)>,
    sent: u64,
    lost: u64,
    fabric: Times,
}

/// Nanoseconds, three digits of each.
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Result<Self, Failure> {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        histogram.map(Self).map_err(|error| io_failure("make a histogram", io::Error::other(error)))
    }

    pub(crate) fn take(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    pub(crate) fn at(&self, quantile: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| microseconds(self.0.value_at_quantile(quantile)))
    }

    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        let (min, max) = (microseconds(self.0.min()), microseconds(self.0.max()));
        Some(Quantiles { min, p50: self.at(0.5)?, p99: self.at(0.99)?, max })
    }
}

/// Of all flows.
pub(crate) struct Sums {
    timed: u64,
    round_trip: Times,
    fabric: Times,
    prober: Times,
    answerer: Times,
}

impl Sums {
    pub(crate) fn new() -> Result<Self, Failure> {
        let new = Times::new;
        Ok(Self { timed: 0, round_trip: new()?, fabric: new()?, prober: new()?, answerer: new()? })
    }

    /// One more.
    pub(crate) fn take(&mut self, answer: &Answered) {
        self.round_trip.take(answer.round_trip_ns);
        if let Some(parts) = answer.parts {
            self.timed += 1;
            self.fabric.take(parts.fabric_ns);
            self.prober.take(parts.prober_ns);
            self.answerer.take(parts.answerer_ns);
        }
    }

    /// Tells them.
    pub(crate) fn tell(&self, report: &mut Report) {
        report.timed = self.timed;
        report.round_trip_us = self.round_trip.quantiles();
        report.fabric_us = self.fabric.quantiles();
        report.prober_us = self.prober.quantiles();
        report.answerer_us = self.answerer.quantiles();
    }
}

#[expect(clippy::cast_precision_loss, reason = "a delay, far below 2^53 ns")]
fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1e3
}

pub(crate) fn io_failure(doing: impl Into<String>, error: io::Error) -> Failure {
    Failure::Io { doing: doing.into(), error }
}

/// Carries the plan out, and hands over each outcome with its source port.
///
/// # Errors
/// A plan beyond its ranges, or sockets that the kernel refused.
pub fn run(plan: &Plan, key: &Key, mut each: impl FnMut(u16, &Outcome)) -> Result<Report, Failure> {
    match plan.transport {
        Transport::Udp => {}
        Transport::Tcp => {
            check(plan, &(packet::HEAD_BYTES..=packet::SIZE_MAX), FLOWS_MAX)?;
            return crate::stream::run(plan, key, each);
        }
        #[cfg(feature = "verbs")]
        Transport::RdmaUd => return crate::verbs::run(plan, crate::verbs::Service::Datagram, key, each),
        #[cfg(feature = "verbs")]
        Transport::RdmaRc => return crate::verbs::run(plan, crate::verbs::Service::Connected, key, each),
    }
    check(plan, &(packet::HEAD_BYTES..=packet::SIZE_MAX), FLOWS_MAX)?;
    let mut flows = (0..plan.flows).map(|n| flow(plan, n)).collect::<Result<Vec<_>, _>>()?;
    let mut report = Report::default();
    let mut sums = Sums::new()?;
    let mut bytes = vec![0; plan.size_bytes];
    let mut buffer = vec![0; packet::SIZE_MAX];
    let interval_ns = nanoseconds(plan.interval);
    let (mut next, mut due_ns) = (0u64, monotonic_ns());
    // The held time of the last answer comes with one more, which counts for nothing.
    let mut closing = u64::from(plan.flows);
    loop {
        let now_ns = monotonic_ns();
        if now_ns >= due_ns && (next < plan.count || closing > 0) {
            let is_probe = next < plan.count;
            let at = usize::try_from(next % u64::from(plan.flows)).unwrap_or(0);
            let flow = &mut flows[at];
            match flow.send(plan.target, &mut bytes, key) {
                Ok(()) => {
                    flow.sent += u64::from(is_probe);
                    report.sent += u64::from(is_probe);
                }
                Err(error) if is_probe => {
                    report.unsent += 1;
                    report.unsent_reason = Some(error.to_string());
                }
                Err(_) => {}
            }
            closing -= u64::from(!is_probe);
            next += 1;
            // Late is late: no burst makes up for it.
            due_ns = (due_ns + interval_ns).max(now_ns);
        }
        for flow in &mut flows {
            flow.listen(&mut buffer, key).map_err(|error| io_failure("read answers", error))?;
            for outcome in flow.session.done(monotonic_ns()) {
                if flow.is_closing(&outcome) {
                    continue;
                }
                each(flow.port, &outcome);
                let Some(answer) = outcome.answer else {
                    flow.lost += 1;
                    report.lost += 1;
                    continue;
                };
                report.answered += 1;
                sums.take(&answer);
                if let Some(parts) = answer.parts {
                    flow.fabric.take(parts.fabric_ns);
                }
            }
        }
        let is_sending = next < plan.count || closing > 0;
        if !is_sending && flows.iter().all(|flow| flow.awaits() == 0) {
            break;
        }
        let wait_ns = if is_sending { due_ns.saturating_sub(monotonic_ns()) } else { 1_000_000 };
        let mut polled: Vec<_> = flows.iter().map(|flow| PollFd::new(flow.socket.as_fd(), PollFlags::POLLIN)).collect();
        wait(&mut polled, Duration::from_nanos(wait_ns.min(10_000_000)))?;
    }
    sums.tell(&mut report);
    report.flows =
        flows.iter().map(|flow| FlowReport::of_port(flow.port, flow.sent, flow.lost, &flow.fabric)).collect();
    Ok(report)
}

/// `sizes` of a probe, bytes; `flows` at most.
pub(crate) fn check(plan: &Plan, sizes: &RangeInclusive<usize>, flows: u16) -> Result<(), Failure> {
    let range = |what, is_good: bool, allowed: String| match is_good {
        true => Ok(()),
        false => Err(Failure::Range { what, allowed }),
    };
    range("the number of flows", (1..=flows).contains(&plan.flows), format!("1 to {flows}"))?;
    let allowed = format!("{} to {} bytes", sizes.start(), sizes.end());
    range("the size", sizes.contains(&plan.size_bytes), allowed)?;
    let shortest = Duration::from_secs(1) / RATE_MAX;
    range("the interval", plan.interval >= shortest, format!("{shortest:?} or longer"))?;
    range("DSCP", plan.dscp < 64, "0 to 63".into())?;
    range("the time-out", plan.timeout > Duration::ZERO, "longer than nothing".into())?;
    range("the count", plan.count > 0, "1 or more".into())
}

/// Where the flow of this number sends from.
pub(crate) fn local(plan: &Plan, n: u16) -> Result<SocketAddr, Failure> {
    let any: IpAddr = if plan.target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let port = match plan.source_port {
        0 => 0,
        first => first.checked_add(n).ok_or_else(|| Failure::Range {
            what: "the first source port",
            allowed: format!("so low that {} follow it", plan.flows - 1),
        })?,
    };
    Ok(SocketAddr::new(plan.source.unwrap_or(any), port))
}

fn flow(plan: &Plan, n: u16) -> Result<Flow, Failure> {
    let local = local(plan, n)?;
    let failed = |error| io_failure(format!("send from {local}"), error);
    let socket = StampedSocket::bind(local, plan.dscp << 2).map_err(failed)?;
    let port = socket.local().map_err(failed)?.port();
    let session = Session::new(random().map_err(|e| io_failure("draw a number", e))?, nanoseconds(plan.timeout));
    Ok(Flow {
        socket,
        port,
        tos: plan.dscp << 2,
        session,
        awaited: VecDeque::new(),
        sent: 0,
        lost: 0,
        fabric: Times::new()?,
    })
}

pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Waits until one of these is ready, and no longer than this.
pub(crate) fn wait(polled: &mut [PollFd<'_>], time: Duration) -> Result<(), Failure> {
    match ppoll(polled, Some(TimeSpec::from_duration(time)), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(io_failure("wait for answers", errno.into())),
    }
}

impl Flow {
    fn send(&mut self, target: SocketAddr, bytes: &mut [u8], key: &Key) -> io::Result<()> {
        let sequence = self.session.next();
        packet::encode(&Packet::Request(Request { session: self.session.id(), sequence }), bytes, key);
        let sent = Instant::now();
        match self.socket.send_to(bytes, target, self.tos) {
            Ok(id) => {
                self.session.sent(sent);
                if self.awaited.len() >= AWAITED_MAX {
                    self.awaited.pop_front();
                }
                self.awaited.push_back((id, sequence));
                Ok(())
            }
            Err(error) => {
                // The socket counts anew.
                self.awaited.clear();
                Err(error)
            }
        }
    }

    fn listen(&mut self, buffer: &mut [u8], key: &Key) -> io::Result<()> {
        let Self { socket, session, awaited, .. } = self;
        let mut take_stamps = |socket: &mut StampedSocket, session: &mut Session| {
            socket.stamps(usize::MAX, |stamp| {
                if let Some(at) = awaited.iter().position(|(id, _)| *id == stamp.id)
                    && let Some((_, sequence)) = awaited.remove(at)
                {
                    session.left(sequence, stamp.stamp_unix_ns);
                }
            })
        };
        take_stamps(socket, session)?;
        while let Some(received) = socket.receive(buffer)? {
            let read = Instant::now();
            let bytes = buffer.get(..received.length).unwrap_or_default();
            if let Ok(Packet::Answer(answer)) = packet::decode(bytes, key) {
                session.answered(&answer, received.stamp_unix_ns, read);
            }
        }
        take_stamps(socket, session)
    }

    /// Whether this is the outcome of a flow's closing probe, which is none.
    fn is_closing(&self, outcome: &Outcome) -> bool {
        outcome.sequence >= self.sent
    }

    /// Probes whose outcome is still to come.
    fn awaits(&self) -> u64 {
        let first = self.session.next() - self.session.in_flight() as u64;
        self.sent.saturating_sub(first)
    }
}
