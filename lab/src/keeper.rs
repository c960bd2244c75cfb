//! The process that outlives whoever brings a lab up, and takes the lab down when that one dies.
//!
//! In: a pipe from the holder, which the kernel closes however the holder ends. Out: the lab taken down, unless the holder
//! said beforehand that it need not be. Never: work while the holder lives.

use crate::lab;
use anyhow::{Context, Result};
use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
};

/// The word that sends it away.
const DISMISSED: u8 = b'.';

/// The holder's end.
pub struct Keeper {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Keeper {
    /// Starts it for a lab.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(name: &str) -> Result<Self> {
        let own = std::env::current_exe().context("find the own program")?;
        let mut command = Command::new(own);
        command.args(["keep", name]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one system call between fork and exec. Ctrl-C in the terminal must not reach it.
        unsafe {
            command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
        }
        let mut process = command.spawn().context("start the lab's keeper")?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// Sends it away: there is nothing left to take down, or the lab is to stay.
    pub fn dismiss(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // It may have been killed; then it has nothing to hear.
            let _ = pipe.write_all(&[DISMISSED]);
        }
        let _ = self.process.wait();
    }
}

/// What the process does.
///
/// # Errors
/// Something of the lab does not go.
pub fn keep(name: &str) -> Result<()> {
    let mut said = Vec::new();
    std::io::stdin().read_to_end(&mut said).context("wait for the holder's end")?;
    if said.contains(&DISMISSED) { Ok(()) } else { lab::down_abandoned(name) }
}
