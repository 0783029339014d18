use std::{net::SocketAddr, path::PathBuf};

use muster_coordinator::{Coordinator, CoordinatorError, Options};

use crate::{client::DEFAULT_LISTEN, failure::Failure, output, signals::Signals};

/// Arguments of `muster coordinator`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster coordinator --data-dir /var/lib/muster
  muster coordinator --listen 0.0.0.0:7070 --insecure --data-dir /var/lib/muster

It ends on Ctrl-C or SIGTERM. Agents, workers and jobs go on without it, and find it again when it is back.")]
pub struct Args {
    /// Address to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Holds the journal and the jobs' files
    #[arg(long, value_name = "DIR", default_value = "muster-data/coordinator")]
    data_dir: PathBuf,
    /// Accept that everyone who reaches the address may submit jobs; needed to listen beyond loopback
    #[arg(long)]
    insecure: bool,
}

/// Serves until asked to end.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut options = Options::new(args.listen, args.data_dir);
    options.insecure = args.insecure;
    let mut handle = Coordinator::start(options).await.map_err(failure)?;
    output::line(format_args!("coordinator: {}", handle.url()))?;
    let outcome = tokio::select! {
        outcome = handle.join() => outcome,
        () = signals.next() => Ok(()),
    };
    outcome.and(handle.shutdown().await).map_err(failure)
}

/// What the coordinator says, as a command's failure.
pub fn failure(error: CoordinatorError) -> Failure {
    match error {
        CoordinatorError::Exposed { .. } => Failure::usage(error),
        _ => Failure::operation(error),
    }
}
