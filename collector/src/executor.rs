//! Carries approved orders out, each at most once per idempotency key.
//!
//! In: orders that are rows in the store already. Out: how each ended. Before every attempt it looks at the halt switch, at the
//! order's epoch and expiry, and whether the order was cancelled; the attempt is on record before it is made, so that after a crash it is made again
//! with the same key and never with another. It never decides, and never acts on an order that the store does not hold.

pub mod halt;
mod webhook;

pub use webhook::{WebhookConfig, WebhookError, signature};

use crate::clock::Timeline;
use railwatch_engine::{Decision, Incident, Order, Outcome};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use webhook::{Answer, Webhook};

/// Orders waiting for the executor at most.
const QUEUE_MAX: usize = 1_024;

/// An order with what its receiver wants to know.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// The order.
    pub order: Order,
    /// Its incident.
    pub incident: Option<Incident>,
    /// Its decision.
    pub decision: Option<Decision>,
    /// Attempts made before, by this run of the collector or an earlier one.
    #[serde(skip)]
    pub attempts: u32,
}

/// Where the executor puts on record what it is about to do, and how it ended.
pub trait Ledger: Send + 'static {
    /// The attempt is about to be made. Nothing is sent where this fails.
    fn sending(&self, key: &str, attempt: u32) -> Result<(), String>;
    /// The order is over. Not told again where this succeeds.
    fn finished(&self, key: &str, attempts: u32, outcome: &Outcome) -> Result<(), String>;
}

enum Input {
    Carry(Box<Job>),
    Cancel { key: String, reason: String },
    Stop,
}

/// The executor's thread.
pub struct Executor {
    inputs: SyncSender<Input>,
    thread: Option<JoinHandle<()>>,
}

impl Executor {
    /// Starts it. Without a webhook, every order is withheld.
    pub fn spawn(
        webhook: Option<WebhookConfig>,
        state_dir: PathBuf,
        epoch: u64,
        ledger: impl Ledger,
    ) -> Result<Self, WebhookError> {
        let webhook = webhook.map(Webhook::new).transpose()?;
        let (inputs, receiver) = sync_channel(QUEUE_MAX);
        let task =
            Task { webhook, state_dir, epoch, ledger, jobs: BTreeMap::new(), cancelled: BTreeMap::new(), count: 0 };
        let thread = std::thread::Builder::new().name("executor".to_owned()).spawn(move || task.run(&receiver)).ok();
        Ok(Self { inputs, thread })
    }

    /// Takes an order. Returns false where too many wait.
    pub fn carry(&self, job: Job) -> bool {
        self.inputs.try_send(Input::Carry(Box::new(job))).is_ok()
    }

    /// An order is not wanted any more. Returns false where that could not be told: the order then runs its course.
    pub fn cancel(&self, key: String, reason: String) -> bool {
        self.inputs.try_send(Input::Cancel { key, reason }).is_ok()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // An attempt under way ends by its timeout; what waits is on record and goes on with the next start.
        let _ = self.inputs.send(Input::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is left to do with an order.
enum Step {
    Attempt,
    /// It ended and is not yet on record.
    Record(Outcome),
}

struct Work {
    job: Job,
    step: Step,
    last_answer: Option<String>,
}

struct Task<L> {
    webhook: Option<Webhook>,
    state_dir: PathBuf,
    epoch: u64,
    ledger: L,
    /// By when it is due, then in the order it came.
    jobs: BTreeMap<(Instant, u64), Work>,
    cancelled: BTreeMap<String, String>,
    count: u64,
}

impl<L: Ledger> Task<L> {
    fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            let wait = self.jobs.keys().next().map(|(due, _)| due.saturating_duration_since(Instant::now()));
            let input = match wait {
                Some(wait) => match inputs.recv_timeout(wait) {
                    Ok(input) => Some(input),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
                None => match inputs.recv() {
                    Ok(input) => Some(input),
                    Err(_) => return,
                },
            };
            if input.into_iter().chain(inputs.try_iter()).any(|input| self.take(input)) {
                return;
            }
            let due =
                self.jobs.first_entry().filter(|entry| entry.key().0 <= Instant::now()).map(|entry| entry.remove());
            if let Some(work) = due {
                self.work(work);
            }
        }
    }

    /// Returns whether to stop.
    fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Carry(job) => self.later(Work { job: *job, step: Step::Attempt, last_answer: None }, Duration::ZERO),
            Input::Cancel { key, reason } => {
                if self.jobs.values().any(|work| work.job.order.idempotency_key == key) {
                    self.cancelled.insert(key, reason);
                }
            }
            Input::Stop => return true,
        }
        false
    }

    fn later(&mut self, work: Work, pause: Duration) {
        self.count += 1;
        self.jobs.insert((Instant::now() + pause, self.count), work);
    }

    fn work(&mut self, mut work: Work) {
        let outcome = match std::mem::replace(&mut work.step, Step::Attempt) {
            Step::Record(outcome) => Some(outcome),
            Step::Attempt => self.attempt(&mut work),
        };
        let key = work.job.order.idempotency_key.clone();
        match outcome {
            Some(outcome) => match self.ledger.finished(&key, work.job.attempts, &outcome) {
                Ok(()) => {
                    self.cancelled.remove(&key);
                }
                Err(why) => {
                    tracing::error!(
                        order = key,
                        why,
                        "an order ended and that could not be put on record; trying again"
                    );
                    self.later(Work { step: Step::Record(outcome), ..work }, Duration::from_secs(1));
                }
            },
            None => {
                let pause = self.pause(&work);
                self.later(work, pause);
            }
        }
    }

    /// Makes an attempt if nothing forbids it. `None`: again later.
    fn attempt(&self, work: &mut Work) -> Option<Outcome> {
        if let Some(outcome) = self.forbidden(work) {
            return Some(outcome);
        }
        let Some(webhook) = &self.webhook else { return Some(withheld(work, NO_WEBHOOK.to_owned())) };
        let key = work.job.order.idempotency_key.clone();
        if let Err(why) = self.ledger.sending(&key, work.job.attempts + 1) {
            tracing::warn!(order = key, why, "an attempt could not be put on record, so it is not made; trying again");
            work.last_answer = Some(why);
            return None;
        }
        // Putting it on record takes time, in which somebody may have halted.
        if let Some(outcome) = self.forbidden(work) {
            return Some(outcome);
        }
        let body = match serde_json::to_string(&work.job) {
            Ok(body) => body,
            Err(error) => return Some(Outcome::Failed { detail: format!("the order does not serialise: {error}") }),
        };
        work.job.attempts += 1;
        match webhook.send(&key, work.job.order.epoch, &body) {
            Answer::Done(detail) => Some(Outcome::Done { detail }),
            Answer::Refused(detail) => Some(Outcome::Failed { detail: format!("refused: {detail}") }),
            Answer::Again(detail) => {
                tracing::warn!(
                    order = key,
                    attempt = work.job.attempts,
                    answer = detail,
                    "an order was not carried out; trying again"
                );
                work.last_answer = Some(detail);
                None
            }
        }
    }

    /// Why no attempt may be made now.
    fn forbidden(&self, work: &Work) -> Option<Outcome> {
        let order = &work.job.order;
        if let Some(halt) = halt::is_set(&self.state_dir) {
            return Some(withheld(work, format!("halted by {}: {}", halt.actor, halt.reason)));
        }
        if let Some(reason) = self.cancelled.get(&order.idempotency_key) {
            return Some(withheld(work, reason.clone()));
        }
        if order.epoch < self.epoch {
            let why = format!("the order is of epoch {}, and epoch {} has begun", order.epoch, self.epoch);
            return Some(withheld(work, why));
        }
        if Timeline::now() >= order.expires {
            return Some(if work.job.attempts == 0 {
                withheld(work, "it expired before it could be sent".to_owned())
            } else {
                Outcome::Failed { detail: format!("it expired{}", tried(work)) }
            });
        }
        let Some(webhook) = &self.webhook else { return Some(withheld(work, NO_WEBHOOK.to_owned())) };
        if !webhook.config().actions.contains(&order.action) {
            return Some(withheld(work, format!("{} is not among webhook.actions", order.action)));
        }
        None
    }

    /// Doubles with each attempt, less up to a quarter that depends on key and attempt: orders that failed together come apart.
    fn pause(&self, work: &Work) -> Duration {
        let (first, most) = self
            .webhook
            .as_ref()
            .map_or((500, 30_000), |webhook| (webhook.config().backoff_ms, webhook.config().backoff_max_ms));
        let full = first.saturating_mul(1 << work.job.attempts.saturating_sub(1).min(20)).min(most);
        let hash = Sha256::digest(format!("{}/{}", work.job.order.idempotency_key, work.job.attempts));
        let less = full / 4 * u64::from(hash[0]) / 255;
        Duration::from_millis(full - less)
    }
}

const NO_WEBHOOK: &str = "no webhook is configured: set [webhook] url and secret_file in the collector's configuration";

fn withheld(work: &Work, why: String) -> Outcome {
    Outcome::Withheld { detail: format!("{why}{}", tried(work)) }
}

fn tried(work: &Work) -> String {
    match (work.job.attempts, &work.last_answer) {
        (0, _) => String::new(),
        (attempts, Some(answer)) => format!(" (after {attempts} attempts, the last: {answer})"),
        (attempts, None) => format!(" (after {attempts} attempts that may have arrived)"),
    }
}

#[cfg(test)]
mod tests;
