//! A configuration read again while the agent runs.

use crate::agent::{Agent, PROGRAM};
use crate::collector::{Site, eventually};
use std::fs;
use std::process::Command;

/// No GPU room and no health: these tests are about the file.
const QUIET: &str = "[health]\nenabled = false\n[gpu]\nenabled = false\n";

#[test]
fn a_good_file_is_taken_and_a_bad_one_is_refused_with_the_old_kept() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let file = site.dir.path().join("own.toml");
    let path = file.display().to_string();
    fs::write(&file, QUIET).unwrap();
    // The last --config would be refused twice: the file takes its place.
    let mut agent = {
        let mut arguments = crate::agent::arguments(&site, &collector.address);
        arguments[1].clone_from(&path);
        Agent::spawn(&site, Command::new(PROGRAM).arg("run").args(arguments))
    };
    let cadence = |agent: &Agent| agent.metric("railwatch_source_cadence_seconds{source=\"netdev\"}");
    let before = cadence(&agent).unwrap();

    fs::write(&file, format!("{QUIET}scope = \"netns\"\n[sampling]\ncadence_ms = {{ netdev = 777 }}\n")).unwrap();
    agent.signal("HUP");
    eventually("the new cadence is in force", || cadence(&agent) == Some(0.777));
    assert_ne!(before, 0.777);
    let log = agent.log();
    assert!(log.contains("gpu.scope") && log.contains("after a restart"), "what waits is said: {log}");
    assert_eq!(agent.metric("railwatch_agent_reloads_total{result=\"taken\"}"), Some(1.0));

    fs::write(&file, "[sampling]\ncadence_ms = { netdev = 20 }\nseries_mux = 5\n").unwrap();
    agent.signal("HUP");
    eventually("the refusal is counted", || {
        agent.metric("railwatch_agent_reloads_total{result=\"refused\"}") == Some(1.0)
    });
    assert_eq!(cadence(&agent), Some(0.777), "nothing of a bad file is taken");
    let log = agent.log();
    assert!(log.contains(&format!("{path}:3:1: unknown field `series_mux`")), "line and field are named: {log}");
    assert!(agent.runs());
    agent.end();
}

#[test]
fn check_config_says_where_a_file_is_wrong_and_a_start_with_it_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (text, status, said) in
        [("log = \"warn\"\n", 0, "is good"), ("[gpu]\nscop = \"none\"\n", 78, ":2:1: unknown field `scop`")]
    {
        fs::write(file.path(), text).unwrap();
        let output = Command::new(PROGRAM).args(["check-config", "--config"]).arg(file.path()).output().unwrap();
        let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{words}");
        assert!(words.contains(said), "{words}");
    }
    let output = Command::new(PROGRAM).args(["run", "--config"]).arg(file.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "EX_CONFIG: a restart would not help");
}

#[test]
fn an_agent_can_be_pointed_at_another_collector_without_a_restart() {
    let site = Site::new();
    let file = site.dir.path().join("own.toml");
    let first = site.listen("127.0.0.1:0");
    let second = Site::new();
    let mut arguments = crate::agent::arguments(&site, &first.address);
    arguments[1] = file.display().to_string();
    // The address comes from the file this time.
    let at = arguments.iter().position(|argument| argument == "--collector").unwrap();
    arguments.drain(at..at + 2);
    fs::write(&file, format!("collector = \"{}\"\n{QUIET}", first.address)).unwrap();
    let agent = Agent::spawn(&site, Command::new(PROGRAM).arg("run").args(arguments));
    eventually("the first collector knows it", || site.stored(|stored| !stored.hellos.is_empty()));

    // The same certificates, another store.
    for name in ["ca.pem", "collector.pem", "collector.key"] {
        fs::copy(site.dir.path().join(name), second.dir.path().join(name)).unwrap();
    }
    let other = second.listen("127.0.0.1:0");
    fs::write(&file, format!("collector = \"{}\"\n{QUIET}", other.address)).unwrap();
    agent.signal("HUP");
    eventually("the second collector knows it", || second.stored(|stored| !stored.hellos.is_empty()));
    agent.end();
}
