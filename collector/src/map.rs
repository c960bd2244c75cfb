//! The map of the fabric as the collector keeps it: who reports to it, and who reads it.
//!
//! In: what reporters say, through [`Reports`]: hosts' snapshots ([`hosts`]), traces that their agents made, an inventory file
//! ([`file`]), switches. Out: the [`Topology`] as it is believed now ([`MapRoom::topology`], [`MapRoom::subscribe`]); its history, through the core
//! ([`history`]). The map is made again a moment after something changed, so that a thousand hosts that speak at once cost one making.
//! Never: a fact of its own. What is believed is the engine's alone.

pub mod elements;
pub mod endpoint;
pub mod figures;
pub mod file;
pub mod history;
pub mod hosts;

use crate::clock::Timeline;
use crate::live::Host;
use crate::traces::Traces;
use hosts::Memory;
use railwatch_engine::Timestamp;
use railwatch_engine::map::{Flow, Map, MapCounts, Source, Statement, Topology};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// After a change, what else changes is waited for so long before the map is made.
const GATHER: Duration = Duration::from_millis(50);
/// What runs out is looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Traces of one host that are kept; the oldest goes first.
const TRACES_PER_HOST_MAX: usize = 256;

/// Who takes what reporters say. A reporter's statements of one source are whole: what it no longer says is no longer so.
pub trait Reports: Send + Sync {
    /// All that this reporter says now by this source. An empty list takes back what it said before.
    fn report(&self, reporter: &str, source: Source, says: Vec<Statement>, at: Timestamp);

    /// The reporter went away: what it said is believed a while longer, and no longer renewed.
    fn gone(&self, reporter: &str, at: Timestamp);
}

/// The map. Clone it freely.
#[derive(Clone)]
pub struct MapRoom(Arc<Inner>);

struct Inner {
    map: Mutex<Map>,
    memories: Mutex<HashMap<String, Memory>>,
    traced: Mutex<HashMap<String, VecDeque<Statement>>>,
    traces: Traces,
    changed: Notify,
    published: watch::Sender<Arc<Topology>>,
}

impl Default for MapRoom {
    fn default() -> Self {
        Self(Arc::new(Inner {
            map: Mutex::default(),
            memories: Mutex::default(),
            traced: Mutex::default(),
            traces: Traces::default(),
            changed: Notify::new(),
            published: watch::Sender::new(Arc::default()),
        }))
    }
}

/// Which parts of a host's state came with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Ports or placement.
    pub itself: bool,
    /// Neighbours and routes.
    pub peers: bool,
}

impl MapRoom {
    /// As it was made last.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.0.published.borrow())
    }

    /// The way to agents that see which way a flow goes.
    #[must_use]
    pub fn traces(&self) -> &Traces {
        &self.0.traces
    }

    /// Tells each making.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Topology>> {
        self.0.published.subscribe()
    }

    /// How much there is, and what was left out.
    #[must_use]
    pub fn counts(&self) -> MapCounts {
        self.map().counts()
    }

    /// A host told something new of itself.
    pub fn host(&self, host: &Host, news: News, at: Timestamp) {
        // Its addresses are told with its ports, and by its routes.
        if news.peers || news.itself {
            self.report(&host.name, Source::Host, hosts::itself(host), at);
        }
        if news.peers || news.itself {
            let neighbours = {
                let mut memories = locked(&self.0.memories);
                let memory = memories.entry(host.name.clone()).or_default();
                if news.peers {
                    memory.hear(&host.peers.neighbours, host.generation, at);
                }
                memory.neighbours()
            };
            if news.peers {
                self.report(&host.name, Source::Lldp, hosts::heard(&host.name, &neighbours), at);
            }
            self.report(&host.name, Source::Route, hosts::routed(host, &neighbours), at);
        }
    }

    /// A host's agent saw which way a flow goes.
    pub fn traced(&self, host: &str, flow: Flow, hops: Vec<Option<std::net::IpAddr>>, reached: bool, at: Timestamp) {
        let mut all = locked(&self.0.traced);
        let of_host = all.entry(host.to_owned()).or_default();
        let is_of_it = |known: &Statement| matches!(known, Statement::Trace { flow: known, .. } if *known == flow);
        if of_host.iter().any(is_of_it) {
            // Said anew it counts as seen now; said again it would count as seen when it was said first.
            of_host.retain(|known| !is_of_it(known));
            self.report(host, Source::Trace, of_host.iter().cloned().collect(), at);
        }
        if of_host.len() >= TRACES_PER_HOST_MAX {
            of_host.pop_front();
        }
        of_host.push_back(Statement::Trace { flow, hops, reached });
        self.report(host, Source::Trace, of_host.iter().cloned().collect(), at);
    }

    /// Makes the map now, for whoever cannot wait for the next making. Blocks for as long as that takes.
    pub fn make(&self) -> Arc<Topology> {
        // One at a time under the lock: a map made earlier is never published later.
        let map = self.map();
        let topology = Arc::new(map.topology());
        self.0.published.send_replace(Arc::clone(&topology));
        topology
    }

    /// Makes the map when something changed, until told to stop.
    pub async fn follow(self, stop: CancellationToken) {
        let mut made = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.changed.notified() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let now = Timeline::now();
                    self.settle(now);
                    self.map().expire(now);
                }
            }
            let revision = self.map().revision();
            if revision == made {
                continue;
            }
            let (room, begun) = (self.clone(), Instant::now());
            if let Err(error) = tokio::task::spawn_blocking(move || room.make()).await {
                tracing::error!(%error, "the map was not made");
                continue;
            }
            made = revision;
            // A fabric that takes long to make is made less often: half of one processor at most.
            tokio::time::sleep(begun.elapsed()).await;
        }
    }

    /// Lets go what was remembered of agents that were started anew and have not heard it again.
    fn settle(&self, now: Timestamp) {
        let mut settled = Vec::new();
        for (host, memory) in locked(&self.0.memories).iter_mut() {
            if memory.settle(now) {
                settled.push((host.clone(), memory.neighbours()));
            }
        }
        for (host, neighbours) in settled {
            self.report(&host, Source::Lldp, hosts::heard(&host, &neighbours), now);
        }
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        locked(&self.0.map)
    }
}

/// A panic elsewhere while it was held is no reason to lose the map: it is plain data.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reports for MapRoom {
    fn report(&self, reporter: &str, source: Source, says: Vec<Statement>, at: Timestamp) {
        self.map().report(reporter, source, says, at);
        self.0.changed.notify_one();
    }

    fn gone(&self, reporter: &str, at: Timestamp) {
        self.map().gone(reporter, at);
        locked(&self.0.traced).remove(reporter);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests;
