//! Memory errors that the memory controllers counted (EDAC).
//!
//! In: `/sys/devices/system/edac/mc/mc*` (Documentation/admin-guide/RAS). Out: corrected and uncorrected errors, each counted
//! once, at the finest place known: per DIMM or rank with its label; where a driver knows none, per csrow; and those that
//! the controller could not place. Never: a counter reset, or the controllers' own totals beside their parts.
//! Corrected errors hidden by the firmware (firmware first, ACPI GHES) arrive here only where the platform reports them.

use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{KeptFile, failed, line, numbered};
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Source, Unavailable,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Corrected errors.
pub(crate) const CORRECTED: &str = "host.memory.errors.corrected";
/// Uncorrected errors.
pub(crate) const UNCORRECTED: &str = "host.memory.errors.uncorrected";
/// Counters read: 32 controllers of 16 DIMMs.
const FILES_MAX: usize = 1024;

/// Error counters of all memory controllers.
pub(crate) struct EdacSource {
    root: PathBuf,
    files: Vec<(KeptFile, SeriesHandle)>,
}

impl EdacSource {
    pub(crate) fn new(sysfs: &Path) -> Self {
        Self { root: sysfs.join("devices/system/edac/mc"), files: Vec::new() }
    }

    fn add(
        &mut self,
        declare: &mut Declare<'_>,
        file: &Path,
        series: &'static str,
        place: &str,
        label: Option<String>,
    ) {
        let Ok(file) = KeptFile::open(file) else { return };
        if self.files.len() >= FILES_MAX || file.number().is_err() {
            return;
        }
        let label = label.filter(|label| !label.is_empty()).map(|label| ("dimm", label));
        let entity = Entity { kind: "dimm", name: place.to_owned() };
        // `unsigned int` in the kernel (include/linux/edac.h).
        let def = SeriesDef::new(series, "{error}", Kind::Counter(Counter::wrapping(32)), entity, label);
        self.files.extend(declare.series(def).map(|series| (file, series)));
    }
}

impl Source for EdacSource {
    fn name(&self) -> &'static str {
        "edac"
    }

    fn kernel_path(&self) -> &str {
        "/sys/devices/system/edac/mc/mc*/{dimm,rank,csrow}*"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.files.clear();
        for controller in numbered(&self.root, "mc") {
            let mc = self.root.join(&controller);
            let mut modules = numbered(&mc, "dimm");
            modules.extend(numbered(&mc, "rank"));
            for module in &modules {
                let (folder, place) = (mc.join(module), format!("{controller}/{module}"));
                let label = line(folder.join("dimm_label"));
                self.add(declare, &folder.join("dimm_ce_count"), CORRECTED, &place, label.clone());
                self.add(declare, &folder.join("dimm_ue_count"), UNCORRECTED, &place, label);
            }
            let rows = if modules.is_empty() { numbered(&mc, "csrow") } else { Vec::new() };
            for row in &rows {
                let (folder, place) = (mc.join(row), format!("{controller}/{row}"));
                let label = line(folder.join("ch0_dimm_label"));
                self.add(declare, &folder.join("ce_count"), CORRECTED, &place, label.clone());
                self.add(declare, &folder.join("ue_count"), UNCORRECTED, &place, label);
            }
            let (ce, ue) = if modules.is_empty() && rows.is_empty() {
                ("ce_count", "ue_count")
            } else {
                ("ce_noinfo_count", "ue_noinfo_count")
            };
            self.add(declare, &mc.join(ce), CORRECTED, &controller, None);
            self.add(declare, &mc.join(ue), UNCORRECTED, &controller, None);
        }
        if self.files.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                format!(
                    "no memory controller in {}: load the platform's EDAC driver (skx_edac, i10nm_edac, amd64_edac); a virtual machine \
                     has none",
                    self.root.display()
                ),
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        for (file, series) in &self.files {
            let before_ns = monotonic_ns();
            match file.number() {
                Ok(value) => batch.counter(*series, value, Moment::between(before_ns, monotonic_ns())),
                Err(reason) => failed(batch, reason),
            }
        }
        Ok(())
    }
}
