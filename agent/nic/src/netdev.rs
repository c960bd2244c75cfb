//! Statistics of network interfaces.
//!
//! In: RTM_GETSTATS with IFLA_STATS_LINK_64, one request per interface (or, without rtnetlink or for another
//! host's tree, `class/net/*/statistics`). Out: bytes, packets, errors and drops per direction. Readings are of the network
//! namespace the agent runs in. The kernel answers RTM_GETSTATS under its RTNL lock: a holder of that lock delays the
//! reading, and the delay shows as its half width. Drivers that refresh in the background (mlx5, bnxt: 1 s) get their
//! rates over that time. Never: an interface nobody asked for, the loopback.

use crate::link::Link;
use crate::microburst::Microbursts;
use crate::netdev_choice::NetdevChoice;
use crate::netlink::{Attributes, Netlink, Request, number, number64};
use crate::ports::{PortInfo, PortKind, Ports};
use crate::sysfs::{self, NumberFile};
use crate::vocabulary::{NETDEV, STALE_STATISTICS, Word};
use nix::sys::socket::SockProtocol;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle, Source,
    Unavailable,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const RTM_GETSTATS: u16 = 94;
const IFLA_STATS_LINK_64: u16 = 1;
/// IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64).
const FILTER_LINK_64: u32 = 1 << (IFLA_STATS_LINK_64 - 1);
const FIELDS: usize = NETDEV.len();

/// Statistics of the chosen interfaces.
pub(crate) struct NetdevSource {
    root: PathBuf,
    choice: NetdevChoice,
    ports: Arc<Ports>,
    backend: Backend,
    interfaces: Vec<Interface>,
    microbursts: Microbursts,
}

enum Backend {
    Netlink(Netlink),
    Sysfs,
}

struct Interface {
    index: u32,
    request: Request,
    series: [Option<SeriesHandle>; FIELDS],
    files: Vec<(usize, NumberFile)>,
}

impl NetdevSource {
    pub(crate) fn new(root: PathBuf, choice: NetdevChoice, ports: Arc<Ports>) -> Self {
        let netlink = if choice.may_use_netlink { Netlink::open(SockProtocol::NetlinkRoute).ok() } else { None };
        let microbursts = Microbursts::new(Arc::clone(&ports));
        let backend = netlink.map_or(Backend::Sysfs, Backend::Netlink);
        Self { root, choice, ports, backend, interfaces: Vec::new(), microbursts }
    }

    fn found(&mut self) -> Result<Vec<Link>, Unavailable> {
        let netlink = match &mut self.backend {
            Backend::Netlink(netlink) => Some(netlink),
            Backend::Sysfs => None,
        };
        self.choice.links(&self.root, netlink)
    }
}

impl Source for NetdevSource {
    fn name(&self) -> &'static str {
        "netdev"
    }

    fn kernel_path(&self) -> &str {
        match self.backend {
            Backend::Netlink(_) => "rtnetlink RTM_GETSTATS IFLA_STATS_LINK_64",
            Backend::Sysfs => "sysfs class/net/*/statistics",
        }
    }

    fn cadence(&self) -> CadenceRange {
        // One message brings all counters of an interface; of files each is a system call of its own.
        let min_ms = if matches!(self.backend, Backend::Netlink(_)) { 1 } else { 10 };
        CadenceRange {
            min: Duration::from_millis(min_ms),
            default: Duration::from_millis(100),
            max: Duration::from_secs(60),
        }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let links = self.found()?;
        self.interfaces.clear();
        self.microbursts.begin();
        let mut ports = Vec::with_capacity(links.len());
        for link in &links {
            let driver = sysfs::driver(&self.root, "net", &link.name);
            let directory = sysfs::device_path(&self.root, "net", &link.name);
            let refresh = STALE_STATISTICS.iter().find(|(name, _)| *name == driver).map(|(_, refresh)| *refresh);
            let request = request(link.index);
            let mut interface = Interface { index: link.index, request, series: [None; FIELDS], files: Vec::new() };
            for (place, (_, word)) in NETDEV.iter().enumerate() {
                if matches!(self.backend, Backend::Sysfs) {
                    match NumberFile::open(&directory.join("statistics").join(word.kernel)) {
                        Ok(file) => interface.files.push((place, file)),
                        Err(_) => continue,
                    }
                }
                interface.series[place] = declare.series(series(&link.name, word, refresh));
            }
            let speed_mbit = sysfs::line(directory.join("speed")).and_then(|text| text.parse::<u64>().ok());
            let speed_bits_per_s = speed_mbit.filter(|mbit| *mbit > 0).map(|mbit| mbit * 1_000_000);
            // Files, and counters that a driver refreshes in the background, show no millisecond.
            if matches!(self.backend, Backend::Netlink(_)) && refresh.is_none() {
                self.microbursts.declare(&link.name, speed_bits_per_s, &interface.series, declare);
            }
            self.interfaces.push(interface);
            ports.push(PortInfo {
                name: link.name.clone(),
                kind: PortKind::Netdev,
                state: link.state().to_owned(),
                driver,
                speed_bits_per_s,
                netdev: None,
                link_layer: None,
            });
        }
        self.ports.replace(PortKind::Netdev, ports);
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let read = self.read_counters(batch);
        self.microbursts.take(batch);
        read
    }
}

impl NetdevSource {
    fn read_counters(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        for Interface { index, request, series, files } in &mut self.interfaces {
            match &mut self.backend {
                Backend::Netlink(netlink) => {
                    let before_ns = monotonic_ns();
                    match netlink.ask(request, |message| decode(message.body, *index)) {
                        Ok(values) => {
                            let moment = Moment::between(before_ns, monotonic_ns());
                            for (series, value) in series.iter().zip(values) {
                                if let (Some(series), Some(value)) = (series, value) {
                                    batch.counter(*series, value, moment);
                                }
                            }
                        }
                        // Somebody holds RTNL: the next interfaces would wait as long.
                        Err(error) if ErrorReason::from(&error) == ErrorReason::TimedOut => {
                            return Err(ReadError::io("asking rtnetlink for statistics", &error));
                        }
                        Err(error) => fault(batch, ErrorReason::from(&error)),
                    }
                }
                Backend::Sysfs => {
                    for (place, file) in files {
                        let before_ns = monotonic_ns();
                        match (file.read(), series[*place]) {
                            (Ok(value), Some(series)) => {
                                batch.counter(series, value, Moment::between(before_ns, monotonic_ns()));
                            }
                            (Ok(_), None) => {}
                            (Err(reason), _) => fault(batch, reason),
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn fault(batch: &mut Batch, reason: ErrorReason) {
    batch.fault(reason);
    if reason == ErrorReason::Missing {
        batch.ask_for_probe();
    }
}

fn series(interface: &str, word: &Word, refresh: Option<Duration>) -> SeriesDef {
    let kind = match (word.shape.kind(), refresh) {
        (Kind::Counter(counter), Some(refresh)) => Kind::Counter(counter.refreshed_every(refresh)),
        (kind, _) => kind,
    };
    let direction = word.direction.map(|direction| ("network.io.direction", direction.label().to_owned()));
    port_series(interface, word.name, word.unit, kind, direction)
}

/// A series of an interface, with these labels beside its name.
pub(crate) fn port_series(
    interface: &str,
    name: &'static str,
    unit: &'static str,
    kind: Kind,
    more: impl IntoIterator<Item = (&'static str, String)>,
) -> SeriesDef {
    let labels = [("network.interface.name", interface.to_owned())].into_iter().chain(more);
    SeriesDef::new(name, unit, kind, Entity { kind: "port", name: interface.to_owned() }, labels)
}

/// Packets that an interface dropped or missed, in an answer to [`request`]; `None` where it has no such counts.
pub(crate) fn drops(body: &[u8], index: u32) -> Option<u64> {
    let counts = decode(body, index);
    let of_drops =
        |word: &Word| matches!(word.name, "hw.network.dropped" | "hw.network.errors.missed" | "hw.network.errors.fifo");
    NETDEV.iter().zip(counts).filter(|((_, word), _)| of_drops(word)).map(|(_, count)| count).sum()
}

/// Asks for the statistics of one interface (`struct if_stats_msg`).
pub(crate) fn request(index: u32) -> Request {
    let mut fixed = [0; 12];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&FILTER_LINK_64.to_ne_bytes());
    Request::new(RTM_GETSTATS, &fixed)
}

fn decode(body: &[u8], index: u32) -> [Option<u64>; FIELDS] {
    let mut values = [None; FIELDS];
    if number(body.get(4..8)) != Some(index) {
        return values;
    }
    let attributes = Attributes(body.get(12..).unwrap_or_default());
    for (_, payload) in attributes.filter(|(kind, _)| *kind == IFLA_STATS_LINK_64) {
        for (value, (field, _)) in values.iter_mut().zip(NETDEV) {
            *value = number64(payload.get(field * 8..));
        }
    }
    values
}
