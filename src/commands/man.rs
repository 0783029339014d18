use std::{fs, io, path::PathBuf};

use clap::CommandFactory;

use crate::{cli::Cli, failure::Failure, manual, output};

/// Arguments of `muster man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster man ~/.local/share/man/man1                    # then: man muster-cancel
  muster man | man -l -                                 # the first page only")]
pub struct Args {
    /// Where the pages go, one a command; without it the page of `muster` itself is printed
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Prints or writes the manual.
pub fn run(args: Args) -> Result<(), Failure> {
    let cannot_write = |path: &PathBuf| {
        let path = path.display().to_string();
        move |error: io::Error| {
            Failure::operation(format!("cannot write {path}: {error}"))
                .help("name a directory that you may write to")
        }
    };
    let pages = manual::pages(Cli::command()).map_err(Failure::from)?;
    let Some(directory) = args.directory else {
        return match pages.first() {
            Some((_, page)) => output::raw(page),
            None => Ok(()),
        };
    };
    fs::create_dir_all(&directory).map_err(cannot_write(&directory))?;
    for (name, page) in &pages {
        let path = directory.join(name);
        fs::write(&path, page).map_err(cannot_write(&path))?;
    }
    output::line(format_args!(
        "{}: {} pages",
        directory.display(),
        pages.len()
    ))
}
