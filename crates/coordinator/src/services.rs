//! The gRPC services: they check what comes in, turn it into events or questions, and keep no state of jobs.

mod agent;
mod events;
mod follow;
mod job;
mod logs;
mod pages;
mod reader;
mod roster;
mod selection;
mod steps;
mod store;
mod worker;

use std::{pin::Pin, time::Duration};

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub(crate) use agent::Agents;
pub(crate) use job::Jobs;
pub(crate) use store::Stores;
pub(crate) use worker::Workers;

/// How long a peer may take for the first message of its stream.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// What a server-streaming call answers with.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T: Send + 'static>(queue: mpsc::Receiver<Result<T, Status>>) -> Answers<T> {
    Box::pin(ReceiverStream::new(queue))
}

/// The first message of a stream.
async fn first<T>(inbound: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(FIRST_MESSAGE, inbound.message()).await {
        Ok(message) => message?
            .ok_or_else(|| Status::invalid_argument("the stream ended before its first message")),
        Err(_) => Err(Status::deadline_exceeded(
            "the stream's first message did not come",
        )),
    }
}
