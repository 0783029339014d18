use muster_proto::v1::SubmitRequest;
use muster_spec::RunSpec;
use serde_json::json;
use uuid::Uuid;

use crate::{
    client::{Client, Coordinator},
    failure::Failure,
    output::{self, Output},
    spec_file::{self, SpecArgs},
};

/// Arguments of `muster submit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster submit configs/quickstart.toml
  muster submit configs/quickstart.toml --set train.steps=200 --set workers.max=4 -o json
  muster submit configs/quickstart.toml --set queue.priority=10

Jobs wait by priority, then by age; `muster jobs` says why. `queue.user` is the name in your \
certificate or of your token; without either it is your login name, unless the spec gives another. \
`data.path` and `checkpoint.uri` are read against this directory; every node must reach them under the same path.")]
pub struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    coordinator: Coordinator,
    /// How to print the job's id
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Submits.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut spec = args.spec.load()?;
    spec_file::make_paths_absolute(&mut spec)?;
    spec_file::resolve_init(&mut spec).await?;
    // A coordinator that knows who calls says whose the job is.
    if spec.queue.user.is_empty() && args.coordinator.credentials.is_none() {
        spec.queue.user = login_name();
    }
    let mut client = args.coordinator.connect().await?;
    // Chosen here, so that a request that is sent twice makes one job.
    let job = submit(&mut client, &spec, Uuid::now_v7().to_string()).await?;
    match args.output {
        Output::Json => output::json_line(&json!({ "job_id": job })),
        Output::Table => output::line(format_args!(
            "job {job} is submitted; `muster status {job} --watch` follows it"
        )),
    }
}

/// The login name of whoever runs this; where the system has no name for them, the number it knows them by.
fn login_name() -> String {
    let id = nix::unistd::getuid();
    match nix::unistd::User::from_uid(id) {
        Ok(Some(user)) => user.name,
        _ => id.to_string(),
    }
}

/// Hands `spec` to the coordinator as the job `job_id`. If there is such a job already, it stays as it is.
pub async fn submit(
    client: &mut Client,
    spec: &RunSpec,
    job_id: String,
) -> Result<String, Failure> {
    let spec_json = serde_json::to_string(spec)
        .map_err(|error| Failure::operation(format!("the spec cannot be sent: {error}")))?;
    let request = SubmitRequest { spec_json, job_id };
    Ok(client.submit(request).await?.into_inner().job_id)
}
