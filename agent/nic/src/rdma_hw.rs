//! Hardware counters of RDMA ports: the millisecond path.
//!
//! In: RDMA netlink STAT_GET, all counters of a port in one message, fresh at every call, several ports by one call where
//! that is quick; for a port or a host where that does not work, `ports/N/hw_counters/` (which the kernel refreshes only every `lifespan` milliseconds). Out: one series
//! per counter, by the vocabulary.

use crate::counter_files::CounterFiles;
use crate::netlink::Requests;
use crate::rdma::{self, RdmaPort};
use crate::rdma_netlink::{Layout, RdmaNetlink, counters_of};
use crate::sysfs::{self, NumberFile};
use crate::together::Together;
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
    /// For the ports that answer by message, in their order.
    requests: Requests,
    by_message: Vec<Port>,
    together: Together,
    values: Vec<u64>,
    files: CounterFiles<Column>,
    /// What the last probe found of the ports whose counters are files.
    listed: Vec<Listed>,
    /// Of those, how many have any.
    by_files: usize,
    path: String,
}

/// The counters of a port that are files.
#[derive(PartialEq)]
struct Listed {
    port: RdmaPort,
    directory: u64,
    names: Vec<String>,
    lifespan: Duration,
}

impl Listed {
    fn of(port: RdmaPort) -> Self {
        let directory = port.directory.join("hw_counters");
        let names = sysfs::names(&directory).unwrap_or_default();
        let lifespan = sysfs::line(directory.join("lifespan")).and_then(|text| text.parse().ok());
        let number = sysfs::directory_number(&directory);
        Self { port, directory: number, names, lifespan: lifespan.map_or(LIFESPAN_DEFAULT, Duration::from_millis) }
    }
}

/// A port whose counters come by message.
struct Port {
    layout: Layout,
    /// Of each counter of the layout.
    columns: Vec<Option<Column>>,
    /// Whether the last message brought them, or why not.
    outcome: Result<(), ErrorReason>,
}

#[derive(Clone, Copy, PartialEq)]
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
            requests: Requests::default(),
            by_message: Vec::new(),
            together: Together::default(),
            values: Vec::new(),
            files: CounterFiles::default(),
            listed: Vec::new(),
            by_files: 0,
            path: "RDMA netlink, sysfs hw_counters".to_owned(),
        }
    }

    /// The port answers by message: it will be asked so.
    fn by_netlink(&mut self, devices: &[(u32, String)], port: &RdmaPort, declare: &mut Declare<'_>) -> Option<()> {
        let netlink = self.netlink.as_mut()?;
        let device = devices.iter().find(|(_, name)| *name == port.device)?.0;
        let mut request = counters_of(device, port.number);
        let layout = netlink.layout(&mut request).ok().filter(|layout| !layout.names().is_empty())?;
        let names = layout.names().iter().take(COUNTERS_MAX);
        let columns = names.map(|name| column(port, name, None, declare)).collect();
        self.requests.push(&request);
        self.by_message.push(Port { layout, columns, outcome: Ok(()) });
        Some(())
    }

    /// Its counters are files: whether there are any.
    fn by_sysfs(&mut self, listed: &Listed, declare: &mut Declare<'_>) -> bool {
        let Listed { port, directory: _, names, lifespan } = listed;
        let directory = port.directory.join("hw_counters");
        let before = self.files.len();
        for name in names.iter().filter(|name| *name != "lifespan").take(COUNTERS_MAX) {
            let Ok(file) = NumberFile::open(&directory.join(name)) else { continue };
            if file.read() != Err(ErrorReason::NotAvailable)
                && let Some(column) = column(port, name, Some(*lifespan), declare)
            {
                self.files.push(file, column);
            }
        }
        self.files.len() > before
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
        let (min_ms, default_ms) = if self.by_message.is_empty() { (10, 100) } else { (1, 10) };
        CadenceRange {
            min: Duration::from_millis(min_ms),
            default: Duration::from_millis(default_ms),
            max: Duration::from_secs(60),
        }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let found = rdma::ports(&self.root)?;
        let devices = self.netlink.as_mut().and_then(|netlink| netlink.devices().ok()).unwrap_or_default();
        (self.requests, self.together) = (Requests::default(), Together::default());
        self.by_message.clear();
        let mut listed = Vec::new();
        for port in found {
            if self.by_netlink(&devices, &port, declare).is_none() {
                listed.push(Listed::of(port));
            }
        }
        let mut by_files = 0;
        if self.listed == listed && self.files.again(declare, |column| column.series) {
            by_files = self.by_files;
        } else {
            self.files.begin_again();
            for listed in &listed {
                by_files += usize::from(self.by_sysfs(listed, declare));
            }
        }
        (self.listed, self.by_files) = (listed, by_files);
        self.path = format!(
            "RDMA netlink RDMA_NLDEV_CMD_STAT_GET (ports: {}), sysfs class/infiniband/*/ports/*/hw_counters (ports: {by_files}; a counter \
             that lies still: every 400 ms)",
            self.by_message.len()
        );
        if self.by_message.is_empty() && by_files == 0 {
            return Err(Unavailable::new(
                ErrorReason::NotAvailable,
                "no RDMA port has hardware counters: neither RDMA netlink STAT_GET nor hw_counters/ gives any",
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        self.read_messages(batch)?;
        self.files.read(batch.in_full(), |column, value, moment| match value {
            Ok(value) => push(batch, *column, value, moment),
            Err(reason) => {
                batch.fault(reason);
                batch.ask_for_probe();
            }
        });
        Ok(())
    }
}

impl RdmaHwSource {
    fn read_messages(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { netlink: Some(netlink), requests, by_message: ports, together, values, .. } = self else {
            return Ok(());
        };
        let (begun_ns, mut place) = (monotonic_ns(), 0);
        while place < ports.len() {
            let places = place..ports.len().min(place + together.per_call());
            place = places.end;
            values.clear();
            let before_ns = monotonic_ns();
            let asked = netlink.ask_each(requests, places.clone(), |place, answer| {
                let Port { layout, outcome, .. } = &mut ports[place];
                *outcome = match answer {
                    Ok(message) if layout.read(message.body, values) => Ok(()),
                    // The driver's counters are others than when it was probed.
                    Ok(_) => Err(ErrorReason::Malformed),
                    Err(error) => Err(ErrorReason::from(&error)),
                };
            });
            let moment = Moment::between(before_ns, monotonic_ns());
            asked.map_err(|error| ReadError::io("asking RDMA netlink for hardware counters", &error))?;
            // Answers come in the order of their requests: so do the values of the ports that have any.
            let mut values = values.iter();
            for Port { layout, columns, outcome } in &ports[places] {
                if let Err(reason) = outcome {
                    batch.fault(*reason);
                    batch.ask_for_probe();
                    continue;
                }
                for (counter, value) in values.by_ref().take(layout.names().len()).enumerate() {
                    if let Some(column) = columns.get(counter).copied().flatten() {
                        push(batch, column, *value, moment);
                    }
                }
            }
        }
        if !ports.is_empty() {
            together.took(monotonic_ns() - begun_ns);
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
