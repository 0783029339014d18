use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use muster_access::Dial;
use muster_proto::v1::Slot;
use tokio::{sync::watch, task::JoinHandle};
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
/// How long a stream to the coordinator may take to come back, where the workers' leaving hangs on it.
const RECONNECT: Duration = Duration::from_secs(3);
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
    leaving: watch::Sender<Option<u32>>,
    connected: watch::Receiver<bool>,
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
        let (leaving, told_to_leave) = watch::channel(None);
        let (reach, connected) = watch::channel(false);
        let session = Session {
            dial,
            options,
            directories,
            slots: slots.clone(),
            pins,
            supervisor: Arc::clone(&supervisor),
            leaving: told_to_leave,
            connected: reach,
            stop: stop.clone(),
        };
        // Ends when `stop` is cancelled; it has no failure of its own, a lost stream is opened again.
        let session = Some(tokio::spawn(session.run()));
        Ok(Handle {
            slots,
            supervisor: Some(supervisor),
            _lock: lock,
            leaving,
            connected,
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

    /// Says that this agent is about to end, and waits for up to `grace` until its workers have left in good order: moved
    /// elsewhere, or with a checkpoint. Where the coordinator is out of reach, nobody would have them do so.
    pub async fn drain(&self, grace: Duration) {
        let Some(supervisor) = &self.supervisor else {
            return;
        };
        // In whole seconds, and never later than it is.
        let seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
        self.leaving.send_replace(Some(seconds));
        tokio::select! {
            () = supervisor.all_ended() => {}
            () = self.is_out_of_reach() => {
                tracing::warn!("the coordinator is out of reach; the workers cannot leave in good order");
            }
            () = tokio::time::sleep(grace) => {
                tracing::warn!(grace_s = seconds, "not all workers have left in time");
            }
        }
    }

    /// Returns once there has been no stream to the coordinator for a while.
    async fn is_out_of_reach(&self) {
        let mut connected = self.connected.clone();
        loop {
            let back = connected.wait_for(|connected| *connected);
            // The session ends with this handle, and not before.
            if !matches!(tokio::time::timeout(RECONNECT, back).await, Ok(Ok(_))) {
                return;
            }
            if connected.wait_for(|connected| !connected).await.is_err() {
                return;
            }
        }
    }

    /// Ends the workers (SIGINT to each one's process group, SIGKILL after `grace`), tells the coordinator and leaves it.
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
