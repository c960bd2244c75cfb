//! Frames that wait for the core, host by host.
//!
//! In: frames of every stream, in the order of each. Out: groups of them for the next transaction. Streams take turns, a
//! few frames each ([`TURN`]), and those in which a signal waits come before those with windows alone, which get every
//! eighth turn. So the first frame of a quiet host stands behind one turn of each busy one, however much a flooding host
//! sends. Bounded: so many frames of a stream ([`LANE_MAX`]), so many of all ([`FRAMES_MAX`]), beyond which a stream may
//! still have [`LANE_MIN`]; whoever finds no room waits, and the agent keeps the rest in its spool. Never: a frame
//! dropped, or two frames of a stream out of order.

use super::Arrived;
use railwatch_store::FrameBody;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Frames of all streams that wait at most, but for what [`LANE_MIN`] grants.
pub(super) const FRAMES_MAX: usize = 8_192;
/// Frames of one stream that wait at most: as many as an agent has in flight.
const LANE_MAX: usize = 1_024;
/// Frames that a stream may have waiting however full it is.
const LANE_MIN: usize = 8;
/// Frames that a stream gives at its turn.
pub(super) const TURN: usize = 32;
/// One turn in so many is for a stream without a signal.
const OTHERS_EVERY: u64 = 8;

/// The frames. Clone it freely.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Default)]
struct Waiting {
    lanes: HashMap<u64, Lane>,
    /// Streams by their turn. An entry of a lane whose class has changed since is stale.
    with_signals: VecDeque<u64>,
    others: VecDeque<u64>,
    frames: usize,
    turns: u64,
    closed: bool,
}

/// What waits of one stream.
#[derive(Default)]
struct Lane {
    frames: VecDeque<Arrived>,
    signals: usize,
    room: Arc<Notify>,
    turn: Option<Turn>,
}

/// In which queue a lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    WithSignals,
    Others,
}

fn is_signal(arrived: &Arrived) -> bool {
    matches!(arrived.frame.body, FrameBody::Signal(_))
}

impl Inbox {
    /// Gives a frame, once there is room. False when nobody takes any more.
    pub async fn push(&self, arrived: Arrived) -> bool {
        let mut arrived = Some(arrived);
        loop {
            let room = {
                let mut waiting = self.locked();
                if waiting.closed {
                    return false;
                }
                match waiting.push(&mut arrived) {
                    None => {
                        drop(waiting);
                        self.0.came.notify_one();
                        return true;
                    }
                    Some(room) => room,
                }
            };
            // One sender a stream: what is taken in between leaves its permit.
            room.notified().await;
        }
    }

    /// Takes at most so many frames; waits until there is one.
    pub async fn take(&self, into: &mut Vec<Arrived>, most: usize) {
        loop {
            self.take_now(into, most);
            if !into.is_empty() {
                return;
            }
            self.0.came.notified().await;
        }
    }

    /// Takes what is there, at most so many.
    pub fn take_now(&self, into: &mut Vec<Arrived>, most: usize) {
        let mut waiting = self.locked();
        while into.len() < most && waiting.turn(into, most) {}
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.locked().frames
    }

    /// Nobody takes any more.
    pub fn close(&self) {
        let mut waiting = self.locked();
        waiting.closed = true;
        waiting.lanes.values().for_each(|lane| lane.room.notify_one());
    }

    fn locked(&self) -> MutexGuard<'_, Waiting> {
        // Queues and counts: nothing under this lock can panic half way.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Takes the frame, or says where to wait for room.
    fn push(&mut self, arrived: &mut Option<Arrived>) -> Option<Arc<Notify>> {
        let (generation, signal) = arrived.as_ref().map(|arrived| (arrived.link.generation, is_signal(arrived)))?;
        let lane = self.lanes.entry(generation).or_default();
        let waiting = lane.frames.len();
        if waiting >= LANE_MAX || (self.frames >= FRAMES_MAX && waiting >= LANE_MIN) {
            return Some(Arc::clone(&lane.room));
        }
        lane.frames.extend(arrived.take());
        lane.signals += usize::from(signal);
        self.frames += 1;
        self.stand(generation);
        None
    }

    /// Puts a lane into the queue where it belongs, if it does not stand there.
    fn stand(&mut self, generation: u64) {
        let Some(lane) = self.lanes.get_mut(&generation) else { return };
        let wanted = if lane.signals > 0 { Turn::WithSignals } else { Turn::Others };
        // With a signal already, it keeps that place until its turn.
        if lane.turn == Some(wanted) || lane.turn == Some(Turn::WithSignals) {
            return;
        }
        lane.turn = Some(wanted);
        match wanted {
            Turn::WithSignals => self.with_signals.push_back(generation),
            Turn::Others => self.others.push_back(generation),
        }
        if self.others.len() > 2 * self.lanes.len() + 16 {
            let Self { lanes, others, .. } = self;
            others.retain(|generation| lanes.get(generation).is_some_and(|lane| lane.turn == Some(Turn::Others)));
        }
    }

    /// Gives the next stream its turn. False where none waits.
    fn turn(&mut self, into: &mut Vec<Arrived>, most: usize) -> bool {
        self.turns += 1;
        let others_first = self.turns.is_multiple_of(OTHERS_EVERY);
        let order = if others_first { [Turn::Others, Turn::WithSignals] } else { [Turn::WithSignals, Turn::Others] };
        let Some(generation) = order.into_iter().find_map(|turn| self.next(turn)) else { return false };
        let Some(lane) = self.lanes.get_mut(&generation) else { return true };
        lane.turn = None;
        let count = lane.frames.len().min(TURN).min(most - into.len());
        for arrived in lane.frames.drain(..count) {
            lane.signals -= usize::from(is_signal(&arrived));
            into.push(arrived);
        }
        self.frames -= count;
        lane.room.notify_one();
        if lane.frames.is_empty() {
            // Whoever waits for room in it holds the notice itself.
            self.lanes.remove(&generation);
        } else {
            self.stand(generation);
        }
        true
    }

    /// The next lane that stands in this queue.
    fn next(&mut self, turn: Turn) -> Option<u64> {
        let Self { lanes, with_signals, others, .. } = self;
        let queue = if turn == Turn::WithSignals { with_signals } else { others };
        while let Some(generation) = queue.pop_front() {
            if lanes.get(&generation).is_some_and(|lane| lane.turn == Some(turn)) {
                return Some(generation);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Link;
    use railwatch_engine::{Element, Severity, Signal, Timestamp};
    use railwatch_store::Frame;
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::time::Duration;
    use tokio::sync::watch;

    fn link(generation: u64) -> Arc<Link> {
        Arc::new(Link {
            host: format!("host-{generation}"),
            stream: [0; 16],
            first_sequence: 1,
            generation,
            last_heard_ns: AtomicU64::new(0),
            detached: AtomicBool::new(false),
            acknowledged: watch::Sender::new(0),
            kernel: Default::default(),
            prod: Notify::new(),
        })
    }

    fn signal() -> FrameBody {
        FrameBody::Signal(Signal {
            name: "test".into(),
            element: Element { host: "h".into(), kind: "host".into(), name: "h".into() },
            severity: Severity::Info,
            observed: Timestamp(0),
            half_width_ns: 0,
            value: 0.0,
            previous: None,
            unit: "1".into(),
            summary: String::new(),
            attributes: Default::default(),
            incomplete_since: None,
            suppressed: 0,
        })
    }

    fn arrived(link: &Arc<Link>, sequence: u64, body: FrameBody) -> Arrived {
        let frame = Frame { sequence, skipped_signals: 0, skipped_windows: 0, body };
        Arrived { link: Arc::clone(link), frame, at: Timestamp(0) }
    }

    async fn fill(inbox: &Inbox, link: &Arc<Link>, count: u64, body: fn() -> FrameBody) {
        for sequence in 1..=count {
            assert!(inbox.push(arrived(link, sequence, body())).await);
        }
    }

    fn take(inbox: &Inbox, most: usize) -> Vec<(u64, u64)> {
        let mut taken = Vec::new();
        inbox.take_now(&mut taken, most);
        taken.iter().map(|arrived| (arrived.link.generation, arrived.frame.sequence)).collect()
    }

    #[tokio::test]
    async fn a_quiet_hosts_signal_stands_behind_one_turn_of_each_busy_host_and_streams_keep_their_order() {
        let inbox = Inbox::default();
        let (flood, other, quiet) = (link(1), link(2), link(3));
        fill(&inbox, &flood, 900, signal).await;
        fill(&inbox, &other, 900, signal).await;
        assert!(inbox.push(arrived(&quiet, 1, signal())).await);
        let taken = take(&inbox, 4096);
        assert_eq!(taken.len(), 1801);
        let place = taken.iter().position(|(generation, _)| *generation == 3);
        assert_eq!(place, Some(2 * TURN), "behind one turn of each");
        for generation in [1, 2] {
            let of_one: Vec<_> =
                taken.iter().filter(|(of, _)| *of == generation).map(|(_, sequence)| *sequence).collect();
            assert_eq!(of_one, (1..=900).collect::<Vec<_>>());
        }
        assert_eq!(inbox.len(), 0);
    }

    #[tokio::test]
    async fn signals_go_before_windows_of_others_which_still_have_their_turns() {
        let inbox = Inbox::default();
        let (windows, signals) = (link(1), link(2));
        fill(&inbox, &windows, 1000, || FrameBody::Windows).await;
        fill(&inbox, &signals, 1000, signal).await;
        let taken = take(&inbox, 16 * TURN);
        let of_windows = taken.iter().filter(|(generation, _)| *generation == 1).count();
        assert_eq!((taken[0].0, of_windows), (2, 2 * TURN), "every eighth turn");
        // A signal behind windows of its own stream takes the stream with it.
        assert!(inbox.push(arrived(&windows, 1001, signal())).await);
        let taken = take(&inbox, 4 * TURN);
        assert_eq!(taken.iter().filter(|(generation, _)| *generation == 1).count(), 2 * TURN);
    }

    #[tokio::test]
    async fn a_full_stream_waits_and_a_full_inbox_leaves_every_stream_a_little_room() {
        let inbox = Inbox::default();
        for generation in 1..=(FRAMES_MAX / LANE_MAX) as u64 {
            fill(&inbox, &link(generation), LANE_MAX as u64, || FrameBody::Windows).await;
        }
        assert_eq!(inbox.len(), FRAMES_MAX);
        let late = link(99);
        fill(&inbox, &late, LANE_MIN as u64, signal).await;
        let waits = {
            let (inbox, late) = (inbox.clone(), Arc::clone(&late));
            tokio::spawn(async move { inbox.push(arrived(&late, LANE_MIN as u64 + 1, signal())).await })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waits.is_finished(), "no more than that");
        assert_eq!(take(&inbox, 4)[0], (99, 1));
        assert!(waits.await.unwrap_or(false), "what is taken makes room");
        let shut = {
            let inbox = inbox.clone();
            tokio::spawn(async move { inbox.push(arrived(&link(1), 9999, FrameBody::Windows)).await })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        inbox.close();
        assert!(!shut.await.unwrap_or(true), "nobody waits for an inbox that is closed");
    }
}
