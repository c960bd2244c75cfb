//! `cargo xtask bench planner`: the planner of probes. The measuring is `collector/engine/examples/planner.rs`; it needs no fabric.

use super::example;
use anyhow::Result;
use std::path::PathBuf;

/// Options of `bench planner`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Measures.
pub fn measure() -> Result<serde_json::Value> {
    example("railwatch-engine", "planner")
}
