//! Checks of the repository itself: `cargo xtask deps` (directions between crates) and `cargo xtask linkage` (the
//! control-plane binary needs no libtorch).

mod deps;
mod linkage;

use std::process::ExitCode;

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    let result = match task.as_str() {
        "deps" => deps::check(),
        "linkage" => linkage::check("target/release/muster"),
        _ => Err(vec!["usage: cargo xtask (deps | linkage)".into()]),
    };
    match result {
        Ok(summary) => {
            println!("{task}: {summary}");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("{task}: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}
