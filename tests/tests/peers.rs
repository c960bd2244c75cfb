//! Whom a host talks to, from the kernel to the operator's screen: LLDP frames on a cable, and the TCP connections of a process
//! that uses a GPU. In a network namespace of the test's own, which ends with it.

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use railwatch_store::{Reader, SignalFilter};
use railwatch_tests::{
    gpu,
    installation::{HOST, Installation, Options, eventually},
};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// Loads a GPU library, allocates with it, and holds a connection to itself over which it sent 70,000 bytes.
const RANK: &str = "\
import ctypes, socket, sys
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.sendall(b'x' * 70000)
got = 0
while got < 70000:
    got += len(server.recv(70000))
cuda = ctypes.CDLL(sys.argv[1])
pointer = ctypes.c_void_p()
cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(4096))
print(client.getsockname()[1], listener.getsockname()[1], flush=True)
sys.stdin.read()
";

/// Sends one LLDPDU: chassis and port of subtype `local`, time to live, system name.
const SWITCH: &str = "\
import socket, sys
interface, chassis, port, ttl, name = sys.argv[1:]
tlv = lambda kind, value: (kind << 9 | len(value)).to_bytes(2, 'big') + value
pdu = tlv(1, b'\\x07' + chassis.encode()) + tlv(2, b'\\x07' + port.encode()) + tlv(3, int(ttl).to_bytes(2, 'big'))
pdu += tlv(5, name.encode()) + tlv(0, b'')
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((interface, 0))
s.send((bytes.fromhex('0180c200000e' '020000000099' '88cc') + pdu).ljust(60, b'\\0'))
";

/// Runs a test on a thread of its own, whose network and sysfs are its own.
fn in_own_network(test: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("namespaces of its own: needs root")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // Over the other one, which holds the bpffs that the agent pins to.
        let bpffs = "/sys/fs/bpf";
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
        mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), none)?;
        ip("link set lo up")?;
        test()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("start ip (package iproute2)")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

struct Rank {
    process: Child,
    ports: (u64, u64),
}

impl Rank {
    fn start(under: &[&str]) -> Result<Self> {
        let library = gpu::fixtures()?.join("libcudart.so");
        let mut words = under.iter().copied().chain(["python3", "-c", RANK]);
        let mut process = Command::new(words.next().context("a command")?)
            .args(words)
            .arg(library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("it speaks")?).read_line(&mut line)?;
        let ports = line.split_once(' ').with_context(|| format!("the rank said {line:?}"))?;
        let ports = (ports.0.parse()?, ports.1.trim().parse()?);
        Ok(Self { process, ports })
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn options() -> Options {
    let agent_toml = "[sampling]\nsoftware_interfaces = [\"veth\"]\ncadence_ms = { \"tcp.flows\" = 1000 }\n";
    Options { agent_toml: agent_toml.to_owned(), ..Options::default() }
}

#[test]
fn connections_of_ranks_show_with_both_ends_and_bytes_also_from_another_network_namespace() -> Result<()> {
    in_own_network(|| {
        let installation = Installation::start(&options())?;
        let ranks = [
            Rank::start(&["env"])?,
            Rank::start(&["unshare", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])?,
        ];
        for rank in &ranks {
            let (from, to) = rank.ports;
            let mut last = Vec::new();
            let flow = eventually("the flow of the rank", || {
                last = installation.rows(&["flows", "--host", HOST])?;
                let own = |row: &&Value| row["source_port"] == from && row["destination_port"] == to;
                Ok(last.iter().find(own).cloned())
            })
            .with_context(|| format!("flows: {last:#?}\n{}", installation.agent.log_text()))?;
            for (field, value) in [
                ("comm", "python3"),
                ("protocol", "tcp"),
                ("source", "127.0.0.1"),
                ("destination", "127.0.0.1"),
                ("interface", "lo"),
                ("state", "established"),
            ] {
                ensure!(flow[field] == value, "{field}: {flow}");
            }
            ensure!(flow["pid"] == rank.process.id(), "{flow}");
            // The kernel counts the SYN as a byte.
            ensure!(flow["sent_bytes"] == 70_001 && flow["received_bytes"] == 0, "{flow}");
        }
        // Nothing of processes that use no GPU: the agent's own uplink is a connection too.
        let rows = installation.rows(&["flows"])?;
        let own = rows.iter().find(|row| row["comm"].as_str().unwrap_or_default().starts_with("railwatch"));
        ensure!(own.is_none(), "{own:?}");
        Ok(())
    })
}

#[test]
fn a_switch_that_speaks_is_a_neighbour_and_its_cables_move_is_a_signal() -> Result<()> {
    in_own_network(|| {
        ip("link add rwa type veth peer name rwb")?;
        ip("link set rwa up")?;
        ip("link set rwb up")?;
        let installation = Installation::start(&options())?;
        let speak = |chassis: &str, ttl: &str, name: &str| -> Result<()> {
            let said = Command::new("python3").args(["-c", SWITCH, "rwb", chassis, "swp12", ttl, name]).status()?;
            ensure!(said.success(), "the frame could not be sent");
            Ok(())
        };
        let neighbours = || installation.rows(&["neighbours", "--host", HOST]);
        let mut last = Vec::new();
        // A switch repeats itself, and the agent may not listen yet at the first.
        let row = eventually("the neighbour", || {
            speak("02:00:00:00:00:99", "120", "leaf1")?;
            last = neighbours()?;
            Ok(last.first().cloned())
        })
        .with_context(|| format!("neighbours: {last:#?}\n{}", installation.agent.log_text()))?;
        for (field, value) in [
            ("interface", "rwa"),
            ("system_name", "leaf1"),
            ("chassis_id", "02:00:00:00:00:99"),
            ("chassis_id_subtype", "local"),
            ("port_id", "swp12"),
        ] {
            ensure!(row[field] == value, "{field}: {row}");
        }
        ensure!(last.len() == 1 && row["ttl_s"] == 120, "{last:?}");
        speak("02:00:00:00:00:99", "0", "")?;
        eventually("the neighbour's end", || Ok(neighbours()?.is_empty().then_some(())))?;
        // What was raised is in the collector's store: both edges, with the port they are of.
        let reader = Reader::open(&installation.path("collector").join("railwatch.db"))?;
        eventually("both signals", || {
            let stored =
                reader.signals(&SignalFilter { host: Some(HOST.into()), limit: 1000, ..SignalFilter::default() })?;
            let is_told = |name: &str| {
                stored.iter().any(|stored| stored.signal.name == name && stored.signal.element.name == "rwa")
            };
            Ok((is_told("lldp.neighbour.changed") && is_told("lldp.neighbour.lost")).then_some(()))
        })?;
        Ok(())
    })
}
