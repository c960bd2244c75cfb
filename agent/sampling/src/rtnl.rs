//! How long a source lets RTNL alone after it held it.
//!
//! RTNL is the kernel's one lock for all changes of network interfaces: while a driver answers under it for milliseconds,
//! no address is set, no link comes up, no container gets its interface on this host. In: how long each read of a source
//! took that reads by such a path. Out: when it may read again, so that its reads take no more than their share of the time.
//! What it waits for the lock counts too, since nobody can tell the two apart: so a long read alone is taken for a wait, and
//! the second in a row for the source's own. Never: a source stopped; the longest cadence of its range is the longest rest.

/// In a burst a source may hold RTNL so many times as long.
pub(crate) const IN_BURST: f64 = 10.0;

/// What one source's last read held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtnl {
    last_ns: u64,
}

impl Rtnl {
    /// Takes how long a read took, and for which share of the time it may; the least time from its begin to the begin of the
    /// next.
    pub(crate) fn held(&mut self, took_ns: u64, share: f64, cadence_ns_max: u64) -> u64 {
        let own_ns = took_ns.min(std::mem::replace(&mut self.last_ns, took_ns));
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a time"
        )]
        let rest_ns = (own_ns as f64 / share) as u64;
        rest_ns.min(cadence_ns_max)
    }
}

#[cfg(test)]
mod tests {
    use super::Rtnl;

    #[test]
    fn a_source_that_holds_the_lock_long_rests_a_hundred_times_as_long_and_a_wait_for_others_is_no_reason() {
        const MS: u64 = 1_000_000;
        let mut rtnl = Rtnl::default();
        // What a read took, and the milliseconds from its begin to the next, of 60 s at most.
        for (place, (took_ms, expected_ms)) in [
            (1, 0),
            (1, 100),
            (500, 100),
            (1, 100),
            (30, 100),
            (30, 3_000),
            (40, 3_000),
            (900, 4_000),
            (900, 60_000),
            (0, 0),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(rtnl.held(took_ms * MS, 0.01, 60_000 * MS), expected_ms * MS, "case {place}: {took_ms} ms");
        }
    }
}
