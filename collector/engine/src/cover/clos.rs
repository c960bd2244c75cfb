//! A rail-optimised leaf-spine fabric of any size, for benchmarks, simulation and tests.
//!
//! In: sizes. Out: the fabric, numbered and named as the lab's (`lab/src/plan.rs`), and its NICs as endpoints that probe and answer. Pure.

use super::plan::Endpoint;
use crate::map::{Fabric, Link, Nic, Node, NodeKind, PortName};
use std::net::{IpAddr, Ipv4Addr};

/// Sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clos {
    /// NICs of each host, each on a rail of its own.
    pub rails: u32,
    /// Leaves of each rail.
    pub leaves_per_rail: u32,
    /// Hosts at each leaf.
    pub hosts_per_leaf: u32,
    /// Spines, each joined to every leaf.
    pub spines: u32,
}

/// UDP port of responders there.
const ANSWERS: u16 = 7704;

/// The fabric of these sizes, with its endpoints by NIC.
///
/// # Panics
/// Never: its lists are of one piece.
#[must_use]
pub fn clos(sizes: Clos) -> (Fabric, Vec<Endpoint>) {
    let Clos { rails, leaves_per_rail, hosts_per_leaf, spines } = sizes;
    let port = |node: String, number: u32| PortName { node, port: format!("eth{number}") };
    let (hosts, leaves) = (leaves_per_rail * hosts_per_leaf, rails * leaves_per_rail);
    let node = |name: String, kind| Node { name, kind };
    let nodes = (0..hosts).map(|host| node(format!("host{host}"), NodeKind::Host));
    let nodes = nodes.chain((0..leaves).map(|leaf| node(format!("leaf{leaf}"), NodeKind::Switch)));
    let nodes = nodes.chain((0..spines).map(|spine| node(format!("spine{spine}"), NodeKind::Switch)));
    let (mut links, mut nics, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
    for host in 0..hosts {
        let (group, place) = (host / hosts_per_leaf, host % hosts_per_leaf);
        for rail in 0..rails {
            let near = port(format!("host{host}"), rail);
            let far = port(format!("leaf{}", rail * leaves_per_rail + group), place);
            let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | rail << 16 | group << 8 | (place * 2 + 1) & 0xff));
            let nic = Nic { port: near.clone(), address, link: links.len() };
            endpoints.push(Endpoint {
                port: near.clone(),
                address,
                address_v6: None,
                rail: format!("10.{rail}.0.0/16"),
                nic: Some(nics.len()),
                answers: Some(ANSWERS),
            });
            nics.push(nic);
            links.push(Link { a: near, b: far, up: true });
        }
    }
    for leaf in 0..leaves {
        for spine in 0..spines {
            let (a, b) = (port(format!("leaf{leaf}"), hosts_per_leaf + spine), port(format!("spine{spine}"), leaf));
            links.push(Link { a, b, up: true });
        }
    }
    #[expect(clippy::expect_used, reason = "every end and every NIC of the lists above is in them")]
    let fabric = Fabric::new(nodes.collect(), links, nics).expect("lists of one piece");
    (fabric, endpoints)
}
