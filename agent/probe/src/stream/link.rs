//! One flow over TCP: its connection, made again where it ends, and its probes.
//!
//! In: its turns, what epoll says of its connection, that time has passed. Out: verdicts. A connection is long-lived. The first packet of one is a
//! probe as well: without an answer for the time-out it is lost. One that is refused, or ended by the other host, is tried again after a
//! while, which grows; one on which the own kernel ran into [`TIMEOUTS_MAX`] time-outs in a row is given up for a new one, because
//! that kernel waits ever longer before it tries again. Never: two connections at once; a probe sent into one whose
//! last probe is not whole in the kernel.

use super::connection::{Connection, Info};
use super::frame::Frame;
use super::judge::{Fate, Judge, Verdict};
use crate::packet::{HEAD_BYTES, Key, Packet, Request};
use crate::session::Instant;
use railwatch_sampling::clock::{monotonic_ns, nanoseconds};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// After so many time-outs of the kernel in a row a connection is given up: with the least it waits, 200 ms, after 600 ms.
const TIMEOUTS_MAX: u8 = 2;
/// A connection on which nothing is answered for so long is given up, though its segments arrive.
const ANSWER_MAX_NS: u64 = 10_000_000_000;
/// Before a refused connection is tried again, at first and at most.
const BACK_OFF_NS: u64 = 100_000_000;
const BACK_OFF_MAX_NS: u64 = 5_000_000_000;
/// What the kernel says is looked at where an answer is awaited for so long.
const LOOK_AFTER_NS: u64 = 10_000_000;
/// Stamps that are awaited.
const AWAITED_MAX: usize = 1024;
/// Bytes of a segment, where no connection has told: what IPv6 lets every link carry, less heads.
const SEGMENT_BYTES: usize = 1220;

/// Connections of probes, by what became of them.
#[derive(Debug, Default)]
pub struct ConnectCounts {
    /// Begun, and answered.
    pub established: AtomicU64,
    /// Begun, and not answered in time.
    pub unanswered: AtomicU64,
    /// Refused by the other host, or by this one.
    pub refused: AtomicU64,
    /// Of those established: ended by the other host.
    pub ended: AtomicU64,
    /// Of those established: given up by this host.
    pub given_up: AtomicU64,
}

/// Where a link goes, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) local: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) tos: u8,
    /// Of a probe, bytes.
    pub(crate) length: usize,
    pub(crate) timeout: Duration,
    pub(crate) interval: Duration,
}

/// What became of a turn.
#[derive(Debug)]
pub(crate) enum Turn {
    /// A probe was sent.
    Sent,
    /// A connection was begun.
    Began,
    /// One is being made, or none is tried yet.
    Idle,
    /// It could not be sent.
    Refused(io::Error),
}

#[derive(Debug)]
enum State {
    Down,
    Connecting { connection: Connection, begun: Instant },
    Up { connection: Connection },
}

/// The flow.
#[derive(Debug)]
pub(crate) struct Link {
    route: Route,
    session: u64,
    state: State,
    /// Grows with each connection.
    generation: u64,
    judge: Judge,
    /// Numbers and sequences of probes whose stamp is awaited.
    awaited: VecDeque<(u32, u64)>,
    /// Connections in a row without an answered probe.
    failures: u32,
    not_before_ns: u64,
    segment_bytes: usize,
    counts: Arc<ConnectCounts>,
    verdicts: Vec<Verdict>,
    unsent: u32,
    why: Option<String>,
}

impl Link {
    /// With a session's number that nobody else drew.
    pub(crate) fn new(route: Route, session: u64, counts: Arc<ConnectCounts>) -> Self {
        Self {
            judge: Judge::new(route.timeout, route.interval),
            route,
            session,
            state: State::Down,
            generation: 0,
            awaited: VecDeque::new(),
            failures: 0,
            not_before_ns: 0,
            segment_bytes: SEGMENT_BYTES,
            counts,
            verdicts: Vec::new(),
            unsent: 0,
            why: None,
        }
    }

    /// Another pace.
    pub(crate) fn set_interval(&mut self, interval: Duration) {
        self.judge.set_interval(interval);
    }

    /// The connection, with what grows with each, and whether it is to be watched for room to write.
    pub(crate) fn watched(&self) -> Option<(BorrowedFd<'_>, u64, bool)> {
        match &self.state {
            State::Down => None,
            State::Connecting { connection, .. } => Some((connection.as_fd(), self.generation, true)),
            State::Up { connection } => Some((connection.as_fd(), self.generation, connection.is_full())),
        }
    }

    /// Whether probes can be sent.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether a connection is begun, and not answered yet.
    pub(crate) fn is_being_made(&self) -> bool {
        matches!(self.state, State::Connecting { .. })
    }

    /// Its source port.
    pub(crate) fn port(&self) -> Option<u16> {
        match &self.state {
            State::Down => None,
            State::Connecting { connection, .. } | State::Up { connection } => {
                connection.local().ok().map(|local| local.port())
            }
        }
    }

    /// Segments of one probe.
    pub(crate) fn segments(&self) -> u32 {
        u32::try_from(self.route.length.max(HEAD_BYTES).div_ceil(self.segment_bytes)).unwrap_or(u32::MAX)
    }

    /// Whether there is something to look at as time passes.
    pub(crate) fn awaits(&self) -> bool {
        self.is_being_made() || self.judge.first().is_some()
    }

    /// The oldest probe without a verdict.
    pub(crate) fn first(&self) -> Option<u64> {
        self.judge.first()
    }

    /// Whether a probe has no answer.
    pub(crate) fn waits(&self) -> bool {
        self.judge.waits_since_ns().is_some()
    }

    /// What is known newly.
    pub(crate) fn verdicts(&mut self) -> impl Iterator<Item = Verdict> {
        self.verdicts.drain(..)
    }

    /// Turns that sent nothing, since this was asked last.
    pub(crate) fn unsent(&mut self) -> u32 {
        std::mem::take(&mut self.unsent)
    }

    /// Why the last connection ended, or was not made.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Its turn: a probe, or a connection to be made.
    pub(crate) fn turn(&mut self, key: &Key) -> Turn {
        let sent = Instant::now();
        match &mut self.state {
            State::Connecting { .. } => Turn::Idle,
            State::Down if sent.mono_ns < self.not_before_ns => {
                self.unsent += 1;
                Turn::Idle
            }
            State::Down => match Connection::begin(self.route.local, self.route.to, self.route.tos) {
                Ok(connection) => {
                    self.generation += 1;
                    self.state = State::Connecting { connection, begun: sent };
                    Turn::Began
                }
                Err(error) => {
                    self.unsent += 1;
                    self.counts.refused.fetch_add(1, Relaxed);
                    self.back_off(sent.mono_ns, &error);
                    Turn::Refused(error)
                }
            },
            State::Up { connection } => {
                if connection.is_full() || !self.judge.has_room() {
                    self.unsent += 1;
                    return Turn::Refused(io::ErrorKind::WouldBlock.into());
                }
                let sequence = self.judge.next();
                let request = Packet::Request(Request { session: self.session, sequence });
                match connection.send(&request, self.route.length, key) {
                    Ok(id) => {
                        self.judge.sent(sent);
                        if self.awaited.len() >= AWAITED_MAX {
                            self.awaited.pop_front();
                        }
                        self.awaited.push_back((id, sequence));
                        // Most drivers stamp within the call that sends: taken here, stamps wake nobody.
                        self.take_stamps(self.awaited.len());
                        Turn::Sent
                    }
                    Err(error) => {
                        self.unsent += 1;
                        self.broke(&error, 0);
                        Turn::Refused(error)
                    }
                }
            }
        }
    }

    /// Something is there to be read, or there is room to write, or an end. Returns when the latest of the probes was sent that are
    /// answered now, CLOCK_MONOTONIC.
    pub(crate) fn ready(&mut self, key: &Key, buffer: &mut [u8], alive_through_ns: u64) -> Option<u64> {
        if let State::Connecting { connection, begun } = &self.state {
            let info = connection.info();
            if info.is_connecting {
                return None;
            }
            let (connected, begun) = (connection.connected(), *begun);
            self.connected(connected, info, begun, alive_through_ns);
            return None;
        }
        self.take_stamps(usize::MAX);
        let State::Up { connection } = &mut self.state else { return None };
        let flushed = connection.flush();
        let mut came: Vec<(Frame, Option<u64>, Instant)> = Vec::new();
        let read = flushed.and_then(|()| {
            connection.read(buffer, |frame, stamp_unix_ns| came.push((*frame, stamp_unix_ns, Instant::now())))
        });
        if let Some((.., first)) = came.first() {
            // Both counts of one look, and after the answers: that what was sent again had come all the same was said before them.
            self.judge.observed(connection.info(), first.mono_ns);
        }
        let mut latest = None;
        for (frame, stamp_unix_ns, read) in came {
            if let Ok(Packet::Answer(answer)) = frame.packet(key)
                && answer.session == self.session
            {
                latest = latest.max(self.judge.answered(&answer, stamp_unix_ns, read));
            }
        }
        if latest.is_some() {
            self.failures = 0;
        }
        let alive_through_ns = alive_through_ns.max(latest.unwrap_or(0));
        let verdicts = &mut self.verdicts;
        self.judge.judge(monotonic_ns(), alive_through_ns, |verdict| verdicts.push(verdict));
        if let Err(error) = read {
            self.broke(&error, alive_through_ns);
        }
        latest
    }

    /// Time has passed.
    pub(crate) fn sweep(&mut self, alive_through_ns: u64) {
        let now_ns = monotonic_ns();
        match &self.state {
            State::Down => {}
            State::Connecting { connection, begun } => {
                if now_ns.saturating_sub(begun.mono_ns) >= nanoseconds(self.route.timeout) {
                    let (info, begun) = (connection.info(), *begun);
                    self.connected(Err(io::ErrorKind::TimedOut.into()), info, begun, alive_through_ns);
                }
            }
            State::Up { connection } => {
                let waits_ns = self.judge.waits_since_ns().map_or(0, |since| now_ns.saturating_sub(since));
                if waits_ns >= LOOK_AFTER_NS {
                    let info = connection.info();
                    self.judge.observed(info, now_ns);
                    if info.backoff >= TIMEOUTS_MAX || waits_ns >= ANSWER_MAX_NS {
                        self.give_up(alive_through_ns);
                    }
                }
            }
        }
        let verdicts = &mut self.verdicts;
        self.judge.judge(now_ns, alive_through_ns, |verdict| verdicts.push(verdict));
    }

    fn connected(&mut self, connected: io::Result<()>, info: Info, begun: Instant, alive_through_ns: u64) {
        let lost = Verdict {
            sequence: None,
            sent: begun,
            fate: Fate::Lost { way: None, is_certain: begun.mono_ns < alive_through_ns },
        };
        let State::Connecting { connection, .. } = std::mem::replace(&mut self.state, State::Down) else { return };
        match connected {
            Ok(()) => {
                self.counts.established.fetch_add(1, Relaxed);
                if info.resent > 0 {
                    self.verdicts.push(lost);
                }
                self.segment_bytes = usize::try_from(info.segment_bytes).unwrap_or(0).max(HEAD_BYTES);
                self.judge.connected(info, self.segments());
                self.awaited.clear();
                self.state = State::Up { connection };
            }
            Err(error) if is_by_other(&error) => {
                self.counts.refused.fetch_add(1, Relaxed);
                self.unsent += 1;
                self.back_off(monotonic_ns(), &error);
            }
            Err(error) => {
                self.counts.unanswered.fetch_add(1, Relaxed);
                // What came was no answer to it: the other host knew of an older connection, and knows better now.
                if info.came > 0 {
                    self.unsent += 1;
                } else {
                    self.verdicts.push(lost);
                }
                self.why = Some(error.to_string());
            }
        }
    }

    /// The connection has ended with this.
    fn broke(&mut self, error: &io::Error, alive_through_ns: u64) {
        if is_by_other(error) {
            self.counts.ended.fetch_add(1, Relaxed);
            self.state = State::Down;
            let verdicts = &mut self.verdicts;
            self.judge.ended(true, alive_through_ns, |verdict| verdicts.push(verdict));
            self.back_off(monotonic_ns(), error);
        } else {
            self.why = Some(error.to_string());
            self.give_up(alive_through_ns);
        }
    }

    fn give_up(&mut self, alive_through_ns: u64) {
        self.counts.given_up.fetch_add(1, Relaxed);
        self.state = State::Down;
        let verdicts = &mut self.verdicts;
        self.judge.ended(false, alive_through_ns, |verdict| verdicts.push(verdict));
    }

    fn back_off(&mut self, now_ns: u64, error: &io::Error) {
        self.why = Some(error.to_string());
        self.not_before_ns = now_ns + (BACK_OFF_NS << self.failures.min(6)).min(BACK_OFF_MAX_NS);
        self.failures = self.failures.saturating_add(1);
    }

    fn take_stamps(&mut self, most: usize) {
        let Self { state, awaited, judge, .. } = self;
        let State::Up { connection } = state else { return };
        // What the kernel says of an error queue that cannot be read is that no stamps come: probes go without times then.
        let _ = connection.stamps(most, |stamp| {
            if let Some(at) = awaited.iter().position(|(id, _)| *id == stamp.id)
                && let Some((_, sequence)) = awaited.remove(at)
            {
                judge.left(sequence, stamp.stamp_unix_ns);
            }
        });
    }
}

/// The other host said so: nothing was lost on the way.
fn is_by_other(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, InvalidData, UnexpectedEof};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof | InvalidData)
}
