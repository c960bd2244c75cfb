//! Port counters of the PMA: `ports/N/counters/`.
//!
//! In: one file per counter, kept open; each read is a MAD or a firmware command, so this is the slow source. Out:
//! traffic in bytes and the classic error counters, most of which are narrow and stop at their maximum. A driver without
//! the directory (bnxt_re) simply has none of these series.

use crate::counter_files::CounterFiles;
use crate::rdma::{self, RdmaPort};
use crate::sysfs::{self, NumberFile};
use crate::vocabulary::{PMA, Shape, Word};
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, ErrorReason, Kind, ReadError, SeriesHandle, Source, Unavailable,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// PMA counters of all RDMA ports.
pub(crate) struct RdmaPmaSource {
    root: PathBuf,
    files: CounterFiles<SeriesHandle>,
    /// The ports, the directory of their counters and the names in it, as the last probe found them.
    listed: Vec<(RdmaPort, u64, Vec<String>)>,
    path: String,
}

const PATH: &str = "sysfs class/infiniband/*/ports/*/counters";

impl RdmaPmaSource {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, files: CounterFiles::default(), listed: Vec::new(), path: PATH.to_owned() }
    }
}

impl Source for RdmaPmaSource {
    fn name(&self) -> &'static str {
        "rdma.pma"
    }

    fn kernel_path(&self) -> &str {
        &self.path
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let listed = rdma::ports(&self.root)?.into_iter().map(|port| {
            let directory = port.directory.join("counters");
            (port, sysfs::directory_number(&directory), sysfs::names(&directory).unwrap_or_default())
        });
        let listed: Vec<_> = listed.collect();
        if self.listed == listed && self.files.again(declare, |series| *series) {
            return Ok(());
        }
        self.files.begin_again();
        // Whose bytes come by this path: what a file costs is the driver's (mlx5: a firmware command each).
        let mut drivers = BTreeMap::new();
        for (port, _, present) in &listed {
            // Only the extended counters (64 bits) have these two; the plain ones are 32 bits wide.
            let is_extended = present.iter().any(|name| name == "unicast_rcv_packets");
            for word in PMA.iter().filter(|word| present.iter().any(|name| name == word.kernel)) {
                let Ok(file) = NumberFile::open(&port.directory.join("counters").join(word.kernel)) else { continue };
                // A counter that says "N/A (no PMA)" now says so for ever: no series for it.
                if file.read() == Err(ErrorReason::NotAvailable) {
                    continue;
                }
                if let Some(series) = declare.series(series(port, word, is_extended)) {
                    self.files.push(file, series);
                }
                drivers
                    .entry(sysfs::driver(&self.root, "infiniband", &port.device))
                    .or_insert_with(BTreeSet::new)
                    .insert(port.name());
            }
        }
        self.listed = listed;
        if self.files.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::NotAvailable,
                "no RDMA port has readable PMA counters (counters/ is absent or says \"N/A (no PMA)\"): the driver keeps \
                 its counters in hw_counters only, which source rdma.hw reads",
            ));
        }
        let told = |(driver, ports): (&String, &BTreeSet<String>)| format!("{driver}: {} ports", ports.len());
        self.path = format!("{PATH} ({})", drivers.iter().map(told).collect::<Vec<_>>().join(", "));
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        // At this pace even what lies still is worth its read.
        self.files.read(true, |series, value, moment| match value {
            Ok(value) => batch.counter(*series, value, moment),
            Err(reason) => {
                batch.fault(reason);
                batch.ask_for_probe();
            }
        });
        Ok(())
    }
}

fn series(port: &RdmaPort, word: &Word, is_extended: bool) -> railwatch_sampling::SeriesDef {
    let kind = match word.shape {
        Shape::Words if !is_extended => Kind::Counter(Counter::saturating(32).scaled(4)),
        Shape::Saturates(64) if !is_extended => Kind::Counter(Counter::saturating(32)),
        shape => shape.kind(),
    };
    port.series(word.name, word.unit, kind, word.direction.map(|d| ("network.io.direction", d.label().to_owned())))
}
