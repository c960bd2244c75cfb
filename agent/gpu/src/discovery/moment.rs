//! The clocks that discovery compares: records carry CLOCK_MONOTONIC, process starts CLOCK_BOOTTIME, people read
//! CLOCK_REALTIME.

/// One instant on three clocks, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// CLOCK_REALTIME.
    pub unix_ns: u64,
}

impl Moment {
    /// Before anything that can be seen now began.
    pub const BEFORE_ALL: Self = Self { monotonic_ns: 0, boot_ns: 0, unix_ns: 0 };

    /// Now, to within the few hundred nanoseconds between three reads.
    #[must_use]
    pub fn now() -> Self {
        Self {
            monotonic_ns: read(libc::CLOCK_MONOTONIC),
            boot_ns: read(libc::CLOCK_BOOTTIME),
            unix_ns: read(libc::CLOCK_REALTIME),
        }
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to. The three clocks exist on every kernel that has BPF links, so the
    // call cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// Length of a tick of process start times.
#[must_use]
pub fn tick_ns() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    1_000_000_000 / u64::try_from(per_second).unwrap_or(100).max(1)
}
