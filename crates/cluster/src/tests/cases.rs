//! The cases of the generation protocol, by number, as far as the core decides them.

use muster_types::{Generation, NodeName, Rank, StateId, Step, Timestamp, WorkerId};
use rstest::rstest;

use super::world::{World, job_id, spec};
use crate::{Command, Event, JobState, Order, Part, RecordKind, ResumeSource, WorkerMessage};

fn state(generation: u64, step: u64) -> StateId {
    StateId::new(Generation(generation), Step(step))
}

/// Brings the group to where all have agreed on a step and none has committed it.
fn agree_on_a_step(world: &mut World) -> Vec<WorkerId> {
    for _ in 0..100 {
        world.deliver();
        let members = world.job().members.to_vec();
        if members
            .iter()
            .all(|member| world.workers[member].pending.is_some())
        {
            return members;
        }
        world.work();
    }
    panic!("no step is agreed on");
}

/// Tells of no member that it is to be expelled, nor ends it.
fn assert_undisturbed(world: &World, worker: &WorkerId) {
    let disturbed = world.commands.iter().any(|command| match command {
        Command::KillWorker { worker: other, .. } => other == worker,
        Command::Tell {
            worker: other,
            order: Order::Expelled { .. },
            ..
        } => other == worker,
        _ => false,
    });
    assert!(!disturbed, "{worker} was put out");
    assert!(world.workers.contains_key(worker));
}

#[rstest]
#[case::before_anyone_commits(0, 7)]
#[case::after_one_has(1, 7)]
#[case::after_all_but_the_victim(2, 8)]
#[case::after_all(3, 8)]
fn case_01_a_rank_dies_around_the_commit(
    #[case] committed: usize,
    #[case] resume: u64,
    #[values(0, 1, 2)] victim: usize,
) {
    let mut world = World::training(20, 1, 3, 3);
    world.run_to(7);
    let members = agree_on_a_step(&mut world);
    // The victim commits last, or not at all.
    let mut order: Vec<_> = members
        .iter()
        .filter(|member| **member != members[victim])
        .cloned()
        .collect();
    order.push(members[victim].clone());
    world.commit_pending(&order, committed);
    world.kill(&members[victim]);
    world.deliver();
    world.run_to(resume + 1);
    let resumed = world.resumes().last().unwrap().clone();
    let expected = if committed > 0 { 8 } else { resume };
    assert_eq!(resumed.state, state(1, expected));
    assert!(matches!(resumed.source, ResumeSource::Live { .. }));
    assert_eq!(world.status().recoveries, 1);
    for survivor in members.iter().filter(|member| **member != members[victim]) {
        assert_undisturbed(&world, survivor);
    }
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[rstest]
#[case::two_at_once(&[1, 2], 7, false)]
#[case::rank_0(&[0], 7, false)]
#[case::all_but_one(&[0, 1, 2], 7, false)]
#[case::all(&[0, 1, 2, 3], 5, true)]
fn case_02_several_die_at_once(
    #[case] victims: &[usize],
    #[case] resume: u64,
    #[case] from_checkpoint: bool,
) {
    let mut world = World::training(20, 1, 4, 4);
    world.run_to(7);
    let members = world.job().members.to_vec();
    for victim in victims {
        world.kill(&members[*victim]);
    }
    assert_eq!(world.run_to_end(), JobState::Finished);
    let resumed = &world.resumes()[1];
    assert_eq!(resumed.state, state(1, resume));
    assert_eq!(
        matches!(resumed.source, ResumeSource::Checkpoint { .. }),
        from_checkpoint
    );
    world.check_finished(20);
    assert_eq!(world.initialised, 1);
}

#[rstest]
fn case_03_a_death_while_fencing_opens_no_further_generation() {
    let mut world = World::training(20, 1, 3, 3);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.kill(&members[0]);
    // The survivors' answers are still under way when the second one dies.
    while world.generation() == 1 {
        let event = world.next_event(0).unwrap();
        world.feed(event);
    }
    world.kill(&members[1]);
    world.deliver();
    let opened = world.event("generation_opened");
    assert_eq!(
        opened
            .iter()
            .filter(|event| event.generation > Generation(1))
            .count(),
        1
    );
    assert_eq!(world.job().members[..1], members[2..]);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn case_03_a_death_after_forming_needs_another_generation() {
    let mut world = World::training(20, 1, 3, 3);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.kill(&members[0]);
    world.deliver();
    assert_eq!(world.generation(), 2);
    // Generation 2 is formed; its members heal when the second one dies.
    world.kill(&members[1]);
    world.deliver();
    // The second attempt in a row comes after a pause.
    world.wait(2);
    assert!(world.generation() > 2);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn case_04_the_source_dies_in_the_middle_of_a_heal() {
    let mut world = World::training(20, 1, 3, 3);
    world.run_to(7);
    let members = agree_on_a_step(&mut world);
    // Only rank 0 commits step 8; the others are to be healed by it, and their own state is invalid when it dies.
    world.commit_pending(&members, 1);
    world.kill(&members[2]);
    world.deliver();
    let resumed = world.resumes().last().unwrap().clone();
    assert_eq!(resumed.state, state(1, 8));
    assert_eq!(
        resumed.source,
        ResumeSource::Live {
            ranks: vec![Rank(0)]
        }
    );
    world.workers.get_mut(&members[1]).unwrap().holdings = None;
    world.kill(&members[0]);
    assert_eq!(world.run_to_end(), JobState::Finished);
    let fallback = &world.resumes()[2];
    assert_eq!(fallback.state, state(1, 5), "the newest checkpoint");
    world.check_finished(20);
}

#[test]
fn case_05_a_cut_off_commit_is_never_history() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    let members = agree_on_a_step(&mut world);
    // Rank 1 alone commits step 8, and is cut off before it can say so.
    world.workers.get_mut(&members[1]).unwrap().connected = false;
    world.commit_pending(&members[1..], 1);
    world.workers.get_mut(&members[1]).unwrap().frozen = true;
    world.feed(Event::WorkerDisconnected {
        worker: members[1].clone(),
    });
    world
        .workers
        .get_mut(&members[0])
        .unwrap()
        .fail("collective");
    let node = NodeName::from("a");
    world.deliver();
    world.wait(15);
    world.run_to(9);
    assert_eq!(world.resumes()[1].state, state(1, 7));
    // What the old holder says of (1, 8) changes nothing.
    let before = world.snapshot();
    let part = Part {
        state: state(1, 8),
        rank: Rank(0),
        world_size: 1,
        file: super::fake::file(0, 1),
    };
    world.message(&members[1], 1, WorkerMessage::PartWritten(part.clone()));
    world.message(&members[0], 2, WorkerMessage::PartWritten(part));
    assert_eq!(world.snapshot(), before);
    assert!(!world.commands.iter().any(
        |command| matches!(command, Command::WriteManifest { state: of, .. } if *of == state(1, 8))
    ));
    assert!(world.agents[&node].connected);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn case_06_form_waits_for_every_fence() {
    let mut world = World::training(20, 1, 3, 3);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.workers.get_mut(&members[2]).unwrap().frozen = true;
    world
        .workers
        .get_mut(&members[0])
        .unwrap()
        .fail("collective");
    world.deliver();
    assert_eq!(world.generation(), 2);
    assert_eq!(world.resumes().len(), 1, "one candidate has not fenced");
    world.wait(2);
    assert_eq!(world.resumes().len(), 1);
    world.wait(1);
    // The silent one has left probes unanswered: it is expelled and killed, and only then is the generation formed.
    assert_eq!(world.resumes().len(), 2);
    assert!(!world.workers.contains_key(&members[2]));
    assert!(
        world.event("expelled")[0]
            .reason
            .contains("left 3 probes in a row unanswered")
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[rstest]
#[case::before_the_boundary(false)]
#[case::at_the_boundary(true)]
fn case_07_a_newcomer_dies(#[case] at_the_boundary: bool) {
    let mut world = World::training(20, 1, 2, 1);
    world.run_to(3);
    let first = world.worker(1);
    world.add_node("b", 1);
    world.deliver();
    let newcomer = world.worker(2);
    assert!(
        world.workers[&first].reconfigure,
        "the newcomer is warm, so the flag is up"
    );
    if at_the_boundary {
        while !world.workers[&first].at_boundary {
            world.work();
        }
    }
    world.kill(&newcomer);
    world.deliver();
    world.run_to(6);
    assert_undisturbed(&world, &first);
    assert_eq!(world.status().recoveries, 0, "nothing was lost");
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn case_07_growing_takes_no_failed_step() {
    let mut world = World::training(20, 1, 2, 1);
    world.run_to(3);
    world.add_node("b", 1);
    world.run_to(8);
    assert_eq!(world.status().world_size, 2);
    assert_eq!(world.resumes()[1].state.generation, Generation(1));
    assert!(
        matches!(&world.resumes()[1].source, ResumeSource::Live { ranks } if ranks == &[Rank(0)])
    );
    assert_eq!(world.status().recoveries, 0);
    assert!(
        world
            .event("heal")
            .iter()
            .any(|event| event.details["from"] == "live")
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[rstest]
fn case_08_the_coordinator_dies_at_any_event(#[values(0, 1, 2, 100)] commands: usize) {
    // The same run, once for each event at which the coordinator may die; commands beyond the first few are never run.
    for at in 0..60 {
        let mut world = World::new();
        world.add_node("a", 2);
        world.submit(1, spec(6, 1, 2));
        let mut seen = 0;
        while seen <= at {
            if let Some(event) = world.next_event(0) {
                if seen == at {
                    world.feed_until(event, commands);
                    world.restart_coordinator();
                } else {
                    world.feed(event);
                }
                seen += 1;
            } else if !world.work() {
                break;
            }
        }
        assert_eq!(world.run_to_end(), JobState::Finished, "died at event {at}");
        world.check_finished(6);
    }
}

#[test]
fn case_08_workers_step_on_while_the_coordinator_is_away() {
    let mut world = World::training(30, 1, 2, 2);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.restart_coordinator();
    for _ in 0..5 {
        world.work();
    }
    world.reconnect();
    world.run_to(20);
    assert_eq!(world.generation(), 1, "nothing was disturbed");
    for member in &members {
        assert_undisturbed(&world, member);
    }
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(30);
}

#[test]
fn case_09_a_worker_dies_while_the_coordinator_is_away() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.restart_coordinator();
    world.kill(&members[1]);
    world.reconnect();
    world.deliver();
    assert!(
        world.event("worker_exit")[0]
            .reason
            .contains("its agent does not list it")
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn case_10_a_partition_from_the_coordinator_alone_disturbs_nothing() {
    let mut world = World::training(200, 1, 2, 2);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.drop_stream(&members[1]);
    world.deliver();
    // Far longer than the bound, but steps are committed all the while.
    for step in 8..80 {
        world.run_to(step);
        world.wait(2);
    }
    assert_eq!(world.generation(), 1);
    assert_undisturbed(&world, &members[1]);
    // Now nothing is committed any more: the silent one is the culprit.
    world.workers.get_mut(&members[1]).unwrap().frozen = true;
    world.wait(40);
    assert!(world.generation() > 1);
    assert!(
        world.event("expelled")[0]
            .reason
            .contains("left 5 probes in a row unanswered")
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(200);
}

#[test]
fn case_11_a_stopped_process_wakes_after_its_generation_is_over() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(9);
    let members = world.job().members.to_vec();
    world.disconnect_agent(&NodeName::from("a"));
    // It hangs in the middle of a part, out of its agent's reach.
    world.workers.get_mut(&members[1]).unwrap().frozen = true;
    world
        .workers
        .get_mut(&members[0])
        .unwrap()
        .fail("collective");
    world.deliver();
    world.wait(12);
    assert!(!world.job().serves(&members[1]));
    assert!(
        world.workers.contains_key(&members[1]),
        "its node cannot be reached, so it is not known to be dead"
    );
    world.run_to(11);
    let before = world.snapshot();
    let part = Part {
        state: state(1, 10),
        rank: Rank(1),
        world_size: 2,
        file: super::fake::file(1, 2),
    };
    world.commands.clear();
    world.message(&members[1], 1, WorkerMessage::PartWritten(part));
    assert_eq!(world.snapshot(), before);
    assert!(
        matches!(
            &world.commands[..],
            [Command::Tell {
                order: Order::Expelled { .. },
                ..
            }]
        ),
        "{:?}",
        world.commands
    );
    // Its slot is offered again only when its agent has said that it is empty.
    assert_eq!(world.job().placed.len(), 2);
    world.reconnect();
    world.run_to(12);
    world.deliver();
    assert!(world.job().placed.len() > 2);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn case_12_a_message_has_no_effect_beyond_the_first() {
    let mut world = World::training(20, 1, 3, 3);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.kill(&members[1]);
    world.run_to(12);
    let heard = world.heard.clone();
    let before = world.snapshot();
    let told = world.commands.len();
    for event in heard {
        let repeats = match &event {
            Event::Worker { message, .. } => !matches!(message, WorkerMessage::Attach { .. }),
            _ => false,
        };
        if repeats {
            world.feed(event);
        }
    }
    assert_eq!(world.snapshot(), before);
    let harmless = |command: &Command| {
        matches!(
            command,
            Command::Tell {
                order: Order::PartAcknowledged { .. } | Order::Expelled { .. },
                ..
            }
        )
    };
    assert!(
        world.commands[told..].iter().all(harmless),
        "{:?}",
        &world.commands[told..]
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn case_14_the_wall_clock_decides_nothing() {
    let run = |walls: &[i64]| {
        let mut world = World::training(20, 1, 2, 2);
        for (step, wall) in (1..=15).zip(walls.iter().cycle()) {
            world.now.wall = Timestamp(*wall);
            world.run_to(step);
            if step == 7 {
                let victim = world.job().members[1].clone();
                world.kill(&victim);
            }
            world.wait(1);
        }
        world.run_to_end();
        world
            .journal
            .into_iter()
            .map(|record| record.kind)
            .collect::<Vec<_>>()
    };
    assert_eq!(run(&[1, 2, 3]), run(&[i64::MAX, 0, -5_000_000]));
}

#[test]
fn case_15_an_agent_restarts_while_its_workers_run() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    let members = world.job().members.to_vec();
    let node = NodeName::from("a");
    world.disconnect_agent(&node);
    world.run_to(9);
    world.connect_agent(&node);
    world.run_to(12);
    assert_eq!(world.generation(), 1);
    assert_eq!(world.job().placed.len(), 2);
    for member in &members {
        assert_undisturbed(&world, member);
    }
    assert_eq!(world.event("node_lost").len(), 1);
    // It joined when it came, and again when it was back.
    assert_eq!(world.event("node_joined").len(), 2);
}

#[test]
fn case_16_a_corrupt_checkpoint_gives_way_to_the_one_before() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(13);
    world.unreadable.insert(state(1, 10), true);
    for member in Vec::from(&*world.job().members) {
        world.kill(&member);
    }
    assert_eq!(world.run_to_end(), JobState::Finished);
    let resumes: Vec<_> = world
        .resumes()
        .into_iter()
        .map(|resume| resume.state)
        .collect();
    assert_eq!(resumes, [StateId::INITIAL, state(1, 10), state(1, 5)]);
    assert_eq!(world.event("checkpoint_condemned").len(), 1);
    assert_eq!(world.initialised, 1);
    world.check_finished(20);
}

#[test]
fn case_16_without_a_readable_checkpoint_the_job_waits_and_says_so() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    world.unreadable.insert(state(1, 5), true);
    for member in Vec::from(&*world.job().members) {
        world.kill(&member);
    }
    for _ in 0..50 {
        world.deliver();
        world.work();
    }
    world.wait(600);
    let status = world.status();
    assert_eq!(status.state, JobState::Rendezvous);
    assert!(
        status
            .state_reason
            .contains("never starts again from step 0"),
        "{}",
        status.state_reason
    );
    assert_eq!(world.initialised, 1);
}

#[test]
fn case_16_storage_out_of_reach_is_waited_for() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    world.unreadable.insert(state(1, 5), false);
    for member in Vec::from(&*world.job().members) {
        world.kill(&member);
    }
    for _ in 0..40 {
        world.deliver();
        world.work();
        world.wait(5);
    }
    let status = world.status();
    assert!(!status.state.is_over(), "{}", status.state_reason);
    assert!(world.event("checkpoint_condemned").is_empty());
    assert!(world.event("storage_unreachable").len() > 2);
    world.unreadable.clear();
    assert_eq!(world.run_to_end(), JobState::Finished);
    assert_eq!(world.initialised, 1);
    world.check_finished(20);
}

#[test]
fn case_16_storage_that_comes_back_with_a_corrupt_checkpoint_is_not_waited_for() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    world.unreadable.insert(state(1, 5), false);
    for member in Vec::from(&*world.job().members) {
        world.kill(&member);
    }
    for round in 0..60 {
        world.deliver();
        world.work();
        world.wait(5);
        if round == 30 {
            world.unreadable.insert(state(1, 5), true);
        }
    }
    assert!(!world.event("storage_unreachable").is_empty());
    let reason = world.status().state_reason;
    assert!(
        reason.contains("never starts again from step 0"),
        "{reason}"
    );
}

#[test]
fn case_17_checkpoints_of_a_discarded_branch_never_come_back() {
    let mut world = World::training(40, 1, 2, 2);
    world.run_to(13);
    // The newest one cannot be read: the job falls back to step 5, so (1, 10) is of a discarded branch.
    world.unreadable.insert(state(1, 10), true);
    for member in Vec::from(&*world.job().members) {
        world.kill(&member);
    }
    while world.resumes().last().map(|resume| resume.state) != Some(state(1, 5)) {
        world.deliver();
        world.work();
        world.wait(1);
    }
    world.run_to(8);
    world.deliver();
    for member in Vec::from(&*world.job().members) {
        world.kill(&member);
    }
    world.unreadable.clear();
    assert_eq!(world.run_to_end(), JobState::Finished);
    let resumes: Vec<_> = world
        .resumes()
        .into_iter()
        .skip(2)
        .map(|resume| resume.state)
        .collect();
    assert_eq!(resumes[0], state(1, 5));
    assert!(
        !resumes.contains(&state(1, 10)),
        "it reads back now, and stays discarded: {resumes:?}"
    );
    let deleted = |record: &RecordKind| matches!(record, RecordKind::CheckpointDeleted { state: of, .. } if *of == state(1, 10));
    assert!(
        world.journal.iter().any(|record| deleted(&record.kind)),
        "it is not kept either"
    );
    world.check_finished(40);
}

#[test]
fn case_18_kills_come_faster_than_a_save_takes() {
    let mut world = World::training(60, 1, 2, 2);
    for round in 0..8u64 {
        // A member dies right after each save has begun, with its part unwritten.
        let step = 5 * (round + 1);
        world.run_to(step - 1);
        let members = agree_on_a_step(&mut world);
        world.workers.get_mut(&members[0]).unwrap().out.clear();
        world.commit_pending(&members, 2);
        let victim = members.last().unwrap().clone();
        world.workers.get_mut(&victim).unwrap().out.clear();
        world.kill(&victim);
        world.deliver();
    }
    assert!(world.status().step >= Step(35));
    let asked = world.commands.iter().filter(|command| {
        matches!(
            command,
            Command::Tell {
                order: Order::SaveNow,
                ..
            }
        )
    });
    assert!(
        asked.count() > 0,
        "a save that was cut off is taken again in the next generation"
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(60);
}

#[test]
fn a_worker_that_nobody_knows_is_told_so() {
    let mut world = World::training(20, 1, 1, 1);
    world.commands.clear();
    let attach = || WorkerMessage::Attach {
        pid: 3,
        collective_address: "x".into(),
        holdings: None,
        warm: true,
        numerics_fingerprint: String::new(),
        reach_address: String::new(),
    };
    world.message(&"w-99".into(), 0, attach());
    world.feed(Event::Worker {
        job: job_id(9),
        worker: "w-1".into(),
        generation: Generation(0),
        message: attach(),
    });
    assert_eq!(world.commands.len(), 2);
    assert!(world.commands.iter().all(|command| matches!(
        command,
        Command::Tell {
            order: Order::Expelled { .. },
            ..
        }
    )));
}
