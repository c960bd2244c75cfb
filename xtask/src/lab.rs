//! `cargo xtask lab`: builds what a lab runs, fetches FRR and lldpd, and hands over to the lab's own command.

use crate::{
    daemon, packages,
    shell::{self, Step},
};
use anyhow::{Context, Result};
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// What the lab's command finds in its environment.
pub const PROGRAMS: &str = "RAILWATCH_LAB_PROGRAMS";
/// See [`PROGRAMS`].
pub const ROUTING: &str = "RAILWATCH_LAB_ROUTING";
/// See [`PROGRAMS`].
pub const LIBRARIES: &str = "RAILWATCH_LAB_LIBRARIES";

/// Options of `lab`: those of the lab's own command.
#[derive(clap::Args)]
pub struct Options {
    /// See `cargo xtask lab --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds, and becomes the lab's command.
pub fn lab(options: &Options) -> Result<()> {
    packages::install(&["gcc", "iproute2", "libc6-dev", "make"])?;
    let routing = packages::routing()?;
    let libraries = libraries()?;
    let step = Step::begin("build (the first time takes some minutes)");
    let packages = ["railwatch-lab", "railwatch-agent", "railwatch-collector", "railwatch"];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    shell::run(
        Command::new(cargo)
            .args(["build", "--quiet", "--release"])
            .args(packages.iter().flat_map(|package| ["--package", package])),
    )?;
    step.done();
    let program = daemon::program("railwatch-lab")?;
    let folder = program.parent().context("a program lies in a folder")?;
    let error = Command::new(&program)
        .args(&options.arguments)
        .env(PROGRAMS, folder)
        .env(ROUTING, routing)
        .env(LIBRARIES, libraries)
        .exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}

/// The folder of the libraries with the names of the GPU's.
pub fn libraries() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gpu");
    let folder = std::path::absolute("target/gpu-fixtures-lab")?;
    shell::quiet(Command::new("make").args(["-s", "-C"]).arg(source).arg(format!("OUT={}", folder.display())))?;
    Ok(folder)
}
