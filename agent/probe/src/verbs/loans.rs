//! Which queue pairs are lent to whom, and until when. Pure; time comes in.
//!
//! In: who asks, and what for. Out: whether there is room, and what has lapsed. Never: more than [`LOANS_MAX`] in all or
//! [`LOANS_OF_ONE_MAX`] of one address, or memory pinned beyond [`PINNED_BYTES_MAX`].

use super::exchange::{LEASE_MS, Refused};
use std::net::IpAddr;

/// Queue pairs lent at once.
pub const LOANS_MAX: usize = 64;
/// Of those, to one address.
pub const LOANS_OF_ONE_MAX: usize = 16;
/// Memory pinned for all of them together, bytes.
pub const PINNED_BYTES_MAX: usize = 8 << 20;

/// A loan.
#[derive(Debug)]
pub(super) struct Loan<Q> {
    source: IpAddr,
    session: u64,
    until_ns: u64,
    pinned_bytes: usize,
    pub(super) lent: Q,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Loans<Q>(Vec<Loan<Q>>);

impl<Q> Default for Loans<Q> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<Q> Loans<Q> {
    /// The loan of this session, which is renewed.
    pub(super) fn renewed(&mut self, source: IpAddr, session: u64, now_ns: u64) -> Option<&mut Q> {
        let loan = self.0.iter_mut().find(|loan| loan.source == source && loan.session == session)?;
        loan.until_ns = until_ns(now_ns);
        Some(&mut loan.lent)
    }

    /// Whether there is room for another.
    pub(super) fn room(&self, source: IpAddr, pinned_bytes: usize) -> Result<(), Refused> {
        let pinned: usize = self.0.iter().map(|loan| loan.pinned_bytes).sum();
        if self.0.len() >= LOANS_MAX || pinned + pinned_bytes > PINNED_BYTES_MAX {
            return Err(Refused::AllLent);
        }
        let of_one = self.0.iter().filter(|loan| loan.source == source).count();
        if of_one >= LOANS_OF_ONE_MAX { Err(Refused::ShareLent) } else { Ok(()) }
    }

    /// Lends.
    pub(super) fn lend(&mut self, (source, session): (IpAddr, u64), pinned_bytes: usize, lent: Q, now_ns: u64) {
        self.0.push(Loan { source, session, until_ns: until_ns(now_ns), pinned_bytes, lent });
    }

    /// Ends a loan before its time.
    pub(super) fn take_back(&mut self, source: IpAddr, session: u64) {
        self.0.retain(|loan| (loan.source, loan.session) != (source, session));
    }

    /// Ends those that were not renewed, or are `broken`.
    pub(super) fn lapse(&mut self, now_ns: u64, broken: impl Fn(&Q) -> bool) {
        self.0.retain(|loan| loan.until_ns > now_ns && !broken(&loan.lent));
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Q> {
        self.0.iter_mut().map(|loan| &mut loan.lent)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn until_ns(now_ns: u64) -> u64 {
    now_ns + u64::from(LEASE_MS) * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn source(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    /// Lends as many as there is room for.
    fn lend(loans: &mut Loans<u64>, source: IpAddr, pinned_bytes: usize, wanted: u64) -> (u64, Result<(), Refused>) {
        for session in 0..wanted {
            if let Err(refused) = loans.room(source, pinned_bytes) {
                return (session, Err(refused));
            }
            loans.lend((source, session), pinned_bytes, session, 0);
        }
        (wanted, Ok(()))
    }

    #[test]
    fn neither_one_member_nor_all_together_get_more_than_their_bound() {
        let mut loans = Loans::default();
        assert_eq!(lend(&mut loans, source(1), 64, 100), (LOANS_OF_ONE_MAX as u64, Err(Refused::ShareLent)));
        for n in 2..=4 {
            assert_eq!(lend(&mut loans, source(n), 64, LOANS_OF_ONE_MAX as u64), (LOANS_OF_ONE_MAX as u64, Ok(())));
        }
        assert_eq!(lend(&mut loans, source(5), 64, 1), (0, Err(Refused::AllLent)), "four members have all of them");
        loans.take_back(source(1), 3);
        assert_eq!(lend(&mut loans, source(5), 64, 1), (1, Ok(())));

        let mut large = Loans::default();
        let (lent, refused) = lend(&mut large, source(1), 1 << 20, 100);
        assert_eq!((lent, refused), (8, Err(Refused::AllLent)), "memory is bounded, too");
    }

    #[test]
    fn a_loan_lives_as_long_as_it_is_renewed_and_is_its_borrowers_alone() {
        let mut loans = Loans::default();
        loans.lend((source(1), 7), 64, "kept", 0);
        loans.lend((source(1), 8), 64, "left", 0);
        assert_eq!(loans.renewed(source(2), 7, SECOND), None, "another's");
        loans.take_back(source(2), 7);
        assert_eq!(loans.renewed(source(1), 7, 9 * SECOND).copied(), Some("kept"));
        loans.lapse(10 * SECOND, |_| false);
        assert_eq!(loans.iter_mut().map(|lent| *lent).collect::<Vec<_>>(), ["kept"]);
        loans.lend((source(3), 1), 64, "broken", 10 * SECOND);
        loans.lapse(11 * SECOND, |lent| *lent == "broken");
        assert_eq!(loans.iter_mut().count(), 1);
        loans.lapse(19 * SECOND, |_| false);
        assert!(loans.is_empty());
    }
}
