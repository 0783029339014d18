use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What every HTTP/2 client says first (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits for the preface, and takes it off the stream. The server behind would wait for ever, for whoever opens a connection and
/// says nothing.
///
/// # Errors
/// If something else comes, or the end.
pub(crate) async fn take_preface(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
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
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_preface_is_taken_off_and_garbage_is_not_waited_for() {
        let said = [PREFACE, b"frames"].concat();
        let mut stream = said.as_slice();
        take_preface(&mut stream).await.unwrap();
        assert_eq!(stream, b"frames");
        for garbage in [b"GET / HTTP/1.1".as_slice(), b"PRI *", b"\x16\x03\x01", b""] {
            assert!(take_preface(&mut &*garbage).await.is_err());
        }
    }
}
