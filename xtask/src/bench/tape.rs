//! `cargo xtask bench tape`: what a reading costs on the tape, beside `pco`, on shapes of NIC counters. The measuring is
//! `agent/tape/examples/shapes.rs`; it needs no running agent.

use super::example;
use anyhow::Result;
use std::path::PathBuf;

/// Options of `bench tape`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Measures.
pub fn measure() -> Result<serde_json::Value> {
    example("railwatch-tape", "shapes")
}
