//! What people run while developing: `cargo xtask --help`.

mod proto;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Build, run, test and measure Railwatch")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The generated code of the wire protocol
    Proto {
        #[command(subcommand)]
        action: Kept,
    },
}

/// What is kept in the repository beside its sources.
#[derive(Subcommand)]
enum Kept {
    /// Rebuild it
    Build,
    /// Fail when it is stale
    Check,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Proto { action: Kept::Build } => proto::build(),
        Command::Proto { action: Kept::Check } => proto::check(),
    }
}
