//! Which host has which stream open: one at a time, the newer wins.

use railwatch_wire::v1;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// An agent that lost its place to another stream of the same host comes back no sooner: two agents with one name
/// must not chase each other.
const SUPERSEDED_RETRY_MS: u32 = 60_000;
/// When the collector is full or overloaded: half of this at least, and the rest by the host, so that those turned away
/// do not come back together.
const OVERLOADED_RETRY_MS: u32 = 20_000;

/// The open streams.
#[derive(Clone, Debug)]
pub struct Streams {
    open: Arc<Mutex<HashMap<Arc<str>, Open>>>,
    generations: Arc<AtomicU64>,
    streams_max: usize,
}

#[derive(Debug)]
struct Open {
    generation: u64,
    end: watch::Sender<Option<v1::Reject>>,
}

/// A host's place. Dropping it gives the place back, unless a newer stream has taken it.
#[derive(Debug)]
pub struct Place {
    streams: Streams,
    host: Arc<str>,
    generation: u64,
    end: watch::Receiver<Option<v1::Reject>>,
}

impl Streams {
    /// None are open.
    pub fn new(streams_max: usize) -> Self {
        Self { open: Arc::default(), generations: Arc::default(), streams_max }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// None is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the place of `host`; a stream that holds it is told to end. Where there is no room, or more to do than gets
    /// done, a host without a stream is turned away; one that has a stream takes no more than it did.
    pub fn claim(&self, host: &Arc<str>, is_overloaded: impl FnOnce() -> bool) -> Result<Place, v1::Reject> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.contains_key(host) {
            let why = match () {
                () if open.len() >= self.streams_max => {
                    format!("{} hosts are connected, which is streams_max in collector.toml", self.streams_max)
                }
                () if is_overloaded() => "the collector has more to do than it can: come back later".to_owned(),
                () => String::new(),
            };
            if !why.is_empty() {
                return Err(v1::Reject {
                    reason: v1::reject::Reason::Overloaded.into(),
                    message: why,
                    retry_after_ms: OVERLOADED_RETRY_MS / 2 + spread(host) % (OVERLOADED_RETRY_MS / 2),
                });
            }
        }
        let (end, ended) = watch::channel(None);
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        if let Some(before) = open.remove(host) {
            before.end.send_replace(Some(v1::Reject {
                reason: v1::reject::Reason::Superseded.into(),
                message: format!("a newer stream of host {host} took over: if it is not this agent's own, another agent has this certificate"),
                retry_after_ms: SUPERSEDED_RETRY_MS,
            }));
        }
        open.insert(Arc::clone(host), Open { generation, end });
        Ok(Place { streams: self.clone(), host: Arc::clone(host), generation, end: ended })
    }
}

/// A number of the host's own (FNV-1a, 32 bits).
fn spread(host: &str) -> u32 {
    host.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Place {
    /// Becomes `Some` when the place is lost, and says why.
    pub fn end(&self) -> watch::Receiver<Option<v1::Reject>> {
        self.end.clone()
    }

    /// Grows with each place that is taken.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Gives the place back. Returns false where a newer stream holds it.
    pub fn give_back(&self) -> bool {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = open.get(&self.host).is_some_and(|open| open.generation == self.generation);
        if mine {
            open.remove(&self.host);
        }
        mine
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::Streams;
    use railwatch_wire::v1::reject::Reason;

    #[test]
    fn the_newer_stream_wins_and_the_older_is_told_once() {
        let streams = Streams::new(2);
        let host = "a".into();
        let first = streams.claim(&host, || false).unwrap();
        let second = streams.claim(&host, || false).unwrap();
        assert_eq!(first.end().borrow().as_ref().unwrap().reason(), Reason::Superseded);
        assert!(!first.give_back(), "the newer stream keeps the place");
        drop(first);
        assert_eq!(streams.len(), 1);
        drop(second);
        assert_eq!(streams.len(), 0);
    }

    #[test]
    fn a_full_collector_turns_new_hosts_away_and_lets_known_ones_reconnect() {
        let streams = Streams::new(1);
        let _first = streams.claim(&"a".into(), || false).unwrap();
        let turned_away = streams.claim(&"b".into(), || false).unwrap_err();
        assert_eq!(turned_away.reason(), Reason::Overloaded);
        assert!((10_000..20_000).contains(&turned_away.retry_after_ms), "{turned_away:?}");
        assert!(streams.claim(&"a".into(), || false).is_ok());
    }

    #[test]
    fn an_overloaded_collector_turns_new_hosts_away_not_all_to_the_same_instant() {
        let streams = Streams::new(10);
        let _known = streams.claim(&"known".into(), || false).unwrap();
        assert!(streams.claim(&"known".into(), || true).is_ok());
        let retries: std::collections::HashSet<u32> =
            (0..8).map(|n| streams.claim(&format!("host-{n}").into(), || true).unwrap_err().retry_after_ms).collect();
        assert!(retries.len() > 4, "{retries:?}");
    }
}
