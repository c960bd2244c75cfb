//! The product's own daemons in a lab: a collector, an agent per host, the emulated hardware, a gNMI server per switch, and the workload.
//!
//! In: a [`Lab`] whose fabric is up. Out: running processes, each in its node. Never: an agent that sees another host's
//! processes (its scope is the node's cgroup) or packets (its network namespace), or anything pinned in the kernel.
//!
//! The health of the host (pressure, memory, heat, the kernel's log) is the shared machine's and no host's: it is off.

use crate::{
    cgroup,
    enter::{self, Session, enter},
    interrupt,
    lab::Lab,
    plan::{Host, Nic, Switch},
    routing, switch,
    train::{Addresses, addresses_text},
    verify,
};
use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddrV4, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Ports of the collector and the agents: each has its namespace to itself.
const UPLINK_PORT: u16 = 7700;
const API_PORT: u16 = 7701;
/// How long a daemon may take until it answers. Many start at once, on few processors.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A host heard within this time is connected.
const HEARD_MS: u64 = 2000;

/// Packets a second of a NIC, three times what hosts send by default: a link that loses one packet of two hundred is to be sensed within a
/// second, and only four NICs at each leaf share its ways up.
const PACKETS_PER_S_PER_NIC: u32 = 450;
/// See [`PACKETS_PER_S_PER_NIC`]: packets that cross each link in each direction.
const PER_DIRECTION_PER_S: u32 = 500;

/// A process of a node.
pub struct Daemon {
    /// Whose.
    pub node: String,
    /// Its program, as its log is named.
    pub program: &'static str,
    process: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(lab: &Lab, node: &str, program: &'static str, command: &mut Command) -> Result<Self> {
        let log = lab.log(node, program);
        let out =
            File::options().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let process = command.spawn().with_context(|| format!("start {program} of {node}"))?;
        Ok(Self { node: node.to_owned(), program, process, log })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal::kill(self.pid(), signal).with_context(|| format!("send {signal} to {} of {}", self.program, self.node))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "{} of {} does not end", self.program, self.node);
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// An error when it is gone.
    ///
    /// # Errors
    /// With its last words.
    pub fn must_run(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let text = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n");
                anyhow::bail!("{} of {} ended by itself ({status}):\n{last}", self.program, self.node)
            }
        }
    }
}

/// All of them.
pub struct Daemons {
    /// The collector.
    pub collector: Daemon,
    /// By rank of their host.
    pub agents: Vec<Daemon>,
    /// The process that is all emulated hardware.
    pub hardware: Daemon,
    /// The switches' gNMI servers, in the order of the plan.
    pub switches: Vec<Daemon>,
    /// By rank.
    pub ranks: Vec<Daemon>,
}

impl Daemons {
    /// Starts all, and waits until every host is connected.
    ///
    /// # Errors
    /// One that does not come up, with its last words.
    pub fn start(lab: &Lab) -> Result<Self> {
        let switches = lab.plan.switches.iter().map(|switch| start_switch(lab, switch)).collect::<Result<_>>()?;
        let mut hardware = start_hardware(lab)?;
        let mut collector = start_collector(lab)?;
        wait_for_api(lab, &mut collector)?;
        for host in &lab.plan.hosts {
            issue(lab, host)?;
        }
        hardware.must_run()?;
        let agents = lab.plan.hosts.iter().map(|host| start_agent(lab, host)).collect::<Result<_>>()?;
        let mut daemons = Self { collector, agents, hardware, switches, ranks: Vec::new() };
        daemons.connected(lab)?;
        daemons.ranks = lab.plan.hosts.iter().map(|host| start_rank(lab, host)).collect::<Result<_>>()?;
        Ok(daemons)
    }

    /// Waits until every host is connected.
    ///
    /// # Errors
    /// One is not, or a daemon ended.
    pub fn connected(&mut self, lab: &Lab) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.collector.must_run()?;
            for daemon in self.agents.iter_mut().chain(&mut self.switches) {
                daemon.must_run()?;
            }
            let rows = get(lab, "/v1/hosts").unwrap_or_default();
            let heard = |name: &str| {
                rows.as_array().is_some_and(|rows| {
                    rows.iter()
                        .any(|row| row["host"] == name && row["last_seen_ms"].as_u64().is_some_and(|ms| ms < HEARD_MS))
                })
            };
            let missing: Vec<_> =
                lab.plan.hosts.iter().map(|host| host.name.as_str()).filter(|name| !heard(name)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "not connected after {PATIENCE:?}: {}", missing.join(", "));
            interrupt::pause(LOOK_AGAIN)?;
        }
    }
}

/// Starts the collector.
///
/// # Errors
/// It cannot be started.
pub fn start_collector(lab: &Lab) -> Result<Daemon> {
    let node = &lab.plan.management;
    let config = lab.folder.join("collector.toml");
    fs::write(&config, collector_configuration(lab)).with_context(|| format!("write {}", config.display()))?;
    let mut command = Command::new(lab.programs.own("railwatch-collector")?);
    command
        .arg("run")
        .arg("--config")
        .arg(&config)
        .arg("--state-dir")
        .arg(lab.folder.join("collector"))
        .arg("--run-dir")
        .arg(lab.folder.join("collector-run"))
        .args(["--uplink-listen", &format!("{}:{UPLINK_PORT}", lab.plan.collector)])
        .args(["--api-listen", &format!("127.0.0.1:{API_PORT}"), "--metrics-listen", "127.0.0.1:7702"]);
    fs::create_dir_all(lab.folder.join("collector-run"))?;
    enter(lab, node, Session::Own, &mut command)?;
    Daemon::start(lab, node, "collector", &mut command)
}

/// Every switch is asked, over a network of management that nothing else is in. The map's inventory file is not there until `lab verify
/// --inventory` writes it.
fn collector_configuration(lab: &Lab) -> String {
    let of = |switch: &Switch| {
        format!(
            "[[switches]]\nname = {:?}\naddress = \"{}:{}\"\ninsecure = true\nsample_ms = 1000\n",
            switch.name,
            switch.management,
            switch::PORT
        )
    };
    let switches: String = lab.plan.switches.iter().map(of).collect();
    format!(
        "[probes]\nper_direction_per_s = {PER_DIRECTION_PER_S}.0\npackets_per_s_per_nic_max = {PACKETS_PER_S_PER_NIC}.0\nreport_every_ms = 500\n\n[map]\ninventory_file = {:?}\n\n{switches}",
        verify::inventory_file(lab)
    )
}

/// Starts a switch's gNMI server.
fn start_switch(lab: &Lab, switch: &Switch) -> Result<Daemon> {
    let mut command = Command::new(lab.programs.own("railwatch-lab-switch")?);
    command
        .args(["--name", &switch.name, "--address", &switch.management.to_string(), "--sysfs"])
        .arg(lab.node_folder(&switch.name).join("real-sys"));
    // It asks lldpd by lldpcli.
    routing::environment(lab, &mut command)?;
    enter(lab, &switch.name, Session::Own, &mut command)?;
    Daemon::start(lab, &switch.name, "gnmi", &mut command)
}

/// Waits until the collector answers.
///
/// # Errors
/// It does not, or it ended.
pub fn wait_for_api(lab: &Lab, collector: &mut Daemon) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = get(lab, "/v1/version") {
        collector.must_run()?;
        if Instant::now() > end {
            return Err(error).context("the collector does not answer");
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Gives a host's agent its certificate.
///
/// # Errors
/// The collector's command does not.
pub fn issue(lab: &Lab, host: &Host) -> Result<()> {
    let output = Command::new(lab.programs.own("railwatch-collector")?)
        .args(["pki", "issue", &host.name, "--state-dir"])
        .arg(lab.folder.join("collector"))
        .arg("--out")
        .arg(lab.node_folder(&host.name).join("pki"))
        .output()
        .context("start railwatch-collector")?;
    ensure!(output.status.success(), "pki issue {}: {}", host.name, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Starts a host's agent. Emulated ports send no notifications as a kernel does, and are looked at the more often.
///
/// # Errors
/// It cannot be started.
pub fn start_agent(lab: &Lab, host: &Host) -> Result<Daemon> {
    let folder = lab.node_folder(&host.name);
    let config = folder.join("agent.toml");
    fs::write(&config, agent_configuration(lab, host)?).with_context(|| format!("write {}", config.display()))?;
    let mut command = Command::new(lab.programs.own("railwatch-agent")?);
    command.arg("run").arg("--config").arg(&config);
    enter(lab, &host.name, Session::Own, &mut command)?;
    Daemon::start(lab, &host.name, "agent", &mut command)
}

fn agent_configuration(lab: &Lab, host: &Host) -> Result<String> {
    let folder = lab.node_folder(&host.name);
    let path = |name: &str| folder.join(name).display().to_string();
    let cgroup = cgroup::root()?.join(cgroup::folder_name(&lab.name)).join(&host.name);
    Ok(format!(
        "host_name = {name:?}\nstate_dir = {state:?}\ncollector = \"{collector}:{UPLINK_PORT}\"\nserver_name = \"localhost\"\n\
         pki_dir = {pki:?}\n\n[gpu]\nscope = \"cgroup:{cgroup}\"\npin_dir = \"\"\n\n[sampling]\nsysfs_root = {sysfs:?}\n\
         software_interfaces = [\"veth\"]\ncadence_ms = {{ optics = 10000, \"netdev.link\" = 100 }}\n\n[peers]\nown_interfaces = true\n\n[drops]\nscope = \"netns\"\n\n[health]\nenabled = false\n\n\
         [tape]\nbytes_max = 8388608\n\n[probe]\nenabled = true\nkey_file = {key:?}\n\
         packets_per_s_per_nic_max = {PACKETS_PER_S_PER_NIC}\nanswers_per_source_per_s = 10000\n",
        name = host.name,
        state = path("agent"),
        collector = lab.plan.collector,
        pki = path("pki"),
        cgroup = cgroup.display(),
        sysfs = path("sys"),
        key = probe_key(lab)?.display().to_string(),
    ))
}

/// The key that all hosts of a lab share for probes, made for each lab.
fn probe_key(lab: &Lab) -> Result<PathBuf> {
    let path = lab.folder.join("probe.key");
    let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
    match made {
        Ok(mut file) => {
            let mut bytes = [0; 32];
            File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).context("draw a key")?;
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("make {}", path.display())),
    }
    Ok(path)
}

fn start_hardware(lab: &Lab) -> Result<Daemon> {
    let node = &lab.plan.management;
    let mut command = Command::new(std::env::current_exe().context("find the own program")?);
    command.args(["hardware", &lab.name]);
    // It reaches into every host's namespace, and so is inside none.
    enter::join(lab, node, &mut command)?;
    let mut daemon = Daemon::start(lab, node, "hardware", &mut command)?;
    lab.plan.hosts.iter().try_for_each(|host| wait_for_hardware(lab, host, &mut daemon))?;
    Ok(daemon)
}

/// Starts the emulated hardware of one host, which ends with that host.
///
/// # Errors
/// It does not come up.
pub fn start_hardware_of(lab: &Lab, host: &Host) -> Result<Daemon> {
    let mut command = Command::new(std::env::current_exe().context("find the own program")?);
    command.args(["hardware", &lab.name, "--host", &host.name]);
    enter::join(lab, &host.name, &mut command)?;
    let mut daemon = Daemon::start(lab, &host.name, "hardware", &mut command)?;
    wait_for_hardware(lab, host, &mut daemon)?;
    Ok(daemon)
}

fn wait_for_hardware(lab: &Lab, host: &Host, daemon: &mut Daemon) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let devices = lab.node_folder(&host.name).join("sys/class/infiniband");
    // The last file of a card; before that an agent would find it half made.
    let is_made = |nic: &Nic| {
        fs::metadata(devices.join(&nic.rdma_device).join("ports/1/phys_state")).is_ok_and(|file| file.len() > 0)
    };
    while !host.nics.iter().all(is_made) {
        daemon.must_run()?;
        ensure!(Instant::now() < end, "the emulated hardware of {} does not come up", host.name);
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn start_rank(lab: &Lab, host: &Host) -> Result<Daemon> {
    let ranks = lab.plan.hosts.iter().map(|host| host.nics.iter().map(|nic| nic.address).collect()).collect();
    let mut command = Command::new(lab.programs.own("railwatch-lab-train")?);
    command
        .args(["--rank", &host.rank.to_string(), "--ranks", &addresses_text(&Addresses(ranks))])
        .arg("--libraries")
        .arg(&lab.programs.libraries)
        .arg("--losses")
        .arg(lab.node_folder(&host.name).join("losses"));
    enter(lab, &host.name, Session::Own, &mut command)?;
    Daemon::start(lab, &host.name, "rank", &mut command)
}

/// Asks the collector's API.
///
/// # Errors
/// It does not answer, or not with what was asked for.
pub fn get(lab: &Lab, path: &str) -> Result<Value> {
    let token = fs::read_to_string(lab.folder.join("collector/token-read")).context("read the collector's token")?;
    let address = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, API_PORT);
    let mut stream = enter::inside(lab, &lab.plan.management, || {
        TcpStream::connect_timeout(&address.into(), Duration::from_secs(5)).context("connect to the collector")
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // 1.0: the answer comes in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", token.trim())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the collector's answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the collector's answer has no end of its head")?;
    ensure!(
        head.split_whitespace().nth(1) == Some("200"),
        "GET {path}: {}\n{body}",
        head.lines().next().unwrap_or_default()
    );
    Ok(serde_json::from_str(body)?)
}
