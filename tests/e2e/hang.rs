//! Processes and threads that stop without ending: who is to blame, and how soon.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use rstest::rstest;
use serde_json::Value;

use crate::support::{Bench, assert_one_history, events, eventually, send, status, training};

const STEPS: u64 = 300;

/// Those that were put out, and why.
fn blamed(url: &str) -> Vec<Value> {
    let mut events = events(url);
    events.retain(|event| event["kind"] == "expelled");
    events
}

fn worker_of(url: &str, pid: u32) -> String {
    let status = status(url);
    let workers = status["workers"].as_array().unwrap();
    let it = workers.iter().find(|it| it["pid"] == pid).unwrap();
    it["worker_id"].as_str().unwrap().to_owned()
}

#[rstest]
fn a_stopped_worker_is_named_and_what_it_does_when_it_wakes_changes_nothing(
    #[values(0, 2)] rank: usize,
) {
    let bench = Bench::new();
    let long = format!("train.steps={STEPS}");
    let mut run = bench.run("out", &["--workers", "3", "--set", &long]);
    let url = run.url();
    let before = training(&url, 3, 40);
    let victim = worker_of(&url, before[rank]);
    send(before[rank], Signal::SIGSTOP);
    let blamed = eventually("a culprit", || blamed(&url).into_iter().next());
    let reason = blamed["reason"].as_str().unwrap();
    assert!(
        reason.contains(&victim) && reason.contains("in a row unanswered"),
        "{reason}"
    );
    // It may have been killed by now.
    let _ = nix::sys::signal::kill(Pid::from_raw(before[rank] as i32), Signal::SIGCONT);
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("out"), STEPS);
    let restarted = run.printed().matches("was put out").count();
    assert!(restarted <= 1, "{}", run.printed());
}

/// Stops one thread of a process, by name, until the process ends.
fn stop_thread(pid: u32, name: &str) {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let thread = tasks
        .map(|task| task.unwrap().path())
        .find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == name)
        .unwrap_or_else(|| panic!("process {pid} has no thread {name:?}"));
    let id = thread.file_name().unwrap().to_str().unwrap();
    let id = Pid::from_raw(id.parse().unwrap());
    // Whoever traces a thread has to wait for it: its process is not gone before.
    thread::spawn(move || {
        ptrace::seize(id, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(id).unwrap();
        while waitpid(id, Some(WaitPidFlag::__WALL)).is_ok_and(|now| {
            use nix::sys::wait::WaitStatus::{Exited, Signaled};
            !matches!(now, Exited(..) | Signaled(..))
        }) {}
    });
}

#[test]
fn a_training_thread_that_hangs_is_found_although_its_process_answers() {
    let bench = Bench::new();
    let long = format!("train.steps={STEPS}");
    let mut run = bench.run("out", &["--workers", "2", "--set", &long]);
    let url = run.url();
    let before = training(&url, 2, 40);
    let victim = worker_of(&url, before[1]);
    stop_thread(before[1], "training");
    let blamed = eventually("a culprit", || blamed(&url).into_iter().next());
    let reason = blamed["reason"].as_str().unwrap();
    assert!(
        reason.contains(&victim) && reason.contains("without a sign of life"),
        "{reason}"
    );
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("out"), STEPS);
}

/// Lets a process have a tenth of its time, while this is alive.
struct Throttle {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Throttle {
    fn start(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                send(pid, Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(9));
                send(pid, Signal::SIGCONT);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_slow_rank_is_named_and_nobody_is_put_out() {
    let bench = Bench::new();
    let long = format!("train.steps={STEPS}");
    let mut run = bench.run("out", &["--workers", "2", "--set", &long]);
    let url = run.url();
    let before = training(&url, 2, 40);
    let victim = worker_of(&url, before[1]);
    let throttle = Throttle::start(before[1]);
    let named = eventually("a slow rank", || {
        let mut events = events(&url);
        events.retain(|event| event["kind"] == "slow_rank");
        events.pop()
    });
    drop(throttle);
    let reason = named["reason"].as_str().unwrap();
    assert!(reason.contains(&victim), "{reason}");
    assert_eq!(named["rank"], 1);
    let shown = status(&url);
    let workers = shown["workers"].as_array().unwrap();
    let own_work = |rank: u64| {
        let worker = workers.iter().find(|it| it["rank"] == rank).unwrap();
        worker["slot_ms"].as_f64().unwrap()
    };
    assert!(own_work(0) > 0.0 && own_work(1) > own_work(0), "{shown}");
    assert_eq!(run.wait(), Some(0), "{}", run.printed());
    assert_one_history(&bench.metrics("out"), STEPS);
    assert!(!run.printed().contains("was put out"), "{}", run.printed());
}
