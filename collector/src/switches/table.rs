//! The switches that are followed, each behind a lock of its own.
//!
//! In: what their tasks hear. Out: rows and metrics. The set is that of the configuration at the start. Never: IO.

use super::config::SwitchConfig;
use super::row::{self, SwitchRow};
use super::sflow::SflowCounts;
use crate::clock::nanoseconds;
use railwatch_engine::{Signal, Timestamp};
use railwatch_switches::SwitchState;
use railwatch_switches::client::{Limitation, Offer};
use railwatch_switches::gnmi::Notification;
use railwatch_switches::rules::Rules;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// A neighbour that is sampled is gone when it was not told for so many samples.
const NEIGHBOUR_SAMPLES: u32 = 4;

/// All switches. Clone it freely.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    switches: RwLock<BTreeMap<String, Arc<Cell>>>,
    agents: RwLock<BTreeMap<IpAddr, Arc<Cell>>>,
    sflow: SflowCounts,
}

/// One switch behind its lock.
#[derive(Debug)]
pub struct Cell(Mutex<Switch>);

impl Cell {
    /// The switch. A panic elsewhere while it was held is no reason to hide it: it is plain data.
    pub fn lock(&self) -> MutexGuard<'_, Switch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was done with what a switch sent, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Values read.
    pub values: u64,
    /// Of those: nothing reads them.
    pub unread: u64,
    /// Beyond a bound.
    pub refused: u64,
    /// Could not be read.
    pub malformed: u64,
    /// Streams that ended, and attempts that failed.
    pub losses: u64,
    /// Signals made.
    pub signals: u64,
    /// Of those: not stored.
    pub signals_lost: u64,
}

/// A switch.
#[derive(Debug)]
pub struct Switch {
    /// As it is configured.
    pub name: String,
    /// Of its gNMI server.
    pub address: Option<String>,
    /// What it says.
    pub state: SwitchState,
    /// What it is and lacks.
    pub offer: Offer,
    /// Paths at which it says nothing.
    pub silent: Vec<Limitation>,
    /// Since when the stream is open.
    pub connected_since: Option<Timestamp>,
    /// It has said everything since.
    pub is_synced: bool,
    /// Why it is not connected, or was not before.
    pub why: Option<String>,
    /// What was done with it.
    pub counts: Counts,
    /// What came by sFlow, where that is configured.
    pub sflow: Option<row::SflowRow>,
    rules: Rules,
}

impl Table {
    pub(crate) fn add(&self, config: &SwitchConfig) -> Arc<Cell> {
        let cell = Arc::new(Cell(Mutex::new(Switch {
            name: config.name.clone(),
            address: config.address.clone(),
            state: SwitchState::new(&config.name),
            offer: Offer::default(),
            silent: Vec::new(),
            connected_since: None,
            is_synced: false,
            why: None,
            counts: Counts::default(),
            sflow: (!config.sflow_agents.is_empty()).then(row::SflowRow::default),
            rules: Rules::default(),
        })));
        let mut agents = self.0.agents.write().unwrap_or_else(PoisonError::into_inner);
        agents.extend(config.sflow_agents.iter().map(|agent| (*agent, Arc::clone(&cell))));
        let mut switches = self.0.switches.write().unwrap_or_else(PoisonError::into_inner);
        switches.insert(config.name.clone(), Arc::clone(&cell));
        cell
    }

    /// Every switch, by name.
    pub fn cells(&self) -> Vec<Arc<Cell>> {
        self.0.switches.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// One row per switch, by name.
    pub fn rows(&self) -> Vec<SwitchRow> {
        self.cells().iter().map(|cell| row::row(&cell.lock())).collect()
    }

    /// The switch whose sFlow comes from this address.
    pub(super) fn agent(&self, address: IpAddr) -> Option<Arc<Cell>> {
        self.0.agents.read().unwrap_or_else(PoisonError::into_inner).get(&address).map(Arc::clone)
    }

    /// What became of datagrams of sFlow.
    pub fn sflow(&self) -> &SflowCounts {
        &self.0.sflow
    }
}

impl Switch {
    pub(super) fn connected(&mut self, offer: Offer, now: Timestamp) {
        (self.offer, self.silent, self.why) = (offer, Vec::new(), None);
        (self.connected_since, self.is_synced) = (Some(now), false);
        self.state.begin();
    }

    /// Signals, and whether the map is another one.
    pub(crate) fn said(
        &mut self,
        notification: &Notification,
        at: Timestamp,
        half_width_ns: u64,
    ) -> (Vec<Signal>, bool) {
        let applied = self.state.apply(notification, at.0);
        let Counts { values, unread, refused, malformed, .. } = &mut self.counts;
        *values += applied.leaves;
        *unread += applied.unread;
        *refused += applied.refused;
        *malformed += applied.malformed;
        (self.rules.take(&self.state, &applied.changes, at, half_width_ns), applied.map_changed)
    }

    pub(super) fn synced(&mut self, silent: Vec<Limitation>) {
        self.state.synced();
        (self.is_synced, self.silent) = (true, silent);
    }

    pub(super) fn is_unsynced_since(&self, before_ns: u64) -> bool {
        !self.is_synced && self.connected_since.is_some_and(|since| since.0 < before_ns)
    }

    /// True where it was connected.
    pub(super) fn lost(&mut self, why: &str) -> bool {
        self.counts.losses += 1;
        self.why = Some(why.to_owned());
        self.is_synced = false;
        self.connected_since.take().is_some()
    }

    /// True where a neighbour left in silence, or one that left is forgotten.
    pub(super) fn expire(&mut self, now: Timestamp) -> bool {
        let is_forgotten = self.state.expire_remembered(now.0);
        self.expire_neighbours(now) || is_forgotten
    }

    fn expire_neighbours(&mut self, now: Timestamp) -> bool {
        let Some(every) = self.offer.neighbours_sampled.filter(|_| self.is_synced) else { return false };
        // A target that samples as fast as it can says nothing of how fast that is.
        let every = every.max(std::time::Duration::from_secs(5)) * NEIGHBOUR_SAMPLES;
        let before_ns = now.0.saturating_sub(nanoseconds(every));
        self.state.expire_neighbours(before_ns)
    }

    pub(super) fn tick(&mut self, now: Timestamp, half_width_ns: u64) -> Vec<Signal> {
        self.rules.tick(&self.state, now, half_width_ns)
    }
}
