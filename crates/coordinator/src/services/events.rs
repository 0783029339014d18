use std::path::PathBuf;

use muster_cluster::{Record, describe};
use muster_proto::v1;
use muster_store::JournalReader;
use muster_types::JobId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    convert,
    inbox::{Core, stopping},
};

/// Records that are read at a time.
const PAGE: u32 = 500;

/// Whether a list of events goes on with new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Up to now.
    Now,
    /// New ones too, until the job has ended.
    JobEnded,
}

/// A job's events, from the journal: what was decided, told as it was recorded.
pub(super) struct Events {
    pub(super) core: Core,
    pub(super) journal: PathBuf,
    pub(super) job: JobId,
    pub(super) after: u64,
    pub(super) until: Until,
    pub(super) stop: CancellationToken,
}

impl Events {
    /// Sends them all. Ends when they are sent, the client has gone, or the coordinator stops.
    pub(super) async fn run(mut self, client: mpsc::Sender<Result<v1::Event, Status>>) {
        if let Err(Some(status)) = self.send_all(&client).await {
            // The client may have gone meanwhile.
            let _ = client.send(Err(status)).await;
        }
    }

    /// `Err(None)`: the client has gone.
    async fn send_all(
        &mut self,
        client: &mpsc::Sender<Result<v1::Event, Status>>,
    ) -> Result<(), Option<Status>> {
        let mut progress = self.core.progress();
        let path = self.journal.clone();
        let opened = blocking(move || JournalReader::<Record>::open(&path)).await?;
        let mut reader = Some(opened.map_err(internal)?);
        loop {
            let sequence = progress.borrow_and_update().sequence;
            // Looked at before the journal is read, so that the last events of an ended job are among those that are sent.
            let job = self.job;
            let is_over = self
                .core
                .read(move |cluster, now| {
                    cluster
                        .status(job, now)
                        .is_none_or(|status| status.state.is_over())
                })
                .await?;
            while let Some(open) = reader.take() {
                let after = self.after;
                let (open, page) = blocking(move || {
                    let page = open.events(job, after, PAGE);
                    (open, page)
                })
                .await?;
                let page = page.map_err(internal)?;
                reader = Some(open);
                let is_last = page.len() < PAGE as usize;
                for entry in page {
                    self.after = entry.sequence;
                    if let Some(event) = describe(&entry.body) {
                        let event = convert::event(entry.sequence, event);
                        client.send(Ok(event)).await.map_err(|_| None)?;
                    }
                }
                if is_last {
                    break;
                }
            }
            if self.until == Until::Now || is_over {
                return Ok(());
            }
            tokio::select! {
                changed = progress.wait_for(|now| now.sequence > sequence) => {
                    changed.map_err(|_| stopping())?;
                }
                () = client.closed() => return Err(None),
                () = self.stop.cancelled() => return Err(Some(stopping())),
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(internal)
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
