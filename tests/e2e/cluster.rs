use std::{collections::BTreeSet, path::Path, process::Command};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Bench, Process, assert_one_history, dataset, events, eventually, lines, parent, send, status,
    stdout, training,
};

/// A coordinator and its agents, each a process of its own.
pub struct Cluster {
    // Dropped in this order: agents first.
    pub agents: Vec<Process>,
    pub coordinator: Process,
    pub url: String,
}

impl Cluster {
    pub fn start(bench: &Bench, agents: &[(&str, &str)]) -> Self {
        let mut cluster = Self::start_at(bench, "127.0.0.1:0", &[]);
        cluster.agents = agents
            .iter()
            .map(|(name, slots)| Self::agent(bench, &cluster.url, name, slots))
            .collect();
        cluster
    }

    /// Without agents.
    pub fn start_at(bench: &Bench, listen: &str, more: &[&str]) -> Self {
        let (coordinator, url) = Self::coordinator(bench, listen, more);
        Self {
            agents: Vec::new(),
            coordinator,
            url,
        }
    }

    fn coordinator(bench: &Bench, listen: &str, more: &[&str]) -> (Process, String) {
        let data = bench.text("coordinator");
        let mut arguments = vec!["coordinator", "--listen", listen, "--data-dir", &data];
        arguments.extend(more);
        let mut coordinator = Process::start(&arguments, bench.path("coordinator.log"));
        let url = coordinator.line("coordinator: ");
        (coordinator, url)
    }

    /// SIGKILL, and a new one on the same journal and port.
    pub fn kill_and_restart_coordinator(&mut self, bench: &Bench) {
        self.coordinator.signal(Signal::SIGKILL);
        self.coordinator.wait();
        self.start_coordinator_again(bench);
    }

    /// On the same journal and port.
    pub fn start_coordinator_again(&mut self, bench: &Bench) {
        let listen = self.url.trim_start_matches("http://").to_owned();
        (self.coordinator, _) = Self::coordinator(bench, &listen, &[]);
    }

    /// An agent that has taken its place. Its workers end with it when it is dropped.
    pub fn agent(bench: &Bench, url: &str, name: &str, slots: &str) -> Process {
        let data = bench.text(name);
        let mut agent = Process::start(
            &[
                "agent",
                "--coordinator",
                url,
                "--slots",
                slots,
                "--name",
                name,
                "--data-dir",
                &data,
                "--advertise",
                "127.0.0.1",
            ],
            bench.path(&format!("{name}.log")),
        )
        .ended_by_sigterm();
        agent.line("agent: ");
        agent
    }

    /// Submits the small spec with `more` arguments; the job's id.
    pub fn submit(&self, bench: &Bench, more: &[&str]) -> String {
        let data = format!("data.path={}", dataset().display());
        let checkpoints = format!("checkpoint.uri={}", bench.text("checkpoints"));
        let spec = bench.spec();
        let mut arguments = vec![
            "submit",
            &spec,
            "--coordinator",
            &self.url,
            "-o",
            "json",
            "--set",
            &data,
            "--set",
            &checkpoints,
        ];
        arguments.extend(more);
        let answer: Value = serde_json::from_str(&stdout(&arguments)).unwrap();
        answer["job_id"].as_str().unwrap().to_owned()
    }

    pub fn ended(&self) -> Value {
        eventually("the job's end", || {
            let status = status(&self.url);
            ["finished", "failed", "stopped"]
                .contains(&status["state"].as_str().unwrap())
                .then_some(status)
        })
    }
}

#[test]
fn one_job_runs_over_two_nodes_and_strangers_can_watch_it() {
    let bench = Bench::new();
    let cluster = Cluster::start(&bench, &[("node-a", "1"), ("node-b", "1")]);
    eventually("both nodes", || {
        let nodes = stdout(&["nodes", "--coordinator", &cluster.url, "-o", "json"]);
        let nodes: Vec<Value> = serde_json::from_str(&nodes).unwrap();
        (nodes.len() == 2).then_some(())
    });
    let job = cluster.submit(
        &bench,
        &[
            "--set",
            "train.steps=1500",
            "--set",
            "workers.min=2",
            "--set",
            "workers.max=2",
        ],
    );
    training(&cluster.url, 2, 10);

    // A client that nobody here wrote: generated from what the server says of itself.
    let seen = python_client(&cluster.url, &job);
    let own = status(&cluster.url);
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(seen["job_id"], own["job_id"]);
    assert_eq!(seen["health"], "SERVING");
    let fields: BTreeSet<String> = serde_json::from_value(seen["fields"].clone()).unwrap();
    assert_eq!(
        fields,
        keys(&own),
        "status as JSON has the proto's names, all of them"
    );

    let nodes: BTreeSet<_> = own["workers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["node"].as_str().unwrap())
        .collect();
    assert_eq!(nodes, BTreeSet::from(["node-a", "node-b"]));
    let dealt: Vec<_> = own["assignment"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["count"].as_u64().unwrap())
        .collect();
    assert_eq!(dealt, [3, 3]);

    let end = cluster.ended();
    assert_eq!(
        (&end["state"], &end["step"]),
        (&"finished".into(), &1500.into()),
        "{end}"
    );
    assert!(
        end["validation_loss"].is_number() && end["eta_seconds"].is_null()
            || end["eta_seconds"] == 0.0,
        "{end}"
    );
    let kinds: BTreeSet<String> = events(&cluster.url)
        .iter()
        .map(|it| it["kind"].as_str().unwrap().to_owned())
        .collect();
    for kind in [
        "submit",
        "placement",
        "worker_start",
        "worker_exit",
        "generation_opened",
        "generation_formed",
        "first_step",
        "checkpoint_committed",
        "evaluation",
        "state",
    ] {
        assert!(kinds.contains(kind), "{kind} is missing among {kinds:?}");
    }
    let logs = stdout(&["logs", &job, "--coordinator", &cluster.url, "--tail", "3"]);
    assert!(logs.contains("leaving"), "{logs}");
    stdout(&["checkpoint", "verify", &bench.text("checkpoints")]);
}

#[test]
fn stop_and_resume_over_rpc() {
    let bench = Bench::new();
    let cluster = Cluster::start(&bench, &[("node-a", "2")]);
    let job = cluster.submit(&bench, &["--set", "train.steps=1500"]);
    training(&cluster.url, 2, 10);
    stdout(&["stop", &job, "--coordinator", &cluster.url]);
    let stopped = cluster.ended();
    assert_eq!(stopped["state"], "stopped", "{stopped}");
    assert_eq!(
        stopped["last_checkpoint"]["step"], stopped["step"],
        "it saved before it left"
    );
    stdout(&["resume", &job[..8], "--coordinator", &cluster.url]);
    let watched = lines(&stdout(&[
        "status",
        &job,
        "--watch",
        "--coordinator",
        &cluster.url,
        "-o",
        "json",
    ]));
    assert_eq!(watched.last().unwrap()["state"], "finished");
    let metrics = std::fs::read_to_string(
        bench
            .path("coordinator")
            .join("jobs")
            .join(&job)
            .join("metrics.jsonl"),
    );
    assert_one_history(&lines(&metrics.unwrap()), 1500);
}

#[test]
fn a_job_that_needs_more_slots_waits_and_says_so() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[("node-a", "1")]);
    let job = cluster.submit(&bench, &["--set", "workers.min=2"]);
    let waiting = eventually("a reason", || {
        let status = status(&cluster.url);
        let reason = status["state_reason"].as_str().unwrap().to_owned();
        (status["state"] == "pending" && reason.contains("offers 1")).then_some(reason)
    });
    assert!(waiting.contains("needs 2 cpu slots"), "{waiting}");
    // A second node, and it starts.
    let agent = Cluster::agent(&bench, &cluster.url, "node-b", "1");
    cluster.agents.push(agent);
    let end = cluster.ended();
    assert_eq!(
        (&end["state"], end["job_id"].as_str()),
        (&"finished".into(), Some(job.as_str()))
    );
}

#[test]
fn a_node_that_dies_with_its_worker_is_done_without() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[("node-a", "1"), ("node-b", "1")]);
    cluster.submit(
        &bench,
        &["--set", "train.steps=1500", "--set", "workers.max=2"],
    );
    let before = training(&cluster.url, 2, 20);
    let there = status(&cluster.url);
    let dead = there["workers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["node"] == "node-b")
        .unwrap()["pid"]
        .as_u64()
        .unwrap() as u32;
    let agent = cluster.agents.pop().unwrap();
    agent.signal(Signal::SIGKILL);
    // The worker's shim first, so that nobody tells how it ended.
    send(parent(dead), Signal::SIGKILL);
    let left = training(&cluster.url, 1, 21);
    let survivor = before.iter().find(|pid| **pid != dead).unwrap();
    assert_eq!(&left, &[*survivor], "the other node's worker trains on");
    eventually("the end of the dead node's worker", || {
        let gone = !Path::new(&format!("/proc/{dead}")).exists();
        gone.then_some(())
    });
    assert_eq!(cluster.ended()["state"], "finished");
}

/// What `tests/client/status.py` sees of a job.
fn python_client(url: &str, job: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = Command::new(root.join("scripts/test-packages"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&packages.stderr).into_owned();
    assert!(packages.status.success(), "{said}");
    let packages = String::from_utf8(packages.stdout).unwrap();
    let answer = Command::new("python3")
        .env("PYTHONPATH", packages.lines().last().unwrap())
        .arg(root.join("tests/client/status.py"))
        .args([url.strip_prefix("http://").unwrap(), job])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(answer.status.success(), "{said}");
    serde_json::from_slice(&answer.stdout).unwrap()
}
