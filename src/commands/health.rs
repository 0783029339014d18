use muster_access::Dial;
use serde_json::json;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    client::{self, Coordinator},
    failure::Failure,
    output::{self, Output},
};

/// Arguments of `muster health`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster health --coordinator https://head:7070 --credentials /etc/muster/node

It asks grpc.health.v1, which takes no role: for probes, where the prober does not speak TLS itself. Exit code 0: it serves.")]
pub struct Args {
    #[command(flatten)]
    coordinator: Coordinator,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Asks whether a coordinator serves.
pub async fn run(args: Args) -> Result<(), Failure> {
    let url = args.coordinator.full_url()?;
    let dial = Dial::new(&url, args.coordinator.credentials.as_deref());
    let connection = dial
        .map_err(client::failure)?
        .connect()
        .await
        .map_err(client::failure)?;
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let answer = HealthClient::new(connection)
        .check(request)
        .await?
        .into_inner();
    match answer.status() {
        ServingStatus::Serving => match args.output {
            Output::Json => output::json_line(&json!({ "status": "serving" })),
            Output::Table => output::line("serving"),
        },
        other => Err(Failure::operation(format!(
            "the coordinator at {url} does not serve: {}",
            other.as_str_name()
        ))),
    }
}
