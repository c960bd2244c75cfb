//! The rule. Pure: looks in, changes out, the same for the same input.
//!
//! In: at each look, the sequence number of every live rank that hosts told of, and whether its host is heard now. Out: a
//! [`Change`] where a few ranks of a communicator stand at its lowest number, longer than their own pace justifies, while all others
//! have gone past it and now can but wait; and where those go on. Numbers are of calls enqueued, so that ranks that wait may stand at
//! several numbers: only those at the lowest are to blame. Where many stand there, they wait in it together, and no rank is to blame.
//! Never: a word where a rank is not known or its host not heard, or where a rank of the same host has gone on, which the host's own
//! agent tells (`agent/placement/src/stall.rs`).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const SECOND_NS: u64 = 1_000_000_000;
/// As on the host: how long a rank that others passed may stand still; so many times the longest pause that it lately made; and where
/// its pace is not known.
const BEHIND_NS_MIN: u64 = 10 * SECOND_NS;
const BEHIND_PAUSES: u64 = 3;
const BEHIND_NS_NEW: u64 = 300 * SECOND_NS;
/// Looks at which a rank had moved on until its pace is known.
const MOVES_MIN: u32 = 16;
/// The longest pauses of this many last spans of moves count.
const SPANS: usize = 4;
/// Moves in a span.
const SPAN_MOVES: u32 = 256;
/// Of so many ranks one may be behind and be to blame; one always may.
const RANKS_PER_BEHIND: usize = 4;
/// Ranks that are followed; communicators with further ones are not judged.
pub const RANKS_MAX: usize = 65_536;

/// A rank of a communicator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// Of the communicator; alike on all ranks.
    pub identity: u64,
    /// Its number in the communicator.
    pub rank: u32,
    /// Its host.
    pub host: Arc<str>,
    /// Its process there.
    pub pid: u32,
}

/// A rank, as its host last told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub rank: Rank,
    /// Ranks of its communicator.
    pub ranks: u32,
    /// Collectives it has enqueued.
    pub sequence: u64,
    /// Its host is heard now.
    pub is_fresh: bool,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A rank stands still and others went on.
    Behind {
        /// Who stands still.
        rank: Rank,
        /// At which number.
        sequence: u64,
        /// Since so long.
        still_ns: u64,
        /// The rank that is furthest.
        ahead: Rank,
        /// Its number.
        ahead_sequence: u64,
        /// Ranks that stand so.
        behind: usize,
        /// Of how many.
        ranks: u32,
    },
    /// A rank that was told of goes on.
    Resumed {
        /// Which.
        rank: Rank,
        /// Its number now.
        sequence: u64,
        /// It had stood still so long.
        still_ns: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Followed {
    sequence: u64,
    moved_ns: u64,
    moves: u32,
    /// Longest pauses of the last spans of moves, the running one first.
    pauses_ns: [u64; SPANS],
    told: bool,
    seen: bool,
}

impl Followed {
    fn moved(&mut self, sequence: u64, now_ns: u64) {
        self.sequence = sequence;
        // What was told as standing still is no pace.
        if self.moves > 0 && !self.told {
            self.pauses_ns[0] = self.pauses_ns[0].max(now_ns.saturating_sub(self.moved_ns));
        }
        (self.moved_ns, self.moves, self.told) = (now_ns, self.moves.saturating_add(1), false);
        if self.moves.is_multiple_of(SPAN_MOVES) {
            self.pauses_ns.rotate_right(1);
            self.pauses_ns[0] = 0;
        }
    }

    fn may_stand_ns(&self) -> u64 {
        let longest_ns = self.pauses_ns.into_iter().max().unwrap_or(0);
        if self.moves < MOVES_MIN { BEHIND_NS_NEW } else { BEHIND_NS_MIN.max(BEHIND_PAUSES.saturating_mul(longest_ns)) }
    }
}

/// One communicator at one look.
struct Group<'s> {
    ranks: u32,
    seen: Vec<&'s Seen>,
    is_fresh: bool,
}

/// Follows the communicators of all hosts.
#[derive(Debug, Default)]
pub struct Detector {
    followed: HashMap<Rank, Followed>,
}

impl Detector {
    /// Takes what hosts tell at `now_ns` (a clock that does not go back), every second or so; who is not among it has ended. At
    /// most so many changes; what waits comes with the next look.
    pub fn look(&mut self, now_ns: u64, found: &[Seen], changes_max: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        self.followed.values_mut().for_each(|followed| followed.seen = false);
        let mut groups: HashMap<u64, Group<'_>> = HashMap::new();
        for seen in found {
            let Seen { rank, ranks, sequence, is_fresh } = seen;
            let group =
                groups.entry(rank.identity).or_insert(Group { ranks: *ranks, seen: Vec::new(), is_fresh: true });
            group.is_fresh &= *is_fresh;
            let has_room = self.followed.len() < RANKS_MAX;
            match self.followed.entry(rank.clone()) {
                Entry::Occupied(entry) => {
                    let followed = entry.into_mut();
                    followed.seen = true;
                    if *sequence != followed.sequence && (!followed.told || changes.len() < changes_max) {
                        if followed.told {
                            let still_ns = now_ns.saturating_sub(followed.moved_ns);
                            changes.push(Change::Resumed { rank: rank.clone(), sequence: *sequence, still_ns });
                        }
                        followed.moved(*sequence, now_ns);
                    }
                    group.seen.push(seen);
                }
                Entry::Vacant(entry) if has_room => {
                    let new = Followed {
                        sequence: *sequence,
                        moved_ns: now_ns,
                        moves: 0,
                        pauses_ns: [0; SPANS],
                        told: false,
                        seen: true,
                    };
                    entry.insert(new);
                    group.seen.push(seen);
                }
                Entry::Vacant(_) => {}
            }
        }
        self.followed.retain(|_, followed| followed.seen);
        self.judge(now_ns, &groups, changes_max, &mut changes);
        changes
    }

    fn judge(&mut self, now_ns: u64, groups: &HashMap<u64, Group<'_>>, changes_max: usize, changes: &mut Vec<Change>) {
        // A process that hangs does so in all its communicators: one speaks, the largest.
        let told = self.followed.iter().filter(|(_, followed)| followed.told);
        let mut spoken: HashSet<(Arc<str>, u32)> = told.map(|(rank, _)| (Arc::clone(&rank.host), rank.pid)).collect();
        let mut groups: Vec<_> = groups.iter().collect();
        groups.sort_by_key(|(identity, group)| (std::cmp::Reverse(group.ranks), **identity));
        for (_, group) in groups {
            let Some((behind, ahead)) = self.behind(now_ns, group) else { continue };
            for seen in &behind {
                let rank = &seen.rank;
                let Some(followed) = self.followed.get_mut(rank).filter(|followed| !followed.told) else { continue };
                if changes.len() >= changes_max || !spoken.insert((Arc::clone(&rank.host), rank.pid)) {
                    continue;
                }
                followed.told = true;
                changes.push(Change::Behind {
                    rank: rank.clone(),
                    sequence: seen.sequence,
                    still_ns: now_ns.saturating_sub(followed.moved_ns),
                    ahead: ahead.rank.clone(),
                    ahead_sequence: ahead.sequence,
                    behind: behind.len(),
                    ranks: group.ranks,
                });
            }
        }
    }

    /// Who is to blame in a communicator, in order of rank, and who is furthest.
    fn behind<'s>(&self, now_ns: u64, group: &Group<'s>) -> Option<(Vec<&'s Seen>, &'s Seen)> {
        let numbers: HashSet<u32> = group.seen.iter().map(|seen| seen.rank.rank).collect();
        let is_whole = numbers.len() == group.seen.len() && numbers.len() == group.ranks as usize;
        if !is_whole || !group.is_fresh {
            return None;
        }
        let lowest = group.seen.iter().map(|seen| seen.sequence).min()?;
        let ahead = *group.seen.iter().max_by_key(|seen| (seen.sequence, std::cmp::Reverse(seen.rank.rank)))?;
        let mut behind: Vec<_> = group.seen.iter().copied().filter(|seen| seen.sequence == lowest).collect();
        let are_few = behind.len() <= (group.seen.len() / RANKS_PER_BEHIND).max(1);
        let stand = |seen: &Seen| {
            let of = self.followed.get(&seen.rank);
            of.is_some_and(|followed| now_ns.saturating_sub(followed.moved_ns) >= followed.may_stand_ns())
        };
        if ahead.sequence == lowest || !are_few || !behind.iter().all(|seen| stand(seen)) {
            return None;
        }
        let went_on: HashSet<&str> =
            group.seen.iter().filter(|seen| seen.sequence > lowest).map(|seen| &*seen.rank.host).collect();
        behind.retain(|seen| !went_on.contains(&*seen.rank.host));
        behind.sort_by_key(|seen| seen.rank.rank);
        Some((behind, ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a rank shows at a second: its number, and whether its host is heard; `None` where it is not known.
    type Shown = fn(u64, u32) -> Option<(u64, bool)>;

    /// Second, rank and whether it is behind or goes on, of all changes; ranks sit so many on a host, a look each second.
    fn run(seconds: u64, ranks: u32, per_host: u32, shown: Shown) -> Vec<(u64, u32, &'static str)> {
        let (mut detector, mut told) = (Detector::default(), Vec::new());
        for second in 0..seconds {
            let seen = |number: u32| {
                let (sequence, is_fresh) = shown(second, number)?;
                let host = format!("h{}", number / per_host).into();
                let rank = Rank { identity: 7, rank: number, host, pid: 100 + number };
                Some(Seen { rank, ranks, sequence, is_fresh })
            };
            let found: Vec<_> = (0..ranks).filter_map(seen).collect();
            for change in detector.look(second * SECOND_NS, &found, 16) {
                told.push(match change {
                    Change::Behind { rank, .. } => (second, rank.rank, "behind"),
                    Change::Resumed { rank, .. } => (second, rank.rank, "resumed"),
                });
            }
        }
        told
    }

    #[test]
    fn a_healthy_job_and_one_that_cannot_be_judged_are_left_alone() {
        let cases: [(&str, Shown); 12] = [
            ("every second", |t, _| Some((t * 40, true))),
            ("a number later by the way", |t, rank| Some((t.saturating_sub(u64::from(rank % 3)), true))),
            ("iterations of 30 s", |t, _| Some((t / 30 * 100, true))),
            ("all stand at one number", |t, _| Some((t.min(500), true))),
            ("half stand one behind", |t, rank| Some((t.min(500 + u64::from(rank % 2)), true))),
            ("three of eight stand one behind", |t, rank| Some((t.min(500 + u64::from(rank > 2)), true))),
            ("one rank is not known", |t, rank| (rank != 7).then(|| (if rank == 0 { t.min(500) } else { t }, true))),
            ("the host of the one behind is silent", |t, rank| {
                Some(if rank == 0 && t > 500 { (500, false) } else { (t.min(501), true) })
            }),
            ("the host of another is silent", |t, rank| {
                Some((t.min(500 + u64::from(rank != 0)), rank != 5 || t < 505))
            }),
            ("one rank compiles for four minutes", |t, rank| {
                Some((if rank == 1 && t < 240 { 2 } else { t.min(3).max(t.saturating_sub(240)) }, true))
            }),
            ("one writes for 9 s each minute", |t, rank| {
                Some((if rank == 0 && t % 60 < 9 { t - t % 60 } else { t }, true))
            }),
            ("the one behind ends", |t, rank| {
                (rank != 0 || t < 505).then(|| (t.min(500 + u64::from(rank != 0)), true))
            }),
        ];
        for (what, shown) in cases {
            assert_eq!(run(1_000, 8, 1, shown), [], "{what}");
        }
    }

    #[test]
    fn ranks_that_stand_while_all_others_wait_are_told_and_so_is_their_end() {
        // Ranks a host; who is told; from the stop at second 500.
        let cases: [(&str, u32, &[u32], Shown); 5] = [
            ("one step", 1, &[3], |t, rank| Some((t.min(500 + u64::from(rank != 3)), true))),
            ("others are at several numbers", 1, &[3], |t, rank| {
                Some((t.min(if rank == 3 { 500 } else { 501 + u64::from(rank) }), true))
            }),
            ("a host of two", 2, &[2, 3], |t, rank| Some((t.min(500 + u64::from(rank / 2 != 1)), true))),
            ("an agent that was away for ten seconds before", 1, &[3], |t, rank| {
                let is_away = rank == 3 && (480..490).contains(&t);
                Some((if is_away { 479 } else { t.min(500 + u64::from(rank != 3)) }, !is_away))
            }),
            ("others of its host went on: its agent tells", 2, &[], |t, rank| {
                Some((t.min(500 + u64::from(rank != 3)), true))
            }),
        ];
        for (what, per_host, expected, shown) in cases {
            let told = run(600, 8, per_host, shown);
            let ranks: Vec<_> = told.iter().map(|(_, rank, _)| *rank).collect();
            assert_eq!(ranks, expected, "{what}: {told:?}");
            let within = if what.starts_with("an agent") { 510..=540 } else { 510..=512 };
            assert!(
                told.iter().all(|(second, _, what)| within.contains(second) && *what == "behind"),
                "{what}: {told:?}"
            );
        }
        let resumes: Shown = |t, rank| Some((if t < 550 { t.min(500 + u64::from(rank != 3)) } else { t }, true));
        assert_eq!(run(1_000, 8, 1, resumes), [(510, 3, "behind"), (550, 3, "resumed")]);
    }

    #[test]
    fn a_process_that_hangs_in_all_its_communicators_is_told_once_in_the_largest() {
        let (mut detector, mut told) = (Detector::default(), Vec::new());
        for second in 0..600u64 {
            let of = |identity: u64, ranks: u32| {
                (0..ranks).map(move |number| Seen {
                    rank: Rank { identity, rank: number, host: format!("h{number}").into(), pid: 100 },
                    ranks,
                    sequence: second.min(500 + u64::from(number != 1)),
                    is_fresh: true,
                })
            };
            let found: Vec<_> = of(3, 2).chain(of(9, 8)).chain(of(5, 4)).collect();
            told.extend(detector.look(second * SECOND_NS, &found, 16));
        }
        let [Change::Behind { rank, behind: 1, ranks: 8, .. }] = &told[..] else { panic!("{told:?}") };
        assert_eq!((rank.identity, rank.rank, &*rank.host), (9, 1, "h1"));
    }
}
