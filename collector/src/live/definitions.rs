//! What series mean. The identifier is a hash of the meaning, the same on every host, so 10,000 hosts with the same
//! port names share one copy of each definition.

use railwatch_wire::v1;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// The meaning of a series.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// FNV-1a 64 of name, entity and labels.
    pub id: u64,
    /// "network.io", ...
    pub name: String,
    /// UCUM.
    pub unit: String,
    /// A counter.
    pub monotonic: bool,
    /// "nic", "port", "host", ...
    pub entity_kind: String,
    /// "eth0", "mlx5_2/1", ...
    pub entity_name: String,
    /// What tells series of one name and entity apart.
    pub labels: BTreeMap<String, String>,
}

impl Definition {
    fn says(&self, wire: &v1::SeriesDefinition) -> bool {
        let (kind, entity) = entity(wire);
        self.name == wire.name
            && self.unit == wire.unit
            && self.monotonic == wire.monotonic
            && self.entity_kind == kind
            && self.entity_name == entity
            && self.labels.len() == wire.labels.len()
            && self.labels.iter().all(|(key, value)| wire.labels.get(key) == Some(value))
    }
}

/// Kind and name of the entity of a series, empty where the definition has none.
pub fn entity(wire: &v1::SeriesDefinition) -> (&str, &str) {
    wire.entity.as_ref().map_or(("", ""), |entity| (&entity.kind, &entity.name))
}

/// One copy of every definition in use.
#[derive(Debug, Default)]
pub struct Definitions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<u64, Weak<Definition>>,
    /// Where unused ones are looked for next: the table is never much larger than what is in use.
    prune_at: usize,
}

impl Known {
    fn prune(&mut self) {
        self.by_id.retain(|_, definition| definition.strong_count() > 0);
        self.prune_at = (2 * self.by_id.len()).max(1024);
    }
}

impl Definitions {
    /// The shared copy of a definition whose identifier was checked.
    pub fn share(&self, wire: v1::SeriesDefinition) -> Arc<Definition> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(definition) = known.by_id.get(&wire.id).and_then(Weak::upgrade)
            && definition.says(&wire)
        {
            return definition;
        }
        let entity = wire.entity.unwrap_or_default();
        let definition = Arc::new(Definition {
            id: wire.id,
            name: wire.name,
            unit: wire.unit,
            monotonic: wire.monotonic,
            entity_kind: entity.kind,
            entity_name: entity.name,
            labels: wire.labels.into_iter().collect(),
        });
        known.by_id.insert(definition.id, Arc::downgrade(&definition));
        if known.by_id.len() >= known.prune_at {
            known.prune();
        }
        definition
    }

    /// Lets definitions go that no host uses.
    pub fn prune(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).prune();
    }
}

#[cfg(test)]
mod tests {
    use super::Definitions;
    use railwatch_wire::v1::SeriesDefinition;
    use std::sync::Arc;

    #[test]
    fn definitions_that_nobody_keeps_do_not_pile_up() {
        let definitions = Definitions::default();
        for id in 0..10_000 {
            definitions.share(SeriesDefinition { id, ..SeriesDefinition::default() });
        }
        assert!(definitions.0.lock().expect("not poisoned").by_id.len() <= 1024);
    }

    #[test]
    fn hosts_share_a_definition_and_one_that_says_otherwise_is_kept_apart() {
        let definitions = Definitions::default();
        let wire =
            SeriesDefinition { id: 7, name: "network.io".into(), unit: "By".into(), ..SeriesDefinition::default() };
        let (first, second) = (definitions.share(wire.clone()), definitions.share(wire.clone()));
        assert!(Arc::ptr_eq(&first, &second));
        let other = definitions.share(SeriesDefinition { unit: "1".into(), ..wire });
        assert_eq!((first.unit.as_str(), other.unit.as_str()), ("By", "1"));
        drop((first, second, other));
        definitions.prune();
        assert!(definitions.0.lock().expect("not poisoned").by_id.is_empty());
    }
}
