//! Who is silent, and why: agents as processes of their own, one of which is stopped, one killed and one cut off, against a collector over real
//! TCP and mTLS. The stopped one's host is never called down, and the killed one's kernel has closed the stream.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;

use agent::{Agent, PATIENCE, credentials, hello, mono_ns};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid, gettid},
};
use railwatch_collector::{
    certificates,
    config::{Config, Overrides},
    daemon::Daemon,
    live::rows::HostRow,
};
use railwatch_engine::{Incident, IncidentState};
use railwatch_pki::AgentConnector;
use railwatch_store::{IncidentFilter, Reader};
use railwatch_wire::v1::{self, agent_message::Body};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tonic::transport::Endpoint;

/// What tells a process of this program whose agent it is: host, folder of its certificates, address of the collector, and its own address.
const ORDERS: &str = "RAILWATCH_TEST_AGENT";
/// What such a process says when it is in a network namespace of its own, before the number of its thread.
const ISOLATED: &str = "isolated: ";
/// The heartbeat of an agent.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// Longer than a kernel is asked in vain before it counts as gone: what is right for so long stays right.
const LONG: Duration = Duration::from_secs(8);
/// RFC 2544's range for tests, within namespaces of this program's own.
const NETWORK: &str = "198.18.7";

/// A process of this program that is an agent, in a network namespace of its own.
struct Process {
    child: Child,
    /// What it says, read no further.
    _says: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    /// Joined to this process's namespace by a cable of which this end is called after it.
    fn start(number: u8, host: &str, folder: &Path, port: u16) -> Self {
        let (ours, theirs) = (format!("{NETWORK}.{}", number * 2), format!("{NETWORK}.{}", number * 2 + 1));
        let orders = format!("{host} {} {ours}:{port} {theirs}/31", folder.display());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_agent", "--ignored", "--nocapture"])
            .env(ORDERS, orders)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let thread = lines.find_map(|line| Some(line.unwrap().split_once(ISOLATED)?.1.to_owned()));
        ip(&format!("link add {host} type veth peer name eth0 netns {}", thread.unwrap()));
        ip(&format!("addr add {ours}/31 dev {host}"));
        ip(&format!("link set {host} up"));
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Self { child, _says: lines }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

#[test]
#[ignore = "the process of an agent, which the other test starts"]
fn an_agent() {
    let orders = std::env::var(ORDERS).unwrap();
    let [host, folder, collector, own] = orders.split(' ').collect::<Vec<_>>().try_into().unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    // A thread's alone, which a thread's number names.
    println!("{ISOLATED}{}", gettid());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    ip(&format!("addr add {own} dev eth0"));
    ip("link set eth0 up");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let agent = speak(host, Path::new(folder), collector).await;
        agent.await;
    });
}

/// Connects, and then says every 200 ms that it lives.
async fn speak(host: &str, folder: &Path, collector: &str) -> impl Future<Output = ()> + use<> {
    let connector = AgentConnector::new(collector, "localhost", credentials(folder)).unwrap();
    // The cable may not be up yet.
    let begun = Instant::now();
    let channel = loop {
        match Endpoint::from_static("http://collector").connect_with_connector(connector.clone()).await {
            Ok(channel) => break channel,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(HEARTBEAT).await;
    };
    let mut agent = Agent::attach(channel).await;
    agent.say(Body::Hello(hello(host))).await;
    async move {
        loop {
            tokio::select! {
                answer = agent.next() => if answer.is_none() { return },
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
            agent.say(Body::Snapshot(v1::Snapshot { taken_mono_ns: mono_ns(), ..v1::Snapshot::default() })).await;
        }
    }
}

struct World {
    daemon: Daemon,
    database: PathBuf,
}

impl World {
    fn incidents(&self, host: &str) -> Vec<Incident> {
        let filter = IncidentFilter { host: Some(host.to_owned()), ..IncidentFilter::default() };
        Reader::open(&self.database).unwrap().incidents(&filter).unwrap()
    }

    fn row(&self, host: &str) -> Option<HostRow> {
        self.daemon.live().hosts().into_iter().find(|row| row.host == host)
    }

    fn is_heard(&self, host: &str) -> bool {
        self.row(host).is_some_and(|row| row.connected && row.last_seen_ms < 400)
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            let all = ["stopped", "killed", "cut"].map(|host| (self.incidents(host), self.row(host)));
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}: {all:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The newest incident of this host is open and blames this most.
    fn is_blamed(&self, host: &str, fault_mode: &str) -> bool {
        let newest = self.incidents(host).into_iter().next();
        newest
            .is_some_and(|newest| newest.state == IncidentState::Open && newest.hypotheses[0].fault_mode == fault_mode)
    }
}

#[test]
fn a_stopped_agent_is_stalled_a_killed_one_dead_and_a_host_that_is_cut_off_down() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root, which CI has");
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    // Before there is a second thread: all that follow are in this namespace, and it goes with the program.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(told());
}

async fn told() {
    let directory = tempfile::tempdir().unwrap();
    let (path, state_dir) = (directory.path().join("collector.toml"), directory.path().join("state"));
    // On a busy machine others may be late, too: they are no part of one story here.
    std::fs::write(&path, "[engine]\nsilent_together_min = 1000\n").unwrap();
    let any = Some(([127, 0, 0, 1], 0).into());
    let overrides = Overrides {
        state_dir: Some(state_dir.clone()),
        run_dir: Some(directory.path().join("run")),
        uplink_listen: Some(([0, 0, 0, 0], 0).into()),
        api_listen: any,
        metrics_listen: any,
    };
    let daemon = Daemon::start(Config::load(&path, &overrides).unwrap()).await.unwrap();
    let port = daemon.addresses().uplink.port();
    let world = World { daemon, database: state_dir.join("railwatch.db") };
    let issue = |host: &str| {
        let folder = directory.path().join(host);
        certificates::issue(&state_dir, host, &folder).unwrap();
        folder
    };
    for host in ["a", "b", "c", "d", "e"] {
        tokio::spawn(speak(host, &issue(host), &format!("127.0.0.1:{port}")).await);
    }
    let hosts = ["stopped", "killed", "cut"];
    let [stopped, mut killed, _cut] = std::array::from_fn(|number| {
        Process::start(u8::try_from(number).unwrap(), hosts[number], &issue(hosts[number]), port)
    });
    world.until("all are heard", |world| hosts.iter().all(|host| world.is_heard(host))).await;

    stopped.signal(Signal::SIGSTOP);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    ip("link set cut down");
    world.until("a stopped agent is stalled", |world| world.is_blamed("stopped", "agent_stalled")).await;
    world.until("a killed agent is dead", |world| world.is_blamed("killed", "agent_silent")).await;
    world.until("a host that is cut off is down", |world| world.is_blamed("cut", "host_down")).await;
    for host in hosts {
        let first = world.incidents(host).pop().unwrap();
        println!("{host}: told {} ms after its last word", (first.opened.0 - first.started.0) / 1_000_000);
    }
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        for incident in world.incidents("stopped") {
            let blamed: Vec<_> = incident.hypotheses.iter().map(|hypothesis| hypothesis.fault_mode.as_str()).collect();
            assert!(!blamed.contains(&"host_down"), "{incident:#?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.is_blamed("stopped", "agent_stalled") && world.is_blamed("cut", "host_down"));
    let (stopped_row, cut_row) = (world.row("stopped").unwrap(), world.row("cut").unwrap());
    assert!(stopped_row.connected && stopped_row.kernel_last_seen_ms < Some(2_500), "{stopped_row:?}");
    assert!(cut_row.connected && cut_row.kernel_last_seen_ms > Some(2_500), "{cut_row:?}");
    let down = world.incidents("cut").remove(0).hypotheses.remove(0);
    assert!(down.evidence_for[0].contains("its kernel has acknowledged nothing"), "{down:?}");

    world
        .until("a connection on which nothing is acknowledged is given up", |world| {
            world.row("cut").is_some_and(|row| !row.connected)
        })
        .await;
    assert!(world.is_blamed("cut", "host_down"), "nobody closed it: {:#?}", world.incidents("cut"));
    assert!(world.row("stopped").unwrap().connected, "a stopped agent keeps its stream");
    stopped.signal(Signal::SIGCONT);
    world
        .until("who is heard again is over", |world| {
            world.incidents("stopped").iter().all(|incident| incident.state == IncidentState::Resolved)
        })
        .await;
    world.daemon.stop().await;
}
