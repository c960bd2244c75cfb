//! What planned probes and answers cost, in processor time of the threads that send and answer, beside two peers in the same run over the same
//! emulated fabric. Prints JSON; `cargo xtask bench probes` runs it. Needs root and iproute2.
//!
//! The fabric is a router between two namespaces, and its forwarding runs within the sender's own system calls: what the kernel takes for
//! a packet here is more than a NIC's driver takes, and it is in every column. So there are
//!
//! - `ping`: sends a datagram and waits for its answer, as `ping -i` does, and at the other end what sends each back as it comes: no code, no
//!   stamps, no loss told. For one who answers at once, that is also the least there can be;
//! - `floor_prober`: as few calls as a datagram and its answer need: sent and read without waiting, at instants as far apart as a mesh's.
//!
//! What probing adds is ours less the floors. Answers are measured with probes that come one by one, as from many hosts; those that one
//! mesh sends together wake the answerer less often. Measurements take turns, and the median of the rounds is told.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says so")]

#[path = "../tests/fabric/mod.rs"]
mod fabric;

use fabric::{Fabric, RESPONDER, Told, at, counted, in_fabric, key};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use railwatch_probe::{Counts, FlowSpec, Limits, Mesh, MeshPlan, Responder, StampedSocket, Transport};
use serde::Serialize;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

/// NICs of a host.
const NICS: u64 = 8;
/// Packets a second that each of them sends: the planner's default for a large fleet, and the budget. Half are probes, half answers.
const PACKETS_PER_S: [u64; 2] = [30, 150];
/// Each flow sends so often, as the planner spreads them.
const INTERVAL: Duration = Duration::from_secs(1);
const SETTLE: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
const FLOOR_TICK: Duration = Duration::from_millis(20);
const BYTES: usize = 64;
const ECHO: &str = "10.9.2.2:7705";

/// Of one thread: processor time, and how often it was woken.
#[derive(Clone, Copy, Default)]
struct Spent {
    ns: u64,
    waits: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Side {
    per_s: f64,
    /// Processor time of a probe, or of an answer.
    us: f64,
    /// Share of a core.
    core_percent: f64,
    /// How often the thread slept, for one of them.
    waits: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    prober: Side,
    answerer: Side,
}

#[derive(Serialize)]
struct Row {
    packets_per_s_per_nic: u64,
    ours: Cost,
    ping: Cost,
    floor_prober: Side,
    /// What probing adds to what the kernel takes for the same packets, of a core.
    over_floor_core_percent: f64,
    /// Ours to that of `ping`, probe and answer together.
    to_ping: f64,
}

#[derive(Serialize)]
struct Report {
    kernel: String,
    load_1_min: f64,
    nics: u64,
    rounds: usize,
    rows: Vec<Row>,
}

fn spent(thread: &str) -> Spent {
    let mut all = Spent::default();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").trim() == thread {
            all.ns += read("schedstat").split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
            let status = read("status");
            let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            all.waits += waits.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        }
    }
    all
}

/// Lets it run, and reads what the threads spent for what `done` counts.
fn measured<const N: usize>(threads: [&str; N], done: &AtomicU64) -> [Side; N] {
    sleep(SETTLE);
    let before = (Instant::now(), counted(done), threads.map(spent));
    sleep(MEASURE);
    let (after, count) = (threads.map(spent), (counted(done) - before.1) as f64);
    let seconds = before.0.elapsed().as_secs_f64();
    std::array::from_fn(|at| {
        let (before, after) = (before.2[at], after[at]);
        let ns = (after.ns - before.ns) as f64;
        Side {
            per_s: count / seconds,
            us: ns / count / 1e3,
            core_percent: ns / seconds / 1e7,
            waits: (after.waits - before.waits) as f64 / count,
        }
    })
}

/// Names are as the kernel keeps them, 15 bytes.
fn named<T: Send + 'static>(name: &str, act: impl FnOnce() -> T + Send + 'static) {
    Builder::new().name(name.into()).spawn(act).unwrap();
}

/// As the planner spreads them.
fn plan(probes_per_s: u64) -> MeshPlan {
    let flows = (0..probes_per_s).map(|id| FlowSpec {
        id,
        interface: format!("a{}", id % NICS).into(),
        source: [10, 9, 1, 2].into(),
        source_port: 20_480 + u16::try_from(id).unwrap(),
        target_host: format!("b{}", id % 100).into(),
        target_interface: "b0".into(),
        destination: RESPONDER.parse().unwrap(),
        transport: Transport::Udp,
        size_bytes: BYTES,
        dscp: 26,
        interval: INTERVAL,
        offset: Duration::from_micros(id * 1_000_000 / probes_per_s),
        timeout: Duration::from_millis(200),
    });
    MeshPlan {
        epoch: 1,
        revision: 1,
        lease: Duration::from_secs(600),
        report_every: Duration::from_secs(1),
        packets_per_s_per_nic_max: 10_000,
        flows: flows.collect(),
        quiet: vec![],
        malformed: vec![],
    }
}

fn start() -> Mesh {
    Mesh::start(key(), 10_000, Box::new(Told::default())).unwrap()
}

fn probes(per_s: u64) -> Side {
    let mesh = start();
    mesh.plan(plan(per_s));
    let counts = mesh.counts();
    let [cost] = measured(["probe-mesh"], &counts.answered);
    assert_eq!((mesh.state().off_count, counted(&counts.lost)), (0, 0), "{:?}", mesh.state());
    mesh.stop();
    cost
}

/// Of answers to probes that come one by one.
fn answers(answers_per_s: u64, counts: &Counts) -> Side {
    let (mesh, mut plan) = (start(), plan(answers_per_s));
    // One that is never sent, and makes ticks as short as the time between two probes.
    let apart = INTERVAL / u32::try_from(answers_per_s).unwrap();
    let never = FlowSpec { id: u64::MAX, interval: apart, offset: Duration::from_secs(600), ..plan.flows[0].clone() };
    plan.flows.push(never);
    mesh.plan(plan);
    let [cost] = measured(["probe-answers"], &counts.answered);
    mesh.stop();
    cost
}

/// A peer on a thread of its own: `turn` has the sockets, which probe it is, and counts.
fn peer(name: &'static str, probes_per_s: u64, act: fn(&[UdpSocket], u64, &AtomicBool, &AtomicU64)) -> Cost {
    let bind = |_| {
        let socket = UdpSocket::bind("10.9.1.2:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    };
    let sockets: Vec<_> = (0..probes_per_s).map(bind).collect();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let theirs = (Arc::clone(&stop), Arc::clone(&done));
    named(name, move || act(&sockets, probes_per_s, &theirs.0, &theirs.1));
    let [prober, answerer] = measured([name, "echo"], &done);
    stop.store(true, Relaxed);
    sleep(Duration::from_secs(1));
    Cost { prober, answerer }
}

fn ping(sockets: &[UdpSocket], per_s: u64, stop: &AtomicBool, done: &AtomicU64) {
    let (to, begun) = (ECHO.parse::<SocketAddr>().unwrap(), Instant::now());
    let mut bytes = [0; BYTES];
    for (turn, socket) in (0u64..).zip(sockets.iter().cycle()) {
        if stop.load(Relaxed) {
            return;
        }
        sleep((begun + Duration::from_nanos(turn * 1_000_000_000 / per_s)).saturating_duration_since(Instant::now()));
        socket.send_to(&bytes, to).unwrap();
        done.fetch_add(u64::from(socket.recv_from(&mut bytes).is_ok()), Relaxed);
    }
}

fn floor(sockets: &[UdpSocket], per_s: u64, stop: &AtomicBool, done: &AtomicU64) {
    let (to, begun) = (ECHO.parse::<SocketAddr>().unwrap(), Instant::now());
    let mut bytes = [0; BYTES];
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let (mut sent, mut read, mut tick) = (0u64, 0u64, 0u32);
    let of = |turn: u64| &sockets[usize::try_from(turn).unwrap() % sockets.len()];
    while !stop.load(Relaxed) {
        tick += 1;
        sleep((begun + FLOOR_TICK * tick).saturating_duration_since(Instant::now()));
        while read < sent {
            done.fetch_add(u64::from(of(read).recv_from(&mut bytes).is_ok()), Relaxed);
            read += 1;
        }
        let due = u64::try_from(begun.elapsed().as_nanos()).unwrap() / (1_000_000_000 / per_s);
        while sent < due {
            of(sent).send_to(&bytes, to).unwrap();
            sent += 1;
        }
    }
}

fn answerers(fabric: &Fabric) -> Arc<Counts> {
    let socket = at(&fabric.b, || StampedSocket::bind(RESPONDER.parse().unwrap(), 0).unwrap());
    let responder = Responder::new(socket, key(), Limits::default());
    let counts = responder.counts();
    named("probe-answers", move || responder.run(&AtomicBool::new(false)).unwrap());
    let socket = at(&fabric.b, || UdpSocket::bind(ECHO).unwrap());
    named("echo", move || {
        let mut bytes = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut bytes).unwrap();
            socket.send_to(&bytes[..length], from).unwrap();
        }
    });
    counts
}

fn median(mut sides: Vec<Side>) -> Side {
    sides.sort_by(|a, b| a.us.total_cmp(&b.us));
    sides[sides.len() / 2]
}

fn row(packets_per_s_per_nic: u64, counts: &Counts) -> Row {
    let per_s = NICS * packets_per_s_per_nic / 2;
    let mut sides: [Vec<Side>; 5] = Default::default();
    for round in 0..ROUNDS {
        eprintln!("{packets_per_s_per_nic} packets/s a NIC, round {} of {ROUNDS}", round + 1);
        let pinged = peer("ping", per_s, ping);
        let all =
            [probes(per_s), answers(per_s, counts), pinged.prober, pinged.answerer, peer("floor", per_s, floor).prober];
        sides.iter_mut().zip(all).for_each(|(sides, side)| sides.push(side));
    }
    let [prober, answerer, pings, echoes, floor_prober] = sides.map(median);
    let sum = |prober: &Side, answerer: &Side| prober.core_percent + answerer.core_percent;
    Row {
        packets_per_s_per_nic,
        ours: Cost { prober, answerer },
        ping: Cost { prober: pings, answerer: echoes },
        floor_prober,
        over_floor_core_percent: sum(&prober, &answerer) - sum(&floor_prober, &echoes),
        to_ping: sum(&prober, &answerer) / sum(&pings, &echoes),
    }
}

fn main() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    in_fabric(|fabric| {
        let counts = answerers(fabric);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap();
        let report = Report {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().into(),
            load_1_min: load.split_whitespace().next().unwrap().parse().unwrap(),
            nics: NICS,
            rounds: ROUNDS,
            rows: PACKETS_PER_S.map(|packets_per_s| row(packets_per_s, &counts)).into(),
        };
        println!("{}", serde_json::to_string_pretty(&report).unwrap());
    });
}
