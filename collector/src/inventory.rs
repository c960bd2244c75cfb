//! Inventories of hosts: what of them is compared, and who differs from its peers.
//!
//! In: each host's whole inventory as it arrives. Out: a [`Compact`] copy for live state; rows for the store; [`drift`], and its signals.
//! History is the store's. Never: a judgement of what a value means: the majority is right here, and nobody else.

mod compact;
pub mod drift;
mod follow;
mod tell;

pub use compact::{Compact, Inventories};
pub use follow::{Standing, follow};
pub use tell::SIGNALS;

use railwatch_store::InventoryItem;
use railwatch_wire::v1;

/// As the store takes it.
pub fn stored(inventory: v1::InventoryState) -> Vec<InventoryItem> {
    let item = |item: v1::InventoryItem| {
        let v1::InventoryItem { entity_kind, entity, key, value, source, role } = item;
        InventoryItem { entity_kind, entity, key, role, value, source }
    };
    inventory.items.into_iter().map(item).collect()
}
