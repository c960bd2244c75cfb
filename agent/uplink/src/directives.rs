//! Directives of the collector: each carried out once, and answered.
//!
//! In: directives, on any connection. Out: their results. A directive that was carried out is answered again under its
//! identifier, not carried out again; one of an earlier epoch than was heard of is refused, because it comes from a
//! collector that was replaced (a fencing token: the epoch grows with each start of the store). Bounded: so many answers
//! are remembered. Never: a wait; whoever carries a directive out returns at once.

use railwatch_wire::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
use railwatch_wire::v1::{Burst, Directive, DirectiveResult, directive};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Answers that are remembered.
const ANSWERED_MAX: usize = 64;

/// Whoever carries directives out. Called on the connection's thread: must return at once.
pub trait Directives: Send + Sync {
    /// Reads faster for a while; says what that comes to.
    ///
    /// # Errors
    /// Why not, for the operator.
    fn burst(&self, burst: &Burst) -> Result<String, String>;
}

/// What is known of directives over all connections.
#[derive(Default)]
pub(crate) struct Docket {
    carrier: OnceLock<Arc<dyn Directives>>,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// The highest heard of.
    epoch: u64,
    /// Of those that were carried out or refused by who should, the newest last.
    answered: VecDeque<DirectiveResult>,
}

impl Docket {
    /// Who carries them out. Once; another call changes nothing.
    pub fn set_carrier(&self, carrier: Arc<dyn Directives>) {
        // A second one is a defect of the caller that costs nothing.
        let _ = self.carrier.set(carrier);
    }

    /// A collector of this epoch welcomed the agent.
    pub fn heard(&self, epoch: u64) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.epoch = ledger.epoch.max(epoch);
    }

    /// Whether something of this epoch is to be heeded: no collector of a later one was heard of.
    pub fn admits(&self, epoch: u64) -> bool {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = epoch >= ledger.epoch;
        ledger.epoch = ledger.epoch.max(epoch);
        is_current
    }

    /// Another installation's epochs begin anew.
    pub fn forget(&self) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = Ledger::default();
    }

    /// Carries a directive out, and says what came of it.
    pub fn take(&self, directive: &Directive) -> DirectiveResult {
        let Directive { id, collector_epoch, act } = directive;
        let answer = |done, message: String| DirectiveResult { id: id.clone(), done, message };
        if id.is_empty() || id.len() > NAME_BYTES_MAX {
            let id = id.chars().take(NAME_BYTES_MAX / 4).collect();
            let message = format!("the directive's identifier must have 1 to {NAME_BYTES_MAX} bytes");
            return DirectiveResult { id, done: false, message };
        }
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if *collector_epoch < ledger.epoch {
            let message = format!(
                "refused: it is of the collector's epoch {collector_epoch}, and one of epoch {} was heard of since",
                ledger.epoch
            );
            return answer(false, message);
        }
        ledger.epoch = *collector_epoch;
        if let Some(before) = ledger.answered.iter().find(|before| before.id == *id) {
            return before.clone();
        }
        let outcome = match (act, self.carrier.get()) {
            (Some(directive::Act::Burst(burst)), Some(carrier)) if burst.reason.len() <= TEXT_BYTES_MAX => {
                carrier.burst(burst)
            }
            (Some(directive::Act::Burst(_)), Some(_)) => {
                Err(format!("the reason for the burst is longer than {TEXT_BYTES_MAX} bytes"))
            }
            (Some(_), None) => Err("the agent is starting: send it again in a moment".to_owned()),
            (None, _) => Err("this agent's version does not know what to do: upgrade it".to_owned()),
        };
        let result = match outcome {
            Ok(message) => answer(true, message),
            Err(message) => answer(false, message),
        };
        if self.carrier.get().is_some() {
            if ledger.answered.len() == ANSWERED_MAX {
                ledger.answered.pop_front();
            }
            ledger.answered.push_back(result.clone());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[derive(Default)]
    struct Carrier(AtomicU32);

    impl Directives for Carrier {
        fn burst(&self, burst: &Burst) -> Result<String, String> {
            self.0.fetch_add(1, Relaxed);
            if burst.duration_ms > 0 { Ok("a burst".into()) } else { Err("of no time".into()) }
        }
    }

    fn directive(id: &str, epoch: u64, duration_ms: u32) -> Directive {
        let act = Some(directive::Act::Burst(Burst { duration_ms, reason: "a test".into() }));
        Directive { id: id.into(), collector_epoch: epoch, act }
    }

    #[test]
    fn each_is_carried_out_once_and_answered_again_and_older_epochs_are_refused() {
        let (docket, carrier) = (Docket::default(), Arc::new(Carrier::default()));
        assert!(!docket.take(&directive("early", 3, 1)).done, "nobody is there to carry it out");
        docket.set_carrier(carrier.clone());
        let unknown = Directive { act: None, ..directive("unknown", 3, 1) };
        // What comes, whether it is done, and how many were carried out by then.
        for (place, (directive, done, carried)) in [
            (directive("early", 3, 1), true, 1),
            (directive("early", 3, 1), true, 1),
            (directive("refused", 3, 0), false, 2),
            (directive("refused", 3, 0), false, 2),
            (directive("old", 2, 1), false, 2),
            (directive("new", 4, 1), true, 3),
            (directive("early", 3, 1), false, 3),
            (directive("early", 4, 1), true, 3),
            (unknown, false, 3),
            (directive("", 4, 1), false, 3),
            (directive(&"x".repeat(NAME_BYTES_MAX + 1), 4, 1), false, 3),
        ]
        .into_iter()
        .enumerate()
        {
            let result = docket.take(&directive);
            assert_eq!((result.done, carrier.0.load(Relaxed)), (done, carried), "case {place}: {result:?}");
            assert!(!result.message.is_empty() && result.id.len() <= NAME_BYTES_MAX);
        }
        docket.heard(9);
        assert!(!docket.take(&directive("behind", 8, 1)).done, "a welcome tells the epoch too");
        assert!(!docket.admits(8) && docket.admits(9) && docket.admits(10) && !docket.admits(9));
        docket.forget();
        assert!(docket.take(&directive("elsewhere", 1, 1)).done);
    }

    #[test]
    fn as_many_answers_as_are_bounded_are_remembered() {
        let (docket, carrier) = (Docket::default(), Arc::new(Carrier::default()));
        docket.set_carrier(carrier.clone());
        (0..=ANSWERED_MAX).for_each(|n| drop(docket.take(&directive(&n.to_string(), 1, 1))));
        let all = u32::try_from(ANSWERED_MAX + 1).unwrap();
        docket.take(&directive("1", 1, 1));
        assert_eq!(carrier.0.load(Relaxed), all, "the oldest but one is remembered");
        docket.take(&directive("0", 1, 1));
        assert_eq!(carrier.0.load(Relaxed), all + 1);
    }
}
