//! Starts and ends the daemons of a build, for `up` and for benchmarks.
//!
//! A daemon ends with the value that stands for it, and by the kernel's hand when this program is killed.

use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::{
        prctl,
        signal::{self, SigSet, Signal},
    },
    unistd::{self, Pid},
};
use serde::Deserialize;
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a daemon may take until it is ready, and until it is gone.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Which build of the daemons is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As shipped.
    Release,
    /// As tested.
    Unoptimised,
}

/// Builds programs of the packages of the same names.
pub fn build(profile: Profile, packages: &[&str]) -> Result<()> {
    let mut command = Command::new("cargo");
    command.arg("build").args((profile == Profile::Release).then_some("--release"));
    for package in packages {
        command.args(["--package", package]);
    }
    shell::run(&mut command)
}

/// A program of the release build.
pub fn program(name: &str) -> Result<PathBuf> {
    program_of(Profile::Release, name)
}

/// A program of that build.
pub fn program_of(profile: Profile, name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let folder = match profile {
        Profile::Release => "release",
        Profile::Unoptimised => "debug",
    };
    Ok(std::path::absolute(target.join(folder).join(name))?)
}

/// The running kernel, as `uname -r` says it.
pub fn kernel_release() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// Processor time a process has used, user and system. Source: proc(5), /proc/PID/stat fields 14 and 15.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("a process has a name")?.1;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = unistd::sysconf(unistd::SysconfVar::CLK_TCK)?.context("a system has a clock")?;
    Ok(ticks as f64 / per_second as f64)
}

/// A daemon and its log.
pub struct Daemon {
    name: &'static str,
    process: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` with its output in `HOME/NAME.log`.
    pub fn start(home: &Path, name: &'static str, command: &mut Command) -> Result<Self> {
        let log = home.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let parent = unistd::getpid();
        // SAFETY: between fork and exec only system calls that are async-signal-safe are made.
        unsafe {
            command.pre_exec(move || {
                SigSet::all().thread_unblock()?;
                prctl::set_pdeathsig(Signal::SIGTERM)?;
                // The parent may have died before the line above.
                if unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
            });
        }
        let process = command.spawn().with_context(|| format!("start the {name}"))?;
        Ok(Self { name, process, log })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Looks until `found` finds, `stopped` says so (`None`), it dies or patience ends.
    pub fn wait_for<T>(
        &mut self,
        stopped: impl Fn() -> bool,
        mut found: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found() {
                return Ok(Some(found));
            }
            self.must_run()?;
            ensure!(Instant::now() < end, "the {} was not ready after {PATIENCE:?}: {}", self.name, self.last_words());
            if stopped() {
                return Ok(None);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// An error when it is gone, with its last words.
    pub fn must_run(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the {} ended by itself ({status}): {}", self.name, self.last_words()),
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("{}\n{}", self.log.display(), lines[lines.len().saturating_sub(20)..].join("\n"))
    }

    /// Processor time it has used.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid())
    }

    /// Asks it to end, and insists when it does not.
    pub fn end(&mut self) -> Result<ExitStatus> {
        if self.process.try_wait()?.is_none() {
            signal::kill(Pid::from_raw(i32::try_from(self.process.id())?), Signal::SIGTERM)?;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                self.process.kill()?;
                return Ok(self.process.wait()?);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: could not end the {}: {error:#}", self.name);
        }
    }
}

/// The file by which a collector on this host is found (docs/ARCHITECTURE.md, conventions).
#[derive(Deserialize)]
pub struct RunFile {
    /// Base URL of the API.
    pub api: String,
    /// HOST:PORT of the uplink.
    pub uplink: String,
    /// URL of the metrics.
    pub metrics: String,
    /// The collector's process.
    pub pid: u32,
}

impl RunFile {
    /// What `RUN_DIR/collector.json` says.
    pub fn read(run_dir: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(run_dir.join("collector.json")).ok()?).ok()
    }
}

/// Where a collector listens.
pub struct Listen {
    /// HOST:PORT of the uplink.
    pub uplink: String,
    /// HOST:PORT of the API.
    pub api: String,
    /// HOST:PORT of the metrics.
    pub metrics: String,
}

/// The `collector` command line of a build, in `HOME/collector`.
pub fn collector_command(home: &Path, run_dir: &Path, listen: &Listen) -> Result<Command> {
    collector_command_of(Profile::Release, home, run_dir, listen)
}

/// The same, of that build.
pub fn collector_command_of(profile: Profile, home: &Path, run_dir: &Path, listen: &Listen) -> Result<Command> {
    let mut command = Command::new(program_of(profile, "railwatch-collector")?);
    command.arg("run").arg("--state-dir").arg(home.join("collector")).arg("--run-dir").arg(run_dir).args([
        "--uplink-listen",
        &listen.uplink,
        "--api-listen",
        &listen.api,
        "--metrics-listen",
        &listen.metrics,
    ]);
    Ok(command)
}

/// Writes the certificate of `host`, signed by the collector in `HOME/collector`, into `folder`.
pub fn issue(home: &Path, host: &str, folder: &Path) -> Result<()> {
    issue_of(Profile::Release, home, host, folder)
}

/// The same, by the collector of that build.
pub fn issue_of(profile: Profile, home: &Path, host: &str, folder: &Path) -> Result<()> {
    shell::quiet(
        Command::new(program_of(profile, "railwatch-collector")?)
            .args(["pki", "issue", host, "--state-dir"])
            .arg(home.join("collector"))
            .arg("--out")
            .arg(folder),
    )
}
