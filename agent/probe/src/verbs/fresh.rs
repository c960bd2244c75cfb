//! Whether a wish was made now, and by who received our answer: one that somebody recorded and says again moves nothing. Pure; time
//! comes in.
//!
//! In: wishes whose code is good, and the instant. Out: a ticket for the session's next wish, and whether this one has such a one and was
//! never seen. A ticket is a code over the asker's address, its session and a period of this process's clock, by a secret that never leaves it: it
//! costs no memory, needs no clock that hosts share, and is worth nothing to another address, to another session, after two
//! periods, or once this process was started anew. Within those, the sequences of a session only grow. Never: more than [`SESSIONS_MAX`]
//! sessions remembered, or one forgotten while a ticket of it may be good.

use super::exchange::{Loan, TICKET_BYTES, Ticket};
use crate::packet::{Key, signed};
use crate::prober::random;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Sessions remembered: beyond it, new ones are turned away until others are old.
pub(super) const SESSIONS_MAX: usize = 1024;
/// A ticket is good in the period it was made in and the next, nanoseconds: longer than a loan is.
pub(super) const PERIOD_NS: u64 = 15_000_000_000;

/// Why a wish is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// It has no ticket of now.
    NoTicket,
    /// It, or a later one of its session, was there before.
    Replayed,
    /// No more sessions can be remembered.
    Full,
}

/// What was seen of a session.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sequence: u64,
    at_ns: u64,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Fresh {
    secret: Key,
    seen: HashMap<(IpAddr, u64), Seen>,
}

impl Fresh {
    /// With a secret of its own.
    pub(super) fn new() -> io::Result<Self> {
        let mut secret = Vec::new();
        for _ in 0..4 {
            secret.extend(random()?.to_ne_bytes());
        }
        let secret = Key::new(&secret).ok_or_else(|| io::Error::other("a secret of 32 bytes is too short"))?;
        Ok(Self { secret, seen: HashMap::new() })
    }

    /// For the next wish of this session from there.
    pub(super) fn ticket(&self, from: SocketAddr, session: u64, now_ns: u64) -> Ticket {
        let code = self.code(from, session, now_ns / PERIOD_NS).finalize().into_bytes();
        std::array::from_fn(|at| code[at])
    }

    fn code(&self, from: SocketAddr, session: u64, period: u64) -> Hmac<Sha256> {
        let mut text = [0; 34];
        text[..16].copy_from_slice(&super::port::gid(from.ip()));
        text[16..18].copy_from_slice(&from.port().to_be_bytes());
        text[18..26].copy_from_slice(&session.to_be_bytes());
        text[26..].copy_from_slice(&period.to_be_bytes());
        signed(&text, TICKET_BYTES, &self.secret)
    }

    /// Whether a wish may be carried out; if so it is remembered.
    pub(super) fn take(&mut self, from: SocketAddr, loan: Loan, ticket: &Ticket, now_ns: u64) -> Result<(), Stale> {
        let period = now_ns / PERIOD_NS;
        let is_of = |period| self.code(from, loan.session, period).verify_truncated_left(ticket).is_ok();
        if !is_of(period) && !period.checked_sub(1).is_some_and(is_of) {
            return Err(Stale::NoTicket);
        }
        let key = (from.ip(), loan.session);
        if let Some(seen) = self.seen.get_mut(&key) {
            if loan.sequence <= seen.sequence {
                return Err(Stale::Replayed);
            }
            *seen = Seen { sequence: loan.sequence, at_ns: now_ns };
            return Ok(());
        }
        if self.seen.len() >= SESSIONS_MAX {
            // Older than any ticket that it had when it was seen last can be.
            self.seen.retain(|_, seen| now_ns.saturating_sub(seen.at_ns) < 2 * PERIOD_NS);
        }
        if self.seen.len() >= SESSIONS_MAX {
            return Err(Stale::Full);
        }
        self.seen.insert(key, Seen { sequence: loan.sequence, at_ns: now_ns });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 40_000);

    fn loan(session: u64, sequence: u64) -> Loan {
        Loan { session, sequence }
    }

    #[test]
    fn a_wish_is_taken_once_and_with_a_ticket_of_now_alone() {
        let mut fresh = Fresh::new().unwrap();
        let now_ns = 100 * PERIOD_NS;
        let ticket = fresh.ticket(FROM, 5, now_ns);
        assert_eq!(fresh.take(FROM, loan(5, 1), &[0; TICKET_BYTES], now_ns), Err(Stale::NoTicket), "as at first");
        assert_eq!(fresh.take(FROM, loan(5, 2), &ticket, now_ns), Ok(()));
        assert_eq!(fresh.take(FROM, loan(5, 2), &ticket, now_ns), Err(Stale::Replayed));
        assert_eq!(fresh.take(FROM, loan(5, 1), &ticket, now_ns), Err(Stale::Replayed), "an earlier one");
        assert_eq!(fresh.take(FROM, loan(5, 3), &ticket, now_ns + PERIOD_NS), Ok(()), "as long as a loan and longer");
        assert_eq!(fresh.take(FROM, loan(5, 4), &ticket, now_ns + 2 * PERIOD_NS), Err(Stale::NoTicket));

        let elsewhere = [
            ("another session", FROM, 6),
            ("another port", SocketAddr::new(FROM.ip(), 40_001), 5),
            ("another host", SocketAddr::new([10, 0, 0, 2].into(), 40_000), 5),
        ];
        for (whose, from, session) in elsewhere {
            assert_eq!(fresh.take(from, loan(session, 9), &ticket, now_ns), Err(Stale::NoTicket), "{whose}");
        }
        let mut anew = Fresh::new().unwrap();
        assert_eq!(anew.take(FROM, loan(5, 9), &ticket, now_ns), Err(Stale::NoTicket), "of the process before");
    }

    #[test]
    fn no_session_is_forgotten_while_its_tickets_are_good_and_no_more_than_its_bound_remembered() {
        let mut fresh = Fresh::new().unwrap();
        let count = SESSIONS_MAX as u64;
        for session in 0..count {
            assert_eq!(fresh.take(FROM, loan(session, 1), &fresh.ticket(FROM, session, 0), 0), Ok(()));
        }
        for now_ns in [0, 2 * PERIOD_NS - 1] {
            let ticket = fresh.ticket(FROM, count, now_ns);
            assert_eq!(fresh.take(FROM, loan(count, 1), &ticket, now_ns), Err(Stale::Full));
            let ticket = fresh.ticket(FROM, 3, 0);
            assert_eq!(fresh.take(FROM, loan(3, 1), &ticket, now_ns), Err(Stale::Replayed));
        }
        let (now_ns, old) = (2 * PERIOD_NS, fresh.ticket(FROM, 3, 0));
        let ticket = fresh.ticket(FROM, count, now_ns);
        assert_eq!(fresh.take(FROM, loan(count, 1), &ticket, now_ns), Ok(()));
        assert_eq!(fresh.take(FROM, loan(3, 1), &old, now_ns), Err(Stale::NoTicket), "forgotten, and worth nothing");
    }
}
