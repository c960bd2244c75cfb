//! Counters that are a file each: what moves is read every time, what lies still in turn.
//!
//! In: files of one number. Out: their values, each with the moment of its own read. Reading a file of a cold cache costs one
//! to two microseconds, and most counters of a healthy host never move: one that did not move for 2 s is read once
//! in 400 ms, spread over the reads between, until it moves. Never: a value that was not read, or a still
//! counter left longer than that and one read.

use crate::sysfs::NumberFile;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Declare, ErrorReason, Moment, SeriesHandle};

/// A counter that shows the same for so long, nanoseconds, lies still.
const STILL_AFTER_NS: u64 = 2_000_000_000;
/// How often such a counter is read, nanoseconds: with a read every 100 ms no movement waits longer than 500 ms to be seen.
const STILL_EVERY_NS: u64 = 400_000_000;
/// Parts of that time over which still counters are spread.
const TURNS: u64 = 8;

/// Files, each with what it is of.
pub(crate) struct CounterFiles<T> {
    files: Vec<Kept<T>>,
    /// Those before the probe that is going on: what lay still still does.
    before: Vec<Kept<T>>,
}

struct Kept<T> {
    file: NumberFile,
    of: T,
    shown: Option<u64>,
    moved_at_ns: u64,
    /// When a still counter is read again; 0: every time.
    due_ns: u64,
}

impl<T> Default for CounterFiles<T> {
    fn default() -> Self {
        Self { files: Vec::new(), before: Vec::new() }
    }
}

impl<T: PartialEq> CounterFiles<T> {
    /// Begins a probe: all that there is to read is pushed anew.
    pub(crate) fn begin_again(&mut self) {
        self.before = std::mem::take(&mut self.files);
    }

    /// Will read this file, too.
    pub(crate) fn push(&mut self, file: NumberFile, of: T) {
        let place = self.files.len();
        let known = self.before.get(place).filter(|kept| kept.of == of);
        let known = known.or_else(|| self.before.iter().find(|kept| kept.of == of));
        let (shown, moved_at_ns, due_ns) =
            known.map_or((None, 0, 0), |kept| (kept.shown, kept.moved_at_ns, kept.due_ns));
        self.files.push(Kept { file, of, shown, moved_at_ns, due_ns });
    }

    /// Of a probe that found what the probe before found: declares the same series again, and keeps the files open. `false`
    /// where one could not be read last or lost its name (it may be another of that name by now), or nothing was declared before: then all is
    /// to be opened and declared anew.
    pub(crate) fn again(&self, declare: &mut Declare<'_>, series: impl Fn(&T) -> SeriesHandle) -> bool {
        let is_sound = |kept: &Kept<T>| (kept.shown.is_some() || kept.moved_at_ns == 0) && !kept.file.is_unlinked();
        !self.files.is_empty()
            && self.files.iter().all(is_sound)
            && self.files.iter().all(|kept| declare.again(series(&kept.of)))
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads what is due, or everything, and hands over each result.
    pub(crate) fn read(&mut self, in_full: bool, mut take: impl FnMut(&T, Result<u64, ErrorReason>, Moment)) {
        // The end of one read is the begin of the next: half the clock's cost for a bracket hardly wider.
        self.before.clear();
        let mut before_ns = monotonic_ns();
        for (turn, kept) in (0..TURNS).cycle().zip(&mut self.files) {
            if kept.due_ns > before_ns && !in_full {
                continue;
            }
            let value = kept.file.read();
            let after_ns = monotonic_ns();
            kept.note(value.ok(), turn, after_ns);
            take(&kept.of, value, Moment::between(before_ns, after_ns));
            before_ns = after_ns;
        }
    }
}

impl<T> Kept<T> {
    fn note(&mut self, shown: Option<u64>, turn: u64, now_ns: u64) {
        if shown.is_none() || shown != self.shown {
            (self.shown, self.moved_at_ns, self.due_ns) = (shown, now_ns, 0);
        } else if now_ns - self.moved_at_ns >= STILL_AFTER_NS {
            let offset_ns = turn * (STILL_EVERY_NS / TURNS);
            self.due_ns = (now_ns.saturating_sub(offset_ns) / STILL_EVERY_NS + 1) * STILL_EVERY_NS + offset_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CounterFiles, Kept, STILL_AFTER_NS, STILL_EVERY_NS};
    use crate::sysfs::NumberFile;

    const TICK_NS: u64 = 100_000_000;

    fn kept(folder: &tempfile::TempDir) -> Kept<()> {
        let path = folder.path().join("count");
        std::fs::write(&path, "7\n").expect("a file");
        let file = NumberFile::open(&path).expect("the file");
        Kept { file, of: (), shown: None, moved_at_ns: 0, due_ns: 0 }
    }

    #[test]
    fn a_counter_that_lies_still_is_read_every_fourth_time_until_it_moves() {
        let folder = tempfile::tempdir().expect("a folder");
        for turn in 0..8 {
            let (mut kept, mut read_at) = (kept(&folder), Vec::new());
            let begin = 1_000_000 * TICK_NS;
            let still_from = STILL_AFTER_NS / TICK_NS;
            for tick in 0..200 {
                let now_ns = begin + tick * TICK_NS;
                if kept.due_ns <= now_ns {
                    read_at.push(tick);
                    kept.note(Some(if tick < 120 { 7 } else { 8 }), turn, now_ns);
                }
            }
            let every = |from: u64, to: u64| read_at.iter().filter(|tick| (from..to).contains(*tick)).count() as u64;
            assert_eq!(every(0, still_from), still_from, "turn {turn}: {read_at:?}");
            let turns = (120 - still_from) / 4;
            assert!((turns - 1..=turns + 2).contains(&every(still_from, 120)), "turn {turn}: {read_at:?}");
            let seen = read_at.iter().find(|tick| **tick >= 120).expect("it is read again");
            assert!((seen - 120) * TICK_NS <= STILL_EVERY_NS, "turn {turn}: seen at {seen}");
            assert_eq!(every(*seen, seen + still_from), still_from, "turn {turn}: it moved: every time");
        }
    }

    #[test]
    fn everything_is_read_where_that_is_wanted_and_what_is_not_due_else_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = CounterFiles::default();
        for place in 0..3 {
            files.push(kept(&folder).file, place);
        }
        files.files[1].due_ns = u64::MAX;
        for (in_full, expected) in [(false, 2), (true, 3)] {
            let mut seen = Vec::new();
            files.read(in_full, |_, value, _| seen.push(value));
            assert_eq!(seen, vec![Ok(7); expected]);
        }
        files.files[1].due_ns = u64::MAX;
        files.begin_again();
        for place in [1, 5, 0] {
            files.push(kept(&folder).file, place);
        }
        let mut seen = Vec::new();
        files.read(false, |place, _, _| seen.push(*place));
        assert_eq!(seen, [5, 0], "a probe is no reason to take what lies still for new");
    }
}
