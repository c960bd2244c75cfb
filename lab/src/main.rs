//! The command of the lab; `cargo xtask lab` builds what it needs and calls it.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use railwatch_lab::{
    churn,
    enter::{Session, enter},
    hardware, interrupt, keeper,
    lab::{self, Lab, Programs},
    plan::{Plan, Sizes},
    routing, run,
    scenario::{BUILT_IN, Scenario},
    series, verify,
};
use serde::Serialize;
use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A fabric to break, on one machine
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

/// Where the lab's programs are. `cargo xtask lab` sets all three.
#[derive(Args)]
struct Places {
    /// Folder of the project's own programs; this program's where absent
    #[arg(long, env = "RAILWATCH_LAB_PROGRAMS")]
    programs: Option<PathBuf>,
    /// Folder in which FRR and lldpd are unpacked
    #[arg(long, env = "RAILWATCH_LAB_ROUTING")]
    routing: PathBuf,
    /// Folder of libraries with the names of the GPU's
    #[arg(long, env = "RAILWATCH_LAB_LIBRARIES")]
    libraries: PathBuf,
}

impl Places {
    fn programs(&self) -> Result<Programs> {
        let own = match &self.programs {
            Some(programs) => programs.clone(),
            None => std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned(),
        };
        let absolute = |path: &PathBuf| fs::canonicalize(path).with_context(|| format!("find {}", path.display()));
        Ok(Programs { own: absolute(&own)?, routing: absolute(&self.routing)?, libraries: absolute(&self.libraries)? })
    }
}

#[derive(Subcommand)]
enum Action {
    /// Bring a lab up and leave it running
    Up {
        /// Its name: several can run side by side
        #[arg(long, default_value = "lab")]
        name: String,
        /// Print the plan as JSON: switches, hosts, links, addresses, rails
        #[arg(long)]
        json: bool,
        /// Only print the plan
        #[arg(long, requires = "json")]
        dry_run: bool,
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        places: Places,
    },
    /// Take a lab down
    Down {
        /// Which
        #[arg(long, default_value = "lab", conflicts_with = "all")]
        name: String,
        /// All that no process holds
        #[arg(long)]
        all: bool,
    },
    /// Run a scenario on a lab of its own, and report
    Run {
        /// A built-in scenario, or a file
        scenario: String,
        /// What target, instant and extent are drawn from
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Write the report there; standard output where absent
        #[arg(long)]
        json: Option<PathBuf>,
        #[command(flatten)]
        options: run::Options,
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        places: Places,
    },
    /// Run scenarios with many seeds, one after another, and sum up; fails where a run did not work or something is left behind
    Series {
        #[command(flatten)]
        options: series::Options,
        /// Write all of it there, after each run; standard output, at the end, where absent
        #[arg(long)]
        json: Option<PathBuf>,
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        places: Places,
    },
    /// Compare the collector's map with the plan, and predicted paths with those that packets take; fails where they differ
    Verify {
        /// Which lab
        #[arg(long, default_value = "lab")]
        name: String,
        #[command(flatten)]
        options: verify::Options,
    },
    /// Take links down and up, move a cable, add a host and remove it, on a lab that is up; fails where the map says so too late
    Churn {
        /// Which lab
        #[arg(long, default_value = "lab")]
        name: String,
        /// Write the report there; standard output where absent
        #[arg(long)]
        json: Option<PathBuf>,
        #[command(flatten)]
        options: churn::Options,
    },
    /// Show the labs of this machine, and the built-in scenarios
    List,
    /// A shell, or a command, inside a node: `shell leaf0 -- vtysh -c 'show bgp summary'`
    Shell {
        /// Switch, host, or `management`
        node: String,
        /// Of which lab
        #[arg(long, default_value = "lab")]
        name: String,
        /// The command and its arguments
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Waits for the end of the process that holds a lab
    #[command(hide = true)]
    Keep {
        /// Which
        name: String,
    },
    /// Is the hardware of a lab's hosts
    #[command(hide = true)]
    Hardware {
        /// Which
        name: String,
        /// Of this host alone
        #[arg(long)]
        host: Option<String>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Action::Up { json: true, dry_run: true, sizes, .. } => print_plan(&Plan::new(sizes)?),
        Action::Up { name, json, sizes, places, .. } => up(&name, json, sizes, &places),
        Action::Down { all: false, name } => lab::down(&name),
        Action::Down { all: true, .. } => {
            lab::sweep()?;
            lab::all()?
                .iter()
                .filter(|(_, standing)| *standing == lab::Standing::Kept)
                .try_for_each(|(name, _)| lab::down(name))
        }
        Action::Run { scenario, seed, json, options, sizes, places } => {
            interrupt::listen()?;
            lab::sweep()?;
            let report = run::run(&scenario, seed, &options, sizes, places.programs()?)?;
            give(&report, json.as_deref())
        }
        Action::Series { options, json, sizes, places } => {
            interrupt::listen()?;
            let series = series::series(&options, &arguments(sizes, &places), json.as_deref())?;
            if json.is_none() {
                give(&series, None)?;
            }
            series.must_be_clean()
        }
        Action::Verify { name, options } => {
            let verdict = verify::verify(&Lab::find(&name)?, options)?;
            println!("{}", serde_json::to_string_pretty(&verdict)?);
            if verdict.is_whole() { Ok(()) } else { bail!("the map of lab {name} is not its plan") }
        }
        Action::Churn { name, json, options } => {
            interrupt::listen()?;
            let report = churn::churn(&name, options)?;
            give(&report, json.as_deref())?;
            report.must_be_in_time()
        }
        Action::List => list(),
        Action::Shell { node, name, command } => shell(&name, &node, &command),
        Action::Keep { name } => keeper::keep(&name),
        Action::Hardware { name, host } => hardware::emulate(&Lab::find(&name)?, host.as_deref()),
    }
}

/// Results go into a file, or to standard output.
fn give(results: &impl Serialize, json: Option<&Path>) -> Result<()> {
    let text = serde_json::to_string_pretty(results)?;
    match json {
        Some(file) => fs::write(file, text + "\n").with_context(|| format!("write {}", file.display())),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}

/// What every run of a series is told as the series itself was.
fn arguments(sizes: Sizes, places: &Places) -> Vec<String> {
    let Sizes { rails, leaves_per_rail, hosts_per_leaf, spines } = sizes;
    let sizes = [
        ("--rails", rails),
        ("--leaves-per-rail", leaves_per_rail),
        ("--hosts-per-leaf", hosts_per_leaf),
        ("--spines", spines),
    ];
    let sizes = sizes.map(|(name, size)| (name, size.to_string()));
    let path = |path: &Path| path.display().to_string();
    let places = [("--routing", path(&places.routing)), ("--libraries", path(&places.libraries))]
        .into_iter()
        .chain(places.programs.as_deref().map(|programs| ("--programs", path(programs))));
    sizes.into_iter().chain(places).flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

fn print_plan(plan: &Plan) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(plan)?);
    Ok(())
}

fn up(name: &str, json: bool, sizes: Sizes, places: &Places) -> Result<()> {
    interrupt::listen()?;
    lab::sweep()?;
    let (held, _daemons) = run::bring_up(name, Plan::new(sizes)?, places.programs()?, false)?;
    let lab = held.keep()?;
    if json {
        print_plan(&lab.plan)?;
    }
    let of = if name == "lab" { String::new() } else { format!(" --name {name}") };
    eprintln!("lab: look around  cargo xtask lab shell{of} {} -- railwatch hosts", lab.plan.management);
    eprintln!("lab: files        {}", lab.folder.display());
    eprintln!("lab: end it       cargo xtask lab down{of}");
    Ok(())
}

fn list() -> Result<()> {
    let mut text = String::new();
    for (name, standing) in lab::all()? {
        let standing = serde_json::to_value(standing)?;
        text += &format!("lab       {name:<18} {}\n", standing.as_str().unwrap_or_default());
    }
    for (name, _) in BUILT_IN {
        text += &format!("scenario  {name:<18} {}\n", Scenario::find(name)?.1.about);
    }
    // A reader that has seen enough, as `head`, is no failure.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn shell(name: &str, node: &str, words: &[String]) -> Result<()> {
    let lab = Lab::find(name)?;
    if !lab.plan.nodes().any(|known| known == node) {
        bail!("lab {name} has no node {node}: {}", lab.plan.nodes().collect::<Vec<_>>().join(", "));
    }
    let shell = [std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into())];
    let words = if words.is_empty() { &shell[..] } else { words };
    // Found on the path that the command will have: this project's programs, then FRR's and lldpd's.
    let mut command = Command::new("/usr/bin/env");
    command.args(words);
    routing::environment(&lab, &mut command)?;
    let path = command.get_envs().find(|(key, _)| *key == "PATH").and_then(|(_, value)| value);
    let path = format!("{}:{}", lab.programs.own.display(), path.unwrap_or_default().to_string_lossy());
    command
        .env("PATH", path)
        .env("RAILWATCH_COLLECTOR", "http://127.0.0.1:7701")
        .env("RAILWATCH_TOKEN_FILE", lab.folder.join("collector/token-approve"));
    enter(&lab, node, Session::Callers, &mut command)?;
    Err(command.exec()).context("start the command")
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }
}
