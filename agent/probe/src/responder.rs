//! Answers probes of members.
//!
//! In: datagrams on one socket. Out: an answer as long as each probe that proves its membership, with the times at which
//! this host's kernel received it, and for how long this host held the two answers before; from the address it came to. Never: a word to whoever has
//! not the cluster's key, more bytes than came, an answer to an answer, or memory that grows with who asks.

use crate::limit::{Bucket, PerSource};
use crate::packet::{self, Answer, Foreign, Held, Key, Packet, SIZE_MAX};
use crate::socket::{Received, StampedSocket};
#[cfg(feature = "verbs")]
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use railwatch_sampling::clock::monotonic_ns;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
#[cfg(feature = "verbs")]
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What is answered at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Probes of one address, a second.
    pub per_source_per_s: u32,
    /// Datagrams whose code is checked, a second: what a flood of strangers may cost.
    pub checked_per_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_source_per_s: 1000, checked_per_s: 50_000 }
    }
}

/// Datagrams by what became of them: received = the sum of the others.
#[derive(Debug, Default)]
pub struct Counts {
    /// All that came.
    pub received: AtomicU64,
    /// Answered.
    pub answered: AtomicU64,
    /// None of ours.
    pub not_probes: AtomicU64,
    /// Not made with the cluster's key.
    pub wrong_code: AtomicU64,
    /// An answer that nobody here asked for.
    pub answers: AtomicU64,
    /// Of a member that asks more than its share.
    pub over_rate: AtomicU64,
    /// Not looked at: more came than are checked in a second.
    pub over_checks: AtomicU64,
    /// The answer found no way out.
    pub unsent: AtomicU64,
    /// Members' requests for queue pairs.
    pub queue_pairs: AtomicU64,
    /// Requests for queue pairs that, or later ones of whose session, had come before: nothing became of them.
    pub replayed: AtomicU64,
}

/// Sessions whose held times are remembered.
const SESSIONS_MAX: usize = 4096;
/// Answers whose stamp is awaited.
const AWAITED_MAX: usize = 1024;
/// Memory for datagrams that wait: a second of 1,000 probes.
const RECEIVE_BYTES: usize = 2 * 1024 * 1024;
/// Stamps that are awaited before they are read, unless a session asks before: all of them together, and no look that finds none.
const STAMPS_AT_ONCE: usize = 16;
/// How long a stop may take.
const LOOK_UP: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct Session {
    held: [Option<Held>; 2],
    heard_ns: u64,
    requests: u16,
    /// Whether a stamp of an answer to it is awaited.
    is_awaited: bool,
}

/// An answer that has left, but not yet by the driver's word.
#[derive(Debug)]
struct Awaited {
    id: u32,
    session: (SocketAddr, u64),
    sequence: u64,
    received_unix_ns: u64,
}

/// The responder of one socket.
#[derive(Debug)]
pub struct Responder {
    socket: StampedSocket,
    key: Key,
    limits: Limits,
    counts: Arc<Counts>,
    checks: Bucket,
    sources: PerSource,
    sessions: HashMap<(SocketAddr, u64), Session>,
    awaited: VecDeque<Awaited>,
    #[cfg(feature = "verbs")]
    lender: Option<crate::verbs::Lender>,
}

impl Responder {
    /// On this socket.
    #[must_use]
    pub fn new(socket: StampedSocket, key: Key, limits: Limits) -> Self {
        // What comes while this thread is not let run is to wait, not to be dropped: it would pass for the fabric's loss.
        socket.widen(RECEIVE_BYTES);
        // Where the kernel refuses, answers leave from the address that its routes prefer.
        let _ = socket.tell_own_address();
        Self {
            socket,
            key,
            limits,
            counts: Arc::default(),
            checks: Bucket::full(limits.checked_per_s, monotonic_ns()),
            sources: PerSource::new(limits.per_source_per_s, limits.per_source_per_s),
            sessions: HashMap::new(),
            awaited: VecDeque::new(),
            #[cfg(feature = "verbs")]
            lender: None,
        }
    }

    /// From now on members that ask for queue pairs are lent some.
    #[cfg(feature = "verbs")]
    pub fn lend_by(&mut self, lender: crate::verbs::Lender) {
        self.lender = Some(lender);
    }

    /// Counts together with another one, of another socket.
    #[must_use]
    pub fn counted_with(mut self, other: Arc<Counts>) -> Self {
        self.counts = other;
        self
    }

    /// What became of datagrams so far.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Answers until told to stop.
    ///
    /// # Errors
    /// Where the socket can be used no more.
    pub fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut buffer = vec![0; SIZE_MAX];
        self.socket.wait_at_most(LOOK_UP)?;
        while !stop.load(Relaxed) {
            #[cfg(feature = "verbs")]
            if self.lender.is_some() {
                self.serve_beside_lender(&mut buffer)?;
                continue;
            }
            // One call waits and reads: what waits already is read without another wake.
            match self.socket.wait(&mut buffer)? {
                Some(received) => self.serve(&received, &mut buffer),
                None => self.take_stamps()?,
            }
        }
        Ok(())
    }

    /// Answers a datagram, where it is to be.
    fn serve(&mut self, received: &Received, buffer: &mut [u8]) {
        self.counts.received.fetch_add(1, Relaxed);
        let answered = self.answer(received, buffer);
        let became = match answered {
            Ok(()) => &self.counts.answered,
            Err(Refusal::Foreign(Foreign::NotAProbe)) => &self.counts.not_probes,
            Err(Refusal::Foreign(Foreign::WrongCode)) => &self.counts.wrong_code,
            Err(Refusal::AnAnswer) => &self.counts.answers,
            Err(Refusal::OverRate) => &self.counts.over_rate,
            Err(Refusal::OverChecks) => &self.counts.over_checks,
            Err(Refusal::Unsent) => &self.counts.unsent,
            #[cfg(feature = "verbs")]
            Err(Refusal::QueuePair) => &self.counts.queue_pairs,
            #[cfg(feature = "verbs")]
            Err(Refusal::Replayed) => &self.counts.replayed,
        };
        became.fetch_add(1, Relaxed);
    }

    fn answer(&mut self, received: &Received, buffer: &mut [u8]) -> Result<(), Refusal> {
        let now_ns = monotonic_ns();
        let bytes = buffer.get_mut(..received.length).ok_or(Refusal::Foreign(Foreign::NotAProbe))?;
        #[cfg(feature = "verbs")]
        let is_wish = crate::verbs::exchange::looks_like_a_wish(bytes);
        #[cfg(not(feature = "verbs"))]
        let is_wish = false;
        if !is_wish && !packet::looks_like_a_probe(bytes) {
            return Err(Refusal::Foreign(Foreign::NotAProbe));
        }
        let Limits { checked_per_s, .. } = self.limits;
        if !self.checks.take(checked_per_s, checked_per_s, now_ns) {
            return Err(Refusal::OverChecks);
        }
        #[cfg(feature = "verbs")]
        if is_wish {
            return Err(self.lend(received, buffer, now_ns));
        }
        let request = match packet::decode(bytes, &self.key).map_err(Refusal::Foreign)? {
            Packet::Request(request) => request,
            Packet::Answer(_) => return Err(Refusal::AnAnswer),
        };
        if !self.sources.take(received.from.ip(), now_ns) {
            return Err(Refusal::OverRate);
        }
        let key = (received.from, request.session);
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&key) {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.heard_ns).map(|(key, _)| *key);
            oldest.map(|key| self.sessions.remove(&key));
        }
        // An answer is to carry what the stamps of those before it say.
        let is_awaited = self.sessions.get(&key).is_some_and(|session| session.is_awaited);
        if is_awaited || self.awaited.len() >= STAMPS_AT_ONCE {
            // Where they cannot be read, the answer says less.
            let _ = self.take_stamps();
        }
        let session = self.sessions.entry(key).or_default();
        session.heard_ns = now_ns;
        session.requests = session.requests.wrapping_add(1);
        // Without a stamp of its own the kernel's time is not known, and this clock would be taken for it.
        let received_unix_ns = received.stamp_unix_ns.unwrap_or(0);
        let answer = Answer {
            session: request.session,
            sequence: request.sequence,
            received_unix_ns,
            held: session.held,
            requests: Some(session.requests),
            resent: None,
        };
        packet::encode(&Packet::Answer(answer), bytes, &self.key);
        let id = self.socket.send_from(received.to, bytes, received.from, received.tos);
        let Ok(id) = id else {
            // The socket counts anew: what has left so far is taken by its number of before.
            let _ = self.take_stamps();
            self.awaited.clear();
            return Err(Refusal::Unsent);
        };
        if received_unix_ns > 0 {
            session.is_awaited = true;
            if self.awaited.len() >= AWAITED_MAX {
                self.awaited.pop_front();
            }
            self.awaited.push_back(Awaited { id, session: key, sequence: request.sequence, received_unix_ns });
        }
        Ok(())
    }

    /// Hands a member's request for a queue pair on, or says why not.
    #[cfg(feature = "verbs")]
    fn lend(&mut self, received: &Received, buffer: &[u8], now_ns: u64) -> Refusal {
        use crate::verbs::exchange::{self, Refused};
        use crate::verbs::lender::Asked;
        let bytes = buffer.get(..received.length).unwrap_or_default();
        let Some((loan, body)) = exchange::open_wish(bytes, &self.key) else {
            return Refusal::Foreign(Foreign::WrongCode);
        };
        if !self.sources.take(received.from.ip(), now_ns) {
            return Refusal::OverRate;
        }
        let asked = match &mut self.lender {
            Some(lender) => lender.ask(*received, loan, body, now_ns),
            None => Asked::Refused(exchange::refusal(Refused::NoLender)),
        };
        let body = match asked {
            Asked::HandedOn => return Refusal::QueuePair,
            Asked::Replayed => return Refusal::Replayed,
            Asked::Refused(body) => body,
        };
        // Lost or refused by the kernel: it asks again.
        let bytes = exchange::seal_answer(loan, &body, &self.key);
        let _ = self.socket.send_from(received.to, &bytes, received.from, received.tos);
        Refusal::QueuePair
    }

    /// Sends what the helper answered.
    #[cfg(feature = "verbs")]
    fn tell_borrowers(&mut self) {
        let Self { lender, socket, key, .. } = self;
        let Some(lender) = lender else { return };
        lender.turn(monotonic_ns(), |pending, body| {
            let bytes = crate::verbs::exchange::seal_answer(pending.loan, &body, key);
            let received = pending.received;
            let _ = socket.send_from(received.to, &bytes, received.from, received.tos);
        });
    }

    /// Answers what has come, by the fabric or from the helper that lends; waits for either.
    #[cfg(feature = "verbs")]
    fn serve_beside_lender(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut polled = vec![PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.lender.iter().flat_map(|lender| lender.fds()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let time = PollTimeout::try_from(LOOK_UP).unwrap_or(PollTimeout::ZERO);
        let has_stamps = match poll(&mut polled, time) {
            Ok(_) => polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)),
            Err(nix::errno::Errno::EINTR) => false,
            Err(errno) => return Err(errno.into()),
        };
        // While there are some, poll tells of them.
        if has_stamps {
            self.take_stamps()?;
        }
        while let Some(received) = self.socket.receive(buffer)? {
            self.serve(&received, buffer);
        }
        self.tell_borrowers();
        Ok(())
    }

    /// Takes the stamps that are there, of answers that have left.
    fn take_stamps(&mut self) -> io::Result<()> {
        let Self { socket, sessions, awaited, .. } = self;
        // No look more than there are, but for one that nobody awaits any more.
        let most = awaited.len().max(1);
        socket.stamps(most, |sent| {
            let Some(at) = awaited.iter().position(|awaited| awaited.id == sent.id) else { return };
            let Some(Awaited { session, sequence, received_unix_ns, .. }) = awaited.remove(at) else { return };
            let held = sent.stamp_unix_ns.checked_sub(received_unix_ns).and_then(packet::held_ns);
            let Some(session) = sessions.get_mut(&session) else { return };
            session.is_awaited = false;
            if let Some(held_ns) = held {
                let held = Held { sequence_low: sequence as u32, held_ns };
                session.held = [Some(held), session.held[0]];
            }
        })
    }
}

enum Refusal {
    Foreign(Foreign),
    AnAnswer,
    OverRate,
    OverChecks,
    Unsent,
    /// Not an answer to a probe: one to a request for a queue pair, now or later.
    #[cfg(feature = "verbs")]
    QueuePair,
    /// A request for a queue pair that had come before.
    #[cfg(feature = "verbs")]
    Replayed,
}
