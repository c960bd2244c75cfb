//! The API over real loopback connections, with a real store and engine behind it.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use super::{ApiState, Rooms, serve};
use crate::auth::Tokens;
use crate::bursts::Bursts;
use crate::clock::Timeline;
use crate::core::{Attachment, CoreConfig, CoreHandle};
use crate::directives::Directives;
use crate::live::{Live, rows::Change};
use crate::map::MapRoom;
use crate::probes::{Probes, view::HostsOnly};
use crate::tape::Tapes;
use crate::tape::kept::Kept;
use railwatch_engine::{Element, Options, Severity, Signal};
use railwatch_store::{Frame, FrameBody, Retention, Store};
use railwatch_wire::v1;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

mod map;

struct Collector {
    dir: TempDir,
    address: SocketAddr,
    core: CoreHandle,
    live: Live,
    map: MapRoom,
    host: Attachment,
    next_frame: u64,
    _stop: DropGuard,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}{}", self.head, self.body))
    }
}

impl Collector {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("railwatch.db")).unwrap();
        let config = CoreConfig {
            engine: Options::default(),
            retention: Retention::default(),
            state_dir: dir.path().to_owned(),
            webhook: None,
        };
        let core = CoreHandle::spawn(store, config).unwrap();
        let live = Live::new(Duration::from_secs(60));
        let tokens = Arc::new(Tokens::open(dir.path()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let bursts = Bursts::new(core.clone(), live.clone(), Directives::new(core.epoch()));
        let kept = Kept::in_state_dir(dir.path());
        let probes = Probes::new(1, live.clone(), Arc::new(HostsOnly(live.clone())));
        let map = MapRoom::default();
        let (live_too, core_too, map_too) = (live.clone(), core.clone(), map.clone());
        let tapes = Tapes::default();
        let rooms = Rooms { live: live_too, core: core_too, tapes, kept, bursts, probes, map: map_too };
        let state = ApiState::new(tokens, rooms);
        tokio::spawn(serve(listener, None, state, stop.clone()));
        let host = core.attach("host-1", "boot", [7; 16], 1, Default::default()).await.unwrap();
        tokio::spawn(crate::map::history::follow(map.clone(), core.clone(), stop.clone()));
        Self { dir, address, core, live, map, host, next_frame: 1, _stop: stop.drop_guard() }
    }

    fn token(&self, role: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("token-{role}"))).unwrap().trim().to_owned()
    }

    async fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        // HTTP/1.0: the body ends with the connection. A reset after the answer is the server not reading the rest.
        let _ = stream.read_to_string(&mut text).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {request}: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    async fn call(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.call("GET", path, Some(&self.token("read")), "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(&self.token("approve")), &body.to_string()).await
    }

    /// A port's link falls; returns the decision that is proposed for it.
    async fn link_falls(&mut self, port: &str) -> Value {
        let now = Timeline::now();
        let signal = Signal {
            name: "nic.link.down".into(),
            element: Element { host: "host-1".into(), kind: "nic".into(), name: port.into() },
            severity: Severity::Error,
            observed: now,
            half_width_ns: 1_000_000,
            value: 0.0,
            previous: Some(1.0),
            unit: "1".into(),
            summary: format!("{port} lost its link"),
            attributes: Default::default(),
            incomplete_since: None,
            suppressed: 0,
        };
        let frame = Frame {
            sequence: self.next_frame,
            skipped_signals: 0,
            skipped_windows: 0,
            body: FrameBody::Signal(signal),
        };
        self.next_frame += 1;
        self.host.submit(frame).await.unwrap();
        for _ in 0..200 {
            self.host.heard();
            let decisions = self.get("/v1/decisions?state=proposed").await;
            if let Some(found) =
                decisions.as_array().unwrap().iter().find(|decision| decision["target"]["name"] == port)
            {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no decision for {port}: {}", self.get("/v1/incidents").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_without_a_token_that_suffices() {
    let collector = Collector::start().await;
    let read = collector.token("read");
    let path = collector.dir.path().join("tokens");
    let expired = format!(
        "\n[[token]]\nname = \"old\"\nrole = \"approve\"\nsha256 = \"{}\"\nexpires = 2001-01-01T00:00:00Z\n",
        sha256("expired-token")
    );
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + &expired).unwrap();
    for (method, route, token, status, kind) in [
        ("GET", "/v1/hosts", None, 401, "token"),
        ("GET", "/v1/watch", None, 401, "token"),
        ("GET", "/no/such/path", None, 401, "token"),
        ("POST", "/v1/halt", None, 401, "token"),
        ("GET", "/v1/hosts", Some("wrong"), 401, "token"),
        ("GET", "/v1/hosts", Some("expired-token"), 401, "token"),
        ("POST", "/v1/halt", Some(read.as_str()), 403, "role"),
        ("POST", "/v1/decisions/1/verdict", Some(&read), 403, "role"),
        ("POST", "/v1/hosts/host-1/burst", Some(&read), 403, "role"),
        ("GET", "/no/such/path", Some(&read), 404, "not-found"),
        ("DELETE", "/v1/hosts", Some(&collector.token("approve")), 405, "method"),
    ] {
        let answer = collector.call(method, route, token, "{\"halted\":true}").await;
        assert_eq!(answer.status, status, "{method} {route}: {}", answer.body);
        assert!(answer.head.contains("content-type: application/problem+json"), "{}", answer.head);
        assert!(answer.head.contains("x-request-id: "), "{}", answer.head);
        let problem = answer.json();
        assert_eq!(problem["type"], format!("urn:railwatch:problem:{kind}"));
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 20), "{problem}");
        if status == 401 {
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        }
        assert!(!answer.body.contains(&read), "no token in an answer");
    }
    assert!(!collector.dir.path().join("HALT").exists());
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(collector.call("GET", probe, None, "").await.status, 200, "{probe}");
    }
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_ends_in_being_told_to_wait_while_good_tokens_are_served() {
    let collector = Collector::start().await;
    let mut told = Vec::new();
    for _ in 0..40 {
        told.push(collector.call("GET", "/v1/hosts", Some("guess"), "").await.status);
    }
    assert_eq!((told[0], told[39]), (401, 429));
    let answer = collector.call("GET", "/v1/hosts", Some("guess"), "").await;
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    assert_eq!(collector.get("/v1/hosts").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_that_rebinds_its_name_to_loopback_gets_nothing() {
    let collector = Collector::start().await;
    let token = collector.token("approve");
    for (host, status) in [("evil.example:7701", 421), ("localhost", 200), ("127.0.0.1:9", 200), ("[::1]", 200)] {
        let answer = collector
            .raw(&format!("GET /v1/version HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"))
            .await;
        assert_eq!(answer.status, status, "{host}: {}", answer.body);
    }
    assert_eq!(
        collector.raw(&format!("GET /v1/version HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n")).await.status,
        421
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_refused_with_the_reason() {
    let collector = Collector::start().await;
    let approve = collector.token("approve");
    let long = json!({"halted": true, "reason": "x".repeat(2000)}).to_string();
    let huge = json!({"halted": true, "reason": "x".repeat(20_000)}).to_string();
    for (method, path, body, status) in [
        ("GET", "/v1/incidents?limit=0", "", 400),
        ("GET", "/v1/incidents?limit=1001", "", 400),
        ("GET", "/v1/incidents?state=odd", "", 400),
        ("GET", "/v1/incidents?nonsense=1", "", 400),
        ("GET", "/v1/nic?nonsense=1", "", 400),
        ("GET", "/v1/incidents/x", "", 400),
        ("GET", "/v1/incidents/4711", "", 404),
        ("GET", "/v1/decisions/4711", "", 404),
        ("POST", "/v1/decisions/4711/verdict", "{\"approve\":true}", 404),
        ("POST", "/v1/halt", "{", 400),
        ("POST", "/v1/halt", "{}", 422),
        ("POST", "/v1/halt", "{\"halted\":true,\"for\":1}", 422),
        ("POST", "/v1/halt", &long, 400),
        ("POST", "/v1/halt", &huge, 413),
    ] {
        let answer = collector.call(method, path, Some(&approve), body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
    let wordy = format!("GET /v1/hosts HTTP/1.0\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    assert_eq!(collector.raw(&wordy).await.status, 431);
    assert_eq!(collector.get("/v1/halt").await["halted"], false, "none of that halted anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_reaches_the_audit_with_its_actor_and_is_given_once() {
    let mut collector = Collector::start().await;
    let decision = collector.link_falls("eth0").await;
    let path = format!("/v1/decisions/{}/verdict", decision["id"]);

    let incident = collector.get(&format!("/v1/incidents/{}", decision["incident"])).await;
    assert_eq!(incident["element"]["name"], "eth0");
    assert_eq!(incident["decisions"][0]["id"], decision["id"]);
    assert_eq!(incident["signals"][0]["summary"], "eth0 lost its link");
    assert_eq!(collector.get("/v1/incidents?state=resolved").await, json!([]));
    assert_eq!(
        collector.get(&format!("/v1/incidents?since={}", incident["opened"])).await.as_array().unwrap().len(),
        1
    );
    let later = incident["opened"].as_u64().unwrap() + 1;
    assert_eq!(collector.get(&format!("/v1/incidents?since={later}")).await, json!([]));

    let rejected = collector.post(&path, json!({"approve": false, "note": "known cable"})).await;
    assert_eq!((rejected.status, rejected.json()["state"].as_str()), (200, Some("rejected")), "{}", rejected.body);
    let again = collector.post(&path, json!({"approve": true})).await;
    assert_eq!(
        (again.status, again.json()["type"].as_str()),
        (409, Some("urn:railwatch:problem:not-waiting")),
        "{}",
        again.body
    );
    let audit = collector.get("/v1/audit").await;
    let lines = audit.as_array().unwrap();
    let line = lines.iter().find(|line| line["what"] == "decision.rejected").unwrap_or_else(|| panic!("{audit}"));
    assert_eq!(line["actor"], "approve");
    assert!(line["detail"].as_str().unwrap().contains("known cable"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_halted_an_approval_is_held_back_and_says_so() {
    let mut collector = Collector::start().await;
    let decision = collector.link_falls("eth1").await;
    let halted = collector.post("/v1/halt", json!({"halted": true, "reason": "maintenance"})).await;
    assert_eq!(halted.json(), json!({"halted": true, "actor": "approve", "reason": "maintenance"}));
    assert!(collector.dir.path().join("HALT").exists());
    let approved = collector.post(&format!("/v1/decisions/{}/verdict", decision["id"]), json!({"approve": true})).await;
    assert_eq!(approved.status, 409, "{}", approved.body);
    assert!(approved.json()["detail"].as_str().unwrap().contains("halted"), "{}", approved.body);
    let released = collector.post("/v1/halt", json!({"halted": false})).await;
    assert_eq!(released.json(), json!({"halted": false, "actor": null, "reason": null}));
    assert!(!collector.dir.path().join("HALT").exists());
    let audit = collector.get("/v1/audit").await.to_string();
    assert!(audit.contains("\"halt\"") && audit.contains("\"release\""), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_listed_newest_first_with_the_incident_they_were_joined_into() {
    let mut collector = Collector::start().await;
    for port in ["eth0", "eth1"] {
        collector.link_falls(port).await;
    }
    let names = |rows: &Value| -> Vec<Value> {
        rows.as_array().unwrap().iter().map(|row| row["signal"]["element"]["name"].clone()).collect()
    };
    let all = collector.get("/v1/signals").await;
    assert_eq!(names(&all), ["eth1", "eth0"], "{all}");
    assert!(all[0]["received"].is_u64() && all[0]["incident"].is_u64(), "{all}");
    assert_eq!(names(&collector.get("/v1/signals?host=host-1&limit=1").await), ["eth1"]);
    assert_eq!(names(&collector.get(&format!("/v1/signals?before={}", all[0]["id"])).await), ["eth0"]);
    assert_eq!(collector.get("/v1/signals?host=host-2").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_rows_are_of_all_hosts_or_of_the_one_asked_for() {
    let collector = Collector::start().await;
    for host in ["host-1", "host-2"] {
        collector.live.host(host).lock().connected = true;
    }
    let names = |rows: Value| {
        rows.as_array().unwrap().iter().map(|row| row["host"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(collector.get("/v1/hosts").await), ["host-1", "host-2"]);
    assert_eq!(names(collector.get("/v1/hosts?host=host-2").await), ["host-2"]);
    assert_eq!(names(collector.get("/v1/hosts?host=%68ost-1").await), ["host-1"]);
    assert_eq!(collector.get("/v1/nic?host=host-3").await, json!([]));
    let lane = v1::ModuleLane { lane: 1, rx_power_mw: Some(0.5), rx_los: Some(false), ..v1::ModuleLane::default() };
    let limits = v1::ModuleThresholds { quantity: "rx_power_mw".into(), low_alarm: Some(0.01), ..Default::default() };
    let module = |interface: &str| v1::ModuleState {
        interface: interface.into(),
        standard: "CMIS".into(),
        serial: "RW0000004".into(),
        temperature_c: Some(42.0),
        lanes: vec![lane],
        thresholds: vec![limits.clone()],
        ..v1::ModuleState::default()
    };
    let modules = vec![module("eth1"), module("eth0")];
    collector.live.host("host-2").lock().take(v1::Snapshot { modules, ..v1::Snapshot::default() });
    let optics = collector.get("/v1/optics").await;
    assert_eq!(
        (&optics[0]["host"], &optics[0]["interface"], &optics[1]["interface"]),
        (&json!("host-2"), &json!("eth0"), &json!("eth1"))
    );
    assert_eq!(optics[0]["lanes"][0]["rx_power_mw"], 0.5);
    assert_eq!(optics[0]["lanes"][0]["tx_power_mw"], Value::Null, "not measured is null, never zero");
    assert_eq!(
        (&optics[0]["vcc_v"], &optics[0]["thresholds"]["rx_power_mw"]["low_alarm"]),
        (&Value::Null, &json!(0.01))
    );
    collector.live.host("host-2").lock().take(v1::Snapshot::default());
    assert_eq!(collector.get("/v1/optics?host=host-2").await, optics, "a snapshot without modules changes none");
    assert_eq!(collector.get("/v1/optics?host=host-1").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_and_does_not_ask_is_hung_up_on() {
    let collector = Collector::start().await;
    let idle = |first: &'static str| async move {
        let mut stream = TcpStream::connect(collector.address).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{first:?} is still connected");
    };
    tokio::join!(idle(""), idle("P"), idle("PRI * HTTP/2.0\r\n"), idle("GET /v1/hosts HTTP/1.1\r\nHost: loc"));
}

/// Lines of a watch until one begins with each of `wanted`, in order.
async fn watch_for(
    collector: &Collector,
    after: Option<&str>,
    wanted: &[&str],
    act: impl AsyncFnOnce(),
) -> Vec<String> {
    let stream = TcpStream::connect(collector.address).await.unwrap();
    let (reading, mut writing) = stream.into_split();
    let resume = after.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /v1/watch HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{resume}\r\n",
        collector.token("read")
    );
    writing.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(reading).lines();
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line == "event: start") {
        seen.push(lines.next_line().await.unwrap().unwrap());
    }
    seen.push(lines.next_line().await.unwrap().unwrap());
    act().await;
    for start in wanted {
        loop {
            let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("no {start:?} within 20 s after {seen:?}")).unwrap().unwrap();
            let found = line.starts_with(start);
            seen.push(line);
            if found {
                break;
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_incidents_decisions_and_hosts_and_resumes_without_a_gap() {
    let mut collector = Collector::start().await;
    collector.link_falls("eth0").await;
    let live = collector.live.clone();
    let seen = watch_for(&collector, None, &["event: host", "data: "], async || {
        live.announce(Change::HostConnected { host: "host-2".into() });
    })
    .await;
    assert!(seen.last().unwrap().contains("host-2"), "{seen:?}");
    let id = seen.iter().rev().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();

    collector.link_falls("eth7").await;
    let seen =
        watch_for(&collector, Some(&id), &["event: incident", "data: ", "event: decision", "data: "], async || {})
            .await;
    assert!(seen.iter().any(|line| line.starts_with("data: {\"id\":") && line.contains("eth7")), "{seen:?}");
    assert!(!seen.iter().any(|line| line.contains("eth0")), "nothing twice: {seen:?}");

    let seen = watch_for(&collector, Some("1-1"), &["event: lagged", "data: "], async || {}).await;
    assert!(seen.last().unwrap().contains("list"), "after a restart a watcher is told to list again: {seen:?}");
    let refused = collector
        .raw(&format!(
            "GET /v1/watch HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nLast-Event-ID: junk\r\n\r\n",
            collector.token("read")
        ))
        .await;
    assert_eq!(refused.status, 400);
    collector.core.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inventories_show_what_holds_what_changed_and_who_differs() {
    let mut collector = Collector::start().await;
    let state = |mtu: &str| v1::InventoryState {
        items: [("mtu", mtu), ("driver", "mlx5_core")]
            .map(|(key, value)| v1::InventoryItem {
                entity_kind: "port".into(),
                entity: "eth0".into(),
                key: key.into(),
                value: value.into(),
                role: "rdma mlx5_core".into(),
                source: "RTM_GETLINK".into(),
            })
            .into(),
    };
    for (n, mtu) in ["9000", "9000", "9000", "1500"].into_iter().enumerate() {
        let live = &collector.live;
        live.host(&format!("host-{n}")).lock().inventory = live.inventories().share(&state(mtu));
    }
    let drift = collector.get("/v1/inventory/drift").await;
    assert_eq!(drift.as_array().unwrap().len(), 1);
    for (field, expected) in [
        ("host", json!("host-3")),
        ("entity", json!("eth0")),
        ("key", json!("mtu")),
        ("value", json!("1500")),
        ("expected", json!("9000")),
        ("group", json!("fleet")),
        ("agree", json!(3)),
        ("peers", json!(4)),
        ("severity", json!("warning")),
    ] {
        assert_eq!(drift[0][field], expected, "{field}");
    }
    assert_eq!(collector.get("/v1/inventory/drift?by=job").await, json!([]));
    for mtu in ["9000", "1500"] {
        collector.host.inventory(crate::inventory::stored(state(mtu))).await.unwrap();
    }
    // What came before a frame is stored with it or before it.
    let decision = collector.link_falls("eth0").await;
    let rows = collector.get("/v1/inventory?host=host-1&key=m*").await;
    assert_eq!((rows[0]["value"].clone(), rows.as_array().unwrap().len()), (json!("1500"), 1));
    let history = collector.get("/v1/inventory/history?host=host-1").await;
    assert_eq!(history.as_array().unwrap().len(), 1, "{history}");
    assert_eq!((&history[0]["before"], &history[0]["after"]), (&json!("9000"), &json!("1500")));
    let incident = collector.get(&format!("/v1/incidents/{}", decision["incident"])).await;
    assert_eq!(incident["changes"], history, "what changed before it began");
    for (path, status) in [
        ("/v1/inventory?limit=0", 400),
        ("/v1/inventory?limit=10001", 400),
        ("/v1/inventory?nosuch=1", 400),
        ("/v1/inventory/drift?by=rack", 400),
        ("/v1/inventory/history?since=x", 400),
    ] {
        assert_eq!(collector.call("GET", path, Some(&collector.token("read")), "").await.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn placement_is_told_by_host_and_jobs_over_all_hosts() {
    let collector = Collector::start().await;
    for (host, rank) in [("host-2", 1), ("host-1", 0)] {
        let task = v1::Task {
            pid: 7,
            scheduler: "slurm".into(),
            job: "42".into(),
            rank: Some(rank),
            exit_signal: (rank == 1).then_some(9),
            ..v1::Task::default()
        };
        let device = v1::Device { kind: "gpu".into(), name: "0".into(), ..v1::Device::default() };
        let placement =
            v1::PlacementState { devices: vec![device], tasks: vec![task], ..v1::PlacementState::default() };
        let snapshot = v1::Snapshot { placement: Some(placement), ..v1::Snapshot::default() };
        collector.live.host(host).lock().take(snapshot);
    }
    let jobs = collector.get("/v1/jobs").await;
    assert_eq!((&jobs[0]["job"], &jobs[0]["hosts"]), (&json!("42"), &json!(["host-1", "host-2"])));
    assert_eq!((&jobs[0]["ranks"][1]["host"], &jobs[0]["ranks"][1]["exit_signal"]), (&json!("host-2"), &json!(9)));
    assert_eq!(jobs[0]["ranks"][0]["exit_signal"], Value::Null, "one that lives has no signal");
    assert_eq!(collector.get("/v1/jobs?host=host-2").await, jobs, "a job is whole wherever it is asked for");
    assert_eq!(collector.get("/v1/jobs?host=host-3").await, json!([]));
    let placement = collector.get("/v1/placement?host=host-1").await;
    assert_eq!(placement.as_array().map(Vec::len), Some(1));
    assert_eq!(placement[0]["devices"][0]["numa_node"], Value::Null, "not told is null, never zero");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_asked_of_a_host_that_is_there_within_bounds_and_is_on_record() {
    let collector = Collector::start().await;
    collector.live.host("host-1");
    for (path, body, status, kind) in [
        ("/v1/hosts/nowhere/burst", json!({}), 404, "not-found"),
        ("/v1/hosts/host-1/burst", json!({"for_ms": 0}), 400, "bad-request"),
        ("/v1/hosts/host-1/burst", json!({"for_ms": 60_001}), 400, "bad-request"),
        ("/v1/hosts/host-1/burst", json!({"for": "10s"}), 422, "bad-body"),
        ("/v1/hosts/host-1/burst", json!({"reason": "a look"}), 503, "host-away"),
    ] {
        let answer = collector.post(path, body).await;
        assert_eq!(
            (answer.status, answer.json()["type"].clone()),
            (status, json!(format!("urn:railwatch:problem:{kind}")))
        );
    }
    let audit = collector.get("/v1/audit").await;
    let rows: Vec<_> = audit.as_array().unwrap().iter().filter(|row| row["what"] == "burst").collect();
    assert_eq!(rows.len(), 1, "what was asked for is there, though it was not to be had: {audit}");
    assert!(rows[0]["actor"] == "approve" && rows[0]["detail"].as_str().unwrap().contains("a look"), "{}", rows[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_how_much_there_is_to_do() {
    let collector = Collector::start().await;
    let status = collector.get("/v1/status").await;
    assert_eq!((&status["level"], &status["store_error"]), (&json!("normal"), &Value::Null), "{status}");
    assert_eq!(status["shed"], json!({"tape": 0, "windows": 0, "streams": 0}));
}
