//! `muster-worker`: one rank of a job. The agent starts it; people use it through `muster`.

mod agreement;
mod control;
mod error;
mod export;
mod feed;
mod fence;
mod generate;
mod generation;
mod heal;
mod import;
mod logits;
mod membership;
mod offline;
mod pulse;
mod reach;
mod rendezvous;
mod report;
mod saver;
mod shared;
mod train;
mod training;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// The libtorch side of Muster.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work for a job; started by `muster agent`.
    Train(train::Arguments),
    /// Continue a text with a checkpoint's model; started by `muster generate`.
    Generate(generate::Arguments),
    /// Make a checkpoint of a model directory of Hugging Face; started by `muster import`.
    Import(import::Arguments),
    /// Make a model directory of Hugging Face of a checkpoint; started by `muster export`.
    Export(export::Arguments),
    /// Write down what a checkpoint's model computes for given token ids; started by `muster eval logits`.
    Logits(logits::Arguments),
    /// Say what this binary is made of and whether it works here; started by `muster doctor`.
    #[command(hide = true)]
    Report,
}

fn main() {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let status = match arguments.command {
        Command::Train(arguments) => train::run(arguments),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Import(arguments) => import::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Logits(arguments) => logits::run(arguments),
        Command::Report => report::run(),
    };
    std::process::exit(status);
}
