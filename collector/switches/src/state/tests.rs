#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
use super::*;
use crate::gnmi::{TypedValue, Update, typed_value};
use crate::paths;
use proptest::prelude::*;

fn said(rows: &[(&str, &str)], timestamp: i64) -> Notification {
    let update = |(path, json): &(&str, &str)| Update {
        path: Some(paths::parse(path).unwrap()),
        val: Some(TypedValue { value: Some(typed_value::Value::JsonIetfVal(json.as_bytes().to_vec())) }),
        ..Update::default()
    };
    Notification { timestamp, update: rows.iter().map(update).collect(), ..Notification::default() }
}

const S: u64 = 1_000_000_000;

fn leaf0() -> SwitchState {
    let mut state = SwitchState::new("10.0.0.1");
    state.begin();
    let rows = [
        ("/lldp/state/system-name", r#""leaf0""#),
        (
            "/interfaces/interface[name=eth0]/state",
            r#"{"oper-status":"UP","admin-status":"UP","type":"iana-if-type:ethernetCsmacd","hardware-port":"eth0-port"}"#,
        ),
        (
            "/interfaces/interface[name=eth0]/ethernet/state",
            r#"{"port-speed":"openconfig-if-ethernet:SPEED_100GB","mac-address":"02:AA:00:00:00:01"}"#,
        ),
        (
            "/interfaces/interface[name=eth0]/subinterfaces/subinterface[index=0]/ipv4",
            r#"{"addresses":{"address":[{"ip":"10.0.0.0","state":{"ip":"10.0.0.0","prefix-length":31}}]}}"#,
        ),
        ("/interfaces/interface[name=mgmt0]/state", r#"{"oper-status":"UP","management":true}"#),
        ("/interfaces/interface[name=lo]/state", r#"{"oper-status":"UP","type":"softwareLoopback"}"#),
        (
            "/lldp/interfaces/interface[name=eth0]/neighbors/neighbor[id=1]/state",
            r#"{"system-name":"host0","port-id":"eth0","chassis-id":"02:00"}"#,
        ),
        (
            "/lldp/interfaces/interface[name=mgmt0]/neighbors/neighbor[id=2]/state",
            r#"{"system-name":"office","port-id":"7"}"#,
        ),
        (
            "/components",
            r#"{"component":[{"name":"eth0-port","state":{"type":"PORT","parent":"asic0"}},{"name":"asic0","state":{"type":"openconfig-platform-types:INTEGRATED_CIRCUIT","parent":"lc1"}},{"name":"lc1","state":{"type":"LINECARD","parent":"lc1"}}]}"#,
        ),
    ];
    let applied = state.apply(&said(&rows, 0), S);
    assert_eq!((applied.malformed, applied.refused, applied.map_changed), (0, 0, true));
    state
}

#[test]
fn the_map_is_told_ports_cables_and_parts_and_nothing_of_management() {
    let port = |node: &str, port: &str| PortName { node: node.to_owned(), port: port.to_owned() };
    let contains = |outer: &str| Statement::Contains { outer: outer.to_owned(), inner: "port/leaf0/eth0".to_owned() };
    assert_eq!(
        leaf0().statements(),
        [
            Statement::Node { name: "leaf0".to_owned(), kind: NodeKind::Switch },
            Statement::Port {
                port: port("leaf0", "eth0"),
                up: Some(true),
                speed_bits_per_s: Some(100_000_000_000),
                addresses: vec!["10.0.0.0".parse().unwrap()],
                mac: Some("02:aa:00:00:00:01".to_owned()),
            },
            contains("switch_chip/leaf0/asic0"),
            contains("line_card/leaf0/lc1"),
            Statement::Cable { near: port("leaf0", "eth0"), far: port("host0", "eth0") },
        ]
    );
}

#[test]
fn a_neighbour_leaves_by_deletion_by_silence_and_by_not_being_told_again() {
    let path = "/lldp/interfaces/interface[name=eth0]/neighbors/neighbor[id=1]";
    let mut deleted = leaf0();
    let gone = Notification { delete: vec![paths::parse(path).unwrap()], ..Notification::default() };
    assert!(deleted.apply(&gone, 2 * S).map_changed);
    let mut silent = leaf0();
    assert!(!silent.expire_neighbours(S) && silent.expire_neighbours(S + 1));
    let mut anew = leaf0();
    anew.begin();
    anew.apply(&said(&[("/interfaces/interface[name=eth0]/state/oper-status", r#""UP""#)], 0), 2 * S);
    assert!(anew.synced());
    for state in [&deleted, &silent, &anew] {
        assert_eq!(state.peer("eth0"), None);
        assert_eq!(state.peer_lately("eth0").map(|far| far.to_string()), Some("host0:eth0".to_owned()));
    }
    assert_eq!(anew.ports.len(), 1);
    assert_eq!(leaf0().peer("eth0").map(|far| far.to_string()), Some("host0:eth0".to_owned()));
}

/// Cables that are told, `?` before those that are remembered.
fn cables(state: &SwitchState) -> Vec<String> {
    let told = state.statements().into_iter().filter_map(|says| match says {
        Statement::Cable { near, far } => Some(format!("{near} {far}")),
        Statement::Remembered { near, far } => Some(format!("? {near} {far}")),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_dark_port_keeps_its_cable_until_something_else_is_heard_or_it_is_forgotten() {
    const DAY: u64 = 24 * 3_600 * S;
    let status = |status: &str| said(&[("/interfaces/interface[name=eth0]/state/oper-status", status)], 0);
    let neighbour = |port: &str, id: u8, system: &str| {
        let path = format!("/lldp/interfaces/interface[name={port}]/neighbors/neighbor[id={id}]/state");
        said(&[(path.as_str(), &format!(r#"{{"system-name":"{system}","port-id":"eth0"}}"#))], 0)
    };
    let forgets = |id: u8| Notification {
        delete: vec![
            paths::parse(&format!("/lldp/interfaces/interface[name=eth0]/neighbors/neighbor[id={id}]")).unwrap(),
        ],
        ..Notification::default()
    };
    let dark = || {
        let mut state = leaf0();
        assert!(state.apply(&status(r#""LOWER_LAYER_DOWN""#), 2 * S).map_changed);
        assert_eq!(cables(&state), ["leaf0:eth0 host0:eth0"], "LLDP has not ended yet");
        assert!(state.apply(&forgets(1), 3 * S).map_changed);
        assert_eq!(cables(&state), ["? leaf0:eth0 host0:eth0"]);
        state
    };
    let mut forgotten = dark();
    assert!(!forgotten.expire_remembered(DAY) && forgotten.expire_remembered(DAY + 3 * S));
    assert_eq!(cables(&forgotten), [""; 0]);
    assert!(forgotten.peer_lately("eth0").is_some(), "what falls there is still told with its peer");

    let mut again = dark();
    assert!(again.apply(&status(r#""UP""#), 10 * S).map_changed, "the map is told at once");
    assert_eq!(cables(&again), ["? leaf0:eth0 host0:eth0"], "and nothing was heard yet");
    let mut unheard = again.clone();
    assert!(!unheard.expire_remembered(130 * S) && unheard.expire_remembered(130 * S + 1));
    assert_eq!(cables(&unheard), [""; 0], "nobody is there");
    again.apply(&neighbour("eth0", 2, "host0"), 11 * S);
    assert_eq!(cables(&again), ["leaf0:eth0 host0:eth0"]);
    again.apply(&forgets(2), 12 * S);
    assert_eq!(cables(&again), [""; 0], "a port that is up, and whose neighbour leaves, has none");

    let mut other = dark();
    other.apply(&status(r#""UP""#), 10 * S);
    other.apply(&neighbour("eth0", 2, "host7"), 11 * S);
    assert_eq!(cables(&other), ["leaf0:eth0 host7:eth0"]);
    let mut moved = dark();
    moved.apply(&neighbour("eth5", 3, "host0"), 11 * S);
    assert_eq!(cables(&moved), ["leaf0:eth5 host0:eth0"], "its far end is heard at another port");
    let mut anew = dark();
    anew.begin();
    anew.apply(&status(r#""DOWN""#), 20 * S);
    anew.synced();
    assert_eq!(cables(&anew), ["? leaf0:eth0 host0:eth0"], "a new connection forgets nothing");
}

#[test]
fn an_edge_is_told_once_and_what_was_never_known_is_no_edge() {
    let mut state = leaf0();
    let status = |status: &str| said(&[("/interfaces/interface[name=eth0]/state/oper-status", status)], 0);
    let edges: Vec<_> = [r#""DOWN""#, r#""DOWN""#, r#""UP""#, r#""UNKNOWN""#, r#""DOWN""#]
        .iter()
        .map(|word| state.apply(&status(word), S).changes.len())
        .collect();
    assert_eq!(edges, [1, 0, 1, 0, 0]);
}

#[test]
fn a_counter_grows_over_wraps_and_begins_anew_after_a_reset() {
    let mut state = SwitchState::new("s");
    let path = "/interfaces/interface[name=eth0]/state/counters/in-discards";
    let mut at = 0;
    let mut grew = Vec::new();
    for value in [10, 15, 3, 4_000_000_000, 1, u64::MAX, 4] {
        at += S;
        let applied = state.apply(&said(&[(path, &format!("\"{value}\""))], i64::try_from(at).unwrap()), at);
        grew.push(applied.changes.iter().find_map(|change| match change {
            Change::Counted { growth, .. } => Some((growth.by, growth.over_ns)),
            _ => None,
        }));
    }
    let wrap32 = u64::from(u32::MAX) - 4_000_000_000 + 2;
    assert_eq!(
        grew,
        [None, Some((5, S)), None, Some((3_999_999_997, S)), Some((wrap32, S)), Some((u64::MAX - 1, S)), Some((5, S))]
    );
    let counter = state.ports["eth0"].counters.values().next().unwrap();
    assert_eq!((counter.value, counter.resets), (4, 1));
}

#[test]
fn a_clock_that_stands_still_or_jumps_makes_no_rate_of_its_own() {
    let mut state = SwitchState::new("s");
    let path = "/interfaces/interface[name=eth0]/state/counters/in-octets";
    let rates: Vec<_> = [(1, 1, 0), (1, 2, 100), (999, 3, 200), (1_000, 4, 300)]
        .map(|(theirs, ours, value)| {
            let text = value.to_string();
            let applied = state.apply(&said(&[(path, &text)], i64::try_from(theirs * S).unwrap()), ours * S);
            applied.changes.first().map(|change| match change {
                Change::Counted { growth, .. } => growth.per_s(),
                _ => f64::NAN,
            })
        })
        .into();
    assert_eq!(rates, [None, Some(100.0), Some(100.0), Some(100.0)]);
}

#[test]
fn queues_priorities_and_modules_are_read() {
    let mut state = leaf0();
    let rows = |n: u64| {
        [
            (
                "/qos/interfaces/interface[interface-id=eth0]/output/queues/queue[name=3]/state",
                format!(r#"{{"transmit-pkts":"{n}","dropped-pkts":"{n}","avg-queue-len":"77"}}"#),
            ),
            (
                "/qos/interfaces/interface[interface-id=eth0]/pfc/pfc-priorities",
                format!(r#"{{"pfc-priority":[{{"dot1p":3,"state":{{"statistics":{{"pause-frames-rx":"{n}"}}}}}}]}}"#),
            ),
            (
                "/components/component[name=xcvr0]/transceiver",
                format!(
                    r#"{{"state":{{"vendor":"ACME ","serial-no":"S1"}},"physical-channels":{{"channel":[{{"index":0,"state":{{"input-power":{{"instant":"-{n}.5"}}}}}}]}},"thresholds":{{"threshold":[{{"severity":"CRITICAL","state":{{"input-power-lower":"-7"}}}}]}}}}"#
                ),
            ),
        ]
    };
    for n in 1..3 {
        let rows = rows(n);
        let rows: Vec<_> = rows.iter().map(|(path, json)| (*path, json.as_str())).collect();
        let applied = state.apply(&said(&rows, 0), n * S);
        assert_eq!((applied.malformed, applied.refused), (0, 0));
    }
    let port = &state.ports["eth0"];
    let grew: Vec<_> =
        port.counters.iter().map(|((counted, part), counter)| (counted.series, part.as_str(), counter.total)).collect();
    assert_eq!(
        grew,
        [
            ("hw.network.pfc.pause_frames", "3", 1),
            ("hw.network.queue.dropped", "3", 1),
            ("hw.network.queue.packets", "3", 1)
        ]
    );
    assert_eq!(port.queue_depth["3"], 77);
    let module = &state.modules["xcvr0"];
    assert_eq!(module.values[&(Some(0), Quantity::RxPower)], -2.5);
    assert_eq!(module.limits[&(Quantity::RxPower, Bound::Alarm)], (Some(-7.0), None));
    assert_eq!((module.vendor.as_deref(), module.serial.as_deref()), (Some("ACME"), Some("S1")));
}

#[test]
fn a_flood_of_names_ends_at_the_bounds_and_is_counted() {
    let mut state = SwitchState::new("s");
    let mut refused = 0;
    for n in 0..PORTS_MAX + 10 {
        let path = format!("/interfaces/interface[name=p{n}]/state/oper-status");
        refused += state.apply(&said(&[(&path, r#""UP""#)], 0), S).refused;
    }
    assert_eq!((state.ports.len(), refused), (PORTS_MAX, 10));
}

proptest! {
    #[test]
    fn no_tree_ends_it(names in proptest::collection::vec("(interfaces|interface|state|counters|in-octets|lldp|neighbors|neighbor|components|component|transceiver|physical-channels|channel|thresholds|threshold|qos|pfc|priority|input-power|instant|subinterfaces|ipv4|addresses|address|ip)", 0..9), value in "\"?[-A-Z0-9.]{0,8}\"?") {
        let mut state = SwitchState::new("s");
        let text: String = names.iter().map(|name| format!("/{name}")).collect();
        state.apply(&said(&[(&text, &value)], -1), S);
        let keyed: String = names.iter().map(|name| format!("/{name}[name=x]")).collect();
        state.apply(&said(&[(&keyed, &value)], i64::MAX), 0);
        let _ = state.statements();
    }
}
