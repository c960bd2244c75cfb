//! Who may hold a connection to the responder, and for how long. Pure; times come in.
//!
//! In: that one came, that it proved the cluster's key, that it was heard, that it ended. Out: whether it may stay, and who must go.
//! One that has not proved the key within [`PROOF`] goes; where too many are waiting to, the one that has waited longest. So whoever has
//! not the key takes no room from those who have it. Never: more than [`SEATS_MAX`] in all.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// Connections in all.
pub const SEATS_MAX: usize = 4096;
/// Of those, connections that have proved nothing yet.
pub const UNPROVED_MAX: usize = 256;
/// How long a connection may take to prove the key by its first probe.
pub const PROOF: Duration = Duration::from_secs(1);
/// How long one may stay without a probe.
pub const IDLE: Duration = Duration::from_secs(120);
const PROOF_NS: u64 = PROOF.as_nanos() as u64;
const IDLE_NS: u64 = IDLE.as_nanos() as u64;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// For anybody.
    InAll,
    /// For this source.
    OfSource,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    source: IpAddr,
    is_proved: bool,
    since_ns: u64,
}

/// All connections, by number: a later one has a greater.
#[derive(Debug)]
pub(super) struct Seats {
    seats_max: usize,
    per_source_max: usize,
    seats: BTreeMap<u64, Seat>,
    by_source: HashMap<IpAddr, usize>,
    unproved: BTreeMap<u64, u64>,
}

impl Seats {
    /// So many in all, [`SEATS_MAX`] at most, and so many of one source.
    pub(super) fn new(seats_max: usize, per_source_max: usize) -> Self {
        Self {
            seats_max: seats_max.clamp(1, SEATS_MAX),
            per_source_max: per_source_max.max(1),
            seats: BTreeMap::new(),
            by_source: HashMap::new(),
            unproved: BTreeMap::new(),
        }
    }

    /// One comes. Which other must go for it, if one must.
    pub(super) fn take(&mut self, number: u64, source: IpAddr, now_ns: u64) -> Result<Option<u64>, Full> {
        if self.by_source.get(&source).is_some_and(|held| *held >= self.per_source_max) {
            return Err(Full::OfSource);
        }
        let is_full = self.seats.len() >= self.seats_max;
        let first = self.unproved.keys().next().copied();
        let goes = match first.filter(|_| is_full || self.unproved.len() >= UNPROVED_MAX) {
            None if is_full => return Err(Full::InAll),
            goes => goes,
        };
        if let Some(goes) = goes {
            self.leave(goes);
        }
        self.seats.insert(number, Seat { source, is_proved: false, since_ns: now_ns });
        self.unproved.insert(number, now_ns);
        *self.by_source.entry(source).or_default() += 1;
        Ok(goes)
    }

    /// It sent a probe with the cluster's key. Whether that is the first.
    pub(super) fn heard(&mut self, number: u64, now_ns: u64) -> bool {
        let Some(seat) = self.seats.get_mut(&number) else { return false };
        seat.since_ns = now_ns;
        self.unproved.remove(&number);
        !std::mem::replace(&mut seat.is_proved, true)
    }

    /// It has ended.
    pub(super) fn leave(&mut self, number: u64) {
        self.unproved.remove(&number);
        let Some(Seat { source, .. }) = self.seats.remove(&number) else { return };
        if let Some(held) = self.by_source.get_mut(&source) {
            *held -= 1;
            if *held == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// Whether it has proved the key.
    pub(super) fn is_proved(&self, number: u64) -> bool {
        self.seats.get(&number).is_some_and(|seat| seat.is_proved)
    }

    /// How many there are.
    pub(super) fn held(&self) -> usize {
        self.seats.len()
    }

    /// Who has taken too long to prove the key.
    pub(super) fn strangers(&self, now_ns: u64) -> Vec<u64> {
        let late = |since_ns: u64| now_ns.saturating_sub(since_ns) >= PROOF_NS;
        self.unproved.iter().take_while(|(_, since_ns)| late(**since_ns)).map(|(number, _)| *number).collect()
    }

    /// Who has sent nothing for too long.
    pub(super) fn idle(&self, now_ns: u64) -> Vec<u64> {
        let is_idle = |seat: &Seat| seat.is_proved && now_ns.saturating_sub(seat.since_ns) >= IDLE_NS;
        self.seats.iter().filter(|(_, seat)| is_idle(seat)).map(|(number, _)| *number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u64) -> IpAddr {
        IpAddr::V4(u32::try_from(n).unwrap_or(0).into())
    }

    #[test]
    fn strangers_take_no_room_from_members() {
        let mut seats = Seats::new(SEATS_MAX, SEATS_MAX);
        assert_eq!(seats.take(0, source(1), 0), Ok(None));
        assert!(seats.heard(0, 1) && !seats.heard(0, 2), "proved once");
        // A flood: the oldest of it goes, never the member.
        for number in 1..=UNPROVED_MAX as u64 {
            assert_eq!(seats.take(number, source(9), number), Ok(None));
        }
        for number in 1..1000 {
            let next = UNPROVED_MAX as u64 + number;
            assert_eq!(seats.take(next, source(9), next), Ok(Some(number)));
        }
        assert_eq!((seats.held(), seats.is_proved(0)), (UNPROVED_MAX + 1, true));
        // A member that comes in the middle of it has its time to prove the key.
        assert!(seats.take(5000, source(2), 5000).is_ok() && seats.heard(5000, 5001) && seats.is_proved(5000));
    }

    #[test]
    fn there_is_room_for_so_many_in_all_and_of_a_source() {
        let mut seats = Seats::new(3, 2);
        for (number, from, expected) in
            [(0, 1, Ok(None)), (1, 1, Ok(None)), (2, 1, Err(Full::OfSource)), (3, 2, Ok(None))]
        {
            assert_eq!(seats.take(number, source(from), 0), expected);
            seats.heard(number, 0);
        }
        assert_eq!(seats.take(4, source(3), 0), Err(Full::InAll), "all have proved the key");
        seats.leave(1);
        assert_eq!(seats.take(5, source(1), 0), Ok(None));
        seats.leave(77);
        assert_eq!(seats.held(), 3);
    }

    #[test]
    fn who_proves_nothing_goes_soon_and_who_is_silent_goes_late() {
        let mut seats = Seats::new(9, 9);
        seats.take(1, source(1), 0).ok();
        seats.take(2, source(2), 0).ok();
        seats.heard(2, 10);
        assert_eq!((seats.strangers(PROOF_NS - 1), seats.strangers(PROOF_NS)), (vec![], vec![1]));
        assert_eq!((seats.idle(IDLE_NS + 9), seats.idle(IDLE_NS + 10)), (vec![], vec![2]));
        seats.heard(2, 20);
        assert!(seats.idle(IDLE_NS + 10).is_empty());
    }
}
