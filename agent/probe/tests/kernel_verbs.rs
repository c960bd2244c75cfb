//! Probes over RDMA verbs through a real kernel: software RoCE (rdma_rxe) on both ends of a veth pair. Up to 6.12 it hears packets in the
//! first network namespace alone, so both ends are there, and packets leave by the one and come in by the other. Changes the host's RDMA
//! devices, and so runs in a virtual machine.
#![cfg(feature = "verbs")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use railwatch_probe::verbs::{HelperOptions, Lender, LenderState, layouts, lend};
use railwatch_probe::{Counts, Key, Limits, Outcome, Plan, Report, Responder, StampedSocket, Transport, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

const KEY: &[u8] = b"the key of the cluster under test";
const PROBER: &str = "10.77.0.1";
const RESPONDER: &str = "10.77.0.2:7704";
/// In the environment of this test run again: the folder of the agent's socket.
const FOLDER: &str = "RAILWATCH_VERBS_TEST_FOLDER";
/// libibverbs with providers and headers, unpacked.
const VERBS: &str = "RAILWATCH_VERBS";

fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn prefix() -> PathBuf {
    std::env::var_os(VERBS).expect("libibverbs, unpacked: cargo xtask test kernels has it").into()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let is_so = (0..1200).any(|_| {
        is_so() || {
            sleep(Duration::from_millis(50));
            false
        }
    });
    assert!(is_so, "{what}");
}

/// Two ports of software RoCE joined by a wire.
struct Wire(tempfile::TempDir);

impl Wire {
    fn new() -> Self {
        for module in ["veth", "crc32_generic", "rdma_rxe", "ib_uverbs", "sch_netem"] {
            shell(&format!("modprobe {module}"));
        }
        // The loader looks for the library, and the library for its providers, here alone. A virtual machine's root is its own.
        // What is there stays: this process has it mapped from the test before, and would lose its relocations.
        let prefix = prefix();
        let libraries = "usr/lib/x86_64-linux-gnu";
        shell(&format!(
            "for f in {prefix}/etc/libibverbs.d {prefix}/{libraries}/libibverbs; do [ ! -e $f ] || cp -anT $f ${{f#{prefix}}}; done
             for f in {prefix}/{libraries}/lib*.so.* {prefix}/lib/x86_64-linux-gnu/lib*.so.*; do [ ! -e $f ] || cp -an $f /{libraries}/; done",
            prefix = prefix.display()
        ));
        shell("ip link set lo up; ip link add rwl0 type veth peer name rwl1");
        for (interface, address) in [("rwl0", "10.77.0.1/24"), ("rwl1", "10.77.0.2/24")] {
            shell(&format!("ip address add {address} dev {interface}; ip link set {interface} up"));
        }
        for interface in ["all", "rwl0", "rwl1"] {
            let folder = format!("/proc/sys/net/ipv4/conf/{interface}");
            fs::write(format!("{folder}/accept_local"), "1").unwrap();
            fs::write(format!("{folder}/rp_filter"), "0").unwrap();
        }
        shell("rdma link add rxl0 type rxe netdev rwl0; rdma link add rxl1 type rxe netdev rwl1");
        for (device, end) in [("rxl0", "0a4d:0001"), ("rxl1", "0a4d:0002")] {
            let port = format!("/sys/class/infiniband/{device}/ports/1");
            until("the port is up", || fs::read_to_string(format!("{port}/state")).unwrap().contains("ACTIVE"));
            until("it has its address", || {
                let read = |n| fs::read_to_string(format!("{port}/gids/{n}")).unwrap_or_default();
                (0..8).any(|n| read(n).trim().ends_with(end))
            });
        }
        Self(tempfile::tempdir().unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("verbs.sock")
    }

    fn process(&self, test: &str) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture"]).env(FOLDER, self.0.path());
        // What it says on its standard error a person needs who looks why this test failed.
        Process(command.stdout(Stdio::null()).spawn().unwrap())
    }

    fn helper(&self) -> Process {
        self.process("lend_as_a_process")
    }

    /// What `tc` says of the loss on the way there.
    fn lose(&self, percent: u32) {
        shell(&format!("tc qdisc replace dev rwl0 root netem loss {percent}%"));
    }

    fn lose_nothing(&self) {
        shell("tc qdisc del dev rwl0 root");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for command in ["rdma link delete rxl0", "rdma link delete rxl1", "ip link delete rwl0"] {
            let _ = Command::new("sh").args(["-c", command]).status();
        }
    }
}

/// This test program again; ended with the value.
struct Process(Child);

impl Process {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Stops it, and sees that it is.
    fn stop(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        until("it is stopped", || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            threads.flatten().all(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
            })
        });
    }

    fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "not a test: what the others start as a process"]
fn lend_as_a_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let options = HelperOptions { socket: Path::new(&folder).join("verbs.sock"), sysfs_root: "/sys".into() };
    lend(&options).unwrap();
}

fn responder(socket: &Path) -> (Responder, Arc<LenderState>) {
    let lender = Lender::bind(socket).unwrap();
    let state = lender.state();
    let udp = StampedSocket::bind("0.0.0.0:7704".parse().unwrap(), 0).unwrap();
    let mut responder = Responder::new(udp, Key::new(KEY).unwrap(), Limits::default());
    responder.lend_by(lender);
    (responder, state)
}

#[test]
#[ignore = "not a test: what the others start as a process"]
fn answer_as_a_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (responder, _) = responder(&Path::new(&folder).join("verbs.sock"));
    responder.run(&AtomicBool::new(false)).unwrap();
}

/// The agent's part, on a thread of this process.
struct Agent {
    counts: Arc<Counts>,
    state: Arc<LenderState>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn new(wire: &Wire) -> Self {
        let (responder, state) = responder(&wire.socket());
        let (counts, stop) = (responder.counts(), Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&stop);
        let thread = Some(spawn(move || responder.run(&told).unwrap()));
        Self { counts, state, stop, thread }
    }

    fn until_it_lends(&self) {
        until("it lends", || self.state.off().is_none());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Patient: emulated processors are slow.
fn plan(count: u64) -> Plan {
    Plan {
        transport: Transport::RdmaRc,
        target: RESPONDER.parse().unwrap(),
        source: Some(PROBER.parse().unwrap()),
        source_port: 0,
        flows: 1,
        count,
        interval: Duration::from_millis(20),
        size_bytes: 64,
        dscp: 26,
        timeout: Duration::from_secs(8),
    }
}

fn probe(plan: &Plan, transport: Transport, mut each: impl FnMut(&Outcome)) -> Result<Report, String> {
    let key = Key::new(KEY).unwrap();
    let plan = Plan { transport, ..plan.clone() };
    run(&plan, &key, |_, outcome| each(outcome)).map_err(|failure| failure.to_string())
}

/// Queue pairs of a process, as the kernel lists them.
fn queue_pairs(process: &Process) -> usize {
    let pid = format!(" pid {} ", process.pid());
    shell("rdma resource show qp").lines().filter(|line| format!("{line} ").contains(&pid)).count()
}

/// Packets of RoCEv2 to the responder that come in from now on, as (type of service, UDP source port).
struct Tap(std::os::fd::OwnedFd);

impl Tap {
    fn new() -> Self {
        use std::os::fd::FromRawFd;
        let protocol = i32::from((libc::ETH_P_IP as u16).to_be());
        // SAFETY: a call without memory.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, protocol) };
        assert!(fd >= 0, "a packet socket");
        // SAFETY: just opened, and nobody else's.
        Self(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
    }

    fn seen(&self) -> BTreeSet<(u8, u16)> {
        use std::os::fd::AsRawFd;
        let mut seen = BTreeSet::new();
        let mut bytes = [0; 2048];
        while let Ok(length) =
            nix::sys::socket::recv(self.0.as_raw_fd(), &mut bytes, nix::sys::socket::MsgFlags::empty())
        {
            let udp = usize::from(bytes[0] & 0xf) * 4;
            let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            if length > udp + 8 && bytes[9] == 17 && bytes[16..20] == [10, 77, 0, 2] && port(udp + 2) == 4791 {
                seen.insert((bytes[1], port(udp)));
            }
        }
        seen
    }
}

#[test]
#[ignore = "needs the headers of libibverbs: cargo xtask test kernels"]
fn layouts_are_those_of_the_headers() {
    let folder = tempfile::tempdir().unwrap();
    let layouts = layouts();
    let lines: String =
        layouts.iter().map(|(expression, _)| format!("printf(\"%zu\\n\", (size_t)({expression}));\n")).collect();
    let source = format!(
        "#include <infiniband/verbs.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{lines}return 0;\n}}\n"
    );
    fs::write(folder.path().join("layouts.c"), source).unwrap();
    let (prefix, folder) = (prefix(), folder.path().display());
    let told = shell(&format!(
        "gcc -I{}/usr/include -o {folder}/layouts {folder}/layouts.c && {folder}/layouts",
        prefix.display()
    ));
    let told: Vec<usize> = told.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(told.len(), layouts.len());
    let wrong: Vec<_> = layouts.iter().zip(&told).filter(|((_, ours), theirs)| ours != *theirs).collect();
    assert!(wrong.is_empty(), "ours, and the compiler's: {wrong:?}");
}

#[test]
#[ignore = "needs a kernel with rdma_rxe to itself: cargo xtask test kernels"]
fn probes_of_both_services_are_answered_and_leave_nothing_behind() {
    let wire = Wire::new();
    let agent = Agent::new(&wire);
    let refused = probe(&plan(1), Transport::RdmaRc, |_| {}).unwrap_err();
    assert!(refused.contains("its helper for RDMA does not run"), "{refused}");
    let helper = wire.helper();
    agent.until_it_lends();
    let tap = Tap::new();
    for (transport, sizes) in [(Transport::RdmaRc, [64, 1024, 65_536]), (Transport::RdmaUd, [64, 512, 1024])] {
        for size_bytes in sizes {
            let plan = Plan { size_bytes, flows: 4, ..plan(40) };
            let mut outcomes = Vec::new();
            let report = probe(&plan, transport, |outcome| outcomes.push(*outcome)).unwrap();
            assert_eq!((report.sent, report.answered, report.lost, report.unsent), (40, 40, 0, 0), "{report:?}");
            assert_eq!(outcomes.len(), 40);
            assert!(outcomes.iter().all(|outcome| outcome.answer.unwrap().parts.is_none()), "nobody stamps them");
            assert_eq!((report.timed, report.fabric_us.is_none(), report.answerer_us.is_none()), (0, true, true));
            assert_eq!(report.retried, (transport == Transport::RdmaRc).then_some(0), "{report:?}");
            let labels: BTreeSet<_> = report.flows.iter().map(|flow| flow.flow_label.unwrap()).collect();
            assert_eq!(labels.len(), 4, "a flow each");
            assert!(report.flows.iter().all(|flow| flow.sent == 10 && flow.source_port.is_none()), "{report:?}");
            let seen = tap.seen();
            assert!(!seen.is_empty() && seen.iter().all(|(class, _)| class & 0xfc == 26 << 2), "{seen:?}");
            let ports: BTreeSet<_> = seen.iter().map(|(_, port)| port).collect();
            println!("{transport:?}, {size_bytes} bytes: {:?}; source ports {ports:?}", report.round_trip_us.unwrap());
        }
    }
    until("what was lent is given back", || queue_pairs(&helper) == 0);
    assert_eq!(agent.counts.wrong_code.load(Relaxed), 0);

    let refused = probe(&Plan { size_bytes: 1025, ..plan(1) }, Transport::RdmaUd, |_| {}).unwrap_err();
    assert!(refused.contains("64 to 1024 bytes"), "a datagram is one packet: {refused}");
    let elsewhere = Plan { target: "127.0.0.1:7704".parse().unwrap(), ..plan(1) };
    let refused = probe(&elsewhere, Transport::RdmaRc, |_| {}).unwrap_err();
    assert!(refused.contains("not one of its RDMA ports"), "{refused}");
    let from_elsewhere = Plan { source: Some([127, 0, 0, 1].into()), ..elsewhere };
    let refused = probe(&from_elsewhere, Transport::RdmaRc, |_| {}).unwrap_err();
    assert!(refused.contains("no RDMA port of this host"), "{refused}");
}

#[test]
#[ignore = "needs a kernel with rdma_rxe to itself: cargo xtask test kernels"]
fn who_has_not_the_key_gets_no_queue_pair() {
    let wire = Wire::new();
    let agent = Agent::new(&wire);
    let helper = wire.helper();
    agent.until_it_lends();
    let stranger = Key::new(b"a key of another cluster").unwrap();
    let refused = run(&plan(1), &stranger, |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("no answer in"), "{refused}");
    assert_eq!(agent.counts.queue_pairs.load(Relaxed), 0);
    assert_eq!(agent.counts.wrong_code.load(Relaxed), agent.counts.received.load(Relaxed));
    assert!(agent.counts.wrong_code.load(Relaxed) > 0);
    assert_eq!(queue_pairs(&helper), 0);
}

#[test]
#[ignore = "needs a kernel with rdma_rxe to itself: cargo xtask test kernels"]
fn loss_on_the_wire_is_loss_of_datagrams_and_a_longer_time_or_loss_of_writes() {
    let wire = Wire::new();
    let agent = Agent::new(&wire);
    let _helper = wire.helper();
    agent.until_it_lends();
    // Both find their neighbours first.
    probe(&plan(1), Transport::RdmaUd, |_| {}).unwrap();
    wire.lose(30);
    let of_datagrams = Plan { timeout: Duration::from_secs(2), ..plan(100) };
    let report = probe(&of_datagrams, Transport::RdmaUd, |_| {}).unwrap();
    assert_eq!((report.sent, report.answered + report.lost), (100, 100), "{report:?}");
    assert!(report.lost > 5 && report.answered > 5, "{report:?}");
    println!("datagrams, 30 % lost on the way there: {} of 100 lost", report.lost);
    let report = probe(&plan(40), Transport::RdmaRc, |_| {}).unwrap();
    assert_eq!((report.sent, report.answered + report.lost), (40, 40), "{report:?}");
    assert!(report.retried.unwrap() > 2 && report.answered > 20, "{report:?}");
    println!(
        "writes, likewise: {} of 40 lost, {:?} sent again, {:?}",
        report.lost, report.retried, report.round_trip_us
    );

    wire.lose(100);
    let mut outcomes = Vec::new();
    let mut is_dead = true;
    let dead = Plan { timeout: Duration::from_millis(800), size_bytes: 4096, ..plan(8) };
    // It has its queue pair before nothing comes through any more.
    wire.lose_nothing();
    let report = probe(&dead, Transport::RdmaRc, |outcome| {
        outcomes.push(outcome.answer.is_some());
        match outcomes.len() {
            2 => wire.lose(100),
            4 => {
                wire.lose_nothing();
                is_dead = false;
            }
            _ => {}
        }
    });
    let report = report.unwrap();
    println!("writes, nothing comes through for two of them: {outcomes:?}, {:?}", report.round_trip_us);
    assert!(!is_dead && report.sent == 8, "{report:?}");
    assert_eq!(outcomes[2..4], [false, false], "{outcomes:?}");
    assert_eq!(outcomes[4..], [true; 4], "it goes on where it was lost: {outcomes:?}");
}

#[test]
#[ignore = "needs a kernel with rdma_rxe to itself: cargo xtask test kernels"]
fn a_helper_that_dies_is_told_and_probes_go_on_with_the_next_one() {
    let wire = Wire::new();
    let agent = Agent::new(&wire);
    for transport in [Transport::RdmaRc, Transport::RdmaUd] {
        let mut helper = Some(wire.helper());
        agent.until_it_lends();
        let mut outcomes = Vec::new();
        let mut next = None;
        let long = Plan { timeout: Duration::from_millis(800), interval: Duration::from_millis(100), ..plan(60) };
        let report = probe(&long, transport, |outcome| {
            outcomes.push(outcome.answer.is_some());
            if outcomes.len() == 5 {
                // As where the library of a NIC's vendor ends it: all that it lent goes with it.
                drop(helper.take());
                until("it is told", || agent.state.off().is_some_and(|why| why.contains("no helper for RDMA")));
            }
            if outcome.answer.is_none() && next.is_none() {
                let refused = probe(&plan(1), transport, |_| {}).unwrap_err();
                assert!(refused.contains("its helper for RDMA does not run"), "who asks meanwhile is told: {refused}");
                next = Some(wire.helper());
                agent.until_it_lends();
            }
        });
        let report = report.unwrap();
        let (first, last) = (outcomes.iter().position(|is| !is), outcomes.iter().rposition(|is| !is));
        println!("{transport:?}: lost from {first:?} to {last:?} of {} while the helper was away", outcomes.len());
        assert_eq!((report.sent, report.answered + report.lost), (60, 60), "{report:?}");
        assert!(report.lost > 0, "{report:?}");
        assert_eq!(outcomes[50..], [true; 10], "{outcomes:?}");
        agent.until_it_lends();
    }
}

#[test]
#[ignore = "needs a kernel with rdma_rxe to itself: cargo xtask test kernels"]
fn a_stopped_responder_delays_datagrams_and_no_write() {
    let wire = Wire::new();
    let agent = wire.process("answer_as_a_process");
    let helper = wire.helper();
    until("it lends", || probe(&plan(1), Transport::RdmaRc, |_| {}).is_ok());

    // All writes but the first few are acknowledged while nothing of the other host's software runs.
    let mut count = 0;
    let report = probe(&plan(60), Transport::RdmaRc, |_| {
        count += 1;
        if count == 5 {
            agent.stop();
            helper.stop();
        }
    });
    let report = report.unwrap();
    assert_eq!((report.answered, report.lost, report.retried), (60, 0, Some(0)), "{report:?}");
    agent.go_on();
    helper.go_on();

    let stop = Duration::from_secs(2);
    let mut waker = None;
    let mut longest_ns = 0;
    count = 0;
    let report = probe(&plan(60), Transport::RdmaUd, |outcome| {
        count += 1;
        if count == 5 {
            agent.stop();
            helper.stop();
            let pids = [agent.pid(), helper.pid()];
            waker = Some(spawn(move || {
                sleep(stop);
                for pid in pids {
                    kill(pid, Signal::SIGCONT).unwrap();
                }
            }));
        }
        longest_ns = longest_ns.max(outcome.answer.map_or(0, |answer| answer.round_trip_ns));
    });
    let report = report.unwrap();
    waker.unwrap().join().unwrap();
    println!("datagrams, stopped for {stop:?}: {report:?}");
    assert!(longest_ns > stop.as_nanos() as u64 / 4, "the first that met the stop waited for its end: {report:?}");
    assert!(report.answered >= 6, "{report:?}");
}
