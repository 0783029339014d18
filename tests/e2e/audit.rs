//! What was really fed, compared with the data order: clean whatever died on the way, and not where something else was fed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use muster_data::{Dataset, Split};
use muster_plan::SampleOrder;
use muster_types::{Position, Seed};
use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    support::{Bench, dataset, eventually, members, output, send, status_of, stdout, training},
};

/// As in the small spec.
const CONTEXT: u32 = 16;
const BATCH: u64 = 12;

/// Audits, and finds that all is accounted for; the report.
pub fn assert_audit_is_clean(arguments: &[&str]) -> Value {
    let (report, accounted_for) = audit(arguments);
    assert_eq!(report["verdict"], "clean", "{report}");
    assert!(accounted_for, "{report}");
    for quantity in ["samples", "tokens"] {
        let quantity = &report[quantity];
        assert_eq!(quantity["fed"], quantity["expected"], "{report}");
    }
    report
}

/// An audit's outcome, and whether its exit code said that all is accounted for.
fn audit(arguments: &[&str]) -> (Value, bool) {
    let all = [&["audit", "-o", "json"], arguments].concat();
    let output = output(&all);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{all:?}: {said}");
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{all:?}: {error}: {said}"));
    (report, code == Some(0))
}

#[test]
fn a_job_that_lost_workers_was_resized_stopped_and_resumed_is_clean() {
    let bench = Bench::new();
    let mut cluster = Cluster::start(&bench, &[("node-a", "2")]);
    let more = ["train.steps=100000", "workers.max=3"];
    let job = cluster.submit(&bench, &["--set", more[0], "--set", more[1]]);
    let url = cluster.url.clone();
    let mut step = 20;
    for victim in [1, 0] {
        let pids = training(&url, 2, step);
        send(pids[victim], Signal::SIGKILL);
        eventually("the replacement", || {
            let now = members(&status_of(&url, &job));
            (now.len() == 2 && !now.contains(&pids[victim])).then_some(())
        });
        step = status_of(&url, &job)["step"].as_u64().unwrap() + 10;
    }
    // One that goes on is audited up to its newest watermark.
    let running = assert_audit_is_clean(&[&job, "--coordinator", &url]);
    let steps = &running["steps"];
    let sum =
        |keys: [&str; 2]| -> u64 { keys.map(|key| steps[key].as_u64().unwrap()).iter().sum() };
    assert_eq!(steps["committed"], sum(["audited", "pending"]), "{steps}");

    let agent = Cluster::agent(&bench, &url, "node-b", "1");
    cluster.agents.push(agent);
    training(&url, 3, step);
    stdout(&["stop", &job, "--coordinator", &url]);
    assert_eq!(cluster.ended()["state"], "stopped");
    stdout(&["resume", &job, "--coordinator", &url]);
    let step = status_of(&url, &job)["step"].as_u64().unwrap();
    training(&url, 3, step + 10);
    stdout(&["stop", &job, "--coordinator", &url]);
    let step = cluster.ended()["step"].as_u64().unwrap();

    let report = assert_audit_is_clean(&[&job[..8], "--coordinator", &url]);
    assert_eq!(report["steps"]["audited"], step, "{report}");
    assert_eq!(report["samples"]["fed"], step * BATCH, "{report}");
    assert!(report["generations"].as_u64().unwrap() >= 5, "{report}");
    let table = stdout(&["audit", "--coordinator", &url]);
    assert!(
        table.contains("clean: every audited step was fed what the data order says"),
        "{table}"
    );
}

/// A dataset of its own for a test that changes it.
fn copy_of_dataset(to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(dataset()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Changes a token of the sample at a position, and the digest of its block, so that the dataset opens and reads.
fn alter_token(directory: &Path, position: u64) {
    let dataset = Dataset::open(directory).unwrap();
    let samples = dataset.shard_samples(Split::Train, CONTEXT);
    let sample = SampleOrder::new(Seed(1), &samples)
        .unwrap()
        .sample(Position(position));
    let mut index = dataset.index().clone();
    let shard = &mut index.splits.train.shards[sample.shard as usize];
    let width = dataset.index().dtype.bytes();
    // Not the first or the last one: those are in the sample beside it too.
    let at = ((sample.index * u64::from(CONTEXT) + 5) * width) as usize;
    let path = directory.join(&shard.file);
    drop(dataset);
    let mut tokens = fs::read(&path).unwrap();
    tokens[at] ^= 1;
    let block = at / muster_data::BLOCK_BYTES as usize;
    let bytes = tokens
        .chunks(muster_data::BLOCK_BYTES as usize)
        .nth(block)
        .unwrap();
    shard.block_digests[block] = muster_types::Digest::new(*blake3::hash(bytes).as_bytes());
    fs::write(path, tokens).unwrap();
    let text = serde_json::to_vec_pretty(&index).unwrap();
    fs::write(directory.join(muster_data::INDEX_FILE), text).unwrap();
}

/// Rewrites records of a run's journal.
fn rewrite(run: &Path, kind: &str, from: &str, to: &str) {
    let journal = Connection::open(run.join("coordinator/journal.sqlite")).unwrap();
    let changed = journal
        .execute(
            "UPDATE records SET body = replace(body, ?1, ?2) WHERE kind = ?3 AND body LIKE '%' || ?1 || '%'",
            [from, to, kind],
        )
        .unwrap();
    assert!(changed > 0, "no {kind} says {from}");
}

fn digest(directory: &Path) -> String {
    Dataset::open(directory).unwrap().digest().to_string()
}

#[test]
fn an_altered_token_that_workers_really_trained_on_is_named_by_its_step() {
    let bench = Bench::new();
    let altered = bench.path("altered");
    copy_of_dataset(&altered);
    // The fifth sample of step 18.
    alter_token(&altered, 17 * BATCH + 4);
    let data = format!("data.path={}", altered.display());
    bench.run_through("out", &["--workers", "2", "--set", &data]);
    let run = bench.text("out");
    let clean = assert_audit_is_clean(&["--run", &run]);
    assert_eq!(clean["steps"]["audited"], 40, "it is what it was given");

    // The dataset that the job was meant to see is another one: it says so, and does not compare.
    let original = dataset().display().to_string();
    let refused = output(&["audit", "--run", &run, "--data", &original]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("is not the one"), "{said}");

    // Had its workers read other tokens than those of the dataset on record, this is what there would be.
    for kind in ["job_submitted", "segment_opened"] {
        rewrite(
            &bench.path("out"),
            kind,
            &digest(&altered),
            &digest(dataset()),
        );
    }
    let (report, accounted_for) = audit(&["--run", &run, "--data", &original]);
    assert!(!accounted_for);
    assert_eq!(report["verdict"], "differs", "{report}");
    assert_eq!(report["windows"]["differing"], 1, "{report}");
    let difference = &report["difference"];
    let within =
        difference["from_step"].as_u64().unwrap()..=difference["to_step"].as_u64().unwrap();
    assert!(within.contains(&18), "{report}");
    assert_eq!(difference["first_step"]["step"], 18, "{report}");
    assert_eq!(
        difference["first_step"]["from_position"],
        17 * BATCH,
        "{report}"
    );
    let table = output(&["audit", "--run", &run, "--data", &original]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.contains("first step that differs: step 18 of generation 1, positions 204 to 215"),
        "{table}"
    );
}

#[test]
fn a_history_that_was_tampered_with_is_not_believed() {
    let bench = Bench::new();
    bench.run_through("out", &["--workers", "1"]);
    let run = bench.text("out");
    assert_audit_is_clean(&["--run", &run]);

    // One watermark, by one sample.
    let journal = bench.path("out/coordinator/journal.sqlite");
    let kept = bench.path("kept.sqlite");
    stdout(&[
        "journal",
        "backup",
        &journal.display().to_string(),
        &kept.display().to_string(),
    ]);
    rewrite(
        &bench.path("out"),
        "watermark",
        "\"samples\":240",
        "\"samples\":241",
    );
    let (report, accounted_for) = audit(&["--run", &run]);
    assert!(!accounted_for);
    let difference = &report["difference"];
    assert_eq!(difference["to_step"], 20, "{report}");
    assert_eq!(
        difference["fed"]["samples"].as_u64().unwrap(),
        difference["expected"]["samples"].as_u64().unwrap() + 1
    );
    assert_eq!(difference["first_step"], Value::Null, "its steps are right");

    // Workers that went through the data in another order.
    restore(&journal, &kept);
    assert_audit_is_clean(&["--run", &run]);
    rewrite(
        &bench.path("out"),
        "job_submitted",
        "\"seed\":1,",
        "\"seed\":2,",
    );
    let (report, _) = audit(&["--run", &run]);
    let windows = &report["windows"];
    assert_eq!(windows["compared"], windows["differing"], "{report}");
    assert_eq!(report["difference"]["first_step"]["step"], 1, "{report}");

    // A generation from nowhere.
    restore(&journal, &kept);
    rewrite(
        &bench.path("out"),
        "generation_formed",
        "\"step\":0}",
        "\"step\":7}",
    );
    let (report, accounted_for) = audit(&["--run", &run]);
    assert!(!accounted_for);
    let flaw = report["flaws"][0].as_str().unwrap();
    assert!(flaw.contains("does not lie on the one line"), "{report}");
}

fn restore(journal: &Path, kept: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut name = journal.as_os_str().to_owned();
        name.push(suffix);
        // They are there only while someone has the journal open, or was killed.
        let _ = fs::remove_file(PathBuf::from(name));
    }
    fs::copy(kept, journal).unwrap();
}

#[test]
fn what_cannot_be_audited_is_refused_with_words() {
    let bench = Bench::new();
    let absent = bench.text("absent");
    let refused = |arguments: &[&str], code: i32, word: &str| {
        let output = output(&[&["audit"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    };
    refused(
        &["--run", &absent],
        2,
        "is not the directory of a `muster run`",
    );
    refused(&["0199", "--run", &absent], 2, "cannot be used with");
    let cluster = Cluster::start(&bench, &[]);
    refused(&["--coordinator", &cluster.url], 1, "no jobs yet");
    refused(
        &["0199", "--coordinator", &cluster.url],
        1,
        "there is no job 0199",
    );
    // One that never trained has nothing to account for.
    let job = cluster.submit(&bench, &[]);
    let waiting = assert_audit_is_clean(&[&job, "--coordinator", &cluster.url]);
    assert_eq!(waiting["steps"]["audited"], 0);
}
