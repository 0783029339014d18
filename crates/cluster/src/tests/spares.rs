//! Warm standbys: when they step in, what their loss costs, and who else gets their slots.

use std::time::Duration;

use muster_types::{NodeName, WorkerId};
use rstest::rstest;

use super::world::{World, job_id, spec};
use crate::{ClusterOptions, Event, JobState, UserQuotas, WorkerState};

const STEPS: u64 = 80;

/// Two ranks that train on node a, and whoever stands by, warm, on node b.
fn standing_by(spares: u32) -> (World, Vec<WorkerId>, Vec<WorkerId>) {
    standing_by_in(World::new(), spares)
}

fn standing_by_in(mut world: World, spares: u32) -> (World, Vec<WorkerId>, Vec<WorkerId>) {
    world.add_node("a", 2);
    world.add_node("b", 3);
    world.deliver();
    let mut asked = spec(STEPS, 1, 2);
    asked.workers.spares = spares;
    asked.queue.user = "anna".into();
    world.submit(1, asked);
    for step in 1..=10 {
        world.run_to(step);
        world.wait(1);
    }
    let (members, spares) = (world.job().members.to_vec(), world.spares());
    assert_eq!(members.len(), 2);
    (world, members, spares)
}

impl World {
    /// Those that stand by, as status shows them.
    fn spares(&self) -> Vec<WorkerId> {
        let workers = self.status().workers.into_iter();
        workers
            .filter(|worker| worker.state == WorkerState::Spare)
            .map(|worker| worker.worker_id)
            .collect()
    }

    fn node_of(&self, worker: &WorkerId) -> &str {
        let mut placed = self.job().placed.iter();
        let (_, node) = placed.find(|(it, _)| it == worker).unwrap();
        node.as_str()
    }

    fn world_sizes(&self) -> Vec<u64> {
        let formed = self.event("generation_formed").into_iter();
        formed
            .map(|it| it.details["world_size"].as_u64().unwrap())
            .collect()
    }

    fn strikes(&self) -> u32 {
        let volatile = &self.cluster.jobs[&job_id(1)].volatile;
        volatile.strikes.count.max(volatile.strikes.without_advance)
    }

    fn freeze(&mut self, worker: &WorkerId) {
        self.workers.get_mut(worker).unwrap().frozen = true;
    }

    /// Whoever was left does the rest.
    fn finish_standing_by(mut self) {
        assert_eq!(self.run_to_end(), JobState::Finished);
        self.check_finished(STEPS);
    }
}

#[rstest]
#[case::none(0)]
#[case::one(1)]
#[case::two(2)]
fn spares_are_placed_once_the_job_trains_away_from_its_members(#[case] count: u32) {
    let (world, members, spares) = standing_by(count);
    assert_eq!(spares.len(), count as usize);
    assert_eq!(world.world_sizes(), [2], "they stay out of the generation");
    assert!(members.iter().all(|worker| world.node_of(worker) == "a"));
    assert!(spares.iter().all(|worker| world.node_of(worker) == "b"));
    let words = match count {
        0 => "training on 2 workers",
        1 => "training on 2 workers; 1 spare stands by",
        _ => "training on 2 workers; 2 spares stand by",
    };
    assert_eq!(world.status().state_reason, words);
    world.finish_standing_by();
}

#[test]
fn a_spare_takes_a_lost_members_place_in_the_very_next_generation() {
    let (mut world, members, spares) = standing_by(1);
    let placed = world.job().placed.len();
    world.kill(&members[0]);
    world.deliver();
    assert_eq!(world.job().members, [members[1].clone(), spares[0].clone()]);
    assert_eq!(world.world_sizes(), [2, 2], "it never shrinks");
    assert_eq!(world.job().placed.len(), placed, "no process had to start");
    let used = &world.event("spare_used")[0];
    assert_eq!(used.details["worker"], spares[0].as_str());
    // Another stands by in its place.
    world.run_to(12);
    world.run_until(|world| world.spares().len() == 1);
    assert_eq!(world.job().placed.len(), placed + 1);
    assert_eq!(world.generation(), 2);
    world.finish_standing_by();
}

#[test]
fn a_spare_steps_in_though_a_victim_speaks_before_the_death_is_known() {
    let (mut world, members, spares) = standing_by(1);
    // Its peer's connection breaks first; then the agent sees that the process has ended.
    world.freeze(&members[0]);
    world
        .workers
        .get_mut(&members[1])
        .unwrap()
        .fail("collective");
    while let Some(event) = world.workers.get_mut(&members[1]).unwrap().out.pop_front() {
        world.feed(event);
    }
    assert_eq!(world.generation(), 2, "both are asked");
    world.kill(&members[0]);
    world.deliver();
    assert_eq!(world.job().members, [members[1].clone(), spares[0].clone()]);
    assert_eq!(world.world_sizes(), [2, 2], "it never shrinks");
    assert_eq!(world.status().recoveries, 1);
    world.finish_standing_by();
}

#[test]
fn where_two_are_lost_one_spare_takes_one_place_and_the_other_is_filled_at_a_boundary() {
    let mut world = World::new();
    world.add_node("a", 3);
    world.add_node("b", 1);
    world.deliver();
    let mut asked = spec(STEPS, 1, 3);
    asked.workers.spares = 1;
    world.submit(1, asked);
    world.run_to(10);
    let (members, spares) = (world.job().members.to_vec(), world.spares());
    world.kill(&members[0]);
    world.kill(&members[1]);
    world.run_until(|world| world.status().state == JobState::Training && world.generation() > 1);
    world.run_until(|world| world.world_sizes().last() == Some(&3));
    assert!(
        world
            .job()
            .members
            .starts_with(&[members[2].clone(), spares[0].clone()])
    );
    world.run_until(|world| world.spares().len() == 1);
    world.finish_standing_by();
}

#[test]
fn a_spare_that_dies_is_replaced_and_the_job_does_not_notice() {
    let (mut world, _, spares) = standing_by(1);
    world.kill(&spares[0]);
    world.deliver();
    let lost = &world.event("spare_lost")[0];
    assert!(
        lost.reason
            .starts_with("a spare is lost, and the job trains on; another takes its place: worker")
            && lost.reason.contains("killed by signal 9"),
        "{lost:?}"
    );
    assert_eq!((world.strikes(), world.generation()), (0, 1));
    world.run_until(|world| world.spares().len() == 1);
    assert_ne!(world.spares(), spares);
    assert_eq!(world.generation(), 1);
    world.finish_standing_by();
}

#[test]
fn spares_that_die_one_after_the_other_are_given_up_until_the_next_generation() {
    let options = ClusterOptions {
        max_place_failures: 100,
        ..ClusterOptions::default()
    };
    let (mut world, members, _) = standing_by_in(World::with_options(options), 1);
    for _ in 0..60 {
        for spare in world.job().serving() {
            if !world.job().takes_part(&spare) {
                world.kill(&spare);
            }
        }
        world.deliver();
        world.now.monotonic = world.now.monotonic + Duration::from_secs(1);
        world.feed(Event::Tick);
    }
    let lost = world.event("spare_lost");
    assert_eq!(lost.len(), 5, "{lost:?}");
    assert!(
        lost[4]
            .reason
            .contains("5 were lost in a row, so no other is placed in this generation")
    );
    assert_eq!((world.strikes(), world.generation()), (0, 1));
    world.kill(&members[0]);
    world.run_until(|world| world.spares().len() == 1);
    world.finish_standing_by();
}

#[test]
fn a_frozen_spare_is_found_and_replaced() {
    let (mut world, _, spares) = standing_by(1);
    world.freeze(&spares[0]);
    for step in 11..=15 {
        world.run_to(step);
        world.wait(1);
    }
    let lost = &world.event("spare_lost")[0];
    assert!(
        lost.reason.contains("left 3 probes in a row unanswered"),
        "{lost:?}"
    );
    assert!(!world.workers.contains_key(&spares[0]), "it was killed");
    assert_eq!((world.strikes(), world.generation()), (0, 1));
    world.run_until(|world| world.spares().len() == 1);
    world.finish_standing_by();
}

/// Seconds between its freezing and a member's death.
#[rstest]
#[case::not_noticed_yet(0)]
#[case::one_probe_is_unanswered(2)]
fn a_frozen_spare_is_not_taken_along(#[case] seconds: u64) {
    let (mut world, members, spares) = standing_by(1);
    world.freeze(&spares[0]);
    world.wait(seconds);
    world.kill(&members[0]);
    world.deliver();
    world.wait(1);
    assert_eq!(
        world.job().members,
        [members[1].clone()],
        "it waits for nobody"
    );
    assert_eq!(world.world_sizes(), [2, 1]);
    let before = world.job().placed.len();
    world.run_until(|world| world.job().placed.len() > before);
    world.finish_standing_by();
}

#[test]
fn a_spare_that_is_cut_off_is_not_taken_along_and_is_one_again_when_it_is_back() {
    let (mut world, members, spares) = standing_by(1);
    world.drop_stream(&spares[0]);
    world.deliver();
    world.kill(&members[0]);
    world.deliver();
    assert_eq!(world.job().members, [members[1].clone()]);
    world.reconnect();
    world.run_to(12);
    assert_eq!(world.job().members[1], spares[0], "at the next boundary");
    world.finish_standing_by();
}

#[test]
fn a_coordinator_that_was_stopped_itself_takes_no_spare_for_deaf() {
    let (mut world, _, spares) = standing_by(2);
    for spare in &spares {
        world.freeze(spare);
    }
    world.wait(1);
    world.now.monotonic = world.now.monotonic + Duration::from_secs(60);
    world.feed(Event::Tick);
    for spare in &spares {
        world.workers.get_mut(spare).unwrap().frozen = false;
    }
    world.deliver();
    world.wait(1);
    assert!(world.event("spare_lost").is_empty());
    assert_eq!(world.spares(), spares);
    world.finish_standing_by();
}

#[test]
fn a_gang_that_waits_gets_spares_back_before_anyone_shrinks() {
    let (mut world, _, spares) = standing_by(2);
    // What job 1 has above its gang is lent, too. Its priority makes no difference.
    for number in [2, 3] {
        let mut asked = spec(20, 1, 1);
        asked.queue.priority = -1;
        world.submit(number, asked);
        world.run_until(|world| world.status_of(number).state == JobState::Training);
    }
    let released: Vec<_> = world
        .event("released")
        .into_iter()
        .map(|it| it.details["worker"].clone())
        .collect();
    assert_eq!(released, [spares[1].as_str()], "the fifth slot was free");
    let mut asked = spec(20, 1, 1);
    asked.queue.priority = -1;
    world.submit(4, asked);
    world.run_until(|world| world.status_of(4).state == JobState::Training);
    assert_eq!(world.event("released").len(), 2);
    assert_eq!((world.spares().len(), world.world_sizes()[0]), (0, 2));
    assert_eq!(world.status().world_size, 2, "nobody shrank");
    world.run_all_to_end();
    world.check_finished(STEPS);
}

#[test]
fn spares_of_all_jobs_go_before_what_is_lent_to_any() {
    let mut world = World::new();
    world.add_node("a", 4);
    world.deliver();
    world.wait(10);
    let mut first = spec(STEPS, 1, 1);
    first.workers.spares = 1;
    world.submit(1, first);
    world.run_to(5);
    // The second is last in the queue, and has a slot above its gang.
    world.submit(2, spec(STEPS, 1, 2));
    world.run_until(|world| world.status_of(2).world_size == 2);
    let spares = world.spares();
    world.submit(3, spec(10, 1, 1));
    world.run_until(|world| world.status_of(3).state == JobState::Training);
    let released = &world.event("released");
    assert_eq!(released.len(), 1);
    assert_eq!(released[0].details["worker"], spares[0].as_str());
    world.run_all_to_end();
    world.check_finished(STEPS);
}

#[test]
fn growth_of_another_job_comes_before_spares_but_takes_none_back() {
    let mut world = World::new();
    world.add_node("a", 3);
    world.deliver();
    world.wait(10);
    let mut first = spec(STEPS, 1, 1);
    first.workers.spares = 2;
    world.submit(1, first);
    world.submit(2, spec(STEPS, 1, 2));
    world.run_to(5);
    world.run_until(|world| world.status_of(2).world_size == 2);
    assert_eq!(
        world.job().workers.len(),
        1,
        "what is left goes to whoever can train with it"
    );
    world.run_until(|world| world.status_of(2).state.is_over() || world.status().state.is_over());
    world.run_all_to_end();
}

#[test]
fn spares_count_for_the_quota_and_are_given_back_to_the_users_own_jobs() {
    let options = ClusterOptions {
        user_quotas: UserQuotas {
            everyone: 3,
            ..UserQuotas::default()
        },
        ..ClusterOptions::default()
    };
    let (mut world, _, spares) = standing_by_in(World::with_options(options), 2);
    assert_eq!(
        spares.len(),
        1,
        "two members and a spare are all of the quota"
    );
    let mut asked = spec(10, 1, 1);
    asked.queue.user = "anna".into();
    world.submit(2, asked);
    world.run_until(|world| world.status_of(2).state == JobState::Training);
    assert_eq!(
        world.event("released")[0].details["worker"],
        spares[0].as_str()
    );
    assert_eq!(world.status().world_size, 2);
    world.run_until(|world| world.status_of(2).state.is_over());
    world.run_until(|world| world.spares().len() == 1);
    world.finish_standing_by();
}

#[test]
fn a_restarted_coordinator_finds_its_spares_again() {
    let (mut world, members, spares) = standing_by(1);
    world.restart_coordinator();
    world.reconnect();
    world.deliver();
    world.run_to(12);
    assert_eq!((world.spares(), world.generation()), (spares.clone(), 1));
    world.kill(&members[1]);
    world.deliver();
    assert_eq!(world.job().members, [members[0].clone(), spares[0].clone()]);
    world.finish_standing_by();
}

#[test]
fn a_stop_sends_spares_away_at_once() {
    let (mut world, _, spares) = standing_by(1);
    world.feed(Event::StopRequested {
        job: job_id(1),
        grace_seconds: 0,
    });
    world.deliver();
    assert!(!world.workers.contains_key(&spares[0]));
    assert_eq!(world.run_to_end(), JobState::Stopped);
    assert!(world.event("spare_lost").is_empty());
}

#[test]
fn a_spare_on_a_lost_node_costs_nothing() {
    let (mut world, _, spares) = standing_by(1);
    let node = NodeName::from("b");
    for worker in &spares {
        world.freeze(worker);
        world.drop_stream(worker);
    }
    world.disconnect_agent(&node);
    for step in 11..=20 {
        world.run_to(step);
        world.wait(1);
    }
    assert_eq!((world.event("spare_lost").len(), world.strikes()), (1, 0));
    assert_eq!(world.generation(), 1);
}
