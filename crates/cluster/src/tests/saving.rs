//! Checkpoints: parts, manifests, retention.

use muster_types::{Generation, Rank, StateId, Step};

use super::{
    fake::file,
    world::{World, job_id, spec},
};
use crate::{Command, Event, JobState, Order, Part, WorkerMessage};

fn state(generation: u64, step: u64) -> StateId {
    StateId::new(Generation(generation), Step(step))
}

fn part(step: u64, rank: u32) -> WorkerMessage {
    WorkerMessage::PartWritten(Part {
        state: state(1, step),
        rank: Rank(rank),
        world_size: 2,
        file: file(rank, 2),
    })
}

/// Runs to `step`; whatever the workers write of its checkpoint is lost on the way.
fn run_to_unsaved(world: &mut World, step: u64) {
    while world.status().step < Step(step) {
        world.work();
        for fake in world.workers.values_mut() {
            fake.out.retain(|event| {
                !matches!(event, Event::Worker { message: WorkerMessage::PartWritten(part), .. }
                    if part.state.step == Step(step))
            });
        }
        world.deliver();
    }
}

#[test]
fn a_checkpoint_is_committed_when_all_parts_are_there_and_its_manifest_is() {
    let mut world = World::training(20, 2, 2, 2);
    world.run_to(3);
    let members = world.job().members.to_vec();
    world.commands.clear();
    world.message(&members[1], 1, part(3, 1));
    world.message(&members[1], 1, part(3, 1));
    assert!(world.commands.is_empty(), "one part of two");
    world.message(&members[0], 1, part(3, 0));
    let Some(Command::WriteManifest {
        parts, tokens_seen, ..
    }) = world.commands.first().cloned()
    else {
        panic!("no manifest: {:?}", world.commands)
    };
    assert_eq!(parts, [file(0, 2), file(1, 2)], "in the order of the ranks");
    assert_eq!(tokens_seen, 101 + 102 + 103);
    assert!(
        world.status().last_checkpoint.is_none(),
        "not before the manifest is durable"
    );
    world.deliver();
    assert_eq!(world.status().last_checkpoint.unwrap().state, state(1, 3));
    let acknowledged = world.commands.iter().filter(|command| {
        matches!(
            command,
            Command::Tell {
                order: Order::PartAcknowledged { .. },
                ..
            }
        )
    });
    assert_eq!(acknowledged.count(), 2);
    let event = &world.event("checkpoint_committed")[0];
    assert_eq!(event.details["bytes"], 200);
    assert!(
        event.details["uri"]
            .as_str()
            .unwrap()
            .ends_with("step-0000000003.g1")
    );
}

#[test]
fn a_part_that_comes_again_is_acknowledged_again() {
    let mut world = World::training(20, 2, 2, 2);
    world.run_to(6);
    world.deliver();
    let members = world.job().members.to_vec();
    let before = world.snapshot();
    world.commands.clear();
    world.message(&members[0], 1, part(5, 0));
    assert!(matches!(
        &world.commands[..],
        [Command::Tell {
            order: Order::PartAcknowledged { .. },
            ..
        }]
    ));
    assert_eq!(world.snapshot(), before);
}

#[test]
fn the_newest_are_kept() {
    let mut world = World::training(40, 1, 2, 2);
    assert_eq!(world.run_to_end(), JobState::Finished);
    let kept: Vec<_> = world
        .storage
        .keys()
        .map(|(_, state)| state.step.get())
        .collect();
    assert_eq!(kept, [35, 40]);
    let listed: Vec<_> = world
        .cluster
        .checkpoints(job_id(1))
        .iter()
        .map(|c| c.state.step.get())
        .collect();
    assert_eq!(listed, [40, 35], "newest first");
    assert_eq!(world.event("checkpoint_deleted").len(), 6);
}

#[test]
fn a_failed_save_never_stops_training() {
    let mut world = World::training(20, 1, 2, 2);
    world.storage_down = true;
    world.run_to(8);
    world.wait(10);
    let failed = world.event("checkpoint_failed");
    assert_eq!(failed.len(), 1);
    assert!(
        failed[0].reason.contains("the disk is full"),
        "{}",
        failed[0].reason
    );
    let member = world.job().members[0].clone();
    let cause = "no space".to_owned();
    world.message(
        &member,
        1,
        WorkerMessage::PartFailed {
            state: state(1, 8),
            rank: Rank(0),
            cause,
        },
    );
    assert_eq!(world.event("checkpoint_failed").len(), 2);
    world.storage_down = false;
    assert_eq!(world.run_to_end(), JobState::Finished);
    assert_eq!(world.generation(), 1);
    world.check_finished(20);
}

#[test]
fn a_manifest_is_tried_again() {
    let mut world = World::training(20, 1, 1, 1);
    world.storage_down = true;
    world.run_to(6);
    world.deliver();
    world.storage_down = false;
    world.wait(5);
    assert_eq!(world.status().last_checkpoint.unwrap().state, state(1, 5));
    assert!(world.event("checkpoint_failed").is_empty());
}

#[test]
fn a_job_without_its_last_checkpoint_has_failed_and_can_be_taken_up() {
    let mut world = World::training(7, 1, 1, 1);
    let worker = world.worker(1);
    run_to_unsaved(&mut world, 7);
    // The worker cannot write its part of step 7, says so, and leaves.
    let fake = world.workers.get_mut(&worker).unwrap();
    fake.out.clear();
    let cause = "no space".to_owned();
    fake.say(WorkerMessage::PartFailed {
        state: state(1, 7),
        rank: Rank(0),
        cause,
    });
    fake.go();
    world.end(&worker, Some(0), None);
    // The process is gone before its stream is read to the end.
    while let Some(event) = world.last_words.pop_front() {
        world.feed(event);
    }
    world.deliver();
    let status = world.status();
    assert_eq!(status.state, JobState::Failed);
    assert!(
        status.state_reason.contains("no space"),
        "{}",
        status.state_reason
    );
    world.feed(Event::ResumeRequested { job: job_id(1) });
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(7);
}

#[test]
fn losing_all_workers_after_the_last_step_falls_back_to_a_checkpoint() {
    let mut world = World::training(7, 1, 2, 2);
    run_to_unsaved(&mut world, 7);
    let members = world.job().members.to_vec();
    for member in &members {
        world.kill(member);
    }
    assert_eq!(world.run_to_end(), JobState::Finished);
    assert_eq!(world.resumes()[1].state, state(1, 5));
    world.check_finished(7);
}

#[test]
fn a_manifest_of_a_state_that_was_discarded_meanwhile_is_refused() {
    let mut world = World::new();
    world.add_node("a", 2);
    let mut spec = spec(20, 1, 2);
    spec.checkpoint.every_steps = 0;
    world.submit(1, spec);
    world.run_to(3);
    let members = world.job().members.to_vec();
    world.message(&members[0], 1, part(3, 0));
    world.message(&members[1], 1, part(3, 1));
    // The manifest of (1, 3) is being written; all workers die, and nothing else is on record.
    let done = world.shell.pop_back().unwrap();
    assert!(matches!(done, Event::ManifestDone { .. }));
    for member in &members {
        world.kill(member);
    }
    world.deliver();
    assert_eq!(
        world.resumes().len(),
        1,
        "a checkpoint that is all but complete is waited for"
    );
    world.feed(done);
    world.deliver();
    assert_eq!(world.resumes()[1].state, state(1, 3));
    assert_eq!(world.initialised, 1);
}
