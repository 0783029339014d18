use std::{error::Error, time::Duration};

use clap::Args;
use muster_proto::v1::{ListJobsRequest, job_service_client::JobServiceClient};
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

/// Where a coordinator listens unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7070";
/// The URL of that place.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7070";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a quiet stream is checked for a coordinator that is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A list of many jobs with many workers is larger than tonic's usual bound.
const LARGEST_ANSWER_BYTES: usize = 256 << 20;

/// Which coordinator to ask.
#[derive(Clone, Debug, Args)]
pub struct Coordinator {
    /// The coordinator
    #[arg(long = "coordinator", value_name = "URL", env = "MUSTER_COORDINATOR", default_value = DEFAULT_URL)]
    pub url: String,
}

/// A connection to a coordinator.
pub type Client = JobServiceClient<Channel>;

impl Coordinator {
    /// Connects.
    pub async fn connect(&self) -> Result<Client, Failure> {
        connect(&self.url).await
    }
}

/// Connects to the coordinator at `url`.
pub async fn connect(url: &str) -> Result<Client, Failure> {
    let full = full_url(url)?;
    let wrong = |error: tonic::transport::Error| {
        Failure::usage(format!(
            "{url:?} is no address of a coordinator: {}",
            causes(&error)
        ))
        .help("give http://HOST:PORT")
    };
    let endpoint = Endpoint::from_shared(full.clone())
        .map_err(wrong)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let channel = endpoint.connect().await.map_err(|error| {
        Failure::operation(format!(
            "cannot reach the coordinator at {full}: {}",
            causes(&error)
        ))
        .help("start one with `muster coordinator`, or name another with --coordinator or MUSTER_COORDINATOR")
    })?;
    Ok(JobServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER_BYTES))
}

/// `HOST:PORT` is short for `http://HOST:PORT`.
pub fn full_url(url: &str) -> Result<String, Failure> {
    match url.split_once("://") {
        Some(("http", rest)) if !rest.is_empty() => Ok(url.to_owned()),
        None if url.contains(':') => Ok(format!("http://{url}")),
        _ => Err(
            Failure::usage(format!("{url:?} is no address of a coordinator"))
                .help("give http://HOST:PORT"),
        ),
    }
}

/// The job that was named, else the newest one.
pub async fn job_or_newest(client: &mut Client, job: Option<String>) -> Result<String, Failure> {
    if let Some(job) = job {
        return Ok(job);
    }
    let jobs = client.list_jobs(ListJobsRequest {}).await?.into_inner();
    match jobs.jobs.into_iter().next() {
        Some(newest) => Ok(newest.job_id),
        None => Err(Failure::operation("the coordinator has no jobs yet")
            .help("hand it one with `muster submit SPEC`")),
    }
}

/// Whether a job in this state has ended.
pub fn is_over(state: &str) -> bool {
    matches!(state, "finished" | "failed" | "stopped")
}

/// An error with all that caused it; tonic's own words leave the causes out.
fn causes(error: &dyn Error) -> String {
    let mut words = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if words.last() != Some(&text) {
            words.push(text);
        }
        next = cause.source();
    }
    words.join(": ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_scheme_may_be_left_out() {
        assert_eq!(full_url("node-1:7070").unwrap(), "http://node-1:7070");
        assert_eq!(full_url("http://[::1]:7").unwrap(), "http://[::1]:7");
        for bad in ["", "node-1", "http://", "https://node-1:7070"] {
            assert!(full_url(bad).is_err(), "{bad}");
        }
    }
}
