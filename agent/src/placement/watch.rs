//! Leaks and stalls, from the process table as it is published: one look a second.
//!
//! In: the table. Out: `gpu.memory.leak`, `collective.stalled` and what ends them. Balances of one process and device through
//! several layers show one leak: it is told once. Bounded by the table, which is bounded itself.

use super::SIGNALS;
use super::state::membership;
use crate::shared::Shared;
use railwatch_placement::leak::{self, Leak};
use railwatch_placement::stall::{self, Member, Seen};
use railwatch_wire::v1;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Balances followed at most; further ones are not looked at.
const BALANCES_MAX: usize = 4096;

/// A process, by its number and its first call.
type Process = (u32, u64);
/// Its balance: device and layer.
type Balance = (Process, Option<i32>, String, i32);

/// What is remembered.
#[derive(Debug, Default)]
pub struct Watch {
    leaks: HashMap<Balance, leak::Detector>,
    /// The balance that told of a process's device.
    told: HashMap<(Process, Option<i32>), Balance>,
    stalls: stall::Detector,
}

impl Watch {
    /// Takes the table as it is at `now_ns` of CLOCK_MONOTONIC; `free_bytes` says what is left of the device with a UUID.
    pub fn look(
        &mut self,
        now_ns: u64,
        table: &v1::GpuState,
        free_bytes: impl Fn(&str) -> Option<u64>,
    ) -> Vec<v1::Signal> {
        let live: Vec<_> = table.processes.iter().filter(|process| process.exited_unix_ns.is_none()).collect();
        let mut signals = Vec::new();
        for process in &live {
            for balance in &process.balances {
                signals.extend(self.balance(now_ns, process, balance, &free_bytes));
            }
        }
        let is_live = |(pid, started): &Process| {
            live.iter().any(|process| (process.pid, process.started_unix_ns) == (*pid, *started))
        };
        self.leaks.retain(|(process, ..), _| is_live(process));
        self.told.retain(|(process, _), _| is_live(process));
        let seen = live.iter().flat_map(|process| {
            process.communicators.iter().filter_map(|communicator| {
                let of = membership(communicator)?;
                let member = Member { identity: of.identity, pid: process.pid, rank: of.rank };
                Some(Seen { member, sequence: communicator.last_sequence })
            })
        });
        let seen: Vec<_> = seen.collect();
        let changes = self.stalls.look(now_ns, &seen);
        signals.extend(changes.into_iter().map(|change| stalled(now_ns, change, &live)));
        signals
    }

    fn balance(
        &mut self,
        now_ns: u64,
        process: &v1::GpuProcess,
        balance: &v1::GpuBalance,
        free_bytes: impl Fn(&str) -> Option<u64>,
    ) -> Option<v1::Signal> {
        let of = (process.pid, process.started_unix_ns);
        let key = (of, balance.device, balance.api.clone(), balance.layer);
        if self.leaks.len() >= BALANCES_MAX && !self.leaks.contains_key(&key) {
            return None;
        }
        let change = self.leaks.entry(key.clone()).or_default().push(now_ns, balance.allocated_bytes)?;
        let device = (of, balance.device);
        match change {
            leak::Change::Leaks(found) => {
                let teller = self.told.entry(device).or_insert_with(|| key.clone());
                (*teller == key).then(|| leaks(now_ns, process, balance, found, free_bytes(&balance.device_uuid)))
            }
            leak::Change::Over => (self.told.get(&device) == Some(&key))
                .then(|| self.told.remove(&device))
                .map(|_| over(now_ns, process, balance)),
        }
    }
}

/// Memory that is left on a device, where NVML tells.
pub fn free_bytes(shared: &Shared, uuid: &str) -> Option<u64> {
    if uuid.is_empty() {
        return None;
    }
    let all = shared.catalog.all();
    let value = |name: &str| {
        let series = all.iter().find(|def| def.name() == name && def.label("gpu.uuid") == Some(uuid))?;
        shared.value(series.id()).map(|value| value.last)
    };
    let free = value("gpu.memory.total")? - value("gpu.memory.used")?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes of a device, not negative by the filter"
    )]
    Some(free).filter(|free| *free >= 0.0).map(|free| free as u64)
}

fn leaks(
    now_ns: u64,
    process: &v1::GpuProcess,
    balance: &v1::GpuBalance,
    leak: Leak,
    free_bytes: Option<u64>,
) -> v1::Signal {
    let until_full = free_bytes.map(|free| leak.until_full(free));
    let full = until_full.map(|left| format!(", and fills it in {}", span(left))).unwrap_or_default();
    let more = [
        ("slope_mib_per_h", Some(format!("{:.1}", leak.mib_per_h()))),
        ("grown_bytes", Some(leak.grown_bytes.to_string())),
        ("over_s", Some(leak.over.as_secs().to_string())),
        ("until_full_s", until_full.map(|left| left.as_secs().to_string())),
    ];
    let text = format!("grows by {:.0} MiB an hour{} since {}{full}", leak.mib_per_h(), on(balance), span(leak.over));
    of_balance(now_ns, SIGNALS[1], v1::Severity::Warning, process, balance, leak.bytes_per_s, &text, more)
}

fn over(now_ns: u64, process: &v1::GpuProcess, balance: &v1::GpuBalance) -> v1::Signal {
    let text = format!("no longer grows{}", on(balance));
    of_balance(now_ns, SIGNALS[2], v1::Severity::Info, process, balance, 0.0, &text, [])
}

fn on(balance: &v1::GpuBalance) -> String {
    balance.device.map(|device| format!(" on device {device}")).unwrap_or_default()
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the signal")]
fn of_balance<const N: usize>(
    now_ns: u64,
    name: &str,
    severity: v1::Severity,
    process: &v1::GpuProcess,
    balance: &v1::GpuBalance,
    bytes_per_s: f64,
    text: &str,
    more: [(&str, Option<String>); N],
) -> v1::Signal {
    let layer = if balance.layer() == v1::GpuLayer::Driver { "driver" } else { "runtime" };
    let known = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let attributes = [
        ("comm", known(&process.comm)),
        ("container", known(&process.container)),
        ("api", known(&balance.api)),
        ("layer", Some(layer.to_owned())),
        ("device", balance.device.map(|device| device.to_string())),
        ("device_uuid", known(&balance.device_uuid)),
        ("allocated_bytes", Some(balance.allocated_bytes.to_string())),
    ];
    v1::Signal {
        name: name.into(),
        entity: Some(v1::Entity { kind: "process".into(), name: process.pid.to_string() }),
        severity: severity.into(),
        observed_mono_ns: now_ns,
        half_width_ns: 0,
        value: bytes_per_s,
        previous: None,
        unit: "By/s".into(),
        summary: format!("memory that {} (pid {}) holds {text}", process.comm, process.pid),
        attributes: attributes
            .into_iter()
            .chain(more)
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect(),
        incomplete_since_mono_ns: process.incomplete_since_unix_ns.map(|since| mono_ns(now_ns, since)),
        suppressed: 0,
    }
}

fn stalled(now_ns: u64, change: stall::Change, live: &[&v1::GpuProcess]) -> v1::Signal {
    use stall::Change::{AllStopped, Behind, Resumed};
    let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
    let (name, severity, member, sequence, still_ns, cause, text, more) = match change {
        Behind { member, sequence, still_ns, ahead, ahead_sequence } => (
            SIGNALS[3],
            v1::Severity::Error,
            member,
            sequence,
            still_ns,
            Some("behind"),
            format!(
                "has begun no collective for {:.0} s and is at {sequence}, while rank {} (pid {}) is at {ahead_sequence}",
                seconds(still_ns),
                ahead.rank,
                ahead.pid
            ),
            vec![
                ("ahead_rank", ahead.rank.to_string()),
                ("ahead_pid", ahead.pid.to_string()),
                ("ahead_sequence", ahead_sequence.to_string()),
            ],
        ),
        AllStopped { member, sequence, still_ns, longest_pause_ns } => (
            SIGNALS[3],
            v1::Severity::Warning,
            member,
            sequence,
            still_ns,
            Some("all_stopped"),
            format!(
                "and all others on this host have begun no collective for {:.0} s, at {sequence}; their longest pause was {:.1} s",
                seconds(still_ns),
                seconds(longest_pause_ns)
            ),
            vec![("longest_pause_s", format!("{:.3}", seconds(longest_pause_ns)))],
        ),
        Resumed { member, sequence, still_ns } => (
            SIGNALS[4],
            v1::Severity::Info,
            member,
            sequence,
            still_ns,
            None,
            format!("begins collectives again after {:.0} s", seconds(still_ns)),
            vec![],
        ),
    };
    let process = live.iter().find(|process| process.pid == member.pid);
    let comm = process.map_or("a process", |process| process.comm.as_str());
    let identity = format!("{:016x}", member.identity);
    let mut attributes: BTreeMap<String, String> = [
        ("communicator", identity.clone()),
        ("rank", member.rank.to_string()),
        ("pid", member.pid.to_string()),
        ("comm", comm.to_owned()),
        ("sequence", sequence.to_string()),
    ]
    .into_iter()
    .chain(cause.map(|cause| ("cause", cause.to_owned())))
    .chain(more)
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    if let Some(container) = process.map(|process| &process.container).filter(|container| !container.is_empty()) {
        attributes.insert("container".into(), container.clone());
    }
    v1::Signal {
        name: name.into(),
        entity: Some(v1::Entity { kind: "communicator".into(), name: format!("{identity}/{}", member.rank) }),
        severity: severity.into(),
        observed_mono_ns: now_ns,
        half_width_ns: 1_000_000_000,
        value: seconds(still_ns),
        previous: None,
        unit: "s".into(),
        summary: format!("{comm} (pid {}), rank {} of communicator {identity}, {text}", member.pid, member.rank),
        attributes,
        incomplete_since_mono_ns: process
            .and_then(|process| process.incomplete_since_unix_ns)
            .map(|since| mono_ns(now_ns, since)),
        suppressed: 0,
    }
}

/// An instant of the wall clock on CLOCK_MONOTONIC, by the clocks of now.
fn mono_ns(now_ns: u64, unix_ns: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).saturating_sub(unix_ns);
    now_ns.saturating_sub(ago_ns)
}

/// "35 min", "6.5 h", "12 days".
fn span(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        ..5400.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn process(pid: u32, balances: &[(v1::GpuLayer, u64)], communicators: Vec<v1::Communicator>) -> v1::GpuProcess {
        let balance = |(layer, held): &(v1::GpuLayer, u64)| v1::GpuBalance {
            layer: (*layer).into(),
            device: Some(0),
            device_uuid: "GPU-1".into(),
            api: "cuda".into(),
            allocated_bytes: *held,
            ..v1::GpuBalance::default()
        };
        v1::GpuProcess {
            pid,
            comm: "python".into(),
            balances: balances.iter().map(balance).collect(),
            communicators,
            ..v1::GpuProcess::default()
        }
    }

    fn table(processes: Vec<v1::GpuProcess>) -> v1::GpuState {
        v1::GpuState { processes, coverage: vec![] }
    }

    #[test]
    fn a_leak_seen_by_two_layers_is_told_once_with_the_time_that_is_left() {
        let (mut watch, mut told) = (Watch::default(), Vec::new());
        for second in 1..4 * 3600 {
            // 600 MiB an hour, until the third.
            let held = (40 << 30) + (second.min(3 * 3600) << 20) / 6;
            let layers = [(v1::GpuLayer::Runtime, held), (v1::GpuLayer::Driver, held + (300 << 20))];
            let now = table(vec![process(7, &layers, vec![])]);
            told.extend(watch.look(second * SECOND_NS, &now, |uuid| (uuid == "GPU-1").then_some(6000 << 20)));
        }
        let names: Vec<_> = told.iter().map(|signal| signal.name.as_str()).collect();
        assert_eq!(names, ["gpu.memory.leak", "gpu.memory.leak.over"]);
        let leak = &told[0];
        assert_eq!(
            leak.summary,
            "memory that python (pid 7) holds grows by 600 MiB an hour on device 0 since 30 min, and fills it in 10.0 h"
        );
        assert_eq!(
            (leak.attributes["slope_mib_per_h"].as_str(), leak.attributes["until_full_s"].as_str()),
            ("600.0", "36000")
        );
        assert_eq!((leak.severity(), leak.unit.as_str()), (v1::Severity::Warning, "By/s"));
    }

    #[test]
    fn a_rank_that_stands_still_is_told_with_the_one_that_went_on() {
        let (mut watch, mut told) = (Watch::default(), Vec::new());
        for second in 1..200_u64 {
            let of = |rank: u32| v1::Communicator {
                identity: 0xab,
                rank: Some(rank),
                ranks: Some(8),
                last_sequence: if rank == 1 { second.min(100) } else { second },
                ..v1::Communicator::default()
            };
            let mut late = process(11, &[], vec![of(1)]);
            late.incomplete_since_unix_ns = Some(1);
            told.extend(watch.look(second * SECOND_NS, &table(vec![process(10, &[], vec![of(0)]), late]), |_| None));
        }
        let [stalled] = &told[..] else { panic!("{told:?}") };
        assert_eq!(
            stalled.summary,
            "python (pid 11), rank 1 of communicator 00000000000000ab, has begun no collective for 10 s and is at 100, while rank 0 (pid 10) is at 110"
        );
        assert_eq!((stalled.attributes["cause"].as_str(), stalled.severity()), ("behind", v1::Severity::Error));
        assert!(stalled.incomplete_since_mono_ns.is_some(), "its figures are incomplete, and nothing may act on them");
    }
}
