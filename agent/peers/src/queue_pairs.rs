//! The source `rdma.qp`: RDMA queue pairs, with the process that made each.
//!
//! In: RDMA netlink's resource tracking. Out: the list, and a series of how many each device has. Counting is cheap and done at
//! every read. Listing asks the driver for every queue pair, on mlx5 by a firmware command: it is done when a count moved,
//! until two lists are equal and nobody is connecting, and once a minute; and never for more than a hundredth of the time.
//! Never: a change of a resource, more rows than the bound (those beyond are counted).

use crate::view::{Off, Peers};
use railwatch_nic::{Owner, QueuePair, RdmaResources};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle, Source,
    Unavailable,
};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Queue pairs that are listed, of all devices together.
pub const QUEUE_PAIRS_MAX: usize = 4096;
/// A list that is so old is made anew, for changes that leave the number of queue pairs as it was.
const LIST_EVERY_NS: u64 = 60_000_000_000;
/// Listing may take one part in so many of the time.
const SHARE: u64 = 100;

/// A queue pair with everything that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePairRow {
    /// `mlx5_0`.
    pub device: String,
    /// As the kernel tracks it.
    pub pair: QueuePair,
    /// Of the process, or of the kernel's module; empty where not known.
    pub comm: String,
    /// This end, where the connection manager made the connection.
    pub source: Option<SocketAddr>,
    /// The other end, likewise.
    pub destination: Option<SocketAddr>,
}

/// RDMA queue pairs.
pub struct QueuePairSource {
    peers: Arc<Peers>,
    resources: Option<RdmaResources>,
    devices: Vec<Device>,
    /// The list may not be what there is: a count moved, the last two lists differed, or a queue pair is on its way.
    unsettled: bool,
    listed_at_ns: u64,
    /// The kernel and the driver have had their rest after the last list.
    rested_at_ns: u64,
}

struct Device {
    index: u32,
    name: String,
    count: u64,
    series: Option<SeriesHandle>,
}

impl QueuePairSource {
    /// Of all devices of this host.
    #[must_use]
    pub fn new(peers: Arc<Peers>) -> Self {
        Self { peers, resources: None, devices: Vec::new(), unsettled: true, listed_at_ns: 0, rested_at_ns: 0 }
    }

    fn find_devices(&mut self) -> Result<Vec<(u32, String)>, Unavailable> {
        let failed = |error: io::Error| {
            Unavailable::new((&error).into(), format!("asking RDMA netlink for its devices: {error}"))
        };
        let resources = match &mut self.resources {
            Some(resources) => resources,
            none => none.insert(RdmaResources::open().map_err(|error| {
                Unavailable::new(ErrorReason::Missing, format!("the kernel has no RDMA netlink (ib_core): {error}"))
            })?),
        };
        let found = resources.devices().map_err(failed)?;
        match found.first() {
            Some((index, _)) => {
                // Kernels before 4.17 do not know the question.
                resources.queue_pair_count(*index).map_err(|error| {
                    let text = format!("the kernel does not track RDMA resources (Linux 4.17 and later do): {error}");
                    Unavailable::new(ErrorReason::NotAvailable, text)
                })?;
                Ok(found)
            }
            None => Err(Unavailable::new(ErrorReason::Missing, "no RDMA device in the agent's network namespace")),
        }
    }

    /// Lists all queue pairs.
    fn list(&mut self, batch: &mut Batch) -> io::Result<()> {
        let Self { peers, resources: Some(resources), devices, .. } = self else { return Ok(()) };
        let (mut rows, mut beyond, mut comms) = (Vec::new(), 0, HashMap::new());
        for Device { index, name, .. } in devices {
            let first = rows.len();
            resources.queue_pairs(*index, |pair| {
                if rows.len() >= QUEUE_PAIRS_MAX {
                    beyond += 1;
                    return;
                }
                let comm = match &pair.owner {
                    Owner::Process(pid) => comms.entry(*pid).or_insert_with(|| comm(*pid)).clone(),
                    Owner::Kernel(name) => name.clone(),
                    Owner::Unknown => String::new(),
                };
                rows.push(QueuePairRow { device: name.clone(), pair, comm, source: None, destination: None });
            })?;
            let of_device = &mut rows[first..];
            of_device.sort_unstable_by_key(|row| row.pair.number);
            // Devices without a connection manager answer with an error: there is nothing to join then.
            let joined = resources.cm_ids(*index, |id| {
                let Some(number) = id.queue_pair else { return };
                if let Ok(at) = of_device.binary_search_by_key(&number, |row| row.pair.number) {
                    (of_device[at].source, of_device[at].destination) = (id.source, id.destination);
                }
            });
            if joined.is_err() {
                batch.fault(ErrorReason::NotAvailable);
            }
        }
        let is_connecting = rows.iter().any(|row| is_connecting(&row.pair));
        let facts = peers.view().facts;
        peers.set_queue_pairs(rows);
        peers.set_beyond("queue_pairs", beyond);
        self.unsettled = is_connecting || peers.view().facts != facts;
        Ok(())
    }
}

/// Of a type that gets a peer, and on its way there: its next state leaves the number of queue pairs as it is. One that only
/// receives stays in RTR for good.
fn is_connecting(pair: &QueuePair) -> bool {
    pair.remote_number.is_some() && matches!(pair.state, "RESET" | "INIT")
}

/// The first 15 bytes of a process's name; empty where it is gone.
pub(crate) fn comm(pid: u32) -> String {
    let text = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned()
}

impl Source for QueuePairSource {
    fn name(&self) -> &'static str {
        "rdma.qp"
    }

    fn kernel_path(&self) -> &str {
        "RDMA netlink RES_GET, RES_QP_GET, RES_CM_ID_GET"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange { min: Duration::from_secs(1), default: Duration::from_secs(5), max: Duration::from_secs(600) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let found = self.find_devices().inspect_err(|unavailable| {
            self.resources = None;
            self.devices.clear();
            self.peers.set_queue_pairs(Vec::new());
            self.peers.set_beyond("queue_pairs", 0);
            let off = Off { what: "RDMA queue pairs".into(), why: unavailable.text.clone() };
            // A host without RDMA lacks nothing.
            let is_news = unavailable.reason != ErrorReason::Missing;
            self.peers.set_off("rdma.qp", is_news.then_some(off).into_iter().collect());
        })?;
        self.peers.set_off("rdma.qp", Vec::new());
        let known = std::mem::take(&mut self.devices);
        for (index, name) in found {
            let count = known.iter().find(|device| device.index == index && device.name == name).map(|d| d.count);
            self.unsettled |= count.is_none();
            let entity = Entity { kind: "rdma_device", name: name.clone() };
            let labels = [("rdma.device", name.clone())];
            let series =
                declare.series(SeriesDef::new("rdma.queue_pairs", "{queue_pair}", Kind::Gauge, entity, labels));
            self.devices.push(Device { index, name, count: count.unwrap_or_default(), series });
        }
        self.unsettled |= known.len() != self.devices.len();
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Some(resources) = &mut self.resources else { return Ok(()) };
        for device in &mut self.devices {
            let before_ns = monotonic_ns();
            match resources.queue_pair_count(device.index) {
                Ok(count) => {
                    self.unsettled |= count != device.count;
                    device.count = count;
                    if let Some(series) = device.series {
                        #[expect(clippy::cast_precision_loss, reason = "a device has at most 2^24 queue pairs")]
                        batch.gauge(series, count as f64, Moment::between(before_ns, monotonic_ns()));
                    }
                }
                Err(error) => {
                    batch.fault((&error).into());
                    batch.ask_for_probe();
                }
            }
        }
        let now_ns = monotonic_ns();
        let is_due = self.unsettled || now_ns.saturating_sub(self.listed_at_ns) >= LIST_EVERY_NS;
        if is_due && now_ns >= self.rested_at_ns {
            self.list(batch).map_err(|error| ReadError::io("listing RDMA queue pairs", &error))?;
            let after_ns = monotonic_ns();
            self.listed_at_ns = after_ns;
            self.rested_at_ns = after_ns + (after_ns - now_ns) * SHARE;
        }
        Ok(())
    }
}
