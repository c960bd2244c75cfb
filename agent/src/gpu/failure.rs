//! From failed allocations in the kernel's ring to signals.
//!
//! In: ring events of failed allocations. Out: `gpu.alloc.failed`, at once for the first of its kind, then at most one a
//! second with the number left out. Kinds differ by process, function, device and code. Never: a balance changed, an
//! attribute beyond the list in [`signal`], or more kinds remembered than [`KINDS_MAX`].

use crate::error_names::error_name;
use crate::loss::{COALESCED, LossBook};
use railwatch_abi::cookie::Layer;
use railwatch_abi::maps::ProcessKey;
use railwatch_gpu::kernel::Event;
use railwatch_gpu::symbols::SymbolId;
use railwatch_wire::v1;
use std::collections::HashMap;

/// Time between two signals of one kind.
pub const HOLD_OFF_NS: u64 = 1_000_000_000;
/// Kinds remembered; beyond them events are counted as coalesced and told by the collector's table of failures alone.
pub const KINDS_MAX: usize = 4096;

/// What is known of a process besides its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Program name, at most 15 bytes.
    pub comm: String,
    /// Container id; empty on the host.
    pub container: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    process: ProcessKey,
    symbol: SymbolId,
    device: Option<i32>,
    code: i32,
}

/// The events held back of one kind.
#[derive(Debug)]
struct Held {
    quiet_until_ns: u64,
    last: Option<Event>,
    /// Of all of them, in the ring, which keeps them until they are told.
    places: Vec<u64>,
}

/// Events of one kind that are to be told in one signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The last of them.
    pub event: Event,
    /// Where they lie in the ring.
    pub places: Vec<u64>,
}

impl Due {
    /// How many were left out before the last one.
    pub fn suppressed(&self) -> u64 {
        (self.places.len() as u64).saturating_sub(1)
    }
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is to be told now.
    Tell,
    /// It is told later, with others.
    Held,
    /// It is not told: the tables of the kernel half alone count it.
    LeftOut,
}

/// Decides which failed allocation becomes a signal now, and which waits.
#[derive(Debug, Default)]
pub struct Failures {
    kinds: HashMap<Kind, Held>,
}

impl Failures {
    /// Takes an event that the book has noticed, and says what becomes of it. Where it is held, the one held before it is
    /// settled as coalesced.
    pub fn take(&mut self, event: Event, place: u64, book: &LossBook) -> Taken {
        let kind = Kind { process: event.process, symbol: event.symbol, device: event.device, code: event.code };
        if let Some(held) = self.kinds.get_mut(&kind) {
            book.settle(u64::from(held.last.is_some()), COALESCED);
            held.last = Some(event);
            held.places.push(place);
            return Taken::Held;
        }
        if self.kinds.len() >= KINDS_MAX {
            book.settle(1, COALESCED);
            return Taken::LeftOut;
        }
        let quiet_until_ns = event.at_ns + HOLD_OFF_NS;
        self.kinds.insert(kind, Held { quiet_until_ns, last: None, places: Vec::new() });
        Taken::Tell
    }

    /// What is held of each kind whose hold-off is over. Kinds that stayed quiet are forgotten.
    pub fn due(&mut self, now_ns: u64) -> Vec<Due> {
        self.give(now_ns, |held| now_ns >= held.quiet_until_ns)
    }

    /// Everything that is held, hold-off or not.
    pub fn all(&mut self, now_ns: u64) -> Vec<Due> {
        self.give(now_ns, |held| now_ns >= held.quiet_until_ns || held.last.is_some())
    }

    fn give(&mut self, now_ns: u64, is_due: impl Fn(&Held) -> bool) -> Vec<Due> {
        let mut due = Vec::new();
        self.kinds.retain(|_, held| {
            if !is_due(held) {
                return true;
            }
            let Some(event) = held.last.take() else { return false };
            due.push(Due { event, places: std::mem::take(&mut held.places) });
            held.quiet_until_ns = now_ns.saturating_add(HOLD_OFF_NS);
            true
        });
        due
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }
}

/// The words of an interface: API and layer.
pub fn words(layer: Layer) -> (&'static str, &'static str) {
    match layer {
        Layer::CudaRuntime => ("cuda", "runtime"),
        Layer::CudaDriver => ("cuda", "driver"),
        Layer::Hip => ("hip", "runtime"),
        Layer::Acl => ("acl", "runtime"),
        Layer::Nccl => ("nccl", "runtime"),
        Layer::Hccl => ("hccl", "runtime"),
    }
}

/// The signal of one failed allocation. `None` where the symbol is not in this build's table.
///
/// Attributes, all there are: `function`, `layer`, `api`, `code`, `error`, `device`, `comm`, `container`, `thread`.
pub fn signal(event: &Event, suppressed: u64, who: &Who) -> Option<v1::Signal> {
    let symbol = event.symbol.get()?;
    let pid = event.pid();
    let (api, layer) = words(symbol.layer);
    let name = error_name(symbol.layer, event.code);
    let error = name.map_or(format!("error {}", event.code), |name| format!("{name} ({})", event.code));
    let comm = if who.comm.is_empty() { "a process" } else { &who.comm };
    let device = event.device.map(|device| device.to_string());
    let on = device.as_ref().map_or(String::new(), |device| format!(" on device {device}"));
    let mut attributes = vec![
        ("function", symbol.name.to_owned()),
        ("layer", layer.to_owned()),
        ("api", api.to_owned()),
        ("code", event.code.to_string()),
        ("thread", event.thread.to_string()),
    ];
    attributes.extend(name.map(|name| ("error", name.to_owned())));
    attributes.extend(device.map(|device| ("device", device)));
    for (key, value) in [("comm", &who.comm), ("container", &who.container)] {
        if !value.is_empty() {
            attributes.push((key, value.clone()));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes asked for; exact up to 8 PiB")]
    let value = event.value as f64;
    Some(v1::Signal {
        name: "gpu.alloc.failed".into(),
        entity: Some(v1::Entity { kind: "process".into(), name: pid.to_string() }),
        severity: v1::Severity::Error.into(),
        observed_mono_ns: event.at_ns,
        half_width_ns: 0,
        value,
        previous: None,
        unit: "By".into(),
        summary: format!("{comm} (pid {pid}): {} of {}{on} failed with {error}", symbol.name, bytes(event.value)),
        attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        incomplete_since_mono_ns: None,
        suppressed,
    })
}

/// Bytes as people say them; exact below 1 KiB.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    #[expect(clippy::cast_precision_loss, reason = "for people, to one decimal")]
    let mut scaled = count as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if scaled < 1024.0 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, next);
    }
    format!("{scaled:.1} {unit}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::loss::{Elsewhere, Fate};
    use railwatch_abi::event::EventKind;
    use railwatch_gpu::symbols::by_name;

    fn event(function: &str, pid: u64, code: i32, at_ns: u64) -> Event {
        Event {
            kind: EventKind::AllocationFailed,
            at_ns,
            process: pid << 32 | 7,
            thread: 4243,
            symbol: by_name(function).unwrap().0,
            code,
            device: Some(0),
            value: 2 << 30,
            address: 0,
            rank: None,
        }
    }

    #[test]
    fn a_failure_says_who_what_how_much_and_the_name_of_the_code() {
        let who = Who { comm: "python".into(), container: String::new() };
        let told = signal(&event("cudaMalloc", 4242, 2, 5), 0, &who).unwrap();
        assert_eq!(
            told.summary,
            "python (pid 4242): cudaMalloc of 2.0 GiB on device 0 failed with cudaErrorMemoryAllocation (2)"
        );
        assert_eq!(told.value, 2_147_483_648.0);
        assert_eq!(told.entity.unwrap().name, "4242");
        let mut keys: Vec<_> = told.attributes.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["api", "code", "comm", "device", "error", "function", "layer", "thread"]);
        let unknown = signal(&event("hipMalloc", 1, -9, 5), 0, &Who::default()).unwrap();
        assert_eq!(unknown.attributes["code"], "-9");
        assert!(!unknown.attributes.contains_key("error"));
        assert!(signal(&Event { symbol: SymbolId(60_000), ..event("cudaMalloc", 1, 2, 0) }, 0, &who).is_none());
    }

    #[test]
    fn a_flood_is_told_at_once_then_once_a_second_and_nothing_goes_uncounted() {
        let (mut failures, book) = (Failures::default(), LossBook::default());
        let (mut told, mut places) = (Vec::new(), Vec::new());
        let mut deliver = |suppressed: u64| {
            told.push(suppressed);
            book.settle(1, Fate::Delivered);
        };
        const TOTAL: u64 = 25_000;
        for i in 0..TOTAL {
            let at_ns = i * 100_000;
            for due in failures.due(at_ns) {
                deliver(due.suppressed());
                places.extend(due.places);
            }
            book.notice(1);
            if failures.take(event("cudaMalloc", 4242, 35, at_ns), i, &book) == Taken::Tell {
                deliver(0);
                places.push(i);
            }
        }
        for due in failures.due(u64::MAX) {
            deliver(due.suppressed());
            places.extend(due.places);
        }
        assert_eq!(places, (0..TOTAL).collect::<Vec<_>>(), "every record of the ring is let go of, once");
        assert_eq!(told[0], 0, "the first leaves at once");
        assert_eq!(told.len(), 4, "2.5 s: at once, after 1 s, after 2 s, and the rest: {told:?}");
        assert_eq!(told.iter().map(|suppressed| suppressed + 1).sum::<u64>(), TOTAL);
        assert_eq!(book.pending(), 0);
        let account = book.account(&Elsewhere::default());
        assert_eq!((account.seen, account.delivered, account.dropped["coalesced"]), (TOTAL, 4, TOTAL - 4));
        failures.due(u64::MAX);
        assert!(failures.is_empty(), "quiet kinds are forgotten");
    }

    #[test]
    fn failures_of_different_kinds_do_not_hide_each_other() {
        let (mut failures, book) = (Failures::default(), LossBook::default());
        for next in [
            event("cudaMalloc", 1, 2, 0),
            event("cudaMalloc", 2, 2, 0),
            event("cudaMalloc", 1, 35, 0),
            event("cuMemAlloc_v2", 1, 2, 0),
            Event { device: None, ..event("cudaMalloc", 1, 2, 0) },
        ] {
            book.notice(1);
            assert_eq!(failures.take(next, 0, &book), Taken::Tell, "{next:?}");
        }
    }

    #[test]
    fn an_attacker_who_makes_endless_kinds_meets_a_bound() {
        let (mut failures, book) = (Failures::default(), LossBook::default());
        let mut told = 0;
        for code in 0..10_000 {
            book.notice(1);
            told += u64::from(failures.take(event("cudaMalloc", 1, code, 0), 0, &book) == Taken::Tell);
        }
        book.settle(told, Fate::Delivered);
        assert_eq!((told, book.pending()), (KINDS_MAX as u64, 0));
    }
    #[test]
    fn what_is_held_can_be_told_before_its_time_and_is_held_off_anew() {
        let (mut failures, book) = (Failures::default(), LossBook::default());
        book.notice(5);
        let take = |failures: &mut Failures, pid, place| failures.take(event("cudaMalloc", pid, 2, 0), place, &book);
        assert_eq!([take(&mut failures, 1, 0), take(&mut failures, 2, 1)], [Taken::Tell; 2]);
        assert_eq!([take(&mut failures, 1, 2), take(&mut failures, 1, 3)], [Taken::Held; 2]);
        let told = failures.all(5);
        assert_eq!(
            told.iter().map(|due| (due.suppressed(), due.places.clone())).collect::<Vec<_>>(),
            [(1, vec![2, 3])]
        );
        assert!(failures.all(6).is_empty());
        assert_eq!(take(&mut failures, 1, 4), Taken::Held);
        assert!(failures.due(5 + HOLD_OFF_NS - 1).is_empty());
        assert_eq!(failures.due(5 + HOLD_OFF_NS).len(), 1);
    }
}
