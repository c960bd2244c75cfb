//! When to send which clock probe, and which answer belongs to which.
//!
//! Eight quick exchanges at the start of a stream, each as soon as the one before is answered; then one every few
//! seconds. One probe is under way at a time; one that is not answered in time is given up.

use crate::clock::{Contradiction, Exchange};
use railwatch_engine::Timestamp;
use railwatch_wire::v1;
use std::time::Duration;

/// Exchanges at the start of a stream.
const QUICK: u64 = 8;
/// Between exchanges afterwards, and the longest wait for an answer.
pub const INTERVAL: Duration = Duration::from_secs(4);

/// The probes of one stream.
#[derive(Debug, Default)]
pub struct Probes {
    sent: u64,
    under_way: Option<(u64, Timestamp)>,
}

impl Probes {
    /// The next probe; the one before is given up if it is still under way.
    pub fn next(&mut self, now: Timestamp) -> v1::ClockProbe {
        self.sent += 1;
        self.under_way = Some((self.sent, now));
        v1::ClockProbe { id: self.sent }
    }

    /// The next probe should go at once.
    pub fn is_quick(&self) -> bool {
        self.sent < QUICK
    }

    /// The exchange that an answer completes.
    pub fn answered(&mut self, reply: &v1::ClockReply, arrived: Timestamp) -> Result<Exchange, Contradiction> {
        let (_, sent) = self.under_way.take_if(|(id, _)| *id == reply.id).ok_or(Contradiction)?;
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
    fn an_answer_counts_once_and_only_for_the_probe_under_way() {
        let mut probes = Probes::default();
        let first = probes.next(Timestamp(10));
        let second = probes.next(Timestamp(20));
        let reply = |id| ClockReply { id, ..ClockReply::default() };
        assert!(probes.answered(&reply(first.id), Timestamp(30)).is_err(), "given up");
        assert!(probes.answered(&reply(99), Timestamp(30)).is_err(), "never sent");
        assert_eq!(probes.answered(&reply(second.id), Timestamp(30)).map(|exchange| exchange.sent), Ok(Timestamp(20)));
        assert!(probes.answered(&reply(second.id), Timestamp(30)).is_err(), "answered before");
    }
}
