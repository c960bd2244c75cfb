//! Links of RDMA ports.
//!
//! In: `ports/N/state` and `phys_state`. Out: `rdma.port.up`, 1 when the port is ACTIVE. For RoCE the interface's own
//! link notification is faster; for InfiniBand the kernel has no notification, so this is polled.

use crate::ports::{PortKind, Ports};
use crate::rdma::{self, RdmaPort};
use crate::sysfs::NumberFile;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Declare, ErrorReason, Kind, Moment, ReadError, Reading, SeriesHandle, Source, Unavailable,
    Value,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Port states, InfiniBand Architecture Specification, PortInfo.PortState.
const STATES: [&str; 6] = ["nop", "down", "init", "armed", "active", "active_defer"];
const ACTIVE: u64 = 4;

/// Links of all RDMA ports.
pub(crate) struct RdmaLinkSource {
    root: PathBuf,
    ports: Arc<Ports>,
    watched: Vec<Watched>,
}

struct Watched {
    name: String,
    state: NumberFile,
    physical: Option<NumberFile>,
    up: SeriesHandle,
    shown: Option<u64>,
}

impl RdmaLinkSource {
    pub(crate) fn new(root: PathBuf, ports: Arc<Ports>) -> Self {
        Self { root, ports, watched: Vec::new() }
    }
}

impl Source for RdmaLinkSource {
    fn name(&self) -> &'static str {
        "rdma.link"
    }

    fn kernel_path(&self) -> &str {
        "sysfs class/infiniband/*/ports/*/{state,phys_state}"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange {
            min: Duration::from_millis(10),
            default: Duration::from_millis(100),
            max: Duration::from_secs(10),
        }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let found = rdma::ports(&self.root).inspect_err(|_| self.ports.replace(PortKind::Rdma, []))?;
        self.watched = found.iter().filter_map(|port| watch(port, declare)).collect();
        self.ports.replace(PortKind::Rdma, found.iter().map(|port| port.info(&self.root)));
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        for Watched { name, state, physical, up, shown } in &mut self.watched {
            let before_ns = monotonic_ns();
            let state = match state.read() {
                Ok(state) => state,
                Err(reason) => {
                    batch.fault(reason);
                    batch.ask_for_probe();
                    continue;
                }
            };
            let moment = Moment::between(before_ns, monotonic_ns());
            let is_up = state == ACTIVE;
            // The reason is one more command to the device on some drivers: asked for when the state changes.
            let cause = if is_up || *shown == Some(state) { None } else { Some(cause(state, physical.as_ref())) };
            if *shown != Some(state) {
                let state_name = usize::try_from(state).ok().and_then(|state| STATES.get(state));
                self.ports.set_state(name, state_name.unwrap_or(&"unknown"));
            }
            *shown = Some(state);
            let value = Value::Gauge(if is_up { 1.0 } else { 0.0 });
            batch.push(Reading { series: *up, value, moment, cause });
        }
        Ok(())
    }
}

fn watch(port: &RdmaPort, declare: &mut Declare<'_>) -> Option<Watched> {
    Some(Watched {
        name: port.name(),
        state: NumberFile::open(&port.directory.join("state")).ok()?,
        physical: NumberFile::open(&port.directory.join("phys_state")).ok(),
        up: declare.series(port.series("rdma.port.up", "1", Kind::Gauge, []))?,
        shown: None,
    })
}

/// Why a port is not active: its physical state where that says more (PortInfo.PortPhysicalState).
fn cause(state: u64, physical: Option<&NumberFile>) -> &'static str {
    let physical = physical.map_or(Err(ErrorReason::Missing), NumberFile::read);
    match (state, physical) {
        (1, Ok(1)) => "sleep",
        (1, Ok(2)) => "polling",
        (1, Ok(3)) => "disabled",
        (1, Ok(4)) => "port_configuration_training",
        (1, Ok(6)) => "link_error_recovery",
        (1, _) => "down",
        (2, _) => "init_without_subnet_manager",
        (3, _) => "armed",
        _ => "not_active",
    }
}
