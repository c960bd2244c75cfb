//! NVIDIA GPUs through NVML, NVIDIA's management library, loaded while running.
//!
//! In: the documented calls of `libnvidia-ml.so.1`. Out: load, memory, clocks and what holds them down, temperature, power,
//! ECC and row remapping, NVLink and PCIe errors, whether the driver still reaches the GPU, and a signal for each XID. What a
//! GPU or an older library does not support has no series. A host without the library or the driver has the source off.
//! Never: a setting changed, a counter cleared, a process's data read.

#[expect(unsafe_code, reason = "a C library without a header for Rust: all of its calls are in this one module")]
mod library;
mod modes;
mod readings;
mod topology;

use library::{Code, Device, Library};
pub use modes::{GpuModes, NvmlModes};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Declare, Entity, ErrorReason, Kind, Moment, ReadError, Reading, SeriesDef, SeriesHandle,
    SeriesId, Signal, Source, Unavailable, Value,
};
pub(crate) use readings::{ECC_CORRECTED, ECC_UNCORRECTED};
use readings::{GROUPS, Shape};
use std::path::PathBuf;
use std::time::Duration;
pub use topology::{NvmlGpu, gpus};

/// Dear groups (NVLink, lifetime counts, row remapping) are read at each so-manieth reading.
const SLOW_EVERY: u32 = 5;
/// XIDs taken in one reading; more wait in the library.
const EVENTS_MAX: usize = 16;
const GPUS_MAX: u32 = 64;

/// NVIDIA GPUs.
pub(crate) struct NvmlSource {
    path: PathBuf,
    library: Option<Library>,
    gpus: Vec<Gpu>,
    /// Those whose XIDs this library was asked for.
    watched: Vec<Device>,
    reading: u32,
    has_lost_one: bool,
}

struct Gpu {
    device: Device,
    entity: Entity,
    reachable: Option<SeriesHandle>,
    reachable_id: SeriesId,
    /// The group's place in the table, and a handle for each of its values.
    groups: Vec<(usize, Vec<Option<SeriesHandle>>)>,
}

impl NvmlSource {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, library: None, gpus: Vec::new(), watched: Vec::new(), reading: 0, has_lost_one: false }
    }

    /// Has the library loaded and connected to the driver.
    fn start(&mut self) -> Result<(), Unavailable> {
        // A GPU that came back after a reset is seen only by a library started anew.
        if std::mem::take(&mut self.has_lost_one) {
            self.library = None;
        }
        if self.library.is_none() {
            let library = Library::load(&self.path).map_err(|why| {
                Unavailable::new(
                    ErrorReason::Missing,
                    format!("{why}; NVML comes with NVIDIA's driver, and health.nvml_library names another place"),
                )
            })?;
            library.start().map_err(|code| {
                let hint = match code {
                    Code::DRIVER_NOT_LOADED => ": no NVIDIA driver is loaded",
                    Code::NO_PERMISSION => {
                        ": /dev/nvidiactl cannot be opened; see the drop-in for NVML in deploy/systemd"
                    }
                    _ => "",
                };
                Unavailable::new(reason(code), format!("NVML does not start: {}{hint}", library.describe(code)))
            })?;
            self.library = Some(library);
            self.watched.clear();
        }
        Ok(())
    }
}

impl Source for NvmlSource {
    fn name(&self) -> &'static str {
        "gpu.nvml"
    }

    fn kernel_path(&self) -> &str {
        "NVML (libnvidia-ml.so.1)"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.gpus.clear();
        self.start()?;
        let Self { library: Some(library), watched, .. } = self else {
            return Err(Unavailable::new(ErrorReason::Internal, "NVML was started and is not there"));
        };
        let mut gpus = Vec::new();
        let count = library.count().map_err(|code| Unavailable::new(reason(code), library.describe(code)))?;
        for index in 0..count.min(GPUS_MAX) {
            // One that is lost has no handle any more: its series end, which is its signal.
            let Ok(device) = library.device(index) else { continue };
            let Ok(address) = library.pci_address(device) else { continue };
            gpus.push(Gpu::declare(library, device, index, address, declare));
            if !watched.contains(&device) {
                library.watch(device);
                watched.push(device);
            }
        }
        if gpus.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                format!("NVML answers and knows {count} GPUs, none of them reachable"),
            ));
        }
        self.gpus = gpus;
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { library, gpus, reading, has_lost_one, .. } = self;
        let Some(library) = library else { return Ok(()) };
        let is_slow_turn = reading.is_multiple_of(SLOW_EVERY);
        *reading = reading.wrapping_add(1);
        for gpu in gpus.iter() {
            *has_lost_one |= gpu.read(library, is_slow_turn, batch);
        }
        for _ in 0..EVENTS_MAX {
            let before_ns = monotonic_ns();
            let Some((device, xid)) = library.next_xid() else { break };
            let Some(gpu) = gpus.iter().find(|gpu| gpu.device == device) else {
                batch.fault(ErrorReason::Malformed);
                continue;
            };
            batch.signal(signal(gpu, xid, Moment::between(before_ns, monotonic_ns())));
        }
        Ok(())
    }
}

impl Gpu {
    fn declare(library: &Library, device: Device, index: u32, address: String, declare: &mut Declare<'_>) -> Self {
        let entity = Entity { kind: "gpu", name: address };
        let uuid = library.uuid(device).ok();
        let labels =
            || uuid.clone().map(|uuid| ("gpu.uuid", uuid)).into_iter().chain([("gpu.index", index.to_string())]);
        let def = |name, unit, kind| SeriesDef::new(name, unit, kind, entity.clone(), labels());
        let reachable = def("gpu.reachable", "1", Kind::Gauge);
        let reachable_id = reachable.id();
        let reachable = declare.series(reachable);
        let mut groups = Vec::new();
        for (place, group) in GROUPS.iter().enumerate() {
            // What it does not support now, it does not support at all.
            if (group.read)(library, device).is_err() {
                continue;
            }
            let series = group.series.iter().map(|(name, unit, shape)| declare.series(def(*name, *unit, shape.kind())));
            groups.push((place, series.collect()));
        }
        Self { device, entity, reachable, reachable_id, groups }
    }

    /// Whether it is lost.
    fn read(&self, library: &Library, is_slow_turn: bool, batch: &mut Batch) -> bool {
        let begin_ns = monotonic_ns();
        // Asked by itself: of a GPU that was lost when it was declared no group is known.
        let mut lost = library.temperature_c(self.device).err().and_then(why_lost);
        for (place, handles) in &self.groups {
            let group = &GROUPS[*place];
            if lost.is_some() {
                break;
            }
            if group.is_slow && !is_slow_turn {
                continue;
            }
            let before_ns = monotonic_ns();
            let values = match (group.read)(library, self.device) {
                Ok(values) => values,
                Err(code) => {
                    lost = why_lost(code);
                    batch.fault(reason(code));
                    continue;
                }
            };
            let moment = Moment::between(before_ns, monotonic_ns());
            for ((value, handle), (_, _, shape)) in values.into_iter().zip(handles).zip(group.series) {
                match (handle, shape) {
                    #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
                    (Some(handle), Shape::Gauge(scale)) => batch.gauge(*handle, value as f64 * scale, moment),
                    (Some(handle), Shape::Counts(_)) => batch.counter(*handle, value, moment),
                    (None, _) => {}
                }
            }
        }
        if let Some(series) = self.reachable {
            let value = Value::Gauge(f64::from(u8::from(lost.is_none())));
            batch.push(Reading { series, value, moment: Moment::between(begin_ns, monotonic_ns()), cause: lost });
        }
        lost.is_some()
    }
}

fn signal(gpu: &Gpu, code: u32, moment: Moment) -> Signal {
    let xid = crate::xid::describe(code);
    let Entity { kind, name } = &gpu.entity;
    Signal {
        name: "gpu.xid",
        series: gpu.reachable_id,
        entity: gpu.entity.clone(),
        severity: xid.severity,
        moment,
        value: f64::from(code),
        previous: None,
        unit: "1",
        summary: format!("{kind} {name}: XID {code}, {}", xid.meaning),
        attributes: vec![
            ("class", xid.class.name().to_owned()),
            ("code", code.to_string()),
            ("meaning", xid.meaning.to_owned()),
            ("origin", "nvml".to_owned()),
        ],
        incomplete_since_mono_ns: None,
        suppressed: 0,
    }
}

/// Why the driver no longer reaches a GPU, where this says so.
fn why_lost(code: Code) -> Option<&'static str> {
    match code {
        Code::GPU_IS_LOST => Some("lost"),
        Code::RESET_REQUIRED => Some("reset required"),
        _ => None,
    }
}

fn reason(code: Code) -> ErrorReason {
    match code {
        Code::NOT_SUPPORTED => ErrorReason::NotAvailable,
        Code::NO_PERMISSION => ErrorReason::Denied,
        Code::DRIVER_NOT_LOADED | Code::GPU_IS_LOST | Code::FUNCTION_NOT_FOUND => ErrorReason::Missing,
        Code::TIMEOUT => ErrorReason::TimedOut,
        _ => ErrorReason::Io,
    }
}
