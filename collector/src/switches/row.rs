//! From a switch to the row people read. What it does not say is null, never zero.

use super::table::{Counts, Switch};
use crate::live::rfc3339;
use railwatch_switches::SwitchState;
use railwatch_switches::client::Limitation;
use railwatch_switches::series::{self, SeriesRow};
use railwatch_switches::state::{Module, Quantity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A switch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SwitchRow {
    /// As it is configured.
    pub name: String,
    /// As it calls itself; as configured until it does.
    pub system_name: String,
    /// Of its gNMI server.
    pub address: Option<String>,
    /// Its stream is open.
    pub connected: bool,
    /// RFC 3339.
    pub since: Option<String>,
    /// Why it is not connected.
    pub why: Option<String>,
    /// Of gNMI.
    pub gnmi_version: Option<String>,
    /// Models it has.
    pub models: Option<u64>,
    /// Between samples of counters; 0: as fast as it can.
    pub sample_ms: Option<u64>,
    /// What it does not offer, and why that is known.
    pub limitations: Vec<Limitation>,
    /// By name.
    pub ports: Vec<PortRow>,
    /// By component.
    pub modules: Vec<ModuleRow>,
    /// By component.
    pub parts: Vec<PartRow>,
    /// What came by sFlow, where that is configured.
    pub sflow: Option<SflowRow>,
    /// What was done with what it sent.
    pub counts: Counts,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortRow {
    /// As the switch calls it.
    pub name: String,
    /// It carries traffic.
    pub up: Option<bool>,
    /// Its administrator wants it to.
    pub admin_up: Option<bool>,
    /// Speed.
    pub speed_bits_per_s: Option<u64>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It may be an end of a link: neither for management nor a logical interface.
    pub fabric: bool,
    /// Heard by LLDP.
    pub neighbours: Vec<NeighbourRow>,
    /// Its counters and values.
    pub series: Vec<SeriesRow>,
}

/// What is at the other end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NeighbourRow {
    /// Name of the system.
    pub system_name: Option<String>,
    /// Its port.
    pub port_id: Option<String>,
    /// Description of its port.
    pub port_description: Option<String>,
    /// Its chassis.
    pub chassis_id: Option<String>,
}

/// An optical module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleRow {
    /// Its component.
    pub component: String,
    /// The port it is in, where known.
    pub port: Option<String>,
    /// Who made it.
    pub vendor: Option<String>,
    /// Its type.
    pub part_number: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Temperature.
    pub temperature_c: Option<f64>,
    /// Supply voltage.
    pub vcc_v: Option<f64>,
    /// By number, from 1 as in a host's tables.
    pub lanes: Vec<LaneRow>,
}

/// A lane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneRow {
    /// From 1.
    pub lane: u16,
    /// Light received, dBm.
    pub rx_power_dbm: Option<f64>,
    /// Light sent, dBm.
    pub tx_power_dbm: Option<f64>,
    /// Bias of the laser.
    pub tx_bias_ma: Option<f64>,
}

/// A component.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartRow {
    /// Its name.
    pub component: String,
    /// `LINECARD`, `INTEGRATED_CIRCUIT`.
    pub kind: Option<String>,
    /// What it is in.
    pub parent: Option<String>,
    /// Its type.
    pub part_number: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
}

/// What came by sFlow.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SflowRow {
    /// Datagrams.
    pub datagrams: u64,
    /// Datagrams missing, by their sequence.
    pub lost: u64,
    /// Samples and datagrams that could not be read.
    pub malformed: u64,
    /// Samples of counters.
    pub counters: u64,
    /// Sampled packets.
    pub flows: u64,
    /// Notifications of dropped packets, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Notifications that the switch left out.
    pub drops_left_out: u64,
}

pub(super) fn row(switch: &Switch) -> SwitchRow {
    let state = &switch.state;
    let mut series: BTreeMap<String, Vec<SeriesRow>> = BTreeMap::new();
    for row in series::rows(state).into_iter().filter(|row| row.entity_kind == "port") {
        series.entry(row.entity.clone()).or_default().push(row);
    }
    let neighbours = |port: &str| {
        let of_port = state.neighbours.iter().filter(|((at, _), _)| at == port);
        let row = of_port.map(|(_, neighbour)| NeighbourRow {
            system_name: neighbour.system.clone(),
            port_id: neighbour.port.clone(),
            port_description: neighbour.port_description.clone(),
            chassis_id: neighbour.chassis.clone(),
        });
        row.collect()
    };
    let ports = state.ports.iter().map(|(name, port)| PortRow {
        name: name.clone(),
        up: port.up,
        admin_up: port.admin_up,
        speed_bits_per_s: port.speed_bits_per_s,
        mac: port.mac.clone(),
        addresses: port.addresses.iter().copied().collect(),
        fabric: port.is_of_the_fabric(),
        neighbours: neighbours(name),
        series: series.remove(name).unwrap_or_default(),
    });
    let is_known = switch.offer.version.is_some();
    SwitchRow {
        name: switch.name.clone(),
        system_name: state.name.clone(),
        address: switch.address.clone(),
        connected: switch.connected_since.is_some(),
        since: switch.connected_since.map(rfc3339),
        why: switch.why.clone(),
        gnmi_version: switch.offer.version.clone(),
        models: is_known.then_some(switch.offer.models as u64),
        sample_ms: switch.offer.sample.and_then(|sample| u64::try_from(sample.as_millis()).ok()),
        limitations: switch.offer.limitations.iter().chain(&switch.silent).cloned().collect(),
        ports: ports.collect(),
        modules: state.modules.iter().map(|(component, module)| module_row(state, component, module)).collect(),
        parts: state
            .parts
            .iter()
            .map(|(component, part)| PartRow {
                component: component.clone(),
                kind: part.kind.clone(),
                parent: part.parent.clone(),
                part_number: part.part.clone(),
                serial: part.serial.clone(),
            })
            .collect(),
        sflow: switch.sflow.clone(),
        counts: switch.counts,
    }
}

pub(super) fn module_row(state: &SwitchState, component: &str, module: &Module) -> ModuleRow {
    let value = |lane: Option<u16>, quantity: Quantity| module.values.get(&(lane, quantity)).copied();
    let mut lanes: Vec<_> = module.values.keys().filter_map(|(lane, _)| *lane).collect();
    lanes.dedup();
    ModuleRow {
        component: component.to_owned(),
        port: state.port_of_module(component).map(str::to_owned),
        vendor: module.vendor.clone(),
        part_number: module.part.clone(),
        serial: module.serial.clone(),
        temperature_c: value(None, Quantity::Temperature),
        vcc_v: value(None, Quantity::Voltage),
        lanes: lanes
            .into_iter()
            .map(|lane| LaneRow {
                lane: lane + 1,
                rx_power_dbm: value(Some(lane), Quantity::RxPower),
                tx_power_dbm: value(Some(lane), Quantity::TxPower),
                tx_bias_ma: value(Some(lane), Quantity::TxBias),
            })
            .collect(),
    }
}
