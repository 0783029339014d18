//! Calls of `muster-worker` for what needs tensors: it answers with one JSON object, or says what is wrong.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{failure::Failure, worker_binary};

/// Runs a command of the worker to its end; returns what it printed.
pub fn call<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Result<Value, Failure> {
    let worker = worker_binary::find()?;
    let ended = Command::new(&worker)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::operation(format!("cannot start {}: {error}", worker.display()))
        })?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        return Err(Failure::of_worker(ended.status.code(), &said));
    }
    serde_json::from_slice(&ended.stdout).map_err(|error| {
        Failure::operation(format!(
            "{} did not answer as this muster expects ({error}); both binaries have to be of one build",
            worker.display()
        ))
    })
}
