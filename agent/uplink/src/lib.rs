//! The agent's uplink: takes signals, windows and state from the agent's threads, and sees to it that the collector
//! gets them, once, over outages of either side.
//!
//! ```text
//! threads ── UplinkHandle ── bounded queues ── driver ── spool (disk) ── link (gRPC, mTLS) ── collector
//!              never blocks                     one thread   │  ◄── acknowledged through ──┘
//!                                                            └ cut by quota, counted
//! ```
//! What a caller is promised:
//! - a signal that was taken is sent at once, before all windows that wait, and again until it is acknowledged;
//!   under one sequence for ever, so that the collector recognises what it has;
//! - a kill of the agent loses nothing that reached the spool, microseconds after it was taken, except while the
//!   disk refuses (a stated limitation); who keeps what a signal is made of is told when it is there ([`Receipt`]);
//! - what is lost (quota, damage, full queues) is counted in the next frame of its kind and in [`UplinkState`];
//! - silence towards the collector never lasts longer than 200 ms while connected, even while the disk hangs
//!   (frames wait for it then: nothing is sent that is not in the spool).
//!
//! Never: an unbounded queue, a sequence used twice, a frame sent that is not in the spool.
//!
//! ```text
//! let (uplink, thread) = Uplink::start(UplinkOptions { .. })?;   // own thread, own runtime
//! uplink.define(series)?;                                        // once per series and start
//! uplink.signal(signal)?;  uplink.windows(windows)?;             // Err: counted, go on
//! uplink.snapshot(snapshot)?;                                    // the latest wins, part by part
//! uplink.probe_results(results)?;                                // behind all of these; lost while nobody is connected
//! uplink.state();                                                // for metrics
//! uplink.stop();  thread.join();                                 // at most about two seconds
//! ```
#![forbid(unsafe_code)]

mod backoff;
mod clock;
mod directives;
mod driver;
mod handle;
mod journal;
mod link;
mod log;
mod probes;
mod receipt;
mod record;
mod spool;
mod sync;
mod tapes;

pub use directives::Directives;
pub use handle::{Refused, UplinkHandle, UplinkState};
pub use probes::Probes;
pub use receipt::{Origin, Receipt};
pub use spool::{FRAMES_IN_FLIGHT_MAX, SpoolOptions, SpoolStats, WINDOWS_BYTES_IN_FLIGHT_MAX};
pub use tapes::Tapes;

use driver::Driver;
use handle::Shared;
use railwatch_pki::CredentialFiles;
use railwatch_wire::v1::Limitation;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, watch};

/// Signals waiting for the driver.
const SIGNALS_QUEUED_MAX: usize = 4096;
/// Windows waiting for the driver.
const WINDOWS_QUEUED_MAX: usize = 64;
/// Results of probes waiting for the driver.
const RESULTS_QUEUED_MAX: usize = 16;

/// Which collector, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `HOST:PORT`.
    pub address: String,
    /// The DNS name or IP address that the collector's certificate must carry.
    pub server_name: String,
    /// Read at each dial: new files are used without a restart.
    pub credentials: CredentialFiles,
}

/// What the uplink is told at its start.
#[derive(Clone, Debug)]
pub struct UplinkOptions {
    /// Which collector first.
    pub target: Target,
    /// Where frames wait.
    pub spool: SpoolOptions,
    /// As in this agent's certificate.
    pub host: String,
    /// Of this agent.
    pub agent_version: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// What this host cannot do.
    pub limitations: Vec<Limitation>,
}

impl SpoolOptions {
    /// The defaults: 256 MiB on disk, 8 MiB in memory while the disk refuses, the boot of this kernel.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            directory: directory.into(),
            disk_bytes_max: 256 << 20,
            memory_bytes_max: 8 << 20,
            boot_id: boot_id.trim().to_owned(),
        }
    }
}

/// What the handle tells the driver.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    target: Target,
    limitations: Vec<Limitation>,
    stop: bool,
}

/// The uplink.
pub struct Uplink;

impl Uplink {
    /// Starts the uplink on a thread of its own. Fails only when threads cannot be made; a spool that cannot be used
    /// and a collector that cannot be reached are states, not failures.
    pub fn start(options: UplinkOptions) -> io::Result<(UplinkHandle, JoinHandle<()>)> {
        let shared = Arc::new(Shared::default());
        let (signals, signals_in) = mpsc::channel(SIGNALS_QUEUED_MAX);
        let (windows, windows_in) = mpsc::channel(WINDOWS_QUEUED_MAX);
        let (results, results_in) = mpsc::channel(RESULTS_QUEUED_MAX);
        let (control, control_in) = watch::channel(Control {
            target: options.target.clone(),
            limitations: options.limitations.clone(),
            stop: false,
        });
        // The driver runs on the uplink's thread and may wait for the disk; connections run on the worker and may not.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            // Names are looked up on one, the tape is read on another, traces are carried out on the third.
            .max_blocking_threads(3)
            .thread_name("railwatch-link")
            .enable_all()
            .build()?;
        let syncer = sync::Syncer::start()?;
        let seed = u64::from_le_bytes(spool::random()?);
        let handle = UplinkHandle { shared: shared.clone(), signals, windows, results, control: Arc::new(control) };
        let thread = std::thread::Builder::new().name("railwatch-uplink".into()).spawn(move || {
            let spool = spool::Spool::open(options.spool.clone(), shared.series.clone());
            // Set once, here.
            let _ = shared.receipts.set(spool.receipts());
            let driver = Driver {
                options,
                shared,
                spool,
                syncer,
                control: control_in,
                backoff: backoff::Backoff::new(seed),
                credentials: None,
                state: UplinkState::default(),
                unsynced: Vec::new(),
            };
            runtime.block_on(driver.run(signals_in, windows_in, results_in));
        })?;
        Ok((handle, thread))
    }
}
