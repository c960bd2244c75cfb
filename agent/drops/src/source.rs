//! The drops as a source: counters per reason and interface, and the table of flows beside them.
//!
//! In: the kernel half's maps, every read; its flows, once a second. Out: readings, and a [`DropView`] for whoever shows
//! it. Never: a wait longer than the kernel's grace period, more series than the bound, a packet in no account.

use crate::flows::{FlowRow, FlowTable};
use crate::kernel::{Books, DropKernel};
use crate::names::Interfaces;
use crate::reasons::Class;
use railwatch_abi::drops::{DropKey, Dropped, ELSEWHERE};
use railwatch_gpu::kernel::LoadError;
use railwatch_gpu::kernel::offsets::Types;
use railwatch_gpu::scope::Scope;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, CadenceRange, Counter, Declare, Entity, ErrorReason, Kind, Moment, ReadError, SeriesDef, SeriesHandle,
    Source, Unavailable,
};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;
/// Pairs of reason and interface with a series; those beyond share one per reason.
const LINES_MAX: usize = 512;
/// Totals in the kernel half beyond which those of interfaces that are gone are taken out.
const TOTALS_TIDY: usize = 1_024;
/// Flows shown.
const SHOWN_FLOWS: usize = 128;

/// Label of packets without an interface, of interfaces of other network namespaces, and of those beyond the bound.
const NONE: &str = "none";
const OTHER_NAMESPACES: &str = "other_namespaces";
const OTHERS: &str = "others";

/// A flow, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownFlow {
    /// The kernel's name of the reason.
    pub reason: String,
    /// What it means.
    pub class: Class,
    /// `eth0`; `if4@4026532001` in another network namespace; `none`.
    pub interface: String,
    /// The flow and its counts.
    pub row: FlowRow,
}

/// All packets of a reason on an interface: exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalRow {
    /// The kernel's name of the reason.
    pub reason: String,
    /// What it means.
    pub class: Class,
    /// `eth0`, `none`, `other_namespaces`, or `others` beyond the bound.
    pub interface: String,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What there is to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropView {
    /// Grows with each change.
    pub generation: u64,
    /// Flows that lost most, the worst first.
    pub flows: Vec<ShownFlow>,
    /// Totals, by reason and interface.
    pub totals: Vec<TotalRow>,
    /// Drops and retransmissions there were.
    pub seen: u64,
    /// Of those: in a row of the table of flows.
    pub in_flows: u64,
    /// The others, by why they are not. `seen` = `in_flows` + the sum of these.
    pub elsewhere: BTreeMap<&'static str, u64>,
    /// Not in `seen`: a scope is set, and the packet's namespace could not be told.
    pub scope_unknown: u64,
}

/// What the source last found, for whoever asks.
#[derive(Debug, Default)]
pub struct Drops {
    view: Mutex<Arc<DropView>>,
    /// What is off, with why.
    off: Mutex<Vec<(String, String)>>,
}

impl Drops {
    /// The latest.
    #[must_use]
    pub fn view(&self) -> Arc<DropView> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What this kernel does not tell, and why.
    #[must_use]
    pub fn off(&self) -> Vec<(String, String)> {
        self.off.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One reason on one interface.
struct Line {
    reason: u32,
    interface: String,
    handle: Option<SeriesHandle>,
    /// The series has its first reading.
    is_based: bool,
    /// Of lines that had to leave: in the total, and not in the series, where they would look like a burst.
    left: Dropped,
    /// Of totals taken out of the kernel half.
    gone: Dropped,
    now: Dropped,
}

impl Line {
    fn new(reason: u32, interface: String) -> Self {
        let nothing = Dropped::default();
        Self { reason, interface, handle: None, is_based: false, left: nothing, gone: nothing, now: nothing }
    }

    fn total(&self) -> Dropped {
        let mut sum = self.left;
        add(&mut sum, &self.gone);
        add(&mut sum, &self.now);
        sum
    }

    fn is_port(&self) -> bool {
        !matches!(self.interface.as_str(), NONE | OTHER_NAMESPACES | OTHERS)
    }
}

fn add(to: &mut Dropped, more: &Dropped) {
    to.packets += more.packets;
    to.bytes += more.bytes;
    to.flows_full += more.flows_full;
    to.no_flow += more.no_flow;
}

/// The source `drops`.
pub struct DropsSource {
    scope: Scope,
    types: Types,
    shared: Arc<Drops>,
    kernel: Option<DropKernel>,
    interfaces: Interfaces,
    lines: Vec<Line>,
    /// Which line a total of the kernel half is part of.
    by_key: HashMap<DropKey, usize>,
    by_name: HashMap<(u32, String), usize>,
    table: FlowTable,
    books: Books,
    /// The books have moved since the read before: a program may have been between them and its total.
    is_moving: bool,
    read_at_ns: u64,
    missed_at_ns: u64,
    flows_at_ns: u64,
    flows_seen: u64,
    /// Packets of flows that are still in the kernel, by the totals.
    not_yet_read: u64,
}

impl DropsSource {
    /// A source that counts within `scope`, which is a network namespace or the host.
    #[must_use]
    pub fn new(scope: Scope) -> (Self, Arc<Drops>) {
        let shared = Arc::new(Drops::default());
        let source = Self {
            scope,
            types: Types::default(),
            shared: Arc::clone(&shared),
            kernel: None,
            interfaces: Interfaces::new(0),
            lines: Vec::new(),
            by_key: HashMap::new(),
            by_name: HashMap::new(),
            table: FlowTable::default(),
            books: Books::default(),
            is_moving: false,
            read_at_ns: 0,
            missed_at_ns: 0,
            flows_at_ns: 0,
            flows_seen: 0,
            not_yet_read: 0,
        };
        (source, shared)
    }

    /// The same, by types of the running kernel that others read too.
    #[must_use]
    pub fn with_types(self, types: Types) -> Self {
        Self { types, ..self }
    }

    fn load(&mut self) -> Result<(), Unavailable> {
        // Let go of in any case: they are some megabytes.
        let types = std::mem::take(&mut self.types);
        let kernel = DropKernel::load_by(&self.scope, &types).map_err(|error| {
            let reason = match &error {
                LoadError::Capability { .. } | LoadError::Lockdown => ErrorReason::Denied,
                LoadError::Tracepoint { .. } => ErrorReason::Missing,
                LoadError::Map { source, .. } | LoadError::Program { source, .. } => source.into(),
                LoadError::Object { .. } | LoadError::Ring(_) => ErrorReason::NotAvailable,
            };
            Unavailable::new(reason, error)
        })?;
        let own = std::fs::metadata("/proc/thread-self/ns/net").map_or(0, |namespace| namespace.ino() as u32);
        self.interfaces = Interfaces::new(own);
        let off = kernel.off().iter().map(|off| (off.what.to_owned(), off.reason.clone())).collect();
        *self.shared.off.lock().unwrap_or_else(PoisonError::into_inner) = off;
        self.kernel = Some(kernel);
        Ok(())
    }

    /// The line of a total, made at first sight.
    fn line(&mut self, key: DropKey) -> usize {
        if let Some(&line) = self.by_key.get(&key) {
            return line;
        }
        let interface = match key.namespace {
            ELSEWHERE => OTHER_NAMESPACES.to_owned(),
            namespace => self.interfaces.name(namespace, key.interface).unwrap_or_else(|| NONE.to_owned()),
        };
        let mut name = (key.reason, interface);
        if !self.by_name.contains_key(&name) && self.lines.len() >= LINES_MAX {
            OTHERS.clone_into(&mut name.1);
        }
        let line = *self.by_name.entry(name.clone()).or_insert_with(|| {
            self.lines.push(Line::new(name.0, name.1));
            self.lines.len() - 1
        });
        self.by_key.insert(key, line);
        line
    }

    fn read_totals(&mut self, now_ns: u64) -> std::io::Result<bool> {
        let Some(kernel) = &self.kernel else { return Ok(false) };
        // What programs missed is a system call for each of them, and news of no drop that has a series.
        let is_due = now_ns.saturating_sub(self.missed_at_ns) >= SECOND_NS;
        let books = match is_due {
            true => kernel.books()?,
            false => Books { missed: self.books.missed, ..kernel.books_without_missed()? },
        };
        self.missed_at_ns = if is_due { now_ns } else { self.missed_at_ns };
        let was_moving = std::mem::replace(&mut self.is_moving, books != self.books);
        if !self.is_moving && !was_moving {
            return Ok(false);
        }
        let mut totals = Vec::new();
        kernel.totals(|total| totals.push(total))?;
        self.books = books;
        for line in &mut self.lines {
            line.now = Dropped::default();
        }
        let known = self.lines.len();
        for total in totals {
            let line = self.line(total.key);
            add(&mut self.lines[line].now, &total.dropped);
        }
        Ok(self.lines.len() > known)
    }

    /// Takes the flows over and shows what there is, where anything was dropped since the last time.
    fn take_flows(&mut self, now_ns: u64) -> std::io::Result<()> {
        self.flows_at_ns = now_ns;
        let books = self.books;
        let seen = books.seen + books.missed;
        if seen == self.flows_seen && self.not_yet_read == 0 {
            return Ok(());
        }
        let (Some(kernel), table) = (&mut self.kernel, &mut self.table) else { return Ok(()) };
        kernel.take_flows(|key, flow| table.add(key, flow))?;
        table.tidy(now_ns);
        // After the flows: what the totals hold more than those is still in the kernel.
        self.read_totals(now_ns)?;
        self.flows_seen = seen;
        self.show();
        Ok(())
    }

    fn show(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        let mut sum = Dropped::default();
        let mut totals: Vec<_> = self
            .lines
            .iter()
            .map(|line| {
                let dropped = line.total();
                add(&mut sum, &dropped);
                TotalRow {
                    reason: kernel.reasons().name(line.reason),
                    class: kernel.reasons().class(line.reason),
                    interface: line.interface.clone(),
                    packets: dropped.packets,
                    bytes: dropped.bytes,
                }
            })
            .collect();
        totals.sort_by(|a, b| (&a.reason, &a.interface).cmp(&(&b.reason, &b.interface)));
        let flows = self
            .table
            .top(SHOWN_FLOWS)
            .into_iter()
            .map(|row| ShownFlow {
                reason: kernel.reasons().name(row.key.reason),
                class: kernel.reasons().class(row.key.reason),
                interface: self
                    .interfaces
                    .name(row.key.namespace, row.key.interface)
                    .unwrap_or_else(|| NONE.to_owned()),
                row,
            })
            .collect();
        let account = self.table.account();
        let with_flow = sum.packets - sum.flows_full - sum.no_flow;
        self.not_yet_read = with_flow.saturating_sub(account.taken);
        let elsewhere = BTreeMap::from([
            ("no_flow", sum.no_flow),
            ("flows_full", sum.flows_full),
            ("totals_full", self.books.totals_full),
            ("missed", self.books.missed),
            ("evicted", account.evicted),
            ("expired", account.expired),
            ("not_yet_read", self.not_yet_read),
        ]);
        let in_flows = account.taken - account.evicted - account.expired;
        let mut view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        *view = Arc::new(DropView {
            generation: view.generation + 1,
            flows,
            totals,
            seen: in_flows + elsewhere.values().sum::<u64>(),
            in_flows,
            elsewhere,
            scope_unknown: self.books.scope_unknown,
        });
    }

    /// Takes totals out of the kernel half that nothing can add to any more, and keeps what they held.
    fn tidy_totals(&mut self) -> std::io::Result<()> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        if self.by_key.len() <= TOTALS_TIDY && self.lines.len() < LINES_MAX {
            return Ok(());
        }
        let mut totals = Vec::new();
        kernel.totals(|total| totals.push(total))?;
        for total in totals {
            let key = total.key;
            if key.interface == 0 || key.namespace != kernel.home() || self.interfaces.refresh(key.interface) {
                continue;
            }
            if let Some(line) = self.by_key.remove(&key) {
                kernel.forget(&key)?;
                add(&mut self.lines[line].gone, &total.dropped);
                // What was last read of it is in `gone` now: the next read begins anew.
                self.is_moving = true;
            }
        }
        for line in &mut self.lines {
            line.now = Dropped::default();
        }
        self.is_moving = true;
        if self.lines.len() >= LINES_MAX {
            self.tidy_lines();
        }
        Ok(())
    }

    /// Makes room among the lines: those of interfaces that are gone join the others of their reason.
    fn tidy_lines(&mut self) {
        let mut is_used = vec![false; self.lines.len()];
        for &line in self.by_key.values() {
            is_used[line] = true;
        }
        self.by_name.clear();
        let (mut stay, mut leave, mut new_index) = (Vec::new(), Vec::new(), vec![0; is_used.len()]);
        for (index, line) in std::mem::take(&mut self.lines).into_iter().enumerate() {
            if is_used[index] || !line.is_port() {
                new_index[index] = stay.len();
                self.by_name.insert((line.reason, line.interface.clone()), stay.len());
                stay.push(line);
            } else {
                leave.push(line);
            }
        }
        for line in leave {
            let name = (line.reason, OTHERS.to_owned());
            let others = *self.by_name.entry(name).or_insert_with(|| {
                stay.push(Line::new(line.reason, OTHERS.to_owned()));
                stay.len() - 1
            });
            add(&mut stay[others].left, &line.total());
        }
        self.lines = stay;
        for line in self.by_key.values_mut() {
            *line = new_index[*line];
        }
    }

    fn push(&mut self, batch: &mut Batch, moment: Moment) {
        // A window is a second: the reading before may lie in one that is closed.
        let is_same_window = self.read_at_ns / SECOND_NS == moment.at_ns / SECOND_NS && self.read_at_ns < moment.at_ns;
        let before = Moment { at_ns: self.read_at_ns, half_width_ns: moment.half_width_ns };
        for line in &mut self.lines {
            let Some(handle) = line.handle else { continue };
            if !std::mem::replace(&mut line.is_based, true) {
                // The kernel half counts from 0, so that the first of a reason is a movement too.
                batch.counter(handle, 0, if is_same_window { before } else { moment });
                if !is_same_window {
                    continue;
                }
            }
            batch.counter(handle, line.gone.packets + line.now.packets, moment);
        }
        self.read_at_ns = moment.at_ns;
    }
}

impl Source for DropsSource {
    fn name(&self) -> &'static str {
        "drops"
    }

    fn kernel_path(&self) -> &str {
        "tracepoints skb:kfree_skb and tcp:tcp_retransmit_skb"
    }

    fn cadence(&self) -> CadenceRange {
        CadenceRange {
            min: Duration::from_millis(10),
            default: Duration::from_millis(100),
            max: Duration::from_secs(10),
        }
    }

    fn probe(&mut self, declare: &mut Declare<'_>) -> Result<(), Unavailable> {
        if self.kernel.is_none() {
            self.load()?;
        }
        self.tidy_totals().map_err(|error| Unavailable::new((&error).into(), error))?;
        let Some(kernel) = &self.kernel else { return Ok(()) };
        for line in &mut self.lines {
            let class = kernel.reasons().class(line.reason);
            let entity = if line.is_port() {
                Entity { kind: "port", name: line.interface.clone() }
            } else {
                Entity { kind: "host", name: String::new() }
            };
            let labels =
                [("network.interface.name", line.interface.clone()), ("reason", kernel.reasons().name(line.reason))];
            let kind = Kind::Counter(Counter::wrapping(64));
            line.handle = declare.series(SeriesDef::new(class.series(), "{packet}", kind, entity, labels));
        }
        Ok(())
    }

    fn read(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let failed = |error: &std::io::Error| ReadError::io("reading the maps of the drops", error);
        let before_ns = monotonic_ns();
        if self.read_totals(before_ns).map_err(|error| failed(&error))? {
            batch.ask_for_probe();
        }
        self.push(batch, Moment::between(before_ns, monotonic_ns()));
        if before_ns.saturating_sub(self.flows_at_ns) >= SECOND_NS {
            let known = self.lines.len();
            self.take_flows(before_ns).map_err(|error| failed(&error))?;
            if self.lines.len() > known {
                batch.ask_for_probe();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(reason: u32, interface: u32) -> DropKey {
        DropKey { reason, interface, ..DropKey::default() }
    }

    fn packets(source: &DropsSource) -> Vec<(u32, String, u64)> {
        source.lines.iter().map(|line| (line.reason, line.interface.clone(), line.total().packets)).collect()
    }

    #[test]
    fn lines_are_bounded_and_what_has_no_line_of_its_own_shares_one_per_reason() {
        let (mut source, _) = DropsSource::new(Scope::Host);
        for interface in 1..=LINES_MAX as u32 + 5 {
            let line = source.line(key(3, interface));
            source.lines[line].now.packets += 1;
        }
        assert_eq!(source.lines.len(), LINES_MAX + 1);
        let last = packets(&source).pop();
        assert_eq!(last, Some((3, OTHERS.to_owned(), 5)));
    }

    #[test]
    fn lines_of_interfaces_that_are_gone_make_room_and_their_packets_stay_in_the_total() {
        let (mut source, _) = DropsSource::new(Scope::Host);
        for (reason, interface, count) in [(3, 0, 1), (3, 7, 10), (3, 8, 100), (4, 7, 1_000)] {
            let line = source.line(key(reason, interface));
            source.lines[line].gone.packets = count;
        }
        source.by_key.retain(|key, _| key.interface != 7);
        source.tidy_lines();
        let expected = [(3, NONE, 1), (3, "if8@0", 100), (3, OTHERS, 10), (4, OTHERS, 1_000)];
        assert_eq!(packets(&source), expected.map(|(reason, name, count)| (reason, name.to_owned(), count)));
        // A packet more of the one that stayed goes to its line.
        let line = source.line(key(3, 8));
        assert_eq!(source.lines[line].interface, "if8@0");
        // To the series, a line that left is no movement of the others.
        assert!(source.lines.iter().filter(|line| line.interface == OTHERS).all(|line| line.gone.packets == 0));
    }
}
