//! One queue on disk, of signals or of windows: segments of records, appended at the end, read by index, dropped
//! whole from the front.
//!
//! Flows in: encoded frames, each with the next index. Flows out: frames by index. Indexes are never reused and
//! only grow; a frame that was cut, damaged or refused leaves a gap, and the gaps are how loss is counted.
//! Where the disk refuses, segments are kept in memory instead, and the disk is tried again every 5 s.
//! Never: appending to a segment of an earlier run, so its torn end needs no repair.

use crate::clock::{mono_ns, unix_ns};
use crate::record::{self, HEADER_BYTES, Kind};
use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a failing disk is left alone.
const DISK_RETRY: Duration = Duration::from_secs(5);

/// When a segment was begun: relates its monotonic times to the wall clock after a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub boot_id: String,
    pub mono_ns: u64,
    pub unix_ns: u64,
}

pub(crate) struct Log {
    directory: Option<PathBuf>,
    boot_id: String,
    segment_bytes_max: u64,
    segments: VecDeque<Segment>,
    /// The last segment takes appends.
    active: bool,
    next_index: u64,
    reader: Option<(u64, File)>,
    disk_retry_at: Option<Instant>,
    /// Files (and the directory, for new names) written since the last look of the background sync.
    dirty: Vec<Arc<File>>,
    pub disk_errors: u64,
    pub damaged: u64,
    /// The last refusal of the disk, until an append to it works again.
    pub trouble: Option<String>,
}

struct Segment {
    first_index: u64,
    /// (index - first_index, offset of the record) of each frame, ascending.
    frames: Vec<(u32, u32)>,
    bytes: u64,
    medium: Medium,
    anchor: Option<Anchor>,
    defined: HashSet<u64>,
}

enum Medium {
    Disk { path: PathBuf, file: Option<Arc<File>> },
    Memory(Vec<u8>),
}

/// Which segments a quota is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Disk,
    Memory,
}

impl Segment {
    fn place(&self) -> Place {
        match self.medium {
            Medium::Disk { .. } => Place::Disk,
            Medium::Memory(_) => Place::Memory,
        }
    }

    fn end(&self) -> u64 {
        self.frames.last().map_or(self.first_index, |(delta, _)| self.first_index + u64::from(*delta) + 1)
    }
}

impl Log {
    /// Opens the log in `directory`, or one in memory. `learn` gets the bodies of all definitions found, and of the receipts
    /// of this boot with the index of their frame.
    pub fn open(
        directory: Option<PathBuf>,
        boot_id: &str,
        segment_bytes_max: u64,
        mut learn: impl FnMut(Kind, u64, &[u8]),
    ) -> io::Result<Self> {
        let mut log = Self {
            directory: directory.clone(),
            boot_id: boot_id.to_owned(),
            segment_bytes_max,
            segments: VecDeque::new(),
            active: false,
            next_index: 1,
            reader: None,
            disk_retry_at: None,
            dirty: Vec::new(),
            disk_errors: 0,
            damaged: 0,
            trouble: None,
        };
        let Some(directory) = directory else { return Ok(log) };
        fs::create_dir_all(&directory)?;
        let mut names: Vec<(u64, PathBuf)> = fs::read_dir(&directory)?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let index = path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()?;
                Some((index, path))
            })
            .collect();
        names.sort_unstable();
        for (first_index, path) in names {
            match log.load(first_index, &path, &mut learn) {
                Ok(segment) if segment.frames.is_empty() => {
                    let _ = fs::remove_file(&path);
                }
                Ok(segment) => {
                    log.next_index = log.next_index.max(segment.end());
                    log.segments.push_back(segment);
                }
                Err(error) => {
                    log.disk_errors += 1;
                    tracing::error!("spool segment {} cannot be read and is left aside: {error}", path.display());
                }
            }
        }
        Ok(log)
    }

    fn load(&mut self, first_index: u64, path: &Path, learn: &mut impl FnMut(Kind, u64, &[u8])) -> io::Result<Segment> {
        let mut bytes = Vec::new();
        // No segment is written larger than this; a larger file is not ours.
        let most = self.segment_bytes_max.max(64 << 20) + railwatch_wire::limits::MESSAGE_BYTES_MAX as u64 * 2;
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        let mut segment = Segment {
            first_index,
            frames: Vec::new(),
            bytes: bytes.len() as u64,
            medium: Medium::Disk { path: path.to_owned(), file: None },
            anchor: None,
            defined: HashSet::new(),
        };
        let mut expected = self.next_index.max(first_index);
        let mut receipt = None;
        let met = record::scan(&bytes, |record| match record.kind {
            Kind::Segment => segment.anchor = segment.anchor.take().or_else(|| anchor(record.body)),
            Kind::Definitions => learn(record.kind, record.index, record.body),
            Kind::Receipt => receipt = Some((record.index, record.body)),
            Kind::Frame => {
                if let (true, Ok(delta), Ok(offset)) = (
                    record.index >= expected,
                    u32::try_from(record.index - first_index.min(record.index)),
                    u32::try_from(record.offset),
                ) {
                    segment.frames.push((delta, offset));
                    expected = record.index + 1;
                    let own_boot = segment.anchor.as_ref().is_some_and(|anchor| anchor.boot_id == self.boot_id);
                    if let Some((_, body)) = receipt.take().filter(|(index, _)| own_boot && *index == record.index) {
                        learn(Kind::Receipt, record.index, body);
                    }
                }
            }
        });
        if met.damaged > 0 {
            tracing::error!(
                places = met.damaged,
                "spool segment {} is damaged; what was lost is counted as skipped",
                path.display()
            );
        }
        self.damaged += met.damaged;
        Ok(segment)
    }

    /// The index that the next frame gets.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Leaves `count` indexes out: frames that were lost before they got here, or assigned in an earlier run.
    pub fn skip_to(&mut self, next_index: u64) {
        if next_index > self.next_index {
            self.next_index = next_index;
        }
    }

    /// Appends a frame with its receipt, if it has one, and returns its index.
    pub fn append(&mut self, body: &[u8], receipt: Option<&[u8]>) -> u64 {
        self.append_with(body, receipt, &[], |_| None)
    }

    /// Appends a frame and returns its index. `definitions` makes the body that defines those of `series` which this
    /// segment does not define yet.
    pub fn append_defining(
        &mut self,
        body: &[u8],
        series: &[u64],
        definitions: impl Fn(&[u64]) -> Option<Vec<u8>>,
    ) -> u64 {
        self.append_with(body, None, series, definitions)
    }

    fn append_with(
        &mut self,
        body: &[u8],
        receipt: Option<&[u8]>,
        series: &[u64],
        definitions: impl Fn(&[u64]) -> Option<Vec<u8>>,
    ) -> u64 {
        let index = self.next_index;
        self.next_index += 1;
        self.roll_if_needed(index);
        for attempt in 0..2 {
            if !self.active {
                self.begin(index, attempt > 0);
            }
            let Some(segment) = self.segments.back_mut() else { continue };
            let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
            let undefined: Vec<u64> = series.iter().copied().filter(|id| !segment.defined.contains(id)).collect();
            if !undefined.is_empty()
                && let Some(definitions) = definitions(&undefined)
            {
                record::write(&mut bytes, Kind::Definitions, index, &definitions);
            }
            if let Some(receipt) = receipt {
                record::write(&mut bytes, Kind::Receipt, index, receipt);
            }
            let offset = segment.bytes + bytes.len() as u64;
            record::write(&mut bytes, Kind::Frame, index, body);
            let written = match &mut segment.medium {
                Medium::Memory(memory) => {
                    memory.extend_from_slice(&bytes);
                    Ok(())
                }
                Medium::Disk { file: Some(file), .. } => file.write_all_at(&bytes, segment.bytes).inspect(|()| {
                    if !self.dirty.iter().any(|dirty| Arc::ptr_eq(dirty, file)) {
                        self.dirty.push(file.clone());
                    }
                }),
                Medium::Disk { file: None, .. } => Err(io::Error::other("the segment is closed")),
            };
            match written {
                Ok(()) => {
                    segment.bytes += bytes.len() as u64;
                    // Both fit: a segment is rolled far below 4 GiB, and holds fewer frames than bytes.
                    segment.frames.push(((index - segment.first_index) as u32, offset as u32));
                    segment.defined.extend(undefined);
                    if attempt == 0 && segment.place() == Place::Disk {
                        self.trouble = None;
                    }
                    break;
                }
                Err(error) => {
                    if let Medium::Disk { file: Some(file), .. } = &segment.medium {
                        let _ = file.set_len(segment.bytes);
                    }
                    self.disk_failed("write to", &error);
                }
            }
        }
        index
    }

    fn roll_if_needed(&mut self, index: u64) {
        let Some(segment) = self.segments.back().filter(|_| self.active) else { return };
        let full = segment.bytes >= self.segment_bytes_max || index - segment.first_index > u64::from(u32::MAX / 2);
        let back_to_disk = segment.place() == Place::Memory && self.disk_may_be_tried();
        if full || back_to_disk {
            self.close();
        }
    }

    fn close(&mut self) {
        self.active = false;
        if let Some(Segment { medium: Medium::Disk { file, .. }, defined, .. }) = self.segments.back_mut() {
            *file = None;
            *defined = HashSet::new();
        }
    }

    fn disk_may_be_tried(&self) -> bool {
        self.directory.is_some() && self.disk_retry_at.is_none_or(|at| Instant::now() >= at)
    }

    fn disk_failed(&mut self, doing: &str, error: &io::Error) {
        self.disk_errors += 1;
        self.disk_retry_at = Some(Instant::now() + DISK_RETRY);
        let directory = self.directory.as_deref().unwrap_or(Path::new("")).display();
        let text = format!(
            "cannot {doing} the spool in {directory}: {error}; frames are kept in memory, and lost if the agent ends"
        );
        if self.trouble.as_ref() != Some(&text) {
            tracing::error!("{text}");
            self.trouble = Some(text);
        }
        self.close();
    }

    fn begin(&mut self, first_index: u64, in_memory: bool) {
        let anchor = Anchor { boot_id: self.boot_id.clone(), mono_ns: mono_ns(), unix_ns: unix_ns() };
        let mut head = Vec::new();
        record::write(
            &mut head,
            Kind::Segment,
            first_index,
            format!("{} {} {}", anchor.boot_id, anchor.mono_ns, anchor.unix_ns).as_bytes(),
        );
        let mut medium = None;
        if !in_memory
            && self.disk_may_be_tried()
            && let Some(directory) = &self.directory
        {
            let path = directory.join(format!("{first_index:020}.seg"));
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            match made.and_then(|file| file.write_all_at(&head, 0).map(|()| file)) {
                Ok(file) => {
                    self.dirty.extend(File::open(directory).ok().map(Arc::new));
                    medium = Some(Medium::Disk { path, file: Some(Arc::new(file)) });
                }
                Err(error) => {
                    let _ = fs::remove_file(&path);
                    self.disk_failed("begin a segment of", &error);
                }
            }
        }
        let medium = medium.unwrap_or_else(|| Medium::Memory(head.clone()));
        let bytes = head.len() as u64;
        self.segments.push_back(Segment {
            first_index,
            frames: Vec::new(),
            bytes,
            medium,
            anchor: Some(anchor),
            defined: HashSet::new(),
        });
        self.active = true;
    }

    /// The first index at or after `from` that is held.
    pub fn held_from(&self, from: u64) -> Option<u64> {
        let at = self.segments.partition_point(|segment| segment.end() <= from);
        let segment = self.segments.get(at)?;
        let inside = segment.frames.partition_point(|(delta, _)| segment.first_index + u64::from(*delta) < from);
        segment.frames.get(inside).map(|(delta, _)| segment.first_index + u64::from(*delta))
    }

    /// The frame with that index, and when its segment was begun; `None` when it was cut or is damaged.
    pub fn read(&mut self, index: u64) -> Option<(Vec<u8>, Option<Anchor>)> {
        let at = self.segments.partition_point(|segment| segment.end() <= index);
        let segment = self.segments.get(at)?;
        let delta = u32::try_from(index.checked_sub(segment.first_index)?).ok()?;
        let inside = segment.frames.binary_search_by_key(&delta, |(delta, _)| *delta).ok()?;
        let offset = u64::from(segment.frames[inside].1);
        let end = segment.frames.get(inside + 1).map_or(segment.bytes, |(_, next)| u64::from(*next));
        let found = match &segment.medium {
            Medium::Memory(memory) => {
                memory.get(offset as usize..).and_then(|bytes| record::frame(bytes, index)).map(<[u8]>::to_vec)
            }
            Medium::Disk { path, .. } => {
                let mut bytes = vec![0; usize::try_from(end - offset).ok()?];
                // Twice: a file that was kept open may have become stale.
                (0..2).find_map(|_| {
                    if self.reader.as_ref().is_none_or(|(first, _)| *first != segment.first_index) {
                        self.reader = File::open(path).ok().map(|file| (segment.first_index, file));
                    }
                    let read =
                        self.reader.as_ref().is_some_and(|(_, file)| file.read_exact_at(&mut bytes, offset).is_ok());
                    let body = read.then(|| record::frame(&bytes, index).map(<[u8]>::to_vec)).flatten();
                    if body.is_none() {
                        self.reader = None;
                    }
                    body
                })
            }
        };
        if found.is_none() {
            self.damaged += 1;
            tracing::error!(index, "a spooled frame cannot be read back and is counted as skipped");
        }
        found.map(|body| (body, segment.anchor.clone()))
    }

    /// Drops whole segments in which nothing at or after `index` is held.
    pub fn drop_before(&mut self, index: u64) {
        while self.segments.front().is_some_and(|segment| segment.end() <= index)
            && (self.segments.len() > 1 || !self.active)
        {
            self.remove(0);
        }
    }

    /// Drops all segments of an earlier boot: their times mean nothing now. Returns how many frames went.
    pub fn drop_former_boots(&mut self) -> u64 {
        let mut frames = 0;
        while let Some(at) =
            self.segments.iter().position(|s| s.anchor.as_ref().is_none_or(|anchor| anchor.boot_id != self.boot_id))
        {
            frames += self.remove(at);
        }
        frames
    }

    /// Drops the oldest segment in that place; returns how many frames at or after `wanted_from` went, or `None`
    /// when there is no such segment.
    pub fn drop_oldest(&mut self, place: Place, wanted_from: u64) -> Option<u64> {
        let at = self.segments.iter().position(|segment| segment.place() == place && !segment.frames.is_empty())?;
        if at + 1 == self.segments.len() && self.active {
            self.close();
        }
        let segment = &self.segments[at];
        let wanted =
            segment.frames.iter().filter(|(delta, _)| segment.first_index + u64::from(*delta) >= wanted_from).count();
        self.remove(at);
        Some(wanted as u64)
    }

    fn remove(&mut self, at: usize) -> u64 {
        let Some(segment) = self.segments.remove(at) else { return 0 };
        if let Medium::Disk { path, .. } = &segment.medium {
            if self.reader.as_ref().is_some_and(|(first, _)| *first == segment.first_index) {
                self.reader = None;
            }
            if let Err(error) = fs::remove_file(path) {
                self.disk_errors += 1;
                tracing::error!("cannot remove the spool segment {}: {error}", path.display());
            }
        }
        segment.frames.len() as u64
    }

    /// Bytes held in that place.
    pub fn bytes(&self, place: Place) -> u64 {
        self.segments.iter().filter(|segment| segment.place() == place).map(|segment| segment.bytes).sum()
    }

    /// Frames held at or after `index`.
    pub fn frames_from(&self, index: u64) -> u64 {
        self.segments
            .iter()
            .map(|segment| {
                segment.frames.len()
                    - segment.frames.partition_point(|(delta, _)| segment.first_index + u64::from(*delta) < index)
            })
            .sum::<usize>() as u64
    }

    /// The files that want an fdatasync.
    pub fn take_dirty(&mut self) -> Vec<Arc<File>> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether something was written since [`Self::take_dirty`].
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

fn anchor(body: &[u8]) -> Option<Anchor> {
    let mut words = std::str::from_utf8(body).ok()?.split(' ');
    Some(Anchor {
        boot_id: words.next()?.to_owned(),
        mono_ns: words.next()?.parse().ok()?,
        unix_ns: words.next()?.parse().ok()?,
    })
}
