//! Nodes that are to be empty: what runs there moves or saves, and no step is lost for it.

use muster_types::{NodeName, Step};
use rstest::rstest;

use super::world::World;
use crate::{DrainStage, Event, JobState, OpenCause, RecordKind, WorkerMessage};

const GRACE_SECONDS: u32 = 20;

impl World {
    fn drain(&mut self, node: &str, reason: &str) {
        self.feed(Event::DrainRequested {
            node: node.into(),
            reason: reason.into(),
        });
    }

    fn agent_leaves(&mut self, node: &str) {
        self.feed(Event::AgentLeaving {
            node: node.into(),
            grace_seconds: GRACE_SECONDS,
        });
    }

    fn stage(&self, node: &str) -> Option<DrainStage> {
        let mut nodes = self.cluster.nodes().into_iter();
        nodes.find(|it| it.name.as_str() == node)?.drain
    }

    /// The nodes of the job's members, in rank order.
    fn places(&self) -> Vec<String> {
        let job = self.job();
        let node = |worker| job.workers.get(worker).map(|it| it.node.to_string());
        job.members.iter().filter_map(node).collect()
    }

    fn count_on(&self, node: &str) -> usize {
        self.cluster.workers_at(&NodeName::from(node))
    }

    /// The worker that was placed last stays where it is before it has attached.
    fn freeze_the_newest(&mut self) {
        let newest = self.worker(self.job().placed.len());
        self.workers.get_mut(&newest).unwrap().frozen = true;
    }

    /// Nobody has failed, nobody was put out, and no step was taken back.
    fn assert_nothing_was_lost(&self) {
        let failed = |event: &Event| {
            let is_failure =
                |message: &WorkerMessage| matches!(message, WorkerMessage::Failed { .. });
            matches!(event, Event::Worker { message, .. } if is_failure(message))
        };
        assert!(!self.heard.iter().any(failed), "a collective failed");
        assert!(
            self.event("expelled").is_empty(),
            "{:?}",
            self.event("expelled")
        );
        assert_eq!(self.status().recoveries, 0);
        let lost = |record: &crate::Record| matches!(&record.kind, RecordKind::GenerationOpened { cause, .. } if *cause == OpenCause::Lost);
        assert!(!self.journal.iter().any(lost), "a generation was lost");
        assert!(self.event("node_cordoned").is_empty());
        assert!(self.event("node_suspect").is_empty());
    }
}

/// A job of `min..=2` workers that trains on nodes a and b, and more nodes of a slot each.
fn on_a_and_b(min: u32, others: &[&str]) -> World {
    let mut world = World::settled(&[("a", 1), ("b", 1)]);
    world.queue_up(1, 60, (0, min, 2));
    world.run_to_world_size(1, 2);
    for node in others {
        world.add_node(node, 1);
        world.deliver();
    }
    world.run_to(8);
    assert_eq!(world.places(), ["a", "b"]);
    world
}

/// However it comes that a node is to be empty.
fn empties(world: &mut World, node: &str, by_its_agent: bool) {
    match by_its_agent {
        true => world.agent_leaves(node),
        false => world.drain(node, "its fan is loud"),
    }
}

#[rstest]
fn workers_are_replaced_elsewhere_before_they_leave(
    #[values(1, 2)] min: u32,
    #[values(true, false)] by_its_agent: bool,
) {
    let mut world = on_a_and_b(min, &["c"]);
    let before = world.generation();
    empties(&mut world, "b", by_its_agent);
    assert_eq!(world.stage("b"), Some(DrainStage::Draining));
    world.run_until(|world| world.stage("b") == Some(DrainStage::Drained));
    assert_eq!(world.count_on("c"), 1);
    world.run_until(|world| world.places() == ["a", "c"]);
    assert_eq!(
        world.generation(),
        before + 1,
        "one generation more, and no more"
    );
    assert_eq!(world.event("node_drained").len(), 1);
    assert!(!world.event("node_draining").is_empty());
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(60);
    world.assert_nothing_was_lost();
    let sizes = world.event("first_step").into_iter();
    let sizes: Vec<_> = sizes.map(|it| it.details["world_size"].clone()).collect();
    assert!(sizes.iter().all(|size| *size == 2), "{sizes:?}");
}

#[rstest]
fn where_there_is_no_room_a_job_goes_on_with_fewer(#[values(true, false)] by_its_agent: bool) {
    let mut world = on_a_and_b(1, &[]);
    empties(&mut world, "b", by_its_agent);
    world.run_until(|world| world.stage("b") == Some(DrainStage::Drained));
    assert_eq!(world.places(), ["a"]);
    let shrunk = &world.event("shrink")[0].reason;
    let why = match by_its_agent {
        true => "the agent of node b is about to end",
        false => "node b is drained: its fan is loud",
    };
    assert_eq!(*shrunk, format!("gives back 1 of 2 slots: {why}"));
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(60);
    world.assert_nothing_was_lost();
    assert_eq!(world.job().placed.len(), 2, "nothing new was placed on b");
}

#[rstest]
fn a_job_that_cannot_do_without_saves_and_goes_on_by_itself(
    #[values(true, false)] by_its_agent: bool,
) {
    let mut world = on_a_and_b(2, &[]);
    empties(&mut world, "b", by_its_agent);
    world.run_until(|world| world.status().state == JobState::Pending);
    let status = world.status();
    assert_eq!(
        status.last_checkpoint.unwrap().state.step,
        status.step,
        "it saved before it left"
    );
    let why = "and it cannot have 1 cpu slot elsewhere";
    assert!(status.state_reason.contains(why), "{}", status.state_reason);
    let offer = "needs 2 cpu slots, the cluster offers 1 beside 1 on nodes that are drained";
    assert!(
        status.state_reason.starts_with(offer),
        "{}",
        status.state_reason
    );
    world.run_until(|world| world.stage("b") == Some(DrainStage::Drained));
    assert_eq!(world.count_on("a"), 0, "its other slot is free for others");
    world.wait(120);
    assert_eq!(world.job().placed.len(), 2);
    world.add_node("c", 1);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(60);
    world.assert_nothing_was_lost();
}

#[test]
fn where_all_agents_leave_the_newest_step_is_saved_and_fresh_agents_find_the_job() {
    let mut world = on_a_and_b(1, &[]);
    world.agent_leaves("a");
    // The other one is a moment later.
    world.deliver();
    world.work();
    world.agent_leaves("b");
    world.run_until(|world| world.status().state == JobState::Pending);
    let status = world.status();
    assert!(status.step >= Step(8));
    assert_eq!(status.last_checkpoint.unwrap().state.step, status.step);
    world.assert_nothing_was_lost();
    for node in ["a", "b"].map(NodeName::from) {
        world.disconnect_agent(&node);
    }
    world.deliver();
    assert_eq!(world.status().state, JobState::Pending);
    assert_eq!(
        world.stage("a"),
        None,
        "whoever is gone is not about to end"
    );
    world.connect_agent(&"a".into());
    let placed = world.job().placed.len();
    world.deliver();
    assert_eq!(world.job().placed.len(), placed + 1, "nobody is waited for");
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(60);
}

#[rstest]
#[case::it_does_without(1)]
#[case::it_saves(2)]
fn nobody_waits_for_a_replacement_beyond_half_the_grace(#[case] min: u32) {
    let mut world = on_a_and_b(min, &["c"]);
    world.agent_leaves("b");
    assert_eq!(world.count_on("c"), 1);
    world.freeze_the_newest();
    for _ in 0..u64::from(GRACE_SECONDS) / 2 {
        assert_eq!(world.places(), ["a", "b"]);
        world.work();
        world.deliver();
        world.wait(1);
    }
    let until = world.now.monotonic;
    world.run_until(|world| world.count_on("b") == 0);
    assert!(world.now.monotonic.since(until).as_secs() < 5);
    let saved: Vec<_> = world
        .event("preempted")
        .into_iter()
        .map(|it| it.reason)
        .collect();
    let why = "the agent of node b is about to end, and not enough others are ready in time";
    match min {
        1 => assert_eq!((world.places(), saved), (vec!["a".to_owned()], vec![])),
        _ => {
            assert_eq!(saved, [why]);
            world.run_until(|world| world.status().state == JobState::Training);
            assert_eq!(
                world.resumes().last().unwrap().state.step,
                world.event("requeued")[0].step
            );
        }
    }
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(60);
}

/// Someone who drains a node has time.
#[test]
fn a_drain_waits_for_replacements_as_long_as_they_take() {
    let mut world = on_a_and_b(1, &["c"]);
    world.drain("b", "");
    world.freeze_the_newest();
    for _ in 0..40 {
        world.work();
        world.deliver();
        world.wait(1);
        assert_eq!(world.places(), ["a", "b"]);
    }
    let newest = world.worker(3);
    world.workers.get_mut(&newest).unwrap().frozen = false;
    world.run_until(|world| world.places() == ["a", "c"]);
    world.assert_nothing_was_lost();
}

#[test]
fn a_higher_priority_moves_to_slots_that_a_lower_one_gives_back() {
    let mut world = World::settled(&[("a", 1), ("b", 2)]);
    world.queue_up(1, 80, (5, 1, 1));
    world.run_to_world_size(1, 1);
    world.queue_up(2, 80, (0, 1, 2));
    world.run_to_world_size(2, 2);
    assert_eq!(world.places(), ["a"]);
    world.drain("a", "");
    world.run_until(|world| world.stage("a") == Some(DrainStage::Drained));
    assert_eq!(world.places(), ["b"]);
    assert!(world.event("preempted").is_empty());
    assert_eq!(world.slots_of(2), 1);
    world.assert_nothing_was_lost();
    world.run_all_to_end();
    world.check_finished(80);
}

#[test]
fn a_drain_outlives_the_coordinator_and_ends_when_the_node_is_uncordoned() {
    let mut world = on_a_and_b(1, &[]);
    world.feed(Event::CordonRequested {
        node: "b".into(),
        reason: "its fan is loud".into(),
    });
    assert_eq!(world.stage("b"), None);
    assert_eq!(world.places(), ["a", "b"], "what runs there goes on");
    // Why it was cordoned is why it is drained.
    world.drain("b", "");
    world.run_until(|world| world.stage("b") == Some(DrainStage::Drained));
    world.restart_coordinator();
    let told = world.event("node_drained").len();
    world.reconnect();
    world.deliver();
    assert_eq!(world.stage("b"), Some(DrainStage::Drained));
    assert_eq!(world.event("node_drained").len(), told, "it is no news");
    world.feed(Event::CordonRequested {
        node: "b".into(),
        reason: String::new(),
    });
    assert_eq!(
        world.stage("b"),
        Some(DrainStage::Drained),
        "a cordon is less"
    );
    world.run_until(|world| world.status().state == JobState::Training);
    assert_eq!(world.count_on("b"), 0);
    world.feed(Event::UncordonRequested { node: "b".into() });
    assert_eq!(world.stage("b"), None);
    world.run_to_world_size(1, 2);
    assert_eq!(world.places(), ["a", "b"]);
}

#[test]
fn an_agent_that_is_about_to_end_says_so_again_on_each_stream() {
    let mut world = on_a_and_b(1, &[]);
    world.agent_leaves("b");
    let node = NodeName::from("b");
    world.disconnect_agent(&node);
    world.deliver();
    assert_eq!(world.stage("b"), None);
    world.connect_agent(&node);
    let agent = world.agents.get_mut(&node).unwrap();
    for event in &mut agent.out {
        if let Event::AgentConnected(hello) = event {
            hello.leaving_seconds = Some(GRACE_SECONDS);
        }
    }
    world.deliver();
    assert_eq!(world.stage("b"), Some(DrainStage::Draining));
    world.run_until(|world| world.stage("b") == Some(DrainStage::Drained));
    assert_eq!(world.places(), ["a"]);
    world.assert_nothing_was_lost();
}

#[test]
fn a_node_that_is_empty_when_it_is_drained_is_said_to_be_so_at_once() {
    let mut world = on_a_and_b(1, &["c"]);
    world.drain("c", "");
    assert_eq!(world.stage("c"), Some(DrainStage::Drained));
    assert_eq!(world.event("node_drained").len(), 1);
    world.drain("c", "");
    assert_eq!(world.event("node_drained").len(), 1);
    assert_eq!(world.places(), ["a", "b"]);
}
