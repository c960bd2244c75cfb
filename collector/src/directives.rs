//! Directives to the agents, through their streams, and what came of each.
//!
//! In: a host and what its agent is to do. Out: the agent's answer, or why there is none. The streams of
//! [`crate::ingest`] carry both. Every directive has an identifier of its own and this collector's epoch, by which the
//! agent knows repetitions and a collector that was replaced. Bounded: so many wait for a host, so long for an answer.
//! Never: a directive that acts on a host, or one sent twice.

use railwatch_wire::v1::{self, directive::Act};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Directives that wait for one host's stream, and for its answer.
pub const WAITING_MAX: usize = 8;
/// The agent answers within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Longest answer that is passed on, characters.
const MESSAGE_CHARS_MAX: usize = 500;

/// A directive on its way to a host, and where its result goes.
#[derive(Debug)]
pub struct Sent {
    /// As sent.
    pub directive: v1::Directive,
    /// What came of it.
    pub result: oneshot::Sender<v1::DirectiveResult>,
}

/// Ways to the agents that are connected. Clone it freely.
#[derive(Clone, Debug)]
pub struct Directives(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    epoch: u64,
    lines: Mutex<HashMap<Arc<str>, Line>>,
    next: AtomicU64,
}

/// The way to one host's stream.
#[derive(Debug)]
struct Line {
    generation: u64,
    sent: mpsc::Sender<Sent>,
}

/// Why a directive was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// No stream of the host is open, or it ended meanwhile.
    #[error("host {0} is not connected: ask again once it is back")]
    Away(String),
    /// Too many wait.
    #[error("{WAITING_MAX} directives wait for host {0}: ask again in a moment")]
    Busy(String),
    /// It did not answer in time.
    #[error("host {0} gave no answer within 5 s: its agent is busy, or of a version that knows no directives")]
    TimedOut(String),
    /// The agent refuses.
    #[error("the agent of host {0} refuses: {1}")]
    Refused(String, String),
}

impl Directives {
    /// Of a collector of this epoch.
    pub fn new(epoch: u64) -> Self {
        Self(Arc::new(Inner { epoch, lines: Mutex::default(), next: AtomicU64::new(1) }))
    }

    /// The stream of this generation can be sent to from now on; it takes directives from the receiver.
    pub fn open(&self, host: &Arc<str>, generation: u64) -> mpsc::Receiver<Sent> {
        let (sent, taken) = mpsc::channel(WAITING_MAX);
        self.lines().insert(Arc::clone(host), Line { generation, sent });
        taken
    }

    /// The stream of this generation ended.
    pub fn close(&self, host: &Arc<str>, generation: u64) {
        let mut lines = self.lines();
        if lines.get(host).is_some_and(|line| line.generation == generation) {
            lines.remove(host);
        }
    }

    /// Has a host's agent do something; returns what it says of it.
    pub async fn send(&self, host: &str, act: Act) -> Result<String, NotDone> {
        let away = || NotDone::Away(host.to_owned());
        let line = self.lines().get(host).map(|line| line.sent.clone()).ok_or_else(away)?;
        let Inner { epoch, next, .. } = &*self.0;
        let id = format!("{epoch}-{}", next.fetch_add(1, Relaxed));
        let directive = v1::Directive { id, collector_epoch: *epoch, act: Some(act) };
        let (result, answer) = oneshot::channel();
        if line.try_send(Sent { directive, result }).is_err() {
            return Err(if line.is_closed() { away() } else { NotDone::Busy(host.to_owned()) });
        }
        let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
        let v1::DirectiveResult { id: _, done, message } =
            answer.map_err(|_| NotDone::TimedOut(host.to_owned()))?.map_err(|_| away())?;
        let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
        if done { Ok(message) } else { Err(NotDone::Refused(host.to_owned(), message)) }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Arc<str>, Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn burst() -> Act {
        Act::Burst(v1::Burst { duration_ms: 1, reason: String::new() })
    }

    #[tokio::test]
    async fn a_directive_has_an_identifier_of_its_own_and_comes_back_with_the_agents_words() {
        let directives = Directives::new(7);
        assert_eq!(directives.send("a", burst()).await, Err(NotDone::Away("a".into())));
        let host: Arc<str> = "a".into();
        let mut stream = directives.open(&host, 1);
        let agent = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(Sent { directive, result }) = stream.recv().await {
                let done = seen.is_empty();
                let message = if done { "as told".to_owned() } else { "x".repeat(10_000) };
                seen.push((directive.id.clone(), directive.collector_epoch));
                result.send(v1::DirectiveResult { id: directive.id, done, message }).unwrap();
            }
            seen
        });
        assert_eq!(directives.send("a", burst()).await, Ok("as told".into()));
        assert_eq!(
            directives.send("a", burst()).await,
            Err(NotDone::Refused("a".into(), "x".repeat(MESSAGE_CHARS_MAX)))
        );
        directives.close(&host, 0);
        assert!(directives.0.lines.lock().unwrap().contains_key(&host), "an older stream's end closes nothing");
        directives.close(&host, 1);
        assert_eq!(agent.await.unwrap(), [("7-1".to_owned(), 7), ("7-2".to_owned(), 7)]);
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_or_ends_is_told_from_one_that_answers() {
        let directives = Directives::new(1);
        let mut stream = directives.open(&"a".into(), 1);
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(directives.send("a", burst()))).collect();
        for one in &mut waiting {
            assert!(futures_poll(one).is_none());
        }
        assert_eq!(directives.send("a", burst()).await, Err(NotDone::Busy("a".into())));
        drop(stream.try_recv());
        drop(stream);
        for one in waiting {
            assert_eq!(one.await, Err(NotDone::Away("a".into())));
        }
    }

    /// What a future gives at once.
    fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
