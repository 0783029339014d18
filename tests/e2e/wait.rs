use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    support::{Bench, Process, output, stdout, training},
};

/// `muster wait` to its end: its exit code, and what it said on both streams.
fn waited(arguments: &[&str]) -> (Option<i32>, String) {
    let output = output(&[&["wait"], arguments].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn wait_tells_by_its_exit_code_how_a_job_ended_and_outlasts_the_coordinator() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[]);
    let url = cluster.url.clone();
    let job = cluster.submit(&bench, &[]);

    // Nobody offers a slot.
    let (code, said) = waited(&["--coordinator", &url, "--timeout", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("job {job} is pending")), "{said}");
    let (code, said) = waited(&["ffffffff", "--coordinator", &url]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ffffffff"), "{said}");

    let arguments = ["wait", &job[..13], "--coordinator", &url, "-o", "json"];
    let mut waiting = Process::start(&arguments, bench.path("wait.log"));
    // A wait that has not begun yet would find no coordinator at all.
    waiting.line("waiting for job");
    cluster.coordinator.signal(Signal::SIGKILL);
    waiting.line("the coordinator is away");
    cluster.coordinator.wait();
    cluster.start_coordinator_again(&bench, &[]);
    let agent = Cluster::agent(&bench, &url, "node-a", "1");
    cluster.agents.push(agent);
    assert_eq!(waiting.wait(), Some(0), "{}", waiting.printed());
    let printed = waiting.printed();
    let end: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&end["state"], &end["step"]),
        (&"finished".into(), &40.into())
    );

    let long = cluster.submit(&bench, &["--set", "train.steps=100000"]);
    training(&url, 1, 5);
    stdout(&["stop", &long, "--coordinator", &url]);
    let (code, said) = waited(&["--coordinator", &url]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("job {long} is stopped")), "{said}");
}
