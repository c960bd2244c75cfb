//! From a host's state to the rows people read.

use super::{
    Host, Series, port_health, rfc3339,
    rows::{
        CollectiveRow, CommunicatorRow, GpuCallRow, GpuCoverageRow, GpuFailureRow, GpuProcessRow, HostRow,
        LimitationRow, NicRow, OpticsLaneRow, OpticsLimitsRow, OpticsRow, SeriesRow, SourceCostRow, SourceRow,
    },
};
use railwatch_engine::Timestamp;
use railwatch_wire::{flags, v1};
use std::collections::HashMap;

/// A series whose newest window is this much older than its host's newest is no longer read.
const STALE_AFTER_NS: u64 = 30_000_000_000;

/// An agent not heard for so long is late: whether its host's kernel answers is of interest then.
const LATE_MS: u64 = 1_000;

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

pub(super) fn host(host: &Host, now: Timestamp) -> HostRow {
    let estimate = host.clock.estimate(now);
    let loss = host.loss.with_refusals(host.rejected_frames.iter().map(|(reason, count)| (*reason, *count)));
    let last_seen_ms = now.0.saturating_sub(host.last_seen.0) / 1_000_000;
    HostRow {
        host: host.name.clone(),
        boot_id: host.hello.boot_id.clone(),
        last_seen_ms,
        clock_offset_us: host.clock.realtime_offset_ns(now).map(|ns| ns / 1000),
        clock_uncertainty_us: estimate.map(|estimate| estimate.uncertainty_ns.div_ceil(1000)),
        seen: loss.seen,
        delivered: loss.delivered,
        dropped: loss.dropped.values().fold(0, |sum, count| sum.saturating_add(*count)),
        dropped_by_reason: loss.dropped,
        connected: host.connected,
        kernel_last_seen_ms: (host.connected && last_seen_ms >= LATE_MS).then(|| kernel_last_seen_ms(host)).flatten(),
        agent_version: host.hello.agent_version.clone(),
        kernel_release: host.hello.kernel_release.clone(),
        architecture: host.hello.architecture.clone(),
        limitations: host
            .hello
            .limitations
            .iter()
            .map(|v1::Limitation { what, why }| LimitationRow { what: what.clone(), why: why.clone() })
            .collect(),
        clock_steps: host.clock.steps(),
        rejected_frames: host.rejected_frames.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        series: host.series.len() as u64,
        sources: host.sources.iter().map(source).collect(),
    }
}

/// One system call.
fn kernel_last_seen_ms(host: &Host) -> Option<u64> {
    u64::try_from(host.kernel.last_word()?.acknowledged.as_millis()).ok()
}

fn source(source: &v1::SourceState) -> SourceRow {
    SourceRow {
        source: source.source.clone(),
        on: source.on,
        reason: source.reason.clone(),
        kernel_path: source.kernel_path.clone(),
        cadence_ns: source.cadence_ns,
        reads: source.reads,
        errors: source.errors,
        missed_deadlines: source.missed_deadlines,
    }
}

pub(super) fn sources(host: &Host) -> Vec<SourceCostRow> {
    let mut rows: Vec<_> = host.sources.iter().map(|source| source_cost(&host.name, source)).collect();
    rows.sort_by(|a, b| a.source.cmp(&b.source));
    rows
}

fn source_cost(host: &str, source: &v1::SourceState) -> SourceCostRow {
    let microseconds = |ns: u64| (source.reads > 0).then_some(ns as f64 / 1e3);
    SourceCostRow {
        host: host.to_owned(),
        source: source.source.clone(),
        status: if source.on { "on" } else { "off" }.to_owned(),
        reason: source.reason.clone(),
        kernel_path: source.kernel_path.clone(),
        cadence_ms: source.cadence_ns as f64 / 1e6,
        read_us_p50: microseconds(source.read_ns_p50),
        read_us_p99: microseconds(source.read_ns_p99),
        cpu_percent: source.cpu_share * 100.0,
        reads: source.reads,
        errors: source.errors,
        missed_deadlines: source.missed_deadlines,
    }
}

pub(super) fn gpu_processes(host: &Host) -> Vec<GpuProcessRow> {
    let mut rows: Vec<_> = host
        .gpu
        .processes
        .iter()
        .flat_map(|process| process.balances.iter().map(move |balance| gpu_process(&host.name, process, balance)))
        .collect();
    rows.sort_by(|a, b| (a.pid, &a.layer, a.device, &a.api).cmp(&(b.pid, &b.layer, b.device, &b.api)));
    rows
}

fn gpu_process(host: &str, process: &v1::GpuProcess, balance: &v1::GpuBalance) -> GpuProcessRow {
    let layer = match balance.layer() {
        v1::GpuLayer::Runtime => "runtime",
        v1::GpuLayer::Driver => "driver",
        v1::GpuLayer::Unspecified => "unknown",
    };
    GpuProcessRow {
        host: host.to_owned(),
        pid: process.pid,
        comm: process.comm.clone(),
        container: text(&process.container),
        device: balance.device,
        device_unknown_reason: text(&balance.device_unknown_reason),
        device_uuid: text(&balance.device_uuid),
        layer: layer.to_owned(),
        api: balance.api.clone(),
        allocated_bytes: balance.allocated_bytes,
        peak_bytes: balance.peak_bytes,
        allocs: balance.allocs,
        frees: balance.frees,
        failed_allocs: balance.failed_allocs,
        implicit_frees: balance.implicit_frees,
        unmatched_frees: balance.unmatched_frees,
        host_allocated_bytes: balance.host_allocated_bytes,
        ipc_opens: balance.ipc_opened_bytes_unknown,
        incomplete_since: process.incomplete_since_unix_ns.map(|at| rfc3339(Timestamp(at))),
        incomplete_reason: text(&process.incomplete_reason),
        started: rfc3339(Timestamp(process.started_unix_ns)),
        exited: process.exited_unix_ns.is_some(),
        exited_at: process.exited_unix_ns.map(|at| rfc3339(Timestamp(at))),
        events_cut: process.events_cut,
        calls: process.calls.iter().map(call).collect(),
        failures: process.failures.iter().map(failure).collect(),
        communicators: process.communicators.iter().map(communicator).collect(),
    }
}

fn call(call: &v1::GpuCall) -> GpuCallRow {
    GpuCallRow { function: call.function.clone(), calls: call.calls, inside_ns: call.inside_ns, failed: call.failed }
}

fn failure(failure: &v1::GpuFailure) -> GpuFailureRow {
    GpuFailureRow { function: failure.function.clone(), code: failure.code, count: failure.count }
}

fn communicator(communicator: &v1::Communicator) -> CommunicatorRow {
    CommunicatorRow {
        library: communicator.library.clone(),
        identity: format!("{:016x}", communicator.identity),
        rank: communicator.rank,
        ranks: communicator.ranks,
        last_sequence: communicator.last_sequence,
        state: communicator.state.clone(),
        collectives: communicator
            .collectives
            .iter()
            .map(|count| CollectiveRow { operation: count.operation.clone(), calls: count.calls, bytes: count.bytes })
            .collect(),
    }
}

pub(super) fn gpu_coverage(host: &Host) -> Vec<GpuCoverageRow> {
    let mut rows: Vec<_> = host
        .gpu
        .coverage
        .iter()
        .map(|coverage| GpuCoverageRow {
            host: host.name.clone(),
            pid: coverage.pid,
            comm: coverage.comm.clone(),
            object: coverage.object.clone(),
            status: coverage.status.clone(),
            reason: coverage.reason.clone(),
        })
        .collect();
    rows.sort_by(|a, b| (a.pid, &a.object).cmp(&(b.pid, &b.object)));
    rows
}

pub(super) fn nic(host: &Host) -> Vec<NicRow> {
    let newest = host.series.iter().map(|series| series.reading.end).max().unwrap_or_default();
    let mut by_port: HashMap<&str, Vec<&Series>> = HashMap::new();
    for series in host.series.iter() {
        let of_port = matches!(series.definition.entity_kind.as_str(), "nic" | "port");
        let read = series.reading.end.0 > 0 && newest.0 - series.reading.end.0 <= STALE_AFTER_NS;
        if of_port && read {
            by_port.entry(&series.definition.entity_name).or_default().push(series);
        }
    }
    let mut rows: Vec<_> = host
        .ports
        .iter()
        .map(|port| {
            let mut series = by_port.get(port.name.as_str()).cloned().unwrap_or_default();
            series.sort_by(|a, b| {
                (&a.definition.name, &a.definition.labels).cmp(&(&b.definition.name, &b.definition.labels))
            });
            let window_end = series.iter().map(|series| series.reading.end).max().map(rfc3339);
            let series: Vec<_> = series.into_iter().map(series_row).collect();
            NicRow {
                host: host.name.clone(),
                port: port.name.clone(),
                kind: port.kind.clone(),
                state: port.state.clone(),
                driver: port.driver.clone(),
                speed_bits_per_s: (port.speed_bits_per_s > 0).then_some(port.speed_bits_per_s),
                netdev: text(&port.netdev),
                window_end,
                errors: port_health::errors(&series),
                pfc_priorities: port_health::pfc_priorities(&series),
                pause: port_health::pause(&series),
                fec: port_health::fec(&series),
                series,
            }
        })
        .collect();
    rows.sort_by(|a, b| (&a.port, &a.kind).cmp(&(&b.port, &b.kind)));
    rows
}

pub(super) fn optics(host: &Host) -> Vec<OpticsRow> {
    let mut rows: Vec<_> = host.modules.iter().map(|module| optics_row(&host.name, module)).collect();
    rows.sort_by(|a, b| a.interface.cmp(&b.interface));
    rows
}

fn optics_row(host: &str, module: &v1::ModuleState) -> OpticsRow {
    let lane = |lane: &v1::ModuleLane| OpticsLaneRow {
        lane: lane.lane,
        tx_power_mw: lane.tx_power_mw,
        tx_bias_ma: lane.tx_bias_ma,
        rx_power_mw: lane.rx_power_mw,
        tx_los: lane.tx_los,
        rx_los: lane.rx_los,
        tx_fault: lane.tx_fault,
        snr_db: lane.snr_db,
    };
    let limits = |limits: &v1::ModuleThresholds| {
        let row = OpticsLimitsRow {
            high_alarm: limits.high_alarm,
            low_alarm: limits.low_alarm,
            high_warning: limits.high_warning,
            low_warning: limits.low_warning,
        };
        (limits.quantity.clone(), row)
    };
    OpticsRow {
        host: host.to_owned(),
        interface: module.interface.clone(),
        standard: text(&module.standard),
        revision: text(&module.revision),
        vendor: text(&module.vendor),
        part_number: text(&module.part_number),
        serial: text(&module.serial),
        date_code: text(&module.date_code),
        state: text(&module.state),
        temperature_c: module.temperature_c,
        vcc_v: module.vcc_v,
        lanes: module.lanes.iter().map(lane).collect(),
        thresholds: module.thresholds.iter().map(limits).collect(),
        checksum_ok: module.checksum_ok,
        problems: module.problems.clone(),
        far_end: None,
    }
}

fn series_row(series: &Series) -> SeriesRow {
    let (definition, reading) = (&series.definition, &series.reading);
    let known = |value: f64| (reading.count > 0).then_some(value);
    SeriesRow {
        name: definition.name.clone(),
        labels: definition.labels.clone(),
        unit: definition.unit.clone(),
        monotonic: definition.monotonic,
        count: reading.count,
        mean: known(reading.sum / f64::from(reading.count)),
        min: known(reading.min),
        max: known(reading.max),
        last: known(reading.last),
        delta: reading.delta,
        resets: reading.resets,
        flags: flags::words(reading.flags).into_iter().map(str::to_owned).collect(),
        incomplete_since: (reading.incomplete_since.0 > 0).then(|| rfc3339(reading.incomplete_since)),
    }
}
