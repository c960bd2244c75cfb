//! The placement room: what runs where on this host, and what the accounts of its processes say over time.
//!
//! Two threads. `rw-placement` wakes each second, and at once for a process that was just seen: it reads what is to be known of
//! it while it lives, and feeds the detectors of leaks and stalls. `rw-devices` lists the devices each minute and asks NVML for
//! NVLinks. Whether processes run is a source of the sampler's ([`RunningSource`]). In: [`Shared::gpu`], /proc, sysfs. Out: [`Shared::placement`], signals through the outbox. The end of a process does
//! not wait for this room: the thread of GPU events tells of it from [`Tasks`]. Never: a lock held while /proc is read.

mod running;
mod state;
mod tasks;
mod topology;
mod watch;

pub use running::RunningSource;
pub use tasks::Tasks;

use crate::config::Config;
use crate::outbox::Outbox;
use crate::privileges::Limitation;
use crate::shared::Shared;
use anyhow::{Context, Result};
use railwatch_sampling::clock::monotonic_ns;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use topology::Topology;
use watch::Watch;

/// How often processes are looked at where nothing calls for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often devices are listed.
const DEVICES_EVERY: Duration = Duration::from_secs(60);
/// Signals that this room raises.
pub const SIGNALS: [&str; 9] = [
    "process.exit",
    "gpu.memory.leak",
    "gpu.memory.leak.over",
    "collective.stalled",
    "collective.resumed",
    "process.stopped",
    "process.resumed",
    "process.starved",
    "process.starved.over",
];

/// The room, running.
pub struct PlacementRoom {
    shared: Arc<Shared>,
    wanted_end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl PlacementRoom {
    /// Begins. Without `gpu` no process is followed, and devices alone are listed.
    pub fn start(config: &Config, gpu: bool, shared: &Arc<Shared>, outbox: &Arc<Outbox>) -> Result<Self> {
        let wanted_end = Arc::new(AtomicBool::new(false));
        let topology = Arc::new(Mutex::new(Topology::default()));
        let nvml = config.health.enabled.then(|| config.health.nvml_library.clone());
        let mut reader = topology::Reader::new(&config.sampling.sysfs_root, nvml);
        let devices = {
            let (topology, wanted_end, shared) = (Arc::clone(&topology), Arc::clone(&wanted_end), Arc::clone(shared));
            move || {
                while !wanted_end.load(Relaxed) {
                    let now = reader.read();
                    // Replaced whole: a panic leaves nothing half way.
                    *topology.lock().unwrap_or_else(PoisonError::into_inner) = now;
                    shared.tasks.wake();
                    std::thread::park_timeout(DEVICES_EVERY);
                }
            }
        };
        // In a pid namespace of its own the agent would read another process's /proc.
        let follows = gpu && shared.facts.initial_pid_namespace;
        let off = (gpu && !follows).then(|| {
            Limitation::new(
                "jobs and ranks of processes",
                "the agent runs in a pid namespace of its own and cannot tell whose /proc it reads: give it the host's (hostPID)",
            )
        });
        shared.set_limitations("placement", off.into_iter().collect());
        let looks = {
            let (wanted_end, shared, outbox) = (Arc::clone(&wanted_end), Arc::clone(shared), Arc::clone(outbox));
            move || {
                let mut watch = Watch::default();
                while !wanted_end.load(Relaxed) {
                    if follows {
                        let view = shared.gpu();
                        shared.tasks.look(Path::new("/proc"), &view.state);
                        for signal in watch.look(monotonic_ns(), &view.state, |uuid| watch::free_bytes(&shared, uuid)) {
                            shared.book.notice(1);
                            // Settled by the outbox.
                            let _ = outbox.signal_noticed(signal);
                        }
                    }
                    let topology = topology.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    if shared.placement.set(state::state(&topology, &shared)) {
                        shared.news.notify_one();
                    }
                    shared.tasks.wait(if follows { LOOK_EVERY } else { DEVICES_EVERY });
                }
            }
        };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).with_context(|| format!("start the thread {name}"))
        };
        let threads = vec![spawn("rw-devices", Box::new(devices))?, spawn("rw-placement", Box::new(looks))?];
        Ok(Self { shared: Arc::clone(shared), wanted_end, threads })
    }

    /// Ends both threads.
    pub fn stop(self) {
        self.wanted_end.store(true, Relaxed);
        self.shared.tasks.wake();
        for thread in self.threads {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a thread of the placement room had ended by a defect of its own");
            }
        }
    }
}
