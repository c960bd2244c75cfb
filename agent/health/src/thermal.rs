//! Processors that grow too hot.
//!
//! In: `thermal_throttle/{core,package}_throttle_count` of each core and package (arch/x86, therm_throt.c), and the package's
//! temperature from the hwmon drivers of processors. Out: throttle events per package, and its temperature. Only one
//! temperature per package is read: on Intel each core's costs an interrupt of that core. Never: a fan or a limit set.

use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{KeptFile, failed, line, numbered};
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Source, Unavailable,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// hwmon drivers whose `temp1` is a whole processor's: coretemp's "Package id N", k10temp's Tctl.
const PROCESSOR_DRIVERS: [&str; 3] = ["coretemp", "k10temp", "zenpower"];

/// Throttle counts and temperatures of processors.
pub(crate) struct ThermalSource {
    sysfs: PathBuf,
    /// The processors whose files are open: hundreds, opened anew only when others are there.
    cpus: Vec<String>,
    throttles: Vec<Throttle>,
    temperatures: Vec<(KeptFile, SeriesHandle)>,
}

/// The throttle counts of a package at one level.
struct Throttle {
    package: String,
    level: &'static str,
    files: Vec<KeptFile>,
    series: Option<SeriesHandle>,
}

impl ThermalSource {
    pub(crate) fn new(sysfs: PathBuf) -> Self {
        Self { sysfs, cpus: Vec::new(), throttles: Vec::new(), temperatures: Vec::new() }
    }

    /// The throttle files of each package: one per core, and one for the package. All threads of a core and all cores of
    /// a package show the same event in their own count, so that one of each is enough.
    fn open_throttle_files(&mut self) {
        let root = self.sysfs.join("devices/system/cpu");
        let cpus = numbered(&root, "cpu");
        if cpus == self.cpus {
            return;
        }
        let mut files: BTreeMap<(String, &'static str), Vec<KeptFile>> = BTreeMap::new();
        let mut cores = BTreeSet::new();
        for cpu in &cpus {
            let folder = root.join(cpu);
            let topology = |name| line(folder.join("topology").join(name)).unwrap_or_default();
            let (package, core) = (topology("physical_package_id"), topology("core_id"));
            let open = |name: &str| KeptFile::open(&folder.join("thermal_throttle").join(name)).ok();
            if cores.insert((package.clone(), core)) {
                files.entry((package.clone(), "core")).or_default().extend(open("core_throttle_count"));
            }
            let of_package = files.entry((package, "package")).or_default();
            if of_package.is_empty() {
                of_package.extend(open("package_throttle_count"));
            }
        }
        let throttle = |((package, level), files)| Throttle { package, level, files, series: None };
        self.throttles = files.into_iter().map(throttle).filter(|throttle| !throttle.files.is_empty()).collect();
        self.cpus = cpus;
    }

    /// `temp1_input` of each processor, with its label.
    fn temperature_files(&self) -> Vec<(String, KeptFile)> {
        let root = self.sysfs.join("class/hwmon");
        let of = |folder: &Path| {
            let driver = line(folder.join("name")).filter(|name| PROCESSOR_DRIVERS.contains(&name.as_str()))?;
            let file = KeptFile::open(&folder.join("temp1_input")).ok()?;
            Some((line(folder.join("temp1_label")).unwrap_or(driver), file))
        };
        numbered(&root, "hwmon").iter().filter_map(|name| of(&root.join(name))).collect()
    }
}

impl Source for ThermalSource {
    fn name(&self) -> &'static str {
        "thermal"
    }

    fn kernel_path(&self) -> &str {
        "/sys/devices/system/cpu/cpu*/thermal_throttle, /sys/class/hwmon"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.temperatures.clear();
        self.open_throttle_files();
        for Throttle { package, level, files: _, series } in &mut self.throttles {
            let entity = Entity { kind: "cpu", name: format!("package{package}") };
            let counter = Kind::Counter(Counter::wrapping(64));
            let labels = [("level", (*level).to_owned())];
            *series = declare.series(SeriesDef::new("cpu.thermal_throttles", "{event}", counter, entity, labels));
        }
        for (place, (label, file)) in self.temperature_files().into_iter().enumerate() {
            let entity = Entity { kind: "cpu", name: format!("sensor{place}") };
            let def = SeriesDef::new("cpu.temperature", "Cel", Kind::Gauge, entity, [("sensor", label)]);
            self.temperatures.extend(declare.series(def).map(|series| (file, series)));
        }
        if self.throttles.is_empty() && self.temperatures.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                "neither thermal_throttle counts (Intel) nor a processor's hwmon driver (coretemp, k10temp): a virtual machine has \
                 none; on hardware, load the driver",
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let mut is_gone = false;
        for Throttle { files, series, .. } in &self.throttles {
            let before_ns = monotonic_ns();
            // A sum with a part missing would look like a reset.
            match files.iter().try_fold(0u64, |sum, file| file.number().map(|count| sum.saturating_add(count))) {
                Ok(count) => {
                    if let Some(series) = series {
                        batch.counter(*series, count, Moment::between(before_ns, monotonic_ns()));
                    }
                }
                Err(reason) => {
                    failed(batch, reason);
                    is_gone |= reason == ErrorReason::Missing;
                }
            }
        }
        if is_gone {
            // A processor went offline and may be back under the same name with other files.
            self.cpus.clear();
        }
        for (file, series) in &self.temperatures {
            let before_ns = monotonic_ns();
            match file.signed() {
                #[expect(clippy::cast_precision_loss, reason = "thousandths of a degree")]
                Ok(value) => {
                    batch.gauge(*series, value as f64 / 1000.0, Moment::between(before_ns, monotonic_ns()));
                }
                Err(reason) => failed(batch, reason),
            }
        }
        Ok(())
    }
}
