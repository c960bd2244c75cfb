//! The one writer: an own thread that owns the engine and the store.
//!
//! In: frames, hearings, verdicts, halts, answers of the executor. Out: acknowledgements, and what the engine did, each only after the transaction
//! that holds it is on disk. What arrives while one transaction is written shares the next. Hosts take turns ([`inbox`]); where one finds no room it
//! waits, and nothing is dropped. How far all this is behind is what [`crate::overload`] judges. While the store cannot be written, nothing is acknowledged, agents keep their frames, and callers are told why.

mod counters;
mod inbox;
pub mod incidents;
mod late;
mod task;

pub use counters::{CoreCounters, CoreFigures, LATENCY_BOUNDS_MS};

use crate::clock::Timeline;
use crate::executor::halt::{self, Halt, HaltError};
use crate::executor::{WebhookConfig, WebhookError};
use crate::overload::Overload;
use inbox::Inbox;
use railwatch_engine::{
    AuditEntry, Decision, Effect, EndedBy, OptionError, Options, Outcome, Signal, Suspect, Timestamp,
};
use railwatch_pki::PeerKernel;
use railwatch_store::{Frame, InventoryItem, MapChange, Reader, Retention, Store, StoreError, StreamId};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};

/// Requests that wait at most.
const REQUESTS_MAX: usize = 256;
/// What a subscriber may fall behind before it must read the store again.
const PUBLISHED_MAX: usize = 1_024;

/// What the core needs to know.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Of the engine.
    pub engine: Options,
    /// How much the store keeps.
    pub retention: Retention,
    /// Where the halt switch lies.
    pub state_dir: PathBuf,
    /// Where orders go; without it they are withheld.
    pub webhook: Option<WebhookConfig>,
}

/// The core did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The executor is not usable as configured.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The engine cannot work with its settings.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// No thread.
    #[error("could not start the core's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The core could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// It stopped.
    #[error("the collector is stopping")]
    Stopped,
    /// Nothing can be stored at present.
    #[error("the store cannot be written at present: {0}")]
    Store(String),
    /// The engine cannot work with these settings; those before stay.
    #[error(transparent)]
    Options(#[from] OptionError),
}

/// A verdict had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerdictError {
    /// No such decision.
    #[error("there is no decision {0}; `railwatch decisions` lists them")]
    Unknown(u64),
    /// Nothing to judge any more.
    #[error("decision {id} waits for no verdict: it is {state}{}", outcome.as_deref().map(|why| format!(" ({why})")).unwrap_or_default())]
    NotWaiting {
        /// Which.
        id: u64,
        /// Its state.
        state: String,
        /// How it ended.
        outcome: Option<String>,
    },
    /// The core could not be asked.
    #[error(transparent)]
    Core(#[from] CoreError),
}

/// Acting was not released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The switch could not be removed.
    #[error(transparent)]
    Switch(#[from] HaltError),
    /// Who releases could not be put on record, so the switch stays.
    #[error(transparent)]
    Core(#[from] CoreError),
}

/// What one transaction made known, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// When.
    pub at: Timestamp,
    /// Incidents, decisions, orders and audit lines; of an incident or decision only its last state.
    pub effects: Vec<Effect>,
}

/// One connection of one host, as the ingest and the core share it.
pub(crate) struct Link {
    pub host: String,
    pub stream: StreamId,
    pub first_sequence: u64,
    pub generation: u64,
    last_heard_ns: AtomicU64,
    detached: AtomicBool,
    pub acknowledged: watch::Sender<u64>,
    /// Whether the host still answers where its agent does not.
    kernel: PeerKernel,
    /// The agent is late: something is to be sent, for its kernel to acknowledge.
    prod: Notify,
}

impl Link {
    pub(crate) fn last_heard(&self) -> Timestamp {
        Timestamp(self.last_heard_ns.load(Ordering::Relaxed))
    }
}

/// How a host's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The agent said goodbye.
    Orderly,
    /// It did not.
    Broken(EndedBy),
}

pub(crate) enum Request {
    Attach {
        host: String,
        boot_id: String,
        stream: StreamId,
        first_sequence: u64,
        kernel: PeerKernel,
        reply: oneshot::Sender<Result<Arc<Link>, CoreError>>,
    },
    Detach {
        link: Arc<Link>,
        end: StreamEnd,
    },
    Verdict {
        decision: u64,
        actor: String,
        approve: bool,
        note: String,
        reply: oneshot::Sender<Result<Decision, VerdictError>>,
    },
    /// The switch was thrown: who did it goes on record.
    Halted {
        actor: String,
        reason: String,
        reply: oneshot::Sender<Result<(), CoreError>>,
    },
    Release {
        actor: String,
        reply: oneshot::Sender<Result<bool, ReleaseError>>,
    },
    /// What is installed and set on a host, whole.
    Inventory {
        link: Arc<Link>,
        items: Vec<InventoryItem>,
        at: Timestamp,
    },
    /// What explains the probes that were lost of late.
    LossExplained {
        since: Timestamp,
        suspects: Vec<Suspect>,
    },
    /// A host was told to come back so much later.
    TurnedAway {
        host: String,
        until: Timestamp,
    },
    /// Something that the collector saw by itself.
    Observed {
        signal: Box<Signal>,
        reply: oneshot::Sender<Result<(), CoreError>>,
    },
    /// What changed on the map.
    Map {
        changes: Vec<MapChange>,
    },
    /// Something that the engine has no part in goes on record.
    Note {
        entry: AuditEntry,
        reply: oneshot::Sender<Result<(), CoreError>>,
    },
    Reconfigure {
        engine: Box<Options>,
        retention: Retention,
        reply: oneshot::Sender<Result<(), CoreError>>,
    },
    Sending {
        key: String,
        attempt: u32,
        reply: oneshot::Sender<Result<(), CoreError>>,
    },
    Finished {
        key: String,
        attempts: u32,
        outcome: Outcome,
        reply: oneshot::Sender<Result<(), CoreError>>,
    },
    Stop {
        reply: oneshot::Sender<()>,
    },
}

pub(crate) struct Arrived {
    pub link: Arc<Link>,
    pub frame: Frame,
    pub at: Timestamp,
}

/// The way to the core. Cheap to clone.
#[derive(Clone)]
pub struct CoreHandle {
    requests: mpsc::Sender<Request>,
    inbox: Inbox,
    overload: Overload,
    published: broadcast::Sender<Arc<Published>>,
    counters: Arc<CoreCounters>,
    epoch: u64,
    store_path: PathBuf,
    state_dir: PathBuf,
}

impl CoreHandle {
    /// Starts the core on a store.
    pub fn spawn(store: Store, config: CoreConfig) -> Result<Self, StartError> {
        config.engine.check()?;
        let (requests, requests_in) = mpsc::channel(REQUESTS_MAX);
        let handle = Self {
            requests,
            inbox: Inbox::default(),
            overload: Overload::default(),
            published: broadcast::channel(PUBLISHED_MAX).0,
            counters: Arc::default(),
            epoch: store.epoch(),
            store_path: store.path().to_owned(),
            state_dir: config.state_dir.clone(),
        };
        let ledger = CoreLedger(handle.requests.clone());
        let (published, counters) = (handle.published.clone(), handle.counters.clone());
        let task = task::Task::start(store, config, published, counters, handle.overload.clone(), ledger)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let inbox = handle.inbox.clone();
        std::thread::Builder::new()
            .name("core".to_owned())
            .spawn(move || runtime.block_on(task.run(requests_in, inbox)))?;
        Ok(handle)
    }

    /// A host's stream opens, whose spool begins at `first_sequence`, over a connection that `kernel` looks at. The newest connection of a host
    /// is the one that counts.
    pub async fn attach(
        &self,
        host: &str,
        boot_id: &str,
        stream: StreamId,
        first_sequence: u64,
        kernel: PeerKernel,
    ) -> Result<Attachment, CoreError> {
        let (reply, answer) = oneshot::channel();
        let (host, boot_id) = (host.to_owned(), boot_id.to_owned());
        self.ask(Request::Attach { host, boot_id, stream, first_sequence, kernel, reply }).await?;
        let link = answer.await.map_err(|_| CoreError::Stopped)??;
        let (inbox, overload) = (self.inbox.clone(), self.overload.clone());
        Ok(Attachment { link, inbox, overload, requests: self.requests.clone(), epoch: self.epoch })
    }

    /// A person judges a decision. Returns the decision as it is then: `ordered`, `rejected`, `done` or `withheld` with the reason in `outcome`.
    pub async fn verdict(
        &self,
        decision: u64,
        actor: &str,
        approve: bool,
        note: &str,
    ) -> Result<Decision, VerdictError> {
        let (reply, answer) = oneshot::channel();
        let (actor, note) = (actor.to_owned(), note.to_owned());
        self.ask(Request::Verdict { decision, actor, approve, note, reply }).await?;
        answer.await.map_err(|_| CoreError::Stopped)?
    }

    /// Halts all acting: the switch is on disk when this returns, whether or not the store can be written.
    pub async fn halt(&self, actor: &str, reason: &str) -> Result<(), HaltError> {
        halt::set(&self.state_dir, &Halt { actor: actor.to_owned(), reason: reason.to_owned() })?;
        // The core reads the switch itself within 100 ms; told, it puts the actor on record at once.
        let (reply, answer) = oneshot::channel();
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        if self.ask(Request::Halted { actor, reason, reply }).await.is_ok() {
            let _ = answer.await;
        }
        Ok(())
    }

    /// Lets acting go on. Returns whether it was halted. The core removes the switch, so that it is never seen removed by nobody.
    pub async fn release(&self, actor: &str) -> Result<bool, ReleaseError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Release { actor: actor.to_owned(), reply }).await?;
        answer.await.map_err(|_| CoreError::Stopped)?
    }

    /// Puts a line into the audit about something that the engine has no part in. On disk when this returns.
    pub async fn note(&self, actor: &str, what: &str, detail: String) -> Result<(), CoreError> {
        let (reply, answer) = oneshot::channel();
        let entry = AuditEntry { at: Timeline::now(), actor: actor.to_owned(), what: what.to_owned(), detail };
        self.ask(Request::Note { entry, reply }).await?;
        answer.await.map_err(|_| CoreError::Stopped)?
    }

    /// A host was told to come back so much later: nobody is to call it silent until then. Never waits; where the core has no room
    /// left to hear of it, it is not told.
    pub fn turned_away(&self, host: &str, retry_after_ms: u32) {
        let until = Timestamp(Timeline::now().0.saturating_add(u64::from(retry_after_ms) * 1_000_000));
        let _ = self.requests.try_send(Request::TurnedAway { host: host.to_owned(), until });
    }

    /// What explains the probes that were lost of late, likeliest first, whenever that changes; empty when none is lost any more.
    pub async fn loss_explained(&self, since: Timestamp, suspects: Vec<Suspect>) -> Result<(), CoreError> {
        self.ask(Request::LossExplained { since, suspects }).await
    }

    /// Takes a signal that the collector made itself: of hosts compared with each other, or of what is no host. It is stored, told
    /// and judged like one of the element's own host. On disk when this returns; after an error it is nowhere.
    pub async fn observe(&self, signal: Signal) -> Result<(), CoreError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Observed { signal: Box::new(signal), reply }).await?;
        answer.await.map_err(|_| CoreError::Stopped)?
    }

    /// Keeps changes of the map; waits while the core has too much to do. Not on disk yet when this returns.
    pub async fn map_changes(&self, changes: Vec<MapChange>) -> Result<(), CoreError> {
        self.ask(Request::Map { changes }).await
    }

    /// What [`Self::observe`] took under these names, in earlier runs too and as far back as signals are kept; the newest first.
    pub fn observed(&self, names: &[&str]) -> Result<Vec<Signal>, StoreError> {
        self.reader()?.signals_of_stream(&task::OWN_STREAM, names)
    }

    /// Who halted acting.
    pub fn halted(&self) -> Option<Halt> {
        halt::is_set(&self.state_dir)
    }

    /// Goes on with other settings of the engine and the store. The webhook's need a restart.
    pub async fn reconfigure(&self, engine: Options, retention: Retention) -> Result<(), CoreError> {
        engine.check()?;
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Reconfigure { engine: Box::new(engine), retention, reply }).await?;
        answer.await.map_err(|_| CoreError::Stopped)?
    }

    /// What becomes known from now on. A receiver that lags reads the store again.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// Incidents that open from now on.
    pub fn new_incidents(&self) -> incidents::NewIncidents {
        incidents::NewIncidents::of(self.subscribe())
    }

    /// A reader of the store, with a connection of its own.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.store_path)
    }

    /// Grows by one with each start.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Figures for metrics.
    pub fn figures(&self) -> CoreFigures {
        self.counters.figures(self.inbox.len())
    }

    /// How much there is to do, and what is left out.
    pub fn overload(&self) -> &Overload {
        &self.overload
    }

    /// Why the store cannot be written at present.
    pub fn store_error(&self) -> Option<String> {
        self.counters.store_error()
    }

    /// Stores what has arrived, and stops. Returns when that is done.
    pub async fn stop(&self) {
        let (reply, answer) = oneshot::channel();
        if self.ask(Request::Stop { reply }).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Returns when the core is no more, whether it was stopped or died: nothing is acknowledged from then on.
    pub async fn stopped(&self) {
        self.requests.closed().await;
    }

    async fn ask(&self, request: Request) -> Result<(), CoreError> {
        self.requests.send(request).await.map_err(|_| CoreError::Stopped)
    }
}

/// One connection of one host. Dropping it without [`detach`](Self::detach) is a break.
pub struct Attachment {
    link: Arc<Link>,
    inbox: Inbox,
    overload: Overload,
    requests: mpsc::Sender<Request>,
    epoch: u64,
}

impl Attachment {
    /// Everything up to this sequence is stored. Changes with each commit; send the newest as `Ack`.
    pub fn acknowledged(&self) -> watch::Receiver<u64> {
        self.link.acknowledged.subscribe()
    }

    /// The collector's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Something came from the host just now. Call it for every message that is not submitted: it never waits.
    pub fn heard(&self) {
        self.link.last_heard_ns.fetch_max(Timeline::now().0, Ordering::Relaxed);
    }

    /// Returns when something is to be sent to the agent, however small: it is late, and its kernel is to acknowledge.
    pub async fn prodded(&self) {
        self.link.prod.notified().await;
    }

    /// How long nothing has come from the agent.
    pub fn late_by(&self) -> Duration {
        Duration::from_nanos(Timeline::now().0.saturating_sub(self.link.last_heard().0))
    }

    /// Gives a frame to the core, in the order of its stream; waits while the core has too much to do. A gap in the sequence is counted and accepted: whoever
    /// calls this refuses what it does not want taken.
    pub async fn submit(&self, frame: Frame) -> Result<(), CoreError> {
        self.heard();
        let arrived = Arrived { link: self.link.clone(), frame, at: Timeline::now() };
        let given = self.inbox.push(arrived).await;
        self.overload.frames_wait(self.inbox.len());
        if given { Ok(()) } else { Err(CoreError::Stopped) }
    }

    /// Gives the host's whole inventory to the core; waits while the core has too much to do. What differs from the stored one is written.
    pub async fn inventory(&self, items: Vec<InventoryItem>) -> Result<(), CoreError> {
        let request = Request::Inventory { link: self.link.clone(), items, at: Timeline::now() };
        self.requests.send(request).await.map_err(|_| CoreError::Stopped)
    }

    /// The stream ended.
    pub async fn detach(self, end: StreamEnd) {
        if !self.link.detached.swap(true, Ordering::Relaxed) {
            let _ = self.requests.send(Request::Detach { link: self.link.clone(), end }).await;
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if !self.link.detached.swap(true, Ordering::Relaxed) {
            // Where the queue is full this is lost, and silence tells the same a second later.
            let _ = self
                .requests
                .try_send(Request::Detach { link: self.link.clone(), end: StreamEnd::Broken(EndedBy::Host) });
        }
    }
}

/// How the executor reaches the store: through the one writer.
pub(crate) struct CoreLedger(mpsc::Sender<Request>);

impl crate::executor::Ledger for CoreLedger {
    fn sending(&self, key: &str, attempt: u32) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.told(Request::Sending { key: key.to_owned(), attempt, reply }, answer)
    }

    fn finished(&self, key: &str, attempts: u32, outcome: &Outcome) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.told(Request::Finished { key: key.to_owned(), attempts, outcome: outcome.clone(), reply }, answer)
    }
}

impl CoreLedger {
    fn told(&self, request: Request, answer: oneshot::Receiver<Result<(), CoreError>>) -> Result<(), String> {
        let stopped = |_| CoreError::Stopped.to_string();
        self.0.blocking_send(request).map_err(|error| stopped(error.to_string()))?;
        answer.blocking_recv().map_err(|error| stopped(error.to_string()))?.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
