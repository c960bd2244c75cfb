//! Every object seen, once: indexed, attached, or known to be of no interest.
//!
//! In: opened files. Out: an [`ObjectId`] for those of interest, probes through the [`Attacher`]. An object is read once
//! however many processes map it; the answers are kept, and forgotten oldest first at their limit.

use std::collections::{BTreeMap, HashMap};

use super::attach::{Attachable, Attacher, ObjectId};
use super::elf::{self, ElfError, ElfIndex, Symtab};
use super::family::{self, Families};
use super::moment::Moment;
use super::object::{Identity, Opened};
use super::records::FileId;
use super::wanted::Wanted;

/// Objects of interest; a host has tens.
const OBJECTS_MAX: usize = 4096;
/// Files known to be of no interest (about 100 bytes each).
const PLAIN_MAX: usize = 32_768;
/// How long a failed attach waits for its next try.
const RETRY_NS: u64 = 30_000_000_000;
/// Look-overs after which probes are taken off an object that nobody maps. They hold its inode, and with it the file
/// system of a container that is gone.
const UNUSED_LOOKS: u8 = 2;

/// An object of interest.
#[derive(Debug)]
pub struct Object {
    /// Which file.
    pub identity: Identity,
    /// Interfaces that it implements.
    pub families: Families,
    /// What became of it.
    pub state: State,
    /// Expected to be used by programs to come.
    pub kept: bool,
    unused_looks: u8,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Probes are in place.
    Attached {
        /// Since when.
        at: Moment,
        /// What is missing, if anything.
        note: Option<String>,
    },
    /// It is not traced.
    Unattachable {
        /// Why.
        reason: String,
        /// When to try again (CLOCK_MONOTONIC), if trying can help.
        retry_ns: Option<u64>,
    },
}

/// What looking at a file led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Of no interest.
    Plain,
    /// Known, nothing new.
    Known(ObjectId),
    /// Attached, or found unattachable, just now.
    New(ObjectId),
}

struct Verified {
    object: Option<ObjectId>,
    generation: Option<u64>,
    at_ns: u64,
}

/// All objects.
pub struct Objects {
    wanted: Wanted,
    objects: BTreeMap<ObjectId, Object>,
    by_identity: HashMap<Identity, ObjectId>,
    plain: HashMap<Identity, u64>,
    files: HashMap<FileId, Verified>,
    markers: HashMap<Identity, Families>,
    next_id: u32,
    /// Files indexed so far.
    pub indexed: u64,
    /// Objects of interest left out because there were too many.
    pub over_limit: u64,
}

impl Objects {
    /// Empty.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            objects: BTreeMap::new(),
            by_identity: HashMap::new(),
            plain: HashMap::new(),
            files: HashMap::new(),
            markers: HashMap::new(),
            next_id: 0,
            indexed: 0,
            over_limit: 0,
        }
    }

    /// An object of interest.
    pub fn get(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&id)
    }

    /// All objects of interest.
    pub fn iter(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.objects.iter().map(|(id, object)| (*id, object))
    }

    /// Whether a file was looked at after `after_ns` and found to be of no interest, so that it need not be opened.
    pub fn is_plain(&self, file: FileId, generation: Option<u64>, after_ns: u64) -> bool {
        self.files.get(&file).is_some_and(|verified| {
            let same = generation.is_none() || verified.generation.is_none() || generation == verified.generation;
            same && verified.object.is_none() && verified.at_ns >= after_ns
        })
    }

    /// Whether a file of a mapping led to an object of interest.
    pub fn is_of_interest(&self, file: FileId) -> bool {
        self.files.get(&file).is_some_and(|verified| verified.object.is_some())
    }

    /// Remembers what a file of a mapping led to.
    pub fn verified(&mut self, file: FileId, generation: Option<u64>, resolved: &Resolved, now_ns: u64) {
        if self.files.len() >= PLAIN_MAX {
            forget_older_half(&mut self.files, |verified| verified.at_ns);
        }
        let object = match resolved {
            Resolved::Plain => None,
            Resolved::Known(id) | Resolved::New(id) => Some(*id),
        };
        self.files.insert(file, Verified { object, generation, at_ns: now_ns });
    }

    /// Looks at an opened file: indexes and attaches it if it is new and of interest.
    pub fn resolve(&mut self, opened: &Opened, path: &str, attacher: &mut dyn Attacher) -> Resolved {
        let now = Moment::now();
        if let Some(used_ns) = self.plain.get_mut(&opened.identity) {
            *used_ns = now.monotonic_ns;
            return Resolved::Plain;
        }
        if let Some(id) = self.by_identity.get(&opened.identity).copied() {
            let due = self.objects.get_mut(&id).is_some_and(|object| {
                // Short-lived programs may use it without ever being there when a look-over comes by.
                object.unused_looks = 0;
                matches!(object.state, State::Unattachable { retry_ns: Some(at_ns), .. } if at_ns <= now.monotonic_ns)
            });
            if !due {
                return Resolved::Known(id);
            }
            return self.index(opened, path, id, attacher);
        }
        self.forget_rewritten(&opened.identity, attacher);
        self.index(opened, path, ObjectId(self.next_id), attacher)
    }

    fn index(&mut self, opened: &Opened, path: &str, id: ObjectId, attacher: &mut dyn Attacher) -> Resolved {
        self.indexed += 1;
        let now_ns = Moment::now().monotonic_ns;
        let named = Families::of_file_name(path.as_bytes());
        let index = match elf::index(&opened.file, &self.wanted) {
            Ok(index) => index,
            Err(error) if named.is_empty() => {
                if !matches!(error, ElfError::Read(_)) {
                    self.remember_plain(opened.identity, now_ns);
                }
                return Resolved::Plain;
            }
            Err(error) => {
                let retry_ns = matches!(error, ElfError::Read(_)).then_some(now_ns + RETRY_NS);
                let state = State::Unattachable { reason: error.to_string(), retry_ns };
                return self.add(id, opened.identity, named, state);
            }
        };
        if index.found.is_empty() && named.is_empty() {
            self.remember_plain(opened.identity, now_ns);
            return Resolved::Plain;
        }
        if self.objects.len() >= OBJECTS_MAX {
            self.over_limit += 1;
            return Resolved::Plain;
        }
        let functions = index.found.iter().filter_map(|point| self.wanted.name(point.symbol));
        let families = Families::of_symbols(functions).union(named);
        let state = if index.found.is_empty() {
            State::Unattachable { reason: no_functions(&index, named), retry_ns: None }
        } else {
            attach(opened, path, id, &index, attacher)
        };
        self.add(id, opened.identity, families, state)
    }

    /// Which runtimes an object holds without symbols, if that is known.
    pub fn known_hidden(&self, opened: &Opened) -> Option<Families> {
        self.markers.get(&opened.identity).copied()
    }

    /// Searches an object for runtimes without symbols.
    pub fn search_hidden(&mut self, opened: &Opened) -> Families {
        let families = elf::index(&opened.file, &self.wanted)
            .map(|index| family::search_markers(&opened.file, &index))
            .unwrap_or_default();
        if self.markers.len() >= OBJECTS_MAX {
            self.markers.clear();
        }
        self.markers.insert(opened.identity, families);
        families
    }

    /// Marks an object as expected to be used by programs to come, or no longer.
    pub fn keep(&mut self, id: ObjectId, kept: bool) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.kept = kept;
        }
    }

    /// Takes probes off objects that nobody used at this look and the one before. `used` says which processes map.
    pub fn sweep(&mut self, used: impl Fn(ObjectId) -> bool, attacher: &mut dyn Attacher) {
        let mut unused = Vec::new();
        for (id, object) in &mut self.objects {
            object.unused_looks = if object.kept || used(*id) { 0 } else { object.unused_looks + 1 };
            if object.unused_looks >= UNUSED_LOOKS {
                unused.push(*id);
            }
        }
        for id in unused {
            if matches!(self.remove(id), Some(Object { state: State::Attached { .. }, .. })) {
                attacher.detach(id);
            }
        }
    }

    /// A file written in place keeps its inode, and with it the probes at what were the starts of functions: in the new
    /// code they could stand in the middle of an instruction.
    fn forget_rewritten(&mut self, identity: &Identity, attacher: &mut dyn Attacher) {
        let rewritten = self.objects.iter().find_map(|(id, object)| {
            let known = &object.identity;
            (known.device == identity.device && known.inode == identity.inode && known.device.is_some()).then_some(*id)
        });
        if let Some(id) = rewritten
            && matches!(self.remove(id), Some(Object { state: State::Attached { .. }, .. }))
        {
            attacher.detach(id);
        }
    }

    fn add(&mut self, id: ObjectId, identity: Identity, families: Families, state: State) -> Resolved {
        self.next_id = self.next_id.max(id.0 + 1);
        self.by_identity.insert(identity, id);
        self.objects.insert(id, Object { identity, families, state, kept: false, unused_looks: 0 });
        Resolved::New(id)
    }

    fn remove(&mut self, id: ObjectId) -> Option<Object> {
        let object = self.objects.remove(&id)?;
        self.by_identity.remove(&object.identity);
        self.files.retain(|_, verified| verified.object != Some(id));
        Some(object)
    }

    fn remember_plain(&mut self, identity: Identity, now_ns: u64) {
        if self.plain.len() >= PLAIN_MAX {
            forget_older_half(&mut self.plain, |used_ns| *used_ns);
        }
        self.plain.insert(identity, now_ns);
    }
}

fn attach(opened: &Opened, path: &str, id: ObjectId, index: &ElfIndex, attacher: &mut dyn Attacher) -> State {
    let probe_path = opened.fd_path();
    let object = Attachable { id, identity: opened.identity, probe_path: &probe_path, path, points: &index.found };
    match attacher.attach(&object) {
        Ok(attached) => {
            let at = if attached.kept { Moment::BEFORE_ALL } else { Moment::now() };
            let missing = index.found.len().saturating_sub(attached.points);
            let note = attached.first_error.map(|error| {
                format!(
                    "{missing} of {} functions could not be attached, the first because: {error}",
                    index.found.len()
                )
            });
            State::Attached { at, note }
        }
        Err(error) => {
            State::Unattachable { reason: error.to_string(), retry_ns: Some(Moment::now().monotonic_ns + RETRY_NS) }
        }
    }
}

fn no_functions(index: &ElfIndex, named: Families) -> String {
    let mut reason = format!("it is named like the {} library but defines none of the traced functions", named.names());
    if let Symtab::CutOff(entries) = index.symtab {
        reason = format!("{reason} among those of its {entries} symbols that were looked at");
    }
    reason
}

/// Keeps the newer half of a map by the time that `of` gives.
fn forget_older_half<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, of: impl Fn(&V) -> u64) {
    let mut times: Vec<u64> = map.values().map(&of).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    map.retain(|_, value| of(value) > median);
}
