//! How often one module is read: at every reading of the source, or at every second, fourth or eighth where it is slow.
//!
//! In: how long its slowest read took. Out: whether it is due. A read holds RTNL: a module whose read takes 50 ms stops
//! all network configuration of the host for so long.

/// A read that takes longer makes the module be read half as often; one under half of it, twice as often again.
pub(crate) const SLOW_NS: u64 = 50_000_000;
/// A slow module is still read at every so manieth reading of the source.
pub(crate) const EVERY_MAX: u32 = 8;

/// The pace of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    every: u32,
    passed_over: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { every: 1, passed_over: 0 }
    }
}

impl Pace {
    /// Whether it is its turn; to be asked once a reading of the source.
    pub(crate) fn is_due(&mut self) -> bool {
        self.passed_over += 1;
        self.passed_over >= self.every
    }

    /// It was read, and its slowest read took so long.
    pub(crate) fn took(&mut self, slowest_ns: u64) {
        self.passed_over = 0;
        if slowest_ns > SLOW_NS {
            self.every = (self.every * 2).min(EVERY_MAX);
        } else if slowest_ns < SLOW_NS / 2 {
            self.every = (self.every / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of the source, of 40, at which a module whose reads take this long was read.
    fn read_at(took_ns: impl Fn(usize) -> u64) -> Vec<usize> {
        let mut pace = Pace::default();
        let is_read = |reading: &usize| {
            let due = pace.is_due();
            if due {
                pace.took(took_ns(*reading));
            }
            due
        };
        (0..40).filter(is_read).collect()
    }

    #[test]
    fn a_slow_module_is_read_less_and_less_often_and_never_not_at_all() {
        assert_eq!(read_at(|_| SLOW_NS + 1), [0, 2, 6, 14, 22, 30, 38]);
        assert_eq!(read_at(|_| 3_000_000).len(), 40);
        assert_eq!(
            read_at(|reading| if reading < 20 { SLOW_NS + 1 } else { 0 }),
            [0, 2, 6, 14, 22, 26, 28].into_iter().chain(29..40).collect::<Vec<_>>()
        );
    }
}
