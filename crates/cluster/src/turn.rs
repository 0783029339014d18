use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use muster_types::{Generation, JobId, NodeName, Now, Position, Segment, Step, WorkerId};

use crate::{
    AgentHello, Cluster, Command, Decision, Event, Note, Order, Record, RecordKind, StepMetrics,
    Submission, WorkerMessage,
    cluster::JobEntry,
    cordons::Cordon,
    job::Phase,
    job_turn::JobTurn,
    mutation::{Mutation, is_planted},
    volatile::{NoteKind, Repeated},
};

/// One event being decided: its consequences are tried on a copy, so that each sees those before it.
pub(crate) struct Turn {
    pub(crate) cluster: Cluster,
    pub(crate) now: Now,
    pub(crate) decision: Decision,
    /// Jobs whose volatile state may have changed.
    pub(crate) touched: BTreeSet<JobId>,
    /// Those of them whose rules have not been followed since.
    unsettled: BTreeSet<JobId>,
    /// Steps of workers that others had reported before.
    steps: BTreeMap<JobId, Vec<Repeated>>,
    pub(crate) nodes_touched: bool,
}

impl Turn {
    pub fn new(cluster: &Cluster, now: Now) -> Self {
        Self {
            cluster: cluster.clone(),
            now,
            decision: Decision::default(),
            touched: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            steps: BTreeMap::new(),
            nodes_touched: false,
        }
    }

    /// The decision; its notes are what has become of the copy.
    pub fn into_decision(mut self) -> Decision {
        for (job, steps) in self.steps {
            let note = |repeated| Note(NoteKind::Steps(job, repeated));
            self.decision.notes.extend(steps.into_iter().map(note));
        }
        for job in self.touched {
            if let Some(entry) = self.cluster.jobs.get(&job) {
                self.decision
                    .notes
                    .push(Note(NoteKind::Job(job, entry.volatile.clone())));
            }
        }
        if self.nodes_touched {
            self.decision
                .notes
                .push(Note(NoteKind::Nodes(self.cluster.nodes)));
        }
        self.decision
    }

    /// What the decision leaves behind, for whoever checks it.
    #[cfg(test)]
    pub fn outcome(&self) -> Cluster {
        let mut cluster = self.cluster.clone();
        for (job, steps) in &self.steps {
            for repeated in steps {
                cluster.note(Note(NoteKind::Steps(*job, repeated.clone())));
            }
        }
        cluster
    }

    pub fn handle(&mut self, events: impl IntoIterator<Item = Event>) {
        let mut frees_slots = false;
        self.wake_up();
        let drained = self.cluster.drained();
        for event in events {
            frees_slots |= event.frees_slots();
            if !event.is_of_one_worker() {
                self.settle();
            }
            self.take_in(event);
        }
        self.settle();
        let is_idle = self.touched.is_empty() && self.decision.records.is_empty();
        if is_idle && !self.nodes_touched && !frees_slots {
            return;
        }
        self.judge_places();
        // Placement looks at all jobs, so it is left out where nothing can have come of the events.
        if frees_slots || !self.decision.records.is_empty() {
            self.place();
        }
        self.tell_drained(&drained);
        for job in self.touched.clone() {
            self.with_entry(job, |turn| turn.show_state());
        }
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Submitted(submission) => self.submit(submission),
            Event::StopRequested { job, grace_seconds } => {
                self.with(job, |turn| turn.request_stop(grace_seconds))
            }
            Event::CancelRequested { job, reason } => self.with(job, |turn| turn.cancel(&reason)),
            Event::ResumeRequested { job } => self.with(job, |turn| turn.take_up()),
            Event::CordonRequested { node, reason } => {
                let drain = self.cluster.is_to_be_empty(&node);
                let cordon = Cordon {
                    drain,
                    ..Cordon::told(reason)
                };
                self.cordon(node, None, cordon)
            }
            Event::DrainRequested { node, reason } => self.drain(node, reason),
            Event::UncordonRequested { node } => self.uncordon(node, ""),
            Event::NodeUnfit { node, reason } => self.node_unfit(node, &reason),
            Event::AgentConnected(hello) => self.agent_connected(&hello),
            Event::AgentLeaving {
                node,
                grace_seconds,
            } => self.agent_leaving(&node, grace_seconds),
            Event::AgentDisconnected { node } => self.agent_disconnected(&node),
            Event::WorkerStarted { worker, pid } => {
                self.hear(&worker, |turn| turn.worker_started(&worker, pid));
            }
            Event::WorkerExited { worker, exit } => {
                self.forget_stranger(&worker);
                self.hear(&worker, |turn| turn.worker_exited(&worker, &exit));
            }
            Event::WorkerDisconnected { worker } => {
                self.hear(&worker, |turn| turn.worker_disconnected(&worker));
            }
            Event::Worker {
                job,
                worker,
                generation,
                message,
            } => {
                if let Some(steps) = self.repeated(job, &worker, generation, &message) {
                    let repeated = Repeated {
                        worker,
                        generation,
                        steps,
                    };
                    self.steps.entry(job).or_default().push(repeated);
                } else if self.cluster.jobs.contains_key(&job) {
                    self.with_entry(job, |turn| turn.worker_says(&worker, generation, message));
                    self.unsettled.insert(job);
                } else {
                    let reason = format!("no job {job} is on record here");
                    let order = Order::Expelled { reason };
                    self.decision.commands.push(Command::Tell {
                        worker,
                        job,
                        generation: Generation(0),
                        order,
                    });
                }
            }
            Event::ManifestDone { job, state, result } => {
                self.with(job, |turn| turn.manifest_done(state, result))
            }
            Event::CheckpointDeleted { job, state } => {
                self.with(job, |turn| turn.checkpoint_deleted(state))
            }
            Event::Tick => self.tick(),
        }
    }

    /// The steps of a member that says no more than what others have reported before it: thousands of them say each step
    /// again, and nothing follows.
    fn repeated(
        &self,
        job: JobId,
        worker: &WorkerId,
        generation: Generation,
        message: &WorkerMessage,
    ) -> Option<Vec<StepMetrics>> {
        let WorkerMessage::Report { steps } = message else {
            return None;
        };
        let JobEntry { job, volatile } = self.cluster.jobs.get(&job)?;
        let is_member = job.phase == Phase::Active
            && generation == job.generation
            && job.keeps(worker)
            // With the first rank's steps, the work of all is compared.
            && job.rank_of(worker).is_some_and(|rank| rank > 0);
        let is_known = volatile.workers.get(worker)?.generation == generation
            && volatile.round.generation == generation
            && !job.state.is_over();
        let newest = steps.iter().map(|metrics| metrics.step).max()?;
        let resume = job.resume.as_ref()?.state.step;
        let is_said = |step: Step| step > resume && volatile.ledger.has(step);
        let said = steps.iter().all(|metrics| is_said(metrics.step));
        // At the end, who has come to the last step is looked at.
        let nothing_new = is_member && is_known && said && newest < job.total_steps();
        (nothing_new && !is_planted(Mutation::RepeatedReport)).then(|| steps.clone())
    }

    /// Follows the rules of the jobs that something was heard of.
    fn settle(&mut self) {
        for job in std::mem::take(&mut self.unsettled) {
            self.with(job, |_| {});
        }
    }

    /// Lets one job take its turn, and everything that follows from it for this job.
    pub fn with(&mut self, job: JobId, act: impl FnOnce(&mut JobTurn<'_>)) {
        self.with_entry(job, |turn| {
            act(turn);
            turn.settle();
        });
    }

    fn with_entry(&mut self, id: JobId, act: impl FnOnce(&mut JobTurn<'_>)) {
        let Some(entry) = self.cluster.jobs.remove(&id) else {
            return;
        };
        self.touched.insert(id);
        let mut volatile = entry.volatile;
        for repeated in self.steps.remove(&id).unwrap_or_default() {
            Arc::make_mut(&mut volatile).has_reached(&repeated);
        }
        let mut turn = JobTurn {
            id,
            job: entry.job,
            volatile,
            options: &self.cluster.options,
            now: self.now,
            decision: &mut self.decision,
        };
        act(&mut turn);
        let entry = JobEntry {
            job: turn.job,
            volatile: turn.volatile,
        };
        self.cluster.jobs.insert(id, entry);
    }

    /// Lets the job of a worker take in what was heard of it.
    fn hear(&mut self, worker: &WorkerId, act: impl FnOnce(&mut JobTurn<'_>)) {
        if let Some(job) = self.cluster.job_of(worker) {
            self.with_entry(job, act);
            self.unsettled.insert(job);
        }
    }

    fn submit(&mut self, submission: Box<Submission>) {
        let job = submission.job;
        if self.cluster.jobs.contains_key(&job) {
            return;
        }
        let segment = Segment {
            start_step: Step(0),
            start_position: Position(0),
            global_batch: submission.spec.train.global_batch,
            dataset_digest: submission.dataset_digest,
        };
        let record = Record {
            at: self.now.wall,
            generation: Generation(0),
            step: Step(0),
            kind: RecordKind::JobSubmitted(submission),
        };
        self.cluster.apply(&record);
        self.decision.records.push(record);
        self.with(job, |turn| {
            turn.record(RecordKind::SegmentOpened { job, segment })
        });
    }

    fn tick(&mut self) {
        let until = self.cluster.nodes.in_flux_until;
        if until.is_some_and(|until| until <= self.now.monotonic) {
            Arc::make_mut(&mut self.cluster.nodes).in_flux_until = None;
            self.nodes_touched = true;
        }
        self.lose_patience();
        let due: Vec<JobId> = self
            .cluster
            .jobs
            .iter()
            .filter(|(_, entry)| !entry.job.state.is_over())
            .filter(|(_, entry)| {
                entry
                    .volatile
                    .wake
                    .is_none_or(|wake| wake <= self.now.monotonic)
            })
            .map(|(job, _)| *job)
            .collect();
        for job in due {
            self.with(job, |_| {});
        }
    }

    fn agent_connected(&mut self, hello: &AgentHello) {
        let strangers: BTreeMap<WorkerId, u32> = hello
            .running
            .iter()
            .filter(|(worker, ..)| self.cluster.job_of(worker).is_none())
            .map(|(worker, slot, _)| (worker.clone(), *slot))
            .collect();
        for worker in strangers.keys() {
            let reason = "no job here knows this worker".to_owned();
            self.decision.commands.push(Command::KillWorker {
                node: hello.node.clone(),
                worker: worker.clone(),
                reason,
            });
        }
        let joined = !self.cluster.nodes.is_connected(&hello.node);
        let now = self.now.monotonic;
        Arc::make_mut(&mut self.cluster.nodes).hello(now, hello, strangers);
        self.nodes_touched = true;
        for job in self.cluster.in_order() {
            let concerned = self.cluster.jobs.get(&job).is_some_and(|entry| {
                !entry.job.state.is_over()
                    || entry
                        .job
                        .workers
                        .values()
                        .any(|placement| placement.node == hello.node)
            });
            if concerned {
                self.with(job, |turn| turn.agent_said_hello(hello, joined));
            }
        }
    }

    fn agent_disconnected(&mut self, node: &NodeName) {
        if !self.cluster.nodes.is_connected(node) {
            return;
        }
        if let Some(node) = Arc::make_mut(&mut self.cluster.nodes).known.get_mut(node) {
            node.connected = false;
            // Should it be back, it says again whether it stays.
            node.leaving = None;
        }
        self.nodes_touched = true;
        self.expect_nodes();
        for job in self.cluster.in_order() {
            let concerned = self.cluster.jobs.get(&job).is_some_and(|entry| {
                !entry.job.state.is_over()
                    && entry
                        .job
                        .workers
                        .values()
                        .any(|placement| placement.node == *node)
            });
            if concerned {
                self.with(job, |turn| turn.agent_lost(node));
            }
        }
    }

    /// The first event after a start: nodes are on their way.
    fn wake_up(&mut self) {
        if !self.cluster.nodes.awake {
            Arc::make_mut(&mut self.cluster.nodes).awake = true;
            self.nodes_touched = true;
            self.expect_nodes();
        }
    }

    /// Gives nodes some time to be (back) here, before anyone loses a slot for want of theirs.
    fn expect_nodes(&mut self) {
        if self.cluster.nodes.in_flux_until.is_none() {
            let until = self.now.monotonic + self.cluster.options.flux_bound;
            Arc::make_mut(&mut self.cluster.nodes).in_flux_until = Some(until);
        }
    }

    /// Records what concerns a node, and lets the jobs that are not over know.
    pub fn decide_on_node(&mut self, kind: RecordKind, event: &str, node: &NodeName, words: &str) {
        let record = Record {
            at: self.now.wall,
            generation: Generation(0),
            step: Step(0),
            kind,
        };
        self.cluster.apply(&record);
        self.decision.records.push(record);
        self.tell_jobs(event, node, words);
    }

    /// Lets the jobs that are not over know of something about a node.
    pub fn tell_jobs(&mut self, event: &str, node: &NodeName, words: &str) {
        for job in self.cluster.in_order() {
            let is_over = |entry: &JobEntry| entry.job.state.is_over();
            if !self.cluster.jobs.get(&job).is_none_or(is_over) {
                self.with(job, |turn| {
                    let details = [("node", node.as_str().into())];
                    turn.announce(event, turn.standing(), words.to_owned(), details);
                });
            }
        }
    }

    fn forget_stranger(&mut self, worker: &WorkerId) {
        if self
            .cluster
            .nodes
            .known
            .values()
            .any(|node| node.strangers.contains_key(worker))
        {
            for node in Arc::make_mut(&mut self.cluster.nodes).known.values_mut() {
                node.strangers.remove(worker);
            }
            self.nodes_touched = true;
        }
    }
}
