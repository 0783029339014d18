use std::{collections::BTreeSet, path::Path, process::Command, thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Bench, Process, assert_one_history, dataset, events, events_of, eventually, lines, output,
    parent, send, status, status_of, stdout, training,
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
        self.start_coordinator_again(bench, &[]);
    }

    /// On the same journal and port.
    pub fn start_coordinator_again(&mut self, bench: &Bench, more: &[&str]) {
        let url = self.url.clone();
        let (_, listen) = url.split_once("://").unwrap();
        (self.coordinator, _) = Self::coordinator(bench, listen, more);
    }

    /// An agent that has taken its place. Its workers end with it, at once, when it is dropped.
    pub fn agent(bench: &Bench, url: &str, name: &str, slots: &str) -> Process {
        Self::agent_with(bench, url, name, slots, &["--grace", "0"])
    }

    pub fn agent_with(bench: &Bench, url: &str, name: &str, slots: &str, more: &[&str]) -> Process {
        let data = bench.text(name);
        let own = [
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
        ];
        let arguments = [&own[..], more].concat();
        let log = bench.path(&format!("{name}.log"));
        let mut agent = Process::start(&arguments, log).ended_by_sigterm();
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
    send(parent(dead).unwrap(), Signal::SIGKILL);
    let left = training(&cluster.url, 1, 21);
    let survivor = before.iter().find(|pid| **pid != dead).unwrap();
    assert_eq!(&left, &[*survivor], "the other node's worker trains on");
    eventually("the end of the dead node's worker", || {
        let gone = !Path::new(&format!("/proc/{dead}")).exists();
        gone.then_some(())
    });
    assert_eq!(cluster.ended()["state"], "finished");
}

#[test]
fn the_job_of_higher_priority_preempts_and_the_lower_one_goes_on_by_itself() {
    let bench = Bench::new();
    let cluster = Cluster::start(&bench, &[("node-a", "2")]);
    // Nobody loses a slot until nodes have had time to come back to a coordinator that was started.
    thread::sleep(Duration::from_secs(10));
    let wants = |steps: &'static str, min, max, priority| -> Vec<&'static str> {
        let all = [
            "--set", steps, "--set", min, "--set", max, "--set", priority,
        ];
        all.to_vec()
    };
    let low = cluster.submit(
        &bench,
        &wants(
            "train.steps=4000",
            "workers.min=1",
            "workers.max=2",
            "queue.priority=-1",
        ),
    );
    training(&cluster.url, 2, 20);
    // What is lent is given back first: the other has one slot, and nobody's step fails for it.
    let small = cluster.submit(
        &bench,
        &wants(
            "train.steps=200",
            "workers.min=1",
            "workers.max=1",
            "queue.priority=0",
        ),
    );
    let kinds = |job: &str| -> Vec<String> {
        let events = events_of(&cluster.url, job);
        let kinds = events.iter().map(|it| it["kind"].as_str().unwrap());
        kinds.map(str::to_owned).collect()
    };
    let ended = |job: &str| {
        eventually("a job's end", || {
            let status = status_of(&cluster.url, job);
            (status["state"] == "finished").then_some(status)
        })
    };
    ended(&small);
    assert!(!kinds(&low).contains(&"preempted".to_owned()));
    eventually("the slot that is lent again", || {
        (status_of(&cluster.url, &low)["world_size"] == 2).then_some(())
    });

    let high = cluster.submit(
        &bench,
        &wants(
            "train.steps=200",
            "workers.min=2",
            "workers.max=2",
            "queue.priority=5",
        ),
    );
    let waiting = eventually("the low one's turn to wait", || {
        let status = status_of(&cluster.url, &low);
        let reason = status["state_reason"].as_str().unwrap();
        (status["state"] == "pending" && reason.contains("held by")).then_some(status.clone())
    });
    let by = format!("job {high} of priority 5");
    let reason = waiting["state_reason"].as_str().unwrap();
    assert!(
        reason.contains(&format!("2 are held by {by}"))
            || reason.contains(&format!("1 is held by {by}")),
        "{reason}"
    );
    let jobs = stdout(&["jobs", "--coordinator", &cluster.url]);
    assert!(jobs.contains(&by), "{jobs}");
    assert_eq!(
        waiting["last_checkpoint"]["step"], waiting["step"],
        "it saved before it left"
    );
    ended(&high);
    let end = ended(&low);
    assert_eq!(end["recoveries"], 0, "nothing was lost: {end}");

    let events = events_of(&cluster.url, &low);
    let reason = |kind: &str| {
        let event = events.iter().find(|it| it["kind"] == kind);
        event.unwrap_or_else(|| panic!("no {kind}: {events:#?}"))["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        reason("preempted"),
        format!("gives way to {by}, which needs 2 cpu slots")
    );
    assert!(reason("requeued").contains("the newest checkpoint is of step"));
    assert_eq!(
        reason("shrink"),
        format!("gives back 1 of 2 slots: job {small} of priority 0 waits for 1 cpu slot")
    );
    assert!(reason("grow").contains("no job that waits could use the slots"));
    assert!(!events.iter().any(|it| it["kind"] == "expelled"));
    for exit in events.iter().filter(|it| it["kind"] == "worker_exit") {
        assert_eq!(exit["code"], 0, "all left in good order: {exit}");
    }
    let metrics = bench.path("coordinator").join("jobs").join(&low);
    let metrics = std::fs::read_to_string(metrics.join("metrics.jsonl")).unwrap();
    assert_one_history(&lines(&metrics), 4000);
}

#[test]
fn nothing_new_runs_on_a_cordoned_node() {
    let bench = Bench::new();
    let cluster = Cluster::start(&bench, &[("node-a", "1"), ("node-b", "1")]);
    let url = cluster.url.as_str();
    let reason = "its fan is loud";
    stdout(&["cordon", "node-a", "--reason", reason, "--coordinator", url]);
    let nodes = stdout(&["nodes", "--coordinator", url]);
    assert!(nodes.contains("yes: its fan is loud"), "{nodes}");
    let unknown = output(&["cordon", "node-z", "--coordinator", url]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        said.contains("no node named node-z was ever here"),
        "{said}"
    );

    cluster.submit(&bench, &["--set", "workers.max=2"]);
    let end = cluster.ended();
    assert_eq!(end["state"], "finished");
    let placed = events(url);
    let placed = placed.iter().filter(|it| it["kind"] == "placement");
    for placement in placed {
        assert_eq!(placement["node"], "node-b", "{placement}");
    }
    stdout(&["uncordon", "node-a", "--coordinator", url]);
    let nodes = stdout(&["nodes", "--coordinator", url, "-o", "json"]);
    let nodes: Vec<Value> = serde_json::from_str(&nodes).unwrap();
    assert!(nodes.iter().all(|node| node["cordoned"] == false));
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
