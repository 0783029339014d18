//! Stamps the binary with the commit it was built from and the protocol it speaks.

use std::{fs, path::Path, process::Command};

const PROTOCOL: &str = "proto/muster/v1/job.proto";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={PROTOCOL}");
    let protocol = fs::read_to_string(PROTOCOL)
        .ok()
        .as_deref()
        .and_then(package)
        .map_or_else(|| "unknown".to_owned(), str::to_owned);
    println!("cargo:rustc-env=MUSTER_PROTOCOL={protocol}");

    // The commit changes when HEAD moves; both are files of git's own directory, wherever that lies.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    // A source archive has no commit.
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=MUSTER_COMMIT={commit}");
}

/// The package that a `.proto` file declares.
fn package(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("package "))
        .map(|rest| rest.trim_end_matches(';').trim())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
