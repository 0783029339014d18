//! From submit to the end of a job.

use muster_types::{Generation, NodeName, Step, WorkerId};
use rstest::rstest;

use super::{
    fake::FakeWorker,
    world::{World, job_id, spec, submission},
};
use crate::{ClusterOptions, Command, Event, Exit, JobState, Order, WorkerMessage};

#[test]
fn a_job_runs_from_submit_to_finish() {
    let mut world = World::training(12, 2, 2, 2);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(12);
    let kinds: Vec<_> = world.events().into_iter().map(|event| event.kind).collect();
    let position = |kind: &str| {
        kinds
            .iter()
            .position(|other| other == kind)
            .unwrap_or_else(|| panic!("no {kind} event"))
    };
    let order = [
        "submit",
        "placement",
        "worker_attach",
        "generation_opened",
        "generation_formed",
        "heal",
        "first_step",
        "checkpoint_committed",
        "worker_exit",
    ];
    assert!(
        order
            .windows(2)
            .all(|pair| position(pair[0]) < position(pair[1])),
        "{kinds:?}"
    );
    let states: Vec<_> = world
        .event("state")
        .into_iter()
        .map(|event| event.details["state"].clone())
        .collect();
    assert_eq!(
        states,
        [
            "rendezvous",
            "restoring",
            "training",
            "draining",
            "finished"
        ]
    );
    let first = &world.event("first_step")[0];
    assert_eq!((first.generation, first.step), (Generation(1), Step(1)));
    assert_eq!(first.details["world_size"], 2);
    assert!(world.status().ended_at.is_some());
    assert!(world.status().workers.is_empty());
}

#[test]
fn a_second_submit_of_the_same_id_changes_nothing() {
    let mut world = World::training(12, 1, 1, 1);
    let before = world.snapshot();
    world.feed(Event::Submitted(Box::new(submission(
        job_id(1),
        spec(99, 1, 1),
    ))));
    assert_eq!(world.snapshot(), before);
}

#[test]
fn a_pending_job_is_stopped_at_once() {
    let mut world = World::new();
    world.submit(1, spec(12, 1, 1));
    assert_eq!(world.status().state, JobState::Pending);
    world.feed(Event::StopRequested {
        job: job_id(1),
        grace_seconds: 0,
    });
    assert_eq!(world.status().state, JobState::Stopped);
}

#[test]
fn a_stop_saves_first_and_a_resume_goes_on_from_there() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    world.feed(Event::StopRequested {
        job: job_id(1),
        grace_seconds: 0,
    });
    assert_eq!(world.status().state, JobState::Draining);
    assert_eq!(world.run_to_end(), JobState::Stopped);
    let status = world.status();
    let kept = status.last_checkpoint.unwrap().state;
    assert_eq!(kept.step, status.step);
    assert!(kept.step >= Step(7));
    assert!(
        status.state_reason.contains("stopped on request"),
        "{}",
        status.state_reason
    );
    world.feed(Event::ResumeRequested { job: job_id(1) });
    assert_eq!(world.run_to_end(), JobState::Finished);
    assert_eq!(world.resumes()[1].state, kept);
    assert!(world.generation() > 1, "generations go on counting");
    world.check_finished(20);
}

#[test]
fn a_member_that_dies_while_stopping_costs_nothing_that_a_survivor_holds() {
    let mut world = World::training(20, 2, 2, 2);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.kill(&members[1]);
    world.feed(Event::StopRequested {
        job: job_id(1),
        grace_seconds: 0,
    });
    assert_eq!(world.run_to_end(), JobState::Stopped);
    let status = world.status();
    assert_eq!(
        status
            .last_checkpoint
            .map(|checkpoint| checkpoint.state.step),
        Some(status.step)
    );
    assert!(status.step >= Step(7));
    assert_eq!(
        world.job().placed.len(),
        2,
        "a job that stops is given no new workers"
    );
}

fn cancel(world: &mut World, reason: &str) {
    let (job, reason) = (job_id(1), reason.to_owned());
    world.feed(Event::CancelRequested { job, reason });
}

#[test]
fn a_cancel_ends_a_job_at_once_and_a_resume_goes_on_from_the_newest_checkpoint() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    cancel(&mut world, "wrong data");
    let status = world.status();
    assert_eq!(status.state, JobState::Stopped);
    assert_eq!(
        status.state_reason,
        "cancelled on request: wrong data; the newest checkpoint is of step 5"
    );
    assert!(status.workers.is_empty());
    let asked = &world.event("cancel_requested")[0];
    assert_eq!(asked.reason, "cancelled on request: wrong data");
    assert!(asked.step >= Step(7));
    assert_eq!(world.event("expelled")[0].reason, asked.reason);
    world.deliver();
    assert!(world.workers.is_empty(), "they are killed, not waited for");
    assert!(
        !world.commands.iter().any(|it| matches!(
            it,
            Command::Tell {
                order: Order::Leave { .. },
                ..
            }
        )),
        "nobody is asked to save"
    );

    let before = world.journal.len();
    cancel(&mut world, "again");
    assert_eq!(world.journal.len(), before, "it is cancelled already");

    world.feed(Event::ResumeRequested { job: job_id(1) });
    assert_eq!(world.run_to_end(), JobState::Finished);
    assert_eq!(world.resumes()[1].state.step, Step(5));
    world.check_finished(20);
}

#[test]
fn a_cancel_takes_a_waiting_job_out_of_the_queue() {
    let mut world = World::new();
    world.submit(1, spec(12, 1, 1));
    cancel(&mut world, "");
    let status = world.status();
    assert_eq!(status.state, JobState::Stopped);
    assert_eq!(
        status.state_reason,
        "cancelled on request; there is no checkpoint"
    );
    world.add_node("a", 1);
    world.wait(60);
    assert!(world.job().placed.is_empty());
    world.feed(Event::ResumeRequested { job: job_id(1) });
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn a_cancel_cuts_a_stop_short() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    world.feed(Event::StopRequested {
        job: job_id(1),
        grace_seconds: 30,
    });
    assert_eq!(world.status().state, JobState::Draining);
    cancel(&mut world, "");
    assert_eq!(world.status().state, JobState::Stopped);
    world.restart_coordinator();
    assert_eq!(world.status().state, JobState::Stopped);
    world.feed(Event::ResumeRequested { job: job_id(1) });
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn a_job_that_is_cancelled_after_its_last_checkpoint_has_finished() {
    let mut world = World::training(12, 2, 2, 2);
    world.run_until(|world| world.job().is_done());
    assert_eq!(world.status().state, JobState::Draining);
    cancel(&mut world, "");
    assert_eq!(world.status().state, JobState::Finished);
    world.deliver();
    assert!(world.workers.is_empty());
}

#[test]
fn who_does_not_leave_in_time_is_killed() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    for member in Vec::from(&*world.job().members) {
        world.workers.get_mut(&member).unwrap().frozen = true;
    }
    world.feed(Event::StopRequested {
        job: job_id(1),
        grace_seconds: 12,
    });
    world.wait(11);
    assert_eq!(world.status().state, JobState::Draining);
    world.wait(2);
    let status = world.status();
    assert_eq!(status.state, JobState::Stopped);
    assert_eq!(status.last_checkpoint.unwrap().state.step, Step(5));
    assert!(world.workers.is_empty());
}

#[rstest]
#[case::bad_configuration(Some(2), "", "exited with status 2")]
#[case::no_binary(None, "no such file", "could not be started: no such file")]
fn what_trying_again_cannot_mend_fails_the_job_at_once(
    #[case] code: Option<i32>,
    #[case] start_error: &str,
    #[case] words: &str,
) {
    let mut world = World::new();
    world.add_node("a", 2);
    world.submit(1, spec(12, 2, 2));
    let event = world.next_event(0).unwrap();
    world.feed(event);
    let worker = world.worker(1);
    world.workers.remove(&worker);
    let exit = Exit {
        code,
        signal: None,
        start_error: start_error.into(),
        stderr_tail: "data.path: no such directory".into(),
    };
    world.feed(Event::WorkerExited { worker, exit });
    let status = world.status();
    assert_eq!(status.state, JobState::Failed);
    assert!(
        status.state_reason.contains(words),
        "{}",
        status.state_reason
    );
    assert!(
        status.state_reason.contains("data.path: no such directory"),
        "{}",
        status.state_reason
    );
    world.deliver();
    assert!(world.workers.is_empty(), "the others are ended");
}

#[test]
fn failures_in_a_row_end_the_job_with_its_evidence() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    let mut rounds = 0;
    // Each generation loses a member before it commits a step.
    while !world.status().state.is_over() {
        let members = world.job().members.to_vec();
        if let Some(worker) = members
            .iter()
            .find(|member| world.workers.contains_key(*member))
        {
            world.kill(&worker.clone());
            rounds += 1;
        }
        world.deliver();
        world.wait(60);
    }
    let status = world.status();
    assert_eq!(status.state, JobState::Failed);
    assert!(
        status
            .state_reason
            .contains("gave up after 5 failures in a row"),
        "{}",
        status.state_reason
    );
    assert!(
        status.state_reason.contains("killed by signal 9"),
        "{}",
        status.state_reason
    );
    assert!(
        status.state_reason.contains("its last line"),
        "{}",
        status.state_reason
    );
    assert!(rounds >= 5);
    world.feed(Event::ResumeRequested { job: job_id(1) });
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn a_committed_step_forgives_the_failures_before_it() {
    let mut world = World::training(60, 1, 2, 2);
    for step in 1..=12 {
        world.run_to(step);
        let victim = world.job().members.last().unwrap().clone();
        world.kill(&victim);
        world.deliver();
    }
    assert!(!world.status().state.is_over());
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(60);
}

#[test]
fn a_deadly_step_is_noticed_though_steps_before_it_are_committed() {
    let options = ClusterOptions {
        max_failures_without_advance: 6,
        ..ClusterOptions::default()
    };
    let mut world = World::with_options(options);
    world.add_node("a", 1);
    world.submit(1, spec(60, 1, 1));
    for _ in 0..400 {
        // Step 8 kills every worker that comes to it; the job falls back to the checkpoint of step 5 each time.
        let deadly = world
            .workers
            .values()
            .find(|fake| fake.pending == Some(Step(8)))
            .map(|fake| fake.id.clone());
        match deadly {
            Some(worker) => world.kill(&worker),
            None => drop(world.work()),
        }
        world.deliver();
        world.wait(5);
    }
    let status = world.status();
    assert_eq!(status.state, JobState::Failed);
    assert!(
        status
            .state_reason
            .contains("gave up: step 7 failed 6 times; it trains the samples 56..64"),
        "{}",
        status.state_reason
    );
}

#[rstest]
#[case::its_own_fault("memory", true)]
#[case::a_victim("collective", false)]
fn who_reports_a_failure_goes_only_if_it_lies_with_it(#[case] class: &str, #[case] goes: bool) {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(7);
    let members = world.job().members.to_vec();
    world.workers.get_mut(&members[1]).unwrap().fail(class);
    world.run_to(8);
    assert_eq!(world.workers.contains_key(&members[1]), !goes);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn a_hung_training_thread_is_not_taken_along_for_ever() {
    let mut world = World::training(20, 1, 2, 2);
    let members = world.job().members.to_vec();
    // Rank 0 is ready; rank 1 fences as it should but never gets ready.
    world.workers.get_mut(&members[0]).unwrap().heal();
    world.deliver();
    world.wait(301);
    assert!(!world.job().serves(&members[1]));
    assert!(world.job().serves(&members[0]));
    assert!(
        world.event("expelled")[0]
            .reason
            .contains("was not ready within 300 s")
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn who_hangs_since_the_generation_before_is_the_culprit_and_not_who_waits_for_it() {
    let mut world = World::training(20, 1, 3, 3);
    world.run_to(7);
    let members = world.job().members.to_vec();
    let phase = |phase: &str| WorkerMessage::Phase {
        phase: phase.into(),
        step: Step(7),
    };
    world.message(&members[0], 1, phase("training"));
    world.kill(&members[2]);
    world.deliver();
    assert_eq!(world.generation(), 2);
    // Rank 0 has fenced, and its training thread never comes to the new generation; rank 1 waits for it there.
    world.message(&members[1], 2, phase("building"));
    world.wait(301);
    assert!(!world.job().serves(&members[0]));
    assert!(world.job().serves(&members[1]));
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn who_hangs_before_the_last_commit_is_not_waited_for() {
    let mut world = World::training(20, 1, 2, 2);
    world.run_to(19);
    let members = world.job().members.to_vec();
    loop {
        world.deliver();
        if members
            .iter()
            .all(|member| world.workers[member].pending.is_some())
        {
            break;
        }
        world.work();
    }
    world.commit_pending(&members, 1);
    world.deliver();
    assert_eq!(world.status().state, JobState::Draining);
    world.wait(590);
    assert!(world.job().serves(&members[1]));
    world.wait(11);
    assert!(!world.job().serves(&members[1]));
    assert!(world.job().serves(&members[0]));
    assert!(
        world.event("expelled")[0]
            .reason
            .contains("did not commit the last step within 600 s")
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn the_minority_of_differing_replicas_is_put_out() {
    let mut world = World::training(20, 1, 3, 3);
    let members = world.job().members.to_vec();
    for (member, state_hash) in members.iter().zip([5, 5, 6]) {
        let fake = world.workers.get_mut(member).unwrap();
        fake.heal();
        fake.out.clear();
        let healed_from = "init".to_owned();
        world.message(
            member,
            1,
            WorkerMessage::Ready {
                state_hash,
                heal_ms: 1,
                healed_bytes: 1,
                healed_from,
            },
        );
    }
    assert!(world.job().serves(&members[0]) && world.job().serves(&members[1]));
    assert!(!world.job().serves(&members[2]));
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn without_a_majority_the_job_stops_and_says_so() {
    let mut world = World::training(20, 1, 2, 2);
    for (member, state_hash) in world.job().members.to_vec().iter().zip([5, 6]) {
        let healed_from = "init".to_owned();
        world.message(
            member,
            1,
            WorkerMessage::Ready {
                state_hash,
                heal_ms: 1,
                healed_bytes: 1,
                healed_from,
            },
        );
    }
    let status = world.status();
    assert_eq!(status.state, JobState::Failed);
    assert!(
        status.state_reason.contains("none has a majority"),
        "{}",
        status.state_reason
    );
}

#[test]
fn too_few_survivors_wait_fenced_and_keep_what_they_hold() {
    let mut world = World::training(20, 2, 2, 2);
    world.run_to(7);
    let members = world.job().members.to_vec();
    // The victim's node goes with it: there is no slot for a replacement.
    world.workers.get_mut(&members[1]).unwrap().frozen = true;
    world.disconnect_agent(&"a".into());
    world.drop_stream(&members[1]);
    world
        .workers
        .get_mut(&members[0])
        .unwrap()
        .fail("collective");
    world.deliver();
    world.wait(60);
    let status = world.status();
    assert_eq!(status.state, JobState::Rendezvous);
    assert!(
        status.state_reason.contains("1 of at least 2 workers"),
        "{}",
        status.state_reason
    );
    assert!(world.workers[&members[0]].is_fenced());
    world.add_node("b", 1);
    world.run_to(9);
    assert_eq!(
        world.resumes()[1].state.step,
        Step(7),
        "the survivor's state, not the checkpoint's"
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn an_order_to_form_comes_again_to_a_member_that_attaches_without_it() {
    let mut world = World::new();
    world.add_node("a", 1);
    world.submit(1, spec(12, 1, 1));
    // The coordinator dies before it has sent anything of the decision that formed generation 1.
    while world.resumes().is_empty() {
        let event = world.next_event(0).unwrap();
        let forms = !world
            .cluster
            .decide(world.now, event.clone())
            .commands
            .iter()
            .all(|command| {
                !matches!(
                    command,
                    Command::Tell {
                        order: Order::Form(_),
                        ..
                    }
                )
            });
        world.feed_until(event, if forms { 0 } else { usize::MAX });
    }
    world.restart_coordinator();
    world.reconnect();
    world.deliver();
    assert_eq!(world.generation(), 1);
    assert!(world.workers.values().all(|fake| fake.form.is_some()));
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(12);
}

/// Two nodes with a worker each, in training; the second node's cable is pulled, so that nobody hears of it.
fn cut_off() -> (World, WorkerId) {
    let mut world = World::new();
    world.add_node("a", 1);
    world.add_node("b", 1);
    world.submit(1, spec(20, 1, 2));
    world.run_to(7);
    let there = |fake: &&FakeWorker| fake.node == NodeName::from("b");
    let lost = world.workers.values().find(there).unwrap().id.clone();
    world.workers.get_mut(&lost).unwrap().frozen = true;
    world.drop_stream(&lost);
    world.disconnect_agent(&NodeName::from("b"));
    world.deliver();
    (world, lost)
}

#[test]
fn a_node_that_is_cut_off_is_done_without_soon() {
    let (mut world, lost) = cut_off();
    world.wait(2);
    assert_eq!(world.generation(), 1, "it may be back in a moment");
    world.wait(2);
    assert_eq!(world.generation(), 2);
    world.run_to(8);
    assert!(!world.job().members.contains(&lost));
    let exits = world.event("expelled");
    assert!(
        exits
            .iter()
            .any(|it| it.reason.contains("as is its node's agent")),
        "{exits:?}"
    );
}

#[test]
fn a_coordinator_that_is_cut_off_itself_takes_nobody_for_dead_soon() {
    let (mut world, _) = cut_off();
    let other = world
        .workers
        .values()
        .find(|fake| !fake.frozen)
        .unwrap()
        .id
        .clone();
    world.drop_stream(&other);
    world.deliver();
    world.wait(20);
    assert_eq!(world.generation(), 1);
}

#[test]
fn a_worker_whose_agent_left_before_it_was_started_is_placed_elsewhere_soon() {
    let mut world = World::new();
    world.add_node("a", 1);
    world.add_node("b", 1);
    world.submit(1, spec(20, 2, 2));
    while world.workers.len() < 2 {
        let event = world.next_event(0).unwrap();
        world.feed(event);
    }
    // An agent that is ending starts nothing any more, and says nothing of it either.
    let there = |fake: &&FakeWorker| fake.node == NodeName::from("b");
    let never = world.workers.values().find(there).unwrap().id.clone();
    world.workers.remove(&never);
    world.disconnect_agent(&NodeName::from("b"));
    world.add_node("c", 1);
    world.deliver();
    assert_eq!(world.generation(), 0);
    world.wait(4);
    world.run_to(3);
    let on_c = world
        .workers
        .values()
        .any(|fake| fake.node == NodeName::from("c"));
    assert!(on_c, "{:?}", world.status());
}
