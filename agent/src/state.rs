//! State for the collector: what changed since the last snapshot, part by part.

use crate::convert;
use crate::daemon::wire;
use crate::drops;
use crate::outbox::Outbox;
use crate::privileges::Limitation;
use crate::shared::{Part, Shared};
use railwatch_drops::Drops;
use railwatch_nic::{Addresses, PortInfo, PortKind};
use railwatch_sampling::SourceReport;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_wire::v1;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sources count with every read: their state goes out this often, everything else as it changes.
const SOURCES_EVERY: Duration = Duration::from_millis(900);

/// Sends snapshots.
pub struct StateSender {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    reports: Box<dyn Fn() -> Vec<SourceReport> + Send>,
    gpu_generation: Option<u64>,
    loss: Option<v1::LossAccount>,
    ports: Option<Vec<v1::PortState>>,
    modules: Option<Vec<v1::ModuleState>>,
    limitations: Vec<v1::Limitation>,
    left_out: Vec<(&'static str, u64)>,
    sources_at: Instant,
    drops: Option<Arc<Drops>>,
    drops_generation: Option<u64>,
    peers: Sent,
    placement: Sent,
    inventory: Sent,
    probe: Sent,
    addresses: Option<Addresses>,
}

/// The change of a [`Part`] that was sent last. Nothing counts as sent at first, so that a restarted agent takes back what the one before it said.
#[derive(Debug, Default)]
struct Sent(Option<u64>);

impl Sent {
    fn changed<T: Clone + PartialEq>(&mut self, part: &Part<T>) -> Option<T> {
        let (change, value) = part.get();
        (self.0.replace(change) != Some(change)).then(|| (*value).clone())
    }
}

impl StateSender {
    /// Everything counts as changed at first.
    pub fn new(
        shared: Arc<Shared>,
        outbox: Arc<Outbox>,
        reports: Box<dyn Fn() -> Vec<SourceReport> + Send>,
        drops: Option<Arc<Drops>>,
    ) -> Self {
        let addresses =
            Addresses::open().inspect_err(|error| tracing::warn!(%error, "addresses of ports are not told")).ok();
        Self {
            shared,
            outbox,
            reports,
            gpu_generation: None,
            loss: None,
            ports: None,
            modules: None,
            limitations: Vec::new(),
            left_out: Vec::new(),
            sources_at: Instant::now(),
            drops,
            drops_generation: None,
            peers: Sent::default(),
            placement: Sent::default(),
            inventory: Sent::default(),
            probe: Sent::default(),
            addresses,
        }
    }

    /// Hands over what changed; nothing where nothing did (the uplink keeps its own heartbeat).
    pub fn send_changes(&mut self) {
        let mut snapshot = v1::Snapshot { taken_mono_ns: monotonic_ns(), ..v1::Snapshot::default() };
        let view = self.shared.gpu();
        if self.gpu_generation != Some(view.generation) {
            self.gpu_generation = Some(view.generation);
            snapshot.gpu = Some((*view.state).clone());
        }
        let loss = self.outbox.account();
        if self.loss.as_ref() != Some(&loss) {
            self.loss = Some(loss.clone());
            snapshot.loss = Some(loss);
        }
        if let Some(Err(error)) = self.addresses.as_mut().map(Addresses::refresh) {
            tracing::debug!(%error, "addresses of ports are not read, and asked for again");
        }
        let of = |port: &PortInfo| match &self.addresses {
            Some(addresses) if port.kind == PortKind::Netdev => addresses.of(&port.name),
            _ => &[],
        };
        let ports = self.shared.ports.all();
        let ports: Vec<_> = ports.into_iter().map(|port| convert::port(port.clone(), of(&port))).collect();
        if self.ports.as_ref() != Some(&ports) {
            self.ports = Some(ports.clone());
            snapshot.no_ports = ports.is_empty();
            snapshot.ports = ports;
        }
        let modules: Vec<_> = self
            .shared
            .modules
            .all()
            .into_iter()
            .map(|(interface, module)| convert::module(interface, module))
            .collect();
        if self.modules.as_ref() != Some(&modules) {
            self.modules = Some(modules.clone());
            snapshot.no_modules = modules.is_empty();
            snapshot.modules = modules;
        }
        if Instant::now() >= self.sources_at {
            self.sources_at = Instant::now() + SOURCES_EVERY;
            let reports = (self.reports)();
            self.tell_left_out(&reports);
            snapshot.sources = reports.into_iter().map(convert::source).collect();
            let limitations = wire(&self.shared.limitations());
            if self.limitations != limitations {
                self.limitations.clone_from(&limitations);
                self.outbox.uplink().set_limitations(limitations);
            }
        }
        // Where they are not counted, an empty part once: what an agent before said is no longer so.
        let view = self.drops.as_ref().map(|drops| drops.view());
        let generation = view.as_ref().map_or(0, |view| view.generation);
        if self.drops_generation != Some(generation) {
            self.drops_generation = Some(generation);
            let of = |(view, drops): (_, &Arc<Drops>)| drops::state(view, drops.off());
            snapshot.drops = Some(view.as_deref().zip(self.drops.as_ref()).map(of).unwrap_or_default());
        }
        snapshot.peers = self.peers.changed(&self.shared.peers);
        snapshot.placement = self.placement.changed(&self.shared.placement);
        snapshot.inventory = self.inventory.changed(&self.shared.inventory);
        snapshot.probe = self.probe.changed(&self.shared.probe);
        let nothing_new = v1::Snapshot { taken_mono_ns: snapshot.taken_mono_ns, ..v1::Snapshot::default() };
        if snapshot != nothing_new {
            self.outbox.snapshot(snapshot);
        }
    }

    /// Series beyond the memory that their source may take are a thing this host cannot do.
    fn tell_left_out(&mut self, reports: &[SourceReport]) {
        let beyond = reports.iter().filter(|report| report.series_left_out > 0);
        let left_out: Vec<_> = beyond.map(|report| (report.source, report.series_left_out)).collect();
        if self.left_out == left_out {
            return;
        }
        let limitation = |(source, series): &(&'static str, u64)| {
            let why = format!("{series} series are beyond the memory that one source may take: they are not read");
            Limitation::new(format!("source {source}"), why)
        };
        self.shared.set_limitations("sampling.memory", left_out.iter().map(limitation).collect());
        self.left_out = left_out;
    }
}
