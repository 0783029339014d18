//! Checks of the repository itself, as `cargo xtask CHECK`:
//! `deps` (directions between crates), `tidy` (rules about the source text), `linkage` (what the binaries link).

mod deps;
mod graph;
mod linkage;
mod source;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

/// One line that says what was checked, or one line a violation.
type Outcome = Result<String, Vec<String>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["deps"] => deps::check(),
        ["tidy"] => tidy::check(&root()),
        ["linkage"] => linkage::check(&root().join("target/release")),
        ["linkage", directory] => linkage::check(directory.as_ref()),
        _ => {
            eprintln!("usage: cargo xtask (deps | tidy | linkage [DIRECTORY])");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(summary) => {
            println!("{}: {summary}", arguments[0]);
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("{}: {problem}", arguments[0]);
            }
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}
