//! A collector in this process, and agents that speak to it over real mTLS and say whatever a test wants.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
#![allow(dead_code, reason = "each test program uses a part of it")]

use prost::{Message, bytes::BufMut};
use railwatch_collector::{
    certificates,
    config::{Config, Overrides},
    daemon::Daemon,
    live::rows::HostRow,
};
use railwatch_pki::{AgentConnector, CredentialFiles, Credentials};
use railwatch_wire::{series, v1};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use v1::{agent_message::Body, collector_message::Body as Answer};

/// Longer than anything here takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A collector on free loopback ports, its state in a directory of its own.
pub struct Collector {
    pub daemon: Daemon,
    pub directory: Arc<TempDir>,
}

impl Collector {
    pub async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), "").await
    }

    /// Starts in `directory` with this text as its configuration file.
    pub async fn start_in(directory: Arc<TempDir>, text: &str) -> Self {
        let path = directory.path().join("collector.toml");
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path, &Self::overrides(&directory)).unwrap();
        Self { daemon: Daemon::start(config).await.unwrap(), directory }
    }

    pub fn overrides(directory: &TempDir) -> Overrides {
        let any = Some(([127, 0, 0, 1], 0).into());
        Overrides {
            state_dir: Some(directory.path().join("state")),
            run_dir: Some(directory.path().join("run")),
            uplink_listen: any,
            api_listen: any,
            metrics_listen: any,
        }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Ends it and starts another on the same state.
    pub async fn restart(self) -> Self {
        let directory = Arc::clone(&self.directory);
        self.daemon.stop().await;
        Self::start_in(directory, "").await
    }

    /// Credentials of an agent, certified by this collector's CA.
    pub fn credentials(&self, host: &str) -> Arc<Credentials> {
        let out = self.directory.path().join("agents").join(host);
        if !out.exists() {
            certificates::issue(&self.state_dir(), host, &out).unwrap();
        }
        credentials(&out)
    }

    pub async fn channel(&self, credentials: Arc<Credentials>) -> Result<Channel, tonic::transport::Error> {
        let address = self.daemon.addresses().uplink.to_string();
        let connector = AgentConnector::new(&address, "localhost", credentials).unwrap();
        Endpoint::from_static("http://collector").connect_with_connector(connector).await
    }

    /// An agent of `host` that said this, and the first answer to it.
    pub async fn open(&self, host: &str, hello: v1::Hello) -> (Agent, Answer) {
        let channel = self.channel(self.credentials(host)).await.unwrap();
        let mut agent = Agent::attach(channel).await;
        agent.say(Body::Hello(hello)).await;
        let answer = agent.answer().await.unwrap();
        (agent, answer)
    }

    /// An agent of `host` that was welcomed.
    pub async fn agent(&self, host: &str) -> Agent {
        match self.open(host, hello(host)).await {
            (agent, Answer::Welcome(_)) => agent,
            (_, other) => panic!("{host} was not welcomed: {other:?}"),
        }
    }

    pub fn row(&self, host: &str) -> HostRow {
        self.daemon.live().hosts().into_iter().find(|row| row.host == host).unwrap()
    }

    /// Waits until the row of `host` is as wanted.
    pub async fn until(&self, host: &str, wanted: impl Fn(&HostRow) -> bool) -> HostRow {
        let end = Instant::now() + PATIENCE;
        loop {
            let row = self.row(host);
            if wanted(&row) {
                return row;
            }
            assert!(Instant::now() < end, "never came: {row:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Summaries of all signals in the store, the first stored first.
    pub fn stored_signals(&self) -> Vec<String> {
        self.summaries(|host| !host.is_empty())
    }

    /// What the collector told of itself, by summary.
    pub fn own_signals(&self) -> Vec<String> {
        self.summaries(str::is_empty)
    }

    fn summaries(&self, of: impl Fn(&str) -> bool) -> Vec<String> {
        let reader = railwatch_store::Reader::open(&self.state_dir().join("railwatch.db")).unwrap();
        let filter = railwatch_store::SignalFilter { limit: 10_000, ..railwatch_store::SignalFilter::default() };
        let mut signals = reader.signals(&filter).unwrap();
        signals.sort_by_key(|stored| stored.sequence);
        let signals = signals.into_iter().map(|stored| stored.signal);
        signals.filter(|signal| of(&signal.element.host)).map(|signal| signal.summary).collect()
    }

    /// The page for Prometheus.
    pub async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut connection = tokio::net::TcpStream::connect(self.daemon.addresses().metrics).await.unwrap();
        connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        connection.read_to_string(&mut page).await.unwrap();
        page
    }
}

pub fn credentials(directory: &Path) -> Arc<Credentials> {
    Credentials::load(CredentialFiles {
        trust: directory.join("ca.pem"),
        certificate: directory.join("agent.pem"),
        key: directory.join("agent.key"),
        revoked: None,
    })
    .unwrap()
}

/// One stream. Clock probes are answered beside the test.
pub struct Agent {
    out: mpsc::Sender<Vec<u8>>,
    answers: mpsc::Receiver<Result<Answer, Status>>,
    /// CLOCK_REALTIME of this agent's host, ahead of the machine's.
    pub realtime_ahead_ns: Arc<AtomicI64>,
}

impl Agent {
    pub async fn attach(channel: Channel) -> Self {
        let (out, messages) = mpsc::channel::<Vec<u8>>(16);
        let (forward, answers) = mpsc::channel(1024);
        let realtime_ahead_ns = Arc::new(AtomicI64::new(0));
        let (probe_out, ahead) = (out.downgrade(), Arc::clone(&realtime_ahead_ns));
        tokio::spawn(async move {
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.unwrap();
            let path = tonic::codegen::http::uri::PathAndQuery::from_static("/railwatch.v1.Uplink/Attach");
            let request = tonic::Request::new(ReceiverStream::new(messages));
            let mut inbound = match client.streaming(request, path, Raw).await {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    let _ = forward.send(Err(status)).await;
                    return;
                }
            };
            while let Some(message) = inbound.next().await {
                match message.map(|message| message.body) {
                    Ok(Some(Answer::ClockProbe(probe))) => {
                        let unix = unix_ns().saturating_add_signed(ahead.load(Ordering::Relaxed));
                        let reply = v1::ClockReply {
                            id: probe.id,
                            received_mono_ns: mono_ns(),
                            sent_mono_ns: mono_ns(),
                            received_unix_ns: unix,
                            sent_unix_ns: unix,
                        };
                        if let Some(out) = probe_out.upgrade() {
                            let _ = out.send(encoded(Body::ClockReply(reply))).await;
                        }
                    }
                    Ok(Some(answer)) => _ = forward.send(Ok(answer)).await,
                    Ok(None) => {}
                    Err(status) => _ = forward.send(Err(status)).await,
                }
            }
        });
        Self { out, answers, realtime_ahead_ns }
    }

    pub async fn say(&self, body: Body) {
        self.say_raw(encoded(body)).await;
    }

    /// Sends bytes as a message, whatever they are. The collector may have ended the stream already.
    pub async fn say_raw(&self, bytes: Vec<u8>) {
        let _ = tokio::time::timeout(PATIENCE, self.out.send(bytes)).await.expect("the collector reads");
    }

    /// Its way out, for a task that sends beside others.
    pub fn sender(&self) -> mpsc::Sender<Vec<u8>> {
        self.out.clone()
    }

    pub async fn frame(&self, sequence: u64, body: impl Into<Option<v1::frame::Body>>) {
        self.say(Body::Frame(v1::Frame { sequence, body: body.into(), ..v1::Frame::default() })).await;
    }

    /// The next answer; `None` when the stream ended without a status.
    pub async fn next(&mut self) -> Option<Result<Answer, Status>> {
        tokio::time::timeout(PATIENCE, self.answers.recv()).await.expect("an answer in time")
    }

    pub async fn answer(&mut self) -> Result<Answer, Status> {
        self.next().await.expect("an answer")
    }

    /// Waits until everything up to `sequence` is acknowledged.
    pub async fn acknowledged(&mut self, sequence: u64) {
        loop {
            match self.answer().await {
                Ok(Answer::Ack(ack)) if ack.through_sequence >= sequence => return,
                // A silence on a busy machine is an incident, whose readings the collector asks for, and more of them.
                Ok(Answer::Ack(_) | Answer::TapeRequest(_) | Answer::Directive(_)) => {}
                other => panic!("no acknowledgement of {sequence}, but {other:?}"),
            }
        }
    }

    /// The reason for which the stream is ended.
    pub async fn rejected(&mut self) -> v1::Reject {
        loop {
            match self.answer().await {
                Ok(Answer::Reject(reject)) => return reject,
                Ok(_) => {}
                Err(status) => panic!("no Reject, but {status:?}"),
            }
        }
    }

    /// The status with which the stream is ended.
    pub async fn ended(&mut self) -> (Code, String) {
        loop {
            match self.next().await {
                Some(Err(status)) => return (status.code(), status.message().to_owned()),
                Some(Ok(_)) => {}
                None => panic!("the stream ended without a status"),
            }
        }
    }
}

/// CLOCK_MONOTONIC of a host that has been up for an hour longer than this test.
pub fn mono_ns() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    3_600_000_000_000 + u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap()
}

fn unix_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

pub fn encoded(body: Body) -> Vec<u8> {
    v1::AgentMessage { body: Some(body) }.encode_to_vec()
}

pub fn hello(host: &str) -> v1::Hello {
    v1::Hello {
        protocol_min: 1,
        protocol_max: 1,
        agent_version: "test".into(),
        host: host.into(),
        boot_id: "11111111-2222-3333-4444-555555555555".into(),
        stream_id: vec![1; 16],
        first_sequence: 1,
        next_sequence: 1,
        ..v1::Hello::default()
    }
}

pub fn signal(summary: &str) -> v1::frame::Body {
    v1::frame::Body::Signal(v1::Signal {
        name: "test.signal".into(),
        entity: Some(v1::Entity { kind: "nic".into(), name: "eth0".into() }),
        severity: v1::Severity::Info.into(),
        observed_mono_ns: mono_ns(),
        summary: summary.into(),
        unit: "1".into(),
        ..v1::Signal::default()
    })
}

pub fn definition(number: usize) -> v1::SeriesDefinition {
    let name = format!("test.series.{number}");
    v1::SeriesDefinition {
        id: series::id(&name, "nic", "eth0", []),
        name,
        unit: "By".into(),
        monotonic: true,
        entity: Some(v1::Entity { kind: "nic".into(), name: "eth0".into() }),
        ..v1::SeriesDefinition::default()
    }
}

/// A window of the first `count` series, ending now, each with this value.
pub fn windows(count: usize, value: f64) -> v1::Windows {
    let end = mono_ns();
    v1::Windows {
        start_mono_ns: end - 1_000_000_000,
        end_mono_ns: end,
        series: (0..count).map(|number| definition(number).id).collect(),
        count: vec![1; count],
        sum: vec![value; count],
        min: vec![value; count],
        max: vec![value; count],
        last: vec![value; count],
        delta: vec![1; count],
        resets: vec![0; count],
        incomplete_since_mono_ns: None,
        flags: vec![],
    }
}

/// Sends bytes as they are; reads what the collector says.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = v1::CollectorMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = v1::CollectorMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<v1::CollectorMessage>, Status> {
        v1::CollectorMessage::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
