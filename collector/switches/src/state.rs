//! A switch as it says it is, kept up to date by its notifications.
//!
//! In: notifications with the time of their arrival. Out: [`SwitchState`], what changed with each, and statements for the map. What a
//! switch no longer says after it was connected anew is gone ([`SwitchState::begin`], [`SwitchState::synced`]). Bounded by the
//! constants below; what is beyond them is counted. Never: IO, a clock, a zero where nothing was said.
//!
//! Paths are those of OpenConfig's models ([`crate::paths::WANTED`]).

use crate::gnmi::Notification;
use crate::leaf::{self, Leaf, Step, Value};
use crate::series::{self, Counted};
use railwatch_engine::map::{NodeKind, PortName, Statement};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

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
/// Components above a port that are looked at.
const DEPTH_MAX: usize = 8;

/// A counter of a port: its row in [`series::COUNTED`], and what tells it apart within the port (priority, queue).
pub type CounterKey = (&'static Counted, String);

/// A counter, as it was read last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counter {
    /// As the switch said.
    pub value: u64,
    /// What it moved by since it was first read here, over resets.
    pub total: u64,
    /// Decreases that no wrap explains.
    pub resets: u64,
    /// Between the last two readings; none before the second.
    pub growth: Option<Growth>,
    /// When it was first read, by our clock, Unix nanoseconds.
    pub since_ns: u64,
    /// When it was read last, by our clock.
    pub received_ns: u64,
    /// When it was read last, by the switch's clock.
    read_ns: u64,
}

/// What a counter did between two readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// It grew by so much.
    pub by: u64,
    /// In so long.
    pub over_ns: u64,
}

impl Growth {
    /// As a rate.
    #[must_use]
    pub fn per_s(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people and thresholds")]
        let rate = self.by as f64 / (self.over_ns as f64 / 1e9);
        rate
    }
}

impl Counter {
    /// Takes a reading. Gives the growth since the one before, none where there is none or the counter began anew.
    fn take(&mut self, value: u64, read_ns: u64, received_ns: u64, is_first: bool) -> Option<Growth> {
        let by_theirs = read_ns.saturating_sub(self.read_ns);
        let by_ours = received_ns.saturating_sub(self.received_ns);
        // Their clock knows best when they read it, unless it stands still, jumps, or lies.
        let over_ns = if (by_ours / 4..=by_ours.saturating_mul(4)).contains(&by_theirs) { by_theirs } else { by_ours };
        if over_ns == 0 && !is_first {
            // A second reading of one instant has no rate: it counts with the next interval.
            return None;
        }
        let before = std::mem::replace(&mut self.value, value);
        (self.read_ns, self.received_ns) = (read_ns, received_ns);
        if is_first {
            self.since_ns = received_ns;
            return None;
        }
        let Some(by) = grown(before, value) else {
            self.resets += 1;
            self.growth = None;
            return None;
        };
        self.total = self.total.wrapping_add(by);
        self.growth = Some(Growth { by, over_ns });
        self.growth
    }
}

/// How much a counter grew, a wrap of 32 or 64 bits included: it was in the upper half, and is in the lower. Nothing where it was set back.
fn grown(before: u64, now: u64) -> Option<u64> {
    const HALF: [(u64, u64); 2] = [(1 << 31, u32::MAX as u64), (1 << 63, u64::MAX)];
    if now >= before {
        return Some(now - before);
    }
    let wrap = HALF.iter().find(|(half, max)| before <= *max && before >= *half && now < *half);
    wrap.map(|(_, max)| (max - before) + now + 1)
}

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
    /// Depth of its queues, bytes, by queue.
    pub queue_depth: BTreeMap<String, u64>,
    round: u64,
}

impl Port {
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

    /// What the map is to know. Ports of management and logical interfaces are no part of a fabric.
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

/// One leaf on its way into the state.
struct Taking<'a> {
    state: &'a mut SwitchState,
    applied: &'a mut Applied,
    links: &'a mut BTreeSet<String>,
    read_ns: u64,
    received_ns: u64,
}

impl Taking<'_> {
    fn leaf(&mut self, leaf: &Leaf) {
        let names: Vec<_> = leaf.path.iter().map(|step| step.name.as_str()).collect();
        let key = |at: usize| leaf.path[at].key.as_str();
        let value = &leaf.value;
        let known = match names.as_slice() {
            ["lldp", "state", "system-name"] => self.own_name(value),
            ["lldp", "interfaces", "interface", "neighbors", "neighbor", "state", name] => {
                self.neighbour(key(2), key(4), name, value)
            }
            ["interfaces", "interface", below @ ..] => self.interface(leaf, key(1), below, value),
            ["qos", "interfaces", "interface", "output", "queues", "queue", "state", name] => {
                self.queue(key(2), key(5), name, value)
            }
            ["qos", "interfaces", "interface", "pfc", .., name] => match priority(&leaf.path) {
                Some(priority) => self.count(key(2), "pfc", name, priority, value),
                None => false,
            },
            ["components", "component", below @ ..] => self.component(leaf, key(1), below, value),
            _ => false,
        };
        self.applied.unread += u64::from(!known);
    }

    fn own_name(&mut self, value: &Value) -> bool {
        let name = value.text();
        if !name.is_empty() && name != self.state.name {
            self.state.name = name;
            self.applied.map_changed = true;
        }
        true
    }

    fn neighbour(&mut self, port: &str, id: &str, name: &str, value: &Value) -> bool {
        let at = (port.to_owned(), id.to_owned());
        if port.is_empty() {
            return false;
        }
        if !self.state.neighbours.contains_key(&at) && self.state.neighbours.len() >= NEIGHBOURS_MAX {
            self.applied.refused += 1;
            return true;
        }
        let neighbour = self.state.neighbours.entry(at).or_default();
        (neighbour.round, neighbour.heard_ns) = (self.state.round, self.received_ns);
        let field = match name {
            "system-name" => &mut neighbour.system,
            "chassis-id" => &mut neighbour.chassis,
            "port-id" => &mut neighbour.port,
            "port-description" => &mut neighbour.port_description,
            // What is not looked at still says that the neighbour is there.
            _ => return true,
        };
        let text = Some(value.text()).filter(|text| !text.is_empty());
        self.applied.map_changed |= *field != text;
        *field = text;
        true
    }

    fn port(&mut self, name: &str) -> Option<&mut Port> {
        if name.is_empty() {
            return None;
        }
        if !self.state.ports.contains_key(name) {
            if self.state.ports.len() >= PORTS_MAX {
                self.applied.refused += 1;
                return None;
            }
            self.applied.map_changed = true;
        }
        let port = self.state.ports.entry(name.to_owned()).or_default();
        port.round = self.state.round;
        Some(port)
    }

    fn interface(&mut self, leaf: &Leaf, name: &str, below: &[&str], value: &Value) -> bool {
        if let ["state", "counters", counter] = below {
            return self.count(name, "interface", counter, String::new(), value);
        }
        if let ["ethernet", "state", "counters", counter] = below {
            return self.count(name, "ethernet", counter, String::new(), value);
        }
        let Some(port) = self.port(name) else { return true };
        let before = (port.up, port.speed_bits_per_s, port.mac.clone(), port.is_of_the_fabric(), port.hardware.clone());
        let mut is_edge = false;
        match below {
            ["state", "oper-status"] => {
                let up = match value.identity().as_str() {
                    "UP" => Some(true),
                    "DOWN" | "LOWER_LAYER_DOWN" | "NOT_PRESENT" => Some(false),
                    _ => None,
                };
                let was = std::mem::replace(&mut port.up, up);
                is_edge = matches!((was, up), (Some(was), Some(up)) if was != up);
            }
            ["state", "admin-status"] => port.admin_up = Some(value.identity() == "UP"),
            ["state", "type"] => port.is_ethernet = Some(value.identity() == "ethernetCsmacd"),
            ["state", "management"] => port.management = value.flag().unwrap_or(false),
            ["state", "ifindex"] => port.index = value.count().and_then(|index| u32::try_from(index).ok()),
            ["state", "transceiver"] => port.transceiver = Some(value.text()),
            ["state", "hardware-port"] => port.hardware = Some(value.text()),
            ["ethernet", "state", "port-speed" | "negotiated-port-speed"] => {
                port.speed_bits_per_s = speed(&value.identity()).or(port.speed_bits_per_s);
            }
            ["ethernet", "state", "mac-address"] => port.mac = Some(value.text().to_lowercase()),
            ["subinterfaces", "subinterface", "ipv4" | "ipv6", "addresses", "address", "state", "ip"] => {
                let said = value.text().parse().or_else(|_| leaf.path[6].key.parse::<IpAddr>());
                match said {
                    Ok(address) if port.addresses.len() < ADDRESSES_MAX => {
                        let new = port.addresses.insert(address);
                        self.applied.map_changed |= new;
                    }
                    Ok(_) => self.applied.refused += 1,
                    Err(_) => self.applied.malformed += 1,
                }
                return true;
            }
            _ => return false,
        }
        let after = (port.up, port.speed_bits_per_s, port.mac.clone(), port.is_of_the_fabric(), port.hardware.clone());
        self.applied.map_changed |= before != after;
        if is_edge {
            self.links.insert(name.to_owned());
        }
        true
    }

    fn queue(&mut self, port: &str, queue: &str, name: &str, value: &Value) -> bool {
        if name != "avg-queue-len" {
            return self.count(port, "queue", name, queue.to_owned(), value);
        }
        let Some(port) = self.port(port) else { return true };
        let is_full = port.queue_depth.len() >= COUNTERS_PER_PORT_MAX && !port.queue_depth.contains_key(queue);
        match value.count() {
            Some(_) if is_full => self.applied.refused += 1,
            Some(bytes) => {
                port.queue_depth.insert(queue.to_owned(), bytes);
            }
            None => self.applied.malformed += 1,
        }
        true
    }

    fn count(&mut self, port: &str, group: &str, leaf: &str, part: String, value: &Value) -> bool {
        let Some(counted) = series::counted(group, leaf) else { return false };
        let Some(value) = value.count() else {
            self.applied.malformed += 1;
            return true;
        };
        let (read_ns, received_ns) = (self.read_ns, self.received_ns);
        let name = port;
        let Some(port) = self.port(name) else { return true };
        let key = (counted, part);
        let is_first = !port.counters.contains_key(&key);
        if is_first && port.counters.len() >= COUNTERS_PER_PORT_MAX {
            self.applied.refused += 1;
            return true;
        }
        let growth = port.counters.entry(key.clone()).or_default().take(value, read_ns, received_ns, is_first);
        if let Some(growth) = growth {
            self.applied.changes.push(Change::Counted { port: name.to_owned(), counter: key, growth });
        }
        true
    }

    fn component(&mut self, leaf: &Leaf, name: &str, below: &[&str], value: &Value) -> bool {
        if name.is_empty() {
            return false;
        }
        match below {
            // The value itself, or within a container with its mean and extremes.
            ["state", "temperature", "instant"] | ["state", "temperature"] => {
                self.measured(name, None, Quantity::Temperature, value)
            }
            ["state", field] => self.part(name, field, value),
            ["transceiver", below @ ..] => self.transceiver(leaf, name, below, value),
            _ => false,
        }
    }

    fn part(&mut self, name: &str, field: &str, value: &Value) -> bool {
        if !self.state.parts.contains_key(name) && self.state.parts.len() >= PARTS_MAX {
            self.applied.refused += 1;
            return true;
        }
        let part = self.state.parts.entry(name.to_owned()).or_default();
        part.round = self.state.round;
        let (field, text) = match field {
            "type" => (&mut part.kind, value.identity()),
            "parent" => (&mut part.parent, value.text()),
            "part-no" => (&mut part.part, value.text()),
            "serial-no" => (&mut part.serial, value.text()),
            _ => return false,
        };
        let text = Some(text).filter(|text| !text.is_empty());
        self.applied.map_changed |= *field != text;
        *field = text;
        true
    }

    fn module(&mut self, name: &str) -> Option<&mut Module> {
        if !self.state.modules.contains_key(name) && self.state.modules.len() >= PARTS_MAX {
            self.applied.refused += 1;
            return None;
        }
        let module = self.state.modules.entry(name.to_owned()).or_default();
        module.round = self.state.round;
        Some(module)
    }

    fn transceiver(&mut self, leaf: &Leaf, name: &str, below: &[&str], value: &Value) -> bool {
        match below {
            ["physical-channels", "channel", "state", quantity]
            | ["physical-channels", "channel", "state", quantity, "instant"] => {
                let lane = leaf.path[4].key.parse::<u16>().ok().filter(|lane| usize::from(*lane) < LANES_MAX);
                match (Quantity::of_leaf(quantity), lane) {
                    (Some(quantity), Some(lane)) => self.measured(name, Some(lane), quantity, value),
                    (Some(_), None) => {
                        self.applied.refused += 1;
                        true
                    }
                    _ => false,
                }
            }
            ["state", "supply-voltage", "instant"] | ["state", "supply-voltage"] => {
                self.measured(name, None, Quantity::Voltage, value)
            }
            ["thresholds", "threshold", "state", limit] => {
                let bound = match leaf.path[4].key.rsplit(':').next() {
                    Some("WARNING" | "MINOR") => Bound::Warning,
                    Some("CRITICAL" | "MAJOR") => Bound::Alarm,
                    _ => return false,
                };
                let Some((quantity, is_upper)) = limit
                    .strip_suffix("-upper")
                    .map(|quantity| (quantity, true))
                    .or(limit.strip_suffix("-lower").map(|quantity| (quantity, false)))
                    .and_then(|(quantity, is_upper)| Some((Quantity::of_leaf(quantity)?, is_upper)))
                else {
                    return false;
                };
                let Some(module) = self.module(name) else { return true };
                let limits = module.limits.entry((quantity, bound)).or_default();
                *(if is_upper { &mut limits.1 } else { &mut limits.0 }) = value.real();
                true
            }
            ["state", field] => {
                let Some(module) = self.module(name) else { return true };
                let field = match *field {
                    "vendor" => &mut module.vendor,
                    "vendor-part" => &mut module.part,
                    "serial-no" => &mut module.serial,
                    _ => return false,
                };
                *field = Some(value.text().trim().to_owned()).filter(|text| !text.is_empty());
                true
            }
            _ => false,
        }
    }

    fn measured(&mut self, name: &str, lane: Option<u16>, quantity: Quantity, value: &Value) -> bool {
        let Some(value) = value.real() else {
            self.applied.malformed += 1;
            return true;
        };
        // Every component has a temperature; only a module's is of interest.
        if lane.is_none() && quantity == Quantity::Temperature && !self.state.modules.contains_key(name) {
            let is_module = self.state.parts.get(name).is_some_and(|part| part.kind.as_deref() == Some("TRANSCEIVER"));
            if !is_module {
                return true;
            }
        }
        let Some(module) = self.module(name) else { return true };
        module.values.insert((lane, quantity), value);
        self.applied.changes.push(Change::Measured { module: name.to_owned(), lane, quantity, value });
        true
    }
}

/// The priority that a path is about: the key of the list of priorities.
fn priority(path: &[Step]) -> Option<String> {
    let step = path.iter().find(|step| step.name.contains("priority") && !step.key.is_empty())?;
    step.key.parse::<u8>().ok().filter(|priority| *priority < 8).map(|priority| priority.to_string())
}

/// `SPEED_100GB` is 100 Gbit/s (identities of openconfig-if-ethernet).
fn speed(identity: &str) -> Option<u64> {
    let rest = identity.strip_prefix("SPEED_")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = rest.split_at(digits);
    let unit = match unit {
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::gnmi::{TypedValue, Update, typed_value};
    use crate::paths;
    use proptest::prelude::*;

    fn said(rows: &[(&str, &str)], timestamp: i64) -> Notification {
        let update = |(path, json): &(&str, &str)| Update {
            path: Some(paths::parse(path).unwrap()),
            val: Some(TypedValue { value: Some(typed_value::Value::JsonIetfVal(json.as_bytes().to_vec())) }),
            ..Update::default()
        };
        Notification { timestamp, update: rows.iter().map(update).collect(), ..Notification::default() }
    }

    const S: u64 = 1_000_000_000;

    fn leaf0() -> SwitchState {
        let mut state = SwitchState::new("10.0.0.1");
        state.begin();
        let rows = [
            ("/lldp/state/system-name", r#""leaf0""#),
            (
                "/interfaces/interface[name=eth0]/state",
                r#"{"oper-status":"UP","admin-status":"UP","type":"iana-if-type:ethernetCsmacd","hardware-port":"eth0-port"}"#,
            ),
            (
                "/interfaces/interface[name=eth0]/ethernet/state",
                r#"{"port-speed":"openconfig-if-ethernet:SPEED_100GB","mac-address":"02:AA:00:00:00:01"}"#,
            ),
            (
                "/interfaces/interface[name=eth0]/subinterfaces/subinterface[index=0]/ipv4",
                r#"{"addresses":{"address":[{"ip":"10.0.0.0","state":{"ip":"10.0.0.0","prefix-length":31}}]}}"#,
            ),
            ("/interfaces/interface[name=mgmt0]/state", r#"{"oper-status":"UP","management":true}"#),
            ("/interfaces/interface[name=lo]/state", r#"{"oper-status":"UP","type":"softwareLoopback"}"#),
            (
                "/lldp/interfaces/interface[name=eth0]/neighbors/neighbor[id=1]/state",
                r#"{"system-name":"host0","port-id":"eth0","chassis-id":"02:00"}"#,
            ),
            (
                "/lldp/interfaces/interface[name=mgmt0]/neighbors/neighbor[id=2]/state",
                r#"{"system-name":"office","port-id":"7"}"#,
            ),
            (
                "/components",
                r#"{"component":[{"name":"eth0-port","state":{"type":"PORT","parent":"asic0"}},{"name":"asic0","state":{"type":"openconfig-platform-types:INTEGRATED_CIRCUIT","parent":"lc1"}},{"name":"lc1","state":{"type":"LINECARD","parent":"lc1"}}]}"#,
            ),
        ];
        let applied = state.apply(&said(&rows, 0), S);
        assert_eq!((applied.malformed, applied.refused, applied.map_changed), (0, 0, true));
        state
    }

    #[test]
    fn the_map_is_told_ports_cables_and_parts_and_nothing_of_management() {
        let port = |node: &str, port: &str| PortName { node: node.to_owned(), port: port.to_owned() };
        let contains =
            |outer: &str| Statement::Contains { outer: outer.to_owned(), inner: "port/leaf0/eth0".to_owned() };
        assert_eq!(
            leaf0().statements(),
            [
                Statement::Node { name: "leaf0".to_owned(), kind: NodeKind::Switch },
                Statement::Port {
                    port: port("leaf0", "eth0"),
                    up: Some(true),
                    speed_bits_per_s: Some(100_000_000_000),
                    addresses: vec!["10.0.0.0".parse().unwrap()],
                    mac: Some("02:aa:00:00:00:01".to_owned()),
                },
                contains("switch_chip/leaf0/asic0"),
                contains("line_card/leaf0/lc1"),
                Statement::Cable { near: port("leaf0", "eth0"), far: port("host0", "eth0") },
            ]
        );
    }

    #[test]
    fn a_neighbour_leaves_by_deletion_by_silence_and_by_not_being_told_again() {
        let path = "/lldp/interfaces/interface[name=eth0]/neighbors/neighbor[id=1]";
        let mut deleted = leaf0();
        let gone = Notification { delete: vec![paths::parse(path).unwrap()], ..Notification::default() };
        assert!(deleted.apply(&gone, 2 * S).map_changed);
        let mut silent = leaf0();
        assert!(!silent.expire_neighbours(S) && silent.expire_neighbours(S + 1));
        let mut anew = leaf0();
        anew.begin();
        anew.apply(&said(&[("/interfaces/interface[name=eth0]/state/oper-status", r#""UP""#)], 0), 2 * S);
        assert!(anew.synced());
        for state in [&deleted, &silent, &anew] {
            assert_eq!(state.peer("eth0"), None);
            assert_eq!(state.peer_lately("eth0").map(|far| far.to_string()), Some("host0:eth0".to_owned()));
        }
        assert_eq!(anew.ports.len(), 1);
        assert_eq!(leaf0().peer("eth0").map(|far| far.to_string()), Some("host0:eth0".to_owned()));
    }

    #[test]
    fn an_edge_is_told_once_and_what_was_never_known_is_no_edge() {
        let mut state = leaf0();
        let status = |status: &str| said(&[("/interfaces/interface[name=eth0]/state/oper-status", status)], 0);
        let edges: Vec<_> = [r#""DOWN""#, r#""DOWN""#, r#""UP""#, r#""UNKNOWN""#, r#""DOWN""#]
            .iter()
            .map(|word| state.apply(&status(word), S).changes.len())
            .collect();
        assert_eq!(edges, [1, 0, 1, 0, 0]);
    }

    #[test]
    fn a_counter_grows_over_wraps_and_begins_anew_after_a_reset() {
        let mut state = SwitchState::new("s");
        let path = "/interfaces/interface[name=eth0]/state/counters/in-discards";
        let mut at = 0;
        let mut grew = Vec::new();
        for value in [10, 15, 3, 4_000_000_000, 1, u64::MAX, 4] {
            at += S;
            let applied = state.apply(&said(&[(path, &format!("\"{value}\""))], i64::try_from(at).unwrap()), at);
            grew.push(applied.changes.iter().find_map(|change| match change {
                Change::Counted { growth, .. } => Some((growth.by, growth.over_ns)),
                _ => None,
            }));
        }
        let wrap32 = u64::from(u32::MAX) - 4_000_000_000 + 2;
        assert_eq!(
            grew,
            [
                None,
                Some((5, S)),
                None,
                Some((3_999_999_997, S)),
                Some((wrap32, S)),
                Some((u64::MAX - 1, S)),
                Some((5, S))
            ]
        );
        let counter = state.ports["eth0"].counters.values().next().unwrap();
        assert_eq!((counter.value, counter.resets), (4, 1));
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_makes_no_rate_of_its_own() {
        let mut state = SwitchState::new("s");
        let path = "/interfaces/interface[name=eth0]/state/counters/in-octets";
        let rates: Vec<_> = [(1, 1, 0), (1, 2, 100), (999, 3, 200), (1_000, 4, 300)]
            .map(|(theirs, ours, value)| {
                let text = value.to_string();
                let applied = state.apply(&said(&[(path, &text)], i64::try_from(theirs * S).unwrap()), ours * S);
                applied.changes.first().map(|change| match change {
                    Change::Counted { growth, .. } => growth.per_s(),
                    _ => f64::NAN,
                })
            })
            .into();
        assert_eq!(rates, [None, Some(100.0), Some(100.0), Some(100.0)]);
    }

    #[test]
    fn queues_priorities_and_modules_are_read() {
        let mut state = leaf0();
        let rows = |n: u64| {
            [
                (
                    "/qos/interfaces/interface[interface-id=eth0]/output/queues/queue[name=3]/state",
                    format!(r#"{{"transmit-pkts":"{n}","dropped-pkts":"{n}","avg-queue-len":"77"}}"#),
                ),
                (
                    "/qos/interfaces/interface[interface-id=eth0]/pfc/pfc-priorities",
                    format!(
                        r#"{{"pfc-priority":[{{"dot1p":3,"state":{{"statistics":{{"pause-frames-rx":"{n}"}}}}}}]}}"#
                    ),
                ),
                (
                    "/components/component[name=xcvr0]/transceiver",
                    format!(
                        r#"{{"state":{{"vendor":"ACME ","serial-no":"S1"}},"physical-channels":{{"channel":[{{"index":0,"state":{{"input-power":{{"instant":"-{n}.5"}}}}}}]}},"thresholds":{{"threshold":[{{"severity":"CRITICAL","state":{{"input-power-lower":"-7"}}}}]}}}}"#
                    ),
                ),
            ]
        };
        for n in 1..3 {
            let rows = rows(n);
            let rows: Vec<_> = rows.iter().map(|(path, json)| (*path, json.as_str())).collect();
            let applied = state.apply(&said(&rows, 0), n * S);
            assert_eq!((applied.malformed, applied.refused), (0, 0));
        }
        let port = &state.ports["eth0"];
        let grew: Vec<_> = port
            .counters
            .iter()
            .map(|((counted, part), counter)| (counted.series, part.as_str(), counter.total))
            .collect();
        assert_eq!(
            grew,
            [
                ("hw.network.pfc.pause_frames", "3", 1),
                ("hw.network.queue.dropped", "3", 1),
                ("hw.network.queue.packets", "3", 1)
            ]
        );
        assert_eq!(port.queue_depth["3"], 77);
        let module = &state.modules["xcvr0"];
        assert_eq!(module.values[&(Some(0), Quantity::RxPower)], -2.5);
        assert_eq!(module.limits[&(Quantity::RxPower, Bound::Alarm)], (Some(-7.0), None));
        assert_eq!((module.vendor.as_deref(), module.serial.as_deref()), (Some("ACME"), Some("S1")));
    }

    #[test]
    fn a_flood_of_names_ends_at_the_bounds_and_is_counted() {
        let mut state = SwitchState::new("s");
        let mut refused = 0;
        for n in 0..PORTS_MAX + 10 {
            let path = format!("/interfaces/interface[name=p{n}]/state/oper-status");
            refused += state.apply(&said(&[(&path, r#""UP""#)], 0), S).refused;
        }
        assert_eq!((state.ports.len(), refused), (PORTS_MAX, 10));
    }

    proptest! {
        #[test]
        fn no_tree_ends_it(names in proptest::collection::vec("(interfaces|interface|state|counters|in-octets|lldp|neighbors|neighbor|components|component|transceiver|physical-channels|channel|thresholds|threshold|qos|pfc|priority|input-power|instant|subinterfaces|ipv4|addresses|address|ip)", 0..9), value in "\"?[-A-Z0-9.]{0,8}\"?") {
            let mut state = SwitchState::new("s");
            let text: String = names.iter().map(|name| format!("/{name}")).collect();
            state.apply(&said(&[(&text, &value)], -1), S);
            let keyed: String = names.iter().map(|name| format!("/{name}[name=x]")).collect();
            state.apply(&said(&[(&keyed, &value)], i64::MAX), 0);
            let _ = state.statements();
        }
    }
}
