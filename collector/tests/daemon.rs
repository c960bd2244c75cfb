//! Day two of the daemon: reload, run file, metrics in both formats, what leaves when a host leaves.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;

use agent::{Collector, definition, windows};
use railwatch_collector::daemon::Source;
use railwatch_wire::v1::{self, agent_message::Body, frame::Body as Frame};
use std::{fs, time::Duration};

fn source(collector: &Collector) -> Source {
    Source {
        path: collector.directory.path().join("collector.toml"),
        overrides: Collector::overrides(&collector.directory),
    }
}

#[tokio::test]
async fn a_good_reload_is_applied_and_a_bad_one_changes_nothing_and_is_seen() {
    let collector = Collector::start().await;
    let source = source(&collector);
    fs::write(&source.path, "forget_hosts_after_s = 77\n").unwrap();
    collector.daemon.reload(&source, None).await.unwrap();
    assert_eq!(collector.daemon.live().forget_after(), Duration::from_secs(77));

    fs::write(&source.path, "forget_hosts_after_s = 99\nunknown = 1\n").unwrap();
    let error = collector.daemon.reload(&source, None).await.unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("unknown"), "{error}");
    assert_eq!(collector.daemon.live().forget_after(), Duration::from_secs(77));
    let page = collector.metrics().await;
    assert!(page.contains("railwatch_collector_configuration_stale 1\n"), "{page}");
    assert!(page.contains("railwatch_collector_configuration_reloads_refused_total 1\n"), "{page}");

    fs::write(&source.path, "forget_hosts_after_s = 88\n").unwrap();
    collector.daemon.reload(&source, None).await.unwrap();
    assert_eq!(collector.daemon.live().forget_after(), Duration::from_secs(88));
    assert!(collector.metrics().await.contains("railwatch_collector_configuration_stale 0\n"));
}

#[tokio::test]
async fn the_run_file_names_the_real_addresses_and_leaves_with_the_collector() {
    let collector = Collector::start().await;
    let path = collector.directory.path().join("run/collector.json");
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let addresses = collector.daemon.addresses();
    assert_eq!(json["uplink"], addresses.uplink.to_string());
    assert_eq!(json["api"], format!("http://{}", addresses.api));
    assert_eq!(json["metrics"], format!("http://{}/metrics", addresses.metrics));
    assert_eq!(json["pid"], std::process::id());
    assert!(std::path::Path::new(json["token_file"].as_str().unwrap()).exists());
    collector.daemon.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stop_tells_agents_to_come_back_and_loses_nothing_acknowledged() {
    let collector = Collector::start().await;
    let mut agent = collector.agent("a").await;
    agent.frame(1, agent::signal("before the stop")).await;
    agent.acknowledged(1).await;
    let directory = std::sync::Arc::clone(&collector.directory);
    collector.daemon.stop().await;
    let (code, message) = agent.ended().await;
    assert_eq!(code, tonic::Code::Unavailable, "{message}");
    let collector = Collector::start_in(directory, "").await;
    assert_eq!(collector.stored_signals(), ["before the stop"]);
    let own = collector.own_signals();
    assert!(own.len() == 1 && own[0].contains("the one before was stopped in order"), "{own:?}");
}

#[tokio::test]
async fn a_second_collector_on_the_same_state_is_refused_with_the_reason() {
    let collector = Collector::start().await;
    let config =
        railwatch_collector::config::Config::load(&source(&collector).path, &source(&collector).overrides).unwrap();
    let error = match railwatch_collector::daemon::Daemon::start(config).await {
        Ok(_) => panic!("two collectors share a store"),
        Err(error) => format!("{error:#}"),
    };
    assert!(error.contains("railwatch.db"), "{error}");
    let mut agent = collector.agent("a").await;
    agent.frame(1, agent::signal("still here")).await;
    agent.acknowledged(1).await;
}

#[tokio::test]
async fn prometheus_sees_the_fleet_and_what_vanished_is_gone() {
    let collector = Collector::start().await;
    let mut agent = collector.agent("a").await;
    collector.until("a", |row| row.clock_uncertainty_us.is_some()).await;
    agent.say(Body::Definitions(v1::Definitions { series: vec![definition(0)] })).await;
    let balance = |device, bytes| v1::GpuBalance {
        layer: 1,
        device: Some(device),
        allocated_bytes: bytes,
        api: "cuda".into(),
        ..v1::GpuBalance::default()
    };
    let process = |pid, balances| v1::GpuProcess { pid, comm: "python".into(), balances, ..v1::GpuProcess::default() };
    let snapshot = |processes| v1::Snapshot {
        gpu: Some(v1::GpuState { processes, coverage: vec![] }),
        ports: vec![v1::PortState {
            name: "eth0".into(),
            kind: "netdev".into(),
            state: "up".into(),
            ..v1::PortState::default()
        }],
        ..v1::Snapshot::default()
    };
    let both = snapshot(vec![process(7, vec![balance(0, 100), balance(1, 5)]), process(8, vec![balance(0, 11)])]);
    agent.say(Body::Snapshot(both)).await;
    agent.frame(1, Frame::Windows(windows(1, 3.0))).await;
    agent.acknowledged(1).await;
    let page = collector.metrics().await;
    for line in [
        "railwatch_collector_fleet_host_up{host=\"a\"} 1",
        "railwatch_collector_fleet_gpu_allocated_bytes{host=\"a\",device=\"0\",layer=\"runtime\",api=\"cuda\"} 111",
        "railwatch_collector_fleet_gpu_allocated_bytes{host=\"a\",device=\"1\",layer=\"runtime\",api=\"cuda\"} 5",
        "railwatch_collector_fleet_nic_up{host=\"a\",port=\"eth0\",kind=\"netdev\"} 1",
        "railwatch_collector_uplink_samples_total 1",
    ] {
        assert!(page.contains(&format!("{line}\n")), "{line}\n{page}");
    }
    let rows = collector.daemon.live().gpu_processes();
    assert_eq!(
        rows.iter().map(|row| (row.pid, row.device, row.allocated_bytes)).collect::<Vec<_>>(),
        [(7, Some(0), 100), (7, Some(1), 5), (8, Some(0), 11)]
    );
    agent.say(Body::Snapshot(snapshot(vec![]))).await;
    agent.frame(2, agent::signal("after")).await;
    agent.acknowledged(2).await;
    let page = collector.metrics().await;
    assert!(!page.contains("gpu_allocated_bytes{"), "{page}");
    drop(agent);
    collector.until("a", |row| !row.connected).await;
    collector.daemon.live().set_forget_after(Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(5)).await;
    collector.daemon.live().forget(railwatch_collector::clock::Timeline::now());
    assert!(!collector.metrics().await.contains("host=\"a\""));
}
