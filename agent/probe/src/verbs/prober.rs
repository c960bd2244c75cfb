//! Probes one target over queue pairs of this host's RDMA NIC for a while, and says what it took.
//!
//! In: a [`Plan`] and a [`Service`]. Out: each outcome as it is known, and a [`Report`] like that of UDP. A flow is a queue pair of its own,
//! with one of the target's, which is lent by its agent as long as it is renewed.
//!
//! | service | a probe is | is answered by | is lost when |
//! |---|---|---|---|
//! | datagram | a datagram there and one back | the process of the other host that lends | no answer came in time |
//! | connected | a write into the other host's memory | its NIC: no software of it runs | its NIC has not acknowledged any of four tries |
//!
//! A write that was lost once is sent again by the NIC, which tells nobody: such a probe takes longer than the time of one try. One write of a flow is under way at a time.
//! Never: a stamp of a kernel (there is none on this way), more than one queue pair for a flow, or a queue pair kept after the end.

use super::datagram::{HEAD_BYTES, Head};
use super::exchange::{
    self, Answer, FLOW_LABEL_MAX, Lent, Loan, Refused, SIZE_MAX, SIZE_MIN, Service, TICKET_BYTES, Ticket, Wish,
    decode_answer, mtu_bytes, open_answer, seal_wish, ticket_of_answer, wish_with,
};
use super::library::{
    Address, Completion, Device, GRH_BYTES, Join, Library, NAME, QueuePair, RETRIES, Region, Route, VerbsError,
};
use super::loans::LOANS_OF_ONE_MAX;
use super::port::{self, Port};
use crate::packet::Key;
use crate::prober::{Failure, FlowReport, Plan, Report, Times, check, io_failure, random, wait};
use crate::session::{Answered, Instant, Outcome};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use railwatch_sampling::clock::{monotonic_ns, nanoseconds};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Flows at most: what a responder lends to one address.
pub const FLOWS_MAX: u16 = LOANS_OF_ONE_MAX as u16;
/// Datagrams of a flow on their way out, and answers awaited, at once.
const SLOTS: u16 = 64;
/// Room for completions of all flows.
const COMPLETIONS: u16 = SLOTS * 2 * FLOWS_MAX;
/// In the number of a request for a datagram: it went out. A write's number is its probe's sequence.
const SENT: u64 = 1 << 32;
/// How long a NIC may take from telling that a write has failed to having its queue pair in the error state.
const BREAKING_NS: u64 = 200_000_000;
/// Between two requests for a queue pair, and how many.
const ASK_AGAIN: Duration = Duration::from_millis(250);
const ASK_TIMES: u32 = 40;
/// UDP source ports that a flow label can ask for: 0xc000 and 14 bits (include/rdma/ib_verbs.h, rdma_flow_label_to_udp_sport); a label of
/// 0 asks for none.
const PORT_MIN: u16 = 0xc001;

/// Carries the plan out, and hands over each outcome with the number of its flow.
///
/// # Errors
/// A plan beyond its ranges, no RDMA port with the own address, no library, or a target that lends no queue pair.
pub(crate) fn run(
    plan: &Plan,
    service: Service,
    key: &Key,
    mut each: impl FnMut(u16, &Outcome),
) -> Result<Report, Failure> {
    check(plan, &(SIZE_MIN..=SIZE_MAX), FLOWS_MAX)?;
    let first_port = first_port(plan)?;
    let exchange = Exchange::new(plan, key)?;
    let own = exchange.own()?;
    let port = port::find(Path::new("/sys"), own).ok_or_else(|| {
        failure(
            format!("probe from {own}"),
            "no RDMA port of this host has this address (RoCEv2): name one that has with --source".into(),
        )
    })?;
    let library = Library::load(Path::new(NAME)).map_err(|why| {
        failure("load the RDMA library".into(), format!("{why}: install libibverbs and the provider of the NIC"))
    })?;
    let verbs = |error: VerbsError| failure(format!("probe from {own} ({})", port.device), error.to_string());
    let device = Device::open(&library, &port.device, COMPLETIONS).map_err(verbs)?;
    let mtu = device.mtu(port.number).map_err(verbs)?;
    if service == Service::Datagram && plan.size_bytes > mtu_bytes(mtu) {
        let allowed = format!("{SIZE_MIN} to {} bytes over datagrams of {}", mtu_bytes(mtu), port.device);
        return Err(Failure::Range { what: "the size", allowed });
    }
    let mut flows = Vec::new();
    for n in 0..plan.flows {
        let mut flow = Flow::new(plan, service, (&device, &port, mtu), first_port + n).map_err(verbs)?;
        let lent = exchange.borrow(&mut flow)?;
        flow.take(lent).map_err(verbs)?;
        flows.push(flow);
    }
    let result = Run { plan, device: &device, exchange: &exchange, flows: &mut flows }.run(&mut each);
    for flow in &mut flows {
        exchange.give_back(flow);
    }
    let (mut report, round_trip) = result.map_err(|stop| match stop {
        Stop::Verbs(error) => verbs(error),
        Stop::Failure(failure) => failure,
    })?;
    report.transport = plan.transport;
    report.round_trip_us = round_trip.quantiles();
    report.retried = (service == Service::Connected).then(|| flows.iter().map(|flow| flow.retried).sum());
    report.flows = flows
        .iter()
        .map(|flow| FlowReport {
            source_port: None,
            flow_label: Some(flow.route.flow_label),
            sent: flow.sent,
            lost: flow.lost,
            fabric_us_p50: None,
        })
        .collect();
    Ok(report)
}

fn failure(doing: String, why: String) -> Failure {
    Failure::Verbs { doing, why }
}

/// The UDP source port that the first flow asks for.
fn first_port(plan: &Plan) -> Result<u16, Failure> {
    let last = u16::MAX - (plan.flows - 1);
    match plan.source_port {
        0 => {
            let drawn = random().map_err(|error| io_failure("draw a number", error))?;
            Ok(PORT_MIN + (drawn % u64::from(last - PORT_MIN + 1)) as u16)
        }
        port if (PORT_MIN..=last).contains(&port) => Ok(port),
        _ => Err(Failure::Range { what: "the first source port", allowed: format!("{PORT_MIN} to {last}") }),
    }
}

/// The flow label that asks for a UDP source port.
fn flow_label(port: u16) -> u32 {
    u32::from(port & 0x3fff) & FLOW_LABEL_MAX
}

/// The longest time of one try, as an exponent of 4.096 µs × 2^t, with which all tries end within the time-out; 1 to 31.
fn try_exponent(timeout_ns: u64) -> u8 {
    let of_one = timeout_ns / (u64::from(RETRIES) + 1) / 4096;
    u8::try_from(of_one.max(2).ilog2()).unwrap_or(31).min(31)
}

/// A probe on its way.
struct Probe {
    sequence: u64,
    sent: Instant,
}

/// A queue pair of this host, and what belongs to it: dropped in this order.
struct Flow {
    queue_pair: QueuePair,
    address: Option<Address>,
    region: Region,
    device: Rc<Device>,
    service: Service,
    size_bytes: usize,
    route: Route,
    gid: [u8; 16],
    mtu: u8,
    qkey: u32,
    try_exponent: u8,
    /// Of the loan.
    session: u64,
    asked: u64,
    asked_ns: u64,
    ticket: Ticket,
    /// [`Self::psn`] when it asked last.
    asked_psn: u32,
    renew_at_ns: u64,
    lent: Option<Lent>,
    /// Of the next write that is sent, or the one under way.
    psn: u32,
    /// A write has failed, or was given up; since when the queue pair waits to be joined again.
    broken_ns: Option<u64>,
    /// The NIC has a write of which it has not told what became.
    is_under_way: bool,
    free: Vec<u16>,
    in_flight: VecDeque<Probe>,
    next: u64,
    sent: u64,
    lost: u64,
    retried: u64,
}

impl Flow {
    fn new(
        plan: &Plan,
        service: Service,
        (device, port, mtu): (&Rc<Device>, &Port, u8),
        source_port: u16,
    ) -> Result<Self, VerbsError> {
        let draw = || {
            random().map_err(|error| VerbsError {
                doing: "draw a number",
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            })
        };
        let (session, drawn) = (draw()?, draw()?);
        let qkey = (drawn >> 32) as u32 & 0x7fff_ffff;
        let psn = drawn as u32 & 0xff_ffff;
        let size_bytes = plan.size_bytes;
        let slots = usize::from(SLOTS);
        let (queue_pair, region) = match service {
            Service::Datagram => {
                // Datagrams that go out, then those that come in with their headers.
                let region = Region::new(device, slots * (size_bytes + GRH_BYTES + size_bytes), false)?;
                let pair = QueuePair::datagram(device, SLOTS, SLOTS)?;
                pair.open_datagrams(port.number, qkey, psn)?;
                (pair, region)
            }
            Service::Connected => (QueuePair::connected(device, 1)?, Region::new(device, size_bytes, false)?),
        };
        let flow = Self {
            queue_pair,
            address: None,
            region,
            device: Rc::clone(device),
            service,
            size_bytes,
            route: Route {
                port: port.number,
                gid_index: port.gid_index,
                gid: [0; 16],
                flow_label: flow_label(source_port),
                traffic_class: plan.dscp << 2,
            },
            gid: port.gid,
            mtu,
            qkey,
            try_exponent: try_exponent(nanoseconds(plan.timeout)),
            session,
            asked: 0,
            asked_ns: 0,
            ticket: [0; TICKET_BYTES],
            asked_psn: psn,
            renew_at_ns: 0,
            lent: None,
            psn,
            broken_ns: None,
            is_under_way: false,
            free: (0..SLOTS).collect(),
            in_flight: VecDeque::new(),
            next: 0,
            sent: 0,
            lost: 0,
            retried: 0,
        };
        if service == Service::Datagram {
            for slot in 0..SLOTS {
                flow.await_one(slot)?;
            }
        }
        Ok(flow)
    }

    fn wish(&self) -> Wish {
        Wish {
            is_over: false,
            service: self.service,
            mtu: self.mtu,
            traffic_class: self.route.traffic_class,
            flow_label: self.route.flow_label,
            number: self.queue_pair.number(),
            psn: self.psn,
            qkey: self.qkey,
            size_bytes: u32::try_from(self.size_bytes).unwrap_or(u32::MAX),
            gid: self.gid,
        }
    }

    /// Takes what is lent, or still is; whether what was under way is lost with a loan that had ended.
    fn take(&mut self, lent: Lent) -> Result<bool, VerbsError> {
        self.renew_at_ns = monotonic_ns() + u64::from(lent.lease_ms) * 1_000_000 / 3;
        if self.lent == Some(lent) {
            return Ok(false);
        }
        let had_one = self.lent.replace(lent).is_some();
        self.route.gid = lent.gid;
        match self.service {
            Service::Datagram => {
                self.address = Some(Address::new(&self.device, &self.route)?);
                // Answers to what is under way may still come.
                Ok(false)
            }
            Service::Connected => {
                self.psn = self.asked_psn;
                // One that is broken is joined in its time.
                match (self.broken_ns, self.is_under_way) {
                    (Some(_), _) => {}
                    (None, true) => self.sever(monotonic_ns())?,
                    (None, false) => self.join()?,
                }
                Ok(had_one)
            }
        }
    }

    /// Joins the queue pair to the lent one, from whatever state it is in. The other end needs nothing for it: it goes on to expect the first
    /// packet that it has not had, and the write that begins anew has it among its own. Of those before, which it has had, it says so again
    /// (InfiniBand architecture, 9.7.5.1.2).
    fn join(&mut self) -> Result<(), VerbsError> {
        (self.broken_ns, self.is_under_way) = (None, false);
        let Some(lent) = &self.lent else { return Ok(()) };
        self.queue_pair.join(&Join {
            route: self.route,
            number: lent.number,
            mtu: lent.mtu,
            receive_psn: lent.psn,
            send_psn: self.psn,
            timeout: self.try_exponent,
        })
    }

    fn is_free(&self) -> bool {
        match self.service {
            Service::Datagram => true,
            Service::Connected => self.in_flight.is_empty() && self.broken_ns.is_none(),
        }
    }

    /// Has the NIC give up what is under way, which [`Self::mend`] awaits. A reset alone would do by the standard; software RoCE loses count of its
    /// requests where it is reset with one under way (6.1 and 6.12: rxe_qp_reset lets the requester note where the queue begins before
    /// the completer empties it).
    fn sever(&mut self, now_ns: u64) -> Result<(), VerbsError> {
        self.broken_ns = Some(now_ns);
        self.queue_pair.fail()
    }

    /// Joins a broken queue pair again, once its NIC is through with it: a driver may tell of the failed request first and put the
    /// queue pair into its error state afterwards, which would undo a reset in between.
    fn mend(&mut self, now_ns: u64) -> Result<(), VerbsError> {
        let Some(since_ns) = self.broken_ns else { return Ok(()) };
        let is_over = now_ns.saturating_sub(since_ns) >= BREAKING_NS;
        if is_over || (!self.is_under_way && self.queue_pair.is_in_error()?) { self.join() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), VerbsError> {
        let none = VerbsError { doing: "hand a probe to the NIC", errno: libc::ENOBUFS };
        let Some(lent) = self.lent else { return Err(none) };
        let sequence = self.next;
        let sent = match (self.service, &self.address) {
            (Service::Datagram, Some(address)) => {
                let slot = self.free.pop().ok_or(none)?;
                let at = usize::from(slot) * self.size_bytes;
                self.region.write(at, &Head { is_answer: false, session: self.session, sequence }.encode());
                let (part, to) = ((&self.region, at, self.size_bytes), (lent.number, lent.qkey));
                let sent = Instant::now();
                if let Err(error) = self.queue_pair.send(u64::from(slot) | SENT, part, address, to) {
                    self.free.push(slot);
                    return Err(error);
                }
                sent
            }
            (Service::Connected, _) => {
                let (part, to) = ((&self.region, 0, self.size_bytes), (lent.region_at, lent.region_key));
                let sent = Instant::now();
                self.queue_pair.write(sequence, part, to)?;
                self.is_under_way = true;
                sent
            }
            (Service::Datagram, None) => return Err(none),
        };
        self.in_flight.push_back(Probe { sequence, sent });
        self.next += 1;
        self.sent += 1;
        Ok(())
    }

    fn receive_at(&self, slot: u16) -> usize {
        usize::from(SLOTS) * self.size_bytes + usize::from(slot) * (GRH_BYTES + self.size_bytes)
    }

    fn await_one(&self, slot: u16) -> Result<(), VerbsError> {
        self.queue_pair.receive(slot.into(), &self.region, self.receive_at(slot), GRH_BYTES + self.size_bytes)
    }

    /// What a completion says of a probe.
    fn completed(&mut self, done: Completion, mono_ns: u64) -> Result<Option<Outcome>, VerbsError> {
        match self.service {
            Service::Datagram => {
                let slot = u16::try_from(done.id & !SENT).unwrap_or(u16::MAX);
                if slot >= SLOTS {
                    return Ok(None);
                }
                if done.id & SENT != 0 {
                    self.free.push(slot);
                    return Ok(None);
                }
                let is_whole = done.is_good && done.bytes >= GRH_BYTES + HEAD_BYTES;
                let head = is_whole.then(|| Head::decode(&self.region.read(self.receive_at(slot) + GRH_BYTES)));
                self.await_one(slot)?;
                let Some(head) = head.flatten() else { return Ok(None) };
                let is_ours = head.is_answer
                    && head.session == self.session
                    && self.lent.is_some_and(|lent| lent.number == done.from);
                let at = self.in_flight.iter().position(|probe| is_ours && probe.sequence == head.sequence);
                Ok(at.and_then(|at| self.in_flight.remove(at)).map(|probe| answered(&probe, mono_ns)))
            }
            Service::Connected => {
                self.is_under_way &= done.id + 1 != self.next;
                // Of a write that was given up, its NIC may still speak.
                let Some(probe) = self.in_flight.pop_front_if(|probe| probe.sequence == done.id) else {
                    return Ok(None);
                };
                if !done.is_good {
                    self.broken_ns = Some(mono_ns);
                    self.doubt();
                    return Ok(Some(lost(&probe)));
                }
                let outcome = answered(&probe, mono_ns);
                // A kernel's timer may end a tick early: three quarters are a try for sure.
                let a_try_ns = (4096u64 << self.try_exponent) * 3 / 4;
                self.retried += u64::from(outcome.answer.is_some_and(|answer| answer.round_trip_ns >= a_try_ns));
                let mtu = mtu_bytes(self.lent.map_or(1, |lent| lent.mtu));
                let packets = u32::try_from(self.size_bytes.div_ceil(mtu)).unwrap_or(1);
                self.psn = (self.psn + packets) & 0xff_ffff;
                Ok(Some(outcome))
            }
        }
    }

    /// Maybe what was lent is no more: asked soon, it is known.
    fn doubt(&mut self) {
        self.renew_at_ns = self.renew_at_ns.min(self.asked_ns + nanoseconds(ASK_AGAIN));
    }

    /// Probes that will not be answered any more.
    fn overdue(&mut self, now_ns: u64, timeout_ns: u64) -> Result<Vec<Outcome>, VerbsError> {
        // The NIC says itself when it gives up; where it does not, it is not waited for for ever.
        let patience_ns = match self.service {
            Service::Datagram => timeout_ns,
            Service::Connected => timeout_ns.saturating_mul(8).saturating_add(1_000_000_000),
        };
        let mut overdue = Vec::new();
        while let Some(probe) = self.in_flight.front()
            && now_ns.saturating_sub(probe.sent.mono_ns) >= patience_ns
        {
            overdue.extend(self.in_flight.pop_front().map(|probe| lost(&probe)));
        }
        if !overdue.is_empty() {
            self.doubt();
            if self.service == Service::Connected {
                self.sever(now_ns)?;
            }
        }
        Ok(overdue)
    }
}

fn answered(probe: &Probe, mono_ns: u64) -> Outcome {
    let round_trip_ns = mono_ns.saturating_sub(probe.sent.mono_ns);
    let answer = Some(Answered { round_trip_ns, parts: None });
    Outcome { sequence: probe.sequence, sent_unix_ns: probe.sent.unix_ns, answer }
}

fn lost(probe: &Probe) -> Outcome {
    Outcome { sequence: probe.sequence, sent_unix_ns: probe.sent.unix_ns, answer: None }
}

/// Why a run ends early.
enum Stop {
    Verbs(VerbsError),
    Failure(Failure),
}

impl From<VerbsError> for Stop {
    fn from(error: VerbsError) -> Self {
        Self::Verbs(error)
    }
}

struct Run<'a> {
    plan: &'a Plan,
    device: &'a Rc<Device>,
    exchange: &'a Exchange,
    flows: &'a mut [Flow],
}

impl Run<'_> {
    fn run(self, each: &mut impl FnMut(u16, &Outcome)) -> Result<(Report, Times), Stop> {
        let Self { plan, device, exchange, flows } = self;
        let mut report = Report::default();
        let mut round_trip = Times::new().map_err(Stop::Failure)?;
        let (interval_ns, timeout_ns) = (nanoseconds(plan.interval), nanoseconds(plan.timeout));
        let (mut next, mut due_ns) = (0u64, monotonic_ns());
        loop {
            let now_ns = monotonic_ns();
            let turn = usize::try_from(next % u64::from(plan.flows)).unwrap_or(0);
            if next < plan.count && now_ns >= due_ns && flows[turn].is_free() {
                match flows[turn].send() {
                    Ok(()) => report.sent += 1,
                    Err(error) => {
                        report.unsent += 1;
                        report.unsent_reason = Some(error.to_string());
                    }
                }
                next += 1;
                // Late is late: no burst makes up for it.
                due_ns = (due_ns + interval_ns).max(now_ns);
            }
            // Armed before it is looked: what completes meanwhile makes the channel readable again.
            device.arm()?;
            let mut outcomes = Vec::new();
            loop {
                let (mut done, mono_ns) = (Vec::new(), monotonic_ns());
                if device.completed(|completion| done.push(completion))? == 0 {
                    break;
                }
                for completion in done {
                    let number = completion.queue_pair;
                    let of = flows.iter().position(|flow| flow.queue_pair.number() == number);
                    if let Some(at) = of {
                        outcomes.extend(flows[at].completed(completion, mono_ns)?.map(|outcome| (at, outcome)));
                    }
                }
            }
            if device.is_lost() {
                return Err(VerbsError { doing: "go on: the RDMA device was lost", errno: libc::ENODEV }.into());
            }
            for (at, outcome) in exchange.renew(flows, monotonic_ns())? {
                outcomes.push((at, outcome));
            }
            for flow in flows.iter_mut() {
                flow.mend(monotonic_ns())?;
            }
            for (at, flow) in flows.iter_mut().enumerate() {
                outcomes.extend(flow.overdue(monotonic_ns(), timeout_ns)?.into_iter().map(|outcome| (at, outcome)));
            }
            for (at, outcome) in outcomes {
                match outcome.answer {
                    Some(answer) => {
                        report.answered += 1;
                        round_trip.take(answer.round_trip_ns);
                    }
                    None => {
                        report.lost += 1;
                        flows[at].lost += 1;
                    }
                }
                each(u16::try_from(at).unwrap_or(u16::MAX), &outcome);
            }
            if next >= plan.count && flows.iter().all(|flow| flow.in_flight.is_empty()) {
                return Ok((report, round_trip));
            }
            let wait_ns = if next < plan.count { due_ns.saturating_sub(monotonic_ns()) } else { 1_000_000 };
            // A flow that is not free is waited for, not spun for.
            let wait_ns = if flows[turn].is_free() { wait_ns } else { wait_ns.max(1_000_000) };
            wait(&mut watched(device, exchange), Duration::from_nanos(wait_ns.min(10_000_000)))
                .map_err(Stop::Failure)?;
        }
    }
}

/// What tells of news of the device and of the exchange.
fn watched<'a>(device: &'a Device, exchange: &'a Exchange) -> [PollFd<'a>; 3] {
    [device.fd(), device.trouble_fd(), exchange.socket.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN))
}

/// Asks the target's agent for queue pairs.
struct Exchange {
    socket: UdpSocket,
    target: SocketAddr,
    key: Key,
}

impl Exchange {
    fn new(plan: &Plan, key: &Key) -> Result<Self, Failure> {
        let any: IpAddr = if plan.target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let failed = |error| io_failure(format!("ask {} for a queue pair", plan.target), error);
        let socket = UdpSocket::bind((plan.source.unwrap_or(any), 0)).map_err(failed)?;
        socket.connect(plan.target).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket, target: plan.target, key: key.clone() })
    }

    fn own(&self) -> Result<IpAddr, Failure> {
        let local = self.socket.local_addr().map_err(|error| io_failure("ask for the own address", error))?;
        Ok(local.ip())
    }

    fn ask(&self, flow: &mut Flow, is_over: bool) -> io::Result<()> {
        flow.asked += 1;
        flow.asked_ns = monotonic_ns();
        flow.asked_psn = flow.psn;
        let loan = Loan { session: flow.session, sequence: flow.asked };
        let wish = Wish { is_over, ..flow.wish() };
        self.socket.send(&seal_wish(loan, &wish_with(wish.encode(), &flow.ticket), &self.key)).map(|_| ())
    }

    /// An answer that came.
    fn told(&self) -> Option<(Loan, Answer, Ticket)> {
        let mut bytes = [0; exchange::BYTES + 1];
        loop {
            match self.socket.recv(&mut bytes) {
                Ok(length) => {
                    let opened = open_answer(&bytes[..length], &self.key);
                    if let Some((loan, body)) = opened
                        && let Some(answer) = decode_answer(&body)
                    {
                        return Some((loan, answer, ticket_of_answer(&body)));
                    }
                }
                // The target's kernel says that nobody listens there: it is asked again all the same.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return None,
            }
        }
    }

    /// Borrows a queue pair, for a flow that has none.
    fn borrow(&self, flow: &mut Flow) -> Result<Lent, Failure> {
        let doing = || format!("borrow a queue pair of {}", self.target);
        for _ in 0..ASK_TIMES {
            self.ask(flow, false).map_err(|error| io_failure(doing(), error))?;
            let until_ns = monotonic_ns() + nanoseconds(ASK_AGAIN);
            loop {
                match self.told() {
                    // Of a helper that is slow, an earlier request's answer may come after the next was asked: it says the same.
                    Some((loan, answer, ticket)) if loan.session == flow.session => {
                        flow.ticket = ticket;
                        match answer {
                            // At once with the ticket that came.
                            Err(Refused::NoTicket) if loan.sequence == flow.asked => break,
                            // Asked again with the ticket already, or it has not found this host's neighbour address yet, maybe for loss on the way.
                            Err(Refused::NoTicket | Refused::Failed(libc::ETIMEDOUT)) => {}
                            Ok(lent) => return Ok(lent),
                            Err(refused) => return Err(failure(doing(), refused.to_string())),
                        }
                    }
                    Some(_) => continue,
                    None => {}
                }
                let left_ns = until_ns.saturating_sub(monotonic_ns());
                if left_ns == 0 {
                    break;
                }
                let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                let time = TimeSpec::from_duration(Duration::from_nanos(left_ns));
                // Woken or not, it is looked.
                let _ = ppoll(&mut polled, Some(time), None);
            }
        }
        let tried = ASK_AGAIN * ASK_TIMES;
        let why = format!(
            "no answer in {tried:?}: its agent needs [probe] enabled, the same key, and a version that lends queue pairs"
        );
        Err(failure(doing(), why))
    }

    /// Asks for longer, where it is time, and takes what was told; what was under way over a loan that had ended is lost.
    fn renew(&self, flows: &mut [Flow], now_ns: u64) -> Result<Vec<(usize, Outcome)>, VerbsError> {
        for flow in flows.iter_mut().filter(|flow| now_ns >= flow.renew_at_ns) {
            // Asked again in a while, unless the answer says how long it lasts. That it cannot be sent shows in the loan's end.
            flow.renew_at_ns = now_ns + nanoseconds(ASK_AGAIN);
            let _ = self.ask(flow, false);
        }
        let mut outcomes = Vec::new();
        while let Some((loan, answer, ticket)) = self.told() {
            // An older request's answer is older news.
            let is_it = |flow: &Flow| (flow.session, flow.asked) == (loan.session, loan.sequence);
            let Some(at) = flows.iter().position(is_it) else { continue };
            let flow = &mut flows[at];
            flow.ticket = ticket;
            match answer {
                Ok(lent) => {
                    if flow.take(lent)? {
                        outcomes.extend(flow.in_flight.drain(..).map(|probe| (at, lost(&probe))));
                    }
                }
                Err(Refused::Over) => {}
                Err(Refused::NoTicket) => flow.renew_at_ns = now_ns,
                // It is asked again: what is lent to others may come free, a helper may come back.
                Err(_) => flow.renew_at_ns = now_ns + 4 * nanoseconds(ASK_AGAIN),
            }
        }
        Ok(outcomes)
    }

    /// Tells that it is needed no longer; lost, the loan lapses.
    fn give_back(&self, flow: &mut Flow) {
        let _ = self.ask(flow, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tries_end_within_the_time_out() {
        for (timeout_ms, expected) in [(1000, 15), (200, 13), (1, 5), (100_000, 22)] {
            let exponent = try_exponent(timeout_ms * 1_000_000);
            assert_eq!(exponent, expected, "{timeout_ms} ms");
            assert!((4096u64 << exponent) * (u64::from(RETRIES) + 1) <= timeout_ms * 1_000_000);
        }
        assert_eq!(try_exponent(0), 1);
        assert_eq!(try_exponent(u64::MAX), 31);
    }

    #[test]
    fn a_flow_label_asks_for_its_source_port_and_never_for_none() {
        // As include/rdma/ib_verbs.h makes a port of a label.
        let port_of = |label: u32| (label & 0x3fff) ^ ((label & 0xf_c000) >> 14) | 0xc000;
        for port in [PORT_MIN, 50_000, u16::MAX] {
            assert_eq!(port_of(flow_label(port)), u32::from(port));
            assert_ne!(flow_label(port), 0);
        }
    }
}
