//! Cordons and the queue, over real gRPC.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use muster_coordinator::{Coordinator, Options};
use muster_proto::v1::{
    CordonNodeRequest, DrainNodeRequest, Event, ListEventsRequest, ListNodesRequest, NodeLeaving,
    NodeStatus, UncordonNodeRequest, agent_command, agent_message,
    job_service_client::JobServiceClient,
};
use support::{Agent, Bench};
use tonic::{Code, Status};

async fn cordon(bench: &mut Bench, node: &str, reason: &str) -> Result<(), Status> {
    let request = CordonNodeRequest {
        node: node.into(),
        reason: reason.into(),
    };
    bench.client.cordon_node(request).await.map(drop)
}

async fn uncordon(bench: &mut Bench, node: &str) -> Result<(), Status> {
    let request = UncordonNodeRequest { node: node.into() };
    bench.client.uncordon_node(request).await.map(drop)
}

async fn nodes(bench: &mut Bench) -> Vec<NodeStatus> {
    let answer = bench.client.list_nodes(ListNodesRequest {}).await;
    answer.unwrap().into_inner().nodes
}

async fn events(bench: &mut Bench, job: &str) -> Vec<Event> {
    let request = ListEventsRequest {
        job_id: job.into(),
        ..ListEventsRequest::default()
    };
    let answer = bench.client.list_events(request).await.unwrap();
    let (mut stream, mut all) = (answer.into_inner(), Vec::new());
    while let Some(event) = stream.message().await.unwrap() {
        all.push(event);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cordon_is_durable_and_keeps_new_workers_off() {
    let mut bench = Bench::new().await;
    for (node, reason, code) in [
        ("node-a", "", Code::NotFound),
        ("", "", Code::InvalidArgument),
        ("node-a", "two\nlines", Code::InvalidArgument),
        ("node-a", &"x".repeat(501), Code::InvalidArgument),
    ] {
        let status = cordon(&mut bench, node, reason).await.unwrap_err();
        assert_eq!(status.code(), code, "{node:?} {reason:?}: {status}");
    }
    let status = uncordon(&mut bench, "node-a").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    let agent = Agent::connect(bench.coordinator.url(), 2, vec![])
        .await
        .unwrap();
    cordon(&mut bench, "node-a", "a fan is loud").await.unwrap();
    let node = nodes(&mut bench).await.remove(0);
    assert!(node.cordoned && node.connected, "{node:?}");
    assert_eq!(node.cordon_reason, "a fan is loud");
    let mut spec = bench.spec(1);
    spec.queue.user = "anna".into();
    spec.queue.priority = -3;
    let job = bench.submit(&spec, "").await.unwrap();
    let status = bench.status(&job).await;
    assert_eq!((status.user.as_str(), status.priority), ("anna", -3));
    assert_eq!(
        status.state_reason,
        "needs 1 cpu slot, the cluster offers none beside 2 cordoned"
    );

    drop(agent);
    let mut bench = bench.restart().await;
    let node = nodes(&mut bench).await.remove(0);
    assert!(node.cordoned && !node.connected, "{node:?}");
    assert_eq!(node.cordon_reason, "a fan is loud");
    let mut agent = Agent::connect(bench.coordinator.url(), 2, vec![])
        .await
        .unwrap();
    assert_eq!(bench.status(&job).await.state, "pending");

    uncordon(&mut bench, "node-a").await.unwrap();
    let agent_command::Kind::Start(start) = agent.next().await else {
        panic!()
    };
    assert_eq!(start.job_id, job);
    assert!(!nodes(&mut bench).await[0].cordoned);
    let events = events(&mut bench, &job).await;
    let told = events.iter().find(|event| event.kind == "node_uncordoned");
    assert_eq!(told.unwrap().reason, "node node-a is used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_durable_and_an_agent_that_leaves_is_seen_to() {
    let mut bench = Bench::new().await;
    let drain = |node: &str, reason: &str| DrainNodeRequest {
        node: node.into(),
        reason: reason.into(),
    };
    for (node, reason, code) in [
        ("node-a", "", Code::NotFound),
        ("", "", Code::InvalidArgument),
        ("node-a", "two\nlines", Code::InvalidArgument),
    ] {
        let status = bench.client.drain_node(drain(node, reason)).await;
        assert_eq!(status.unwrap_err().code(), code, "{node:?} {reason:?}");
    }
    let agent = Agent::connect(bench.coordinator.url(), 2, vec![])
        .await
        .unwrap();
    bench
        .client
        .drain_node(drain("node-a", "new memory at noon"))
        .await
        .unwrap();
    let job = bench.submit(&bench.spec(1), "").await.unwrap();
    let status = bench.status(&job).await;
    assert_eq!(
        status.state_reason,
        "needs 1 cpu slot, the cluster offers none beside 2 on nodes that are drained"
    );
    drop(agent);
    let mut bench = bench.restart().await;
    let node = nodes(&mut bench).await.remove(0);
    assert_eq!(node.drain, "drained");
    assert_eq!(node.cordon_reason, "new memory at noon");
    uncordon(&mut bench, "node-a").await.unwrap();
    assert_eq!(nodes(&mut bench).await.len(), 0, "it was not back since");

    let mut agent = Agent::connect(bench.coordinator.url(), 2, vec![])
        .await
        .unwrap();
    let agent_command::Kind::Start(start) = agent.next().await else {
        panic!()
    };
    assert_eq!(start.job_id, job);
    let leaving = NodeLeaving { grace_seconds: 25 };
    agent.say(agent_message::Kind::Leaving(leaving)).await;
    // Nobody has attached yet who could leave, and the job has no other place.
    let agent_command::Kind::Kill(kill) = agent.next().await else {
        panic!()
    };
    assert_eq!(kill.worker_id, start.worker_id);
    let node = nodes(&mut bench).await.remove(0);
    assert_eq!(node.drain, "draining");
    assert_eq!(node.cordon_reason, "its agent is about to end");
    let events = events(&mut bench, &job).await;
    let told = events.iter().filter(|event| event.kind == "node_draining");
    let told: Vec<_> = told.map(|event| event.reason.as_str()).collect();
    assert_eq!(
        told,
        [
            "the agent of node node-a is about to end; it waits up to 25 s for its workers to leave in good order"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_jobs_hold_no_more_slots_than_the_quota_that_the_coordinator_was_started_with() {
    let bench = Bench::new().await;
    let Bench {
        dir, coordinator, ..
    } = bench;
    coordinator.shutdown().await.unwrap();
    let mut options = Options::new("127.0.0.1:0".parse().unwrap(), dir.path().join("quotas"));
    options.user_quotas.everyone = 4;
    options.user_quotas.named.insert("anna".into(), 1);
    let coordinator = Coordinator::start(options).await.unwrap();
    let client = JobServiceClient::connect(coordinator.url()).await.unwrap();
    let mut bench = Bench {
        dir,
        coordinator,
        client,
    };
    let mut agent = Agent::connect(bench.coordinator.url(), 3, vec![])
        .await
        .unwrap();
    let mut spec = bench.spec(1);
    spec.queue.user = "anna".into();
    let first = bench.submit(&spec, "").await.unwrap();
    let second = bench.submit(&spec, "").await.unwrap();
    spec.queue.user = "eve".into();
    let third = bench.submit(&spec, "").await.unwrap();
    for (job, pid) in [(&first, 100), (&third, 101)] {
        let (start, _) = agent.start_worker(pid).await;
        assert_eq!(&start.job_id, job);
    }
    let status = bench.status(&second).await;
    assert_eq!(status.state, "pending");
    assert_eq!(
        status.state_reason,
        "over quota: needs 1 cpu slot; of at most 1, user \"anna\" holds 1"
    );
}
