//! `cargo xtask bench tape`: what a reading costs on the tape, beside `pco`, on shapes of NIC counters. The measuring is
//! `agent/tape/examples/shapes.rs`; it needs no running agent.

use anyhow::{Context, Result, ensure};
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

/// Options of `bench tape`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Measures.
pub fn measure() -> Result<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--release", "--quiet", "--package", "railwatch-tape", "--example", "shapes"])
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "the measurement failed: {}", output.status);
    serde_json::from_slice(&output.stdout).context("read what agent/tape/examples/shapes.rs printed")
}
