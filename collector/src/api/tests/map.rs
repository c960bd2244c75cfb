//! The map by the API: paths, the topology now and then, and what jobs do to the fabric.

use super::*;
use crate::map::{News, Reports};
use railwatch_engine::map::{NodeKind, PortName, Source, Statement};

async fn status(collector: &Collector, path: &str) -> u16 {
    collector.call("GET", path, Some(&collector.token("read")), "").await.status
}

/// Two hosts at leaves of their own, two spines between; each host's GPU 0 is near its NIC, and a job of a process on each talks over it.
fn fabric(collector: &Collector) {
    let says = crate::map::file::parse(
        "[[node]]\nname = \"spine0\"\nkind = \"switch\"\n[[node]]\nname = \"spine1\"\nkind = \"switch\"\n\
         [[cable]]\na = \"leaf0:eth4\"\nb = \"spine0:eth0\"\n[[cable]]\na = \"leaf0:eth5\"\nb = \"spine1:eth0\"\n\
         [[cable]]\na = \"leaf1:eth4\"\nb = \"spine0:eth1\"\n[[cable]]\na = \"leaf1:eth5\"\nb = \"spine1:eth1\"\n",
    );
    collector.map.report("file", Source::Inventory, says.unwrap(), Timeline::now());
    for number in 0..2u8 {
        let name = format!("host{number}");
        let cell = collector.live.host(&name);
        let mut host = cell.lock();
        let (own, other) = (format!("10.0.{number}.1"), format!("10.0.{}.1", 1 - number));
        host.ports = vec![v1::PortState {
            name: "eth0".into(),
            kind: "netdev".into(),
            state: "up".into(),
            addresses: vec![format!("{own}/31")],
            ..v1::PortState::default()
        }];
        host.peers.neighbours = vec![v1::Neighbour {
            interface: "eth0".into(),
            system_name: format!("leaf{number}"),
            port_id: "eth0".into(),
            ..v1::Neighbour::default()
        }];
        let device = |kind: &str, name: &str, address: &str| v1::Device {
            kind: kind.into(),
            name: name.into(),
            pci_address: address.into(),
            upstream: if kind == "pcie_switch" { vec![] } else { vec!["0000:01:00.0".into()] },
            ..v1::Device::default()
        };
        host.placement.devices = vec![
            device("gpu", "0", "0000:03:00.0"),
            device("nic", "eth0", "0000:04:00.0"),
            device("pcie_switch", "", "0000:01:00.0"),
        ];
        let near = |gpu: &str, kind: &str| v1::DevicePath {
            from: gpu.into(),
            to: "nic/eth0".into(),
            kind: kind.into(),
            links: 0,
        };
        host.placement.paths = vec![near("gpu/1", "system"), near("gpu/0", "pcie_switch")];
        host.modules =
            vec![v1::ModuleState { interface: "eth0".into(), state: "ready".into(), ..v1::ModuleState::default() }];
        let task = |pid, job: &str| v1::Task { pid, job: job.into(), scheduler: "slurm".into(), ..v1::Task::default() };
        host.placement.tasks = vec![task(7, "42"), task(8, "43")];
        let flow = |pid, destination: &str| v1::Flow {
            pid,
            protocol: "tcp".into(),
            source: own.clone(),
            destination: destination.into(),
            ..v1::Flow::default()
        };
        host.peers.flows = vec![flow(7, &other), flow(7, &other), flow(7, "192.0.2.1"), flow(8, &other)];
        collector.map.host(&host, News { itself: true, peers: true }, Timeline::now());
    }
    collector.map.make();
}

fn names(elements: &Value) -> Vec<String> {
    let name = |element: &Value| format!("{} {}", element["kind"].as_str().unwrap(), element["name"].as_str().unwrap());
    elements.as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn a_path_leads_from_gpu_to_gpu_both_ways_and_says_how_sure_it_is() {
    let collector = Collector::start().await;
    fabric(&collector);
    let answer = collector.get("/v1/path?from=host0&to=10.0.1.1").await;
    assert_eq!((answer["exact"].clone(), answer["back"]["exact"].clone()), (json!(false), json!(false)));
    let paths = answer["paths"].as_array().unwrap();
    assert_eq!(paths.iter().map(|path| path["probability"].clone()).collect::<Vec<_>>(), [json!(0.5), json!(0.5)]);
    assert_eq!(
        names(&paths[0]["elements"]),
        [
            "gpu host0/0",
            "pcie_switch host0/0000:01:00.0",
            "nic host0/eth0",
            "port host0:eth0",
            "optic host0:eth0",
            "link host0:eth0-leaf0:eth0",
            "port leaf0:eth0",
            "switch leaf0",
            "port leaf0:eth4",
            "link leaf0:eth4-spine0:eth0",
            "port spine0:eth0",
            "switch spine0",
            "port spine0:eth1",
            "link leaf1:eth4-spine0:eth1",
            "port leaf1:eth4",
            "switch leaf1",
            "port leaf1:eth0",
            "link host1:eth0-leaf1:eth0",
            "optic host1:eth0",
            "port host1:eth0",
            "nic host1/eth0",
            "pcie_switch host1/0000:01:00.0",
            "gpu host1/0"
        ]
    );
    assert_eq!(paths[0]["elements"][13]["direction"], "spine0:eth1>leaf1:eth4");
    let back = names(&answer["back"]["paths"][0]["elements"]);
    assert_eq!((back[0].as_str(), back.len()), ("gpu host1/0", 23));
    // Nobody is connected who could trace the flow: all ways, and why.
    let flow = collector.get("/v1/path?from=host0&to=host1&source_port=1&destination_port=2&transport=tcp").await;
    assert_eq!((flow["exact"].clone(), flow["paths"].as_array().unwrap().len()), (json!(false), 2));
    assert!(flow["why"].as_str().unwrap().contains("host host0 is not connected"), "{flow}");
    assert_eq!(flow["flow"]["destination"], "10.0.1.1");
    for (query, status, says) in [
        ("from=host7&to=host1", 404, "no host host7 on the map: is it host0, host1?"),
        ("from=host0&to=leaf0", 404, "leaf0 is a switch"),
        ("from=host0:eth9&to=host1", 404, "it has eth0"),
        ("from=10.9.9.9&to=host1", 404, "10.9.9.9"),
        ("from=host0&to=host0", 400, "one NIC"),
        ("from=host0&to=host1&source_port=5", 400, "two ports"),
        ("from=host0", 400, "missing field"),
    ] {
        let path = format!("/v1/path?{query}");
        let answer = collector.call("GET", &path, Some(&collector.token("read")), "").await;
        assert_eq!(answer.status, status, "{query}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(says), "{query}: {detail}");
    }
}

#[tokio::test]
async fn an_agent_that_traces_the_flow_makes_its_path_exact() {
    let collector = Collector::start().await;
    fabric(&collector);
    let (map, host): (_, Arc<str>) = (collector.map.clone(), "host0".into());
    let mut asks = map.traces().open(&host, 1);
    let agent = tokio::spawn(async move {
        let ask = asks.recv().await.unwrap();
        // The leaf's own address is known as the other one of the host's /31; the spines' are not.
        let hop = |address: &str| v1::TraceHop { address: address.into(), round_trip_ns: 1 };
        let hops = vec![hop("10.0.0.0"), hop("10.128.1.0"), hop("")];
        let flows = vec![v1::Traced { hops, reached: true, failed: String::new() }];
        ask.answer.send(v1::TraceResult { id: ask.request.id, flows, refused: String::new() }).unwrap();
        ask.request.flows
    });
    let asked = "/v1/path?from=host0&to=host1&source_port=1&destination_port=2";
    let answer = collector.get(asked).await;
    let flows = agent.await.unwrap();
    assert_eq!((flows[0].interface.as_str(), flows[0].source.as_str(), flows[0].source_port), ("eth0", "10.0.0.1", 1));
    assert_eq!(answer["exact"], false, "a hop of unknown address is either spine's");
    let says = crate::map::file::parse(
        "[[port]]\nname = \"spine1:eth0\"\naddresses = [\"10.128.1.0\"]\n[[node]]\nname = \"spine1\"\nkind = \"switch\"\n",
    );
    collector.map.report("other-file", Source::Inventory, says.unwrap(), Timeline::now());
    collector.map.make();
    let answer = collector.get(asked).await;
    assert_eq!(
        (answer["exact"].clone(), answer["paths"].as_array().unwrap().len()),
        (json!(false), 2),
        "it is old news of a changed port"
    );
    let mut asks = map.traces().open(&host, 2);
    tokio::spawn(async move {
        let ask = asks.recv().await.unwrap();
        let hop = |address: &str| v1::TraceHop { address: address.into(), round_trip_ns: 1 };
        let hops = vec![hop("10.0.0.0"), hop("10.128.1.0"), hop("")];
        let flows = vec![v1::Traced { hops, reached: true, failed: String::new() }];
        ask.answer.send(v1::TraceResult { id: ask.request.id, flows, refused: String::new() }).unwrap();
    });
    let answer = collector.get(asked).await;
    assert_eq!(answer["exact"], true, "{answer}");
    assert!(names(&answer["paths"][0]["elements"]).contains(&"switch spine1".to_owned()));
}

#[tokio::test]
async fn the_topology_is_told_as_it_is_and_as_it_was() {
    let collector = Collector::start().await;
    assert_eq!(status(&collector, "/v1/topology?at=5").await, 404, "nothing is kept of then");
    fabric(&collector);
    let now = collector.get("/v1/topology").await;
    let links: Vec<_> = now["links"].as_array().unwrap().iter().map(|link| link["name"].clone()).collect();
    assert_eq!(links.len(), 6);
    let link = &now["links"][0];
    assert_eq!((&link["a"], &link["b"], &link["up"]), (&json!("host0:eth0"), &json!("leaf0:eth0"), &json!(true)));
    assert_eq!((&link["sources"], &link["confidence"]), (&json!(["lldp"]), &json!(0.98)));
    let at = async |query: String| {
        let path = format!("/v1/topology?{query}");
        collector.call("GET", &path, Some(&collector.token("read")), "").await.json()
    };
    let mut then = 0;
    for _ in 0..200 {
        then = Timeline::now().0;
        if at(format!("at={then}")).await["links"].as_array().is_some_and(|links| links.len() == 6) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    collector.map.report("file", Source::Inventory, vec![], Timeline::now());
    let down = vec![
        Statement::Node { name: "leaf0".into(), kind: NodeKind::Switch },
        Statement::Port {
            port: PortName { node: "leaf0".into(), port: "eth0".into() },
            up: Some(false),
            speed_bits_per_s: None,
            addresses: vec![],
            mac: None,
        },
    ];
    collector.map.report("leaf0", Source::Switch, down, Timeline::now());
    collector.map.make();
    let mut changes = Value::Null;
    for _ in 0..200 {
        changes = at(format!("since={then}")).await;
        if changes["changes"].as_array().is_some_and(|changes| !changes.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told: Vec<_> = changes["changes"].as_array().unwrap().iter().collect();
    let link = told.iter().find(|change| change["fact"] == "link/host0:eth0-leaf0:eth0").unwrap();
    assert_eq!((&link["before"]["state"]["up"], &link["after"]["state"]["up"]), (&json!(true), &json!(false)));
    let was = at(format!("at={then}")).await;
    assert_eq!(was["links"].as_array().unwrap().len(), 6, "then it was whole");
    assert_eq!(was["links"][0]["up"], true);
    assert_eq!(collector.get("/v1/topology").await["contradictions"][0]["kind"], "link_state");
    assert_eq!(status(&collector, "/v1/topology?since=5&at=4").await, 400);
}

#[tokio::test]
async fn jobs_tell_who_talks_to_whom_over_which_links_and_with_which_other_job() {
    let collector = Collector::start().await;
    fabric(&collector);
    let jobs = collector.get("/v1/jobs").await;
    let job = &jobs[0];
    assert_eq!((&job["job"], &job["elsewhere"]), (&json!("42"), &json!(2)));
    let talk = &job["talks"][0];
    assert_eq!((&talk["from"], &talk["to"], &talk["flows"]), (&json!("host0:eth0"), &json!("host1:eth0"), &json!(2)));
    assert_eq!(talk["links"], json!(["host0:eth0-leaf0:eth0", "host1:eth0-leaf1:eth0"]));
    assert_eq!(talk["links_possible"].as_array().unwrap().len(), 4);
    assert_eq!(job["links"].as_array().unwrap().len(), 6);
    assert_eq!(job["shares"][0]["job"], "43");
    assert_eq!(job["shares"][0]["links"].as_array().unwrap().len(), 6);
}
