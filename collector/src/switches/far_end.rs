//! The far ends of hosts' cables: the switch's module beside the host's.
//!
//! In: what switches hear at their ports and measure in their modules; a host's module. Out: [`FarEndRow`], and what each lane loses on the
//! way (`railwatch_switches::optics`). A cable is known where the switch hears the host by LLDP. Never: a guess by numbers of ports.

use super::row::{self, ModuleRow};
use super::table::Table;
use crate::live::rows::OpticsRow;
use railwatch_switches::optics::{End, pair};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The other end of a host's cable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FarEndRow {
    /// As it calls itself.
    pub switch: String,
    /// Its port.
    pub port: String,
    /// The module there, where the switch tells of one.
    pub module: Option<ModuleRow>,
    /// By lane and direction, the greatest first; none where the ends have other numbers of lanes, or one measures nothing.
    pub losses: Vec<LossRow>,
}

/// What a lane loses in one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossRow {
    /// From 1.
    pub lane: u16,
    /// Who receives: `host` or `switch`.
    pub towards: String,
    /// Sent, dBm.
    pub sent_dbm: f64,
    /// Received, dBm.
    pub received_dbm: f64,
    /// What is between them, dB.
    pub loss_db: f64,
}

/// Of each host's interface that a switch hears: the far end, and what it measures.
#[derive(Debug, Default)]
pub struct FarEnds(HashMap<(String, String), (FarEndRow, End)>);

impl FarEnds {
    /// As the switches say now.
    pub fn of(table: &Table) -> Self {
        let mut ends = HashMap::new();
        for cell in table.cells() {
            let switch = cell.lock();
            let modules: HashMap<_, _> = switch
                .state
                .modules
                .keys()
                .filter_map(|component| Some((switch.state.port_of_module(component)?.to_owned(), component)))
                .collect();
            for (port, _) in switch.state.neighbours.keys() {
                let Some(peer) = switch.state.peer(port) else { continue };
                let component = modules.get(port);
                let module = component.and_then(|component| switch.state.modules.get(*component));
                let row = FarEndRow {
                    switch: switch.state.name.clone(),
                    port: port.clone(),
                    module: component
                        .zip(module)
                        .map(|(component, module)| row::module_row(&switch.state, component, module)),
                    losses: Vec::new(),
                };
                // A host's name may be its short one here, and its long one in LLDP.
                let host = peer.node.split('.').next().unwrap_or_default().to_owned();
                ends.insert((host, peer.port), (row, module.map(End::from).unwrap_or_default()));
            }
        }
        Self(ends)
    }

    /// The far end of a module's cable.
    pub fn far_end(&self, near: &OpticsRow) -> Option<FarEndRow> {
        let host = near.host.split('.').next().unwrap_or_default().to_owned();
        let (row, far) = self.0.get(&(host, near.interface.clone()))?;
        let dbm = |mw: f64| (mw > 0.0).then(|| 10.0 * mw.log10());
        let lanes = |power: fn(&crate::live::rows::OpticsLaneRow) -> Option<f64>| {
            let lane = near
                .lanes
                .iter()
                .filter_map(|lane| Some((u16::try_from(lane.lane.checked_sub(1)?).ok()?, dbm(power(lane)?)?)));
            lane.collect()
        };
        let own = End { rx_dbm: lanes(|lane| lane.rx_power_mw), tx_dbm: lanes(|lane| lane.tx_power_mw) };
        let losses = pair(&own, far).into_iter().map(|loss| LossRow {
            lane: loss.lane + 1,
            towards: if loss.forward { "switch" } else { "host" }.to_owned(),
            sent_dbm: loss.sent_dbm,
            received_dbm: loss.received_dbm,
            loss_db: loss.db(),
        });
        Some(FarEndRow { losses: losses.collect(), ..row.clone() })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use crate::live::Live;
    use crate::switches::SwitchConfig;
    use railwatch_engine::Timestamp;
    use railwatch_switches::gnmi::{Notification, TypedValue, Update, typed_value};
    use railwatch_switches::paths;
    use railwatch_wire::v1;
    use std::time::Duration;

    #[test]
    fn a_dirty_lane_is_seen_between_both_ends_of_the_cable() {
        let live = Live::new(Duration::from_secs(60));
        let lane = |lane: u32, rx_power_mw: f64| v1::ModuleLane {
            lane,
            tx_power_mw: Some(1.0),
            rx_power_mw: Some(rx_power_mw),
            ..v1::ModuleLane::default()
        };
        let module = |interface: &str| v1::ModuleState {
            interface: interface.into(),
            lanes: vec![lane(1, 0.5), lane(2, 0.01)],
            ..v1::ModuleState::default()
        };
        live.host("host0").lock().modules = vec![module("eth0"), module("eth1")];
        let config: SwitchConfig = toml::from_str("name = \"leaf0\"\nsflow_agents = [\"::1\"]").unwrap();
        let cell = live.switches().add(&config);
        let said = [
            (
                "/lldp/interfaces/interface[name=Ethernet1]/neighbors/neighbor[id=1]/state",
                r#"{"system-name":"host0.rack","port-id":"eth0"}"#,
            ),
            ("/interfaces/interface[name=Ethernet1]/state/transceiver", r#""x1""#),
            (
                "/components/component[name=x1]/transceiver",
                r#"{"state":{"serial-no":"S1"},"physical-channels":{"channel":[{"index":0,"state":{"output-power":{"instant":"0"},"input-power":{"instant":"-3"}}},{"index":1,"state":{"output-power":{"instant":"0"},"input-power":{"instant":"-3"}}}]}}"#,
            ),
        ];
        let update = |(path, json): (&str, &str)| Update {
            path: Some(paths::parse(path).unwrap()),
            val: Some(TypedValue { value: Some(typed_value::Value::JsonIetfVal(json.as_bytes().to_vec())) }),
            ..Update::default()
        };
        let notification = Notification { update: said.map(update).into(), ..Notification::default() };
        cell.lock().said(&notification, Timestamp(1), 1);
        let rows = live.optics();
        let far = rows[0].far_end.as_ref().unwrap();
        assert_eq!((far.switch.as_str(), far.port.as_str()), ("leaf0", "Ethernet1"));
        assert_eq!(far.module.as_ref().unwrap().serial.as_deref(), Some("S1"));
        let worst = &far.losses[0];
        assert_eq!((worst.lane, worst.towards.as_str(), worst.loss_db.round()), (2, "host", 20.0));
        assert_eq!((far.losses.len(), rows[1].far_end.as_ref()), (4, None));
    }
}
