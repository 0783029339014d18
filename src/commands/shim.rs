use std::path::PathBuf;

use crate::failure::Failure;

/// Arguments of `muster shim`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The worker's directory, made by its agent
    directory: PathBuf,
}

/// The name of this command; agents call it.
const NAME: &str = "shim";

/// Serves until the worker has ended.
pub fn run(args: Args) -> Result<(), Failure> {
    muster_agent::shim::run(&args.directory).map_err(|error| {
        Failure::operation(format!(
            "the shim of {} failed: {error}",
            args.directory.display()
        ))
    })
}

/// What makes this binary a shim.
pub fn command() -> Result<Vec<PathBuf>, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::operation(format!("cannot find this binary: {error}")))?;
    Ok(vec![own, NAME.into()])
}
