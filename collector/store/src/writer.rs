//! The one writer: opens the file, knows how far each stream is acknowledged, commits batches.

use crate::batch::{Batch, StreamId, frame_name};
use crate::error::StoreError;
use crate::former::{self, Former};
use crate::inventory;
use crate::map;
use crate::reader::{self, OrderState, Reader};
use crate::schema;
use railwatch_engine::{IncidentState, Order, Restored, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for a lock that a reader's checkpoint may hold.
const BUSY: Duration = Duration::from_secs(2);
/// Hosts heard within this time of the start are expected back.
const HOST_EXPECTED_NS: u64 = 3_600_000_000_000;
/// Orders given within this time count for rates and cooldowns.
const ORDERS_REMEMBERED_NS: u64 = 24 * HOST_EXPECTED_NS;

struct Stream {
    stream: StreamId,
    row: i64,
    through: u64,
}

/// The store's writer. One per file: a second one is refused.
pub struct Store {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    streams: BTreeMap<String, Vec<Stream>>,
    epoch: u64,
    installation: String,
    former: Option<Former>,
    _lock: File,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Streams whose acknowledgement moved.
    pub streams: usize,
    /// Signals stored.
    pub signals: usize,
    /// Changes of inventories stored; those of hosts heard of for the first time are none.
    pub inventory_changes: u64,
}

impl Store {
    /// Opens or makes the store, checks it, brings its schema up to date, and begins a new epoch.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let failed = |source| StoreError::of(path, source);
        let mut connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        schema::migrate(&mut connection, path)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF;
                 PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -16384;",
            )
            .map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);

        let transaction = connection.transaction().map_err(failed)?;
        // SQLite's own randomness: the name is made once, and outlives every process.
        transaction
            .execute("INSERT OR IGNORE INTO meta VALUES ('installation', 'rw' || lower(hex(randomblob(6))))", [])
            .map_err(failed)?;
        transaction
            .execute(
                "INSERT INTO meta VALUES ('epoch', '1')
                 ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)",
                [],
            )
            .map_err(failed)?;
        let meta = |name: &str| {
            transaction.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get::<_, String>(0))
        };
        let installation = meta("installation").map_err(failed)?;
        let epoch = meta("epoch").map_err(failed)?.parse::<u64>().map_err(|error| StoreError::Unreadable {
            path: path.to_owned(),
            what: "the epoch".to_owned(),
            detail: error.to_string(),
        })?;
        let former = former::take_over(&transaction, epoch).map_err(failed)?;
        let streams = read_streams(&transaction).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(Self { connection, path: path.to_owned(), streams, epoch, installation, former, _lock: lock })
    }

    /// Grows by one with each opening.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The collector that had the store before this one; `None` where the store is new.
    pub fn former(&self) -> Option<Former> {
        self.former
    }

    /// Where the store lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every frame of the stream up to here is stored; 0 where none is.
    pub fn acknowledged_through(&self, host: &str, stream: &StreamId) -> u64 {
        self.streams
            .get(host)
            .and_then(|streams| streams.iter().find(|known| known.stream == *stream))
            .map_or(0, |known| known.through)
    }

    /// A reader with a connection of its own.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.path)
    }

    /// What a new engine takes over.
    pub fn restore(&self, at: Timestamp, halted_by: Option<String>) -> Result<Restored, StoreError> {
        let failed = |source| StoreError::of(&self.path, source);
        let reader = self.reader()?;
        // Identifiers are never used twice, even where the rows are gone: idempotency keys are made of them.
        let next = |table: &str| {
            let sql = format!(
                "SELECT 1 + max((SELECT coalesce(max(id), 0) FROM {table}),
                 (SELECT coalesce(max(value), 0) FROM counters WHERE name = '{table}_numbered'))"
            );
            self.connection.query_row(&sql, [], |row| row.get::<_, i64>(0))
        };
        Ok(Restored {
            at,
            epoch: self.epoch,
            installation: self.installation.clone(),
            next_incident: reader::unsigned(next("incidents").map_err(failed)?),
            next_decision: reader::unsigned(next("decisions").map_err(failed)?),
            halted_by,
            incidents: reader.open_incidents()?,
            decisions: reader.live_decisions()?,
            orders: reader.past_orders(Timestamp(at.0.saturating_sub(ORDERS_REMEMBERED_NS)))?,
            hosts: reader.known_hosts(Timestamp(at.0.saturating_sub(HOST_EXPECTED_NS)))?,
        })
    }

    /// Orders given and not finished, oldest first, now of this epoch: to be carried out with the same keys.
    pub fn resume_orders(&mut self) -> Result<Vec<(Order, u32)>, StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::of(&path, source);
        let pending = self.reader()?.pending_orders()?;
        let transaction = self.connection.transaction().map_err(failed)?;
        let mut orders = Vec::new();
        for row in pending {
            let order = Order { epoch: self.epoch, ..row.order };
            let body = json(&path, "an order", &order)?;
            transaction
                .execute("UPDATE orders SET body = ?2 WHERE key = ?1", params![order.idempotency_key, body])
                .map_err(failed)?;
            orders.push((order, row.attempts));
        }
        transaction.commit().map_err(failed)?;
        Ok(orders)
    }

    /// Stores the whole batch or nothing of it. May be tried again with the same batch after an error.
    pub fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        let path = self.path.clone();
        let mut new_rows = Vec::new();
        let transaction = self.connection.transaction().map_err(|source| StoreError::of(&path, source))?;
        write(&transaction, batch, &self.streams, self.epoch, &path, &mut new_rows)?;
        let mut inventory_changes = 0;
        for inventory in &batch.inventories {
            inventory_changes += inventory::write(&transaction, inventory, &path)?;
        }
        if inventory_changes > 0 {
            let count = [("inventory_changes", inventory_changes)];
            add_counts(&transaction, count.into_iter()).map_err(|source| StoreError::of(&path, source))?;
        }
        let map_changes = map::write(&transaction, &batch.map_changes, &path)?;
        if map_changes > 0 {
            let count = [("map_changes", map_changes)];
            add_counts(&transaction, count.into_iter()).map_err(|source| StoreError::of(&path, source))?;
        }
        transaction.commit().map_err(|source| StoreError::of(&path, source))?;
        for ((host, stream), through) in &batch.streams {
            let known = self.streams.entry(host.clone()).or_default();
            if let Some(known) = known.iter_mut().find(|known| known.stream == *stream) {
                known.through = *through;
            } else if let Some((_, _, row)) = new_rows.iter().find(|(h, s, _)| h == host && s == stream) {
                known.push(Stream { stream: *stream, row: *row, through: *through });
            }
        }
        Ok(Committed { streams: batch.streams.len(), signals: batch.signals.len(), inventory_changes })
    }

    pub(crate) fn forget_streams(&mut self, rows: &[i64]) {
        for streams in self.streams.values_mut() {
            streams.retain(|stream| !rows.contains(&stream.row));
        }
        self.streams.retain(|_, streams| !streams.is_empty());
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|source| StoreError::File { path: lock_path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(StoreError::File { path: lock_path, source }),
    }
}

fn read_streams(transaction: &Transaction<'_>) -> rusqlite::Result<BTreeMap<String, Vec<Stream>>> {
    let mut statement = transaction.prepare("SELECT id, host, stream, acknowledged_through FROM streams")?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get::<_, String>(1)?,
            Stream { row: row.get(0)?, stream: row.get(2)?, through: reader::unsigned(row.get(3)?) },
        ))
    })?;
    let mut streams: BTreeMap<String, Vec<Stream>> = BTreeMap::new();
    for row in rows {
        let (host, stream) = row?;
        streams.entry(host).or_default().push(stream);
    }
    Ok(streams)
}

fn json<T: serde::Serialize>(path: &Path, what: &str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Unreadable {
        path: path.to_owned(),
        what: what.to_owned(),
        detail: error.to_string(),
    })
}

type NewStream = (String, StreamId, i64);

fn write(
    transaction: &Transaction<'_>,
    batch: &Batch,
    streams: &BTreeMap<String, Vec<Stream>>,
    epoch: u64,
    path: &Path,
    new_rows: &mut Vec<NewStream>,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::of(path, source);
    let signed = reader::signed;
    let row_of = |host: &str, stream: &StreamId, new_rows: &[NewStream]| {
        streams
            .get(host)
            .and_then(|known| known.iter().find(|known| known.stream == *stream))
            .map(|known| known.row)
            .or_else(|| new_rows.iter().rev().find(|(h, s, _)| h == host && s == stream).map(|(_, _, row)| *row))
    };
    for ((host, stream), through) in &batch.streams {
        match row_of(host, stream, &[]) {
            Some(row) => {
                transaction
                    .prepare_cached("UPDATE streams SET acknowledged_through = ?2, used = ?3 WHERE id = ?1")
                    .and_then(|mut statement| statement.execute(params![row, signed(*through), signed(batch.used.0)]))
                    .map_err(failed)?;
            }
            None => {
                transaction
                    .prepare_cached(
                        "INSERT INTO streams (host, stream, acknowledged_through, used) VALUES (?1, ?2, ?3, ?4)",
                    )
                    .and_then(|mut statement| {
                        statement.execute(params![host, stream, signed(*through), signed(batch.used.0)])
                    })
                    .map_err(failed)?;
                new_rows.push((host.clone(), *stream, transaction.last_insert_rowid()));
            }
        }
    }
    let mut joined = batch.joined.clone();
    for new in &batch.signals {
        let Some(row) = row_of(&new.host, &new.stream, new_rows) else { continue };
        let incident = joined.remove(&frame_name(&new.host, &new.stream, new.sequence)).or(new.incident);
        let body = json(path, "a signal", &new.signal)?;
        transaction
            .prepare_cached(
                "INSERT INTO signals (stream, sequence, host, received, incident, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    row,
                    signed(new.sequence),
                    new.host,
                    signed(new.received.0),
                    incident.map(signed),
                    body
                ])
            })
            .map_err(failed)?;
    }
    // Frames stored earlier that only now belong to an incident.
    for (frame, incident) in &joined {
        let Some((host, stream, sequence)) = parse_frame(frame) else { continue };
        let Some(row) = row_of(host, &stream, new_rows) else { continue };
        transaction
            .prepare_cached("UPDATE signals SET incident = ?3 WHERE stream = ?1 AND sequence = ?2")
            .and_then(|mut statement| statement.execute(params![row, signed(sequence), signed(*incident)]))
            .map_err(failed)?;
    }
    for incident in batch.incidents.values() {
        let body = json(path, "an incident", incident)?;
        transaction
            .prepare_cached(
                "INSERT INTO incidents (id, host, detector, severity, open, updated, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET host = ?2, severity = ?4, open = ?5, updated = ?6, body = ?7",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    signed(incident.id),
                    incident.element.host,
                    incident.detector,
                    incident.severity as i64,
                    incident.state == IncidentState::Open,
                    signed(incident.updated.0),
                    body
                ])
            })
            .map_err(failed)?;
    }
    for decision in batch.decisions.values() {
        let body = json(path, "a decision", decision)?;
        transaction
            .prepare_cached(
                "INSERT INTO decisions (id, incident, state, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET state = ?3, body = ?4",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    signed(decision.id),
                    signed(decision.incident),
                    reader::state_name(&decision.state),
                    body
                ])
            })
            .map_err(failed)?;
    }
    for (given, order) in &batch.orders {
        let body = json(path, "an order", order)?;
        transaction
            .prepare_cached(
                "INSERT INTO orders (key, decision, given, state, attempts, detail, body) VALUES (?1, ?2, ?3, ?4, 0, '', ?5)
                 ON CONFLICT (key) DO UPDATE SET given = ?3, state = ?4, body = ?5",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    order.idempotency_key,
                    signed(order.decision),
                    signed(given.0),
                    OrderState::Pending.name(),
                    body
                ])
            })
            .map_err(failed)?;
    }
    for (key, state, attempts, detail) in &batch.order_states {
        transaction
            .prepare_cached("UPDATE orders SET state = ?2, attempts = max(attempts, ?3), detail = ?4 WHERE key = ?1")
            .and_then(|mut statement| statement.execute(params![key, state.name(), attempts, detail]))
            .map_err(failed)?;
    }
    for entry in &batch.audit {
        transaction
            .prepare_cached("INSERT INTO audit (at, actor, what, detail) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut statement| {
                statement.execute(params![signed(entry.at.0), entry.actor, entry.what, entry.detail])
            })
            .map_err(failed)?;
    }
    for host in batch.hosts.values() {
        transaction
            .prepare_cached(
                "INSERT INTO hosts (host, boot_id, last_heard, departed) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (host) DO UPDATE SET boot_id = ?2, last_heard = ?3, departed = ?4",
            )
            .and_then(|mut statement| {
                statement.execute(params![host.host, host.boot_id, signed(host.last_heard.0), host.departed])
            })
            .map_err(failed)?;
    }
    for (now, line) in &batch.log {
        let body = json(path, "a line of the event log", line)?;
        transaction
            .prepare_cached("INSERT INTO event_log (epoch, now, bytes, body) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut statement| {
                statement.execute(params![signed(epoch), signed(now.0), signed(body.len() as u64), body])
            })
            .map_err(failed)?;
    }
    if let Some(at) = batch.end {
        former::leave(transaction, at).map_err(failed)?;
    }
    add_counts(transaction, batch.counts.iter().map(|(name, by)| (*name, *by))).map_err(failed)
}

pub(crate) fn add_counts<'a>(
    transaction: &Transaction<'_>,
    counts: impl Iterator<Item = (&'a str, u64)>,
) -> rusqlite::Result<()> {
    for (name, by) in counts {
        transaction
            .prepare_cached(
                "INSERT INTO counters (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + ?2",
            )?
            .execute(params![name, reader::signed(by)])?;
    }
    Ok(())
}

fn parse_frame(name: &str) -> Option<(&str, StreamId, u64)> {
    let (rest, sequence) = name.rsplit_once('/')?;
    let (host, stream) = rest.rsplit_once('/')?;
    let mut id = [0u8; 16];
    if stream.len() != 32 {
        return None;
    }
    for (byte, text) in id.iter_mut().zip(stream.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()?;
    }
    Some((host, id, sequence.parse().ok()?))
}

impl Store {
    /// The decision of that identifier, whatever its state.
    pub fn decision(&self, id: u64) -> Result<Option<railwatch_engine::Decision>, StoreError> {
        let body: Option<String> = self
            .connection
            .query_row("SELECT body FROM decisions WHERE id = ?1", [reader::signed(id)], |row| row.get(0))
            .optional()
            .map_err(|source| StoreError::of(&self.path, source))?;
        body.map(|body| reader::parse(&self.path, "a decision", &body)).transpose()
    }
}
