//! `cargo xtask bench agent`: what the agent costs on a host with 8 NICs of 80 counters each, at its default cadences, then
//! in a burst beside an empty loop of the same cadence; and what Prometheus's node exporter spends on a sample of the
//! same tree.
//!
//! The NICs are emulated: a tree of files in memory whose counters this program moves, and virtual interfaces for the
//! burst. What a driver or a firmware adds to a read does not appear here.

use super::{
    idle::{bpf_maps_kib, status_kib},
    statistics::percentile,
};
use crate::{
    daemon::{self, Daemon, Listen, RunFile},
    packages, shell,
    shell::Step,
};
use anyhow::{Context, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::clock_gettime,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// NICs of the emulated host.
const NICS: usize = 8;
/// Counters of each: hardware counters and PMA counters of the RDMA port, statistics of the interface.
const COUNTERS: usize = 80;
/// Hardware counters that newer mlx5 devices have beside those of the tests' tree.
const MORE_COUNTERS: [&str; COUNTERS - 63] = [
    "roce_adp_retrans",
    "roce_adp_retrans_to",
    "roce_slow_restart",
    "roce_slow_restart_cnps",
    "roce_slow_restart_trans",
    "rx_dct_connect",
    "resp_rnr_nak",
    "req_transport_retries_exceeded",
    "req_rnr_retries_exceeded",
    "resp_remote_op_errors",
    "req_remote_op_errors",
    "num_odp_page_faults",
    "num_odp_invalidations",
    "rx_vport_rdma_unicast_packets",
    "tx_vport_rdma_unicast_packets",
    "rx_vport_rdma_unicast_bytes",
    "tx_vport_rdma_unicast_bytes",
];
/// What counters are called that move on a healthy host; the others lie still.
const MOVING: [&str; 4] = ["data", "packets", "bytes", "requests"];
/// Time before figures are taken: probes, definitions, the first windows.
const WARM_UP: Duration = Duration::from_secs(10);
/// Cadence of a burst.
const BURST_MS: u64 = 1;
/// How long the burst is measured; the node exporter too.
const SHORT: Duration = Duration::from_secs(20);

/// Options of `bench agent`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// How long to look, seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// What is measured.
#[derive(Serialize)]
pub struct Figures {
    /// Of one core, the whole agent.
    cpu_percent: f64,
    /// With the tape full: what it has not taken yet of its memory is added.
    rss_mib: f64,
    bpf_maps_mib: f64,
    samples_per_s: f64,
    /// On the agent's tape, over the time looked at.
    tape_bytes_per_sample: f64,
    /// How far back the tape reaches at that rate once it is full.
    tape_reaches_back_s: f64,
    /// Of the readings on the tape of one NIC.
    timestamp_half_width_us_p99: f64,
    deadline_miss_percent: f64,
    burst: Burst,
    agent_cpu_us_per_sample: f64,
    node_exporter_cpu_us_per_sample: f64,
    /// Where `cpu_percent` goes: by the name of the thread, of one core.
    cpu_percent_by_thread: BTreeMap<String, f64>,
    /// Sources that the governor slowed, with how often their time between reads was doubled: none, where all ran at their
    /// defaults.
    slowed_sources: BTreeMap<String, u32>,
    /// Always: firmware cost does not appear.
    emulated: bool,
    nics: usize,
    counters_per_nic: usize,
    seconds: f64,
    kernel: String,
}

/// One thread that reads 8 interfaces by rtnetlink each millisecond, and one that only wakes up.
#[derive(Serialize)]
struct Burst {
    cadence_ms: u64,
    cpu_percent: f64,
    empty_loop_cpu_percent: f64,
}

/// Measures.
pub fn measure(options: &Options) -> Result<Figures> {
    let step = Step::begin("build for release");
    let daemons = ["--package", "railwatch-collector", "--package", "railwatch-agent"];
    shell::run(Command::new("cargo").args(["build", "--release"]).args(daemons))?;
    step.done();
    packages::install(&["curl", "iproute2"])?;
    let home = std::path::absolute(format!("target/bench/agent-{}", std::process::id()))?;
    fs::create_dir_all(&home)?;
    let tree = tempfile::tempdir_in("/dev/shm").context("a tree in memory")?;
    let figures =
        Emulated::make(tree.path()).and_then(|emulated| emulated.while_moving(|| all(&home, options, tree.path())));
    fs::remove_dir_all(&home).ok();
    figures
}

fn all(home: &Path, options: &Options, tree: &Path) -> Result<Figures> {
    let default = at_default(home, options, tree)?;
    let burst = burst(home)?;
    let node_exporter_cpu_us_per_sample = node_exporter(home, tree)?;
    Ok(Figures {
        cpu_percent: default.cpu_s / default.seconds * 100.0,
        rss_mib: default.rss_mib,
        bpf_maps_mib: default.bpf_maps_mib,
        samples_per_s: default.samples / default.seconds,
        tape_bytes_per_sample: default.tape_bytes_per_sample,
        tape_reaches_back_s: default.tape_bytes_max
            / default.tape_bytes_per_sample
            / (default.samples / default.seconds),
        timestamp_half_width_us_p99: default.half_width_us_p99,
        deadline_miss_percent: default.missed / (default.reads + default.missed) * 100.0,
        burst,
        agent_cpu_us_per_sample: default.cpu_s / default.samples * 1e6,
        node_exporter_cpu_us_per_sample,
        cpu_percent_by_thread: default.cpu_percent_by_thread,
        slowed_sources: default.slowed_sources,
        emulated: true,
        nics: NICS,
        counters_per_nic: COUNTERS,
        seconds: default.seconds,
        kernel: daemon::kernel_release()?,
    })
}

// ---- the emulated host --------------------------------------------------------------------------------

/// The counters' files, open.
pub(super) struct Emulated {
    moving: Vec<(File, u64, u64)>,
}

impl Emulated {
    pub(super) fn make(root: &Path) -> Result<Self> {
        let template = Path::new("tests/fixtures/sysfs/roce-host");
        let mut moving = Vec::new();
        for nic in 0..NICS {
            let device = root.join(format!("class/infiniband/mlx5_{nic}"));
            let interface = root.join(format!("class/net/eth{nic}"));
            for (from, to) in [("class/infiniband/mlx5_0", &device), ("class/net/eth0", &interface)] {
                fs::create_dir_all(to)?;
                shell::quiet(Command::new("cp").arg("-r").arg(template.join(from).join(".")).arg(to))?;
            }
            fs::write(interface.join("ifindex"), format!("{}\n", nic + 2))?;
            let port = device.join("ports/1");
            fs::write(port.join("gid_attrs/ndevs/0"), format!("eth{nic}\n"))?;
            for name in MORE_COUNTERS {
                fs::write(port.join("hw_counters").join(name), "0\n")?;
            }
            let mut count = 0u64;
            for folder in [port.join("hw_counters"), port.join("counters"), interface.join("statistics")] {
                for entry in fs::read_dir(&folder)?.flatten().filter(|entry| entry.file_name() != "lifespan") {
                    count += 1;
                    let name = entry.file_name();
                    if MOVING.iter().any(|end| name.to_string_lossy().ends_with(end)) {
                        let file = File::options().write(true).open(entry.path())?;
                        // Nine digits from the start: no reader sees a number grow by a digit half written.
                        moving.push((file, 100_000_000 + count, 1 + (count * 7919) % 100_000));
                    }
                }
            }
            ensure!(count == COUNTERS as u64, "the tests' tree has {count} counters a NIC here, not {COUNTERS}");
        }
        Ok(Self { moving })
    }

    /// Moves the counters each 10 ms, nearly evenly, while `measure` runs.
    fn while_moving<T>(self, measure: impl FnOnce() -> Result<T>) -> Result<T> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let mover = scope.spawn(|| -> Result<()> {
                let mut moving = self.moving;
                let mut seed = 0x9e37_79b9_7f4a_7c15u64;
                while !stop.load(Relaxed) {
                    for (file, value, pace) in &mut moving {
                        // xorshift64 (Marsaglia 2003): some noise on the pace.
                        seed ^= seed << 13;
                        seed ^= seed >> 7;
                        seed ^= seed << 17;
                        *value += *pace + seed % (*pace / 16 + 1);
                        file.write_all_at(format!("{value}\n").as_bytes(), 0)?;
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            });
            let measured = measure();
            stop.store(true, Relaxed);
            mover.join().map_err(|_| anyhow::anyhow!("moving the counters failed"))??;
            measured
        })
    }
}

// ---- the agent at its defaults ------------------------------------------------------------------------

struct AtDefault {
    cpu_s: f64,
    seconds: f64,
    rss_mib: f64,
    bpf_maps_mib: f64,
    samples: f64,
    reads: f64,
    missed: f64,
    tape_bytes_per_sample: f64,
    tape_bytes_max: f64,
    half_width_us_p99: f64,
    cpu_percent_by_thread: BTreeMap<String, f64>,
    slowed_sources: BTreeMap<String, u32>,
}

fn at_default(home: &Path, options: &Options, tree: &Path) -> Result<AtDefault> {
    let run_dir = home.join("run");
    fs::create_dir_all(&run_dir)?;
    let any = || "127.0.0.1:0".to_owned();
    let listen = Listen { uplink: any(), api: any(), metrics: any() };
    let mut collector = Daemon::start(home, "collector", &mut daemon::collector_command(home, &run_dir, &listen)?)?;
    let run = collector.wait_for(|| false, || RunFile::read(&run_dir))?.context("the collector listens")?;
    daemon::issue(home, "bench", &home.join("pki"))?;
    let page = free_address()?;
    let mut agent = Daemon::start(
        home,
        "agent",
        Command::new(daemon::program("railwatch-agent")?)
            .args(["run", "--no-pin", "--host-name", "bench", "--metrics-listen", &page, "--collector", &run.uplink])
            .arg("--sysfs-root")
            .arg(tree)
            .arg("--state-dir")
            .arg(home.join("agent"))
            .arg("--pki-dir")
            .arg(home.join("pki")),
    )?;
    let log = agent.log().to_owned();
    agent.wait_for(|| false, || fs::read_to_string(&log).ok()?.contains("connected to the collector").then_some(()))?;
    let step = Step::begin(&format!("{NICS} NICs of {COUNTERS} counters at the defaults, for {} s", options.seconds));
    thread::sleep(WARM_UP);
    let look = || -> Result<(Instant, BTreeMap<String, f64>, [f64; 5])> {
        let text = get(&page)?;
        let names = [
            "source_readings_total",
            "source_reads_total",
            "source_missed_deadlines_total",
            "agent_tape_samples_total{fate=\"compressed\"}",
            "agent_tape_compressed_bytes_total",
        ];
        Ok((Instant::now(), cpu_s_by_thread(agent.pid())?, names.map(|name| sum(&text, name))))
    };
    let (begun, cpu_before, before) = look()?;
    thread::sleep(Duration::from_secs(options.seconds));
    let (ended, cpu_after, after) = look()?;
    let [samples, reads, missed, compressed, compressed_bytes] =
        std::array::from_fn(|place| after[place] - before[place]);
    ensure!(samples > 0.0, "no sample was read: {}", log.display());
    ensure!(compressed > 0.0, "nothing was compressed on the tape: look for longer than {} s", options.seconds);
    let text = get(&page)?;
    let tape_bytes = |of: &str| sum(&text, &format!("agent_tape_memory_bytes{{of=\"{of}\"}}"));
    let tape_bytes_max = tape_bytes("max");
    let seconds = (ended - begun).as_secs_f64();
    // A thread that is new has used all it used since.
    let used = |name: &String, after_s: f64| after_s - cpu_before.get(name).copied().unwrap_or_default();
    let figures = AtDefault {
        cpu_s: cpu_after.iter().map(|(name, after_s)| used(name, *after_s)).sum(),
        cpu_percent_by_thread: cpu_after
            .iter()
            .map(|(name, after_s)| (name.clone(), used(name, *after_s) / seconds * 100.0))
            .collect(),
        slowed_sources: slowed(&text),
        seconds,
        rss_mib: status_kib(agent.pid(), "VmRSS:")? as f64 / 1024.0
            + (tape_bytes_max - tape_bytes("used")) / (1024.0 * 1024.0),
        bpf_maps_mib: bpf_maps_kib(agent.pid())? as f64 / 1024.0,
        samples,
        reads,
        missed,
        tape_bytes_per_sample: compressed_bytes / compressed,
        tape_bytes_max,
        half_width_us_p99: half_width_us_p99(&run.api, &home.join("collector/token-read"))?,
    };
    step.done();
    Ok(figures)
}

/// Of all readings of one NIC in the last seconds, as the tape has them.
fn half_width_us_p99(api: &str, token: &Path) -> Result<f64> {
    let authorization = format!("Authorization: Bearer {}", fs::read_to_string(token)?.trim());
    let ask = |path: &str| -> Result<serde_json::Value> {
        let url = format!("{api}/v1/hosts/bench/{path}");
        let text = shell::output(Command::new("curl").args(["--silent", "--fail", "-H", &authorization, &url]))?;
        Ok(serde_json::from_str(&text)?)
    };
    let all = ask("series")?;
    let of_one = all.as_array().into_iter().flatten().filter(|series| series["entity"] == "mlx5_0/1");
    let wanted: Vec<_> = of_one.filter_map(|series| Some(format!("series={}", series["series"].as_str()?))).collect();
    let tape = ask(&format!("tape?span_ms=20000&{}", wanted.join("&")))?;
    let readings = tape["series"].as_array().into_iter().flatten().flat_map(|series| series["readings"].as_array());
    let widths = readings.flatten().filter_map(|reading| reading["half_width_ns"].as_f64()).map(|ns| ns / 1e3);
    let widths: Vec<f64> = widths.collect();
    ensure!(!widths.is_empty(), "the tape has no reading of a NIC");
    Ok(percentile(&widths, 0.99))
}

// ---- a burst ----------------------------------------------------------------------------------------

/// Makes virtual interfaces, pairs of them, and becomes the command that follows: all in a network namespace that ends with it.
const WITH_INTERFACES: &str = "ip link set lo up
pair=0
while [ $pair -lt $PAIRS ]; do
    ip link add a$pair type veth peer name b$pair
    ip link set a$pair up
    ip link set b$pair up
    pair=$((pair + 1))
done
exec \"$@\"";

fn burst(home: &Path) -> Result<Burst> {
    let configuration = home.join("burst.toml");
    // What would take the readings is not there: they cost the same, and wait in the spool.
    fs::write(
        &configuration,
        format!(
            "collector = \"127.0.0.1:9\"\n[gpu]\nenabled = false\n[sampling]\nsoftware_interfaces = [\"veth\"]\n\
             cpu_budget_percent = 100.0\nrtnl_budget_percent = 100.0\n\
             cadence_ms = {{ netdev = {BURST_MS} }}\n"
        ),
    )?;
    let mut agent = Daemon::start(
        home,
        "burst",
        Command::new("unshare")
            .args(["--net", "sh", "-ec", WITH_INTERFACES, "sh"])
            .env("PAIRS", (NICS / 2).to_string())
            .arg(daemon::program("railwatch-agent")?)
            .args(["run", "--host-name", "bench", "--metrics-listen", "127.0.0.1:0", "--config"])
            .arg(&configuration)
            .arg("--state-dir")
            .arg(home.join("burst-state"))
            .arg("--pki-dir")
            .arg(home.join("pki")),
    )?;
    let is_reader = |name: &str| name == "rw-netdev";
    let pid = agent.pid();
    agent.wait_for(|| false, || (cpu_s(pid, is_reader).ok()? > 0.0).then_some(()))?;
    let step = Step::begin(&format!("{NICS} interfaces each {BURST_MS} ms, beside an empty loop"));
    thread::sleep(Duration::from_secs(2));
    let (begun, before) = (Instant::now(), cpu_s(pid, is_reader)?);
    let empty_s = empty_loop(SHORT)?;
    let (seconds, used_s) = (begun.elapsed().as_secs_f64(), cpu_s(pid, is_reader)? - before);
    step.done();
    Ok(Burst {
        cadence_ms: BURST_MS,
        cpu_percent: used_s / seconds * 100.0,
        empty_loop_cpu_percent: empty_s / SHORT.as_secs_f64() * 100.0,
    })
}

/// Wakes up as a sampling thread does, at absolute deadlines, and does nothing; the processor time of that.
fn empty_loop(time: Duration) -> Result<f64> {
    let looped = thread::spawn(move || -> Result<f64> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let now = || Ok::<_, anyhow::Error>(Duration::from(clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?));
        let used =
            || Ok::<_, anyhow::Error>(Duration::from(clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?));
        let (end, before, mut deadline) = (now()? + time, used()?, now()?);
        while now()? < end {
            deadline = (deadline + Duration::from_millis(BURST_MS)).max(now()?);
            timer.set(Expiration::OneShot(TimeSpec::from_duration(deadline)), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            poll(&mut [PollFd::new(timer.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        }
        Ok((used()? - before).as_secs_f64())
    });
    looped.join().map_err(|_| anyhow::anyhow!("the empty loop failed"))?
}

// ---- the peer ---------------------------------------------------------------------------------------

/// Processor time per sample of the node exporter, scraped without a pause.
fn node_exporter(home: &Path, tree: &Path) -> Result<f64> {
    let prefix = std::path::absolute("target/node-exporter")?;
    packages::unpacked(&prefix, &["prometheus-node-exporter"], false)?;
    let address = free_address()?;
    let mut exporter = Daemon::start(
        home,
        "node-exporter",
        Command::new(prefix.join("usr/bin/prometheus-node-exporter"))
            .args(["--collector.disable-defaults", "--collector.infiniband", "--collector.netclass"])
            .arg("--web.disable-exporter-metrics")
            .arg(format!("--path.sysfs={}", tree.display()))
            .arg(format!("--web.listen-address={address}")),
    )?;
    exporter.wait_for(|| false, || get(&address).ok())?;
    let step = Step::begin("the node exporter, scraped without a pause");
    let (begun, before, mut samples) = (Instant::now(), exporter.cpu_seconds()?, 0);
    while begun.elapsed() < SHORT {
        samples +=
            get(&address)?.lines().filter(|line| !line.starts_with('#') && !line.starts_with("node_scrape")).count();
    }
    let used_s = exporter.cpu_seconds()? - before;
    ensure!(samples > 0, "the node exporter gave no sample");
    step.done();
    Ok(used_s / samples as f64 * 1e6)
}

// ---- reading ----------------------------------------------------------------------------------------

/// Processor time of those threads of a process whose name is wanted. Source: Documentation/scheduler/sched-stats.rst,
/// /proc/PID/task/TID/schedstat, first field, nanoseconds.
fn cpu_s(pid: u32, wanted: impl Fn(&str) -> bool) -> Result<f64> {
    Ok(cpu_s_by_thread(pid)?.iter().filter(|(name, _)| wanted(name)).map(|(_, used_s)| used_s).sum())
}

/// The same, of all threads by name.
fn cpu_s_by_thread(pid: u32) -> Result<BTreeMap<String, f64>> {
    let mut used = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        // A thread may end meanwhile.
        let Ok(name) = fs::read_to_string(task.path().join("comm")) else { continue };
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let ns = text.split_whitespace().next().context("schedstat has fields")?.parse::<u64>()?;
        *used.entry(name.trim_end().to_owned()).or_default() += ns as f64 / 1e9;
    }
    Ok(used)
}

/// Sources whose time between reads was doubled, by the metrics page.
fn slowed(page: &str) -> BTreeMap<String, u32> {
    let of_source = |line: &str| -> Option<(String, u32)> {
        let (labels, value) = line.strip_prefix("railwatch_source_backed_off{source=\"")?.split_once("\"} ")?;
        Some((labels.to_owned(), value.trim().parse::<f64>().ok()? as u32))
    };
    page.lines().filter_map(of_source).filter(|(_, steps)| *steps > 0).collect()
}

fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn get(address: &str) -> Result<String> {
    shell::output(Command::new("curl").args(["--silent", "--fail"]).arg(format!("http://{address}/metrics")))
}

/// All series of one name of a page, added.
fn sum(page: &str, name: &str) -> f64 {
    let name = format!("railwatch_{name}");
    page.lines()
        .filter(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ', ','])))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
