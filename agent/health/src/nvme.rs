//! NVMe controllers: whether they serve, and how hot they are.
//!
//! In: `/sys/class/nvme/nvme*/state` and the controller's hwmon. Out: live or not, with the state as cause; temperature. The
//! temperature makes the driver send an admin command at most once a second (drivers/nvme/host/hwmon.c), hence the slow
//! cadence. Never: an admin command of our own: the SMART and error logs need a helper with more privilege, which does not
//! exist yet.

use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{KeptFile, failed, line, names, numbered};
use railwatch_sampling::{
    Batch, CadenceRange, Declare, Entity, ErrorReason, Kind, Moment, ReadError, Reading, SeriesDef, SeriesHandle,
    Source, Unavailable, Value,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// States of a controller (drivers/nvme/host/sysfs.c, `nvme_sysfs_show_state`); only `live` serves.
const STATES: [&str; 8] = ["live", "new", "resetting", "connecting", "deleting", "deleting (no IO)", "dead", "unknown"];

/// NVMe controllers.
pub(crate) struct NvmeSource {
    root: PathBuf,
    states: Vec<(KeptFile, SeriesHandle)>,
    temperatures: Vec<(KeptFile, SeriesHandle)>,
}

impl NvmeSource {
    pub(crate) fn new(sysfs: &Path) -> Self {
        Self { root: sysfs.join("class/nvme"), states: Vec::new(), temperatures: Vec::new() }
    }
}

impl Source for NvmeSource {
    fn name(&self) -> &'static str {
        "nvme"
    }

    fn kernel_path(&self) -> &str {
        "/sys/class/nvme/nvme*/{state,hwmon*}"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(1), default: Duration::from_secs(5), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.states.clear();
        self.temperatures.clear();
        for controller in numbered(&self.root, "nvme") {
            let folder = self.root.join(&controller);
            let mut series = |name, unit| {
                let labels = ["model", "serial"]
                    .into_iter()
                    .filter_map(|name| Some((name, line(folder.join(name)).filter(|text| !text.is_empty())?)));
                let entity = Entity { kind: "nvme", name: controller.clone() };
                declare.series(SeriesDef::new(name, unit, Kind::Gauge, entity, labels))
            };
            let state = KeptFile::open(&folder.join("state")).ok();
            self.states.extend(state.and_then(|file| Some((file, series("nvme.live", "1")?))));
            let temperature = temperature_file(&folder);
            self.temperatures.extend(temperature.and_then(|file| Some((file, series("nvme.temperature", "Cel")?))));
        }
        if self.states.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                format!("no NVMe controller in {}", self.root.display()),
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        for (file, series) in &self.states {
            let (before_ns, mut buffer) = (monotonic_ns(), [0; 64]);
            match file.read(&mut buffer).map(state) {
                Ok(Some(state)) => {
                    let moment = Moment::between(before_ns, monotonic_ns());
                    let is_live = state == STATES[0];
                    let cause = (!is_live).then_some(state);
                    let value = Value::Gauge(f64::from(u8::from(is_live)));
                    batch.push(Reading { series: *series, value, moment, cause });
                }
                Ok(None) => batch.fault(ErrorReason::Malformed),
                Err(reason) => failed(batch, reason),
            }
        }
        for (file, series) in &self.temperatures {
            let before_ns = monotonic_ns();
            match file.signed() {
                #[expect(clippy::cast_precision_loss, reason = "thousandths of a degree")]
                Ok(value) => batch.gauge(*series, value as f64 / 1000.0, Moment::between(before_ns, monotonic_ns())),
                Err(reason) => failed(batch, reason),
            }
        }
        Ok(())
    }
}

fn state(text: &[u8]) -> Option<&'static str> {
    STATES.into_iter().find(|state| state.as_bytes() == text.trim_ascii())
}

/// The composite temperature, below the controller itself or, on older kernels, below its PCI device.
fn temperature_file(controller: &Path) -> Option<KeptFile> {
    let folders = [controller.to_owned(), controller.join("device/hwmon"), controller.join("device")];
    folders.iter().find_map(|folder| {
        let name = names(folder).into_iter().find(|name| name.starts_with("hwmon") && name != "hwmon")?;
        KeptFile::open(&folder.join(name).join("temp1_input")).ok()
    })
}
