//! Probes over real mTLS: hosts are told whom to probe, tell what became of it, and people see it.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;

use agent::{Agent, Collector};
use railwatch_wire::v1::{self, agent_message::Body, collector_message::Body as Answer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn get(collector: &Collector, path: &str) -> Value {
    let token = std::fs::read_to_string(collector.state_dir().join("token-read")).unwrap();
    let mut stream = tokio::net::TcpStream::connect(collector.daemon.addresses().api).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        token.trim()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = if path.contains("unknown") { "404" } else { "200" };
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    serde_json::from_str(body).unwrap()
}

/// A host with one NIC at a leaf that both share.
async fn host(collector: &Collector, name: &str, number: u8) -> Agent {
    let agent = collector.agent(name).await;
    let port = v1::PortState {
        name: "eth0".into(),
        kind: "netdev".into(),
        state: "up".into(),
        addresses: vec![format!("10.0.0.{number}/24")],
        ..v1::PortState::default()
    };
    let neighbour = v1::Neighbour {
        interface: "eth0".into(),
        system_name: "leaf0".into(),
        chassis_id: "02:00:00:00:00:01".into(),
        port_id: format!("eth{number}"),
        port_id_subtype: "interface_name".into(),
        ..v1::Neighbour::default()
    };
    let peers = v1::PeerState { neighbours: vec![neighbour], ..v1::PeerState::default() };
    let probe = v1::ProbeState { answers: true, port: 7704, ..v1::ProbeState::default() };
    let (peers, probe) = (Some(peers), Some(probe));
    agent.say(Body::Snapshot(v1::Snapshot { ports: vec![port], peers, probe, ..v1::Snapshot::default() })).await;
    agent
}

/// A plan that covers all links: hosts are planned for before their cables are on the map.
async fn covered(collector: &Collector, path: &str) -> Value {
    loop {
        let planned = get(collector, path).await;
        if planned["coverage"] == 1.0 {
            return planned;
        }
    }
}

/// A rank of job 42 that runs there.
async fn rank(agent: &Agent, rank: u32, has_ended: bool) {
    let task = v1::Task {
        pid: 7,
        scheduler: "slurm".into(),
        job: "42".into(),
        rank: Some(rank),
        exited_unix_ns: has_ended.then_some(1),
        ..v1::Task::default()
    };
    let placement = Some(v1::PlacementState { tasks: vec![task], ..v1::PlacementState::default() });
    agent.say(Body::Snapshot(v1::Snapshot { placement, ..v1::Snapshot::default() })).await;
}

/// The next plan that is as wanted.
async fn plan(agent: &mut Agent, wanted: impl Fn(&v1::ProbePlan) -> bool) -> v1::ProbePlan {
    loop {
        match agent.answer().await.unwrap() {
            Answer::ProbePlan(plan) if wanted(&plan) => return plan,
            _ => {}
        }
    }
}

#[tokio::test]
async fn hosts_are_told_whom_to_probe_and_what_they_tell_of_it_is_shown() {
    let collector = Collector::start().await;
    let (mut a, mut b) = (host(&collector, "a", 1).await, host(&collector, "b", 2).await);
    let of_a = plan(&mut a, |plan| !plan.flows.is_empty()).await;
    let of_b = plan(&mut b, |plan| !plan.flows.is_empty()).await;
    let ends = |plan: &v1::ProbePlan| {
        let flow = &plan.flows[0];
        (flow.source.clone(), flow.target_host.clone(), flow.destination.clone(), flow.destination_port)
    };
    assert_eq!(ends(&of_a), ("10.0.0.1".into(), "b".into(), "10.0.0.2".into(), 7704));
    assert_eq!(ends(&of_b).1, "a");
    let planned = covered(&collector, "/v1/probes/plan?host=a").await;
    assert_eq!(planned["directions"].as_array().unwrap().len(), 4);

    let results = |flows| {
        Body::ProbeResults(v1::ProbeResults { to_mono_ns: 1_000_000_000, flows, ..v1::ProbeResults::default() })
    };
    let flow = &of_a.flows[0];
    let lossy = v1::ProbeFlowResult { id: flow.id, sent: 9, answered: 7, lost: 2, ..v1::ProbeFlowResult::default() };
    let contradicting = v1::ProbeFlowResult { answered: 8, ..lossy };
    a.say(results(vec![contradicting])).await;
    a.say(results(vec![lossy])).await;
    let denser =
        plan(&mut a, |plan| plan.flows.iter().any(|now| now.id == flow.id && now.interval_us < flow.interval_us));
    denser.await;
    let rows = get(&collector, "/v1/probes?last_s=60").await;
    let row = &rows[0];
    assert_eq!((row["source_host"].as_str(), row["target_host"].as_str()), (Some("a"), Some("b")), "{rows}");
    assert_eq!(
        (row["sent"].as_u64(), row["lost"].as_u64()),
        (Some(9), Some(2)),
        "what contradicts itself is not taken"
    );
    assert!(rows[1]["loss"].is_null() && rows[1]["fabric_us_p50"].is_null(), "b told nothing: {rows}");
    let suspects = &get(&collector, "/v1/probes/plan").await["suspects"];
    assert!(suspects.as_array().unwrap().contains(&"a:eth0".into()), "{suspects}");
    let coverage = get(&collector, "/v1/coverage?element=a:eth0%3E").await;
    let black_hole = coverage.as_array().unwrap().iter().find(|row| row["fault_mode"] == "black_hole").unwrap();
    assert_eq!(black_hole["element"], "a:eth0>leaf0:eth1");
    assert_eq!(black_hole["sensed"], true);
    let page = collector.metrics().await;
    assert!(page.contains("\nrailwatch_collector_probes_directions_covered 4\n"), "{page}");
    collector.daemon.stop().await;
}

#[tokio::test]
async fn a_jobs_pairs_are_probed_while_it_runs_and_shown_with_their_ranks() {
    let directory = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let text = "[probes]\nscopes = [\"rail\", \"job\"]\nshape = \"ring\"\n";
    let collector = Collector::start_in(directory, text).await;
    let mut a = host(&collector, "a", 1).await;
    let (b, c) = (host(&collector, "b", 2).await, host(&collector, "c", 3).await);
    let targets = |plan: &v1::ProbePlan| {
        plan.flows.iter().map(|flow| flow.target_host.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    let calm = plan(&mut a, |plan| !plan.flows.is_empty()).await;
    rank(&a, 8, false).await;
    rank(&c, 0, false).await;
    // In a ring of two each probes the other, in each size.
    let with = plan(&mut a, |plan| plan.flows.iter().filter(|flow| flow.target_host == "c").count() >= 2).await;
    assert!(targets(&with).contains("c"));
    let planned = covered(&collector, "/v1/probes/plan?job=42").await;
    assert_eq!(planned["scopes"], serde_json::json!(["rail", "job"]), "{planned}");
    let of_job = serde_json::json!([{"job": "42", "nics": 2, "hosts_without": 0, "pairs": 2, "pairs_probed": 2, "pairs_left_out": 0}]);
    assert_eq!(planned["jobs"], of_job);
    let flows = planned["flows"].as_array().unwrap();
    let of_job = flows.iter().filter(|flow| flow["scope"] == "job" && flow["job"] == "42").count();
    assert_eq!(of_job, 4, "{planned}");
    assert!(flows.iter().all(|flow| flow["source"] != "b:eth0" && flow["target"] != "b:eth0"), "{planned}");
    let rows = get(&collector, "/v1/probes?job=slurm/42").await;
    let shown: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["source_rank"].as_u64(), row["target_rank"].as_u64(), row["jobs"][0].as_str()))
        .collect();
    assert_eq!(shown, [(Some(8), Some(0), Some("42")), (Some(0), Some(8), Some("42"))], "{rows}");
    assert!(get(&collector, "/v1/probes?job=unknown").await["detail"].as_str().unwrap().contains("railwatch jobs"));
    let page = collector.metrics().await;
    assert!(page.contains("\nrailwatch_collector_probes_job_pairs 2\n"), "{page}");
    rank(&a, 8, true).await;
    rank(&c, 0, true).await;
    plan(&mut a, |plan| plan.flows.len() <= calm.flows.len()).await;
    let planned = get(&collector, "/v1/probes/plan").await;
    assert!(planned["flows"].as_array().unwrap().iter().all(|flow| flow["job"].is_null()), "{planned}");
    drop(b);
    collector.daemon.stop().await;
}
