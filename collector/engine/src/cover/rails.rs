//! Which NICs are on one rail, as far as hosts' addresses and routes show.
//!
//! In: each NIC with its own prefix and the routes through it. Out: a name of the rail for each, and by what it was told. The widest route
//! through a NIC that has its own address in it, or its own prefix, is its rail's; where that is missing somewhere, or puts two NICs of one host on
//! one rail, interface names decide. Pure.

use crate::map::PortName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A prefix: an address and the length of what counts of it.
pub type Prefix = (IpAddr, u8);

/// A NIC and what its host says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which.
    pub port: PortName,
    /// Its address.
    pub address: IpAddr,
    /// Of that address, where known.
    pub own: Option<Prefix>,
    /// Destinations of routes through it.
    pub routes: Vec<Prefix>,
}

/// By what rails are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rails {
    /// Routes or prefixes.
    Prefix,
    /// Interfaces of the same name.
    #[default]
    InterfaceName,
}

/// A rail for each.
#[must_use]
pub fn rails(claims: &[Claim]) -> (Vec<String>, Rails) {
    let prefixes: Option<Vec<Prefix>> = claims.iter().map(prefix).collect();
    if let Some(prefixes) = prefixes {
        let distinct: BTreeSet<_> =
            claims.iter().zip(&prefixes).map(|(claim, prefix)| (&claim.port.node, prefix)).collect();
        if distinct.len() == claims.len() {
            let name = |(address, length): &Prefix| format!("{address}/{length}");
            return (prefixes.iter().map(name).collect(), Rails::Prefix);
        }
    }
    (claims.iter().map(|claim| claim.port.port.clone()).collect(), Rails::InterfaceName)
}

/// The widest that holds the NIC's address; a prefix of one link says nothing of a rail, and neither does a default route.
fn prefix(claim: &Claim) -> Option<Prefix> {
    let link = if claim.address.is_ipv4() { 30 } else { 120 };
    let candidates = claim.routes.iter().chain(&claim.own).filter(|(_, length)| *length > 0 && *length < link);
    let holding = candidates.filter(|(network, length)| masked(*network, *length) == masked(claim.address, *length));
    holding.min_by_key(|(_, length)| *length).map(|(network, length)| (masked(*network, *length), *length))
}

/// The address with all bits beyond the prefix cleared.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(u32::from(length))).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(u32::from(length))).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn claim(host: &str, port: &str, own: &str, routes: &[&str]) -> Claim {
        let prefix = |text: &str| {
            let (address, length) = text.split_once('/').unwrap();
            (address.parse().unwrap(), length.parse().unwrap())
        };
        let (address, length) = prefix(own);
        let own = Some((address, length));
        Claim {
            port: PortName { node: host.to_owned(), port: port.to_owned() },
            address,
            own,
            routes: routes.iter().map(|route| prefix(route)).collect(),
        }
    }

    #[test]
    fn routes_or_wide_prefixes_tell_rails_and_names_do_where_they_cannot() {
        for (claims, expected, by) in [
            // A /31 per link, and a route to the rail.
            (
                vec![
                    claim("a", "eth0", "10.0.0.1/31", &["0.0.0.0/0", "10.0.0.0/16", "10.1.0.0/16"]),
                    claim("a", "eth1", "10.1.0.1/31", &["10.1.0.0/16"]),
                    claim("b", "ens1", "10.0.1.1/31", &["10.0.0.0/16"]),
                ],
                vec!["10.0.0.0/16", "10.1.0.0/16", "10.0.0.0/16"],
                Rails::Prefix,
            ),
            // One subnet each.
            (
                vec![claim("a", "eth0", "192.168.4.7/24", &[]), claim("b", "eth3", "192.168.4.8/24", &[])],
                vec!["192.168.4.0/24", "192.168.4.0/24"],
                Rails::Prefix,
            ),
            // One route for all rails says nothing.
            (
                vec![
                    claim("a", "eth0", "10.0.0.1/31", &["10.0.0.0/8"]),
                    claim("a", "eth1", "10.1.0.1/31", &["10.0.0.0/8"]),
                ],
                vec!["eth0", "eth1"],
                Rails::InterfaceName,
            ),
            // One host says nothing.
            (
                vec![claim("a", "eth0", "10.0.0.1/31", &[]), claim("b", "eth0", "10.0.1.1/16", &[])],
                vec!["eth0", "eth0"],
                Rails::InterfaceName,
            ),
            (
                vec![claim("a", "eth0", "fd00:0:0:7::1/64", &[]), claim("b", "eth0", "fd00:0:0:7::2/64", &[])],
                vec!["fd00:0:0:7::/64", "fd00:0:0:7::/64"],
                Rails::Prefix,
            ),
        ] {
            assert_eq!(rails(&claims), (expected.into_iter().map(str::to_owned).collect(), by), "{claims:?}");
        }
    }
}
