//! The changes that watchers are told, kept in one bounded ring that all of them read at their own pace.
//!
//! In: incidents, decisions, halts (from the core, once stored) and changes of hosts (from live state). Out: events
//! with identifiers RUN-SEQUENCE, from any point that the ring still holds. A slow watcher costs no memory: the ring
//! moves on, and the watcher is told how many changes it missed. An event is rendered once, for all watchers.

use crate::core::Published;
use crate::live::rows::Change;
use axum::body::Bytes;
use railwatch_engine::{Effect, Timestamp};
use serde::Serialize;
use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;

/// Changes kept for watchers that lag or come back.
const CHANGES_MAX: usize = 8192;
/// Bytes of them.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Names an event: the run of the collector, and the event's place in it, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    run: u64,
    sequence: u64,
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, sequence) = text.split_once('-').ok_or(())?;
        Ok(Self { run: u64::from_str_radix(run, 16).map_err(|_| ())?, sequence: sequence.parse().map_err(|_| ())? })
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{}", self.run, self.sequence)
    }
}

/// The ring. Clone it freely.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    run: u64,
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Sequence of the first event kept.
    first: u64,
    events: VecDeque<Bytes>,
    bytes: usize,
}

impl Feed {
    /// An empty ring for the run of the collector that began at `started`.
    pub fn new(started: Timestamp) -> Self {
        let ring = Ring { first: 1, ..Ring::default() };
        Self(Arc::new(Inner { run: started.0, ring: Mutex::new(ring), newest: watch::Sender::new(0) }))
    }

    /// Tells what a transaction made known.
    fn publish_effects(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Incident(incident) => self.publish("incident", incident),
                Effect::Decision(decision) => self.publish("decision", decision),
                Effect::Audit(entry) if matches!(entry.what.as_str(), "halt" | "release") => {
                    self.publish("halt", &HaltChange { halted: entry.what == "halt", actor: &entry.actor });
                }
                Effect::Order(_) | Effect::Audit(_) | Effect::Joined { .. } | Effect::Cancel { .. } => {}
            }
        }
    }

    /// Tells a change of this kind.
    pub fn publish(&self, event: &str, payload: &impl Serialize) {
        // Serialising plain structs to memory fails only for maps with keys that are no strings; there are none.
        let Ok(json) = serde_json::to_string(payload) else {
            tracing::error!(event, "a change cannot be rendered and was not told to watchers");
            return;
        };
        let mut ring = self.ring();
        let sequence = ring.first + ring.events.len() as u64;
        let id = EventId { run: self.0.run, sequence };
        let text = Bytes::from(format!("id: {id}\nevent: {event}\ndata: {json}\n\n"));
        ring.bytes += text.len();
        ring.events.push_back(text);
        while ring.events.len() > CHANGES_MAX || (ring.bytes > BYTES_MAX && ring.events.len() > 1) {
            if let Some(oldest) = ring.events.pop_front() {
                ring.bytes -= oldest.len();
                ring.first += 1;
            }
        }
        // Within the lock, so that the newest sequence never goes backwards.
        self.0.newest.send_replace(sequence);
    }

    /// Tells what the core stored and what changed about hosts, until both have ended.
    pub async fn follow(self, mut core: broadcast::Receiver<Arc<Published>>, mut hosts: broadcast::Receiver<Change>) {
        let stored = async {
            loop {
                match core.recv().await {
                    Ok(published) => self.publish_effects(&published.effects),
                    // In transactions, of which each may hold several changes.
                    Err(RecvError::Lagged(_)) => self.publish(
                        "lagged",
                        &Lagged::of(None, "too many changes at once: list incidents and decisions again"),
                    ),
                    Err(RecvError::Closed) => return,
                }
            }
        };
        let live = async {
            loop {
                match hosts.recv().await {
                    Ok(change) => self.publish("host", &change),
                    Err(RecvError::Lagged(missed)) => {
                        self.publish(
                            "lagged",
                            &Lagged::of(Some(missed), "too many changes of hosts at once: list the hosts again"),
                        );
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        };
        tokio::join!(stored, live);
    }

    /// A place in the ring: after `after` where it is known, else at the end.
    pub fn subscribe(&self, after: Option<EventId>) -> Subscription {
        let newest = self.0.newest.subscribe();
        let ring = self.ring();
        let end = ring.first + ring.events.len() as u64;
        let (next, gap) = match after {
            None => (end, None),
            Some(id) if id.run == self.0.run && id.sequence < end => (id.sequence + 1, None),
            Some(_) => {
                let why = "the collector was restarted since then: list incidents, decisions and hosts again";
                (end, Some(Lagged::of(None, why)))
            }
        };
        drop(ring);
        Subscription { feed: self.clone(), newest, next, gap }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Acting was halted, or allowed again.
#[derive(Serialize)]
struct HaltChange<'a> {
    halted: bool,
    actor: &'a str,
}

/// Changes were missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lagged {
    /// How many; null where nobody knows.
    pub missed: Option<u64>,
    /// Why, and what to do.
    pub detail: &'static str,
}

impl Lagged {
    fn of(missed: Option<u64>, detail: &'static str) -> Self {
        Self { missed, detail }
    }
}

/// A watcher's place in the ring.
#[derive(Debug)]
pub struct Subscription {
    feed: Feed,
    newest: watch::Receiver<u64>,
    next: u64,
    gap: Option<Lagged>,
}

/// What a watcher is told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An event, rendered.
    Event(Bytes),
    /// Changes were missed.
    Lagged(Lagged),
}

impl Subscription {
    /// The identifier after which it stands.
    pub fn position(&self) -> EventId {
        EventId { run: self.feed.0.run, sequence: self.next - 1 }
    }

    /// Waits for what comes next; `None` once the feed is gone. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(gap) = self.gap.take() {
                return Some(Told::Lagged(gap));
            }
            self.newest.borrow_and_update();
            {
                let ring = self.feed.ring();
                if self.next < ring.first {
                    let missed = ring.first - self.next;
                    drop(ring);
                    self.next += missed;
                    return Some(Told::Lagged(Lagged::of(
                        Some(missed),
                        "you read too slowly: list incidents, decisions and hosts again",
                    )));
                }
                if let Some(event) = ring.events.get((self.next - ring.first) as usize) {
                    self.next += 1;
                    return Some(Told::Event(event.clone()));
                }
            }
            self.newest.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn text(told: Option<Told>) -> String {
        match told.unwrap() {
            Told::Event(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Told::Lagged(lagged) => format!("lagged {:?}", lagged.missed),
        }
    }

    #[tokio::test]
    async fn a_watcher_gets_every_change_once_and_in_order_and_resumes_after_the_last_it_saw() {
        let feed = Feed::new(Timestamp(0xab));
        feed.publish("host", &"before");
        let mut first = feed.subscribe(None);
        assert_eq!(first.position().to_string(), "ab-1");
        feed.publish("host", &1);
        feed.publish("host", &2);
        assert_eq!(text(first.next().await), "id: ab-2\nevent: host\ndata: 1\n\n");
        let mut resumed = feed.subscribe(Some("ab-2".parse().unwrap()));
        for watcher in [&mut first, &mut resumed] {
            assert_eq!(text(watcher.next().await), "id: ab-3\nevent: host\ndata: 2\n\n");
        }
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), first.next()).await.is_err());
        feed.publish("host", &3);
        assert!(text(first.next().await).contains("ab-4"), "a wait cut short loses nothing");
    }

    #[tokio::test]
    async fn what_a_watcher_missed_is_told_whether_it_lagged_or_the_collector_restarted() {
        let feed = Feed::new(Timestamp(1));
        let mut slow = feed.subscribe(None);
        for n in 0..CHANGES_MAX + 10 {
            feed.publish("host", &n);
        }
        assert_eq!(text(slow.next().await), "lagged Some(10)");
        assert!(text(slow.next().await).starts_with("id: 1-11\n"));
        for after in ["0-5", "1-999999"] {
            let mut resumed = feed.subscribe(Some(after.parse().unwrap()));
            assert_eq!(text(resumed.next().await), "lagged None", "{after}");
        }
        for bad in ["", "7", "x-1", "1-x", "1-"] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_ring_is_bounded_by_bytes_too() {
        let feed = Feed::new(Timestamp(1));
        let large = "x".repeat(1024 * 1024);
        for _ in 0..20 {
            feed.publish("host", &large);
        }
        let ring = feed.ring();
        assert!(ring.bytes <= BYTES_MAX);
        assert_eq!(ring.first + ring.events.len() as u64, 21);
    }
}
