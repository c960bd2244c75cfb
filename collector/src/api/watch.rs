//! `GET /v1/watch`: the feed as server-sent events, with heartbeats, until the watcher leaves or stops reading.

use super::ApiState;
use super::feed::{EventId, Told};
use super::problem::Problem;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// A comment is sent after this long without a change, so that both sides notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A watcher that takes nothing for this long is cut off.
const STUCK: Duration = Duration::from_secs(60);
/// Events between the ring and a socket.
const PENDING_MAX: usize = 16;

pub(super) async fn watch(State(api): State<ApiState>, headers: HeaderMap) -> Result<Response, Problem> {
    let after = match headers.get("last-event-id") {
        None => None,
        Some(value) => Some(value.to_str().ok().and_then(|text| text.parse::<EventId>().ok()).ok_or_else(|| {
            Problem::bad_request("the header Last-Event-ID is not an identifier of this stream: leave it out to begin with the next change")
        })?),
    };
    let slot = Arc::clone(&api.0.watchers).try_acquire_owned().map_err(|_| {
        Problem::unavailable("too many watchers: end some, or read /v1/incidents from time to time").retry_after(30)
    })?;
    api.0.counters.watchers.increment();
    let mut subscription = api.0.feed.subscribe(after);
    let (sender, receiver) = mpsc::channel::<Bytes>(PENDING_MAX);
    let counters = api.counters();
    drop(api);
    tokio::spawn(async move {
        let _slot = slot;
        // Whoever lists after this event and then follows misses nothing.
        let start =
            format!("id: {}\nevent: start\ndata: {{\"resumed\":{}}}\n\n", subscription.position(), after.is_some());
        let mut next = Bytes::from(start);
        loop {
            match tokio::time::timeout(STUCK, sender.send(next)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    counters.watchers_stuck.increment();
                    return;
                }
            }
            let told = tokio::select! {
                told = tokio::time::timeout(HEARTBEAT, subscription.next()) => told,
                () = sender.closed() => return,
            };
            next = match told {
                Err(_) => Bytes::from_static(b": still here\n\n"),
                Ok(None) => return,
                Ok(Some(Told::Event(event))) => event,
                Ok(Some(Told::Lagged(lagged))) => {
                    counters.changes_missed.add(lagged.missed.unwrap_or(0));
                    // A struct of a number and a text always has a JSON form.
                    let json = serde_json::to_string(&lagged).unwrap_or_default();
                    Bytes::from(format!("id: {}\nevent: lagged\ndata: {json}\n\n", subscription.position()))
                }
            };
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would hold events back otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}
