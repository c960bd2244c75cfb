//! The writer of one sampling thread: puts each reading into its sheet, and full sheets into segments.
//!
//! In: batches, and which series there are after each probe. Out: rows and blocks. New series open a sheet, joined by those
//! of the last sheet where that has room; series that went away leave their column empty until half of a sheet is. Sheets
//! of one source fill at different reads, so that no read compresses more than a few. Never: a wait for a reader, or an
//! allocation while the series stand.

use crate::Inner;
use crate::TIME_UNIT_NS;
use crate::bits::BitWriter;
use crate::column::Values;
use crate::pool::{Head, SEGMENT_WORDS, Segment};
use crate::sheet::{COLUMNS_MAX, Column, GROUPS_MAX, Memory, Open, ROWS, Sheet, offsets};
use railwatch_sampling::{Batch, Kind, Moment, Reading, SeriesDef, SeriesHandle, TapeWriter, Value};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

/// Readings share a time from the first where their brackets together are no wider.
const GROUP_WIDTH_NS: u64 = 50_000;
/// One that would widen the shared bracket beyond this begins another row: no reading's half-width becomes more than half
/// of it by sharing.
const ROW_WIDTH_NS: u64 = 100_000;
/// Sheets with this many rows ([`ROWS`]) may take so much of the memory for sheets, in quarters: with very many series
/// each has fewer rows, and compresses less well, rather than some none.
const SHARES: [u64; ROWS.len()] = [2, 3, 4];
/// Sheets done with that are remembered for the blocks they left. Beyond it the oldest are forgotten, blocks and all.
const SHEETS_REMEMBERED_MAX: usize = 4096;

/// Where a series is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// It is not declared: its readings reach no window either.
    Unknown,
    /// Declared, and in no sheet yet.
    New { series: u64, values: Values },
    /// In this column of this sheet.
    At { sheet: usize, column: usize },
    /// There is no memory for another sheet.
    Refused,
}

/// One sheet as its writer knows it.
struct Written {
    sheet: Arc<Sheet>,
    open: Arc<Open>,
    /// Index of the handle of each column; none where the series went away.
    handles: Vec<Option<usize>>,
    rows_max: usize,
    /// The first block is cut short, so that sheets fill at different reads.
    rows_now: usize,
    row: usize,
    /// Brackets of the groups in the row being written.
    brackets: [Option<(u64, u64)>; GROUPS_MAX],
    present: [u64; 2],
    /// Of the last value put into the row: the next one often is of the same system call.
    last_put: Option<(usize, Moment)>,
    /// Rows begun because a time could not be shared. Many in a block: the series are grouped anew.
    splits: usize,
    is_to_regroup: bool,
    samples: u64,
    first_ns: u64,
    last_ns: u64,
}

/// Writes what one source reads.
pub struct Writer {
    tape: Arc<Inner>,
    places: Vec<Place>,
    /// Some of them are in no sheet yet.
    has_new: bool,
    sheets: Vec<Option<Written>>,
    segment: Option<Arc<Segment>>,
    out: BitWriter,
    memory: Memory,
}

impl Writer {
    pub fn new(tape: Arc<Inner>) -> Self {
        Self {
            tape,
            places: Vec::new(),
            has_new: false,
            sheets: Vec::new(),
            segment: None,
            out: BitWriter::with_capacity(SEGMENT_WORDS),
            memory: Memory::new(),
        }
    }

    fn put(&mut self, reading: &Reading) -> bool {
        let Some(&Place::At { sheet, column }) = self.places.get(reading.series.index()) else { return false };
        let Self { sheets, tape, out, memory, segment, .. } = self;
        let Some(written) = sheets[sheet].as_mut() else { return false };
        let bits = match (reading.value, written.sheet.columns[column].values) {
            (Value::Counter(value), Values::Whole) => value,
            (Value::Gauge(value), Values::Real) => value.to_bits(),
            _ => return false,
        };
        let of_last = written.last_put == Some((written.sheet.columns[column].group, reading.moment));
        let shares = of_last || written.shares_time(column, reading.moment);
        written.splits += usize::from(!shares);
        // A second reading of the series in one batch begins another row, too.
        if !shares || written.present[column / 64] >> (column % 64) & 1 == 1 {
            written.end_row(tape, segment, out, memory);
        }
        written.put(column, bits, reading.moment);
        true
    }

    /// Gives every new series that this batch reads a place.
    fn place_new(&mut self, batch: &Batch) {
        let mut new: Vec<(usize, u64, Values, Moment)> = Vec::new();
        for reading in batch.readings() {
            let index = reading.series.index();
            if let Some(Place::New { series, values }) = self.places.get(index).copied()
                && !new.iter().any(|(known, ..)| *known == index)
            {
                new.push((index, series, values, reading.moment));
            }
        }
        // They join the last sheet where that leaves few sheets: its times are shared by more.
        if let Some(last) = self.sheets.iter().rposition(Option::is_some)
            && self.sheets[last].as_ref().is_some_and(|sheet| sheet.sheet.columns.len() < COLUMNS_MAX)
        {
            let mut joined: Vec<_> = self.dissolve(last);
            joined.extend(new);
            new = joined;
        }
        let (mut columns, mut handles, mut groups): (Vec<Column>, Vec<_>, usize) = (Vec::new(), Vec::new(), 0);
        let mut bracket: Option<(u64, u64)> = None;
        for (index, series, values, moment) in new {
            let (from, to) = ends(moment);
            let joined = bracket.map(|(first, last)| (first.min(from), last.max(to)));
            // One system call brings all of a port: the same bracket, however wide.
            let fits = joined.is_some_and(|(first, last)| last - first <= GROUP_WIDTH_NS || joined == bracket);
            let is_full = columns.len() == COLUMNS_MAX || (!fits && groups == GROUPS_MAX);
            if is_full {
                self.open_sheet(std::mem::take(&mut columns), std::mem::take(&mut handles), groups);
                groups = 0;
            }
            if fits && !is_full {
                bracket = joined;
            } else {
                bracket = Some((from, to));
                groups += 1;
            }
            columns.push(Column { series, values, group: groups - 1 });
            handles.push(Some(index));
        }
        if !columns.is_empty() {
            self.open_sheet(columns, handles, groups);
        }
    }

    fn open_sheet(&mut self, columns: Vec<Column>, handles: Vec<Option<usize>>, groups: usize) {
        let place = self.sheets.iter().position(Option::is_none).unwrap_or(self.sheets.len());
        let bytes = |rows: usize| Sheet::bytes(columns.len(), groups, rows);
        let mut sizes = ROWS.into_iter().zip(SHARES);
        let Some((rows_max, _)) = sizes.find(|(rows, share)| self.tape.pool.reserve_sheet(bytes(*rows), *share)) else {
            for index in handles.into_iter().flatten() {
                self.places[index] = Place::Refused;
            }
            return;
        };
        for (column, index) in handles.iter().enumerate() {
            if let Some(index) = index {
                self.places[*index] = Place::At { sheet: place, column };
            }
        }
        let id = self.tape.next_sheet.fetch_add(1, Relaxed);
        let (sheet, open) = Sheet::new(id, columns.into(), groups, rows_max);
        self.tape.register(Arc::clone(&sheet));
        // An odd number of sixteenths apart: two sheets of one source seldom fill at the same read.
        let rows_now = rows_max - (id as usize * 5 % 16) * rows_max / 16;
        let written = Written {
            sheet,
            open,
            handles,
            rows_max,
            rows_now,
            row: 0,
            brackets: [None; GROUPS_MAX],
            present: [0; 2],
            last_put: None,
            splits: 0,
            is_to_regroup: false,
            samples: 0,
            first_ns: u64::MAX,
            last_ns: 0,
        };
        if place == self.sheets.len() {
            self.sheets.push(Some(written));
        } else {
            self.sheets[place] = Some(written);
        }
    }

    /// Ends a sheet. Its series that still are have no place then; they come back as new ones, with the time at which
    /// each was read last.
    fn dissolve(&mut self, sheet: usize) -> Vec<(usize, u64, Values, Moment)> {
        let Self { sheets, tape, out, memory, segment, places, has_new } = self;
        let Some(mut written) = sheets[sheet].take() else { return Vec::new() };
        written.seal(tape, segment, out, memory);
        written.sheet.close(written.last_ns);
        let Written { sheet, open, handles, rows_max, .. } = written;
        let bytes = Sheet::bytes(sheet.columns.len(), sheet.groups(), rows_max);
        // Times of different groups stay apart.
        let moment = |group: usize| Moment { at_ns: group as u64 * 4 * GROUP_WIDTH_NS, half_width_ns: 0 };
        drop(open);
        tape.pool.release_sheet(bytes);
        *has_new = true;
        let living = sheet.columns.iter().zip(handles).filter_map(|(column, index)| {
            let index = index?;
            places[index] = Place::New { series: column.series, values: column.values };
            Some((index, column.series, column.values, moment(column.group)))
        });
        living.collect()
    }
}

fn ends(moment: Moment) -> (u64, u64) {
    (moment.at_ns.saturating_sub(moment.half_width_ns), moment.at_ns.saturating_add(moment.half_width_ns))
}

impl TapeWriter for Writer {
    fn series(&mut self, living: &mut dyn Iterator<Item = (SeriesHandle, &SeriesDef)>) {
        let mut declared = vec![Place::Unknown; self.places.len()];
        for (handle, def) in living {
            let values = match def.kind() {
                Kind::Counter(_) => Values::Whole,
                Kind::Gauge => Values::Real,
            };
            let index = handle.index();
            if index >= declared.len() {
                declared.resize(index + 1, Place::Unknown);
            }
            declared[index] = Place::New { series: def.id().0, values };
        }
        for (index, place) in declared.iter_mut().enumerate() {
            let (Place::New { series, .. }, Some(before)) = (*place, self.places.get(index).copied()) else { continue };
            let is_same = match before {
                Place::At { sheet, column } => {
                    self.sheets[sheet].as_ref().is_some_and(|written| written.sheet.columns[column].series == series)
                }
                // Another look: memory may be free again.
                Place::Unknown | Place::New { .. } | Place::Refused => false,
            };
            if is_same {
                *place = before;
            }
        }
        let before = std::mem::replace(&mut self.places, declared);
        self.has_new = true;
        for (index, place) in before.into_iter().enumerate() {
            if let Place::At { sheet, column } = place
                && self.places[index] != place
                && let Some(written) = self.sheets[sheet].as_mut()
            {
                written.handles[column] = None;
            }
        }
        for sheet in 0..self.sheets.len() {
            let is_hollow = self.sheets[sheet]
                .as_ref()
                .is_some_and(|written| written.handles.iter().flatten().count() * 2 < written.handles.len().max(1));
            if is_hollow {
                self.dissolve(sheet);
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        if self.has_new {
            let is_new = |place: Option<&Place>| matches!(place, Some(Place::New { .. }));
            if batch.readings().iter().any(|reading| is_new(self.places.get(reading.series.index()))) {
                self.place_new(batch);
            }
            self.has_new = self.places.iter().any(|place| is_new(Some(place)));
        }
        let mut taken = 0;
        for reading in batch.readings() {
            taken += u64::from(self.put(reading));
        }
        let Self { sheets, tape, out, memory, segment, .. } = self;
        for written in sheets.iter_mut().flatten() {
            written.end_row(tape, segment, out, memory);
        }
        for sheet in 0..self.sheets.len() {
            if self.sheets[sheet].as_ref().is_some_and(|written| written.is_to_regroup) {
                self.dissolve(sheet);
            }
        }
        let tape = &self.tape;
        tape.counts.written.fetch_add(taken, Relaxed);
        tape.counts.refused.fetch_add(batch.readings().len() as u64 - taken, Relaxed);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for sheet in 0..self.sheets.len() {
            self.dissolve(sheet);
        }
        if let Some(segment) = self.segment.take() {
            self.tape.pool.leave(segment);
        }
    }
}

impl Written {
    /// Whether a reading's bracket can join the one its group has in this row.
    fn shares_time(&self, column: usize, moment: Moment) -> bool {
        let Some((first, last)) = self.brackets[self.sheet.columns[column].group] else { return true };
        let (from, to) = ends(moment);
        last.max(to) - first.min(from) <= ROW_WIDTH_NS.max(last - first).max(to - from)
    }

    fn put(&mut self, column: usize, bits: u64, moment: Moment) {
        let group = self.sheet.columns[column].group;
        if self.last_put != Some((group, moment)) {
            let (from, to) = ends(moment);
            let bracket = self.brackets[group].get_or_insert((from, to));
            *bracket = (bracket.0.min(from), bracket.1.max(to));
            self.last_put = Some((group, moment));
        }
        let base = self.row * self.sheet.stride();
        self.open.set(base + offsets(self.sheet.groups()).1 + column, bits);
        self.present[column / 64] |= 1 << (column % 64);
    }

    /// Shows the row; a full sheet becomes a block.
    fn end_row(&mut self, tape: &Inner, segment: &mut Option<Arc<Segment>>, out: &mut BitWriter, memory: &mut Memory) {
        if self.present == [0; 2] {
            return;
        }
        let (stride, groups) = (self.sheet.stride(), self.sheet.groups());
        let base = self.row * stride;
        let before = |word: usize| if self.row > 0 { self.open.get(base + word - stride) } else { 0 };
        for (group, bracket) in self.brackets[..groups].iter_mut().enumerate() {
            let (time, half) = match bracket.take() {
                Some((from, to)) => {
                    let time = (from + (to - from) / 2) / TIME_UNIT_NS;
                    let at_ns = time * TIME_UNIT_NS;
                    let half_ns = at_ns.saturating_sub(from).max(to - at_ns);
                    (self.first_ns, self.last_ns) = (self.first_ns.min(from), self.last_ns.max(to));
                    (time, half_ns.div_ceil(TIME_UNIT_NS))
                }
                // Nobody looks at the time of an absent group: what costs least.
                None => (before(2 * group), before(2 * group + 1)),
            };
            self.open.set(base + 2 * group, time);
            self.open.set(base + 2 * group + 1, half);
        }
        let (present, values) = offsets(groups);
        for (word, bits) in self.present.into_iter().enumerate() {
            self.open.set(base + present + word, bits);
        }
        let here = (self.present[0].count_ones() + self.present[1].count_ones()) as usize;
        let absent = if here < self.sheet.columns.len() { 0..self.sheet.columns.len() } else { 0..0 };
        for column in absent {
            if self.present[column / 64] >> (column % 64) & 1 == 0 {
                self.open.set(base + values + column, before(values + column));
            }
        }
        self.samples += here as u64;
        (self.present, self.last_put) = ([0; 2], None);
        self.row += 1;
        self.open.publish(self.row);
        if self.row >= self.rows_now {
            self.seal(tape, segment, out, memory);
        }
    }

    /// Compresses the rows into a block of the writer's segment.
    fn seal(&mut self, tape: &Inner, segment: &mut Option<Arc<Segment>>, out: &mut BitWriter, memory: &mut Memory) {
        if self.row == 0 {
            return;
        }
        self.sheet.compress(&self.open, self.row, out, memory);
        let head = Head {
            sheet: self.sheet.id,
            generation: self.open.generation(),
            rows: self.row,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
        };
        let bits = out.finish();
        let mut block_bytes = segment.as_ref().and_then(|segment| segment.append(&head, self.samples, bits));
        if block_bytes.is_none() {
            *segment = tape.pool.next(segment.take());
            block_bytes = segment.as_ref().and_then(|segment| segment.append(&head, self.samples, bits));
        }
        match block_bytes {
            Some(bytes) => {
                tape.counts.compressed.fetch_add(self.samples, Relaxed);
                tape.counts.compressed_bytes.fetch_add(bytes, Relaxed);
            }
            None => _ = tape.counts.lost.fetch_add(self.samples, Relaxed),
        }
        self.open.begin_again();
        self.is_to_regroup = self.splits * 2 > self.row;
        self.splits = 0;
        (self.row, self.samples, self.first_ns) = (0, 0, u64::MAX);
        self.rows_now = self.rows_max;
    }
}

impl Inner {
    /// Adds a sheet, and forgets those whose last block has been let go.
    fn register(&self, sheet: Arc<Sheet>) {
        let _alone = self.registering.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest_ns = self.pool.segments().map(|segment| segment.first_ns()).min().unwrap_or(u64::MAX);
        let mut sheets: Vec<_> = self.sheets.load().iter().cloned().collect();
        sheets.retain(|sheet| sheet.done_ns.load(Relaxed) >= oldest_ns);
        sheets.push(sheet);
        let is_done = |sheet: &Arc<Sheet>| sheet.done_ns.load(Relaxed) != u64::MAX;
        let mut surplus = sheets.iter().filter(|sheet| is_done(sheet)).count().saturating_sub(SHEETS_REMEMBERED_MAX);
        sheets.retain(|sheet| {
            let goes = surplus > 0 && is_done(sheet);
            surplus -= usize::from(goes);
            !goes
        });
        self.sheets.store(Arc::new(sheets));
    }
}
