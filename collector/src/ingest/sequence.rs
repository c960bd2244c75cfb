//! The order of frames within a stream: what is next, what came before, and what is missing.

/// What a frame's sequence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take it. `missing` frames before it never came and nothing explains them.
    Next {
        /// How many.
        missing: u64,
    },
    /// It was taken already.
    Replay,
}

/// The sequences of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    through: u64,
}

impl Sequence {
    /// Goes on after `acknowledged_through`. A stream of which nothing is stored begins where its spool begins: what
    /// the spool gave away before was acknowledged by another store.
    pub fn after(acknowledged_through: u64, first_sequence: u64) -> Self {
        let through = if acknowledged_through > 0 { acknowledged_through } else { first_sequence.saturating_sub(1) };
        Self { through }
    }

    /// Takes the next frame's sequence; `skipped` is what its spool says it cut before it.
    pub fn observe(&mut self, sequence: u64, skipped: u64) -> Order {
        if sequence <= self.through {
            return Order::Replay;
        }
        let missing = (sequence - self.through - 1).saturating_sub(skipped);
        self.through = sequence;
        Order::Next { missing }
    }
}

#[cfg(test)]
mod tests {
    use super::{Order, Sequence};

    #[test]
    fn what_is_missing_is_counted_unless_the_spool_explains_it_and_replays_are_known() {
        let next = |missing| Order::Next { missing };
        for (acknowledged, first, frames, expected) in [
            (0, 1, vec![(1, 0), (2, 0)], vec![next(0), next(0)]),
            (0, 41, vec![(41, 0), (42, 0)], vec![next(0), next(0)]),
            (7, 5, vec![(5, 0), (7, 0), (8, 0)], vec![Order::Replay, Order::Replay, next(0)]),
            (7, 8, vec![(10, 0), (11, 0)], vec![next(2), next(0)]),
            (7, 8, vec![(10, 2), (9, 0)], vec![next(0), Order::Replay]),
            (7, 8, vec![(10, 1)], vec![next(1)]),
            (7, 8, vec![(8, u64::MAX)], vec![next(0)]),
            (0, 0, vec![(u64::MAX, 0), (1, 0)], vec![next(u64::MAX - 1), Order::Replay]),
        ] {
            let mut sequence = Sequence::after(acknowledged, first);
            let got: Vec<_> = frames.iter().map(|(number, skipped)| sequence.observe(*number, *skipped)).collect();
            assert_eq!(got, expected, "after {acknowledged}, spool from {first}: {frames:?}");
        }
    }
}
