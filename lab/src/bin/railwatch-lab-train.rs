//! The workload of the lab's hosts: see [`railwatch_lab::train`].

use anyhow::Result;
use clap::Parser;
use railwatch_lab::train::{Options, train};

/// Behaves like one rank of a training job
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    train(&Arguments::parse().options)
}
