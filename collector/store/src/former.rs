//! The collector that had the store before: how it ended, and when it was last there.
//!
//! In: a mark that a collector leaves while it runs and replaces when it ends in order, and the times of what it stored. Out: a
//! [`Former`] to the one that opens the store next. Never: a write of its own while a collector runs.

use crate::reader::{signed, unsigned};
use railwatch_engine::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

/// The row of `meta`. An older collector leaves none.
const MARK: &str = "ended";
/// Its value while a collector runs.
const RUNS: &str = "no";

/// The collector before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// How it ended.
    pub end: End,
    /// When it was last seen to be there: its end, or the last thing that it stored. `None` where it stored nothing.
    pub last_seen: Option<Timestamp>,
}

/// How a collector ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Stopped,
    /// Killed, crashed, or its host was: it did not come to write its end.
    Broken,
    /// It was of a version that does not say.
    Unknown,
}

/// Reads what the former one left, and marks that another runs now. `None` where the store is new.
pub(crate) fn take_over(connection: &Connection, epoch: u64) -> rusqlite::Result<Option<Former>> {
    let mark: Option<String> =
        connection.query_row("SELECT value FROM meta WHERE name = ?1", [MARK], |row| row.get(0)).optional()?;
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", params![MARK, RUNS])?;
    if epoch <= 1 {
        return Ok(None);
    }
    let ended = mark.as_ref().and_then(|mark| mark.parse::<u64>().ok()).map(Timestamp);
    let end = match (&mark, ended) {
        (_, Some(_)) => End::Stopped,
        (Some(_), None) => End::Broken,
        (None, None) => End::Unknown,
    };
    let last_seen = match ended {
        Some(ended) => Some(ended),
        None => last_stored(connection)?,
    };
    Ok(Some(Former { end, last_seen }))
}

/// A collector ends in order.
pub(crate) fn leave(connection: &Connection, at: Timestamp) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", params![MARK, signed(at.0).to_string()])?;
    Ok(())
}

/// While any host is connected, something is stored at least once a second.
fn last_stored(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let last: Option<i64> = connection.query_row(
        "SELECT max(at) FROM (SELECT max(used) AS at FROM streams UNION ALL SELECT max(last_heard) FROM hosts
         UNION ALL SELECT max(now) FROM event_log)",
        [],
        |row| row.get(0),
    )?;
    Ok(last.map(|last| Timestamp(unsigned(last))))
}
