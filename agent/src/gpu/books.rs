//! The thread of events and books: signals within milliseconds of the call, state as it changes.

use super::failure::{Failures, Who, signal};
use super::table::Table;
use super::{Discovered, Stop, locked};
use crate::loss::{Fate, LossBook, MALFORMED};
use crate::outbox::Outbox;
use crate::shared::Shared;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use railwatch_abi::event::EventKind;
use railwatch_gpu::accounts::{Accounts, Snapshot};
use railwatch_gpu::discovery::{Probes, container_of};
use railwatch_gpu::kernel::{Event, Loss};
use railwatch_sampling::clock::monotonic_ns;
use std::os::fd::{AsFd, OwnedFd};
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
    events: Vec<Event>,
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
            refreshed_ns: 0,
            dear_ns: 0,
        }
    }

    pub(super) fn run(mut self) {
        let ring = self.probes.as_ref().and_then(|probes| {
            let duplicate = locked(probes).kernel.events_fd().try_clone_to_owned();
            duplicate.inspect_err(|error| tracing::error!(%error, "the event ring cannot be waited for; it is looked at every 250 ms")).ok()
        });
        let (mut refresh_at_ns, mut pause_ns) = (0, REFRESH_NS);
        while !self.stop.wanted.load(Relaxed) {
            let mut wake_ns = refresh_at_ns;
            if !self.failures.is_empty() {
                wake_ns = wake_ns.min(monotonic_ns() + FAILURES_DUE_NS);
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
        self.tell_held(u64::MAX);
        self.refresh();
    }

    fn wait(&self, ring: Option<&OwnedFd>, until_ns: u64) {
        let left = Duration::from_nanos(until_ns.saturating_sub(monotonic_ns())).as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let fds = [Some(self.stop.wake.as_fd()), Some(self.stop.news.as_fd()), ring.map(AsFd::as_fd)];
        let mut waiting: Vec<_> = fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        if let Err(error) = poll(&mut waiting, timeout)
            && error != nix::errno::Errno::EINTR
        {
            tracing::error!(%error, "waiting for GPU events");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Returns whether there were any.
    fn take_events(&mut self) -> bool {
        if let Some(probes) = &self.probes {
            let events = &mut self.events;
            locked(probes).kernel.drain(|event| events.push(event));
        }
        let any = !self.events.is_empty();
        let book = &self.shared.book;
        let (mut urgent, mut ended) = (Vec::new(), Vec::new());
        for event in self.events.drain(..) {
            if event.kind == EventKind::AllocationFailed {
                book.notice(1);
                urgent.extend(self.failures.take(event, book));
            } else if event.exit().is_some() {
                book.notice(1);
                ended.push(event);
            } else {
                if event.kind == EventKind::ProcessSeen {
                    self.shared.tasks.notice(event.pid());
                }
                // The accounts tell of it.
                book.pass(Fate::Delivered);
            }
        }
        for event in urgent {
            self.tell(&event, 0);
        }
        for event in ended {
            let status = event.exit().unwrap_or_default();
            let signal = self.shared.tasks.ended(event.pid(), event.at_ns, status, self.who(&event));
            // Settled by the outbox.
            let _ = self.outbox.signal_noticed(signal);
        }
        self.tell_held(monotonic_ns());
        any
    }

    /// No process uses a GPU, and none that is remembered did.
    fn is_idle(&self) -> bool {
        self.snapshot.processes.is_empty() && self.discovered().processes.is_empty()
    }

    fn tell_held(&mut self, now_ns: u64) {
        for (event, suppressed) in self.failures.due(now_ns) {
            self.tell(&event, suppressed);
        }
    }

    fn tell(&self, event: &Event, suppressed: u64) {
        match signal(event, suppressed, &self.who(event)) {
            // Settled by the outbox.
            Some(signal) => drop(self.outbox.signal_noticed(signal)),
            None => self.shared.book.settle(1, MALFORMED),
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
