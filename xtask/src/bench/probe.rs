//! `cargo xtask bench probe`: what a traced call costs, against bpftrace doing the same accounting on the same function.
//!
//! Two functions: the real libcudart's cudaMalloc, which fails without a driver, and a fixture's cudaMalloc + cudaFree
//! pair whose functions begin with `push %rbp` (a uprobe's cost depends on the first instruction). Rounds interleave
//! untraced, traced and bpftrace, so that what else the machine does falls on all three alike.

use super::statistics::{interval, median};
use crate::{
    daemon, packages,
    shell::{self, Step},
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for a tracer to attach.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `bench probe`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Interleaved rounds
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Calls of each round
    #[arg(long, default_value_t = 200_000)]
    calls: u64,
}

/// One function's figures. `ratio` = (traced − untraced) / (bpftrace − untraced), of medians; 95 % interval.
#[derive(Serialize)]
pub struct Figures {
    kernel: String,
    function: &'static str,
    untraced_ns: f64,
    traced_ns: f64,
    bpftrace_ns: f64,
    ratio_vs_bpftrace: f64,
    ratio_ci: [f64; 2],
    calls: u64,
    counted: u64,
    lost: u64,
}

/// What the tracer says at its end.
#[derive(Deserialize)]
struct Traced {
    counted: u64,
    lost: u64,
}

struct Case {
    function: &'static str,
    library: PathBuf,
    mode: &'static str,
    /// Traced calls in one turn of the loop.
    calls_per_turn: u64,
}

/// Measures both functions.
pub fn measure(options: &Options) -> Result<Vec<Figures>> {
    packages::install(packages::BENCHES)?;
    let home = std::path::absolute(format!("target/bench/probe-{}", std::process::id()))?;
    fs::create_dir_all(&home)?;
    let step = Step::begin("build the tracer and the loop");
    shell::run(Command::new("cargo").args([
        "build",
        "--release",
        "--package",
        "railwatch-gpu",
        "--example",
        "trace_probe",
    ]))?;
    let looper = home.join("loop");
    shell::run(Command::new("gcc").args(["-O2", "-o"]).arg(&looper).arg("tests/fixtures/bench/loop.c").arg("-ldl"))?;
    let pair = home.join("libpair.so");
    // The functions are naked: `push %rbp` first, as in the real library.
    shell::run(
        Command::new("gcc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&pair).arg("tests/fixtures/bench/pair.c"),
    )?;
    step.done();
    let cases = [
        Case {
            function: "cudaMalloc (libcudart 12.9.79, failing)",
            library: packages::libcudart()?,
            mode: "failing",
            calls_per_turn: 1,
        },
        Case { function: "cudaMalloc + cudaFree (fixture)", library: pair, mode: "pair", calls_per_turn: 2 },
    ];
    let figures = cases.iter().map(|case| compare(case, options, &home, &looper)).collect();
    fs::remove_dir_all(&home).ok();
    figures
}

fn compare(case: &Case, options: &Options, home: &Path, looper: &Path) -> Result<Figures> {
    let step =
        Step::begin(&format!("{}: {} rounds of {} turns, three ways", case.function, options.rounds, options.calls));
    let turn = || turn_ns(looper, case, options.calls);
    let (mut untraced, mut traced, mut bpftrace) = (Vec::new(), Vec::new(), Vec::new());
    let (mut counted, mut lost) = (0, 0);
    for _ in 0..options.rounds {
        untraced.push(turn()?);

        let mut tracer = Command::new(daemon::program("examples/trace_probe")?)
            .arg(&case.library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = BufReader::new(tracer.stdout.take().context("the tracer speaks")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line.trim() == "attached", "the tracer did not attach: {line}");
        traced.push(turn()?);
        drop(tracer.stdin.take());
        line.clear();
        said.read_line(&mut line)?;
        let result: Traced = serde_json::from_str(&line).with_context(|| format!("the tracer said {line:?}"))?;
        ensure!(tracer.wait()?.success(), "the tracer failed");
        counted += result.counted;
        lost += result.lost;

        let mut peer = Peer::start(home, &case.library)?;
        bpftrace.push(turn()?);
        peer.end()?;
    }
    step.done();
    let ratio = |rounds: &[usize]| {
        let of = |values: &[f64]| median(&rounds.iter().map(|round| values[*round]).collect::<Vec<_>>());
        (of(&traced) - of(&untraced)) / (of(&bpftrace) - of(&untraced))
    };
    let all: Vec<_> = (0..options.rounds).collect();
    Ok(Figures {
        kernel: daemon::kernel_release()?,
        function: case.function,
        untraced_ns: median(&untraced),
        traced_ns: median(&traced),
        bpftrace_ns: median(&bpftrace),
        ratio_vs_bpftrace: ratio(&all),
        ratio_ci: interval(options.rounds, ratio),
        calls: options.calls * case.calls_per_turn * u64::try_from(options.rounds)?,
        counted,
        lost,
    })
}

/// One run of the loop; nanoseconds a turn.
fn turn_ns(looper: &Path, case: &Case, calls: u64) -> Result<f64> {
    let text = shell::output(
        Command::new("taskset").args(["-c", "1"]).arg(looper).arg(&case.library).arg(case.mode).arg(calls.to_string()),
    )?;
    text.split_whitespace().next().context("the loop prints its cost")?.parse().context("the loop prints a number")
}

/// A bpftrace that accounts.
struct Peer(Child);

impl Peer {
    fn start(home: &Path, library: &Path) -> Result<Self> {
        let script = home.join("account.bt");
        let text = fs::read_to_string("tests/fixtures/bench/account.bt")?;
        fs::write(&script, text.replace("LIBRARY", &library.display().to_string()))?;
        let output = home.join("bpftrace.out");
        let process = Command::new("bpftrace")
            .args(["-B", "none"])
            .arg(&script)
            .stdout(File::create(&output)?)
            .stderr(Stdio::null())
            .spawn()
            .context("start bpftrace")?;
        let mut peer = Self(process);
        let end = Instant::now() + PATIENCE;
        // One perf event for each probe, and one for each CPU's buffer.
        let complete = PROBES + std::thread::available_parallelism()?.get();
        while perf_events(peer.0.id())? < complete {
            ensure!(
                peer.0.try_wait()?.is_none() && Instant::now() < end,
                "bpftrace did not attach: see its own output"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(200));
        Ok(peer)
    }

    fn end(&mut self) -> Result<()> {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?),
            nix::sys::signal::Signal::SIGINT,
        )?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Gone already where `end` ran.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Probes in account.bt.
const PROBES: usize = 6;

/// Perf events that a process holds.
fn perf_events(pid: u32) -> Result<usize> {
    let held = fs::read_dir(format!("/proc/{pid}/fd"))?
        .flatten()
        .filter(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[perf_event]"));
    Ok(held.count())
}
