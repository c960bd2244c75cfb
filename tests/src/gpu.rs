//! Programs that use GPU libraries: fixtures with the real names and signatures (tests/fixtures/gpu), no GPU needed.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::OnceLock,
};

/// The folder of the built fixtures.
pub fn fixtures() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || -> Result<PathBuf> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gpu");
        let output = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/gpu-fixtures-system"));
        let made = Command::new("make").args(["-s", "-C", source]).arg(format!("OUT={}", output.display())).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(output.canonicalize()?)
    };
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg).context("build the GPU fixtures")
}

/// A process that calls library functions one by one, as told (tests/fixtures/gpu/caller.c).
pub struct Caller {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Caller {
    /// Starts it with fixture libraries loaded: "libcudart.so", "libnccl.so", ...
    pub fn start(libraries: &[&str]) -> Result<Self> {
        Self::start_with(libraries, &[])
    }

    /// With these variables besides.
    pub fn start_with(libraries: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let folder = fixtures()?;
        let mut process = Command::new(folder.join("caller"))
            .envs(environment.iter().copied())
            .args(libraries.iter().map(|library| folder.join(library)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().context("the caller answers")?);
        let mut caller = Self { process, input, output };
        // It greets once its libraries are loaded.
        caller.answer("start")?;
        Ok(caller)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs one line; the status that the function returned.
    pub fn call(&mut self, line: &str) -> Result<i64> {
        let input = self.input.as_mut().context("the caller listens")?;
        writeln!(input, "{line}")?;
        input.flush()?;
        self.answer(line)
    }

    fn answer(&mut self, line: &str) -> Result<i64> {
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        let status = answer.strip_prefix("= ").and_then(|rest| rest.split_whitespace().next());
        status.with_context(|| format!("{line}: answered {answer:?}"))?.parse().context("a status is a number")
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A process that allocates and frees on many threads and knows its own balance (tests/fixtures/gpu/driver.c).
pub struct Driver(Child);

impl Driver {
    /// Starts it on the fixture's CUDA runtime.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_under(&["env"], arguments)
    }

    /// Starts it as the end of another command, as `unshare ... driver ...`.
    pub fn start_under(command: &[&str], arguments: &[&str]) -> Result<Self> {
        let folder = fixtures()?;
        let process = Command::new(command[0])
            .args(&command[1..])
            .arg(folder.join("driver"))
            .arg("--library")
            .arg(folder.join("libcudart.so"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(process))
    }

    /// The process that was started; where its command does not `exec`, the driver is a child of it.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether its threads are at work still.
    pub fn works(&self) -> bool {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).is_ok_and(|tasks| tasks.count() > 1)
    }

    /// Lets it begin, where it was started with `--wait`.
    pub fn go(&mut self) -> Result<()> {
        self.0.stdin.as_mut().context("the driver listens")?.write_all(b"\n")?;
        Ok(())
    }

    /// The balance it says it has, once its work is done.
    pub fn balance(&mut self) -> Result<Value> {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().context("the driver speaks")?).read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the driver said {line:?}"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
