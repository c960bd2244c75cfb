//! What is not acknowledged yet: two queues (signals, windows) and the journal that gives frames their sequence.
//!
//! A frame gets its sequence when it is first sent, not when it is made. So a new signal goes before all windows
//! that wait, even after hours without a collector: it stands behind the frames in flight and no others, at most
//! [`FRAMES_IN_FLIGHT_MAX`] frames and [`WINDOWS_BYTES_IN_FLIGHT_MAX`] bytes of windows.
//!
//! Loss is read off the indexes: what a quota cut, damage took or a full queue refused leaves a gap, and the next
//! frame of that queue says how many are missing, over restarts too.
//!
//! Where a signal came with a receipt, its origin is told once the signal is in the spool, and the receipt stays on disk
//! as long as the origin would give any of its places again: see [`crate::receipt`].
//!
//! What a kill of the agent loses: frames that were held in memory because the disk refused them; nothing else,
//! because the kernel keeps what was written. What a power cut loses: signals of the last 50 ms and windows of the
//! last 5 s that were not acknowledged; what was sent since the last sync may then arrive twice.

use crate::clock::{mono_ns, unix_ns};
use crate::journal::{Assigned, Book, Journal};
use crate::log::{Anchor, Log, Place};
use crate::receipt::{Kept, Receipt};
use crate::record::Kind;
use prost::Message;
use railwatch_wire::v1::{Definitions, Frame, Limitation, SeriesDefinition, Signal, Windows, frame};
use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Frames sent and not acknowledged, at most.
pub const FRAMES_IN_FLIGHT_MAX: usize = 1024;
/// Bytes of windows sent and not acknowledged, at most (one frame more when it alone is larger).
pub const WINDOWS_BYTES_IN_FLIGHT_MAX: u64 = 2 * 1024 * 1024;

/// The two queues, as the journal names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Signals = 1,
    Windows = 2,
}

/// Bounds of the spool.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// Where, made if need be; one agent at a time.
    pub directory: PathBuf,
    /// Most bytes on disk. At the bound the oldest windows go first, signals last.
    pub disk_bytes_max: u64,
    /// Most bytes in memory, used only while the disk refuses.
    pub memory_bytes_max: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// Definitions by series, shared with the threads that define.
pub(crate) type SeriesTable = Arc<Mutex<HashMap<u64, SeriesDefinition>>>;

/// Counts since the start, and sizes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Everything up to here is stored by the collector.
    pub acknowledged_through: u64,
    /// The sequence of the next frame that is sent for the first time.
    pub next_sequence: u64,
    /// Sent and not acknowledged, frames.
    pub in_flight: u64,
    /// Waiting to be sent for the first time.
    pub waiting_signals: u64,
    /// Likewise.
    pub waiting_windows: u64,
    /// Held on disk.
    pub disk_bytes: u64,
    /// Held in memory because the disk refused.
    pub memory_bytes: u64,
    /// Signals that a quota cut before they were acknowledged.
    pub cut_signals: u64,
    /// Windows that a quota cut before they were acknowledged.
    pub cut_windows: u64,
    /// Windows dropped at the start because the host was booted since: their times mean nothing now.
    pub former_boot_windows: u64,
    /// Lost frames reported to the collector in `skipped_signals` and `skipped_windows`.
    pub reported_skipped: u64,
    /// Damaged places met in segments.
    pub damaged: u64,
    /// Refusals of the disk.
    pub disk_errors: u64,
}

pub(crate) struct Spool {
    signals: Log,
    windows: Log,
    journal: Journal,
    book: Book,
    /// Of `book.assigned`: how many were sent on this connection.
    sent: usize,
    /// Encoded bytes of windows sent on this connection and not acknowledged, per entry of `book.assigned`.
    in_flight_bytes: VecDeque<u64>,
    in_flight_bytes_sum: u64,
    /// Frames that had a sequence and cannot be resent: signals, windows.
    lost: (u64, u64),
    /// Receipts that must outlive a kill, ascending by index.
    kept: VecDeque<Kept>,
    series: SeriesTable,
    options: SpoolOptions,
    unavailable: Option<String>,
    stats: SpoolStats,
    _lock: Option<File>,
}

impl Spool {
    /// Opens the spool; where the directory cannot be used, one in memory, and says why in the limitations.
    pub fn open(options: SpoolOptions, series: SeriesTable) -> Self {
        match Self::open_in(Some(options.directory.clone()), &options, &series) {
            Ok(spool) => spool,
            Err(error) => {
                let why = format!(
                    "the directory {} cannot be used: {error}; frames are kept in memory ({} bytes at most) and lost if the agent ends",
                    options.directory.display(),
                    options.memory_bytes_max
                );
                tracing::error!("spool: {why}");
                match Self::open_in(None, &options, &series) {
                    Ok(mut spool) => {
                        spool.unavailable = Some(why);
                        spool
                    }
                    // Without a directory nothing in `open_in` touches a file.
                    Err(error) => unreachable!("a spool in memory needs no file, and yet: {error}"),
                }
            }
        }
    }

    fn open_in(directory: Option<PathBuf>, options: &SpoolOptions, series: &SeriesTable) -> io::Result<Self> {
        let mut lock = None;
        if let Some(directory) = &directory {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let file =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock"))?;
            file.try_lock().map_err(|_| io::Error::other("another agent uses it"))?;
            lock = Some(file);
        }
        let budget = if directory.is_some() { options.disk_bytes_max } else { options.memory_bytes_max };
        // Memory follows the smaller quota, or its first segment alone would be all of it.
        let segment_bytes_max = (budget.min(options.memory_bytes_max.max(1) * 4) / 16).clamp(4 * 1024, 4 << 20);
        let learn = |kind: Kind, _: u64, body: &[u8]| {
            if kind != Kind::Definitions {
                return;
            }
            let Ok(definitions) = Definitions::decode(body) else { return };
            let mut table = series.lock().unwrap_or_else(PoisonError::into_inner);
            for definition in definitions.series {
                // Half is left to this run.
                if table.len() < railwatch_wire::limits::SERIES_PER_HOST_MAX / 2 {
                    table.entry(definition.id).or_insert(definition);
                }
            }
        };
        let within = |name: &str| directory.as_ref().map(|directory| directory.join(name));
        let mut kept = VecDeque::new();
        let mut signals = Log::open(within("signals"), &options.boot_id, segment_bytes_max, |kind, index, body| {
            kept.extend((kind == Kind::Receipt).then(|| Kept::decode(index, body)).flatten());
        })?;
        let mut windows = Log::open(within("windows"), &options.boot_id, segment_bytes_max, learn)?;
        let (mut journal, book) = Journal::open(directory.as_deref())?;
        let book = match book {
            Some(book) => book,
            None => {
                let mut book = Book::new(random()?);
                // Without a journal what was sent is not known: all that is held is sent again, in a new stream.
                book.next_signal = signals.held_from(0).unwrap_or(signals.next_index());
                book.next_windows = windows.held_from(0).unwrap_or(windows.next_index());
                book
            }
        };
        signals.skip_to(book.next_signal);
        windows.skip_to(book.next_windows);
        let former_boot_windows = windows.drop_former_boots();
        if former_boot_windows > 0 {
            tracing::warn!(
                frames = former_boot_windows,
                "windows from before the last boot are dropped and counted as skipped"
            );
        }
        journal.rewrite(&book)?;
        let mut spool = Self {
            signals,
            windows,
            journal,
            book,
            sent: 0,
            in_flight_bytes: VecDeque::new(),
            in_flight_bytes_sum: 0,
            lost: (0, 0),
            kept,
            series: series.clone(),
            options: options.clone(),
            unavailable: None,
            stats: SpoolStats { former_boot_windows, ..Default::default() },
            _lock: lock,
        };
        spool.drop_acknowledged();
        spool.keep_quota();
        Ok(spool)
    }

    /// Takes a signal, and tells its origin.
    pub fn signal(&mut self, signal: &Signal, receipt: Option<Receipt>) {
        let encoded = receipt.as_ref().map(Receipt::encode);
        let index = self.signals.append(&signal.encode_to_vec(), encoded.as_deref());
        if let Some(Receipt { origin: source, places }) = receipt {
            let (origin, again_from) = (source.number(), source.settle(&places));
            self.kept.push_back(Kept { index, origin, places });
            // Receipts of another origin are of a ring that this agent did not find again.
            self.kept.retain(|kept| kept.origin == origin && kept.places.iter().any(|place| *place >= again_from));
        }
        self.keep_quota();
    }

    /// By origin, the places whose signals were spooled and that it may give again.
    pub fn receipts(&self) -> HashMap<u64, Vec<u64>> {
        let mut places: HashMap<u64, Vec<u64>> = HashMap::new();
        for kept in &self.kept {
            places.entry(kept.origin).or_default().extend(&kept.places);
        }
        places
    }

    /// Takes windows.
    pub fn windows(&mut self, windows: &Windows) {
        let series = &self.series;
        self.windows.append_defining(&windows.encode_to_vec(), &windows.series, |ids| {
            let found = lookup(series, ids);
            (!found.is_empty()).then(|| Definitions { series: found }.encode_to_vec())
        });
        self.keep_quota();
    }

    /// Counts frames that were refused before they got here.
    pub fn refused(&mut self, signals: u64, windows: u64) {
        self.signals.skip_to(self.signals.next_index() + signals);
        self.windows.skip_to(self.windows.next_index() + windows);
    }

    /// A connection was welcomed: everything up to `acknowledged_through` is stored, the rest is sent again.
    pub fn welcome(&mut self, acknowledged_through: u64) {
        if acknowledged_through >= self.book.next_sequence {
            tracing::error!(
                acknowledged_through,
                next_sequence = self.book.next_sequence,
                "the collector has more of this stream than the journal knows: the host lost power, or the spool is an old copy; frames may arrive twice"
            );
        }
        self.sent = 0;
        self.in_flight_bytes.clear();
        self.in_flight_bytes_sum = 0;
        // What is lost is met again among what is resent.
        self.lost = (0, 0);
        self.settle(acknowledged_through);
    }

    /// Everything up to `through` is stored. False when nothing like that was sent: the peer is not to be believed.
    pub fn acknowledge(&mut self, through: u64) -> bool {
        let plausible = through < self.book.next_sequence;
        if plausible {
            self.settle(through);
        }
        plausible
    }

    fn settle(&mut self, through: u64) {
        let before = self.book.assigned.len();
        if self.book.acknowledge(through) {
            let gone = before - self.book.assigned.len();
            self.sent = self.sent.saturating_sub(gone);
            let landed = gone.min(self.in_flight_bytes.len());
            self.in_flight_bytes_sum -= self.in_flight_bytes.drain(..landed).sum::<u64>();
            self.journal.acknowledge(&self.book);
            self.drop_acknowledged();
        }
    }

    /// The next frame to send on this connection; `None` when there is none, or too much is in flight.
    pub fn next(&mut self) -> Option<Frame> {
        while let Some(assigned) = self.book.assigned.get(self.sent).copied() {
            if !self.may_fly(assigned.queue) {
                return None;
            }
            self.sent += 1;
            if let Some(frame) = self.frame(&assigned) {
                return Some(frame);
            }
            self.in_flight_bytes.push_back(0);
            self.count_lost(assigned.queue, 1 + u64::from(assigned.skipped));
        }
        loop {
            let assigned = self.assign()?;
            self.sent += 1;
            if let Some(frame) = self.frame(&assigned) {
                return Some(frame);
            }
            self.in_flight_bytes.push_back(0);
            self.count_lost(assigned.queue, 1 + u64::from(assigned.skipped));
        }
    }

    fn count_lost(&mut self, queue: Queue, count: u64) {
        match queue {
            Queue::Signals => self.lost.0 += count,
            Queue::Windows => self.lost.1 += count,
        }
    }

    fn may_fly(&self, queue: Queue) -> bool {
        self.in_flight_bytes.len() < FRAMES_IN_FLIGHT_MAX
            && (queue == Queue::Signals || self.in_flight_bytes_sum < WINDOWS_BYTES_IN_FLIGHT_MAX)
    }

    fn assign(&mut self) -> Option<Assigned> {
        let (queue, index, expected) = [Queue::Signals, Queue::Windows].into_iter().find_map(|queue| {
            let expected = *self.book.next_index(queue);
            let index = self.log(queue).held_from(expected)?;
            self.may_fly(queue).then_some((queue, index, expected))
        })?;
        let skipped = u32::try_from(index - expected).unwrap_or(u32::MAX);
        let assigned = Assigned { sequence: self.book.next_sequence, queue, index, skipped };
        self.book.assign(assigned);
        self.journal.assign(&assigned, &self.book);
        Some(assigned)
    }

    fn log(&mut self, queue: Queue) -> &mut Log {
        match queue {
            Queue::Signals => &mut self.signals,
            Queue::Windows => &mut self.windows,
        }
    }

    fn frame(&mut self, assigned: &Assigned) -> Option<Frame> {
        let (body, anchor) = self.log(assigned.queue).read(assigned.index)?;
        let bytes = body.len() as u64;
        let (body, mut skipped) = match assigned.queue {
            Queue::Signals => {
                let mut signal = Signal::decode(body.as_slice()).ok()?;
                if let Some(anchor) = anchor.filter(|anchor| anchor.boot_id != self.options.boot_id) {
                    place_before_boot(&mut signal, &anchor);
                }
                (frame::Body::Signal(signal), (u64::from(assigned.skipped), 0))
            }
            Queue::Windows => {
                (frame::Body::Windows(Windows::decode(body.as_slice()).ok()?), (0, u64::from(assigned.skipped)))
            }
        };
        skipped = (skipped.0 + self.lost.0, skipped.1 + self.lost.1);
        self.lost = (0, 0);
        self.stats.reported_skipped += skipped.0 + skipped.1;
        let bytes = if assigned.queue == Queue::Windows { bytes } else { 0 };
        self.in_flight_bytes.push_back(bytes);
        self.in_flight_bytes_sum += bytes;
        Some(Frame {
            sequence: assigned.sequence,
            skipped_signals: skipped.0,
            skipped_windows: skipped.1,
            body: Some(body),
        })
    }

    fn drop_acknowledged(&mut self) {
        let kept = self.kept.front().map_or(u64::MAX, |kept| kept.index);
        let signals = self.wanted_from(Queue::Signals).min(kept);
        self.signals.drop_before(signals);
        let windows = self.wanted_from(Queue::Windows);
        self.windows.drop_before(windows);
    }

    /// The first index that is not acknowledged.
    fn wanted_from(&mut self, queue: Queue) -> u64 {
        let first = self.book.assigned.iter().find(|assigned| assigned.queue == queue).map(|assigned| assigned.index);
        first.unwrap_or(*self.book.next_index(queue))
    }

    fn keep_quota(&mut self) {
        for (place, bytes_max) in
            [(Place::Disk, self.options.disk_bytes_max), (Place::Memory, self.options.memory_bytes_max)]
        {
            while self.signals.bytes(place) + self.windows.bytes(place) > bytes_max {
                let windows = self.wanted_from(Queue::Windows);
                if let Some(cut) = self.windows.drop_oldest(place, windows) {
                    self.stats.cut_windows += cut;
                    continue;
                }
                let signals = self.wanted_from(Queue::Signals);
                match self.signals.drop_oldest(place, signals) {
                    Some(cut) => self.stats.cut_signals += cut,
                    None => break,
                }
            }
        }
        let held = self.signals.held_from(0).unwrap_or(u64::MAX);
        self.kept.retain(|kept| kept.index >= held);
    }

    /// The definitions of those series that are known.
    pub fn definitions(&self, ids: &[u64]) -> Vec<SeriesDefinition> {
        lookup(&self.series, ids)
    }

    /// The stream's identifier.
    pub fn stream_id(&self) -> [u8; 16] {
        self.book.stream_id
    }

    /// The first sequence that may be sent again, and the next new one.
    pub fn sequences(&self) -> (u64, u64) {
        let next = self.book.next_sequence;
        (self.book.assigned.front().map_or(next, |assigned| assigned.sequence), next)
    }

    /// What the spool cannot do now.
    pub fn limitations(&self) -> Vec<Limitation> {
        let why = self.unavailable.as_ref().or(self.signals.trouble.as_ref()).or(self.windows.trouble.as_ref());
        why.map(|why| Limitation { what: "spool".into(), why: why.clone() }).into_iter().collect()
    }

    /// Counts and sizes.
    pub fn stats(&self) -> SpoolStats {
        SpoolStats {
            acknowledged_through: self.book.acknowledged,
            next_sequence: self.book.next_sequence,
            in_flight: self.book.assigned.len() as u64,
            waiting_signals: self.signals.frames_from(self.book.next_signal),
            waiting_windows: self.windows.frames_from(self.book.next_windows),
            disk_bytes: self.signals.bytes(Place::Disk) + self.windows.bytes(Place::Disk),
            memory_bytes: self.signals.bytes(Place::Memory) + self.windows.bytes(Place::Memory),
            damaged: self.signals.damaged + self.windows.damaged,
            disk_errors: self.signals.disk_errors + self.windows.disk_errors + self.journal.errors,
            ..self.stats
        }
    }

    /// Files of signals and of the journal that want an fdatasync; with `windows`, those of windows too.
    pub fn take_dirty(&mut self, windows: bool) -> Vec<Arc<File>> {
        let mut dirty = self.signals.take_dirty();
        dirty.extend(self.journal.take_dirty());
        if windows {
            dirty.extend(self.windows.take_dirty());
        }
        dirty
    }

    /// Whether signals wait for an fdatasync.
    pub fn signals_are_dirty(&self) -> bool {
        self.signals.is_dirty()
    }

    /// Makes the journal anew, so that the next start begins where this one ends.
    pub fn close(mut self) {
        for file in self.take_dirty(true) {
            let _ = file.sync_data();
        }
        if let Err(error) = self.journal.rewrite(&self.book) {
            tracing::error!("cannot close the spool's journal: {error}; frames may arrive twice");
        }
    }
}

fn lookup(series: &SeriesTable, ids: &[u64]) -> Vec<SeriesDefinition> {
    let table = series.lock().unwrap_or_else(PoisonError::into_inner);
    ids.iter().filter_map(|id| table.get(id).cloned()).collect()
}

/// A signal of an earlier boot cannot be told in this boot's monotonic time, which begins later: it becomes instant 0
/// with a half width that reaches back to it, and its wall-clock time goes along as an attribute.
fn place_before_boot(signal: &mut Signal, anchor: &Anchor) {
    let observed_unix_ns = anchor.unix_ns.saturating_sub(anchor.mono_ns).saturating_add(signal.observed_mono_ns);
    let boot_unix_ns = unix_ns().saturating_sub(mono_ns());
    signal.half_width_ns = signal.half_width_ns.saturating_add(boot_unix_ns.saturating_sub(observed_unix_ns));
    signal.observed_mono_ns = 0;
    signal.incomplete_since_mono_ns = signal.incomplete_since_mono_ns.map(|_| 0);
    signal.attributes.insert("observed_unix_ns".into(), observed_unix_ns.to_string());
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io::Read::read_exact(&mut File::open(Path::new("/dev/urandom"))?, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use proptest::prelude::*;

    fn open(directory: &Path, boot_id: &str) -> Spool {
        let options = SpoolOptions { boot_id: boot_id.into(), ..SpoolOptions::in_directory(directory) };
        Spool::open(options, SeriesTable::default())
    }

    fn signal(payload: u64) -> Signal {
        Signal { name: "test".into(), value: payload as f64, ..Default::default() }
    }

    fn values(frames: &[Frame]) -> Vec<u64> {
        let value = |frame: &Frame| match &frame.body {
            Some(frame::Body::Signal(signal)) => signal.value as u64,
            Some(frame::Body::Windows(windows)) => 1000 + windows.start_mono_ns,
            None => panic!("a frame without a body"),
        };
        frames.iter().map(value).collect()
    }

    /// All that can be sent, with everything acknowledged as it goes.
    fn drain(spool: &mut Spool) -> Vec<Frame> {
        let (_, next) = spool.sequences();
        spool.welcome(spool.stats().acknowledged_through.min(next));
        let mut frames = Vec::new();
        while let Some(frame) = spool.next() {
            assert!(spool.acknowledge(frame.sequence));
            frames.push(frame);
        }
        frames
    }

    fn only_segment(directory: &Path, queue: &str) -> PathBuf {
        std::fs::read_dir(directory.join(queue)).unwrap().map(|entry| entry.unwrap().path()).next().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damage_anywhere_loses_what_it_hit_counts_it_and_nothing_else(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4), cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let directory = tempfile::TempDir::new().unwrap();
            let mut spool = open(directory.path(), "boot");
            (0..20).for_each(|payload| spool.signal(&signal(payload), None));
            drop(spool);
            let path = only_segment(directory.path(), "signals");
            let mut bytes = std::fs::read(&path).unwrap();
            for (at, flip) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();

            let mut spool = open(directory.path(), "boot");
            spool.signal(&signal(20), None);
            let frames = drain(&mut spool);
            let found = values(&frames);
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
            prop_assert_eq!(*found.last().unwrap(), 20);
            if cut.is_none() {
                // The record of the segment itself may be hit as well, and costs no frame.
                prop_assert!(found.len() + flips.len() >= 21, "{found:?} after {} flips", flips.len());
                let skipped: u64 = frames.iter().map(|frame| frame.skipped_signals).sum();
                // Lost at the very end of the old segment: nobody knows that it was there.
                prop_assert!(skipped + found.len() as u64 <= 21 && skipped + found.len() as u64 + flips.len() as u64 >= 21);
            }
        }

        #[test]
        fn a_damaged_journal_never_panics_and_loses_no_frame(flips in proptest::collection::vec((0usize..400, 1u8..), 1..5)) {
            let directory = tempfile::TempDir::new().unwrap();
            let mut spool = open(directory.path(), "boot");
            (0..6).for_each(|payload| spool.signal(&signal(payload), None));
            spool.welcome(0);
            (0..4).for_each(|_| drop(spool.next()));
            drop(spool);
            let path = directory.path().join("journal");
            let mut bytes = std::fs::read(&path).unwrap();
            flips.iter().for_each(|(at, flip)| bytes[*at] ^= flip);
            std::fs::write(&path, &bytes).unwrap();
            let mut spool = open(directory.path(), "boot");
            let mut found = values(&drain(&mut spool));
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(found, (0..6).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_was_sent_is_resent_under_its_sequence_after_a_kill() {
        let directory = tempfile::TempDir::new().unwrap();
        let mut spool = open(directory.path(), "boot");
        spool.windows(&Windows { start_mono_ns: 1, ..Default::default() });
        (1..=3).for_each(|payload| spool.signal(&signal(payload), None));
        spool.welcome(0);
        let sent: Vec<Frame> = std::iter::from_fn(|| spool.next()).collect();
        assert_eq!(values(&sent), [1, 2, 3, 1001]);
        assert!(spool.acknowledge(1));
        drop(spool);

        let mut spool = open(directory.path(), "boot");
        spool.signal(&signal(9), None);
        assert_eq!(spool.sequences(), (2, 5));
        spool.welcome(1);
        let again: Vec<Frame> = std::iter::from_fn(|| spool.next()).collect();
        assert_eq!(again[..3], sent[1..]);
        assert_eq!((again[3].sequence, values(&again)[3]), (5, 9));
        assert!(!spool.acknowledge(6), "nobody was sent 6");
        assert!(spool.acknowledge(5));
        assert_eq!(spool.stats().in_flight, 0);
    }

    #[test]
    fn after_a_reboot_windows_are_skipped_and_signals_reach_back_to_their_instant() {
        let directory = tempfile::TempDir::new().unwrap();
        let mut spool = open(directory.path(), "former");
        (0..3).for_each(|at| spool.windows(&Windows { start_mono_ns: at, ..Default::default() }));
        let observed = Signal { observed_mono_ns: mono_ns(), half_width_ns: 10, ..signal(7) };
        spool.signal(&observed, None);
        drop(spool);

        let mut spool = open(directory.path(), "now");
        spool.windows(&Windows { start_mono_ns: 5, ..Default::default() });
        let frames = drain(&mut spool);
        assert_eq!(values(&frames), [7, 1005]);
        let Some(frame::Body::Signal(signal)) = &frames[0].body else { panic!("{frames:?}") };
        assert_eq!(signal.observed_mono_ns, 0);
        let unix: u64 = signal.attributes["observed_unix_ns"].parse().unwrap();
        assert!(unix_ns().abs_diff(unix) < 60_000_000_000, "{unix}");
        assert_eq!(frames[1].skipped_windows, 3);
        assert_eq!(spool.stats().former_boot_windows, 3);
    }

    #[test]
    fn damage_of_a_frame_in_flight_is_told_by_the_next_frame() {
        let directory = tempfile::TempDir::new().unwrap();
        let mut spool = open(directory.path(), "boot");
        (0..3).for_each(|payload| spool.signal(&signal(payload), None));
        spool.welcome(0);
        while spool.next().is_some() {}
        let path = only_segment(directory.path(), "signals");
        let mut bytes = std::fs::read(&path).unwrap();
        // In the body of the second of three: a record of these signals has 43 bytes.
        let middle = bytes.len() - 43 - 5;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        for _ in 0..2 {
            spool.welcome(0);
            let frames: Vec<Frame> = std::iter::from_fn(|| spool.next()).collect();
            assert_eq!(frames.len(), 2, "{frames:?}");
            assert_eq!((frames[0].skipped_signals, frames[1].skipped_signals), (0, 1));
        }
    }
    /// Gives `released` as the first place that it would give again.
    struct Ring {
        number: u64,
        released: std::sync::atomic::AtomicU64,
    }

    impl crate::receipt::Origin for Ring {
        fn number(&self) -> u64 {
            self.number
        }

        fn settle(&self, _: &[u64]) -> u64 {
            self.released.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    fn kept(spool: &Spool, origin: u64) -> Vec<u64> {
        spool.receipts().remove(&origin).unwrap_or_default()
    }

    #[test]
    fn a_receipt_outlives_acknowledgement_and_kills_while_its_origin_may_give_the_places_again() {
        let directory = tempfile::TempDir::new().unwrap();
        let ring = Arc::new(Ring { number: 7, released: 0.into() });
        let receipt = |places: &[u64]| Some(Receipt { origin: ring.clone(), places: places.to_vec() });
        let mut spool = open(directory.path(), "boot");
        spool.signal(&signal(1), receipt(&[64, 128]));
        spool.signal(&signal(2), None);
        spool.signal(&signal(3), receipt(&[256]));
        // A kill before anything was sent, and one after all was acknowledged.
        for run in 0..2 {
            drop(spool);
            spool = open(directory.path(), "boot");
            assert_eq!(kept(&spool, 7), [64, 128, 256], "run {run}");
            assert_eq!(values(&drain(&mut spool)), if run == 0 { vec![1, 2, 3] } else { vec![] });
        }
        ring.released.store(256, std::sync::atomic::Ordering::Relaxed);
        spool.signal(&signal(4), receipt(&[320]));
        assert_eq!(kept(&spool, 7), [256, 320], "what the origin let go of is forgotten");
        drop(spool);
        let mut spool = open(directory.path(), "boot");
        let other = Arc::new(Ring { number: 8, released: 0.into() });
        spool.signal(&signal(5), Some(Receipt { origin: other, places: vec![0] }));
        assert_eq!((kept(&spool, 7), kept(&spool, 8)), (vec![], vec![0]), "another ring took the first one's place");
        drop(spool);
        assert!(open(directory.path(), "next boot").receipts().is_empty(), "rings end with their boot");
    }

    #[test]
    fn a_receipt_without_its_frame_does_not_count() {
        let directory = tempfile::TempDir::new().unwrap();
        let ring = Arc::new(Ring { number: 7, released: 0.into() });
        let mut spool = open(directory.path(), "boot");
        spool.signal(&signal(1), Some(Receipt { origin: ring.clone(), places: vec![64] }));
        spool.signal(&signal(2), Some(Receipt { origin: ring, places: vec![128] }));
        drop(spool);
        let path = only_segment(directory.path(), "signals");
        let bytes = std::fs::read(&path).unwrap();
        // The kill came while the last frame was written, behind its receipt.
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert_eq!(kept(&open(directory.path(), "boot"), 7), [64]);
    }
}
