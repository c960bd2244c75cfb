//! What people call an end of a path: a host, a host's port, an address.
//!
//! In: the word, the map. Out: NICs by number, or what is wrong with the word and what is near it. Pure.

use railwatch_engine::map::{NodeKind, Topology};
use std::net::IpAddr;

/// Names that are offered for one that is not there.
const OFFERED_MAX: usize = 3;

/// The NICs that a word means, in the order of their names; at least one.
pub fn nics(topology: &Topology, word: &str) -> Result<Vec<usize>, String> {
    let all = topology.fabric.nics();
    if let Ok(address) = word.parse::<IpAddr>() {
        return topology.nic_at(address).map(|nic| vec![nic]).ok_or_else(|| {
            format!("no NIC of the fabric has the address {address}; `railwatch topology` lists ports and addresses")
        });
    }
    let of = |is: &dyn Fn(&railwatch_engine::map::Nic) -> bool| {
        all.iter().enumerate().filter(|(_, nic)| is(nic)).map(|(number, _)| number).collect::<Vec<_>>()
    };
    let (host, port) = match word.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (word, None),
    };
    let of_host = of(&|nic| nic.port.node == host);
    let Some(port) = port else {
        return if of_host.is_empty() { Err(unknown_host(topology, host)) } else { Ok(of_host) };
    };
    let found = of(&|nic| nic.port.node == host && nic.port.port == port);
    if !found.is_empty() {
        return Ok(found);
    }
    if of_host.is_empty() {
        return Err(unknown_host(topology, host));
    }
    let names: Vec<_> = of_host.iter().filter_map(|nic| all.get(*nic)).map(|nic| nic.port.port.as_str()).collect();
    Err(format!("host {host} has no NIC {port} on the fabric: it has {}", names.join(", ")))
}

fn unknown_host(topology: &Topology, host: &str) -> String {
    match topology.nodes.iter().find(|node| node.name == host) {
        Some(node) if node.kind == NodeKind::Switch => {
            format!("{host} is a switch: a path leads from a host, a host's port or an address to another")
        }
        Some(_) => format!(
            "host {host} has no NIC on the fabric: none of its ports has both an address and a known cable to a switch; \
             `railwatch topology` says what is unknown"
        ),
        None => {
            let hosts = topology.nodes.iter().filter(|node| node.kind == NodeKind::Host);
            let mut near: Vec<_> = hosts.map(|node| (distance(&node.name, host), node.name.as_str())).collect();
            near.sort_unstable();
            let is_near = |(far, name): &&(usize, &str)| *far <= 2.max(host.len() / 3) || name.contains(host);
            let near: Vec<_> = near.iter().filter(is_near).take(OFFERED_MAX).map(|(_, name)| *name).collect();
            let offer = if near.is_empty() { String::new() } else { format!(": is it {}?", near.join(", ")) };
            format!("there is no host {host} on the map{offer}")
        }
    }
}

/// How many letters one word must change to become the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Addresses of one family for a flow between two NICs: those that the words are, IPv4 before IPv6 otherwise.
pub fn addresses(topology: &Topology, from: (&str, usize), to: (&str, usize)) -> Option<(IpAddr, IpAddr)> {
    let of = |(word, nic): (&str, usize)| -> Vec<IpAddr> {
        let Some(nic) = topology.fabric.nics().get(nic) else { return Vec::new() };
        match word.parse() {
            Ok(address) => vec![address],
            Err(_) => {
                let of_nic = |port: &&railwatch_engine::map::PortFact| {
                    (&port.node, &port.port) == (&nic.port.node, &nic.port.port)
                };
                topology.ports.iter().find(of_nic).map_or_else(|| vec![nic.address], |port| port.addresses.clone())
            }
        }
    };
    let (from, to) = (of(from), of(to));
    let first = |all: &[IpAddr], is_v6: bool| all.iter().copied().find(|address| address.is_ipv6() == is_v6);
    [false, true].into_iter().find_map(|is_v6| Some((first(&from, is_v6)?, first(&to, is_v6)?)))
}

/// Of the NICs that two words mean, the two that a path is shown of: the sender's first, and the receiver's nearest to it.
pub fn pair(topology: &Topology, from: &[usize], to: &[usize]) -> Option<(usize, usize)> {
    let all = topology.fabric.nics();
    let from = *from.first()?;
    let name = &all.get(from)?.port.port;
    let rank = |nic: &usize| {
        let hops = topology.fabric.paths(from, *nic, 1).paths.first().map_or(usize::MAX, |(_, path)| path.len());
        (hops, all.get(*nic).is_none_or(|nic| nic.port.port != *name), *nic)
    };
    to.iter().copied().filter(|nic| *nic != from).min_by_key(rank).map(|to| (from, to))
}
