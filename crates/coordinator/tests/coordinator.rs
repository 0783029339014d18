//! The coordinator over real gRPC, with agents and workers of the tests' own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeMap, path::Path};

use muster_coordinator::{Coordinator, CoordinatorError, Options};
use muster_proto::v1::{
    self, Attach, CancelRequest, Event, GetLogsRequest, ListCheckpointsRequest, ListEventsRequest,
    ListJobsRequest, ListNodesRequest, LogContent, PartWritten, Ready, Report, ResumeRequest,
    StateId, StepMetrics, StopRequest, TensorDigest, Warm, WatchStatusRequest, WorkerStarted,
    agent_command, agent_message, resume_point, worker_command, worker_message,
};
use support::{Agent, Bench, Worker, start};
use tonic::Code;

/// A job with two workers that have formed their first generation.
struct Running {
    bench: Bench,
    job: String,
    agent: Agent,
    started: Vec<WorkerStarted>,
    workers: Vec<Worker>,
}

impl Running {
    async fn new() -> Self {
        let mut bench = Bench::new().await;
        let job = bench.submit(&bench.spec(2), "").await.unwrap();
        assert_eq!(bench.status(&job).await.state, "pending");
        let url = bench.coordinator.url();
        let mut agent = Agent::connect(url.clone(), 3, vec![]).await.unwrap();
        let (mut started, mut workers) = (vec![], vec![]);
        for pid in [100, 101] {
            let (start, one) = agent.start_worker(pid).await;
            assert_eq!(
                (start.job_id.as_str(), start.device.as_str()),
                (job.as_str(), "cpu")
            );
            assert_eq!(start.job_dir, job);
            started.push(one);
        }
        assert_ne!(started[0].slot, started[1].slot);
        for one in &started {
            let mut worker = Worker::attach(url.clone(), one, 0, attach(one.pid, None)).await;
            let worker_command::Kind::Welcome(welcome) = worker.next().await else {
                panic!()
            };
            assert!(welcome.report_interval_ms > 0);
            let spec: muster_spec::RunSpec = serde_json::from_str(&welcome.spec_json).unwrap();
            assert_eq!(spec.train.steps, 100);
            assert_eq!(spec.model.vocab_size % 64, 0, "the vocabulary is resolved");
            worker
                .say(worker_message::Kind::Warm(Warm {
                    numerics_fingerprint: "f".into(),
                    reach_address: String::new(),
                }))
                .await;
            workers.push(worker);
        }
        Self {
            bench,
            job,
            agent,
            started,
            workers,
        }
    }

    async fn formed() -> Self {
        let mut running = Self::new().await;
        let mut forms = vec![];
        for worker in &mut running.workers {
            forms.push(worker.form().await);
        }
        let mut ranks: Vec<_> = forms.iter().map(|form| form.rank).collect();
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1]);
        assert_eq!(forms[0].members_digest, forms[1].members_digest);
        assert_eq!(forms[0].batch_slots, forms[1].batch_slots);
        assert_eq!(forms[0].batch_slots, 4);
        let dataset = muster_data::Dataset::open(&running.bench.dir.path().join("data")).unwrap();
        assert_eq!(
            forms[0].segments[0].dataset_digest,
            dataset.digest().to_string()
        );
        let resume = forms[0].resume.clone().unwrap();
        assert_eq!(
            resume.source,
            Some(resume_point::Source::Initialise(v1::Initialise {}))
        );
        for worker in &running.workers {
            worker
                .say(worker_message::Kind::Ready(Ready {
                    state_hash: 7,
                    ..Ready::default()
                }))
                .await;
        }
        running
            .bench
            .status_when(&running.job, |status| status.state == "training")
            .await;
        running
    }

    async fn report(&self, steps: std::ops::RangeInclusive<u64>) {
        let metrics = |step| StepMetrics {
            step,
            loss: 4.0 - step as f64 / 100.0,
            learning_rate: 1e-3,
            gradient_norm: 0.7,
            tokens: 8 * 32,
            step_ms: 20.0,
            evidence: step,
            samples: 8,
            slot_ms: 0.0,
        };
        let report = Report {
            steps: steps.map(metrics).collect(),
        };
        for worker in &self.workers {
            worker
                .say(worker_message::Kind::Report(report.clone()))
                .await;
        }
    }

    fn job_dir(&self) -> std::path::PathBuf {
        self.bench
            .dir
            .path()
            .join("coordinator/jobs")
            .join(&self.job)
    }

    /// What a worker does to save its part, and says of it.
    fn save_part(&self, state: StateId, rank: u32) -> PartWritten {
        let content = [rank as u8; 8];
        let name = format!("model.part{rank}");
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &content);
        let tensors = BTreeMap::from([(name.clone(), view.unwrap())]);
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let directory = self
            .job_dir()
            .join("checkpoints")
            .join(&self.job)
            .join(format!("step-{:010}.g{}", state.step, state.generation));
        std::fs::create_dir_all(&directory).unwrap();
        let file = format!("rank-{rank}.safetensors");
        std::fs::write(directory.join(&file), &bytes).unwrap();
        let digest = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        PartWritten {
            state: Some(state),
            rank,
            world_size: 2,
            file,
            bytes: bytes.len() as u64,
            digest: digest(&bytes),
            tensors: vec![TensorDigest {
                name,
                dtype: "F32".into(),
                shape: vec![2],
                digest: digest(&content),
            }],
            write_ms: 1,
        }
    }

    async fn save(&mut self, step: u64) -> String {
        let state = StateId {
            generation: 1,
            step,
        };
        for rank in [0, 1] {
            let part = self.save_part(state, rank);
            self.workers[rank as usize]
                .say(worker_message::Kind::PartWritten(part))
                .await;
        }
        for worker in &mut self.workers {
            let acknowledged = worker.next().await;
            let expected = v1::PartAcknowledged { state: Some(state) };
            assert_eq!(
                acknowledged,
                worker_command::Kind::PartAcknowledged(expected)
            );
        }
        let committed = |status: &v1::JobStatus| {
            status
                .last_checkpoint
                .as_ref()
                .is_some_and(|checkpoint| checkpoint.step == step)
        };
        let status = self.bench.status_when(&self.job, committed).await;
        status.last_checkpoint.unwrap().uri
    }

    async fn events(&mut self, follow: bool) -> Vec<Event> {
        let request = ListEventsRequest {
            job_id: self.job.clone(),
            follow,
            after: 0,
        };
        let stream = self
            .bench
            .client
            .list_events(request)
            .await
            .unwrap()
            .into_inner();
        collect(stream).await
    }
}

fn attach(pid: u32, holdings: Option<StateId>) -> Attach {
    Attach {
        pid,
        collective_address: format!("127.0.0.{pid}"),
        holdings,
        warm: holdings.is_some(),
        numerics_fingerprint: "f".into(),
        reach_address: String::new(),
    }
}

async fn collect<T>(mut stream: tonic::Streaming<T>) -> Vec<T> {
    let mut all = vec![];
    let reading = async {
        while let Some(one) = stream.message().await.unwrap() {
            all.push(one);
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), reading)
        .await
        .expect("it never ended");
    all
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_placed_formed_trained_saved_and_stopped() {
    let mut running = Running::formed().await;
    running.report(1..=4).await;
    let status = running
        .bench
        .status_when(&running.job, |status| status.step == 4)
        .await;
    assert_eq!(
        (status.generation, status.world_size, status.total_steps),
        (1, 2, 100)
    );
    assert_eq!((status.loss, status.tokens_seen), (Some(3.96), 4 * 256));
    assert_eq!(status.workers.len(), 2);
    let pids: Vec<_> = status.workers.iter().map(|worker| worker.pid).collect();
    assert!(
        pids.contains(&Some(100)) && pids.contains(&Some(101)),
        "{pids:?}"
    );
    assert_eq!(status.numerics_fingerprint, "f");
    assert_eq!(
        status
            .assignment
            .iter()
            .map(|slots| slots.count)
            .sum::<u32>(),
        4
    );

    // The members of the generation meet in its store.
    let mut store = running.bench.store().await;
    let scope = |generation| {
        let (job_id, worker_id) = (running.job.clone(), running.workers[0].id.clone());
        Some(v1::StoreScope {
            job_id,
            generation,
            worker_id,
        })
    };
    let set = |generation| v1::StoreSetRequest {
        scope: scope(generation),
        key: "address".into(),
        value: b"here".to_vec(),
    };
    store.set(set(1)).await.unwrap();
    let get = v1::StoreGetRequest {
        scope: scope(1),
        key: "address".into(),
    };
    assert_eq!(store.get(get).await.unwrap().into_inner().value, b"here");
    assert_eq!(store.set(set(2)).await.unwrap_err().code(), Code::Aborted);

    let uri = running.save(4).await;
    let checkpoint = muster_store::Checkpoint::open(&uri).await.unwrap();
    checkpoint.verify().await.unwrap();
    let manifest = checkpoint.manifest();
    assert_eq!(manifest.tokens_seen, 4 * 256);
    assert_eq!(manifest.numerics_fingerprint, "f");
    assert_eq!((manifest.files.len(), manifest.segments.len()), (2, 1));
    assert_eq!(manifest.extra_files[0].file, "tokenizer.json");
    assert_eq!(manifest.spec["train"]["steps"], 100);
    let request = ListCheckpointsRequest {
        job_id: running.job.clone(),
    };
    let listed = running
        .bench
        .client
        .list_checkpoints(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.checkpoints, [v1::CheckpointRef { step: 4, uri }]);

    // A short form of the id will do.
    let request = StopRequest {
        job_id: running.job[..18].into(),
        grace_seconds: 0,
    };
    running.bench.client.stop(request).await.unwrap();
    for worker in &mut running.workers {
        let worker_command::Kind::Leave(leave) = worker.next().await else {
            panic!()
        };
        assert!(leave.save);
        worker
            .say(worker_message::Kind::Left(v1::Left {
                reason: leave.reason,
                step: 4,
            }))
            .await;
    }
    let watch = WatchStatusRequest {
        job_id: running.job.clone(),
        interval_ms: 10,
        ..WatchStatusRequest::default()
    };
    let watched = running
        .bench
        .client
        .watch_status(watch)
        .await
        .unwrap()
        .into_inner();
    for one in &running.started {
        running.agent.exited(one, Some(0), None).await;
    }
    let watched = collect(watched).await;
    let last = watched.last().unwrap();
    assert_eq!((last.state.as_str(), last.step), ("stopped", 4));
    assert!(last.ended_at.is_some() && last.workers.is_empty());

    let events = running.events(true).await;
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0].sequence < pair[1].sequence)
    );
    let position = |kind: &str| {
        let found = events.iter().position(|event| event.kind == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {events:?}"))
    };
    let order = [
        "submit",
        "placement",
        "worker_attach",
        "generation_opened",
        "generation_formed",
        "first_step",
        "checkpoint_committed",
        "worker_exit",
    ];
    assert!(
        order
            .windows(2)
            .all(|pair| position(pair[0]) < position(pair[1]))
    );
    // The agent's word and the worker's own come on streams of their own, in any order.
    assert!(position("placement") < position("worker_start"));
    assert!(position("worker_start") < position("worker_exit"));
    for event in &events {
        assert_eq!(
            event.at.len(),
            "2026-01-31T08:05:00.123456Z".len(),
            "{event:?}"
        );
        assert!(!event.reason.is_empty(), "{event:?}");
        let details: serde_json::Value = serde_json::from_str(&event.details_json).unwrap();
        assert!(details.is_object(), "{event:?}");
    }
    let after = events[3].sequence;
    let request = ListEventsRequest {
        job_id: running.job.clone(),
        follow: false,
        after,
    };
    let rest = running
        .bench
        .client
        .list_events(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(collect(rest).await, events[4..]);

    running.bench.coordinator.shutdown().await.unwrap();
    let directory = running
        .bench
        .dir
        .path()
        .join("coordinator/jobs")
        .join(&running.job);
    let metrics = lines(&directory.join("metrics.jsonl"));
    let steps: Vec<_> = metrics
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3, 4]);
    assert_eq!(metrics[0]["tokens_per_second"], 12800.0);
    let spec: muster_spec::RunSpec =
        serde_json::from_slice(&std::fs::read(directory.join("spec.json")).unwrap()).unwrap();
    assert_eq!(spec.name, "test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_8_a_restarted_coordinator_finds_its_job_and_the_workers_go_on() {
    let mut running = Running::formed().await;
    running.report(1..=4).await;
    running
        .bench
        .status_when(&running.job, |status| status.step == 4)
        .await;
    let uri = running.save(4).await;

    let Running {
        bench,
        job,
        started,
        ..
    } = running;
    let mut bench = bench.restart().await;
    let url = bench.coordinator.url();
    let status = bench.status(&job).await;
    assert_eq!((status.generation, status.recoveries), (1, 0));
    assert_eq!(status.last_checkpoint.unwrap().uri, uri);

    let agent = Agent::connect(url.clone(), 3, started.clone())
        .await
        .unwrap();
    let mut workers = vec![];
    for one in &started {
        let holdings = Some(StateId {
            generation: 1,
            step: 6,
        });
        workers.push(Worker::attach(url.clone(), one, 1, attach(one.pid, holdings)).await);
    }
    for worker in &mut workers {
        assert!(matches!(
            worker.next().await,
            worker_command::Kind::Welcome(_)
        ));
    }
    let mut running = Running {
        bench,
        job,
        agent,
        started,
        workers,
    };
    running.report(5..=7).await;
    let status = running
        .bench
        .status_when(&running.job, |status| status.step == 7)
        .await;
    assert_eq!(
        (status.generation, status.world_size, status.recoveries),
        (1, 2, 0)
    );
    assert_eq!(status.state, "training");

    // One is killed: the agent says so, and the survivor is asked to fence at once.
    running
        .agent
        .exited(&running.started[1], None, Some(9))
        .await;
    let worker_command::Kind::Supersede(supersede) = running.workers[0].next().await else {
        panic!()
    };
    assert_eq!(supersede.superseded, 1);
    let (replacement, _) = running.agent.start_worker(102).await;
    assert_ne!(replacement.worker_id, running.started[1].worker_id);
    let events = running.events(false).await;
    let exit = events
        .iter()
        .find(|event| event.kind == "worker_exit")
        .unwrap();
    assert!(exit.reason.contains("signal 9"), "{}", exit.reason);

    running.bench.coordinator.shutdown().await.unwrap();
    let directory = running
        .bench
        .dir
        .path()
        .join("coordinator/jobs")
        .join(&running.job);
    let metrics = lines(&directory.join("metrics.jsonl"));
    let steps: Vec<_> = metrics
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_submit_is_kept_and_a_second_one_of_the_same_id_changes_nothing() {
    let mut bench = Bench::new().await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let spec = bench.spec(1);
    assert_eq!(bench.submit(&spec, id).await.unwrap(), id);
    let other = bench.submit(&spec, "").await.unwrap();
    let mut changed = spec.clone();
    changed.name = "changed".into();
    assert_eq!(bench.submit(&changed, id).await.unwrap(), id);

    // Its files are copied as they are, as if the process had been killed right now.
    let copy = tempfile::TempDir::new().unwrap();
    let to = copy.path().join("coordinator");
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(bench.dir.path().join("coordinator")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let revived = start(copy.path()).await;
    bench.client = v1::job_service_client::JobServiceClient::connect(revived.url())
        .await
        .unwrap();
    let jobs = bench
        .client
        .list_jobs(ListJobsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .jobs;
    let listed: Vec<_> = jobs
        .iter()
        .map(|job| (job.job_id.as_str(), job.name.as_str()))
        .collect();
    assert_eq!(
        listed,
        [(other.as_str(), "test"), (id, "test")],
        "newest first"
    );
    let spec = copy
        .path()
        .join("coordinator/jobs")
        .join(id)
        .join("spec.json");
    assert_eq!(bench.submit(&changed, id).await.unwrap(), id);
    revived.shutdown().await.unwrap();
    assert!(
        spec.is_file(),
        "the files of a job are brought up to the journal"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_specs_are_refused_with_the_reason_and_leave_nothing() {
    let mut bench = Bench::new().await;
    let good = bench.spec(1);
    let with = |change: &dyn Fn(&mut muster_spec::RunSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        serde_json::to_string(&spec).unwrap()
    };
    for (spec_json, words) in [
        ("{".to_owned(), "is no run spec"),
        (r#"{"trian": {}}"#.to_owned(), "unknown field `trian`"),
        (r#"{"train": {"steps": "many"}}"#.to_owned(), "invalid type"),
        (with(&|spec| spec.workers.max = 5), "workers.max"),
        (
            with(&|spec| spec.data.path = "/nowhere/at/all".into()),
            "/nowhere/at/all",
        ),
        (
            with(&|spec| spec.model.vocab_size = 64),
            "the dataset's tokenizer needs",
        ),
        (
            with(&|spec| spec.model.context_length = 1 << 20),
            "holds no sequence",
        ),
        (
            with(&|spec| spec.checkpoint.uri = "s3://bucket".into()),
            "s3://bucket",
        ),
        (
            with(&|spec| spec.checkpoint.uri = format!("{}/index.json", spec.data.path)),
            "is a file",
        ),
    ] {
        let status = bench.submit_json(spec_json.clone(), "").await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{spec_json}");
        assert!(
            status.message().contains(words),
            "{spec_json}: {}",
            status.message()
        );
    }
    let status = bench.submit(&good, "not-an-id").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        bench
            .client
            .list_jobs(ListJobsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .jobs,
        []
    );
    assert!(!bench.dir.path().join("coordinator/jobs").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_named_by_their_ids_or_unambiguous_beginnings() {
    let mut bench = Bench::new().await;
    let ids = [
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a8058",
    ];
    for id in ids {
        bench.submit(&bench.spec(3), id).await.unwrap();
    }
    let status = bench.status(ids[1]).await;
    assert_eq!(
        (status.job_id.as_str(), status.state.as_str()),
        (ids[1], "pending")
    );
    assert!(!status.state_reason.is_empty());
    for (text, code) in [
        ("01890a5d", Code::InvalidArgument),
        ("", Code::InvalidArgument),
        ("ffff", Code::NotFound),
        ("01890A5D-AC96-774B-BCCE-B302099A8058", Code::Ok),
    ] {
        let request = v1::GetStatusRequest {
            job_id: text.into(),
            ..v1::GetStatusRequest::default()
        };
        let answer = bench.client.get_status(request).await;
        assert_eq!(
            answer.err().map_or(Code::Ok, |status| status.code()),
            code,
            "{text}"
        );
    }
    let resume = ResumeRequest {
        job_id: ids[0].into(),
    };
    let status = bench.client.resume(resume.clone()).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::FailedPrecondition,
        "a pending job is not resumed"
    );
    let stop = StopRequest {
        job_id: ids[0].into(),
        grace_seconds: 1,
    };
    bench.client.stop(stop.clone()).await.unwrap();
    bench
        .status_when(ids[0], |status| status.state == "stopped")
        .await;
    assert_eq!(
        bench.client.stop(stop).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    bench.client.resume(resume).await.unwrap();
    assert_eq!(bench.status(ids[0]).await.state, "pending");

    // A cancel that comes twice changes nothing more.
    let cancel = |reason: &str| CancelRequest {
        job_id: ids[0].into(),
        reason: reason.into(),
    };
    let said = bench.client.cancel(cancel("two\nlines")).await.unwrap_err();
    assert_eq!(said.code(), Code::InvalidArgument);
    for _ in 0..2 {
        bench.client.cancel(cancel("a mistake")).await.unwrap();
        let status = bench.status(ids[0]).await;
        assert_eq!(status.state, "stopped");
        assert_eq!(
            status.state_reason,
            "cancelled on request: a mistake; there is no checkpoint"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_do_not_belong_are_turned_away() {
    let running = Running::formed().await;
    let url = running.bench.coordinator.url();
    let status = Agent::connect(url.clone(), 1, vec![]).await.err().unwrap();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("host-a"), "{}", status.message());

    let stranger = WorkerStarted {
        worker_id: "nobody".into(),
        ..running.started[0].clone()
    };
    let mut worker = Worker::attach(url.clone(), &stranger, 0, attach(9, None)).await;
    assert!(matches!(
        worker.next().await,
        worker_command::Kind::Expelled(_)
    ));
    assert_eq!(worker.maybe_next().await, None, "the stream ends after it");

    // A worker's new stream takes the place of its old one.
    let mut old = running.workers;
    let holdings = Some(StateId {
        generation: 1,
        step: 0,
    });
    let again = attach(running.started[0].pid, holdings);
    let mut new = Worker::attach(url, &running.started[0], 1, again).await;
    assert!(matches!(new.next().await, worker_command::Kind::Welcome(_)));
    assert_eq!(old[0].maybe_next().await, None, "the old stream ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_the_logs_of_their_workers_are_shown() {
    let mut running = Running::formed().await;
    let nodes = running
        .bench
        .client
        .list_nodes(ListNodesRequest {})
        .await
        .unwrap()
        .into_inner()
        .nodes;
    let node = v1::NodeStatus {
        name: "node-a".into(),
        address: "127.0.0.1".into(),
        connected: true,
        slots: 3,
        slots_used: 2,
        device: "cpu".into(),
        ..v1::NodeStatus::default()
    };
    assert_eq!(nodes, [node]);

    let request = |worker_id: &str| GetLogsRequest {
        job_id: running.job.clone(),
        worker_id: worker_id.into(),
        tail_lines: Some(7),
        ..GetLogsRequest::default()
    };
    let all = request("");
    let unknown = request("nobody");
    let logs = running
        .bench
        .client
        .get_logs(all)
        .await
        .unwrap()
        .into_inner();
    for text in ["first\n", "second\n"] {
        let agent_command::Kind::ReadLog(read) = running.agent.next().await else {
            panic!()
        };
        assert_eq!(
            (read.job_id.as_str(), read.tail_lines),
            (running.job.as_str(), Some(7))
        );
        for (data, last) in [(text, false), ("", true)] {
            let content = LogContent {
                request_id: read.request_id,
                worker_id: read.worker_id.clone(),
                data: data.into(),
                last,
                ..LogContent::default()
            };
            running.agent.say(agent_message::Kind::Log(content)).await;
        }
    }
    let chunks = collect(logs).await;
    let texts: Vec<_> = chunks.iter().map(|chunk| chunk.data.as_slice()).collect();
    assert_eq!(texts, [b"first\n".as_slice(), b"second\n".as_slice()]);
    assert_ne!(chunks[0].worker_id, chunks[1].worker_id);
    let status = running.bench.client.get_logs(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    drop(running.agent);
    let connected = |nodes: &v1::ListNodesResponse| nodes.nodes[0].connected;
    while connected(
        &running
            .bench
            .client
            .list_nodes(ListNodesRequest {})
            .await
            .unwrap()
            .into_inner(),
    ) {
        tokio::task::yield_now().await;
    }
    let first = GetLogsRequest {
        job_id: running.job.clone(),
        worker_id: running.started[0].worker_id.clone(),
        ..GetLogsRequest::default()
    };
    let mut logs = running
        .bench
        .client
        .get_logs(first)
        .await
        .unwrap()
        .into_inner();
    let status = logs.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("agent is not connected"),
        "{}",
        status.message()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_and_health_are_served() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let bench = Bench::new().await;
    let url = bench.coordinator.url();
    let channel = tonic::transport::Endpoint::from_shared(url)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "muster.v1.JobService"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let mut reflection = ServerReflectionClient::new(channel);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(futures::stream::iter([request]));
    let answer = answers
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!()
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in ["Job", "Agent", "Worker", "Store"] {
        let name = format!("muster.v1.{name}Service");
        assert!(names.contains(&name.as_str()), "{name} is not in {names:?}");
    }
    assert!(names.contains(&"grpc.health.v1.Health"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_cannot_start_says_why() {
    let bench = Bench::new().await;
    let dir = bench.dir.path();
    let error = async |listen: &str, data_dir: &str| {
        let options = Options::new(listen.parse().unwrap(), dir.join(data_dir));
        Coordinator::start(options).await.unwrap_err()
    };
    let exposed = error("0.0.0.0:0", "other").await;
    assert!(
        matches!(exposed, CoordinatorError::Exposed { .. }),
        "{exposed}"
    );
    assert!(!dir.join("other").exists());
    let second = error("127.0.0.1:0", "coordinator").await;
    assert!(
        second.to_string().contains("in use by another coordinator"),
        "{second}"
    );
    let taken = error(&bench.coordinator.local_addr().to_string(), "third").await;
    assert!(matches!(taken, CoordinatorError::Listen { .. }), "{taken}");
    let file = error("127.0.0.1:0", "text.txt").await;
    assert!(matches!(file, CoordinatorError::DataDir { .. }), "{file}");

    let mut open = Options::new("0.0.0.0:0".parse().unwrap(), dir.join("open"));
    open.insecure = true;
    let open = Coordinator::start(open).await.unwrap();
    assert!(
        open.url().starts_with("http://127.0.0.1:"),
        "{}",
        open.url()
    );
    open.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_written_stops_the_coordinator() {
    let mut bench = Bench::new().await;
    bench.submit(&bench.spec(1), "").await.unwrap();
    let journal = bench.dir.path().join("coordinator/journal.sqlite");
    // Another connection takes the table away, as a damaged disk would.
    let damage = rusqlite::Connection::open(journal).unwrap();
    damage.execute_batch("DROP TABLE records").unwrap();
    let status = bench.submit(&bench.spec(1), "").await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "what is not on record is not acknowledged"
    );
    let error = bench.coordinator.join().await.unwrap_err();
    assert!(matches!(error, CoordinatorError::Journal(_)), "{error}");
    bench.coordinator.join().await.unwrap();
}
