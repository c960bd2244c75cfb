//! Flows of datagrams: a socket for each source address and port, shared by the flows that have it.
//!
//! In: turns, and ticks. Out: what each flow learned. Answers and stamps wait for the tick: the kernel has noted
//! when they came. Never: more stamps awaited, or answers kept unread, than a socket's bound.

use super::runner::{Lane, Runner, Slot};
use crate::flow::Flow;
use crate::packet::{self, HEAD_BYTES, Packet, Request, SIZE_MAX};
use crate::plan::{FlowSpec, train};
use crate::session::Instant;
use crate::socket::StampedSocket;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

/// Stamps that are awaited, of one socket.
const AWAITED_MAX: usize = 4096;
/// Memory for answers that wait, of one socket.
const RECEIVE_BYTES: usize = 256 * 1024;
/// Datagrams that are read for a flow at a time: a flood is not to hold up the others.
const READS_MAX: usize = 1024;

/// Of all flows with one source.
pub(super) struct Socket {
    stamped: StampedSocket,
    pub(super) source: (IpAddr, u16),
    /// Number of the socket, session and sequence of probes whose stamp is awaited.
    awaited: VecDeque<(u32, u64, u64)>,
    overflowed: u32,
    /// For what waits unread, as it was asked for.
    room_bytes: usize,
}

/// One flow's part.
pub(super) struct Datagrams {
    pub(super) flow: Flow,
    pub(super) socket: usize,
    /// Payload of a datagram, and datagrams of a turn.
    pub(super) train: (usize, u32),
}

fn datagrams(slots: &mut [Slot], place: usize) -> Option<&mut Datagrams> {
    match &mut slots.get_mut(place)?.lane {
        Lane::Datagrams(lane) => Some(lane),
        Lane::Stream(_) => None,
    }
}

impl Runner {
    pub(super) fn datagrams(&mut self, spec: &FlowSpec, session: u64) -> io::Result<Datagrams> {
        let socket = self.socket(spec)?;
        let mut datagram_max = SIZE_MAX;
        if let Some(Socket { stamped, room_bytes, .. }) = self.sockets.get_mut(socket).and_then(Option::as_mut) {
            if spec.size_bytes > HEAD_BYTES {
                datagram_max = stamped.payload_max(spec.destination)?;
            }
            // A whole train's answers and stamps wait there, with what the kernel needs for each.
            let wanted_bytes = RECEIVE_BYTES.max(4 * spec.size_bytes);
            if *room_bytes < wanted_bytes {
                stamped.widen(wanted_bytes);
                *room_bytes = wanted_bytes;
            }
        }
        let flow = Flow::new(session, spec.timeout, spec.interval);
        Ok(Datagrams { flow, socket, train: train(spec.size_bytes, datagram_max) })
    }

    /// The socket of a flow's source, shared by all flows of it.
    fn socket(&mut self, spec: &FlowSpec) -> io::Result<usize> {
        let source = (spec.source, spec.source_port);
        if let Some(place) = self.by_source.get(&source) {
            return Ok(*place);
        }
        self.may_open()?;
        let stamped = StampedSocket::bind(SocketAddr::from(source), spec.dscp << 2)?;
        let place = self.sockets.iter().position(Option::is_none).unwrap_or(self.sockets.len());
        let socket = Socket { stamped, source, awaited: VecDeque::new(), overflowed: 0, room_bytes: 0 };
        match self.sockets.get_mut(place) {
            Some(free) => *free = Some(socket),
            None => self.sockets.push(Some(socket)),
        }
        self.by_source.insert(source, place);
        Ok(place)
    }

    /// One turn of a flow.
    pub(super) fn send(&mut self, place: usize) {
        let Some(Slot { spec, lane: Lane::Datagrams(lane), .. }) = self.slots.get_mut(place) else { return };
        let Some(socket) = self.sockets.get_mut(lane.socket).and_then(Option::as_mut) else { return };
        let (size, packets) = lane.train;
        let bytes = &mut self.bytes[..size];
        for _ in 0..packets {
            let (session, sequence) = (lane.flow.session(), lane.flow.next());
            packet::encode(&Packet::Request(Request { session, sequence }), bytes, &self.key);
            let sent = Instant::now();
            match socket.stamped.send_to(bytes, spec.destination, spec.dscp << 2) {
                Ok(id) => {
                    lane.flow.sent(sent);
                    if socket.awaited.len() >= AWAITED_MAX {
                        socket.awaited.pop_front();
                    }
                    socket.awaited.push_back((id, session, sequence));
                    self.common.counts.sent.fetch_add(1, Relaxed);
                }
                Err(_) => {
                    lane.flow.refused();
                    self.common.counts.unsent.fetch_add(1, Relaxed);
                    // The socket counts anew.
                    socket.awaited.clear();
                }
            }
        }
    }

    /// Reads what has come for flows that await answers; `due_ns` is when this was to be done. Returns whether nothing more is there for those that
    /// still do.
    ///
    /// Sockets are asked rather than watched: an answer is nearly always there by the tick after its probe, and epoll(7) would cost a call for
    /// each of both, within the kernel.
    pub(super) fn read_post(&mut self, due_ns: u64) -> bool {
        let mut is_dry = true;
        for at in 0..self.waiting.len() {
            let place = self.waiting.get(at).copied().unwrap_or(usize::MAX);
            is_dry &= self.listen(place, due_ns);
        }
        is_dry
    }

    /// Reads what a flow's socket has, until the flow awaits nothing more. Returns whether it does not, or the socket has no more.
    fn listen(&mut self, place: usize, due_ns: u64) -> bool {
        let Some(number) = datagrams(&mut self.slots, place).map(|lane| lane.socket) else { return true };
        let Some(socket) = self.sockets.get_mut(number).and_then(Option::as_mut) else { return true };
        // Most drivers stamp within the call that sends. Of a stamp that comes later, the flow's next turn hears.
        let most = socket.awaited.len();
        take_stamps(socket, &mut self.slots, &self.by_session, most);
        let tick_ns = self.schedule.tick_ns();
        let mut has_failed = false;
        for _ in 0..READS_MAX {
            if !datagrams(&mut self.slots, place).is_some_and(|lane| lane.flow.awaits()) {
                return true;
            }
            let Some(socket) = self.sockets.get_mut(number).and_then(Option::as_mut) else { return true };
            let received = match socket.stamped.receive(&mut self.buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return true,
                Err(_) if has_failed => return true,
                // An error of the socket is none of its answers: those that wait are still read.
                Err(_) => {
                    has_failed = true;
                    continue;
                }
            };
            let read = Instant::now();
            let now_ns = read.mono_ns;
            let read = read.without_wait(received.stamp_unix_ns, due_ns, tick_ns);
            let bytes = self.buffer.get(..received.length).unwrap_or_default();
            let Ok(Packet::Answer(answer)) = packet::decode(bytes, &self.key) else { continue };
            // Of this flow, or of another with the same source.
            let Some(&of) = self.by_session.get(&answer.session) else { continue };
            let Some(lane) = datagrams(&mut self.slots, of).filter(|lane| lane.socket == number) else { continue };
            let Some(sent_ns) = lane.flow.answered(&answer, received.stamp_unix_ns, read) else { continue };
            self.lives(of, sent_ns);
            self.judge(of, now_ns, false);
        }
        false
    }

    /// Judges what a flow's probes turned out to be; losses only where `with_losses`.
    pub(super) fn judge(&mut self, place: usize, now_ns: u64, with_losses: bool) {
        let alive_ns = self.alive_ns(place);
        let Some(lane) = datagrams(&mut self.slots, place) else { return };
        let mut own = 0;
        if lane.flow.has_lost(now_ns, alive_ns) {
            if !with_losses {
                return;
            }
            if let Some(socket) = self.sockets.get_mut(lane.socket).and_then(Option::as_mut) {
                let overflowed = socket.stamped.overflowed().unwrap_or(0);
                own = overflowed.wrapping_sub(std::mem::replace(&mut socket.overflowed, overflowed));
            }
        }
        let judged = lane.flow.judge(now_ns, alive_ns, &mut own);
        if let Some(socket) = self.sockets.get_mut(lane.socket).and_then(Option::as_mut) {
            // Of another flow of this socket.
            socket.overflowed = socket.overflowed.wrapping_sub(own);
        }
        self.learned(place, &judged, now_ns);
    }
}

fn take_stamps(socket: &mut Socket, slots: &mut [Slot], by_session: &HashMap<u64, usize>, most: usize) {
    let Socket { stamped, awaited, .. } = socket;
    // What the kernel says of an error queue that cannot be read is that no stamps come: probes go without times then.
    let _ = stamped.stamps(most, |stamp| {
        let Some(at) = awaited.iter().position(|(id, ..)| *id == stamp.id) else { return };
        let Some((_, session, sequence)) = awaited.remove(at) else { return };
        if let Some(lane) = by_session.get(&session).and_then(|place| datagrams(slots, *place)) {
            lane.flow.left(sequence, stamp.stamp_unix_ns);
        }
    });
}
