//! The process that lends queue pairs of this host's RDMA NICs to members who probe it.
//!
//! In: wishes that the agent has checked, by a socket; datagrams of probers. Out: what became of each wish; an answer to each datagram
//! of a prober, from the queue pair that was lent to it and as long as it. Writes over reliable connections are acknowledged by the NIC: nothing here
//! runs for them. It maps libibverbs, which maps the NIC's provider: should that crash, this process ends and not the agent. When a
//! device is lost it ends itself, and its service manager starts it anew. Never: a queue pair for who is no member, more of them
//! or more pinned memory than [`super::loans`] allows, an answer to a queue pair that has none lent.

use super::datagram::{HEAD_BYTES, Head};
use super::exchange::{Answer, BODY_BYTES, LEASE_MS, Lent, Refused, Service, Wish, encode_answer};
use super::library::{
    Address, Completion, Device, GRH_BYTES, Join, Library, NAME, QueuePair, Region, Route, VerbsError,
};
use super::loans::{LOANS_MAX, Loans};
use super::message::{Ask, BYTES_MAX, Told};
use super::{lender, port};
use crate::limit::Bucket;
use crate::prober::random;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, UnixAddr, connect, recv, send};
use railwatch_sampling::clock::monotonic_ns;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Datagrams awaited by one queue pair.
const SLOTS: u16 = 32;
/// Room for completions: of each queue pair every slot, once. An answer's slot is awaited with again when it has left.
const COMPLETIONS: u16 = SLOTS * 2 * LOANS_MAX as u16;
/// Datagrams of one loan that are answered, a second.
const ANSWERS_PER_S: u32 = 1000;
/// Looks for completions before others have their turn.
const LOOKS_MAX: usize = 16;
/// Devices open at once.
const DEVICES_MAX: usize = 64;
/// Wait before the agent's socket is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether devices or the library came or went.
const LOOK_EVERY_NS: u64 = 10_000_000_000;
/// How long loans that lapsed may linger, milliseconds.
const TURN_MS: u16 = 500;
/// In the number of a request: it is an answer's.
const SENT: u64 = 1 << 32;

/// What the helper is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperOptions {
    /// The agent's socket, its `probe.verbs_socket`.
    pub socket: PathBuf,
    /// Where sysfs is.
    pub sysfs_root: PathBuf,
}

/// Lends until it can no more.
///
/// # Errors
/// A device was lost, or a call failed that should not.
pub fn run(options: &HelperOptions) -> io::Result<()> {
    let mut desk = Desk::new(options.sysfs_root.clone());
    let address = UnixAddr::new(&options.socket)?;
    loop {
        let agent = lender::sequenced()?;
        match connect(agent.as_raw_fd(), &address) {
            Ok(()) => desk.serve(&agent)?,
            // Nobody listens yet, or no longer: what is lent lapses meanwhile.
            Err(_) => desk.turn(None, TRY_AGAIN)?,
        }
    }
}

/// A queue pair that is lent, and what belongs to it: dropped in this order.
struct Pair {
    queue_pair: QueuePair,
    /// Of who asked, for answers to its datagrams.
    address: Option<Address>,
    region: Region,
    device: Rc<Device>,
    wish: Wish,
    session: u64,
    told: Lent,
    answers: Bucket,
    is_broken: bool,
}

/// What one datagram may take, with the header before it.
fn slot_bytes(wish: &Wish) -> usize {
    GRH_BYTES + wish.size_bytes as usize
}

fn pinned_bytes(wish: &Wish) -> usize {
    match wish.service {
        Service::Datagram => slot_bytes(wish) * usize::from(SLOTS),
        Service::Connected => wish.size_bytes as usize,
    }
}

impl Pair {
    fn new(device: Rc<Device>, port: &port::Port, wish: Wish, session: u64) -> Result<Self, VerbsError> {
        let drawn = random()
            .map_err(|error| VerbsError { doing: "draw a number", errno: error.raw_os_error().unwrap_or(libc::EIO) })?;
        let mtu = device.mtu(port.number)?.min(wish.mtu);
        let psn = drawn as u32 & 0xff_ffff;
        // With the highest bit set a key may be used by the privileged alone (InfiniBand architecture, 10.2.5).
        let qkey = (drawn >> 32) as u32 & 0x7fff_ffff;
        let region = Region::new(&device, pinned_bytes(&wish), wish.service == Service::Connected)?;
        let route = Route {
            port: port.number,
            gid_index: port.gid_index,
            gid: wish.gid,
            flow_label: wish.flow_label,
            traffic_class: wish.traffic_class,
        };
        let (queue_pair, address) = match wish.service {
            Service::Datagram => {
                let address = Address::new(&device, &route)?;
                let pair = QueuePair::datagram(&device, SLOTS, SLOTS)?;
                pair.open_datagrams(port.number, qkey, psn)?;
                (pair, Some(address))
            }
            Service::Connected => {
                let pair = QueuePair::connected(&device, 1)?;
                // It sends nothing but what its NIC acknowledges with: how long it would wait for an answer does not matter.
                let join = Join { route, number: wish.number, mtu, receive_psn: wish.psn, send_psn: psn, timeout: 14 };
                pair.join(&join)?;
                (pair, None)
            }
        };
        let told = Lent {
            mtu,
            number: queue_pair.number(),
            psn,
            qkey,
            region_key: region.remote_key(),
            lease_ms: LEASE_MS,
            gid: port.gid,
            region_at: region.address(),
        };
        let answers = Bucket::full(ANSWERS_PER_S, monotonic_ns());
        let pair = Self { queue_pair, address, region, device, wish, session, told, answers, is_broken: false };
        if wish.service == Service::Datagram {
            for slot in 0..u64::from(SLOTS) {
                pair.await_one(slot)?;
            }
        }
        Ok(pair)
    }

    fn at(&self, slot: u64) -> usize {
        usize::try_from(slot).unwrap_or(usize::MAX).saturating_mul(slot_bytes(&self.wish))
    }

    fn await_one(&self, slot: u64) -> Result<(), VerbsError> {
        self.queue_pair.receive(slot, &self.region, self.at(slot), slot_bytes(&self.wish))
    }

    /// Answers a probe that came, or awaits the next one where an answer has left.
    fn completed(&mut self, done: Completion) -> Result<(), VerbsError> {
        let slot = done.id & !SENT;
        if slot >= u64::from(SLOTS) || self.wish.service != Service::Datagram {
            return Ok(());
        }
        let answer = (done.id & SENT == 0 && done.is_good).then(|| self.answer(slot, done)).flatten();
        if let (Some(bytes), Some(address)) = (answer, &self.address) {
            let part = (&self.region, self.at(slot) + GRH_BYTES, bytes);
            let to = (self.wish.number, self.wish.qkey);
            if self.queue_pair.send(slot | SENT, part, address, to).is_ok() {
                return Ok(());
            }
        }
        self.await_one(slot)
    }

    /// Makes a probe its own answer; how long it is.
    fn answer(&mut self, slot: u64, done: Completion) -> Option<usize> {
        let bytes = done.bytes.checked_sub(GRH_BYTES).filter(|bytes| *bytes >= HEAD_BYTES)?;
        let at = self.at(slot) + GRH_BYTES;
        let head = Head::decode(&self.region.read(at))?;
        let is_ours = !head.is_answer && head.session == self.session && done.from == self.wish.number;
        if !is_ours || !self.answers.take(ANSWERS_PER_S, ANSWERS_PER_S, monotonic_ns()) {
            return None;
        }
        self.region.write(at, &Head { is_answer: true, ..head }.encode());
        Some(bytes)
    }
}

/// What the process has.
struct Desk {
    sysfs_root: PathBuf,
    library: Option<Rc<Library>>,
    loans: Loans<Pair>,
    devices: Vec<Rc<Device>>,
    said: Option<Option<String>>,
    look_at_ns: u64,
    /// Completions are left for the next turn.
    is_busy: bool,
}

impl Desk {
    fn new(sysfs_root: PathBuf) -> Self {
        Self {
            sysfs_root,
            library: None,
            loans: Loans::default(),
            devices: Vec::new(),
            said: None,
            look_at_ns: 0,
            is_busy: false,
        }
    }

    /// Serves an agent until it goes.
    fn serve(&mut self, agent: &OwnedFd) -> io::Result<()> {
        (self.said, self.look_at_ns) = (None, 0);
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= self.look_at_ns {
                self.look_at_ns = now_ns + LOOK_EVERY_NS;
                let off = self.look();
                if self.said.as_ref() != Some(&off) && say(agent, &Told::State(off.clone())).is_ok() {
                    self.said = Some(off);
                }
            }
            self.turn(Some(agent), Duration::from_millis(TURN_MS.into()))?;
            loop {
                let mut bytes = [0; BYTES_MAX];
                match recv(agent.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                    Err(Errno::EAGAIN | Errno::EINTR) => break,
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(length) => {
                        let Some(ask) = Ask::decode(&bytes[..length]) else { continue };
                        let body = encode_answer(&self.answer(&ask));
                        // Where it has no room, or has gone, who asked asks again.
                        let _ = say(agent, &Told::Answer(ask.tag, body));
                    }
                }
            }
        }
    }

    /// What it lacks.
    fn look(&mut self) -> Option<String> {
        if self.library.is_none() {
            match Library::load(NAME.as_ref()) {
                Ok(library) => self.library = Some(library),
                Err(error) => return Some(format!("{error}: install libibverbs and the provider of the NIC")),
            }
        }
        let lacks = port::devices(&self.sysfs_root).is_empty();
        lacks.then(|| "this host has no RDMA device".into())
    }

    fn answer(&mut self, ask: &Ask) -> Answer {
        let now_ns = monotonic_ns();
        let wish = Wish::decode(&ask.body).ok_or(Refused::Bad)?;
        if wish.is_over {
            self.loans.take_back(ask.source, ask.session);
            return Err(Refused::Over);
        }
        // Answers go to who asked, and to nobody else.
        if wish.gid != port::gid(ask.source) {
            return Err(Refused::Bad);
        }
        if let Some(pair) = self.loans.renewed(ask.source, ask.session, now_ns) {
            return Ok(pair.told);
        }
        let pinned_bytes = pinned_bytes(&wish);
        self.loans.room(ask.source, pinned_bytes)?;
        let port = self.port(ask.own)?;
        let pair = self.device(&port.device).and_then(|device| Pair::new(device, &port, wish, ask.session));
        let pair = pair.map_err(|error| {
            eprintln!("railwatch-agent: lend a queue pair of {}: {error}", port.device);
            Refused::Failed(error.errno)
        })?;
        let told = pair.told;
        self.loans.lend((ask.source, ask.session), pinned_bytes, pair, now_ns);
        Ok(told)
    }

    fn port(&self, own: IpAddr) -> Result<port::Port, Refused> {
        port::find(&self.sysfs_root, own).ok_or(Refused::NoPort)
    }

    fn device(&mut self, name: &str) -> Result<Rc<Device>, VerbsError> {
        if let Some(device) = self.devices.iter().find(|device| device.name() == name) {
            return Ok(Rc::clone(device));
        }
        let refused = |errno| VerbsError { doing: "open another RDMA device", errno };
        if self.devices.len() >= DEVICES_MAX {
            return Err(refused(libc::EMFILE));
        }
        let library = self.library.as_ref().ok_or(refused(libc::ENOSYS))?;
        let device = Device::open(library, name, COMPLETIONS)?;
        device.arm()?;
        self.devices.push(Rc::clone(&device));
        Ok(device)
    }

    /// Waits for something to do, does what devices want, and ends what lapsed.
    fn turn(&mut self, agent: Option<&OwnedFd>, most: Duration) -> io::Result<()> {
        let wants = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let of_devices = self.devices.iter().flat_map(|device| [device.fd(), device.trouble_fd()]);
        let mut polled: Vec<_> = of_devices.chain(agent.map(AsFd::as_fd)).map(wants).collect();
        // Completions that were left bring no word of their own.
        let (was_busy, most) = if self.is_busy { (true, Duration::ZERO) } else { (false, most) };
        self.is_busy = false;
        match poll(&mut polled, PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let broken = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let told = |polled: &PollFd| polled.revents().unwrap_or(PollFlags::empty());
        let told: Vec<_> = polled.iter().map(told).collect();
        for (device, told) in self.devices.iter().zip(told.chunks(2)) {
            let is_lost = told.iter().any(|told| told.intersects(broken)) || device.is_lost();
            if is_lost {
                return Err(io::Error::other(format!("the RDMA device {} was lost", device.name())));
            }
            if told[0].is_empty() && !was_busy {
                continue;
            }
            let failed = |error: VerbsError| io::Error::other(format!("{}: {error}", device.name()));
            // Armed before it is looked: what completes meanwhile makes the channel readable again.
            device.arm().map_err(failed)?;
            for look in 0..LOOKS_MAX {
                let mut done = Vec::new();
                if device.completed(|completion| done.push(completion)).map_err(failed)? == 0 {
                    break;
                }
                self.is_busy |= look + 1 == LOOKS_MAX;
                for completion in done {
                    let of = |pair: &&mut Pair| {
                        Rc::ptr_eq(&pair.device, device) && pair.queue_pair.number() == completion.queue_pair
                    };
                    // Of a loan that has ended a word may still be under way.
                    if let Some(pair) = self.loans.iter_mut().find(of)
                        && let Err(error) = pair.completed(completion)
                    {
                        eprintln!("railwatch-agent: a queue pair of {} is taken back: {error}", device.name());
                        pair.is_broken = true;
                    }
                }
            }
        }
        self.loans.lapse(monotonic_ns(), |pair| pair.is_broken);
        if self.loans.is_empty() {
            // Nothing is held open of a NIC that nobody probes.
            self.devices.clear();
        }
        Ok(())
    }
}

fn say(agent: &OwnedFd, told: &Told) -> nix::Result<()> {
    send(agent.as_raw_fd(), &told.encode(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).map(|_| ())
}

const _: () = assert!(BODY_BYTES + 9 <= BYTES_MAX);
