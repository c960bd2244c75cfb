//! The map from what is said of it: tables of statements, and whatever order they come in.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use proptest::prelude::*;
use railwatch_engine::Timestamp;
use railwatch_engine::map::{
    AFTER_GONE_NS, Flow, Map, NODE_AFTER_GONE_NS, NodeKind, PortName, Source, Statement, TRACE_FRESH_NS, Topology,
    Transport, changes,
};
use std::time::Instant;

fn port(name: &str) -> PortName {
    let (node, port) = name.split_once(':').unwrap();
    PortName { node: node.to_owned(), port: port.to_owned() }
}

/// `host h0`, `switch l0`, `port h0:e0 up 10.0.0.1`, `cable h0:e0 l0:e0`, `remembered l0:e1 s0:e0`, `part rack/r1 host/h0`.
fn statement(line: &str) -> Statement {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["host", name] => Statement::Node { name: name.to_owned(), kind: NodeKind::Host },
        ["switch", name] => Statement::Node { name: name.to_owned(), kind: NodeKind::Switch },
        ["port", name, up, ref addresses @ ..] => Statement::Port {
            port: port(name),
            up: match up {
                "up" => Some(true),
                "down" => Some(false),
                _ => None,
            },
            speed_bits_per_s: None,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            mac: None,
        },
        ["cable", near, far] => Statement::Cable { near: port(near), far: port(far) },
        ["remembered", near, far] => Statement::Remembered { near: port(near), far: port(far) },
        ["part", outer, inner] => Statement::Contains { outer: outer.to_owned(), inner: inner.to_owned() },
        _ => panic!("{line}"),
    }
}

/// A reporter, its source, and its lines.
type Said<'a> = (&'a str, Source, &'a [&'a str]);

fn map(said: &[Said<'_>]) -> Map {
    let mut map = Map::default();
    for (at, (reporter, source, lines)) in (1..).zip(said) {
        map.report(reporter, *source, lines.iter().map(|line| statement(line)).collect(), Timestamp(at));
    }
    map
}

/// Links with `!` where they are down, NICs, contradictions by kind and what they are about, unknown things likewise.
fn shown(topology: &Topology) -> (String, String, String, String) {
    let links = topology.links.iter().map(|link| format!("{}{}", link.name, if link.up { "" } else { "!" }));
    let nics = topology.fabric.nics().iter().map(|nic| format!("{}={}", nic.port, nic.address));
    let against = topology.contradictions.iter().map(|found| format!("{} {}", found.kind, found.about));
    let unknown = topology.unknown.iter().map(|found| format!("{} {}", found.kind, found.about));
    let joined = |words: Vec<String>| words.join(", ");
    (joined(links.collect()), joined(nics.collect()), joined(against.collect()), joined(unknown.collect()))
}

const H0: &[&str] = &["host h0", "port h0:e0 up 10.0.0.1"];
const H0_HEARD: &[&str] = &["switch l0", "cable h0:e0 l0:e0"];

#[test]
fn what_is_said_becomes_links_and_what_contradicts_it_is_told() {
    use Source::{Host, Inventory, Lldp, Route, Switch};
    type Case<'a> = (&'a str, &'a [Said<'a>], [&'a str; 4]);
    let cases: &[Case<'_>] = &[
        ("nothing", &[], ["", "", "", ""]),
        ("one end", &[("h0", Host, H0), ("h0", Lldp, H0_HEARD)], ["h0:e0-l0:e0", "h0:e0=10.0.0.1", "", ""]),
        (
            "both ends are one cable, and the host stands lower whatever its name",
            &[
                ("z0", Host, &["host z0", "port z0:e0 up 10.0.0.1"]),
                ("z0", Lldp, &["switch l0", "cable z0:e0 l0:e0"]),
                ("l0", Switch, &["switch l0", "cable l0:e0 z0:e0"]),
            ],
            ["z0:e0-l0:e0", "z0:e0=10.0.0.1", "", ""],
        ),
        (
            "between switches the one nearer to hosts stands lower, among equals the lesser name",
            &[
                ("h0", Host, H0),
                ("h0", Lldp, &["switch x0", "cable h0:e0 x0:e0"]),
                (
                    "file",
                    Inventory,
                    &["switch a0", "switch b0", "cable a0:e0 x0:e1", "cable b0:e0 x0:e2", "cable b0:e1 a0:e1"],
                ),
            ],
            ["a0:e1-b0:e1, h0:e0-x0:e0, x0:e1-a0:e0, x0:e2-b0:e0", "h0:e0=10.0.0.1", "", ""],
        ),
        (
            "a management port leads to nothing known and is no NIC",
            &[("h0", Host, &["host h0", "port h0:e0 up 10.0.0.1", "port h0:m0 up 172.16.0.1"]), ("h0", Lldp, H0_HEARD)],
            ["h0:e0-l0:e0", "h0:e0=10.0.0.1", "", "far_end h0:m0"],
        ),
        (
            "a node that nobody speaks of is not invented",
            &[("h0", Host, H0), ("h0", Lldp, &["cable h0:e0 l0:e0"])],
            ["", "", "", "node l0, far_end h0:e0"],
        ),
        (
            "the cable of a dark port is a link that is down, and up at once when its ports are",
            &[
                ("h0", Host, H0),
                ("h0", Lldp, H0_HEARD),
                (
                    "l0",
                    Switch,
                    &[
                        "switch l0",
                        "port l0:e0 up",
                        "port l0:e1 down",
                        "port l0:e2 up",
                        "remembered l0:e1 s0:e0",
                        "remembered l0:e2 s0:e1",
                    ],
                ),
                ("s0", Switch, &["switch s0", "port s0:e0 down", "port s0:e1 up", "remembered s0:e0 l0:e1"]),
            ],
            ["h0:e0-l0:e0, l0:e1-s0:e0!, l0:e2-s0:e1", "h0:e0=10.0.0.1", "", ""],
        ),
        (
            "a remembered cable gives way to one that is heard at either end, which is no contradiction",
            &[
                ("h0", Host, H0),
                ("h0", Lldp, H0_HEARD),
                (
                    "l0",
                    Switch,
                    &[
                        "switch l0",
                        "port l0:e0 up",
                        "port l0:e1 down",
                        "port l0:e2 down",
                        "remembered l0:e1 s0:e0",
                        "remembered l0:e2 h0:e0",
                    ],
                ),
                ("l1", Switch, &["switch l1", "port l1:e1 up", "cable l1:e1 s0:e0"]),
                ("s0", Switch, &["switch s0", "port s0:e0 up", "cable s0:e0 l1:e1"]),
            ],
            ["h0:e0-l0:e0, l1:e1-s0:e0", "h0:e0=10.0.0.1", "", "way_up l0"],
        ),
        (
            "a cable is remembered to a port that its switch still has",
            &[
                ("l0", Switch, &["switch l0", "port l0:e1 down", "remembered l0:e1 s0:e0"]),
                ("s0", Switch, &["switch s0", "port s0:e9 up"]),
            ],
            ["", "", "", ""],
        ),
        (
            "what was heard on the cable beats the file",
            &[("h0", Host, H0), ("file", Inventory, &["switch l0", "cable h0:e0 l0:e9"]), ("h0", Lldp, H0_HEARD)],
            ["h0:e0-l0:e0", "h0:e0=10.0.0.1", "two_cables h0:e0", ""],
        ),
        (
            "a switch's own word beats what was heard",
            &[("h0", Host, H0), ("h0", Lldp, H0_HEARD), ("l0", Switch, &["switch l0", "cable l0:e3 h0:e0"])],
            ["h0:e0-l0:e3", "h0:e0=10.0.0.1", "two_cables h0:e0", ""],
        ),
        (
            "an address at two ports is at the one that says so itself",
            &[("h0", Host, H0), ("h0", Lldp, H0_HEARD), ("h1", Route, &["port l0:e0 ? 10.0.0.1"])],
            ["h0:e0-l0:e0", "h0:e0=10.0.0.1", "address 10.0.0.1", ""],
        ),
        (
            "up at one end and down at the other is down, and told",
            &[("h0", Host, H0), ("h0", Lldp, H0_HEARD), ("l0", Switch, &["switch l0", "port l0:e0 down"])],
            ["h0:e0-l0:e0!", "h0:e0=10.0.0.1", "link_state h0:e0-l0:e0", ""],
        ),
        (
            "a host that calls itself one is none of the switches",
            &[("h0", Host, H0), ("h0", Lldp, &["switch h1", "cable h0:e0 h1:e0"]), ("h1", Host, &["host h1"])],
            ["h0:e0-h1:e0", "", "node_kind h1", ""],
        ),
        (
            "leaves without a way up are told",
            &[
                ("h0", Host, H0),
                ("h0", Lldp, H0_HEARD),
                ("h1", Host, &["host h1", "port h1:e0 up 10.0.0.3"]),
                ("h1", Lldp, &["switch l1", "cable h1:e0 l1:e0"]),
            ],
            ["h0:e0-l0:e0, h1:e0-l1:e0", "h0:e0=10.0.0.1, h1:e0=10.0.0.3", "", "way_up l0, way_up l1"],
        ),
        (
            "addresses of a cable alone say nothing, and IPv4 comes first",
            &[
                ("h0", Host, &["host h0", "port h0:e0 up fe80::1 169.254.0.1 127.0.0.1 2001:db8::1 10.0.0.9"]),
                ("h0", Lldp, H0_HEARD),
            ],
            ["h0:e0-l0:e0", "h0:e0=10.0.0.9", "", ""],
        ),
    ];
    for (what, said, expected) in cases {
        let (links, nics, against, unknown) = shown(&map(said).topology());
        assert_eq!([links, nics, against, unknown], *expected, "{what}");
    }
}

#[test]
fn agreement_raises_confidence_and_never_to_certainty() {
    let confidence = |said: &[Said<'_>]| map(said).topology().links[0].standing.confidence;
    let heard = ("h0", Source::Lldp, H0_HEARD);
    let one = confidence(&[("h0", Source::Host, H0), heard]);
    let two =
        confidence(&[("h0", Source::Host, H0), heard, ("l0", Source::Switch, &["switch l0", "cable l0:e0 h0:e0"])]);
    assert!(one < two && two < 1.0, "{one} {two}");
    let names: Vec<String> = (0..50).map(|n| format!("r{n}")).collect();
    let mut many = vec![("h0", Source::Host, H0)];
    many.extend(names.iter().map(|name| (name.as_str(), Source::Lldp, H0_HEARD)));
    let many = confidence(&many);
    assert!(many > two && many < 1.0, "{many}");
}

#[test]
fn a_cable_outlives_the_word_of_one_end_with_less_confidence_and_of_both_for_a_while() {
    let mut map = map(&[
        ("h0", Source::Host, H0),
        ("h0", Source::Lldp, H0_HEARD),
        ("l0", Source::Switch, &["switch l0", "cable l0:e0 h0:e0"]),
    ]);
    let confidence = |map: &Map| map.topology().links.first().map(|link| link.standing.confidence);
    let both = confidence(&map).unwrap();
    map.gone("h0", Timestamp(100));
    let one = confidence(&map).unwrap();
    map.expire(Timestamp(101 + AFTER_GONE_NS));
    let alone = confidence(&map).unwrap();
    assert!(both > one && one > alone, "{both} {one} {alone}");
    assert_eq!(map.topology().links[0].standing.sources, [Source::Switch]);
    assert!(map.topology().nodes.iter().any(|node| node.name == "h0"), "a host that left is one still");

    let gone = Timestamp(200 + AFTER_GONE_NS);
    map.gone("l0", gone);
    assert_eq!(map.topology().links[0].standing.valid_until, Some(Timestamp(gone.0 + AFTER_GONE_NS)));
    map.expire(Timestamp(gone.0 + AFTER_GONE_NS));
    assert_eq!(map.topology().links.len(), 1);
    map.expire(Timestamp(gone.0 + AFTER_GONE_NS + 1));
    assert_eq!((map.topology().links.len(), map.topology().nodes.len()), (0, 2));
    map.expire(Timestamp(gone.0 + NODE_AFTER_GONE_NS + 1));
    assert_eq!((map.topology().nodes.len(), map.counts().facts), (0, 0), "nothing is left behind");
}

#[test]
fn a_cable_of_who_left_goes_with_the_port_of_a_switch_that_speaks() {
    use Source::{Host, Lldp, Switch};
    let with = &["switch l0", "port l0:e0 up", "cable l0:e0 h0:e0"][..];
    let heard = &["switch l0", "port l0:e0 ? 10.0.0.0", "cable h0:e0 l0:e0"][..];
    let mut map = map(&[("h0", Host, H0), ("h0", Lldp, heard), ("l0", Switch, with)]);
    let has_port = |map: &Map| map.topology().ports.iter().any(|port| port.node == "l0" && port.port == "e0");
    let links = |map: &Map| shown(&map.topology()).0;
    let says = |map: &mut Map, lines: &[&str], at| {
        map.report("l0", Switch, lines.iter().map(|line| statement(line)).collect(), Timestamp(at));
    };
    // The port is there, dark: the cable may be, too.
    says(&mut map, &["switch l0", "port l0:e0 down"], 10);
    map.gone("h0", Timestamp(11));
    assert_eq!((links(&map).as_str(), has_port(&map)), ("h0:e0-l0:e0!", true));
    says(&mut map, &["switch l0", "port l0:e1 up"], 12);
    assert_eq!(links(&map), "");
    // Whoever is there is believed.
    map.report("h0", Lldp, heard.iter().map(|line| statement(line)).collect(), Timestamp(13));
    assert_eq!(links(&map), "h0:e0-l0:e0");
    // A switch that does not speak takes nothing back.
    map.gone("h0", Timestamp(14));
    assert_eq!((links(&map).as_str(), has_port(&map)), ("", false));
    map.gone("l0", Timestamp(15));
    assert_eq!(links(&map), "h0:e0-l0:e0");
}

#[test]
fn who_comes_back_counts_whole_and_who_says_less_loses_the_rest() {
    let mut map = map(&[("h0", Source::Host, H0), ("h0", Source::Lldp, H0_HEARD)]);
    let whole = map.topology().links[0].standing.clone();
    map.gone("h0", Timestamp(50));
    map.report("h0", Source::Lldp, H0_HEARD.iter().map(|line| statement(line)).collect(), Timestamp(60));
    let back = map.topology().links[0].standing.clone();
    assert_eq!((back.confidence, back.since, back.valid_until), (whole.confidence, whole.since, None));
    map.report("h0", Source::Lldp, vec![], Timestamp(40));
    assert_eq!((map.topology().links.len(), map.counts().late), (1, 1), "an old word takes nothing back");
    map.report("h0", Source::Lldp, vec![], Timestamp(70));
    assert_eq!(map.topology().links.len(), 0);
}

#[test]
fn of_two_cables_at_a_port_the_one_still_said_wins_over_one_of_who_left() {
    let mut map = map(&[("l0", Source::Switch, &["switch l0", "switch l1", "cable l0:e0 l1:e0"])]);
    map.report("file", Source::Inventory, vec![statement("cable l0:e0 l1:e7")], Timestamp(9));
    assert_eq!(map.topology().links[0].name, "l0:e0-l1:e0");
    map.gone("l0", Timestamp(10));
    assert_eq!(map.topology().links[0].name, "l0:e0-l1:e7");
}

/// Two leaves of a host each, under two spines; the addresses of s1 are known where asked.
fn clos(knows_s1: bool) -> Map {
    let hosts = [("h0", "l0", "10.0.0.1", "10.0.0.0"), ("h1", "l1", "10.0.1.1", "10.0.1.0")];
    let mut map = Map::default();
    for (host, leaf, own, gateway) in hosts {
        let of_host = [format!("host {host}"), format!("port {host}:e0 up {own}")];
        let heard = [format!("switch {leaf}"), format!("cable {host}:e0 {leaf}:e0")];
        let routed = [format!("port {leaf}:e0 ? {gateway}")];
        for (source, lines) in [(Source::Host, &of_host[..]), (Source::Lldp, &heard), (Source::Route, &routed)] {
            map.report(host, source, lines.iter().map(|line| statement(line)).collect(), Timestamp(1));
        }
    }
    let mut lines = vec!["switch s0".to_owned(), "switch s1".to_owned()];
    for (leaf, spine) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        lines.push(format!("cable l{leaf}:u{spine} s{spine}:d{leaf}"));
        if spine == 0 || knows_s1 {
            lines.push(format!("port s{spine}:d{leaf} up 10.128.{spine}.{leaf}"));
        }
    }
    map.report("file", Source::Inventory, lines.iter().map(|line| statement(line)).collect(), Timestamp(1));
    map
}

#[test]
fn a_fresh_trace_of_the_flow_itself_makes_its_path_exact() {
    let address = |text: &str| text.parse().unwrap();
    let flow = |source_port| Flow {
        source: address("10.0.0.1"),
        destination: address("10.0.1.1"),
        transport: Transport::Tcp,
        source_port,
        destination_port: 7,
    };
    let over = |spine: usize| vec!["10.0.0.0".to_owned(), format!("10.128.{spine}.0"), "10.0.1.0".to_owned()];
    let words = |hops: &[&str]| hops.iter().map(|hop| (*hop).to_owned()).collect::<Vec<_>>();
    let second = 1_000_000_000;
    // Knows the addresses of s1; hops; whether the end was reached; age; another flow is asked for; exact; spines.
    let cases = [
        ("its own way", true, over(1), true, second, 5, true, "s1"),
        ("of another flow", true, over(1), true, second, 6, false, "s0 s1"),
        ("too old", true, over(1), true, TRACE_FRESH_NS + 2 * second, 5, false, "s0 s1"),
        ("only the middle answered", true, words(&["?", "10.128.0.0", "?"]), true, second, 5, true, "s0"),
        ("nobody answered", true, words(&["?", "?", "?"]), true, second, 5, false, "s0 s1"),
        ("an address that is not s0's, whose addresses are all known", false, over(1), true, second, 5, true, "s1"),
        (
            "one of IPv6, of which no spine's are known",
            true,
            words(&["10.0.0.0", "fd00::9", "10.0.1.0"]),
            true,
            second,
            5,
            false,
            "s0 s1",
        ),
        ("one of a cable alone", false, words(&["10.0.0.0", "fe80::1", "10.0.1.0"]), true, second, 5, false, "s0 s1"),
        ("it got stuck after the spine", true, words(&["10.0.0.0", "10.128.1.0"]), false, second, 5, true, "s1"),
        ("a way that is not on the map", true, words(&["10.0.0.0", "10.0.1.0"]), true, second, 5, false, "s0 s1"),
    ];
    for (what, knows_s1, hops, reached, age, asked, exact, spines) in cases {
        let mut map = clos(knows_s1);
        let hops = hops.iter().map(|hop| hop.parse().ok()).collect();
        map.report("h0", Source::Trace, vec![Statement::Trace { flow: flow(5), hops, reached }], Timestamp(2));
        let topology = map.topology();
        let (from, to) = (topology.nic_at(address("10.0.0.1")).unwrap(), topology.nic_at(address("10.0.1.1")).unwrap());
        let ways = topology.ways(from, to, Some(&flow(asked)), Timestamp(2 + age));
        let names =
            ways.set.paths.iter().map(|(_, path)| topology.fabric.nodes()[topology.fabric.head(path[1])].name.clone());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!((ways.exact, names.join(" ").as_str()), (exact, spines), "{what}: {}", ways.why);
        let sum: f64 = ways.set.paths.iter().map(|(likely, _)| likely).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{what}: {sum}");
    }
}

#[test]
fn a_trace_from_before_a_link_changed_says_nothing() {
    let mut map = clos(true);
    let address = |text: &str| text.parse().unwrap();
    let (source, destination) = (address("10.0.0.1"), address("10.0.1.1"));
    let flow = Flow { source, destination, transport: Transport::Udp, source_port: 5, destination_port: 7 };
    let hops = ["10.0.0.0", "10.128.1.0", "10.0.1.0"].map(|hop| hop.parse().ok()).to_vec();
    let trace = Statement::Trace { flow: flow.clone(), hops, reached: true };
    map.report("h0", Source::Trace, vec![trace], Timestamp(2));
    map.report("l0", Source::Switch, vec![statement("port l0:u0 up")], Timestamp(3));
    let topology = map.topology();
    assert!(!topology.ways(0, 1, Some(&flow), Timestamp(4)).exact);
    map.report("l0", Source::Switch, vec![statement("port l0:u0 down")], Timestamp(5));
    let ways = map.topology().ways(0, 1, Some(&flow), Timestamp(6));
    assert_eq!((ways.exact, ways.set.paths.len()), (true, 1), "one way is left");
}

#[test]
fn changes_are_what_leads_from_one_map_to_another() {
    let mut map = clos(true);
    let before = map.topology().kept();
    assert_eq!(changes(&before, &map.topology().kept(), Timestamp(9)), []);
    map.report("h1", Source::Lldp, vec![statement("switch l1"), statement("cable h1:e0 l1:e5")], Timestamp(8));
    map.report("h0", Source::Host, vec![statement("host h0"), statement("port h0:e0 down 10.0.0.1")], Timestamp(8));
    let after = map.topology().kept();
    let found = changes(&before, &after, Timestamp(9));
    let word = |change: &railwatch_engine::map::Change| {
        let how = match (&change.before, &change.after) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        format!("{how}{}", change.fact)
    };
    let words: Vec<_> = found.iter().map(word).collect();
    assert_eq!(words, ["~link/h0:e0-l0:e0", "+link/h1:e0-l1:e5", "~port/h0:e0", "-link/h1:e0-l1:e0"]);
    let mut made = before;
    for change in found {
        match change.after {
            Some(after) => made.insert(change.fact, after),
            None => made.remove(&change.fact),
        };
    }
    let states = |kept: &std::collections::BTreeMap<String, railwatch_engine::map::Kept>| {
        kept.iter().map(|(name, kept)| (name.clone(), kept.state.clone())).collect::<Vec<_>>()
    };
    assert_eq!(states(&made), states(&after));
    let text = serde_json::to_string(&after).unwrap();
    let read: std::collections::BTreeMap<String, railwatch_engine::map::Kept> = serde_json::from_str(&text).unwrap();
    assert_eq!(states(&read), states(&after));
}

#[test]
fn a_thousand_hosts_of_eight_nics_are_merged_at_once() {
    let (hosts, rails, per_leaf, spines) = (1024, 8, 32, 8);
    let begin = Instant::now();
    let mut map = Map::default();
    for host in 0..hosts {
        let name = format!("host{host}");
        let mut own = vec![Statement::Node { name: name.clone(), kind: NodeKind::Host }];
        let mut heard = Vec::new();
        for rail in 0..rails {
            let near = PortName { node: name.clone(), port: format!("eth{rail}") };
            let leaf = format!("leaf{}", rail * (hosts / per_leaf) + host / per_leaf);
            own.push(Statement::Port {
                port: near.clone(),
                up: Some(true),
                speed_bits_per_s: Some(400_000_000_000),
                addresses: vec![std::net::Ipv4Addr::from(0x0a00_0000 + (rail << 16) + host).into()],
                mac: None,
            });
            heard.push(Statement::Node { name: leaf.clone(), kind: NodeKind::Switch });
            let far = PortName { node: leaf, port: format!("eth{}", host % per_leaf) };
            heard.push(Statement::Cable { near, far });
        }
        map.report(&name, Source::Host, own, Timestamp(1));
        map.report(&name, Source::Lldp, heard, Timestamp(1));
    }
    for leaf in 0..rails * hosts / per_leaf {
        let mut says = vec![Statement::Node { name: format!("leaf{leaf}"), kind: NodeKind::Switch }];
        for spine in 0..spines {
            says.push(Statement::Node { name: format!("spine{spine}"), kind: NodeKind::Switch });
            says.push(Statement::Cable {
                near: PortName { node: format!("leaf{leaf}"), port: format!("eth{}", per_leaf + spine) },
                far: PortName { node: format!("spine{spine}"), port: format!("eth{leaf}") },
            });
        }
        map.report(&format!("leaf{leaf}"), Source::Switch, says, Timestamp(1));
    }
    let taken = begin.elapsed();
    let topology = map.topology();
    eprintln!("1,024 hosts of 8 NICs: reports taken in {taken:?}, map made in {:?}", begin.elapsed() - taken);
    assert_eq!((topology.fabric.nics().len(), topology.links.len()), (8192, 8192 + 256 * 8));
    assert_eq!((topology.contradictions.len(), topology.unknown.len()), (0, 0));
}

fn any_said() -> impl Strategy<Value = Vec<(String, Source, Vec<String>)>> {
    let node = prop_oneof![Just("h0"), Just("h1"), Just("l0"), Just("l1"), Just("s0")];
    let port = (node.clone(), 0..3u8).prop_map(|(node, port)| format!("{node}:e{port}"));
    let line = prop_oneof![
        (port.clone(), port.clone()).prop_map(|(near, far)| format!("remembered {near} {far}")),
        (prop_oneof![Just("host"), Just("switch")], node).prop_map(|(kind, name)| format!("{kind} {name}")),
        (port.clone(), prop_oneof![Just("up"), Just("down"), Just("?")], 0..4u8)
            .prop_map(|(port, up, address)| format!("port {port} {up} 10.0.0.{address}")),
        (port.clone(), port.clone()).prop_map(|(a, b)| format!("cable {a} {b}")),
        port.prop_map(|port| format!("part rack/r0 port/{port}")),
    ];
    let source = prop_oneof![
        Just(Source::Host),
        Just(Source::Lldp),
        Just(Source::Switch),
        Just(Source::Inventory),
        Just(Source::Route)
    ];
    let report = (0..6u8, source, proptest::collection::vec(line, 0..8));
    proptest::collection::vec(report, 0..12).prop_map(|reports| {
        let mut seen = std::collections::BTreeSet::new();
        let named = reports.into_iter().map(|(who, source, lines)| (format!("r{who}"), source, lines));
        named.filter(|(who, source, _)| seen.insert((who.clone(), *source))).collect()
    })
}

proptest! {
    #[test]
    fn the_order_of_reports_does_not_matter(said in any_said(), seed in any::<u64>(), gone in 0..6u8) {
        let told = |order: &[usize]| {
            let mut map = Map::default();
            for at in order {
                let (who, source, lines) = &said[*at];
                // A report keeps its instant, whenever it comes.
                let at = Timestamp(10 + *at as u64);
                map.report(who, *source, lines.iter().map(|line| statement(line)).collect(), at);
            }
            map.gone(&format!("r{gone}"), Timestamp(1000));
            let topology = map.topology();
            (topology.nodes.clone(), topology.ports.clone(), topology.links.clone(), topology.contains.clone(),
             topology.contradictions.clone(), topology.unknown.clone(), topology.fabric.clone())
        };
        let order: Vec<usize> = (0..said.len()).collect();
        let mut other = order.clone();
        other.sort_by_key(|n| (*n as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
        prop_assert_eq!(told(&order), told(&other));
    }
}
