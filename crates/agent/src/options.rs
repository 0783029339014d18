use std::{io, path::PathBuf};

use muster_access::DialError;

use crate::Pinning;

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://HOST:PORT` or `https://HOST:PORT` of the coordinator. Workers are given the same.
    pub coordinator: String,
    /// Directory of what this node proves itself with. Workers are given the same.
    pub credentials: Option<PathBuf>,
    /// The node's name; no two connected agents have the same.
    pub name: String,
    /// Host or IP at which other nodes reach this one's workers.
    pub advertise: String,
    /// What the node offers.
    pub slots: SlotsOption,
    /// Files of jobs lie in `jobs/<job id>` below it, unless `job_dir` is given.
    pub data_dir: PathBuf,
    /// Where the files of all jobs go instead: for one job in one process.
    pub job_dir: Option<PathBuf>,
    /// The `muster-worker` binary.
    pub worker_binary: PathBuf,
    /// A program and its arguments that, with a directory as one more, does as [`crate::shim::run`].
    pub shim: Vec<PathBuf>,
    /// How long workers may live.
    pub lifetime: Lifetime,
    /// Whether they are bound to cores.
    pub pinning: Pinning,
}

/// How long workers may live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// They outlive their agent: the next one on the same data directory adopts them.
    #[default]
    Own,
    /// They die with their agent, however that dies.
    Agent,
}

/// Which slots a node offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotsOption {
    /// One slot a GPU; without a GPU, one CPU slot.
    #[default]
    Auto,
    /// So many slots: dealt over the GPUs in turn, several to a GPU if need be; without a GPU, CPU slots.
    Count(u32),
    /// So many CPU slots, GPUs or not.
    Cpu(u32),
}

impl Options {
    /// Options of a node that other nodes need not reach, offering [`SlotsOption::Auto`].
    pub fn new(
        coordinator: impl Into<String>,
        name: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        worker_binary: impl Into<PathBuf>,
        shim: Vec<PathBuf>,
    ) -> Self {
        Self {
            coordinator: coordinator.into(),
            credentials: None,
            name: name.into(),
            advertise: "127.0.0.1".into(),
            slots: SlotsOption::Auto,
            data_dir: data_dir.into(),
            job_dir: None,
            worker_binary: worker_binary.into(),
            shim,
            lifetime: Lifetime::Own,
            pinning: Pinning::Slots,
        }
    }
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No worker can be started with it.
    #[error(
        "the worker binary {path} cannot be used: {reason}; build it with `make build`, or name another one"
    )]
    WorkerBinary {
        /// The binary.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The coordinator cannot be called.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No place for logs.
    #[error("the data directory {path} cannot be used: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another agent is at work.
    #[error(
        "another agent uses the data directory {path}; give each agent its own --data-dir, or end the other one"
    )]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing to offer.
    #[error("an agent offers between 1 and {max} slots, not {count}")]
    Slots {
        /// What was asked for.
        count: u32,
        /// The most.
        max: u32,
    },
    /// A name that cannot be one.
    #[error("{name:?} cannot be a node's name; use letters, digits, dots and dashes")]
    Name {
        /// What was given.
        name: String,
    },
}
