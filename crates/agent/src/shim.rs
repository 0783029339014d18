use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt, parent_id},
    path::Path,
    process::{Child, Command},
};

use nix::{
    errno::Errno,
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    cores::stay_on,
    logs,
    process::{Process, pid_of},
    worker_dir::{Exit, Order, WorkerDir, open_log},
};

/// How much of a worker's last words travel with its exit.
const STDERR_TAIL_BYTES: u64 = 4 << 10;
/// Tells a worker whom its life is bound to.
const PARENT: &str = "MUSTER_PARENT_PID";

/// The parent of one worker: starts it in a group of its own, waits for it, ends what is left of its group, and keeps its
/// exit status and last lines in `directory` until an agent has taken note of them.
///
/// It has no part in anything else, so that it can outlive its agent, whatever becomes of that. Signals that ask it to end are
/// meant for the agent, as when Slurm signals all that a job has started: it passes them over, as the worker does. The worker
/// dies with it: one that nobody waits for would hold a slot unseen.
///
/// # Errors
/// If the directory cannot be read or written, or the kernel refuses. What keeps the worker from starting is no error here:
/// it is written down.
pub fn run(directory: &Path) -> io::Result<()> {
    let directory = WorkerDir::at(directory);
    let order = directory.order()?;
    if let Some(agent) = order.bound_to {
        end_with(agent)?;
    }
    if !order.cores.is_empty()
        && let Err(error) = stay_on(&order.cores)
    {
        // Cores may have been taken away since the agent looked.
        eprintln!(
            "the worker is not bound to cores {:?}: {error}",
            order.cores
        );
    }
    // Before the worker is there, so that its end is not missed.
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT, SIGHUP])?;
    let mut child = match spawn(&order) {
        Ok(child) => child,
        Err(error) => {
            let start_error = format!("{} does not start: {error}", order.binary.display());
            return directory.write_exit(&Exit {
                start_error,
                ..Exit::default()
            });
        }
    };
    directory.write_running(Process::of(child.id())?)?;
    for signal in signals.forever() {
        match signal {
            SIGCHLD if has_ended(&child)? => break,
            _ => {}
        }
    }
    // Until it is reaped nobody else can get its id.
    let _ = killpg(pid_of(child.id()), Signal::SIGKILL);
    let status = child.wait()?;
    directory.write_exit(&Exit {
        code: status.code(),
        signal: status.signal(),
        start_error: String::new(),
        stderr_tail: logs::tail_text(&order.log, STDERR_TAIL_BYTES),
    })
}

fn spawn(order: &Order) -> io::Result<Child> {
    use std::os::fd::AsFd;
    let log = open_log(&order.log)?;
    // The lock: held for as long as the worker, or anything that it starts, lives.
    let lock = io::stdin().as_fd().try_clone_to_owned()?;
    Command::new(&order.binary)
        .args(&order.arguments)
        .envs(&order.environment)
        .env(PARENT, std::process::id().to_string())
        .stdin(lock)
        .stderr(log.try_clone()?)
        .stdout(log)
        .process_group(0)
        .spawn()
}

/// Leaves the process to be reaped.
fn has_ended(child: &Child) -> io::Result<bool> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    loop {
        match waitid(Id::Pid(pid_of(child.id())), flags) {
            Ok(WaitStatus::StillAlive) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The thread of the agent that started this process lives as long as the agent does.
fn end_with(agent: u32) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before the kernel was asked.
    match parent_id() == agent {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "the agent (process {agent}) is gone"
        ))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::{Path, PathBuf};

    /// A command that makes this test binary a shim.
    pub(crate) fn command() -> Vec<PathBuf> {
        let own = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
        let name = concat!(module_path!(), "::as_a_process");
        let name = name.split_once("::").map_or(name, |(_, name)| name);
        [own, name.into(), "--exact".into(), "--ignored".into()].into()
    }

    #[test]
    #[ignore = "other tests start it"]
    fn as_a_process() {
        // Without a directory, somebody runs the ignored tests by hand.
        if let Some(directory) = std::env::args()
            .next_back()
            .filter(|last| last.starts_with('/'))
        {
            super::run(Path::new(&directory)).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
