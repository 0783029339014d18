use nix::sys::signal::Signal;
use rstest::rstest;

use crate::support::{Bench, assert_one_history, training};

#[rstest]
fn stopped_and_resumed_a_run_ends_at_the_same_bits(#[values(2, 3)] workers: usize) {
    let bench = Bench::new();
    let count = workers.to_string();
    let steps = ["--workers", &count, "--set", "train.steps=600"];
    bench.run_through("straight", &steps);

    let mut run = bench.run("halved", &steps);
    training(&run.url(), workers, 20);
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(), Some(1), "{}", run.printed());
    let stopped_at = bench.metrics("halved").len();
    assert!((20..600).contains(&stopped_at), "stopped at {stopped_at}");
    bench.run_through("halved", &steps);

    assert_one_history(&bench.metrics("halved"), 600);
    assert_eq!(bench.hash("straight"), bench.hash("halved"));
}

#[test]
fn a_run_resumes_with_another_number_of_workers() {
    let bench = Bench::new();
    let steps = "train.steps=600";
    let mut run = bench.run("out", &["--workers", "2", "--set", steps]);
    training(&run.url(), 2, 20);
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(), Some(1), "{}", run.printed());
    let mut run = bench.run("out", &["--workers", "3", "--set", steps]);
    training(&run.url(), 3, 30);
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("out"), 600);
}
