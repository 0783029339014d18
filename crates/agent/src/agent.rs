use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use muster_access::Dial;
use muster_proto::v1::Slot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    AgentError, Options, SlotsOption,
    directories::{Directories, is_plain},
    discover_slots,
    session::Session,
    slots::pins,
    supervisor::Supervisor,
};

/// More slots than any machine has GPUs or sensible CPU shares.
const MAX_SLOTS: u32 = 1024;
/// How often the stream is checked for a peer that is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long the coordinator may take to take note of the last exits.
const FAREWELL: Duration = Duration::from_secs(2);

/// A node's agent.
#[derive(Debug)]
pub struct Agent;

/// A started agent. Dropping it kills its workers; [`Handle::shutdown`] lets them end in order, and [`Handle::leave`] lets
/// them be.
#[derive(Debug)]
pub struct Handle {
    slots: Vec<Slot>,
    /// `None` once the workers are left to themselves.
    supervisor: Option<Arc<Supervisor>>,
    /// Keeps other agents out of the data directory.
    _lock: File,
    stop: CancellationToken,
    session: Option<JoinHandle<()>>,
}

impl Agent {
    /// Starts an agent. It connects in the background and keeps trying, with back-off, for as long as it lives.
    ///
    /// # Errors
    /// If the worker binary, the coordinator's address, the name, the data directory or the number of slots cannot be used.
    pub async fn start(mut options: Options) -> Result<Handle, AgentError> {
        check_slots(options.slots)?;
        check_binary(&options.worker_binary)?;
        if !is_plain(&options.name) {
            return Err(AgentError::Name { name: options.name });
        }
        // Workers run in other directories.
        if let Some(path) = &mut options.credentials
            && let Ok(absolute) = fs::canonicalize(&path)
        {
            *path = absolute;
        }
        let dial = Dial::new(&options.coordinator, options.credentials.as_deref())?;
        let dial = dial.keep_alive(KEEP_ALIVE);
        // Workers get absolute paths, whatever directory they run in.
        let absolute = |path: &Path| {
            fs::create_dir_all(path)
                .and_then(|()| fs::canonicalize(path))
                .map_err(|source| AgentError::DataDir {
                    path: path.to_path_buf(),
                    source,
                })
        };
        let directories = Directories {
            data_dir: absolute(&options.data_dir)?,
            job_dir: options.job_dir.as_deref().map(absolute).transpose()?,
        };
        let lock = lock(&directories.data_dir)?;
        let slots = discover_slots(options.slots);
        let pins = pins(options.pinning, &slots);
        let workers = directories.data_dir.join("workers");
        let supervisor =
            Supervisor::open(workers.clone(), options.shim.clone()).map_err(|source| {
                AgentError::DataDir {
                    path: workers,
                    source,
                }
            })?;
        let stop = CancellationToken::new();
        let session = Session {
            dial,
            options,
            directories,
            slots: slots.clone(),
            pins,
            supervisor: Arc::clone(&supervisor),
            stop: stop.clone(),
        };
        // Ends when `stop` is cancelled; it has no failure of its own, a lost stream is opened again.
        let session = Some(tokio::spawn(session.run()));
        Ok(Handle {
            slots,
            supervisor: Some(supervisor),
            _lock: lock,
            stop,
            session,
        })
    }
}

impl Handle {
    /// What the node offers.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Ends the workers (SIGTERM to each one's process group, SIGKILL after `grace`), tells the coordinator and leaves it.
    /// When this returns, no worker of this agent runs.
    pub async fn shutdown(mut self, grace: Duration) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.close(grace).await;
        }
        self.farewell().await;
    }

    /// Leaves the coordinator, and the workers as they are: the next agent on this data directory adopts them. They end all
    /// the same where their life is bound to this process ([`crate::Lifetime::Agent`]).
    pub async fn leave(mut self) {
        self.supervisor = None;
        self.farewell().await;
    }

    async fn farewell(&mut self) {
        self.stop.cancel();
        if let Some(session) = self.session.take()
            && tokio::time::timeout(FAREWELL, session).await.is_err()
        {
            tracing::debug!("the coordinator did not take leave in time");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(supervisor) = &self.supervisor {
            supervisor.abandon();
        }
    }
}

fn check_slots(option: SlotsOption) -> Result<(), AgentError> {
    match option {
        SlotsOption::Count(count) | SlotsOption::Cpu(count)
            if !(1..=MAX_SLOTS).contains(&count) =>
        {
            Err(AgentError::Slots {
                count,
                max: MAX_SLOTS,
            })
        }
        _ => Ok(()),
    }
}

fn lock(data_dir: &Path) -> Result<File, AgentError> {
    let path = data_dir.join("agent.lock");
    let file = File::create(&path).map_err(|source| AgentError::DataDir {
        path: path.clone(),
        source,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AgentError::Busy {
            path: data_dir.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(AgentError::DataDir { path, source }),
    }
}

fn check_binary(path: &Path) -> Result<(), AgentError> {
    let wrong = |reason: String| AgentError::WorkerBinary {
        path: path.to_path_buf(),
        reason,
    };
    let metadata = fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    match metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err(wrong("it is not an executable file".into())),
    }
}
