//! Every process may die: the coordinator again and again, an agent without its workers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    audit::assert_audit_is_clean,
    cluster::Cluster,
    support::{
        Bench, assert_one_history, dataset, events, eventually, lines, members, muster, output,
        send, status_of, stdout, training,
    },
};

const LONG: [&str; 4] = ["--set", "train.steps=100000", "--set", "workers.max=2"];

/// `MUSTER_TEST_KILLS` asks for more.
fn kills() -> u64 {
    std::env::var("MUSTER_TEST_KILLS").map_or(8, |count| count.parse().unwrap())
}

fn metrics(bench: &Bench, job: &str) -> Vec<Value> {
    let path = bench
        .path("coordinator/jobs")
        .join(job)
        .join("metrics.jsonl");
    lines(&std::fs::read_to_string(path).unwrap())
}

#[test]
fn a_coordinator_that_is_killed_again_and_again_costs_nothing() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[("node-a", "1"), ("node-b", "1")]);
    let job = cluster.submit(&bench, &LONG);
    let pids = training(&cluster.url, 2, 20);
    let generation = status_of(&cluster.url, &job)["generation"].clone();

    // Meanwhile somebody submits jobs that must wait: whatever was acknowledged has to be there in the end, once.
    let over = AtomicBool::new(false);
    let url = cluster.url.clone();
    let submitted = thread::scope(|scope| {
        let submitter = scope.spawn(|| {
            let spec = bench.spec();
            let data = format!("data.path={}", dataset().display());
            let checkpoints = format!("checkpoint.uri={}", bench.text("waiting"));
            let (mut acknowledged, mut attempts) = (Vec::new(), 0);
            while !over.load(Ordering::Relaxed) {
                attempts += 1;
                let answer = muster()
                    .args(["submit", &spec, "--coordinator", &url, "-o", "json"])
                    .args([
                        "--set",
                        &data,
                        "--set",
                        &checkpoints,
                        "--set",
                        "workers.min=3",
                    ])
                    .output()
                    .unwrap();
                if answer.status.success() {
                    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
                    acknowledged.push(answer["job_id"].as_str().unwrap().to_owned());
                }
            }
            (acknowledged, attempts)
        });
        for kill in 0..kills() {
            // Spread over what the coordinator does: starting up, taking workers back, taking reports, being idle.
            thread::sleep(Duration::from_millis(10 + (kill * 7919) % 700));
            cluster.kill_and_restart_coordinator(&bench);
        }
        over.store(true, Ordering::Relaxed);
        submitter.join().unwrap()
    });

    let step = status_of(&cluster.url, &job)["step"].as_u64().unwrap();
    let now = eventually("steps after the last kill", || {
        let status = status_of(&cluster.url, &job);
        let there = status["state"] == "training" && status["step"].as_u64().unwrap() > step + 20;
        there.then_some(status)
    });
    assert_eq!(now["generation"], generation, "{now}");
    assert_eq!(now["recoveries"], 0, "{now}");
    assert_eq!(members(&now), pids, "the same processes");
    let metrics = metrics(&bench, &job);
    assert_one_history(&metrics, metrics.len() as u64);
    assert_audit_is_clean(&[&job, "--coordinator", &cluster.url]);

    let (acknowledged, attempts) = submitted;
    let jobs = stdout(&["jobs", "--coordinator", &cluster.url, "-o", "json"]);
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for other in serde_json::from_str::<Vec<Value>>(&jobs).unwrap() {
        *times
            .entry(other["job_id"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    assert!(times.values().all(|count| *count == 1), "{times:?}");
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|id| !times.contains_key(*id))
        .collect();
    assert_eq!(lost, Vec::<&String>::new());
    assert!(
        times.len() <= attempts + 1,
        "{} jobs of {attempts} submits",
        times.len()
    );
}

#[test]
fn an_agent_that_is_killed_loses_no_worker_and_the_next_one_adopts_them() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[("node-a", "2")]);
    let job = cluster.submit(&bench, &LONG);
    let pids = training(&cluster.url, 2, 20);
    let before = status_of(&cluster.url, &job);
    let mut agent = cluster.agents.pop().unwrap();
    agent.signal(Signal::SIGKILL);
    agent.wait();
    let step = status_of(&cluster.url, &job)["step"].as_u64().unwrap();
    eventually("steps without an agent", || {
        (status_of(&cluster.url, &job)["step"].as_u64().unwrap() > step + 20).then_some(())
    });

    let agent = Cluster::agent(&bench, &cluster.url, "node-a", "2");
    cluster.agents.push(agent);
    let kinds = || -> BTreeSet<String> {
        let all = stdout(&["events", &job, "--coordinator", &cluster.url, "-o", "json"]);
        lines(&all)
            .iter()
            .map(|it| it["kind"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(kinds().contains("node_lost"));
    let nodes = eventually("the node", || {
        let nodes = stdout(&["nodes", "--coordinator", &cluster.url, "-o", "json"]);
        let nodes: Vec<Value> = serde_json::from_str(&nodes).unwrap();
        nodes
            .iter()
            .all(|node| node["connected"] == true)
            .then_some(nodes)
    });
    assert_eq!(nodes.len(), 1);
    let after = status_of(&cluster.url, &job);
    assert_eq!(members(&after), pids, "the same processes");
    assert_eq!(after["generation"], before["generation"]);
    assert!(!kinds().contains("worker_exit"));

    // They are the new agent's: it tells at once how one of them ends, and starts another.
    send(pids[1], Signal::SIGKILL);
    eventually("a replacement", || {
        let now = training(&cluster.url, 2, step);
        (now.contains(&pids[0]) && !now.contains(&pids[1])).then_some(())
    });
    let exit = events(&cluster.url)
        .into_iter()
        .find(|it| it["kind"] == "worker_exit")
        .unwrap();
    assert!(
        exit["reason"].as_str().unwrap().contains("signal 9"),
        "{exit}"
    );
}

#[test]
fn a_journal_in_use_is_checked_and_copied_and_a_coordinator_starts_from_the_copy() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[("node-a", "1")]);
    let job = cluster.submit(&bench, &["--set", "train.steps=300"]);
    training(&cluster.url, 1, 20);
    let (data, copy) = (bench.text("coordinator"), bench.text("copy.sqlite"));
    assert!(stdout(&["journal", "check", &data]).contains(" records, 1 jobs, "));
    stdout(&["journal", "backup", &data, &copy]);
    let refused = output(&["journal", "backup", &data, &copy]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("exists"),
        "{refused:?}"
    );

    // The disk of the coordinator is lost; its journal was copied while the job trained.
    cluster.coordinator.signal(Signal::SIGKILL);
    cluster.coordinator.wait();
    for name in ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"] {
        // SQLite removes two of them when it can.
        let _ = std::fs::remove_file(bench.path("coordinator").join(name));
    }
    std::fs::copy(&copy, bench.path("coordinator/journal.sqlite")).unwrap();
    cluster.start_coordinator_again(&bench, &[]);
    let end = cluster.ended();
    assert_eq!(
        (&end["state"], &end["step"]),
        (&"finished".into(), &300.into()),
        "{end}"
    );
    assert_eq!(end["job_id"].as_str(), Some(job.as_str()));

    let checked: Value =
        serde_json::from_str(&stdout(&["journal", "check", &copy, "-o", "json"])).unwrap();
    assert!(checked["records"].as_u64().unwrap() > 3, "{checked}");
    std::fs::write(
        bench.path("damaged"),
        "not a journal, but long enough to have a header ".repeat(40),
    )
    .unwrap();
    for (path, words) in [
        ("damaged", "is damaged"),
        ("small.toml", "is damaged"),
        ("absent", "there is no journal"),
    ] {
        let refused = output(&["journal", "check", &bench.text(path)]);
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(words), "{said}");
    }
}
