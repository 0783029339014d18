use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use muster_proto::v1::LogContent;
use tokio::sync::mpsc;

/// Chunks of one log that wait for the client. An agent's stream also carries the ends of workers, so it is never held up
/// by a client that reads slowly: such a request is given up.
const QUEUE: usize = 1024;

/// Brings what agents read from logs to those who asked for it.
#[derive(Debug, Default)]
pub(crate) struct LogRouter {
    requests: Mutex<BTreeMap<u64, mpsc::Sender<LogContent>>>,
    next: AtomicU64,
}

/// One request; dropping it ends it.
#[derive(Debug)]
pub(crate) struct LogRequest {
    pub(crate) id: u64,
    pub(crate) chunks: mpsc::Receiver<LogContent>,
    router: Arc<LogRouter>,
}

impl LogRouter {
    pub(crate) fn request(self: &Arc<Self>) -> LogRequest {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, chunks) = mpsc::channel(QUEUE);
        self.lock().insert(id, sender);
        LogRequest {
            id,
            chunks,
            router: Arc::clone(self),
        }
    }

    /// Passes a chunk on; one that nobody waits for is dropped.
    pub(crate) fn deliver(&self, content: LogContent) {
        let mut requests = self.lock();
        let id = content.request_id;
        if let Some(sender) = requests.get(&id)
            && sender.try_send(content).is_err()
        {
            requests.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, mpsc::Sender<LogContent>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LogRequest {
    fn drop(&mut self) {
        self.router.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(request_id: u64) -> LogContent {
        LogContent {
            request_id,
            ..LogContent::default()
        }
    }

    #[tokio::test]
    async fn chunks_reach_the_one_who_asked_and_a_slow_reader_is_given_up() {
        let router = Arc::<LogRouter>::default();
        let (mut one, mut other) = (router.request(), router.request());
        assert_ne!(one.id, other.id);
        router.deliver(chunk(other.id));
        router.deliver(chunk(99));
        assert_eq!(other.chunks.recv().await, Some(chunk(other.id)));
        assert!(one.chunks.try_recv().is_err());
        for _ in 0..=QUEUE {
            router.deliver(chunk(one.id));
        }
        let mut received = 0;
        while one.chunks.recv().await.is_some() {
            received += 1;
        }
        assert_eq!(received, QUEUE);
        drop((one, other));
        assert!(router.lock().is_empty());
    }
}
