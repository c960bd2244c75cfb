//! What the collector says of itself and of its fleet to Prometheus.
//!
//! [`Counters`]: its own counters, moved where things happen. [`Fleet`]: written anew for each scrape from live state,
//! so the series of a host that left leave with it. Labels are hosts, devices, ports and reasons known to the code;
//! never a process, a series or anything a host can invent without bound.

use crate::{
    api,
    auth::Tokens,
    bursts::Bursts,
    clock::Timeline,
    core::{CoreHandle, LATENCY_BOUNDS_MS},
    live::{Host, Live},
    probes::Probes,
    switches::Table as Switches,
    tape::kept::Kept,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};
use railwatch_engine::{Incident, IncidentState, Severity};
use railwatch_pki::HandshakeCounts;
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

/// Ports of one host that are shown to Prometheus; the API shows all.
const PORTS_PER_HOST_MAX: usize = 64;
/// Devices of one host and layer that are shown to Prometheus.
const DEVICES_PER_HOST_MAX: usize = 64;

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One of a fixed set.
    pub reason: &'static str,
}

/// What kind of frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// "signal" or "windows".
    pub kind: &'static str,
}

/// The collector's own counters.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Signal frames taken.
    pub signals: Counter,
    /// Windows frames taken.
    pub windows: Counter,
    /// Samples taken.
    pub samples: Counter,
    /// Frames, samples, definitions and states refused.
    pub refused: Family<ReasonLabel, Counter>,
    /// Messages that could not be read, which ends their stream.
    pub unreadable: Family<ReasonLabel, Counter>,
    /// Streams turned away or ended, by reason.
    pub rejected_streams: Family<ReasonLabel, Counter>,
    /// Streams opened.
    pub streams_opened: Counter,
    /// Streams ended.
    pub streams_closed: Counter,
    /// Frames that their spool says it cut.
    pub skipped: Family<KindLabel, Counter>,
    /// Frames missing from a stream without explanation.
    pub missing: Counter,
    /// Frames given to the core.
    pub frames_submitted: Counter,
    /// Frames of those that are stored and acknowledged.
    pub frames_acknowledged: Counter,
    /// From taking a frame to acknowledging it.
    pub acknowledge_seconds: Histogram,
    /// Configuration reloads that were refused.
    pub reloads_refused: Counter,
    /// One while the last reload was refused.
    pub configuration_stale: Gauge,
    /// Telemetry points given to the OTLP exporter.
    pub otlp_points: Counter,
    /// Of those, delivered.
    pub otlp_delivered: Counter,
    /// Of those, dropped.
    pub otlp_dropped: Family<ReasonLabel, Counter>,
}

impl Counters {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let counters = Self {
            signals: Counter::default(),
            windows: Counter::default(),
            samples: Counter::default(),
            refused: Family::default(),
            unreadable: Family::default(),
            rejected_streams: Family::default(),
            streams_opened: Counter::default(),
            streams_closed: Counter::default(),
            skipped: Family::default(),
            missing: Counter::default(),
            frames_submitted: Counter::default(),
            frames_acknowledged: Counter::default(),
            acknowledge_seconds: Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
            ]),
            reloads_refused: Counter::default(),
            configuration_stale: Gauge::default(),
            otlp_points: Counter::default(),
            otlp_delivered: Counter::default(),
            otlp_dropped: Family::default(),
        };
        let Self {
            signals,
            windows,
            samples,
            refused,
            unreadable,
            rejected_streams,
            streams_opened,
            streams_closed,
            skipped,
            missing,
            frames_submitted,
            frames_acknowledged,
            acknowledge_seconds,
            reloads_refused,
            configuration_stale,
            otlp_points,
            otlp_delivered,
            otlp_dropped,
        } = counters.clone();
        registry.register("build", "What runs here", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("uplink_signals", "Signal frames taken", signals);
        registry.register("uplink_windows", "Windows frames taken", windows);
        registry.register("uplink_samples", "Window samples taken: one series in one window each", samples);
        registry.register("uplink_refused", "Frames, samples, definitions and states refused, by reason", refused);
        registry.register(
            "uplink_unreadable",
            "Messages that could not be read, each of which ended its stream",
            unreadable,
        );
        registry.register(
            "uplink_streams_rejected",
            "Streams turned away or ended by the collector, by reason",
            rejected_streams,
        );
        registry.register("uplink_streams_opened", "Streams opened", streams_opened);
        registry.register("uplink_streams_closed", "Streams ended; opened less closed are open", streams_closed);
        registry.register("uplink_skipped", "Frames that agents cut from their spools at the quota, by kind", skipped);
        registry.register("uplink_missing", "Frames missing from a stream without explanation", missing);
        registry.register("uplink_frames_submitted", "Frames given to the store and the engine", frames_submitted);
        registry.register(
            "uplink_frames_acknowledged",
            "Frames stored and acknowledged; submitted less acknowledged are in the queue",
            frames_acknowledged,
        );
        registry.register_with_unit(
            "uplink_acknowledge",
            "From taking a frame to acknowledging it",
            Unit::Seconds,
            acknowledge_seconds,
        );
        registry.register(
            "configuration_reloads_refused",
            "Reloads refused because the file was bad; the old configuration stayed",
            reloads_refused,
        );
        registry.register(
            "configuration_stale",
            "1 while the configuration file is bad and an older one is in force",
            configuration_stale,
        );
        registry.register("otlp_points", "Points and log records given to the OTLP exporter", otlp_points);
        registry.register("otlp_delivered", "Points and log records that the OTLP endpoint took", otlp_delivered);
        registry.register(
            "otlp_dropped",
            "Points and log records that never reached the OTLP endpoint, by reason",
            otlp_dropped,
        );
        counters
    }

    /// Counts points or records that never reached the OTLP endpoint.
    pub fn otlp_drop(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.otlp_dropped.get_or_create(&ReasonLabel { reason }).inc_by(count);
        }
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: &'static str, count: u64) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc_by(count);
    }
}

/// Open incidents and how bad each is.
#[derive(Clone, Debug, Default)]
pub struct OpenIncidents(Arc<Mutex<BTreeMap<u64, Severity>>>);

impl OpenIncidents {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Severity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These and no others are open.
    pub fn replace(&self, incidents: &[Incident]) {
        *self.open() = incidents.iter().map(|incident| (incident.id, incident.severity)).collect();
    }

    /// An incident is now this.
    pub fn update(&self, incident: &Incident) {
        match incident.state {
            IncidentState::Open => self.open().insert(incident.id, incident.severity),
            IncidentState::Resolved => self.open().remove(&incident.id),
        };
    }

    fn by_severity(&self) -> [(&'static str, usize); 4] {
        let open = self.open();
        [
            ("info", Severity::Info),
            ("warning", Severity::Warning),
            ("error", Severity::Error),
            ("critical", Severity::Critical),
        ]
        .map(|(label, severity)| (label, open.values().filter(|open| **open == severity).count()))
    }
}

/// The core, the store and the handshakes, as their own figures say at each scrape.
pub struct Inside {
    /// The core.
    pub core: CoreHandle,
    /// Open incidents.
    pub incidents: OpenIncidents,
    /// TLS handshakes.
    pub handshakes: Arc<HandshakeCounts>,
    /// The API.
    pub api: Arc<api::counters::Counters>,
    /// Its tokens.
    pub tokens: Arc<Tokens>,
    /// Pieces of tape around incidents.
    pub kept: Kept,
    /// Bursts asked of agents.
    pub bursts: Bursts,
    /// Probes.
    pub probes: Probes,
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inside")
    }
}

impl Collector for Inside {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let figures = self.core.figures();
        let tape = self.kept.figures();
        let bursts = self.bursts.figures();
        let overload = self.core.overload().figures();
        let probes = self.probes.figures();
        for (name, help, value) in [
            ("store_frames_accepted", "Frames stored", figures.frames_accepted),
            ("store_frames_duplicate", "Frames that had been stored before", figures.frames_duplicate),
            (
                "store_frames_missing",
                "Frames that never came and that no agent's account explains",
                figures.frames_missing,
            ),
            ("store_signals", "Signals stored and judged", figures.signals),
            ("store_commits", "Transactions", figures.commits),
            ("store_commits_failed", "Transactions that failed and were tried again", figures.commits_failed),
            ("orders", "Orders given to the executor", figures.orders),
            ("stalls", "Times the collector stood still for too long to judge silence", figures.stalls),
            ("api_requests_answered", "API requests answered with a status below 400", self.api.answered.get()),
            ("api_requests_denied", "API requests without a good token", self.api.denied.get()),
            ("api_requests_forbidden", "API requests whose token may not do that", self.api.forbidden.get()),
            ("api_requests_refused", "API requests refused otherwise", self.api.refused.get()),
            ("api_requests_failed", "API requests that failed here", self.api.failed.get()),
            ("api_watchers", "Watchers that began", self.api.watchers.get()),
            ("api_watchers_stuck", "Watchers cut off because they did not read", self.api.watchers_stuck.get()),
            ("api_changes_missed", "Changes that slow watchers were told they missed", self.api.changes_missed.get()),
            (
                "api_connections_refused",
                "Connections to the API closed at once because there were too many",
                self.api.connections_refused.get(),
            ),
            (
                "api_connections_broken",
                "Connections to the API that ended in an error: bad TLS, bad HTTP, too slow",
                self.api.connections_broken.get(),
            ),
            ("api_token_failures", "API calls with a bad token or none", self.tokens.failures()),
            (
                "api_token_reloads_refused",
                "Changed tokens files refused; the tokens read before stayed in force",
                self.tokens.bad_reloads(),
            ),
            ("engine_frames_repeated", "Frames that came to the engine twice", figures.engine.frames_repeated),
            ("engine_signals_unread", "Signals that no detector reads", figures.engine.signals_unread),
            ("engine_signals_late", "Signals that came long after the fact", figures.engine.signals_late),
            (
                "engine_incidents_refused",
                "Faults that became no incident because too many are open",
                figures.engine.incidents_refused,
            ),
            (
                "engine_histories_refused",
                "Late stories not told because too many are being told",
                figures.engine.histories_refused,
            ),
            ("tape_pieces_kept", "Pieces of tape kept, one for each incident", tape.kept),
            ("tape_pieces_failed", "Pieces not had from their host, or not written", tape.failed),
            ("tape_pieces_skipped", "Pieces not tried because too many incidents came at a time", tape.skipped),
            ("tape_pieces_evicted", "Kept pieces removed again to stay within the bounds", tape.evicted),
            ("overload_changes", "Changes of the level of load", overload.changes),
            ("bursts_by_person", "Bursts of agents that a person asked for", bursts.by_person),
            ("bursts_by_incident", "Bursts of agents because of an incident", bursts.by_incident),
            ("bursts_not_done", "Bursts of hosts that were away, gave no answer or refused", bursts.not_done),
            ("bursts_held_back", "Bursts for incidents not sent, to stay within the limits", bursts.held_back),
            ("engine_hosts_refused", "Hosts not watched because too many are", figures.engine.hosts_refused),
            ("probes_plans", "Plans of probes made because something changed", probes.plans),
            ("probes_results", "Intervals for which agents told what became of their probes", probes.results),
            ("probes_unknown_flows", "Results of flows that are in no plan", probes.unknown_flows),
            ("probes_suspects_refused", "Suspects not followed because there are too many", probes.suspects_refused),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let seconds = ConstCounter::new(figures.commit_ns as f64 / 1e9);
        seconds.encode(encoder.encode_descriptor(
            "store_commit_seconds",
            "Time that transactions took",
            None,
            MetricType::Counter,
        )?)?;
        for (name, help, value) in [
            ("hosts_connected", "Hosts with an open stream", figures.hosts_connected),
            ("hosts_watched", "Hosts that should be heard", figures.hosts_watched),
            (
                "store_unwritable",
                "1 while nothing can be stored or acknowledged",
                u64::from(self.core.store_error().is_some()),
            ),
            (
                "overload_level",
                "0 normal; 1 busy: pieces of tape are refused; 2 overloaded: windows are shed and new hosts turned away",
                overload.level as u64,
            ),
            ("store_frames_waiting", "Frames waiting for the store and the engine", overload.frames),
            ("halted", "1 while all acting is halted", u64::from(self.core.halted().is_some())),
            ("probes_flows", "Flows of probes in the plan", probes.flows),
            (
                "probes_suspects",
                "Directions of links and NICs around which probes are sent more often",
                probes.suspects,
            ),
            ("probes_directions", "Directions of known links that are up", probes.directions),
            ("probes_directions_covered", "Of them, those that probes cross at the rate they should", probes.covered),
            ("probes_job_pairs", "Pairs of NICs of jobs that run, where these are to be probed", probes.job_pairs),
            (
                "probes_job_pairs_left_out",
                "Of them, those that are not probed because there is no room",
                probes.job_pairs_left_out,
            ),
            ("probes_jobs_left_out", "Jobs whose pairs are not probed because too many run", probes.jobs_left_out),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let lag = ConstGauge::new(overload.lag_ms as f64 / 1e3);
        lag.encode(encoder.encode_descriptor(
            "store_lag_seconds",
            "From the arrival of the oldest frame of a transaction to having stored it",
            None,
            MetricType::Gauge,
        )?)?;
        let most = ConstGauge::new(probes.packets_per_s_per_nic_most);
        most.encode(encoder.encode_descriptor(
            "probes_packets_per_second_most",
            "Probes and answers planned of the NIC that sends most",
            None,
            MetricType::Gauge,
        )?)?;
        let mut shed =
            Table::new("overload_shed", "Left out and counted while there was too much to do, by what it was");
        for (what, count) in [
            ("tape", overload.tapes_refused),
            ("windows", overload.windows_shed),
            ("streams", overload.hosts_turned_away),
        ] {
            shed.push(vec![("what", what.to_owned())], count);
        }
        shed.write(&mut encoder, MetricType::Counter, ConstCounter::new)?;
        let mut open = Table::new("incidents_open", "Open incidents, by severity");
        for (severity, count) in self.incidents.by_severity() {
            open.push(vec![("severity", severity.to_owned())], i64::try_from(count).unwrap_or(i64::MAX));
        }
        open.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        let mut handshakes = Table::new("uplink_handshakes", "TLS handshakes of the uplink, by how they ended");
        for (outcome, count) in [
            ("identified", &self.handshakes.identified),
            ("failed", &self.handshakes.failed),
            ("slow", &self.handshakes.slow),
            ("nameless", &self.handshakes.nameless),
        ] {
            handshakes.push(vec![("outcome", outcome.to_owned())], count.load(Ordering::Relaxed));
        }
        handshakes.write(&mut encoder, MetricType::Counter, ConstCounter::new)?;
        let bounds_s = LATENCY_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3).chain([f64::MAX]);
        let buckets: Vec<_> = bounds_s.zip(figures.signal_latency_buckets).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let help = "From taking a signal to having stored and judged it";
        encoder.encode_descriptor("signal_seconds", help, None, MetricType::Histogram)?.encode_histogram::<NoLabelSet>(
            figures.signal_latency_ns as f64 / 1e9,
            count,
            &buckets,
            None,
        )
    }
}

/// A bounded view of the fleet, written anew for each scrape.
pub struct Fleet {
    live: Live,
}

impl Fleet {
    /// Shows `live`.
    pub fn register(registry: &mut Registry, live: Live) {
        registry.register_collector(Box::new(Self { live }));
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fleet")
    }
}

type Labels = Vec<(&'static str, String)>;

struct Table<T> {
    name: &'static str,
    help: &'static str,
    rows: Vec<(Labels, T)>,
}

impl<T> Table<T> {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, rows: Vec::new() }
    }

    fn push(&mut self, labels: Labels, value: T) {
        self.rows.push((labels, value));
    }

    fn write<M: EncodeMetric>(
        self,
        encoder: &mut DescriptorEncoder,
        kind: MetricType,
        metric: impl Fn(T) -> M,
    ) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut family = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (labels, value) in self.rows {
            metric(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let now = Timeline::now();
        let mut up = Table::new("host_up", "1 while a stream of the host's agent is open");
        let mut seen_seconds = Table::new("host_last_seen_seconds", "Since anything was heard from the host");
        let mut offset =
            Table::new("host_clock_offset_seconds", "The host's CLOCK_REALTIME less the collector's timeline");
        let mut uncertainty = Table::new("host_clock_uncertainty_seconds", "The true offset lies within this");
        let mut series = Table::new("host_series", "Series the host has defined");
        let mut lost = Table::new("host_dropped", "What the host's agent and the collector had to drop");
        let mut gpu_bytes = Table::new(
            "gpu_allocated_bytes",
            "Device memory held by all processes of a device, by layer and API; one runtime allocation shows in its driver layer too",
        );
        let mut gpu_failed = Table::new("gpu_failed_allocations", "Failed allocations of the host's living processes");
        let mut nic = RATES.map(|(_, name, help)| Table::new(name, help));
        let mut nic_up = Table::new("nic_up", "1 while the port's state is up");
        for cell in self.live.cells() {
            let host = cell.lock();
            let named = || vec![("host", host.name.clone())];
            up.push(named(), i64::from(host.connected));
            seen_seconds.push(named(), now.0.saturating_sub(host.last_seen.0) as f64 / 1e9);
            if let Some(estimate) = host.clock.estimate(now) {
                uncertainty.push(named(), estimate.uncertainty_ns as f64 / 1e9);
            }
            if let Some(ns) = host.clock.realtime_offset_ns(now) {
                offset.push(named(), ns as f64 / 1e9);
            }
            series.push(named(), i64::try_from(host.series.len()).unwrap_or(i64::MAX));
            lost.push(
                named(),
                host.loss
                    .dropped
                    .values()
                    .chain(host.rejected_frames.values())
                    .fold(0_u64, |sum, n| sum.saturating_add(*n)),
            );
            let mut devices: BTreeMap<(Option<i32>, i32, &str), i64> = BTreeMap::new();
            let mut failed = 0_u64;
            for process in host.gpu.processes.iter().filter(|process| process.exited_unix_ns.is_none()) {
                for balance in &process.balances {
                    failed = failed.saturating_add(balance.failed_allocs);
                    let key = (balance.device, balance.layer, balance.api.as_str());
                    if devices.len() < DEVICES_PER_HOST_MAX || devices.contains_key(&key) {
                        let sum = devices.entry(key).or_default();
                        *sum = sum.saturating_add(i64::try_from(balance.allocated_bytes).unwrap_or(i64::MAX));
                    }
                }
            }
            if !host.gpu.processes.is_empty() {
                gpu_failed.push(named(), i64::try_from(failed).unwrap_or(i64::MAX));
            }
            for ((device, layer, api), bytes) in devices {
                let device = device.map_or_else(|| "unknown".to_owned(), |device| device.to_string());
                let layer = if layer == 2 { "driver" } else { "runtime" };
                let labels = vec![
                    ("host", host.name.clone()),
                    ("device", device),
                    ("layer", layer.to_owned()),
                    ("api", api.to_owned()),
                ];
                gpu_bytes.push(labels, bytes);
            }
            for port in host.ports.iter().take(PORTS_PER_HOST_MAX) {
                let labels =
                    vec![("host", host.name.clone()), ("port", port.name.clone()), ("kind", port.kind.clone())];
                nic_up.push(
                    labels,
                    i64::from(port.state.eq_ignore_ascii_case("up") || port.state.eq_ignore_ascii_case("active")),
                );
            }
            rates(&host, &mut nic);
        }
        up.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        seen_seconds.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        offset.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        uncertainty.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        series.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        lost.write(&mut encoder, MetricType::Counter, ConstCounter::new)?;
        gpu_bytes.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        gpu_failed.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        nic_up.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        switches(self.live.switches(), &mut encoder)?;
        let found = self.live.inventories().standing().found();
        let mut drift = Table::new(
            "config_drift_items",
            "Values of the fleet's inventory that differ from what most peers have, by key; looked at once a minute",
        );
        for (key, count) in found.items {
            drift.push(vec![("key", key.to_owned())], i64::try_from(count).unwrap_or(i64::MAX));
        }
        drift.write(&mut encoder, MetricType::Gauge, ConstGauge::new)?;
        let hosts = ConstGauge::new(i64::try_from(found.hosts).unwrap_or(i64::MAX));
        let help = "Hosts with any such value";
        hosts.encode(encoder.encode_descriptor("config_drift_hosts", help, None, MetricType::Gauge)?)?;
        nic.into_iter().try_for_each(|table| table.write(&mut encoder, MetricType::Gauge, ConstGauge::new))
    }
}

/// Ports of one switch that are shown to Prometheus; the API shows all.
const PORTS_PER_SWITCH_MAX: usize = 256;
/// The rates of switches that people graph, by the name of their series.
const SWITCH_RATES: [(&str, &str, &str); 3] = [
    ("hw.network.io", "switch_io_bytes_per_second", "Rate of a switch's port between its last two samples"),
    (
        "hw.network.dropped",
        "switch_dropped_per_second",
        "Packets that a switch's port drops, between its last two samples",
    ),
    (
        "hw.network.errors",
        "switch_errors_per_second",
        "Bad packets that a switch's port counts, between its last two samples",
    ),
];

fn switches(switches: &Switches, encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut up = Table::new("switch_up", "1 while the stream of the switch is open");
    let mut port_up = Table::new("switch_port_up", "1 while the switch says that its port is up");
    let mut unusable = Table::new("switch_unusable", "Values of a switch that were not taken, by reason");
    let mut lost = Table::new("switch_signals_lost", "Signals of a switch that could not be stored");
    let mut rates = SWITCH_RATES.map(|(_, name, help)| Table::new(name, help));
    let cells = switches.cells();
    for cell in &cells {
        let switch = cell.lock();
        let named = || vec![("switch", switch.name.clone())];
        if switch.address.is_some() {
            up.push(named(), i64::from(switch.connected_since.is_some()));
        }
        lost.push(named(), switch.counts.signals_lost);
        for (reason, count) in [("refused", switch.counts.refused), ("malformed", switch.counts.malformed)] {
            unusable.push(vec![("switch", switch.name.clone()), ("reason", reason.to_owned())], count);
        }
        for (name, port) in switch.state.ports.iter().take(PORTS_PER_SWITCH_MAX) {
            let of_port = || vec![("switch", switch.name.clone()), ("port", name.clone())];
            port_up.rows.extend(port.up.map(|up| (of_port(), i64::from(up))));
            for ((counted, _), counter) in &port.counters {
                let at = SWITCH_RATES.iter().position(|(series, ..)| *series == counted.series);
                let (Some(at), Some(growth), Some(direction)) = (at, counter.growth, counted.direction) else {
                    continue;
                };
                let mut labels = of_port();
                labels.push(("direction", direction.to_owned()));
                rates[at].push(labels, growth.per_s());
            }
        }
    }
    up.write(encoder, MetricType::Gauge, ConstGauge::new)?;
    port_up.write(encoder, MetricType::Gauge, ConstGauge::new)?;
    unusable.write(encoder, MetricType::Counter, ConstCounter::new)?;
    lost.write(encoder, MetricType::Counter, ConstCounter::new)?;
    rates.into_iter().try_for_each(|table| table.write(encoder, MetricType::Gauge, ConstGauge::new))?;
    if cells.is_empty() {
        return Ok(());
    }
    let mut sflow =
        Table::new("switch_sflow_datagrams", "Datagrams of sFlow by what became of them; malformed counts samples too");
    let counts = switches.sflow();
    for (outcome, count) in [
        ("taken", &counts.taken),
        ("unknown_agent", &counts.unknown),
        ("malformed", &counts.malformed),
        ("lost", &counts.lost),
    ] {
        sflow.push(vec![("outcome", outcome.to_owned())], count.load(Ordering::Relaxed));
    }
    sflow.write(encoder, MetricType::Counter, ConstCounter::new)
}

/// The rates people graph, by the name of their series; everything else is in the API and in OTLP.
const RATES: [(&str, &str, &str); 3] = [
    ("io", "nic_io_bytes_per_second", "Mean rate of a port in its newest window"),
    ("packets", "nic_packets_per_second", "Mean packet rate of a port in its newest window"),
    ("errors", "nic_errors_per_second", "Mean error rate of a port in its newest window"),
];

fn rates(host: &Host, tables: &mut [Table<f64>; 3]) {
    let mut shown = HashSet::new();
    for series in host.series.iter() {
        let (definition, reading) = (&series.definition, &series.reading);
        let of_port = matches!(definition.entity_kind.as_str(), "nic" | "port");
        let name = definition.name.strip_prefix("hw.network.").or_else(|| definition.name.strip_prefix("rdma.port."));
        let at = name.and_then(|name| RATES.iter().position(|(rate, ..)| *rate == name));
        let Some(at) = at.filter(|_| of_port && definition.monotonic && reading.count > 0) else {
            continue;
        };
        let direction = definition.labels.get("network.io.direction").map_or("", String::as_str);
        // Two series that differ in other labels only are one line here, and the first is shown.
        if shown.len() == PORTS_PER_HOST_MAX * 6
            || !shown.insert((at, &definition.name, &definition.entity_name, direction))
        {
            continue;
        }
        let labels = [
            ("host", &*host.name),
            ("port", &definition.entity_name),
            ("series", &definition.name),
            ("direction", direction),
        ];
        tables[at]
            .push(labels.map(|(key, value)| (key, value.to_owned())).into(), reading.sum / f64::from(reading.count));
    }
}

/// A registry with the collector's counters and the view of `live`.
pub fn registry(live: Live) -> (Registry, Arc<Counters>) {
    let mut registry = Registry::with_prefix("railwatch_collector");
    let counters = Arc::new(Counters::new(&mut registry));
    Fleet::register(registry.sub_registry_with_prefix("fleet"), live);
    (registry, counters)
}
