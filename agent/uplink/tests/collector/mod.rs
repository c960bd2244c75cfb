//! A collector double: the real TLS and gRPC, a store in memory that recognises replays by (stream, sequence), and
//! the faults a test asks for. It outlives its server, as a store outlives a killed collector.
#![allow(dead_code, reason = "each test file uses its part")]

use railwatch_pki::{
    Caller, CredentialFiles, Credentials, DevelopmentCa, HandshakeLimits, HostName, LEAF_LIFE, PeerIdentity, incoming,
};
use railwatch_uplink::{SpoolOptions, Target, UplinkHandle, UplinkOptions, UplinkState};
use railwatch_wire::v1::uplink_server::{Uplink, UplinkServer};
use railwatch_wire::v1::{
    Ack, AgentMessage, ClockProbe, ClockReply, CollectorMessage, Frame, Hello, ProbePlan, ProbeResults, Reject,
    SeriesDefinition, Signal, Snapshot, TapePiece, TapeRequest, TraceRequest, TraceResult, Welcome, Windows,
    agent_message, collector_message, frame,
};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

pub const HOST: &str = "gpu-1";

/// What a collector would keep in its database, and what a test wants to look at.
#[derive(Default)]
pub struct Stored {
    pub acknowledged: HashMap<Vec<u8>, u64>,
    /// Each frame once, in the order it was stored.
    pub frames: Vec<Frame>,
    pub replays: u64,
    pub hellos: Vec<Hello>,
    pub snapshots: Vec<Snapshot>,
    pub replies: Vec<(ClockReply, Instant)>,
    pub undefined: u64,
    pub definitions: u64,
    pub goodbyes: u64,
    pub broken: u64,
    pub peers: Vec<PeerIdentity>,
    pub pieces: Vec<TapePiece>,
    pub results: Vec<ProbeResults>,
    pub traced: Vec<TraceResult>,
}

/// What it does wrong.
#[derive(Clone, Default)]
pub struct Faults {
    pub reject: Option<Reject>,
    pub version: Option<u32>,
    /// Store, and do not acknowledge.
    pub mute: bool,
    /// Cut the stream after so many frames, whatever is in flight.
    pub cut_after: Option<u64>,
    pub acknowledge_too_far: bool,
    pub probe_every: Option<Duration>,
    /// Asked at once after the Welcome.
    pub tape_requests: Vec<TapeRequest>,
    pub probe_plans: Vec<ProbePlan>,
    pub traces: Vec<TraceRequest>,
}

#[derive(Clone)]
pub struct Collector {
    pub stored: Arc<Mutex<Stored>>,
    pub faults: Arc<Mutex<Faults>>,
}

pub struct Running {
    pub address: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Running {
    /// As by kill -9: nothing is finished, sockets close.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub struct Site {
    pub dir: tempfile::TempDir,
    pub collector: Collector,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let ca = DevelopmentCa::open_or_create(dir.path()).unwrap();
        ca.issue_server(&["127.0.0.1"], LEAF_LIFE).unwrap().write(dir.path(), "collector").unwrap();
        ca.issue_agent(&HostName::parse(HOST).unwrap(), LEAF_LIFE).unwrap().write(dir.path(), HOST).unwrap();
        Self { dir, collector: Collector { stored: Default::default(), faults: Default::default() } }
    }

    pub fn credentials(&self, name: &str) -> CredentialFiles {
        credentials(self.dir.path(), name)
    }

    pub fn listen(&self, address: &str) -> Running {
        self.listen_with(address, None)
    }

    pub fn listen_with(&self, address: &str, revoked: Option<std::path::PathBuf>) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let collector = self.collector.clone();
        let credentials = Credentials::load(CredentialFiles { revoked, ..self.credentials("collector") }).unwrap();
        let address = runtime.block_on(async {
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            let address = listener.local_addr().unwrap().to_string();
            let (connections, _) = incoming(listener, credentials, HandshakeLimits::default());
            tokio::spawn(
                tonic::transport::Server::builder()
                    .add_service(UplinkServer::new(collector))
                    .serve_with_incoming(connections),
            );
            address
        });
        Running { address, runtime: Some(runtime) }
    }

    pub fn spool(&self) -> std::path::PathBuf {
        self.dir.path().join("spool")
    }

    pub fn options(&self, address: &str) -> UplinkOptions {
        options(self.dir.path(), address)
    }

    pub fn stored<T>(&self, look: impl FnOnce(&mut Stored) -> T) -> T {
        look(&mut self.collector.stored.lock().unwrap())
    }

    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.collector.faults.lock().unwrap());
    }
}

/// Where nobody listens yet.
pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

pub fn credentials(pki: &Path, name: &str) -> CredentialFiles {
    CredentialFiles {
        trust: pki.join("ca.pem"),
        certificate: pki.join(format!("{name}.pem")),
        key: pki.join(format!("{name}.key")),
        revoked: None,
    }
}

pub fn options(site: &Path, address: &str) -> UplinkOptions {
    UplinkOptions {
        target: Target {
            address: address.into(),
            server_name: "127.0.0.1".into(),
            credentials: credentials(site, HOST),
        },
        spool: SpoolOptions::in_directory(site.join("spool")),
        host: HOST.into(),
        agent_version: "0.1.0".into(),
        kernel_release: "6.1".into(),
        limitations: Vec::new(),
    }
}

#[tonic::async_trait]
impl Uplink for Collector {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<CollectorMessage, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.extensions().get::<Caller>().unwrap().identity.clone();
        let mut incoming = request.into_inner();
        let (out, outgoing) = mpsc::channel(64);
        let this = self.clone();
        tokio::spawn(async move {
            let Ok(Some(AgentMessage { body: Some(agent_message::Body::Hello(hello)) })) = incoming.message().await
            else {
                return;
            };
            let faults = this.faults.lock().unwrap().clone();
            let stream = hello.stream_id.clone();
            let acknowledged = {
                let mut stored = this.stored.lock().unwrap();
                stored.peers.push(peer);
                stored.hellos.push(hello);
                *stored.acknowledged.entry(stream.clone()).or_default()
            };
            if let Some(reject) = faults.reject {
                let _ = out.send(reply(collector_message::Body::Reject(reject))).await;
                return;
            }
            let welcome = Welcome {
                protocol_version: faults.version.unwrap_or(1),
                collector_version: "double".into(),
                acknowledged_through: acknowledged,
                collector_epoch: 1,
            };
            let _ = out.send(reply(collector_message::Body::Welcome(welcome))).await;
            // What a later version's message looks like to this one.
            let _ = out.send(Ok(CollectorMessage { body: None })).await;
            for request in faults.tape_requests {
                let _ = out.send(reply(collector_message::Body::TapeRequest(request))).await;
            }
            for plan in faults.probe_plans {
                let _ = out.send(reply(collector_message::Body::ProbePlan(plan))).await;
            }
            for request in faults.traces {
                let _ = out.send(reply(collector_message::Body::TraceRequest(request))).await;
            }
            if let Some(every) = faults.probe_every {
                let out = out.clone();
                tokio::spawn(async move {
                    for id in 1.. {
                        if out.send(reply(collector_message::Body::ClockProbe(ClockProbe { id }))).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(every).await;
                    }
                });
            }
            let (mut defined, mut frames) = (HashSet::new(), 0);
            loop {
                let received = match incoming.message().await {
                    Ok(Some(received)) => received,
                    Ok(None) => {
                        this.stored.lock().unwrap().goodbyes += 1;
                        return;
                    }
                    Err(_) => {
                        this.stored.lock().unwrap().broken += 1;
                        return;
                    }
                };
                let through = {
                    let mut stored = this.stored.lock().unwrap();
                    let now = Instant::now();
                    match received.body {
                        Some(agent_message::Body::Frame(frame)) => {
                            frames += 1;
                            if faults.cut_after.is_some_and(|most| frames > most) {
                                let _ = out.try_send(Err(Status::unavailable("cut")));
                                return;
                            }
                            let through = stored.acknowledged.entry(stream.clone()).or_default();
                            if frame.sequence <= *through {
                                stored.replays += 1;
                            } else {
                                *through = frame.sequence;
                                if let Some(frame::Body::Windows(windows)) = &frame.body {
                                    stored.undefined +=
                                        windows.series.iter().filter(|id| !defined.contains(*id)).count() as u64;
                                }
                                stored.frames.push(frame);
                            }
                            Some(stored.acknowledged[&stream])
                        }
                        Some(agent_message::Body::Definitions(definitions)) => {
                            stored.definitions += definitions.series.len() as u64;
                            defined.extend(definitions.series.iter().map(|series| series.id));
                            None
                        }
                        Some(agent_message::Body::Snapshot(snapshot)) => {
                            stored.snapshots.push(snapshot);
                            None
                        }
                        Some(agent_message::Body::ClockReply(answer)) => {
                            stored.replies.push((answer, now));
                            None
                        }
                        Some(agent_message::Body::TapePiece(piece)) => {
                            // Of an answer without end only the beginning is of interest.
                            if stored.pieces.len() < 1000 {
                                stored.pieces.push(piece);
                            }
                            None
                        }
                        Some(agent_message::Body::ProbeResults(results)) => {
                            stored.results.push(results);
                            None
                        }
                        Some(agent_message::Body::TraceResult(result)) => {
                            stored.traced.push(result);
                            None
                        }
                        _ => None,
                    }
                };
                if let Some(through_sequence) = through.filter(|_| !faults.mute) {
                    let through_sequence = through_sequence + if faults.acknowledge_too_far { 1000 } else { 0 };
                    let _ = out.send(reply(collector_message::Body::Ack(Ack { through_sequence }))).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

fn reply(body: collector_message::Body) -> Result<CollectorMessage, Status> {
    Ok(CollectorMessage { body: Some(body) })
}

/// A network between: connections made before the last [`Proxy::freeze`] stand still and say nothing.
pub struct Proxy {
    pub address: String,
    frozen_before: tokio::sync::watch::Sender<u64>,
    made: Arc<std::sync::atomic::AtomicU64>,
    _runtime: tokio::runtime::Runtime,
}

impl Proxy {
    pub fn to(target: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (frozen_before, frozen) = tokio::sync::watch::channel(0);
        let made = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (target, count) = (target.to_owned(), made.clone());
        runtime.spawn(async move {
            while let Ok((mut inner, _)) = listener.accept().await {
                let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let (mut frozen, target) = (frozen.clone(), target.clone());
                tokio::spawn(async move {
                    let Ok(mut outer) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => return,
                        _ = frozen.wait_for(|before| number < *before) => {}
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { address, frozen_before, made, _runtime: runtime }
    }

    pub fn freeze(&self) {
        self.frozen_before.send_replace(self.made.load(std::sync::atomic::Ordering::SeqCst));
    }
}

pub fn signal(payload: u64) -> Signal {
    Signal { name: "test".into(), value: payload as f64, summary: "x".repeat(120), ..Default::default() }
}

/// A window of `count` series whose identifiers begin at `first`.
pub fn windows(payload: u64, first: u64, count: u64) -> Windows {
    let n = count as usize;
    let column = |scale: f64| (0..n).map(|i| scale * (i as f64 + payload as f64).sqrt()).collect::<Vec<f64>>();
    Windows {
        start_mono_ns: payload,
        end_mono_ns: payload + 1_000_000_000,
        series: (first..first + count).collect(),
        count: vec![100; n],
        sum: column(100.0),
        min: column(0.9),
        max: column(1.1),
        last: column(1.0),
        delta: (0..count).map(|i| 1_000_000 + i * 7919).collect(),
        resets: vec![0; n],
        incomplete_since_mono_ns: None,
        flags: vec![],
    }
}

pub fn define(uplink: &UplinkHandle, ids: std::ops::Range<u64>) {
    for id in ids {
        uplink
            .define(SeriesDefinition { id, name: format!("series.{id}"), unit: "1".into(), ..Default::default() })
            .unwrap();
    }
}

/// Payloads of stored signals, in the order stored.
pub fn signals_of(stored: &Stored) -> Vec<u64> {
    let bodies = stored.frames.iter().filter_map(|frame| frame.body.as_ref());
    bodies
        .filter_map(|body| if let frame::Body::Signal(signal) = body { Some(signal.value as u64) } else { None })
        .collect()
}

/// Payloads of stored windows, in the order stored.
pub fn windows_of(stored: &Stored) -> Vec<u64> {
    let bodies = stored.frames.iter().filter_map(|frame| frame.body.as_ref());
    bodies
        .filter_map(|body| if let frame::Body::Windows(windows) = body { Some(windows.start_mono_ns) } else { None })
        .collect()
}

pub fn settled(state: &UplinkState) -> bool {
    let spool = &state.spool;
    state.connected && spool.in_flight + spool.waiting_signals + spool.waiting_windows == 0
}

/// Waits for what must come; a minute is for a machine under load.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "this never came to be: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
