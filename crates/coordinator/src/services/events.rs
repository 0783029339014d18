use std::path::PathBuf;

use muster_cluster::describe;
use muster_proto::v1;
use muster_types::JobId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::pages::Pages;
use crate::{
    convert,
    inbox::{Core, stopping},
};

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
    pub(super) async fn run(self, client: mpsc::Sender<Result<v1::Event, Status>>) {
        if let Err(Some(status)) = self.send_all(&client).await {
            // The client may have gone meanwhile.
            let _ = client.send(Err(status)).await;
        }
    }

    /// `Err(None)`: the client has gone.
    async fn send_all(
        self,
        client: &mpsc::Sender<Result<v1::Event, Status>>,
    ) -> Result<(), Option<Status>> {
        let mut progress = self.core.progress();
        let mut pages = Pages::open(self.journal, self.job, self.after).await?;
        loop {
            let sequence = progress.borrow_and_update().sequence;
            // Looked at before the journal is read, so that the last events of an ended job are among those that are sent.
            let job = self.job;
            let is_over = self
                .core
                .read(move |cluster, now| {
                    cluster
                        .summary(job, now)
                        .is_none_or(|status| status.state.is_over())
                })
                .await?;
            loop {
                let page = pages.next().await?;
                if page.is_empty() {
                    break;
                }
                for entry in page {
                    if let Some(event) = describe(&entry.body) {
                        let event = convert::event(entry.sequence, event);
                        client.send(Ok(event)).await.map_err(|_| None)?;
                    }
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
