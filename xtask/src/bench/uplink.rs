//! `cargo xtask bench uplink`: a collector pinned to one core, with mTLS, store and engine on. Hosts send windows as
//! fast as it acknowledges them, then signals, each timed until the API shows its incident. Then the real agent beside
//! it, and processes whose allocation fails: from the call to the incident (root only).

use super::statistics::percentile;
use crate::{
    daemon::{self, Daemon, Listen, RunFile},
    shell::{self, Step},
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Options of `bench uplink`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// How many hosts send
    #[arg(long, default_value_t = 8)]
    hosts: u32,
    /// How long they send windows, seconds
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// How many processes fail an allocation
    #[arg(long, default_value_t = 200)]
    processes: u32,
}

/// What is measured. A sample is one series in one window, however many fields.
#[derive(Serialize)]
pub struct Figures {
    samples_per_s_per_core: f64,
    bytes_per_sample: f64,
    /// From the failing call in the kernel.
    event_to_incident_ms_p50: f64,
    event_to_incident_ms_p99: f64,
    /// From the hand-over of the signal to the uplink.
    signal_to_incident_ms_p50: f64,
    signal_to_incident_ms_p99: f64,
    samples: u64,
    events: usize,
    collector_cpu_s: f64,
    kernel: String,
}

/// What the load prints.
#[derive(Deserialize)]
struct Load {
    samples: u64,
    seconds: f64,
    bytes_per_sample: f64,
    event_to_incident_ms: Vec<f64>,
}

#[derive(Deserialize)]
struct Events {
    event_to_incident_ms: Vec<f64>,
}

/// Measures.
pub fn measure(options: &Options) -> Result<Figures> {
    let step = Step::begin("build for release");
    shell::run(Command::new("cargo").args([
        "build",
        "--release",
        "--package",
        "railwatch-collector",
        "--package",
        "railwatch-agent",
        "--package",
        "railwatch-tests",
        "--bin",
        "railwatch-collector",
        "--bin",
        "railwatch-agent",
        "--bin",
        "uplink_load",
    ]))?;
    step.done();
    let home = std::path::absolute(format!("target/bench/uplink-{}", std::process::id()))?;
    let figures = load(&home, options);
    fs::remove_dir_all(&home).ok();
    figures
}

fn load(home: &Path, options: &Options) -> Result<Figures> {
    let run_dir = home.join("run");
    fs::create_dir_all(&run_dir)?;
    let any = || "127.0.0.1:0".to_owned();
    let unpinned = daemon::collector_command(home, &run_dir, &Listen { uplink: any(), api: any(), metrics: any() })?;
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]).arg(unpinned.get_program()).args(unpinned.get_args());
    let mut collector = Daemon::start(home, "collector", &mut pinned)?;
    let run = collector.wait_for(|| false, || RunFile::read(&run_dir))?.context("the collector listens")?;
    for index in 0..options.hosts {
        let host = format!("load{index}");
        daemon::issue(home, &host, &home.join("hosts").join(&host))?;
    }
    let step = Step::begin(&format!("send windows of {} hosts for {} s, then signals", options.hosts, options.seconds));
    let begun = collector.cpu_seconds()?;
    let load = || -> Result<Command> {
        let mut load = Command::new("taskset");
        load.args(["-c", "1"])
            .arg(daemon::program("uplink_load")?)
            .args(["--uplink", &run.uplink, "--api", &run.api])
            .arg("--token-file")
            .arg(home.join("collector/token-read"))
            .arg("--pki")
            .arg(home.join("hosts"));
        Ok(load)
    };
    let text = shell::output(load()?.args(["--seconds", &options.seconds.to_string()]))?;
    let collector_cpu_s = collector.cpu_seconds()? - begun;
    let sent: Load = serde_json::from_str(&text)?;
    step.done();

    let step = Step::begin(&format!("fail an allocation in each of {} processes", options.processes));
    let pki = home.join("agent-pki");
    daemon::issue(home, "bench", &pki)?;
    let mut agent = Daemon::start(
        home,
        "agent",
        Command::new(daemon::program("railwatch-agent")?)
            .args(["run", "--no-pin", "--host-name", "bench", "--metrics-listen", "127.0.0.1:0"])
            .args(["--collector", &run.uplink])
            .arg("--state-dir")
            .arg(home.join("agent"))
            .arg("--pki-dir")
            .arg(&pki),
    )?;
    let ready = "connected to the collector";
    let log = agent.log().to_owned();
    agent.wait_for(|| false, || fs::read_to_string(&log).ok()?.contains(ready).then_some(()))?;
    let text = shell::output(load()?.args(["--processes", &options.processes.to_string()]))?;
    let events: Events = serde_json::from_str(&text)?;
    step.done();
    Ok(Figures {
        samples_per_s_per_core: sent.samples as f64 / sent.seconds,
        bytes_per_sample: sent.bytes_per_sample,
        event_to_incident_ms_p50: percentile(&events.event_to_incident_ms, 0.5),
        event_to_incident_ms_p99: percentile(&events.event_to_incident_ms, 0.99),
        signal_to_incident_ms_p50: percentile(&sent.event_to_incident_ms, 0.5),
        signal_to_incident_ms_p99: percentile(&sent.event_to_incident_ms, 0.99),
        samples: sent.samples,
        events: events.event_to_incident_ms.len(),
        collector_cpu_s,
        kernel: daemon::kernel_release()?,
    })
}
