//! `cargo xtask bench uplink`: a collector pinned to one core, with mTLS, store and engine on; hosts that send windows
//! as fast as it acknowledges them, then signals, each timed until the API shows its incident.

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
}

/// What is measured. A sample is one series in one window, however many fields.
#[derive(Serialize)]
pub struct Figures {
    samples_per_s_per_core: f64,
    bytes_per_sample: f64,
    event_to_incident_ms_p50: f64,
    event_to_incident_ms_p99: f64,
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

/// Measures.
pub fn measure(options: &Options) -> Result<Figures> {
    let step = Step::begin("build for release");
    shell::run(Command::new("cargo").args([
        "build",
        "--release",
        "--package",
        "railwatch-collector",
        "--package",
        "railwatch-tests",
        "--bin",
        "railwatch-collector",
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
    let text = shell::output(
        Command::new("taskset")
            .args(["-c", "1"])
            .arg(daemon::program("uplink_load")?)
            .args(["--uplink", &run.uplink, "--api", &run.api])
            .arg("--token-file")
            .arg(home.join("collector/token-read"))
            .arg("--pki")
            .arg(home.join("hosts"))
            .args(["--seconds", &options.seconds.to_string()]),
    )?;
    let collector_cpu_s = collector.cpu_seconds()? - begun;
    step.done();
    let load: Load = serde_json::from_str(&text)?;
    Ok(Figures {
        samples_per_s_per_core: load.samples as f64 / load.seconds,
        bytes_per_sample: load.bytes_per_sample,
        event_to_incident_ms_p50: percentile(&load.event_to_incident_ms, 0.5),
        event_to_incident_ms_p99: percentile(&load.event_to_incident_ms, 0.99),
        samples: load.samples,
        events: load.event_to_incident_ms.len(),
        collector_cpu_s,
        kernel: daemon::kernel_release()?,
    })
}
