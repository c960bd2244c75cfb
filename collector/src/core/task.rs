//! The core's loop: take what is there, step the engine, write it down in one transaction, then tell.

use super::counters::CoreCounters;
use super::inbox::Inbox;
use super::late::{self, Watch};
use super::{
    Arrived, CoreConfig, CoreError, CoreLedger, Link, Published, ReleaseError, Request, StartError, StreamEnd,
    VerdictError,
};
use crate::clock::{Timeline, nanoseconds};
use crate::executor::halt::{self, Halt};
use crate::executor::{Executor, Job};
use crate::overload::Overload;
use railwatch_engine::{
    AuditEntry, Decision, DecisionState, Effect, EndedBy, Engine, Event, KnownHost, Logged, Options, Order, Outcome,
    Recorder, Signal, Timestamp,
};
use railwatch_store::{
    AuditFilter, Batch, Frame, FrameBody, FrameVerdict, HostInventory, InventoryItem, MapChange, OrderState, Retention,
    Store, StoreError, StreamId,
};
use railwatch_wire::inventory;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

const TICK: Duration = Duration::from_millis(100);
/// A tick this late means that this process did not run: silence of others proves nothing then.
const STALL: Duration = Duration::from_millis(400);
/// Windows alone wait this long for company: their acknowledgement is in no hurry, and a commit costs a disk flush.
const WINDOWS_WAIT: Duration = Duration::from_millis(20);
/// Frames of one transaction at most.
const GROUP_MAX: usize = 1_024;
/// Pause between attempts to write to a store that fails.
const RETRY: Duration = Duration::from_millis(250);
/// The stream of each element's host that the collector's own signals are numbered in; an agent draws its own at random.
pub(super) const OWN_STREAM: StreamId = *b"collector's own\0";
/// Ticks over which the times at which hosts were last heard are written down, and between prunings.
const TICKS_PER_ROUND: u64 = 600;

type Reply<T, E> = (oneshot::Sender<Result<T, E>>, Result<T, E>);

pub(super) struct Connection {
    pub(super) link: Arc<Link>,
    boot_id: String,
    told: Timestamp,
    pub(super) watch: Watch,
}

pub(super) struct Task {
    store: Store,
    engine: Engine,
    recorder: Recorder,
    executor: Executor,
    published: broadcast::Sender<Arc<Published>>,
    counters: Arc<CoreCounters>,
    overload: Overload,
    retention: Retention,
    state_dir: PathBuf,
    silent_after_ms: u64,
    connections: BTreeMap<String, Connection>,
    generation: u64,
    halted: bool,
    pending: Pending,
    ticks: u64,
    last_tick: Instant,
    more_to_prune: bool,
    /// Streams that ended, and inventories told, while nothing could be stored.
    deferred: Vec<Request>,
}

/// What waits for the next commit.
#[derive(Default)]
struct Pending {
    batch: Batch,
    effects: Vec<Effect>,
    acknowledged: BTreeMap<u64, (Arc<Link>, u64)>,
    signals_arrived: Vec<Timestamp>,
    /// Arrival of its oldest frame.
    oldest: Option<Timestamp>,
    since: Option<Instant>,
    urgent: bool,
    frames: usize,
    done: Vec<Reply<(), CoreError>>,
    attached: Vec<Reply<Arc<Link>, CoreError>>,
    judged: Vec<Reply<Decision, VerdictError>>,
    released: Vec<Reply<bool, ReleaseError>>,
}

impl Task {
    pub(super) fn start(
        mut store: Store,
        config: CoreConfig,
        published: broadcast::Sender<Arc<Published>>,
        counters: Arc<CoreCounters>,
        overload: Overload,
        ledger: CoreLedger,
    ) -> Result<Self, StartError> {
        let CoreConfig { engine: options, retention, state_dir, webhook } = config;
        let now = Timeline::now();
        let halted_by = halted_on_record(&store, halt::is_set(&state_dir).as_ref())?;
        let halted = halted_by.is_some();
        let restored = store.restore(now, halted_by)?;
        let resumed = store.resume_orders()?;
        let mut pending = Pending::default();
        pending.batch.log([Logged::Restored(Box::new(restored.clone()))], now);
        pending.urgent = true;
        let executor = Executor::spawn(webhook, state_dir.clone(), store.epoch(), ledger)?;
        let mut task = Self {
            silent_after_ms: options.silent_after_ms,
            engine: Engine::restore(options, restored),
            recorder: Recorder::default(),
            executor,
            published,
            counters,
            overload,
            retention,
            state_dir,
            connections: BTreeMap::new(),
            generation: 0,
            halted,
            pending,
            ticks: 0,
            last_tick: Instant::now(),
            more_to_prune: false,
            deferred: Vec::new(),
            store,
        };
        // What was thrown or released while no collector ran becomes known, and a line of the audit, before any order.
        task.watch_halt(now);
        for (order, attempts) in resumed {
            task.resume(order, attempts)?;
        }
        Ok(task)
    }

    /// An order that an earlier run gave and did not see end.
    fn resume(&mut self, order: Order, attempts: u32) -> Result<(), StoreError> {
        let key = order.idempotency_key.clone();
        let wanted =
            self.store.decision(order.decision)?.is_some_and(|decision| self.engine.is_open(decision.incident));
        self.carry(order, attempts);
        if !wanted {
            self.executor.cancel(key, "its incident resolved before it was carried out".to_owned());
        }
        Ok(())
    }

    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, inbox: Inbox) {
        let _end = Closed(inbox.clone());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut asked, mut arrived) = (Vec::new(), Vec::new());
        let mut stopped = None;
        while stopped.is_none() {
            let due = self.pending.since.map_or_else(|| Instant::now() + TICK, |since| since + WINDOWS_WAIT);
            tokio::select! {
                biased;
                _ = tick.tick() => self.tick(),
                count = requests.recv_many(&mut asked, GROUP_MAX) => {
                    for request in asked.drain(..) {
                        stopped = stopped.or(self.request(request));
                    }
                    if count == 0 {
                        return;
                    }
                }
                () = inbox.take(&mut arrived, GROUP_MAX) => {
                    self.overload.frames_wait(inbox.len());
                    for one in arrived.drain(..) {
                        self.frame(one);
                    }
                }
                () = sleep_until(due.into()) => {}
            }
            if stopped.is_some() {
                inbox.close();
                inbox.take_now(&mut arrived, usize::MAX);
                for one in arrived.drain(..) {
                    self.frame(one);
                }
                self.pending.batch.end(Timeline::now());
                self.pending.urgent = true;
            }
            let waited = self.pending.since.is_some_and(|since| since.elapsed() >= WINDOWS_WAIT);
            if self.pending.urgent || waited || self.pending.frames >= GROUP_MAX {
                stopped = stopped.or(self.commit(&mut requests).await);
            }
        }
        // The executor's thread may wait for an answer of this one: close the way first.
        drop(requests);
        drop(self);
        if let Some(reply) = stopped {
            let _ = reply.send(());
        }
    }

    // ---- taking ------------------------------------------------------------------------------------

    fn step(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let effects = self.engine.step(event.clone(), now);
        let lines = self.recorder.note(&event, &effects);
        self.pending.batch.log(lines, now);
        if !effects.is_empty() {
            self.pending.batch.effects(&effects, now);
            self.pending.effects.extend(effects.iter().cloned());
            self.pending.urgent = true;
        }
        effects
    }

    fn frame(&mut self, arrived: Arrived) {
        let Arrived { link, frame, at } = arrived;
        let verdict =
            self.pending.batch.frame(&self.store, &link.host, link.stream, &frame, at, Some(link.first_sequence));
        self.pending.frames += 1;
        let oldest = self.pending.oldest.get_or_insert(at);
        *oldest = at.min(*oldest);
        self.pending.since.get_or_insert_with(Instant::now);
        match verdict {
            FrameVerdict::Accepted { missing } => {
                self.counters.frames_accepted.fetch_add(1, Relaxed);
                let told = frame.skipped_signals.saturating_add(frame.skipped_windows);
                self.counters.frames_missing.fetch_add(missing.saturating_sub(told), Relaxed);
            }
            FrameVerdict::Duplicate | FrameVerdict::Gap { .. } => {
                self.counters.frames_duplicate.fetch_add(1, Relaxed);
                // It may have come over an earlier connection: this one has not heard of it yet.
                let through = self.pending.batch.acknowledged_through(&self.store, &link.host, &link.stream);
                self.pending.acknowledged.insert(link.generation, (link, through));
                return;
            }
        }
        self.pending.acknowledged.insert(link.generation, (link.clone(), frame.sequence));
        let name = frame.name(&link.host, &link.stream);
        match frame.body {
            FrameBody::Signal(signal) => {
                self.counters.signals.fetch_add(1, Relaxed);
                self.pending.signals_arrived.push(at);
                self.pending.urgent = true;
                self.step(Event::Signal { frame: name, signal }, Timeline::now());
            }
            FrameBody::Windows => {
                self.counters.windows.fetch_add(1, Relaxed);
            }
            FrameBody::Refused => {}
        }
    }

    /// A signal of the collector's own, of which nobody keeps another copy.
    fn observed(&mut self, signal: Signal, now: Timestamp) {
        let host = signal.element.host.clone();
        let sequence = self.pending.batch.acknowledged_through(&self.store, &host, &OWN_STREAM) + 1;
        let body = FrameBody::Signal(signal.clone());
        let frame = Frame { sequence, skipped_signals: 0, skipped_windows: 0, body };
        self.pending.batch.frame(&self.store, &host, OWN_STREAM, &frame, now, None);
        self.counters.signals.fetch_add(1, Relaxed);
        self.step(Event::Signal { frame: frame.name(&host, &OWN_STREAM), signal }, now);
    }

    /// Returns the asker's reply where it asked to stop.
    fn request(&mut self, request: Request) -> Option<oneshot::Sender<()>> {
        let now = Timeline::now();
        // Nobody waits for an inventory, or for the map's history.
        self.pending.urgent |= !matches!(request, Request::Inventory { .. } | Request::Map { .. });
        match request {
            Request::Attach { host, boot_id, stream, first_sequence, kernel, reply } => {
                self.generation += 1;
                let through = self.pending.batch.acknowledged_through(&self.store, &host, &stream);
                let link = Arc::new(Link {
                    host: host.clone(),
                    stream,
                    first_sequence,
                    generation: self.generation,
                    last_heard_ns: AtomicU64::new(now.0),
                    detached: AtomicBool::new(false),
                    acknowledged: watch::Sender::new(through),
                    kernel,
                    prod: Notify::new(),
                });
                self.pending.batch.host(KnownHost {
                    host: host.clone(),
                    boot_id: boot_id.clone(),
                    last_heard: now,
                    departed: false,
                });
                let (link_of_it, boot_id_of_it) = (link.clone(), boot_id.clone());
                let watch = Watch::default();
                let connection = Connection { link: link_of_it, boot_id: boot_id_of_it, told: now, watch };
                self.connections.insert(host.clone(), connection);
                self.step(Event::HostConnected { host, boot_id }, now);
                self.pending.attached.push((reply, Ok(link)));
            }
            Request::Detach { link, end } => self.detach(&link, end, now),
            Request::Verdict { decision, actor, approve, note, reply } => {
                let judged = self.verdict(decision, actor, approve, note, now);
                self.pending.judged.push((reply, judged));
            }
            Request::Halted { actor, reason, reply } => {
                self.halted = true;
                self.step(Event::Halt { halted: true, actor, reason }, now);
                self.pending.done.push((reply, Ok(())));
            }
            Request::Release { actor, reply } => {
                let released = halt::clear(&self.state_dir).map_err(ReleaseError::from);
                if released.is_ok() {
                    self.halted = false;
                    self.step(Event::Halt { halted: false, actor, reason: String::new() }, now);
                }
                self.pending.released.push((reply, released));
            }
            Request::LossExplained { since, suspects } => {
                drop(self.step(Event::LossExplained { since, suspects }, now));
            }
            Request::TurnedAway { host, until } => drop(self.step(Event::HostTurnedAway { host, until }, now)),
            Request::Observed { signal, reply } => {
                self.observed(*signal, now);
                self.pending.done.push((reply, Ok(())));
            }
            Request::Note { entry, reply } => {
                // Not of the engine's story: its log is not told.
                self.pending.batch.effects(&[Effect::Audit(entry)], now);
                self.pending.done.push((reply, Ok(())));
            }
            Request::Reconfigure { engine, retention, reply } => {
                self.reconfigure(*engine, retention);
                self.pending.done.push((reply, Ok(())));
            }
            Request::Sending { key, attempt, reply } => {
                self.pending.batch.order_state(key, OrderState::Sending, attempt, String::new());
                self.pending.done.push((reply, Ok(())));
            }
            Request::Finished { key, attempts, outcome, reply } => {
                self.order_finished(key, attempts, outcome, now);
                self.pending.done.push((reply, Ok(())));
            }
            Request::Inventory { link, items, at } => self.inventory(&link, items, at),
            Request::Map { changes } => {
                self.pending.batch.map_changes(changes);
                self.pending.since.get_or_insert_with(Instant::now);
            }
            Request::Stop { reply } => return Some(reply),
        }
        None
    }

    /// In no hurry: it shares the next commit.
    fn inventory(&mut self, link: &Link, items: Vec<InventoryItem>, at: Timestamp) {
        // A connection that a newer one took over says nothing about the host any more.
        let Some(connection) = self.connections.get(&link.host).filter(|c| c.link.generation == link.generation) else {
            return;
        };
        let (host, boot_id) = (link.host.clone(), connection.boot_id.clone());
        self.pending.batch.inventory(HostInventory { host, boot_id, at, items, is_kept: inventory::is_kept });
        self.pending.since.get_or_insert_with(Instant::now);
    }

    fn detach(&mut self, link: &Arc<Link>, end: StreamEnd, now: Timestamp) {
        // A connection that a newer one of the same host took over says nothing about the host any more.
        let Some(connection) = self.connections.get(&link.host).filter(|c| c.link.generation == link.generation) else {
            return;
        };
        let boot_id = connection.boot_id.clone();
        let last_heard = link.last_heard();
        let (orderly, by) = match end {
            StreamEnd::Orderly => (true, EndedBy::default()),
            StreamEnd::Broken(by) => (false, by),
        };
        self.connections.remove(&link.host);
        self.pending.batch.host(KnownHost { host: link.host.clone(), boot_id, last_heard, departed: orderly });
        self.step(Event::HostHeard { host: link.host.clone(), at: last_heard }, now);
        self.step(Event::HostDisconnected { host: link.host.clone(), orderly, by }, now);
    }

    fn verdict(
        &mut self,
        id: u64,
        actor: String,
        approve: bool,
        note: String,
        now: Timestamp,
    ) -> Result<Decision, VerdictError> {
        let waits = |decision: &Decision| matches!(decision.state, DecisionState::Proposed | DecisionState::Withheld);
        let known = self.engine.decision(id).cloned();
        if !known.as_ref().is_some_and(waits) {
            // Not live any more: the store knows how it ended. The engine audits the refusal.
            self.step(Event::Verdict { decision: id, actor, approve, note }, now);
            let stored = known.or(self.store.decision(id).map_err(|error| CoreError::Store(error.to_string()))?);
            let decision = stored.ok_or(VerdictError::Unknown(id))?;
            let state = serde_json::to_value(decision.state).ok().and_then(|state| state.as_str().map(str::to_owned));
            return Err(VerdictError::NotWaiting { id, state: state.unwrap_or_default(), outcome: decision.outcome });
        }
        self.watch_halt(now);
        let effects = self.step(Event::Verdict { decision: id, actor, approve, note }, now);
        effects
            .into_iter()
            .rev()
            .find_map(|effect| match effect {
                Effect::Decision(decision) if decision.id == id => Some(decision),
                _ => None,
            })
            .ok_or(VerdictError::Unknown(id))
    }

    fn order_finished(&mut self, key: String, attempts: u32, outcome: Outcome, now: Timestamp) {
        let (state, detail) = match &outcome {
            Outcome::Done { detail } => (OrderState::Done, detail.clone()),
            Outcome::Failed { detail } => (OrderState::Failed, detail.clone()),
            Outcome::Withheld { detail } => (OrderState::Withheld, detail.clone()),
        };
        self.pending.batch.order_state(key.clone(), state, attempts, detail);
        self.step(Event::OrderFinished { idempotency_key: key, outcome }, now);
    }

    fn reconfigure(&mut self, engine: Options, retention: Retention) {
        self.silent_after_ms = engine.silent_after_ms;
        self.retention = retention;
        self.engine.reconfigure(engine);
    }

    // ---- time --------------------------------------------------------------------------------------

    fn tick(&mut self) {
        let now = Timeline::now();
        let late = self.last_tick.elapsed();
        self.last_tick = Instant::now();
        if late > STALL {
            self.counters.stalls.fetch_add(1, Relaxed);
            let for_ns = nanoseconds(late);
            self.step(Event::Stalled { for_ns }, now);
        }
        self.watch_halt(now);
        for (host, at) in late::look(&mut self.connections, self.silent_after_ms, now) {
            self.step(Event::HostAcknowledged { host, at }, now);
        }
        let overdue = self.silent_after_ms * 1_000_000 / 4;
        let heard: Vec<(String, Timestamp)> = self
            .connections
            .iter_mut()
            .filter_map(|(host, connection)| {
                let at = connection.link.last_heard();
                let tell = at > connection.told && now.0.saturating_sub(connection.told.0) >= overdue;
                tell.then(|| {
                    connection.told = at;
                    (host.clone(), at)
                })
            })
            .collect();
        for (host, at) in heard {
            self.step(Event::HostHeard { host, at }, now);
        }
        self.step(Event::JudgeSilence, now);
        self.step(Event::Tick, now);
        self.note_hosts();
        self.prune(now);
        self.ticks += 1;
        self.counters.hosts_connected.store(self.connections.len() as u64, Relaxed);
        self.counters.hosts_watched.store(self.engine.hosts_watched() as u64, Relaxed);
        self.counters.incidents_open.store(self.engine.open_incidents() as u64, Relaxed);
        self.counters.set_engine(self.engine.counters());
    }

    /// The switch may be thrown without this process: by hand, or by the command while the API does not answer.
    fn watch_halt(&mut self, now: Timestamp) {
        let halt = halt::is_set(&self.state_dir);
        if halt.is_some() != self.halted {
            self.halted = halt.is_some();
            let by_hand =
                || Halt { actor: "someone".to_owned(), reason: format!("the file {} was removed", halt::FILE) };
            let Halt { actor, reason } = halt.unwrap_or_else(by_hand);
            self.step(Event::Halt { halted: self.halted, actor, reason }, now);
        }
    }

    /// Writes down when hosts were last heard, a few with each tick.
    fn note_hosts(&mut self) {
        let share = self.connections.len() as u64 / TICKS_PER_ROUND + 1;
        let first = self.ticks % TICKS_PER_ROUND * share;
        for (host, connection) in self
            .connections
            .iter()
            .skip(usize::try_from(first).unwrap_or(usize::MAX))
            .take(usize::try_from(share).unwrap_or(1))
        {
            self.pending.batch.host(KnownHost {
                host: host.clone(),
                boot_id: connection.boot_id.clone(),
                last_heard: connection.link.last_heard(),
                departed: false,
            });
            self.pending.since.get_or_insert_with(Instant::now);
        }
    }

    fn prune(&mut self, now: Timestamp) {
        if !self.more_to_prune && self.ticks % TICKS_PER_ROUND != TICKS_PER_ROUND / 2 {
            return;
        }
        match self.store.prune(&self.retention, now) {
            Ok(pruned) => self.more_to_prune = pruned.more,
            Err(error) => {
                self.more_to_prune = false;
                tracing::warn!(%error, "old rows could not be pruned; trying again in a minute");
            }
        }
    }

    // ---- writing -----------------------------------------------------------------------------------

    /// Writes what is pending, trying again for as long as it takes, and then tells everyone concerned. Returns the reply of one who asked to stop meanwhile.
    async fn commit(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<oneshot::Sender<()>> {
        let pending = std::mem::take(&mut self.pending);
        let begun = Instant::now();
        if !pending.batch.is_empty() {
            let oldest = pending.oldest.unwrap_or_else(Timeline::now);
            self.overload.writing(oldest.0);
            let mut failed = false;
            while let Err(error) = self.store.commit(&pending.batch) {
                self.counters.commits_failed.fetch_add(1, Relaxed);
                if !failed {
                    tracing::error!(%error, "nothing can be stored; agents keep their frames until this ends");
                }
                failed = true;
                self.counters.set_store_error(Some(error.to_string()));
                if let Some(reply) = refuse(requests, &error, &mut self.deferred).await {
                    pending.refuse(&error);
                    return Some(reply);
                }
            }
            if failed {
                tracing::info!("the store can be written again");
                self.counters.set_store_error(None);
                for request in std::mem::take(&mut self.deferred) {
                    let _ = self.request(request);
                }
            }
            self.overload.stored(Timeline::now().0.saturating_sub(oldest.0) / 1_000_000);
            self.counters.commits.fetch_add(1, Relaxed);
            self.counters.commit_ns.fetch_add(nanoseconds(begun.elapsed()), Relaxed);
        }
        self.tell(pending);
        None
    }

    fn tell(&mut self, pending: Pending) {
        let now = Timeline::now();
        for (link, through) in pending.acknowledged.into_values() {
            link.acknowledged.send_if_modified(|current| {
                let moved = through > *current;
                *current = through.max(*current);
                moved
            });
        }
        for arrived in pending.signals_arrived {
            self.counters.signal_took(Duration::from_nanos(now.0.saturating_sub(arrived.0)));
        }
        answer(pending.attached);
        answer(pending.judged);
        answer(pending.released);
        answer(pending.done);
        for effect in &pending.effects {
            match effect {
                Effect::Order(order) => self.carry(order.clone(), 0),
                Effect::Cancel { idempotency_key, reason } => {
                    self.executor.cancel(idempotency_key.clone(), reason.clone());
                }
                _ => {}
            }
        }
        if self.published.receiver_count() > 0 && !pending.effects.is_empty() {
            let effects = last_states(pending.effects);
            let _ = self.published.send(Arc::new(Published { at: now, effects }));
        }
    }

    fn carry(&mut self, order: Order, attempts: u32) {
        self.counters.orders.fetch_add(1, Relaxed);
        let key = order.idempotency_key.clone();
        let decision = self.store.decision(order.decision).ok().flatten();
        let incident =
            decision.as_ref().and_then(|decision| self.store.reader().ok()?.incident(decision.incident).ok().flatten());
        if !self.executor.carry(Job { order, incident, decision, attempts }) {
            let detail = "too many orders wait for the executor".to_owned();
            self.order_finished(key, attempts, Outcome::Withheld { detail }, Timeline::now());
        }
    }
}

/// Closes the inbox when the core ends, also by a panic: whoever waits for room in it must learn of that.
struct Closed(Inbox);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Who halted acting as the audit has it: `None` where its last word is a release, or where the switch was thrown anew
/// since. The last word is looked for among the newest lines; where it is not, a halt is put on record once more.
fn halted_on_record(store: &Store, switch: Option<&Halt>) -> Result<Option<String>, StoreError> {
    let newest = store.reader()?.audit(&AuditFilter { after: None, limit: 0 })?;
    let last =
        newest.into_iter().map(|(_, entry)| entry).find(|entry| matches!(entry.what.as_str(), "halt" | "release"));
    let is_same = |entry: &AuditEntry| {
        switch.is_none_or(|halt| entry.actor == halt.actor && entry.detail.ends_with(&halt.reason))
    };
    Ok(last.filter(|entry| entry.what == "halt" && is_same(entry)).map(|entry| entry.actor))
}

impl Pending {
    /// Nothing of this was stored and nothing will be: this process stops.
    fn refuse(self, error: &StoreError) {
        let error = CoreError::Store(error.to_string());
        answer(self.attached.into_iter().map(|(reply, _)| (reply, Err(error.clone()))).collect());
        answer(self.done.into_iter().map(|(reply, _)| (reply, Err(error.clone()))).collect());
        answer(self.judged.into_iter().map(|(reply, _)| (reply, Err(error.clone().into()))).collect());
        answer(self.released.into_iter().map(|(reply, _)| (reply, Err(error.clone().into()))).collect());
    }
}

fn answer<T, E>(replies: Vec<Reply<T, E>>) {
    for (reply, result) in replies {
        // Whoever asked may have gone.
        let _ = reply.send(result);
    }
}

/// Answers requests for a while in which nothing can be stored. Returns the reply of one who asked to stop.
async fn refuse(
    requests: &mut mpsc::Receiver<Request>,
    error: &StoreError,
    deferred: &mut Vec<Request>,
) -> Option<oneshot::Sender<()>> {
    let until = tokio::time::Instant::now() + RETRY;
    let error = CoreError::Store(error.to_string());
    while let Ok(request) = timeout(until - tokio::time::Instant::now(), requests.recv()).await {
        match request? {
            Request::Attach { reply, .. } => drop(reply.send(Err(error.clone()))),
            Request::Verdict { reply, .. } => drop(reply.send(Err(error.clone().into()))),
            Request::Release { reply, .. } => drop(reply.send(Err(error.clone().into()))),
            Request::Halted { reply, .. }
            | Request::Observed { reply, .. }
            | Request::Note { reply, .. }
            | Request::Sending { reply, .. }
            | Request::Finished { reply, .. }
            | Request::Reconfigure { reply, .. } => drop(reply.send(Err(error.clone()))),
            // Of each connection the last, and before its end.
            told @ Request::Inventory { .. } => {
                let of = |request: &Request| match request {
                    Request::Inventory { link, .. } => Some(link.generation),
                    _ => None,
                };
                let generation = of(&told);
                deferred.retain(|earlier| of(earlier) != generation);
                deferred.push(told);
            }
            // Nothing that must not be lost: both are told again.
            Request::TurnedAway { .. } | Request::LossExplained { .. } => {}
            Request::Map { changes } => defer_map(deferred, changes),
            // Bounded by the hosts that are connected: none can attach meanwhile.
            ended @ Request::Detach { .. } => deferred.push(ended),
            Request::Stop { reply } => return Some(reply),
        }
    }
    None
}

/// Changes of the map wait in one request. Beyond the bound of each fact the last alone is kept: facts are bounded by the map's own.
fn defer_map(deferred: &mut Vec<Request>, changes: Vec<MapChange>) {
    const WAITING_MAX: usize = 100_000;
    let waiting = deferred.iter_mut().find_map(|request| match request {
        Request::Map { changes } => Some(changes),
        _ => None,
    });
    let Some(waiting) = waiting else { return deferred.push(Request::Map { changes }) };
    waiting.extend(changes);
    if waiting.len() > WAITING_MAX {
        let mut seen = std::collections::HashSet::new();
        let is_last: Vec<bool> = waiting.iter().rev().map(|change| seen.insert(change.fact.clone())).collect();
        let mut is_last = is_last.into_iter().rev();
        waiting.retain(|_| is_last.next().unwrap_or(true));
    }
}

/// Of each incident and decision only the last state, in its place; and nothing that is of no interest outside.
fn last_states(effects: Vec<Effect>) -> Vec<Effect> {
    let mut seen = std::collections::BTreeSet::new();
    let mut kept: Vec<Effect> = effects
        .into_iter()
        .rev()
        .filter(|effect| match effect {
            Effect::Incident(incident) => seen.insert((false, incident.id)),
            Effect::Decision(decision) => seen.insert((true, decision.id)),
            Effect::Order(_) | Effect::Audit(_) => true,
            Effect::Joined { .. } | Effect::Cancel { .. } => false,
        })
        .collect();
    kept.reverse();
    kept
}
