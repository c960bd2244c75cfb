//! A switch as it says it is, kept up to date by its notifications.
//!
//! In: notifications with the time of their arrival. Out: [`SwitchState`], what changed with each, and statements for the map. What a
//! switch no longer says after it was connected anew is gone ([`SwitchState::begin`], [`SwitchState::synced`]). Bounded by the
//! constants below; what is beyond them is counted. Never: IO, a clock, a zero where nothing was said.
//!
//! Paths are those of OpenConfig's models ([`crate::paths::WANTED`]).

mod counter;
mod taking;

pub use counter::{Counter, Growth};

use crate::gnmi::Notification;
use crate::leaf::{self, Step};
use crate::series::Counted;
use railwatch_engine::map::{NodeKind, PortName, Statement};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use taking::Taking;

/// Interfaces of a switch, logical ones too.
pub const PORTS_MAX: usize = 4096;
/// Neighbours of a switch.
pub const NEIGHBOURS_MAX: usize = 4096;
/// Counters of one port, those of its queues and priorities too.
pub const COUNTERS_PER_PORT_MAX: usize = 256;
/// Components of a switch: line cards, chips, modules, fans.
pub const PARTS_MAX: usize = 8192;
/// Lanes of a module.
pub const LANES_MAX: usize = 16;
/// Addresses of a port.
pub const ADDRESSES_MAX: usize = 16;
/// The cable of a dark port is remembered so long; of one that is up again, until its neighbour should have spoken: four of the intervals of
/// 30 s at which LLDP is sent, as its own hold time is (IEEE 802.1AB, 9.2.5).
const DARK_NS: u64 = 24 * 3_600 * 1_000_000_000;
const UP_AGAIN_NS: u64 = 120 * 1_000_000_000;
/// Components above a port that are looked at.
const DEPTH_MAX: usize = 8;

/// A counter of a port: its row in [`crate::series::COUNTED`], and what tells it apart within the port (priority, queue).
pub type CounterKey = (&'static Counted, String);

/// An interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Port {
    /// It carries traffic.
    pub up: Option<bool>,
    /// Its administrator wants it to.
    pub admin_up: Option<bool>,
    /// Speed.
    pub speed_bits_per_s: Option<u64>,
    /// As the switch writes it.
    pub mac: Option<String>,
    /// Of all its subinterfaces.
    pub addresses: BTreeSet<IpAddr>,
    /// It is for management, and no part of the fabric.
    pub management: bool,
    /// A port with a cable, where the switch says what it is.
    pub is_ethernet: Option<bool>,
    /// Its number (RFC 2863), by which sFlow names it.
    pub index: Option<u32>,
    /// Component that is its optical module.
    pub transceiver: Option<String>,
    /// Component that is the port.
    pub hardware: Option<String>,
    /// Its counters.
    pub counters: BTreeMap<CounterKey, Counter>,
    /// What was heard at it last, where nothing is now.
    pub last_peer: Option<PortName>,
    /// It fell, and until then its cable is remembered where nothing is heard.
    remembered_until_ns: Option<u64>,
    /// Depth of its queues, bytes, by queue.
    pub queue_depth: BTreeMap<String, u64>,
    round: u64,
}

impl Port {
    /// Says that it is up or down, and remembers its cable when it falls.
    fn set_up(&mut self, up: Option<bool>, now_ns: u64) {
        let was = std::mem::replace(&mut self.up, up);
        if up == Some(false) && was != up {
            self.remembered_until_ns = Some(now_ns.saturating_add(DARK_NS));
        } else if up == Some(true) && was == Some(false) && self.remembered_until_ns.is_some() {
            self.remembered_until_ns = Some(now_ns.saturating_add(UP_AGAIN_NS));
        }
    }

    /// It may be an end of a link of the fabric.
    #[must_use]
    pub fn is_of_the_fabric(&self) -> bool {
        !self.management && self.is_ethernet != Some(false)
    }
}

/// What is heard at a port by LLDP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbour {
    /// Name of the system.
    pub system: Option<String>,
    /// Identifier of its chassis.
    pub chassis: Option<String>,
    /// Its port.
    pub port: Option<String>,
    /// Description of its port.
    pub port_description: Option<String>,
    round: u64,
    heard_ns: u64,
}

/// A quantity of a module or of one of its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// Received power, dBm.
    RxPower,
    /// Transmitted power, dBm.
    TxPower,
    /// Bias of the laser, mA.
    TxBias,
    /// Temperature of the module, °C.
    Temperature,
    /// Supply voltage, V.
    Voltage,
}

impl Quantity {
    /// As the label `hw.optics.quantity` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RxPower => "rx_power",
            Self::TxPower => "tx_power",
            Self::TxBias => "tx_bias",
            Self::Temperature => "temperature",
            Self::Voltage => "voltage",
        }
    }

    /// UCUM.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::RxPower | Self::TxPower => "dB[mW]",
            Self::TxBias => "mA",
            Self::Temperature => "Cel",
            Self::Voltage => "V",
        }
    }

    fn of_leaf(name: &str) -> Option<Self> {
        Some(match name {
            "input-power" => Self::RxPower,
            "output-power" => Self::TxPower,
            "laser-bias-current" => Self::TxBias,
            "module-temperature" | "temperature" => Self::Temperature,
            "supply-voltage" => Self::Voltage,
            _ => return None,
        })
    }
}

/// How bad it is to be beyond a bound. Order matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// May become a fault.
    Warning,
    /// Is a fault.
    Alarm,
}

/// An optical module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// Who made it.
    pub vendor: Option<String>,
    /// Its type.
    pub part: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Values by lane, from 0; lane `None` is the module.
    pub values: BTreeMap<(Option<u16>, Quantity), f64>,
    /// Lowest and highest good value.
    pub limits: BTreeMap<(Quantity, Bound), (Option<f64>, Option<f64>)>,
    round: u64,
}

/// A component.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// `LINECARD`, `INTEGRATED_CIRCUIT`, `PORT`.
    pub kind: Option<String>,
    /// What it is in.
    pub parent: Option<String>,
    /// Its type.
    pub part: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    round: u64,
}

/// What changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A port that was up is down, or the other way round.
    Link {
        /// Which.
        port: String,
    },
    /// A counter was read again.
    Counted {
        /// Which port.
        port: String,
        /// Which counter.
        counter: CounterKey,
        /// What it did.
        growth: Growth,
    },
    /// A value of a module was read.
    Measured {
        /// Which component.
        module: String,
        /// Which lane.
        lane: Option<u16>,
        /// What.
        quantity: Quantity,
        /// How much.
        value: f64,
    },
}

/// What a notification did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// In their order, links last: why a port fell may come after that it fell.
    pub changes: Vec<Change>,
    /// The map is another one now.
    pub map_changed: bool,
    /// Leaves read.
    pub leaves: u64,
    /// Of those: nothing here reads them.
    pub unread: u64,
    /// Beyond a bound: not kept.
    pub refused: u64,
    /// Could not be read.
    pub malformed: u64,
}

/// See the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SwitchState {
    /// As it is configured here, until the switch says its own.
    pub name: String,
    /// By name.
    pub ports: BTreeMap<String, Port>,
    /// By port and the switch's own number of the neighbour.
    pub neighbours: BTreeMap<(String, String), Neighbour>,
    /// By component.
    pub modules: BTreeMap<String, Module>,
    /// By component.
    pub parts: BTreeMap<String, Part>,
    round: u64,
}

impl SwitchState {
    /// A switch that has said nothing yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The switch is connected anew, and will say everything once.
    pub fn begin(&mut self) {
        self.round += 1;
    }

    /// It has said everything: what it did not is gone. True where that changes the map.
    pub fn synced(&mut self) -> bool {
        let round = self.round;
        self.remember_peers();
        let before = (self.ports.len(), self.neighbours.len(), self.parts.len());
        self.ports.retain(|_, port| port.round == round);
        self.neighbours.retain(|_, neighbour| neighbour.round == round);
        self.modules.retain(|_, module| module.round == round);
        self.parts.retain(|_, part| part.round == round);
        before != (self.ports.len(), self.neighbours.len(), self.parts.len())
    }

    /// Neighbours not told again since then are gone: a switch that is sampled says nothing of one that left. True where there were any.
    pub fn expire_neighbours(&mut self, before_ns: u64) -> bool {
        let count = self.neighbours.len();
        if self.neighbours.values().all(|neighbour| neighbour.heard_ns >= before_ns) {
            return false;
        }
        self.remember_peers();
        self.neighbours.retain(|_, neighbour| neighbour.heard_ns >= before_ns);
        count != self.neighbours.len()
    }

    /// Cables remembered for long enough are forgotten. True where there were any.
    pub fn expire_remembered(&mut self, now_ns: u64) -> bool {
        let mut is_any = false;
        for port in self.ports.values_mut() {
            if port.remembered_until_ns.is_some_and(|until| until < now_ns) {
                (port.remembered_until_ns, is_any) = (None, true);
            }
        }
        is_any
    }

    /// Takes a notification that arrived at `received_ns`, Unix nanoseconds.
    pub fn apply(&mut self, notification: &Notification, received_ns: u64) -> Applied {
        let read = leaf::read(notification);
        let read_ns = u64::try_from(notification.timestamp).ok().filter(|ns| *ns > 0).unwrap_or(received_ns);
        let mut applied = Applied { malformed: read.malformed, leaves: read.leaves.len() as u64, ..Applied::default() };
        for path in &read.deleted {
            applied.map_changed |= self.delete(path);
        }
        let mut links = BTreeSet::new();
        for leaf in &read.leaves {
            let mut taking = Taking { state: self, applied: &mut applied, links: &mut links, read_ns, received_ns };
            taking.leaf(leaf);
        }
        applied.map_changed |= !links.is_empty();
        applied.changes.extend(links.into_iter().map(|port| Change::Link { port }));
        applied
    }

    fn delete(&mut self, path: &[Step]) -> bool {
        let names: Vec<_> = path.iter().map(|step| step.name.as_str()).collect();
        let key = |at: usize| path.get(at).map_or("", |step| step.key.as_str());
        match names.as_slice() {
            ["lldp"] | ["lldp", "interfaces"] => self.forget_neighbours("", ""),
            ["lldp", "interfaces", "interface"] | ["lldp", "interfaces", "interface", "neighbors"] => {
                self.forget_neighbours(key(2), "")
            }
            ["lldp", "interfaces", "interface", "neighbors", "neighbor"]
            | ["lldp", "interfaces", "interface", "neighbors", "neighbor", "state"] => {
                self.forget_neighbours(key(2), key(4))
            }
            ["interfaces", "interface"] => self.ports.remove(key(1)).is_some(),
            ["interfaces", "interface", "subinterfaces", "subinterface", _, "addresses", "address", ..] => {
                let address = key(6).parse::<IpAddr>();
                match (self.ports.get_mut(key(1)), address) {
                    (Some(port), Ok(address)) => port.addresses.remove(&address),
                    _ => false,
                }
            }
            ["components", "component"] => {
                self.modules.remove(key(1));
                self.parts.remove(key(1)).is_some()
            }
            _ => false,
        }
    }

    fn forget_neighbours(&mut self, port: &str, id: &str) -> bool {
        let count = self.neighbours.len();
        self.remember_peers();
        let meant = |key: &(String, String)| (port.is_empty() || key.0 == port) && (id.is_empty() || key.1 == id);
        self.neighbours.retain(|key, _| !meant(key));
        count != self.neighbours.len()
    }

    /// The other end of a port's cable: `spine0:eth1`.
    #[must_use]
    pub fn peer(&self, port: &str) -> Option<PortName> {
        let first = (port.to_owned(), String::new());
        let mut of_port = self.neighbours.range(first..).take_while(|((at, _), _)| at == port);
        of_port.find_map(|(_, neighbour)| far_end(neighbour))
    }

    /// As [`Self::peer`], or as it was last: a fall takes the neighbour with it.
    #[must_use]
    pub fn peer_lately(&self, port: &str) -> Option<PortName> {
        self.peer(port).or_else(|| self.ports.get(port)?.last_peer.clone())
    }

    /// Before neighbours go.
    fn remember_peers(&mut self) {
        let heard: Vec<_> = self.ports.keys().filter_map(|port| Some((port.clone(), self.peer(port)?))).collect();
        for (port, peer) in heard {
            if let Some(port) = self.ports.get_mut(&port) {
                port.last_peer = Some(peer);
            }
        }
    }

    /// The port of a number.
    #[must_use]
    pub fn port_of_index(&self, index: u32) -> Option<&str> {
        self.ports.iter().find(|(_, port)| port.index == Some(index)).map(|(name, _)| name.as_str())
    }

    /// The port that a module sits in.
    #[must_use]
    pub fn port_of_module(&self, module: &str) -> Option<&str> {
        let named = self.ports.iter().find(|(_, port)| port.transceiver.as_deref() == Some(module));
        let port = named.or_else(|| self.ports.get_key_value(module)).or_else(|| {
            // The module is in a port's component, which the interface names.
            let parent = self.parts.get(module)?.parent.as_deref()?;
            self.ports.iter().find(|(_, port)| port.hardware.as_deref() == Some(parent))
        });
        port.map(|(name, _)| name.as_str())
    }

    /// What the map is to know: of a port that went dark its cable too, as it was. Ports of management and logical interfaces are no part of a fabric.
    #[must_use]
    pub fn statements(&self) -> Vec<Statement> {
        let mut says = vec![Statement::Node { name: self.name.clone(), kind: NodeKind::Switch }];
        for (name, port) in self.ports.iter().filter(|(_, port)| port.is_of_the_fabric()) {
            says.push(Statement::Port {
                port: self.port_name(name),
                up: port.up,
                speed_bits_per_s: port.speed_bits_per_s,
                addresses: port.addresses.iter().copied().collect(),
                mac: port.mac.clone(),
            });
            for (kind, part) in self.parts_above(name, port) {
                says.push(Statement::Contains {
                    outer: format!("{kind}/{}/{part}", self.name),
                    inner: format!("port/{}/{name}", self.name),
                });
            }
        }
        for ((port, _), neighbour) in &self.neighbours {
            let is_of_the_fabric = self.ports.get(port).is_none_or(Port::is_of_the_fabric);
            if let (true, Some(far)) = (is_of_the_fabric, far_end(neighbour)) {
                says.push(Statement::Cable { near: self.port_name(port), far });
            }
        }
        let heard: BTreeSet<PortName> = self.neighbours.values().filter_map(far_end).collect();
        for (name, port) in self.ports.iter().filter(|(_, port)| port.is_of_the_fabric()) {
            let Some(far) = port.last_peer.clone().filter(|_| port.remembered_until_ns.is_some()) else { continue };
            // What is heard there, or from there at another port, says otherwise.
            if self.peer(name).is_none() && !heard.contains(&far) {
                says.push(Statement::Remembered { near: self.port_name(name), far });
            }
        }
        says
    }

    fn port_name(&self, port: &str) -> PortName {
        PortName { node: self.name.clone(), port: port.to_owned() }
    }

    /// Line card and chip of a port, as far as the components say.
    fn parts_above<'a>(&'a self, name: &'a str, port: &'a Port) -> Vec<(&'static str, &'a str)> {
        let mut above = Vec::new();
        let mut at = port.hardware.as_deref().or(port.transceiver.as_deref()).unwrap_or(name);
        for _ in 0..DEPTH_MAX {
            let Some(part) = self.parts.get(at) else { break };
            match part.kind.as_deref() {
                Some("LINECARD") => above.push(("line_card", at)),
                Some("INTEGRATED_CIRCUIT") => above.push(("switch_chip", at)),
                _ => {}
            }
            match part.parent.as_deref() {
                Some(parent) if parent != at => at = parent,
                _ => break,
            }
        }
        above
    }
}

fn far_end(neighbour: &Neighbour) -> Option<PortName> {
    let node = neighbour.system.clone().or_else(|| neighbour.chassis.clone())?;
    let port = neighbour.port.clone().or_else(|| neighbour.port_description.clone())?;
    Some(PortName { node, port })
}

#[cfg(test)]
mod tests;
