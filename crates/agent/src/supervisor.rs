use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use muster_proto::v1::{StartWorker, WorkerExited, WorkerStarted};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use crate::{
    launch::Launch,
    process::Process,
    worker_dir::{Exit, WorkerDir},
};

/// How often it is looked whether a shim has its worker started: shims do so within milliseconds.
const START_POLL: Duration = Duration::from_millis(3);
/// Pause after a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The workers of this node, each with a shim that starts it and keeps its exit status, and a thread that waits for that.
///
/// What happened is kept as a table rather than as messages: whoever talks to the coordinator compares the table with
/// what it has said on its stream, so that nothing is lost between two streams.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// Holds a directory for each worker.
    directory: PathBuf,
    shim: Vec<PathBuf>,
    table: Mutex<Table>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    workers: BTreeMap<String, Entry>,
    is_closing: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    job: String,
    slot: u32,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Its thread has been asked to start it.
    Starting {
        wanted: Wanted,
    },
    Running {
        process: Process,
    },
    Ended {
        exit: WorkerExited,
        pid: Option<u32>,
        telling: Telling,
    },
}

/// Whether the coordinator has certainly heard of the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    Untold,
    Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Alive,
    Dead,
}

/// Something to tell the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum News {
    Started(WorkerStarted),
    Exited(WorkerExited),
}

impl Supervisor {
    /// Takes over what an earlier agent has left in `directory`: workers that run, and ends that may not have been told.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub(crate) fn open(directory: PathBuf, shim: Vec<PathBuf>) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(&directory)?;
        let found = WorkerDir::all(&directory)?;
        let supervisor = Arc::new(Self {
            directory,
            shim,
            table: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        for left in found {
            supervisor.adopt(left)?;
        }
        Ok(supervisor)
    }

    fn adopt(self: &Arc<Self>, directory: WorkerDir) -> io::Result<()> {
        let Some(order) = directory.left_order()? else {
            directory.remove();
            return Ok(());
        };
        let entry = Entry::new(&order.job, order.slot, Wanted::Alive);
        self.lock().workers.insert(order.worker.clone(), entry);
        tracing::info!(worker = %order.worker, slot = order.slot, "taking over from an earlier agent");
        let watch =
            move |supervisor: &Self, worker: &str| supervisor.watch(worker, &directory, None);
        self.in_thread(&order.worker, order.slot, watch)
    }

    /// Wakes at each change of the table.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Starts a worker, once: a worker that is or was here is left as it is.
    pub(crate) fn start(self: &Arc<Self>, launch: Launch) {
        let mut table = self.lock();
        if table.is_closing || table.workers.contains_key(&launch.worker) {
            return;
        }
        // A slot's next worker proves that the coordinator knows of the end of the one before.
        let slot = launch.slot.index;
        table.workers.retain(|worker, entry| {
            let over = entry.slot == slot && matches!(entry.stage, Stage::Ended { .. });
            if over {
                self.directory_of(worker).remove();
            }
            !over
        });
        let occupant = table.workers.iter().find(|(_, entry)| entry.slot == slot);
        let refusal = occupant.map(|(other, _)| format!("slot {slot} still runs worker {other}"));
        let worker = launch.worker.clone();
        let entry = Entry::new(&launch.job, slot, Wanted::Alive);
        table.workers.insert(worker.clone(), entry);
        drop(table);
        if let Some(reason) = refusal {
            self.end(&worker, not_started(reason));
            return;
        }
        let begin = move |supervisor: &Self, worker: &str| {
            let directory = supervisor.directory_of(worker);
            match directory.begin(&launch.order(), &supervisor.shim) {
                Ok(shim) => supervisor.watch(worker, &directory, Some(shim)),
                Err(error) => supervisor.end(
                    worker,
                    not_started(format!("its shim does not start: {error}")),
                ),
            }
        };
        if let Err(error) = self.in_thread(&worker, slot, begin) {
            self.end(
                &worker,
                not_started(format!("no thread to watch it: {error}")),
            );
        }
    }

    /// The thread ends with the worker; [`Supervisor::close`] ends the worker.
    fn in_thread(
        self: &Arc<Self>,
        worker: &str,
        slot: u32,
        job: impl FnOnce(&Self, &str) + Send + 'static,
    ) -> io::Result<()> {
        let (supervisor, name) = (Arc::clone(self), worker.to_owned());
        thread::Builder::new()
            .name(format!("worker-slot-{slot}"))
            .stack_size(256 << 10)
            .spawn(move || job(&supervisor, &name))
            .map(drop)
    }

    fn directory_of(&self, worker: &str) -> WorkerDir {
        WorkerDir::at(self.directory.join(worker))
    }

    /// Records a worker that cannot be started at all.
    pub(crate) fn refuse(&self, start: &StartWorker, reason: String) {
        let entry = Entry::new(&start.job_id, start.slot, Wanted::Dead);
        let mut table = self.lock();
        if table.workers.contains_key(&start.worker_id) {
            return;
        }
        table.workers.insert(start.worker_id.clone(), entry);
        drop(table);
        self.end(&start.worker_id, not_started(reason));
    }

    /// Sends SIGKILL to a worker's process group; its shim tells of the end. Killing what does not run does nothing.
    pub(crate) fn kill(&self, worker: &str) {
        if let Some(entry) = self.lock().workers.get_mut(worker) {
            signal(entry, Signal::SIGKILL);
        }
    }

    /// What runs here now, as the hello says it. What is not listed does not run, so this waits for those whose process is
    /// just being made. A worker whose end may not have been heard is listed too: its exit follows the hello, status and all.
    pub(crate) async fn running(&self) -> Vec<WorkerStarted> {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let running = self.lock().running();
            match running {
                Some(running) => return running,
                // The sender lives as long as `self`.
                None => drop(changes.changed().await),
            }
        }
    }

    /// The worker's exit has certainly been heard.
    pub(crate) fn told(&self, worker: &str) {
        self.directory_of(worker).remove();
        if let Some(Entry {
            stage: Stage::Ended { telling, .. },
            ..
        }) = self.lock().workers.get_mut(worker)
        {
            *telling = Telling::Told;
        }
    }

    /// All that the coordinator may not know yet.
    pub(crate) fn news(&self) -> Vec<News> {
        self.lock().news()
    }

    /// Ends all workers: SIGINT, then SIGKILL after `grace`; returns when all are gone. None is started any more.
    ///
    /// SIGTERM is what others send to all that an agent has started, when they mean the agent: workers pass it over.
    pub(crate) async fn close(&self, grace: Duration) {
        self.lock().is_closing = true;
        self.signal_all(Signal::SIGINT);
        if tokio::time::timeout(grace, self.all_ended()).await.is_err() {
            self.signal_all(Signal::SIGKILL);
            self.all_ended().await;
        }
    }

    /// Kills all workers without waiting for them.
    pub(crate) fn abandon(&self) {
        self.lock().is_closing = true;
        self.signal_all(Signal::SIGKILL);
    }

    /// Waits until nothing runs.
    pub(crate) async fn all_ended(&self) {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let ended = |entry: &Entry| matches!(entry.stage, Stage::Ended { .. });
            if self.lock().workers.values().all(ended) {
                return;
            }
            let _ = changes.changed().await;
        }
    }

    fn signal_all(&self, which: Signal) {
        self.lock()
            .workers
            .values_mut()
            .for_each(|entry| signal(entry, which));
    }

    /// Waits for a worker's start and its end. `shim` is given where this process is its parent.
    fn watch(&self, worker: &str, directory: &WorkerDir, shim: Option<Child>) {
        // Until all are certainly gone the slot is not empty, so what cannot be seen now is looked at again.
        while let Err(error) = self.follow(worker, directory) {
            let path = directory.path().display();
            tracing::warn!(%worker, directory = %path, %error, "cannot see what the worker does; looking again");
            thread::sleep(LOOK_AGAIN);
        }
        if let Some(mut shim) = shim {
            // It has ended; only its entry in the kernel's table is left.
            let _ = shim.wait();
        }
        let unknown = |stderr_tail: String| Exit {
            stderr_tail,
            ..Exit::default()
        };
        let exit = match directory.exit() {
            Ok(Some(exit)) => exit,
            Ok(None) => unknown(
                "its shim ended first, and the worker with it; see the worker's log".to_owned(),
            ),
            Err(error) => unknown(format!(
                "its exit status cannot be read: {}: {error}",
                directory.path().display()
            )),
        };
        tracing::info!(%worker, code = exit.code, signal = exit.signal, "worker ended");
        self.end(worker, exit);
    }

    /// Returns when shim, worker and all that this started are gone.
    fn follow(&self, worker: &str, directory: &WorkerDir) -> io::Result<()> {
        loop {
            // In this order: a shim that has ended has written all that it ever will.
            let deserted = directory.is_deserted()?;
            match directory.running()? {
                Some(process) => {
                    self.runs(worker, process);
                    return directory.wait_until_deserted();
                }
                None if deserted => return Ok(()),
                None => thread::sleep(START_POLL),
            }
        }
    }

    fn runs(&self, worker: &str, process: Process) {
        if let Some(entry) = self.lock().workers.get_mut(worker) {
            let wanted = match entry.stage {
                Stage::Starting { wanted } => wanted,
                _ => Wanted::Alive,
            };
            entry.stage = Stage::Running { process };
            if wanted == Wanted::Dead {
                signal(entry, Signal::SIGKILL);
            }
            tracing::info!(%worker, pid = process.pid, slot = entry.slot, "worker runs");
        }
        self.bump();
    }

    fn end(&self, worker: &str, exit: Exit) {
        if let Some(entry) = self.lock().workers.get_mut(worker) {
            let pid = match entry.stage {
                Stage::Running { process } => Some(process.pid),
                Stage::Starting { .. } | Stage::Ended { .. } => None,
            };
            let exit = WorkerExited {
                job_id: entry.job.clone(),
                worker_id: worker.to_owned(),
                slot: entry.slot,
                exit_code: exit.code,
                signal: exit.signal,
                start_error: exit.start_error,
                stderr_tail: exit.stderr_tail,
            };
            entry.stage = Stage::Ended {
                exit,
                pid,
                telling: Telling::Untold,
            };
        }
        self.bump();
    }

    fn bump(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code under the lock leaves the table half-changed, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn news(&self) -> Vec<News> {
        let one = |(worker, entry): (&String, &Entry)| match &entry.stage {
            Stage::Starting { .. } => None,
            Stage::Running { process } => Some(News::Started(entry.started(worker, process.pid))),
            Stage::Ended { exit, .. } => Some(News::Exited(exit.clone())),
        };
        self.workers.iter().filter_map(one).collect()
    }

    /// `None` while a process is just being made.
    fn running(&self) -> Option<Vec<WorkerStarted>> {
        let mut running = Vec::new();
        for (worker, entry) in &self.workers {
            match entry.stage {
                Stage::Starting { .. } => return None,
                Stage::Running {
                    process: Process { pid, .. },
                }
                | Stage::Ended {
                    pid: Some(pid),
                    telling: Telling::Untold,
                    ..
                } => running.push(entry.started(worker, pid)),
                Stage::Ended { .. } => {}
            }
        }
        Some(running)
    }
}

impl Entry {
    fn new(job: &str, slot: u32, wanted: Wanted) -> Self {
        Self {
            job: job.to_owned(),
            slot,
            stage: Stage::Starting { wanted },
        }
    }

    fn started(&self, worker: &str, pid: u32) -> WorkerStarted {
        WorkerStarted {
            job_id: self.job.clone(),
            worker_id: worker.to_owned(),
            slot: self.slot,
            pid,
        }
    }
}

fn signal(entry: &mut Entry, which: Signal) {
    match &mut entry.stage {
        Stage::Starting { wanted } => *wanted = Wanted::Dead,
        Stage::Running { process } => process.signal_group(which),
        Stage::Ended { .. } => {}
    }
}

fn not_started(start_error: String) -> Exit {
    Exit {
        start_error,
        ..Exit::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use muster_proto::v1::Slot;

    use std::collections::BTreeSet;

    use super::*;
    use crate::launch::GpuSharing;

    fn launch(worker: &str, slot: u32, directory: &Path) -> Launch {
        Launch {
            binary: "/bin/true".into(),
            coordinator: "http://127.0.0.1:1".into(),
            credentials: None,
            advertise: "127.0.0.1".into(),
            node: "node-a".into(),
            job: "job".into(),
            worker: worker.into(),
            slot: Slot {
                index: slot,
                device: "cpu".into(),
                gpu_uuid: String::new(),
                threads: 1,
            },
            gpu_sharing: GpuSharing::Alone,
            device: "cpu".into(),
            threads: 1,
            directory: directory.into(),
            log: directory.join(format!("{worker}.log")),
            lifetime: crate::Lifetime::Own,
            interface: String::new(),
            cores: BTreeSet::new(),
        }
    }

    #[tokio::test]
    async fn an_end_is_kept_until_it_was_heard_or_the_slot_has_another_worker() {
        let dir = tempfile::TempDir::new().unwrap_or_else(|error| panic!("{error}"));
        let shim = crate::shim::tests::command();
        let supervisor = Supervisor::open(dir.path().join("workers"), shim.clone())
            .unwrap_or_else(|error| panic!("{error}"));
        let workers = async || -> Vec<String> {
            supervisor
                .running()
                .await
                .into_iter()
                .map(|started| started.worker_id)
                .collect()
        };
        supervisor.start(launch("a", 0, dir.path()));
        supervisor.start(launch("b", 1, dir.path()));
        supervisor.all_ended().await;
        assert_eq!(workers().await, ["a", "b"]);
        supervisor.told("a");
        assert_eq!(workers().await, ["b"]);
        assert_eq!(
            supervisor.news().len(),
            2,
            "it is told on the next stream all the same"
        );
        supervisor.start(launch("c", 0, dir.path()));
        supervisor.all_ended().await;
        assert_eq!(workers().await, ["b", "c"]);
        assert_eq!(supervisor.news().len(), 2);
        supervisor.close(Duration::ZERO).await;
        supervisor.start(launch("d", 0, dir.path()));
        assert_eq!(
            workers().await,
            ["b", "c"],
            "a closed supervisor starts nothing"
        );
    }
}
