use std::{fs, thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Bench, Process, assert_one_history, dataset, eventually, send, status, stdout, training,
};

#[test]
fn a_run_trains_to_the_end_and_leaves_what_people_need() {
    let bench = Bench::new();
    let printed = bench.run_through("out", &["--workers", "2"]);
    assert!(printed.contains("finished: 40 of 40 steps"), "{printed}");

    let metrics = bench.metrics("out");
    assert_one_history(&metrics, 40);
    for line in &metrics {
        for key in [
            "loss",
            "learning_rate",
            "gradient_norm",
            "tokens",
            "step_ms",
            "tokens_per_second",
        ] {
            assert!(line[key].is_number(), "{key} in {line}");
        }
        assert_eq!(line["tokens"], 12 * 16);
    }
    let loss = |index: usize| metrics[index]["loss"].as_f64().unwrap();
    assert!(
        loss(39) < loss(0) - 1.0,
        "it learns: {} to {}",
        loss(0),
        loss(39)
    );
    let evaluations = fs::read_to_string(bench.path("out/evaluations.jsonl")).unwrap();
    assert_eq!(evaluations.lines().count(), 2);

    let listed = stdout(&["checkpoint", "ls", &bench.text("out"), "-o", "json"]);
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let steps: Vec<_> = listed
        .iter()
        .map(|it| it["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [40, 30, 20], "keep_last is 3");
    stdout(&["checkpoint", "verify", &bench.text("out")]);
    assert_eq!(bench.hash("out").trim().len(), 64);

    let generate = |seed: &str| {
        let out = bench.text("out");
        stdout(&[
            "generate",
            "--checkpoint",
            &out,
            "--prompt",
            "line 1",
            "--max-tokens",
            "12",
            "--seed",
            seed,
        ])
    };
    assert!(generate("1").starts_with("line 1"));
    assert_eq!(generate("1"), generate("1"), "the seed decides");

    // The same command again finds nothing left to do.
    let again = bench.run_through("out", &["--workers", "2"]);
    assert!(again.contains("finished: 40 of 40 steps"), "{again}");
}

#[test]
fn killed_by_force_a_run_takes_its_workers_along_and_goes_on_later() {
    let bench = Bench::new();
    let long = ["--workers", "2", "--set", "train.steps=4000"];
    let mut run = bench.run("out", &long);
    let url = run.url();
    let pids = training(&url, 2, 12);
    eventually("a checkpoint", || {
        status(&url)["last_checkpoint"].is_object().then_some(())
    });
    run.signal(Signal::SIGKILL);
    run.wait();
    eventually("the workers' end", || {
        let alive = |pid: &u32| fs::exists(format!("/proc/{pid}")).unwrap();
        (!pids.iter().any(alive)).then_some(())
    });

    let mut run = bench.run("out", &long);
    let url = run.url();
    training(&url, 2, 20);
    let printed = run.printed();
    assert!(
        printed.contains("goes on from the checkpoint of step"),
        "{printed}"
    );
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait(), Some(1), "a stopped run is not a finished one");
    let printed = run.printed();
    assert!(printed.contains("stopped: "), "{printed}");
    let metrics = bench.metrics("out");
    assert_one_history(&metrics, metrics.len() as u64);
}

#[test]
fn ended_at_once_while_its_workers_save_a_run_goes_on_later() {
    let bench = Bench::new();
    let long = ["--workers", "2", "--set", "train.steps=4000"];
    let mut run = bench.run("out", &long);
    let url = run.url();
    let pids = training(&url, 2, 12);
    eventually("a checkpoint", || {
        status(&url)["last_checkpoint"].is_object().then_some(())
    });
    // Frozen, it never saves.
    send(pids[0], Signal::SIGSTOP);
    // One request, as `timeout` sends it.
    run.signal(Signal::SIGINT);
    thread::sleep(Duration::from_millis(50));
    run.signal(Signal::SIGINT);
    run.line("stopping: ");
    thread::sleep(Duration::from_secs(1));
    assert!(run.is_running(), "{}", run.printed());
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(), Some(1));
    assert!(run.printed().contains("ended at once"), "{}", run.printed());

    let mut run = bench.run("out", &long);
    let url = run.url();
    training(&url, 2, 20);
    let printed = run.printed();
    assert!(
        printed.contains("goes on from the checkpoint of step"),
        "{printed}"
    );
}

#[test]
fn two_runs_do_not_share_a_directory() {
    let bench = Bench::new();
    let long = ["--workers", "1", "--set", "train.steps=4000"];
    let mut first = bench.run("out", &long);
    training(&first.url(), 1, 1);
    let data = format!("data.path={}", dataset().display());
    let (spec, out) = (bench.spec(), bench.text("out"));
    let mut arguments = vec!["run", &spec, "--out", &out, "--set", &data];
    arguments.extend(long);
    let mut second = Process::start(&arguments, bench.path("second"));
    assert_eq!(second.wait(), Some(1));
    assert!(second.printed().contains("in use"), "{}", second.printed());
    assert!(first.is_running());
}
