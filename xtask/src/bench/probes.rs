//! `cargo xtask bench probes`: what planned probes and their answers cost, beside a ping and the floor of the same emulated fabric. The measuring
//! is `agent/probe/examples/cost.rs`; it needs root and iproute2, and makes namespaces that end with it.

use super::example;
use anyhow::Result;
use std::path::PathBuf;

/// Options of `bench probes`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Measures.
pub fn measure() -> Result<serde_json::Value> {
    example("railwatch-probe", "cost")
}
