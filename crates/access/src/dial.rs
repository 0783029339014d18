use std::{
    error::Error,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

use crate::{Credentials, CredentialsError, Secret};

/// What both sides of TLS agree to speak.
pub(crate) const HTTP2: &[u8] = b"h2";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// A connection to a coordinator that says who calls.
pub type Connection = InterceptedService<Channel, Bearer>;

/// How a coordinator is reached.
#[derive(Clone, Debug)]
pub struct Dial {
    uri: Uri,
    credentials: Option<PathBuf>,
    keep_alive: Duration,
}

/// Why a coordinator cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address.
    #[error(
        "{url:?} is no address of a coordinator: {reason}; give http://HOST:PORT or https://HOST:PORT"
    )]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller's own side cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Whom to believe is not known.
    #[error(
        "{url} asks for TLS, but there is no ca.crt to know the coordinator by; name a credentials directory that holds one (--credentials or MUSTER_CREDENTIALS)"
    )]
    NoAuthority {
        /// The address.
        url: String,
    },
    /// Certificates need TLS.
    #[error(
        "{url} is without TLS, and the credentials hold no token: certificates prove nothing there; say https://"
    )]
    Plain {
        /// The address.
        url: String,
    },
    /// No connection came to be.
    #[error("cannot reach the coordinator at {url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// All that caused it.
        reason: String,
    },
}

impl Dial {
    /// Reaches the coordinator at `url`, proving itself with what the directory holds.
    ///
    /// # Errors
    /// If the address is none, or the credentials cannot be used for it.
    pub fn new(url: &str, credentials: Option<&Path>) -> Result<Self, DialError> {
        let wrong = |reason: String| DialError::Address {
            url: url.into(),
            reason,
        };
        let uri: Uri = url
            .parse()
            .map_err(|error: tonic::codegen::http::uri::InvalidUri| wrong(error.to_string()))?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(host)) if !host.is_empty() => {}
            _ => return Err(wrong("it names no host".into())),
        }
        let dial = Self {
            uri,
            credentials: credentials.map(Path::to_path_buf),
            keep_alive: CONNECT_TIMEOUT,
        };
        dial.read()?;
        Ok(dial)
    }

    /// How often a quiet connection is checked for a coordinator that is gone without a word.
    #[must_use]
    pub fn keep_alive(mut self, period: Duration) -> Self {
        self.keep_alive = period;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// If the credentials cannot be used any more, or no connection comes to be.
    pub async fn connect(&self) -> Result<Connection, DialError> {
        let bearer = Bearer::new(self.read()?.token);
        let connector = self.clone().connector(bearer.clone());
        let opened = self.endpoint().connect_with_connector(connector).await;
        let channel = opened.map_err(|error| DialError::Unreachable {
            url: self.uri.to_string(),
            reason: whole_cause(&error),
        })?;
        Ok(InterceptedService::new(channel, bearer))
    }

    /// Connects when the first call is made, and again whenever a connection is lost. Needs a runtime at hand.
    ///
    /// # Errors
    /// If the credentials cannot be used.
    pub fn connect_lazy(&self) -> Result<Connection, DialError> {
        let bearer = Bearer::new(self.read()?.token);
        let connector = self.clone().connector(bearer.clone());
        let channel = self.endpoint().connect_with_connector_lazy(connector);
        Ok(InterceptedService::new(channel, bearer))
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.uri.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(self.keep_alive)
            .keep_alive_timeout(self.keep_alive)
            .keep_alive_while_idle(true)
    }

    fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    fn is_loopback(&self) -> bool {
        let host = self.host();
        let address = host.parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|it| it.is_loopback())
    }

    /// The coordinator's name or address. An IPv6 address is in brackets in a URL, and bare here.
    fn host(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// What the credentials directory holds now.
    fn read(&self) -> Result<Credentials, DialError> {
        let credentials = match &self.credentials {
            None => Credentials::default(),
            Some(directory) => Credentials::read(directory, Timestamp::now())?,
        };
        let url = || self.uri.to_string();
        match (self.is_tls(), &self.credentials) {
            (true, _) if credentials.roots.is_none() => Err(DialError::NoAuthority { url: url() }),
            // On this machine anyone may have started a coordinator that asks for nothing.
            (false, Some(_)) if credentials.token.is_none() && !self.is_loopback() => {
                Err(DialError::Plain { url: url() })
            }
            _ => Ok(credentials),
        }
    }

    /// Opens connections, each with the credentials as they are then.
    fn connector(
        self,
        bearer: Bearer,
    ) -> impl tower::Service<
        Uri,
        Response = TokioIo<Box<dyn Stream>>,
        Error = io::Error,
        Future = impl Future<Output = io::Result<TokioIo<Box<dyn Stream>>>> + Send,
    > + Send
    + Clone {
        let dial = Arc::new(self);
        tower::service_fn(move |_: Uri| {
            let (dial, bearer) = (Arc::clone(&dial), bearer.clone());
            async move { dial.open(&bearer).await.map(TokioIo::new) }
        })
    }

    async fn open(&self, bearer: &Bearer) -> io::Result<Box<dyn Stream>> {
        let refused = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
        let credentials = self.read().map_err(|error| refused(error.to_string()))?;
        bearer.set(credentials.token);
        let host = self.host().to_owned();
        let default = if self.is_tls() { HTTPS_PORT } else { HTTP_PORT };
        let port = self.uri.port_u16().unwrap_or(default);
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let roots = match credentials.roots {
            Some(roots) if self.is_tls() => roots,
            _ => return Ok(Box::new(stream)),
        };
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match credentials.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| refused(format!("tls.key does not go with tls.crt: {error}")))?,
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        let name = ServerName::try_from(host).map_err(|error| refused(error.to_string()))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
        Ok(Box::new(stream.await?))
    }
}

/// Both directions of a connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Puts the caller's token on each call.
#[derive(Clone)]
pub struct Bearer(Arc<RwLock<Option<MetadataValue<Ascii>>>>);

impl Bearer {
    fn new(token: Option<Secret>) -> Self {
        let bearer = Self(Arc::default());
        bearer.set(token);
        bearer
    }

    fn set(&self, token: Option<Secret>) {
        // A token was checked to be printable when it was read.
        let value = token.and_then(|token| format!("Bearer {}", token.reveal()).parse().ok());
        let value = value.map(|mut value: MetadataValue<Ascii>| {
            value.set_sensitive(true);
            value
        });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(value) = value {
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// `HOST:PORT` of a URL, for sockets.
pub fn place(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// An error with all that caused it; tonic's own words leave the causes out.
pub fn whole_cause(error: &dyn Error) -> String {
    let mut words = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if words.last() != Some(&text) {
            words.push(text);
        }
        next = cause.source();
    }
    words.join(": ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_has_a_scheme_and_a_host() {
        assert!(Dial::new("http://[::1]:7070", None).is_ok());
        for bad in [
            "",
            "node-1:7070",
            "ftp://node-1:7070",
            "http://",
            "http:///x",
        ] {
            assert!(
                matches!(Dial::new(bad, None), Err(DialError::Address { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn tls_needs_an_authority_and_a_certificate_needs_tls() {
        let dir = tempfile::tempdir().unwrap();
        let no_authority = Dial::new("https://node-1:7070", None);
        assert!(matches!(no_authority, Err(DialError::NoAuthority { .. })));
        Secret::new("abc").write(dir.path()).unwrap();
        assert!(Dial::new("http://node-1:7070", Some(dir.path())).is_ok());
        let no_authority = Dial::new("https://node-1:7070", Some(dir.path()));
        assert!(matches!(no_authority, Err(DialError::NoAuthority { .. })));
    }

    #[test]
    fn a_place_is_what_a_socket_connects_to() {
        assert_eq!(place("https://node-1:7070/"), "node-1:7070");
        assert_eq!(place("http://[::1]:7070"), "[::1]:7070");
        assert_eq!(place("node-1:7070"), "node-1:7070");
    }
}
