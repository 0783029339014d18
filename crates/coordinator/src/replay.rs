use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use muster_cluster::{Cluster, ClusterOptions, Record};
use muster_store::{JournalError, JournalReader};
use muster_types::Timestamp;

/// What a journal holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalSummary {
    /// Records that it holds; superseded ones are forgotten.
    pub records: u64,
    /// Jobs, over or not.
    pub jobs: usize,
    /// When the newest record was decided; `None` without records.
    pub newest: Option<Timestamp>,
}

/// Builds the cluster's state from records.
#[derive(Debug)]
pub(crate) struct Replay {
    cluster: Cluster,
    /// The first record that contradicts those before it.
    contradiction: Option<u64>,
}

impl Replay {
    pub(crate) fn new(options: ClusterOptions) -> Self {
        Self {
            cluster: Cluster::new(options),
            contradiction: None,
        }
    }

    /// Applies the next record; after a contradiction, nothing any more.
    pub(crate) fn apply(&mut self, sequence: u64, record: &Record) {
        if self.contradiction.is_some() {
            return;
        }
        // The rules that must always hold are assertions; the state is not used after a broken one.
        let applied = catch_unwind(AssertUnwindSafe(|| self.cluster.apply(record)));
        if applied.is_err() {
            self.contradiction = Some(sequence);
        }
    }

    /// The state that the records of the journal at `path` make.
    pub(crate) fn finish(self, path: &Path) -> Result<Cluster, JournalError> {
        match self.contradiction {
            None => Ok(self.cluster),
            Some(sequence) => Err(JournalError::Corrupt {
                path: path.to_path_buf(),
                reason: format!("record {sequence} contradicts those before it (see the log)"),
            }),
        }
    }
}

/// Reads a journal as a coordinator would on its start, and its file more closely. It may be in use.
///
/// # Errors
/// What is wrong with it.
pub fn check_journal(path: &Path) -> Result<JournalSummary, JournalError> {
    let reader = JournalReader::<Record>::open(path)?;
    reader.check()?;
    let mut replay = Replay::new(ClusterOptions::default());
    let mut summary = JournalSummary::default();
    reader.replay(|entry| {
        replay.apply(entry.sequence, &entry.body);
        summary.records += 1;
        summary.newest = Some(entry.at);
    })?;
    summary.jobs = replay.finish(path)?.jobs().len();
    Ok(summary)
}

/// Copies a journal, as of one instant, to a new file, and checks the copy. The journal may be in use.
///
/// # Errors
/// If `to` exists or cannot be written, or either file does not read.
pub fn backup_journal(from: &Path, to: &Path) -> Result<JournalSummary, JournalError> {
    JournalReader::<Record>::open(from)?.backup(to)?;
    check_journal(to)
}
