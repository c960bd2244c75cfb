//! The command as people and scripts run it: the real binary against a collector's double on loopback.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch::locate::Surroundings;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TOKEN: &str = "token-nobody-may-ever-see";

/// Answers each request with what its function says, and remembers what was asked.
struct Double {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

type Reply = (u16, &'static str, String);

impl Double {
    fn start(answer: impl Fn(&str, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for (count, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                let request = read_request(&mut stream);
                let (status, kind, body) = answer(request.lines().next().unwrap_or(""), count);
                log.lock().unwrap().push(request);
                let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n{body}");
                let _ = stream.write_all(head.as_bytes());
            }
        });
        Self { address, asked }
    }

    fn json(status: u16, body: Value) -> Self {
        let kind = if status < 400 { "application/json" } else { "application/problem+json" };
        Self::start(move |_, _| (status, kind, body.to_string()))
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    while reader.read_line(&mut text).unwrap_or(0) > 2 {}
    let length =
        text.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    text + &String::from_utf8_lossy(&body)
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_railwatch"));
    for name in ["RAILWATCH_COLLECTOR", "RAILWATCH_TOKEN", "RAILWATCH_TOKEN_FILE", "XDG_RUNTIME_DIR", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

fn run(url: &str, args: &[&str]) -> Output {
    command().args(args).env("RAILWATCH_COLLECTOR", url).env("RAILWATCH_TOKEN", TOKEN).output().unwrap()
}

fn body(request: &str) -> Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn problem(status: u16, detail: &str) -> Value {
    json!({"type": "urn:railwatch:problem:x", "title": "x", "status": status, "detail": detail})
}

#[test]
fn every_failure_has_its_exit_status_and_says_what_where_and_what_next() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let double = |status: u16| Double::json(status, problem(status, "because of this"));
    let html = Double::start(|_, _| (200, "text/html", "<html>".into()));
    let not_http = Double::start(|_, _| (200, "text/plain\u{0}\n\n", "SSH-2.0".into()));
    let foreign = Double::start(|_, _| (404, "text/html", "<html>nginx</html>".into()));
    let (d401, d403, d404, d409, d422, d500, d503) =
        (double(401), double(403), double(404), double(409), double(422), double(500), double(503));
    let lacking = Double::json(200, json!([{"host": "h"}]));
    let object = Double::json(200, json!({}));
    for (name, url, args, status, words) in [
        ("no such command", "http://127.0.0.1:1".to_owned(), &["frobnicate"][..], 2, "unrecognized subcommand"),
        ("bad format", "http://127.0.0.1:1".into(), &["hosts", "-o", "xml"], 2, "invalid value"),
        ("bad URL", "127.0.0.1:1".into(), &["hosts"], 2, "RAILWATCH_COLLECTOR"),
        ("https without authority", "https://127.0.0.1:1".into(), &["hosts"], 2, "--ca-file"),
        ("nobody listens", format!("http://{nobody}"), &["hosts"], 3, "Connection refused"),
        (
            "no answer",
            format!("http://{}", silent.local_addr().unwrap()),
            &["hosts", "--timeout", "200ms"],
            3,
            "no answer within 0.2 s",
        ),
        ("no such host", "http://no-such-host.invalid:1".into(), &["hosts"], 3, "no-such-host.invalid"),
        ("unknown token", d401.url(), &["hosts"], 4, "because of this"),
        ("role", d403.url(), &["approve", "1"], 4, "because of this"),
        ("unknown incident", d404.url(), &["incidents", "7"], 5, "because of this"),
        ("not proposed", d409.url(), &["reject", "7"], 6, "because of this"),
        ("bad note", d422.url(), &["approve", "7", "--note", "x"], 6, "because of this"),
        ("broken collector", d500.url(), &["hosts"], 7, "because of this"),
        ("busy collector", d503.url(), &["hosts"], 3, "because of this"),
        ("a web page", html.url(), &["hosts"], 7, "not JSON"),
        ("not HTTP", not_http.url(), &["hosts"], 7, "hosts"),
        ("somebody else's 404", foreign.url(), &["incidents", "1"], 7, "404"),
        ("a field is missing", lacking.url(), &["gpu", "processes", "-o", "json"], 7, "pid"),
        ("not an array", object.url(), &["hosts"], 7, "not an array"),
    ] {
        let output = run(&url, args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{name}: {stderr}");
        assert!(stderr.contains(words), "{name}: {stderr}");
        assert!(output.stdout.is_empty(), "{name}: failures do not go to standard output");
        assert!(!stderr.contains(TOKEN), "{name}: {stderr}");
        // What clap says of a command line ends with its own hint, and a refusal carries the collector's.
        if status != 2 && status != 6 {
            assert!(stderr.contains("next: "), "{name}: {stderr}");
        }
    }
}

#[test]
fn without_a_token_nothing_is_sent() {
    let double = Double::json(200, json!([]));
    let output = command().args(["hosts", "--collector", &double.url()]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("--token-file"));
    assert!(double.asked().is_empty());
}

fn gpu_row() -> Value {
    json!({"host": "h1", "pid": 4242, "comm": "python3", "container": null, "device": 0, "device_unknown_reason": null,
           "layer": "runtime", "api": "cuda", "allocated_bytes": 85_899_345_920_u64, "peak_bytes": 85_899_345_921_u64,
           "allocs": 12, "frees": 3, "failed_allocs": 1, "incomplete_since": null, "incomplete_reason": null, "exited": false})
}

#[test]
fn a_host_that_is_not_heard_is_shown_as_its_kernel_and_its_stream_say() {
    for (connected, kernel_last_seen_ms, state) in [
        (true, None, "connected"),
        (true, Some(900), "stalled"),
        (true, Some(2_600), "unreachable"),
        (false, None, "silent"),
    ] {
        let row = json!({"host": "h1", "boot_id": "b", "last_seen_ms": 5_000, "clock_offset_us": null,
                         "clock_uncertainty_us": null, "seen": 1, "delivered": 1, "dropped": 0, "connected": connected,
                         "kernel_last_seen_ms": kernel_last_seen_ms, "agent_version": "", "limitations": []});
        let double = Double::json(200, json!([row]));
        let output = text(&run(&double.url(), &["hosts"]).stdout);
        assert!(output.lines().any(|line| line.split_whitespace().nth(1) == Some(state)), "{state}: {output}");
    }
}

#[test]
fn json_has_exactly_the_promised_fields_in_their_order_and_full_has_all() {
    let host = json!({"host": "h1", "boot_id": "b", "last_seen_ms": 85, "clock_offset_us": -3, "clock_uncertainty_us": 40,
                      "seen": 10, "delivered": 9, "dropped": 1, "connected": true, "agent_version": "0.1.0", "limitations": []});
    let coverage = json!({"host": "h1", "pid": 1, "comm": "a", "object": "/a", "status": "unattachable", "reason": "stripped", "later": 1});
    for (args, row, fields) in [
        (
            &["hosts"][..],
            host,
            &[
                "host",
                "boot_id",
                "last_seen_ms",
                "clock_offset_us",
                "clock_uncertainty_us",
                "seen",
                "delivered",
                "dropped",
            ][..],
        ),
        (
            &["gpu", "processes"],
            gpu_row(),
            &[
                "host",
                "pid",
                "comm",
                "container",
                "device",
                "layer",
                "allocated_bytes",
                "peak_bytes",
                "allocs",
                "frees",
                "failed_allocs",
                "incomplete_since",
            ],
        ),
        (&["gpu", "coverage"], coverage, &["host", "pid", "comm", "object", "status", "reason"]),
    ] {
        let double = Double::json(200, json!([row]));
        let output = text(&run(&double.url(), &[args, &["-o", "json"]].concat()).stdout);
        let rows: Vec<serde_json::Map<String, Value>> = serde_json::from_str(&output).unwrap();
        let places: Vec<_> = fields.iter().map(|field| output.find(&format!("\"{field}\":")).unwrap()).collect();
        assert!(places.is_sorted(), "{output}");
        assert_eq!(rows[0].len(), fields.len(), "{output}");
        for field in fields {
            assert_eq!(rows[0][*field], row[*field], "{field}");
        }
        let full = text(&run(&double.url(), &[args, &["-o", "json", "--full"]].concat()).stdout);
        assert_eq!(serde_json::from_str::<Value>(&full).unwrap(), json!([row]));
        let yaml = text(&run(&double.url(), &[args, &["-o", "yaml"]].concat()).stdout);
        assert!(yaml.starts_with("- host: h1\n"), "{yaml}");
        let asked = double.asked();
        assert!(asked[0].contains(&format!("authorization: Bearer {TOKEN}")), "{}", asked[0]);
    }
    let empty = Double::json(200, json!([]));
    assert_eq!(text(&run(&empty.url(), &["hosts", "-o", "json"]).stdout), "[]\n");
    run(&empty.url(), &["nic", "--host", "h 1&x"]);
    assert!(empty.asked()[1].starts_with("GET /v1/nic?host=h%201%26x "), "{}", empty.asked()[1]);
    run(&empty.url(), &["drops", "--host", "h1"]);
    assert!(empty.asked()[2].starts_with("GET /v1/drops?host=h1 "), "{}", empty.asked()[2]);
    for (at, listing) in (3..).zip(["neighbours", "queue-pairs", "flows"]) {
        run(&empty.url(), &[listing, "--host", "h1"]);
        let asked = &empty.asked()[at];
        assert!(asked.starts_with(&format!("GET /v1/{listing}?host=h1 ")), "{asked}");
    }
}

#[test]
fn peers_are_shown_with_what_is_known_of_them_and_a_dash_for_the_rest() {
    let neighbour = json!({
        "host": "h1", "interface": "eth0", "system_name": "leaf1", "port_id": "swp12", "port_description": null,
        "chassis_id": "02:00:00:00:00:01", "management_addresses": ["10.0.0.1", "2001:db8::1"], "ttl_s": 120,
        "first_heard": "2026-11-25T20:00:00Z", "last_heard": "2026-11-25T20:00:30Z",
    });
    let pair = json!({
        "host": "h1", "device": "mlx5_0", "port": 1, "number": 297, "remote_number": 301, "type": "RC", "state": "RTS",
        "pid": 4711, "comm": "python3", "source": "10.0.0.1", "source_port": 40000, "destination": "fe80::2",
        "destination_port": 4791,
    });
    let of_the_kernel = json!({
        "host": "h1", "device": "mlx5_0", "port": null, "number": 1, "remote_number": null, "type": "GSI", "state": "RTS",
        "pid": null, "comm": "ib_core", "source": null, "source_port": null, "destination": null, "destination_port": null,
    });
    let flow = json!({
        "host": "h1", "pid": 4711, "comm": "python3", "protocol": "tcp", "source": "10.0.0.1", "source_port": 40000,
        "destination": "10.0.0.2", "destination_port": 29500, "interface": "eth0", "state": "established",
        "sent_bytes": 2048, "received_bytes": 12, "retransmits": 3, "rtt_ns": 85_000,
    });
    let mut elsewhere = flow.clone();
    for field in ["interface", "sent_bytes", "received_bytes", "retransmits", "rtt_ns"] {
        elsewhere[field] = Value::Null;
    }
    for (listing, rows, expected) in [
        (
            "neighbours",
            json!([neighbour]),
            "\
HOST  INTERFACE  SYSTEM  PORT   PORT DESCRIPTION  CHASSIS            ADDRESSES             SINCE
h1    eth0       leaf1   swp12  -                 02:00:00:00:00:01  10.0.0.1 2001:db8::1  2026-11-25T20:00:00Z
",
        ),
        (
            "queue-pairs",
            json!([pair, of_the_kernel]),
            "\
HOST  DEVICE  PORT  NUMBER  REMOTE  TYPE  STATE   PID  COMM     FROM            TO
h1    mlx5_0     1     297     301  RC    RTS    4711  python3  10.0.0.1:40000  [fe80::2]:4791
h1    mlx5_0     -       1       -  GSI   RTS       -  ib_core  -               -
",
        ),
        (
            "flows",
            json!([flow, elsewhere]),
            "\
HOST   PID  COMM     FROM            TO              INTERFACE  STATE         SENT  RECEIVED  RETRANSMITS    RTT
h1    4711  python3  10.0.0.1:40000  10.0.0.2:29500  eth0       established  2 KiB      12 B            3  85 us
h1    4711  python3  10.0.0.1:40000  10.0.0.2:29500  -          established      -         -            -      -
",
        ),
    ] {
        let double = Double::json(200, rows.clone());
        assert_eq!(text(&run(&double.url(), &[listing]).stdout), expected);
        let shown = text(&run(&double.url(), &[listing, "-o", "json"]).stdout);
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), rows);
    }
}

#[test]
fn drops_are_shown_with_both_ends_and_what_is_in_no_flow_apart() {
    let flow = json!({
        "host": "h1", "reason": "NO_SOCKET", "class": "loss", "interface": "eth0", "network_namespace": 4_026_531_840_u64,
        "protocol": "udp", "source": "fe80::1", "source_port": 40000, "destination": "10.0.0.2", "destination_port": 4791,
        "packets": 12, "bytes": 2048, "first_seen": "2026-11-25T20:00:00Z", "last_seen": "2026-11-25T20:00:01Z",
    });
    let mut rest = json!({"host": "h1", "reason": "OTHERHOST", "class": "harmless", "interface": "none", "packets": 3, "bytes": 180});
    for field in ["protocol", "source", "source_port", "destination", "destination_port", "first_seen", "last_seen"] {
        rest[field] = Value::Null;
    }
    let double = Double::json(200, json!([flow, rest]));
    let expected = "\
HOST  REASON     CLASS     INTERFACE  PACKETS  BYTES  PROTOCOL  FROM               TO             LAST SEEN
h1    NO_SOCKET  loss      eth0            12  2 KiB  udp       [fe80::1]:40000    10.0.0.2:4791  2026-11-25T20:00:01Z
h1    OTHERHOST  harmless  none             3  180 B  -         in no flow listed  -              -
";
    assert_eq!(text(&run(&double.url(), &["drops"]).stdout), expected);
    let shown = text(&run(&double.url(), &["drops", "-o", "json"]).stdout);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), json!([flow, rest]));
}

#[test]
fn tables_are_for_people_and_the_same_in_a_pipe() {
    let mut second = gpu_row();
    second["incomplete_since"] = json!("2026-11-22T08:00:00Z");
    second["incomplete_reason"] = json!("attached late");
    second["container"] = json!("0123456789abcdef0123456789abcdef");
    second["device"] = Value::Null;
    let double = Double::json(200, json!([gpu_row(), second]));
    let output = run(&double.url(), &["gpu", "processes"]);
    let expected = "\
HOST   PID  COMM     CONTAINER     DEVICE  LAYER    ALLOCATED     PEAK  ALLOCS  FREES  FAILED  FIGURES
h1    4242  python3  -                  0  runtime     80 GiB  80.0 GiB      12      3       1  exact
h1    4242  python3  0123456789ab       ?  runtime     80 GiB  80.0 GiB      12      3       1  incomplete since 2026-11-22T08:00:00Z: attached late
";
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeeze(&text(&output.stdout)), squeeze(expected));
    let lines = text(&output.stdout);
    let ends: Vec<_> = lines.lines().map(|line| line.find("  runtime").or(line.find("  LAYER")).unwrap()).collect();
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "columns line up: {lines}");
    let empty = Double::json(200, json!([]));
    assert!(text(&run(&empty.url(), &["hosts"]).stdout).starts_with("No host has connected yet."));
}

#[test]
fn a_port_shows_its_pause_by_priority_and_nothing_where_nothing_moved() {
    let pause = |priority: Value, kind: &str, frames: Value, time: Value| json!({"priority": priority, "direction": "receive", "kind": kind, "frames_per_s": frames, "time_percent": time});
    let moved = json!([
        pause(json!(3), "pfc", json!(700.0), json!(41.04)),
        pause(json!(4), "pfc", json!(0.0), json!(0.0)),
        pause(Value::Null, "802.3x", json!(12.4), Value::Null),
    ]);
    let port = |name: &str, pause: Value| {
        json!({"host": "h1", "port": name, "kind": "netdev", "state": "up", "driver": "mlx5_core",
               "speed_bits_per_s": 400_000_000_000_u64, "netdev": null, "window_end": null, "series": [], "errors": null,
               "pfc_priorities": [3], "pause": pause, "fec": null})
    };
    let double = Double::json(200, json!([port("eth0", moved), port("eth1", json!([]))]));
    let lines = text(&run(&double.url(), &["nic"]).stdout);
    let lines: Vec<_> = lines.lines().collect();
    assert!(lines[0].contains("PAUSED"), "{lines:?}");
    assert!(lines[1].contains("prio 3 receive 41.0 %, 802.3x receive 12/s"), "{lines:?}");
    assert!(!lines[2].contains("receive"), "{lines:?}");
    let rows: Value = serde_json::from_str(&text(&run(&double.url(), &["nic", "-o", "json"]).stdout)).unwrap();
    assert_eq!((&rows[0]["pfc_priorities"], &rows[0]["pause"][0]["priority"]), (&json!([3]), &json!(3)));
    assert_eq!(rows[1]["fec"], Value::Null);
}

#[test]
fn optical_modules_are_one_line_each_and_what_is_wrong_stands_at_its_end() {
    let lane =
        |lane: u8, rx: Value, dark: bool| json!({"lane": lane, "tx_power_mw": 0.8, "rx_power_mw": rx, "rx_los": dark});
    let row = json!({
        "host": "h1", "interface": "eth0", "standard": "CMIS", "vendor": "RAILWATCH", "part_number": "RW-1", "serial": "S1",
        "date_code": "260118", "state": "ready", "temperature_c": 42.25, "lanes": [lane(1, json!(0.5), false), lane(2, json!(0.0001), true)],
        "problems": ["page 02 is missing"],
    });
    let double = Double::json(200, json!([row]));
    let shown = text(&run(&double.url(), &["optics", "--host", "h1"]).stdout);
    for words in ["CMIS", "S1", "42.2 °C", "0.8000", "0.0001", "no light: 2; page 02 is missing"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(double.asked()[0].starts_with("GET /v1/optics?host=h1 "));
    let rows: Value = serde_json::from_slice(&run(&double.url(), &["optics", "-o", "json"]).stdout).unwrap();
    assert_eq!(rows, json!([row]));
}

fn decision() -> Value {
    let element = json!({"host": "h1", "kind": "nic", "name": "eth0"});
    json!({"id": 2, "incident": 3, "action": "cordon_node", "target": element, "state": "proposed",
           "alternatives": [{"action": "observe", "expected_cost_gpu_s": 28800.0, "reason": "nothing is lost by waiting"},
                            {"action": "cordon_node", "expected_cost_gpu_s": 4800.4, "reason": "cheapest that cures"}],
           "guards": [{"name": "mode", "passed": false, "reason": "a person must approve"},
                      {"name": "posterior", "passed": true, "reason": "0.97 is at least 0.90"}],
           "proposed": 1_795_335_878_000_000_000_u64, "updated": 1_795_335_878_000_000_000_u64, "orders": 0, "actor": null, "outcome": null})
}

#[test]
fn an_incident_in_full_shows_evidence_alternatives_and_guards() {
    let element = json!({"host": "h1", "kind": "nic", "name": "eth0"});
    let incident = json!({
        "id": 3, "detector": "link", "title": "h1: nic eth0 is down", "severity": "error", "state": "open", "element": element,
        "started": 1_795_335_878_000_000_000_u64, "opened": 1_795_335_878_100_000_000_u64, "updated": 1_795_335_878_100_000_000_u64,
        "resolved": null, "signal_count": 1, "late": false, "incomplete_since": null,
        "hypotheses": [{"fault_mode": "link_down", "element": element, "posterior": 0.97,
                        "evidence_for": ["the link went down once"], "evidence_against": ["its peer port is up"]}],
        "decisions": [decision()],
        "signals": [{"name": "nic.link.down", "severity": "error", "element": element, "observed": 1_795_335_878_000_000_000_u64, "summary": "carrier\u{1b}[31m lost"}],
    });
    let double = Double::json(200, incident.clone());
    let shown = text(&run(&double.url(), &["incidents", "3"]).stdout);
    for line in [
        "Incident 3: h1: nic eth0 is down",
        "0.97  link_down on h1 nic eth0",
        "  + the link went down once",
        "  - its peer port is up",
        "Decision 2: cordon_node on h1 nic eth0",
        "    cordon_node                         4800  cheapest that cures",
        "    mode       HOLDS BACK  a person must approve",
        "  railwatch approve 2    or    railwatch reject 2",
    ] {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'), "no escape from a host reaches the terminal");
    let json = text(&run(&double.url(), &["incidents", "3", "-o", "json"]).stdout);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), incident);
    let list = Double::json(200, json!([incident]));
    let shown = text(&run(&list.url(), &["incidents", "--state", "open"]).stdout);
    assert!(shown.contains("h1 nic eth0") && shown.contains("link_down (0.97)") && shown.contains(" ago"), "{shown}");
    assert!(list.asked()[0].starts_with("GET /v1/incidents?limit=100&state=open "), "{}", list.asked()[0]);
}

#[test]
fn a_verdict_is_sent_with_its_note_and_its_outcome_shown() {
    let mut ordered = decision();
    ordered["state"] = json!("ordered");
    ordered["actor"] = json!("ann");
    let double = Double::json(200, ordered);
    let output = run(&double.url(), &["approve", "2", "--note", "cable replaced"]);
    assert!(output.status.success());
    assert!(
        text(&output.stdout).contains("ordered") && text(&output.stdout).contains("ann"),
        "{}",
        text(&output.stdout)
    );
    let asked = &double.asked()[0];
    assert!(asked.starts_with("POST /v1/decisions/2/verdict "), "{asked}");
    assert_eq!(body(asked), json!({"approve": true, "note": "cable replaced"}));
}

#[test]
fn watch_prints_a_line_per_change_resumes_after_a_cut_and_ends_in_time_with_0() {
    let event =
        |n: u32| format!("id: 1-{n}\nevent: host\ndata: {{\"change\":\"host_connected\",\"host\":\"h{n}\"}}\n\n");
    let double = Double::start(move |_, count| {
        let start = "id: 1-0\nevent: start\ndata: {\"resumed\":false}\n\n";
        let n = count as u32 * 2 + 1;
        (200, "text/event-stream", format!("{start}: still here\n\n{}{}id: 1-99\nevent: torn", event(n), event(n + 1)))
    });
    let began = Instant::now();
    let output = run(&double.url(), &["watch", "-o", "json", "--for", "1500ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(began.elapsed() >= Duration::from_millis(1500));
    let stdout = text(&output.stdout);
    let hosts: Vec<_> =
        stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["data"]["host"].clone()).collect();
    assert!(hosts.len() >= 4, "{stdout}");
    assert_eq!(hosts[..4], ["h1", "h2", "h3", "h4"]);
    let asked = double.asked();
    assert!(!asked[0].contains("last-event-id") && asked[1].contains("last-event-id: 1-2\r\n"), "{asked:?}");
    assert!(text(&output.stderr).contains("reconnecting"), "{}", text(&output.stderr));
}

#[test]
fn watch_ends_with_0_on_an_interrupt_and_fails_at_once_where_it_may_not_watch() {
    let double = Double::start(|_, _| {
        std::thread::sleep(Duration::from_secs(1));
        (200, "text/event-stream", String::new())
    });
    let mut child = command()
        .args(["watch", "--collector", &double.url()])
        .env("RAILWATCH_TOKEN", TOKEN)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("watching"), "{line}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let forbidden = Double::json(401, problem(401, "unknown token"));
    assert_eq!(run(&forbidden.url(), &["watch"]).status.code(), Some(4));
}

#[test]
fn halt_works_with_the_collector_down_and_says_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let dir_text = dir.path().to_str().unwrap();
    let nobody = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let halted = run(&nobody, &["halt", "--reason", "wrong isolation", "--state-dir", dir_text]);
    assert_eq!(halted.status.code(), Some(0), "{}", text(&halted.stderr));
    assert!(text(&halted.stdout).contains(&format!("wrote {dir_text}/HALT")), "{}", text(&halted.stdout));
    assert!(text(&halted.stderr).contains("the collector was not told"), "{}", text(&halted.stderr));
    let halt: Value = serde_json::from_slice(&std::fs::read(dir.path().join("HALT")).unwrap()).unwrap();
    assert!(halt["reason"].as_str().unwrap().starts_with("wrong isolation") && halt["actor"].is_string(), "{halt}");
    let again = run(&nobody, &["halt", "--state-dir", dir_text]);
    assert_eq!(again.status.code(), Some(0), "halting what is halted is no failure");
    let resumed = run(&nobody, &["resume", "--state-dir", dir_text]);
    assert_eq!(resumed.status.code(), Some(0), "{}", text(&resumed.stderr));
    assert!(!dir.path().join("HALT").exists());

    let nowhere = run(&nobody, &["halt", "--state-dir", "/nonexistent/railwatch"]);
    assert_eq!(nowhere.status.code(), Some(5), "{}", text(&nowhere.stderr));
    let up = Double::json(200, json!({"halted": true, "actor": "ann", "reason": "x"}));
    let halted = run(&up.url(), &["halt", "--reason", "x", "--state-dir", dir_text]);
    assert!(halted.status.success() && Path::new(dir_text).join("HALT").exists());
    assert_eq!(body(&up.asked()[0]), json!({"halted": true, "reason": "x"}));
    let forbidden = Double::json(403, problem(403, "role"));
    let resumed = run(&forbidden.url(), &["resume", "--state-dir", dir_text]);
    assert_eq!(resumed.status.code(), Some(4), "who may not resume through the collector does not get round it");
    assert!(Path::new(dir_text).join("HALT").exists());
}

#[test]
fn completions_are_made_for_every_shell_and_help_tells_the_exit_statuses() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef railwatch"), ("fish", "complete -c railwatch")] {
        let output = command().args(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        assert!(text(&output.stdout).contains(word) && text(&output.stdout).contains("processes"), "{shell}");
    }
    let help = text(&command().arg("--help").env("RAILWATCH_TOKEN", TOKEN).output().unwrap().stdout);
    for part in ["Exit status:", "RAILWATCH_COLLECTOR", "/run/railwatch/collector.json", "gpu", "watch", "halt"] {
        assert!(help.contains(part), "{part} in {help}");
    }
    assert!(!help.contains(TOKEN));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let rows: Vec<_> = (0..20_000).map(|_| gpu_row()).collect();
    let double = Double::json(200, json!(rows));
    let mut child = command()
        .args(["gpu", "processes", "--collector", &double.url()])
        .env("RAILWATCH_TOKEN", TOKEN)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn halt_follows_the_run_file_even_when_its_process_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, state) = (dir.path().join("collector.json"), dir.path().join("state"));
    std::fs::create_dir(&state).unwrap();
    let run_file =
        json!({"api": "http://127.0.0.1:1", "token_file": "/nonexistent", "state_dir": state, "pid": 2_000_000_000});
    std::fs::write(&path, run_file.to_string()).unwrap();
    let around = Surroundings { run_files: vec![path], ..Surroundings::default() };
    let run = |args: &[&str]| railwatch::run_in(["railwatch"].iter().chain(args).map(Into::into), &around);
    assert_eq!(run(&["hosts"]), 3, "a stale run file is no collector");
    assert_eq!(run(&["halt"]), 0);
    assert!(state.join("HALT").exists());
    assert_eq!(
        run(&["halt", "--collector", "http://10.255.255.1:1", "--timeout", "100ms"]),
        4,
        "halting one elsewhere needs a token for it"
    );
    assert_eq!(run(&["resume"]), 0);
    assert!(!state.join("HALT").exists());
}

#[test]
fn switches_are_a_line_each_and_one_of_them_is_its_ports() {
    let io = |direction: &str, per_s: f64| json!({"name": "hw.network.io", "labels": {"network.io.direction": direction}, "per_s": per_s});
    let port = |name: &str, up: bool, fabric: bool| {
        json!({
            "name": name, "up": up, "fabric": fabric, "speed_bits_per_s": 100_000_000_000_u64,
            "neighbours": [{"system_name": "host0", "port_id": "eth1"}],
            "series": [io("receive", 2048.0), {"name": "hw.network.dropped", "labels": {}, "per_s": 12.0}],
        })
    };
    let rows = json!([{
        "name": "a", "system_name": "leaf0", "address": "192.0.2.1:9339", "connected": true,
        "since": "2026-11-26T04:33:38.635Z", "limitations": [{"what": "queues", "why": "not offered"}],
        "ports": [port("Ethernet1", true, true), port("Management1", true, false)],
    }]);
    let double = Double::json(200, rows);
    let all = run(&double.url(), &["switches"]);
    let text = String::from_utf8(all.stdout).unwrap();
    for part in ["leaf0", "connected", "1/1", "12", "Ethernet1-host0:eth1", "queues"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("Management1"), "{text}");
    let one = run(&double.url(), &["switches", "leaf0"]);
    let text = String::from_utf8(one.stdout).unwrap();
    for part in ["Ethernet1", "100 Gb/s", "2 KiB", "no part of the fabric"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(double.asked()[1].starts_with("GET /v1/switches?switch=leaf0 "), "{:?}", double.asked());

    let nobody = Double::json(200, json!([]));
    let unknown = run(&nobody.url(), &["switches", "leaf9"]);
    assert_eq!(unknown.status.code(), Some(5), "{}", String::from_utf8_lossy(&unknown.stderr));
    assert_eq!(run(&nobody.url(), &["switches"]).status.code(), Some(0));
}
