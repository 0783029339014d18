use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{
    coverage::Coverage,
    plan::Plan,
    run::{Broken, Keep, Report, run},
};

/// How many seeds a plain test run has.
const SEEDS: u64 = 300;

/// What a seed makes of a simulation.
pub type Plans = Arc<dyn Fn(u64) -> Plan + Send + Sync>;

/// Runs the seeds from `first` on. Returns what has happened, and the first broken rule.
pub fn sweep(first: u64, count: u64, broken: Broken) -> (Coverage, Option<Report>) {
    sweep_plans(first, count, broken, Arc::new(Plan::new))
}

/// As [`sweep`], with plans of one's own. On as many threads as there are cores.
pub fn sweep_plans(
    first: u64,
    count: u64,
    broken: Broken,
    plans: Plans,
) -> (Coverage, Option<Report>) {
    let next = AtomicU64::new(first);
    let stop_at = AtomicU64::new(first + count);
    let worker = || {
        let mut coverage = Coverage::default();
        let mut found: Option<Report> = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= stop_at.load(Ordering::Relaxed) {
                return (coverage, found);
            }
            let report = run(plans(seed), broken, Keep::Tail);
            coverage.add(&report.coverage);
            if report.violation.is_some() {
                // Of all seeds that find something, the first one is shown.
                stop_at.fetch_min(seed, Ordering::Relaxed);
                if found.as_ref().is_none_or(|found| seed < found.seed) {
                    found = Some(report);
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut coverage = Coverage::default();
        let mut first: Option<Report> = None;
        for thread in running {
            let (part, found) = thread.join().unwrap();
            coverage.add(&part);
            if found
                .as_ref()
                .is_some_and(|it| first.as_ref().is_none_or(|first| it.seed < first.seed))
            {
                first = found;
            }
        }
        (coverage, first)
    })
}

/// What to look at, and how to see it again.
pub fn words(report: &Report) -> String {
    let mut words = String::new();
    if let Some(violation) = &report.violation {
        let _ = write!(
            words,
            "{}\nseed {}: {:?} is broken: {}\nagain: make sim SEED={} SEEDS=1",
            report.trace.tail(),
            report.seed,
            violation.invariant,
            violation.words,
            report.seed
        );
    }
    words
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_happens_the_invariants_hold_and_all_ends() {
    let (first, count) = (
        number("MUSTER_SIM_SEED", 1),
        number("MUSTER_SIM_SEEDS", SEEDS),
    );
    if count == 1 {
        // Someone looks at a seed: every line of it.
        let report = run(Plan::new(first), Broken::Nothing, Keep::All);
        println!("{}", report.trace.all.unwrap_or_default());
    }
    let (coverage, found) = sweep(first, count, Broken::Nothing);
    println!("{count} seeds from {first} on:\n{coverage}");
    if let Some(report) = found {
        panic!("{}", words(&report));
    }
    if count >= SEEDS {
        for what in [
            "generations formed",
            "coordinator starts",
            "heals from a peer",
            "checkpoints read",
            "checkpoints that could not be read",
            "messages that came again",
            "events decided together",
            "jobs preempted",
            "batches skipped",
            "spares that took a place",
            "nodes drained",
            "agents that left an empty node",
            "jobs that save since their nodes are drained",
        ] {
            assert!(coverage.of(what) > 0, "{what}: never");
        }
        // Not in every few hundred.
        let rare = coverage.of("collectives that completed with garbage");
        assert!(
            rare > 0 || count < 10 * SEEDS,
            "no garbage in any collective"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut lines = 0;
    for seed in [1, 5, 24, 4692] {
        let [one, other] = [(); 2].map(|()| run(Plan::new(seed), Broken::Nothing, Keep::All).trace);
        lines += one.lines;
        assert_eq!(one.digest, other.digest);
        assert!(
            one.all == other.all,
            "seed {seed} runs differently each time"
        );
    }
    assert!(lines > 1000, "nothing happens");
}
