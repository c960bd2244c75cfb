//! Collectives that stand still: the sequence numbers of communicators on one host.
//!
//! In: at each look, the sequence number of every communicator of every live local rank. Out: a [`Change`] where a rank has
//! enqueued nothing while another rank of its communicator went on past it (`Behind`), or where all local ranks have stopped for
//! longer than their own pace justifies (`AllStopped`), and when they go on. Numbers count from a communicator's making and are
//! comparable between ranks only where that was seen: others are not looked at. Never: a word about ranks of other hosts.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

const SECOND_NS: u64 = 1_000_000_000;
/// A rank that others passed may stand still this long, where its pace is known.
const BEHIND_NS_MIN: u64 = 10 * SECOND_NS;
/// And so many times the longest pause that it lately made.
const BEHIND_PAUSES: u64 = 3;
/// Where its pace is not known: compilation and the first loading of data differ between ranks.
const BEHIND_NS_NEW: u64 = 300 * SECOND_NS;
/// All ranks together may stand still this long.
const STOPPED_NS_MIN: u64 = 120 * SECOND_NS;
/// And so many times the longest pause.
const STOPPED_PAUSES: u64 = 4;
/// Looks at which a rank had moved on until its pace is known.
const MOVES_MIN: u32 = 16;
/// The longest pauses of this many last spans of moves count.
const SPANS: usize = 4;
/// Moves in a span.
const SPAN_MOVES: u32 = 256;
/// Ranks of communicators that are followed; further ones are not.
pub const MEMBERS_MAX: usize = 8192;

/// Names a rank of a communicator on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Of the communicator; alike on all ranks.
    pub identity: u64,
    /// The process.
    pub pid: u32,
    /// Rank in the communicator.
    pub rank: u32,
}

/// One rank, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub member: Member,
    /// Collectives it has enqueued.
    pub sequence: u64,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `member` stands still and `ahead` went on.
    Behind {
        /// Who stands still.
        member: Member,
        /// At which number.
        sequence: u64,
        /// Since so long.
        still_ns: u64,
        /// The rank that is furthest.
        ahead: Member,
        /// Its number.
        ahead_sequence: u64,
    },
    /// No local rank goes on; `member` was the last to.
    AllStopped {
        /// Who moved last.
        member: Member,
        /// At which number.
        sequence: u64,
        /// Since so long.
        still_ns: u64,
        /// The longest pause of this communicator before.
        longest_pause_ns: u64,
    },
    /// A rank that was told of goes on.
    Resumed {
        /// Which.
        member: Member,
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
    fn longest_pause_ns(&self) -> u64 {
        self.pauses_ns.into_iter().max().unwrap_or(0)
    }

    fn moved(&mut self, sequence: u64, now_ns: u64) {
        self.sequence = sequence;
        // What was told as standing still is no pace.
        if self.moves > 0 && !self.told {
            self.pauses_ns[0] = self.pauses_ns[0].max(now_ns.saturating_sub(self.moved_ns));
        }
        self.moved_ns = now_ns;
        self.moves = self.moves.saturating_add(1);
        if self.moves.is_multiple_of(SPAN_MOVES) {
            self.pauses_ns.rotate_right(1);
            self.pauses_ns[0] = 0;
        }
    }

    fn behind_after_ns(&self) -> u64 {
        match self.moves {
            ..MOVES_MIN => BEHIND_NS_NEW,
            _ => BEHIND_NS_MIN.max(BEHIND_PAUSES.saturating_mul(self.longest_pause_ns())),
        }
    }
}

/// Follows all communicators of a host.
#[derive(Debug, Default)]
pub struct Detector {
    members: HashMap<Member, Followed>,
}

impl Detector {
    /// Takes what was found at `now_ns` (any steady clock), every second or so; who is not among it has ended.
    pub fn look(&mut self, now_ns: u64, found: &[Seen]) -> Vec<Change> {
        let mut changes = Vec::new();
        for followed in self.members.values_mut() {
            followed.seen = false;
        }
        for Seen { member, sequence } in found.iter().filter(|seen| seen.member.identity != 0) {
            let room = self.members.len() < MEMBERS_MAX;
            match self.members.entry(*member) {
                Entry::Occupied(entry) => {
                    let followed = entry.into_mut();
                    followed.seen = true;
                    if *sequence != followed.sequence {
                        if followed.told {
                            let still_ns = now_ns.saturating_sub(followed.moved_ns);
                            changes.push(Change::Resumed { member: *member, sequence: *sequence, still_ns });
                        }
                        followed.moved(*sequence, now_ns);
                        followed.told = false;
                    }
                }
                Entry::Vacant(entry) if room => {
                    let new = Followed {
                        sequence: *sequence,
                        moved_ns: now_ns,
                        moves: 0,
                        pauses_ns: [0; SPANS],
                        told: false,
                        seen: true,
                    };
                    entry.insert(new);
                }
                Entry::Vacant(_) => {}
            }
        }
        self.members.retain(|_, followed| followed.seen);
        self.judge(now_ns, &mut changes);
        changes
    }

    fn judge(&mut self, now_ns: u64, changes: &mut Vec<Change>) {
        let groups = self.groups();
        let mut behind: Vec<_> = self
            .members
            .iter_mut()
            .filter(|(_, followed)| !followed.told)
            .filter_map(|(member, followed)| {
                let group = groups.get(&member.identity)?;
                let still_ns = now_ns.saturating_sub(followed.moved_ns);
                followed.told = group.ahead.1 > followed.sequence && still_ns >= followed.behind_after_ns();
                let (ahead, ahead_sequence) = group.ahead;
                let sequence = followed.sequence;
                followed
                    .told
                    .then_some((*member, Change::Behind { member: *member, sequence, still_ns, ahead, ahead_sequence }))
            })
            .collect();
        behind.sort_by_key(|(member, _)| *member);
        changes.extend(behind.into_iter().map(|(_, change)| change));

        // Of those that were moved last at one look by one process, one speaks for all.
        let told = self.members.iter().filter(|(_, followed)| followed.told);
        let mut spoken: HashSet<(u32, u64)> = told.map(|(member, followed)| (member.pid, followed.moved_ns)).collect();
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(identity, _)| *identity);
        for (_, group) in groups {
            let (last, moved_ns) = group.last;
            let still_ns = now_ns.saturating_sub(moved_ns);
            let after_ns = STOPPED_NS_MIN.max(STOPPED_PAUSES.saturating_mul(group.longest_pause_ns));
            let may_speak = group.is_even && group.is_known && !group.is_told && !group.is_busy;
            if !may_speak || still_ns < after_ns || group.pids.iter().any(|pid| spoken.contains(&(*pid, moved_ns))) {
                continue;
            }
            if let Some(followed) = self.members.get_mut(&last) {
                followed.told = true;
                spoken.extend(group.pids.iter().map(|pid| (*pid, moved_ns)));
                let (sequence, longest_pause_ns) = (followed.sequence, group.longest_pause_ns);
                changes.push(Change::AllStopped { member: last, sequence, still_ns, longest_pause_ns });
            }
        }
    }

    /// What holds of each communicator.
    fn groups(&self) -> HashMap<u64, Group> {
        // When each process last moved in any communicator.
        let mut processes: HashMap<u32, u64> = HashMap::new();
        let mut groups: HashMap<u64, Group> = HashMap::new();
        for (member, followed) in &self.members {
            let last_ns = processes.entry(member.pid).or_default();
            *last_ns = (*last_ns).max(followed.moved_ns);
            let group = groups.entry(member.identity).or_insert_with(|| Group {
                ahead: (*member, followed.sequence),
                last: (*member, followed.moved_ns),
                is_even: true,
                is_known: true,
                is_told: false,
                is_busy: false,
                longest_pause_ns: 0,
                pids: Vec::new(),
            });
            group.is_even &= group.ahead.1 == followed.sequence;
            if (followed.sequence, member) > (group.ahead.1, &group.ahead.0) {
                group.ahead = (*member, followed.sequence);
            }
            if (followed.moved_ns, member) > (group.last.1, &group.last.0) {
                group.last = (*member, followed.moved_ns);
            }
            group.is_known &= followed.moves >= MOVES_MIN;
            group.is_told |= followed.told;
            group.longest_pause_ns = group.longest_pause_ns.max(followed.longest_pause_ns());
            group.pids.push(member.pid);
        }
        for group in groups.values_mut() {
            // One of its processes goes on with another communicator.
            group.is_busy =
                group.pids.iter().any(|pid| processes.get(pid).is_some_and(|last_ns| *last_ns > group.last.1));
        }
        groups
    }
}

/// What holds of one communicator.
struct Group {
    /// Who is furthest, and at which number.
    ahead: (Member, u64),
    /// Who moved last, and when.
    last: (Member, u64),
    /// All are at one number.
    is_even: bool,
    /// The pace of all is known.
    is_known: bool,
    is_told: bool,
    is_busy: bool,
    longest_pause_ns: u64,
    pids: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Second and change of all looks, one a second; `sequence` of each rank of communicator 7, `None` where it is not there.
    fn run(seconds: u64, ranks: u32, sequence: impl Fn(u64, u32) -> Option<u64>) -> Vec<(u64, Change)> {
        let (mut detector, mut told) = (Detector::default(), Vec::new());
        for second in 0..seconds {
            let found: Vec<_> = (0..ranks)
                .filter_map(|rank| {
                    let member = Member { identity: 7, pid: 100 + rank, rank };
                    Some(Seen { member, sequence: sequence(second, rank)? })
                })
                .collect();
            told.extend(detector.look(second * SECOND_NS, &found).into_iter().map(|change| (second, change)));
        }
        told
    }

    #[test]
    fn a_healthy_job_is_left_alone() {
        type Sequence = fn(u64, u32) -> Option<u64>;
        let cases: [(&str, Sequence); 10] = [
            ("every second", |t, _| Some(t * 40)),
            ("an iteration of 30 s", |t, _| Some(t / 30 * 100)),
            ("a slow rank", |t, rank| Some(t.saturating_sub(u64::from(rank)) * 40)),
            ("checkpoints of 25 s each ten minutes, seen from the start", |t, _| {
                Some((t / 600) * 575 + (t % 600).saturating_sub(25))
            }),
            ("a checkpoint of 100 s after an hour", |t, _| Some(if (3600..3700).contains(&t) { 3600 } else { t })),
            ("one rank compiles for four minutes", |t, rank| Some(if rank == 1 && t < 240 { 2 } else { 10 + t })),
            ("one rank writes for 9 s each minute", |t, rank| {
                Some(if rank == 0 && t % 60 < 9 { t - t % 60 } else { t })
            }),
            ("never begins", |_, _| Some(0)),
            ("a rank that ends", |t, rank| (rank == 0 || t < 500).then_some(t)),
            ("all end", |t, _| (t < 500).then_some(t)),
        ];
        for (what, sequence) in cases {
            assert_eq!(run(8000, 4, sequence), [], "{what}");
        }
    }

    #[test]
    fn a_rank_that_stands_still_while_others_go_on_is_told_and_by_its_name() {
        // (what, least and most seconds from the stop at 1000, sequence)
        type Sequence = fn(u64, u32) -> Option<u64>;
        let cases: [(&str, u64, u64, Sequence); 4] = [
            ("others go on", 10, 12, |t, rank| Some(if rank == 2 { t.min(1000) } else { t })),
            ("others wait for it after a few", 10, 12, |t, rank| {
                Some(if rank == 2 { t.min(1000) } else { t.min(1003) })
            }),
            ("one of them by one collective", 10, 12, |t, rank| {
                Some(if rank == 2 { t.min(1000) } else { t.min(1001) })
            }),
            ("iterations of 20 s", 60, 85, |t, rank| Some(if rank == 2 { t.min(1000) / 20 } else { t / 20 })),
        ];
        for (what, least, most, sequence) in cases {
            let told = run(1200, 4, sequence);
            let [(second, Change::Behind { member, ahead, .. })] = told[..] else { panic!("{what}: {told:?}") };
            assert_eq!((member.rank, member.pid), (2, 102), "{what}");
            assert_ne!(ahead.rank, 2, "{what}");
            assert!((1000 + least..=1000 + most).contains(&second), "{what}: at {second}");
        }
    }

    #[test]
    fn all_ranks_that_stop_together_are_told_by_their_own_pace() {
        let stopped = run(2000, 4, |t, _| Some(t.min(1000)));
        assert!(matches!(stopped[..], [(1120..=1122, Change::AllStopped { .. })]), "{stopped:?}");
        let slow = run(3000, 4, |t, _| Some(t.min(1500) / 60));
        assert!(matches!(slow[..], [(1740..=1745, Change::AllStopped { .. })]), "four pauses of 60 s: {slow:?}");
    }

    #[test]
    fn what_goes_on_again_is_told_and_a_stall_is_no_new_pace() {
        let told = run(3000, 2, |t, rank| {
            Some(match t {
                1000..1100 | 2000.. if rank == 1 => t / 1000 * 1000,
                _ => t,
            })
        });
        let kinds: Vec<_> =
            told.iter().map(|(second, change)| (*second, matches!(change, Change::Resumed { .. }))).collect();
        let [(first, false), (again, true), (second, false)] = kinds[..] else { panic!("{told:?}") };
        assert_eq!(again, 1100);
        assert!(first - 1000 <= 12 && second - 2000 <= 12, "{kinds:?}");
    }

    #[test]
    fn communicators_of_one_process_speak_once_and_a_busy_process_not_at_all() {
        let look = |detector: &mut Detector, second: u64, sequences: &[(u64, u64)]| {
            let found: Vec<_> = sequences
                .iter()
                .flat_map(|(identity, sequence)| {
                    (0..2).map(move |rank| Seen {
                        member: Member { identity: *identity, pid: 100 + rank, rank },
                        sequence: *sequence,
                    })
                })
                .collect();
            detector.look(second * SECOND_NS, &found)
        };
        let (mut one, mut busy) = (Detector::default(), Detector::default());
        let (mut told, mut told_busy) = (Vec::new(), Vec::new());
        for second in 0..2000 {
            let stopped = second.min(1000);
            told.extend(look(&mut one, second, &[(1, stopped), (2, stopped), (3, stopped / 10)]));
            told_busy.extend(look(&mut busy, second, &[(1, stopped), (2, second)]));
        }
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told_busy, [], "a communicator that is no longer used");
    }

    #[test]
    fn a_communicator_whose_making_was_not_seen_is_not_looked_at() {
        let mut detector = Detector::default();
        for second in 0..2000 {
            let found = [0, 1].map(|rank| Seen {
                member: Member { identity: 0, pid: 100 + rank, rank },
                sequence: if rank == 0 { second } else { 5 },
            });
            assert_eq!(detector.look(second * SECOND_NS, &found), []);
        }
    }
}
