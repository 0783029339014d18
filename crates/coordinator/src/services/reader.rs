use std::future::Future;

use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Reads a peer's stream until it ends, breaks, says something wrong, or `over` is cancelled.
pub(super) async fn read<T, F>(
    mut inbound: Streaming<T>,
    over: CancellationToken,
    mut take: impl FnMut(T) -> F,
) where
    F: Future<Output = Result<(), Status>>,
{
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            () = over.cancelled() => return,
        };
        let outcome = match message {
            Ok(Some(message)) => take(message).await,
            Ok(None) => return,
            Err(status) => Err(status),
        };
        if let Err(status) = outcome {
            tracing::debug!(reason = status.message(), "a stream ended");
            return;
        }
    }
}
