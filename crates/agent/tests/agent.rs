//! The agent against a coordinator of the tests' own, with shell scripts as workers: real streams, real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fake::{FakeCoordinator, Peer};
use muster_agent::{Agent, AgentError, Handle, Options, SlotsOption};
use muster_proto::v1::{
    AgentHello, KillWorker, ReadLog, StartWorker, WorkerExited, WorkerStarted, agent_command,
    agent_message,
};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tempfile::TempDir;

const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    dir: TempDir,
    coordinator: FakeCoordinator,
    agent: Handle,
}

impl Bench {
    /// An agent with three CPU slots, whose workers run `script`.
    async fn new(script: &str) -> (Self, Peer, AgentHello) {
        let dir = TempDir::new().unwrap();
        let mut coordinator = FakeCoordinator::start().await;
        let agent = Agent::start(options(dir.path(), &coordinator.url, script))
            .await
            .unwrap();
        let mut peer = coordinator.accept().await;
        let hello = hello(&mut peer).await;
        (
            Self {
                dir,
                coordinator,
                agent,
            },
            peer,
            hello,
        )
    }

    fn job_dir(&self) -> PathBuf {
        self.dir
            .path()
            .canonicalize()
            .unwrap()
            .join("data/jobs")
            .join(JOB)
    }
}

fn options(dir: &Path, url: &str, script: &str) -> Options {
    use std::os::unix::fs::PermissionsExt;
    let binary = dir.join("worker.sh");
    fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let shim = [
        std::env::current_exe().unwrap(),
        "the_shim".into(),
        "--exact".into(),
        "--ignored".into(),
    ];
    let mut options = Options::new(url, "node-a", dir.join("data"), binary, shim.into());
    options.slots = SlotsOption::Cpu(3);
    options.advertise = "10.0.0.7".into();
    options
}

#[test]
#[ignore = "the agents of the other tests start it, as the shims of their workers"]
fn the_shim() {
    // Without a directory, somebody runs the ignored tests by hand.
    if let Some(directory) = std::env::args()
        .next_back()
        .filter(|last| last.starts_with('/'))
    {
        muster_agent::shim::run(Path::new(&directory)).unwrap();
    }
}

async fn hello(peer: &mut Peer) -> AgentHello {
    match peer.next().await {
        agent_message::Kind::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

async fn started(peer: &mut Peer) -> WorkerStarted {
    match peer.next().await {
        agent_message::Kind::Started(started) => started,
        other => panic!("{other:?}"),
    }
}

async fn exited(peer: &mut Peer) -> WorkerExited {
    match peer.next().await {
        agent_message::Kind::Exited(exited) => exited,
        other => panic!("{other:?}"),
    }
}

fn start(worker: &str, slot: u32) -> agent_command::Kind {
    agent_command::Kind::Start(StartWorker {
        interface: "ib0".into(),
        job_id: JOB.into(),
        worker_id: worker.into(),
        slot,
        job_dir: JOB.into(),
        threads: 2,
        device: "cpu".into(),
    })
}

fn kill(worker: &str) -> agent_command::Kind {
    agent_command::Kind::Kill(KillWorker {
        worker_id: worker.into(),
        reason: "test".into(),
    })
}

fn is_alive(pid: u32) -> bool {
    // A zombie has a /proc entry too, but no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn parent_of(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the condition never came true");
}

#[tokio::test]
async fn a_worker_gets_its_arguments_and_its_end_is_told_with_its_last_words() {
    let script = r#"echo "$@" > "$(dirname "$0")/args"; env > "$(dirname "$0")/env"; echo progress; echo "out of memory" >&2; exit 3"#;
    let (bench, mut peer, hello) = Bench::new(script).await;
    assert_eq!(
        (hello.node.as_str(), hello.advertise.as_str()),
        ("node-a", "10.0.0.7")
    );
    assert_eq!(hello.slots.len(), 3);
    assert_eq!(hello.running, []);
    peer.tell(start("w1", 1)).await;
    // The script may be over before its start could be told.
    let exited = match peer.next().await {
        agent_message::Kind::Started(started) => {
            assert_eq!((started.worker_id.as_str(), started.slot), ("w1", 1));
            exited(&mut peer).await
        }
        agent_message::Kind::Exited(exited) => exited,
        other => panic!("{other:?}"),
    };
    assert_eq!((exited.exit_code, exited.signal), (Some(3), None));
    assert_eq!(
        (
            exited.job_id.as_str(),
            exited.worker_id.as_str(),
            exited.slot
        ),
        (JOB, "w1", 1)
    );
    assert_eq!(exited.stderr_tail, "progress\nout of memory\n");
    let args = fs::read_to_string(bench.dir.path().join("args")).unwrap();
    let (url, dir) = (&bench.coordinator.url, bench.job_dir());
    let expected = format!(
        "train --coordinator {url} --job {JOB} --worker w1 --device cpu --threads 2 --advertise 10.0.0.7 --dir {}\n",
        dir.display()
    );
    assert_eq!(args, expected);
    let env = fs::read_to_string(bench.dir.path().join("env")).unwrap();
    for line in [
        "OMP_NUM_THREADS=2",
        "CUDA_VISIBLE_DEVICES=",
        "NCCL_SOCKET_IFNAME==ib0",
    ] {
        assert!(env.lines().any(|l| l == line), "{line} is not in {env}");
    }
    let parent = env
        .lines()
        .find_map(|line| line.strip_prefix("MUSTER_PARENT_PID="));
    assert_ne!(
        parent,
        Some(std::process::id().to_string().as_str()),
        "its parent is its shim"
    );
    assert!(parent.is_some());
    assert!(dir.join("logs/w1.log").is_file());
    bench.agent.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_kill_ends_the_worker_and_all_that_it_started() {
    let script = r#"sleep 1000 & echo $! > "$(dirname "$0")/child"; wait"#;
    let (bench, mut peer, _) = Bench::new(script).await;
    peer.tell(start("w1", 0)).await;
    let pid = started(&mut peer).await.pid;
    let child = bench.dir.path().join("child");
    until(|| fs::read_to_string(&child).is_ok_and(|text| text.ends_with('\n'))).await;
    let child: u32 = fs::read_to_string(&child).unwrap().trim().parse().unwrap();
    assert!(is_alive(pid) && is_alive(child));
    peer.tell(kill("w1")).await;
    let exited = loop {
        match peer.next().await {
            agent_message::Kind::Exited(exited) => break exited,
            // The kill is answered with where things stand first.
            agent_message::Kind::Started(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((exited.exit_code, exited.signal), (None, Some(9)));
    until(|| !is_alive(pid) && !is_alive(child)).await;
    bench.agent.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn case_12_a_repeated_start_is_answered_again_and_starts_nothing() {
    let script = r#"echo x >> "$(dirname "$0")/starts"; exec sleep 1000"#;
    let (bench, mut peer, _) = Bench::new(script).await;
    peer.tell(start("w1", 0)).await;
    let first = started(&mut peer).await;
    let starts = bench.dir.path().join("starts");
    until(|| starts.is_file()).await;
    peer.tell(start("w1", 0)).await;
    assert_eq!(started(&mut peer).await, first);
    // Another worker for the same slot is refused: a slot runs at most one.
    peer.tell(start("w2", 0)).await;
    let refused = exited(&mut peer).await;
    assert_eq!(refused.worker_id, "w2");
    assert!(
        refused.start_error.contains("still runs worker w1"),
        "{}",
        refused.start_error
    );
    peer.tell(kill("w1")).await;
    assert_eq!(started(&mut peer).await, first);
    let end = exited(&mut peer).await;
    peer.tell(start("w1", 0)).await;
    let (again, more) = (peer.next().await, peer.next().await);
    assert_eq!(
        (again, more),
        (
            agent_message::Kind::Exited(end),
            agent_message::Kind::Heartbeat(Default::default())
        ),
        "nothing else is said"
    );
    assert_eq!(fs::read_to_string(&starts).unwrap(), "x\n");
    bench.agent.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_told_with_the_reason() {
    let (bench, mut peer, _) = Bench::new("exit 0").await;
    peer.tell(start("w1", 9)).await;
    let refused = exited(&mut peer).await;
    assert!(
        refused.start_error.contains("no slot 9"),
        "{}",
        refused.start_error
    );
    peer.tell(start("../../w2", 0)).await;
    let refused = exited(&mut peer).await;
    assert!(
        refused.start_error.contains("no name for a file"),
        "{}",
        refused.start_error
    );
    fs::remove_file(bench.dir.path().join("worker.sh")).unwrap();
    peer.tell(start("w3", 0)).await;
    let refused = exited(&mut peer).await;
    assert!(
        refused.start_error.contains("does not start"),
        "{}",
        refused.start_error
    );
    assert_eq!((refused.exit_code, refused.signal), (None, None));
    bench.agent.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn an_end_that_came_while_the_coordinator_was_away_is_told_on_the_next_stream() {
    let script = r#"until [ -e "$(dirname "$0")/go" ]; do sleep 0.01; done; exit 7"#;
    let (mut bench, mut peer, _) = Bench::new(script).await;
    peer.tell(start("w1", 0)).await;
    let pid = started(&mut peer).await.pid;
    peer.hang_up();
    let mut peer = bench.coordinator.accept().await;
    let second = hello(&mut peer).await;
    assert_eq!(
        second.running.iter().map(|r| r.pid).collect::<Vec<_>>(),
        [pid]
    );
    peer.hang_up();
    fs::write(bench.dir.path().join("go"), "").unwrap();
    until(|| !is_alive(pid)).await;
    let mut peer = bench.coordinator.accept().await;
    // Whether the hello was put together before or after the end: the worker is in it, and its exit follows.
    assert_eq!(hello(&mut peer).await.running.len(), 1);
    assert_eq!(exited(&mut peer).await.exit_code, Some(7));
    peer.hang_up();
    // That stream was too short to be sure that the end was heard.
    let mut peer = bench.coordinator.accept().await;
    assert_eq!(hello(&mut peer).await.running.len(), 1);
    assert_eq!(exited(&mut peer).await.exit_code, Some(7));
    bench.agent.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn logs_are_read_from_their_tail_or_whole() {
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done";
    let (bench, mut peer, _) = Bench::new(script).await;
    peer.tell(start("w1", 0)).await;
    while !matches!(peer.next().await, agent_message::Kind::Exited(_)) {}
    let whole: String = (0..30000).map(|i| format!("line {i}\n")).collect();
    let end = whole.len() as u64;
    let cases = [
        ("w1", Some(2), None, "line 29998\nline 29999\n", ""),
        ("w1", None, None, whole.as_str(), ""),
        ("w1", Some(0), None, "", ""),
        ("w1", Some(9), Some(end - 6), "29999\n", ""),
        ("w9", None, None, "", "No such file"),
        ("../w1", None, None, "", "no such worker"),
    ];
    for (request_id, (worker_id, tail_lines, offset, expected, failure)) in (1..).zip(cases) {
        let (job_id, worker_id) = (JOB.into(), worker_id.into());
        let read = ReadLog {
            request_id,
            job_id,
            worker_id,
            tail_lines,
            offset,
        };
        peer.tell(agent_command::Kind::ReadLog(read)).await;
        let mut text = Vec::new();
        loop {
            let agent_message::Kind::Log(chunk) = peer.next().await else {
                continue;
            };
            assert_eq!(chunk.request_id, request_id);
            if failure.is_empty() {
                let read = chunk.offset + chunk.data.len() as u64;
                assert_eq!(read == end, chunk.last, "where each piece begins is said");
            }
            text.extend(chunk.data);
            if chunk.last {
                assert!(
                    chunk.error.contains(failure) && chunk.error.is_empty() == failure.is_empty()
                );
                break;
            }
        }
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
    bench.agent.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_shutdown_lets_workers_end_then_kills_them_and_tells_the_coordinator() {
    let script = r#"
        case "$*" in
            *gentle*) trap 'exit 5' INT ;;
            *) trap '' INT ;;
        esac
        touch "$(dirname "$0")/up-$$"
        while :; do sleep 0.02; done"#;
    let (bench, mut peer, _) = Bench::new(script).await;
    let mut pids = Vec::new();
    for (slot, worker) in ["gentle", "deaf"].into_iter().enumerate() {
        peer.tell(start(worker, slot as u32)).await;
        pids.push(started(&mut peer).await.pid);
    }
    until(|| {
        pids.iter()
            .all(|pid| bench.dir.path().join(format!("up-{pid}")).is_file())
    })
    .await;
    bench.agent.shutdown(Duration::from_millis(300)).await;
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    let (first, second) = (exited(&mut peer).await, exited(&mut peer).await);
    let mut ends = [first, second].map(|e| (e.worker_id, e.exit_code, e.signal));
    ends.sort();
    assert_eq!(
        ends,
        [
            ("deaf".into(), None, Some(9)),
            ("gentle".into(), Some(5), None)
        ]
    );
}

async fn leaving(peer: &mut Peer) -> u32 {
    match peer.next().await {
        agent_message::Kind::Leaving(leaving) => leaving.grace_seconds,
        other => panic!("{other:?}"),
    }
}

/// Waits to be ended by the coordinator's word, which is a file; SIGTERM is for its agent.
const UNTIL_TOLD: &str = r#"
    trap '' TERM
    until [ -e "$(dirname "$0")/go" ]; do sleep 0.01; done"#;

#[tokio::test]
async fn an_agent_that_drains_says_so_and_waits_for_its_workers_to_leave() {
    let (bench, mut peer, first) = Bench::new(UNTIL_TOLD).await;
    assert_eq!(first.leaving_seconds, None);
    peer.tell(start("w1", 0)).await;
    let pid = started(&mut peer).await.pid;
    let go = bench.dir.path().join("go");
    let coordinator = async {
        assert_eq!(leaving(&mut peer).await, 20);
        assert!(is_alive(pid), "it is not ended");
        // Whatever becomes of the stream: the next one begins with it.
        drop(peer);
        let mut coordinator = bench.coordinator;
        let mut peer = coordinator.accept().await;
        assert_eq!(hello(&mut peer).await.leaving_seconds, Some(20));
        assert!(is_alive(pid));
        fs::write(go, "").unwrap();
        assert_eq!(exited(&mut peer).await.exit_code, Some(0));
        (coordinator, peer)
    };
    let (_coordinator, ()) = tokio::join!(coordinator, bench.agent.drain(PATIENCE));
    bench.agent.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_drain_ends_with_the_grace_and_where_nobody_hears_of_it() {
    let (bench, mut peer, _) = Bench::new(UNTIL_TOLD).await;
    peer.tell(start("w1", 0)).await;
    let pid = started(&mut peer).await.pid;
    let since = std::time::Instant::now();
    bench.agent.drain(Duration::from_millis(1200)).await;
    assert!(since.elapsed() >= Duration::from_millis(1200));
    assert_eq!(leaving(&mut peer).await, 1);
    assert!(is_alive(pid));
    drop((peer, bench.coordinator));
    let since = std::time::Instant::now();
    bench.agent.drain(PATIENCE).await;
    assert!(since.elapsed() < PATIENCE / 2, "{:?}", since.elapsed());
    bench.agent.shutdown(Duration::ZERO).await;
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn signals_that_are_meant_for_the_agent_leave_workers_and_their_shims_alone() {
    let (bench, mut peer, _) = Bench::new(UNTIL_TOLD).await;
    peer.tell(start("w1", 0)).await;
    let pid = started(&mut peer).await.pid;
    let shim = parent_of(pid);
    for meant_for_all in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signal::kill(Pid::from_raw(shim.cast_signed()), meant_for_all).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(is_alive(shim) && is_alive(pid));
    fs::write(bench.dir.path().join("go"), "").unwrap();
    assert_eq!(exited(&mut peer).await.exit_code, Some(0));
    bench.agent.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_dropped_handle_leaves_no_orphans() {
    let (bench, mut peer, _) = Bench::new("exec sleep 1000").await;
    peer.tell(start("w1", 0)).await;
    let pid = started(&mut peer).await.pid;
    // For a moment on its way from the shell to `sleep`, the process has no command line.
    until(|| is_alive(pid)).await;
    drop(bench.agent);
    until(|| !is_alive(pid)).await;
}

/// What an agent's end leaves to the next one on the same data directory.
#[tokio::test]
async fn workers_that_were_left_are_adopted_and_ends_without_an_agent_are_told() {
    let script = r#"
        case "$*" in
            *brief*) until [ -e "$(dirname "$0")/go" ]; do sleep 0.01; done; echo "my last words"; exit 4 ;;
            *) exec sleep 1000 ;;
        esac"#;
    let (mut bench, mut peer, _) = Bench::new(script).await;
    let mut first = Vec::new();
    for (slot, worker) in ["brief", "long"].into_iter().enumerate() {
        peer.tell(start(worker, slot as u32)).await;
        first.push(started(&mut peer).await);
    }
    bench.agent.leave().await;
    peer.hang_up();
    fs::write(bench.dir.path().join("go"), "").unwrap();
    until(|| !is_alive(first[0].pid)).await;
    assert!(is_alive(first[1].pid));

    let again = || options(bench.dir.path(), &bench.coordinator.url, script);
    let agent = Agent::start(again()).await.unwrap();
    let busy = Agent::start(again()).await.unwrap_err();
    assert!(matches!(busy, AgentError::Busy { .. }), "{busy}");
    let mut peer = bench.coordinator.accept().await;
    assert_eq!(
        hello(&mut peer).await.running,
        first,
        "both were there, and neither was told to have ended"
    );
    let end = exited(&mut peer).await;
    assert_eq!(
        (end.worker_id.as_str(), end.slot, end.exit_code),
        ("brief", 0, Some(4))
    );
    assert_eq!(end.stderr_tail, "my last words\n");
    // It is this agent's own now, like any that it has started.
    peer.tell(start("long", 1)).await;
    assert_eq!(started(&mut peer).await, first[1]);
    peer.tell(kill("long")).await;
    while exited_or_none(&mut peer)
        .await
        .is_none_or(|end| end.signal != Some(9))
    {}
    assert!(!is_alive(first[1].pid));
    agent.shutdown(PATIENCE).await;
}

async fn exited_or_none(peer: &mut Peer) -> Option<WorkerExited> {
    match peer.next().await {
        agent_message::Kind::Exited(exited) => Some(exited),
        _ => None,
    }
}

#[tokio::test]
async fn a_slot_stays_taken_while_anything_that_the_worker_started_is_there() {
    // The child leaves the worker's group, so no signal to that reaches it.
    let script = r#"
        setsid sh -c 'echo $$ > "$0"; until [ -e "$1" ]; do sleep 0.01; done' "$(dirname "$0")/child" "$(dirname "$0")/go" <&0 &
        until [ -s "$(dirname "$0")/child" ]; do sleep 0.01; done; exit 0"#;
    let (mut bench, mut peer, _) = Bench::new(script).await;
    peer.tell(start("w1", 0)).await;
    let first = started(&mut peer).await;
    until(|| !is_alive(first.pid)).await;
    peer.hang_up();
    let mut peer = bench.coordinator.accept().await;
    assert_eq!(
        hello(&mut peer).await.running,
        [first],
        "the slot is not empty yet"
    );
    fs::write(bench.dir.path().join("go"), "").unwrap();
    assert_eq!(exited(&mut peer).await.exit_code, Some(0));
    bench.agent.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn an_agent_that_is_refused_or_finds_nobody_keeps_trying() {
    let dir = TempDir::new().unwrap();
    let mut coordinator = FakeCoordinator::start().await;
    coordinator.refuse_next();
    let agent = Agent::start(options(dir.path(), &coordinator.url, "exit 0"))
        .await
        .unwrap();
    let mut peer = coordinator.accept().await;
    assert_eq!(hello(&mut peer).await.node, "node-a");
    assert_eq!(coordinator.refused(), 1);
    agent.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn bad_options_are_refused_with_words() {
    let dir = TempDir::new().unwrap();
    let good = || options(dir.path(), "http://127.0.0.1:1", "exit 0");
    let error = |options| async { Agent::start(options).await.unwrap_err() };

    let mut bad = good();
    bad.worker_binary = dir.path().join("absent");
    assert!(matches!(error(bad).await, AgentError::WorkerBinary { .. }));
    let mut bad = good();
    bad.worker_binary = dir.path().to_path_buf();
    assert!(
        error(bad)
            .await
            .to_string()
            .contains("not an executable file")
    );
    let mut bad = good();
    bad.coordinator = "127.0.0.1:1".into();
    assert!(matches!(error(bad).await, AgentError::Dial(_)));
    let mut bad = good();
    bad.slots = SlotsOption::Count(0);
    assert!(matches!(
        error(bad).await,
        AgentError::Slots { count: 0, .. }
    ));
    let mut bad = good();
    bad.name = "a/b".into();
    assert!(matches!(error(bad).await, AgentError::Name { .. }));
    let mut bad = good();
    bad.data_dir = dir.path().join("worker.sh");
    assert!(matches!(error(bad).await, AgentError::DataDir { .. }));
}

#[tokio::test]
async fn slots_that_share_a_machine_out_keep_to_their_cores() {
    let script = r#"sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status > "$(dirname "$0")/cores-$7"; sleep 60"#;
    let dir = TempDir::new().unwrap();
    let mut coordinator = FakeCoordinator::start().await;
    let mut options = options(dir.path(), &coordinator.url, script);
    options.slots = SlotsOption::Cpu(2);
    let agent = Agent::start(options).await.unwrap();
    let mut peer = coordinator.accept().await;
    hello(&mut peer).await;
    let mut cores = Vec::new();
    for (worker, slot) in [("w0", 0), ("w1", 1)] {
        peer.tell(start(worker, slot)).await;
        started(&mut peer).await;
        let path = dir.path().join(format!("cores-{worker}"));
        let read = || fs::read_to_string(&path).unwrap_or_default();
        until(|| read().ends_with('\n')).await;
        cores.push(read());
    }
    // On a machine with one core there is nothing to share out.
    let shared_out = std::thread::available_parallelism().unwrap().get() > 1;
    assert_eq!(cores[0] != cores[1], shared_out, "{cores:?}");
    agent.shutdown(Duration::ZERO).await;
}
