//! A process that uses an accelerator: which objects it has mapped, and whether its figures are whole.
//!
//! In: what was seen of it, and when probes were in place. Out: [`Incomplete`] marks. A figure is called whole only where
//! that can be shown: the probes were there first, or the process cannot have held device memory yet.

use std::collections::{BTreeMap, BTreeSet};

use super::attach::ObjectId;
use super::container::Container;
use super::moment::Moment;
use super::procfs::{self, Stat};
use super::records::FileId;

/// Longest time from a mapping to its probes for which a process without a device counts as whole.
const LATE_NS: u64 = 500_000_000;

/// Calls before `since_unix_ns` are missing from the figures of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// From when on its calls are counted.
    pub since_unix_ns: u64,
    /// Why, as a sentence's end.
    pub reason: String,
}

/// An object in a process.
#[derive(Debug, Clone)]
pub struct Use {
    /// Its path as this process sees it.
    pub path: String,
    /// Which file that is in its mappings.
    pub file: FileId,
    /// When it was mapped, or found mapped (CLOCK_MONOTONIC).
    pub mapped_ns: u64,
    /// Whether calls are missing.
    pub incomplete: Option<Incomplete>,
}

/// A process that maps at least one object of interest, or holds a compute device.
#[derive(Debug, Clone)]
pub struct Process {
    /// Name of its program.
    pub comm: String,
    /// Start in ticks since boot: with the pid it names one process.
    pub start_ticks: u64,
    /// Where it runs.
    pub container: Option<Container>,
    /// Objects of interest that it has mapped.
    pub uses: BTreeMap<ObjectId, Use>,
    /// The mapped files among which runtimes without symbols were looked for last.
    pub searched: BTreeSet<FileId>,
}

impl Process {
    /// Reads what is known of `pid`; `None` once it is gone.
    pub fn read(pid: u32) -> Option<Self> {
        let Stat { comm, start_ticks } = procfs::stat(pid)?;
        let container = super::container::container_of(&procfs::cgroup(pid));
        Some(Self { comm, start_ticks, container, uses: BTreeMap::new(), searched: BTreeSet::new() })
    }
}

/// How a mapping came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// The kernel reported it as it was made (CLOCK_MONOTONIC).
    Live {
        /// When.
        at_ns: u64,
    },
    /// It was there when /proc was read.
    Found,
}

/// Decides whether calls of a process are missing. `start_boot_ns` is the process's start, rounded down, `attached` when
/// the object's probes were in place, and `holds_device` is asked only where it decides.
pub fn judge(
    sighting: Sighting,
    start_boot_ns: u64,
    attached: Moment,
    holds_device: impl FnOnce() -> Option<String>,
) -> Option<Incomplete> {
    let incomplete = |reason: String| Some(Incomplete { since_unix_ns: attached.unix_ns, reason });
    if attached.boot_ns <= start_boot_ns {
        return None;
    }
    let Sighting::Live { at_ns } = sighting else {
        return incomplete("it was running before its library was traced".to_owned());
    };
    let late_ns = attached.monotonic_ns.checked_sub(at_ns).filter(|late_ns| *late_ns > 0)?;
    if late_ns > LATE_NS {
        return incomplete(format!("its library was traced {} ms after it was loaded", late_ns / 1_000_000));
    }
    // Without an open device it held no device memory when its probes came, so its balance began at zero.
    let device = holds_device()?;
    incomplete(format!("it held {device} when its library was traced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_whole_only_where_it_can_be_shown() {
        const SECOND: u64 = 1_000_000_000;
        let attached = Moment { monotonic_ns: 10 * SECOND, boot_ns: 20 * SECOND, unix_ns: 1000 * SECOND };
        let live = |at_ns| Sighting::Live { at_ns };
        for (name, sighting, start_boot_ns, device, reason) in [
            ("running before", Sighting::Found, 19 * SECOND, false, Some("it was running before")),
            ("started after", Sighting::Found, 20 * SECOND, true, None),
            ("loaded after the probes", live(11 * SECOND), 0, true, None),
            ("probes within 500 ms, no device", live(10 * SECOND - SECOND / 2), 0, false, None),
            ("probes within 500 ms, device open", live(10 * SECOND - 1), 0, true, Some("it held /dev/nvidia0")),
            ("loaded before, under probes kept from an agent before", Sighting::Found, 0, true, None),
            ("probes too late", live(9 * SECOND), 0, false, Some("its library was traced 1000 ms after")),
        ] {
            let attached = if name.contains("kept") { Moment::BEFORE_ALL } else { attached };
            let judged = judge(sighting, start_boot_ns, attached, || device.then(|| "/dev/nvidia0".to_owned()));
            assert_eq!(judged.is_some(), reason.is_some(), "{name}: {judged:?}");
            if let (Some(judged), Some(reason)) = (judged, reason) {
                assert!(judged.reason.starts_with(reason), "{name}: {}", judged.reason);
                assert_eq!(judged.since_unix_ns, attached.unix_ns);
            }
        }
    }
}
