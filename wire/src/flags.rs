//! What the bits of `Windows.flags` mean: what happened to one series within one window.

/// First reading: nothing to compare with.
pub const BASELINE: u32 = 1;
/// A counter passed its width; its delta is right.
pub const WRAPPED: u32 = 1 << 1;
/// A counter started again: the movement between is missing from its delta.
pub const RESTARTED: u32 = 1 << 2;
/// A counter sits at its maximum: its delta is a lower bound.
pub const SATURATED: u32 = 1 << 3;
/// Readings so far apart that wraps may be missing from the delta.
pub const GAP: u32 = 1 << 4;
/// The window was begun late or cut short.
pub const PARTIAL: u32 = 1 << 5;

/// Each bit with its word for people, in the order of the bits.
pub const NAMES: [(u32, &str); 6] = [
    (BASELINE, "baseline"),
    (WRAPPED, "wrapped"),
    (RESTARTED, "restarted"),
    (SATURATED, "saturated"),
    (GAP, "gap"),
    (PARTIAL, "partial"),
];

/// The words of the bits that are set; unknown bits say nothing.
pub fn words(flags: u32) -> Vec<&'static str> {
    NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, word)| *word).collect()
}

#[cfg(test)]
mod tests {
    use super::{GAP, SATURATED, words};

    #[test]
    fn every_bit_has_a_word_and_unknown_ones_have_none() {
        assert_eq!(words(SATURATED | GAP | 1 << 20), ["saturated", "gap"]);
        assert_eq!(words(u32::MAX).len(), 6);
        assert!(words(0).is_empty());
    }
}
