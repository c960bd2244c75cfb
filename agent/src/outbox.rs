//! The one way out: signals at once, windows of all sources joined, state on change. Everything is entered in the loss
//! book here.
//!
//! In: windows and signals of the sampling threads, signals of the GPU room. Out: the uplink. Never: a wait, or a window
//! before its series are defined.

use crate::convert;
use crate::loss::{Fate, LossBook, QUEUE_FULL};
use crate::shared::Shared;
use crate::tape::Dump;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Sink, SinkFull, WindowFrame};
use railwatch_uplink::{Receipt, Refused, UplinkHandle, UplinkState};
use railwatch_wire::limits::SERIES_PER_FRAME_MAX;
use railwatch_wire::v1;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A window waits this long for the other sources' part.
const JOIN_NS: u64 = 100_000_000;

/// Hands everything to the uplink.
pub struct Outbox {
    uplink: UplinkHandle,
    shared: Arc<Shared>,
    joining: Mutex<Joining>,
    dump: OnceLock<Dump>,
}

#[derive(Default)]
struct Joining {
    /// Open windows by their end, few.
    open: Vec<v1::Windows>,
    defined: HashSet<u64>,
}

impl Outbox {
    /// To this uplink.
    pub fn new(uplink: UplinkHandle, shared: Arc<Shared>) -> Self {
        Self { uplink, shared, joining: Mutex::default(), dump: OnceLock::new() }
    }

    /// Tells this of critical signals while no collector is connected. Once; another call changes nothing.
    pub fn set_dump(&self, dump: Dump) {
        let _ = self.dump.set(dump);
    }

    /// Hands over a signal that the book has noticed already, and that its origin keeps until the spool has it.
    pub fn signal_from(&self, signal: v1::Signal, receipt: Receipt) -> Result<(), SinkFull> {
        self.before_signal(&signal);
        let Receipt { origin, places } = receipt.clone();
        let handed = self.uplink.signal_from(signal, receipt);
        if handed.is_err() {
            // Counted as lost here and in the next frame: it is not to come again.
            origin.settle(&places);
        }
        self.settle(handed)
    }

    /// Hands over a signal that the book has noticed already, and that nobody keeps.
    pub fn signal_noticed(&self, signal: v1::Signal) -> Result<(), SinkFull> {
        self.before_signal(&signal);
        self.settle(self.uplink.signal(signal))
    }

    /// Hands over a signal of a room of the agent, at once.
    pub fn signal_new(&self, signal: v1::Signal) -> Result<(), SinkFull> {
        self.book().notice(1);
        self.signal_noticed(signal)
    }

    fn before_signal(&self, signal: &v1::Signal) {
        if let Some(dump) = self.dump.get()
            && signal.severity() == v1::Severity::Critical
            && !self.uplink.state().connected
        {
            dump.signal(signal);
        }
        self.shared.news.notify_one();
    }

    /// Sends the windows whose time to join is over; all of them at the end. Returns whether some wait still.
    pub fn send_windows(&self, all: bool) -> bool {
        let (due, wait): (Vec<_>, _) = {
            let now_ns = monotonic_ns();
            let mut joining = self.joining();
            let due = joining.open.extract_if(.., |open| all || open.end_mono_ns + JOIN_NS <= now_ns).collect();
            (due, !joining.open.is_empty())
        };
        for windows in due {
            // Counted in the book; there is nobody else to tell.
            let _ = self.settle(self.uplink.windows(windows));
        }
        wait
    }

    /// Hands over state.
    pub fn snapshot(&self, snapshot: v1::Snapshot) {
        if let Err(error) = self.uplink.snapshot(snapshot) {
            tracing::error!(%error, "a snapshot of this host's state was not sent");
        }
    }

    /// The loss account now.
    pub fn account(&self) -> v1::LossAccount {
        let spool = self.uplink.state().spool;
        self.shared.book.account(&self.shared.elsewhere(spool.cut_signals + spool.cut_windows))
    }

    /// How the uplink stands.
    pub fn uplink_state(&self) -> UplinkState {
        self.uplink.state()
    }

    /// The uplink itself.
    pub fn uplink(&self) -> &UplinkHandle {
        &self.uplink
    }

    fn book(&self) -> &LossBook {
        &self.shared.book
    }

    fn settle(&self, result: Result<(), Refused>) -> Result<(), SinkFull> {
        let fate = match result {
            Ok(()) => Fate::Delivered,
            Err(Refused::Full) => QUEUE_FULL,
            Err(Refused::TooLarge) => Fate::Dropped("too_large"),
            Err(Refused::TooManySeries) => Fate::Dropped("too_many_series"),
            Err(Refused::Ended) => Fate::Dropped("ended"),
        };
        self.book().settle(1, fate);
        if fate == Fate::Delivered { Ok(()) } else { Err(SinkFull) }
    }

    fn define(&self, defined: &mut HashSet<u64>, frame: &WindowFrame) {
        for id in &frame.series {
            if defined.contains(&id.0) {
                continue;
            }
            // A series that was retired meanwhile has no definition any more; the collector counts its window.
            let Some(def) = self.shared.catalog.get(*id) else { continue };
            match self.uplink.define(convert::definition(&def)) {
                Ok(()) => {
                    defined.insert(id.0);
                }
                Err(error) => tracing::debug!(series = def.name(), %error, "a series was not defined"),
            }
        }
    }

    fn joining(&self) -> MutexGuard<'_, Joining> {
        // A panic under this lock leaves at worst a window without its last columns, which `join` checks.
        self.joining.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Outbox {
    fn window(&self, frame: WindowFrame) -> Result<(), SinkFull> {
        if frame.is_empty() {
            return Ok(());
        }
        self.shared.note_window(&frame);
        let mut joining = self.joining();
        self.define(&mut joining.defined, &frame);
        if !join(&mut joining.open, convert::windows(frame)) {
            self.book().notice(1);
            self.shared.news.notify_one();
        }
        Ok(())
    }

    fn signal(&self, signal: railwatch_sampling::Signal) -> Result<(), SinkFull> {
        self.signal_new(convert::signal(signal))
    }
}

/// Adds windows to an open one of the same time; `false` where they became an open one of their own.
fn join(open: &mut Vec<v1::Windows>, windows: v1::Windows) -> bool {
    let same = open.iter_mut().find(|other| {
        (other.start_mono_ns, other.end_mono_ns) == (windows.start_mono_ns, windows.end_mono_ns)
            && other.series.len() + windows.series.len() <= SERIES_PER_FRAME_MAX
    });
    let Some(other) = same else {
        open.push(windows);
        return false;
    };
    let v1::Windows {
        start_mono_ns: _,
        end_mono_ns: _,
        series,
        count,
        sum,
        min,
        max,
        last,
        delta,
        resets,
        incomplete_since_mono_ns,
        flags,
    } = windows;
    // Absent: nothing happened to any series of that part.
    if !(flags.is_empty() && other.flags.is_empty()) {
        other.flags.resize(other.series.len(), 0);
        other.flags.extend(flags);
        other.flags.resize(other.series.len() + series.len(), 0);
    }
    other.series.extend(series);
    other.count.extend(count);
    other.sum.extend(sum);
    other.min.extend(min);
    other.max.extend(max);
    other.last.extend(last);
    other.delta.extend(delta);
    other.resets.extend(resets);
    other.incomplete_since_mono_ns = match (other.incomplete_since_mono_ns, incomplete_since_mono_ns) {
        (Some(one), Some(another)) => Some(one.min(another)),
        (one, another) => one.or(another),
    };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(start: u64, series: &[u64]) -> v1::Windows {
        let rows = series.len();
        v1::Windows {
            start_mono_ns: start,
            end_mono_ns: start + 10,
            series: series.to_vec(),
            count: vec![1; rows],
            sum: vec![0.0; rows],
            min: vec![0.0; rows],
            max: vec![0.0; rows],
            last: vec![0.0; rows],
            delta: vec![0; rows],
            resets: vec![0; rows],
            incomplete_since_mono_ns: None,
            flags: vec![],
        }
    }

    #[test]
    fn flags_stay_with_their_series_when_windows_join() {
        let flagged = |series: &[u64], flags: &[u32]| v1::Windows { flags: flags.to_vec(), ..windows(0, series) };
        for (first, second, expected) in [
            (flagged(&[1, 2], &[]), flagged(&[3], &[8]), &[0, 0, 8][..]),
            (flagged(&[1], &[8]), flagged(&[2, 3], &[]), &[8, 0, 0]),
            (flagged(&[1], &[8]), flagged(&[2], &[16]), &[8, 16]),
            (flagged(&[1], &[]), flagged(&[2], &[]), &[]),
        ] {
            let mut open = vec![first];
            assert!(join(&mut open, second));
            assert_eq!(open[0].flags, expected);
        }
    }

    #[test]
    fn windows_of_one_time_leave_as_one_and_others_do_not() {
        let mut open = Vec::new();
        assert!(!join(&mut open, windows(0, &[1, 2])));
        assert!(join(&mut open, windows(0, &[3])));
        assert!(!join(&mut open, windows(10, &[1])));
        assert_eq!(open.len(), 2);
        let v1::Windows { series, count, sum, min, max, last, delta, resets, .. } = &open[0];
        assert_eq!(series, &[1, 2, 3]);
        for rows in [count.len(), sum.len(), min.len(), max.len(), last.len(), delta.len(), resets.len()] {
            assert_eq!(rows, 3, "every column grows alike");
        }
    }

    #[test]
    fn a_frame_never_grows_past_the_limit_of_the_wire() {
        let mut open = Vec::new();
        let many: Vec<u64> = (0..SERIES_PER_FRAME_MAX as u64).collect();
        join(&mut open, windows(0, &many));
        assert!(!join(&mut open, windows(0, &[1])), "it became one of its own");
    }
}
