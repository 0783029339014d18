use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    coverage::Coverage,
    plan::Plan,
    sabotage::Sabotage,
    trace::Trace,
    violation::{Invariant, Violation, violated},
    world::World,
};
use crate::{
    JobState,
    mutation::{self, Mutation},
};
use muster_types::JobId;

/// After nothing goes wrong any more, all has to be done within this, in ms: several of the longest bounds.
const CALM_MS: u64 = 4 * 3600 * 1000;
/// A world with more events than this runs in circles.
const MOST_EVENTS: u64 = 60_000;
/// A world that starts more workers does, too.
const MOST_WORKERS: u64 = 500;

/// What has come of a seed.
pub struct Report {
    pub seed: u64,
    pub violation: Option<Violation>,
    pub trace: Trace,
    pub coverage: Coverage,
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// A rule of the core.
    Core(Mutation),
    /// A rule of what is around it.
    Around(Sabotage),
}

/// Whether all lines are kept, to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Tail,
    All,
}

/// Runs one plan to its end, or to the first broken rule.
pub fn run(plan: Plan, broken: Broken, keep: Keep) -> Report {
    let seed = plan.seed;
    let sabotage = match broken {
        Broken::Around(sabotage) => Some(sabotage),
        _ => None,
    };
    let mutation = match broken {
        Broken::Core(mutation) => Some(mutation),
        _ => None,
    };
    let _planted = mutation::plant(mutation);
    let mut world = World::new(plan, sabotage);
    if keep == Keep::All {
        world.trace.all = Some(String::new());
    }
    let ended = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let violation = ended
        .err()
        .map(|panic| match panic.downcast::<Violation>() {
            Ok(violation) => *violation,
            Err(panic) => {
                let words = panic.downcast_ref::<String>().cloned();
                let words = words.or_else(|| {
                    panic
                        .downcast_ref::<&str>()
                        .map(|words| (*words).to_owned())
                });
                Violation {
                    invariant: Invariant::Assertion,
                    words: words.unwrap_or_else(|| "a panic without words".into()),
                }
            }
        });
    world
        .coverage
        .count_many("things that happened", world.events);
    Report {
        seed,
        violation,
        coverage: world.coverage,
        trace: world.trace,
    }
}

fn live(world: &mut World) {
    let chaos = world.plan.chaos;
    while world.turn(chaos) {
        bounded(world);
    }
    world.calm();
    let mut quiet_since = None;
    let end = world.now + CALM_MS;
    while world.now < end {
        let until = world.now + 5000;
        while world.turn(until) {
            bounded(world);
        }
        if !world.take_up() {
            quiet_since = None;
            continue;
        }
        let since = *quiet_since.get_or_insert(world.now);
        let waits = world.plan.jobs.len() != finished(world);
        if (waits && world.now - since > 900_000) || (!waits && world.workers.is_empty()) {
            return;
        }
    }
    let jobs = world.coordinator.cluster.jobs().into_iter();
    let statuses: Vec<_> = jobs
        .filter_map(|job| {
            world
                .coordinator
                .cluster
                .status(job, world.coordinator_now())
        })
        .map(|status| {
            format!(
                "{} {:?}: {}",
                status.job_id, status.state, status.state_reason
            )
        })
        .collect();
    let workers: Vec<_> = world
        .workers
        .values()
        .map(|it| {
            format!(
                "{} {:?} in {} fenced {} holds {:?} frozen {} hung {}",
                it.id, it.at, it.generation, it.superseded, it.holdings, it.frozen, it.hung
            )
        })
        .collect();
    violated(
        Invariant::Convergence,
        format!("it never comes to its end: {statuses:#?} {workers:#?}"),
    );
}

fn finished(world: &World) -> usize {
    let jobs = world.coordinator.acknowledged.iter();
    let finished = |job: &&JobId| world.state_of(**job) == Some(JobState::Finished);
    jobs.filter(finished).count()
}

fn bounded(world: &World) {
    if world.events > MOST_EVENTS || world.coverage.of("workers started") > MOST_WORKERS {
        violated(Invariant::Convergence, "it runs in circles".into());
    }
}
