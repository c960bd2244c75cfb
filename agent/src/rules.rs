//! The rules of all sources, joined once.

use railwatch_sampling::Rule;
use std::sync::LazyLock;

static ALL: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    [
        railwatch_nic::RULES,
        railwatch_drops::RULES,
        &railwatch_optics_source::RULES,
        railwatch_health::RULES,
        railwatch_disk::RULES,
    ]
    .concat()
});

/// What raises signals, over all sources.
pub fn all() -> &'static [Rule] {
    ALL.as_slice()
}

#[cfg(test)]
mod tests {
    use super::all;
    use std::collections::HashSet;

    #[test]
    fn no_series_has_rules_in_two_rooms() {
        let series: HashSet<_> = all().iter().map(|rule| rule.series).collect();
        assert_eq!(series.len(), all().len(), "only the first rule of a series is looked at");
    }
}
