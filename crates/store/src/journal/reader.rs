use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
};

use muster_types::{JobId, Timestamp};
use rusqlite::{Connection, OpenFlags, ToSql};
use serde::de::DeserializeOwned;

use super::{Entry, JournalError};

/// A connection that only reads. It sees what was durable when each call began.
#[derive(Debug)]
pub struct JournalReader<R> {
    connection: Connection,
    path: PathBuf,
    _records: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> JournalReader<R> {
    /// Opens the journal at `path`, which some process writes or wrote.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|e| JournalError::sqlite(path, e))?;
        Ok(Self {
            connection,
            path: path.to_path_buf(),
            _records: PhantomData,
        })
    }

    /// The job's records after sequence number `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// If the journal cannot be read or a record does not parse.
    pub fn events(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry<R>>, JournalError> {
        let mut found = Vec::new();
        scan(
            &self.connection,
            &self.path,
            Which::Job { job, after, limit },
            |entry| {
                found.push(entry);
                Ok(())
            },
        )?;
        Ok(found)
    }
}

pub(super) enum Which {
    All,
    Job { job: JobId, after: u64, limit: u32 },
}

pub(super) fn scan<R: DeserializeOwned>(
    connection: &Connection,
    path: &Path,
    which: Which,
    mut visit: impl FnMut(Entry<R>) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let wrap = |e| JournalError::sqlite(path, e);
    let (filter, job, after, limit) = match which {
        Which::All => ("ORDER BY sequence", None, 0, 0),
        Which::Job { job, after, limit } => (
            "WHERE job = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3",
            Some(job.to_string()),
            after,
            limit,
        ),
    };
    let parameters: &[&dyn ToSql] = if job.is_some() {
        &[&job as &dyn ToSql, &after, &limit]
    } else {
        &[]
    };
    let mut statement = connection
        .prepare(&format!(
            "SELECT sequence, at, job, kind, body FROM records {filter}"
        ))
        .map_err(wrap)?;
    let mut rows = statement.query(parameters).map_err(wrap)?;
    while let Some(row) = rows.next().map_err(wrap)? {
        let sequence: u64 = row.get(0).map_err(wrap)?;
        let job: Option<String> = row.get(2).map_err(wrap)?;
        let body: String = row.get(4).map_err(wrap)?;
        let damaged =
            |reason: String| JournalError::corrupt(path, format!("record {sequence}: {reason}"));
        let job = job
            .map(|text| text.parse())
            .transpose()
            .map_err(|e| damaged(format!("{e}")))?;
        visit(Entry {
            sequence,
            at: Timestamp(row.get(1).map_err(wrap)?),
            job,
            kind: row.get(3).map_err(wrap)?,
            body: serde_json::from_str(&body).map_err(|e| damaged(format!("{e}")))?,
        })?;
    }
    Ok(())
}
