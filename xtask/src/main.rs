//! What people run while developing: `cargo xtask --help`.

mod arm64;
mod bench;
mod daemon;
mod ebpf;
mod fakenic;
mod fuzz;
mod lab;
mod packages;
mod proto;
mod shell;
mod test;
mod up;
mod vm;
mod vocabulary;

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
    /// Build, then run a collector and an agent on this host until Ctrl-C
    Up(up::Options),
    /// Every test, with everything they need
    Test(test::Options),
    /// Measure, for docs/SPECIFICATION.md
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// The generated code of the wire protocol
    Proto {
        #[command(subcommand)]
        action: Kept,
    },
    /// The objects of the kernel half
    Ebpf {
        #[command(subcommand)]
        action: Kept,
    },
    /// What is made from the table of metrics: docs/metrics.md and the dashboards in deploy/grafana
    Vocabulary {
        #[command(subcommand)]
        action: Kept,
    },
    /// Feed a parser with anything for a while, from the kept seeds
    Fuzz(fuzz::Options),
    /// A fabric to break, in network namespaces: up, down, run, list, shell (docs/lab.md)
    #[command(disable_help_flag = true)]
    Lab(lab::Options),
    /// Everything built for arm64 and run there, under emulation
    Arm64,
    /// Run a command on another kernel (6.1 or 6.12), under emulation, with this host's userland
    Vm {
        /// The kernel series: 6.1 or 6.12
        kernel: String,
        /// Memory of the virtual machine, MiB
        #[arg(long, default_value_t = 2048)]
        memory_mib: u32,
        /// Its own time, of one processor, in which no timer is late however busy this host is
        #[arg(long)]
        exact_time: bool,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
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
        Command::Up(options) => up::up(&options),
        Command::Test(options) => test::test(&options),
        Command::Ebpf { action: Kept::Build } => ebpf::build(),
        Command::Ebpf { action: Kept::Check } => ebpf::check(),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Lab(options) => lab::lab(&options),
        Command::Arm64 => arm64::arm64(),
        Command::Bench { bench } => bench::bench(&bench),
        Command::Proto { action: Kept::Build } => proto::build(),
        Command::Proto { action: Kept::Check } => proto::check(),
        Command::Vocabulary { action: Kept::Build } => vocabulary::build(),
        Command::Vocabulary { action: Kept::Check } => vocabulary::check(),
        Command::Vm { kernel, memory_mib, exact_time, command } => {
            let fake_nic = fakenic::built(&kernel)?;
            let (perftest, verbs) = (packages::perftest()?, packages::verbs()?);
            let environment =
                [(fakenic::VARIABLE, fake_nic.as_path()), (packages::PERFTEST, &perftest), (packages::VERBS, &verbs)];
            let clock = if exact_time { vm::Clock::Exact } else { vm::Clock::Host };
            std::process::exit(vm::run(&kernel, memory_mib, clock, &command, &environment, &mut std::io::stdout())?)
        }
    }
}
