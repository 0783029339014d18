//! The durable record stream. One process writes it; readers may look on.

mod error;
mod reader;
mod schema;

use std::{
    fs::{File, TryLockError},
    marker::PhantomData,
    path::{Path, PathBuf},
};

use muster_types::{JobId, Timestamp};
use rusqlite::{Connection, params};
use serde::{Serialize, de::DeserializeOwned};

pub use error::JournalError;
pub use reader::JournalReader;

/// One record with what it is looked up by.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<R> {
    /// Place in the journal, from 1; superseded ones leave their place empty. Ignored by [`Journal::append`], which gives the next one.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// The job it is about, if it is about one.
    pub job: Option<JobId>,
    /// A word for what changed, for people who open the file.
    pub kind: String,
    /// The record.
    pub body: R,
}

/// The journal, open for writing. At most one process has it open: a lock file beside it is held until this is dropped.
#[derive(Debug)]
pub struct Journal<R> {
    connection: Connection,
    path: PathBuf,
    next: u64,
    _lock: File,
    _records: PhantomData<fn(R) -> R>,
}

impl<R: Serialize + DeserializeOwned> Journal<R> {
    /// Opens the journal at `path`, making it if there is none. Whatever is there already is never overwritten.
    ///
    /// # Errors
    /// If another process has it open, if it is of a newer format, if it is damaged or no journal at all, or if the
    /// file system refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref().to_path_buf();
        let lock = lock(&path)?;
        let is_new = !path.exists();
        let connection = Connection::open(&path).map_err(|e| JournalError::sqlite(&path, e))?;
        schema::prepare(&connection, &path)?;
        if is_new {
            sync_parent(&path)?;
        }
        let last: Option<u64> = connection
            .query_row("SELECT max(sequence) FROM records", [], |row| row.get(0))
            .map_err(|e| JournalError::sqlite(&path, e))?;
        Ok(Self {
            connection,
            path,
            next: last.unwrap_or(0) + 1,
            _lock: lock,
            _records: PhantomData,
        })
    }

    /// Where the journal lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sequence number of the newest record; 0 while there is none.
    pub fn last_sequence(&self) -> u64 {
        self.next - 1
    }

    /// Appends all entries or none, in order, and returns the newest sequence number. They are on disk when it returns.
    ///
    /// # Errors
    /// If they could not be written; nothing was appended then.
    pub fn append(&mut self, entries: &[Entry<R>]) -> Result<u64, JournalError> {
        self.replace(entries, &[])
    }

    /// Appends all entries, in order, and forgets the records with the sequence numbers `superseded`, or does neither. The next
    /// record tells how many before it were forgotten, so that one that is lost is still missed. The newest record stays.
    ///
    /// # Errors
    /// If that could not be written, or a record to forget is not there, or has none after it.
    pub fn replace(
        &mut self,
        entries: &[Entry<R>],
        superseded: &[u64],
    ) -> Result<u64, JournalError> {
        let wrap = |e| JournalError::sqlite(&self.path, e);
        let transaction = self.connection.transaction().map_err(wrap)?;
        let mut next = self.next;
        {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO records (sequence, at, job, kind, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                )
                .map_err(wrap)?;
            for entry in entries {
                let body =
                    serde_json::to_string(&entry.body).map_err(|source| JournalError::Encode {
                        kind: entry.kind.clone(),
                        source,
                    })?;
                let job = entry.job.map(|job| job.to_string());
                insert
                    .execute(params![next, entry.at.0, job, entry.kind, body])
                    .map_err(wrap)?;
                next += 1;
            }
        }
        for sequence in superseded {
            forget(&transaction, *sequence).map_err(wrap)?;
        }
        transaction.commit().map_err(wrap)?;
        self.next = next;
        Ok(self.last_sequence())
    }

    /// Calls `visit` with every record, oldest first.
    ///
    /// # Errors
    /// If the journal cannot be read, a record does not parse, or one is missing that was not superseded.
    pub fn replay(&self, mut visit: impl FnMut(u64, R)) -> Result<(), JournalError> {
        reader::replay(&self.connection, &self.path, |entry| {
            visit(entry.sequence, entry.body);
        })
    }

    /// A second connection that only reads; it may be used on other threads while this one writes.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn reader(&self) -> Result<JournalReader<R>, JournalError> {
        JournalReader::open(&self.path)
    }
}

/// Removes a record, and has the next one say so.
fn forget(transaction: &Connection, sequence: u64) -> Result<(), rusqlite::Error> {
    let forgotten: u64 = transaction
        .prepare_cached("DELETE FROM records WHERE sequence = ?1 RETURNING forgotten")?
        .query_row([sequence], |row| row.get(0))?;
    let told = transaction
        .prepare_cached(
            "UPDATE records SET forgotten = forgotten + ?2
             WHERE sequence = (SELECT min(sequence) FROM records WHERE sequence > ?1)",
        )?
        .execute([sequence, forgotten + 1])?;
    match told {
        0 => Err(rusqlite::Error::QueryReturnedNoRows),
        _ => Ok(()),
    }
}

/// Takes the lock file beside the journal. SQLite's own locks last only as long as a transaction.
fn lock(path: &Path) -> Result<File, JournalError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let wrap = |source| JournalError::Io {
        path: lock_path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(wrap)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(wrap(source)),
    }
}

/// Makes the new file's name durable too.
fn sync_parent(path: &Path) -> Result<(), JournalError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| JournalError::Io {
            path: parent.to_path_buf(),
            source,
        })
}

#[cfg(test)]
mod tests;
