//! Answers members' probes over TCP: all connections on one thread.
//!
//! In: connections to one port. Out: for each probe that proves its membership an answer as long as it, with the times at which this
//! host's kernel received it, for how long this host held the two answers before, and what this host's kernel had to send again on
//! the connection. A connection that has not proved the key by its first probe within [`super::seats::PROOF`] is
//! closed, and has heard nothing. Never: a word to whoever has not the key, more bytes than came, a thread or a buffer for each
//! connection, or memory that grows with who asks.

use super::connection::Connection;
use super::frame::Frame;
use super::seats::{Full, SEATS_MAX, Seats};
use crate::limit::{Bucket, PerSource};
use crate::packet::{self, Answer, Foreign, Held, Key, Packet, SIZE_MAX};
use crate::responder::{Counts, Limits};
use crate::socket::socket_address;
use crate::stamps::stamping;
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, accept4, bind, getpeername, getsockname, listen,
    setsockopt, socket, sockopt,
};
use railwatch_sampling::clock::monotonic_ns;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Connections of one address, unless told otherwise: each is a flow of one of its NICs.
pub const PER_SOURCE_MAX: usize = 256;
/// Connections that wait to be accepted, and that are accepted at a time.
const BACKLOG: i32 = 128;
const ACCEPTED_AT_ONCE: usize = 64;
/// Answers of one connection whose stamp is awaited.
const AWAITED_MAX: usize = 64;
/// How long a stop may take, and how often time-outs are looked at.
const LOOK_UP_MS: u8 = 200;
/// How long nothing is accepted once the system had no room for more files.
const REST_NS: u64 = 1_000_000_000;
const EVENTS: usize = 64;
/// The event that is no connection's.
const LISTENER: u64 = u64::MAX;

/// Connections by what became of them.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// All that came.
    pub accepted: AtomicU64,
    /// Of those, that proved the cluster's key.
    pub proved: AtomicU64,
    /// Of those that came, closed because they did not: another key, no probe, nothing in time, or too many such at once.
    pub strangers: AtomicU64,
    /// Closed as they came: too many in all, or no room in the system.
    pub full: AtomicU64,
    /// Closed as they came: too many of one source.
    pub over_source: AtomicU64,
    /// Of those that proved the key, closed because nothing came for long.
    pub idle: AtomicU64,
    /// Now.
    pub open: AtomicU64,
}

#[derive(Debug)]
struct Member {
    connection: Connection,
    source: IpAddr,
    held: [Option<Held>; 2],
    /// Number, sequence, and when the request was received, of answers that have left, but not yet by the driver's word.
    awaited: VecDeque<(u32, u64, u64)>,
    is_watched_for_room: bool,
}

/// The responder of one port.
#[derive(Debug)]
pub struct StreamResponder {
    listener: OwnedFd,
    is_v6: bool,
    epoll: Epoll,
    key: Key,
    limits: Limits,
    counts: Arc<Counts>,
    connections: Arc<ConnectionCounts>,
    checks: Bucket,
    sources: PerSource,
    seats: Seats,
    members: HashMap<u64, Member>,
    next: u64,
    rests_until_ns: u64,
}

impl StreamResponder {
    /// Listens; `per_source_max` connections of one address at most.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn listen(at: SocketAddr, key: Key, limits: Limits, per_source_max: usize) -> io::Result<Self> {
        let is_v6 = at.is_ipv6();
        let family = if is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let listener = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&listener, sockopt::ReuseAddr, &true)?;
        if is_v6 {
            setsockopt(&listener, sockopt::Ipv6V6Only, &true)?;
        }
        // What is accepted has these from its first packet on: it ends by a reset, and what comes first is stamped.
        setsockopt(&listener, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        setsockopt(&listener, sockopt::Timestamping, &stamping())?;
        crate::socket::set(&listener, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 1)?;
        bind(listener.as_raw_fd(), &SockaddrStorage::from(at))?;
        listen(&listener, Backlog::new(BACKLOG)?)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let now_ns = monotonic_ns();
        Ok(Self {
            listener,
            is_v6,
            epoll,
            key,
            limits,
            counts: Arc::default(),
            connections: Arc::default(),
            checks: Bucket::full(limits.checked_per_s, now_ns),
            sources: PerSource::new(limits.per_source_per_s, limits.per_source_per_s),
            seats: Seats::new(seats_max(), per_source_max),
            members: HashMap::new(),
            next: 0,
            rests_until_ns: 0,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn local(&self) -> io::Result<SocketAddr> {
        let address: SockaddrStorage = getsockname(self.listener.as_raw_fd())?;
        socket_address(&address).ok_or_else(|| io::Error::other("bound to no IP address"))
    }

    /// What became of probes so far.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// What became of connections so far.
    #[must_use]
    pub fn connections(&self) -> Arc<ConnectionCounts> {
        Arc::clone(&self.connections)
    }

    /// Answers until told to stop.
    ///
    /// # Errors
    /// Where the kernel gives no events any more.
    pub fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut buffer = vec![0; SIZE_MAX];
        let mut looked_ns = 0;
        while !stop.load(Relaxed) {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::from(LOOK_UP_MS)) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(errno.into()),
            };
            for event in &events[..ready] {
                match event.data() {
                    LISTENER => self.accept(),
                    number => self.serve(number, &mut buffer),
                }
            }
            let now_ns = monotonic_ns();
            if now_ns.saturating_sub(looked_ns) >= u64::from(LOOK_UP_MS) * 1_000_000 {
                looked_ns = now_ns;
                self.look(now_ns);
            }
            self.connections.open.store(self.seats.held() as u64, Relaxed);
        }
        Ok(())
    }

    /// Who has been here for too long goes.
    fn look(&mut self, now_ns: u64) {
        for number in self.seats.strangers(now_ns) {
            self.end(number);
        }
        for number in self.seats.idle(now_ns) {
            self.connections.idle.fetch_add(1, Relaxed);
            self.end(number);
        }
        if self.rests_until_ns != 0 && now_ns >= self.rests_until_ns {
            self.rests_until_ns = 0;
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER);
            // It was in it before; where the kernel has no memory it is tried again.
            if self.epoll.modify(&self.listener, &mut event).is_err() {
                self.rests_until_ns = now_ns + REST_NS;
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTED_AT_ONCE {
            let fd = match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC) {
                // SAFETY: the kernel just made it for this process, and nobody else has it.
                Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
                Err(Errno::EAGAIN) => return,
                // It went away again.
                Err(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO) => continue,
                Err(_) => {
                    // Nothing may be accepted, and epoll would tell of it without end.
                    self.connections.full.fetch_add(1, Relaxed);
                    self.rests_until_ns = monotonic_ns() + REST_NS;
                    let mut nothing = EpollEvent::new(EpollFlags::empty(), LISTENER);
                    let _ = self.epoll.modify(&self.listener, &mut nothing);
                    return;
                }
            };
            self.connections.accepted.fetch_add(1, Relaxed);
            self.seat(fd);
        }
    }

    /// Closed by its end, where there is no seat for it: by a reset, without a byte.
    fn seat(&mut self, fd: OwnedFd) {
        let peer = getpeername::<SockaddrStorage>(fd.as_raw_fd()).ok().and_then(|peer| socket_address(&peer));
        let Some(source) = peer.map(|peer| peer.ip()) else { return };
        let number = self.next;
        self.next += 1;
        match self.seats.take(number, source, monotonic_ns()) {
            Ok(None) => {}
            Ok(Some(goes)) => {
                self.connections.strangers.fetch_add(1, Relaxed);
                self.members.remove(&goes);
            }
            Err(full) => {
                let counter = match full {
                    Full::InAll => &self.connections.full,
                    Full::OfSource => &self.connections.over_source,
                };
                counter.fetch_add(1, Relaxed);
                return;
            }
        }
        // An answer has the class of its probe: the first packet's is all that the kernel keeps of it.
        let tos = saved_tos(&fd, self.is_v6).unwrap_or(0);
        let member = Connection::accepted(fd, self.is_v6, tos).and_then(|connection| {
            self.epoll.add(&connection, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
            Ok(Member { connection, source, held: [None; 2], awaited: VecDeque::new(), is_watched_for_room: false })
        });
        match member {
            Ok(member) => _ = self.members.insert(number, member),
            Err(_) => self.seats.leave(number),
        }
    }

    /// A connection goes, and with it what the kernel watches of it.
    fn end(&mut self, number: u64) {
        if !self.seats.is_proved(number) {
            self.connections.strangers.fetch_add(1, Relaxed);
        }
        self.seats.leave(number);
        self.members.remove(&number);
    }

    /// Answers what has come on a connection.
    fn serve(&mut self, number: u64, buffer: &mut [u8]) {
        let Some(member) = self.members.get_mut(&number) else { return };
        let Member { connection, source, held, awaited, is_watched_for_room } = member;
        // Before the answers, which tell of it.
        let stamped = connection.stamps(usize::MAX, |sent| {
            let Some(at) = awaited.iter().position(|(id, ..)| *id == sent.id) else { return };
            let Some((_, sequence, received_unix_ns)) = awaited.remove(at) else { return };
            let held_ns = sent.stamp_unix_ns.checked_sub(received_unix_ns).and_then(packet::held_ns);
            if let Some(held_ns) = held_ns {
                *held = [Some(Held { sequence_low: sequence as u32, held_ns }), held[0]];
            }
        });
        let Self { key, limits, counts, connections, checks, sources, seats, .. } = self;
        let mut frames: Vec<(Frame, Option<u64>)> = Vec::new();
        let read = match stamped.and_then(|()| connection.flush()) {
            // Who does not read its answers is not read either.
            Ok(()) if connection.is_full() => Ok(0),
            Ok(()) => connection.read(buffer, |frame, stamp| frames.push((*frame, stamp))),
            Err(error) => Err(error),
        };
        let count = |counter: &AtomicU64| _ = counter.fetch_add(1, Relaxed);
        let mut is_over = false;
        for (frame, stamp_unix_ns) in frames {
            count(&counts.received);
            let now_ns = monotonic_ns();
            if !checks.take(limits.checked_per_s, limits.checked_per_s, now_ns) {
                count(&counts.over_checks);
                continue;
            }
            let request = match frame.packet(key) {
                Ok(Packet::Request(request)) => request,
                // Nobody of ours: nothing that follows is worth a look.
                other => {
                    count(match other {
                        Ok(_) => &counts.answers,
                        Err(Foreign::NotAProbe) => &counts.not_probes,
                        Err(Foreign::WrongCode) => &counts.wrong_code,
                    });
                    is_over = true;
                    break;
                }
            };
            if seats.heard(number, now_ns) {
                count(&connections.proved);
            }
            if !sources.take(*source, now_ns) {
                count(&counts.over_rate);
                continue;
            }
            let received_unix_ns = stamp_unix_ns.unwrap_or(0);
            let answer = Answer {
                session: request.session,
                sequence: request.sequence,
                received_unix_ns,
                held: *held,
                requests: None,
                resent: Some(connection.info().told()),
            };
            match connection.send(&Packet::Answer(answer), frame.length, key) {
                Ok(id) => {
                    count(&counts.answered);
                    if received_unix_ns > 0 {
                        if awaited.len() >= AWAITED_MAX {
                            awaited.pop_front();
                        }
                        awaited.push_back((id, request.sequence, received_unix_ns));
                    }
                }
                Err(error) => {
                    count(&counts.unsent);
                    is_over |= error.kind() != io::ErrorKind::WouldBlock;
                }
            }
        }
        if let Err(error) = &read
            && error.kind() == io::ErrorKind::InvalidData
        {
            count(&counts.received);
            count(&counts.not_probes);
        }
        if is_over || read.is_err() {
            self.end(number);
            return;
        }
        if connection.is_full() != *is_watched_for_room {
            *is_watched_for_room = connection.is_full();
            let wanted = if *is_watched_for_room { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            if self.epoll.modify(&*connection, &mut EpollEvent::new(wanted, number)).is_err() {
                self.end(number);
            }
        }
    }
}

/// Connections that a responder of this process holds: of the files that it may have open, a quarter.
#[must_use]
pub fn seats_max() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft / 4).unwrap_or(usize::MAX).min(SEATS_MAX)
}

/// The type of service, or traffic class, of the packet that began a connection (TCP_SAVED_SYN, Linux 4.3), without its ECN bits.
fn saved_tos(fd: &OwnedFd, is_v6: bool) -> Option<u8> {
    let mut bytes = [0u8; 256];
    let length = crate::socket::get(fd, libc::IPPROTO_TCP, libc::TCP_SAVED_SYN, &mut bytes).ok()?;
    if length < 2 {
        return None;
    }
    // RFC 791 and RFC 8200: version, then, in IPv6 from the fifth bit on, the class.
    let tos = if is_v6 { bytes[0] << 4 | bytes[1] >> 4 } else { bytes[1] };
    Some(tos & 0xfc)
}
