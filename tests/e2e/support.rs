use std::{
    cell::RefCell,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything takes here; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

thread_local! {
    /// The network namespace that this thread's commands run in.
    static NAMESPACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

thread_local! {
    /// Whose credentials this thread's commands carry.
    static CREDENTIALS: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

thread_local! {
    /// What agents that this thread starts run as workers, if not the real ones.
    static WORKER: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// Has the agents that this thread starts run another program as workers.
pub fn running_workers_by(program: Option<PathBuf>) {
    WORKER.set(program);
}

/// Has the commands that this thread starts carry the credentials in a directory.
pub fn calling_as(credentials: Option<PathBuf>) {
    CREDENTIALS.set(credentials);
}

/// Has the commands that this thread starts run in a network namespace.
pub fn within(namespace: Option<String>) {
    NAMESPACE.set(namespace);
}

pub fn muster() -> Command {
    let binary = env!("CARGO_BIN_EXE_muster");
    let mut command = match NAMESPACE.with_borrow(Clone::clone) {
        None => Command::new(binary),
        // It becomes what it starts, under the same process id.
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &namespace, binary]);
            command
        }
    };
    command.stdin(Stdio::null());
    for name in [
        "MUSTER_COORDINATOR",
        "MUSTER_TLS",
        "MUSTER_TOKENS",
        "MUSTER_WORKER",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    if let Some(program) = WORKER.with_borrow(Clone::clone) {
        command.env("MUSTER_WORKER", program);
    }
    match CREDENTIALS.with_borrow(Clone::clone) {
        None => command.env_remove("MUSTER_CREDENTIALS"),
        Some(directory) => command.env("MUSTER_CREDENTIALS", directory),
    };
    command
}

/// Runs a command to its end.
pub fn output(arguments: &[&str]) -> Output {
    muster().args(arguments).output().unwrap()
}

/// What a command prints; it has to succeed.
pub fn stdout(arguments: &[&str]) -> String {
    let output = output(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with the spec of a small model in it, and a dataset that all tests share.
pub struct Bench {
    directory: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("small.toml"), SPEC).unwrap();
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn spec(&self) -> String {
        self.text("small.toml")
    }

    /// `muster run` of the small spec into `out`, with `more` arguments.
    pub fn run(&self, out: &str, more: &[&str]) -> Process {
        let (spec, out) = (self.spec(), self.text(out));
        let data = format!("data.path={}", dataset().display());
        let mut arguments = vec!["run", &spec, "--out", &out, "--set", &data];
        arguments.extend(more);
        Process::start(&arguments, self.path("output"))
    }

    /// `muster run` to its end; it has to succeed. Returns what it printed.
    pub fn run_through(&self, out: &str, more: &[&str]) -> String {
        let mut process = self.run(out, more);
        let code = process.wait();
        let printed = process.printed();
        assert_eq!(code, Some(0), "{printed}");
        printed
    }

    pub fn metrics(&self, out: &str) -> Vec<Value> {
        let path = self.path(out).join("metrics.jsonl");
        lines(&fs::read_to_string(path).unwrap())
    }

    pub fn hash(&self, out: &str) -> String {
        stdout(&["checkpoint", "hash", &self.text(out)])
    }
}

/// 8,192 parameters a layer and a context of 16: a step takes milliseconds, and all that can die is there.
const SPEC: &str = r#"
name = "small"
[model]
layers = 2
heads = 2
hidden_size = 32
context_length = 16
[train]
steps = 40
global_batch = 12
micro_batch = 2
[optimizer]
learning_rate = 3e-3
[evaluation]
every_steps = 20
sequences = 8
[workers]
min = 1
max = 6
threads = 1
device = "cpu"
[checkpoint]
every_steps = 10
keep_last = 3
"#;

/// A dataset of bytes, made once a process.
pub fn dataset() -> &'static Path {
    static DATASET: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = DATASET.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("text");
        fs::create_dir(&text).unwrap();
        for file in 0..8 {
            let words = (0..3000u64).map(|n| {
                format!(
                    "line {n} says {}\n\n",
                    n.wrapping_mul(0x9E37_79B9) % (97 + file)
                )
            });
            fs::write(text.join(format!("{file}.txt")), words.collect::<String>()).unwrap();
        }
        let out = directory.path().join("dataset");
        let (text, name) = (text.display().to_string(), out.display().to_string());
        stdout(&[
            "data",
            "prepare",
            "--tokenizer",
            "bytes",
            "--documents",
            "paragraphs:200",
            "--validation-fraction",
            "0.1",
            "--out",
            &name,
            &text,
        ]);
        (directory, out)
    });
    path
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A running `muster`, killed when the test is done with it.
pub struct Process {
    child: Child,
    output: PathBuf,
    /// What ends it when it is dropped.
    end: Signal,
}

impl Process {
    pub fn start(arguments: &[&str], output: PathBuf) -> Self {
        let file = File::create(&output).unwrap();
        let child = muster()
            .args(arguments)
            .stderr(file.try_clone().unwrap())
            .stdout(file)
            .spawn()
            .unwrap();
        let end = Signal::SIGKILL;
        Self { child, output, end }
    }

    /// For those that have processes of their own to end.
    pub fn ended_by_sigterm(mut self) -> Self {
        self.end = Signal::SIGTERM;
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits for the end; the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end: {}", self.printed());
    }

    /// Waits for a line that begins with `prefix`; what follows it.
    pub fn line(&mut self, prefix: &str) -> String {
        eventually(&format!("a line {prefix:?}"), || {
            let printed = self.printed();
            let found = printed.lines().find_map(|line| line.strip_prefix(prefix));
            assert!(
                found.is_some() || self.is_running(),
                "it ended without a line {prefix:?}: {printed}"
            );
            found.map(|rest| rest.trim().to_owned())
        })
    }

    /// Where the coordinator of `muster run` is.
    pub fn url(&mut self) -> String {
        self.line("watch muster status --coordinator ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Until it is waited for, nobody else gets its id.
        if let Ok(None) = self.child.try_wait() {
            self.signal(self.end);
        }
        let _ = self.child.wait();
    }
}

pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// A worker's parent is its shim; `None` if the worker has ended.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Waits until `found` gives something.
pub fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Some(value) = found() {
            return value;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("waited {PATIENCE:?} for {what}");
}

/// The newest job's status.
pub fn status(url: &str) -> Value {
    serde_json::from_str(&stdout(&["status", "--coordinator", url, "-o", "json"])).unwrap()
}

/// A job's status.
pub fn status_of(url: &str, job: &str) -> Value {
    let status = stdout(&["status", job, "--coordinator", url, "-o", "json"]);
    serde_json::from_str(&status).unwrap()
}

/// A job's events.
pub fn events_of(url: &str, job: &str) -> Vec<Value> {
    let events = stdout(&["events", job, "--coordinator", url, "-o", "json"]);
    lines(&events)
}

/// The newest job's events.
pub fn events(url: &str) -> Vec<Value> {
    lines(&stdout(&["events", "--coordinator", url, "-o", "json"]))
}

/// The pids of a status's members, by rank.
pub fn members(status: &Value) -> Vec<u32> {
    let mut ranks: Vec<_> = status["workers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|worker| Some((worker["rank"].as_u64()?, worker["pid"].as_u64()? as u32)))
        .collect();
    ranks.sort_unstable();
    ranks.into_iter().map(|(_, pid)| pid).collect()
}

/// Waits until `count` members train and `step` is committed; their pids by rank.
pub fn training(url: &str, count: usize, step: u64) -> Vec<u32> {
    eventually(&format!("{count} members at step {step}"), || {
        let status = status(url);
        let pids = members(&status);
        let there = status["state"] == "training"
            && pids.len() == count
            && status["step"].as_u64().unwrap() >= step;
        there.then_some(pids)
    })
}

/// Every step from 1 to `last`, each once and in order.
pub fn assert_one_history(metrics: &[Value], last: u64) {
    let steps: Vec<_> = metrics
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=last).collect::<Vec<_>>());
}
