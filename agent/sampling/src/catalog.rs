//! Every series the agent knows, over all sources, and the bound on their number.
//!
//! In: declarations from the samplers' threads. Out: what an identifier means, for the uplink and the metrics page.
//! Never: more series than its bound; a series beyond it is refused and counted. Locked at probes and by readers, not
//! while taking readings.

use crate::series::{SeriesDef, SeriesId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Series an agent may hold unless told otherwise.
pub const SERIES_MAX_DEFAULT: usize = 10_000;

/// All declared series.
#[derive(Debug)]
pub struct Catalog {
    series_max: usize,
    series: Mutex<BTreeMap<SeriesId, Arc<SeriesDef>>>,
    refused: AtomicU64,
    generation: AtomicU64,
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new(SERIES_MAX_DEFAULT)
    }
}

impl Catalog {
    /// An empty catalog with this bound.
    #[must_use]
    pub fn new(series_max: usize) -> Self {
        Self { series_max, series: Mutex::default(), refused: AtomicU64::new(0), generation: AtomicU64::new(0) }
    }

    /// What a series is.
    #[must_use]
    pub fn get(&self, id: SeriesId) -> Option<Arc<SeriesDef>> {
        self.locked().get(&id).cloned()
    }

    /// All series, by identifier.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<SeriesDef>> {
        self.locked().values().cloned().collect()
    }

    /// What is declared and not in the vocabulary, or otherwise than there, with what to do about it; empty where all is
    /// well. For tests: each room's asks it of every series that it made a source declare.
    #[must_use]
    pub fn outside_vocabulary(&self) -> String {
        let all = self.all();
        railwatch_vocabulary::check_all(all.iter().map(|def| def.declared()))
    }

    /// Grows whenever a series comes or goes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Declarations refused so far: the bound was reached, or the series was declared twice.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn admit(&self, def: SeriesDef) -> Option<Arc<SeriesDef>> {
        let mut series = self.locked();
        if series.len() >= self.series_max || series.contains_key(&def.id()) {
            self.refuse();
            return None;
        }
        let def = Arc::new(def);
        series.insert(def.id(), Arc::clone(&def));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Some(def)
    }

    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, id: SeriesId) {
        if self.locked().remove(&id).is_some() {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<SeriesId, Arc<SeriesDef>>> {
        // Nothing under this lock can panic half way through a change.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
