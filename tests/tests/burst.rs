//! Bursts from afar: an operator asks for one, and an incident begins one by itself; both show on the sources, on the tape
//! and in the audit.

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    gpu::Caller,
    installation::{HOST, Installation, Options, eventually},
};
use serde_json::Value;
use std::process::Command;

/// A pair of interfaces that ends with the test.
struct Pair(String);

impl Pair {
    fn make() -> Result<Self> {
        let name = format!("rwb{}", std::process::id());
        let peer = format!("{name}p");
        let made = Command::new("ip").args(["link", "add", &name, "type", "veth", "peer", "name", &peer]).status();
        ensure!(made.context("ip(8) of iproute2")?.success(), "make a pair of interfaces");
        let pair = Self(name);
        for end in [pair.0.clone(), format!("{}p", pair.0)] {
            ensure!(Command::new("ip").args(["link", "set", &end, "up"]).status()?.success(), "set {end} up");
        }
        Ok(pair)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.0]).status();
    }
}

/// The cadence in force of the source of interfaces, milliseconds.
fn cadence_ms(installation: &Installation) -> Result<Option<f64>> {
    let rows = installation.rows(&["sources"])?;
    let netdev = rows.iter().find(|row| row["source"] == "netdev" && row["status"] == "on");
    Ok(netdev.and_then(|row| row["cadence_ms"].as_f64()))
}

/// The newest line of the audit about a burst.
fn audited(installation: &Installation) -> Result<Option<Value>> {
    Ok(installation.rows(&["audit"])?.into_iter().find(|row| row["what"] == "burst"))
}

#[test]
fn a_burst_that_an_operator_asks_for_is_on_the_sources_on_the_tape_and_in_the_audit() -> Result<()> {
    let pair = Pair::make()?;
    // Without processes: what fails elsewhere on this host would be an incident, with a burst of its own.
    let agent_toml = "[sampling]\nsoftware_interfaces = [\"veth\"]\n[gpu]\nenabled = false\n".to_owned();
    let installation = Installation::start(&Options { agent_toml, ..Options::default() })?;
    let before = eventually("the source's cadence", || cadence_ms(&installation))?;
    ensure!(before >= 100.0, "no burst is on, and the source is read every {before} ms");

    let ask = |role: &str, arguments: &[&str]| installation.railwatch(role, &[&["burst"], arguments].concat());
    let refused = ask("read", &["--host", HOST])?;
    ensure!(refused.status.code() == Some(4), "a token that may only read has a burst made: {refused:?}");
    let unknown = ask("approve", &["--host", "nowhere"])?;
    ensure!(unknown.status.code() == Some(5), "there is no such host: {unknown:?}");

    let asked = ask("approve", &["--host", HOST, "--for", "20s", "--reason", "a look at eth0"])?;
    let said = String::from_utf8_lossy(&asked.stdout);
    ensure!(asked.status.success() && said.contains("20s"), "{asked:?}");
    eventually("the burst's cadence", || Ok(cadence_ms(&installation)?.filter(|ms| *ms < 10.0)))
        .with_context(|| installation.agent.log_text())?;
    let row = audited(&installation)?.context("the audit names it")?;
    ensure!(
        row["actor"] == "approve" && row["detail"].as_str().is_some_and(|detail| detail.contains("a look at eth0")),
        "{row}"
    );

    // In a second or two at the cadence before there would be two dozen.
    let series = format!("hw.network.io{{network.io.direction=receive}}@{}", pair.0);
    eventually("the burst's readings on the tape", || {
        let tape = installation
            .railwatch("read", &["tape", "--host", HOST, "--series", &series, "--span", "4s", "-o", "json"])?;
        ensure!(tape.status.success(), "{tape:?}");
        let tape: Value = serde_json::from_slice(&tape.stdout)?;
        let readings = tape["series"][0]["readings"].as_array().map_or(0, Vec::len);
        Ok((readings > 200).then_some(()))
    })
}

#[test]
fn an_incident_has_its_host_read_closely_by_itself() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    let mut program = Caller::start(&["libcudart.so"])?;
    installation.attached(program.pid())?;
    program.call("fixture_fail_next 2")?;
    ensure!(program.call("cudaMalloc &0 1073741824")? == 2, "the fixture fails as told");
    let row = eventually("the burst in the audit", || audited(&installation))
        .with_context(|| format!("{}\n{}", installation.agent.log_text(), installation.collector.log_text()))?;
    let detail = row["detail"].as_str().unwrap_or_default();
    ensure!(row["actor"] == "collector" && detail.contains(HOST) && detail.ends_with("1 of 1"), "{row}");
    ensure!(installation.agent.log_text().contains("a burst on the collector's request"));
    Ok(())
}
