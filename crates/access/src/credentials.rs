use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    Certificate, CertificateError,
    certificate::read_chain,
    new_file::{self, Readers},
};

/// The authority's certificate, in a credentials directory.
pub(crate) const CA: &str = "ca.crt";
/// The holder's certificate, with those between it and the authority.
pub(crate) const CERTIFICATE: &str = "tls.crt";
/// The private key to it.
pub(crate) const KEY: &str = "tls.key";
/// The holder's token.
const TOKEN: &str = "token";

/// So many random bytes are in a token: nobody guesses it, so a plain digest of it keeps it safe.
const TOKEN_BYTES: usize = 32;
/// Tells people and secret scanners what it is.
const TOKEN_PREFIX: &str = "muster-";
/// A token is a line; a file that is longer is something else.
const LONGEST_TOKEN: usize = 512;

/// What must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one, from the system's randomness.
    ///
    /// # Errors
    /// If the system has none.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(TOKEN_PREFIX.to_owned() + &hex))
    }

    /// What was presented as one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for its one owner, or for the wire.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Writes it as `token` into a credentials directory, readable for its owner only.
    ///
    /// # Errors
    /// The system's words.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let line = format!("{}\n", self.0);
        new_file::put(&directory.join(TOKEN), line.as_bytes(), Readers::Owner)
    }
}

/// What one party proves itself with, and knows others by.
#[derive(Debug, Default)]
pub struct Credentials {
    /// Whom it believes.
    pub(crate) roots: Option<RootCertStore>,
    /// Its own certificate, the chain up to the authority, and the key.
    pub(crate) certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Its token.
    pub(crate) token: Option<Secret>,
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// There is nothing in it.
    #[error(
        "{path} is no credentials directory: it holds none of ca.crt, tls.crt with tls.key, and token; `muster certs` and `muster token` make them"
    )]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// A file of it cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A certificate file is wrong.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file of it is not what its name says.
    #[error("{path} cannot be used: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong. Never what it holds.
        reason: String,
    },
    /// Half of a pair.
    #[error("{path} is missing: a certificate and its key go together")]
    Half {
        /// The file.
        path: PathBuf,
    },
    /// Its time is over, or has not come.
    #[error("the certificate {path} {reason}; make a new one with `muster certs issue`")]
    WrongTime {
        /// The file.
        path: PathBuf,
        /// When it holds.
        reason: String,
    },
}

impl Credentials {
    /// Whether they tell whom to believe: then TLS can be spoken.
    pub fn knows_authority(&self) -> bool {
        self.roots.is_some()
    }

    /// Reads what a credentials directory holds, and checks that its certificates hold at `now`.
    ///
    /// # Errors
    /// If there is nothing in it, or something that cannot be used.
    pub fn read(directory: &Path, now: Timestamp) -> Result<Self, CredentialsError> {
        let at = |name| directory.join(name);
        let is_there = |name| at(name).exists();
        let credentials = Self {
            roots: is_there(CA).then(|| roots(&at(CA))).transpose()?,
            certificate: match (is_there(CERTIFICATE), is_there(KEY)) {
                (false, false) => None,
                (true, true) => Some(pair(&at(CERTIFICATE), &at(KEY), now)?),
                (false, true) => {
                    return Err(CredentialsError::Half {
                        path: at(CERTIFICATE),
                    });
                }
                (true, false) => return Err(CredentialsError::Half { path: at(KEY) }),
            },
            token: is_there(TOKEN).then(|| token(&at(TOKEN))).transpose()?,
        };
        let Self {
            roots: None,
            certificate: None,
            token: None,
        } = credentials
        else {
            return Ok(credentials);
        };
        Err(CredentialsError::Empty {
            path: directory.into(),
        })
    }
}

fn roots(path: &Path) -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for authority in read_chain(path)? {
        roots
            .add(authority)
            .map_err(|error| CredentialsError::Malformed {
                path: path.into(),
                reason: format!("it holds no authority's certificate: {error}"),
            })?;
    }
    Ok(roots)
}

fn pair(
    certificate: &Path,
    key: &Path,
    now: Timestamp,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CredentialsError> {
    if let Some(reason) = Certificate::read(certificate)?.wrong_time(now) {
        return Err(CredentialsError::WrongTime {
            path: certificate.into(),
            reason,
        });
    }
    let content = fs::read(key).map_err(|source| CredentialsError::Unreadable {
        path: key.into(),
        source,
    })?;
    let read = PrivateKeyDer::from_pem_slice(&content);
    let read = read.map_err(|_| CredentialsError::Malformed {
        path: key.into(),
        reason: "it is no PEM file with a private key".into(),
    })?;
    Ok((read_chain(certificate)?, read))
}

fn token(path: &Path) -> Result<Secret, CredentialsError> {
    let content = fs::read_to_string(path).map_err(|source| CredentialsError::Unreadable {
        path: path.into(),
        source,
    })?;
    let line = content.trim();
    let is_plain = line.bytes().all(|byte| byte.is_ascii_graphic());
    if line.is_empty() || line.len() > LONGEST_TOKEN || !is_plain {
        return Err(CredentialsError::Malformed {
            path: path.into(),
            reason: "a token is one line without spaces".into(),
        });
    }
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_secret_does_not_show() {
        let secret = Secret::generate().unwrap();
        assert_eq!(secret.reveal().len(), TOKEN_PREFIX.len() + 2 * TOKEN_BYTES);
        assert_ne!(secret, Secret::generate().unwrap());
        assert!(!format!("{secret:?}").contains(TOKEN_PREFIX));
    }

    #[test]
    fn a_directory_holds_at_least_something_and_no_halves() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Credentials::read(dir.path(), Timestamp::UNIX_EPOCH);
        assert!(matches!(read(), Err(CredentialsError::Empty { .. })));
        Secret::new("abc").write(dir.path()).unwrap();
        assert_eq!(read().unwrap().token, Some(Secret::new("abc")));
        fs::write(dir.path().join(KEY), "anything").unwrap();
        assert!(matches!(read(), Err(CredentialsError::Half { .. })));
        fs::write(dir.path().join(CERTIFICATE), "anything").unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains("tls.crt is no PEM file"), "{error}");
    }

    #[test]
    fn what_a_bad_token_file_holds_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(TOKEN), "hush hush\n").unwrap();
        let error = Credentials::read(dir.path(), Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"));
    }
}
