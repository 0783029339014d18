use std::{io, path::Path, sync::Arc};

use jiff::Timestamp;
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    Certificate, Credentials, CredentialsError, Identity,
    credentials::{CA, CERTIFICATE, KEY},
    dial::HTTP2,
};

/// The coordinator's side of TLS.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    client_certificates: ClientCertificates,
    not_after: Timestamp,
}

/// Whether callers can prove themselves by a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Those of the authority in `ca.crt` are believed. Who has none may still have a token.
    Known,
    /// There is no authority.
    Unknown,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls")
            .field("client_certificates", &self.client_certificates)
            .finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads `tls.crt`, `tls.key` and, if it is there, `ca.crt` of a credentials directory.
    ///
    /// # Errors
    /// If they cannot be used, or do not hold at `now`.
    pub fn read(directory: &Path, now: Timestamp) -> Result<Self, CredentialsError> {
        let path = directory.join(CERTIFICATE);
        let credentials = Credentials::read(directory, now)?;
        let Some((chain, key)) = credentials.certificate else {
            return Err(CredentialsError::Half { path });
        };
        let malformed = |name: &str, reason: String| CredentialsError::Malformed {
            path: directory.join(name),
            reason,
        };
        let builder = ServerConfig::builder();
        let (builder, client_certificates) = match credentials.roots {
            None => (builder.with_no_client_auth(), ClientCertificates::Unknown),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| malformed(CA, error.to_string()))?;
                (
                    builder.with_client_cert_verifier(verifier),
                    ClientCertificates::Known,
                )
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| malformed(KEY, error.to_string()))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            client_certificates,
            not_after: Certificate::read(&path)?.not_after,
        })
    }

    /// Whether callers can prove themselves by a certificate.
    pub fn client_certificates(&self) -> ClientCertificates {
        self.client_certificates
    }

    /// When the server's own certificate ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Agrees on keys with a caller, and sees who that is; `None` if it does not say.
    ///
    /// # Errors
    /// If they do not come to agree, or the caller's certificate is not to be believed.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Identity>)> {
        let stream = self.acceptor.accept(stream).await?;
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let identity = match leaf {
            None => None,
            Some(der) => {
                let parsed = Certificate::parse(der)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                parsed.identity
            }
        };
        Ok((stream, identity))
    }
}
