//! Traces on request: which way a flow goes, asked of the agent at its beginning.
//!
//! In: a host and flows, from the API. Out: the agent's answer, or why there is none. The streams of [`crate::ingest`] carry both.
//! Bounded: so many requests wait for a host, so long for an answer. Never: a trace that nobody asked for.

use railwatch_engine::map::{Flow, Transport};
use railwatch_wire::v1;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for one host's stream, and for its answer.
pub const WAITING_MAX: usize = 16;
/// The agent's whole answer comes within this: whoever asks for a path waits 2 s at most.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// What the agent itself may take, ms.
const TRACE_WITHIN_MS: u32 = 1000;
/// Longest way that is followed, switches.
const HOPS_MAX: u32 = 8;
/// Longest refusal that is passed on, characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// A request on its way to a host, and where its answer goes.
#[derive(Debug)]
pub struct TraceAsk {
    /// As sent.
    pub request: v1::TraceRequest,
    /// What the agent saw.
    pub answer: oneshot::Sender<v1::TraceResult>,
}

/// Ways to the agents that are connected. Clone it freely.
#[derive(Clone, Debug, Default)]
pub struct Traces(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    lines: Mutex<HashMap<Arc<str>, Line>>,
    next: AtomicU64,
}

/// The way to one host's stream.
#[derive(Debug)]
struct Line {
    generation: u64,
    asks: mpsc::Sender<TraceAsk>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untraced {
    /// No stream of the host is open, or it ended meanwhile.
    #[error("host {0} is not connected")]
    Away(String),
    /// Too many wait.
    #[error("{WAITING_MAX} traces wait for host {0}")]
    Busy(String),
    /// It did not answer in time.
    #[error("the agent of host {0} gave no answer in time: it is busy, or of a version that makes no traces")]
    TimedOut(String),
    /// The agent refuses.
    #[error("the agent of host {0} makes no trace: {1}")]
    Refused(String, String),
}

impl Traces {
    /// The stream of this generation can be asked from now on; it takes the asks from the receiver.
    pub fn open(&self, host: &Arc<str>, generation: u64) -> mpsc::Receiver<TraceAsk> {
        let (asks, taken) = mpsc::channel(WAITING_MAX);
        self.lines().insert(Arc::clone(host), Line { generation, asks });
        taken
    }

    /// The stream of this generation ended.
    pub fn close(&self, host: &Arc<str>, generation: u64) {
        let mut lines = self.lines();
        if lines.get(host).is_some_and(|line| line.generation == generation) {
            lines.remove(host);
        }
    }

    /// Has a host's agent trace flows that begin there; as many answers as flows.
    pub async fn ask(&self, host: &str, flows: Vec<v1::TraceFlow>) -> Result<Vec<v1::Traced>, Untraced> {
        let away = || Untraced::Away(host.to_owned());
        let line = self.lines().get(host).map(|line| line.asks.clone()).ok_or_else(away)?;
        let (count, id) = (flows.len(), self.0.next.fetch_add(1, Relaxed) + 1);
        let request = v1::TraceRequest { id, flows, hops_max: HOPS_MAX, timeout_ms: TRACE_WITHIN_MS };
        let (answer, coming) = oneshot::channel();
        if line.try_send(TraceAsk { request, answer }).is_err() {
            return Err(if line.is_closed() { away() } else { Untraced::Busy(host.to_owned()) });
        }
        let answer = tokio::time::timeout(ANSWER_WITHIN, coming).await;
        let v1::TraceResult { id: _, flows, refused } =
            answer.map_err(|_| Untraced::TimedOut(host.to_owned()))?.map_err(|_| away())?;
        if !refused.is_empty() || flows.len() != count {
            let why = if refused.is_empty() { "it answered for other flows than asked" } else { &refused };
            return Err(Untraced::Refused(host.to_owned(), why.chars().take(MESSAGE_CHARS_MAX).collect()));
        }
        Ok(flows)
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Arc<str>, Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow that begins at this interface, as the agent is asked for it.
pub fn flow(interface: String, flow: &Flow, dscp: u8) -> v1::TraceFlow {
    v1::TraceFlow {
        interface,
        source: flow.source.to_string(),
        source_port: flow.source_port.into(),
        destination: flow.destination.to_string(),
        destination_port: flow.destination_port.into(),
        transport: match flow.transport {
            Transport::Udp => v1::ProbeTransport::Udp,
            Transport::Tcp => v1::ProbeTransport::Tcp,
        }
        .into(),
        dscp: dscp.into(),
    }
}

/// Addresses of those who answered, none where nobody did.
pub fn hops(traced: &v1::Traced) -> Vec<Option<IpAddr>> {
    traced.hops.iter().map(|hop| hop.address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[tokio::test]
    async fn an_answer_is_for_what_was_asked_or_says_why_not() {
        let (traces, host): (_, Arc<str>) = (Traces::default(), "h".into());
        assert_eq!(traces.ask("h", vec![]).await, Err(Untraced::Away("h".into())));
        let mut asks = traces.open(&host, 1);
        let flow = v1::TraceFlow { source: "10.0.0.1".into(), ..v1::TraceFlow::default() };
        let traced = v1::Traced { reached: true, ..v1::Traced::default() };
        let refused = |why: &str| Err(Untraced::Refused("h".into(), why.into()));
        for (flows, refusal, expected) in [
            (vec![traced.clone()], "", Ok(vec![traced.clone()])),
            (vec![], "no raw sockets", refused("no raw sockets")),
            (vec![traced.clone(), traced.clone()], "", refused("it answered for other flows than asked")),
        ] {
            let answered = async {
                let TraceAsk { request, answer } = asks.recv().await.unwrap();
                assert_eq!(request.flows, std::slice::from_ref(&flow));
                answer.send(v1::TraceResult { id: request.id, flows, refused: refusal.into() }).unwrap();
            };
            let (result, ()) = tokio::join!(traces.ask("h", vec![flow.clone()]), answered);
            assert_eq!(result, expected);
        }
        drop(asks);
        assert_eq!(traces.ask("h", vec![flow]).await, Err(Untraced::Away("h".into())));
    }

    #[tokio::test]
    async fn an_agent_that_knows_no_traces_costs_no_more_than_the_wait() {
        let (traces, host): (_, Arc<str>) = (Traces::default(), "h".into());
        let _asks = traces.open(&host, 1);
        assert_eq!(traces.ask("h", vec![]).await, Err(Untraced::TimedOut("h".into())));
        traces.close(&host, 1);
        assert_eq!(traces.ask("h", vec![]).await, Err(Untraced::Away("h".into())));
    }
}
