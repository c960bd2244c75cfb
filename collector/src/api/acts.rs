//! What the API asks of the core: a person's verdict, and halting. The core stores and judges; the API only asks.

use railwatch_engine::Decision;
use serde::Serialize;
use std::pin::Pin;

/// An answer that is awaited.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, NotDone>> + Send + 'a>>;

/// The core, as the API sees it.
pub trait Acts: Send + Sync + 'static {
    /// A person judges a decision. Answers with the decision as it is stored after that.
    fn verdict(&self, decision: u64, actor: String, approve: bool, note: String) -> Answer<'_, Decision>;
    /// A person halts all acting or allows it again. Answers once the audit holds it.
    fn halt(&self, halted: bool, actor: String, reason: String) -> Answer<'_, HaltState>;
    /// Whether acting is halted.
    fn halt_state(&self) -> HaltState;
}

/// Whether acting is halted, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HaltState {
    /// Nothing is carried out.
    pub halted: bool,
    /// Who halted it, in words; null while it is not.
    pub by: Option<String>,
}

/// Why the core did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// There is no such decision.
    #[error("there is no decision {0}")]
    NoSuchDecision(u64),
    /// It is not waiting for a verdict.
    #[error("{0}")]
    NotWaiting(String),
    /// The core is stopping, or its queue is full.
    #[error("{0}")]
    Unavailable(String),
}
