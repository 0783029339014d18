use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use muster_proto::v1::{GetStatusRequest, StatusView, job_service_client::JobServiceClient};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// From one question to the next.
const INTERVAL: Duration = Duration::from_millis(100);

/// Asks for the summary of a job's status ten times a second, on a thread and a connection of its own: it must not wait
/// behind thousands of workers of this process.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Result<Vec<f64>, String>>,
}

impl Probe {
    pub fn start(coordinator: String, job: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let asking = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            runtime
                .block_on(ask(coordinator, job, &until))
                .map_err(|error| error.to_string())
        });
        Self { stop, asking }
    }

    /// How long each answer took, in milliseconds.
    ///
    /// # Errors
    /// If a question was not answered.
    pub fn finish(self) -> Result<Vec<f64>, String> {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.asking.join();
        asked.map_err(|_| "the thread that asks for the status panicked".to_owned())?
    }
}

async fn ask(
    coordinator: String,
    job: String,
    stop: &AtomicBool,
) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
    let mut client = JobServiceClient::new(connect(&coordinator).await?);
    let mut took = Vec::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    while !stop.load(Ordering::Relaxed) {
        // What is late because the one before was is late: it counts from when it was due.
        let due: Instant = ticks.tick().await.into();
        status(&mut client, &job, StatusView::Summary).await?;
        took.push(due.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(took)
}

/// A connection of its own to the coordinator.
///
/// # Errors
/// If that is no URL, or cannot be reached.
pub async fn connect(coordinator: &str) -> Result<Channel, Box<dyn std::error::Error>> {
    let endpoint = Endpoint::from_shared(coordinator.to_owned())?;
    Ok(endpoint.connect().await?)
}

/// Asks once.
///
/// # Errors
/// As the call.
pub async fn status(
    client: &mut JobServiceClient<Channel>,
    job: &str,
    view: StatusView,
) -> Result<(), Status> {
    let request = GetStatusRequest {
        job_id: job.to_owned(),
        view: view.into(),
    };
    client.get_status(request).await.map(drop)
}
