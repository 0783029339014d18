use std::{
    fs::{self, OpenOptions},
    net::TcpListener,
    path::Path,
};

use rstest::rstest;

use crate::support::{Bench, dataset, output, stdout};

/// Runs a command that has to fail with `code` and say `words`.
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let output = output(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[rstest]
#[case::unknown_key("train.stepz=5", "unknown key `train.stepz`")]
#[case::wrong_type("train.steps=many", "train.steps")]
#[case::more_workers_than_slots("workers.max=7", "workers.max")]
#[case::no_dataset("data.path=/nowhere/at/all", "/nowhere/at/all")]
#[case::vocabulary_of_another_tokenizer("model.vocab_size=100", "model.vocab_size")]
#[case::more_than_this_machine("workers.min=4", "workers.min")]
fn a_run_with_a_bad_spec_leaves_nothing_behind(#[case] setting: &str, #[case] words: &str) {
    let bench = Bench::new();
    let data = format!("data.path={}", dataset().display());
    let (spec, out) = (bench.spec(), bench.text("out"));
    refused(
        &[
            "run",
            &spec,
            "--out",
            &out,
            "--workers",
            "2",
            "--set",
            &data,
            "--set",
            setting,
        ],
        2,
        &[words],
    );
    assert!(!bench.path("out").exists());
}

#[test]
fn a_bad_file_is_shown_with_the_line() {
    let bench = Bench::new();
    let path = bench.text("bad.toml");
    fs::write(&path, "[train]\nsteps = 10\nglobal_bach = 3\n").unwrap();
    refused(
        &["config", "show", &path],
        2,
        &[
            "unknown key `train.global_bach`",
            "did you mean `global_batch`?",
            "bad.toml:3",
        ],
    );
}

#[test]
fn more_workers_than_slots_of_the_batch_by_flag() {
    let bench = Bench::new();
    let data = format!("data.path={}", dataset().display());
    let (spec, out) = (bench.spec(), bench.text("out"));
    refused(
        &[
            "run",
            &spec,
            "--out",
            &out,
            "--workers",
            "7",
            "--set",
            &data,
        ],
        2,
        &["workers.max"],
    );
    assert!(!bench.path("out").exists());
}

#[test]
fn a_truncated_data_shard_is_refused() {
    let bench = Bench::new();
    let copy = bench.path("dataset");
    copy_directory(dataset(), &copy);
    let shard = fs::read_dir(&copy)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|it| it == "tokens"))
        .unwrap();
    let file = OpenOptions::new().write(true).open(&shard).unwrap();
    file.set_len(file.metadata().unwrap().len() - 10).unwrap();
    let data = format!("data.path={}", copy.display());
    let (spec, out) = (bench.spec(), bench.text("out"));
    let name = shard.file_name().unwrap().to_str().unwrap();
    refused(
        &[
            "run",
            &spec,
            "--out",
            &out,
            "--workers",
            "1",
            "--set",
            &data,
        ],
        2,
        &[name],
    );
    assert!(!bench.path("out").exists());
    refused(
        &["data", "inspect", &copy.display().to_string()],
        1,
        &[name],
    );
}

#[test]
fn a_coordinator_that_is_not_there() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}");
    let bench = Bench::new();
    let data = format!("data.path={}", dataset().display());
    for arguments in [
        &["status", "--coordinator", &url][..],
        &["jobs", "--coordinator", &url],
        &[
            "submit",
            &bench.spec(),
            "--set",
            &data,
            "--coordinator",
            &url,
        ],
    ] {
        refused(arguments, 1, &["cannot reach the coordinator", &url]);
    }
    refused(&["status", "--coordinator", "ftp://x"], 2, &["ftp://x"]);
}

#[test]
fn a_port_in_use_and_an_open_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let bench = Bench::new();
    let data = bench.text("coordinator");
    refused(
        &["coordinator", "--listen", &address, "--data-dir", &data],
        1,
        &["cannot listen on", &address],
    );
    let open = bench.text("open");
    refused(
        &["coordinator", "--listen", "0.0.0.0:0", "--data-dir", &open],
        2,
        &["--insecure"],
    );
    assert!(!Path::new(&open).exists());
}

#[test]
fn what_is_no_run_is_not_taken_for_one() {
    let bench = Bench::new();
    let data = format!("data.path={}", dataset().display());
    let spec = bench.spec();
    fs::create_dir(bench.path("mine")).unwrap();
    fs::write(bench.path("mine/notes.txt"), "keep me").unwrap();
    let mine = bench.text("mine");
    refused(
        &["run", &spec, "--out", &mine, "--set", &data],
        2,
        &["is not empty"],
    );
    assert_eq!(fs::read_dir(bench.path("mine")).unwrap().count(), 1);
    refused(&["checkpoint", "hash", &mine], 1, &[&mine]);
    refused(
        &["generate", "--checkpoint", &mine, "--prompt", "x"],
        1,
        &[&mine],
    );
    // A dataset is only replaced when asked to.
    let out = dataset().display().to_string();
    refused(
        &[
            "data",
            "prepare",
            "--tokenizer",
            "bytes",
            "--out",
            &out,
            &mine,
        ],
        2,
        &["--replace"],
    );
    stdout(&["data", "inspect", &out]);
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
