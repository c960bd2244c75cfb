//! The map as it is believed at one moment, from all that is said.
//!
//! In: a [`Map`]. Out: nodes, ports, links, containment, each with who says so and how likely it is; what contradicts it; what is
//! missing; and the [`Fabric`]. The same words give the same map, whatever order they came in. Of two facts that cannot both be
//! true the more believed one is taken and the other listed. Never: a link between nodes of which one is not known.

use super::fabric::{Fabric, Link, Nic, Node, PortName};
use super::fact::{Belief, Fact, Heard, Standing, Word};
use super::reports::{Map, Trace};
use super::statement::{Flow, NodeKind, Source};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// Contradictions, and unknown things, that are listed; more are counted.
const LISTED_MAX: usize = 1000;

/// A host or a switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeFact {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Who says so.
    #[serde(flatten)]
    pub standing: Standing,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortFact {
    /// Of which node.
    pub node: String,
    /// As the node calls it.
    pub port: String,
    /// `None` where nobody tells.
    pub up: Option<bool>,
    /// `None` where nobody tells.
    pub speed_bits_per_s: Option<u64>,
    /// `02:00:00:00:00:01`.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Who says so.
    #[serde(flatten)]
    pub standing: Standing,
}

/// A cable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkFact {
    /// `leaf1:eth3-spine0:eth1`.
    pub name: String,
    /// Lower end: `leaf1:eth3`.
    pub a: String,
    /// Upper end.
    pub b: String,
    /// Not known to be down.
    pub up: bool,
    /// Who says so.
    #[serde(flatten)]
    pub standing: Standing,
}

/// A part of something, or what it is fed by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainsFact {
    /// `KIND/NAME` of the whole.
    pub outer: String,
    /// `KIND/NAME` of the part.
    pub inner: String,
    /// Who says so.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Two facts that cannot both be true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contradiction {
    /// `two_cables`, `address`, `link_state`, `port_state`, `node_kind`, `parts`.
    pub kind: String,
    /// What it is about.
    pub about: String,
    /// What is taken, and by whom it is said.
    pub believed: String,
    /// What is not.
    pub other: String,
}

/// Something that a whole map would have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unknown {
    /// `far_end`, `node`, `hop`, `way_up`.
    pub kind: String,
    /// What is missing: a port, a node, an address.
    pub about: String,
    /// Why, and what would tell.
    pub why: String,
}

/// See the page.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// By name.
    pub nodes: Vec<NodeFact>,
    /// By node and port.
    pub ports: Vec<PortFact>,
    /// By name.
    pub links: Vec<LinkFact>,
    /// By whole and part.
    pub contains: Vec<ContainsFact>,
    /// What is not believed.
    pub contradictions: Vec<Contradiction>,
    /// What is missing.
    pub unknown: Vec<Unknown>,
    /// Contradictions and unknown things that are not listed.
    pub beyond: u64,
    /// As searches read it.
    pub fabric: Fabric,
    pub(super) traces: BTreeMap<Flow, Trace>,
    /// Of each address that is known, the port that has it.
    pub(super) port_of: BTreeMap<IpAddr, PortName>,
    /// Of each node, whether all its ports with a cable have known addresses, of IPv4 and of IPv6.
    pub(super) all_addresses: BTreeMap<String, [bool; 2]>,
}

impl Map {
    /// What is believed now.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let mut listed = Listed::default();
        let kinds = self.kinds(&mut listed);
        let port_of = self.port_of(&mut listed);
        let cables = self.cables_believed(&mut listed);
        let (fabric, standings) = self.fabric(&kinds, &port_of, &cables, &mut listed);
        let links = fabric.links().iter().zip(standings).map(|(link, standing)| LinkFact {
            name: link.to_string(),
            a: link.a.to_string(),
            b: link.b.to_string(),
            up: link.up,
            standing,
        });
        let links = links.collect();
        let nodes = kinds.iter().filter_map(|(name, kind)| {
            let standing = self.nodes.get(*name)?.standing();
            Some(NodeFact { name: (*name).clone(), kind: *kind, standing })
        });
        let nodes = nodes.collect();
        let ports = self.ports_believed(&port_of);
        let contains = self.contains.iter().map(|((outer, inner), fact)| ContainsFact {
            outer: outer.clone(),
            inner: inner.clone(),
            standing: fact.standing(),
        });
        let contains = contains.collect();
        self.unknown_hops(&port_of, &mut listed);
        let all_addresses = all_addresses(&fabric, &port_of);
        let Listed { contradictions, unknown, beyond } = listed;
        Topology {
            nodes,
            ports,
            links,
            contains,
            contradictions,
            unknown,
            beyond,
            fabric,
            traces: self.traces.clone(),
            port_of,
            all_addresses,
        }
    }

    fn kinds(&self, listed: &mut Listed) -> BTreeMap<&String, NodeKind> {
        let mut kinds = BTreeMap::new();
        for (name, fact) in &self.nodes {
            let Some((kind, others)) = fact.believed(|kind| Some(*kind)) else { continue };
            if !others.is_empty() {
                let word = |kind| if kind == NodeKind::Host { "a host" } else { "a switch" };
                let other = others.into_iter().map(word).collect::<Vec<_>>().join(", ");
                listed.contradiction("node_kind", name, by(word(kind), fact), other);
            }
            kinds.insert(name, kind);
        }
        kinds
    }

    fn port_of(&self, listed: &mut Listed) -> BTreeMap<IpAddr, PortName> {
        let mut best: BTreeMap<IpAddr, (&PortName, &Fact<()>)> = BTreeMap::new();
        let mut losers = Vec::new();
        for ((address, port), fact) in &self.addresses {
            if !fact.is_said() && self.is_no_port(port) {
                continue;
            }
            match best.get(address) {
                // Of equally believed ones the lesser name, which comes first.
                Some((_, known)) if fact.belief().total_cmp(&known.belief()).is_le() => {
                    losers.push((*address, port, fact));
                }
                known => {
                    losers.extend(known.map(|(port, fact)| (*address, *port, *fact)));
                    best.insert(*address, (port, fact));
                }
            }
        }
        for (address, port, fact) in losers {
            if let Some((believed, known)) = best.get(&address) {
                let believed = by(&format!("at {believed}"), known);
                listed.contradiction("address", &address.to_string(), believed, by(&format!("at {port}"), fact));
            }
        }
        best.into_iter().map(|(address, (port, _))| (address, port.clone())).collect()
    }

    /// A switch that is there says which ports it has, and this is none of them.
    fn is_no_port(&self, port: &PortName) -> bool {
        let speaks = self.nodes.get(&port.node).is_some_and(|fact| fact.is_said_by(Source::Switch));
        speaks && !self.ports.get(port).is_some_and(|fact| fact.is_said_by(Source::Switch))
    }

    /// The cables of which no two are at one port. What only those say who went away, or who remember it, goes at once where a switch has no
    /// such port any more; and what is remembered alone gives way to any other cable at its ports, which is no contradiction: it was moved.
    fn cables_believed(&self, listed: &mut Listed) -> Vec<((&PortName, &PortName), &Fact<Heard>)> {
        let is_there = |((a, b), fact): &(&(PortName, PortName), &Fact<Heard>)| {
            fact.is_so_now() || !(self.is_no_port(a) || self.is_no_port(b))
        };
        let mut all: Vec<(bool, Belief, _, _)> = self
            .cables
            .iter()
            .filter(is_there)
            .map(|((a, b), fact)| (fact.is_remembered(), fact.belief(), (a, b), fact))
            .collect();
        all.sort_by(|x, y| x.0.cmp(&y.0).then_with(|| y.1.total_cmp(&x.1)).then_with(|| x.2.cmp(&y.2)));
        let mut at: BTreeMap<&PortName, ((&PortName, &PortName), &Fact<Heard>)> = BTreeMap::new();
        let mut taken = Vec::new();
        for (is_remembered, _, (a, b), fact) in all {
            if let Some(((x, y), known)) = at.get(a).or_else(|| at.get(b)) {
                if is_remembered {
                    continue;
                }
                let port = if at.contains_key(a) { a } else { b };
                let believed = by(&format!("{x}-{y}"), known);
                listed.contradiction("two_cables", &port.to_string(), believed, by(&format!("{a}-{b}"), fact));
                continue;
            }
            at.insert(a, ((a, b), fact));
            at.insert(b, ((a, b), fact));
            taken.push(((a, b), fact));
        }
        taken.sort_by(|x, y| x.0.cmp(&y.0));
        taken
    }

    fn up(&self, port: &PortName) -> Option<bool> {
        self.ports.get(port)?.believed(|said| said.up).map(|(up, _)| up)
    }

    fn fabric(
        &self,
        kinds: &BTreeMap<&String, NodeKind>,
        port_of: &BTreeMap<IpAddr, PortName>,
        cables: &[((&PortName, &PortName), &Fact<Heard>)],
        listed: &mut Listed,
    ) -> (Fabric, Vec<Standing>) {
        let mut known = Vec::new();
        for ((a, b), fact) in cables {
            let strange = [a, b].into_iter().find(|port| !kinds.contains_key(&port.node));
            if let Some(strange) = strange {
                let why = format!("the cable {a}-{b} ends there, and nobody says what it is");
                listed.unknown("node", &strange.node, why);
                continue;
            }
            known.push((*a, *b, *fact));
        }
        let height = heights(kinds, &known);
        let mut links: Vec<(Link, Standing)> = Vec::with_capacity(known.len());
        for (a, b, fact) in known {
            let rank = |port: &PortName| height.get(&port.node).copied().unwrap_or(usize::MAX);
            let (low, high) = if (rank(b), b) < (rank(a), a) { (b, a) } else { (a, b) };
            let (of_low, of_high) = (self.up(low), self.up(high));
            if let (Some(one), Some(other)) = (of_low, of_high)
                && one != other
            {
                let (up, down) = if one { (low, high) } else { (high, low) };
                let about = format!("{low}-{high}");
                listed.contradiction("link_state", &about, format!("down at {down}"), format!("up at {up}"));
            }
            let up = of_low != Some(false) && of_high != Some(false);
            links.push((Link { a: low.clone(), b: high.clone(), up }, fact.standing()));
        }
        links.sort_by(|(x, _), (y, _)| (&x.a, &x.b).cmp(&(&y.a, &y.b)));
        let (links, standings): (Vec<_>, Vec<_>) = links.into_iter().unzip();
        let nics = self.nics(kinds, port_of, &links, listed);
        let nodes = kinds.iter().map(|(name, kind)| Node { name: (*name).clone(), kind: *kind }).collect();
        let fabric = Fabric::new(nodes, links, nics);
        debug_assert!(fabric.is_ok(), "every end is a known node, and every NIC is at its link");
        match fabric {
            Ok(fabric) => (fabric, standings),
            Err(_) => (Fabric::default(), Vec::new()),
        }
    }

    /// Ports of hosts with an address and a cable to a switch. Those without a cable are told, and are no NICs.
    fn nics(
        &self,
        kinds: &BTreeMap<&String, NodeKind>,
        port_of: &BTreeMap<IpAddr, PortName>,
        links: &[Link],
        listed: &mut Listed,
    ) -> Vec<Nic> {
        let kind = |node: &String| kinds.get(node).copied();
        // IPv4 before IPv6, each from the least.
        let mut address_of: BTreeMap<&PortName, IpAddr> = BTreeMap::new();
        for (address, port) in port_of.iter().filter(|(_, port)| kind(&port.node) == Some(NodeKind::Host)) {
            address_of.entry(port).or_insert(*address);
        }
        let mut link_of: BTreeMap<&PortName, (usize, &String)> = BTreeMap::new();
        for (number, link) in links.iter().enumerate() {
            link_of.insert(&link.a, (number, &link.b.node));
            link_of.insert(&link.b, (number, &link.a.node));
        }
        let mut nics = Vec::new();
        for (port, address) in address_of {
            match link_of.get(port) {
                Some((link, far)) if kind(far) == Some(NodeKind::Switch) => {
                    nics.push(Nic { port: port.clone(), address, link: *link });
                }
                Some(_) => {}
                None => {
                    let why = "it has an address, and nobody says what its cable leads to: no LLDP is heard there, and no switch or \
                               inventory file tells. It is taken for a management port, and for no NIC of the fabric";
                    listed.unknown("far_end", &port.to_string(), why.to_owned());
                }
            }
        }
        let mut leaves: BTreeMap<&String, bool> = BTreeMap::new();
        for link in links {
            for (one, other) in [(&link.a, &link.b), (&link.b, &link.a)] {
                if kind(&one.node) == Some(NodeKind::Switch) {
                    *leaves.entry(&one.node).or_default() |= kind(&other.node) == Some(NodeKind::Switch);
                }
            }
        }
        if leaves.len() > 1 {
            for (leaf, _) in leaves.iter().filter(|(_, has_way_up)| !**has_way_up) {
                let why = "no cable from it to another switch is known: it does not speak (gNMI), no trace crossed it between ports of \
                           known addresses, and no inventory file has one";
                listed.unknown("way_up", leaf, why.to_owned());
            }
        }
        nics
    }

    fn ports_believed(&self, port_of: &BTreeMap<IpAddr, PortName>) -> Vec<PortFact> {
        let mut addresses: BTreeMap<&PortName, Vec<IpAddr>> = BTreeMap::new();
        for (address, port) in port_of {
            addresses.entry(port).or_default().push(*address);
        }
        let port = |(name, fact): (&PortName, &Fact<super::reports::PortSaid>)| PortFact {
            node: name.node.clone(),
            port: name.port.clone(),
            up: fact.believed(|said| said.up).map(|(up, _)| up),
            speed_bits_per_s: fact.believed(|said| said.speed_bits_per_s).map(|(speed, _)| speed),
            mac: fact.believed(|said| said.mac.clone()).map(|(mac, _)| mac),
            addresses: addresses.remove(name).unwrap_or_default(),
            standing: fact.standing(),
        };
        let is_there =
            |(name, fact): &(&PortName, &Fact<super::reports::PortSaid>)| fact.is_said() || !self.is_no_port(name);
        self.ports.iter().filter(is_there).map(port).collect()
    }

    fn unknown_hops(&self, port_of: &BTreeMap<IpAddr, PortName>, listed: &mut Listed) {
        let hops = self.traces.values().flat_map(|trace| trace.hops.iter().flatten());
        let unknown: BTreeSet<_> = hops.filter(|address| !port_of.contains_key(address)).collect();
        for address in unknown {
            let why = "a switch answered traces from this address, and nobody says which switch has it";
            listed.unknown("hop", &address.to_string(), why.to_owned());
        }
    }
}

/// Hops from each node to the nearest host: what stands lower.
fn heights<'m>(
    kinds: &BTreeMap<&'m String, NodeKind>,
    cables: &[(&'m PortName, &'m PortName, &Fact<Heard>)],
) -> BTreeMap<&'m String, usize> {
    let mut near: BTreeMap<&String, Vec<&String>> = BTreeMap::new();
    for (a, b, _) in cables {
        near.entry(&a.node).or_default().push(&b.node);
        near.entry(&b.node).or_default().push(&a.node);
    }
    let hosts = kinds.iter().filter(|(_, kind)| **kind == NodeKind::Host).map(|(name, _)| *name);
    let mut open: VecDeque<&String> = hosts.collect();
    let mut height: BTreeMap<&String, usize> = open.iter().map(|host| (*host, 0)).collect();
    while let Some(node) = open.pop_front() {
        let above = height.get(node).map_or(1, |height| height + 1);
        for next in near.get(node).into_iter().flatten() {
            if !height.contains_key(next) {
                height.insert(next, above);
                open.push_back(next);
            }
        }
    }
    height
}

fn all_addresses(fabric: &Fabric, port_of: &BTreeMap<IpAddr, PortName>) -> BTreeMap<String, [bool; 2]> {
    let of_family =
        |is_v6: bool| port_of.iter().filter(move |(address, _)| address.is_ipv6() == is_v6).map(|(_, port)| port);
    let with_address: [BTreeSet<&PortName>; 2] = [false, true].map(|is_v6| of_family(is_v6).collect());
    let mut all = BTreeMap::new();
    for port in fabric.links().iter().flat_map(|link| [&link.a, &link.b]) {
        let of_node: &mut [bool; 2] = all.entry(port.node.clone()).or_insert([true; 2]);
        of_node.iter_mut().zip(&with_address).for_each(|(all, with)| *all &= with.contains(port));
    }
    all
}

fn by<T: Word>(what: &str, fact: &Fact<T>) -> String {
    let Standing { sources, reporters, .. } = fact.standing();
    let sources: Vec<_> = sources.iter().map(|source| source.name()).collect();
    format!("{what} ({} of {})", sources.join(", "), reporters.join(", "))
}

#[derive(Default)]
struct Listed {
    contradictions: Vec<Contradiction>,
    unknown: Vec<Unknown>,
    beyond: u64,
}

impl Listed {
    fn contradiction(&mut self, kind: &str, about: &str, believed: String, other: String) {
        if self.contradictions.len() >= LISTED_MAX {
            self.beyond += 1;
            return;
        }
        self.contradictions.push(Contradiction { kind: kind.to_owned(), about: about.to_owned(), believed, other });
    }

    fn unknown(&mut self, kind: &str, about: &str, why: String) {
        let is_known = |known: &Unknown| known.kind == kind && known.about == about;
        if self.unknown.len() >= LISTED_MAX {
            self.beyond += 1;
        } else if !self.unknown.iter().any(is_known) {
            self.unknown.push(Unknown { kind: kind.to_owned(), about: about.to_owned(), why });
        }
    }
}
