use std::sync::Arc;

use bytes::Bytes;
use muster_proto::v1::{
    StoreAddRequest, StoreAddResponse, StoreCheckRequest, StoreCheckResponse,
    StoreCompareSetRequest, StoreCountRequest, StoreCountResponse, StoreDeleteRequest,
    StoreDeleteResponse, StoreGetRequest, StoreGetResponse, StoreScope, StoreSetRequest,
    StoreSetResponse, store_service_server::StoreService,
};
use muster_types::Generation;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    inbox::stopping,
    spaces::{Space, SpaceError, Spaces},
};

/// The key-value stores in which the members of a generation meet. Waits end when the generation is over; a client that
/// gives up cancels its call.
pub(crate) struct Stores {
    pub(crate) spaces: Arc<Spaces>,
    pub(crate) stop: CancellationToken,
}

impl Stores {
    fn space(&self, scope: Option<StoreScope>) -> Result<Arc<Space>, Status> {
        let scope = scope.ok_or_else(|| Status::invalid_argument("the request names no scope"))?;
        let job = scope
            .job_id
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{error}")))?;
        self.spaces
            .get(job, Generation(scope.generation))
            .map_err(status)
    }

    async fn unless_stopped<T>(
        &self,
        wait: impl Future<Output = Result<T, SpaceError>>,
    ) -> Result<T, Status> {
        tokio::select! {
            outcome = wait => outcome.map_err(status),
            () = self.stop.cancelled() => Err(stopping()),
        }
    }
}

fn status(error: SpaceError) -> Status {
    let words = error.to_string();
    match error {
        SpaceError::NotOpen { .. } | SpaceError::Closed => Status::aborted(words),
        SpaceError::TooLarge(_) => Status::resource_exhausted(words),
        SpaceError::NotANumber { .. } => Status::failed_precondition(words),
    }
}

#[tonic::async_trait]
impl StoreService for Stores {
    async fn set(
        &self,
        request: Request<StoreSetRequest>,
    ) -> Result<Response<StoreSetResponse>, Status> {
        let StoreSetRequest { scope, key, value } = request.into_inner();
        self.space(scope)?
            .set(key, Bytes::from(value))
            .map_err(status)?;
        Ok(Response::new(StoreSetResponse {}))
    }

    async fn get(
        &self,
        request: Request<StoreGetRequest>,
    ) -> Result<Response<StoreGetResponse>, Status> {
        let StoreGetRequest { scope, key } = request.into_inner();
        let space = self.space(scope)?;
        let value = self.unless_stopped(space.get(&key)).await?;
        Ok(Response::new(StoreGetResponse {
            value: value.into(),
        }))
    }

    async fn add(
        &self,
        request: Request<StoreAddRequest>,
    ) -> Result<Response<StoreAddResponse>, Status> {
        let StoreAddRequest { scope, key, delta } = request.into_inner();
        let value = self.space(scope)?.add(key, delta).map_err(status)?;
        Ok(Response::new(StoreAddResponse { value }))
    }

    async fn compare_set(
        &self,
        request: Request<StoreCompareSetRequest>,
    ) -> Result<Response<StoreGetResponse>, Status> {
        let StoreCompareSetRequest {
            scope,
            key,
            expected,
            desired,
        } = request.into_inner();
        let space = self.space(scope)?;
        let value = space
            .compare_set(key, expected.into(), desired.into())
            .map_err(status)?;
        Ok(Response::new(StoreGetResponse {
            value: value.into(),
        }))
    }

    async fn check(
        &self,
        request: Request<StoreCheckRequest>,
    ) -> Result<Response<StoreCheckResponse>, Status> {
        let StoreCheckRequest { scope, keys } = request.into_inner();
        let present = self.space(scope)?.check(&keys).map_err(status)?;
        Ok(Response::new(StoreCheckResponse { present }))
    }

    async fn wait(
        &self,
        request: Request<StoreCheckRequest>,
    ) -> Result<Response<StoreSetResponse>, Status> {
        let StoreCheckRequest { scope, keys } = request.into_inner();
        let space = self.space(scope)?;
        self.unless_stopped(space.wait(&keys)).await?;
        Ok(Response::new(StoreSetResponse {}))
    }

    async fn delete(
        &self,
        request: Request<StoreDeleteRequest>,
    ) -> Result<Response<StoreDeleteResponse>, Status> {
        let StoreDeleteRequest { scope, key } = request.into_inner();
        let deleted = self.space(scope)?.delete(&key).map_err(status)?;
        Ok(Response::new(StoreDeleteResponse { deleted }))
    }

    async fn count_keys(
        &self,
        request: Request<StoreCountRequest>,
    ) -> Result<Response<StoreCountResponse>, Status> {
        let count = self
            .space(request.into_inner().scope)?
            .count()
            .map_err(status)?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Response::new(StoreCountResponse { count }))
    }
}

#[cfg(test)]
mod tests;
