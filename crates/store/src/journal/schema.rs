use std::path::Path;

use rusqlite::Connection;

use super::JournalError;

/// "MSTR": what tells a journal from any other SQLite database.
const APPLICATION_ID: i64 = 0x4d53_5452;
/// The format that this build writes, and the newest it reads.
pub(super) const FORMAT_VERSION: i64 = 1;

/// Checks what is there, makes the table where nothing is, and sets the connection up for durable appends.
pub(super) fn prepare(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let wrap = |e| JournalError::sqlite(path, e);
    let pragma = |name: &str| -> Result<i64, JournalError> {
        connection
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(wrap)
    };
    let application = pragma("application_id")?;
    let version = pragma("user_version")?;
    let objects: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(wrap)?;
    let is_empty = objects == 0 && version == 0 && application == 0;
    if !is_empty {
        if application != APPLICATION_ID {
            return Err(JournalError::Foreign {
                path: path.to_path_buf(),
            });
        }
        if version > FORMAT_VERSION {
            return Err(JournalError::Newer {
                path: path.to_path_buf(),
                found: version,
                supported: FORMAT_VERSION,
            });
        }
        check(connection, path)?;
    }
    // A write-ahead log synced at every commit: an append is durable when it returns, and readers never block it.
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(wrap)?;
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(wrap)?;
    if is_empty {
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE;
                 CREATE TABLE records (
                     sequence INTEGER PRIMARY KEY,
                     at INTEGER NOT NULL,
                     job TEXT,
                     kind TEXT NOT NULL,
                     body TEXT NOT NULL
                 ) STRICT;
                 CREATE INDEX records_by_job ON records (job, sequence);
                 PRAGMA application_id = {APPLICATION_ID};
                 PRAGMA user_version = {FORMAT_VERSION};
                 COMMIT;"
            ))
            .map_err(wrap)?;
    }
    Ok(())
}

fn check(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| JournalError::sqlite(path, e))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(JournalError::corrupt(path, verdict)),
    }
}
