//! Carries a plan out: all flows on one thread.
//!
//! ```text
//!  plan ─► inbox ─► schedule (whose turn) ─► budget of the NIC ─► socket of (source, port) ~~ fabric ~~ a responder
//!                       flow (what each probe turned out to be) ◄─ socket, with the kernel's stamps ◄─┘
//!                          └─► results each interval, signals at once (alarm)
//! ```
//! In: plans ([`Mesh::plan`]), which are renewed before their lease ends. Out: [`Outlet`]. A plan of an earlier epoch or revision than
//! one that was taken is refused; one that is not renewed ends, and is counted; a flow that cannot be probed is named, and the others
//! are probed. Probes are judged only after every socket was read: what waited there while this thread was not let run is
//! no loss. Never: more than the plan's and the agent's own bound for a NIC, whatever the flows ask; a probe in a quiet window;
//! a wait for anybody who takes results.

use crate::alarm::{Alarm, ProbeSignal, Target};
use crate::flow::{Flow, FlowResult, Judged};
use crate::packet::{self, HEAD_BYTES, Key, Packet, Request, SIZE_MAX};
use crate::plan::{FLOWS_MAX, FlowSpec, MeshPlan, QUIET_MAX, train};
use crate::prober::random;
use crate::schedule::{Budget, Schedule, turn_after};
use crate::session::Instant;
use crate::socket::StampedSocket;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};
use railwatch_sampling::clock::{monotonic_ns, realtime_ns};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often probes without an answer are looked at, while there are any.
const SWEEP_NS: u64 = 20_000_000;
/// How often ends are told.
const TICK_NS: u64 = 1_000_000_000;
/// The shortest time between two reports.
const REPORT_MIN: Duration = Duration::from_millis(100);
/// Flows whose fault is told by name; the others are counted.
const NAMED_MAX: usize = 16;
/// Stamps that are awaited, of one socket.
const AWAITED_MAX: usize = 4096;
/// Memory for answers that wait, of one socket.
const RECEIVE_BYTES: usize = 256 * 1024;
/// Sockets looked at by one call.
const EVENTS: usize = 64;
/// The event that is no socket's.
const WOKEN: u64 = u64::MAX;

/// Who takes what the mesh tells. Called on its thread: must return at once.
pub trait Outlet: Send {
    /// What became of the probes judged from `from_ns` to `to_ns`, CLOCK_MONOTONIC.
    fn results(&mut self, revision: u64, from_ns: u64, to_ns: u64, flows: Vec<FlowResult>);
    /// Something to be told at once.
    fn signal(&mut self, signal: ProbeSignal);
}

/// What became of turns and probes since the start.
#[derive(Debug, Default)]
pub struct MeshCounts {
    /// Probes handed to the kernel.
    pub sent: AtomicU64,
    /// Judged: answered.
    pub answered: AtomicU64,
    /// Judged: lost.
    pub lost: AtomicU64,
    /// Not taken by the kernel, or lost by this host itself.
    pub unsent: AtomicU64,
    /// Left out: the NIC's budget was spent.
    pub over_budget: AtomicU64,
    /// Left out: in a quiet window.
    pub quiet: AtomicU64,
    /// Plans taken that said something new.
    pub plans_taken: AtomicU64,
    /// Plans taken that said nothing new.
    pub plans_renewed: AtomicU64,
    /// Plans refused, of an earlier epoch or revision.
    pub plans_refused: AtomicU64,
    /// Plans that ended because nobody renewed them.
    pub plans_lapsed: AtomicU64,
}

/// How the mesh stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshState {
    /// Of the plan that is carried out; 0: none is.
    pub revision: u64,
    /// Flows that are probed.
    pub flows: usize,
    /// Flows that cannot be, the first ones: number, and why.
    pub off: Vec<(u64, String)>,
    /// How many there are.
    pub off_count: usize,
    /// Why nothing can be probed at all.
    pub failed: Option<String>,
}

#[derive(Default)]
struct Inbox {
    /// The highest epoch and revision taken.
    taken: (u64, u64),
    plan: Option<MeshPlan>,
    is_forgotten: bool,
    is_stopped: bool,
}

struct Common {
    inbox: Mutex<Inbox>,
    wake: EventFd,
    counts: Arc<MeshCounts>,
    state: Mutex<MeshState>,
}

/// The agent's end.
pub struct Mesh {
    common: Arc<Common>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Mesh {
    /// Starts the thread, which probes nothing until a plan comes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn start(key: Key, packets_per_s_per_nic_max: u32, outlet: Box<dyn Outlet>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WOKEN))?;
        let common =
            Arc::new(Common { inbox: Mutex::default(), wake, counts: Arc::default(), state: Mutex::default() });
        let runner = Runner {
            common: Arc::clone(&common),
            epoll,
            key,
            own_max: packets_per_s_per_nic_max,
            outlet,
            plan: MeshPlan::default(),
            lease_end_ns: u64::MAX,
            sockets: Vec::new(),
            by_source: HashMap::new(),
            slots: Vec::new(),
            by_session: HashMap::new(),
            next_session: random()?,
            sockets_max: sockets_max(),
            schedule: Schedule::default(),
            budgets: HashMap::new(),
            alive: HashMap::new(),
            waiting: Vec::new(),
            alarm: Alarm::default(),
            bytes: Vec::new(),
            buffer: vec![0; SIZE_MAX],
            reported_ns: monotonic_ns(),
            sweep_ns: u64::MAX,
            tick_ns: 0,
        };
        let thread = std::thread::Builder::new().name("probe-mesh".into()).spawn(move || runner.run())?;
        Ok(Self { common, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a plan, in place of the one before; returns whether it was taken.
    pub fn plan(&self, plan: MeshPlan) -> bool {
        let mut inbox = locked(&self.common.inbox);
        if (plan.epoch, plan.revision) < inbox.taken {
            self.common.counts.plans_refused.fetch_add(1, Relaxed);
            return false;
        }
        inbox.taken = (plan.epoch, plan.revision);
        inbox.plan = Some(plan);
        drop(inbox);
        self.wake();
        true
    }

    /// Ends all probing, and forgets which epochs were heard of: another planner's begin anew.
    pub fn forget(&self) {
        *locked(&self.common.inbox) = Inbox { is_forgotten: true, ..Inbox::default() };
        self.wake();
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> MeshState {
        locked(&self.common.state).clone()
    }

    /// What became of probes.
    #[must_use]
    pub fn counts(&self) -> Arc<MeshCounts> {
        Arc::clone(&self.common.counts)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        locked(&self.common.inbox).is_stopped = true;
        self.wake();
        let thread = locked(&self.thread).take();
        // A thread that had ended by a panic has said so itself.
        let _ = thread.map(JoinHandle::join);
    }

    fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = self.common.wake.write(1);
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values are replaced whole under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Socket {
    stamped: StampedSocket,
    source: (IpAddr, u16),
    /// Number of the socket, session and sequence of probes whose stamp is awaited.
    awaited: VecDeque<(u32, u64, u64)>,
    overflowed: u32,
}

struct Slot {
    spec: FlowSpec,
    flow: Flow,
    socket: usize,
    target: Target,
    interval_ns: u64,
    due_ns: u64,
    /// Payload of a datagram, and datagrams of a turn.
    train: (usize, u32),
    is_waiting: bool,
}

struct Runner {
    common: Arc<Common>,
    epoll: Epoll,
    key: Key,
    own_max: u32,
    outlet: Box<dyn Outlet>,
    plan: MeshPlan,
    lease_end_ns: u64,
    /// By the number that epoll has for them.
    sockets: Vec<Option<Socket>>,
    by_source: HashMap<(IpAddr, u16), usize>,
    slots: Vec<Slot>,
    by_session: HashMap<u64, usize>,
    sockets_max: usize,
    next_session: u64,
    schedule: Schedule,
    budgets: HashMap<Arc<str>, Budget>,
    /// By host of a target: when the latest of its answered probes was sent.
    alive: HashMap<Arc<str>, u64>,
    /// Slots that have sent and may await answers.
    waiting: Vec<usize>,
    alarm: Alarm,
    bytes: Vec<u8>,
    buffer: Vec<u8>,
    reported_ns: u64,
    sweep_ns: u64,
    tick_ns: u64,
}

impl Runner {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let ready = match self.epoll.wait(&mut events, self.time_left()) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => {
                    locked(&self.common.state).failed = Some(format!("wait for answers: {errno}"));
                    return;
                }
            };
            for event in &events[..ready] {
                match event.data() {
                    WOKEN => _ = self.common.wake.read(),
                    socket => self.listen(usize::try_from(socket).unwrap_or(usize::MAX)),
                }
            }
            let now_ns = monotonic_ns();
            if !self.take_inbox(now_ns) {
                return;
            }
            self.send_due(now_ns);
            // Only once no socket has more: an answer that waits is an answer.
            if now_ns >= self.sweep_ns && ready < EVENTS {
                self.sweep(now_ns);
            }
            if now_ns >= self.tick_ns {
                self.tick_ns = now_ns + TICK_NS;
                let outlet = &mut self.outlet;
                self.alarm.tick(now_ns, |signal| outlet.signal(signal));
            }
            if now_ns >= self.report_ns() {
                self.report(now_ns);
            }
        }
    }

    fn report_ns(&self) -> u64 {
        self.reported_ns + nanoseconds(self.plan.report_every.max(REPORT_MIN))
    }

    fn time_left(&self) -> EpollTimeout {
        if self.slots.is_empty() {
            return EpollTimeout::NONE;
        }
        let next = [self.sweep_ns, self.report_ns(), self.tick_ns, self.lease_end_ns];
        let next = next.into_iter().chain(self.schedule.next_ns()).min().unwrap_or(0);
        let left_ms = next.saturating_sub(monotonic_ns()).div_ceil(1_000_000);
        EpollTimeout::try_from(u32::try_from(left_ms).unwrap_or(1000).min(1000)).unwrap_or(EpollTimeout::ZERO)
    }

    /// `false` at the end.
    fn take_inbox(&mut self, now_ns: u64) -> bool {
        let (plan, is_forgotten) = {
            let mut inbox = locked(&self.common.inbox);
            if inbox.is_stopped {
                return false;
            }
            (inbox.plan.take(), std::mem::take(&mut inbox.is_forgotten))
        };
        if is_forgotten {
            self.carry_out(MeshPlan::default(), now_ns);
        }
        if let Some(plan) = plan {
            self.lease_end_ns = now_ns.saturating_add(nanoseconds(plan.lease));
            let counts = &self.common.counts;
            if plan == self.plan {
                counts.plans_renewed.fetch_add(1, Relaxed);
            } else {
                counts.plans_taken.fetch_add(1, Relaxed);
                self.carry_out(plan, now_ns);
            }
        }
        if now_ns >= self.lease_end_ns && !self.slots.is_empty() {
            self.common.counts.plans_lapsed.fetch_add(1, Relaxed);
            self.carry_out(MeshPlan::default(), now_ns);
        }
        true
    }

    /// Goes over to another plan: flows that stay keep their history, their sockets and their turns.
    fn carry_out(&mut self, plan: MeshPlan, now_ns: u64) {
        self.report(now_ns);
        let mut before: HashMap<u64, Slot> = self.slots.drain(..).map(|slot| (slot.spec.id, slot)).collect();
        self.by_session.clear();
        self.schedule.clear();
        self.waiting.clear();
        let mut off: Vec<(u64, String)> = plan.malformed.clone();
        let per_s = plan.packets_per_s_per_nic_max.min(self.own_max);
        let wanted = &plan.flows[..plan.flows.len().min(FLOWS_MAX)];
        for spec in wanted {
            if let Some(fault) = spec.fault() {
                off.push((spec.id, fault));
                continue;
            }
            match self.slot(spec, before.remove(&spec.id), now_ns) {
                Ok(slot) if !self.by_session.contains_key(&slot.flow.session()) => {
                    let place = self.slots.len();
                    self.by_session.insert(slot.flow.session(), place);
                    self.schedule.add(place, slot.due_ns);
                    if slot.is_waiting {
                        self.waiting.push(place);
                    }
                    self.bytes.resize(self.bytes.len().max(slot.train.0), 0);
                    self.slots.push(slot);
                }
                Ok(_) => off.push((spec.id, "its number is another flow's too".into())),
                Err(error) => {
                    let (source, port) = (spec.source, spec.source_port);
                    off.push((spec.id, format!("send from {source} port {port}: {error}")));
                }
            }
        }
        off.extend(plan.flows[wanted.len()..].iter().map(|spec| (spec.id, format!("beyond {FLOWS_MAX} flows"))));
        drop(before);
        // What no flow uses any more is closed.
        for (place, socket) in self.sockets.iter_mut().enumerate() {
            if !self.slots.iter().any(|slot| slot.socket == place)
                && let Some(socket) = socket.take()
            {
                self.by_source.remove(&socket.source);
            }
        }
        let slots = &self.slots;
        self.budgets.retain(|interface, _| slots.iter().any(|slot| slot.spec.interface == *interface));
        for slot in slots {
            let budget = self.budgets.entry(Arc::clone(&slot.spec.interface));
            budget.or_insert_with(|| Budget::new(per_s, now_ns)).set(per_s);
        }
        self.alive.retain(|host, _| slots.iter().any(|slot| slot.spec.target_host == *host));
        let outlet = &mut self.outlet;
        let probed = |target: &Target| slots.iter().any(|slot| slot.target == *target);
        self.alarm.keep(probed, now_ns, |signal| outlet.signal(signal));
        self.sweep_ns = if self.waiting.is_empty() { u64::MAX } else { now_ns + SWEEP_NS };
        *locked(&self.common.state) = MeshState {
            revision: if self.slots.is_empty() { 0 } else { plan.revision },
            flows: self.slots.len(),
            off_count: off.len(),
            off: off.into_iter().take(NAMED_MAX).collect(),
            failed: None,
        };
        self.plan = plan;
    }

    fn slot(&mut self, spec: &FlowSpec, before: Option<Slot>, now_ns: u64) -> io::Result<Slot> {
        let interval_ns = nanoseconds(spec.interval);
        if let Some(mut slot) = before.filter(|slot| spec.continues(&slot.spec)) {
            if slot.spec != *spec {
                slot.flow.set_interval(spec.interval);
                slot.due_ns = now_ns + nanoseconds(spec.offset) % interval_ns;
            }
            (slot.spec, slot.interval_ns) = (spec.clone(), interval_ns);
            return Ok(slot);
        }
        let socket = self.socket(spec)?;
        self.next_session = self.next_session.wrapping_add(1);
        let stamped = self.sockets.get(socket).and_then(Option::as_ref).map(|socket| &socket.stamped);
        let datagram_max = match stamped.filter(|_| spec.size_bytes > HEAD_BYTES) {
            Some(stamped) => stamped.payload_max(spec.destination)?,
            None => SIZE_MAX,
        };
        Ok(Slot {
            flow: Flow::new(self.next_session, spec.timeout, spec.interval),
            socket,
            target: Target::of(spec),
            interval_ns,
            due_ns: now_ns + nanoseconds(spec.offset),
            train: train(spec.size_bytes, datagram_max),
            is_waiting: false,
            spec: spec.clone(),
        })
    }

    /// The socket of a flow's source, shared by all flows of it.
    fn socket(&mut self, spec: &FlowSpec) -> io::Result<usize> {
        let source = (spec.source, spec.source_port);
        if let Some(place) = self.by_source.get(&source) {
            return Ok(*place);
        }
        if self.by_source.len() >= self.sockets_max {
            let why = format!("{} sockets are open, half of what RLIMIT_NOFILE allows", self.by_source.len());
            return Err(io::Error::other(why));
        }
        let stamped = StampedSocket::bind(SocketAddr::from(source), spec.dscp << 2)?;
        stamped.widen(RECEIVE_BYTES);
        let place = self.sockets.iter().position(Option::is_none).unwrap_or(self.sockets.len());
        self.epoll.add(&stamped, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
        let socket = Socket { stamped, source, awaited: VecDeque::new(), overflowed: 0 };
        match self.sockets.get_mut(place) {
            Some(free) => *free = Some(socket),
            None => self.sockets.push(Some(socket)),
        }
        self.by_source.insert(source, place);
        Ok(place)
    }

    fn send_due(&mut self, now_ns: u64) {
        let mut is_quiet = None;
        while let Some((place, at_ns)) = self.schedule.take(now_ns) {
            let quiet = *is_quiet.get_or_insert_with(|| self.is_quiet());
            let Some(slot) = self.slots.get_mut(place) else { continue };
            slot.due_ns = turn_after(at_ns, slot.interval_ns, now_ns);
            self.schedule.add(place, slot.due_ns);
            let packets = slot.train.1;
            let counts = &self.common.counts;
            if quiet {
                counts.quiet.fetch_add(packets.into(), Relaxed);
            } else if !self.budgets.get_mut(&slot.spec.interface).is_some_and(|budget| budget.take(packets, now_ns)) {
                counts.over_budget.fetch_add(packets.into(), Relaxed);
            } else {
                self.send(place, now_ns);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let quiet = &self.plan.quiet[..self.plan.quiet.len().min(QUIET_MAX)];
        if quiet.is_empty() {
            return false;
        }
        let now = realtime_ns();
        quiet.iter().any(|quiet| (quiet.from_unix_ns..quiet.to_unix_ns).contains(&now))
    }

    /// One turn of a flow.
    fn send(&mut self, place: usize, now_ns: u64) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        let Some(socket) = self.sockets.get_mut(slot.socket).and_then(Option::as_mut) else { return };
        let (size, packets) = slot.train;
        let bytes = &mut self.bytes[..size];
        for _ in 0..packets {
            let (session, sequence) = (slot.flow.session(), slot.flow.next());
            packet::encode(&Packet::Request(Request { session, sequence }), bytes, &self.key);
            let sent = Instant { unix_ns: realtime_ns(), mono_ns: monotonic_ns() };
            match socket.stamped.send_to(bytes, slot.spec.destination, slot.spec.dscp << 2) {
                Ok(id) => {
                    slot.flow.sent(sent);
                    if socket.awaited.len() >= AWAITED_MAX {
                        socket.awaited.pop_front();
                    }
                    socket.awaited.push_back((id, session, sequence));
                    self.common.counts.sent.fetch_add(1, Relaxed);
                }
                Err(_) => {
                    slot.flow.refused();
                    self.common.counts.unsent.fetch_add(1, Relaxed);
                    // The socket counts anew.
                    socket.awaited.clear();
                }
            }
        }
        if !slot.is_waiting {
            slot.is_waiting = true;
            self.waiting.push(place);
            self.sweep_ns = self.sweep_ns.min(now_ns + SWEEP_NS);
        }
        // Most drivers stamp within the call that sends: taken here, stamps wake nobody.
        let most = socket.awaited.len();
        take_stamps(socket, &mut self.slots, &self.by_session, most);
    }

    /// Takes what a socket has.
    fn listen(&mut self, place: usize) {
        let Some(socket) = self.sockets.get_mut(place).and_then(Option::as_mut) else { return };
        take_stamps(socket, &mut self.slots, &self.by_session, usize::MAX);
        while let Some(socket) = self.sockets.get_mut(place).and_then(Option::as_mut)
            // An error of the socket is none of its answers: those that wait are still read.
            && let Ok(Some(received)) = socket.stamped.receive(&mut self.buffer)
        {
            let read = Instant { unix_ns: realtime_ns(), mono_ns: monotonic_ns() };
            let bytes = self.buffer.get(..received.length).unwrap_or_default();
            let Ok(Packet::Answer(answer)) = packet::decode(bytes, &self.key) else { continue };
            let Some(&of) = self.by_session.get(&answer.session) else { continue };
            let Some(slot) = self.slots.get_mut(of).filter(|slot| slot.socket == place) else { continue };
            let Some(sent_ns) = slot.flow.answered(&answer, received.stamp_unix_ns, read) else { continue };
            match self.alive.get_mut(&slot.spec.target_host) {
                Some(alive_ns) => *alive_ns = sent_ns.max(*alive_ns),
                None => _ = self.alive.insert(Arc::clone(&slot.spec.target_host), sent_ns),
            }
            self.judge(of, read.mono_ns, false);
        }
    }

    /// Judges what a flow's probes turned out to be; losses only where `with_losses`.
    fn judge(&mut self, place: usize, now_ns: u64, with_losses: bool) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        let alive_ns = self.alive.get(&slot.spec.target_host).copied().unwrap_or(0);
        let mut own = 0;
        if slot.flow.has_lost(now_ns, alive_ns) {
            if !with_losses {
                return;
            }
            if let Some(socket) = self.sockets.get_mut(slot.socket).and_then(Option::as_mut) {
                let overflowed = socket.stamped.overflowed().unwrap_or(0);
                own = overflowed.wrapping_sub(std::mem::replace(&mut socket.overflowed, overflowed));
            }
        }
        let judged = slot.flow.judge(now_ns, alive_ns, &mut own);
        if let Some(socket) = self.sockets.get_mut(slot.socket).and_then(Option::as_mut) {
            // Of another flow of this socket.
            socket.overflowed = socket.overflowed.wrapping_sub(own);
        }
        if judged == Judged::default() {
            return;
        }
        let counts = &self.common.counts;
        counts.answered.fetch_add(judged.answered.into(), Relaxed);
        counts.lost.fetch_add(judged.lost.into(), Relaxed);
        counts.unsent.fetch_add(judged.unsent.into(), Relaxed);
        let outlet = &mut self.outlet;
        self.alarm.take(&slot.target, &slot.spec, &judged, now_ns, |signal| outlet.signal(signal));
    }

    fn sweep(&mut self, now_ns: u64) {
        let mut at = 0;
        while let Some(&place) = self.waiting.get(at) {
            self.judge(place, now_ns, true);
            match self.slots.get_mut(place) {
                Some(slot) if slot.flow.awaits() => at += 1,
                slot => {
                    let _ = slot.map(|slot| slot.is_waiting = false);
                    self.waiting.swap_remove(at);
                }
            }
        }
        self.sweep_ns = if self.waiting.is_empty() { u64::MAX } else { now_ns + SWEEP_NS };
    }

    fn report(&mut self, now_ns: u64) {
        let flows: Vec<_> = self.slots.iter_mut().filter_map(|slot| slot.flow.report(slot.spec.id)).collect();
        let from_ns = std::mem::replace(&mut self.reported_ns, now_ns);
        if !flows.is_empty() {
            self.outlet.results(self.plan.revision, from_ns, now_ns, flows);
        }
    }
}

fn take_stamps(socket: &mut Socket, slots: &mut [Slot], by_session: &HashMap<u64, usize>, most: usize) {
    let Socket { stamped, awaited, .. } = socket;
    // What the kernel says of an error queue that cannot be read is that no stamps come: probes go without times then.
    let _ = stamped.stamps(most, |stamp| {
        let Some(at) = awaited.iter().position(|(id, ..)| *id == stamp.id) else { return };
        let Some((_, session, sequence)) = awaited.remove(at) else { return };
        if let Some(slot) = by_session.get(&session).and_then(|place| slots.get_mut(*place)) {
            slot.flow.left(sequence, stamp.stamp_unix_ns);
        }
    });
}

/// Of the files that this process may have open, half are left to others.
fn sockets_max() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft / 2).unwrap_or(usize::MAX)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
