//! What the committed history was trained on, and what status says of it.

use muster_types::{Generation, Step};

use super::{
    fake::{evidence_of, tokens_of},
    world::{World, job_id},
};
use crate::{JobState, RecordKind, StepMetrics, WorkerMessage, WorkerState};

fn metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step: Step(step),
        loss: 2.5,
        learning_rate: 1e-3,
        gradient_norm: 1.0,
        tokens: tokens_of(step),
        step_ms: 50.0,
        evidence: evidence_of(step),
        samples: 8,
        slot_ms: 0.0,
    }
}

fn ready(world: &mut World) {
    world.work();
    world.deliver();
}

#[test]
fn the_first_report_of_a_step_counts() {
    let mut world = World::training(1000, 1, 2, 2);
    ready(&mut world);
    let members = world.job().members.to_vec();
    world.committed.clear();
    for member in &members {
        world.message(
            member,
            1,
            WorkerMessage::Report {
                steps: (1..=3).map(metrics).collect(),
            },
        );
    }
    assert_eq!(world.committed.len(), 3);
    assert_eq!(world.status().step, Step(3));
    assert_eq!(world.status().tokens_seen, 101 + 102 + 103);
}

#[test]
fn reports_of_another_generation_or_of_strangers_change_nothing() {
    let mut world = World::training(1000, 1, 2, 2);
    world.run_to(4);
    let members = world.job().members.to_vec();
    world.kill(&members[1]);
    world.run_to(6);
    let status = world.status();
    for (worker, generation) in [
        (members[0].clone(), 1),
        (members[1].clone(), 2),
        ("w-99".into(), 2),
    ] {
        world.message(
            &worker,
            generation,
            WorkerMessage::Report {
                steps: vec![metrics(90)],
            },
        );
    }
    assert_eq!(world.status().step, status.step);
    assert_eq!(world.status().tokens_seen, status.tokens_seen);
    // A worker cannot be in a generation that was never opened: it is put out.
    world.message(
        &members[0],
        9,
        WorkerMessage::Report {
            steps: vec![metrics(90)],
        },
    );
    assert!(!world.job().serves(&members[0]));
}

#[test]
fn watermarks_follow_the_clock_and_the_steps() {
    let mut world = World::training(100_000, 1, 1, 1);
    ready(&mut world);
    let worker = world.worker(1);
    let marks = |world: &World| {
        world
            .journal
            .iter()
            .filter_map(|record| match &record.kind {
                RecordKind::Watermark {
                    state, tokens_seen, ..
                } => Some((state.step.get(), *tokens_seen)),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    world.message(
        &worker,
        1,
        WorkerMessage::Report {
            steps: (1..=900).map(metrics).collect(),
        },
    );
    let sum = |step: u64| (1..=step).map(tokens_of).sum::<u64>();
    assert_eq!(
        marks(&world),
        [200, 400, 600, 800].map(|step| (step, sum(step)))
    );
    world.wait(6);
    world.message(
        &worker,
        1,
        WorkerMessage::Report {
            steps: vec![metrics(901)],
        },
    );
    assert_eq!(marks(&world).last(), Some(&(901, sum(901))));
}

#[test]
fn a_rollback_takes_the_totals_back_and_counts_again() {
    let mut world = World::training(60, 1, 2, 2);
    world.run_to(17);
    world.wait(6);
    world.run_to(18);
    assert!(
        world.job().marks.contains_key(&Step(18)),
        "a watermark above the checkpoint"
    );
    for member in Vec::from(&*world.job().members) {
        world.kill(&member);
    }
    world.deliver();
    assert_eq!(world.status().step, Step(15));
    assert_eq!(
        world.status().tokens_seen,
        (1..=15).map(tokens_of).sum::<u64>()
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(60);
}

#[test]
fn steps_that_were_never_reported_are_counted_by_the_constant_batch_and_said() {
    let mut world = World::training(100_000, 1, 1, 1);
    ready(&mut world);
    let worker = world.worker(1);
    // The coordinator was away for longer than the worker remembers.
    let steps = (501..=503)
        .map(|step| StepMetrics {
            tokens: 100,
            ..metrics(step)
        })
        .collect();
    world.message(&worker, 1, WorkerMessage::Report { steps });
    assert_eq!(world.status().tokens_seen, 503 * 100);
    let gap = &world.event("evidence_gap")[0];
    assert_eq!(gap.details["steps"], 500);
}

#[test]
fn status_says_who_does_what() {
    let mut world = World::training(100, 1, 2, 2);
    world.run_to(40);
    let status = world.status();
    assert_eq!(status.state, JobState::Training);
    assert_eq!(status.world_size, 2);
    assert_eq!(status.workers.len(), 2);
    assert!(
        status
            .workers
            .iter()
            .all(|worker| worker.state == WorkerState::Member && worker.pid == Some(1))
    );
    let ranks: Vec<_> = status
        .workers
        .iter()
        .map(|worker| worker.rank.unwrap().get())
        .collect();
    assert_eq!(ranks, [0, 1]);
    assert_eq!(
        status
            .assignment
            .iter()
            .map(|slots| slots.count)
            .collect::<Vec<_>>(),
        [4, 4]
    );
    assert_eq!(status.numerics_fingerprint, "fake");
    // 100 ms a step, and about 103 tokens a step.
    let speed = status.tokens_per_second.unwrap();
    assert!((1000.0..1070.0).contains(&speed), "{speed}");
    assert!(
        (status.eta_seconds.unwrap() - 6.0).abs() < 0.2,
        "{:?}",
        status.eta_seconds
    );
    assert_eq!(status.loss, Some(3.0));
    assert_eq!(status.validation_loss, None);
}

#[test]
fn the_held_out_loss_outlives_a_restart() {
    let mut world = World::training(100, 1, 1, 1);
    world.run_to(4);
    let worker = world.worker(1);
    let evaluated = |step, validation_loss| WorkerMessage::Evaluated {
        step: Step(step),
        validation_loss,
        tokens: 10,
    };
    world.message(&worker, 1, evaluated(4, 2.25));
    world.message(&worker, 1, evaluated(4, 9.0));
    assert_eq!(world.status().validation_loss, Some(2.25));
    world.restart_coordinator();
    assert_eq!(world.status().validation_loss, Some(2.25));
    assert_eq!(world.event("evaluation").len(), 1);
    assert_eq!(world.event("evaluation")[0].generation, Generation(1));
    world.reconnect();
    world.run_to(6);
    // A loss that is no number is no number in the journal either, and the journal still reads back.
    world.message(&worker, 1, evaluated(6, f64::NAN));
    assert_eq!(world.status().validation_loss, None);
    world.restart_coordinator();
    assert_eq!(world.cluster.jobs().first(), Some(&job_id(1)));
}

#[test]
fn numerics_that_change_or_differ_are_said_aloud_once() {
    let mut world = World::training(40, 1, 2, 2);
    world.run_to(7);
    assert!(
        world.event("numerics_differ").is_empty(),
        "the first are nothing new"
    );
    // One is replaced, and its successor computes otherwise.
    let member = world.worker(2);
    world.kill(&member);
    world.deliver();
    let newcomer = world.worker(3);
    world.workers.get_mut(&newcomer).unwrap().fingerprint = "other".into();
    let numerics_fingerprint = "other".into();
    world.message(
        &newcomer,
        0,
        WorkerMessage::Warm {
            numerics_fingerprint,
            reach_address: String::new(),
        },
    );
    world.run_to(20);
    let said = world.event("numerics_differ");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].reason.contains("fake | other"), "{said:?}");
    // Now all of them do.
    let first = world.worker(1);
    world.kill(&first);
    world.deliver();
    world.restart_coordinator();
    world.run_until(|world| world.status().step >= Step(25));
    let said = world.event("numerics_differ");
    assert!(
        said[1].reason.contains("other instead of fake | other"),
        "{said:?}"
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
}
