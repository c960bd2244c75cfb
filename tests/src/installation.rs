//! A collector and an agent of the binaries under test, in a folder of their own, on ports of their own.
//!
//! In: options. Out: running daemons, the operator's command bound to them, and their files. Ended with the value,
//! also when a test fails.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longest wait for anything that a daemon does.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The host's name in every installation.
pub const HOST: &str = "host7";

/// Looks until `found` finds something, or fails saying what was awaited.
pub fn eventually<T>(what: &str, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        let last = match found() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        ensure!(Instant::now() < end, "waited {PATIENCE:?} for {what}{last}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A program of the build under test.
pub fn program(name: &str) -> Result<PathBuf> {
    // target/PROFILE/deps/TEST
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("a test runs from target/PROFILE/deps")?;
    let program = folder.join(name);
    ensure!(program.exists(), "{} is missing: run this through `cargo xtask test system`", program.display());
    Ok(program)
}

/// A daemon, its command line kept so that it can be started again.
pub struct Daemon {
    command: Vec<String>,
    process: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(program: &Path, arguments: &[String], log: PathBuf) -> Result<Self> {
        let command: Vec<_> = std::iter::once(program.display().to_string()).chain(arguments.iter().cloned()).collect();
        let process = spawn(&command, &log)?;
        Ok(Self { command, process, log })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// kill -9, and wait until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Sends a signal by name: "TERM", "HUP".
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status()?;
        ensure!(status.success(), "kill -{name} {} failed", self.pid());
        Ok(())
    }

    /// SIGTERM, and an error when it ends badly or not at all.
    pub fn stop(&mut self) -> Result<()> {
        self.signal("TERM")?;
        let status = eventually("the daemon's end", || Ok(self.process.try_wait()?))?;
        ensure!(status.success(), "{} ended with {status}: {}", self.command[0], self.log_text());
        Ok(())
    }

    /// Starts it again with the same arguments.
    pub fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.command, &self.log)?;
        Ok(())
    }

    /// All it has said since its first start.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already, or ends now: either is what a test's end wants.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("---- {} ----\n{}", self.log.display(), self.log_text());
        }
    }
}

fn spawn(command: &[String], log: &Path) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log)?;
    Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start {}", command[0]))
}

/// What differs from the defaults.
#[derive(Default)]
pub struct Options {
    /// The collector's configuration file.
    pub collector_toml: String,
    /// The agent's configuration file.
    pub agent_toml: String,
    /// More arguments of the agent.
    pub agent_arguments: Vec<String>,
    /// Leaves the kernel half unpinned, so that it ends with the agent.
    pub no_pin: bool,
}

/// Both daemons.
pub struct Installation {
    /// The agent.
    pub agent: Daemon,
    /// The collector.
    pub collector: Daemon,
    run: Value,
    uplink: String,
    folder: TempDir,
}

impl Installation {
    /// Starts both and waits until the host is connected.
    pub fn start(options: &Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("railwatch-").tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("collector.toml"), &options.collector_toml)?;
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let run_dir = path("run");
        fs::create_dir_all(&run_dir)?;

        // The uplink's port must survive a restart, so that the agent finds it again.
        let uplink = format!("127.0.0.1:{}", free_port()?);
        let collector = Daemon::start(
            &program("railwatch-collector")?,
            &words(&[
                "run",
                "--config",
                &path("collector.toml"),
                "--state-dir",
                &path("collector"),
                "--run-dir",
                &run_dir,
                "--uplink-listen",
                &uplink,
                "--api-listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "127.0.0.1:0",
            ]),
            folder.path().join("collector.log"),
        )?;
        let run = run_file(folder.path(), &collector)?;

        let agent = start_agent(folder.path(), &uplink, HOST, options)?;
        let installation = Self { agent, collector, run, uplink, folder };
        installation.connected()?;
        Ok(installation)
    }

    /// Starts a further agent, named `host`, on this kernel and waits until it is connected.
    pub fn add_agent(&self, host: &str, options: &Options) -> Result<Daemon> {
        let agent = start_agent(self.folder.path(), &self.uplink, host, options)?;
        self.host_connected(host).with_context(|| agent.log_text())?;
        Ok(agent)
    }

    /// Waits until the collector has the host connected.
    pub fn connected(&self) -> Result<()> {
        self.host_connected(HOST)
            .with_context(|| format!("agent:\n{}\ncollector:\n{}", self.agent.log_text(), self.collector.log_text()))
    }

    fn host_connected(&self, host: &str) -> Result<()> {
        eventually("the host's connection", || Ok(self.rows(&["hosts"])?.iter().find(|row| heard(row, host)).map(drop)))
    }

    /// The row of process `pid` in a layer, once it satisfies `settled`.
    pub fn process_row(&self, pid: u32, layer: &str, settled: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        eventually("the process's row", || {
            let rows = self.rows(&["gpu", "processes"])?;
            let found = rows.into_iter().find(|row| row["pid"] == pid && row["layer"] == layer);
            last = found.clone().unwrap_or(Value::Null);
            Ok(found.filter(&settled))
        })
        .with_context(|| format!("last seen: {last:#}\n{}", self.agent.log_text()))
    }

    /// Waits until the coverage report shows a GPU library of process `pid` attached.
    pub fn attached(&self, pid: u32) -> Result<()> {
        eventually("the process's library to be attached", || {
            let rows = self.rows(&["gpu", "coverage"])?;
            Ok(rows.iter().find(|row| row["pid"] == pid && row["status"] == "attached").map(drop))
        })
        .with_context(|| self.agent.log_text())
    }

    /// Waits for a collector that was started again, and takes its new addresses.
    pub fn collector_restarted(&mut self) -> Result<()> {
        self.run = run_file(self.folder.path(), &self.collector)?;
        Ok(())
    }

    /// A file or folder of this installation: "collector", "agent", "run", "collector.toml", ...
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An address from the collector's run file: "api", "metrics", "uplink".
    pub fn address(&self, what: &str) -> String {
        self.run[what].as_str().unwrap_or_default().to_owned()
    }

    /// The agent's metrics, HOST:PORT.
    pub fn agent_metrics(&self) -> String {
        let mut words = self.agent.command.iter();
        words.find(|word| *word == "--metrics-listen");
        words.next().cloned().unwrap_or_default()
    }

    /// The operator's command, bound to this installation's collector, with the token of `role`.
    pub fn railwatch(&self, role: &str, arguments: &[&str]) -> Result<Output> {
        Command::new(program("railwatch")?)
            .args(arguments)
            .env("RAILWATCH_COLLECTOR", self.address("api"))
            .env("RAILWATCH_TOKEN_FILE", self.path("collector").join(format!("token-{role}")))
            .output()
            .context("start railwatch")
    }

    /// The rows of a listing, with every field there is.
    pub fn rows(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let live = ["hosts", "gpu"].contains(&arguments[0]);
        let full = live.then_some("--full");
        let arguments: Vec<_> = arguments.iter().copied().chain(["-o", "json"]).chain(full).collect();
        let output = self.railwatch("read", &arguments)?;
        if !output.status.success() {
            bail!("railwatch {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("a listing is a JSON array")
    }
}

/// Starts the agent of `host` with files of its own: `agent...` for [`HOST`], `agent-NAME...` for others.
fn start_agent(folder: &Path, uplink: &str, host: &str, options: &Options) -> Result<Daemon> {
    let name = if host == HOST { "agent".to_owned() } else { format!("agent-{host}") };
    let path = |suffix: &str| folder.join(format!("{name}{suffix}")).display().to_string();
    fs::write(path(".toml"), &options.agent_toml)?;
    let issued = Command::new(program("railwatch-collector")?)
        .args(["pki", "issue", host, "--state-dir"])
        .arg(folder.join("collector"))
        .args(["--out", &path("-pki")])
        .output()?;
    ensure!(issued.status.success(), "pki issue: {}", String::from_utf8_lossy(&issued.stderr));
    let mut arguments: Vec<String> = [
        "run",
        "--config",
        &path(".toml"),
        "--state-dir",
        &path(""),
        "--pki-dir",
        &path("-pki"),
        "--collector",
        uplink,
        "--host-name",
        host,
        "--metrics-listen",
        &format!("127.0.0.1:{}", free_port()?),
    ]
    .map(str::to_owned)
    .to_vec();
    if options.no_pin {
        arguments.push("--no-pin".into());
    } else {
        arguments.extend(["--pin-dir".into(), pins(folder).join(&name).display().to_string()]);
    }
    arguments.extend(options.agent_arguments.iter().cloned());
    Daemon::start(&program("railwatch-agent")?, &arguments, folder.join(format!("{name}.log")))
}

/// Where the kernel halves of the installation in `folder` are pinned.
fn pins(folder: &Path) -> PathBuf {
    Path::new("/sys/fs/bpf").join(folder.file_name().unwrap_or_default())
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = fs::remove_dir_all(pins(self.folder.path()));
    }
}

/// Whether a row of `railwatch hosts` says that `host` was heard within the last second.
pub fn heard(row: &Value, host: &str) -> bool {
    row["host"] == host && row["last_seen_ms"].as_u64().is_some_and(|ms| ms < 1000)
}

/// Whether the figures of a row are whole. A machine too busy to attach within the promised time has them marked for
/// that, although the process waited: no fault of what is tested.
pub fn is_whole(row: &Value) -> bool {
    row["incomplete_since"].is_null()
        || row["incomplete_reason"].as_str().is_some_and(|reason| reason.starts_with("its library was traced "))
}

/// What the collector says of itself once it listens.
fn run_file(folder: &Path, collector: &Daemon) -> Result<Value> {
    let path = folder.join("run/collector.json");
    eventually("the collector's run file", || {
        let Ok(text) = fs::read(&path) else { return Ok(None) };
        let run: Value = serde_json::from_slice(&text)?;
        Ok((run["pid"] == collector.pid()).then_some(run))
    })
    .with_context(|| collector.log_text())
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
