//! What the agent knows now, for whoever asks: the uplink's snapshots, the metrics page, the reload.
//!
//! In: each room writes its own part. Out: copies. Never: a lock held while waiting, or two locks at once.

use crate::loss::{Elsewhere, LossBook};
use crate::placement::Tasks;
use crate::privileges::{Facts, Limitation, limitations};
use railwatch_nic::Ports;
use railwatch_optics_source::Modules;
use railwatch_sampling::{Catalog, SeriesId, WindowFrame};
use railwatch_wire::v1;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What the GPU room knows.
#[derive(Clone, Debug, Default)]
pub struct GpuView {
    /// The kernel half is loaded.
    pub loaded: bool,
    /// Processes, balances and coverage.
    pub state: Arc<v1::GpuState>,
    /// Grows with each change of `state`.
    pub generation: u64,
    /// Events that the kernel half was to send since this agent started.
    pub events_seen: u64,
    /// Events it put into the ring since this agent started.
    pub events_submitted: u64,
    /// Events taken out of the ring.
    pub events_read: u64,
    /// Of those: records that this build does not know.
    pub events_unknown: u64,
    /// What the kernel half dropped since this agent started, by reason.
    pub kernel_dropped: Vec<(&'static str, u64)>,
    /// What discovery did, by kind.
    pub discovery: Vec<(&'static str, u64)>,
}

/// A port's last values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastValue {
    /// A counter's value as the kernel shows it.
    pub total: u64,
    /// A gauge's last value.
    pub last: f64,
}

/// A part of the host's state that one room writes whole and the uplink sends when it changed.
#[derive(Debug)]
pub struct Part<T>(Mutex<(u64, Arc<T>)>);

impl<T: Default> Default for Part<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: PartialEq> Part<T> {
    /// Replaces it; returns whether it is another than before.
    pub fn set(&self, value: T) -> bool {
        let mut part = locked(&self.0);
        let differs = *part.1 != value;
        if differs {
            *part = (part.0 + 1, Arc::new(value));
        }
        differs
    }

    /// It, with a number that grows with each change; 0 until a room wrote it.
    pub fn get(&self) -> (u64, Arc<T>) {
        locked(&self.0).clone()
    }
}

/// Everything that rooms share.
#[derive(Debug)]
pub struct Shared {
    /// What this process can do.
    pub facts: Facts,
    /// The loss account.
    pub book: LossBook,
    /// All series of the samplers.
    pub catalog: Arc<Catalog>,
    /// All ports.
    pub ports: Arc<Ports>,
    /// All optical modules.
    pub modules: Arc<Modules>,
    /// Whom this host talks to.
    pub peers: Part<v1::PeerState>,
    /// How devices sit on this host, and what runs where.
    pub placement: Part<v1::PlacementState>,
    /// Processes that use a GPU, with their jobs.
    pub tasks: Tasks,
    /// What is installed and set on this host.
    pub inventory: Part<v1::InventoryState>,
    /// What this host can do for probes.
    pub probe: Part<v1::ProbeState>,
    /// Told when there is something to send to the collector; see [`crate::daemon`].
    pub news: Notify,
    /// Configurations taken while running.
    pub reloads: AtomicU64,
    /// Configurations refused while running.
    pub reloads_refused: AtomicU64,
    found: Mutex<BTreeMap<&'static str, Vec<Limitation>>>,
    gpu: Mutex<GpuView>,
    values: Mutex<HashMap<SeriesId, LastValue>>,
    pruned: AtomicU64,
}

impl Shared {
    /// At the start.
    pub fn new(facts: Facts, catalog: Arc<Catalog>, ports: Arc<Ports>, modules: Arc<Modules>) -> Self {
        Self {
            facts,
            book: LossBook::default(),
            catalog,
            ports,
            modules,
            peers: Part::default(),
            placement: Part::default(),
            tasks: Tasks::default(),
            inventory: Part::default(),
            probe: Part::default(),
            news: Notify::new(),
            reloads: AtomicU64::new(0),
            reloads_refused: AtomicU64::new(0),
            found: Mutex::default(),
            gpu: Mutex::default(),
            values: Mutex::default(),
            pruned: AtomicU64::new(0),
        }
    }

    /// Replaces what `room` found missing by trying.
    pub fn set_limitations(&self, room: &'static str, limitations: Vec<Limitation>) {
        for limitation in &limitations {
            tracing::warn!(what = limitation.what, "off or limited: {}", limitation.why);
        }
        locked(&self.found).insert(room, limitations);
    }

    /// What `room` found missing last.
    #[cfg(feature = "verbs")]
    pub fn limitations_of(&self, room: &'static str) -> Vec<Limitation> {
        locked(&self.found).get(room).cloned().unwrap_or_default()
    }

    /// Everything missing, by fact and by trial, each once.
    pub fn limitations(&self) -> Vec<Limitation> {
        let mut all = limitations(&self.facts);
        for limitation in locked(&self.found).values().flatten() {
            if !all.contains(limitation) {
                all.push(limitation.clone());
            }
        }
        all
    }

    /// What the GPU room knows.
    pub fn gpu(&self) -> GpuView {
        locked(&self.gpu).clone()
    }

    /// Changes what the GPU room shows.
    pub fn update_gpu(&self, change: impl FnOnce(&mut GpuView)) {
        change(&mut locked(&self.gpu));
    }

    /// Takes the last values of a window.
    pub fn note_window(&self, frame: &WindowFrame) {
        let mut values = locked(&self.values);
        for (row, id) in frame.series.iter().enumerate() {
            values.insert(*id, LastValue { total: frame.total[row], last: frame.last[row] });
        }
        // The catalog is bounded; what left it leaves here.
        if self.catalog.generation() != self.pruned.swap(self.catalog.generation(), Relaxed) {
            values.retain(|id, _| self.catalog.get(*id).is_some());
        }
    }

    /// The last value of a series.
    pub fn value(&self, id: SeriesId) -> Option<LastValue> {
        locked(&self.values).get(&id).copied()
    }

    /// What other rooms count for the loss account; `spool_cut` is the uplink's.
    pub fn elsewhere(&self, spool_cut: u64) -> Elsewhere {
        Elsewhere { kernel_dropped: locked(&self.gpu).kernel_dropped.clone(), spool_cut }
    }

    /// Counts a reload.
    pub fn count_reload(&self, taken: bool) {
        (if taken { &self.reloads } else { &self.reloads_refused }).fetch_add(1, Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values are replaced whole under these locks: nothing is left half way by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
