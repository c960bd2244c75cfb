//! The books, read out of the kernel half's maps: per process, device and layer what is held, and what was called.
//!
//! In: the maps of a [`Kernel`]. Out: a [`Snapshot`]. A process that is gone keeps its rows, with nothing held, for
//! five minutes, and everything it left in the maps is swept. Whether it is gone is asked of the kernel half's map of
//! tgids and of /proc, not of events, so that a lost event leaks nothing.
//! Never: a sum over layers (a runtime allocation is the driver's too), a guessed device, an unbounded table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use railwatch_abi::cookie::{Kind, Layer, Op};
use railwatch_abi::maps::{
    Allocation, AllocationKey, Calls, CallsKey, Communicator, CommunicatorKey, Context, ContextKey, FailureKey, LAYERS,
    Late, Process, ProcessKey, Reason, Totals, TotalsKey, tgid_of,
};

use crate::kernel::{Kernel, boot_clock_ns};
use crate::symbols::SymbolId;

/// How long the rows of a gone process are kept.
const KEEP_EXITED_NS: u64 = 300 * 1_000_000_000;
/// Gone processes whose rows are kept at most; the oldest go first.
const EXITED_MAX: usize = 512;

/// What one process holds on one device through one layer. Bytes of layers are never to be added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Device ordinal, as the process counts them; `None` where it is not known.
    pub device: Option<u32>,
    /// Device memory held now, managed and physical memory included.
    pub allocated_bytes: u64,
    /// The most device memory held at any time.
    pub peak_bytes: u64,
    /// Successful allocations of device memory.
    pub allocs: u64,
    /// Successful frees of device memory.
    pub frees: u64,
    /// Failed allocations of any kind, by the code returned.
    pub failed_by_code: BTreeMap<i32, u64>,
    /// Pinned host memory held now.
    pub host_allocated_bytes: u64,
    /// The most pinned host memory held at any time.
    pub host_peak_bytes: u64,
    /// Successful allocations of pinned host memory.
    pub host_allocs: u64,
    /// Successful frees of pinned host memory.
    pub host_frees: u64,
    /// Other processes' memory opened and not closed, in openings.
    pub imported_open: u64,
    /// Bytes freed by a device reset, a context's or the process's end, or an address handed out anew.
    pub implicit_freed_bytes: u64,
    /// Frees of what a device reset or context's end had freed already.
    pub stale_frees: u64,
}

impl Row {
    /// Failed allocations, of whatever code.
    pub fn failed_allocs(&self) -> u64 {
        self.failed_by_code.values().sum()
    }

    fn add(&mut self, kind: Kind, totals: &Totals) {
        let held = totals.allocated.max(0) as u64;
        self.implicit_freed_bytes += totals.implicit_freed;
        self.stale_frees += totals.stale_frees;
        match kind {
            Kind::Device => {
                self.allocated_bytes += held;
                self.peak_bytes += totals.peak.max(0) as u64;
                self.allocs += totals.allocs;
                self.frees += totals.frees;
            }
            Kind::Host => {
                self.host_allocated_bytes += held;
                self.host_peak_bytes += totals.peak.max(0) as u64;
                self.host_allocs += totals.allocs;
                self.host_frees += totals.frees;
            }
            Kind::Imported => self.imported_open += totals.allocs.saturating_sub(totals.frees),
        }
    }

    /// The process has ended, and with it all it held.
    fn end(&mut self) {
        self.implicit_freed_bytes += self.allocated_bytes + self.host_allocated_bytes;
        self.allocated_bytes = 0;
        self.host_allocated_bytes = 0;
        self.imported_open = 0;
    }
}

/// Calls of one function that are counted and timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRow {
    /// The function.
    pub symbol: SymbolId,
    /// Calls that returned, failed ones included.
    pub count: u64,
    /// Time inside them, in nanoseconds.
    pub inside_ns: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
}

/// Failed calls of one function with one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRow {
    /// The function.
    pub symbol: SymbolId,
    /// What it returned.
    pub code: i32,
    /// Device of the calling thread, where known.
    pub device: Option<u32>,
    /// How often.
    pub count: u64,
}

/// A communicator of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommunicatorRow {
    /// NCCL (RCCL too) or HCCL.
    pub layer: Layer,
    /// Handle in the process.
    pub handle: u64,
    /// Alike on all ranks of all hosts; `None` where its creation was not seen.
    pub identity: Option<u64>,
    /// Rank, where known.
    pub rank: Option<u32>,
    /// Number of ranks, where known.
    pub ranks: Option<u32>,
    /// Device current when it was created, where known.
    pub device: Option<u32>,
    /// Sequence number of the last enqueued collective, from 1; 0 before the first.
    pub sequence: u64,
    /// Point-to-point transfers enqueued.
    pub point_to_point: u64,
    /// Bytes handed in: elements as passed by the caller × their size.
    pub bytes: u64,
    /// CLOCK_MONOTONIC of the last enqueue, in nanoseconds.
    pub last_enqueue_ns: u64,
    /// The function of the last enqueue.
    pub last_symbol: Option<SymbolId>,
}

/// A process that used one of the interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRows {
    /// Names it for good, even where the pid is used again.
    pub key: ProcessKey,
    /// Process id in the host's namespace.
    pub pid: u32,
    /// Command name at its first call.
    pub comm: String,
    /// CLOCK_BOOTTIME of its first call, in nanoseconds.
    pub first_seen_ns: u64,
    /// CLOCK_BOOTTIME at which it was found gone, in nanoseconds.
    pub gone_ns: Option<u64>,
    /// Memory, by layer and device.
    pub memory: BTreeMap<(Layer, Option<u32>), Row>,
    /// Counted calls, by symbol.
    pub calls: Vec<CallRow>,
    /// Failed calls, allocations included.
    pub failures: Vec<FailureRow>,
    /// Communicators.
    pub communicators: Vec<CommunicatorRow>,
    /// Frees of addresses that were never seen allocated, by layer.
    pub unmatched_frees: BTreeMap<Layer, u64>,
    /// Events this process caused.
    pub events_seen: u64,
    /// Of those, kept back by the cap.
    pub events_capped: u64,
    /// What could not be recorded.
    pub lost: BTreeMap<Reason, u64>,
    late: Late,
    incomplete_since_ns: u64,
}

impl ProcessRows {
    /// CLOCK_BOOTTIME since when the figures of a layer may lack something, in nanoseconds; `None` where they lack
    /// nothing.
    pub fn incomplete_since_ns(&self, layer: Layer) -> Option<u64> {
        [self.late.since_ns[layer as usize % LAYERS], self.incomplete_since_ns]
            .into_iter()
            .filter(|&since| since != 0)
            .min()
    }
}

/// Why a device is not known, for people.
pub fn unknown_device_reason(layer: Layer) -> &'static str {
    match layer {
        Layer::CudaRuntime => "the thread ran before it was traced, and has not called cudaSetDevice since",
        Layer::Hip => "the thread ran before it was traced, and has not called hipSetDevice since",
        Layer::CudaDriver => "no context with a known device was seen made current on the thread",
        Layer::Acl => "the thread has not been seen to call aclrtSetDevice",
        Layer::Nccl | Layer::Hccl => "no device was current on the thread when it made the communicator",
    }
}

/// CLOCK_REALTIME in milliseconds since 1970 of a CLOCK_BOOTTIME instant, by the clocks of now.
pub fn unix_ms(boot_ns: u64) -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let ago = boot_clock_ns().saturating_sub(boot_ns) / 1_000_000;
    (since_epoch.as_millis() as u64).saturating_sub(ago)
}

/// Everything, at one time. Live processes first, then gone ones, each by key.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// All processes.
    pub processes: Vec<ProcessRows>,
}

impl Snapshot {
    /// The live process with this pid.
    pub fn live(&self, pid: u32) -> Option<&ProcessRows> {
        self.processes.iter().find(|process| process.pid == pid && process.gone_ns.is_none())
    }
}

/// Live bytes of one call stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackRow {
    /// Whose.
    pub process: ProcessKey,
    /// Return addresses, innermost first.
    pub addresses: Vec<u64>,
    /// Bytes held.
    pub bytes: u64,
    /// Allocations held.
    pub allocations: u64,
}

/// Reads the books, and keeps those of gone processes for a while.
#[derive(Debug, Default)]
pub struct Accounts {
    exited: BTreeMap<ProcessKey, ProcessRows>,
}

impl Accounts {
    /// Reads all maps; sweeps what gone processes left.
    pub fn refresh(&mut self, kernel: &Kernel) -> io::Result<Snapshot> {
        let now = boot_clock_ns();
        let mut tgids: HashMap<u32, ProcessKey> = HashMap::new();
        kernel.each("TGIDS", |tgid: u32, key: ProcessKey| {
            tgids.insert(tgid, key);
        })?;
        let mut all = read(kernel)?;
        let mut gone = BTreeSet::new();
        for (&key, process) in &mut all {
            let current = tgids.get(&process.pid) == Some(&key);
            if current && std::fs::exists(format!("/proc/{}", process.pid)).unwrap_or(true) {
                continue;
            }
            if current {
                kernel.remove("TGIDS", &process.pid)?;
            }
            process.gone_ns = Some(now);
            process.memory.values_mut().for_each(Row::end);
            gone.insert(key);
        }
        if !gone.is_empty() {
            sweep(kernel, &gone)?;
        }
        for key in gone {
            if let Some(rows) = all.remove(&key) {
                self.exited.insert(key, rows);
            }
        }
        forget(&mut self.exited, now);
        Ok(Snapshot { processes: all.into_values().chain(self.exited.values().cloned()).collect() })
    }

    /// Live bytes by call stack; empty unless stacks were asked for at load.
    pub fn stacks(&self, kernel: &Kernel) -> io::Result<Vec<StackRow>> {
        let mut by_stack: BTreeMap<(ProcessKey, i32), (u64, u64)> = BTreeMap::new();
        kernel.each("ALLOCATIONS", |key: AllocationKey, held: Allocation| {
            if held.stack >= 0 {
                let sum = by_stack.entry((key.process, held.stack)).or_default();
                sum.0 += held.size;
                sum.1 += 1;
            }
        })?;
        by_stack
            .into_iter()
            .map(|((process, stack), (bytes, allocations))| {
                Ok(StackRow { process, addresses: kernel.stack(stack)?, bytes, allocations })
            })
            .collect()
    }
}

/// Drops rows that are too old, then the oldest beyond the bound.
fn forget(exited: &mut BTreeMap<ProcessKey, ProcessRows>, now: u64) {
    exited.retain(|_, rows| rows.gone_ns.is_some_and(|gone| now.saturating_sub(gone) < KEEP_EXITED_NS));
    while exited.len() > EXITED_MAX {
        let Some((&oldest, _)) = exited.iter().min_by_key(|(_, rows)| rows.gone_ns) else { return };
        exited.remove(&oldest);
    }
}

fn known(device: i32) -> Option<u32> {
    u32::try_from(device).ok()
}

fn read(kernel: &Kernel) -> io::Result<BTreeMap<ProcessKey, ProcessRows>> {
    let mut all = BTreeMap::new();
    kernel.each("PROCESSES", |key: ProcessKey, process: Process| {
        all.insert(key, begin(key, &process));
    })?;
    kernel.each("LATE", |key: ProcessKey, late: Late| {
        if let Some(rows) = all.get_mut(&key) {
            rows.late = late;
        }
    })?;
    kernel.each("TOTALS", |key: TotalsKey, totals: Totals| {
        let (Some(layer), Some(kind)) = (Layer::from_code(key.layer as u8), Kind::from_code(key.kind as u8)) else {
            return;
        };
        if let Some(rows) = all.get_mut(&key.process) {
            row(rows, layer, key.device).add(kind, &totals);
        }
    })?;
    kernel.each("FAILURES", |key: FailureKey, count: u64| {
        let id = SymbolId(key.symbol as u16);
        let (Some(rows), Some(symbol)) = (all.get_mut(&key.process), id.get()) else { return };
        rows.failures.push(FailureRow { symbol: id, code: key.code, device: known(key.device), count });
        if symbol.op == Op::Alloc {
            *row(rows, symbol.layer, key.device).failed_by_code.entry(key.code).or_default() += count;
        }
    })?;
    kernel.each("CALLS", |key: CallsKey, calls: Calls| {
        if let Some(rows) = all.get_mut(&key.process) {
            rows.calls.push(CallRow {
                symbol: SymbolId(key.symbol as u16),
                count: calls.count,
                inside_ns: calls.inside_ns,
                longest_ns: calls.longest_ns,
            });
        }
    })?;
    kernel.each("COMMUNICATORS", |key: CommunicatorKey, value: Communicator| {
        let (Some(rows), Some(layer)) = (all.get_mut(&key.process), Layer::from_code(value.layer as u8)) else {
            return;
        };
        rows.communicators.push(CommunicatorRow {
            layer,
            handle: key.handle,
            identity: (value.identity != 0).then_some(value.identity),
            rank: known(value.rank),
            ranks: known(value.ranks),
            device: known(value.device),
            sequence: value.sequence,
            point_to_point: value.point_to_point,
            bytes: value.bytes,
            last_enqueue_ns: value.last_enqueue_ns,
            last_symbol: (value.last_enqueue_ns != 0).then_some(SymbolId(value.last_symbol as u16)),
        });
    })?;
    for rows in all.values_mut() {
        rows.calls.sort_by_key(|call| call.symbol);
        rows.failures.sort_by_key(|failure| (failure.symbol, failure.code, failure.device));
        rows.communicators.sort_by_key(|communicator| communicator.handle);
    }
    Ok(all)
}

fn begin(key: ProcessKey, process: &Process) -> ProcessRows {
    let comm = process.comm.split(|&byte| byte == 0).next().unwrap_or_default();
    ProcessRows {
        key,
        pid: tgid_of(key),
        comm: String::from_utf8_lossy(comm).into_owned(),
        first_seen_ns: process.first_seen_ns,
        gone_ns: None,
        memory: BTreeMap::new(),
        calls: Vec::new(),
        failures: Vec::new(),
        communicators: Vec::new(),
        unmatched_frees: Layer::ALL
            .iter()
            .map(|&layer| (layer, process.unmatched_frees[layer as usize]))
            .filter(|&(_, count)| count != 0)
            .collect(),
        events_seen: process.events_seen,
        events_capped: process.events_capped,
        lost: Reason::ALL
            .iter()
            .map(|&reason| (reason, process.lost[reason as usize]))
            .filter(|&(_, count)| count != 0)
            .collect(),
        late: Late::default(),
        incomplete_since_ns: process.incomplete_since_ns,
    }
}

fn row(rows: &mut ProcessRows, layer: Layer, device: i32) -> &mut Row {
    let device = known(device);
    rows.memory.entry((layer, device)).or_insert_with(|| Row { device, ..Row::default() })
}

/// Removes all that gone processes left, their own entry last: if this is interrupted, the next refresh goes on.
fn sweep(kernel: &Kernel, gone: &BTreeSet<ProcessKey>) -> io::Result<()> {
    fn of<K, V>(kernel: &Kernel, map: &str, gone: impl Fn(&K) -> bool) -> io::Result<()>
    where
        K: railwatch_abi::maps::Plain + Default,
        V: railwatch_abi::maps::Plain + Default,
    {
        let mut keys = Vec::new();
        kernel.each(map, |key: K, _: V| {
            if gone(&key) {
                keys.push(key);
            }
        })?;
        for key in keys {
            kernel.remove(map, &key)?;
        }
        Ok(())
    }
    of::<AllocationKey, Allocation>(kernel, "ALLOCATIONS", |key| gone.contains(&key.process))?;
    of::<TotalsKey, Totals>(kernel, "TOTALS", |key| gone.contains(&key.process))?;
    of::<ContextKey, Context>(kernel, "CONTEXTS", |key| gone.contains(&key.process))?;
    of::<FailureKey, u64>(kernel, "FAILURES", |key| gone.contains(&key.process))?;
    of::<CallsKey, Calls>(kernel, "CALLS", |key| gone.contains(&key.process))?;
    of::<CommunicatorKey, Communicator>(kernel, "COMMUNICATORS", |key| gone.contains(&key.process))?;
    of::<ProcessKey, Late>(kernel, "LATE", |key| gone.contains(key))?;
    of::<ProcessKey, Process>(kernel, "PROCESSES", |key| gone.contains(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_gone_processes_are_kept_for_five_minutes_and_bounded() {
        let mut exited = BTreeMap::new();
        for index in 0..EXITED_MAX as u64 + 10 {
            let mut rows = begin(index, &Process::default());
            rows.gone_ns = Some(1_000 + index);
            exited.insert(index, rows);
        }
        forget(&mut exited, 2_000);
        assert_eq!(exited.len(), EXITED_MAX);
        assert_eq!(exited.keys().next(), Some(&10), "the oldest go first");
        forget(&mut exited, 1_000 + 20 + KEEP_EXITED_NS);
        assert_eq!(exited.keys().next(), Some(&21));
    }

    #[test]
    fn a_process_that_ends_holds_nothing_and_its_bytes_are_booked_as_implicit_frees() {
        let mut row = Row::default();
        row.add(Kind::Device, &Totals { allocated: 100, peak: 150, allocs: 3, frees: 2, ..Totals::default() });
        row.add(Kind::Host, &Totals { allocated: 7, peak: 7, allocs: 1, ..Totals::default() });
        row.end();
        assert_eq!((row.allocated_bytes, row.host_allocated_bytes, row.implicit_freed_bytes), (0, 0, 107));
        assert_eq!((row.peak_bytes, row.allocs, row.frees), (150, 3, 2));
    }
}
