//! When to send which clock probe, and which answer belongs to which.
//!
//! Eight quick exchanges at the start of a stream, each as soon as the one before is answered; then one every few
//! seconds. An answer that comes late counts too: its long round trip says by itself how little it is worth.

use crate::clock::{Contradiction, Exchange};
use railwatch_engine::Timestamp;
use railwatch_wire::v1;
use std::{collections::VecDeque, time::Duration};

/// Exchanges at the start of a stream.
const QUICK: u64 = 8;
/// Probes that may wait for their answers; the oldest beyond are given up.
const UNDER_WAY_MAX: usize = 32;
/// Between exchanges afterwards.
pub const INTERVAL: Duration = Duration::from_secs(4);

/// The probes of one stream.
#[derive(Debug, Default)]
pub struct Probes {
    sent: u64,
    under_way: VecDeque<(u64, Timestamp)>,
}

impl Probes {
    /// The next probe.
    pub fn next(&mut self, now: Timestamp) -> v1::ClockProbe {
        self.sent += 1;
        if self.under_way.len() == UNDER_WAY_MAX {
            self.under_way.pop_front();
        }
        self.under_way.push_back((self.sent, now));
        v1::ClockProbe { id: self.sent }
    }

    /// The next probe should go at once.
    pub fn is_quick(&self) -> bool {
        self.sent < QUICK
    }

    /// The exchange that an answer completes.
    pub fn answered(&mut self, reply: &v1::ClockReply, arrived: Timestamp) -> Result<Exchange, Contradiction> {
        let at = self.under_way.iter().position(|(id, _)| *id == reply.id).ok_or(Contradiction)?;
        let (_, sent) = self.under_way.remove(at).ok_or(Contradiction)?;
        Ok(Exchange {
            sent,
            received_mono_ns: reply.received_mono_ns,
            answered_mono_ns: reply.sent_mono_ns,
            received_unix_ns: reply.received_unix_ns,
            answered_unix_ns: reply.sent_unix_ns,
            arrived,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Probes;
    use railwatch_engine::Timestamp;
    use railwatch_wire::v1::ClockReply;

    #[test]
    fn an_answer_counts_once_late_or_not_and_only_for_a_probe_that_was_sent() {
        let mut probes = Probes::default();
        let first = probes.next(Timestamp(10));
        let second = probes.next(Timestamp(20));
        let mut sent = |id| {
            probes.answered(&ClockReply { id, ..ClockReply::default() }, Timestamp(30)).map(|exchange| exchange.sent)
        };
        assert_eq!(sent(second.id), Ok(Timestamp(20)));
        assert_eq!(sent(first.id), Ok(Timestamp(10)));
        assert!(sent(first.id).is_err(), "answered before");
        assert!(sent(99).is_err(), "never sent");
    }

    #[test]
    fn an_agent_that_never_answers_costs_no_more_with_time() {
        let mut probes = Probes::default();
        for at in 0..1000 {
            probes.next(Timestamp(at));
        }
        assert_eq!(probes.under_way.len(), super::UNDER_WAY_MAX);
    }
}
