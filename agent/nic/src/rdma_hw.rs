//! Hardware counters of RDMA ports: the millisecond path.
//!
//! In: RDMA netlink STAT_GET, all counters of a port in one message, fresh at every call; for a port or a host where that
//! does not work, `ports/N/hw_counters/` (which the kernel refreshes only every `lifespan` milliseconds). Out: one series
//! per counter, by the vocabulary.

use crate::rdma::{self, RdmaPort};
use crate::rdma_netlink::{CountersOf, RdmaNetlink};
use crate::sysfs::{self, NumberFile};
use crate::vocabulary::{Shape, VENDOR, Word, hw_word};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Declare, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle, Source, Unavailable,
};
use std::path::PathBuf;
use std::time::Duration;

/// Counters of one port beyond which a driver's answer is not believed.
const COUNTERS_MAX: usize = 512;
/// The kernel's own default (drivers/infiniband/core/sysfs.c).
const LIFESPAN_DEFAULT: Duration = Duration::from_millis(10);

/// Hardware counters of all RDMA ports.
pub(crate) struct RdmaHwSource {
    root: PathBuf,
    netlink: Option<RdmaNetlink>,
    ports: Vec<Counters>,
    values: Vec<(Column, u64)>,
    path: String,
}

enum Counters {
    Netlink { request: CountersOf, series: Vec<(String, Option<Column>)> },
    Sysfs { files: Vec<(NumberFile, Column)> },
}

#[derive(Clone, Copy)]
struct Column {
    series: SeriesHandle,
    shape: Shape,
}

impl RdmaHwSource {
    pub(crate) fn new(root: PathBuf, may_use_netlink: bool) -> Self {
        let netlink = if may_use_netlink { RdmaNetlink::open().ok() } else { None };
        Self {
            root,
            netlink,
            ports: Vec::new(),
            values: Vec::new(),
            path: "RDMA netlink, sysfs hw_counters".to_owned(),
        }
    }

    fn by_netlink(
        &mut self,
        devices: &[(u32, String)],
        port: &RdmaPort,
        declare: &mut Declare<'_>,
    ) -> Option<Counters> {
        let netlink = self.netlink.as_mut()?;
        let device = devices.iter().find(|(_, name)| *name == port.device)?.0;
        let mut request = CountersOf::new(device, port.number);
        let mut series = Vec::new();
        let outcome = netlink.counters(&mut request, |name, _| {
            if series.len() < COUNTERS_MAX {
                series.push((name.to_owned(), column(port, name, None, declare)));
            }
        });
        (outcome.is_ok() && !series.is_empty()).then_some(Counters::Netlink { request, series })
    }

    fn by_sysfs(port: &RdmaPort, declare: &mut Declare<'_>) -> Option<Counters> {
        let directory = port.directory.join("hw_counters");
        let names = sysfs::names(&directory).ok()?;
        let lifespan = sysfs::line(directory.join("lifespan")).and_then(|text| text.parse().ok());
        let lifespan = lifespan.map_or(LIFESPAN_DEFAULT, Duration::from_millis);
        let mut files = Vec::new();
        for name in names.iter().filter(|name| *name != "lifespan").take(COUNTERS_MAX) {
            let Ok(file) = NumberFile::open(&directory.join(name)) else { continue };
            if file.read() != Err(ErrorReason::NotAvailable)
                && let Some(column) = column(port, name, Some(lifespan), declare)
            {
                files.push((file, column));
            }
        }
        (!files.is_empty()).then_some(Counters::Sysfs { files })
    }
}

impl Source for RdmaHwSource {
    fn name(&self) -> &'static str {
        "rdma.hw"
    }

    fn kernel_path(&self) -> &str {
        &self.path
    }

    fn cadence(&self) -> CadenceRange {
        // One message brings all counters of a port; of files each is a system call of its own.
        let is_by_message = self.ports.iter().any(|port| matches!(port, Counters::Netlink { .. }));
        let (min_ms, default_ms) = if is_by_message { (1, 10) } else { (10, 100) };
        CadenceRange {
            min: Duration::from_millis(min_ms),
            default: Duration::from_millis(default_ms),
            max: Duration::from_secs(60),
        }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let found = rdma::ports(&self.root)?;
        let devices = self.netlink.as_mut().and_then(|netlink| netlink.devices().ok()).unwrap_or_default();
        self.ports.clear();
        for port in &found {
            let counters = self.by_netlink(&devices, port, declare).or_else(|| Self::by_sysfs(port, declare));
            self.ports.extend(counters);
        }
        let by_netlink = self.ports.iter().filter(|port| matches!(port, Counters::Netlink { .. })).count();
        self.path = format!(
            "RDMA netlink RDMA_NLDEV_CMD_STAT_GET (ports: {by_netlink}), sysfs class/infiniband/*/ports/*/hw_counters (ports: {})",
            self.ports.len() - by_netlink
        );
        if self.ports.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::NotAvailable,
                "no RDMA port has hardware counters: neither RDMA netlink STAT_GET nor hw_counters/ gives any",
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { netlink, ports, values, .. } = self;
        for counters in ports {
            match counters {
                Counters::Netlink { request, series } => {
                    let Some(netlink) = netlink else { continue };
                    values.clear();
                    let mut expected = series.iter();
                    let mut is_as_probed = true;
                    let before_ns = monotonic_ns();
                    let outcome = netlink.counters(request, |name, value| match expected.next() {
                        Some((known, column)) if known == name => values.extend(column.map(|column| (column, value))),
                        _ => is_as_probed = false,
                    });
                    let moment = Moment::between(before_ns, monotonic_ns());
                    if let Err(error) = outcome {
                        if ErrorReason::from(&error) == ErrorReason::TimedOut {
                            return Err(ReadError::io("asking RDMA netlink for hardware counters", &error));
                        }
                        batch.fault(ErrorReason::from(&error));
                        batch.ask_for_probe();
                        continue;
                    }
                    if !is_as_probed || expected.next().is_some() {
                        batch.ask_for_probe();
                    }
                    for (column, value) in values.iter() {
                        push(batch, *column, *value, moment);
                    }
                }
                Counters::Sysfs { files } => {
                    for (file, column) in files {
                        let before_ns = monotonic_ns();
                        match file.read() {
                            Ok(value) => push(batch, *column, value, Moment::between(before_ns, monotonic_ns())),
                            Err(reason) => {
                                batch.fault(reason);
                                batch.ask_for_probe();
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn push(batch: &mut Batch, column: Column, value: u64, moment: Moment) {
    match column.shape {
        #[expect(clippy::cast_precision_loss, reason = "gauges of this source are small counts of objects")]
        Shape::Gauge => batch.gauge(column.series, value as f64, moment),
        Shape::Wraps(_) | Shape::Saturates(_) | Shape::Words => batch.counter(column.series, value, moment),
    }
}

fn column(port: &RdmaPort, counter: &str, refresh: Option<Duration>, declare: &mut Declare<'_>) -> Option<Column> {
    let word = hw_word(counter);
    declare.series(series(port, counter, word, refresh)).map(|series| Column { series, shape: word.shape })
}

fn series(port: &RdmaPort, counter: &str, word: Word, refresh: Option<Duration>) -> SeriesDef {
    let kind = match (word.shape.kind(), refresh) {
        (Kind::Counter(counter), Some(refresh)) => Kind::Counter(counter.refreshed_every(refresh)),
        (kind, _) => kind,
    };
    let direction = word.direction.map(|direction| ("network.io.direction", direction.label().to_owned()));
    let vendor = (word == VENDOR).then(|| ("counter", counter.to_owned()));
    port.series(word.name, word.unit, kind, direction.into_iter().chain(vendor))
}
