//! GPU memory by process and device as series, so that the windows show how it moved.
//!
//! In: the process table as last published. Out: one gauge per process, device and layer, bounded; a series leaves
//! with its process. It reads no map itself.

use super::failure::words;
use crate::shared::Shared;
use railwatch_abi::cookie::Layer;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle, Source,
    Unavailable,
};
use railwatch_wire::v1;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Process, API, layer and device of a balance.
type Key = (u32, String, i32, Option<i32>);

/// The source.
pub struct MemorySource {
    shared: Arc<Shared>,
    series_max: Arc<AtomicU64>,
    handles: BTreeMap<Key, SeriesHandle>,
    /// What could be shown at the last probe, shown or not.
    offered: usize,
    generation: u64,
}

impl MemorySource {
    /// At most `series_max` series, changeable at any time.
    pub fn new(shared: Arc<Shared>, series_max: Arc<AtomicU64>) -> Self {
        Self { shared, series_max, handles: BTreeMap::new(), offered: 0, generation: 0 }
    }
}

impl Source for MemorySource {
    fn name(&self) -> &'static str {
        "gpu.memory"
    }

    fn kernel_path(&self) -> &str {
        "uprobes of the kernel half"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange {
            min: Duration::from_millis(250),
            default: Duration::from_millis(250),
            max: Duration::from_secs(10),
        }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let view = self.shared.gpu();
        if !view.loaded {
            return Err(Unavailable::new(
                ErrorReason::Denied,
                "the kernel half is not loaded: see the limitations of this host",
            ));
        }
        self.handles.clear();
        let max = usize::try_from(self.series_max.load(Relaxed)).unwrap_or(usize::MAX);
        let mut offered = 0;
        for (process, balance) in balances(&view.state) {
            offered += 1;
            if offered <= max
                && let Some(handle) = declare.series(definition(process, balance))
            {
                self.handles.insert(key(process, balance), handle);
            }
        }
        (self.offered, self.generation) = (offered, view.generation);
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let view = self.shared.gpu();
        let now_ns = monotonic_ns();
        let mut seen = 0;
        let mut is_new = false;
        for (process, balance) in balances(&view.state) {
            seen += 1;
            match self.handles.get(&key(process, balance)) {
                #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
                Some(handle) => {
                    batch.gauge(*handle, balance.allocated_bytes as f64, Moment { at_ns: now_ns, half_width_ns: 0 })
                }
                None => is_new = true,
            }
        }
        if view.generation != self.generation && (is_new || seen != self.offered) {
            batch.ask_for_probe();
        }
        Ok(())
    }
}

fn balances(state: &v1::GpuState) -> impl Iterator<Item = (&v1::GpuProcess, &v1::GpuBalance)> {
    let live = state.processes.iter().filter(|process| process.exited_unix_ns.is_none());
    live.flat_map(|process| process.balances.iter().map(move |balance| (process, balance)))
}

fn key(process: &v1::GpuProcess, balance: &v1::GpuBalance) -> Key {
    (process.pid, balance.api.clone(), balance.layer, balance.device)
}

fn definition(process: &v1::GpuProcess, balance: &v1::GpuBalance) -> SeriesDef {
    let is_driver = balance.layer == i32::from(v1::GpuLayer::Driver);
    let layer = words(if is_driver { Layer::CudaDriver } else { Layer::CudaRuntime }).1;
    let device = balance.device.map_or_else(|| "unknown".to_owned(), |device| device.to_string());
    SeriesDef::new(
        "gpu.memory.allocated",
        "By",
        Kind::Gauge,
        Entity { kind: "process", name: process.pid.to_string() },
        [("api", balance.api.clone()), ("layer", layer.to_owned()), ("device", device)],
    )
}
