//! A prober's host, a router and a responder's host, in network namespaces that end with the test. Needs root and iproute2.
#![allow(dead_code, reason = "each test file uses its part")]

use nix::sched::{CloneFlags, setns, unshare};
use railwatch_probe::{
    ConnectionCounts, Counts, FlowResult, FlowSpec, Key, Limits, Mesh, MeshPlan, Outcome, Outlet, PER_SOURCE_MAX, Plan,
    ProbeSignal, Report, Responder, StampedSocket, StreamResponder, Transport, run,
};
use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

pub const KEY: &[u8] = b"the key of the cluster under test";
pub const RESPONDER: &str = "10.9.2.2:7704";
/// In the environment of this test run again as a process that answers.
pub const AS_RESPONDER: &str = "RAILWATCH_PROBE_ANSWERS_IN";

pub fn key() -> Key {
    Key::new(KEY).unwrap()
}

/// The namespaces of `a` (10.9.1.2), a router, and `b` (10.9.2.2); this thread is in `a`'s.
pub struct Fabric {
    pub router: File,
    pub b: File,
}

fn namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

pub fn shell(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command in a namespace, on a thread of its own.
pub fn within(namespace: &File, command: &str) {
    let command = command.to_owned();
    at(namespace, move || shell(&command));
}

/// Does something in a namespace, on a thread of its own.
pub fn at<T: Send + 'static>(namespace: &File, act: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = namespace.try_clone().unwrap();
    spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        act()
    })
    .join()
    .unwrap()
}

/// A namespace of nobody yet.
pub fn made() -> File {
    spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own: this test needs root");
        shell("ip link set lo up");
        namespace()
    })
    .join()
    .unwrap()
}

/// A namespace's name for `ip`: a descriptor of this process.
pub fn of(file: &File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// From now on this thread is in a namespace of its own.
pub fn enter_a_new_one() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let _ = Command::new("modprobe").arg("veth").status();
}

impl Fabric {
    fn new() -> Self {
        let (router, b) = (made(), made());
        enter_a_new_one();
        shell(&format!(
            "ip link add a0 type veth peer name r1 netns {router}; ip link set a0 up; ip addr add 10.9.1.2/24 dev a0
             ip route add default via 10.9.1.1",
            router = of(&router)
        ));
        within(
            &router,
            &format!(
                "ip link set r1 up; ip addr add 10.9.1.1/24 dev r1
                 ip link add r2 type veth peer name b0 netns {b}; ip link set r2 up; ip addr add 10.9.2.1/24 dev r2
                 echo 1 > /proc/sys/net/ipv4/ip_forward",
                b = of(&b)
            ),
        );
        within(&b, "ip link set b0 up; ip addr add 10.9.2.2/24 dev b0; ip route add default via 10.9.2.1");
        Self { router, b }
    }

    /// A responder on a thread of its own, until `stop`.
    pub fn responder(&self, limits: Limits, stop: &Arc<AtomicBool>) -> Arc<Counts> {
        self.responder_at(RESPONDER, limits, stop)
    }

    pub fn responder_at(&self, at: &'static str, limits: Limits, stop: &Arc<AtomicBool>) -> Arc<Counts> {
        responder_in(&self.b, at, limits, stop)
    }
}

impl Fabric {
    /// One that answers over TCP, likewise; it has let go of its port once the thread is joined.
    pub fn stream_responder(
        &self,
        limits: Limits,
        per_source_max: usize,
        stop: &Arc<AtomicBool>,
    ) -> (Arc<Counts>, Arc<ConnectionCounts>, JoinHandle<()>) {
        let (b, stop) = (self.b.try_clone().unwrap(), Arc::clone(stop));
        let (tell, told) = std::sync::mpsc::channel();
        let thread = spawn(move || {
            setns(&b, CloneFlags::CLONE_NEWNET).unwrap();
            let responder = StreamResponder::listen(RESPONDER.parse().unwrap(), key(), limits, per_source_max).unwrap();
            tell.send((responder.counts(), responder.connections())).unwrap();
            responder.run(&stop).unwrap();
        });
        let (counts, connections) = told.recv().unwrap();
        (counts, connections, thread)
    }
}

/// A responder in a namespace, on a thread of its own, until `stop`.
pub fn responder_in(namespace: &File, at: &'static str, limits: Limits, stop: &Arc<AtomicBool>) -> Arc<Counts> {
    let (namespace, stop) = (namespace.try_clone().unwrap(), Arc::clone(stop));
    let (tell, told) = std::sync::mpsc::channel();
    spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let responder = Responder::new(StampedSocket::bind(at.parse().unwrap(), 0).unwrap(), key(), limits);
        tell.send(responder.counts()).unwrap();
        responder.run(&stop).unwrap();
    });
    told.recv().unwrap()
}

/// On a thread of its own, in namespaces of its own.
pub fn in_fabric(test: impl FnOnce(&Fabric) + Send + 'static) {
    if let Err(panic) = spawn(move || test(&Fabric::new())).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A process that answers, and can be stopped: this test program again.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Of a test file that has `answer_as_a_process`.
    pub fn start(fabric: &Fabric) -> Self {
        use std::os::fd::AsRawFd;
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), fabric.b.as_raw_fd());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "answer_as_a_process", "--ignored"]).env(AS_RESPONDER, namespace);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// What `answer_as_a_process` does.
pub fn answer_as_a_process() {
    let Some(namespace) = std::env::var_os(AS_RESPONDER) else { return };
    setns(File::open(namespace).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
    let at = RESPONDER.parse::<SocketAddr>().unwrap();
    let streams = StreamResponder::listen(at, key(), Limits::default(), PER_SOURCE_MAX).unwrap();
    spawn(move || streams.run(&AtomicBool::new(false)).unwrap());
    let socket = StampedSocket::bind(at, 0).unwrap();
    Responder::new(socket, key(), Limits::default()).run(&AtomicBool::new(false)).unwrap();
}

/// By hand, over UDP, from a free port.
pub fn udp_plan(count: u64) -> Plan {
    Plan {
        transport: Transport::Udp,
        target: RESPONDER.parse().unwrap(),
        source: None,
        source_port: 0,
        flows: 1,
        count,
        interval: Duration::from_millis(2),
        size_bytes: 64,
        dscp: 26,
        timeout: Duration::from_millis(500),
    }
}

/// Carries a plan out by hand.
pub fn probe(plan: &Plan) -> (Report, Vec<Outcome>) {
    let mut outcomes = Vec::new();
    let report = run(plan, &key(), |_, outcome| outcomes.push(*outcome)).unwrap();
    (report, outcomes)
}

/// Of a mesh, over UDP, 50 times a second.
pub fn udp_flow(id: u64) -> FlowSpec {
    FlowSpec {
        id,
        interface: "a0".into(),
        source: [10, 9, 1, 2].into(),
        source_port: 40_000 + u16::try_from(id).unwrap(),
        target_host: "b".into(),
        target_interface: "b0".into(),
        destination: RESPONDER.parse().unwrap(),
        transport: Transport::Udp,
        size_bytes: 64,
        dscp: 26,
        interval: Duration::from_millis(20),
        offset: Duration::from_millis(id),
        timeout: Duration::from_millis(200),
    }
}

/// What a mesh is to do.
pub fn mesh_plan(revision: u64, flows: Vec<FlowSpec>) -> MeshPlan {
    MeshPlan {
        epoch: 1,
        revision,
        lease: Duration::from_secs(60),
        report_every: Duration::from_millis(100),
        packets_per_s_per_nic_max: 1000,
        flows,
        quiet: vec![],
        malformed: vec![],
    }
}

/// What a mesh tells.
#[derive(Clone, Default)]
pub struct Told(pub Arc<Mutex<(Vec<FlowResult>, Vec<ProbeSignal>)>>);

impl Outlet for Told {
    fn results(&mut self, _: u64, from_ns: u64, to_ns: u64, flows: Vec<FlowResult>) {
        assert!(from_ns < to_ns);
        self.0.lock().unwrap().0.extend(flows);
    }

    fn signal(&mut self, signal: ProbeSignal) {
        self.0.lock().unwrap().1.push(signal);
    }
}

impl Told {
    pub fn sum(&self, of: impl Fn(&FlowResult) -> u32) -> u32 {
        self.0.lock().unwrap().0.iter().map(of).sum()
    }

    pub fn signals(&self) -> Vec<ProbeSignal> {
        self.0.lock().unwrap().1.clone()
    }

    pub fn named(&self, name: &str) -> bool {
        self.signals().iter().any(|signal| signal.name == name)
    }
}

/// A mesh of up to 1,000 flows, and what it tells.
pub fn start() -> (Mesh, Told) {
    let told = Told::default();
    (Mesh::start(key(), 1000, Box::new(told.clone())).unwrap(), told)
}

/// What is counted so far.
pub fn counted(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

/// Waits for it, a minute at most.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "this never came to be: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Packets that left by an interface of this thread's namespace.
pub fn left_by(interface: &str) -> u64 {
    let output = Command::new("ip").args(["-s", "-s", "link", "show", interface]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with("TX:"));
    lines.nth(1).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}
