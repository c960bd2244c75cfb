//! Reads beside the writer, on a connection that cannot write.

use crate::batch::StreamId;
use crate::error::StoreError;
use railwatch_engine::{
    AuditEntry, Decision, DecisionState, Incident, KnownHost, Logged, Order, PastOrder, Severity, Signal, Timestamp,
};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row, ToSql, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rows that one query gives at most.
const ROWS_MAX: u64 = 10_000;

/// Which incidents. Newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IncidentFilter {
    /// Only open (true) or resolved (false) ones.
    pub open: Option<bool>,
    /// Only of this host.
    pub host: Option<String>,
    /// Only of this detector.
    pub detector: Option<String>,
    /// At least this bad.
    pub severity_min: Option<Severity>,
    /// Only identifiers below this: the next page.
    pub before: Option<u64>,
    /// At most so many; 0: the most there can be.
    pub limit: u64,
}

/// Which decisions. Newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecisionFilter {
    /// Only in this state.
    pub state: Option<DecisionState>,
    /// Only of this incident.
    pub incident: Option<u64>,
    /// Only identifiers below this: the next page.
    pub before: Option<u64>,
    /// At most so many; 0: the most there can be.
    pub limit: u64,
}

/// Which lines of the audit. Oldest first from `after`, else the newest, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditFilter {
    /// Only identifiers above this, oldest first.
    pub after: Option<u64>,
    /// At most so many; 0: the most there can be.
    pub limit: u64,
}

/// Which signals. Newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SignalFilter {
    /// Only of this incident.
    pub incident: Option<u64>,
    /// Only of this host.
    pub host: Option<String>,
    /// Only identifiers below this: the next page.
    pub before: Option<u64>,
    /// At most so many; 0: the most there can be.
    pub limit: u64,
}

/// A signal as stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredSignal {
    /// Counted by the store.
    pub id: u64,
    /// Sequence within its stream.
    pub sequence: u64,
    /// When it arrived.
    pub received: Timestamp,
    /// The incident it belongs to.
    pub incident: Option<u64>,
    /// The signal.
    pub signal: Signal,
}

/// How far an order came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// Given; not tried yet.
    Pending,
    /// Tried: it may have arrived.
    Sending,
    /// Carried out.
    Done,
    /// Given up.
    Failed,
    /// Held back.
    Withheld,
}

impl OrderState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Withheld => "withheld",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Pending, Self::Sending, Self::Done, Self::Failed, Self::Withheld].into_iter().find(|s| s.name() == name)
    }
}

/// An order as stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OrderRow {
    /// The order.
    pub order: Order,
    /// When it was given.
    pub given: Timestamp,
    /// How far it came.
    pub state: OrderState,
    /// Times it was sent.
    pub attempts: u32,
    /// What was answered last.
    pub detail: String,
}

/// How much the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Bytes of the database file.
    pub bytes: u64,
    /// Open incidents.
    pub incidents_open: u64,
    /// All incidents kept.
    pub incidents: u64,
    /// Decisions waiting for a person.
    pub decisions_proposed: u64,
    /// Everything ever counted, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A read-only connection. It may be moved between threads and not shared between them.
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens a store that a writer opened before.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::of(path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(2)).map_err(failed)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Incidents, newest first.
    pub fn incidents(&self, filter: &IncidentFilter) -> Result<Vec<Incident>, StoreError> {
        let IncidentFilter { open, host, detector, severity_min, before, limit } = filter;
        self.bodies(
            "an incident",
            "SELECT body FROM incidents WHERE (?1 IS NULL OR open = ?1) AND (?2 IS NULL OR host = ?2)
             AND (?3 IS NULL OR detector = ?3) AND (?4 IS NULL OR severity >= ?4) AND (?5 IS NULL OR id < ?5)
             ORDER BY id DESC LIMIT ?6",
            params![
                open,
                host,
                detector,
                severity_min.map(|severity| severity as i64),
                before.map(signed),
                rows(*limit)
            ],
        )
    }

    /// One incident.
    pub fn incident(&self, id: u64) -> Result<Option<Incident>, StoreError> {
        self.body("an incident", "SELECT body FROM incidents WHERE id = ?1", [signed(id)])
    }

    /// Decisions, newest first.
    pub fn decisions(&self, filter: &DecisionFilter) -> Result<Vec<Decision>, StoreError> {
        let DecisionFilter { state, incident, before, limit } = filter;
        self.bodies(
            "a decision",
            "SELECT body FROM decisions WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR incident = ?2)
             AND (?3 IS NULL OR id < ?3) ORDER BY id DESC LIMIT ?4",
            params![state.as_ref().map(state_name), incident.map(signed), before.map(signed), rows(*limit)],
        )
    }

    /// One decision.
    pub fn decision(&self, id: u64) -> Result<Option<Decision>, StoreError> {
        self.body("a decision", "SELECT body FROM decisions WHERE id = ?1", [signed(id)])
    }

    /// Orders of a decision, or of all, newest first.
    pub fn orders(&self, decision: Option<u64>, limit: u64) -> Result<Vec<OrderRow>, StoreError> {
        self.order_rows(
            "SELECT given, state, attempts, detail, body FROM orders WHERE (?1 IS NULL OR decision = ?1)
             ORDER BY given DESC LIMIT ?2",
            params![decision.map(signed), rows(limit)],
        )
    }

    /// Lines of the audit with their identifiers.
    pub fn audit(&self, filter: &AuditFilter) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        let entry = |row: &Row<'_>| {
            Ok((
                unsigned(row.get(0)?),
                AuditEntry {
                    at: Timestamp(unsigned(row.get(1)?)),
                    actor: row.get(2)?,
                    what: row.get(3)?,
                    detail: row.get(4)?,
                },
            ))
        };
        let columns = "SELECT id, at, actor, what, detail FROM audit";
        match filter.after {
            Some(after) => self.rows(
                &format!("{columns} WHERE id > ?1 ORDER BY id LIMIT ?2"),
                params![signed(after), rows(filter.limit)],
                entry,
            ),
            None => self.rows(&format!("{columns} ORDER BY id DESC LIMIT ?1"), [rows(filter.limit)], entry),
        }
    }

    /// Signals, newest first.
    pub fn signals(&self, filter: &SignalFilter) -> Result<Vec<StoredSignal>, StoreError> {
        let SignalFilter { incident, host, before, limit } = filter;
        // Each filter of its own: SQLite uses an index only for a condition that is always there.
        let by_incident = if incident.is_some() { "incident = ?1" } else { "?1 IS NULL" };
        let found = self.rows(
            &format!(
                "SELECT id, sequence, received, incident, body FROM signals WHERE {by_incident}
                 AND (?2 IS NULL OR host = ?2) AND (?3 IS NULL OR id < ?3) ORDER BY id DESC LIMIT ?4"
            ),
            params![incident.map(signed), host, before.map(signed), rows(*limit)],
            |row| {
                Ok((
                    unsigned(row.get(0)?),
                    unsigned(row.get(1)?),
                    Timestamp(unsigned(row.get(2)?)),
                    row.get::<_, Option<i64>>(3)?.map(unsigned),
                    row.get::<_, String>(4)?,
                ))
            },
        )?;
        found
            .into_iter()
            .map(|(id, sequence, received, incident, body)| {
                Ok(StoredSignal { id, sequence, received, incident, signal: parse(&self.path, "a signal", &body)? })
            })
            .collect()
    }

    /// Signals of these names that came in one stream of each host, the newest first: what a writer that names its streams alike
    /// said of all hosts. No more than the newest ten thousand.
    pub fn signals_of_stream(&self, stream: &StreamId, names: &[&str]) -> Result<Vec<Signal>, StoreError> {
        let places: Vec<_> = (0..names.len()).map(|place| format!("?{}", place + 3)).collect();
        let sql = format!(
            "SELECT signals.body FROM streams JOIN signals ON signals.stream = streams.id WHERE streams.stream = ?1
             AND json_extract(signals.body, '$.name') IN ({}) ORDER BY signals.id DESC LIMIT ?2",
            places.join(", ")
        );
        let fixed: [&dyn ToSql; 2] = [&stream.as_slice(), &rows(0)];
        let names: Vec<&dyn ToSql> = names.iter().map(|name| name as &dyn ToSql).collect();
        let parameters: Vec<&dyn ToSql> = fixed.into_iter().chain(names).collect();
        let found = self.rows(&sql, parameters.as_slice(), |row| row.get::<_, String>(0))?;
        found.into_iter().map(|body| parse(&self.path, "a signal", &body)).collect()
    }

    /// The event log from `after` on, oldest first: (identifier, epoch, now, entry).
    pub fn event_log(&self, after: u64, limit: u64) -> Result<Vec<(u64, u64, Timestamp, Logged)>, StoreError> {
        let found = self.rows(
            "SELECT id, epoch, now, body FROM event_log WHERE id > ?1 ORDER BY id LIMIT ?2",
            params![signed(after), rows(limit)],
            |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?), unsigned(row.get(2)?), row.get::<_, String>(3)?)),
        )?;
        found
            .into_iter()
            .map(|(id, epoch, now, body)| {
                Ok((id, epoch, Timestamp(now), parse(&self.path, "a line of the event log", &body)?))
            })
            .collect()
    }

    /// How much there is.
    pub fn totals(&self) -> Result<Totals, StoreError> {
        let number = |sql: &str| {
            self.connection
                .query_row(sql, [], |row| row.get::<_, i64>(0))
                .map(unsigned)
                .map_err(|source| StoreError::of(&self.path, source))
        };
        Ok(Totals {
            bytes: number("PRAGMA page_count")?.saturating_mul(number("PRAGMA page_size")?),
            incidents_open: number("SELECT count(*) FROM incidents WHERE open")?,
            incidents: number("SELECT count(*) FROM incidents")?,
            decisions_proposed: number("SELECT count(*) FROM decisions WHERE state = 'proposed'")?,
            counters: self
                .rows("SELECT name, value FROM counters", [], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?
                .into_iter()
                .collect(),
        })
    }

    pub(crate) fn open_incidents(&self) -> Result<Vec<Incident>, StoreError> {
        self.bodies("an incident", "SELECT body FROM incidents WHERE open ORDER BY id", [])
    }

    /// Decisions of open incidents, and those whose order is out.
    pub(crate) fn live_decisions(&self) -> Result<Vec<Decision>, StoreError> {
        self.bodies(
            "a decision",
            "SELECT body FROM decisions WHERE state = 'ordered' OR (state <> 'withdrawn' AND incident IN
             (SELECT id FROM incidents WHERE open)) ORDER BY id",
            [],
        )
    }

    pub(crate) fn past_orders(&self, since: Timestamp) -> Result<Vec<PastOrder>, StoreError> {
        let found = self.order_rows(
            "SELECT given, state, attempts, detail, body FROM orders WHERE given >= ?1 AND state <> 'withheld'
             ORDER BY given",
            [signed(since.0)],
        )?;
        Ok(found.into_iter().map(|row| PastOrder { at: row.given, order: row.order }).collect())
    }

    pub(crate) fn pending_orders(&self) -> Result<Vec<OrderRow>, StoreError> {
        self.order_rows(
            "SELECT given, state, attempts, detail, body FROM orders WHERE state IN ('pending', 'sending') ORDER BY given",
            [],
        )
    }

    pub(crate) fn known_hosts(&self, since: Timestamp) -> Result<Vec<KnownHost>, StoreError> {
        self.rows(
            "SELECT host, boot_id, last_heard, departed FROM hosts WHERE last_heard >= ?1 ORDER BY host",
            [signed(since.0)],
            |row| {
                Ok(KnownHost {
                    host: row.get(0)?,
                    boot_id: row.get(1)?,
                    last_heard: Timestamp(unsigned(row.get(2)?)),
                    departed: row.get(3)?,
                })
            },
        )
    }

    fn order_rows(&self, sql: &str, params: impl Params) -> Result<Vec<OrderRow>, StoreError> {
        let found = self.rows(sql, params, |row| {
            Ok((
                unsigned(row.get(0)?),
                row.get::<_, String>(1)?,
                row.get::<_, u32>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, String>(4)?,
            ))
        })?;
        found
            .into_iter()
            .map(|(given, state, attempts, detail, body)| {
                let order: Order = parse(&self.path, "an order", &body)?;
                let state = OrderState::named(&state).ok_or_else(|| StoreError::Unreadable {
                    path: self.path.clone(),
                    what: format!("the order {}", order.idempotency_key),
                    detail: format!("unknown state {state:?}"),
                })?;
                Ok(OrderRow { order, given: Timestamp(given), state, attempts, detail })
            })
            .collect()
    }

    pub(crate) fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, read)?.collect())
            .map_err(|source| StoreError::of(&self.path, source))
    }

    fn bodies<T: DeserializeOwned>(&self, what: &str, sql: &str, params: impl Params) -> Result<Vec<T>, StoreError> {
        let bodies = self.rows(sql, params, |row| row.get::<_, String>(0))?;
        bodies.iter().map(|body| parse(&self.path, what, body)).collect()
    }

    fn body<T: DeserializeOwned>(&self, what: &str, sql: &str, params: impl Params) -> Result<Option<T>, StoreError> {
        let body: Option<String> = self
            .connection
            .query_row(sql, params, |row| row.get(0))
            .optional()
            .map_err(|source| StoreError::of(&self.path, source))?;
        body.map(|body| parse(&self.path, what, &body)).transpose()
    }
}

pub(crate) fn parse<T: DeserializeOwned>(path: &Path, what: &str, body: &str) -> Result<T, StoreError> {
    serde_json::from_str(body).map_err(|error| StoreError::Unreadable {
        path: path.to_owned(),
        what: what.to_owned(),
        detail: error.to_string(),
    })
}

/// The state's name as it is stored and shown.
pub(crate) fn state_name(state: &DecisionState) -> &'static str {
    match state {
        DecisionState::Proposed => "proposed",
        DecisionState::Approved => "approved",
        DecisionState::Rejected => "rejected",
        DecisionState::Ordered => "ordered",
        DecisionState::Done => "done",
        DecisionState::Failed => "failed",
        DecisionState::Withheld => "withheld",
        DecisionState::Withdrawn => "withdrawn",
    }
}

pub(crate) fn rows(limit: u64) -> i64 {
    signed(if limit == 0 { ROWS_MAX } else { limit.min(ROWS_MAX) })
}

/// SQLite's integers are signed: nanoseconds fit until the year 2262, and what does not is held at the largest.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
