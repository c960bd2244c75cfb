//! How the agent reaches the collector: TCP, then TLS 1.3 with the newest credentials, as a connector for tonic.

use crate::credentials::Credentials;
use crate::explain::explain;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
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
        source: std::io::Error,
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
}

impl AgentConnector {
    /// For the collector at `address` (`HOST:PORT`), whose certificate must carry `name`: a DNS name or an IP
    /// address.
    pub fn new(address: &str, name: &str, credentials: Arc<Credentials>) -> Result<Self, crate::PkiError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| crate::PkiError::BadName { name: name.to_owned() })?;
        Ok(Self { address: address.to_owned(), name, credentials })
    }

    /// Dials once.
    pub async fn connect(self) -> Result<TlsStream<TcpStream>, DialError> {
        let Self { address, name, credentials } = self;
        let dial = async {
            let tcp = TcpStream::connect(&address).await;
            let tcp = tcp.map_err(|source| DialError::Unreachable { address: address.clone(), source })?;
            let _ = tcp.set_nodelay(true);
            let tls = TlsConnector::from(credentials.client_config()).connect(name, tcp).await;
            tls.map_err(|error| DialError::Tls { address: address.clone(), why: explain(&error) })
        };
        tokio::time::timeout(DIAL_MAX, dial).await.unwrap_or_else(|_| Err(DialError::Slow { address: address.clone() }))
    }
}

impl Service<Uri> for AgentConnector {
    type Response = TokioIo<TlsStream<TcpStream>>;
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
