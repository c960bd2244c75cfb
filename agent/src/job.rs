//! The job on this host, from outside: whether its iterations go on.
//!
//! In: the windows of NICs and disks on their way to the outbox, and whether any GPU process runs. Out: signals, when iterations
//! stall, go on again, or change their length. Windows are 1 s long, so that periods from 4 s to two minutes are found; what
//! is shorter shows no contrast and is passed over. Never: a word while no GPU process runs: the end of a job is a silence too.

use crate::outbox::Outbox;
use crate::shared::Shared;
use railwatch_phases::{Config, Detector, Event, Sample};
use railwatch_sampling::{Entity, Moment, SeriesId, Severity, Signal, Sink, SinkFull, WindowFrame};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

const SECOND_NS: u64 = 1_000_000_000;
/// A window's sources have spoken by then; what comes later is left out.
const SETTLED_NS: u64 = 2_500_000_000;
/// A NIC that does not move says so every ten seconds; after this, nobody reads it any more.
const UNREAD_NS: u64 = 15 * SECOND_NS;
/// Windows without a word that are filled with silence; after more, it begins anew.
const FILLED_MAX: u64 = 30;
/// Series whose meaning is remembered.
const ROLES_MAX: usize = 20_000;

/// The signals of this room.
pub const SIGNALS: [&str; 3] = ["job.stalled", "job.resumed", "job.period.drifted"];

/// Periods of up to two minutes, in slots of a window.
const CONFIG: Config =
    Config { slot_ns: SECOND_NS, lags: 256, memory_ns: 1800 * SECOND_NS, disk_bytes_per_s: 50e6, stall_periods: 1.75 };

/// What a series is to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Nic,
    Read,
    Write,
    Other,
}

/// Stands before the outbox and listens.
pub struct JobTap {
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    job: Mutex<Job>,
}

impl JobTap {
    /// In front of this outbox.
    pub fn new(outbox: Arc<Outbox>, shared: Arc<Shared>) -> Self {
        Self { outbox, shared, job: Mutex::default() }
    }

    fn role(&self, id: SeriesId) -> Role {
        let Some(def) = self.shared.catalog.get(id) else { return Role::Other };
        match (def.name(), def.label("disk.io.direction")) {
            ("hw.network.io" | "rdma.port.io" | "rdma.port.hw.io", _) => Role::Nic,
            ("disk.io", Some("read")) => Role::Read,
            ("disk.io", Some("write")) => Role::Write,
            _ => Role::Other,
        }
    }
}

impl Sink for JobTap {
    fn window(&self, frame: WindowFrame) -> Result<(), SinkFull> {
        let has_job = self.shared.gpu().state.processes.iter().any(|process| process.exited_unix_ns.is_none());
        let events = {
            // A panic under this lock leaves sums of a window behind, which are dropped with it.
            let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
            job.take(&frame, has_job, |id| self.role(id))
        };
        for event in events {
            // Counted by the outbox.
            let _ = self.outbox.signal(signal(event));
        }
        self.outbox.window(frame)
    }

    fn signal(&self, signal: Signal) -> Result<(), SinkFull> {
        self.outbox.signal(signal)
    }
}

/// The sums of windows that are not settled yet, and the detector.
#[derive(Default)]
struct Job {
    detector: Option<Detector>,
    roles: HashMap<SeriesId, Role>,
    open: BTreeMap<u64, (f64, f64, f64)>,
    settled_ns: u64,
    nic_read_ns: u64,
}

impl Job {
    fn take(&mut self, frame: &WindowFrame, has_job: bool, mut role: impl FnMut(SeriesId) -> Role) -> Vec<Event> {
        if !has_job {
            (self.detector, self.open, self.settled_ns) = (None, BTreeMap::new(), 0);
            return Vec::new();
        }
        if self.roles.len() >= ROLES_MAX {
            self.roles.clear();
        }
        let end_ns = frame.end_mono_ns;
        for (id, delta) in frame.series.iter().zip(&frame.delta) {
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let bytes = *delta as f64;
            let role = *self.roles.entry(*id).or_insert_with(|| role(*id));
            if role == Role::Other || end_ns <= self.settled_ns {
                continue;
            }
            let (nic, read, write) = self.open.entry(end_ns).or_default();
            match role {
                Role::Nic => {
                    *nic += bytes;
                    self.nic_read_ns = self.nic_read_ns.max(end_ns);
                }
                Role::Read => *read += bytes,
                Role::Write => *write += bytes,
                Role::Other => {}
            }
        }
        self.settle(end_ns.saturating_sub(SETTLED_NS))
    }

    /// Hands over every window that ended by `until_ns`; one in which nothing moved is silence.
    fn settle(&mut self, until_ns: u64) -> Vec<Event> {
        let until_ns = until_ns - until_ns % SECOND_NS;
        if self.settled_ns == 0 || until_ns.saturating_sub(self.settled_ns) > FILLED_MAX * SECOND_NS {
            self.settled_ns = self.settled_ns.max(until_ns);
        }
        let detector = self.detector.get_or_insert_with(|| Detector::new(CONFIG));
        let mut events = Vec::new();
        while self.settled_ns + SECOND_NS <= until_ns {
            self.settled_ns += SECOND_NS;
            let sums = self.open.remove(&self.settled_ns);
            if self.settled_ns > self.nic_read_ns + UNREAD_NS {
                continue;
            }
            let (nic_bytes_per_s, read_bytes_per_s, write_bytes_per_s) = sums.unwrap_or_default();
            // The middle of the window, so that each falls into a slot of its own.
            let at_ns = self.settled_ns - SECOND_NS / 2;
            events.extend(detector.push(Sample { at_ns, nic_bytes_per_s, read_bytes_per_s, write_bytes_per_s }));
        }
        self.open = self.open.split_off(&(self.settled_ns + 1));
        events
    }
}

fn signal(event: Event) -> Signal {
    let seconds = |ns: u64| std::time::Duration::from_nanos(ns).as_secs_f64();
    let (name, severity, at_ns, value, previous, summary) = match event {
        Event::Stalled { at_ns, last_ns, period_ns } => {
            let silent_s = seconds(at_ns.saturating_sub(last_ns));
            let text = format!(
                "the job on this host has not communicated for {silent_s:.0} s; its iterations took {:.1} s",
                seconds(period_ns)
            );
            (SIGNALS[0], Severity::Warning, at_ns, silent_s, Some(seconds(period_ns)), text)
        }
        Event::Resumed { at_ns, silent_ns } => {
            let text = format!("the job on this host communicates again after {:.0} s", seconds(silent_ns));
            (SIGNALS[1], Severity::Info, at_ns, seconds(silent_ns), None, text)
        }
        Event::Drifted { at_ns, from_ns, to_ns } => {
            let (from, to) = (seconds(from_ns), seconds(to_ns));
            let text = format!("the iterations of the job on this host took {from:.2} s and now take {to:.2} s");
            (SIGNALS[2], Severity::Info, at_ns, to, Some(from), text)
        }
    };
    Signal {
        name,
        // Of no one series.
        series: SeriesId(0),
        entity: Entity { kind: "host", name: "job".into() },
        severity,
        moment: Moment::between(at_ns.saturating_sub(SECOND_NS), at_ns),
        value,
        previous,
        unit: "s",
        summary,
        attributes: Vec::new(),
        incomplete_since_mono_ns: None,
        suppressed: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: SeriesId = SeriesId(1);
    const CLOCK: SeriesId = SeriesId(2);

    fn role(id: SeriesId) -> Role {
        if id == NIC { Role::Nic } else { Role::Other }
    }

    /// A window ending at this second; `None`: the NIC did not move and has no row.
    fn window(second: u64, bytes: Option<u64>) -> WindowFrame {
        let mut frame = WindowFrame {
            end_mono_ns: second * SECOND_NS,
            series: vec![CLOCK],
            delta: vec![0],
            ..WindowFrame::default()
        };
        if let Some(bytes) = bytes {
            frame.series.push(NIC);
            frame.delta.push(bytes);
        }
        frame
    }

    /// Iterations of 12 s, the last four of which communicate, up to `stall`; then a row of zero every ten seconds where the NIC is
    /// still read. The seconds and names of all events.
    fn run(seconds: u64, stall: u64, is_read: bool, has_job: impl Fn(u64) -> bool) -> Vec<(u64, &'static str)> {
        let (mut job, mut told) = (Job::default(), Vec::new());
        for second in 1000..1000 + seconds {
            let bytes = match second {
                _ if second >= stall => (is_read && second % 10 == 0).then_some(0),
                _ if second % 12 >= 8 => Some(40_000_000_000),
                _ => None,
            };
            let events = job.take(&window(second, bytes), has_job(second), role);
            told.extend(events.into_iter().map(|event| (second, signal(event).name)));
        }
        told
    }

    #[test]
    fn a_job_that_stops_communicating_is_told_within_two_iterations() {
        let told = run(2000, 2500, true, |_| true);
        assert_eq!(told.iter().map(|(_, name)| *name).collect::<Vec<_>>(), ["job.stalled"], "{told:?}");
        assert!((2500 + 12..=2500 + 27).contains(&told[0].0), "two iterations and the time to settle: {told:?}");
    }

    #[test]
    fn a_job_that_goes_on_that_ended_or_that_nobody_reads_is_not_stalled() {
        assert_eq!(run(2000, u64::MAX, true, |_| true), []);
        assert_eq!(run(2000, 2500, true, |second| second < 2501), [], "its processes ended");
        assert_eq!(run(2000, 2500, true, |_| false), [], "no GPU process at all");
        assert_eq!(run(2000, 2500, false, |_| true), [], "the NICs are read no more");
    }

    #[test]
    fn a_late_window_and_a_long_gap_do_no_harm() {
        let mut job = Job::default();
        for second in [1000, 1001, 5, 1002, 900_000, 3, 900_001, 900_004] {
            assert_eq!(job.take(&window(second, Some(7)), true, role), []);
            assert!(job.open.len() <= 4);
        }
    }
}
