//! Loads the kernel half, attaches it to functions, and hands out what it says.
//!
//! In: [`Options`]; object files with the symbols that discovery found in them. Out: attachments, events
//! ([`Kernel::drain`]), loss counters ([`Kernel::loss`]), and the maps that [`crate::accounts`] reads.
//! Never: a decision what to trace, a thread of its own, a wait. Without privilege, or on a kernel that lacks
//! something, loading fails with what is missing ([`LoadError`]); what merely degrades is in [`Kernel::off`].

mod attach;
mod custody;
pub mod object;
pub mod offsets;
mod pin;
mod ring;
pub mod sys;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use railwatch_abi::cookie::Layer;
use railwatch_abi::event::{EventKind, ExitStatus, RawEvent};
use railwatch_abi::maps::{
    Config, LAYERS, Late, Loss as RawLoss, Plain, Process, ProcessKey, REASONS, Reason, tgid_of,
};

pub use attach::{AttachError, Attached, AttachmentId, Method};
pub use custody::Custody;

use crate::scope::Scope;
use crate::symbols::SymbolId;

/// Bytes of the event ring, as the kernel half defines it.
const RING_BYTES: usize = 256 * 1024;

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Part of the host that is followed.
    pub scope: Scope,
    /// Folder in a BPF file system where maps and links are kept across a restart; `None` to keep nothing.
    pub pin_dir: Option<PathBuf>,
    /// Keep call stacks of allocations.
    pub stacks: bool,
    /// Events per process and second at most; what goes beyond is counted.
    pub event_cap: u32,
    /// How to attach; `None` chooses what the kernel can.
    pub method: Option<Method>,
    /// The running kernel's types, read where nobody has yet.
    pub types: offsets::Types,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scope: Scope::Host,
            pin_dir: None,
            stacks: false,
            event_cap: 50,
            method: None,
            types: offsets::Types::default(),
        }
    }
}

/// Why the kernel half cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process lacks a capability.
    #[error(
        "loading the kernel half needs the capabilities CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN), and {missing} is \
         missing: what it counts is off; give the agent's unit that capability"
    )]
    Capability {
        /// Which.
        missing: &'static str,
    },
    /// The kernel is locked down.
    #[error(
        "the kernel is locked down for confidentiality, which forbids BPF programs to read memory: what they count is \
         off; boot with lockdown=integrity to have it"
    )]
    Lockdown,
    /// A map could not be made.
    #[error(
        "creating the BPF map {name}: {source}; kernels before 5.15 are not supported, and the agent's memory limit counts BPF maps"
    )]
    Map {
        /// Which.
        name: String,
        /// Errno.
        source: io::Error,
    },
    /// A program was refused.
    #[error("loading the BPF program {name}: {source}; the verifier's last words:\n{verifier}")]
    Program {
        /// Which.
        name: String,
        /// Errno.
        source: io::Error,
        /// End of the verifier's log.
        verifier: String,
    },
    /// The object is not ours.
    #[error("the kernel half's object is unusable: {reason}; rebuild it with `cargo xtask ebpf build`")]
    Object {
        /// Why.
        reason: String,
    },
    /// A tracepoint could not be attached.
    #[error("attaching to the tracepoint {name}: {source}")]
    Tracepoint {
        /// Which.
        name: &'static str,
        /// Errno.
        source: io::Error,
    },
    /// The ring could not be mapped.
    #[error("mapping the event ring: {0}")]
    Ring(io::Error),
}

/// Something that the kernel half does without, and what is off because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Off {
    /// What does not work.
    pub what: &'static str,
    /// Why, with what to do.
    pub reason: String,
}

/// An event, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it says.
    pub kind: EventKind,
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub at_ns: u64,
    /// Whose.
    pub process: ProcessKey,
    /// Thread id, in the host's namespace.
    pub thread: u32,
    /// Symbol of the call; meaningless for process events.
    pub symbol: SymbolId,
    /// Status the call returned; for [`EventKind::ProcessGone`] 0 by exit, 1 by exec; for communicators the ranks.
    pub code: i32,
    /// Device, where known.
    pub device: Option<i32>,
    /// Bytes asked for (allocations), identity (communicators), or how it ended (processes gone; see [`Event::exit`]).
    pub value: u64,
    /// Handle (communicators).
    pub address: u64,
    /// Rank (communicators), where known.
    pub rank: Option<i32>,
}

impl Event {
    /// Process id, in the host's namespace.
    pub fn pid(&self) -> u32 {
        tgid_of(self.process)
    }

    /// How the process ended, where it did; a process that became another program has not.
    pub fn exit(&self) -> Option<ExitStatus> {
        (self.kind == EventKind::ProcessGone && self.code == 0).then_some(ExitStatus(self.value))
    }
}

/// The books of events, and of what could not be recorded. `seen` = `submitted` + capped + ring full; when the ring is
/// drained, `submitted` = `delivered`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Events that were to be sent.
    pub seen: u64,
    /// Put into the ring.
    pub submitted: u64,
    /// Handed to the caller of [`Kernel::drain`] or [`Kernel::drain_kept`] (or that of an agent before a restart).
    pub delivered: u64,
    /// What was not sent or not recorded, by reason; reasons that never happened are there with 0.
    pub by_reason: BTreeMap<Reason, u64>,
    /// Records in the ring of a kind this agent does not know; part of `delivered`.
    pub unknown: u64,
}

impl Loss {
    /// Events that did not reach user space.
    pub fn events_dropped(&self) -> u64 {
        [Reason::EventCapped, Reason::RingFull].iter().filter_map(|reason| self.by_reason.get(reason)).sum()
    }
}

/// The loaded kernel half. Dropping it detaches everything that is not pinned.
pub struct Kernel {
    parsed: object::Parsed,
    maps: HashMap<String, OwnedFd>,
    ring: ring::Ring,
    delivered: u64,
    unknown: u64,
    cpus: usize,
    off: Vec<Off>,
    scope: Scope,
    pins: Option<pin::Pins>,
    attacher: attach::Attacher,
    _tracepoints: Vec<OwnedFd>,
}

impl Kernel {
    /// Loads, or re-adopts what an agent of the same build left pinned.
    pub fn load(options: Options) -> Result<Self, LoadError> {
        preconditions()?;
        let mut off = Vec::new();
        let config = configure(&options, &mut off);
        let mut parsed = object::Parsed::new(&config)?;
        let identity = pin::identity(&config, parsed.hash);
        let mut pins = options.pin_dir.as_deref().and_then(|folder| {
            pin::Pins::open(folder, identity)
                .map_err(|reason| off.push(Off { what: "balances across a restart of the agent", reason }))
                .ok()
        });
        let adopted = pins.as_mut().map(|pins| pins.maps(&parsed.state_maps())).unwrap_or_default();
        let was_adopted = !adopted.is_empty();
        let maps = parsed.create_maps(adopted, options.stacks)?;
        parsed.relocate(&maps)?;
        if let Some(kept) = &pins
            && !was_adopted
            && let Err(reason) = kept.keep_maps(&maps, &parsed.state_maps())
        {
            off.push(Off { what: "balances across a restart of the agent", reason });
            pins = None;
        }
        let ring = ring::Ring::open(object::named(&maps, "EVENTS")?, RING_BYTES).map_err(LoadError::Ring)?;
        let mut tracepoints = Vec::new();
        for (program, name) in [("exited", c"sched_process_exit"), ("executed", c"sched_process_exec")] {
            if pins.as_ref().is_some_and(|pins| pins.has_link(program)) {
                continue;
            }
            let fd = parsed.load(program, 0)?;
            let link = sys::raw_tracepoint(fd.as_fd(), name)
                .map_err(|source| LoadError::Tracepoint { name: name.to_str().unwrap_or("sched"), source })?;
            if let Some(pins) = &pins {
                pins.keep_link(link.as_fd(), program);
            }
            tracepoints.push(link);
        }
        let mut attacher = attach::Attacher::new(options.method);
        attacher.prepare(&parsed)?;
        let cpus = possible_cpus();
        let mut kernel = Self {
            parsed,
            maps,
            ring,
            delivered: 0,
            unknown: 0,
            cpus,
            off,
            scope: options.scope,
            pins,
            attacher,
            _tracepoints: tracepoints,
        };
        if was_adopted {
            // What the agent before let the ring forget, it delivered.
            kernel.delivered = kernel.loss().submitted.saturating_sub(kernel.ring.unread());
        }
        Ok(kernel)
    }

    /// What is off on this kernel, and why.
    pub fn off(&self) -> &[Off] {
        &self.off
    }

    /// Whether pinned balances of an agent before were adopted.
    pub fn adopted(&self) -> bool {
        self.pins.as_ref().is_some_and(pin::Pins::adopted)
    }

    /// The part of the host that is followed.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Attaches to functions of one file: `points` are symbols and their file offsets. `path` may lie under
    /// /proc/PID/root or /proc/PID/map_files. Balances' symbols come first. A point that fails does not keep the
    /// others from being attached.
    pub fn attach(&mut self, path: &Path, points: &[(SymbolId, u64)]) -> Result<Attached, AttachError> {
        self.attacher.attach(&self.parsed, self.pins.as_ref(), path, points)
    }

    /// Detaches. `false` where there is no such attachment.
    pub fn detach(&mut self, id: AttachmentId) -> bool {
        self.attacher.detach(id, self.pins.as_ref())
    }

    /// Says that a process ran before the probes of these layers were there, so that its figures start in the middle.
    /// To be called before the attach that will see it. Does nothing for a process out of scope.
    pub fn mark_late(&self, pid: u32, layers: &[Layer]) -> io::Result<()> {
        if !self.scope.contains(pid) {
            return Ok(());
        }
        const NO_EXIST: u64 = 1;
        let now = boot_clock_ns();
        let (tgids, processes, late) = (self.map("TGIDS"), self.map("PROCESSES"), self.map("LATE"));
        let mut key = [u64::from(pid) << 32 | (now >> 16 & 0xffff_ffff)];
        if !sys::map_lookup(tgids, &pid, &mut key)? {
            let mut process = Process { first_seen_ns: now, ..Process::default() };
            let comm = std::fs::read(format!("/proc/{pid}/comm"))?;
            for (to, from) in process.comm.iter_mut().take(15).zip(comm.iter().filter(|&&byte| byte != b'\n')) {
                *to = *from;
            }
            sys::map_update(processes, &key[0], &process, NO_EXIST)?;
            if let Err(error) = sys::map_update(tgids, &pid, &key[0], NO_EXIST) {
                sys::map_delete(processes, &key[0])?;
                // Its first call came in between.
                if error.raw_os_error() != Some(libc::EEXIST) || !sys::map_lookup(tgids, &pid, &mut key)? {
                    return Err(error);
                }
            }
        }
        let mut marks = [Late::default()];
        sys::map_lookup(late, &key[0], &mut marks)?;
        for &layer in layers {
            let since = &mut marks[0].since_ns[layer as usize % LAYERS];
            if *since == 0 {
                *since = now;
            }
        }
        sys::map_update(late, &key[0], &marks[0], 0)
    }

    /// Hands over every event that is there, in order. The ring lets go of each at once.
    pub fn drain(&mut self, mut take: impl FnMut(Event)) {
        let custody = Arc::clone(self.custody());
        self.drain_kept(|place, event| {
            take(event);
            custody.settle(&[place]);
        });
    }

    /// Hands over every event that is there, in order, with its place in the ring, which keeps it until
    /// [`Custody::settle`] is told of that place. Returns whether a further one is being written, which may wake nobody.
    pub fn drain_kept(&mut self, mut take: impl FnMut(u64, Event)) -> bool {
        let mut unknown = Vec::new();
        let drained = self.ring.drain(|place, raw| match decode(&raw) {
            Some(event) => take(place, event),
            None => unknown.push(place),
        });
        self.delivered += drained.taken;
        self.unknown += unknown.len() as u64;
        self.custody().settle(&unknown);
        drained.busy
    }

    /// Which events were handed over and are not settled.
    pub fn custody(&self) -> &Arc<Custody> {
        self.ring.custody()
    }

    /// The kernel's number of the ring: the same after a restart of the agent that found it
    /// pinned, another for every other ring of this boot.
    pub fn ring_number(&self) -> io::Result<u64> {
        sys::map_id(self.map("EVENTS")).map(u64::from)
    }

    /// Becomes readable when an urgent event is there; others wait for the next [`Self::drain`].
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.map("EVENTS")
    }

    /// The books of events and losses, now.
    pub fn loss(&self) -> Loss {
        let mut per_cpu = vec![RawLoss::default(); self.cpus];
        // The array's one entry always exists; an error would leave zeros, which no longer add up, and so show.
        if let Err(error) = sys::map_lookup(self.map("LOSS"), &0u32, &mut per_cpu) {
            tracing::error!(%error, "reading the loss counters of the kernel half");
        }
        let mut sum = RawLoss::default();
        for cpu in per_cpu {
            sum.events_seen += cpu.events_seen;
            sum.events_submitted += cpu.events_submitted;
            for reason in 0..REASONS {
                sum.reasons[reason] += cpu.reasons[reason];
            }
        }
        Loss {
            seen: sum.events_seen,
            submitted: sum.events_submitted,
            delivered: self.delivered,
            by_reason: Reason::ALL.iter().map(|&reason| (reason, sum.reasons[reason as usize])).collect(),
            unknown: self.unknown,
        }
    }

    /// Visits a map's elements.
    pub(crate) fn each<K: Plain + Default, V: Plain + Default>(
        &self,
        map: &str,
        visit: impl FnMut(K, V),
    ) -> io::Result<()> {
        sys::map_each(self.map(map), visit)
    }

    /// Removes an element.
    pub(crate) fn remove<K: Plain>(&self, map: &str, key: &K) -> io::Result<bool> {
        sys::map_delete(self.map(map), key)
    }

    /// The call stack with this id: return addresses, innermost first.
    pub fn stack(&self, id: i32) -> io::Result<Vec<u64>> {
        let Ok(key) = u32::try_from(id) else { return Ok(Vec::new()) };
        let mut addresses = [0u64; 127];
        sys::map_lookup(self.map("STACKS"), &key, &mut addresses)?;
        Ok(addresses.into_iter().take_while(|&address| address != 0).collect())
    }

    fn map(&self, name: &str) -> BorrowedFd<'_> {
        // `load` refuses an object without EVENTS; the other maps are of the same object.
        self.maps.get(name).map_or_else(|| self.maps["EVENTS"].as_fd(), AsFd::as_fd)
    }
}

fn decode(raw: &RawEvent) -> Option<Event> {
    Some(Event {
        kind: EventKind::from_code(raw.kind)?,
        at_ns: raw.at_ns,
        process: raw.process,
        thread: raw.thread,
        symbol: SymbolId(raw.symbol as u16),
        code: raw.code,
        device: (raw.device >= 0).then_some(raw.device),
        value: raw.value,
        address: raw.address,
        rank: (raw.rank >= 0).then_some(raw.rank),
    })
}

/// What can be told apart before the kernel says no more than EPERM.
pub fn preconditions() -> Result<(), LoadError> {
    const ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    let has = |capability: u32| effective >> capability & 1 == 1;
    for (capability, missing) in [(BPF, "CAP_BPF"), (PERFMON, "CAP_PERFMON")] {
        if !has(capability) && !has(ADMIN) {
            return Err(LoadError::Capability { missing });
        }
    }
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") { Err(LoadError::Lockdown) } else { Ok(()) }
}

/// Fills the configuration in, and says what this kernel does not tell.
fn configure(options: &Options, off: &mut Vec<Off>) -> Config {
    let mut config = Config { event_cap: options.event_cap, stacks: u32::from(options.stacks), ..Config::default() };
    match &options.scope {
        Scope::Host => {}
        Scope::Cgroup { id, level, .. } => {
            config.scope_cgroup = *id;
            config.scope_cgroup_level = *level;
        }
        Scope::NetworkNamespace { inode } => config.scope_netns = *inode,
    }
    let types = match options.types.get() {
        Ok(types) => types,
        Err(error) => {
            off.push(Off {
                what: "the end of a process whose first thread ended before, and how processes end; device of threads older than the agent",
                reason: format!("reading the kernel's types from /sys/kernel/btf/vmlinux: {error}"),
            });
            return config;
        }
    };
    let mut find = |name: &'static str, path: &[&str], what: &'static str| {
        types.offset(name, path).unwrap_or_else(|| {
            off.push(Off { what, reason: format!("this kernel's {name} has no {}", path.join(".")) });
            0
        })
    };
    config.task_signal = find("task_struct", &["signal"], "the end of a process whose first thread ended before");
    config.signal_live = find("signal_struct", &["live"], "the end of a process whose first thread ended before");
    config.task_start_boottime = find("task_struct", &["start_boottime"], "device of threads older than the agent");
    const STATUS: &str = "exit code and signal of processes";
    config.task_exit_code = find("task_struct", &["exit_code"], STATUS);
    config.task_group_leader = find("task_struct", &["group_leader"], STATUS);
    config.signal_flags = find("signal_struct", &["flags"], STATUS);
    config.signal_group_exit_code = find("signal_struct", &["group_exit_code"], STATUS);
    config.signal_oom_mm = find("signal_struct", &["oom_mm"], "whether the out-of-memory killer ended a process");
    if config.scope_netns != 0 {
        config.task_nsproxy = find("task_struct", &["nsproxy"], "scope by network namespace");
        config.nsproxy_net = find("nsproxy", &["net_ns"], "scope by network namespace");
        config.net_inum = find("net", &["ns", "inum"], "scope by network namespace");
    }
    config
}

/// CPUs that a per-CPU value has copies for.
pub fn possible_cpus() -> usize {
    std::fs::read_to_string("/sys/devices/system/cpu/possible").map_or(1, |text| {
        text.trim()
            .split(',')
            .filter_map(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                Some(last.parse::<usize>().ok()? - first.parse::<usize>().ok()? + 1)
            })
            .sum()
    })
}

/// CLOCK_BOOTTIME, in nanoseconds.
pub(crate) fn boot_clock_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a live timespec; the clock exists on every kernel this runs on.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
