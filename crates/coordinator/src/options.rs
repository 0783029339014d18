use std::{io, net::SocketAddr, path::PathBuf};

use muster_access::{CredentialsError, TokenError};
use muster_cluster::UserQuotas;
use muster_store::JournalError;

/// What a coordinator is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 means any free one.
    pub listen: SocketAddr,
    /// Holds `journal.sqlite`, and `jobs/<job id>` unless `job_dir` is given.
    pub data_dir: PathBuf,
    /// Where the files of all jobs go instead: for one job in one process.
    pub job_dir: Option<PathBuf>,
    /// Credentials directory with the coordinator's certificate and key, and with the authority of its callers' certificates.
    pub tls: Option<PathBuf>,
    /// The file of tokens that callers may show.
    pub tokens: Option<PathBuf>,
    /// Accept that everyone who reaches the address may submit jobs, where neither certificates nor tokens tell who calls.
    pub insecure: bool,
    /// How many slots a user's jobs may hold.
    pub user_quotas: UserQuotas,
}

impl Options {
    /// Options of a coordinator with its jobs below `data_dir`, for loopback.
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            data_dir: data_dir.into(),
            job_dir: None,
            tls: None,
            tokens: None,
            insecure: false,
            user_quotas: UserQuotas::default(),
        }
    }
}

/// Why a coordinator did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// It would be open to others.
    #[error(
        "{listen} can be reached from other machines, and nothing tells who calls; name certificates with --tls or tokens with --tokens, listen on 127.0.0.1, or pass --insecure on a network that you trust"
    )]
    Exposed {
        /// The address.
        listen: SocketAddr,
    },
    /// Its own certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The address cannot be had.
    #[error("cannot listen on {listen}: {source}; free the port or choose another with --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// No place for the journal.
    #[error("the data directory {path} cannot be used: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The journal cannot be used. Nothing is decided that is not on record, so the coordinator stops.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A part of it ended that must not.
    #[error("the coordinator stopped: {reason}; start it again, jobs go on where they are")]
    Stopped {
        /// What happened.
        reason: String,
    },
}
