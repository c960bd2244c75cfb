//! Carries a plan out: all flows on one thread.
//!
//! ```text
//!  plan ─► inbox ─► schedule (whose turn) ─► budget of the NIC ─┬► datagrams: socket of (source, port) ─┬~ fabric ~ a responder
//!  (runner)                                                     └► streams: connection of the flow ─────┘
//!                       flow, or link (what each probe turned out to be) ◄─ the kernel's stamps ◄──────┘
//!                          └─► results each interval, signals at once (alarm)
//! ```
//! In: plans ([`Mesh::plan`]), which are renewed before their lease ends. Out: [`Outlet`]. A plan of an earlier epoch or revision than
//! one that was taken is refused; one that is not renewed ends, and is counted; a flow that cannot be probed is named, and the others
//! are probed. Probes are judged only after every socket was read: what waited there while this thread was not let run is
//! no loss. Never: more than the plan's and the agent's own bound for a NIC, whatever the flows ask; a probe in a quiet window;
//! a wait for anybody who takes results.

mod datagrams;
mod runner;
mod streams;

use crate::alarm::ProbeSignal;
use crate::packet::Key;
use crate::plan::MeshPlan;
use crate::stream::ConnectCounts;
use crate::tally::FlowResult;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use runner::{Runner, WOKEN};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

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
    /// Not taken by the kernel, or lost by this host itself; in a stream, too, a turn while the other host refuses the connection.
    pub unsent: AtomicU64,
    /// Left out: the NIC's budget was spent.
    pub over_budget: AtomicU64,
    /// Left out: in a quiet window.
    pub quiet: AtomicU64,
    /// Connections of flows over TCP.
    pub connects: Arc<ConnectCounts>,
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
        let runner = Runner::new(Arc::clone(&common), epoll, key, packets_per_s_per_nic_max, outlet)?;
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
