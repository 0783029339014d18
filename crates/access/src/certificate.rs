use std::{fs, io, path::Path, path::PathBuf};

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{ANY_NODE, Identity, is_a_name};

/// A subject's organization `muster:ROLE` gives its holder that role.
pub(crate) const ROLE_PREFIX: &str = "muster:";

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name.
    pub name: String,
    /// Who it makes its holder; `None` for authorities and servers.
    pub identity: Option<Identity>,
    /// Whether it is an authority's.
    pub is_authority: bool,
    /// The names and addresses that a server with it may be reached at.
    pub hosts: Vec<String>,
    /// Its first moment.
    pub not_before: Timestamp,
    /// Its last moment.
    pub not_after: Timestamp,
}

/// Why a certificate tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file holds none.
    #[error("{path} is no PEM file with a certificate: {reason}")]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be made out.
    #[error("it is no X.509 certificate: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

impl Certificate {
    /// The first certificate of a PEM file.
    ///
    /// # Errors
    /// If the file cannot be read or holds no certificate.
    pub fn read(path: &Path) -> Result<Self, CertificateError> {
        let chain = read_chain(path)?;
        Self::parse(&chain[0]).map_err(|error| CertificateError::NotPem {
            path: path.into(),
            reason: error.to_string(),
        })
    }

    /// What a certificate in DER says. Whether it may be believed is for whoever checked its signature.
    ///
    /// # Errors
    /// If it is no certificate.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |reason: String| CertificateError::Malformed { reason };
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        let subject = parsed.subject();
        let text = |it: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            it.as_str().unwrap_or_default().to_owned()
        };
        let name = subject
            .iter_common_name()
            .next()
            .map(text)
            .unwrap_or_default();
        let mut roles = subject.iter_organization().filter_map(|it| {
            let role = it.as_str().ok()?.strip_prefix(ROLE_PREFIX)?;
            role.parse().ok()
        });
        // Who has two roles was not meant to have either.
        let role = match (roles.next(), roles.next()) {
            (Some(role), None) if is_a_name(&name) || name == ANY_NODE => Some(role),
            _ => None,
        };
        let moment = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|error| malformed(error.to_string()))
        };
        Ok(Self {
            identity: role.map(|role| Identity {
                name: name.clone(),
                role,
            }),
            name,
            is_authority: parsed.is_ca(),
            hosts: hosts(&parsed),
            not_before: moment(parsed.validity().not_before)?,
            not_after: moment(parsed.validity().not_after)?,
        })
    }

    /// Why it does not hold at `now`; `None` if it does.
    pub fn wrong_time(&self, now: Timestamp) -> Option<String> {
        if now > self.not_after {
            Some(format!("expired at {}", self.not_after))
        } else if now < self.not_before {
            Some(format!(
                "is not valid before {}, and the clock here says {now:.0}",
                self.not_before
            ))
        } else {
            None
        }
    }
}

fn hosts(parsed: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|it| std::net::Ipv4Addr::from(it).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|it| std::net::Ipv6Addr::from(it).to_string()),
        },
        _ => None,
    };
    names.filter_map(host).collect()
}

/// The certificates of a PEM file, at least one.
pub(crate) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let content = fs::read(path).map_err(|source| CertificateError::Unreadable {
        path: path.into(),
        source,
    })?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let wrong = |reason: String| CertificateError::NotPem {
        path: path.into(),
        reason,
    };
    match chain {
        Ok(chain) if chain.is_empty() => Err(wrong("there is no CERTIFICATE in it".into())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(wrong(error.to_string())),
    }
}
