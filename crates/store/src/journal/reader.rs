use std::{
    fs::{self, File},
    marker::PhantomData,
    path::{Path, PathBuf},
};

use muster_types::{JobId, Timestamp};
use rusqlite::{Connection, OpenFlags, ToSql};
use serde::de::DeserializeOwned;

use super::{Entry, JournalError, schema, sync_parent};

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

    /// Calls `visit` with every record, oldest first, as of the beginning of the call.
    ///
    /// # Errors
    /// If the journal cannot be read, a record does not parse, or one is missing that was not superseded.
    pub fn replay(&self, visit: impl FnMut(Entry<R>)) -> Result<(), JournalError> {
        replay(&self.connection, &self.path, visit)
    }

    /// Looks at every page and every index entry of the file, and whether this build reads its format. Records are looked
    /// at by [`JournalReader::replay`].
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), JournalError> {
        schema::check(&self.connection, &self.path, schema::Depth::Full)
    }

    /// Copies the journal, as of one instant, to a new file; it may be in use meanwhile. The copy is on disk when this returns.
    ///
    /// # Errors
    /// If `to` exists or cannot be written, or the journal cannot be read. Nothing is left at `to` then.
    pub fn backup(&self, to: &Path) -> Result<(), JournalError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| JournalError::Io { path, source }
        };
        let mut temporary = to.as_os_str().to_owned();
        temporary.push(format!(".{}.part", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let copy = || {
            self.connection
                .execute("VACUUM INTO ?1", [temporary.to_string_lossy()])
                .map_err(|e| JournalError::sqlite(&temporary, e))?;
            File::open(&temporary)
                .and_then(|file| file.sync_all())
                .map_err(io(&temporary))?;
            // Unlike a rename, this never replaces a file.
            fs::hard_link(&temporary, to).map_err(io(to))
        };
        let outcome = copy();
        // It may not even have been made.
        let _ = fs::remove_file(&temporary);
        outcome.and_then(|()| sync_parent(to))
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
            |entry, _| {
                found.push(entry);
                Ok(())
            },
        )?;
        Ok(found)
    }
}

enum Which {
    All,
    Job { job: JobId, after: u64, limit: u32 },
}

/// Every record, none missing but those that were forgotten.
pub(super) fn replay<R: DeserializeOwned>(
    connection: &Connection,
    path: &Path,
    mut visit: impl FnMut(Entry<R>),
) -> Result<(), JournalError> {
    let mut expected = 1;
    scan(connection, path, Which::All, |entry, forgotten| {
        let first_missing = expected + forgotten;
        if entry.sequence != first_missing {
            let reason = match entry.sequence > first_missing {
                true => format!("record {first_missing} is missing"),
                false => format!(
                    "record {} counts more forgotten ones than there can be",
                    entry.sequence
                ),
            };
            return Err(JournalError::corrupt(path, reason));
        }
        expected = entry.sequence + 1;
        visit(entry);
        Ok(())
    })
}

fn scan<R: DeserializeOwned>(
    connection: &Connection,
    path: &Path,
    which: Which,
    mut visit: impl FnMut(Entry<R>, u64) -> Result<(), JournalError>,
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
    // One that is only read keeps the format that it has.
    let forgotten = match schema::version(connection, path)? {
        ..2 => "0",
        _ => "forgotten",
    };
    let mut statement = connection
        .prepare(&format!(
            "SELECT sequence, at, job, kind, body, {forgotten} FROM records {filter}"
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
        let entry = Entry {
            sequence,
            at: Timestamp(row.get(1).map_err(wrap)?),
            job,
            kind: row.get(3).map_err(wrap)?,
            body: serde_json::from_str(&body).map_err(|e| damaged(format!("{e}")))?,
        };
        visit(entry, row.get(5).map_err(wrap)?)?;
    }
    Ok(())
}
