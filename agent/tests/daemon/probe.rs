//! Probes between two members, and what others get.

use crate::agent::{Agent, PROGRAM};
use crate::collector::{Site, eventually};
use railwatch_wire::v1::{ProbeFlow, ProbePlan, ProbeTransport, TraceRequest, frame};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn key(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// An agent that answers at a free port of this host.
fn answering(site: &Site, collector: &str) -> Agent {
    answering_at(site, collector, 0)
}

/// An agent that answers at this port.
fn answering_at(site: &Site, collector: &str, port: u16) -> Agent {
    answering_on(site, collector, &format!("127.0.0.1:{port}"))
}

fn answering_on(site: &Site, collector: &str, listen: &str) -> Agent {
    let arguments = crate::agent::arguments(site, collector);
    let key = key(site.dir.path(), "probe.key", "the key of this cluster");
    let text = format!(
        "[health]\nenabled = false\n[gpu]\nenabled = false\n[drops]\nenabled = false\n\
         [probe]\nenabled = true\nlisten = \"{listen}\"\nkey_file = \"{key}\"\n"
    );
    fs::write(site.dir.path().join("agent.toml"), text).unwrap();
    Agent::spawn(site, Command::new(PROGRAM).arg("run").args(arguments))
}

fn probe(target: &str, key: &str, more: &[&str]) -> Output {
    let fixed = ["probe", target, "--key-file", key, "--interval-ms", "1", "--timeout-ms", "500", "-o", "json"];
    Command::new(PROGRAM).args(fixed).args(more).output().unwrap()
}

#[test]
fn a_member_is_answered_and_a_stranger_is_not() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let agent = answering(&site, &collector.address);
    eventually("it answers", || agent.log().contains("probes are answered at"));
    let log = agent.log();
    let target = log.split_once("probes are answered at ").unwrap().1.split_whitespace().next().unwrap();
    let member = site.dir.path().join("probe.key").display().to_string();
    let output = probe(target, &member, &["--count", "200", "--flows", "4"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    assert_eq!((&report["sent"], &report["answered"], &report["lost"]), (&200.into(), &200.into(), &0.into()));
    for part in ["round_trip_us", "fabric_us", "prober_us", "answerer_us"] {
        assert!(report[part]["p50"].as_f64().is_some_and(|us| us > 0.0), "{part}: {report}");
    }
    assert_eq!(report["flows"].as_array().map(Vec::len), Some(4));

    let stranger = key(site.dir.path(), "other.key", "the key of another cluster");
    let output = probe(target, &stranger, &["--count", "5"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["lost"]), (Some(1), &5.into()), "{report}");
    let counted = |result: &str| {
        agent.metric(&format!("railwatch_agent_probe_datagrams_total{{result=\"{result}\"}}")).unwrap_or(-1.0)
    };
    assert!(counted("answered") >= 204.0, "with one more of each flow");
    assert!(counted("wrong_code") >= 5.0);

    let open = key(site.dir.path(), "open.key", "the key of this cluster");
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let output = probe(target, &open, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("chmod 0600"), "{said}");
    agent.end();
}

#[test]
fn all_addresses_of_a_host_are_those_of_both_families() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let agent = answering_on(&site, &collector.address, "0.0.0.0:0");
    eventually("it answers", || agent.log().matches("probes are answered at").count() == 2);
    let log = agent.log();
    let port = log.split_once("probes are answered at 0.0.0.0:").unwrap().1.split_whitespace().next().unwrap();
    assert!(log.contains(&format!("probes are answered at [::]:{port}")), "{log}");
    let member = site.dir.path().join("probe.key").display().to_string();
    for (target, transport) in ["127.0.0.1", "[::1]"].into_iter().flat_map(|at| [(at, "udp"), (at, "tcp")]) {
        let more = ["--count", "20", "--transport", transport];
        let output = probe(&format!("{target}:{port}"), &member, &more);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success() && report["answered"] == 20, "{target} over {transport}: {report}");
        assert_eq!(report["transport"], transport, "{report}");
    }
    agent.end();
}

#[test]
fn without_its_key_an_agent_says_so_and_watches_on() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let arguments = crate::agent::arguments(&site, &collector.address);
    let text = "[health]\nenabled = false\n[probe]\nenabled = true\nkey_file = \"/nonexistent/probe.key\"\n";
    fs::write(site.dir.path().join("agent.toml"), text).unwrap();
    let agent = Agent::spawn(&site, Command::new(PROGRAM).arg("run").args(arguments));
    eventually("windows arrive", || site.stored(|stored| !stored.frames.is_empty()));
    let limited = "railwatch_agent_limitations{what=\"answers to probes\"}";
    eventually("the page says so", || agent.metric(limited) == Some(1.0));
    agent.end();
}

#[test]
fn a_plan_is_carried_out_and_its_results_and_losses_reach_the_collector() {
    let site = Site::new();
    // A port that is free a moment ago is free now.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let flow = |id, destination_port: u16| ProbeFlow {
        id,
        interface: "lo".into(),
        source: "127.0.0.1".into(),
        source_port: u32::from(port) + u32::try_from(id).unwrap(),
        target_host: "gpu-2".into(),
        target_interface: "eth7".into(),
        destination: "127.0.0.1".into(),
        destination_port: destination_port.into(),
        transport: ProbeTransport::Udp.into(),
        size_bytes: 128,
        dscp: 26,
        interval_us: 20_000,
        offset_us: 1_000,
        timeout_ms: 100,
    };
    // The second one's port is the first one's own: nobody answers there. The third cannot be sent.
    let flows = vec![
        flow(1, port),
        ProbeFlow { target_host: "gpu-3".into(), ..flow(2, port + 1) },
        ProbeFlow { source: "nowhere".into(), ..flow(3, port) },
    ];
    let plan = ProbePlan {
        collector_epoch: 1,
        revision: 5,
        lease_ms: 60_000,
        report_every_ms: 200,
        packets_per_s_per_nic_max: 1000,
        flows,
        quiet: vec![],
    };
    site.faults(|faults| {
        faults.probe_plans = vec![plan];
        faults.traces = vec![TraceRequest { id: 3, ..TraceRequest::default() }];
    });
    let collector = site.listen("127.0.0.1:0");
    let agent = answering_at(&site, &collector.address, port);
    let results = |id| {
        site.stored(|stored| {
            let of = stored.results.iter().flat_map(|results| &results.flows).filter(|flow| flow.id == id);
            of.fold((0, 0), |(answered, lost), flow| (answered + flow.answered, lost + flow.lost))
        })
    };
    eventually("answers of the one", || results(1).0 > 20);
    eventually("losses of the other", || results(2).1 > 5);
    assert_eq!((results(1).1, results(2).0), (0, 0));
    assert!(site.stored(|stored| stored.results.iter().all(|results| results.plan_revision == 5)));
    let signal = |name: &str| {
        site.stored(|stored| {
            let bodies = stored.frames.iter().filter_map(|frame| frame.body.clone());
            let mut signals = bodies.filter_map(|body| match body {
                frame::Body::Signal(signal) => Some(signal),
                frame::Body::Windows(_) => None,
            });
            signals.find(|signal| signal.name == name)
        })
    };
    eventually("it is told", || signal("probe.unreachable").is_some());
    let told = signal("probe.unreachable").unwrap();
    assert_eq!(told.attributes.get("target_host").map(String::as_str), Some("gpu-3"), "{told:?}");
    assert_eq!(told.entity.as_ref().map(|entity| (entity.kind.as_str(), entity.name.as_str())), Some(("port", "lo")));
    let state = || site.stored(|stored| stored.snapshots.iter().rev().find_map(|snapshot| snapshot.probe.clone()));
    eventually("the state says so", || state().is_some_and(|state| state.plan_revision == 5));
    let state = state().unwrap();
    assert_eq!((state.answers, state.port), (true, u32::from(port)), "{state:?}");
    assert!(state.off.len() == 1 && state.off[0].what == "probe flow 3", "{state:?}");
    eventually("the trace of nothing", || site.stored(|stored| stored.traced.iter().any(|result| result.id == 3)));
    let counted = |result: &str| agent.metric(&format!("railwatch_agent_probes_total{{result=\"{result}\"}}"));
    assert!(counted("answered").is_some_and(|count| count > 20.0));
    agent.end();
}
