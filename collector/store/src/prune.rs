//! Keeps the store within bounds: the oldest goes first, a little at a time, and what goes is counted in the same transaction.

use crate::error::StoreError;
use crate::reader::signed;
use crate::writer::{Store, add_counts};
use railwatch_engine::Timestamp;
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Signals older than this go.
    pub signals_days: u64,
    /// The newest so many signals stay.
    pub signals_max: u64,
    /// Resolved incidents older than this go, with their decisions and orders.
    pub incidents_days: u64,
    /// The newest so many incidents stay; open ones always do.
    pub incidents_max: u64,
    /// The newest so many lines of the event log stay.
    pub events_max: u64,
    /// The event log takes at most about so many bytes.
    pub events_bytes_max: u64,
    /// Streams that one host may have had; the oldest beyond are forgotten.
    pub streams_per_host_max: u64,
    /// Values of an inventory that ceased to hold longer ago than this go; those that hold always stay.
    pub inventory_days: u64,
    /// The newest so many values that ceased to hold stay.
    pub inventory_max: u64,
    /// Facts of the map that ceased to hold longer ago than this go; those that hold always stay.
    pub map_days: u64,
    /// The newest so many facts that ceased to hold stay.
    pub map_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            signals_days: 30,
            signals_max: 2_000_000,
            incidents_days: 365,
            incidents_max: 200_000,
            events_max: 100_000,
            events_bytes_max: 256 << 20,
            streams_per_host_max: 8,
            inventory_days: 365,
            inventory_max: 1_000_000,
            map_days: 365,
            map_max: 1_000_000,
        }
    }
}

/// Rows that went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Signals.
    pub signals: u64,
    /// Incidents.
    pub incidents: u64,
    /// Lines of the event log.
    pub events: u64,
    /// Streams.
    pub streams: u64,
    /// Values of inventories.
    pub inventory: u64,
    /// Facts of the map.
    pub map: u64,
    /// There is more to prune: call again.
    pub more: bool,
}

/// Rows of one table that one call removes at most, so that no signal waits long behind it.
const CHUNK: i64 = 2_000;
const DAY_NS: u64 = 86_400_000_000_000;

impl Store {
    /// Removes some of what is beyond the bounds.
    pub fn prune(&mut self, retention: &Retention, now: Timestamp) -> Result<Pruned, StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::of(&path, source);
        let before = |days: u64| signed(now.0.saturating_sub(days.saturating_mul(DAY_NS)));
        let transaction = self.connection.transaction().map_err(failed)?;
        let delete = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
            transaction.execute(sql, params).map(|count| count as u64).map_err(failed)
        };
        let signals = delete(
            "DELETE FROM signals WHERE id IN (SELECT id FROM signals WHERE id <= (SELECT coalesce(max(id), 0) FROM signals) - ?1
             OR received < ?2 ORDER BY id LIMIT ?3)",
            params![signed(retention.signals_max), before(retention.signals_days), CHUNK],
        )?;
        for table in ["incidents", "decisions"] {
            delete(
                &format!(
                    "INSERT INTO counters (name, value) SELECT '{table}_numbered', coalesce(max(id), 0) FROM {table} WHERE true
                     ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
                ),
                params![],
            )?;
        }
        delete("DELETE FROM hosts WHERE last_heard < ?1", params![before(retention.signals_days)])?;
        // The inventory of a host goes with the host, one host at a time.
        let gone: Option<String> = transaction
            .query_row(
                "SELECT host FROM inventory_hosts WHERE host NOT IN (SELECT host FROM hosts) LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()
            .map_err(failed)?;
        let mut inventory_of_host = 0;
        if let Some(gone) = &gone {
            inventory_of_host = delete(
                "DELETE FROM inventory WHERE id IN (SELECT id FROM inventory WHERE host = ?1 LIMIT ?2)",
                params![gone, CHUNK],
            )?;
            if inventory_of_host < CHUNK as u64 {
                delete("DELETE FROM inventory_hosts WHERE host = ?1", params![gone])?;
            }
        }
        let inventory = delete(
            "DELETE FROM inventory WHERE id IN (SELECT id FROM inventory WHERE valid_to IS NOT NULL AND valid_to < ?1
             ORDER BY valid_to LIMIT ?2)",
            params![before(retention.inventory_days), CHUNK],
        )?;
        let over_many = delete(
            "DELETE FROM inventory WHERE id IN (SELECT id FROM inventory WHERE valid_to IS NOT NULL ORDER BY valid_to, id
             LIMIT max(0, min(?2, (SELECT count(*) FROM inventory WHERE valid_to IS NOT NULL) - ?1)))",
            params![signed(retention.inventory_max), CHUNK],
        )?;
        let old_facts = delete(
            "DELETE FROM map_facts WHERE id IN (SELECT id FROM map_facts WHERE valid_to IS NOT NULL AND valid_to < ?1
             ORDER BY valid_to LIMIT ?2)",
            params![before(retention.map_days), CHUNK],
        )?;
        let many_facts = delete(
            "DELETE FROM map_facts WHERE id IN (SELECT id FROM map_facts WHERE valid_to IS NOT NULL ORDER BY valid_to, id
             LIMIT max(0, min(?2, (SELECT count(*) FROM map_facts WHERE valid_to IS NOT NULL) - ?1)))",
            params![signed(retention.map_max), CHUNK],
        )?;
        let over = "SELECT id FROM incidents WHERE NOT open AND (id <= (SELECT coalesce(max(id), 0) FROM incidents) - ?1
             OR updated < ?2) AND id NOT IN (SELECT incident FROM decisions WHERE state = 'ordered') ORDER BY id LIMIT ?3";
        let bounds = params![signed(retention.incidents_max), before(retention.incidents_days), CHUNK];
        delete(
            &format!("DELETE FROM orders WHERE decision IN (SELECT id FROM decisions WHERE incident IN ({over}))"),
            bounds,
        )?;
        delete(&format!("DELETE FROM decisions WHERE incident IN ({over})"), bounds)?;
        let incidents = delete(&format!("DELETE FROM incidents WHERE id IN ({over})"), bounds)?;
        let events = delete(
            "DELETE FROM event_log WHERE id IN (SELECT id FROM event_log WHERE id <= (SELECT coalesce(max(id), 0) FROM event_log) - ?1
             ORDER BY id LIMIT ?2)",
            params![signed(retention.events_max), CHUNK],
        )?;
        let heavy = delete(
            "DELETE FROM event_log WHERE (SELECT coalesce(sum(bytes), 0) FROM event_log) > ?1
             AND id IN (SELECT id FROM event_log ORDER BY id LIMIT ?2)",
            params![signed(retention.events_bytes_max), CHUNK / 10],
        )?;
        let events = events + heavy;
        let streams: Vec<i64> = transaction
            .prepare_cached(
                "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY host ORDER BY used DESC, id DESC) AS rank FROM streams)
                 WHERE rank > ?1 LIMIT ?2",
            )
            .and_then(|mut statement| {
                statement
                    .query_map(params![signed(retention.streams_per_host_max), CHUNK], |row| row.get(0))?
                    .collect()
            })
            .map_err(failed)?;
        for row in &streams {
            delete("DELETE FROM streams WHERE id = ?1", params![row])?;
        }
        let pruned = Pruned {
            signals,
            incidents,
            events,
            streams: streams.len() as u64,
            inventory: inventory + inventory_of_host + over_many,
            map: old_facts + many_facts,
            more: heavy > 0
                || gone.is_some()
                || [signals, incidents, events, inventory, over_many, old_facts, many_facts].contains(&(CHUNK as u64)),
        };
        let counts = [
            ("signals_pruned", signals),
            ("incidents_pruned", incidents),
            ("events_pruned", events),
            ("streams_pruned", pruned.streams),
            ("inventory_pruned", pruned.inventory),
            ("map_pruned", pruned.map),
        ];
        add_counts(&transaction, counts.into_iter().filter(|(_, by)| *by > 0)).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        self.forget_streams(&streams);
        Ok(pruned)
    }
}
