//! What the map of the fabric was: one row for each fact, from the moment it was known to the moment it was no longer so.
//!
//! In: changes. Out: the facts that held at an instant, and what changed between two. A row carries what it said before, so that a change is
//! one row; a fact that ceased leaves a row without a body. What a fact says is text here: the engine reads it.

use crate::error::StoreError;
use crate::reader::{self, Reader, signed, unsigned};
use railwatch_engine::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};
use std::path::Path;

/// A fact that begins, changes or ceases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapChange {
    /// When it was known.
    pub at: Timestamp,
    /// `link/leaf1:eth3-spine0:eth1`, …
    pub fact: String,
    /// What it says; `None`: it ceased.
    pub body: Option<String>,
}

/// A fact that holds, or held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRow {
    /// Its name.
    pub fact: String,
    /// What it says.
    pub body: String,
    /// Since when it says so.
    pub since: Timestamp,
}

/// A stored change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapChanged {
    /// When it was known.
    pub at: Timestamp,
    /// Which fact.
    pub fact: String,
    /// What it said before; `None`: it was not.
    pub before: Option<String>,
    /// What it said then; `None`: it ceased.
    pub after: Option<String>,
}

/// Writes changes, in their order. One of a fact that says what it said is none.
pub(crate) fn write(transaction: &Transaction<'_>, changes: &[MapChange], path: &Path) -> Result<u64, StoreError> {
    let mut written = 0;
    for change in changes {
        written += write_one(transaction, change).map_err(|source| StoreError::of(path, source))?;
    }
    Ok(written)
}

fn write_one(transaction: &Transaction<'_>, change: &MapChange) -> rusqlite::Result<u64> {
    let MapChange { at, fact, body } = change;
    let at = signed(at.0);
    let held: Option<(i64, String)> = transaction
        .prepare_cached("SELECT id, body FROM map_facts WHERE fact = ?1 AND valid_to IS NULL")?
        .query_row([fact], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let before = held.as_ref().map(|(_, before)| before);
    if before == body.as_ref() {
        return Ok(0);
    }
    if let Some((id, _)) = &held {
        transaction.prepare_cached("UPDATE map_facts SET valid_to = ?2 WHERE id = ?1")?.execute(params![id, at])?;
    }
    let ended = body.is_none().then_some(at);
    transaction
        .prepare_cached("INSERT INTO map_facts (fact, body, before, valid_from, valid_to) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![fact, body, before, at, ended])?;
    Ok(1)
}

impl Reader {
    /// The facts that held at an instant, by name.
    pub fn map_at(&self, at: Timestamp) -> Result<Vec<MapRow>, StoreError> {
        self.rows(
            "SELECT fact, body, valid_from FROM map_facts WHERE body IS NOT NULL AND valid_from <= ?1
             AND (valid_to IS NULL OR valid_to > ?1) ORDER BY fact",
            [signed(at.0)],
            |row| Ok(MapRow { fact: row.get(0)?, body: row.get(1)?, since: Timestamp(unsigned(row.get(2)?)) }),
        )
    }

    /// The first instant of which anything is kept.
    pub fn map_since(&self) -> Result<Option<Timestamp>, StoreError> {
        let found = self.rows("SELECT min(valid_from) FROM map_facts", [], |row| row.get::<_, Option<i64>>(0))?;
        Ok(found.into_iter().flatten().next().map(|at| Timestamp(unsigned(at))))
    }

    /// What changed after one instant and up to another, oldest first, at most so many.
    pub fn map_changes(&self, after: Timestamp, until: Timestamp, limit: u64) -> Result<Vec<MapChanged>, StoreError> {
        self.rows(
            "SELECT valid_from, fact, before, body FROM map_facts WHERE valid_from > ?1 AND valid_from <= ?2
             ORDER BY valid_from, id LIMIT ?3",
            params![signed(after.0), signed(until.0), reader::rows(limit)],
            |row| {
                Ok(MapChanged {
                    at: Timestamp(unsigned(row.get(0)?)),
                    fact: row.get(1)?,
                    before: row.get(2)?,
                    after: row.get(3)?,
                })
            },
        )
    }
}
