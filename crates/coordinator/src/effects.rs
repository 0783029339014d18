use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use muster_checkpoint::{FORMAT_VERSION, FileEntry, Manifest};
use muster_cluster::{Cluster, Event};
use muster_store::{CheckpointStore, ObjectsError};
use muster_types::{JobId, StateId};

use crate::inbox::{Core, Message};

/// Pauses between attempts to remove a checkpoint.
const RETRIES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// A manifest to be written: all that the state knows of it, taken when the command was run.
#[derive(Debug)]
pub(crate) struct ManifestJob {
    root: String,
    tokenizer: PathBuf,
    manifest: Manifest,
}

impl ManifestJob {
    /// Collects what the manifest says of the job. `None` if there is no such job.
    pub(crate) fn new(
        cluster: &Cluster,
        job: JobId,
        state: StateId,
        parts: Vec<FileEntry>,
        tokens_seen: u64,
    ) -> Option<Self> {
        let submission = cluster.submission(job)?;
        let began = |segment: &&muster_types::Segment| segment.start_step <= state.step;
        Some(Self {
            root: submission.checkpoint_root.clone(),
            tokenizer: PathBuf::from(&submission.spec.data.path).join(muster_data::TOKENIZER_FILE),
            manifest: Manifest {
                format_version: FORMAT_VERSION,
                job,
                state,
                tokens_seen,
                spec: serde_json::to_value(&submission.spec).ok()?,
                segments: cluster
                    .segments(job)
                    .iter()
                    .filter(began)
                    .copied()
                    .collect(),
                numerics_fingerprint: cluster.numerics_fingerprint(job).to_owned(),
                files: parts,
                extra_files: Vec::new(),
            },
        })
    }

    /// Writes it and reports. Ends by itself; a failure is part of the report.
    pub(crate) async fn run(self, core: Core) {
        let (job, state) = (self.manifest.job, self.manifest.state);
        let result = self.write().await.map_err(|error| error.to_string());
        if let Err(reason) = &result {
            tracing::warn!(%job, %state, %reason, "a checkpoint could not be committed");
        }
        let event = Event::ManifestDone { job, state, result };
        // The inbox is gone when the coordinator stops; the command comes again after its start.
        let _ = core.send(Message::Event { event, done: None }).await;
    }

    async fn write(mut self) -> Result<String, ObjectsError> {
        let state = self.manifest.state;
        let store = CheckpointStore::open(&self.root, self.manifest.job)?;
        let tokenizer =
            tokio::fs::read(&self.tokenizer)
                .await
                .map_err(|source| ObjectsError::Directory {
                    path: self.tokenizer.clone(),
                    source,
                })?;
        let name = muster_data::TOKENIZER_FILE;
        let extra = store.put_extra(state, name, Bytes::from(tokenizer)).await?;
        self.manifest.extra_files.push(extra);
        store.commit(&self.manifest).await?;
        Ok(store.uri(state))
    }
}

/// Removes a checkpoint and reports. Gives up after some attempts, saying so: a checkpoint too many does no harm.
pub(crate) async fn delete_checkpoint(core: Core, root: String, job: JobId, state: StateId) {
    let mut pauses = RETRIES.iter();
    loop {
        let deleted = async { CheckpointStore::open(&root, job)?.delete(state).await };
        let Err(error) = deleted.await else { break };
        tracing::warn!(%job, %state, %error, "a checkpoint could not be removed");
        match pauses.next() {
            Some(pause) => tokio::time::sleep(*pause).await,
            None => return,
        }
    }
    let event = Event::CheckpointDeleted { job, state };
    let _ = core.send(Message::Event { event, done: None }).await;
}
