//! Whether the host's clock is kept by something, how sure the kernel is of it, and whether that something is PTP.
//!
//! In: adjtimex(2), which reads only (include/uapi/linux/timex.h), `/sys/class/ptp`, and the names of the programs that keep
//! clocks. Out: whether it is synchronised, its greatest and its estimated error, the offset and frequency being corrected, and
//! 1 where `phc2sys` keeps it from a network card's clock. Never: a clock set, a program's command line read.
//!
//! The errors are what the program that keeps the clock told the kernel: chronyd and ntpd tell what they know, `phc2sys` tells
//! nothing but that it is synchronised, so that there the greatest error is not the uncertainty of PTP.

use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::files::{line, names, numbered};
use railwatch_sampling::{
    Batch, CadenceRange, Declare, Entity, Kind, Moment, ReadError, SeriesDef, SeriesHandle, Source, Unavailable,
};
use std::path::PathBuf;
use std::time::Duration;

/// Programs that keep the clock from a PTP clock of this host.
const PTP_PROGRAMS: [&str; 2] = ["phc2sys", "timemaster"];
/// Processes whose names are looked at.
const PROCESSES_MAX: usize = 100_000;
/// Probes between two looks at all processes.
const LOOK_EVERY: u32 = 6;

const SERIES: [(&str, &str); 6] = [
    ("host.clock.synchronized", "1"),
    ("host.clock.error.max", "us"),
    ("host.clock.error.estimated", "us"),
    ("host.clock.offset", "us"),
    ("host.clock.frequency", "[ppm]"),
    ("host.clock.ptp", "1"),
];

/// The host's clock.
pub(crate) struct ClockSource {
    procfs: PathBuf,
    sysfs: PathBuf,
    series: [Option<SeriesHandle>; SERIES.len()],
    probes: u32,
    is_ptp: bool,
}

/// What adjtimex(2) says, in the units of [`SERIES`].
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    is_synchronized: bool,
    error_max_us: f64,
    error_estimated_us: f64,
    offset_us: f64,
    frequency_ppm: f64,
}

#[expect(unsafe_code, reason = "a system call without a safe form in the crates at hand")]
mod system {
    /// The kernel's clock state, and adjtimex's answer.
    pub(super) fn read() -> std::io::Result<(libc::timex, libc::c_int)> {
        // SAFETY: all bits zero is a value of this structure of integers; `modes` 0 changes nothing.
        let mut timex: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: a valid place for the answer.
        let answer = unsafe { libc::adjtimex(&raw mut timex) };
        if answer < 0 { Err(std::io::Error::last_os_error()) } else { Ok((timex, answer)) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "times of seconds in microseconds or nanoseconds")]
#[expect(clippy::useless_conversion, reason = "the fields are narrower on some architectures")]
fn state(timex: &libc::timex, answer: libc::c_int) -> State {
    let has_nanoseconds = timex.status & libc::STA_NANO != 0;
    let offset = i64::from(timex.offset) as f64;
    State {
        is_synchronized: answer != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0,
        error_max_us: i64::from(timex.maxerror) as f64,
        error_estimated_us: i64::from(timex.esterror) as f64,
        offset_us: if has_nanoseconds { offset / 1e3 } else { offset },
        // Parts per million with a binary fraction of 16 bits.
        frequency_ppm: i64::from(timex.freq) as f64 / 65_536.0,
    }
}

impl ClockSource {
    pub(crate) fn new(procfs: PathBuf, sysfs: PathBuf) -> Self {
        Self { procfs, sysfs, series: [None; SERIES.len()], probes: 0, is_ptp: false }
    }

    /// A PTP clock is there, and a program that keeps the host's clock from it runs.
    fn is_kept_by_ptp(&self) -> bool {
        if numbered(&self.sysfs.join("class/ptp"), "ptp").is_empty() {
            return false;
        }
        let processes = names(&self.procfs).into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        processes.take(PROCESSES_MAX).any(|process| {
            line(self.procfs.join(process).join("comm")).is_some_and(|name| PTP_PROGRAMS.contains(&name.as_str()))
        })
    }
}

impl Source for ClockSource {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn kernel_path(&self) -> &str {
        "adjtimex(2), /sys/class/ptp"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(1), default: Duration::from_secs(5), max: Duration::from_secs(60) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        system::read().map_err(|error| Unavailable::new((&error).into(), format!("adjtimex(2): {error}")))?;
        if self.probes.is_multiple_of(LOOK_EVERY) {
            self.is_ptp = self.is_kept_by_ptp();
        }
        self.probes = self.probes.wrapping_add(1);
        self.series = SERIES.map(|(name, unit)| {
            let entity = Entity { kind: "host", name: "clock".into() };
            declare.series(SeriesDef::new(name, unit, Kind::Gauge, entity, []))
        });
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let before_ns = monotonic_ns();
        let (timex, answer) = system::read().map_err(|error| ReadError::io("adjtimex(2)", &error))?;
        let moment = Moment::between(before_ns, monotonic_ns());
        let State { is_synchronized, error_max_us, error_estimated_us, offset_us, frequency_ppm } =
            state(&timex, answer);
        let values = [
            f64::from(u8::from(is_synchronized)),
            error_max_us,
            error_estimated_us,
            offset_us,
            frequency_ppm,
            f64::from(u8::from(self.is_ptp)),
        ];
        for (series, value) in self.series.iter().zip(values) {
            if let Some(series) = series {
                batch.gauge(*series, value, moment);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn the_kernels_state_is_read_in_its_units() {
        let (mut timex, _) = system::read().unwrap();
        (timex.maxerror, timex.esterror, timex.offset, timex.freq) = (16_000_000, 250, -1_500, 65_536 * 3);
        for (status, answer, synchronized, offset) in [
            (0, libc::TIME_OK, true, -1_500.0),
            (libc::STA_NANO, libc::TIME_OK, true, -1.5),
            (libc::STA_UNSYNC, libc::TIME_OK, false, -1_500.0),
            (0, libc::TIME_ERROR, false, -1_500.0),
        ] {
            timex.status = status;
            let expected = State {
                is_synchronized: synchronized,
                error_max_us: 16e6,
                error_estimated_us: 250.0,
                offset_us: offset,
                frequency_ppm: 3.0,
            };
            assert_eq!(state(&timex, answer), expected);
        }
    }

    #[test]
    fn ptp_needs_a_clock_and_a_program_that_follows_it() {
        for (clock, program, expected) in
            [(true, "phc2sys", true), (true, "chronyd", false), (false, "phc2sys", false), (true, "phc2sysx", false)]
        {
            let tree = tempfile::tempdir().unwrap();
            let (proc, sys) = (tree.path().join("proc"), tree.path().join("sys"));
            std::fs::create_dir_all(proc.join("4711")).unwrap();
            std::fs::create_dir_all(proc.join("sys")).unwrap();
            std::fs::write(proc.join("4711/comm"), format!("{program}\n")).unwrap();
            if clock {
                std::fs::create_dir_all(sys.join("class/ptp/ptp0")).unwrap();
            }
            assert_eq!(ClockSource::new(proc, sys).is_kept_by_ptp(), expected, "{clock} {program}");
        }
    }
}
