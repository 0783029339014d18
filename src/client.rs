use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use muster_access::{Connection, Credentials, Dial, DialError};
use muster_proto::v1::{ListJobsRequest, StatusView, job_service_client::JobServiceClient};

use crate::failure::Failure;

/// Where a coordinator listens unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7070";
/// The URL of that place.
pub const DEFAULT_URL: &str = "127.0.0.1:7070";

/// How often a quiet stream is checked for a coordinator that is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A list of many jobs with many workers is larger than tonic's usual bound.
const LARGEST_ANSWER_BYTES: usize = 256 << 20;

/// Which coordinator to ask, and as whom.
#[derive(Clone, Debug, Args)]
pub struct Coordinator {
    /// The coordinator, as http://HOST:PORT or https://HOST:PORT; HOST:PORT means https where the credentials know an authority
    #[arg(long = "coordinator", value_name = "URL", env = "MUSTER_COORDINATOR", default_value = DEFAULT_URL)]
    pub url: String,
    /// Directory of what proves who calls: ca.crt, with tls.crt and tls.key, or with token
    #[arg(long, value_name = "DIR", env = "MUSTER_CREDENTIALS")]
    pub credentials: Option<PathBuf>,
}

/// A connection to a coordinator.
pub type Client = JobServiceClient<Connection>;

impl Coordinator {
    /// Connects.
    pub async fn connect(&self) -> Result<Client, Failure> {
        connect(&self.full_url()?, self.credentials.as_deref()).await
    }

    /// The coordinator's address, with its scheme.
    pub fn full_url(&self) -> Result<String, Failure> {
        if self.url.contains("://") || !self.url.contains(':') {
            return Ok(self.url.clone());
        }
        let knows_authority = match &self.credentials {
            None => false,
            Some(directory) => Credentials::read(directory, jiff::Timestamp::now())
                .map_err(Failure::usage)?
                .knows_authority(),
        };
        let scheme = if knows_authority { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.url))
    }
}

/// Connects to the coordinator at `url`.
pub async fn connect(url: &str, credentials: Option<&Path>) -> Result<Client, Failure> {
    let dial = Dial::new(url, credentials).map_err(failure)?;
    let connection = dial
        .keep_alive(KEEP_ALIVE)
        .connect()
        .await
        .map_err(failure)?;
    Ok(JobServiceClient::new(connection).max_decoding_message_size(LARGEST_ANSWER_BYTES))
}

/// Why a coordinator cannot be called, as a command's failure.
pub fn failure(error: DialError) -> Failure {
    match error {
        DialError::Unreachable { .. } => Failure::operation(error)
            .help("start one with `muster coordinator`, or name another with --coordinator or MUSTER_COORDINATOR; one with certificates is https://"),
        _ => Failure::usage(error),
    }
}

/// Asks for all jobs, without their workers.
pub fn summaries() -> ListJobsRequest {
    ListJobsRequest {
        view: StatusView::Summary.into(),
    }
}

/// The job that was named, else the newest one.
pub async fn job_or_newest(client: &mut Client, job: Option<String>) -> Result<String, Failure> {
    if let Some(job) = job {
        return Ok(job);
    }
    let jobs = client.list_jobs(summaries()).await?.into_inner();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_scheme_may_be_left_out() {
        let full = |url: &str, credentials: Option<&Path>| {
            let coordinator = Coordinator {
                url: url.into(),
                credentials: credentials.map(Path::to_path_buf),
            };
            coordinator.full_url().unwrap()
        };
        assert_eq!(full("node-1:7070", None), "http://node-1:7070");
        assert_eq!(full("https://[::1]:7", None), "https://[::1]:7");
        let dir = tempfile::tempdir().unwrap();
        muster_access::Secret::new("abc").write(dir.path()).unwrap();
        assert_eq!(full("node-1:7070", Some(dir.path())), "http://node-1:7070");
        let validity = muster_access::Validity {
            from: std::time::SystemTime::now(),
            days: 1,
        };
        muster_access::Authority::create(dir.path(), validity).unwrap();
        assert_eq!(full("node-1:7070", Some(dir.path())), "https://node-1:7070");
    }

    #[tokio::test]
    async fn what_is_no_address_is_the_users_to_put_right() {
        for bad in ["", "node-1", "http://", "ftp://node-1:7070"] {
            let refused = connect(bad, None).await.unwrap_err();
            assert_eq!(
                format!("{:?}", refused.report()),
                format!("{:?}", std::process::ExitCode::from(2)),
                "{bad}"
            );
        }
    }
}
