//! The part of an inventory that is compared with other hosts, small: texts that hosts have in common are held once.
//!
//! In: a validated inventory. Out: entities with their keys and values, about 20 bytes a value. What compares with nothing (addresses,
//! serial numbers, keys that this build does not know) is left out.

use super::Standing;
use railwatch_wire::inventory::{self, Class, KEYS, Key};
use railwatch_wire::v1;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// What of a host's inventory is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compact {
    entities: Vec<Entity>,
}

/// One entity of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// Its kind.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What it is compared with.
    pub role: Arc<str>,
    /// Place of the key in [`KEYS`], and the value.
    values: Box<[(u16, Arc<str>)]>,
}

impl Entity {
    /// Its keys and values.
    pub fn values(&self) -> impl Iterator<Item = (&'static Key, &Arc<str>)> {
        self.values.iter().filter_map(|(key, value)| Some((KEYS.get(usize::from(*key))?, value)))
    }
}

impl Compact {
    /// Its entities.
    pub fn entities(&self) -> &[Entity] {
        &self.entities
    }
}

/// The texts of all hosts' inventories, each once; and how hosts compare.
#[derive(Debug, Default)]
pub struct Inventories {
    known: Mutex<Known>,
    standing: Standing,
}

#[derive(Debug, Default)]
struct Known {
    texts: HashSet<Arc<str>>,
    /// Where unused ones are looked for next: there are never many more than are in use.
    prune_at: usize,
}

impl Known {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    fn prune(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.prune_at = (2 * self.texts.len()).max(4096);
    }
}

impl Inventories {
    /// The compared part of an inventory.
    pub fn share(&self, inventory: &v1::InventoryState) -> Arc<Compact> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entities: BTreeMap<[&str; 3], Vec<(u16, Arc<str>)>> = BTreeMap::new();
        for item in &inventory.items {
            let Some(at) = inventory::position(&item.key).filter(|at| KEYS[*at].class != Class::Host) else { continue };
            let Ok(at) = u16::try_from(at) else { continue };
            let values = entities.entry([&item.entity_kind, &item.entity, &item.role]).or_default();
            values.push((at, known.share(&item.value)));
        }
        let entity = |([kind, name, role], values): ([&str; 3], Vec<_>)| Entity {
            kind: known.share(kind),
            name: known.share(name),
            role: known.share(role),
            values: values.into(),
        };
        let compact = Compact { entities: entities.into_iter().map(entity).collect() };
        if known.texts.len() > known.prune_at {
            known.prune();
        }
        Arc::new(compact)
    }

    /// Who differs from its peers.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Forgets texts that no host has any more.
    pub fn prune(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).prune();
    }

    /// Texts held.
    pub fn texts(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).texts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Inventories;
    use railwatch_wire::v1;

    fn item(entity: &str, key: &str, value: &str) -> v1::InventoryItem {
        v1::InventoryItem {
            entity_kind: "port".into(),
            entity: entity.into(),
            key: key.into(),
            value: value.into(),
            ..v1::InventoryItem::default()
        }
    }

    #[test]
    fn equal_hosts_share_their_texts_and_what_compares_with_nothing_is_left_out() {
        let inventories = Inventories::default();
        let state = |address: &str| v1::InventoryState {
            items: vec![item("eth0", "mtu", "9000"), item("eth0", "pci.address", address), item("eth0", "newer", "1")],
        };
        let one = inventories.share(&state("0000:01:00.0"));
        let texts = inventories.texts();
        let other = inventories.share(&state("0000:02:00.0"));
        assert_eq!((one.clone(), inventories.texts()), (other.clone(), texts));
        let values: Vec<_> = one.entities()[0].values().map(|(key, value)| (key.name, value.to_string())).collect();
        assert_eq!(values, [("mtu", "9000".to_owned())]);
        drop((one, other));
        inventories.prune();
        assert_eq!(inventories.texts(), 0);
    }
}
