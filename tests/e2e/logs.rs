use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    support::{Bench, Process, eventually, lines, output, send, stdout, training},
};

fn refused(arguments: &[&str], words: &str) {
    let output = output(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(words), "{said}");
}

/// Which workers a log printed so far is of.
fn writers(printed: &str) -> BTreeSet<String> {
    // The last line may be half there.
    let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let writer = |line: &Value| line["worker_id"].as_str().unwrap().to_owned();
    lines(whole).iter().map(writer).collect()
}

#[test]
fn a_rank_is_followed_over_deaths_until_the_job_is_over() {
    let bench = Bench::new();
    let cluster = Cluster::start(&bench, &[("node-a", "2")]);
    let url = cluster.url.as_str();
    let job = cluster.submit(
        &bench,
        &["--set", "train.steps=3000", "--set", "workers.max=2"],
    );
    let pids = training(url, 2, 10);
    let arguments = |more: &[&'static str]| -> Vec<String> {
        let all = [&["logs", &job, "--coordinator", url], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let start = |more: &[&'static str], name: &str| {
        let arguments = arguments(more);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Process::start(&arguments, bench.path(name))
    };
    let mut rank = start(&["-f", "--rank", "1", "-o", "json"], "rank.log");
    let mut all = start(&["-f", "--tail", "1"], "all.log");
    let first = eventually("lines of rank 1", || {
        let writers = writers(&rank.printed());
        (writers.len() == 1).then_some(writers)
    });
    eventually("lines of both", || {
        (all.printed().matches("==> ").count() >= 2).then_some(())
    });

    send(pids[1], Signal::SIGKILL);
    let both = eventually("lines of the next rank 1", || {
        let writers = writers(&rank.printed());
        (writers.len() == 2).then_some(writers)
    });
    assert!(both.is_superset(&first));
    assert_eq!(rank.wait(), Some(0), "{}", rank.printed());
    assert_eq!(all.wait(), Some(0), "{}", all.printed());
    let (rank, all) = (rank.printed(), all.printed());
    assert!(rank.contains("leaving"), "its last lines too: {rank}");
    for writer in &both {
        assert!(
            all.contains(&format!("==> {writer} on node-a <==")),
            "{all}"
        );
    }

    // What is over is shown as it is.
    let print = |more: &[&'static str]| {
        let arguments = arguments(more);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        stdout(&arguments)
    };
    assert_eq!(writers(&print(&["--rank", "1", "-o", "json"])), both);
    assert_eq!(writers(&print(&["-f", "--rank", "1", "-o", "json"])), both);
    assert_eq!(lines(&print(&["--tail", "2", "-o", "json"])).len(), 6);
    assert_eq!(print(&["--tail", "0"]), "");
    assert_eq!(print(&["--node", "node-a"]), print(&[]));
    let wrong = |more: &[&'static str], words: &str| {
        let arguments = arguments(more);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        refused(&arguments, words);
    };
    wrong(&["--rank", "7"], "never had a worker of rank 7");
    wrong(&["--node", "node-z"], "never had a worker on node node-z");
    wrong(&["-f", "--worker", "w-9"], "never had a worker named w-9");
}
