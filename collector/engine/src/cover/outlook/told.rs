//! What sources of hosts, switches and the collector itself tell of a fault, without a probe: how soon, and how surely within a second.
//!
//! In: which sources are on, with their cadence; what switches say. Out: for a fault mode the word that comes first, and all that tell.
//! A source whose series a host does not have counts for nothing: a driver without pause counters tells no pause. Pure.

use super::{FaultMode, Senses};

/// A notification of the kernel, until its signal (docs/SPECIFICATION.md, Time).
const NOTIFICATION_MS: f64 = 17.0;
/// What a switch sends on change, until its signal (docs/SPECIFICATION.md, Time).
const SWITCH_NOTIFICATION_MS: f64 = 100.0;
/// A stalled collective is told after this at the earliest (docs/signals/collective.stalled.md).
const COLLECTIVE_STALL_MS: f64 = 10_000.0;
/// A process that is stopped, or short of its processor, is told after this (docs/signals/process.stopped.md, process.starved.md).
const STOPPED_MS: f64 = 1_000.0;
/// See [`STOPPED_MS`].
const STARVED_MS: f64 = 4_000.0;
/// A collector that follows another says so once it serves (docs/SPECIFICATION.md, Time): about a second, and as often later as sooner.
const RESTART_MS: f64 = 1_000.0;
/// An iteration period counts as stable after this (docs/signals/job.stalled.md).
const PERIOD_STABLE_MS: f64 = 600_000.0;
/// A rate of pause is judged over this, one of congestion notifications over a second (agent/nic/src/vocabulary.rs).
const PAUSE_OVER_MS: f64 = 100.0;
const RATE_OVER_MS: f64 = 1_000.0;
/// Agents speak at least this often, and silence is judged this often (docs/signals/agent-silence.md).
const HEARTBEAT_MS: f64 = 200.0;
const JUDGED_EVERY_MS: f64 = 100.0;

/// Series that tell of pause, of congestion, and of errors that a healthy link never has.
pub const PAUSE_SERIES: [&str; 2] = ["hw.network.pfc.pause_time", "hw.network.pause_time"];
/// See [`PAUSE_SERIES`].
pub const CONGESTION_SERIES: &str = "rdma.port.cnp";
/// See [`PAUSE_SERIES`]; each with the source that reads it.
pub const ERROR_SERIES: [(&str, &str); 4] = [
    ("hw.network.errors.crc", "netdev"),
    ("rdma.port.errors.symbol", "rdma.pma"),
    ("rdma.port.errors", "rdma.pma"),
    ("rdma.port.errors.icrc", "rdma.hw"),
];

/// What tells of a fault.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    /// Until the first of them; none where nothing tells.
    pub expected_ms: Option<f64>,
    /// How likely that is within a second.
    pub within_1_s: f64,
    /// Signals, and where they come from.
    pub by: Vec<String>,
}

impl Told {
    fn at(expected_ms: f64, within_1_s: f64, by: String) -> Self {
        Self { expected_ms: Some(expected_ms), within_1_s, by: vec![by] }
    }

    fn notified(ms: f64, by: String) -> Self {
        Self::at(ms, 1.0, by)
    }

    /// By a source that looks at this cadence, and must have seen it for `over_ms`.
    fn sampled(cadence_ms: f64, over_ms: f64, by: String) -> Self {
        let within = if cadence_ms > 0.0 { (1e3 - over_ms) / cadence_ms } else { f64::from(u8::from(over_ms <= 1e3)) };
        Self::at(cadence_ms / 2.0 + over_ms, within.clamp(0.0, 1.0), by)
    }

    /// Whichever comes first; both are named, the sooner first.
    pub(super) fn or(self, other: Self) -> Self {
        let (mut first, second) = match (self.expected_ms, other.expected_ms) {
            (Some(own), Some(others)) if others < own => (other, self),
            (None, _) => (other, self),
            _ => (self, other),
        };
        first.within_1_s = first.within_1_s.max(second.within_1_s);
        first.by.extend(second.by);
        first
    }

    fn any(told: impl IntoIterator<Item = Option<Self>>) -> Self {
        told.into_iter().flatten().fold(Self::default(), Self::or)
    }
}

impl Senses {
    fn source(&self, host: &str, source: &str) -> Option<f64> {
        self.sources.get(host)?.get(source).copied()
    }

    fn has(&self, host: &str, series: &str) -> bool {
        self.series.get(host).is_some_and(|names| names.contains(series))
    }

    /// Time between two words of a switch about this, ms; 0: on change.
    fn switch_says(&self, switch: &str, what: &str) -> Option<f64> {
        self.switches.get(switch)?.get(what).copied()
    }

    /// What one end of a link tells of it.
    pub(super) fn end_of_link(&self, mode: FaultMode, node: &str, is_host: bool) -> Told {
        if is_host { self.host_of_link(mode, node) } else { self.switch_of_link(mode, node) }
    }

    fn host_of_link(&self, mode: FaultMode, host: &str) -> Told {
        let signal = |name: &str, source: &str| format!("{name} of {source} at {host}");
        match mode {
            FaultMode::LinkDown | FaultMode::LinkFlapping | FaultMode::LinkTakenDown => Told::any([
                self.source(host, "netdev.link")
                    .map(|_| Told::notified(NOTIFICATION_MS, signal("nic.link.down", "netdev.link"))),
                self.source(host, "rdma.link")
                    .map(|cadence_ms| Told::sampled(cadence_ms, 0.0, signal("nic.link.down", "rdma.link"))),
            ]),
            FaultMode::LinkErrors => {
                let reads = ERROR_SERIES.iter().filter(|(series, _)| self.has(host, series));
                let mut sources: Vec<&str> = reads.map(|(_, source)| *source).collect();
                sources.dedup();
                Told::any(sources.into_iter().map(|source| {
                    let cadence_ms = self.source(host, source)?;
                    Some(Told::sampled(cadence_ms, 0.0, signal("nic.errors", source)))
                }))
            }
            FaultMode::DirtyOptic => Told::any([self
                .source(host, "optics")
                .map(|cadence_ms| Told::sampled(cadence_ms, 0.0, signal("optics.*", "optics")))]),
            _ => Told::default(),
        }
    }

    fn switch_of_link(&self, mode: FaultMode, switch: &str) -> Told {
        let (what, name) = match mode {
            FaultMode::LinkDown | FaultMode::LinkFlapping | FaultMode::LinkTakenDown => {
                ("link state", "switch.link.down")
            }
            FaultMode::LinkErrors => ("ports and their counters", "switch.errors"),
            FaultMode::DirtyOptic => ("optical modules", "switch.optics.limit.crossed"),
            _ => return Told::default(),
        };
        let by = format!("{name} of {switch}");
        Told::any([self.switch_says(switch, what).map(|every_ms| match every_ms {
            0.0 => Told::notified(SWITCH_NOTIFICATION_MS, by),
            every_ms => Told::sampled(every_ms, SWITCH_NOTIFICATION_MS, by),
        })])
    }

    /// Pause of a NIC: its own counters, and those of the switch at it.
    pub(super) fn pause(&self, host: &str, switch: Option<&str>) -> Told {
        let counts_pause = PAUSE_SERIES.iter().any(|series| self.has(host, series));
        let paused = self.source(host, "netdev.driver").filter(|_| counts_pause).map(|cadence_ms| {
            let by = format!("nic.pause.duty of netdev.driver at {host}");
            Told::sampled(cadence_ms, cadence_ms + PAUSE_OVER_MS, by)
        });
        let notified = self.source(host, "rdma.hw").filter(|_| self.has(host, CONGESTION_SERIES)).map(|cadence_ms| {
            Told::sampled(cadence_ms, cadence_ms + RATE_OVER_MS, format!("nic.cnp.storm of rdma.hw at {host}"))
        });
        let by_switch = switch.and_then(|switch| {
            let every_ms = self.switch_says(switch, "priority flow control")?;
            Some(Told::sampled(every_ms, every_ms, format!("switch.pfc.storm of {switch}")))
        });
        Told::any([paused, notified, by_switch])
    }

    /// Faults of what runs on a host.
    pub(super) fn on_host(&self, mode: FaultMode, host: &str) -> Told {
        let is_known = self.sources.contains_key(host);
        match mode {
            FaultMode::RankHang => Told::any([
                self.source(host, "process.sched").map(|cadence_ms| {
                    let by = format!("process.stopped of process.sched at {host}, where it does not run");
                    Told::sampled(cadence_ms, STOPPED_MS, by)
                }),
                is_known.then(|| Told::at(COLLECTIVE_STALL_MS, 0.0, "collective.stalled, job.stalled".to_owned())),
            ]),
            FaultMode::SlowRank => Told::any([
                self.source(host, "process.sched").map(|cadence_ms| {
                    let by = format!("process.starved of process.sched at {host}, where others take its processor");
                    Told::sampled(cadence_ms, STARVED_MS, by)
                }),
                is_known.then(|| Told::at(PERIOD_STABLE_MS, 0.0, "job.period.drifted".to_owned())),
            ]),
            FaultMode::GpuOutOfMemory
            | FaultMode::GpuDriverUnusable
            | FaultMode::GpuMemoryFault
            | FaultMode::GpuAllocationFailing => Told::any([self
                .source(host, "gpu.memory")
                .map(|_| Told::notified(NOTIFICATION_MS, format!("gpu.alloc.failed of traced calls at {host}")))]),
            _ => Told::default(),
        }
    }

    /// The collector is started anew: the next one says so.
    pub(super) fn restart() -> Told {
        Told::at(RESTART_MS, 0.5, "collector.started".to_owned())
    }

    /// Nothing is heard any more: the last word was up to a heartbeat before the fault.
    pub(super) fn silence_of(&self, mode: FaultMode, by: &str) -> Told {
        let after_ms = match mode {
            FaultMode::AgentStalled => self.silent_after_ms.max(self.stalled_after_ms),
            _ => self.silent_after_ms,
        };
        let (least_ms, most_ms) = (after_ms - HEARTBEAT_MS, after_ms + JUDGED_EVERY_MS);
        let within = ((1e3 - least_ms) / (most_ms - least_ms)).clamp(0.0, 1.0);
        Told::at(f64::midpoint(least_ms, most_ms), within, by.to_owned())
    }
}
