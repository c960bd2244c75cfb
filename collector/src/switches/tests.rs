//! Switches from their bytes to rows, signals, statements and the metrics' page, over loopback.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

#[path = "../../switches/tests/target/mod.rs"]
#[expect(dead_code, reason = "these tests use a part of it")]
mod target;

use super::{Around, SwitchConfig, start};
use crate::core::{CoreConfig, CoreHandle};
use crate::live::Live;
use crate::map::Reports;
use crate::metrics;
use railwatch_engine::map::{Source, Statement};
use railwatch_engine::{Options, Signal, Timestamp};
use railwatch_store::{Retention, SignalFilter, Store};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use target::{Fake, Running, json, said, sync};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Told(Mutex<Vec<(String, Option<Vec<Statement>>)>>);

impl Reports for Told {
    fn report(&self, reporter: &str, source: Source, says: Vec<Statement>, _at: Timestamp) {
        assert_eq!(source, Source::Switch);
        self.0.lock().unwrap().push((reporter.to_owned(), Some(says)));
    }

    fn gone(&self, reporter: &str, _at: Timestamp) {
        self.0.lock().unwrap().push((reporter.to_owned(), None));
    }
}

struct Room {
    live: Live,
    core: CoreHandle,
    told: Arc<Told>,
    registry: prometheus_client::registry::Registry,
    _directory: TempDir,
    _stop: DropGuard,
    _tasks: JoinSet<()>,
}

impl Room {
    fn start(switches: &[SwitchConfig], sflow: Option<UdpSocket>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("railwatch.db")).unwrap();
        let config = CoreConfig {
            engine: Options::default(),
            retention: Retention::default(),
            state_dir: directory.path().to_owned(),
            webhook: None,
        };
        let core = CoreHandle::spawn(store, config).unwrap();
        let live = Live::new(Duration::from_secs(60));
        let (registry, _) = metrics::registry(live.clone());
        let (told, stop, mut tasks) = (Arc::<Told>::default(), CancellationToken::new(), JoinSet::new());
        let around = Around { core: core.clone(), reports: told.clone(), stop: stop.clone() };
        start(live.switches(), switches, sflow, &around, &mut tasks);
        Self { live, core, told, registry, _directory: directory, _stop: stop.drop_guard(), _tasks: tasks }
    }

    fn page(&self) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        page
    }

    fn signals(&self) -> Vec<Signal> {
        let filter = SignalFilter { incident: None, host: None, before: None, limit: 100 };
        let stored = self.core.reader().unwrap().signals(&filter).unwrap();
        stored.into_iter().rev().map(|stored| stored.signal).collect()
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = std::time::Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(std::time::Instant::now() < end, "{what}: {:?}\n{}", self.live.switches().rows(), self.page());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn config(name: &str, address: SocketAddr) -> SwitchConfig {
    toml::from_str(&format!("name = {name:?}\naddress = \"{address}\"\ninsecure = true\nsample_ms = 100")).unwrap()
}

async fn leaf() -> Running {
    let port = "/interfaces/interface[name=eth0]/state";
    let state = |status: &str, count: u64| {
        let counters = format!(r#"{{"in-octets":"{count}","in-discards":"{count}","in-errors":"{count}"}}"#);
        said(&[(port, json(&format!(r#"{{"oper-status":"{status}","admin-status":"UP","counters":{counters}}}"#)))])
    };
    let neighbour = "/lldp/interfaces/interface[name=eth0]/neighbors/neighbor[id=1]/state";
    let messages = vec![
        said(&[("/lldp/state/system-name", json("\"leaf0\""))]),
        state("UP", 0),
        said(&[(neighbour, json(r#"{"system-name":"host0","port-id":"eth0"}"#)), ("/components", json("{"))]),
        sync(),
        state("DOWN", 1_000_000),
    ];
    Fake { messages, ..Fake::default() }.start(None).await
}

#[tokio::test]
async fn what_a_switch_says_is_shown_stored_and_told_to_the_map_and_a_dead_one_is_in_nobodys_way() {
    let running = leaf().await;
    // Nothing listens there: the port was free a moment ago.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let room = Room::start(&[config("a", running.address), config("b", nowhere)], None);
    room.eventually("the fall is stored", |room| room.signals().iter().any(|signal| signal.name == "switch.link.down"))
        .await;
    room.eventually("the rules spoke", |room| room.signals().len() >= 3).await;
    let down = room.signals().into_iter().find(|signal| signal.name == "switch.link.down").unwrap();
    assert_eq!((down.element.host.as_str(), down.element.name.as_str()), ("leaf0", "eth0"));
    assert_eq!(down.attributes["peer"], "host0:eth0");
    let incidents =
        room.core.reader().unwrap().incidents(&railwatch_store::IncidentFilter { limit: 10, ..Default::default() });
    assert!(incidents.unwrap().is_empty(), "nobody is suspected by a switch's word alone");

    let rows = room.live.switches().rows();
    let names: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.system_name.as_str(), row.connected)).collect();
    assert_eq!(names, [("a", "leaf0", true), ("b", "b", false)]);
    assert!(rows[1].why.as_ref().unwrap().contains("connect"), "{:?}", rows[1].why);
    let port = &rows[0].ports[0];
    assert_eq!((port.up, port.neighbours[0].system_name.as_deref()), (Some(false), Some("host0")));
    assert_eq!(rows[0].counts.malformed, 1);
    assert!(rows[0].limitations.iter().any(|limitation| limitation.what == "queues"));

    let page = room.page();
    for line in [
        "railwatch_collector_fleet_switch_up{switch=\"a\"} 1",
        "railwatch_collector_fleet_switch_up{switch=\"b\"} 0",
        "railwatch_collector_fleet_switch_port_up{switch=\"a\",port=\"eth0\"} 0",
        "railwatch_collector_fleet_switch_io_bytes_per_second{switch=\"a\",port=\"eth0\",direction=\"receive\"} ",
        "railwatch_collector_fleet_switch_dropped_per_second{switch=\"a\",port=\"eth0\",direction=\"receive\"} ",
        "railwatch_collector_fleet_switch_errors_per_second{switch=\"a\",port=\"eth0\",direction=\"receive\"} ",
        "railwatch_collector_fleet_switch_unusable_total{switch=\"a\",reason=\"malformed\"} 1",
        "railwatch_collector_fleet_switch_signals_lost_total{switch=\"a\"} 0",
    ] {
        assert!(page.contains(&format!("\n{line}")), "{line}\n{page}");
    }

    room.eventually("the map is told", |room| {
        let told = room.told.0.lock().unwrap();
        told.last().is_some_and(|(name, says)| {
            let says = says.as_deref().unwrap_or_default();
            let is_down = says.iter().any(|one| matches!(one, Statement::Port { up: Some(false), .. }));
            name == "a" && is_down && says.iter().any(|one| matches!(one, Statement::Cable { .. }))
        })
    })
    .await;
    drop(running);
    room.eventually("its loss is told", |room| {
        room.told.0.lock().unwrap().last().is_some_and(|(_, says)| says.is_none())
    })
    .await;
    assert_eq!(room.live.switches().rows()[0].ports.len(), 1, "what it said last is still shown");
}

/// XDR of numbers.
fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn opaque(format: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = numbers(&[format, u32::try_from(body.len()).unwrap()]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn datagram(sequence: u32, samples: &[Vec<u8>]) -> Vec<u8> {
    let head = numbers(&[5, 1, 0x7f00_0001, 0, sequence, 1000, u32::try_from(samples.len()).unwrap()]);
    [vec![head], samples.to_vec()].concat().concat()
}

/// An IPv4 packet of TCP from 10.0.0.1:1000 to 10.0.0.3:2000 that interface 3 dropped.
fn discarded(reason: u32) -> Vec<u8> {
    let packet = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 3, 3, 232, 7, 208];
    let header = [numbers(&[11, 64, 0]), numbers(&[u32::try_from(packet.len()).unwrap()]), packet.to_vec()].concat();
    opaque(5, &[numbers(&[1, 0, 3, 4, 3, 0, reason, 1]), opaque(1, &header)].concat())
}

fn counters(discards: u32) -> Vec<u8> {
    let of_port = numbers(&[3, 6, 23, 1_215_752_192, 1, 3, 0, 0, 0, 0, 0, discards, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    opaque(2, &[numbers(&[1, 3, 1]), opaque(1, &of_port)].concat())
}

#[tokio::test]
async fn sflow_of_a_configured_agent_is_read_and_of_no_other() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    let config: SwitchConfig = toml::from_str("name = \"spine0\"\nsflow_agents = [\"127.0.0.1\"]").unwrap();
    let room = Room::start(&[config], Some(socket));
    let agent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    stranger.send_to(&datagram(1, &[discarded(258)]), to).await.unwrap();
    for (sequence, samples) in [
        (1, vec![discarded(259), counters(0)]),
        (2, vec![discarded(259), discarded(269)]),
        (5, vec![opaque(9, &[0; 8])]),
    ] {
        agent.send_to(&datagram(sequence, &samples), to).await.unwrap();
    }
    agent.send_to(b"what is this", to).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    agent.send_to(&datagram(6, &[counters(1_000_000)]), to).await.unwrap();
    room.eventually("all are read", |room| room.signals().len() >= 3).await;
    let signals: Vec<_> = room
        .signals()
        .into_iter()
        .map(|signal| (signal.name, signal.element.name, signal.attributes.get("reason").cloned()))
        .collect();
    let dropped = |reason: &str| ("switch.drop.reported".to_owned(), "if3".to_owned(), Some(reason.to_owned()));
    assert_eq!(
        signals,
        [dropped("no_buffer_space"), dropped("blackhole_route"), ("switch.drops".to_owned(), "if3".to_owned(), None)]
    );
    let reported = room.signals().remove(0);
    let flow = ["source", "source_port", "destination", "destination_port", "protocol"]
        .map(|key| reported.attributes[key].clone());
    assert_eq!(flow, ["10.0.0.1", "1000", "10.0.0.3", "2000", "6"]);
    let sflow = room.live.switches().rows().remove(0).sflow.unwrap();
    assert_eq!((sflow.datagrams, sflow.lost, sflow.malformed, sflow.counters, sflow.drops_left_out), (5, 2, 1, 2, 4));
    assert_eq!((sflow.drops["no_buffer_space"], sflow.drops["blackhole_route"]), (2, 1));
    let page = room.page();
    for (outcome, count) in [("taken", 4), ("unknown_agent", 1), ("malformed", 1), ("lost", 2)] {
        let line = format!("railwatch_collector_fleet_switch_sflow_datagrams_total{{outcome=\"{outcome}\"}} {count}");
        assert!(page.contains(&line), "{line}\n{page}");
    }
}
