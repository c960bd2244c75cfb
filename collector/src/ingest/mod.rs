//! The uplink's server: mTLS in, validated frames out.
//!
//! In: one bidirectional gRPC stream per host, its identity from the certificate. Out: signals and sequences to the
//! core, which stores before anything is acknowledged; windows and state to [`crate::live`]. Streams run beside each
//! other on all cores, and a host's state is its own shard, so a bad or busy host holds up nobody. What is bad is
//! refused with a reason ([`refusal::Refusal`]) and counted; what cannot even be read ends its stream with a status.

pub mod hello;
mod mapping;
mod probes;
pub mod refusal;
mod sequence;
mod session;
pub mod streams;
mod validate;

use crate::{
    core::CoreHandle, directives::Directives, live::Live, map::MapRoom, metrics::Counters, probes::Probes, tape::Tapes,
};
use railwatch_pki::{Caller, Credentials, HandshakeCounts, HandshakeLimits};
use railwatch_wire::{
    limits,
    v1::{self, uplink_server},
};
use std::{pin::Pin, sync::Arc};
use streams::Streams;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Calls on one connection: an agent needs one, and a second for an instant while it reconnects.
const CALLS_PER_CONNECTION_MAX: u32 = 4;
/// Bytes in flight on a stream before it is taken: one large message.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// What every stream uses.
pub struct Shared {
    /// Where windows and state go.
    pub live: Live,
    /// Where signals and sequences go.
    pub core: CoreHandle,
    /// Counts everything.
    pub counters: Arc<Counters>,
    /// Who is let in, and who no longer is.
    pub credentials: Arc<Credentials>,
    /// Which hosts are connected.
    pub streams: Streams,
    /// Who wants to read their tapes.
    pub tapes: Tapes,
    /// What their agents are to do.
    pub directives: Directives,
    /// What they are to probe, and what became of it.
    pub probes: Probes,
    /// Where goes what hosts say of the fabric, and who wants to know which way a flow goes.
    pub map: MapRoom,
    /// Ends everything.
    pub stop: CancellationToken,
}

struct Uplink(Arc<Shared>);

#[tonic::async_trait]
impl uplink_server::Uplink for Uplink {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::CollectorMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.extensions().get::<Caller>().cloned().ok_or_else(|| {
            Status::unauthenticated("the connection carries no identity: a client certificate is needed")
        })?;
        let (answers, queue) = mpsc::channel(session::ANSWERS_QUEUED_MAX);
        tokio::spawn(session::serve(Arc::clone(&self.0), peer, request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

/// Serves the uplink on `listener` until `shared.stop` is cancelled and its streams have ended. The counts of
/// handshakes come back at once.
pub fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
) -> (impl Future<Output = Result<(), tonic::transport::Error>>, Arc<HandshakeCounts>) {
    let (connections, counts) =
        railwatch_pki::incoming(listener, Arc::clone(&shared.credentials), HandshakeLimits::default());
    let stop = shared.stop.clone();
    let service = uplink_server::UplinkServer::new(Uplink(shared)).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    // No keepalive of HTTP/2, which an agent must run to answer: a dead path is found by TCP's (`railwatch_pki::PeerKernel`), and an agent that is
    // stopped or starved keeps its stream.
    let server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .add_service(service)
        .serve_with_incoming_shutdown(connections, async move { stop.cancelled().await });
    (server, counts)
}
