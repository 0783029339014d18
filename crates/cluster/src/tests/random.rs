//! Random interleavings: a phase in which everything goes wrong, then one in which nothing does. What must always hold is
//! checked in [`World::feed`] at each event, and by the assertions in the core.

use std::time::Duration;

use muster_types::{JobId, NodeName, WorkerId};
use proptest::prelude::*;

use super::world::{World, spec};
use crate::{ClusterOptions, Event, JobState, WorkerMessage};

#[derive(Clone, Copy, Debug)]
enum Move {
    Deliver(usize),
    Work,
    CommitSome(usize, usize),
    Kill(usize),
    KillAll,
    Fail(usize, bool),
    DropStream(usize),
    Freeze(usize),
    Thaw,
    Reconnect,
    LoseAgent(usize),
    RestartCoordinator,
    DieAfterCommands(usize, usize),
    Repeat(usize),
    Wait(u64),
    Cordon(usize),
    Uncordon(usize),
    Cancel(usize),
    Resume(usize),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        60 => (0usize..8).prop_map(Move::Deliver),
        40 => Just(Move::Work),
        6 => (0usize..4, 0usize..4).prop_map(|(from, count)| Move::CommitSome(from, count)),
        3 => (0usize..4).prop_map(Move::Kill),
        1 => Just(Move::KillAll),
        2 => (0usize..4, any::<bool>()).prop_map(|(worker, own)| Move::Fail(worker, own)),
        3 => (0usize..4).prop_map(Move::DropStream),
        1 => (0usize..4).prop_map(Move::Freeze),
        2 => Just(Move::Thaw),
        4 => Just(Move::Reconnect),
        1 => (0usize..2).prop_map(Move::LoseAgent),
        1 => Just(Move::RestartCoordinator),
        1 => (0usize..8, 0usize..6).prop_map(|(queue, count)| Move::DieAfterCommands(queue, count)),
        4 => any::<prop::sample::Index>().prop_map(|index| Move::Repeat(index.index(1000))),
        4 => (1u64..20).prop_map(Move::Wait),
        1 => (0usize..3).prop_map(Move::Cancel),
        4 => (0usize..3).prop_map(Move::Resume),
    ]
}

/// What may happen where several jobs contend.
fn moves_of_a_queue() -> impl Strategy<Value = Move> {
    prop_oneof![
        40 => moves(),
        1 => (0usize..2).prop_map(Move::Cordon),
        1 => (0usize..2).prop_map(Move::Uncordon),
    ]
}

impl World {
    fn nth_worker(&self, index: usize) -> Option<WorkerId> {
        let count = self.workers.len();
        (count > 0).then(|| self.workers.keys().nth(index % count).unwrap().clone())
    }

    fn nth_job(&self, index: usize) -> JobId {
        let jobs = self.cluster.jobs();
        jobs[index % jobs.len()]
    }

    /// Asks to take a job up again, unless it has failed: nothing here is to make one fail.
    fn resume(&mut self, job: JobId) {
        let status = self.cluster.status(job, self.now).unwrap();
        if status.state != JobState::Failed {
            self.feed(Event::ResumeRequested { job });
        }
    }

    /// Takes up again what was cancelled.
    fn resume_all(&mut self) {
        for job in self.cluster.jobs() {
            self.resume(job);
        }
    }

    fn make(&mut self, what: Move) {
        match what {
            Move::Deliver(queue) => {
                if let Some(event) = self.next_event(queue) {
                    self.feed(event);
                }
            }
            Move::Work => drop(self.work()),
            Move::CommitSome(from, count) => {
                let jobs = self.cluster.jobs();
                let job = &self.cluster.jobs[&jobs[count % jobs.len()]].job;
                let members = job.members.clone();
                self.commit_pending(&members[from.min(members.len())..], count);
            }
            Move::Kill(index) => {
                if let Some(worker) = self.nth_worker(index) {
                    self.kill(&worker);
                }
            }
            Move::KillAll => {
                for worker in self.workers.keys().cloned().collect::<Vec<_>>() {
                    self.kill(&worker);
                }
            }
            Move::Fail(index, own) => {
                let Some(worker) = self.nth_worker(index) else {
                    return;
                };
                let fake = self.workers.get_mut(&worker).unwrap();
                if fake.form.is_some() && !fake.failed && !fake.leaving && !fake.is_fenced() {
                    fake.fail(if own { "data" } else { "collective" });
                }
            }
            Move::DropStream(index) => {
                if let Some(worker) = self.nth_worker(index) {
                    self.drop_stream(&worker);
                }
            }
            Move::Freeze(index) => {
                if let Some(worker) = self.nth_worker(index) {
                    self.workers.get_mut(&worker).unwrap().frozen = true;
                }
            }
            Move::Thaw => self.thaw(),
            Move::Reconnect => self.reconnect(),
            Move::LoseAgent(index) => {
                let node: NodeName = self.agents.keys().nth(index).unwrap().clone();
                self.disconnect_agent(&node);
            }
            Move::RestartCoordinator => self.restart_coordinator(),
            Move::DieAfterCommands(queue, count) => {
                if let Some(event) = self.next_event(queue) {
                    self.feed_until(event, count);
                    self.restart_coordinator();
                }
            }
            Move::Repeat(index) => self.repeat(index),
            Move::Wait(seconds) => {
                self.now.monotonic = self.now.monotonic + Duration::from_secs(seconds);
                self.feed(Event::Tick);
            }
            Move::Cordon(index) => {
                let node = self.agents.keys().nth(index).unwrap().clone();
                let reason = "at random".into();
                self.feed(Event::CordonRequested { node, reason });
            }
            Move::Uncordon(index) => {
                let node = self.agents.keys().nth(index).unwrap().clone();
                self.feed(Event::UncordonRequested { node });
            }
            Move::Cancel(index) => {
                let job = self.nth_job(index);
                let reason = "at random".into();
                self.feed(Event::CancelRequested { job, reason });
            }
            Move::Resume(index) => self.resume(self.nth_job(index)),
        }
    }

    fn thaw(&mut self) {
        // What it missed while it was stopped came on a stream that is gone.
        let frozen: Vec<_> = self
            .workers
            .values()
            .filter(|fake| fake.frozen)
            .map(|fake| fake.id.clone())
            .collect();
        for worker in frozen {
            self.drop_stream(&worker);
            self.workers.get_mut(&worker).unwrap().frozen = false;
        }
    }

    /// An old message comes again. A stream's first message cannot: the stream would have to.
    fn repeat(&mut self, index: usize) {
        if self.heard.is_empty() {
            return;
        }
        let event = self.heard[index % self.heard.len()].clone();
        if matches!(&event, Event::Worker { message, .. } if !matches!(message, WorkerMessage::Attach { .. }))
        {
            self.feed(event);
        }
    }
}

fn patient() -> ClusterOptions {
    ClusterOptions {
        max_failures: 10_000,
        max_failures_without_advance: 10_000,
        ..ClusterOptions::default()
    }
}

fn chaos_then_calm(moves: Vec<Move>, (min, max, spares): (u32, u32, u32)) {
    let mut world = World::with_options(patient());
    world.add_node("a", 2);
    world.add_node("b", 2);
    let mut asked = spec(40, min, max);
    asked.workers.spares = spares;
    world.submit(1, asked);
    for what in moves {
        world.make(what);
        if world.status().state == JobState::Finished {
            break;
        }
    }
    world.thaw();
    world.resume_all();
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(40);
    world.restart_coordinator();
    assert!(world.initialised >= 1);
}

/// A job of a queue: its priority, its smallest and largest world size, its spares, and after how many moves it is submitted.
type Contender = (i32, u32, u32, u32, usize);

fn contender() -> impl Strategy<Value = Contender> {
    (1u32..=3)
        .prop_flat_map(|min| (-1i32..=1, Just(min), min..=4, 0u32..=1, 0usize..300))
        .boxed()
}

/// Jobs that contend for four slots, in chaos and then in calm.
fn contend(moves: Vec<Move>, jobs: &[Contender]) {
    let mut world = World::with_options(patient());
    world.add_node("a", 2);
    world.add_node("b", 2);
    let submit = |world: &mut World, number: usize| {
        let (priority, min, max, spares, _) = jobs[number - 1];
        let mut spec = spec(30, min, max);
        spec.queue.priority = priority;
        spec.workers.spares = spares;
        world.submit(number as u64, spec);
    };
    submit(&mut world, 1);
    let mut waiting: Vec<usize> = (2..=jobs.len()).collect();
    for (count, what) in moves.into_iter().enumerate() {
        waiting.retain(|number| {
            let is_due = jobs[number - 1].4 <= count;
            if is_due {
                submit(&mut world, *number);
            }
            !is_due
        });
        world.make(what);
    }
    for number in waiting {
        submit(&mut world, number);
    }
    world.thaw();
    world.resume_all();
    world.make(Move::Uncordon(0));
    world.make(Move::Uncordon(1));
    let before = world.event("preempted").len();
    world.run_all_to_end();
    let calm = world.event("preempted").len() - before;
    // Each gives way to each above it, and one more where two hold what the other lacks.
    assert!(calm <= jobs.len() + 1, "{calm} preemptions in calm");
    for number in 1..=jobs.len() {
        world.check_job_finished(number as u64, 30);
    }
    world.restart_coordinator();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_history_is_one_line(
        moves in prop::collection::vec(moves(), 0..600),
        size in (1u32..=3).prop_flat_map(|min| (Just(min), min..=4, 0u32..=2)),
    ) {
        chaos_then_calm(moves, size);
    }

    #[test]
    fn jobs_that_contend_all_finish(
        moves in prop::collection::vec(moves_of_a_queue(), 0..500),
        jobs in prop::collection::vec(contender(), 2..=3),
    ) {
        contend(moves, &jobs);
    }

    #[test]
    fn a_stop_at_any_time_ends_and_a_resume_finishes(
        before in prop::collection::vec(moves(), 0..300),
        after in prop::collection::vec(moves(), 0..100),
    ) {
        let mut world = World::with_options(patient());
        world.add_node("a", 2);
        world.add_node("b", 2);
        world.submit(1, spec(40, 1, 3));
        for what in before {
            world.make(what);
        }
        world.feed(Event::StopRequested { job: super::world::job_id(1), grace_seconds: 30 });
        for what in after {
            world.make(what);
        }
        world.thaw();
        let end = world.run_to_end();
        prop_assert!(matches!(end, JobState::Stopped | JobState::Finished), "{}", world.status().state_reason);
        world.feed(Event::ResumeRequested { job: super::world::job_id(1) });
        prop_assert_eq!(world.run_to_end(), JobState::Finished);
        world.check_finished(40);
    }
}
