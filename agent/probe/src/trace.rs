//! Which way a flow goes: packets of its own 5-tuple whose time to live ends early, and who says so (ICMP time exceeded; [`four`], [`six`]).
//!
//! In: flows, and where the responders listen. Out: for each flow the addresses of who forwarded it. How far the destination is is
//! found first: by probes of its responder with growing time to live, or else by a port that nobody listens on. Then the
//! flow's packets go no further than one hop before it: its socket, and a connection that has these ports, hear nothing. They are
//! written whole by a raw socket (CAP_NET_RAW), so that a port in use is traced too; TCP ones are bare acknowledgements, which no
//! state on the way takes for a connection. Routers limit what they say (Linux: net.ipv4.icmp_ratelimit, icmp_msgs_per_sec): packets
//! go at [`PACE`], and what was not answered is asked again while there is time.
//! Never: a packet to the destination's port, a wait beyond the time given.

mod four;
mod six;

use crate::packet::{self, HEAD_BYTES, Key, Packet, Request};
use crate::prober::random;
use crate::socket::StampedSocket;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recvfrom, sendto, setsockopt,
    socket, sockopt,
};
use railwatch_sampling::clock::{monotonic_ns, nanoseconds};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// Flows at once.
pub const TRACE_FLOWS_MAX: usize = 256;
/// Hops of a flow.
pub const TRACE_HOPS_MAX: u8 = 32;
/// Between two packets of a trace.
pub const PACE: Duration = Duration::from_millis(2);
/// How long an answer is waited for after the last packet of a round.
const SETTLE: Duration = Duration::from_millis(200);
/// Beside four times the slowest answer, after which no further one is expected: a host that has much to do answers in parts.
const QUIET: Duration = Duration::from_millis(20);
/// Between two looks at what responders answered.
const LOOK: Duration = Duration::from_millis(5);
/// Where nobody listens, as traceroute has it.
const CLOSED_PORT: u16 = 33_434;
/// How often it is asked whether the destination is nearer than it seemed.
const CONFIRM: usize = 3;
/// One number for each flow and hop, and that so often: it fits 16 bits, and is never 0.
const HOPS: u16 = TRACE_HOPS_MAX as u16;
const IDS_PER_ROUND: u16 = TRACE_FLOWS_MAX as u16 * HOPS;
const ROUNDS_MAX: u16 = 6;

/// What the packets say they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP
    Udp,
    /// TCP
    Tcp,
}

/// A flow whose way is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSpec {
    /// By which it leaves; empty: by what the routes say.
    pub interface: String,
    /// Own address and port.
    pub source: SocketAddr,
    /// The other end's, of the same family.
    pub destination: SocketAddr,
    /// Of both.
    pub protocol: Protocol,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
}

/// Who forwarded a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Who answered; `None`: nobody did.
    pub address: Option<IpAddr>,
    /// Nanoseconds until the answer.
    pub round_trip_ns: u64,
}

/// A flow's way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// From the first after this host to the last before the destination.
    pub hops: Vec<Hop>,
    /// The last of them answered, or there are none.
    pub reached: bool,
    /// Why nothing is known.
    pub failed: Option<String>,
}

/// How to trace.
#[derive(Clone, Copy, Debug)]
pub struct TraceOptions<'a> {
    /// With which responders answer; without, a closed port must.
    pub key: Option<&'a Key>,
    /// Where they listen.
    pub responder_port: u16,
    /// Hops at most, up to [`TRACE_HOPS_MAX`].
    pub hops_max: u8,
    /// For all.
    pub timeout: Duration,
}

/// Traces flows, [`TRACE_FLOWS_MAX`] at most, in their order.
///
/// # Errors
/// Why nothing can be traced at all.
pub fn trace(flows: &[TraceSpec], options: &TraceOptions<'_>) -> Result<Vec<Way>, String> {
    if flows.len() > TRACE_FLOWS_MAX {
        return Err(format!("{} flows; at most {TRACE_FLOWS_MAX} are traced at a time", flows.len()));
    }
    let options = TraceOptions { hops_max: options.hops_max.clamp(1, TRACE_HOPS_MAX), ..*options };
    let mixed = flows.iter().find(|flow| Family::of(flow.source.ip()) != Family::of(flow.destination.ip()));
    if let Some(TraceSpec { source, destination, .. }) = mixed {
        return Err(format!("{source} and {destination} are of two families: nothing goes from one to the other"));
    }
    let families = flows.iter().map(|flow| Family::of(flow.source.ip())).collect();
    let mut tracer = Tracer::open(&options, families).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "packets of another's ports need CAP_NET_RAW, which this agent has not: see docs/OPERATIONS.md, \"Probes\""
                .to_owned()
        }
        _ => format!("open a raw socket: {error}"),
    })?;
    let distances = tracer.distances(flows);
    let mut ways: Vec<Way> = flows
        .iter()
        .map(|flow| match distances.get(&Place::of(flow)) {
            Some(Ok(distance)) => Way { hops: vec![Hop::default(); usize::from(distance - 1)], ..Way::default() },
            Some(Err(why)) => Way { failed: Some(why.clone()), ..Way::default() },
            None => Way::default(),
        })
        .collect();
    tracer.hops(flows, &mut ways);
    for way in &mut ways {
        way.reached = way.failed.is_none() && way.hops.last().is_none_or(|hop| hop.address.is_some());
    }
    Ok(ways)
}

/// Between which two addresses a distance is, by which interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    interface: String,
    source: IpAddr,
    destination: IpAddr,
}

impl Place {
    fn of(flow: &TraceSpec) -> Self {
        Self { interface: flow.interface.clone(), source: flow.source.ip(), destination: flow.destination.ip() }
    }
}

/// What an ICMP message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    from: IpAddr,
    /// The destination has no such port; otherwise the time was over.
    is_closed: bool,
    /// Of the packet it is about.
    id: u16,
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Four,
    Six,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::Six } else { Self::Four }
    }

    fn addresses(self) -> AddressFamily {
        match self {
            Self::Four => AddressFamily::Inet,
            Self::Six => AddressFamily::Inet6,
        }
    }
}

struct Tracer<'a> {
    options: &'a TraceOptions<'a>,
    deadline_ns: u64,
    /// What comes over IPv4, and over IPv6, of those that are traced.
    heard: Vec<(OwnedFd, Family)>,
    /// By interface and source.
    senders: HashMap<(String, IpAddr), OwnedFd>,
    /// From a round's last packet to the latest answer, of all rounds that asked how far a destination is.
    slowest_ns: Option<u64>,
}

/// One round of asking how far destinations are.
struct Round {
    /// Places and hops.
    asked: Vec<(usize, u8)>,
    /// Each place is there, so that an answer is to come.
    is_expected: bool,
}

/// When a round is over: [`SETTLE`] after its last packet; before, once all who are expected have answered and it has been quiet.
struct Settling {
    sent_ns: u64,
    heard_ns: u64,
    until_ns: u64,
    missing: BTreeSet<usize>,
}

/// Until when a round whose last packet has left is waited for at most.
fn settled_ns(now_ns: u64, deadline_ns: u64) -> u64 {
    deadline_ns.min(now_ns + nanoseconds(SETTLE))
}

impl Settling {
    /// The last packet of a round has left.
    fn begin(round: &Round, now_ns: u64, deadline_ns: u64) -> Self {
        let places = round.asked.iter().map(|(place, _)| *place);
        let missing = if round.is_expected { places.collect() } else { BTreeSet::new() };
        let until_ns = settled_ns(now_ns, deadline_ns);
        Self { sent_ns: now_ns, heard_ns: now_ns, until_ns, missing }
    }

    /// A place answered; how long after the last packet.
    fn answered(&mut self, place: usize, now_ns: u64) -> u64 {
        self.heard_ns = now_ns;
        self.missing.remove(&place);
        now_ns.saturating_sub(self.sent_ns)
    }

    /// When to stop waiting, as it stands, where the slowest answer of all rounds took so long.
    fn ends_ns(&self, slowest_ns: Option<u64>) -> u64 {
        match slowest_ns {
            Some(slowest_ns) if self.missing.is_empty() => {
                self.until_ns.min(self.heard_ns + nanoseconds(QUIET) + 4 * slowest_ns)
            }
            _ => self.until_ns,
        }
    }
}

impl<'a> Tracer<'a> {
    fn open(options: &'a TraceOptions<'a>, families: BTreeSet<Family>) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let mut heard = Vec::new();
        for family in families {
            let (protocol, only_errors): (_, fn(&OwnedFd) -> io::Result<()>) = match family {
                Family::Four => (SockProtocol::Icmp, four::only_errors),
                Family::Six => (SockProtocol::IcmpV6, six::only_errors),
            };
            let fd = socket(family.addresses(), SockType::Raw, flags, protocol)?;
            only_errors(&fd)?;
            heard.push((fd, family));
        }
        let timeout_ns = nanoseconds(options.timeout);
        Ok(Self {
            options,
            deadline_ns: monotonic_ns().saturating_add(timeout_ns),
            heard,
            senders: HashMap::new(),
            slowest_ns: None,
        })
    }

    fn settling(&self, round: &Round) -> Settling {
        Settling::begin(round, monotonic_ns(), self.deadline_ns)
    }

    /// A place answered.
    fn answered(&mut self, settling: &mut Settling, place: usize) {
        let took_ns = settling.answered(place, monotonic_ns());
        self.slowest_ns = self.slowest_ns.max(Some(took_ns));
    }

    /// How many hops away each destination is: 1 is a neighbour.
    fn distances(&mut self, flows: &[TraceSpec]) -> BTreeMap<Place, Result<u8, String>> {
        let places: BTreeSet<Place> = flows.iter().map(Place::of).collect();
        let mut unknown: Vec<Place> = places.into_iter().collect();
        let (mut distances, mut failed) = (BTreeMap::new(), None);
        for how in [Self::by_responder, Self::by_closed_port] {
            match how(self, &unknown) {
                Ok(found) => {
                    let found: Vec<_> = unknown.drain(..).zip(found).collect();
                    for (place, distance) in found {
                        match distance {
                            Some(distance) => _ = distances.insert(place, Ok(distance)),
                            None => unknown.push(place),
                        }
                    }
                }
                Err(error) => failed = Some(error.to_string()),
            }
        }
        for place in unknown {
            let why = failed.clone().unwrap_or_else(|| {
                let port = self.options.responder_port;
                format!("its responder (UDP {port}) does not answer, nor does a port on which nobody listens")
            });
            let why = format!("how far {} is is not known: {why}", place.destination);
            distances.insert(place, Err(why));
        }
        distances
    }

    /// The least time to live with which each responder is reached.
    fn by_responder(&mut self, places: &[Place]) -> io::Result<Vec<Option<u8>>> {
        let Some(key) = self.options.key else { return Ok(vec![None; places.len()]) };
        let session = random()?;
        let mut sockets: BTreeMap<IpAddr, StampedSocket> = BTreeMap::new();
        for place in places {
            if let Entry::Vacant(free) = sockets.entry(place.source) {
                free.insert(StampedSocket::bind(SocketAddr::new(place.source, 0), 0)?);
            }
        }
        self.nearest(places, |tracer, round| {
            for (place, hop) in &round.asked {
                let Place { source, destination, .. } = &places[*place];
                let Some(socket) = sockets.get_mut(source) else { continue };
                let mut bytes = [0; HEAD_BYTES];
                let sequence = (*place as u64) << 8 | u64::from(*hop);
                packet::encode(&Packet::Request(Request { session, sequence }), &mut bytes, key);
                socket.set_time_to_live(*hop)?;
                let to = SocketAddr::new(*destination, tracer.options.responder_port);
                // A destination without a way there does not answer.
                let _ = socket.send_to(&bytes, to, 0);
            }
            let mut settling = tracer.settling(round);
            let (mut answered, mut buffer) = (Vec::new(), [0; HEAD_BYTES]);
            loop {
                let is_last = monotonic_ns() >= settling.ends_ns(tracer.slowest_ns);
                for socket in sockets.values_mut() {
                    while let Some(received) = socket.receive(&mut buffer)? {
                        let head = &buffer[..received.length.min(HEAD_BYTES)];
                        if let Ok(Packet::Answer(answer)) = packet::decode(head, key)
                            && answer.session == session
                        {
                            let place = usize::try_from(answer.sequence >> 8).unwrap_or(usize::MAX);
                            answered.push((place, answer.sequence as u8));
                            tracer.answered(&mut settling, place);
                        }
                    }
                    socket.stamps(usize::MAX, |_| {})?;
                }
                if is_last {
                    return Ok(answered);
                }
                std::thread::sleep(LOOK);
            }
        })
    }

    /// The least time to live with which each destination says that a port is closed.
    fn by_closed_port(&mut self, places: &[Place]) -> io::Result<Vec<Option<u8>>> {
        let flow = |place: &Place| TraceSpec {
            interface: place.interface.clone(),
            source: SocketAddr::new(place.source, CLOSED_PORT),
            destination: SocketAddr::new(place.destination, CLOSED_PORT),
            protocol: Protocol::Udp,
            dscp: 0,
        };
        self.nearest(places, |tracer, round| {
            let mut answered = Vec::new();
            let mut note = |tracer: &Self| {
                let before = answered.len();
                tracer.hear(|said| {
                    let Some(at) = said.id.checked_sub(1) else { return };
                    let (place, hop) = (usize::from(at / HOPS), at % HOPS);
                    let is_of = |place: &Place| {
                        (said.source, said.destination) == (flow(place).source, flow(place).destination)
                    };
                    if said.is_closed && places.get(place).is_some_and(is_of) {
                        answered.push((place, u8::try_from(hop + 1).unwrap_or(u8::MAX)));
                    }
                });
                answered[before..].iter().map(|(place, _)| *place).collect::<Vec<_>>()
            };
            let mut early = Vec::new();
            for (place, hop) in &round.asked {
                let id = 1 + u16::try_from(*place).unwrap_or(0) * HOPS + u16::from(hop - 1);
                // A destination without a way there does not answer.
                let _ = tracer.send(&flow(&places[*place]), *hop, id);
                let until_ns = tracer.deadline_ns.min(monotonic_ns() + nanoseconds(PACE));
                while tracer.wait(until_ns) {
                    early.extend(note(tracer));
                }
            }
            let mut settling = tracer.settling(round);
            early.into_iter().for_each(|place| tracer.answered(&mut settling, place));
            while tracer.wait(settling.ends_ns(tracer.slowest_ns)) {
                note(tracer).into_iter().for_each(|place| tracer.answered(&mut settling, place));
            }
            Ok(answered)
        })
    }

    /// The nearest hop that answers, of each place: asked all at once, then whether a nearer one does too. One that was lost
    /// would make the destination seem further than it is, and let a packet in.
    fn nearest(
        &mut self,
        places: &[Place],
        mut ask: impl FnMut(&mut Self, &Round) -> io::Result<Vec<(usize, u8)>>,
    ) -> io::Result<Vec<Option<u8>>> {
        let mut nearest: Vec<Option<u8>> = vec![None; places.len()];
        let hops_max = self.options.hops_max;
        let all = (0..places.len()).flat_map(|place| (1..=hops_max).map(move |hop| (place, hop)));
        let mut round = Round { asked: all.collect(), is_expected: true };
        while !round.asked.is_empty() && !self.is_over() {
            let mut nearer = BTreeSet::new();
            for (place, hop) in ask(self, &round)? {
                if let Some(known) = nearest.get_mut(place)
                    && known.is_none_or(|known| hop < known)
                {
                    *known = Some(hop);
                    nearer.insert(place);
                }
            }
            let confirm =
                nearer.into_iter().filter_map(|place| Some((place, nearest[place].filter(|hop| *hop > 1)? - 1)));
            let asked = confirm.flat_map(|asked| std::iter::repeat_n(asked, CONFIRM)).collect();
            round = Round { asked, is_expected: false };
        }
        Ok(nearest)
    }

    /// Asks every hop of every flow, again where it did not answer, while there is time.
    fn hops(&mut self, flows: &[TraceSpec], ways: &mut [Way]) {
        let hop_max = ways.iter().map(|way| way.hops.len()).max().unwrap_or(0);
        let mut sent_ns: HashMap<u16, u64> = HashMap::new();
        for round in 0..ROUNDS_MAX {
            let mut asked = 0;
            // Hop by hop over all flows: one router is not asked everything at once.
            for hop in 1..=hop_max {
                for (place, flow) in flows.iter().enumerate() {
                    let Some(way) = ways.get_mut(place) else { continue };
                    if way.hops.get(hop - 1).is_none_or(|hop| hop.address.is_some()) || self.is_over() {
                        continue;
                    }
                    let (Ok(hop), Ok(place)) = (u8::try_from(hop), u16::try_from(place)) else { continue };
                    let id = 1 + round * IDS_PER_ROUND + place * HOPS + u16::from(hop - 1);
                    sent_ns.insert(id, monotonic_ns());
                    if let Err(error) = self.send(flow, hop, id) {
                        way.failed = Some(format!("send from {}: {error}", flow.source));
                        way.hops.clear();
                        continue;
                    }
                    asked += 1;
                    let until_ns = monotonic_ns() + nanoseconds(PACE);
                    while self.wait(until_ns) {
                        self.note(flows, ways, &sent_ns);
                    }
                }
            }
            let is_whole = |way: &Way| way.hops.iter().all(|hop| hop.address.is_some());
            let until_ns = settled_ns(monotonic_ns(), self.deadline_ns);
            while asked > 0 && !ways.iter().all(is_whole) && self.wait(until_ns) {
                self.note(flows, ways, &sent_ns);
            }
            if asked == 0 || ways.iter().all(is_whole) {
                return;
            }
        }
    }

    /// Takes what routers said of the flows.
    fn note(&self, flows: &[TraceSpec], ways: &mut [Way], sent_ns: &HashMap<u16, u64>) {
        self.hear(|said| {
            let Some(at) = said.id.checked_sub(1).map(|id| id % IDS_PER_ROUND) else { return };
            let (place, hop) = (usize::from(at / HOPS), usize::from(at % HOPS));
            let Some(flow) = flows.get(place) else { return };
            let is_of_flow = said.source == flow.source
                && said.destination == flow.destination
                && said.protocol == number(flow.protocol);
            let sent_ns = sent_ns.get(&said.id).filter(|_| is_of_flow && !said.is_closed);
            if let Some(hop) = ways.get_mut(place).and_then(|way| way.hops.get_mut(hop))
                && let Some(sent_ns) = sent_ns
                && hop.address.is_none()
            {
                *hop = Hop { address: Some(said.from), round_trip_ns: monotonic_ns().saturating_sub(*sent_ns) };
            }
        });
    }

    /// Hands over what has come.
    fn hear(&self, mut each: impl FnMut(Said)) {
        // More than the least MTU of IPv6, beyond which no error goes.
        let mut buffer = [0; 2048];
        for (fd, family) in &self.heard {
            while let Ok((length, from)) = recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer) {
                let message = &buffer[..length.min(buffer.len())];
                let said = match family {
                    Family::Four => four::said(message),
                    Family::Six => {
                        let from = from.as_ref().and_then(SockaddrStorage::as_sockaddr_in6);
                        from.and_then(|from| six::said(from.ip(), message))
                    }
                };
                said.into_iter().for_each(&mut each);
            }
        }
    }

    /// Waits for something to read; `false` once the time is over.
    fn wait(&self, until_ns: u64) -> bool {
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= until_ns {
                return false;
            }
            let left_ms = (until_ns - now_ns).div_ceil(1_000_000);
            let left = PollTimeout::from(u16::try_from(left_ms).unwrap_or(u16::MAX));
            let mut polled: Vec<_> =
                self.heard.iter().map(|(fd, _)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut polled, left) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    fn send(&mut self, flow: &TraceSpec, hop: u8, id: u16) -> io::Result<()> {
        let key = (flow.interface.clone(), flow.source.ip());
        let fd = match self.senders.get(&key) {
            Some(fd) => fd,
            None => {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                let family = Family::of(key.1).addresses();
                let fd = socket(family, SockType::Raw, flags, SockProtocol::Raw)?;
                if !flow.interface.is_empty() {
                    setsockopt(&fd, sockopt::BindToDevice, &OsString::from(&flow.interface))?;
                }
                // Rules that ask for a source find it in the socket: what the packet itself says is not looked at (net/ipv4/raw.c, net/ipv6/raw.c).
                bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(key.1, 0)))?;
                self.senders.entry(key).or_insert(fd)
            }
        };
        let packet = match (flow.source, flow.destination) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => four::datagram(flow, source, destination, hop, id),
            (SocketAddr::V6(source), SocketAddr::V6(destination)) => six::datagram(flow, source, destination, hop, id),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        // Without a port: with one, IPv6 takes it for a protocol.
        let to = SockaddrStorage::from(SocketAddr::new(flow.destination.ip(), 0));
        sendto(fd.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    fn is_over(&self) -> bool {
        monotonic_ns() >= self.deadline_ns
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// RFC 1071
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: &str, destination: &str) -> TraceSpec {
        let end = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no end"));
        let (source, destination) = (end(source), end(destination));
        TraceSpec { interface: String::new(), source, destination, protocol: Protocol::Udp, dscp: 0 }
    }

    #[test]
    fn a_round_ends_once_all_who_are_expected_have_answered_and_it_is_quiet() {
        const MS: u64 = 1_000_000;
        let asked = vec![(0, 1), (0, 2), (1, 1)];
        let first = Round { asked: asked.clone(), is_expected: true };
        let mut settling = Settling::begin(&first, 1000 * MS, 9000 * MS);
        assert_eq!(settling.ends_ns(None), 1200 * MS);
        let slowest = Some(settling.answered(0, 1003 * MS));
        assert_eq!(settling.ends_ns(slowest), 1200 * MS, "the other place is waited for");
        let slowest = slowest.max(Some(settling.answered(1, 1005 * MS)));
        assert_eq!(settling.ends_ns(slowest), (1005 + 20 + 4 * 5) * MS);
        // Whether a nearer hop answers: nobody is expected, and the hosts are known to answer within 5 ms.
        let again = Settling::begin(&Round { asked, is_expected: false }, 2000 * MS, 9000 * MS);
        assert_eq!((again.ends_ns(slowest), again.ends_ns(None)), (2040 * MS, 2200 * MS));
        assert_eq!(again.ends_ns(Some(100 * MS)), 2200 * MS, "never beyond the longest wait");
        let late = Settling::begin(&first, 2000 * MS, 2010 * MS);
        assert_eq!(late.ends_ns(None), 2010 * MS, "nor beyond the time given");
    }

    #[test]
    fn what_cannot_be_traced_is_refused() {
        let options = TraceOptions { key: None, responder_port: 7704, hops_max: 8, timeout: Duration::from_millis(1) };
        let good = flow("10.0.0.1:40000", "10.0.0.2:443");
        for (flows, expected) in [
            (vec![good.clone(); TRACE_FLOWS_MAX + 1], "at most 256"),
            (vec![good, flow("10.0.0.1:40000", "[fd00::2]:443")], "of two families"),
        ] {
            assert!(trace(&flows, &options).is_err_and(|why| why.contains(expected)), "{expected}");
        }
    }

    #[test]
    fn numbers_of_packets_fit_and_are_never_none_or_all_ones() {
        let last = u32::from(ROUNDS_MAX - 1) * u32::from(IDS_PER_ROUND) + u32::from(IDS_PER_ROUND);
        assert!(1 + last < 0xffff, "{last}");
    }
}
