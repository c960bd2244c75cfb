//! The mesh's thread: plans taken, turns given, outcomes told.
//!
//! In: the inbox, the clock, what epoll says. Out: turns for each flow's lane ([`super::datagrams`], [`super::streams`]); results and signals
//! for the outlet. Datagrams wake nobody: at each tick those that came since the last are read, and those whose turn it is are sent, by one wake of
//! the thread. Never: a look at probes without an answer while a socket has more to read.

use super::datagrams::{Datagrams, Socket};
use super::streams::Stream;
use super::{Common, MeshState, Outlet, locked};
use crate::alarm::{Alarm, Target};
use crate::flow::Judged;
use crate::packet::{Key, SIZE_MAX};
use crate::plan::{FLOWS_MAX, FlowSpec, INTERVAL_MIN, MeshPlan, QUIET_MAX, Transport};
use crate::prober::random;
use crate::schedule::{Budget, Schedule, TICK_MAX, turn_after};
use crate::tally::FlowResult;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};
use nix::sys::prctl::set_timerslack;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::time::TimeSpec;
use railwatch_sampling::clock::{monotonic_ns, nanoseconds, realtime_ns};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How often probes without an answer are looked at, while there are any.
const SWEEP_NS: u64 = 20_000_000;
/// How often ends are told.
const ALARM_NS: u64 = 1_000_000_000;
/// The longest sleep: a plan may come without a wake where the kernel refused it.
const SLEEP_NS_MAX: u64 = 1_000_000_000;
/// How late a sleep may end.
const SLACK_NS: libc::c_ulong = 1000;
/// The shortest time between two reports.
const REPORT_MIN: Duration = Duration::from_millis(100);
/// Flows whose fault is told by name; the others are counted.
const NAMED_MAX: usize = 16;
/// Sockets looked at by one call.
const EVENTS: usize = 64;
/// The event that is no socket's.
pub(super) const WOKEN: u64 = u64::MAX;
/// Events from here on are of connections.
const STREAMS: u64 = 1 << 63;

/// A flow.
pub(super) struct Slot {
    pub(super) spec: FlowSpec,
    pub(super) lane: Lane,
    pub(super) target: Target,
    interval_ns: u64,
    due_ns: u64,
    pub(super) is_waiting: bool,
}

/// What carries its probes.
pub(super) enum Lane {
    Datagrams(Box<Datagrams>),
    Stream(Box<Stream>),
}

impl Slot {
    /// Packets of a turn that this host sends by the flow's word. What the kernel adds to a stream is beyond it: the
    /// acknowledgement of each answer, and what it sends again.
    fn packets(&self) -> u32 {
        match &self.lane {
            Lane::Datagrams(lane) => lane.train.1,
            Lane::Stream(lane) => lane.packets(),
        }
    }

    fn awaits(&self) -> bool {
        match &self.lane {
            Lane::Datagrams(lane) => lane.flow.awaits(),
            Lane::Stream(lane) => lane.link.awaits(),
        }
    }

    fn report(&mut self) -> Option<FlowResult> {
        match &mut self.lane {
            Lane::Datagrams(lane) => lane.flow.report(self.spec.id),
            Lane::Stream(lane) => lane.tally.report(self.spec.id),
        }
    }
}

/// The thread.
pub(super) struct Runner {
    pub(super) common: Arc<Common>,
    /// What the thread sleeps on: connections, and who wakes it.
    pub(super) epoll: Epoll,
    pub(super) key: Key,
    own_max: u32,
    outlet: Box<dyn Outlet>,
    plan: MeshPlan,
    lease_end_ns: u64,
    /// Of datagrams.
    pub(super) sockets: Vec<Option<Socket>>,
    pub(super) by_source: HashMap<(IpAddr, u16), usize>,
    pub(super) slots: Vec<Slot>,
    pub(super) by_session: HashMap<u64, usize>,
    /// Flows over TCP, by the number that epoll has for their connections.
    pub(super) by_stream: HashMap<u64, usize>,
    sockets_max: usize,
    next_session: u64,
    next_stream: u64,
    pub(super) schedule: Schedule,
    budgets: HashMap<Arc<str>, Budget>,
    /// By host of a target: when the latest of its answered probes was sent.
    alive: HashMap<Arc<str>, u64>,
    /// Slots that have sent and may await answers.
    pub(super) waiting: Vec<usize>,
    alarm: Alarm,
    pub(super) bytes: Vec<u8>,
    pub(super) buffer: Vec<u8>,
    reported_ns: u64,
    /// When datagrams are read next; never, while none are awaited.
    post_ns: u64,
    sweep_ns: u64,
    alarm_ns: u64,
}

impl Runner {
    pub(super) fn new(
        common: Arc<Common>,
        epoll: Epoll,
        key: Key,
        own_max: u32,
        outlet: Box<dyn Outlet>,
    ) -> io::Result<Self> {
        Ok(Self {
            common,
            epoll,
            key,
            own_max,
            outlet,
            plan: MeshPlan::default(),
            lease_end_ns: u64::MAX,
            sockets: Vec::new(),
            by_source: HashMap::new(),
            slots: Vec::new(),
            by_session: HashMap::new(),
            by_stream: HashMap::new(),
            next_session: random()?,
            next_stream: STREAMS,
            sockets_max: sockets_max(),
            schedule: Schedule::new(random()? % nanoseconds(TICK_MAX)),
            budgets: HashMap::new(),
            alive: HashMap::new(),
            waiting: Vec::new(),
            alarm: Alarm::default(),
            bytes: Vec::new(),
            buffer: vec![0; SIZE_MAX],
            reported_ns: monotonic_ns(),
            post_ns: u64::MAX,
            sweep_ns: u64::MAX,
            alarm_ns: 0,
        })
    }

    pub(super) fn run(mut self) {
        // By default a sleep may end 50 µs late, which would pass for this host's delay.
        let _ = set_timerslack(SLACK_NS);
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let ready = match self.sleep(&mut events) {
                Ok(ready) => ready,
                Err(errno) => {
                    locked(&self.common.state).failed = Some(format!("wait for answers: {errno}"));
                    return;
                }
            };
            for event in &events[..ready] {
                match event.data() {
                    WOKEN => _ = self.common.wake.read(),
                    stream => self.listen_stream(stream),
                }
            }
            let now_ns = monotonic_ns();
            let due_ns = std::mem::replace(&mut self.post_ns, u64::MAX);
            let is_dry = now_ns >= due_ns.min(self.sweep_ns) && self.read_post(due_ns.min(now_ns));
            if !self.take_inbox(now_ns) {
                return;
            }
            self.send_due(now_ns);
            // Only once no socket has more, which of connections the next look tells: an answer that waits is an answer.
            if now_ns >= self.sweep_ns && is_dry && ready == 0 {
                self.sweep(now_ns);
            }
            if !self.waiting.is_empty() {
                self.post_ns = self.post_ns.min(self.schedule.tick_at(now_ns + 1));
            }
            if now_ns >= self.alarm_ns {
                self.alarm_ns = now_ns + ALARM_NS;
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

    /// Sleeps until there is something to do, and says of which connections, and who woke it, there is. A tick costs one call here: epoll_wait(2)
    /// alone sleeps by milliseconds.
    fn sleep(&self, events: &mut [EpollEvent]) -> nix::Result<usize> {
        let left = self.time_left().map(TimeSpec::from_duration);
        let mut polled = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut polled, left, None) {
            Ok(0) | Err(Errno::EINTR) => Ok(0),
            Ok(_) => match self.epoll.wait(events, EpollTimeout::ZERO) {
                Err(Errno::EINTR) => Ok(0),
                ready => ready,
            },
            Err(errno) => Err(errno),
        }
    }

    fn time_left(&self) -> Option<Duration> {
        if self.slots.is_empty() {
            return None;
        }
        let next = [self.post_ns, self.sweep_ns, self.report_ns(), self.alarm_ns, self.lease_end_ns];
        let next = next.into_iter().chain(self.schedule.next_ns()).min().unwrap_or(0);
        Some(Duration::from_nanos(next.saturating_sub(monotonic_ns()).min(SLEEP_NS_MAX)))
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
        self.by_stream.clear();
        self.waiting.clear();
        self.post_ns = u64::MAX;
        let mut off: Vec<(u64, String)> = plan.malformed.clone();
        let per_s = plan.packets_per_s_per_nic_max.min(self.own_max);
        let wanted = &plan.flows[..plan.flows.len().min(FLOWS_MAX)];
        let intervals = wanted.iter().map(|spec| spec.interval.max(INTERVAL_MIN));
        self.schedule.clear(nanoseconds(intervals.min().unwrap_or(TICK_MAX)));
        for spec in wanted {
            if let Some(fault) = spec.fault() {
                off.push((spec.id, fault));
                continue;
            }
            match self.slot(spec, before.remove(&spec.id), now_ns) {
                Ok(slot) => {
                    let place = self.slots.len();
                    match &slot.lane {
                        Lane::Datagrams(lane) => {
                            self.by_session.insert(lane.flow.session(), place);
                            self.bytes.resize(self.bytes.len().max(lane.train.0), 0);
                        }
                        Lane::Stream(lane) => _ = self.by_stream.insert(lane.number, place),
                    }
                    self.schedule.add(place, slot.due_ns);
                    if slot.is_waiting {
                        self.waiting.push(place);
                    }
                    self.slots.push(slot);
                }
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
            let is_its = |slot: &Slot| matches!(&slot.lane, Lane::Datagrams(lane) if lane.socket == place);
            if !self.slots.iter().any(is_its)
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
        self.sweep_ns = if self.waiting.is_empty() { u64::MAX } else { self.sweep_after(now_ns) };
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
                match &mut slot.lane {
                    Lane::Datagrams(lane) => lane.flow.set_interval(spec.interval),
                    Lane::Stream(lane) => lane.link.set_interval(spec.interval),
                }
                slot.due_ns = now_ns + nanoseconds(spec.offset) % interval_ns;
            }
            (slot.spec, slot.interval_ns) = (spec.clone(), interval_ns);
            return Ok(slot);
        }
        self.next_session = self.next_session.wrapping_add(1);
        let lane = match spec.transport {
            Transport::Udp => Lane::Datagrams(Box::new(self.datagrams(spec, self.next_session)?)),
            Transport::Tcp => {
                self.next_stream += 1;
                self.may_open()?;
                let connects = Arc::clone(&self.common.counts.connects);
                Lane::Stream(Box::new(Stream::new(spec, self.next_stream, self.next_session, connects)))
            }
            #[cfg(feature = "verbs")]
            Transport::RdmaUd | Transport::RdmaRc => {
                return Err(io::Error::other("probes over RDMA are sent by hand alone"));
            }
        };
        Ok(Slot {
            lane,
            target: Target::of(spec),
            interval_ns,
            due_ns: now_ns + nanoseconds(spec.offset),
            is_waiting: false,
            spec: spec.clone(),
        })
    }

    /// Whether one more socket may be opened.
    pub(super) fn may_open(&self) -> io::Result<()> {
        let open = self.by_source.len() + self.by_stream.len();
        if open >= self.sockets_max {
            let why = format!("{open} sockets are open, half of what RLIMIT_NOFILE allows");
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    fn send_due(&mut self, now_ns: u64) {
        let mut is_quiet = None;
        while let Some((place, at_ns)) = self.schedule.take(now_ns) {
            let quiet = *is_quiet.get_or_insert_with(|| self.is_quiet());
            let Some(slot) = self.slots.get_mut(place) else { continue };
            let (packets, counts) = (slot.packets(), &self.common.counts);
            let budget = self.budgets.get_mut(&slot.spec.interface);
            let tick_ns = self.schedule.tick_ns();
            if !quiet && budget.as_ref().is_some_and(|budget| !budget.has_room(now_ns, tick_ns)) {
                self.schedule.put_off(place, at_ns, now_ns);
                continue;
            }
            slot.due_ns = turn_after(at_ns, slot.interval_ns, now_ns);
            self.schedule.add(place, slot.due_ns);
            let taken =
                |budget: &mut Budget| budget.take(packets, now_ns).then(|| budget.note(packets, now_ns, tick_ns));
            if quiet {
                counts.quiet.fetch_add(packets.into(), Relaxed);
            } else if budget.and_then(taken).is_none() {
                counts.over_budget.fetch_add(packets.into(), Relaxed);
            } else {
                match slot.lane {
                    Lane::Datagrams(_) => self.send(place),
                    Lane::Stream(_) => self.send_stream(place),
                }
                self.wait_for(place, now_ns);
            }
        }
    }

    /// A flow may await answers.
    fn wait_for(&mut self, place: usize, now_ns: u64) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        if !std::mem::replace(&mut slot.is_waiting, true) {
            self.waiting.push(place);
            self.sweep_ns = self.sweep_ns.min(self.sweep_after(now_ns));
        }
    }

    /// The tick in which probes without an answer are looked at next.
    fn sweep_after(&self, now_ns: u64) -> u64 {
        self.schedule.tick_at(now_ns + 1 + SWEEP_NS.saturating_sub(self.schedule.tick_ns()))
    }

    fn is_quiet(&self) -> bool {
        let quiet = &self.plan.quiet[..self.plan.quiet.len().min(QUIET_MAX)];
        if quiet.is_empty() {
            return false;
        }
        let now = realtime_ns();
        quiet.iter().any(|quiet| (quiet.from_unix_ns..quiet.to_unix_ns).contains(&now))
    }

    /// A probe of a flow was answered that was sent at `sent_ns`: its host lives.
    pub(super) fn lives(&mut self, place: usize, sent_ns: u64) {
        let Some(slot) = self.slots.get(place) else { return };
        match self.alive.get_mut(&slot.spec.target_host) {
            Some(alive_ns) => *alive_ns = sent_ns.max(*alive_ns),
            None => _ = self.alive.insert(Arc::clone(&slot.spec.target_host), sent_ns),
        }
    }

    /// When the latest probe was sent that the flow's host answered.
    pub(super) fn alive_ns(&self, place: usize) -> u64 {
        let slot = self.slots.get(place);
        slot.and_then(|slot| self.alive.get(&slot.spec.target_host)).copied().unwrap_or(0)
    }

    /// Counts what a flow learned, and tells of it what is to be told at once.
    pub(super) fn learned(&mut self, place: usize, judged: &Judged, now_ns: u64) {
        let Some(slot) = self.slots.get(place).filter(|_| *judged != Judged::default()) else { return };
        let counts = &self.common.counts;
        counts.answered.fetch_add(judged.answered.into(), Relaxed);
        counts.lost.fetch_add(judged.lost.into(), Relaxed);
        counts.unsent.fetch_add(judged.unsent.into(), Relaxed);
        let outlet = &mut self.outlet;
        self.alarm.take(&slot.target, &slot.spec, judged, now_ns, |signal| outlet.signal(signal));
    }

    /// Looks at probes without an answer.
    fn sweep(&mut self, now_ns: u64) {
        let mut at = 0;
        while let Some(&place) = self.waiting.get(at) {
            match self.slots.get(place).map(|slot| &slot.lane) {
                Some(Lane::Stream(_)) => self.sweep_stream(place, now_ns),
                _ => self.judge(place, now_ns, true),
            }
            match self.slots.get_mut(place) {
                Some(slot) if slot.awaits() => at += 1,
                slot => {
                    let _ = slot.map(|slot| slot.is_waiting = false);
                    self.waiting.swap_remove(at);
                }
            }
        }
        self.sweep_ns = if self.waiting.is_empty() { u64::MAX } else { self.sweep_after(now_ns) };
    }

    fn report(&mut self, now_ns: u64) {
        let flows: Vec<_> = self.slots.iter_mut().filter_map(Slot::report).collect();
        let from_ns = std::mem::replace(&mut self.reported_ns, now_ns);
        if !flows.is_empty() {
            self.outlet.results(self.plan.revision, from_ns, now_ns, flows);
        }
    }
}

/// Of the files that this process may have open, half are left to others.
fn sockets_max() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft / 2).unwrap_or(usize::MAX)
}
