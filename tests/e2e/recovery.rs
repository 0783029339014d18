use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::Value;

use crate::support::{
    Bench, assert_one_history, events, eventually, members, send, status, training,
};

/// Long enough that the kill falls into the run, and short enough for a test.
const STEPS: u64 = 800;

fn long() -> String {
    format!("train.steps={STEPS}")
}

#[rstest]
fn a_killed_worker_costs_the_others_nothing(#[values(2, 3)] workers: usize) {
    let bench = Bench::new();
    let (count, long) = (workers.to_string(), long());
    let every = "checkpoint.every_steps=500";
    let mut run = bench.run(
        "out",
        &["--workers", &count, "--set", &long, "--set", every],
    );
    let url = run.url();
    let before = training(&url, workers, 20);
    let (survivors, victim) = (&before[..workers - 1], before[workers - 1]);
    send(victim, Signal::SIGKILL);

    // The survivors go on by themselves, and take the replacement along when it is warm.
    let after = eventually("the replacement", || {
        let pids = members(&status(&url));
        (pids.len() == workers && !pids.contains(&victim)).then_some(pids)
    });
    assert_eq!(
        &after[..workers - 1],
        survivors,
        "no survivor was restarted"
    );
    let happened = events(&url);
    let lost = happened
        .iter()
        .find(|it| it["kind"] == "worker_exit")
        .unwrap();
    assert_eq!(lost["signal"], 9, "{lost}");
    let formed = happened
        .iter()
        .filter(|it| it["kind"] == "generation_formed")
        .nth(1)
        .unwrap();
    assert_eq!(
        formed["resume"]["from"], "live",
        "no checkpoint was needed: {formed}"
    );
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("out"), STEPS);
}

#[test]
fn rank_0_may_die_like_any_other() {
    let bench = Bench::new();
    let long = long();
    let mut run = bench.run("out", &["--workers", "3", "--set", &long]);
    let url = run.url();
    let before = training(&url, 3, 20);
    send(before[0], Signal::SIGKILL);
    let after = eventually("the replacement", || {
        let pids = members(&status(&url));
        (pids.len() == 3 && !pids.contains(&before[0])).then_some(pids)
    });
    assert_eq!(after[..2], before[1..], "the survivors keep their order");
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("out"), STEPS);
}

#[test]
fn where_all_workers_die_the_newest_checkpoint_takes_over() {
    let bench = Bench::new();
    let long = long();
    let mut run = bench.run(
        "out",
        &[
            "--workers",
            "2",
            "--set",
            &long,
            "--set",
            "checkpoint.every_steps=20",
        ],
    );
    let url = run.url();
    let before = training(&url, 2, 50);
    let checkpoint = eventually("a checkpoint", || {
        status(&url)["last_checkpoint"]["step"].as_u64()
    });
    for pid in &before {
        send(*pid, Signal::SIGKILL);
    }
    let formed = eventually("the next generation", || {
        let formed = events(&url);
        let formed = formed
            .into_iter()
            .filter(|it| it["kind"] == "generation_formed");
        formed.into_iter().nth(1)
    });
    assert_eq!(formed["resume"]["from"], "checkpoint", "{formed}");
    assert!(formed["step"].as_u64().unwrap() >= checkpoint, "{formed}");
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("out"), STEPS);
}

#[test]
fn under_canonical_reduction_deaths_and_resizes_leave_no_trace_in_the_bits() {
    let bench = Bench::new();
    let long = long();
    let canonical = ["--set", "train.reduction=canonical", "--set", &long];
    bench.run_through(
        "alone",
        &[&canonical, ["--workers", "1"].as_slice()].concat(),
    );

    let three = ["--workers", "3"];
    let mut run = bench.run("disturbed", &[&canonical, three.as_slice()].concat());
    let url = run.url();
    // From three to two and back, a new rank 0, and then all of them at once.
    for (rank, step) in [(1, 20), (0, 150)] {
        let pids = training(&url, 3, step);
        send(pids[rank], Signal::SIGKILL);
        eventually("the replacement", || {
            let now = members(&status(&url));
            (now.len() == 3 && !now.contains(&pids[rank])).then_some(())
        });
    }
    let pids = training(&url, 3, 300);
    for pid in pids {
        send(pid, Signal::SIGKILL);
    }
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("disturbed"), STEPS);
    assert_eq!(bench.hash("disturbed"), bench.hash("alone"));
}

/// Those that stand by, warm.
fn spares(status: &Value) -> Vec<u32> {
    let workers = status["workers"].as_array().unwrap();
    let spares = workers.iter().filter(|it| it["state"] == "spare");
    spares
        .map(|it| it["pid"].as_u64().unwrap() as u32)
        .collect()
}

#[test]
fn a_spare_takes_a_killed_workers_place_before_any_process_has_to_start() {
    let bench = Bench::new();
    let long = long();
    let mut run = bench.run(
        "out",
        &[
            "--workers",
            "2",
            "--set",
            "workers.max=2",
            "--set",
            "workers.spares=1",
            "--set",
            &long,
        ],
    );
    let url = run.url();
    let before = training(&url, 2, 20);
    let standing_by = || {
        let spares = spares(&status(&url));
        spares.first().copied()
    };
    let spare = eventually("a spare", standing_by);
    send(before[0], Signal::SIGKILL);
    let after = eventually("the next generation", || {
        let pids = members(&status(&url));
        (!pids.is_empty() && !pids.contains(&before[0])).then_some(pids)
    });
    assert_eq!(after, [before[1], spare], "no survivor was restarted");
    // Another stands by then.
    let next = eventually("the next spare", standing_by);
    assert!(!before.contains(&next) && next != spare);
    let events = events(&url);
    let at = |kind: &str, nth: usize| {
        let mut found = (0..).zip(&events).filter(|(_, it)| it["kind"] == kind);
        found.nth(nth).map(|(at, _): (usize, _)| at).unwrap()
    };
    let formed = at("generation_formed", 1);
    assert_eq!(
        events[formed]["world_size"], 2,
        "it never shrank: {events:?}"
    );
    assert!(
        at("worker_start", 3) > formed,
        "nobody was started meanwhile: {events:?}"
    );
    let took = |kind: &str, nth: usize| {
        let at = events[at(kind, nth)]["at"].as_str().unwrap();
        at.parse::<jiff::Timestamp>().unwrap()
    };
    let took = took("first_step", 1).duration_since(took("worker_exit", 0));
    println!("from the report of the death to a step at the full world size: {took:?}");
    // A tenth of a second where nothing else wants the cores.
    assert!(took.as_secs_f64() < 5.0, "{took:?}");
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("out"), STEPS);
}

#[test]
fn a_frozen_spare_is_replaced_and_takes_nobodys_place() {
    let bench = Bench::new();
    let more = ["--set", "train.steps=2000", "--set", "workers.max=2"];
    let spare_too = ["--workers", "2", "--set", "workers.spares=1"];
    let mut run = bench.run("out", &[&more[..], &spare_too].concat());
    let url = run.url();
    let before = training(&url, 2, 20);
    let spare = eventually("a spare", || spares(&status(&url)).first().copied());
    send(spare, Signal::SIGSTOP);
    send(before[0], Signal::SIGKILL);
    let after = eventually("the next generation", || {
        let pids = members(&status(&url));
        (!pids.is_empty() && !pids.contains(&before[0])).then_some(pids)
    });
    assert!(!after.contains(&spare), "{after:?}");
    let put_out = eventually("the spare's end", || {
        let mut events = events(&url).into_iter();
        events.find(|it| it["kind"] == "expelled")
    });
    let reason = put_out["reason"].as_str().unwrap();
    assert!(reason.contains("in a row unanswered"), "{reason}");
    // Both places are filled again.
    eventually("a full world and a spare", || {
        let status = status(&url);
        let (members, spares) = (members(&status), spares(&status));
        (members.len() == 2 && spares.len() == 1 && spares[0] != spare).then_some(())
    });
    run.signal(Signal::SIGTERM);
    run.wait();
}
