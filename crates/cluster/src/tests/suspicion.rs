//! Nothing moves: who is asked, who is to blame, and who is not.

use std::time::Duration;

use muster_types::WorkerId;
use rstest::rstest;

use super::{fake::FakeWorker, world::World};
use crate::{Activity, JobState};

/// Two ranks that have trained for a while, a step a second.
fn training(workers: u32) -> (World, Vec<WorkerId>) {
    let mut world = World::training(80, 1, workers, workers);
    for step in 1..=10 {
        world.run_to(step);
        world.wait(1);
    }
    let members = world.job().members.to_vec();
    (world, members)
}

fn fake<'a>(world: &'a mut World, worker: &WorkerId) -> &'a mut FakeWorker {
    world.workers.get_mut(worker).unwrap()
}

fn waits(world: &mut World, workers: &[WorkerId], quiet_ms: u64) {
    for worker in workers {
        fake(world, worker).at = Some((Activity::Reducing, quiet_ms, 900));
    }
}

fn blamed(world: &World) -> Vec<String> {
    let events = world.event("expelled");
    events.into_iter().map(|event| event.reason).collect()
}

/// Whoever was left does the rest.
fn finish(mut world: World, blamed: usize) {
    for worker in world.workers.values_mut() {
        worker.at = None;
    }
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(80);
    assert_eq!(world.event("expelled").len(), blamed);
}

#[test]
fn a_stopped_process_is_named_within_two_seconds_past_what_is_usual() {
    let (mut world, members) = training(3);
    fake(&mut world, &members[1]).frozen = true;
    // A step takes a second: after five nobody has come forward yet.
    world.wait(5);
    assert_eq!((blamed(&world).len(), world.generation()), (0, 1));
    world.wait(2);
    let blamed = blamed(&world);
    assert_eq!(blamed.len(), 1);
    assert!(
        blamed[0].starts_with(&format!("worker {} on node", members[1])),
        "{blamed:?}"
    );
    assert!(
        blamed[0].contains("left 3 probes in a row unanswered"),
        "{blamed:?}"
    );
    assert!(!world.workers.contains_key(&members[1]));
    finish(world, 1);
}

#[rstest]
#[case(
    Activity::Computing,
    11_000,
    "computes without a sign of life for 11.0 s"
)]
#[case(
    Activity::Reading,
    61_000,
    "reads samples without a sign of life for 61.0 s"
)]
#[case(Activity::Saving, 61_000, "copies its state")]
fn a_rank_that_hangs_in_work_of_its_own_is_the_culprit_and_its_peers_are_victims(
    #[case] activity: Activity,
    #[case] quiet_ms: u64,
    #[case] words: &str,
) {
    let (mut world, members) = training(3);
    waits(&mut world, &members, quiet_ms);
    fake(&mut world, &members[2]).at = Some((activity, quiet_ms, 100));
    world.wait(7);
    let blamed = blamed(&world);
    assert_eq!(blamed.len(), 1, "{blamed:?}");
    assert!(
        blamed[0].contains(members[2].as_str()) && blamed[0].contains(words),
        "{blamed:?}"
    );
    finish(world, 1);
}

#[rstest]
// Short of the bound.
#[case(Activity::Computing, 9_000, 100)]
// A single layer may take its time where it always does.
#[case(Activity::Computing, 30_000, 2_000)]
#[case(Activity::Reading, 50_000, 100)]
// Never seen to end: nothing is known of it.
#[case(Activity::Restoring, 90_000, 0)]
fn a_slow_rank_is_named_once_and_stays(
    #[case] activity: Activity,
    #[case] quiet_ms: u64,
    #[case] usual_ms: u64,
) {
    let (mut world, members) = training(2);
    waits(&mut world, &members, 4_000);
    fake(&mut world, &members[1]).at = Some((activity, quiet_ms, usual_ms));
    world.wait(30);
    assert_eq!((blamed(&world).len(), world.generation()), (0, 1));
    let named = world.event("stalled");
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].reason.contains(members[1].as_str()), "{named:?}");
    assert_eq!(named[0].details["activity"], activity.as_str());
    assert_eq!(named[0].details["rank"], 1);
    finish(world, 0);
}

#[test]
fn where_all_wait_for_each_other_connections_are_built_anew_and_then_one_has_to_go() {
    let (mut world, members) = training(3);
    waits(&mut world, &members, 19_000);
    world.wait(7);
    assert_eq!(
        (blamed(&world).len(), world.generation()),
        (0, 2),
        "nobody stands out"
    );
    assert!(
        world.event("generation_opened")[1]
            .reason
            .contains("every rank waits for the others")
    );
    world.deliver();
    for member in &members {
        fake(&mut world, member).ready = false;
        fake(&mut world, member).at = Some((Activity::Building, 19_000, 100));
    }
    world.wait(7);
    let blamed = blamed(&world);
    assert_eq!(blamed.len(), 1, "{blamed:?}");
    assert!(blamed[0].contains("for the second time"), "{blamed:?}");
    assert!(
        blamed[0].contains(members[2].as_str()),
        "the last: {blamed:?}"
    );
    finish(world, 1);
}

#[test]
fn a_rank_that_stays_behind_in_the_generation_before_is_the_culprit() {
    let (mut world, members) = training(3);
    // It hangs inside a collective, so that it looks like a victim.
    waits(&mut world, &members, 19_000);
    world.wait(7);
    assert_eq!((blamed(&world).len(), world.generation()), (0, 2));
    for member in &members {
        fake(&mut world, member).ready = false;
        fake(&mut world, member).at = Some((Activity::Building, 3_000, 100));
    }
    fake(&mut world, &members[0]).at = Some((Activity::Reducing, 29_000, 900));
    world.wait(6);
    let blamed = blamed(&world);
    assert_eq!(blamed.len(), 1, "{blamed:?}");
    assert!(blamed[0].contains(members[0].as_str()), "{blamed:?}");
    finish(world, 1);
}

#[test]
fn where_nobody_answers_the_coordinator_may_be_cut_off() {
    let (mut world, members) = training(2);
    for member in &members {
        fake(&mut world, member).frozen = true;
    }
    world.disconnect_agent(&"a".into());
    world.wait(25);
    assert!(blamed(&world).is_empty(), "{:?}", blamed(&world));
    // The agent is heard, so it is not the way there.
    world.connect_agent(&"a".into());
    world.wait(12);
    assert_eq!(blamed(&world).len(), 2);
    assert_eq!(world.run_to_end(), JobState::Finished);
    world.check_finished(80);
}

#[test]
fn a_sole_rank_that_does_not_answer_is_replaced_while_its_agent_is_heard() {
    let (mut world, members) = training(1);
    fake(&mut world, &members[0]).frozen = true;
    world.wait(13);
    assert!(blamed(&world).is_empty());
    world.wait(3);
    assert!(blamed(&world)[0].contains("left 25 probes in a row unanswered"));
    finish(world, 1);
}

#[test]
fn a_coordinator_that_was_stopped_itself_blames_nobody() {
    let (mut world, members) = training(2);
    // One probe goes out; then the coordinator's process is stopped for a minute, and wakes with the answers still unread.
    fake(&mut world, &members[0]).frozen = true;
    fake(&mut world, &members[1]).frozen = true;
    world.wait(5);
    world.now.monotonic = world.now.monotonic + Duration::from_secs(60);
    world.feed(crate::Event::Tick);
    for member in &members {
        fake(&mut world, member).frozen = false;
    }
    world.deliver();
    world.wait(1);
    assert!(blamed(&world).is_empty(), "{:?}", blamed(&world));
    finish(world, 0);
}

/// Between these two nothing gets through.
fn cut(world: &mut World, one: &WorkerId, other: &WorkerId) {
    for (from, to) in [(one, other), (other, one)] {
        fake(world, from).cut_off_from.insert(to.clone());
    }
}

#[test]
fn whoever_is_cut_off_from_its_peers_is_named_although_all_wait_alike() {
    let (mut world, members) = training(3);
    waits(&mut world, &members, 5_000);
    cut(&mut world, &members[0], &members[1]);
    cut(&mut world, &members[1], &members[2]);
    world.wait(7);
    let names = blamed(&world);
    assert_eq!(names.len(), 1, "{names:?}");
    let words = format!(
        "no connection can be made between it and {}, {}, though the coordinator reaches all of them; look at the network of its node",
        members[0], members[2]
    );
    assert!(
        names[0].starts_with(&format!("worker {} on node", members[1]))
            && names[0].contains(&words),
        "{names:?}"
    );
    assert_eq!(world.generation(), 2);
    finish(world, 1);
}

#[test]
fn where_all_reach_each_other_nobody_is_put_out_for_waiting() {
    let (mut world, members) = training(3);
    waits(&mut world, &members, 5_000);
    world.wait(9);
    assert_eq!((blamed(&world).len(), world.generation()), (0, 1));
    finish(world, 0);
}

#[test]
fn who_does_not_say_whom_it_reaches_is_not_waited_for() {
    let (mut world, members) = training(3);
    waits(&mut world, &members, 5_000);
    cut(&mut world, &members[0], &members[2]);
    cut(&mut world, &members[1], &members[2]);
    fake(&mut world, &members[2]).tells_reach = false;
    world.wait(12);
    let names = blamed(&world);
    assert!(
        names.len() == 1 && names[0].starts_with(&format!("worker {} on node", members[2])),
        "{names:?}"
    );
    finish(world, 1);
}
