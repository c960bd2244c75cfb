//! The fabric as searches read it: nodes, links, NICs, by number.
//!
//! In: lists. Out: equal-cost paths, as switches choose them: hop by hop, by a hash of the flow, among the neighbours nearest to the
//! destination. Pure. Never: a path through a host, or over a link that is down.

use super::statement::NodeKind;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;

/// A port by its node's name and its own: `leaf1:eth3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortName {
    /// Host or switch.
    pub node: String,
    /// As the node calls it.
    pub port: String,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.node, self.port)
    }
}

/// A host or a switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
}

/// A cable between two ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The end whose node stands lower: the host of a host link, the leaf of a fabric link; among equals the lesser name.
    pub a: PortName,
    /// The other end.
    pub b: PortName,
    /// Not known to be down.
    pub up: bool,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.a, self.b)
    }
}

/// A host's port that carries the job's traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Host and interface.
    pub port: PortName,
    /// Where probes and flows go to.
    pub address: IpAddr,
    /// Number of its link.
    pub link: usize,
}

/// One direction of a link: `leaf1:eth3>spine0:eth1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Direction {
    /// Number of the link.
    pub link: usize,
    /// From its `a` to its `b`.
    pub from_a: bool,
}

/// Directions in order, the sender's own link first.
pub type Path = Vec<Direction>;

/// Every path that a flow may take, with how likely it is where nothing is known of the hash. They sum to 1, or to nothing where
/// there is no way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathSet {
    /// Likeliest first, equal ones in the order of their links.
    pub paths: Vec<(f64, Path)>,
    /// There are more than were asked for.
    pub cut: bool,
}

/// Lists that contradict themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FabricError {
    /// A link ends at a node that is not listed.
    #[error("link {0} ends at an unknown node")]
    UnknownNode(String),
    /// A NIC is at a link that is not listed, or at one that does not end there.
    #[error("NIC {0} is not at its link")]
    NotAtLink(PortName),
}

/// See the page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fabric {
    nodes: Vec<Node>,
    links: Vec<Link>,
    nics: Vec<Nic>,
    /// Of each link, the nodes of its ends.
    ends: Vec<(usize, usize)>,
    /// Of each node, its ways out: the direction, and the node it leads to.
    out: Vec<Vec<(Direction, usize)>>,
}

impl Fabric {
    /// From its lists.
    ///
    /// # Errors
    /// Where they contradict themselves.
    pub fn new(nodes: Vec<Node>, links: Vec<Link>, nics: Vec<Nic>) -> Result<Self, FabricError> {
        let by_name: BTreeMap<&str, usize> = nodes.iter().map(|node| node.name.as_str()).zip(0..).collect();
        let (mut ends, mut out) = (Vec::with_capacity(links.len()), vec![Vec::new(); nodes.len()]);
        for (number, link) in links.iter().enumerate() {
            let node = |end: &PortName| by_name.get(end.node.as_str()).copied();
            let (Some(a), Some(b)) = (node(&link.a), node(&link.b)) else {
                return Err(FabricError::UnknownNode(link.to_string()));
            };
            ends.push((a, b));
            out[a].push((Direction { link: number, from_a: true }, b));
            out[b].push((Direction { link: number, from_a: false }, a));
        }
        for nic in &nics {
            let at = links.get(nic.link).is_some_and(|link| link.a == nic.port || link.b == nic.port);
            if !at {
                return Err(FabricError::NotAtLink(nic.port.clone()));
            }
        }
        Ok(Self { nodes, links, nics, ends, out })
    }

    /// Hosts and switches.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Cables.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// NICs.
    #[must_use]
    pub fn nics(&self) -> &[Nic] {
        &self.nics
    }

    /// Name of a direction: `leaf1:eth3>spine0:eth1`.
    #[must_use]
    pub fn name(&self, direction: Direction) -> String {
        let Link { a, b, .. } = &self.links[direction.link];
        if direction.from_a { format!("{a}>{b}") } else { format!("{b}>{a}") }
    }

    /// The node that a direction leads to.
    #[must_use]
    pub fn head(&self, direction: Direction) -> usize {
        let (a, b) = self.ends[direction.link];
        if direction.from_a { b } else { a }
    }

    /// The direction that leads out of a NIC's host.
    #[must_use]
    pub fn outward(&self, nic: &Nic) -> Direction {
        Direction { link: nic.link, from_a: self.links[nic.link].a == nic.port }
    }

    /// The equal-cost paths between two NICs by number, at most `paths_max` of them.
    #[must_use]
    pub fn paths(&self, from: usize, to: usize, paths_max: usize) -> PathSet {
        let (first, last) = (self.outward(&self.nics[from]), self.outward(&self.nics[to]));
        let arriving = Direction { from_a: !last.from_a, ..last };
        if !self.links[first.link].up || !self.links[last.link].up {
            return PathSet::default();
        }
        let (begin, end) = (self.head(first), self.head(last));
        let Some(distance) = self.distances(end).filter(|distance| distance[begin] != usize::MAX) else {
            return PathSet::default();
        };
        let mut found = PathSet::default();
        let mut open = vec![(begin, 1.0, vec![first])];
        while let Some((node, likely, mut path)) = open.pop() {
            if node == end {
                if found.paths.len() == paths_max {
                    found.cut = true;
                    break;
                }
                path.push(arriving);
                found.paths.push((likely, path));
                continue;
            }
            let nearer: Vec<_> =
                self.ways(node).filter(|(_, next)| distance[*next].checked_add(1) == Some(distance[node])).collect();
            #[expect(clippy::cast_precision_loss, reason = "ports of a switch, far below 2^52")]
            let share = likely / nearer.len() as f64;
            for (direction, next) in nearer.into_iter().rev() {
                let mut longer = path.clone();
                longer.push(direction);
                open.push((next, share, longer));
            }
        }
        found.paths.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        found
    }

    /// Hops from each node to this one through switches alone, or the greatest number; none where the node is a host.
    fn distances(&self, to: usize) -> Option<Vec<usize>> {
        if self.nodes[to].kind != NodeKind::Switch {
            return None;
        }
        let mut distance = vec![usize::MAX; self.nodes.len()];
        distance[to] = 0;
        let mut open = VecDeque::from([to]);
        while let Some(node) = open.pop_front() {
            for (_, next) in self.ways(node) {
                if distance[next] == usize::MAX && self.nodes[next].kind == NodeKind::Switch {
                    distance[next] = distance[node] + 1;
                    open.push_back(next);
                }
            }
        }
        Some(distance)
    }

    fn ways(&self, node: usize) -> impl Iterator<Item = (Direction, usize)> + '_ {
        self.out[node].iter().copied().filter(|(direction, _)| self.links[direction.link].up)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn port(name: &str) -> PortName {
        let (node, port) = name.split_once(':').unwrap();
        PortName { node: node.to_owned(), port: port.to_owned() }
    }

    /// Hosts h0 and h1 at leaves l0 and l1, h2 at l0 too; spines s0 and s1, s1 joined to l0 twice.
    fn fabric(down: &str) -> Fabric {
        let nodes = ["h0", "h1", "h2", "l0", "l1", "s0", "s1"].map(|name| Node {
            name: name.to_owned(),
            kind: if name.starts_with('h') { NodeKind::Host } else { NodeKind::Switch },
        });
        let links = [
            "h0:e0-l0:e0",
            "h1:e0-l1:e0",
            "h2:e0-l0:e1",
            "l0:e2-s0:e0",
            "l0:e3-s1:e0",
            "l0:e4-s1:e1",
            "l1:e2-s0:e1",
            "l1:e3-s1:e2",
        ];
        let links = links.map(|name| {
            let (a, b) = name.split_once('-').unwrap();
            Link { a: port(a), b: port(b), up: name != down }
        });
        let nics = [0, 1, 2].map(|host: u8| Nic {
            port: port(&format!("h{host}:e0")),
            address: IpAddr::from([10, 0, 0, host]),
            link: usize::from(host),
        });
        Fabric::new(nodes.into(), links.into(), nics.into()).unwrap()
    }

    fn shown(fabric: &Fabric, set: &PathSet) -> Vec<(f64, String)> {
        let names = |path: &Path| path.iter().map(|d| fabric.name(*d)).collect::<Vec<_>>().join(" ");
        set.paths.iter().map(|(likely, path)| (*likely, names(path))).collect()
    }

    #[test]
    fn each_switch_shares_a_flow_among_all_its_ways() {
        let fabric = fabric("");
        let third = 1.0 / 3.0;
        let ways = [
            ("l0:e2>s0:e0 s0:e1>l1:e2", third),
            ("l0:e3>s1:e0 s1:e2>l1:e3", third),
            ("l0:e4>s1:e1 s1:e2>l1:e3", third),
        ];
        let expected = ways.map(|(way, likely)| (likely, format!("h0:e0>l0:e0 {way} l1:e0>h1:e0")));
        assert_eq!(shown(&fabric, &fabric.paths(0, 1, 10)), expected);
        let back = shown(&fabric, &fabric.paths(1, 0, 10));
        assert_eq!(back.iter().map(|(likely, _)| *likely).collect::<Vec<_>>(), [0.5, 0.25, 0.25]);
        assert_eq!(back[0].1, "h1:e0>l1:e0 l1:e2>s0:e1 s0:e0>l0:e2 l0:e0>h0:e0");
        assert_eq!(shown(&fabric, &fabric.paths(0, 2, 10)), [(1.0, "h0:e0>l0:e0 l0:e1>h2:e0".to_owned())]);
        let cut = fabric.paths(0, 1, 2);
        assert_eq!((cut.paths.len(), cut.cut), (2, true));
    }

    #[test]
    fn no_path_takes_a_link_that_is_down() {
        let without_spine = fabric("l0:e2-s0:e0");
        assert_eq!(without_spine.paths(0, 1, 10).paths.len(), 2);
        let alone = fabric("h1:e0-l1:e0");
        assert_eq!(alone.paths(0, 1, 10), PathSet::default());
    }

    #[test]
    fn lists_that_contradict_themselves_are_refused() {
        let fabric = fabric("");
        let (nodes, links, nics) = (fabric.nodes.clone(), fabric.links.clone(), fabric.nics.clone());
        assert_eq!(
            Fabric::new(nodes[1..].to_vec(), links.clone(), vec![]),
            Err(FabricError::UnknownNode("h0:e0-l0:e0".to_owned()))
        );
        let moved = Nic { link: 1, ..nics[0].clone() };
        assert_eq!(Fabric::new(nodes, links, vec![moved]), Err(FabricError::NotAtLink(nics[0].port.clone())));
    }
}
