//! Which worker belongs on which slot.

use muster_spec::DeviceKind;
use muster_types::NodeName;
use rstest::rstest;

use super::world::{World, job_id, spec};
use crate::{AgentHello, Command, Event, JobState, SlotOffer};

fn slots(devices: &[&str]) -> Vec<SlotOffer> {
    (0u32..)
        .zip(devices)
        .map(|(index, device)| SlotOffer {
            index,
            device: (*device).into(),
            threads: 3,
        })
        .collect()
}

fn placed(world: &World, number: u64) -> Vec<(String, u32)> {
    let job = &world.cluster.jobs[&job_id(number)].job;
    let mut placed: Vec<_> = job
        .workers
        .values()
        .map(|placement| (placement.node.to_string(), placement.slot))
        .collect();
    placed.sort();
    placed
}

#[test]
fn a_gang_waits_until_there_are_slots_for_all_of_it() {
    let mut world = World::new();
    world.add_node("a", 1);
    world.submit(1, spec(12, 2, 3));
    world.deliver();
    let status = world.status();
    assert_eq!(status.state, JobState::Pending);
    assert_eq!(
        status.state_reason,
        "needs 2 cpu slots, the cluster offers 1"
    );
    assert!(placed(&world, 1).is_empty(), "half a gang is not placed");
    world.add_node("b", 1);
    world.deliver();
    assert_eq!(
        placed(&world, 1),
        [("a".to_owned(), 0), ("b".to_owned(), 0)]
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[rstest]
#[case(DeviceKind::Auto, "cuda:0")]
#[case(DeviceKind::Cuda, "cuda:0")]
#[case(DeviceKind::Cpu, "cpu")]
fn the_device_is_as_asked_for(#[case] device: DeviceKind, #[case] expected: &str) {
    let mut world = World::new();
    world.add_node_with("a", slots(&["cpu", "cuda:0"]));
    let mut spec = spec(12, 1, 1);
    spec.workers.device = device;
    world.submit(1, spec);
    world.deliver();
    let started = world.commands.iter().find_map(|command| match command {
        Command::StartWorker {
            device, threads, ..
        } => Some((device.clone(), *threads)),
        _ => None,
    });
    assert_eq!(started, Some((expected.to_owned(), 3)));
}

#[test]
fn a_job_does_not_mix_devices() {
    let mut world = World::new();
    world.add_node_with("a", slots(&["cpu"]));
    world.submit(1, spec(12, 1, 2));
    world.deliver();
    world.add_node_with("b", slots(&["cuda:0"]));
    world.deliver();
    assert_eq!(placed(&world, 1), [("a".to_owned(), 0)]);
}

#[test]
fn jobs_are_served_in_the_order_of_submission() {
    let mut world = World::new();
    world.add_node("a", 3);
    world.submit(1, spec(12, 2, 2));
    world.submit(2, spec(12, 2, 2));
    world.submit(3, spec(12, 1, 1));
    world.deliver();
    assert_eq!(placed(&world, 1).len(), 2);
    assert!(placed(&world, 2).is_empty());
    assert!(
        placed(&world, 3).is_empty(),
        "a smaller job does not slip past one that waits"
    );
    let status = world.cluster.status(job_id(2), world.now).unwrap();
    assert_eq!(
        status.state_reason,
        format!(
            "needs 2 cpu slots; of 3, 1 is free, 2 are held by job {} of priority 0",
            job_id(1)
        )
    );
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.deliver();
    assert_eq!(placed(&world, 2).len(), 2);
    assert_eq!(placed(&world, 3).len(), 1);
}

#[test]
fn a_slot_is_offered_again_only_when_it_is_empty() {
    let mut world = World::training(20, 1, 1, 1);
    world.run_to(3);
    let worker = world.worker(1);
    let node = NodeName::from("a");
    world.disconnect_agent(&node);
    world.drop_stream(&worker);
    world.workers.get_mut(&worker).unwrap().frozen = true;
    world.deliver();
    world.wait(60);
    assert!(!world.job().serves(&worker));
    assert_eq!(
        world.job().placed.len(),
        1,
        "the process may still be there"
    );
    world.connect_agent(&node);
    world.deliver();
    assert!(
        !world.workers.contains_key(&worker),
        "it was still running, so it was killed"
    );
    assert_eq!(world.job().placed.len(), 2);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(20);
}

#[test]
fn a_stranger_is_killed_and_its_slot_is_taken_until_then() {
    let mut world = World::new();
    world.submit(1, spec(12, 1, 1));
    let hello = AgentHello {
        node: "a".into(),
        advertise: "a".into(),
        slots: slots(&["cpu"]),
        running: vec![("w-1-elsewhere".into(), 0, 77)],
        leaving_seconds: None,
    };
    world.feed(Event::AgentConnected(hello));
    assert!(
        matches!(&world.commands[..], [Command::KillWorker { worker, .. }] if worker.as_str() == "w-1-elsewhere")
    );
    assert!(placed(&world, 1).is_empty());
    assert_eq!(world.cluster.nodes()[0].slots_used, 1);
    let exit = crate::Exit {
        code: None,
        signal: Some(9),
        start_error: String::new(),
        stderr_tail: String::new(),
    };
    world.feed(Event::WorkerExited {
        worker: "w-1-elsewhere".into(),
        exit,
    });
    assert_eq!(placed(&world, 1).len(), 1);
}

#[test]
fn a_start_order_that_was_lost_comes_again() {
    let mut world = World::new();
    world.add_node("a", 1);
    world.deliver();
    world.feed_until(
        Event::Submitted(Box::new(super::world::submission(
            job_id(1),
            spec(12, 1, 1),
        ))),
        0,
    );
    world.restart_coordinator();
    world.reconnect();
    world.deliver();
    assert_eq!(world.job().placed.len(), 1, "the same worker");
    assert_eq!(world.workers.len(), 1);
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn a_worker_that_never_attaches_is_replaced() {
    let mut world = World::new();
    world.add_node("a", 1);
    world.submit(1, spec(12, 1, 1));
    let event = world.next_event(0).unwrap();
    world.feed(event);
    let first = world.worker(1);
    world.workers.get_mut(&first).unwrap().frozen = true;
    world.deliver();
    world.wait(61);
    assert!(
        world.event("expelled")[0]
            .reason
            .contains("did not attach within 60 s")
    );
    assert_eq!(world.job().placed.len(), 2);
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn names_of_workers_differ_between_jobs() {
    let mut world = World::new();
    world.add_node("a", 2);
    world.submit(1, spec(12, 1, 1));
    world.submit(2, spec(12, 1, 1));
    world.deliver();
    let first = |number| world.cluster.placements(job_id(number))[0].0.clone();
    assert_ne!(first(1), first(2));
}

/// A job at step 8 on nodes a and b; then both nodes are lost, with all that runs on them, and nobody tells.
fn both_lost() -> World {
    let mut world = World::new();
    world.add_node("a", 1);
    world.add_node("b", 1);
    world.submit(1, spec(30, 1, 2));
    world.run_to(8);
    assert_eq!(world.job().members.len(), 2);
    for node in ["a", "b"].map(NodeName::from) {
        world.disconnect_agent(&node);
    }
    for worker in Vec::from(&*world.job().members) {
        world.drop_stream(&worker);
        world.workers.remove(&worker);
    }
    world.deliver();
    world
}

#[rstest]
fn where_all_members_are_known_to_be_gone_a_job_resumes_at_once(
    #[values(true, false)] restarts: bool,
) {
    let mut world = both_lost();
    if restarts {
        world.restart_coordinator();
    }
    let (a, b) = (NodeName::from("a"), NodeName::from("b"));
    world.connect_agent(&a);
    world.deliver();
    assert_eq!(world.resumes().len(), 1, "the other one may hold step 8");
    let known_since = world.now.monotonic;
    world.connect_agent(&b);
    world.run_until(|world| world.status().step.get() >= 9);
    // The second failure in a row brings a pause of a second.
    assert!(world.now.monotonic.since(known_since).as_secs() <= 1);
    assert!(world.event("expelled").is_empty(), "nobody is waited for");
    assert_eq!(world.resumes()[1].state.step.get(), 5);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(30);
}

#[rstest]
fn whoever_may_hold_a_newer_step_is_waited_for_half_a_minute(
    #[values(true, false)] restarts: bool,
) {
    let mut world = both_lost();
    if restarts {
        world.restart_coordinator();
    }
    world.wait(29);
    assert!(world.event("expelled").is_empty());
    world.wait(2);
    let put_out = &world.event("expelled")[0].reason;
    assert!(put_out.contains("was silent for 30 s"), "{put_out}");
    world.add_node("c", 1);
    assert_eq!(world.run_to_end(), JobState::Finished);
}
