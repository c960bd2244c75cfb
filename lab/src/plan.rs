//! The plan of a lab: every switch, host, link and address, from the sizes alone.
//!
//! In: [`Sizes`]. Out: a [`Plan`], the same for the same sizes, whatever else runs on the machine. Never: IO, randomness.
//!
//! Each rail has leaves of its own; a host has one NIC per rail, at the leaf of its group; every spine joins all leaves.
//! Names are the field's: `leaf1`, `spine0`, `host5`, ports `eth0` and so on in the order of the links, links
//! `leaf1:eth3-spine0:eth1`, one direction of a link `leaf1:eth3>spine0:eth1`.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

/// How large the fabric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct Sizes {
    /// Rails: NICs of each host
    #[arg(long, default_value_t = 2)]
    pub rails: u32,
    /// Leaves of each rail
    #[arg(long, default_value_t = 2)]
    pub leaves_per_rail: u32,
    /// Hosts at each leaf
    #[arg(long, default_value_t = 4)]
    pub hosts_per_leaf: u32,
    /// Spines, each joined to every leaf
    #[arg(long, default_value_t = 2)]
    pub spines: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { rails: 2, leaves_per_rail: 2, hosts_per_leaf: 4, spines: 2 }
    }
}

/// What a switch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Hosts are at it.
    Leaf,
    /// It joins leaves.
    Spine,
}

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// `leaf0`, `spine0`.
    pub name: String,
    /// What it is for.
    pub tier: Tier,
    /// The rail of a leaf.
    pub rail: Option<u32>,
    /// Its autonomous system; spines share one, so that no path goes over two of them.
    pub asn: u32,
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// Number of its ports, named from `eth0`.
    pub ports: u32,
    /// Its address in the management network.
    pub management: Ipv4Addr,
    /// The other end of that link, in the management namespace.
    pub management_peer: Ipv4Addr,
}

/// A NIC of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// `eth0` on rail 0 and so on.
    pub port: String,
    /// Its rail.
    pub rail: u32,
    /// The RDMA device that is emulated over it.
    pub rdma_device: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The leaf's address on the link.
    pub gateway: Ipv4Addr,
    /// The link it is at.
    pub link: String,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `host0`.
    pub name: String,
    /// Rank of its process in the workload.
    pub rank: u32,
    /// One per rail, in their order.
    pub nics: Vec<Nic>,
    /// Its address in the management network.
    pub management: Ipv4Addr,
    /// The other end of that link, in the management namespace.
    pub management_peer: Ipv4Addr,
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Switch or host.
    pub node: String,
    /// Its port.
    pub port: String,
    /// The address there, of a /31.
    pub address: Ipv4Addr,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.port)
    }
}

/// Between what a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A host's NIC and a leaf.
    Host,
    /// A leaf and a spine.
    Fabric,
}

/// A link. `a` is the lower end: the host of a host link, the leaf of a fabric link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// `leaf1:eth3-spine0:eth1`.
    pub name: String,
    /// Between what.
    pub kind: LinkKind,
    /// Its rail.
    pub rail: u32,
    /// Lower end.
    pub a: End,
    /// Upper end.
    pub b: End,
}

impl Link {
    /// The end at the other side of `node`.
    #[must_use]
    pub fn opposite(&self, node: &str) -> &End {
        if self.a.node == node { &self.b } else { &self.a }
    }

    /// The end at `node`.
    #[must_use]
    pub fn end(&self, node: &str) -> &End {
        if self.a.node == node { &self.a } else { &self.b }
    }

    /// Name of the direction that starts at `node`.
    #[must_use]
    pub fn directed(&self, node: &str) -> String {
        format!("{}>{}", self.end(node), self.opposite(node))
    }
}

/// Addresses of a rail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rail {
    /// From 0.
    pub number: u32,
    /// All addresses of its NICs are in it: `10.RAIL.0.0/16`.
    pub prefix: String,
    /// Names of its leaves.
    pub leaves: Vec<String>,
}

/// Everything that a lab consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// From these.
    pub sizes: Sizes,
    /// Leaves, then spines.
    pub switches: Vec<Switch>,
    /// By rank.
    pub hosts: Vec<Host>,
    /// Host links, then fabric links.
    pub links: Vec<Link>,
    /// By number.
    pub rails: Vec<Rail>,
    /// The collector's address in the management network.
    pub collector: Ipv4Addr,
    /// Name of the node that the collector runs in.
    pub management: String,
}

/// The node of the collector.
pub const MANAGEMENT: &str = "management";
/// A host's or a switch's port to it.
pub const MANAGEMENT_PORT: &str = "mgmt0";
/// Where the first rail's addresses are; further rails follow.
const RAILS_MAX: u32 = 64;
/// Second octet of the first spine's links.
const FABRIC_BASE: u32 = 128;

impl Plan {
    /// The plan of these sizes.
    ///
    /// # Errors
    /// Sizes that the address plan has no room for.
    pub fn new(sizes: Sizes) -> Result<Self> {
        let Sizes { rails, leaves_per_rail, hosts_per_leaf, spines } = sizes;
        ensure!((1..=RAILS_MAX).contains(&rails), "--rails is from 1 to {RAILS_MAX}");
        ensure!((1..=RAILS_MAX).contains(&spines), "--spines is from 1 to {RAILS_MAX}");
        ensure!((1..=64).contains(&hosts_per_leaf), "--hosts-per-leaf is from 1 to 64");
        ensure!(
            leaves_per_rail >= 1 && rails * leaves_per_rail <= 128,
            "--rails times --leaves-per-rail is from 1 to 128"
        );
        ensure!(leaves_per_rail * hosts_per_leaf <= 1024, "a lab has at most 1,024 hosts");
        let leaf_name = |rail: u32, group: u32| format!("leaf{}", rail * leaves_per_rail + group);
        let port = |number: u32| format!("eth{number}");

        let mut links = Vec::new();
        let mut hosts = Vec::new();
        for rank in 0..leaves_per_rail * hosts_per_leaf {
            let (group, place) = (rank / hosts_per_leaf, rank % hosts_per_leaf);
            let at = (0..rails).map(|rail| (leaf_name(rail, group), port(place)));
            let (host, of_host) = host(rank, group, place, at);
            hosts.push(host);
            links.extend(of_host);
        }

        // At most 192 of them, above the 1,024 hosts.
        let management = |number: u32, end: u32| octets(172, 24 + number / 128, number % 128, end);
        let mut switches = Vec::new();
        for leaf in 0..rails * leaves_per_rail {
            let rail = leaf / leaves_per_rail;
            for spine in 0..spines {
                links.push(link(
                    LinkKind::Fabric,
                    rail,
                    End {
                        node: format!("leaf{leaf}"),
                        port: port(hosts_per_leaf + spine),
                        address: octets(10, FABRIC_BASE + spine, leaf, 1),
                    },
                    End {
                        node: format!("spine{spine}"),
                        port: port(leaf),
                        address: octets(10, FABRIC_BASE + spine, leaf, 0),
                    },
                ));
            }
            switches.push(Switch {
                name: format!("leaf{leaf}"),
                tier: Tier::Leaf,
                rail: Some(rail),
                asn: 4_200_000_000 + leaf,
                router_id: octets(10, 254, 0, leaf),
                ports: hosts_per_leaf + spines,
                management: management(leaf, 1),
                management_peer: management(leaf, 0),
            });
        }
        let leaves = rails * leaves_per_rail;
        switches.extend((0..spines).map(|spine| Switch {
            name: format!("spine{spine}"),
            tier: Tier::Spine,
            rail: None,
            asn: 4_200_001_000,
            router_id: octets(10, 254, 1, spine),
            ports: leaves,
            management: management(leaves + spine, 1),
            management_peer: management(leaves + spine, 0),
        }));
        let rails = (0..rails).map(|number| Rail {
            number,
            prefix: format!("10.{number}.0.0/16"),
            leaves: (0..leaves_per_rail).map(|group| leaf_name(number, group)).collect(),
        });
        Ok(Self {
            sizes,
            switches,
            hosts,
            links,
            rails: rails.collect(),
            collector: Ipv4Addr::new(172, 31, 0, 1),
            management: MANAGEMENT.to_owned(),
        })
    }

    /// One more host, at the last group's leaves, each of which has one more port. Its name.
    ///
    /// # Errors
    /// Nothing more fits into the addresses.
    pub fn grow(&mut self) -> Result<String> {
        let Sizes { rails, leaves_per_rail, hosts_per_leaf, .. } = self.sizes;
        let rank = self.hosts.iter().map(|host| host.rank + 1).max().unwrap_or_default();
        let group = leaves_per_rail - 1;
        let place = hosts_per_leaf + rank - leaves_per_rail * hosts_per_leaf;
        ensure!(place < 128 && rank < 1024, "there is no room for another host at {}", self.rails[0].leaves.join(", "));
        let leaves: Vec<_> = (0..rails).map(|rail| format!("leaf{}", rail * leaves_per_rail + group)).collect();
        let mut at = Vec::new();
        for switch in self.switches.iter_mut().filter(|switch| leaves.contains(&switch.name)) {
            at.push((switch.name.clone(), format!("eth{}", switch.ports)));
            switch.ports += 1;
        }
        let (host, links) = host(rank, group, place, at.into_iter());
        let name = host.name.clone();
        self.hosts.push(host);
        let first_above = self.links.iter().position(|link| link.kind == LinkKind::Fabric).unwrap_or(self.links.len());
        self.links.splice(first_above..first_above, links);
        Ok(name)
    }

    /// Takes out the host that came last, with its links and the leaves' ports. Nothing where there is no such host.
    pub fn shrink(&mut self) {
        let Some(host) = self.hosts.pop() else { return };
        for switch in &mut self.switches {
            let its = self.links.iter().filter(|link| link.a.node == host.name && link.b.node == switch.name);
            switch.ports -= u32::try_from(its.count()).unwrap_or_default();
        }
        self.links.retain(|link| link.a.node != host.name);
    }

    /// Every namespace there is: switches, hosts, management.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        let switches = self.switches.iter().map(|switch| switch.name.as_str());
        switches.chain(self.hosts.iter().map(|host| host.name.as_str())).chain([self.management.as_str()])
    }

    /// A switch by name.
    #[must_use]
    pub fn switch(&self, name: &str) -> Option<&Switch> {
        self.switches.iter().find(|switch| switch.name == name)
    }

    /// A host by name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The links at a node, in the order of its ports.
    pub fn links_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Link> {
        self.links.iter().filter(move |link| link.a.node == node || link.b.node == node)
    }

    /// A link by its name, or by that of one of its directions; with the node that the direction starts at.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<(&Link, Option<&str>)> {
        self.links.iter().find_map(|link| {
            if link.name == name {
                return Some((link, None));
            }
            let nodes = [&link.a.node, &link.b.node];
            nodes.into_iter().find(|node| link.directed(node) == name).map(|node| (link, Some(node.as_str())))
        })
    }
}

/// A host, and its links to a leaf and port of each rail.
fn host(rank: u32, group: u32, place: u32, at: impl Iterator<Item = (String, String)>) -> (Host, Vec<Link>) {
    let name = format!("host{rank}");
    let (mut nics, mut links) = (Vec::new(), Vec::new());
    for (rail, (leaf, port)) in (0..).zip(at) {
        let own =
            End { node: name.clone(), port: format!("eth{rail}"), address: octets(10, rail, group, place * 2 + 1) };
        let far = End { node: leaf, port, address: octets(10, rail, group, place * 2) };
        let link = link(LinkKind::Host, rail, own, far);
        nics.push(Nic {
            port: link.a.port.clone(),
            rail,
            rdma_device: format!("mlx5_{rail}"),
            address: link.a.address,
            gateway: link.b.address,
            link: link.name.clone(),
        });
        links.push(link);
    }
    let management = |end: u32| octets(172, 16 + rank / 128, rank % 128, end);
    (Host { name, rank, nics, management: management(1), management_peer: management(0) }, links)
}

fn octets(a: u32, b: u32, c: u32, d: u32) -> Ipv4Addr {
    // `Plan::new` bounds each below 256.
    Ipv4Addr::from(a << 24 | b << 16 | c << 8 | d)
}

fn link(kind: LinkKind, rail: u32, a: End, b: End) -> Link {
    Link { name: format!("{a}-{b}"), kind, rail, a, b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const CASES: [(Sizes, usize, usize, usize); 4] = [
        (Sizes { rails: 2, leaves_per_rail: 2, hosts_per_leaf: 4, spines: 2 }, 8, 16, 8),
        (Sizes { rails: 1, leaves_per_rail: 1, hosts_per_leaf: 1, spines: 1 }, 1, 1, 1),
        (Sizes { rails: 1, leaves_per_rail: 2, hosts_per_leaf: 1, spines: 2 }, 2, 2, 4),
        (Sizes { rails: 8, leaves_per_rail: 16, hosts_per_leaf: 64, spines: 64 }, 1024, 8192, 8192),
    ];

    #[test]
    fn sizes_decide_how_many_hosts_and_links_there_are() -> Result<()> {
        for (sizes, hosts, host_links, fabric_links) in CASES {
            let plan = Plan::new(sizes)?;
            let of = |kind| plan.links.iter().filter(|link| link.kind == kind).count();
            assert_eq!(plan.hosts.len(), hosts, "{sizes:?}");
            assert_eq!(of(LinkKind::Host), host_links, "{sizes:?}");
            assert_eq!(of(LinkKind::Fabric), fabric_links, "{sizes:?}");
            assert!(plan.hosts.iter().all(|host| host.nics.len() == sizes.rails as usize), "{sizes:?}");
        }
        Ok(())
    }

    #[test]
    fn names_ports_and_addresses_are_of_one_thing_each() -> Result<()> {
        for (sizes, ..) in CASES {
            let plan = Plan::new(sizes)?;
            let nodes: BTreeSet<_> = plan.nodes().collect();
            assert_eq!(nodes.len(), plan.switches.len() + plan.hosts.len() + 1, "{sizes:?}");
            let ends: Vec<_> = plan.links.iter().flat_map(|link| [&link.a, &link.b]).collect();
            assert_eq!(ends.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len(), ends.len(), "{sizes:?}");
            assert_eq!(ends.iter().map(|end| end.address).collect::<BTreeSet<_>>().len(), ends.len(), "{sizes:?}");
            let of_hosts = plan.hosts.iter().flat_map(|host| [host.management, host.management_peer]);
            let of_switches = plan.switches.iter().flat_map(|switch| [switch.management, switch.management_peer]);
            let management: BTreeSet<_> = of_hosts.chain(of_switches).collect();
            assert_eq!(management.len(), 2 * (plan.hosts.len() + plan.switches.len()), "{sizes:?}");
            assert!(!management.contains(&plan.collector), "{sizes:?}");
        }
        Ok(())
    }

    #[test]
    fn links_are_the_same_from_both_ends_and_fill_the_ports() -> Result<()> {
        for (sizes, ..) in CASES {
            let plan = Plan::new(sizes)?;
            let mut ports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for link in &plan.links {
                assert_eq!(link.opposite(&link.opposite(&link.a.node).node), &link.a);
                let (a, b) = (u32::from(link.a.address), u32::from(link.b.address));
                assert_eq!(a ^ b, 1, "{}: both addresses are of one /31", link.name);
                for end in [&link.a, &link.b] {
                    ports.entry(&end.node).or_default().insert(&end.port);
                }
            }
            for switch in &plan.switches {
                let expected: BTreeSet<_> = (0..switch.ports).map(|port| format!("eth{port}")).collect();
                let expected: BTreeSet<_> = expected.iter().map(String::as_str).collect();
                assert_eq!(ports[switch.name.as_str()], expected, "{sizes:?}: {}", switch.name);
            }
        }
        Ok(())
    }

    #[test]
    fn a_plan_grows_by_a_host_that_has_nothing_of_another_and_shrinks_back() -> Result<()> {
        let before = Plan::new(Sizes::default())?;
        let mut plan = before.clone();
        let name = plan.grow()?;
        assert_eq!((name.as_str(), plan.hosts.len(), plan.links.len()), ("host8", 9, before.links.len() + 2));
        assert!(plan.link("host8:eth0-leaf1:eth6").is_some() && plan.link("host8:eth1-leaf3:eth6").is_some());
        let ends: Vec<_> = plan.links.iter().flat_map(|link| [&link.a, &link.b]).collect();
        assert_eq!(ends.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len(), ends.len());
        assert_eq!(ends.iter().map(|end| end.address).collect::<BTreeSet<_>>().len(), ends.len());
        assert_eq!(plan.grow()?, "host9");
        plan.shrink();
        plan.shrink();
        assert_eq!(plan, before);
        Ok(())
    }

    #[test]
    fn a_name_finds_its_link_and_its_direction() -> Result<()> {
        let plan = Plan::new(Sizes::default())?;
        let (both, none) = plan.link("leaf1:eth4-spine0:eth1").expect("a fabric link");
        assert_eq!(none, None);
        for (name, from) in [("leaf1:eth4>spine0:eth1", "leaf1"), ("spine0:eth1>leaf1:eth4", "spine0")] {
            assert_eq!(plan.link(name), Some((both, Some(from))), "{name}");
            assert_eq!(both.directed(from), name);
        }
        assert_eq!(plan.link("leaf1:eth4>spine1:eth1"), None);
        Ok(())
    }

    #[test]
    fn what_the_addresses_have_no_room_for_is_refused() {
        let good = Sizes::default();
        for sizes in [
            Sizes { rails: 0, ..good },
            Sizes { rails: 65, ..good },
            Sizes { spines: 0, ..good },
            Sizes { hosts_per_leaf: 65, ..good },
            Sizes { rails: 2, leaves_per_rail: 65, hosts_per_leaf: 1, ..good },
            Sizes { rails: 1, leaves_per_rail: 17, hosts_per_leaf: 64, ..good },
        ] {
            assert!(Plan::new(sizes).is_err(), "{sizes:?}");
        }
    }
}
