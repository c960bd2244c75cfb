//! The gNMI server of one of the lab's switches: see [`railwatch_lab::switch`].

use anyhow::Result;
use clap::Parser;
use railwatch_lab::switch::{Options, serve};

/// Says by gNMI what one switch is
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    serve(&Arguments::parse().options)
}
