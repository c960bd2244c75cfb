//! The listener that scrapers call: `GET /metrics`, nothing else, with a bound on everything.

use crate::Format;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections served at once; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 16;
/// A scraper that has not sent its request by then is cut off.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// A connection, idle or not, ends then; Prometheus opens the next one.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// Serves `registry` on `listener` until `stop` is cancelled.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, stop: CancellationToken) {
    let pages = Router::new().route("/metrics", get(metrics)).fallback(elsewhere).with_state(registry);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return,
            Ok(place) = Arc::clone(&places).acquire_owned() => place,
        };
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => connection,
                Err(error) => {
                    // Out of descriptors, most likely: trying again at once would only burn the core.
                    tracing::warn!(%error, "cannot accept a scraper; trying again in 1 s");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            },
        };
        let (pages, server, stop) = (TowerToHyperService::new(pages.clone()), server.clone(), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            let served = server.serve_connection(TokioIo::new(connection), pages);
            tokio::select! {
                () = stop.cancelled() => {}
                result = tokio::time::timeout(CONNECTION_LIFE, served) => {
                    if let Ok(Err(error)) = result {
                        tracing::debug!(%error, "a scraper's connection ended badly");
                    }
                }
            }
        });
    }
}

async fn metrics(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    let format = Format::negotiate(headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()));
    // A page of a large fleet takes milliseconds to write: not on a thread that serves sockets.
    match tokio::task::spawn_blocking(move || format.encode(&registry)).await {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, format.content_type())], page).into_response(),
        Ok(Err(_)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written; see the daemon's log\n")
                .into_response()
        }
    }
}

async fn elsewhere() -> Response {
    (StatusCode::NOT_FOUND, "only /metrics is here\n").into_response()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use prometheus_client::{metrics::counter::Counter, registry::Registry};
    use std::sync::Arc;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn a_scraper_reads_the_page_it_asked_for_and_no_other_path_is_there() {
        let mut registry = Registry::default();
        let frames: Counter = Counter::default();
        registry.register("frames", "Frames taken", frames);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let server = tokio::spawn(super::serve(listener, Arc::new(registry), stop.clone()));
        for (path, accept, status, content) in [
            ("/metrics", "*/*", "200", "text/plain; version=0.0.4"),
            ("/metrics", "application/openmetrics-text", "200", "application/openmetrics-text; version=1.0.0"),
            ("/", "*/*", "404", "only /metrics"),
        ] {
            let mut connection = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
            connection.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            assert!(answer.contains(content), "{answer}");
        }
        stop.cancel();
        server.await.unwrap();
    }
}
