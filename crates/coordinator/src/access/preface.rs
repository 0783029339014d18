use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose preface was read already; whoever reads it gets the preface again.
#[derive(Debug)]
pub(crate) struct Prefaced<S> {
    stream: S,
    /// Bytes of the preface that were handed on.
    handed_on: usize,
}

impl<S: AsyncRead + Unpin> Prefaced<S> {
    /// Waits for the preface. The server behind would wait for ever, for whoever opens a connection and says nothing.
    ///
    /// # Errors
    /// If something else comes, or the end.
    pub(crate) async fn read(mut stream: S) -> io::Result<Self> {
        let mut said = [0; PREFACE.len()];
        let mut length = 0;
        while length < PREFACE.len() {
            match stream.read(&mut said[length..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => length += more,
            }
            if !PREFACE.starts_with(&said[..length]) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is no HTTP/2",
                ));
            }
        }
        Ok(Self {
            stream,
            handed_on: 0,
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefaced<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefaced<S> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_preface_is_handed_on_and_garbage_is_not_waited_for() {
        let said = [PREFACE, b"frames"].concat();
        let mut stream = Prefaced::read(said.as_slice()).await.unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, said);
        for garbage in [b"GET / HTTP/1.1".as_slice(), b"PRI *", b"\x16\x03\x01", b""] {
            assert!(Prefaced::read(garbage).await.is_err());
        }
    }
}
