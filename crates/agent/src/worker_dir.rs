use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{directories::is_plain, process::Process};

const ORDER: &str = "order.json";
const RUNNING: &str = "running.json";
const EXIT: &str = "exit.json";
const LOCK: &str = "lock";

/// The directory in which an agent and a worker's shim meet.
///
/// `order.json` is what the shim is to do, `running.json` and `exit.json` are what it did. The lock is held by the shim,
/// the worker and whatever that starts, as their standard input: while anyone of them lives, it cannot be taken.
#[derive(Clone, Debug)]
pub(crate) struct WorkerDir {
    path: PathBuf,
}

/// All that a shim starts a worker with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) job: String,
    pub(crate) worker: String,
    pub(crate) slot: u32,
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// On top of what the shim inherits.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where the worker's stdout and stderr go.
    pub(crate) log: PathBuf,
    /// Cores that it stays on; none: all.
    #[serde(default)]
    pub(crate) cores: BTreeSet<usize>,
    /// The agent's process, where the worker is to die with it.
    pub(crate) bound_to: Option<u32>,
}

/// How a worker ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// Why it was not started; empty where it was.
    pub(crate) start_error: String,
    /// Its last lines.
    pub(crate) stderr_tail: String,
}

impl WorkerDir {
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directories of all workers below `parent` that are running, or whose end was not taken note of.
    pub(crate) fn all(parent: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_plain) && entry.file_type()?.is_dir() {
                found.push(Self::at(entry.path()));
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Makes the directory and has `shim` carry out the order. The lock is held from here on until all has ended.
    pub(crate) fn begin(&self, order: &Order, shim: &[PathBuf]) -> io::Result<Child> {
        use std::os::unix::process::CommandExt;
        let (program, arguments) = shim
            .split_first()
            .ok_or_else(|| io::Error::other("no shim to start"))?;
        fs::create_dir_all(&self.path)?;
        // Before the order: where there is an order, there is a lock.
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.path.join(LOCK))?;
        lock.lock()?;
        self.write(ORDER, order)?;
        let log = open_log(&order.log)?;
        Command::new(program)
            .args(arguments)
            .arg(&self.path)
            .stdin(lock)
            .stdout(Stdio::null())
            .stderr(log)
            // What a terminal sends to the agent's group is not meant for the workers.
            .process_group(0)
            .spawn()
    }

    pub(crate) fn order(&self) -> io::Result<Order> {
        self.read(ORDER)?
            .ok_or_else(|| io::Error::other(format!("{} holds no order", self.path.display())))
    }

    /// The order that an earlier agent gave; `None` where it died before it had given one, so that nothing was started.
    ///
    /// # Errors
    /// If the order cannot be read, and somebody may be there.
    pub(crate) fn left_order(&self) -> io::Result<Option<Order>> {
        match self.read(ORDER) {
            Ok(order) => Ok(order),
            Err(_) if self.is_deserted().is_ok_and(|deserted| deserted) => Ok(None),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", self.path.join(ORDER).display()),
            )),
        }
    }

    pub(crate) fn write_running(&self, process: Process) -> io::Result<()> {
        self.write(RUNNING, &process)
    }

    /// The worker's process, once it was started.
    pub(crate) fn running(&self) -> io::Result<Option<Process>> {
        self.read(RUNNING)
    }

    pub(crate) fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        self.write(EXIT, exit)
    }

    pub(crate) fn exit(&self) -> io::Result<Option<Exit>> {
        self.read(EXIT)
    }

    /// Whether shim, worker and all that this started are gone.
    pub(crate) fn is_deserted(&self) -> io::Result<bool> {
        match self.open_lock()?.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Returns when shim, worker and all that this started are gone.
    pub(crate) fn wait_until_deserted(&self) -> io::Result<()> {
        self.open_lock()?.lock()
    }

    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.path.display(), %error, "cannot be removed");
        }
    }

    /// Never makes one: a new file in the place of a lost one would be free, whoever is there.
    fn open_lock(&self) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .open(self.path.join(LOCK))
    }

    /// Whole or not at all, also for a reader that comes at any time.
    fn write(&self, name: &str, content: &impl Serialize) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.sync_data()?;
        fs::rename(temporary, self.path.join(name))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match fs::read(self.path.join(name)) {
            Ok(content) => Ok(Some(serde_json::from_slice(&content)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

pub(crate) fn open_log(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::options().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_is_given_up_only_where_nobody_can_be() {
        let dir = tempfile::TempDir::new().unwrap();
        let left = WorkerDir::at(dir.path());
        assert_eq!(left.left_order().unwrap(), None, "nothing was ordered");
        fs::write(dir.path().join(ORDER), "{").unwrap();
        assert!(left.left_order().is_err(), "without a lock, nobody knows");
        assert!(left.is_deserted().is_err());
        let lock = File::create(dir.path().join(LOCK)).unwrap();
        lock.lock().unwrap();
        let error = left.left_order().unwrap_err();
        assert!(error.to_string().contains("order.json"), "{error}");
        assert!(!left.is_deserted().unwrap());
        drop(lock);
        assert_eq!(left.left_order().unwrap(), None);
        // A lost lock is not made again.
        fs::remove_file(dir.path().join(LOCK)).unwrap();
        assert!(left.wait_until_deserted().is_err());
        assert!(!dir.path().join(LOCK).exists());
    }
}
