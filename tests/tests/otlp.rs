//! Metrics and incidents reach an OpenTelemetry receiver that is not ours: the official Python package.

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    gpu,
    installation::{HOST, Installation, Options, eventually},
    otlp::Receiver,
};

#[test]
fn metrics_and_incidents_reach_the_official_python_implementation() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let receiver = Receiver::start(&folder.path().join("received.jsonl"))?;
    let installation =
        Installation::start(&Options { collector_toml: receiver.collector_toml(), ..Options::default() })?;
    // A process whose allocation fails is an incident.
    let mut program = gpu::Caller::start(&["libcudart.so"])?;
    installation.attached(program.pid())?;
    program.call("fixture_fail_next 2")?;
    program.call("cudaMalloc &0 4096")?;

    let items = eventually("a metric of this host and the incident as a log record", || {
        let items = receiver.received()?;
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
