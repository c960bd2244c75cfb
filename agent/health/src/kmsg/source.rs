//! The agent's half: records of the helper in, signals out at once.
//!
//! In: datagrams on a socket of our own. Out: a signal for each record, at most one a second of a kind and entity with the
//! number left out, and counters: records by kind, lines, losses. A helper that has said nothing for half a minute is gone, and
//! the source is off until it speaks. Never: a datagram believed beyond its bounds, a wait for the helper.

use super::address::{Address, Finding, Together};
use super::helper::ALIVE_EVERY;
use super::record::{MESSAGE_BYTES_MAX, Message, Record};
use super::tell::{Words, kinds, words};
use crate::hearing::Hearing;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, HOLD_OFF, Kind, Moment, ReadError, SeriesDef,
    SeriesHandle, SeriesId, Severity, Signal, Source, Unavailable,
};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

/// Silence after which the helper is taken for gone: three signs of life.
const SILENCE_NS: u64 = 3 * ALIVE_EVERY.as_secs() * 1_000_000_000;
/// Pairs of kind and entity whose repetition is held back; beyond them all are told.
const HELD_MAX: usize = 256;

const HOLD_OFF_NS: u64 = HOLD_OFF.as_secs() * 1_000_000_000;

/// Records of the kernel's log, from the helper.
pub struct KmsgSource {
    hearing: Hearing,
    heard_at_ns: Option<u64>,
    lines: u64,
    lost: u64,
    counts: Vec<Count>,
    totals: Option<(SeriesHandle, SeriesHandle)>,
    held: HashMap<(usize, String), Held>,
    memory: Together,
}

/// Records of one kind.
struct Count {
    kind: &'static str,
    records: u64,
    series: Option<SeriesHandle>,
    id: SeriesId,
}

struct Held {
    until_ns: u64,
    suppressed: u64,
}

impl KmsgSource {
    /// Listening on `path`, once probed.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let counts = kinds()
            .into_iter()
            .map(|kind| Count { kind, records: 0, series: None, id: record_series(kind).id() })
            .collect();
        Self {
            hearing: Hearing::new(path, "health.kmsg_socket", MESSAGE_BYTES_MAX),
            heard_at_ns: None,
            lines: 0,
            lost: 0,
            counts,
            totals: None,
            held: HashMap::new(),
            memory: Together::default(),
        }
    }

    /// Takes what waits, up to a turn's worth.
    fn take(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        for message in self.hearing.take(batch)? {
            self.note(message, batch);
        }
        Ok(())
    }

    fn note(&mut self, message: Message, batch: &mut Batch) {
        let Message { lines, lost, record } = message;
        (self.lines, self.lost) = (lines, lost);
        let now_ns = monotonic_ns();
        self.heard_at_ns = Some(now_ns);
        let Some(record) = record else { return };
        let Some(words) = words(&record) else {
            batch.fault(ErrorReason::Malformed);
            return;
        };
        let count = &mut self.counts[words.kind];
        count.records += 1;
        let (series, total) = (count.id, count.records);
        if let Some(finding) = self.together(&record, now_ns) {
            batch.signal(together(finding, series, now_ns));
        }
        if let Some(suppressed) = self.may_tell(&words, now_ns) {
            batch.signal(signal(words, &record, series, total, suppressed, now_ns));
        }
    }

    /// What a corrected memory error makes known together with those before it.
    fn together(&mut self, record: &Record, now_ns: u64) -> Option<Finding> {
        let field = |name: &str| record.fields.get(name).map(String::as_str);
        let is_one = record.kind == "host.memory.corrected";
        let address = Address::parse(field("controller")?, field("detail")?).filter(|_| is_one)?;
        self.memory.take(address, now_ns)
    }

    /// How many like it were held back before, where it may be told now.
    fn may_tell(&mut self, words: &Words, now_ns: u64) -> Option<u64> {
        if self.held.len() >= HELD_MAX {
            self.held.retain(|_, held| now_ns < held.until_ns);
        }
        let key = (words.kind, format!("{} {}", words.entity.name, words.value));
        match self.held.get_mut(&key) {
            Some(held) if now_ns < held.until_ns => {
                held.suppressed += 1;
                None
            }
            Some(held) => {
                held.until_ns = now_ns + HOLD_OFF_NS;
                Some(std::mem::take(&mut held.suppressed))
            }
            None => {
                if self.held.len() < HELD_MAX {
                    self.held.insert(key, Held { until_ns: now_ns + HOLD_OFF_NS, suppressed: 0 });
                }
                Some(0)
            }
        }
    }
}

impl Source for KmsgSource {
    fn name(&self) -> &'static str {
        "kmsg"
    }

    fn kernel_path(&self) -> &str {
        "/dev/kmsg, through railwatch-agent kmsg-helper"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_millis(100), default: Duration::from_secs(1), max: Duration::from_secs(10) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.hearing.bind()?;
        let is_heard = self.heard_at_ns.is_some_and(|at| monotonic_ns().saturating_sub(at) < SILENCE_NS);
        let is_waiting = || {
            let mut fds = [nix::poll::PollFd::new(self.hearing.fd()?, nix::poll::PollFlags::POLLIN)];
            Some(nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0))
        };
        if !is_heard && is_waiting() != Some(true) {
            return Err(Unavailable::new(
                ErrorReason::TimedOut,
                format!(
                    "the helper that reads the kernel's log has not been heard on {}: systemctl enable --now railwatch-kmsg",
                    self.hearing.path().display()
                ),
            ));
        }
        for count in &mut self.counts {
            count.series = declare.series(record_series(count.kind));
        }
        let mut total = |name, unit| {
            let entity = Entity { kind: "host", name: "kmsg".into() };
            declare.series(SeriesDef::new(name, unit, Kind::Counter(Counter::wrapping(64)), entity, []))
        };
        self.totals = total("host.kmsg.lines", "{record}").zip(total("host.kmsg.lost", "{record}"));
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let before_ns = monotonic_ns();
        self.take(batch)?;
        let moment = Moment::between(before_ns, monotonic_ns());
        for Count { records, series, .. } in &self.counts {
            if let Some(series) = series {
                batch.counter(*series, *records, moment);
            }
        }
        if let Some((lines, lost)) = self.totals {
            batch.counter(lines, self.lines, moment);
            batch.counter(lost, self.lost, moment);
        }
        if self.heard_at_ns.is_some_and(|at| moment.at_ns.saturating_sub(at) >= SILENCE_NS) {
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

/// The signal of memory errors that lie together.
pub const TOGETHER: &str = "host.memory.pattern";

fn together(finding: Finding, series: SeriesId, now_ns: u64) -> Signal {
    let Finding { module, pattern, errors } = finding;
    let pattern = pattern.name();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred at most")]
    let value = errors as f64;
    Signal {
        name: TOGETHER,
        series,
        entity: Entity { kind: "host", name: "memory".into() },
        severity: Severity::Warning,
        moment: Moment::between(now_ns, now_ns),
        value,
        previous: None,
        unit: "{error}",
        summary: format!("host memory: {errors} corrected errors of a day lie in one {pattern} of {module}"),
        attributes: vec![("cause", pattern.to_owned()), ("dimm", module), ("origin", "kmsg".to_owned())],
        incomplete_since_mono_ns: None,
        suppressed: 0,
    }
}

fn record_series(kind: &'static str) -> SeriesDef {
    let entity = Entity { kind: "host", name: "kmsg".into() };
    let counter = Kind::Counter(Counter::wrapping(64));
    SeriesDef::new("host.kmsg.records", "{record}", counter, entity, [("kind", kind.to_owned())])
}

fn signal(words: Words, record: &Record, series: SeriesId, total: u64, suppressed: u64, now_ns: u64) -> Signal {
    let Words { kind: _, name, entity, severity, value, summary, mut attributes } = words;
    attributes.push(("records", total.to_string()));
    // The kernel's log has a clock of its own, near CLOCK_MONOTONIC: the line was written between the two, whichever is first.
    let (written_ns, read_ns) = (record.at_us.saturating_mul(1000), record.read_ns.min(now_ns));
    let moment = Moment::between(written_ns.min(read_ns), written_ns.max(read_ns).min(now_ns));
    Signal {
        name,
        series,
        entity,
        severity,
        moment,
        value,
        previous: None,
        unit: "1",
        summary,
        attributes,
        incomplete_since_mono_ns: None,
        suppressed,
    }
}
