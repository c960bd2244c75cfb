//! The page, as Prometheus and its linter read it.

use crate::agent::Agent;
use crate::collector::{Site, eventually};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[test]
fn the_older_text_format_passes_promtool_and_open_metrics_ends_with_its_mark() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let arguments = crate::agent::arguments(&site, &collector.address);
    // With the host's health: whatever it has, its pressure and its processors' interrupts are there.
    std::fs::write(site.dir.path().join("agent.toml"), "").unwrap();
    let agent = Agent::spawn(&site, Command::new(crate::agent::PROGRAM).arg("run").args(arguments));
    eventually("series of a NIC and of the host are on the page", || {
        let page = agent.page("text/plain");
        ["railwatch_hw_network_io_bytes_total{", "railwatch_host_pressure_cpu_some_seconds_total{"]
            .iter()
            .all(|series| page.contains(series))
    });
    let page = agent.page("text/plain");
    let folder = std::env::var_os("RAILWATCH_PROMETHEUS_BIN").map(PathBuf::from);
    let folder = folder.expect("run this through `cargo xtask test crates`: it fetches promtool");
    let mut promtool = Command::new(folder.join("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && words.trim().is_empty(), "{words}\n{page}");
    let page = agent.page("application/openmetrics-text; version=1.0.0");
    assert!(page.contains("# TYPE railwatch_agent_cpu_seconds counter") && page.ends_with("# EOF\n"), "{page}");
    agent.end();
}

#[test]
fn a_taken_port_costs_the_page_and_not_the_agent() {
    let site = Site::new();
    let collector = site.listen("127.0.0.1:0");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut arguments = crate::agent::arguments(&site, &collector.address);
    let at = arguments.iter().position(|argument| argument == "--metrics-listen").unwrap();
    arguments[at + 1] = taken.local_addr().unwrap().to_string();
    let agent = Agent::spawn_only(&site, Command::new(crate::agent::PROGRAM).arg("run").args(arguments));
    eventually("windows arrive", || site.stored(|stored| !stored.frames.is_empty()));
    assert!(agent.log().contains("set metrics_listen to another address"), "{}", agent.log());
    agent.end();
}
