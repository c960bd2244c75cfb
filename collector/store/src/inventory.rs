//! What was installed and set on every host, and since when: one row for each value, from the moment it was known to the moment it was
//! no longer so.
//!
//! In: a host's whole inventory, as it is told. Out: what holds now, and what changed. Only differences are written. A row carries
//! the value before it, so that a change is one row; what went leaves a row without a value. What is there when a host is first
//! heard of is no change. Never: a write for what is as it was.

use crate::error::StoreError;
use crate::reader::{self, Reader, signed, unsigned};
use railwatch_engine::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One value of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct InventoryItem {
    /// Kind of the entity: "port".
    pub entity_kind: String,
    /// Its name: "eth0".
    pub entity: String,
    /// "mtu".
    pub key: String,
    /// What entities of its kind it is compared with.
    pub role: String,
    /// As the host reads it.
    pub value: String,
    /// Where it read it.
    pub source: String,
}

/// The whole inventory of a host.
#[derive(Clone, Debug)]
pub struct HostInventory {
    /// Which host.
    pub host: String,
    /// Its running boot.
    pub boot_id: String,
    /// When it arrived.
    pub at: Timestamp,
    /// All of it.
    pub items: Vec<InventoryItem>,
    /// Of a kind of entity and a key: its absence is no news, as long as something of its entity's name is there.
    pub is_kept: fn(&str, &str) -> bool,
}

/// A value that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InventoryRow {
    /// Which host.
    pub host: String,
    /// Kind of the entity.
    pub entity_kind: String,
    /// Its name; empty where the host is the entity.
    pub entity: String,
    /// What it is compared with.
    pub role: String,
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Where the host reads it.
    pub source: String,
    /// Since when it is known.
    pub since: Timestamp,
}

/// A value that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InventoryChange {
    /// When it was known.
    pub at: Timestamp,
    /// Which host.
    pub host: String,
    /// Kind of the entity.
    pub entity_kind: String,
    /// Its name.
    pub entity: String,
    /// The key.
    pub key: String,
    /// The value before; `None`: there was none.
    pub before: Option<String>,
    /// The value then; `None`: it went.
    pub after: Option<String>,
    /// The host had another boot before.
    pub over_reboot: bool,
    /// Where the host reads it.
    pub source: String,
}

/// Which values. Texts with `*`, `?` and `[...]` are patterns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InventoryFilter {
    /// Of this host.
    pub host: Option<String>,
    /// Of entities of this name, or of this kind.
    pub entity: Option<String>,
    /// Of keys of this name.
    pub key: Option<String>,
    /// At most so many; 0: the most there can be.
    pub limit: u64,
}

/// Which changes. Newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChangeFilter {
    /// Of this host.
    pub host: Option<String>,
    /// Of keys of this name; a pattern as in [`InventoryFilter`].
    pub key: Option<String>,
    /// At or after this.
    pub since: Option<Timestamp>,
    /// At or before this.
    pub until: Option<Timestamp>,
    /// At most so many; 0: the most there can be.
    pub limit: u64,
}

struct Held {
    id: i64,
    role: String,
    value: String,
    source: String,
}

/// Writes what is otherwise than stored. Returns the rows of changes, those of a first inventory not counted.
pub(crate) fn write(transaction: &Transaction<'_>, new: &HostInventory, path: &Path) -> Result<u64, StoreError> {
    let failed = |source| StoreError::of(path, source);
    let HostInventory { host, boot_id, at, items, is_kept } = new;
    let boot_before: Option<String> = transaction
        .prepare_cached("SELECT boot_id FROM inventory_hosts WHERE host = ?1")
        .and_then(|mut statement| statement.query_row([host], |row| row.get(0)).optional())
        .map_err(failed)?;
    let is_first = boot_before.is_none();
    let over_reboot = boot_before.as_ref().is_some_and(|before| before != boot_id);
    if boot_before.as_ref() != Some(boot_id) {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO inventory_hosts (host, boot_id) VALUES (?1, ?2)")
            .and_then(|mut statement| statement.execute(params![host, boot_id]))
            .map_err(failed)?;
    }
    let mut held = held(transaction, host).map_err(failed)?;
    let at = signed(at.0);
    let end = |id: i64| {
        transaction
            .prepare_cached("UPDATE inventory SET valid_to = ?2 WHERE id = ?1")
            .and_then(|mut statement| statement.execute(params![id, at]))
            .map_err(failed)
    };
    let begin = |kind: &str, entity: &str, key: &str, now: &Now<'_>, before: Option<&str>| {
        transaction
            .prepare_cached(
                "INSERT INTO inventory (host, entity_kind, entity, key, role, value, before, source, initial, over_reboot, valid_from, valid_to)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )
            .and_then(|mut statement| {
                let ended = now.value.is_none().then_some(at);
                statement.execute(params![
                    host, kind, entity, key, now.role, now.value, before, now.source, is_first, over_reboot, at, ended
                ])
            })
            .map_err(failed)
    };
    let mut changes = 0;
    for InventoryItem { entity_kind, entity, key, role, value, source } in items {
        let before = held.remove(&(entity_kind.clone(), entity.clone(), key.clone()));
        let now = Now { role, value: Some(value), source };
        match before {
            Some(before) if before.value == *value => {
                if before.role != *role {
                    transaction
                        .prepare_cached("UPDATE inventory SET role = ?2 WHERE id = ?1")
                        .and_then(|mut statement| statement.execute(params![before.id, role]))
                        .map_err(failed)?;
                }
            }
            Some(before) => {
                end(before.id)?;
                begin(entity_kind, entity, key, &now, Some(&before.value))?;
                changes += 1;
            }
            None => {
                begin(entity_kind, entity, key, &now, None)?;
                changes += u64::from(!is_first);
            }
        }
    }
    let here: BTreeSet<&str> = items.iter().map(|item| item.entity.as_str()).collect();
    for ((entity_kind, entity, key), before) in held {
        if is_kept(&entity_kind, &key) && here.contains(entity.as_str()) {
            continue;
        }
        end(before.id)?;
        let now = Now { role: &before.role, value: None, source: &before.source };
        begin(&entity_kind, &entity, &key, &now, Some(&before.value))?;
        changes += 1;
    }
    Ok(changes)
}

struct Now<'a> {
    role: &'a str,
    value: Option<&'a str>,
    source: &'a str,
}

fn held(transaction: &Transaction<'_>, host: &str) -> rusqlite::Result<BTreeMap<(String, String, String), Held>> {
    let mut statement = transaction.prepare_cached(
        "SELECT entity_kind, entity, key, id, role, value, source FROM inventory WHERE host = ?1 AND valid_to IS NULL",
    )?;
    let rows = statement.query_map([host], |row| {
        let held = Held { id: row.get(3)?, role: row.get(4)?, value: row.get(5)?, source: row.get(6)? };
        Ok(((row.get(0)?, row.get(1)?, row.get(2)?), held))
    })?;
    rows.collect()
}

impl Reader {
    /// What holds, by host, entity and key.
    pub fn inventory(&self, filter: &InventoryFilter) -> Result<Vec<InventoryRow>, StoreError> {
        let InventoryFilter { host, entity, key, limit } = filter;
        // A host that is named is looked up by the index.
        let by_host = if host.is_some() { "host = ?1" } else { "?1 IS NULL" };
        self.rows(
            &format!(
                "SELECT host, entity_kind, entity, role, key, value, source, valid_from FROM inventory
                 WHERE valid_to IS NULL AND {by_host} AND (?2 IS NULL OR entity GLOB ?2 OR entity_kind GLOB ?2)
                 AND (?3 IS NULL OR key GLOB ?3) ORDER BY host, entity_kind, entity, key LIMIT ?4"
            ),
            params![host, entity, key, reader::rows(*limit)],
            |row| {
                Ok(InventoryRow {
                    host: row.get(0)?,
                    entity_kind: row.get(1)?,
                    entity: row.get(2)?,
                    role: row.get(3)?,
                    key: row.get(4)?,
                    value: row.get(5)?,
                    source: row.get(6)?,
                    since: Timestamp(unsigned(row.get(7)?)),
                })
            },
        )
    }

    /// What changed, newest first.
    pub fn inventory_changes(&self, filter: &ChangeFilter) -> Result<Vec<InventoryChange>, StoreError> {
        let ChangeFilter { host, key, since, until, limit } = filter;
        let by_host = if host.is_some() { "host = ?1" } else { "?1 IS NULL" };
        self.rows(
            &format!(
                "SELECT valid_from, host, entity_kind, entity, key, before, value, over_reboot, source FROM inventory
                 WHERE initial = 0 AND {by_host} AND (?2 IS NULL OR key GLOB ?2) AND valid_from >= ?3 AND valid_from <= ?4
                 ORDER BY valid_from DESC, id LIMIT ?5"
            ),
            params![
                host,
                key,
                signed(since.unwrap_or(Timestamp(0)).0),
                signed(until.unwrap_or(Timestamp(u64::MAX)).0),
                reader::rows(*limit)
            ],
            |row| {
                Ok(InventoryChange {
                    at: Timestamp(unsigned(row.get(0)?)),
                    host: row.get(1)?,
                    entity_kind: row.get(2)?,
                    entity: row.get(3)?,
                    key: row.get(4)?,
                    before: row.get(5)?,
                    after: row.get(6)?,
                    over_reboot: row.get(7)?,
                    source: row.get(8)?,
                })
            },
        )
    }
}
