//! What happened to a counter between two readings.
//!
//! In: two raw values and the time between them. Out: one [`Step`]. Never: a negative movement, or one larger than the
//! counter can make in that time; where the truth cannot be known, the step says so instead of guessing.

use crate::series::{AtLimit, Counter};

/// Values may reach user space in lumps (drivers refresh them in the background up to once a second): this much longer
/// than the time between the readings may be behind one movement.
const LUMP_S: f64 = 2.0;

/// The movement of a counter, in raw steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Moved by exactly this much.
    Advanced(u64),
    /// Moved by exactly this much, past its width.
    Wrapped(u64),
    /// Reached its maximum: moved by at least this much, and tells nothing more until it is cleared.
    ReachedLimit(u64),
    /// Sits at its maximum: the movement is unknown.
    AtLimit,
    /// Started again (reset, cleared, device re-initialised) or jumped further than possible: the movement is unknown.
    Restarted,
    /// So long a time since the last reading that it may have wrapped unseen: the movement is unknown.
    Gap,
}

/// The step from `previous` to `current`, `elapsed_ns` apart.
#[must_use]
pub fn step(counter: &Counter, previous: u64, current: u64, elapsed_ns: u64) -> Step {
    #[expect(clippy::cast_precision_loss, reason = "a bound, far from needing every bit")]
    let believable = counter.max_per_s * (elapsed_ns as f64 / 1e9 + LUMP_S);
    #[expect(clippy::cast_precision_loss, reason = "the same")]
    let is_believable = |delta: u64| delta as f64 <= believable;
    match counter.at_limit {
        AtLimit::Saturates => match () {
            () if current < previous => Step::Restarted,
            () if current == counter.max_raw() && previous == current => Step::AtLimit,
            () if current == counter.max_raw() => Step::ReachedLimit(current - previous),
            () if is_believable(current - previous) => Step::Advanced(current - previous),
            () => Step::Restarted,
        },
        AtLimit::Wraps => {
            let range = 2f64.powi(i32::from(counter.bits));
            if counter.bits < 64 && believable >= range {
                return Step::Gap;
            }
            if current >= previous {
                let delta = current - previous;
                return if is_believable(delta) { Step::Advanced(delta) } else { Step::Restarted };
            }
            if counter.bits == 64 {
                return Step::Restarted;
            }
            // A sum of wrapping registers may lie above the width of one.
            let delta = i128::from(current) + (1i128 << counter.bits) - i128::from(previous);
            match u64::try_from(delta) {
                Ok(delta) if is_believable(delta) => Step::Wrapped(delta),
                _ => Step::Restarted,
            }
        }
    }
}
