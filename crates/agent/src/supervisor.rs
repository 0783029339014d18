use std::{
    collections::BTreeMap,
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use muster_proto::v1::{StartWorker, WorkerExited, WorkerStarted};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tokio::sync::watch;

use crate::{launch::Launch, logs};

/// How much of a worker's last words travel with its exit.
const STDERR_TAIL_BYTES: u64 = 4 << 10;

/// The workers of this node, each with a thread that starts it, waits for it and keeps its exit status.
///
/// What happened is kept as a table rather than as messages: whoever talks to the coordinator compares the table with
/// what it has said on its stream, so that nothing is lost between two streams.
#[derive(Debug)]
pub(crate) struct Supervisor {
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
        pid: u32,
    },
    /// Reaped; its last words are being read.
    Ending {
        pid: u32,
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
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            changed: watch::Sender::new(0),
        })
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
        table
            .workers
            .retain(|_, entry| entry.slot != slot || !matches!(entry.stage, Stage::Ended { .. }));
        let occupant = table.workers.iter().find(|(_, entry)| entry.slot == slot);
        let refusal = occupant.map(|(other, _)| format!("slot {slot} still runs worker {other}"));
        let (worker, job) = (launch.worker.clone(), launch.job.clone());
        let entry = Entry {
            job,
            slot,
            stage: Stage::Starting {
                wanted: Wanted::Alive,
            },
        };
        table.workers.insert(worker.clone(), entry);
        drop(table);
        if let Some(reason) = refusal {
            self.end(&worker, not_started(reason));
            return;
        }
        // Ends with the worker; [`Supervisor::close`] ends the worker.
        let supervisor = Arc::clone(self);
        let thread = thread::Builder::new()
            .name(format!("worker-slot-{slot}"))
            .stack_size(256 << 10)
            .spawn(move || supervisor.supervise(&launch));
        if let Err(error) = thread {
            self.end(
                &worker,
                not_started(format!("no thread to watch it: {error}")),
            );
        }
    }

    /// Records a worker that cannot be started at all.
    pub(crate) fn refuse(&self, start: &StartWorker, reason: String) {
        let stage = Stage::Starting {
            wanted: Wanted::Dead,
        };
        let entry = Entry {
            job: start.job_id.clone(),
            slot: start.slot,
            stage,
        };
        let mut table = self.lock();
        if table.workers.contains_key(&start.worker_id) {
            return;
        }
        table.workers.insert(start.worker_id.clone(), entry);
        drop(table);
        self.end(&start.worker_id, not_started(reason));
    }

    /// Sends SIGKILL to a worker's process group. Killing what does not run does nothing.
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

    /// Ends all workers: SIGTERM, then SIGKILL after `grace`; returns when all are gone. None is started any more.
    pub(crate) async fn close(&self, grace: Duration) {
        self.lock().is_closing = true;
        self.signal_all(Signal::SIGTERM);
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

    async fn all_ended(&self) {
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

    fn supervise(&self, launch: &Launch) {
        let worker = &launch.worker;
        let mut child = match launch.spawn() {
            Ok(child) => child,
            Err(error) => {
                let reason = format!("{} does not start: {error}", launch.binary.display());
                return self.end(worker, not_started(reason));
            }
        };
        let pid = child.id();
        if let Some(entry) = self.lock().workers.get_mut(worker) {
            let wanted = match entry.stage {
                Stage::Starting { wanted } => wanted,
                _ => Wanted::Alive,
            };
            entry.stage = Stage::Running { pid };
            if wanted == Wanted::Dead {
                signal(entry, Signal::SIGKILL);
            }
        }
        self.bump();
        tracing::info!(%worker, pid, slot = launch.slot.index, "worker started");
        let exit = self.wait(&mut child, launch);
        tracing::info!(%worker, pid, code = exit.exit_code, signal = exit.signal, "worker ended");
        self.end(worker, exit);
    }

    /// Waits for the process, ends what is left of its group, then reaps it. Until it is reaped nobody else can get its
    /// id, so no signal goes astray; the table's lock keeps [`Supervisor::kill`] out of the moment in between.
    fn wait(&self, child: &mut Child, launch: &Launch) -> WorkerExited {
        let pid = pid_of(child.id());
        while let Err(Errno::EINTR) =
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        {}
        let mut table = self.lock();
        let _ = killpg(pid, Signal::SIGKILL);
        let status = child.wait();
        if let Some(entry) = table.workers.get_mut(&launch.worker) {
            entry.stage = Stage::Ending { pid: child.id() };
        }
        drop(table);
        let stderr_tail = logs::tail_text(&launch.log, STDERR_TAIL_BYTES);
        match status {
            Ok(status) => WorkerExited {
                exit_code: status.code(),
                signal: std::os::unix::process::ExitStatusExt::signal(&status),
                stderr_tail,
                ..WorkerExited::default()
            },
            Err(error) => {
                let start_error = format!("its exit status is lost: {error}");
                WorkerExited {
                    start_error,
                    stderr_tail,
                    ..WorkerExited::default()
                }
            }
        }
    }

    fn end(&self, worker: &str, exit: WorkerExited) {
        if let Some(entry) = self.lock().workers.get_mut(worker) {
            let pid = match entry.stage {
                Stage::Running { pid } | Stage::Ending { pid } => Some(pid),
                Stage::Starting { .. } | Stage::Ended { .. } => None,
            };
            let exit = WorkerExited {
                job_id: entry.job.clone(),
                worker_id: worker.to_owned(),
                slot: entry.slot,
                ..exit
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
            Stage::Starting { .. } | Stage::Ending { .. } => None,
            Stage::Running { pid } => Some(News::Started(entry.started(worker, *pid))),
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
                Stage::Running { pid }
                | Stage::Ending { pid }
                | Stage::Ended {
                    pid: Some(pid),
                    telling: Telling::Untold,
                    ..
                } => {
                    running.push(entry.started(worker, pid));
                }
                Stage::Ended { .. } => {}
            }
        }
        Some(running)
    }
}

impl Entry {
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
        // It may have ended just now, unreaped: then the signal finds a zombie, which is no error worth a word.
        Stage::Running { pid } => drop(killpg(pid_of(*pid), which)),
        Stage::Ending { .. } | Stage::Ended { .. } => {}
    }
}

fn pid_of(pid: u32) -> Pid {
    // The kernel's process ids fit.
    Pid::from_raw(pid.cast_signed())
}

fn not_started(start_error: String) -> WorkerExited {
    WorkerExited {
        start_error,
        ..WorkerExited::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use muster_proto::v1::Slot;

    use super::*;
    use crate::launch::GpuSharing;

    fn launch(worker: &str, slot: u32, directory: &Path) -> Launch {
        Launch {
            binary: "/bin/true".into(),
            coordinator: "http://127.0.0.1:1".into(),
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
        }
    }

    #[tokio::test]
    async fn an_end_is_kept_until_it_was_heard_or_the_slot_has_another_worker() {
        let dir = tempfile::TempDir::new().unwrap_or_else(|error| panic!("{error}"));
        let supervisor = Supervisor::new();
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
