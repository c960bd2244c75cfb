//! The source `tcp.flows`: TCP connections of the processes that use a GPU.
//!
//! In: which processes those are, the sockets of their network namespaces, and which of these they hold. Out: the list, and a
//! series of how many. Descriptors are looked at only when a socket shows that nobody has been asked for, when the processes
//! are others, and once a minute; between, a read is one sock_diag dump per namespace.
//! Never: a socket touched, more rows than the bounds (those beyond are counted), a process that uses no GPU.

use super::netns::{Look, look, namespace_of, own_namespace};
use super::processes::sockets;
use crate::queue_pairs::comm;
use crate::view::{Off, Peers};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle, Source,
    Unavailable,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Connections that are listed of one process.
pub const PROCESS_FLOWS_MAX: usize = 256;
/// Connections that are listed of all processes.
pub const FLOWS_MAX: usize = 2048;
/// Namespaces that are looked at in one read.
const NAMESPACES_MAX: usize = 64;
/// Sockets of other processes that are remembered, so that nobody is asked for them again.
const FOREIGN_MAX: usize = 65_536;
/// Descriptors change hands without a new socket: all are looked at again after this time.
const SCAN_EVERY_NS: u64 = 60_000_000_000;

/// What a connection carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes that the other end has acknowledged, the SYN of a connection made here counted as one.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Smoothed round trip, nanoseconds; `None` before it was measured.
    pub rtt_ns: Option<u64>,
}

/// A TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Of the process that holds it, in the agent's pid namespace; the lowest where several do.
    pub pid: u32,
    /// The first 15 bytes of its name.
    pub comm: String,
    /// This end.
    pub source: SocketAddr,
    /// The other end.
    pub destination: SocketAddr,
    /// That it leaves by, in the process's own network namespace; `None` where its ends do not decide.
    pub interface: Option<String>,
    /// `established`, …
    pub state: &'static str,
    /// `None` where the process's namespace could not be entered.
    pub figures: Option<Figures>,
}

/// Says which processes use a GPU, by their pids.
pub type GpuPids = Box<dyn Fn() -> Vec<u32> + Send>;

/// TCP connections of GPU processes.
pub struct FlowSource {
    peers: Arc<Peers>,
    pids: GpuPids,
    known: Vec<u32>,
    /// Inode of a socket to the process that holds it.
    owners: HashMap<u64, u32>,
    /// Sockets that none of the processes holds.
    foreign: HashSet<u64>,
    scanned_at_ns: u64,
    count: Option<SeriesHandle>,
}

/// What a read found.
#[derive(Default)]
struct Found {
    looks: Vec<Look>,
    namespaces_beyond: u64,
    /// Namespaces that could not be entered, and why not.
    refused: Option<(usize, io::Error)>,
    /// Processes that may not be looked at.
    denied: usize,
}

impl FlowSource {
    /// Of the processes that `pids` names at each read.
    #[must_use]
    pub fn new(peers: Arc<Peers>, pids: GpuPids) -> Self {
        Self {
            peers,
            pids,
            known: Vec::new(),
            owners: HashMap::new(),
            foreign: HashSet::new(),
            scanned_at_ns: 0,
            count: None,
        }
    }

    fn pids(&self) -> Vec<u32> {
        let mut pids = (self.pids)();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn look(&self, pids: &[u32]) -> io::Result<Found> {
        let (own, mut found) = (own_namespace()?, Found::default());
        let mut namespaces = BTreeMap::new();
        for pid in pids {
            match namespace_of(*pid) {
                Ok(namespace) => _ = namespaces.entry(namespace).or_insert(*pid),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.denied += 1,
                // Gone since it was named.
                Err(_) => {}
            }
        }
        found.namespaces_beyond = namespaces.len().saturating_sub(NAMESPACES_MAX) as u64;
        let foreign = &self.foreign;
        let wanted = |inode| inode != 0 && !foreign.contains(&inode);
        for (namespace, pid) in namespaces.into_iter().take(NAMESPACES_MAX) {
            let mut look = match look(pid, namespace == own, &wanted) {
                Ok(look) => look,
                // It and its namespace went while it was looked at.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if let Some(error) = look.refused.take() {
                let count = found.refused.take().map_or(0, |(count, _)| count);
                found.refused = Some((count + 1, error));
            }
            found.looks.push(look);
        }
        Ok(found)
    }

    /// Finds out which sockets the processes hold, where that may have changed; how many processes hold more descriptors
    /// than are looked at.
    fn scan(&mut self, pids: &[u32], looks: &[Look], now_ns: u64) -> Option<u64> {
        let seen = || looks.iter().flat_map(|look| &look.sockets).map(|socket| socket.inode);
        let is_settled = self.known == pids
            && now_ns.saturating_sub(self.scanned_at_ns) < SCAN_EVERY_NS
            && seen().all(|inode| self.owners.contains_key(&inode));
        if is_settled {
            return None;
        }
        if self.known != pids || now_ns.saturating_sub(self.scanned_at_ns) >= SCAN_EVERY_NS {
            self.foreign.clear();
        }
        self.owners.clear();
        let mut beyond = 0;
        for pid in pids {
            let owners = &mut self.owners;
            beyond += u64::from(sockets(*pid, |inode| _ = owners.entry(inode).or_insert(*pid)));
        }
        let room = FOREIGN_MAX.saturating_sub(self.foreign.len());
        let foreign: Vec<_> = seen().filter(|inode| !self.owners.contains_key(inode)).take(room).collect();
        self.foreign.extend(foreign);
        self.known = pids.to_vec();
        self.scanned_at_ns = now_ns;
        Some(beyond)
    }

    /// The rows, by process, and how many there was no room for.
    fn rows(&self, looks: &[Look]) -> (Vec<Flow>, u64) {
        let mut comms: HashMap<u32, String> = HashMap::new();
        let mut flows = Vec::new();
        for look in looks {
            for socket in &look.sockets {
                let Some(pid) = self.owners.get(&socket.inode) else { continue };
                flows.push(Flow {
                    pid: *pid,
                    comm: comms.entry(*pid).or_insert_with(|| comm(*pid)).clone(),
                    source: socket.source,
                    destination: socket.destination,
                    interface: look.interfaces.of(socket).map(str::to_owned),
                    state: socket.state,
                    figures: socket.figures.clone(),
                });
            }
        }
        bounded(flows)
    }

    fn show(&self, found: &Found, descriptors_beyond: Option<u64>) -> usize {
        let (flows, beyond) = self.rows(&found.looks);
        let count = flows.len() + usize::try_from(beyond).unwrap_or(usize::MAX);
        self.peers.set_flows(flows);
        self.peers.set_beyond("flows", beyond);
        self.peers.set_beyond("sockets", found.looks.iter().map(|look| look.beyond).sum());
        self.peers.set_beyond("network_namespaces", found.namespaces_beyond);
        if let Some(beyond) = descriptors_beyond {
            self.peers.set_beyond("processes_with_more_descriptors", beyond);
        }
        let mut off = Vec::new();
        if let Some((count, error)) = &found.refused {
            off.push(Off {
                what: "bytes and round trips of TCP flows".into(),
                why: format!(
                    "{count} network namespaces of GPU processes could not be asked ({error}): who is connected there is read \
                     from /proc/PID/net; entering another namespace needs CAP_SYS_ADMIN, and a unit without RestrictNamespaces="
                ),
            });
        }
        if found.denied > 0 {
            off.push(Off {
                what: "TCP flows of other users' processes".into(),
                why: format!("{} GPU processes may not be looked at: CAP_SYS_PTRACE is missing", found.denied),
            });
        }
        self.peers.set_off("tcp.flows", off);
        count
    }
}

/// Sorted by process and ends, so that the same connections are the same rows; cut to the bounds.
fn bounded(mut flows: Vec<Flow>) -> (Vec<Flow>, u64) {
    flows.sort_unstable_by_key(|flow| (flow.pid, flow.source, flow.destination));
    let all = flows.len();
    let (mut pid, mut of_process) = (0, 0);
    flows.retain(|flow| {
        of_process = if flow.pid == pid { of_process + 1 } else { 1 };
        pid = flow.pid;
        of_process <= PROCESS_FLOWS_MAX
    });
    flows.truncate(FLOWS_MAX);
    let beyond = all - flows.len();
    (flows, beyond as u64)
}

impl Source for FlowSource {
    fn name(&self) -> &'static str {
        "tcp.flows"
    }

    fn kernel_path(&self) -> &str {
        "sock_diag TCPDIAG with INET_DIAG_INFO, /proc/PID/fd"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(1), default: Duration::from_secs(10), max: Duration::from_secs(600) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        if self.pids().is_empty() {
            self.owners.clear();
            self.foreign.clear();
            self.peers.set_flows(Vec::new());
            self.peers.set_off("tcp.flows", Vec::new());
            return Err(Unavailable::new(ErrorReason::Missing, "no process that uses a GPU is known"));
        }
        let entity = Entity { kind: "host", name: "tcp.flows".into() };
        self.count = declare.series(SeriesDef::new("gpu.process.connections", "{connection}", Kind::Gauge, entity, []));
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let before_ns = monotonic_ns();
        let pids = self.pids();
        if pids.is_empty() {
            batch.ask_for_probe();
        }
        let found = self.look(&pids).map_err(|error| ReadError::io("listing TCP connections", &error))?;
        let descriptors_beyond = self.scan(&pids, &found.looks, before_ns);
        let count = self.show(&found, descriptors_beyond);
        if let Some(series) = self.count {
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
            batch.gauge(series, count as f64, Moment::between(before_ns, monotonic_ns()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_one_order_and_bounded_for_each_process_and_in_all() {
        let flow = |pid: u32, port: u16| Flow {
            pid,
            comm: String::new(),
            source: SocketAddr::from(([10, 0, 0, 1], port)),
            destination: SocketAddr::from(([10, 0, 0, 2], 1)),
            interface: None,
            state: "established",
            figures: None,
        };
        let (rows, beyond) = bounded(vec![flow(2, 5), flow(1, 9), flow(1, 3)]);
        assert_eq!((rows, beyond), (vec![flow(1, 3), flow(1, 9), flow(2, 5)], 0));
        let many = |pids| (1..=pids).flat_map(|pid| (1..=300).map(move |port| flow(pid, port))).collect();
        let (rows, beyond) = bounded(many(2));
        assert_eq!((rows.len(), beyond), (2 * PROCESS_FLOWS_MAX, 2 * 300 - 2 * PROCESS_FLOWS_MAX as u64));
        let (rows, beyond) = bounded(many(20));
        assert_eq!((rows.len(), beyond), (FLOWS_MAX, 20 * 300 - FLOWS_MAX as u64));
    }
}
