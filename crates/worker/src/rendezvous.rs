//! The generation's key-value store, as libtorch's process groups see it: calls to the coordinator's StoreService.

use std::{future::Future, time::Duration};

use muster_access::Connection;
use muster_c10d::{StoreBackend, StoreError};
use muster_proto::v1::{self, store_service_client::StoreServiceClient};
use tokio::runtime::Handle;
use tonic::{Code, Response, Status};

/// Between two tries while the coordinator is away.
const RETRY: Duration = Duration::from_millis(50);
/// Bounds an operation that need not wait for a peer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The store of one generation. Its waits end with an error once the generation is over.
pub struct RendezvousStore {
    runtime: Handle,
    client: StoreServiceClient<Connection>,
    scope: v1::StoreScope,
}

impl RendezvousStore {
    /// Calls run on `runtime`; they are made from threads that are not its own.
    pub fn new(runtime: Handle, connection: Connection, scope: v1::StoreScope) -> Self {
        Self {
            runtime,
            client: StoreServiceClient::new(connection),
            scope,
        }
    }

    fn scope(&self) -> Option<v1::StoreScope> {
        Some(self.scope.clone())
    }

    /// Runs one call to its end, again while the coordinator cannot be reached, for at most `timeout`.
    fn call<T, F>(
        &self,
        timeout: Duration,
        call: impl Fn(StoreServiceClient<Connection>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let attempts = async {
            loop {
                match call(self.client.clone()).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) => match status.code() {
                        Code::Unavailable => tokio::time::sleep(RETRY).await,
                        Code::DeadlineExceeded => return Err(StoreError::TimedOut(timeout)),
                        Code::Aborted => {
                            return Err(StoreError::Cancelled(status.message().to_owned()));
                        }
                        _ => return Err(StoreError::Other(status.message().to_owned())),
                    },
                }
            }
        };
        self.runtime.block_on(async {
            tokio::time::timeout(timeout, attempts)
                .await
                .unwrap_or(Err(StoreError::TimedOut(timeout)))
        })
    }
}

impl StoreBackend for RendezvousStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let request = v1::StoreSetRequest {
            scope: self.scope(),
            key: key.into(),
            value: value.into(),
        };
        self.call(PATIENCE, |mut client| {
            let request = request.clone();
            async move { client.set(request).await }
        })?;
        Ok(())
    }

    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        let request = v1::StoreGetRequest {
            scope: self.scope(),
            key: key.into(),
        };
        let response = self.call(timeout, |mut client| {
            let request = request.clone();
            async move { client.get(request).await }
        })?;
        Ok(response.value)
    }

    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        let request = v1::StoreAddRequest {
            scope: self.scope(),
            key: key.into(),
            delta,
        };
        let response = self.call(PATIENCE, |mut client| {
            let request = request.clone();
            async move { client.add(request).await }
        })?;
        Ok(response.value)
    }

    fn compare_set(
        &self,
        key: &str,
        expected: &[u8],
        desired: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let request = v1::StoreCompareSetRequest {
            scope: self.scope(),
            key: key.into(),
            expected: expected.into(),
            desired: desired.into(),
        };
        let response = self.call(PATIENCE, |mut client| {
            let request = request.clone();
            async move { client.compare_set(request).await }
        })?;
        Ok(response.value)
    }

    fn check(&self, keys: &[&str]) -> Result<bool, StoreError> {
        let request = self.check_request(keys);
        let response = self.call(PATIENCE, |mut client| {
            let request = request.clone();
            async move { client.check(request).await }
        })?;
        Ok(response.present)
    }

    fn wait(&self, keys: &[&str], timeout: Duration) -> Result<(), StoreError> {
        let request = self.check_request(keys);
        self.call(timeout, |mut client| {
            let request = request.clone();
            async move { client.wait(request).await }
        })?;
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let request = v1::StoreDeleteRequest {
            scope: self.scope(),
            key: key.into(),
        };
        let response = self.call(PATIENCE, |mut client| {
            let request = request.clone();
            async move { client.delete(request).await }
        })?;
        Ok(response.deleted)
    }

    fn num_keys(&self) -> Result<i64, StoreError> {
        let request = v1::StoreCountRequest {
            scope: self.scope(),
        };
        let response = self.call(PATIENCE, |mut client| {
            let request = request.clone();
            async move { client.count_keys(request).await }
        })?;
        Ok(response.count)
    }
}

impl RendezvousStore {
    fn check_request(&self, keys: &[&str]) -> v1::StoreCheckRequest {
        v1::StoreCheckRequest {
            scope: self.scope(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        }
    }
}
