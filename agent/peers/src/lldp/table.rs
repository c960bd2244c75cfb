//! Who is at the other end of each port, by what was heard. Pure: every instant comes in.
//!
//! In: announcements with the port they came in by and the moment. Out: what changed, and the neighbours that hold still.
//! An entry lives as long as its last announcement said. Never: more neighbours than the bounds (those beyond are counted,
//! and a port's first ones stay), or a change told twice.

use super::pdu::{Announcement, Id};
use std::collections::BTreeMap;

/// Neighbours of one port: a cable has one, a hub or a switch that passes LLDP on has more.
pub const PORT_NEIGHBOURS_MAX: usize = 8;
/// Neighbours of all ports.
pub const NEIGHBOURS_MAX: usize = 256;

const SECOND_NS: u64 = 1_000_000_000;

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The port of this host.
    pub interface: String,
    /// What it said last.
    pub said: Announcement,
    /// Since when, CLOCK_MONOTONIC.
    pub first_heard_ns: u64,
    /// When last, CLOCK_MONOTONIC.
    pub last_heard_ns: u64,
}

impl Neighbour {
    /// Chassis and port: what the standard calls the MSAP identifier.
    fn is(&self, said: &Announcement) -> bool {
        self.said.chassis == said.chassis && self.said.port == said.port
    }

    fn expires_at_ns(&self) -> u64 {
        self.last_heard_ns.saturating_add(u64::from(self.said.ttl_s) * SECOND_NS)
    }
}

/// What happened on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The first neighbour that the port ever had.
    Appeared,
    /// One that is not the one before: another cable, another switch, or more than one at the other end.
    Another,
    /// The one before, after it was lost.
    Returned,
    /// The same chassis and port, that says something else of itself.
    Changed,
    /// Nothing was heard for as long as it had said.
    Expired,
    /// It said that it goes.
    Shutdown,
    /// The port itself is gone.
    PortGone,
}

impl Why {
    /// As an attribute of a signal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Appeared => "appeared",
            Self::Another => "another",
            Self::Returned => "returned",
            Self::Changed => "changed",
            Self::Expired => "expired",
            Self::Shutdown => "shutdown",
            Self::PortGone => "port_gone",
        }
    }

    /// The neighbour is there no longer.
    #[must_use]
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Expired | Self::Shutdown | Self::PortGone)
    }
}

/// A change, with the neighbours of the port after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which port, by its index.
    pub port: u32,
    /// What happened.
    pub why: Why,
    /// To whom.
    pub neighbour: Neighbour,
    /// Who was known there before, where that is not the same.
    pub before: Option<(Id, Id)>,
    /// Neighbours that the port has now.
    pub now: usize,
}

#[derive(Debug)]
struct Port {
    name: String,
    neighbours: Vec<Neighbour>,
    /// Chassis and port heard last, also after they were lost.
    last: Option<(Id, Id)>,
}

/// The neighbours of all ports.
#[derive(Debug, Default)]
pub struct Table {
    ports: BTreeMap<u32, Port>,
    /// Announcements of neighbours that had no place.
    pub beyond: u64,
}

impl Table {
    /// Sets which ports there are, by index and name. What was known of others is lost.
    pub fn set_ports(&mut self, ports: &[(u32, String)]) -> Vec<Change> {
        let mut changes = Vec::new();
        self.ports.retain(|index, port| {
            let stays = ports.iter().any(|(of, name)| of == index && *name == port.name);
            if !stays {
                let before = std::mem::take(&mut port.neighbours);
                changes.extend(before.into_iter().map(|neighbour| Change {
                    port: *index,
                    why: Why::PortGone,
                    neighbour,
                    before: None,
                    now: 0,
                }));
            }
            stays
        });
        for (index, name) in ports {
            let fresh = || Port { name: name.clone(), neighbours: Vec::new(), last: None };
            self.ports.entry(*index).or_insert_with(fresh);
        }
        changes
    }

    /// Takes what a port heard. `None` where nothing changed, or where the port is none of ours.
    pub fn hear(&mut self, index: u32, said: Announcement, now_ns: u64) -> Option<Change> {
        let all: usize = self.ports.values().map(|port| port.neighbours.len()).sum();
        let port = self.ports.get_mut(&index)?;
        let identity = (said.chassis.clone(), said.port.clone());
        let known = port.neighbours.iter().position(|neighbour| neighbour.is(&said));
        let Some(at) = known else {
            if said.ttl_s == 0 {
                return None;
            }
            if port.neighbours.len() >= PORT_NEIGHBOURS_MAX || all >= NEIGHBOURS_MAX {
                self.beyond += 1;
                return None;
            }
            let neighbour =
                Neighbour { interface: port.name.clone(), said, first_heard_ns: now_ns, last_heard_ns: now_ns };
            port.neighbours.push(neighbour.clone());
            let before = port.last.replace(identity.clone());
            let why = match &before {
                None => Why::Appeared,
                Some(before) if *before == identity => Why::Returned,
                Some(_) => Why::Another,
            };
            let before = before.filter(|_| why == Why::Another);
            return Some(Change { port: index, why, neighbour, before, now: port.neighbours.len() });
        };
        if said.ttl_s == 0 {
            let neighbour = port.neighbours.remove(at);
            let now = port.neighbours.len();
            return Some(Change { port: index, why: Why::Shutdown, neighbour, before: None, now });
        }
        port.last = Some(identity);
        let neighbour = &mut port.neighbours[at];
        neighbour.last_heard_ns = now_ns;
        // How long it holds, and what was passed over, is no news.
        let heard_before = std::mem::replace(&mut neighbour.said, said);
        let Announcement { ttl_s, skipped, .. } = neighbour.said;
        let is_news = Announcement { ttl_s, skipped, ..heard_before } != neighbour.said;
        let neighbour = neighbour.clone();
        let now = port.neighbours.len();
        is_news.then_some(Change { port: index, why: Why::Changed, neighbour, before: None, now })
    }

    /// Lets go of those that were not heard for as long as they had said.
    pub fn expire(&mut self, now_ns: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (index, port) in &mut self.ports {
            let (gone, stay) = std::mem::take(&mut port.neighbours)
                .into_iter()
                .partition::<Vec<_>, _>(|neighbour| neighbour.expires_at_ns() <= now_ns);
            let now = stay.len();
            port.neighbours = stay;
            changes.extend(gone.into_iter().map(|neighbour| Change {
                port: *index,
                why: Why::Expired,
                neighbour,
                before: None,
                now,
            }));
        }
        changes
    }

    /// All of them, by port.
    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.ports.values().flat_map(|port| &port.neighbours)
    }

    /// How many a port has.
    #[must_use]
    pub fn count(&self, index: u32) -> usize {
        self.ports.get(&index).map_or(0, |port| port.neighbours.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lldp::pdu::Skipped;

    fn said(chassis: &str, port: &str, ttl_s: u16) -> Announcement {
        let id = |text: &str| Id { subtype: "local", text: text.into() };
        Announcement {
            chassis: id(chassis),
            port: id(port),
            ttl_s,
            port_description: String::new(),
            system_name: chassis.to_owned(),
            system_description: String::new(),
            management_addresses: Vec::new(),
            skipped: Skipped::default(),
        }
    }

    fn table() -> Table {
        let mut table = Table::default();
        assert_eq!(table.set_ports(&[(2, "eth0".into()), (3, "eth1".into())]), []);
        table
    }

    fn told(change: Option<Change>) -> Option<(Why, String, usize)> {
        change.map(|change| (change.why, change.neighbour.said.chassis.text, change.now))
    }

    const S: u64 = SECOND_NS;

    #[test]
    fn a_neighbour_is_told_when_it_comes_when_it_changes_and_when_it_goes_and_not_between() {
        let mut table = table();
        let leaf = |ttl| said("leaf1", "e1", ttl);
        assert_eq!(told(table.hear(2, leaf(120), 0)), Some((Why::Appeared, "leaf1".into(), 1)));
        assert_eq!(table.hear(2, leaf(120), 30 * S), None);
        assert_eq!(table.hear(2, leaf(90), 60 * S), None, "another time to live is no news");
        let renamed = Announcement { system_name: "leaf1-new".into(), ..leaf(90) };
        assert_eq!(told(table.hear(2, renamed, 61 * S)), Some((Why::Changed, "leaf1".into(), 1)));
        assert_eq!(table.expire(150 * S), []);
        let lost = table.expire(151 * S);
        assert_eq!(
            lost.into_iter().map(|c| told(Some(c))).collect::<Vec<_>>(),
            [Some((Why::Expired, "leaf1".into(), 0))]
        );
        assert_eq!(told(table.hear(2, leaf(120), 160 * S)), Some((Why::Returned, "leaf1".into(), 1)));
        assert_eq!(told(table.hear(2, leaf(0), 161 * S)), Some((Why::Shutdown, "leaf1".into(), 0)));
        assert_eq!(table.hear(2, leaf(0), 162 * S), None, "one that nobody knew");
        assert_eq!(table.neighbours().count(), 0);
    }

    #[test]
    fn another_neighbour_on_a_port_names_the_one_before() {
        let mut table = table();
        table.hear(2, said("leaf1", "e1", 120), 0);
        let change = table.hear(2, said("leaf1", "e2", 120), S).expect("another port of the same switch is another");
        assert_eq!((change.why, change.now), (Why::Another, 2));
        let before = change.before.map(|(chassis, port)| (chassis.text, port.text));
        assert_eq!(before, Some(("leaf1".into(), "e1".into())));
        assert_eq!(table.count(2), 2);
        assert_eq!(told(table.hear(3, said("leaf1", "e1", 120), 2 * S)), Some((Why::Appeared, "leaf1".into(), 1)));
    }

    #[test]
    fn a_port_that_goes_takes_its_neighbours_with_it_and_one_that_is_not_ours_has_none() {
        let mut table = table();
        assert_eq!(table.hear(9, said("leaf1", "e1", 120), 0), None);
        table.hear(2, said("leaf1", "e1", 120), 0);
        table.hear(3, said("leaf2", "e1", 120), 0);
        // The index stayed and the name did not: another interface.
        let changes = table.set_ports(&[(2, "eth7".into()), (3, "eth1".into())]);
        let told: Vec<_> = changes.iter().map(|c| (c.why, c.neighbour.interface.as_str())).collect();
        assert_eq!(told, [(Why::PortGone, "eth0")]);
        assert_eq!(table.neighbours().map(|n| n.interface.as_str()).collect::<Vec<_>>(), ["eth1"]);
    }

    #[test]
    fn neighbours_are_bounded_on_each_port_and_in_all_and_those_beyond_are_counted() {
        let mut table = Table::default();
        let ports: Vec<_> = (1..=60).map(|index| (index, format!("eth{index}"))).collect();
        table.set_ports(&ports);
        for port in 1..=60 {
            for neighbour in 0..10 {
                table.hear(port, said(&format!("c{neighbour}"), "p", 120), 0);
            }
        }
        assert_eq!(table.neighbours().count(), NEIGHBOURS_MAX);
        assert_eq!(table.count(1), PORT_NEIGHBOURS_MAX);
        assert_eq!(table.beyond, 600 - NEIGHBOURS_MAX as u64);
    }
}
