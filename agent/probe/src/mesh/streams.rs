//! Flows over TCP: a connection for each.
//!
//! In: turns, and what epoll says of a connection. Out: what each flow learned, and its results. Never: a flow that waits for another's
//! connection.

use super::runner::{Lane, Runner};
use crate::flow::Judged;
use crate::packet::SIZE_MAX;
use crate::plan::{FlowSpec, train};
use crate::session::Answered;
use crate::stream::{ConnectCounts, Fate, Link, Route, Turn, Verdict, Way};
use crate::tally::Tally;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use railwatch_sampling::clock::monotonic_ns;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// One flow's part.
pub(super) struct Stream {
    pub(super) link: Link,
    pub(super) tally: Tally,
    /// What epoll has for its connections.
    pub(super) number: u64,
    /// Frames of a turn.
    frames: u32,
    /// Which connection is watched, and whether for room to write.
    watched: Option<(u64, bool)>,
}

impl Stream {
    /// Without a connection yet.
    pub(super) fn new(spec: &FlowSpec, number: u64, session: u64, counts: Arc<ConnectCounts>) -> Self {
        let (length, frames) = train(spec.size_bytes, SIZE_MAX);
        let route = Route {
            local: SocketAddr::new(spec.source, spec.source_port),
            to: spec.destination,
            tos: spec.dscp << 2,
            length,
            timeout: spec.timeout,
            interval: spec.interval,
        };
        let link = Link::new(route, session, counts);
        Self { link, tally: Tally::default(), number, frames, watched: None }
    }

    /// Segments of a turn.
    pub(super) fn packets(&self) -> u32 {
        // One that begins a connection is alone.
        if self.link.is_up() { self.frames.saturating_mul(self.link.segments()) } else { 1 }
    }

    /// Adds a verdict to the report, and to what was learned just now.
    fn note(&mut self, verdict: &Verdict, judged: &mut Judged, now_ns: u64) {
        let result = &mut self.tally.result;
        match verdict.fate {
            Fate::Answered { round_trip_ns, parts, is_clean } => {
                judged.answered += 1;
                result.sent += 1;
                result.answered += 1;
                if is_clean {
                    self.tally.take(&Answered { round_trip_ns, parts }, now_ns);
                }
            }
            Fate::Lost { way, is_certain } => {
                judged.lost += 1;
                judged.certain += u32::from(is_certain);
                result.sent += 1;
                result.lost += 1;
                match way {
                    Some(Way::There) => (judged.there, self.tally.there) = (judged.there + 1, self.tally.there + 1),
                    Some(Way::Back) => (judged.back, self.tally.back) = (judged.back + 1, self.tally.back + 1),
                    None => {}
                }
            }
            Fate::Unsent => {
                judged.unsent += 1;
                result.unsent += 1;
            }
        }
    }
}

impl Runner {
    /// One turn of a flow.
    pub(super) fn send_stream(&mut self, place: usize) {
        let Some(Lane::Stream(lane)) = self.slots.get_mut(place).map(|slot| &mut slot.lane) else { return };
        for _ in 0..lane.frames {
            match lane.link.turn(&self.key) {
                Turn::Sent => _ = self.common.counts.sent.fetch_add(1, Relaxed),
                Turn::Began | Turn::Idle | Turn::Refused(_) => break,
            }
        }
        self.look_at_stream(place, monotonic_ns());
    }

    /// A connection has something.
    pub(super) fn listen_stream(&mut self, number: u64) {
        let Some(&place) = self.by_stream.get(&number) else { return };
        let alive_ns = self.alive_ns(place);
        let Some(Lane::Stream(lane)) = self.slots.get_mut(place).map(|slot| &mut slot.lane) else { return };
        if let Some(sent_ns) = lane.link.ready(&self.key, &mut self.buffer, alive_ns) {
            self.lives(place, sent_ns);
        }
        self.look_at_stream(place, monotonic_ns());
    }

    /// Time has passed.
    pub(super) fn sweep_stream(&mut self, place: usize, now_ns: u64) {
        let alive_ns = self.alive_ns(place);
        let Some(Lane::Stream(lane)) = self.slots.get_mut(place).map(|slot| &mut slot.lane) else { return };
        lane.link.sweep(alive_ns);
        self.look_at_stream(place, now_ns);
    }

    /// Takes what is known newly, and has the connection watched that there is now.
    fn look_at_stream(&mut self, place: usize, now_ns: u64) {
        let Some(Lane::Stream(lane)) = self.slots.get_mut(place).map(|slot| &mut slot.lane) else { return };
        let mut judged = Judged { unsent: lane.link.unsent(), ..Judged::default() };
        lane.tally.result.unsent += judged.unsent;
        let verdicts: Vec<_> = lane.link.verdicts().collect();
        for verdict in verdicts {
            // The first packet of a connection was not counted when it was sent: most are answered, and are no probes.
            self.common.counts.sent.fetch_add(u64::from(verdict.sequence.is_none()), Relaxed);
            lane.note(&verdict, &mut judged, now_ns);
        }
        let watched = lane.link.watched();
        let wanted = watched.as_ref().map(|(_, generation, wants_room)| (*generation, *wants_room));
        if let Some((fd, generation, wants_room)) = watched
            && wanted != lane.watched
        {
            let room = if wants_room { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN | room, lane.number);
            // A connection that was closed is watched no more. Where the kernel has no memory, time-outs find what is there.
            let _ = match lane.watched {
                Some((before, _)) if before == generation => self.epoll.modify(fd, &mut event),
                _ => self.epoll.add(fd, event),
            };
        }
        lane.watched = wanted;
        self.learned(place, &judged, now_ns);
    }
}
