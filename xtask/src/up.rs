//! `cargo xtask up`: builds both daemons, starts them on this host on an embedded store, says where they listen.
//!
//! State lives in `.railwatch/` of this checkout and survives to the next `up`. Whatever ends this program ends the
//! daemons: Ctrl-C, SIGTERM, `--for`, one of them dying, or kill -9 (they ask the kernel for SIGTERM when it dies).

use crate::shell::{self, Step};
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
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How long the daemons may take until both are ready, and until one is gone.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Options of `up`.
#[derive(clap::Args)]
pub struct Options {
    /// End by itself with status 0, this long after both daemons are ready: 30s, 5m, 1h
    #[arg(long = "for", value_parser = duration)]
    duration: Option<Duration>,
    /// Where state and logs are kept
    #[arg(long, default_value = ".railwatch")]
    home: PathBuf,
    /// More arguments for the agent
    #[arg(last = true)]
    agent: Vec<String>,
}

/// The file by which a collector on this host is found (docs/ARCHITECTURE.md, conventions).
#[derive(Deserialize)]
struct RunFile {
    api: String,
    uplink: String,
    metrics: String,
    pid: u32,
}

/// One row of `railwatch hosts -o json`, as far as it matters here.
#[derive(Deserialize)]
struct HostRow {
    host: String,
    #[serde(default)]
    connected: bool,
}

/// Runs until told to stop.
pub fn up(options: &Options) -> Result<()> {
    let stop = stop_requests()?;
    let binaries = build()?;
    let home = std::path::absolute(&options.home)?;
    let host = unistd::gethostname()?.to_string_lossy().into_owned();
    let run_dir = run_dir()?;
    for folder in [&home, &run_dir] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let run_file = run_dir.join("collector.json");
    if let Some(other) = read(&run_file).filter(|run| Path::new(&format!("/proc/{}", run.pid)).exists()) {
        bail!("a collector (pid {}) already runs on this host: see `railwatch hosts`, or end it first", other.pid);
    }

    let step = Step::begin("start the collector");
    let state = home.join("collector");
    let mut collector = Daemon::start(
        &home,
        "collector",
        Command::new(binaries.join("railwatch-collector"))
            .arg("run")
            .arg("--state-dir")
            .arg(&state)
            .arg("--run-dir")
            .arg(&run_dir)
            .args(["--uplink-listen", &address(7700), "--api-listen", &address(7701)])
            .args(["--metrics-listen", &address(7702)]),
    )?;
    let pid = collector.process.id();
    let Some(run) = collector.wait_for(&stop, || read(&run_file).filter(|run| run.pid == pid))? else {
        return Ok(());
    };
    step.done();

    let step = Step::begin("start the agent");
    let pki = home.join("agent/pki");
    shell::quiet(
        Command::new(binaries.join("railwatch-collector"))
            .args(["pki", "issue", &host])
            .arg("--state-dir")
            .arg(&state)
            .arg("--out")
            .arg(&pki),
    )?;
    let agent_metrics = address(7703);
    let mut agent = Daemon::start(
        &home,
        "agent",
        Command::new(binaries.join("railwatch-agent"))
            .arg("run")
            .arg("--state-dir")
            .arg(home.join("agent"))
            .arg("--pki-dir")
            .arg(&pki)
            .args(["--collector", &run.uplink, "--host-name", &host, "--metrics-listen", &agent_metrics])
            .args(&options.agent),
    )?;
    let cli = binaries.join("railwatch");
    let connected = agent.wait_for(&stop, || {
        let rows = shell::output(Command::new(&cli).args(["hosts", "-o", "json", "--collector", &run.api])).ok()?;
        let rows: Vec<HostRow> = serde_json::from_str(&rows).ok()?;
        rows.iter().any(|row| row.host == host && row.connected).then_some(())
    })?;
    if connected.is_none() {
        return Ok(());
    }
    step.done();

    println!("collector API      {}", run.api);
    println!("collector uplink   {}", run.uplink);
    println!("collector metrics  {}", run.metrics);
    println!("agent metrics      http://{agent_metrics}/metrics");
    println!("logs and state     {}", home.display());
    println!("try                {} hosts", cli.display());
    println!("ready");

    let end = options.duration.map(|duration| Instant::now() + duration);
    loop {
        let left = end.map_or(LOOK_AGAIN, |end| end.saturating_duration_since(Instant::now()).min(LOOK_AGAIN));
        match stop.recv_timeout(left) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        collector.must_run()?;
        agent.must_run()?;
    }
    // The agent first, so that its goodbye finds somebody.
    let agent_end = agent.end()?;
    let collector_end = collector.end()?;
    ensure!(agent_end.success(), "the agent ended badly ({agent_end}): see {}", agent.log.display());
    ensure!(collector_end.success(), "the collector ended badly ({collector_end}): see {}", collector.log.display());
    Ok(())
}

/// A daemon with its log; ended when this is dropped.
struct Daemon {
    name: &'static str,
    process: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(home: &Path, name: &'static str, command: &mut Command) -> Result<Self> {
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

    /// Looks until `found` finds, a person says stop (`None`), the daemon dies or patience ends.
    fn wait_for<T>(&mut self, stop: &Receiver<()>, mut found: impl FnMut() -> Option<T>) -> Result<Option<T>> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found() {
                return Ok(Some(found));
            }
            self.must_run()?;
            ensure!(
                Instant::now() < end,
                "the {} was not ready after {PATIENCE:?}: {}",
                self.name,
                self.last_words()
            );
            match stop.recv_timeout(LOOK_AGAIN) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    fn must_run(&mut self) -> Result<()> {
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

    /// Asks it to end, and insists when it does not.
    fn end(&mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.process.id())?);
        if self.process.try_wait()?.is_none() {
            signal::kill(pid, Signal::SIGTERM)?;
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

/// One message when SIGINT or SIGTERM asks to stop. Must be called before any other thread exists.
fn stop_requests() -> Result<Receiver<()>> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        while signals.wait().is_ok() {
            if sender.send(()).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

/// Builds what `up` starts, with the progress of cargo; the folder of the binaries.
fn build() -> Result<PathBuf> {
    let step = Step::begin("build (the first time takes some minutes)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = ["--package", "railwatch-agent", "--package", "railwatch-collector", "--package", "railwatch"];
    let mut command = Command::new(cargo);
    command.args(["build", "--release"]).args(packages);
    // SAFETY: one async-signal-safe system call; cargo must hear Ctrl-C, which is blocked in this process.
    unsafe {
        command.pre_exec(|| Ok(SigSet::all().thread_unblock()?));
    }
    shell::run(&mut command)?;
    step.done();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(std::path::absolute(target.join("release"))?)
}

fn run_dir() -> Result<PathBuf> {
    if unistd::geteuid().is_root() {
        return Ok("/run/railwatch".into());
    }
    let base = std::env::var_os("XDG_RUNTIME_DIR").context("without root XDG_RUNTIME_DIR must name a folder")?;
    Ok(Path::new(&base).join("railwatch"))
}

fn read(run_file: &Path) -> Option<RunFile> {
    serde_json::from_str(&fs::read_to_string(run_file).ok()?).ok()
}

/// `preferred` on loopback, or any free port when something listens there already.
fn address(preferred: u16) -> String {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
    match free(preferred).or_else(|_| free(0)) {
        Ok(address) => {
            if address.port() != preferred {
                eprintln!("xtask: port {preferred} is taken: using {}", address.port());
            }
            address.to_string()
        }
        Err(_) => format!("127.0.0.1:{preferred}"),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("`{text}`: the unit is s, m or h, such as 30s")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}`: a whole number and a unit, such as 30s"))?;
    Ok(Duration::from_secs(number * seconds))
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        for (text, seconds) in [("30s", Some(30)), ("5m", Some(300)), ("1h", Some(3600)), ("7", Some(7)), ("x", None), ("3d", None)] {
            assert_eq!(duration(text).ok().map(|duration| duration.as_secs()), seconds, "{text}");
        }
    }
}
