use std::path::Path;

use serde_json::Value;

use crate::{
    cluster::Cluster,
    support::{Bench, events_of, eventually, output, status_of, stdout, training},
};

#[test]
fn cancel_kills_the_workers_at_once_and_resume_goes_on_from_the_newest_checkpoint() {
    let bench = Bench::new();
    let cluster = Cluster::start(&bench, &[("node-a", "2")]);
    let url = cluster.url.as_str();
    // Saves far apart, so that a worker that saved before it left would show.
    let job = cluster.submit(
        &bench,
        &[
            "--set",
            "train.steps=3000",
            "--set",
            "workers.max=2",
            "--set",
            "checkpoint.every_steps=500",
        ],
    );
    let pids = training(url, 2, 510);
    let saved = eventually("a checkpoint", || {
        status_of(url, &job)["last_checkpoint"]["step"].as_u64()
    });
    let reason = "the learning rate is wrong";
    let arguments = [
        "cancel",
        &job[..13],
        "--reason",
        reason,
        "--coordinator",
        url,
        "-o",
        "json",
    ];
    let status: Value = serde_json::from_str(&stdout(&arguments)).unwrap();
    assert_eq!(status["job_id"], job.as_str());
    assert_eq!(status["state"], "stopped");
    let words = status["state_reason"].as_str().unwrap();
    assert!(
        words.starts_with(&format!("cancelled on request: {reason}; ")),
        "{words}"
    );
    eventually("the workers' end", || {
        let gone = |pid: &u32| !Path::new(&format!("/proc/{pid}")).exists();
        pids.iter().all(gone).then_some(())
    });
    let kept = status["last_checkpoint"]["step"].as_u64().unwrap();
    assert!(kept >= saved && kept.is_multiple_of(500), "{status}");

    let events = events_of(url, &job);
    let asked = events.iter().find(|it| it["kind"] == "cancel_requested");
    assert_eq!(
        asked.unwrap()["reason"],
        format!("cancelled on request: {reason}")
    );
    // Nobody's job is cancelled by leaving its name out.
    assert_eq!(
        output(&["cancel", "--coordinator", url]).status.code(),
        Some(2)
    );
    // Once more changes nothing, and a job that has finished is not cancelled.
    stdout(&["cancel", &job, "--coordinator", url]);
    assert_eq!(
        events_of(url, &job)
            .iter()
            .filter(|it| it["kind"] == "cancel_requested")
            .count(),
        1
    );

    stdout(&["resume", &job, "--coordinator", url]);
    stdout(&["wait", &job, "--coordinator", url]);
    let end = status_of(url, &job);
    assert_eq!(
        (&end["state"], &end["step"]),
        (&"finished".into(), &3000.into())
    );
    let resumed = events_of(url, &job)
        .into_iter()
        .rfind(|it| it["kind"] == "generation_formed")
        .unwrap();
    assert_eq!(resumed["step"], kept, "{resumed}");
    let late = output(&["cancel", &job, "--coordinator", url]);
    assert_eq!(late.status.code(), Some(1));
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(said.contains("is finished already"), "{said}");
}

#[test]
fn cancel_takes_a_waiting_job_out_of_the_queue() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[]);
    let url = cluster.url.clone();
    let job = cluster.submit(&bench, &[]);
    let said = stdout(&["cancel", &job, "--coordinator", &url]);
    assert!(said.contains(&format!("job {job} is cancelled")), "{said}");
    let status = status_of(&url, &job);
    assert_eq!(
        (&status["state"], status["state_reason"].as_str()),
        (
            &"stopped".into(),
            Some("cancelled on request; there is no checkpoint")
        )
    );
    let other = cluster.submit(&bench, &[]);
    let agent = Cluster::agent(&bench, &url, "node-a", "1");
    cluster.agents.push(agent);
    stdout(&["wait", &other, "--coordinator", &url]);
    assert!(
        !events_of(&url, &job)
            .iter()
            .any(|it| it["kind"] == "placement")
    );
}
