//! Statistics of network interfaces.
//!
//! In: RTM_GETSTATS with IFLA_STATS_LINK_64: one dump where at least half of all interfaces are wanted, else a request per
//! interface, sent together (or, without rtnetlink or for another host's tree, `class/net/*/statistics`). Out: bytes, packets,
//! errors and drops per direction. Readings are of the network namespace the agent runs in. The kernel answers RTM_GETSTATS
//! under its RTNL lock: a holder of that lock delays the reading, and the delay shows as its half width. Drivers that refresh
//! in the background (mlx5, bnxt: 1 s) get their rates over that time. Never: an interface nobody asked for, the loopback.

use crate::counter_files::CounterFiles;
use crate::link::Link;
use crate::microburst::Microbursts;
use crate::netdev_choice::NetdevChoice;
use crate::netlink::{Attributes, Netlink, Request, Requests, number, number64};
use crate::ports::{PortInfo, PortKind, Ports};
use crate::sysfs::{self, NumberFile};
use crate::together::Together;
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
    /// Name, driver and directory of each interface, as the last probe found them.
    listed: Vec<(String, String, u64)>,
    microbursts: Microbursts,
}

enum Backend {
    Netlink(Asked),
    Sysfs(CounterFiles<SeriesHandle>),
}

/// How interfaces are asked for their statistics.
struct Asked {
    netlink: Netlink,
    /// For all at once.
    dump: Request,
    /// For each, in the order of the interfaces.
    requests: Requests,
    /// Interfaces in the last dump that nobody wants; 0 before the first.
    unwanted: usize,
    together: Together,
}

struct Interface {
    index: u32,
    series: [Option<SeriesHandle>; FIELDS],
    /// What one read brought, until its moment is known.
    answer: Option<Result<[Option<u64>; FIELDS], ErrorReason>>,
}

impl NetdevSource {
    pub(crate) fn new(root: PathBuf, choice: NetdevChoice, ports: Arc<Ports>) -> Self {
        let netlink = if choice.may_use_netlink { Netlink::open(SockProtocol::NetlinkRoute).ok() } else { None };
        let microbursts = Microbursts::new(Arc::clone(&ports));
        let backend = netlink
            .map_or_else(|| Backend::Sysfs(CounterFiles::default()), |netlink| Backend::Netlink(Asked::new(netlink)));
        Self { root, choice, ports, backend, interfaces: Vec::new(), listed: Vec::new(), microbursts }
    }

    fn found(&mut self) -> Result<Vec<Link>, Unavailable> {
        let netlink = match &mut self.backend {
            Backend::Netlink(asked) => Some(&mut asked.netlink),
            Backend::Sysfs(_) => None,
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
            Backend::Sysfs(_) => "sysfs class/net/*/statistics (a counter that lies still: every 400 ms)",
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

    fn holds_rtnl(&self) -> bool {
        matches!(self.backend, Backend::Netlink(_))
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let links = self.found()?;
        self.interfaces.clear();
        let listed = links.iter().map(|link| {
            let directory = sysfs::device_path(&self.root, "net", &link.name).join("statistics");
            (link.name.clone(), sysfs::driver(&self.root, "net", &link.name), sysfs::directory_number(directory))
        });
        let listed: Vec<_> = listed.collect();
        let mut are_declared = false;
        match &mut self.backend {
            Backend::Netlink(asked) => asked.expect(&links),
            Backend::Sysfs(files) => {
                are_declared = self.listed == listed && files.again(declare, |series| *series);
                if !are_declared {
                    files.begin_again();
                }
            }
        }
        self.microbursts.begin();
        let mut ports = Vec::with_capacity(links.len());
        for (link, (_, driver, _)) in links.iter().zip(&listed) {
            let directory = sysfs::device_path(&self.root, "net", &link.name);
            let refresh = STALE_STATISTICS.iter().find(|(name, _)| name == driver).map(|(_, refresh)| *refresh);
            let mut interface = Interface { index: link.index, series: [None; FIELDS], answer: None };
            for (place, (_, word)) in NETDEV.iter().enumerate() {
                let Backend::Sysfs(files) = &mut self.backend else {
                    interface.series[place] = declare.series(series(&link.name, word, refresh));
                    continue;
                };
                if are_declared {
                    continue;
                }
                if let Ok(file) = NumberFile::open(&directory.join("statistics").join(word.kernel))
                    && let Some(series) = declare.series(series(&link.name, word, refresh))
                {
                    files.push(file, series);
                }
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
                driver: driver.clone(),
                speed_bits_per_s,
                netdev: None,
                link_layer: None,
            });
        }
        self.listed = listed;
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
        let Self { backend, interfaces, .. } = self;
        match backend {
            Backend::Netlink(asked) => asked.read(interfaces, batch),
            Backend::Sysfs(files) => {
                files.read(batch.in_full(), |series, value, moment| match value {
                    Ok(value) => batch.counter(*series, value, moment),
                    Err(reason) => fault(batch, reason),
                });
                Ok(())
            }
        }
    }
}

impl Asked {
    fn new(netlink: Netlink) -> Self {
        Self { netlink, dump: request(0), requests: Requests::default(), unwanted: 0, together: Together::default() }
    }

    /// Will ask for these.
    fn expect(&mut self, links: &[Link]) {
        self.requests = Requests::default();
        for link in links {
            self.requests.push(&request(link.index));
        }
        // The next dump tells how many interfaces there are now.
        self.unwanted = 0;
    }

    fn read(&mut self, interfaces: &mut [Interface], batch: &mut Batch) -> Result<(), ReadError> {
        let begun_ns = monotonic_ns();
        let asked = if self.together.is_on() && self.unwanted <= interfaces.len() {
            self.read_all(interfaces, batch)
        } else {
            self.read_each(interfaces, batch)
        };
        self.together.took(monotonic_ns() - begun_ns);
        // Somebody may hold RTNL: the next interfaces would wait as long.
        asked.map_err(|error| ReadError::io("asking rtnetlink for statistics", &error))
    }

    fn read_all(&mut self, interfaces: &mut [Interface], batch: &mut Batch) -> std::io::Result<()> {
        let Self { netlink, dump, unwanted, .. } = self;
        interfaces.iter_mut().for_each(|interface| interface.answer = Some(Err(ErrorReason::Missing)));
        *unwanted = 0;
        let mut next = 0;
        let before_ns = monotonic_ns();
        netlink.dump(dump, |message| {
            // Both are in the order in which the kernel lists interfaces, unless some came or went.
            let index = number(message.body.get(4..8));
            let is_it = |interface: &Interface| Some(interface.index) == index;
            let expected = interfaces.get(next).is_some_and(is_it).then_some(next);
            match expected.or_else(|| interfaces.iter().position(is_it)) {
                Some(place) => {
                    interfaces[place].answer = Some(Ok(decode(message.body, interfaces[place].index)));
                    next = place + 1;
                }
                None => *unwanted += 1,
            }
        })?;
        let moment = Moment::between(before_ns, monotonic_ns());
        interfaces.iter_mut().for_each(|interface| interface.tell(moment, batch));
        Ok(())
    }

    fn read_each(&mut self, interfaces: &mut [Interface], batch: &mut Batch) -> std::io::Result<()> {
        let Self { netlink, requests, together, .. } = self;
        let mut place = 0;
        while place < interfaces.len() {
            let places = place..interfaces.len().min(place + together.per_call());
            place = places.end;
            let before_ns = monotonic_ns();
            netlink.ask_each(requests, places.clone(), |place, answer| {
                let Interface { index, answer: told, .. } = &mut interfaces[place];
                let values = answer.map(|message| decode(message.body, *index));
                *told = Some(values.map_err(|error| ErrorReason::from(&error)));
            })?;
            let moment = Moment::between(before_ns, monotonic_ns());
            interfaces[places].iter_mut().for_each(|interface| interface.tell(moment, batch));
        }
        Ok(())
    }
}

impl Interface {
    /// Hands over what the read at this moment brought.
    fn tell(&mut self, moment: Moment, batch: &mut Batch) {
        match self.answer.take() {
            Some(Ok(values)) => {
                for (series, value) in self.series.iter().zip(values) {
                    if let (Some(series), Some(value)) = (series, value) {
                        batch.counter(*series, value, moment);
                    }
                }
            }
            Some(Err(reason)) => fault(batch, reason),
            None => {}
        }
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
