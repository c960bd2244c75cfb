//! What one transaction will hold, gathered in memory first, so that it can be tried again as it is when the disk was full.

use crate::inventory::HostInventory;
use crate::map::MapChange;
use crate::reader::OrderState;
use crate::writer::Store;
use railwatch_engine::{Decision, Effect, Incident, KnownHost, Logged, Order, Signal, Timestamp};
use std::collections::BTreeMap;

/// Names an agent's spool: sequences count within it.
pub type StreamId = [u8; 16];

/// One frame of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Counts from 1 within the stream.
    pub sequence: u64,
    /// Signals that the spool's quota cut before this frame.
    pub skipped_signals: u64,
    /// Windows that it cut.
    pub skipped_windows: u64,
    /// What it holds.
    pub body: FrameBody,
}

/// What a frame holds.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a box for every signal costs more than the room of those on their way")]
pub enum FrameBody {
    /// An observation, stored.
    Signal(Signal),
    /// A window: in live state already, only its sequence is stored.
    Windows,
    /// Something that was refused with a count; only its sequence is stored, so that it is not sent again.
    Refused,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameVerdict {
    /// New: it is acknowledged once the batch is committed. `missing` frames before it never came and never will.
    Accepted {
        /// Frames between the last one and this, counted as lost on the way.
        missing: u64,
    },
    /// Stored already.
    Duplicate,
    /// Frames before it are missing without a word of why: not taken. `expected` should come first.
    Gap {
        /// The sequence that should have come.
        expected: u64,
    },
}

pub(crate) struct NewSignal {
    pub host: String,
    pub stream: StreamId,
    pub sequence: u64,
    pub received: Timestamp,
    pub signal: Signal,
    pub incident: Option<u64>,
}

/// Everything that one transaction will hold.
#[derive(Default)]
pub struct Batch {
    pub(crate) streams: BTreeMap<(String, StreamId), u64>,
    pub(crate) signals: Vec<NewSignal>,
    pub(crate) incidents: BTreeMap<u64, Incident>,
    pub(crate) decisions: BTreeMap<u64, Decision>,
    pub(crate) orders: Vec<(Timestamp, Order)>,
    pub(crate) order_states: Vec<(String, OrderState, u32, String)>,
    pub(crate) audit: Vec<railwatch_engine::AuditEntry>,
    pub(crate) joined: BTreeMap<String, u64>,
    pub(crate) hosts: BTreeMap<String, KnownHost>,
    pub(crate) log: Vec<(Timestamp, Logged)>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) inventories: Vec<HostInventory>,
    pub(crate) map_changes: Vec<MapChange>,
    pub(crate) used: Timestamp,
    pub(crate) end: Option<Timestamp>,
}

impl Batch {
    /// Nothing to commit.
    pub fn is_empty(&self) -> bool {
        let Self {
            streams,
            signals,
            incidents,
            decisions,
            orders,
            order_states,
            audit,
            joined,
            hosts,
            log,
            counts,
            inventories,
            map_changes,
            used: _,
            end,
        } = self;
        streams.is_empty()
            && signals.is_empty()
            && incidents.is_empty()
            && decisions.is_empty()
            && orders.is_empty()
            && order_states.is_empty()
            && audit.is_empty()
            && joined.is_empty()
            && hosts.is_empty()
            && log.is_empty()
            && counts.is_empty()
            && inventories.is_empty()
            && map_changes.is_empty()
            && end.is_none()
    }

    /// Takes a frame, unless it was taken before. `first_sequence` is where the agent says its spool begins: a stream of which nothing is stored begins there
    /// (what came before was acknowledged by another store), and gaps are taken. Without it, they are refused.
    pub fn frame(
        &mut self,
        store: &Store,
        host: &str,
        stream: StreamId,
        frame: &Frame,
        received: Timestamp,
        first_sequence: Option<u64>,
    ) -> FrameVerdict {
        let key = (host.to_owned(), stream);
        let stored = self.acknowledged_through(store, host, &stream);
        let begins_after = first_sequence.unwrap_or(1).saturating_sub(1).min(frame.sequence.saturating_sub(1));
        let through = if stored == 0 { begins_after } else { stored };
        if frame.sequence <= through {
            self.count("frames_duplicate", 1);
            return FrameVerdict::Duplicate;
        }
        let missing = frame.sequence - through - 1;
        let explained = frame.skipped_signals.saturating_add(frame.skipped_windows);
        if missing > explained && first_sequence.is_none() {
            return FrameVerdict::Gap { expected: through + 1 };
        }
        self.streams.insert(key, frame.sequence);
        self.used = self.used.max(received);
        self.count("frames_accepted", 1);
        self.count("frames_missing", missing.saturating_sub(explained));
        self.count("signals_skipped_by_agents", frame.skipped_signals);
        self.count("windows_skipped_by_agents", frame.skipped_windows);
        match &frame.body {
            FrameBody::Signal(signal) => {
                self.count("signals_accepted", 1);
                self.signals.push(NewSignal {
                    host: host.to_owned(),
                    stream,
                    sequence: frame.sequence,
                    received,
                    signal: signal.clone(),
                    incident: None,
                });
            }
            FrameBody::Windows => self.count("windows_accepted", 1),
            FrameBody::Refused => self.count("frames_refused", 1),
        }
        FrameVerdict::Accepted { missing }
    }

    /// How far the stream is acknowledged once this batch is committed.
    pub fn acknowledged_through(&self, store: &Store, host: &str, stream: &StreamId) -> u64 {
        let taken = self.streams.get(&(host.to_owned(), *stream)).copied();
        taken.unwrap_or_else(|| store.acknowledged_through(host, stream))
    }

    /// Takes what a step of the engine asks to be stored. Of an incident or decision only the last state is kept.
    pub fn effects(&mut self, effects: &[Effect], now: Timestamp) {
        for effect in effects {
            match effect {
                Effect::Incident(incident) => {
                    self.incidents.insert(incident.id, incident.clone());
                }
                Effect::Decision(decision) => {
                    self.decisions.insert(decision.id, decision.clone());
                }
                Effect::Order(order) => self.orders.push((now, order.clone())),
                Effect::Audit(entry) => self.audit.push(entry.clone()),
                Effect::Joined { frame, incident } => {
                    self.joined.insert(frame.clone(), *incident);
                }
                // The executor's business: the order's state changes when it answers.
                Effect::Cancel { .. } => {}
            }
        }
    }

    /// Adds lines to the log from which an incident can be replayed.
    pub fn log(&mut self, lines: impl IntoIterator<Item = Logged>, now: Timestamp) {
        self.log.extend(lines.into_iter().map(|line| (now, line)));
    }

    /// Signals gathered so far.
    pub fn signals(&self) -> usize {
        self.signals.len()
    }

    /// Notes when a host was heard, and whether it left.
    pub fn host(&mut self, host: KnownHost) {
        self.hosts.insert(host.host.clone(), host);
    }

    /// Notes how far an order came.
    pub fn order_state(&mut self, key: String, state: OrderState, attempts: u32, detail: String) {
        self.order_states.push((key, state, attempts, detail));
    }

    /// This collector ends in order: the next one is told so.
    pub fn end(&mut self, at: Timestamp) {
        self.end = Some(at);
    }

    /// Takes a host's whole inventory: what differs from the stored one will be written.
    pub fn inventory(&mut self, inventory: HostInventory) {
        self.inventories.push(inventory);
    }

    /// Takes changes of the map, in their order.
    pub fn map_changes(&mut self, changes: Vec<MapChange>) {
        self.map_changes.extend(changes);
    }

    /// Adds to a counter that outlives the process.
    pub fn count(&mut self, name: &'static str, by: u64) {
        if by > 0 {
            *self.counts.entry(name).or_default() += by;
        }
    }
}

/// The name of a frame as the engine knows it.
pub(crate) fn frame_name(host: &str, stream: &StreamId, sequence: u64) -> String {
    use std::fmt::Write;
    let mut name = String::with_capacity(host.len() + 54);
    name.push_str(host);
    name.push('/');
    for byte in stream {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    let _ = write!(name, "/{sequence}");
    name
}

impl Frame {
    /// The frame's unique name, "HOST/STREAM/SEQUENCE", as the engine and the store know it.
    pub fn name(&self, host: &str, stream: &StreamId) -> String {
        frame_name(host, stream, self.sequence)
    }
}
