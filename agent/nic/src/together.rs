//! Whether several objects are asked for by one system call, or each by its own.
//!
//! Together, a call costs a fraction, and all readings share its bracket. That is right for software and cached answers.
//! Where a driver asks its firmware, the call lasts so long that the bracket would say little about each reading, and what
//! is saved is nothing beside it.

use crate::netlink::TOGETHER_MAX;

/// Width of a bracket beyond which each object is asked for by itself, nanoseconds: half of it is the readings' half-width,
/// which shall be well under 100 µs.
const TOGETHER_NS_MAX: u64 = 100_000;

/// Decided anew by each read for the next.
pub(crate) struct Together(bool);

impl Default for Together {
    fn default() -> Self {
        Self(true)
    }
}

impl Together {
    /// Objects may be asked for together.
    pub(crate) fn is_on(&self) -> bool {
        self.0
    }

    /// How many by one call.
    pub(crate) fn per_call(&self) -> usize {
        if self.0 { TOGETHER_MAX } else { 1 }
    }

    /// Takes how long a read of all objects took.
    pub(crate) fn took(&mut self, ns: u64) {
        self.0 = ns <= TOGETHER_NS_MAX;
    }
}
