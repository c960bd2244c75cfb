//! Routes against a real kernel, in a network namespace of the test's own. Needs root (CAP_SYS_ADMIN) and iproute2.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, in_own_namespaces, ip, until};
use railwatch_peers::{Peers, Route, RouteSource};
use std::sync::Arc;

fn shown(route: &Route) -> String {
    let (network, prefix) = route.destination;
    let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let source = route.source.map(|source| format!(" from {source}")).unwrap_or_default();
    format!("{network}/{prefix}{via} dev {}{source} {}", route.interface, route.metric)
}

#[test]
fn the_main_table_and_those_that_rules_name_are_listed_and_followed() {
    in_own_namespaces(|| {
        ip("link add e0 type veth peer name p0");
        ip("link add e1 type veth peer name p1");
        for name in ["e0", "p0", "e1", "p1"] {
            // No addresses of the kernel's own making.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
            ip(&format!("link set {name} up"));
        }
        ip("addr add 10.0.0.1/31 dev e0");
        ip("addr add 10.1.0.1/31 dev e1");
        ip("route add 10.0.0.0/16 via 10.0.0.0 dev e0 metric 7");
        ip("route add default via 10.1.0.0 dev e1 table 101");
        ip("route add default via 10.1.0.0 dev e1 table 102");
        ip("rule add from 10.1.0.1 lookup 101");
        ip("route add 10.9.0.0/16 nexthop via 10.0.0.0 dev e0 nexthop via 10.1.0.0 dev e1");
        ip("route add blackhole 10.66.0.0/16");

        let peers = Arc::new(Peers::default());
        let mut source = Driven::new(RouteSource::new(Arc::clone(&peers)));
        source.probe().unwrap();
        source.read();
        let list = || peers.view().routes.iter().map(shown).collect::<Vec<_>>();
        let expected = [
            "0.0.0.0/0 via 10.1.0.0 dev e1 from 10.1.0.1 0",
            "10.0.0.0/16 via 10.0.0.0 dev e0 7",
            "10.0.0.0/31 dev e0 from 10.0.0.1 0",
            "10.1.0.0/31 dev e1 from 10.1.0.1 0",
            "10.9.0.0/16 via 10.0.0.0 dev e0 0",
            "10.9.0.0/16 via 10.1.0.0 dev e1 0",
        ];
        assert_eq!(list(), expected);
        let facts = peers.view().facts;
        source.read();
        assert_eq!(peers.view().facts, facts, "nothing changed");
        ip("route del 10.0.0.0/16");
        until("the route to be gone", || {
            source.read();
            list().len() == expected.len() - 1
        });
        assert_eq!(peers.view().facts, facts + 1);
        for number in 0..600 {
            ip(&format!("route add 10.200.{}.{}/32 dev e0", number / 250, number % 250));
        }
        until("the bound to be reached", || {
            source.read();
            peers.view().beyond.get("routes") == Some(&(600 + 5 - 512))
        });
        assert_eq!(list().len(), 512);
    });
}
