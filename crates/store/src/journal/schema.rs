use std::path::Path;

use rusqlite::Connection;

use super::JournalError;

/// "MSTR": what tells a journal from any other SQLite database.
const APPLICATION_ID: i64 = 0x4d53_5452;
/// The format that this build writes, and the newest it reads.
///
/// 1: records, without gaps. 2: superseded records are forgotten, and the record after them counts them. 3: samples may be
/// skipped.
pub(super) const FORMAT_VERSION: i64 = 3;

/// How closely a file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Every page, but not whether indexes agree with tables.
    Quick,
    Full,
}

/// Checks what is there, makes the table where nothing is, and sets the connection up for durable appends.
pub(super) fn prepare(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let wrap = |e| JournalError::sqlite(path, e);
    let objects: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(wrap)?;
    let is_empty = objects == 0
        && pragma(connection, path, "user_version")? == 0
        && pragma(connection, path, "application_id")? == 0;
    if !is_empty {
        check(connection, path, Depth::Quick)?;
    }
    // A write-ahead log synced at every commit: an append is durable when it returns, and readers never block it.
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(wrap)?;
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(wrap)?;
    if !is_empty {
        bring_up(connection, version(connection, path)?).map_err(wrap)?;
    }
    if is_empty {
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE;
                 CREATE TABLE records (
                     sequence INTEGER PRIMARY KEY,
                     at INTEGER NOT NULL,
                     job TEXT,
                     kind TEXT NOT NULL,
                     body TEXT NOT NULL,
                     forgotten INTEGER NOT NULL DEFAULT 0
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

/// Turns a journal of an older format into one of this.
fn bring_up(connection: &Connection, found: i64) -> rusqlite::Result<()> {
    if found == FORMAT_VERSION {
        return Ok(());
    }
    let change = match found {
        1 => "ALTER TABLE records ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;",
        _ => "",
    };
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {change} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"
    ))
}

/// The format of the journal that is there.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<i64, JournalError> {
    pragma(connection, path, "user_version")
}

fn pragma(connection: &Connection, path: &Path, name: &str) -> Result<i64, JournalError> {
    connection
        .pragma_query_value(None, name, |row| row.get(0))
        .map_err(|e| JournalError::sqlite(path, e))
}

/// Whether the file is a whole journal that this build reads.
pub(super) fn check(
    connection: &Connection,
    path: &Path,
    depth: Depth,
) -> Result<(), JournalError> {
    if pragma(connection, path, "application_id")? != APPLICATION_ID {
        return Err(JournalError::Foreign {
            path: path.to_path_buf(),
        });
    }
    let found = version(connection, path)?;
    if found > FORMAT_VERSION {
        return Err(JournalError::Newer {
            path: path.to_path_buf(),
            found,
            supported: FORMAT_VERSION,
        });
    }
    let question = match depth {
        Depth::Quick => "PRAGMA quick_check(1)",
        Depth::Full => "PRAGMA integrity_check(1)",
    };
    let verdict: String = connection
        .query_row(question, [], |row| row.get(0))
        .map_err(|e| JournalError::sqlite(path, e))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(JournalError::corrupt(path, verdict)),
    }
}
