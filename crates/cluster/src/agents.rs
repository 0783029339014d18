use muster_types::{NodeName, WorkerId};

use crate::{
    AgentHello, Command, Exit, RecordKind, faults::Scene, job_turn::JobTurn, volatile::View,
};

/// The exit status of a program that refuses its configuration: trying again changes nothing.
const BAD_CONFIGURATION: i32 = 2;
/// SIGINT and SIGTERM: someone ended it.
const ORDERS: [i32; 2] = [2, 15];
/// So many of a worker's last lines are evidence.
const LAST_LINES: usize = 12;

impl JobTurn<'_> {
    /// The command that starts a placed worker. It may come again: an agent starts a worker once.
    pub fn start_worker(&mut self, worker: &WorkerId) {
        let Some(placement) = self.job.workers.get(worker).cloned() else {
            return;
        };
        self.command(Command::StartWorker {
            node: placement.node,
            slot: placement.slot,
            job: self.id,
            worker: worker.clone(),
            device: placement.device.to_string(),
            threads: placement.threads,
        });
    }

    /// An agent has started a worker.
    pub fn worker_started(&mut self, worker: &WorkerId, pid: u32) {
        if self.view(worker).pid.replace(pid) == Some(pid) {
            return;
        }
        let Some(placement) = self.job.workers.get(worker) else {
            return;
        };
        let (node, slot) = (placement.node.to_string(), placement.slot);
        let reason = format!("worker {worker} runs on node {node}, slot {slot}, as process {pid}");
        let details = [
            ("worker", worker.as_str().into()),
            ("node", node.into()),
            ("slot", slot.into()),
            ("pid", pid.into()),
        ];
        self.announce("worker_start", self.standing(), reason, details);
    }

    /// A worker's control stream broke. That alone disturbs nothing; a bound begins.
    pub fn worker_disconnected(&mut self, worker: &WorkerId) {
        let now = self.now.monotonic;
        let view = self.view(worker);
        if view.connected {
            view.connected = false;
            view.disconnected_at = Some(now);
        }
    }

    /// A worker's process has ended, or could not be started: its slot is empty.
    pub fn worker_exited(&mut self, worker: &WorkerId, exit: &Exit) {
        let Some(placement) = self.job.workers.get(worker).cloned() else {
            return;
        };
        let (origin, is_spare) = (self.origin(worker), self.is_spare(worker));
        let words = exit_words(exit);
        let scene = self.scene(worker);
        let at = scene.as_ref().map_or(String::new(), Scene::words);
        let reason = format!("worker {worker} on node {} {words}", placement.node);
        let over = self.job.state.is_over();
        let in_good_order = self.volatile.left.contains_key(worker) && exit.code == Some(0);
        self.record(RecordKind::WorkerGone {
            job: self.id,
            worker: worker.clone(),
            reason: reason.clone(),
            exit: Some(exit.clone()),
        });
        self.volatile().workers.remove(worker);
        if placement.expelled || placement.released || over || in_good_order {
            return;
        }
        // Whoever said that it leaves, and then died, is lost all the same.
        self.volatile().left.remove(worker);
        let evidence = with_last_words(format!("{reason} ({at})"), &exit.stderr_tail);
        let ordered = exit.signal.is_some_and(|signal| ORDERS.contains(&signal));
        if let Some(scene) = scene.filter(|_| !ordered) {
            self.note_fault(scene, &evidence);
        }
        if is_spare {
            return self.spare_lost(worker, &evidence);
        }
        // Where the job has trained before, it is the node or the newcomer that is wrong, and not the job.
        let never_formed = self.job.history.newest().is_none();
        if !self.job.is_to_leave()
            && never_formed
            && (!exit.start_error.is_empty() || exit.code == Some(BAD_CONFIGURATION))
        {
            return self.fail(evidence);
        }
        self.strike(evidence, origin);
    }

    /// An agent said what runs on its node.
    pub fn agent_said_hello(&mut self, hello: &AgentHello, joined: bool) {
        if joined && !self.job.state.is_over() {
            let slots = hello.slots.len();
            let reason = format!("node {} joined with {slots} slots", hello.node);
            let details = [
                ("node", hello.node.as_str().into()),
                ("slots", slots.into()),
            ];
            self.announce("node_joined", self.standing(), reason, details);
        }
        let here: Vec<WorkerId> = self
            .job
            .workers
            .iter()
            .filter(|(_, placement)| placement.node == hello.node)
            .map(|(worker, _)| worker.clone())
            .collect();
        for worker in here {
            let running = hello
                .running
                .iter()
                .find(|(running, ..)| *running == worker);
            match running {
                Some((_, _, pid)) => self.runs(&worker, *pid),
                None => self.runs_not(&worker),
            }
        }
    }

    fn runs(&mut self, worker: &WorkerId, pid: u32) {
        let view = self.view(worker);
        view.pid = Some(pid);
        view.node_lost_at = None;
        let Some(placement) = self.job.workers.get(worker) else {
            return;
        };
        if placement.expelled || self.job.state.is_over() {
            let (node, reason) = (placement.node.clone(), "it is out of the job".to_owned());
            self.command(Command::KillWorker {
                node,
                worker: worker.clone(),
                reason,
            });
        }
    }

    fn runs_not(&mut self, worker: &WorkerId) {
        let Some(placement) = self.job.workers.get(worker) else {
            return;
        };
        let seen = self
            .volatile
            .workers
            .get(worker)
            .is_some_and(|view: &View| view.pid.is_some() || view.attached_at.is_some());
        let out = placement.expelled || placement.released || self.job.state.is_over();
        // One that never was a candidate holds nothing, so it can be started again under its own name.
        if !out && !placement.was_candidate && !seen {
            return self.start_worker(worker);
        }
        let reason = format!(
            "worker {worker} on node {} has ended: its agent does not list it",
            placement.node
        );
        let (origin, is_spare) = (self.origin(worker), self.is_spare(worker));
        let in_good_order = self.volatile.left.contains_key(worker);
        let kind = RecordKind::WorkerGone {
            job: self.id,
            worker: worker.clone(),
            reason: reason.clone(),
            exit: None,
        };
        self.record(kind);
        self.volatile().workers.remove(worker);
        match out || in_good_order {
            true => {}
            false if is_spare => self.spare_lost(worker, &reason),
            false => self.strike(reason, origin),
        }
    }

    /// An agent's stream broke. Its workers are not known to be dead.
    pub fn agent_lost(&mut self, node: &NodeName) {
        let now = self.now.monotonic;
        let there = |worker: &&WorkerId| self.job.workers[*worker].node == *node;
        let there: Vec<WorkerId> = self.job.workers.keys().filter(there).cloned().collect();
        for worker in &there {
            self.view(worker).node_lost_at = Some(now);
        }
        let reason = format!("node {node} is out of reach; its workers are not known to be dead");
        self.announce(
            "node_lost",
            self.standing(),
            reason,
            [("node", node.as_str().into())],
        );
    }
}

fn exit_words(exit: &Exit) -> String {
    if !exit.start_error.is_empty() {
        return format!("could not be started: {}", exit.start_error);
    }
    match (exit.signal, exit.code) {
        (Some(signal), _) => format!("exited: killed by signal {signal}"),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "exited; its status is not known".into(),
    }
}

fn with_last_words(reason: String, stderr_tail: &str) -> String {
    let lines: Vec<_> = stderr_tail.trim().lines().collect();
    let tail = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    if tail.is_empty() {
        reason
    } else {
        format!("{reason}; its last words: {tail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_told_in_words() {
        let exit = |code, signal, start_error: &str| Exit {
            code,
            signal,
            start_error: start_error.into(),
            stderr_tail: String::new(),
        };
        assert_eq!(
            exit_words(&exit(None, Some(9), "")),
            "exited: killed by signal 9"
        );
        assert_eq!(exit_words(&exit(Some(1), None, "")), "exited with status 1");
        assert_eq!(
            exit_words(&exit(None, None, "no such file")),
            "could not be started: no such file"
        );
        assert_eq!(
            with_last_words("it ended".into(), " out of memory\n"),
            "it ended; its last words: out of memory"
        );
    }
}
