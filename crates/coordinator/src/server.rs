use std::{path::PathBuf, sync::Arc, time::Duration};

use muster_proto::v1::{
    FILE_DESCRIPTOR_SET, agent_service_server::AgentServiceServer,
    job_service_server::JobServiceServer, store_service_server::StoreServiceServer,
    worker_service_server::WorkerServiceServer,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    access::{Guard, GuardLayer, Listener},
    inbox::Core,
    job_files::JobDirs,
    log_router::LogRouter,
    services::{Agents, Jobs, Stores, Workers},
    spaces::{MAX_KEY_BYTES, MAX_VALUE_BYTES, Spaces},
};

/// A peer that is gone without a word is noticed after at most twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Room for a value of the store, its key and its scope.
const MAX_MESSAGE_BYTES: usize = 2 * MAX_VALUE_BYTES + MAX_KEY_BYTES + (64 << 10);
/// A checkpoint part lists every tensor that it holds.
const MAX_WORKER_MESSAGE_BYTES: usize = 64 << 20;

/// All that the services need.
pub(crate) struct Services {
    pub(crate) core: Core,
    pub(crate) spaces: Arc<Spaces>,
    pub(crate) dirs: JobDirs,
    pub(crate) journal: PathBuf,
    pub(crate) guard: Guard,
    pub(crate) stop: CancellationToken,
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("the reflection service cannot be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `stop` is cancelled and all calls under way have ended.
pub(crate) async fn serve(listener: Listener, services: Services) -> Result<(), ServeError> {
    let Services {
        core,
        spaces,
        dirs,
        journal,
        guard,
        stop,
    } = services;
    let logs = Arc::<LogRouter>::default();
    let jobs = JobServiceServer::new(Jobs {
        core: core.clone(),
        dirs,
        journal,
        logs: Arc::clone(&logs),
        stop: stop.clone(),
    });
    let agents = AgentServiceServer::new(Agents {
        core: core.clone(),
        logs,
    });
    let workers = WorkerServiceServer::new(Workers { core })
        .max_decoding_message_size(MAX_WORKER_MESSAGE_BYTES);
    let stores = StoreServiceServer::new(Stores {
        spaces,
        stop: stop.clone(),
    })
    .max_decoding_message_size(MAX_MESSAGE_BYTES);

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobServiceServer<Jobs>>().await;
    health.set_serving::<AgentServiceServer<Agents>>().await;
    health.set_serving::<WorkerServiceServer<Workers>>().await;
    health.set_serving::<StoreServiceServer<Stores>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Server::builder()
        .layer(GuardLayer(guard))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(jobs)
        .add_service(agents)
        .add_service(workers)
        .add_service(stores)
        .serve_with_incoming_shutdown(listener.connections(), stop.cancelled_owned())
        .await?;
    Ok(())
}
