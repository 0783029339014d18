use std::path::{Path, PathBuf};

use clap::Subcommand;
use muster_coordinator::{JOURNAL, JournalSummary, backup_journal, check_journal};
use serde_json::json;

use crate::{
    failure::Failure,
    output::{self, Output},
};

/// Arguments of `muster journal`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster journal check /var/lib/muster
  muster journal backup /var/lib/muster /backup/journal-2026-07-01.sqlite")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a journal as a coordinator would on its start, and its file more closely; it may be in use
    #[command(after_help = "\
Examples:
  muster journal check /var/lib/muster
  muster journal check /backup/journal-2026-07-01.sqlite -o json

Exit code 1 where something is wrong with it.")]
    Check {
        /// The journal, or the coordinator's data directory
        path: PathBuf,
        /// How to print what it holds
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Copy a journal, as of one instant, to a new file, and check the copy; it may be in use
    #[command(after_help = "\
Examples:
  muster journal backup /var/lib/muster /backup/journal-2026-07-01.sqlite

To go back to a copy, stop the coordinator, remove journal.sqlite and the files that begin with \
that name from its data directory, and put the copy there as journal.sqlite. What was decided \
after the copy is forgotten: checkpoints that were committed since stay, but the job does not \
know of them.")]
    Backup {
        /// The journal, or the coordinator's data directory
        path: PathBuf,
        /// Where the copy goes; nothing is replaced
        to: PathBuf,
        /// How to print what the copy holds
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Checks or copies.
pub fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Check { path, output } => {
            let path = journal(&path)?;
            let summary = check_journal(&path).map_err(Failure::operation)?;
            print(&path, summary, output)
        }
        Command::Backup { path, to, output } => {
            let summary = backup_journal(&journal(&path)?, &to).map_err(Failure::operation)?;
            print(&to, summary, output)
        }
    }
}

fn print(path: &Path, summary: JournalSummary, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return output::json(&json!({
            "path": path,
            "records": summary.records,
            "jobs": summary.jobs,
            "newest": summary.newest.map(|at| at.to_string()),
        }));
    }
    output::line(format_args!("{}: {}", path.display(), words(summary)))
}

fn journal(path: &Path) -> Result<PathBuf, Failure> {
    let file = if path.is_dir() {
        path.join(JOURNAL)
    } else {
        path.to_path_buf()
    };
    if file.is_file() {
        return Ok(file);
    }
    let message = format!("there is no journal at {}", file.display());
    Err(Failure::operation(message).help("name the journal, or the coordinator's --data-dir"))
}

fn words(summary: JournalSummary) -> String {
    let newest = summary
        .newest
        .map_or_else(|| "never".to_owned(), |at| at.to_string());
    format!(
        "{} records, {} jobs, last written {newest}",
        summary.records, summary.jobs
    )
}
