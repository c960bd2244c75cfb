//! Machine checks, as the kernel counts their interrupts.
//!
//! In: rows of `/proc/interrupts` (arch/x86/kernel/irq.c, `arch_show_interrupts`), summed over all processors. Out: machine-check
//! exceptions, deferred-error and threshold interrupts, polls. `/sys/devices/system/machinecheck` holds settings and no count,
//! and is not read. On a host of many processors the file is megabytes long and is made anew at each read: hence the slow
//! cadence; the helper that reads the kernel's log tells of a machine check at once. Other architectures have no such rows.

use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{KeptFile, number};
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Source, Unavailable,
};
use std::path::PathBuf;
use std::time::Duration;

/// Row, series.
const ROWS: [(&str, &str); 5] = [
    ("MCE:", "host.machine_check.exceptions"),
    ("DFR:", "host.machine_check.deferred"),
    ("THR:", "host.machine_check.thresholds"),
    ("MCP:", "host.machine_check.polls"),
    ("TRM:", "host.thermal.interrupts"),
];
/// Longest answer read: 1,024 processors of 600 interrupts.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// Machine-check rows of the interrupt table.
pub(crate) struct MceSource {
    path: PathBuf,
    file: Option<KeptFile>,
    buffer: Vec<u8>,
    rows: Vec<(&'static str, SeriesHandle)>,
}

impl MceSource {
    pub(crate) fn new(procfs: PathBuf) -> Self {
        Self { path: procfs.join("interrupts"), file: None, buffer: vec![0; 32 * 1024], rows: Vec::new() }
    }

    /// What the file holds now, with room made for it up to the bound.
    fn text(&mut self) -> Result<&[u8], ErrorReason> {
        let file = self.file.as_ref().ok_or(ErrorReason::Missing)?;
        loop {
            match file.read(&mut self.buffer).map(<[u8]>::len) {
                Ok(length) => return Ok(&self.buffer[..length]),
                Err(ErrorReason::Overrun) if self.buffer.len() < BYTES_MAX => {
                    self.buffer.resize(self.buffer.len() * 2, 0)
                }
                Err(reason) => return Err(reason),
            }
        }
    }
}

impl Source for MceSource {
    fn name(&self) -> &'static str {
        "mce"
    }

    fn kernel_path(&self) -> &str {
        "/proc/interrupts, rows MCE DFR THR MCP TRM"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(1), default: Duration::from_secs(10), max: Duration::from_secs(300) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.rows.clear();
        let file = KeptFile::open(&self.path)
            .map_err(|error| Unavailable::new((&error).into(), format!("open {}: {error}", self.path.display())))?;
        self.file = Some(file);
        let text = self.text().map_err(|reason| Unavailable::new(reason, "/proc/interrupts cannot be read"))?;
        let present: Vec<_> = ROWS.into_iter().filter(|(row, _)| sum(text, row).is_some()).collect();
        for (row, series) in present {
            let entity = Entity { kind: "host", name: "cpu".into() };
            let def = SeriesDef::new(series, "{interrupt}", Kind::Counter(Counter::wrapping(64)), entity, []);
            self.rows.extend(declare.series(def).map(|series| (row, series)));
        }
        if self.rows.is_empty() {
            return Err(Unavailable::new(
                ErrorReason::NotAvailable,
                "/proc/interrupts has no machine-check rows: this architecture or hypervisor reports none there",
            ));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let rows = std::mem::take(&mut self.rows);
        let before_ns = monotonic_ns();
        let outcome = self.text().map(|text| {
            let moment = Moment::between(before_ns, monotonic_ns());
            for (row, series) in &rows {
                match sum(text, row) {
                    Some(total) => batch.counter(*series, total, moment),
                    None => batch.fault(ErrorReason::Malformed),
                }
            }
        });
        self.rows = rows;
        outcome.map_err(|reason| ReadError {
            reason,
            doing: "read /proc/interrupts",
            source_text: reason.name().to_owned(),
        })
    }
}

/// The sum over all processors of the row that begins with `row`.
fn sum(text: &[u8], row: &str) -> Option<u64> {
    // These rows are the last of hundreds.
    let line = text.rsplit(|byte| *byte == b'\n').find(|line| line.trim_ascii_start().starts_with(row.as_bytes()))?;
    let counts = line.trim_ascii_start()[row.len()..].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut counts = counts.map_while(|word| number(word).ok()).peekable();
    counts.peek()?;
    Some(counts.fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::sum;

    const TEXT: &str = "           CPU0       CPU1\n  0:         44          0  IR-IO-APIC  2-edge  timer\n\
                        NMI:          1          2   Non-maskable interrupts\n\
                        THR:          0          0   Threshold APIC interrupts\n\
                        MCE:          1         41   Machine check exceptions\n\
                        MCP:        288        289   Machine check polls\nERR:          0\n";

    #[test]
    fn a_row_is_summed_over_processors_and_an_absent_one_is_not_zero() {
        for (row, expected) in [("MCE:", Some(42)), ("MCP:", Some(577)), ("THR:", Some(0)), ("DFR:", None)] {
            assert_eq!(sum(TEXT.as_bytes(), row), expected, "{row}");
        }
        assert_eq!(sum(b"MCE:   Machine check exceptions\n", "MCE:"), None);
    }
}
