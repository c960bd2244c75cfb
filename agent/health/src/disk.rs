//! Block devices: traffic, operations, the time they took, and what is in flight.
//!
//! In: `/proc/diskstats`, one read for all of them (Documentation/admin-guide/iostats.rst). Out: counters per device and
//! direction. Mean latency of a window is `disk.operation_time` over `disk.operations`. Only devices with hardware or a
//! network behind them (`/sys/block/NAME/device`) and software RAIDs are read; partitions and loop devices are not.
//! Never: the latency of one operation; that needs the block tracepoints, which railwatch-disk uses.

use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{KeptFile, names};
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Source, Unavailable,
};
use std::path::PathBuf;
use std::time::Duration;

/// Fields after the device's name (from 0), and what they are. Times are `unsigned int` milliseconds in the kernel and wrap
/// at 32 bits (block/genhd.c, `diskstats_show`); sectors are of 512 bytes whatever the device's own size.
const FIELDS: [(usize, &str, &str, Option<&str>, Shape); 9] = [
    (0, "disk.operations", "{operation}", Some("read"), Shape::Count),
    (2, "disk.io", "By", Some("read"), Shape::Sectors),
    (3, "disk.operation_time", "ms", Some("read"), Shape::Milliseconds),
    (4, "disk.operations", "{operation}", Some("write"), Shape::Count),
    (6, "disk.io", "By", Some("write"), Shape::Sectors),
    (7, "disk.operation_time", "ms", Some("write"), Shape::Milliseconds),
    (8, "disk.in_flight", "{operation}", None, Shape::Gauge),
    (9, "disk.busy_time", "ms", None, Shape::Milliseconds),
    (10, "disk.queue_time", "ms", None, Shape::Milliseconds),
];
/// Longest answer read: some 3,000 devices.
const BYTES_MAX: usize = 512 * 1024;
/// Devices read.
const DISKS_MAX: usize = 128;

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Count,
    Sectors,
    Milliseconds,
    Gauge,
}

impl Shape {
    fn kind(self) -> Kind {
        match self {
            Self::Count => Kind::Counter(Counter::wrapping(64)),
            Self::Sectors => Kind::Counter(Counter::wrapping(64).scaled(512)),
            // Up to a thousand operations in flight, each adding its time.
            Self::Milliseconds => Kind::Counter(Counter { max_per_s: 1e6, ..Counter::wrapping(32) }),
            Self::Gauge => Kind::Gauge,
        }
    }
}

/// Statistics of block devices.
pub(crate) struct DiskSource {
    procfs: PathBuf,
    sysfs: PathBuf,
    file: Option<KeptFile>,
    buffer: Vec<u8>,
    disks: Vec<(String, [Option<SeriesHandle>; FIELDS.len()])>,
}

impl DiskSource {
    pub(crate) fn new(procfs: PathBuf, sysfs: PathBuf) -> Self {
        Self { procfs, sysfs, file: None, buffer: Vec::new(), disks: Vec::new() }
    }
}

impl Source for DiskSource {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn kernel_path(&self) -> &str {
        "/proc/diskstats"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.disks.clear();
        let path = self.procfs.join("diskstats");
        let file = KeptFile::open(&path)
            .map_err(|error| Unavailable::new((&error).into(), format!("open {}: {error}", path.display())))?;
        let block = self.sysfs.join("block");
        let is_real = |name: &String| block.join(name).join("device").exists() || name.starts_with("md");
        for name in names(&block).into_iter().filter(is_real).take(DISKS_MAX) {
            let series = FIELDS.map(|(_, series, unit, direction, shape)| {
                let direction = direction.map(|direction| ("disk.io.direction", direction.to_owned()));
                let entity = Entity { kind: "disk", name: name.clone() };
                declare.series(SeriesDef::new(series, unit, shape.kind(), entity, direction))
            });
            self.disks.push((name, series));
        }
        if self.disks.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                format!("no block device with hardware behind it in {}", block.display()),
            ));
        }
        // Room for what is there now and more; it grows with the answer, up to the bound.
        self.buffer.resize(self.buffer.len().max(16 * 1024), 0);
        self.file = Some(file);
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { file, buffer, disks, .. } = self;
        let Some(file) = file else { return Ok(()) };
        let before_ns = monotonic_ns();
        let room = buffer.len();
        let text = match file.read(buffer) {
            Ok(text) => text,
            Err(ErrorReason::Overrun) if room < BYTES_MAX => {
                buffer.resize(room * 2, 0);
                batch.fault(ErrorReason::Overrun);
                return Ok(());
            }
            Err(reason) => {
                return Err(ReadError { reason, doing: "read /proc/diskstats", source_text: reason.name().to_owned() });
            }
        };
        let moment = Moment::between(before_ns, monotonic_ns());
        let mut seen = 0;
        for line in text.split(|byte| *byte == b'\n') {
            let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).skip(2);
            let Some(name) = words.next() else { continue };
            let Some((_, series)) = disks.iter().find(|(disk, _)| disk.as_bytes() == name) else { continue };
            seen += 1;
            let mut field = 0;
            for ((place, _, _, _, shape), series) in FIELDS.iter().zip(series) {
                let value = words.nth(place - field).and_then(|word| railwatch_sampling::files::number(word).ok());
                field = place + 1;
                match (value, series) {
                    #[expect(clippy::cast_precision_loss, reason = "operations in flight, few")]
                    (Some(value), Some(series)) if *shape == Shape::Gauge => {
                        batch.gauge(*series, value as f64, moment);
                    }
                    (Some(value), Some(series)) => batch.counter(*series, value, moment),
                    (None, _) => batch.fault(ErrorReason::Malformed),
                    (_, None) => {}
                }
            }
        }
        if seen != disks.len() {
            batch.ask_for_probe();
        }
        Ok(())
    }
}
