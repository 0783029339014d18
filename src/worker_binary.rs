use std::path::PathBuf;

use crate::failure::Failure;

/// Names the `muster-worker` binary where it does not lie beside `muster`.
const VARIABLE: &str = "MUSTER_WORKER";

/// The `muster-worker` binary: what `MUSTER_WORKER` names, else the one beside this binary.
pub fn find() -> Result<PathBuf, Failure> {
    let (path, said_by) = match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => (PathBuf::from(path), VARIABLE),
        None => {
            let own = std::env::current_exe().map_err(|error| {
                Failure::operation(format!("cannot find this binary: {error}"))
                    .help(format!("name the worker binary in {VARIABLE}"))
            })?;
            (own.with_file_name("muster-worker"), "beside this binary")
        }
    };
    if path.is_file() {
        return Ok(path);
    }
    let message = format!(
        "there is no worker binary at {} ({said_by})",
        path.display()
    );
    Err(Failure::operation(message).help(format!(
        "build it with `make build`, or name it in {VARIABLE}"
    )))
}
