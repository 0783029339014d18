//! Checks of the repository itself: `cargo xtask deps` (directions between crates) and `cargo xtask linkage` (the
//! control-plane binary needs no libtorch).

mod deps;
mod linkage;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let path = arguments
        .next()
        .unwrap_or_else(|| "target/release/muster".into());
    let result = match task.as_str() {
        "deps" => deps::check(),
        "linkage" => linkage::check(&path),
        _ => Err(vec!["usage: cargo xtask (deps | linkage [BINARY])".into()]),
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
