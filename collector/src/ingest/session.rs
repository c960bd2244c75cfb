//! One stream of one host, from its Hello to its end.
//!
//! In: messages of an identified agent. Out: signals and sequences to the core, windows and state to live state,
//! acknowledgements and clock probes to the agent. A frame that cannot be taken is counted and acknowledged with the
//! rest, so that it does not stand before its stream for ever. Never: an acknowledgement of what the core has not stored.

use super::{
    Shared, hello,
    mapping::{self, Newest},
    probes::{self, Probes},
    refusal::Refusal,
    sequence::{Order, Sequence},
    streams::Place,
    validate,
};
use crate::{
    clock::{Estimate, Timeline},
    core::{Attachment, StreamEnd},
    directives::{Sent, WAITING_MAX},
    inventory,
    live::{HostCell, rows::Change},
    map::{News, Reports},
    metrics::{KindLabel, ReasonLabel},
    tape::Ask,
    traces::{self, TraceAsk},
};
use railwatch_engine::{EndedBy, Timestamp};
use railwatch_pki::{Caller, PeerIdentity, PeerKernel};
use railwatch_store::{Frame, FrameBody};
use railwatch_wire::v1::{self, agent_message::Body, collector_message::Body as Answer};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tonic::{Status, Streaming};

/// Answers that wait for an agent that reads slowly; then its stream waits too.
pub(super) const ANSWERS_QUEUED_MAX: usize = 64;
/// An agent that opened a stream says hello within this.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// An agent that does not read its answers for so long is cut off.
const ANSWER_TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// An agent that has said nothing for so long reads nothing either.
const UNREAD_AFTER: Duration = Duration::from_secs(3);
/// Frames kept back until the first clock exchange is done, and for how long.
const HELD_MAX: usize = 1024;
const HELD_LONGEST: Duration = Duration::from_secs(2);
/// What an instant may be wrong by while nothing but the arrival of frames tells the host's clock.
const ONE_WAY_UNCERTAINTY_NS: u64 = 10_000_000_000;
/// A measured acknowledgement at a time; further frames are not measured until it is done.
type Measured = Option<(u64, Instant)>;

/// Why a stream ends.
enum End {
    /// The agent closed it.
    Orderly,
    /// The agent or the network broke it.
    Broken,
    /// The collector turns the agent away.
    Rejected(v1::Reject),
    /// The collector ends the call with this.
    Failed(Status),
}

/// Sends answers to the agent.
struct Answers(mpsc::Sender<Result<v1::CollectorMessage, Status>>);

impl Answers {
    /// Nothing waits to be sent.
    fn is_idle(&self) -> bool {
        self.0.capacity() == self.0.max_capacity()
    }

    async fn send(&self, body: Answer) -> Result<(), End> {
        let message = v1::CollectorMessage { body: Some(body) };
        match timeout(ANSWER_TAKEN_WITHIN, self.0.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Broken),
            Err(_) => Err(End::Failed(Status::deadline_exceeded("the agent does not read its answers"))),
        }
    }
}

/// Serves one stream to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    Caller { identity: peer, kernel }: Caller,
    mut inbound: Streaming<v1::AgentMessage>,
    answers: mpsc::Sender<Result<v1::CollectorMessage, Status>>,
) {
    let answers = Answers(answers);
    let end = opened(&shared, &peer, &kernel, &mut inbound, &answers).await;
    let host = peer.host.as_str();
    match end {
        End::Orderly | End::Broken => tracing::debug!(host, address = %peer.address, "stream ended"),
        End::Rejected(reject) => {
            let reason = reject_label(&reject);
            tracing::warn!(host, address = %peer.address, reason, "agent turned away: {}", reject.message);
            shared.counters.rejected_streams.get_or_create(&ReasonLabel { reason }).inc();
            let _ = answers.send(Answer::Reject(reject)).await;
        }
        End::Failed(status) => {
            tracing::warn!(host, address = %peer.address, code = ?status.code(), "stream ended by the collector: {}", status.message());
            let _ = timeout(ANSWER_TAKEN_WITHIN, answers.0.send(Err(status))).await;
        }
    }
}

fn reject_label(reject: &v1::Reject) -> &'static str {
    match reject.reason() {
        v1::reject::Reason::Unspecified => "unspecified",
        v1::reject::Reason::ProtocolVersion => "protocol_version",
        v1::reject::Reason::HostName => "host_name",
        v1::reject::Reason::Revoked => "revoked",
        v1::reject::Reason::Malformed => "malformed",
        v1::reject::Reason::Overloaded => "overloaded",
        v1::reject::Reason::Superseded => "superseded",
    }
}

fn revoked(peer: &PeerIdentity) -> v1::Reject {
    v1::Reject {
        reason: v1::reject::Reason::Revoked.into(),
        message: format!("certificate {} of host {} is revoked: issue a new one", peer.serial, peer.host.as_str()),
        retry_after_ms: 60_000,
    }
}

/// What a message that cannot be read does to its stream: the framing is lost, so the stream ends and says why.
fn unreadable(shared: &Shared, status: &Status) -> End {
    let reason = match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => "oversized",
        tonic::Code::Internal => "malformed",
        // The agent or the network broke the call; nothing was sent that could not be read.
        _ => return End::Broken,
    };
    if reason == "malformed"
        && !status.message().contains("decode")
        && !status.message().contains("EOF")
        && !status.message().contains("compress")
    {
        return End::Broken;
    }
    shared.counters.unreadable.get_or_create(&ReasonLabel { reason }).inc();
    let limit = railwatch_wire::limits::MESSAGE_BYTES_MAX;
    End::Failed(match reason {
        "oversized" => Status::out_of_range(format!("a message is larger than {limit} bytes: {}", status.message())),
        _ => Status::invalid_argument(format!("a message cannot be decoded: {}", status.message())),
    })
}

async fn opened(
    shared: &Arc<Shared>,
    peer: &PeerIdentity,
    kernel: &PeerKernel,
    inbound: &mut Streaming<v1::AgentMessage>,
    answers: &Answers,
) -> End {
    let malformed = |message: &str| {
        End::Rejected(v1::Reject {
            reason: v1::reject::Reason::Malformed.into(),
            message: message.to_owned(),
            retry_after_ms: 60_000,
        })
    };
    if shared.credentials.is_revoked(peer) {
        return End::Rejected(revoked(peer));
    }
    let hello = match timeout(HELLO_WITHIN, inbound.message()).await {
        Err(_) => return malformed("no Hello within 10 s of opening the stream"),
        Ok(Err(status)) => return unreadable(shared, &status),
        Ok(Ok(None)) => return End::Orderly,
        Ok(Ok(Some(v1::AgentMessage { body: Some(Body::Hello(hello)) }))) => hello,
        Ok(Ok(Some(_))) => return malformed("the first message of a stream must be Hello"),
    };
    let accepted = match hello::judge(&hello, peer.host.as_str()) {
        Ok(accepted) => accepted,
        Err(reject) => return End::Rejected(reject),
    };
    let host: Arc<str> = peer.host.as_str().into();
    let place = match shared.streams.claim(&host, || shared.core.overload().turns_away()) {
        Ok(place) => place,
        Err(reject) => {
            shared.core.turned_away(&host, reject.retry_after_ms);
            return End::Rejected(reject);
        }
    };
    let (stream, first) = (accepted.stream_id, hello.first_sequence);
    let attached = shared.core.attach(&host, &hello.boot_id, stream, first, kernel.clone()).await;
    let core = match attached {
        Ok(core) => core,
        Err(error) => {
            return End::Failed(Status::unavailable(format!("the collector cannot take streams now: {error}")));
        }
    };
    let acknowledged = core.acknowledged();
    let through = *acknowledged.borrow();
    let welcome = v1::Welcome {
        protocol_version: accepted.protocol_version,
        collector_version: env!("CARGO_PKG_VERSION").to_owned(),
        acknowledged_through: through,
        collector_epoch: core.epoch(),
    };
    shared.counters.streams_opened.inc();
    tracing::info!(
        host = &*host,
        address = %peer.address,
        agent = hello.agent_version,
        acknowledged_through = through,
        spool_first = hello.first_sequence,
        spool_next = hello.next_sequence,
        "stream opened"
    );
    let mut session = Session {
        sequence: Sequence::after(through, hello.first_sequence),
        cell: shared.live.open(&host, hello, place.generation()),
        shared: Arc::clone(shared),
        answers,
        core,
        submitted: through,
        acknowledged: through,
        newest: Newest::default(),
        probes: Probes::default(),
        held: VecDeque::new(),
        one_way: None,
        measured: None,
        asked: HashMap::new(),
        directed: HashMap::new(),
        traced: HashMap::new(),
        host: Arc::clone(&host),
    };
    session.cell.lock().kernel = kernel.clone();
    shared.live.announce(Change::HostConnected { host: host.to_string() });
    let end = match answers.send(Answer::Welcome(welcome)).await {
        Ok(()) => {
            let asked = Asked {
                asks: shared.tapes.open(&host, place.generation()),
                directives: shared.directives.open(&host, place.generation()),
                plans: shared.probes.open(&host, place.generation(), peer.address.ip()),
                traces: shared.map.traces().open(&host, place.generation()),
            };
            session.run(inbound, peer, place.end(), acknowledged, asked).await
        }
        Err(end) => end,
    };
    shared.counters.streams_closed.inc();
    let ended = match end {
        End::Orderly => StreamEnd::Orderly,
        End::Rejected(_) | End::Failed(_) => StreamEnd::Broken(EndedBy::Collector),
        End::Broken if kernel.is_given_up() => StreamEnd::Broken(EndedBy::Network),
        End::Broken => StreamEnd::Broken(EndedBy::Host),
    };
    session.closed(&place, ended).await;
    end
}

/// Waits until a reason to end is given. The sender says one before it goes, so its going alone says nothing.
async fn given(lost: &mut watch::Receiver<Option<v1::Reject>>) -> v1::Reject {
    let reason = lost.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    match reason {
        Some(reject) => reject,
        None => std::future::pending().await,
    }
}

struct Session<'a> {
    shared: Arc<Shared>,
    answers: &'a Answers,
    host: Arc<str>,
    cell: Arc<HostCell>,
    core: Attachment,
    sequence: Sequence,
    /// The last sequence given to the core, and the last acknowledged to the agent.
    submitted: u64,
    acknowledged: u64,
    newest: Newest,
    probes: Probes,
    /// Frames that came before the host's clock was known.
    held: VecDeque<v1::Frame>,
    /// What stands in for the clock of an agent that does not answer probes.
    one_way: Option<Estimate>,
    measured: Measured,
    /// Who waits for pieces of the tape, by the identifier of the request.
    asked: HashMap<u64, mpsc::Sender<v1::TapePiece>>,
    /// Who waits for the result of a directive, by its identifier.
    directed: HashMap<String, oneshot::Sender<v1::DirectiveResult>>,
    /// Who waits for a trace, by the identifier of the request.
    traced: HashMap<u64, oneshot::Sender<v1::TraceResult>>,
}

/// What others want of the host.
struct Asked {
    asks: mpsc::Receiver<Ask>,
    directives: mpsc::Receiver<Sent>,
    plans: watch::Receiver<Arc<v1::ProbePlan>>,
    traces: mpsc::Receiver<TraceAsk>,
}

impl Session<'_> {
    async fn run(
        &mut self,
        inbound: &mut Streaming<v1::AgentMessage>,
        peer: &PeerIdentity,
        mut lost: watch::Receiver<Option<v1::Reject>>,
        mut acknowledged: watch::Receiver<u64>,
        mut asked: Asked,
    ) -> End {
        let shared = Arc::clone(&self.shared);
        let mut credentials = shared.credentials.generation();
        let expiry = peer.not_after.duration_since(std::time::SystemTime::now()).unwrap_or_default();
        let expired = tokio::time::sleep(expiry);
        tokio::pin!(expired);
        let probe_due = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(probe_due);
        let held_longest = tokio::time::sleep(HELD_LONGEST);
        tokio::pin!(held_longest);
        let end: Result<(), End> = loop {
            let step = tokio::select! {
                biased;
                reject = given(&mut lost) => Err(End::Rejected(reject)),
                () = shared.stop.cancelled() => Err(End::Failed(Status::unavailable("the collector stops: come back in a moment"))),
                Ok(()) = credentials.changed() => {
                    if shared.credentials.is_revoked(peer) { Err(End::Rejected(revoked(peer))) } else { Ok(()) }
                }
                () = &mut expired => Err(End::Failed(Status::unauthenticated("the agent's certificate has expired: come back with a new one"))),
                changed = acknowledged.changed() => match changed {
                    Ok(()) => { let through = *acknowledged.borrow_and_update(); self.acknowledge(through).await }
                    Err(_) => Err(End::Failed(Status::unavailable("the collector's store has stopped: nothing can be acknowledged"))),
                },
                () = &mut probe_due => {
                    probe_due.as_mut().reset(Instant::now() + probes::INTERVAL);
                    if self.reads() { self.probe().await } else { Ok(()) }
                }
                () = self.core.prodded() => if self.answers.is_idle() { self.probe().await } else { Ok(()) },
                Some(sent) = asked.directives.recv() => self.direct(sent).await,
                Some(ask) = asked.asks.recv() => self.ask(ask).await,
                Ok(()) = asked.plans.changed(), if self.reads() => {
                    let plan = v1::ProbePlan::clone(&asked.plans.borrow_and_update());
                    self.answers.send(Answer::ProbePlan(plan)).await
                }
                Some(ask) = asked.traces.recv() => self.trace(ask).await,
                () = &mut held_longest, if !self.held.is_empty() => self.release().await,
                message = inbound.message() => match message {
                    Ok(Some(message)) => self.message(message).await.map(|quick| if quick { probe_due.as_mut().reset(Instant::now()) }),
                    Ok(None) => Err(End::Orderly),
                    Err(status) => Err(unreadable(&shared, &status)),
                },
            };
            if step.is_err() {
                break step;
            }
        };
        end.err().unwrap_or(End::Broken)
    }

    /// Passes a directive on to the agent. One beyond the bound is dropped, which tells whoever waits for it.
    async fn direct(&mut self, Sent { directive, result }: Sent) -> Result<(), End> {
        self.directed.retain(|_, waiting| !waiting.is_closed());
        if self.directed.len() >= WAITING_MAX {
            return Ok(());
        }
        self.directed.insert(directive.id.clone(), result);
        self.answers.send(Answer::Directive(directive)).await
    }

    /// The result of a directive, for whoever waits for it still.
    fn directed(&mut self, result: v1::DirectiveResult) {
        if let Some(waiting) = self.directed.remove(&result.id) {
            // Whoever waited may have lost patience.
            let _ = waiting.send(result);
        }
    }

    /// Passes a request for traces on to the agent. One beyond the bound is dropped, which tells whoever waits for it.
    async fn trace(&mut self, TraceAsk { request, answer }: TraceAsk) -> Result<(), End> {
        self.traced.retain(|_, waiting| !waiting.is_closed());
        if self.traced.len() >= traces::WAITING_MAX {
            return Ok(());
        }
        self.traced.insert(request.id, answer);
        self.answers.send(Answer::TraceRequest(request)).await
    }

    /// The answer to a request for traces, for whoever waits for it still.
    fn traced(&mut self, result: v1::TraceResult) {
        if let Err(refusal) = validate::trace_result(&result) {
            return self.refuse(refusal, 1);
        }
        if let Some(waiting) = self.traced.remove(&result.id) {
            // Whoever waited may have lost patience.
            let _ = waiting.send(result);
        }
    }

    /// Passes a request for the tape on to the agent. Those whose askers are gone are forgotten.
    async fn ask(&mut self, Ask { request, pieces }: Ask) -> Result<(), End> {
        self.asked.retain(|_, pieces| !pieces.is_closed());
        self.asked.insert(request.id, pieces);
        self.answers.send(Answer::TapeRequest(request)).await
    }

    /// A piece for whoever asked. One that comes after its asker lost patience is for nobody.
    fn piece(&mut self, piece: v1::TapePiece) {
        let id = piece.id;
        let is_last = piece.last;
        let is_taken = self.asked.get(&id).is_some_and(|pieces| pieces.try_send(piece).is_ok());
        if is_last || !is_taken {
            // More pieces than were asked for find no place: whoever waits learns that by the end of the channel.
            self.asked.remove(&id);
        }
    }

    async fn closed(self, place: &Place, end: StreamEnd) {
        place.give_back();
        self.shared.tapes.close(&self.host, place.generation());
        self.shared.directives.close(&self.host, place.generation());
        self.shared.probes.close(&self.host, place.generation());
        self.shared.map.traces().close(&self.host, place.generation());
        if self.cell.lock().closed(place.generation()) {
            self.shared.map.gone(&self.host, Timeline::now());
            self.shared.live.announce(Change::HostDisconnected { host: self.host.to_string() });
        }
        self.core.detach(end).await;
    }

    /// The agent runs, as far as is known: what is sent to one that does not fills the buffers on the way, behind which its kernel cannot
    /// be asked any more.
    fn reads(&self) -> bool {
        self.core.late_by() < UNREAD_AFTER
    }

    async fn probe(&mut self) -> Result<(), End> {
        let probe = self.probes.next(Timeline::now());
        self.answers.send(Answer::ClockProbe(probe)).await
    }

    async fn acknowledge(&mut self, through: u64) -> Result<(), End> {
        if through <= self.acknowledged {
            return Ok(());
        }
        self.shared.counters.frames_acknowledged.inc_by(through.min(self.submitted).saturating_sub(self.acknowledged));
        self.acknowledged = through;
        if let Some((_, since)) = self.measured.take_if(|(sequence, _)| *sequence <= through) {
            self.shared.counters.acknowledge_seconds.observe(since.elapsed().as_secs_f64());
        }
        self.answers.send(Answer::Ack(v1::Ack { through_sequence: through })).await
    }

    fn refuse(&self, refusal: Refusal, count: u64) {
        if count > 0 {
            self.shared.counters.refuse(refusal.label(), count);
            self.cell.lock().rejected(refusal.label(), count);
        }
    }

    /// Takes a message. Returns true when the next clock probe should go at once.
    async fn message(&mut self, message: v1::AgentMessage) -> Result<bool, End> {
        let now = Timeline::now();
        self.cell.lock().last_seen = now;
        self.core.heard();
        match message.body {
            Some(Body::Frame(frame)) => self.frame(frame, now).await?,
            Some(Body::Definitions(definitions)) => self.definitions(definitions, now),
            Some(Body::Snapshot(snapshot)) => self.snapshot(snapshot).await?,
            Some(Body::ClockReply(reply)) => return self.clock_reply(&reply, now).await,
            Some(Body::DirectiveResult(result)) => self.directed(result),
            Some(Body::TapePiece(piece)) => self.piece(piece),
            Some(Body::Hello(_)) => self.refuse(Refusal::HelloAgain, 1),
            Some(Body::ProbeResults(results)) => match validate::probe_results(&results) {
                Ok(()) => self.shared.probes.results(&self.host, &results, now),
                Err(refusal) => self.refuse(refusal, 1),
            },
            Some(Body::TraceResult(result)) => self.traced(result),
            None => self.refuse(Refusal::Empty, 1),
        }
        Ok(false)
    }

    fn definitions(&self, definitions: v1::Definitions, now: Timestamp) {
        let mut refused: BTreeMap<Refusal, u64> = BTreeMap::new();
        let shared = self.shared.live.definitions();
        {
            let mut host = self.cell.lock();
            for definition in definitions.series {
                let id = definition.id;
                let taken = validate::definition(&definition).and_then(|()| {
                    host.series.define(id, now, || shared.share(definition)).map_err(|_| Refusal::SeriesLimit)
                });
                if let Err(refusal) = taken {
                    *refused.entry(refusal).or_default() += 1;
                }
            }
        }
        for (refusal, count) in refused {
            self.refuse(refusal, count);
        }
    }

    async fn snapshot(&self, mut snapshot: v1::Snapshot) -> Result<(), End> {
        if let Err(refusal) = validate::snapshot(&snapshot) {
            self.refuse(refusal, 1);
            return Ok(());
        }
        if let Some(inventory) = snapshot.inventory.take() {
            self.cell.lock().inventory = self.shared.live.inventories().share(&inventory);
            // An agent that has not read it yet, or does not, has nothing to say about what was there before.
            let has_some = !inventory.items.is_empty();
            let stopping = |error| End::Failed(Status::unavailable(format!("the inventory is not taken: {error}")));
            if has_some {
                self.core.inventory(inventory::stored(inventory)).await.map_err(stopping)?;
            }
        }
        let news = News {
            itself: !snapshot.ports.is_empty()
                || snapshot.no_ports
                || !snapshot.modules.is_empty()
                || snapshot.no_modules
                || snapshot.placement.is_some(),
            peers: snapshot.peers.is_some(),
        };
        let is_placed = snapshot.placement.is_some();
        let (gpu_changed, ports) = {
            let mut host = self.cell.lock();
            if !snapshot.sources.is_empty() {
                host.told_at = Timeline::now();
            }
            let changes = host.take(snapshot);
            // Of an older stream nothing is said any more: a newer one took its place.
            if (news.itself || news.peers) && host.connected {
                self.shared.map.host(&host, news, Timeline::now());
            }
            changes
        };
        if is_placed {
            self.shared.probes.placed();
        }
        if gpu_changed {
            self.shared.live.announce(Change::Gpu { host: self.host.to_string() });
        }
        for (port, state) in ports {
            self.shared.live.announce(Change::Port { host: self.host.to_string(), port, state });
        }
        Ok(())
    }

    async fn clock_reply(&mut self, reply: &v1::ClockReply, now: Timestamp) -> Result<bool, End> {
        let observed = self.probes.answered(reply, now).and_then(|exchange| self.cell.lock().clock.observe(exchange));
        match observed {
            Err(_) => self.refuse(Refusal::ClockReply, 1),
            Ok(step) => {
                if let Some(step_ns) = step {
                    tracing::warn!(
                        host = &*self.host,
                        step_us = step_ns / 1000,
                        "the host's CLOCK_REALTIME was stepped; nothing here rests on it"
                    );
                    self.shared
                        .live
                        .announce(Change::HostClockStepped { host: self.host.to_string(), step_us: step_ns / 1000 });
                }
                self.release().await?;
            }
        }
        Ok(self.probes.is_quick())
    }

    fn clock(&self, now: Timestamp) -> Option<Estimate> {
        self.cell.lock().clock.estimate(now).or(self.one_way)
    }

    async fn frame(&mut self, frame: v1::Frame, now: Timestamp) -> Result<(), End> {
        if !self.held.is_empty() || self.clock(now).is_none() {
            self.held.push_back(frame);
            return if self.held.len() < HELD_MAX { Ok(()) } else { self.release().await };
        }
        self.take(frame, now).await
    }

    /// Takes the frames kept back. Without a clock exchange by now, the newest of them stands for the present.
    async fn release(&mut self) -> Result<(), End> {
        let now = Timeline::now();
        if self.clock(now).is_none() {
            let newest = self.held.iter().map(stamp).max().unwrap_or(0);
            tracing::warn!(
                host = &*self.host,
                "the agent answers no clock probe: its instants are known to within 10 s only"
            );
            self.one_way = Some(Estimate {
                offset_ns: now.0.wrapping_sub(newest).cast_signed(),
                uncertainty_ns: ONE_WAY_UNCERTAINTY_NS,
            });
        }
        while let Some(frame) = self.held.pop_front() {
            self.take(frame, now).await?;
        }
        Ok(())
    }

    async fn take(&mut self, frame: v1::Frame, now: Timestamp) -> Result<(), End> {
        if frame.sequence == 0 {
            self.refuse(Refusal::SequenceZero, 1);
            return Ok(());
        }
        match self.sequence.observe(frame.sequence, frame.skipped_signals.saturating_add(frame.skipped_windows)) {
            Order::Replay => {
                self.refuse(Refusal::Replayed, 1);
                return Ok(());
            }
            Order::Next { missing } => {
                self.shared.counters.missing.inc_by(missing);
                for (kind, count) in [("signal", frame.skipped_signals), ("windows", frame.skipped_windows)] {
                    if count > 0 {
                        self.shared.counters.skipped.get_or_create(&KindLabel { kind }).inc_by(count);
                    }
                }
                if missing > 0 {
                    tracing::warn!(
                        host = &*self.host,
                        sequence = frame.sequence,
                        missing,
                        "frames are missing from the stream without explanation"
                    );
                }
            }
        }
        let v1::Frame { sequence, skipped_signals, skipped_windows, body } = frame;
        let body = self.body(body, now).unwrap_or_else(|refusal| {
            self.refuse(refusal, 1);
            FrameBody::Refused
        });
        self.shared.counters.frames_submitted.inc();
        self.submitted = sequence;
        self.measured.get_or_insert_with(|| (sequence, Instant::now()));
        self.core.submit(Frame { sequence, skipped_signals, skipped_windows, body }).await.map_err(|error| {
            End::Failed(Status::unavailable(format!("the collector cannot store frames now: {error}")))
        })
    }

    /// Takes what is in a frame; a signal is for the core, windows are for live state.
    fn body(&mut self, body: Option<v1::frame::Body>, now: Timestamp) -> Result<FrameBody, Refusal> {
        let clock = self.clock(now).unwrap_or(Estimate { offset_ns: 0, uncertainty_ns: ONE_WAY_UNCERTAINTY_NS });
        match body.ok_or(Refusal::Empty)? {
            v1::frame::Body::Signal(signal) => {
                validate::signal(&signal)?;
                let observed = self.newest.signal(signal.observed_mono_ns, &clock, now)?;
                self.shared.counters.signals.inc();
                self.shared.probes.signal(&self.host, &signal, now);
                Ok(FrameBody::Signal(mapping::signal(&self.host, signal, observed, &clock)))
            }
            v1::frame::Body::Windows(windows) => {
                validate::windows(&windows)?;
                if self.shared.core.overload().sheds_windows() {
                    return Err(Refusal::Overloaded);
                }
                let end = self.newest.window(windows.end_mono_ns, &clock, now)?;
                let incomplete_since = windows.incomplete_since_mono_ns.map(|at| clock.map(at)).unwrap_or_default();
                let applied = self.cell.lock().series.apply(&windows, end, incomplete_since);
                self.shared.counters.windows.inc();
                self.shared.counters.samples.inc_by(applied.taken);
                self.refuse(Refusal::Undefined, applied.undefined);
                self.refuse(Refusal::NotFinite, applied.not_finite);
                Ok(FrameBody::Windows)
            }
        }
    }
}

/// The instant that a frame carries, CLOCK_MONOTONIC of its host.
fn stamp(frame: &v1::Frame) -> u64 {
    match &frame.body {
        Some(v1::frame::Body::Signal(signal)) => signal.observed_mono_ns,
        Some(v1::frame::Body::Windows(windows)) => windows.end_mono_ns,
        None => 0,
    }
}
