//! The source `inventory`: reads everything at start and each minute, and an interface's settings when rtnetlink tells of it.
//!
//! In: the readers of this crate. Out: the whole inventory to `publish` when it is another, a signal for each value that became
//! another, two series (how many items, how many changes). A change found by the slow reading lies anywhere since the
//! reading before, and its signal says so by its half width. Never: a signal at the first reading, or for what came or went.

use crate::items::{Change, Items};
use crate::{devices, gpus, host, libraries, links};
use railwatch_health::NvmlModes;
use railwatch_nic::{NicConfig, SettingsReader};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, Kind, Moment, ReadError, SeriesDef, SeriesHandle, SeriesId,
    Severity, Signal, Source, Unavailable,
};
use railwatch_wire::inventory::Weight;
use railwatch_wire::v1;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

/// What it raises.
pub const SIGNALS: [&str; 1] = ["config.changed"];
/// Interfaces that notifications make it read between two slow readings; a link that flaps for ever is read no more then.
const TOLD_MAX: usize = 32;
/// Where the inventory is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryConfig {
    /// Where sysfs is: `/sys`, or the copy of another host's tree.
    pub sysfs_root: PathBuf,
    /// Where procfs is: `/proc`, or the copy of another host's.
    pub procfs_root: PathBuf,
    /// Kinds of software interface to tell beside those with a device.
    pub software_interfaces: Vec<String>,
    /// NVIDIA's management library: a name that the loader looks up, or a path.
    pub nvml_library: PathBuf,
}

impl Default for InventoryConfig {
    fn default() -> Self {
        Self {
            sysfs_root: "/sys".into(),
            procfs_root: "/proc".into(),
            software_interfaces: Vec::new(),
            nvml_library: "libnvidia-ml.so.1".into(),
        }
    }
}

/// What other rooms know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Processes and the libraries they have mapped, paths as they see them.
    pub objects: Vec<(u32, String)>,
    /// Optical modules.
    pub modules: Vec<ModuleFacts>,
}

/// What does not change about an optical module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleFacts {
    /// The interface it is plugged into.
    pub interface: String,
    /// It was taken out: nothing else is known.
    pub is_unplugged: bool,
    /// Manufacturer.
    pub vendor: Option<String>,
    /// Part number.
    pub part_number: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Revision of its memory's layout.
    pub revision: Option<String>,
}

type Ask = Box<dyn Fn() -> Known + Send>;
type Publish = Box<dyn Fn(v1::InventoryState) + Send>;

/// What is installed and set on this host.
pub struct InventorySource {
    config: InventoryConfig,
    known: Ask,
    publish: Publish,
    links: Option<SettingsReader>,
    nvml: NvmlModes,
    items: Items,
    /// When everything was read last.
    read_at_ns: Option<u64>,
    told: usize,
    changes: u64,
    series: Option<(SeriesHandle, SeriesHandle)>,
    changes_id: SeriesId,
}

impl InventorySource {
    /// `known` asks other rooms; `publish` takes the whole inventory whenever it is another.
    #[must_use]
    pub fn new(
        config: InventoryConfig,
        known: impl Fn() -> Known + Send + 'static,
        publish: impl Fn(v1::InventoryState) + Send + 'static,
    ) -> Self {
        Self {
            nvml: NvmlModes::new(config.nvml_library.clone()),
            config,
            known: Box::new(known),
            publish: Box::new(publish),
            links: None,
            items: Items::default(),
            read_at_ns: None,
            told: 0,
            changes: 0,
            series: None,
            changes_id: changes_series().id(),
        }
    }

    /// The inventory as it was read last.
    #[must_use]
    pub fn items(&self) -> &Items {
        &self.items
    }

    fn everything(&mut self) -> Result<Items, ReadError> {
        let InventoryConfig { sysfs_root: sysfs, procfs_root: procfs, .. } = &self.config;
        let mut items = Items::default();
        host::read(sysfs, procfs, &mut items);
        devices::read(sysfs, &mut items);
        gpus::read(procfs, &self.nvml.read(), &mut items);
        links::rdma(sysfs, &mut items);
        if let Some(reader) = &mut self.links {
            // What waits to be told is told by this reading.
            let _ = reader.changed(0);
            let all = reader.all().map_err(|error| ReadError::io("listing network interfaces", &error))?;
            for settings in &all {
                links::port(sysfs, procfs, settings, &mut items);
            }
        }
        let Known { objects, modules } = (self.known)();
        let versions = libraries::versions(procfs, &objects);
        let mut host = items.of("host", "", "");
        for (key, version) in versions {
            host.put(key, Some(version), "mapped by GPU processes");
        }
        for module in modules {
            let ModuleFacts { interface, is_unplugged, vendor, part_number, serial, revision } = module;
            let mut of = items.of("module", &interface, "");
            let none = || is_unplugged.then(|| "none".to_owned());
            let [vendor, part_number, serial] = [vendor, part_number, serial].map(|text| text.or_else(none));
            of.put("vendor", vendor, "module EEPROM");
            of.put("part.number", part_number, "module EEPROM");
            of.put("serial.number", serial, "module EEPROM");
            of.put("revision", revision, "module EEPROM");
        }
        items.keep_from(&self.items);
        Ok(items)
    }

    /// Takes a newer inventory, read at `moment`.
    fn take(&mut self, items: Items, moment: Moment, batch: &mut Batch) {
        if self.read_at_ns.is_some() {
            for change in items.changes_since(&self.items) {
                self.changes += 1;
                batch.signal(signal(change, self.changes_id, moment));
            }
        }
        if items != self.items {
            (self.publish)(items.state());
            self.items = items;
        }
    }

    fn tell(&self, moment: Moment, batch: &mut Batch) {
        if let Some((count, changes)) = self.series {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
            batch.gauge(count, self.items.len() as f64, moment);
            batch.counter(changes, self.changes, moment);
        }
    }
}

impl Source for InventorySource {
    fn name(&self) -> &'static str {
        "inventory"
    }

    fn kernel_path(&self) -> &str {
        "sysfs, procfs, rtnetlink, ethtool and DCB netlink, NVML"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(10), default: Duration::from_secs(60), max: Duration::from_secs(600) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        if self.links.is_none() {
            let InventoryConfig { sysfs_root, software_interfaces, .. } = self.config.clone();
            let reader = SettingsReader::open(&NicConfig { sysfs_root, software_interfaces })
                .map_err(|error| Unavailable::new((&error).into(), format!("opening rtnetlink: {error}")))?;
            self.links = Some(reader);
        }
        let entity = Entity { kind: "host", name: "inventory".into() };
        let count = declare.series(SeriesDef::new("host.inventory.items", "{item}", Kind::Gauge, entity, []));
        self.series = count.zip(declare.series(changes_series()));
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let before_ns = monotonic_ns();
        let items = self.everything()?;
        let after_ns = monotonic_ns();
        self.told = 0;
        // Anywhere since the last reading that found the old value.
        self.take(items, Moment::between(self.read_at_ns.unwrap_or(before_ns), after_ns), batch);
        self.read_at_ns = Some(before_ns);
        self.tell(Moment::between(before_ns, after_ns), batch);
        Ok(())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.links.as_ref()?.events()
    }

    fn on_event(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let before_ns = monotonic_ns();
        let Some(reader) = &mut self.links else { return Ok(()) };
        let changed = match reader.changed(TOLD_MAX.saturating_sub(self.told)) {
            Ok(changed) => changed,
            // Some were lost: all is read.
            Err(_) => return self.read(batch),
        };
        self.told += changed.len();
        if self.read_at_ns.is_none() || changed.is_empty() {
            return Ok(());
        }
        let mut items = self.items.clone();
        for settings in &changed {
            items.forget("port", &settings.name);
            links::port(&self.config.sysfs_root, &self.config.procfs_root, settings, &mut items);
        }
        items.keep_from(&self.items);
        self.take(items, Moment::between(before_ns, monotonic_ns()), batch);
        Ok(())
    }
}

fn changes_series() -> SeriesDef {
    let entity = Entity { kind: "host", name: "inventory".into() };
    SeriesDef::new("host.inventory.changes", "{change}", Kind::Counter(Counter::wrapping(64)), entity, [])
}

fn signal(change: Change, series: SeriesId, moment: Moment) -> Signal {
    let Change { kind, entity, key, before, after, source } = change;
    let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
    let (value, previous, unit) = match (number(&after), number(&before)) {
        (Some(after), Some(before)) => {
            let is_unit = key.form.starts_with('{') || matches!(key.form, "By" | "Mbit/s" | "GT/s");
            (after, Some(before), if is_unit { key.form } else { "1" })
        }
        _ => (1.0, None, "1"),
    };
    let of = if entity.is_empty() { kind.to_owned() } else { format!("{kind} {entity}") };
    Signal {
        name: SIGNALS[0],
        series,
        entity: Entity { kind, name: entity },
        severity: match key.weight {
            Weight::Info => Severity::Info,
            Weight::Warning => Severity::Warning,
        },
        moment,
        value,
        previous,
        unit,
        summary: format!("{of}: {} is {after}, was {before}", key.name),
        attributes: vec![("key", key.name.to_owned()), ("before", before), ("after", after), ("source", source)],
        incomplete_since_mono_ns: None,
        suppressed: 0,
    }
}
