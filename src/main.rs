//! The muster binary: coordinator, agent and command line.

mod acted;
mod audit_words;
mod checkpoints;
mod cli;
mod client;
mod commands;
mod doctor;
#[cfg(test)]
mod examples;
mod failure;
mod job_history;
mod limits;
mod log_lines;
mod logging;
mod manual;
mod output;
mod progress;
mod recompute;
mod run_directory;
mod run_record;
mod signals;
mod spec_file;
mod words;
mod worker_binary;
mod worker_call;

use std::{process::ExitCode, time::Duration};

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    failure::Failure,
};

/// How long what still runs in the background may hold up the end of the process.
const FAREWELL: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    failure::install_hook();
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    logging::start(cli.log.as_deref(), cli.command.default_log())?;
    // A tiny process for each worker: it does without the threads of a runtime.
    if let Command::Shim(args) = cli.command {
        return commands::shim::run(args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::operation(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(run(cli.command));
    runtime.shutdown_timeout(FAREWELL);
    outcome
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => commands::run::run(args).await,
        Command::Coordinator(args) => commands::coordinator::run(args).await,
        Command::Agent(args) => commands::agent::run(args).await,
        Command::Submit(args) => commands::submit::run(args).await,
        Command::Jobs(args) => commands::jobs::run(args).await,
        Command::Status(args) => commands::status::run(args).await,
        Command::Wait(args) => commands::wait::run(args).await,
        Command::Events(args) => commands::events::run(args).await,
        Command::Logs(args) => commands::logs::run(args).await,
        Command::Stop(args) => commands::stop::run(args).await,
        Command::Cancel(args) => commands::cancel::run(args).await,
        Command::Resume(args) => commands::resume::run(args).await,
        Command::Nodes(args) => commands::nodes::run(args).await,
        Command::Cordon(args) => commands::cordon::run(args).await,
        Command::Drain(args) => commands::drain::run(args).await,
        Command::Uncordon(args) => commands::uncordon::run(args).await,
        Command::Health(args) => commands::health::run(args).await,
        Command::Audit(args) => commands::audit::run(args).await,
        Command::Checkpoint(args) => commands::checkpoint::run(args).await,
        Command::Data(args) => commands::data::run(args).await,
        Command::Certs(args) => commands::certs::run(args),
        Command::Token(args) => commands::token::run(args),
        Command::Journal(args) => commands::journal::run(args),
        Command::Config(args) => commands::config::run(args),
        Command::Generate(args) => commands::generate::run(args).await,
        Command::Eval(args) => commands::eval::run(args).await,
        Command::Import(args) => commands::import::run(args),
        Command::Export(args) => commands::export::run(args).await,
        Command::Doctor(args) => commands::doctor::run(args).await,
        Command::Completions(args) => commands::completions::run(args),
        Command::Man(args) => commands::man::run(args),
        Command::Shim(args) => commands::shim::run(args),
    }
}
