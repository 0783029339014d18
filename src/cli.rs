use clap::{Parser, Subcommand};

use crate::commands;

/// What `--version` says.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("MUSTER_COMMIT"),
    ", protocol ",
    env!("MUSTER_PROTOCOL"),
    ")"
);

const EXAMPLES: &str = "\
Examples:
  # Turn text into a dataset and train on it, on this machine
  muster data prepare --tokenizer train-bpe:4096 --out data/mine texts/
  muster run configs/quickstart.toml --workers 2 --set data.path=data/mine

  # The same on a cluster
  muster coordinator --listen 127.0.0.1:7070 --data-dir /var/lib/muster
  muster agent --coordinator http://127.0.0.1:7070 --slots 2 --name node-1
  muster submit configs/quickstart.toml
  muster status --watch

Exit codes: 0 success, 1 the job or the operation failed, 2 bad usage or bad configuration.";

/// Assembles nodes into one synchronous LLM-pretraining run and keeps that run going, whatever dies on the way.
#[derive(Debug, Parser)]
#[command(name = "muster", version = VERSION, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to log on stderr, such as `debug` or `muster_agent=debug`; in place of RUST_LOG.
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Logging")]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train on this machine: coordinator, agent and workers in one go, with live progress
    Run(commands::run::Args),
    /// Serve as the coordinator of a cluster
    Coordinator(commands::coordinator::Args),
    /// Serve as a node's agent: offer its slots, start and watch its workers
    Agent(commands::agent::Args),
    /// Hand a run spec to a coordinator, as a new job
    Submit(commands::submit::Args),
    /// List the jobs, newest first
    Jobs(commands::jobs::Args),
    /// Show where a job stands
    Status(commands::status::Args),
    /// Wait until a job is over
    Wait(commands::wait::Args),
    /// Show what happened to a job, and why
    Events(commands::events::Args),
    /// Show what a job's workers wrote
    Logs(commands::logs::Args),
    /// Save a checkpoint and end a job, to be resumed later
    Stop(commands::stop::Args),
    /// End a job at once, without saving
    Cancel(commands::cancel::Args),
    /// Take a stopped or failed job up again, from its newest checkpoint
    Resume(commands::resume::Args),
    /// List the nodes
    Nodes(commands::nodes::Args),
    /// Place nothing new on a node; what runs there goes on
    Cordon(commands::cordon::Args),
    /// Empty a node: its workers move elsewhere, or save and wait
    Drain(commands::drain::Args),
    /// Use a cordoned or drained node again
    Uncordon(commands::uncordon::Args),
    /// Ask whether a coordinator serves, for probes
    Health(commands::health::Args),
    /// Compare what a job was really fed with what its data order says
    Audit(commands::audit::Args),
    /// List, verify and compare checkpoints
    Checkpoint(commands::checkpoint::Args),
    /// Make datasets from text, and look into them
    Data(commands::data::Args),
    /// Make the certificates by which a coordinator and its callers know each other
    Certs(commands::certs::Args),
    /// Make and revoke the tokens by which a coordinator knows its callers
    Token(commands::token::Args),
    /// Check and copy a coordinator's journal
    Journal(commands::journal::Args),
    /// Show a resolved run spec, or the schema of run specs
    Config(commands::config::Args),
    /// Continue a text with a trained model
    Generate(commands::generate::Args),
    /// Compute something with a trained model, for comparison
    Eval(commands::eval::Args),
    /// Make a checkpoint of a model directory from elsewhere
    Import(commands::import::Args),
    /// Make a model directory for elsewhere of a checkpoint
    Export(commands::export::Args),
    /// Look this machine over: what is wrong with it, and how to put it right
    Doctor(commands::doctor::Args),
    /// Print what a shell needs to complete these commands
    Completions(commands::completions::Args),
    /// Write manual pages, one a command
    Man(commands::man::Args),
    /// Start one worker, wait for it and keep its exit status; agents call it
    #[command(hide = true)]
    Shim(commands::shim::Args),
}

impl Command {
    /// What is logged where neither `--log` nor `RUST_LOG` says: services report what they do, clients only what is wrong.
    pub fn default_log(&self) -> &'static str {
        match self {
            Self::Coordinator(_) | Self::Agent(_) => "info",
            _ => "warn",
        }
    }
}
