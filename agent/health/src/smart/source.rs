//! The agent's half: reports of the helper in, readings out.
//!
//! In: datagrams on a socket of our own. Out: each report's values once, with the time at which the disk was asked. A disk that
//! the helper no longer reports loses its series after three rounds; a helper that has been silent for three rounds is gone, and
//! the source is off until it speaks. Never: a datagram believed beyond its bounds, a value told twice, a wait for the helper.

use super::ata::AtaHealth;
use super::nvme::NvmeHealth;
use super::report::{Health, MESSAGE_BYTES_MAX, Message, Report};
use crate::hearing::Hearing;
use crate::smart::helper::DISKS_MAX;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, Reading, SeriesDef,
    SeriesHandle, Source, Unavailable, Value,
};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

/// Rounds after which silence means that a disk, or the helper, is gone.
const ROUNDS: u64 = 3;

/// Health of disks, from the helper.
pub struct SmartSource {
    hearing: Hearing,
    heard_at_ns: Option<u64>,
    round_ns: u64,
    disks: BTreeMap<String, Disk>,
}

struct Disk {
    report: Report,
    heard_at_ns: u64,
    /// The report's values were handed over.
    is_told: bool,
    /// Series that it has values for, with their units: of its last answer.
    said: Vec<(&'static str, &'static str, Kind)>,
    series: BTreeMap<&'static str, SeriesHandle>,
}

/// A value of a report, by the name of its series.
struct Told {
    series: &'static str,
    unit: &'static str,
    kind: Kind,
    value: Value,
    cause: Option<&'static str>,
}

fn gauge(series: &'static str, unit: &'static str, value: f64) -> Told {
    Told { series, unit, kind: Kind::Gauge, value: Value::Gauge(value), cause: None }
}

fn flag(series: &'static str, value: bool, cause: Option<&'static str>) -> Told {
    Told { cause, ..gauge(series, "1", f64::from(u8::from(value))) }
}

fn counter(series: &'static str, unit: &'static str, bits: u8, value: u64) -> Told {
    let kind = Kind::Counter(Counter::saturating(bits));
    Told { series, unit, kind, value: Value::Counter(value), cause: None }
}

/// What a report has to say; empty where the disk gave no answer.
fn values(health: &Health) -> Vec<Told> {
    match health {
        Health::Failed { .. } => Vec::new(),
        Health::Nvme(nvme) => {
            let NvmeHealth {
                critical_warning: _,
                temperature_k,
                spare_percent,
                spare_threshold_percent: _,
                used_percent,
                unsafe_shutdowns,
                media_errors,
                error_log_entries,
            } = *nvme;
            let temperature = temperature_k.map(|kelvin| gauge("disk.temperature", "Cel", f64::from(kelvin) - 273.15));
            let mut told = vec![
                flag("disk.smart.failing", nvme.warning().is_some(), nvme.warning()),
                flag("disk.smart.spare_low", nvme.is_spare_low(), None),
                gauge("disk.smart.spare", "1", f64::from(spare_percent) / 100.0),
                gauge("disk.smart.wear", "1", f64::from(used_percent) / 100.0),
                counter("disk.smart.media_errors", "{error}", 64, media_errors),
                counter("disk.smart.unsafe_shutdowns", "{event}", 64, unsafe_shutdowns),
                counter("disk.smart.error_log_entries", "{entry}", 64, error_log_entries),
            ];
            told.extend(temperature);
            told
        }
        Health::Ata(ata) => {
            let AtaHealth {
                is_failing,
                reallocated,
                reported_uncorrectable,
                pending,
                offline_uncorrectable,
                link_crc_errors,
                temperature_c,
            } = *ata;
            #[expect(clippy::cast_precision_loss, reason = "32 bits, as decoded")]
            let sectors = |series, count: u64| gauge(series, "{sector}", count as f64);
            let cause = Some("the disk expects to fail").filter(|_| is_failing == Some(true));
            [
                is_failing.map(|is_failing| flag("disk.smart.failing", is_failing, cause)),
                reallocated.map(|count| counter("disk.smart.sectors.reallocated", "{sector}", 32, count)),
                reported_uncorrectable.map(|count| counter("disk.smart.media_errors", "{error}", 32, count)),
                pending.map(|count| sectors("disk.smart.sectors.pending", count)),
                offline_uncorrectable.map(|count| sectors("disk.smart.sectors.uncorrectable", count)),
                link_crc_errors.map(|count| counter("disk.smart.link.crc_errors", "{error}", 32, count)),
                temperature_c.map(|celsius| gauge("disk.temperature", "Cel", f64::from(celsius))),
            ]
            .into_iter()
            .flatten()
            .collect()
        }
    }
}

impl SmartSource {
    /// Listening on `path`, once probed.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            hearing: Hearing::new(path, "health.disk_socket", MESSAGE_BYTES_MAX),
            heard_at_ns: None,
            round_ns: 60_000_000_000,
            disks: BTreeMap::new(),
        }
    }

    /// Takes what waits, up to a turn's worth; whether a disk came that has no series yet.
    fn take(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        for message in self.hearing.take::<Message>(batch)? {
            match message.is_sound() {
                true => self.note(message, batch),
                false => batch.fault(ErrorReason::Malformed),
            }
        }
        Ok(())
    }

    fn note(&mut self, message: Message, batch: &mut Batch) {
        let now_ns = monotonic_ns();
        self.heard_at_ns = Some(now_ns);
        self.round_ns = u64::from(message.every_s) * 1_000_000_000;
        let Some(report) = message.report else { return };
        if let Health::Failed { .. } = report.health {
            batch.fault(ErrorReason::Io);
        }
        let said: Vec<_> = values(&report.health).iter().map(|told| (told.series, told.unit, told.kind)).collect();
        let has_room = self.disks.len() < DISKS_MAX;
        match self.disks.get_mut(&report.name) {
            Some(disk) => {
                // A disk that fails to answer keeps the series it had: its silence shows in the source's faults.
                if !said.is_empty() && disk.said != said {
                    disk.said = said;
                    batch.ask_for_probe();
                }
                (disk.report, disk.heard_at_ns, disk.is_told) = (report, now_ns, false);
            }
            None if has_room => {
                let name = report.name.clone();
                let series = BTreeMap::new();
                self.disks.insert(name, Disk { report, heard_at_ns: now_ns, is_told: false, said, series });
                batch.ask_for_probe();
            }
            None => batch.fault(ErrorReason::Overrun),
        }
    }

    fn is_silent_since(&self, heard_at_ns: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(heard_at_ns) > ROUNDS * self.round_ns
    }
}

impl Source for SmartSource {
    fn name(&self) -> &'static str {
        "disk.smart"
    }

    fn kernel_path(&self) -> &str {
        "NVME_IOCTL_ADMIN_CMD and SG_IO, through railwatch-agent disk-helper"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(1), default: Duration::from_secs(5), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.hearing.bind()?;
        // The first report may wait in the socket. Faults of that are the next read's.
        let mut unread = Batch::with_capacity(0);
        self.take(&mut unread).map_err(|error| Unavailable::new(error.reason, error))?;
        let now_ns = monotonic_ns();
        if self.heard_at_ns.is_none_or(|at| self.is_silent_since(at, now_ns)) {
            self.disks.clear();
            let path = self.hearing.path().display();
            return Err(Unavailable::new(
                ErrorReason::TimedOut,
                format!(
                    "the helper that asks disks has not been heard on {path}: systemctl enable --now railwatch-disk"
                ),
            ));
        }
        let limit_ns = ROUNDS * self.round_ns;
        self.disks.retain(|_, disk| now_ns.saturating_sub(disk.heard_at_ns) <= limit_ns);
        for (name, disk) in &mut self.disks {
            let labels = [("model", &disk.report.model), ("serial", &disk.report.serial)];
            let labels =
                || labels.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key, text.clone()));
            disk.series = disk
                .said
                .iter()
                .filter_map(|(series, unit, kind)| {
                    let entity = entity(name);
                    Some((*series, declare.series(SeriesDef::new(series, unit, *kind, entity, labels()))?))
                })
                .collect();
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        self.take(batch)?;
        let now_ns = monotonic_ns();
        for disk in self.disks.values_mut().filter(|disk| !disk.series.is_empty()) {
            if std::mem::replace(&mut disk.is_told, true) {
                continue;
            }
            let (before_ns, after_ns) = disk.report.asked_ns;
            let moment = Moment::between(before_ns.min(now_ns), after_ns.clamp(before_ns.min(now_ns), now_ns));
            for Told { series, value, cause, .. } in values(&disk.report.health) {
                if let Some(series) = disk.series.get(series) {
                    batch.push(Reading { series: *series, value, moment, cause });
                }
            }
        }
        let disks = self.disks.values().map(|disk| disk.heard_at_ns);
        if disks.chain(self.heard_at_ns).any(|at| self.is_silent_since(at, now_ns)) {
            batch.ask_for_probe();
        }
        Ok(())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.hearing.fd()
    }

    fn on_event(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        self.take(batch)
    }
}

/// As the sources `nvme` and `disk` name them.
fn entity(name: &str) -> Entity {
    let kind = if name.starts_with("nvme") { "nvme" } else { "disk" };
    Entity { kind, name: name.to_owned() }
}
