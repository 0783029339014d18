//! Nodes that are emptied, and agents that are asked to end: no step is lost for it.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    support::{
        Bench, Process, assert_one_history, events_of, eventually, lines, output, parent, send,
        status, stdout, training,
    },
};

/// What a drain must not bring about.
const LOSSES: [&str; 5] = [
    "expelled",
    "node_lost",
    "node_cordoned",
    "node_suspect",
    "gave_up",
];

fn node(url: &str, name: &str) -> Value {
    let nodes = stdout(&["nodes", "--coordinator", url, "-o", "json"]);
    let nodes: Vec<Value> = serde_json::from_str(&nodes).unwrap();
    nodes.into_iter().find(|it| it["name"] == name).unwrap()
}

fn worker_on(url: &str, name: &str) -> u32 {
    let status = status(url);
    let workers = status["workers"].as_array().unwrap();
    let there = workers.iter().find(|it| it["node"] == name).unwrap();
    there["pid"].as_u64().unwrap() as u32
}

/// No worker was lost or put out, and no generation failed.
fn assert_nothing_was_lost(url: &str, job: &str) {
    for event in events_of(url, job) {
        let kind = event["kind"].as_str().unwrap();
        assert!(!LOSSES.contains(&kind), "{event}");
        if kind == "generation_opened" {
            assert_ne!(event["details"]["cause"], "lost", "{event}");
        }
    }
    assert_eq!(status(url)["recoveries"], 0);
}

fn metrics(bench: &Bench, job: &str) -> Vec<Value> {
    let path = bench.path("coordinator/jobs").join(job);
    lines(&fs::read_to_string(path.join("metrics.jsonl")).unwrap())
}

/// An agent that takes its time to end, as it does unless it is told otherwise.
fn patient_agent(bench: &Bench, url: &str, name: &str, slots: &str) -> Process {
    Cluster::agent_with(bench, url, name, slots, &[])
}

fn submit(cluster: &Cluster, bench: &Bench, steps: u32, (min, max): (u32, u32)) -> String {
    let set = [
        format!("train.steps={steps}"),
        format!("workers.min={min}"),
        format!("workers.max={max}"),
        "checkpoint.every_steps=0".to_owned(),
    ];
    let set: Vec<_> = set.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    cluster.submit(bench, &set)
}

#[test]
fn a_drained_nodes_workers_move_without_a_failed_step() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[("node-a", "1"), ("node-b", "1")]);
    let url = cluster.url.clone();
    let job = submit(&cluster, &bench, 4000, (2, 2));
    training(&url, 2, 20);
    let stays = worker_on(&url, "node-a");
    cluster
        .agents
        .push(Cluster::agent(&bench, &url, "node-c", "1"));
    eventually("the third node", || {
        let nodes = stdout(&["nodes", "--coordinator", &url, "-o", "json"]);
        nodes.contains("node-c").then_some(())
    });
    let drain = [
        "drain",
        "node-b",
        "--reason",
        "its fan is loud",
        "--wait",
        "--timeout",
        "100",
        "--coordinator",
        &url,
        "-o",
        "json",
    ];
    let drained: Value = serde_json::from_str(&stdout(&drain)).unwrap();
    assert_eq!(drained["drain"], "drained", "{drained}");
    assert_eq!(drained["slots_used"], 0);
    assert_eq!(drained["cordon_reason"], "its fan is loud");
    let here = training(&url, 2, 20);
    assert!(
        here.contains(&stays),
        "the other worker is the same process"
    );
    assert!(here.contains(&worker_on(&url, "node-c")));
    let table = stdout(&["nodes", "--coordinator", &url]);
    assert!(table.contains("drained: its fan is loud"), "{table}");

    // Now there is no other place, and one worker is not enough: it saves, and waits.
    stdout(&[
        "drain",
        "node-c",
        "--wait",
        "--timeout",
        "100",
        "--coordinator",
        &url,
    ]);
    let waits = eventually("the job to wait", || {
        let status = status(&url);
        (status["state"] == "pending").then_some(status)
    });
    assert_eq!(waits["last_checkpoint"]["step"], waits["step"], "{waits}");
    let reason = waits["state_reason"].as_str().unwrap();
    assert!(reason.contains("node node-c is drained"), "{reason}");
    stdout(&["uncordon", "node-b", "--coordinator", &url]);
    training(&url, 2, waits["step"].as_u64().unwrap() + 1);
    assert_eq!(cluster.ended()["state"], "finished");
    assert_nothing_was_lost(&url, &job);
    let told = events_of(&url, &job);
    let count = |kind: &str| told.iter().filter(|it| it["kind"] == kind).count();
    assert_eq!((count("node_draining"), count("node_drained")), (2, 2));
    assert_eq!(count("requeued"), 1);
    assert_one_history(&metrics(&bench, &job), 4000);
}

#[test]
fn an_agent_that_is_asked_to_end_has_its_workers_leave_first() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[("node-a", "1")]);
    let url = cluster.url.clone();
    cluster
        .agents
        .push(patient_agent(&bench, &url, "node-b", "1"));
    let job = submit(&cluster, &bench, 3000, (1, 2));
    training(&url, 2, 20);
    let stays = worker_on(&url, "node-a");
    let mut leaves = cluster.agents.pop().unwrap();
    // As from whoever signals all that an agent has started: only the agent is meant.
    let worker = worker_on(&url, "node-b");
    send(worker, Signal::SIGTERM);
    send(parent(worker).unwrap(), Signal::SIGTERM);
    leaves.signal(Signal::SIGTERM);
    assert_eq!(leaves.wait(), Some(0));
    assert_eq!(
        training(&url, 1, 20),
        [stays],
        "the other worker is the same process"
    );
    assert_eq!(cluster.ended()["state"], "finished");
    assert_nothing_was_lost(&url, &job);
    let exits = events_of(&url, &job).into_iter();
    let exits: Vec<_> = exits.filter(|it| it["kind"] == "worker_exit").collect();
    assert!(
        exits[0]["reason"].as_str().unwrap().contains("status 0"),
        "it left in good order: {}",
        exits[0]
    );
    assert_one_history(&metrics(&bench, &job), 3000);
}

#[test]
fn where_the_only_agent_ends_the_newest_step_is_saved_and_a_fresh_agent_resumes_it() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[]);
    let url = cluster.url.clone();
    let mut agent = patient_agent(&bench, &url, "node-a", "2");
    let job = submit(&cluster, &bench, 2500, (1, 2));
    training(&url, 2, 50);
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait(), Some(0), "{}", agent.printed());
    let waits = eventually("the job to wait", || {
        let status = status(&url);
        (status["state"] == "pending").then_some(status)
    });
    let step = waits["step"].as_u64().unwrap();
    assert!(step >= 50);
    assert_eq!(waits["last_checkpoint"]["step"], step, "{waits}");
    let told = metrics(&bench, &job);
    assert_eq!(told.last().unwrap()["step"], step, "no step is above it");
    // The coordinator's end in between changes nothing.
    cluster.kill_and_restart_coordinator(&bench);
    cluster
        .agents
        .push(Cluster::agent(&bench, &url, "node-new", "2"));
    training(&url, 2, step + 1);
    assert_eq!(cluster.ended()["state"], "finished");
    assert_nothing_was_lost(&url, &job);
    assert_one_history(&metrics(&bench, &job), 2500);
    stdout(&["checkpoint", "verify", &bench.text("checkpoints")]);
}

#[test]
fn a_second_signal_ends_an_agent_at_once_and_one_without_a_coordinator_does_not_wait() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[]);
    let url = cluster.url.clone();
    submit(&cluster, &bench, 1_000_000, (1, 1));
    let mut agent = patient_agent(&bench, &url, "node-a", "1");
    training(&url, 1, 10);
    // Nobody leaves who does not hear of it.
    send(worker_on(&url, "node-a"), Signal::SIGSTOP);
    agent.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_secs(1));
    assert!(agent.is_running());
    assert_eq!(node(&url, "node-a")["drain"], "draining");
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait(), Some(1), "{}", agent.printed());

    let mut agent = patient_agent(&bench, &url, "node-b", "1");
    let worker = training(&url, 1, 10)[0];
    cluster.coordinator.signal(Signal::SIGKILL);
    cluster.coordinator.wait();
    let since = std::time::Instant::now();
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait(), Some(0), "{}", agent.printed());
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "{:?}",
        since.elapsed()
    );
    assert!(!std::path::Path::new(&format!("/proc/{worker}")).exists());
}

#[test]
fn a_node_that_was_never_here_cannot_be_drained() {
    let bench = Bench::new();
    let cluster = Cluster::start(&bench, &[]);
    let refused = output(&["drain", "node-x", "--coordinator", &cluster.url]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("node-x"), "{said}");
    let usage = output(&[
        "drain",
        "node-x",
        "--timeout",
        "5",
        "--coordinator",
        &cluster.url,
    ]);
    assert_eq!(usage.status.code(), Some(2), "a bound without --wait");
}
