//! What a leaf of OpenConfig's models says, put where it belongs in the state.
//!
//! In: leaves, each with its path. Out: the state, what changed, and counts of what was refused or could not be read. Never: an entry beyond
//! the bounds of [`super`].

use super::{
    ADDRESSES_MAX, Applied, Bound, COUNTERS_PER_PORT_MAX, Change, LANES_MAX, Module, NEIGHBOURS_MAX, PARTS_MAX,
    PORTS_MAX, Port, Quantity, SwitchState,
};
use crate::leaf::{Leaf, Step, Value};
use crate::series;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// One leaf on its way into the state.
pub(super) struct Taking<'a> {
    pub(super) state: &'a mut SwitchState,
    pub(super) applied: &'a mut Applied,
    /// Ports whose link rose or fell.
    pub(super) links: &'a mut BTreeSet<String>,
    /// By the switch's clock.
    pub(super) read_ns: u64,
    /// By ours.
    pub(super) received_ns: u64,
}

impl Taking<'_> {
    pub(super) fn leaf(&mut self, leaf: &Leaf) {
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
        if let Some(port) = self.state.ports.get_mut(port).filter(|port| port.up != Some(false)) {
            port.remembered_until_ns = None;
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
        let received_ns = self.received_ns;
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
                let was = port.up;
                port.set_up(up, received_ns);
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
