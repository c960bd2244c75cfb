//! The two clocks of this host, nanoseconds.

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC.
pub(crate) fn mono_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CLOCK_REALTIME since the Unix epoch.
pub(crate) fn unix_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> u64 {
    // clock_gettime fails only for clocks that do not exist, and both do since Linux 2.6.
    clock_gettime(clock).map_or(0, |t| t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs())
}
