//! What a read of `tcp.flows` costs on this host, by the number of sockets: half of them of a GPU process (this one), half of
//! another. Each figure is the thread's own processor time, the least of many reads.

use nix::time::{ClockId, clock_gettime};
use railwatch_peers::{FlowSource, Peers};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, Output, Recorder, Source};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const READS: usize = 50;
/// Holds as many connections to itself as it is told, until its input ends.
const OTHER: &str = "\
import socket, sys
listener = socket.create_server(('127.0.0.1', 0), backlog=4096)
kept = []
for _ in range(int(sys.argv[1])):
    kept.append(socket.create_connection(listener.getsockname()))
    kept.append(listener.accept()[0])
print('ready', flush=True)
sys.stdin.read()
";

fn main() -> std::io::Result<()> {
    for sockets in [0, 1000, 2000, 4000] {
        // A connection has two ends, and each half of the sockets is a process's.
        let connections = sockets / 4;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut kept = Vec::new();
        for _ in 0..connections {
            kept.push(TcpStream::connect(listener.local_addr()?)?);
            kept.push(listener.accept()?.0);
        }
        let mut other = Command::new("python3")
            .args(["-c", OTHER, &connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(output) = other.stdout.take() {
            BufReader::new(output).read_line(&mut String::new())?;
        }
        let own = std::process::id();
        let mut source = FlowSource::new(Arc::new(Peers::default()), Box::new(move || vec![own]));
        let mut recorder = Recorder::new("tcp.flows", Duration::from_secs(1), &[], Arc::new(Catalog::default()));
        let (mut batch, mut out) = (Batch::with_capacity(16), Output::default());
        recorder.probe(monotonic_ns(), &mut out, |declare| source.probe(declare)).map_err(std::io::Error::other)?;
        let mut read = || {
            batch.clear();
            let before_ns = thread_cpu_ns()?;
            source.read(&mut batch).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(thread_cpu_ns()? - before_ns)
        };
        let first_ns = read()?;
        let mut again_ns = (0..READS).map(|_| read()).collect::<Result<Vec<_>, _>>()?;
        again_ns.sort_unstable();
        println!(
            "{sockets} sockets: first read {:.2} ms (with all descriptors), later ones {:.2} ms (median {:.2})",
            ms(first_ns),
            ms(again_ns[0]),
            ms(again_ns[READS / 2])
        );
        other.kill()?;
        other.wait()?;
    }
    Ok(())
}

fn thread_cpu_ns() -> std::io::Result<u64> {
    let spent = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
    u64::try_from(spent.as_nanos()).map_err(std::io::Error::other)
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
