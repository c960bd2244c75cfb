//! From the books and discovery to the process table as the wire has it. Pure but for the clocks.

use super::devices::Devices;
use super::failure::words;
use railwatch_abi::cookie::Layer;
use railwatch_abi::maps::ProcessKey;
use railwatch_gpu::accounts::{CommunicatorRow, ProcessRows, Row, Snapshot, unix_ms, unknown_device_reason};
use railwatch_gpu::coverage::CoverageRow;
use railwatch_gpu::discovery::ProcessInfo;
use railwatch_wire::limits::PROCESSES_PER_HOST_MAX;
use railwatch_wire::v1;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Keeps what must not waver between two readings: instants converted to the wall clock once.
#[derive(Debug, Default)]
pub struct Table {
    started_unix_ns: HashMap<ProcessKey, u64>,
    exited_unix_ns: HashMap<ProcessKey, u64>,
    incomplete_unix_ns: HashMap<ProcessKey, u64>,
    /// The UUID of a process's only GPU, or why there is none: asked once, while it lives.
    uuids: HashMap<(ProcessKey, &'static str), Result<String, String>>,
    /// Containers of processes, kept while their rows are: a process that is gone can no longer be asked.
    containers: HashMap<ProcessKey, String>,
}

impl Table {
    /// The table now.
    pub fn fill(
        &mut self,
        books: &Snapshot,
        found: &BTreeMap<u32, ProcessInfo>,
        coverage: &[CoverageRow],
    ) -> v1::GpuState {
        let mut processes: Vec<_> = books.processes.iter().map(|rows| self.process(rows, found)).collect();
        let live: std::collections::BTreeSet<u32> =
            books.processes.iter().filter(|rows| rows.gone_ns.is_none()).map(|rows| rows.pid).collect();
        // Found and silent so far: shown, with nothing held.
        processes.extend(found.iter().filter(|(pid, _)| !live.contains(pid)).map(|(pid, info)| silent(*pid, info)));
        processes.truncate(PROCESSES_PER_HOST_MAX);
        let known = |key: &ProcessKey| books.processes.iter().any(|rows| rows.key == *key);
        for kept in [&mut self.started_unix_ns, &mut self.exited_unix_ns, &mut self.incomplete_unix_ns] {
            if kept.len() > books.processes.len() {
                kept.retain(|key, _| known(key));
            }
        }
        if self.uuids.len() > books.processes.len() {
            self.uuids.retain(|(key, _), _| known(key));
        }
        if self.containers.len() > books.processes.len() {
            self.containers.retain(|key, _| known(key));
        }
        v1::GpuState { processes, coverage: coverage.iter().take(4 * PROCESSES_PER_HOST_MAX).map(covered).collect() }
    }

    fn process(&mut self, rows: &ProcessRows, found: &BTreeMap<u32, ProcessInfo>) -> v1::GpuProcess {
        let once = |kept: &mut HashMap<ProcessKey, u64>, boot_ns: u64| {
            *kept.entry(rows.key).or_insert_with(|| unix_ms(boot_ns) * 1_000_000)
        };
        let info = found.get(&rows.pid).filter(|_| rows.gone_ns.is_none());
        if let Some(container) = info.and_then(|info| info.container.as_ref()) {
            self.containers.entry(rows.key).or_insert_with(|| container.id.clone());
        }
        let lacking = Layer::ALL.iter().filter_map(|layer| rows.incomplete_since_ns(*layer)).min();
        let lacking = lacking.map(|since| (once(&mut self.incomplete_unix_ns, since), lost(rows)));
        let late = info.and_then(|info| info.incomplete.as_ref()).map(|mark| (mark.since_unix_ns, mark.reason.clone()));
        let unseen: u64 = rows.unmatched_frees.values().sum();
        let unseen = (unseen > 0).then(|| {
            let reason = format!("{unseen} frees were of memory whose allocation was not seen");
            (once(&mut self.started_unix_ns, rows.first_seen_ns), reason)
        });
        let (incomplete_since_unix_ns, incomplete_reason) =
            late.into_iter().chain(lacking).chain(unseen).min_by_key(|(since, _)| *since).unzip();
        let balances =
            rows.memory.iter().map(|((layer, device), row)| self.balance(rows, *layer, *device, row)).collect();
        v1::GpuProcess {
            pid: rows.pid,
            comm: rows.comm.clone(),
            container: self.containers.get(&rows.key).cloned().unwrap_or_default(),
            started_unix_ns: once(&mut self.started_unix_ns, rows.first_seen_ns),
            exited_unix_ns: rows.gone_ns.map(|gone| once(&mut self.exited_unix_ns, gone)),
            balances,
            calls: rows
                .calls
                .iter()
                .filter_map(|call| {
                    Some(v1::GpuCall {
                        function: call.symbol.get()?.name.to_owned(),
                        calls: call.count,
                        inside_ns: call.inside_ns,
                        failed: rows.failures.iter().filter(|f| f.symbol == call.symbol).map(|f| f.count).sum(),
                    })
                })
                .collect(),
            failures: failures(rows),
            communicators: rows.communicators.iter().map(communicator).collect(),
            incomplete_since_unix_ns,
            incomplete_reason: incomplete_reason.unwrap_or_default(),
            events_cut: rows.events_capped,
        }
    }

    fn balance(&mut self, rows: &ProcessRows, layer: Layer, device: Option<u32>, row: &Row) -> v1::GpuBalance {
        let (api, word) = words(layer);
        let device = device.and_then(|device| i32::try_from(device).ok());
        let (device_uuid, device_unknown_reason) = match device {
            None => (String::new(), unknown_device_reason(layer).to_owned()),
            Some(_) => match self.uuid(rows, api) {
                Ok(uuid) => (uuid, String::new()),
                Err(why) => (String::new(), why),
            },
        };
        v1::GpuBalance {
            layer: if word == "driver" { v1::GpuLayer::Driver } else { v1::GpuLayer::Runtime }.into(),
            device,
            device_uuid,
            device_unknown_reason,
            api: api.to_owned(),
            allocated_bytes: row.allocated_bytes,
            peak_bytes: row.peak_bytes,
            allocs: row.allocs,
            frees: row.frees,
            failed_allocs: row.failed_allocs(),
            implicit_frees: row.implicit_freed_bytes,
            unmatched_frees: rows.unmatched_frees.get(&layer).copied().unwrap_or(0),
            host_allocated_bytes: row.host_allocated_bytes,
            ipc_opened_bytes_unknown: row.imported_open,
        }
    }

    fn uuid(&mut self, rows: &ProcessRows, api: &'static str) -> Result<String, String> {
        if rows.gone_ns.is_some() && !self.uuids.contains_key(&(rows.key, api)) {
            return Err("the process had ended before it could be asked which GPUs it can open".into());
        }
        let ask = || Devices::read(Path::new("/proc")).uuid(api, rows.pid);
        self.uuids.entry((rows.key, api)).or_insert_with(ask).clone()
    }
}

/// Failures over all devices, by function and code.
fn failures(rows: &ProcessRows) -> Vec<v1::GpuFailure> {
    let mut counts: BTreeMap<(&str, i32), u64> = BTreeMap::new();
    for failure in &rows.failures {
        if let Some(symbol) = failure.symbol.get() {
            *counts.entry((symbol.name, failure.code)).or_default() += failure.count;
        }
    }
    counts
        .into_iter()
        .map(|((function, code), count)| v1::GpuFailure { function: function.to_owned(), code, count })
        .collect()
}

fn communicator(row: &CommunicatorRow) -> v1::Communicator {
    v1::Communicator {
        library: words(row.layer).0.to_owned(),
        identity: row.identity.unwrap_or(0),
        rank: row.rank,
        ranks: row.ranks,
        last_sequence: row.sequence,
        collectives: row
            .last_symbol
            .and_then(|symbol| symbol.get())
            .map(|symbol| v1::CollectiveCount {
                operation: symbol.name.to_owned(),
                calls: row.sequence,
                bytes: row.bytes,
            })
            .into_iter()
            .collect(),
        state: "alive".to_owned(),
    }
}

fn lost(rows: &ProcessRows) -> String {
    let lost: Vec<_> = rows
        .lost
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{} {count}", reason.name()))
        .collect();
    if lost.is_empty() {
        "the process ran before it was traced".to_owned()
    } else {
        format!("not recorded: {}", lost.join(", "))
    }
}

fn silent(pid: u32, info: &ProcessInfo) -> v1::GpuProcess {
    v1::GpuProcess {
        pid,
        comm: info.comm.clone(),
        container: info.container.as_ref().map(|container| container.id.clone()).unwrap_or_default(),
        incomplete_since_unix_ns: info.incomplete.as_ref().map(|mark| mark.since_unix_ns),
        incomplete_reason: info.incomplete.as_ref().map(|mark| mark.reason.clone()).unwrap_or_default(),
        ..v1::GpuProcess::default()
    }
}

fn covered(row: &CoverageRow) -> v1::GpuCoverage {
    v1::GpuCoverage {
        pid: row.pid,
        comm: row.comm.clone(),
        object: row.object.clone(),
        status: row.status.as_str().to_owned(),
        reason: row.reason.clone().unwrap_or_default(),
    }
}
