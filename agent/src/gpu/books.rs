//! The thread of events and books: signals within milliseconds of the call, state as it changes.
//!
//! The ring keeps every failed allocation until the uplink has its signal in the spool, so that a kill of the agent in
//! between loses nothing: the next agent reads it again, and leaves out what the spool knows.

use super::failure::{Due, Failures, Taken, Who, signal};
use super::table::Table;
use super::{Discovered, Stop, locked};
use crate::loss::{Fate, LossBook, MALFORMED};
use crate::outbox::Outbox;
use crate::shared::Shared;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use railwatch_abi::event::EventKind;
use railwatch_gpu::accounts::{Accounts, Snapshot};
use railwatch_gpu::discovery::{Probes, container_of};
use railwatch_gpu::kernel::{Custody, Event, Kernel, Loss};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_uplink::{Origin, Receipt};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often the books are read while something in them moves.
const REFRESH_NS: u64 = 250_000_000;
/// How often while nothing does: each reading that shows nothing new doubles the pause, up to this.
const REFRESH_STILL_NS: u64 = 500_000_000;
/// How often while no process on this host uses a GPU: then only the counts of losses could move.
const REFRESH_IDLE_NS: u64 = 1_000_000_000;
/// Reading the books may take at most this share of the time: one part in two hundred.
const REFRESH_SHARE: u64 = 200;
/// Longest time between two readings however dear they are.
const REFRESH_MAX_NS: u64 = 5_000_000_000;
/// How long held failures wait at most beyond their hold-off.
const FAILURES_DUE_NS: u64 = 100_000_000;
/// How soon the ring is looked at again where a record in it was being written.
const BUSY_NS: u64 = 1_000_000;
/// Held failures are told before their time once the ring keeps this many events for them: half of what fits it.
const KEPT_MAX: usize = 2048;

/// The kernel's ring, which keeps what signals are made of.
struct RingOrigin {
    number: u64,
    custody: Arc<Custody>,
}

impl Origin for RingOrigin {
    fn number(&self) -> u64 {
        self.number
    }

    fn settle(&self, places: &[u64]) -> u64 {
        self.custody.settle(places)
    }
}

pub(super) struct Books {
    probes: Option<Arc<Mutex<Probes>>>,
    discovered: Arc<Mutex<Discovered>>,
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    stop: Arc<Stop>,
    failures: Failures,
    accounts: Accounts,
    snapshot: Snapshot,
    table: Table,
    /// The kernel half's counts when this agent started: pinned maps keep those of the agents before.
    base: Loss,
    events: Vec<(u64, Event)>,
    /// The ring, where the kernel half is loaded.
    origin: Option<Arc<RingOrigin>>,
    /// A record of the ring was being written when it was looked at.
    busy: bool,
    /// Places of which an agent before spooled the signal.
    told_before: HashSet<u64>,
    /// When the books were read last.
    refreshed_ns: u64,
    /// The least pause after a reading as dear as that one.
    dear_ns: u64,
}

impl Books {
    pub(super) fn new(
        probes: Option<Arc<Mutex<Probes>>>,
        discovered: Arc<Mutex<Discovered>>,
        shared: Arc<Shared>,
        outbox: Arc<Outbox>,
        stop: Arc<Stop>,
    ) -> Self {
        let base = probes.as_ref().map(|probes| locked(probes).kernel.loss()).unwrap_or_default();
        let origin = probes.as_ref().map(|probes| {
            let kernel = &locked(probes).kernel;
            let number = kernel.ring_number().unwrap_or_else(|error| {
                tracing::error!(%error, "the event ring has no number: after a kill of this agent signals may come twice");
                0
            });
            Arc::new(RingOrigin { number, custody: Arc::clone(kernel.custody()) })
        });
        Self {
            probes,
            discovered,
            shared,
            outbox,
            stop,
            failures: Failures::default(),
            accounts: Accounts::default(),
            snapshot: Snapshot::default(),
            table: Table::default(),
            base,
            events: Vec::new(),
            origin,
            busy: false,
            told_before: HashSet::new(),
            refreshed_ns: 0,
            dear_ns: 0,
        }
    }

    pub(super) fn run(mut self) {
        let ring = self.probes.as_ref().and_then(|probes| {
            ring_waiter(&locked(probes).kernel)
                .inspect_err(|error| tracing::error!(%error, "the event ring cannot be waited for; it is looked at every 250 ms"))
                .ok()
        });
        if let Some(origin) = &self.origin {
            self.told_before = self.outbox.uplink().spooled(origin.number).into_iter().collect();
        }
        let (mut refresh_at_ns, mut pause_ns) = (0, REFRESH_NS);
        while !self.stop.wanted.load(Relaxed) {
            let mut wake_ns = refresh_at_ns;
            if !self.failures.is_empty() {
                wake_ns = wake_ns.min(monotonic_ns() + FAILURES_DUE_NS);
            }
            if self.busy {
                wake_ns = wake_ns.min(monotonic_ns() + BUSY_NS);
            }
            self.wait(ring.as_ref(), wake_ns);
            // An event or a find is a reason to look soon: the books have moved, or are about to.
            if self.take_events() || self.stop.news.read().is_ok() {
                pause_ns = REFRESH_NS;
                refresh_at_ns = refresh_at_ns.min(self.refreshed_ns + self.dear_ns.max(REFRESH_NS));
            }
            if monotonic_ns() >= refresh_at_ns {
                let began = Instant::now();
                let moved = self.refresh();
                let cost_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.dear_ns = cost_ns.saturating_mul(REFRESH_SHARE).min(REFRESH_MAX_NS);
                self.refreshed_ns = monotonic_ns();
                pause_ns = match (moved, self.is_idle()) {
                    (true, _) => REFRESH_NS,
                    (false, false) => (pause_ns * 2).min(REFRESH_STILL_NS),
                    (false, true) => REFRESH_IDLE_NS,
                };
                refresh_at_ns = self.refreshed_ns + pause_ns.max(self.dear_ns);
            }
        }
        self.take_events();
        let held = self.failures.all(monotonic_ns());
        self.tell_all(held);
        self.refresh();
    }

    fn wait(&self, ring: Option<&Epoll>, until_ns: u64) {
        let left = Duration::from_nanos(until_ns.saturating_sub(monotonic_ns())).as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let fds = [Some(self.stop.wake.as_fd()), Some(self.stop.news.as_fd()), ring.map(|ring| ring.0.as_fd())];
        let mut waiting: Vec<_> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        if let Err(error) = poll(&mut waiting, timeout)
            && error != nix::errno::Errno::EINTR
        {
            tracing::error!(%error, "waiting for GPU events");
            std::thread::sleep(Duration::from_millis(100));
        }
        // Takes the edge, so that the next wait waits for another.
        if let Some(ring) = ring {
            let _ = ring.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO);
        }
    }

    /// Returns whether there were any.
    fn take_events(&mut self) -> bool {
        let (Some(probes), Some(origin)) = (&self.probes, &self.origin) else { return false };
        let events = &mut self.events;
        self.busy = locked(probes).kernel.drain_kept(|place, event| events.push((place, event)));
        let any = !self.events.is_empty();
        let book = &self.shared.book;
        let (mut urgent, mut ended, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for (place, event) in self.events.drain(..) {
            if self.told_before.remove(&place) {
                settled.push(place);
            } else if event.kind == EventKind::AllocationFailed {
                book.notice(1);
                match self.failures.take(event, place, book) {
                    Taken::Tell => urgent.push(Due { event, places: vec![place] }),
                    Taken::Held => {}
                    Taken::LeftOut => settled.push(place),
                }
            } else if event.exit().is_some() {
                book.notice(1);
                ended.push((place, event));
            } else {
                if event.kind == EventKind::ProcessSeen {
                    self.shared.tasks.notice(event.pid());
                }
                // The accounts tell of it.
                book.pass(Fate::Delivered);
                settled.push(place);
            }
        }
        origin.custody.settle(&settled);
        let kept = origin.custody.open();
        self.tell_all(urgent);
        for (place, event) in ended {
            let status = event.exit().unwrap_or_default();
            let signal = self.shared.tasks.ended(event.pid(), event.at_ns, status, self.who(&event));
            let origin = Arc::clone(origin) as Arc<dyn Origin>;
            // Settled by the outbox.
            let _ = self.outbox.signal_from(signal, Receipt { origin, places: vec![place] });
        }
        let now_ns = monotonic_ns();
        let due = if kept < KEPT_MAX { self.failures.due(now_ns) } else { self.failures.all(now_ns) };
        self.tell_all(due);
        any
    }

    /// No process uses a GPU, and none that is remembered did.
    fn is_idle(&self) -> bool {
        self.snapshot.processes.is_empty() && self.discovered().processes.is_empty()
    }

    fn tell_all(&self, due: Vec<Due>) {
        due.into_iter().for_each(|due| self.tell(due));
    }

    fn tell(&self, due: Due) {
        let Some(origin) = &self.origin else { return };
        match signal(&due.event, due.suppressed(), &self.who(&due.event)) {
            Some(signal) => {
                let origin = Arc::clone(origin) as Arc<dyn Origin>;
                // Settled by the outbox.
                let _ = self.outbox.signal_from(signal, Receipt { origin, places: due.places });
            }
            None => {
                self.shared.book.settle(1, MALFORMED);
                origin.custody.settle(&due.places);
            }
        }
    }

    /// From the books where they know the process; from /proc where its first call just failed.
    fn who(&self, event: &Event) -> Who {
        let pid = event.pid();
        let known = self.snapshot.processes.iter().find(|process| process.key == event.process);
        let comm = known.map(|process| process.comm.clone()).filter(|comm| !comm.is_empty());
        let info = self.discovered().processes.get(&pid).cloned();
        // In a pid namespace of its own the agent would read another process's /proc.
        let look = self.shared.facts.initial_pid_namespace;
        let read = |file: &str| if look { std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok() } else { None };
        Who {
            comm: comm
                .or_else(|| info.as_ref().map(|info| info.comm.clone()))
                .or_else(|| read("comm").map(|comm| comm.trim_end().to_owned()))
                .unwrap_or_default(),
            container: info
                .map_or_else(|| read("cgroup").and_then(|text| container_of(&text)), |info| info.container)
                .map(|container| container.id)
                .unwrap_or_default(),
        }
    }

    /// Reads books and loss counters, and publishes what changed. Returns whether anything did.
    fn refresh(&mut self) -> bool {
        let discovered = self.discovered().clone();
        let mut loss = None;
        if let Some(probes) = &self.probes {
            let kernel = &locked(probes).kernel;
            match self.accounts.refresh(kernel) {
                Ok(snapshot) => self.snapshot = snapshot,
                Err(error) => tracing::error!(%error, "reading the GPU accounts; the last ones stay"),
            }
            loss = Some(kernel.loss());
        }
        let state = self.table.fill(&self.snapshot, &discovered.processes, &discovered.coverage);
        let (base, book) = (&self.base, &self.shared.book);
        let mut moved = false;
        self.shared.update_gpu(|view| {
            moved = *view.state != state;
            if moved {
                view.state = Arc::new(state);
                view.generation += 1;
            }
            view.discovery = discovered.counters;
            if let Some(loss) = &loss {
                view.events_seen = loss.seen.saturating_sub(base.seen);
                view.events_submitted = loss.submitted.saturating_sub(base.submitted);
                view.events_read = loss.delivered.saturating_sub(base.delivered);
                view.kernel_dropped = dropped(base, loss);
                settle_unknown(book, view.events_unknown, loss.unknown.saturating_sub(base.unknown));
                view.events_unknown = loss.unknown.saturating_sub(base.unknown);
            }
        });
        if moved {
            self.shared.news.notify_one();
        }
        moved
    }

    fn discovered(&self) -> MutexGuard<'_, Discovered> {
        locked(&self.discovered)
    }
}

/// Becomes readable with each urgent event; not while events lie in the ring that were read and are only kept there.
fn ring_waiter(kernel: &Kernel) -> nix::Result<Epoll> {
    let ring = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    ring.add(kernel.events_fd(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
    Ok(ring)
}

/// Records that this build does not know were read, and told nobody anything.
fn settle_unknown(book: &LossBook, before: u64, now: u64) {
    for _ in before..now {
        book.pass(MALFORMED);
    }
}

fn dropped(base: &Loss, now: &Loss) -> Vec<(&'static str, u64)> {
    let since = |reason| base.by_reason.get(reason).copied().unwrap_or(0);
    now.by_reason.iter().map(|(reason, count)| (reason.name(), count.saturating_sub(since(reason)))).collect()
}
