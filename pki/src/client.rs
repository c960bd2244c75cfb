//! How the agent reaches the collector: TCP, then TLS 1.3 with the newest credentials, as a connector for tonic.
//!
//! In TLS 1.3 a server refuses a client's certificate after the client's handshake is over, so the refusal comes in
//! with the first read, and HTTP/2 would only say "connection closed". The stream keeps what TLS said.

use crate::credentials::Credentials;
use crate::explain::explain;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::codegen::{Service, http::Uri};

/// Longest wait for TCP and TLS together.
const DIAL_MAX: Duration = Duration::from_secs(5);

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answered, or the answer was no.
    #[error("cannot reach the collector at {address}: {source}")]
    Unreachable {
        /// `HOST:PORT`.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// TLS failed.
    #[error("the collector at {address} was reached, and TLS failed: {why}")]
    Tls {
        /// `HOST:PORT`.
        address: String,
        /// What it means.
        why: String,
    },
    /// Too slow.
    #[error("the collector at {address} did not answer within 5 s")]
    Slow {
        /// `HOST:PORT`.
        address: String,
    },
}

/// Connects tonic to one collector; the URI that tonic hands over is not looked at.
#[derive(Clone)]
pub struct AgentConnector {
    address: String,
    name: ServerName<'static>,
    credentials: Arc<Credentials>,
    refusal: Refusal,
}

/// What TLS said when it ended a connection that had been made.
type Refusal = Arc<Mutex<Option<String>>>;

/// A connection to the collector.
#[derive(Debug)]
pub struct AgentStream {
    tls: TlsStream<TcpStream>,
    refusal: Refusal,
}

impl AgentConnector {
    /// For the collector at `address` (`HOST:PORT`), whose certificate must carry `name`: a DNS name or an IP
    /// address.
    pub fn new(address: &str, name: &str, credentials: Arc<Credentials>) -> Result<Self, crate::PkiError> {
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| crate::PkiError::BadName { name: name.to_owned() })?;
        Ok(Self { address: address.to_owned(), name, credentials, refusal: Refusal::default() })
    }

    /// Why TLS ended the connection that this connector or a clone of it made, where it did.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Dials once.
    pub async fn connect(self) -> Result<AgentStream, DialError> {
        let Self { address, name, credentials, refusal } = self;
        let dial = async {
            let tcp = TcpStream::connect(&address).await;
            let tcp = tcp.map_err(|source| DialError::Unreachable { address: address.clone(), source })?;
            let _ = tcp.set_nodelay(true);
            let tls = TlsConnector::from(credentials.client_config()).connect(name, tcp).await;
            let tls = tls.map_err(|error| DialError::Tls { address: address.clone(), why: explain(&error) })?;
            Ok(AgentStream { tls, refusal })
        };
        tokio::time::timeout(DIAL_MAX, dial).await.unwrap_or_else(|_| Err(DialError::Slow { address: address.clone() }))
    }
}

impl Service<Uri> for AgentConnector {
    type Response = TokioIo<AgentStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

impl AsyncRead for AgentStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.tls).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read
            && error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(explain(error));
        }
        read
    }
}

impl AsyncWrite for AgentStream {
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
