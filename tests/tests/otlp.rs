//! Metrics and incidents reach an OpenTelemetry receiver that is not ours: the official Python package.

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    gpu,
    installation::{HOST, Installation, Options, eventually},
};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

struct Receiver {
    process: Child,
    port: u16,
}

impl Receiver {
    fn start(output: &Path) -> Result<Self> {
        let python = std::env::var_os("RAILWATCH_PYTHON").context("run this through `cargo xtask test system`")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/otlp_receiver.py");
        let mut process = Command::new(python).arg(script).arg(output).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("the receiver speaks")?).read_line(&mut line)?;
        Ok(Self { port: line.trim().parse().context("the receiver says its port")?, process })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn received(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn metrics_and_incidents_reach_the_official_python_implementation() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("received.jsonl");
    let receiver = Receiver::start(&output)?;
    let installation = Installation::start(&Options {
        collector_toml: format!("[otlp]\nendpoint = \"http://127.0.0.1:{}\"\ninterval_s = 1\n", receiver.port),
        ..Options::default()
    })?;
    // A process whose allocation fails is an incident.
    let mut program = gpu::Caller::start(&["libcudart.so"])?;
    installation.attached(program.pid())?;
    program.call("fixture_fail_next 2")?;
    program.call("cudaMalloc &0 4096")?;

    let items = eventually("a metric of this host and the incident as a log record", || {
        let items = received(&output)?;
        let metric = items.iter().any(|item| item["kind"] == "metric" && item["resource"]["host.name"] == HOST);
        let log =
            items.iter().any(|item| item["kind"] == "log" && item.to_string().contains(&program.pid().to_string()));
        Ok((metric && log).then_some(items))
    })
    .with_context(|| installation.collector.log_text())?;
    for item in items.iter().filter(|item| item["kind"] == "metric") {
        ensure!(item["times_set"] == true, "a point without a time: {item}");
        ensure!(item["name"].as_str().is_some_and(|name| !name.is_empty()), "a metric without a name: {item}");
    }
    Ok(())
}
