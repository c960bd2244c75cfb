//! The tables, as a list of migrations: the n-th takes a store from schema n to n + 1. Never edited once released.

use crate::error::StoreError;
use rusqlite::Connection;
use std::path::Path;

/// "RLWT": marks the file as ours.
const APPLICATION_ID: i64 = 0x524c_5754;

const MIGRATIONS: [&str; 3] = [
    "
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE hosts (
    host TEXT PRIMARY KEY,
    boot_id TEXT NOT NULL,
    last_heard INTEGER NOT NULL,
    departed INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE streams (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    stream BLOB NOT NULL,
    acknowledged_through INTEGER NOT NULL,
    used INTEGER NOT NULL,
    UNIQUE (host, stream)
);

CREATE TABLE signals (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    host TEXT NOT NULL,
    received INTEGER NOT NULL,
    incident INTEGER,
    body TEXT NOT NULL,
    UNIQUE (stream, sequence)
);
CREATE INDEX signals_of_incident ON signals (incident, id) WHERE incident IS NOT NULL;

CREATE TABLE incidents (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    detector TEXT NOT NULL,
    severity INTEGER NOT NULL,
    open INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX incidents_open ON incidents (open, id);

CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    incident INTEGER NOT NULL,
    state TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX decisions_of_incident ON decisions (incident);
CREATE INDEX decisions_in_state ON decisions (state, id);

CREATE TABLE orders (
    key TEXT PRIMARY KEY,
    decision INTEGER NOT NULL,
    given INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    detail TEXT NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX orders_in_state ON orders (state);

CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    what TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;

CREATE TABLE event_log (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, now INTEGER NOT NULL,
    bytes INTEGER NOT NULL, body TEXT NOT NULL);
",
    "
CREATE TABLE inventory_hosts (host TEXT PRIMARY KEY, boot_id TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE inventory (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    entity_kind TEXT NOT NULL,
    entity TEXT NOT NULL,
    key TEXT NOT NULL,
    role TEXT NOT NULL,
    value TEXT,
    before TEXT,
    source TEXT NOT NULL,
    initial INTEGER NOT NULL,
    over_reboot INTEGER NOT NULL,
    valid_from INTEGER NOT NULL,
    valid_to INTEGER
);
CREATE UNIQUE INDEX inventory_now ON inventory (host, entity_kind, entity, key) WHERE valid_to IS NULL;
CREATE INDEX inventory_changes_of_host ON inventory (host, valid_from) WHERE initial = 0;
CREATE INDEX inventory_changes ON inventory (valid_from) WHERE initial = 0;
CREATE INDEX inventory_ended ON inventory (valid_to) WHERE valid_to IS NOT NULL;
",
    "
CREATE TABLE map_facts (
    id INTEGER PRIMARY KEY,
    fact TEXT NOT NULL,
    body TEXT,
    before TEXT,
    valid_from INTEGER NOT NULL,
    valid_to INTEGER
);
CREATE UNIQUE INDEX map_facts_now ON map_facts (fact) WHERE valid_to IS NULL;
CREATE INDEX map_facts_changes ON map_facts (valid_from);
CREATE INDEX map_facts_ended ON map_facts (valid_to) WHERE valid_to IS NOT NULL;
",
];

pub(crate) const KNOWN: i64 = MIGRATIONS.len() as i64;

/// Checks that the file is ours, of a schema known here and sound, and brings it to the newest schema.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::of(path, source);
    let number = |connection: &Connection, pragma: &str| {
        connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0))
    };
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let application = number(connection, "application_id").map_err(failed)?;
    if application != APPLICATION_ID && (tables > 0 || application != 0) {
        return Err(StoreError::Foreign { path: path.to_owned(), found: application });
    }
    let found = number(connection, "user_version").map_err(failed)?;
    if found > KNOWN {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known: KNOWN });
    }
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if said != "ok" {
        return Err(StoreError::Corrupt { path: path.to_owned(), detail: said });
    }
    for (number, migration) in (0i64..).zip(MIGRATIONS).filter(|(number, _)| *number >= found) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(migration).map_err(failed)?;
        transaction.pragma_update(None, "user_version", number + 1).map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
