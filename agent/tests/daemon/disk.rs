//! Disks: the times of their requests, and their own health by the helper.

use crate::agent::{Agent, PROGRAM, arguments};
use crate::collector::{Site, eventually};
use std::fs;
use std::process::Command;

#[test]
fn requests_are_timed_and_the_helper_is_heard() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let home = site.dir.path();
    let socket = home.join("disk.sock");
    let arguments = arguments(&site, &collector.address);
    fs::write(home.join("agent.toml"), format!("[health]\ndisk_socket = \"{}\"\n", socket.display())).unwrap();
    let agent = Agent::spawn(&site, Command::new(PROGRAM).arg("run").args(arguments));
    let is_on =
        |source: &str| agent.page("text/plain").contains(&format!("railwatch_source_on{{source=\"{source}\"}} 1"));
    eventually("disk requests are timed (needs root and BPF)", || is_on("disk.latency"));
    assert!(!is_on("disk.smart"), "no helper yet");
    // It says that it lives though this host has no disk that could be asked.
    let mut helper =
        Command::new(PROGRAM).args(["disk-helper", "--every", "1", "--socket"]).arg(&socket).spawn().unwrap();
    eventually("the helper is heard", || is_on("disk.smart"));
    helper.kill().unwrap();
    helper.wait().unwrap();
    eventually("its silence is noticed", || !is_on("disk.smart"));
    agent.end();
}

#[test]
fn an_agent_told_not_to_times_none() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let mut command = Command::new(PROGRAM);
    command.arg("run").args(arguments(&site, &collector.address));
    fs::write(site.dir.path().join("agent.toml"), "[disk]\nenabled = false\n").unwrap();
    let agent = Agent::spawn(&site, &mut command);
    eventually("the page is there", || agent.page("text/plain").contains("railwatch_source_on"));
    assert!(!agent.page("text/plain").contains(r#"source="disk.latency""#));
    agent.end();
}
