use std::path::PathBuf;

use muster_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::pages::{blocking, internal};
use crate::{inbox::stopping, step_records::read_steps};

/// Steps that are read at a time.
const PAGE: usize = 1000;

/// Sends what each step was fed, from the metrics in a job's directory. Ends when they are sent, the client has gone, or the
/// coordinator stops.
pub(super) async fn send(
    job_dir: PathBuf,
    client: mpsc::Sender<Result<v1::Fed, Status>>,
    stop: CancellationToken,
) {
    let outcome = tokio::select! {
        outcome = send_all(job_dir, &client) => outcome,
        () = stop.cancelled() => Err(Some(stopping())),
    };
    if let Err(Some(status)) = outcome {
        // The client may have gone meanwhile.
        let _ = client.send(Err(status)).await;
    }
}

/// `Err(None)`: the client has gone.
async fn send_all(
    job_dir: PathBuf,
    client: &mpsc::Sender<Result<v1::Fed, Status>>,
) -> Result<(), Option<Status>> {
    let opened = blocking(move || read_steps(&job_dir)).await?;
    let mut steps = opened.map_err(internal)?;
    loop {
        let (rest, page) = blocking(move || {
            let page: Vec<_> = steps.by_ref().take(PAGE).collect();
            (steps, page)
        })
        .await?;
        steps = rest;
        if page.is_empty() {
            return Ok(());
        }
        for step in page {
            let step = step.map_err(internal)?;
            client.send(Ok(step)).await.map_err(|_| None)?;
        }
    }
}
