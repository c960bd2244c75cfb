//! The inventory of one moment, and what became another since an earlier one.
//!
//! In: values as they are read. Out: items in a fixed order, cut to the wire's bounds; changes. Never: more items than the bound
//! (those beyond are counted), a key that the table does not know, or an empty value: what is not known is absent.

use railwatch_wire::inventory::{self, Key};
use railwatch_wire::limits::{INVENTORY_ITEMS_MAX, INVENTORY_VALUE_BYTES_MAX, NAME_BYTES_MAX};
use railwatch_wire::v1;
use std::collections::{BTreeMap, BTreeSet};

/// What an item is about: kind and name of the entity, and the key.
type Place = (&'static str, String, &'static str);

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What its entity is compared with; empty for all of its kind.
    pub role: String,
    /// As read.
    pub value: String,
    /// Where it was read.
    pub source: String,
}

/// The inventory of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    items: BTreeMap<Place, Item>,
    refused: u64,
}

/// A value that became another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Kind of the entity.
    pub kind: &'static str,
    /// Its name.
    pub entity: String,
    /// The key's row.
    pub key: &'static Key,
    /// The value before.
    pub before: String,
    /// The value now.
    pub after: String,
    /// Where it was read.
    pub source: String,
}

/// Puts the items of one entity.
pub(crate) struct Of<'i> {
    items: &'i mut Items,
    kind: &'static str,
    name: String,
    role: String,
}

impl Items {
    /// What follows is about this entity.
    pub(crate) fn of(&mut self, kind: &'static str, name: &str, role: impl Into<String>) -> Of<'_> {
        Of { items: self, kind, name: cut(name, NAME_BYTES_MAX), role: cut(&role.into(), NAME_BYTES_MAX) }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Items that found no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The value of a key of an entity.
    #[must_use]
    pub fn value(&self, kind: &str, entity: &str, key: &str) -> Option<&str> {
        let found = self.items.iter().find(|((k, e, name), _)| (*k, e.as_str(), *name) == (kind, entity, key));
        found.map(|(_, item)| item.value.as_str())
    }

    /// Kinds, entities, keys and items, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str, &'static str, &Item)> {
        self.items.iter().map(|((kind, entity, key), item)| (*kind, entity.as_str(), *key, item))
    }

    /// Everything of one entity leaves, to be read again.
    pub(crate) fn forget(&mut self, kind: &str, entity: &str) {
        self.items.retain(|(k, e, _), _| (*k, e.as_str()) != (kind, entity));
    }

    /// Takes from `before` what is seen only at times ([`inventory::is_kept`]), of entities that are still here.
    pub(crate) fn keep_from(&mut self, before: &Self) {
        let here: BTreeSet<String> = self.items.keys().map(|(_, entity, _)| entity.clone()).collect();
        for (place @ (kind, entity, key), item) in &before.items {
            if inventory::is_kept(kind, key) && here.contains(entity) && !self.items.contains_key(place) {
                self.items.insert(place.clone(), item.clone());
            }
        }
    }

    /// What became another since `before`. What came or went is no change of a value: the history has it.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (place @ (kind, entity, key), item) in &self.items {
            if let Some(old) = before.items.get(place)
                && old.value != item.value
                && let Some(key) = inventory::find(key)
            {
                changes.push(Change {
                    kind,
                    entity: entity.clone(),
                    key,
                    before: old.value.clone(),
                    after: item.value.clone(),
                    source: item.source.clone(),
                });
            }
        }
        changes
    }

    /// For the collector.
    #[must_use]
    pub fn state(&self) -> v1::InventoryState {
        let item = |((kind, entity, key), item): (&Place, &Item)| v1::InventoryItem {
            entity_kind: (*kind).to_owned(),
            entity: entity.clone(),
            key: (*key).to_owned(),
            value: item.value.clone(),
            source: item.source.clone(),
            role: item.role.clone(),
        };
        v1::InventoryState { items: self.items.iter().map(item).collect() }
    }
}

impl Of<'_> {
    /// One value, where there is one.
    pub(crate) fn put(&mut self, key: &'static str, value: Option<impl Into<String>>, source: &str) {
        debug_assert!(
            inventory::find(key).is_some_and(|key| key.entities.split(' ').any(|kind| kind == self.kind)),
            "{key} of a {} is in no row of the table",
            self.kind
        );
        let Some(value) = value.map(Into::into).filter(|value| !value.trim().is_empty()) else { return };
        let place = (self.kind, self.name.clone(), key);
        if self.items.items.len() >= INVENTORY_ITEMS_MAX && !self.items.items.contains_key(&place) {
            self.items.refused += 1;
            return;
        }
        let item = Item {
            role: self.role.clone(),
            value: cut(value.trim(), INVENTORY_VALUE_BYTES_MAX),
            source: cut(source, INVENTORY_VALUE_BYTES_MAX),
        };
        self.items.items.insert(place, item);
    }
}

/// The longest prefix of whole characters within `bytes_max`.
fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

/// Values with how many have each: "schedutil" where all agree, "performance (7), powersave (1)" where not.
pub(crate) fn tally(values: impl IntoIterator<Item = String>) -> Option<String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    if counts.len() <= 1 {
        return counts.into_keys().next();
    }
    let parts: Vec<_> = counts.into_iter().map(|(value, count)| format!("{value} ({count})")).collect();
    Some(parts.join(", "))
}

/// "on" or "off".
pub(crate) fn on_off(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(values: &[(&'static str, &str, &'static str, &str)]) -> Items {
        let mut items = Items::default();
        for (kind, entity, key, value) in values {
            items.of(kind, entity, "").put(key, Some(*value), "test");
        }
        items
    }

    #[test]
    fn only_a_value_that_became_another_is_a_change() {
        let before =
            items(&[("port", "eth0", "mtu", "1500"), ("port", "eth0", "driver", "x"), ("port", "eth1", "mtu", "9000")]);
        let after =
            items(&[("port", "eth0", "mtu", "9000"), ("port", "eth0", "driver", "x"), ("port", "eth2", "mtu", "1500")]);
        let changes = after.changes_since(&before);
        let told: Vec<_> = changes.iter().map(|c| (c.entity.as_str(), c.key.name, &*c.before, &*c.after)).collect();
        assert_eq!(told, [("eth0", "mtu", "1500", "9000")]);
    }

    #[test]
    fn what_is_beyond_the_bounds_is_cut_or_counted_and_nothing_is_absent_as_an_empty_value() {
        let mut items = Items::default();
        items.of("port", "eth0", "").put("mtu", Some(" "), "test");
        assert!(items.is_empty());
        items.of("port", &"é".repeat(300), "").put("mtu", Some("é".repeat(1000)), "test");
        let (_, name, _, item) = items.iter().next().expect("one");
        assert_eq!((name.len(), item.value.len()), (NAME_BYTES_MAX - 1, INVENTORY_VALUE_BYTES_MAX));
        for n in 0..INVENTORY_ITEMS_MAX + 5 {
            items.of("port", &n.to_string(), "").put("mtu", Some("1"), "test");
        }
        assert_eq!((items.len(), items.refused()), (INVENTORY_ITEMS_MAX, 6));
    }

    #[test]
    fn a_tally_names_each_value_once() {
        for (values, expected) in [(&["a", "a"][..], Some("a")), (&["b", "a", "b"], Some("a (1), b (2)")), (&[], None)]
        {
            assert_eq!(tally(values.iter().map(ToString::to_string)).as_deref(), expected);
        }
    }
}
