use serde_json::Value;

use crate::{
    cluster::Cluster,
    support::{Bench, muster},
};

/// `muster doctor`: its exit code, and its findings by what was looked at.
fn examined(
    arguments: &[&str],
    worker: Option<&str>,
) -> (Option<i32>, impl Fn(&str) -> Value + use<>) {
    let mut command = muster();
    command.args(["doctor", "-o", "json", "--listen", "127.0.0.1:0"]);
    command.args(arguments);
    if let Some(worker) = worker {
        command.env("MUSTER_WORKER", worker);
    }
    let output = command.output().unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let find = move |check: &str| {
        let found = findings.iter().find(|it| it["check"] == check);
        found
            .unwrap_or_else(|| panic!("no {check}: {findings:#?}"))
            .clone()
    };
    (output.status.code(), find)
}

#[test]
fn a_machine_that_trains_is_well_and_what_is_wrong_is_named() {
    let bench = Bench::new();
    let data = bench.text("not/there/yet");
    let cluster = Cluster::start(&bench, &[]);
    let url = cluster.url.as_str();
    let (code, find) = examined(&["--data-dir", &data, "--coordinator", url], None);
    for check in ["worker", "nccl", "coordinator", "clock", "port"] {
        assert_eq!(find(check)["verdict"], "ok", "{}", find(check));
    }
    assert!(!bench.path("not").exists(), "it only looks");
    assert_ne!(find("data directory")["verdict"], "fail");
    assert_eq!(code, Some(0));
    let libtorch = find("worker")["found"].as_str().unwrap().to_owned();
    assert!(libtorch.contains("starts, with libtorch 2."), "{libtorch}");

    let away = ["--data-dir", "/proc", "--coordinator", "127.0.0.1:1"];
    let (code, find) = examined(&away, Some("/bin/false"));
    assert_eq!(code, Some(1));
    for check in ["worker", "coordinator", "data directory"] {
        assert_eq!(find(check)["verdict"], "fail", "{}", find(check));
        assert_ne!(find(check)["fix"], "", "{}", find(check));
    }
    let (_, find) = examined(&[], Some("/nowhere/muster-worker"));
    let words = find("worker")["found"].as_str().unwrap().to_owned();
    assert!(words.contains("/nowhere/muster-worker"), "{words}");
}
