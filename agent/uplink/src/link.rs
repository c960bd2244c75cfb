//! One connection: dial, Hello, Welcome, then messages both ways until either side ends.
//!
//! Flows in: frames and control messages from [`crate::driver`]. Flows out: [`Event`]s. Clock probes are answered
//! here, stamped when they are decoded and when the answer is handed to HTTP/2, with nothing queued between.
//! Control messages go before frames, and a sign of life goes out when nothing else did for 200 ms: on a thread apart
//! from the driver's, so that a disk that hangs there does not make this host look dead.
//! Never: touching the spool, or dialling twice.

use crate::Target;
use crate::clock::{mono_ns, unix_ns};
use crate::directives::Docket;
use crate::probes::{ProbeDesk, ProbesLater};
use crate::tapes::{Desk, TapesLater};
use railwatch_pki::{AgentConnector, Credentials};
use railwatch_wire::limits::MESSAGE_BYTES_MAX;
use railwatch_wire::v1::uplink_client::UplinkClient;
use railwatch_wire::v1::{
    AgentMessage, ClockProbe, ClockReply, Hello, Reject, Snapshot, TapePiece, Welcome, agent_message, collector_message,
};
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::Endpoint;

/// Frames that wait for HTTP/2: a signal stands behind no more than these and what is in flight.
const FRAMES_WAITING_MAX: usize = 32;
const CONTROL_WAITING_MAX: usize = 64;
/// Between two pieces of the tape: what HTTP/2 has taken goes before a signal that comes later, and so it gets one piece
/// at a time, some tens of kilobytes, and not as many as its window holds.
const PIECE_PAUSE: Duration = Duration::from_millis(10);
/// The longest silence towards the collector, which takes more than two of them for a silent host. Each costs some 60 µs: a
/// waking, an encrypted record, a segment.
const HEARTBEAT: Duration = Duration::from_millis(200);
const WELCOME_WAIT_MAX: Duration = Duration::from_secs(5);
/// A collector that is gone without a word is noticed after the sum of both.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
const KEEPALIVE_WAIT_MAX: Duration = Duration::from_secs(2);

/// What the driver learns from a connection.
#[derive(Debug)]
pub(crate) enum Event {
    Welcomed(Welcome),
    Rejected(Reject),
    Acknowledged(u64),
    /// The last event of a connection.
    Ended(String),
}

/// The driver's ends of a connection's queues. Dropping them is the goodbye.
pub(crate) struct Link {
    pub frames: mpsc::Sender<AgentMessage>,
    pub control: mpsc::Sender<AgentMessage>,
    pub events: mpsc::Receiver<Event>,
    /// What may go behind all frames.
    pub results: mpsc::Sender<AgentMessage>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Begins to dial.
    pub fn dial(
        target: Target,
        credentials: Arc<Credentials>,
        hello: Hello,
        tapes: TapesLater,
        probes: Arc<ProbesLater>,
        docket: Arc<Docket>,
    ) -> Self {
        let (frames, frames_out) = mpsc::channel(FRAMES_WAITING_MAX);
        let (control, control_out) = mpsc::channel(CONTROL_WAITING_MAX);
        let (report, events) = mpsc::channel(256);
        let (desk, pieces_out) = Desk::open(tapes);
        let (probe_desk, results, results_out) = ProbeDesk::open(probes);
        let outgoing = Outgoing {
            hello: Some(message(agent_message::Body::Hello(hello))),
            control: Some(control_out),
            frames: Some(frames_out),
            results: results_out,
            pieces: pieces_out,
            pause: Box::pin(sleep(Duration::ZERO)),
            heartbeat: Box::pin(sleep(HEARTBEAT)),
        };
        let answers = control.downgrade();
        let task = tokio::spawn(async move {
            let why = match AgentConnector::new(&target.address, &target.server_name, credentials) {
                Err(error) => error.to_string(),
                Ok(connector) => {
                    match converse(connector.clone(), outgoing, answers, (&desk, &probe_desk), &docket, &report).await {
                        Ok(()) => "the collector ended the stream".to_owned(),
                        // TLS knows better than HTTP/2 why a connection was closed.
                        Err(why) => connector.refusal().unwrap_or(why),
                    }
                }
            };
            let _ = report.send(Event::Ended(why)).await;
        });
        Self { frames, control, events, results, task }
    }

    /// Says goodbye: the stream's end goes out after what is queued. What still comes in can be read.
    pub fn goodbye(self) -> (mpsc::Receiver<Event>, tokio::task::JoinHandle<()>) {
        (self.events, self.task)
    }

    /// Says goodbye and leaves the rest to itself, for `linger` at most.
    pub fn goodbye_unattended(self, linger: Duration) {
        let (mut events, mut task) = self.goodbye();
        tokio::spawn(async move {
            let ended = async {
                while events.recv().await.is_some() {}
                let _ = (&mut task).await;
            };
            if tokio::time::timeout(linger, ended).await.is_err() {
                task.abort();
            }
        });
    }

    /// Cuts the connection.
    pub fn cut(self) {
        self.task.abort();
    }
}

pub(crate) fn message(body: agent_message::Body) -> AgentMessage {
    AgentMessage { body: Some(body) }
}

async fn converse(
    connector: AgentConnector,
    outgoing: Outgoing,
    answers: mpsc::WeakSender<AgentMessage>,
    (desk, probe_desk): (&Desk, &ProbeDesk),
    docket: &Docket,
    report: &mpsc::Sender<Event>,
) -> Result<(), String> {
    // The connector does TLS and knows the address; tonic wants a URI for its headers.
    let channel = Endpoint::from_static("http://railwatch.uplink")
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_WAIT_MAX)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| innermost(&error))?;
    let mut client = UplinkClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let opening = async {
        let mut incoming = client.attach(outgoing).await.map_err(|status| explain(&status))?.into_inner();
        let first = incoming.message().await.map_err(|status| explain(&status))?;
        Ok::<_, String>((incoming, first))
    };
    let (mut incoming, first) = tokio::time::timeout(WELCOME_WAIT_MAX, opening)
        .await
        .map_err(|_| "the collector gave no Welcome within 5 s".to_owned())??;
    match first.and_then(|first| first.body) {
        Some(collector_message::Body::Welcome(welcome)) => {
            docket.heard(welcome.collector_epoch);
            let _ = report.send(Event::Welcomed(welcome)).await;
        }
        Some(collector_message::Body::Reject(reject)) => {
            let why = reject.message.clone();
            let _ = report.send(Event::Rejected(reject)).await;
            return Err(format!("the collector rejected this agent: {why}"));
        }
        other => return Err(format!("the collector answered Hello with {other:?} in place of Welcome or Reject")),
    }
    while let Some(received) = incoming.message().await.map_err(|status| explain(&status))? {
        match received.body {
            Some(collector_message::Body::Ack(ack)) => {
                let _ = report.send(Event::Acknowledged(ack.through_sequence)).await;
            }
            Some(collector_message::Body::ClockProbe(ClockProbe { id })) => {
                let reply =
                    ClockReply { id, received_mono_ns: mono_ns(), received_unix_ns: unix_ns(), ..Default::default() };
                // A probe whose answer finds no place would be answered late, and mislead: leave it out.
                answer(&answers, agent_message::Body::ClockReply(reply));
            }
            Some(collector_message::Body::Directive(directive)) => {
                answer(&answers, agent_message::Body::DirectiveResult(docket.take(&directive)));
            }
            Some(collector_message::Body::TapeRequest(request)) => desk.ask(request),
            Some(collector_message::Body::Reject(reject)) => {
                let why = reject.message.clone();
                let _ = report.send(Event::Rejected(reject)).await;
                return Err(format!("the collector ended the stream: {why}"));
            }
            Some(collector_message::Body::ProbePlan(plan)) => probe_desk.plan(plan, docket),
            Some(collector_message::Body::TraceRequest(request)) => probe_desk.trace(request),
            // A second Welcome says nothing new; a body this version does not know is for a later one.
            Some(collector_message::Body::Welcome(_)) | None => {}
        }
    }
    Ok(())
}

fn answer(answers: &mpsc::WeakSender<AgentMessage>, body: agent_message::Body) {
    if let Some(answers) = answers.upgrade() {
        let _ = answers.try_send(message(body));
    }
}

fn explain(status: &tonic::Status) -> String {
    match status.source() {
        Some(source) => format!("the stream failed: {}", innermost(source)),
        None => format!("the collector ended the stream: {:?}: {}", status.code(), status.message()),
    }
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        // Below a dial's own words the system's would only repeat them.
        if error.is::<railwatch_pki::DialError>() {
            break;
        }
        error = source;
    }
    error.to_string()
}

/// What goes out: Hello, then control before frames before results of probes before pieces of the tape, and signs of life. Ends when the driver dropped both queues.
struct Outgoing {
    hello: Option<AgentMessage>,
    control: Option<mpsc::Receiver<AgentMessage>>,
    frames: Option<mpsc::Receiver<AgentMessage>>,
    results: mpsc::Receiver<AgentMessage>,
    pieces: mpsc::Receiver<TapePiece>,
    /// Over when the next result or piece may go.
    pause: Pin<Box<Sleep>>,
    heartbeat: Pin<Box<Sleep>>,
}

impl Stream for Outgoing {
    type Item = AgentMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AgentMessage>> {
        let this = &mut *self;
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(hello));
        }
        for queue in [&mut this.control, &mut this.frames] {
            let Some(receiver) = queue else { continue };
            match receiver.poll_recv(cx) {
                Poll::Ready(Some(mut message)) => {
                    if let Some(agent_message::Body::ClockReply(reply)) = &mut message.body {
                        (reply.sent_mono_ns, reply.sent_unix_ns) = (mono_ns(), unix_ns());
                    }
                    this.heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
                    return Poll::Ready(Some(message));
                }
                Poll::Ready(None) => *queue = None,
                Poll::Pending => {}
            }
        }
        if this.control.is_none() && this.frames.is_none() {
            return Poll::Ready(None);
        }
        let may_go = this.pause.is_elapsed() || this.pause.as_mut().poll(cx).is_ready();
        let result = match may_go.then(|| this.results.poll_recv(cx)) {
            Some(Poll::Ready(result)) => result,
            _ => None,
        };
        let behind = result.or_else(|| match may_go.then(|| this.pieces.poll_recv(cx)) {
            Some(Poll::Ready(piece)) => piece.map(|piece| message(agent_message::Body::TapePiece(piece))),
            _ => None,
        });
        if let Some(behind) = behind {
            this.pause.as_mut().reset(Instant::now() + PIECE_PAUSE);
            this.heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
            return Poll::Ready(Some(behind));
        }
        match this.heartbeat.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                this.heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
                // Parts that are absent did not change: a snapshot without any says only that this host lives.
                let snapshot = Snapshot { taken_mono_ns: mono_ns(), ..Default::default() };
                Poll::Ready(Some(message(agent_message::Body::Snapshot(snapshot))))
            }
        }
    }
}
