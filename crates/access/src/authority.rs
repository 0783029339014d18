use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use crate::{
    Identity, Role,
    certificate::ROLE_PREFIX,
    credentials::{CA, CERTIFICATE, KEY},
    new_file::{self, Readers},
};

/// The authority's private key, in the authority's own directory and nowhere else.
const CA_KEY: &str = "ca.key";
/// Clocks of a cluster may differ by so much without a new certificate being refused.
const CLOCK_ERROR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A cluster's own certificate authority.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A coordinator, reached at these names and addresses.
    Server {
        /// DNS names and IP addresses.
        hosts: Vec<String>,
    },
    /// Someone who calls it.
    Caller(Identity),
}

/// How long a certificate holds.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// Its first moment, less an hour for clocks that are behind.
    pub from: SystemTime,
    /// Days from then.
    pub days: u32,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("{path} is there already; nothing was changed")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{path} cannot be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A certificate or key cannot be made, or made out.
    #[error("{path}: {reason}")]
    Certificate {
        /// The file that it is or was to be.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Authority {
    /// Makes a new authority: `ca.crt`, and `ca.key` which only its owner may read.
    ///
    /// # Errors
    /// If the directory holds one already, or cannot be written.
    pub fn create(directory: &Path, validity: Validity) -> Result<Self, AuthorityError> {
        make_directory(directory)?;
        let (path, key_path) = (directory.join(CA), directory.join(CA_KEY));
        refuse_existing(&[&path, &key_path])?;
        let wrong = |error: rcgen::Error| AuthorityError::Certificate {
            path: path.clone(),
            reason: error.to_string(),
        };
        let key = KeyPair::generate().map_err(wrong)?;
        // Authorities are told apart by name before their signatures are looked at.
        let mark = &blake3::hash(key.public_key_raw()).to_hex()[..8];
        let name = format!("Muster cluster authority {mark}");
        let mut params = params(&[], &name, None, validity).map_err(wrong)?;
        // It signs certificates of callers and servers, and no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(wrong)?.pem();
        put(&key_path, &key.serialize_pem(), Readers::Owner)?;
        put(&path, &certificate_pem, Readers::All)?;
        Ok(Self {
            certificate_pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// Opens the authority in a directory.
    ///
    /// # Errors
    /// If there is none, or its key does not belong to its certificate.
    pub fn open(directory: &Path) -> Result<Self, AuthorityError> {
        let (path, key_path) = (directory.join(CA), directory.join(CA_KEY));
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| AuthorityError::Io {
                path: path.into(),
                source,
            })
        };
        let wrong = |path: &Path, error: rcgen::Error| AuthorityError::Certificate {
            path: path.into(),
            reason: error.to_string(),
        };
        let certificate_pem = read(&path)?;
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| wrong(&key_path, e))?;
        let issuer =
            Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(|e| wrong(&path, e))?;
        Ok(Self {
            certificate_pem,
            issuer,
        })
    }

    /// Makes a credentials directory: `ca.crt`, `tls.crt`, and `tls.key` which only its owner may read.
    ///
    /// # Errors
    /// If the subject cannot be certified or the files cannot be written.
    pub fn issue(
        &self,
        subject: &Subject,
        validity: Validity,
        directory: &Path,
    ) -> Result<(), AuthorityError> {
        let path = directory.join(CERTIFICATE);
        let wrong = |error: rcgen::Error| AuthorityError::Certificate {
            path: path.clone(),
            reason: error.to_string(),
        };
        let (hosts, name, role, usage) = match subject {
            Subject::Server { hosts } => (
                hosts.as_slice(),
                "coordinator",
                None,
                ExtendedKeyUsagePurpose::ServerAuth,
            ),
            Subject::Caller(caller) => (
                [].as_slice(),
                caller.name.as_str(),
                Some(caller.role),
                ExtendedKeyUsagePurpose::ClientAuth,
            ),
        };
        let key = KeyPair::generate().map_err(wrong)?;
        let mut params = params(hosts, name, role, validity).map_err(wrong)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        make_directory(directory)?;
        put(&directory.join(CA), &self.certificate_pem, Readers::All)?;
        put(&directory.join(KEY), &key.serialize_pem(), Readers::Owner)?;
        put(&path, &certificate.pem(), Readers::All)
    }
}

fn params(
    hosts: &[String],
    name: &str,
    role: Option<Role>,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(role) = role {
        let organization = format!("{ROLE_PREFIX}{role}");
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
    }
    params.not_before = (validity.from - CLOCK_ERROR).into();
    params.not_after = (validity.from + DAY * validity.days).into();
    Ok(params)
}

fn make_directory(path: &Path) -> Result<(), AuthorityError> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(|source| AuthorityError::Io {
        path: path.into(),
        source,
    })
}

fn refuse_existing(paths: &[&Path]) -> Result<(), AuthorityError> {
    match paths.iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(AuthorityError::Exists {
            path: path.to_path_buf(),
        }),
    }
}

fn put(path: &Path, content: &str, readers: Readers) -> Result<(), AuthorityError> {
    new_file::put(path, content.as_bytes(), readers).map_err(|source| AuthorityError::Io {
        path: path.into(),
        source,
    })
}
