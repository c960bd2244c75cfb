//! Live state: what every host says of itself right now, latest wins, in memory only.
//!
//! In: validated Hellos, definitions, windows, snapshots and clock exchanges, from [`crate::ingest`]. Out: [`rows`] for
//! the API, metrics and OTLP, and a broadcast of [`rows::Change`]. A host is its own shard: one lock each, held for
//! microseconds, so streams never wait for each other. Bounded per host by the limits of the wire; a host not heard
//! for [`Live::forget_after`] leaves. Never: history (windows are replaced, tapes stay on the hosts), or the disk.

mod definitions;
mod drops;
mod host;
mod peers;
mod placement;
mod port_health;
mod render;
pub mod rows;
mod series;
mod text;

pub use definitions::{Definition, Definitions};
pub use host::{Host, LossAccount};
pub use series::{Applied, Reading, Series, SeriesTable, Undefined};
pub use text::rfc3339;

use crate::clock::Timeline;
use crate::inventory::Inventories;
use crate::switches;
use railwatch_engine::{KnownHost, Timestamp};
use railwatch_wire::v1;
use rows::{
    Change, DropAccountRow, DropRow, FlowRow, GpuCoverageRow, GpuProcessRow, HostRow, JobRow, NeighbourRow, NicRow,
    OpticsRow, PeerAccountRow, PlacementRow, QueuePairRow, SourceCostRow,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::broadcast;

/// Changes that a slow listener may lag behind before it is told that it missed some.
const CHANGES_KEPT: usize = 4096;

/// Live state of the fleet. Clone it freely.
#[derive(Clone, Debug)]
pub struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hosts: RwLock<HashMap<String, Arc<HostCell>>>,
    definitions: Definitions,
    inventories: Inventories,
    switches: switches::Table,
    changes: broadcast::Sender<Change>,
    forget_after_ms: AtomicU64,
}

/// One host's state behind its own lock.
#[derive(Debug)]
pub struct HostCell(Mutex<Host>);

impl HostCell {
    /// The host's state. A panic elsewhere while it was held is no reason to hide the host: the state is plain data.
    pub fn lock(&self) -> MutexGuard<'_, Host> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// An empty fleet.
    pub fn new(forget_after: Duration) -> Self {
        Self(Arc::new(Inner {
            hosts: RwLock::default(),
            definitions: Definitions::default(),
            inventories: Inventories::default(),
            switches: switches::Table::default(),
            changes: broadcast::Sender::new(CHANGES_KEPT),
            forget_after_ms: AtomicU64::new(milliseconds(forget_after)),
        }))
    }

    /// How long a host that is not heard stays.
    pub fn forget_after(&self) -> Duration {
        Duration::from_millis(self.0.forget_after_ms.load(Ordering::Relaxed))
    }

    /// Changes how long a host that is not heard stays.
    pub fn set_forget_after(&self, duration: Duration) {
        self.0.forget_after_ms.store(milliseconds(duration), Ordering::Relaxed);
    }

    /// The state of `host`, made if it is new.
    pub fn host(&self, host: &str) -> Arc<HostCell> {
        if let Some(cell) = self.0.hosts.read().unwrap_or_else(PoisonError::into_inner).get(host) {
            return Arc::clone(cell);
        }
        let mut hosts = self.0.hosts.write().unwrap_or_else(PoisonError::into_inner);
        let cell = hosts
            .entry(host.to_owned())
            .or_insert_with(|| Arc::new(HostCell(Mutex::new(Host::new(host, Timeline::now())))));
        Arc::clone(cell)
    }

    /// The state of `host`, where it is known.
    pub fn find(&self, host: &str) -> Option<Arc<HostCell>> {
        self.0.hosts.read().unwrap_or_else(PoisonError::into_inner).get(host).map(Arc::clone)
    }

    /// A host that the store knows from before this start: shown as not connected, last seen when it was last heard,
    /// until its stream opens or it is forgotten.
    pub fn remember(&self, known: KnownHost) {
        let cell = self.host(&known.host);
        let mut host = cell.lock();
        (host.hello.boot_id, host.last_seen) = (known.boot_id, known.last_heard);
    }

    /// A stream of `host` opened, the `generation`-th of the collector: its state, which stays while it is open.
    pub fn open(&self, host: &str, hello: v1::Hello, generation: u64) -> Arc<HostCell> {
        // Within the lock that forgetting takes: a host cannot be let go between finding its state and marking it.
        let mut hosts = self.0.hosts.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(HostCell(Mutex::new(Host::new(host, Timeline::now()))));
        let cell = Arc::clone(hosts.entry(host.to_owned()).or_insert_with(new));
        cell.lock().opened(hello, generation, Timeline::now());
        cell
    }

    /// Definitions shared by all hosts.
    pub fn definitions(&self) -> &Definitions {
        &self.0.definitions
    }

    /// Inventories, sharing what they have in common.
    pub fn inventories(&self) -> &Inventories {
        &self.0.inventories
    }

    /// Switches, as they say they are.
    pub fn switches(&self) -> &switches::Table {
        &self.0.switches
    }

    /// Changes from now on. A listener that falls behind gets `RecvError::Lagged` with how many it missed.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    /// Tells listeners of a change.
    pub fn announce(&self, change: Change) {
        // An error means that nobody listens.
        let _ = self.0.changes.send(change);
    }

    /// Lets hosts go that were not heard for [`Self::forget_after`]. Returns how many.
    pub fn forget(&self, now: Timestamp) -> usize {
        let limit_ns = self.0.forget_after_ms.load(Ordering::Relaxed).saturating_mul(1_000_000);
        let gone = |cell: &HostCell| {
            let host = cell.lock();
            !host.connected && now.0.saturating_sub(host.last_seen.0) > limit_ns
        };
        let mut forgotten = Vec::new();
        self.0.hosts.write().unwrap_or_else(PoisonError::into_inner).retain(|name, cell| {
            let leaves = gone(cell);
            if leaves {
                forgotten.push(name.clone());
            }
            !leaves
        });
        if !forgotten.is_empty() {
            self.0.definitions.prune();
            self.0.inventories.prune();
        }
        let count = forgotten.len();
        for host in forgotten {
            self.announce(Change::HostForgotten { host });
        }
        count
    }

    /// Every host's cell, by name.
    pub fn cells(&self) -> Vec<Arc<HostCell>> {
        let hosts = self.0.hosts.read().unwrap_or_else(PoisonError::into_inner);
        let mut cells: Vec<_> = hosts.iter().collect();
        cells.sort_unstable_by_key(|(name, _)| *name);
        cells.into_iter().map(|(_, cell)| Arc::clone(cell)).collect()
    }

    /// One row per host, by name.
    pub fn hosts(&self) -> Vec<HostRow> {
        let now = Timeline::now();
        self.cells().iter().map(|cell| render::host(&cell.lock(), now)).collect()
    }

    /// One row per process, device and layer; by host, process, layer and device.
    pub fn gpu_processes(&self) -> Vec<GpuProcessRow> {
        self.cells().iter().flat_map(|cell| render::gpu_processes(&cell.lock())).collect()
    }

    /// One row per process and object; by host and process.
    pub fn gpu_coverage(&self) -> Vec<GpuCoverageRow> {
        self.cells().iter().flat_map(|cell| render::gpu_coverage(&cell.lock())).collect()
    }

    /// One row per port, by host and name.
    pub fn nic(&self) -> Vec<NicRow> {
        self.cells().iter().flat_map(|cell| render::nic(&cell.lock())).collect()
    }

    /// One row per telemetry source, by host and name.
    pub fn sources(&self) -> Vec<SourceCostRow> {
        self.cells().iter().flat_map(|cell| render::sources(&cell.lock())).collect()
    }

    /// Flows that lost packets, the worst of each host first, and what is in no flow.
    pub fn drops(&self) -> Vec<DropRow> {
        self.cells().iter().flat_map(|cell| drops::rows(&cell.lock())).collect()
    }

    /// One row per host that counts drops.
    pub fn drop_accounts(&self) -> Vec<DropAccountRow> {
        self.cells().iter().filter_map(|cell| drops::account(&cell.lock())).collect()
    }

    /// One row per optical module, by host and interface.
    pub fn optics(&self) -> Vec<OpticsRow> {
        let far_ends = switches::FarEnds::of(self.switches());
        let mut rows: Vec<_> = self.cells().iter().flat_map(|cell| render::optics(&cell.lock())).collect();
        rows.iter_mut().for_each(|row| row.far_end = far_ends.far_end(row));
        rows
    }

    /// One row per LLDP neighbour, by host and interface.
    pub fn neighbours(&self) -> Vec<NeighbourRow> {
        self.cells().iter().flat_map(|cell| peers::neighbours(&cell.lock())).collect()
    }

    /// One row per RDMA queue pair, by host, device and number.
    pub fn queue_pairs(&self) -> Vec<QueuePairRow> {
        self.cells().iter().flat_map(|cell| peers::queue_pairs(&cell.lock())).collect()
    }

    /// One row per TCP connection of a GPU process, by host and process.
    pub fn flows(&self) -> Vec<FlowRow> {
        self.cells().iter().flat_map(|cell| peers::flows(&cell.lock())).collect()
    }

    /// One row per host: what of its peers is not listed, and why.
    pub fn peer_accounts(&self) -> Vec<PeerAccountRow> {
        self.cells().iter().map(|cell| peers::account(&cell.lock())).collect()
    }
    /// One row per host that says how its devices sit.
    pub fn placement(&self) -> Vec<PlacementRow> {
        self.cells().iter().filter_map(|cell| placement::row(&cell.lock())).collect()
    }

    /// One row per job, over all hosts.
    pub fn jobs(&self) -> Vec<JobRow> {
        placement::jobs(self.cells().iter().flat_map(|cell| placement::members(&cell.lock())).collect())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Live, rows::Change};
    use railwatch_engine::Timestamp;
    use std::time::Duration;

    #[test]
    fn a_silent_host_leaves_and_a_connected_one_never_does() {
        let live = Live::new(Duration::from_secs(60));
        let mut changes = live.changes();
        let last_seen = live.host("gone").lock().last_seen;
        live.host("here").lock().connected = true;
        assert_eq!(live.forget(Timestamp(last_seen.0 + 59_000_000_000)), 0);
        assert_eq!(live.forget(Timestamp(last_seen.0 + 61_000_000_000)), 1);
        assert_eq!(changes.try_recv().unwrap(), Change::HostForgotten { host: "gone".into() });
        assert_eq!(live.hosts().iter().map(|row| row.host.as_str()).collect::<Vec<_>>(), ["here"]);
    }
}
