//! Time that tasks of this host stalled for want of a resource (pressure stall information).
//!
//! In: `/proc/pressure/{cpu,memory,io,irq}`; where procfs has none, `{cpu,memory,io,irq}.pressure` of the cgroup v2 root, which
//! shows the same (kernel/cgroup/cgroup.c, `cgroup_*_pressure_show`). Out: the totals in microseconds, as counters: `some` (at least
//! one task waited) and `full` (all did). The averages that the kernel computes are not read: windows hold the exact rate.
//! A kernel without PSI, or one booted with `psi=0`, has the source off.

use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{KeptFile, failed, number};
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Source, Unavailable,
};
use std::path::PathBuf;
use std::time::Duration;

/// Resource, series of `some`, series of `full`.
const RESOURCES: [(&str, &str, &str); 4] = [
    ("cpu", "host.pressure.cpu.some", "host.pressure.cpu.full"),
    ("memory", "host.pressure.memory.some", "host.pressure.memory.full"),
    ("io", "host.pressure.io.some", "host.pressure.io.full"),
    ("irq", "host.pressure.irq.some", "host.pressure.irq.full"),
];

/// Pressure of the whole host.
pub(crate) struct PsiSource {
    procfs: PathBuf,
    sysfs: PathBuf,
    files: Vec<Pressure>,
}

struct Pressure {
    file: KeptFile,
    some: Option<SeriesHandle>,
    full: Option<SeriesHandle>,
}

impl PsiSource {
    pub(crate) fn new(procfs: PathBuf, sysfs: PathBuf) -> Self {
        Self { procfs, sysfs, files: Vec::new() }
    }
}

impl Source for PsiSource {
    fn name(&self) -> &'static str {
        "psi"
    }

    fn kernel_path(&self) -> &str {
        "/proc/pressure/{cpu,memory,io,irq}"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange {
            min: Duration::from_millis(10),
            default: Duration::from_millis(100),
            max: Duration::from_secs(10),
        }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.files.clear();
        for (resource, some, full) in RESOURCES {
            let of_host = self.procfs.join("pressure").join(resource);
            let of_root = self.sysfs.join("fs/cgroup").join(format!("{resource}.pressure"));
            let Some(file) = KeptFile::open(&of_host).or_else(|_| KeptFile::open(&of_root)).ok() else { continue };
            let mut buffer = [0; 256];
            let Ok(text) = file.attribute(&mut buffer) else { continue };
            let totals = totals(text);
            // Of interrupts there is only `full`.
            let mut series =
                |name: &'static str, total: Option<u64>| total.and_then(|_| declare.series(definition(name, resource)));
            let (some, full) = (series(some, totals.0), series(full, totals.1));
            if some.is_some() || full.is_some() {
                self.files.push(Pressure { file, some, full });
            }
        }
        if self.files.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::Missing,
                format!(
                    "no pressure stall information below {} or in the cgroup v2 root: the kernel needs CONFIG_PSI, and psi=1 on its \
                     command line where it is off by default",
                    self.procfs.join("pressure").display()
                ),
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let mut buffer = [0; 256];
        for Pressure { file, some, full } in &self.files {
            let before_ns = monotonic_ns();
            match file.attribute(&mut buffer) {
                Ok(text) => {
                    let moment = Moment::between(before_ns, monotonic_ns());
                    let totals = totals(text);
                    for (series, total) in [(some, totals.0), (full, totals.1)] {
                        match (series, total) {
                            (Some(series), Some(total)) => batch.counter(*series, total, moment),
                            (Some(_), None) => batch.fault(ErrorReason::Malformed),
                            (None, _) => {}
                        }
                    }
                }
                Err(reason) => failed(batch, reason),
            }
        }
        Ok(())
    }
}

fn definition(name: &'static str, resource: &str) -> SeriesDef {
    // No more than a microsecond a microsecond, and some slack for a late reading.
    let counter = Counter { max_per_s: 2e6, ..Counter::wrapping(64) };
    SeriesDef::new(name, "us", Kind::Counter(counter), Entity { kind: "host", name: resource.to_owned() }, [])
}

/// `total=` of the lines `some` and `full` (Documentation/accounting/psi.rst).
fn totals(text: &[u8]) -> (Option<u64>, Option<u64>) {
    let of = |word: &[u8]| {
        let line = text.split(|byte| *byte == b'\n').find(|line| line.starts_with(word))?;
        let total = line.split(|byte| *byte == b' ').find_map(|field| field.strip_prefix(b"total="))?;
        number(total).ok()
    };
    (of(b"some "), of(b"full "))
}

#[cfg(test)]
mod tests {
    use super::totals;

    #[test]
    fn totals_are_found_by_their_line_and_never_made_up() {
        for (text, expected) in [
            ("some avg10=0.00 avg60=0.00 avg300=0.00 total=123\nfull avg10=0.00 total=7\n", (Some(123), Some(7))),
            ("full avg10=1.00 avg60=0.00 avg300=0.00 total=9\n", (None, Some(9))),
            ("some avg10=0.00 total=\nfull avg10=0.00\n", (None, None)),
            ("some avg10=0.00 total=-5\n", (None, None)),
            ("", (None, None)),
        ] {
            assert_eq!(totals(text.as_bytes()), expected, "{text:?}");
        }
    }
}
