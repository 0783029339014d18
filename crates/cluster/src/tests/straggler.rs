//! Ranks that are slower than the others, and do not stand still.

use rstest::rstest;

use super::world::{World, spec};
use crate::JobState;

const STEPS: u64 = 120;

/// So many ranks at step 2 of the first generation.
fn training(workers: u32) -> World {
    let mut world = World::new();
    world.add_node("a", workers);
    world.submit(1, spec(STEPS, 1, workers));
    world.run_to(2);
    world
}

/// A rank's slots take so long from now on.
fn pace(world: &mut World, rank: usize, slot_ms: f64) {
    let worker = world.job().members[rank].clone();
    world.workers.get_mut(&worker).unwrap().slot_ms = slot_ms;
}

#[rstest]
#[case::of_two(2, 0)]
#[case::of_three(3, 2)]
#[case::of_four(4, 1)]
fn a_rank_that_holds_the_others_up_in_each_step_is_named_once(
    #[case] workers: u32,
    #[case] slow: usize,
) {
    let mut world = training(workers);
    pace(&mut world, slow, 65.0);
    let worker = world.job().members[slow].clone();
    world.run_to(80);
    let named = world.event("slow_rank");
    assert_eq!(named.len(), 1, "{named:?}");
    let words = format!(
        "worker {worker} on node a is slow, and the others wait for it in each step: a slot of the batch takes it 65.0 ms of its \
         own work, where 40.0 ms is the median of all ranks"
    );
    assert_eq!(named[0].reason, words);
    assert_eq!(named[0].details["rank"], slow);
    let status = world.status();
    let shown = status.workers.iter().find(|it| it.worker_id == worker);
    assert_eq!(shown.unwrap().slot_ms, Some(65.0));
    assert_eq!(world.generation(), 1, "nobody is put out for it");
    assert_eq!(world.run_to_end(), JobState::Finished);
}

#[test]
fn a_rank_that_is_slow_again_is_named_again() {
    let mut world = training(2);
    for (step, slot_ms) in [(40, 80.0), (70, 41.0), (118, 80.0)] {
        pace(&mut world, 1, slot_ms);
        world.run_to(step);
    }
    assert_eq!(world.event("slow_rank").len(), 2);
}

#[test]
fn a_slow_moment_noise_and_what_is_not_known_name_nobody() {
    let mut world = training(3);
    for step in (10..90).step_by(10) {
        // A few steps of sixteen.
        pace(&mut world, 1, 900.0);
        world.run_to(step + 2);
        pace(&mut world, 1, 55.0);
        world.run_to(step + 10);
    }
    assert_eq!(world.event("slow_rank"), []);
    // On a GPU the time is not known.
    let mut world = training(2);
    pace(&mut world, 0, 0.0);
    world.run_to(80);
    assert_eq!(world.event("slow_rank"), []);
    let status = world.status();
    assert_eq!(status.workers[0].slot_ms, None);
    // Twice a millisecond is a millisecond.
    let mut world = training(2);
    pace(&mut world, 0, 1.0);
    pace(&mut world, 1, 3.0);
    world.run_to(80);
    assert_eq!(world.event("slow_rank"), []);
}
