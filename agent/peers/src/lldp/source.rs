//! The source `lldp`: frames in as they come, neighbours and signals out.
//!
//! In: frames and link notifications, by one descriptor. Out: the list of neighbours, a series of how many each port has, and a
//! signal when one comes, changes or goes, with the frame or the second that shows it; one per hold-off of each port at most, the
//! last of those held back told after it and the others counted. Never: a frame sent, more than a turn's worth of frames taken at once.

use super::socket::{LldpSocket, Received};
use super::table::{Change, Table, Why};
use super::{Announcement, CHANGED, Id, LOST, decode};
use crate::view::{Off, Peers};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use railwatch_nic::{Interfaces, NicConfig};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, HOLD_OFF, Kind, Moment, ReadError, SeriesDef,
    SeriesHandle, Severity, Signal, Source, Unavailable,
};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Ports that are heard on; those beyond are said to be off.
const PORTS_MAX: usize = 256;
/// Frames taken at once; the rest wait in the socket for the next turn.
const TURN_MAX: usize = 64;
const HOLD_OFF_NS: u64 = HOLD_OFF.as_secs() * 1_000_000_000;

/// Neighbours of this host's ports.
pub struct LldpSource {
    config: NicConfig,
    peers: Arc<Peers>,
    open: Option<Open>,
    table: Table,
    ports: BTreeMap<u32, Port>,
    /// Losses that a probe found, for the next read to tell.
    lost: Vec<Change>,
    frames: u64,
    discarded: u64,
    totals: Option<(SeriesHandle, SeriesHandle)>,
}

struct Open {
    socket: LldpSocket,
    interfaces: Interfaces,
    /// Readable when either of them is.
    either: Epoll,
}

struct Port {
    name: String,
    series: Option<SeriesHandle>,
    held_until_ns: u64,
    suppressed: u64,
    /// The last change that was held back: told when it may be.
    held: Option<Change>,
}

impl LldpSource {
    /// On the interfaces that the NIC sources read.
    #[must_use]
    pub fn new(config: NicConfig, peers: Arc<Peers>) -> Self {
        Self {
            config,
            peers,
            open: None,
            table: Table::default(),
            ports: BTreeMap::new(),
            lost: Vec::new(),
            frames: 0,
            discarded: 0,
            totals: None,
        }
    }

    fn open(&mut self) -> Result<&mut Open, Unavailable> {
        // Taken out and put back, so that the reference lives as long as it is asked for.
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let interfaces = Interfaces::open(&self.config)?;
                let socket = LldpSocket::open().map_err(|error| {
                    // A unit's RestrictAddressFamilies= answers with EAFNOSUPPORT.
                    let is_refused = error.kind() == io::ErrorKind::PermissionDenied
                        || error.raw_os_error() == Some(libc::EAFNOSUPPORT);
                    if !is_refused {
                        return Unavailable::new((&error).into(), format!("opening a raw socket for LLDP: {error}"));
                    }
                    let text = format!(
                        "CAP_NET_RAW is missing, so that LLDP cannot be heard ({error}): deploy/systemd/drop-ins/lldp.conf gives \
                         it to the unit, NET_RAW in securityContext.capabilities.add to the container"
                    );
                    Unavailable::new(ErrorReason::Denied, text)
                })?;
                let either = watch_both(&socket, &interfaces)
                    .map_err(|error| Unavailable::new((&error).into(), format!("waiting for LLDP frames: {error}")))?;
                Open { socket, interfaces, either }
            }
        };
        Ok(self.open.insert(open))
    }

    /// Takes up to a turn's worth of frames.
    fn hear(&mut self, batch: &mut Batch) -> io::Result<()> {
        let Self { open: Some(open), table, ports, peers, frames, discarded, .. } = self else { return Ok(()) };
        let mut heard = false;
        for _ in 0..TURN_MAX {
            let before_ns = monotonic_ns();
            let (port, pdu) = match open.socket.receive() {
                Ok(Received::Frame { port, pdu }) => (port, pdu),
                Ok(Received::TooLong) => {
                    *discarded += 1;
                    continue;
                }
                Ok(Received::Nothing) => break,
                // A port went down, which is no failure of the socket of all of them.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
                Err(error) => return Err(error),
            };
            // Interfaces of containers and the like are heard where something else joined the group there.
            if !ports.contains_key(&port) {
                continue;
            }
            *frames += 1;
            let Ok(said) = decode(pdu) else {
                *discarded += 1;
                batch.fault(ErrorReason::Malformed);
                continue;
            };
            heard = true;
            let now_ns = monotonic_ns();
            let moment = Moment::between(before_ns, now_ns);
            let change = table.hear(port, said, now_ns);
            change.into_iter().for_each(|change| tell(ports, change, moment, batch));
        }
        if heard {
            peers.set_neighbours(table.neighbours().cloned().collect());
            peers.set_beyond("lldp_announcements", table.beyond);
        }
        Ok(())
    }

    fn push(&self, batch: &mut Batch, moment: Moment) {
        for (index, port) in &self.ports {
            if let Some(series) = port.series {
                #[expect(clippy::cast_precision_loss, reason = "a few neighbours")]
                batch.gauge(series, self.table.count(*index) as f64, moment);
            }
        }
        if let Some((frames, discarded)) = self.totals {
            batch.counter(frames, self.frames, moment);
            batch.counter(discarded, self.discarded, moment);
        }
    }

    /// Forgets what a socket that is no longer there had heard.
    fn close(&mut self) {
        self.open = None;
        self.ports.clear();
        self.lost.clear();
        self.table = Table::default();
        self.peers.set_neighbours(Vec::new());
    }

    fn find_ports(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        let open = self.open()?;
        let mut found = open.interfaces.list()?;
        found.sort_unstable();
        let beyond = found.len().saturating_sub(PORTS_MAX);
        found.truncate(PORTS_MAX);
        let known: Vec<u32> = self.ports.keys().copied().collect();
        let mut off = Vec::new();
        let Some(open) = &self.open else { return Ok(()) };
        found.retain(|(index, name)| {
            let joined = if known.contains(index) { Ok(()) } else { open.socket.join(*index) };
            if let Err(error) = &joined {
                off.push(Off { what: format!("LLDP on {name}"), why: format!("joining its groups: {error}") });
            }
            joined.is_ok()
        });
        if beyond > 0 {
            let why = format!("{beyond} interfaces are beyond the {PORTS_MAX} that are heard on");
            off.push(Off { what: "LLDP on all interfaces".into(), why });
        }
        self.peers.set_off("lldp", off);
        // An index that stayed under another name is another interface; its membership is the kernel's to keep.
        let mut before = std::mem::take(&mut self.ports);
        for (index, name) in &found {
            let entity = Entity { kind: "port", name: name.clone() };
            let labels = [("network.interface.name", name.clone())];
            let series = declare.series(SeriesDef::new(NEIGHBOURS, "{neighbour}", Kind::Gauge, entity, labels));
            let port = before.remove(index).filter(|port| port.name == *name);
            let fresh = || Port { name: name.clone(), series: None, held_until_ns: 0, suppressed: 0, held: None };
            self.ports.insert(*index, Port { series, ..port.unwrap_or_else(fresh) });
        }
        self.lost.extend(self.table.set_ports(&found));
        let mut total = |name| {
            let entity = Entity { kind: "host", name: "lldp".into() };
            declare.series(SeriesDef::new(name, "{frame}", Kind::Counter(Counter::wrapping(64)), entity, []))
        };
        self.totals = total("lldp.frames").zip(total("lldp.frames.discarded"));
        Ok(())
    }
}

/// How many neighbours a port has.
const NEIGHBOURS: &str = "lldp.neighbours";

fn watch_both(socket: &LldpSocket, interfaces: &Interfaces) -> io::Result<Epoll> {
    let either = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for fd in [socket.as_fd(), interfaces.event_fd()] {
        either.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    }
    Ok(either)
}

/// Words a change; where its port has spoken within the hold-off, the last one waits until that is over.
fn tell(ports: &mut BTreeMap<u32, Port>, change: Change, moment: Moment, batch: &mut Batch) {
    let port = ports.get_mut(&change.port);
    let suppressed = match port {
        Some(port) if moment.at_ns < port.held_until_ns || port.held.is_some() => {
            port.suppressed += u64::from(port.held.replace(change).is_some());
            return;
        }
        Some(port) => {
            port.held_until_ns = moment.at_ns + HOLD_OFF_NS;
            std::mem::take(&mut port.suppressed)
        }
        // The port itself went.
        None => 0,
    };
    batch.signal(signal(change, moment, suppressed));
}

fn signal(change: Change, moment: Moment, suppressed: u64) -> Signal {
    let Change { port: _, why, neighbour, before, now } = change;
    let interface = neighbour.interface.clone();
    let who = who(&neighbour.said);
    let before = before.map(|(chassis, port)| format!("{} port {}", chassis.text, port.text));
    let (what, severity) = match why {
        Why::Appeared => (format!("its neighbour is {who}"), Severity::Info),
        Why::Returned => (format!("its neighbour {who} is back"), Severity::Info),
        Why::Changed => (format!("its neighbour {who} says something else of itself"), Severity::Info),
        Why::Another => {
            (format!("another neighbour, {who}, after {}", before.as_deref().unwrap_or("?")), Severity::Warning)
        }
        Why::Expired => {
            (format!("nothing was heard of its neighbour {who} for {} s", neighbour.said.ttl_s), of_loss(now))
        }
        Why::Shutdown => (format!("its neighbour {who} said that it goes away"), of_loss(now)),
        Why::PortGone => (format!("the port is gone, and its neighbour {who} with it"), Severity::Warning),
    };
    let Announcement { chassis: Id { text: chassis, .. }, port: Id { text: port, .. }, system_name, .. } =
        neighbour.said;
    let entity = Entity { kind: "port", name: interface.clone() };
    let labels = [("network.interface.name", interface.clone())];
    let series = SeriesDef::new(NEIGHBOURS, "{neighbour}", Kind::Gauge, entity.clone(), labels).id();
    let mut attributes = vec![
        ("network.interface.name", interface.clone()),
        ("cause", why.name().to_owned()),
        ("lldp.chassis.id", chassis),
        ("lldp.port.id", port),
    ];
    attributes.extend((!system_name.is_empty()).then_some(("lldp.system.name", system_name)));
    attributes.extend(before.map(|before| ("lldp.previous", before)));
    let previous = match why {
        Why::Appeared | Why::Another | Why::Returned => now.saturating_sub(1),
        Why::Changed => now,
        Why::Expired | Why::Shutdown | Why::PortGone => now + 1,
    };
    #[expect(clippy::cast_precision_loss, reason = "a few neighbours")]
    Signal {
        name: if why.is_loss() { LOST } else { CHANGED },
        series,
        entity,
        severity,
        moment,
        value: now as f64,
        previous: Some(previous as f64),
        unit: "{neighbour}",
        summary: format!("port {interface}: {what}"),
        attributes,
        incomplete_since_mono_ns: None,
        suppressed,
    }
}

/// One of several that goes is less than the only one.
fn of_loss(now: usize) -> Severity {
    if now == 0 { Severity::Warning } else { Severity::Info }
}

/// As an operator names it: the system, or its chassis where it has no name; and the port.
fn who(said: &Announcement) -> String {
    let system = if said.system_name.is_empty() { &said.chassis.text } else { &said.system_name };
    format!("{system} port {}", said.port.text)
}

impl Source for LldpSource {
    fn name(&self) -> &'static str {
        "lldp"
    }

    fn kernel_path(&self) -> &str {
        "AF_PACKET, EtherType 0x88cc"
    }

    fn cadence(&self) -> CadenceRange {
        // Frames come as events. What is read is the clock, for those that are silent.
        let second = Duration::from_secs(1);
        CadenceRange { min: second, default: second, max: Duration::from_secs(10) }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        self.find_ports(declare).inspect_err(|unavailable| {
            self.peers.set_off("lldp", vec![Off { what: "LLDP neighbours".into(), why: unavailable.text.clone() }]);
            self.close();
        })
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let now_ns = monotonic_ns();
        let moment = Moment::between(now_ns, now_ns);
        let mut gone = std::mem::take(&mut self.lost);
        gone.extend(self.table.expire(now_ns));
        if !gone.is_empty() {
            self.peers.set_neighbours(self.table.neighbours().cloned().collect());
            gone.into_iter().for_each(|change| tell(&mut self.ports, change, moment, batch));
        }
        for port in self.ports.values_mut().filter(|port| port.held_until_ns <= now_ns) {
            if let Some(change) = port.held.take() {
                port.held_until_ns = now_ns + HOLD_OFF_NS;
                batch.signal(signal(change, moment, std::mem::take(&mut port.suppressed)));
            }
        }
        if let Some(open) = &self.open
            && open.socket.dropped().is_ok_and(|dropped| dropped > 0)
        {
            batch.fault(ErrorReason::Overrun);
        }
        self.push(batch, moment);
        Ok(())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|open| open.either.0.as_fd())
    }

    fn on_event(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        if let Some(open) = &mut self.open {
            // Readable without a notification: there is none then, and the list stays.
            let mut fds = [nix::poll::PollFd::new(open.interfaces.event_fd(), nix::poll::PollFlags::POLLIN)];
            let changed = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
            if changed {
                // Lost notifications are no loss: the list is asked for anew.
                let _ = open.interfaces.drain();
                batch.ask_for_probe();
            }
        }
        self.hear(batch).map_err(|error| {
            self.close();
            ReadError::io("receiving LLDP frames", &error)
        })
    }
}
