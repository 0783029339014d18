//! A machine on which nothing works gets no more to do.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::Value;

use crate::{
    cluster::Cluster,
    support::{Bench, assert_one_history, events, eventually, lines, running_workers_by, stdout},
};

const STEPS: u64 = 400;

#[test]
fn a_node_on_which_every_worker_dies_is_cordoned_and_the_job_finishes_on_the_other() {
    let bench = Bench::new();
    let broken = bench.path("broken-worker");
    fs::write(
        &broken,
        "#!/bin/sh\necho 'no such device: gpu0' >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let mut cluster = Cluster::start(&bench, &[("node-a", "1")]);
    running_workers_by(Some(broken));
    let agent = Cluster::agent(&bench, &cluster.url, "node-b", "1");
    running_workers_by(None);
    cluster.agents.push(agent);

    let long = format!("train.steps={STEPS}");
    let job = cluster.submit(&bench, &["--set", &long, "--set", "workers.max=2"]);
    let url = &cluster.url;
    let nodes = || -> Vec<Value> {
        serde_json::from_str(&stdout(&["nodes", "--coordinator", url, "-o", "json"])).unwrap()
    };
    let cordon = eventually("the cordon", || {
        let of_b = nodes().into_iter().find(|it| it["name"] == "node-b")?;
        let is_cordoned = of_b["cordoned"] == true;
        is_cordoned.then(|| of_b["cordon_reason"].as_str().unwrap().to_owned())
    });
    assert!(
        cordon.starts_with("3 workers failed there by themselves")
            && cordon.contains("no such device: gpu0"),
        "{cordon}"
    );
    let status = cluster.ended();
    assert_eq!(status["state"], "finished", "{status}");
    let happened = events(url);
    let on_b = |it: &&Value| it["kind"] == "placement" && it["node"] == "node-b";
    assert_eq!(happened.iter().filter(on_b).count(), 3, "{happened:?}");
    assert_eq!(
        nodes().iter().filter(|it| it["cordoned"] == true).count(),
        1
    );
    let metrics = bench
        .path("coordinator")
        .join("jobs")
        .join(&job)
        .join("metrics.jsonl");
    assert_one_history(&lines(&fs::read_to_string(metrics).unwrap()), STEPS);

    stdout(&["uncordon", "node-b", "--coordinator", url]);
    assert!(nodes().iter().all(|it| it["cordoned"] == false));
}
