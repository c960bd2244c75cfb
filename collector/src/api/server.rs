//! Connections: accepted up to a bound, spoken to in HTTP/1.1 or HTTP/2, over TLS where configured, none kept waiting for ever.

use super::guard::{Connection, guard};
use super::{ApiState, routes};
use axum::Router;
use axum::extract::Request;
use axum::middleware;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at one time.
const CONNECTIONS_MAX: usize = 1024;
/// Longest time for a TLS handshake, for the first request, for a request's head, and between requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Largest request head, bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Time for calls under way when the collector stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);

/// The API may not listen like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the API would listen on {0} without TLS: whoever sees the network could read its tokens. Listen on 127.0.0.1, configure TLS, or allow \
     plaintext explicitly where something in front of the collector encrypts"
)]
pub struct ListenRefused(pub SocketAddr);

/// Beyond loopback only with TLS, or where that was allowed explicitly.
pub fn check_listen(address: SocketAddr, tls: bool, allow_plaintext: bool) -> Result<(), ListenRefused> {
    if address.ip().to_canonical().is_loopback() || tls || allow_plaintext {
        Ok(())
    } else {
        Err(ListenRefused(address))
    }
}

/// Serves the API until `stop`, then lets calls under way end.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    api: ApiState,
    stop: CancellationToken,
) {
    let router = routes::router().layer(middleware::from_fn_with_state(api.clone(), guard)).with_state(api.clone());
    let acceptor = tls.map(TlsAcceptor::from);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let counters = api.counters();
    let mut connections = JoinSet::new();
    let changes = tokio::spawn(api.0.feed.clone().follow(api.0.core.subscribe(), api.0.live.changes()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: it passes, and a tight loop would not help.
                tracing::warn!(%error, "cannot accept a connection to the API");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            counters.connections_refused.increment();
            continue;
        };
        let (router, acceptor, stop, counters) =
            (router.clone(), acceptor.clone(), stop.clone(), Arc::clone(&counters));
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(stream, peer, router, acceptor, stop).await {
                counters.connections_broken.increment();
                tracing::debug!(%peer, %error, "a connection to the API broke");
            }
        });
    }
    changes.abort();
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_WITHIN, drained).await.is_err() {
        tracing::info!("watchers of the API are cut off");
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    acceptor: Option<TlsAcceptor>,
    stop: CancellationToken,
) -> Result<(), Broken> {
    let connection = Connection { local: stream.local_addr()?, peer };
    stream.set_nodelay(true)?;
    match acceptor {
        None => speak(stream, connection, router, stop).await,
        Some(acceptor) => {
            let stream = tokio::time::timeout(HEAD_WITHIN, acceptor.accept(stream)).await??;
            speak(stream, connection, router, stop).await
        }
    }
}

async fn speak<S>(stream: S, connection: Connection, router: Router, stop: CancellationToken) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = Arc::new(AtomicBool::new(false));
    let asking = Arc::clone(&asked);
    let with_connection = router.layer(middleware::from_fn(move |mut request: Request, next: middleware::Next| {
        asking.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(connection);
        next.run(request)
    }));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(HEAD_WITHIN)
        .max_concurrent_streams(64)
        .max_header_list_size(HEAD_BYTES_MAX as u32);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(with_connection));
    let mut serving = std::pin::pin!(serving);
    // hyper's own limit begins with the first bytes that tell HTTP/1.1 from HTTP/2: whoever never sends them would stay.
    let silent = async {
        tokio::time::sleep(HEAD_WITHIN).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = serving.as_mut() => ended,
        () = silent => Err("no request came".into()),
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_listen;
    use std::net::SocketAddr;

    #[test]
    fn beyond_loopback_only_with_tls_or_an_explicit_word() {
        for (address, tls, allowed, expected) in [
            ("127.0.0.1:7701", false, false, true),
            ("[::1]:7701", false, false, true),
            ("[::ffff:127.0.0.1]:7701", false, false, true),
            ("0.0.0.0:7701", false, false, false),
            ("[::]:7701", false, false, false),
            ("10.0.0.1:7701", true, false, true),
            ("10.0.0.1:7701", false, true, true),
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(check_listen(address, tls, allowed).is_ok(), expected, "{address} {tls} {allowed}");
        }
    }
}
