//! Huawei's NPUs through DCMI, their management library, loaded while running.
//!
//! In: calls of `libdcmi.so` that read. Out: load, memory, clock, heat, power, ECC, health, whether the driver still reaches the
//! NPU, and a signal for each fault code that appears. What a chip or an older library does not support has no series. A host
//! without the library or the driver has the source off. The ports on the NPU are [`crate::hccn`]'s. Never: a setting changed, a
//! counter cleared.

#[expect(unsafe_code, reason = "a C library without a header for Rust: all of its calls are in this one module")]
mod library;

use library::{Chip, Code, Ecc, Hbm, Library};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, Reading, SeriesDef,
    SeriesHandle, SeriesId, Severity, Signal, Source, Unavailable, Value,
};
use std::path::PathBuf;
use std::time::Duration;

/// The signal of a fault code.
pub const FAULT: &str = "npu.fault";
/// Fault codes of one NPU that are remembered.
const CODES_MAX: usize = library::CODES_MAX;

/// One call and what its answer becomes.
struct Group {
    series: &'static [(&'static str, &'static str, Shape)],
    read: fn(&Library, Chip) -> Result<[f64; 4], Code>,
}

#[derive(Clone, Copy)]
enum Shape {
    Gauge,
    /// Of 32 bits.
    Counts,
}

impl Shape {
    fn kind(self) -> Kind {
        match self {
            Self::Gauge => Kind::Gauge,
            Self::Counts => Kind::Counter(Counter::saturating(32)),
        }
    }
}

use Shape::{Counts, Gauge};

const MB: f64 = 1024.0 * 1024.0;

#[expect(clippy::cast_precision_loss, reason = "megabytes of memory")]
#[rustfmt::skip]
const GROUPS: &[Group] = &[
    Group {
        series: &[("npu.health", "1", Gauge)],
        read: |dcmi, chip| Ok([f64::from(dcmi.health(chip)?), 0.0, 0.0, 0.0]),
    },
    Group {
        series: &[("npu.temperature", "Cel", Gauge)],
        read: |dcmi, chip| Ok([f64::from(dcmi.temperature_c(chip)?), 0.0, 0.0, 0.0]),
    },
    Group {
        series: &[("npu.power", "W", Gauge)],
        read: |dcmi, chip| Ok([f64::from(dcmi.power_tenths_w(chip)?) / 10.0, 0.0, 0.0, 0.0]),
    },
    Group {
        series: &[("npu.utilization", "1", Gauge)],
        read: |dcmi, chip| Ok([f64::from(dcmi.utilization_percent(chip)?) / 100.0, 0.0, 0.0, 0.0]),
    },
    Group {
        series: &[("npu.clock.core", "Hz", Gauge)],
        read: |dcmi, chip| Ok([f64::from(dcmi.clock_mhz(chip)?) * 1e6, 0.0, 0.0, 0.0]),
    },
    Group {
        series: &[("npu.memory.used", "By", Gauge), ("npu.memory.total", "By", Gauge), ("npu.memory.temperature", "Cel", Gauge), ("npu.memory.utilization", "1", Gauge)],
        read: |dcmi, chip| {
            let Hbm { total_mb, clock_mhz: _, used_mb, temperature_c, bandwidth_percent } = dcmi.hbm(chip)?;
            Ok([used_mb as f64 * MB, total_mb as f64 * MB, f64::from(temperature_c), f64::from(bandwidth_percent) / 100.0])
        },
    },
    Group {
        series: &[("npu.ecc.corrected", "{error}", Counts), ("npu.ecc.uncorrected", "{error}", Counts)],
        read: |dcmi, chip| {
            let ecc = enabled(dcmi.ecc(chip)?)?;
            Ok([f64::from(ecc.single_bit), f64::from(ecc.double_bit), 0.0, 0.0])
        },
    },
    Group {
        series: &[("npu.ecc.lifetime.corrected", "{error}", Counts), ("npu.ecc.lifetime.uncorrected", "{error}", Counts), ("npu.ecc.isolated_pages.corrected", "{page}", Gauge), ("npu.ecc.isolated_pages.uncorrected", "{page}", Gauge)],
        read: |dcmi, chip| {
            let ecc = enabled(dcmi.ecc(chip)?)?;
            Ok([ecc.lifetime_single_bit, ecc.lifetime_double_bit, ecc.isolated_pages_single_bit, ecc.isolated_pages_double_bit].map(f64::from))
        },
    },
];

fn enabled(ecc: Ecc) -> Result<Ecc, Code> {
    if ecc.is_enabled == 0 { Err(Code::NOT_SUPPORTED) } else { Ok(ecc) }
}

/// Huawei's NPUs.
pub(crate) struct DcmiSource {
    path: PathBuf,
    library: Option<Library>,
    npus: Vec<Npu>,
}

struct Npu {
    chip: Chip,
    entity: Entity,
    reachable: Option<SeriesHandle>,
    reachable_id: SeriesId,
    /// The group's place in the table, and a handle for each of its values.
    groups: Vec<(usize, Vec<Option<SeriesHandle>>)>,
    /// Fault codes that it has; those of the first reading are told too.
    codes: Vec<u32>,
}

impl DcmiSource {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, library: None, npus: Vec::new() }
    }

    fn start(&mut self) -> Result<(), Unavailable> {
        if self.library.is_some() {
            return Ok(());
        }
        let library = Library::load(&self.path).map_err(|why| {
            let hint = "DCMI comes with Huawei's NPU driver, and health.dcmi_library names another place";
            Unavailable::new(ErrorReason::Missing, format!("{why}; {hint}"))
        })?;
        library.start().map_err(|code| {
            let hint = match code {
                Code::NOT_PERMITTED | Code::NOT_SUPPORT_IN_CONTAINER => {
                    ": it needs root and the NPU's devices, outside a container"
                }
                _ => "",
            };
            Unavailable::new(reason(code), format!("DCMI does not start: {} (code {}){hint}", code.words(), code.0))
        })?;
        self.library = Some(library);
        Ok(())
    }
}

impl Source for DcmiSource {
    fn name(&self) -> &'static str {
        "npu.dcmi"
    }

    fn kernel_path(&self) -> &str {
        "DCMI (libdcmi.so)"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(500), default: Duration::from_secs(2), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.start()?;
        let Self { library: Some(library), npus, .. } = self else {
            return Err(Unavailable::new(ErrorReason::Internal, "DCMI was started and is not there"));
        };
        let chips = library.chips().map_err(|code| {
            Unavailable::new(reason(code), format!("listing NPUs: {} (code {})", code.words(), code.0))
        })?;
        let known = std::mem::take(npus);
        for chip in chips {
            // One that is not in the list any more has no series after this: its end is its signal.
            let before = known.iter().find(|npu| npu.chip == chip);
            npus.push(Npu::declare(library, chip, before, declare));
        }
        if npus.is_empty() {
            return Err(Unavailable::new(ErrorReason::Missing, "DCMI answers and knows no NPU"));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { library: Some(library), npus, .. } = self else { return Ok(()) };
        let mut is_one_lost = false;
        for npu in npus.iter_mut() {
            is_one_lost |= npu.read(library, batch);
        }
        if is_one_lost {
            batch.ask_for_probe();
        }
        Ok(())
    }
}

impl Npu {
    fn declare(library: &Library, chip: Chip, before: Option<&Self>, declare: &mut Declare<'_>) -> Self {
        // The number by which hccn_tool knows it, so that its port and its chip are one entity. One that does not answer now
        // keeps the name it had.
        let entity = match (before, library.logic_id(chip)) {
            (Some(before), _) => before.entity.clone(),
            (None, Ok(id)) => Entity { kind: "npu", name: format!("npu{id}") },
            (None, Err(_)) => Entity { kind: "npu", name: format!("card{}.{}", chip.card, chip.device) },
        };
        let address = library.pci_address(chip).ok();
        let def = |name, unit, kind| {
            let labels = address.clone().map(|address| ("pci.address", address));
            SeriesDef::new(name, unit, kind, entity.clone(), labels)
        };
        let reachable = SeriesDef::new("npu.reachable", "1", Kind::Gauge, entity.clone(), []);
        let reachable_id = reachable.id();
        let reachable = declare.series(reachable);
        let mut groups = Vec::new();
        for (place, group) in GROUPS.iter().enumerate() {
            // What it does not support now, it does not support at all.
            let is_known = before.is_some_and(|before| before.groups.iter().any(|(known, _)| *known == place));
            if !is_known && (group.read)(library, chip).is_err() {
                continue;
            }
            let series = group.series.iter().map(|(name, unit, shape)| declare.series(def(*name, *unit, shape.kind())));
            groups.push((place, series.collect()));
        }
        let codes = before.map(|before| before.codes.clone()).unwrap_or_default();
        Self { chip, entity, reachable, reachable_id, groups, codes }
    }

    /// Whether it is lost.
    fn read(&mut self, library: &Library, batch: &mut Batch) -> bool {
        let begin_ns = monotonic_ns();
        // Asked by itself: of an NPU that was lost when it was declared no group is known.
        let mut lost = library.health(self.chip).err().and_then(why_lost);
        for (place, handles) in &self.groups {
            if lost.is_some() {
                break;
            }
            let group = &GROUPS[*place];
            let before_ns = monotonic_ns();
            let values = match (group.read)(library, self.chip) {
                Ok(values) => values,
                Err(code) => {
                    lost = why_lost(code);
                    batch.fault(reason(code));
                    continue;
                }
            };
            let moment = Moment::between(before_ns, monotonic_ns());
            for ((value, handle), (name, _, shape)) in values.into_iter().zip(handles).zip(group.series) {
                let Some(series) = *handle else { continue };
                let value = match shape {
                    Gauge => Value::Gauge(value),
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of 32 bits, from one")]
                    Counts => Value::Counter(value as u64),
                };
                let cause = match value {
                    Value::Gauge(level) if *name == "npu.health" => alarm(level),
                    _ => None,
                };
                batch.push(Reading { series, value, moment, cause });
            }
        }
        if let Some(series) = self.reachable {
            let value = Value::Gauge(f64::from(u8::from(lost.is_none())));
            batch.push(Reading { series, value, moment: Moment::between(begin_ns, monotonic_ns()), cause: lost });
        }
        if lost.is_none() {
            self.read_codes(library, batch);
        }
        lost.is_some()
    }

    /// Tells of faults that were not there at the last reading.
    fn read_codes(&mut self, library: &Library, batch: &mut Batch) {
        let before_ns = monotonic_ns();
        let Ok(mut codes) = library.codes(self.chip) else { return };
        let moment = Moment::between(before_ns, monotonic_ns());
        codes.sort_unstable();
        codes.dedup();
        codes.truncate(CODES_MAX);
        for code in codes.iter().filter(|code| !self.codes.contains(code)) {
            batch.signal(self.fault(*code, library.code_text(self.chip, *code), moment));
        }
        self.codes = codes;
    }

    fn fault(&self, code: u32, text: Option<String>, moment: Moment) -> Signal {
        let Entity { kind, name } = &self.entity;
        let meaning = text.unwrap_or_else(|| "without words of its own".to_owned());
        Signal {
            name: FAULT,
            series: self.reachable_id,
            entity: self.entity.clone(),
            // How bad it is, the NPU's health says.
            severity: Severity::Error,
            moment,
            value: f64::from(code),
            previous: None,
            unit: "1",
            summary: format!("{kind} {name}: fault {code:#010x}, {meaning}"),
            attributes: vec![("code", format!("{code:#010x}")), ("meaning", meaning), ("origin", "dcmi".to_owned())],
            incomplete_since_mono_ns: None,
            suppressed: 0,
        }
    }
}

/// Of `npu.health`, in words.
fn alarm(level: f64) -> Option<&'static str> {
    match level {
        level if level >= 3.0 => Some("critical alarm"),
        level if level >= 2.0 => Some("major alarm"),
        level if level >= 1.0 => Some("minor alarm"),
        _ => None,
    }
}

/// Why the driver no longer reaches an NPU, where this says so.
fn why_lost(code: Code) -> Option<&'static str> {
    (code == Code::DEVICE_NOT_EXIST).then_some("device does not exist")
}

fn reason(code: Code) -> ErrorReason {
    match code {
        Code::NOT_PERMITTED | Code::NOT_SUPPORT_IN_CONTAINER => ErrorReason::Denied,
        Code::TIME_OUT => ErrorReason::TimedOut,
        Code::DEVICE_NOT_EXIST => ErrorReason::Missing,
        Code::NOT_SUPPORTED => ErrorReason::NotAvailable,
        _ => ErrorReason::Io,
    }
}
