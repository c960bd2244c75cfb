//! `cargo xtask bench latency`: from the moment a counter or a link moves to the moment the collector's API tells of its
//! signal, for each kind of source, with the cadence at which that source was read.
//!
//! Three kinds: a kernel counter read by rtnetlink each millisecond, counters that are a file each read every 100 ms, and
//! link notifications. Each trial moves something at a random phase of the source and waits for the incident that the
//! signal opens or joins, in the event stream that a watcher gets. Agent and collector are whole: mTLS, spool, store.
//! The interfaces are tunnels that lead nowhere and end with this program, the files a tree in memory: what a driver or a firmware adds to a
//! read does not appear here.

use super::{agent::Emulated, statistics::percentile};
use crate::{
    daemon::{self, Daemon, Listen, Profile, RunFile},
    packages, shell,
    shell::Step,
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// Things that are moved in turn: none is moved again before the hold-off of its last signal is over.
const PLACES: usize = 8;
/// Between two trials at least; as much again is random.
const PAUSE: Duration = Duration::from_millis(150);
/// Time for probes, definitions and the first readings.
const WARM_UP: Duration = Duration::from_secs(3);
/// A signal that is not told by then is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of `bench latency`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// How many trials of each kind
    #[arg(long, default_value_t = 200)]
    trials: u32,
    /// Take the daemons of the unoptimised build: quicker to build, slower to run
    #[arg(long)]
    unoptimised: bool,
}

/// What is measured.
#[derive(Serialize)]
pub struct Figures {
    sources: Vec<Latency>,
    trials: u32,
    unoptimised: bool,
    kernel: String,
}

/// From the move to the event in the API's stream.
#[derive(Serialize)]
struct Latency {
    kind: &'static str,
    source: &'static str,
    /// 0: told by the kernel, not read at a cadence.
    cadence_ms: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// What docs/SPECIFICATION.md promises of p99.
    target_ms: u64,
}

/// Measures.
pub fn measure(options: &Options) -> Result<Figures> {
    let profile = if options.unoptimised { Profile::Unoptimised } else { Profile::Release };
    let step = Step::begin("build the daemons");
    daemon::build(profile, &["railwatch-collector", "railwatch-agent"])?;
    step.done();
    packages::install(&["curl", "iproute2"])?;
    let home = std::path::absolute(format!("target/bench/latency-{}", std::process::id()))?;
    fs::create_dir_all(&home)?;
    let tree = tempfile::tempdir_in("/dev/shm").context("a tree in memory")?;
    let sources = all(&home, tree.path(), options.trials, profile);
    fs::remove_dir_all(&home).ok();
    Ok(Figures {
        sources: sources?,
        trials: options.trials,
        unoptimised: options.unoptimised,
        kernel: daemon::kernel_release()?,
    })
}

fn all(home: &Path, tree: &Path, trials: u32, profile: Profile) -> Result<Vec<Latency>> {
    let run_dir = home.join("run");
    fs::create_dir_all(&run_dir)?;
    let any = || "127.0.0.1:0".to_owned();
    let listen = Listen { uplink: any(), api: any(), metrics: any() };
    let command = &mut daemon::collector_command_of(profile, home, &run_dir, &listen)?;
    let mut collector = Daemon::start(home, "collector", command)?;
    let run = collector.wait_for(|| false, || RunFile::read(&run_dir))?.context("the collector listens")?;
    let watcher = Watcher::start(&run.api, &home.join("collector/token-read"))?;
    let mut bench = Bench { home, run, profile, watcher, random: 0x9e37_79b9_7f4a_7c15, trials };

    Emulated::make(tree)?;
    let mut files = (0..PLACES).map(|place| ErrorFile::open(tree, place)).collect::<Result<Vec<_>>>()?;
    let configuration = "[sampling]\ncpu_budget_percent = 100.0\ncadence_ms = { \"rdma.pma\" = 100 }\n";
    let agent = bench.agent("files", configuration, Some(tree))?;
    let of_files = bench.trials("counters in files", "rdma.pma", 100, 120, &mut files)?;
    drop(agent);

    let _no_route = NoRoute::make()?;
    let mut tunnels = (0..PLACES).map(Tunnel::open).collect::<Result<Vec<_>>>()?;
    let configuration = "[sampling]\nsoftware_interfaces = [\"vxlan\"]\ncpu_budget_percent = 100.0\n\
                         cadence_ms = { netdev = 1 }\n";
    let _agent = bench.agent("tunnels", configuration, None)?;
    let of_counters = bench.trials("counters by rtnetlink", "netdev", 1, 50, &mut tunnels)?;
    let mut links: Vec<_> = tunnels.into_iter().map(|tunnel| Link { tunnel, up: true }).collect();
    let of_links = bench.trials("link notifications", "netdev.link", 0, 20, &mut links)?;
    Ok(vec![of_counters, of_files, of_links])
}

/// Something that raises a signal when it is moved.
trait Place {
    /// The element of the incident that tells of it.
    fn element(&self) -> String;

    fn act(&mut self) -> Result<()>;
}

struct Bench<'a> {
    home: &'a Path,
    run: RunFile,
    profile: Profile,
    watcher: Watcher,
    random: u64,
    trials: u32,
}

impl Bench<'_> {
    /// An agent with everything off that is not measured.
    fn agent(&self, name: &'static str, configuration: &str, sysfs_root: Option<&Path>) -> Result<Daemon> {
        let pki = self.home.join(format!("{name}-pki"));
        daemon::issue_of(self.profile, self.home, name, &pki)?;
        let file = self.home.join(format!("{name}.toml"));
        fs::write(
            &file,
            format!("{configuration}[gpu]\nenabled = false\n[drops]\nenabled = false\n[health]\nenabled = false\n"),
        )?;
        let mut command = Command::new(daemon::program_of(self.profile, "railwatch-agent")?);
        command
            .args(["run", "--host-name", name, "--metrics-listen", "127.0.0.1:0", "--collector", &self.run.uplink])
            .arg("--config")
            .arg(file)
            .arg("--state-dir")
            .arg(self.home.join(format!("{name}-state")))
            .arg("--pki-dir")
            .arg(pki);
        if let Some(root) = sysfs_root {
            command.arg("--sysfs-root").arg(root);
        }
        let mut agent = Daemon::start(self.home, name, &mut command)?;
        let log = agent.log().to_owned();
        let is_connected = || fs::read_to_string(&log).ok()?.contains("connected to the collector").then_some(());
        agent.wait_for(|| false, is_connected)?;
        thread::sleep(WARM_UP);
        Ok(agent)
    }

    fn trials(
        &mut self,
        kind: &'static str,
        source: &'static str,
        cadence_ms: u64,
        target_ms: u64,
        places: &mut [impl Place],
    ) -> Result<Latency> {
        let step = Step::begin(&format!("{} trials of {kind}", self.trials));
        let mut took_ms = Vec::new();
        for trial in 0..self.trials {
            let random = self.random();
            thread::sleep(PAUSE + PAUSE.mul_f64(random));
            let place = &mut places[trial as usize % PLACES];
            let element = place.element();
            self.watcher.forget();
            let begun = Instant::now();
            place.act()?;
            let at = self.watcher.told(&element).with_context(|| format!("trial {trial} of {kind}, {element}"))?;
            took_ms.push(at.saturating_duration_since(begun).as_secs_f64() * 1e3);
        }
        step.done();
        Ok(Latency {
            kind,
            source,
            cadence_ms,
            p50_ms: percentile(&took_ms, 0.5),
            p99_ms: percentile(&took_ms, 0.99),
            max_ms: percentile(&took_ms, 1.0),
            target_ms,
        })
    }

    /// From 0 to 1: xorshift64 (Marsaglia 2003).
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Follows the API's event stream.
struct Watcher {
    curl: Child,
    /// Elements of incidents that changed, and when that was read.
    told: Receiver<(Instant, String)>,
}

impl Watcher {
    fn start(api: &str, token: &Path) -> Result<Self> {
        let authorization = format!("Authorization: Bearer {}", fs::read_to_string(token)?.trim());
        let mut curl = Command::new("curl")
            .args(["--silent", "--fail", "--no-buffer", "-H", &authorization, &format!("{api}/v1/watch")])
            .stdout(Stdio::piped())
            .spawn()?;
        let stream = curl.stdout.take().context("curl speaks")?;
        let (sender, told) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let at = Instant::now();
                let value =
                    line.strip_prefix("data: ").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
                let element = value.as_ref().and_then(|value| value["element"]["name"].as_str());
                if let Some(element) = element
                    && sender.send((at, element.to_owned())).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { curl, told })
    }

    fn forget(&self) {
        self.told.try_iter().for_each(drop);
    }

    fn told(&self, element: &str) -> Result<Instant> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (at, of) = self.told.recv_timeout(left).with_context(|| format!("no signal within {PATIENCE:?}"))?;
            if of == element {
                return Ok(at);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Ended with the collector, or ends now.
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

/// A counter that should never move, in a file of the tree.
struct ErrorFile {
    file: File,
    value: u64,
    port: String,
}

impl ErrorFile {
    fn open(tree: &Path, place: usize) -> Result<Self> {
        let path = tree.join(format!("class/infiniband/mlx5_{place}/ports/1/counters/symbol_error"));
        // Five digits from the start: no reader sees a number grow by a digit half written, and it fits 16 bits.
        let value = 10_000;
        fs::write(&path, format!("{value}\n"))?;
        Ok(Self { file: File::options().write(true).open(path)?, value, port: format!("mlx5_{place}/1") })
    }
}

impl Place for ErrorFile {
    fn element(&self) -> String {
        self.port.clone()
    }

    fn act(&mut self) -> Result<()> {
        self.value += 1;
        Ok(self.file.write_all_at(format!("{}\n", self.value).as_bytes(), 0)?)
    }
}

/// Where the tunnels lead: nowhere. Of the networks for documentation (RFC 5737).
const FAR_END: &str = "203.0.113.1/32";

/// The route by which every packet of a tunnel fails. It ends with the bench.
struct NoRoute;

impl NoRoute {
    fn make() -> Result<Self> {
        shell::quiet(Command::new("ip").args(["route", "replace", "unreachable", FAR_END]))?;
        Ok(Self)
    }
}

impl Drop for NoRoute {
    fn drop(&mut self) {
        if let Err(error) = shell::quiet(Command::new("ip").args(["route", "delete", "unreachable", FAR_END])) {
            eprintln!("xtask: the route to {FAR_END} stays: {error:#}");
        }
    }
}

/// A VXLAN interface of our own: a packet that is sent through it finds no route and counts as a carrier error.
struct Tunnel {
    name: String,
    sender: UdpSocket,
    to: SocketAddrV4,
}

/// `struct ifreq` (netdevice(7)), of which the name and the flags are used.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

mod call {
    use super::IfReq;
    // SIOCSIFFLAGS; source: include/uapi/linux/sockios.h.
    nix::ioctl_write_ptr_bad!(set_flags, 0x8914, IfReq);
}

const IFF_UP: i16 = 1;

impl Tunnel {
    fn open(place: usize) -> Result<Self> {
        let name = format!("rwlat{place}");
        // A network for benchmarks (RFC 2544), four addresses for each.
        let address =
            |host: usize| -> Result<Ipv4Addr> { Ok(Ipv4Addr::new(198, 18, 77, u8::try_from(4 * place + host)?)) };
        let (own, broadcast) = (address(1)?, address(3)?);
        let ip = |arguments: String| shell::quiet(Command::new("ip").args(arguments.split(' ')));
        let id = 0x0072_7700 + place;
        let far_end = FAR_END.trim_end_matches("/32");
        ip(format!("link add {name} type vxlan id {id} remote {far_end} dstport 4789 nolearning"))?;
        // It would send packets of its own.
        fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").ok();
        let configured =
            ip(format!("address add {own}/30 dev {name}")).and_then(|()| ip(format!("link set {name} up")));
        let sender = configured.and_then(|()| {
            let sender = UdpSocket::bind((own, 0))?;
            sender.set_broadcast(true)?;
            Ok(sender)
        });
        match sender {
            Ok(sender) => Ok(Self { name, sender, to: SocketAddrV4::new(broadcast, 9) }),
            Err(error) => {
                let _ = ip(format!("link delete {name}"));
                Err(error)
            }
        }
    }

    fn set_up(&self, up: bool) -> Result<()> {
        let mut name = [0; 16];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        let request = IfReq { name, flags: if up { IFF_UP } else { 0 }, rest: [0; 22] };
        // SAFETY: a socket and a whole ifreq, which is only read.
        unsafe { call::set_flags(self.sender.as_raw_fd(), &request) }
            .with_context(|| format!("set {} up or down", self.name))?;
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Err(error) = shell::quiet(Command::new("ip").args(["link", "delete", &self.name])) {
            eprintln!("xtask: the interface {} stays: {error:#}", self.name);
        }
    }
}

impl Place for Tunnel {
    fn element(&self) -> String {
        self.name.clone()
    }

    fn act(&mut self) -> Result<()> {
        self.sender.send_to(b"nowhere", self.to)?;
        Ok(())
    }
}

/// Its link, taken down and up in turn.
struct Link {
    tunnel: Tunnel,
    up: bool,
}

impl Place for Link {
    fn element(&self) -> String {
        self.tunnel.element()
    }

    fn act(&mut self) -> Result<()> {
        self.up = !self.up;
        self.tunnel.set_up(self.up)
    }
}
