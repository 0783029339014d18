use clap::{Subcommand, ValueEnum};

use crate::{failure::Failure, output, spec_file::SpecArgs};

/// Arguments of `muster config`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster config show configs/quickstart.toml --set train.steps=200
  MUSTER__TRAIN__SEED=7 muster config show configs/quickstart.toml -o json
  muster config schema > run-spec.schema.json")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = "\
Examples:
  muster config show configs/quickstart.toml --set train.steps=200
  MUSTER__TRAIN__SEED=7 muster config show configs/quickstart.toml -o json")]
    /// Print a run spec as it stands once defaults, file, environment and --set are put together
    Show {
        #[command(flatten)]
        spec: SpecArgs,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: SpecOutput,
    },
    /// Print the JSON Schema of run specs
    #[command(after_help = "\
Examples:
  muster config schema > run-spec.schema.json")]
    Schema,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SpecOutput {
    /// As a spec file.
    #[default]
    Toml,
    /// As the coordinator takes it.
    Json,
}

/// Shows a spec or the schema.
pub fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Schema => output::json(&muster_spec::schema()),
        Command::Show { spec, output } => {
            let spec = spec.load()?;
            match output {
                SpecOutput::Json => output::json(&spec),
                SpecOutput::Toml => output::line(muster_spec::to_toml(&spec).trim_end()),
            }
        }
    }
}
