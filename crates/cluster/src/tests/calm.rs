//! No crash loops: what keeps failing ends with its evidence, and a place where workers keep failing gets no more of them.

use muster_types::{NodeName, WorkerId};
use rstest::rstest;

use super::world::{SIGKILL, World, job_id, spec};
use crate::{ClusterOptions, Event, JobState, PublicEvent};

const STEPS: u64 = 80;
const SIGTERM: i32 = 15;

/// A job of one to two workers, one on node a, and one on node b.
fn on_two_nodes() -> World {
    with_slots(&[("a", 1), ("b", 1)], 1, 2)
}

fn with_slots(nodes: &[(&str, u32)], min: u32, max: u32) -> World {
    let mut world = World::new();
    for (node, slots) in nodes {
        world.add_node(node, *slots);
    }
    world.deliver();
    world.wait(10);
    world.submit(1, spec(STEPS, min, max));
    world.run_to(3);
    world
}

impl World {
    fn on(&self, node: &str) -> Vec<WorkerId> {
        let there = self
            .workers
            .values()
            .filter(|fake| fake.node.as_str() == node);
        there.map(|fake| fake.id.clone()).collect()
    }

    /// Whoever runs on a node ends by itself before it trains, so often. The others train on meanwhile.
    fn crash_on(&mut self, node: &str, times: usize) {
        self.end_on((node, None), times, Some(1), None);
    }

    fn end_on(
        &mut self,
        (node, slot): (&str, Option<u32>),
        times: usize,
        code: Option<i32>,
        signal: Option<i32>,
    ) {
        let there = |world: &Self| {
            let is_there = |it: &WorkerId| slot.is_none_or(|slot| world.workers[it].slot == slot);
            let all = world.on(node).into_iter();
            all.filter(is_there).collect::<Vec<_>>()
        };
        for _ in 0..times {
            self.run_until(|world| !there(world).is_empty());
            for worker in there(self) {
                self.end(&worker, code, signal);
            }
            self.deliver();
            for worker in there(self) {
                self.workers.get_mut(&worker).unwrap().frozen = true;
            }
            self.train_on();
        }
        for worker in there(self) {
            self.workers.get_mut(&worker).unwrap().frozen = false;
        }
    }

    /// One step more.
    fn train_on(&mut self) {
        let next = self.status().step.get() + 1;
        let there = |world: &Self| world.status().step.get() >= next;
        self.run_until(|world| there(world) || world.status().state.is_over());
    }

    fn cordoned(&self) -> Vec<String> {
        let cordons = self.cluster.nodes().into_iter().filter_map(|node| {
            let reason = node.cordon?;
            Some(format!("{}: {reason}", node.name))
        });
        cordons.collect()
    }

    fn one(&self, kind: &str) -> PublicEvent {
        let mut events = self.event(kind);
        assert_eq!(events.len(), 1, "{kind}: {events:?}");
        events.remove(0)
    }
}

#[test]
fn a_node_on_which_workers_keep_failing_is_cordoned_with_the_reason() {
    let mut world = on_two_nodes();
    world.crash_on("b", 2);
    assert!(world.cordoned().is_empty(), "{:?}", world.cordoned());
    world.crash_on("b", 1);
    let cordoned = world.cordoned();
    assert_eq!(cordoned.len(), 1);
    let words = "b: 3 workers failed there by themselves, none committed a step in between, and elsewhere they do not fail; \
                 the last: worker w-";
    assert!(cordoned[0].starts_with(words), "{cordoned:?}");
    assert!(
        cordoned[0].contains("on node b exited with status 1 (")
            && cordoned[0].ends_with("its last line"),
        "{cordoned:?}"
    );
    let told = world.event("node_cordoned");
    let told: Vec<_> = told.iter().filter(|it| it.job.is_some()).collect();
    assert!(
        told[0]
            .reason
            .starts_with("nothing new is placed on node b: 3 workers failed")
    );
    world.restart_coordinator();
    world.reconnect();
    world.deliver();
    assert_eq!(world.cordoned(), cordoned, "a restart does not lift it");
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
    assert!(world.on("b").is_empty());
}

#[test]
fn what_was_counted_is_forgotten_when_the_node_is_uncordoned() {
    let mut world = on_two_nodes();
    world.crash_on("b", 3);
    assert_eq!(world.cordoned().len(), 1);
    world.feed(Event::UncordonRequested { node: "b".into() });
    world.crash_on("b", 2);
    assert!(world.cordoned().is_empty());
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn a_committed_step_on_the_node_makes_up_for_the_failures_before_it() {
    let mut world = on_two_nodes();
    for _ in 0..4 {
        world.crash_on("b", 2);
        world.run_until(|world| world.status().world_size == 2);
        world.train_on();
    }
    assert!(world.cordoned().is_empty(), "{:?}", world.cordoned());
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn failures_long_ago_do_not_count() {
    let mut world = on_two_nodes();
    world.crash_on("b", 2);
    world.wait(601);
    world.crash_on("b", 1);
    assert!(world.cordoned().is_empty(), "{:?}", world.cordoned());
}

#[rstest]
#[case::ended_by_someone(SIGTERM, false)]
#[case::by_the_kernel(SIGKILL, true)]
fn who_is_ended_by_someone_has_not_failed(#[case] signal: i32, #[case] counts: bool) {
    let mut world = on_two_nodes();
    world.end_on(("b", None), 3, None, Some(signal));
    assert_eq!(world.cordoned().len(), usize::from(counts));
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn a_slot_that_fails_beside_others_that_work_is_cordoned_alone() {
    let mut world = with_slots(&[("a", 3)], 1, 3);
    world.end_on(("a", Some(1)), 3, Some(1), None);
    let cordoned = world.cordoned();
    assert!(
        cordoned.len() == 1 && cordoned[0].starts_with("a: slot 1 only: 3 workers failed there"),
        "{cordoned:?}"
    );
    assert_eq!(world.event("node_cordoned")[0].details["slot"], 1);
    assert_eq!(world.status().world_size, 2);
    world.restart_coordinator();
    world.reconnect();
    world.deliver();
    assert_eq!(world.cordoned(), cordoned);
    // Uncordoning the node is for its slots, too.
    world.feed(Event::UncordonRequested { node: "a".into() });
    world.run_until(|world| world.status().world_size == 3);
    assert!(world.cordoned().is_empty());
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn the_last_place_that_a_job_can_go_to_is_not_cordoned() {
    let mut world = with_slots(&[("a", 1)], 1, 1);
    for _ in 0..4 {
        world.run_until(|world| !world.on("a").is_empty());
        world.crash_on("a", 1);
    }
    assert!(world.cordoned().is_empty(), "{:?}", world.cordoned());
    let mut world = with_slots(&[("a", 1), ("b", 1)], 2, 2);
    let before = world.status().step;
    for _ in 0..4 {
        world.run_until(|world| !world.on("b").is_empty());
        for worker in world.on("b") {
            world.end(&worker, Some(1), None);
        }
        world.deliver();
        world.wait(10);
    }
    assert_eq!(world.status().step, before);
    assert!(world.cordoned().is_empty());
    let suspect = &world.event("node_suspect")[0];
    assert!(
        suspect.reason.starts_with(
            "node b would be cordoned, but this job has no other place to go: 3 workers failed"
        ),
        "{suspect:?}"
    );
    let told = world.event("node_suspect").len();
    assert!(told <= 2, "once a failure: {told}");
}

#[test]
fn a_cordon_for_failures_gives_way_to_a_job_that_has_no_other_place() {
    let mut world = on_two_nodes();
    world.crash_on("b", 3);
    assert_eq!(world.cordoned().len(), 1);
    world.submit(2, spec(STEPS, 2, 2));
    assert!(world.cordoned().is_empty(), "{:?}", world.cordoned());
    let job = job_id(2);
    let words = format!("node b is used again: job {job} has no other place to go");
    let told = world.event("node_uncordoned");
    assert!(told.iter().any(|it| it.reason == words), "{told:?}");
    world.restart_coordinator();
    world.reconnect();
    world.deliver();
    assert!(world.cordoned().is_empty(), "it is on record");
    let is_done = |world: &World| {
        let over = |number| world.status_of(number).state == JobState::Finished;
        over(1) && over(2)
    };
    world.run_until(is_done);
}

#[test]
fn a_cordon_stays_where_lifting_it_would_not_be_enough() {
    let mut world = on_two_nodes();
    world.crash_on("b", 3);
    let cordoned = world.cordoned();
    world.submit(2, spec(STEPS, 3, 3));
    assert_eq!(world.cordoned(), cordoned);
    let why = world.status_of(2).state_reason;
    assert!(
        why.contains("the cluster offers 1 beside 1 cordoned"),
        "{why}"
    );
}

#[test]
fn what_people_cordon_stays_cordoned() {
    let mut world = on_two_nodes();
    world.crash_on("b", 3);
    world.feed(Event::CordonRequested {
        node: "b".into(),
        reason: "its memory is replaced".into(),
    });
    world.submit(2, spec(STEPS, 2, 2));
    assert_eq!(world.cordoned(), ["b: its memory is replaced"]);
    world.wait(60);
    assert_eq!(world.cordoned(), ["b: its memory is replaced"]);
}

#[test]
fn a_job_that_fails_on_other_nodes_too_is_to_blame_itself() {
    let mut world = with_slots(&[("a", 1), ("b", 1), ("c", 1)], 3, 3);
    // None ever commits a step again.
    for node in ["a", "b", "b", "b"] {
        world.run_until(|world| !world.on(node).is_empty());
        for worker in world.on(node) {
            world.end(&worker, Some(1), None);
        }
        world.deliver();
        world.wait(10);
    }
    assert!(world.cordoned().is_empty() && world.event("node_suspect").is_empty());
}

#[test]
fn a_replacement_goes_where_nobody_failed() {
    let mut world = with_slots(&[("a", 1), ("b", 1), ("c", 1)], 1, 2);
    world.crash_on("b", 1);
    world.run_until(|world| world.status().world_size == 2);
    assert!(world.on("b").is_empty());
    assert_eq!(world.on("c").len(), 1);
    assert_eq!(world.run_to_end(), JobState::Finished);
}

/// Kills whoever holds rank 1 as soon as all have agreed on step `deadly`, until the job is over.
fn run_into(world: &mut World, deadly: u64, code: i32) {
    for _ in 0..200 {
        let rank_1 = world.job().members.get(1).cloned();
        let there = |worker: &WorkerId| {
            let fake = world.workers.get(worker);
            fake.is_some_and(|fake| fake.pending.is_some_and(|step| step.get() == deadly))
        };
        match rank_1.filter(there) {
            Some(worker) => {
                let others = world.job().members.to_vec();
                for other in others {
                    world.workers.get_mut(&other).unwrap().pending = None;
                }
                world.end(&worker, Some(code), None);
            }
            None => drop(world.work()),
        }
        world.deliver();
        if world.status().state.is_over() {
            return;
        }
        world.wait(3);
    }
    panic!("it never ends: {:#?}", world.status());
}

#[test]
fn a_step_that_fails_again_and_again_is_named_with_what_it_trains_on() {
    let mut world = with_slots(&[("a", 1), ("b", 3)], 2, 2);
    run_into(&mut world, 13, 101);
    let status = world.status();
    assert_eq!(status.state, JobState::Failed);
    let words = &status.state_reason;
    assert!(
        words.starts_with(
            "gave up: step 12 failed 5 times; it trains the samples 96..104; the last: worker w-"
        ),
        "{words}"
    );
    let one =
        "exited with status 101 (rank 1, training, after step 12); its last words: its last line";
    assert_eq!(words.matches(one).count(), 5, "{words}");
    let evidence = world.one("gave_up");
    assert_eq!(evidence.reason, *words);
    let details = &evidence.details;
    assert_eq!(
        (&details["failures"], &details["step"]),
        (&5.into(), &12.into())
    );
    assert_eq!(
        (&details["first_position"], &details["end_position"]),
        (&96.into(), &104.into())
    );
    assert_eq!(
        (&details["rank"], &details["node"]),
        (&1.into(), &"b".into())
    );
    assert_eq!(details["phase"], "training");
    assert!(
        world.cordoned().is_empty() && world.event("node_suspect").is_empty(),
        "at one step it may be what the step trains on"
    );
    world.feed(Event::ResumeRequested { job: job_id(1) });
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn failures_of_several_jobs_at_one_step_each_add_up() {
    let mut world = World::with_options(ClusterOptions::default());
    world.add_node("a", 1);
    world.add_node("b", 1);
    world.deliver();
    world.wait(10);
    let node = NodeName::from("b");
    for number in 1..=3 {
        world.submit(number, spec(STEPS, 2, 2));
        world.run_until(|world| world.status_of(number).state == JobState::Training);
        for worker in world.on("b") {
            world.end(&worker, Some(1), None);
        }
        world.deliver();
        assert!(
            !world.cluster.cordons.contains_key(&node),
            "the jobs have no other place"
        );
        let reason = String::new();
        world.feed(Event::CancelRequested {
            job: job_id(number),
            reason,
        });
        world.deliver();
    }
    // What was cancelled does not count on.
    assert!(world.event("node_suspect").len() <= 1);
}

#[rstest]
#[case::of_the_numbers("divergence", false)]
#[case::of_the_memory("memory", true)]
fn a_loss_that_diverges_speaks_against_no_node(#[case] class: &str, #[case] counts: bool) {
    let mut world = on_two_nodes();
    for _ in 0..3 {
        world.run_until(|world| {
            world.status().world_size == 2 && world.status().state == JobState::Training
        });
        let worker = world.on("b").remove(0);
        world.workers.get_mut(&worker).unwrap().fail(class);
        world.deliver();
        world.train_on();
        if world.cluster.nodes()[1].cordon.is_some() {
            break;
        }
    }
    // As a member it has committed steps in between where it came so far.
    let faults = &world.cluster.jobs[&job_id(1)].volatile.faults;
    assert!(counts || faults.is_empty(), "{faults:?}");
}

#[test]
fn a_node_that_finds_itself_unfit_is_cordoned_and_a_reason_that_someone_gave_stands() {
    let mut world = on_two_nodes();
    let unfit = |reason: &str| Event::NodeUnfit {
        node: "b".into(),
        reason: reason.into(),
    };
    world.feed(unfit("3 MiB of memory are available"));
    let words = "b: its agent's check of the machine failed: 3 MiB of memory are available";
    assert_eq!(world.cordoned(), [words]);
    world.feed(unfit("its disk is full"));
    assert_eq!(world.cordoned(), [words]);
    assert_eq!(world.run_to_end(), JobState::Finished);
}
