//! The GPU room: loads the kernel half, has discovery attach it, turns its events into signals and its books into state.
//!
//! Two threads. `rw-discover` waits for new mappings and attaches; `rw-gpu` waits for events of the ring, and reads the
//! books every 250 ms, or more rarely where reading them is dear or nothing in them moves. Never: a signal held up by a scan of /proc, an event
//! without a fate in the loss book, or the agent's end because the kernel refused something.

mod attach;
mod books;
mod claim;
mod devices;
mod failure;
mod memory;
mod table;

pub use failure::Who;
pub use memory::MemorySource;

use crate::config::{Gpu, Scope as ConfiguredScope};
use crate::outbox::Outbox;
use crate::privileges::Limitation;
use crate::shared::Shared;
use anyhow::{Context, Result};
use attach::SharedProbes;
use claim::Claim;
use nix::sys::eventfd::{EfdFlags, EventFd};
use railwatch_gpu::coverage::CoverageRow;
use railwatch_gpu::discovery::{self, Discovery, Probes, ProcessInfo, Wanted};
use railwatch_gpu::kernel::offsets::Types;
use railwatch_gpu::kernel::{Kernel, Options};
use railwatch_gpu::scope::Scope;
use railwatch_gpu::symbols::TABLE;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a start waits for the first look at all processes; a larger host goes on without.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(5);
/// How often counters of discovery are published while nothing else changes; never where they do not move.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);
/// Longest sleep of discovery: it wakes up for what the kernel reports, for what it has set itself to do, and to stop.
const DISCOVERY_SLEEP_MAX: Duration = Duration::from_secs(3600);

/// What discovery last said, for the books.
#[derive(Clone, Debug, Default)]
struct Discovered {
    processes: BTreeMap<u32, ProcessInfo>,
    coverage: Vec<CoverageRow>,
    counters: Vec<(&'static str, u64)>,
}

/// The room, running.
pub struct GpuRoom {
    probes: Option<Arc<Mutex<Probes>>>,
    discovered: Arc<Mutex<Discovered>>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    _claim: Option<Claim>,
}

struct Stop {
    wanted: AtomicBool,
    /// Readable once the end is wanted.
    wake: EventFd,
    /// Readable while discovery has found something that the books have not looked at.
    news: EventFd,
}

impl GpuRoom {
    /// Loads and attaches; returns when every process that runs has been looked at, or after five seconds. What the
    /// kernel refuses is a limitation.
    pub fn open(config: &Gpu, shared: &Arc<Shared>, types: &Types) -> Result<Self> {
        let scope = scope(&config.scope).with_context(|| format!("the scope {}", config.scope))?;
        let mut claim = None;
        let probes = match load(config, scope.clone(), shared, types) {
            Ok((kernel, claimed)) => {
                claim = claimed;
                let off = kernel.off().iter().map(|off| Limitation::new(off.what, &off.reason)).collect();
                shared.set_limitations("kernel", off);
                tracing::info!(scope = %config.scope, adopted = kernel.adopted(), "the kernel half is loaded");
                shared.update_gpu(|view| view.loaded = true);
                Some(Arc::new(Mutex::new(Probes::new(kernel))))
            }
            Err(why) => {
                shared.set_limitations("kernel", vec![Limitation::new("gpu probes", &why)]);
                None
            }
        };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = Arc::new(Stop {
            wanted: AtomicBool::new(false),
            wake: EventFd::from_flags(flags)?,
            news: EventFd::from_flags(flags)?,
        });
        let discovered = Arc::new(Mutex::new(Discovered::default()));
        let (looked, first_look) = sync_channel(1);
        let room = Self { probes, discovered, stop, threads: Vec::new(), _claim: claim };
        let options =
            discovery::Options { scope, extra_paths: config.extra_paths.clone(), ..discovery::Options::default() };
        room.discover(options, Arc::clone(shared), looked, &first_look)
    }

    fn discover(
        mut self,
        options: discovery::Options,
        shared: Arc<Shared>,
        looked: SyncSender<()>,
        first_look: &Receiver<()>,
    ) -> Result<Self> {
        let attacher = SharedProbes(self.probes.clone());
        let (discovered, stop) = (Arc::clone(&self.discovered), Arc::clone(&self.stop));
        let thread = std::thread::Builder::new()
            .name("rw-discover".into())
            .spawn(move || discovery_loop(options, attacher, &shared, &discovered, &stop, looked))
            .context("start the discovery thread")?;
        self.threads.push(thread);
        if first_look.recv_timeout(FIRST_LOOK_MAX).is_err() {
            tracing::warn!("the first look at all processes takes longer than {FIRST_LOOK_MAX:?}; going on meanwhile");
        }
        Ok(self)
    }

    /// Begins to hand out signals and state.
    pub fn run(&mut self, shared: &Arc<Shared>, outbox: &Arc<Outbox>) -> Result<()> {
        let books = books::Books::new(
            self.probes.clone(),
            Arc::clone(&self.discovered),
            Arc::clone(shared),
            Arc::clone(outbox),
            Arc::clone(&self.stop),
        );
        let thread = std::thread::Builder::new().name("rw-gpu".into()).spawn(move || books.run());
        self.threads.push(thread.context("start the thread of GPU events")?);
        Ok(())
    }

    /// Ends both threads; pinned maps and links stay for the next start.
    pub fn stop(self) {
        // The claim goes last, when nothing touches the pins any more.
        self.stop.wanted.store(true, Relaxed);
        // Fails only when 2^64 - 2 wakes are pending.
        let _ = self.stop.wake.write(1);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a GPU thread had ended by a defect of its own");
            }
        }
    }
}

/// Loads the kernel half; the error is for people.
fn load(config: &Gpu, scope: Scope, shared: &Shared, types: &Types) -> Result<(Kernel, Option<Claim>), String> {
    if let Some(why) = shared.facts.no_room_for_maps() {
        return Err(format!(
            "{why}, because the kernel would kill the agent; raise memory.max (MemoryMax=, resources.limits.memory)"
        ));
    }
    let event_cap = u32::try_from(config.events_per_process_per_s).unwrap_or(u32::MAX);
    let load = |pin_dir: Option<PathBuf>| {
        let options = Options { scope: scope.clone(), pin_dir, event_cap, types: types.clone(), ..Options::default() };
        Kernel::load(options).map_err(|error| error.to_string())
    };
    if config.pin_dir == Path::new("") {
        return Ok((load(None)?, None));
    }
    let claim = Claim::take(&config.pin_dir, &scope);
    if claim.is_none() {
        let why = format!(
            "another agent of this scope holds the pins in {}: nothing is pinned; end the other one, or give this one its own pin_dir",
            config.pin_dir.display()
        );
        shared.set_limitations("pins", vec![Limitation::new("balances over a restart", why)]);
        return Ok((load(None)?, None));
    }
    let kernel = load(Some(config.pin_dir.clone()))?;
    // Loading may have mounted the bpffs: what was claimed before is below it now.
    let claim = claim.filter(Claim::is_held).or_else(|| Claim::take(&config.pin_dir, &scope));
    Ok((kernel, claim))
}

fn scope(configured: &ConfiguredScope) -> std::io::Result<Scope> {
    match configured {
        ConfiguredScope::None => Ok(Scope::Host),
        ConfiguredScope::Netns => Scope::network_namespace(Path::new("/proc/self/ns/net")),
        ConfiguredScope::Cgroup(path) => Scope::cgroup(path),
    }
}

fn discovery_loop(
    options: discovery::Options,
    mut attacher: SharedProbes,
    shared: &Shared,
    discovered: &Mutex<Discovered>,
    stop: &Stop,
    looked: SyncSender<()>,
) {
    let wanted = Wanted::new(TABLE.iter().map(|symbol| symbol.name));
    let mut discovery = match Discovery::start(options, wanted, &mut attacher) {
        Ok(discovery) => discovery,
        Err(error) => {
            let why = format!("/proc cannot be read ({error}): no GPU process is found; mount /proc of the host");
            shared.set_limitations("discovery", vec![Limitation::new("gpu discovery", why)]);
            return;
        }
    };
    let limitations = discovery.limitations().iter().map(|why| Limitation::new("gpu discovery", why)).collect();
    shared.set_limitations("discovery", limitations);
    publish(&discovery, discovered);
    // The starter may have stopped waiting.
    let _ = looked.try_send(());
    let mut published = (Instant::now(), discovery.counters());
    while !stop.wanted.load(Relaxed) {
        let unpublished = discovery.counters() != published.1;
        let sleep_max =
            if unpublished { COUNTERS_EVERY.saturating_sub(published.0.elapsed()) } else { DISCOVERY_SLEEP_MAX };
        let events = discovery.run_until(&mut attacher, sleep_max, Some(stop.wake.as_fd()));
        // Most wakes are mappings of no interest: they change nothing but counters.
        let is_news = !events.is_empty();
        for event in events {
            match event {
                discovery::Event::ObjectUnattachable { path, reason, .. } => {
                    tracing::warn!(path, reason, "a GPU library cannot be traced");
                }
                event => tracing::debug!(?event, "discovery"),
            }
        }
        let counters = discovery.counters();
        if is_news {
            publish(&discovery, discovered);
            // Fails only when 2^64 - 2 wakes are pending.
            let _ = stop.news.write(1);
            published = (Instant::now(), counters);
        } else if counters != published.1 && published.0.elapsed() >= COUNTERS_EVERY {
            locked(discovered).counters = named(&counters);
            published = (Instant::now(), counters);
        }
    }
}

fn publish(discovery: &Discovery, discovered: &Mutex<Discovered>) {
    let processes = discovery.processes().filter_map(|pid| Some((pid, discovery.process(pid)?))).collect();
    let now = Discovered { processes, coverage: discovery.coverage(), counters: named(&discovery.counters()) };
    *locked(discovered) = now;
}

fn named(counters: &discovery::Counters) -> Vec<(&'static str, u64)> {
    let discovery::Counters { mappings, indexed, vanished, unopened, denied, lost_records, scans, over_limit } =
        counters;
    vec![
        ("mappings", *mappings),
        ("files_indexed", *indexed),
        ("vanished", *vanished),
        ("unopened", *unopened),
        ("denied", *denied),
        ("lost_records", *lost_records),
        ("scans", *scans),
        ("over_limit", *over_limit),
    ]
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The kernel half's state is in the kernel, and what is published is replaced whole: a panic leaves nothing half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
