//! Probes between two members, and what others get.

use crate::agent::{Agent, PROGRAM};
use crate::collector::{Site, eventually};
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
    let arguments = crate::agent::arguments(site, collector);
    let key = key(site.dir.path(), "probe.key", "the key of this cluster");
    let text = format!(
        "[health]\nenabled = false\n[gpu]\nenabled = false\n[drops]\nenabled = false\n\
         [probe]\nenabled = true\nlisten = \"127.0.0.1:0\"\nkey_file = \"{key}\"\n"
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
