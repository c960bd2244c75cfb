//! `railwatch inventory` as people run it: the real binary against a collector's double on loopback.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod collector;

use collector::{run, text};
use serde_json::{Value, json};

#[test]
fn what_holds_is_listed_by_host_entity_and_key() {
    let row = json!([{
        "host": "gpu-1", "entity_kind": "rdma", "entity": "mlx5_0", "role": "MT4129", "key": "firmware.version",
        "value": "28.39.1002", "source": "/sys", "since": 1,
    }]);
    let answer = row.clone();
    let (output, asked) =
        run(&["inventory", "--host", "gpu-1", "--entity", "mlx5*", "--key", "firmware.*"], move |_| answer.clone());
    assert_eq!(asked, ["/v1/inventory?limit=10000&host=gpu-1&entity=mlx5%2A&key=firmware.%2A"]);
    let text = text(&output);
    assert!(text.contains("rdma mlx5_0  firmware.version  28.39.1002"), "{text}");
    let (output, _) = run(&["inventory", "-o", "json"], move |_| row.clone());
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown[0]["since"], 1);
}

#[test]
fn the_history_around_an_incident_is_asked_for_by_its_beginning() {
    let arguments = ["inventory", "history", "--host", "gpu-1", "--around", "incident:17", "--span", "2s"];
    let (output, asked) = run(&arguments, |path| {
        if path.starts_with("/v1/incidents/") {
            return json!({"started": 10_000_000_000_u64});
        }
        json!([
            {"at": 1, "host": "gpu-1", "entity_kind": "host", "entity": "", "key": "kernel.release", "before": "6.1",
             "after": "6.12", "over_reboot": true, "source": "/proc"},
            {"at": 1, "host": "gpu-1", "entity_kind": "port", "entity": "eth0", "key": "mtu", "before": "9000",
             "after": null, "over_reboot": false, "source": "x"},
        ])
    });
    assert_eq!(
        asked,
        ["/v1/incidents/17", "/v1/inventory/history?limit=10000&host=gpu-1&since=9000000000&until=11000000000"]
    );
    let lines: Vec<_> =
        text(&output).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(lines[1].ends_with("gpu-1 host kernel.release 6.1 6.12 over a reboot"), "{lines:?}");
    assert!(lines[2].ends_with("gpu-1 port eth0 mtu 9000 - while running"), "{lines:?}");
}

#[test]
fn drift_shows_what_peers_have_and_how_many_of_them() {
    let (output, asked) = run(&["inventory", "drift", "--by", "job"], |_| {
        json!([{
            "host": "gpu-3", "entity_kind": "host", "entity": "", "key": "library.nccl", "value": "2.18.5",
            "expected": "2.21.5", "group": "job 17", "role": "", "peers": 8, "agree": 7, "severity": "warning",
            "meaning": "NCCL",
        }])
    });
    assert_eq!(asked, ["/v1/inventory/drift?by=job"]);
    let text = text(&output);
    let line = text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(line, "gpu-3 host library.nccl 2.18.5 2.21.5 7 of 8 job 17");
    let (output, _) = run(&["inventory", "drift"], |_| json!([]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Nothing differs"));
}
