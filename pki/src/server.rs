//! How connections come in: TCP, TLS 1.3 with a client certificate, an identity; only then does tonic see them.
//!
//! Handshakes run beside each other, bounded in number and time, so that a slow or silent peer holds up nobody.
//! What fails is counted and logged; the stream of connections never ends and never yields an error.

use crate::credentials::Credentials;
use crate::explain::explain;
use crate::identity::{PeerIdentity, peer};
use crate::kernel::{PeerKernel, Shared};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Bounds of what strangers can use.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// Handshakes at once; more wait in the kernel's accept queue.
    pub at_once_max: usize,
    /// Longest handshake.
    pub time_max: Duration,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self { at_once_max: 512, time_max: Duration::from_secs(5) }
    }
}

/// What became of connections: accepted = identified + failed + slow + nameless + those under way.
#[derive(Debug, Default)]
pub struct HandshakeCounts {
    /// TCP connections.
    pub accepted: AtomicU64,
    /// Handed to the server.
    pub identified: AtomicU64,
    /// TLS failed: wrong CA, expired, revoked, no certificate, not TLS, or gone before it began.
    pub failed: AtomicU64,
    /// Cut because the handshake took too long.
    pub slow: AtomicU64,
    /// The certificate is good and names no agent.
    pub nameless: AtomicU64,
}

/// A connection whose peer is known.
pub struct PeerStream {
    tls: TlsStream<Shared>,
    caller: Caller,
}

/// Who is at the other end of a connection, and a look at its kernel. In the extensions of every tonic request that came in through [`incoming`].
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub identity: PeerIdentity,
    /// Whether its kernel still answers.
    pub kernel: PeerKernel,
}

impl PeerStream {
    /// Who it is.
    pub fn peer(&self) -> &PeerIdentity {
        &self.caller.identity
    }
}

/// Accepts on `listener` until the returned stream is dropped. For tonic's `serve_with_incoming`.
pub fn incoming(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    limits: HandshakeLimits,
) -> (ReceiverStream<io::Result<PeerStream>>, Arc<HandshakeCounts>) {
    let counts = Arc::new(HandshakeCounts::default());
    let (ready, stream) = mpsc::channel(limits.at_once_max.max(1));
    tokio::spawn(accept(listener, credentials, limits, counts.clone(), ready));
    (ReceiverStream::new(stream), counts)
}

async fn accept(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    limits: HandshakeLimits,
    counts: Arc<HandshakeCounts>,
    ready: mpsc::Sender<io::Result<PeerStream>>,
) {
    let slots = Arc::new(Semaphore::new(limits.at_once_max.max(1)));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (tcp, address) = tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::error!("cannot accept uplink connections: {error}; trying again in 100 ms (is the limit of open files reached?)");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        let (credentials, counts, ready) = (credentials.clone(), counts.clone(), ready.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let tcp = match Shared::new(tcp) {
                Ok(tcp) => tcp,
                Err(error) => {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%address, "uplink connection refused: its socket cannot be set up: {error}");
                    return;
                }
            };
            let kernel = tcp.look();
            let handshake = TlsAcceptor::from(credentials.server_config()).accept(tcp);
            match tokio::time::timeout(limits.time_max, handshake).await {
                Err(_) => {
                    counts.slow.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%address, "uplink connection cut: no handshake within {:?}", limits.time_max);
                }
                Ok(Err(error)) => {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%address, "uplink connection refused: {}", explain(&error));
                }
                Ok(Ok(tls)) => match identify(&tls, address) {
                    Ok(identity) => {
                        counts.identified.fetch_add(1, Ordering::Relaxed);
                        let _ = ready.send(Ok(PeerStream { tls, caller: Caller { identity, kernel } })).await;
                    }
                    Err(why) => {
                        counts.nameless.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(%address, "uplink connection refused: {why}");
                    }
                },
            }
        });
    }
}

fn identify(tls: &TlsStream<Shared>, address: SocketAddr) -> Result<PeerIdentity, crate::IdentityError> {
    let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    peer(leaf.ok_or(crate::IdentityError::NoAgent)?, address)
}

impl Connected for PeerStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
