//! One row per port, for people.
//!
//! In: windows of the NIC sources, and what the ports are. Out: [`NicReading`]s in order of name. Never: a rate without
//! the time it was measured over.

use crate::ports::{PortInfo, PortKind, Ports};
use railwatch_sampling::{Catalog, SeriesDef, WindowFrame};
use std::collections::BTreeMap;

/// One port in one row.
#[derive(Clone, Debug, PartialEq)]
pub struct NicReading {
    /// `eth0`, `mlx5_2/1`.
    pub name: String,
    /// Interface or RDMA port.
    pub kind: PortKind,
    /// `up`, `down`, `active`, ….
    pub state: String,
    /// Link speed, bits per second.
    pub speed_bits_per_s: Option<u64>,
    /// Received in the last window, bytes per second; `None` where no reading says so.
    pub rx_bytes_per_s: Option<f64>,
    /// Sent in the last window, bytes per second.
    pub tx_bytes_per_s: Option<f64>,
    /// Errors of all kinds since the agent started.
    pub errors: u64,
}

/// Keeps what the last windows said of each port.
#[derive(Debug, Default)]
pub struct NicTable {
    traffic: BTreeMap<String, Traffic>,
}

#[derive(Debug, Default)]
struct Traffic {
    rx_bytes_per_s: Option<f64>,
    tx_bytes_per_s: Option<f64>,
    errors: u64,
}

impl NicTable {
    /// Takes a window of any source; series that say nothing of traffic or errors are passed over.
    pub fn update(&mut self, frame: &WindowFrame, catalog: &Catalog) {
        for (row, id) in frame.series.iter().enumerate() {
            let Some(def) = catalog.get(*id) else { continue };
            let Some(measure) = Measure::of(&def) else { continue };
            let traffic = self.traffic.entry(def.entity().name.clone()).or_default();
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate =
                (frame.covered_ns[row] > 0).then(|| frame.delta[row] as f64 * 1e9 / frame.covered_ns[row] as f64);
            match measure {
                Measure::Received => traffic.rx_bytes_per_s = rate.or(traffic.rx_bytes_per_s),
                Measure::Sent => traffic.tx_bytes_per_s = rate.or(traffic.tx_bytes_per_s),
                Measure::Errors => traffic.errors = traffic.errors.saturating_add(frame.delta[row]),
            }
        }
    }

    /// One row for each port there is.
    #[must_use]
    pub fn rows(&self, ports: &Ports) -> Vec<NicReading> {
        let row = |port: PortInfo| {
            let traffic = self.traffic.get(&port.name);
            NicReading {
                rx_bytes_per_s: traffic.and_then(|traffic| traffic.rx_bytes_per_s),
                tx_bytes_per_s: traffic.and_then(|traffic| traffic.tx_bytes_per_s),
                errors: traffic.map_or(0, |traffic| traffic.errors),
                name: port.name,
                kind: port.kind,
                state: port.state,
                speed_bits_per_s: port.speed_bits_per_s,
            }
        };
        ports.all().into_iter().map(row).collect()
    }
}

enum Measure {
    Received,
    Sent,
    Errors,
}

impl Measure {
    fn of(def: &SeriesDef) -> Option<Self> {
        match (def.name(), def.label("network.io.direction")) {
            ("hw.network.io" | "rdma.port.io", Some("receive")) => Some(Self::Received),
            ("hw.network.io" | "rdma.port.io", Some("transmit")) => Some(Self::Sent),
            // Interfaces count every kind of error in `hw.network.errors` already; RDMA ports do not.
            ("hw.network.errors", _) => Some(Self::Errors),
            (name, _) if name.starts_with("rdma.port.errors") => Some(Self::Errors),
            _ => None,
        }
    }
}
