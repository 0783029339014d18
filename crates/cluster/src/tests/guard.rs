//! Steps that look wrong, and replicas that differ.

use muster_spec::{OnSpike, RunSpec};
use muster_types::{Generation, Position, Rank, StateId, Step};
use rstest::rstest;

use super::world::{World, spec};
use crate::{Event, JobState, OpenCause, Part, RecordKind, ResumeSource, Trip, WorkerMessage};

const STEPS: u64 = 30;

fn guarded(on_spike: OnSpike, max_skips: u32) -> RunSpec {
    let mut spec = spec(STEPS, 2, 2);
    spec.guard.on_spike = on_spike;
    spec.guard.max_skips = max_skips;
    spec
}

/// Two ranks, at this step.
fn training(spec: RunSpec, step: u64) -> World {
    let mut world = World::new();
    world.add_node("a", 2);
    world.submit(1, spec);
    world.run_to(step);
    world
}

fn trip(step: u64, not_finite: bool, held: bool) -> Trip {
    Trip {
        step: Step(step),
        not_finite,
        loss: 9.0,
        gradient_norm: 40.0,
        loss_score: 31.0,
        norm_score: 12.0,
        held,
    }
}

/// All ranks say the same.
fn say(world: &mut World, trip: Trip) {
    let generation = world.generation();
    for member in Vec::from(&*world.job().members) {
        world.message(&member, generation, WorkerMessage::Tripped(trip));
    }
    world.deliver();
}

/// The positions of the step after `step`.
fn positions(world: &World, step: u64) -> std::ops::Range<u64> {
    muster_plan::positions(&world.job().segments, Step(step))
        .unwrap()
        .1
}

#[test]
fn a_skipped_batch_makes_way_for_the_samples_after_it() {
    let mut world = training(guarded(OnSpike::SkipBatch, 5), 7);
    let batch = u64::from(world.job().submission.spec.train.global_batch);
    let step = world.status().step.get();
    assert_eq!(positions(&world, step).start, step * batch);
    say(&mut world, trip(step, false, true));
    assert_eq!(world.generation(), 2);
    assert_eq!(positions(&world, step - 1).start, (step - 1) * batch);
    assert_eq!(positions(&world, step).start, (step + 1) * batch);
    assert_eq!(positions(&world, step + 5).start, (step + 6) * batch);
    let resumes = world.resumes();
    assert_eq!(resumes[1].state.step, Step(step));
    assert!(matches!(resumes[1].source, ResumeSource::Live { .. }));
    let skipped = world.event("batch_skipped");
    assert_eq!(skipped.len(), 1, "once, whoever says it");
    assert_eq!(skipped[0].details["from_position"], step * batch);
    assert_eq!(skipped[0].details["loss_score"], 31.0);
    assert_eq!(world.status().recoveries, 0, "nobody was lost");
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[test]
fn case_17_a_save_that_is_done_after_a_rollback_is_of_a_discarded_branch() {
    let mut world = training(guarded(OnSpike::Rollback, 5), 13);
    let step = world.status().step.get();
    let members = world.job().members.to_vec();
    let back_to = world.status().last_checkpoint.unwrap().state;
    world.message(
        &members[0],
        1,
        WorkerMessage::Tripped(trip(step, false, true)),
    );
    let beyond = StateId::new(Generation(1), Step(step - 1));
    assert!(beyond.step > back_to.step);
    for rank in [0, 1] {
        let part = Part {
            state: beyond,
            rank: Rank(rank),
            world_size: 2,
            file: super::fake::file(rank, 2),
        };
        world.message(&members[rank as usize], 1, WorkerMessage::PartWritten(part));
    }
    world.deliver();
    assert_eq!(world.resumes()[1].state, back_to);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

/// A job that goes back, and has yet to hear that the manifest of a newer state could not be written.
fn rolled_back_in_the_middle_of_a_save() -> (World, Event) {
    let mut world = training(guarded(OnSpike::Rollback, 5), 13);
    let step = world.status().step.get();
    let members = world.job().members.to_vec();
    world.storage_down = true;
    for rank in [0, 1] {
        let part = Part {
            state: StateId::new(Generation(1), Step(step - 1)),
            rank: Rank(rank),
            world_size: 2,
            file: super::fake::file(rank, 2),
        };
        world.message(&members[rank as usize], 1, WorkerMessage::PartWritten(part));
    }
    let failed = world.shell.pop_back().unwrap();
    assert!(matches!(failed, Event::ManifestDone { .. }));
    say(&mut world, trip(step, false, true));
    (world, failed)
}

#[test]
fn a_rollback_goes_on_as_soon_as_the_save_of_a_discarded_branch_has_failed() {
    let (mut world, failed) = rolled_back_in_the_middle_of_a_save();
    assert_eq!(world.resumes().len(), 1, "it may be the newest there is");
    world.storage_down = false;
    world.feed(failed);
    assert_eq!(world.resumes().len(), 2, "no clock has to tick");
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[test]
fn a_lost_worker_is_replaced_as_soon_as_the_save_of_a_discarded_branch_has_failed() {
    let (mut world, failed) = rolled_back_in_the_middle_of_a_save();
    let members = world.job().members.clone();
    world.kill(&members[1]);
    world.deliver();
    let placed = world.job().placed.len();
    world.storage_down = false;
    world.feed(failed);
    assert_eq!(world.job().placed.len(), placed + 1, "no clock has to tick");
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[test]
fn a_rollback_starts_from_a_checkpoint_and_leaves_the_whole_window_out() {
    let mut world = training(guarded(OnSpike::Rollback, 5), 13);
    let batch = u64::from(world.job().submission.spec.train.global_batch);
    let step = world.status().step.get();
    say(&mut world, trip(step, false, true));
    let resume = world.resumes().pop().unwrap();
    let back = resume.state.step.get();
    assert!(back < step && matches!(resume.source, ResumeSource::Checkpoint { .. }));
    assert_eq!(positions(&world, back).start, (step + 1) * batch);
    assert_eq!(positions(&world, back - 1).start, (back - 1) * batch);
    assert_eq!(world.event("rolled_back")[0].details["back_to_step"], back);
    // Whoever dies now, what was discarded never comes back.
    let member = world.worker(2);
    world.kill(&member);
    world.restart_coordinator();
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[rstest]
#[case(OnSpike::SkipBatch)]
#[case(OnSpike::Rollback)]
fn a_spike_is_accepted_when_it_has_been_skipped_often_enough(#[case] on_spike: OnSpike) {
    let mut world = training(guarded(on_spike, 2), 13);
    let step = world.status().step.get();
    for count in 0..2 {
        assert_eq!(world.job().skips.map_or(0, |(_, count)| count), count);
        world.run_to(step);
        say(&mut world, trip(step, false, true));
    }
    world.run_to(step);
    say(&mut world, trip(step, false, true));
    assert_eq!(world.event("spike_accepted").len(), 1);
    let told: Vec<_> = world
        .workers
        .values()
        .map(|worker| worker.form.as_ref().unwrap().accept_spike_after)
        .collect();
    assert_eq!(told, [Some(Step(step)); 2]);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[test]
fn a_job_that_is_never_finite_fails_with_its_evidence() {
    let mut world = training(guarded(OnSpike::Ignore, 3), 7);
    let step = world.status().step.get();
    for _ in 0..4 {
        say(&mut world, trip(step, true, true));
    }
    let status = world.status();
    assert_eq!(status.state, JobState::Failed);
    assert!(
        status
            .state_reason
            .contains("is not finite, as were those of the 3 batches"),
        "{}",
        status.state_reason
    );
}

#[test]
fn a_spike_that_is_ignored_is_an_event_and_nothing_else() {
    let mut world = training(guarded(OnSpike::Ignore, 3), 7);
    let step = world.status().step.get();
    let first = world.job().members[0].clone();
    world.message(&first, 1, WorkerMessage::Tripped(trip(step, false, false)));
    assert_eq!(world.event("loss_spike").len(), 1);
    assert_eq!((world.generation(), world.job().segments.len()), (1, 1));
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[test]
fn without_a_checkpoint_a_rollback_skips_the_batch() {
    let mut spec = guarded(OnSpike::Rollback, 3);
    spec.checkpoint.every_steps = 0;
    let mut world = training(spec, 3);
    let step = world.status().step.get();
    say(&mut world, trip(step, false, true));
    assert_eq!(world.event("batch_skipped").len(), 1);
    assert_eq!(
        world.job().segments[1].start_position,
        Position(positions(&world, step).start)
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[test]
fn a_death_at_the_same_moment_loses_neither_the_skip_nor_the_job() {
    let mut world = training(guarded(OnSpike::SkipBatch, 5), 7);
    let step = world.status().step.get();
    let members = world.job().members.to_vec();
    world.message(
        &members[0],
        1,
        WorkerMessage::Tripped(trip(step, false, true)),
    );
    world.kill(&members[0]);
    world.restart_coordinator();
    world.deliver();
    let opened = world
        .journal
        .iter()
        .filter_map(|record| match &record.kind {
            RecordKind::GenerationOpened { cause, .. } => Some(*cause),
            _ => None,
        });
    assert!(opened.into_iter().any(|cause| cause == OpenCause::Skipped));
    // A late word of the other rank is of a generation that is over.
    world.message(
        &members[1],
        1,
        WorkerMessage::Tripped(trip(step, false, true)),
    );
    assert_eq!(world.event("batch_skipped").len(), 1);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[test]
fn replicas_that_differ_between_steps_lose_the_minority() {
    let mut world = World::training(STEPS, 1, 3, 3);
    world.run_to(9);
    let members = world.job().members.to_vec();
    let step = world.status().step;
    for (member, hash) in members.iter().zip([7, 8, 7]) {
        let said = WorkerMessage::Diverged {
            step,
            state_hash: hash,
        };
        world.message(member, 1, said);
    }
    assert!(!world.job().serves(&members[1]));
    let reason = &world.event("expelled")[0].reason;
    assert!(
        reason.contains("another state than the majority at step"),
        "{reason}"
    );
    // It states nothing any more: its own state was given up.
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(STEPS);
}

#[test]
fn replicas_without_a_majority_stop_the_job() {
    let mut world = World::training(STEPS, 2, 2, 2);
    world.run_to(9);
    let step = world.status().step;
    for (member, state_hash) in world.job().members.to_vec().iter().zip([7, 8]) {
        world.message(member, 1, WorkerMessage::Diverged { step, state_hash });
    }
    assert_eq!(world.status().state, JobState::Failed);
    assert!(world.status().state_reason.contains("none has a majority"));
}

#[test]
fn segments_are_told_with_the_next_generation() {
    let mut world = training(guarded(OnSpike::SkipBatch, 5), 7);
    let step = world.status().step.get();
    say(&mut world, trip(step, false, true));
    for worker in world.workers.values() {
        assert_eq!(
            worker.form.as_ref().unwrap().segments,
            world.job().segments.as_slice().into()
        );
    }
}
