use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use muster_access::{Identity, ServerTls};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::preface::{PREFACE, take_preface};

/// How long a caller may take until it speaks HTTP/2.
const OPENING: Duration = Duration::from_secs(10);
/// So many callers may be on their way there; others wait in the kernel's queue.
const MOST_OPENING: usize = 256;
/// Pause after the system refused a connection, as it does when file descriptors run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes callers in, one connection each.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) stop: CancellationToken,
}

impl Listener {
    /// Connections that speak HTTP/2, until `stop` is cancelled.
    pub(crate) fn connections(self) -> ReceiverStream<io::Result<Connection>> {
        let (opened, connections) = mpsc::channel(1);
        // Ends when `stop` is cancelled or nobody takes connections any more; it has no failure of its own.
        tokio::spawn(async move {
            let stop = self.stop.clone();
            tokio::select! {
                () = self.accept(opened.clone()) => {}
                () = stop.cancelled() => {}
                () = opened.closed() => {}
            }
        });
        ReceiverStream::new(connections)
    }

    async fn accept(self, opened: mpsc::Sender<io::Result<Connection>>) {
        let places = Arc::new(Semaphore::new(MOST_OPENING));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection; trying again");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (tls, opened) = (self.tls.clone(), opened.clone());
            // Ends when the caller has opened, or failed to.
            tokio::spawn(async move {
                let _place = place;
                match tokio::time::timeout(OPENING, open(stream, address, tls)).await {
                    // Without a server nobody waits for it.
                    Ok(Ok(connection)) => drop(opened.send(Ok(connection)).await),
                    Ok(Err(error)) => refused(address, &error),
                    Err(_) => tracing::debug!(%address, "a caller said nothing"),
                }
            });
        }
    }
}

/// Scanners knock at every port, so only what a real caller may have got wrong is worth a line.
fn refused(address: SocketAddr, error: &io::Error) {
    let cause = error.get_ref().and_then(|it| it.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            tracing::warn!(%address, %reason, "a caller's certificate was refused");
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            tracing::warn!(%address, ?alert, "a caller does not believe this coordinator");
        }
        _ => tracing::debug!(%address, %error, "a connection came to nothing"),
    }
}

async fn open(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<ServerTls>,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let (mut stream, identity): (Box<dyn Stream>, _) = match tls {
        None => (Box::new(stream), None),
        Some(tls) => {
            let (stream, identity) = tls.accept(stream).await?;
            (Box::new(stream), identity)
        }
    };
    take_preface(&mut stream).await?;
    Ok(Connection {
        stream,
        handed_on: 0,
        peer: Peer { address, identity },
    })
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Proven by a certificate.
    pub(crate) identity: Option<Identity>,
}

/// Both directions of a connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A caller's connection. Its preface was read already; whoever reads gets it again.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    /// Bytes of the preface that were handed on.
    handed_on: usize,
    peer: Peer,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &PREFACE[self.handed_on..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.handed_on += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
