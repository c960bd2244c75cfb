//! The loop of discovery: what the kernel reports, what /proc shows, and the clockwork between.
//!
//! In: records and /proc. Out: [`Event`]s for the owner, [`CoverageRow`]s for people. Work that can grow (a scan of all
//! processes) is cut in slices between which new mappings are handled first: their first calls follow within
//! milliseconds.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::attach::{Attacher, ObjectId};
use super::container::Container;
use super::family::{Families, Family};
use super::libraries;
use super::moment::{Moment, tick_ns};
use super::object::{self, OpenError, Opened};
use super::objects::{Object, Objects, Resolved, State};
use super::process::{Incomplete, Process, Sighting, Use, judge};
use super::procfs::{self, Mapping};
use super::records::{FileId, Mapped, Record};
use super::rights;
use super::ring::Rings;
use super::wanted::Wanted;
use crate::coverage::{CoverageRow, CoverageStatus};
use crate::scope::Scope;

const MILLISECOND_NS: u64 = 1_000_000;
/// Processes of interest whose mappings are read again in one look-over, in turn: those of a large Python process
/// take a few milliseconds.
const REFRESHED_MAX: usize = 16;
/// How long a file of no interest needs no second look when it is mapped again.
const PLAIN_NS: u64 = 250 * MILLISECOND_NS;
/// How often /proc is read where the kernel's reports are refused.
const POLL_NS: u64 = 250 * MILLISECOND_NS;
/// Longest piece of a scan before new mappings are looked at again.
const SLICE_NS: u64 = 5 * MILLISECOND_NS;
/// Least time between two readings of the rings, so that a storm of short-lived processes is taken in batches.
const BATCH_NS: u64 = MILLISECOND_NS;
/// Least time between two scans of all processes for lost records.
const RESCAN_NS: u64 = 5_000 * MILLISECOND_NS;
/// Processes of interest; a host has tens to hundreds.
const PROCESSES_MAX: usize = 16_384;
/// Processes remembered as looked at (Linux allows 4,194,304 ids; beyond this many some are looked at twice).
const CHECKED_MAX: usize = 262_144;
/// Files whose second look is outstanding.
const DEFERRED_MAX: usize = 4096;
/// Mappings kept per such file.
const DEFERRED_MAPPINGS_MAX: usize = 16;
/// Files searched per process for a runtime without symbols.
const HIDDEN_FILES_MAX: usize = 64;
/// What discovery looks for, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Processes to look at.
    pub scope: Scope,
    /// Libraries to probe before any process loads them; `*` stands for any characters within one name.
    pub extra_paths: Vec<String>,
    /// Whether to probe the accelerator libraries that the host's loader knows, before any process loads them.
    pub preattach: bool,
    /// Read /proc repeatedly even where the kernel's reports could be had.
    pub poll_only: bool,
    /// How often to look over what reports cannot tell, in case one was missed.
    pub look_over: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scope: Scope::Host,
            extra_paths: Vec::new(),
            preattach: true,
            poll_only: false,
            look_over: Duration::from_secs(30),
        }
    }
}

/// What discovery tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Probes are in place on an object.
    ObjectAttached {
        /// Which.
        object: ObjectId,
        /// Its path.
        path: String,
        /// From the report of the mapping to the last probe; `None` where the object was not found by a report.
        mapped_to_attached_ns: Option<u64>,
    },
    /// An object of interest could not be attached.
    ObjectUnattachable {
        /// Which.
        object: ObjectId,
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
    /// A process is of interest from now on.
    ProcessSeen {
        /// Which.
        pid: u32,
    },
    /// A process of interest replaced its program: nothing of what it held remains.
    ProcessExecuted {
        /// Which.
        pid: u32,
    },
    /// A process of interest ended.
    ProcessGone {
        /// Which.
        pid: u32,
    },
    /// The coverage report reads differently than before.
    CoverageChanged,
}

/// A process of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Name of its program.
    pub comm: String,
    /// Where it runs; `None` on the host itself.
    pub container: Option<Container>,
    /// Whether calls are missing from its figures: of its marks the latest, so that all figures are whole since.
    pub incomplete: Option<Incomplete>,
}

/// What discovery did and missed since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Executable mappings of files that the kernel reported.
    pub mappings: u64,
    /// Files whose symbols were read.
    pub indexed: u64,
    /// Mappings whose process or file was gone before it could be opened.
    pub vanished: u64,
    /// Files that could not be opened for another reason.
    pub unopened: u64,
    /// Processes whose mappings this agent has no right to read.
    pub denied: u64,
    /// Records that the kernel dropped because a ring was full; each loss is answered by a scan of all processes.
    pub lost_records: u64,
    /// Scans of all processes, the first one included.
    pub scans: u64,
    /// Processes and objects of interest that were left out because there were too many.
    pub over_limit: u64,
}

/// Mappings of a file that was taken for plain without being opened.
#[derive(Debug)]
struct Deferred {
    due_ns: u64,
    mapped: Vec<Mapped>,
    /// There were more than are kept.
    more: bool,
}

/// Why a file that a process uses has no object to attach.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Untraced {
    /// It holds these runtimes, without symbols.
    Hidden(Families),
    /// It is named like an accelerator library and could not be opened.
    Unopened(String),
}

/// Finds processes and objects; see the module's description.
pub struct Discovery {
    options: Options,
    rings: Option<Rings>,
    limitations: Vec<String>,
    objects: Objects,
    processes: BTreeMap<u32, Process>,
    /// Processes with a compute device open but nothing mapped that is of interest.
    devices: BTreeMap<u32, (String, PathBuf)>,
    /// Files of processes of interest that cannot be traced, by path.
    untraced: BTreeMap<u32, BTreeMap<String, Untraced>>,
    /// Processes whose mappings are known, by scan or because they were born under watch.
    checked: HashSet<u32>,
    /// Of these, born since the last look-over.
    born: HashSet<u32>,
    scanning: VecDeque<u32>,
    search_hidden: BTreeSet<u32>,
    /// Processes that reported their end: when to look next, and how long to wait then.
    leaving: BTreeMap<u32, (u64, u64)>,
    deferred: HashMap<FileId, Deferred>,
    events: Vec<Event>,
    counters: Counters,
    changed: bool,
    tick_ns: u64,
    drained_ns: u64,
    scan_started_ns: u64,
    scan_again: bool,
    next_look_over_ns: u64,
    refresh_position: u32,
    next_poll_ns: u64,
    poll_position: u32,
}

impl Discovery {
    /// Begins to listen, probes what programs of this host are likely to load, and looks at every running process.
    pub fn start(options: Options, wanted: Wanted, attacher: &mut dyn Attacher) -> io::Result<Self> {
        let mut limitations = rights::limitations();
        let rings = if options.poll_only {
            limitations.push("processes are found by reading /proc every 250 ms, as configured".to_owned());
            None
        } else {
            Rings::open()
                .map_err(|error| {
                    limitations.push(format!(
                        "the kernel refused to report mappings (perf_event_open: {error}; it needs CAP_PERFMON or \
                         kernel.perf_event_paranoid below 1): /proc is read every 250 ms instead, and calls before a \
                         library is found are missing"
                    ));
                })
                .ok()
        };
        let now_ns = Moment::now().monotonic_ns;
        let mut discovery = Self {
            options,
            rings,
            limitations,
            objects: Objects::new(wanted),
            processes: BTreeMap::new(),
            devices: BTreeMap::new(),
            untraced: BTreeMap::new(),
            checked: HashSet::new(),
            born: HashSet::new(),
            scanning: VecDeque::new(),
            search_hidden: BTreeSet::new(),
            leaving: BTreeMap::new(),
            deferred: HashMap::new(),
            events: Vec::new(),
            counters: Counters::default(),
            changed: false,
            tick_ns: tick_ns(),
            drained_ns: 0,
            scan_started_ns: 0,
            scan_again: false,
            next_look_over_ns: now_ns,
            refresh_position: 0,
            next_poll_ns: now_ns + POLL_NS,
            poll_position: 0,
        };
        discovery.next_look_over_ns += discovery.look_over_ns();
        discovery.preattach(attacher);
        discovery.scan_all(now_ns)?;
        while !discovery.scanning.is_empty() {
            discovery.drain(attacher);
            discovery.scan_slice(attacher);
        }
        Ok(discovery)
    }

    /// Waits until something happens or `timeout` passes, handles it, and gives what came of it.
    pub fn run_once(&mut self, attacher: &mut dyn Attacher, timeout: Duration) -> Vec<Event> {
        self.run_until(attacher, timeout, None)
    }

    /// Likewise, and waits no longer than until `wake` can be read: so nobody needs to wake up to look whether to stop.
    pub fn run_until(
        &mut self,
        attacher: &mut dyn Attacher,
        timeout: Duration,
        wake: Option<BorrowedFd<'_>>,
    ) -> Vec<Event> {
        let now_ns = Moment::now().monotonic_ns;
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let due_ns = self.next_due_ns().min(now_ns.saturating_add(timeout_ns));
        if self.events.is_empty() {
            self.wait(due_ns.saturating_sub(now_ns), wake);
        }
        self.drain(attacher);
        self.scan_slice(attacher);
        let now_ns = Moment::now().monotonic_ns;
        self.look_again(now_ns, attacher);
        self.see_off(now_ns);
        if self.scanning.is_empty()
            && let Some(pid) = self.search_hidden.pop_first()
        {
            self.find_hidden(pid);
        }
        if self.rings.is_none() && now_ns >= self.next_poll_ns {
            self.next_poll_ns = now_ns + POLL_NS;
            self.poll(attacher);
        }
        if self.scan_again && now_ns >= self.scan_started_ns + RESCAN_NS {
            self.scan_again = false;
            if let Err(error) = self.scan_all(now_ns) {
                tracing::error!(%error, "listing /proc failed: processes that started unseen stay unseen");
            }
        }
        if now_ns >= self.next_look_over_ns {
            self.next_look_over_ns = now_ns + self.look_over_ns();
            self.look_over(attacher);
        }
        if std::mem::take(&mut self.changed) {
            self.events.push(Event::CoverageChanged);
        }
        std::mem::take(&mut self.events)
    }

    /// What is off or weaker than it could be, each with its reason and remedy.
    #[must_use]
    pub fn limitations(&self) -> &[String] {
        &self.limitations
    }

    /// What was done and missed.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let over_limit = self.counters.over_limit + self.objects.over_limit;
        Counters { indexed: self.objects.indexed, over_limit, ..self.counters }
    }

    /// A process of interest.
    #[must_use]
    pub fn process(&self, pid: u32) -> Option<ProcessInfo> {
        let process = self.processes.get(&pid)?;
        let marks = process.uses.values().filter_map(|used| used.incomplete.as_ref());
        Some(ProcessInfo {
            comm: process.comm.clone(),
            container: process.container.clone(),
            incomplete: marks.max_by_key(|mark| mark.since_unix_ns).cloned(),
        })
    }

    /// Processes of interest.
    pub fn processes(&self) -> impl Iterator<Item = u32> {
        self.processes.keys().copied()
    }

    /// Which processes use an accelerator, and whether they are traced.
    #[must_use]
    pub fn coverage(&self) -> Vec<CoverageRow> {
        let mut rows = Vec::new();
        for (pid, process) in &self.processes {
            let mut row = |object: &str, status, reason| {
                rows.push(CoverageRow {
                    pid: *pid,
                    comm: process.comm.clone(),
                    object: object.to_owned(),
                    status,
                    reason,
                });
            };
            for (id, used) in &process.uses {
                let Some(object) = self.objects.get(*id) else { continue };
                match &object.state {
                    State::Attached { note, .. } => {
                        let mark =
                            used.incomplete.as_ref().map(|mark| format!("calls before are missing: {}", mark.reason));
                        let reasons: Vec<String> = note.iter().cloned().chain(mark).collect();
                        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
                        row(&used.path, CoverageStatus::Attached, reason);
                    }
                    State::Unattachable { reason, .. } => {
                        row(&used.path, CoverageStatus::Unattachable, Some(reason.clone()));
                    }
                }
            }
            for (path, untraced) in self.untraced.get(pid).into_iter().flatten() {
                let reason = match untraced {
                    Untraced::Hidden(families) => self.hidden_reason(process, *families),
                    Untraced::Unopened(reason) => reason.clone(),
                };
                row(path, CoverageStatus::Unattachable, Some(reason));
            }
        }
        for (pid, (comm, device)) in &self.devices {
            rows.push(CoverageRow {
                pid: *pid,
                comm: comm.clone(),
                object: device.display().to_string(),
                status: CoverageStatus::Unattachable,
                reason: Some("it has the device open but maps no library with functions that are traced".to_owned()),
            });
        }
        rows.sort_unstable();
        rows
    }

    fn hidden_reason(&self, process: &Process, families: Families) -> String {
        let driver = process.uses.iter().find(|(id, _)| {
            self.objects.get(**id).is_some_and(|object| {
                object.families.contains(Family::CudaDriver) && matches!(object.state, State::Attached { .. })
            })
        });
        let consequence = match (families.contains(Family::CudaRuntime), driver) {
            (true, Some((_, driver))) => {
                format!("allocations are seen from the driver layer only ({} is attached)", driver.path)
            }
            (true, None) => "its allocations are not seen".to_owned(),
            (false, _) => "its collectives are not seen".to_owned(),
        };
        format!("{} linked statically without symbols: {consequence}", families.names())
    }

    fn look_over_ns(&self) -> u64 {
        u64::try_from(self.options.look_over.as_nanos()).unwrap_or(u64::MAX / 2).max(MILLISECOND_NS)
    }

    fn next_due_ns(&self) -> u64 {
        if !self.scanning.is_empty() || !self.search_hidden.is_empty() {
            return 0;
        }
        let deferred = self.deferred.values().map(|deferred| deferred.due_ns);
        let poll = self.rings.is_none().then_some(self.next_poll_ns);
        let again = self.scan_again.then_some(self.scan_started_ns + RESCAN_NS);
        let due = deferred.chain(self.leaving.values().map(|(due_ns, _)| *due_ns)).chain(poll).chain(again);
        due.min().unwrap_or(u64::MAX).min(self.next_look_over_ns)
    }

    fn wait(&self, timeout_ns: u64, wake: Option<BorrowedFd<'_>>) {
        let timeout_ms = libc::c_int::try_from(timeout_ns.div_ceil(MILLISECOND_NS)).unwrap_or(libc::c_int::MAX);
        wait_readable([self.rings.as_ref().map(AsFd::as_fd), wake], timeout_ms);
    }

    /// Takes what the kernel reported and handles it, in order.
    fn drain(&mut self, attacher: &mut dyn Attacher) {
        let Some(rings) = &mut self.rings else { return };
        let now_ns = Moment::now().monotonic_ns;
        let early_ns = (self.drained_ns + BATCH_NS).saturating_sub(now_ns);
        if early_ns > 0 {
            std::thread::sleep(Duration::from_nanos(early_ns));
        }
        let records = rings.drain();
        self.drained_ns = Moment::now().monotonic_ns;
        for record in records {
            match record {
                Record::Mapped(mapped) => {
                    let now_ns = Moment::now().monotonic_ns;
                    self.mapped(&mapped, now_ns, now_ns.saturating_sub(PLAIN_NS), attacher);
                }
                Record::Forked { pid, parent, at_ns } => self.forked(pid, parent, at_ns),
                Record::Executed { pid, at_ns } => self.executed(pid, at_ns),
                Record::Exited { pid } => {
                    self.checked.remove(&pid);
                    self.born.remove(&pid);
                    self.search_hidden.remove(&pid);
                    if self.processes.contains_key(&pid) || self.devices.contains_key(&pid) {
                        self.leaving.insert(pid, (0, 10 * MILLISECOND_NS));
                    }
                }
                Record::Lost { records } => {
                    self.counters.lost_records += records;
                    self.checked.clear();
                    self.scan_again = true;
                }
            }
        }
    }

    /// A mapping as it was made. A file that was looked at after `fresh_ns` and was plain is not opened again now.
    fn mapped(&mut self, mapped: &Mapped, now_ns: u64, fresh_ns: u64, attacher: &mut dyn Attacher) {
        // Pid 0: a process of another pid namespace. A vdso and anonymous memory have no inode.
        if mapped.pid == 0 || mapped.pid == u32::MAX || mapped.file.inode == 0 || mapped.path.starts_with(b"//anon") {
            return;
        }
        self.counters.mappings += 1;
        if self.objects.is_plain(mapped.file, Some(mapped.generation), fresh_ns) {
            // It may have been written anew in place since: look again soon, once, however often it is mapped.
            if self.deferred.len() < DEFERRED_MAX || self.deferred.contains_key(&mapped.file) {
                let deferred = self.deferred.entry(mapped.file).or_insert_with(|| Deferred {
                    due_ns: now_ns + PLAIN_NS,
                    mapped: Vec::new(),
                    more: false,
                });
                if deferred.mapped.len() < DEFERRED_MAPPINGS_MAX {
                    deferred.mapped.push(mapped.clone());
                } else {
                    deferred.more = true;
                }
            }
            return;
        }
        if !self.options.scope.contains(mapped.pid) {
            return;
        }
        let mapping = Mapping {
            start: mapped.start,
            end: mapped.start.saturating_add(mapped.length),
            file: mapped.file,
            path: mapped.path.clone(),
        };
        let sighting = Sighting::Live { at_ns: mapped.at_ns };
        self.consider(mapped.pid, &mapping, Some(mapped.generation), sighting, attacher);
    }

    /// Opens what a process has mapped, and takes note of it if it is of interest.
    fn consider(
        &mut self,
        pid: u32,
        mapping: &Mapping,
        generation: Option<u64>,
        sighting: Sighting,
        attacher: &mut dyn Attacher,
    ) {
        let opened = Opened::mapped(pid, mapping).or_else(|error| match error {
            // The loader has split the mapping since it was reported: look where it is now.
            OpenError::Gone | OpenError::Replaced(_) => match object::current_mapping(pid, mapping.file) {
                Some(current) if current.start != mapping.start || current.end != mapping.end => {
                    Opened::mapped(pid, &current)
                }
                Some(_) => Err(error),
                None => Err(OpenError::Gone),
            },
            _ => Err(error),
        });
        let path = String::from_utf8_lossy(&mapping.path);
        let now_ns = Moment::now().monotonic_ns;
        let opened = match opened {
            Ok(opened) => opened,
            Err(OpenError::Gone) => {
                self.counters.vanished += 1;
                return;
            }
            Err(OpenError::NotRegular) => {
                self.objects.verified(mapping.file, generation, &Resolved::Plain, now_ns);
                return;
            }
            Err(error @ (OpenError::Replaced(_) | OpenError::Failed(_))) => {
                self.counters.unopened += 1;
                if !Families::of_file_name(&mapping.path).is_empty() {
                    self.unopened(pid, &path, &error);
                }
                return;
            }
        };
        let resolved = self.objects.resolve(&opened, &path, attacher);
        self.objects.verified(mapping.file, generation, &resolved, now_ns);
        let (id, new) = match resolved {
            Resolved::Plain => return,
            Resolved::Known(id) => (id, false),
            Resolved::New(id) => (id, true),
        };
        if new {
            self.announce(id, &path, sighting);
        }
        self.used(pid, id, mapping, sighting, attacher);
    }

    fn announce(&mut self, id: ObjectId, path: &str, sighting: Sighting) {
        let Some(object) = self.objects.get(id) else { return };
        let path = path.to_owned();
        self.events.push(match &object.state {
            State::Attached { at, .. } => {
                let mapped_to_attached_ns = match sighting {
                    Sighting::Live { at_ns } => Some(at.monotonic_ns.saturating_sub(at_ns)),
                    Sighting::Found => None,
                };
                Event::ObjectAttached { object: id, path, mapped_to_attached_ns }
            }
            State::Unattachable { reason, .. } => {
                Event::ObjectUnattachable { object: id, path, reason: reason.clone() }
            }
        });
        self.changed = true;
    }

    /// A file that is named like an accelerator library and could not be opened.
    fn unopened(&mut self, pid: u32, path: &str, error: &OpenError) {
        if self.enrol(pid).is_some() {
            let untraced = self.untraced.entry(pid).or_default();
            let reason = Untraced::Unopened(error.to_string());
            self.changed |= untraced.insert(path.to_owned(), reason.clone()) != Some(reason);
        }
    }

    /// The record of a process that is of interest from now on, if there is room and it still runs.
    fn enrol(&mut self, pid: u32) -> Option<&mut Process> {
        if !self.processes.contains_key(&pid) {
            if self.processes.len() >= PROCESSES_MAX {
                self.counters.over_limit += 1;
                return None;
            }
            let Some(process) = Process::read(pid) else {
                self.counters.vanished += 1;
                return None;
            };
            self.processes.insert(pid, process);
            self.devices.remove(&pid);
            self.events.push(Event::ProcessSeen { pid });
        }
        self.processes.get_mut(&pid)
    }

    fn used(&mut self, pid: u32, id: ObjectId, mapping: &Mapping, sighting: Sighting, attacher: &mut dyn Attacher) {
        if self.enrol(pid).is_none() {
            return;
        }
        let (Some(process), Some(object)) = (self.processes.get_mut(&pid), self.objects.get(id)) else { return };
        if process.uses.contains_key(&id) {
            return;
        }
        let incomplete = match object.state {
            State::Attached { at, .. } => judge(sighting, process.start_ticks * self.tick_ns, at, || {
                procfs::open_accelerator(pid).map(|device| device.display().to_string())
            }),
            State::Unattachable { .. } => None,
        };
        if incomplete.is_some() {
            attacher.mark_late(pid, id);
        }
        let mapped_ns = match sighting {
            Sighting::Live { at_ns } => at_ns,
            Sighting::Found => Moment::now().monotonic_ns,
        };
        let path = String::from_utf8_lossy(&mapping.path).into_owned();
        process.uses.insert(id, Use { path, file: mapping.file, mapped_ns, incomplete });
        self.search_hidden.insert(pid);
        self.changed = true;
    }

    fn forked(&mut self, pid: u32, parent: u32, at_ns: u64) {
        if self.checked.len() < CHECKED_MAX {
            self.checked.insert(pid);
            self.born.insert(pid);
        }
        let Some(parent) = self.processes.get(&parent) else { return };
        let inherited = parent.uses.iter().filter(|(_, used)| used.mapped_ns <= at_ns);
        // Memory of a device does not pass to a child: what it holds it asks for itself, under the probes.
        let uses: BTreeMap<ObjectId, Use> =
            inherited.map(|(id, used)| (*id, Use { mapped_ns: at_ns, incomplete: None, ..used.clone() })).collect();
        if uses.is_empty() || self.processes.len() >= PROCESSES_MAX {
            return;
        }
        if let Some(child) = Process::read(pid) {
            self.processes.insert(pid, Process { uses, ..child });
            self.events.push(Event::ProcessSeen { pid });
            self.changed = true;
        }
    }

    fn executed(&mut self, pid: u32, at_ns: u64) {
        self.untraced.remove(&pid);
        self.devices.remove(&pid);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.uses.retain(|_, used| used.mapped_ns > at_ns);
        if process.uses.is_empty() {
            self.processes.remove(&pid);
        }
        self.events.push(Event::ProcessExecuted { pid });
        self.changed = true;
    }

    /// Second looks at files that were taken for plain without being opened.
    fn look_again(&mut self, now_ns: u64, attacher: &mut dyn Attacher) {
        let due: Vec<FileId> =
            self.deferred.iter().filter(|(_, deferred)| deferred.due_ns <= now_ns).map(|(file, _)| *file).collect();
        let before = self.counters;
        for file in due {
            let Some(Deferred { mapped, more, .. }) = self.deferred.remove(&file) else { continue };
            for mapped in &mapped {
                if !self.objects.is_plain(file, Some(mapped.generation), now_ns) {
                    self.mapped(mapped, now_ns, now_ns, attacher);
                }
            }
            self.scan_again |= more && self.objects.is_of_interest(file);
        }
        // These were counted when they were mapped, and were plain then: that some have ended since is no loss.
        self.counters.mappings = before.mappings;
        self.counters.vanished = before.vanished;
    }

    /// Lets go of processes that have ended. Their last report comes before they are gone, on a busy host long before.
    /// Where a first thread ended and others go on, a look-over sees the end.
    fn see_off(&mut self, now_ns: u64) {
        const PATIENCE_NS: u64 = 1_000 * MILLISECOND_NS;
        let due = self.leaving.iter().filter(|(_, (due_ns, _))| *due_ns <= now_ns);
        let due: Vec<(u32, u64)> = due.map(|(pid, (_, wait_ns))| (*pid, *wait_ns)).collect();
        for (pid, wait_ns) in due {
            self.leaving.remove(&pid);
            if !procfs::is_alive(pid) {
                self.gone(pid);
            } else if wait_ns < PATIENCE_NS {
                self.leaving.insert(pid, (now_ns + wait_ns, wait_ns * 2));
            }
        }
    }

    fn gone(&mut self, pid: u32) {
        self.untraced.remove(&pid);
        self.changed |= self.devices.remove(&pid).is_some();
        if self.processes.remove(&pid).is_some() {
            self.events.push(Event::ProcessGone { pid });
            self.changed = true;
        }
    }

    /// Queues every process for a look at its mappings.
    fn scan_all(&mut self, now_ns: u64) -> io::Result<()> {
        self.counters.scans += 1;
        self.scan_started_ns = now_ns;
        self.scanning = procfs::processes()?.into();
        Ok(())
    }

    fn scan_slice(&mut self, attacher: &mut dyn Attacher) {
        let until_ns = Moment::now().monotonic_ns + SLICE_NS;
        while let Some(pid) = self.scanning.pop_front() {
            self.scan(pid, self.scan_started_ns, attacher);
            if Moment::now().monotonic_ns >= until_ns {
                break;
            }
        }
    }

    /// Looks at all mappings of a process; files looked at after `fresh_ns` are not opened again.
    fn scan(&mut self, pid: u32, fresh_ns: u64, attacher: &mut dyn Attacher) {
        if !self.options.scope.contains(pid) {
            return;
        }
        if let Some(known) = self.processes.get(&pid)
            && procfs::stat(pid).map(|stat| stat.start_ticks) != Some(known.start_ticks)
        {
            self.gone(pid);
        }
        if self.checked.len() < CHECKED_MAX {
            self.checked.insert(pid);
        }
        let mappings = match procfs::executable_mappings(pid) {
            Ok(mappings) => mappings,
            Err(error) => {
                self.counters.denied += u64::from(error.kind() == io::ErrorKind::PermissionDenied);
                return;
            }
        };
        let mut seen = BTreeSet::new();
        for mapping in mappings.iter().filter(|mapping| seen.insert(mapping.file)) {
            if !self.objects.is_plain(mapping.file, None, fresh_ns) {
                self.consider(pid, mapping, None, Sighting::Found, attacher);
            }
        }
        if !mappings.is_empty() {
            self.note_device(pid);
        }
    }

    /// Notes a process that holds a compute device although nothing it maps is of interest.
    fn note_device(&mut self, pid: u32) {
        if self.processes.contains_key(&pid) {
            return;
        }
        let Some(device) = procfs::open_compute_device(pid) else { return };
        let Some(stat) = procfs::stat(pid) else { return };
        if self.devices.len() < PROCESSES_MAX {
            self.changed |= self.devices.insert(pid, (stat.comm, device)).is_none();
        }
    }

    /// Looks for runtimes without symbols in a process that uses the driver but none of them visibly.
    fn find_hidden(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else { return };
        let attached = |object: &&Object| matches!(object.state, State::Attached { .. });
        let visible = process.uses.keys().filter_map(|id| self.objects.get(*id)).filter(attached);
        let visible = visible.fold(Families::NONE, |all, object| all.union(object.families));
        if !visible.contains(Family::CudaDriver) {
            return;
        }
        let Ok(mappings) = procfs::executable_mappings(pid) else { return };
        let mut untraced = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut searched = false;
        for mapping in mappings.iter().filter(|mapping| seen.insert(mapping.file)).take(HIDDEN_FILES_MAX) {
            let Ok(opened) = Opened::mapped(pid, mapping) else { continue };
            let families = match self.objects.known_hidden(&opened) {
                Some(families) => families,
                // One search takes tens of milliseconds: one a turn, and go on in the next.
                None if searched => {
                    self.search_hidden.insert(pid);
                    return;
                }
                None => {
                    searched = true;
                    self.objects.search_hidden(&opened)
                }
            };
            let families = families.without(visible);
            if !families.is_empty() {
                untraced.insert(String::from_utf8_lossy(&mapping.path).into_owned(), Untraced::Hidden(families));
            }
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.searched = mappings.iter().map(|mapping| mapping.file).collect();
        }
        let known = self.untraced.remove(&pid).unwrap_or_default();
        let unopened = known.iter().filter(|(_, untraced)| matches!(untraced, Untraced::Unopened(_)));
        untraced.extend(unopened.map(|(path, untraced)| (path.clone(), untraced.clone())));
        self.changed |= untraced != known;
        if !untraced.is_empty() {
            self.untraced.insert(pid, untraced);
        }
    }

    /// Probes what programs of this host are likely to load.
    fn preattach(&mut self, attacher: &mut dyn Attacher) {
        let mut patterns = self.options.extra_paths.clone();
        let mut paths = Vec::new();
        // Probes act on a file, whoever maps it: an agent for a part of the host leaves the rest undisturbed.
        if self.options.preattach && self.options.scope == Scope::Host {
            paths = libraries::in_loader_cache(Path::new("/etc/ld.so.cache"));
            patterns.extend(libraries::VENDOR_PATTERNS.map(str::to_owned));
        }
        paths.extend(patterns.iter().flat_map(|pattern| libraries::matching(pattern)));
        let mut kept = BTreeSet::new();
        for path in paths {
            let opened = match Opened::at(&path) {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "a library could not be probed ahead of its use");
                    continue;
                }
            };
            let path = path.display().to_string();
            match self.objects.resolve(&opened, &path, attacher) {
                Resolved::Plain => {}
                Resolved::Known(id) => _ = kept.insert(id),
                Resolved::New(id) => {
                    kept.insert(id);
                    self.announce(id, &path, Sighting::Found);
                }
            }
        }
        let all: Vec<ObjectId> = self.objects.iter().map(|(id, _)| id).collect();
        for id in all {
            self.objects.keep(id, kept.contains(&id));
        }
    }

    /// Now and then: what the reports cannot tell (libraries given up, names changed, CPUs and files that came and went),
    /// and what they may have missed.
    fn look_over(&mut self, attacher: &mut dyn Attacher) {
        if let Some(rings) = &mut self.rings {
            match rings.follow_cpus() {
                Ok(false) => {}
                // On a new CPU processes ran unseen until now.
                Ok(true) => self.scan_again = true,
                Err(error) => tracing::error!(%error, "listening on a new CPU failed: its processes are found late"),
            }
        }
        self.preattach(attacher);
        let Ok(pids) = procfs::processes() else { return };
        let running: HashSet<u32> = pids.iter().copied().collect();
        self.checked.retain(|pid| running.contains(pid));
        for pid in std::mem::take(&mut self.born) {
            if running.contains(&pid) {
                self.note_device(pid);
            }
        }
        let lost: Vec<u32> = self.devices.keys().filter(|pid| !running.contains(pid)).copied().collect();
        lost.into_iter().for_each(|pid| self.gone(pid));
        let ended: Vec<u32> = self.processes.keys().filter(|pid| !running.contains(pid)).copied().collect();
        ended.into_iter().for_each(|pid| self.gone(pid));
        let (before, after) = (..=self.refresh_position, self.refresh_position.saturating_add(1)..);
        let turn = self.processes.range(after).chain(self.processes.range(before));
        let turn: Vec<u32> = turn.map(|(pid, _)| *pid).take(REFRESHED_MAX).collect();
        for pid in turn {
            self.refresh_position = pid;
            self.refresh(pid);
        }
        self.scanning.extend(pids.into_iter().filter(|pid| !self.checked.contains(pid)));
        let used: HashSet<ObjectId> =
            self.processes.values().flat_map(|process| process.uses.keys().copied()).collect();
        self.objects.sweep(|id| used.contains(&id), attacher);
    }

    /// Brings what is known of one process of interest up to date.
    fn refresh(&mut self, pid: u32) {
        let stat = procfs::stat(pid);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Some(stat) = stat.filter(|stat| stat.start_ticks == process.start_ticks) else {
            self.gone(pid);
            return;
        };
        self.changed |= process.comm != stat.comm;
        process.comm = stat.comm;
        let Ok(mappings) = procfs::executable_mappings(pid) else { return };
        if mappings.is_empty() && !procfs::is_alive(pid) {
            self.gone(pid);
            return;
        }
        let files: BTreeSet<FileId> = mappings.iter().map(|mapping| mapping.file).collect();
        let before = process.uses.len();
        process.uses.retain(|id, used| files.contains(&used.file) && self.objects.get(*id).is_some());
        self.changed |= process.uses.len() != before;
        let failed = process.uses.keys().any(|id| {
            matches!(
                self.objects.get(*id).map(|object| &object.state),
                Some(State::Unattachable { retry_ns: Some(_), .. })
            )
        });
        if process.searched != files {
            self.search_hidden.insert(pid);
        }
        if process.uses.is_empty() && !self.untraced.contains_key(&pid) {
            self.gone(pid);
        } else if failed {
            self.scanning.push_back(pid);
        }
    }

    /// In place of reports: new processes at once, the others in turn, as far as a slice of time reaches.
    fn poll(&mut self, attacher: &mut dyn Attacher) {
        let now_ns = Moment::now().monotonic_ns;
        let Ok(mut pids) = procfs::processes() else { return };
        pids.sort_unstable();
        let running: HashSet<u32> = pids.iter().copied().collect();
        let ended: Vec<u32> = self.processes.keys().filter(|pid| !running.contains(pid)).copied().collect();
        ended.into_iter().for_each(|pid| self.gone(pid));
        self.checked.retain(|pid| running.contains(pid));
        let (known, new): (Vec<u32>, Vec<u32>) = pids.into_iter().partition(|pid| self.checked.contains(pid));
        for pid in new {
            self.scan(pid, now_ns, attacher);
        }
        let turn = known.partition_point(|pid| *pid <= self.poll_position);
        for pid in known[turn..].iter().chain(&known[..turn]) {
            if Moment::now().monotonic_ns >= now_ns + 2 * SLICE_NS {
                break;
            }
            self.poll_position = *pid;
            self.scan(*pid, now_ns, attacher);
        }
    }
}

fn wait_readable(fds: [Option<BorrowedFd<'_>>; 2], timeout_ms: libc::c_int) {
    // poll passes over negative descriptors.
    let mut wanted =
        fds.map(|fd| libc::pollfd { fd: fd.map_or(-1, |fd| fd.as_raw_fd()), events: libc::POLLIN, revents: 0 });
    // SAFETY: `wanted` is two pollfds, and their descriptors are open for the length of the call. An interrupted or
    // failed wait is the same as a short one.
    unsafe { libc::poll(wanted.as_mut_ptr(), 2, timeout_ms) };
}

#[cfg(test)]
mod tests {
    use super::wait_readable;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_wait_without_end_ends_when_somebody_wakes_it() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let (quiet, _kept) = std::io::pipe().expect("a pipe");
        let sleeper = std::thread::spawn(move || {
            wait_readable([Some(quiet.as_fd()), Some(reader.as_fd())], -1);
            wait_readable([None, Some(reader.as_fd())], -1);
        });
        writer.write_all(b"wake").expect("the sleeper holds the other end");
        sleeper.join().expect("both waits ended");
    }
}
