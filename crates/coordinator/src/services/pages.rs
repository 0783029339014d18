use std::path::PathBuf;

use muster_cluster::Record;
use muster_store::{Entry, JournalReader};
use muster_types::JobId;
use tonic::Status;

/// Records that are read at a time.
const PAGE: u32 = 500;

/// A job's records, read from the journal a page at a time, each once.
pub(super) struct Pages {
    /// Elsewhere only while a page is read.
    reader: Option<JournalReader<Record>>,
    job: JobId,
    after: u64,
}

impl Pages {
    /// Those of `job` after the sequence number `after`.
    pub(super) async fn open(journal: PathBuf, job: JobId, after: u64) -> Result<Self, Status> {
        let opened = blocking(move || JournalReader::open(&journal)).await?;
        Ok(Self {
            reader: Some(opened.map_err(internal)?),
            job,
            after,
        })
    }

    /// The next ones, oldest first; none where there are no more yet.
    pub(super) async fn next(&mut self) -> Result<Vec<Entry<Record>>, Status> {
        let reader = self.reader.take();
        let reader = reader.ok_or_else(|| internal("a page of the journal was given up"))?;
        let (job, after) = (self.job, self.after);
        let (reader, page) = blocking(move || {
            let page = reader.events(job, after, PAGE);
            (reader, page)
        })
        .await?;
        self.reader = Some(reader);
        let page = page.map_err(internal)?;
        if let Some(newest) = page.last() {
            self.after = newest.sequence;
        }
        Ok(page)
    }
}

/// Does what waits for a disk where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(internal)
}

/// What went wrong here, and is nobody else's to put right.
pub(super) fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
