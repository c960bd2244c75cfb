//! One host's end of the uplink, as thin as the protocol allows: what it sends is the caller's choice.
//!
//! In: a certificate and an address. Out: a stream whose acknowledgements are counted, clock probes answered.

use anyhow::{Context, Result, bail};
use railwatch_pki::{AgentConnector, CredentialFiles, Credentials};
use railwatch_wire::v1::{
    AgentMessage, ClockReply, CollectorMessage, Frame, Hello, Welcome, agent_message, collector_message,
    uplink_client::UplinkClient,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

/// Messages that may wait in the sender before `send` waits.
const OUTBOX: usize = 64;

/// A host that is connected.
pub struct Host {
    /// What the collector answered.
    pub welcome: Welcome,
    outbox: mpsc::Sender<AgentMessage>,
    acknowledged: Arc<Acknowledged>,
}

#[derive(Default)]
struct Acknowledged {
    through: AtomicU64,
    changed: Notify,
}

/// The monotonic clock this process stamps with, nanoseconds since `start`.
fn mono_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Host {
    /// Dials the collector at `address` (HOST:PORT) with the files `ca.pem`, `agent.pem`, `agent.key` of `pki`.
    pub async fn connect(address: &str, pki: &Path, host: &str, stream_id: [u8; 16], start: Instant) -> Result<Self> {
        let credentials = Credentials::load(CredentialFiles {
            trust: pki.join("ca.pem"),
            certificate: pki.join("agent.pem"),
            key: pki.join("agent.key"),
            revoked: None,
        })?;
        let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect_with_connector(AgentConnector::new(address, name, credentials)?)
            .await
            .with_context(|| format!("dial {address} as {host}"))?;
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let hello = Hello {
            protocol_min: 1,
            protocol_max: 1,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            host: host.into(),
            boot_id: "4f0c7d4e-7b07-4b0e-9a2e-0123456789ab".into(),
            kernel_release: "6.12.0".into(),
            architecture: "x86_64".into(),
            stream_id: stream_id.to_vec(),
            first_sequence: 1,
            next_sequence: 1,
            limitations: Vec::new(),
        };
        outbox.send(AgentMessage { body: Some(agent_message::Body::Hello(hello)) }).await?;
        let mut answers = UplinkClient::new(channel)
            .attach(ReceiverStream::new(messages))
            .await
            .context("open the stream")?
            .into_inner();
        let welcome = match answers.message().await?.and_then(|message| message.body) {
            Some(collector_message::Body::Welcome(welcome)) => welcome,
            other => bail!("the collector did not welcome {host}: {other:?}"),
        };
        let acknowledged = Arc::new(Acknowledged::default());
        tokio::spawn(listen(answers, outbox.clone(), Arc::clone(&acknowledged), start));
        Ok(Self { welcome, outbox, acknowledged })
    }

    /// Sends, waiting while the outbox is full.
    pub async fn send(&self, body: agent_message::Body) -> Result<()> {
        self.outbox.send(AgentMessage { body: Some(body) }).await.context("the stream ended")
    }

    /// Sends a frame.
    pub async fn frame(&self, frame: Frame) -> Result<()> {
        self.send(agent_message::Body::Frame(frame)).await
    }

    /// The sequence through which everything is stored.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.through.load(Ordering::Acquire)
    }

    /// Waits until everything through `sequence` is stored.
    pub async fn acknowledged_through(&self, sequence: u64) {
        loop {
            let changed = self.acknowledged.changed.notified();
            if self.acknowledged() >= sequence {
                return;
            }
            changed.await;
        }
    }
}

async fn listen(
    mut answers: Streaming<CollectorMessage>,
    outbox: mpsc::Sender<AgentMessage>,
    acknowledged: Arc<Acknowledged>,
    start: Instant,
) {
    while let Ok(Some(message)) = answers.message().await {
        match message.body {
            Some(collector_message::Body::Ack(ack)) => {
                acknowledged.through.fetch_max(ack.through_sequence, Ordering::Release);
                acknowledged.changed.notify_waiters();
            }
            Some(collector_message::Body::ClockProbe(probe)) => {
                let unix_ns = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
                let now = mono_ns(start);
                let reply = ClockReply {
                    id: probe.id,
                    received_mono_ns: now,
                    sent_mono_ns: now,
                    received_unix_ns: unix_ns,
                    sent_unix_ns: unix_ns,
                };
                let body = Some(agent_message::Body::ClockReply(reply));
                if outbox.send(AgentMessage { body }).await.is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}
