//! From samples to periods, phases and events: one state machine for one host (or one job's share of it).

use crate::correlation::Correlation;
use crate::levels::Levels;
use std::collections::VecDeque;

/// How it looks. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Width of a slot: what is shorter is averaged. The shortest period found is some four slots.
    pub slot_ns: u64,
    /// Lags looked at; the longest period found is half of them, so that two of it are seen.
    pub lags: usize,
    /// Time over which the past is forgotten.
    pub memory_ns: u64,
    /// Disk traffic that counts as reading or writing, bytes per second.
    pub disk_bytes_per_s: f64,
    /// Periods without communication that are a stall.
    pub stall_periods: f64,
}

/// Lags at most, whatever is asked for.
const LAGS_MAX: usize = 8192;

impl Default for Config {
    /// Periods from 0.1 to 15 s.
    fn default() -> Self {
        Self { slot_ns: 20_000_000, lags: 1500, memory_ns: 90_000_000_000, disk_bytes_per_s: 50e6, stall_periods: 1.75 }
    }
}

/// Rates of a host at one instant, averaged over the time since the sample before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When, CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// All ports of the job, both directions, bytes per second.
    pub nic_bytes_per_s: f64,
    /// Bytes read from disks per second.
    pub read_bytes_per_s: f64,
    /// Bytes written to disks per second.
    pub write_bytes_per_s: f64,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Between communications of an iteration.
    Compute,
    /// The NICs are busy.
    Communicate,
    /// The NICs are quiet and disks are written.
    Checkpoint,
    /// Disks are read, and no iteration has been seen yet.
    Restore,
    /// Disks are read between iterations.
    Load,
    /// Nothing of these.
    Idle,
}

/// The iteration period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Period {
    /// Nanoseconds.
    pub period_ns: u64,
    /// How well it explains the waveform, 0 to 1.
    pub correlation: f64,
    /// Estimates of the last seconds agree.
    pub is_stable: bool,
}

/// Something that changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// No communication for [`Config::stall_periods`] while the period was stable.
    Stalled {
        /// Now.
        at_ns: u64,
        /// When communication was seen last.
        last_ns: u64,
        /// The period until then.
        period_ns: u64,
    },
    /// Communication again after a stall.
    Resumed {
        /// Now.
        at_ns: u64,
        /// How long it was silent.
        silent_ns: u64,
    },
    /// Iterations became longer or shorter by more than their noise.
    Drifted {
        /// Now.
        at_ns: u64,
        /// The period before.
        from_ns: u64,
        /// The period now.
        to_ns: u64,
    },
}

/// Slots between two looks at the period.
const JUDGE_EVERY: u64 = 50;
/// Estimates kept.
const ESTIMATES_MAX: usize = 128;
/// Estimates that must agree for a stable period.
const STABLE_COUNT: usize = 10;
/// By how much they may differ from their median.
const STABLE_SHARE: f64 = 0.04;
/// Change of the period that is worth telling.
const DRIFT_SHARE: f64 = 0.08;
/// Estimates that must agree on a change; four times as many where the new one is a multiple or part of the old one, because
/// that is how a mistaken estimate looks.
const DRIFT_COUNT: usize = 12;
/// Slots without a sample that are filled with the last one.
const FILL_MAX: u64 = 3;
/// One megabyte per second: where the logarithmic scale begins.
const FLOOR_BYTES_PER_S: f64 = 1e6;

/// The state machine.
#[derive(Clone, Debug)]
pub struct Detector {
    config: Config,
    correlation: Correlation,
    levels: Levels,
    slot: Option<Slot>,
    judged_at_ns: u64,
    estimates: VecDeque<f64>,
    period: Option<Period>,
    reference_ns: Option<f64>,
    last_communication_ns: Option<u64>,
    /// Silence that counts: neither disks nor missing samples explain it.
    unexplained_ns: u64,
    is_stalled: bool,
    phase: Phase,
}

/// The slot that is being filled.
#[derive(Clone, Copy, Debug)]
struct Slot {
    index: u64,
    sum: Sample,
    count: u32,
}

impl Detector {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let slot_ns = config.slot_ns.max(1);
        let config = Config { slot_ns, lags: config.lags.clamp(16, LAGS_MAX), ..config };
        let memory = to_f64(config.memory_ns) / to_f64(slot_ns);
        Self {
            config,
            correlation: Correlation::new(config.lags, memory),
            levels: Levels::new(memory),
            slot: None,
            judged_at_ns: 0,
            estimates: VecDeque::with_capacity(ESTIMATES_MAX),
            period: None,
            reference_ns: None,
            last_communication_ns: None,
            unexplained_ns: 0,
            is_stalled: false,
            phase: Phase::Idle,
        }
    }

    /// The period now, where one shows.
    #[must_use]
    pub fn period(&self) -> Option<Period> {
        self.period
    }

    /// What the job does now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes the next sample; one that is older than the last is left out. At most one event for each.
    pub fn push(&mut self, sample: Sample) -> Option<Event> {
        let Sample { nic_bytes_per_s: nic, read_bytes_per_s: read, write_bytes_per_s: write, at_ns } = sample;
        if ![nic, read, write].iter().all(|rate| rate.is_finite() && *rate >= 0.0) {
            return None;
        }
        let index = at_ns / self.config.slot_ns;
        let Some(slot) = &mut self.slot else {
            self.slot = Some(Slot { index, sum: sample, count: 1 });
            return None;
        };
        if index < slot.index || at_ns < slot.sum.at_ns {
            return None;
        }
        if index == slot.index {
            slot.sum.nic_bytes_per_s += nic;
            slot.sum.read_bytes_per_s += read;
            slot.sum.write_bytes_per_s += write;
            slot.sum.at_ns = at_ns;
            slot.count += 1;
            return None;
        }
        let done = *slot;
        self.slot = Some(Slot { index, sum: sample, count: 1 });
        let missing = index - done.index - 1;
        let mean = done.mean();
        let mut event = self.take(mean, done.index);
        if missing <= FILL_MAX {
            for slot in 1..=missing {
                event = event.or(self.take(mean, done.index + slot));
            }
        } else {
            self.skip(missing);
        }
        event
    }

    /// Slots that nobody saw.
    fn skip(&mut self, missing: u64) {
        let most = u64::try_from(self.config.lags).unwrap_or(u64::MAX);
        (0..missing.min(most)).for_each(|_| self.correlation.push(None));
        // What happened meanwhile is unknown: silence begins anew.
        self.unexplained_ns = 0;
    }

    /// Takes a whole slot.
    fn take(&mut self, mean: Sample, index: u64) -> Option<Event> {
        let at_ns = index.saturating_add(1).saturating_mul(self.config.slot_ns);
        let level = (1.0 + mean.nic_bytes_per_s / FLOOR_BYTES_PER_S).log2();
        self.correlation.push(Some(level));
        // A stall is no news about what is quiet and what is busy.
        if !self.is_stalled {
            self.levels.push(level);
        }
        let is_communicating = self.levels.threshold().is_some_and(|threshold| level > threshold);
        let is_writing = mean.write_bytes_per_s > self.config.disk_bytes_per_s;
        let is_reading = mean.read_bytes_per_s > self.config.disk_bytes_per_s;
        let stable_ns = self.period.filter(|period| period.is_stable).map(|period| period.period_ns);
        self.phase = match (is_communicating, is_writing, is_reading) {
            (true, ..) => Phase::Communicate,
            (_, true, _) => Phase::Checkpoint,
            (.., true) if self.reference_ns.is_none() => Phase::Restore,
            (.., true) => Phase::Load,
            _ if stable_ns.is_some_and(|period_ns| self.unexplained_ns < 2 * period_ns) => Phase::Compute,
            _ => Phase::Idle,
        };
        let judge_every_ns = JUDGE_EVERY.saturating_mul(self.config.slot_ns);
        let event = self.follow_silence(is_communicating, is_writing || is_reading, stable_ns, at_ns);
        if event.is_some() || self.is_stalled || at_ns < self.judged_at_ns.saturating_add(judge_every_ns) {
            return event;
        }
        self.judged_at_ns = at_ns;
        self.judge(at_ns)
    }

    fn follow_silence(&mut self, communicates: bool, disk: bool, stable_ns: Option<u64>, at_ns: u64) -> Option<Event> {
        if communicates {
            let last_ns = self.last_communication_ns.replace(at_ns).unwrap_or(at_ns);
            self.unexplained_ns = 0;
            let was_stalled = std::mem::take(&mut self.is_stalled);
            return was_stalled.then(|| Event::Resumed { at_ns, silent_ns: at_ns - last_ns });
        }
        if disk {
            self.unexplained_ns = 0;
            return None;
        }
        self.unexplained_ns = self.unexplained_ns.saturating_add(self.config.slot_ns);
        let (period_ns, last_ns) = (stable_ns?, self.last_communication_ns?);
        let is_long = to_f64(self.unexplained_ns) > self.config.stall_periods * to_f64(period_ns);
        if self.is_stalled || !is_long {
            return None;
        }
        self.is_stalled = true;
        Some(Event::Stalled { at_ns, last_ns, period_ns })
    }

    /// Looks for the period.
    fn judge(&mut self, at_ns: u64) -> Option<Event> {
        let before = self.reference_ns.map(|reference_ns| reference_ns / to_f64(self.config.slot_ns));
        // Without quiet and busy times there is no communication whose period this could be.
        let peak = self.levels.threshold().and_then(|_| self.correlation.period(before));
        let Some(peak) = peak else {
            self.estimates.clear();
            self.period = None;
            return None;
        };
        if self.estimates.len() == ESTIMATES_MAX {
            self.estimates.pop_front();
        }
        self.estimates.push_back(peak.lag * to_f64(self.config.slot_ns));
        let recent = self.recent(STABLE_COUNT)?;
        let (median_ns, spread) = (median(&recent), |estimates: &[f64], of: f64| {
            estimates.iter().map(|estimate| (estimate / of - 1.0).abs()).fold(0.0, f64::max)
        });
        let is_stable = spread(&recent, median_ns) <= STABLE_SHARE;
        self.period = Some(Period { period_ns: to_u64(median_ns), correlation: peak.correlation, is_stable });
        let reference_ns = match self.reference_ns {
            Some(reference_ns) => reference_ns,
            None if is_stable => {
                self.reference_ns = Some(median_ns);
                return None;
            }
            None => return None,
        };
        let ratio = median_ns / reference_ns;
        let longer = ratio.max(1.0 / ratio);
        if longer - 1.0 < DRIFT_SHARE {
            // Slow change within the noise is followed.
            self.reference_ns = Some(reference_ns + 0.02 * (median_ns - reference_ns));
            return None;
        }
        let is_multiple = longer > 1.5 && (longer - longer.round()).abs() < 0.06 * longer;
        let agreeing = self.recent(if is_multiple { 4 * DRIFT_COUNT } else { DRIFT_COUNT })?;
        if spread(&agreeing, median_ns) > STABLE_SHARE {
            return None;
        }
        self.reference_ns = Some(median_ns);
        Some(Event::Drifted { at_ns, from_ns: to_u64(reference_ns), to_ns: to_u64(median_ns) })
    }

    /// The last estimates, where there are as many.
    fn recent(&self, count: usize) -> Option<Vec<f64>> {
        let from = self.estimates.len().checked_sub(count)?;
        Some(self.estimates.range(from..).copied().collect())
    }
}

impl Slot {
    fn mean(&self) -> Sample {
        let Sample { at_ns, nic_bytes_per_s, read_bytes_per_s, write_bytes_per_s } = self.sum;
        let count = f64::from(self.count);
        Sample {
            at_ns,
            nic_bytes_per_s: nic_bytes_per_s / count,
            read_bytes_per_s: read_bytes_per_s / count,
            write_bytes_per_s: write_bytes_per_s / count,
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "times for ratios")]
fn to_f64(ns: u64) -> f64 {
    ns as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a period, above zero and short")]
fn to_u64(ns: f64) -> u64 {
    ns as u64
}
