//! What the agent's threads hold: hand over and go on. Nothing here blocks, and what finds no place is counted.

use crate::directives::Docket;
use crate::probes::ProbesLater;
use crate::receipt::Receipt;
use crate::spool::{SeriesTable, SpoolStats};
use crate::tapes::TapesLater;
use crate::{Control, Directives, Probes, Tapes, Target};
use prost::Message;
use railwatch_wire::limits::{MESSAGE_BYTES_MAX, SERIES_PER_HOST_MAX};
use railwatch_wire::v1::{Limitation, ProbeResults, SeriesDefinition, Signal, Snapshot, Windows};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;
use tokio::sync::{Notify, mpsc, watch};

/// Room that a message's envelope takes, bytes.
const ENVELOPE_BYTES: usize = 64;

/// A handed-over thing was not taken; it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue to the uplink is full: the disk or this thread is too slow.
    #[error("the queue to the uplink is full")]
    Full,
    /// Larger than a message may be.
    #[error("larger than a message may be ({MESSAGE_BYTES_MAX} bytes)")]
    TooLarge,
    /// As many series as a host may define are defined.
    #[error("{SERIES_PER_HOST_MAX} series are defined, and no more may be")]
    TooManySeries,
    /// The uplink has ended.
    #[error("the uplink has ended")]
    Ended,
}

/// How the uplink stands. Counters count from the start of the agent.
#[derive(Clone, Debug, Default)]
pub struct UplinkState {
    /// A collector has welcomed this agent and the stream is open.
    pub connected: bool,
    /// Welcomes so far.
    pub connections: u64,
    /// Dials that failed and streams that broke.
    pub failures: u64,
    /// Why the last one did.
    pub last_error: Option<String>,
    /// From Welcome.
    pub collector_version: String,
    /// From Welcome.
    pub collector_epoch: u64,
    /// From a frame's hand-over to HTTP/2 to its acknowledgement, the last one measured, nanoseconds.
    pub acknowledge_ns: u64,
    /// The spool.
    pub spool: SpoolStats,
    /// Refused by [`UplinkHandle::signal`].
    pub refused_signals: u64,
    /// Refused by [`UplinkHandle::windows`].
    pub refused_windows: u64,
    /// Refused by [`UplinkHandle::define`].
    pub refused_series: u64,
    /// Refused by [`UplinkHandle::snapshot`].
    pub refused_snapshots: u64,
    /// Results of probes that found no place, or nobody connected.
    pub lost_probe_results: u64,
    /// fdatasync calls that failed.
    pub sync_errors: u64,
    /// Files left to the kernel's own write-back because fdatasync took too long.
    pub unsynced_files: u64,
    /// End of validity of the own certificate, once it was read.
    pub certificate_not_after: Option<SystemTime>,
    /// What the spool cannot do now.
    pub limitations: Vec<Limitation>,
}

/// Snapshots waiting to be sent: what changed, and all of it for a new connection.
#[derive(Default)]
pub(crate) struct Snapshots {
    pub whole: Snapshot,
    pub changed: Option<Snapshot>,
}

/// A signal as handed over.
pub(crate) type Handed = (Signal, Option<Receipt>);

/// Shared by the handle and the driver.
#[derive(Default)]
pub(crate) struct Shared {
    pub series: SeriesTable,
    pub snapshots: Mutex<Snapshots>,
    pub snapshot_came: Notify,
    pub state: Mutex<UplinkState>,
    pub tapes: TapesLater,
    pub docket: Arc<Docket>,
    pub probes: Arc<ProbesLater>,
    /// What the spool held of receipts when it was opened.
    pub receipts: OnceLock<HashMap<u64, Vec<u64>>>,
    /// Refused since the driver last looked; then in the state.
    pub refused_signals: AtomicU64,
    pub refused_windows: AtomicU64,
    pub refused_series: AtomicU64,
    pub refused_snapshots: AtomicU64,
    pub lost_probe_results: AtomicU64,
}

/// The agent's end of the uplink. Clones share it; when the last one is dropped the uplink says goodbye and ends.
#[derive(Clone)]
pub struct UplinkHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) signals: mpsc::Sender<Handed>,
    pub(crate) windows: mpsc::Sender<Windows>,
    pub(crate) results: mpsc::Sender<ProbeResults>,
    pub(crate) control: Arc<watch::Sender<Control>>,
}

impl UplinkHandle {
    /// Hands over a signal: spooled and sent at once.
    pub fn signal(&self, signal: Signal) -> Result<(), Refused> {
        self.hand_over_signal(signal, None)
    }

    /// Hands over a signal whose origin keeps what it was made of until the spool has the signal. Where it is refused the
    /// origin is not told: the signal is counted as lost, and its places are the caller's to settle.
    pub fn signal_from(&self, signal: Signal, receipt: Receipt) -> Result<(), Refused> {
        self.hand_over_signal(signal, Some(receipt))
    }

    /// The places of this origin whose signals were in the spool when it was opened: what it gives again from them is
    /// known. Waits until the spool is open.
    pub fn spooled(&self, origin: u64) -> Vec<u64> {
        self.shared.receipts.wait().get(&origin).cloned().unwrap_or_default()
    }

    fn hand_over_signal(&self, signal: Signal, receipt: Option<Receipt>) -> Result<(), Refused> {
        let handed = match fits(&signal) {
            true => hand_over(&self.signals, (signal, receipt)),
            false => Err(Refused::TooLarge),
        };
        handed.inspect_err(|_| {
            self.shared.refused_signals.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Hands over windows. Their series must have been defined before.
    pub fn windows(&self, windows: Windows) -> Result<(), Refused> {
        let handed = match fits(&windows) {
            true => hand_over(&self.windows, windows),
            false => Err(Refused::TooLarge),
        };
        handed.inspect_err(|_| {
            self.shared.refused_windows.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Says what a series means. Once per start is enough; the uplink sends it when a connection needs it.
    pub fn define(&self, series: SeriesDefinition) -> Result<(), Refused> {
        let mut table = self.shared.series.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = if series.encoded_len() > MESSAGE_BYTES_MAX / 64 {
            Refused::TooLarge
        } else if table.len() >= SERIES_PER_HOST_MAX && !table.contains_key(&series.id) {
            Refused::TooManySeries
        } else {
            table.insert(series.id, series);
            return Ok(());
        };
        self.shared.refused_series.fetch_add(1, Ordering::Relaxed);
        Err(refused)
    }

    /// Hands over state: parts that are set replace what was sent before, the others stay.
    pub fn snapshot(&self, snapshot: Snapshot) -> Result<(), Refused> {
        if !fits(&snapshot) {
            self.shared.refused_snapshots.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::TooLarge);
        }
        let mut snapshots = self.shared.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        merge(&mut snapshots.whole, &snapshot);
        match &mut snapshots.changed {
            Some(changed) => merge(changed, &snapshot),
            none => *none = Some(snapshot),
        }
        drop(snapshots);
        self.shared.snapshot_came.notify_one();
        Ok(())
    }

    /// Hands over results of probes: sent behind signals and windows, while a collector is connected.
    pub fn probe_results(&self, results: ProbeResults) -> Result<(), Refused> {
        let handed = match fits(&results) {
            true => hand_over(&self.results, results),
            false => Err(Refused::TooLarge),
        };
        handed.inspect_err(|_| {
            self.shared.lost_probe_results.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// How the uplink stands now.
    pub fn state(&self) -> UplinkState {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        state.refused_series = self.shared.refused_series.load(Ordering::Relaxed);
        state.refused_snapshots = self.shared.refused_snapshots.load(Ordering::Relaxed);
        state.lost_probe_results = self.shared.lost_probe_results.load(Ordering::Relaxed);
        state
    }

    /// Dials another collector, or the same one with other files. The connection there is says goodbye first.
    pub fn point_at(&self, target: Target) {
        self.control.send_modify(|control| control.target = target);
    }

    /// What this host cannot do; told to the collector from the next connection on.
    pub fn set_limitations(&self, limitations: Vec<Limitation>) {
        self.control.send_modify(|control| control.limitations = limitations);
    }

    /// Who answers requests for the tape. Once; another call changes nothing.
    pub fn set_tapes(&self, tapes: Arc<dyn Tapes>) {
        // A second one is a defect of the caller that costs nothing.
        let _ = self.shared.tapes.set(tapes);
    }

    /// Who probes as the collector plans, and traces. Once; another call changes nothing.
    pub fn set_probes(&self, probes: Arc<dyn Probes>) {
        self.shared.probes.set(probes);
    }

    /// Who carries out the collector's directives. Once; another call changes nothing.
    pub fn set_directives(&self, directives: Arc<dyn Directives>) {
        self.shared.docket.set_carrier(directives);
    }

    /// Ends the uplink: what was handed over is spooled, sent and waited for, for a second at most; then goodbye.
    pub fn stop(&self) {
        self.control.send_modify(|control| control.stop = true);
    }
}

fn fits(message: &impl Message) -> bool {
    message.encoded_len() <= MESSAGE_BYTES_MAX - ENVELOPE_BYTES
}

fn hand_over<T>(queue: &mpsc::Sender<T>, message: T) -> Result<(), Refused> {
    queue.try_send(message).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Refused::Full,
        mpsc::error::TrySendError::Closed(_) => Refused::Ended,
    })
}

fn merge(into: &mut Snapshot, from: &Snapshot) {
    let Snapshot {
        taken_mono_ns,
        gpu,
        loss,
        sources,
        ports,
        modules,
        drops,
        peers,
        placement,
        inventory,
        no_ports,
        no_modules,
        probe,
    } = from;
    into.taken_mono_ns = into.taken_mono_ns.max(*taken_mono_ns);
    if gpu.is_some() {
        into.gpu.clone_from(gpu);
    }
    if loss.is_some() {
        into.loss.clone_from(loss);
    }
    if !sources.is_empty() {
        into.sources.clone_from(sources);
    }
    if !ports.is_empty() || *no_ports {
        into.ports.clone_from(ports);
        into.no_ports = *no_ports;
    }
    if drops.is_some() {
        into.drops.clone_from(drops);
    }
    if !modules.is_empty() || *no_modules {
        into.modules.clone_from(modules);
        into.no_modules = *no_modules;
    }
    if peers.is_some() {
        into.peers.clone_from(peers);
    }
    if placement.is_some() {
        into.placement.clone_from(placement);
    }
    if inventory.is_some() {
        into.inventory.clone_from(inventory);
    }
    if probe.is_some() {
        into.probe.clone_from(probe);
    }
}
