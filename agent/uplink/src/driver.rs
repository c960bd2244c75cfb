//! The uplink's one loop: takes what threads hand over into the spool, keeps a connection, feeds it from the spool,
//! and lets go of what the collector has stored.
//!
//! Never: sending a frame that is not in the spool, or waiting for anything but the next event.

use crate::backoff::{Backoff, PERMANENT};
use crate::handle::{Handed, Shared, UplinkState};
use crate::link::{Event, Link, message};
use crate::spool::Spool;
use crate::sync::Syncer;
use crate::{Control, UplinkOptions};
use railwatch_pki::Credentials;
use railwatch_wire::PROTOCOL_VERSIONS;
use railwatch_wire::v1::{
    AgentMessage, Definitions, Frame, Hello, ProbeResults, Reject, Welcome, Windows, agent_message, frame,
};
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Signals and the journal reach the disk within this.
const SYNC_SIGNALS: Duration = Duration::from_millis(50);
/// Windows reach the disk within this.
const SYNC_WINDOWS: Duration = Duration::from_secs(5);
/// A connection that stood this long resets the backoff.
const STOOD: Duration = Duration::from_secs(5);
/// How long a goodbye waits for acknowledgements, and for the collector's own goodbye.
const LINGER: Duration = Duration::from_secs(1);
/// Taken from a queue at once, so that acknowledgements are not held up.
const BATCH: usize = 64;
/// Files that wait for the background sync.
const UNSYNCED_MAX: usize = 64;
/// Definitions in one message: far below the largest message.
const DEFINITIONS_AT_ONCE: usize = 1000;
/// Frames whose acknowledgement is timed at once.
const TIMED_MAX: usize = 64;

pub(crate) struct Driver {
    pub options: UplinkOptions,
    pub shared: Arc<Shared>,
    pub spool: Spool,
    pub syncer: Syncer,
    pub control: watch::Receiver<Control>,
    pub backoff: Backoff,
    pub credentials: Option<Arc<Credentials>>,
    pub state: UplinkState,
    /// Files that the background sync had no time for yet.
    pub unsynced: Vec<Arc<File>>,
}

/// A connection and what is known of it.
struct Session {
    link: Link,
    welcomed: Option<Instant>,
    defined: HashSet<u64>,
    /// Taken from the spool and not handed to the link yet: one frame, after the definitions it needs.
    pending: VecDeque<AgentMessage>,
    /// Sequence and instant of frames sent, to time acknowledgements; a sample, not all.
    timed: VecDeque<(u64, Instant)>,
}

enum Woken {
    Control,
    Signals(usize),
    Windows(usize),
    Event(Option<Event>),
    Room,
    Timer,
    Snapshot,
    Results(Option<ProbeResults>),
}

impl Driver {
    pub async fn run(
        mut self,
        mut signals: mpsc::Receiver<Handed>,
        mut windows: mpsc::Receiver<Windows>,
        mut results: mpsc::Receiver<ProbeResults>,
    ) {
        let mut session: Option<Session> = None;
        let mut dial_at = Instant::now();
        let mut sync_windows_at = Instant::now() + SYNC_WINDOWS;
        let mut sync_signals_at: Option<Instant> = None;
        let (mut new_signals, mut new_windows) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        loop {
            if session.is_none() && Instant::now() >= dial_at {
                match self.dial() {
                    Ok(begun) => session = Some(begun),
                    Err(why) => dial_at = Instant::now() + self.failed(&why, None),
                }
            }
            let more = session.as_mut().is_some_and(|session| self.feed(session));
            self.publish(session.as_ref().is_some_and(|session| session.welcomed.is_some()));

            let mut wake_at = sync_windows_at;
            if self.spool.signals_are_dirty() {
                wake_at = wake_at.min(*sync_signals_at.get_or_insert_with(|| Instant::now() + SYNC_SIGNALS));
            }
            if session.is_none() {
                wake_at = wake_at.min(dial_at);
            }
            let woken = {
                let (room, events, welcomed) = match &mut session {
                    Some(session) => {
                        (Some(session.link.frames.clone()), Some(&mut session.link.events), session.welcomed.is_some())
                    }
                    None => (None, None, false),
                };
                tokio::select! {
                    biased;
                    changed = self.control.changed() => match changed {
                        Ok(()) => Woken::Control,
                        Err(_) => break,
                    },
                    event = next(events) => Woken::Event(event),
                    count = signals.recv_many(&mut new_signals, BATCH) => Woken::Signals(count),
                    count = windows.recv_many(&mut new_windows, BATCH) => Woken::Windows(count),
                    () = self.shared.snapshot_came.notified(), if welcomed => Woken::Snapshot,
                    () = has_room(room), if more => Woken::Room,
                    got = results.recv() => Woken::Results(got),
                    () = sleep_until(wake_at) => Woken::Timer,
                }
            };
            match woken {
                // All queues close when the last handle is dropped.
                Woken::Signals(0) | Woken::Windows(0) | Woken::Results(None) => break,
                Woken::Signals(_) | Woken::Windows(_) => {
                    new_signals.drain(..).for_each(|(signal, receipt)| self.spool.signal(&signal, receipt));
                    new_windows.drain(..).for_each(|windows| self.spool.windows(&windows));
                }
                Woken::Control => {
                    let (stop, target) = {
                        let control = self.control.borrow_and_update();
                        (control.stop, control.target.clone())
                    };
                    if stop {
                        break;
                    }
                    if target != self.options.target {
                        tracing::info!(
                            address = target.address,
                            "the uplink is pointed at another collector or other files"
                        );
                        self.options.target = target;
                        self.credentials = None;
                        self.shared.docket.forget();
                        self.shared.probes.forget();
                        if let Some(session) = session.take() {
                            session.link.goodbye_unattended(LINGER);
                        }
                        self.backoff.reset();
                        dial_at = Instant::now();
                    }
                }
                Woken::Event(event) => {
                    let ended = match (&mut session, event) {
                        (Some(session), Some(event)) => self.heard(session, event),
                        (_, None) => Some(("the connection's task ended".to_owned(), None)),
                        (None, Some(_)) => None,
                    };
                    if let Some((why, retry)) = ended {
                        if let Some(session) = session.take() {
                            if session.welcomed.is_some_and(|since| since.elapsed() >= STOOD) {
                                self.backoff.reset();
                            }
                            session.link.cut();
                        }
                        dial_at = Instant::now() + self.failed(&why, retry);
                    }
                }
                Woken::Results(Some(results)) => self.send_results(results, session.as_ref()),
                Woken::Snapshot | Woken::Room | Woken::Timer => {}
            }
            if let Some(session) = session.as_ref().filter(|session| session.welcomed.is_some()) {
                self.send_state(session);
            }
            let now = Instant::now();
            if now >= sync_windows_at {
                self.sync(true);
                (sync_windows_at, sync_signals_at) = (now + SYNC_WINDOWS, None);
            } else if sync_signals_at.is_some_and(|at| now >= at) {
                self.sync(false);
                sync_signals_at = None;
            }
        }
        signals.close();
        windows.close();
        while let Some((signal, receipt)) = signals.recv().await {
            self.spool.signal(&signal, receipt);
        }
        while let Some(windows) = windows.recv().await {
            self.spool.windows(&windows);
        }
        if let Some(session) = session {
            self.say_goodbye(session).await;
        }
        self.publish(false);
        self.spool.close();
    }

    fn dial(&mut self) -> Result<Session, String> {
        let credentials = match &self.credentials {
            Some(credentials) => {
                if let railwatch_pki::Reload::Kept(error) = credentials.reload() {
                    tracing::error!("changed certificate files are not used, the old ones stay: {error}");
                }
                credentials.clone()
            }
            None => {
                let loaded =
                    Credentials::load(self.options.target.credentials.clone()).map_err(|error| error.to_string())?;
                self.credentials = Some(loaded.clone());
                loaded
            }
        };
        self.state.certificate_not_after = Some(credentials.not_after());
        let (first_sequence, next_sequence) = self.spool.sequences();
        let mut limitations = self.control.borrow().limitations.clone();
        limitations.extend(self.spool.limitations());
        let hello = Hello {
            protocol_min: *PROTOCOL_VERSIONS.start(),
            protocol_max: *PROTOCOL_VERSIONS.end(),
            agent_version: self.options.agent_version.clone(),
            host: self.options.host.clone(),
            boot_id: self.options.spool.boot_id.clone(),
            kernel_release: self.options.kernel_release.clone(),
            architecture: std::env::consts::ARCH.to_owned(),
            stream_id: self.spool.stream_id().to_vec(),
            first_sequence,
            next_sequence,
            limitations,
        };
        Ok(Session {
            link: Link::dial(
                self.options.target.clone(),
                credentials,
                hello,
                self.shared.tapes.clone(),
                self.shared.probes.clone(),
                self.shared.docket.clone(),
            ),
            welcomed: None,
            defined: HashSet::new(),
            pending: VecDeque::new(),
            timed: VecDeque::new(),
        })
    }

    /// Counts and logs a failure; returns how long to wait before the next dial.
    fn failed(&mut self, why: &str, retry: Option<Duration>) -> Duration {
        let wait = retry.unwrap_or_else(|| self.backoff.wait());
        self.state.failures += 1;
        if self.state.last_error.as_deref() != Some(why) {
            tracing::warn!("no collector: {why}; frames are spooled, next try in {wait:?}");
            self.state.last_error = Some(why.to_owned());
        }
        wait
    }

    /// Handles an event; returns why and for how long the connection is given up, if it is.
    fn heard(&mut self, session: &mut Session, event: Event) -> Option<(String, Option<Duration>)> {
        match event {
            Event::Welcomed(welcome) => self.welcomed(session, welcome),
            Event::Acknowledged(through) => {
                if !self.spool.acknowledge(through) {
                    return Some((format!("the collector acknowledged {through}, which was never sent"), None));
                }
                while let Some((_, sent)) = session.timed.pop_front_if(|(sequence, _)| *sequence <= through) {
                    self.state.acknowledge_ns = u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX);
                }
                None
            }
            Event::Rejected(reject) => Some(self.rejected(&reject)),
            Event::Ended(why) => Some((why, None)),
        }
    }

    fn welcomed(&mut self, session: &mut Session, welcome: Welcome) -> Option<(String, Option<Duration>)> {
        if !PROTOCOL_VERSIONS.contains(&welcome.protocol_version) {
            let why = format!(
                "the collector chose protocol version {}, this agent speaks {PROTOCOL_VERSIONS:?}: one of them must be upgraded",
                welcome.protocol_version
            );
            tracing::error!("{why}");
            return Some((why, Some(PERMANENT)));
        }
        tracing::info!(
            address = self.options.target.address,
            version = welcome.collector_version,
            acknowledged_through = welcome.acknowledged_through,
            "connected to the collector"
        );
        session.welcomed = Some(Instant::now());
        self.state.connections += 1;
        self.state.last_error = None;
        self.state.collector_version = welcome.collector_version;
        self.state.collector_epoch = welcome.collector_epoch;
        self.spool.welcome(welcome.acknowledged_through);
        let mut snapshots = self.shared.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        snapshots.changed = Some(snapshots.whole.clone());
        None
    }

    fn rejected(&mut self, reject: &Reject) -> (String, Option<Duration>) {
        let why = format!("the collector rejected this agent ({:?}): {}", reject.reason(), reject.message);
        if reject.retry_after_ms == 0 {
            tracing::error!("{why}; a person has to change something; asking again every {} s", PERMANENT.as_secs());
            let wait = PERMANENT + self.backoff.jitter(PERMANENT / 10);
            return (why, Some(wait));
        }
        let asked = Duration::from_millis(u64::from(reject.retry_after_ms));
        let wait = asked + self.backoff.jitter(asked / 4);
        (why, Some(wait))
    }

    /// Hands frames to the link while it has room. True when it has none and there is more.
    fn feed(&mut self, session: &mut Session) -> bool {
        if session.welcomed.is_none() {
            return false;
        }
        loop {
            let Ok(permit) = session.link.frames.try_reserve() else {
                return !session.link.frames.is_closed();
            };
            if session.pending.is_empty() {
                let Some(frame) = self.spool.next() else { return false };
                if let Some(frame::Body::Windows(windows)) = &frame.body {
                    let new: Vec<u64> =
                        windows.series.iter().copied().filter(|id| session.defined.insert(*id)).collect();
                    for ids in new.chunks(DEFINITIONS_AT_ONCE) {
                        let definitions = Definitions { series: self.spool.definitions(ids) };
                        session.pending.push_back(message(agent_message::Body::Definitions(definitions)));
                    }
                }
                session.pending.push_back(message(agent_message::Body::Frame(frame)));
            }
            let Some(message) = session.pending.pop_front() else { return false };
            if let Some(agent_message::Body::Frame(Frame { sequence, .. })) = &message.body
                && session.timed.len() < TIMED_MAX
            {
                session.timed.push_back((*sequence, Instant::now()));
            }
            permit.send(message);
        }
    }

    /// Sends changed state, when there is room; else it stays, and what changes meanwhile replaces it.
    fn send_state(&self, session: &Session) {
        let Ok(permit) = session.link.control.try_reserve() else { return };
        let changed = self.shared.snapshots.lock().unwrap_or_else(PoisonError::into_inner).changed.take();
        if let Some(changed) = changed {
            permit.send(message(agent_message::Body::Snapshot(changed)));
        }
    }

    /// Sends results of probes, where somebody is connected and there is room; else they are lost, as state may be.
    fn send_results(&self, results: ProbeResults, session: Option<&Session>) {
        let welcomed = session.filter(|session| session.welcomed.is_some());
        let message = message(agent_message::Body::ProbeResults(results));
        if welcomed.is_none_or(|session| session.link.results.try_send(message).is_err()) {
            self.shared.lost_probe_results.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sync(&mut self, windows: bool) {
        for file in self.spool.take_dirty(windows) {
            if !self.unsynced.iter().any(|waiting| Arc::ptr_eq(waiting, &file)) {
                self.unsynced.push(file);
            }
        }
        // A disk that hangs in fdatasync: what waits longest is left to the kernel's own write-back.
        let too_many = self.unsynced.len().saturating_sub(UNSYNCED_MAX);
        self.unsynced.drain(..too_many);
        self.state.unsynced_files += too_many as u64;
        if !self.unsynced.is_empty()
            && let Err(refused) = self.syncer.sync(std::mem::take(&mut self.unsynced))
        {
            self.unsynced = refused;
        }
    }

    fn publish(&mut self, connected: bool) {
        let refused = |counter: &std::sync::atomic::AtomicU64| counter.swap(0, Ordering::Relaxed);
        let (signals, windows) = (refused(&self.shared.refused_signals), refused(&self.shared.refused_windows));
        self.spool.refused(signals, windows);
        self.state.refused_signals += signals;
        self.state.refused_windows += windows;
        self.state.connected = connected;
        self.state.spool = self.spool.stats();
        self.state.sync_errors = self.syncer.errors();
        self.state.limitations = self.spool.limitations();
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.state);
    }

    /// Sends what is left and waits for it, then ends the stream and waits for the collector to end it too.
    async fn say_goodbye(&mut self, mut session: Session) {
        let deadline = Instant::now() + LINGER;
        while session.welcomed.is_some() {
            let more = self.feed(&mut session);
            let stats = self.spool.stats();
            if stats.in_flight + stats.waiting_signals + stats.waiting_windows == 0 {
                break;
            }
            let room = session.link.frames.clone();
            tokio::select! {
                event = session.link.events.recv() => match event {
                    Some(event) => if self.heard(&mut session, event).is_some() { return },
                    None => return,
                },
                () = has_room(Some(room)), if more => {}
                () = sleep_until(deadline) => break,
            }
        }
        let (mut events, task) = session.link.goodbye();
        let ended = async {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Acknowledged(through) => {
                        self.spool.acknowledge(through);
                    }
                    Event::Ended(_) => break,
                    Event::Welcomed(_) | Event::Rejected(_) => {}
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, ended).await;
        task.abort();
    }
}

/// The next event of the session, or never.
async fn next(events: Option<&mut mpsc::Receiver<Event>>) -> Option<Event> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

/// Until the link takes another frame; never when there is no link, or it is closing (its last event tells).
async fn has_room(frames: Option<mpsc::Sender<AgentMessage>>) {
    match frames {
        Some(frames) if frames.reserve().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
