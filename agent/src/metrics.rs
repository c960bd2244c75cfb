//! The agent's page for Prometheus: how it fares, what it reads, what it costs.
//!
//! In: [`Shared`], the uplink's and the samplers' reports, at each scrape. Out: one [`Page`]. Labels are bounded: source
//! and reason names are compiled in, ports and series by the catalog's bound, devices by the host; no process is a label.

use crate::mesh;
use crate::outbox::Outbox;
use crate::page::{Labels, Page, labels};
use crate::probe;
use crate::shared::{GpuView, Shared};
use crate::tape::{self, Dump};
use crate::usage::Usage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use railwatch_sampling::{ErrorReason, Kind, SeriesDef, SourceReport, SourceState};
use railwatch_tape::Tape;
use railwatch_uplink::UplinkState;
use railwatch_vocabulary::Series;
use railwatch_vocabulary::prometheus::{BaseUnit, base_unit, plain};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Encodes the page at each scrape.
pub struct Exposition {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    tape: Option<(Tape, Option<Dump>)>,
    answers: Option<probe::AnswerCounts>,
    mesh: Option<Arc<mesh::Desk>>,
    reports: Box<dyn Fn() -> Vec<SourceReport> + Send + Sync>,
}

impl Exposition {
    /// From the rooms; `reports` asks the samplers.
    pub fn new(
        shared: Arc<Shared>,
        outbox: Arc<Outbox>,
        tape: Option<(Tape, Option<Dump>)>,
        (answers, mesh): (Option<probe::AnswerCounts>, Option<Arc<mesh::Desk>>),
        reports: impl Fn() -> Vec<SourceReport> + Send + Sync + 'static,
    ) -> Self {
        Self { shared, outbox, tape, answers, mesh, reports: Box::new(reports) }
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exposition")
    }
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page::default();
        let uplink_state = self.outbox.uplink_state();
        agent(&mut page, &self.shared, &uplink_state);
        uplink(&mut page, &uplink_state);
        loss(&mut page, &self.shared, &self.outbox);
        sources(&mut page, &(self.reports)());
        if let Some((tape, dump)) = &self.tape {
            tape::show(&mut page, tape, dump.as_ref());
        }
        if let Some(counts) = &self.answers {
            probe::show(&mut page, counts);
        }
        if let Some(mesh) = &self.mesh {
            mesh::show(&mut page, mesh);
        }
        gpu(&mut page, &self.shared.gpu());
        nics(&mut page, &self.shared);
        page.encode(encoder)
    }
}

fn one<V>(value: V) -> [(Labels, V); 1] {
    [(Labels::new(), value)]
}

fn agent(page: &mut Page, shared: &Shared, uplink: &UplinkState) {
    let usage = Usage::read();
    page.gauge(
        "agent_build_info",
        "Always 1; its labels say what runs",
        None,
        [(
            labels([
                ("version", env!("CARGO_PKG_VERSION")),
                ("kernel", &shared.facts.kernel_release),
                ("architecture", &shared.facts.architecture),
            ]),
            1u64,
        )],
    );
    page.counter("agent_cpu", "Processor time the agent has used", Some(Unit::Seconds), one(usage.cpu_s));
    page.gauge(
        "agent_resident_memory",
        "Memory of the agent, without its BPF maps",
        Some(Unit::Bytes),
        one(usage.resident_bytes),
    );
    page.gauge(
        "agent_bpf_map_memory",
        "Memory that the kernel holds for the agent's BPF maps",
        Some(Unit::Bytes),
        one(usage.bpf_map_bytes),
    );
    page.counter(
        "agent_reloads",
        "Configurations read while running, by result",
        None,
        [
            (labels([("result", "taken")]), shared.reloads.load(Relaxed)),
            (labels([("result", "refused")]), shared.reloads_refused.load(Relaxed)),
        ],
    );
    let mut limited: BTreeMap<String, u64> = BTreeMap::new();
    let spool = uplink.limitations.iter().map(|limitation| limitation.what.clone());
    for what in shared.limitations().into_iter().map(|limitation| limitation.what).chain(spool) {
        *limited.entry(what).or_default() += 1;
    }
    page.gauge(
        "agent_limitations",
        "What is off or limited on this host, and how many causes it has; `railwatch-agent capabilities` says why",
        None,
        limited.iter().map(|(what, causes)| (labels([("what", what)]), *causes)),
    );
}

fn uplink(page: &mut Page, state: &UplinkState) {
    let spool = &state.spool;
    page.gauge("agent_uplink_connected", "A collector has welcomed this agent", None, one(state.connected));
    page.counter("agent_uplink_connections", "Welcomes by a collector", None, one(state.connections));
    page.counter("agent_uplink_failures", "Dials that failed and streams that broke", None, one(state.failures));
    #[expect(clippy::cast_precision_loss, reason = "a duration for a graph")]
    let acknowledge_s = state.acknowledge_ns as f64 / 1e9;
    page.gauge(
        "agent_uplink_acknowledge",
        "From sending a frame to its acknowledgement, the last one measured",
        Some(Unit::Seconds),
        one(acknowledge_s),
    );
    page.counter(
        "agent_uplink_refused",
        "Handed to the uplink and not taken, by kind",
        None,
        [
            (labels([("kind", "signal")]), state.refused_signals),
            (labels([("kind", "window")]), state.refused_windows),
            (labels([("kind", "series")]), state.refused_series),
            (labels([("kind", "snapshot")]), state.refused_snapshots),
            (labels([("kind", "probe_results")]), state.lost_probe_results),
        ],
    );
    page.gauge(
        "agent_spool_waiting",
        "Frames not sent yet, by kind",
        None,
        [(labels([("kind", "signal")]), spool.waiting_signals), (labels([("kind", "window")]), spool.waiting_windows)],
    );
    page.gauge("agent_spool_in_flight", "Frames sent and not acknowledged", None, one(spool.in_flight));
    page.gauge("agent_spool_disk", "Frames kept on disk", Some(Unit::Bytes), one(spool.disk_bytes));
    page.gauge(
        "agent_spool_memory",
        "Frames kept in memory because the disk refused them",
        Some(Unit::Bytes),
        one(spool.memory_bytes),
    );
    page.counter(
        "agent_spool_cut",
        "Frames that a quota cut before they were acknowledged, by kind",
        None,
        [(labels([("kind", "signal")]), spool.cut_signals), (labels([("kind", "window")]), spool.cut_windows)],
    );
    page.counter("agent_spool_disk_errors", "Refusals of the disk", None, one(spool.disk_errors + state.sync_errors));
    if let Some(until) = state.certificate_not_after.and_then(|end| end.duration_since(std::time::UNIX_EPOCH).ok()) {
        page.gauge(
            "agent_certificate_not_after_timestamp",
            "End of the own certificate, Unix time",
            Some(Unit::Seconds),
            one(until.as_secs()),
        );
    }
}

fn loss(page: &mut Page, shared: &Shared, outbox: &Outbox) {
    let account = outbox.account();
    page.counter(
        "agent_occurrences_seen",
        "Events, signals and windows settled: delivered or dropped",
        None,
        one(account.seen),
    );
    page.counter(
        "agent_occurrences_delivered",
        "Of these: taken by the next room and not cut since",
        None,
        one(account.delivered),
    );
    page.counter(
        "agent_occurrences_dropped",
        "Of these: dropped, by reason",
        None,
        account.dropped.iter().map(|(reason, count)| (labels([("reason", reason)]), *count)),
    );
    page.gauge("agent_occurrences_pending", "Noticed and not settled yet", None, one(shared.book.pending()));
}

fn sources(page: &mut Page, reports: &[SourceReport]) {
    let by_source = |value: fn(&SourceReport) -> u64| {
        reports.iter().map(move |report| (labels([("source", report.source)]), value(report))).collect::<Vec<_>>()
    };
    page.gauge("source_on", "Being read (1) or off (0)", None, by_source(|r| (r.state == SourceState::On).into()));
    page.counter("source_reads", "Reads done", None, by_source(|r| r.reads));
    page.counter("source_events", "Events taken between reads", None, by_source(|r| r.events));
    page.counter("source_readings", "Values read", None, by_source(|r| r.readings));
    #[expect(clippy::cast_precision_loss, reason = "a duration for a graph")]
    let cost = reports.iter().map(|r| (labels([("source", r.source)]), r.cost_ns as f64 / 1e9)).collect::<Vec<_>>();
    page.counter("source_cost", "Time spent reading", Some(Unit::Seconds), cost);
    let cadence = reports.iter().map(|r| (labels([("source", r.source)]), r.cadence.as_secs_f64())).collect::<Vec<_>>();
    page.gauge("source_cadence", "Time between reads", Some(Unit::Seconds), cadence);
    page.gauge(
        "source_backed_off",
        "How often the cadence was halved to stay within the budget of processor time",
        None,
        by_source(|r| r.backed_off.into()),
    );
    #[expect(clippy::cast_precision_loss, reason = "a duration for a graph")]
    let cpu = reports.iter().map(|r| (labels([("source", r.source)]), r.cpu_ns as f64 / 1e9)).collect::<Vec<_>>();
    page.counter("source_cpu", "Processor time of the source's thread", Some(Unit::Seconds), cpu);
    #[expect(clippy::cast_precision_loss, reason = "a duration for a graph")]
    let rtnl = reports.iter().map(|r| (labels([("source", r.source)]), r.rtnl_ns as f64 / 1e9)).collect::<Vec<_>>();
    page.counter("source_rtnl", "Time for which reads held RTNL or waited for it", Some(Unit::Seconds), rtnl);
    page.gauge("source_series_memory", "Memory of its series", Some(Unit::Bytes), by_source(|r| r.series_bytes));
    page.gauge(
        "source_series_left_out",
        "Series beyond the memory that a source may take",
        None,
        by_source(|r| r.series_left_out),
    );
    page.counter(
        "source_missed_deadlines",
        "Deadlines that passed without a read",
        None,
        by_source(|r| r.missed_deadlines),
    );
    let errors = reports.iter().flat_map(|report| {
        ErrorReason::ALL
            .iter()
            .zip(report.errors)
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (labels([("source", report.source), ("reason", reason.name())]), count))
    });
    page.counter("source_errors", "What could not be read, by reason", None, errors.collect::<Vec<_>>());
    let rejected = reports.iter().flat_map(|report| {
        [
            ("unknown_series", report.rejects.unknown_series),
            ("wrong_kind", report.rejects.wrong_kind),
            ("out_of_order", report.rejects.out_of_order),
            ("over_capacity", report.over_capacity),
        ]
        .map(|(reason, count)| (labels([("source", report.source), ("reason", reason)]), count))
    });
    page.counter(
        "source_rejected_readings",
        "Readings that did not reach a window, by reason",
        None,
        rejected.filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
    );
}

fn gpu(page: &mut Page, view: &GpuView) {
    page.gauge("gpu_probes_loaded", "The kernel half is loaded", None, one(view.loaded));
    page.counter("gpu_kernel_events_seen", "Events the kernel half was to send", None, one(view.events_seen));
    page.counter("gpu_kernel_events_submitted", "Events it put into the ring", None, one(view.events_submitted));
    page.counter("gpu_kernel_events_read", "Events taken out of the ring", None, one(view.events_read));
    let lost = view.kernel_dropped.iter().map(|(reason, count)| (labels([("reason", reason)]), *count));
    page.counter("gpu_kernel_lost", "What the kernel half could not send or record, by reason", None, lost);
    let discovery = view.discovery.iter().map(|(kind, count)| (labels([("kind", kind)]), *count));
    page.counter("gpu_discovery", "What the search for GPU libraries did and missed, by kind", None, discovery);
    let live = view.state.processes.iter().filter(|process| process.exited_unix_ns.is_none());
    page.gauge("gpu_processes", "Processes that use a GPU now", None, one(live.clone().count() as u64));
    let mut coverage: BTreeMap<&str, u64> = BTreeMap::new();
    for row in &view.state.coverage {
        *coverage.entry(&row.status).or_default() += 1;
    }
    page.gauge(
        "gpu_objects",
        "Libraries and programs of GPU processes, by status",
        None,
        coverage.iter().map(|(status, count)| (labels([("status", status)]), *count)),
    );
    let mut allocated: BTreeMap<(&str, &str, String), u64> = BTreeMap::new();
    for balance in live.flat_map(|process| &process.balances) {
        let device = balance.device.map_or_else(|| "unknown".to_owned(), |device| device.to_string());
        let layer = if balance.layer == i32::from(railwatch_wire::v1::GpuLayer::Driver) { "driver" } else { "runtime" };
        *allocated.entry((&balance.api, layer, device)).or_default() += balance.allocated_bytes;
    }
    page.gauge(
        "gpu_allocated",
        "Memory held by the processes of this host, by interface, layer and device ordinal as the processes count; layers see the same memory and are not to be added",
        Some(Unit::Bytes),
        allocated.iter().map(|((api, layer, device), bytes)| (labels([("api", api), ("layer", layer), ("device", device)]), *bytes)),
    );
}

fn nics(page: &mut Page, shared: &Shared) {
    let ports = shared.ports.all();
    page.gauge(
        "port_info",
        "Always 1; its labels say how each port stands",
        None,
        ports.iter().map(|port| {
            (
                labels([
                    ("port", &port.name),
                    ("kind", port.kind.name()),
                    ("state", &port.state),
                    ("driver", &port.driver),
                ]),
                1u64,
            )
        }),
    );
    page.gauge(
        "port_speed",
        "Link speed as the driver says",
        Some(Unit::Other("bytes_per_second".into())),
        ports.iter().filter_map(|port| Some((labels([("port", &port.name)]), port.speed_bits_per_s? / 8))),
    );
    let mut by_name: BTreeMap<(&str, bool), Vec<Arc<SeriesDef>>> = BTreeMap::new();
    let all = shared.catalog.all();
    // Processes come and go without bound: they are no label.
    for def in all.iter().filter(|def| def.entity().kind != "process") {
        by_name.entry((def.name(), matches!(def.kind(), Kind::Counter(_)))).or_default().push(Arc::clone(def));
    }
    for ((name, is_counter), defs) in by_name {
        let row = railwatch_vocabulary::find(name);
        let (unit, scale) = defs.first().map_or((None, 1.0), |def| unit(row, def.unit()));
        let values: Vec<_> =
            defs.iter().filter_map(|def| Some((series_labels(def), shared.value(def.id())?))).collect();
        let help =
            row.map_or_else(|| format!("Series {name}, which docs/metrics.md lacks"), |row| row.meaning.to_owned());
        if !is_counter {
            let values = values.into_iter().map(|(labels, value)| (labels, value.last * scale));
            page.gauge(plain(name), help, unit, values);
        } else if scale != 1.0 {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a time or an energy for a graph; the exact one is in the window"
            )]
            let values = values.into_iter().map(|(labels, value)| (labels, value.total as f64 * scale));
            page.counter(plain(name), help, unit, values);
        } else {
            let values = values.into_iter().map(|(labels, value)| (labels, value.total));
            page.counter(plain(name), help, unit, values);
        }
    }
}

fn series_labels(def: &SeriesDef) -> Labels {
    let own = def.labels().iter().map(|(key, value)| (Cow::Owned(plain(key)), value.clone()));
    std::iter::once((Cow::Borrowed("entity"), def.entity().name.clone())).chain(own).collect()
}

/// Base unit of a series on the page, and how many of it one of ours is: the vocabulary's, and for a series that it lacks
/// the one of its UCUM code.
fn unit(row: Option<&Series>, ucum: &str) -> (Option<Unit>, f64) {
    let BaseUnit { suffix, factor } = row.map_or_else(|| base_unit(ucum), Series::base_unit);
    (suffix.map(|suffix| Unit::Other(suffix.to_owned())), factor)
}
