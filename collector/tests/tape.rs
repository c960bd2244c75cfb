//! A piece of a host's tape through the API, over real mTLS, from agents that answer well, badly and not at all.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;

use agent::{Agent, Collector, definition, mono_ns};
use railwatch_wire::tape::{Reading, pack};
use railwatch_wire::v1::{self, agent_message::Body, collector_message::Body as Answer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The status and body of a call with the token that may read.
async fn get(collector: &Collector, path: &str) -> (u16, Value) {
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
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// An agent with two series, its clock measured.
async fn host(collector: &Collector) -> Agent {
    let agent = collector.agent("a").await;
    let series = vec![definition(0), definition(1)];
    agent.say(Body::Definitions(v1::Definitions { series })).await;
    collector.until("a", |row| row.series == 2 && row.clock_uncertainty_us.is_some()).await;
    agent
}

/// The next request for the tape.
async fn request(agent: &mut Agent) -> v1::TapeRequest {
    loop {
        if let Answer::TapeRequest(request) = agent.answer().await.unwrap() {
            return request;
        }
    }
}

/// What the API answers to `path` while the agent answers its request with these pieces.
async fn asked(
    collector: &Collector,
    agent: &mut Agent,
    path: &str,
    pieces: impl FnOnce(&v1::TapeRequest) -> Vec<v1::TapePiece>,
) -> (u16, Value) {
    let answering = async {
        let request = request(agent).await;
        for piece in pieces(&request) {
            agent.say(Body::TapePiece(v1::TapePiece { id: request.id, ..piece })).await;
        }
    };
    tokio::join!(get(collector, path), answering).0
}

const PATH: &str = "/v1/hosts/a/tape?series=test.series.0&span_ms=2000";

fn last() -> v1::TapePiece {
    v1::TapePiece { last: true, ..v1::TapePiece::default() }
}

#[tokio::test]
async fn readings_come_back_exactly_on_the_collectors_timeline_with_both_uncertainties() {
    let collector = Collector::start().await;
    let mut agent = host(&collector).await;
    let now = mono_ns();
    let (status, answer) = asked(&collector, &mut agent, &format!("{PATH}&ago_ms=1000"), |request| {
        assert_eq!(request.series, [definition(0).id]);
        assert!(request.from_mono_ns < now - 1_900_000_000 && request.to_mono_ns > now - 100_000_000, "{request:?}");
        let reading = |at_mono_ns, bits| Reading { at_mono_ns, half_width_ns: 2_300, bits };
        let column = |at: u64, bits| pack(definition(0).id, false, [reading(at, bits)]);
        vec![
            v1::TapePiece { columns: vec![column(now - 20_000_000, u64::MAX)], ..v1::TapePiece::default() },
            v1::TapePiece { columns: vec![column(now - 10_000_000, 3)], complete_since_mono_ns: Some(7), ..last() },
        ]
    })
    .await;
    assert_eq!(status, 200, "{answer}");
    let series = &answer["series"][0];
    assert_eq!(
        (&series["name"], &series["entity"], &series["unit"]),
        (&"test.series.0".into(), &"eth0".into(), &"By".into())
    );
    let readings = series["readings"].as_array().unwrap();
    let values: Vec<_> = readings.iter().map(|reading| reading["value"].as_u64().unwrap()).collect();
    assert_eq!(values, [u64::MAX, 3]);
    assert_eq!(readings[0]["half_width_ns"], 2_300);
    let at = |index: usize| readings[index]["at"].as_u64().unwrap();
    assert_eq!(at(1) - at(0), 10_000_000);
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    assert!(u128::from(at(1)).abs_diff(unix) < 60_000_000_000, "mapped to Unix time");
    assert!(answer["clock_uncertainty_us"].as_u64().is_some_and(|us| us > 0));
    assert_eq!(answer["cut"], false);
}

#[tokio::test]
async fn what_cannot_be_answered_says_why_and_what_to_do() {
    let collector = Collector::start().await;
    let (status, problem) = get(&collector, PATH).await;
    assert_eq!(status, 404);
    assert!(problem["detail"].as_str().unwrap().contains("GET /v1/hosts"), "{problem}");
    let mut agent = host(&collector).await;
    for (path, expected_status, says) in [
        ("/v1/hosts/a/tape?series=test.serie.0", 404, "near are: test.series.0"),
        ("/v1/hosts/a/tape?series=test.series.0@eth9", 404, "test.series.0@eth0"),
        ("/v1/hosts/a/tape?series=a%20b", 400, "is no series"),
        ("/v1/hosts/a/tape", 400, "no series"),
        ("/v1/hosts/a/tape?series=x&span_ms=0", 400, "span_ms=0"),
        ("/v1/hosts/a/tape?series=x&around=1&ago_ms=2", 400, "one of them"),
        ("/v1/hosts/a/tape?series=x&when=1", 400, "no part of this query"),
    ] {
        let (status, problem) = get(&collector, path).await;
        assert_eq!(status, expected_status, "{path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{path}: {problem}");
    }
    let refused = |_: &_| vec![v1::TapePiece { refused: "this agent keeps no tape".into(), ..last() }];
    let (status, problem) = asked(&collector, &mut agent, PATH, refused).await;
    assert_eq!((status, problem["type"].as_str()), (409, Some("urn:railwatch:problem:tape-refused")), "{problem}");
    let empty = |request: &v1::TapeRequest| {
        let complete_since_mono_ns = Some(request.to_mono_ns + 5_000_000_000);
        vec![v1::TapePiece { columns: vec![pack(definition(0).id, false, [])], complete_since_mono_ns, ..last() }]
    };
    let (status, problem) = asked(&collector, &mut agent, PATH, empty).await;
    assert_eq!((status, problem["type"].as_str()), (404, Some("urn:railwatch:problem:out-of-reach")), "{problem}");
    let other = |_: &_| vec![v1::TapePiece { columns: vec![pack(404, false, [])], ..last() }];
    assert_eq!(asked(&collector, &mut agent, PATH, other).await.0, 502);
    // It goes away in the middle of its answer, and stays away.
    let (status, problem) = {
        let gone = async {
            request(&mut agent).await;
            drop(agent);
        };
        tokio::join!(get(&collector, PATH), gone).0
    };
    assert_eq!((status, problem["type"].as_str()), (503, Some("urn:railwatch:problem:host-away")), "{problem}");
    collector.until("a", |row| !row.connected).await;
    let (status, problem) = get(&collector, PATH).await;
    assert_eq!((status, problem["type"].as_str()), (503, Some("urn:railwatch:problem:host-away")), "{problem}");
}

#[tokio::test]
async fn the_series_of_a_host_are_listed_as_they_can_be_asked_for() {
    let collector = Collector::start().await;
    let _agent = host(&collector).await;
    let (status, rows) = get(&collector, "/v1/hosts/a/series").await;
    assert_eq!(status, 200);
    let selectors: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["selector"].as_str().unwrap()).collect();
    assert_eq!(selectors, ["test.series.0@eth0", "test.series.1@eth0"]);
    assert_eq!(get(&collector, "/v1/hosts/b/series").await.0, 404);
}

#[tokio::test]
async fn an_incident_keeps_what_its_host_read_around_it() {
    let collector = Collector::start().await;
    let mut agent = host(&collector).await;
    let began = mono_ns() - 3_000_000_000;
    let down = v1::Signal {
        name: "nic.link.down".into(),
        entity: Some(v1::Entity { kind: "nic".into(), name: "eth0".into() }),
        severity: v1::Severity::Critical.into(),
        observed_mono_ns: began,
        previous: Some(1.0),
        unit: "1".into(),
        summary: "nic eth0: the link went down".into(),
        ..v1::Signal::default()
    };
    agent.frame(1, v1::frame::Body::Signal(down)).await;
    let request = request(&mut agent).await;
    assert_eq!(request.series, [definition(0).id, definition(1).id]);
    assert!(request.from_mono_ns.abs_diff(began - 30_000_000_000) < 1_000_000_000, "{request:?}");
    assert!(request.to_mono_ns.abs_diff(began + 5_000_000_000) < 1_000_000_000, "{request:?}");
    let reading = Reading { at_mono_ns: began, half_width_ns: 9, bits: 42 };
    let columns = vec![pack(definition(0).id, false, [reading])];
    agent.say(Body::TapePiece(v1::TapePiece { id: request.id, columns, ..last() })).await;
    let end = std::time::Instant::now() + agent::PATIENCE;
    while get(&collector, "/v1/incidents/1").await.1["tape_kept"] != true {
        assert!(std::time::Instant::now() < end, "never kept");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (status, piece) = get(&collector, "/v1/incidents/1/tape").await;
    assert_eq!((status, &piece["host"], &piece["series"][0]["value"]), (200, &"a".into(), &serde_json::json!([42])));
    assert!(collector.metrics().await.contains("\nrailwatch_collector_tape_pieces_kept_total 1\n"));
    let (status, problem) = get(&collector, "/v1/incidents/2/tape").await;
    assert!(status == 404 && problem["detail"].as_str().unwrap().contains("no piece of tape"), "{problem}");
}
