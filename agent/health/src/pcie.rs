//! PCIe devices that training needs: their links, their errors, and whether they are still there.
//!
//! In: `/sys/bus/pci/devices/*` of accelerators, NICs and NVMe controllers (functions of virtual machines are left out): the
//! first bytes of their configuration space, negotiated link width and speed, AER counts. Out: present or gone, lanes, lanes
//! missing against what both ends can do, speed, errors by severity. A device whose configuration space reads as ones has
//! fallen off the bus though sysfs still names it. Speed below the maximum is no fault by itself: idle GPUs lower it.
//! Never: a link retrained, a counter cleared, a sleeping device woken: one in runtime suspend is left out until it wakes.

use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{KeptFile, failed, line, names, number};
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Source, Unavailable,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// PCI classes (PCI Code and ID Assignment Specification) that are watched: class and subclass, and what we call them.
const CLASSES: [(u32, &str); 6] = [
    (0x0302, "gpu"), // 3D controller
    (0x0300, "gpu"), // VGA controller
    (0x1200, "npu"), // processing accelerator
    (0x0200, "nic"), // Ethernet controller
    (0x0207, "nic"), // InfiniBand controller
    (0x0108, "nvme"),
];
/// Vendors whose VGA controllers compute: of any other (a BMC's) nobody asks.
const COMPUTING_VENDORS: [&str; 2] = ["0x10de", "0x1002"];
const DEVICES_MAX: usize = 128;
/// PCI_EXP_LNKSTA_NLW of a device that answers nothing but ones.
const WIDTH_OF_ONES: u64 = 63;
/// File, last line's word, series.
const AER: [(&str, &str, &str); 3] = [
    ("aer_dev_correctable", "TOTAL_ERR_COR ", "pcie.errors.correctable"),
    ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL ", "pcie.errors.nonfatal"),
    ("aer_dev_fatal", "TOTAL_ERR_FATAL ", "pcie.errors.fatal"),
];

/// Watched PCIe devices.
pub(crate) struct PcieSource {
    root: PathBuf,
    devices: Vec<Device>,
}

struct Device {
    power: Option<KeptFile>,
    config: Option<(KeptFile, SeriesHandle)>,
    width: Option<Link>,
    speed: Option<(KeptFile, SeriesHandle)>,
    errors: Vec<(KeptFile, &'static str, SeriesHandle)>,
}

struct Link {
    file: KeptFile,
    lanes_max: u64,
    lanes: Option<SeriesHandle>,
    missing: Option<SeriesHandle>,
}

impl PcieSource {
    pub(crate) fn new(sysfs: &Path) -> Self {
        Self { root: sysfs.join("bus/pci/devices"), devices: Vec::new() }
    }
}

impl Source for PcieSource {
    fn name(&self) -> &'static str {
        "pcie"
    }

    fn kernel_path(&self) -> &str {
        "/sys/bus/pci/devices/*/{config,current_link_*,aer_dev_*}"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.devices.clear();
        for address in names(&self.root) {
            let folder = self.root.join(&address);
            let Some(kind) = kind(&folder).filter(|_| self.devices.len() < DEVICES_MAX) else { continue };
            self.devices.push(Device::open(&folder, kind, &address, declare));
        }
        if self.devices.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                format!("no accelerator, NIC or NVMe controller in {}", self.root.display()),
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        for device in &self.devices {
            if let Err(reason) = device.read(batch) {
                failed(batch, reason);
            }
        }
        Ok(())
    }
}

impl Device {
    fn open(folder: &Path, kind: &'static str, address: &str, declare: &mut Declare<'_>) -> Self {
        let driver = std::fs::read_link(folder.join("driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let mut series = |name, unit, of: Kind| {
            let entity = Entity { kind, name: address.to_owned() };
            let labels = driver.clone().map(|driver| ("driver", driver));
            declare.series(SeriesDef::new(name, unit, of, entity, labels))
        };
        let config = KeptFile::open(&folder.join("config")).ok();
        let config = config.and_then(|file| Some((file, series("pcie.device.present", "1", Kind::Gauge)?)));
        let width = KeptFile::open(&folder.join("current_link_width")).ok();
        let width = width.zip(lanes_max(folder)).map(|(file, lanes_max)| Link {
            file,
            lanes_max,
            lanes: series("pcie.link.lanes", "{lane}", Kind::Gauge),
            missing: series("pcie.link.lanes_missing", "{lane}", Kind::Gauge),
        });
        let speed = KeptFile::open(&folder.join("current_link_speed")).ok();
        let speed = speed.and_then(|file| Some((file, series("pcie.link.speed", "{transfer}/s", Kind::Gauge)?)));
        let errors = AER
            .into_iter()
            .filter_map(|(name, total, errors)| {
                let file = KeptFile::open(&folder.join(name)).ok()?;
                Some((file, total, series(errors, "{error}", Kind::Counter(Counter::wrapping(64)))?))
            })
            .collect();
        Self { power: KeptFile::open(&folder.join("power/runtime_status")).ok(), config, width, speed, errors }
    }

    fn read(&self, batch: &mut Batch) -> Result<(), ErrorReason> {
        let Self { power, config, width, speed, errors } = self;
        // The kernel wakes a device out of D3cold for whoever reads its configuration space.
        let is_asleep = |file: &KeptFile| file.read(&mut [0; 32]).is_ok_and(|status| status.starts_with(b"suspended"));
        if power.as_ref().is_some_and(is_asleep) {
            return Ok(());
        }
        if let Some((file, series)) = config {
            let before_ns = monotonic_ns();
            let vendor: [u8; 2] = file.first()?;
            let is_there = vendor != [0xff; 2];
            let moment = Moment::between(before_ns, monotonic_ns());
            batch.gauge(*series, f64::from(u8::from(is_there)), moment);
            if !is_there {
                // All else it says is ones too.
                return Ok(());
            }
        }
        if let Some(Link { file, lanes_max, lanes, missing }) = width {
            let before_ns = monotonic_ns();
            let now = file.number()?;
            let moment = Moment::between(before_ns, monotonic_ns());
            if now != 0 && now != WIDTH_OF_ONES {
                #[expect(clippy::cast_precision_loss, reason = "at most 32 lanes")]
                for (series, value) in [(lanes, now as f64), (missing, lanes_max.saturating_sub(now) as f64)] {
                    if let Some(series) = series {
                        batch.gauge(*series, value, moment);
                    }
                }
            }
        }
        if let Some((file, series)) = speed {
            let (before_ns, mut buffer) = (monotonic_ns(), [0; 64]);
            // "Unknown" of a link that is down.
            match transfers_per_s(file.read(&mut buffer)?) {
                Some(speed) => batch.gauge(*series, speed, Moment::between(before_ns, monotonic_ns())),
                None => batch.fault(ErrorReason::NotAvailable),
            }
        }
        for (file, total, series) in errors {
            let (before_ns, mut buffer) = (monotonic_ns(), [0; 2048]);
            match aer_total(file.read(&mut buffer)?, total) {
                Some(count) => batch.counter(*series, count, Moment::between(before_ns, monotonic_ns())),
                None => batch.fault(ErrorReason::Malformed),
            }
        }
        Ok(())
    }
}

/// What the device of this sysfs folder is to training: `gpu`, `npu`, `nic`, `nvme`; `None` for all others and for virtual functions.
#[must_use]
pub fn kind(folder: &Path) -> Option<&'static str> {
    let class = line(folder.join("class"))?;
    let class = u32::from_str_radix(class.strip_prefix("0x")?, 16).ok()? >> 8;
    let (_, kind) = CLASSES.into_iter().find(|(known, _)| *known == class)?;
    let is_idle_display =
        class == 0x0300 && !COMPUTING_VENDORS.contains(&line(folder.join("vendor")).unwrap_or_default().as_str());
    (!is_idle_display && !folder.join("physfn").exists()).then_some(kind)
}

/// Lanes that this end and the port it is plugged into can both do.
fn lanes_max(folder: &Path) -> Option<u64> {
    let of = |folder: &Path| number(line(folder.join("max_link_width"))?.as_bytes()).ok().filter(|lanes| *lanes > 0);
    let own = of(folder)?;
    let port = std::fs::canonicalize(folder).ok().and_then(|real| of(real.parent()?));
    Some(port.map_or(own, |port| own.min(port)))
}

/// "16.0 GT/s PCIe" as transfers per second.
fn transfers_per_s(text: &[u8]) -> Option<f64> {
    let (value, _) = std::str::from_utf8(text).ok()?.trim().split_once(" GT/s")?;
    value.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0).map(|value| value * 1e9)
}

/// The number after `word` (Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats).
fn aer_total(text: &[u8], word: &str) -> Option<u64> {
    text.split(|byte| *byte == b'\n').find_map(|line| number(line.strip_prefix(word.as_bytes())?).ok())
}

#[cfg(test)]
mod tests {
    use super::{aer_total, transfers_per_s};

    #[test]
    fn speeds_are_read_in_every_form_that_kernels_write() {
        for (text, expected) in [
            ("16.0 GT/s PCIe\n", Some(16e9)),
            ("2.5 GT/s\n", Some(2.5e9)),
            ("32 GT/s PCIe\n", Some(32e9)),
            ("Unknown\n", None),
            ("-1 GT/s\n", None),
            ("", None),
        ] {
            assert_eq!(transfers_per_s(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn an_aer_file_is_read_by_its_total() {
        let text = "RxErr 3\nBadTLP 0\nRollover 1\nTOTAL_ERR_COR 4\n";
        assert_eq!(aer_total(text.as_bytes(), "TOTAL_ERR_COR "), Some(4));
        assert_eq!(aer_total(text.as_bytes(), "TOTAL_ERR_FATAL "), None);
        assert_eq!(aer_total(b"TOTAL_ERR_COR x\n", "TOTAL_ERR_COR "), None);
    }
}
