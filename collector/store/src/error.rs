//! What can go wrong with the store, told apart as far as a caller can act on it.

use std::path::PathBuf;

/// An operation on the store failed; nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store.
    #[error(
        "{path}: another collector has this store open; stop it first, or give this one a state directory of its own"
    )]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The schema is of a later version of Railwatch.
    #[error(
        "{path}: schema {found} is newer than the {known} that this version knows; run the newer version again, or restore the copy made before the upgrade"
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema known here.
        known: i64,
    },
    /// The file is a database of something else.
    #[error(
        "{path}: this is not a Railwatch store (application id {found:#x}); point the collector at its own state directory"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its application id.
        found: i64,
    },
    /// The file is damaged.
    #[error(
        "{path}: the store is damaged ({detail}); move it aside to start anew, or run `sqlite3 FILE .recover` on a copy"
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// No room, or a quota.
    #[error("{path}: no room to write ({detail}); free some space: agents keep their frames until then")]
    DiskFull {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// Somebody else holds SQLite's lock for too long.
    #[error("{path}: locked by another connection ({detail}); end whatever reads it with a long transaction")]
    Locked {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// A row does not read as what it should be.
    #[error("{path}: {what} does not read back: {detail}")]
    Unreadable {
        /// The database.
        path: PathBuf,
        /// Which row.
        what: String,
        /// What was wrong.
        detail: String,
    },
    /// A file beside or around the database could not be used.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else SQLite says.
    #[error("{path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
}

impl StoreError {
    pub(crate) fn of(path: &std::path::Path, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let path = path.to_owned();
        let detail = source.to_string();
        match source.sqlite_error_code() {
            // A write cut short by a file size limit or a dying disk comes as an IO error: room is the first thing to look at.
            Some(Code::DiskFull) => Self::DiskFull { path, detail },
            Some(Code::SystemIoFailure) => Self::DiskFull { path, detail },
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Self::Corrupt { path, detail },
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Locked { path, detail },
            _ => Self::Sqlite { path, source },
        }
    }
}
