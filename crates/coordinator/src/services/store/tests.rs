#![allow(clippy::unwrap_used)]

use std::time::Duration;

use muster_proto::v1::{
    store_service_client::StoreServiceClient, store_service_server::StoreServiceServer,
};
use muster_types::JobId;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::DropGuard;
use tonic::{
    Code,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::*;

const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

struct Bench {
    spaces: Arc<Spaces>,
    stop: CancellationToken,
    client: StoreServiceClient<Channel>,
    server: JoinHandle<()>,
    _guard: DropGuard,
}

impl Bench {
    /// The service on a real socket, with generation 1 open.
    async fn new() -> Self {
        let spaces = Arc::<Spaces>::default();
        spaces.open(job(), Generation(1));
        let stop = CancellationToken::new();
        let service = StoreServiceServer::new(Stores {
            spaces: Arc::clone(&spaces),
            stop: stop.clone(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stopped = stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener);
            let server = Server::builder().add_service(service);
            server
                .serve_with_incoming_shutdown(incoming, stopped)
                .await
                .unwrap();
        });
        let client = StoreServiceClient::connect(url).await.unwrap();
        let _guard = stop.clone().drop_guard();
        Self {
            spaces,
            stop,
            client,
            server,
            _guard,
        }
    }

    async fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Status> {
        let (scope, key, value) = (scope(1), key.into(), value.to_vec());
        self.client
            .set(StoreSetRequest { scope, key, value })
            .await
            .map(|_| ())
    }

    async fn compare_set(&mut self, expected: &[u8], desired: &[u8]) -> Vec<u8> {
        let (scope, key) = (scope(1), "c".into());
        let (expected, desired) = (expected.to_vec(), desired.to_vec());
        let request = StoreCompareSetRequest {
            scope,
            key,
            expected,
            desired,
        };
        self.client
            .compare_set(request)
            .await
            .unwrap()
            .into_inner()
            .value
    }

    async fn add(&mut self, key: &str, delta: i64) -> Result<i64, Status> {
        let request = StoreAddRequest {
            scope: scope(1),
            key: key.into(),
            delta,
        };
        self.client
            .add(request)
            .await
            .map(|answer| answer.into_inner().value)
    }

    /// A wait for `key` on a call of its own.
    fn get(&self, generation: u64, key: &str) -> JoinHandle<Result<Vec<u8>, Status>> {
        let mut client = self.client.clone();
        let request = StoreGetRequest {
            scope: scope(generation),
            key: key.into(),
        };
        tokio::spawn(async move { Ok(client.get(request).await?.into_inner().value) })
    }

    fn wait(&self, keys: &[&str]) -> JoinHandle<Result<(), Status>> {
        let mut client = self.client.clone();
        let request = check(keys);
        tokio::spawn(async move { client.wait(request).await.map(|_| ()) })
    }
}

fn job() -> JobId {
    JOB.parse().unwrap()
}

fn scope(generation: u64) -> Option<StoreScope> {
    Some(StoreScope {
        job_id: JOB.into(),
        generation,
        worker_id: "w-0".into(),
    })
}

fn check(keys: &[&str]) -> StoreCheckRequest {
    StoreCheckRequest {
        scope: scope(1),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    }
}

#[tokio::test]
async fn keys_are_set_read_added_to_compared_and_deleted() {
    let mut bench = Bench::new().await;
    bench.set("a", b"1\x00\xff").await.unwrap();
    assert_eq!(bench.get(1, "a").await.unwrap().unwrap(), b"1\x00\xff");
    assert_eq!(bench.add("n", 5).await.unwrap(), 5);
    assert_eq!(bench.add("n", -7).await.unwrap(), -2);
    assert_eq!(bench.get(1, "n").await.unwrap().unwrap(), b"-2");
    assert_eq!(
        bench.add("a", 1).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    assert_eq!(
        bench.compare_set(b"x", b"y").await,
        b"x",
        "absent, though expected"
    );
    assert_eq!(
        bench.compare_set(b"", b"y").await,
        b"y",
        "absent, as expected"
    );
    assert_eq!(bench.compare_set(b"x", b"z").await, b"y", "another value");
    assert_eq!(
        bench.compare_set(b"y", b"z").await,
        b"z",
        "the expected value"
    );

    let present = bench
        .client
        .check(check(&["a", "c", "n"]))
        .await
        .unwrap()
        .into_inner()
        .present;
    assert!(present);
    assert!(
        !bench
            .client
            .check(check(&["a", "b"]))
            .await
            .unwrap()
            .into_inner()
            .present
    );
    let count = bench
        .client
        .count_keys(StoreCountRequest { scope: scope(1) })
        .await
        .unwrap();
    assert_eq!(count.into_inner().count, 3);
    for deleted in [true, false] {
        let request = StoreDeleteRequest {
            scope: scope(1),
            key: "a".into(),
        };
        assert_eq!(
            bench
                .client
                .delete(request)
                .await
                .unwrap()
                .into_inner()
                .deleted,
            deleted
        );
    }
}

#[tokio::test]
async fn a_read_waits_for_its_key_and_a_wait_for_all_of_its_keys() {
    let mut bench = Bench::new().await;
    let (get, wait) = (bench.get(1, "a"), bench.wait(&["a", "b"]));
    bench.set("a", b"first").await.unwrap();
    assert_eq!(get.await.unwrap().unwrap(), b"first");
    assert!(!wait.is_finished());
    bench.set("b", b"").await.unwrap();
    wait.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_a_generation_ends_its_waits_and_refuses_what_comes_later() {
    let mut bench = Bench::new().await;
    bench.spaces.open(job(), Generation(2));
    let waits = [bench.get(1, "never"), bench.get(1, "neither")];
    let all = bench.wait(&["never"]);
    let next = bench.get(2, "later");
    // The waits are under way once the service has answered a later call on the same connection.
    bench.set("a", b"1").await.unwrap();
    bench.spaces.close(job(), Generation(1));
    for wait in waits {
        assert_eq!(wait.await.unwrap().unwrap_err().code(), Code::Aborted);
    }
    assert_eq!(all.await.unwrap().unwrap_err().code(), Code::Aborted);
    assert_eq!(
        bench.set("a", b"2").await.unwrap_err().code(),
        Code::Aborted
    );
    assert_eq!(
        bench.get(3, "a").await.unwrap().unwrap_err().code(),
        Code::Aborted,
        "not agreed yet"
    );
    assert!(!next.is_finished(), "another generation's wait goes on");
    next.abort();
}

#[tokio::test]
async fn a_wait_ends_with_its_deadline_or_with_the_coordinator() {
    let mut bench = Bench::new().await;
    let mut request = Request::new(check(&["never"]));
    request.set_timeout(Duration::from_millis(50));
    let code = bench.client.wait(request).await.unwrap_err().code();
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    let wait = bench.wait(&["never"]);
    bench.set("a", b"1").await.unwrap();
    bench.stop.cancel();
    assert_eq!(wait.await.unwrap().unwrap_err().code(), Code::Unavailable);
    drop(bench.client);
    bench.server.await.unwrap();
}

#[tokio::test]
async fn what_names_no_generation_is_refused() {
    let mut bench = Bench::new().await;
    let nameless = StoreCountRequest { scope: None };
    assert_eq!(
        bench.client.count_keys(nameless).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let scope = Some(StoreScope {
        job_id: "7".into(),
        ..StoreScope::default()
    });
    let wrong = StoreCountRequest { scope };
    assert_eq!(
        bench.client.count_keys(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
