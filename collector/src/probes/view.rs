//! What the planner plans for: the fabric, and the NICs that probe.
//!
//! In: live state of the hosts. Out: a [`Fabric`] and placements through [`FabricView`], of which [`HostsOnly`] is what hosts' own
//! snapshots show: their links to leaves, by LLDP, and nothing above; and the endpoints. A host's NICs for jobs are those under RDMA ports, where it
//! has such; else all that are up with an address of their own, but the one by which its agent speaks to the collector.

use crate::live::{Host, Live};
use crate::switches::Switch;
use railwatch_engine::cover::{CONGESTION_SERIES, Claim, ERROR_SERIES, Endpoint, PAUSE_SERIES, Prefix, Rails, rails};
use railwatch_engine::map::{Fabric, Flow, Link, Nic, Node, NodeKind, Path, PortName};
use railwatch_wire::v1;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Who knows the fabric.
pub trait FabricView: Send + Sync {
    /// As it is known now. It is asked for every second: the same one again is compared by its address.
    fn fabric(&self) -> Arc<Fabric>;
    /// Paths of flows that were traced, of probes and of answers alike: an answer is a flow of its own.
    fn placements(&self) -> Arc<BTreeMap<Flow, Path>>;
}

/// What hosts say of their own cables.
pub struct HostsOnly(pub Live);

impl FabricView for HostsOnly {
    fn fabric(&self) -> Arc<Fabric> {
        let mut hosts = BTreeSet::new();
        let mut cables: BTreeMap<PortName, (PortName, bool)> = BTreeMap::new();
        let mut addresses = Vec::new();
        for cell in self.0.cells() {
            let host = cell.lock();
            hosts.insert(host.name.clone());
            for nic in nics(&host, None) {
                addresses.push((PortName { node: host.name.clone(), port: nic.name.to_owned() }, nic.address));
            }
            for neighbour in &host.peers.neighbours {
                let is_up = host.ports.iter().any(|port| port.name == neighbour.interface && is_up(port));
                let near = PortName { node: host.name.clone(), port: neighbour.interface.clone() };
                cables.insert(near, (far(neighbour), is_up));
            }
        }
        // Two hosts joined by a cable have no switch between them.
        cables.retain(|_, (far, _)| !hosts.contains(&far.node));
        let switches: BTreeSet<String> = cables.values().map(|(far, _)| far.node.clone()).collect();
        let node = |kind| move |name: String| Node { name, kind };
        let nodes = hosts.into_iter().map(node(NodeKind::Host)).chain(switches.into_iter().map(node(NodeKind::Switch)));
        let number: BTreeMap<PortName, usize> = cables.keys().cloned().zip(0..).collect();
        let links = cables.into_iter().map(|(a, (b, up))| Link { a, b, up });
        let nics =
            addresses.into_iter().filter_map(|(port, address)| Some(Nic { link: *number.get(&port)?, port, address }));
        // Every end is among the nodes and every NIC at its link: they are made of one list.
        Arc::new(Fabric::new(nodes.collect(), links.collect(), nics.collect()).unwrap_or_default())
    }

    fn placements(&self) -> Arc<BTreeMap<Flow, Path>> {
        Arc::default()
    }
}

/// The other end, by the names that people use where it has such.
fn far(neighbour: &v1::Neighbour) -> PortName {
    let first = |texts: [&String; 2]| texts.into_iter().find(|text| !text.is_empty()).cloned().unwrap_or_default();
    let is_name =
        matches!(neighbour.port_id_subtype.as_str(), "interface_name" | "ifname" | "interface_alias" | "local");
    let port = match is_name {
        true => first([&neighbour.port_id, &neighbour.port_description]),
        false => first([&neighbour.port_description, &neighbour.port_id]),
    };
    PortName { node: first([&neighbour.system_name, &neighbour.chassis_id]), port }
}

fn is_up(port: &v1::PortState) -> bool {
    port.state.eq_ignore_ascii_case("up")
}

/// A NIC for jobs.
struct JobNic<'h> {
    name: &'h str,
    /// Of IPv4, where it has one.
    address: IpAddr,
    /// Length of that address's prefix.
    length: u8,
    /// One of IPv6, where it has both.
    address_v6: Option<IpAddr>,
}

/// NICs for jobs. `peer` is where the agent's stream comes from.
fn nics(host: &Host, peer: Option<IpAddr>) -> Vec<JobNic<'_>> {
    let under_rdma: BTreeSet<&str> = host
        .ports
        .iter()
        .filter(|port| port.kind == "rdma" && !port.netdev.is_empty())
        .map(|port| port.netdev.as_str())
        .collect();
    let netdevs = host.ports.iter().filter(|port| port.kind == "netdev" && is_up(port));
    let mut found: Vec<_> = netdevs
        .filter(|port| under_rdma.is_empty() || under_rdma.contains(port.name.as_str()))
        .filter_map(|port| {
            let own = || port.addresses.iter().filter_map(|text| prefix(text)).filter(|(address, _)| is_own(*address));
            let (v4, v6) = (own().find(|(own, _)| own.is_ipv4()), own().find(|(own, _)| own.is_ipv6()));
            let (address, length) = v4.or(v6)?;
            let address_v6 = v4.and(v6).map(|(own, _)| own);
            Some(JobNic { name: port.name.as_str(), address, length, address_v6 })
        })
        .collect();
    if under_rdma.is_empty() && found.len() > 1 {
        found.retain(|nic| peer.is_none_or(|peer| peer != nic.address && nic.address_v6 != Some(peer)));
    }
    found
}

impl JobNic<'_> {
    /// Its addresses, IPv4 first.
    fn own(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.address).chain(self.address_v6)
    }
}

/// Neither loopback nor of one link alone.
fn is_own(address: IpAddr) -> bool {
    let of_link = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !of_link
}

/// "10.0.1.3/31".
fn prefix(text: &str) -> Option<Prefix> {
    let (address, length) = text.split_once('/')?;
    Some((address.parse().ok()?, length.parse().ok()?))
}

/// Who probes.
#[derive(Debug, Default)]
pub struct Found {
    /// By host and interface.
    pub endpoints: Vec<Endpoint>,
    /// How their rails were told apart.
    pub rails: Rails,
    /// Hosts whose agents take plans.
    pub able: BTreeSet<String>,
    /// Hosts that take no part, or no whole one, and why.
    pub left_out: BTreeMap<String, String>,
}

/// Every NIC that probes. `peers` are the hosts that are connected, with where their streams come from.
pub fn endpoints(live: &Live, peers: &HashMap<String, IpAddr>, fabric: &Fabric) -> Found {
    let of_fabric: HashMap<&PortName, usize> = fabric.nics().iter().map(|nic| &nic.port).zip(0..).collect();
    let (mut found, mut claims) = (Found::default(), Vec::new());
    for cell in live.cells() {
        let host = cell.lock();
        let Some(peer) = peers.get(&host.name) else { continue };
        let Some(probe) = &host.probe else {
            found.left_out.insert(host.name.clone(), "its agent says nothing of probes".to_owned());
            continue;
        };
        found.able.insert(host.name.clone());
        let port = u16::try_from(probe.port).ok().filter(|port| *port != 0);
        let answers_at =
            |address: IpAddr| port.filter(|_| if address.is_ipv4() { probe.answers } else { probe.answers_v6 });
        let nics = nics(&host, Some(*peer));
        let why = match () {
            () if nics.is_empty() => Some("no NIC that is up has an address".to_owned()),
            () if !nics.iter().any(|nic| nic.own().any(|own| answers_at(own).is_some())) => {
                Some(format!("it does not answer probes{}", said(&probe.off)))
            }
            () => None,
        };
        found.left_out.extend(why.map(|why| (host.name.clone(), why)));
        for nic in nics {
            let port = PortName { node: host.name.clone(), port: nic.name.to_owned() };
            let routes = host.peers.routes.iter().filter(|route| route.interface == nic.name);
            let routes = routes.filter_map(|route| prefix(&route.destination)).collect();
            claims.push(Claim {
                port: port.clone(),
                address: nic.address,
                own: Some((nic.address, nic.length)),
                routes,
            });
            // An address over which it does not answer would be a target that loses all. Where it answers over none, it probes over any.
            let mut own = nic.own().filter(|own| answers_at(*own).is_some());
            let (address, address_v6) = own.next().map_or((nic.address, nic.address_v6), |first| (first, own.next()));
            let (number, answers) = (of_fabric.get(&port).copied(), answers_at(address));
            found.endpoints.push(Endpoint { port, address, address_v6, rail: String::new(), nic: number, answers });
        }
    }
    let (names, by) = rails(&claims);
    found.rails = by;
    found.endpoints.iter_mut().zip(names).for_each(|(endpoint, name)| endpoint.rail = name);
    found
}

fn said(off: &[v1::Limitation]) -> String {
    let said: Vec<_> = off.iter().map(|off| format!("{}: {}", off.what, off.why)).collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) }
}

/// Sources that are on, by host, with their cadence in milliseconds.
pub fn sources(live: &Live) -> BTreeMap<String, BTreeMap<String, f64>> {
    let of_host = |host: &Host| {
        let on = host.sources.iter().filter(|source| source.on);
        #[expect(clippy::cast_precision_loss, reason = "a cadence")]
        let on = on.map(|source| (source.source.clone(), source.cadence_ns as f64 / 1e6));
        (host.name.clone(), on.collect())
    };
    live.cells()
        .iter()
        .map(|cell| of_host(&cell.lock()))
        .filter(|(_, on): &(String, BTreeMap<_, _>)| !on.is_empty())
        .collect()
}

/// Of each host, which of the series it has that tell of pause, of congestion and of errors.
pub fn telling(live: &Live) -> BTreeMap<String, BTreeSet<String>> {
    let is_telling = |name: &str| {
        PAUSE_SERIES.contains(&name)
            || name == CONGESTION_SERIES
            || ERROR_SERIES.iter().any(|(series, _)| *series == name)
    };
    let of_host = |host: &Host| {
        let names = host.series.iter().map(|series| series.definition.name.as_str());
        (host.name.clone(), names.filter(|name| is_telling(name)).map(str::to_owned).collect())
    };
    live.cells().iter().map(|cell| of_host(&cell.lock())).collect()
}

/// Of each switch that speaks, what it says, with the time between two words, ms; 0: on change.
pub fn said_by_switches(live: &Live) -> BTreeMap<String, BTreeMap<String, f64>> {
    let says = |switch: &Switch| {
        let is_silent = |what: &str| switch.silent.iter().any(|limitation| limitation.what == what);
        let told = switch.offer.told.iter().filter(|(what, _)| !is_silent(what));
        (switch.state.name.clone(), told.map(|(what, every)| (what.clone(), every.as_secs_f64() * 1e3)).collect())
    };
    let cells = live.switches().cells();
    let switches = cells.iter().map(|cell| cell.lock());
    switches.filter(|switch| switch.connected_since.is_some()).map(|switch| says(&switch)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use std::time::Duration;

    /// A host of two rails and a management port, at the leaves of its group.
    pub(crate) fn lab_host(live: &Live, number: u8, answers: bool) {
        let cell = live.host(&format!("host{number}"));
        let mut host = cell.lock();
        let port = |name: &str, address: String| v1::PortState {
            name: name.into(),
            kind: "netdev".into(),
            state: "up".into(),
            addresses: vec!["fe80::1/64".into(), address],
            ..v1::PortState::default()
        };
        let neighbour = |rail: u8| v1::Neighbour {
            interface: format!("eth{rail}"),
            system_name: format!("leaf{}", rail * 2 + number / 4),
            chassis_id: "02:00:00:00:00:01".into(),
            port_id: format!("eth{}", number % 4),
            port_id_subtype: "interface_name".into(),
            ..v1::Neighbour::default()
        };
        host.connected = true;
        host.ports = (0..2u8)
            .map(|rail| port(&format!("eth{rail}"), format!("10.{rail}.{}.{}/31", number / 4, number % 4 * 2 + 1)))
            .chain([port("mgmt0", format!("172.16.{number}.1/31"))])
            .collect();
        host.peers.neighbours = (0..2).map(neighbour).collect();
        host.peers.routes = (0..2)
            .map(|rail| v1::Route {
                destination: format!("10.{rail}.0.0/16"),
                interface: format!("eth{rail}"),
                ..v1::Route::default()
            })
            .collect();
        host.probe = Some(v1::ProbeState { answers, port: 7704, ..v1::ProbeState::default() });
    }

    pub(crate) fn lab_peers() -> HashMap<String, IpAddr> {
        (0..8u8).map(|number| (format!("host{number}"), IpAddr::from([172, 16, number, 1]))).collect()
    }

    #[test]
    fn hosts_alone_show_their_links_to_leaves_and_which_nics_are_the_jobs() {
        let live = Live::new(Duration::from_secs(60));
        (0..8).for_each(|number| lab_host(&live, number, number != 3));
        live.host("old").lock().connected = true;
        let fabric = HostsOnly(live.clone()).fabric();
        let switches = fabric.nodes().iter().filter(|node| node.kind == NodeKind::Switch).count();
        assert_eq!((fabric.links().len(), fabric.nics().len(), switches), (16, 16, 4));
        assert_eq!(fabric.links()[0].to_string(), "host0:eth0-leaf0:eth0");
        let mut peers = lab_peers();
        peers.insert("old".into(), IpAddr::from([172, 16, 9, 1]));
        let found = endpoints(&live, &peers, &fabric);
        assert_eq!((found.endpoints.len(), found.rails), (16, Rails::Prefix));
        assert!(found.endpoints.iter().all(|endpoint| endpoint.port.port != "mgmt0" && endpoint.nic.is_some()));
        assert_eq!(found.endpoints[1].rail, "10.1.0.0/16");
        let silent: Vec<_> = found.endpoints.iter().filter(|endpoint| endpoint.answers.is_none()).collect();
        assert!(silent.len() == 2 && silent.iter().all(|endpoint| endpoint.port.node == "host3"));
        assert_eq!(found.left_out.keys().map(String::as_str).collect::<Vec<_>>(), ["host3", "old"]);
        peers.remove("host5");
        assert_eq!(endpoints(&live, &peers, &fabric).endpoints.len(), 14, "one that is away does not probe");
    }

    #[test]
    fn addresses_are_those_over_which_a_host_answers_ipv4_first() {
        let v4 = "10.0.1.1/24";
        let (own_v4, own_v6): (IpAddr, IpAddr) = ([10, 0, 1, 1].into(), "fd00:0:1::1".parse().unwrap());
        for (addresses, answers, answers_v6, expected) in [
            (vec!["fe80::1/64", v4, "fd00:0:1::1/64"], true, true, Some((own_v4, Some(own_v6), true))),
            (vec!["fd00:0:1::1/64", v4], true, false, Some((own_v4, None, true))),
            (vec!["fd00:0:1::1/64", v4], false, true, Some((own_v6, None, true))),
            (vec!["fd00:0:1::1/64"], true, true, Some((own_v6, None, true))),
            // An agent of before, that does not say.
            (vec!["fd00:0:1::1/64"], true, false, Some((own_v6, None, false))),
            (vec![v4, "fd00:0:1::1/64"], false, false, Some((own_v4, Some(own_v6), false))),
            (vec!["fe80::1/64"], true, true, None),
        ] {
            let live = Live::new(Duration::from_secs(60));
            {
                let cell = live.host("a");
                let mut host = cell.lock();
                let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
                let (name, kind, state) = ("eth0".into(), "netdev".into(), "up".into());
                host.ports = vec![v1::PortState { name, kind, state, addresses, ..v1::PortState::default() }];
                host.probe = Some(v1::ProbeState { answers, answers_v6, port: 7704, ..v1::ProbeState::default() });
            }
            let peers = HashMap::from([("a".to_owned(), IpAddr::from([172, 16, 0, 1]))]);
            let found = endpoints(&live, &peers, &Fabric::default());
            let endpoint = found.endpoints.first().map(|end| (end.address, end.address_v6, end.answers == Some(7704)));
            assert_eq!(endpoint, expected, "{addresses:?} {answers} {answers_v6}");
            assert_eq!(found.left_out.is_empty(), expected.is_some_and(|(.., is_target)| is_target));
        }
    }

    #[test]
    fn where_a_host_has_rdma_ports_what_is_under_them_is_the_jobs() {
        let live = Live::new(Duration::from_secs(60));
        lab_host(&live, 0, true);
        let rdma = v1::PortState {
            name: "mlx5_1/1".into(),
            kind: "rdma".into(),
            netdev: "eth1".into(),
            ..v1::PortState::default()
        };
        live.host("host0").lock().ports.push(rdma);
        let found = endpoints(&live, &lab_peers(), &Fabric::default());
        assert_eq!(found.endpoints.iter().map(|endpoint| endpoint.port.port.as_str()).collect::<Vec<_>>(), ["eth1"]);
    }
}
