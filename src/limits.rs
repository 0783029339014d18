use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process have as many files and connections open as it may have at all: the usual bound of 1024 is for programs
/// that still use `select`.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the bound on open files stays as it is");
    }
}
