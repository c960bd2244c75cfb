//! The identifier of a series: FNV-1a 64 over its name, entity and sorted labels, so that every start of
//! every agent and the collector agree on it without asking each other.

/// Identifier of the series `name` on the entity (`kind`, `entity`) with `labels`, which need not be sorted.
///
/// Parts are separated by bytes that UTF-8 never contains, so that no two different lists hash the same text.
/// Source: draft-eastlake-fnv-21, section 5 (64-bit offset basis and prime).
pub fn id<'a>(name: &str, kind: &str, entity: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> u64 {
    let mut sorted: Vec<_> = labels.into_iter().collect();
    sorted.sort_unstable();
    let mut hash = Fnv::new();
    for part in [name, kind, entity] {
        hash.part(part);
    }
    for (key, value) in sorted {
        hash.part(key);
        hash.part(value);
    }
    hash.0
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn part(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.byte(byte));
        self.byte(0xff);
    }
}

#[cfg(test)]
mod tests {
    use super::id;

    #[test]
    fn order_of_labels_does_not_matter_and_everything_else_does() {
        let base = id("a", "nic", "eth0", [("x", "1"), ("y", "2")]);
        assert_eq!(base, id("a", "nic", "eth0", [("y", "2"), ("x", "1")]));
        for other in [
            id("b", "nic", "eth0", [("x", "1"), ("y", "2")]),
            id("a", "port", "eth0", [("x", "1"), ("y", "2")]),
            id("a", "nic", "eth1", [("x", "1"), ("y", "2")]),
            id("a", "nic", "eth0", [("x", "1y"), ("", "2")]),
            id("a", "nic", "eth0", [("x", "1")]),
        ] {
            assert_ne!(base, other);
        }
    }
}
