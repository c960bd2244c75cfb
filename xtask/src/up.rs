//! `cargo xtask up`: builds both daemons, starts them on this host on an embedded store, says where they listen.
//!
//! State lives in `.railwatch/` of this checkout and survives to the next `up`. Whatever ends this program ends the
//! daemons: Ctrl-C, SIGTERM, `--for`, one of them dying, or kill -9 (they ask the kernel for SIGTERM when it dies).

use crate::{
    daemon::{self, Daemon, Listen, RunFile},
    shell::{self, Step},
};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{SigSet, Signal},
    unistd,
};
use serde::Deserialize;
use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How often the daemons are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A host heard within this time is connected.
const HEARD_MS: u64 = 1000;

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

/// One row of `railwatch hosts -o json`, as far as it matters here.
#[derive(Deserialize)]
struct HostRow {
    host: String,
    last_seen_ms: u64,
}

/// Runs until told to stop.
pub fn up(options: &Options) -> Result<()> {
    let stop = stop_requests()?;
    let stopped = || stop.try_recv().is_ok();
    build()?;
    let home = std::path::absolute(&options.home)?;
    let host = unistd::gethostname()?.to_string_lossy().into_owned();
    let run_dir = run_dir()?;
    for folder in [&home, &run_dir] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    if let Some(other) = RunFile::read(&run_dir).filter(|run| Path::new(&format!("/proc/{}", run.pid)).exists()) {
        bail!("a collector (pid {}) already runs on this host: see `railwatch hosts`, or end it first", other.pid);
    }

    let step = Step::begin("start the collector");
    let listen = Listen { uplink: address(7700), api: address(7701), metrics: address(7702) };
    let mut collector = Daemon::start(&home, "collector", &mut daemon::collector_command(&home, &run_dir, &listen)?)?;
    let pid = collector.pid();
    let Some(run) = collector.wait_for(stopped, || RunFile::read(&run_dir).filter(|run| run.pid == pid))? else {
        return Ok(());
    };
    step.done();

    let step = Step::begin("start the agent");
    let pki = home.join("agent/pki");
    daemon::issue(&home, &host, &pki)?;
    let agent_metrics = address(7703);
    let mut agent = Daemon::start(
        &home,
        "agent",
        Command::new(daemon::program("railwatch-agent")?)
            .arg("run")
            .arg("--state-dir")
            .arg(home.join("agent"))
            .arg("--pki-dir")
            .arg(&pki)
            .args(["--collector", &run.uplink, "--host-name", &host, "--metrics-listen", &agent_metrics])
            .args(&options.agent),
    )?;
    let cli = daemon::program("railwatch")?;
    let connected = agent.wait_for(stopped, || {
        let rows = shell::output(Command::new(&cli).args(["hosts", "-o", "json", "--collector", &run.api])).ok()?;
        let rows: Vec<HostRow> = serde_json::from_str(&rows).ok()?;
        rows.iter().any(|row| row.host == host && row.last_seen_ms < HEARD_MS).then_some(())
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
    for daemon in [&mut agent, &mut collector] {
        let status = daemon.end()?;
        ensure!(status.success(), "a daemon ended badly ({status}): see {}", daemon.log().display());
    }
    Ok(())
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

/// Builds what `up` starts, with the progress of cargo.
fn build() -> Result<()> {
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
    Ok(())
}

fn run_dir() -> Result<PathBuf> {
    if unistd::geteuid().is_root() {
        return Ok("/run/railwatch".into());
    }
    let base = std::env::var_os("XDG_RUNTIME_DIR").context("without root XDG_RUNTIME_DIR must name a folder")?;
    Ok(Path::new(&base).join("railwatch"))
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
        for (text, seconds) in
            [("30s", Some(30)), ("5m", Some(300)), ("1h", Some(3600)), ("7", Some(7)), ("x", None), ("3d", None)]
        {
            assert_eq!(duration(text).ok().map(|duration| duration.as_secs()), seconds, "{text}");
        }
    }
}
