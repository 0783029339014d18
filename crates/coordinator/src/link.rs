use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// Commands that wait for a peer's network. A peer that lets more wait does not read: its stream is given up.
const QUEUE: usize = 1024;

/// The coordinator's end of one peer's stream. Dropping it lets what is queued go out, then ends the stream.
#[derive(Debug)]
pub(crate) struct Link<T> {
    /// Tells the peer's streams apart: what an older one still says is not the peer's word any more.
    pub(crate) session: u64,
    outbound: mpsc::Sender<Result<T, Status>>,
    _reader: DropGuard,
}

/// The peer does not read, or its stream is gone.
pub(crate) struct Stuck;

impl<T> Link<T> {
    /// A link, what feeds the peer's stream, and the token that ends the task which reads from it.
    pub(crate) fn new(
        session: u64,
    ) -> (Self, mpsc::Receiver<Result<T, Status>>, CancellationToken) {
        let (outbound, queue) = mpsc::channel(QUEUE);
        let reader = CancellationToken::new();
        let link = Self {
            session,
            outbound,
            _reader: reader.clone().drop_guard(),
        };
        (link, queue, reader)
    }

    /// Queues a command; never waits.
    pub(crate) fn send(&self, command: T) -> Result<(), Stuck> {
        self.outbound.try_send(Ok(command)).map_err(|_| Stuck)
    }

    /// Whether the peer's stream is known to be gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.outbound.is_closed()
    }
}
