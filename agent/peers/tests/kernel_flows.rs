//! TCP flows against a real kernel: processes with connections in network namespaces of their own, entered and not.
//! Needs root (CAP_SYS_ADMIN, CAP_SYS_PTRACE), iproute2 and python3.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, in_own_namespaces, ip, until};
use railwatch_peers::{Flow, FlowSource, Peers};
use railwatch_sampling::ErrorReason;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Connects to itself on an address, sends 70,000 bytes one way and 1,000 the other, says its ports, and does as it is told:
/// another connection for each line.
const TALKER: &str = "\
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.socket(family)
listener.bind((sys.argv[1], 0))
listener.listen(2000)
kept = []
def connect():
    client = socket.create_connection(listener.getsockname()[:2])
    server, _ = listener.accept()
    kept.extend([client, server])
    return client, server
client, server = connect()
def move(a, b, count):
    a.sendall(b'x' * count)
    while count:
        count -= len(b.recv(count))
move(client, server, 70000)
move(server, client, 1000)
print(client.getsockname()[1], listener.getsockname()[1], flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        connect()
    print('done', flush=True)
";

struct Talker {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    /// Ports of the client and of what it connected to.
    ports: (u16, u16),
}

impl Talker {
    fn start(before: &[&str], address: &str) -> Self {
        let mut words = before.iter().copied().chain(["python3", "-c", TALKER, address]);
        let mut process = Command::new(words.next().unwrap())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let ports: Vec<u16> = line.split_whitespace().map(|port| port.parse().unwrap()).collect();
        Self { process, output, ports: (ports[0], ports[1]) }
    }

    /// In a network namespace of its own.
    fn elsewhere(address: &str) -> Self {
        let enter = format!("ip link set lo up && exec python3 -c \"$0\" {address}");
        Self::start(&["unshare", "--net", "sh", "-c", &enter, TALKER], address)
    }

    fn connect(&mut self, more: usize) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{more}").unwrap();
        self.output.read_line(&mut String::new()).unwrap();
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn source(pids: &Arc<Mutex<Vec<u32>>>) -> (Driven, Arc<Peers>) {
    let (peers, pids) = (Arc::new(Peers::default()), Arc::clone(pids));
    let source = FlowSource::new(Arc::clone(&peers), Box::new(move || pids.lock().unwrap().clone()));
    (Driven::new(source), peers)
}

/// The row of the client's end.
fn client(flows: &[Flow], talker: &Talker) -> Flow {
    let (from, to) = talker.ports;
    let of_client = |flow: &&Flow| flow.source.port() == from && flow.destination.port() == to;
    flows.iter().find(of_client).unwrap_or_else(|| panic!("no flow {from} to {to} among {flows:#?}")).clone()
}

/// Reads until the last acknowledgement of both ends, which the kernel may hold back, is there.
fn read_settled(driven: &mut Driven, peers: &Peers, talker: &Talker) {
    let (from, to) = talker.ports;
    until("all acknowledgements", || {
        driven.read();
        let view = peers.view();
        let sent = |port: u16| {
            let flow = view.flows.iter().find(|flow| flow.pid == talker.pid() && flow.source.port() == port)?;
            Some(flow.figures.as_ref()?.sent_bytes)
        };
        sent(from) >= Some(70_000) && sent(to) >= Some(1_000)
    });
}

/// Both ends of the talker's connection, as they must show.
fn assert_whole(flows: &[Flow], talker: &Talker, address: &str) {
    let (from, to) = talker.ports;
    let end =
        |port: u16| if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    let flow = client(flows, talker);
    assert_eq!((flow.source, flow.destination), (end(from).parse().unwrap(), end(to).parse().unwrap()));
    assert_eq!((flow.pid, flow.comm.as_str(), flow.state), (talker.pid(), "python3", "established"));
    assert_eq!(flow.interface.as_deref(), Some("lo"), "what stays on the host");
    let figures = flow.figures.unwrap();
    // The kernel counts the SYN as a byte.
    assert_eq!((figures.sent_bytes, figures.received_bytes), (70_001, 1_000));
    assert!(figures.rtt_ns.is_some(), "{figures:?}");
    let server = flows.iter().find(|flow| flow.source.port() == to).unwrap();
    let figures = server.figures.clone().unwrap();
    assert_eq!((figures.sent_bytes, figures.received_bytes), (1_000, 70_000));
}

#[test]
fn connections_of_a_gpu_process_show_with_both_ends_and_their_bytes_and_nobody_elses() {
    in_own_namespaces(|| {
        let (talker, other) = (Talker::start(&["env"], "127.0.0.1"), Talker::start(&["env"], "127.0.0.1"));
        let pids = Arc::new(Mutex::new(vec![talker.pid()]));
        let (mut driven, peers) = source(&pids);
        driven.probe().unwrap();
        read_settled(&mut driven, &peers, &talker);
        let flows = peers.view().flows;
        assert_whole(&flows, &talker, "127.0.0.1");
        assert_eq!(flows.len(), 2, "{flows:#?}");

        // A connection more of a socket that nobody had been asked for; and a process more.
        let mut talker = talker;
        talker.connect(3);
        driven.read();
        assert_eq!(peers.view().flows.len(), 8);
        pids.lock().unwrap().push(other.pid());
        read_settled(&mut driven, &peers, &other);
        assert_whole(&peers.view().flows, &other, "127.0.0.1");
        assert_eq!(peers.view().flows.len(), 10);
        drop(talker);
        driven.read();
        assert_eq!(peers.view().flows.len(), 2, "the flows of a process end with it");

        pids.lock().unwrap().clear();
        assert_eq!(driven.probe().unwrap_err().reason, ErrorReason::Missing);
        assert_eq!(peers.view().flows.len(), 0);
    });
}

#[test]
fn connections_in_another_network_namespace_show_too_and_the_reader_stays_in_its_own() {
    in_own_namespaces(|| {
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        for address in ["127.0.0.1", "::1"] {
            let talkers = [Talker::elsewhere(address), Talker::elsewhere(address)];
            let pids = Arc::new(Mutex::new(talkers.iter().map(Talker::pid).collect::<Vec<_>>()));
            let (mut driven, peers) = source(&pids);
            driven.probe().unwrap();
            for talker in &talkers {
                read_settled(&mut driven, &peers, talker);
                let of_talker: Vec<_> =
                    peers.view().flows.iter().filter(|flow| flow.pid == talker.pid()).cloned().collect();
                assert_eq!(of_talker.len(), 2, "{of_talker:#?}");
                assert_whole(&of_talker, talker, address);
            }
            assert_eq!(peers.view().off.get("tcp.flows").map(Vec::len), None, "nothing is hidden");
        }
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
    });
}

#[test]
fn where_a_namespace_may_not_be_entered_its_connections_show_without_bytes_and_it_says_so() {
    in_own_namespaces(|| {
        let talker = Talker::elsewhere("127.0.0.1");
        let pids = Arc::new(Mutex::new(vec![talker.pid()]));
        let (mut driven, peers) = source(&pids);
        // This thread alone gives it up.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap();
        driven.probe().unwrap();
        driven.read();
        let view = peers.view();
        let flow = client(&view.flows, &talker);
        assert_eq!((flow.pid, flow.state, flow.figures, flow.interface), (talker.pid(), "established", None, None));
        assert_eq!(view.flows.len(), 2);
        let off = &view.off["tcp.flows"][0];
        assert!(off.what.starts_with("bytes") && off.why.contains("CAP_SYS_ADMIN"), "{off:?}");
    });
}

#[test]
fn more_connections_than_the_bound_are_counted() {
    in_own_namespaces(|| {
        let mut talker = Talker::start(&["env"], "127.0.0.1");
        talker.connect(200);
        let pids = Arc::new(Mutex::new(vec![talker.pid()]));
        let (mut driven, peers) = source(&pids);
        driven.probe().unwrap();
        driven.read();
        let view = peers.view();
        assert_eq!((view.flows.len(), view.beyond.get("flows")), (256, Some(&(2 * 201 - 256))));
    });
}

#[test]
fn a_connection_that_leaves_names_its_interface() {
    in_own_namespaces(|| {
        ip("link add rwa type veth peer name rwb");
        ip("address add 10.77.0.1/24 dev rwa");
        ip("link set rwa up");
        let holder = Talker::elsewhere("127.0.0.1");
        ip(&format!("link set rwb netns {}", holder.pid()));
        let inside = format!("--net=/proc/{}/ns/net", holder.pid());
        for command in ["ip address add 10.77.0.2/24 dev rwb", "ip link set rwb up"] {
            let status = Command::new("nsenter").arg(&inside).args(command.split(' ')).status().unwrap();
            assert!(status.success(), "{command}");
        }
        let far_script = "\
import socket, sys
listener = socket.create_server(('10.77.0.2', 7777))
print('ready', flush=True)
server, _ = listener.accept()
sys.stdin.read()
";
        let near_script = "\
import socket, sys
client = socket.create_connection(('10.77.0.2', 7777))
print('ready', flush=True)
sys.stdin.read()
";
        let start = |before: &[&str], script: &str| {
            let mut words = before.iter().copied().chain(["python3", "-c", script]);
            let mut command = Command::new(words.next().unwrap());
            let mut process = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
            process
        };
        let mut ends = [start(&["nsenter", &inside], far_script), start(&["env"], near_script)];
        let pids = Arc::new(Mutex::new(ends.iter().map(Child::id).collect::<Vec<_>>()));
        let (mut driven, peers) = source(&pids);
        driven.probe().unwrap();
        // The far end owns its socket once it has accepted it.
        until("both ends", || {
            driven.read();
            peers.view().flows.len() == 2
        });
        let view = peers.view();
        let of = |end: usize| {
            let flow = view.flows.iter().find(|flow| flow.pid == ends[end].id()).unwrap();
            (flow.interface.as_deref(), flow.source, flow.destination)
        };
        let ((far, far_source, far_destination), (near, near_source, near_destination)) = (of(0), of(1));
        assert_eq!((far, near), (Some("rwb"), Some("rwa")));
        assert_eq!((far_source, far_destination), (near_destination, near_source), "both ends say the same");
        for end in &mut ends {
            let _ = end.kill();
            let _ = end.wait();
        }
    });
}
