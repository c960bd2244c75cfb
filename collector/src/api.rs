//! The HTTP/JSON API: what people and programs see of the collector, and the only way in for their verdicts.
//!
//! In: requests, each with a bearer token ([`crate::auth`]). Out: live state ([`crate::live`]), incidents, decisions and
//! audit from the store's readers, changes as server-sent events ([`feed`]), problems as RFC 9457 ([`problem`]).
//! Verdicts and halts go to [`crate::core`], which stores and judges them; the token's name is the actor.
//! Never: a decision, a write to the store, an answer without a caller (but /healthz and /readyz), or anything unbounded.

pub mod counters;
mod feed;
mod guard;
mod host_burst;
mod inventory;
mod jobs;
mod path;
mod problem;
mod readers;
mod routes;
mod server;
mod tape;
#[cfg(test)]
mod tests;
mod tls;
mod topology;
mod watch;

pub use server::{ListenRefused, check_listen, serve};
pub use tls::{TlsError, tls};

use crate::auth::Tokens;
use crate::bursts::Bursts;
use crate::clock::Timeline;
use crate::core::CoreHandle;
use crate::live::Live;
use crate::map::MapRoom;
use crate::tape::Tapes;
use crate::tape::kept::Kept;
use counters::Counters;
use feed::Feed;
use readers::Readers;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Watchers at one time.
const WATCHERS_MAX: usize = 256;

/// Everything the API shows and speaks to. Clone it freely.
#[derive(Clone)]
pub struct ApiState(Arc<Inner>);

struct Inner {
    tokens: Arc<Tokens>,
    live: Live,
    readers: Readers,
    core: CoreHandle,
    tapes: Tapes,
    kept: Kept,
    bursts: Bursts,
    map: MapRoom,
    feed: Feed,
    counters: Arc<Counters>,
    watchers: Arc<Semaphore>,
    requests: AtomicU64,
    run: u64,
}

impl ApiState {
    /// The API of this collector.
    pub fn new(
        tokens: Arc<Tokens>,
        live: Live,
        core: CoreHandle,
        tapes: Tapes,
        kept: Kept,
        bursts: Bursts,
        map: MapRoom,
    ) -> Self {
        let started = Timeline::now();
        Self(Arc::new(Inner {
            tokens,
            live,
            readers: Readers::new(core.clone()),
            core,
            tapes,
            kept,
            bursts,
            map,
            feed: Feed::new(started),
            counters: Arc::default(),
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
            requests: AtomicU64::new(0),
            run: started.0,
        }))
    }

    /// What the API did so far, for OpenMetrics.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }

    /// A name for a request that came without one, unique over restarts.
    fn next_request_id(&self) -> String {
        format!("{:x}-{:x}", self.0.run, self.0.requests.fetch_add(1, Ordering::Relaxed))
    }
}
