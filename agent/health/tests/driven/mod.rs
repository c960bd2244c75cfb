//! One health source, probed and read by hand, over a tree of files that a test lays out.
#![allow(dead_code, reason = "each test binary uses its part")]

use railwatch_health::{HealthConfig, HealthSources, RULES};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, ErrorReason, Output, Recorder, Severity, Source, Unavailable};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `/sys` and `/proc` of a host.
pub struct Tree(pub tempfile::TempDir);

impl Tree {
    pub fn new() -> Self {
        let tree = Self(tempfile::tempdir().expect("a directory for the tree"));
        fs::create_dir_all(tree.sys("")).expect("a directory of the tree");
        fs::create_dir_all(tree.proc("")).expect("a directory of the tree");
        tree
    }

    pub fn sys(&self, path: &str) -> PathBuf {
        self.0.path().join("sys").join(path)
    }

    pub fn proc(&self, path: &str) -> PathBuf {
        self.0.path().join("proc").join(path)
    }

    /// Writes in place: a file that is kept open shows the new text, as the kernel's do.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory of the tree");
        fs::write(path, format!("{text}\n")).expect("writing a file");
    }

    pub fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        if path.is_symlink() {
            fs::remove_file(path).expect("removing a link");
        } else {
            fs::remove_dir_all(path).expect("removing a folder");
        }
    }

    pub fn config(&self) -> HealthConfig {
        HealthConfig {
            sysfs_root: self.sys(""),
            procfs_root: self.proc(""),
            nvml_library: self.0.path().join("libnvidia-ml.so.1"),
            dcmi_library: self.0.path().join("libdcmi.so"),
            hccn_tool: self.0.path().join("hccn_tool"),
            kmsg_socket: Some(self.0.path().join("kmsg.sock")),
            disk_socket: Some(self.0.path().join("disk.sock")),
        }
    }
}

/// One source, driven by hand.
pub struct Driven {
    pub source: Box<dyn Source>,
    recorder: Recorder,
    pub catalog: Arc<Catalog>,
    out: Output,
    batch: Batch,
}

impl Driven {
    pub fn new(config: &HealthConfig, name: &str) -> Self {
        let sources = HealthSources::new(config).sources;
        let source = sources.into_iter().find(|source| source.name() == name).expect("a source of that name");
        let catalog = Arc::new(Catalog::default());
        // Longer than any test: everything ends up in one window.
        let recorder = Recorder::new(source.name(), Duration::from_secs(100_000_000), RULES, Arc::clone(&catalog));
        Self { source, recorder, catalog, out: Output::default(), batch: Batch::with_capacity(4096) }
    }

    /// As the sampler does: a source that is off has no series.
    pub fn probe(&mut self) -> Result<(), Unavailable> {
        let Self { source, recorder, out, catalog, .. } = self;
        let outcome = recorder.probe(monotonic_ns(), out, |declare| source.probe(declare));
        if outcome.is_err() {
            recorder.retire_all(monotonic_ns(), out);
        }
        assert_eq!(catalog.outside_vocabulary(), "");
        outcome
    }

    /// Why it is off.
    pub fn off(&mut self) -> (ErrorReason, String) {
        let Unavailable { reason, text } = self.probe().expect_err("nothing to read");
        (reason, text)
    }

    /// Reads once; the readings by "entity series label label".
    pub fn read(&mut self) -> BTreeMap<String, f64> {
        self.batch.clear();
        self.source.read(&mut self.batch).expect("as the test arranged");
        self.recorder.record(&self.batch, &mut self.out);
        self.last()
    }

    /// As [`Self::read`], of what the source's descriptor holds.
    pub fn on_event(&mut self) {
        self.batch.clear();
        self.source.on_event(&mut self.batch).expect("as the test arranged");
        self.recorder.record(&self.batch, &mut self.out);
    }

    /// Readings in the batch of the last read.
    pub fn readings(&self) -> usize {
        self.batch.readings().len()
    }

    /// The open window's last value of every series: a gauge's value, a counter's movement since the last call.
    fn last(&mut self) -> BTreeMap<String, f64> {
        self.recorder.finish(monotonic_ns(), &mut self.out);
        let mut values = BTreeMap::new();
        for frame in self.out.frames.drain(..) {
            for (row, id) in frame.series.iter().enumerate() {
                let Some(def) = self.catalog.get(*id) else { continue };
                let skip = ["driver", "gpu.uuid", "gpu.index", "model", "serial", "dimm", "sensor"];
                let labels =
                    def.labels().iter().filter(|(key, _)| !skip.contains(key)).map(|(_, value)| value.as_str());
                let words: Vec<&str> = [def.entity().name.as_str(), def.name()].into_iter().chain(labels).collect();
                let value = match def.kind() {
                    railwatch_sampling::Kind::Gauge => frame.last[row],
                    #[expect(clippy::cast_precision_loss, reason = "counts of a test, small")]
                    railwatch_sampling::Kind::Counter(_) => frame.delta[row] as f64,
                };
                values.insert(words.join(" "), value);
            }
        }
        values
    }

    /// Name, entity, severity of all signals since the last call.
    pub fn signals(&mut self) -> Vec<(&'static str, String, Severity)> {
        let signals = std::mem::take(&mut self.out.signals);
        signals.into_iter().map(|signal| (signal.name, signal.entity.name, signal.severity)).collect()
    }

    /// The signals themselves.
    pub fn whole_signals(&mut self) -> Vec<railwatch_sampling::Signal> {
        std::mem::take(&mut self.out.signals)
    }
}

/// The folder of the repository's fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}
