//! Starts other programs, and says on one line each what is going on and how long it took.

use anyhow::{Context, Result, bail};
use std::{process::Command, time::Instant};

/// A piece of work a person waits for.
pub struct Step {
    name: String,
    start: Instant,
}

impl Step {
    /// Says what begins.
    pub fn begin(name: &str) -> Self {
        eprintln!("xtask: {name} …");
        Self { name: name.to_owned(), start: Instant::now() }
    }

    /// Says that it is done, and after how long.
    pub fn done(self) {
        eprintln!("xtask: {} ✓ {:.1} s", self.name, self.start.elapsed().as_secs_f64());
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs it with its output on ours; an error when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs it in silence; its output becomes part of the error when it fails.
pub fn quiet(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs it in silence and gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start `{}`", shown(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("`{}` failed: {}\n{text}{}", shown(command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
