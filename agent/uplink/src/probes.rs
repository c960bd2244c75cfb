//! Plans of probes and requests for traces, from a connection to whoever probes; what comes of them, back.
//!
//! In: plans, handed over at once; requests, carried out one at a time. Out: results, behind signals and windows. Results are
//! state: one that finds no place, or nobody connected, is lost, and counted. A plan of an earlier epoch than was heard of
//! is refused, as a directive is. Never: a result before a signal, a window or a sign of life that waits; a wait for whoever probes.

use crate::directives::Docket;
use railwatch_wire::v1::{AgentMessage, ProbePlan, TraceRequest, TraceResult, agent_message};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::mpsc;

/// Traces that wait while one is carried out.
const TRACES_WAITING_MAX: usize = 4;
/// Results that wait for HTTP/2.
const RESULTS_WAITING_MAX: usize = 16;

/// Whoever probes on this host.
pub trait Probes: Send + Sync {
    /// Takes a plan in place of the one before. Called on the connection's thread: must return at once.
    fn plan(&self, plan: ProbePlan);
    /// Carries out a trace. Called on a thread that may work and wait; one at a time.
    fn trace(&self, request: &TraceRequest) -> TraceResult;
    /// The agent is pointed at another installation, whose epochs begin anew: nothing is to be probed until it plans.
    fn forget(&self);
}

/// Whoever probes, once that is known; until then the last plan that came, as a collector may be quicker than the agent's start.
#[derive(Default)]
pub(crate) struct ProbesLater {
    probes: OnceLock<Arc<dyn Probes>>,
    early: Mutex<Option<ProbePlan>>,
}

impl ProbesLater {
    /// Once; another call changes nothing.
    pub fn set(&self, probes: Arc<dyn Probes>) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        // A second one is a defect of the caller that costs nothing.
        let _ = self.probes.set(probes);
        if let (Some(probes), Some(plan)) = (self.probes.get(), early.take()) {
            probes.plan(plan);
        }
    }

    /// Takes a plan, now or later.
    fn plan(&self, plan: ProbePlan) {
        // Under the lock, so that a plan of before does not come after one of now.
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        match self.probes.get() {
            Some(probes) => probes.plan(plan),
            None => *early = Some(plan),
        }
    }

    /// Another installation's plans are to come.
    pub fn forget(&self) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        *early = None;
        if let Some(probes) = self.probes.get() {
            probes.forget();
        }
    }
}

/// A connection's end of it.
pub(crate) struct ProbeDesk {
    probes: Arc<ProbesLater>,
    traces: mpsc::Sender<TraceRequest>,
    results: mpsc::Sender<AgentMessage>,
}

impl ProbeDesk {
    /// For one connection: what goes out comes from the receiver, and goes in by the sender. Ends with it.
    pub fn open(probes: Arc<ProbesLater>) -> (Self, mpsc::Sender<AgentMessage>, mpsc::Receiver<AgentMessage>) {
        let (traces, mut asked) = mpsc::channel::<TraceRequest>(TRACES_WAITING_MAX);
        let (results, out) = mpsc::channel(RESULTS_WAITING_MAX);
        let desk = Self { probes: Arc::clone(&probes), traces, results: results.clone() };
        let answers = results.clone();
        tokio::spawn(async move {
            while let Some(request) = asked.recv().await {
                let (probes, id) = (probes.probes.get().cloned(), request.id);
                let traced = tokio::task::spawn_blocking(move || match probes {
                    Some(probes) => probes.trace(&request),
                    None => refusal(id, "this agent does not probe, or is starting: see [probe] in its configuration"),
                });
                let result =
                    traced.await.unwrap_or_else(|_| refusal(id, "the trace ended by a defect of the agent's own"));
                if answers.send(traced_message(result)).await.is_err() {
                    return;
                }
            }
        });
        (desk, results, out)
    }

    /// Hands a plan over, unless its collector was replaced.
    pub fn plan(&self, plan: ProbePlan, docket: &Docket) {
        if !docket.admits(plan.collector_epoch) {
            tracing::warn!(epoch = plan.collector_epoch, "a plan of probes is refused: its collector was replaced");
        } else {
            self.probes.plan(plan);
        }
    }

    /// Takes a request for a trace, or refuses it.
    pub fn trace(&self, request: TraceRequest) {
        if let Err(mpsc::error::TrySendError::Full(request)) = self.traces.try_send(request) {
            let why = "the agent carries out as many traces as it takes at a time: ask again in a moment";
            // Where even this finds no place, the collector's own patience ends the request.
            let _ = self.results.try_send(traced_message(refusal(request.id, why)));
        }
    }
}

fn refusal(id: u64, why: &str) -> TraceResult {
    TraceResult { id, flows: vec![], refused: why.to_owned() }
}

fn traced_message(result: TraceResult) -> AgentMessage {
    AgentMessage { body: Some(agent_message::Body::TraceResult(result)) }
}
