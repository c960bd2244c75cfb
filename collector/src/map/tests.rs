//! The room as hosts fill it: from snapshots to links, over a restart of an agent, and traces that are told anew.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use super::*;
use railwatch_wire::v1;

const SECOND: u64 = 1_000_000_000;

fn neighbour(interface: &str, system: &str, port: &str) -> v1::Neighbour {
    v1::Neighbour {
        interface: interface.into(),
        chassis_id: "02:00:00:00:00:01".into(),
        chassis_id_subtype: "mac".into(),
        system_name: system.into(),
        port_id: port.into(),
        port_id_subtype: "interface_name".into(),
        ..v1::Neighbour::default()
    }
}

fn port(name: &str, state: &str, address: &str) -> v1::PortState {
    v1::PortState {
        name: name.into(),
        kind: "netdev".into(),
        state: state.into(),
        addresses: vec![address.into()],
        ..v1::PortState::default()
    }
}

fn host(name: &str, number: u8) -> Host {
    let mut host = Host::new(name, Timestamp(1));
    host.ports =
        vec![port("eth0", "up", &format!("10.0.0.{}/31", number * 2 + 1)), port("mgmt0", "up", "172.16.0.1/24")];
    host.peers.neighbours = vec![neighbour("eth0", "leaf0", &format!("eth{number}"))];
    host.generation = 1;
    host
}

const ALL: News = News { itself: true, peers: true };

fn links(room: &MapRoom) -> Vec<String> {
    room.make().links.iter().map(|link| link.name.clone()).collect()
}

#[test]
fn two_hosts_snapshots_are_a_fabric_with_the_switchs_addresses() {
    let room = MapRoom::default();
    for (name, number) in [("host0", 0), ("host1", 1)] {
        room.host(&host(name, number), ALL, Timestamp(SECOND));
    }
    let topology = room.make();
    assert_eq!(links(&room), ["host0:eth0-leaf0:eth0", "host1:eth0-leaf0:eth1"]);
    let leaf = topology.ports.iter().find(|port| port.node == "leaf0" && port.port == "eth1").unwrap();
    assert_eq!(leaf.addresses, ["10.0.0.2".parse::<std::net::IpAddr>().unwrap()], "the other address of a /31");
    let nics: Vec<_> = topology.fabric.nics().iter().map(|nic| nic.port.to_string()).collect();
    assert_eq!(nics, ["host0:eth0", "host1:eth0"], "a management port is none");
}

#[test]
fn a_gateway_is_the_far_ends_only_where_nobody_else_has_room() {
    for (own, gateway, expected) in [
        ("10.0.0.1/30", "10.0.0.2", 1),
        ("10.0.0.1/24", "10.0.0.254", 0),
        ("10.0.0.1/30", "10.0.9.2", 0),
        ("10.0.0.1", "10.0.0.2", 0),
    ] {
        let mut host = host("host0", 0);
        host.ports = vec![port("eth0", "up", own)];
        host.peers.routes =
            vec![v1::Route { gateway: gateway.into(), interface: "eth0".into(), ..v1::Route::default() }];
        assert_eq!(hosts::routed(&host, &host.peers.neighbours).len(), expected, "{own} {gateway}");
    }
}

#[test]
fn an_address_that_only_a_route_tells_is_the_ports_too() {
    let mut host = host("host0", 0);
    host.ports = vec![v1::PortState { addresses: vec![], ..port("eth0", "up", "") }];
    let route = |destination: &str, gateway: &str, source: &str| v1::Route {
        destination: destination.into(),
        gateway: gateway.into(),
        interface: "eth0".into(),
        source: source.into(),
        metric: 0,
    };
    host.peers.routes = vec![
        route("10.0.0.0/31", "", "10.0.0.1"),
        route("10.0.0.0/16", "10.0.0.0", "10.0.0.1"),
        route("10.7.0.0/24", "", "10.1.0.1"),
        route("0.0.0.0/0", "", "10.2.0.1"),
    ];
    let room = MapRoom::default();
    room.host(&host, ALL, Timestamp(SECOND));
    let topology = room.make();
    let nics: Vec<_> = topology.fabric.nics().iter().map(|nic| format!("{}={}", nic.port, nic.address)).collect();
    assert_eq!(nics, ["host0:eth0=10.0.0.1"]);
    let leaf = topology.ports.iter().find(|port| port.node == "leaf0").unwrap();
    assert_eq!(leaf.addresses, ["10.0.0.0".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn a_port_that_is_numbered_is_called_as_it_describes_itself_and_a_nameless_system_by_its_chassis() {
    let numbered = v1::Neighbour {
        port_id: "02:00:00:00:00:09".into(),
        port_id_subtype: "mac".into(),
        port_description: "Ethernet1/1".into(),
        ..neighbour("eth0", "", "")
    };
    let says = hosts::heard("h", &[numbered, neighbour("eth1", "h", "eth0")]);
    let cables: Vec<_> = says
        .iter()
        .filter_map(|says| match says {
            Statement::Cable { near, far } => Some(format!("{near} {far}")),
            _ => None,
        })
        .collect();
    assert_eq!(cables, ["h:eth0 02:00:00:00:00:01:Ethernet1/1"], "a cable to itself is none");
}

#[test]
fn a_new_agent_that_has_heard_nothing_yet_takes_no_link_away() {
    let room = MapRoom::default();
    let mut of_host = host("host0", 0);
    room.host(&of_host, ALL, Timestamp(SECOND));
    room.gone("host0", Timestamp(2 * SECOND));
    (of_host.generation, of_host.peers.neighbours) = (2, vec![]);
    room.host(&of_host, ALL, Timestamp(3 * SECOND));
    assert_eq!(links(&room), ["host0:eth0-leaf0:eth0"]);
    of_host.peers.neighbours = vec![neighbour("eth0", "leaf7", "eth0")];
    room.host(&of_host, News { itself: false, peers: true }, Timestamp(4 * SECOND));
    assert_eq!(links(&room), ["host0:eth0-leaf7:eth0"], "what it hears then counts at once");
    of_host.peers.neighbours = vec![];
    room.host(&of_host, News { itself: false, peers: true }, Timestamp(5 * SECOND));
    assert_eq!(links(&room), [] as [&str; 0], "it says that its neighbour went");

    of_host.peers.neighbours = vec![neighbour("eth0", "leaf0", "eth0")];
    room.host(&of_host, ALL, Timestamp(6 * SECOND));
    (of_host.generation, of_host.peers.neighbours) = (3, vec![]);
    room.host(&of_host, ALL, Timestamp(7 * SECOND));
    room.settle(Timestamp(126 * SECOND));
    assert_eq!(links(&room).len(), 1);
    room.settle(Timestamp(128 * SECOND));
    assert_eq!(links(&room).len(), 0, "nobody is there after the time that LLDP gives");
}

#[test]
fn a_flow_that_is_traced_again_counts_as_seen_again() {
    let room = MapRoom::default();
    let flow = |source_port| Flow {
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.3".parse().unwrap(),
        transport: railwatch_engine::map::Transport::Udp,
        source_port,
        destination_port: 4791,
    };
    for (at, source_port) in [(1, 1), (40, 2), (50, 1)] {
        room.traced("host0", flow(source_port), vec![None], true, Timestamp(at * SECOND));
    }
    let unknown = |room: &MapRoom| locked(&room.0.map).clone();
    let mut map = unknown(&room);
    let before = map.revision();
    map.expire(Timestamp(59 * SECOND));
    assert_eq!(map.revision(), before, "the first was seen again at 50 s");
    map.expire(Timestamp(101 * SECOND));
    assert_ne!(map.revision(), before);
    for source_port in 0..1000 {
        room.traced("host0", flow(source_port), vec![None], true, Timestamp(60 * SECOND));
    }
    assert_eq!(locked(&room.0.traced)["host0"].len(), TRACES_PER_HOST_MAX);
}

#[tokio::test]
async fn what_is_told_is_on_the_map_by_itself() {
    let (room, stop) = (MapRoom::default(), CancellationToken::new());
    let following = tokio::spawn(room.clone().follow(stop.clone()));
    let mut makings = room.subscribe();
    room.host(&host("host0", 0), ALL, Timeline::now());
    let made = makings.wait_for(|topology| topology.links.len() == 1);
    tokio::time::timeout(Duration::from_secs(10), made).await.unwrap().unwrap();
    stop.cancel();
    following.await.unwrap();
}

#[test]
fn the_file_says_nodes_cables_and_what_is_in_what_and_a_wrong_one_says_where() {
    let text = r#"
        [[node]]
        name = "spine0"
        kind = "switch"
        [[port]]
        name = "leaf0:eth4"
        addresses = ["10.128.0.1"]
        [[cable]]
        a = "leaf0:eth4"
        b = "spine0:eth0"
        [[rack]]
        name = "r1"
        hosts = ["host0"]
        switches = ["leaf0"]
        [[power_feed]]
        name = "a"
        racks = ["r1"]
        [[line_card]]
        switch = "spine0"
        name = "1"
        ports = ["eth0"]
    "#;
    let says = file::parse(text).unwrap();
    let parts: Vec<_> = says
        .iter()
        .filter_map(|says| match says {
            Statement::Contains { outer, inner } => Some(format!("{outer} {inner}")),
            _ => None,
        })
        .collect();
    assert_eq!(
        parts,
        [
            "rack/r1 host/host0",
            "rack/r1 switch/leaf0",
            "power_feed/a rack/r1",
            "switch/spine0 line_card/spine0/1",
            "line_card/spine0/1 port/spine0/eth0"
        ]
    );
    let ports = says.iter().filter(|says| matches!(says, Statement::Port { .. })).count();
    assert_eq!(ports, 2, "a port that a cable names too is one");
    for (text, why) in [
        ("[[cable]]\na = \"leaf0\"\nb = \"x:y\"", "\"leaf0\" is no port"),
        ("[[cable]]\na = \"x:y\"\nb = \"x:y\"", "where it begins"),
        ("[[node]]\nname = \"x\"\nkind = \"router\"", "line 3"),
        ("[[cables]]", "unknown field"),
    ] {
        let said = file::parse(text).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn a_file_that_becomes_wrong_leaves_what_it_said_and_one_that_changes_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("map.toml");
    let (room, stop) = (MapRoom::default(), CancellationToken::new());
    let node = |name: &str| format!("[[node]]\nname = \"{name}\"\nkind = \"switch\"\n");
    std::fs::write(&path, node("a")).unwrap();
    tokio::spawn(file::follow(path.clone(), room.clone(), stop.clone()));
    let shown = |room: &MapRoom| room.make().nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    let becomes = async |wanted: &[&str]| {
        let reached = async {
            while shown(&room) != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap();
    };
    becomes(&["a"]).await;
    std::fs::write(&path, "[[node]]\nname = 7").unwrap();
    // Longer than between two looks.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(shown(&room), ["a"]);
    std::fs::write(&path, node("a") + &node("bb")).unwrap();
    becomes(&["a", "bb"]).await;
    stop.cancel();
}
