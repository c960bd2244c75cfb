//! One source, probed and read by hand, its readings in one long window.
#![allow(dead_code, reason = "each test binary uses its part")]

use railwatch_nic::{NicSources, RULES};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, Catalog, Flags, Output, Recorder, SeriesDef, Signal, Source, Unavailable, WindowFrame,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One source, driven by hand.
pub struct Driven {
    pub source: Box<dyn Source>,
    pub recorder: Recorder,
    pub catalog: Arc<Catalog>,
    pub out: Output,
    batch: Batch,
}

impl Driven {
    pub fn new(sources: &mut NicSources, name: &str) -> Self {
        let at = sources.sources.iter().position(|source| source.name() == name).expect("as the test arranged");
        let source = sources.sources.remove(at);
        let catalog = Arc::new(Catalog::default());
        // Longer than any test: everything ends up in one window.
        let window = Duration::from_secs(100_000_000);
        let recorder = Recorder::new(source.name(), window, RULES, Arc::clone(&catalog));
        Self { source, recorder, catalog, out: Output::default(), batch: Batch::with_capacity(4096) }
    }

    pub fn probe(&mut self) -> Result<(), Unavailable> {
        let Self { source, recorder, out, catalog, .. } = self;
        let outcome = recorder.probe(monotonic_ns(), out, |declare| source.probe(declare));
        assert_eq!(catalog.outside_vocabulary(), "");
        outcome
    }

    /// Reads once; returns how many readings it brought.
    pub fn read(&mut self) -> usize {
        self.batch.clear();
        self.source.read(&mut self.batch).expect("as the test arranged");
        self.recorder.record(&self.batch, &mut self.out);
        self.batch.readings().len()
    }

    pub fn window(&mut self) -> Rows {
        self.recorder.finish(monotonic_ns(), &mut self.out);
        let frame = self.out.frames.pop().expect("as the test arranged");
        let key = |def: &SeriesDef| {
            let class = def.label("network.priority").or(def.label("network.cos"));
            let more = class.into_iter().chain(def.label("network.io.direction").or(def.label("counter")));
            [def.entity().name.as_str(), def.name()].into_iter().chain(more).collect::<Vec<_>>().join(" ")
        };
        let rows = frame
            .series
            .iter()
            .enumerate()
            .map(|(row, id)| (key(&self.catalog.get(*id).expect("as the test arranged")), row))
            .collect();
        Rows { frame, rows }
    }

    pub fn signals(&mut self) -> Vec<Signal> {
        std::mem::take(&mut self.out.signals)
    }
}

pub struct Rows {
    pub frame: WindowFrame,
    pub rows: BTreeMap<String, usize>,
}

impl Rows {
    pub fn row(&self, key: &str) -> usize {
        *self.rows.get(key).unwrap_or_else(|| panic!("no series {key:?} among {:?}", self.rows.keys()))
    }

    pub fn delta(&self, key: &str) -> u64 {
        self.frame.delta[self.row(key)]
    }

    pub fn last(&self, key: &str) -> f64 {
        self.frame.last[self.row(key)]
    }

    pub fn flags(&self, key: &str) -> Flags {
        self.frame.flags[self.row(key)]
    }
}
