//! `railwatch topology` and `railwatch path` as people run them: the real binary against a collector's double on loopback.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod collector;

use collector::text;
use serde_json::{Value, json};
use std::process::Output;

/// Answers every path alike.
fn run(arguments: &[&str], answer: &Value) -> (Output, Vec<String>) {
    let answer = answer.clone();
    collector::run(arguments, move |_| answer.clone())
}

fn squeezed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn map() -> Value {
    let node = |name: &str, kind: &str| json!({"name": name, "kind": kind});
    let link = |a: &str, b: &str, up: bool| {
        json!({"name": format!("{a}-{b}"), "a": a, "b": b, "up": up, "confidence": 0.98, "sources": ["lldp"],
               "since": 1_000_000_000_u64})
    };
    json!({
        "nodes": [node("host10", "host"), node("host2", "host"), node("leaf<0>", "switch"), node("spine0", "switch")],
        "ports": [], "contains": [],
        "links": [
            link("host10:eth0", "leaf<0>:eth1", true),
            link("host2:eth0", "leaf<0>:eth0", true),
            link("leaf<0>:eth2", "spine0:eth0", false),
        ],
        "contradictions": [{"kind": "two_cables", "about": "leaf0:eth0", "believed": "x", "other": "y"}],
        "unknown": [{"kind": "far_end", "about": "host2:mgmt0", "why": "nobody says"}],
        "beyond": 0,
    })
}

#[test]
fn the_map_as_a_table_says_what_is_down_contradicted_and_unknown() {
    let (output, asked) = run(&["topology"], &map());
    assert_eq!(asked, ["/v1/topology"]);
    let lines = squeezed(&text(&output));
    assert_eq!(
        lines,
        [
            "2 hosts, 2 switches, 3 links",
            "LINK STATE CONFIDENCE SOURCES SINCE",
            "host10:eth0-leaf<0>:eth1 up 0.9800 lldp 1970-01-01T00:00:01.000Z",
            "host2:eth0-leaf<0>:eth0 up 0.9800 lldp 1970-01-01T00:00:01.000Z",
            "leaf<0>:eth2-spine0:eth0 down 0.9800 lldp 1970-01-01T00:00:01.000Z",
            "",
            "CONTRADICTION ABOUT BELIEVED NOT BELIEVED",
            "two_cables leaf0:eth0 x y",
            "",
            "UNKNOWN ABOUT WHY",
            "far_end host2:mgmt0 nobody says",
        ]
    );
    let (output, _) = run(&["topology", "-o", "json"], &map());
    assert_eq!(serde_json::from_str::<Value>(&text(&output)).unwrap(), map());
}

#[test]
fn the_picture_has_hosts_below_and_spines_on_top_and_no_name_breaks_it() {
    let (output, _) = run(&["topology", "-o", "svg"], &map());
    let svg = text(&output);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!((svg.matches("<line ").count(), svg.matches("stroke-dasharray").count()), (3, 1));
    assert!(svg.contains("leaf&lt;0&gt;") && !svg.contains("leaf<0>"));
    let place = |name: &str| {
        let line = svg.lines().find(|line| line.starts_with("<text") && line.contains(&format!(">{name}<"))).unwrap();
        let number =
            |key: &str| line.split(&format!("{key}=\"")).nth(1).unwrap().split('"').next().unwrap().parse::<u32>();
        (number("x").unwrap(), number("y").unwrap())
    };
    assert!(place("host2").0 < place("host10").0, "by number");
    assert!(place("host2").1 > place("leaf&lt;0&gt;").1 && place("leaf&lt;0&gt;").1 > place("spine0").1);
    let (output, _) = run(&["topology", "-o", "dot"], &map());
    let dot = text(&output);
    assert!(dot.contains("\"leaf<0>\" -- \"spine0\" [taillabel=\"eth2\", headlabel=\"eth0\", style=dashed"), "{dot}");
}

#[test]
fn what_changed_is_asked_for_by_its_instants_and_has_no_picture() {
    let kept = |up: bool| json!({"state": {"kind": "link", "name": "x", "a": "a", "b": "b", "up": up}});
    let answer = json!({"changes": [
        {"at": 1_000_000_000_u64, "fact": "link/x", "before": kept(true), "after": kept(false)},
        {"at": 2_000_000_000_u64, "fact": "node/y", "before": null, "after": {"state": {"kind": "node", "name": "y"}}},
    ], "cut": false});
    let (output, asked) =
        run(&["topology", "--since", "1970-01-01T00:00:01Z", "--at", "1970-01-01T00:00:05Z"], &answer);
    assert_eq!(asked, ["/v1/topology?at=5000000000&since=1000000000"]);
    let lines = squeezed(&text(&output));
    assert_eq!(lines[1], "1970-01-01T00:00:01.000Z link/x up=true up=false");
    assert_eq!(lines[2], "1970-01-01T00:00:02.000Z node/y - there");
    let (output, _) = run(&["topology", "--since", "-1h", "-o", "svg"], &answer);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_path_is_asked_for_with_its_flow_and_shown_both_ways() {
    let element = |kind: &str, name: &str| json!({"kind": kind, "name": name, "direction": format!("{name}!")});
    let elements = json!([element("gpu", "host0/0"), element("port", "host0:eth0"), element("link", "l")]);
    let answer = json!({
        "paths": [{"probability": 0.5, "elements": elements}, {"probability": 0.5, "elements": elements}],
        "exact": false, "why": "no trace", "cut": false,
        "back": {"paths": [{"probability": 1.0, "elements": elements}], "exact": true, "why": "one way", "cut": false},
    });
    let arguments = ["path", "host0", "10.0.1.1", "--sport", "7", "--dport", "4791", "--tcp"];
    let (output, asked) = run(&arguments, &answer);
    assert_eq!(asked, ["/v1/path?from=host0&to=10.0.1.1&source_port=7&destination_port=4791&transport=tcp"]);
    assert_eq!(
        squeezed(&text(&output)),
        [
            "there one of these: no trace",
            "50.00 % gpu host0/0 l!",
            "50.00 % gpu host0/0 l!",
            "back exact: one way",
            "100.00 % gpu host0/0 l!"
        ]
    );
    let (output, _) = run(&["path", "host0", "host1", "--sport", "7"], &answer);
    assert_eq!(output.status.code(), Some(2), "a flow has two ports");
}
